//! What a running fleet takes of a new plan, and what only a restart changes.
//!
//! Every key is in [`ALL`]; its row in `keys.rs` says whether it is live.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Deserializer;
use serde::ser::{Serialize, SerializeSeq, Serializer};

use super::act::{ActPlan, Action, Brake};
use super::checks::judge_output;
use super::keys::{BRAKE_KEYS, HTTP_KEYS, KEYS, Key, METRICS_KEYS, NOTIFY_KEYS, SHARD_KEYS};
use super::plan::{EventsPlan, Plan, ShardPlan};
use super::problem::{ConfigError, ConfigProblem};
use super::values::{Output, written};

/// Every key by its name in events and messages: `threshold`, `http.token-file`, `shard.allow-uids`, `rule`.
pub static ALL: LazyLock<Vec<(String, &'static Key)>> = LazyLock::new(|| {
    let is_table = |key: &Key| ["metrics", "shard", "notify", "brake"].contains(&key.name);
    let top = KEYS.iter().filter(|key| !is_table(key)).map(|key| (key.in_file.to_owned(), key));
    let within = |table: &'static str| move |key: &'static Key| (format!("{table}.{}", key.name), key);
    let http = HTTP_KEYS.iter().filter(|key| key.name != "listen").map(within("http"));
    let metrics = METRICS_KEYS.iter().map(within("metrics"));
    let brake = BRAKE_KEYS.iter().map(within("brake"));
    let shard = SHARD_KEYS.iter().map(within("shard"));
    let notify = NOTIFY_KEYS.iter().map(within("notify"));
    top.chain(http).chain(metrics).chain(shard).chain(notify).chain(brake).collect()
});

/// The keys in the order of their bits. A bit never changes its meaning, because a journal outlives its observer: new
/// keys are appended.
const BITS: [&str; 49] = [
    "dir",
    "shards",
    "threshold",
    "tick",
    "max-delay",
    "mode",
    "group",
    "control-mode",
    "control-group",
    "agents-max",
    "uid-agents-max",
    "uid-frames-max",
    "watched-max",
    "events",
    "events-format",
    "events-beats",
    "events-max-bytes",
    "events-keep",
    "http.listen",
    "rule",
    "http.token-file",
    "http.metrics-agents-max",
    "shard.socket",
    "shard.core",
    "shard.mode",
    "shard.group",
    "shard.allow-uids",
    "log-format",
    "http.dashboard",
    "metrics.units",
    "audit",
    "audit-sync",
    "evidence-dir",
    "spawner",
    "action",
    "brake.running",
    "brake.starts",
    "brake.share",
    "brake.release",
    "brake.dry-run",
    "control-writers",
    "notify.socket",
    "notify.sockets",
    "notify.mode",
    "notify.group",
    "notify.allow-uids",
    "notify.threshold-min",
    "notify.threshold-max",
    "notify.stop-threshold",
];

/// Keys of the configuration, as an event names them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct KeySet(u64);

impl KeySet {
    /// No keys.
    pub const NONE: Self = Self(0);

    /// Adds a key; one that does not exist is ignored.
    pub fn insert(&mut self, name: &str) {
        if let Some(index) = BITS.iter().position(|known| *known == name) {
            self.0 |= 1 << index;
        }
    }

    /// One word, whose bits never change their meaning.
    pub(crate) const fn to_bits(self) -> u64 {
        self.0
    }

    /// The keys of a word; bits of no key are ignored.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << BITS.len()) - 1))
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of the keys: `threshold`, `http.token-file`, `shard.allow-uids`, `rule`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        BITS.iter().enumerate().filter(move |(index, _)| self.0 >> index & 1 == 1).map(|(_, name)| *name)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl<'a> FromIterator<&'a str> for KeySet {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut set = Self::NONE;
        names.into_iter().for_each(|name| set.insert(name));
        set
    }
}

impl Serialize for KeySet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for name in self.names() {
            list.serialize_element(name)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for KeySet {
    /// Keys that this version does not know are left out.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Ok(names.iter().map(String::as_str).collect())
    }
}

/// A key whose value differs from the one in force.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[non_exhaustive]
pub struct KeyChange {
    /// Its full name, such as `threshold` or `shard[1].allow-uids`.
    pub key: String,
    /// The value before.
    pub from: String,
    /// The value in the new configuration.
    pub to: String,
}

impl KeyChange {
    fn new(key: impl Into<String>, from: impl fmt::Display, to: impl fmt::Display) -> Self {
        Self { key: key.into(), from: from.to_string(), to: to.to_string() }
    }

    /// Its name in [`ALL`].
    fn name(&self) -> String {
        match (self.key.split_once('['), self.key.split_once(']')) {
            (Some((table, _)), Some((_, leaf))) => format!("{table}{leaf}"),
            _ => self.key.clone(),
        }
    }
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.from, self.to)
    }
}

