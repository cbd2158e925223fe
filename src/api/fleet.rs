//! The state of the fleet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::act::ActBrake;
use super::dead::CrashLoop;
use crate::lane::uids::UidCounts;
use crate::time::WallNs;
use crate::view::snapshot::{Latencies, Quantiles};

/// The state of the fleet: `/api/v1/fleet`. Counts are since the start; counts of different shards are not of
/// the same instant.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Fleet {
    /// Version of the observer.
    pub version: String,
    /// Process id of the observer.
    pub pid: u32,
    /// Its runtime directory.
    pub dir: String,
    /// The function that maps pids to shards.
    pub hash: String,
    /// Address of the TCP listener, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// URL of the dashboard, `http` or `https`, if one is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dashboard: Option<String>,
    /// When it started.
    pub started: WallNs,
    /// When this was written.
    pub now: WallNs,
    /// The same, `CLOCK_MONOTONIC`: rates follow from the counts of two answers.
    pub mono_ns: u64,
    /// Every shard observes, and events are delivered.
    pub is_healthy: bool,
    /// Problems in words, worst first.
    pub problems: Vec<String>,
    /// Most agents the fleet tracks.
    pub agents_max: u32,
    /// The silence that is a stall, where no rule matches.
    pub threshold_ns: u64,
    /// Resolution of detection.
    pub tick_ns: u64,
    /// Rules; the first that matches applies.
    pub rules: Vec<Rule>,
    /// Agents that beat.
    pub up: u64,
    /// Agents that are stalled.
    pub stalled: u64,
    /// Agents at a standstill, most of them among those that beat.
    pub standstill: u64,
    /// Agents that died in the last minute.
    pub died: Died,
    /// What dies again and again.
    pub crash_loops: Vec<CrashLoop>,
    /// Brakes that hold actions, that of all agents first, then those with most stalls; at most 100.
    pub brakes: Vec<ActBrake>,
    /// The most important of this, in words.
    pub headline: Headline,
    /// Events reported.
    pub events: u64,
    /// Since when all of them are kept, for `/api/v1/events`, if any is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_kept: Option<FirstKept>,
    /// The file to which they are written, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_log: Option<EventLog>,
    /// Events that slow readers missed.
    pub events_dropped: u64,
    /// Failures of event outputs.
    pub event_write_errors: u64,
    /// Lookups that the kernel did not answer.
    pub lookups_failed: u64,
    /// Distributions of all shards together, with buckets.
    pub latencies: Latencies<Distribution>,
    /// The shards, by index.
    pub shards: Vec<Shard>,
}

/// The first event from which on all are kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct FirstKept {
    /// Its number.
    pub seq: u64,
    /// When it was reported.
    pub ts: WallNs,
}

/// The file of the event log. Whoever asks may be in another mount namespace, or not be allowed to read it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct EventLog {
    /// Its absolute path.
    pub path: String,
    /// `jsonl` or `tsv`.
    pub format: String,
}

/// What the fleet is to whoever looks at it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is to be done.
    #[default]
    Ok,
    /// Somebody should look.
    Warning,
    /// Somebody has to act.
    Critical,
}

/// The most important fact.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Headline {
    /// How much it matters.
    pub level: Level,
    /// The fact, a sentence without its full stop.
    pub text: String,
    /// The section of the runbook that says what to do; `None` if nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
}

/// Agents that died in the last minute: their processes ended, and nobody had asked for that. An end of which the kernel
/// did not say how is left out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Died {
    /// How many.
    pub agents: u64,
    /// Of how many: those that there are, and those that died.
    pub of: u64,
    /// The length of that minute.
    pub within_ns: u64,
    /// Why, the most frequent cause first.
    pub causes: Vec<Cause>,
}

/// How agents died.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Cause {
    /// `code`, `signal`, `oom` or `panic`, as in the metric `varta_deaths_total`.
    pub how: String,
    /// The exit status, of `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The signal, of `signal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// How many.
    pub agents: u64,
}

/// A rule, and the silence that is a stall for the agents it matches.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Rule {
    /// Pattern for the name of the process.
    pub comm: Option<String>,
    /// User id.
    pub uid: Option<u32>,
    /// Pattern for the path of the program.
    pub exe: Option<String>,
    /// Pattern for the unit.
    pub unit: Option<String>,
    /// The silence.
    pub threshold_ns: u64,
    /// The silence that is a stall for them while they start, if that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_threshold_ns: Option<u64>,
    /// The beats after which they have started; `None`: they have with a status `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_beats: Option<u32>,
    /// Payloads with which another silence is a stall for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// How long they may beat without an advance; `None`: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_threshold_ns: Option<u64>,
}

