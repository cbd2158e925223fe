//! Settles what waits to be reported of an agent: gathers the facts, lets the rules decide, and does what
//! they say.

use super::*;
use crate::rules::{Case, Ended, Evidence, Silence, Step, Verdict};

impl Aggregator {
    pub(super) fn settle_pending(&mut self) {
        for _ in 0..self.pending.len() {
            self.commit_if_much();
            let Some(pending) = self.pending.pop_front() else { return };
            if !self.settle(&pending) {
                self.pending.push_back(pending);
            } else if !pending.is_exit {
                self.view(pending.place.shard).in_flight -= 1;
            }
        }
    }

    /// Reports what waits on a slot, if all answers are there or their time is over. False: still waiting.
    pub(super) fn settle(&mut self, pending: &Pending) -> bool {
        let place = pending.place;
        loop {
            let is_done = match rules::next_step(&self.case(pending)) {
                Step::Drop => return true,
                Step::Void => {
                    let reported = self.record(place);
                    reported.clear(&[Mark::Confirming, Mark::Returning, Mark::Recalling, Mark::Doubted]);
                    return true;
                }
                Step::Wait => return false,
                Step::WaitForShards => {
                    self.kick_all();
                    return false;
                }
                Step::Exit => return self.settle_exit(pending),
                Step::Judge => return self.settle_stall(pending),
                Step::News => self.settle_doubt(pending),
                Step::Return => self.settle_return(place),
                Step::Recall => self.settle_ended(pending),
            };
            if !is_done {
                return false;
            }
        }
    }

    /// What is open about the agent.
    fn case(&mut self, pending: &Pending) -> Case {
        let reported = *self.record(pending.place);
        Case {
            is_same_holder: reported.generation == pending.generation,
            is_released: reported.is(Mark::Releasing),
            is_exit: pending.is_exit,
            existence: reported.existence,
            are_last_frames_awaited: reported.is_gone() && self.is_awaited(reported.as_of, |_| true),
            has_time: self.has_time(pending),
            has_time_to_look: self.has_time_to_look(pending),
            is_doubted: reported.is(Mark::Doubted),
            is_returning: reported.is(Mark::Returning),
            is_identifying: reported.is(Mark::Identifying),
            is_looking_again: reported.is(Mark::LookingAgain),
            is_recalled: reported.is(Mark::Recalling),
            is_stalled: reported.is(Mark::Confirming),
        }
    }

    fn has_time(&self, pending: &Pending) -> bool {
        self.now < pending.give_up_at && !self.is_out_of_time()
    }

    /// Whether there is still time for the lookup thread to say what a process runs.
    fn has_time_to_look(&self, pending: &Pending) -> bool {
        let is_answering = self.now.since(self.looked_up_at) < CONFIRM_NS;
        let until = if is_answering { pending.give_up_at + LOOK_NS } else { pending.give_up_at };
        self.now < until && !self.is_out_of_time()
    }

    fn settle_exit(&mut self, pending: &Pending) -> bool {
        let Record { pid, as_of, .. } = *self.record(pending.place);
        self.look_before_verdict(pid);
        // The slot may have been released meanwhile, and have another holder.
        self.record(pending.place).generation != pending.generation || self.exit(pending.place, as_of)
    }

    fn settle_doubt(&mut self, pending: &Pending) -> bool {
        let place = pending.place;
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else { return false };
        self.record(place).set(Mark::Doubted, false);
        if cold.generation == pending.generation {
            self.report_news(place, &hot, &cold);
        }
        true
    }

    fn settle_return(&mut self, place: Place) -> bool {
        let is_resumed = self.resume_from_elsewhere(place).is_ok();
        if is_resumed {
            self.record(place).set(Mark::Returning, false);
        }
        is_resumed
    }

    fn settle_stall(&mut self, pending: &Pending) -> bool {
        let place = pending.place;
        let pid = self.record(place).pid;
        let places = self.look_before_verdict(pid);
        if self.record(place).generation != pending.generation {
            return true;
        }
        let Ok((hot, mut cold)) = self.view(place.shard).port.table.read(place.slot) else { return false };
        let thawed_until = self.judge_again(place, &hot, &mut cold);
        let silence = self.silence(pending, &places, &hot, &cold, thawed_until);
        let (verdict, elsewhere) = match rules::preliminary(&silence) {
            Some(verdict) => (verdict, None),
            None => match self.ask_others(&silence, &places, place, &hot, &cold) {
                Ok(verdict) => verdict,
                Err(Busy) => return false,
            },
        };
        if verdict == Verdict::Wait {
            return false;
        }
        self.record(place).set(Mark::Confirming, false);
        match (verdict, elsewhere) {
            (Verdict::TooSoon, _) => self.judge_thawed(place),
            // If its shard finds it stalled again, that is confirmed anew.
            (Verdict::Withdrawn, _) => self.post(place, instruction::WITHDRAW, Instruction::default()),
            (Verdict::Moved, Some(elsewhere)) => self.move_to(elsewhere, place, &hot, &cold),
            (Verdict::Frozen, _) => self.freeze(place, &places, &hot, &cold),
            (Verdict::Stalled { is_certain }, _) => {
                self.report_stall(place, &places, &hot, &cold, is_certain)
            }
            (Verdict::Overtaken | Verdict::Moved | Verdict::Wait, _) => {}
        }
        true
    }

