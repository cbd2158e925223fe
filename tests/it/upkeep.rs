//! Another process removes or replaces the files by which agents find a running observer: connected agents
//! are not affected, and later ones find it again, or the operator learns why they cannot.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use crate::common::{Agent, AgentOptions, Client, Observer, Options, SOON, T, program, wait_for};
use varta_fleet::Manifest;

const ENOENT: u64 = 2;
const EEXIST: u64 = 17;
const EADDRINUSE: u64 = 98;

/// An observer of two shards, and on each an agent that connected before the fault.
struct World {
    observer: Observer,
    before: Vec<Agent>,
}

impl World {
    fn new(config: &str) -> Self {
        let mut observer = Observer::start(Options { config: config.to_owned(), ..Options::default() });
        let sockets = Manifest::read(&observer.dir()).expect("it is published").shards;
        let sockets = sockets
            .into_iter()
            .map(|shard| AgentOptions { sockets: vec![shard.socket], ..AgentOptions::default() });
        let before = Agent::start_many(&observer, sockets);
        for agent in &before {
            observer.expect("up", agent.pid(), SOON);
        }
        Self { observer, before }
    }

    /// Waits for the next `io` event, which must have this place, shard and errno.
    fn expect_io(&mut self, place: &str, shard: Option<u64>, errno: u64) {
        let told = self.observer.expect_kind("io", SOON);
        let its_shard = told.has("shard").then(|| told.u64("shard"));
        assert_eq!((told.str("place"), its_shard, told.u64("errno")), (place, shard, errno), "{told}");
    }

    fn expect_stderr(&self, text: &str) {
        wait_for("a word on standard error", || self.observer.stderr().contains(text).then_some(()));
    }

    /// Agents that start now are up, found in each documented way; earlier agents missed nothing; nothing is
    /// left behind.
    fn ends_well(mut self) {
        let options = (0..4).map(|_| AgentOptions::default());
        let dir = self.observer.dir();
        let after = Agent::start_many(&self.observer, options);
        let by_symlink = AgentOptions { sockets: vec![dir.join("varta.sock")], ..AgentOptions::default() };
        let by_symlink = Agent::start_with(&self.observer, by_symlink);
        for agent in after.iter().chain([&by_symlink]) {
            self.observer.expect("up", agent.pid(), SOON);
        }
        self.expect_nothing_lost();
        self.observer.stop();
    }

    fn expect_nothing_lost(&mut self) {
        // An agent that was lost would be stalled by then.
        self.observer.watch(T + T / 4);
        for agent in &mut self.before {
            self.observer.no_false_stall(agent);
            assert_eq!(self.observer.count("session", agent.pid()), 0, "it never connected again");
            assert_eq!(agent.report().failed, 0);
        }
        let table = self.observer.table();
        assert_eq!((table.shard(0, "lost"), table.shard(1, "lost")), (0, 0), "{table}");
    }
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap_or_else(|error| panic!("cannot remove {}: {error}", path.display()));
}

/// A bound path whose socket is closed.
fn leave_stale(path: &Path) {
    drop(UnixDatagram::bind(path).expect("a socket"));
    // A process that another test forks at this moment holds a copy until it calls exec.
    let is_open = || UnixDatagram::unbound().expect("a socket").connect(path).is_ok();
    wait_for("the last copy to be closed", || (!is_open()).then_some(()));
}

/// The names in a directory, without their random ends. The roster comes soon after the start.
fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("it is there")
        .map(|entry| entry.expect("its entries").file_name().into_string().expect("text"))
        .filter(|name| name != "roster")
        .map(|name| name.split_once('~').map_or(name.clone(), |(begin, _)| format!("{begin}~")))
        .collect();
    names.sort();
    names
}

const WHOLE: [&str; 11] = [
    ".control~",
    ".shard-0~",
    ".shard-1~",
    ".takeover~",
    "control.sock",
    "fleet.json",
    "lock",
    "shard-0.sock",
    "shard-1.sock",
    "takeover.sock",
    "varta.sock",
];

#[test]
fn fault_29_a_socket_that_is_removed_is_put_back_and_told() {
    let mut world = World::new("");
    let socket = world.observer.socket(1);
    let inode = fs::metadata(&socket).expect("it is bound").ino();
    // More than once: the observer makes a new spare for the path each time.
    for round in 1..=3 {
        remove(&socket);
        world.expect_io("socket", Some(1), 0);
        assert_eq!(fs::metadata(&socket).expect("it is back").ino(), inode, "the same socket, {round}");
        assert_eq!(fs::metadata(&socket).expect("it is back").permissions().mode() & 0o777, 0o600);
    }
    world.expect_stderr(&format!("warning: {} had been removed or replaced", socket.display()));
    assert_eq!(names_in(&world.observer.dir()), WHOLE);
    world.ends_well();
}

