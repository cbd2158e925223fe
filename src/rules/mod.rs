//! The rules: when is a process alive, when is it silent, and what is checked before a stall is reported.
//!
//! Pure functions over instants that the caller read; nothing here reads a clock or does I/O.
//!
//! 1. A frame that the kernel attests proves that its sender is alive, whatever its nonce. ([`next_beat`])
//! 2. A silence is judged against the watermark: the instant up to which everything that arrived has
//!    been processed. A beat that is still in the shard's queue is not missing. ([`judge`])
//! 3. While the shard was blind the agent may have beaten. It gets a whole threshold of sight before it is
//!    reported as stalled. Blindness cannot suppress a stall for ever: after three thresholds in which the
//!    shard was awake the stall is reported as uncertain. ([`judge`])
//!    The same holds for an agent one of whose frames was refused during its silence by a limit of ours: its
//!    user may not beat here, or spent its budget or its share, or the table is full.
//!    ([`Sight::but_turned_away`])
//! 4. A nonce shows which beats were lost before the shard, never whether an agent is alive. ([`next_beat`])
//! 5. A stall whose lost beats, evenly spread, would have left no silence is counted as refuted: it was an
//!    error of the observer. ([`is_refuted`])
//! 6. An agent that is alive on one shard is alive. ([`outlives`])
//! 7. A stall is reported once every thread and shard that may hold evidence against it has answered, or its
//!    time to answer has passed. ([`verdict`](mod@verdict))
//! 8. Which threshold holds depends on the phase that the agent is in: while it starts, or by its payload, a silence may
//!    be longer. ([`phase`])
//! 9. An agent that beats may be at a standstill, if a rule says how it shows what it does. ([`progress`])

use crate::refusal::Refusal;
use crate::table::key::AgentKey;
use crate::table::slot::{Account, Cold, Flags, Hot, State};
use crate::time::MonoNs;
use crate::wire::{DecodeError, Frame, NONCE_MAX, Status, Version};

mod death;
pub mod phase;
pub mod progress;
pub mod usual;
mod verdict;

pub use death::Death;
pub use verdict::{
    Case, Ended, Evidence, Existence, Silence, Step, Verdict, Witness, is_sighted, next_step, preliminary,
    preliminary_of_ended, verdict, verdict_of_ended,
};

/// The first nonce of every stream.
const NONCE_FIRST: u64 = 1;
/// A nonce further ahead than this does not continue its stream.
const STREAM_REACH: u64 = 1 << 16;
/// Awake thresholds after which a stall is reported however blind the shard was.
const AWAKE_THRESHOLDS: u64 = 3;
/// Changes back to 0.1 within one incarnation after which both versions are accepted.
const DOWNGRADES_MAX: u32 = 2;

/// What the kernel and the shard know of one datagram, beside its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Attested process id.
    pub pid: u32,
    /// Attested user id.
    pub uid: u32,
    /// When the kernel queued the datagram: the latest instant that can be true.
    pub arrival: MonoNs,
    /// Total time for which the shard had been paused before that, ns.
    pub paused_before: u64,
}

impl Sender {
    /// The key under which the agent is tracked.
    #[inline]
    pub const fn key(&self) -> AgentKey {
        AgentKey::of_pid(self.pid)
    }
}

/// The result of a frame of a known agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// A beat; nothing to report.
    Life,
    /// A beat, and a change that must be reported.
    Changed,
    /// No beat. Nothing of it is kept, except that a 0.1 frame came in a 0.2 session.
    Refused(Refusal),
}

/// Refuses in 0.1 frames, too, what the decoder refuses only in 0.2 frames. Exempt is the pid: the kernel
/// attests the sender, and 0.1 never forbade pid 1 to beat.
///
/// # Errors
/// The check that 0.2 would have failed.
#[inline]
pub fn forbid_in_v01(frame: &Frame) -> Result<(), DecodeError> {
    if frame.version == Version::V02 {
        return Ok(());
    }
    if frame.status == Status::Stall {
        return Err(DecodeError::StallOnWire);
    }
    if frame.timestamp == u64::MAX {
        return Err(DecodeError::BadTimestamp(frame.timestamp));
    }
    if frame.is_terminal() && frame.status != Status::Critical {
        return Err(DecodeError::BadNonce { nonce: frame.nonce, status: frame.status });
    }
    Ok(())
}

