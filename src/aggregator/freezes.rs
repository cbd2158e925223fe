//! Who is frozen, was, and is asked about or judged when.
//!
//! Time is an argument.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::table::place::{Holder, Place};
use crate::time::MonoNs;

/// Those who are frozen, and those who were and did not beat yet.
#[derive(Debug, Default)]
pub struct Freezes {
    /// Frozen ones, in the order in which they are asked about next.
    pub polled: VecDeque<(MonoNs, Holder)>,
    /// Since when those are thawed that did not beat since.
    pub thawed: HashMap<Place, MonoNs>,
    /// When they are judged again.
    pub deadlines: BTreeSet<(MonoNs, Holder)>,
}

impl Freezes {
    /// When there is something to ask or to judge.
    pub fn next(&self) -> Option<MonoNs> {
        let polled = self.polled.front().map(|(at, ..)| *at);
        let judged = self.deadlines.first().map(|(at, ..)| *at);
        [polled, judged].into_iter().flatten().min()
    }
}
