//! Runtime directories as they are found, used and left, on a real file system.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;

use rustix::fs::Uid;

use super::*;

fn socket_path(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("shard-{index}.sock"))
}

/// A directory that is safe whatever the umask.
fn tempdir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    chmod(dir.path(), 0o755);
    dir
}

fn create_dir(path: &Path) {
    std::fs::create_dir(path).unwrap();
    chmod(path, 0o755);
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Temporary names end in `xxx` instead of random characters.
fn names_in(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name();
        let is_temporary = binding::is_temporary(&name);
        let name = name.into_string().unwrap();
        names.push(if is_temporary { format!("{}xxx", &name[..name.len() - 3]) } else { name });
    }
    names.sort();
    names
}

fn bind_all(run: &RunDir, count: usize) -> (Vec<BoundSocket>, Vec<PathBuf>) {
    let paths: Vec<_> = (0..count).map(|index| socket_path(run.path(), index)).collect();
    let bound = paths
        .iter()
        .map(|path| run.bind_shard(path, Kind::Receiver, 0o600, Owner::default()).unwrap())
        .collect();
    (bound, paths)
}

/// The first problem of `dir` from `open`, and all from `inspect`.
fn problems(dir: &Path) -> (RunDirError, Vec<RunDirError>) {
    (RunDir::open(dir).unwrap_err(), inspect(dir))
}

#[test]
fn whole_life_leaves_only_the_lock() {
    let parent = tempdir();
    let dir = parent.path().join("varta");
    assert!(inspect(&dir).is_empty());
    assert!(!dir.exists());
    let mut run = RunDir::open(&dir).unwrap();
    assert_eq!(mode_of(&dir), 0o755);
    assert_eq!(mode_of(&dir.join(LOCK)), 0o600);
    assert_eq!(std::fs::read_to_string(dir.join(LOCK)).unwrap(), format!("{}\n", std::process::id()));
    let (bound, paths) = bind_all(&run, 3);
    run.publish(&paths, &[]).unwrap();
    assert_eq!(
        names_in(&dir),
        [
            ".shard-0~xxx",
            ".shard-1~xxx",
            ".shard-2~xxx",
            "fleet.json",
            "lock",
            "shard-0.sock",
            "shard-1.sock",
            "shard-2.sock",
            "varta.sock"
        ]
    );
    assert!(inspect(&dir).is_empty(), "a running fleet is no problem");

    let manifest = Manifest::read(&dir).unwrap();
    assert_eq!(manifest, Manifest::new(&paths, std::process::id()));
    assert_eq!(mode_of(&dir.join(MANIFEST)), 0o644);
    assert_eq!(std::fs::read_link(dir.join(SYMLINK)).unwrap(), Path::new("shard-0.sock"));
    UnixDatagram::unbound().unwrap().send_to(b"beat", dir.join(SYMLINK)).unwrap();

    drop(bound);
    drop(run);
    assert_eq!(names_in(&dir), ["lock"]);
    assert_eq!(std::fs::read_to_string(dir.join(LOCK)).unwrap(), "");
    RunDir::open(&dir).unwrap();
}

/// A reader finds the sockets if the directory is mounted under another name, as in a container.
#[test]
fn what_agents_read_holds_where_the_directory_is_called_otherwise() {
    let parent = tempdir();
    let (dir, elsewhere) = (parent.path().join("varta"), parent.path().join("mounted"));
    let apart = tempdir();
    let mut run = RunDir::open(&dir).unwrap();
    create_dir(&dir.join("deep"));
    // In the directory, below it, in it by another path, and in another directory.
    symlink(&dir, parent.path().join("alias")).unwrap();
    let names = ["varta/a.sock", "varta/deep/b.sock", "alias/c.sock"];
    let mut paths: Vec<_> = names.iter().map(|name| parent.path().join(name)).collect();
    paths.push(apart.path().join("d.sock"));
    let bound: Vec<_> = paths
        .iter()
        .map(|path| run.bind_shard(path, Kind::Receiver, 0o600, Owner::default()).unwrap())
        .collect();
    run.publish(&paths, &[]).unwrap();
    let sockets = |dir: &Path| -> Vec<_> {
        Manifest::read(dir).unwrap().shards.into_iter().map(|shard| shard.socket).collect()
    };
    let expected =
        |dir: &Path| [dir.join("a.sock"), dir.join("deep/b.sock"), dir.join("c.sock"), paths[3].clone()];
    assert_eq!(sockets(&dir), expected(&dir));
    std::fs::rename(&dir, &elsewhere).unwrap();
    assert_eq!(sockets(&elsewhere), expected(&elsewhere));
    for socket in sockets(&elsewhere).into_iter().chain([elsewhere.join(SYMLINK)]) {
        UnixDatagram::unbound().unwrap().send_to(b"beat", socket).unwrap();
    }
    drop(bound);
}

