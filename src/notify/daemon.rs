//! A process that speaks the notification protocol, in one incarnation: its phase, and the deadlines that hold in it.
//!
//! Pure: every instant is an argument, and what is judged is judged against the watermark, by [`rules::judge`].
//!
//! 1. Only `WATCHDOG=1` and `WATCHDOG_USEC=` are beats, and only a process that has sent one is judged by silence:
//!    many daemons send nothing after `READY=1`.
//! 2. Three limits hold, each in its phases. Before `READY=1` that of the start, from the first message. Between beats the
//!    threshold: the one the process sent, else the one it was started with (`WATCHDOG_USEC` in its environment), else
//!    that of a rule, else the longest of all. After `STOPPING=1` that of the stop, and silence means nothing.
//! 3. `READY=1` is sent once, perhaps before anybody listened. The limit of the start holds only for a process that was
//!    heard from its start on. If the observer was blind since then, `READY=1` may have been missed: a process that
//!    beats is not held to the limit any more, and the verdict on another one is uncertain.
//! 4. `EXTEND_TIMEOUT_USEC=` moves the limits of the phase, never to an earlier instant. As for systemd, the next beat
//!    begins an ordinary silence. No limit moves by more than the longest threshold: nobody escapes a verdict for ever.
//! 5. A limit that was missed is missed once, until a message makes up for it.
//! 6. `STOPPING=1` is final: nothing that follows it means that the process goes on.
//! 7. A sender that ends within a second of its only message is a script that reported something, and no agent.

use crate::config::plan::NotifyPlan;
use crate::event::DaemonPhase;
use crate::notify::message::{Fields, Watchdog};
use crate::rules::{self, Judgement, Sender, Sight};
use crate::time::MonoNs;

/// Words of a daemon in shared memory.
pub const DAEMON_WORDS: usize = 6;

// Its first word: the phase, then these.
const MISSED: u32 = 4;
const EXIT_STATUS: u32 = 8;
const ERRNO: u32 = 16;
const HAS_EXIT_STATUS: u64 = 1 << 29;
const IS_BEATING: u64 = 1 << 30;
const IS_LOOKED_UP: u64 = 1 << 31;
const IS_FROM_ENVIRONMENT: u64 = 1 << 32;
const MESSAGES: u32 = 48;

/// A sender that ends within this time of its only message was no agent.
const ONE_SHOT_NS: u64 = 1_000_000_000;
const MICROSECOND_NS: u64 = 1_000;

/// How far a process says it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It was met after its start, or so it may be: what it sent before is not known.
    Met = 0,
    /// It was heard from its start on, and has not sent `READY=1`.
    Starting = 1,
    /// It is ready, or it beats.
    Up = 2,
    /// `RELOADING=1`, and not ready again. The limits are those of [`Phase::Up`].
    Reloading = 3,
    /// `STOPPING=1`.
    Stopping = 4,
}

impl Phase {
    /// As it is reported; `None`: it is not known.
    const fn reported(self) -> Option<DaemonPhase> {
        match self {
            Self::Met => None,
            Self::Starting => Some(DaemonPhase::Starting),
            Self::Up => Some(DaemonPhase::Up),
            Self::Reloading => Some(DaemonPhase::Reloading),
            Self::Stopping => Some(DaemonPhase::Stopping),
        }
    }

    /// The phase after a message.
    fn next(self, fields: &Fields<'_>, is_beat: bool) -> Self {
        match self {
            Self::Stopping if !(planted!(UndoesStopping) && fields.is_ready) => Self::Stopping,
            _ if fields.is_stopping => Self::Stopping,
            _ if fields.is_ready => Self::Up,
            Self::Starting => Self::Starting,
            _ if fields.is_reloading => Self::Reloading,
            Self::Met if is_beat => Self::Up,
            phase => phase,
        }
    }
}

/// What a process has to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limit {
    /// `READY=1` so long after the first message.
    Start = 0,
    /// A beat so long after the one before.
    Silence = 1,
    /// Its end so long after `STOPPING=1`.
    Stop = 2,
}

impl Limit {
    const ALL: [Self; 3] = [Self::Start, Self::Silence, Self::Stop];
}

/// Where the threshold of a daemon comes from.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ThresholdOf {
    /// It sent `WATCHDOG_USEC=`.
    Message,
    /// It was started with `WATCHDOG_USEC` in its environment.
    Environment,
    /// A rule gives it one.
    Rule,
    /// None is known: the longest holds.
    #[default]
    Nothing,
}

