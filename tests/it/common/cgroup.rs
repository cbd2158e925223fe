//! Control groups for tests, of either version.

use std::fs;
use std::path::{Path, PathBuf};

use super::needs_root;

/// A new control group at the top of a hierarchy. Its processes have to be gone, or moved, before it is removed.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// A group of the controller, which has this file in version 2 and that in version 1.
    ///
    /// # Panics
    /// If there is none: a test that cannot run must not pass.
    pub fn new(name: &str, controller: &str, [in_v2, in_v1]: [&str; 2]) -> Self {
        needs_root("it makes a cgroup");
        let mounts = fs::read_to_string("/proc/mounts").expect("read the mounts");
        let mut tried = Vec::new();
        for mount in mounts.lines() {
            let fields: Vec<_> = mount.split(' ').collect();
            let [_, at, kind, options, ..] = fields[..] else { continue };
            let is_v2 = kind == "cgroup2";
            let is_v1 = kind == "cgroup" && options.split(',').any(|option| option == controller);
            if !is_v1 && !is_v2 {
                continue;
            }
            // Refused for a controller that is part of every group.
            let _ = fs::write(Path::new(at).join("cgroup.subtree_control"), format!("+{controller}"));
            let path = Path::new(at).join(name);
            if let Err(error) = fs::create_dir(&path) {
                tried.push(format!("{}: {error}", path.display()));
                continue;
            }
            if path.join(if is_v2 { in_v2 } else { in_v1 }).exists() {
                return Self { path, is_v2 };
            }
            let _ = fs::remove_dir(&path);
        }
        panic!(
            "no cgroup with {controller}: mount one of version 2, or that controller of version 1; tried {tried:?}"
        );
    }

    /// Whether it is of version 2.
    pub const fn is_v2(&self) -> bool {
        self.is_v2
    }

    /// Its name: that of a unit, if it ends as one.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).expect("made of ASCII")
    }

    /// Moves a process with all its threads into it.
    pub fn add(&self, pid: u32) {
        self.write("cgroup.procs", &pid.to_string());
    }

    /// Moves a process back to the top of the hierarchy.
    pub fn give_back(&self, pid: u32) {
        if let Some(parent) = self.path.parent() {
            let _ = fs::write(parent.join("cgroup.procs"), pid.to_string());
        }
    }

    /// What a file of it says.
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).expect("read a cgroup's file")
    }

    /// Writes a file of it.
    pub fn write(&self, file: &str, word: &str) {
        let path = self.path.join(file);
        fs::write(&path, word).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Writes a file of it, if it has that.
    pub fn try_write(&self, file: &str, word: &str) {
        let _ = fs::write(self.path.join(file), word);
    }

    /// Removes it. `None` while processes are in it.
    pub fn remove(&self) -> Option<()> {
        fs::remove_dir(&self.path).ok()
    }
}
