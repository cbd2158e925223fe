//! What the kernel tells of a process: procfs through one directory descriptor, so that everything
//! read belongs to one incarnation of the pid, and pidfds.

use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::LookupError;
use crate::sys::clock::boottime_ns;
use crate::time::{Clock, MonoNs};

/// `PID_FS_MAGIC`: pidfds of this file system have an inode number that is never used again.
const PIDFS_MAGIC: u64 = 0x5049_4446;
/// procfs counts start times in hundredths of a second on every architecture (USER_HZ).
const TICK_NS: u64 = 10_000_000;
/// Longest procfs file read: status has 60 short lines and the supplementary groups.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What tells one holder of a pid from the next: the pidfs inode, or on older kernels the start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u64);

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Which of the pid's holders.
    pub incarnation: Incarnation,
    /// When it started, at the earliest (the kernel rounds down to 10 ms).
    pub started: MonoNs,
    /// Its pids in the pid namespaces below ours, outermost first; empty if there are none.
    pub inner_pids: Vec<u32>,
    /// Its effective user id.
    pub uid: u32,
    /// Its name, at most 15 bytes, which it chooses itself.
    pub comm: String,
    /// Path of its program; empty if it may not be read.
    pub exe: String,
}

/// Looks a process up: about ten system calls in procfs.
///
/// # Errors
/// `Gone` if there is no such process (any more), `Failed` if the kernel would not tell.
pub fn identify(pid: u32, clock: &impl Clock) -> Result<Identity, LookupError> {
    let failed = |error: Errno| match error {
        Errno::NOENT | Errno::SRCH => LookupError::Gone(clock.mono()),
        _ => LookupError::Failed,
    };
    let directory_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(rustix::fs::CWD, format!("/proc/{pid}"), directory_flags, Mode::empty());
    let directory = directory.map_err(failed)?;
    let stat = read(&directory, "stat").map_err(failed)?;
    let status = read(&directory, "status").map_err(failed)?;
    let stat = parse_stat(&stat).ok_or(LookupError::Failed)?;
    // A zombie is still listed, but will not beat again; a leader that exited before its threads looks
    // like one, which only a pidfd can tell apart.
    let pidfd = open_pidfd(pid).map_err(failed)?;
    if stat.is_zombie && has_exited(&pidfd) {
        return Err(LookupError::Gone(clock.mono()));
    }
    let exe =
        readlinkat(&directory, "exe", Vec::new()).map(|path| lossy(path.as_bytes())).unwrap_or_default();
    // Whoever held the pid while its directory was open holds it still, or the read above had failed.
    let asleep_ns = boottime_ns().saturating_sub(clock.mono().0);
    let incarnation = pidfs_inode(&pidfd).unwrap_or(stat.start_ticks);
    Ok(Identity {
        incarnation: Incarnation(incarnation),
        started: MonoNs(stat.start_ticks.saturating_mul(TICK_NS).saturating_sub(asleep_ns)),
        inner_pids: parse_inner_pids(&status),
        uid: parse_uid(&status).unwrap_or(u32::MAX),
        comm: stat.comm,
        exe,
    })
}

/// Since when the process is known to be gone: now, if there is none of that pid or another one;
/// `None` if it is there, or nobody can tell. Three system calls.
pub fn gone_at(pid: u32, incarnation: Option<Incarnation>, clock: &impl Clock) -> Option<MonoNs> {
    // The clock is read after the question: whatever the dead sent had arrived by then.
    let pidfd = match open_pidfd(pid) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Some(clock.mono()),
        Err(_) => return None,
    };
    if has_exited(&pidfd) {
        return Some(clock.mono());
    }
    let known = incarnation?;
    let present = pidfs_inode(&pidfd).map(Incarnation);
    match present {
        Some(present) if present != known => {
            Some(identify(pid, clock).map_or_else(|_| clock.mono(), |heir| heir.started))
        }
        Some(_) => None,
        // No pidfs: the start time tells.
        None => match identify(pid, clock) {
            Ok(heir) if heir.incarnation != known => Some(heir.started),
            Err(LookupError::Gone(at)) => Some(at),
            _ => None,
        },
    }
}

fn open_pidfd(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

/// Whether the whole process has exited, reaped or not.
fn has_exited(pidfd: &OwnedFd) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&at_once)), Ok(1..))
}

