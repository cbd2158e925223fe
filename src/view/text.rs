//! The plain table of SIGUSR1 and of the end of a run.

use std::fmt;

use super::health::{Health, Problem};
use super::snapshot::{Latencies, Quantiles, ShardSnapshot, Snapshot};
use crate::lane::uids::UidCounts;

/// Users of a shard that the table shows.
const UIDS_SHOWN: usize = 5;

/// The plain table of SIGUSR1 and of the end of a run.
#[derive(Clone, Debug)]
pub struct Table<'a> {
    /// What to show.
    pub snapshot: &'a Snapshot,
    /// The problems to show.
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
                rounded(shard.blind_ns),
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
        // Problems at the start were printed then.
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
    row(f, name, quantiles, rounded)
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
pub(crate) fn rounded(ns: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{:.3}us", Digits(value / 1e3)),
        1_000_000..1_000_000_000 => format!("{:.3}ms", Digits(value / 1e6)),
        _ => format!("{:.3}s", Digits(value / 1e9)),
    }
}

/// Shows about as many significant digits as the precision requests.
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
    use std::sync::Arc;

    use super::super::tally::Tally;
    use super::*;
    use crate::lane::Port;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [0, 999, 1_000, 12_345, 999_900, 1_230_000, 45_600_000, 7_890_000_000].map(rounded);
        assert_eq!(shown, ["0ns", "999ns", "1.00us", "12.3us", "1000us", "1.23ms", "45.6ms", "7.89s"]);
    }

    #[test]
    fn the_busiest_users_of_each_shard_are_shown_and_the_rest_counted() {
        let header = crate::table::Header { boot_id: 0, pid_namespace: 0, shard: 0, shards: 1 };
        let (_, table) = crate::table::create(1, header).unwrap();
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
