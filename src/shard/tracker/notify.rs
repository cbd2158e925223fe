//! Daemons in the slots of a shard that receives messages: [`Daemon`] decides what a message means, and its words are
//! the extra words of the slot. The other words say of a daemon what they say of an agent that sends frames, so that
//! readers need not know the difference.

use std::sync::Arc;

use super::{Outcome, Tracker};
use crate::config::classes::Classes;
use crate::lane::Daemons;
use crate::notify::daemon::{DAEMON_WORDS, Daemon, Due, Limit, Limits, News, Terms};
use crate::notify::message::Fields;
use crate::refusal::Refusal;
use crate::rules::phase::By;
use crate::rules::{Sender, Sight};
use crate::shard::index::Found;
use crate::table::Extra;
use crate::table::slot::{Account, Cold, Hot, State};
use crate::time::MonoNs;
use crate::wire::Status;

/// A shard that is clear-sighted and has seen nothing yet: by it, every deadline is to come.
const NOTHING_SEEN: Sight = Sight { watermark: MonoNs(0), paused_before: 0, last_blind_end: MonoNs(0) };

impl Tracker {
    /// A tracker of daemons, whose slots have extra words, and whose status lines it writes. For a tracker that has not
    /// done anything yet; [`Tracker::go_on_after`] comes later.
    #[must_use]
    pub fn of_daemons(mut self, daemons: Arc<Daemons>) -> Self {
        self.daemons = Some(daemons);
        self
    }

    /// Takes one message with an attested sender. Costs one probe and one read and write of the whole slot.
    pub fn on_message(&mut self, fields: &Fields<'_>, sender: &Sender) -> Outcome {
        // Who receives frames understands no message.
        let Some(terms) = self.terms() else { return Outcome::Refused(Refusal::BadMagic) };
        let terms = &terms;
        if sender.pid <= 1 {
            return Outcome::Refused(Refusal::BadPid);
        }
        let slot = match self.index.find(sender.key()) {
            Found::Slot(slot) => slot,
            Found::Nobody => return self.admit_daemon(fields, sender, terms),
            Found::Impossible => return Outcome::Refused(Refusal::Unattested),
        };
        self.freshen(slot);
        let (mut hot, mut cold) = (self.writer.hot(slot), self.writer.cold(slot));
        let mut daemon = self.daemon(slot, &hot);
        let is_other_user = sender.uid != hot.uid();
        if is_other_user && let Err(why) = self.change_user(slot, sender) {
            // The agent stays with its old user, and the slot stays unchanged.
            return self.turn_away(sender, why);
        }
        if is_other_user {
            hot.account = Account::new(sender.uid, hot.beats());
            cold.users = cold.users.wrapping_add(1);
            cold.changed_at = sender.arrival;
        }
        let state_before = hot.state;
        let news = daemon.on_message(fields, sender, &self.limits_of(&hot, terms));
        apply(&mut hot, &mut cold, &daemon, &news, sender);
        self.put_status(slot, cold.generation, fields);
        self.write_session(slot, &hot, &cold, &daemon);
        self.set_timer_of_daemon(slot);
        let is_changed = is_other_user
            || daemon.is_second_message()
            || news.is_trigger
            || news.phase.is_some()
            || news.resumed.is_some()
            || cold.changed_at == sender.arrival
            || hot.state != state_before;
        match (news.is_beat, is_changed) {
            (true, true) => Outcome::Changed(slot),
            (true, false) => Outcome::Beat(slot),
            (false, true) => Outcome::News(slot),
            (false, false) => Outcome::Heard,
        }
    }

    #[cold]
    fn admit_daemon(&mut self, fields: &Fields<'_>, sender: &Sender, terms: &Terms) -> Outcome {
        let slot = match self.enter(sender) {
            Ok(slot) => slot,
            Err(refused) => return refused,
        };
        let generation = self.writer.cold(slot).generation.wrapping_add(1);
        self.renewal.forget(slot);
        let mut hot = Hot {
            frame_pid: sender.pid,
            pid: sender.pid,
            class: self.classes.unknown(),
            last_arrival: sender.arrival,
            paused_before: sender.paused_before,
            account: Account::new(sender.uid, 0),
            ..Hot::default()
        };
        let mut cold = Cold { generation, first_arrival: sender.arrival, is_honest: true, ..Cold::default() };
        let (daemon, news) = Daemon::begin(fields, sender, &self.limits_of(&hot, terms));
        apply(&mut hot, &mut cold, &daemon, &news, sender);
        self.put_status(slot, cold.generation, fields);
        self.write_session(slot, &hot, &cold, &daemon);
        self.set_timer_of_daemon(slot);
        if news.is_beat { Outcome::Changed(slot) } else { Outcome::News(slot) }
    }

