//! What every reader sees of a running fleet: owned, a copy of one moment's counts.

use std::fmt;
use std::sync::Arc;

use hdrhistogram::Histogram;

use crate::config::sizing::queue_limit_for;
use crate::lane::Port;
use crate::lane::uids::UidCounts;
use crate::refusal::Refusal;
use crate::view::health::{Health, Problem};
use crate::view::tally::{Histograms, Tally};

/// Users of a shard that the table shows.
const UIDS_SHOWN: usize = 5;

/// The fleet's counts at one moment. Numbers of different shards are not of the same instant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// One a shard, in the order of their index.
    pub shards: Vec<ShardSnapshot>,
    /// Most agents the fleet tracks.
    pub agents_max: u32,
    /// Events told.
    pub events: u64,
    /// Events that a slow subscriber missed, and was told of.
    pub events_dropped: u64,
    /// Beats that a subscriber that asked for every beat missed.
    pub beats_untold: u64,
    /// Lookups that the kernel would not answer.
    pub lookups_failed: u64,
    /// Times a slot had to be read again because its shard was writing it.
    pub slot_reads_busy: u64,
    /// Failures of event outputs.
    pub event_write_errors: u64,
    /// Manifest and symlink are in place, as far as was seen within the last second.
    pub is_listed: bool,
}

/// One shard's counts. Times in ns of `CLOCK_MONOTONIC`; counts since the start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardSnapshot {
    /// Agents that beat.
    pub up: u64,
    /// Agents that are stalled.
    pub stalled: u64,
    /// Agents whose exit is noticed at their threshold only, for want of a descriptor.
    pub unwatched: u64,
    /// Agents whose pid does not hash to this shard.
    pub off_hash: u64,
    /// Datagrams received; the sum of `beats` and all `refused`.
    pub frames: u64,
    /// Accepted frames.
    pub beats: u64,
    /// Beats that were lost before us, from gaps in nonces: a lower bound.
    pub beats_lost: u64,
    /// Refused datagrams by reason, every reason once.
    pub refused: Vec<(Refusal, u64)>,
    /// Frames refused because their user has its share of the fleet's agents; among those refused as
    /// `table_full`.
    pub table_refused_uid: u64,
    /// The same by user: whoever sent most first. Adds up to what the shard counted in all.
    pub uids: Vec<UidCounts>,
    /// Stalls told for certain.
    pub stalls_certain: u64,
    /// Stalls told without a whole threshold of sight.
    pub stalls_uncertain: u64,
    /// Stalls that turned out to be lost beats.
    pub stalls_refuted: u64,
    /// Resumes told.
    pub resumes: u64,
    /// Exits told.
    pub exits: u64,
    /// Calls of recvmmsg.
    pub receive_calls: u64,
    /// Reports that found their lane full.
    pub reports_dropped: u64,
    /// How long the shard was blind in all.
    pub blind_ns: u64,
    /// Its queue is full.
    pub is_blind: bool,
    /// Steps of the wall clock seen.
    pub clock_steps: u64,
    /// Failed calls on the socket.
    pub io_errors: u64,
    /// Limit of the socket's queue; it holds one datagram more.
    pub queue_limit: u64,
    /// Its thread runs and is not stuck.
    pub is_alive: bool,
    /// Its socket is at its path, as far as was seen within the last second. If not, it observes the agents
    /// that are connected, and nobody new finds it.
    pub is_reachable: bool,
    /// Its distributions.
    pub latencies: Latencies,
}

impl ShardSnapshot {
    /// The `net.unix.max_dgram_qlen` that its agents need, if its queue is shorter: see
    /// [`queue_limit_for`](crate::config::sizing::queue_limit_for).
    #[must_use]
    pub fn queue_limit_missed(&self) -> Option<u64> {
        let agents = u32::try_from(self.up + self.stalled).unwrap_or(u32::MAX);
        Some(queue_limit_for(agents, 1)).filter(|needed| *needed > self.queue_limit)
    }
}