#[test]
fn fault_29_the_spare_of_a_socket_is_made_again() {
    let world = World::new("");
    let dir = world.observer.dir();
    let hidden = || {
        let names = fs::read_dir(&dir).expect("it is there").flatten().map(|entry| entry.file_name());
        let names = names.filter_map(|name| name.into_string().ok());
        names.filter(|name| name.starts_with(".shard-")).collect::<Vec<_>>()
    };
    let before = hidden();
    assert_eq!(before.len(), 2);
    for name in &before {
        remove(&dir.join(name));
    }
    wait_for("both spares", || (hidden().len() == 2).then_some(()));
    assert_eq!(names_in(&dir), WHOLE);
    world.ends_well();
}

#[test]
fn fault_29_a_stale_socket_in_its_place_is_replaced() {
    let mut world = World::new("");
    let socket = world.observer.socket(0);
    let aside = world.observer.place().base().join("stale");
    leave_stale(&aside);
    fs::rename(&aside, &socket).expect("replace the socket");
    world.expect_io("socket", Some(0), 0);
    assert_eq!(names_in(&world.observer.dir()), WHOLE);
    world.ends_well();
}

#[test]
fn fault_29_a_file_in_its_place_is_left_and_told_until_it_goes() {
    let mut world = World::new("");
    let socket = world.observer.socket(0);
    let aside = world.observer.place().base().join("file");
    fs::write(&aside, "precious").expect("write a file");
    fs::rename(&aside, &socket).expect("replace the socket");
    world.expect_io("socket", Some(0), EEXIST);
    world.expect_stderr(&format!("warning: agents that start now do not find {}", socket.display()));
    world.expect_stderr("a file that is not a socket is in the way; remove it");
    assert!(world.observer.table().to_string().contains("shard 0 has lost its socket's path"));
    // It is reported once, and the other shard works.
    world.expect_nothing_lost();
    let told = world.observer.events().iter().filter(|event| event.kind() == "io").count();
    assert_eq!(told, 1);
    let other = Agent::start_on(Client::Rust02, &world.observer, 1);
    world.observer.expect("up", other.pid(), SOON);

    assert_eq!(fs::read_to_string(&socket).expect("it is left"), "precious");
    remove(&socket);
    world.expect_io("socket", Some(0), 0);
    assert!(!world.observer.table().to_string().contains("has lost its socket"));
    world.ends_well();
}

#[test]
fn fault_29_somebody_elses_live_socket_in_its_place_is_left_alone() {
    let mut world = World::new("");
    let socket = world.observer.socket(1);
    let aside = world.observer.place().base().join("theirs");
    let theirs = UnixDatagram::bind(&aside).expect("a socket");
    fs::rename(&aside, &socket).expect("replace the socket");
    world.expect_io("socket", Some(1), EADDRINUSE);
    let sender = UnixDatagram::unbound().expect("a socket");
    assert_eq!(sender.send_to(b"theirs", &socket).expect("it is open"), 6);
    assert_eq!(theirs.recv(&mut [0; 8]).expect("it is received there"), 6);
    // Once closed, the socket is stale.
    drop(theirs);
    world.expect_io("socket", Some(1), 0);
    world.ends_well();
}

#[test]
fn fault_29_manifest_symlink_and_lock_are_written_again() {
    let mut world = World::new("");
    let dir = world.observer.dir();
    let manifest = Manifest::read(&dir).expect("it is published");
    for name in ["fleet.json", "varta.sock", "lock"] {
        remove(&dir.join(name));
        world.expect_io("directory", None, 0);
        assert_eq!(names_in(&dir), WHOLE);
    }
    assert_eq!(Manifest::read(&dir).expect("it is back"), manifest);
    // The lost lock does not let a second observer take over the directory.
    let second = program().args(["run", "--dir"]).arg(&dir).output();
    assert_eq!(second.expect("run a second observer").status.code(), Some(69));
    world.ends_well();
}