    /// As [`Tracker::judge`].
    #[cold]
    pub(super) fn judge_daemons(
        &mut self,
        terms: &Terms,
        sight: &Sight,
        budget: u32,
        blind_since: impl Fn(MonoNs) -> u64,
        mut on_stall: impl FnMut(u32),
    ) -> bool {
        for _ in 0..budget {
            let mut due = [0];
            if self.wheel.take_due(sight.watermark, &mut due, |slot| self.writer.prefetch_hot(slot)) == 0 {
                return false;
            }
            self.freshen(due[0]);
            self.judge_daemon(due[0], terms, sight, &blind_since, &mut on_stall);
        }
        true
    }

    fn judge_daemon(
        &mut self,
        slot: u32,
        terms: &Terms,
        sight: &Sight,
        blind_since: impl Fn(MonoNs) -> u64,
        on_stall: &mut impl FnMut(u32),
    ) {
        let hot = self.writer.hot(slot);
        if hot.state == State::Free {
            return;
        }
        let mut daemon = self.daemon(slot, &hot);
        let limits = self.limits_of(&hot, terms);
        match self.verdict_of(slot, &hot, &daemon, &limits, sight) {
            Due::Nothing => {}
            Due::NotBefore(at) => self.wheel.set(slot, at),
            Due::Missed { limit, is_certain } => {
                let since = daemon.counted_from(limit);
                daemon.miss(limit);
                let is_certain = is_certain || planted!(TrustsABlindShard);
                self.stall(slot, hot, By::Rule, is_certain, (since, sight.watermark), blind_since(since));
                let (hot, cold) = (self.writer.hot(slot), self.writer.cold(slot));
                self.write_session(slot, &hot, &cold, &daemon);
                on_stall(slot);
            }
        }
    }

    fn verdict_of(&self, slot: u32, hot: &Hot, daemon: &Daemon, limits: &Limits, sight: &Sight) -> Due {
        let mut verdict = daemon.judge(limits, sight);
        let Due::Missed { limit, .. } = verdict else { return verdict };
        let since = daemon.counted_from(limit);
        if self.admission.turned_away().is_after(hot.pid, since) {
            // Not certain any more: else the aggregator takes it back.
            verdict = daemon.judge(limits, &sight.but_turned_away());
            if let Due::NotBefore(at) = verdict {
                return Due::NotBefore(at.min(sight.watermark + daemon.threshold_ns(limits)));
            }
        }
        // No reload changes the others.
        let is_silence = limit == Limit::Silence;
        let threshold_ns = if is_silence { daemon.threshold_ns(limits) } else { u64::MAX };
        let not_before = self.renewal.not_before(slot, since, threshold_ns);
        if sight.watermark < not_before { Due::NotBefore(not_before) } else { verdict }
    }

    /// Sets the timer to the next deadline, if any limit holds.
    pub(super) fn set_timer_of_daemon(&mut self, slot: u32) {
        let (Some(terms), hot) = (self.terms(), self.writer.hot(slot)) else { return };
        match self.daemon(slot, &hot).judge(&self.limits_of(&hot, &terms), &NOTHING_SEEN) {
            Due::NotBefore(at) => self.wheel.set(slot, at),
            Due::Nothing | Due::Missed { .. } => self.wheel.remove(slot),
        }
    }

    /// Takes what the process of a daemon was started with, and whether it was heard from its start on.
    pub(super) fn introduce_daemon(&mut self, slot: u32, started_with: Option<u64>, is_from_start: bool) {
        let (hot, cold) = (self.writer.hot(slot), self.writer.cold(slot));
        let mut daemon = self.daemon(slot, &hot);
        daemon.started_with(started_with);
        if is_from_start {
            daemon.heard_from_start();
        }
        self.write_session(slot, &hot, &cold, &daemon);
        self.set_timer_of_daemon(slot);
    }

    /// Takes the verdict on the daemon of a slot back. Returns the state that it has then.
    pub(super) fn withdraw_from_daemon(&mut self, slot: u32) -> State {
        let (hot, cold) = (self.writer.hot(slot), self.writer.cold(slot));
        let mut daemon = self.daemon(slot, &hot);
        daemon.withdraw();
        self.write_session(slot, &hot, &cold, &daemon);
        state_of(&daemon)
    }

    /// Adapts the daemon of a slot to another sight, as `renew` adapts the hot half, which was `before`.
    pub(super) fn renew_session(&mut self, slot: u32, before: &Hot, renew: impl Fn(&mut Hot)) {
        let daemon = self.daemon(slot, before).resighted(|at, paused_before| {
            let mut mark = Hot { last_arrival: at, paused_before, ..*before };
            renew(&mut mark);
            mark.paused_before
        });
        let cold = self.writer.cold(slot);
        self.write_session(slot, before, &cold, &daemon);
    }

