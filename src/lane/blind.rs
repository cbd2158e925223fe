//! Times in which a shard could not see, as they are told.

use crate::event::BlindWhy;
use crate::time::MonoNs;

/// A time in which the shard could not see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// First instant in which a beat could be missed.
    pub start: MonoNs,
    /// First instant of sight again.
    pub end: MonoNs,
}

impl Window {
    /// How long it is, ns.
    pub const fn length(self) -> u64 {
        self.end.since(self.start)
    }

    /// How much of it lies before `instant`, ns.
    pub fn length_before(self, instant: MonoNs) -> u64 {
        self.end.min(instant).since(self.start)
    }
}

/// What to tell of blindness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlindNews {
    /// It began at `start`, and may go on.
    Began(Window, BlindWhy),
    /// A window whose begin was told ended.
    Ended(Window, BlindWhy),
    /// A window that was noticed only afterwards: begin and end are told together.
    Both(Window, BlindWhy),
}
