//! Whether a raised priority has an effect beyond the observer's own session or group.
//!
//! A nice value weighs a thread only against its siblings in the scheduler's tree. If the kernel groups
//! processes by session (autogroup) or by control group, the group is weighed first, and a thread at nice -20
//! in a group of ordinary weight gets no more than the group's share. See sched(7) and cgroups(7).

use std::fs;
use std::path::Path;
use std::process;

/// Among which processes the nice values of this process count.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// All processes of the host, or its group is raised, too.
    Host,
    /// Those of its session: the kernel divides time among sessions first.
    Session,
    /// Those of its control group, which has the default weight.
    Group {
        /// Path of the group.
        path: String,
    },
}

const AUTOGROUP: &str = "/proc/self/autogroup";
/// The nice value with the highest weight, for a whole session.
const HIGHEST: &str = "-20";
/// The default values of `cpu.weight` and `cpu.shares`.
const ORDINARY: [(&str, u64); 2] = [("cpu.weight", 100), ("cpu.shares", 1024)];

impl Standing {
    /// The standing of this process, now. Reads a few files of /proc and /sys; a file that cannot be read
    /// counts as no grouping.
    #[must_use]
    pub fn own() -> Self {
        Self::of(&|path| fs::read_to_string(path).ok())
    }

    /// The standing of the process that reads these files.
    fn of(view: &dyn Fn(&Path) -> Option<String>) -> Self {
        let read = |path: &str| view(path.as_ref()).unwrap_or_default();
        if let Some(path) = group_of(&read("/proc/self/cgroup")) {
            let weights = ORDINARY.iter().filter_map(|(name, ordinary)| {
                let weight = find_weight(view, &path, name)?;
                Some(weight > *ordinary)
            });
            // In a control group with a weight, sessions are not weighed.
            if let Some(is_raised) = weights.max() {
                return if is_raised { Self::Host } else { Self::Group { path } };
            }
        }
        let is_grouping = read("/proc/sys/kernel/sched_autogroup_enabled").trim() == "1";
        match session_nice(&read(AUTOGROUP)) {
            Some(nice) if is_grouping && nice >= 0 => Self::Session,
            _ => Self::Host,
        }
    }
}

/// Raises the session of this process as far as it may, if the process leads it, as a service does. A shell's
/// session is left alone.
pub fn raise_own_session() {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if session_of(&stat) == Some(process::id()) {
        // If this fails, nothing changes; `Standing::own` reports that.
        let _ = fs::write(AUTOGROUP, HIGHEST);
    }
}

/// The group of the `cpu` controller in the text of `/proc/self/cgroup`, if it is not the root.
fn group_of(text: &str) -> Option<String> {
    let of = |is_it: &dyn Fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            is_it(controllers).then_some(path)
        })
    };
    let path = of(&|controllers| controllers.split(',').any(|one| one == "cpu"))
        .or_else(|| of(&|controllers| controllers.is_empty()))?;
    (path != "/").then(|| path.to_owned())
}

fn find_weight(view: &dyn Fn(&Path) -> Option<String>, group: &str, name: &str) -> Option<u64> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"].iter().find_map(|root| {
        let file = Path::new(root).join(group.trim_start_matches('/')).join(name);
        view(&file)?.trim().parse().ok()
    })
}

/// The nice value in `/autogroup-7 nice 0`.
fn session_nice(text: &str) -> Option<i32> {
    text.rsplit_once("nice ")?.1.trim().parse().ok()
}

/// The session in the text of `/proc/PID/stat`, whose second field may contain anything.
fn session_of(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_that_of_the_controller_that_shares_the_processor() {
        let hybrid = "9:name=systemd:/a\n4:cpu,cpuacct:/b\n0::/c\n";
        assert_eq!(group_of(hybrid), Some("/b".to_owned()));
        assert_eq!(
            group_of("0::/system.slice/varta.service\n"),
            Some("/system.slice/varta.service".to_owned())
        );
        for none in ["0::/\n", "2:cpuacct:/x\n1:cpu:/\n0::/\n", "", "nonsense"] {
            assert_eq!(group_of(none), None, "{none:?}");
        }
    }

    #[test]
    fn texts_of_the_kernel_are_read() {
        assert_eq!(session_nice("/autogroup-17 nice 0\n"), Some(0));
        assert_eq!(session_nice("/autogroup-17 nice -11\n"), Some(-11));
        assert_eq!(session_nice(""), None);
        assert_eq!(session_of("17 (a) b (c)) S 1 17 9 0 -1 4194304"), Some(9));
        assert_eq!(session_of("17 (x"), None);
    }

    #[test]
    fn a_group_is_weighed_before_a_session_and_what_is_raised_counts_everywhere() {
        let group = Standing::Group { path: "/a".to_owned() };
        let session = [
            ("/proc/sys/kernel/sched_autogroup_enabled", "1\n"),
            ("/proc/self/autogroup", "/autogroup-7 nice 0\n"),
        ];
        let v2 = ("/proc/self/cgroup", "0::/a\n");
        let v1 = ("/proc/self/cgroup", "4:cpu,cpuacct:/a\n0::/\n");
        for (files, standing) in [
            (vec![], Standing::Host),
            (session.to_vec(), Standing::Session),
            (vec![session[0], (session[1].0, "/autogroup-7 nice -20\n")], Standing::Host),
            (vec![(session[0].0, "0\n"), session[1]], Standing::Host),
            (vec![v2, ("/sys/fs/cgroup/a/cpu.weight", "100\n"), session[0], session[1]], group.clone()),
            (vec![v2, ("/sys/fs/cgroup/a/cpu.weight", "10000\n"), session[0], session[1]], Standing::Host),
            (vec![v1, ("/sys/fs/cgroup/cpu/a/cpu.shares", "1024\n")], group),
            (vec![v1, ("/sys/fs/cgroup/cpu,cpuacct/a/cpu.shares", "2048\n")], Standing::Host),
            // A group without the controller is not weighed.
            (vec![v2, session[0], session[1]], Standing::Session),
        ] {
            let view = |path: &Path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(Standing::of(&view), standing, "{files:?}");
        }
    }
}
