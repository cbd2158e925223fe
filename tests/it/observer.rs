//! The single-socket observer as an embedder uses it, with the stock clients of both wire versions.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use varta_client_01::Varta as Varta01;
use varta_client_02::Varta as Varta02;
use varta_fleet::wire::{Frame, Status, Version};
use varta_fleet::{OBSERVER_AGENTS_MAX, Observer, ObserverEvent, Refusal};

const THRESHOLD: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
    observer: Observer,
}

impl Fixture {
    fn new() -> Self {
        Self::for_agents(OBSERVER_AGENTS_MAX)
    }

    fn for_agents(agents_max: u32) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("observer.sock");
        let observer = Observer::bind_for(&path, THRESHOLD, 0o600, agents_max).expect("bind");
        Self { _dir: dir, path, observer }
    }

    /// Polls for the next event; fails the test if none comes.
    fn event(&mut self) -> ObserverEvent {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.observer.poll() {
                return event;
            }
            assert!(Instant::now() < until, "no event came");
        }
    }

    /// Polls until a condition holds; fails if an event comes first.
    fn silently_until(&mut self, what: &str, is_so: impl Fn(&mut Observer) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(&mut self.observer) {
            assert!(self.observer.poll().is_none(), "an event before {what}");
            assert!(Instant::now() < until, "waited for this in vain: {what}");
        }
    }

    fn raw(&self) -> UnixDatagram {
        let socket = UnixDatagram::unbound().expect("socket");
        socket.connect(&self.path).expect("connect");
        socket
    }
}

fn frame(pid: u32, nonce: u64) -> Frame {
    Frame { version: Version::V02, status: Status::Ok, pid, timestamp: 5, nonce, payload: 9 }
}

#[test]
fn beats_of_both_stock_clients_are_told_whole() {
    let mut fixture = Fixture::new();
    let mut old = Varta01::connect(&fixture.path).expect("connect");
    let _ = old.beat(varta_client_01::Status::Degraded, 0xDEAD_BEEF_0000_0001);
    let ObserverEvent::Beat { pid, status, payload, nonce, .. } = fixture.event() else {
        panic!("not a beat")
    };
    assert_eq!((pid, status, nonce), (std::process::id(), Status::Degraded, 1));
    assert_eq!(payload, 0xDEAD_BEEF_0000_0001, "64 bits of 0.1 stay whole");
    let mut new = Varta02::connect(&fixture.path).expect("connect");
    let _ = new.beat(varta_client_02::Status::Ok, 7);
    let ObserverEvent::Beat { payload: 7, nonce: 1, .. } = fixture.event() else { panic!("not the beat") };
}

#[test]
fn a_silence_is_told_once_and_ended_by_resume_and_beat() {
    let mut fixture = Fixture::new();
    let mut agent = Varta02::connect(&fixture.path).expect("connect");
    let _ = agent.beat(varta_client_02::Status::Ok, 0);
    assert!(matches!(fixture.event(), ObserverEvent::Beat { .. }));
    let ObserverEvent::Stall { pid, last_nonce: 1, silent_ns, certain: true, .. } = fixture.event() else {
        panic!("not the stall");
    };
    assert_eq!(pid, std::process::id());
    assert!(silent_ns >= 300_000_000);
    assert!(fixture.observer.poll().is_none(), "told once");
    let _ = agent.beat(varta_client_02::Status::Ok, 0);
    assert!(matches!(fixture.event(), ObserverEvent::Resume { lost: 0, .. }));
    assert!(matches!(fixture.event(), ObserverEvent::Beat { nonce: 2, .. }));
}

#[test]
fn a_forged_pid_is_an_auth_failure_and_does_not_touch_the_victim() {
    let mut fixture = Fixture::new();
    let victim = 4_000_000;
    fixture.raw().send(&frame(victim, 1).encode()).expect("send");
    let ObserverEvent::AuthFailure { claimed, attested } = fixture.event() else { panic!("not refused") };
    assert_eq!((claimed, attested), (victim, std::process::id()));
}

#[test]
fn what_is_no_frame_is_told_with_its_reason_and_an_empty_datagram_is_ignored() {
    let mut fixture = Fixture::new();
    let raw = fixture.raw();
    raw.send(&[]).expect("probe");
    raw.send(&[0; 32]).expect("send");
    raw.send(&[0; 31]).expect("send");
    raw.send(&[0; 5000]).expect("send");
    let ObserverEvent::Decode { error, attested } = fixture.event() else { panic!("not a decode error") };
    assert_eq!((error.reason(), attested), ("bad_magic", std::process::id()));
    for _ in 0..2 {
        assert!(matches!(fixture.event(), ObserverEvent::Refused(Refusal::WrongSize)));
    }
}

