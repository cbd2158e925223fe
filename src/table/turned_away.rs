//! The last refusal of each pid by a limit of ours, with time and reason: evidence that an agent may be
//! alive.
//!
//! In: attested senders whose frames a shard refuses. Out: the last refusal of a pid. Thread: any shard
//! writes, any thread reads. Blocks, locks: never. Allocates: at start only; memory is touched as pids are
//! refused.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::sys::memory::Words;
use crate::time::MonoNs;

use super::slots::PIDS;

/// Low bits of a word: the reason. The rest is the instant, rounded up to 4 ns.
const WHY_BITS: u64 = 3;

/// Why a frame without a known fault was refused.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TurnedAwayFor {
    /// Its user may not beat on this shard.
    Uid,
    /// Its user's frame budget was spent.
    Budget,
    /// The table has no room for another agent.
    #[serde(rename = "table_full")]
    Table,
    /// Its user's share of the table is used up.
    Share,
}

impl TurnedAwayFor {
    /// Every one of them, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Uid, Self::Budget, Self::Table, Self::Share];

    /// The word of the API, and of the metrics where they have the reason.
    #[cfg(feature = "http")]
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::Budget => "budget",
            Self::Table => "table_full",
            Self::Share => "share",
        }
    }
}

/// One refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnedAwayAt {
    /// When the frame arrived; up to 3 ns later.
    pub at: MonoNs,
    /// Why it was refused.
    pub why: TurnedAwayFor,
}

/// The last refusal of every pid. Exact: a process whose refusals counted for another pid could suppress the
/// stalls of that pid.
#[derive(Debug)]
pub struct TurnedAway {
    of_pid: Words<AtomicU64>,
}

impl TurnedAway {
    /// No refusal so far.
    ///
    /// # Errors
    /// The kernel's, when it grants no address space.
    pub fn new() -> io::Result<Self> {
        Ok(Self { of_pid: Words::anonymous(PIDS)? })
    }

    /// Records that a frame of `pid` (attested) that arrived at `arrival` was turned away.
    pub fn note(&self, pid: u32, arrival: MonoNs, why: TurnedAwayFor) {
        let Some(word) = self.of_pid.get(pid as usize) else { return };
        let at = arrival.0.saturating_add(WHY_BITS) & !WHY_BITS;
        // Another shard may have turned away a later one.
        word.fetch_max(at | why as u64, Ordering::Relaxed);
    }

    /// The last refusal of `pid`.
    pub fn last(&self, pid: u32) -> Option<TurnedAwayAt> {
        let word = self.of_pid.get(pid as usize)?.load(Ordering::Relaxed);
        let why = TurnedAwayFor::ALL[usize::from(word.to_le_bytes()[0]) & 3];
        (word != 0).then_some(TurnedAwayAt { at: MonoNs(word & !WHY_BITS), why })
    }

    /// Whether a frame of `pid` was turned away after this instant.
    pub fn is_after(&self, pid: u32, instant: MonoNs) -> bool {
        self.last(pid).is_some_and(|last| last.at > instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_turned_away_counts_and_says_why() {
        let turned_away = TurnedAway::new().unwrap();
        assert_eq!(turned_away.last(4711), None);
        turned_away.note(4711, MonoNs(20), TurnedAwayFor::Share);
        turned_away.note(4711, MonoNs(10), TurnedAwayFor::Budget);
        let last = TurnedAwayAt { at: MonoNs(20), why: TurnedAwayFor::Share };
        assert_eq!(turned_away.last(4711), Some(last));
        assert!(turned_away.is_after(4711, MonoNs(19)) && !turned_away.is_after(4711, MonoNs(20)));
        for (ms, why) in (1..).zip(TurnedAwayFor::ALL) {
            turned_away.note(4711, MonoNs(ms * 1_000_000), why);
            assert_eq!(turned_away.last(4711).map(|last| last.why), Some(why));
        }
    }

    /// A refusal never counts for another pid: a process that can choose its pid could suppress stalls
    /// otherwise.
    #[test]
    fn no_pid_is_taken_for_another() {
        let turned_away = TurnedAway::new().unwrap();
        for pid in (1..1 << 22).step_by(1 << 15) {
            turned_away.note(pid + 1, MonoNs(8), TurnedAwayFor::Uid);
            assert_eq!(turned_away.last(pid), None);
        }
        turned_away.note(u32::MAX, MonoNs(8), TurnedAwayFor::Uid);
        assert_eq!(turned_away.last(u32::MAX), None, "no process has this pid");
    }
}
