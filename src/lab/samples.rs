//! Events for tests.

use proptest::prelude::*;

use crate::config::KeySet;
use crate::event::{
    About, ActionName, ActionPhase, ActionWhy, AdvanceWhy, Agent, BlindPhase, BlindWhy, BrakePhase,
    BrakeScope, DaemonPhase, Event, EventKind, ExitHow, FloodWhy, FrozenPhase, IoPlace, NoFrame, Origin,
    ProcessState, ReloadOutcome, RestartWhy, SessionWhy, ShareSpent, StallPhase,
};
use crate::label::Label;
use crate::time::{MonoNs, WallNs};
use crate::wire::{DecodeError, Status};

const AGENT: Agent = Agent {
    pid: 4711,
    ns_pid: Some(7),
    session: 3,
    nonce: 42,
    status: Status::Degraded,
    origin: Origin::Vlp,
    payload: u64::MAX,
    about: About::UNKNOWN,
};

/// An exit of which the kernel did not say how.
pub const EXIT: EventKind =
    EventKind::Exit { silent_ns: 0, how: None, lived_ns: 0, panicked: false, while_away: false };

/// Every kind, and every shape of its line; `seq` counts from 1 if there is one.
pub fn one_of_each() -> Vec<Event> {
    use EventKind as Kind;
    let (agent, shard) = (Some(AGENT), Some(1));
    let outside = Some(Agent { ns_pid: None, ..AGENT });
    let daemon = Some(Agent { origin: Origin::Notify, ..AGENT });
    let (silent_ns, last_nonce, lost) = (2_000_000_000, 41, 5);
    let kinds = [
        (None, None, Kind::Start { shards: 4 }),
        (shard, agent, Kind::Up),
        (shard, outside, Kind::Up),
        (
            shard,
            agent,
            Kind::Stall {
                silent_ns,
                last_nonce,
                certain: true,
                blind_ns: 0,
                process: None,
                used_cpu: None,
                phase: None,
                coalesced: 1,
            },
        ),
        (
            shard,
            agent,
            Kind::Stall {
                silent_ns,
                last_nonce,
                certain: false,
                blind_ns: 9,
                process: Some(ProcessState::Traced),
                used_cpu: Some(false),
                phase: Some(StallPhase::Start),
                coalesced: 2,
            },
        ),
        (shard, agent, Kind::Resume { silent_ns, lost, coalesced: 1 }),
        (shard, agent, Kind::Resume { silent_ns, lost, coalesced: 3 }),
        (
            shard,
            agent,
            Kind::Exit {
                silent_ns: 1,
                how: Some(ExitHow::Code(3)),
                lived_ns: 9,
                panicked: false,
                while_away: false,
            },
        ),
        (
            shard,
            agent,
            Kind::Exit {
                silent_ns: 1,
                how: Some(ExitHow::Signal(9)),
                lived_ns: 9,
                panicked: false,
                while_away: false,
            },
        ),
        (
            shard,
            agent,
            Kind::Exit { silent_ns: 1, how: None, lived_ns: 9, panicked: false, while_away: false },
        ),
        (shard, agent, Kind::Terminal { coalesced: 1 }),
        (shard, agent, Kind::Status { coalesced: 3 }),
        (shard, agent, Kind::Session { why: SessionWhy::NewProcess, coalesced: 1 }),
        (shard, agent, Kind::Mixed),
        (
            shard,
            None,
            Kind::Decode {
                attested: 815,
                error: NoFrame::Undecodable(DecodeError::BadCrc { computed: 1, received: 2 }),
            },
        ),
        (shard, None, Kind::Auth { claimed: 1, attested: 815, uid: 1000 }),
        (shard, None, Kind::Blind { phase: BlindPhase::Begin, why: BlindWhy::Paused }),
        (shard, None, Kind::Blind { phase: BlindPhase::End { for_ns: 8 }, why: BlindWhy::Full }),
        (shard, None, Kind::Full { refused: 12, share: None }),
        (shard, None, Kind::Full { refused: 12, share: Some(ShareSpent { uid: 1001, refused: 7 }) }),
        (
            shard,
            None,
            Kind::Flood {
                why: FloodWhy::Budget,
                uid: Some(1001),
                frames: 9000,
                refused: 8000,
                for_ns: 1_500_000_000,
            },
        ),
        (
            shard,
            None,
            Kind::Flood { why: FloodWhy::Full, uid: None, frames: 9000, refused: 0, for_ns: 1_500_000_000 },
        ),
        (shard, agent, Kind::Moved { from: 3 }),
        (None, None, Kind::Io { place: IoPlace::Events, errno: 28 }),
        (shard, None, Kind::Io { place: IoPlace::Shard, errno: 0 }),
        (shard, None, Kind::Io { place: IoPlace::ShardStuck, errno: 0 }),
        (shard, None, Kind::Io { place: IoPlace::Socket, errno: 0 }),
        (None, None, Kind::Io { place: IoPlace::Directory, errno: 17 }),
        (None, None, Kind::Lost { from_seq: 5, to_seq: 9 }),
        (shard, agent, Kind::Beat),
        (None, None, Kind::Stop),
        (shard, agent, Kind::Frozen { phase: FrozenPhase::Begin }),
        (shard, agent, Kind::Frozen { phase: FrozenPhase::End }),
        (None, None, churn(Some(1001))),
        (None, None, churn(None)),
        (
            None,
            None,
            Kind::Restart { why: RestartWhy::Crash, shards: 4, adopted: 300, gone: 2, gap_ns: 250_000_000 },
        ),
        (shard, None, Kind::Blind { phase: BlindPhase::End { for_ns: 8 }, why: BlindWhy::Restart }),
        (shard, agent, Kind::Exit { silent_ns: 1, how: None, lived_ns: 9, panicked: true, while_away: true }),
        (
            None,
            None,
            Kind::Reload {
                outcome: ReloadOutcome::Applied,
                changed: ["threshold", "rule"].into_iter().collect(),
                restart: ["http.listen"].into_iter().collect(),
            },
        ),
        (None, None, Kind::REFUSED_RELOAD),
        (None, None, Kind::Missing { pid: 4711, uid: 1000, comm: "worker".into() }),
        (
            shard,
            agent,
            Kind::Exit {
                silent_ns: 1,
                how: Some(ExitHow::OutOfMemory),
                lived_ns: 9,
                panicked: false,
                while_away: false,
            },
        ),
        (shard, agent, action(ActionPhase::Held, Some(ActionWhy::Backoff), None)),
        (shard, agent, action(ActionPhase::Failed, Some(ActionWhy::Status), Some(ExitHow::Code(7)))),
        (None, None, brake(BrakeScope::Fleet, None, None)),
        (None, None, brake(BrakeScope::Uid, Some(1001), None)),
        (None, None, brake(BrakeScope::Unit, None, Label::of("worker@7.service", 0))),
        (shard, agent, Kind::Standstill { still_ns: silent_ns, certain: true }),
        (shard, agent, Kind::Advance { still_ns: silent_ns, why: AdvanceWhy::Idle }),
        (shard, daemon, Kind::Phase { phase: DaemonPhase::Reloading }),
        (
            shard,
            daemon,
            Kind::Stall {
                silent_ns,
                last_nonce,
                certain: true,
                blind_ns: 0,
                process: None,
                used_cpu: None,
                phase: Some(StallPhase::Stopping),
                coalesced: 1,
            },
        ),
    ];
    let mut seq = 0;
    let event = |(shard, agent, kind)| {
        let has_seq = !matches!(kind, Kind::Lost { .. } | Kind::Beat);
        seq += u64::from(has_seq);
        Event {
            seq: if has_seq { seq } else { 0 },
            again: false,
            wall: WallNs(1_772_366_400_000_000_007),
            mono: MonoNs(2_500_000_000),
            shard,
            agent,
            kind,
        }
    };
    let repeated = Event { again: true, mono: MonoNs(2_500_000_000), ..up(1) };
    kinds.into_iter().map(event).chain([repeated]).collect()
}

