//! Outputs of events: a standard output whose reader exits, a log that is renamed under the observer.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::http::Connection;
use crate::common::{Agent, AgentOptions, Event, Observer, Options, Place, Table, program, wait_for};
use rustix::process::Signal;

/// An observer that writes its events to a pipe. Killed on drop.
struct Piped {
    place: Place,
    child: Child,
}

impl Piped {
    fn start() -> Self {
        let place = Place::new();
        let stderr = File::create(place.base().join("stderr")).expect("create a file");
        let child = program()
            .args(["run", "--shards", "1", "--agents-max", "100", "--print-ready", "--events", "-", "--dir"])
            .arg(place.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("start the observer");
        Self { place, child }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.place.base().join("stderr")).expect("read its errors")
    }

    fn end(&mut self) -> Option<i32> {
        crate::common::signal(self.child.id(), Signal::TERM);
        self.child.wait().expect("it is our child").code()
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn fault_73_once_the_reader_of_standard_output_is_gone_it_is_said_and_counted() {
    let mut observer = Piped::start();
    let mut stdout = BufReader::new(observer.child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("the first event");
    assert_eq!(Event::parse(line.trim_end()).kind(), "start");
    drop(stdout);
    let mut agent = program()
        .args(["load", "--agents", "3", "--rate", "30", "--for", "1m", "--dir"])
        .arg(observer.place.dir())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start agents");
    let said = "cannot write events: the reader of standard output is gone";
    wait_for("a word on standard error", || observer.stderr().contains(said).then_some(()));
    let fleet = wait_for("events that are counted as dropped", || {
        let fleet = Connection::control(&observer.place.dir()).get("/api/v1/fleet", &[]).json();
        // Three `up` and the failure itself.
        (fleet["events_dropped"].as_u64() >= Some(4)).then_some(fleet)
    });
    assert!(fleet["problems"].to_string().contains(said), "{fleet}");
    let status =
        program().args(["status", "--dir"]).arg(observer.place.dir()).output().expect("ask how it is");
    assert!(String::from_utf8_lossy(&status.stdout).contains("reader of standard output is gone"));
    agent.kill().expect("it is our child");
    agent.wait().expect("it is our child");
    assert_eq!(observer.end(), Some(1), "a run that lost events must not look like one that ended well");
    // The final table has the warning, too.
    let warnings = observer.stderr().matches(&format!("warning: {said}")).count();
    assert_eq!(warnings, 1, "{}", observer.stderr());
    assert!(!observer.stderr().contains("they wait"), "{}", observer.stderr());
}

/// As logrotate does with `create`, and with SIGHUP every other time.
#[test]
fn fault_70_no_event_is_lost_while_the_log_is_rotated_under_load() {
    const ROTATIONS: usize = 50;
    let place = Place::new();
    let path = place.base().join("log");
    let options = Options { events: Some(path.clone()), agents_max: 100, ..Options::default() };
    let mut observer = Observer::start_in(place, options);
    let mut agents = Agent::start_many(&observer, (0..4).map(|_| AgentOptions::default()));
    let aside = |rotation: usize| path.with_extension(rotation.to_string());
    let inode =
        |path: &Path| fs::metadata(path).ok().map(|found| std::os::unix::fs::MetadataExt::ino(&found));
    for rotation in 0..ROTATIONS {
        let old = inode(&path);
        fs::rename(&path, aside(rotation)).expect("rename the log");
        if rotation % 2 == 0 {
            observer.signal(Signal::HUP);
        }
        let agent = &mut agents[rotation % 4];
        let word = if rotation / 4 % 2 == 0 { "critical" } else { "ok" };
        agent.ask(format_args!("status {word}"));
        agent.beat();
        wait_for("the next log", || inode(&path).filter(|new| Some(*new) != old));
    }
    drop(agents);
    wait_for("the exits", || {
        let table: Table = observer.table();
        (table.shard(0, "exits") + table.shard(1, "exits") == 4).then_some(())
    });
    let _ended = observer.stop_without_events(0);
    let logs = (0..ROTATIONS).map(aside).chain([path.clone()]);
    let text: String = logs.map(|log| fs::read_to_string(log).expect("read a log")).collect();
    let events: Vec<Event> = text.lines().map(Event::parse).collect();
    let seqs: Vec<u64> = events.iter().map(|event| event.u64("seq")).collect();
    assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
    assert_eq!(events.last().map(Event::kind), Some("stop"));
    assert!(seqs.len() > ROTATIONS, "there was load");
}

/// The command that logrotate runs after a rotation signals the observer, and no process that the signal
/// would end.
#[test]
fn fault_70_a_rotation_signals_the_observer_and_no_other_command() {
    let snippet = include_str!("../../scripts/deploy/logrotate");
    let line = snippet.lines().find(|line| line.contains("pkill")).expect("it sends a signal");
    let pattern = line.split('\'').nth(1).expect("a pattern in quotes");
    let mut observer = Piped::start();
    let dir = observer.place.dir();
    wait_for("the observer", || dir.join("fleet.json").exists().then_some(()));
    let mut reader = program()
        .args(["events", "--follow", "--after", "0", "--dir"])
        .arg(&dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a reader");
    let mut events = BufReader::new(reader.stdout.take().expect("a pipe"));
    events.read_line(&mut String::new()).expect("it reads events");
    let found = Command::new("pgrep").args(["-f", pattern]).output().expect("pgrep is in procps");
    let found: Vec<u32> =
        String::from_utf8_lossy(&found.stdout).lines().map(|pid| pid.parse().expect("a pid")).collect();
    assert!(found.contains(&observer.child.id()), "{pattern} finds {found:?}");
    assert!(!found.contains(&reader.id()), "{pattern} finds a reader of events");
    reader.kill().expect("it is our child");
    reader.wait().expect("it is our child");
    observer.end();
}