#[test]
fn a_second_observer_is_refused_and_the_first_goes_on() {
    let mut fixture = Fixture::new();
    let error = Observer::bind(&fixture.path, THRESHOLD, 0o600).expect_err("in use");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("already running"), "{error}");
    fixture.raw().send(&frame(std::process::id(), 1).encode()).expect("send");
    assert!(matches!(fixture.event(), ObserverEvent::Beat { .. }));
}

#[test]
fn the_mode_is_as_asked_and_the_path_goes_only_if_it_is_still_ours() {
    let Fixture { _dir, path, observer } = Fixture::new();
    let mode = std::fs::metadata(&path).expect("bound").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(observer);
    assert!(!path.exists(), "unlinked on drop");
    let observer = Observer::bind(&path, THRESHOLD, 0o660).expect("bind again");
    std::fs::remove_file(&path).expect("somebody removes it");
    let heir = UnixDatagram::bind(&path).expect("somebody else binds");
    drop(observer);
    assert!(path.exists(), "not ours any more");
    drop(heir);
}

#[test]
fn fault_51_the_longest_threshold_there_is_stalls_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let mut observer = Observer::bind(&path, Duration::MAX, 0o600).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    for nonce in 1..4 {
        sender.send_to(&frame(std::process::id(), nonce).encode(), &path).unwrap();
    }
    let told: Vec<_> = (0..6).filter_map(|_| observer.poll()).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|event| matches!(event, ObserverEvent::Beat { .. })), "{told:?}");
}

#[test]
fn fault_51_a_threshold_that_cannot_be_judged_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let error = Observer::bind(dir.path().join("s"), Duration::ZERO, 0o600).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_dead_are_told_as_exit_and_never_as_stall() {
    let mut fixture = Fixture::new();
    let mut agent = Agent::start(&fixture.path);
    agent.beat();
    assert!(matches!(fixture.event(), ObserverEvent::Beat { pid, .. } if pid == agent.pid()));
    agent.kill();
    let ObserverEvent::Exit { pid, .. } = fixture.event() else { panic!("not an exit") };
    assert_eq!(pid, agent.pid());
}

#[test]
fn a_full_table_refuses_counts_and_makes_room_of_the_dead_alone() {
    let mut fixture = Fixture::for_agents(1);
    let (mut first, mut second) = (Agent::start(&fixture.path), Agent::start(&fixture.path));
    first.beat();
    assert!(matches!(fixture.event(), ObserverEvent::Beat { pid, .. } if pid == first.pid()));
    assert!(matches!(fixture.event(), ObserverEvent::Stall { .. }));
    second.beat();
    fixture.silently_until("a frame finds no room", |observer| observer.drain_capacity_exceeded() > 0);
    assert_eq!(fixture.observer.drain_evictions(), 0, "a stalled agent that lives is not evicted");
    first.kill();
    second.beat();
    fixture.silently_until("the dead make room", |observer| observer.drain_evictions() > 0);
    assert_eq!(fixture.observer.drain_capacity_exceeded(), 1, "counted before there was room");
    assert_eq!(fixture.observer.drain_capacity_exceeded(), 0, "drained");
    second.beat();
    assert!(matches!(fixture.event(), ObserverEvent::Beat { pid, .. } if pid == second.pid()));
}

/// This program in another process, which beats on command.
struct Agent {
    child: Child,
    orders: ChildStdin,
}

impl Agent {
    fn start(observer: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("exe"))
            .args(["--exact", "observer::helper_beats_when_told", "--nocapture"])
            .env("VARTA_TEST_OBSERVER", observer)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("spawn");
        let orders = child.stdin.take().expect("piped");
        Self { child, orders }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn beat(&mut self) {
        writeln!(self.orders, "beat").expect("it listens");
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("reap");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other process of the tests above.
#[test]
fn helper_beats_when_told() {
    let Some(path) = std::env::var_os("VARTA_TEST_OBSERVER") else { return };
    let mut agent = Varta02::connect(&path).expect("connect");
    for _ in io::stdin().lines() {
        let _ = agent.beat(varta_client_02::Status::Ok, 0);
    }
}
