//! The agents of `scripts/agents/`, one a language: what they send, and what the observer reports about them.

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use crate::common::{Event, Observer, Options, SOON, python, signal, wait_for};
use varta_fleet::shard_for;
use varta_fleet::wire::{Frame, Status, decode};

/// An agent's file, and the command that runs it, made of the directory with what was built.
struct Language {
    file: &'static str,
    command: fn(&Path) -> Command,
}

const LANGUAGES: [Language; 8] = [
    Language { file: "agent.rs", command: |built| Command::new(built.join("rust")) },
    Language { file: "agent.c", command: |built| Command::new(built.join("c")) },
    // The same file is an agent in C++.
    Language { file: "agent.c", command: |built| Command::new(built.join("c++")) },
    Language { file: "agent.go", command: |built| Command::new(built.join("go")) },
    Language { file: "agent.py", command: |_| by(python(), "agent.py") },
    Language { file: "agent.js", command: |_| by("node", "agent.js") },
    Language {
        file: "Agent.java",
        command: |built| {
            let mut command = Command::new("java");
            command.arg("-cp").arg(format!("{}:{JNA}", built.display())).arg("Agent");
            command
        },
    },
    Language { file: "agent.sh", command: |_| Command::new(source("agent.sh")) },
];
/// Where Debian's package puts it.
const JNA: &str = "/usr/share/java/jna.jar";
const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/agents/node_modules");

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/agents").join(file)
}

fn by(interpreter: impl Into<PathBuf>, file: &str) -> Command {
    let mut command = Command::new(interpreter.into());
    command.arg(source(file));
    command
}

/// A directory with those that are compiled.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agents");
        fs::create_dir_all(&directory).expect("a directory");
        let build = |file: &str, program: &str, words: &[&str]| {
            let mut command = Command::new(program);
            // Go keeps what it compiled.
            command.args(words).current_dir(&directory).env("GOCACHE", directory.join("cache"));
            // The standard library's are the only packages that the agents need.
            command.env("GO111MODULE", "off").arg(source(file));
            let output = command
                .output()
                .unwrap_or_else(|error| panic!("{command:?}: {error}; `scripts/check --setup` installs it"));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{command:?}: {}\n{said}", output.status);
        };
        let strict = ["-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"];
        // In each edition, since it is copied into packages of any.
        for edition in ["2015", "2018", "2021", "2024"] {
            build("agent.rs", "rustc", &["--edition", edition, "-O", "-o", "rust"]);
        }
        build("agent.c", "gcc", &[&strict[..], &["-std=c99", "-o", "c"]].concat());
        build("agent.c", "clang++", &[&strict[..], &["-x", "c++", "-std=c++11", "-o", "c++"]].concat());
        build("agent.go", "go", &["build", "-o", "go"]);
        assert!(Path::new(JNA).exists(), "{JNA} is missing: `scripts/check --setup` installs it");
        build("Agent.java", "javac", &["-Xlint:all", "-Werror", "-cp", JNA, "-d", "."]);
        assert!(
            Path::new(MODULES).join("koffi").exists(),
            "{MODULES}/koffi is missing: `scripts/check --setup` installs it"
        );
        directory
    })
}

/// A running agent. Killed when dropped.
struct Running {
    file: &'static str,
    child: Child,
}

impl Running {
    fn start(language: &Language, watchdog: Duration, set: (&str, &Path)) -> Self {
        let mut command = (language.command)(built());
        command.env_remove("VARTA_DIR").env_remove("NOTIFY_SOCKET").env("NODE_PATH", MODULES);
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string()).env(set.0, set.1);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; `scripts/check --setup` installs it"));
        Self { file: language.file, child }
    }

    /// The process that beats: the shell has a child for it.
    fn is(&self, pid: u32) -> bool {
        let is_shell = self.file == "agent.sh";
        pid == self.child.id() || is_shell && parent(pid) == Some(self.child.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn start_all(set: (&str, &Path)) -> Vec<Running> {
    LANGUAGES.iter().map(|language| Running::start(language, Duration::from_millis(200), set)).collect()
}

#[test]
fn every_agent_is_one_page_and_has_a_test() {
    let mut files: Vec<String> = LANGUAGES.map(|language| language.file.to_owned()).to_vec();
    files.dedup();
    files.push("varta.h".to_owned());
    files.sort();
    let entries = fs::read_dir(source("")).expect("the directory");
    let mut found: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect();
    found.sort();
    assert_eq!(found, files);
    for file in files.iter().filter(|file| *file != "varta.h") {
        let lines = fs::read_to_string(source(file)).expect("it is there").lines().count();
        assert!(lines <= 60, "{file}: {lines} lines are more than one copies and reads");
    }
}

// --- what they send -------------------------------------------------------------------------------

/// A socket at this path, which learns who sends.
fn receiver(path: &Path) -> UnixDatagram {
    let _ = fs::remove_file(path);
    let socket = UnixDatagram::bind(path).expect("bind");
    socket.set_read_timeout(Some(SOON)).expect("a socket");
    set_socket_passcred(&socket, true).expect("a socket");
    socket
}

/// The next datagram and the pid of its sender.
fn receive(socket: &UnixDatagram) -> (Vec<u8>, u32) {
    let mut bytes = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty());
    let len = read.expect("a datagram").bytes;
    let pid = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid.as_raw_nonzero().get()),
        _ => None,
    });
    (bytes[..len].to_vec(), u32::try_from(pid.expect("credentials")).expect("a pid"))
}

