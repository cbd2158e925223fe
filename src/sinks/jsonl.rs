//! Events as JSON Lines, schema version 1: one object a line, its fields always in the same order.
//!
//! ```text
//! {"v":1,"seq":7,"ts":"2026-03-01T12:00:00.000000000Z","mono_ns":2500000000,"kind":"stall","shard":1,"pid":4711,"session":1,"nonce":42,"status":"ok","payload":0,"silent_ns":2000000000,"last_nonce":42,"certain":true,"blind_ns":0}
//! ```
//!
//! `v`, `ts`, `mono_ns` and `kind` are in every line, `seq` in every line but those of beats; `shard`,
//! `pid`, `ns_pid`, `session`, `nonce`, `status` and `payload` where they apply; after them what the
//! kind adds. One line is different: `{"v":1,"kind":"lost","from_seq":…,"to_seq":…}` stands for the
//! events of a range that this output had to drop.
//!
//! Numbers of 64 bits are written whole, as JSON allows; a reader that keeps numbers as doubles
//! rounds nonces and payloads above 2^53.

use std::io;

use serde::{Serialize, Serializer};

use super::wording::{CUT, PUT_BACK};
use crate::event::{BlindPhase, Event, EventKind, ExitHow, IoPlace};
use crate::time::WallNs;

const SCHEMA: u8 = 1;

/// Appends the event's JSON object and a newline to `out`.
///
/// Allocates nothing once `out` has room, except for the text of an error number. The newline is the
/// only one: strings are escaped.
pub fn write_line(event: &Event, out: &mut Vec<u8>) {
    let written = match event.kind {
        EventKind::Lost { from_seq, to_seq } => {
            serde_json::to_writer(&mut *out, &LostLine { v: SCHEMA, kind: "lost", from_seq, to_seq })
        }
        _ => serde_json::to_writer(&mut *out, &Line::of(event)),
    };
    debug_assert!(written.is_ok(), "a Vec takes every byte, and every key is a string: {written:?}");
    out.push(b'\n');
}

/// The fields in the order of the schema; what does not apply is left out.
#[derive(Serialize)]
struct Line {
    v: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(serialize_with = "rfc3339")]
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
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<u64>,
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

