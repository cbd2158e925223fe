//! `explain`: why a process has its verdict, in plain words.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use varta_fleet::Shown;
use varta_fleet::api::{
    ActCase, ActHold, AgentAct, AgentState, DaemonPhase, DaemonSays, Detail, Evidence, EvidenceFile,
    EvidenceVerdict, Exited, Fleet, Origin, Past, Refused, ThresholdOf, Tracked, TurnedAwayFor,
};
use varta_fleet::event::{Event, EventKind, Texts};

use crate::client::{Client, FleetArgs};
use crate::clock::{ZoneArgs, date_time};
use crate::exit::{CliError, Exit, counted};
use crate::words::{comm, dated_line, ending, reason_of, time};

/// Events shown at the end.
const EVENTS: usize = 10;

/// Arguments of `explain`.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// Process id of the agent
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    #[command(flatten)]
    fleet: FleetArgs,
    /// The JSON that the fleet answers, instead of words
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    zone: ZoneArgs,
}

/// Prints the explanation.
pub fn explain(args: &ExplainArgs) -> Result<Exit, CliError> {
    args.zone.apply();
    let client = args.fleet.client()?;
    let mut out = io::stdout().lock();
    if args.json {
        out.write_all(&client.text(&path(args.pid))?)?;
        writeln!(out)?;
    } else {
        out.write_all(text(&client, args.pid)?.as_bytes())?;
    }
    Ok(Exit::Clean)
}

/// The explanation of an agent: a paragraph, one of what is done about it, if anything is, its last events; an empty line
/// between them.
pub fn text(client: &Client, pid: u32) -> Result<String, CliError> {
    let fleet: Fleet = client.get("/api/v1/fleet")?;
    let detail = client.get::<Detail>(&path(pid))?;
    let (act, mut said) = match &detail {
        Detail::Tracked(tracked) => (&tracked.act, of_tracked(tracked, &fleet)),
        Detail::Exited(exited) => (&exited.act, of_exited(exited)),
    };
    let Some(act) = act else { return Ok(said) };
    let evidence = act.evidence.as_ref().map(|path| {
        let found = client.get::<Evidence>(&format!("/api/v1/agents/{pid}/evidence"));
        evidence(path, found.map_err(|error| error.to_string()))
    });
    let done: Vec<String> = done(act).into_iter().chain(evidence).collect();
    if !done.is_empty() {
        // Before the events.
        let end = said.find("\n\n").unwrap_or(said.len());
        said.insert_str(end, &format!("\n\n{}", wrapped(&done.join(" "))));
    }
    Ok(said)
}

/// What is done about an agent, in sentences.
fn done(act: &AgentAct) -> Vec<String> {
    let case = |case: &ActCase| {
        let ActCase { action, phase, why, attempt, due_in_ns, .. } = case;
        let why = why.as_deref().map(|why| format!(": {}", reason_of(why))).unwrap_or_default();
        let attempts = if *attempt > 0 {
            format!(", after {}", counted((*attempt).into(), "start"))
        } else {
            String::new()
        };
        let due = due_in_ns.map(time);
        match (&**phase, due) {
            ("started", _) => format!("Action {action} runs for it now (attempt {attempt})."),
            ("held", Some(due)) => format!("Action {action} waits for {due}{attempts}{why}."),
            ("held", None) => format!("Action {action} is held{attempts}{why}."),
            (_, Some(due)) => format!("Action {action} is due in {due}{attempts}."),
            (phase, None) => format!("Action {action} is {}{attempts}{why}.", Shown(phase)),
        }
    };
    let hold = |hold: &ActHold| {
        let why = if hold.text.is_empty() { String::new() } else { format!(": {}", Shown(&hold.text)) };
        format!(
            "An operator holds actions for {} for another {}{why}.",
            Shown(&hold.of),
            time(hold.ends_in_ns)
        )
    };
    act.cases.iter().map(case).chain(act.holds.iter().map(hold)).collect()
}