/// Distributions, as far as a table of them needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latencies {
    /// Time to decode and track one frame, ns.
    pub decode_ns: Quantiles,
    /// From arrival in the kernel's queue to being read, ns.
    pub queue_ns: Quantiles,
    /// Datagrams of one receive call.
    pub batch_frames: Quantiles,
    /// From the deadline to the telling of a stall, ns.
    pub lateness_ns: Quantiles,
}

/// One distribution; values are exact to 1 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quantiles {
    /// Values recorded.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 90 % are at most this.
    pub p90: u64,
    /// 99 % are at most this.
    pub p99: u64,
    /// 99.9 % are at most this.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

impl From<&Histogram<u64>> for Quantiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl From<&Histograms> for Latencies {
    fn from(histograms: &Histograms) -> Self {
        Self {
            decode_ns: (&histograms.decode_ns).into(),
            queue_ns: (&histograms.queue_ns).into(),
            batch_frames: (&histograms.batch_frames).into(),
            lateness_ns: (&histograms.lateness_ns).into(),
        }
    }
}

impl Snapshot {
    pub(crate) fn take(ports: &[Arc<Port>], tally: &Tally, agents_max: u32) -> Self {
        let shards = ports.iter().zip(&tally.shards).map(|(port, tally)| {
            let counters = &port.counters;
            let refused: Vec<(Refusal, u64)> =
                Refusal::ALL.iter().map(|refusal| (*refusal, counters.refused(*refusal))).collect();
            let beats = counters.beats.get();
            ShardSnapshot {
                up: tally.up,
                stalled: tally.stalled,
                unwatched: tally.unwatched,
                off_hash: tally.off_hash,
                frames: beats + refused.iter().map(|(_, count)| count).sum::<u64>(),
                beats,
                beats_lost: counters.beats_lost.get(),
                refused,
                table_refused_uid: port.uids.share_refused.get(),
                uids: uids_of(port),
                stalls_certain: tally.stalls_certain,
                stalls_uncertain: tally.stalls_uncertain,
                stalls_refuted: tally.stalls_refuted,
                resumes: tally.resumes,
                exits: tally.exits,
                receive_calls: counters.receive_calls.get(),
                reports_dropped: counters.reports_dropped.get(),
                blind_ns: counters.blind_ns.get(),
                is_blind: counters.is_blind.get() != 0,
                clock_steps: counters.clock_steps.get(),
                io_errors: counters.io_errors.get(),
                queue_limit: counters.queue_limit.get(),
                is_alive: port.is_alive(),
                is_reachable: !tally.is_unreachable,
                latencies: (&tally.histograms).into(),
            }
        });
        let beats_untold = ports.iter().map(|port| port.counters.beats_untold.get()).sum::<u64>();
        Self {
            shards: shards.collect(),
            agents_max,
            events: tally.events,
            events_dropped: tally.events_dropped.iter().sum(),
            beats_untold: tally.beats_untold + beats_untold,
            lookups_failed: tally.lookups_failed,
            slot_reads_busy: tally.slot_reads_busy,
            event_write_errors: tally.event_write_errors,
            is_listed: !tally.is_unlisted,
        }
    }

    /// Agents tracked.
    #[must_use]
    pub fn agents(&self) -> u64 {
        self.shards.iter().map(|shard| shard.up + shard.stalled).sum()
    }

    /// Agents that are stalled.
    #[must_use]
    pub fn stalled(&self) -> u64 {
        self.shards.iter().map(|shard| shard.stalled).sum()
    }
}

/// The users of a shard, the busiest first. Empty only if its thread died while it gave a row to another user.
fn uids_of(port: &Port) -> Vec<UidCounts> {
    let mut uids = port.uids.read().unwrap_or_default();
    uids.retain(|counts| counts.frames > 0);
    uids.sort_by_key(|counts| std::cmp::Reverse(counts.frames));
    uids
}