fn churn(uid: Option<u32>) -> EventKind {
    EventKind::Churn { uid, ups: 900, exits: 800, terminals: 7, changes: 60, for_ns: 1_000_000_000 }
}

/// An `up` event with this `seq`.
pub fn up(seq: u64) -> Event {
    Event {
        seq,
        again: false,
        wall: WallNs(1_772_366_400_000_000_000 + seq),
        mono: MonoNs(seq),
        shard: Some(0),
        agent: Some(AGENT),
        kind: EventKind::Up,
    }
}

/// Whether events of this kind have fields of a user, and thus are of no agent.
fn has_user(kind: &EventKind) -> bool {
    use EventKind as Kind;
    matches!(
        kind,
        Kind::Auth { .. }
            | Kind::Full { .. }
            | Kind::Flood { .. }
            | Kind::Churn { .. }
            | Kind::Missing { .. }
            | Kind::Brake { .. }
    )
}

/// Any event, including events that no shard reports.
pub fn any_event() -> impl Strategy<Value = Event> {
    (
        extreme(),
        any::<bool>(),
        extreme(),
        extreme(),
        proptest::option::of(any::<u16>()),
        any_agent(),
        any_kind(),
    )
        .prop_map(|(seq, again, wall, mono, shard, agent, kind)| Event {
            seq,
            again,
            wall: WallNs(wall),
            mono: MonoNs(mono),
            shard,
            agent: agent.filter(|_| !has_user(&kind)),
            kind,
        })
}

