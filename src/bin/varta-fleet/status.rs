//! `status`: a fleet on one screen, problems first.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use clap::ValueEnum as _;
use clap::builder::PossibleValuesParser;
use varta_fleet::api::{Distribution, Fleet, Group, GroupBy, Groups, Level, Shard};
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
    /// A table of the agents counted by what they have in common, instead
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(GroupBy::ALL.map(GroupBy::as_str)))]
    by: Option<String>,
    /// Exit 1 if any of these is so, at most a minute ago; the default is unhealthy
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_values_t = [FailOn::Unhealthy], hide_default_value = true)]
    fail_on: Vec<FailOn>,
    /// One line and the exit code of a plugin, for a monitoring system that runs this
    #[arg(long, value_name = "SYSTEM", conflicts_with_all = ["json", "fail_on", "by"])]
    plugin: Option<Plugin>,
}

/// A state of the fleet that `status` fails on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FailOn {
    /// Agents are not observed as they should be
    Unhealthy,
    /// An agent is stalled
    Stalled,
    /// An agent beats and does not advance
    Standstill,
    /// An agent died in the last minute
    Died,
    /// A unit or program dies again and again
    CrashLoop,
    /// A shard cannot see
    Blind,
    /// No agent beats
    Empty,
}

impl fmt::Display for FailOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

impl FailOn {
    fn is_so(self, fleet: &Fleet) -> bool {
        match self {
            Self::Unhealthy => !fleet.is_healthy,
            Self::Stalled => fleet.stalled > 0,
            Self::Standstill => fleet.standstill > 0,
            Self::Died => fleet.died.agents > 0,
            Self::CrashLoop => !fleet.crash_loops.is_empty(),
            Self::Blind => fleet.shards.iter().any(|shard| shard.is_blind),
            Self::Empty => fleet.up + fleet.stalled == 0,
        }
    }
}

/// Prints the state of a fleet. Exit code 0 unless it is as `--fail-on` says.
pub fn status(args: &StatusArgs) -> Result<Exit, CliError> {
    if let Some(plugin) = args.plugin {
        return run_plugin(plugin, &args.fleet);
    }
    let client = args.fleet.client()?;
    let text = client.text("/api/v1/fleet")?;
    let fleet: Fleet = client.read("/api/v1/fleet", &text)?;
    let mut out = io::stdout().lock();
    if let Some(by) = &args.by {
        let path = format!("/api/v1/groups?by={by}");
        let text = client.text(&path)?;
        if args.json {
            out.write_all(&text)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}.\n", Shown(&fleet.headline_now().text))?;
            out.write_all(table(&client.read(&path, &text)?).as_bytes())?;
        }
    } else if args.json {
        out.write_all(&text)?;
        writeln!(out)?;
    } else {
        out.write_all(words(&fleet).as_bytes())?;
    }
    Ok(if args.fail_on.iter().any(|what| what.is_so(&fleet)) { Exit::Runtime } else { Exit::Clean })
}

/// A monitoring system that runs `status` as a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plugin {
    /// Nagios, Icinga and others: 0 ok, 1 warning, 2 critical, 3 unknown; with performance data
    Nagios,
    /// Node problem detector of Kubernetes: 0 ok, 1 problem, 2 unknown
    Npd,
}

/// Prints the line of a plugin. A fleet that cannot be asked is unknown.
fn run_plugin(plugin: Plugin, fleet: &FleetArgs) -> Result<Exit, CliError> {
    let asked = fleet.client().and_then(|client| {
        let text = client.text("/api/v1/fleet")?;
        client.read::<Fleet>("/api/v1/fleet", &text)
    });
    let (line, exit) = answer(plugin, &asked);
    writeln!(io::stdout().lock(), "{line}")?;
    Ok(exit)
}

