//! An event in the words of the journal: plain numbers, whatever the compiler does with an enum.
//!
//! As in the JSON of an event, only the reason of a [`NoFrame`] is kept: its wrong bytes are zero when read. Of who an
//! agent is, user and name are kept: the labels of another process mean nothing to this one.

use crate::config::KeySet;
use crate::event::{
    About, ActionName, ActionPhase, ActionWhy, AdvanceWhy, Agent, BlindPhase, BlindWhy, BrakePhase,
    BrakeScope, Comm, DaemonPhase, Event, EventKind, ExitHow, FloodWhy, FrozenPhase, IoPlace, NoFrame,
    Origin, ProcessState, ReloadOutcome, RestartWhy, SessionWhy, ShareSpent, StallPhase,
};
use crate::time::{MonoNs, WallNs};
use crate::wire::{DecodeError, Status};

/// Words of an entry: 128 bytes.
pub const ENTRY_WORDS: usize = 16;
/// Words for the fields of a kind.
const FIELD_WORDS: usize = 6;

/// The first word: what the entry is, in its lowest byte.
const IS_EVENT: u64 = 1;
const KIND_SHIFT: u32 = 8;
const STATUS_SHIFT: u32 = 16;
const HAS_SHARD: u64 = 1 << 24;
const HAS_AGENT: u64 = 1 << 25;
const HAS_NS_PID: u64 = 1 << 26;
const IS_DAEMON: u64 = 1 << 27;
const SHARD_SHIFT: u32 = 32;

/// An absent number.
const NONE: u64 = u64::MAX;

/// Every variant of an enum, in the order of its codes. A code never changes its meaning: new variants are
/// appended.
const BLIND_WHYS: [BlindWhy; 3] = [BlindWhy::Paused, BlindWhy::Full, BlindWhy::Restart];
const FLOOD_WHYS: [FloodWhy; 2] = [FloodWhy::Full, FloodWhy::Budget];
const USED_CPU: [Option<bool>; 3] = [None, Some(false), Some(true)];
/// What a process does, whether it used CPU time and in which phase it is take a byte each of a word, in this order.
const CPU_SHIFT: u32 = 8;
const STALL_PHASE_SHIFT: u32 = 16;
const BYTE: u64 = 0xFF;
const FROZEN_PHASES: [FrozenPhase; 2] = [FrozenPhase::Begin, FrozenPhase::End];
const RELOAD_OUTCOMES: [ReloadOutcome; 2] = [ReloadOutcome::Applied, ReloadOutcome::Refused];
const RESTART_WHYS: [RestartWhy; 2] = [RestartWhy::Planned, RestartWhy::Crash];
const PLACES: [IoPlace; 6] = [
    IoPlace::Receive,
    IoPlace::Events,
    IoPlace::Shard,
    IoPlace::ShardStuck,
    IoPlace::Socket,
    IoPlace::Directory,
];
const NO_FRAMES: [NoFrame; 9] = [
    NoFrame::WrongSize,
    NoFrame::Undecodable(DecodeError::BadMagic([0; 2])),
    NoFrame::Undecodable(DecodeError::BadVersion(0)),
    NoFrame::Undecodable(DecodeError::BadCrc { computed: 0, received: 0 }),
    NoFrame::Undecodable(DecodeError::BadStatus(0)),
    NoFrame::Undecodable(DecodeError::StallOnWire),
    NoFrame::Undecodable(DecodeError::BadPid(0)),
    NoFrame::Undecodable(DecodeError::BadTimestamp(0)),
    NoFrame::Undecodable(DecodeError::BadNonce { nonce: 0, status: Status::Ok }),
];

fn code_of<T: PartialEq>(all: &[T], one: &T) -> u64 {
    all.iter().position(|each| each == one).map_or(NONE, |code| code as u64)
}

fn with_code<T: Copy>(all: &[T], code: u64) -> Option<T> {
    usize::try_from(code).ok().and_then(|code| all.get(code)).copied()
}

