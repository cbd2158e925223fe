//! The kernel's clocks.

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::time::{Clock, MonoNs, WallNs};

/// Reads the kernel's clocks through the vDSO.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn mono(&self) -> MonoNs {
        MonoNs(nanoseconds(clock_gettime(ClockId::Monotonic)))
    }
    #[inline]
    fn wall(&self) -> WallNs {
        WallNs(nanoseconds(clock_gettime(ClockId::Realtime)))
    }
}

/// `CLOCK_BOOTTIME` in ns: like MONOTONIC, but it also runs in suspend. Process start times use it.
pub fn boottime_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Boottime))
}

/// CPU time that a process and all its threads have used, ns. `None`: there is no such process. Two system calls, which
/// need no permission and do not wait for the process.
pub fn cpu_time_ns(pid: u32) -> Option<u64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes only to the variable whose address it is given.
    let error = unsafe { libc::clock_getcpuclockid(libc::pid_t::try_from(pid).ok()?, &raw mut clock) };
    // SAFETY: as above.
    let is_read = error == 0 && unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
    is_read.then(|| nanoseconds(Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec }))
}

#[inline]
fn nanoseconds(at: Timespec) -> u64 {
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    let rest = u64::try_from(at.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_that_of_the_process() {
        let own = std::process::id();
        let before = cpu_time_ns(own).unwrap();
        // The clock of the process counts what it does here.
        while cpu_time_ns(own).unwrap() == before {}
        assert_eq!(cpu_time_ns(u32::MAX), None);
        assert_eq!(cpu_time_ns(4_194_304), None, "beyond the largest pid");
    }
}
