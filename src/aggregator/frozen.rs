//! Agents whose control group is frozen. They are silent but not stalled: a stall that their shard finds is
//! reported as `frozen`, and the agent is polled each second. After the thaw it has a threshold to beat in.

use super::*;
use crate::event::FrozenPhase;

impl Aggregator {
    /// The silence is no stall: the agent is frozen.
    pub(super) fn freeze(&mut self, place: Place, places: &Places, hot: &Hot, cold: &Cold) {
        self.report_earlier(place, hot, cold);
        self.leave_others(place, places, hot);
        self.freezes.thawed.remove(&place);
        let reported = self.record(place);
        reported.set(Mark::Thawed, false);
        reported.set(Mark::Frozen, true);
        self.show_freeze(place, Freeze::Frozen);
        self.tally.shards[usize::from(place.shard)].frozen += 1;
        self.report_of(place, hot, self.now, EventKind::Frozen { phase: FrozenPhase::Begin });
        self.poll_frozen(place);
    }

    /// Goes on with an agent that a predecessor reported as frozen.
    pub(super) fn go_on_frozen(&mut self, place: Place) {
        self.show_freeze(place, Freeze::Frozen);
        self.poll_frozen(place);
    }

    /// Goes on with an agent that a predecessor reported as no longer frozen as of `at`.
    pub(super) fn go_on_thawed(&mut self, place: Place, at: MonoNs) {
        self.show_freeze(place, Freeze::Thawed);
        self.freezes.thawed.insert(place, at);
        self.judge_thawed(place);
    }

    /// Reports the stalls that ended before the silence that is none. The slot keeps length and end of the
    /// last of them alone.
    fn report_earlier(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let reported = self.record(place);
        let earlier = cold.stalls.wrapping_sub(reported.stalls).saturating_sub(1);
        if earlier == 0 {
            return;
        }
        reported.stalls = reported.stalls.wrapping_add(earlier);
        let (stall_at, stall_silent_ns) = (cold.resume_at, cold.resume_silent_ns);
        let last = Cold { stall_at, stall_silent_ns, stall_blind_ns: 0, ..*cold };
        self.stall(place, hot, &last, false, earlier);
        let resumes = cold.resumes.wrapping_sub(self.record(place).resumes);
        self.resume(place, hot, &last, resumes);
        self.record(place).resumes = cold.resumes;
    }

    /// What is reported of the agent's silence holds for this slot, where it beat last. On another it may have been frozen
    /// before: that is over.
    pub(super) fn leave_others(&mut self, place: Place, places: &Places, hot: &Hot) {
        for other in places.iter() {
            let reported = *self.record(other);
            let is_same_lane = self.is_same_lane(other.shard, place.shard);
            let is_left = reported.is(Mark::Releasing) || reported.is(Mark::Closed);
            if other == place || !is_same_lane || is_left {
                continue;
            }
            let is_silent = reported.is(Mark::Frozen) || reported.is(Mark::Thawed);
            if is_silent && let Ok(there) = self.view(other.shard).port.table.read_hot(other.slot) {
                self.unfreeze(other, &there, hot.last_arrival);
            }
            // Without a release, an ordinary beat on another slot would not become a fact.
            self.release(other, hot.last_arrival, instruction::RELEASE | instruction::IF_SILENT);
        }
    }

    fn poll_frozen(&mut self, place: Place) {
        let holder = Holder { place, generation: self.record(place).generation };
        self.freezes.polled.push_back((self.now + POLL_NS, holder));
    }

    fn show_freeze(&mut self, place: Place, freeze: Freeze) {
        let session = self.session(place);
        self.enter(place, Session { freeze, ..session });
    }

    /// Ends the freeze: the agent is thawed, beat, moved, or is reported as stalled.
    pub(super) fn unfreeze(&mut self, place: Place, hot: &Hot, at: MonoNs) {
        self.freezes.thawed.remove(&place);
        self.show_freeze(place, Freeze::No);
        self.record(place).set(Mark::Thawed, false);
        if self.record(place).set(Mark::Frozen, false) {
            self.tally.shards[usize::from(place.shard)].frozen -= 1;
            self.report_of(place, hot, at, EventKind::Frozen { phase: FrozenPhase::End });
        }
    }

