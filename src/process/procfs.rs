//! What the kernel knows of a process, from pidfds and from procfs through one directory descriptor, so that
//! everything read belongs to one incarnation of the pid.

use std::io::Read;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

use crate::event::{ExitHow, ProcessState};
use crate::process::unit::{container_of, unit_of};
use crate::sys::clock::boottime_ns;
use crate::sys::pidfd::exit_status;
use crate::time::{Clock, MonoNs};

/// Why a process could not be identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// No such process exists as of this instant; how it ended, if the kernel provides it.
    Gone(MonoNs, Option<ExitHow>),
    /// The kernel refused, or procfs could not be read.
    Failed,
}

/// `PID_FS_MAGIC`: a pidfd of this file system has an inode number that is never reused.
const PIDFS_MAGIC: u64 = 0x5049_4446;
/// procfs counts start times in hundredths of a second on every architecture (USER_HZ).
const TICK_NS: u64 = 10_000_000;
/// Appended by the kernel to the path of a file that was removed or replaced, as by an upgrade.
const DELETED: &str = " (deleted)";
/// Longest procfs file read: status has 60 short lines and the supplementary groups.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Distinguishes successive processes with the same pid: the pidfs inode, or on older kernels the start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation(NonZeroU64);

impl Incarnation {
    /// From an inode or start time, which may be 0 for the first process.
    pub const fn new(number: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(number))
    }
}

impl From<NonZeroU64> for Incarnation {
    fn from(number: NonZeroU64) -> Self {
        Self(number)
    }
}

impl From<Incarnation> for NonZeroU64 {
    fn from(Incarnation(number): Incarnation) -> Self {
        number
    }
}

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookedUp {
    /// Which process with this pid.
    pub incarnation: Incarnation,
    /// Earliest time it may have started (the kernel rounds down to 10 ms).
    pub started: MonoNs,
    /// Its pids in the pid namespaces below the observer's, outermost first; empty if there are none.
    pub inner_pids: Vec<u32>,
    /// Its real user, which it cannot choose.
    pub uid: u32,
    /// What it runs.
    pub program: Program,
}

/// What a process runs, its name, and what it is a part of. All may change at any time. `None`: cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its name, at most 15 bytes, chosen by itself.
    pub comm: Option<String>,
    /// Path of its program, wherever the file is now.
    pub exe: Option<String>,
    /// The unit it belongs to, if it does to any.
    pub unit: Option<String>,
    /// The number of its container, if it is in one.
    pub container: Option<String>,
    /// What it does.
    pub state: Option<ProcessState>,
    /// Whether it has used CPU time since its last beat, where that was asked.
    pub used_cpu: Option<bool>,
    /// When it started, in clock ticks since boot: distinguishes it from others with its pid.
    pub start: Option<u64>,
    /// The threshold that it was started with, ns, if that was asked and there is one.
    pub watchdog_ns: Option<u64>,
    /// The content of `/proc/PID/cgroup`; empty if it cannot be read.
    pub groups: String,
}

/// Looks a process up: about a dozen system calls.
///
/// Only the pidfd decides whether it has exited: procfs may hide a process that exists (hidepid, or no procfs
/// at all), or belong to another pid namespace, where the number is another process's.
///
/// # Errors
/// `Gone` if no such process exists (any more), `Failed` if the kernel refused or procfs could not be read.
pub fn identify(pid: u32, clock: &impl Clock) -> Result<LookedUp, LookupError> {
    let pidfd = open_pidfd(pid).map_err(|error| match error {
        Errno::SRCH => LookupError::Gone(clock.mono(), None),
        _ => LookupError::Failed,
    })?;
    let found = if is_procfs_ours() { read_process(pid, &pidfd, clock) } else { None };
    // Checked last: if it exists now, it existed all the time, and what was read belongs to it. A zombie will
    // not beat again; a leader that exited before its threads only looks like a zombie.
    if has_exited(&pidfd) {
        let now = clock.mono();
        return Err(LookupError::Gone(end_of(&pidfd, pid, now, clock), ended(&pidfd, pid)));
    }
    found.ok_or(LookupError::Failed)
}

