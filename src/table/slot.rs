//! The record of one agent and its layout in shared memory: plain words, no pointers.
//!
//! The hot half is one cache line and all that an ordinary beat touches. The cold half changes with the
//! agent's state: sessions, stalls, losses. Its rare words stay untouched, and take no memory, until
//! something of their kind happens. Events are stored as counters: a reader keeps the values it has reported
//! and reports the difference, so a late read loses nothing.

use super::key::AgentKey;
use crate::config::bounds::PID_MAX;
use crate::time::MonoNs;
use crate::wire::Status;

/// Words of a hot half: 64 bytes, one cache line.
pub const HOT_WORDS: usize = 8;
/// Words of a cold half that every agent uses: 64 bytes.
pub const COLD_WORDS: usize = 8;
/// Further words of a cold half that few agents use, for stalls, jumps, terminal frames and late claims: 128
/// bytes.
pub const RARE_WORDS: usize = 16;
/// Words of what is known of single agents, 64 bytes: the session of a daemon.
///
/// They count only while [`Cold::has_extra`] is set, so neither a new nor a released slot has to touch them. Their
/// memory is not granted with that of the other words.
pub const EXTRA_WORDS: usize = 8;

/// Whether a slot holds an agent, and the last verdict on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Free.
    #[default]
    Free = 0,
    /// The agent beats.
    Up = 1,
    /// A silence reached its threshold and no beat has ended it.
    Stalled = 2,
    /// Only terminal frames so far: they set no deadline, the first ordinary beat will.
    Waiting = 3,
}

/// Further properties of an agent; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// The current stream is the second of the two remembered.
    pub const SECOND_CURRENT: u8 = 1;
    /// The stream that is not current has been in use.
    pub const OTHER_USED: u8 = 1 << 1;
    /// The session speaks wire version 0.2.
    pub const V02: u8 = 1 << 2;
    /// One frame of version 0.1 arrived in a 0.2 session and was refused; the next one decides.
    pub const DOWNGRADE: u8 = 1 << 3;
    /// Streams or versions alternate: frames count as beats, loss is not counted.
    pub const MIXED: u8 = 1 << 4;
    /// Frames claim another pid than their sender's; not checked yet.
    pub const UNVERIFIED: u8 = 1 << 5;
    /// Frames that claim another pid are forged: checked and refused.
    pub const FORGER: u8 = 1 << 6;
    /// The current stream jumped ahead, by loss or because another stream began. The next frame decides.
    pub const JUMP: u8 = 1 << 7;

    /// Whether every bit of `flags` is set.
    #[inline]
    #[must_use]
    pub const fn has(self, flags: u8) -> bool {
        self.0 & flags == flags
    }

    /// Sets or clears the bits of `flags`.
    #[inline]
    pub const fn set(&mut self, flags: u8, on: bool) {
        if on { self.0 |= flags } else { self.0 &= !flags }
    }
}

/// The half of a slot that every beat reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hot {
    /// The pid the agent's frames carry: its own, or the one inside its pid namespace.
    pub frame_pid: u32,
    /// Attested process id; 0 in a free slot.
    pub pid: u32,
    /// Status of the last accepted frame.
    pub status: Status,
    /// The last verdict.
    pub state: State,
    /// Further properties.
    pub flags: Flags,
    /// The threshold that applies: an index into the fleet's classes.
    pub class: u8,
    /// Arrival of the last beat.
    pub last_arrival: MonoNs,
    /// Total pause time of the shard before that arrival, ns.
    pub paused_before: u64,
    /// Last nonce of each of the two remembered streams.
    pub nonces: [u64; 2],
    /// Payload of the last beat.
    pub payload: u64,
    /// The user and the number of the beats.
    pub account: Account,
}

impl Hot {
    /// The key of the slot's agent.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> AgentKey {
        AgentKey::of_pid(self.pid)
    }
}