/// The plain table of SIGUSR1 and of the end of a run.
#[derive(Clone, Debug)]
pub struct Table<'a> {
    /// What to show.
    pub snapshot: &'a Snapshot,
    /// What is wrong, in its words.
    pub health: &'a Health,
    /// The distributions of all shards merged.
    pub merged: Latencies,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { snapshot, health, merged } = self;
        writeln!(
            f,
            "{:<22}{:>9}{:>9}{:>9}{:>9}{:>9}{:>12}",
            "histogram", "p50", "p90", "p99", "p99.9", "max", "count"
        )?;
        let mut rows = |name: &str, latencies: &Latencies| -> fmt::Result {
            time_row(f, &format!("decode {name}"), &latencies.decode_ns)?;
            time_row(f, &format!("queue {name}"), &latencies.queue_ns)?;
            count_row(f, &format!("batch frames {name}"), &latencies.batch_frames)?;
            time_row(f, &format!("stall late {name}"), &latencies.lateness_ns)
        };
        for (index, shard) in snapshot.shards.iter().enumerate() {
            rows(&format!("shard {index}"), &shard.latencies)?;
        }
        if snapshot.shards.len() > 1 {
            rows("all", merged)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<6}{:>7}{:>8}{:>12}{:>8}{:>10}{:>8}{:>9}{:>8}{:>7}{:>11}{:>9}",
            "shard",
            "up",
            "stalled",
            "beats",
            "lost",
            "refused",
            "stalls",
            "refuted",
            "resumes",
            "exits",
            "blind",
            "limit"
        )?;
        for (index, shard) in snapshot.shards.iter().enumerate() {
            let refused: u64 = shard.refused.iter().map(|(_, count)| count).sum();
            writeln!(
                f,
                "{:<6}{:>7}{:>8}{:>12}{:>8}{:>10}{:>8}{:>9}{:>8}{:>7}{:>11}{:>9}",
                index,
                shard.up,
                shard.stalled,
                shard.beats,
                shard.beats_lost,
                refused,
                shard.stalls_certain + shard.stalls_uncertain,
                shard.stalls_refuted,
                shard.resumes,
                shard.exits,
                written(shard.blind_ns),
                shard.queue_limit,
            )?;
        }
        for (index, shard) in snapshot.shards.iter().enumerate() {
            let reasons: Vec<String> = shard
                .refused
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(refusal, count)| format!("{} {count}", refusal.as_str()))
                .collect();
            if !reasons.is_empty() {
                writeln!(f, "shard {index} refused: {}", reasons.join(", "))?;
            }
            if shard.reports_dropped > 0 {
                writeln!(
                    f,
                    "shard {index} dropped {} reports: its histograms miss them",
                    shard.reports_dropped
                )?;
            }
        }
        // What was wrong at the start was said there.
        for problem in health.problems.iter().filter(|problem| !matches!(problem, Problem::AtStart(_))) {
            writeln!(f, "{problem}")?;
        }
        writeln!(f)?;
        uid_rows(f, &snapshot.shards)?;
        writeln!(f, "events {}, dropped {}", snapshot.events, snapshot.events_dropped)
    }
}

/// The busiest users of each shard.
fn uid_rows(f: &mut fmt::Formatter<'_>, shards: &[ShardSnapshot]) -> fmt::Result {
    writeln!(
        f,
        "{:<6}{:<12}{:>9}{:>12}{:>12}{:>12}",
        "shard", "uid", "agents", "frames", "refused", "budget"
    )?;
    for (index, shard) in shards.iter().enumerate() {
        for counts in shard.uids.iter().take(UIDS_SHOWN) {
            let uid = counts.uid.map_or("other".to_owned(), |uid| uid.to_string());
            let UidCounts { agents, frames, refused, over_budget, .. } = counts;
            writeln!(f, "{index:<6}{uid:<12}{agents:>9}{frames:>12}{refused:>12}{over_budget:>12}")?;
        }
        if shard.uids.len() > UIDS_SHOWN {
            writeln!(f, "{index:<6}and {} users more", shard.uids.len() - UIDS_SHOWN)?;
        }
        if shard.table_refused_uid > 0 {
            writeln!(
                f,
                "shard {index}: {} refused because their user has its share",
                shard.table_refused_uid
            )?;
        }
    }
    Ok(())
}