fn read_process(pid: u32, pidfd: &OwnedFd, clock: &impl Clock) -> Option<LookedUp> {
    let directory = open_directory(pid)?;
    let stat = parse_stat(&read(&directory, "stat").ok()?)?;
    let status = read(&directory, "status").ok()?;
    Some(LookedUp {
        incarnation: Incarnation::new(pidfs_inode(pidfd).unwrap_or(stat.start_ticks)),
        started: started(stat.start_ticks, clock),
        inner_pids: parse_inner_pids(&status),
        uid: parse_uid(&status)?,
        program: program_of(&directory, Some(stat)),
    })
}

/// What the kernel says of the process that has this pid now. `None` if it is gone or cannot be read. Four system
/// calls.
pub fn stat(pid: u32) -> Option<Stat> {
    if !is_procfs_ours() {
        return None;
    }
    std::fs::read(format!("/proc/{pid}/stat")).ok().and_then(|bytes| parse_stat(&bytes))
}

/// What the process that has this pid now runs. About twelve system calls.
pub fn program(pid: u32) -> Program {
    if !is_procfs_ours() {
        return Program::default();
    }
    let Some(directory) = open_directory(pid) else { return Program::default() };
    let stat = read(&directory, "stat").ok().and_then(|bytes| parse_stat(&bytes));
    program_of(&directory, stat)
}

/// The content of `/proc/PID/cgroup` of the process that has this pid now; empty if it cannot be read. Four system calls.
pub fn groups(pid: u32) -> String {
    if !is_procfs_ours() {
        return String::new();
    }
    std::fs::read(format!("/proc/{pid}/cgroup")).map(|bytes| lossy(&bytes)).unwrap_or_default()
}

fn program_of(directory: &OwnedFd, stat: Option<Stat>) -> Program {
    let groups = read(directory, "cgroup").map(|bytes| lossy(&bytes)).unwrap_or_default();
    let start = stat.as_ref().map(|stat| stat.start_ticks);
    let (comm, state) = stat.map(|stat| (stat.comm, stat.state)).unzip();
    let (unit, container) = (unit_of(&groups), container_of(&groups).map(str::to_owned));
    Program {
        comm,
        exe: read_exe(directory),
        unit,
        container,
        state: state.flatten(),
        used_cpu: None,
        watchdog_ns: None,
        start,
        groups,
    }
}

fn open_directory(pid: u32) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(rustix::fs::CWD, format!("/proc/{pid}"), flags, Mode::empty()).ok()
}

fn read_exe(directory: &OwnedFd) -> Option<String> {
    let path = lossy(readlinkat(directory, "exe", Vec::new()).ok()?.as_bytes());
    let Some(before) = path.strip_suffix(DELETED) else { return Some(path) };
    // As the process itself sees files: it may be in a container.
    let is_its_name = rustix::fs::statat(directory, format!("root{path}"), AtFlags::empty()).is_ok();
    Some(if is_its_name { path } else { before.to_owned() })
}

/// The instant of a start time, which procfs gives on `CLOCK_BOOTTIME`.
fn started(start_ticks: u64, clock: &impl Clock) -> MonoNs {
    // In this order, any delay between the readings makes the start earlier. Too late a start would look like
    // that of the next process, and the agent would be reported as exited. In a time namespace either clock
    // may be far ahead.
    let mono = clock.mono().0;
    let boottime = boottime_ns();
    MonoNs(start_ticks.saturating_mul(TICK_NS).saturating_add(mono).saturating_sub(boottime))
}

/// Whether there is a process with this pid, be it one that has exited and was not reaped. One system call.
pub fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

/// Inode of the time namespace of this process, whose offsets its clocks have; 0 if the kernel has none.
pub fn time_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/time").map_or(0, |stat| stat.st_ino)
}

/// Whether a process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It does, and has this name.
    Lives(String),
    /// It has exited.
    Gone,
    /// That cannot be found out.
    Unknown,
}

