//! Compares each slot with its record: who holds it, and what is new.

use super::*;

impl Aggregator {
    /// Takes the facts that the shard queued; true if there are more. New holders are looked at here, because
    /// a search for the slots of a pid must find them all. The others wait for their turn.
    pub(super) fn take_facts(&mut self, shard: u16) -> bool {
        for _ in 0..FACTS_PER_TURN {
            let view = self.view(shard);
            let Some((slot, _)) = view.port.facts.pop() else { return false };
            let reported = view.reported.of(slot);
            if reported.generation != view.port.table.generation(slot) {
                self.look(Place { shard, slot });
                self.commit_if_much();
            } else if !reported.set(Mark::ToBeLookedAt, true) {
                view.to_look.push_back(slot);
            }
        }
        true
    }

    /// Whether facts of the shard wait that may be looked at now.
    pub(super) fn may_look(&mut self, shard: u16) -> bool {
        let share = (self.in_flight_max / u32::from(self.shard_count)).max(1);
        let view = self.view(shard);
        view.in_flight < share && !view.to_look.is_empty()
    }

    /// Looks at slots of known holders, as many as may be in flight.
    pub(super) fn look_at_known(&mut self, shard: u16) {
        // Bounded, because not every slot adds to what is in flight.
        for _ in 0..IN_FLIGHT_MAX {
            if !self.may_look(shard) {
                return;
            }
            let Some(slot) = self.view(shard).to_look.pop_front() else { return };
            let place = Place { shard, slot };
            self.record(place).set(Mark::ToBeLookedAt, false);
            self.look(place);
            self.commit_if_much();
        }
    }

