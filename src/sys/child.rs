//! A child between fork and exec: it becomes as ordinary as if an administrator had started it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::net::SendFlags;

/// The largest signal number of Linux.
pub const SIGNAL_MAX: u8 = 64;

/// As whom a child runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Has the command start its program in a process group of its own, with every signal at its default and none blocked,
/// with standard input, output and error as its only descriptors and without capabilities that are passed on. It is
/// killed if `parent`, the process that starts it, dies.
///
/// Before anything else it sends its pid, four bytes, to `announce`, so that whoever reads that knows of it however soon it
/// acts.
///
/// With an identity it changes to that user first; without one, neither it nor its children can gain privileges by
/// programs that are set-user-id.
pub fn make_ordinary(command: &mut Command, parent: u32, announce: OwnedFd, identity: Option<Identity>) {
    command.process_group(0);
    let become_ordinary = move || {
        let own = rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes();
        rustix::net::send(&announce, &own, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        default_signals();
        close_others_on_exec()?;
        drop_ambient_capabilities()?;
        match &identity {
            Some(identity) => change_to(identity)?,
            None => prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?,
        }
        // Last, since the kernel forgets it when the user changes.
        die_with(parent)
    };
    // SAFETY: between fork and exec the closure makes system calls only: it allocates nothing, takes no lock and reads
    // memory that was prepared before the fork.
    unsafe { command.pre_exec(become_ordinary) };
}

/// The standard library has emptied the mask by now. Not by its functions, which do not reach two signals that the C
/// library keeps for itself.
fn default_signals() {
    /// Handler, flags, restorer and mask of the kernel's `struct sigaction`; all zero means SIG_DFL.
    const DEFAULT: [usize; 4] = [0; 4];
    const MASK_BYTES: usize = 8;
    for signal in 1..=libc::c_int::from(SIGNAL_MAX) {
        let no_old: *const usize = std::ptr::null();
        // SAFETY: the kernel reads at most the four words, and writes nothing. SIG_DFL refers to no code. SIGKILL and SIGSTOP
        // are refused, and are at their defaults.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), no_old, MASK_BYTES) };
    }
}

fn close_others_on_exec() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed now: descriptors get a flag.
    checked(unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
}

fn drop_ambient_capabilities() -> io::Result<()> {
    let clear_all = libc::c_ulong::try_from(libc::PR_CAP_AMBIENT_CLEAR_ALL).unwrap_or_default();
    prctl(libc::PR_CAP_AMBIENT, clear_all)
}

/// Does nothing if it is that user already, who has no right to choose groups.
fn change_to(identity: &Identity) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid != 0 && (uid, gid) == (identity.uid, identity.gid) {
        return Ok(());
    }
    // SAFETY: the pointer is to as many initialised groups as are named, which outlive the call.
    checked(unsafe { libc::setgroups(identity.groups.len(), identity.groups.as_ptr()) }.into())?;
    // SAFETY: no pointer is passed.
    checked(unsafe { libc::setresgid(identity.gid, identity.gid, identity.gid) }.into())?;
    // SAFETY: no pointer is passed.
    checked(unsafe { libc::setresuid(identity.uid, identity.uid, identity.uid) }.into())
}

fn die_with(parent: u32) -> io::Result<()> {
    let kill = libc::c_ulong::try_from(libc::SIGKILL).unwrap_or_default();
    prctl(libc::PR_SET_PDEATHSIG, kill)?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    let is_there = now.and_then(|now| u32::try_from(now).ok()) == Some(parent);
    if is_there { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

fn prctl(what: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let unused: libc::c_ulong = 0;
    // SAFETY: the options that are used here take numbers, no pointers.
    checked(unsafe { libc::prctl(what, value, unused, unused, unused) }.into())
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The pid of a child of this process that has ended and is not reaped; it stays so. `None`: there is none.
pub fn ended_child() -> Option<u32> {
    let mut found = MaybeUninit::<libc::siginfo_t>::zeroed();
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid(2) writes one siginfo_t at the pointer, which is exclusively borrowed until it returns.
    let code = unsafe { libc::waitid(libc::P_ALL, 0, found.as_mut_ptr(), how) };
    // SAFETY: all bytes zero is a siginfo_t, too.
    let found = unsafe { found.assume_init() };
    // SAFETY: it was written by waitid(2), which sets this field, or it is zero.
    let pid = unsafe { found.si_pid() };
    u32::try_from(pid).ok().filter(|pid| code == 0 && *pid > 0)
}

/// Sets the timer slack of the calling thread, which its children inherit, to that of an ordinary process.
pub fn set_default_timer_slack() {
    const SLACK_NS: libc::c_ulong = 50_000;
    // Ignored: it has no effect on what is right.
    let _ = prctl(libc::PR_SET_TIMERSLACK, SLACK_NS);
}
