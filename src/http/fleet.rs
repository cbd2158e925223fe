//! The state of the fleet as JSON: a snapshot, and the problems.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::metrics::{Buckets, bounds};
use super::sources::Sources;
use crate::config::plan::Rule;
use crate::lane::uids::UidCounts;
use crate::time::{MonoNs, WallNs};
use crate::view::snapshot::{Latencies, Quantiles, ShardSnapshot, Snapshot};
use crate::view::tally::Histograms;
use crate::view::text::rounded;

/// Users listed per shard.
const UIDS: usize = 20;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct FleetAnswer {
    version: &'static str,
    pid: u32,
    dir: String,
    hash: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    started: String,
    now: String,
    mono_ns: u64,
    is_healthy: bool,
    problems: Vec<String>,
    agents_max: u32,
    threshold_ns: u64,
    tick_ns: u64,
    rules: Vec<RuleAnswer>,
    up: u64,
    stalled: u64,
    events: u64,
    events_dropped: u64,
    event_write_errors: u64,
    lookups_failed: u64,
    latencies: Distributions,
    shards: Vec<ShardAnswer>,
}

#[derive(Debug, Serialize)]
struct RuleAnswer {
    comm: Option<String>,
    uid: Option<u32>,
    exe: Option<String>,
    threshold_ns: u64,
}

#[derive(Debug, Serialize)]
struct Distributions {
    decode_ns: Distribution,
    queue_ns: Distribution,
    batch_frames: Distribution,
    lateness_ns: Distribution,
}

#[derive(Debug, Serialize)]
struct Distribution {
    count: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    buckets: Vec<(Option<u64>, u64)>,
}

#[derive(Debug, Serialize)]
struct ShardAnswer {
    shard: usize,
    socket: String,
    up: u64,
    stalled: u64,
    unwatched: u64,
    off_hash: u64,
    frames: u64,
    beats: u64,
    lost: u64,
    refused: BTreeMap<&'static str, u64>,
    stalls: u64,
    stalls_uncertain: u64,
    stalls_refuted: u64,
    resumes: u64,
    exits: u64,
    receive_calls: u64,
    reports_dropped: u64,
    blind_ns: u64,
    is_blind: bool,
    is_alive: bool,
    is_reachable: bool,
    queue_limit: u64,
    tick_age_ns: u64,
    latencies: Distributions,
    uids: Vec<UidAnswer>,
}

#[derive(Debug, Serialize)]
struct UidAnswer {
    /// Null: all users without a row of their own.
    uid: Option<u32>,
    agents: u64,
    frames: u64,
    refused: u64,
    over_budget: u64,
}

impl FleetAnswer {
    /// As of now.
    pub fn of(sources: &Sources, now: MonoNs, wall: WallNs) -> Self {
        let tally = sources.copies.take();
        let snapshot = Snapshot::take(&sources.ports, &tally, sources.plan.agents_max);
        let merged = tally.merged();
        let health = sources.vitals.health(&snapshot, now);
        let age = |shard: usize| now.since(MonoNs(sources.ports[shard].counters.turned_at.get()));
        let sockets = sources.plan.shards.iter().map(|shard| shard.socket.display().to_string());
        let shards = (0..).zip(snapshot.shards.iter().zip(sockets));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            dir: sources.dir.display().to_string(),
            hash: crate::route::HASH,
            http: sources.address.map(|address| address.to_string()),
            started: sources.started.1.to_string(),
            now: wall.to_string(),
            mono_ns: now.0,
            is_healthy: health.is_healthy(),
            problems: health.problems.iter().map(ToString::to_string).collect(),
            agents_max: snapshot.agents_max,
            threshold_ns: sources.plan.threshold_ns,
            tick_ns: sources.plan.tick_ns,
            rules: sources.plan.rules.iter().map(RuleAnswer::of).collect(),
            up: snapshot.agents() - snapshot.stalled(),
            stalled: snapshot.stalled(),
            events: snapshot.events,
            events_dropped: snapshot.events_dropped,
            event_write_errors: snapshot.event_write_errors,
            lookups_failed: snapshot.lookups_failed,
            latencies: Distributions::of(&Latencies::from(&merged)).with_buckets(&merged),
            shards: shards
                .map(|(index, (shard, socket))| {
                    let histograms = &tally.shards[index].histograms;
                    ShardAnswer::of(index, shard, socket, age(index)).with_queue(&histograms.queue_ns)
                })
                .collect(),
        }
    }
}

impl FleetAnswer {
    /// The problems, as text.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// For the page without a script.
impl FleetAnswer {
    /// The headline and its class: `good`, `old` or `bad`.
    pub fn headline(&self) -> (&'static str, String) {
        let agents = self.up + self.stalled;
        if !self.is_healthy {
            return ("bad", "Not healthy: agents are not observed as they should be".to_owned());
        }
        if self.stalled > 0 {
            return ("bad", format!("{} of {agents} agents stalled", self.stalled));
        }
        if self.shards.iter().any(|shard| shard.is_blind) {
            return ("old", "A shard cannot see".to_owned());
        }
        match agents {
            0 => ("old", "No agent beats".to_owned()),
            _ => ("good", format!("All well: {agents} agents beat")),
        }
    }

