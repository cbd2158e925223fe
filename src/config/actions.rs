//! Turns the actions and the brake that the operator wrote into what will run.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::act::{ActPlan, Action, ActionMatch, Brake, Deed, Retry, Trigger};
use super::bounds::{ACTION_BYTES_MAX, ACTIONS_MAX, AGENTS_MAX, SOCKET_PATH_MAX};
use super::checks::{
    absolute, in_range, judge_characters, judge_output, judge_patterns, judge_unit_pattern, names_a_file,
};
use super::keys::Config;
use super::placeholder::pieces;
use super::plan::{Output, ShardPlan};
use super::problem::ConfigProblem;
use super::tables::{ActionConfig, BrakeConfig, RetryConfig, ShareConfig, StartsConfig};
use super::values::{Refused, signal_name, written};
use crate::event::action::{ActionName, NAME_BYTES};
use crate::rundir::names::EVIDENCE;
use crate::time::duration_ns;

const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Shorter waits and limits of an action could not be kept.
const LEAST: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

type Problems = Vec<ConfigProblem>;

impl Config {
    /// What is done about stalls in a fleet with this directory and these shards; `None`: nothing. Problems are
    /// reported either way; if there is one, some actions are missing.
    pub(super) fn resolve_actions(
        &self,
        dir: &Path,
        shards: &[&ShardPlan],
        problems: &mut Problems,
    ) -> Option<ActPlan> {
        if self.actions.len() > ACTIONS_MAX {
            problems.push(ConfigProblem::refused(
                "action",
                format!("{} blocks", self.actions.len()),
                format!("there are more than {ACTIONS_MAX} actions"),
                "merge actions that do the same",
            ));
        }
        let mut names = HashMap::new();
        let mut actions = Vec::with_capacity(self.actions.len());
        for (i, action) in self.actions.iter().enumerate() {
            let key = format!("action[{i}]");
            if let Some(other) = names.insert(&action.name, i).filter(|_| !action.name.is_empty()) {
                problems.push(ConfigProblem::refused(
                    &format!("{key}.name"),
                    format!("{:?}", action.name),
                    format!("action {other} has this name, too"),
                    "give each action a name of its own",
                ));
            }
            actions.extend(resolve_action(&key, action, problems));
        }
        let brake = resolve_brake(&self.brake, problems);
        let audit = self.audit.as_deref().map(|path| self.resolve_audit(path, dir, shards, problems));
        let evidence_dir = self.resolve_evidence_dir(dir, shards, problems);
        let spawner = self.spawner.as_deref().map(|path| resolve_spawner(path, dir, shards, problems));
        let plan = ActPlan { actions, brake, audit, audit_sync: self.audit_sync, evidence_dir, spawner };
        (!self.actions.is_empty()).then_some(plan)
    }

    fn resolve_audit(
        &self,
        path: &Path,
        dir: &Path,
        shards: &[&ShardPlan],
        problems: &mut Problems,
    ) -> PathBuf {
        let audit = absolute("audit", path, problems);
        judge_characters("audit", &audit, problems);
        judge_output("audit", &audit, dir, shards, problems);
        let events = match &self.events {
            Some(Output::File(events)) => std::path::absolute(events).ok(),
            _ => None,
        };
        let why = if path == Path::new("-") {
            Some("standard output does not outlive a crash")
        } else if events.is_some_and(|events| events == audit) {
            Some("the events are written there")
        } else if !path.as_os_str().is_empty() && !names_a_file(path) {
            Some("a path ends in the name of a file, without NUL in it")
        } else {
            None
        };
        if let Some(why) = why {
            let fix = "name a file of its own, such as \"/var/log/varta-fleet/audit.jsonl\", or \"none\"";
            problems.push(ConfigProblem::refused("audit", format!("{path:?}"), why, fix));
        }
        audit
    }

