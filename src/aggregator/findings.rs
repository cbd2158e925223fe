//! Applies what the lookup and the watch thread found out: who a process is, whose pid its frames claim,
//! whether it exists.

use super::*;
use crate::process::procfs::Incarnation;

impl Aggregator {
    pub(super) fn take_findings(&mut self) -> bool {
        for _ in 0..FINDINGS_PER_TURN {
            self.commit_if_much();
            let Ok(finding) = self.inquiries.findings.try_recv() else { return false };
            match finding {
                Finding::Who { holder, found } => self.identified(holder, found),
                Finding::Program { holder, found, is_frozen } => self.looked_again(holder, &found, is_frozen),
                Finding::Freezer { holder, is_frozen } => self.asked_if_frozen(holder, is_frozen),
                Finding::Lives { pid, life } => self.asked_if_lives(pid, life),
                Finding::There { holder } => self.is_there(holder),
                Finding::Gone { holder, at, how } => self.is_gone(holder, at, how),
                Finding::Watching { holder, is_watched } => self.is_watched(holder, is_watched),
            }
        }
        true
    }

    /// The slot that a finding is about, if it still has the same holder.
    pub(super) fn place_of(&mut self, holder: Holder) -> Option<Place> {
        let place = holder.place;
        (self.record(place).generation == holder.generation).then_some(place)
    }

    fn is_there(&mut self, holder: Holder) {
        let Some(place) = self.place_of(holder) else { return };
        let reported = self.record(place);
        reported.asked = reported.asked.saturating_sub(1);
        // Only the answer to the last question holds for now.
        if reported.asked == 0 && reported.existence == Existence::Asked {
            reported.existence = Existence::There;
        }
        let Record { pid, incarnation, .. } = *reported;
        self.was_met(pid, incarnation);
    }

    /// A process has the pid, and it is this one, or may be any.
    fn was_met(&mut self, pid: u32, incarnation: Option<Incarnation>) {
        for place in self.places_of(pid).iter() {
            let record = self.record(place);
            record.set(Mark::Unmet, false);
            if incarnation.is_some() && record.incarnation == incarnation {
                record.set(Mark::Adopted, false);
            }
        }
    }

    fn is_gone(&mut self, holder: Holder, at: MonoNs, how: Option<ExitHow>) {
        let Some(place) = self.place_of(holder) else { return };
        let pid = self.record(place).pid;
        self.look_before_verdict(pid);
        let reported = self.record(place);
        if reported.is(Mark::Releasing) || reported.generation != holder.generation {
            return;
        }
        reported.how = reported.how.or(how);
        self.gone(place, at);
    }

    fn is_watched(&mut self, holder: Holder, is_watched: bool) {
        let Some(place) = self.place_of(holder) else { return };
        let reported = self.record(place);
        let was_unwatched = reported.set(Mark::Unwatched, !is_watched);
        let tally = &mut self.tally;
        let unwatched = &mut tally.shards[usize::from(place.shard)].unwatched;
        *unwatched = *unwatched + u64::from(!is_watched) - u64::from(was_unwatched);
        if self.record(place).is(Mark::Unwatched) && self.is_polled(place) {
            self.poll_unwatched(place);
        }
    }

    /// Whether nothing but a poll finds that an unwatched process has exited: no silence of it will be judged, or one was.
    /// Few daemons send beats, and their thresholds are long.
    fn is_polled(&mut self, place: Place) -> bool {
        let is_daemon = self.has_messages(place.shard);
        let reported = self.record(place);
        is_daemon || reported.is(Mark::Stalled) || !reported.is(Mark::Counted)
    }

