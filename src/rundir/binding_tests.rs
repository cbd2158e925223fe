//! Paths of sockets that are free, stale, alive or in the way, on a real file system.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Barrier;

use super::*;

fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names_in(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn leave_stale(path: &Path) {
    drop(UnixDatagram::bind(path).unwrap());
    // A process that another test forks holds a copy of the descriptor until it executes its program.
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while UnixDatagram::unbound().unwrap().connect(path).is_ok() {
        assert!(std::time::Instant::now() < until, "somebody holds {} open", path.display());
        std::thread::yield_now();
    }
    assert!(path.exists());
}

/// Runs `what` as a user to whom file modes apply; as root, on a thread that runs as nobody.
fn unprivileged<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                // The system call itself changes this thread only, unlike libc's setuid.
                let nobody = Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            what()
        });
        thread.join().unwrap()
    })
}

#[test]
fn free_path_is_bound_and_removed_with_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let bound = bind(&path, 0o600).unwrap();
    assert_eq!(bound.path(), path);
    assert_eq!(names_in(dir.path()), ["s.sock"]);
    let stat = std::fs::symlink_metadata(&path).unwrap();
    assert_eq!(bound.file_id(), FileId { dev: stat.dev(), inode: stat.ino() });
    assert_eq!(bound.queue_limit(), unix_socket::queue_limit().unwrap());
    UnixDatagram::unbound().unwrap().send_to(b"beat", &path).unwrap();
    drop(bound);
    assert!(names_in(dir.path()).is_empty());
}

#[test]
fn every_mode_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o000, 0o600, 0o660, 0o666, 0o777, 0o622] {
        let bound = bind(&dir.path().join("s.sock"), mode).unwrap();
        assert_eq!(mode_of(bound.path()), mode, "{mode:o}");
    }
}

#[test]
fn mode_is_right_from_the_first_moment_and_no_name_ever_has_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    std::thread::scope(|scope| {
        let binder = scope.spawn(|| {
            for round in 0..300 {
                if round % 2 == 0 {
                    leave_stale(&dir.path().join("t.sock"));
                    std::fs::set_permissions(dir.path().join("t.sock"), PermissionsExt::from_mode(0o620))
                        .unwrap();
                    std::fs::rename(dir.path().join("t.sock"), &path).unwrap();
                }
                drop(bind(&path, 0o620).unwrap());
            }
        });
        while !binder.is_finished() {
            if let Ok(stat) = std::fs::symlink_metadata(&path) {
                assert_eq!(stat.permissions().mode() & 0o777, 0o620);
            }
            for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
                let is_ours = is_temporary(&entry.file_name());
                let mode = entry.metadata().map_or(0, |stat| stat.permissions().mode() & 0o777);
                assert!(!is_ours || mode & !0o620 == 0, "{entry:?} {mode:o}");
            }
        }
    });
}

#[test]
fn owner_is_set_where_we_may() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let owner = Owner { uid: Some(1234), gid: Some(4321) };
    match bind_as(&path, Kind::Receiver, 0o660, owner) {
        Ok(bound) => {
            let stat = std::fs::symlink_metadata(bound.path()).unwrap();
            assert_eq!((stat.uid(), stat.gid(), mode_of(&path)), (1234, 4321, 0o660));
        }
        Err(error) => {
            assert!(!rustix::process::geteuid().is_root());
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(names_in(dir.path()).is_empty());
        }
    }
}

#[test]
fn stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    leave_stale(&path);
    let bound = bind(&path, 0o600).unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"beat", &path).unwrap();
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(names_in(dir.path()), ["s.sock"]);
    drop(bound);
    assert!(names_in(dir.path()).is_empty());
}

#[test]
fn live_socket_is_refused_even_when_its_queue_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let first = bind(&path, 0o600).unwrap();
    for _ in 0..2 {
        let error = bind(&path, 0o600).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with("another observer is already running at /"), "{error}");
        // The second time its queue is full, whichever limit is reached first.
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.send_to(&[0; 32], &path).is_ok() {}
    }
    assert!(first.unlink_if_ours());
}

#[test]
fn live_socket_of_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let _incumbent = UnixDatagram::bind(&path).unwrap();
    assert!(matches!(bind(&path, 0o600), Err(BindError::InUse { .. })));
    let path = dir.path().join("t.sock");
    let _stream = UnixListener::bind(&path).unwrap();
    let what = InTheWay::OtherSocket;
    assert!(matches!(bind(&path, 0o600), Err(BindError::InTheWay { what: found, .. }) if found == what));
    assert_eq!(names_in(dir.path()), ["s.sock", "t.sock"]);
}