/// The keys of these changes.
pub(crate) fn keys_of(changes: &[KeyChange]) -> KeySet {
    let names: Vec<String> = changes.iter().map(KeyChange::name).collect();
    names.iter().map(String::as_str).collect()
}

/// What runs after a reload.
#[derive(Debug)]
pub(crate) struct Reconciled {
    /// The plan in force: what is live of the new one, and the rest of the one before.
    pub plan: Plan,
    /// Live keys with another value.
    pub changed: Vec<KeyChange>,
    /// Keys with another value that needs a restart.
    pub restart: Vec<KeyChange>,
}

/// Takes what is live of `new` into the plan in force. `started`: the plan of the start, which may differ from what
/// came into force, by sockets that were passed; with it the keys are compared that only a restart changes.
/// `has_beats`: the fleet was started to write beats.
///
/// # Errors
/// The new values of live keys do not agree with values that only a restart changes.
pub(crate) fn reconcile(
    in_force: &Plan,
    started: &Plan,
    new: &Plan,
    has_beats: bool,
) -> Result<Reconciled, ConfigError> {
    let mut plan = in_force.clone();
    let mut changes = Vec::new();
    let mut note = |key: &str, from: String, to: String| {
        if from != to {
            changes.push(KeyChange::new(key, from, to));
        }
    };
    note("threshold", time(in_force.threshold_ns), time(new.threshold_ns));
    note("max-delay", time(in_force.max_delay_ns), time(new.max_delay_ns));
    note("uid-agents-max", limit(in_force.uid_agents_max), limit(new.uid_agents_max));
    note("uid-frames-max", limit(in_force.uid_frames_max), limit(new.uid_frames_max));
    note("control-writers", listed(&in_force.control_writers), listed(&new.control_writers));
    note("dir", started.dir.display().to_string(), new.dir.display().to_string());
    note("shards", started.shards.len().to_string(), new.shards.len().to_string());
    note("tick", time(started.tick_ns), time(new.tick_ns));
    note("control-mode", octal(started.control_mode), octal(new.control_mode));
    note("control-group", group(started.control_group), group(new.control_group));
    note("agents-max", started.agents_max.to_string(), new.agents_max.to_string());
    note("log-format", started.log_format.as_str().to_owned(), new.log_format.as_str().to_owned());
    note("watched-max", started.watched_max.to_string(), new.watched_max.to_string());
    let (http, new_http) = (&in_force.http, &new.http);
    let is_same_listener = started.http.listen == new_http.listen;
    note("http.listen", or_none(started.http.listen.as_ref()), or_none(new_http.listen.as_ref()));
    note(
        "http.metrics-agents-max",
        started.http.metrics_agents_max.to_string(),
        new_http.metrics_agents_max.to_string(),
    );
    let path = |path: &Option<PathBuf>| or_none(path.as_ref().map(|path| path.display()).as_ref());
    note("http.token-file", path(&http.token_file), path(&new_http.token_file));
    note("http.dashboard", or_none(http.dashboard.as_ref()), or_none(new_http.dashboard.as_ref()));
    note("metrics.units", listed(&in_force.metrics_units), listed(&new.metrics_units));
    note_events(in_force.events.as_ref(), new.events.as_ref(), has_beats, &mut note);
    note_shards(started, new, &mut note);
    note_notify(started, new, &mut note);
    note_users((in_force, started), new, &mut plan, &mut note);
    note_act(in_force, new, &mut note);
    if in_force.rules != new.rules {
        changes.push(list_change("rule", &in_force.rules, &new.rules));
    }
    let (before, after) = (actions_of(in_force), actions_of(new));
    if before != after {
        changes.push(list_change("action", before, after));
    }
    plan.threshold_ns = new.threshold_ns;
    plan.max_delay_ns = new.max_delay_ns;
    plan.uid_agents_max = new.uid_agents_max;
    plan.uid_frames_max = new.uid_frames_max;
    plan.control_writers.clone_from(&new.control_writers);
    plan.rules.clone_from(&new.rules);
    plan.http.dashboard.clone_from(&new_http.dashboard);
    plan.metrics_units.clone_from(&new.metrics_units);
    plan.act = act(in_force, new);
    plan.events = new.events.clone().map(|events| EventsPlan { beats: has_beats, ..events });
    let is_live = |change: &KeyChange| {
        // A token goes with its listener, which stays as it is.
        let goes_along = change.key == "http.token-file" && !is_same_listener;
        let name = change.name();
        !goes_along && ALL.iter().any(|(known, key)| *known == name && key.is_live)
    };
    let (changed, restart): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_live);
    if is_same_listener {
        plan.http.token_file.clone_from(&new_http.token_file);
    }
    judge(&plan)?;
    Ok(Reconciled { plan, changed, restart })
}

