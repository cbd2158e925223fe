//! What must hold of daemons, by what they have said: a naive reading of the rules that `notify` gives them.
//!
//! Who has sent a beat is to send the next one within its threshold: the one it sent, else the one it was started with,
//! else that of its rule, else the longest. Who said that it stops is to end within the limit of a stop, and nothing
//! else. Both end later if it asked for that, and by no more than the longest threshold. Frames do not count.

use super::*;
use crate::lab::simulator::story::{Notify, Words};

/// The lane of messages.
const MESSAGES: usize = 1;
/// A script that ends within this time of its only message is no agent.
const REPORT: u64 = SECOND;

/// What a process has said.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    first: Option<u64>,
    second: Option<u64>,
    beat: Option<u64>,
    /// The threshold that it sent, ns.
    own: Option<u64>,
    /// Until when it asked to be silent after its last beat.
    silent_until: u64,
    stopping: Option<u64>,
    stops_until: u64,
    is_ready: bool,
    is_reloading: bool,
    /// A panic lost something of it.
    is_vague: bool,
}

impl Said {
    fn add(&mut self, at: u64, words: Words) {
        if self.first.is_some() {
            self.second.get_or_insert(at);
        }
        self.first.get_or_insert(at);
        match words {
            Words::Beat => (self.beat, self.silent_until) = (Some(at), 0),
            Words::Threshold(us) => {
                (self.beat, self.silent_until) = (Some(at), 0);
                self.own = Some(us * 1000);
            }
            Words::Trigger if self.beat.is_some() => (self.beat, self.silent_until) = (Some(at), 0),
            Words::Extend(us) => {
                let until = at + us * 1000;
                self.silent_until = self.silent_until.max(until);
                if self.stopping.is_some() {
                    self.stops_until = self.stops_until.max(until);
                }
            }
            Words::Stopping => {
                self.stopping.get_or_insert(at);
            }
            Words::Ready => self.is_ready = true,
            Words::Reloading => self.is_reloading = true,
            Words::Trigger | Words::Status => {}
        }
    }
}

/// From when a limit counts, and when it ends.
#[derive(Clone, Copy, Debug)]
struct Term {
    from: u64,
    length: u64,
    until: u64,
}

impl Model {
    fn words_of(&self, index: usize) -> Option<Words> {
        match self.truth.sendings[index].what {
            Datagram::Message(words) => Some(words),
            _ => None,
        }
    }

    /// What a process has said until an instant, as far as the observer heard it.
    fn said(&self, life: usize, until: u64) -> Said {
        let mut said = Said::default();
        let Life { pid, born, .. } = self.truth.lives[life];
        for index in self.messages_within(pid, born, until) {
            let sending = &self.truth.sendings[index];
            match self.fates[index] {
                _ if sending.life != life => {}
                Fate::Queued | Fate::Read => said.add(sending.at, self.words_of(index).unwrap()),
                Fate::Lost => said.is_vague = true,
                Fate::Refused | Fate::Unknown | Fate::Forgotten => {}
            }
        }
        said
    }

    /// The process that had a pid last, and whether another one had it before.
    fn last_life(&self, pid: u32, until: u64) -> Option<(usize, bool)> {
        let lives = &self.truth.of_pid[&pid];
        let at = lives.iter().rposition(|life| self.truth.lives[*life].born <= until)?;
        Some((lives[at], at > 0))
    }

    /// Its threshold by these terms, if its class is one of these.
    fn threshold_of_daemon(&self, terms: usize, class: u8) -> u64 {
        let rules = &self.terms[terms].1.rules;
        let of_rule = rules.iter().find(|(of, _)| *of == class).map(|(_, threshold)| *threshold);
        of_rule.unwrap_or(self.limits().max)
    }

    fn limits(&self) -> Notify {
        self.setting.notify.expect("there are daemons")
    }

    /// A threshold as it may be at least and at most.
    fn within(&self, own: u64) -> u64 {
        own.min(self.limits().max).max(self.limits().min)
    }

    /// The end of a limit, extended by no more than the longest threshold.
    fn term(&self, from: u64, length: u64, asked: u64) -> Term {
        let plain = from + length;
        Term { from, length, until: plain.max(asked.min(plain + self.limits().max)) }
    }

