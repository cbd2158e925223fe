//! Events as the tab-separated lines of varta-watch, for readers that already know them.
//!
//! ```text
//! observer_ns  kind      pid   nonce  status  payload
//! 2500000000   beat      4711  42     ok      7
//! 4600000000   stall     4711  42     stall   -
//! 4700000000   decode    -     -      -       BadMagic
//! 4800000000   mismatch  4712  -      -       auth_failure
//! 4900000000   io        -     -      -       No space left on device (os error 28)
//! 5000000000   exit      4711  42     ok      7
//! 5100000000   blind     -     -      -       end paused 1500000000
//! 5200000000   lost      -     -      -       118-240
//! ```
//!
//! Always six columns and no header; `-` is an empty column; `observer_ns` counts from the start of the
//! observer. The first five kinds are written as by varta-watch 0.2: a stall has status `stall` and no
//! payload, `mismatch` (here `auth`) has the claimed pid. Every other kind has its name in [`EventKind`] and
//! the last frame of its agent. A line about no agent has its detail in the last column: `blind` its phase,
//! reason and length, `full` the refused frames (and the user whose share is used up), `flood` its reason,
//! user (`-`: many), frames and refused frames, `start` the shards, `restart` its reason, shards, agents
//! adopted, those gone, and the gap in ns, `missing` user and name, `action` its phase, the action, why (`-`: no reason) and
//! the attempt, `brake` its phase, how many of how many agents stalled, and whom it holds, `lost` the first and the last `seq` that
//! this output had to drop. More does not fit; [`jsonl`](super::jsonl) has all fields.

use std::fmt;
use std::io::{self, Write};

use crate::event::{ActionWhy, Agent, BlindPhase, Event, EventKind, NoFrame};
use crate::label::Label;
use crate::message::Shown;
use crate::time::MonoNs;
use crate::wire::DecodeError;

/// Appends the event's six columns and a newline to `out`. `start`: when the observer started.
///
/// Allocates nothing once `out` has room, except for the text of an error number.
pub fn write_line(event: &Event, start: MonoNs, out: &mut Vec<u8>) {
    let written = write!(out, "{}\t{}\t{}", event.mono.since(start), name(&event.kind), Columns(event));
    debug_assert!(written.is_ok(), "a Vec takes every byte: {written:?}");
    out.push(b'\n');
}

fn name(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Auth { .. } => "mismatch",
        other => other.name(),
    }
}

/// Those of an event that says only which phase it is.
fn of_phase(f: &mut fmt::Formatter<'_>, agent: Option<Agent>, phase: &str) -> fmt::Result {
    match agent {
        Some(agent) => write!(f, "{}\t{}\t-\t{phase}", agent.pid, agent.nonce),
        None => write!(f, "-\t-\t-\t{phase}"),
    }
}

/// The columns `pid`, `nonce`, `status` and `payload`.
struct Columns<'a>(&'a Event);

