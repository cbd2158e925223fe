//! The agents of one shard: the table's writer, the index from agents to slots, and the timers.
//!
//! In: decoded frames with attested senders; instructions from the aggregator. Out: which slots have changed.
//! Thread: shard. Blocks: never. Allocates: at start only. Time is an argument; [`rules`] decide what a beat
//! means.

use std::mem;
use std::sync::Arc;

use crate::config::classes::Classes;
use crate::lane::{Daemons, Instruction, instruction};
use crate::refusal::Refusal;
use crate::rules::phase::{self, Allowed, By, Facts};
use crate::rules::{self, Beat, Judgement, Sender, Sight};
use crate::shard::index::{Found, Index};
use crate::shard::uids::UidAccounts;
use crate::shard::wheel::Wheel;
use crate::table::TableWriter;
pub use crate::table::admission::Admission;
use crate::table::admission::NoRoom;
use crate::table::adopt::Legacy;
use crate::table::key::AgentKey;
use crate::table::slot::{Account, Cold, Flags, Hot, State};
use crate::table::turned_away::TurnedAwayFor;
use crate::time::MonoNs;
use crate::wire::{Frame, Status};

mod notify;

const MILLISECOND_NS: u64 = 1_000_000;

/// Timer entries whose agents are prefetched together.
const DUE_MAX: usize = 32;

/// The outcome of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An accepted beat; nothing to report.
    Beat(u32),
    /// An accepted beat that changed something to report in this slot.
    Changed(u32),
    /// A message that is no beat and has nothing to report.
    Heard,
    /// A message that is no beat and changed something to report in this slot.
    News(u32),
    /// A refused frame or message.
    Refused(Refusal),
}

/// The agents of one shard.
#[derive(Debug)]
pub struct Tracker {
    writer: TableWriter,
    /// The slot of each agent.
    index: Index,
    /// Released slots, used first.
    free: Vec<u32>,
    /// Slots from here on were never used.
    unused_from: u32,
    wheel: Wheel,
    admission: Arc<Admission>,
    classes: Classes,
    /// The number of `classes`: an instruction that names a class of another table is void.
    table: u16,
    renewal: Renewal,
    /// Beats of all agents that were lost before they reached the shard.
    beats_lost: u64,
    /// Where each slot's agent is counted; 0 = nowhere.
    seats: Vec<u64>,
    /// What each user costs, and the budget of each.
    pub uids: UidAccounts,
    /// The agents are daemons that send messages; `None`: they send frames.
    daemons: Option<Arc<Daemons>>,
}

/// What the last reload means for slots that were in use then.
#[derive(Debug)]
struct Renewal {
    /// When the classes were swapped last; 0: never.
    at: MonoNs,
    /// When they were swapped before that.
    earlier_at: MonoNs,
    /// The classes before.
    before: Classes,
    /// A bit for each slot: its class is one of `before`.
    stale: Vec<u64>,
    /// Words of `stale` from the first to the second may hold bits that are set.
    left: (u32, u32),
    /// By slot: the threshold before the swap, ns, and an instant before which no earlier swap lets the agent be
    /// judged.
    grace: Vec<[u64; 2]>,
}

impl Renewal {
    fn new(slots: u32) -> Self {
        // The kernel zeroes both page by page when they are touched: in a fleet that is never reloaded, never.
        Self {
            at: MonoNs(0),
            earlier_at: MonoNs(0),
            before: Classes::single(0),
            stale: vec![0; slots.div_ceil(u64::BITS) as usize],
            left: (0, 0),
            grace: vec![[0; 2]; slots as usize],
        }
    }

    /// Marks the first `slots` slots.
    fn mark(&mut self, slots: u32) {
        let (full, rest) = ((slots / u64::BITS) as usize, slots % u64::BITS);
        self.stale[..full].fill(u64::MAX);
        if rest > 0 {
            self.stale[full] = (1 << rest) - 1;
        }
        self.left = (0, slots.div_ceil(u64::BITS));
    }

    #[inline]
    const fn is_over(&self) -> bool {
        self.left.0 == self.left.1
    }

    fn is_stale(&self, slot: u32) -> bool {
        !self.is_over() && self.stale[(slot / u64::BITS) as usize] >> (slot % u64::BITS) & 1 == 1
    }

