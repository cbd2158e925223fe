//! What other threads may access of one shard.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use super::blind::BlindNews;
use super::counters::{ShardCounters, ShardHealth};
use super::inbox::Inbox;
use super::index::{IndexLane, index_lane};
use super::kick::{Kick, KickedAt};
use super::notes::{BeatNote, Sample};
use super::report::ReportLane;
use super::sessions::Sessions;
use super::settings::Handover;
use super::uids::UidTable;
#[cfg(test)]
use crate::lab::fault;
use crate::notify::daemon::Terms;
use crate::sys::memory::Words;
use crate::table::Table;
use crate::table::status_lines::StatusLines;
use crate::table::turned_away::TurnedAway;
use crate::time::MonoNs;

/// Words of a report lane: at 10 000 full batches a second it holds a fifth of a second.
const REPORT_WORDS: usize = 1 << 17;
/// Samples of refused frames that wait to be reported.
const SAMPLES: usize = 16;
/// Blind windows that wait to be reported; the shard keeps (and merges) what does not fit.
const BLIND_NEWS: usize = 64;
/// Beats that wait to be reported, if a subscriber wants them.
const BEAT_NOTES: usize = 1 << 16;

/// What the shard of daemons shares besides.
#[derive(Debug)]
pub struct Daemons {
    /// What holds for all of them.
    pub terms: Terms,
    /// The status line of each.
    pub lines: StatusLines,
    /// The name of each, if it sent one.
    pub names: StatusLines,
}

/// Everything that other threads may access of one shard.
#[derive(Debug)]
pub struct Port {
    /// The slots, readable.
    pub table: Table,
    /// Slots with something to report.
    pub facts: IndexLane<AtomicU32, Words<AtomicU32>>,
    /// One report per batch.
    pub reports: ReportLane<AtomicU32, Words<AtomicU32>>,
    /// Samples of refused frames.
    pub samples: ArrayQueue<Sample>,
    /// Blind windows to report.
    pub blind: ArrayQueue<BlindNews>,
    /// Every beat, if a subscriber wants them.
    pub beats: Option<ArrayQueue<BeatNote>>,
    /// Instructions for the shard.
    pub inbox: Inbox,
    /// New settings for the shard.
    pub handover: Handover,
    /// The session of each slot's holder.
    pub sessions: Sessions,
    /// What holds for its daemons, and what they say; `None` if its agents send frames.
    pub daemons: Option<Arc<Daemons>>,
    /// Its counters.
    pub counters: ShardCounters,
    /// The same by user, as far as rows suffice.
    pub uids: Arc<UidTable>,
    /// Senders that any shard turned away.
    pub turned_away: Arc<TurnedAway>,
    /// Ends the shard's wait.
    pub kick: Arc<Kick>,
    kicked_at: KickedAt<AtomicU64>,
    /// The aggregator found that the shard's thread no longer turns.
    pub is_stuck: AtomicBool,
    /// The fault that a test injects into the shard's thread.
    #[cfg(test)]
    pub fault: fault::Fault,
}

impl Port {
    /// The port of a shard with this table.
    ///
    /// # Errors
    /// The kernel's, if it grants no address space.
    pub fn new(table: Table, kick: Arc<Kick>, with_beats: bool) -> io::Result<Self> {
        Self::with_reports(table, kick, with_beats, REPORT_WORDS)
    }

    /// As [`Port::new`], with a report lane of this many words, a power of two.
    ///
    /// # Errors
    /// As [`Port::new`].
    pub fn with_reports(
        table: Table,
        kick: Arc<Kick>,
        with_beats: bool,
        report_words: usize,
    ) -> io::Result<Self> {
        let slots = table.capacity();
        Ok(Self {
            facts: index_lane(slots)?,
            reports: ReportLane::new(Words::anonymous(report_words)?),
            samples: ArrayQueue::new(SAMPLES),
            blind: ArrayQueue::new(BLIND_NEWS),
            beats: with_beats.then(|| ArrayQueue::new(BEAT_NOTES)),
            inbox: Inbox::new(slots)?,
            handover: Handover::default(),
            sessions: Sessions::new(slots)?,
            daemons: None,
            counters: ShardCounters::default(),
            uids: Arc::default(),
            turned_away: Arc::new(TurnedAway::new()?),
            kick,
            kicked_at: KickedAt::default(),
            is_stuck: AtomicBool::new(false),
            #[cfg(test)]
            fault: fault::Fault::default(),
            table,
        })
    }

    /// The port of a shard whose fleet records here the senders it turned away.
    #[must_use]
    pub fn with_turned_away(self, turned_away: &Arc<TurnedAway>) -> Self {
        Self { turned_away: Arc::clone(turned_away), ..self }
    }

    /// The port of a shard of daemons for which these terms hold. Obtains memory for the extra words of its table.
    ///
    /// # Errors
    /// As [`Port::new`], and if the kernel grants no memory.
    pub fn of_daemons(self, terms: Terms) -> io::Result<Self> {
        self.table.grant_extra()?;
        let [lines, names] = [(); 2].map(|()| StatusLines::new(self.table.capacity()));
        let (lines, names) = (lines?, names?);
        Ok(Self { daemons: Some(Arc::new(Daemons { terms, lines, names })), ..self })
    }

    /// Whether the shard observes: its thread has not ended and is not stuck.
    pub fn is_alive(&self) -> bool {
        self.counters.health() == ShardHealth::Alive && !self.is_stuck.load(Ordering::Relaxed)
    }

    /// Ends the shard's wait, at `now`.
    pub fn kick(&self, now: MonoNs) {
        // Publish the instant before ringing: a shard woken first would sleep again.
        self.kicked_at.set(now);
        self.kick.kick();
    }

    /// When the shard was kicked, if it was since the last call. Shard only.
    #[inline]
    pub fn take_kick(&self) -> Option<MonoNs> {
        self.kicked_at.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Port {
        /// Whether the shard was kicked and has not checked.
        pub fn is_kicked(&self) -> bool {
            self.kicked_at.is_set()
        }
    }
}
