//! `status`: a fleet on one screen, problems first.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use varta_fleet::api::{Distribution, Fleet, Shard};
use varta_fleet::{Quantiles, Shown};

use crate::client::FleetArgs;
use crate::exit::{CliError, Exit, counted};
use crate::words::{amount, time};

/// Arguments of `status`.
#[derive(clap::Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// The JSON that the fleet answers, instead of words
    #[arg(long)]
    json: bool,
}

/// Prints the state of a fleet. Exit code 0 if it is healthy, even with stalled agents.
pub fn status(args: &StatusArgs) -> Result<Exit, CliError> {
    let client = args.fleet.client()?;
    let text = client.text("/api/v1/fleet")?;
    let fleet: Fleet = client.read("/api/v1/fleet", &text)?;
    let mut out = io::stdout().lock();
    if args.json {
        out.write_all(&text)?;
        writeln!(out)?;
    } else {
        out.write_all(words(&fleet).as_bytes())?;
    }
    Ok(if fleet.is_healthy { Exit::Clean } else { Exit::Runtime })
}

/// The most important fact about the fleet.
pub fn headline(fleet: &Fleet) -> String {
    let blind = fleet.shards.iter().filter(|shard| shard.is_blind).count() as u64;
    let agents = fleet.up + fleet.stalled;
    if !fleet.is_healthy {
        return "NOT HEALTHY: agents are not observed as they should be.".to_owned();
    }
    let seen = if blind > 0 { format!(" {} cannot see.", counted(blind, "shard")) } else { String::new() };
    match (agents, fleet.stalled) {
        (0, _) => format!("No agent beats.{seen}"),
        (_, 0) => format!("All well: {} beat.{seen}", counted(agents, "agent")),
        (_, 1) => format!("1 of {} is stalled.{seen}", counted(agents, "agent")),
        (_, n) => format!("{n} of {} are stalled.{seen}", counted(agents, "agent")),
    }
}

fn words(fleet: &Fleet) -> String {
    let mut out = String::new();
    let written = write_words(fleet, &mut out);
    debug_assert!(written.is_ok(), "a String takes everything");
    out
}

fn write_words(fleet: &Fleet, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}", headline(fleet))?;
    for problem in &fleet.problems {
        writeln!(out, "  ! {}", Shown(problem))?;
    }
    let serves = fleet.http.as_ref().map(|http| format!(", http://{http}/")).unwrap_or_default();
    writeln!(
        out,
        "varta-fleet {}, pid {}, for {}, {}{serves}; a silence of {} is a stall{}\n",
        fleet.version,
        fleet.pid,
        age(fleet),
        Shown(&fleet.dir),
        time(fleet.threshold_ns),
        match fleet.rules.len() {
            0 => String::new(),
            rules => format!(", but for {}", counted(rules as u64, "rule")),
        },
    )?;
    writeln!(
        out,
        "{:<6}{:>8}{:>9}{:>9}{:>8}{:>9}{:>11}{:>11}{:>10}{:>7}",
        "shard", "up", "stalled", "beats", "lost", "refused", "queue p99", "turned", "blind", "limit"
    )?;
    for shard in &fleet.shards {
        writeln!(
            out,
            "{:<6}{:>8}{:>9}{:>9}{:>8}{:>9}{:>11}{:>11}{:>10}{:>7}{}",
            shard.shard,
            shard.up,
            shard.stalled,
            amount(shard.beats),
            amount(shard.lost),
            amount(shard.refused()),
            p99(&shard.latencies.queue_ns),
            time(shard.tick_age_ns),
            time(shard.blind_ns),
            shard.queue_limit,
            match (shard.is_alive, shard.is_blind) {
                (false, _) => "  DEAD",
                (true, true) => "  BLIND",
                (true, false) => "",
            }
        )?;
    }
    writeln!(
        out,
        "\n{:<14}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "", "p50", "p90", "p99", "p99.9", "max", "count"
    )?;
    let of = &fleet.latencies;
    for (name, q) in
        [("decode", &of.decode_ns), ("in the queue", &of.queue_ns), ("stall late by", &of.lateness_ns)]
    {
        let q = &q.quantiles;
        write!(out, "{name:<14}")?;
        for value in [q.p50, q.p90, q.p99, q.p999, q.max] {
            write!(out, "{:>10}", cell(q, value))?;
        }
        writeln!(out, "{:>10}", amount(q.count))?;
    }
    let sum = |of: fn(&Shard) -> u64| fleet.shards.iter().map(of).sum::<u64>();
    writeln!(
        out,
        "\nreported: {} ({} not certain, {} refuted), {}, {}, {}",
        counted(sum(|shard| shard.stalls), "stall"),
        sum(|shard| shard.stalls_uncertain),
        sum(|shard| shard.stalls_refuted),
        counted(sum(|shard| shard.resumes), "resume"),
        counted(sum(|shard| shard.exits), "exit"),
        counted(fleet.events, "event"),
    )?;
    let reasons: std::collections::BTreeSet<&String> =
        fleet.shards.iter().flat_map(|shard| shard.refused.keys()).collect();
    let refused: Vec<String> = reasons
        .into_iter()
        .map(|reason| {
            (reason, fleet.shards.iter().filter_map(|shard| shard.refused.get(reason)).sum::<u64>())
        })
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !refused.is_empty() {
        writeln!(out, "refused: {}", refused.join(", "))?;
    }
    if fleet.stalled > 0 {
        writeln!(out, "who: varta-fleet agents --state stalled; why: varta-fleet explain PID")?;
    }
    Ok(())
}

