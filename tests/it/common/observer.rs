//! A running `varta-fleet` and its events.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;

use super::{Agent, Event, PROGRAM, T, Table, ns, wait_for};

/// Configuration of an observer that acts: one action, which succeeds at once.
pub const ACTS: &str = "[[action]]\nname = \"act\"\non = [\"stall\", \"exit\"]\nmatch = { comm = \"*\" }\nany-user = true\n\
                    certain = false\nafter = \"0s\"\nrun = [\"/bin/true\"]\n";

/// How to run the observer.
#[derive(Clone, Debug)]
pub struct Options {
    pub shards: u32,
    pub threshold: Duration,
    pub agents_max: u32,
    /// `net.unix.max_dgram_qlen` in a network namespace of the observer's own; needs root.
    pub queue_limit: Option<u32>,
    /// Additional configuration in TOML. Its `[[shard]]` blocks replace `shards`.
    pub config: String,
    /// Where events go; by default to a file that this fixture reads.
    pub events: Option<PathBuf>,
    /// Shell commands that run before the observer, in a mount namespace of its own; needs root.
    pub mounts: Option<String>,
    /// Additional arguments of `unshare`, such as `--pid --fork --kill-child`; needs root.
    pub unshare: &'static str,
    /// The user that runs a copy of the program; needs root.
    pub uid: Option<u32>,
    pub arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 2,
            threshold: T,
            agents_max: 1000,
            queue_limit: None,
            config: String::new(),
            events: None,
            mounts: None,
            unshare: "",
            uid: None,
            arguments: Vec::new(),
        }
    }
}

/// A temporary directory that contains the runtime directory. It outlives an observer, for the next one.
#[derive(Debug)]
pub struct Place {
    base: TempDir,
    runs: u32,
}

impl Place {
    pub fn new() -> Self {
        let base = tempfile::tempdir().expect("a temporary directory");
        // Agents of other users must reach the sockets.
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self { base, runs: 0 }
    }

    /// The directory for files of the test.
    pub fn base(&self) -> &Path {
        self.base.path()
    }

    pub fn dir(&self) -> PathBuf {
        self.base().join("run")
    }

    pub fn socket(&self, shard: u32) -> PathBuf {
        self.dir().join(format!("shard-{shard}.sock"))
    }
}

/// A running observer. Dropped without [`Observer::stop`], as in a failed test, it is killed and its events
/// are printed.
#[derive(Debug)]
pub struct Observer {
    place: Option<Place>,
    child: Child,
    /// The pid of the observer: the child, or the child's child.
    pid: u32,
    log: Log,
    stdout: PathBuf,
    stderr: PathBuf,
    is_over: bool,
}

/// What remains of an observer that ended.
#[derive(Debug)]
pub struct Ended {
    pub place: Place,
    /// All events.
    pub events: Vec<Event>,
    pub stderr: String,
    /// Time from SIGTERM, or from the start of the wait, to the exit.
    pub took: Duration,
    pub stdout: String,
}

impl Observer {
    /// Starts an observer in a new directory and waits until it is ready.
    pub fn start(options: Options) -> Self {
        Self::start_in(Place::new(), options)
    }

    /// Starts an observer in the directory of an earlier one.
    pub fn start_in(mut place: Place, options: Options) -> Self {
        place.runs += 1;
        let file = |name: &str| place.base().join(format!("{name}-{}", place.runs));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        let events = options.events.clone().unwrap_or_else(|| file("events"));
        let mut command = command(&place, &options, &events);
        command.stdin(Stdio::null());
        command.stdout(File::create(&stdout).expect("create a file"));
        command.stderr(File::create(&stderr).expect("create a file"));
        follow_parent(&mut command);
        let child = command.spawn().expect("start the observer");
        // The path is one in the observer's mount namespace.
        let seen_from_here = match options.mounts {
            Some(_) => {
                let inside = events.strip_prefix("/").expect("an absolute path");
                Path::new("/proc").join(child.id().to_string()).join("root").join(inside)
            }
            None => events,
        };
        let log = Log::new(seen_from_here);
        let pid = child.id();
        let mut observer = Self { place: Some(place), child, pid, log, stdout, stderr, is_over: false };
        let shards = options.shards;
        let expected = format!("ready shards={shards} dir={}\n", observer.place().dir().display());
        wait_for("the ready line", || {
            observer.assert_lives();
            let printed = fs::read_to_string(&observer.stdout).expect("read its output");
            // The line goes to standard error if standard output is for events.
            (printed.contains(&expected) || observer.stderr().contains(&expected)).then_some(())
        });
        if options.unshare.contains("--fork") {
            observer.pid = only_child_of(pid);
        }
        observer
    }

