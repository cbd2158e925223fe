//! What the lookup thread found out: who a process is, whose pid its frames claim, whether it is there.

use super::*;

impl Aggregator {
    pub(super) fn take_answers(&mut self) -> bool {
        for _ in 0..ANSWERS_PER_TURN {
            let Ok(answer) = self.lookups.answers.try_recv() else { return false };
            match answer {
                Answer::Identity { ticket, found } => self.identified(ticket, found),
                Answer::Existence { ticket, gone_at } => self.exists(ticket, gone_at),
            }
        }
        true
    }

    pub(super) fn exists(&mut self, ticket: Ticket, gone_at: Option<MonoNs>) {
        let place = Place { shard: ticket.shard, slot: ticket.slot };
        let told = self.told(place);
        if told.generation != ticket.generation {
            return;
        }
        told.asked = told.asked.saturating_sub(1);
        if told.is_releasing {
            return;
        }
        match gone_at {
            // An earlier question's answer says nothing of now.
            None if told.asked > 0 => {}
            None => told.existence = Existence::There,
            Some(at) => {
                let is_pending = told.is_confirming;
                self.gone(place, at, is_pending);
            }
        }
    }

    pub(super) fn gone(&mut self, place: Place, at: MonoNs, is_pending: bool) {
        let told = self.told(place);
        told.existence = Existence::Gone(at);
        let generation = told.generation;
        for view in &mut self.shards {
            view.is_to_be_kicked = true;
        }
        if !is_pending {
            self.await_word(place, generation);
        }
    }

    pub(super) fn identified(&mut self, ticket: Ticket, found: Result<Identity, LookupError>) {
        let place = Place { shard: ticket.shard, slot: ticket.slot };
        let told = self.told(place);
        if told.generation != ticket.generation {
            return;
        }
        told.is_identifying = false;
        if told.is_releasing {
            return;
        }
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
            // Met the writer; ask again rather than guess.
            return self.identify(place);
        };
        if cold.generation != ticket.generation {
            return;
        }
        match found {
            Ok(identity) => self.known(place, &hot, &cold, &identity),
            Err(LookupError::Gone(at)) => {
                self.accept_claim(place, &hot, &cold, None);
                let is_pending = self.told(place).is_confirming;
                self.gone(place, at, is_pending);
            }
            Err(LookupError::Failed) => {
                self.tally.lock().lookups_failed += 1;
                self.accept_claim(place, &hot, &cold, None);
                self.set_class(place, &hot, 0);
            }
        }
        if let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) {
            self.tell_difference(place, &hot, &cold);
        }
    }

    pub(super) fn known(&mut self, place: Place, hot: &Hot, cold: &Cold, identity: &Identity) {
        let told = *self.told(place);
        let is_other = told.incarnation.is_some_and(|known| known != identity.incarnation);
        if is_other || identity.started > cold.first_arrival + START_SLACK_NS {
            // The sender is dead, and the pid is somebody else's.
            self.accept_claim(place, hot, cold, None);
            self.gone(place, identity.started, told.is_confirming);
            return;
        }
        let program = program_of(identity);
        let record = self.told(place);
        record.incarnation = Some(identity.incarnation);
        record.program = program.or(told.program);
        if told.streams != cold.streams {
            record.streams = cold.streams;
            let is_exec = program.is_some() && told.program.is_some_and(|known| Some(known) != program);
            let why = if is_exec { SessionWhy::Exec } else { SessionWhy::Nonce };
            if !told.is_held && !told.is_closed {
                self.begin_session(place, why);
                self.tell_of(place, hot, cold.changed_at, EventKind::Session { why });
            }
        }
        let identity_of = plan::Identity { comm: &identity.comm, uid: identity.uid, exe: &identity.exe };
        let rule = self.policy.rules.iter().position(|rule| rule.matches(&identity_of));
        self.set_class(place, hot, rule.map_or(0, |rule| rule + 1));
        if hot.flags.has(Flags::UNVERIFIED) {
            if identity.inner_pids.contains(&cold.claimed_pid) {
                self.accept_claim(place, hot, cold, Some(cold.claimed_pid));
            } else {
                self.forged(place, cold, hot);
            }
        }
    }

    pub(super) fn set_class(&mut self, place: Place, hot: &Hot, class: usize) {
        let class = u8::try_from(class).unwrap_or(0);
        if hot.class != class {
            self.post(place, answer::CLASS, crate::lane::Answer { class, ..Default::default() });
        }
    }

    /// The pid that frames claim is the sender's, or nobody is left to ask.
    pub(super) fn accept_claim(&mut self, place: Place, hot: &Hot, cold: &Cold, ns_pid: Option<u32>) {
        let told = self.told(place);
        told.is_held = false;
        if !hot.flags.has(Flags::UNVERIFIED) {
            return;
        }
        told.ns_pid = ns_pid;
        let inner_pid = cold.claimed_pid;
        self.post(place, answer::INNER_PID, crate::lane::Answer { inner_pid, ..Default::default() });
    }

    pub(super) fn forged(&mut self, place: Place, cold: &Cold, hot: &Hot) {
        let told = self.told(place);
        told.is_closed = !told.is_up && !cold.is_honest;
        told.is_held = false;
        self.post(place, answer::FORGED, crate::lane::Answer::default());
        self.tell_auth(place.shard, cold.first_arrival, cold.claimed_pid, hot.pid, cold.uid);
    }

    pub(super) fn tell_auth(&mut self, shard: u16, at: MonoNs, claimed: u32, attested: u32, uid: u32) {
        let now = self.now;
        if self.view(shard).auth.allows(now) {
            self.tell(Some(shard), None, at, EventKind::Auth { claimed, attested, uid });
        }
    }

    /// Stalled agents may die: their processes are asked about again and again.
    pub(super) fn watch(&mut self, place: Place) {
        let told = self.told(place);
        if told.is_watched {
            return;
        }
        told.is_watched = true;
        let generation = told.generation;
        self.watched.push_back((self.now + WATCH_NS, place, generation));
    }

    /// Frames that nobody could look into in time are life all the same, and their silence is one.
    pub(super) fn tell_of_held(&mut self) {
        while let Some((until, place, generation)) = self.held.front().copied() {
            if until > self.now {
                return;
            }
            self.held.pop_front();
            let told = self.told(place);
            if told.generation == generation && told.is_held {
                told.is_held = false;
                self.look(place);
            }
        }
    }

    pub(super) fn ask_about_watched(&mut self) {
        while let Some((at, place, generation)) = self.watched.front().copied() {
            if at > self.now {
                return;
            }
            self.watched.pop_front();
            let told = *self.told(place);
            if told.generation != generation {
                continue;
            }
            self.told(place).is_watched = false;
            if !told.is_releasing && (told.is_stalled || !told.is_counted) {
                self.ask_existence(place, false);
                self.watch(place);
            }
        }
    }
}
