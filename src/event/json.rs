//! The JSON of an event, schema version 1: the same in every output and response, and read back into the same
//! [`Event`].
//!
//! `v`, `ts`, `mono_ns` and `kind` are in every object, `seq` in every object except beats; `shard`, `pid`,
//! `ns_pid`, `session`, `nonce`, `status` and `payload` where they apply; `"origin":"notify"` of an agent that sends
//! messages; `uid`, `comm`, `unit` and `container` of an
//! agent where they are known, and `exe` if the event is its `up`, `session` or `exit`; then the fields of the kind.
//! One object differs: `{"v":1,"kind":"lost","from_seq":…,"to_seq":…}` stands for a range of events that this
//! output had to drop.
//!
//! 64-bit numbers are written whole, as JSON allows; a reader that stores numbers as doubles rounds nonces
//! and payloads above 2^53.
//!
//! Of a [`NoFrame`] only the reason is written: when read back, its wrong bytes are zero.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    About, ActionName, ActionWhy, Agent, BlindPhase, Comm, Event, EventKind, ExitHow, NoFrame, Origin,
    ProcessState, StallPhase, Texts,
};
use crate::config::KeySet;
use crate::label::{Label, Text};
use crate::time::{MonoNs, WallNs};
use crate::wire::{DecodeError, Status};

const SCHEMA: u8 = 1;

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.kind {
            EventKind::Lost { from_seq, to_seq } => {
                LostLine { v: SCHEMA, kind: "lost", from_seq, to_seq }.serialize(serializer)
            }
            _ => Line::of(self).serialize(serializer),
        }
    }
}

/// The fields in the order of the schema; those that do not apply are omitted.
#[derive(Serialize)]
struct Line {
    v: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    again: bool,
    ts: WallNs,
    mono_ns: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ns_pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Comm::is_empty")]
    comm: Comm,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<Text>,
    #[serde(flatten)]
    detail: Detail,
}

#[derive(Serialize)]
struct LostLine {
    v: u8,
    kind: &'static str,
    from_seq: u64,
    to_seq: u64,
}

/// The fields of a kind, after the common fields.
#[derive(Serialize)]
#[serde(untagged)]
enum Detail {
    Nothing,
    Stall {
        silent_ns: u64,
        last_nonce: u64,
        certain: bool,
        blind_ns: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        process: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        used_cpu: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        phase: Option<&'static str>,
        #[serde(skip_serializing_if = "is_single")]
        coalesced: u32,
    },
    Resume {
        silent_ns: u64,
        lost: u64,
        #[serde(skip_serializing_if = "is_single")]
        coalesced: u32,
    },
    Standstill {
        still_ns: u64,
        certain: bool,
    },
    Advance {
        still_ns: u64,
        why: &'static str,
    },
    /// `None` is written as null: the kernel does not report how the process ended.
    ExitCode {
        silent_ns: u64,
        code: Option<u8>,
        #[serde(flatten)]
        end: End,
    },
    ExitSignal {
        silent_ns: u64,
        signal: u8,
        #[serde(skip_serializing_if = "is_false")]
        oom: bool,
        #[serde(flatten)]
        end: End,
    },
    Coalesced {
        #[serde(skip_serializing_if = "is_single")]
        coalesced: u32,
    },
    Session {
        why: &'static str,
        #[serde(skip_serializing_if = "is_single")]
        coalesced: u32,
    },
    Decode {
        error: &'static str,
    },
    Auth {
        claimed: u32,
        attested: u32,
        uid: u32,
    },
    Phase {
        phase: &'static str,
    },
    Blind {
        phase: &'static str,
        why: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        for_ns: Option<u64>,
    },
    Full {
        refused: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        share_refused: Option<u64>,
    },
    /// `None` is written as null, here and below: many users without a row of their own.
    Flood {
        why: &'static str,
        uid: Option<u32>,
        frames: u64,
        refused: u64,
        for_ns: u64,
    },
    Churn {
        uid: Option<u32>,
        ups: u32,
        exits: u32,
        terminals: u32,
        changes: u32,
        for_ns: u64,
    },
    Moved {
        from: u16,
    },
    Io {
        place: &'static str,
        errno: i32,
        error: String,
    },
    Start {
        shards: u16,
    },
    Restart {
        why: &'static str,
        shards: u16,
        adopted: u32,
        gone: u32,
        gap_ns: u64,
    },
    Reload {
        outcome: &'static str,
        changed: KeySet,
        restart: KeySet,
    },
    Missing {
        uid: u32,
        comm: Comm,
    },
    Action {
        action: ActionName,
        phase: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'static str>,
        #[serde(skip_serializing_if = "is_zero")]
        attempt: u64,
        #[serde(skip_serializing_if = "is_zero")]
        child: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<u8>,
        #[serde(skip_serializing_if = "is_zero")]
        errno: u64,
        #[serde(skip_serializing_if = "is_zero")]
        evidence: u64,
    },
    Brake {
        phase: &'static str,
        scope: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        stalls: u32,
        agents: u32,
        #[serde(skip_serializing_if = "is_false")]
        by_hand: bool,
    },
}