    /// The least that may have been the threshold of a daemon at `at`, or when its stall was told.
    fn least_threshold(&self, life: usize, said: &Said, (at, told_at): (u64, u64)) -> u64 {
        let pid = self.truth.lives[life].pid;
        if let Some(own) = said.own {
            return self.within(own);
        }
        if let Some(of_start) = self.truth.lives[life].started_with {
            // Until it is looked up, the longest holds.
            return self.within(of_start);
        }
        let of_terms = self.terms_within(at.saturating_sub(ERROR), told_at);
        let all = of_terms.flat_map(|terms| {
            self.classes_of(pid, told_at).map(move |class| self.threshold_of_daemon(terms, class))
        });
        all.min().unwrap_or(self.limits().max).min(self.limits().max)
    }

    /// Whether the rules that gave a daemon its threshold have given it for a whole one, if they made it shorter.
    fn was_given_time(&self, pid: u32, (since, at, told_at): (u64, u64, u64)) -> bool {
        let least = |terms: usize| {
            let all = self.classes_of(pid, told_at).map(|class| self.threshold_of_daemon(terms, class));
            all.min().unwrap_or(0)
        };
        self.terms_within(at.saturating_sub(ERROR), told_at).any(|terms| {
            let reloaded_at = self.terms[terms].0;
            let was_silent = terms > 0 && since + ERROR < reloaded_at;
            // Which class it had before is of no matter if none had a longer one.
            let before = (0..terms).flat_map(|terms| {
                self.classes_of(pid, told_at).map(move |class| self.threshold_of_daemon(terms, class))
            });
            let is_shorter = was_silent && before.min().is_some_and(|before| least(terms) < before);
            at + ERROR >= since + least(terms) && (!is_shorter || at + ERROR >= reloaded_at + least(terms))
        })
    }

    /// An `up` of a process that sends messages alone: it sent a second one, or lived for a while after its first.
    pub(super) fn check_up(&self, event: &Event) -> Verdict {
        let pid = event.agent.unwrap().pid;
        if self.of_pid.contains_key(&pid) || !self.messages.contains_key(&pid) {
            return Ok(());
        }
        // Nobody may have known that it had ended.
        let is_watched = self.setting.pidfds > self.truth.lives.len();
        if !is_watched || !self.is_seen_by_one(self.now.saturating_sub(REPORT + HELD), self.now, MESSAGES) {
            return Ok(());
        }
        let lives = self.truth.of_pid[&pid].iter().filter(|life| self.truth.lives[**life].born <= self.now);
        let mut agents = lives.filter(|life| {
            let (said, died) = (self.said(**life, self.now), self.truth.lives[**life].died);
            let lived = said.first.is_some_and(|first| self.now.min(died) + ERROR >= first + REPORT);
            lived || said.second.is_some() || said.is_vague
        });
        must!(self, I17, agents.next().is_some(), "{pid} said one thing, and is up: {event:?}");
        Ok(())
    }

    /// A phase that was told: the process has said so, and whoever stops does not do anything else.
    pub(super) fn on_phase(&mut self, event: &Event, phase: DaemonPhase) -> Verdict {
        let pid = event.agent.unwrap().pid;
        let before = self.told[&pid].phase;
        self.told.get_mut(&pid).unwrap().phase = Some(phase);
        let is_final = before == Some(DaemonPhase::Stopping) && phase != DaemonPhase::Stopping;
        must!(self, I17, !is_final, "{pid} stopped, and is {phase:?}: {event:?}; {}", self.history(pid));
        let (at, mut has_said) = (event.mono.since(START) + ERROR, false);
        for life in self.truth.of_pid[&pid].iter().copied() {
            let said = self.said(life, at);
            has_said |= said.is_vague
                || match phase {
                    DaemonPhase::Stopping => said.stopping.is_some(),
                    DaemonPhase::Reloading => said.is_reloading,
                    DaemonPhase::Up => said.is_ready || said.beat.is_some(),
                    _ => true,
                };
        }
        must!(self, I17, has_said, "{pid} did not say that it is {phase:?}: {event:?}");
        Ok(())
    }

