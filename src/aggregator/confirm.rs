//! A stall is reported only after all were asked: is the process there, does the agent beat elsewhere?
//!
//! Here are also the ends of a slot's tenancy: exits, moves, releases.

use super::*;
use crate::rules::Witness;

impl Aggregator {
    /// Asks what others know of a silent agent: is its process there, does it beat elsewhere?
    pub(super) fn confirm(&mut self, place: Place) {
        let told = self.told(place);
        if told.is(Mark::Confirming) {
            return;
        }
        told.set(Mark::Confirming, true);
        if !told.is_gone() {
            told.existence = Existence::Asked;
        }
        let generation = told.generation;
        self.ask_existence(place, true);
        self.look_again(place);
        self.kick_others(place);
        self.await_word(place, generation);
    }

    /// Asks what the holder's process runs by now: its name, its program and so its rule may be others than
    /// when it was looked up.
    pub(super) fn look_again(&mut self, place: Place) {
        let told = self.told(place);
        if told.set(Mark::LookingAgain, true) {
            return;
        }
        told.set(Mark::FoundFrozen, false);
        let Told { generation, pid, .. } = *told;
        let holder = Holder { place, generation };
        self.inquiries.lookups.ask(Question { holder, pid, of: Inquiry::Program });
    }

    /// Tells nothing of the slot until its process is known to be the one that was told of, or is gone.
    pub(super) fn doubt(&mut self, place: Place) {
        let told = self.told(place);
        if told.set(Mark::Doubted, true) {
            return;
        }
        if !told.is_gone() {
            told.existence = Existence::Asked;
        }
        let generation = told.generation;
        self.ask_existence(place, true);
        self.await_word(place, generation);
    }

