//! A cgroup that can be frozen, as that of a container or a suspended session can.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use super::{needs_root, wait_for};

/// A new cgroup. On drop it is thawed and removed, and its processes go back to the parent.
#[derive(Debug)]
pub struct Freezer {
    cgroup: PathBuf,
    is_v2: bool,
    pid: u32,
}

impl Freezer {
    /// Moves a process with all its threads into a new cgroup at the top of a hierarchy.
    ///
    /// # Panics
    /// If there is no freezer: a test that cannot run must not pass.
    pub fn around(pid: u32) -> Self {
        needs_root("it makes a cgroup");
        let name = format!("varta-fleet-test-{}-{pid}.scope", process::id());
        let mounts = fs::read_to_string("/proc/mounts").expect("read the mounts");
        let mut tried = Vec::new();
        for mount in mounts.lines() {
            let fields: Vec<_> = mount.split(' ').collect();
            let [_, at, kind, options, ..] = fields[..] else { continue };
            let is_v2 = kind == "cgroup2";
            let is_v1 = kind == "cgroup" && options.split(',').any(|option| option == "freezer");
            if !is_v1 && !is_v2 {
                continue;
            }
            let cgroup = Path::new(at).join(&name);
            if let Err(error) = fs::create_dir(&cgroup) {
                tried.push(format!("{}: {error}", cgroup.display()));
                continue;
            }
            let freezer = Self { cgroup, is_v2, pid };
            let (file, _) = freezer.words(false);
            if freezer.cgroup.join(file).exists() {
                freezer.write("cgroup.procs", &pid.to_string());
                return freezer;
            }
        }
        panic!(
            "no cgroup that freezes: mount one of version 2, or the freezer of version 1; tried {tried:?}"
        );
    }

    /// The name of the group: that of a unit, as the service manager would make one.
    pub fn unit(&self) -> &str {
        self.cgroup.file_name().and_then(|name| name.to_str()).expect("made of ASCII")
    }

    /// Freezes every thread of the process.
    pub fn freeze(&self) {
        self.set(true);
    }

    /// Thaws the process.
    pub fn thaw(&self) {
        self.set(false);
    }

    fn set(&self, is_frozen: bool) {
        let (file, word) = self.words(is_frozen);
        self.write(file, word);
        wait_for(word, || (self.is_frozen() == is_frozen).then_some(()));
    }

    fn is_frozen(&self) -> bool {
        let read = |file| fs::read_to_string(self.cgroup.join(file)).expect("read a cgroup's file");
        if self.is_v2 {
            read("cgroup.events").contains("frozen 1")
        } else {
            // The state in between is FREEZING.
            read("freezer.state").trim() == "FROZEN"
        }
    }

    fn words(&self, is_frozen: bool) -> (&'static str, &'static str) {
        match (self.is_v2, is_frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        }
    }

    fn write(&self, file: &str, word: &str) {
        let path = self.cgroup.join(file);
        fs::write(&path, word).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let (file, word) = self.words(false);
        let _ = fs::write(self.cgroup.join(file), word);
        if let Some(parent) = self.cgroup.parent() {
            let _ = fs::write(parent.join("cgroup.procs"), self.pid.to_string());
        }
        let _ = fs::remove_dir(&self.cgroup);
    }
}