#[test]
fn not_allowed_to_ask_means_nothing_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    // The user may write here: only the probe fails.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let path = dir.path().join("s.sock");
    leave_stale(&path);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    let error = unprivileged(|| bind(&path, 0o600).unwrap_err());
    assert!(matches!(error, BindError::Probe { .. }), "{error}");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("nothing was removed"), "{error}");
    assert_eq!(names_in(dir.path()), ["s.sock"]);
}

#[test]
fn directory_we_may_not_write_to_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o555)).unwrap();
    let error = unprivileged(|| bind(&dir.path().join("s.sock"), 0o600).unwrap_err());
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(names_in(dir.path()).is_empty());
    let error = bind(&dir.path().join("absent/s.sock"), 0o600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().ends_with("; create its directory first"), "{error}");
}

#[test]
fn what_is_not_a_socket_stays() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "precious").unwrap();
    std::fs::create_dir(dir.path().join("directory")).unwrap();
    leave_stale(&dir.path().join("stale"));
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
    std::os::unix::fs::symlink("file", dir.path().join("link-file")).unwrap();
    std::os::unix::fs::symlink("stale", dir.path().join("link-stale")).unwrap();
    let before = names_in(dir.path());
    for (name, expected) in [
        ("file", InTheWay::File),
        ("directory", InTheWay::Directory),
        ("dangling", InTheWay::Symlink),
        ("link-file", InTheWay::Symlink),
        ("link-stale", InTheWay::Symlink),
    ] {
        let error = bind(&dir.path().join(name), 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
        assert!(matches!(error, BindError::InTheWay { what, .. } if what == expected), "{error}");
    }
    assert_eq!(names_in(dir.path()), before);
    assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "precious");
}

#[test]
fn path_that_is_no_name_is_refused() {
    for path in ["", "/", "..", "/tmp/..", "/tmp/x/", "/tmp/x/.", "a\0b"] {
        let error = bind(Path::new(path), 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path:?}: {error}");
    }
}

#[test]
fn longest_path_is_bound_and_a_longer_one_names_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let name = |path_bytes: usize| "x".repeat(path_bytes - dir.path().as_os_str().len() - 1);
    let path = dir.path().join(name(PATH_BYTES_MAX));
    let bound = bind(&path, 0o600).unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"beat", &path).unwrap();
    drop(bound);
    let error = bind(&dir.path().join(name(PATH_BYTES_MAX + 1)), 0o600).unwrap_err();
    assert!(error.to_string().contains("has 108 bytes, and 107 is the limit"), "{error}");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn leftover_names_of_a_crash_do_not_block() {
    let dir = tempfile::tempdir().unwrap();
    // The shortest name has the fewest temporary names: leave half of them behind.
    for letter in "abcdefghijklmnop".chars() {
        leave_stale(&dir.path().join(letter.to_string()));
    }
    let bound = bind(&dir.path().join("0"), 0o600).unwrap();
    assert_eq!(names_in(dir.path()).len(), 17);
    drop(bound);
    assert_eq!(names_in(dir.path()).len(), 16);
}

#[test]
fn temporary_names_are_as_long_and_recognised() {
    for name in ["s", "ab", "abcd", "abcde", "shard-0.sock"] {
        for random in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let temporary = temporary_name(OsStr::new(name), random);
            assert_eq!(temporary.len(), name.len());
            assert_eq!(is_temporary(&temporary), name.len() >= NAME_BYTES_MIN);
        }
    }
    assert!(!is_temporary(OsStr::new("shard-0.sock")));
    assert!(temporary_name(OsStr::new("shard-0.sock"), 7).as_bytes().starts_with(b".shard-0~"));
}

