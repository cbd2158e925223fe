//! `check`: reports everything that prevents a good start, each with its fix.
//!
//! A *problem* lies with the configuration or the host and keeps the fleet from working as configured. A
//! *note* lies with this process (its user, limits, cores), with which the observer need not be started.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::Access;
use rustix::process::{Resource, getrlimit};
use varta_fleet::config::{KEYS, Layers, Origin, read_duration, written};
use varta_fleet::plan::{Brake, CoreChoice, EventsPlan, Output, Plan, ShardPlan};
use varta_fleet::priority::Standing;
use varta_fleet::sizing::{Demand, Sizing, queue_bytes};
use varta_fleet::time::duration_ns;
use varta_fleet::{
    ActionTrouble, BindError, Inherited, InheritedError, Reason, RunDirError, ServiceManager, Shown, Warning,
    inspect_actions, quoted,
};

use crate::config::ConfigArgs;
use crate::exit::{CliError, Exit, counted};
use crate::service::too_fast;
use crate::words::{confined, only_ours_beat};

/// The kernel's limit of queued datagrams per socket, of this network namespace.
const QUEUE_LIMIT_PATH: &str = "/proc/sys/net/unix/max_dgram_qlen";
/// The default for the longest pause of the observer that the queue should absorb.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `check`.
#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    /// What to check.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How often the agents beat.
    #[command(flatten)]
    pub beats: BeatArgs,
}

/// How often the agents beat, to advise for.
#[derive(clap::Args, Clone, Debug)]
pub struct BeatArgs {
    /// Beats a second of each agent: prints how many shards and how long a queue agents-max of them need
    #[arg(long, value_name = "HZ", allow_negative_numbers = true, value_parser = read_rate)]
    rate: Option<f64>,
    /// With --rate: the longest pause of the observer for which no beat may be refused [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = read_duration)]
    pause: Option<Duration>,
}

fn read_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (1e-4..=1e6).contains(&rate) => Ok(rate),
        _ => Err("it must be a number of beats a second from 0.0001 to 1000000".to_owned()),
    }
}

/// Whether the fleet can work as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It cannot: exit code 78.
    Problem,
    /// It can, perhaps less well.
    Note,
}

/// One finding, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its severity.
    pub level: Level,
    /// What, where and why.
    pub text: String,
    /// What to do; commands to type, if there are any. May have several lines, or none.
    pub fix: String,
}

impl Finding {
    fn problem(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Problem, text: text.into(), fix: fix.into() }
    }

    fn note(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Note, text: text.into(), fix: fix.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Problem => "problem",
            Level::Note => "note",
        };
        write!(f, "{level}: {}", self.text)?;
        let mut lead = "fix: ";
        for line in self.fix.lines() {
            write!(f, "\n    {lead}{line}")?;
            lead = "     ";
        }
        Ok(())
    }
}

