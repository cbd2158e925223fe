//! Turns what the operator wrote into what will run: checks every value, alone and against the others,
//! derives defaults and makes paths absolute.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::bounds::{NOTIFY_MAX, UNIT_PATTERNS_MAX, UNITS_MAX, URL_BYTES_MAX};
use super::checks::{
    OWN_FILES, absolute, in_range, judge_characters, judge_output, judge_patterns, judge_unit_pattern,
    may_end_as_unit, names_a_file,
};
use super::keys::{Config, KEYS};
use super::plan::{
    CoreChoice, DIR_OF_ROOT, EventsPlan, HttpPlan, METRICS_AGENTS_MAX, NotifyPlan, Output, PHASES_MAX,
    PayloadPhase, Phases, Plan, Progress, RULES_MAX, Rule, SHARDS_MAX, SOCKET_PATH_MAX, START_BEATS_MAX,
    ShardPlan, Start,
};
use super::problem::{ConfigError, ConfigProblem};
use super::tables::{PhaseConfig, ProgressOf, RuleConfig, RuleMatch, ShardConfig};
use super::values::{Refused, written};
use crate::message::is_deceptive;
use crate::process::unit::UNIT_BYTES_MAX;
use crate::time::duration_ns;
use crate::wire::Status;

/// Without a progress threshold.
const PROGRESS_THRESHOLD: Duration = Duration::from_secs(60);
const PROGRESS_THRESHOLD_MIN: Duration = Duration::from_secs(1);
const THRESHOLD_MIN: Duration = Duration::from_millis(10);
const THRESHOLD_MAX: Duration = Duration::from_secs(24 * 3600);
const TICK_MIN: Duration = Duration::from_millis(1);
const TICK_MAX: Duration = Duration::from_secs(1);
const MAX_DELAY_MAX: Duration = Duration::from_millis(100);

/// The default runtime directory.
///
/// # Errors
/// The user is not root, and `XDG_RUNTIME_DIR` is not usable.
pub fn default_dir() -> Result<PathBuf, ConfigError> {
    Host::here().dir()
}

/// The environment that defaults depend on.
#[derive(Clone, Debug)]
struct Host {
    is_root: bool,
    xdg_runtime_dir: Option<PathBuf>,
    cores_allowed: u32,
}

impl Host {
    fn here() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            is_root: rustix::process::geteuid().is_root(),
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            cores_allowed: u32::try_from(cores).unwrap_or(u32::MAX),
        }
    }

    fn dir(&self) -> Result<PathBuf, ConfigError> {
        if self.is_root {
            return Ok(DIR_OF_ROOT.into());
        }
        match &self.xdg_runtime_dir {
            Some(base) if base.is_absolute() => Ok(base.join("varta")),
            _ => Err(ConfigError::from(ConfigProblem::refused(
                "dir",
                "$XDG_RUNTIME_DIR/varta",
                "XDG_RUNTIME_DIR is not set to an absolute path, and this user is not root",
                "write dir = \"…\" or give --dir or VARTA_DIR, a directory of this user",
            ))),
        }
    }
}

impl Config {
    /// Validates, derives defaults and resolves paths.
    ///
    /// Reads the environment (`XDG_RUNTIME_DIR`), the current directory for relative paths, the user id
    /// and the number of allowed cores; accesses no file.
    ///
    /// # Errors
    /// All values that are out of range or do not agree with others, at once.
    pub fn plan(&self) -> Result<Plan, ConfigError> {
        self.plan_on(&Host::here())
    }