    fn clear(&mut self, slot: u32) {
        if !self.is_over() {
            self.stale[(slot / u64::BITS) as usize] &= !(1 << (slot % u64::BITS));
        }
    }

    /// Keeps what the slot owes its agent, whose threshold was `before_ns` until the last swap.
    fn keep_grace(&mut self, slot: u32, last_arrival: MonoNs, before_ns: u64) {
        let kept = grace(self.grace[slot as usize], self.earlier_at, last_arrival, before_ns);
        self.grace[slot as usize] = [before_ns, kept.0];
    }

    /// The slot has another agent, which no swap concerns.
    fn forget(&mut self, slot: u32) {
        if self.at > MonoNs(0) {
            self.clear(slot);
            self.grace[slot as usize] = [0, 0];
        }
    }

    /// The instant before which the agent of the slot is not judged, because its threshold became shorter.
    fn not_before(&self, slot: u32, last_arrival: MonoNs, threshold_ns: u64) -> MonoNs {
        if planted!(JudgesAtOnceByAShorterThreshold) {
            return MonoNs(0);
        }
        grace(self.grace[slot as usize], self.at, last_arrival, threshold_ns)
    }

    /// The first slot whose class is one of `before`.
    fn next(&mut self) -> Option<u32> {
        while !self.is_over() {
            let word = self.stale[self.left.0 as usize];
            if word != 0 {
                return Some(self.left.0 * u64::BITS + word.trailing_zeros());
            }
            self.left.0 += 1;
        }
        None
    }
}

/// The instant before which an agent that has been silent since before the swap `at` is not judged, by what is
/// kept of its slot. An agent that has beaten since owes nothing to a swap.
fn grace([before_ns, kept]: [u64; 2], at: MonoNs, last_arrival: MonoNs, threshold_ns: u64) -> MonoNs {
    if last_arrival >= at {
        return MonoNs(0);
    }
    let is_shorter = threshold_ns < before_ns;
    MonoNs(kept).max(if is_shorter { at + threshold_ns } else { MonoNs(0) })
}

/// Where the agent of a slot is counted, packed into a word of `seats`: pid, user, and row in the shard's
/// user table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    pid: u32,
    uid: u32,
    row: u8,
}

impl Seat {
    const fn to_word(self) -> u64 {
        // A pid has 23 bits and is not 0.
        (self.pid as u64) << 40 | (self.row as u64) << 32 | self.uid as u64
    }

    fn from_word(word: u64) -> Option<Self> {
        let [u0, u1, u2, u3, row, p0, p1, p2] = word.to_le_bytes();
        let (pid, uid) = (u32::from_le_bytes([p0, p1, p2, 0]), u32::from_le_bytes([u0, u1, u2, u3]));
        (word != 0).then_some(Self { pid, uid, row })
    }
}

impl Tracker {
    /// A tracker on an empty table.
    pub fn new(
        writer: TableWriter,
        classes: Classes,
        tick_ns: u64,
        admission: Arc<Admission>,
        uids: UidAccounts,
        now: MonoNs,
    ) -> Self {
        let slots = writer.table().capacity();
        Self {
            writer,
            index: Index::new(),
            free: Vec::with_capacity(slots as usize),
            unused_from: 0,
            wheel: Wheel::new(slots, tick_ns, now),
            admission,
            classes,
            table: 0,
            renewal: Renewal::new(slots),
            beats_lost: 0,
            seats: vec![0; slots as usize],
            uids,
            daemons: None,
        }
    }

    /// The same on the table that the process before left, for a tracker that has not done anything yet. Until its agents
    /// are matched again they have the largest threshold: its classes mean nothing here. Agents beyond the limits of its
    /// admission stay.
    #[must_use]
    pub fn go_on_after(mut self, legacy: &Legacy) -> Self {
        let class = self.classes.unknown();
        self.rebuild(|hot| {
            hot.class = class;
            hot.paused_before = legacy.paused_before(hot);
        });
        self
    }