impl Line {
    fn of(event: &Event) -> Self {
        let agent = event.agent;
        let about = agent.map(|agent| agent.about).unwrap_or_default();
        let Texts { unit, container, exe } = about.texts();
        let has_exe =
            matches!(event.kind, EventKind::Up | EventKind::Session { .. } | EventKind::Exit { .. });
        Self {
            v: SCHEMA,
            seq: match event.kind {
                EventKind::Beat => None,
                _ => Some(event.seq),
            },
            again: event.again,
            ts: event.wall,
            mono_ns: event.mono.0,
            kind: event.kind.name(),
            shard: event.shard,
            pid: event.pid(),
            ns_pid: agent.and_then(|agent| agent.ns_pid),
            session: agent.map(|agent| agent.session),
            nonce: agent.map(|agent| agent.nonce),
            status: agent.map(|agent| agent.status),
            origin: agent.map(|agent| agent.origin).filter(|origin| *origin != Origin::Vlp),
            payload: agent.map(|agent| agent.payload),
            uid: about.uid,
            comm: about.comm,
            unit: match event.kind {
                EventKind::Brake { unit, .. } => unit.and_then(Label::text),
                _ => unit,
            },
            container,
            exe: exe.filter(|_| has_exe),
            detail: Detail::of(&event.kind),
        }
    }
}