/// Any 64-bit number; the limits of u64 and of doubles are more likely than by chance.
fn extreme() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => any::<u64>(),
        1 => prop::sample::select(vec![0, 1, (1 << 53) - 1, (1 << 53) + 1, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX]),
    ]
}

fn any_status() -> impl Strategy<Value = Status> {
    prop::sample::select(vec![Status::Ok, Status::Degraded, Status::Critical, Status::Stall])
}

fn any_agent() -> impl Strategy<Value = Option<Agent>> {
    let numbers = (any::<u32>(), any::<Option<u32>>(), any::<u32>(), extreme(), any_status(), extreme());
    let origin = prop::sample::select(vec![Origin::Vlp, Origin::Notify]);
    let agent = (numbers, any_about(), origin).prop_map(|(numbers, about, origin)| {
        let (pid, ns_pid, session, nonce, status, payload) = numbers;
        Agent { pid, ns_pid, session, nonce, status, origin, payload, about }
    });
    proptest::option::of(agent)
}

fn any_about() -> impl Strategy<Value = About> {
    // No user has the last number.
    let uid = proptest::option::of(0..u32::MAX);
    let text = || prop::sample::select(vec!["", "a.service", "/usr/bin/x y", "\"quoted\"", "ünï"]);
    (uid, text(), text(), text(), text()).prop_map(|(uid, comm, unit, container, exe)| {
        let label = |text: &str| Label::of(text, 0).filter(|_| !text.is_empty());
        let (unit, container, exe) = (label(unit), label(container), label(exe));
        About { uid, comm: comm.into(), unit, container, exe }
    })
}

fn any_used_cpu() -> impl Strategy<Value = Option<bool>> {
    prop::sample::select(vec![None, Some(false), Some(true)])
}

fn any_process() -> impl Strategy<Value = Option<ProcessState>> {
    proptest::option::of(prop::sample::select(ProcessState::ALL.to_vec()))
}

fn any_no_frame() -> impl Strategy<Value = NoFrame> {
    prop_oneof![Just(NoFrame::WrongSize), any_decode_error().prop_map(NoFrame::Undecodable)]
}