    /// Polls frozen agents that are due, and judges thawed agents whose time to beat has passed.
    pub(super) fn look_at_frozen(&mut self) {
        while let Some((_, holder)) = self.freezes.polled.pop_front_if(|(at, ..)| *at <= self.now) {
            let Holder { place, generation } = holder;
            self.commit_if_much();
            let reported = self.record(place);
            if reported.generation == generation && reported.is(Mark::Frozen) && !reported.is(Mark::Releasing)
            {
                let Record { pid, incarnation, .. } = *reported;
                self.inquiries.lookups.ask(Question {
                    holder,
                    pid,
                    of: Inquiry::Freezer(incarnation),
                    is_daemon: false,
                });
                if self.record(place).is(Mark::Unwatched) {
                    self.ask_existence(place, false);
                }
            }
        }
        while let Some(deadline) = self.freezes.deadlines.first().copied().filter(|(at, ..)| *at <= self.now)
        {
            self.commit_if_much();
            self.freezes.deadlines.remove(&deadline);
            let (_, Holder { place, generation }) = deadline;
            let reported = self.record(place);
            if reported.generation == generation && reported.is(Mark::Thawed) && !reported.is(Mark::Releasing)
            {
                self.kick_all();
                self.confirm(place);
            }
        }
    }

    /// Takes the answer to a poll: whether the agent is still frozen.
    pub(super) fn asked_if_frozen(&mut self, holder: Holder, is_frozen: bool) {
        let Some(place) = self.place_of(holder) else { return };
        if !self.record(place).is(Mark::Frozen) || self.record(place).is(Mark::Releasing) {
            return;
        }
        if is_frozen {
            return self.poll_frozen(place);
        }
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
            return self.poll_frozen(place);
        };
        if cold.generation != holder.generation || self.record(place).is_gone() {
            return;
        }
        self.unfreeze(place, &hot, self.now);
        self.record(place).set(Mark::Thawed, true);
        self.show_freeze(place, Freeze::Thawed);
        self.freezes.thawed.insert(place, self.now);
        self.judge_thawed(place);
    }

    /// Plans when to judge a thawed agent: after its time to beat.
    pub(super) fn judge_thawed(&mut self, place: Place) {
        let holder = Holder { place, generation: self.record(place).generation };
        if let Some(at) = self.deadline_of_thawed(place) {
            self.freezes.deadlines.insert((at, holder));
        }
    }

    /// A threshold after the thaw; later, but no later than for any other agent, if its shard was blind since
    /// or refused a frame of it.
    fn deadline_of_thawed(&mut self, place: Place) -> Option<MonoNs> {
        let thawed = self.counts_from(self.thawed_at(place)?);
        let pid = self.record(place).pid;
        let class = self.record(place).class;
        let threshold_ns = match self.view(place.shard).port.table.read(place.slot) {
            Ok((hot, cold)) => self.allowed_of(place, &hot, &cold).ns,
            Err(Busy) => self.longest_of(place.shard, class),
        };
        let port = &self.view(place.shard).port;
        let blind_end = MonoNs(port.counters.last_blind_end.get());
        let excused_until = match () {
            () if port.turned_away.is_after(pid, thawed) => MonoNs(u64::MAX),
            () if blind_end > thawed => blind_end + threshold_ns,
            () => thawed + threshold_ns,
        };
        Some(excused_until.min(thawed + rules::longest_doubt(threshold_ns)))
    }

    /// When the agent was thawed, if it was frozen and has not beaten since.
    pub(super) fn thawed_at(&self, place: Place) -> Option<MonoNs> {
        self.freezes.thawed.get(&place).copied()
    }

    /// Until when a thawed agent has time to beat, by what is known now. Moves the stall in `cold` to this
    /// instant: its shard judged an earlier silence.
    pub(super) fn judge_again(&mut self, place: Place, hot: &Hot, cold: &mut Cold) -> Option<MonoNs> {
        let at = self.deadline_of_thawed(place)?;
        (cold.stall_at, cold.stall_silent_ns) = (at, at.since(hot.last_arrival));
        Some(at)
    }

    /// A beat ended the silence of a frozen or thawed agent: neither a stall nor a resume is reported.
    pub(super) fn stir(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        self.unfreeze(place, hot, cold.resume_at);
        let reported = self.record(place);
        reported.set(Mark::Confirming, false);
        (reported.stalls, reported.resumes) =
            (reported.stalls.wrapping_add(1), reported.resumes.wrapping_add(1));
    }

    /// The slot is free or has another holder.
    pub(super) fn forget_freeze(&mut self, place: Place, reported: &Record) {
        if reported.is(Mark::Frozen) {
            self.tally.shards[usize::from(place.shard)].frozen -= 1;
        }
        self.freezes.thawed.remove(&place);
    }
}
