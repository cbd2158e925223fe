//! A successor goes on for an observer that still runs.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use rustix::process::Signal;

use crate::act::{Ground, acted, steps};
use crate::common::history::History;
use crate::common::http::Connection;
use crate::common::{
    Agent, AgentOptions, Chance, Client, Event, Live, Log, PROGRAM, Place, SOON, State, Victim, copy_program,
    judge_all, live, needs_root, program, program_by, setting, signal, wait_for,
};

const RUN: [&str; 6] = ["--shards", "2", "--threshold", "1s", "--agents-max", "1000"];

/// An observer in a directory, and those that took over from it, which write the same log.
struct Chain {
    place: Place,
    log: Log,
    child: Child,
    arguments: Vec<String>,
    /// Most descriptors of those that are started.
    files_max: Option<u32>,
    runs: u32,
}

impl Chain {
    fn start(arguments: &[&str]) -> Self {
        Self::start_in(Place::new(), arguments)
    }

    fn start_in(place: Place, arguments: &[&str]) -> Self {
        let log = Log::new(place.base().join("events"));
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        // Replaced at once.
        let child = program().arg("--version").stdout(Stdio::null()).spawn().expect("start the program");
        let mut chain = Self { place, log, child, arguments, files_max: None, runs: 0 };
        chain.child.wait().expect("it is our child");
        chain.child = chain.spawn(&[]);
        chain.is_ready();
        chain
    }

    /// Starts one more.
    fn spawn(&mut self, more: &[&str]) -> Child {
        self.runs += 1;
        let stderr = File::create(self.place.base().join(format!("stderr-{}", self.runs)));
        let mut command = match self.files_max {
            None => program(),
            Some(max) => {
                let mut command = program_by("prlimit");
                command.arg(format!("--nofile={max}")).arg(PROGRAM);
                command
            }
        };
        command.args(["run", "--print-ready", "--dir"]).arg(self.place.dir());
        command.args(&self.arguments).args(more);
        if !self.arguments.contains(&"--events".to_owned()) {
            command.arg("--events").arg(self.place.base().join("events"));
        }
        let stdout = File::create(self.place.base().join(format!("stdout-{}", self.runs)));
        command.stdout(stdout.expect("create a file")).stderr(stderr.expect("create a file"));
        command.spawn().expect("start an observer")
    }

    /// The last one observes.
    fn is_ready(&self) {
        let path = self.place.base().join(format!("stdout-{}", self.runs));
        wait_for("the ready line", || {
            fs::read_to_string(&path).is_ok_and(|text| text.starts_with("ready ")).then_some(())
        });
    }

    fn takes_over(&mut self, more: &[&str]) {
        let more: Vec<&str> = ["--takeover"].into_iter().chain(more.iter().copied()).collect();
        let successor = self.spawn(&more);
        let mut before = std::mem::replace(&mut self.child, successor);
        self.is_ready();
        assert_eq!(ended(&mut before), Some(0), "{}", self.messages());
    }

    /// A successor that fails; what it says.
    fn refuses(&mut self, more: &[&str], code: i32) -> String {
        let more: Vec<&str> = ["--takeover"].into_iter().chain(more.iter().copied()).collect();
        let mut successor = self.spawn(&more);
        assert_eq!(ended(&mut successor), Some(code), "{}", self.messages());
        self.last_messages()
    }

    fn last_messages(&self) -> String {
        fs::read_to_string(self.place.base().join(format!("stderr-{}", self.runs))).expect("its messages")
    }

    fn messages(&self) -> String {
        let files = (1..=self.runs).map(|run| self.place.base().join(format!("stderr-{run}")));
        files.map(|file| fs::read_to_string(file).unwrap_or_default()).collect()
    }

    fn agent(&mut self) -> Agent {
        let agent = Agent::start_in(&self.place.dir(), AgentOptions::default());
        self.expect("up", agent.pid());
        agent
    }

