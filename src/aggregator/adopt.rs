//! Goes on where a predecessor ended: takes over what it reported of each agent, and reports what happened while
//! nobody ran.
//!
//! The agents keep their sessions, stalls and freezes, and no `up` is reported of them. What the predecessor
//! counted in a slot and did not report is a difference like any other, and found in the first turns.

use super::*;
use crate::journal::{Adoption, Kept, flag};

impl Aggregator {
    /// Takes over the agents, and reports that. Costs a system call for each.
    pub(super) fn adopt(&mut self, adoption: &Adoption) {
        self.journal.begin(&adoption.ended, self.now);
        let of_frames = u16::try_from(self.of_frames()).unwrap_or(u16::MAX);
        for (place, kept) in self.journal.unapplied(of_frames).collect::<Vec<_>>() {
            if let Some(view) = self.shards.get(usize::from(place.shard))
                && !planted!(TellsTwice)
            {
                view.kept.put(place.slot, &kept);
            }
        }
        self.journal.mark_applied();
        self.last_session = self.journal.last_session();
        self.repeat();
        // The rules of the adopted are asked for anew: there is time to answer.
        self.looked_up_at = self.now;
        let (mut gone, mut gone_agents, mut several) = (Vec::new(), Vec::new(), Vec::new());
        let mut adopted = 0;
        let is_gone = |kept: &Kept| !kept.is(flag::RELEASING) && !(adoption.exists)(kept.pid);
        for shard in 0..self.shard_count {
            for slot in 0..self.view(shard).port.table.used() {
                let place = Place { shard, slot };
                let view = self.view(shard);
                let kept = view.kept.get(slot);
                let is_kept = kept.pid != 0 && kept.generation == view.port.table.generation(slot);
                let read = view.port.table.read(slot);
                let is_known = self.place_of_pid(kept.pid).is_some();
                // An agent on several shards is one.
                let is_told = self.places_of(kept.pid).iter().any(|other| self.record(other).is(Mark::Up));
                adopted += u32::from(is_kept && kept.is(flag::UP) && !kept.is(flag::GONE) && !is_told);
                let Ok((hot, cold)) = read else {
                    // Being written: its first look adopts it.
                    self.again.push(place);
                    if is_kept && is_gone(&kept) {
                        gone_agents.extend(kept.is(flag::UP).then_some(kept.pid));
                        self.gone_unread.push(place);
                    }
                    continue;
                };
                if hot.state == State::Free {
                    continue;
                }
                if is_known {
                    several.push(hot.pid);
                }
                if !self.adopt_if_kept(place, &hot, &cold) {
                    // Nothing was reported of it yet.
                    self.again.push(place);
                } else if is_gone(&kept) {
                    gone_agents.extend(kept.is(flag::UP).then_some(kept.pid));
                    gone.push(place);
                }
            }
            self.commit_if_much();
        }
        gone_agents.sort_unstable();
        gone_agents.dedup();
        let kind = EventKind::Restart {
            why: adoption.why,
            shards: self.shard_count,
            adopted,
            gone: u32::try_from(gone_agents.len()).unwrap_or(u32::MAX),
            gap_ns: adoption.gap_ns,
        };
        self.report(None, None, self.now, kind);
        for place in gone {
            self.gone(place, self.now);
        }
        // A return to another slot may have been about to be reported.
        for pid in several {
            for place in self.places_of(pid).iter() {
                if !self.record(place).is(Mark::Releasing) {
                    self.return_if_stalled(place);
                }
            }
        }
    }

    /// Repeats to the output what it did not acknowledge, under the same numbers.
    fn repeat(&mut self) {
        let (past, from) = self.journal.past();
        let oldest = past.first().map_or(self.journal.last_seq() + 1, |event| event.seq);
        self.fanout.go_on_after(self.journal.last_seq());
        if oldest > from {
            self.fanout.repeat_lost(from, oldest - 1, (self.wall, self.now));
        }
        for event in past {
            self.missing.recall(&event);
            if planted!(LosesTheUnacknowledged) {
                break;
            }
            self.fanout.repeat(Event { again: event.seq >= from, ..event });
        }
        self.missing.are_recalled();
    }

    /// Takes over what a predecessor reported of the slot's holder, if anything. False: it reported nothing.
    pub(super) fn adopt_if_kept(&mut self, place: Place, hot: &Hot, cold: &Cold) -> bool {
        let kept = self.view(place.shard).kept.get(place.slot);
        let is_kept = kept.pid == hot.pid && kept.generation == cold.generation;
        if is_kept {
            self.adopt_holder(place, hot, &kept);
        }
        if is_kept && self.gone_unread.contains(&place) {
            self.gone(place, self.started);
        }
        is_kept
    }

    fn adopt_holder(&mut self, place: Place, hot: &Hot, kept: &Kept) {
        let first = self.place_of_pid(hot.pid);
        let shard = usize::from(place.shard);
        let is_off_hash = self.is_off_hash(place.shard, hot.pid);
        let class = self.policy.classes.unknown();
        let record = self.record(place);
        *record = Record::of_kept(kept, class);
        record.next = first.map(PackedPlace::from);
        record.set(Mark::Adopted, true);
        record.set(Mark::Unmet, true);
        record.set(Mark::OffHash, is_off_hash);
        if hot.flags.has(Flags::UNVERIFIED) {
            // Its shard did not get what the claim came to: it is checked again.
            record.set(Mark::ClaimSettled, false);
        }
        let is_held = hot.flags.has(Flags::UNVERIFIED) && !kept.is(flag::UP);
        record.set(Mark::Held, is_held);
        *self.places.of(hot.key()) = Some(place.into());
        self.missing.met(hot.pid);
        let ns_pid = (kept.ns_pid != 0).then_some(kept.ns_pid);
        let is_still = kept.is(flag::STILL);
        self.enter(place, Session { number: kept.session, ns_pid, freeze: Freeze::No, is_still });
        let is_waiting = hot.state == State::Waiting && !self.has_messages(place.shard);
        let counts = &mut self.tally.shards[shard];
        counts.still += u64::from(is_still);
        // Until its slot is forgotten, also if that is under way.
        counts.frozen += u64::from(kept.is(flag::FROZEN));
        counts.off_hash += u64::from(is_off_hash);
        let is_counted = (!is_waiting || kept.is(flag::STALLED)) && !kept.is(flag::CLOSED);
        if is_counted {
            let count = if kept.is(flag::STALLED) { &mut counts.stalled } else { &mut counts.up };
            *count += 1;
        }
        self.record(place).set(Mark::Counted, is_counted);
        if kept.is(flag::RELEASING) {
            let bits = match kept.is(flag::GONE) {
                true => instruction::RELEASE,
                false => instruction::RELEASE | instruction::IF_SILENT,
            };
            return self.release(place, kept.as_of, bits);
        }
        if kept.is(flag::FROZEN) {
            self.go_on_frozen(place);
        }
        if kept.is(flag::THAWED) {
            self.go_on_thawed(place, kept.as_of);
        }
        if is_held {
            let holder = Holder { place, generation: kept.generation };
            self.held.push_back((self.now + HELD_NS, holder));
        }
        if kept.is(flag::UP) {
            self.open(place, hot);
        }
        self.identify(place);
        if !self.record(place).set(Mark::ToBeLookedAt, true) {
            self.view(place.shard).to_look.push_back(place.slot);
        }
    }
}
