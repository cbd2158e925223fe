//! A configuration as the text of a file: what is in effect, with the origin of each line, or an example of
//! every key.

use std::fmt::Write as _;

use toml::Value;

use super::act::ActionMatch;
use super::keys::{
    ACTION_KEYS, BRAKE_KEYS, Config, HTTP_KEYS, KEYS, Key, METRICS_KEYS, NOTIFY_KEYS, RULE_KEYS, SHARD_KEYS,
    TABLES,
};
use super::layers::Layers;
use super::problem::ConfigError;
use super::tables::{
    ActionConfig, BrakeConfig, HttpConfig, MetricsConfig, NotifyConfig, PhaseConfig, RetryConfig, RuleConfig,
    RuleMatch, ShardConfig, ShareConfig, StartsConfig,
};
use super::triggers::trigger_value;
use super::values::{ADDRESS, CoreChoice, DURATION, GROUP, MODE, PATH, signal_name};

/// Widest assignment that moves the comments of all lines to the right.
const WIDTH_MAX: usize = 44;

const HEADER: &str = "\
# Configuration of varta-fleet, varta-fleet.toml(5). A key behind `#` is not set: it is shown with its default, or with
# an example where the text above it names the default. `varta-fleet check` finds mistakes, `varta-fleet config` shows
# what is in effect. What is marked live changes at a reload, the rest at a restart.
";

