//! Which agents are frozen or were, and when each is polled or judged next.
//!
//! Time is an argument.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::table::place::{Holder, Place};
use crate::time::MonoNs;

/// Frozen agents, and thawed agents that have not beaten yet.
#[derive(Debug, Default)]
pub struct Freezes {
    /// Frozen agents, in the order of their next poll.
    pub polled: VecDeque<(MonoNs, Holder)>,
    /// When each agent was thawed that has not beaten since.
    pub thawed: HashMap<Place, MonoNs>,
    /// When they are judged again.
    pub deadlines: BTreeSet<(MonoNs, Holder)>,
}

impl Freezes {
    /// When the next poll or judgement is due.
    pub fn next(&self) -> Option<MonoNs> {
        let polled = self.polled.front().map(|(at, ..)| *at);
        let judged = self.deadlines.first().map(|(at, ..)| *at);
        [polled, judged].into_iter().flatten().min()
    }
}
