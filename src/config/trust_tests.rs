//! Real files: who may act and who may not. Root runs these tests, and plays other users.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use tempfile::TempDir;

use super::super::layers::Layers;
use super::super::problem::ProblemKind;
use super::*;

/// A user who is neither root nor anybody of this host.
const ALICE: u32 = 54_321;
const BOB: u32 = 54_322;

/// A directory that everybody may search and only root may write.
struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root, to give files to others");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of this user.
    fn file(&self, name: &str, mode: u32, uid: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        self.give(name, mode, uid);
        path
    }

    fn dir(&self, name: &str, mode: u32, uid: u32) -> PathBuf {
        fs::create_dir(self.path(name)).unwrap();
        self.give(name, mode, uid);
        self.path(name)
    }

    fn give(&self, name: &str, mode: u32, uid: u32) {
        chown(self.path(name), Some(uid), Some(uid)).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }
}

fn told(path: &Path, runner: &Runner) -> String {
    program(path, runner).map_or_else(|distrust| distrust.to_string(), |_| "fine".to_owned())
}

#[test]
fn a_program_may_act_if_nobody_else_can_change_it() {
    let scene = Scene::new();
    let (root, alice) = (Runner::own(), Runner::user(ALICE, vec![ALICE]));
    for (mode, owner, runner, expected) in [
        (0o755, 0, &root, "fine"),
        (0o700, 0, &root, "fine"),
        (0o555, 0, &alice, "fine"),
        (0o700, ALICE, &alice, "fine"),
        (0o4755, 0, &alice, "fine"),
        (0o644, 0, &root, "user 0 has no right to execute or search "),
        (0o700, 0, &alice, "user 54321 has no right to execute or search "),
        (0o655, ALICE, &alice, "user 54321 has no right to execute or search "),
        (0o775, 0, &root, "others can change "),
        (0o757, 0, &root, "others can change "),
        (0o1777, 0, &alice, "others can change "),
        (0o755, ALICE, &root, " belongs to user 54321, who can change it; chown root "),
        (0o755, BOB, &alice, " belongs to user 54322, who can change it; chown root "),
    ] {
        let path = scene.file("program", mode, owner);
        let told = told(&path, runner);
        assert!(told.contains(expected), "{mode:04o} of {owner} for {runner:?}: {told}");
        fs::remove_file(path).unwrap();
    }
    let path = scene.file("program", 0o764, 0);
    let text = told(&path, &root);
    assert_eq!(text, format!("others can change {0}: its mode is 0764; chmod go-w {0}", path.display()));
}

#[test]
fn so_must_every_directory_above_it() {
    let scene = Scene::new();
    let (root, alice) = (Runner::own(), Runner::user(ALICE, vec![ALICE]));
    scene.dir("a", 0o755, 0);
    scene.dir("a/b", 0o755, 0);
    let path = scene.file("a/b/program", 0o755, 0);
    for (mode, owner, runner, expected) in [
        (0o755, 0, &root, "fine"),
        (0o711, 0, &alice, "fine"),
        (0o700, ALICE, &alice, "fine"),
        // Nobody can replace the file of another there.
        (0o1777, 0, &root, "fine"),
        (0o777, 0, &root, "/a: its mode is 0777; chmod go-w "),
        (0o775, 0, &alice, "/a: its mode is 0775; chmod go-w "),
        (0o755, BOB, &alice, "/a belongs to user 54322"),
        (0o755, ALICE, &root, "/a belongs to user 54321"),
        (0o1777, BOB, &root, "/a belongs to user 54322"),
        (0o700, 0, &alice, "user 54321 has no right to execute or search "),
    ] {
        scene.give("a", mode, owner);
        let told = told(&path, runner);
        assert!(told.contains(expected), "{mode:04o} of {owner} for {runner:?}: {told}");
    }
}

