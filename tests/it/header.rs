//! `scripts/agents/varta.h`: it compiles everywhere, its frames are those of the original crates, and a beat harms no
//! program that it is part of, whatever that program does.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use rustix::process::Signal;

use crate::common::{Observer, Options, SOON, T, wait_for};
use crate::vectors::{committed, unhex};
use varta_fleet::shard_for;

const EAGAIN: i64 = 11;
const EMFILE: i64 = 24;
const ENOENT: i64 = 2;
const EBUSY: i64 = 16;
const EPROTO: i64 = 71;
const ENAMETOOLONG: i64 = 36;
const EINVAL: i64 = 22;

/// The compilers, with the language in which each reads C.
const COMPILERS: [&[&str]; 4] = [
    &["gcc", "-std=c99"],
    &["clang", "-std=c99"],
    &["g++", "-x", "c++", "-std=c++11"],
    &["clang++", "-x", "c++", "-std=c++11"],
];
const STRICT: [&str; 8] =
    ["-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow", "-Iscripts/agents"];

/// Compiles with these words after those of the compiler.
fn compile(compiler: &[&str], words: &[&str]) {
    let mut command = Command::new(compiler[0]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(&compiler[1..]).args(words);
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `scripts/check --setup` installs it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}

/// `tests/agents/header.c` by each compiler, and at last one that stops at what C leaves undefined.
fn programs() -> &'static [PathBuf] {
    static PROGRAMS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("header");
        fs::create_dir_all(&directory).expect("a directory");
        let make = |compiler: &&[&str]| {
            let program = directory.join(compiler[0]);
            let out = program.to_str().expect("a path that is text");
            let words = ["-D_GNU_SOURCE", "tests/agents/header.c", "-pthread", "-o", out];
            compile(compiler, &[&STRICT[..], &words].concat());
            program
        };
        let mut programs: Vec<PathBuf> = COMPILERS.iter().map(make).collect();
        let checked = directory.join("checked");
        let out = checked.to_str().expect("a path that is text");
        let words = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GNU_SOURCE"];
        let words = [&words[..], &["tests/agents/header.c", "-pthread", "-o", out]].concat();
        compile(COMPILERS[0], &[&STRICT[..], &words].concat());
        programs.push(checked);
        programs
    })
}

/// A running `header.c`. Killed when dropped.
struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start() -> Self {
        Self::start_by(&mut Command::new(&programs()[0]))
    }

    fn start_by(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, stdin, stdout }
    }

    /// Starts it with an agent for this path.
    fn open(path: &Path) -> Self {
        let mut program = Self::start();
        assert_eq!(program.ask(&format!("open {}", path.display())), ("open".to_owned(), 0, 0));
        program
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn tell(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("open until it ends");
        writeln!(stdin, "{command}").expect("it reads");
    }

    /// The answer: a word and two numbers.
    fn ask(&mut self, command: &str) -> (String, i64, i64) {
        self.tell(command);
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("text");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [what, one, two] = words[..] else { panic!("{command}: {line:?}") };
        let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{command}: {line:?}"));
        (what.to_owned(), number(one), number(two))
    }

    fn two(&mut self, command: &str) -> (i64, i64) {
        let (_, one, two) = self.ask(command);
        (one, two)
    }

    /// The error of one beat, 0 if it was sent.
    fn beat(&mut self) -> i64 {
        self.two("beat 0").0
    }

    /// Ends it by the end of its input.
    fn end(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No frame was refused: neither as another's, nor as none.
fn nothing_was_refused(observer: &mut Observer) {
    for event in observer.events() {
        assert!(!["auth", "decode", "stall"].contains(&event.kind()), "{event}");
    }
    let table = observer.table();
    assert_eq!(table.shard(0, "refused") + table.shard(1, "refused"), 0, "{table}");
}

/// A socket that this test reads.
fn receiver(directory: &Path) -> (UnixDatagram, PathBuf) {
    let path = directory.join("receiver");
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(SOON)).expect("a socket");
    (socket, path)
}

fn receive(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = [0; 64];
    let len = socket.recv(&mut bytes).expect("a frame");
    bytes[..len].to_vec()
}

fn nonce(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[16..24].try_into().expect("eight bytes"))
}

// --- the file -------------------------------------------------------------------------------------