    fn resolve_evidence_dir(&self, dir: &Path, shards: &[&ShardPlan], problems: &mut Problems) -> PathBuf {
        let Some(path) = &self.evidence_dir else { return dir.join(EVIDENCE) };
        let evidence_dir = absolute("evidence-dir", path, problems);
        judge_characters("evidence-dir", &evidence_dir, problems);
        judge_output("evidence-dir", &evidence_dir, dir, shards, problems);
        if evidence_dir == dir {
            problems.push(ConfigProblem::refused(
                "evidence-dir",
                format!("{path:?}"),
                "it is the runtime directory itself, whose files are the observer's",
                "name a directory of its own, or leave it out",
            ));
        }
        evidence_dir
    }
}

fn resolve_spawner(path: &Path, dir: &Path, shards: &[&ShardPlan], problems: &mut Problems) -> PathBuf {
    let spawner = absolute("spawner", path, problems);
    judge_characters("spawner", &spawner, problems);
    judge_output("spawner", &spawner, dir, shards, problems);
    let bytes = spawner.as_os_str().len();
    let why = if !path.as_os_str().is_empty() && !names_a_file(path) {
        "a socket's path ends in the name of a file, without NUL in it".to_owned()
    } else if bytes > SOCKET_PATH_MAX {
        format!("it has {bytes} bytes, and the kernel takes {SOCKET_PATH_MAX} at most for a socket")
    } else {
        return spawner;
    };
    let fix = "name the socket of the spawner, such as \"/run/varta/act.sock\", or \"none\"";
    problems.push(ConfigProblem::refused("spawner", format!("{path:?}"), why, fix));
    spawner
}

/// The action, unless something is missing without which there is none.
fn resolve_action(key: &str, action: &ActionConfig, problems: &mut Problems) -> Option<Action> {
    let at = |leaf: &str| format!("{key}.{leaf}");
    let name = ActionName::new(&action.name);
    if action.name.is_empty() {
        let fix = "add name = \"…\", such as \"restart-worker\"";
        problems.push(ConfigProblem::refused(key, "…", "it has no name", fix));
    } else if name.is_none() {
        problems.push(ConfigProblem::refused(
            &at("name"),
            format!("{:?}", action.name),
            if action.name.len() > NAME_BYTES {
                format!("it has {} bytes, and a name has {NAME_BYTES} at most", action.name.len())
            } else {
                "it has other characters than letters, digits, - and _".to_owned()
            },
            format!("write 1 to {NAME_BYTES} letters, digits, - and _, such as \"restart-worker\""),
        ));
    }
    if action.on.is_empty() {
        let fix = "write on = [\"stall\"], or another trigger";
        problems.push(ConfigProblem::refused(key, "…", "nothing starts it: it has no on", fix));
    }
    judge_match(key, action, problems);
    in_range(&at("after"), action.after, Duration::ZERO..=DAY, problems);
    in_range(&at("timeout"), action.timeout, LEAST..=DAY, problems);
    let retry = resolve_retry(&at("retry"), &action.retry, problems);
    let deed = resolve_deed(key, action, problems);
    judge_texts(key, action, problems);
    Some(Action {
        name: name?,
        on: action.on.clone(),
        matcher: action.matches.clone(),
        certain: action.certain,
        after_ns: duration_ns(action.after),
        deed: deed?,
        timeout_ns: duration_ns(action.timeout),
        retry,
        user: action.user,
        env: action.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        evidence: action.evidence,
    })
}

fn judge_match(key: &str, action: &ActionConfig, problems: &mut Problems) {
    let ActionMatch { comm, uid, exe, unit, cgroup } = &action.matches;
    let matches = format!("{key}.match");
    judge_patterns(&matches, comm.as_deref(), exe.as_deref(), problems);
    if uid.is_none() && exe.is_none() && unit.is_none() && !action.any_user {
        let (key, why) = match (comm, cgroup) {
            (Some(_), _) => (&*matches, "anybody can give a process that name"),
            (None, Some(_)) => (&*matches, "whoever was given a control group names those below it"),
            (None, None) => (key, "it is for every process of every user"),
        };
        let fix = "add uid, exe or unit to its match, or write any-user = true if that is meant";
        problems.push(ConfigProblem::refused(key, "…", why, fix));
    }
    judge_unit_pattern(&matches, unit.as_deref(), problems);
    judge_group(&matches, cgroup.as_deref(), action, problems);
}