/// How long the fleet has been running.
fn age(fleet: &Fleet) -> String {
    // The wall clock may have been set back since.
    fleet.now.0.checked_sub(fleet.started.0).map_or_else(|| "?".to_owned(), time)
}

fn p99(of: &Distribution) -> String {
    cell(&of.quantiles, of.quantiles.p99)
}

fn cell(quantiles: &Quantiles, value: u64) -> String {
    if quantiles.count == 0 { "-".to_owned() } else { time(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(up: u64, stalled: u64) -> Fleet {
        let shard = Shard { up, stalled, is_alive: true, ..Shard::default() };
        Fleet { up, stalled, is_healthy: true, shards: vec![shard], ..Fleet::default() }
    }

    #[test]
    fn what_is_wrong_comes_first() {
        assert_eq!(headline(&fleet(0, 0)), "No agent beats.");
        assert_eq!(headline(&fleet(3, 0)), "All well: 3 agents beat.");
        assert_eq!(headline(&fleet(3, 1)), "1 of 4 agents is stalled.");
        let mut blind = fleet(3, 2);
        blind.shards[0].is_blind = true;
        assert_eq!(headline(&blind), "2 of 5 agents are stalled. 1 shard cannot see.");
        blind.is_healthy = false;
        assert!(headline(&blind).starts_with("NOT HEALTHY"));
        blind.problems = vec!["shard 0 is dead\u{1b}[31m".to_owned()];
        let shown = words(&blind);
        assert!(shown.lines().nth(1).is_some_and(|line| line.starts_with("  ! shard 0 is dead")), "{shown}");
        assert!(!shown.contains('\u{1b}'));
        assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    }

    #[test]
    fn reasons_are_added_up_over_the_shards() {
        let mut fleet = fleet(1, 1);
        fleet.shards.push(fleet.shards[0].clone());
        for shard in &mut fleet.shards {
            shard.refused = [("bad_crc".to_owned(), 2), ("uid".to_owned(), 0)].into();
        }
        let shown = words(&fleet);
        assert!(shown.contains("\nrefused: bad_crc 4\n"), "{shown}");
        assert!(shown.contains("explain PID"));
    }
}
