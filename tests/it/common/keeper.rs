//! An observer under a service manager that keeps its descriptors: it can end in any way, and the next one goes on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use serde_json::Value;

use super::http::Connection;
use super::observer::Log;
use super::victim::Live;
use super::{Agent, AgentOptions, Event, PROGRAM, Place, python};

/// The service manager, the observer, and the log of this and all observers before.
pub struct Keeper {
    place: Place,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    log: Log,
    /// While it runs.
    pub pid: Option<u32>,
}

impl Keeper {
    /// Starts an observer with these arguments of `run`, besides its directory and its log.
    pub fn start(arguments: &[&str]) -> Self {
        let place = Place::new();
        let events = place.base().join("events");
        let mut command = super::program_by(python());
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/common/keeper.py"));
        command.arg(place.base().join("notify")).args([PROGRAM, "run", "--dir"]).arg(place.dir());
        command.arg("--events").arg(&events).args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(place.base().join("stderr")).expect("create a file"))
            .spawn()
            .expect("start the service manager");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let log = Log::new(events);
        let mut keeper = Self { place, child, stdin, stdout: BufReader::new(stdout), log, pid: None };
        keeper.go_on();
        keeper
    }

    fn ask(&mut self, command: &str) -> String {
        let stdin = self.stdin.as_mut().expect("until it is dropped");
        writeln!(stdin, "{command}").expect("the service manager reads");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("the service manager answers");
        assert!(!answer.is_empty(), "the service manager ended: {}", self.stderr());
        answer.trim_end().to_owned()
    }

    /// Starts the next observer, which is ready afterwards.
    pub fn go_on(&mut self) {
        let answer = self.ask("start");
        let pid = answer.strip_prefix("ready ").and_then(|pid| pid.parse().ok());
        self.pid = Some(pid.unwrap_or_else(|| panic!("{answer}: {}", self.stderr())));
    }

    /// Ends the observer by this signal; returns its exit code, or the signal as a negative number.
    pub fn end(&mut self, signal: Signal) -> i32 {
        self.pid = None;
        let answer = self.ask(&format!("end {}", signal.as_raw()));
        let status = answer.strip_prefix("exited ").and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("{answer}"))
    }

    pub fn signal(&self, signal: Signal) {
        super::signal(self.pid.expect("it runs"), signal);
    }

    /// What the observer answers to a GET request on its control socket.
    pub fn get(&self, path: &str) -> Value {
        Connection::control(&self.dir()).get(path, &["Connection: close"]).json()
    }

    /// The names of what is kept.
    pub fn stored(&mut self) -> Vec<String> {
        self.ask("stored").split_whitespace().map(str::to_owned).collect()
    }

    /// Forgets what is kept by this name.
    pub fn drop_stored(&mut self, name: &str) {
        assert_eq!(self.ask(&format!("drop {name}")), "dropped");
    }

    /// Overwrites the begin of the memory of this name.
    pub fn spoil(&mut self, name: &str) {
        assert_eq!(self.ask(&format!("spoil {name}")), "spoilt");
    }

    pub fn dir(&self) -> PathBuf {
        self.place.dir()
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.place.base().join("stderr")).expect("its messages")
    }

    /// An agent that is known to be up.
    pub fn agent(&mut self, options: AgentOptions) -> Agent {
        let agent = Agent::start_in(&self.place.dir(), options);
        self.expect("up", agent.pid());
        agent
    }

    /// Waits for an event of this kind and process that no earlier call returned.
    pub fn expect(&mut self, kind: &str, pid: u32) -> Event {
        self.expect_that(&format!("{kind} of {pid}"), |event| event.is(kind, pid))
    }

    /// Waits for an event that matches and that no earlier call returned.
    pub fn expect_that(&mut self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + super::SOON;
        loop {
            let is_last = Instant::now() >= deadline;
            self.log.read();
            if let Some(event) = self.log.take(&is) {
                return event;
            }
            assert!(!is_last, "no {what}; {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The events so far, each once, as a reader takes them: what is marked as repeated and has a number that was
    /// seen is skipped. What is repeated may also be seen for the first time.
    pub fn events_once(&mut self) -> Vec<Event> {
        let mut last = 0;
        let is_new = |event: &&Event| {
            let seq = event.u64("seq");
            let is_new = !event.has("again") || seq > last;
            last = last.max(seq);
            is_new
        };
        self.events().iter().filter(is_new).cloned().collect()
    }

    /// The number of events of this kind and process so far, each counted once.
    pub fn count(&mut self, kind: &str, pid: u32) -> usize {
        self.events_once().iter().filter(|event| event.is(kind, pid)).count()
    }

    /// Asserts that events are numbered from 1 without a gap, each once, but those repeated after a crash: they are
    /// marked, and the same as before.
    pub fn assert_whole(&mut self) {
        let events = self.events().to_vec();
        let mut next = 1;
        for event in &events {
            let seq = event.u64("seq");
            if event.has("again") && seq < next {
                let first = events.iter().find(|other| other.u64("seq") == seq).expect("it was told before");
                assert!(event.kind() == first.kind() && event.pid() == first.pid(), "{event} was {first}");
                continue;
            }
            assert_eq!(seq, next, "{event}");
            next += 1;
        }
    }
}

impl Live for Keeper {
    fn events(&mut self) -> &[Event] {
        self.log.read();
        &self.log.events
    }

    fn reload(&self) {
        self.signal(Signal::HUP);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It ends at the end of its input, and the observer with it.
        drop(self.stdin.take());
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.log.show();
            eprintln!("--- standard error of the observers\n{}---", self.stderr());
        }
    }
}