/// The path of a control group is read while the process lives.
fn judge_group(matches: &str, pattern: Option<&str>, action: &ActionConfig, problems: &mut Problems) {
    let Some(pattern) = pattern else { return };
    let key = format!("{matches}.cgroup");
    let mut refused = |why: String, fix: &str| {
        problems.push(ConfigProblem::refused(&key, format!("{pattern:?}"), why, fix));
    };
    if pattern.starts_with("/sys/fs/cgroup") {
        let fix = "write the rest of it, as /proc/PID/cgroup has it after the last colon";
        refused("the path of a group begins below the mount, so it matches nothing".to_owned(), fix);
    } else if !pattern.starts_with(['/', '*', '?']) {
        let fix = "begin it with / or *, such as \"/system.slice/*\"";
        refused("the path of a group begins with /, so it matches nothing".to_owned(), fix);
    } else if pattern.contains('\n') {
        refused("it has a newline, which no path of a group has".to_owned(), "take it out");
    }
    if let Some(trigger) = action.on.iter().find(|trigger| !trigger.is_of_the_living()) {
        let why =
            format!("the group of a process that is gone is not known, and {trigger} is among its triggers");
        refused(why, "match by unit there, or make it an action of its own for stall, frozen and resume");
    }
}

/// What the action does: exactly one thing.
fn resolve_deed(key: &str, action: &ActionConfig, problems: &mut Problems) -> Option<Deed> {
    let at = |leaf: &str| format!("{key}.{leaf}");
    let ActionConfig { run, signal, systemd, .. } = action;
    let deeds = [
        run.as_ref().map(|run| ("run", format!("{run:?}"), Deed::Run(run.clone()))),
        signal.map(|signal| ("signal", format!("{:?}", signal_name(signal)), Deed::Signal(signal))),
        systemd.map(|verb| ("systemd", format!("{:?}", verb.as_str()), Deed::Systemd(verb))),
    ];
    let mut deeds = deeds.into_iter().flatten();
    let first = deeds.next();
    for (name, value, _) in deeds {
        let other = first.as_ref().map(|(name, ..)| *name).unwrap_or_default();
        problems.push(ConfigProblem::refused(
            &at(name),
            value,
            format!("the action has {other}, too, and does one thing only"),
            format!("leave out {name} or {other}"),
        ));
    }
    let Some((name, value, deed)) = first else {
        problems.push(ConfigProblem::refused(
            key,
            "…",
            "it does nothing: it has neither run, nor signal, nor systemd",
            "add one of run = [\"/path/of/program\", \"{pid}\"], signal = \"SIGABRT\" and systemd = \"restart\"",
        ));
        return None;
    };
    let mut refused = |key: &str, value: String, why: &str, fix: &str| {
        problems.push(ConfigProblem::refused(key, value, why, fix).against(&at("on")));
    };
    let is_for_exits = action.on.iter().any(|trigger: &Trigger| trigger.is_exit());
    match deed {
        Deed::Signal(_) | Deed::Systemd(_) if is_for_exits => refused(
            &at(name),
            value,
            "after an exit there is no process left that it could be about",
            "take the exit out of on, or run a program instead",
        ),
        _ => {}
    }
    match &deed {
        Deed::Run(run) => judge_program(&at("run"), run, problems),
        Deed::Systemd(_) => judge_unit(key, action, problems),
        Deed::Signal(_) => {}
    }
    if !matches!(deed, Deed::Run(_)) {
        let own = [
            ("user", action.user.map(|(uid, _)| uid.to_string())),
            ("env", (!action.env.is_empty()).then(|| format!("{:?}", action.env))),
        ];
        for (name, value) in own.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            let why = "the action runs no program that it would be for";
            let problem = ConfigProblem::refused(&at(name), value, why, "leave it out");
            problems.push(problem.against(&at("run")));
        }
    }
    Some(deed)
}