/// How far `nonce` is ahead of `last` in one stream; `None` if it does not continue it.
///
/// A stream counts 1, 2, 3…; gaps up to 2^16 continue it. At the last nonce 0.2 wraps to 0 and 0.1 repeats
/// it.
#[inline]
#[must_use]
pub fn follows(last: u64, nonce: u64, version: Version) -> Option<u64> {
    let ahead = if nonce > last {
        nonce - last
    } else {
        match version {
            // The nonces are 0..=NONCE_MAX, so the cycle is NONCE_MAX + 1 long. A table of another process may
            // hold a greater one: nothing continues it.
            Version::V02 => NONCE_MAX.checked_sub(last)?.saturating_add(1).saturating_add(nonce),
            Version::V01 if last == NONCE_MAX && nonce == NONCE_MAX => 1,
            Version::V01 => return None,
        }
    };
    (1..=STREAM_REACH).contains(&ahead).then_some(ahead)
}

/// The slot of a new agent: its first frame opens a session, whatever its nonce.
///
/// A terminal frame alone sets no deadline: the slot then waits for an ordinary beat.
#[must_use]
pub fn first_beat(frame: &Frame, sender: &Sender, generation: u32, class: u8) -> (Hot, Cold) {
    let mut flags = Flags::default();
    flags.set(Flags::V02, frame.version == Version::V02);
    let mut hot = Hot {
        frame_pid: sender.pid,
        pid: sender.pid,
        status: frame.status,
        state: State::Up,
        flags,
        class,
        last_arrival: sender.arrival,
        paused_before: sender.paused_before,
        nonces: [frame.nonce, 0],
        payload: frame.payload,
        account: Account::new(sender.uid, 1),
    };
    let mut cold = Cold { generation, first_arrival: sender.arrival, ..Cold::default() };
    cold.is_honest = frame.pid == sender.pid;
    cold.awaits_ok = frame.status != Status::Ok;
    claim(&mut hot, &mut cold, frame, sender);
    if frame.is_terminal() {
        hot.state = State::Waiting;
        hot.nonces[0] = 0;
        note_terminal(&mut cold, frame, sender);
    }
    (hot, cold)
}

/// Whether the frame is the ordinary next beat of the agent, which changes only the hot half.
#[inline]
#[must_use]
pub fn is_ordinary(hot: &Hot, frame: &Frame, sender: &Sender) -> bool {
    let expected = match frame.version {
        Version::V01 => 0,
        Version::V02 => Flags::V02,
    };
    let flags = hot.flags.0 & !(Flags::SECOND_CURRENT | Flags::OTHER_USED);
    frame.nonce == hot.nonce().wrapping_add(1)
        && frame.nonce <= NONCE_MAX
        && frame.pid == hot.frame_pid
        && hot.account.is_ordinary_for(sender.uid)
        && frame.status == hot.status
        && hot.state == State::Up
        && flags == expected
}

/// Applies the ordinary next beat to the hot half. Every beat costs this.
#[inline]
pub fn ordinary_beat(hot: &mut Hot, frame: &Frame, sender: &Sender) {
    let current = hot.current();
    hot.nonces[current] = frame.nonce;
    live(hot, frame, sender);
    hot.account = hot.account.next();
}

