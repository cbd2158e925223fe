//! Whether a process is frozen: whether its control group or one above it is. A group that cannot be read
//! counts as not frozen.
//!
//! Files are read once for all processes of a group that are asked about at the same time.

use std::collections::HashMap;
use std::fs;

use crate::time::MonoNs;

/// Where control groups of version 2 are mounted: alone, or beside those of version 1.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Where the freezer of version 1 is mounted.
const FREEZER: &str = "/sys/fs/cgroup/freezer";
/// How long the state of a group is cached.
const FRESH_NS: u64 = 100_000_000;

/// A control group: its hierarchy, and its path there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group<'a> {
    Unified(&'a str),
    Freezer(&'a str),
}

/// Looks up whether processes are frozen.
#[derive(Debug, Default)]
pub struct Freezer {
    /// By the content of `/proc/PID/cgroup`.
    known: HashMap<String, bool>,
    known_since: MonoNs,
}

impl Freezer {
    /// Whether the process of this pid is frozen, as of at most a tenth of a second ago. About five system calls.
    pub fn is_frozen(&mut self, pid: u32, now: MonoNs) -> bool {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| self.is_any_frozen(&groups, now))
    }

    /// The same of a process with this content of `/proc/PID/cgroup`.
    pub fn is_any_frozen(&mut self, groups: &str, now: MonoNs) -> bool {
        if now.since(self.known_since) >= FRESH_NS {
            self.known.clear();
            self.known_since = now;
        }
        if let Some(known) = self.known.get(groups) {
            return *known;
        }
        let is_frozen = parse_groups(groups).any(|group| is_group_frozen(group, |file| read(&file)));
        self.known.insert(groups.to_owned(), is_frozen);
        is_frozen
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The groups that may be frozen, from lines of `number:controllers:path`.
fn parse_groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match (number, controllers) {
            ("0", "") => Some(Group::Unified(path)),
            _ if controllers.split(',').any(|name| name == "freezer") => Some(Group::Freezer(path)),
            _ => None,
        }
    })
}

fn is_group_frozen(group: Group<'_>, read: impl Fn(String) -> Option<String>) -> bool {
    let says = |file: String, line: &str| {
        read(file).is_some_and(|text| text.lines().any(|there| there.trim_end() == line))
    };
    match group {
        Group::Unified(path) => above(path)
            .any(|path| UNIFIED.iter().any(|root| says(format!("{root}{path}/cgroup.events"), "frozen 1"))),
        // The state of a group includes that of the groups above it; `self_freezing` is set before the state
        // is.
        Group::Freezer(path) => above(path).any(|path| {
            says(format!("{FREEZER}{path}/freezer.state"), "FROZEN")
                || says(format!("{FREEZER}{path}/freezer.self_freezing"), "1")
        }),
    }
}

/// A group's path and those above it, without the root, which cannot be frozen. Empty if the path leads out
/// of this cgroup namespace.
fn above(path: &str) -> impl Iterator<Item = &str> {
    let is_seen = !path.split('/').any(|name| name == "..");
    let first = is_seen.then(|| path.trim_end_matches('/'));
    std::iter::successors(first, |path| path.rfind('/').map(|end| &path[..end]))
        .filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_A_HYBRID: &str =
        "12:cpu,cpuacct:/a\n7:freezer:/box/in:ner\n1:name=systemd:/s\n0::/user.slice/x\n";

    #[test]
    fn the_groups_that_may_be_frozen_are_found() {
        let found: Vec<Group<'_>> = parse_groups(OF_A_HYBRID).collect();
        assert_eq!(found, [Group::Freezer("/box/in:ner"), Group::Unified("/user.slice/x")]);
        assert_eq!(parse_groups("3:cpu,freezer:/a").collect::<Vec<_>>(), [Group::Freezer("/a")]);
        for nothing in ["", "\n", "0", "0:", "5:cpu:/a", "5:freezers:/a"] {
            assert_eq!(parse_groups(nothing).count(), 0, "{nothing:?}");
        }
    }

    #[test]
    fn all_groups_above_are_asked_but_the_root() {
        assert_eq!(above("/a/b/c").collect::<Vec<_>>(), ["/a/b/c", "/a/b", "/a"]);
        for nothing in ["/", "", "/../x", "/.."] {
            assert_eq!(above(nothing).count(), 0, "{nothing:?}");
        }
    }

    fn frozen(group: Group<'_>, files: &[(&str, &str)]) -> bool {
        is_group_frozen(group, |path| {
            files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn a_group_is_frozen_if_it_or_one_above_says_so() {
        let group = Group::Unified("/a/b");
        let events = |frozen: &str| format!("populated 1\nfrozen {frozen}\n");
        assert!(frozen(group, &[("/sys/fs/cgroup/a/b/cgroup.events", &events("1"))]));
        assert!(frozen(group, &[("/sys/fs/cgroup/unified/a/cgroup.events", &events("1"))]));
        assert!(!frozen(group, &[("/sys/fs/cgroup/a/b/cgroup.events", &events("0"))]));
        assert!(!frozen(group, &[("/sys/fs/cgroup/a/b/cgroup.events", &events("10"))]));
        let group = Group::Freezer("/a/b");
        assert!(frozen(group, &[("/sys/fs/cgroup/freezer/a/b/freezer.state", "FROZEN\n")]));
        assert!(frozen(group, &[("/sys/fs/cgroup/freezer/a/freezer.self_freezing", "1\n")]));
        assert!(!frozen(group, &[("/sys/fs/cgroup/freezer/a/b/freezer.state", "THAWED\n")]));
    }

    #[test]
    fn what_cannot_be_read_is_not_frozen() {
        assert!(!frozen(Group::Unified("/a"), &[]) && !frozen(Group::Freezer("/a"), &[]));
        assert!(!Freezer::default().is_frozen(0, MonoNs(0)), "there is no such process");
    }
}