    /// A stall of a daemon that was told.
    pub(super) fn check_stall_of_daemon(&self, event: &Event, told_at: u64) -> Verdict {
        let EventKind::Stall { silent_ns, certain, coalesced, phase, .. } = event.kind else { return Ok(()) };
        let (pid, home) = (event.agent.unwrap().pid, event.shard.unwrap());
        let at = event.mono.since(START);
        let since = at.saturating_sub(silent_ns);
        let (life, is_heir) = self.last_life(pid, at + ERROR).expect("somebody had the pid");
        let said = self.said(life, at.saturating_sub(ERROR));
        let later = self.said(life, at + ERROR);
        if later.is_vague || is_heir || self.is_tight || self.is_offset_unknown() {
            // Something of it may have found no room, or have been taken for that of another process.
            let has_said = |life: &usize| {
                let said = self.said(*life, told_at);
                said.beat.is_some() || said.stopping.is_some() || said.is_vague
            };
            let is_judged = self.truth.of_pid[&pid].iter().any(has_said);
            must!(self, I17, is_judged, "{pid} never beat in messages, and stalls: {event:?}");
            return Ok(());
        }
        let is_stopping = phase == Some(StallPhase::Stopping);
        must!(
            self,
            I17,
            !is_stopping || later.stopping.is_some(),
            "{pid} did not say that it stops: {event:?}; {later:?}"
        );
        let words = self.messages_within(pid, at.saturating_sub(ERROR), told_at + ERROR).count();
        if let Some(from) = said.stopping {
            must!(self, I17, is_stopping || words > 0, "{pid} stops, and may be silent: {event:?}; {said:?}");
            let term = self.term(from, self.limits().stop, said.stops_until);
            let is_due = at + ERROR >= term.until || coalesced > 1;
            must!(self, I17, is_due, "{pid} may take until {} to stop: {event:?}; {said:?}", term.until);
            self.check_sight_since_restart((pid, home), (since, at), term.length, event)?;
            return if certain { self.check_sight(event, (from, at), term.length) } else { Ok(()) };
        }
        if is_stopping {
            return Ok(());
        }
        must!(
            self,
            I17,
            later.beat.is_some(),
            "{pid} never beat in messages, and stalls: {event:?}; {later:?}"
        );
        let Some(beat) = said.beat else { return Ok(()) };
        let threshold = self.least_threshold(life, &said, (at, told_at));
        let term = self.term(beat, threshold, said.silent_until);
        must!(
            self,
            I17,
            at + ERROR >= term.until || coalesced > 1,
            "{pid} beat at {beat}, and may be silent until {}: {event:?}; {said:?}, {:?}; {}",
            term.until,
            self.truth.lives[life],
            self.history(pid)
        );
        let is_ruled = said.own.is_none() && self.truth.lives[life].started_with.is_none();
        must!(
            self,
            I17,
            !is_ruled || coalesced > 1 || self.was_given_time(pid, (beat, at, told_at)),
            "{pid} was given less than the threshold since a reload made it shorter: {event:?}; {:?}",
            self.terms
        );
        self.check_sight_since_restart((pid, home), (since, at), threshold, event)?;
        if !certain {
            return Ok(());
        }
        self.check_sight(event, (term.until.saturating_sub(term.length).max(beat), at), threshold)
    }

    /// The limit that a daemon has to keep to now, if any, and the longest that it may be.
    fn limit_of(&self, life: usize, is_heir: bool, said: &Said) -> Option<Term> {
        let Life { born, started_with, ref names, .. } = self.truth.lives[life];
        if let Some(from) = said.stopping {
            return Some(self.term(from, self.limits().stop, said.stops_until));
        }
        let beat = said.beat?;
        let largest = self.threshold_max().max(self.limits().max);
        let settled =
            born.max(said.first.unwrap_or(0)).max(self.told[&self.truth.lives[life].pid].up_told_at);
        let named = names.iter().filter(|(from, _)| *from <= self.now);
        let settled = named.clone().map(|(from, _)| *from).max().unwrap_or(0).max(settled);
        let started = self.successors.last().map_or(0, |successor| successor.at);
        let settled = settled.max(started).max(self.reloaded_at());
        let is_looked_up = self.setting.lookup_fails == 0
            && self.now.saturating_sub(settled) > 2 * SECOND
            && self.is_seen_by_one(settled, self.now, MESSAGES);
        let of_rules =
            || named.map(|(_, class)| self.threshold_of_daemon(self.terms.len() - 1, *class)).max();
        let threshold = match (said.own, started_with) {
            _ if is_heir => largest,
            (Some(own), _) => self.within(own),
            _ if !is_looked_up => largest,
            (None, Some(of_start)) => self.within(of_start),
            (None, None) => of_rules().unwrap_or(largest),
        };
        Some(self.term(beat, threshold, said.silent_until))
    }

