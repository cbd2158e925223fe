//! The agents of the roster that have not beaten, and when each is asked about next.
//!
//! Time is an argument.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::event::{Event, EventKind};
use crate::process::expected::Absent;
use crate::time::MonoNs;

/// Questions about them that may wait for an answer: the lookup thread has other work.
const ASKED_MAX: usize = 256;

/// The agents of the roster, each by its index there.
#[derive(Debug, Default)]
pub struct Missing {
    /// In the order of their pids, each once.
    pub roster: Arc<[Absent]>,
    /// When to ask about each next.
    pub due: BTreeSet<(MonoNs, usize)>,
    /// Those asked about, by pid.
    pub asked: HashMap<u32, usize>,
    /// All of them are excused until then.
    pub excused_until: MonoNs,
    /// What a predecessor reported last of a pid: that it is missing, or else that it is not. It may have been killed
    /// before the roster said so.
    recalled: HashMap<u32, bool>,
}

impl Missing {
    /// An event of a predecessor, in their order.
    pub fn recall(&mut self, event: &Event) {
        let is_missing = match event.kind {
            EventKind::Missing { .. } => true,
            EventKind::Up | EventKind::Exit { .. } => false,
            _ => return,
        };
        self.recalled.extend(event.pid().map(|pid| (pid, is_missing)));
    }

    /// All events of the predecessor were recalled, or the roster is there.
    pub fn are_recalled(&self) {
        for absent in &*self.roster {
            match self.recalled.get(&absent.expected.pid) {
                Some(true) => absent.set_missing(),
                Some(false) => absent.end(),
                None => {}
            }
        }
    }

    /// A process with this pid sends frames: if it was expected, that is over.
    pub fn met(&mut self, pid: u32) {
        if let Some(is_missing) = self.recalled.get_mut(&pid) {
            *is_missing = false;
        }
        if let Ok(index) = self.roster.binary_search_by_key(&pid, |absent| absent.expected.pid) {
            self.roster[index].end();
        }
    }

    /// Who is due next and when; nobody while enough answers are awaited, each of which rings.
    pub fn next(&self) -> Option<(MonoNs, usize)> {
        self.due.first().copied().filter(|_| self.asked.len() < ASKED_MAX)
    }

    /// When to ask next.
    pub fn due(&self) -> Option<MonoNs> {
        self.next().map(|(by, _)| self.excused_until.max(by))
    }
}