    /// Swaps the classes with those of a reload, at `now`. Slots in use have a class of the new table once
    /// [`Tracker::renew`] has visited them: that of agents that have not been looked up yet, until an instruction
    /// that names `table` says which. Every use of a slot visits it first.
    ///
    /// An agent whose threshold became shorter is not judged before a whole one has passed since `now`.
    pub fn swap_classes(&mut self, table: u16, classes: &mut Classes, now: MonoNs) {
        debug_assert!(!self.is_renewing(), "one after the other");
        mem::swap(&mut self.classes, classes);
        mem::swap(&mut self.renewal.before, classes);
        self.table = table;
        self.renewal.mark(self.unused_from);
        self.renewal.earlier_at = mem::replace(&mut self.renewal.at, now);
    }

    /// Whether slots are left that [`Tracker::renew`] must visit.
    #[inline]
    pub const fn is_renewing(&self) -> bool {
        !self.renewal.is_over()
    }

    /// Visits at most `budget` of the slots that still have a class of the table before.
    pub fn renew(&mut self, budget: u32) {
        for _ in 0..budget {
            let Some(slot) = self.renewal.next() else { return };
            self.renew_slot(slot);
        }
    }

    /// Gives the agent of the slot, if it still has a class of the table before, that of agents that have not been
    /// looked up yet.
    #[cold]
    fn renew_slot(&mut self, slot: u32) {
        let mut hot = self.writer.hot(slot);
        if hot.state == State::Free {
            return self.renewal.clear(slot);
        }
        let before = &self.renewal.before;
        let of_daemon = self.allowed_to_daemon(slot, &hot, before);
        let before_ns = of_daemon.unwrap_or_else(|| self.allowed_of(slot, &hot, before).ns);
        self.renewal.keep_grace(slot, hot.last_arrival, before_ns);
        if !planted!(KeepsOldClasses) {
            hot.class = self.classes.unknown();
        }
        self.writer.write_hot(slot, &hot);
        self.set_timer(slot, &hot);
        // Last: after a panic in between, the slot is visited again.
        self.renewal.clear(slot);
    }

    #[inline]
    fn freshen(&mut self, slot: u32) {
        if self.renewal.is_stale(slot) {
            self.renew_slot(slot);
        }
    }

    /// Rebuilds from the table after a panic left everything else in doubt.
    pub fn recover(&mut self, now: MonoNs) {
        self.wheel.reset(now);
        self.uids.recover();
        self.index.clear();
        self.free.clear();
        self.writer.repair();
        // The new sight counts all time before it as one pause.
        self.rebuild(|hot| hot.paused_before = hot.last_arrival.0);
    }

    /// Fills index, free slots and timers, which are empty, from the table alone, after `renew` adapted each agent's
    /// hot half.
    ///
    /// Counts agents that were not counted yet; all agents in the table stay. Visits only slots that were
    /// ever used: touching another would allocate its memory.
    fn rebuild(&mut self, renew: impl Fn(&mut Hot)) {
        self.unused_from = self.writer.used();
        for slot in (0..self.unused_from).rev() {
            self.freshen(slot);
            let mut hot = self.writer.hot(slot);
            let seat = Seat::from_word(self.seats[slot as usize]);
            if hot.state == State::Free {
                self.free.push(slot);
                if let Some(Seat { pid, .. }) = seat {
                    self.seats[slot as usize] = 0;
                    self.admission.leave(pid);
                }
                continue;
            }
            let pid = hot.pid;
            let uid = match seat {
                Some(Seat { uid, .. }) => uid,
                None => {
                    self.admission.count_in(pid, hot.uid());
                    hot.uid()
                }
            };
            let row = self.uids.on_admitted(uid, hot.last_arrival);
            self.seats[slot as usize] = Seat { pid, uid, row }.to_word();
            if planted!(ForgetsTheStart) {
                let cold = self.writer.cold(slot);
                self.writer.write(slot, &hot, &Cold { awaits_ok: false, ..cold });
            }
            let before = hot;
            renew(&mut hot);
            if self.daemons.is_some() {
                self.renew_session(slot, &before, &renew);
            }
            if hot != before {
                self.writer.write_hot(slot, &hot);
            }
            self.index.put(hot.key(), slot);
            self.set_timer(slot, &hot);
        }
    }

    /// Sets the timer of an agent to its deadline, if it has one.
    fn set_timer(&mut self, slot: u32, hot: &Hot) {
        if self.daemons.is_some() {
            self.set_timer_of_daemon(slot);
        } else if hot.state == State::Up {
            self.wheel.set(slot, hot.last_arrival + self.threshold_of(hot));
        }
    }