#[test]
fn every_compiler_takes_it_without_a_warning_first_or_after_other_headers() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = "#include \"varta.h\"\n#include <stdio.h>\n";
    let after = "#include <stdio.h>\n#include \"varta.h\"\n";
    let body = "int main(void)\n{\n    static struct varta agent;\n    return varta_open(&agent, \"/\") + varta_crash(&agent) == 0;\n}\n";
    let file = |name: &str, head: &str| {
        let path = directory.path().join(name);
        fs::write(&path, format!("{head}{body}")).expect("write");
        path.to_str().expect("text").to_owned()
    };
    let (first, after) = (file("first.c", first), file("after.c", after));
    let out = directory.path().join("out");
    for compiler in COMPILERS {
        let words = [&STRICT[..], &["-o", out.to_str().expect("text")]].concat();
        compile(compiler, &[&words[..], &[&first]].concat());
        compile(compiler, &[&words[..], &["-D_GNU_SOURCE", &after]].concat());
    }
    // What a strict standard hides cannot be had afterwards: a message says what to do.
    let mut late = Command::new("gcc");
    late.current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["-std=c99", "-Iscripts/agents", "-o"])
        .arg(&out)
        .arg(&after);
    let output = late.output().expect("run gcc");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("include varta.h before other headers"),
        "{output:?}"
    );
}

/// So that signal handlers may beat, and that no beat waits for memory or a lock: all that is called is in
/// signal-safety(7), or is said by the compiler itself.
#[test]
fn fault_60_it_calls_only_what_a_signal_handler_may_call() {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, object) = (directory.path().join("all.c"), directory.path().join("all.o"));
    let all = "#include \"varta.h\"\nstatic struct varta agent;\nint all(const char *path)\n{\n    varta_open(&agent, path);\n    \
               varta_beat(&agent, 0, 0);\n    varta_close(&agent);\n    return varta_crash(&agent);\n}\n";
    fs::write(&source, all).expect("write");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    compile(COMPILERS[0], &["-O2", "-Iscripts/agents", "-c", &text(&source), "-o", &text(&object)]);
    let output = Command::new("nm").args(["--undefined-only", "--format=just-symbols"]).arg(&object).output();
    let output = output.expect("nm is in binutils, which every compiler needs");
    let called = String::from_utf8(output.stdout).expect("text");
    let called: BTreeSet<&str> = called.lines().collect();
    let safe = [
        "__errno_location",
        "_GLOBAL_OFFSET_TABLE_",
        "__stack_chk_fail",
        "clock_gettime",
        "close",
        "connect",
        "fcntl",
        "getpid",
        "getsockopt",
        "lseek",
        "memcpy",
        "memset",
        "open",
        "read",
        "send",
        "socket",
        "strlen",
    ];
    let others: Vec<_> = called.iter().filter(|name| !safe.contains(name)).collect();
    assert!(called.contains("send") && others.is_empty(), "{others:?} of {called:?}");
}

#[test]
fn its_frames_are_those_of_the_original_crate() {
    let of_02 =
        |entry: &crate::vectors::Entry| entry.frame.as_ref().is_some_and(|frame| frame.version == "0.2");
    let entries: Vec<_> = committed().into_iter().filter(of_02).collect();
    assert!(entries.len() >= 10, "{}", entries.len());
    for program in programs() {
        let mut program = Program::start_by(&mut Command::new(program));
        for entry in &entries {
            let frame = entry.frame.as_ref().expect("chosen above");
            let status =
                ["ok", "degraded", "critical", "stall"].iter().position(|word| *word == frame.status);
            let status = status.expect("a status");
            let fields = [status as u64, frame.pid.into(), frame.timestamp, frame.nonce, frame.payload];
            let (hex, ..) =
                program.ask(&format!("frame {}", fields.map(|field| field.to_string()).join(",")));
            assert_eq!(hex, entry.hex, "{}", entry.name);
        }
    }
}