/// A service manager is asked about units that are named, and only about services.
fn judge_unit(key: &str, action: &ActionConfig, problems: &mut Problems) {
    let value = action.systemd.map(|verb| format!("{:?}", verb.as_str())).unwrap_or_default();
    match action.matches.unit.as_deref() {
        None => {
            let fix = "add unit to its match, such as unit = \"worker@*.service\"";
            let why = "its match does not say for which units";
            problems.push(
                ConfigProblem::refused(&format!("{key}.systemd"), value, why, fix)
                    .against(&format!("{key}.match")),
            );
        }
        Some(unit) if unit.ends_with("scope") || unit.starts_with("user@") => {
            problems.push(ConfigProblem::refused(
                &format!("{key}.match.unit"),
                format!("{unit:?}"),
                "scopes and the managers of users are never acted upon",
                "name a service, such as \"worker@*.service\"",
            ));
        }
        Some(_) => {}
    }
}

fn judge_program(key: &str, run: &[String], problems: &mut Problems) {
    let mut refused = |value: &str, why: &str, fix: &str| {
        problems.push(ConfigProblem::refused(key, format!("{value:?}"), why, fix));
    };
    let Some((program, arguments)) = run.split_first() else {
        problems.push(ConfigProblem::refused(
            key,
            "[]",
            "it names no program",
            "write the absolute path of a program and its arguments, such as [\"/usr/bin/logger\", \"{pid}\"]",
        ));
        return;
    };
    if !program.starts_with('/') {
        refused(
            program,
            &format!("the program {program:?} is not an absolute path, and none is searched for"),
            "write its path from / on",
        );
    } else if program.contains(['{', '}']) {
        refused(
            program,
            "the path of the program has a brace, and must not depend on a process",
            "use placeholders in its arguments only",
        );
    }
    for (number, argument) in run.iter().enumerate() {
        let what = if number == 0 { "program".to_owned() } else { format!("argument {number}") };
        if let Some(character) = argument.chars().find(|c| ['\0', '\n'].contains(c)) {
            let character = if character == '\0' { "NUL" } else { "newline" };
            refused(argument, &format!("the {what} has a {character} in it"), "take it out");
        }
    }
    for (number, argument) in arguments.iter().enumerate() {
        if let Err(Refused { why, fix }) = pieces(argument) {
            refused(argument, &format!("of argument {}, {argument:?}: {why}", number + 1), &fix);
        }
    }
}

/// What is passed to a program besides: its environment, and how long all of it is.
fn judge_texts(key: &str, action: &ActionConfig, problems: &mut Problems) {
    for (name, value) in &action.env {
        let why = if name.is_empty() {
            "a name in it is empty".to_owned()
        } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            format!("the name {name:?} has other characters than letters, digits and _")
        } else if value.contains('\0') {
            format!("{name} has a NUL in it, and no environment can")
        } else {
            continue;
        };
        let fix = "write names and values, such as { PATH = \"/usr/bin:/bin\" }";
        problems.push(ConfigProblem::refused(&format!("{key}.env"), format!("{:?}", action.env), why, fix));
    }
    let arguments = action.run.iter().flatten().map(|argument| argument.len() + 1);
    let variables = action.env.iter().map(|(name, value)| name.len() + value.len() + 2);
    let bytes: usize = arguments.chain(variables).sum();
    if bytes > ACTION_BYTES_MAX {
        problems.push(ConfigProblem::refused(
            &format!("{key}.run"),
            "…",
            format!("arguments and env together have {bytes} bytes, and {ACTION_BYTES_MAX} are the most"),
            "put what is long into a file",
        ));
    }
}