    pub(super) fn look(&mut self, place: Place) {
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
            self.tally.slot_reads_busy += 1;
            self.again.push(place);
            return;
        };
        let reported = *self.record(place);
        if reported.generation != cold.generation {
            self.forget(place);
            if hot.state == State::Free {
                return;
            }
            if self.is_unproved && self.adopt_if_kept(place, &hot, &cold) {
                return;
            }
            self.admit(place, &hot, &cold);
        } else if hot.state == State::Free {
            return;
        } else if reported.is(Mark::Releasing) {
            // No later beat: the shard has not read the instruction yet. It may have continued after a panic.
            if reported.is_over() || hot.last_arrival <= reported.as_of {
                return;
            }
            // Released only if silent, and it has beaten: it stays, and is looked up again.
            self.record(place).set(Mark::Releasing, false);
            self.identify(place);
            self.return_if_stalled(place);
        }
        self.report_difference(place, &hot, &cold);
    }

    /// Begins the record of a new holder.
    fn admit(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let is_off_hash = self.is_off_hash(place.shard, hot.pid);
        let first = self.place_of_pid(hot.pid);
        let is_held = hot.flags.has(Flags::UNVERIFIED);
        // An agent known on another shard is not up again and keeps its session, unless the lookup finds
        // another process. An agent whose exit was reported is not known.
        let places = self.places_of(hot.pid);
        let known = places.iter().find(|place| !self.record(*place).is_over());
        let known = known.filter(|_| !planted!(TakesOneForTwo));
        let session = match known {
            Some(known) => self.session(known),
            None => Session::default(),
        };
        // If its user differs from the one there, that is reported as a change of user.
        let uid = known.and_then(|known| self.view(known.shard).port.table.read_hot(known.slot).ok());
        let is_other_user = uid.is_some_and(|there| there.uid() != hot.uid());
        let known = known.map(|place| *self.record(place));
        if known.is_none() && !(planted!(KeepsTheSession) && self.last_session > 0) {
            self.last_session = self.last_session.wrapping_add(1);
        }
        let class = self.policy.classes.unknown();
        let record = self.record(place);
        *record = Record::default();
        (record.generation, record.pid, record.class) = (cold.generation, hot.pid, class);
        record.status = known.map_or(hot.status, |known| known.status);
        record.next = first.map(PackedPlace::from);
        record.incarnation = known.and_then(|known| known.incarnation);
        record.program = known.and_then(|known| known.program);
        record.users = cold.users.wrapping_sub(is_other_user.into());
        let is_up = known.is_some_and(|known| known.is(Mark::Up));
        record.set(Mark::Up, is_up);
        // The slot there may be released before it is known whether this is the same process.
        for mark in [Mark::Adopted, Mark::Unmet] {
            record.set(mark, known.is_some_and(|known| known.is(mark)));
        }
        record.set(Mark::Uncalled, known.is_some_and(|known| known.is(Mark::Uncalled)));
        record.set(Mark::Held, is_held);
        record.set(Mark::OffHash, is_off_hash);
        let number = if known.is_some() { session.number } else { self.last_session };
        self.enter(place, Session { number, ns_pid: session.ns_pid, ..Session::default() });
        self.mark_still(place, known.is_some_and(|known| known.is(Mark::Still)));
        if is_up && !is_held {
            self.doubt(place);
        }
        *self.places.of(hot.key()) = Some(place.into());
        self.missing.met(hot.pid);
        self.tally.shards[usize::from(place.shard)].off_hash += u64::from(is_off_hash);
        if is_held {
            self.held.push_back((self.now + HELD_NS, Holder { place, generation: cold.generation }));
        }
        self.identify(place);
        self.return_if_stalled(place);
    }

    /// Whether the pid should beat on another shard. Daemons do not choose; their shards come after those of frames.
    pub(super) fn is_off_hash(&self, shard: u16, pid: u32) -> bool {
        let of_frames = self.of_frames();
        let is_of_frames = usize::from(shard) < of_frames;
        is_of_frames && shard_for(pid, u32::try_from(of_frames).unwrap_or(0)) != u32::from(shard)
    }

    /// How many shards are of frames.
    pub(super) fn of_frames(&self) -> usize {
        self.shards.iter().filter(|view| view.port.daemons.is_none()).count()
    }

    /// The holder beats here while another slot of its pid is reported as stalled: the agent is back, unless
    /// the pid went to another process. The lookup decides.
    pub(super) fn return_if_stalled(&mut self, place: Place) {
        let pid = self.record(place).pid;
        let places = self.places_of(pid);
        let mut others = places.iter().filter(|other| *other != place);
        let is_back = others
            .any(|other| self.record(other).is(Mark::Stalled) && self.is_same_lane(other.shard, place.shard));
        if is_back && !self.record(place).is(Mark::Returning) {
            self.record(place).set(Mark::Returning, true);
            let generation = self.record(place).generation;
            self.await_word(place, generation);
        }
    }

    /// An agent reported as stalled on another shard beats here: reports its return, and releases its slot
    /// there.
    pub(super) fn resume_from_elsewhere(&mut self, place: Place) -> Result<(), Busy> {
        let (hot, cold) = self.view(place.shard).port.table.read(place.slot)?;
        for other in self.places_of(hot.pid).iter() {
            let reported = *self.record(other);
            let is_gone = reported.is_gone();
            let is_same_lane = self.is_same_lane(other.shard, place.shard);
            if other == place
                || !is_same_lane
                || !reported.is(Mark::Stalled)
                || reported.is(Mark::Releasing)
                || is_gone
            {
                continue;
            }
            let (there, mut silence) = self.view(other.shard).port.table.read(other.slot)?;
            let at =
                if cold.first_arrival > there.last_arrival { cold.first_arrival } else { hot.last_arrival };
            if at <= there.last_arrival {
                // Not back yet. Without a release, an ordinary beat here would not become a fact.
                self.release(place, there.last_arrival, instruction::RELEASE | instruction::IF_SILENT);
                return Ok(());
            }
            silence.resume_at = at;
            silence.resume_silent_ns = at.since(there.last_arrival);
            silence.resume_lost = 0;
            self.resume(other, &there, &silence, 1);
            self.report_of(place, &hot, at, EventKind::Moved { from: other.shard });
            self.release(other, there.last_arrival, instruction::RELEASE | instruction::IF_SILENT);
            self.open(place, &hot);
        }
        Ok(())
    }

    pub(super) fn identify(&mut self, place: Place) {
        let reported = self.record(place);
        if reported.is(Mark::Identifying) {
            return;
        }
        reported.set(Mark::Identifying, true);
        let (pid, generation) = (reported.pid, reported.generation);
        let (holder, is_daemon) = (Holder { place, generation }, self.has_messages(place.shard));
        self.inquiries.lookups.ask(Question { holder, pid, of: Inquiry::Who, is_daemon });
    }

    /// Clears the record of a slot that is free or has another holder.
    pub(super) fn forget(&mut self, place: Place) {
        let reported = mem::take(self.record(place));
        if reported.pid == 0 {
            return;
        }
        self.buckets.forget(place);
        self.usual.remove(&place);
        self.started_with.remove(&place);
        self.forget_freeze(place, &reported);
        if reported.is(Mark::WatchOrdered) {
            let holder = Holder { place, generation: reported.generation };
            self.order(Order::Unwatch { holder });
        }
        if self.place_of_pid(reported.pid) == Some(place) {
            *self.places.of(reported.key()) = reported.next;
        } else {
            let mut at = self.place_of_pid(reported.pid);
            while let Some(earlier) = at {
                if self.next_of(earlier) == Some(place) {
                    self.record(earlier).next = reported.next;
                }
                at = self.next_of(earlier);
            }
        }
        let tally = &mut self.tally;
        let shard = &mut tally.shards[usize::from(place.shard)];
        shard.unwatched -= u64::from(reported.is(Mark::Unwatched));
        shard.off_hash -= u64::from(reported.is(Mark::OffHash));
        shard.still -= u64::from(reported.is(Mark::Still));
        if reported.is(Mark::Counted) {
            let count = if reported.is(Mark::Stalled) { &mut shard.stalled } else { &mut shard.up };
            *count -= 1;
        }
    }

    /// Reports what changed since the last look at the slot.
    pub(super) fn report_difference(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let reported = *self.record(place);
        if reported.is_gone() {
            // Its exit is pending. That reports what this process did, and nothing of a new process with its
            // pid.
            return;
        }
        if hot.flags.has(Flags::UNVERIFIED) && !reported.has_settled(cold.claimed_pid) {
            self.identify(place);
        }
        if reported.is(Mark::Closed) && !cold.is_honest {
            if hot.state == State::Waiting {
                // No deadline will ever end it, but the exit of its process does.
                self.poll_unwatched(place);
            }
            return self.close_silently(place, hot);
        }
        if reported.is(Mark::Held) || reported.is(Mark::Releasing) {
            return;
        }
        if is_doubtful(&reported, cold) {
            return self.doubt(place);
        }
        self.report_news(place, hot, cold);
    }

    /// Whether the sender of a message may be a script that reports something and ends: then nothing is reported of it.
    fn may_be_one_shot(&mut self, place: Place) -> bool {
        !self.record(place).is(Mark::Up)
            && self.daemon(place).is_some_and(|daemon| daemon.is_one_shot(self.now))
            && !planted!(TellsOfScripts)
    }

    /// Reports what changed, of a process known to be the reported one.
    pub(super) fn report_news(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        self.record(place).set(Mark::Closed, false);
        if self.may_be_one_shot(place) {
            // In time for nobody to miss it, and late enough to know.
            let holder = Holder { place, generation: cold.generation };
            return self.held.push_back((self.now + HELD_NS, holder));
        }
        self.report_arrival(place, hot, cold);
        self.report_changes(place, hot, cold, false);
        self.report_silence(place, hot, cold);
        if hot.state == State::Waiting {
            self.poll_unwatched(place);
        }
    }
}

/// Whether the slot may belong to another process, which got the pid of the reported agent.
fn is_doubtful(reported: &Record, cold: &Cold) -> bool {
    let is_silent = [Mark::Stalled, Mark::Frozen, Mark::Thawed].iter().any(|mark| reported.is(*mark));
    let is_return = is_silent && reported.resumes != cold.resumes;
    let is_other_session =
        (reported.streams, reported.versions, reported.users) != (cold.streams, cold.versions, cold.users);
    reported.is(Mark::Doubted)
        || reported.is(Mark::Closed)
        || reported.is(Mark::Up) && (is_return || is_other_session)
}
