//! Whether the kernel killed processes out of memory: it counts that for each memory control group.
//!
//! The files of the groups are opened when a process of theirs is looked up, since a group is mostly removed with its
//! last process. The watch thread reads them each second and when a process was killed. A kill within ten seconds
//! of a rise is an out-of-memory kill, and each rise explains as many kills as it counts. Two causes within that time in
//! one group may be taken for each other.
//!
//! Threads: lookup enters groups, watch reads counts. Blocks: while files of the control group file system are read.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::process::unit::hierarchies;
use crate::time::MonoNs;

/// How often the counts are read.
pub const EVERY_NS: u64 = 1_000_000_000;
/// How long after a rise a kill is explained by it: a large process takes seconds to die.
const EXPLAINS_NS: u64 = 10_000_000_000;
/// Longer than the files of the kernel.
const FILE_BYTES_MAX: usize = 4096;
/// Groups above that of a process in which a count is looked for: their number is chosen by whoever made them.
const LEVELS_MAX: usize = 16;

/// The number of a group; 0: none.
pub type GroupId = u32;

/// The memory control groups of the agents.
#[derive(Debug)]
pub struct OomKills {
    groups: Mutex<Groups>,
    groups_max: usize,
    has_groups: AtomicBool,
}

#[derive(Debug, Default)]
struct Groups {
    /// By number.
    held: BTreeMap<GroupId, Group>,
    /// By the path of the process's own group, of which the count may be that of one above.
    by_path: HashMap<String, GroupId>,
    last: GroupId,
}

#[derive(Debug)]
struct Group {
    /// The file with its count.
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
        let has_groups = AtomicBool::new(false);
        Self { groups: Mutex::default(), groups_max: groups_max.into(), has_groups }
    }

    /// The group of a process with this content of `/proc/PID/cgroup`; 0 if its kills are not known. One system call
    /// for a group that is known, some dozens at most for another.
    pub fn enter(&self, groups: &str, now: MonoNs) -> GroupId {
        let Some((root, files, path)) = memory_group(groups).filter(|_| self.groups_max > 0) else {
            return 0;
        };
        if let Some(known) = self.groups.lock().known(path, now) {
            return known;
        }
        // The nearest group that has a count: not every one has a controller of its own. Not behind the lock.
        let above = std::iter::successors(Some(path), |path| path.rfind('/').map(|end| &path[..end]));
        let mut counts = above.take(LEVELS_MAX).flat_map(|path| files.iter().map(move |file| (path, file)));
        let found = counts.find_map(|(path, file)| {
            let path = format!("{root}{path}/{file}");
            let file = File::open(&path).ok()?;
            count_in(&file).map(|count| (path, file, count))
        });
        let Some((found, file, count)) = found else { return 0 };
        let mut known = self.groups.lock();
        let id = known.hold(found, file, count, self.groups_max, now);
        if known.by_path.len() >= 4 * self.groups_max {
            known.by_path.clear();
        }
        known.by_path.insert(path.to_owned(), id);
        self.has_groups.store(true, Ordering::Relaxed);
        id
    }

    /// Whether any group is held, and so [`OomKills::read`] is to be called.
    pub fn has_groups(&self) -> bool {
        self.has_groups.load(Ordering::Relaxed)
    }

    /// Reads the counts of all groups; forgets those that were removed. One system call for each.
    pub fn read(&self, now: MonoNs) {
        let mut known = self.groups.lock();
        known.held.retain(|_, group| group.read(now) || now.since(group.kills.risen_at) <= EXPLAINS_NS);
        self.has_groups.store(!known.held.is_empty(), Ordering::Relaxed);
    }

    /// Whether a process of this group that was killed just now was killed out of memory. Call it once for each.
    pub fn is_one(&self, id: GroupId, now: MonoNs) -> bool {
        let mut known = self.groups.lock();
        let Some(group) = known.held.get_mut(&id) else { return false };
        group.read(now);
        group.kills.explain_one()
    }
}

impl Groups {
    /// The group that was found for a path before. `None` if there is none, or it was removed: another may have its
    /// path now.
    fn known(&mut self, path: &str, now: MonoNs) -> Option<GroupId> {
        let id = *self.by_path.get(path)?;
        let is_there = self.held.get_mut(&id).is_some_and(|group| {
            group.entered = now;
            group.read(now)
        });
        if !is_there {
            self.by_path.remove(path);
        }
        is_there.then_some(id)
    }

    /// The number of the group with this file, held from now on if it was not.
    fn hold(&mut self, path: String, file: File, count: u64, max: usize, now: MonoNs) -> GroupId {
        for (id, group) in self.held.iter_mut().filter(|(_, group)| group.path == path) {
            if group.read(now) {
                group.entered = now;
                return *id;
            }
        }
        if self.held.len() >= max
            && let Some(oldest) = self.held.iter().min_by_key(|(_, group)| group.entered).map(|(id, _)| *id)
        {
            self.held.remove(&oldest);
        }
        self.last = self.last.wrapping_add(1).max(1);
        let kills = Kills { seen: count, ..Kills::default() };
        self.held.insert(self.last, Group { path, file, kills, entered: now });
        self.last
    }
}

