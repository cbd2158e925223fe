//! What crosses between a shard and the aggregator: facts and reports outwards, answers inwards.
//!
//! Everything here is bounded and allocated at start. Facts and answers cannot overflow; reports,
//! samples and beat notes drop and are counted. What crosses is proportional to changes and batches,
//! never to frames, unless somebody asked for every beat.

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::event::NoFrame;
use crate::lane::counters::{ShardCounters, ShardHealth};
use crate::lane::kick::{Kick, KickedAt};
use crate::lane::uids::UidTable;
use crate::refusal::Refusal;
use crate::shard::sight::BlindNews;
use crate::sys::memory::Words;
use crate::table::Table;
use crate::table::turned_away::TurnedAway;
use crate::table::word::Word;
use crate::time::MonoNs;
use crate::wire::{DecodeError, Status};

#[cfg(test)]
pub mod fault;
pub mod counters;
pub mod index;
pub mod kick;
pub mod report;
pub mod sessions;
pub mod uids;
pub mod vigil;

use index::IndexLane;
use report::ReportLane;
use sessions::Sessions;

/// Words of a report lane: at 10 000 full batches a second it holds a fifth of a second.
const REPORT_WORDS: usize = 1 << 17;
/// Samples of refused frames that wait to be told.
const SAMPLES: usize = 16;
/// Blind windows that wait to be told; the shard keeps (and merges) what does not fit.
const BLIND_NEWS: usize = 64;
/// Beats that wait to be told, where somebody asked for them.
const BEAT_NOTES: usize = 1 << 16;

/// What an answer says; a set of bits.
pub mod answer {
    /// The slot's holder is gone as of the answer's instant: give the slot back.
    pub const RELEASE: u32 = 1;
    /// With [`RELEASE`]: only if it did not beat since; it lives on another shard.
    pub const IF_SILENT: u32 = 1 << 1;
    /// The claimed pid is not the sender's.
    pub const FORGED: u32 = 1 << 2;
    /// The claimed pid is one of the sender's inner pids, or the sender is gone and nobody can tell.
    pub const INNER_PID: u32 = 1 << 3;
    /// The agent's class of threshold is known.
    pub const CLASS: u32 = 1 << 4;
    /// The agent beat elsewhere before: its last words open a deadline, too.
    pub const OPEN: u32 = 1 << 5;
    /// The last stall was none: a longer threshold holds. It is judged again.
    pub const WITHDRAW: u32 = 1 << 6;
    /// Below this are the bits above, from here on the holder that they are about.
    pub(super) const GENERATION_SHIFT: u32 = 8;
}

/// The values of an answer; which of them count is in its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Until when the slot's holder is known to be gone.
    pub as_of: MonoNs,
    /// The pid that the agent's frames carry.
    pub inner_pid: u32,
    /// The class of threshold.
    pub class: u8,
}

/// An answer taken out of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The slot.
    pub slot: u32,
    /// The low bits of its holder's generation.
    holder: u32,
    /// What the answer says.
    pub bits: u32,
    /// Its values.
    pub answer: Answer,
}

impl Taken {
    /// Whether it is about this holder of the slot.
    #[must_use]
    pub const fn is_about(&self, generation: u32) -> bool {
        generation << answer::GENERATION_SHIFT >> answer::GENERATION_SHIFT == self.holder
    }
}

/// Answers to one shard: cannot overflow, one place a slot. `L` and `M` are the memory of its words.
#[derive(Debug)]
pub struct Inbox<N = AtomicU32, V = AtomicU64, L = Words<N>, M = Words<V>>
where
    N: Word<Value = u32>,
    V: Word<Value = u64>,
    L: Deref<Target = [N]>,
    M: Deref<Target = [V]>,
{
    lane: IndexLane<N, L>,
    /// Per slot: the instant; the inner pid and the class.
    values: M,
}

impl Inbox {
    fn new(slots: u32) -> io::Result<Self> {
        Ok(Self { lane: index_lane(slots)?, values: Words::anonymous(slots as usize * 2)? })
    }
}

