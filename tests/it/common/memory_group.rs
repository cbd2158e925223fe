//! A control group with little memory, as that of a container or a unit with a limit has.

use std::process;

use super::cgroup::Cgroup;
use super::wait_for;

/// A new control group. On drop it is removed; its processes have to be gone by then.
#[derive(Debug)]
pub struct MemoryGroup(Cgroup);

impl MemoryGroup {
    /// A group that may use this much memory, and no swap space.
    ///
    /// # Panics
    /// As [`Cgroup::new`].
    pub fn new(bytes: u64) -> Self {
        let name = format!("varta-fleet-test-memory-{}", process::id());
        let limits = ["memory.max", "memory.limit_in_bytes"];
        let group = Cgroup::new(&name, "memory", limits);
        let (limit, swap) =
            if group.is_v2() { (limits[0], "memory.swap.max") } else { (limits[1], "memory.swappiness") };
        group.write(limit, &bytes.to_string());
        // A kernel without swap space has no such file.
        group.try_write(swap, "0");
        Self(group)
    }

    /// Moves a process with all its threads into it.
    pub fn add(&self, pid: u32) {
        self.0.add(pid);
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that was killed may not have left yet.
        wait_for("the processes to leave", || self.0.remove());
    }
}