    /// Prefetches what the frames of these agents will touch, for all of them at once: a batch then waits for
    /// memory twice instead of twice per frame. Measured with 1M agents in random order: 33 ns per beat instead
    /// of 323; with 100k 26 instead of 59; with 1000 no difference. Huge pages do not improve that.
    #[inline]
    pub fn prefetch(&self, keys: impl Iterator<Item = AgentKey> + Clone) {
        for key in keys.clone() {
            self.index.prefetch(key);
        }
        for key in keys {
            if let Some(slot) = self.index.slot(key) {
                self.writer.prefetch_hot(slot);
            }
        }
    }

    /// Takes one frame with an attested sender. An ordinary beat costs one probe, one read and one write of a
    /// cache line.
    #[inline]
    pub fn on_frame(&mut self, frame: &Frame, sender: &Sender) -> Outcome {
        let slot = match self.index.find(sender.key()) {
            Found::Slot(slot) => slot,
            Found::Nobody => return self.admit(frame, sender),
            Found::Impossible => return Outcome::Refused(Refusal::Unattested),
        };
        let mut hot = self.writer.hot(slot);
        if rules::is_ordinary(&hot, frame, sender) {
            rules::ordinary_beat(&mut hot, frame, sender);
            self.writer.write_hot(slot, &hot);
            return Outcome::Beat(slot);
        }
        self.on_other_frame(slot, hot, frame, sender)
    }

    /// Handles every frame but the ordinary next beat.
    #[cold]
    fn on_other_frame(&mut self, slot: u32, mut hot: Hot, frame: &Frame, sender: &Sender) -> Outcome {
        if self.renewal.is_stale(slot) {
            self.renew_slot(slot);
            hot = self.writer.hot(slot);
        }
        let mut cold = self.writer.cold(slot);
        let before = hot.state;
        let threshold_ns = self.threshold_of(&hot);
        let lost_before = cold.beats_lost;
        let uid_before = hot.uid();
        let beat = rules::next_beat(&mut hot, &mut cold, frame, sender, threshold_ns);
        if hot.uid() != uid_before
            && let Err(why) = self.change_user(slot, sender)
        {
            // The agent stays with its old user, and the slot stays unchanged.
            return self.turn_away(sender, why);
        }
        self.writer.write(slot, &hot, &cold);
        self.beats_lost = self.beats_lost.saturating_add(cold.beats_lost.saturating_sub(lost_before));
        if before != State::Up && hot.state == State::Up {
            self.wheel.set(slot, hot.last_arrival + threshold_ns);
        }
        match beat {
            Beat::Life => Outcome::Beat(slot),
            Beat::Changed => Outcome::Changed(slot),
            Beat::Refused(refusal) => Outcome::Refused(refusal),
        }
    }

    /// Counts the slot's agent under the sender's user, unless the share of that user is full.
    fn change_user(&mut self, slot: u32, sender: &Sender) -> Result<(), NoRoom> {
        let Some(seat) = Seat::from_word(self.seats[slot as usize]) else { return Ok(()) };
        self.admission.change_user(seat.pid, sender.uid)?;
        self.uids.on_left(seat.row);
        let row = self.uids.on_admitted(sender.uid, sender.arrival);
        self.seats[slot as usize] = Seat { uid: sender.uid, row, ..seat }.to_word();
        Ok(())
    }

    #[cold]
    fn admit(&mut self, frame: &Frame, sender: &Sender) -> Outcome {
        match self.enter(sender) {
            Ok(slot) => {
                self.settle(slot, frame, sender);
                Outcome::Changed(slot)
            }
            Err(refused) => refused,
        }
    }

    /// A slot for the sender, with its seat; or the refusal.
    fn enter(&mut self, sender: &Sender) -> Result<u32, Outcome> {
        if let Err(why) = self.admission.enter(sender.pid, sender.uid) {
            return Err(self.turn_away(sender, why));
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.unused_from < self.writer.table().granted() => {
                self.unused_from += 1;
                self.writer.mark_used(self.unused_from);
                self.unused_from - 1
            }
            // All slots are taken, or the kernel has not granted memory for more yet.
            None => {
                self.admission.leave(sender.pid);
                return Err(self.turn_away(sender, NoRoom::Fleet));
            }
        };
        let row = self.uids.on_admitted(sender.uid, sender.arrival);
        self.seats[slot as usize] = Seat { pid: sender.pid, uid: sender.uid, row }.to_word();
        self.index.put(sender.key(), slot);
        Ok(slot)
    }