/// The limits in force for one daemon, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest silence of a process that neither sent a threshold nor was started with one.
    pub threshold_ns: u64,
    /// That of a process that sent none, as long as nobody knows what it was started with.
    pub unknown_ns: u64,
    /// The shortest threshold that a process may have by sending it.
    pub threshold_min_ns: u64,
    /// The longest; a limit is extended by no more than this.
    pub threshold_max_ns: u64,
    /// Longest start, if that is limited.
    pub start_ns: Option<u64>,
    /// Longest stop.
    pub stop_ns: u64,
}

/// The limits that are the same for all daemons of a shard, ns; see [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Longest silence of a daemon whose threshold is not known, and to which no rule gives one.
    pub threshold_ns: u64,
    /// The shortest threshold that a daemon may have by sending it.
    pub threshold_min_ns: u64,
    /// The longest.
    pub threshold_max_ns: u64,
    /// Longest start, if that is limited.
    pub start_ns: Option<u64>,
    /// Longest stop.
    pub stop_ns: u64,
}

impl From<&NotifyPlan> for Terms {
    fn from(plan: &NotifyPlan) -> Self {
        let NotifyPlan { threshold_min_ns, threshold_max_ns, stop_ns, .. } = *plan;
        Self { threshold_ns: threshold_max_ns, threshold_min_ns, threshold_max_ns, start_ns: None, stop_ns }
    }
}

impl Terms {
    /// The limits of a daemon to which a rule gives this threshold, ns, if one does.
    #[must_use]
    pub fn limits(&self, of_rule: Option<u64>) -> Limits {
        Limits {
            threshold_ns: of_rule.unwrap_or(self.threshold_ns),
            unknown_ns: self.threshold_ns,
            threshold_min_ns: self.threshold_min_ns,
            threshold_max_ns: self.threshold_max_ns,
            start_ns: self.start_ns,
            stop_ns: self.stop_ns,
        }
    }
}

/// An instant from which a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    at: MonoNs,
    /// Total time for which the shard had been paused before that, ns.
    paused_before: u64,
}

impl Mark {
    const fn of(sender: &Sender) -> Self {
        Self { at: sender.arrival, paused_before: sender.paused_before }
    }
}

/// One incarnation of a process, as its messages describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Daemon {
    phase: Phase,
    /// The first message of the phase.
    began: Mark,
    beat: Option<Mark>,
    /// As sent, or as it was started with; limited where it is used, so that a reload can change the limits.
    own_threshold_ns: Option<u64>,
    /// It was started with that, and has sent none.
    is_from_environment: bool,
    /// It is known what it was started with.
    is_looked_up: bool,
    /// The latest instant for which the process asked in this phase.
    extended_until: MonoNs,
    /// The latest for which it asked since its last beat.
    silence_until: MonoNs,
    missed: Option<Limit>,
    errno: Option<u16>,
    exit_status: Option<u8>,
    /// Messages, as far as they can be counted.
    messages: u16,
}

/// What one message changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// It was a beat.
    pub is_beat: bool,
    /// It reports a failure: an event at once, whatever the phase.
    pub is_trigger: bool,
    /// The phase that it began.
    pub phase: Option<Phase>,
    /// The limit that had been missed until then.
    pub resumed: Option<Resumed>,
}

/// The end of a missed limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The limit.
    pub limit: Limit,
    /// From the instant from which it counted until the message, ns.
    pub after_ns: u64,
}

/// Whether a daemon keeps to its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// No limit holds, or it is known that one was missed: judge again after the next message.
    Nothing,
    /// Nothing is missed before this instant; judge again then.
    NotBefore(MonoNs),
    /// This limit was missed.
    Missed {
        /// The limit.
        limit: Limit,
        /// Whether the shard saw for so long that it would have seen the message.
        is_certain: bool,
    },
}

/// A limit of a daemon at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Term {
    /// From when it counts.
    from: Mark,
    length_ns: u64,
    /// When it ends: so long after that, or later if that was granted.
    until: MonoNs,
}