impl Detail {
    fn of(kind: &EventKind) -> Self {
        match *kind {
            EventKind::Up | EventKind::Mixed | EventKind::Stop | EventKind::Lost { .. } | EventKind::Beat => {
                Self::Nothing
            }
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
                let (process, phase) = (process.map(ProcessState::as_str), phase.map(StallPhase::as_str));
                Self::Stall { silent_ns, last_nonce, certain, blind_ns, process, used_cpu, phase, coalesced }
            }
            EventKind::Resume { silent_ns, lost, coalesced } => Self::Resume { silent_ns, lost, coalesced },
            EventKind::Frozen { phase } => Self::Phase { phase: phase.as_str() },
            EventKind::Phase { phase } => Self::Phase { phase: phase.as_str() },
            EventKind::Standstill { still_ns, certain } => Self::Standstill { still_ns, certain },
            EventKind::Advance { still_ns, why } => Self::Advance { still_ns, why: why.as_str() },
            EventKind::Exit { silent_ns, how, lived_ns, panicked, while_away } => {
                let end = End { lived_ns, panicked, while_away };
                match how.and_then(ExitHow::signal) {
                    Some(signal) => {
                        Self::ExitSignal { silent_ns, signal, oom: how == Some(ExitHow::OutOfMemory), end }
                    }
                    None => Self::ExitCode { silent_ns, code: how.and_then(ExitHow::code), end },
                }
            }
            EventKind::Terminal { coalesced } | EventKind::Status { coalesced } => {
                Self::Coalesced { coalesced }
            }
            EventKind::Session { why, coalesced } => Self::Session { why: why.as_str(), coalesced },
            EventKind::Decode { error, .. } => Self::Decode { error: error.reason() },
            EventKind::Auth { claimed, attested, uid } => Self::Auth { claimed, attested, uid },
            EventKind::Blind { phase, why } => {
                let (phase, for_ns) = match phase {
                    BlindPhase::Begin => ("begin", None),
                    BlindPhase::End { for_ns } => ("end", Some(for_ns)),
                };
                Self::Blind { phase, why: why.as_str(), for_ns }
            }
            EventKind::Full { refused, share } => Self::Full {
                refused,
                uid: share.map(|share| share.uid),
                share_refused: share.map(|share| share.refused),
            },
            EventKind::Flood { why, uid, frames, refused, for_ns } => {
                Self::Flood { why: why.as_str(), uid, frames, refused, for_ns }
            }
            EventKind::Churn { uid, ups, exits, terminals, changes, for_ns } => {
                Self::Churn { uid, ups, exits, terminals, changes, for_ns }
            }
            EventKind::Moved { from } => Self::Moved { from },
            EventKind::Io { place, errno } => {
                Self::Io { place: place.as_str(), errno, error: place.reason(errno) }
            }
            EventKind::Start { shards } => Self::Start { shards },
            EventKind::Missing { uid, comm, .. } => Self::Missing { uid, comm },
            EventKind::Action { action, phase, why, attempt, child, how, errno, evidence } => Self::Action {
                action,
                phase: phase.as_str(),
                why: why.map(ActionWhy::as_str),
                attempt: attempt.into(),
                child: child.into(),
                code: how.and_then(ExitHow::code),
                signal: how.and_then(ExitHow::signal),
                errno: errno.unsigned_abs().into(),
                evidence: evidence.into(),
            },
            EventKind::Brake { phase, scope, uid, stalls, agents, by_hand, .. } => {
                Self::Brake { phase: phase.as_str(), scope: scope.as_str(), uid, stalls, agents, by_hand }
            }
            EventKind::Restart { why, shards, adopted, gone, gap_ns } => {
                Self::Restart { why: why.as_str(), shards, adopted, gone, gap_ns }
            }
            EventKind::Reload { outcome, changed, restart } => {
                Self::Reload { outcome: outcome.as_str(), changed, restart }
            }
        }
    }
}

/// What every exit has, however the process ended.
#[derive(Serialize)]
struct End {
    lived_ns: u64,
    #[serde(skip_serializing_if = "is_false")]
    panicked: bool,
    #[serde(skip_serializing_if = "is_false")]
    while_away: bool,
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl Serialize for ActionName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for Comm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_single(coalesced: &u32) -> bool {
    *coalesced <= 1
}

/// The fields of any kind, for reading; [`EventKind`] reads those of its kind.
#[derive(Deserialize)]
struct Read {
    v: u8,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    again: bool,
    #[serde(default)]
    ts: WallNs,
    #[serde(default)]
    mono_ns: u64,
    shard: Option<u16>,
    pid: Option<u32>,
    ns_pid: Option<u32>,
    session: Option<u32>,
    #[serde(default)]
    nonce: u64,
    #[serde(default)]
    status: Status,
    #[serde(default)]
    origin: Origin,
    #[serde(default)]
    payload: u64,
    #[serde(default)]
    oom: bool,
    // Before the next: some kinds have fields of these names, and the next takes them away.
    #[serde(flatten)]
    kind: EventKind,
    #[serde(flatten)]
    about: ReadAbout,
}

/// [`About`], for reading.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ReadAbout {
    uid: Option<u32>,
    comm: Comm,
    unit: Option<String>,
    container: Option<String>,
    exe: Option<String>,
}

