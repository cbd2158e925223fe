//! A control group with little memory, as that of a container or a unit with a limit has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use super::{needs_root, wait_for};

/// A new control group. On drop it is removed; its processes have to be gone by then.
#[derive(Debug)]
pub struct MemoryGroup {
    cgroup: PathBuf,
}

impl MemoryGroup {
    /// A group that may use this much memory.
    ///
    /// # Panics
    /// If there is no memory controller: a test that cannot run must not pass.
    pub fn new(bytes: u64) -> Self {
        needs_root("it makes a cgroup");
        let name = format!("varta-fleet-test-memory-{}", process::id());
        let mounts = fs::read_to_string("/proc/mounts").expect("read the mounts");
        let mut tried = Vec::new();
        for mount in mounts.lines() {
            let fields: Vec<_> = mount.split(' ').collect();
            let [_, at, kind, options, ..] = fields[..] else { continue };
            let (is_v2, is_v1) =
                (kind == "cgroup2", kind == "cgroup" && options.split(',').any(|option| option == "memory"));
            if is_v2 {
                let _ = fs::write(Path::new(at).join("cgroup.subtree_control"), "+memory");
            }
            let cgroup = Path::new(at).join(&name);
            if !is_v1 && !is_v2 || fs::create_dir(&cgroup).is_err() {
                continue;
            }
            let group = Self { cgroup };
            let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
            match fs::write(group.cgroup.join(limit), bytes.to_string()) {
                Ok(()) => {
                    // Without it, a process may use the swap space instead.
                    let _ = fs::write(group.cgroup.join("memory.swap.max"), "0");
                    let _ = fs::write(group.cgroup.join("memory.swappiness"), "0");
                    return group;
                }
                Err(error) => tried.push(format!("{}/{limit}: {error}", group.cgroup.display())),
            }
        }
        panic!(
            "no cgroup with a memory limit: mount one of version 2, or the memory controller of version 1; tried {tried:?}"
        );
    }

    /// Moves a process with all its threads into it.
    pub fn add(&self, pid: u32) {
        fs::write(self.cgroup.join("cgroup.procs"), pid.to_string()).expect("move the process");
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that was killed may not have left yet.
        wait_for("the processes to leave", || fs::remove_dir(&self.cgroup).ok());
    }
}