    fn plan_on(&self, host: &Host) -> Result<Plan, ConfigError> {
        let mut problems = Vec::new();
        self.judge_times(&mut problems);
        self.judge_rules(&mut problems);
        for key in KEYS {
            if let Err(Refused { why, fix }) = key.judge(self) {
                problems.push(ConfigProblem::refused(key.name, key.value_in(self), why, fix));
            }
        }
        let blocks = self.resolve_blocks(host, &mut problems);
        judge_mode("mode", self.mode, BEATS, &mut problems);
        judge_mode("control-mode", self.control_mode, "nobody may write, so nobody can ask", &mut problems);
        let dir = match &self.dir {
            Some(dir) => absolute("dir", dir, &mut problems),
            None => host.dir().unwrap_or_else(|error| {
                problems.extend_from_slice(error.problems());
                PathBuf::new()
            }),
        };
        judge_characters("dir", &dir, &mut problems);
        let mut taken = HashMap::new();
        for (name, whose) in OWN_FILES {
            taken.insert(dir.join(name), format!("the observer's own {whose}"));
        }
        let shards = self.resolve_shards(&dir, &blocks, &mut taken, &mut problems);
        let notify = self.resolve_notify(&dir, &mut taken, &mut problems);
        let sockets: Vec<_> = shards.iter().chain(notify.iter().flat_map(|notify| &notify.sockets)).collect();
        let events = self.events.as_ref().map(|output| EventsPlan {
            output: match output {
                Output::Stdout => Output::Stdout,
                Output::File(path) => {
                    let path = absolute("events", path, &mut problems);
                    judge_characters("events", &path, &mut problems);
                    judge_output("events", &path, &dir, &sockets, &mut problems);
                    Output::File(path)
                }
            },
            format: self.events_format,
            beats: self.events_beats,
            max_bytes: self.events_max_bytes,
            keep: self.events_keep,
        });
        let http = self.judge_http(&mut problems);
        self.judge_units(&mut problems);
        let act = self.resolve_actions(&dir, &sockets, &mut problems);
        let rules = (0..).zip(&self.rules).map(|(i, rule): (usize, _)| Rule {
            matcher: rule.matches.clone(),
            threshold_ns: duration_ns(rule.threshold),
            phases: resolve_phases(&format!("rule[{i}]"), rule, &mut problems),
            progress: resolve_progress(&format!("rule[{i}]"), rule, &mut problems),
        });
        let rules = rules.collect();
        ConfigError::check(problems)?;
        Ok(Plan {
            log_format: self.log_format,
            dir,
            shards,
            threshold_ns: duration_ns(self.threshold),
            tick_ns: duration_ns(self.tick),
            max_delay_ns: duration_ns(self.max_delay),
            control_mode: self.control_mode,
            control_group: self.control_group,
            control_writers: self.control_writers.clone().map(each_once).unwrap_or_default(),
            agents_max: self.agents_max,
            uid_agents_max: self.uid_agents_max,
            uid_frames_max: self.uid_frames_max,
            watched_max: self.watched_max,
            notify,
            rules,
            events,
            http,
            metrics_units: self.metrics.units.clone().unwrap_or_default(),
            act,
        })
    }

    fn judge_http(&self, problems: &mut Vec<ConfigProblem>) -> HttpPlan {
        let token_file =
            self.http.token_file.as_ref().map(|path| absolute("http.token-file", path, problems));
        match (self.http.listen, &token_file) {
            (Some(listen), None) if !listen.ip().is_loopback() => problems.push(ConfigProblem::refused(
                "http.listen",
                listen.to_string(),
                "other hosts could ask, and nobody would have to know a secret",
                "write token-file = \"…\" in [http], or an address of this host alone, such as 127.0.0.1:9464",
            )),
            (None, Some(path)) => problems.push(ConfigProblem::refused(
                "http.token-file",
                format!("{path:?}"),
                "nothing listens that would ask for it",
                "write listen = \"127.0.0.1:9464\" in [http], or leave it out",
            )),
            _ => {}
        }
        if self.http.metrics_agents_max > METRICS_AGENTS_MAX {
            problems.push(ConfigProblem::refused(
                "http.metrics-agents-max",
                self.http.metrics_agents_max.to_string(),
                "one answer cannot hold as many",
                format!("write a whole number from 0 to {METRICS_AGENTS_MAX}"),
            ));
        }
        if let Some(url) = &self.http.dashboard
            && let Err((why, fix)) = judge_url(url)
        {
            problems.push(ConfigProblem::refused("http.dashboard", format!("{url:?}"), why, fix));
        }
        HttpPlan {
            listen: self.http.listen,
            token_file,
            metrics_agents_max: self.http.metrics_agents_max,
            dashboard: self.http.dashboard.clone(),
        }
    }