/// Whether the process lives that has this pid and started then, in clock ticks since boot. Five system calls.
pub fn life(pid: u32, start: u64) -> Life {
    if !exists(pid) {
        return Life::Gone;
    }
    match stat(pid) {
        Some(stat) if stat.start_ticks != start || stat.is_zombie => Life::Gone,
        Some(stat) => Life::Lives(stat.comm),
        None => Life::Unknown,
    }
}

/// Whether the numbers in /proc are pids of the observer's namespace. One system call.
pub fn is_procfs_ours() -> bool {
    let ours = std::process::id().to_string();
    rustix::fs::readlink("/proc/self", Vec::new()).is_ok_and(|pid| pid.as_bytes() == ours.as_bytes())
}

/// Whether /proc hides processes of other users from the observer.
pub fn is_procfs_hiding() -> bool {
    // Process 1 is root's and always exists.
    rustix::fs::stat("/proc/1").is_err()
}

/// Why a process cannot be held by a pidfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// No such process as of this instant: no process has the pid, or another one.
    Gone(MonoNs),
    /// The kernel gave no descriptor.
    Refused,
}

/// A pidfd of the process with this pid, if it is the one that was looked up (`None`: any). It may have
/// exited. Three system calls.
///
/// # Errors
/// `Gone` if it does not exist, `Refused` if no descriptor is left or the kernel gives this process no
/// pidfds.
pub fn hold(pid: u32, incarnation: Option<Incarnation>, clock: &impl Clock) -> Result<OwnedFd, NotHeld> {
    // The clock is read afterwards: whatever the exited process sent had arrived by then.
    let pidfd = match open_pidfd(pid) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Err(NotHeld::Gone(clock.mono())),
        Err(_) => return Err(NotHeld::Refused),
    };
    let Some(known) = incarnation else { return Ok(pidfd) };
    match pidfs_inode(&pidfd).map(Incarnation::new) {
        Some(present) if present == known => Ok(pidfd),
        Some(_) => {
            Err(NotHeld::Gone(identify(pid, clock).map_or_else(|_| clock.mono(), |heir| heir.started)))
        }
        // No pidfs: compare the start time.
        None => match identify(pid, clock) {
            Ok(heir) if heir.incarnation != known => Err(NotHeld::Gone(heir.started)),
            Err(LookupError::Gone(at, _)) => Err(NotHeld::Gone(at)),
            _ => Ok(pidfd),
        },
    }
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// As of when it is known to have exited.
    pub at: MonoNs,
    /// How it ended, if the kernel provides it.
    pub how: Option<ExitHow>,
}

/// The end of the process, if no process has the pid or another one; `None` if it exists, or that cannot be
/// found out. Four system calls.
pub fn end(pid: u32, incarnation: Option<Incarnation>, clock: &impl Clock) -> Option<End> {
    match hold(pid, incarnation, clock) {
        Ok(pidfd) => has_exited(&pidfd).then(|| {
            let now = clock.mono();
            End { at: end_of(&pidfd, pid, now, clock), how: ended(&pidfd, pid) }
        }),
        Err(NotHeld::Gone(at)) => Some(End { at, how: None }),
        Err(NotHeld::Refused) => None,
    }
}

/// Until when frames under this pid belong to the process of `pidfd`, which has exited as of `now`: until
/// `now`, unless another process has the pid now and started earlier. Three system calls.
pub fn end_of(pidfd: &OwnedFd, pid: u32, now: MonoNs, clock: &impl Clock) -> MonoNs {
    let Some(inode) = pidfs_inode(pidfd) else { return now };
    match hold(pid, Some(Incarnation::new(inode)), clock) {
        Err(NotHeld::Gone(at)) => at.min(now),
        Ok(_) | Err(NotHeld::Refused) => now,
    }
}

/// How a process ended that has exited, if the kernel provides it yet: for a zombie only if the observer may
/// inspect the process; for a reaped process always, since Linux 6.15.
pub fn ended(pidfd: impl AsFd, pid: u32) -> Option<ExitHow> {
    let reaped = || exit_status(pidfd.as_fd());
    let status = reaped().or_else(|| {
        if !is_procfs_ours() {
            return None;
        }
        let stat = stat(pid);
        // If it was reaped meanwhile, the stat may be that of the next process with the pid.
        reaped().or_else(|| stat.filter(|stat| stat.is_zombie).and_then(|stat| stat.exit_status()))
    });
    status.map(how)
}