/// The words of an event that has a `seq`; `None` for beats and `lost` lines, which no journal keeps.
pub fn to_words(event: &Event) -> Option<[u64; ENTRY_WORDS]> {
    let (kind, fields) = fields_of(&event.kind)?;
    let mut first = IS_EVENT | kind << KIND_SHIFT;
    if let Some(shard) = event.shard {
        first |= HAS_SHARD | u64::from(shard) << SHARD_SHIFT;
    }
    let mut words = [0; ENTRY_WORDS];
    if let Some(agent) = event.agent {
        first |= HAS_AGENT | (agent.status as u64) << STATUS_SHIFT;
        first |= if agent.ns_pid.is_some() { HAS_NS_PID } else { 0 };
        first |= if agent.origin == Origin::Notify { IS_DAEMON } else { 0 };
        words[4] = pair(agent.pid, agent.ns_pid.unwrap_or(0));
        words[5] = pair(agent.about.uid.map_or(0, |uid| uid.wrapping_add(1)), agent.session);
        words[6] = agent.nonce;
        words[7] = agent.payload;
        [words[14], words[15]] = comm_to_words(agent.about.comm);
    }
    words[0] = first;
    (words[1], words[2], words[3]) = (event.seq, event.wall.0, event.mono.0);
    words[8..8 + FIELD_WORDS].copy_from_slice(&fields);
    Some(words)
}

/// The event in these words, if they are those of one.
pub fn from_words(words: &[u64; ENTRY_WORDS]) -> Option<Event> {
    let [first, seq, wall, mono, pids, session, nonce, payload, rest @ ..] = words;
    if first & 0xFF != IS_EVENT {
        return None;
    }
    let [_, kind, status, _, shard_low, shard_high, ..] = first.to_le_bytes();
    let shard = u16::from_le_bytes([shard_low, shard_high]);
    let fields = <&[u64; FIELD_WORDS]>::try_from(&rest[..FIELD_WORDS]).ok()?;
    let agent = if first & HAS_AGENT == 0 {
        None
    } else {
        let [pid, ns_pid] = unpair(*pids);
        let [user, session] = unpair(*session);
        Some(Agent {
            pid,
            ns_pid: (first & HAS_NS_PID != 0).then_some(ns_pid),
            session,
            nonce: *nonce,
            status: Status::from_byte(status)?,
            origin: if first & IS_DAEMON == 0 { Origin::Vlp } else { Origin::Notify },
            payload: *payload,
            about: About {
                uid: user.checked_sub(1),
                comm: comm_of_words([rest[6], rest[7]])?,
                ..About::default()
            },
        })
    };
    Some(Event {
        seq: *seq,
        again: false,
        wall: WallNs(*wall),
        mono: MonoNs(*mono),
        shard: (first & HAS_SHARD != 0).then_some(shard),
        agent,
        kind: kind_of(kind, fields)?,
    })
}

