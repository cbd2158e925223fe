//! The end of a turn, or of a part of it: what was reported is committed, and only then passed on.
//!
//! Events, instructions and changed records are collected while the aggregator works. [`Aggregator::commit`] writes
//! events and records to the journal, posts the instructions, and hands out the events, in this order; the
//! journal says what a crash between two of these steps leaves.

use super::*;
use crate::journal::COMMIT_MAX;
use crate::lane::Instruction;

/// Collected events and records that are committed before the next slot is looked at.
const COLLECTED_MAX: usize = COMMIT_MAX / 2;
/// Slots whose agents are counted again in one turn, after other units were configured: they take less than a millisecond.
const RECOUNTED_PER_TURN: u32 = 1024;

impl Aggregator {
    /// Numbers an event; it is handed out by the next commit.
    pub(super) fn report(&mut self, shard: Option<u16>, agent: Option<Agent>, mono: MonoNs, kind: EventKind) {
        let event = Event { seq: 0, again: false, wall: self.wall, mono, shard, agent, kind };
        let event = self.fanout.number(event);
        self.collected.push(event);
    }

    /// Posts an instruction to the shard, at the next commit.
    pub(super) fn post(&mut self, place: Place, bits: u32, instruction: Instruction) {
        let generation = self.record(place).generation;
        self.posts.push(Post { holder: Holder { place, generation }, bits, instruction });
    }

    /// Commits if much was collected. Call it between two slots: what was done for one belongs together.
    pub(super) fn commit_if_much(&mut self) {
        if self.collected.len() + self.touched.len() >= COLLECTED_MAX {
            self.commit();
        }
    }

    /// Commits what was collected, and passes it on.
    pub(super) fn commit(&mut self) {
        let mut touched = mem::take(&mut self.touched);
        let mut changed = mem::take(&mut self.changed);
        for place in touched.drain(..) {
            self.shards[usize::from(place.shard)].reported.of(place.slot).set(Mark::Touched, false);
            self.count_by_unit(place);
            let kept = self.kept_of(place);
            if self.view(place.shard).kept.get(place.slot) != kept {
                changed.push((place, kept));
            }
        }
        self.touched = touched;
        let mut collected = mem::take(&mut self.collected);
        let (mut events, mut kept) = (&*collected, &*changed);
        while !events.is_empty() || !kept.is_empty() {
            let first;
            (first, events) = events.split_at(events.len().min(COMMIT_MAX));
            let rest;
            (rest, kept) = kept.split_at(kept.len().min(COMMIT_MAX - first.len()));
            self.journal.commit(first, rest, self.last_session);
            for (place, kept) in rest {
                self.shards[usize::from(place.shard)].kept.put(place.slot, kept);
            }
            self.journal.mark_applied();
        }
        changed.clear();
        self.changed = changed;
        let mut posts = mem::take(&mut self.posts);
        for Post { holder: Holder { place, generation }, bits, instruction } in posts.drain(..) {
            let view = self.view(place.shard);
            view.port.inbox.post(place.slot, generation, bits, instruction);
            view.is_to_be_kicked = true;
        }
        self.posts = posts;
        if !collected.is_empty() && !self.fanout.has(Reader::Log) && !self.reloading.is_writing_earlier() {
            // No output, so nobody to repeat it to.
            self.journal.acknowledge(self.fanout.last_seq());
        }
        for event in collected.drain(..) {
            self.fanout.deliver(event);
        }
        self.collected = collected;
    }

    /// Counts the slot's holder where it belongs now: whatever changed, its record was touched.
    fn count_by_unit(&mut self, place: Place) {
        let reported = *self.shards[usize::from(place.shard)].reported.of(place.slot);
        let is_stalled = reported.is(Mark::Counted).then(|| reported.is(Mark::Stalled));
        let unit = is_stalled.and_then(|_| self.unit_of(place));
        let counted = self.shards[usize::from(place.shard)].counted.of(place.slot);
        self.tally.units.count(counted, unit, is_stalled, self.now);
    }

    /// The unit of the slot's holder, if it was looked up.
    pub(super) fn unit_of(&mut self, place: Place) -> Option<Unit> {
        let generation = self.shards[usize::from(place.shard)].reported.get(place.slot)?.generation;
        let (label, uid) = self.inquiries.names.unit_and_user(Holder { place, generation })?;
        Some(Unit { label, uid, is_configured: self.configured.has(label) })
    }

    /// Takes other configured units, and counts all agents again.
    pub(super) fn configure_units(&mut self, configured: Configured) {
        self.configured = configured;
        self.tally.units.configure(&mut self.configured);
        self.recounting = Some(Place { shard: 0, slot: 0 });
    }

    /// Counts the next agents again, if other units were configured. True if some are left.
    pub(super) fn recount(&mut self) -> bool {
        let Some(mut place) = self.recounting else { return false };
        for _ in 0..RECOUNTED_PER_TURN {
            let Some(view) = self.shards.get(usize::from(place.shard)) else {
                self.recounting = None;
                return false;
            };
            if u64::from(place.slot) >= view.port.counters.slots_used.get() {
                place = Place { shard: place.shard + 1, slot: 0 };
                continue;
            }
            if view.reported.get(place.slot).is_some_and(|reported| reported.is(Mark::Counted)) {
                self.count_by_unit(place);
            }
            place.slot += 1;
        }
        self.recounting = Some(place);
        true
    }

    /// What is to be kept of a slot's holder.
    fn kept_of(&mut self, place: Place) -> Kept {
        let reported = *self.shards[usize::from(place.shard)].reported.of(place.slot);
        let session = self.view(place.shard).port.sessions.get(place.slot, reported.generation);
        let kept = reported.to_kept(session.unwrap_or_default());
        match self.thawed_at(place) {
            Some(as_of) if !reported.is(Mark::Releasing) => Kept { as_of, ..kept },
            _ => kept,
        }
    }
}