#[test]
fn second_observer_is_told_who_holds_the_lock() {
    let dir = tempdir();
    let first = RunDir::open(dir.path()).unwrap();
    let error = RunDir::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let pid = std::process::id();
    assert!(error.to_string().starts_with(&format!("another observer (pid {pid}) is already running in /")));
    assert!(matches!(error, RunDirError::Busy { holder: Some(holder), .. } if holder == pid));
    drop(first);
    // The pid of an exited process is not used: only the lock counts.
    std::fs::write(dir.path().join(LOCK), "1\n and more text than ever belongs here").unwrap();
    let _second = RunDir::open(dir.path()).unwrap();
    assert!(
        matches!(RunDir::open(dir.path()), Err(RunDirError::Busy { holder: Some(holder), .. }) if holder == pid)
    );
    std::fs::write(dir.path().join(LOCK), "").unwrap();
    assert!(matches!(RunDir::open(dir.path()), Err(RunDirError::Busy { holder: None, .. })));
}

/// A child that the program forked has a copy of each descriptor until it executes another program.
#[test]
fn a_lock_is_released_though_another_process_has_a_copy() {
    let dir = tempdir();
    let first = RunDir::open(dir.path()).unwrap();
    let copy = first.held.lock.try_clone().unwrap();
    drop(first);
    let _second = RunDir::open(dir.path()).unwrap();
    drop(copy);
    assert!(matches!(RunDir::open(dir.path()), Err(RunDirError::Busy { .. })), "the copy releases nothing");
}

#[test]
fn lock_outlives_the_removal_of_its_file_only_for_its_holder() {
    let dir = tempdir();
    let _first = RunDir::open(dir.path()).unwrap();
    std::fs::rename(dir.path().join(LOCK), dir.path().join("moved")).unwrap();
    // The lock cannot prevent this, but the sockets still protect themselves.
    let (second, path) = (RunDir::open(dir.path()).unwrap(), dir.path().join("s.sock"));
    let _bound = second.bind_shard(&path, Kind::Receiver, 0o600, Owner::default()).unwrap();
    assert!(matches!(binding::bind(&path, 0o600), Err(BindError::InUse { .. })));
}

#[test]
fn lock_must_be_a_regular_file() {
    for make in [
        (|path| symlink("elsewhere", path).unwrap()) as fn(&Path),
        |path| std::fs::create_dir(path).unwrap(),
        |path| rustix::fs::mkfifoat(CWD, path, LOCK_MODE).unwrap(),
        |path| drop(UnixDatagram::bind(path).unwrap()),
    ] {
        let dir = tempdir();
        make(&dir.path().join(LOCK));
        let (error, all) = problems(dir.path());
        assert!(matches!(error, RunDirError::InTheWay { .. }), "{error}");
        assert!(matches!(all[..], [RunDirError::InTheWay { .. }]), "{all:?}");
        assert_eq!(names_in(dir.path()), ["lock"]);
    }
}

#[test]
fn directory_others_can_write_to_is_refused() {
    for mode in [0o775, 0o757, 0o777, 0o1777] {
        let parent = tempdir();
        let dir = parent.path().join("varta");
        create_dir(&dir);
        chmod(&dir, mode);
        let (error, all) = problems(&dir);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&format!("(mode {mode:04o})")), "{error}");
        assert!(matches!(all[..], [RunDirError::Writable { .. }]), "{all:?}");
        assert!(names_in(&dir).is_empty());
    }
}