/// Prints the resolved plan and every finding.
pub fn check(args: &CheckArgs) -> Result<Exit, CliError> {
    if args.beats.pause.is_some() && args.beats.rate.is_none() {
        let message = "--pause sizes the queue by the rate of the beats, which is not given; add --rate HZ";
        return Err(CliError::new(Exit::Usage, message));
    }
    let passed = Inherited::from_service_manager();
    let layers = args.config.layers();
    let mut out = Vec::new();
    let mut findings = Vec::new();
    match layers.plan() {
        Ok(plan) => {
            print_plan(&mut out, &plan, &layers)?;
            let demand = args.beats.demand(&plan);
            if let Some(demand) = &demand {
                print_sizing(&mut out, &plan, demand)?;
                findings.extend(shards_finding(&plan, demand));
            }
            let is_asked = demand.is_some() || layers.origin("agents-max") != Origin::Default;
            findings.extend(host_findings(&plan, demand.as_ref(), is_asked));
            findings.extend(action_findings(&plan, &layers));
            findings.extend(passed_findings(&plan, passed));
            let undecided = Warning::of_rules(&plan);
            findings.extend(undecided.map(|warning| Finding::note(warning.to_string(), "")));
            if layers.config().events_beats && plan.events.is_none() {
                findings.push(Finding::note(
                    "events-beats is true, but no events are written",
                    "name a file with events",
                ));
            }
            let is_file = |events: &EventsPlan| matches!(events.output, Output::File(_));
            if layers.config().events_max_bytes.is_some() && !plan.events.as_ref().is_some_and(is_file) {
                findings.push(Finding::note(
                    "events-max-bytes is set, but no file of events is written",
                    "name a file with events",
                ));
            }
        }
        Err(error) => {
            let failed = CliError::from(error.clone());
            if matches!(failed.exit(), Exit::Usage | Exit::Permission) {
                return Err(failed);
            }
            findings.extend(error.problems().iter().map(|problem| Finding::problem(problem.to_string(), "")));
            findings.push(Finding::note(
                "queue limit, directories and cores were not checked: what they must carry follows from the configuration",
                "correct the configuration and check again",
            ));
        }
    }
    let watchdog = ServiceManager::watchdog_in_environment().and_then(too_fast);
    findings.extend(watchdog.map(|why| Finding::note(why, "")));
    findings.extend(priority_finding());
    findings.extend(confined(&Standing::own()).map(|(limit, advice)| Finding::note(limit, advice)));
    findings.extend(Warning::of_here().iter().map(|warning| Finding::note(warning.to_string(), "")));
    findings.sort_by_key(|finding| finding.level == Level::Note);
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    let notes = findings.len() - problems;
    writeln!(out, "{}, {}", counted(problems as u64, "problem"), counted(notes as u64, "note"))?;
    match io::stdout().lock().write_all(&out) {
        // `check | head` still reports its findings by the exit code.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(if problems > 0 { Exit::Config } else { Exit::Clean })
}

fn print_plan(out: &mut impl Write, plan: &Plan, layers: &Layers) -> io::Result<()> {
    let ns = |ns| written(Duration::from_nanos(ns));
    let config = layers.config();
    writeln!(out, "plan:")?;
    for key in KEYS.iter().filter(|key| key.is_settable()) {
        // Keys that the plan resolves are shown with the resolved value.
        let value = match (key.name, &plan.events) {
            ("dir", _) => Shown(plan.dir.display()).to_string(),
            ("shards", _) => plan.shards.len().to_string(),
            ("events", Some(events)) => Shown(&events.output).to_string(),
            _ => resolved(key.name, plan).unwrap_or_else(|| key.value_in(config)),
        };
        let origin = layers.origin_in_words(key.in_file);
        writeln!(out, "    {:<16} {value:<24} ({origin})", key.name)?;
    }
    for (i, ShardPlan { socket, mode, group, core, allow_uids, .. }) in plan.all_shards().enumerate() {
        let uids = allow_uids.as_ref().map(|uids| format!(", uids {}", listed(uids))).unwrap_or_default();
        let group = group.map(|gid| format!(", group {gid}")).unwrap_or_default();
        let socket = Shown(socket.display());
        let of = if i < plan.shards.len() { "" } else { ", for daemons" };
        writeln!(out, "    shard {i:<10} {socket} (mode {mode:04o}{group}, core {core}{uids}{of})")?;
    }
    for (i, rule) in plan.rules.iter().enumerate() {
        let matcher = &rule.matcher;
        let asked = [
            matcher.comm.as_ref().map(|comm| format!("comm {}", Shown(comm))),
            matcher.uid.map(|uid| format!("uid {uid}")),
            matcher.exe.as_ref().map(|exe| format!("exe {}", Shown(exe))),
            matcher.unit.as_ref().map(|unit| format!("unit {}", Shown(unit))),
        ];
        let asked: Vec<_> = asked.into_iter().flatten().collect();
        writeln!(out, "    rule {i:<11} {}: {}", asked.join(" and "), ns(rule.threshold_ns))?;
    }
    let Some(act) = &plan.act else { return Ok(()) };
    for (i, action) in act.actions.iter().enumerate() {
        let triggers: Vec<String> = action.on.iter().map(ToString::to_string).collect();
        let (on, deed) = (triggers.join(" or "), action.deed.to_string());
        let after = ns(action.after_ns);
        writeln!(out, "    action {i:<9} {}: {after} after {on}: {}", action.name.as_str(), Shown(deed))?;
    }
    let Brake { running, starts, per_ns, percent, at_least, within_ns, release_ns, dry_run, .. } = act.brake;
    writeln!(
        out,
        "    brake            {running} at once, {starts} per {}; held while more than {percent} % and at least \
         {at_least} stall within {}, released {}{}",
        ns(per_ns),
        ns(within_ns),
        release_ns.map_or("by hand".to_owned(), |release| format!("after {}", ns(release))),
        if dry_run { "; dry run, nothing is started" } else { "" },
    )?;
    Ok(())
}

/// A path of what is done about stalls, as the plan resolved it.
fn resolved(key: &str, plan: &Plan) -> Option<String> {
    let act = plan.act.as_ref()?;
    let path = match key {
        "audit" => act.audit.as_ref()?,
        "evidence-dir" => &act.evidence_dir,
        "spawner" => act.spawner.as_ref()?,
        _ => return None,
    };
    Some(Shown(path.display()).to_string())
}

impl BeatArgs {
    fn demand(&self, plan: &Plan) -> Option<Demand> {
        Some(Demand {
            agents: plan.agents_max,
            rate: self.rate?,
            threshold_ns: plan.threshold_min_ns(),
            pause_ns: duration_ns(self.pause.unwrap_or(PAUSE)),
            max_delay_ns: plan.max_delay_ns,
        })
    }
}

fn sizing_of(plan: &Plan, demand: &Demand) -> Sizing {
    demand.on(u32::try_from(plan.shards.len()).unwrap_or(u32::MAX))
}

fn queue_limit_needed(plan: &Plan, demand: Option<&Demand>) -> u64 {
    demand.map_or(plan.queue_limit_needed(), |demand| sizing_of(plan, demand).queue_limit)
}

fn print_sizing(out: &mut impl Write, plan: &Plan, demand: &Demand) -> io::Result<()> {
    let Sizing { shards, busiest_rate, busiest_core, cores, queue_limit, queue_bytes, resident_bytes } =
        sizing_of(plan, demand);
    let fewest = demand.shards().map_or("more than 64".to_owned(), |fewest| fewest.to_string());
    let pause = written(Duration::from_nanos(demand.pause_ns));
    let beats = f64::from(demand.agents) * demand.rate;
    let rows = [
        (
            "beats",
            format!("{beats:.0}/s"),
            format!("{}, {} a second each", counted(demand.agents.into(), "agent"), demand.rate),
        ),
        ("shards", fewest, "at least, so that the busiest core is half idle".to_owned()),
        (
            "busiest shard",
            format!("{busiest_rate:.0}/s"),
            format!("of {shards}; its core {:.0} % busy", busiest_core * 100.0),
        ),
        ("cpu", format!("{cores:.2} cores"), "of all shards together, by measured costs".to_owned()),
        (
            "queue limit",
            queue_limit.to_string(),
            format!("net.unix.max_dgram_qlen, for all at once and {pause} of pause"),
        ),
        ("memory", mebibytes(resident_bytes), "of the observer at most, by measured sizes".to_owned()),
        ("queue memory", mebibytes(queue_bytes), "of the kernel, only while all queues are full".to_owned()),
    ];
    writeln!(out, "needs:")?;
    for (name, value, what) in rows {
        writeln!(out, "    {name:<16} {value:<24} ({what})")?;
    }
    Ok(())
}

/// Whether the shards can process that many beats.
fn shards_finding(plan: &Plan, demand: &Demand) -> Option<Finding> {
    let sizing = sizing_of(plan, demand);
    let fewest = demand.shards();
    if fewest.is_some_and(|fewest| sizing.shards >= fewest) {
        return None;
    }
    let text = format!(
        "{} beats a second on {}: the core of the busiest would be {:.0} % busy{}",
        (f64::from(demand.agents) * demand.rate).round(),
        counted(u64::from(sizing.shards), "shard"),
        sizing.busiest_core * 100.0,
        if sizing.busiest_core > 1.0 {
            ", and beats would be refused without end"
        } else {
            ", with little left for bursts"
        },
    );
    let fix = match fewest {
        Some(fewest) => format!("write shards = {fewest} or more, with a core for each"),
        None => "64 shards, the most there are, do not suffice: beat less often".to_owned(),
    };
    Some(if sizing.busiest_core > 1.0 { Finding::problem(text, fix) } else { Finding::note(text, fix) })
}

/// Differences between the plan and this host or process.
///
/// `is_asked`: the user set the number of agents. The default is only an upper limit.
fn host_findings(plan: &Plan, demand: Option<&Demand>, is_asked: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    match fs::read_to_string(QUEUE_LIMIT_PATH).map(|text| text.trim().parse()) {
        Ok(Ok(limit)) if is_asked => findings.extend(queue_finding(plan, demand, limit)),
        Ok(Ok(limit)) => findings.extend(queue_note(plan, limit)),
        _ => findings.push(Finding::note(
            format!("cannot read {QUEUE_LIMIT_PATH}, so it is unknown how many beats a shard's queue holds"),
            format!("where it can be read, set it to {} or more", queue_limit_needed(plan, demand)),
        )),
    }
    findings.extend(access_findings(plan));
    findings.extend(limit_findings(plan));
    findings.extend(watch_finding(plan, getrlimit(Resource::Nofile).maximum));
    findings.extend(directory_findings(&plan.dir));
    findings.extend(other_directory_findings(plan));
    findings.extend(socket_findings(plan));
    findings.extend(http_finding(plan));
    if let Some(cores) = core_affinity::get_core_ids() {
        let cores: Vec<_> = cores.iter().filter_map(|core| u32::try_from(core.id).ok()).collect();
        findings.extend(core_findings(plan, &cores));
    }
    findings
}

/// Whether the limit allows a descriptor for each process of the fleet; `run` raises the limit to its
/// maximum.
fn watch_finding(plan: &Plan, open_files_max: Option<u64>) -> Option<Finding> {
    let watched = plan.pidfds_max(open_files_max?);
    let wanted = plan.watched_max.min(plan.agents_max);
    if watched >= wanted {
        return None;
    }
    Some(Finding::note(
        format!(
            "this process may open {} files: the exits of {watched} agents at a time are reported within milliseconds, \
             those of others at their threshold",
            open_files_max?
        ),
        format!(
            "to watch {wanted}: raise the hard limit, LimitNOFILE={} in a unit file; or say how many you want: \
             watched-max = {watched}",
            open_files_max? - u64::from(watched) + u64::from(wanted)
        ),
    ))
}

/// Whether the kernel's queue is long enough for the fleet; it holds one datagram more than its limit.
fn queue_finding(plan: &Plan, demand: Option<&Demand>, limit: u64) -> Option<Finding> {
    let needed = queue_limit_needed(plan, demand);
    if limit >= needed {
        return None;
    }
    let (agents, shards) = (plan.agents_max, plan.shards.len());
    let why = match demand {
        Some(demand) if needed > plan.queue_limit_needed() => {
            format!("for {} without the observer", written(Duration::from_nanos(demand.pause_ns)))
        }
        _ => "2 for each agent of a shard".to_owned(),
    };
    let text = format!(
        "net.unix.max_dgram_qlen is {limit} in this network namespace: the kernel keeps {} beats for a shard and \
         refuses the rest, so living agents may look stalled; {agents} agents on {} need {needed}, {why}",
        limit.saturating_add(1),
        counted(shards as u64, "shard"),
    );
    let mut fix = format!(
        "sysctl -w net.unix.max_dgram_qlen={needed}\n\
         then restart the observer: the limit is read when a socket is made\n\
         to keep it: echo 'net.unix.max_dgram_qlen = {needed}' > /etc/sysctl.d/60-varta-fleet.conf\n\
         it costs memory only while beats wait, {} a shard at most",
        mebibytes(queue_bytes(needed)),
    );
    let carried = limit / 2 * shards as u64;
    if carried >= shards as u64 && demand.is_none() {
        fix.push_str(&format!("\nor, if there are no more agents than that: agents-max = {carried}"));
    }
    Some(Finding::problem(text, fix))
}

/// Users that the sockets' modes exclude, perhaps by mistake.
fn access_findings(plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !plan.lets_others_beat() {
        findings.push(Finding::note(
            format!("{}: the mode of the sockets is 0600", only_ours_beat()),
            "to accept agents of other users: mode = \"0660\" with group = \"NAME\", or mode = \"0666\" for all",
        ));
    }
    if !plan.control_writers.is_empty() && plan.control_mode & 0o022 == 0 {
        findings.push(Finding::note(
            format!(
                "control-writers names users {}, and the mode of control.sock, {:04o}, keeps them out",
                listed(&plan.control_writers),
                plan.control_mode
            ),
            "write control-mode = \"0660\" and a control-group that they are in, or control-mode = \"0666\"",
        ));
    }
    for (index, shard) in plan.all_shards().enumerate() {
        if shard.group.is_some() && shard.mode & 0o020 == 0 {
            findings.push(Finding::note(
                format!(
                    "the socket of shard {index} has a group of its own that may not send to it: its mode is {:04o}",
                    shard.mode
                ),
                "write mode = \"0660\", or leave group out",
            ));
        }
    }
    findings
}

/// How many agents the kernel's queue is long enough for, if fewer than agents-max.
fn queue_note(plan: &Plan, limit: u64) -> Option<Finding> {
    if limit >= plan.queue_limit_needed() {
        return None;
    }
    let shards = plan.shards.len() as u64;
    Some(Finding::note(
        format!(
            "net.unix.max_dgram_qlen is {limit} in this network namespace: the queues of {} carry {} when all beat \
             at once, 2 beats of each, and the kernel refuses the rest",
            counted(shards, "shard"),
            counted(limit / 2 * shards, "agent"),
        ),
        "if there will be more: say how many with agents-max, and check again",
    ))
}

/// Whether a user's limits are enough for its agents, and whether they can ever be reached.
fn limit_findings(plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(share) = plan.uid_agents_max.filter(|share| *share >= plan.agents_max) {
        findings.push(Finding::note(
            format!(
                "uid-agents-max is {share} and agents-max {}: one user can fill the table, the limit does nothing",
                plan.agents_max
            ),
            "write a smaller uid-agents-max, or leave it out",
        ));
    }
    if let Some(budget) = plan.uid_frames_max {
        let agents = plan.uid_agents_max.unwrap_or(u32::MAX).min(plan.agents_max);
        let on_a_shard = u64::from(agents).div_ceil(plan.shards.len().max(1) as u64);
        // An agent that beats only once per threshold is reported as stalled after one lost beat.
        let needed = (2 * on_a_shard * 1_000_000_000).div_ceil(plan.threshold_min_ns().max(1));
        if u64::from(budget) < needed {
            findings.push(Finding::note(
                format!(
                    "uid-frames-max is {budget}: {on_a_shard} agents of one user on a shard that beat twice a threshold \
                     send {needed} frames a second, and what is over the budget is refused, so living agents may look stalled"
                ),
                format!("write uid-frames-max = {needed} or more, or a smaller uid-agents-max"),
            ));
        }
    }
    findings
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Problems of the runtime directory, as a start would find them, and the commands that fix them.
fn directory_findings(dir: &Path) -> Vec<Finding> {
    let command = |problem: &RunDirError| match problem {
        RunDirError::Writable { dir, .. } => format!("chmod go-w {}", quoted(dir.as_ref())),
        RunDirError::ForeignOwner { dir, uid } => {
            let us = rustix::process::geteuid();
            let own = format!("chown {} {}", us.as_raw(), quoted(dir.as_ref()));
            match us.is_root() {
                true => format!(
                    "as the observer's user: setpriv --reuid {uid} --init-groups varta-fleet check\nas root: {own}"
                ),
                false => own,
            }
        }
        RunDirError::ExposedParent { parent, .. } => format!("chmod +t {}", quoted(parent.as_ref())),
        RunDirError::Create { dir, source } if source.kind() == io::ErrorKind::NotFound => {
            format!("mkdir -p {}", quoted(dir.parent().unwrap_or(dir).as_ref()))
        }
        _ => String::new(),
    };
    let problems = varta_fleet::inspect_dir(dir);
    problems.iter().map(|problem| Finding::problem(problem.to_string(), command(problem))).collect()
}

/// Problems of the shards' sockets, as a start would find them.
fn socket_findings(plan: &Plan) -> Vec<Finding> {
    let judge = |shard: &ShardPlan| match varta_fleet::inspect_socket(&shard.socket) {
        Ok(()) => None,
        Err(BindError::InUse { path }) => Some(Finding::note(
            format!("an observer is running at {}: another cannot be started there", Shown(path.display())),
            "stop it first, or name another directory with dir; if a .socket unit holds the socket, start the service",
        )),
        Err(error) => Some(Finding::problem(error.to_string(), "")),
    };
    plan.all_shards().filter_map(judge).collect()
}

/// What is wrong with the sockets that a service manager passed to this process, as a start would find it.
fn passed_findings(plan: &Plan, passed: Result<Inherited, InheritedError>) -> Vec<Finding> {
    match passed.and_then(|mut passed| passed.inspect(plan)) {
        Ok(warnings) => warnings.iter().map(|warning| Finding::note(warning.to_string(), "")).collect(),
        Err(error) => vec![Finding::problem(error.to_string(), "")],
    }
}

/// What hinders the actions, or has no effect because there are none.
fn action_findings(plan: &Plan, layers: &Layers) -> Vec<Finding> {
    let of = |trouble: &ActionTrouble| match trouble.is_problem() {
        true => Finding::problem(trouble.to_string(), trouble.fix()),
        false => Finding::note(trouble.to_string(), trouble.fix()),
    };
    let mut findings: Vec<_> = inspect_actions(plan).iter().map(of).collect();
    let is_set = |key: &&str| layers.origin(key) != Origin::Default;
    let idle: Vec<&str> =
        ["audit", "audit-sync", "evidence-dir", "spawner", "brake"].into_iter().filter(is_set).collect();
    if plan.act.is_none() && !idle.is_empty() {
        let text = format!("there is no [[action]], so {} does nothing", idle.join(", "));
        findings.push(Finding::note(text, "write an action, or leave it out"));
    }
    findings
}

/// Why metrics, page and API cannot be served by TCP.
fn http_finding(plan: &Plan) -> Option<Finding> {
    let error = varta_fleet::inspect_http(&plan.http).err()?;
    Some(match error.kind() {
        io::ErrorKind::AddrInUse => Finding::note(error.to_string(), ""),
        _ => Finding::problem(error.to_string(), ""),
    })
}

fn access_finding(dir: &Path, what: &str) -> Option<Finding> {
    let error = rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).err()?;
    let us = rustix::process::geteuid().as_raw();
    let text = format!("user {us} cannot {what} {}: {}", Shown(dir.display()), Reason(&error.into()));
    Some(Finding::problem(text, "run as its owner, or name a directory of this user with dir"))
}

/// Checks the other directories the plan writes in. The observer creates none of them.
fn other_directory_findings(plan: &Plan) -> Vec<Finding> {
    let sockets = plan.all_shards().map(|shard| shard.socket.as_path());
    let events = plan.events.as_ref().and_then(|events| match &events.output {
        Output::File(path) => Some(path.as_path()),
        Output::Stdout => None,
    });
    let mut dirs: Vec<_> =
        sockets.chain(events).filter_map(Path::parent).filter(|dir| *dir != plan.dir).collect();
    dirs.sort_unstable();
    dirs.dedup();
    let judge = |dir: &Path| {
        if dir.is_dir() {
            return access_finding(dir, "write in");
        }
        let text =
            format!("{} is to hold a socket or the events, and is not a directory", Shown(dir.display()));
        Some(Finding::problem(text, format!("mkdir -p {}", quoted(dir.as_ref()))))
    };
    dirs.into_iter().filter_map(judge).collect()
}

/// Whether the threads can get their cores.
fn core_findings(plan: &Plan, allowed: &[u32]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, shard) in plan.shards.iter().enumerate() {
        if let CoreChoice::Core(core) = shard.core
            && !allowed.contains(&core)
        {
            findings.push(Finding::note(
                format!("shard {i} is to be pinned to core {core}, which this process may not use"),
                format!("choose one of the allowed cores ({}), \"auto\" or \"none\"", ranges(allowed)),
            ));
        }
    }
    let shards = plan.shards.len();
    if shards > allowed.len() {
        findings.push(Finding::note(
            format!(
                "there are more shards ({shards}) than cores this process may use ({}): they take turns and gain nothing from each other",
                allowed.len()
            ),
            format!("write shards = {} or less, or allow more cores", allowed.len().max(1)),
        ));
    }
    findings
}

