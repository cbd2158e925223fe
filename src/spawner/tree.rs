//! All processes that descend from one, as procfs lists them, and their end.
//!
//! A process whose parent ended belongs to the nearest ancestor that adopts (`PR_SET_CHILD_SUBREAPER`), so that nothing
//! leaves the tree of one that does.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process, as one look at procfs found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub pid: u32,
    pub parent: u32,
    pub is_zombie: bool,
    pub is_stopped: bool,
}

/// The descendants of a process, parents before their children, without itself. Reads procfs once over.
pub fn descendants(of: u32) -> Vec<Found> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    below(of, pids.filter_map(look))
}

fn below(of: u32, all: impl Iterator<Item = Found>) -> Vec<Found> {
    let mut children: HashMap<u32, Vec<Found>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = children.remove(&of).unwrap_or_default();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let more = children.remove(&process.pid).unwrap_or_default();
        found.extend(more);
        next += 1;
    }
    found
}

fn look(pid: u32) -> Option<Found> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// A line of `/proc/PID/stat`, in which the name is in parentheses and may hold some.
fn parse(pid: u32, stat: &str) -> Option<Found> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Found { pid, parent, is_zombie: matches!(state, "Z" | "X"), is_stopped: matches!(state, "T" | "t") })
}

/// Kills all descendants of a process that are there now. Returns whether there were any; zombies do not count.
///
/// First all are stopped, since a process that forks is faster than a reader of procfs. Several passes may be needed.
pub fn kill_descendants(of: u32) -> bool {
    const PASSES: usize = 16;
    for _ in 0..PASSES {
        let running = descendants(of).into_iter().filter(|one| !one.is_zombie && !one.is_stopped);
        if running.filter(|one| signal(*one, Signal::STOP)).count() == 0 {
            break;
        }
    }
    let mut alive = descendants(of);
    alive.retain(|process| !process.is_zombie);
    for process in &alive {
        signal(*process, Signal::KILL);
    }
    !alive.is_empty()
}

/// Signals a process if it still is that child: not another one with its number.
fn signal(process: Found, signal: Signal) -> bool {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return false };
    let is_it = look(process.pid).is_some_and(|now| now.parent == process.parent);
    is_it && pidfd_send_signal(pidfd.as_fd(), signal).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pid: u32, parent: u32) -> Found {
        Found { pid, parent, is_zombie: false, is_stopped: false }
    }

    #[test]
    fn all_below_are_found_and_nobody_else() {
        let all =
            [(1, 0), (7, 5), (5, 1), (6, 5), (9, 7), (8, 1), (3, 9)].map(|(pid, parent)| found(pid, parent));
        let pids = |of| below(of, all.into_iter()).into_iter().map(|one| one.pid).collect::<Vec<_>>();
        assert_eq!(pids(5), [7, 6, 9, 3]);
        assert_eq!(pids(8), [0; 0]);
        // A number that was given again while procfs was read could make a circle.
        assert_eq!(below(1, [found(1, 2), found(2, 1)].into_iter()).len(), 2);
    }

    #[test]
    fn a_name_cannot_pass_for_a_state() {
        let stat = "12 (a) Z 1 (b) S 77 12 12 0";
        assert_eq!(parse(12, stat), Some(found(12, 77)));
        assert_eq!(parse(1, "1 (x) T 2 3").map(|one| one.is_stopped), Some(true));
        assert_eq!(parse(1, "1 (x) Z 2 3").map(|one| one.is_zombie), Some(true));
        for nothing in ["", "1", "1 (x) S", "1 (x) S y"] {
            assert_eq!(parse(1, nothing), None);
        }
    }
}