    /// Gives the slot to another process that got the pid after `as_of`.
    pub(super) fn write_heir(&mut self, slot: u32, mut heir: Hot, cold: &Cold, as_of: MonoNs) {
        let last = Sender {
            pid: heir.pid,
            uid: heir.uid(),
            arrival: heir.last_arrival,
            paused_before: heir.paused_before,
        };
        let daemon = self.daemon(slot, &heir).of_heir(as_of, &last);
        heir.state = state_of(&daemon);
        self.write_session(slot, &heir, cold, &daemon);
    }

    /// The daemon of a slot with this hot half.
    fn daemon(&self, slot: u32, hot: &Hot) -> Daemon {
        let extra: Extra = self.writer.extra(slot).unwrap_or_default();
        let words = extra.first_chunk().copied().unwrap_or_default();
        Daemon::from_words(&words, hot.last_arrival, hot.paused_before)
    }

    fn write_session(&mut self, slot: u32, hot: &Hot, cold: &Cold, daemon: &Daemon) {
        let mut extra: Extra = self.writer.extra(slot).unwrap_or_default();
        extra[..DAEMON_WORDS].copy_from_slice(&daemon.to_words());
        self.writer.write_with_extra(slot, hot, cold, &extra);
    }

    fn put_status(&self, slot: u32, generation: u32, fields: &Fields<'_>) {
        let Some(daemons) = &self.daemons else { return };
        for (lines, text) in [(&daemons.lines, fields.status), (&daemons.names, fields.name)] {
            if let Some(text) = text {
                lines.put(slot, generation, text);
            }
        }
    }

    /// What holds for all daemons; `None` if the agents send frames.
    #[inline]
    pub fn terms(&self) -> Option<Terms> {
        Some(self.daemons.as_ref()?.terms)
    }

    fn limits_of(&self, hot: &Hot, terms: &Terms) -> Limits {
        limits_by(&self.classes, hot.class, terms)
    }

    /// The silence that `classes` allow the daemon of a slot, ns; `None` if its holder sends frames.
    pub(super) fn allowed_to_daemon(&self, slot: u32, hot: &Hot, classes: &Classes) -> Option<u64> {
        let terms = self.terms()?;
        Some(self.daemon(slot, hot).threshold_ns(&limits_by(classes, hot.class, &terms)))
    }
}

/// The limits of a daemon of this class. Neither the default nor what holds until somebody is looked up is meant for
/// daemons.
fn limits_by(classes: &Classes, class: u8, terms: &Terms) -> Limits {
    let has_rule = classes.rule_of(class).is_some() || planted!(TakesTheDefault);
    terms.limits(has_rule.then(|| classes.threshold_ns(class)))
}

/// What a reader of slots sees of the daemon: one that sent no beat, or stops, waits, as no silence makes it stall.
fn state_of(daemon: &Daemon) -> State {
    match daemon.missed() {
        Some(_) => State::Stalled,
        None if daemon.is_judged_by_silence() => State::Up,
        None => State::Waiting,
    }
}

/// Writes into the slot what a message changed.
fn apply(hot: &mut Hot, cold: &mut Cold, daemon: &Daemon, news: &News, sender: &Sender) {
    let is_last_beat = daemon.last_beat() == Some(sender.arrival);
    // Of a daemon that sends no beats, the last message is the last that was heard.
    if is_last_beat || !daemon.is_beating() {
        hot.last_arrival = sender.arrival;
        hot.paused_before = sender.paused_before;
    }
    if news.is_beat {
        let (beats, goes_round) = hot.beats().overflowing_add(1);
        hot.account = Account::new(hot.uid(), beats);
        cold.beats_rounds = cold.beats_rounds.wrapping_add(goes_round.into());
        hot.nonces[0] = hot.nonces[0].wrapping_add(1);
    }
    let status = match (news.is_trigger, news.is_beat) {
        (true, _) => Status::Critical,
        (false, true) => Status::Ok,
        (false, false) => hot.status,
    };
    if status != hot.status {
        hot.status = status;
        cold.statuses = cold.statuses.wrapping_add(1);
        cold.changed_at = sender.arrival;
    }
    if news.is_trigger {
        cold.terminals = cold.terminals.wrapping_add(1);
        cold.terminal_at = sender.arrival;
    }
    if news.phase.is_some() {
        cold.changed_at = sender.arrival;
    }
    if let Some(resumed) = news.resumed {
        cold.resumes = cold.resumes.wrapping_add(1);
        cold.resume_at = sender.arrival;
        cold.resume_silent_ns = resumed.after_ns;
        cold.resume_lost = 0;
    }
    hot.state = state_of(daemon);
}
