//! Any event as a line of either format: one line, no control bytes, and every value can be read back.
//!
//! Input: the values of one event, in the order in which they are read below.

#![no_main]

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use varta_fleet::config::KeySet;
use varta_fleet::event::{
    About, ActionName, ActionPhase, ActionWhy, AdvanceWhy, Agent, BlindPhase, BlindWhy, BrakePhase,
    BrakeScope, DaemonPhase, Event, EventKind, ExitHow, FloodWhy, FrozenPhase, IoPlace, NoFrame, Origin,
    ProcessState, ReloadOutcome, RestartWhy, SessionWhy, ShareSpent, StallPhase,
};
use varta_fleet::fuzzing::Format;
use varta_fleet::label::Label;
use varta_fleet::time::{MonoNs, WallNs};
use varta_fleet::wire::{DecodeError, Status};

fuzz_target!(|input: &[u8]| {
    let mut values = Unstructured::new(input);
    // Values after the end of the input are zero.
    let Ok(event) = any_event(&mut values) else { return };
    let start = MonoNs(values.arbitrary().unwrap_or_default());

    let line = line_of(Format::Jsonl, &event);
    assert!(!line.contains(char::is_control), "{line:?}");
    let object: Value = serde_json::from_str(&line).expect("one JSON object");
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    assert_eq!(object["kind"], event.kind.name());
    assert_eq!(number("v"), Some(1));
    match event.kind {
        EventKind::Lost { from_seq, to_seq } => {
            assert_eq!((number("from_seq"), number("to_seq")), (Some(from_seq), Some(to_seq)));
        }
        kind => {
            assert_eq!(number("mono_ns"), Some(event.mono.0));
            assert_eq!(number("seq"), (kind != EventKind::Beat).then_some(event.seq));
            assert_eq!(number("shard"), event.shard.map(u64::from));
            if let Some(agent) = event.agent {
                assert_eq!(number("pid"), Some(agent.pid.into()));
                assert_eq!(number("ns_pid"), agent.ns_pid.map(u64::from));
                assert_eq!(number("session"), Some(agent.session.into()));
                assert_eq!((number("nonce"), number("payload")), (Some(agent.nonce), Some(agent.payload)));
                assert_eq!(object["status"], agent.status.as_str());
            }
        }
    }

    let line = line_of(Format::Tsv { start }, &event);
    assert!(!line.contains(|c: char| c.is_control() && c != '\t'), "{line:?}");
    let columns: Vec<&str> = line.split('\t').collect();
    assert_eq!(columns.len(), 6, "{line:?}");
    assert!(columns.iter().all(|column| !column.is_empty()), "{line:?}");
    assert_eq!(columns[0].parse(), Ok(event.mono.since(start)));
});

/// The line without its newline, written after other content.
fn line_of(format: Format, event: &Event) -> String {
    let mut out = b"before\n".to_vec();
    format.write_line(event, &mut out);
    let text = String::from_utf8(out).expect("text");
    let line = text.strip_prefix("before\n").expect("what was there stays");
    line.strip_suffix('\n').expect("a line ends").to_owned()
}

fn any_event(values: &mut Unstructured<'_>) -> Result<Event> {
    Ok(Event {
        kind: any_kind(values)?,
        seq: values.arbitrary()?,
        again: values.arbitrary()?,
        wall: WallNs(values.arbitrary()?),
        mono: MonoNs(values.arbitrary()?),
        shard: values.arbitrary()?,
        agent: if values.arbitrary()? { Some(any_agent(values)?) } else { None },
    })
}

fn any_agent(values: &mut Unstructured<'_>) -> Result<Agent> {
    Ok(Agent {
        pid: values.arbitrary()?,
        ns_pid: values.arbitrary()?,
        session: values.arbitrary()?,
        nonce: values.arbitrary()?,
        status: any_status(values)?,
        payload: values.arbitrary()?,
        about: About {
            uid: values.arbitrary()?,
            comm: <&str>::arbitrary(values)?.into(),
            unit: any_label(values)?,
            container: any_label(values)?,
            exe: any_label(values)?,
        },
        origin: one_of(values, [Origin::Vlp, Origin::Notify])?,
    })
}