/// The user id attested with the last beat, and the beats accepted since the slot's generation began, modulo
/// 2^32 (see [`Cold::beats`]). One word, so that one comparison recognises an ordinary beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account(u64);

impl Account {
    /// `beats` beats, the last of them from `uid`.
    #[inline]
    #[must_use]
    pub const fn new(uid: u32, beats: u32) -> Self {
        Self(pair(uid, beats))
    }

    /// Whether one more beat of this user only increments the count: the user is the same, and the count does
    /// not wrap.
    #[inline]
    #[must_use]
    pub const fn is_ordinary_for(self, uid: u32) -> bool {
        self.0 ^ pair(uid, 0) < u32::MAX as u64
    }

    /// Adds one beat. Not for a count that wraps.
    #[inline]
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// The half of a slot that changes with the agent's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cold {
    /// Changes whenever the slot gets another holder or becomes free; wraps.
    pub generation: u32,
    /// Changes of the attested user.
    pub users: u16,
    /// How often the count of beats in the hot half has wrapped.
    pub beats_rounds: u16,
    /// Arrival of the first beat.
    pub first_arrival: MonoNs,
    /// Last arrival on the stream that is not current.
    pub other_seen: MonoNs,
    /// Nonce before the last jump of the current stream, as long as that jump may be another stream.
    pub jump_from: u64,
    /// Beats lost if the jump is a loss.
    pub jump_lost: u64,
    /// Beats lost before they reached the shard, from gaps in the nonce: a lower bound.
    pub beats_lost: u64,
    /// Stalls judged.
    pub stalls: u32,
    /// Silences that ended after a stall.
    pub resumes: u32,
    /// Streams begun after the first.
    pub streams: u32,
    /// Changes of status.
    pub statuses: u32,
    /// Terminal frames.
    pub terminals: u32,
    /// Sessions begun by a change of the wire version.
    pub versions: u32,
    /// Length of the last stalled silence when it was judged, ns.
    pub stall_silent_ns: u64,
    /// The watermark by which the last stall was judged.
    pub stall_at: MonoNs,
    /// How long the shard was blind during that silence, ns.
    pub stall_blind_ns: u64,
    /// Whether the last stall was judged without a whole threshold of sight.
    pub is_stall_uncertain: bool,
    /// Arrival of the beat that ended the last stalled silence.
    pub resume_at: MonoNs,
    /// Length of that silence, ns.
    pub resume_silent_ns: u64,
    /// Beats lost in it.
    pub resume_lost: u64,
    /// Nonce of the refused 0.1 frame in a 0.2 session.
    pub downgrade_nonce: u64,
    /// Last nonce before the last stalled silence.
    pub stall_nonce: u64,
    /// Arrival of the last terminal frame.
    pub terminal_at: MonoNs,
    /// Its payload.
    pub terminal_payload: u64,
    /// The payload of the one before it.
    pub terminal_before: u64,
    /// The payload of the first terminal frame: most likely the cause of the others.
    pub terminal_first: u64,
    /// The pid that the first unchecked claiming frame has instead of the sender's.
    pub claimed_pid: u32,
    /// Arrival of the first frame that claimed it; 0: it was the agent's first frame.
    pub claimed_at: MonoNs,
    /// A frame arrived that claimed no other pid than its sender's (not updated after that).
    pub is_honest: bool,
    /// Downgrades to wire version 0.1.
    pub downgrades: u32,
    /// Arrival of the frame that last changed status, stream or version.
    pub changed_at: MonoNs,
    /// No frame with the status `ok` is known since it began.
    pub awaits_ok: bool,
    /// The beats, modulo 2^24, after which another program began under its pid; 0: none did, or long ago.
    pub begun: u32,
    /// Which threshold the last stall was judged by: see [`By`](crate::rules::phase::By).
    pub stall_by: u8,
    /// The extra words belong to this holder.
    pub has_extra: bool,
}

impl Hot {
    /// Index of the current stream.
    #[inline]
    #[must_use]
    pub const fn current(&self) -> usize {
        self.flags.has(Flags::SECOND_CURRENT) as usize
    }