    fn turn_away(&self, sender: &Sender, why: NoRoom) -> Outcome {
        let why = match why {
            NoRoom::Fleet => TurnedAwayFor::Table,
            NoRoom::Share => {
                self.uids.on_share_refused(sender.uid);
                TurnedAwayFor::Share
            }
        };
        self.on_turned_away(sender.pid, sender.arrival, why);
        Outcome::Refused(Refusal::TableFull)
    }

    /// Gives the slot to the sender of `frame`, under a new generation.
    fn settle(&mut self, slot: u32, frame: &Frame, sender: &Sender) {
        let generation = self.writer.cold(slot).generation.wrapping_add(1);
        self.renewal.forget(slot);
        let (hot, cold) = rules::first_beat(frame, sender, generation, self.classes.unknown());
        self.writer.write(slot, &hot, &cold);
        if hot.state == State::Up {
            self.wheel.set(slot, hot.last_arrival + self.threshold_of(&hot));
        }
    }

    /// Judges at most `budget` agents whose deadline may have come and calls `on_stall` for each slot found
    /// stalled. `blind_since` returns the blind time of a silence. Returns true if the budget was spent: call
    /// again after the next receive.
    pub fn judge(
        &mut self,
        sight: &Sight,
        budget: u32,
        blind_since: impl Fn(MonoNs) -> u64,
        mut on_stall: impl FnMut(u32),
    ) -> bool {
        if let Some(terms) = self.terms() {
            return self.judge_daemons(&terms, sight, budget, blind_since, on_stall);
        }
        let mut left = budget as usize;
        while left > 0 {
            // Prefetch what judging touches, for all of them at once.
            let mut room = [0; DUE_MAX];
            let room = &mut room[..left.min(DUE_MAX)];
            let len = self.wheel.take_due(sight.watermark, room, |slot| self.writer.prefetch_hot(slot));
            for slot in &room[..len] {
                self.judge_one(*slot, sight, &blind_since, &mut on_stall);
            }
            if len < room.len() {
                return false;
            }
            left -= len;
        }
        true
    }

    fn judge_one(
        &mut self,
        slot: u32,
        sight: &Sight,
        blind_since: impl Fn(MonoNs) -> u64,
        on_stall: &mut impl FnMut(u32),
    ) {
        self.freshen(slot);
        let hot = self.writer.hot(slot);
        if hot.state != State::Up {
            return;
        }
        if self.classes.have_phases() {
            return self.judge_in_phases(slot, hot, sight, blind_since, on_stall);
        }
        let threshold_ns = self.threshold_of(&hot);
        match self.judgement_of(slot, &hot, threshold_ns, sight) {
            Judgement::NotBefore(_) if planted!(ForgetsTheTimer) => {}
            Judgement::NotBefore(at) => self.wheel.set(slot, at),
            Judgement::Stalled { is_certain } => {
                let silence = (hot.last_arrival, sight.watermark);
                self.stall(slot, hot, By::Rule, is_certain, silence, blind_since(hot.last_arrival));
                on_stall(slot);
            }
        }
    }

    /// As [`Tracker::judge_one`], in a fleet some of whose rules have phases.
    #[cold]
    fn judge_in_phases(
        &mut self,
        slot: u32,
        hot: Hot,
        sight: &Sight,
        blind_since: impl Fn(MonoNs) -> u64,
        on_stall: &mut impl FnMut(u32),
    ) {
        let allowed = self.allowed_of(slot, &hot, &self.classes);
        match self.judgement_of(slot, &hot, allowed.ns, sight) {
            Judgement::NotBefore(at) => {
                let at = self.look_at(slot, &hot, at, sight);
                self.wheel.set(slot, at);
            }
            Judgement::Stalled { is_certain } => {
                let silence = (hot.last_arrival, sight.watermark);
                self.stall(slot, hot, allowed.by, is_certain, silence, blind_since(hot.last_arrival));
                on_stall(slot);
            }
        }
    }