fn frame(bytes: &[u8]) -> Frame {
    decode(bytes.try_into().expect("32 bytes")).expect("a frame")
}

#[test]
fn frames_are_right_and_a_full_queue_holds_up_no_agent() {
    let directory = tempfile::tempdir().expect("a directory");
    // Outside of the directory with the manifest.
    let path = directory.path().join("shard");
    let run = directory.path().join("run");
    fs::create_dir(&run).expect("a directory");
    // As another program might write it.
    let manifest = format!(
        "{{\n  \"version\": 1,\n  \"hash\": \"fibonacci32\",\n  \"shards\": [\n    {{ \"index\": 0, \"socket\": \"{}\" }}\n  ]\n}}\n",
        path.display()
    );
    fs::write(run.join("fleet.json"), manifest).expect("write");
    for language in &LANGUAGES {
        let file = language.file;
        let socket = receiver(&path);
        let running = Running::start(language, Duration::from_millis(100), ("VARTA_DIR", &run));
        let (mut last, mut pid) = (None::<Frame>, 0);
        for nonce in 1..=3 {
            let (bytes, sender) = receive(&socket);
            let now = frame(&bytes);
            assert!(now.pid == sender && running.is(sender), "{file}: {now:?} from {sender}");
            assert_eq!((now.nonce, now.payload, now.status), (nonce, nonce, Status::Ok), "{file}");
            if let Some(last) = last {
                assert!(now.timestamp >= last.timestamp && now.pid == last.pid, "{file}: {last:?}, {now:?}");
            }
            (last, pid) = (Some(now), sender);
        }
        drop(running);
        wait_for("the end of the agent", || parent(pid).is_none().then_some(()));

        // Nobody reads: beats are dropped, and each has its number. An agent that waited would skip none.
        let socket = receiver(&path);
        socket.set_nonblocking(true).expect("a socket");
        let _running = Running::start(language, Duration::from_millis(2), ("VARTA_DIR", &run));
        let (mut last, mut pause) = (0, Duration::from_millis(50));
        wait_for(&format!("a beat that {file} drops"), || {
            // The queue fills: how long it is, the machine says.
            thread::sleep(pause);
            pause *= 2;
            let mut bytes = [0; 64];
            while let Ok(len) = socket.recv(&mut bytes) {
                let nonce = frame(&bytes[..len]).nonce;
                if nonce > last + 1 && last > 0 {
                    return Some(());
                }
                last = nonce;
            }
            None
        });
    }
}

#[test]
fn messages_of_sd_notify_are_right_and_go_on_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let socket = receiver(&path);
    let running = start_all(("NOTIFY_SOCKET", &path));
    let of = |pid: u32| running.iter().position(|running| running.is(pid));
    // Which of them have sent both kinds, by this socket.
    let hear = |socket: &UnixDatagram, is_new: bool| {
        let mut heard = BTreeMap::<usize, (bool, bool)>::new();
        let deadline = Instant::now() + SOON;
        let is_done = |(ready, alive): &(bool, bool)| *alive && *ready == is_new;
        while heard.len() < LANGUAGES.len() || !heard.values().all(is_done) {
            assert!(Instant::now() < deadline, "heard by place in the list, READY and WATCHDOG: {heard:?}");
            let (bytes, pid) = receive(socket);
            let language =
                of(pid).unwrap_or_else(|| panic!("{pid} sent {:?}", String::from_utf8_lossy(&bytes)));
            let (ready, alive) = heard.entry(language).or_default();
            match &bytes[..] {
                b"READY=1\nWATCHDOG=1" => {
                    assert!(is_new && !*ready && !*alive, "{}", running[language].file);
                    *ready = true;
                }
                b"WATCHDOG=1" => *alive = true,
                _ => panic!("{}: {:?}", running[language].file, String::from_utf8_lossy(&bytes)),
            }
        }
    };
    hear(&socket, true);
    drop(socket);
    hear(&receiver(&path), false);
}

