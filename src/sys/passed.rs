//! Descriptors that a service manager passed to this process, and the variables that name them.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

/// The first passed descriptor, by the protocol of `sd_listen_fds(3)`.
const FIRST: RawFd = 3;

/// Set once the descriptors have an owner: they must not get a second one.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the `count` descriptors that were passed to this process, and has them closed on exec. The second call
/// of a process returns none.
///
/// # Errors
/// The number of the first one that is not open, and the kernel's reason. Nothing is taken then.
pub fn take(count: u16) -> Result<Vec<OwnedFd>, (RawFd, io::Error)> {
    let numbers = FIRST..FIRST + RawFd::from(count);
    for number in numbers.clone() {
        // SAFETY: F_GETFD takes no pointer and changes nothing; a number that is not open is EBADF.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err((number, io::Error::last_os_error()));
        }
    }
    if IS_TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    numbers
        .map(|number| {
            // SAFETY: the descriptor is open, as was just seen. It was open at exec and was passed for this
            // process to own, so the kernel gave its number to nothing else since, and IS_TAKEN ensures that
            // only one owner is made of it.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(|error| (fd.as_raw_fd(), error.into()))?;
            Ok(fd)
        })
        .collect()
}

/// Removes variables from the environment, so that programs started later do not take them for theirs. Does
/// nothing once this process has a second thread, which could be reading the environment.
pub fn forget(variables: &[&str]) {
    let is_alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if is_alone {
        for variable in variables {
            // SAFETY: this thread is the only one, so no other reads or writes the environment, and no other
            // can start one meanwhile.
            unsafe { std::env::remove_var(variable) };
        }
    }
}