impl fmt::Display for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agent = self.0.agent;
        match self.0.kind {
            EventKind::Stall { last_nonce, .. } => match agent {
                Some(agent) => write!(f, "{}\t{last_nonce}\tstall\t-", agent.pid),
                None => write!(f, "-\t{last_nonce}\tstall\t-"),
            },
            EventKind::Auth { claimed, .. } => write!(f, "{claimed}\t-\t-\tauth_failure"),
            EventKind::Decode { error, .. } => write!(f, "-\t-\t-\t{}", DecodeWord(error)),
            EventKind::Io { place, errno } => match place.own_words(errno) {
                Some(words) => write!(f, "-\t-\t-\t{words}"),
                None => write!(f, "-\t-\t-\t{}", io::Error::from_raw_os_error(errno)),
            },
            EventKind::Blind { phase: BlindPhase::Begin, why, .. } => {
                write!(f, "-\t-\t-\tbegin {}", why.as_str())
            }
            EventKind::Blind { phase: BlindPhase::End { for_ns }, why, .. } => {
                write!(f, "-\t-\t-\tend {} {for_ns}", why.as_str())
            }
            EventKind::Frozen { phase } => of_phase(f, agent, phase.as_str()),
            EventKind::Phase { phase } => of_phase(f, agent, phase.as_str()),
            EventKind::Moved { from } if planted!(SplitsAColumn) => write!(f, "-\t-\t-\tfrom\t{from}"),
            EventKind::Full { refused, share: None } => write!(f, "-\t-\t-\t{refused}"),
            EventKind::Full { refused, share: Some(share) } => {
                write!(f, "-\t-\t-\t{refused} {} {}", share.uid, share.refused)
            }
            EventKind::Flood { why, uid: Some(uid), frames, refused, .. } => {
                write!(f, "-\t-\t-\t{} {uid} {frames} {refused}", why.as_str())
            }
            EventKind::Flood { why, uid: None, frames, refused, .. } => {
                write!(f, "-\t-\t-\t{} - {frames} {refused}", why.as_str())
            }
            EventKind::Churn { uid, ups, exits, terminals, changes, .. } => {
                f.write_str("-\t-\t-\t")?;
                match uid {
                    Some(uid) => write!(f, "{uid}")?,
                    None => f.write_str("-")?,
                }
                write!(f, " {ups} {exits} {terminals} {changes}")
            }
            EventKind::Start { shards } => write!(f, "-\t-\t-\t{shards}"),
            EventKind::Restart { why, shards, adopted, gone, gap_ns } => {
                write!(f, "-\t-\t-\t{} {shards} {adopted} {gone} {gap_ns}", why.as_str())
            }
            EventKind::Reload { outcome, .. } => write!(f, "-\t-\t-\t{}", outcome.as_str()),
            EventKind::Missing { pid, uid, comm } => write!(f, "{pid}\t-\t-\t{uid} {}", Shown(comm.as_str())),
            EventKind::Action { action, phase, why, attempt, .. } => {
                match agent {
                    Some(agent) => write!(f, "{}\t{}\t-\t", agent.pid, agent.nonce)?,
                    None => f.write_str("-\t-\t-\t")?,
                }
                let why = why.map_or("-", ActionWhy::as_str);
                write!(f, "{} {} {why} {attempt}", phase.as_str(), action.as_str())
            }
            EventKind::Brake { phase, scope, uid, unit, stalls, agents, .. } => {
                write!(f, "-\t-\t-\t{} {stalls} {agents} {}", phase.as_str(), scope.as_str())?;
                match (uid, unit.and_then(Label::text)) {
                    (Some(uid), _) => write!(f, " {uid}"),
                    (None, Some(unit)) => write!(f, " {}", Shown(&*unit)),
                    (None, None) => Ok(()),
                }
            }
            EventKind::Lost { from_seq, to_seq } => write!(f, "-\t-\t-\t{from_seq}-{to_seq}"),
            _ => match agent {
                Some(agent) => {
                    write!(f, "{}\t{}\t{}\t{}", agent.pid, agent.nonce, agent.status, agent.payload)
                }
                None => f.write_str("-\t-\t-\t-"),
            },
        }
    }
}

/// A refusal as varta-watch 0.2 spells it; that has no word for a wrong size.
struct DecodeWord(NoFrame);

