//! Blind windows as they are reported.

use crate::event::BlindWhy;
use crate::time::MonoNs;

/// A time in which the shard could not see arrivals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// First instant at which a beat could be missed.
    pub start: MonoNs,
    /// First instant at which the shard sees again.
    pub end: MonoNs,
}

impl Window {
    /// Its length, ns.
    pub const fn length(self) -> u64 {
        self.end.since(self.start)
    }

    /// Its length before `instant`, ns.
    pub fn length_before(self, instant: MonoNs) -> u64 {
        self.end.min(instant).since(self.start)
    }
}

/// What to report of blindness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlindNews {
    /// A window began at `start`, and may go on.
    Began(Window, BlindWhy),
    /// A window whose begin was reported has ended.
    Ended(Window, BlindWhy),
    /// A window that was noticed only afterwards: begin and end are reported together.
    Both(Window, BlindWhy),
}