#[test]
fn it_finds_the_socket_of_each_pid_in_the_manifest() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    let mut program = Program::start_by(&mut Command::new(programs().last().expect("several")));
    program.ask(&format!("open {}", at.display()));
    let write = |text: String| fs::write(at.join("fleet.json"), text).expect("write");
    for (shards, padding) in [(1_u32, ""), (2, " "), (4, "\n\t"), (64, ""), (1024, " ")] {
        let shard = |index: u32| {
            format!(
                "{{\"index\"{padding}:{index},{padding}\"socket\"{padding}:{padding}\"shard-{index}.sock\"}}"
            )
        };
        let list: Vec<String> = (0..shards).map(shard).collect();
        write(format!(
            "{{\"version\":1,\"hash\":\"fibonacci32\",\"shards\":[{}],\"notify\":[\"notify.sock\"],\"pid\":7}}",
            list.join(",")
        ));
        for pid in [2_u32, 4242, 32_768, 4_194_303, 2_147_483_647] {
            let (path, ..) = program.ask(&format!("find {pid}"));
            let expected = at.join(format!("shard-{}.sock", shard_for(pid, shards)));
            assert_eq!(path, expected.display().to_string(), "{pid} of {shards}");
        }
    }
    write("{\"shards\":[{\"socket\":\"/elsewhere/s\"}]}".to_owned());
    assert_eq!(program.ask("find 2").0, "/elsewhere/s");
    let long = "x".repeat(120);
    for (text, error) in [
        (String::new(), EPROTO),
        ("{\"shards\":[]}".to_owned(), EPROTO),
        ("{\"shards\":[{\"socket\":\"half".to_owned(), EPROTO),
        ("{\"shards\":[{\"socket\":\"a\\u0000\"}]}".to_owned(), EPROTO),
        (format!("{{\"socket\":\"{long}\"}}"), EPROTO),
        (format!("{{\"socket\":\"{}\"}}", &long[..100]), ENAMETOOLONG),
    ] {
        write(text.clone());
        assert_eq!(program.two("find 2"), (error, 0), "{text:?}");
    }
    // A pipe that nobody writes to: a beat does not wait for it.
    fs::remove_file(at.join("fleet.json")).expect("it is there");
    assert!(
        Command::new("mkfifo").arg(at.join("fleet.json")).status().expect("mkfifo is in coreutils").success()
    );
    assert_eq!(program.beat(), EPROTO);
    assert_eq!(program.two(&format!("open /{long}")).0, ENAMETOOLONG);
    assert_eq!(program.two("beat 3").0, EINVAL);
}

// --- beating --------------------------------------------------------------------------------------

#[test]
fn it_beats_before_the_observer_starts_and_after_it_is_restarted() {
    let mut observer = Observer::start(Options { shards: 2, ..Options::default() });
    let directory = observer.dir();
    let mut early = Program::open(&directory.join("not-yet"));
    assert_eq!(early.beat(), ENOENT);
    let mut program = Program::open(&directory);
    assert_eq!(program.beat(), 0);
    let up = observer.expect("up", program.pid(), SOON);
    assert_eq!(up.u64("shard"), u64::from(shard_for(program.pid(), 2)), "{up}");
    assert_eq!(program.two("beat 1 42").0, 0);
    assert_eq!(observer.expect("status", program.pid(), SOON).str("status"), "degraded");

    let ended = observer.stop();
    for _ in 0..3 {
        assert_ne!(program.beat(), 0, "nobody listens");
    }
    // As many shards as before, or not.
    let mut observer = Observer::start_in(ended.place, Options { shards: 3, ..Options::default() });
    let at_sockets = program.two("is-open 0").1;
    assert_eq!(program.beat(), 0);
    let up = observer.expect("up", program.pid(), SOON);
    assert_eq!(up.u64("shard"), u64::from(shard_for(program.pid(), 3)), "{up}");
    assert_eq!(program.two("is-open 0").1, at_sockets, "the socket is connected again, not opened");
    // Its path alone does as well.
    let mut other = Program::open(&observer.dir().join("varta.sock"));
    assert_eq!(other.beat(), 0);
    assert_eq!(observer.expect("up", other.pid(), SOON).u64("shard"), 0);
    assert_eq!(
        other.pid(),
        u32::try_from(observer.expect("stall", other.pid(), T + SOON).u64("pid")).expect("a pid")
    );
    let pid = program.pid();
    assert!(program.end().success());
    observer.expect("exit", pid, SOON);
    observer.stop();
}

#[test]
fn a_crash_is_reported_with_the_last_frame() {
    let mut observer = Observer::start(Options::default());
    let mut program = Program::open(&observer.dir());
    assert_eq!(program.beat(), 0);
    let pid = program.pid();
    program.tell("crash");
    observer.expect("terminal", pid, SOON);
    let exit = observer.expect("exit", pid, SOON);
    assert_eq!(exit.u64("signal"), 11, "{exit}");
    observer.none_of("stall", pid);
    observer.stop();
}

#[test]
fn after_the_last_nonce_comes_0() {
    let directory = tempfile::tempdir().expect("a directory");
    let (socket, path) = receiver(directory.path());
    let mut program = Program::open(&path);
    assert_eq!(program.beat(), 0);
    assert_eq!(nonce(&receive(&socket)), 1);
    program.ask("nonce");
    for expected in [u64::MAX - 1, 0, 1] {
        assert_eq!(program.beat(), 0);
        assert_eq!(nonce(&receive(&socket)), expected);
    }
}