impl Group {
    /// False: it was removed.
    fn read(&mut self, now: MonoNs) -> bool {
        let count = count_in(&self.file);
        // What was seen before its removal still counts.
        self.kills.read(count.unwrap_or(self.kills.seen), now);
        count.is_some()
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

/// Where the hierarchy of the memory controller is mounted, the files that may have the count, and the group's path in it.
/// The controller is in the unified hierarchy, where a group's own kills are told from those below it, or has one of its
/// own.
fn memory_group(groups: &str) -> Option<(&'static str, &'static [&'static str], &str)> {
    let lines = || hierarchies(groups);
    let own = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let (root, files, path) = match own {
        Some((_, path)) => ("/sys/fs/cgroup/memory", &["memory.oom_control"][..], path),
        None => {
            let (_, path) = lines().find(|(controllers, _)| controllers.is_empty())?;
            ("/sys/fs/cgroup", &["memory.events.local", "memory.events"][..], path)
        }
    };
    // A path out of this cgroup namespace leads to another group here.
    (!path.split('/').any(|name| name == "..")).then(|| (root, files, path.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_rise_explains_as_many_kills_as_it_counts_and_for_some_seconds() {
        let mut kills = Kills { seen: 5, ..Kills::default() };
        let at = |ms: u64| MonoNs(1000 * SECOND + ms * 1_000_000);
        kills.read(5, at(0));
        assert!(!kills.explain_one(), "killed by somebody");
        kills.read(7, at(100));
        assert!(kills.explain_one() && kills.explain_one() && !kills.explain_one());
        kills.read(8, at(200));
        kills.read(8, at(9100));
        assert!(kills.explain_one(), "the process took a while to die");
        kills.read(9, at(9200));
        kills.read(9, at(19_300));
        assert!(!kills.explain_one(), "that was another process");
    }

    #[test]
    fn the_group_is_that_of_the_memory_controller() {
        let own = memory_group("5:cpu,memory:/a/b\n0::/x\n");
        assert_eq!(own, Some(("/sys/fs/cgroup/memory", &["memory.oom_control"][..], "/a/b")));
        let unified = memory_group("0::/system.slice/w.service\n");
        let files = &["memory.events.local", "memory.events"][..];
        assert_eq!(unified, Some(("/sys/fs/cgroup", files, "/system.slice/w.service")));
        assert_eq!(memory_group("0::/\n").map(|(.., path)| path), Some(""));
        for none in ["", "1:cpu:/a\n", "0::/../x\n"] {
            assert_eq!(memory_group(none), None, "{none}");
        }
        assert_eq!(count_of("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(count_of("low 0\nmax 1\noom 2\noom_kill 4\noom_group_kill 0\n"), Some(4));
        assert_eq!(count_of("oom 2\n"), None);
    }

    /// Files that are like those of the kernel, but can be removed and written.
    fn file(directory: &tempfile::TempDir, name: &str, count: u64) -> (String, File) {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("oom 1\noom_kill {count}\n")).expect("write");
        (path.to_str().expect("UTF-8").to_owned(), File::open(&path).expect("open"))
    }

    #[test]
    fn a_file_is_held_once_and_the_oldest_makes_room() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut groups = Groups::default();
        let mut hold = |name: &str, now: u64| {
            let (path, opened) = file(&directory, name, 5);
            groups.hold(path, opened, 5, 2, MonoNs(now))
        };
        let (a, b) = (hold("a", 1), hold("b", 2));
        assert!(a != b && hold("a", 3) == a && hold("b", 4) == b);
        let c = hold("c", 5);
        assert!(![a, b].contains(&c));
        assert_eq!(groups.held.keys().copied().collect::<Vec<_>>(), [b, c]);
    }

    /// A service that is restarted has a new group with the old path.
    #[test]
    fn a_group_that_was_removed_is_opened_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut groups = Groups::default();
        let (path, opened) = file(&directory, "a", 5);
        let old = groups.hold(path.clone(), opened, 5, 8, MonoNs(1));
        groups.by_path.insert("/a".to_owned(), old);
        assert_eq!(groups.known("/a", MonoNs(2)), Some(old));
        // The file of a removed group cannot be read any more.
        std::fs::write(&path, "").expect("write");
        assert_eq!(groups.known("/a", MonoNs(3)), None);
        let (path, opened) = file(&directory, "b", 0);
        assert_ne!(groups.hold(path, opened, 0, 8, MonoNs(4)), old);
        assert!(groups.held.contains_key(&old), "its rises still explain kills");
    }

    #[test]
    fn a_process_has_a_group_if_the_kernel_counts() {
        let kills = OomKills::new(8);
        let groups = std::fs::read_to_string("/proc/self/cgroup").expect("procfs");
        let id = kills.enter(&groups, MonoNs(1));
        assert_eq!((kills.enter(&groups, MonoNs(2)), kills.has_groups()), (id, id != 0));
        assert!(!kills.is_one(id, MonoNs(3)) && !kills.is_one(0, MonoNs(3)));
        assert_eq!(kills.enter("0::/../x\n", MonoNs(2)), 0);
        assert_eq!(OomKills::new(0).enter(&groups, MonoNs(1)), 0);
    }
}
