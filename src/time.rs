//! Instants and clocks. Everywhere else time is an argument: only a [`Clock`] reads it.

use std::cell::Cell;
use std::fmt;
use std::ops::{Add, Sub};
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant of `CLOCK_MONOTONIC` in nanoseconds. Stops while the host is suspended.
///
/// Comparable only on one host and within one boot. Arithmetic saturates: a clock that leaps can make an
/// instant wrong but cannot make the observer panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoNs(pub u64);

/// An instant of `CLOCK_REALTIME` in nanoseconds since 1970. May step in either direction.
///
/// The kernel stamps datagrams with it; verdicts never depend on it alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallNs(pub u64);

impl MonoNs {
    /// Nanoseconds from `earlier` to `self`; 0 if `earlier` is later.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for MonoNs {
    type Output = Self;
    #[inline]
    fn add(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

impl Sub<u64> for MonoNs {
    type Output = Self;
    #[inline]
    fn sub(self, ns: u64) -> Self {
        Self(self.0.saturating_sub(ns))
    }
}

impl fmt::Display for WallNs {
    /// RFC 3339 in UTC with nine decimals, as in events.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = UNIX_EPOCH + Duration::from_nanos(self.0);
        humantime::format_rfc3339_nanos(instant).fmt(f)
    }
}

impl Serialize for WallNs {
    /// As displayed.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WallNs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let instant = humantime::parse_rfc3339(&text).map_err(D::Error::custom)?;
        Ok(Self(duration_ns(instant.duration_since(UNIX_EPOCH).map_err(D::Error::custom)?)))
    }
}

/// Nanoseconds of a duration, saturating at the largest `u64` (585 years).
#[inline]
#[must_use]
pub fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Where a thread reads the time. One implementation reads the kernel's clocks, one is set by a test.
pub trait Clock {
    /// `CLOCK_MONOTONIC`, ns. Never decreases. Costs a vDSO call (about 25-50 ns).
    fn mono(&self) -> MonoNs;
    /// `CLOCK_REALTIME`, ns. Same cost.
    fn wall(&self) -> WallNs;
}

/// A clock that moves only when set, shared by its clones (single-threaded).
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    mono: Rc<Cell<u64>>,
    wall_ahead: Rc<Cell<i64>>,
}

impl ManualClock {
    /// Starts with MONOTONIC at `mono` and REALTIME ahead of it by `wall_ahead` ns.
    #[must_use]
    pub fn new(mono: MonoNs, wall_ahead: i64) -> Self {
        Self { mono: Rc::new(Cell::new(mono.0)), wall_ahead: Rc::new(Cell::new(wall_ahead)) }
    }

    /// Moves both clocks forward by `ns`.
    pub fn advance(&self, ns: u64) {
        self.mono.set(self.mono.get().saturating_add(ns));
    }

    /// Sets MONOTONIC (REALTIME moves along). An earlier instant is ignored.
    pub fn set(&self, mono: MonoNs) {
        self.mono.set(self.mono.get().max(mono.0));
    }

    /// Steps REALTIME by `ns`, as an administrator or NTP would.
    pub fn step_wall(&self, ns: i64) {
        self.wall_ahead.set(self.wall_ahead.get().saturating_add(ns));
    }
}

impl Clock for ManualClock {
    fn mono(&self) -> MonoNs {
        MonoNs(self.mono.get())
    }
    fn wall(&self) -> WallNs {
        WallNs(self.mono.get().saturating_add_signed(self.wall_ahead.get()))
    }
}