fn any_decode_error() -> impl Strategy<Value = DecodeError> {
    prop_oneof![
        any::<[u8; 2]>().prop_map(DecodeError::BadMagic),
        any::<u8>().prop_map(DecodeError::BadVersion),
        any::<(u32, u32)>().prop_map(|(computed, received)| DecodeError::BadCrc { computed, received }),
        any::<u8>().prop_map(DecodeError::BadStatus),
        Just(DecodeError::StallOnWire),
        any::<u32>().prop_map(DecodeError::BadPid),
        any::<u64>().prop_map(DecodeError::BadTimestamp),
        (extreme(), any_status()).prop_map(|(nonce, status)| DecodeError::BadNonce { nonce, status }),
    ]
}

fn any_action() -> impl Strategy<Value = EventKind> {
    let how = prop_oneof![
        Just(None),
        any::<u8>().prop_map(|code| Some(ExitHow::Code(code))),
        any::<u8>().prop_map(|signal| Some(ExitHow::Signal(signal)))
    ];
    (
        "[a-zA-Z0-9_-]{1,19}",
        prop::sample::select(ActionPhase::ALL.to_vec()),
        proptest::option::of(prop::sample::select(ActionWhy::ALL.to_vec())),
        how,
        any::<(u16, u32, u32)>(),
        0..i32::MAX,
    )
        .prop_map(|(name, phase, why, how, (attempt, child, evidence), errno)| {
            let action = ActionName::new(&name).expect("a name");
            EventKind::Action { action, phase, why, attempt, child, how, errno, evidence }
        })
}

fn any_brake() -> impl Strategy<Value = EventKind> {
    (
        prop::sample::select(BrakePhase::ALL.to_vec()),
        prop::sample::select(BrakeScope::ALL.to_vec()),
        proptest::option::of(any::<u32>()),
        any::<(u32, u32, bool)>(),
    )
        .prop_map(|(phase, scope, uid, (stalls, agents, by_hand))| EventKind::Brake {
            phase,
            scope,
            uid,
            unit: None,
            stalls,
            agents,
            by_hand,
        })
}