    /// Asks whether the holder's process is there. At most two questions a slot are under way: one that
    /// can wait and one that cannot.
    pub(super) fn ask_existence(&mut self, place: Place, is_urgent: bool) {
        let told = self.told(place);
        if told.asked > u8::from(is_urgent) {
            return;
        }
        told.asked += 1;
        let Told { generation, pid, incarnation, .. } = *told;
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

    /// The holder's process is gone as of `at`: its exit is told once its last frames were looked at.
    pub(super) fn gone(&mut self, place: Place, at: MonoNs) {
        let give_up_at = self.now + EXIT_NS;
        let told = self.told(place);
        if told.is_gone() {
            // What beat after the first word of its end is somebody else.
            told.as_of = told.as_of.min(at);
            return;
        }
        (told.existence, told.as_of) = (Existence::Gone, at);
        let generation = told.generation;
        self.pending.push_back(Pending { place, generation, give_up_at, is_forgiven: false, is_exit: true });
        self.kick_all();
    }

    pub(super) fn kick_all(&mut self) {
        for view in &mut self.shards {
            view.is_to_be_kicked = true;
        }
    }

    /// Other shards move their watermark when kicked. All of them: the agent may have moved to one that
    /// has not read its first beat there yet.
    pub(super) fn kick_others(&mut self, place: Place) {
        for (shard, view) in self.shards.iter_mut().enumerate() {
            view.is_to_be_kicked |= shard != usize::from(place.shard);
        }
    }

    /// Whether a shard that `matters` may still hold a frame from before `at`. A shard whose thread is dead
    /// will never say; what it held is lost with it, and that is told.
    pub(super) fn is_unseen(&self, at: MonoNs, matters: impl Fn(u16) -> bool) -> bool {
        let mut shards = (0..self.shard_count).zip(&self.shards);
        shards.any(|(shard, view)| {
            view.seen < at && matters(shard) && view.port.counters.health() == ShardHealth::Alive
        })
    }

    /// Whether one of the shards that could still say something of before `at` is worth waiting for: one that is known
    /// to be stuck had its time. It may hold a frame all the same, so nothing is certain without it.
    pub(super) fn is_awaited(&self, at: MonoNs, matters: impl Fn(u16) -> bool) -> bool {
        !self.are_shards_over()
            && self.is_unseen(at, |shard| matters(shard) && self.shards[usize::from(shard)].port.is_alive())
    }

    /// Whether the shards have ended: what they have not seen by now they never will.
    pub(super) const fn are_shards_over(&self) -> bool {
        self.stop_by.is_some()
    }

    /// Whether a shard other than `home` could not see for all of the silence since `silent_since` that `cold` was
    /// judged by. Whether it holds a slot of the agent is no matter: the first beat there of one that moved may be
    /// just what it could not see.
    pub(super) fn is_unsighted(&self, home: u16, silent_since: MonoNs, hot: &Hot, cold: &Cold) -> bool {
        let threshold_ns = self.threshold_of(hot);
        (0..self.shard_count).zip(&self.shards).any(|(shard, view)| {
            let counters = &view.port.counters;
            // Read first: a shard publishes it last.
            let watermark = counters.watermark();
            let last_blind_end = MonoNs(counters.last_blind_end.get());
            let witness = Witness { watermark, seen: view.seen, last_blind_end };
            shard != home && !rules::is_sighted(&witness, silent_since, cold.stall_at, threshold_ns)
        })
    }

    /// Where the pid was seen last.
    pub(super) fn place_of_pid(&self, pid: u32) -> Option<Place> {
        self.places.get(AgentKey::of_pid(pid)).copied().flatten().map(Place::from)
    }

    /// Another place of the same pid.
    pub(super) fn next_of(&mut self, place: Place) -> Option<Place> {
        self.told(place).next.map(Place::from)
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

    /// The slots of a pid, after those were looked at whose facts wait for their turn: a verdict on one of them
    /// may give back the others, and nobody would be told what they still had to say.
    pub(super) fn look_before_verdict(&mut self, pid: u32) -> Places {
        let places = self.places_of(pid);
        let mut is_stale = false;
        for place in places.iter() {
            if self.told(place).is(Mark::ToBeLookedAt) {
                self.look(place);
                is_stale = true;
            }
        }
        // Some may have gone to others.
        if is_stale { self.places_of(pid) } else { places }
    }

    /// Another of an agent's slots that beat later than this one. One that is on its way back counts,
    /// too: it stays if it beat. Busy: a slot is just being written, by a beat perhaps.
    pub(super) fn lives_elsewhere(
        &mut self,
        places: &Places,
        place: Place,
        silent_since: MonoNs,
    ) -> Result<Option<(Place, Hot)>, Busy> {
        let pid = self.told(place).pid;
        for other in places.iter() {
            if other == place || self.told(other).is_over() || self.told(other).is(Mark::Closed) {
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

    /// The agent beats elsewhere: its slot here goes, and its silence here was none.
    pub(super) fn move_to(&mut self, (to, there): (Place, Hot), from: Place, here: &Hot, cold: &Cold) {
        self.tell_rest(from, here, cold);
        if self.told(from).is(Mark::Thawed) {
            self.unfreeze(from, here, self.now);
        }
        let told = *self.told(from);
        // What was told of the agent goes with it.
        let is_stalled_there = there.state == State::Stalled;
        self.told(to).set(Mark::Up, told.is(Mark::Up));
        self.told(to).set(Mark::Uncalled, told.is(Mark::Uncalled));
        let (session, own) = (self.session(from), self.session(to));
        // It may have begun another one there.
        let number = session.number.max(own.number);
        self.enter(to, Session { number, ns_pid: own.ns_pid.or(session.ns_pid), freeze: own.freeze });
        let record = self.told(from);
        (record.stalls, record.resumes) = (cold.stalls, cold.resumes);
        if !is_stalled_there {
            self.tell_of(to, &there, there.last_arrival, EventKind::Moved { from: from.shard });
        }
        self.release(from, here.last_arrival, instruction::RELEASE | instruction::IF_SILENT);
        self.open(to, &there);
    }

    /// Tells the exit of the process that holds `place` and gives back every slot of it. False: one of them
    /// is just being written.
    pub(super) fn exit(&mut self, place: Place, at: MonoNs) -> bool {
        let told = *self.told(place);
        let places = self.places_of(told.pid);
        let mut last: Option<(Place, Hot, Cold)> = None;
        for place in places.iter() {
            let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else { return false };
            // What beat later than the exit is an heir, whose words are not the last of the dead.
            let rank = |hot: &Hot| (hot.last_arrival <= at, hot.last_arrival);
            let is_later = last.as_ref().is_none_or(|(_, latest, _)| rank(&hot) > rank(latest));
            let of = self.told(place);
            let is_told = !of.is(Mark::Closed) && !of.is(Mark::Held) && !of.is_over();
            if is_told && hot.pid == told.pid && is_later {
                last = Some((place, hot, cold));
            }
        }
        if let Some((place, hot, cold)) = last {
            self.tell_last_words(place, &hot, &cold, at);
            let mut agent = self.agent(place, &hot);
            agent.status = self.told(place).status;
            let kind = EventKind::Exit { silent_ns: at.since(hot.last_arrival), how: told.how };
            self.tell_agent(place, agent, at, kind);
            self.tally.shards[usize::from(place.shard)].exits += 1;
        }
        for place in places.iter() {
            let told = self.told(place);
            told.existence = Existence::Gone;
            told.set(Mark::Confirming, false);
            self.release(place, at, instruction::RELEASE);
        }
        true
    }

    /// Tells what the slot says of the process that is gone as of `at`, and nothing of what came later.
    fn tell_last_words(&mut self, place: Place, hot: &Hot, cold: &Cold, at: MonoNs) {
        self.tell_arrival(place, hot, cold);
        let told = *self.told(place);
        if told.is(Mark::Stalled) && told.resumes != cold.resumes && cold.resume_at <= at {
            let resumes = cold.resumes.wrapping_sub(told.resumes);
            self.told(place).resumes = cold.resumes;
            self.resume(place, hot, cold, resumes);
        }
        if hot.last_arrival <= at {
            if told.versions != cold.versions || told.is(Mark::Deferred) {
                self.settle_session(place, hot, cold, None);
            }
            self.tell_changes(place, hot, cold, true);
        } else if cold.terminal_at <= at {
            self.tell_terminal(place, hot, cold, true);
        }
    }

    /// A forger fell silent: its slot goes without a word.
    pub(super) fn close_silently(&mut self, place: Place, hot: &Hot) {
        if hot.state == State::Stalled && !self.told(place).is(Mark::Releasing) {
            self.told(place).existence = Existence::Gone;
            self.release(place, hot.last_arrival, instruction::RELEASE);
        }
    }

    /// Last words alone open no deadline, but those of an agent that beat elsewhere do.
    pub(super) fn open(&mut self, place: Place, hot: &Hot) {
        if hot.state == State::Waiting {
            self.post(place, instruction::OPEN, crate::lane::Instruction::default());
        }
    }

    pub(super) fn release(&mut self, place: Place, as_of: MonoNs, bits: u32) {
        let told = self.told(place);
        told.set(Mark::Releasing, true);
        told.as_of = as_of;
        self.post(place, bits, crate::lane::Instruction { as_of, ..Default::default() });
    }

    pub(super) fn post(&mut self, place: Place, bits: u32, instruction: crate::lane::Instruction) {
        let generation = self.told(place).generation;
        let view = self.view(place.shard);
        view.port.inbox.post(place.slot, generation, bits, instruction);
        view.is_to_be_kicked = true;
    }
}