    fn judge_units(&self, problems: &mut Vec<ConfigProblem>) {
        let Some(patterns) = &self.metrics.units else { return };
        let mut refused = |why: String, fix| {
            problems.push(ConfigProblem::refused("metrics.units", format!("{patterns:?}"), why, fix));
        };
        if patterns.is_empty() {
            refused("it names no unit".to_owned(), "name units, or leave it out");
        }
        if patterns.len() > UNIT_PATTERNS_MAX {
            refused(
                format!("there are {} patterns, and at most {UNITS_MAX} units have series", patterns.len()),
                "write fewer patterns; * stands for any characters",
            );
        }
        for pattern in patterns {
            let why = if pattern.is_empty() {
                "it is empty"
            } else if pattern.len() > UNIT_BYTES_MAX {
                "no unit has so long a name"
            } else if pattern.contains(is_deceptive) {
                "it holds characters that control a terminal or cannot be seen"
            } else if !may_end_as_unit(pattern) {
                "the names of units end in .service or .scope"
            } else {
                continue;
            };
            let shown: String = pattern.chars().take(60).collect();
            refused(
                format!("the pattern {shown:?} matches nothing: {why}"),
                "write the name of a unit or a pattern, such as \"trading-*.service\"",
            );
        }
    }

    fn judge_times(&self, problems: &mut Vec<ConfigProblem>) {
        let of_rules = (0..)
            .zip(&self.rules)
            .map(|(i, rule): (usize, _)| (format!("rule[{i}].threshold"), rule.threshold));
        let of_daemons =
            self.notify.iter().map(|notify| ("notify.threshold-min".to_owned(), notify.threshold_min));
        let thresholds: Vec<_> = std::iter::once(("threshold".to_owned(), self.threshold))
            .chain(of_rules)
            .chain(of_daemons)
            .collect();
        for (key, threshold) in &thresholds {
            in_range(key, *threshold, THRESHOLD_MIN..=THRESHOLD_MAX, problems);
        }
        // A threshold that is out of range is reported once.
        let judged =
            thresholds.iter().filter(|(_, threshold)| (THRESHOLD_MIN..=THRESHOLD_MAX).contains(threshold));
        let smallest = judged.min_by_key(|(_, threshold)| *threshold);
        for (key, value, range, part, name) in [
            ("tick", self.tick, TICK_MIN..=TICK_MAX, 2, "half"),
            ("max-delay", self.max_delay, Duration::ZERO..=MAX_DELAY_MAX, 4, "a quarter"),
        ] {
            let Some((of, threshold)) = smallest.filter(|_| in_range(key, value, range, problems)) else {
                continue;
            };
            if value * part > *threshold {
                let why = format!(
                    "a {key} of {} is more than {name} of the smallest threshold, {}",
                    written(value),
                    written(*threshold)
                );
                let most =
                    Duration::from_millis(u64::try_from((*threshold / part).as_millis()).unwrap_or(u64::MAX));
                let fix = format!(
                    "write {key} = \"{}\" or less, or a threshold of at least {}",
                    written(most),
                    written(value * part)
                );
                problems.push(ConfigProblem::refused(key, written(value), why, fix).against(of));
            }
        }
    }

    fn judge_rules(&self, problems: &mut Vec<ConfigProblem>) {
        if self.rules.len() > RULES_MAX {
            problems.push(ConfigProblem::refused(
                "rule",
                format!("{} blocks", self.rules.len()),
                format!("there are more than {RULES_MAX} rules"),
                "merge rules that give the same threshold",
            ));
        }
        for (i, rule) in self.rules.iter().enumerate() {
            let RuleMatch { comm, uid, exe, unit } = &rule.matches;
            if comm.is_none() && uid.is_none() && exe.is_none() && unit.is_none() {
                problems.push(ConfigProblem::refused(
                    &format!("rule[{i}].match"),
                    "{}",
                    "it matches every agent",
                    "name a comm, uid, exe or unit, or set the threshold at the top of the file instead",
                ));
            }
            let matches = format!("rule[{i}].match");
            judge_patterns(&matches, comm.as_deref(), exe.as_deref(), problems);
            judge_unit_pattern(&matches, unit.as_deref(), problems);
        }
    }