impl Daemon {
    /// The process whose first message this is.
    #[must_use]
    pub fn begin(fields: &Fields<'_>, sender: &Sender, limits: &Limits) -> (Self, News) {
        let mut daemon = Self {
            phase: Phase::Met,
            began: Mark::of(sender),
            beat: None,
            own_threshold_ns: None,
            is_from_environment: false,
            is_looked_up: false,
            extended_until: MonoNs(0),
            silence_until: MonoNs(0),
            missed: None,
            errno: None,
            exit_status: None,
            messages: 0,
        };
        let news = daemon.on_message(fields, sender, limits);
        (daemon, news)
    }

    /// Takes a message. `sender` is when and by whom it was sent; `limits` are those in force.
    pub fn on_message(&mut self, fields: &Fields<'_>, sender: &Sender, limits: &Limits) -> News {
        let missed = self.missed.map(|limit| (limit, self.counted_from(limit)));
        let is_trigger = fields.watchdog == Some(Watchdog::Trigger);
        let is_beat = fields.watchdog == Some(Watchdog::Beat) || fields.watchdog_us.is_some();
        self.messages = self.messages.saturating_add(1);
        if let Some(us) = fields.watchdog_us {
            self.own_threshold_ns = Some(us.saturating_mul(MICROSECOND_NS));
            self.is_from_environment = false;
        }
        // Whoever says that it failed is not silent, but does not start to beat by that.
        if is_beat || is_trigger && self.beat.is_some() {
            self.beat = Some(Mark::of(sender));
            self.silence_until = MonoNs(0);
        }
        let phase = self.phase.next(fields, is_beat);
        let is_new = phase != self.phase;
        if is_new {
            (self.phase, self.began) = (phase, Mark::of(sender));
            self.extended_until = MonoNs(0);
        }
        // After beat and phase: sent with either, it is meant for what they begin.
        if let Some(us) = fields.extend_us {
            let until = sender.arrival + us.saturating_mul(MICROSECOND_NS);
            self.extended_until = self.extended_until.max(until);
            self.silence_until = self.silence_until.max(until);
        }
        self.errno = fields.errno.or(self.errno);
        self.exit_status = fields.exit_status.or(self.exit_status);
        let resumed = missed
            .filter(|(limit, _)| self.term(*limit, limits).is_none_or(|term| term.until > sender.arrival))
            .map(|(limit, from)| Resumed { limit, after_ns: sender.arrival.since(from) });
        if resumed.is_some() {
            self.missed = None;
        }
        News { is_beat, is_trigger, phase: is_new.then_some(phase), resumed }
    }

    /// It is known that the process began after its first message could have been missed: every message of its start was
    /// heard.
    pub fn heard_from_start(&mut self) {
        if self.phase == Phase::Met {
            self.phase = Phase::Starting;
        }
    }

    /// What its process was started with: the threshold in its environment, ns, if there is one that is meant for it.
    pub fn started_with(&mut self, threshold_ns: Option<u64>) {
        self.is_looked_up = true;
        if self.own_threshold_ns.is_none() || self.is_from_environment {
            self.own_threshold_ns = threshold_ns;
            self.is_from_environment = threshold_ns.is_some();
        }
    }

    /// Judges the daemon by what the shard saw. Changes nothing: see [`Daemon::missed`].
    #[must_use]
    pub fn judge(&self, limits: &Limits, sight: &Sight) -> Due {
        if self.missed.is_some() {
            return Due::Nothing;
        }
        let verdicts = Limit::ALL.map(|limit| self.judge_one(limit, limits, sight));
        let missed = verdicts.iter().find(|verdict| matches!(verdict, Due::Missed { .. }));
        let next = verdicts.iter().filter_map(|verdict| match verdict {
            Due::NotBefore(at) => Some(*at),
            _ => None,
        });
        missed.copied().or_else(|| next.min().map(Due::NotBefore)).unwrap_or(Due::Nothing)
    }

    fn judge_one(&self, limit: Limit, limits: &Limits, sight: &Sight) -> Due {
        let Some(term) = self.term(limit, limits) else { return Due::Nothing };
        let is_start_in_doubt = limit == Limit::Start && sight.last_blind_end > self.began.at;
        let sight = match is_start_in_doubt {
            true if self.beat.is_some() => return Due::Nothing,
            true => sight.but_turned_away(),
            false => *sight,
        };
        match rules::judge(term.until - term.length_ns, term.from.paused_before, term.length_ns, &sight) {
            Judgement::NotBefore(at) => Due::NotBefore(at),
            Judgement::Stalled { is_certain } => Due::Missed { limit, is_certain },
        }
    }