/// The code of a kind, and its fields.
fn fields_of(kind: &EventKind) -> Option<(u64, [u64; FIELD_WORDS])> {
    let none = |uid: Option<u32>| uid.map_or(NONE, u64::from);
    Some(match *kind {
        EventKind::Up => (0, [0; FIELD_WORDS]),
        EventKind::Stall {
            silent_ns,
            last_nonce,
            certain,
            blind_ns,
            process,
            used_cpu,
            phase,
            coalesced,
        } => {
            let process = process.map_or(0, |process| code_of(&ProcessState::ALL, &process) + 1);
            let phase = phase.map_or(0, |phase| code_of(&StallPhase::ALL, &phase) + 1);
            let activity = process | code_of(&USED_CPU, &used_cpu) << CPU_SHIFT | phase << STALL_PHASE_SHIFT;
            (1, [silent_ns, last_nonce, certain.into(), blind_ns, coalesced.into(), activity])
        }
        EventKind::Resume { silent_ns, lost, coalesced } => (2, [silent_ns, lost, coalesced.into(), 0, 0, 0]),
        EventKind::Frozen { phase } => (3, [code_of(&FROZEN_PHASES, &phase), 0, 0, 0, 0, 0]),
        EventKind::Exit { silent_ns, how, lived_ns, panicked, while_away } => {
            let [how, number] = words_of_how(how);
            (4, [silent_ns, how, number, while_away.into(), lived_ns, panicked.into()])
        }
        EventKind::Terminal { coalesced } => (5, [coalesced.into(), 0, 0, 0, 0, 0]),
        EventKind::Status { coalesced } => (6, [coalesced.into(), 0, 0, 0, 0, 0]),
        EventKind::Session { why, coalesced } => {
            (7, [code_of(&SessionWhy::ALL, &why), coalesced.into(), 0, 0, 0, 0])
        }
        EventKind::Mixed => (8, [0; FIELD_WORDS]),
        EventKind::Decode { attested, error } => {
            let code = NO_FRAMES.iter().position(|known| known.reason() == error.reason());
            (9, [attested.into(), code.map_or(NONE, |code| code as u64), 0, 0, 0, 0])
        }
        EventKind::Auth { claimed, attested, uid } => {
            (10, [claimed.into(), attested.into(), uid.into(), 0, 0, 0])
        }
        EventKind::Blind { phase, why } => {
            let (is_end, for_ns) = match phase {
                BlindPhase::Begin => (0, 0),
                BlindPhase::End { for_ns } => (1, for_ns),
            };
            (11, [is_end, for_ns, code_of(&BLIND_WHYS, &why), 0, 0, 0])
        }
        EventKind::Full { refused, share } => {
            let of_share = share.map_or(0, |share| share.refused);
            (12, [refused, none(share.map(|share| share.uid)), of_share, 0, 0, 0])
        }
        EventKind::Flood { why, uid, frames, refused, for_ns } => {
            (13, [code_of(&FLOOD_WHYS, &why), none(uid), frames, refused, for_ns, 0])
        }
        EventKind::Churn { uid, ups, exits, terminals, changes, for_ns } => {
            (14, [none(uid), ups.into(), exits.into(), terminals.into(), changes.into(), for_ns])
        }
        EventKind::Moved { from } => (15, [from.into(), 0, 0, 0, 0, 0]),
        EventKind::Io { place, errno } => {
            (16, [code_of(&PLACES, &place), u64::from(errno.cast_unsigned()), 0, 0, 0, 0])
        }
        EventKind::Start { shards } => (17, [shards.into(), 0, 0, 0, 0, 0]),
        EventKind::Restart { why, shards, adopted, gone, gap_ns } => {
            (18, [code_of(&RESTART_WHYS, &why), shards.into(), adopted.into(), gone.into(), gap_ns, 0])
        }
        EventKind::Stop => (19, [0; FIELD_WORDS]),
        EventKind::Reload { outcome, changed, restart } => {
            (20, [code_of(&RELOAD_OUTCOMES, &outcome), changed.to_bits(), restart.to_bits(), 0, 0, 0])
        }
        EventKind::Missing { pid, uid, comm } => {
            let mut bytes = [0; 16];
            bytes[..comm.as_str().len()].copy_from_slice(comm.as_str().as_bytes());
            let [low, high] =
                [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte])));
            (21, [pid.into(), uid.into(), comm.as_str().len() as u64, low, high, 0])
        }
        EventKind::Action { action, phase, why, attempt, child, how, errno, evidence } => {
            let [first, second, third] = action.to_words();
            let [how, number] = words_of_how(how);
            let why = why.map_or(0, |why| code_of(&ActionWhy::ALL, &why) + 1);
            let state = code_of(&ActionPhase::ALL, &phase) | why << 8 | how << 16 | number << 24;
            let numbers = pair(evidence, errno.cast_unsigned());
            (22, [first, second, third, state | u64::from(attempt) << 32, child.into(), numbers])
        }
        EventKind::Brake { phase, scope, uid, unit: _, stalls, agents, by_hand } => {
            let state = code_of(&BrakePhase::ALL, &phase) | code_of(&BrakeScope::ALL, &scope) << 8;
            (23, [state, none(uid), stalls.into(), agents.into(), by_hand.into(), 0])
        }
        EventKind::Standstill { still_ns, certain } => (24, [still_ns, certain.into(), 0, 0, 0, 0]),
        EventKind::Phase { phase } => (26, [code_of(&DaemonPhase::ALL, &phase), 0, 0, 0, 0, 0]),
        EventKind::Advance { still_ns, why } => (25, [still_ns, code_of(&AdvanceWhy::ALL, &why), 0, 0, 0, 0]),
        EventKind::Lost { .. } | EventKind::Beat => return None,
    })
}