/// A beat is one attempt: what the queue has no room for is dropped, and counted.
#[test]
fn fault_60_a_full_queue_neither_blocks_a_beat_nor_is_tried_again() {
    const BEATS: usize = 3000;
    let directory = tempfile::tempdir().expect("a directory");
    let (socket, path) = receiver(directory.path());
    let trace = directory.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-e", "trace=sendto,connect,openat", "-o"]).arg(&trace).arg(&programs()[0]);
    let mut program = Program::start_by(&mut strace);
    program.ask(&format!("open {}", path.display()));
    let (sent, dropped) = program.two(&format!("beats {BEATS}"));
    assert!(dropped > 0, "the queue is longer than {BEATS}");
    assert_eq!(sent + dropped, BEATS as i64);
    assert_eq!(program.beat(), EAGAIN);
    let first = receive(&socket);
    assert_eq!(program.beat(), 0, "there is room");
    assert!(program.end().success());
    let trace = fs::read_to_string(&trace).expect("a trace");
    let calls = |name: &str| trace.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
    let sends = calls("sendto(");
    assert_eq!(sends.len(), BEATS + 2);
    assert!(sends.iter().all(|line| line.contains("MSG_DONTWAIT|MSG_NOSIGNAL")), "{}", sends[0]);
    let connects = trace.lines().filter(|line| line.starts_with("connect(") && line.contains("receiver"));
    assert_eq!(connects.count(), 1, "a full queue is no reason to connect again");
    assert_eq!(nonce(&first), 1);
}

// --- hostile programs -----------------------------------------------------------------------------

#[test]
fn fault_60_a_descriptor_that_was_closed_and_reused_is_left_alone() {
    let mut observer = Observer::start(Options::default());
    let mut program = Program::open(&observer.dir());
    let pid = program.pid();
    assert_eq!(program.beat(), 0);
    observer.expect("up", pid, SOON);

    let file = observer.place().base().join("foreign");
    let (number, _) = program.two(&format!("steal-by-file {}", file.display()));
    let (error, now) = program.two("beat 0");
    assert!(error == 0 && now != number && now > 2, "{error}: {number}, {now}");
    assert_eq!(fs::metadata(&file).expect("it was created").len(), 0, "a beat is in a file");
    assert_eq!(program.two(&format!("is-open {number}")).0, 1);

    let (number, _) = program.two("steal-by-socket");
    let (error, now) = program.two("beat 0");
    assert!(error == 0 && now != number, "{error}: {number}, {now}");
    assert_eq!(program.two("heard"), (-1, EAGAIN), "a beat went to another socket's peer");
    assert_eq!(program.two(&format!("is-open {number}")).0, 1);

    // What is closed is only what is ours.
    let (number, _) = program.two(&format!("steal-by-file {}", file.display()));
    program.ask("close");
    assert_eq!(program.two(&format!("is-open {number}")).0, 1);
    assert_eq!(program.beat(), 0);
    let (_, number) = program.two("beat 0");
    program.ask("close");
    assert_eq!(program.two(&format!("is-open {number}")).0, 0);

    // All at once, as daemons do; standard error is not the socket afterwards.
    program.ask("close-all");
    program.ask("close-low");
    let (error, now) = program.two("beat 0");
    assert!(error == 0 && now > 2, "{error}: {now}");
    assert_eq!(program.two("is-open 2").0, 0);

    // No descriptor is left, and the socket is gone: the beat is dropped, and nothing else happens.
    program.ask("close");
    program.ask("no-more");
    assert_eq!(program.beat(), EMFILE);

    assert_eq!(observer.count("session", pid), 0, "one stream all the time");
    nothing_was_refused(&mut observer);
    observer.stop();
}

#[test]
fn fault_60_a_child_never_beats_as_its_parent() {
    let mut observer = Observer::start(Options { queue_limit: Some(4096), ..Options::default() });
    let mut program = Program::open(&observer.dir());
    assert_eq!(program.beat(), 0);
    observer.expect("up", program.pid(), SOON);
    assert_eq!(program.two("children 1 1"), (1, 0));
    let of_child = observer
        .expect_that("up of a child", SOON, |event| event.kind() == "up" && event.u64("payload") == 7);
    assert_ne!(of_child.pid(), Some(program.pid()));
    assert_eq!(of_child.u64("nonce"), 1, "a stream of its own: {of_child}");
    assert_eq!(program.beat(), 0, "the parent's socket is its own");
    // Many at once.
    assert_eq!(program.two("children 300 2"), (300, 0));
    assert_eq!(program.beat(), 0);
    let ups = |observer: &mut Observer| observer.events().iter().filter(|event| event.kind() == "up").count();
    wait_for("all children", || (ups(&mut observer) == 302).then_some(()));
    assert_eq!(observer.count("session", program.pid()), 0);
    nothing_was_refused(&mut observer);
    observer.stop();
}