#[test]
fn symlinks_to_a_program_are_followed_and_checked() {
    let scene = Scene::new();
    let root = Runner::own();
    scene.dir("real", 0o755, 0);
    scene.file("real/program", 0o755, 0);
    scene.dir("shared", 0o1777, 0);
    let link = |name: &str, target: &str, uid| {
        symlink(target, scene.path(name)).unwrap();
        std::os::unix::fs::lchown(scene.path(name), Some(uid), Some(uid)).unwrap();
        told(&scene.path(name), &root)
    };
    assert_eq!(link("relative", "real/program", 0), "fine");
    assert_eq!(link("absolute", scene.path("real/program").to_str().unwrap(), 0), "fine");
    assert_eq!(link("again", "./shared/../relative", 0), "fine");
    symlink("real", scene.path("dir")).unwrap();
    assert_eq!(told(&scene.path("dir/program"), &root), "fine");
    assert_eq!(told(&scene.path("dir/../real/./program"), &root), "fine");
    let foreign = link("shared/foreign", "../real/program", ALICE);
    assert!(foreign.contains("/shared/foreign belongs to user 54321"), "{foreign}");
    let dangling = link("dangling", "nowhere", 0);
    assert!(dangling.contains("there is no ") && dangling.contains("/nowhere; install it"), "{dangling}");
    let circle = link("circle", "circle", 0);
    assert!(circle.contains("/circle: "), "{circle}");
    scene.give("real", 0o777, 0);
    let behind = told(&scene.path("relative"), &root);
    assert!(behind.contains("/real: its mode is 0777"), "{behind}");
}

#[test]
fn what_is_no_program_may_not_act() {
    let scene = Scene::new();
    let root = Runner::own();
    let missing = scene.path("missing");
    assert_eq!(
        told(&missing, &root),
        format!("there is no {}; install it, or correct the path", missing.display())
    );
    let dir = scene.dir("dir", 0o755, 0);
    assert!(told(&dir, &root).contains("/dir is not a regular file; name a regular file"));
    assert!(told(Path::new("/"), &root).contains("is not a regular file"));
    assert!(told(Path::new("/dev/null"), &root).contains("/dev/null is not a regular file"));
    let file = scene.file("file", 0o755, 0);
    assert!(
        told(&file.join("below"), &root).contains("/file: not a directory"),
        "{}",
        told(&file.join("below"), &root)
    );
    assert!(told(Path::new(&format!("{}/", file.display())), &root).contains("is not a regular file"));
}

/// A spawner of another user may run what root and we have installed; whether that user may execute it is for it to say.
#[test]
fn of_a_spawner_that_is_a_service_the_user_is_not_known() {
    let scene = Scene::new();
    let own = Runner { uid: ALICE, groups: vec![], may_be_another: true };
    assert_eq!(told(&scene.file("roots", 0o700, 0), &own), "fine");
    assert_eq!(told(&scene.file("ours", 0o700, ALICE), &own), "fine");
    assert!(told(&scene.file("plain", 0o644, 0), &own).contains("has no right to execute"));
    assert!(told(&scene.file("bobs", 0o755, BOB), &own).contains("belongs to user 54322"));
}

#[test]
fn groups_of_an_account_may_execute() {
    let stat = |mode, uid, gid| {
        let mut stat = rustix::fs::stat("/").unwrap();
        (stat.st_mode, stat.st_uid, stat.st_gid) = (mode, uid, gid);
        stat
    };
    let alice = Runner { uid: ALICE, groups: vec![7, 8], may_be_another: false };
    assert!(alice.may_execute(&stat(0o100_010, 0, 8)));
    assert!(!alice.may_execute(&stat(0o100_701, 0, 8)), "the kernel looks no further than the group");
    assert!(!alice.may_execute(&stat(0o100_011, ALICE, 8)), "nor than the owner");
    assert!(alice.may_execute(&stat(0o100_001, 0, 9)));
}

const ACTION: &str =
    "dir = \"/tmp/varta\"\n[[action]]\nname = \"a\"\non = [\"stall\"]\nmatch = { uid = 7 }\nsignal = 6\n";

/// The problems of this file, in words.
fn problems(path: &Path) -> Vec<String> {
    let mut layers = Layers::default();
    layers.file(path);
    let error = layers.plan().err();
    let all = error.iter().flat_map(|error| error.problems());
    all.map(|problem| {
        assert_eq!(problem.kind, ProblemKind::Refused);
        problem.to_string()
    })
    .collect()
}

