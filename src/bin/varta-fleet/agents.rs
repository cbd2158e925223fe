//! `agents`: the tracked agents as a table.

use std::io::{self, Write};

use varta_fleet::Json;
use varta_fleet::api::{Agent, Page};

use crate::client::{FleetArgs, parameter};
use crate::exit::{CliError, Exit, counted};
use crate::words::{amount, comm, time};

/// Most agents requested at once.
const PAGE: u32 = 10_000;

/// Arguments of `agents`.
#[derive(clap::Args, Debug)]
pub struct AgentsArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Only those that are up, stalled or waiting (nothing but crash reports so far)
    #[arg(long, value_parser = ["up", "stalled", "waiting"])]
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
    /// Sort by pid, or by another column, the largest first
    #[arg(long, default_value = "pid", value_parser = ["pid", "silent", "beats", "lost", "stalls"])]
    sort: String,
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
        parameter("state", args.state.as_ref()),
        parameter("shard", args.shard),
        parameter("uid", args.uid),
        parameter("comm", args.comm.as_ref()),
        parameter("sort", Some(&args.sort)),
    ];
    let filters: Vec<String> = filters.into_iter().flatten().collect();
    let (mut shown, mut after) = (0, None);
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
            if shown == 0 {
                writeln!(out, "{HEAD}")?;
            }
            for agent in &page.agents {
                shown += 1;
                writeln!(out, "{}", row(agent))?;
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

const HEAD: &str =
    "     pid  name             shard  state     silent       of  beats   lost  stalls  uid    wire  status";

fn row(agent: &Agent) -> String {
    format!(
        "{:>8}  {:<15}  {:>5}  {:<7} {:>8} {:>8} {:>6} {:>6} {:>7}  {:<6} {:<5} {}",
        agent.pid,
        comm(agent),
        agent.shard,
        agent.state.as_str(),
        time(agent.silent_ns),
        time(agent.threshold_ns),
        amount(agent.beats),
        amount(agent.lost),
        agent.stalls,
        agent.uid,
        agent.wire.as_str(),
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
        let row = row(&agent);
        assert!(!row.contains('\u{1b}'), "{row}");
        for (head, cell) in [("state", "stalled"), ("wire", "0.2"), ("status", "ok")] {
            assert_eq!(HEAD.find(head), row.find(cell), "{head}\n{HEAD}\n{row}");
        }
        for (head, cell) in [("pid", "4194304"), ("silent", "12.3 s"), ("of", "2.00 s"), ("beats", "1.23M")] {
            let end = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
            assert_eq!(end(HEAD, head), end(&row, cell), "{head}\n{HEAD}\n{row}");
        }
        assert_eq!((footer(2, 2), footer(2, 9)), ("2 agents".to_owned(), "2 of 9 agents".to_owned()));
    }
}