/// Applies any other frame of a known agent, or returns the reason for its refusal.
pub fn next_beat(hot: &mut Hot, cold: &mut Cold, frame: &Frame, sender: &Sender, threshold_ns: u64) -> Beat {
    let is_claim = frame.pid != hot.frame_pid && frame.pid != hot.pid;
    if is_claim && hot.flags.has(Flags::FORGER) {
        return Beat::Refused(Refusal::Forged);
    }
    let mut changed = match version_rule(hot, cold, frame, sender) {
        VersionRule::Same => false,
        VersionRule::Changed => true,
        VersionRule::Refused => return Beat::Refused(Refusal::Downgrade),
    };
    cold.awaits_ok = phase::awaits_ok_after(hot, cold, frame.status);
    if sender.uid != hot.uid() {
        hot.account = Account::new(sender.uid, hot.beats());
        cold.users = cold.users.wrapping_add(1);
        cold.changed_at = sender.arrival;
        changed = true;
    }
    if is_claim {
        changed |= claim(hot, cold, frame, sender);
    } else if frame.pid == hot.pid && !cold.is_honest {
        // A forger's first honest frame: from now on it is an agent, too.
        cold.is_honest = true;
        changed |= hot.flags.has(Flags::FORGER);
    }
    if frame.is_terminal() {
        note_terminal(cold, frame, sender);
        end_silence(hot, cold, sender, 0);
        let payload = hot.payload;
        live_on(hot, cold, frame, sender);
        // A terminal frame's payload is kept apart from the payload of beats.
        hot.payload = payload;
        hot.status = frame.status;
        return Beat::Changed;
    }
    if hot.state == State::Waiting {
        hot.state = State::Up;
        hot.status = frame.status;
        hot.nonces[hot.current()] = frame.nonce;
        live_on(hot, cold, frame, sender);
        return Beat::Changed;
    }
    let before = cold.streams;
    let was_mixed = hot.flags.has(Flags::MIXED);
    let ahead = place(hot, cold, frame, sender, threshold_ns);
    changed |= cold.streams != before || hot.flags.has(Flags::MIXED) != was_mixed;
    changed |= end_silence(hot, cold, sender, ahead.saturating_sub(1));
    if frame.status != hot.status {
        hot.status = frame.status;
        cold.statuses = cold.statuses.wrapping_add(1);
        cold.changed_at = sender.arrival;
        changed = true;
    }
    live_on(hot, cold, frame, sender);
    if changed { Beat::Changed } else { Beat::Life }
}

#[inline]
fn live(hot: &mut Hot, frame: &Frame, sender: &Sender) {
    hot.last_arrival = sender.arrival;
    hot.paused_before = sender.paused_before;
    hot.payload = frame.payload;
}

/// As [`live`], where the count of beats may wrap.
fn live_on(hot: &mut Hot, cold: &mut Cold, frame: &Frame, sender: &Sender) {
    live(hot, frame, sender);
    let (beats, goes_round) = hot.beats().overflowing_add(1);
    hot.account = Account::new(hot.uid(), beats);
    cold.beats_rounds = cold.beats_rounds.wrapping_add(goes_round.into());
}

/// Records that frames claim a pid other than the sender's, until the lookup thread has checked it.
fn claim(hot: &mut Hot, cold: &mut Cold, frame: &Frame, sender: &Sender) -> bool {
    if frame.pid == hot.frame_pid || hot.flags.has(Flags::UNVERIFIED) {
        return false;
    }
    hot.flags.set(Flags::UNVERIFIED, true);
    cold.claimed_pid = frame.pid;
    if sender.arrival > cold.first_arrival {
        cold.claimed_at = sender.arrival;
    }
    true
}

fn note_terminal(cold: &mut Cold, frame: &Frame, sender: &Sender) {
    if cold.terminals == 0 {
        cold.terminal_first = frame.payload;
    }
    cold.terminals = cold.terminals.wrapping_add(1);
    cold.terminal_at = sender.arrival;
    cold.terminal_before = cold.terminal_payload;
    cold.terminal_payload = frame.payload;
}

/// Ends a stalled silence. True if there was one.
fn end_silence(hot: &mut Hot, cold: &mut Cold, sender: &Sender, lost: u64) -> bool {
    if hot.state != State::Stalled {
        return false;
    }
    hot.state = State::Up;
    cold.resumes = cold.resumes.wrapping_add(1);
    cold.resume_at = sender.arrival;
    cold.resume_silent_ns = sender.arrival.since(hot.last_arrival);
    cold.resume_lost = lost;
    true
}

enum VersionRule {
    Same,
    Changed,
    Refused,
}

