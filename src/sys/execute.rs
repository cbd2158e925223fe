//! A process that becomes another program: what this one found at its start, the system call, and the child that stays
//! behind.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

/// Signals to whose dispositions the standard library or the program see at their start.
const CHANGED: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];
/// Standard input, output and error. The standard library opens /dev/null for those that are closed.
const STANDARD: [RawFd; 3] = [0, 1, 2];

/// Which of [`CHANGED`] were ignored at the start of this process, as bits, and, from bit 4 on, which of [`STANDARD`] were
/// closed.
static FOUND: AtomicU8 = AtomicU8::new(0);
const CLOSED: usize = 4;

/// Runs before the standard library changes what it records.
#[used]
// SAFETY: the C library calls what stands in this section before `main`, each with arguments that this function ignores.
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

extern "C" fn record() {
    let ignored = CHANGED.iter().enumerate().map(|(at, signal)| u8::from(is_ignored(*signal)) << at);
    let closed = STANDARD.iter().enumerate().map(|(at, fd)| u8::from(is_closed(*fd)) << (at + CLOSED));
    FOUND.store(ignored.chain(closed).fold(0, |all, bit| all | bit), Ordering::Relaxed);
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all bytes zero is a `sigaction`: no handler, no flags, an empty mask.
    let mut found: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed; the kernel's answer is written to `found`, which outlives the call.
    let code = unsafe { libc::sigaction(signal, ptr::null(), &raw mut found) };
    code == 0 && found.sa_sigaction == libc::SIG_IGN
}

fn is_closed(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer and changes nothing; a number that is not open is EBADF.
    unsafe { libc::fcntl(fd, libc::F_GETFD) < 0 }
}

/// Whether this descriptor, standard input, output or error, was closed when this process started.
#[must_use]
pub fn was_closed(fd: RawFd) -> bool {
    let at = STANDARD.iter().position(|standard| *standard == fd);
    at.is_some_and(|at| FOUND.load(Ordering::Relaxed) & 1 << (at + CLOSED) != 0)
}

/// Becomes another program: `command` is its name, which is looked for in `PATH`, and its arguments; `environment` all that
/// is in its environment. Signals and standard descriptors are for it as they were when this process started; the mask of
/// signals is not touched. Returns only if that fails, with the kernel's reason.
pub fn execute(command: &[OsString], environment: &[(OsString, OsString)]) -> io::Error {
    let strings = || -> io::Result<(Vec<CString>, Vec<CString>)> {
        let command = command.iter().map(|word| Ok(CString::new(word.as_bytes())?));
        let assignment =
            |(name, value): &(OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
        let environment = environment.iter().map(|entry| Ok(CString::new(assignment(entry))?));
        Ok((command.collect::<io::Result<_>>()?, environment.collect::<io::Result<_>>()?))
    };
    let (command, environment) = match strings() {
        Ok(strings) => strings,
        Err(error) => return error,
    };
    let ended = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, variables) = (ended(&command), ended(&environment));
    let Some(program) = command.first() else { return io::ErrorKind::InvalidInput.into() };
    restore();
    // SAFETY: the name and both arrays end with a NUL or null, and they and all strings in them outlive the call.
    unsafe { libc::execvpe(program.as_ptr(), arguments.as_ptr(), variables.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives signals and descriptors the state in which this process found them.
fn restore() {
    let found = FOUND.load(Ordering::Relaxed);
    for (at, signal) in CHANGED.iter().enumerate() {
        set_disposition(*signal, if found & 1 << at == 0 { libc::SIG_DFL } else { libc::SIG_IGN });
    }
    for fd in STANDARD.into_iter().filter(|fd| was_closed(*fd)) {
        // SAFETY: F_SETFD takes no pointer. What is open there closes on exec, as if it had never been opened.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// SIG_DFL or SIG_IGN.
fn set_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    // SAFETY: both refer to no code. A signal that does not exist is EINVAL.
    unsafe { libc::signal(signal, disposition) };
}
