//! A stall is reported only after the others were asked: does the process exist, does the agent beat on
//! another shard?
//!
//! What ends the use of a slot is here, too: exits, moves, releases.

use super::*;
use crate::rules::{Death, Witness};

impl Aggregator {
    /// Asks the watch and the lookup thread about a silent agent, and kicks the other shards.
    pub(super) fn confirm(&mut self, place: Place) {
        let reported = self.record(place);
        if reported.is(Mark::Confirming) {
            return;
        }
        reported.set(Mark::Confirming, true);
        if !reported.is_gone() {
            reported.existence = Existence::Asked;
        }
        let generation = reported.generation;
        self.ask_existence(place, true);
        self.look_again(place);
        self.kick_others(place);
        self.await_word(place, generation);
    }

    /// Asks the lookup thread what the holder's process runs now: its name, its program and so its rule may
    /// have changed since the first lookup.
    pub(super) fn look_again(&mut self, place: Place) {
        self.ask_program(place, Inquiry::Program);
    }

    /// As [`Aggregator::look_again`], by a question that waits for the others or does not.
    pub(super) fn ask_program(&mut self, place: Place, of: Inquiry) {
        let reported = self.record(place);
        if reported.set(Mark::LookingAgain, true) {
            return;
        }
        reported.set(Mark::FoundFrozen, false);
        let Record { generation, pid, .. } = *reported;
        let (holder, is_daemon) = (Holder { place, generation }, self.has_messages(place.shard));
        self.inquiries.lookups.ask(Question { holder, pid, of, is_daemon });
    }

    /// Reports nothing of the slot until its process is known to be the reported one, or gone.
    pub(super) fn doubt(&mut self, place: Place) {
        let reported = self.record(place);
        if reported.set(Mark::Doubted, true) {
            return;
        }
        if !reported.is_gone() {
            reported.existence = Existence::Asked;
        }
        let generation = reported.generation;
        self.ask_existence(place, true);
        self.await_word(place, generation);
    }

    /// Asks whether the holder's process exists. At most two questions per slot are in flight: one that can
    /// wait and one that cannot.
    pub(super) fn ask_existence(&mut self, place: Place, is_urgent: bool) {
        let reported = self.record(place);
        if reported.asked > u8::from(is_urgent) {
            return;
        }
        reported.asked += 1;
        let Record { generation, pid, incarnation, .. } = *reported;
        let holder = Holder { place, generation };
        self.order(Order::Exists { holder, pid, incarnation, is_urgent });
    }

    pub(super) fn order(&mut self, order: Order) {
        self.inquiries.watch.order(order);
        self.is_watch_ordered = true;
    }

    pub(super) fn await_word(&mut self, place: Place, generation: u32) {
        let give_up_at = self.now + CONFIRM_NS;
        let pending = Pending { place, generation, give_up_at, is_forgiven: false, is_exit: false };
        self.pending.push_back(pending);
        self.view(place.shard).in_flight += 1;
    }

    /// The holder's process is gone as of `at`: its exit is reported once its last frames were looked at.
    pub(super) fn gone(&mut self, place: Place, at: MonoNs) {
        let give_up_at = self.now + EXIT_NS;
        let reported = self.record(place);
        if reported.is_gone() {
            // Beats after the earliest known exit belong to another process.
            reported.as_of = reported.as_of.min(at);
            return;
        }
        (reported.existence, reported.as_of) = (Existence::Gone, at);
        let generation = reported.generation;
        self.pending.push_back(Pending { place, generation, give_up_at, is_forgiven: false, is_exit: true });
        self.kick_all();
    }

    pub(super) fn kick_all(&mut self) {
        for view in &mut self.shards {
            view.is_to_be_kicked = true;
        }
    }

    /// Whether what arrives at the two shards is in the same language. A process that speaks both is one agent, but each
    /// lane has its own deadline: a helper that sends frames does not speak for a main loop that sends messages.
    pub(super) fn is_same_lane(&self, one: u16, other: u16) -> bool {
        self.has_messages(one) == self.has_messages(other) || planted!(JoinsLanes)
    }

    /// Whether the shard is one of daemons.
    pub(super) fn has_messages(&self, shard: u16) -> bool {
        self.shards[usize::from(shard)].port.daemons.is_some()
    }

    /// Kicks the other shards, so that they move their watermark. All of the same lane: the agent may have moved to
    /// one that has not read its first beat there yet.
    pub(super) fn kick_others(&mut self, place: Place) {
        for shard in (0..self.shard_count).filter(|shard| *shard != place.shard) {
            if self.is_same_lane(shard, place.shard) {
                self.view(shard).is_to_be_kicked = true;
            }
        }
    }

    /// Whether a shard that `matters` may still hold a frame from before `at`. A shard whose thread ended
    /// does not count: it will never read what it held, and its end is reported.
    pub(super) fn is_unseen(&self, at: MonoNs, matters: impl Fn(u16) -> bool) -> bool {
        let mut shards = (0..self.shard_count).zip(&self.shards);
        shards.any(|(shard, view)| {
            view.seen < at && matters(shard) && view.port.counters.health() == ShardHealth::Alive
        })
    }