#[test]
fn parents_are_judged_only_by_what_everybody_may_do() {
    let parent = tempdir();
    let dir = parent.path().join("middle/varta");
    create_dir(dir.parent().unwrap());
    create_dir(&dir);
    for (mode, is_exposed) in [(0o755, false), (0o775, false), (0o1777, false), (0o777, true)] {
        chmod(parent.path(), mode);
        let all = inspect(&dir);
        assert_eq!(matches!(all[..], [RunDirError::ExposedParent { .. }]), is_exposed, "{mode:o} {all:?}");
        assert_eq!(RunDir::open(&dir).is_err(), is_exposed, "{mode:o}");
    }
    assert!(RunDir::open(&parent.path().join("new")).is_err());
    assert!(!parent.path().join("new").exists(), "made where it may not be used");
    // Also a parent that is only above the target of a symlink.
    let linked = tempdir();
    symlink(parent.path().join("middle"), linked.path().join("alias")).unwrap();
    let (error, _) = problems(&linked.path().join("alias/varta"));
    assert!(
        matches!(&error, RunDirError::ExposedParent { parent: found, .. } if found == parent.path()),
        "{error}"
    );
}

#[test]
fn foreign_directories_and_symlinks_are_refused_and_ours_taken() {
    let parent = tempdir();
    let dir = parent.path().join("varta");
    create_dir(&dir);
    let alias = parent.path().join("alias");
    symlink(&dir, &alias).unwrap();
    let mut run = RunDir::open(&alias).unwrap();
    let (_bound, paths) = bind_all(&run, 1);
    run.publish(&paths, &[]).unwrap();
    for name in [&dir, &alias] {
        assert_eq!(Manifest::read(name).unwrap().socket_for(0), name.join("shard-0.sock"));
    }
    drop(run);
    symlink("nowhere", parent.path().join("dangling")).unwrap();
    assert!(RunDir::open(&parent.path().join("dangling")).is_err());
    assert!(!parent.path().join("nowhere").exists());

    // Files of another user can be made only by root.
    if rustix::process::geteuid().is_root() {
        let stranger = Some(Uid::from_raw(1234));
        rustix::fs::chownat(CWD, &alias, stranger, None, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let (error, all) = problems(&alias);
        assert!(matches!(error, RunDirError::ForeignSymlink { uid: 1234, .. }), "{error}");
        assert!(matches!(all[..], [RunDirError::ForeignSymlink { .. }]), "{all:?}");
        rustix::fs::chownat(CWD, &dir, stranger, None, AtFlags::empty()).unwrap();
        let (error, all) = problems(&dir);
        assert!(matches!(error, RunDirError::ForeignOwner { uid: 1234, .. }), "{error}");
        assert!(matches!(all[..], [RunDirError::ForeignOwner { .. }]), "{all:?}");
    } else {
        assert!(is_trusted(0) && !is_trusted(rustix::process::geteuid().as_raw() + 1));
    }
}

#[test]
fn all_problems_are_told_at_once_and_nothing_is_changed() {
    let parent = tempdir();
    chmod(parent.path(), 0o777);
    let dir = parent.path().join("varta");
    create_dir(&dir);
    chmod(&dir, 0o777);
    std::fs::create_dir(dir.join(LOCK)).unwrap();
    std::fs::create_dir(dir.join(MANIFEST)).unwrap();
    std::fs::write(dir.join(SYMLINK), "precious").unwrap();
    let all = inspect(&dir);
    let told: Vec<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!(all.len(), 5, "{told:#?}");
    assert_eq!(names_in(&dir), [MANIFEST, LOCK, SYMLINK]);
    assert_eq!(mode_of(&dir), 0o777);
    for message in told {
        assert!(message.contains("; ") && !message.ends_with('.'), "{message}");
    }
}

#[test]
fn what_is_no_directory_is_refused() {
    let parent = tempdir();
    let file = parent.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let (error, all) = problems(&file);
    assert!(matches!(error, RunDirError::NotADirectory { .. }), "{error}");
    assert!(matches!(all[..], [RunDirError::NotADirectory { .. }]), "{all:?}");
    let (error, all) = problems(&parent.path().join("absent/varta"));
    assert!(matches!(error, RunDirError::Create { .. }), "{error}");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(matches!(all[..], [RunDirError::Create { .. }]), "{all:?}");
}

#[test]
fn not_being_allowed_is_a_permission_error() {
    let parent = tempdir();
    let (dir, absent) = (parent.path().join("varta"), parent.path().join("absent"));
    create_dir(&dir);
    chmod(&dir, 0o555);
    chmod(parent.path(), 0o555);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                let nobody = Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            for dir in [&dir, &absent] {
                let (error, all) = problems(dir);
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
                assert_eq!(all.len(), 1, "{all:?}");
                assert_eq!(all[0].kind(), io::ErrorKind::PermissionDenied, "{all:?}");
            }
        });
    });
    chmod(parent.path(), 0o755);
}