#[test]
fn fault_60_a_daemon_beats_with_the_pid_that_it_ends_up_with() {
    let mut observer = Observer::start(Options::default());
    let mut program = Program::open(&observer.dir());
    assert_eq!(program.beat(), 0);
    let first = program.pid();
    observer.expect("up", first, SOON);
    let (daemon, _) = program.two("daemonise");
    let daemon = u32::try_from(daemon).expect("a pid");
    observer.expect("exit", first, SOON);
    assert_eq!(program.beat(), 0);
    assert_eq!(observer.expect("up", daemon, SOON).u64("shard"), u64::from(shard_for(daemon, 2)));
    crate::common::signal(daemon, Signal::STOP);
    observer.expect("stall", daemon, T + SOON);
    crate::common::signal(daemon, Signal::KILL);
    observer.expect("exit", daemon, SOON);
    observer.stop();
}

#[test]
fn fault_60_beats_meet_in_threads_and_signal_handlers_and_none_is_torn() {
    const BEATS: i64 = 2000;
    let directory = tempfile::tempdir().expect("a directory");
    for (command, all) in [(format!("threads {BEATS}"), 4 * BEATS), (format!("signals {BEATS}"), 0)] {
        let (socket, path) = receiver(directory.path());
        let mut program = Program::open(&path);
        let reader = std::thread::spawn(move || {
            let mut frames = Vec::new();
            loop {
                let frame = receive(&socket);
                if frame.is_empty() {
                    return frames;
                }
                frames.push(frame);
            }
        });
        let (one, two) = program.two(&command);
        // Blocks while the queue is full; the empty datagram is after all frames.
        UnixDatagram::unbound().expect("a socket").send_to(&[], &path).expect("the reader reads");
        let frames = reader.join().expect("it only reads");
        if all > 0 {
            assert_eq!((one + two, frames.len() as i64), (all, one), "{command}");
        } else {
            assert_eq!((one, two), (0, 0), "{command}: beats not counted, changes of errno");
        }
        let mut last = 0;
        for frame in &frames {
            let bytes: [u8; 32] = frame[..].try_into().expect("32 bytes");
            let decoded = varta_fleet::wire::decode(&bytes).expect("a frame");
            assert_eq!(decoded.pid, program.pid());
            assert!(decoded.nonce > last, "{command}: nonce {} after {last}", decoded.nonce);
            last = decoded.nonce;
        }
        assert!(frames.len() > 10, "{command}: {}", frames.len());
    }
}

/// A thread that is cancelled in a beat would keep the agent for ever.
#[test]
fn fault_60_a_thread_that_ends_in_a_beat_does_not_silence_the_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let (socket, path) = receiver(directory.path());
    let mut program = Program::open(&path);
    assert_eq!(program.ask("cancel"), ("cancelled".to_owned(), 1, 0));
    let mut errors = BTreeSet::new();
    wait_for("a beat", || {
        let error = program.beat();
        errors.insert(error);
        (error == 0).then_some(())
    });
    assert!(errors.is_subset(&BTreeSet::from([0, EBUSY])), "{errors:?}");
    assert_eq!(receive(&socket).len(), 32);
    assert_eq!(program.beat(), 0);
}

/// Kernels before 4.6, and some sandboxes.
#[test]
fn a_kernel_without_cookies_gets_a_socket_for_each_beat() {
    let directory = tempfile::tempdir().expect("a directory");
    let (socket, path) = receiver(directory.path());
    let mut strace = Command::new("strace");
    strace.args(["-e", "trace=getsockopt", "-e", "inject=getsockopt:error=ENOPROTOOPT", "-o", "/dev/null"]);
    let mut program = Program::start_by(strace.arg(&programs()[0]));
    program.ask(&format!("open {}", path.display()));
    let before = program.two("is-open 0").1;
    for expected in 1..=3 {
        assert_eq!(program.two("beat 0"), (0, -1));
        let frame = receive(&socket);
        assert_eq!((nonce(&frame), unhex(&crate::vectors::hex(&frame))[3]), (expected, 0));
    }
    assert_eq!(program.two("is-open 0").1, before);
}