#[test]
fn a_configuration_may_say_what_is_done_if_nobody_else_can_write_it() {
    let scene = Scene::new();
    for (mode, owner, expected) in [
        (0o644, 0, ""),
        (0o600, 0, ""),
        (0o400, 0, ""),
        (0o444, 0, ""),
        (0o755, 0, ""),
        (0o664, 0, "its mode is 0664; chmod go-w "),
        (0o660, 0, "its mode is 0660"),
        (0o646, 0, "its mode is 0646"),
        (0o602, 0, "its mode is 0602"),
        (0o666, 0, "its mode is 0666"),
        (0o1666, 0, "its mode is 1666"),
        (0o644, ALICE, " belongs to user 54321, who can change it; chown root "),
    ] {
        for text in [ACTION, "dir = \"/tmp/varta\"\n[brake]\nrunning = 2\n"] {
            let path = scene.path("varta.toml");
            fs::write(&path, text).unwrap();
            scene.give("varta.toml", mode, owner);
            let told = problems(&path);
            match expected {
                "" => assert!(told.is_empty(), "{mode:04o} of {owner}: {told:?}"),
                expected => {
                    assert!(told.len() == 1 && told[0].contains(expected), "{mode:04o} of {owner}: {told:?}");
                    let what = if text == ACTION { "[[action]] (" } else { "brake (" };
                    assert!(
                        told[0].starts_with(&format!("cannot use {what}")) && told[0].contains("line 2): "),
                        "{told:?}"
                    );
                }
            }
            // What nothing is done by may belong to anybody.
            fs::write(&path, "dir = \"/tmp/varta\"\n").unwrap();
            assert_eq!(problems(&path), [""; 0]);
        }
    }
}

#[test]
fn a_configuration_that_acts_is_named_without_symlinks_and_is_a_file() {
    let scene = Scene::new();
    scene.dir("real", 0o755, 0);
    let path = scene.path("real/varta.toml");
    fs::write(&path, ACTION).unwrap();
    assert_eq!(problems(&path), [""; 0]);
    symlink("real", scene.path("dir")).unwrap();
    symlink("real/varta.toml", scene.path("file")).unwrap();
    for path in [scene.path("dir/varta.toml"), scene.path("file")] {
        let told = problems(&path);
        let real = scene.path("real/varta.toml").canonicalize().unwrap();
        assert!(told.len() == 1 && told[0].contains("a symlink is in the path"), "{told:?}");
        assert!(told[0].ends_with(&format!("; name {}", real.display())), "{told:?}");
    }
    let pipe = scene.path("pipe");
    rustix::fs::mkfifoat(CWD, &pipe, Mode::from(0o600)).unwrap();
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, ACTION).unwrap()
    });
    let told = problems(&pipe);
    writer.join().unwrap();
    assert!(told.len() == 1 && told[0].contains("/pipe is not a regular file"), "{told:?}");
}

/// The kernel's way and ours say the same.
#[test]
fn a_path_is_opened_by_steps_as_at_once() {
    let scene = Scene::new();
    scene.dir("real", 0o755, 0);
    scene.file("real/file", 0o600, 0);
    symlink("real", scene.path("dir")).unwrap();
    symlink("real/file", scene.path("link")).unwrap();
    for (name, is_open) in [
        ("real/file", true),
        ("real/../real/./file", true),
        ("dir/file", false),
        ("link", false),
        ("none", false),
    ] {
        let path = scene.path(name);
        for opened in [without_symlinks(&path), by_steps(&path)] {
            assert_eq!(opened.is_ok(), is_open, "{name}: {opened:?}");
            if let Ok(opened) = opened {
                let mut text = String::new();
                File::from(opened).read_to_string(&mut text).unwrap();
                assert_eq!(text, "#!/bin/sh\n");
            }
        }
    }
    assert!(by_steps(Path::new("Cargo.toml")).is_ok() && by_steps(Path::new("src/../Cargo.toml")).is_ok());
}

/// Each program is checked as the user that it runs as.
#[test]
fn programs_of_actions_are_checked_when_they_are_read() {
    let scene = Scene::new();
    let program = scene.file("program", 0o755, 0);
    let path = scene.path("varta.toml");
    let write = |program: &Path| {
        let run = format!("run = [\"{}\", \"{{pid}}\"]\n", program.display());
        fs::write(&path, format!("{}{run}", ACTION.replace("signal = 6\n", ""))).unwrap();
        problems(&path)
    };
    assert_eq!(write(&program), [""; 0]);
    scene.give("program", 0o777, 0);
    let told = write(&program);
    assert!(
        told.len() == 1
            && told[0].starts_with("cannot use run = [")
            && told[0].contains("line 6): others can change "),
        "{told:?}"
    );
    let told = write(&scene.path("none"));
    assert!(told.len() == 1 && told[0].contains("/none; install it, or correct the path"), "{told:?}");
}