/// What was found before an action, or why that is not known.
fn evidence(path: &str, found: Result<Evidence, String>) -> String {
    let path = Shown(path);
    let found = match found {
        Ok(found) => found,
        Err(why) => {
            return format!(
                "What was found before the last action is in {path}, and is not shown: {}.",
                Shown(why)
            );
        }
    };
    let mut said =
        format!("Before the last action, at {}, {}.", date_time(found.wall), verdict(found.verdict));
    if let Some(used) = found.cpu_used_ns {
        let _ = write!(said, " It used {} of CPU time within {}.", time(used), time(found.between_ns));
    }
    if let Some(main) = found.threads.first() {
        let waits = main.wait_channel.as_deref().map(|at| format!(", in {}", Shown(at))).unwrap_or_default();
        let threads = counted(found.threads_all as u64, "thread");
        let _ = write!(said, " Of {threads} the main one was in state {}{waits}.", main.state);
    }
    let memory = found.memory.iter().find_map(|line| line.strip_prefix("VmRSS:"));
    if let Some(memory) = memory {
        let _ = write!(said, " It had {} in memory.", Shown(memory.trim()));
    }
    let quotas = found.files.iter().filter(|file| is_quota(file));
    for EvidenceFile { path, text } in quotas {
        let _ = write!(said, " Its CPU quota is {} ({}).", Shown(text.trim()), Shown(path));
    }
    let _ = write!(said, " All of it is in {path}.");
    said
}

/// Whether it limits CPU time: version 2, version 1.
fn is_quota(file: &EvidenceFile) -> bool {
    file.path.ends_with("/cpu.max") && !file.text.starts_with("max")
        || file.path.ends_with("/cpu.cfs_quota_us") && !file.text.starts_with('-')
}

const fn verdict(verdict: EvidenceVerdict) -> &'static str {
    match verdict {
        EvidenceVerdict::Gone => "it was gone",
        EvidenceVerdict::Frozen => "a control group of it was frozen",
        EvidenceVerdict::Traced => "a tracer, such as a debugger, held it",
        EvidenceVerdict::Stopped => "it was stopped by a signal",
        EvidenceVerdict::Throttled => "it had used up its CPU quota",
        EvidenceVerdict::Spinning => "it was spinning: it used CPU time, or wanted to",
        EvidenceVerdict::Uninterruptible => "it waited in a system call that nothing interrupts",
        EvidenceVerdict::Sleeping => "it was sleeping",
    }
}

fn path(pid: u32) -> String {
    format!("/api/v1/agents/{pid}")
}