    pub fn place(&self) -> &Place {
        self.place.as_ref().expect("until it is stopped")
    }

    pub fn dir(&self) -> PathBuf {
        self.place().dir()
    }

    pub fn socket(&self, shard: u32) -> PathBuf {
        self.place().socket(shard)
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        super::signal(self.pid, signal);
        if signal == Signal::STOP {
            wait_for("every thread of the observer to stop", || self.is_stopped().then_some(()));
        }
    }

    /// Whether all threads are stopped: SIGSTOP reaches one after another.
    fn is_stopped(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).expect("list its threads");
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    }

    /// What the observer wrote to standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).expect("read its errors")
    }

    /// The counters now, as SIGUSR1 prints them.
    pub fn table(&mut self) -> Table {
        let (_, before) = Table::last(&self.stderr());
        self.signal(Signal::USR1);
        wait_for("the table of counters", || {
            self.assert_lives();
            let (table, count) = Table::last(&self.stderr());
            table.filter(|_| count > before)
        })
    }

    /// All events so far.
    pub fn events(&mut self) -> &[Event] {
        self.log.read();
        &self.log.events
    }

    /// Waits for an event of this kind and process that no earlier call returned.
    ///
    /// # Panics
    /// If there is none within this time.
    pub fn expect(&mut self, kind: &str, pid: u32, within: Duration) -> Event {
        self.expect_that(&format!("{kind} of {pid}"), within, |event| event.is(kind, pid))
    }

    /// Waits for an event of this kind that no earlier call returned.
    pub fn expect_kind(&mut self, kind: &str, within: Duration) -> Event {
        self.expect_that(kind, within, |event| event.kind() == kind)
    }

    /// Waits for an event that matches and that no earlier call returned.
    pub fn expect_that(&mut self, what: &str, within: Duration, is: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + within;
        loop {
            // Checked first, so that the last read happens after the deadline.
            let is_last = Instant::now() >= deadline;
            self.log.read();
            if let Some(event) = self.log.take(&is) {
                return event;
            }
            self.assert_lives();
            assert!(!is_last, "no {what} within {within:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asserts that no event of this kind and process was reported so far.
    pub fn none_of(&mut self, kind: &str, pid: u32) {
        let found = self.count(kind, pid);
        assert_eq!(found, 0, "{kind} of {pid} was told: {}", self.all_about(pid));
    }

    /// Asserts that each reported stall of this agent covers a time in which the agent, by its own report,
    /// did not beat: on a busy machine a process may wait for a core longer than a threshold.
    pub fn no_false_stall(&mut self, agent: &mut Agent) {
        let pid = agent.pid();
        if self.count("stall", pid) == 0 {
            return;
        }
        let report = agent.report();
        let stalls = self.log.events.iter().filter(|event| event.is("stall", pid));
        let longest = stalls.map(|stall| stall.u64("silent_ns")).max().expect("there is one");
        // The silence ends when the next beat arrives, the gap when the agent sends it.
        assert!(longest <= ns(report.gap + T / 4), "{report:?}, but told: {}", self.all_about(pid));
    }

    /// The number of events of this kind and process so far.
    pub fn count(&mut self, kind: &str, pid: u32) -> usize {
        self.events().iter().filter(|event| event.is(kind, pid)).count()
    }

    fn all_about(&self, pid: u32) -> String {
        let lines = self.log.events.iter().filter(|event| event.pid() == Some(pid));
        lines.map(|event| format!("\n{event}")).collect()
    }

    /// Reads events for this long, in tests of events that must not come.
    pub fn watch(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.log.read();
            self.assert_lives();
            thread::sleep(Duration::from_millis(5));
        }
        self.log.read();
    }

    /// Ends the observer by SIGTERM. It must exit 0, remove its files, and have numbered its events from
    /// `start` to `stop` without a gap.
    pub fn stop(mut self) -> Ended {
        let (status, took) = self.end();
        assert_eq!(status.code(), Some(0), "{status}: {}", self.stderr());
        self.log.read();
        self.log.assert_whole();
        let left: Vec<_> = fs::read_dir(self.dir())
            .expect("the directory stays")
            .map(|entry| entry.expect("list the directory").file_name())
            .filter(|name| name != "lock" && name != "roster" && name != "evidence" && name != "orders")
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        self.into_ended(took)
    }

    /// Ends an observer that cannot write its events by SIGTERM. It must exit with this code; its events are
    /// not checked.
    pub fn stop_without_events(mut self, code: i32) -> Ended {
        let (status, took) = self.end();
        assert_eq!(status.code(), Some(code), "{status}: {}", self.stderr());
        self.into_ended(took)
    }

    /// Waits until the observer ends by itself. It must exit with this code, and its events must be complete.
    pub fn ends_by_itself(mut self, code: i32) -> Ended {
        let began = Instant::now();
        let status = wait_for("the end of the observer", || self.child.try_wait().expect("it is our child"));
        assert_eq!(status.code(), Some(code), "{status}: {}", self.stderr());
        self.log.read();
        self.log.assert_whole();
        self.into_ended(began.elapsed())
    }

    /// Ends the observer by SIGKILL, which leaves its files behind.
    pub fn kill(mut self) -> Place {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
        self.is_over = true;
        self.place.take().expect("taken only here")
    }

    fn end(&mut self) -> (ExitStatus, Duration) {
        self.assert_lives();
        let began = Instant::now();
        self.signal(Signal::TERM);
        let status = wait_for("the end of the observer", || self.child.try_wait().expect("it is our child"));
        (status, began.elapsed())
    }

    fn into_ended(mut self, took: Duration) -> Ended {
        self.is_over = true;
        let stderr = self.stderr();
        let stdout = fs::read_to_string(&self.stdout).expect("read its output");
        let place = self.place.take().expect("taken only here");
        Ended { place, events: std::mem::take(&mut self.log.events), stderr, took, stdout }
    }

    fn assert_lives(&mut self) {
        if let Some(status) = self.child.try_wait().expect("it is our child") {
            panic!("the observer ended: {status}");
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.log.show();
            eprintln!("--- standard error of the observer\n{}---", self.stderr());
        }
    }
}

/// Fails a test that would show nothing without root.
///
/// # Panics
/// If the effective user is not root.
pub fn needs_root(what: &str) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root: {what}; run the tests as root, as CI does (in a container, say)"
    );
}

