//! A cgroup that can be frozen, as that of a container or a suspended session can.

use std::process;

use super::cgroup::Cgroup;
use super::wait_for;

/// A new cgroup. On drop it is thawed and removed, and its process goes back to the parent.
#[derive(Debug)]
pub struct Freezer {
    cgroup: Cgroup,
    pid: u32,
}

impl Freezer {
    /// Moves a process with all its threads into a new cgroup at the top of a hierarchy.
    ///
    /// # Panics
    /// As [`Cgroup::new`].
    pub fn around(pid: u32) -> Self {
        let name = format!("varta-fleet-test-{}-{pid}.scope", process::id());
        let cgroup = Cgroup::new(&name, "freezer", ["cgroup.freeze", "freezer.state"]);
        cgroup.add(pid);
        Self { cgroup, pid }
    }

    /// The name of the group: that of a unit, as the service manager would make one.
    pub fn unit(&self) -> &str {
        self.cgroup.name()
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
        self.cgroup.write(file, word);
        wait_for(word, || (self.is_frozen() == is_frozen).then_some(()));
    }

    fn is_frozen(&self) -> bool {
        if self.cgroup.is_v2() {
            self.cgroup.read("cgroup.events").contains("frozen 1")
        } else {
            // The state in between is FREEZING.
            self.cgroup.read("freezer.state").trim() == "FROZEN"
        }
    }

    fn words(&self, is_frozen: bool) -> (&'static str, &'static str) {
        match (self.cgroup.is_v2(), is_frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let (file, word) = self.words(false);
        self.cgroup.try_write(file, word);
        self.cgroup.give_back(self.pid);
        let _ = self.cgroup.remove();
    }
}
