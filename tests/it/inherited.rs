//! What an observer inherits from its parent: a standard error without a reader, ignored signals, limits.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, pipe};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

use crate::common::{PROGRAM, Place, program, program_by, signal, wait_for};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::Signal;

/// A running program; killed on drop.
struct Running {
    child: Child,
    place: Place,
}

impl Running {
    /// Starts `run`, by a command such as `env` with its arguments, or directly if `by` is empty.
    fn start(by: &[&str], stderr: impl Into<Stdio>) -> Self {
        Self::start_in(Place::new(), by, stderr)
    }

    /// Like `start`, in this place.
    fn start_in(place: Place, by: &[&str], stderr: impl Into<Stdio>) -> Self {
        let mut words = by.iter().copied().chain([PROGRAM]);
        let child = program_by(words.next().expect("at least the program"))
            .args(words)
            .args(["run", "--shards", "2", "--agents-max", "1000", "--print-ready", "--events"])
            .arg(place.base().join("events"))
            .arg("--dir")
            .arg(place.dir())
            .stdin(Stdio::null())
            .stdout(File::create(place.base().join("stdout")).expect("create a file"))
            .stderr(stderr)
            .spawn()
            .expect("start the observer");
        let running = Self { child, place };
        wait_for("the ready line", || {
            let text = fs::read_to_string(running.path("stdout")).expect("its output");
            text.contains("ready shards=2").then_some(())
        });
        running
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.base().join(name)
    }

    fn signal(&self, number: Signal) {
        signal(self.child.id(), number);
    }

    /// How often the main thread, which handles signals, has waited.
    fn waits(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.and_then(|count| count.trim().parse().ok()).expect("the kernel counts them")
    }