fn kind_of(code: u8, fields: &[u64; FIELD_WORDS]) -> Option<EventKind> {
    let [a, b, c, d, e, f] = *fields;
    let uid = |word: u64| match word {
        NONE => Some(None),
        _ => u32::try_from(word).ok().map(Some),
    };
    Some(match code {
        0 => EventKind::Up,
        1 => EventKind::Stall {
            silent_ns: a,
            last_nonce: b,
            certain: c != 0,
            blind_ns: d,
            process: (f & BYTE).checked_sub(1).and_then(|code| with_code(&ProcessState::ALL, code)),
            used_cpu: with_code(&USED_CPU, f >> CPU_SHIFT & BYTE)?,
            phase: (f >> STALL_PHASE_SHIFT & BYTE)
                .checked_sub(1)
                .and_then(|code| with_code(&StallPhase::ALL, code)),
            coalesced: u32::try_from(e).ok()?,
        },
        2 => EventKind::Resume { silent_ns: a, lost: b, coalesced: u32::try_from(c).ok()? },
        3 => EventKind::Frozen { phase: with_code(&FROZEN_PHASES, a)? },
        4 => {
            let how = how_of_words([b, c])?;
            EventKind::Exit { silent_ns: a, how, lived_ns: e, panicked: f != 0, while_away: d != 0 }
        }
        5 => EventKind::Terminal { coalesced: u32::try_from(a).ok()? },
        6 => EventKind::Status { coalesced: u32::try_from(a).ok()? },
        7 => EventKind::Session { why: with_code(&SessionWhy::ALL, a)?, coalesced: u32::try_from(b).ok()? },
        8 => EventKind::Mixed,
        9 => EventKind::Decode { attested: u32::try_from(a).ok()?, error: with_code(&NO_FRAMES, b)? },
        10 => EventKind::Auth {
            claimed: u32::try_from(a).ok()?,
            attested: u32::try_from(b).ok()?,
            uid: u32::try_from(c).ok()?,
        },
        11 => {
            let phase = if a == 0 { BlindPhase::Begin } else { BlindPhase::End { for_ns: b } };
            EventKind::Blind { phase, why: with_code(&BLIND_WHYS, c)? }
        }
        12 => EventKind::Full { refused: a, share: uid(b)?.map(|uid| ShareSpent { uid, refused: c }) },
        13 => EventKind::Flood {
            why: with_code(&FLOOD_WHYS, a)?,
            uid: uid(b)?,
            frames: c,
            refused: d,
            for_ns: e,
        },
        24 => EventKind::Standstill { still_ns: a, certain: b != 0 },
        26 => EventKind::Phase { phase: with_code(&DaemonPhase::ALL, a)? },
        25 => EventKind::Advance { still_ns: a, why: with_code(&AdvanceWhy::ALL, b)? },
        14 => EventKind::Churn {
            uid: uid(a)?,
            ups: u32::try_from(b).ok()?,
            exits: u32::try_from(c).ok()?,
            terminals: u32::try_from(d).ok()?,
            changes: u32::try_from(e).ok()?,
            for_ns: f,
        },
        15 => EventKind::Moved { from: u16::try_from(a).ok()? },
        16 => EventKind::Io { place: with_code(&PLACES, a)?, errno: u32::try_from(b).ok()?.cast_signed() },
        17 => EventKind::Start { shards: u16::try_from(a).ok()? },
        18 => EventKind::Restart {
            why: with_code(&RESTART_WHYS, a)?,
            shards: u16::try_from(b).ok()?,
            adopted: u32::try_from(c).ok()?,
            gone: u32::try_from(d).ok()?,
            gap_ns: e,
        },
        19 => EventKind::Stop,
        20 => EventKind::Reload {
            outcome: with_code(&RELOAD_OUTCOMES, a)?,
            changed: KeySet::from_bits(b),
            restart: KeySet::from_bits(c),
        },
        21 => {
            let bytes = [d.to_le_bytes(), e.to_le_bytes()].concat();
            let comm = bytes.get(..usize::try_from(c).ok()?)?;
            let comm = std::str::from_utf8(comm).ok()?.into();
            EventKind::Missing { pid: u32::try_from(a).ok()?, uid: u32::try_from(b).ok()?, comm }
        }
        22 => {
            let [phase, why, how, number, attempt, more, ..] = d.to_le_bytes();
            let [evidence, errno] = unpair(f);
            EventKind::Action {
                action: ActionName::from_words([a, b, c])?,
                phase: with_code(&ActionPhase::ALL, phase.into())?,
                why: u64::from(why).checked_sub(1).and_then(|code| with_code(&ActionWhy::ALL, code)),
                attempt: u16::from_le_bytes([attempt, more]),
                child: u32::try_from(e).ok()?,
                how: how_of_words([how.into(), number.into()])?,
                errno: errno.cast_signed(),
                evidence,
            }
        }
        23 => {
            let [phase, scope, ..] = a.to_le_bytes();
            EventKind::Brake {
                phase: with_code(&BrakePhase::ALL, phase.into())?,
                scope: with_code(&BrakeScope::ALL, scope.into())?,
                uid: uid(b)?,
                unit: None,
                stalls: u32::try_from(c).ok()?,
                agents: u32::try_from(d).ok()?,
                by_hand: e != 0,
            }
        }
        _ => return None,
    })
}

