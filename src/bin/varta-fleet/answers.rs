//! The answers of a fleet, as far as they are shown.

use std::collections::BTreeMap;

use serde::Deserialize;
use varta_fleet::event::Event;

/// The state of the fleet.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Fleet {
    pub version: String,
    pub pid: u32,
    pub dir: String,
    pub http: Option<String>,
    pub started: String,
    pub now: String,
    pub mono_ns: u64,
    pub is_healthy: bool,
    pub problems: Vec<String>,
    pub agents_max: u32,
    pub threshold_ns: u64,
    pub rules: Vec<Rule>,
    pub up: u64,
    pub stalled: u64,
    pub events: u64,
    pub latencies: Latencies,
    pub shards: Vec<Shard>,
}

/// A class of agents.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Rule {
    pub comm: Option<String>,
    pub uid: Option<u32>,
    pub exe: Option<String>,
}

/// One shard.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Shard {
    pub shard: u16,
    pub up: u64,
    pub stalled: u64,
    pub beats: u64,
    pub lost: u64,
    pub refused: BTreeMap<String, u64>,
    pub stalls: u64,
    pub stalls_uncertain: u64,
    pub stalls_refuted: u64,
    pub resumes: u64,
    pub exits: u64,
    pub reports_dropped: u64,
    pub blind_ns: u64,
    pub is_blind: bool,
    pub is_alive: bool,
    pub queue_limit: u64,
    pub tick_age_ns: u64,
    pub latencies: Latencies,
}

impl Shard {
    /// Refused datagrams, for all reasons.
    pub fn refused(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// Distributions.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Latencies {
    pub decode_ns: Quantiles,
    pub queue_ns: Quantiles,
    pub batch_frames: Quantiles,
    pub lateness_ns: Quantiles,
}

/// One distribution.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Quantiles {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    /// Bounds, and the number of values up to each; only where requested.
    #[serde(default)]
    pub buckets: Vec<(Option<u64>, u64)>,
}

impl Quantiles {
    /// The bound below which `permille` thousandths of the values since `then` lie; 0 if there are none.
    pub fn bound_since(&self, then: &Self, permille: u64) -> u64 {
        let came = |at: usize| {
            let before = then.buckets.get(at).map_or(0, |(_, count)| *count);
            self.buckets[at].1.saturating_sub(before)
        };
        let last = self.buckets.len().saturating_sub(1);
        let Some(all) = (!self.buckets.is_empty()).then(|| came(last)).filter(|all| *all > 0) else {
            return 0;
        };
        let at = (0..last).find(|at| came(*at) * 1000 >= all * permille).unwrap_or(last);
        // Above the last bound nothing more is known.
        let bounds = self.buckets[..=at].iter().rev();
        bounds.filter_map(|(bound, _)| *bound).next().unwrap_or(0)
    }
}

/// A page of agents.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Page {
    pub agents: Vec<Agent>,
    pub next: Option<String>,
    pub total: u64,
}

/// One agent.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Agent {
    pub pid: u32,
    pub ns_pid: Option<u32>,
    pub shard: u16,
    pub state: String,
    pub status: String,
    pub uid: u32,
    pub comm: Option<String>,
    pub wire: String,
    pub beats: u64,
    pub lost: u64,
    pub stalls: u32,
    pub silent_ns: u64,
    pub threshold_ns: u64,
    pub first_ns: u64,
    pub last_ns: u64,
}

/// One agent and its past, or an exited agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Detail {
    Tracked(Box<Tracked>),
    Exited(Exited),
}

/// A tracked agent.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Tracked {
    #[serde(flatten)]
    pub agent: Agent,
    pub as_of: u64,
    pub off_hash: bool,
    pub period_ns: Option<u64>,
    pub rule: Option<usize>,
    pub terminals: u32,
    pub mixed: bool,
    #[serde(default)]
    pub program_unreadable: bool,
    pub blind: Blind,
    pub stall: Option<Stall>,
    pub resume: Option<Resume>,
    pub refused: Option<Refused>,
    pub history: Vec<Event>,
    pub history_next: Option<u64>,
    pub history_from_seq: u64,
}

/// An exited agent.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Exited {
    pub pid: u32,
    pub refused: Option<Refused>,
    pub history: Vec<Event>,
    pub history_next: Option<u64>,
    pub history_from_seq: u64,
}

/// The last frame of the agent that was refused by a limit of the fleet.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Refused {
    pub ago_ns: u64,
    pub why: String,
}

/// How long its shard was blind.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Blind {
    pub is_blind: bool,
    pub total_ns: u64,
    pub last_end_ns: u64,
}

/// The last stall.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Stall {
    pub at_ns: u64,
    pub silent_ns: u64,
    pub blind_ns: u64,
    pub certain: bool,
}

/// The last silence that ended.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Resume {
    pub at_ns: u64,
    pub silent_ns: u64,
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_came_between() {
        let of =
            |buckets: &[(Option<u64>, u64)]| Quantiles { buckets: buckets.to_vec(), ..Quantiles::default() };
        let then = of(&[(Some(10), 100), (Some(20), 100), (None, 100)]);
        let now = of(&[(Some(10), 150), (Some(20), 199), (None, 200)]);
        assert_eq!((now.bound_since(&then, 500), now.bound_since(&then, 990)), (10, 20));
        assert_eq!(now.bound_since(&now, 990), 0);
        let over = of(&[(Some(10), 0), (None, 1)]);
        assert_eq!(over.bound_since(&of(&[]), 990), 10, "above the last bound");
        assert_eq!(of(&[]).bound_since(&of(&[]), 990), 0);
    }
}
