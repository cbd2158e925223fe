//! What an agent does besides falling silent: it comes up, changes its status, begins a session, reports a
//! crash. Changes above the limit are reported later, in one event.

use super::*;

impl Aggregator {
    pub(super) fn report_arrival(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let reported = *self.record(place);
        // A daemon need not send beats.
        if hot.state == State::Waiting && !self.has_messages(place.shard) {
            return;
        }
        if !reported.is(Mark::Counted) {
            self.record(place).set(Mark::Counted, true);
            self.tally.shards[usize::from(place.shard)].up += 1;
        }
        if reported.is(Mark::Up) {
            return;
        }
        // The event carries the status. That covers one change; more are reported by a `status` event.
        let record = self.record(place);
        record.status = hot.status;
        if cold.statuses.wrapping_sub(record.statuses) <= 1 {
            record.statuses = cold.statuses;
        }
        self.mark_session(place, Mark::Up, true);
        self.mark_session(place, Mark::Uncalled, true);
        self.tally.shards[usize::from(place.shard)].sessions[SessionWhy::NewProcess as usize] += 1;
        self.report_of(place, hot, cold.first_arrival, EventKind::Up);
    }

    /// Sets or clears the mark on every slot of the agent in this session.
    pub(super) fn mark_session(&mut self, place: Place, mark: Mark, is_set: bool) {
        let session = self.session(place).number;
        let pid = self.record(place).pid;
        for other in self.places_of(pid).iter() {
            if self.session(other).number == session {
                self.record(other).set(mark, is_set);
            }
        }
    }

    pub(super) fn begin_session(&mut self, place: Place, why: SessionWhy, coalesced: u32) {
        if why != SessionWhy::Nonce {
            if self.record(place).is(Mark::Still) {
                self.end_standstill(place, AdvanceWhy::Session);
            }
            self.last_session = self.last_session.wrapping_add(1);
            let session = self.session(place);
            self.enter(place, Session { number: self.last_session, ..session });
        }
        self.tally.shards[usize::from(place.shard)].sessions[why as usize] += u64::from(coalesced);
    }

    /// `is_rest`: report all that is left, even if the bucket is empty.
    pub(super) fn report_changes(&mut self, place: Place, hot: &Hot, cold: &Cold, is_rest: bool) {
        let reported = *self.record(place);
        let is_other_session = (reported.streams, reported.versions) != (cold.streams, cold.versions);
        if is_other_session
            && !reported.is(Mark::Identifying)
            && self.may_report(place, hot, cold, Often::Session, is_rest)
        {
            // The lookup decides whether it is another program or another connection.
            self.identify(place);
        }
        if reported.users != cold.users && self.may_report(place, hot, cold, Often::Session, is_rest) {
            self.report_user(place, hot, cold);
        }
        if hot.flags.has(Flags::MIXED) != reported.is(Mark::Mixed) {
            self.record(place).set(Mark::Mixed, hot.flags.has(Flags::MIXED));
            if !reported.is(Mark::Mixed) {
                self.report_of(place, hot, cold.changed_at, EventKind::Mixed);
            }
        }
        self.report_terminal(place, hot, cold, is_rest);
        self.report_phase(place, hot, cold, is_rest);
        let reported = *self.record(place);
        if hot.state == State::Waiting {
            self.record(place).statuses = cold.statuses;
            return;
        }
        let changes = cold.statuses.wrapping_sub(reported.statuses);
        // A deferred crash report brings its status with it.
        let is_other = reported.status != hot.status && reported.terminals == cold.terminals;
        if (changes > 0 || is_other) && self.may_report(place, hot, cold, Often::Status, is_rest) {
            let record = self.record(place);
            (record.statuses, record.status) = (cold.statuses, hot.status);
            let at = if changes == 0 { cold.first_arrival } else { cold.changed_at };
            self.report_of(place, hot, at, EventKind::Status { coalesced: changes.max(1) });
        }
    }

