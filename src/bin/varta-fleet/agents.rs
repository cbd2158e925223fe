//! `agents`: the tracked agents as a table.

use std::io::{self, Write};

use varta_fleet::api::{Agent, DEAD_MAX, Dead, DeadAgent, Page};
use varta_fleet::{Json, Shown};

use crate::client::{Client, FleetArgs, parameter};
use crate::exit::{CliError, Exit, counted};
use crate::words::{amount, comm, time};

/// Most agents requested at once.
const PAGE: u32 = 10_000;

/// Arguments of `agents`.
#[derive(clap::Args, Debug)]
pub struct AgentsArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Only those that are up, stalled, frozen, at a standstill or waiting (nothing but crash reports so far); or the last 1000 that died
    #[arg(long, value_parser = ["up", "stalled", "frozen", "standstill", "waiting", "dead"])]
    state: Option<String>,
    /// Only those on this shard
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
    /// Only those of this user
    #[arg(long)]
    uid: Option<u32>,
    /// Only processes of this name; * stands for any characters, ? for one
    #[arg(long, value_name = "PATTERN")]
    comm: Option<String>,
    /// Only those of this unit of the service manager; * stands for any characters, ? for one
    #[arg(long, value_name = "PATTERN")]
    unit: Option<String>,
    /// Sort by another column than pid, the largest first
    #[arg(long, value_parser = ["pid", "silent", "beats", "lost", "stalls"])]
    sort: Option<String>,
    /// Show at most this many; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u32,
    /// One JSON object a line, instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the agents.
pub fn agents(args: &AgentsArgs) -> Result<Exit, CliError> {
    let client = args.fleet.client()?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let filters = [
        parameter("shard", args.shard),
        parameter("uid", args.uid),
        parameter("comm", args.comm.as_ref()),
        parameter("unit", args.unit.as_ref()),
    ];
    let mut filters: Vec<String> = filters.into_iter().flatten().collect();
    if args.state.as_deref() == Some("dead") {
        if args.sort.is_some() {
            let message = "--sort does not fit --state dead: the latest death comes first";
            return Err(CliError::new(Exit::Usage, message));
        }
        dead(&client, args, &filters, &mut out)?;
        out.flush()?;
        return Ok(Exit::Clean);
    }
    filters.extend(parameter("state", args.state.as_ref()));
    filters.extend(parameter("sort", args.sort.as_ref()));
    let (mut shown, mut after, mut width) = (0, None, None);
    loop {
        let left = if args.limit == 0 { PAGE } else { (args.limit - shown).min(PAGE) };
        let mut query = filters.clone();
        query.extend(parameter("limit", Some(left)));
        query.extend(parameter("after", after.take()));
        let path = format!("/api/v1/agents?{}", query.join("&"));
        let next = if args.json {
            let page: serde_json::Value = client.get(&path)?;
            for agent in page["agents"].as_array().into_iter().flatten() {
                shown += 1;
                writeln!(out, "{}", Json(agent))?;
            }
            page["next"].as_str().map(str::to_owned)
        } else {
            let page: Page = client.get(&path)?;
            let width = width.get_or_insert_with(|| state_width(&page.agents));
            if shown == 0 {
                writeln!(out, "{}", head(*width))?;
            }
            for agent in &page.agents {
                shown += 1;
                writeln!(out, "{}", row(agent, *width))?;
            }
            let is_last = page.next.is_none() || args.limit != 0 && shown >= args.limit;
            if is_last {
                writeln!(out, "{}", footer(shown, page.total))?;
            }
            page.next
        };
        if next.is_none() || args.limit != 0 && shown >= args.limit {
            out.flush()?;
            return Ok(Exit::Clean);
        }
        after = next;
    }
}

/// Prints the agents that died last.
fn dead(
    client: &Client,
    args: &AgentsArgs,
    filters: &[String],
    out: &mut impl Write,
) -> Result<(), CliError> {
    let limit = Some(args.limit).filter(|limit| (1..DEAD_MAX).contains(limit));
    let query: Vec<String> = filters.iter().cloned().chain(parameter("limit", limit)).collect();
    let path = format!("/api/v1/dead?{}", query.join("&"));
    if args.json {
        let answer: serde_json::Value = client.get(&path)?;
        for agent in answer["dead"].as_array().into_iter().flatten() {
            writeln!(out, "{}", Json(agent))?;
        }
        return Ok(());
    }
    let answer: Dead = client.get(&path)?;
    writeln!(out, "{DEAD_HEAD}")?;
    for agent in &answer.dead {
        writeln!(out, "{}", dead_row(agent, answer.as_of))?;
    }
    let shown = u32::try_from(answer.dead.len()).unwrap_or(u32::MAX);
    writeln!(out, "{}", footer(shown, answer.total))?;
    for each in &answer.crash_loops {
        writeln!(out, "{}", Shown(&each.to_string()))?;
    }
    Ok(())
}