/// Whether the new values of live keys agree with those that stay.
fn judge(plan: &Plan) -> Result<(), ConfigError> {
    let mut problems = Vec::new();
    let (tick, smallest) = (plan.tick_ns, plan.threshold_min_ns());
    if tick.saturating_mul(2) > smallest {
        let key = match plan.rules.iter().position(|rule| rule.threshold_ns == smallest) {
            _ if plan.threshold_ns == smallest => "threshold".to_owned(),
            Some(rule) => format!("rule[{rule}].threshold"),
            None => "threshold".to_owned(),
        };
        problems.push(ConfigProblem::refused(
            &key,
            format!("\"{}\"", time(smallest)),
            format!(
                "the tick in force is {}, more than half of it, and only a restart changes that",
                time(tick)
            ),
            format!("restart the observer, or write a threshold of at least {}", time(tick * 2)),
        ));
    }
    if let Some(EventsPlan { output: Output::File(path), .. }) = &plan.events {
        let sockets: Vec<_> = plan.all_shards().collect();
        judge_output("events", path, &plan.dir, &sockets, &mut problems);
        if plan.act.as_ref().and_then(|act| act.audit.as_ref()) == Some(path) {
            let why = "the audit in force is written there, and only a restart changes that";
            let fix = "restart the observer, or name another file";
            problems.push(ConfigProblem::refused("events", format!("{path:?}"), why, fix));
        }
    }
    ConfigError::check(problems)
}

fn note_events(
    before: Option<&EventsPlan>,
    after: Option<&EventsPlan>,
    has_beats: bool,
    note: &mut impl FnMut(&str, String, String),
) {
    let output = |events: Option<&EventsPlan>| or_none(events.map(|events| &events.output));
    note("events", output(before), output(after));
    if let Some(after) = after {
        note("events-beats", has_beats.to_string(), after.beats.to_string());
    }
    let (Some(before), Some(after)) = (before, after) else { return };
    note("events-format", before.format.as_str().to_owned(), after.format.as_str().to_owned());
    let bytes = |events: &EventsPlan| or_none(events.max_bytes.as_ref());
    note("events-max-bytes", bytes(before), bytes(after));
    note("events-keep", before.keep.to_string(), after.keep.to_string());
}

/// What is done about stalls: actions and brake of the new plan, files and spawner of the one in force, also after the
/// last action was removed. If there never was one, there are none of those yet, and all of the new plan holds.
fn act(in_force: &Plan, new: &Plan) -> Option<ActPlan> {
    match (&in_force.act, new.act.clone()) {
        (Some(before), Some(after)) => {
            Some(ActPlan { actions: after.actions, brake: after.brake, ..before.clone() })
        }
        (Some(before), None) => Some(ActPlan { actions: Vec::new(), ..before.clone() }),
        (None, Some(after)) => {
            let evidence_dir = evidence_dir(&after, &new.dir, &in_force.dir);
            Some(ActPlan { evidence_dir, ..after })
        }
        (None, None) => None,
    }
}

/// Where evidence is kept in a fleet with the directory `here`, by a plan for the directory `there`.
fn evidence_dir(act: &ActPlan, there: &Path, here: &Path) -> PathBuf {
    act.evidence_dir.strip_prefix(there).map_or_else(|_| act.evidence_dir.clone(), |name| here.join(name))
}

fn actions_of(plan: &Plan) -> &[Action] {
    plan.act.as_ref().map(|act| &*act.actions).unwrap_or_default()
}

fn note_act(in_force: &Plan, new: &Plan, note: &mut impl FnMut(&str, String, String)) {
    let (Some(before), Some(after)) = (&in_force.act, &new.act) else { return };
    let path = |path: &Option<PathBuf>| or_none(path.as_ref().map(|path| path.display()).as_ref());
    note("audit", path(&before.audit), path(&after.audit));
    note("audit-sync", before.audit_sync.to_string(), after.audit_sync.to_string());
    let evidence_dir = evidence_dir(after, &new.dir, &in_force.dir);
    note("evidence-dir", before.evidence_dir.display().to_string(), evidence_dir.display().to_string());
    note("spawner", path(&before.spawner), path(&after.spawner));
    let (before, after) = (&before.brake, &after.brake);
    note("brake.running", before.running.to_string(), after.running.to_string());
    let starts = |brake: &Brake| format!("{} per {}", brake.starts, time(brake.per_ns));
    note("brake.starts", starts(before), starts(after));
    let share = |brake: &Brake| {
        let Brake { percent, at_least, within_ns, .. } = brake;
        format!("{percent} %, at least {at_least}, within {}", time(*within_ns))
    };
    note("brake.share", share(before), share(after));
    let release = |brake: &Brake| brake.release_ns.map_or_else(|| "manual".to_owned(), time);
    note("brake.release", release(before), release(after));
    note("brake.dry-run", before.dry_run.to_string(), after.dry_run.to_string());
}