fn answer(plugin: Plugin, asked: &Result<Fleet, CliError>) -> (String, Exit) {
    let text = match asked {
        Ok(fleet) => fleet.headline_now().text,
        Err(error) => error.to_string(),
    };
    let text = Shown(text.lines().next().unwrap_or_default()).to_string();
    let level = asked.as_ref().ok().map(|fleet| fleet.headline_now().level);
    match plugin {
        Plugin::Nagios => {
            let (word, exit) = match level {
                Some(Level::Ok) => ("OK", Exit::Clean),
                Some(Level::Warning) => ("WARNING", Exit::Runtime),
                Some(Level::Critical) => ("CRITICAL", Exit::Usage),
                None => ("UNKNOWN", Exit::Unknown),
            };
            // A bar begins the performance data.
            let text = text.replace('|', "/");
            let data = asked.as_ref().map_or_else(|_| String::new(), performance);
            (format!("VARTA {word} - {text}{data}"), exit)
        }
        Plugin::Npd => {
            let exit = match level {
                Some(Level::Ok | Level::Warning) => Exit::Clean,
                Some(Level::Critical) => Exit::Runtime,
                None => Exit::Usage,
            };
            // It keeps no more of a line.
            (text.chars().take(NPD_CHARS).collect(), exit)
        }
    }
}

/// Longest line of a plugin of the node problem detector.
const NPD_CHARS: usize = 80;

fn performance(fleet: &Fleet) -> String {
    let sum = |of: fn(&Shard) -> u64| fleet.shards.iter().map(of).sum::<u64>();
    format!(
        " | up={} stalled={} standstill={} died={} beats={}c lost={}c",
        fleet.up,
        fleet.stalled,
        fleet.standstill,
        fleet.died.agents,
        sum(|shard| shard.beats),
        sum(|shard| shard.lost)
    )
}

/// The groups, the name last, because it may be long.
fn table(groups: &Groups) -> String {
    let mut out = format!(
        "{:>7} {:>7} {:>7} {:>7} {:>10} {:>7} {:>7}  {}\n",
        "agents",
        "up",
        "stalled",
        "frozen",
        "standstill",
        "waiting",
        "died",
        groups.by.as_str()
    );
    let unnamed = if matches!(groups.by, GroupBy::Unit) { "(no unit)" } else { "(not known)" };
    let mut row = |group: &Group, name: &str| {
        let Group { agents, up, stalled, frozen, standstill, waiting, died, .. } = group;
        let _ = writeln!(
            out,
            "{agents:>7} {up:>7} {stalled:>7} {frozen:>7} {standstill:>10} {waiting:>7} {died:>7}  {}",
            Shown(name)
        );
    };
    for group in &groups.groups {
        row(group, group.name.as_deref().unwrap_or(unnamed));
    }
    if let Some(rest) = &groups.rest {
        row(rest, &format!("({} more)", groups.total.saturating_sub(groups.groups.len() as u64)));
    }
    out
}

fn words(fleet: &Fleet) -> String {
    let mut out = String::new();
    let written = write_words(fleet, &mut out);
    debug_assert!(written.is_ok(), "a String takes everything");
    out
}

