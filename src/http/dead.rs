//! The agents that died last, for clients.

use super::agents::{pattern, unit_pattern};
use super::query::{BadQuery, Query};
use crate::api::{CrashLoop, Dead, DeadAgent};
use crate::event::{About, EventKind, ExitHow, Texts};
use crate::pattern::Pattern;
use crate::rules::Death;
use crate::time::MonoNs;
use crate::view::dead;
use crate::view::deaths::RECENT_NS;

/// Which of them a client asks for.
#[derive(Debug)]
pub struct Selection {
    shard: Option<u64>,
    uid: Option<u64>,
    comm: Option<Pattern>,
    unit: Option<Pattern>,
    limit: usize,
}

impl Selection {
    /// The selection that the query asks for.
    ///
    /// # Errors
    /// A parameter is invalid.
    pub fn parse(query: &Query) -> Result<Self, BadQuery> {
        query.allows(&["shard", "uid", "comm", "unit", "limit"])?;
        let limit = query.number("limit", 1, dead::KEPT as u64)?;
        Ok(Self {
            shard: query.number("shard", 0, u64::from(u16::MAX))?,
            uid: query.number("uid", 0, u64::from(u32::MAX))?,
            comm: query.text("comm").map(pattern).transpose()?,
            unit: query.text("unit").map(unit_pattern).transpose()?,
            limit: limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(dead::KEPT),
        })
    }

    fn takes(&self, dead: &dead::DeadAgent) -> bool {
        let about = dead.about();
        self.shard.is_none_or(|shard| dead.event.shard.map(u64::from) == Some(shard))
            && self.uid.is_none_or(|uid| about.uid.map(u64::from) == Some(uid))
            && Pattern::takes(self.comm.as_ref(), || Some(about.comm.as_str()))
            && Pattern::takes(self.unit.as_ref(), || dead.texts.unit.as_deref())
    }
}

/// The selected agents, the latest first.
pub fn answer(kept: &dead::Dead, selection: &Selection, now: MonoNs) -> Dead {
    let selected: Vec<&dead::DeadAgent> = kept.latest().filter(|dead| selection.takes(dead)).collect();
    Dead {
        dead: selected.iter().take(selection.limit).map(|dead| agent(dead)).collect(),
        total: selected.len() as u64,
        as_of: now.0,
        crash_loops: crash_loops(kept, now),
    }
}

/// What dies again and again.
pub fn crash_loops(kept: &dead::Dead, now: MonoNs) -> Vec<CrashLoop> {
    let told = |each: &dead::CrashLoop| {
        let Texts { unit, exe, .. } = each.about.texts();
        CrashLoop {
            unit: unit.map(String::from),
            uid: each.about.uid,
            exe: exe.map(String::from),
            comm: comm(&each.about),
            deaths: each.deaths,
            within_ns: RECENT_NS,
        }
    };
    kept.crash_loops(now).iter().map(told).collect()
}

fn agent(dead: &dead::DeadAgent) -> DeadAgent {
    let event = &dead.event;
    let about = dead.about();
    let Texts { unit, container, exe } = dead.texts.clone();
    let (silent_ns, how) = match event.kind {
        EventKind::Exit { silent_ns, how, .. } => (silent_ns, how),
        _ => (0, None),
    };
    DeadAgent {
        pid: event.pid().unwrap_or(0),
        session: event.agent.map_or(0, |agent| agent.session),
        shard: event.shard.unwrap_or(0),
        uid: about.uid,
        comm: comm(&about),
        unit: unit.map(String::from),
        container: container.map(String::from),
        exe: exe.map(String::from),
        death: match dead.death {
            Death::Code(code) => format!("exit status {code}"),
            Death::Signal(signal) => format!("signal {signal}"),
            Death::OutOfMemory => "out of memory".to_owned(),
            Death::Panic | Death::Unknown => Death::WORDS[dead.death.kind()].to_owned(),
        },
        code: how.and_then(ExitHow::code),
        signal: how.and_then(ExitHow::signal),
        at: event.wall,
        mono_ns: event.mono.0,
        silent_ns,
        lived_ns: dead.lived_ns,
        deaths_before: dead.deaths_before,
    }
}

fn comm(about: &About) -> Option<String> {
    (!about.comm.is_empty()).then(|| about.comm.as_str().to_owned())
}