    fn end(&mut self) -> ExitStatus {
        wait_for("the end of the observer", || self.child.try_wait().expect("it is our child"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A full pipe: its reader and its writer.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().expect("a pipe");
    let flags = fcntl_getfl(&writer).expect("its flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("set them");
    while rustix::io::write(&writer, &[b'.'; 4096]) != Err(Errno::AGAIN) {}
    // The observer inherits an ordinary descriptor.
    fcntl_setfl(&writer, flags).expect("set them");
    (reader, writer)
}

#[test]
fn fault_77_a_standard_error_that_nobody_reads_holds_up_neither_start_nor_table_nor_stop() {
    let (reader, writer) = full_pipe();
    let mut observer = Running::start(&[], writer.try_clone().expect("a descriptor"));
    // More tables than are kept for a reader. One at a time: equal pending signals are one signal.
    for _ in 0..400 {
        let before = observer.waits();
        observer.signal(Signal::USR1);
        wait_for("a table that nobody reads", || (observer.waits() > before).then_some(()));
    }
    // A second observer has an error to print; it must exit all the same.
    let mut second = program()
        .args(["run", "--dir"])
        .arg(observer.place.dir())
        .stderr(writer)
        .spawn()
        .expect("start another");
    let status = wait_for("the end of the second", || second.try_wait().expect("it is our child"));
    assert_eq!(status.code(), Some(69));
    observer.signal(Signal::TERM);
    assert_eq!(observer.end().code(), Some(0));
    assert!(!observer.place.socket(0).exists(), "its files are gone");
    let events = fs::read_to_string(observer.path("events")).expect("its events");
    assert!(events.trim_end().ends_with("\"kind\":\"stop\"}"), "{events}");
    drop(reader);
}

/// The line goes to standard output, or to standard error if standard output is for events.
#[test]
fn fault_77_a_ready_line_that_nobody_reads_does_not_keep_signals_waiting() {
    for events in ["-", "none"] {
        let place = Place::new();
        let (reader, writer) = full_pipe();
        let output = place.base().join("output");
        let file = Stdio::from(File::create(&output).expect("create a file"));
        let mut observer = program();
        observer
            .args(["run", "--shards", "1", "--print-ready", "--events", events, "--dir"])
            .arg(place.dir());
        match events {
            "-" => observer.stdout(file).stderr(writer),
            _ => observer.stdout(writer).stderr(file),
        };
        let mut observer = observer.spawn().expect("start the observer");
        wait_for("its first word", || {
            let text = fs::read_to_string(&output).expect("its output");
            (text.contains("\"start\"") || text.contains("observing ")).then_some(())
        });
        signal(observer.id(), Signal::TERM);
        let status = wait_for("its end", || observer.try_wait().expect("it is our child"));
        assert_eq!(status.code(), Some(0), "--events {events}");
        assert!(!place.socket(0).exists(), "its files are gone");
        drop(reader);
    }
}

#[test]
fn fault_77_a_reader_that_comes_back_gets_what_was_kept() {
    let (mut pipe, writer) = full_pipe();
    let mut observer = Running::start(&[], writer);
    let mut said = Vec::new();
    let mut until = |observer: &Running, part: &str| {
        wait_for(part, || {
            // Ask for a table, so that there is something to read.
            observer.signal(Signal::USR1);
            let mut bytes = [0; 4096];
            let len = pipe.read(&mut bytes).expect("read what it says");
            said.extend_from_slice(&bytes[..len]);
            String::from_utf8_lossy(&said).contains(part).then_some(())
        });
    };
    until(&observer, "observing ");
    until(&observer, "histogram ");
    observer.signal(Signal::TERM);
    // There is room for everything that it prints last.
    let mut rest = Vec::new();
    pipe.read_to_end(&mut rest).expect("read what it says");
    assert_eq!(observer.end().code(), Some(0));
}

/// As under nohup, or in the background of a shell without job control.
#[test]
fn fault_78_signals_that_were_ignored_at_the_start_stay_ignored() {
    let mut observer = Running::start(&["env", "--ignore-signal=HUP,INT"], Stdio::null());
    let status = fs::read_to_string(format!("/proc/{}/status", observer.child.id())).expect("it lives");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("a number");
    assert_eq!(mask & 0b11, 0b11, "{mask:x}: the lowest two are SIGHUP and SIGINT");
    observer.signal(Signal::HUP);
    observer.signal(Signal::INT);
    observer.signal(Signal::TERM);
    assert_eq!(observer.end().code(), Some(0), "the first that it hears, so it is no second one");
}

#[test]
fn fault_78_a_hangup_does_not_end_the_observer_and_an_interrupt_does() {
    let stderr = Place::new();
    let file = File::create(stderr.base().join("stderr")).expect("create a file");
    // Regardless of what the tests themselves inherit.
    let mut observer = Running::start(&["env", "--default-signal=HUP,INT"], file);
    for tables in 1..=2 {
        observer.signal(Signal::HUP);
        observer.signal(Signal::USR1);
        wait_for("a table of counters", || {
            let text = fs::read_to_string(stderr.base().join("stderr")).expect("what it said");
            (text.matches("histogram ").count() >= tables).then_some(())
        });
    }
    observer.signal(Signal::INT);
    assert_eq!(observer.end().code(), Some(0));
}

/// RLIMIT_FSIZE: a write beyond the limit sends SIGXFSZ, which by default kills the process.
#[test]
fn fault_79_a_file_that_may_not_grow_is_as_a_full_disk() {
    // Its own memory is in files, too, which fit.
    const LIMIT: u64 = 256 << 20;
    let stderr = Place::new();
    let file = File::create(stderr.base().join("stderr")).expect("create a file");
    let said = || fs::read_to_string(stderr.base().join("stderr")).expect("what it said");
    let place = Place::new();
    let events = place.base().join("events");
    // The observer's first line crosses the limit.
    let long = File::create(&events).expect("create a file");
    long.write_all_at(b"\n", LIMIT - 11).expect("write a long line");
    let limit = format!("--fsize={LIMIT}");
    let mut observer = Running::start_in(place, &["prlimit", &limit], file);
    wait_for("word of it", || said().contains("cannot write events: file too large").then_some(()));
    File::options().write(true).open(&events).expect("open it").set_len(0).expect("make room");
    wait_for("its events", || {
        let text = fs::read_to_string(&events).expect("its events");
        text.ends_with('\n').then_some(())
    });
    observer.signal(Signal::TERM);
    assert_eq!(observer.end().code(), Some(0), "{}", said());
}

/// If the kernel grants no memory for the first agents, which comes after that for the history, the start fails: no
/// SIGBUS at the first beat.
#[test]
fn fault_79_memory_that_is_not_there_is_an_error_of_the_start() {
    let place = Place::new();
    let output = program_by("strace")
        .args(["-qq", "-f", "-o", "/dev/null", "-e", "inject=fallocate:error=ENOSPC:when=2+"])
        .args([PROGRAM, "run", "--dir"])
        .arg(place.dir())
        .output()
        .expect("run it; `scripts/check --setup` installs strace");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot reserve memory for a shard: no space left on device"), "{told}");
    assert!(!place.socket(0).exists());
}

/// The same message, whichever call gets no descriptor.
#[test]
fn a_start_without_enough_descriptors_says_what_to_raise_and_leaves_nothing() {
    const TOO_LOW: u32 = 9;
    let place = Place::new();
    for limit in TOO_LOW..100 {
        let mut observer = program_by("prlimit")
            .arg(format!("--nofile={limit}"))
            .args([PROGRAM, "run", "--shards", "2", "--print-ready", "--dir"])
            .arg(place.dir())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prlimit is in util-linux");
        let mut word = String::new();
        BufReader::new(observer.stdout.take().expect("a pipe")).read_line(&mut word).expect("its output");
        if word.starts_with("ready ") {
            signal(observer.id(), Signal::TERM);
        }
        let output = observer.wait_with_output().expect("its end");
        let told = String::from_utf8_lossy(&output.stderr);
        if !word.is_empty() {
            assert_eq!(output.status.code(), Some(0), "{limit}: {told}");
            assert!(limit > TOO_LOW, "such limits are too low");
            return;
        }
        assert_eq!(output.status.code(), Some(1), "{limit}: {told}");
        assert!(told.contains("too many open files") && told.contains("raise the limit"), "{limit}: {told}");
        let left: Vec<_> = fs::read_dir(place.dir()).into_iter().flatten().flatten().collect();
        assert!(left.iter().all(|entry| entry.file_name() == "lock"), "{limit}: {left:?}");
    }
    panic!("it starts with so many");
}