impl<N, V, L, M> Inbox<N, V, L, M>
where
    N: Word<Value = u32>,
    V: Word<Value = u64>,
    L: Deref<Target = [N]>,
    M: Deref<Target = [V]>,
{
    /// Leaves an answer about the holder `generation` of a slot. Aggregator only; the shard is to be kicked
    /// afterwards.
    ///
    /// The slot may have gone to another holder meanwhile, whom the answer must not hit: the shard compares
    /// generations. Nobody is answered about a later holder before the shard took what there was to say of
    /// the one before or cannot apply it any more, so the values below are those of the bits' holder.
    pub fn post(&self, slot: u32, generation: u32, bits: u32, answer: Answer) {
        let [as_of, rest] = self.values(slot);
        if bits & answer::RELEASE != 0 {
            as_of.store(answer.as_of.0, Ordering::Relaxed);
        }
        let mut word = rest.load(Ordering::Relaxed);
        if bits & answer::INNER_PID != 0 {
            word = word & 0xFF | u64::from(answer.inner_pid) << 32;
        }
        if bits & answer::CLASS != 0 {
            word = word & !0xFF | u64::from(answer.class);
        }
        rest.store(word, Ordering::Relaxed);
        let holder = generation << answer::GENERATION_SHIFT;
        let of_bits = (1 << answer::GENERATION_SHIFT) - 1;
        self.lane.push_amended(slot, |waiting| {
            // What was said of an earlier holder is over.
            let mut waiting = if waiting & !of_bits == holder { waiting & of_bits } else { 0 };
            // Gone is gone, whether it was silent or not.
            let both = waiting & bits & answer::RELEASE != 0;
            let if_silent = answer::IF_SILENT & if both { waiting & bits } else { waiting | bits };
            waiting = (waiting | bits) & !answer::IF_SILENT | if_silent;
            holder | waiting
        });
    }

    /// Takes the next answer: of which slot, whether it is about the holder of a generation, what.
    /// Shard only.
    #[inline]
    pub fn take(&self) -> Option<Taken> {
        let (slot, word_of_bits) = self.lane.pop()?;
        let bits = word_of_bits & ((1 << answer::GENERATION_SHIFT) - 1);
        let holder = word_of_bits >> answer::GENERATION_SHIFT;
        let [as_of, rest] = self.values(slot);
        let word = rest.load(Ordering::Relaxed);
        let [class, ..] = word.to_le_bytes();
        let inner_pid = (word >> 32) as u32;
        let answer = Answer { as_of: MonoNs(as_of.load(Ordering::Relaxed)), inner_pid, class };
        Some(Taken { slot, holder, bits, answer })
    }

    fn values(&self, slot: u32) -> [&V; 2] {
        let start = slot as usize * 2;
        [&self.values[start], &self.values[start + 1]]
    }
}

/// A refused datagram, as an example of those counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it arrived.
    pub arrival: MonoNs,
    /// Attested sender.
    pub attested: u32,
    /// Attested user.
    pub uid: u32,
    /// What was wrong.
    pub what: SampleOf,
}

/// What was wrong with a sampled datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleOf {
    /// It was no frame.
    Decode(NoFrame),
    /// It claimed this pid.
    Forged(u32),
}

impl SampleOf {
    /// The sample of a refusal, if refusals of this kind are told.
    pub const fn of(refusal: Refusal, error: Option<DecodeError>, claimed: u32) -> Option<Self> {
        match (refusal, error) {
            (_, Some(error)) => Some(Self::Decode(NoFrame::Undecodable(error))),
            (Refusal::WrongSize, None) => Some(Self::Decode(NoFrame::WrongSize)),
            (Refusal::Forged, None) => Some(Self::Forged(claimed)),
            _ => None,
        }
    }
}

/// One accepted frame, where somebody asked for every beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeatNote {
    /// When it arrived.
    pub arrival: MonoNs,
    /// Attested sender.
    pub pid: u32,
    /// The pid in the frame.
    pub frame_pid: u32,
    /// Its nonce.
    pub nonce: u64,
    /// Its status.
    pub status: Status,
    /// Its payload.
    pub payload: u64,
}

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
        // In this order: woken before it is said that it was kicked, the shard might sleep again.
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

fn index_lane(slots: u32) -> io::Result<IndexLane<AtomicU32, Words<AtomicU32>>> {
    let places = (slots as usize).next_power_of_two();
    Ok(IndexLane::new(Words::anonymous(slots as usize)?, Words::anonymous(places)?))
}

/// Wakes the aggregator. Facts always ring; reports only while it sleeps without a tick.
#[derive(Debug, Default)]
pub struct Doorbell {
    aggregator: OnceLock<Thread>,
    tickless: Tickless<AtomicU32>,
    /// Rung, and the test has not looked.
    #[cfg(test)]
    rung: AtomicBool,
}

impl Doorbell {
    /// Says whom to wake; until then ringing does nothing.
    pub fn answer(&self, aggregator: Thread) {
        let _ = self.aggregator.set(aggregator);
    }

    /// Wakes the aggregator. Neither locks nor allocates; a system call only if it sleeps.
    #[inline]
    pub fn ring(&self) {
        #[cfg(test)]
        self.rung.store(true, Ordering::Relaxed);
        if let Some(thread) = self.aggregator.get() {
            thread.unpark();
        }
    }