/// Whether this process may raise its priority, found out by trying: in a user namespace a capability may be
/// present without effect.
fn priority_finding() -> Option<Finding> {
    let before = rustix::process::getpriority_process(None).ok()?;
    let tried = rustix::process::setpriority_process(None, -20);
    // Lowering the priority is always allowed.
    let _ = rustix::process::setpriority_process(None, before);
    let error = tried.err()?;
    Some(Finding::note(
        format!(
            "this process may not raise its priority to nice -20 ({}): under load the shards wait behind the agents, and beats are refused",
            Reason(&error.into())
        ),
        "AmbientCapabilities=CAP_SYS_NICE in the unit of the observer, or LimitNICE=-20, or run it as root",
    ))
}

fn listed(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// `0-3, 6`, as cpuset files write it.
fn ranges(numbers: &[u32]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let runs = sorted.chunk_by(|a, b| a + 1 == *b);
    let shown = runs.map(|run| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use varta_fleet::config::{Config, ShardConfig};

    use super::*;

    fn plan(agents_max: u32, shards: u32) -> Plan {
        let mut config = Config::default();
        (config.dir, config.agents_max, config.shards) =
            (Some("/tmp/varta".into()), agents_max, Some(shards));
        config.plan().unwrap()
    }

    #[test]
    fn the_queue_limit_is_judged_by_the_fullest_shard() {
        let finding = queue_finding(&plan(131_072, 2), None, 10).unwrap();
        assert_eq!(finding.level, Level::Problem);
        assert!(finding.text.contains("is 10 in this network namespace"), "{finding}");
        assert!(finding.text.contains("keeps 11 beats"), "{finding}");
        assert!(finding.fix.starts_with("sysctl -w net.unix.max_dgram_qlen=131072\n"), "{finding}");
        assert!(finding.fix.contains("96 MiB"), "{finding}");
        assert!(finding.fix.contains("restart the observer"), "{finding}");
        assert!(finding.fix.ends_with("agents-max = 10"), "{finding}");

        // 100 on 3 shards: 34 on the fullest.
        assert_eq!(queue_finding(&plan(100, 3), None, 68), None);
        assert!(queue_finding(&plan(100, 3), None, 67).unwrap().fix.contains("qlen=68\n"));
        assert!(!queue_finding(&plan(100, 3), None, 1).unwrap().fix.contains("agents-max"));
    }

    #[test]
    fn what_the_defaults_may_carry_is_a_note_until_somebody_asks_for_so_many() {
        let note = queue_note(&plan(131_072, 4), 10).unwrap();
        assert_eq!(note.level, Level::Note);
        assert!(note.text.contains("the queues of 4 shards carry 20 agents"), "{note}");
        assert_eq!(queue_note(&plan(20, 4), 10), None);
    }

    #[test]
    fn what_a_smaller_fleet_is_advised_passes() {
        for limit in [2, 3, 10, 11, 512] {
            for shards in [1, 2, 3, 7] {
                let fix = queue_finding(&plan(4_194_304, shards), None, limit).unwrap().fix;
                let advised = fix.rsplit("agents-max = ").next().unwrap().parse().unwrap();
                assert_eq!(queue_finding(&plan(advised, shards), None, limit), None);
            }
        }
    }

    #[test]
    fn limits_of_users_that_do_nothing_or_too_much_are_noted() {
        let found = |agents_max, shards, uid_agents_max, uid_frames_max| {
            let mut config = Config::default();
            (config.dir, config.agents_max, config.shards) =
                (Some("/tmp/varta".into()), agents_max, Some(shards));
            (config.uid_agents_max, config.uid_frames_max) = (uid_agents_max, uid_frames_max);
            limit_findings(&config.plan().unwrap())
        };
        assert_eq!(found(1000, 2, None, None), []);
        assert_eq!(found(1000, 2, Some(999), None), []);
        let [share] = &found(1000, 2, Some(1000), None)[..] else { panic!() };
        assert!(share.level == Level::Note && share.text.contains("the limit does nothing"), "{share}");
        // 50 on a shard, twice in 2 s each.
        assert_eq!(found(1000, 2, Some(100), Some(50)), []);
        let [budget] = &found(1000, 2, Some(100), Some(49))[..] else { panic!() };
        assert!(budget.text.contains("50 agents of one user on a shard"), "{budget}");
        assert!(budget.fix.contains("uid-frames-max = 50 or more"), "{budget}");
    }

    #[test]
    fn cores() {
        let mut config = Config::default();
        config.dir = Some("/tmp/varta".into());
        let mut pinned = ShardConfig::default();
        pinned.core = CoreChoice::Core(5);
        config.shard_blocks = vec![pinned, ShardConfig::default()];
        let plan = config.plan().unwrap();
        assert!(core_findings(&plan, &[0, 1, 5]).is_empty());
        let findings = core_findings(&plan, &[3, 0, 1]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].text.contains("core 5") && findings[0].fix.contains("0-1, 3"), "{}", findings[0]);
        assert_eq!(core_findings(&plan, &[5]).len(), 1);
    }

    #[test]
    fn directories() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("it's here");
        assert_eq!(directory_findings(&dir), []);
        assert!(directory_findings(&dir.join("deeper"))[0].fix.starts_with("mkdir -p '"));
        fs::create_dir(&dir).unwrap();
        for (mode, found) in [(0o755, 0), (0o700, 0), (0o775, 1), (0o1777, 1)] {
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            let findings = directory_findings(&dir);
            assert_eq!(findings.len(), found, "{mode:o}: {findings:?}");
            assert!(
                findings.iter().all(|finding| finding.fix.starts_with("chmod go-w '")
                    && finding.fix.ends_with(r"it'\''s here'"))
            );
        }
        // Parents are not checked, except one in which every user can replace any file.
        let below = dir.join("run");
        fs::create_dir(&below).unwrap();
        for (mode, found) in [(0o775, 0), (0o1777, 0), (0o777, 1)] {
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            for judged in [below.clone(), dir.join("absent")] {
                let findings = directory_findings(&judged);
                assert_eq!(findings.len(), found, "{mode:o}: {findings:?}");
                assert!(findings.iter().all(|finding| finding.fix.starts_with("chmod +t '")));
            }
        }
        let file = base.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(directory_findings(&file)[0].text.contains("is not a directory"));
        if rustix::process::geteuid().is_root() {
            // Root checks what the service of another user runs in.
            std::os::unix::fs::chown(&below, Some(1234), None).unwrap();
            let fix = &directory_findings(&below)[0].fix;
            assert!(fix.contains("setpriv --reuid 1234 ") && fix.contains("\nas root: chown 0 "), "{fix}");
        }
    }

    #[test]
    fn cores_are_listed_in_ranges() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[7]), "7");
        assert_eq!(ranges(&[2, 0, 1, 3, 6]), "0-3, 6");
    }
}
