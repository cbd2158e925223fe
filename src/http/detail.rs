//! One agent: its slot, and a page of its past.

use super::agents::{Row, agent};
use super::ring::Ring;
use super::sources::Sources;
use crate::api::{AgentState, Blind, Exited, Past, Refused, Resume, Stall, Tracked};
use crate::event::Event;
use crate::label::Label;
use crate::table::slot::Flags;
use crate::time::MonoNs;

/// Most events of a page.
const EVENTS_MAX: usize = 200;

/// The last refused frame of a pid, if it was after `since`.
fn refused(pid: u32, since: MonoNs, sources: &Sources) -> Option<Refused> {
    let last = sources.ports.first()?.turned_away.last(pid).filter(|last| last.at > since)?;
    Some(Refused { at_ns: last.at.0, ago_ns: sources.now().since(last.at), why: last.why })
}

/// The events of a pid in the ring with numbers below `before`; at most a page.
pub fn past(pid: u32, ring: &Ring, before: Option<u64>) -> Past {
    let is_before = |event: &&Event| before.is_none_or(|before| event.seq < before);
    let latest = ring.latest_of_pid(pid).filter(is_before);
    let mut history: Vec<Event> = latest.take(EVENTS_MAX + 1).copied().collect();
    let is_more = history.len() > EVENTS_MAX;
    history.truncate(EVENTS_MAX);
    history.reverse();
    Past {
        history_next: history.first().filter(|_| is_more).map(|event| event.seq),
        history,
        history_from_seq: ring.whole_from_seq(),
    }
}

/// The past of a pid without a slot, or its refusal, without what is done about it; `None` if the pid is unknown. `is_later`: an earlier
/// page of its past was requested before.
pub fn exited(pid: u32, sources: &Sources, past: Past, is_later: bool) -> Option<Exited> {
    let refused = refused(pid, MonoNs(0), sources);
    let state = match (past.history.is_empty() && !is_later, &refused) {
        (false, _) => AgentState::Exited,
        (true, Some(_)) => AgentState::Refused,
        (true, None) => return None,
    };
    Some(Exited { pid, state, refused, act: None, past })
}

/// The agent of a row as of now, without what is done about it; `None` if it has gone meanwhile, or its slot is being written.
pub fn tracked(row: &Row, sources: &Sources, past: impl Fn(u32) -> Past) -> Option<Tracked> {
    let port = &sources.ports[usize::from(row.shard)];
    let (hot, cold) = port.table.read(row.slot).ok()?;
    let now = sources.now();
    let as_is = Row::new(port, row.shard, row.slot, hot, &cold)?;
    if (as_is.generation, hot.pid) != (row.generation, row.hot.pid) {
        return None;
    }
    let counters = &port.counters;
    let blind_ns = counters.blind_ns.get();
    let sent = as_is.beats + cold.beats_lost;
    Some(Tracked {
        agent: agent(&as_is, sources, now),
        as_of: now.0,
        off_hash: sources.is_off_hash(hot.pid, row.shard),
        period_ns: (as_is.beats > 2).then(|| hot.last_arrival.since(cold.first_arrival) / (sent - 1)),
        rule: sources.terms().classes.rule_of(hot.class),
        terminals: cold.terminals,
        mixed: hot.flags.has(Flags::MIXED),
        exe: sources.names.about(as_is.holder()).exe.and_then(Label::text).map(String::from),
        program_unreadable: sources.names.is_program_hidden(as_is.holder()),
        blind: Blind {
            is_blind: counters.is_blind.get() != 0,
            total_ns: blind_ns,
            last_end_ns: if blind_ns > 0 { counters.last_blind_end.get() } else { 0 },
        },
        stall: (cold.stalls > 0).then_some(Stall {
            at_ns: cold.stall_at.0,
            silent_ns: cold.stall_silent_ns,
            blind_ns: cold.stall_blind_ns,
            certain: !cold.is_stall_uncertain,
            last_nonce: cold.stall_nonce,
        }),
        resume: (cold.resumes > 0).then_some(Resume {
            at_ns: cold.resume_at.0,
            silent_ns: cold.resume_silent_ns,
            lost: cold.resume_lost,
        }),
        refused: refused(hot.pid, cold.first_arrival, sources),
        act: None,
        past: past(hot.pid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{About, Agent, EventKind, Origin};
    use crate::time::WallNs;
    use crate::wire::Status;

    #[test]
    fn fault_74_a_long_past_comes_in_pages_and_all_of_it() {
        let mut ring = Ring::default();
        for seq in 1..=1000 {
            let pid = if seq % 2 == 0 { 7 } else { 8 };
            let agent = Agent {
                pid,
                ns_pid: None,
                session: 1,
                nonce: 0,
                status: Status::Ok,
                origin: Origin::Vlp,
                payload: 0,
                about: About::UNKNOWN,
            };
            let (mono, wall) = (MonoNs(0), WallNs(0));
            ring.push(Event {
                seq,
                again: false,
                wall,
                mono,
                shard: Some(0),
                agent: Some(agent),
                kind: EventKind::Status { coalesced: 1 },
            });
        }
        let seqs = |past: &Past| past.history.iter().map(|event| event.seq).collect::<Vec<u64>>();
        let (mut pages, mut before) = (Vec::new(), None);
        loop {
            let past = past(7, &ring, before);
            pages.push(seqs(&past));
            before = past.history_next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [200, 200, 100]);
        pages.reverse();
        assert!(pages.concat().into_iter().eq((2..=1000).step_by(2)));
        assert!(past(7, &ring, Some(2)).history.is_empty());
    }
}
