//! A configuration as the text of a file: what is in effect, with the origin of each line, or an example of
//! every key.

use std::fmt::Write as _;

use toml::Value;

use super::keys::{Config, HTTP_KEYS, KEYS, Key, MATCH_KEYS, METRICS_KEYS, RULE_KEYS, SHARD_KEYS};
use super::layers::Layers;
use super::problem::ConfigError;
use super::tables::{HttpConfig, MetricsConfig, RuleConfig, RuleMatch, ShardConfig};
use super::values::{ADDRESS, CoreChoice, DURATION, GROUP, MODE, PATH};

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
    for (i, rule) in config.rules.iter().enumerate() {
        lines.push(Line::Heading("[[rule]]"));
        lines.extend(of_table(&format!("rule[{i}]"), RULE_KEYS, |key| of_rule(rule, key)));
    }
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

fn of_rule(rule: &RuleConfig, key: &str) -> Option<Value> {
    let RuleConfig { matches, threshold } = rule;
    match key {
        "match" => {
            let asked =
                MATCH_KEYS.iter().filter_map(|key| Some((key.name.to_owned(), of_match(matches, key.name)?)));
            Some(Value::Table(asked.collect()))
        }
        "threshold" => (DURATION.value)(threshold),
        _ => None,
    }
}

fn of_match(matches: &RuleMatch, key: &str) -> Option<Value> {
    let RuleMatch { comm, uid, exe } = matches;
    match key {
        "comm" => comm.clone().map(Value::from),
        "uid" => uid.map(Value::from),
        "exe" => exe.clone().map(Value::from),
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
    for (heading, keys) in [
        ("[http]", HTTP_KEYS),
        ("[metrics]", METRICS_KEYS),
        ("[[shard]]", SHARD_KEYS),
        ("[[rule]]", RULE_KEYS),
    ] {
        let help = Key::named(heading.trim_matches(['[', ']'])).filter(|key| !key.is_settable());
        let help = help.map(|key| format!("# {}\n", key.help)).unwrap_or_default();
        let _ = write!(file, "\n{help}#{heading}\n");
        for key in keys {
            let _ = writeln!(file, "# {}", about(key));
            if key.name == "match" {
                let parts = MATCH_KEYS.iter().map(|key| format!("{} = {}", key.name, key.example));
                MATCH_KEYS.iter().for_each(|key| {
                    let _ = writeln!(file, "#   {}: {}", key.name, key.help);
                });
                let _ = writeln!(file, "#match = {{ {} }}", parts.collect::<Vec<_>>().join(", "));
            } else {
                let _ = writeln!(file, "#{} = {}", key.name, key.example);
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