fn time_row(f: &mut fmt::Formatter<'_>, name: &str, quantiles: &Quantiles) -> fmt::Result {
    row(f, name, quantiles, written)
}

fn count_row(f: &mut fmt::Formatter<'_>, name: &str, quantiles: &Quantiles) -> fmt::Result {
    row(f, name, quantiles, |count| count.to_string())
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, q: &Quantiles, show: impl Fn(u64) -> String) -> fmt::Result {
    let cell = |value: u64| if q.count == 0 { "-".to_owned() } else { show(value) };
    writeln!(
        f,
        "{name:<22}{:>9}{:>9}{:>9}{:>9}{:>9}{:>12}",
        cell(q.p50),
        cell(q.p90),
        cell(q.p99),
        cell(q.p999),
        cell(q.max),
        q.count
    )
}

/// A time with three digits and its unit.
pub(crate) fn written(ns: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{:.3}us", Digits(value / 1e3)),
        1_000_000..1_000_000_000 => format!("{:.3}ms", Digits(value / 1e6)),
        _ => format!("{:.3}s", Digits(value / 1e9)),
    }
}

/// Shows about as many significant digits as the precision asks for.
struct Digits(f64);

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.0 {
            value if value < 10.0 => 2,
            value if value < 100.0 => 1,
            _ => 0,
        };
        write!(f, "{:.decimals$}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [0, 999, 1_000, 12_345, 999_900, 1_230_000, 45_600_000, 7_890_000_000].map(written);
        assert_eq!(shown, ["0ns", "999ns", "1.00us", "12.3us", "1000us", "1.23ms", "45.6ms", "7.89s"]);
    }

    #[test]
    fn the_busiest_users_of_each_shard_are_shown_and_the_rest_counted() {
        let origin = crate::table::Origin { boot_id: 0, pid_namespace: 0, shard: 0, shards: 1 };
        let (_, table) = crate::table::create(1, origin).unwrap();
        let port =
            Arc::new(Port::new(table, Arc::new(crate::lane::kick::Kick::new().unwrap()), false).unwrap());
        for (row, frames) in [30, 70, 10, 50, 20, 60, 40, 0].into_iter().enumerate() {
            port.uids.assign(row, 1000 + u32::try_from(frames).unwrap());
            port.uids.row(row).frames.add(frames);
        }
        port.uids.row(1).refused.add(9);
        port.uids.row(1).over_budget.add(8);
        port.uids.row(1).agents.add(2);
        port.uids.share_refused.add(3);
        let mut tally = Tally::default();
        tally.shards.resize_with(1, Default::default);
        let snapshot = Snapshot::take(&[port], &tally, 1);
        assert_eq!(snapshot.shards[0].table_refused_uid, 3);
        let shown = Table { snapshot: &snapshot, health: &Health::default(), merged: Latencies::default() }
            .to_string();
        let (_, uids) = shown.split_once("shard uid ").unwrap();
        let words: Vec<Vec<&str>> =
            uids.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["0", "1070", "2", "70", "9", "8"]);
        assert_eq!(
            words[1..5].iter().map(|row| row[1]).collect::<Vec<_>>(),
            ["1060", "1050", "1040", "1030"]
        );
        assert_eq!(words[5].join(" "), "0 and 2 users more");
        assert_eq!(words[6].join(" "), "shard 0: 3 refused because their user has its share");
    }
}