/// A frame of 0.2 has a checksum and is always accepted. A frame of 0.1 in a 0.2 session may be the result of
/// two flipped bits: the first is refused, a second in a row with a rising nonce is accepted.
fn version_rule(hot: &mut Hot, cold: &mut Cold, frame: &Frame, sender: &Sender) -> VersionRule {
    let is_v02_session = hot.flags.has(Flags::V02);
    // Not `Flags::MIXED`: three streams are no reason to accept two flipped bits.
    let speaks_both = cold.downgrades >= DOWNGRADES_MAX;
    match frame.version {
        Version::V02 => {
            hot.flags.set(Flags::DOWNGRADE, false);
            if is_v02_session {
                return VersionRule::Same;
            }
            hot.flags.set(Flags::V02, true);
            if speaks_both {
                return VersionRule::Same;
            }
        }
        Version::V01 => {
            if !is_v02_session {
                return VersionRule::Same;
            }
            if speaks_both {
                hot.flags.set(Flags::V02, false);
                return VersionRule::Same;
            }
            let is_second = hot.flags.has(Flags::DOWNGRADE) && frame.nonce > cold.downgrade_nonce;
            if !is_second || frame.is_terminal() {
                if !frame.is_terminal() {
                    hot.flags.set(Flags::DOWNGRADE, true);
                    cold.downgrade_nonce = frame.nonce;
                }
                return VersionRule::Refused;
            }
            hot.flags.set(Flags::DOWNGRADE | Flags::V02, false);
            cold.downgrades = cold.downgrades.saturating_add(1);
            if cold.downgrades >= DOWNGRADES_MAX {
                hot.flags.set(Flags::MIXED, true);
                cold.changed_at = sender.arrival;
                return VersionRule::Changed;
            }
        }
    }
    // Another version is another connection: its nonces continue no earlier stream.
    cold.versions = cold.versions.wrapping_add(1);
    cold.changed_at = sender.arrival;
    hot.flags.set(Flags::OTHER_USED | Flags::JUMP, false);
    hot.nonces[hot.current()] = if frame.is_terminal() { 0 } else { frame.nonce };
    VersionRule::Changed
}

/// Finds the stream the frame continues, or opens a new one. Returns how far it was ahead: 1 is the
/// next beat, k means that k - 1 were lost before the shard, 0 that the loss is unknown.
///
/// Two streams are kept (two connection handles in one process are ordinary). A jump counts as loss
/// only if the next frame follows it: a frame that continues from before it shows that the jump was the
/// start of another handle's stream.
fn place(hot: &mut Hot, cold: &mut Cold, frame: &Frame, sender: &Sender, threshold_ns: u64) -> u64 {
    let current = hot.current();
    let other = 1 - current;
    if hot.flags.has(Flags::MIXED) {
        if frame.nonce == NONCE_FIRST {
            // One more handle, or another program: the aggregator looks up which when the count changes.
            cold.streams = cold.streams.wrapping_add(1);
            cold.changed_at = sender.arrival;
        }
        hot.nonces[current] = frame.nonce;
        return 0;
    }
    let ahead_of = |last: u64| follows(last, frame.nonce, frame.version);
    let is_jump_pending = hot.flags.has(Flags::JUMP);
    let by_current = ahead_of(hot.nonces[current]);
    let by_other = hot.flags.has(Flags::OTHER_USED).then(|| ahead_of(hot.nonces[other])).flatten();
    let by_before_jump = is_jump_pending.then(|| ahead_of(cold.jump_from)).flatten();
    let distance = |ahead: Option<u64>| ahead.unwrap_or(u64::MAX);
    let closest = distance(by_current).min(distance(by_other)).min(distance(by_before_jump));

    if closest == u64::MAX {
        let is_repeat = frame.nonce == hot.nonces[current]
            || hot.flags.has(Flags::OTHER_USED) && frame.nonce == hot.nonces[other];
        if !is_repeat {
            cold.streams = cold.streams.wrapping_add(1);
            cold.changed_at = sender.arrival;
            open_stream(hot, cold, frame.nonce, sender, threshold_ns);
        }
        return 0;
    }
    if by_current == Some(closest) {
        if is_jump_pending {
            cold.beats_lost = cold.beats_lost.saturating_add(cold.jump_lost);
        }
        advance(hot, cold, current, frame.nonce, closest);
    } else if by_other == Some(closest) {
        cold.other_seen = hot.last_arrival;
        hot.flags.set(Flags::SECOND_CURRENT, other == 1);
        advance(hot, cold, other, frame.nonce, closest);
    } else {
        // The frame continues from before the jump: the frame that jumped belongs to another stream.
        let jumped = hot.nonces[current];
        hot.nonces[current] = cold.jump_from;
        hot.flags.set(Flags::JUMP, false);
        if hot.flags.has(Flags::OTHER_USED) && follows(hot.nonces[other], jumped, frame.version).is_some() {
            hot.nonces[other] = jumped;
            cold.other_seen = hot.last_arrival;
        } else {
            cold.streams = cold.streams.wrapping_add(1);
            cold.changed_at = sender.arrival;
            open_stream(hot, cold, jumped, sender, threshold_ns);
            // The frame at hand belongs to the stream that just became the other one.
            hot.flags.set(Flags::SECOND_CURRENT, current == 1);
        }
        advance(hot, cold, current, frame.nonce, closest);
    }
    closest
}