fn of_tracked(tracked: &Tracked, fleet: &Fleet) -> String {
    let agent = &tracked.agent;
    let inside = agent.ns_pid.map(|pid| format!(", pid {pid} in its own namespace")).unwrap_or_default();
    let mut said = vec![format!(
        "{} (pid {}{inside}, uid {}) {} on shard {}{}{}.",
        comm(agent),
        agent.pid,
        agent.uid,
        match agent.state {
            AgentState::Stalled => "is STALLED",
            AgentState::Frozen => "is FROZEN (by its control group; this is not a stall)",
            AgentState::Standstill if agent.daemon.is_some() => {
                "is at a STANDSTILL: it beats, and its status line stays the same"
            }
            AgentState::Standstill => "is at a STANDSTILL: it beats, and its payload stays the same",
            AgentState::Waiting => "has sent nothing but crash reports",
            _ if is_overdue(tracked) => "is silent",
            _ if agent.daemon.as_ref().is_some_and(|daemon| !daemon.beats) => "says how it is",
            _ => "beats",
        },
        agent.shard,
        if agent.origin == Origin::Vlp {
            format!(", wire version {}", agent.wire.as_str())
        } else {
            ", by messages of sd_notify".to_owned()
        },
        if tracked.off_hash { ", which is not where its pid hashes to" } else { "" },
    )];
    said.extend(agent.daemon.as_ref().and_then(says));
    let belongs = belongs(
        ["runs", "belongs", "is"],
        tracked.exe.as_deref(),
        agent.unit.as_deref(),
        agent.container.as_deref(),
    );
    said.extend((!belongs.is_empty()).then(|| format!("It {}.", listed(&belongs))));
    said.push(last_beat(tracked));
    said.push(threshold(tracked, fleet));
    if is_overdue(tracked) {
        said.push(
            "It is silent for longer, and not reported: its shard has to see for a whole threshold, or three thresholds \
             have to pass, and a stall is checked before it is reported."
                .to_owned(),
        );
    }
    if tracked.program_unreadable && fleet.rules.iter().any(|rule| rule.exe.is_some()) {
        said.push(
            "Program unreadable (as of other users' processes without CAP_SYS_PTRACE): any rule by \
             program may match it, and the largest threshold of those holds."
                .to_owned(),
        );
    }
    if agent.state == AgentState::Frozen {
        said.push(
            "While it is frozen it is checked each second; after the thaw it has one threshold to beat."
                .to_owned(),
        );
    } else {
        said.extend(judgement(tracked));
    }
    said.extend(standstill(tracked));
    said.push(sight(tracked));
    if agent.lost > 0 {
        said.push(format!(
            "{} never arrived, as the gaps in its nonces show: the kernel refused them because a queue was full, or \
             the agent skipped them.",
            counted(agent.lost, "beat")
        ));
    } else if tracked.mixed {
        said.push("Several of its streams alternate, so what is lost cannot be counted.".to_owned());
    }
    if tracked.terminals > 0 {
        said.push(format!("Its crash hook sent {}.", counted(tracked.terminals.into(), "crash report")));
    }
    if let Some(refused) = &tracked.refused {
        said.push(format!(
            "A frame of it was refused {}. It may have been a beat: a silence in which that happens is \
             reported after three thresholds, and never as certain.",
            refusal(refused)
        ));
    }
    let past = &tracked.past;
    let refused: Vec<&Event> = past.history.iter().filter(|event| is_refusal(event)).collect();
    if let Some(last) = refused.last() {
        said.push(format!(
            "Some of its frames were refused and do not count as beats; the last one reported: {}.",
            crate::words::event(last)
        ));
    }
    paragraphs(&said.join(" "), past)
}

