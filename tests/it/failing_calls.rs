//! System calls fail under a running observer: it reports and survives a temporary failure, and exits with a
//! reason on a permanent one.
//!
//! `strace` makes the calls of one thread fail. It attaches once the observer is ready.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{Agent, Client, Injection, Observer, Options, PROGRAM, SOON, T, program_by};
use rustix::process::{Pid, Signal, kill_process};

/// ENOMEM is temporary, and EINTR is not a failure. No agent is lost by either.
#[test]
fn fault_48_a_receive_that_fails_for_a_while_is_told_and_survived() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let mut agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    {
        let _interrupted =
            Injection::into_thread(&observer, "varta-shard-0", "recvmmsg:error=EINTR:when=1+2");
        observer.watch(Duration::from_millis(200));
    }
    for (name, errno) in [("ENOMEM", 12), ("ENOBUFS", 105)] {
        let how = format!("recvmmsg:error={name}:when=1");
        let _failing = Injection::into_thread(&observer, "varta-shard-0", &how);
        let told = observer.expect_kind("io", SOON);
        assert_eq!(
            (told.str("place"), told.u64("errno"), told.u64("shard")),
            ("receive", errno, 0),
            "{told}"
        );
        // The next event comes a second later at the earliest; by then a lost agent would be stalled.
        observer.watch(T + T / 4);
    }
    observer.no_false_stall(&mut agent);
    let ended = observer.stop();
    let told = ended.events.iter().filter(|event| event.kind() == "io").count();
    assert_eq!(told, 2, "an interrupted call is not told");
}

#[test]
fn fault_48_a_socket_that_fails_for_good_ends_the_observer_with_a_reason() {
    let mut observer = Observer::start(Options { shards: 2, ..Options::default() });
    let agent = Agent::start_on(Client::Rust02, &observer, 1);
    observer.expect("up", agent.pid(), SOON);
    let _broken = Injection::into_thread(&observer, "varta-shard-0", "recvmmsg:error=EBADF");
    let ended = observer.ends_by_itself(1);
    let told = ended.events.iter().find(|event| event.kind() == "io").expect("it is told");
    assert_eq!((told.str("place"), told.u64("errno"), told.u64("shard")), ("receive", 9, 0), "{told}");
    assert_eq!(ended.events.last().map(|event| event.kind()), Some("stop"), "the rest is told in order");
    assert!(!ended.events.iter().any(|event| event.is("stall", agent.pid())));
    assert!(ended.stderr.contains("1 shard thread died"), "{}", ended.stderr);
}

/// The thread that notices exits ends. The observer notices that even while SIGUSR1 often asks for the table.
#[test]
fn fault_76_the_end_of_the_watch_thread_ends_the_observer_and_is_named() {
    let observer = Observer::start(Options::default());
    let _broken =
        Injection::into_thread(&observer, "varta-watch", "epoll_wait,epoll_pwait,epoll_pwait2:error=EBADF");
    let is_over = AtomicBool::new(false);
    let pid = observer.pid();
    let ended = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..60 {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                // The observer may have exited already.
                let _ = kill_process(Pid::from_raw(pid.cast_signed()).expect("a pid"), Signal::USR1);
                // Shorter than the interval at which the main thread checks the threads.
                thread::sleep(Duration::from_millis(300));
            }
        });
        let ended = observer.ends_by_itself(1);
        is_over.store(true, Ordering::Relaxed);
        ended
    });
    assert!(ended.stderr.contains("error: the watch thread died: no exit is noticed"), "{}", ended.stderr);
    assert!(!ended.place.socket(0).exists(), "its files are gone, as after any stop");
}

/// A seccomp filter that allows only older calls: the observer then makes one call for each datagram.
#[test]
fn fault_80_where_recvmmsg_is_refused_datagrams_are_taken_one_by_one() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let mut agents = [Client::Rust01, Client::Rust02].map(|client| Agent::start(client, &observer));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    {
        let _refused = Injection::into_thread(&observer, "varta-shard-0", "recvmmsg:error=ENOSYS");
        observer.watch(2 * T);
        let late = Agent::start(Client::Rust02, &observer);
        observer.expect("up", late.pid(), SOON);
        drop(late);
    }
    for agent in &mut agents {
        observer.no_false_stall(agent);
    }
    let ended = observer.stop();
    assert!(!ended.events.iter().any(|event| event.kind() == "io"), "{:?}", ended.events);
}

#[test]
fn fault_80_a_refused_recvmmsg_is_said_before_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    for error in ["ENOSYS", "EPERM"] {
        let output = program_by("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=recvmmsg"])
            .args(["-e", &format!("inject=recvmmsg:error={error}")])
            .arg(PROGRAM)
            .args(["check", "--shards", "1", "--agents-max", "1", "--dir"])
            .arg(dir.path().join("run"))
            .output()
            .expect("run strace; `scripts/check --setup` installs it");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("refuses recvmmsg to this process"), "{error}: {told}");
    }
}

/// Whichever thread the kernel refuses, the running threads end in order, and no file is left.
#[test]
fn a_start_that_gets_no_thread_gives_everything_back() {
    let base = tempfile::tempdir().expect("a directory");
    let (dir, log) = (base.path().join("run"), base.path().join("events"));
    for refused in 1.. {
        let _ = fs::remove_file(&log);
        let mut strace = program_by("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=clone,clone3"])
            .args(["-e", &format!("inject=clone,clone3:error=EAGAIN:when={refused}")])
            .arg(PROGRAM)
            .args(["run", "--print-ready", "--shards", "2", "--agents-max", "8", "--dir"])
            .arg(&dir)
            .arg("--events")
            .arg(&log)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run strace; `scripts/check --setup` installs it");
        let mut stdout = BufReader::new(strace.stdout.take().expect("piped"));
        let mut ready = String::new();
        stdout.read_line(&mut ready).expect("text");
        if !ready.is_empty() {
            assert!(refused > 8, "it started without a thread");
            let holder = fs::read_to_string(dir.join("lock")).expect("it is held");
            let pid = holder.trim().parse().ok().and_then(Pid::from_raw).expect("a pid");
            kill_process(pid, Signal::TERM).expect("end it");
            assert!(strace.wait().expect("it ends").success());
            return;
        }
        let ended = strace.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{refused}: {told}");
        assert!(told.contains("resource temporarily unavailable"), "{refused}: {told}");
        let left = fs::read_dir(&dir).map_or(Vec::new(), |entries| {
            entries.flatten().map(|entry| entry.file_name()).filter(|name| name != "lock").collect()
        });
        assert_eq!(left, [""; 0], "{refused}");
        let events = fs::read_to_string(&log).unwrap_or_default();
        let is_ended = |line: &str| line.contains(r#""kind":"stop""#);
        assert!(events.lines().last().is_none_or(is_ended), "{refused}: {events}");
    }
}

/// The kernel has no memory for a wait, as when `fs.epoll.max_user_watches` is exhausted.
#[test]
fn fault_81_a_wait_that_the_kernel_has_no_room_for_is_told_and_survived() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let mut agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    {
        let how = "epoll_wait,epoll_pwait,epoll_pwait2,poll,ppoll:error=ENOMEM";
        let _full = Injection::into_thread(&observer, "varta-shard-0", how);
        let told = observer.expect_kind("io", SOON);
        assert_eq!((told.str("place"), told.u64("errno")), ("receive", 12), "{told}");
        observer.watch(T + T / 4);
    }
    observer.no_false_stall(&mut agent);
    observer.stop();
}
