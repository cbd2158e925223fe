//! What an observer did between two measurements.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use varta_fleet::api::{Distribution, Fleet, Shard};

use super::cpu::ByThread;
use crate::exit::counted;
use crate::words::time;

/// One measurement.
#[derive(Debug)]
pub struct Look {
    /// What the fleet counted.
    pub fleet: Option<Fleet>,
    /// CPU time so far.
    pub cpu: ByThread,
}

/// The difference of two measurements.
#[derive(Debug)]
pub struct Observed {
    /// CPU time, ns, by thread.
    pub cpu: ByThread,
    /// The counts of a fleet; other observers cannot be queried.
    pub counts: Option<Counts>,
}

/// The counts of a fleet.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    beats: u64,
    /// Refused datagrams by reason, without zeros.
    refused: BTreeMap<String, u64>,
    lost: u64,
    stalls: u64,
    reports_dropped: u64,
    /// Datagrams per receive call that found any.
    batch_frames: Bounds,
    queue_ns: Bounds,
    decode_ns: Bounds,
}

/// Upper bounds of quantiles.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Bounds {
    p50: u64,
    p99: u64,
    p999: u64,
}

impl Observed {
    /// The difference between two measurements.
    pub fn between(before: Look, after: Look) -> Self {
        let mut cpu = after.cpu;
        for (thread, ns) in &mut cpu {
            *ns = ns.saturating_sub(before.cpu.get(thread).copied().unwrap_or(0));
        }
        let counts = before.fleet.zip(after.fleet);
        Self { cpu, counts: counts.map(|(before, after)| Counts::between(&before, &after)) }
    }

    /// CPU time of all threads, ns.
    pub fn cpu_ns(&self) -> u64 {
        self.cpu.values().sum()
    }
}

impl Counts {
    fn between(before: &Fleet, after: &Fleet) -> Self {
        let sum = |fleet: &Fleet, of: fn(&Shard) -> u64| fleet.shards.iter().map(of).sum::<u64>();
        let came = |of: fn(&Shard) -> u64| sum(after, of).saturating_sub(sum(before, of));
        let mut refused = BTreeMap::new();
        for (now, then) in after.shards.iter().zip(&before.shards) {
            for (reason, count) in &now.refused {
                let count = count.saturating_sub(then.refused.get(reason).copied().unwrap_or(0));
                *refused.entry(reason.clone()).or_default() += count;
            }
        }
        refused.retain(|_, count: &mut u64| *count > 0);
        let (now, then) = (&after.latencies, &before.latencies);
        Self {
            beats: came(|shard| shard.beats),
            refused,
            lost: came(|shard| shard.lost),
            stalls: came(|shard| shard.stalls),
            reports_dropped: came(|shard| shard.reports_dropped),
            batch_frames: Bounds::between(&then.batch_frames, &now.batch_frames),
            queue_ns: Bounds::between(&then.queue_ns, &now.queue_ns),
            decode_ns: Bounds::between(&then.decode_ns, &now.decode_ns),
        }
    }
}

impl Bounds {
    fn between(then: &Distribution, now: &Distribution) -> Self {
        let [p50, p99, p999] = [500, 990, 999].map(|permille| now.bound_since(then, permille));
        Self { p50, p99, p999 }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: Vec<String> =
            self.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let refused = if refused.is_empty() { "none".to_owned() } else { refused.join(", ") };
        writeln!(
            f,
            "it took {}, refused {refused}; {} lost before it, {} reported, {} dropped",
            counted(self.beats, "beat"),
            self.lost,
            counted(self.stalls, "stall"),
            counted(self.reports_dropped, "report")
        )?;
        let bounds =
            |of: &Bounds| format!("50 % {}, 99 % {}, 99.9 % {}", time(of.p50), time(of.p99), time(of.p999));
        writeln!(f, "in the queue, at most: {}", bounds(&self.queue_ns))?;
        let Bounds { p50, p99, p999 } = self.batch_frames;
        writeln!(f, "beats of a batch, at most: 50 % {p50}, 99 % {p99}, 99.9 % {p999}")?;
        writeln!(f, "to decode and track one, at most: {}", bounds(&self.decode_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_between_counts() {
        let fleet = |beats: u64, crc: u64, slow: u64| {
            let mut fleet = Fleet::default();
            let refused = [("bad_crc".to_owned(), crc), ("uid".to_owned(), 4)].into();
            fleet.shards = vec![Shard { beats, refused, ..Shard::default() }; 2];
            fleet.latencies.batch_frames.buckets =
                vec![(Some(2), beats), (Some(4), beats + slow * 20), (None, beats + slow * 20)];
            fleet.latencies.queue_ns.buckets =
                vec![(Some(1000), 100), (Some(2500), 100 + slow), (None, 100 + slow)];
            fleet
        };
        let cpu = |ns: u64| ByThread::from([("varta-shard-0".to_owned(), ns)]);
        let before = Look { fleet: Some(fleet(100, 1, 0)), cpu: cpu(50) };
        let mut after = Look { fleet: Some(fleet(300, 3, 7)), cpu: cpu(80) };
        after.cpu.insert("new".to_owned(), 5);
        let observed = Observed::between(before, after);
        assert_eq!(observed.cpu_ns(), 35);
        let counts = observed.counts.unwrap();
        assert_eq!(counts.beats, 400);
        assert_eq!(counts.batch_frames, Bounds { p50: 2, p99: 4, p999: 4 });
        assert_eq!(counts.refused, BTreeMap::from([("bad_crc".to_owned(), 4)]));
        assert_eq!(counts.queue_ns, Bounds { p50: 2500, p99: 2500, p999: 2500 });
    }
}