    /// The line below the headline.
    pub fn summary(&self) -> String {
        let threshold = rounded(self.threshold_ns);
        format!(
            "{} shards · a silence of {threshold} is a stall · since {} · {}",
            self.shards.len(),
            self.started,
            self.dir
        )
    }

    /// The table of shards.
    pub fn rows(&self) -> impl Iterator<Item = Vec<String>> {
        self.shards.iter().map(move |shard| {
            let state = match (shard.is_alive, shard.is_blind, shard.is_reachable) {
                (false, ..) => "dead",
                (true, true, _) => "blind",
                (true, false, false) => "not reachable",
                (true, false, true) => "sees",
            };
            let refused: u64 = shard.refused.values().sum();
            let counts = [shard.shard as u64, shard.up, shard.stalled];
            let mut cells: Vec<String> = counts.iter().map(u64::to_string).collect();
            cells.push("–".to_owned());
            cells.extend([shard.beats, shard.lost, refused].iter().map(u64::to_string));
            cells.extend([shard.latencies.queue_ns.p99, shard.tick_age_ns, shard.blind_ns].map(rounded));
            cells.extend([shard.queue_limit.to_string(), state.to_owned()]);
            cells
        })
    }
}

impl RuleAnswer {
    fn of(rule: &Rule) -> Self {
        Self {
            comm: rule.matcher.comm.clone(),
            uid: rule.matcher.uid,
            exe: rule.matcher.exe.clone(),
            threshold_ns: rule.threshold_ns,
        }
    }
}

impl Distributions {
    fn of(latencies: &Latencies) -> Self {
        Self {
            decode_ns: Distribution::of(&latencies.decode_ns),
            queue_ns: Distribution::of(&latencies.queue_ns),
            batch_frames: Distribution::of(&latencies.batch_frames),
            lateness_ns: Distribution::of(&latencies.lateness_ns),
        }
    }

    fn with_buckets(mut self, histograms: &Histograms) -> Self {
        let pairs = [
            (&mut self.decode_ns, &histograms.decode_ns, true),
            (&mut self.queue_ns, &histograms.queue_ns, true),
            (&mut self.batch_frames, &histograms.batch_frames, false),
            (&mut self.lateness_ns, &histograms.lateness_ns, true),
        ];
        for (distribution, histogram, is_time) in pairs {
            distribution.fill(histogram, is_time);
        }
        self
    }
}

impl Distribution {
    const fn of(quantiles: &Quantiles) -> Self {
        let Quantiles { count, p50, p90, p99, p999, max } = *quantiles;
        Self { count, p50, p90, p99, p999, max, buckets: Vec::new() }
    }

    fn fill(&mut self, histogram: &Histogram<u64>, is_time: bool) {
        let bounds = bounds(is_time);
        self.buckets = Buckets::of(histogram, bounds).cumulative(bounds);
    }
}

impl ShardAnswer {
    fn of(index: usize, shard: &ShardSnapshot, socket: String, tick_age_ns: u64) -> Self {
        Self {
            shard: index,
            socket,
            up: shard.up,
            stalled: shard.stalled,
            unwatched: shard.unwatched,
            off_hash: shard.off_hash,
            frames: shard.frames,
            beats: shard.beats,
            lost: shard.beats_lost,
            refused: shard.refused.iter().map(|(reason, count)| (reason.as_str(), *count)).collect(),
            stalls: shard.stalls_certain + shard.stalls_uncertain,
            stalls_uncertain: shard.stalls_uncertain,
            stalls_refuted: shard.stalls_refuted,
            resumes: shard.resumes,
            exits: shard.exits,
            receive_calls: shard.receive_calls,
            reports_dropped: shard.reports_dropped,
            blind_ns: shard.blind_ns,
            is_blind: shard.is_blind,
            is_alive: shard.is_alive,
            is_reachable: shard.is_reachable,
            queue_limit: shard.queue_limit,
            tick_age_ns,
            latencies: Distributions::of(&shard.latencies),
            uids: shard.uids.iter().take(UIDS).map(UidAnswer::of).collect(),
        }
    }

    /// Adds the buckets of the queue times, for clients that draw a curve.
    fn with_queue(mut self, queue_ns: &Histogram<u64>) -> Self {
        self.latencies.queue_ns.fill(queue_ns, true);
        self
    }
}

impl UidAnswer {
    const fn of(counts: &UidCounts) -> Self {
        let UidCounts { uid, agents, frames, refused, over_budget, .. } = *counts;
        Self { uid, agents, frames, refused, over_budget }
    }
}