/// What a kind adds, after the common fields.
#[derive(Serialize)]
#[serde(untagged)]
enum Detail {
    Nothing,
    Stall {
        silent_ns: u64,
        last_nonce: u64,
        certain: bool,
        blind_ns: u64,
        #[serde(skip_serializing_if = "is_single")]
        coalesced: u32,
    },
    Resume {
        silent_ns: u64,
        lost: u64,
        #[serde(skip_serializing_if = "is_single")]
        coalesced: u32,
    },
    /// `None` is written as null: the kernel does not say how the process ended.
    ExitCode {
        silent_ns: u64,
        code: Option<u8>,
    },
    ExitSignal {
        silent_ns: u64,
        signal: u8,
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
    Frozen {
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
    /// `None` is written as null, here and below: many users, none of whom has a row of its own.
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
}

impl Line {
    fn of(event: &Event) -> Self {
        let agent = event.agent;
        let attested = match event.kind {
            EventKind::Decode { attested, .. } => Some(attested).filter(|pid| *pid != 0),
            _ => None,
        };
        Self {
            v: SCHEMA,
            seq: match event.kind {
                EventKind::Beat => None,
                _ => Some(event.seq),
            },
            ts: event.wall,
            mono_ns: event.mono.0,
            kind: event.kind.name(),
            shard: event.shard,
            pid: agent.map(|agent| agent.pid).or(attested),
            ns_pid: agent.and_then(|agent| agent.ns_pid),
            session: agent.map(|agent| agent.session),
            nonce: agent.map(|agent| agent.nonce),
            status: agent.map(|agent| agent.status.as_str()),
            payload: agent.map(|agent| agent.payload),
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
            EventKind::Stall { silent_ns, last_nonce, certain, blind_ns, coalesced } => {
                Self::Stall { silent_ns, last_nonce, certain, blind_ns, coalesced }
            }
            EventKind::Resume { silent_ns, lost, coalesced } => Self::Resume { silent_ns, lost, coalesced },
            EventKind::Frozen { phase } => Self::Frozen { phase: phase.as_str() },
            EventKind::Exit { silent_ns, how } => match how {
                Some(ExitHow::Signal(signal)) => Self::ExitSignal { silent_ns, signal },
                Some(ExitHow::Code(code)) => Self::ExitCode { silent_ns, code: Some(code) },
                None => Self::ExitCode { silent_ns, code: None },
            },
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
                Self::Io { place: place.as_str(), errno, error: error_words(place, errno) }
            }
            EventKind::Start { shards } => Self::Start { shards },
        }
    }
}

/// The kernel's words for `errno`, without the number: that has its own field.
fn error_words(place: IoPlace, errno: i32) -> String {
    match place {
        IoPlace::Shard => return "the shard's thread panicked".to_owned(),
        IoPlace::ShardStuck => return "the shard's thread is stuck".to_owned(),
        IoPlace::Socket | IoPlace::Directory if errno == 0 => return PUT_BACK.to_owned(),
        IoPlace::Events if errno == 0 => return CUT.to_owned(),
        IoPlace::Receive | IoPlace::Events | IoPlace::Socket | IoPlace::Directory => {}
    }
    let mut words = io::Error::from_raw_os_error(errno).to_string();
    if let Some(end) = words.find(" (os error") {
        words.truncate(end);
    }
    words
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_single(coalesced: &u32) -> bool {
    *coalesced <= 1
}

fn rfc3339<S: Serializer>(ts: &WallNs, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::samples::{any_event, one_of_each};
    use super::*;

    fn line_of(event: &Event) -> String {
        let mut out = Vec::new();
        write_line(event, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The schema is a contract: a line that changes here is a new schema version.
    #[test]
    fn every_kind_has_its_line() {
        let lines: String = one_of_each().iter().map(line_of).collect();
        let common = |seq: u64| {
            format!(r#""v":1,"seq":{seq},"ts":"2026-03-01T12:00:00.000000007Z","mono_ns":2500000000,"kind""#)
        };
        let agent = r#""shard":1,"pid":4711,"ns_pid":7,"session":3,"nonce":42,"status":"degraded","payload":18446744073709551615"#;
        let outside = r#""shard":1,"pid":4711,"session":3,"nonce":42,"status":"degraded","payload":18446744073709551615"#;
        let expected = [
            format!(r#"{{{}:"start","shards":4}}"#, common(1)),
            format!(r#"{{{}:"up",{agent}}}"#, common(2)),
            format!(r#"{{{}:"up",{outside}}}"#, common(3)),
            format!(
                r#"{{{}:"stall",{agent},"silent_ns":2000000000,"last_nonce":41,"certain":true,"blind_ns":0}}"#,
                common(4)
            ),
            format!(
                r#"{{{}:"stall",{agent},"silent_ns":2000000000,"last_nonce":41,"certain":false,"blind_ns":9,"coalesced":2}}"#,
                common(5)
            ),
            format!(r#"{{{}:"resume",{agent},"silent_ns":2000000000,"lost":5}}"#, common(6)),
            format!(r#"{{{}:"resume",{agent},"silent_ns":2000000000,"lost":5,"coalesced":3}}"#, common(7)),
            format!(r#"{{{}:"exit",{agent},"silent_ns":1,"code":3}}"#, common(8)),
            format!(r#"{{{}:"exit",{agent},"silent_ns":1,"signal":9}}"#, common(9)),
            format!(r#"{{{}:"exit",{agent},"silent_ns":1,"code":null}}"#, common(10)),
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
        ];
        assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn lines_are_appended() {
        let mut out = b"before\n".to_vec();
        for event in one_of_each() {
            write_line(&event, &mut out);
        }
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines.len()), ("before", one_of_each().len() + 1));
    }

    proptest! {
        #[test]
        fn one_event_is_one_line_whose_numbers_are_whole(event in any_event()) {
            let line = line_of(&event);
            prop_assert!(line.ends_with('\n'));
            prop_assert_eq!(line.matches(|c: char| c.is_control()).count(), 1);
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