/// The only child of a process, such as of `unshare --fork`.
pub fn only_child_of(pid: u32) -> u32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    text.trim().parse().unwrap_or_else(|_| panic!("not one process in {path}: {text:?}"))
}

/// The command that runs the program in its namespaces.
fn command(place: &Place, options: &Options, events: &Path) -> Command {
    let mut arguments: Vec<String> = ["run", "--tick", "10ms", "--max-delay", "1ms", "--print-ready"]
        .iter()
        .map(|&argument| argument.to_owned())
        .collect();
    let mut set = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    set("--dir", place.dir().display().to_string());
    set("--threshold", format!("{}ms", options.threshold.as_millis()));
    set("--agents-max", options.agents_max.to_string());
    set("--events", events.display().to_string());
    set("--events-format", "jsonl".to_owned());
    if !options.config.contains("[[shard]]") {
        set("--shards", options.shards.to_string());
    }
    if !options.config.is_empty() {
        let file = place.base().join("varta.toml");
        fs::write(&file, &options.config).expect("write the configuration");
        set("--config", file.display().to_string());
    }
    arguments.extend(options.arguments.clone());

    let mut namespaces = Vec::new();
    let mut before = String::from("set -e\n");
    if let Some(limit) = options.queue_limit {
        needs_root("it sets the length of queues in a network namespace of its own");
        namespaces.push("--net");
        before += &format!("echo {limit} > /proc/sys/net/unix/max_dgram_qlen\n");
    }
    if let Some(mounts) = &options.mounts {
        needs_root("it mounts a small disk in a mount namespace of its own");
        namespaces.push("--mount");
        before += mounts;
        before.push('\n');
    }
    if !options.unshare.is_empty() {
        needs_root("it runs the observer in namespaces of its own");
        namespaces.extend(options.unshare.split_whitespace());
    }
    let mut become_user = String::new();
    let mut program = PathBuf::from(PROGRAM);
    if let Some(uid) = options.uid {
        needs_root("it runs the observer as another user");
        // The user cannot read the original's directory, and must be able to write the events.
        let copy = place.base().join("varta-fleet");
        super::copy_program(&program, &copy);
        std::os::unix::fs::chown(place.base(), Some(uid), Some(uid)).expect("give the directory away");
        program = copy;
        become_user = format!("setpriv --reuid {uid} --regid {uid} --clear-groups ");
    }
    let mut command = if namespaces.is_empty() && become_user.is_empty() {
        Command::new(program)
    } else {
        let mut command = Command::new("unshare");
        let script = format!("{before}exec {become_user}\"$0\" \"$@\"");
        command.args(namespaces).args(["sh", "-c", &script]).arg(program);
        command
    };
    command.args(arguments).env_clear().env("VARTA_CONFIG", "/dev/null");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    command.env("RUST_BACKTRACE", "1");
    // The options that `scripts/sanitize` sets.
    if let Ok(mut sanitizer) = std::env::var("ASAN_OPTIONS") {
        if options.unshare.contains("--pid") {
            // In a pid namespace LeakSanitizer does not find the threads by their ids, and reports what they
            // own as leaked.
            sanitizer += ":detect_leaks=0";
        }
        command.env("ASAN_OPTIONS", sanitizer);
    }
    command
}