    pub(super) fn identified(&mut self, holder: Holder, found: Result<LookedUp, LookupError>) {
        self.looked_up_at = self.now;
        let place = holder.place;
        let reported = self.record(place);
        if reported.generation != holder.generation {
            return;
        }
        reported.set(Mark::Identifying, false);
        let pid = reported.pid;
        self.look_before_verdict(pid);
        let reported = self.record(place);
        if reported.is(Mark::Releasing) || reported.generation != holder.generation {
            return;
        }
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
            // The slot is being written: ask again rather than guess.
            return self.identify(place);
        };
        if cold.generation != holder.generation {
            return;
        }
        match found {
            Ok(found) => self.known(place, &hot, &cold, &found),
            Err(LookupError::Gone(at, how)) => {
                self.accept_claim(place, &hot, &cold, None);
                let reported = self.record(place);
                reported.how = reported.how.or(how);
                self.gone(place, at);
            }
            Err(LookupError::Failed) => {
                self.tally.lookups_failed += 1;
                self.accept_claim(place, &hot, &cold, None);
                self.set_class(place, hot.uid(), &Program::default());
                self.introduce(place, None, false, None);
                self.watch(place, None);
                self.settle_session(place, &hot, &cold, None);
            }
        }
        if let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) {
            self.report_difference(place, &hot, &cold);
        }
    }

    pub(super) fn known(&mut self, place: Place, hot: &Hot, cold: &Cold, found: &LookedUp) {
        let reported = *self.record(place);
        let is_other = reported.incarnation.is_some_and(|known| known != found.incarnation);
        if is_other || found.started > cold.first_arrival + START_SLACK_NS {
            // The sender has exited, and the pid is another process's.
            self.accept_claim(place, hot, cold, None);
            self.gone(place, found.started);
            return;
        }
        self.watch(place, Some(found.incarnation));
        self.record(place).incarnation = Some(found.incarnation);
        self.was_met(hot.pid, Some(found.incarnation));
        let is_exec = self.is_other_program(place, &found.program);
        self.settle_session(place, hot, cold, hash_of(&found.program));
        self.set_class(place, hot.uid(), &found.program);
        self.introduce(place, found.program.watchdog_ns, is_exec, Some(found.started));
        if hot.flags.has(Flags::UNVERIFIED) && !reported.has_settled(cold.claimed_pid) {
            if found.inner_pids.contains(&cold.claimed_pid) {
                self.accept_claim(place, hot, cold, Some(cold.claimed_pid));
            } else {
                self.forged(place, cold, hot);
            }
        }
    }

    /// Reports why the nonces began anew: another program, another version, or another connection.
    pub(super) fn settle_session(
        &mut self,
        place: Place,
        hot: &Hot,
        cold: &Cold,
        program: Option<NonZeroU32>,
    ) {
        let reported = *self.record(place);
        let record = self.record(place);
        record.program = program.or(reported.program);
        let coalesced = cold
            .streams
            .wrapping_sub(reported.streams)
            .wrapping_add(cold.versions.wrapping_sub(reported.versions));
        if coalesced == 0 {
            return;
        }
        (record.streams, record.versions) = (cold.streams, cold.versions);
        let is_exec = program.is_some() && reported.program.is_some_and(|known| Some(known) != program);
        let why = match () {
            () if is_exec => SessionWhy::Exec,
            () if reported.versions != cold.versions => SessionWhy::Version,
            () => SessionWhy::Nonce,
        };
        if is_exec {
            self.record(place).set(Mark::Begun, false);
            self.begin_anew(place);
        }
        if !reported.is(Mark::Held) && !reported.is(Mark::Closed) {
            self.begin_session(place, why, coalesced);
            self.report_of(place, hot, cold.changed_at, EventKind::Session { why, coalesced });
        }
    }

    /// Asks the watch thread to report the end of the holder's process, once per holder.
    fn watch(&mut self, place: Place, incarnation: Option<Incarnation>) {
        let reported = self.record(place);
        if reported.set(Mark::WatchOrdered, true) {
            return;
        }
        let Record { generation, pid, .. } = *reported;
        let holder = Holder { place, generation };
        self.order(Order::Watch { holder, pid, incarnation });
    }

    /// Takes what the process with the holder's pid runs now. If that is another process, the existence check
    /// finds that the holder's is gone.
    fn looked_again(&mut self, holder: Holder, program: &Program, is_frozen: bool) {
        self.looked_up_at = self.now;
        let Some(place) = self.place_of(holder) else { return };
        if !self.record(place).set(Mark::LookingAgain, false) || self.record(place).is(Mark::Releasing) {
            return;
        }
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
            return self.look_again(place);
        };
        if cold.generation != holder.generation {
            return;
        }
        self.record(place).set(Mark::FoundFrozen, is_frozen);
        if !planted!(KeepsTheFirstName) {
            self.set_class(place, hot.uid(), program);
            let is_exec = self.is_other_program(place, program);
            self.introduce(place, program.watchdog_ns, is_exec, None);
        }
        if hot.flags.has(Flags::MIXED) {
            // The nonces of a mixed agent do not show another program.
            self.notice_exec(place, &hot, hash_of(program));
        } else if self.is_other_program(place, program) && !self.record(place).set(Mark::Begun, true) {
            // Its session begins with its first beat, its start has begun.
            self.begin_anew(place);
        }
    }

    fn is_other_program(&mut self, place: Place, program: &Program) -> bool {
        let (found, known) = (hash_of(program), self.record(place).program);
        found.is_some() && known.is_some() && found != known
    }

    /// Another program began: its start is its own. A silence that its shard judged by what it knew is judged again.
    fn begin_anew(&mut self, place: Place) {
        let is_judged = self.record(place).set(Mark::Confirming, false);
        if is_judged && self.record(place).is(Mark::Thawed) {
            self.judge_thawed(place);
        }
        let bits = if is_judged { instruction::BEGIN | instruction::WITHDRAW } else { instruction::BEGIN };
        self.post(place, bits, Instruction::default());
    }

    fn notice_exec(&mut self, place: Place, hot: &Hot, program: Option<NonZeroU32>) {
        let reported = self.record(place);
        let known = reported.program;
        reported.program = program.or(known);
        let is_other = known.is_some() && reported.program != known;
        if is_other {
            self.begin_anew(place);
        }
        if is_other && self.record(place).is(Mark::Up) {
            self.begin_session(place, SessionWhy::Exec, 1);
            self.report_of(place, hot, self.now, EventKind::Session { why: SessionWhy::Exec, coalesced: 1 });
        }
    }

    /// Sets the threshold class of a process of this user that runs this program.
    fn set_class(&mut self, place: Place, uid: u32, program: &Program) {
        if !self.has_present_classes(place.shard) {
            // It will be looked up again: see `follow_reload`.
            return;
        }
        let class = self.policy.class_of(uid, program);
        let is_sure = self.policy.rule_of(uid, program) == Some(class);
        let table = self.reloading.table;
        let reported = self.record(place);
        reported.set(Mark::Ruled, is_sure);
        if reported.class != class {
            reported.class = class;
            let instruction = Instruction { class, table, ..Default::default() };
            self.post(place, instruction::CLASS, instruction);
        }
    }

    /// Tells the shard what the process of a daemon was started with, and, if it started later than the shard could have
    /// missed a message of it, that as well. `is_exec`: it runs another program than before. A program that writes over its
    /// environment, or that may not be read any more, was still started with what was found before.
    fn introduce(&mut self, place: Place, threshold_ns: Option<u64>, is_exec: bool, started: Option<MonoNs>) {
        if !self.has_messages(place.shard) {
            return;
        }
        let is_known = || self.daemon(place).is_some_and(|daemon| daemon.is_from_environment());
        if threshold_ns.is_none() && !is_exec && is_known() {
            return;
        }
        let seen_since = MonoNs(self.view(place.shard).port.counters.last_blind_end.get());
        let is_from_start = started.is_some_and(|started| started > seen_since);
        let of_start = if is_from_start { instruction::FROM_START } else { 0 };
        let (slot, started) = (self.view(place.shard).port.table.read(place.slot), self.started);
        let is_forgotten =
            planted!(ForgetsTheEnvironment) && slot.is_ok_and(|(_, cold)| cold.first_arrival < started);
        let threshold_ns = threshold_ns.filter(|_| !is_forgotten);
        // A part of a millisecond is one: no limit is shorter than it was meant to be.
        let threshold_ms =
            threshold_ns.map_or(0, |ns| u32::try_from(ns.div_ceil(MILLISECOND_NS)).unwrap_or(u32::MAX));
        self.started_with.insert(place, threshold_ms);
        let instruction = Instruction { threshold_ms, ..Default::default() };
        self.post(place, instruction::STARTED_WITH | of_start, instruction);
    }

    /// Accepts the claimed pid: it is the sender's, or it cannot be checked.
    pub(super) fn accept_claim(&mut self, place: Place, hot: &Hot, cold: &Cold, ns_pid: Option<u32>) {
        let reported = self.record(place);
        reported.set(Mark::Held, false);
        if !hot.flags.has(Flags::UNVERIFIED) {
            return;
        }
        reported.settle_claim(cold.claimed_pid);
        let session = self.session(place);
        self.enter(place, Session { ns_pid, ..session });
        let inner_pid = cold.claimed_pid;
        self.post(place, instruction::INNER_PID, Instruction { inner_pid, ..Default::default() });
    }

    pub(super) fn forged(&mut self, place: Place, cold: &Cold, hot: &Hot) {
        let reported = self.record(place);
        reported.set(Mark::Closed, !reported.is(Mark::Up) && !cold.is_honest);
        reported.set(Mark::Held, false);
        reported.settle_claim(cold.claimed_pid);
        self.post(place, instruction::FORGED, Instruction::default());
        self.report_auth(
            place.shard,
            cold.claimed_at.max(cold.first_arrival),
            cold.claimed_pid,
            hot.pid,
            hot.uid(),
        );
    }

    pub(super) fn report_auth(&mut self, shard: u16, at: MonoNs, claimed: u32, attested: u32, uid: u32) {
        let now = self.now;
        if self.view(shard).auth.allows(now) {
            self.report(Some(shard), None, at, EventKind::Auth { claimed, attested, uid });
        }
    }

    /// Plans the next poll of an agent whose exit no pidfd reports.
    pub(super) fn poll_unwatched(&mut self, place: Place) {
        let reported = self.record(place);
        if reported.is(Mark::Polled) || !reported.is(Mark::Unwatched) {
            return;
        }
        reported.set(Mark::Polled, true);
        let holder = Holder { place, generation: reported.generation };
        self.polled.push_back((self.now + POLL_NS, holder));
    }

    /// Stops holding agents whose claimed pid was not looked up in time: their frames are life all the same,
    /// and their silences count.
    pub(super) fn report_of_held(&mut self) {
        while let Some((until, Holder { place, generation })) = self.held.front().copied() {
            if until > self.now {
                return;
            }
            self.commit_if_much();
            self.held.pop_front();
            let may_be_new = self.has_messages(place.shard);
            let reported = self.record(place);
            if reported.generation == generation && (reported.is(Mark::Held) || may_be_new) {
                reported.set(Mark::Held, false);
                self.look(place);
            }
        }
    }

    pub(super) fn ask_about_polled(&mut self) {
        while let Some((at, Holder { place, generation })) = self.polled.front().copied() {
            if at > self.now {
                return;
            }
            self.commit_if_much();
            self.polled.pop_front();
            let reported = *self.record(place);
            if reported.generation != generation {
                continue;
            }
            self.record(place).set(Mark::Polled, false);
            if !reported.is(Mark::Releasing) && self.is_polled(place) {
                self.ask_existence(place, false);
                self.poll_unwatched(place);
            }
        }
    }
}