/// How a process ended, and the number of that.
fn words_of_how(how: Option<ExitHow>) -> [u64; 2] {
    match how {
        None => [0, 0],
        Some(ExitHow::Code(code)) => [1, code.into()],
        Some(ExitHow::Signal(signal)) => [2, signal.into()],
        Some(ExitHow::OutOfMemory) => [3, 0],
    }
}

fn how_of_words([how, number]: [u64; 2]) -> Option<Option<ExitHow>> {
    Some(match how {
        0 => None,
        1 => Some(ExitHow::Code(u8::try_from(number).ok()?)),
        2 => Some(ExitHow::Signal(u8::try_from(number).ok()?)),
        3 => Some(ExitHow::OutOfMemory),
        _ => return None,
    })
}

/// The bytes of a name, and its length in the last byte.
fn comm_to_words(comm: Comm) -> [u64; 2] {
    let text = comm.as_str().as_bytes();
    let mut bytes = [0; 16];
    bytes[..text.len()].copy_from_slice(text);
    bytes[15] = u8::try_from(text.len()).unwrap_or(0);
    [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte])))
}

fn comm_of_words([low, high]: [u64; 2]) -> Option<Comm> {
    let bytes = [low.to_le_bytes(), high.to_le_bytes()].concat();
    let text = bytes.get(..usize::from(bytes[15]).min(15))?;
    std::str::from_utf8(text).ok().map(Comm::from)
}

/// Two numbers in one word.
pub const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// The numbers of a [`pair`].
#[expect(clippy::cast_possible_truncation, reason = "takes the word apart")]
pub const fn unpair(word: u64) -> [u32; 2] {
    [(word >> 32) as u32, word as u32]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lab::samples::{any_event, one_of_each};

    /// What the words keep of an event.
    fn as_kept(mut event: Event) -> Event {
        event.again = false;
        if let EventKind::Decode { error, .. } = &mut event.kind {
            *error = *NO_FRAMES.iter().find(|known| known.reason() == error.reason()).expect("known");
        }
        if let Some(agent) = &mut event.agent {
            agent.about = About { unit: None, container: None, exe: None, ..agent.about };
        }
        event
    }

    #[test]
    fn every_kind_with_a_number_is_kept() {
        for event in one_of_each() {
            let is_numbered = !matches!(event.kind, EventKind::Lost { .. } | EventKind::Beat);
            assert_eq!(to_words(&event).is_some(), is_numbered, "{event:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_read_back(event in any_event()) {
            if let Some(words) = to_words(&event) {
                prop_assert_eq!(from_words(&words), Some(as_kept(event)));
            }
        }

        #[test]
        fn any_words_are_read_without_harm(words in any::<[u64; ENTRY_WORDS]>(), kind in 0_u64..30) {
            let _ = from_words(&words);
            let mut likely = words;
            likely[0] = words[0] & !0xFFFF | IS_EVENT | kind << KIND_SHIFT;
            let _ = from_words(&likely);
        }
    }
}