const DEAD_HEAD: &str = "    pid name            died of             ago   lived uid    before unit";

fn dead_row(agent: &DeadAgent, as_of: u64) -> String {
    let name = agent.comm.as_ref().map_or_else(|| "?".to_owned(), |comm| Shown(comm).to_string());
    let unit = agent.unit.as_ref().map_or_else(|| "-".to_owned(), |unit| Shown(unit).to_string());
    format!(
        "{:>7} {:<15} {:<15} {:>7} {:>7} {:<6} {:>6} {unit}",
        agent.pid,
        name,
        agent.death,
        time(as_of.saturating_sub(agent.mono_ns)),
        time(agent.lived_ns),
        agent.uid.map_or_else(|| "?".to_owned(), |uid| uid.to_string()),
        agent.deaths_before,
    )
}

/// A line of 80 characters has room for it, unless there are states with long names. What is left out is in the JSON.
fn head(width: usize) -> String {
    format!("    pid name            shard {:<width$}  silent      of beats  lost stalls status", "state")
}

/// Width of the column of these states.
fn state_width(agents: &[Agent]) -> usize {
    agents.iter().map(|agent| agent.state.as_str().len()).fold("stalled".len(), usize::max)
}

fn row(agent: &Agent, width: usize) -> String {
    format!(
        "{:>7} {:<15} {:>5} {:<width$} {:>7} {:>7} {:>5} {:>5} {:>6} {}",
        agent.pid,
        comm(agent),
        agent.shard,
        agent.state.as_str(),
        time(agent.silent_ns),
        time(agent.threshold_ns),
        amount(agent.beats),
        amount(agent.lost),
        agent.stalls,
        agent.status,
    )
}

fn footer(shown: u32, total: u64) -> String {
    if u64::from(shown) == total {
        counted(total, "agent")
    } else {
        format!("{shown} of {}", counted(total, "agent"))
    }
}

#[cfg(test)]
mod tests {
    use varta_fleet::api::AgentState;

    use super::*;

    #[test]
    fn columns_stand_under_their_heads_and_names_cannot_steer_the_terminal() {
        let agent = Agent {
            pid: 4_194_304,
            comm: Some("a\u{1b}[2Jb".to_owned()),
            state: AgentState::Stalled,
            silent_ns: 12_300_000_000,
            threshold_ns: 2_000_000_000,
            beats: 1_234_567,
            ..Agent::default()
        };
        assert_eq!(state_width(std::slice::from_ref(&agent)), 7);
        assert!(head(7).len() <= 80 && DEAD_HEAD.len() <= 80);
        for state in [AgentState::Stalled, AgentState::Standstill] {
            let agent = Agent { state, ..agent.clone() };
            let width = state_width(std::slice::from_ref(&agent));
            let (titles, row) = (head(width), row(&agent, width));
            assert!(!row.contains('\u{1b}'), "{row}");
            for (title, cell) in [("state", state.as_str()), ("status", "ok")] {
                assert_eq!(titles.find(title), row.find(cell), "{title}\n{titles}\n{row}");
            }
            let end = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
            for (title, cell) in
                [("pid", "4194304"), ("silent", "12.3 s"), ("of", "2.00 s"), ("beats", "1.23M")]
            {
                assert_eq!(end(&titles, title), end(&row, cell), "{title}\n{titles}\n{row}");
            }
        }
        let dead = DeadAgent {
            pid: 4711,
            comm: Some("worker".to_owned()),
            unit: Some("worker.service".to_owned()),
            death: "signal 9".to_owned(),
            uid: Some(1000),
            lived_ns: 61_000_000_000,
            deaths_before: 3,
            ..DeadAgent::default()
        };
        let row = dead_row(&dead, 5_000_000_000);
        for (head, cell) in
            [("name", "worker"), ("died of", "signal 9"), ("uid", "1000"), ("unit", "worker.s")]
        {
            assert_eq!(DEAD_HEAD.find(head), row.find(cell), "{head}\n{DEAD_HEAD}\n{row}");
        }
        for (head, cell) in [("pid", "4711"), ("ago", "5.00 s"), ("lived", "1m 01s"), ("before", " 3")] {
            let end = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
            assert_eq!(end(DEAD_HEAD, head), end(&row, cell), "{head}\n{DEAD_HEAD}\n{row}");
        }
        assert_eq!((footer(2, 2), footer(2, 9)), ("2 agents".to_owned(), "2 of 9 agents".to_owned()));
    }
}