/// Decodes a wait status.
fn how(status: i32) -> ExitHow {
    if libc::WIFSIGNALED(status) {
        ExitHow::Signal(low_byte(libc::WTERMSIG(status)))
    } else {
        ExitHow::Code(low_byte(libc::WEXITSTATUS(status)))
    }
}

/// Exit statuses and signals fit into a byte.
const fn low_byte(number: i32) -> u8 {
    number.to_le_bytes()[0]
}

/// Whether the observer may inspect processes of other users (CAP_SYS_PTRACE): without it their exit status
/// reads 0, and their programs cannot be read.
pub fn may_look_into_others() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_PTRACE))
}

fn open_pidfd(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

/// Whether the whole process has exited, reaped or not. One system call; never blocks.
pub fn has_exited(pidfd: &OwnedFd) -> bool {
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

/// The used fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    /// The name, chosen by the process.
    pub comm: String,
    /// What it does; `None` if it has exited.
    pub state: Option<ProcessState>,
    /// It has exited and is not reaped, or is about to be.
    pub is_zombie: bool,
    /// Start time since boot, in hundredths of a second.
    pub start_ticks: u64,
    /// As from wait(2), once the process has exited; also 0 if the observer may not read it.
    pub wait_status: i32,
}

impl Stat {
    /// The wait status of a zombie; 0 counts only if it cannot mean that the observer may not read it.
    fn exit_status(&self) -> Option<i32> {
        (self.wait_status != 0 || may_look_into_others()).then_some(self.wait_status)
    }
}

/// `PID (comm) state …`: comm may contain anything, parentheses and spaces included, so the last parenthesis
/// closes it.
pub fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let comm = lossy(bytes.get(open + 1..close)?);
    let mut fields = std::str::from_utf8(bytes.get(close + 1..)?).ok()?.split_ascii_whitespace();
    let letter = fields.next()?;
    let (state, is_zombie) = (ProcessState::of_letter(letter), matches!(letter, "Z" | "X"));
    // Field 22 of proc_pid_stat(5); state was the third.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    // Field 52, the last.
    let wait_status = fields.nth(29).and_then(|field| field.parse().ok()).unwrap_or(0);
    Some(Stat { comm, state, is_zombie, start_ticks, wait_status })
}

/// The pids after the observer's own on the line `NSpid:`.
pub fn parse_inner_pids(status: &[u8]) -> Vec<u32> {
    let Some(line) = line_of(status, "NSpid:") else { return Vec::new() };
    line.split_ascii_whitespace().skip(1).filter_map(|pid| pid.parse().ok()).collect()
}

/// The real user on the line `Uid:`.
fn parse_uid(status: &[u8]) -> Option<u32> {
    line_of(status, "Uid:")?.split_ascii_whitespace().next()?.parse().ok()
}