    /// A daemon has come to another phase.
    fn report_phase(&mut self, place: Place, hot: &Hot, cold: &Cold, is_rest: bool) {
        let Some(phase) = self.daemon(place).and_then(|daemon| daemon.phase()) else { return };
        let before = self.record(place).phase();
        // That it starts, or is ready, is told by its `up`.
        let is_first = before.is_none() && matches!(phase, DaemonPhase::Starting | DaemonPhase::Up);
        if before == Some(phase) || !is_first && !self.may_report(place, hot, cold, Often::Status, is_rest) {
            return;
        }
        self.record(place).set_phase(phase);
        if !is_first {
            self.report_of(place, hot, cold.changed_at, EventKind::Phase { phase });
        }
    }

    /// The process changed its user; another rule may apply to the new one.
    fn report_user(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        self.identify(place);
        let reported = self.record(place);
        if reported.is(Mark::Up) {
            let coalesced = u32::from(cold.users.wrapping_sub(reported.users));
            reported.users = cold.users;
            self.begin_session(place, SessionWhy::Uid, coalesced);
            let at = cold.changed_at.max(cold.first_arrival);
            self.report_of(place, hot, at, EventKind::Session { why: SessionWhy::Uid, coalesced });
        }
    }

    pub(super) fn report_terminal(&mut self, place: Place, hot: &Hot, cold: &Cold, is_rest: bool) {
        let before = self.record(place).terminals;
        let coalesced = cold.terminals.wrapping_sub(before);
        if coalesced == 0 || !self.may_report(place, hot, cold, Often::Terminal, is_rest) {
            return;
        }
        let reported = self.record(place);
        // The event carries the status, too.
        (reported.terminals, reported.status) = (cold.terminals, Status::Critical);
        let mut agent = self.agent(place, hot);
        agent.nonce = NONCE_TERMINAL;
        agent.status = Status::Critical;
        // The first payload is the root cause. Of later ones the slot keeps the last two: report the earlier.
        agent.payload = match (before, coalesced) {
            (0, _) => cold.terminal_first,
            (_, 1) => cold.terminal_payload,
            _ => cold.terminal_before,
        };
        self.report_agent(place, agent, cold.terminal_at, EventKind::Terminal { coalesced });
    }

    /// Whether an event of this kind may be reported of the agent now; if not, it is deferred.
    fn may_report(&mut self, place: Place, hot: &Hot, cold: &Cold, kind: Often, is_rest: bool) -> bool {
        // Processes started in a loop have a full bucket each, so they take from their user's, too.
        let is_free = self.record(place).is(Mark::Uncalled) || self.is_settled(cold);
        let has_left = self.buckets.take(place, kind, self.now);
        if is_rest || has_left && (is_free || self.churns.take(hot.uid(), self.now)) {
            return true;
        }
        let reported = self.record(place);
        if !reported.set(Mark::Deferred, true) {
            let holder = Holder { place, generation: reported.generation };
            self.deferred.push_back((self.now + SECOND_NS, holder));
        }
        false
    }

    /// Reports deferred events that are due; at the end, all of them.
    pub(super) fn report_of_deferred(&mut self) {
        while let Some((at, holder)) = self.deferred.front().copied() {
            if at > self.now && !self.are_shards_over() {
                return;
            }
            self.commit_if_much();
            self.deferred.pop_front();
            let Holder { place, generation } = holder;
            let reported = self.record(place);
            if reported.generation != generation || !reported.is(Mark::Deferred) {
                continue;
            }
            let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
                self.deferred.push_back((self.now + CONFIRM_TICK_NS, holder));
                return;
            };
            if self.are_shards_over() {
                self.report_rest(place, &hot, &cold);
            } else {
                self.record(place).set(Mark::Deferred, false);
                self.look(place);
            }
        }
    }

    /// Reports the deferred events of the agent before its next one.
    pub(super) fn report_rest(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let reported = *self.record(place);
        if !reported.is(Mark::Deferred) || reported.generation != cold.generation {
            return;
        }
        self.record(place).set(Mark::Deferred, false);
        self.settle_session(place, hot, cold, None);
        self.report_changes(place, hot, cold, true);
    }
}