    /// A daemon is up, stalls if it misses a limit, resumes if it makes up for that, and exits.
    pub(super) fn check_daemon(&self, pid: u32) -> Verdict {
        let now = self.now;
        let known = self.shards.iter().map(|shard| shard.delivered_until).min().unwrap_or(0);
        if !self.messages.contains_key(&pid) || known + ERROR < now || self.is_tight || self.has_panics {
            return Ok(());
        }
        let told = &self.told[&pid];
        let Some((life, is_heir)) = self.last_life(pid, now) else { return Ok(()) };
        let (said, died) = (self.said(life, now), self.truth.lives[life].died);
        let Some(first) = said.first else { return Ok(()) };
        let home = self.setting.shards;
        let slack = self.slack();
        let largest = self.threshold_max().max(self.limits().max);
        if died <= now {
            let again = self.begun_again(died);
            let allowed = AWAKE_THRESHOLDS * largest + HELD + 2 * WATCH + EXIT + slack + again;
            let is_owed = told.is_up && self.awake(home, died, now) > allowed;
            must!(self, I17, !is_owed, "{pid} died at {died} and no exit is told: {}", self.history(pid));
            return Ok(());
        }
        if !told.is_up {
            let since = said.second.unwrap_or(u64::MAX).min(first + REPORT);
            let allowed = 2 * HELD + AWAKE_THRESHOLDS * largest + slack + self.begun_again(first);
            let is_owed = now > since && self.awake(home, since, now) > allowed;
            must!(self, I17, !is_owed, "{pid} speaks since {first} and is not up: {}", self.history(pid));
            return Ok(());
        }
        if said.is_vague {
            return Ok(());
        }
        let silence = told.silence[MESSAGES];
        if silence.is_stalled {
            return self.check_resumed(pid, life, silence);
        }
        let noticed = AWAKE_THRESHOLDS * largest + 2 * WATCH + slack;
        let Some(term) = self.limit_of(life, is_heir, &said) else { return Ok(()) };
        if self.was_frozen(pid, term.from.saturating_sub(noticed), now) {
            return Ok(());
        }
        let started = self.successors.last().map_or(0, |successor| successor.at);
        let is_own = said.stopping.is_some() || said.own.is_some();
        // A threshold that a reload made shorter holds from then on.
        let reloaded_at = if is_own { 0 } else { self.reloaded_at() };
        let from = (term.until - term.length).max(started).max(reloaded_at).max(told.up_told_at);
        let silent = now.saturating_sub(from);
        let is_seen =
            self.is_seen_by_one(from.min(now), now, MESSAGES) && !self.was_turned_away(pid, term.from, now);
        must!(
            self,
            I17,
            !is_seen || silent <= term.length + slack,
            "{pid} misses {term:?}, in full sight, and nothing is told: {said:?}, {:?}; {}",
            self.truth.lives[life],
            self.history(pid)
        );
        let awake = self.awake(home, from.min(now), now);
        must!(
            self,
            I17,
            awake <= AWAKE_THRESHOLDS * term.length + HELD + slack + CONFIRM + self.begun_again(term.from),
            "{pid} misses {term:?}, {awake} ns of them awake, and nothing is told: {said:?}; {}",
            self.history(pid)
        );
        Ok(())
    }

    /// A daemon made up for what it missed, and that is told.
    fn check_resumed(&self, pid: u32, life: usize, silence: ToldOfSilence) -> Verdict {
        let after = silence.stalled_at + ERROR;
        let before = self.said(life, after);
        let makes_up = |index: &usize| {
            let words = self.words_of(*index).unwrap();
            let is_beat = words.is_beat() || words == Words::Trigger && before.beat.is_some();
            let is_heard = matches!(self.fates[*index], Fate::Queued | Fate::Read);
            is_heard
                && (is_beat || words == Words::Stopping)
                && before.stopping.is_none()
                && !silence.is_stopping
        };
        let back = self.messages_within(pid, after, self.now).find(makes_up);
        let Some(back) = back.map(|index| self.truth.sendings[index]) else { return Ok(()) };
        let again = self.begun_again(back.at);
        let allowed =
            HELD + 10 * CONFIRM + self.slack() + self.threshold_max().max(self.limits().max) + again;
        let is_owed = self.awake(back.shard, back.at, self.now) > allowed;
        must!(
            self,
            I17,
            !is_owed,
            "{pid} beats again since {} and is stalled: {}",
            back.at,
            self.history(pid)
        );
        Ok(())
    }
}
