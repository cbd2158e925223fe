//! The single-socket observer, as an embedder uses it, with the stock clients of both wire versions.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use varta_client_01::Varta as Varta01;
use varta_client_02::Varta as Varta02;
use varta_fleet::wire::{Frame, Status, Version};
use varta_fleet::{Observer, ObserverEvent, Refusal};

const THRESHOLD: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
    observer: Observer,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("observer.sock");
        let observer = Observer::bind(&path, THRESHOLD, 0o600).expect("bind");
        Self { _dir: dir, path, observer }
    }

    /// The next event; fails the test if none comes.
    fn event(&mut self) -> ObserverEvent {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.observer.poll() {
                return event;
            }
            assert!(Instant::now() < until, "no event came");
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
fn a_threshold_that_cannot_be_judged_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let error = Observer::bind(dir.path().join("s"), Duration::ZERO, 0o600).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_dead_are_told_as_exit_and_never_as_stall() {
    let mut fixture = Fixture::new();
    let path = fixture.path.clone();
    // A child that beats once through python would be heavy; the shell has no datagrams. A thread
    // cannot have another pid, so fork through a command that sends one frame and ends.
    let mut child = std::process::Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", "helper_beats_once_and_ends", "--nocapture"])
        .env("VARTA_TEST_OBSERVER", &path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("spawn");
    let pid = child.id();
    assert!(matches!(fixture.event(), ObserverEvent::Beat { pid: sender, .. } if sender == pid));
    child.wait().expect("ends");
    let ObserverEvent::Exit { pid: gone, .. } = fixture.event() else { panic!("not an exit") };
    assert_eq!(gone, pid);
}

/// Runs in a process of its own for the test above.
#[test]
fn helper_beats_once_and_ends() {
    let Some(path) = std::env::var_os("VARTA_TEST_OBSERVER") else { return };
    let mut agent = Varta02::connect(&path).expect("connect");
    let _ = agent.beat(varta_client_02::Status::Ok, 0);
}
