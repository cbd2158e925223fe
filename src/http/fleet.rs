//! The state of the fleet: a snapshot, and the problems.

use hdrhistogram::Histogram;

use super::act;
use super::metrics::{Buckets, bounds};
use super::sources::Sources;
use crate::api::{Cause, CrashLoop, Died, Distribution, Fleet, Headline, Phase, Rule, Shard};
use crate::config::plan;
use crate::rules::Death;
use crate::time::{MonoNs, WallNs};
use crate::view::deaths::RECENT_NS;
use crate::view::snapshot::{Latencies, ShardSnapshot, Snapshot};
use crate::view::tally::Histograms;

/// Users listed per shard.
const UIDS: usize = 20;

/// The fleet as of now.
pub fn fleet(sources: &Sources, crash_loops: Vec<CrashLoop>, now: MonoNs, wall: WallNs) -> Fleet {
    let (tally, terms) = (sources.copies.take(), sources.terms());
    let snapshot = Snapshot::take(&sources.ports, &tally, sources.plan.agents_max);
    let health = sources.vitals.health(&snapshot, now);
    let (stalled, up) = (snapshot.stalled(), snapshot.agents() - snapshot.stalled());
    let sockets: Vec<_> = sources.plan.all_shards().collect();
    let shard = |(shard, counts): (u16, ShardSnapshot)| {
        let index = usize::from(shard);
        let histograms = &tally.shards[index].histograms;
        let mut latencies = counts.latencies.each(Distribution::from);
        latencies.queue_ns = distribution(&histograms.queue_ns, true);
        Shard {
            shard,
            socket: sockets[index].socket.display().to_string(),
            tick_age_ns: now.since(MonoNs(sources.ports[index].counters.turned_at.get())),
            latencies,
            ..counts_of(counts)
        }
    };
    let acting = sources.act.lock().clone();
    let engaged = acting.map(|act| act.engaged()).unwrap_or_default();
    let died = died(&tally.recent_deaths.within(now), up + stalled);
    let mut fleet = Fleet {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        dir: sources.dir.display().to_string(),
        hash: crate::route::HASH.to_owned(),
        http: sources.address.map(|address| address.to_string()),
        dashboard: terms.dashboard.clone(),
        started: sources.started.1,
        now: wall,
        mono_ns: now.0,
        is_healthy: health.is_healthy(),
        problems: health.problems.iter().map(ToString::to_string).collect(),
        agents_max: snapshot.agents_max,
        threshold_ns: terms.threshold_ns,
        tick_ns: sources.plan.tick_ns,
        rules: terms.rules.iter().map(rule).collect(),
        up,
        stalled,
        standstill: tally.shards.iter().map(|shard| shard.still).sum(),
        died,
        crash_loops,
        brakes: engaged.iter().map(|engaged| act::brake(engaged, now)).collect(),
        headline: Headline::default(),
        events: snapshot.events,
        events_kept: None,
        event_log: terms.event_log.clone(),
        events_dropped: snapshot.events_dropped,
        event_write_errors: snapshot.event_write_errors,
        lookups_failed: snapshot.lookups_failed,
        latencies: distributions(&tally.merged()),
        shards: (0..).zip(snapshot.shards).map(shard).collect(),
    };
    fleet.headline = fleet.headline_now();
    fleet
}

/// The deaths of the last minute, but for those of which nobody knows how.
fn died(deaths: &[(Death, u64)], alive: u64) -> Died {
    let cause = |&(death, agents): &(Death, u64)| {
        let (code, signal) = match death {
            Death::Code(code) => (Some(code), None),
            Death::Signal(signal) => (None, Some(signal)),
            Death::OutOfMemory | Death::Panic => (None, None),
            Death::Unknown => return None,
        };
        Some(Cause { how: Death::WORDS[death.kind()].to_owned(), code, signal, agents })
    };
    let causes: Vec<Cause> = deaths.iter().filter_map(cause).collect();
    let agents = causes.iter().map(|cause| cause.agents).sum();
    Died { agents, of: alive + agents, within_ns: RECENT_NS, causes }
}