fn line_of<'a>(status: &'a [u8], name: &str) -> Option<&'a str> {
    // Only the name, on the first line, may be other than ASCII.
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

    fn kernel_version() -> (u32, u32) {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
        let mut numbers = release.split(['.', '-']).map(|number| number.parse().expect("a number"));
        (numbers.next().expect("major"), numbers.next().expect("minor"))
    }

    #[test]
    fn this_process_is_who_it_is() {
        let me = identify(std::process::id(), &SystemClock).expect("alive");
        let exe = std::env::current_exe().expect("exe");
        assert_eq!(me.program.exe.as_deref(), exe.to_str());
        assert_eq!(program(std::process::id()).exe, me.program.exe);
        assert_eq!(me.uid, rustix::process::getuid().as_raw());
        assert!(me.started <= SystemClock.mono());
        let comm = me.program.comm.expect("our own");
        assert!(comm.len() <= 15 && !comm.is_empty());
        // The name of a process is that of its first thread.
        assert_eq!(program(std::process::id()).comm, Some(comm));
        assert_eq!(end(std::process::id(), Some(me.incarnation), &SystemClock), None);
        assert_eq!(end(std::process::id(), None, &SystemClock), None);
    }

    /// A program's path stays the same when its file is removed while it runs, and when its name ends as the
    /// kernel marks such files.
    #[test]
    fn fault_64_a_program_keeps_its_path_when_its_file_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let exe_of = |child: &Child| program(child.id()).exe.expect("our own child");
        for name in ["agent", "agent (deleted)"] {
            let path = dir.path().join(name);
            let copied = Command::new("cp").arg("/bin/sleep").arg(&path).status().expect("run cp");
            assert!(copied.success());
            let mut child = Command::new(&path).arg("60").spawn().expect("a copy of sleep");
            assert_eq!(exe_of(&child), path.to_str().expect("plain"));
            std::fs::remove_file(&path).expect("it is there");
            if name == "agent" {
                assert_eq!(exe_of(&child), path.to_str().expect("plain"));
            }
            child.kill().expect("kill");
            child.wait().expect("reaped");
        }
    }

    #[test]
    fn another_incarnation_means_the_one_we_knew_is_gone() {
        let other = Incarnation::new(1);
        assert!(end(std::process::id(), Some(other), &SystemClock).is_some());
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
        let End { at: gone, how } =
            end(pid, Some(identity.incarnation), &SystemClock).expect("a zombie is gone");
        assert_eq!(how, Some(ExitHow::Signal(9)));
        assert!(gone >= before);
        assert!(matches!(identify(pid, &SystemClock), Err(LookupError::Gone(_, Some(ExitHow::Signal(9))))));
        child.wait().expect("reaped");
        assert!(end(pid, None, &SystemClock).is_some());
        assert!(matches!(identify(pid, &SystemClock), Err(LookupError::Gone(_, None))));
    }

    #[test]
    fn how_a_process_ended_is_known_before_and_after_it_is_reaped() {
        let ends: [(&str, ExitHow); 3] = [
            ("exit 0", ExitHow::Code(0)),
            ("exit 7", ExitHow::Code(7)),
            ("kill -TERM $$; sleep 60", ExitHow::Signal(15)),
        ];
        for (script, how) in ends {
            let mut child = Command::new("sh").args(["-c", script]).spawn().expect("sh");
            let pidfd = hold(child.id(), None, &SystemClock).expect("held");
            rustix::process::waitid(
                rustix::process::WaitId::Pid(Pid::from_child(&child)),
                rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
            )
            .expect("dead, not reaped");
            if how != ExitHow::Code(0) || may_look_into_others() {
                assert_eq!(ended(&pidfd, child.id()), Some(how), "{script}: a zombie");
            }
            child.wait().expect("reaped");
            let is_known = kernel_version() >= (6, 15);
            assert_eq!(ended(&pidfd, child.id()), is_known.then_some(how), "{script}: reaped");
        }
    }

    #[test]
    fn only_the_process_that_was_looked_up_is_held() {
        let pid = std::process::id();
        let me = identify(pid, &SystemClock).expect("alive").incarnation;
        assert!(hold(pid, Some(me), &SystemClock).is_ok());
        assert!(matches!(hold(pid, Some(Incarnation::new(1)), &SystemClock), Err(NotHeld::Gone(_))));
        assert!(matches!(hold(u32::MAX, None, &SystemClock), Err(NotHeld::Gone(_))));
    }

    #[test]
    fn a_name_may_contain_anything() {
        let mut line = b"7 (a) Z (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20".to_vec();
        let stat = parse_stat(&line).expect("parses");
        let expected = Stat {
            comm: "a) Z (b) c".to_owned(),
            state: Some(ProcessState::Sleeping),
            is_zombie: false,
            start_ticks: 4242,
            wait_status: 0,
        };
        assert_eq!(stat, expected);
        line.truncate(30);
        assert_eq!(parse_stat(&line), None);
    }

    #[test]
    fn inner_pids_are_those_below_ours() {
        assert_eq!(parse_inner_pids(b"Name:\tx\nNSpid:\t812\t7\t1\nUid:\t0\t5\n"), [7, 1]);
        assert!(parse_inner_pids(b"NSpid:\t812\n").is_empty());
    }
}