    fn count(&mut self, kind: &str, pid: u32) -> usize {
        self.events().iter().filter(|event| event.is(kind, pid)).count()
    }

    fn expect(&mut self, kind: &str, pid: u32) -> Event {
        self.expect_that(&format!("{kind} of {pid}"), |event| event.is(kind, pid))
    }

    fn expect_that(&mut self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + SOON;
        loop {
            let is_last = Instant::now() >= deadline;
            self.log.read();
            if let Some(event) = self.log.take(&is) {
                return event;
            }
            assert!(!is_last, "no {what}; {}", self.messages());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The observer goes on: it sees an agent come, stop and return.
    fn goes_on(&mut self) {
        let mut agent = self.agent();
        agent.signal(Signal::STOP);
        self.expect("stall", agent.pid());
        agent.signal(Signal::CONT);
        self.expect("resume", agent.pid());
        agent.signal(Signal::KILL);
        agent.wait();
        self.expect("exit", agent.pid());
    }

    /// It stops in order and leaves nothing; each event has its number, once.
    fn stops(mut self) {
        signal(self.child.id(), Signal::TERM);
        assert_eq!(ended(&mut self.child), Some(0), "{}", self.messages());
        let mut left: Vec<_> = fs::read_dir(self.place.dir())
            .expect("the directory stays")
            .map(|entry| entry.expect("list it").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["lock", "roster"]);
        let events = self.events();
        assert!(events.iter().all(|event| !event.has("again")), "nothing is repeated");
        for (at, event) in (1..).zip(events) {
            assert_eq!(event.u64("seq"), at, "{event}");
        }
        assert_eq!(events.last().map(Event::kind), Some("stop"));
    }
}

impl Live for Chain {
    fn events(&mut self) -> &[Event] {
        self.log.read();
        &self.log.events
    }

    fn reload(&self) {
        signal(self.child.id(), Signal::HUP);
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ended(child: &mut Child) -> Option<i32> {
    wait_for("the end of an observer", || child.try_wait().expect("it is our child")).code()
}

/// What died just before the take-over is counted once.
#[test]
fn a_successor_has_the_history_whole() {
    let mut chain = Chain::start(&RUN);
    let mut victims: Vec<Agent> = (0..4).map(|_| chain.agent()).collect();
    let shown = |chain: &Chain| History::of(&chain.place.dir());
    wait_for("a second", || (shown(&chain).seconds() > 1).then_some(()));
    for _ in 0..2 {
        let mut victim = victims.pop().expect("one more");
        victim.signal(Signal::KILL);
        victim.wait();
        chain.expect("exit", victim.pid());
        chain.takes_over(&[]);
    }
    let seconds = shown(&chain).seconds();
    wait_for("the history to go on", || (shown(&chain).seconds() > seconds + 1).then_some(()));
    assert_eq!(shown(&chain).died(), 2);
    assert!(shown(&chain).ends_with(2, 0));
    assert!(!chain.messages().contains("history"), "{}", chain.messages());
    chain.stops();
}

/// A successor that a test plays.
struct Scripted(OwnedFd);

impl Scripted {
    fn connect(dir: &Path) -> Self {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("a socket");
        connect(&socket, &SocketAddrUnix::new(dir.join("takeover.sock")).expect("short enough"))
            .expect("it listens");
        Self(socket)
    }

    fn say(&self, text: &str) {
        let slices = [IoSlice::new(text.as_bytes())];
        let mut none = SendAncillaryBuffer::default();
        sendmsg(&self.0, &slices, &mut none, SendFlags::NOSIGNAL).expect("it listens");
    }

    /// The next message; empty if it hung up.
    fn hear(&self) -> (String, Option<OwnedFd>) {
        let mut bytes = [0; 1024];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let received =
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let length = match received {
            Err(rustix::io::Errno::CONNRESET) => 0,
            received => received.expect("a message").bytes,
        };
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        (String::from_utf8_lossy(&bytes[..length]).into_owned(), fd)
    }

    /// Up to the last descriptor. Returns the names, and the journal.
    fn begin(dir: &Path) -> (Self, Vec<String>, File) {
        let this = Self::connect(dir);
        this.say("varta takeover 1");
        let (mut names, mut journal) = (Vec::new(), None);
        loop {
            match this.hear() {
                (text, None) if text.starts_with("end ") => break,
                (text, Some(fd)) => {
                    let name = text.split(' ').nth(1).expect("a name").to_owned();
                    if name == "fleet" {
                        journal = Some(File::from(fd));
                    }
                    names.push(name);
                }
                (text, None) => panic!("{text}"),
            }
        }
        (this, names, journal.expect("a journal"))
    }

    /// Is ready until it is offered something. Returns the number of the offer.
    fn offered(&self) -> u64 {
        wait_for("an offer", || {
            self.say("ready");
            let (text, _) = self.hear();
            match text.split_once(' ') {
                Some(("offered", number)) => Some(number.parse().expect("a number")),
                Some(("busy", _)) => None,
                _ => panic!("{text}"),
            }
        })
    }
}

/// The word of the journal in which the offer is decided.
const OFFER_AT: u64 = 19 * 8;

fn word_of(journal: &File) -> u64 {
    let mut bytes = [0; 8];
    journal.read_exact_at(&mut bytes, OFFER_AT).expect("it is that long");
    u64::from_ne_bytes(bytes)
}

#[test]
fn fault_27_five_successors_in_a_row_miss_nothing_and_tell_nothing_twice() {
    let mut chain = Chain::start(&RUN);
    let dir = chain.place.dir();
    let client = |at: usize| Client::ALL[at % Client::ALL.len()];
    let options = |at| AgentOptions { client: client(at), ..AgentOptions::default() };
    let mut beating: Vec<Agent> = (0..9).map(|at| Agent::start_in(&dir, options(at))).collect();
    for agent in &beating {
        chain.expect("up", agent.pid());
    }
    let inode = |name: &str| fs::metadata(dir.join(name)).expect("it is there").ino();
    let sockets = ["shard-0.sock", "shard-1.sock", "control.sock", "takeover.sock"];
    let before = sockets.map(inode);
    let stopped = chain.agent();
    for _ in 0..5 {
        // It is stopped before one, and continued after it.
        stopped.signal(Signal::STOP);
        let pid_before = chain.child.id();
        chain.takes_over(&[]);
        let restart = chain.expect_that("restart", |event| event.kind() == "restart");
        assert_eq!((restart.str("why"), restart.u64("adopted"), restart.u64("gone")), ("planned", 10, 0));
        assert!(
            chain.last_messages().contains(&format!("which had pid {pid_before}")),
            "{}",
            chain.messages()
        );
        chain.expect("stall", stopped.pid());
        stopped.signal(Signal::CONT);
        chain.expect("resume", stopped.pid());
    }
    assert_eq!(sockets.map(inode), before);
    let lock = fs::read_to_string(dir.join("lock")).expect("the lock");
    assert_eq!(lock.trim(), chain.child.id().to_string());
    for agent in &mut beating {
        assert_eq!((chain.count("up", agent.pid()), chain.count("stall", agent.pid())), (1, 0));
        // The queue was never full, and the socket never gone.
        let report = agent.report();
        assert_eq!((report.dropped, report.failed), (0, 0), "{report:?}");
    }
    assert_eq!((chain.count("up", stopped.pid()), chain.count("stall", stopped.pid())), (1, 5));
    chain.stops();
}

/// Whatever a successor does before it took what was offered, the observer goes on.
#[test]
fn fault_27_successors_that_fail_leave_the_observer_as_it_was() {
    let mut chain = Chain::start(&RUN);
    let dir = chain.place.dir();
    let agent = chain.agent();
    // Hangs up at once, after the first message, and after the descriptors.
    drop(Scripted::connect(&dir));
    Scripted::connect(&dir).say("varta takeover 1");
    let (successor, mut names, _) = Scripted::begin(&dir);
    names.sort();
    assert_eq!(
        names,
        [
            "control",
            "fleet",
            "history",
            "lock",
            "shard-0",
            "shard-0-table",
            "shard-0-told",
            "shard-1",
            "shard-1-table",
            "shard-1-told",
            "takeover"
        ]
    );
    drop(successor);
    chain.goes_on();
    // Hangs up after it was offered everything.
    let (successor, _, journal) = Scripted::begin(&dir);
    let number = successor.offered();
    drop(successor);
    wait_for("the end of the offer", || (word_of(&journal) != number << 2 | 1).then_some(()));
    assert_eq!(word_of(&journal), number << 2 | 3, "it was kept");
    chain.goes_on();
    // Does nothing, then is slow: what it was offered is over, and it may ask again.
    let (successor, _, journal) = Scripted::begin(&dir);
    let number = successor.offered();
    assert_eq!(successor.hear().0, "over");
    successor.say("ready");
    assert_eq!(successor.hear().0, "busy it was ready for that a moment ago");
    assert_eq!(word_of(&journal), number << 2 | 3);
    chain.goes_on();
    assert_eq!(successor.offered(), number + 1);
    assert_eq!(successor.hear().0, "over");
    // Says what nobody knows.
    successor.say("gimme");
    assert_eq!(successor.hear().0, "refused \"gimme\" is not expected");
    let successor = Scripted::connect(&dir);
    successor.say("varta takeover 2");
    let (text, _) = successor.hear();
    assert!(text.starts_with("refused it knows \"varta takeover 1\""), "{text}");
    chain.goes_on();
    assert_eq!((chain.count("up", agent.pid()), chain.count("stall", agent.pid())), (1, 0));
    chain.takes_over(&[]);
    chain.goes_on();
    chain.stops();
}

#[test]
fn of_two_successors_one_is_refused() {
    let mut chain = Chain::start(&RUN);
    let dir = chain.place.dir();
    // It names the observer that runs, also once that is not the one that made the socket.
    for _ in 0..2 {
        let (first, _, _) = Scripted::begin(&dir);
        let message = chain.refuses(&[], 69);
        let why = format!("another take-over is under way, by pid {}; wait for it", std::process::id());
        assert!(
            message.contains(&why) && message.contains(&format!("(pid {})", chain.child.id())),
            "{message}"
        );
        drop(first);
        chain.takes_over(&[]);
    }
    chain.goes_on();
    chain.stops();
}

/// What a start would refuse is refused while the observer before still runs.
#[test]
fn a_successor_that_cannot_start_leaves_the_observer_as_it_was() {
    let mut chain = Chain::start(&RUN);
    let agent = chain.agent();
    let config = chain.place.base().join("other.toml");
    for (text, code, why) in [
        ("[[shard]]\nsocket = \"elsewhere.sock\"\n[[shard]]\n", 78, "is bound to"),
        ("[http]\nlisten = \"127.0.0.1:1\"\ntoken-file = \"/no/such/file\"\n", 78, "token file"),
    ] {
        fs::write(&config, text).expect("write a file");
        let message = chain.refuses(&["--config", &config.display().to_string()], code);
        assert!(message.contains(why), "{message}");
    }
    // Neither the symlink nor the descriptors of a start.
    let symlink = chain.place.dir().join("varta.sock");
    fs::remove_file(&symlink).expect("it is ours");
    fs::write(&symlink, "").expect("it is free");
    let message = chain.refuses(&[], 78);
    assert!(message.contains("varta.sock is in the way"), "{message}");
    fs::remove_file(&symlink).expect("it is ours");
    chain.files_max = Some(40);
    let message = chain.refuses(&[], 1);
    assert!(message.contains("too many open files"), "{message}");
    chain.files_max = None;
    assert!(!chain.place.dir().join("fleet.json.try").exists());
    // No room for the log.
    let log = chain.place.base().join("no/such/directory/log").display().to_string();
    let arguments = std::mem::replace(&mut chain.arguments, vec!["--events".to_owned(), log]);
    let message = chain.refuses(&[], 78);
    assert!(message.contains("no/such/directory"), "{message}");
    chain.arguments = arguments;
    chain.goes_on();
    assert_eq!((chain.count("up", agent.pid()), chain.count("stall", agent.pid())), (1, 0));
    chain.stops();
}

/// More shards and room for more agents: the agents stay.
#[test]
fn a_successor_may_be_configured_otherwise() {
    let mut chain = Chain::start(&RUN);
    let agent = chain.agent();
    chain.arguments.truncate(0);
    chain.takes_over(&["--shards", "3", "--threshold", "1s", "--agents-max", "3000"]);
    assert!(chain.place.socket(2).exists());
    assert!(!chain.last_messages().contains("warning"), "{}", chain.last_messages());
    chain.goes_on();
    assert_eq!((chain.count("up", agent.pid()), chain.count("stall", agent.pid())), (1, 0));
    chain.takes_over(&["--shards", "1", "--threshold", "1s", "--agents-max", "3000"]);
    let message = chain.last_messages();
    assert!(message.contains("the observer before has shard-1, shard-2, and shards = 1"), "{message}");
    chain.goes_on();
    chain.stops();
}

/// As many descriptors as there can be go through one conversation.
#[test]
fn a_successor_takes_over_all_shards_that_there_can_be() {
    let mut chain = Chain::start(&["--shards", "64", "--threshold", "1s", "--agents-max", "1000"]);
    let agent = chain.agent();
    chain.takes_over(&[]);
    chain.goes_on();
    assert_eq!((chain.count("up", agent.pid()), chain.count("stall", agent.pid())), (1, 0));
    chain.stops();
}

#[test]
fn without_an_observer_it_begins_anew() {
    let mut chain = Chain::start(&RUN);
    signal(chain.child.id(), Signal::KILL);
    chain.child.wait().expect("it is our child");
    chain.child = chain.spawn(&["--takeover"]);
    chain.is_ready();
    assert!(chain.last_messages().contains("no observer ran there that could be taken over"));
    chain.goes_on();
}

#[test]
fn a_managed_observer_refuses_and_says_what_to_do() {
    let mut chain = Chain::start(&RUN);
    signal(chain.child.id(), Signal::TERM);
    ended(&mut chain.child);
    let notify = chain.place.base().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&notify).expect("a socket");
    let mut command = program();
    command.args(["run", "--dir"]).arg(chain.place.dir()).args(RUN).env("NOTIFY_SOCKET", &notify);
    chain.child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start an observer");
    wait_for("ready", || {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).expect("a message");
        bytes[..length].starts_with(b"READY").then_some(())
    });
    let message = chain.refuses(&[], 69);
    assert!(message.contains("it is managed: its main process must not end; restart its unit"), "{message}");
}

#[test]
fn another_user_is_refused() {
    needs_root("it runs a successor as another user");
    let mut chain = Chain::start(&RUN);
    let copy = chain.place.base().join("varta-fleet");
    copy_program(Path::new(PROGRAM), &copy);
    let as_nobody = |dir: &Path| {
        let mut command = program_by("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
        let done =
            command.args(["run", "--takeover", "--dir"]).arg(dir).output().expect("setpriv is installed");
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let dir = chain.place.dir();
    let (code, message) = as_nobody(&dir);
    assert_eq!(code, Some(77), "{message}");
    assert!(message.contains("permission denied; run this one as its user"), "{message}");
    // Not even if the socket lets everybody in.
    let open = |mode| fs::set_permissions(dir.join("takeover.sock"), fs::Permissions::from_mode(mode));
    open(0o666).expect("it is ours");
    let (code, message) = as_nobody(&dir);
    assert_eq!(code, Some(69), "{message}");
    assert!(message.contains("only root and its own user may take over"), "{message}");
    chain.goes_on();
    open(0o600).expect("it is ours");
    chain.stops();
}

/// Pids or instants of the observer would mean something else there.
#[test]
fn a_successor_in_other_namespaces_is_refused() {
    needs_root("it makes namespaces");
    let mut chain = Chain::start(&RUN);
    let cases = [
        (&["--pid", "--fork", "--mount-proc"][..], "it runs in another pid namespace"),
        (
            &["--time", "--fork", "--boottime", "1000", "--monotonic", "1000"],
            "it runs in another time namespace",
        ),
    ];
    for (namespaces, why) in cases {
        // If it took over, it would run on.
        let mut command = program_by("timeout");
        command
            .args(["20", "unshare"])
            .args(namespaces)
            .arg(PROGRAM)
            .args(["run", "--takeover", "--dir"])
            .arg(chain.place.dir());
        let done = command.output().expect("unshare is installed");
        let message = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(69), "{message}");
        assert!(message.contains(why), "{message}");
    }
    chain.goes_on();
    chain.stops();
}

/// A successor that ends between the offer and its own start: somebody has to notice.
#[test]
fn a_successor_that_took_and_died_is_reported_by_the_observer_before() {
    let mut chain = Chain::start(&RUN);
    let (successor, _, journal) = Scripted::begin(&chain.place.dir());
    let number = successor.offered();
    journal.write_all_at(&(number << 2 | 2).to_ne_bytes(), OFFER_AT).expect("it is that long");
    drop(successor);
    assert_eq!(ended(&mut chain.child), Some(1));
    let message = chain.last_messages();
    let why = format!("pid {} took over and ended before it observed", std::process::id());
    assert!(message.contains(&why), "{message}");
    // It left everything.
    assert!(chain.place.dir().join("fleet.json").exists() && chain.place.socket(0).exists());
}

/// The operator thinks better of it while the observer does not answer: nobody ends but the successor.
#[test]
fn a_successor_that_is_stopped_while_it_waits_takes_nothing() {
    let mut chain = Chain::start(&RUN);
    signal(chain.child.id(), Signal::STOP);
    let mut successor = chain.spawn(&["--takeover"]);
    // It waits for an answer.
    let waits = format!("/proc/{}/net/unix", successor.id());
    let path = chain.place.dir().join(".takeover~").display().to_string();
    wait_for("the successor", || {
        let sockets = fs::read_to_string(&waits).unwrap_or_default();
        // The one that listens, and the connection that nobody has accepted.
        (sockets.matches(&path).count() >= 2).then_some(())
    });
    wait_for("its signal thread", || task_named(successor.id(), "varta-signals"));
    signal(successor.id(), Signal::TERM);
    assert_eq!(ended(&mut successor), Some(1), "{}", chain.messages());
    let message = chain.last_messages();
    assert!(message.contains("it goes on, as this one was asked to stop"), "{message}");
    signal(chain.child.id(), Signal::CONT);
    chain.goes_on();
    chain.stops();
}

fn task_named(pid: u32, name: &str) -> Option<()> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let is_it = |task: fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    tasks.flatten().any(is_it).then_some(())
}

/// An agent that an observer from nothing still waits for is missed by its successor.
#[test]
fn who_is_awaited_or_missing_stays_so() {
    let mut chain = Chain::start(&["--shards", "2", "--threshold", "3s", "--agents-max", "1000"]);
    let mut agent = chain.agent();
    // The list is written at a stop.
    signal(chain.child.id(), Signal::TERM);
    assert_eq!(ended(&mut chain.child), Some(0));
    chain.child = chain.spawn(&[]);
    chain.is_ready();
    chain.takes_over(&[]);
    chain.expect("missing", agent.pid());
    chain.takes_over(&[]);
    agent.signal(Signal::KILL);
    agent.wait();
    chain.expect("exit", agent.pid());
    assert_eq!((chain.count("missing", agent.pid()), chain.count("up", agent.pid())), (1, 1));
}

/// Its last events are not written yet: the successor would write them, too.
#[test]
fn an_observer_whose_event_output_is_behind_is_not_taken_over() {
    let place = Place::new();
    let fifo = place.base().join("events");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let mut reader = File::options().read(true).write(true).open(&fifo).expect("it is there");
    let mut chain = Chain::start_in(place, &RUN);
    let dir = chain.place.dir();
    // More than the pipe holds.
    let mut agent = Agent::start_in(&dir, AgentOptions::default());
    let crowd = agent.spawn_crowd(500).len() as u64;
    let fleet = || Connection::control(&dir).get("/api/v1/fleet", &["Connection: close"]).json();
    wait_for("all of them", || (fleet()["up"].as_u64() > Some(crowd)).then_some(()));
    let (successor, _, _) = Scripted::begin(&dir);
    successor.say("ready");
    assert_eq!(successor.hear().0, "busy its event output is behind");
    let lines = thread::spawn(move || {
        let mut text = String::new();
        let mut bytes = [0; 4096];
        // Up to the last event of the last observer.
        while !text.contains("\"kind\":\"stop\"") {
            let length = reader.read(&mut bytes).expect("it is open");
            text.push_str(std::str::from_utf8(&bytes[..length]).expect("ASCII"));
        }
        text
    });
    successor.offered();
    drop(successor);
    chain.takes_over(&[]);
    signal(chain.child.id(), Signal::TERM);
    assert_eq!(ended(&mut chain.child), Some(0), "{}", chain.messages());
    let text = lines.join().expect("it reads");
    for (at, line) in (1..).zip(text.lines()) {
        assert_eq!(Event::parse(line).u64("seq"), at, "{line}");
    }
}

/// SIGTERM while a successor could take over: the observer stops as ever.
#[test]
fn a_stop_ends_an_offer() {
    let mut chain = Chain::start(&RUN);
    let (successor, _, journal) = Scripted::begin(&chain.place.dir());
    let number = successor.offered();
    signal(chain.child.id(), Signal::TERM);
    assert_eq!(ended(&mut chain.child), Some(0));
    assert_eq!(word_of(&journal), number << 2 | 3);
    assert!(!chain.place.socket(0).exists());
    assert_eq!(chain.events().last().map(Event::kind), Some("stop"));
}

/// The memory of the observer is of a version that this program does not know.
#[test]
fn fault_27_another_layout_leaves_the_observer_as_it_was() {
    let mut chain = Chain::start(&RUN);
    let (successor, _, journal) = Scripted::begin(&chain.place.dir());
    drop(successor);
    let layout = 8;
    journal.write_all_at(&77_u64.to_ne_bytes(), layout).expect("it is that long");
    let message = chain.refuses(&[], 69);
    assert!(message.contains("fleet: its layout has version 77"), "{message}");
    journal.write_all_at(&1_u64.to_ne_bytes(), layout).expect("it is that long");
    chain.goes_on();
    chain.takes_over(&[]);
    chain.stops();
}

/// One observer takes over from another while agents fall silent, return and die, and any of the two stands still at any
/// moment: each thing that happened is told once, and nothing else.
#[test]
fn fault_27_successors_at_any_instant_tell_what_happened_once() {
    let mut chance = Chance::from_environment();
    let (seconds, count) = (setting("VARTA_CHAOS_SECONDS", 12), setting("VARTA_CHAOS_AGENTS", 40));
    let mut chain = Chain::start(&["--shards", "2", "--threshold", "1s", "--agents-max", "20000"]);
    let mut victims = Victim::start(&chain.place.dir(), count);
    for victim in &victims {
        chain.expect("up", victim.agent.pid());
    }
    let (mut takeovers, mut pauses) = (0_u32, 0_u32);
    let reloads = live(&mut chain, &mut victims, &mut chance, seconds, |chain, chance| {
        takeovers += 1;
        let successor = chain.spawn(&["--takeover"]);
        let mut before = std::mem::replace(&mut chain.child, successor);
        if chance.below(2) == 0 {
            pauses += 1;
            let who = if chance.below(2) == 0 { before.id() } else { chain.child.id() };
            // The instant and the length of the pause are what is under test.
            thread::sleep(Duration::from_millis(chance.below(30).into()));
            signal(who, Signal::STOP);
            thread::sleep(Duration::from_millis(chance.below(400).into()));
            signal(who, Signal::CONT);
        }
        chain.is_ready();
        assert_eq!(ended(&mut before), Some(0), "{}", chain.messages());
    });
    for victim in victims.iter_mut().filter(|victim| victim.state == State::Beats) {
        victim.gaps = victim.agent.gaps();
    }
    let pids: Vec<u32> = victims.iter().map(|victim| victim.agent.pid()).collect();
    assert!(pids.iter().all(|pid| chain.count("missing", *pid) == 0));
    let events = chain.events().to_vec();
    let (silences, dead) = judge_all(&victims, &events, &chain.messages());
    eprintln!(
        "{count} agents, {takeovers} take-overs, {pauses} of them with a pause, {reloads} reloads; {silences} silences, \
         {dead} exits, {} events",
        events.len()
    );
    chain.stops();
}

/// A stall that was acted upon before a take-over is not acted upon again; one that is held by hand stays held, and is acted
/// upon once it is not.
#[test]
fn a_successor_starts_nothing_twice_and_forgets_nothing() {
    let ground = Ground::new();
    let log = ground.log();
    let options = ground.options("[\"stall\"]", "after = \"100ms\"");
    let config = ground.place.base().join("act.toml");
    fs::write(&config, options.config).expect("write");
    let config = config.display().to_string();
    let mut chain =
        Chain::start_in(ground.place, &["--config", &config, "--threshold", "300ms", "--shards", "2"]);
    let agents: Vec<Agent> = (0..2).map(|_| chain.agent()).collect();
    let [acted_upon, held] = [agents[0].pid(), agents[1].pid()];
    let order = |chain: &Chain, arguments: &[&str]| {
        let mut order = program();
        let output = order.arg("act").args(arguments).arg("--dir").arg(chain.place.dir()).output();
        assert!(output.expect("it runs").status.success());
    };
    order(&chain, &["hold", &held.to_string(), "--for", "1h"]);
    agents.iter().for_each(|agent| agent.signal(Signal::STOP));
    wait_for("one to be acted upon and one to be held", || {
        let events = chain.events();
        let is_held = steps(events, held).contains(&"held hand".to_owned());
        (steps(events, acted_upon).contains(&"ended".to_owned()) && is_held).then_some(())
    });
    let is_held = |chain: &mut Chain| {
        let is_so = |event: &&Event| event.is("action", held) && event.str("phase") == "held";
        chain.events().iter().filter(is_so).count()
    };
    let before = is_held(&mut chain);
    chain.takes_over(&[]);
    wait_for("it to be held by the successor", || (is_held(&mut chain) > before).then_some(()));
    assert_eq!(acted(&log).iter().filter(|line| line.starts_with(&format!("{held} "))).count(), 0);
    order(&chain, &["unhold", &held.to_string()]);
    chain.expect_that("end of what was held", |event| {
        event.is("action", held) && event.str("phase") == "ended"
    });
    let lines = acted(&log);
    let of = |pid: u32| lines.iter().filter(|line| line.starts_with(&format!("{pid} "))).count();
    assert_eq!((of(acted_upon), of(held)), (1, 1), "{lines:?}");
    agents.iter().for_each(|agent| agent.signal(Signal::CONT));
}