    /// Last nonce of the current stream.
    #[inline]
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.nonces[self.current()]
    }

    /// User id attested with the last beat.
    #[inline]
    #[must_use]
    pub const fn uid(&self) -> u32 {
        unpair(self.account.0).0
    }

    /// Beats accepted, modulo 2^32: see [`Cold::beats`].
    #[inline]
    #[must_use]
    pub const fn beats(&self) -> u32 {
        unpair(self.account.0).1
    }

    /// The words after the first, in storage order.
    #[inline]
    pub(super) const fn to_words(self) -> [u64; HOT_WORDS - 1] {
        let identity = (self.pid as u64) << 32
            | (self.class as u64) << 24
            | (self.flags.0 as u64) << 16
            | (self.state as u64) << 8
            | self.status as u64;
        [
            identity,
            self.last_arrival.0,
            self.paused_before,
            self.nonces[0],
            self.nonces[1],
            self.payload,
            self.account.0,
        ]
    }

    /// Whether some hot half has this second word: [`Hot::from_words`] finds an agent or a free slot in any.
    pub(super) const fn is_possible(identity: u64) -> bool {
        let [status, state, ..] = identity.to_le_bytes();
        let pid = identity >> 32;
        match state {
            // A free slot is empty.
            0 => identity == 0,
            // No frame has the last status.
            1..=3 => status < Status::Stall as u8 && pid > 0 && pid <= PID_MAX as u64,
            _ => false,
        }
    }

    #[inline]
    pub(super) const fn from_words(frame_pid: u32, words: [u64; HOT_WORDS - 1]) -> Self {
        let [identity, last_arrival, paused_before, first, second, payload, account] = words;
        let [status, state, flags, class, ..] = identity.to_le_bytes();
        Self {
            frame_pid,
            pid: (identity >> 32) as u32,
            // A torn read is discarded by the sequence, so the substitute does not matter.
            status: match Status::from_byte(status) {
                Some(status) => status,
                None => Status::Ok,
            },
            state: match state {
                1 => State::Up,
                2 => State::Stalled,
                3 => State::Waiting,
                _ => State::Free,
            },
            flags: Flags(flags),
            class,
            last_arrival: MonoNs(last_arrival),
            paused_before,
            nonces: [first, second],
            payload,
            account: Account(account),
        }
    }
}