    /// When to look at an agent again that is no stall before `at`. One that may be in a phase with a threshold of its own
    /// is looked at as often as any other: a beat may end the phase, and moves no timer.
    fn look_at(&mut self, slot: u32, hot: &Hot, at: MonoNs, sight: &Sight) -> MonoNs {
        if self.classes.phases_of(hot.class).is_empty() || planted!(LooksWhenThePhaseIsOver) {
            return at;
        }
        let mut cold = self.writer.cold(slot);
        if phase::is_begin_over(&self.classes, hot.class, hot, &cold) {
            cold.begun = 0;
            self.writer.write(slot, hot, &cold);
        }
        at.min(sight.watermark + self.threshold_of(hot))
    }

    /// The silence that `classes` allow the agent of the slot.
    fn allowed_of(&self, slot: u32, hot: &Hot, classes: &Classes) -> Allowed {
        if classes.phases_of(hot.class).is_empty() {
            return Allowed { ns: classes.threshold_ns(hot.class), by: By::Rule };
        }
        phase::allowed(classes, hot.class, &Facts::of(hot, &self.writer.cold(slot)))
    }

    #[inline]
    fn judgement_of(&self, slot: u32, hot: &Hot, threshold_ns: u64, sight: &Sight) -> Judgement {
        let judge = |sight: &Sight| rules::judge(hot.last_arrival, hot.paused_before, threshold_ns, sight);
        let judgement = match judge(sight) {
            Judgement::Stalled { .. } if self.admission.turned_away().is_after(hot.pid, hot.last_arrival) => {
                match judge(&sight.but_turned_away()) {
                    // The doubt may be over sooner: a beat after the watermark has its deadline a threshold after it
                    // at the earliest, and moves no timer.
                    Judgement::NotBefore(at) => Judgement::NotBefore(at.min(sight.watermark + threshold_ns)),
                    judgement => judgement,
                }
            }
            judgement => judgement,
        };
        if matches!(judgement, Judgement::Stalled { .. }) {
            let not_before = self.renewal.not_before(slot, hot.last_arrival, threshold_ns);
            if sight.watermark < not_before {
                return Judgement::NotBefore(not_before);
            }
        }
        judgement
    }

    /// Records the stall of a silence from the first to the second instant.
    fn stall(
        &mut self,
        slot: u32,
        mut hot: Hot,
        by: By,
        is_certain: bool,
        silence: (MonoNs, MonoNs),
        blind_ns: u64,
    ) {
        let (since, at) = silence;
        let mut cold = self.writer.cold(slot);
        cold.stall_by = by.to_code();
        hot.state = State::Stalled;
        cold.stalls = cold.stalls.wrapping_add(1);
        cold.stall_at = at;
        cold.stall_silent_ns = at.since(since);
        cold.stall_blind_ns = blind_ns;
        cold.is_stall_uncertain = !is_certain;
        cold.stall_nonce = hot.nonce();
        self.writer.write(slot, &hot, &cold);
    }

    /// Takes an instruction of the aggregator. Returns true if the slot has something to report.
    pub fn on_instruction(&mut self, slot: u32, bits: u32, instruction: Instruction) -> bool {
        self.freshen(slot);
        let mut hot = self.writer.hot(slot);
        if hot.state == State::Free {
            return false;
        }
        let is_kept = bits & instruction::IF_SILENT != 0 && hot.last_arrival > instruction.as_of;
        if bits & instruction::RELEASE != 0 && !is_kept {
            return self.release(slot, hot, instruction.as_of);
        }
        // The agent beat meanwhile and stays; the other findings apply.
        let is_kept = bits & instruction::RELEASE != 0;
        let before = hot;
        if bits & instruction::FORGED != 0 {
            hot.flags.set(Flags::UNVERIFIED, false);
            hot.flags.set(Flags::FORGER, true);
        }
        if bits & instruction::INNER_PID != 0 {
            hot.flags.set(Flags::UNVERIFIED, false);
            hot.frame_pid = instruction.inner_pid;
        }
        if bits & instruction::CLASS != 0
            && instruction.table == self.table
            && self.classes.has(instruction.class)
        {
            hot.class = instruction.class;
        }
        // A daemon that sent no beat waits for nothing.
        let is_waiting = hot.state == State::Waiting && self.daemons.is_none();
        let is_opened = bits & instruction::OPEN != 0 && is_waiting;
        if is_opened {
            hot.state = State::Up;
        }
        if bits & instruction::BEGIN != 0 {
            let mut cold = self.writer.cold(slot);
            phase::begin_anew(&hot, &mut cold);
            self.writer.write(slot, &hot, &cold);
        }
        if bits & instruction::WITHDRAW != 0 && hot.state == State::Stalled {
            hot.state = State::Up;
            let mut cold = self.writer.cold(slot);
            cold.stalls = cold.stalls.wrapping_sub(1);
            self.writer.write(slot, &hot, &cold);
            if self.daemons.is_some() {
                hot.state = self.withdraw_from_daemon(slot);
            }
        }
        if hot != before {
            self.writer.write_hot(slot, &hot);
            self.set_timer(slot, &hot);
        }
        if bits & instruction::STARTED_WITH != 0 && self.daemons.is_some() {
            let started_with = u64::from(instruction.threshold_ms) * MILLISECOND_NS;
            let is_from_start = bits & instruction::FROM_START != 0;
            self.introduce_daemon(slot, (started_with > 0).then_some(started_with), is_from_start);
        }
        is_opened || is_kept
    }