    /// Whether to wait for a shard that may hold a frame from before `at`. A stuck shard is not waited for.
    /// It may hold a frame all the same, so nothing is certain without it.
    pub(super) fn is_awaited(&self, at: MonoNs, matters: impl Fn(u16) -> bool) -> bool {
        !self.are_shards_over()
            && self.is_unseen(at, |shard| matters(shard) && self.shards[usize::from(shard)].port.is_alive())
    }

    /// Whether the shards have ended and will read nothing more.
    pub(super) const fn are_shards_over(&self) -> bool {
        self.stop_by.is_some()
    }

    /// Whether a shard other than `home` could not see for all of the silence since `silent_since` that
    /// `cold` was judged by. A shard counts even if it holds no slot of the agent: it may have missed the
    /// first beat of an agent that moved there. Those of the other lane do not.
    pub(super) fn is_unsighted(
        &self,
        place: Place,
        home: u16,
        silent_since: MonoNs,
        threshold_ns: u64,
        stall_at: MonoNs,
    ) -> bool {
        (0..self.shard_count).zip(&self.shards).any(|(shard, view)| {
            let counters = &view.port.counters;
            // Read this first: a shard publishes it last.
            let watermark = counters.watermark();
            let last_blind_end = MonoNs(counters.last_blind_end.get());
            let witness = Witness { watermark, seen: view.seen, last_blind_end };
            let matters = shard != home && self.is_same_lane(shard, place.shard);
            matters && !rules::is_sighted(&witness, silent_since, stall_at, threshold_ns)
        })
    }

    /// Where the pid was seen last.
    pub(super) fn place_of_pid(&self, pid: u32) -> Option<Place> {
        self.places.get(AgentKey::of_pid(pid)).copied().flatten().map(Place::from)
    }

    /// The next place of the same pid.
    pub(super) fn next_of(&mut self, place: Place) -> Option<Place> {
        self.record(place).next.map(Place::from)
    }

    pub(super) fn places_of(&mut self, pid: u32) -> Places {
        let first = self.place_of_pid(pid);
        let mut more = Vec::new();
        let mut at = first.and_then(|first| self.next_of(first));
        while let Some(place) = at {
            more.push(place);
            at = self.next_of(place);
        }
        Places { first, more }
    }

    /// The slots of a pid, after looking at those whose facts wait for their turn: a verdict on one slot may
    /// release the others, and their news would be lost.
    pub(super) fn look_before_verdict(&mut self, pid: u32) -> Places {
        let places = self.places_of(pid);
        let mut is_stale = false;
        for place in places.iter() {
            if self.record(place).is(Mark::ToBeLookedAt) {
                self.look(place);
                is_stale = true;
            }
        }
        // Some slots may have new holders.
        if is_stale { self.places_of(pid) } else { places }
    }

    /// Another slot of the agent with a later beat than this one. One that is being released counts, too: it
    /// stays if it has beaten. Busy: a slot is being written, perhaps by a beat.
    pub(super) fn lives_elsewhere(
        &mut self,
        places: &Places,
        place: Place,
        silent_since: MonoNs,
    ) -> Result<Option<(Place, Hot)>, Busy> {
        let pid = self.record(place).pid;
        for other in places.iter() {
            let is_same_lane = self.is_same_lane(other.shard, place.shard);
            let is_closed = self.record(other).is_over() || self.record(other).is(Mark::Closed);
            if other == place || !is_same_lane || is_closed {
                continue;
            }
            let hot = self.view(other.shard).port.table.read_hot(other.slot)?;
            let is_same = hot.pid == pid && hot.state != State::Free;
            if is_same && rules::outlives((hot.last_arrival, other.shard), (silent_since, place.shard)) {
                return Ok(Some((other, hot)));
            }
        }
        Ok(None)
    }

    /// The agent beats on another shard: its slot here is released, and its silence here was no stall.
    pub(super) fn move_to(&mut self, (to, there): (Place, Hot), from: Place, here: &Hot, cold: &Cold) {
        self.report_rest(from, here, cold);
        if self.record(from).is(Mark::Thawed) {
            self.unfreeze(from, here, self.now);
        }
        let reported = *self.record(from);
        // What was reported of the agent holds for the other slot.
        let is_stalled_there = there.state == State::Stalled;
        self.record(to).set(Mark::Up, reported.is(Mark::Up));
        self.record(to).set(Mark::Uncalled, reported.is(Mark::Uncalled));
        let (session, own) = (self.session(from), self.session(to));
        // The agent may have begun a later session there.
        let number = session.number.max(own.number);
        self.enter(to, Session { number, ns_pid: own.ns_pid.or(session.ns_pid), ..own });
        if reported.is(Mark::Still) {
            self.mark_still(to, true);
        }
        let record = self.record(from);
        (record.stalls, record.resumes) = (cold.stalls, cold.resumes);
        if !is_stalled_there {
            self.report_of(to, &there, there.last_arrival, EventKind::Moved { from: from.shard });
        }
        self.release(from, here.last_arrival, instruction::RELEASE | instruction::IF_SILENT);
        self.open(to, &there);
    }