fn resolve_retry(key: &str, retry: &RetryConfig, problems: &mut Problems) -> Retry {
    let at = |leaf: &str| format!("{key}.{leaf}");
    let RetryConfig { first, factor_percent, max, tries, reset_after } = *retry;
    if !(100..=10_000).contains(&factor_percent) {
        let factor = f64::from(factor_percent) / 100.0;
        problems.push(ConfigProblem::refused(
            &at("factor"),
            factor.to_string(),
            if factor < 1.0 {
                "each wait would be shorter than the one before"
            } else {
                "it is more than 100"
            },
            "write a number from 1 to 100, such as 2.0",
        ));
    }
    count_in_range(&at("tries"), tries.into(), 1..=1000, "it would never be tried", problems);
    let are_usable = [
        in_range(&at("first"), first, LEAST..=DAY, problems),
        in_range(&at("max"), max, LEAST..=DAY, problems),
        in_range(&at("reset-after"), reset_after, LEAST..=WEEK, problems),
    ];
    if are_usable.contains(&false) {
        // The comparison would only say it again.
    } else if first > max {
        let why = format!("the first wait, {}, is longer than the longest, {}", written(first), written(max));
        let fix = "write a shorter first, or a longer max";
        let problem = ConfigProblem::refused(&at("first"), format!("\"{}\"", written(first)), why, fix);
        problems.push(problem.against(&at("max")));
    } else if reset_after <= max {
        let why = format!(
            "after {} without an attempt tries are counted from the first again, and the longest wait is {}, so they \
             would never be used up",
            written(reset_after),
            written(max)
        );
        let value = format!("\"{}\"", written(reset_after));
        let fix = "write a reset-after that is longer than max";
        problems.push(ConfigProblem::refused(&at("reset-after"), value, why, fix).against(&at("max")));
    }
    Retry {
        first_ns: duration_ns(first),
        factor_percent,
        max_ns: duration_ns(max),
        tries,
        reset_after_ns: duration_ns(reset_after),
    }
}

fn resolve_brake(brake: &BrakeConfig, problems: &mut Problems) -> Brake {
    let BrakeConfig {
        running,
        starts: StartsConfig { count, per },
        share: ShareConfig { percent, at_least, within },
        release,
        dry_run,
    } = *brake;
    count_in_range("brake.running", running, 1..=1000, "no action could ever run", problems);
    count_in_range("brake.starts.count", count, 1..=10_000, "no action could ever start", problems);
    in_range("brake.starts.per", per, SECOND..=DAY, problems);
    if !(1..=100).contains(&percent) {
        problems.push(ConfigProblem::refused(
            "brake.share.percent",
            percent.to_string(),
            if percent == 0 {
                "any stall would hold all actions"
            } else {
                "there are no more than all of them"
            },
            "write a whole number from 1 to 100; 100 is never exceeded, so no share engages the brake then",
        ));
    }
    count_in_range("brake.share.at-least", at_least, 1..=AGENTS_MAX, "no stall is none", problems);
    in_range("brake.share.within", within, LEAST..=HOUR, problems);
    if let Some(release) = release {
        in_range("brake.release", release, SECOND..=DAY, problems);
    }
    Brake {
        running,
        starts: count,
        per_ns: duration_ns(per),
        percent,
        at_least,
        within_ns: duration_ns(within),
        release_ns: release.map(duration_ns),
        dry_run,
    }
}

fn count_in_range(key: &str, count: u32, range: RangeInclusive<u32>, too_few: &str, problems: &mut Problems) {
    let (least, most) = (*range.start(), *range.end());
    if !range.contains(&count) {
        let why = if count < least { too_few.to_owned() } else { format!("it is more than {most}") };
        let fix = format!("write a whole number from {least} to {most}");
        problems.push(ConfigProblem::refused(key, count.to_string(), why, fix));
    }
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