/// The counts of a shard that are part of the response. Names every count of the snapshot, so that a new one is added to
/// the response, or left out on purpose.
fn counts_of(counts: ShardSnapshot) -> Shard {
    let ShardSnapshot {
        up,
        stalled,
        unwatched,
        off_hash,
        frames,
        beats,
        beats_lost,
        refused,
        table_refused_uid: _,
        mut uids,
        stalls_certain,
        stalls_uncertain,
        stalls_refuted,
        resumes,
        standstill,
        standstills_certain,
        standstills_uncertain,
        advances,
        exits,
        deaths,
        receive_calls,
        reports_dropped,
        blind_ns,
        is_blind,
        clock_steps: _,
        io_errors: _,
        queue_limit,
        is_alive,
        is_reachable,
        latencies: _,
    } = counts;
    uids.truncate(UIDS);
    Shard {
        up,
        stalled,
        unwatched,
        off_hash,
        frames,
        beats,
        lost: beats_lost,
        refused: refused.iter().map(|(reason, count)| (reason.as_str().to_owned(), *count)).collect(),
        stalls: stalls_certain + stalls_uncertain,
        stalls_uncertain,
        stalls_refuted,
        resumes,
        standstill,
        standstills: standstills_certain + standstills_uncertain,
        standstills_uncertain,
        advances,
        exits,
        deaths,
        receive_calls,
        reports_dropped,
        blind_ns,
        is_blind,
        is_alive,
        is_reachable,
        queue_limit,
        uids,
        ..Shard::default()
    }
}

fn phase(phase: &plan::PayloadPhase) -> Phase {
    Phase { from: phase.from, to: phase.to, threshold_ns: phase.threshold_ns }
}

fn rule(rule: &plan::Rule) -> Rule {
    Rule {
        comm: rule.matcher.comm.clone(),
        uid: rule.matcher.uid,
        exe: rule.matcher.exe.clone(),
        unit: rule.matcher.unit.clone(),
        threshold_ns: rule.threshold_ns,
        start_threshold_ns: rule.phases.start.map(|start| start.threshold_ns),
        start_beats: rule.phases.start.and_then(|start| start.beats),
        phases: rule.phases.payload.iter().map(phase).collect(),
        progress_threshold_ns: rule.progress.map(|progress| progress.threshold_ns),
    }
}

fn distributions(of: &Histograms) -> Latencies<Distribution> {
    Latencies {
        decode_ns: distribution(&of.decode_ns, true),
        queue_ns: distribution(&of.queue_ns, true),
        batch_frames: distribution(&of.batch_frames, false),
        lateness_ns: distribution(&of.lateness_ns, true),
    }
}

/// With its buckets, for clients that draw a curve.
fn distribution(histogram: &Histogram<u64>, is_time: bool) -> Distribution {
    let bounds = bounds(is_time);
    Distribution { quantiles: histogram.into(), buckets: Buckets::of(histogram, bounds).cumulative(bounds) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ActBrake;
    use crate::json::Json;
    use crate::lab::standin::sources;

    #[test]
    fn what_is_answered_is_read_back_as_it_was() {
        let mut written =
            fleet(&sources(2), vec![CrashLoop::default()], MonoNs(5), WallNs(1_772_366_400_000_000_007));
        assert_eq!((written.shards.len(), written.shards[1].shard), (2, 1));
        written.brakes =
            vec![ActBrake { scope: "uid".to_owned(), uid: Some(7), stalls: 3, ..ActBrake::default() }];
        written.rules.push(Rule { comm: Some("a*".to_owned()), threshold_ns: u64::MAX, ..Rule::default() });
        written.http = Some("127.0.0.1:9100".to_owned());
        written.dashboard = Some("https://grafana.example/d/varta-fleet?a=1&b=2".to_owned());
        written.shards[1].lost = u64::MAX;
        let read: Fleet = serde_json::from_slice(&Json(&written).to_bytes().unwrap()).unwrap();
        assert_eq!(read, written);
    }
}