/// Has the kernel kill the observer when the test ends in any way.
#[expect(unsafe_code, reason = "no safe way to run something between fork and exec")]
pub fn follow_parent(command: &mut Command) {
    // SAFETY: one system call, which takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

/// The event file, as far as it has been read.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// Kept open: the path, or the file system it is on, may vanish with the observer.
    file: Option<File>,
    /// The beginning of a line that is not yet complete.
    rest: Vec<u8>,
    pub events: Vec<Event>,
    taken: Vec<bool>,
}

impl Log {
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, rest: Vec::new(), events: Vec::new(), taken: Vec::new() }
    }

    pub fn read(&mut self) {
        if self.file.is_none() {
            // A device has no end to read to.
            let file = File::open(&self.path).ok();
            self.file = file.filter(|file| file.metadata().is_ok_and(|found| found.is_file()));
        }
        let Some(file) = &mut self.file else { return };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("read the events");
        self.rest.append(&mut bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8(line).expect("events are text");
            self.events.push(Event::parse(line.trim_end()));
            self.taken.push(false);
        }
    }

    pub fn take(&mut self, is: &impl Fn(&Event) -> bool) -> Option<Event> {
        let at = (0..self.events.len()).find(|&at| !self.taken[at] && is(&self.events[at]))?;
        self.taken[at] = true;
        Some(self.events[at].clone())
    }

    /// Asserts that events are numbered from 1 without a gap but those of `lost` lines. Beats have no number.
    fn assert_whole(&self) {
        assert!(self.rest.is_empty(), "half a line: {:?}", String::from_utf8_lossy(&self.rest));
        let mut next = 1;
        for event in &self.events {
            match event.kind() {
                "beat" => assert!(!event.has("seq"), "{event}"),
                "lost" => {
                    assert_eq!(event.u64("from_seq"), next, "{event}");
                    next = event.u64("to_seq") + 1;
                }
                _ => {
                    assert_eq!(event.u64("seq"), next, "{event}");
                    next += 1;
                }
            }
        }
        let kinds = |event: Option<&Event>| event.map(|event| event.kind().to_owned());
        assert_eq!(kinds(self.events.first()).as_deref(), Some("start"));
        assert_eq!(kinds(self.events.last()).as_deref(), Some("stop"));
    }

    pub fn show(&mut self) {
        const SHOWN: usize = 60;
        self.read();
        let left_out = self.events.len().saturating_sub(SHOWN);
        eprintln!("--- events, without the first {left_out}");
        for event in &self.events[left_out..] {
            eprintln!("{event}");
        }
    }
}