impl From<ReadAbout> for About {
    fn from(read: ReadAbout) -> Self {
        let label = |text: Option<String>| text.and_then(|text| Label::of(&text, 0));
        Self {
            uid: read.uid,
            comm: read.comm,
            unit: label(read.unit),
            container: label(read.container),
            exe: label(read.exe),
        }
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = Read::deserialize(deserializer)?;
        if read.v != SCHEMA {
            return Err(D::Error::custom(format!("an event of schema {}, not {SCHEMA}", read.v)));
        }
        let Read { seq, again, ns_pid, nonce, status, origin, payload, shard, mut kind, about, .. } = read;
        let about = About::from(about);
        let agent = read.pid.zip(read.session);
        let agent =
            agent.map(|(pid, session)| Agent { pid, ns_pid, session, nonce, status, origin, payload, about });
        match (&mut kind, agent) {
            (EventKind::Decode { attested, .. }, None) => *attested = read.pid.unwrap_or(0),
            (EventKind::Missing { pid, .. }, None) => *pid = read.pid.unwrap_or(0),
            (EventKind::Brake { unit, .. }, None) => *unit = about.unit,
            (EventKind::Exit { how, .. }, _) if read.oom => *how = Some(ExitHow::OutOfMemory),
            _ => {}
        }
        Ok(Self { seq, again, wall: read.ts, mono: MonoNs(read.mono_ns), shard, agent, kind })
    }
}