    /// Reports the exit of the process that holds `place`, and releases all its slots. False: one of them is
    /// being written.
    pub(super) fn exit(&mut self, place: Place, at: MonoNs) -> bool {
        let reported = *self.record(place);
        let places = self.places_of(reported.pid);
        let (mut last, mut one_shots): (Option<(Place, Hot, Cold)>, _) = (None, 0);
        for place in places.iter() {
            let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else { return false };
            // Prefer slots without a beat after the exit: such a beat is of a new process with the same pid.
            let rank = |hot: &Hot| (hot.last_arrival <= at, hot.last_arrival);
            let is_later = last.as_ref().is_none_or(|(_, latest, _)| rank(&hot) > rank(latest));
            // A script that reported something: it was never up.
            let is_one_shot = self.daemon(place).is_some_and(|daemon| daemon.is_one_shot(at));
            if is_one_shot && !self.record(place).is(Mark::Up) {
                one_shots += 1;
                continue;
            }
            let of = self.record(place);
            let is_reported = !of.is(Mark::Closed) && !of.is(Mark::Held) && !of.is_over();
            if is_reported && hot.pid == reported.pid && is_later {
                last = Some((place, hot, cold));
            }
        }
        if let Some((place, hot, cold)) = last {
            self.report_last_words(place, &hot, &cold, at);
            let mut agent = self.agent(place, &hot);
            agent.status = self.record(place).status;
            let silent_ns = at.since(hot.last_arrival);
            let is_adopted = places.iter().any(|place| self.record(place).is(Mark::Adopted));
            let is_unmet = places.iter().any(|place| self.record(place).is(Mark::Unmet));
            // A beat since the start may be of another process with its pid.
            let while_away = is_adopted && at <= self.started || is_unmet && hot.last_arrival <= self.started;
            // Its last frame, unless it has beaten since.
            let panicked = cold.terminal_at > MonoNs(0) && cold.terminal_at >= hot.last_arrival;
            let lived_ns = at.since(cold.first_arrival);
            let kind = EventKind::Exit { silent_ns, how: reported.how, lived_ns, panicked, while_away };
            self.report_agent(place, agent, at, kind);
            self.count_exit(place, reported.how, panicked);
        }
        self.tally.one_shots += one_shots;
        for place in places.iter() {
            let reported = self.record(place);
            reported.existence = Existence::Gone;
            reported.set(Mark::Confirming, false);
            self.release(place, at, instruction::RELEASE);
        }
        true
    }

    fn count_exit(&mut self, place: Place, how: Option<ExitHow>, has_panicked: bool) {
        let counts = &mut self.tally.shards[usize::from(place.shard)];
        counts.exits += 1;
        if let Some(death) = Death::of(how, has_panicked) {
            counts.deaths[death.kind()] += 1;
            self.tally.recent_deaths.add(death, self.now);
            if death != Death::Unknown {
                let unit = self.unit_of(place);
                self.tally.units.add_death(unit, self.now);
            }
        }
    }

    /// Reports what the slot says of the process that is gone as of `at`, and nothing later.
    fn report_last_words(&mut self, place: Place, hot: &Hot, cold: &Cold, at: MonoNs) {
        self.report_arrival(place, hot, cold);
        let reported = *self.record(place);
        if reported.is(Mark::Stalled) && reported.resumes != cold.resumes && cold.resume_at <= at {
            let resumes = cold.resumes.wrapping_sub(reported.resumes);
            self.record(place).resumes = cold.resumes;
            self.resume(place, hot, cold, resumes);
        }
        if hot.last_arrival <= at {
            if reported.versions != cold.versions || reported.is(Mark::Deferred) {
                self.settle_session(place, hot, cold, None);
            }
            self.report_changes(place, hot, cold, true);
        } else if cold.terminal_at <= at {
            self.report_terminal(place, hot, cold, true);
        }
    }

    /// Releases the slot of a silent forger without an event.
    pub(super) fn close_silently(&mut self, place: Place, hot: &Hot) {
        if hot.state == State::Stalled && !self.record(place).is(Mark::Releasing) {
            self.record(place).existence = Existence::Gone;
            self.release(place, hot.last_arrival, instruction::RELEASE);
        }
    }

    /// A terminal frame alone opens no deadline, unless the agent beat elsewhere before.
    pub(super) fn open(&mut self, place: Place, hot: &Hot) {
        if hot.state == State::Waiting {
            self.post(place, instruction::OPEN, Instruction::default());
        }
    }

    pub(super) fn release(&mut self, place: Place, as_of: MonoNs, bits: u32) {
        let reported = self.record(place);
        reported.set(Mark::Releasing, true);
        reported.as_of = as_of;
        self.post(place, bits, Instruction { as_of, ..Default::default() });
    }
}