fn any_kind() -> impl Strategy<Value = EventKind> {
    use EventKind as Kind;
    let how = prop_oneof![
        Just(None),
        any::<u8>().prop_map(|code| Some(ExitHow::Code(code))),
        any::<u8>().prop_map(|signal| Some(ExitHow::Signal(signal))),
        Just(Some(ExitHow::OutOfMemory)),
    ];
    let session_why = SessionWhy::ALL.to_vec();
    let phase = prop_oneof![Just(BlindPhase::Begin), extreme().prop_map(|for_ns| BlindPhase::End { for_ns })];
    let blind_why = prop::sample::select(vec![BlindWhy::Paused, BlindWhy::Full, BlindWhy::Restart]);
    let place = prop::sample::select(vec![
        IoPlace::Receive,
        IoPlace::Events,
        IoPlace::Shard,
        IoPlace::ShardStuck,
        IoPlace::Socket,
        IoPlace::Directory,
    ]);
    prop_oneof![
        prop::sample::select(vec![
            Kind::Up,
            Kind::Terminal { coalesced: u32::MAX },
            Kind::Status { coalesced: 2 },
            Kind::Mixed,
            Kind::Frozen { phase: FrozenPhase::Begin },
            Kind::Frozen { phase: FrozenPhase::End },
            Kind::Stop,
            Kind::Beat
        ]),
        (
            extreme(),
            extreme(),
            any::<bool>(),
            extreme(),
            (any_process(), any_used_cpu(), any_stall_phase()),
            any::<u32>()
        )
            .prop_map(
                |(silent_ns, last_nonce, certain, blind_ns, (process, used_cpu, phase), coalesced)| {
                    Kind::Stall {
                        silent_ns,
                        last_nonce,
                        certain,
                        blind_ns,
                        process,
                        used_cpu,
                        phase,
                        coalesced,
                    }
                }
            ),
        prop::sample::select(DaemonPhase::ALL.to_vec()).prop_map(|phase| Kind::Phase { phase }),
        (extreme(), any::<bool>()).prop_map(|(still_ns, certain)| Kind::Standstill { still_ns, certain }),
        (extreme(), prop::sample::select(AdvanceWhy::ALL.to_vec()))
            .prop_map(|(still_ns, why)| Kind::Advance { still_ns, why }),
        (extreme(), extreme(), any::<u32>()).prop_map(|(silent_ns, lost, coalesced)| Kind::Resume {
            silent_ns,
            lost,
            coalesced
        }),
        (extreme(), how, extreme(), any::<[bool; 2]>()).prop_map(
            |(silent_ns, how, lived_ns, [panicked, while_away])| Kind::Exit {
                silent_ns,
                how,
                lived_ns,
                panicked,
                while_away
            }
        ),
        prop::sample::select(session_why).prop_map(|why| Kind::Session { why, coalesced: 2 }),
        (any::<u32>(), any_no_frame()).prop_map(|(attested, error)| Kind::Decode { attested, error }),
        any::<(u32, u32, u32)>().prop_map(|(claimed, attested, uid)| Kind::Auth { claimed, attested, uid }),
        (phase, blind_why).prop_map(|(phase, why)| Kind::Blind { phase, why }),
        (extreme(), any::<Option<(u32, u64)>>()).prop_map(|(refused, share)| Kind::Full {
            refused,
            share: share.map(|(uid, refused)| ShareSpent { uid, refused })
        }),
        (
            prop::sample::select(vec![FloodWhy::Full, FloodWhy::Budget]),
            any::<Option<u32>>(),
            extreme(),
            extreme(),
            extreme()
        )
            .prop_map(|(why, uid, frames, refused, for_ns)| Kind::Flood {
                why,
                uid,
                frames,
                refused,
                for_ns
            }),
        (any::<Option<u32>>(), any::<[u32; 4]>(), extreme()).prop_map(
            |(uid, [ups, exits, terminals, changes], for_ns)| Kind::Churn {
                uid,
                ups,
                exits,
                terminals,
                changes,
                for_ns
            }
        ),
        any::<u16>().prop_map(|from| Kind::Moved { from }),
        (place, any::<i32>()).prop_map(|(place, errno)| Kind::Io { place, errno }),
        any::<u16>().prop_map(|shards| Kind::Start { shards }),
        any_action(),
        any_brake(),
        (any::<u32>(), any::<u32>(), any::<String>()).prop_map(|(pid, uid, comm)| Kind::Missing {
            pid,
            uid,
            comm: (&*comm).into()
        }),
        (
            prop::sample::select(vec![RestartWhy::Planned, RestartWhy::Crash]),
            any::<(u16, u32, u32)>(),
            extreme()
        )
            .prop_map(|(why, (shards, adopted, gone), gap_ns)| Kind::Restart {
                why,
                shards,
                adopted,
                gone,
                gap_ns
            }),
        prop_oneof![
            Just(Kind::REFUSED_RELOAD),
            Just(Kind::Reload {
                outcome: ReloadOutcome::Applied,
                changed: ["events", "shard.allow-uids"].into_iter().collect(),
                restart: KeySet::NONE,
            })
        ],
        (extreme(), extreme()).prop_map(|(from_seq, to_seq)| Kind::Lost { from_seq, to_seq }),
    ]
}

fn any_stall_phase() -> impl Strategy<Value = Option<StallPhase>> {
    prop::option::of(prop::sample::select(StallPhase::ALL.to_vec()))
}

fn action(phase: ActionPhase, why: Option<ActionWhy>, how: Option<ExitHow>) -> EventKind {
    let action = ActionName::new("restart-worker").expect("a name");
    EventKind::Action { action, phase, why, attempt: 2, child: 4712, how, errno: 0, evidence: 17 }
}

fn brake(scope: BrakeScope, uid: Option<u32>, unit: Option<Label>) -> EventKind {
    EventKind::Brake { phase: BrakePhase::Engaged, scope, uid, unit, stalls: 40, agents: 150, by_hand: false }
}