    /// Takes the verdict that a limit was missed; it is not given again before a message made up for it.
    pub fn miss(&mut self, limit: Limit) {
        self.missed = Some(limit);
    }

    /// Another process that got the pid after `as_of`, as far as its messages can be told from those of
    /// the one before: a beat after that instant is its own, and what it sent before a phase is not known.
    #[must_use]
    pub fn of_heir(&self, as_of: MonoNs, last: &Sender) -> Self {
        let beat = self.beat.filter(|beat| beat.at > as_of);
        Self {
            phase: if beat.is_some() { Phase::Up } else { Phase::Met },
            began: Mark::of(last),
            beat,
            own_threshold_ns: None,
            is_from_environment: false,
            is_looked_up: false,
            extended_until: MonoNs(0),
            silence_until: MonoNs(0),
            missed: None,
            errno: None,
            exit_status: None,
            messages: self.messages,
        }
    }

    /// The same before a shard whose pauses are counted anew: `paused_before` makes of an instant
    /// and the pauses that were counted before it those that count now.
    #[must_use]
    pub fn resighted(&self, paused_before: impl Fn(MonoNs, u64) -> u64) -> Self {
        let renewed = |mark: Mark| Mark { paused_before: paused_before(mark.at, mark.paused_before), ..mark };
        Self { began: renewed(self.began), beat: self.beat.map(renewed), ..*self }
    }

    /// What is known of it in words, without its last beat, which the hot half of a slot has.
    #[must_use]
    pub fn to_words(self) -> [u64; DAEMON_WORDS] {
        let bits = self.phase as u64
            | self.missed.map_or(0, |limit| limit as u64 + 1) << MISSED
            | u64::from(self.exit_status.unwrap_or(0)) << EXIT_STATUS
            | self.errno.map_or(0, |errno| u64::from(errno) + 1) << ERRNO
            | if self.exit_status.is_some() { HAS_EXIT_STATUS } else { 0 }
            | if self.beat.is_some() { IS_BEATING } else { 0 }
            | if self.is_looked_up { IS_LOOKED_UP } else { 0 }
            | if self.is_from_environment { IS_FROM_ENVIRONMENT } else { 0 }
            | u64::from(self.messages) << MESSAGES;
        // A threshold is at least a microsecond.
        let own_ns = self.own_threshold_ns.unwrap_or(0);
        [bits, self.began.at.0, self.began.paused_before, own_ns, self.extended_until.0, self.silence_until.0]
    }

    /// The daemon of which these are the words, whatever they are. `beat_at`, `paused_before`: those of its last beat, if
    /// it has sent any.
    #[must_use]
    pub fn from_words(words: &[u64; DAEMON_WORDS], beat_at: MonoNs, paused_before: u64) -> Self {
        let [bits, began_at, began_paused, own_ns, extended_until, silence_until] = *words;
        let part = |at: u32, mask: u64| bits >> at & mask;
        Self {
            phase: match part(0, 0xf) {
                1 => Phase::Starting,
                2 => Phase::Up,
                3 => Phase::Reloading,
                4 => Phase::Stopping,
                _ => Phase::Met,
            },
            began: Mark { at: MonoNs(began_at), paused_before: began_paused },
            beat: (bits & IS_BEATING != 0).then_some(Mark { at: beat_at, paused_before }),
            own_threshold_ns: (own_ns > 0).then_some(own_ns),
            is_from_environment: bits & IS_FROM_ENVIRONMENT != 0,
            is_looked_up: bits & IS_LOOKED_UP != 0,
            extended_until: MonoNs(extended_until),
            silence_until: MonoNs(silence_until),
            missed: match part(MISSED, 0xf) {
                1 => Some(Limit::Start),
                2 => Some(Limit::Silence),
                3 => Some(Limit::Stop),
                _ => None,
            },
            errno: u16::try_from(part(ERRNO, 0x1fff)).ok().and_then(|errno| errno.checked_sub(1)),
            exit_status: u8::try_from(part(EXIT_STATUS, 0xff)).ok().filter(|_| bits & HAS_EXIT_STATUS != 0),
            messages: u16::try_from(part(MESSAGES, 0xffff)).unwrap_or(u16::MAX),
        }
    }

    /// Takes a verdict back: the process was alive elsewhere.
    pub fn withdraw(&mut self) {
        self.missed = None;
    }

