//! Pidfds: how a process ended, and signals of any number.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Exit information; available once the process was reaped (Linux 6.15).
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)` with the 64 bytes of the first version.
const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;

/// `struct pidfd_info`, first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    /// pid, tgid, ppid and eight user and group ids.
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// The wait status of the process if it was reaped, whether or not it was a child of this process; `None`
/// before that, and on kernels that do not provide it.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the descriptor is open, and the kernel writes at most the 64 bytes that the size field of the
    // request names, which is the size of `info`.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// Sends a signal of any number, also a real-time one, to the process and to no other.
///
/// # Errors
/// ESRCH: it is gone. EPERM: no right to. EBADF: no pidfd. EINVAL: no such signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: u8) -> io::Result<()> {
    let no_info = ptr::null::<libc::siginfo_t>();
    let (number, flags) = (libc::c_int::from(signal), 0);
    // SAFETY: the descriptor is open while it is borrowed; without information the kernel reads no memory of ours.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, no_info, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