impl fmt::Display for DecodeWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoFrame::Undecodable(error) = self.0 else { return f.write_str("WrongSize") };
        match error {
            DecodeError::BadMagic(_) => f.write_str("BadMagic"),
            DecodeError::BadVersion(_) => f.write_str("BadVersion"),
            DecodeError::BadCrc { computed, received } => {
                write!(f, "BadCrc {{ expected: {computed}, actual: {received} }}")
            }
            DecodeError::BadStatus(byte) => write!(f, "BadStatus({byte})"),
            DecodeError::StallOnWire => f.write_str("StallOnWire"),
            DecodeError::BadPid(pid) => write!(f, "BadPid({pid})"),
            DecodeError::BadTimestamp(timestamp) => write!(f, "BadTimestamp({timestamp})"),
            DecodeError::BadNonce { nonce, status } => {
                write!(f, "BadNonce {{ nonce: {nonce}, status: {status:?} }}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lab::samples::{any_event, one_of_each};
    use crate::wire::{Frame, Status, Version};

    fn line_of(event: &Event, start: MonoNs) -> String {
        let mut out = Vec::new();
        write_line(event, start, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_kind_has_its_line() {
        let lines: String = one_of_each().iter().map(|event| line_of(event, MonoNs(1_000_000_000))).collect();
        let expected = [
            "start\t-\t-\t-\t4",
            "up\t4711\t42\tdegraded\t18446744073709551615",
            "up\t4711\t42\tdegraded\t18446744073709551615",
            "stall\t4711\t41\tstall\t-",
            "stall\t4711\t41\tstall\t-",
            "resume\t4711\t42\tdegraded\t18446744073709551615",
            "resume\t4711\t42\tdegraded\t18446744073709551615",
            "exit\t4711\t42\tdegraded\t18446744073709551615",
            "exit\t4711\t42\tdegraded\t18446744073709551615",
            "exit\t4711\t42\tdegraded\t18446744073709551615",
            "terminal\t4711\t42\tdegraded\t18446744073709551615",
            "status\t4711\t42\tdegraded\t18446744073709551615",
            "session\t4711\t42\tdegraded\t18446744073709551615",
            "mixed\t4711\t42\tdegraded\t18446744073709551615",
            "decode\t-\t-\t-\tBadCrc { expected: 1, actual: 2 }",
            "mismatch\t1\t-\t-\tauth_failure",
            "blind\t-\t-\t-\tbegin paused",
            "blind\t-\t-\t-\tend full 8",
            "full\t-\t-\t-\t12",
            "full\t-\t-\t-\t12 1001 7",
            "flood\t-\t-\t-\tbudget 1001 9000 8000",
            "flood\t-\t-\t-\tfull - 9000 0",
            "moved\t4711\t42\tdegraded\t18446744073709551615",
            "io\t-\t-\t-\tNo space left on device (os error 28)",
            "io\t-\t-\t-\tthe shard's thread panicked",
            "io\t-\t-\t-\tthe shard's thread is stuck",
            "io\t-\t-\t-\tit had been removed or replaced, and is in place again",
            "io\t-\t-\t-\tFile exists (os error 17)",
            "lost\t-\t-\t-\t5-9",
            "beat\t4711\t42\tdegraded\t18446744073709551615",
            "stop\t-\t-\t-\t-",
            "frozen\t4711\t42\t-\tbegin",
            "frozen\t4711\t42\t-\tend",
            "churn\t-\t-\t-\t1001 900 800 7 60",
            "churn\t-\t-\t-\t- 900 800 7 60",
            "restart\t-\t-\t-\tcrash 4 300 2 250000000",
            "blind\t-\t-\t-\tend restart 8",
            "exit\t4711\t42\tdegraded\t18446744073709551615",
            "reload\t-\t-\t-\tapplied",
            "reload\t-\t-\t-\trefused",
            "missing\t4711\t-\t-\t1000 worker",
            "exit\t4711\t42\tdegraded\t18446744073709551615",
            "action\t4711\t42\t-\theld restart-worker backoff 2",
            "action\t4711\t42\t-\tfailed restart-worker status 2",
            "brake\t-\t-\t-\tengaged 40 150 fleet",
            "brake\t-\t-\t-\tengaged 40 150 uid 1001",
            "brake\t-\t-\t-\tengaged 40 150 unit worker@7.service",
            "standstill\t4711\t42\tdegraded\t18446744073709551615",
            "advance\t4711\t42\tdegraded\t18446744073709551615",
            "phase\t4711\t42\t-\treloading",
            "stall\t4711\t41\tstall\t-",
            "up\t4711\t42\tdegraded\t18446744073709551615",
        ]
        .map(|columns| format!("1500000000\t{columns}"));
        assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn refusals_are_spelled_as_the_incumbents_own_decoder_does() {
        let good =
            Frame { version: Version::V02, status: Status::Ok, pid: 7, timestamp: 1, nonce: 1, payload: 0 };
        let mut bad_status = good.encode();
        bad_status[3] = 9;
        let crc = crc32c::crc32c(&bad_status[..28]);
        bad_status[28..].copy_from_slice(&crc.to_le_bytes());
        let mut bad_magic = good.encode();
        bad_magic[0] = 0;
        let mut bad_version = good.encode();
        bad_version[2] = 7;
        let mut bad_crc = good.encode();
        bad_crc[28] ^= 1;
        let frames = [
            bad_magic,
            bad_version,
            bad_crc,
            bad_status,
            Frame { status: Status::Stall, ..good }.encode(),
            Frame { pid: 1, ..good }.encode(),
            Frame { timestamp: u64::MAX, ..good }.encode(),
            Frame { nonce: u64::MAX, ..good }.encode(),
        ];
        for bytes in frames {
            let ours = crate::wire::decode(&bytes).unwrap_err();
            let theirs = varta_vlp_02::Frame::decode(&bytes).unwrap_err();
            assert_eq!(DecodeWord(NoFrame::Undecodable(ours)).to_string(), format!("{theirs:?}"));
        }
    }

    proptest! {
        #[test]
        fn one_event_is_one_line_of_six_columns(event in any_event(), start in any::<u64>()) {
            let line = line_of(&event, MonoNs(start));
            prop_assert!(line.ends_with('\n'));
            prop_assert_eq!(line.matches(|c: char| c.is_control() && c != '\t').count(), 1);
            let columns: Vec<&str> = line.trim_end_matches('\n').split('\t').collect();
            prop_assert_eq!(columns.len(), 6);
            prop_assert!(columns.iter().all(|column| !column.is_empty()));
            prop_assert_eq!(columns[0].parse::<u64>().unwrap(), event.mono.0.saturating_sub(start));
        }
    }
}