fn any_label(values: &mut Unstructured<'_>) -> Result<Option<Label>> {
    let text = one_of(values, ["", "a.service", "\"x\\", "ü"])?;
    Ok(if text.is_empty() { None } else { Label::of(text, 0) })
}

fn any_kind(values: &mut Unstructured<'_>) -> Result<EventKind> {
    use EventKind as Kind;
    Ok(match values.int_in_range(0..=28)? {
        0 => Kind::Up,
        1 => Kind::Stall {
            silent_ns: values.arbitrary()?,
            last_nonce: values.arbitrary()?,
            certain: values.arbitrary()?,
            blind_ns: values.arbitrary()?,
            process: one_of(values, [None, Some(ProcessState::Running), Some(ProcessState::Traced)])?,
            used_cpu: values.arbitrary()?,
            phase: one_of(
                values,
                [None, Some(StallPhase::Start), Some(StallPhase::Payload), Some(StallPhase::Stopping)],
            )?,
            coalesced: values.arbitrary()?,
        },
        2 => Kind::Resume {
            silent_ns: values.arbitrary()?,
            lost: values.arbitrary()?,
            coalesced: values.arbitrary()?,
        },
        3 => Kind::Exit {
            silent_ns: values.arbitrary()?,
            while_away: values.arbitrary()?,
            lived_ns: values.arbitrary()?,
            panicked: values.arbitrary()?,
            how: one_of(values, [None, Some(ExitHow::Code as fn(u8) -> ExitHow), Some(ExitHow::Signal)])?
                .map(|how| u8::arbitrary(values).map(how))
                .transpose()?,
        },
        4 => Kind::Terminal { coalesced: values.arbitrary()? },
        5 => Kind::Status { coalesced: values.arbitrary()? },
        6 => {
            let why = one_of(values, SessionWhy::ALL)?;
            Kind::Session { why, coalesced: values.arbitrary()? }
        }
        7 => Kind::Mixed,
        8 => Kind::Decode { attested: values.arbitrary()?, error: any_no_frame(values)? },
        9 => Kind::Auth {
            claimed: values.arbitrary()?,
            attested: values.arbitrary()?,
            uid: values.arbitrary()?,
        },
        10 => {
            let phase = one_of(values, [BlindPhase::Begin, BlindPhase::End { for_ns: 0 }])?;
            let phase = match phase {
                BlindPhase::Begin => BlindPhase::Begin,
                BlindPhase::End { .. } => BlindPhase::End { for_ns: values.arbitrary()? },
            };
            Kind::Blind { phase, why: one_of(values, [BlindWhy::Paused, BlindWhy::Full, BlindWhy::Restart])? }
        }
        11 => {
            let refused = values.arbitrary()?;
            let share: Option<(u32, u64)> = values.arbitrary()?;
            Kind::Full { refused, share: share.map(|(uid, refused)| ShareSpent { uid, refused }) }
        }
        12 => Kind::Moved { from: values.arbitrary()? },
        13 => {
            let place = {
                use IoPlace::{Directory, Events, Receive, Shard, ShardStuck, Socket};
                one_of(values, [Receive, Events, Shard, ShardStuck, Socket, Directory])?
            };
            Kind::Io { place, errno: values.arbitrary()? }
        }
        14 => Kind::Start { shards: values.arbitrary()? },
        15 => Kind::Stop,
        21 => Kind::Reload {
            outcome: one_of(values, [ReloadOutcome::Applied, ReloadOutcome::Refused])?,
            changed: KeySet::NONE,
            restart: ["dir"].into_iter().collect(),
        },
        16 => Kind::Lost { from_seq: values.arbitrary()?, to_seq: values.arbitrary()? },
        17 => Kind::Beat,
        19 => Kind::Churn {
            uid: values.arbitrary()?,
            ups: values.arbitrary()?,
            exits: values.arbitrary()?,
            terminals: values.arbitrary()?,
            changes: values.arbitrary()?,
            for_ns: values.arbitrary()?,
        },
        20 => Kind::Restart {
            why: one_of(values, [RestartWhy::Planned, RestartWhy::Crash])?,
            shards: values.arbitrary()?,
            adopted: values.arbitrary()?,
            gone: values.arbitrary()?,
            gap_ns: values.arbitrary()?,
        },
        22 => Kind::Missing {
            pid: values.arbitrary()?,
            uid: values.arbitrary()?,
            comm: <&str>::arbitrary(values)?.into(),
        },
        23 => Kind::Action {
            action: one_of(values, ["a", "restart-worker", "0123456789_ABCDEFGH"])
                .map(|name| ActionName::new(name).expect("a name"))?,
            phase: one_of(values, ActionPhase::ALL)?,
            why: if values.arbitrary()? { Some(one_of(values, ActionWhy::ALL)?) } else { None },
            attempt: values.arbitrary()?,
            child: values.arbitrary()?,
            how: if values.arbitrary()? { Some(ExitHow::Code(values.arbitrary()?)) } else { None },
            errno: values.int_in_range(0..=i32::MAX)?,
            evidence: values.arbitrary()?,
        },
        24 => Kind::Brake {
            phase: one_of(values, BrakePhase::ALL)?,
            scope: one_of(values, BrakeScope::ALL)?,
            uid: values.arbitrary()?,
            unit: any_label(values)?,
            stalls: values.arbitrary()?,
            agents: values.arbitrary()?,
            by_hand: values.arbitrary()?,
        },
        26 => Kind::Standstill { still_ns: values.arbitrary()?, certain: values.arbitrary()? },
        27 => Kind::Advance { still_ns: values.arbitrary()?, why: one_of(values, AdvanceWhy::ALL)? },
        28 => Kind::Phase { phase: one_of(values, DaemonPhase::ALL)? },
        18 => Kind::Frozen { phase: one_of(values, [FrozenPhase::Begin, FrozenPhase::End])? },
        _ => Kind::Flood {
            why: one_of(values, [FloodWhy::Full, FloodWhy::Budget])?,
            uid: values.arbitrary()?,
            frames: values.arbitrary()?,
            refused: values.arbitrary()?,
            for_ns: values.arbitrary()?,
        },
    })
}