/// Moves a stream to `nonce`. A gap counts as loss only once the next frame confirms it.
fn advance(hot: &mut Hot, cold: &mut Cold, stream: usize, nonce: u64, ahead: u64) {
    hot.flags.set(Flags::JUMP, ahead > 1);
    if ahead > 1 {
        cold.jump_from = hot.nonces[stream];
        cold.jump_lost = ahead - 1;
    }
    hot.nonces[stream] = nonce;
}

/// Replaces the stream that was silent longer, which is never the current one. If it has beaten within
/// the threshold there are three streams at once: from then on loss is not counted.
fn open_stream(hot: &mut Hot, cold: &mut Cold, nonce: u64, sender: &Sender, threshold_ns: u64) {
    let other = 1 - hot.current();
    let is_recent = |seen: MonoNs| sender.arrival.since(seen) < threshold_ns;
    if hot.flags.has(Flags::OTHER_USED) && is_recent(cold.other_seen) && is_recent(hot.last_arrival) {
        hot.flags.set(Flags::MIXED, true);
    }
    cold.other_seen = hot.last_arrival;
    hot.nonces[other] = nonce;
    hot.flags.set(Flags::SECOND_CURRENT, other == 1);
    hot.flags.set(Flags::OTHER_USED, true);
    hot.flags.set(Flags::JUMP, false);
}

/// What a shard knows of its own sight at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Everything that arrived until here has been processed.
    pub watermark: MonoNs,
    /// Total time for which the shard had been paused before the watermark, ns.
    pub paused_before: u64,
    /// End of the last blind window that began before the watermark, which may be later than that; the origin
    /// of time if there was none.
    pub last_blind_end: MonoNs,
}

impl Sight {
    /// The sight of an agent one of whose frames was refused during its silence by a limit of ours. The frame
    /// does not count as a beat, but it may have been one: the shard was blind to this agent, however well it
    /// saw others.
    #[must_use]
    pub const fn but_turned_away(&self) -> Self {
        Self { last_blind_end: MonoNs(u64::MAX), ..*self }
    }
}

/// The judgement of a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// No stall before this instant; judge again then.
    NotBefore(MonoNs),
    /// The agent is stalled. `is_certain` is false if the shard never had a whole threshold of sight.
    Stalled {
        /// Whether the shard saw for a whole threshold and no beat came.
        is_certain: bool,
    },
}

/// Judges the silence of an agent whose last beat arrived at `last_arrival`, when the shard had been
/// paused for a total of `paused_before` ns.
#[inline]
#[must_use]
pub fn judge(last_arrival: MonoNs, paused_before: u64, threshold_ns: u64, sight: &Sight) -> Judgement {
    let deadline = last_arrival + threshold_ns;
    if sight.watermark < deadline {
        return Judgement::NotBefore(deadline);
    }
    if sight.last_blind_end <= last_arrival {
        return Judgement::Stalled { is_certain: true };
    }
    let excused_until = sight.last_blind_end + threshold_ns;
    if sight.watermark >= excused_until {
        return Judgement::Stalled { is_certain: true };
    }
    let paused = sight.paused_before.saturating_sub(paused_before);
    let awake = sight.watermark.since(last_arrival).saturating_sub(paused);
    let awake_max = longest_doubt(threshold_ns);
    if awake >= awake_max {
        return Judgement::Stalled { is_certain: false };
    }
    let switched_off_until = sight.watermark + (awake_max - awake);
    Judgement::NotBefore(excused_until.min(switched_off_until))
}

/// The awake time, ns, after which a silence is a stall however blind the shard was.
#[must_use]
pub const fn longest_doubt(threshold_ns: u64) -> u64 {
    threshold_ns.saturating_mul(AWAKE_THRESHOLDS)
}

/// Whether the beats lost during a stalled silence, evenly spread, would have left no silence of a
/// whole threshold: then the agent did not stall.
#[must_use]
pub const fn is_refuted(silent_ns: u64, lost: u64, threshold_ns: u64) -> bool {
    silent_ns / lost.saturating_add(1) < threshold_ns
}

/// Whether the first of two slots of an agent got its latest beat. With equal arrivals the lower shard wins,
/// so that exactly one does.
#[must_use]
pub fn outlives(one: (MonoNs, u16), other: (MonoNs, u16)) -> bool {
    (one.0, std::cmp::Reverse(one.1)) > (other.0, std::cmp::Reverse(other.1))
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
