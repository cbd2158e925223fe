//! The agents of the roster that have not beaten, and when each is asked about next.
//!
//! Time is an argument.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::process::expected::Absent;
use crate::time::MonoNs;

/// Questions about them that may wait for an answer: the lookup thread has other work.
const ASKED_MAX: usize = 256;

/// The agents of the roster that have not beaten, each by its index there.
#[derive(Debug, Default)]
pub struct Missing {
    pub roster: Arc<[Absent]>,
    /// When to ask about each next.
    pub due: BTreeSet<(MonoNs, usize)>,
    /// Those asked about, by pid.
    pub asked: HashMap<u32, usize>,
    /// All of them are excused until then.
    pub excused_until: MonoNs,
}

impl Missing {
    /// Who is due next and when; nobody while enough answers are awaited, each of which rings.
    pub fn next(&self) -> Option<(MonoNs, usize)> {
        self.due.first().copied().filter(|_| self.asked.len() < ASKED_MAX)
    }

    /// When to ask next.
    pub fn due(&self) -> Option<MonoNs> {
        self.next().map(|(by, _)| self.excused_until.max(by))
    }
}