fn note_users(
    (in_force, started): (&Plan, &Plan),
    new: &Plan,
    plan: &mut Plan,
    note: &mut impl FnMut(&str, String, String),
) {
    for (index, shard) in in_force.shards.iter().enumerate() {
        // A shard beyond those configured at the start was made like the last of them.
        let model = new.shards.last().filter(|_| index >= started.shards.len());
        if let Some(other) = counterpart(in_force, new, index).or(model) {
            note(&format!("shard[{index}].allow-uids"), users(shard), users(other));
            plan.shards[index].allow_uids.clone_from(&other.allow_uids);
        }
    }
}

fn note_shards(started: &Plan, new: &Plan, note: &mut impl FnMut(&str, String, String)) {
    for (index, shard) in started.shards.iter().enumerate() {
        let Some(other) = counterpart(started, new, index) else { continue };
        let mut note = |leaf: &str, from, to| note(&format!("shard[{index}].{leaf}"), from, to);
        // A socket that follows the directory is not another change.
        let follows =
            other.socket.strip_prefix(&new.dir).is_ok_and(|name| started.dir.join(name) == shard.socket);
        if shard.socket != other.socket && !follows {
            note("socket", shard.socket.display().to_string(), other.socket.display().to_string());
        }
        note("core", format!("{:?}", shard.core), format!("{:?}", other.core));
        note("mode", octal(shard.mode), octal(other.mode));
        note("group", group(shard.group), group(other.group));
    }
}

fn note_notify(started: &Plan, new: &Plan, note: &mut impl FnMut(&str, String, String)) {
    let (Some(before), Some(after)) = (&started.notify, &new.notify) else {
        let socket = |plan: &Plan| {
            or_none(plan.notify.as_ref().map(|notify| notify.sockets[0].socket.display()).as_ref())
        };
        note("notify.socket", socket(started), socket(new));
        return;
    };
    let (one, other) = (&before.sockets[0], &after.sockets[0]);
    let follows = other.socket.strip_prefix(&new.dir).is_ok_and(|name| started.dir.join(name) == one.socket);
    if !follows {
        note("notify.socket", one.socket.display().to_string(), other.socket.display().to_string());
    }
    note("notify.sockets", before.sockets.len().to_string(), after.sockets.len().to_string());
    note("notify.mode", octal(one.mode), octal(other.mode));
    note("notify.group", group(one.group), group(other.group));
    note("notify.allow-uids", users(one), users(other));
    note("notify.threshold-min", time(before.threshold_min_ns), time(after.threshold_min_ns));
    note("notify.threshold-max", time(before.threshold_max_ns), time(after.threshold_max_ns));
    note("notify.stop-threshold", time(before.stop_ns), time(after.stop_ns));
}

/// The shard of the new plan that a running one is: the one with its socket, else the one with its index.
fn counterpart<'a>(in_force: &Plan, new: &'a Plan, index: usize) -> Option<&'a ShardPlan> {
    let socket = &in_force.shards[index].socket;
    let of_another = |shard: &&ShardPlan| !in_force.shards.iter().any(|other| other.socket == shard.socket);
    let same = new.shards.iter().find(|shard| shard.socket == *socket);
    same.or_else(|| new.shards.get(index).filter(of_another))
}

/// Another list of what `key` has blocks of.
fn list_change<T: PartialEq>(key: &str, before: &[T], after: &[T]) -> KeyChange {
    let count = |blocks: &[T]| match blocks.len() {
        1 => format!("1 {key}"),
        blocks => format!("{blocks} {key}s"),
    };
    let to = match before.iter().zip(after).filter(|(one, other)| one != other).count() {
        0 => count(after),
        differing if before.len() == after.len() => {
            format!("{}, {differing} of them different", count(after))
        }
        _ => count(after),
    };
    KeyChange::new(key, count(before), to)
}

fn time(ns: u64) -> String {
    written(Duration::from_nanos(ns))
}

fn limit(limit: Option<u32>) -> String {
    or_none(limit.as_ref())
}

fn group(group: Option<u32>) -> String {
    group.map_or_else(|| "the observer's own".to_owned(), |group| group.to_string())
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

fn users(shard: &ShardPlan) -> String {
    shard.allow_uids.as_ref().map_or_else(|| "all".to_owned(), |uids| format!("{uids:?}"))
}

fn listed<T: fmt::Debug>(list: &[T]) -> String {
    if list.is_empty() { "none".to_owned() } else { format!("{list:?}") }
}

fn or_none(value: Option<&impl fmt::Display>) -> String {
    value.map_or_else(|| "none".to_owned(), ToString::to_string)
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