fn write_words(fleet: &Fleet, out: &mut String) -> fmt::Result {
    writeln!(out, "{}.", Shown(&fleet.headline_now().text))?;
    for problem in &fleet.problems {
        writeln!(out, "  ! {}", Shown(problem))?;
    }
    if let Some(address) = fleet.what_to_do() {
        writeln!(out, "  what to do: {}", Shown(&address))?;
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
        "{:<5}{:>7}{:>8}{:>7}{:>6}{:>8}{:>10}{:>8}{:>8}{:>6}",
        "shard", "up", "stalled", "beats", "lost", "refused", "queue p99", "turned", "blind", "limit"
    )?;
    for shard in &fleet.shards {
        writeln!(
            out,
            "{:<5}{:>7}{:>8}{:>7}{:>6}{:>8}{:>10}{:>8}{:>8}{:>6}{}",
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
        "\nreported: {} ({} not certain, {} refuted), {}, {} ({}), {}",
        counted(sum(|shard| shard.stalls), "stall"),
        sum(|shard| shard.stalls_uncertain),
        sum(|shard| shard.stalls_refuted),
        counted(sum(|shard| shard.resumes), "resume"),
        counted(sum(|shard| shard.exits), "exit"),
        counted(sum(|shard| shard.deaths), "death"),
        counted(fleet.events, "event"),
    )?;
    let standstills = sum(|shard| shard.standstills);
    if standstills > 0 {
        let uncertain = sum(|shard| shard.standstills_uncertain);
        writeln!(out, "reported: {} ({uncertain} not certain)", counted(standstills, "standstill"))?;
    }
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
    if fleet.standstill > 0 {
        writeln!(out, "who stands still: varta-fleet agents --state standstill")?;
    }
    if !fleet.brakes.is_empty() {
        writeln!(out, "what is held: varta-fleet act list")?;
    }
    if fleet.died.agents > 0 {
        writeln!(out, "who died: varta-fleet agents --state dead")?;
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
    use varta_fleet::api::CrashLoop;

    use super::*;

    fn fleet(up: u64, stalled: u64) -> Fleet {
        let shard = Shard { up, stalled, is_alive: true, ..Shard::default() };
        Fleet { up, stalled, is_healthy: true, shards: vec![shard], ..Fleet::default() }
    }

    #[test]
    fn it_fails_on_what_it_is_told_to() {
        use FailOn::{Blind, Died, Empty, Stalled, Standstill, Unhealthy};
        let all = [Unhealthy, Stalled, Standstill, Died, FailOn::CrashLoop, Blind, Empty];
        let so = |fleet: &Fleet| all.into_iter().filter(|what| what.is_so(fleet)).collect::<Vec<_>>();
        assert_eq!(so(&fleet(3, 0)), []);
        assert_eq!(so(&fleet(3, 1)), [Stalled]);
        assert_eq!(so(&fleet(0, 0)), [Empty]);
        let change = |change: fn(&mut Fleet)| {
            let mut fleet = fleet(3, 0);
            change(&mut fleet);
            so(&fleet)
        };
        assert_eq!(change(|fleet| fleet.is_healthy = false), [Unhealthy]);
        assert_eq!(change(|fleet| fleet.standstill = 1), [Standstill]);
        assert_eq!(change(|fleet| fleet.died.agents = 1), [Died]);
        assert_eq!(change(|fleet| fleet.crash_loops = vec![CrashLoop::default()]), [FailOn::CrashLoop]);
        assert_eq!(change(|fleet| fleet.shards[0].is_blind = true), [Blind]);
    }

    #[test]
    fn problems_follow_the_headline_and_harm_no_terminal() {
        let mut blind = fleet(3, 2);
        blind.problems = vec!["shard 0 is dead\u{1b}[31m".to_owned()];
        let unit = Some("a\u{202e}\u{1b}[2Jb".to_owned());
        blind.crash_loops = vec![CrashLoop { unit, deaths: 4, ..CrashLoop::default() }];
        let shown = words(&blind);
        let headline = shown.lines().next().expect("a headline");
        assert!(headline.starts_with("2 of 5 agents are stalled; a"), "{headline}");
        assert!(!headline.contains('\u{202e}'), "{headline}");
        assert!(shown.lines().nth(1).is_some_and(|line| line.starts_with("  ! shard 0 is dead")), "{shown}");
        assert!(!shown.contains('\u{1b}'));
        assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    }

    #[test]
    fn plugins_say_in_a_line_and_a_code_how_it_is() {
        let failed = || Err(CliError::new(Exit::Unavailable, "no fleet in a|b\u{1b}[31m\nstart one"));
        let nagios = |asked| answer(Plugin::Nagios, &asked);
        let (line, exit) = nagios(Ok(fleet(4, 0)));
        let expected =
            "VARTA OK - All well: 4 agents beat | up=4 stalled=0 standstill=0 died=0 beats=0c lost=0c";
        assert_eq!((&*line, exit as u8), (expected, 0));
        assert_eq!(nagios(Ok(fleet(0, 0))).1 as u8, 1);
        let (line, exit) = nagios(Ok(fleet(3, 1)));
        assert!(
            line.starts_with("VARTA CRITICAL - 1 of 4 agents is stalled | up=3") && exit as u8 == 2,
            "{line}"
        );
        let (line, exit) = nagios(failed());
        assert!(line.starts_with("VARTA UNKNOWN - no fleet in a/b") && exit as u8 == 3, "{line}");
        assert!(!line.contains(['|', '\n', '\u{1b}']), "{line}");
        let npd = |asked| answer(Plugin::Npd, &asked);
        assert_eq!(npd(Ok(fleet(0, 0))), ("No agent beats".to_owned(), Exit::Clean));
        let mut all = fleet(1000, 200);
        all.is_healthy = false;
        let (line, exit) = npd(Ok(all));
        assert!(line.len() == NPD_CHARS && exit as u8 == 1, "{line}");
        assert_eq!(npd(failed()).1 as u8, 2);
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