#[test]
fn symlink_is_replaced_but_nothing_else_is() {
    let dir = tempdir();
    let alias = dir.path().join(SYMLINK);
    symlink("left-by-a-crash", &alias).unwrap();
    symlink("left-by-a-crash", dir.path().join(SYMLINK_NEW)).unwrap();
    std::fs::write(dir.path().join(MANIFEST_NEW), "left by a crash").unwrap();
    std::fs::write(dir.path().join(MANIFEST), "left by a crash").unwrap();
    let mut run = RunDir::open(dir.path()).unwrap();
    let (_bound, paths) = bind_all(&run, 2);
    run.publish(&paths, &[]).unwrap();
    run.publish(&paths, &[]).unwrap();
    assert_eq!(std::fs::read_link(&alias).unwrap(), Path::new("shard-0.sock"));
    assert_eq!(
        names_in(dir.path()),
        [".shard-0~xxx", ".shard-1~xxx", "fleet.json", "lock", "shard-0.sock", "shard-1.sock", "varta.sock"]
    );
    run.withdraw();
    let bound = [".shard-0~xxx", ".shard-1~xxx", "lock", "shard-0.sock", "shard-1.sock"];
    assert_eq!(names_in(dir.path()), bound);

    std::fs::write(&alias, "precious").unwrap();
    let error = run.publish(&paths, &[]).unwrap_err();
    assert!(matches!(error, RunDirError::InTheWay { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&alias).unwrap(), "precious");
    assert!(!dir.path().join(MANIFEST).exists(), "half a publication");
}

#[test]
fn no_symlink_where_a_shard_is_bound() {
    let dir = tempdir();
    let mut run = RunDir::open(dir.path()).unwrap();
    let own = dir.path().join(SYMLINK);
    let bound = run.bind_shard(&own, Kind::Receiver, 0o600, Owner::default()).unwrap();
    // The same path, written differently.
    let alias = tempdir();
    symlink(dir.path(), alias.path().join("d")).unwrap();
    for written in [own.clone(), alias.path().join("d").join(SYMLINK)] {
        run.publish(&[socket_path(dir.path(), 0), written], &[]).unwrap();
        assert_eq!(mode_of(&own), 0o600);
        UnixDatagram::unbound().unwrap().send_to(b"beat", &own).unwrap();
    }
    assert!(inspect(dir.path()).is_empty());
    drop(run);
    assert_eq!(names_in(dir.path()), [".varta~xxx", "lock", "varta.sock"]);
    drop(bound);
    assert_eq!(names_in(dir.path()), ["lock"]);
}

#[test]
fn only_our_own_files_are_withdrawn() {
    let dir = tempdir();
    let mut run = RunDir::open(dir.path()).unwrap();
    let (_bound, paths) = bind_all(&run, 1);
    run.publish(&paths, &[]).unwrap();
    for name in [MANIFEST, SYMLINK] {
        std::fs::write(dir.path().join("theirs"), "theirs").unwrap();
        std::fs::rename(dir.path().join("theirs"), dir.path().join(name)).unwrap();
    }
    drop(run);
    for name in [MANIFEST, SYMLINK] {
        assert_eq!(std::fs::read_to_string(dir.path().join(name)).unwrap(), "theirs");
    }
}

#[test]
fn leftovers_of_a_crash_are_removed_and_nothing_alike() {
    let dir = tempdir();
    let path = |name: &str| dir.path().join(name);
    drop(UnixDatagram::bind(path(".shard-0~abc")).unwrap());
    drop(UnixDatagram::bind(path("shard-0.sock")).unwrap());
    // A process that another test forks holds a copy of the descriptor until it executes its program.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while UnixDatagram::unbound().unwrap().connect(path(".shard-0~abc")).is_ok() {
        assert!(std::time::Instant::now() < until, "somebody holds the leftover open");
        std::thread::yield_now();
    }
    let _live = UnixDatagram::bind(path(".shard-1~abc")).unwrap();
    std::fs::write(path(".notes~abc"), "precious").unwrap();
    symlink("shard-0.sock", path(".alias-0~abc")).unwrap();
    let _run = RunDir::open(dir.path()).unwrap();
    assert_eq!(names_in(dir.path()), [".alias-0~xxx", ".notes~xxx", ".shard-1~xxx", "lock", "shard-0.sock"]);
}