    /// One block per shard: the written ones, or defaults for the number of shards.
    fn resolve_blocks(&self, host: &Host, problems: &mut Vec<ConfigProblem>) -> Vec<ShardConfig> {
        let blocks = u32::try_from(self.shard_blocks.len()).unwrap_or(u32::MAX);
        let key = if self.shards.is_some() { "shards" } else { "shard" };
        let count = match self.shards {
            Some(shards) if blocks != 0 && shards != blocks => {
                problems.push(
                    ConfigProblem::refused(
                        "shards",
                        shards.to_string(),
                        if blocks == 1 { "there is 1 [[shard]] block".to_owned() } else { format!("there are {blocks} [[shard]] blocks") },
                        format!("write a block for each shard, or leave out shards or the blocks (shards = {blocks} fits)"),
                    )
                    .against("shard"),
                );
                return self.shard_blocks.clone();
            }
            Some(shards) => shards,
            None if blocks != 0 => blocks,
            None => (host.cores_allowed / 2).min(SHARDS_MAX).min(self.agents_max).max(1),
        };
        let refused = |why: String, fix: String| ConfigProblem::refused(key, count.to_string(), why, fix);
        if count == 0 || count > SHARDS_MAX {
            let why = if count == 0 { "nobody would receive" } else { "it is more than one fleet can have" };
            problems.push(refused(why.to_owned(), format!("write a whole number from 1 to {SHARDS_MAX}")));
        } else if count > self.agents_max && self.agents_max > 0 {
            let why = format!("it is more than agents-max = {}", self.agents_max);
            problems.push(
                refused(why, "write fewer shards, or a larger agents-max".to_owned()).against("agents-max"),
            );
        }
        if blocks == 0 {
            vec![ShardConfig::default(); count.min(SHARDS_MAX) as usize]
        } else {
            self.shard_blocks.clone()
        }
    }