/// What a daemon says of itself, in a sentence.
fn says(daemon: &DaemonSays) -> Option<String> {
    let phase = daemon.phase.map(|phase| match phase {
        DaemonPhase::Starting => "that it starts",
        DaemonPhase::Up => "that it is up",
        DaemonPhase::Reloading => "that it reloads",
        DaemonPhase::Stopping => "that it stops",
        _ => "another phase",
    });
    let name = Some(&daemon.name).filter(|name| !name.is_empty());
    let text = Some(&daemon.text).filter(|text| !text.is_empty());
    let parts: Vec<String> = [
        phase.map(str::to_owned),
        name.map(|name| format!("that its name is {}", Shown(name))),
        text.map(|text| format!("\u{201c}{}\u{201d}", Shown(text))),
        daemon.errno.map(|errno| format!("error {errno}")),
        daemon.exit_status.map(|status| format!("exit status {status}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| format!("It says {}.", listed(&parts)))
}

/// What a process runs and belongs to, as far as it is known.
fn belongs(
    [runs, belongs, is]: [&str; 3],
    exe: Option<&str>,
    unit: Option<&str>,
    container: Option<&str>,
) -> Vec<String> {
    let exe = exe.map(|exe| format!("{runs} {}", Shown(exe)));
    let unit = unit.map(|unit| format!("{belongs} to {}", Shown(unit)));
    // As container managers show it.
    let container = container.map(|id| format!("{is} in container {}", Shown(id.get(..12).unwrap_or(id))));
    exe.into_iter().chain(unit).chain(container).collect()
}

/// `a`, `a and b`, `a, b and c`.
fn listed(parts: &[String]) -> String {
    match parts {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        _ => parts.concat(),
    }
}

/// Silent for its threshold, and not reported.
fn is_overdue(tracked: &Tracked) -> bool {
    let agent = &tracked.agent;
    let is_judged = agent.daemon.as_ref().is_none_or(|daemon| daemon.beats);
    is_judged
        && agent.state == AgentState::Up
        && tracked.as_of.saturating_sub(agent.last_ns) > agent.threshold_ns
}

fn last_beat(tracked: &Tracked) -> String {
    let agent = &tracked.agent;
    let period = tracked.period_ns.map(|ns| format!(", usually one every {}", time(ns))).unwrap_or_default();
    if agent.daemon.as_ref().is_some_and(|daemon| !daemon.beats) {
        return format!(
            "Its last message came {} ago, its first one {} ago.",
            time(tracked.as_of.saturating_sub(agent.last_ns)),
            time(tracked.as_of.saturating_sub(agent.first_ns)),
        );
    }
    format!(
        "Its last beat came {} ago; it has sent {} since {} ago{period}.",
        time(tracked.as_of.saturating_sub(agent.last_ns)),
        counted(agent.beats, "beat"),
        time(tracked.as_of.saturating_sub(agent.first_ns)),
    )
}

fn threshold(tracked: &Tracked, fleet: &Fleet) -> String {
    let phase = match tracked.agent.phase.as_deref() {
        Some("start") => " until it has started",
        Some("payload") => " in the phase that its payload says",
        _ => "",
    };
    let threshold = format!("{}{phase}", time(tracked.agent.threshold_ns));
    if let Some(daemon) = &tracked.agent.daemon {
        let why = match daemon.threshold_of {
            ThresholdOf::Message => Some("it asked for that"),
            ThresholdOf::Environment => Some("it was started with that"),
            ThresholdOf::Nothing => Some("the longest there is: it asked for none, and no rule gives it one"),
            _ => None,
        };
        if !daemon.beats {
            return match daemon.phase {
                Some(DaemonPhase::Stopping) => {
                    "It stops, so no silence is a stall for it, but it must end in time."
                }
                _ => "It never sent WATCHDOG=1, so no silence is a stall for it.",
            }
            .to_owned();
        }
        if let Some(why) = why {
            return format!("A silence of {threshold} is a stall for it ({why}).");
        }
    }
    let Some(index) = tracked.rule else {
        let why = match fleet.rules.len() {
            0 => "the default",
            _ if tracked.agent.threshold_ns == fleet.threshold_ns => "the default, as no rule matches it",
            // The largest threshold applies until the lookup is done.
            _ => "the largest there is, until it is known which rule matches",
        };
        return format!("A silence of {threshold} is a stall for it ({why}).");
    };
    let rule = fleet.rules.get(index).cloned().unwrap_or_default();
    let asked = [
        rule.comm.map(|comm| format!("name {}", Shown(comm))),
        rule.uid.map(|uid| format!("uid {uid}")),
        rule.exe.map(|exe| format!("program {}", Shown(exe))),
        rule.unit.map(|unit| format!("unit {}", Shown(unit))),
    ];
    let asked: Vec<String> = asked.into_iter().flatten().collect();
    format!("A silence of {threshold} is a stall for it (rule {index}: {}).", asked.join(" and "))
}

/// How the last standstill came about, and whether it is over.
fn standstill(tracked: &Tracked) -> Option<String> {
    let history = &tracked.past.history;
    let (found, since) = history.iter().enumerate().rev().find_map(|(at, event)| match event.kind {
        EventKind::Standstill { still_ns, certain } => Some(((event, still_ns, certain), &history[at + 1..])),
        _ => None,
    })?;
    let (event, still_ns, certain) = found;
    let payload = event.agent.map_or(0, |agent| agent.payload);
    let ago = time(tracked.as_of.saturating_sub(event.mono.0));
    let what = match &tracked.agent.daemon {
        Some(_) => format!(
            "its status line had been the same for {}, and its rule says that it shows",
            time(still_ns)
        ),
        None => format!(
            "its payload had been {payload} for {}, and its rule says that the payload counts",
            time(still_ns)
        ),
    };
    let mut said = format!(
        "It was found at a standstill {ago} ago: by then {what} its work{}.",
        if certain { "" } else { "; not certain, since the observer could not see all of it" }
    );
    let end = since.iter().find_map(|event| match event.kind {
        EventKind::Advance { still_ns, .. } => Some((event.mono, still_ns)),
        _ => None,
    });
    if let Some((at, still_ns)) = end {
        let ago = time(tracked.as_of.saturating_sub(at.0));
        let _ = write!(said, " That ended {ago} ago, after {}.", time(still_ns));
    }
    Some(said)
}

fn judgement(tracked: &Tracked) -> Option<String> {
    let stall = tracked.stall?;
    let ago = time(tracked.as_of.saturating_sub(stall.at_ns));
    let mut said = format!(
        "It was judged stalled {}: {ago} ago after {} of silence",
        match tracked.agent.stalls {
            1 => "once".to_owned(),
            n => format!("{n} times, the last time"),
        },
        time(stall.silent_ns)
    );
    // The shard judges by what it could see, and the report also depends on what could be asked.
    let reported = tracked.past.history.iter().rev().find_map(|event| match event.kind {
        EventKind::Stall { certain, .. } => Some(certain),
        _ => None,
    });
    said += match (stall.certain, reported) {
        (true, Some(false)) => {
            ", and the observer could see for a whole threshold of it; reported as not certain, since whether its \
             process exists, or whether it beats on another shard, could not be asked in time."
        }
        (true, _) => ", and the observer could see for a whole threshold of it.",
        (false, _) => "; not certain, since the observer could not see for a whole threshold of it.",
    };
    if stall.blind_ns > 0 {
        let _ = write!(said, " The observer was blind for {} of it.", time(stall.blind_ns));
    }
    if let Some(resume) = tracked.resume.filter(|resume| resume.at_ns >= stall.at_ns) {
        let _ = write!(
            said,
            " The silence ended {} ago, after {}{}.",
            time(tracked.as_of.saturating_sub(resume.at_ns)),
            time(resume.silent_ns),
            match resume.lost {
                0 => String::new(),
                lost => format!(", with {} lost in it", counted(lost, "beat")),
            }
        );
    }
    Some(said)
}

fn sight(tracked: &Tracked) -> String {
    let blind = &tracked.blind;
    match (blind.is_blind, blind.total_ns) {
        (true, _) => "Its shard cannot see at present; this does not count against any agent.".to_owned(),
        (false, 0) => "Its shard has never been blind.".to_owned(),
        (false, total) => format!(
            "Its shard was blind for {} in all, last {} ago.",
            time(total),
            time(tracked.as_of.saturating_sub(blind.last_end_ns))
        ),
    }
}

/// When and why the last frame was refused.
fn refusal(refused: &Refused) -> String {
    let why = match refused.why {
        TurnedAwayFor::Uid => "its user may not beat on that shard (allow-uids)",
        TurnedAwayFor::Budget => "its user had spent its budget (uid-frames-max)",
        TurnedAwayFor::Table => "there was no room for another agent (agents-max)",
        TurnedAwayFor::Share => "its user had used up its share of agents (uid-agents-max)",
    };
    format!("{} ago: {why}", time(refused.ago_ns))
}

fn of_exited(exited: &Exited) -> String {
    let past = &exited.past;
    let exit = past.history.iter().rev().find_map(|event| match event.kind {
        EventKind::Exit { silent_ns, how, lived_ns, panicked, .. } => {
            Some((event, silent_ns, how, lived_ns, panicked))
        }
        _ => None,
    });
    let refused = exited.refused.as_ref().filter(|_| past.history.is_empty()).map(refusal);
    let said = match (exit, refused) {
        (None, Some(refused)) => {
            format!("pid {} is not tracked: its last frame was refused {refused}.", exited.pid)
        }
        (Some((event, silent_ns, how, lived_ns, panicked)), _) => format!(
            "{} {} at {}, {} after its last beat{}.{}{} It is no longer tracked.",
            subject(event, exited.pid),
            ending(how),
            date_time(event.wall),
            time(silent_ns),
            if lived_ns > 0 { format!(" and {} after its first", time(lived_ns)) } else { String::new() },
            if panicked { " Its last frame reported a panic." } else { "" },
            was(event),
        ),
        (None, _) if past.history.iter().all(is_refusal) => {
            format!("pid {} never beat: what it sent was refused.", exited.pid)
        }
        (None, _) => format!("pid {} is no longer tracked, and its exit was not reported.", exited.pid),
    };
    paragraphs(&said, past)
}

/// The process of an exit, with its name if that was known.
fn subject(exit: &Event, pid: u32) -> String {
    let about = exit.agent.map(|agent| agent.about).unwrap_or_default();
    match (about.comm.is_empty(), about.uid) {
        (true, _) => format!("pid {pid}"),
        (false, None) => format!("{} (pid {pid})", Shown(about.comm.as_str())),
        (false, Some(uid)) => format!("{} (pid {pid}, uid {uid})", Shown(about.comm.as_str())),
    }
}

/// What the process of an exit ran and belonged to.
fn was(exit: &Event) -> String {
    let about = exit.agent.map(|agent| agent.about).unwrap_or_default();
    let Texts { unit, container, exe } = about.texts();
    let belongs = belongs(["ran", "belonged", "was"], exe.as_deref(), unit.as_deref(), container.as_deref());
    if belongs.is_empty() { String::new() } else { format!(" It {}.", listed(&belongs)) }
}

fn is_refusal(event: &Event) -> bool {
    matches!(event.kind, EventKind::Decode { .. } | EventKind::Auth { .. })
}

/// In lines of a readable length.
fn wrapped(said: &str) -> String {
    const WIDTH: usize = 80;
    let mut out = String::new();
    let mut width = 0;
    for word in said.split(' ') {
        let len = word.chars().count();
        if width > 0 && width + 1 + len > WIDTH {
            out.push('\n');
            width = 0;
        } else if width > 0 {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += len;
    }
    out
}

/// The text, and the last events.
fn paragraphs(said: &str, past: &Past) -> String {
    let mut out = wrapped(said);
    out.push_str("\n\n");
    let history = &past.history;
    if history.is_empty() {
        let _ = writeln!(out, "The history has no event of it (from number {} on).", past.history_from_seq);
    }
    let hidden = history.len().saturating_sub(EVENTS);
    if hidden > 0 {
        let more = if past.history_next.is_some() { " and more" } else { "" };
        let _ = writeln!(out, "... {}{more} before these", counted(hidden as u64, "event"));
    }
    for event in &history[hidden..] {
        let _ = writeln!(out, "{}", dated_line(event));
    }
    out
}

#[cfg(test)]
mod tests {
    use varta_fleet::api::{Agent, Blind, EvidenceThread, Resume, Rule, Stall};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn tracked() -> Tracked {
        Tracked {
            agent: Agent {
                pid: 4711,
                comm: Some("engine".to_owned()),
                uid: 1000,
                shard: 1,
                state: AgentState::Stalled,
                beats: 100,
                stalls: 1,
                threshold_ns: 2 * SECOND,
                first_ns: 10 * SECOND,
                last_ns: 60 * SECOND,
                ..Agent::default()
            },
            as_of: 65 * SECOND,
            period_ns: Some(SECOND / 2),
            stall: Some(Stall {
                at_ns: 62 * SECOND,
                silent_ns: 2 * SECOND,
                blind_ns: 0,
                certain: true,
                last_nonce: 1,
            }),
            ..Tracked::default()
        }
    }

    fn flat(tracked: &Tracked, fleet: &Fleet) -> String {
        of_tracked(tracked, fleet).split("\n\n").next().unwrap().replace('\n', " ")
    }

    #[test]
    fn a_silence_that_is_no_stall_yet_is_not_called_beating() {
        let mut tracked = tracked();
        tracked.agent.state = AgentState::Up;
        tracked.stall = None;
        let said = flat(&tracked, &Fleet::default());
        assert!(said.starts_with("engine (pid 4711, uid 1000) is silent on shard 1"), "{said}");
        assert!(said.contains("It is silent for longer, and not reported"), "{said}");
        tracked.as_of = tracked.agent.last_ns + tracked.agent.threshold_ns;
        let said = flat(&tracked, &Fleet::default());
        assert!(said.contains(") beats on shard 1") && !said.contains("for longer"), "{said}");
    }

    #[test]
    fn a_stall_is_explained() {
        let fleet = Fleet { threshold_ns: 2 * SECOND, ..Fleet::default() };
        let mut tracked = tracked();
        tracked.exe = Some("/opt/engine".to_owned());
        tracked.agent.unit = Some("engine.service".to_owned());
        tracked.agent.container = Some("0123456789abcdef".repeat(4));
        assert_eq!(
            flat(&tracked, &fleet),
            "engine (pid 4711, uid 1000) is STALLED on shard 1, wire version 0.2. It runs /opt/engine, belongs to \
             engine.service and is in container 0123456789ab. Its last beat came 5.00 s ago; it has \
             sent 100 beats since 55.0 s ago, usually one every 500 ms. A silence of 2.00 s is a stall for it (the \
             default). It was judged stalled once: 3.00 s ago after 2.00 s of silence, and the observer could see \
             for a whole threshold of it. Its shard has never been blind."
        );
    }

    #[test]
    fn what_is_in_doubt_is_said() {
        let mut tracked = tracked();
        tracked.rule = Some(0);
        tracked.agent.lost = 1;
        tracked.refused = Some(Refused { at_ns: 1, ago_ns: SECOND, why: TurnedAwayFor::Budget });
        tracked.blind = Blind { is_blind: false, total_ns: SECOND, last_end_ns: 61 * SECOND };
        tracked.stall = Some(Stall { certain: false, blind_ns: SECOND, ..tracked.stall.unwrap() });
        tracked.resume = Some(Resume { at_ns: 64 * SECOND, silent_ns: 4 * SECOND, lost: 2 });
        let rule = Rule { comm: Some("eng*".to_owned()), ..Rule::default() };
        let fleet = Fleet { threshold_ns: SECOND, rules: vec![rule], ..Fleet::default() };
        let said = flat(&tracked, &fleet);
        for part in [
            "(rule 0: name eng*)",
            "not certain",
            "The observer was blind for 1.00 s of it.",
            "The silence ended 1.00 s ago, after 4.00 s, with 2 beats lost in it.",
            "Its shard was blind for 1.00 s in all, last 4.00 s ago.",
            "1 beat never arrived",
            "A frame of it was refused 1.00 s ago: its user had spent its budget (uid-frames-max).",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        tracked.stall = Some(Stall { certain: true, ..tracked.stall.unwrap() });
        let uncertain = r#"{"v":1,"seq":1,"ts":"2026-03-01T12:00:00Z","mono_ns":1,"kind":"stall","shard":1,"pid":4711,"session":1,"nonce":1,"status":"ok","payload":0,"silent_ns":2000000000,"last_nonce":1,"certain":false,"blind_ns":0}"#;
        tracked.past.history = vec![serde_json::from_str(uncertain).unwrap()];
        let said = flat(&tracked, &fleet);
        assert!(said.contains("reported as not certain, since whether its process exists"), "{said}");
        tracked.agent.comm = Some("a\u{1b}[2J\nb".to_owned());
        assert!(!of_tracked(&tracked, &fleet).contains('\u{1b}'));
    }

    #[test]
    fn what_is_done_is_said_in_sentences_that_harm_no_terminal() {
        let case = |phase: &str, why: Option<&str>, attempt, due_in_ns| ActCase {
            action: "restart".to_owned(),
            phase: phase.to_owned(),
            why: why.map(str::to_owned),
            attempt,
            due_in_ns,
            ..ActCase::default()
        };
        let hold =
            ActHold { of: "pid 4711".to_owned(), ends_in_ns: SECOND, text: "a\u{1b}b".to_owned(), id: 1 };
        let cases = vec![
            case("due", None, 0, Some(SECOND)),
            case("held", Some("brake"), 0, None),
            case("held", Some("backoff"), 1, Some(9 * SECOND)),
            case("started", None, 2, None),
            case("held", Some("of another version\u{1b}"), 0, None),
        ];
        let said = done(&AgentAct { cases, holds: vec![hold], evidence: None });
        assert_eq!(
            said[..4],
            [
                "Action restart is due in 1.00 s.",
                "Action restart is held: a brake is engaged.",
                "Action restart waits for 9.00 s, after 1 start: it was tried a short time ago.",
                "Action restart runs for it now (attempt 2).",
            ]
        );
        assert!(
            said[5].starts_with("An operator holds actions for pid 4711 for another 1.00 s: a"),
            "{}",
            said[5]
        );
        assert!(!said.concat().contains('\u{1b}'), "{said:?}");
    }

    #[test]
    fn evidence_is_summed_up_or_it_is_said_why_not() {
        let file = |path: &str, text: &str| EvidenceFile { path: path.to_owned(), text: text.to_owned() };
        let thread = EvidenceThread {
            tid: 7,
            comm: "w".to_owned(),
            state: 'S',
            state_later: Some('S'),
            wait_channel: Some("do_sys_poll".to_owned()),
            cpu_ns: None,
            cpu_used_ns: None,
        };
        let found = Evidence {
            verdict: EvidenceVerdict::Throttled,
            wall: varta_fleet::time::WallNs(1_772_366_400_000_000_000),
            cpu_used_ns: Some(2_000_000),
            between_ns: 100_000_000,
            threads: vec![thread],
            threads_all: 3,
            memory: vec!["VmPeak: 9 kB".to_owned(), "VmRSS: 12 kB".to_owned()],
            files: vec![
                file("/g/cpu.max", "10000 100000"),
                file("/cpu.max", "max 100000"),
                file("/f\u{1b}", "x"),
            ],
            ..Evidence::default()
        };
        assert_eq!(
            evidence("/e.json", Ok(found)),
            "Before the last action, at 2026-03-01 12:00:00.000Z, it had used up its CPU quota. It used 2.00 ms of CPU time \
             within 100 ms. Of 3 threads the main one was in state S, in do_sys_poll. It had 12 kB in memory. Its CPU quota \
             is 10000 100000 (/g/cpu.max). All of it is in /e.json."
        );
        assert_eq!(
            evidence("/e.json", Err("only for root".to_owned())),
            "What was found before the last action is in /e.json, and is not shown: only for root."
        );
    }

    #[test]
    fn an_end_is_told_with_its_cause() {
        let exit = r#"{"v":1,"seq":1,"ts":"2026-03-01T12:00:00.123456789Z","mono_ns":1,"kind":"exit","shard":0,"pid":7,"session":1,"nonce":1,"status":"ok","payload":0,"silent_ns":2000000000,"signal":9}"#;
        let past =
            |event: &str| Past { history: vec![serde_json::from_str(event).unwrap()], ..Past::default() };
        let exited = Exited { pid: 7, past: past(exit), ..Exited::default() };
        let said = of_exited(&exited);
        assert!(
            said.starts_with("pid 7 ended by signal 9 at 2026-03-01 12:00:00.123Z, 2.00 s after its last"),
            "{said}"
        );
        let who = r#""payload":0,"uid":1000,"comm":"worker","unit":"w.service","exe":"/opt/w","lived_ns":61000000000"#;
        let known = exit.replace(r#""payload":0"#, who);
        let known = Exited { pid: 7, past: past(&known), ..Exited::default() };
        let said = of_exited(&known).split("\n\n").next().unwrap().replace('\n', " ");
        assert_eq!(
            said,
            "worker (pid 7, uid 1000) ended by signal 9 at 2026-03-01 12:00:00.123Z, 2.00 s after its last beat \
             and 1m 01s after its first. It ran /opt/w and belonged to w.service. It is no longer \
             tracked."
        );
        let refused = r#"{"v":1,"kind":"decode","pid":7,"error":"bad_crc"}"#;
        let refused_by_us = Refused { at_ns: 1, ago_ns: 2 * SECOND, why: TurnedAwayFor::Table };
        let never_let_in = Exited { pid: 7, refused: Some(refused_by_us), ..Exited::default() };
        let said = of_exited(&never_let_in);
        assert!(said.contains("refused 2.00 s ago: there was no room"), "{said}");
        let never = Exited { past: past(refused), ..exited };
        assert!(of_exited(&never).contains("never beat"));
    }
}