    /// What the agent's own slot and the clock say of the silence.
    fn silence(
        &mut self,
        pending: &Pending,
        places: &Places,
        hot: &Hot,
        cold: &Cold,
        thawed_until: Option<MonoNs>,
    ) -> Silence {
        let place = pending.place;
        let is_recalled = |other: Place| other != place && self.record(other).is(Mark::Recalling);
        let is_other_recalled = places.iter().any(is_recalled);
        let reported = *self.record(place);
        Silence {
            now: self.now,
            has_time: self.has_time(pending),
            is_doubted: reported.is(Mark::Doubted),
            is_other_recalled,
            is_silent: hot.state == State::Stalled && cold.generation == pending.generation,
            silent_ns: cold.stall_silent_ns,
            threshold_ns: self.allowed_of(place, hot, cold).ns,
            thawed_until,
            is_home_awaited: self.is_awaited(cold.stall_at, |shard| shard == place.shard),
            is_other_awaited: self.is_other_awaited(place, cold.stall_at),
            is_uncertain: cold.is_stall_uncertain,
        }
    }

    /// Whether to wait for another shard on which the agent may beat.
    fn is_other_awaited(&self, place: Place, at: MonoNs) -> bool {
        self.is_awaited(at, |shard| shard != place.shard && self.is_same_lane(shard, place.shard))
    }

    /// The verdict by what the other slots and shards say; and where the agent beats, if elsewhere.
    fn ask_others(
        &mut self,
        silence: &Silence,
        places: &Places,
        place: Place,
        hot: &Hot,
        cold: &Cold,
    ) -> Result<(Verdict, Option<(Place, Hot)>), Busy> {
        let silent_since = cold.stall_at - cold.stall_silent_ns;
        // No shard judged the time since a thaw, so all of them count as others.
        let (home, judged_from) = match self.thawed_at(place) {
            Some(thawed) => (u16::MAX, thawed),
            None => (place.shard, silent_since),
        };
        let is_unsighted = self.is_unsighted(place, home, judged_from, silence.threshold_ns, cold.stall_at);
        let elsewhere = self.lives_elsewhere(places, place, silent_since)?;
        let reported = *self.record(place);
        let evidence = Evidence {
            lives_elsewhere: elsewhere.is_some(),
            is_frozen: reported.is(Mark::FoundFrozen),
            was_turned_away: self.view(place.shard).port.turned_away.is_after(hot.pid, silent_since),
            is_unsighted,
            is_existence_unknown: reported.existence == Existence::Asked,
            is_rule_unknown: reported.is(Mark::LookingAgain),
        };
        Ok((rules::verdict(silence, &evidence), elsewhere))
    }

    /// Reports a stall that ended before it was reported, and its end.
    fn settle_ended(&mut self, pending: &Pending) -> bool {
        let place = pending.place;
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else { return false };
        let ended = self.ended(pending, &hot, &cold);
        let verdict = match rules::preliminary_of_ended(&ended) {
            Some(verdict) => verdict,
            None => match self.evidence_of_ended(place, &hot, &cold) {
                Ok(evidence) => rules::verdict_of_ended(&ended, &evidence),
                Err(Busy) => return false,
            },
        };
        if verdict == Verdict::Wait {
            return false;
        }
        let reported = self.record(place);
        let resumes = cold.resumes.wrapping_sub(reported.resumes);
        if verdict != Verdict::Overtaken {
            (reported.stalls, reported.resumes) = (cold.stalls, cold.resumes);
        }
        if let Verdict::Stalled { is_certain } = verdict {
            self.stall(place, &hot, &cold, is_certain, ended.stalls);
            self.resume(place, &hot, &cold, resumes);
        }
        self.record(place).set(Mark::Recalling, false);
        true
    }

    fn ended(&mut self, pending: &Pending, hot: &Hot, cold: &Cold) -> Ended {
        let place = pending.place;
        let reported = *self.record(place);
        Ended {
            has_time: self.has_time(pending),
            is_over: hot.state != State::Stalled && cold.generation == reported.generation,
            stalls: cold.stalls.wrapping_sub(reported.stalls),
            silent_ns: cold.resume_silent_ns,
            threshold_ns: self.threshold_of_ended(place, hot, cold),
            is_other_awaited: self.is_other_awaited(place, cold.stall_at),
            is_uncertain: cold.is_stall_uncertain,
        }
    }

    fn evidence_of_ended(&mut self, place: Place, hot: &Hot, cold: &Cold) -> Result<Evidence, Busy> {
        let silent_since = cold.stall_at - cold.stall_silent_ns;
        let places = self.places_of(hot.pid);
        let elsewhere = self.lives_elsewhere(&places, place, silent_since)?;
        let threshold_ns = self.threshold_of_ended(place, hot, cold);
        let reported = *self.record(place);
        Ok(Evidence {
            lives_elsewhere: elsewhere.is_some(),
            is_frozen: reported.is(Mark::FoundFrozen),
            was_turned_away: self.view(place.shard).port.turned_away.is_after(hot.pid, silent_since),
            is_unsighted: self.is_unsighted(place, place.shard, silent_since, threshold_ns, cold.stall_at),
            // The beat that ended the silence shows that the process existed.
            is_existence_unknown: false,
            is_rule_unknown: reported.is(Mark::LookingAgain),
        })
    }

    fn report_stall(&mut self, place: Place, places: &Places, hot: &Hot, cold: &Cold, is_certain: bool) {
        let reported = self.record(place);
        let stalls = cold.stalls.wrapping_sub(reported.stalls);
        reported.stalls = cold.stalls;
        self.stall(place, hot, cold, is_certain, stalls.max(1));
        if self.record(place).is(Mark::Thawed) {
            self.unfreeze(place, hot, self.now);
        }
        self.record(place).resumes = cold.resumes;
        self.poll_unwatched(place);
        self.leave_others(place, places, hot);
    }
}