/// A name without a file, as older service managers use.
#[test]
fn sockets_without_a_file_are_reached() {
    let name = format!("varta-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let socket = UnixDatagram::bind_addr(&address).expect("bind");
    socket.set_read_timeout(Some(SOON)).expect("a socket");
    set_socket_passcred(&socket, true).expect("a socket");
    let mut running = start_all(("NOTIFY_SOCKET", Path::new(&format!("@{name}"))));
    let deadline = Instant::now() + SOON;
    while !running.is_empty() {
        assert!(Instant::now() < deadline, "nothing came of {}", running[0].file);
        let (bytes, pid) = receive(&socket);
        assert!(bytes.ends_with(b"WATCHDOG=1"), "{bytes:?}");
        running.retain(|running| !running.is(pid));
    }
}

// --- what the observer reports --------------------------------------------------------------------

/// No agent misses its threshold, though the observer is restarted twice: by the book, and killed, with other shards
/// than before. One that is stopped stalls; one that is killed exits.
fn are_observed_through_restarts(watchdog: Duration, threshold: Duration, variable: &str, socket: &str) {
    let is_daemon = !socket.is_empty();
    let options = |shards| Options {
        shards,
        threshold,
        queue_limit: Some(512),
        config: if is_daemon { "[notify]\n".to_owned() } else { String::new() },
        ..Options::default()
    };
    let mut observer = Observer::start(options(4));
    let at = observer.dir().join(socket);
    let running: Vec<Running> =
        LANGUAGES.iter().map(|language| Running::start(language, watchdog, (variable, &at))).collect();
    let mut pids = BTreeMap::new();
    for (number, (before, shards)) in [(4_u32, 4_u32), (4, 2), (2, 3)].into_iter().enumerate() {
        for (language, running) in running.iter().enumerate() {
            let what = format!("up of {}", running.file);
            let is = |event: &Event| event.kind() == "up" && event.pid().is_some_and(|pid| running.is(pid));
            let up = observer.expect_that(&what, SOON, is);
            let pid = up.pid().expect("it was compared");
            assert_eq!(up.has("origin"), is_daemon, "{}: {up}", running.file);
            // The socket for daemons has a shard of its own. A manifest of a killed observer may be read until the next
            // one has written its own: any shard takes the beat.
            let expected =
                [shards, before].map(|shards| if is_daemon { shards } else { shard_for(pid, shards) });
            let shard = up.u64("shard");
            assert!(
                expected.into_iter().any(|expected| shard == u64::from(expected)),
                "{}: {up}",
                running.file
            );
            if running.file == "agent.sh" {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).expect("it lives");
                assert_eq!(comm, "agent.sh\n", "the script is not named");
            }
            assert_eq!(*pids.entry(language).or_insert(pid), pid, "{}", running.file);
        }
        observer.watch(threshold / 2);
        for (language, pid) in &pids {
            for kind in ["stall", "session", "exit", "missing"] {
                assert_eq!(observer.count(kind, *pid), 0, "{kind} of {}", LANGUAGES[*language].file);
            }
        }
        assert!(observer.events().iter().all(|event| !["auth", "decode"].contains(&event.kind())));
        observer = match number {
            0 => Observer::start_in(observer.stop().place, options(2)),
            1 => Observer::start_in(observer.kill(), options(3)),
            _ => observer,
        };
    }
    let each = |send: Signal| running.iter().for_each(|running| signal(running.child.id(), send));
    for (send, kind) in [(Signal::STOP, "stall"), (Signal::CONT, "resume"), (Signal::KILL, "exit")] {
        each(send);
        for pid in pids.values() {
            observer.expect(kind, *pid, threshold + SOON);
        }
    }
    observer.stop();
}

/// The threshold is far above what a busy machine keeps a process from running.
#[test]
fn agents_in_every_language_are_observed_through_restarts() {
    are_observed_through_restarts(Duration::from_millis(200), Duration::from_secs(3), "VARTA_DIR", "");
}

/// As daemons, whose threshold is the `WATCHDOG_USEC` that they were started with.
#[test]
fn daemons_in_every_language_are_observed_through_restarts() {
    let threshold = Duration::from_secs(3);
    are_observed_through_restarts(threshold, threshold, "NOTIFY_SOCKET", "notify.sock");
}
