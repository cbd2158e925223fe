//! Whether the kernel killed processes for want of memory: it counts that for each memory control group.
//!
//! The files of the groups are opened when a process of theirs is looked up, since a group is mostly removed with its
//! last process. The watch thread reads them each second and when a process was killed. A kill within a second of a
//! rise is one for want of memory, and each rise explains as many kills as it counts. Two causes within a second in
//! one group may be taken for each other.
//!
//! Threads: lookup enters groups, watch reads counts. Blocks: while files of the control group file system are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use parking_lot::Mutex;

use crate::time::MonoNs;

/// How often the counts are read.
pub const EVERY_NS: u64 = 1_000_000_000;
/// How long after a rise a kill is explained by it.
const EXPLAINS_NS: u64 = 1_000_000_000;
/// Longer than the files of the kernel.
const FILE_BYTES_MAX: usize = 4096;

/// The number of a group; 0: none.
pub type GroupId = u16;

/// The memory control groups of the agents.
#[derive(Debug)]
pub struct OomKills {
    groups: Mutex<Groups>,
    groups_max: usize,
}

#[derive(Debug, Default)]
struct Groups {
    /// By number.
    held: BTreeMap<GroupId, Group>,
    last: GroupId,
}

#[derive(Debug)]
struct Group {
    path: String,
    file: File,
    kills: Kills,
    /// When a process of it was looked up last.
    entered: MonoNs,
}

/// What a count says. Time is an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kills {
    /// The count as read last.
    seen: u64,
    /// Kills of the last rise that are not explained.
    unexplained: u64,
    risen_at: MonoNs,
}

impl Kills {
    fn read(&mut self, count: u64, now: MonoNs) {
        if now.since(self.risen_at) > EXPLAINS_NS {
            self.unexplained = 0;
        }
        if count > self.seen {
            self.unexplained += count - self.seen;
            self.risen_at = now;
        }
        self.seen = count;
    }

    fn explain_one(&mut self) -> bool {
        let is_explained = self.unexplained > 0;
        self.unexplained -= u64::from(is_explained);
        is_explained
    }
}

impl OomKills {
    /// Of no group yet, and holding at most this many files.
    pub fn new(groups_max: u16) -> Self {
        Self { groups: Mutex::default(), groups_max: groups_max.into() }
    }

    /// The group of a process with this content of `/proc/PID/cgroup`; 0 if its kills are not known. A few system calls
    /// for a group that is new, else none.
    pub fn enter(&self, groups: &str, now: MonoNs) -> GroupId {
        let Some((root, file, path)) = memory_group(groups) else { return 0 };
        let mut known = self.groups.lock();
        if let Some((id, group)) = known.held.iter_mut().find(|(_, group)| group.path == path) {
            group.entered = now;
            return *id;
        }
        // The nearest group that has a count: not every one has a controller of its own.
        let mut above = std::iter::successors(Some(path), |path| path.rfind('/').map(|end| &path[..end]));
        let Some(file) = above.find_map(|path| File::open(format!("{root}{path}/{file}")).ok()) else {
            return 0;
        };
        let Some(count) = count_in(&file) else { return 0 };
        if self.groups_max == 0 {
            return 0;
        }
        if known.held.len() >= self.groups_max
            && let Some(oldest) = known.held.iter().min_by_key(|(_, group)| group.entered).map(|(id, _)| *id)
        {
            known.held.remove(&oldest);
        }
        let id = loop {
            known.last = known.last.wrapping_add(1);
            if known.last != 0 && !known.held.contains_key(&known.last) {
                break known.last;
            }
        };
        let kills = Kills { seen: count, ..Kills::default() };
        known.held.insert(id, Group { path: path.to_owned(), file, kills, entered: now });
        id
    }

    /// Whether any group is held, and so [`OomKills::read`] is to be called.
    pub fn has_groups(&self) -> bool {
        !self.groups.lock().held.is_empty()
    }

    /// Reads the counts of all groups; forgets those that were removed. One system call for each.
    pub fn read(&self, now: MonoNs) {
        self.groups.lock().held.retain(|_, group| group.read(now));
    }