    /// The limit at work, if it holds in this phase.
    fn term(&self, limit: Limit, limits: &Limits) -> Option<Term> {
        let (from, length_ns, extended_until) = match (limit, self.phase) {
            (Limit::Start, Phase::Starting) => (self.began, limits.start_ns?, self.extended_until),
            (Limit::Stop, Phase::Stopping) => (self.began, limits.stop_ns, self.extended_until),
            (Limit::Silence, Phase::Stopping) => return None,
            (Limit::Silence, _) if planted!(StallsWithoutBeats) => {
                (self.beat.unwrap_or(self.began), self.threshold_ns(limits), self.silence_until)
            }
            (Limit::Silence, _) => (self.beat?, self.threshold_ns(limits), self.silence_until),
            _ => return None,
        };
        let plain = from.at + length_ns;
        let latest =
            if planted!(NeverCapsExtensions) { extended_until } else { plain + limits.threshold_max_ns };
        let until = extended_until.min(latest).max(plain);
        Some(Term { from, length_ns, until })
    }

    /// The instant from which a limit counts.
    #[must_use]
    pub fn counted_from(&self, limit: Limit) -> MonoNs {
        match (limit, self.beat) {
            (Limit::Silence, Some(beat)) => beat.at,
            _ => self.began.at,
        }
    }

    /// The length of a limit, ns, without what was asked for; 0 if it does not hold.
    #[must_use]
    pub fn length_ns(&self, limit: Limit, limits: &Limits) -> u64 {
        self.term(limit, limits).map_or(0, |term| term.length_ns)
    }

    /// The longest silence that is allowed, ns: its own, within the limits, or one of `limits`.
    #[must_use]
    pub fn threshold_ns(&self, limits: &Limits) -> u64 {
        // Not `clamp`, which panics if a reload made the least larger than the largest.
        let within = |own: u64| own.min(limits.threshold_max_ns).max(limits.threshold_min_ns);
        let of_others = if self.is_looked_up { limits.threshold_ns } else { limits.unknown_ns };
        self.own_threshold_ns.map_or(of_others, within)
    }

    /// How far the process says it has come; `None`: it has not said, or that may have been missed.
    #[must_use]
    pub const fn phase(&self) -> Option<DaemonPhase> {
        self.phase.reported()
    }

    #[cfg(feature = "http")]
    /// Where its threshold comes from, if a rule gives it one or none does.
    #[must_use]
    pub const fn threshold_of(&self, has_rule: bool) -> ThresholdOf {
        match self.own_threshold_ns {
            Some(_) if self.is_from_environment => ThresholdOf::Environment,
            Some(_) => ThresholdOf::Message,
            None if has_rule && self.is_looked_up => ThresholdOf::Rule,
            None => ThresholdOf::Nothing,
        }
    }

    /// The limit that was missed and not made up for.
    #[must_use]
    pub const fn missed(&self) -> Option<Limit> {
        self.missed
    }

    /// Whether silence is judged: it has sent a beat.
    #[must_use]
    pub const fn is_beating(&self) -> bool {
        self.beat.is_some()
    }

    /// Whether its threshold is the one that it was started with.
    #[must_use]
    pub const fn is_from_environment(&self) -> bool {
        self.is_from_environment
    }

    /// Whether silence is judged at present: it beats, and does not stop.
    #[must_use]
    pub fn is_judged_by_silence(&self) -> bool {
        self.is_beating() && self.phase != Phase::Stopping
    }

    /// Arrival of the last beat.
    #[must_use]
    pub fn last_beat(&self) -> Option<MonoNs> {
        Some(self.beat?.at)
    }

    #[cfg(any(test, feature = "http"))]
    /// The error number and the exit status that it sent last: why it fails.
    #[must_use]
    pub const fn failure(&self) -> (Option<u16>, Option<u8>) {
        (self.errno, self.exit_status)
    }

    /// The instant from which the sender is an agent, even if it ends.
    #[must_use]
    pub fn is_agent_from(&self) -> MonoNs {
        match self.messages {
            0 | 1 => self.began.at + ONE_SHOT_NS,
            _ => MonoNs(0),
        }
    }

    /// Whether its last message was its second: from then on it is an agent, however soon it ends.
    #[must_use]
    pub const fn is_second_message(&self) -> bool {
        self.messages == 2
    }

    /// Whether a sender that ended at `gone_at` was never an agent: it ended within a second of its only message.
    #[must_use]
    pub fn is_one_shot(&self, gone_at: MonoNs) -> bool {
        gone_at < self.is_agent_from()
    }
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