    /// Whether it was rung, once.
    #[cfg(test)]
    pub fn take_ring(&self) -> bool {
        self.rung.swap(false, Ordering::Relaxed)
    }

    /// Wakes the aggregator if it sleeps without a tick. What was queued before is seen by it.
    #[inline]
    pub fn ring_if_tickless(&self) {
        if self.tickless.is_to_be_rung() {
            self.ring();
        }
    }

    /// The aggregator says that it sleeps without a tick; it must look for work once more after this.
    pub fn sleep_tickless(&self) {
        self.tickless.begin();
    }

    /// The aggregator is awake or ticks.
    pub fn wake(&self) {
        self.tickless.end();
    }
}

/// Whether the aggregator sleeps without a tick: 1 if so.
#[derive(Debug)]
struct Tickless<W: Word<Value = u32>>(CachePadded<W>);

impl<W: Word<Value = u32>> Default for Tickless<W> {
    fn default() -> Self {
        Self(CachePadded::new(W::new(0)))
    }
}

impl<W: Word<Value = u32>> Tickless<W> {
    /// Whoever queued something asks; told yes, it must ring.
    #[inline]
    fn is_to_be_rung(&self) -> bool {
        // Either we see that it is going to sleep, or it sees what we queued.
        W::fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.0.store(0, Ordering::Relaxed);
        true
    }

    /// From here on it is to be rung; what was queued before is to be looked for after this.
    fn begin(&self) {
        self.0.store(1, Ordering::Relaxed);
        W::fence(Ordering::SeqCst);
    }

    fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::report::Report;
    use super::*;

    fn answer(as_of: u64) -> Answer {
        Answer { as_of: MonoNs(as_of), ..Answer::default() }
    }

    #[test]
    fn an_answer_is_about_one_holder_and_the_last_one_counts() {
        let inbox = Inbox::new(2).unwrap();
        inbox.post(1, 5, answer::RELEASE, answer(10));
        inbox.post(1, 7, answer::CLASS, answer(0));
        let taken = inbox.take().unwrap();
        assert_eq!((taken.slot, taken.bits), (1, answer::CLASS), "what was said of 5 does not hit 7");
        assert!(taken.is_about(7) && taken.is_about(7 | 1 << 24) && !taken.is_about(5));
        assert_eq!(inbox.take(), None);
    }

    #[test]
    fn gone_overrides_gone_if_silent_and_not_the_other_way_round() {
        let silent = answer::RELEASE | answer::IF_SILENT;
        for (said, means) in [
            (&[silent][..], silent),
            (&[silent, answer::RELEASE], answer::RELEASE),
            (&[answer::RELEASE, silent], answer::RELEASE),
            (&[answer::CLASS, silent], answer::CLASS | silent),
            (&[silent, silent], silent),
        ] {
            let inbox = Inbox::new(1).unwrap();
            for bits in said {
                inbox.post(0, 1, *bits, answer(10));
            }
            assert_eq!(inbox.take().unwrap().bits, means, "{said:?}");
        }
    }
    fn words<W: Word>(n: usize, zero: W::Value) -> Box<[W]> {
        (0..n).map(|_| W::new(zero)).collect()
    }

    /// Every interleaving in which threads are interrupted at most three times where they need not be.
    fn model(interleaved: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(interleaved);
    }