/// Payloads with which another silence is a stall.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Phase {
    /// The least of them.
    pub from: u64,
    /// The largest.
    pub to: u64,
    /// The silence.
    pub threshold_ns: u64,
}

/// One shard. [`ShardSnapshot`](crate::ShardSnapshot) explains the counts.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Shard {
    /// Its index.
    pub shard: u16,
    /// Path of its socket.
    pub socket: String,
    /// Agents that beat.
    pub up: u64,
    /// Agents that are stalled.
    pub stalled: u64,
    /// Agents whose exit is noticed only at their threshold.
    pub unwatched: u64,
    /// Agents whose pid does not hash to this shard.
    pub off_hash: u64,
    /// Datagrams received: beats and refused.
    pub frames: u64,
    /// Accepted frames.
    pub beats: u64,
    /// Beats lost before the shard, a lower bound.
    pub lost: u64,
    /// Refused datagrams by reason, every reason.
    pub refused: BTreeMap<String, u64>,
    /// Stalls reported.
    pub stalls: u64,
    /// Stalls that were not certain.
    pub stalls_uncertain: u64,
    /// Stalls that the resuming beat refuted.
    pub stalls_refuted: u64,
    /// Resumes reported.
    pub resumes: u64,
    /// Agents at a standstill: they beat, and their rule says that they do not advance.
    pub standstill: u64,
    /// Standstills reported.
    pub standstills: u64,
    /// Standstills that were not certain.
    pub standstills_uncertain: u64,
    /// Standstills that ended with an advance.
    pub advances: u64,
    /// Exits reported.
    pub exits: u64,
    /// Exits that nobody asked for: neither status 0 nor SIGTERM, SIGINT, SIGHUP or SIGPIPE.
    pub deaths: u64,
    /// Calls of recvmmsg.
    pub receive_calls: u64,
    /// Reports missing from the histograms.
    pub reports_dropped: u64,
    /// Total length of the blind windows that ended.
    pub blind_ns: u64,
    /// It is blind now.
    pub is_blind: bool,
    /// Its thread runs and makes progress.
    pub is_alive: bool,
    /// Its socket is at its path.
    pub is_reachable: bool,
    /// Limit of its socket's queue.
    pub queue_limit: u64,
    /// Time since it last finished a turn.
    pub tick_age_ns: u64,
    /// Its distributions, with buckets for the wait in the queue.
    pub latencies: Latencies<Distribution>,
    /// The busiest users first, at most 20.
    pub uids: Vec<UidCounts>,
}

impl Shard {
    /// Refused datagrams, whatever the reason.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// One distribution.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Distribution {
    /// Its quantiles.
    #[serde(flatten)]
    pub quantiles: Quantiles,
    /// Bounds (`None`: above all others), and the number of values up to each; only where requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<(Option<u64>, u64)>,
}

impl From<Quantiles> for Distribution {
    fn from(quantiles: Quantiles) -> Self {
        Self { quantiles, buckets: Vec::new() }
    }
}

impl Distribution {
    /// The bound below which `permille` thousandths of the values since `then` lie; 0 if there are no values.
    #[must_use]
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
        // Values above the last bound are only known to be larger.
        let bounds = self.buckets[..=at].iter().rev();
        bounds.filter_map(|(bound, _)| *bound).next().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_came_between() {
        let of = |buckets: &[(Option<u64>, u64)]| Distribution {
            buckets: buckets.to_vec(),
            ..Distribution::default()
        };
        let then = of(&[(Some(10), 100), (Some(20), 100), (None, 100)]);
        let now = of(&[(Some(10), 150), (Some(20), 199), (None, 200)]);
        assert_eq!((now.bound_since(&then, 500), now.bound_since(&then, 990)), (10, 20));
        assert_eq!(now.bound_since(&now, 990), 0);
        let over = of(&[(Some(10), 0), (None, 1)]);
        assert_eq!(over.bound_since(&of(&[]), 990), 10, "above the last bound");
        assert_eq!(of(&[]).bound_since(&of(&[]), 990), 0);
    }
}
