//! What the aggregator keeps, for tests that bound it.

use super::*;

/// How long its lists are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Stalls and exits that wait to be reported.
    pub pending: usize,
    /// Polled agents.
    pub polled: usize,
    /// Agents of which nothing is reported yet.
    pub held: usize,
    /// Slots to look at again.
    pub again: usize,
    /// Slots whose facts were taken and not looked at.
    pub to_look: usize,
}

impl Aggregator {
    /// Lets this many stalls and resumes wait to be reported at a time.
    pub fn limit_in_flight(&mut self, max: u32) {
        self.in_flight_max = max;
    }

    /// Reports this many agents of a user singly at once.
    pub const fn limit_churn(&mut self, at_once: u32) {
        self.churns.limit(at_once);
    }

    /// How many pids have a place, by a walk over all possible ones.
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