#[test]
fn of_many_binders_exactly_one_wins() {
    const BINDERS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    for round in 0..100 {
        if round % 2 == 0 {
            leave_stale(&path);
        }
        let barrier = Barrier::new(BINDERS);
        let results: Vec<_> = std::thread::scope(|scope| {
            let binder = || {
                barrier.wait();
                bind(&path, 0o600)
            };
            let threads: Vec<_> = (0..BINDERS).map(|_| scope.spawn(binder)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (winners, losers): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(winners.len(), 1, "round {round}: {losers:?}");
        for loser in losers {
            assert!(matches!(loser, Err(BindError::InUse { .. })), "{loser:?}");
        }
        assert_eq!(names_in(dir.path()), ["s.sock"]);
        drop(winners);
        assert!(names_in(dir.path()).is_empty());
    }
}

#[test]
fn only_our_own_path_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let bound = bind(&path, 0o600).unwrap();
    let _successor = UnixDatagram::bind(dir.path().join("t.sock")).unwrap();
    std::fs::rename(dir.path().join("t.sock"), &path).unwrap();
    assert!(!bound.unlink_if_ours());
    drop(bound);
    assert_eq!(names_in(dir.path()), ["s.sock"]);
    UnixDatagram::unbound().unwrap().send_to(b"beat", &path).unwrap();
}

#[test]
fn a_path_is_put_back_out_of_the_spare_and_the_spare_out_of_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard-0.sock");
    for has_stale in [false, true] {
        if has_stale {
            leave_stale(&path);
        }
        let mut bound = bind_as(&path, Kind::Receiver, 0o600, Owner::default()).unwrap();
        let spare = || names_in(dir.path()).into_iter().find(|name| is_temporary(name));
        let first = spare().unwrap();
        assert!(first.as_bytes().starts_with(b".shard-0~"), "{first:?}");
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(&path).unwrap();

        std::fs::remove_file(&path).unwrap();
        assert!(!bound.is_in_place());
        bound.put_back().unwrap();
        assert!(bound.is_in_place());
        bound.put_back().unwrap();
        std::fs::remove_file(&path).unwrap();
        leave_stale(&path);
        bound.put_back().unwrap();
        assert_eq!(mode_of(&path), 0o600);
        std::fs::remove_file(dir.path().join(&first)).unwrap();
        bound.renew_spare();
        let second = spare().unwrap();
        std::fs::remove_file(&path).unwrap();
        bound.put_back().unwrap();
        bound.renew_spare();
        assert_eq!(names_in(dir.path()), [second, "shard-0.sock".into()]);
        // It is the same queue all the time.
        sender.send(b"old").unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"new", &path).unwrap();
        for expected in [b"old", b"new"] {
            let mut bytes = [0; 8];
            let received = rustix::io::read(bound.fd(), &mut bytes).unwrap();
            assert_eq!(&bytes[..received], expected);
        }
        drop(bound);
        assert!(names_in(dir.path()).is_empty());
    }
}

#[test]
fn what_is_not_ours_to_replace_is_left_when_a_path_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard-0.sock");
    let bound = bind_as(&path, Kind::Receiver, 0o600, Owner::default()).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let error = bound.put_back().unwrap_err();
    assert_eq!((error.kind(), error.errno()), (io::ErrorKind::AlreadyExists, libc::EEXIST));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    let theirs = UnixDatagram::bind(&path).unwrap();
    assert!(matches!(bound.put_back(), Err(BindError::InUse { .. })));
    UnixDatagram::unbound().unwrap().send_to(b"theirs", &path).unwrap();
    assert_eq!(theirs.recv(&mut [0; 8]).unwrap(), 6);
    drop(bound);
    assert_eq!(names_in(dir.path()), ["shard-0.sock"]);
}

#[test]
fn a_socket_without_a_name_is_said_to_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    for (name, names) in [("shard-0.sock", 2), ("tiny", 1)] {
        let path = dir.path().join(name);
        let mut bound = bind_as(&path, Kind::Receiver, 0o600, Owner::default()).unwrap();
        assert_eq!(names_in(dir.path()).len(), names);
        for name in names_in(dir.path()) {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        bound.renew_spare();
        let error = bound.put_back().unwrap_err();
        assert!(matches!(error, BindError::Nameless { .. }), "{error}");
        assert!(error.to_string().contains("restart the observer"), "{error}");
    }
}

#[test]
fn leftovers_of_a_path_are_removed_and_nothing_alike() {
    let dir = tempfile::tempdir().unwrap();
    for stale in [".shard-0~abc", ".shard-1~abc", ".shard-00~abc", "shard-0~abcd"] {
        leave_stale(&dir.path().join(stale));
    }
    let _live = UnixDatagram::bind(dir.path().join(".shard-0~abd")).unwrap();
    std::fs::write(dir.path().join(".shard-0~abe"), "precious").unwrap();
    remove_leftovers_of(&dir.path().join("shard-0.sock"));
    remove_leftovers_of(&dir.path().join("tiny"));
    let left = [".shard-00~abc", ".shard-0~abd", ".shard-0~abe", ".shard-1~abc", "shard-0~abcd"];
    assert_eq!(names_in(dir.path()), left);
}

#[test]
fn every_refusal_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    leave_stale(&path);
    // Another process keeps the directory locked: the stale socket cannot be replaced.
    let held = std::fs::File::open(dir.path()).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let error = bind(&path, 0o600).unwrap_err();
    assert!(matches!(error, BindError::Contended { .. }), "{error}");
    assert_eq!(names_in(dir.path()), ["s.sock"]);
    drop(held);
    bind(&path, 0o600).unwrap();
}
