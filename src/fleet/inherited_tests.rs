//! Descriptors by name, on real sockets, and fleets that are started on them.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tempfile::TempDir;

use super::*;
use crate::config::Config;
use crate::fleet::{Fleet, StartError};
use crate::route::MANIFEST;
use crate::wire::{Frame, Status, Version};

const SOON: Duration = Duration::from_secs(30);

struct World {
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As a `.socket` unit binds it, but with neither option.
    fn socket(&self, shard: usize) -> UnixDatagram {
        UnixDatagram::bind(self.path(&format!("shard-{shard}.sock"))).unwrap()
    }

    fn plan(&self, shards: u32) -> Plan {
        let dir = Some(self.directory.path().to_owned());
        let threshold = Duration::from_secs(10);
        Config { dir, shards: Some(shards), threshold, agents_max: 64, ..Config::default() }.plan().unwrap()
    }

    fn start(
        &self,
        shards: u32,
        passed: impl IntoIterator<Item = (&'static str, OwnedFd)>,
    ) -> Result<Fleet, StartError> {
        let passed = passed.into_iter().map(|(name, fd)| (name.to_owned(), fd));
        Fleet::start_with(self.plan(shards), &mut passed.collect())
    }

    fn refusal(&self, shards: u32, passed: impl IntoIterator<Item = (&'static str, OwnedFd)>) -> String {
        let refusal = self.start(shards, passed).unwrap_err();
        assert_eq!(refusal.kind(), io::ErrorKind::InvalidInput, "{refusal}");
        refusal.to_string()
    }

    /// A beat of this process on the socket of a shard.
    fn beat(&self, shard: usize, nonce: u64) {
        let frame = Frame {
            version: Version::V02,
            status: Status::Ok,
            pid: std::process::id(),
            timestamp: nonce,
            nonce,
            payload: 0,
        };
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(&frame.encode(), self.path(&format!("shard-{shard}.sock"))).unwrap();
    }
}

fn wait_for(is_so: impl Fn() -> bool) {
    let until = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < until, "not in {SOON:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn warnings(fleet: &Fleet) -> String {
    fleet.warnings().iter().map(|warning| format!("{warning}\n")).collect()
}

#[test]
fn names_are_read_exactly() {
    for name in ["shard-0", "shard-63", "shard-5-table", "shard-5-told", "fleet", "control", "http"] {
        assert!(Role::of(name).is_some(), "{name}");
    }
    for name in
        ["", "unknown", "shard-", "shard-64", "shard-01", "shard-+1", "shard-1-", "shard-1-tables", "Control"]
    {
        assert_eq!(Role::of(name), None, "{name}");
    }
    assert_eq!(Role::of("shard-12"), Some(Role::Shard(12)));
    assert!(KNOWN.contains(&format!("shard-{}", SHARDS_MAX - 1)));
}

#[test]
fn variables_that_contradict_each_other_are_refused() {
    let names = |count: &str, names: Option<&str>| names_of(Some(count.to_owned()), names.map(str::to_owned));
    assert_eq!(names("2", Some("http:shard-0")).unwrap(), ["http", "shard-0"]);
    assert!(names("0", None).unwrap().is_empty());
    assert!(names_of(None, None).unwrap().is_empty());
    for (count, of, part) in [
        ("2", Some("http"), "has 1 names"),
        ("1", Some("a:b"), "has 2 names"),
        ("1", None, "LISTEN_FDNAMES is missing"),
        ("-1", Some("a"), "no count"),
        ("65536", Some("a"), "no count"),
    ] {
        let refusal = names(count, of).unwrap_err().to_string();
        assert!(refusal.contains(part) && refusal.contains("systemd"), "{refusal}");
    }
}

#[test]
fn a_name_that_is_not_known_is_refused_with_those_that_are() {
    let world = World::new();
    let refusal = world.refusal(1, [("shard0", world.socket(0).into())]);
    for part in ["\"shard0\"", "shard-0 to shard-63", "control", "http", "FileDescriptorName="] {
        assert!(refusal.contains(part), "{refusal}");
    }
}

#[test]
fn what_is_not_what_its_name_says_is_refused() {
    let unix = |kind| socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    let world = World::new();
    let connected = world.socket(1);
    connected.connect(world.path("shard-1.sock")).unwrap();
    let elsewhere = UnixDatagram::bind(world.path("elsewhere.sock")).unwrap();
    let stream = UnixListener::bind(world.path("shard-2.sock")).unwrap();
    let mut cases: Vec<(&str, OwnedFd, &str)> = vec![
        (
            "shard-0",
            fs::File::open("/dev/null").unwrap().into(),
            "is no socket, not a bound Unix datagram socket",
        ),
        ("shard-0", unix(SocketType::DGRAM), "is a Unix datagram socket without a path"),
        ("shard-0", UdpSocket::bind("127.0.0.1:0").unwrap().into(), "is a network datagram socket"),
        ("shard-1", connected.into(), "is a connected Unix datagram socket"),
        ("shard-2", stream.into(), "is a listening Unix stream socket"),
        ("shard-0", elsewhere.into(), "elsewhere.sock, and"),
    ];
    if cfg!(feature = "http") {
        cases.extend([
            ("control", unix(SocketType::STREAM), "is a Unix stream socket without a path, not a listening"),
            (
                "http",
                unix(SocketType::STREAM),
                "is a Unix stream socket without a path, not a listening TCP socket",
            ),
        ]);
    }
    for (name, fd, part) in cases {
        let refusal = world.refusal(3, [(name, fd)]);
        assert!(refusal.contains(&format!("passed as {name} ")) && refusal.contains(part), "{refusal}");
    }
}

#[test]
fn one_socket_may_be_passed_twice_but_not_two_of_one_name() {
    let world = World::new();
    let socket = world.socket(0);
    let again = || OwnedFd::from(socket.try_clone().unwrap());
    drop(world.start(1, [("shard-0", again()), ("shard-0", again())]).unwrap());
    fs::rename(world.path("shard-0.sock"), world.path("old")).unwrap();
    let refusal = world.refusal(1, [("shard-0", again()), ("shard-0", world.socket(0).into())]);
    assert!(refusal.contains("different sockets were passed as shard-0"), "{refusal}");
}

#[test]
fn what_no_observer_left_is_said_and_the_start_is_empty() {
    let file = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    for names in [&["shard-0-table", "fleet", "shard-0-table"][..], &["shard-0-told"], &["fleet"]] {
        let mut inherited: Inherited = names.iter().map(|name| ((*name).to_owned(), file())).collect();
        let world = World::new();
        let fleet = Fleet::start_with(world.plan(1), &mut inherited).unwrap();
        let is_said =
            |warning: &Warning| matches!(warning, Warning::StartsAnew { why } if why.contains("fleet"));
        assert!(fleet.warnings().iter().any(is_said), "{names:?}: {:?}", fleet.warnings());
        assert_eq!(inherited.names().count(), 0, "all were taken");
    }
}

#[test]
fn what_was_queued_before_the_start_is_taken_and_the_path_stays_for_the_next_one() {
    let world = World::new();
    let socket = world.socket(0);
    let passed = || [("shard-0", OwnedFd::from(socket.try_clone().unwrap()))];
    // Queued before the options are set: from nobody.
    world.beat(0, 1);
    let fleet = world.start(1, passed()).unwrap();
    let told = warnings(&fleet);
    assert!(told.contains("PassCredentials=yes") && told.contains("Timestamping=ns"), "{told}");
    wait_for(|| fleet.handle().snapshot().shards[0].refused[crate::Refusal::Unattested as usize].1 == 1);
    assert_eq!(fleet.handle().snapshot().agents(), 0);
    drop(fleet);
    assert!(world.path("shard-0.sock").exists() && world.path(MANIFEST).exists());
    // The options were set by the observer before.
    world.beat(0, 2);
    let fleet = world.start(1, passed()).unwrap();
    let told = warnings(&fleet);
    assert!(!told.contains("PassCredentials") && !told.contains("Timestamping"), "{told}");
    wait_for(|| fleet.handle().snapshot().agents() == 1);
    let expected = crate::sys::unix_socket::queue_limit().unwrap().min(65_536);
    assert_eq!(fleet.handle().snapshot().shards[0].queue_limit, u64::from(expected), "measured");
    drop(fleet);
    assert_eq!(
        fs::read_dir(world.directory.path()).unwrap().count(),
        5,
        "lock, manifest, symlink, socket and roster"
    );
}

#[test]
fn a_passed_socket_gets_its_path_back() {
    let world = World::new();
    let fleet = world.start(1, [("shard-0", world.socket(0).into())]).unwrap();
    fs::remove_file(world.path("shard-0.sock")).unwrap();
    wait_for(|| world.path("shard-0.sock").exists());
    world.beat(0, 1);
    wait_for(|| fleet.handle().snapshot().agents() == 1);
}

#[test]
fn sockets_that_were_not_passed_are_bound_and_surplus_ones_are_observed() {
    let world = World::new();
    let fleet =
        world.start(2, [("shard-3", world.socket(3).into()), ("shard-0", world.socket(0).into())]).unwrap();
    let told = warnings(&fleet);
    assert!(
        told.contains("the service manager passed shard-3, and shards = 2: this observer runs 4"),
        "{told}"
    );
    assert!(told.contains("did not pass shard-1, shard-2:"), "{told}");
    assert_eq!(fleet.plan().shards.len(), 4);
    assert_eq!(crate::Manifest::read(world.directory.path()).unwrap().shards.len(), 4);
    for shard in 0..4 {
        world.beat(shard, 1);
        wait_for(|| fleet.handle().snapshot().shards[shard].beats == 1);
    }
    drop(fleet);
    let left = |shard: usize| world.path(&format!("shard-{shard}.sock")).exists();
    assert_eq!([0, 1, 2, 3].map(left), [true, false, false, true]);
}

/// A later version may keep more than this one knows: a start after a downgrade goes without it.
#[test]
fn what_is_no_socket_and_has_no_known_name_is_not_used() {
    let world = World::new();
    let memory = || rustix::fs::memfd_create("later", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let passed = [("shard-0", world.socket(0).into()), ("shard-0-later", memory()), ("later", memory())];
    let fleet = world.start(1, passed).unwrap();
    let told = warnings(&fleet);
    assert!(told.contains("later, shard-0-later"), "{told}");
    world.beat(0, 1);
    wait_for(|| fleet.handle().snapshot().shards[0].beats == 1);
}

#[test]
fn fewer_shards_than_configured_and_none_at_all() {
    let world = World::new();
    let fleet = world.start(1, []).unwrap();
    assert!(!warnings(&fleet).contains("service manager"));
    drop(fleet);
    let fleet = world.start(1, [("shard-0", world.socket(0).into())]).unwrap();
    assert!(!warnings(&fleet).contains("service manager"), "all were passed");
}

#[cfg(feature = "http")]
#[test]
fn passed_listeners_are_served() {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    let world = World::new();
    let control = UnixListener::bind(world.path("control.sock")).unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = http.local_addr().unwrap();
    let fleet = world.start(1, [("http", http.into()), ("control", control.into())]).unwrap();
    assert_eq!(fleet.http_address(), Some(address));
    let ask = |stream: &mut dyn ReadWrite| {
        stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    trait ReadWrite: Read + Write {}
    impl<T: Read + Write> ReadWrite for T {}
    for answer in [
        ask(&mut UnixStream::connect(world.path("control.sock")).unwrap()),
        ask(&mut TcpStream::connect(address).unwrap()),
    ] {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    drop(fleet);
    assert!(world.path("control.sock").exists());

    let wide = TcpListener::bind("0.0.0.0:0").unwrap();
    let refusal = world.refusal(1, [("http", wide.into())]);
    assert!(
        refusal.contains("the socket that was passed as http") && refusal.contains("token-file"),
        "{refusal}"
    );
}
