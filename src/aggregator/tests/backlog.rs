//! What the aggregator keeps, for tests that say how much it may.

use super::*;

/// How long its lists are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Stalls and exits that wait to be told.
    pub pending: usize,
    /// Agents asked about again and again.
    pub polled: usize,
    /// Agents of whom nothing is told yet.
    pub held: usize,
    /// Slots to look at again.
    pub again: usize,
    /// Slots whose facts were taken and not looked at.
    pub to_look: usize,
}

impl Aggregator {
    /// Lets this many stalls and resumes wait to be told at a time.
    pub fn limit_in_flight(&mut self, max: u32) {
        self.in_flight_max = max;
    }

    /// Tells of so many agents of a user singly at once.
    pub const fn limit_churn(&mut self, at_once: u32) {
        self.churns.limit(at_once);
    }

    /// How many pids have a place. Looks at all there may be.
    pub fn places(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// How long the lists are.
    pub fn backlog(&self) -> Backlog {
        Backlog {
            pending: self.pending.len(),
            polled: self.polled.len(),
            held: self.held.len(),
            again: self.again.len(),
            to_look: self.shards.iter().map(|view| view.to_look.len()).sum(),
        }
    }
}
