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

#[inline]
fn nanoseconds(at: Timespec) -> u64 {
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    let rest = u64::try_from(at.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