    /// The shard gives the slot from its first holder to a second while answers about both are on the way.
    #[test]
    fn loom_an_answer_is_whole_and_hits_only_the_holder_it_is_about() {
        use loom::sync::Arc;
        use loom::sync::atomic::{AtomicU32, AtomicU64};
        type Modelled = Inbox<AtomicU32, AtomicU64, Box<[AtomicU32]>, Box<[AtomicU64]>>;

        /// What the shard makes of the answers.
        struct Shard {
            generation: u32,
            class: Option<u8>,
            inner_pid: Option<u32>,
        }
        impl Shard {
            fn take(&mut self, inbox: &Modelled, generation: &AtomicU32) {
                while let Some(taken) = inbox.take() {
                    if !taken.is_about(self.generation) {
                        continue;
                    }
                    let Taken { bits, answer, .. } = taken;
                    if bits & answer::RELEASE != 0 {
                        assert_eq!((self.generation, answer.as_of), (1, MonoNs(10)), "{taken:?}");
                        self.generation = 2;
                        generation.store(2, Ordering::Release);
                        self.class = None;
                        continue;
                    }
                    if bits & answer::CLASS != 0 {
                        assert_eq!(answer.class, [3, 5][self.generation as usize - 1], "{taken:?}");
                        self.class = Some(answer.class);
                    }
                    assert!(bits & answer::FORGED == 0 || self.generation == 1, "{taken:?}");
                    if bits & answer::INNER_PID != 0 {
                        assert_eq!((self.generation, answer.inner_pid), (2, 9), "{taken:?}");
                        self.inner_pid = Some(9);
                    }
                }
            }
        }

        model(|| {
            let lane = IndexLane::new(words(1, 0), words(1, 0));
            let inbox: Arc<Modelled> = Arc::new(Inbox { lane, values: words(2, 0) });
            let generation = Arc::new(AtomicU32::new(1));
            let shard = {
                let (inbox, generation) = (Arc::clone(&inbox), Arc::clone(&generation));
                loom::thread::spawn(move || {
                    let mut shard = Shard { generation: 1, class: None, inner_pid: None };
                    shard.take(&inbox, &generation);
                    shard.take(&inbox, &generation);
                    shard
                })
            };
            inbox.post(0, 1, answer::CLASS, Answer { class: 3, ..Answer::default() });
            inbox.post(0, 1, answer::RELEASE, answer(10));
            // Said too late: nobody holds the slot any more, or its second holder does.
            inbox.post(0, 1, answer::FORGED, Answer::default());
            // The slot itself says who holds it.
            let is_second = generation.load(Ordering::Acquire) == 2;
            if is_second {
                let about_second = Answer { class: 5, inner_pid: 9, ..Answer::default() };
                inbox.post(0, 2, answer::CLASS | answer::INNER_PID, about_second);
            }
            let mut shard = shard.join().expect("shard");
            shard.take(&inbox, &generation);
            assert_eq!(shard.generation, 2, "the release came");
            if is_second {
                assert_eq!((shard.class, shard.inner_pid), (Some(5), Some(9)), "the last word came");
            }
        });
    }

    /// loom reports a deadlock if the aggregator sleeps on a report.
    #[test]
    fn loom_nobody_sleeps_on_a_report() {
        use loom::sync::Arc;
        use loom::sync::atomic::AtomicU32;
        type Modelled = ReportLane<AtomicU32, Box<[AtomicU32]>>;

        model(|| {
            let lanes: [Arc<Modelled>; 2] = std::array::from_fn(|_| Arc::new(ReportLane::new(words(8, 0))));
            let tickless = Arc::new(Tickless::<AtomicU32>::default());
            let aggregator = loom::thread::current();
            for lane in &lanes {
                let (lane, tickless, aggregator) =
                    (Arc::clone(lane), Arc::clone(&tickless), aggregator.clone());
                loom::thread::spawn(move || {
                    assert!(lane.push(&Report { frames: 1, decode_ns: 1, queue_ns: &[] }));
                    if tickless.is_to_be_rung() {
                        aggregator.unpark();
                    }
                });
            }
            let mut samples = [0; report::SAMPLES_MAX];
            let mut taken = 0;
            loop {
                tickless.end();
                for lane in &lanes {
                    taken += usize::from(lane.pop(&mut samples).is_some());
                }
                if taken == lanes.len() {
                    break;
                }
                tickless.begin();
                if lanes.iter().all(|lane| lane.is_empty()) {
                    loom::thread::park();
                }
            }
        });
    }

    /// The order of a stop: the shard says its last, is joined, and only then is the aggregator told.
    #[test]
    fn fault_34_loom_what_a_shard_says_last_is_told_before_the_stop() {
        use loom::sync::Arc;
        use loom::sync::atomic::{AtomicBool, AtomicU32};
        type Facts = IndexLane<AtomicU32, Box<[AtomicU32]>>;

        model(|| {
            let facts: Arc<Facts> = Arc::new(IndexLane::new(words(2, 0), words(2, 0)));
            let is_shard_stopping = Arc::new(AtomicBool::new(false));
            let is_stopping = Arc::new(AtomicBool::new(false));
            let shard = {
                let (facts, is_stopping) = (Arc::clone(&facts), Arc::clone(&is_shard_stopping));
                loom::thread::spawn(move || {
                    facts.push(0, 1);
                    while !is_stopping.load(Ordering::Acquire) {
                        loom::thread::yield_now();
                    }
                    facts.push(1, 1);
                })
            };
            let aggregator = {
                let (facts, is_stopping) = (Arc::clone(&facts), Arc::clone(&is_stopping));
                loom::thread::spawn(move || {
                    let mut told = 0;
                    loop {
                        // Requests before facts: whatever preceded the stop is there to be taken.
                        let is_last = is_stopping.load(Ordering::Acquire);
                        while facts.pop().is_some() {
                            told += 1;
                        }
                        if is_last {
                            return told;
                        }
                        loom::thread::yield_now();
                    }
                })
            };
            is_shard_stopping.store(true, Ordering::Release);
            shard.join().expect("shard");
            is_stopping.store(true, Ordering::Release);
            assert_eq!(aggregator.join().expect("aggregator"), 2);
        });
    }
}