#[inline]
const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
const fn unpair(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// The top bit of the downgrades, which need only two bits.
const HONEST: u32 = 1 << 31;
/// The next bit: some rare word is not 0, so they are stored.
const RARE: u32 = 1 << 30;
/// The next bit: the extra words belong to this holder.
const EXTRA: u32 = 1 << 29;
/// The next bit: no status `ok` so far.
const AWAITS_OK: u32 = 1 << 28;
/// Two bits for the downgrades, then the beats after which another program began.
const DOWNGRADES: u32 = 0b11;
const BEGUN_SHIFT: u32 = 2;
const BEGUN: u32 = BEATS_BEGUN - 1;
/// The beats after which a program began are known modulo this.
pub const BEATS_BEGUN: u32 = 1 << 24;
/// The top bit of the blind time stores the uncertainty, the next six which threshold held: 2^57 ns are four years.
const UNCERTAIN: u64 = 1 << 63;
const BY_SHIFT: u32 = 57;
const BY: u64 = 0x3f;
const BLIND: u64 = (1 << BY_SHIFT) - 1;

/// The generation in the first word of a cold half.
pub(super) const fn generation_of(first: u64) -> u32 {
    unpair(first).0
}

/// The arrival of the first beat in a cold half with these words.
pub(super) const fn first_arrival_of(words: &[u64; COLD_WORDS]) -> MonoNs {
    MonoNs(words[1])
}

/// Whether extra words belong to a cold half with these words.
pub(super) const fn has_extra(words: &[u64; COLD_WORDS]) -> bool {
    unpair(words[COLD_WORDS - 1]).1 & EXTRA != 0
}

/// Whether rare words belong to a cold half with these words.
pub(super) const fn has_rare(words: &[u64; COLD_WORDS]) -> bool {
    unpair(words[COLD_WORDS - 1]).1 & RARE != 0
}

impl Cold {
    /// All beats that the two halves count.
    #[must_use]
    pub const fn beats(&self, hot: &Hot) -> u64 {
        pair(self.beats_rounds as u32, hot.beats())
    }

    /// The words every agent has, and the rare ones, to be stored if [`has_rare`].
    #[inline]
    pub(super) fn to_words(self) -> ([u64; COLD_WORDS], [u64; RARE_WORDS]) {
        let uncertain = if self.is_stall_uncertain { UNCERTAIN } else { 0 };
        let rare = [
            self.other_seen.0,
            self.jump_from,
            self.jump_lost,
            self.stall_silent_ns,
            self.stall_at.0,
            self.stall_blind_ns & BLIND | (self.stall_by as u64 & BY) << BY_SHIFT | uncertain,
            self.resume_at.0,
            self.resume_silent_ns,
            self.resume_lost,
            self.downgrade_nonce,
            self.stall_nonce,
            self.terminal_at.0,
            self.terminal_payload,
            self.terminal_before,
            self.terminal_first,
            self.claimed_at.0,
        ];
        let honest = if self.is_honest { HONEST } else { 0 };
        let awaits_ok = if self.awaits_ok { AWAITS_OK } else { 0 };
        let begun = (self.begun & BEGUN) << BEGUN_SHIFT | self.downgrades & DOWNGRADES;
        let extra = if self.has_extra { EXTRA } else { 0 };
        let is_rare = if rare.iter().fold(0, |all, word| all | word) == 0 { 0 } else { RARE };
        let words = [
            pair(self.generation, u32::from(self.users) << 16 | u32::from(self.beats_rounds)),
            self.first_arrival.0,
            self.beats_lost,
            pair(self.stalls, self.resumes),
            pair(self.streams, self.statuses),
            pair(self.terminals, self.versions),
            self.changed_at.0,
            pair(self.claimed_pid, begun | awaits_ok | honest | is_rare | extra),
        ];
        (words, rare)
    }

    /// `rare` loads the rare words; called only if they are stored.
    #[inline]
    pub(super) fn from_words(words: [u64; COLD_WORDS], rare: impl FnOnce() -> [u64; RARE_WORDS]) -> Self {
        let (generation, rounds) = unpair(words[0]);
        let [round_low, round_high, user_low, user_high] = rounds.to_le_bytes();
        let (stalls, resumes) = unpair(words[3]);
        let (streams, statuses) = unpair(words[4]);
        let (terminals, versions) = unpair(words[5]);
        let (claimed_pid, downgrades) = unpair(words[7]);
        let rare = if has_rare(&words) { rare() } else { [0; RARE_WORDS] };
        let [stall_by, ..] = (rare[5] >> BY_SHIFT & BY).to_le_bytes();
        Self {
            generation,
            users: u16::from_le_bytes([user_low, user_high]),
            beats_rounds: u16::from_le_bytes([round_low, round_high]),
            first_arrival: MonoNs(words[1]),
            other_seen: MonoNs(rare[0]),
            jump_from: rare[1],
            jump_lost: rare[2],
            beats_lost: words[2],
            stalls,
            resumes,
            streams,
            statuses,
            terminals,
            versions,
            stall_silent_ns: rare[3],
            stall_at: MonoNs(rare[4]),
            stall_blind_ns: rare[5] & BLIND,
            stall_by,
            is_stall_uncertain: rare[5] & UNCERTAIN != 0,
            resume_at: MonoNs(rare[6]),
            resume_silent_ns: rare[7],
            resume_lost: rare[8],
            downgrade_nonce: rare[9],
            stall_nonce: rare[10],
            terminal_at: MonoNs(rare[11]),
            changed_at: MonoNs(words[6]),
            terminal_payload: rare[12],
            terminal_before: rare[13],
            terminal_first: rare[14],
            claimed_pid,
            claimed_at: MonoNs(rare[15]),
            is_honest: downgrades & HONEST != 0,
            downgrades: downgrades & DOWNGRADES,
            awaits_ok: downgrades & AWAITS_OK != 0,
            begun: downgrades >> BEGUN_SHIFT & BEGUN,
            has_extra: downgrades & EXTRA != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn low_half(number: u32) -> u16 {
        let [low, high, ..] = number.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    proptest! {
        #[test]
        fn both_halves_survive_their_words(
            numbers in prop::array::uniform8(any::<u64>()),
            small in prop::array::uniform8(any::<u32>()),
            status in 0u8..4, state in 0u8..4, flags: u8, class: u8, uncertain: bool,
        ) {
            let hot = Hot {
                frame_pid: small[0], pid: small[1],
                status: Status::from_byte(status).expect("below 4"),
                state: [State::Free, State::Up, State::Stalled, State::Waiting][usize::from(state)],
                flags: Flags(flags), class,
                last_arrival: MonoNs(numbers[0]), paused_before: numbers[1],
                nonces: [numbers[2], numbers[3]], payload: numbers[4], account: Account(numbers[6]),
            };
            prop_assert_eq!(Hot::from_words(small[0], hot.to_words()), hot);
            let cold = Cold {
                generation: small[0], users: low_half(small[1]), beats_rounds: low_half(small[2]),
                first_arrival: MonoNs(numbers[0]),
                other_seen: MonoNs(numbers[1]), jump_from: numbers[2], jump_lost: numbers[3],
                beats_lost: numbers[4], stalls: small[2], resumes: small[3], streams: small[4],
                statuses: small[5], terminals: small[6], versions: small[7],
                stall_silent_ns: numbers[5], stall_at: MonoNs(numbers[6]),
                stall_blind_ns: numbers[7] >> 7, is_stall_uncertain: uncertain,
                resume_at: MonoNs(numbers[1]), resume_silent_ns: numbers[2], resume_lost: numbers[3],
                downgrade_nonce: numbers[4], stall_nonce: numbers[5],
                terminal_at: MonoNs(numbers[6]), changed_at: MonoNs(numbers[7]),
                terminal_payload: numbers[0], terminal_before: numbers[1], terminal_first: numbers[2],
                claimed_at: MonoNs(numbers[3]), claimed_pid: small[0], downgrades: small[1] >> 30,
                is_honest: uncertain, awaits_ok: !uncertain, begun: small[2] >> 8, stall_by: class >> 2,
                has_extra: uncertain,
            };
            let (words, rare) = cold.to_words();
            prop_assert_eq!(has_rare(&words), rare != [0; RARE_WORDS]);
            prop_assert_eq!(Cold::from_words(words, || rare), cold);
        }

        #[test]
        fn what_every_agent_has_needs_no_rare_words(
            numbers in prop::array::uniform3(any::<u64>()),
            small in prop::array::uniform8(any::<u32>()), is_honest: bool,
        ) {
            let cold = Cold {
                generation: small[0], users: low_half(small[1]), first_arrival: MonoNs(numbers[0]),
                beats_lost: numbers[1], stalls: small[2], resumes: small[3], streams: small[4],
                statuses: small[5], terminals: small[6], versions: small[7],
                changed_at: MonoNs(numbers[2]), claimed_pid: small[0], downgrades: small[1] >> 30,
                is_honest, awaits_ok: !is_honest, begun: small[2] >> 8, ..Cold::default()
            };
            let (words, _) = cold.to_words();
            prop_assert!(!has_rare(&words));
            prop_assert_eq!(Cold::from_words(words, || unreachable!("not stored")), cold);
        }
    }
}