#[test]
fn fault_29_somebody_elses_symlink_is_left_and_told() {
    let mut world = World::new("");
    let link = world.observer.dir().join("varta.sock");
    remove(&link);
    // The rename works even if the observer has put the link back meanwhile.
    let aside = world.observer.place().base().join("link");
    symlink("elsewhere", &aside).expect("make a symlink");
    fs::rename(&aside, &link).expect("replace the symlink");
    let told = world.observer.expect_that("the symlink in the way", SOON, |event| {
        event.kind() == "io" && event.u64("errno") == EEXIST
    });
    assert_eq!(told.str("place"), "directory", "{told}");
    world.expect_stderr("varta.sock is in the way: it is not what this observer wrote");
    assert_eq!(fs::read_link(&link).expect("it is left"), Path::new("elsewhere"));
    assert!(world.observer.table().to_string().contains("the runtime directory is not in order"));
    remove(&link);
    world.expect_io("directory", None, 0);
    world.ends_well();
}

#[test]
fn fault_29_all_that_a_star_removes_is_put_back() {
    let mut world = World::new("");
    let dir = world.observer.dir();
    let status = Command::new("sh").args(["-c", "rm -rf \"$0\"/*"]).arg(&dir).status();
    assert!(status.expect("run a shell").success());
    // The observer may check while the shell removes; the next check finds the rest.
    wait_for("everything", || (names_in(&dir) == WHOLE).then_some(()));
    for shard in [0, 1] {
        world.observer.expect_that("a socket put back", SOON, |event| {
            event.kind() == "io" && event.str("place") == "socket" && event.u64("shard") == shard
        });
    }
    for file in ["control.sock", "takeover.sock"] {
        world.expect_stderr(&format!("{file} had been removed or replaced, and is in place again"));
    }
    world.ends_well();
}

#[test]
fn fault_29_without_a_name_left_it_goes_on_for_those_who_are_connected_and_says_so() {
    let mut world = World::new("");
    let dir = world.observer.dir();
    // A check during the removal may put something back.
    wait_for("the end of the directory", || fs::remove_dir_all(&dir).ok());
    for shard in [0, 1] {
        world.observer.expect_that("a socket that is lost", SOON, |event| {
            event.kind() == "io"
                && event.has("shard")
                && event.u64("shard") == shard
                && event.u64("errno") == ENOENT
        });
    }
    fs::create_dir(&dir).expect("make it again");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("it is ours");
    world.expect_stderr("every name of the socket was removed");
    world.expect_stderr("restart the observer");
    wait_for("manifest and symlink", || {
        (names_in(&dir) == ["fleet.json", "lock", "varta.sock"]).then_some(())
    });
    assert!(world.observer.table().to_string().contains("shard 1 has lost its socket's path"));
    world.expect_nothing_lost();
    world.observer.stop();
}

#[test]
fn fault_29_a_directory_that_was_moved_aside_is_filled_again_once_it_is_safe() {
    let world = World::new("");
    let dir = world.observer.dir();
    let aside = world.observer.place().base().join("aside");
    fs::rename(&dir, &aside).expect("move it aside");
    wait_for("a word that it is gone", || world.observer.stderr().contains("create it first").then_some(()));
    fs::create_dir(&dir).expect("make it again");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("it is ours");
    world.expect_stderr("is writable by its group or others (mode 0777)");
    assert!(names_in(&dir).is_empty(), "nothing is put where others could replace it");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("it is ours");
    wait_for("everything", || (names_in(&dir) == WHOLE).then_some(()));
    world.ends_well();
}

#[test]
fn fault_29_a_socket_outside_of_the_runtime_directory_is_looked_after_too() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let socket = elsewhere.path().join("first.sock");
    let config = format!("[[shard]]\nsocket = \"{}\"\n[[shard]]\n", socket.display());
    // What a killed observer left there.
    leave_stale(&elsewhere.path().join(".first~abc"));
    let mut world = World::new(&config);
    assert_eq!(names_in(elsewhere.path()), [".first~", "first.sock"]);
    remove(&socket);
    world.expect_io("socket", Some(0), 0);
    world.ends_well();
    assert!(names_in(elsewhere.path()).is_empty());
}

#[test]
fn fault_29_what_a_killed_observer_left_under_hidden_names_is_removed_by_the_next() {
    let first = Observer::start(Options::default());
    let place = first.kill();
    assert_eq!(names_in(&place.dir()), WHOLE);
    let second = Observer::start_in(place, Options::default());
    assert_eq!(names_in(&second.dir()), WHOLE);
    second.stop();
}
