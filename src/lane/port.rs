//! What others may touch of one shard.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use super::blind::BlindNews;
use super::counters::{ShardCounters, ShardHealth};
#[cfg(test)]
use super::fault;
use super::inbox::Inbox;
use super::index::{IndexLane, index_lane};
use super::kick::{Kick, KickedAt};
use super::notes::{BeatNote, Sample};
use super::report::ReportLane;
use super::sessions::Sessions;
use super::uids::UidTable;
use crate::sys::memory::Words;
use crate::table::Table;
use crate::table::turned_away::TurnedAway;
use crate::time::MonoNs;

/// Words of a report lane: at 10 000 full batches a second it holds a fifth of a second.
const REPORT_WORDS: usize = 1 << 17;
/// Samples of refused frames that wait to be told.
const SAMPLES: usize = 16;
/// Blind windows that wait to be told; the shard keeps (and merges) what does not fit.
const BLIND_NEWS: usize = 64;
/// Beats that wait to be reported, where a subscriber asks for them.
const BEAT_NOTES: usize = 1 << 16;

/// Everything others may touch of one shard.
#[derive(Debug)]
pub struct Port {
    /// The slots, readable.
    pub table: Table,
    /// Slots that have something to tell.
    pub facts: IndexLane<AtomicU32, Words<AtomicU32>>,
    /// One report a batch.
    pub reports: ReportLane<AtomicU32, Words<AtomicU32>>,
    /// Examples of refused frames.
    pub samples: ArrayQueue<Sample>,
    /// Blind windows to tell.
    pub blind: ArrayQueue<BlindNews>,
    /// Every beat, if asked for.
    pub beats: Option<ArrayQueue<BeatNote>>,
    /// Answers for the shard.
    pub inbox: Inbox,
    /// Which session each slot's holder is in.
    pub sessions: Sessions,
    /// What it counted.
    pub counters: ShardCounters,
    /// The same by user, as far as there is room.
    pub uids: Arc<UidTable>,
    /// Whom any shard turned away.
    pub turned_away: Arc<TurnedAway>,
    /// Ends the shard's wait.
    pub kick: Arc<Kick>,
    kicked_at: KickedAt<AtomicU64>,
    /// The aggregator found that the shard's thread turns no more.
    pub is_stuck: AtomicBool,
    /// What a test does to the shard's thread.
    #[cfg(test)]
    pub fault: fault::Fault,
}

impl Port {
    /// The port of a shard with this table.
    ///
    /// # Errors
    /// The kernel's, when it grants no address space.
    pub fn new(table: Table, kick: Arc<Kick>, with_beats: bool) -> io::Result<Self> {
        Self::with_reports(table, kick, with_beats, REPORT_WORDS)
    }

    /// As [`Port::new`], with a report lane of so many words, a power of two.
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
            sessions: Sessions::new(slots)?,
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

    /// The port of a shard whose fleet remembers here whom it turned away.
    #[must_use]
    pub fn with_turned_away(self, turned_away: &Arc<TurnedAway>) -> Self {
        Self { turned_away: Arc::clone(turned_away), ..self }
    }

    /// Whether the shard observes: its thread runs, and turns.
    pub fn is_alive(&self) -> bool {
        self.counters.health() == ShardHealth::Alive && !self.is_stuck.load(Ordering::Relaxed)
    }

    /// Ends the shard's wait, at `now`.
    pub fn kick(&self, now: MonoNs) {
        // Publish the instant before ringing: a shard woken first would sleep again.
        self.kicked_at.set(now);
        self.kick.kick();
    }

    /// Whether the shard was kicked and has not looked.
    #[cfg(test)]
    pub fn is_kicked(&self) -> bool {
        self.kicked_at.is_set()
    }

    /// When the shard was kicked, once. Shard only.
    #[inline]
    pub fn take_kick(&self) -> Option<MonoNs> {
        self.kicked_at.take()
    }
}
