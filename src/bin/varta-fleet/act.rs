//! `act`: what is done about agents, what holds it back, and what operators do by hand.

use std::io::{self, Write};
use std::time::Duration;

use varta_fleet::api::{Act, ActBrake, ActCase, ActDone};
use varta_fleet::{Json, Shown};

use crate::client::{Client, FleetArgs};
use crate::exit::{CliError, Exit, counted};
use crate::words::time;

/// Arguments of `act`.
#[derive(clap::Args, Debug)]
pub struct ActArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(subcommand)]
    what: What,
}

/// What to do.
#[derive(clap::Subcommand, Debug)]
enum What {
    /// List what would be done, for whom, and why it is not
    List {
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Hold actions for some agents; stalls are still reported
    Hold {
        #[command(flatten)]
        whom: Whom,
        /// For how long
        #[arg(long = "for", value_name = "DURATION", value_parser = varta_fleet::config::read_duration)]
        for_: Duration,
        /// Why, for those who read the list
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        why: String,
    },
    /// End such a hold
    Unhold {
        #[command(flatten)]
        whom: Whom,
    },
    /// Hold all actions, or release every brake
    Brake {
        /// What to do
        #[arg(value_enum)]
        what: BrakeWhat,
    },
    /// Start an action for an agent now; limits, brakes and holds apply
    Now {
        /// Process id of the agent
        pid: u32,
        /// Name of the action
        action: String,
    },
}

/// Whom a hold is for.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct Whom {
    /// Process id of the agent
    pid: Option<u32>,
    /// Those of these units; * and ? stand for any characters
    #[arg(long)]
    unit: Option<String>,
    /// Those with these names; * and ? stand for any characters
    #[arg(long)]
    comm: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum BrakeWhat {
    /// Hold all actions until they are released by hand
    Engage,
    /// Release every brake: agents that are still stalled are acted upon
    Release,
}

/// Does it, and prints what came of it.
pub fn act(args: &ActArgs) -> Result<Exit, CliError> {
    let client = args.fleet.client()?;
    match &args.what {
        What::List { json } => return list(&client, *json),
        What::Hold { whom, for_, why } => {
            let for_ns = u64::try_from(for_.as_nanos()).unwrap_or(u64::MAX);
            post(&client, &format!("hold?{}&for_ns={for_ns}&text={}", whom.query(), encoded(why)))?;
        }
        What::Unhold { whom } => post(&client, &format!("unhold?{}", whom.query()))?,
        What::Brake { what: BrakeWhat::Engage } => post(&client, "brake?do=engage")?,
        What::Brake { what: BrakeWhat::Release } => post(&client, "brake?do=release")?,
        What::Now { pid, action } => post(&client, &format!("now?pid={pid}&action={}", encoded(action)))?,
    }
    Ok(Exit::Clean)
}

fn post(client: &Client, request: &str) -> Result<(), CliError> {
    let ActDone { done } = client.post(&format!("/-/act/{request}"))?;
    writeln!(io::stdout().lock(), "{}", Shown(&done))?;
    Ok(())
}

impl Whom {
    fn query(&self) -> String {
        match (self.pid, &self.unit, &self.comm) {
            (Some(pid), ..) => format!("pid={pid}"),
            (None, Some(unit), _) => format!("unit={}", encoded(unit)),
            (None, None, comm) => format!("comm={}", encoded(comm.as_deref().unwrap_or_default())),
        }
    }
}

/// As a value in a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn list(client: &Client, is_json: bool) -> Result<Exit, CliError> {
    let act: Act = client.get("/api/v1/act")?;
    let mut out = io::stdout().lock();
    if is_json {
        writeln!(out, "{}", Json(&act))?;
    } else {
        lines(&act).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(Exit::Clean)
}

fn lines(act: &Act) -> Vec<String> {
    if !act.is_configured {
        return vec!["no action is configured; see [[action]] in varta-fleet.toml(5)".to_owned()];
    }
    let mut lines: Vec<String> = act.brakes.iter().map(brake).collect();
    if act.dry_run {
        lines.push("dry-run is set: nothing is started".to_owned());
    } else if !act.has_spawner {
        lines.push("there is no spawner at the moment: nothing can be started".to_owned());
    }
    if !act.audit_trouble.is_empty() {
        lines.push(format!("the audit file takes no lines: {}", Shown(&act.audit_trouble)));
    }
    for hold in &act.holds {
        let why = if hold.text.is_empty() { String::new() } else { format!(": {}", Shown(&hold.text)) };
        lines.push(format!("hold {} for another {}{why}", Shown(&hold.of), time(hold.ends_in_ns)));
    }
    if act.cases.is_empty() {
        lines.push("nothing is to be done".to_owned());
        return lines;
    }
    lines.push(format!("{:>7} {:<15} {:<19} {:<8} {}", "pid", "name", "action", "phase", "why"));
    lines.extend(act.cases.iter().map(case));
    if act.total > act.cases.len() as u64 {
        lines.push(format!("and {} more", act.total - act.cases.len() as u64));
    }
    lines
}

fn brake(brake: &ActBrake) -> String {
    let of = match (&*brake.scope, brake.uid, &brake.unit) {
        ("uid", Some(uid), _) => format!("for user {uid}"),
        ("unit", _, Some(unit)) => format!("for {}", Shown(unit)),
        _ => "for all agents".to_owned(),
    };
    let why = if brake.by_hand {
        "by hand".to_owned()
    } else {
        format!("{} of {} stalled at once", brake.stalls, counted(brake.agents.into(), "agent"))
    };
    format!("the brake {of} has been engaged for {}: {why}", time(brake.for_ns))
}

fn case(case: &ActCase) -> String {
    let shown = |text: &str| Shown(text).to_string();
    let (pid, comm) = (case.pid, shown(case.comm.as_deref().unwrap_or("-")));
    let (action, phase) = (shown(&case.action), shown(&case.phase));
    let why = match (case.why.as_deref().map(shown), case.due_in_ns) {
        (None, Some(ns)) => format!("in {}", time(ns)),
        (Some(why), Some(ns)) => format!("{why}, for {}", time(ns)),
        (Some(why), None) => why,
        (None, None) => String::new(),
    };
    let attempt = if case.attempt > 0 { format!(" (attempt {})", case.attempt) } else { String::new() };
    format!("{pid:>7} {comm:<15} {action:<19} {phase:<8} {why}{attempt}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_who_what_and_why_not() {
        assert!(lines(&Act::default())[0].contains("no action is configured"));
        let case = ActCase {
            action: "restart".to_owned(),
            phase: "held".to_owned(),
            why: Some("backoff".to_owned()),
            pid: 4711,
            comm: Some("worker\n".to_owned()),
            attempt: 1,
            due_in_ns: Some(9_000_000_000),
            ..ActCase::default()
        };
        let brake =
            ActBrake { scope: "uid".to_owned(), uid: Some(7), stalls: 30, agents: 40, ..ActBrake::default() };
        let act = Act {
            is_configured: true,
            has_spawner: true,
            cases: vec![case],
            total: 3,
            brakes: vec![brake],
            ..Act::default()
        };
        let lines = lines(&act);
        assert_eq!(
            lines[0],
            "the brake for user 7 has been engaged for 0 ns: 30 of 40 agents stalled at once"
        );
        assert!(
            lines[2].contains("4711") && lines[2].ends_with("backoff, for 9.00 s (attempt 1)"),
            "{}",
            lines[2]
        );
        assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
        assert_eq!(lines[3], "and 2 more");
        let hostile = || "a\u{1b}[2J".to_owned();
        let (action, phase, why) = (hostile(), hostile(), Some(hostile()));
        let line = super::case(&ActCase { action, phase, why, ..ActCase::default() });
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }

    #[test]
    fn a_query_keeps_any_text() {
        assert_eq!(encoded("a b&c=%*\u{e4}"), "a%20b%26c%3D%25%2A%C3%A4");
    }
}