    /// Whether a process of this group that was killed just now was killed for want of memory. Call it once for each.
    pub fn is_one(&self, id: GroupId, now: MonoNs) -> bool {
        let mut known = self.groups.lock();
        let Some(group) = known.held.get_mut(&id) else { return false };
        group.read(now);
        group.kills.explain_one()
    }
}

impl Group {
    /// False: it was removed.
    fn read(&mut self, now: MonoNs) -> bool {
        let count = count_in(&self.file);
        // What was seen before its removal still counts.
        self.kills.read(count.unwrap_or(self.kills.seen), now);
        count.is_some() || now.since(self.kills.risen_at) <= EXPLAINS_NS
    }
}

fn count_in(file: &File) -> Option<u64> {
    let mut bytes = [0; FILE_BYTES_MAX];
    let len = file.read_at(&mut bytes, 0).ok()?;
    count_of(std::str::from_utf8(&bytes[..len]).ok()?)
}

/// The number on the line `oom_kill`.
fn count_of(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|number| number.trim().parse().ok())
}

/// Where the hierarchy of the memory controller is mounted, the file with the count, and the group's path in it. The
/// controller is in the unified hierarchy or has one of its own.
fn memory_group(groups: &str) -> Option<(&'static str, &'static str, &str)> {
    let lines = || {
        groups.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':')
        })
    };
    let own = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let (root, file, path) = match own {
        Some((_, path)) => ("/sys/fs/cgroup/memory", "memory.oom_control", path),
        None => {
            let (_, path) = lines().find(|(controllers, _)| controllers.is_empty())?;
            ("/sys/fs/cgroup", "memory.events", path)
        }
    };
    // A path out of this cgroup namespace leads to another group here.
    (!path.split('/').any(|name| name == "..")).then(|| (root, file, path.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_rise_explains_as_many_kills_as_it_counts_and_for_a_second() {
        let mut kills = Kills { seen: 5, ..Kills::default() };
        let at = |ms: u64| MonoNs(1000 * SECOND + ms * 1_000_000);
        kills.read(5, at(0));
        assert!(!kills.explain_one(), "killed by somebody");
        kills.read(7, at(100));
        assert!(kills.explain_one() && kills.explain_one() && !kills.explain_one());
        kills.read(8, at(200));
        kills.read(8, at(1100));
        assert!(kills.explain_one(), "the process took a while to die");
        kills.read(9, at(1200));
        kills.read(9, at(2300));
        assert!(!kills.explain_one(), "that was another process");
    }

    #[test]
    fn the_group_is_that_of_the_memory_controller() {
        let own = memory_group("5:cpu,memory:/a/b\n0::/x\n");
        assert_eq!(own, Some(("/sys/fs/cgroup/memory", "memory.oom_control", "/a/b")));
        let unified = memory_group("0::/system.slice/w.service\n");
        assert_eq!(unified, Some(("/sys/fs/cgroup", "memory.events", "/system.slice/w.service")));
        assert_eq!(memory_group("0::/\n").map(|(.., path)| path), Some(""));
        for none in ["", "1:cpu:/a\n", "0::/../x\n"] {
            assert_eq!(memory_group(none), None, "{none}");
        }
        assert_eq!(count_of("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(count_of("low 0\nmax 1\noom 2\noom_kill 4\noom_group_kill 0\n"), Some(4));
        assert_eq!(count_of("oom 2\n"), None);
    }

    #[test]
    fn groups_are_held_once_and_not_for_ever() {
        let kills = OomKills::new(1);
        let groups = std::fs::read_to_string("/proc/self/cgroup").expect("procfs");
        let id = kills.enter(&groups, MonoNs(1));
        assert_eq!(kills.enter(&groups, MonoNs(2)), id);
        assert_eq!(kills.has_groups(), id != 0);
        assert_eq!(kills.enter("0::/../x\n", MonoNs(2)), 0);
        assert!(!kills.is_one(id, MonoNs(3)) && !kills.is_one(0, MonoNs(3)));
        assert_eq!(OomKills::new(0).enter(&groups, MonoNs(1)), 0);
    }
}