fn any_no_frame(values: &mut Unstructured<'_>) -> Result<NoFrame> {
    Ok(if values.arbitrary()? { NoFrame::WrongSize } else { NoFrame::Undecodable(any_decode_error(values)?) })
}

fn any_decode_error(values: &mut Unstructured<'_>) -> Result<DecodeError> {
    Ok(match values.int_in_range(0..=7)? {
        0 => DecodeError::BadMagic(values.arbitrary()?),
        1 => DecodeError::BadVersion(values.arbitrary()?),
        2 => DecodeError::BadCrc { computed: values.arbitrary()?, received: values.arbitrary()? },
        3 => DecodeError::BadStatus(values.arbitrary()?),
        4 => DecodeError::StallOnWire,
        5 => DecodeError::BadPid(values.arbitrary()?),
        6 => DecodeError::BadTimestamp(values.arbitrary()?),
        _ => DecodeError::BadNonce { nonce: values.arbitrary()?, status: any_status(values)? },
    })
}

fn any_status(values: &mut Unstructured<'_>) -> Result<Status> {
    one_of(values, [Status::Ok, Status::Degraded, Status::Critical, Status::Stall])
}

fn one_of<T: Copy, const N: usize>(values: &mut Unstructured<'_>, of: [T; N]) -> Result<T> {
    values.choose(&of).copied()
}
