//! Reads back what the exporters write.

use serde_json::Value;

use crate::event::{Event, EventKind};
use crate::lab::simulator::model::START;
use crate::sinks::{Format, jsonl};

/// Longest line allowed.
const LINE_MAX: usize = 512;
const TSV_COLUMNS: usize = 6;

/// Returns what is wrong with the lines written for the event, if anything.
pub fn read_back(event: &Event) -> Result<(), String> {
    let mut line = Vec::new();
    jsonl::write_line(event, &mut line);
    let json = one_line(&line)?;
    let object: Value = serde_json::from_str(json).map_err(|error| format!("{json} is no JSON: {error}"))?;
    let number = |name: &str| object[name].as_u64();
    let is_same = number("v") == Some(1) && object["kind"] == event.kind.name();
    let is_lost = matches!(event.kind, EventKind::Lost { .. });
    let is_timed = number("mono_ns") == Some(event.mono.0)
        && object["ts"].as_str().is_some_and(|ts| humantime::parse_rfc3339(ts).is_ok());
    let is_numbered = object.get("seq").is_none() || number("seq") == Some(event.seq);
    let is_of_shard = event.shard.map(u64::from) == number("shard");
    let is_of_agent = event.agent.is_none_or(|agent| {
        number("pid") == Some(u64::from(agent.pid))
            && number("session") == Some(u64::from(agent.session))
            && number("nonce") == Some(agent.nonce)
            && number("payload") == Some(agent.payload)
            && object["status"].as_str() == Some(agent.status.as_str())
            && number("ns_pid") == agent.ns_pid.map(u64::from)
    });
    let has_detail = match event.kind {
        EventKind::Stall { silent_ns, last_nonce, certain, blind_ns, .. } => {
            number("silent_ns") == Some(silent_ns)
                && number("last_nonce") == Some(last_nonce)
                && object["certain"].as_bool() == Some(certain)
                && number("blind_ns") == Some(blind_ns)
        }
        EventKind::Resume { silent_ns, lost, .. } => {
            number("silent_ns") == Some(silent_ns) && number("lost") == Some(lost)
        }
        EventKind::Standstill { still_ns, certain } => {
            number("still_ns") == Some(still_ns) && object["certain"].as_bool() == Some(certain)
        }
        EventKind::Phase { phase } => object["phase"].as_str() == Some(phase.as_str()),
        EventKind::Advance { still_ns, why } => {
            number("still_ns") == Some(still_ns) && object["why"].as_str() == Some(why.as_str())
        }
        EventKind::Exit { silent_ns, .. } => number("silent_ns") == Some(silent_ns),
        EventKind::Moved { from } => number("from") == Some(u64::from(from)),
        EventKind::Lost { from_seq, to_seq } => {
            number("from_seq") == Some(from_seq) && number("to_seq") == Some(to_seq)
        }
        _ => true,
    };
    let is_whole = is_lost || is_timed && is_numbered && is_of_shard && is_of_agent;
    if !is_same || !is_whole || !has_detail {
        return Err(format!("{event:?} is written as {json}"));
    }
    let mut line = Vec::new();
    Format::Tsv { start: START }.write_line(event, &mut line);
    let columns: Vec<&str> = one_line(&line)?.split('\t').collect();
    let is_instant = columns[0] == event.mono.since(START).to_string();
    let is_kind = columns.get(1) == Some(&event.kind.name()) || columns.get(1) == Some(&"mismatch");
    if columns.len() != TSV_COLUMNS
        || columns.iter().any(|column| column.is_empty())
        || !is_instant
        || !is_kind
    {
        return Err(format!("{event:?} is written as {columns:?}"));
    }
    Ok(())
}

fn one_line(line: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("{line:?}: {error}"))?;
    let is_one = text.ends_with('\n') && text.chars().filter(|c| c.is_control() && *c != '\t').count() == 1;
    if !is_one || line.len() > LINE_MAX {
        return Err(format!("{text:?} is not one line of at most {LINE_MAX} bytes"));
    }
    Ok(text.trim_end())
}