#[test]
fn what_was_published_is_written_again_where_it_was_removed_and_left_where_it_was_replaced() {
    let dir = tempdir();
    let mut run = RunDir::open(dir.path()).unwrap();
    let (_bound, paths) = bind_all(&run, 2);
    run.publish(&paths, &[]).unwrap();
    assert!(!run.look_after().unwrap());
    let path = |name: &str| dir.path().join(name);
    for name in [MANIFEST, SYMLINK] {
        std::fs::remove_file(path(name)).unwrap();
        assert!(run.look_after().unwrap());
        assert!(!run.look_after().unwrap());
    }
    assert_eq!(Manifest::read(dir.path()).unwrap(), Manifest::new(&paths, std::process::id()));
    assert_eq!(std::fs::read_link(path(SYMLINK)).unwrap(), Path::new("shard-0.sock"));

    // One is replaced, the other removed: only the removed one is written again.
    std::fs::remove_file(path(SYMLINK)).unwrap();
    symlink("theirs", path(SYMLINK)).unwrap();
    std::fs::remove_file(path(MANIFEST)).unwrap();
    let error = run.look_after().unwrap_err();
    assert_eq!(error.errno(), libc::EEXIST);
    assert!(error.to_string().contains("varta.sock is in the way"), "{error}");
    assert!(path(MANIFEST).exists());
    assert_eq!(std::fs::read_link(path(SYMLINK)).unwrap(), Path::new("theirs"));

    // Nothing is written to a directory in which others could replace it.
    std::fs::remove_file(path(MANIFEST)).unwrap();
    chmod(dir.path(), 0o777);
    let error = run.look_after().unwrap_err();
    assert!(matches!(error, RunDirError::Writable { .. }), "{error}");
    chmod(dir.path(), 0o755);
    drop(run);
    assert_eq!(std::fs::read_link(path(SYMLINK)).unwrap(), Path::new("theirs"));
}

#[test]
fn a_lock_that_was_removed_is_taken_again_unless_somebody_else_has_it() {
    let parent = tempdir();
    let dir = parent.path().join("varta");
    let mut run = RunDir::open(&dir).unwrap();
    assert!(!run.hold().unwrap());
    std::fs::remove_file(dir.join(LOCK)).unwrap();
    assert!(run.hold().unwrap());
    assert!(!run.hold().unwrap());
    assert!(matches!(RunDir::open(&dir), Err(RunDirError::Busy { .. })));

    // Another directory must be as safe as the first.
    std::fs::rename(&dir, parent.path().join("aside")).unwrap();
    let error = run.hold().unwrap_err();
    assert_eq!(error.errno(), libc::ENOENT, "{error}");
    create_dir(&dir);
    chmod(&dir, 0o777);
    assert!(matches!(run.hold(), Err(RunDirError::Writable { .. })));
    chmod(&dir, 0o755);
    let other = RunDir::open(&dir).unwrap();
    assert_eq!(run.hold().unwrap_err().errno(), libc::EADDRINUSE);
    drop(other);
    assert!(run.hold().unwrap());
    assert!(matches!(RunDir::open(&dir), Err(RunDirError::Busy { .. })));
}