/// One line of a file.
enum Line {
    /// The heading of a table.
    Heading(&'static str),
    /// A key, its full name, and its value. `None`: it has none, or none that TOML can write.
    Key(&'static Key, String, Option<Value>),
}

impl Layers {
    /// The configuration in effect as the text of a file, with the origin of each line as a comment. Read back
    /// alone, it makes the same plan.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn effective(&self) -> Result<String, ConfigError> {
        let plan = self.plan()?;
        // What the plan resolved: another user, directory or host would resolve it otherwise.
        let mut config = self.config().clone();
        config.dir = Some(plan.dir);
        config.shards = u32::try_from(plan.shards.len()).ok();
        config.events = plan.events.map(|events| events.output);
        config.http.token_file = plan.http.token_file;
        if let Some(act) = plan.act {
            (config.audit, config.spawner) = (act.audit, act.spawner);
            config.evidence_dir = Some(act.evidence_dir);
        }
        let rows: Vec<_> = lines(&config).into_iter().map(|line| self.row(line)).collect();
        let widths = rows.iter().map(|(text, _)| text.chars().count());
        let width = widths.filter(|width| *width <= WIDTH_MAX).max().unwrap_or(0);
        let mut file = String::new();
        for (text, origin) in rows {
            let _ = match origin {
                Some(origin) => writeln!(file, "{text:<width$} # {origin}"),
                None => writeln!(file, "\n{text}"),
            };
        }
        Ok(file)
    }

    /// A line without its comment, and the origin of a key.
    fn row(&self, line: Line) -> (String, Option<String>) {
        match line {
            Line::Heading(heading) => (heading.to_owned(), None),
            Line::Key(key, name, value) => {
                let text = match value {
                    Some(value) => format!("{} = {value}", key.name),
                    None => format!("# {}: {}", key.name, key.default_text()),
                };
                (text, Some(self.origin_in_words(&name)))
            }
        }
    }
}

/// The lines of a file that says all that is in this configuration.
fn lines(config: &Config) -> Vec<Line> {
    let top = KEYS.iter().filter(|key| key.name == key.in_file).filter_map(|key| {
        let setting = key.setting.as_ref()?;
        Some(Line::Key(key, key.name.to_owned(), (setting.value)(config)))
    });
    let mut lines: Vec<_> = top.collect();
    lines.push(Line::Heading("[http]"));
    lines.extend(of_table("http", HTTP_KEYS, |key| of_http(&config.http, key)));
    lines.push(Line::Heading("[metrics]"));
    lines.extend(of_table("metrics", METRICS_KEYS, |key| of_metrics(&config.metrics, key)));
    for (i, block) in config.shard_blocks.iter().enumerate() {
        lines.push(Line::Heading("[[shard]]"));
        lines.extend(of_table(&format!("shard[{i}]"), SHARD_KEYS, |key| of_shard(block, key)));
    }
    if let Some(notify) = &config.notify {
        lines.push(Line::Heading("[notify]"));
        lines.extend(of_table("notify", NOTIFY_KEYS, |key| of_notify(notify, key)));
    }
    for (i, rule) in config.rules.iter().enumerate() {
        lines.push(Line::Heading("[[rule]]"));
        lines.extend(of_table(&format!("rule[{i}]"), RULE_KEYS, |key| of_rule(rule, key)));
    }
    for (i, action) in config.actions.iter().enumerate() {
        lines.push(Line::Heading("[[action]]"));
        lines.extend(of_table(&format!("action[{i}]"), ACTION_KEYS, |key| of_action(action, key)));
    }
    lines.push(Line::Heading("[brake]"));
    lines.extend(of_table("brake", BRAKE_KEYS, |key| of_brake(&config.brake, key)));
    lines
}

fn of_table(
    table: &str,
    keys: &'static [Key],
    value: impl Fn(&str) -> Option<Value>,
) -> impl Iterator<Item = Line> {
    keys.iter().map(move |key| Line::Key(key, format!("{table}.{}", key.name), value(key.name)))
}

fn of_http(http: &HttpConfig, key: &str) -> Option<Value> {
    let HttpConfig { listen, token_file, metrics_agents_max, dashboard } = http;
    match key {
        "listen" => (ADDRESS.value)(listen),
        "token-file" => (PATH.value)(token_file),
        "metrics-agents-max" => Some((*metrics_agents_max).into()),
        "dashboard" => dashboard.clone().map(Value::from),
        _ => None,
    }
}

fn of_metrics(metrics: &MetricsConfig, key: &str) -> Option<Value> {
    let MetricsConfig { units } = metrics;
    match key {
        "units" => units.clone().map(Value::from),
        _ => None,
    }
}

fn of_shard(block: &ShardConfig, key: &str) -> Option<Value> {
    let ShardConfig { socket, core, mode, group, allow_uids } = block;
    match key {
        "socket" => (PATH.value)(socket),
        "core" => Some(match core {
            CoreChoice::Core(number) => (*number).into(),
            CoreChoice::Auto | CoreChoice::None => core.to_string().into(),
        }),
        "mode" => mode.as_ref().and_then(MODE.value),
        "group" => (GROUP.value)(group),
        "allow-uids" => allow_uids.clone().map(Value::from),
        _ => None,
    }
}

fn of_notify(notify: &NotifyConfig, key: &str) -> Option<Value> {
    let NotifyConfig {
        socket,
        sockets,
        mode,
        group,
        allow_uids,
        threshold_min,
        threshold_max,
        stop_threshold,
    } = notify;
    match key {
        "socket" => (PATH.value)(socket),
        "sockets" => Some((*sockets).into()),
        "mode" => mode.as_ref().and_then(MODE.value),
        "group" => (GROUP.value)(group),
        "allow-uids" => allow_uids.clone().map(Value::from),
        "threshold-min" => (DURATION.value)(threshold_min),
        "threshold-max" => (DURATION.value)(threshold_max),
        "stop-threshold" => (DURATION.value)(stop_threshold),
        _ => None,
    }
}

/// What this table takes, on one line. `of`: the table that it is in.
fn table(of: &[Key], name: &str, value: impl Fn(&str) -> Option<Value>) -> Option<Value> {
    let keys = of.iter().find(|key| key.name == name).map_or(&[][..], |key| key.within);
    let written = keys.iter().filter_map(|key| Some((key.name.to_owned(), value(key.name)?)));
    Some(Value::Table(written.collect()))
}

fn of_rule(rule: &RuleConfig, key: &str) -> Option<Value> {
    let RuleConfig {
        matches,
        threshold,
        start_threshold,
        start_beats,
        phase,
        progress,
        progress_threshold,
        idle_payload,
        idle_status,
    } = rule;
    match key {
        "match" => table(RULE_KEYS, key, |key| of_match(matches, key)),
        "threshold" => (DURATION.value)(threshold),
        "start-threshold" => start_threshold.as_ref().and_then(DURATION.value),
        "start-beats" => start_beats.map(Value::from),
        "phase" => phase.as_ref().map(|phases| {
            let phases = phases.iter().filter_map(|phase| table(RULE_KEYS, key, |key| of_phase(phase, key)));
            Value::Array(phases.collect())
        }),
        "progress" => progress.map(|of| of.as_str().into()),
        "progress-threshold" => progress_threshold.as_ref().and_then(DURATION.value),
        "idle-payload" => idle_payload.and_then(|payload| i64::try_from(payload).ok()).map(Value::from),
        "idle-status" => idle_status.map(|status| status.as_str().into()),
        _ => None,
    }
}

fn of_phase(phase: &PhaseConfig, key: &str) -> Option<Value> {
    let PhaseConfig { payload, threshold } = phase;
    match key {
        "payload" => {
            let numbers = payload.map(|number| i64::try_from(number).ok().map(Value::from));
            numbers.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
        }
        "threshold" => (DURATION.value)(threshold),
        _ => None,
    }
}

fn of_match(matches: &RuleMatch, key: &str) -> Option<Value> {
    let RuleMatch { comm, uid, exe, unit } = matches;
    match key {
        "comm" => comm.clone().map(Value::from),
        "uid" => uid.map(Value::from),
        "exe" => exe.clone().map(Value::from),
        "unit" => unit.clone().map(Value::from),
        _ => None,
    }
}

fn of_action(action: &ActionConfig, key: &str) -> Option<Value> {
    let ActionConfig {
        name,
        on,
        matches,
        any_user,
        certain,
        after,
        run,
        signal,
        systemd,
        timeout,
        retry,
        user,
        env,
        evidence,
    } = action;
    match key {
        "name" => Some(name.clone().into()),
        "on" => Some(on.iter().copied().map(trigger_value).collect::<Vec<_>>().into()),
        "match" => table(ACTION_KEYS, key, |key| of_action_match(matches, key)),
        "any-user" => Some((*any_user).into()),
        "certain" => Some((*certain).into()),
        "after" => (DURATION.value)(after),
        "run" => run.clone().map(Value::from),
        "signal" => signal.map(|signal| signal_name(signal).into()),
        "systemd" => systemd.map(|verb| verb.as_str().into()),
        "timeout" => (DURATION.value)(timeout),
        "retry" => table(ACTION_KEYS, key, |key| of_retry(retry, key)),
        "user" => user.map(|(uid, _)| uid.into()),
        "env" => {
            let variables = env.iter().map(|(name, value)| (name.clone(), value.clone().into()));
            Some(Value::Table(variables.collect()))
        }
        "evidence" => Some((*evidence).into()),
        _ => None,
    }
}

fn of_action_match(matches: &ActionMatch, key: &str) -> Option<Value> {
    let ActionMatch { comm, uid, exe, unit, cgroup } = matches;
    match key {
        "comm" => comm.clone().map(Value::from),
        "uid" => uid.map(Value::from),
        "exe" => exe.clone().map(Value::from),
        "unit" => unit.clone().map(Value::from),
        "cgroup" => cgroup.clone().map(Value::from),
        _ => None,
    }
}

fn of_retry(retry: &RetryConfig, key: &str) -> Option<Value> {
    let RetryConfig { first, factor_percent, max, tries, reset_after } = retry;
    match key {
        "first" => (DURATION.value)(first),
        "factor" => Some((f64::from(*factor_percent) / 100.0).into()),
        "max" => (DURATION.value)(max),
        "tries" => Some(u32::from(*tries).into()),
        "reset-after" => (DURATION.value)(reset_after),
        _ => None,
    }
}

fn of_brake(brake: &BrakeConfig, key: &str) -> Option<Value> {
    let BrakeConfig { running, starts, share, release, dry_run } = brake;
    let StartsConfig { count, per } = starts;
    let ShareConfig { percent, at_least, within } = share;
    match key {
        "running" => Some((*running).into()),
        "starts" => table(BRAKE_KEYS, key, |key| match key {
            "count" => Some((*count).into()),
            "per" => (DURATION.value)(per),
            _ => None,
        }),
        "share" => table(BRAKE_KEYS, key, |key| match key {
            "percent" => Some((*percent).into()),
            "at-least" => Some((*at_least).into()),
            "within" => (DURATION.value)(within),
            _ => None,
        }),
        "release" => release.as_ref().map_or(Some("manual".into()), DURATION.value),
        "dry-run" => Some((*dry_run).into()),
        _ => None,
    }
}

/// A file with every key, its meaning and its default. It sets nothing: each line is a comment.
#[must_use]
pub fn example() -> String {
    let mut file = HEADER.to_owned();
    let defaults = Config::default();
    for key in KEYS.iter().filter(|key| key.name == key.in_file) {
        let Some(setting) = &key.setting else { continue };
        let value = (setting.value)(&defaults).map(|value| value.to_string());
        let _ =
            write!(file, "\n# {}\n#{} = {}\n", about(key), key.name, value.as_deref().unwrap_or(key.example));
    }
    for (heading, keys) in TABLES.iter().filter(|(heading, _)| heading.starts_with('[')) {
        let help = Key::named(heading.trim_matches(['[', ']'])).filter(|key| !key.is_settable());
        let help = help.map(|key| format!("# {}\n", key.help)).unwrap_or_default();
        let _ = write!(file, "\n{help}#{heading}\n");
        for key in *keys {
            let _ = writeln!(file, "# {}", about(key));
            if key.within.is_empty() {
                let _ = writeln!(file, "#{} = {}", key.name, key.example);
            } else {
                let parts = key.within.iter().map(|key| format!("{} = {}", key.name, key.example));
                for key in key.within {
                    let _ = writeln!(file, "#   {}: {}", key.name, key.help);
                }
                let parts = parts.collect::<Vec<_>>().join(", ");
                let is_list = key.example.starts_with('[');
                let (open, close) = if is_list { ("[{", "}]") } else { ("{", "}") };
                let _ = writeln!(file, "#{} = {open} {parts} {close}", key.name);
            }
        }
    }
    file
}

/// The meaning of a key, with its default unless the line below is the default, and whether it is live.
fn about(key: &Key) -> String {
    let is_shown = key.example.trim_matches('"') == key.unwritten || key.unwritten.is_empty();
    key.help_with((!is_shown).then(|| key.unwritten.to_owned()))
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