impl<'de> Deserialize<'de> for NoFrame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let reason = String::deserialize(deserializer)?;
        let errors = [
            DecodeError::BadMagic([0; 2]),
            DecodeError::BadVersion(0),
            DecodeError::BadCrc { computed: 0, received: 0 },
            DecodeError::BadStatus(0),
            DecodeError::StallOnWire,
            DecodeError::BadPid(0),
            DecodeError::BadTimestamp(0),
            DecodeError::BadNonce { nonce: 0, status: Status::Ok },
        ];
        let mut all = errors.into_iter().map(Self::Undecodable).chain([Self::WrongSize]);
        all.find(|known| known.reason() == reason)
            .ok_or_else(|| D::Error::custom(format!("no frame is refused for {reason:?}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::event::SessionWhy;
    use crate::lab::samples::{any_event, one_of_each};

    fn line_of(event: &Event) -> String {
        serde_json::to_string(event).unwrap()
    }

    /// The part of an event that its JSON contains.
    fn as_written(event: Event) -> Event {
        let mut event = event;
        match &mut event.kind {
            EventKind::Lost { .. } => {
                return Event {
                    seq: 0,
                    again: false,
                    wall: WallNs(0),
                    mono: MonoNs(0),
                    shard: None,
                    agent: None,
                    ..event
                };
            }
            EventKind::Beat => event.seq = 0,
            EventKind::Stall { coalesced, .. }
            | EventKind::Resume { coalesced, .. }
            | EventKind::Terminal { coalesced }
            | EventKind::Status { coalesced }
            | EventKind::Session { coalesced, .. } => *coalesced = (*coalesced).max(1),
            EventKind::Decode { attested, error } => {
                if event.agent.is_some() {
                    *attested = 0;
                }
                *error = serde_json::from_value(error.reason().into()).unwrap();
            }
            _ => {}
        }
        if let Some(agent) = &mut event.agent
            && !matches!(event.kind, EventKind::Up | EventKind::Session { .. } | EventKind::Exit { .. })
        {
            agent.about.exe = None;
        }
        event
    }

    /// The schema is a contract: any change of a line here requires a new schema version.
    #[test]
    fn every_kind_has_its_line() {
        let lines: Vec<String> = one_of_each().iter().map(line_of).collect();
        let common = |seq: u64| {
            format!(r#""v":1,"seq":{seq},"ts":"2026-03-01T12:00:00.000000007Z","mono_ns":2500000000,"kind""#)
        };
        let agent = r#""shard":1,"pid":4711,"ns_pid":7,"session":3,"nonce":42,"status":"degraded","payload":18446744073709551615"#;
        let outside = r#""shard":1,"pid":4711,"session":3,"nonce":42,"status":"degraded","payload":18446744073709551615"#;
        let daemon = agent.replace(r#""degraded""#, r#""degraded","origin":"notify""#);
        let expected = [
            format!(r#"{{{}:"start","shards":4}}"#, common(1)),
            format!(r#"{{{}:"up",{agent}}}"#, common(2)),
            format!(r#"{{{}:"up",{outside}}}"#, common(3)),
            format!(
                r#"{{{}:"stall",{agent},"silent_ns":2000000000,"last_nonce":41,"certain":true,"blind_ns":0}}"#,
                common(4)
            ),
            format!(
                r#"{{{}:"stall",{agent},"silent_ns":2000000000,"last_nonce":41,"certain":false,"blind_ns":9,"process":"traced","used_cpu":false,"phase":"start","coalesced":2}}"#,
                common(5)
            ),
            format!(r#"{{{}:"resume",{agent},"silent_ns":2000000000,"lost":5}}"#, common(6)),
            format!(r#"{{{}:"resume",{agent},"silent_ns":2000000000,"lost":5,"coalesced":3}}"#, common(7)),
            format!(r#"{{{}:"exit",{agent},"silent_ns":1,"code":3,"lived_ns":9}}"#, common(8)),
            format!(r#"{{{}:"exit",{agent},"silent_ns":1,"signal":9,"lived_ns":9}}"#, common(9)),
            format!(r#"{{{}:"exit",{agent},"silent_ns":1,"code":null,"lived_ns":9}}"#, common(10)),
            format!(r#"{{{}:"terminal",{agent}}}"#, common(11)),
            format!(r#"{{{}:"status",{agent},"coalesced":3}}"#, common(12)),
            format!(r#"{{{}:"session",{agent},"why":"new-process"}}"#, common(13)),
            format!(r#"{{{}:"mixed",{agent}}}"#, common(14)),
            format!(r#"{{{}:"decode","shard":1,"pid":815,"error":"bad_crc"}}"#, common(15)),
            format!(r#"{{{}:"auth","shard":1,"claimed":1,"attested":815,"uid":1000}}"#, common(16)),
            format!(r#"{{{}:"blind","shard":1,"phase":"begin","why":"paused"}}"#, common(17)),
            format!(r#"{{{}:"blind","shard":1,"phase":"end","why":"full","for_ns":8}}"#, common(18)),
            format!(r#"{{{}:"full","shard":1,"refused":12}}"#, common(19)),
            format!(r#"{{{}:"full","shard":1,"refused":12,"uid":1001,"share_refused":7}}"#, common(20)),
            format!(
                r#"{{{}:"flood","shard":1,"why":"budget","uid":1001,"frames":9000,"refused":8000,"for_ns":1500000000}}"#,
                common(21)
            ),
            format!(
                r#"{{{}:"flood","shard":1,"why":"full","uid":null,"frames":9000,"refused":0,"for_ns":1500000000}}"#,
                common(22)
            ),
            format!(r#"{{{}:"moved",{agent},"from":3}}"#, common(23)),
            format!(
                r#"{{{}:"io","place":"events","errno":28,"error":"No space left on device"}}"#,
                common(24)
            ),
            format!(
                r#"{{{}:"io","shard":1,"place":"shard","errno":0,"error":"the shard's thread panicked"}}"#,
                common(25)
            ),
            format!(
                r#"{{{}:"io","shard":1,"place":"shard-stuck","errno":0,"error":"the shard's thread is stuck"}}"#,
                common(26)
            ),
            format!(
                r#"{{{}:"io","shard":1,"place":"socket","errno":0,"error":"it had been removed or replaced, and is in place again"}}"#,
                common(27)
            ),
            format!(r#"{{{}:"io","place":"directory","errno":17,"error":"File exists"}}"#, common(28)),
            r#"{"v":1,"kind":"lost","from_seq":5,"to_seq":9}"#.to_owned(),
            format!(
                r#"{{"v":1,"ts":"2026-03-01T12:00:00.000000007Z","mono_ns":2500000000,"kind":"beat",{agent}}}"#
            ),
            format!(r#"{{{}:"stop"}}"#, common(29)),
            format!(r#"{{{}:"frozen",{agent},"phase":"begin"}}"#, common(30)),
            format!(r#"{{{}:"frozen",{agent},"phase":"end"}}"#, common(31)),
            format!(
                r#"{{{}:"churn","uid":1001,"ups":900,"exits":800,"terminals":7,"changes":60,"for_ns":1000000000}}"#,
                common(32)
            ),
            format!(
                r#"{{{}:"churn","uid":null,"ups":900,"exits":800,"terminals":7,"changes":60,"for_ns":1000000000}}"#,
                common(33)
            ),
            format!(
                r#"{{{}:"restart","why":"crash","shards":4,"adopted":300,"gone":2,"gap_ns":250000000}}"#,
                common(34)
            ),
            format!(r#"{{{}:"blind","shard":1,"phase":"end","why":"restart","for_ns":8}}"#, common(35)),
            format!(
                r#"{{{}:"exit",{agent},"silent_ns":1,"code":null,"lived_ns":9,"panicked":true,"while_away":true}}"#,
                common(36)
            ),
            format!(
                r#"{{{}:"reload","outcome":"applied","changed":["threshold","rule"],"restart":["http.listen"]}}"#,
                common(37)
            ),
            format!(r#"{{{}:"reload","outcome":"refused","changed":[],"restart":[]}}"#, common(38)),
            format!(r#"{{{}:"missing","pid":4711,"uid":1000,"comm":"worker"}}"#, common(39)),
            format!(r#"{{{}:"exit",{agent},"silent_ns":1,"signal":9,"oom":true,"lived_ns":9}}"#, common(40)),
            format!(
                r#"{{{}:"action",{agent},"action":"restart-worker","phase":"held","why":"backoff","attempt":2,"child":4712,"evidence":17}}"#,
                common(41)
            ),
            format!(
                r#"{{{}:"action",{agent},"action":"restart-worker","phase":"failed","why":"status","attempt":2,"child":4712,"code":7,"evidence":17}}"#,
                common(42)
            ),
            format!(
                r#"{{{}:"brake","phase":"engaged","scope":"fleet","stalls":40,"agents":150}}"#,
                common(43)
            ),
            format!(
                r#"{{{}:"brake","phase":"engaged","scope":"uid","uid":1001,"stalls":40,"agents":150}}"#,
                common(44)
            ),
            format!(
                r#"{{{}:"brake","unit":"worker@7.service","phase":"engaged","scope":"unit","stalls":40,"agents":150}}"#,
                common(45)
            ),
            format!(r#"{{{}:"standstill",{agent},"still_ns":2000000000,"certain":true}}"#, common(46)),
            format!(r#"{{{}:"advance",{agent},"still_ns":2000000000,"why":"idle"}}"#, common(47)),
            format!(r#"{{{}:"phase",{daemon},"phase":"reloading"}}"#, common(48)),
            format!(
                r#"{{{}:"stall",{daemon},"silent_ns":2000000000,"last_nonce":41,"certain":true,"blind_ns":0,"phase":"stopping"}}"#,
                common(49)
            ),
            format!(
                r#"{{"v":1,"seq":1,"again":true,"ts":"2026-03-01T12:00:00.000000001Z","mono_ns":2500000000,"kind":"up",{}}}"#,
                agent.replacen('1', "0", 1)
            ),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn who_the_agent_is_stands_in_its_events() {
        let mut event = one_of_each()[1];
        let label = |text| Label::of(text, 0);
        let about = About {
            uid: Some(1000),
            comm: "worker".into(),
            unit: label("worker@7.service"),
            container: label(&"ab".repeat(32)),
            exe: label("/opt/w/worker"),
        };
        if let Some(agent) = &mut event.agent {
            agent.about = about;
        }
        let who = format!(
            r#""uid":1000,"comm":"worker","unit":"worker@7.service","container":"{}""#,
            "ab".repeat(32)
        );
        assert!(
            line_of(&event).ends_with(&format!(r#",{who},"exe":"/opt/w/worker"}}"#)),
            "{}",
            line_of(&event)
        );
        event.kind = EventKind::Mixed;
        assert!(line_of(&event).ends_with(&format!(",{who}}}")), "{}", line_of(&event));
    }

    #[test]
    fn a_name_that_was_freed_is_absent() {
        let mut event = one_of_each()[1];
        let freed = Some(Label::freed());
        if let Some(agent) = &mut event.agent {
            let comm = "worker".into();
            agent.about = About { uid: Some(1), comm, unit: freed, container: freed, exe: freed };
        }
        assert!(line_of(&event).ends_with(r#","uid":1,"comm":"worker"}"#), "{}", line_of(&event));
    }

    /// A pipe takes a line of at most 4096 bytes whole.
    #[test]
    fn the_longest_line_is_bounded() {
        let mut event = one_of_each()[1];
        event.kind = EventKind::Session { why: SessionWhy::NewProcess, coalesced: u32::MAX };
        // A unit has the name of a directory, a path may be longer. Each character is written as two.
        let label = |bytes| Label::of(&"\"".repeat(bytes), 0);
        let about = About {
            uid: Some(u32::MAX),
            comm: (&*"\"".repeat(15)).into(),
            // One inside another.
            unit: label(511),
            container: label(64),
            exe: label(1024),
        };
        if let Some(agent) = &mut event.agent {
            agent.about = about;
        }
        assert!(label(1025).is_none() && line_of(&event).len() < 4096, "{}", line_of(&event).len());
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let told = r#"{"v":1,"seq":1,"ts":"2026-03-01T12:00:00Z","mono_ns":1,"kind":"stop"}"#;
        let read = |text: &str| serde_json::from_str::<Event>(text).map_err(|error| error.to_string());
        assert!(read(told).is_ok());
        for (from, to) in [(r#""v":1"#, r#""v":2"#), ("stop", "stopped"), ("stop", "stall"), ("T12", "T25")] {
            read(&told.replace(from, to)).expect_err(to);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(event in any_event()) {
            let line = line_of(&event);
            let read: Event = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read, as_written(event));
            prop_assert_eq!(line_of(&read), line);
        }

        #[test]
        fn one_event_is_one_line_whose_numbers_are_whole(event in any_event()) {
            let line = line_of(&event);
            prop_assert!(!line.contains(|c: char| c.is_control()));
            let object: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&object["v"], 1);
            prop_assert_eq!(&object["kind"], event.kind.name());
            if let EventKind::Lost { from_seq, to_seq } = event.kind {
                prop_assert_eq!(object["from_seq"].as_u64(), Some(from_seq));
                prop_assert_eq!(object["to_seq"].as_u64(), Some(to_seq));
                prop_assert_eq!(object.as_object().unwrap().len(), 4);
                return Ok(());
            }
            prop_assert_eq!(object["mono_ns"].as_u64(), Some(event.mono.0));
            prop_assert_eq!(object["seq"].as_u64(), (event.kind != EventKind::Beat).then_some(event.seq));
            let ts = object["ts"].as_str().unwrap();
            let since_1970 = humantime::parse_rfc3339(ts).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
            prop_assert_eq!(since_1970.as_nanos(), u128::from(event.wall.0));
            prop_assert_eq!(ts.len(), "2026-03-01T12:00:00.000000007Z".len());
            if let Some(agent) = event.agent {
                prop_assert_eq!(object["pid"].as_u64(), Some(u64::from(agent.pid)));
                prop_assert_eq!(object["nonce"].as_u64(), Some(agent.nonce));
                prop_assert_eq!(object["payload"].as_u64(), Some(agent.payload));
            }
            if let EventKind::Exit { how: Some(ExitHow::Code(code)), .. } = event.kind {
                prop_assert_eq!(object["code"].as_i64(), Some(i64::from(code)));
            }
        }
    }
}