    /// The holder gave up the slot as of `as_of`: it exited, moved, or is a silent forger. After an exit, a later beat
    /// came from a new process, which keeps the slot.
    fn release(&mut self, slot: u32, hot: Hot, as_of: MonoNs) -> bool {
        let mut cold = self.writer.cold(slot);
        if hot.last_arrival > as_of {
            let mut heir = hot;
            if heir.state == State::Stalled {
                heir.state = State::Up;
            }
            heir.frame_pid = hot.pid;
            heir.flags = Flags::default();
            heir.flags.set(Flags::V02, hot.flags.has(Flags::V02));
            heir.nonces = [hot.nonce(), 0];
            heir.account = Account::new(hot.uid(), 1);
            heir.class = self.classes.unknown();
            self.renewal.forget(slot);
            let generation = cold.generation.wrapping_add(1);
            let awaits_ok = heir.status != Status::Ok;
            cold = Cold { generation, first_arrival: hot.last_arrival, awaits_ok, ..Cold::default() };
            match self.daemons {
                Some(_) => self.write_heir(slot, heir, &cold, as_of),
                None => self.writer.write(slot, &heir, &cold),
            }
            self.set_timer(slot, &heir);
            return true;
        }
        self.wheel.remove(slot);
        self.index.remove(hot.key());
        let generation = cold.generation.wrapping_add(1);
        self.writer.write(slot, &Hot::default(), &Cold { generation, ..Cold::default() });
        self.free.push(slot);
        if let Some(Seat { pid, row, .. }) = Seat::from_word(self.seats[slot as usize]) {
            self.seats[slot as usize] = 0;
            self.uids.on_left(row);
            self.admission.leave(pid);
        }
        true
    }

    /// Records that a frame of `pid` (attested) that arrived at `arrival` was refused by a limit of this
    /// observer.
    pub fn on_turned_away(&self, pid: u32, arrival: MonoNs, why: TurnedAwayFor) {
        self.admission.turned_away().note(pid, arrival, why);
    }

    /// Lower bound of the beats lost before they reached the shard, from gaps in the nonces of all agents so
    /// far.
    pub const fn beats_lost(&self) -> u64 {
        self.beats_lost
    }

    /// Slots from this number on were never used.
    pub const fn slots_used(&self) -> u32 {
        self.unused_from
    }

    /// When the next deadline may come.
    #[inline]
    pub fn next_due(&self) -> Option<MonoNs> {
        self.wheel.next_due()
    }

    /// The hot half of a slot.
    #[inline]
    pub fn hot(&self, slot: u32) -> Hot {
        self.writer.hot(slot)
    }

    /// The cold half of a slot.
    pub fn cold(&self, slot: u32) -> Cold {
        self.writer.cold(slot)
    }

    /// The table's writer.
    pub fn writer(&mut self) -> &mut TableWriter {
        &mut self.writer
    }

    /// The threshold of an agent outside of any phase, ns.
    pub fn threshold_of(&self, hot: &Hot) -> u64 {
        self.classes.threshold_ns(hot.class)
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