fn pidfs_inode(pidfd: &OwnedFd) -> Option<u64> {
    let file_system = rustix::fs::fstatfs(pidfd).ok()?;
    let is_pidfs = u64::try_from(file_system.f_type) == Ok(PIDFS_MAGIC);
    if !is_pidfs {
        return None;
    }
    rustix::fs::fstat(pidfd).ok().map(|stat| stat.st_ino)
}

fn read(directory: &OwnedFd, name: &str) -> Result<Vec<u8>, Errno> {
    let file = openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(bytes)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: String,
    is_zombie: bool,
    start_ticks: u64,
}

/// `PID (comm) state …`: comm is anything, parentheses and spaces included, so the last one closes it.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let comm = lossy(bytes.get(open + 1..close)?);
    let mut fields = std::str::from_utf8(bytes.get(close + 1..)?).ok()?.split_ascii_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    // Field 22 of proc_pid_stat(5); state was the third.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { comm, is_zombie, start_ticks })
}

/// The pids after our own on the line `NSpid:`.
fn parse_inner_pids(status: &[u8]) -> Vec<u32> {
    let Some(line) = line_of(status, "NSpid:") else { return Vec::new() };
    line.split_ascii_whitespace().skip(1).filter_map(|pid| pid.parse().ok()).collect()
}

/// The effective user id: the second on the line `Uid:`.
fn parse_uid(status: &[u8]) -> Option<u32> {
    line_of(status, "Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn line_of<'a>(status: &'a [u8], name: &str) -> Option<&'a str> {
    // Only the first line, the name, could hold anything but ASCII.
    status
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .find_map(|line| line.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::sys::clock::SystemClock;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("sleep")
    }

    #[test]
    fn this_process_is_who_it_is() {
        let me = identify(std::process::id(), &SystemClock).expect("alive");
        assert_eq!(me.uid, rustix::process::geteuid().as_raw());
        assert_eq!(me.exe, std::env::current_exe().expect("exe").to_string_lossy());
        assert!(me.started <= SystemClock.mono());
        assert!(me.comm.len() <= 15 && !me.comm.is_empty());
        assert_eq!(gone_at(std::process::id(), Some(me.incarnation), &SystemClock), None);
        assert_eq!(gone_at(std::process::id(), None, &SystemClock), None);
    }

    #[test]
    fn another_incarnation_means_the_one_we_knew_is_gone() {
        let other = Incarnation(1);
        assert!(gone_at(std::process::id(), Some(other), &SystemClock).is_some());
    }

    #[test]
    fn a_killed_process_is_gone_reaped_or_not() {
        let mut child = sleeper();
        let pid = child.id();
        let identity = identify(pid, &SystemClock).expect("alive");
        let before = SystemClock.mono();
        child.kill().expect("kill");
        rustix::process::waitid(
            rustix::process::WaitId::Pid(Pid::from_child(&child)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .expect("dead, not reaped");
        let gone = gone_at(pid, Some(identity.incarnation), &SystemClock).expect("a zombie is gone");
        assert!(gone >= before);
        assert!(matches!(identify(pid, &SystemClock), Err(LookupError::Gone(_))));
        child.wait().expect("reaped");
        assert!(gone_at(pid, None, &SystemClock).is_some());
        assert!(matches!(identify(pid, &SystemClock), Err(LookupError::Gone(_))));
    }

    #[test]
    fn a_name_may_contain_anything() {
        let mut line = b"7 (a) Z (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20".to_vec();
        let stat = parse_stat(&line).expect("parses");
        assert_eq!(stat, Stat { comm: "a) Z (b) c".to_owned(), is_zombie: false, start_ticks: 4242 });
        line.truncate(30);
        assert_eq!(parse_stat(&line), None);
    }

    #[test]
    fn inner_pids_are_those_below_ours() {
        assert_eq!(parse_inner_pids(b"Name:\tx\nNSpid:\t812\t7\t1\nUid:\t0\t5\n"), [7, 1]);
        assert!(parse_inner_pids(b"NSpid:\t812\n").is_empty());
        assert_eq!(parse_uid(b"Name:\tx\nUid:\t0\t5\t6\t7\n"), Some(5));
    }
}