    fn resolve_shards(
        &self,
        dir: &Path,
        blocks: &[ShardConfig],
        taken: &mut HashMap<PathBuf, String>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Vec<ShardPlan> {
        let mut shards = Vec::with_capacity(blocks.len());
        for (i, block) in blocks.iter().enumerate() {
            let table = format!("shard[{i}]");
            let named = Named { key: &format!("{table}.socket"), of: &format!("shard {i}") };
            let path = block.socket.as_deref();
            let socket = resolve_socket(named, path, &format!("shard-{i}.sock"), dir, taken, problems);
            judge_access(&table, block.mode, block.allow_uids.as_deref(), problems);
            let allow_uids = block.allow_uids.clone().map(each_once);
            shards.push(ShardPlan {
                socket,
                mode: block.mode.unwrap_or(self.mode),
                group: block.group.or(self.group),
                core: block.core,
                allow_uids,
            });
        }
        shards
    }

    fn resolve_notify(
        &self,
        dir: &Path,
        taken: &mut HashMap<PathBuf, String>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Option<NotifyPlan> {
        let notify = self.notify.as_ref()?;
        if notify.sockets == 0 || notify.sockets > NOTIFY_MAX {
            let why = if notify.sockets == 0 {
                "no daemon could send"
            } else {
                "it is more than one fleet can have"
            };
            let fix = format!("write a whole number from 1 to {NOTIFY_MAX}, or leave [notify] out");
            problems.push(ConfigProblem::refused("notify.sockets", notify.sockets.to_string(), why, fix));
        }
        judge_access("notify", notify.mode, notify.allow_uids.as_deref(), problems);
        for (key, value) in
            [("notify.threshold-max", notify.threshold_max), ("notify.stop-threshold", notify.stop_threshold)]
        {
            in_range(key, value, THRESHOLD_MIN..=THRESHOLD_MAX, problems);
        }
        if notify.threshold_min > notify.threshold_max {
            let (max, min) = (written(notify.threshold_max), written(notify.threshold_min));
            let why = format!("a threshold-max of {max} is below a threshold-min of {min}");
            let fix = "write a longer threshold-max, or a shorter threshold-min";
            problems.push(
                ConfigProblem::refused("notify.threshold-max", written(notify.threshold_max), why, fix)
                    .against("notify.threshold-min"),
            );
        }
        let first = notify.socket.as_deref().unwrap_or(Path::new("notify.sock"));
        let sockets = (0..notify.sockets.clamp(1, NOTIFY_MAX)).map(|i| {
            let named = Named { key: "notify.socket", of: &format!("daemons, number {i}") };
            let path = beside(first, i);
            // The default is as long as the names of the other sockets.
            let written = notify.socket.as_ref().map(|_| &*path);
            ShardPlan {
                socket: resolve_socket(named, written, &path.to_string_lossy(), dir, taken, problems),
                mode: notify.mode.unwrap_or(self.mode),
                group: notify.group.or(self.group),
                core: CoreChoice::None,
                allow_uids: notify.allow_uids.clone().map(each_once),
            }
        });
        Some(NotifyPlan {
            sockets: sockets.collect(),
            threshold_min_ns: duration_ns(notify.threshold_min),
            threshold_max_ns: duration_ns(notify.threshold_max),
            stop_ns: duration_ns(notify.stop_threshold),
        })
    }
}

/// The path of socket `i` whose first one is `first`: `notify.sock`, `notify-1.sock`…
pub(crate) fn beside(first: &Path, i: u32) -> PathBuf {
    if i == 0 {
        return first.to_owned();
    }
    let mut name = first.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{i}"));
    if let Some(extension) = first.extension() {
        name.push(".");
        name.push(extension);
    }
    first.with_file_name(name)
}

/// What the path of a socket is of.
#[derive(Clone, Copy)]
struct Named<'a> {
    /// Its key.
    key: &'a str,
    /// The socket, in words: the socket of…
    of: &'a str,
}

/// The absolute path of a socket, as `written` or else the default in the directory.
fn resolve_socket(
    Named { key, of }: Named<'_>,
    written: Option<&Path>,
    default: &str,
    dir: &Path,
    taken: &mut HashMap<PathBuf, String>,
    problems: &mut Vec<ConfigProblem>,
) -> PathBuf {
    let socket = match written {
        Some(path) if path.is_relative() && !path.as_os_str().is_empty() => dir.join(path),
        Some(path) => absolute(key, path, problems),
        None => dir.join(default),
    };
    if let Some(path) = written.filter(|path| !path.as_os_str().is_empty() && !names_a_file(path)) {
        let why = "a socket's path ends in the name of a file, without NUL in it";
        let fix = format!("write for example socket = \"/run/varta/{default}\"");
        problems.push(ConfigProblem::refused(key, format!("{path:?}"), why, fix));
    }
    if written.is_some() && !problems.iter().any(|problem| problem.key == "dir") {
        judge_characters(key, &socket, problems);
    }
    let bytes = socket.as_os_str().len();
    // Report an overlong directory once, not for every socket in it.
    let by_dir = written.is_none();
    let told = by_dir && problems.iter().any(|problem| problem.key == "dir");
    if bytes > SOCKET_PATH_MAX && !told {
        let (key, value) = if by_dir { ("dir", dir) } else { (key, &*socket) };
        let why = format!(
            "the path of the socket of {of} has {bytes} bytes, and the kernel takes {SOCKET_PATH_MAX} at most"
        );
        let fix = format!("use a path shorter by {}", bytes - SOCKET_PATH_MAX);
        problems.push(ConfigProblem::refused(key, format!("{value:?}"), why, fix));
    }
    if let Some(other) = taken.insert(socket.clone(), format!("the socket of {of}")) {
        let why = format!("it is {other}, too");
        let fix = "give each shard a socket of its own";
        problems.push(ConfigProblem::refused(key, format!("{socket:?}"), why, fix));
    }
    socket
}

/// These users in order, each once.
fn each_once(mut uids: Vec<u32>) -> Vec<u32> {
    uids.sort_unstable();
    uids.dedup();
    uids
}

/// The consequence of a mode without write permission.
const BEATS: &str = "nobody may write, so nobody can beat";

fn judge_access(
    table: &str,
    mode: Option<u32>,
    allow_uids: Option<&[u32]>,
    problems: &mut Vec<ConfigProblem>,
) {
    if let Some(mode) = mode {
        judge_mode(&format!("{table}.mode"), mode, BEATS, problems);
    }
    if allow_uids.is_some_and(<[u32]>::is_empty) {
        problems.push(ConfigProblem::refused(
            &format!("{table}.allow-uids"),
            "[]",
            "it lets nobody beat",
            "name users, or leave it out to accept whoever the mode lets in",
        ));
    }
}

fn judge_mode(key: &str, mode: u32, closed: &str, problems: &mut Vec<ConfigProblem>) {
    if mode > 0o777 || mode & 0o222 == 0 {
        problems.push(ConfigProblem::refused(
            key,
            format!("\"{mode:04o}\""),
            if mode > 0o777 { "a socket has no such bits" } else { closed },
            "write \"0600\" for the same user, \"0660\" for its group too, \"0666\" for everybody",
        ));
    }
}

/// When the agents of a rule may be silent for longer.
fn resolve_phases(key: &str, rule: &RuleConfig, problems: &mut Vec<ConfigProblem>) -> Phases {
    let RuleConfig { threshold, start_threshold, start_beats, phase, .. } = rule;
    let of = |name: &str| format!("{key}.{name}");
    match (start_threshold, start_beats) {
        (Some(longest), _) => {
            let name = of("start-threshold");
            let why = "an agent is started by being silent for less, not for more";
            judge_longer(&name, *longest, *threshold, why, &of("threshold"), problems);
        }
        (None, Some(beats)) => problems.push(ConfigProblem::refused(
            &of("start-beats"),
            beats.to_string(),
            "nothing says which silence is a stall until then",
            "write start-threshold = \"2m\" beside it, or leave it out",
        )),
        (None, None) => {}
    }
    if let Some(beats) = start_beats.filter(|beats| !(1..=START_BEATS_MAX).contains(beats)) {
        let why = if beats == 0 { "the start would never begin" } else { "no start takes as many" };
        let fix = format!("write a whole number from 1 to {START_BEATS_MAX}");
        problems.push(ConfigProblem::refused(&of("start-beats"), beats.to_string(), why, fix));
    }
    let phases = phase.as_deref().unwrap_or_default();
    if phases.len() > PHASES_MAX {
        problems.push(ConfigProblem::refused(
            &of("phase"),
            format!("{} phases", phases.len()),
            format!("there are more than {PHASES_MAX} phases"),
            "merge phases that have the same threshold",
        ));
    }
    for (i, phase) in phases.iter().enumerate() {
        judge_phase(&of(&format!("phase[{i}]")), phase, &phases[..i], problems);
        let name = of(&format!("phase[{i}].threshold"));
        let why = "what holds is looked up once in a threshold of the rule, too late for a shorter one";
        judge_longer(&name, phase.threshold, *threshold, why, &of("threshold"), problems);
    }
    let start =
        start_threshold.map(|longest| Start { threshold_ns: duration_ns(longest), beats: *start_beats });
    let payload = phases.iter().map(|phase| PayloadPhase {
        from: phase.payload[0],
        to: phase.payload[1],
        threshold_ns: duration_ns(phase.threshold),
    });
    Phases { start, payload: payload.collect() }
}

/// Refuses a threshold that is out of range, or shorter than that of the rule.
fn judge_longer(
    key: &str,
    value: Duration,
    of_rule: Duration,
    why: &str,
    against: &str,
    problems: &mut Vec<ConfigProblem>,
) {
    if in_range(key, value, THRESHOLD_MIN..=THRESHOLD_MAX, problems) && value < of_rule {
        let why = format!("it is shorter than the threshold of the rule, {}: {why}", written(of_rule));
        let fix = format!("write a duration of at least \"{}\"", written(of_rule));
        problems
            .push(ConfigProblem::refused(key, format!("\"{}\"", written(value)), why, fix).against(against));
    }
}

fn judge_phase(key: &str, phase: &PhaseConfig, before: &[PhaseConfig], problems: &mut Vec<ConfigProblem>) {
    let [from, to] = phase.payload;
    let is_both = |other: &&PhaseConfig| from <= other.payload[1] && other.payload[0] <= to;
    let (why, fix) = if from > to {
        ("the first number is larger than the second".to_owned(), format!("write [{to}, {from}]"))
    } else if let Some(PhaseConfig { payload: [first, last], .. }) = before.iter().find(is_both) {
        let why = format!("payloads in it are in the phase [{first}, {last}], too");
        (why, "give each phase payloads of its own".to_owned())
    } else {
        return;
    };
    problems.push(ConfigProblem::refused(&format!("{key}.payload"), format!("[{from}, {to}]"), why, fix));
}

/// When the agents of a rule are at a standstill, if they can be.
fn resolve_progress(key: &str, rule: &RuleConfig, problems: &mut Vec<ConfigProblem>) -> Option<Progress> {
    let RuleConfig { threshold, progress, progress_threshold, idle_payload, idle_status, .. } = rule;
    let of = |name: &str| format!("{key}.{name}");
    if progress.is_none() {
        for (name, value) in [
            ("progress-threshold", progress_threshold.map(|time| format!("\"{}\"", written(time)))),
            ("idle-payload", idle_payload.map(|payload| payload.to_string())),
            ("idle-status", idle_status.map(|status| format!("\"{}\"", status.as_str()))),
        ] {
            let Some(value) = value else { continue };
            let why = "nothing says how its agents show that they advance";
            let fix = "write progress = \"payload\" or \"status\" beside it, or leave it out";
            problems.push(ConfigProblem::refused(&of(name), value, why, fix));
        }
        return None;
    }
    let longest = progress_threshold.unwrap_or(PROGRESS_THRESHOLD);
    if in_range(&of("progress-threshold"), longest, PROGRESS_THRESHOLD_MIN..=THRESHOLD_MAX, problems)
        && longest < *threshold
    {
        let why = format!(
            "its agents may be silent for {}, and who is silent shows no progress",
            written(*threshold)
        );
        let fix = format!("write a duration of at least \"{}\"", written(*threshold));
        problems.push(
            ConfigProblem::refused(&of("progress-threshold"), format!("\"{}\"", written(longest)), why, fix)
                .against(&of("threshold")),
        );
    }
    if *progress == Some(ProgressOf::Status) {
        let of_payload = idle_payload.map(|payload| ("idle-payload", payload.to_string()));
        let of_status = idle_status.map(|status| ("idle-status", format!("\"{}\"", status.as_str())));
        for (name, value) in of_payload.into_iter().chain(of_status) {
            let why = "daemons, whose status lines show their progress, have no frames";
            problems
                .push(ConfigProblem::refused(&of(name), value, why, "leave it out").against(&of("progress")));
        }
    }
    if *idle_status == Some(Status::Stall) {
        let why = "no agent ever says that";
        let fix = "write \"ok\", \"degraded\" or \"critical\"";
        problems.push(ConfigProblem::refused(&of("idle-status"), "\"stall\"".to_owned(), why, fix));
    }
    Some(Progress {
        of: progress.unwrap_or(ProgressOf::Payload),
        threshold_ns: duration_ns(longest),
        idle_payload: *idle_payload,
        idle_status: *idle_status,
    })
}

/// Refuses a URL that is no plain link to a page: why, and what to do. The page shows it to everyone who may read that.
fn judge_url(url: &str) -> Result<(), (&'static str, &'static str)> {
    const EXAMPLE: &str = "write for example \"https://grafana.example/d/varta-fleet\"";
    if url.is_empty() {
        return Err(("it is empty", "write a URL, or leave it out"));
    }
    if url.len() > URL_BYTES_MAX {
        return Err(("it is longer than 2048 bytes", EXAMPLE));
    }
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return Err(("the page links only to http:// and https://", EXAMPLE));
    };
    if url.chars().any(|c| !c.is_ascii_graphic() || "\"'<>\\^`{|}".contains(c)) {
        return Err((
            "it holds a character that no URL does",
            "write % and two hexadecimal digits instead of the character, such as %20 for a space",
        ));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        return Err(("it holds a user or password, and everyone who may read the page sees it", EXAMPLE));
    }
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address are in brackets.
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    if name.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(("it names no host, or a port that is none", EXAMPLE));
    }
    Ok(())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
