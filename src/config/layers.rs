//! Combines a file, the environment and flags into one [`Config`], and records the origin of each value.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::keys::{
    ACTION_KEYS, ACTION_MATCH_KEYS, BRAKE_KEYS, Config, HTTP_KEYS, KEYS, Key, MATCH_KEYS, METRICS_KEYS,
    NOTIFY_KEYS, PHASE_KEYS, PREFIX, RETRY_KEYS, RULE_KEYS, SHARD_KEYS, SHARE_KEYS, STARTS_KEYS,
};
use super::plan::Plan;
use super::problem::{ConfigError, ConfigProblem, Origin, ProblemKind};
use super::trust::{Distrust, config_file, judge_written};
use super::validate::default_dir;

/// A [`Config`] combined from layers, with the origin of each value.
///
/// Later layers win: read the file first, then set the environment's values, then the flags'. Values that
/// cannot be read are reported by [`plan`](Self::plan), with all other problems.
///
/// ```
/// use varta_fleet::config::{Layers, Origin};
///
/// let mut layers = Layers::default();
/// layers.toml("threshold = \"5s\"\ntick = \"20\"", "varta.toml".as_ref());
/// layers.set("dir", "/tmp/varta", Origin::Flag);
/// let error = layers.plan().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "cannot use tick = \"20\" (varta.toml line 2): 20 has no unit; write 20s or 20ms"
/// );
/// ```
#[derive(Clone, Debug, Default)]
pub struct Layers {
    pub(super) config: Config,
    written: BTreeMap<String, Written>,
    problems: Vec<ConfigProblem>,
    /// Keys whose values could not be read: problems that their defaults cause are not reported.
    unread: BTreeSet<String>,
}

/// What was written for a key.
#[derive(Clone, Debug)]
struct Written {
    origin: Origin,
    text: String,
}

impl Layers {
    /// Reads a TOML file. May block on the disk. [`Layers::plan`] reports its problems; one is that it says what is
    /// done about stalls, but others could have written it.
    pub fn file(&mut self, path: &Path) {
        let read = config_file(path).and_then(|(file, trust)| Ok((std::io::read_to_string(file)?, trust)));
        match read {
            Ok((text, trust)) => {
                self.toml(&text, path);
                self.problems.extend(trust.err().and_then(|distrust| self.may_not_act(&distrust)));
            }
            Err(error) => self.problems.push(unreadable_file(path, &error)),
        }
    }

    /// The problem that a file that is not trusted says what is done; `None`: it says nothing of that.
    fn may_not_act(&self, distrust: &Distrust) -> Option<ConfigProblem> {
        let key = ["action[0]", "brake"].into_iter().find(|key| self.written.contains_key(*key))?;
        let why = format!("this file may not say what is done: {}", distrust.why());
        let problem = ConfigProblem::refused(key, "", why, distrust.fix());
        Some(ConfigProblem { origin: Some(self.origin(key)), value: None, ..problem })
    }

    /// As [`file`](Self::file), but nothing if there is no such file.
    pub fn file_if_there(&mut self, path: &Path) {
        // A symlink that leads nowhere is there.
        let is_absent = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        if !path.symlink_metadata().is_err_and(is_absent) {
            self.file(path);
        }
    }

    /// Takes the text of a TOML file, as if read from `path`. Replaces what was set before.
    pub fn toml(&mut self, text: &str, path: &Path) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let reader = Reader { text, path };
        if !errors.is_empty() {
            // One mistake often causes several errors on its line: the first describes it best.
            let mut syntax: Vec<_> = errors.iter().map(|error| reader.syntax(error)).collect();
            syntax.dedup_by(|later, earlier| later.origin == earlier.origin);
            self.problems.extend(syntax);
            return;
        }
        let (span, mut table) = (root.span(), root.into_inner());
        let mut problems = Vec::new();
        reader.drop_unknown(&mut table, &TOP, "", &mut problems);
        self.unread.extend(problems.iter().map(|problem| problem.key.clone()));
        // Serde stops at the first value it cannot read: remove that value and try again.
        self.config = loop {
            let document = toml::Deserializer::from(Spanned::new(span.clone(), table.clone()));
            let error = match Config::deserialize(document) {
                Ok(config) => break config,
                Err(error) => error,
            };
            let Some(taken) = error.span().and_then(|span| take(&mut table, &TOP, "", &span)) else {
                problems.push(reader.syntax(&error));
                break Config::default();
            };
            self.unread.insert(taken.key.clone());
            // A field may be missing from a block only because it was just removed.
            let missing = missing_field(error.message()).map(|name| joined(&taken.key, name));
            if !missing.is_some_and(|key| self.unread.contains(&key)) {
                problems.push(reader.unreadable(taken, error.message()));
            }
        };
        reader.remember(&table, "", &mut self.written);
        problems.sort_by_key(|problem| match problem.origin {
            Some(Origin::File { line, .. }) => line,
            _ => 0,
        });
        self.problems.extend(problems);
    }

    /// Sets a key of [`KEYS`] to a value from the environment or a flag.
    pub fn set(&mut self, key: &str, text: &str, origin: Origin) {
        let known = Key::named(key);
        let setting = known.and_then(|known| known.setting.as_ref());
        let problem = match setting.map(|setting| (setting.set)(&mut self.config, text)) {
            Some(Ok(())) => None,
            Some(Err(refused)) => Some((ProblemKind::Unreadable, refused.why, refused.fix)),
            None => Some((ProblemKind::Unknown, "there is no such key".to_owned(), suggestion(key, &TOP))),
        };
        let key = known.map_or(key, |known| known.in_file);
        self.written.insert(key.to_owned(), Written { origin: origin.clone(), text: shortened(text) });
        let Some((kind, why, fix)) = problem else { return };
        self.unread.insert(key.to_owned());
        let value = Some(shortened(text));
        let origin = Some(origin);
        self.problems.push(ConfigProblem {
            key: key.to_owned(),
            value,
            origin,
            kind,
            why,
            fix,
            against: None,
        });
    }

    /// Checks an environment variable whose name begins with `VARTA_` and that belongs to no key of [`KEYS`].
    /// A misspelt key is a problem; any other variable is ignored, as it belongs to another program.
    pub fn unknown_variable(&mut self, name: &str, text: &str) {
        if name == CONFIG_VARIABLE {
            return;
        }
        let Some(fix) = meant(name) else { return };
        self.problems.push(ConfigProblem {
            key: name.to_owned(),
            value: Some(shortened(text)),
            origin: Some(Origin::Environment),
            kind: ProblemKind::Unknown,
            why: "there is no such variable".to_owned(),
            fix,
            against: None,
        });
    }

    /// The combined configuration. Keys whose values could not be read have their defaults.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Who wrote the value of this key.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.written.get(key).map_or(Origin::Default, |written| written.origin.clone())
    }

    /// Who wrote the value of the key with this full name in the file, in words: `--max-delay`,
    /// `VARTA_MAX_DELAY`, `varta.toml line 3`, `default`. The number of shards may follow from their blocks.
    #[must_use]
    pub fn origin_in_words(&self, name: &str) -> String {
        let top = name.split(['.', '[']).next().and_then(Key::named);
        let is_by_blocks = name == "shards" && !self.config.shard_blocks.is_empty();
        match (self.origin(if is_by_blocks { "shard" } else { name }), top) {
            (Origin::Flag, Some(key)) => format!("--{}", key.name),
            (Origin::Environment, Some(key)) => key.variable.to_owned(),
            (origin, _) => origin.to_string(),
        }
    }

    /// Validates and resolves the combined configuration, and checks the programs that it has run. May block on the
    /// disk.
    ///
    /// # Errors
    /// All problems in any layer and between layers, at once.
    pub fn plan(&self) -> Result<Plan, ConfigError> {
        let planned = self.config.plan();
        let refused = planned.as_ref().err().map(ConfigError::problems).unwrap_or_default();
        let refused = refused.iter().filter(|problem| !self.follows(problem)).cloned();
        let refused = refused.chain(judge_written(&self.config));
        let problems = self.problems.iter().cloned().chain(refused.map(|problem| self.located(problem)));
        ConfigError::check(problems.collect())?;
        planned
    }

    /// The runtime directory as written, or its default. No other key is checked: a client needs no more.
    ///
    /// # Errors
    /// All problems that leave the directory unknown.
    pub fn dir(&self) -> Result<PathBuf, ConfigError> {
        let hides_it = |problem: &&ConfigProblem| problem.key.is_empty() || problem.key == "dir";
        ConfigError::check(self.problems.iter().filter(hides_it).cloned().collect())?;
        match &self.config.dir {
            Some(dir) => Ok(dir.clone()),
            None => default_dir(),
        }
    }

    /// The configuration alone, not yet checked by [`Config::plan`].
    pub(super) fn into_config(self) -> Result<Config, ConfigError> {
        ConfigError::check(self.problems)?;
        Ok(self.config)
    }

    /// Whether a problem is only a consequence of a value that could not be read.
    fn follows(&self, problem: &ConfigProblem) -> bool {
        // For a block, only the block as a whole counts, not the keys in it.
        let concerns = |unread: &String, key: &str| match unread.strip_prefix(key) {
            Some(rest) => {
                rest.is_empty() || rest.starts_with('.') || (rest.starts_with('[') && rest.ends_with(']'))
            }
            None => false,
        };
        let unread = |key: &str| self.unread.iter().any(|unread| concerns(unread, key));
        unread(&problem.key) || problem.against.as_deref().is_some_and(unread)
    }

    /// The problem with its origin. A default is blamed only if the other key was not written either.
    fn located(&self, mut problem: ConfigProblem) -> ConfigProblem {
        let other = problem.against.as_ref().filter(|_| !self.written.contains_key(&problem.key));
        if let Some(other) = other.filter(|other| self.written.contains_key(*other)) {
            problem.key.clone_from(other);
        }
        match self.written.get(&problem.key) {
            Some(written) => {
                problem.value = Some(written.text.clone());
                problem.origin = Some(written.origin.clone());
            }
            None => problem.origin = Some(Origin::Default),
        }
        problem
    }
}

/// The keys of one kind of table, and the tables among them.
struct Level {
    head: &'static str,
    keys: &'static [Key],
    tables: &'static [(&'static str, &'static Level)],
}

static TOP: Level = Level {
    head: "the top of the file",
    keys: KEYS,
    tables: &[
        ("http", &HTTP),
        ("metrics", &METRICS),
        ("shard", &SHARD),
        ("notify", &NOTIFY),
        ("rule", &RULE),
        ("action", &ACTION),
        ("brake", &BRAKE),
    ],
};
static HTTP: Level = Level { head: "[http]", keys: HTTP_KEYS, tables: &[] };
static METRICS: Level = Level { head: "[metrics]", keys: METRICS_KEYS, tables: &[] };
static SHARD: Level = Level { head: "[[shard]]", keys: SHARD_KEYS, tables: &[] };
static NOTIFY: Level = Level { head: "[notify]", keys: NOTIFY_KEYS, tables: &[] };
static RULE: Level =
    Level { head: "[[rule]]", keys: RULE_KEYS, tables: &[("match", &MATCH), ("phase", &PHASE)] };
static PHASE: Level = Level { head: "[[rule.phase]]", keys: PHASE_KEYS, tables: &[] };
static MATCH: Level = Level { head: "match of [[rule]]", keys: MATCH_KEYS, tables: &[] };
static ACTION: Level =
    Level { head: "[[action]]", keys: ACTION_KEYS, tables: &[("match", &ACTION_MATCH), ("retry", &RETRY)] };
static ACTION_MATCH: Level = Level { head: "match of [[action]]", keys: ACTION_MATCH_KEYS, tables: &[] };
static RETRY: Level = Level { head: "retry of [[action]]", keys: RETRY_KEYS, tables: &[] };
static BRAKE: Level =
    Level { head: "[brake]", keys: BRAKE_KEYS, tables: &[("starts", &STARTS), ("share", &SHARE)] };
static STARTS: Level = Level { head: "starts of [brake]", keys: STARTS_KEYS, tables: &[] };
static SHARE: Level = Level { head: "share of [brake]", keys: SHARE_KEYS, tables: &[] };

impl Level {
    fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    fn below(&self, name: &str) -> Option<&'static Self> {
        self.tables.iter().find(|(table, _)| *table == name).map(|(_, level)| *level)
    }
}

/// A key or block that was removed from the tree because it cannot be read.
struct Taken {
    key: String,
    takes: &'static str,
    type_name: &'static str,
    name_span: Option<Range<usize>>,
    value_span: Range<usize>,
}

/// Removes the innermost key or block that an error at `span` is about.
fn take(table: &mut DeTable<'_>, level: &Level, prefix: &str, span: &Range<usize>) -> Option<Taken> {
    let covers = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let names: Vec<String> = table.keys().map(|name| name.get_ref().to_string()).collect();
    for name in names {
        let key = joined(prefix, &name);
        let below = level.below(&name);
        let value = table.get_mut(name.as_str())?;
        let value_span = value.span();
        let type_name = value.get_ref().type_str();
        match (value.get_mut(), below) {
            (DeValue::Table(inner), Some(below)) => {
                if let Some(taken) = take(inner, below, &key, span) {
                    return Some(taken);
                }
            }
            (DeValue::Array(blocks), Some(below)) if below.head.starts_with("[[") => {
                let mut hit = None;
                for (index, block) in blocks.iter_mut().enumerate() {
                    let key = format!("{key}[{index}]");
                    let value_span = block.span();
                    let type_name = block.get_ref().type_str();
                    let DeValue::Table(inner) = block.get_mut() else { continue };
                    if let Some(taken) = take(inner, below, &key, span) {
                        return Some(taken);
                    }
                    if covers(value_span.clone()) {
                        hit = Some((index, Taken { key, takes: "", type_name, name_span: None, value_span }));
                    }
                }
                if let Some((index, taken)) = hit {
                    let all = std::mem::replace(blocks, DeArray::new());
                    let others = (0..).zip(all).filter(|(other, _)| *other != index);
                    *blocks = others.map(|(_, block)| block).collect();
                    return Some(taken);
                }
            }
            _ => {}
        }
        let name_span = table.get_key_value(name.as_str())?.0.span();
        if covers(name_span.clone()) || covers(value_span.clone()) {
            table.remove(name.as_str());
            let takes = level.key(&name).map_or("something else", |key| key.takes);
            return Some(Taken { key, takes, type_name, name_span: Some(name_span), value_span });
        }
    }
    None
}

/// Finds the lines of one file's keys and values.
struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Reader<'_> {
    fn origin(&self, span: &Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        Origin::File { path: self.path.to_owned(), line: before.matches('\n').count() + 1 }
    }

    fn value(&self, span: &Range<usize>) -> String {
        shortened(self.text.get(span.clone()).unwrap_or_default())
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigProblem {
        let at = error.span().unwrap_or(0..0);
        ConfigProblem {
            origin: Some(self.origin(&at)),
            kind: ProblemKind::File,
            value: None,
            ..ConfigProblem::refused("", "", error.message().replace('\n', ", "), "correct the TOML there")
        }
    }

    fn unreadable(&self, taken: Taken, message: &str) -> ConfigProblem {
        let at = taken.name_span.as_ref().unwrap_or(&taken.value_span);
        let (why, fix) = if let Some(name) = missing_field(message) {
            let takes = RULE.key(name).or_else(|| PHASE.key(name)).map_or("something", |key| key.takes);
            (format!("it has no {name}"), format!("add {name}: {takes}"))
        } else if let Some(found) = message.strip_prefix("invalid type: ") {
            let article = |name: &str| if name.starts_with(['a', 'i']) { "an" } else { "a" };
            let is_within = match taken.type_name {
                // Serde also reads a table from a list of its values.
                "array" => !found.starts_with("sequence") && !taken.takes.starts_with("a table"),
                "table" => !found.starts_with("map"),
                _ => false,
            };
            let why = if is_within {
                let name = match found.split([' ', ',']).next().unwrap_or_default() {
                    "map" => "table",
                    "sequence" => "array",
                    name => name,
                };
                format!("it holds {} {name}", article(name))
            } else {
                format!("it is {} {}", article(taken.type_name), taken.type_name)
            };
            (why, format!("write {}", taken.takes))
        } else if let Some((why, fix)) = message.rsplit_once("; ") {
            (why.to_owned(), fix.to_owned())
        } else {
            ("there is no such value".to_owned(), format!("write {}", taken.takes))
        };
        ConfigProblem {
            origin: Some(self.origin(at)),
            kind: ProblemKind::Unreadable,
            value: taken.name_span.is_some().then(|| self.value(&taken.value_span)),
            ..ConfigProblem::refused(&taken.key, "", why, fix)
        }
    }

    /// Removes every unknown key from the tree and reports it.
    fn drop_unknown(
        &self,
        table: &mut DeTable<'_>,
        level: &Level,
        prefix: &str,
        problems: &mut Vec<ConfigProblem>,
    ) {
        let names: Vec<_> = table.keys().map(|name| (name.get_ref().to_string(), name.span())).collect();
        for (name, span) in names {
            let key = joined(prefix, &name);
            if level.key(&name).is_none() {
                table.remove(name.as_str());
                let within = if prefix.is_empty() { String::new() } else { format!(" in {}", level.head) };
                problems.push(ConfigProblem {
                    origin: Some(self.origin(&span)),
                    kind: ProblemKind::Unknown,
                    value: None,
                    ..ConfigProblem::refused(
                        &key,
                        "",
                        format!("there is no such key{within}"),
                        suggestion(&name, level),
                    )
                });
                continue;
            }
            match (table.get_mut(name.as_str()).map(Spanned::get_mut), level.below(&name)) {
                (Some(DeValue::Table(inner)), Some(below)) => self.drop_unknown(inner, below, &key, problems),
                (Some(DeValue::Array(blocks)), Some(below)) => {
                    for (index, block) in blocks.iter_mut().enumerate() {
                        if let DeValue::Table(inner) = block.get_mut() {
                            self.drop_unknown(inner, below, &format!("{key}[{index}]"), problems);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Records line and text of every key in the tree.
    fn remember(&self, table: &DeTable<'_>, prefix: &str, written: &mut BTreeMap<String, Written>) {
        for (name, value) in table.iter() {
            let key = joined(prefix, name.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => self.remember(inner, &key, written),
                DeValue::Array(blocks) => {
                    for (index, block) in blocks.iter().enumerate() {
                        if let DeValue::Table(inner) = block.get_ref() {
                            let key = format!("{key}[{index}]");
                            self.remember(inner, &key, written);
                            let (origin, text) = (self.origin(&block.span()), self.value(&block.span()));
                            written.insert(key, Written { origin, text });
                        }
                    }
                }
                _ => {}
            }
            let origin = self.origin(&name.span());
            written.insert(key, Written { origin, text: self.value(&value.span()) });
        }
    }
}

/// The name of the key that serde reports as missing.
fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
}

/// What to write instead of an unknown key.
fn suggestion(name: &str, level: &Level) -> String {
    if TOP.key(name).is_some() {
        return format!("{name} belongs at {}, before the first [[…]] block", TOP.head);
    }
    // The nearest first: several tables have keys of the same name.
    let below = level.tables.iter().map(|(_, below)| *below);
    let others = [&METRICS, &SHARD, &RULE, &MATCH, &ACTION, &RETRY, &BRAKE, &STARTS, &SHARE];
    let elsewhere = below.chain(others).find(|other| other.key(name).is_some());
    if let Some(other) = elsewhere {
        return format!("{name} belongs in {}", other.head);
    }
    let near = level.keys.iter().map(|key| (strsim::damerau_levenshtein(name, key.name), key.name)).min();
    match near {
        Some((distance, nearest)) if distance <= 1 + name.len() / 3 => format!("did you mean {nearest}?"),
        _ => {
            let names: Vec<_> = level.keys.iter().map(|key| key.name).collect();
            format!("the keys here are {}", names.join(", "))
        }
    }
}

/// The environment variable that names the file; it belongs to no key.
const CONFIG_VARIABLE: &str = "VARTA_CONFIG";

/// What to do instead of setting an unknown variable. `None`: it resembles no key.
fn meant(variable: &str) -> Option<String> {
    let key = variable.strip_prefix(PREFIX)?.to_lowercase().replace('_', "-");
    if key == "print-ready" {
        return Some(format!("write --{key} on the command line"));
    }
    // The keys of actions and of the brake are words that other programs name variables after, such as VARTA_ENV.
    let in_file = [&TOP, &HTTP, &METRICS, &SHARD, &NOTIFY, &RULE, &MATCH]
        .into_iter()
        .find(|level| level.key(&key).is_some());
    if let Some(level) = in_file {
        return Some(format!("{key} belongs in the file, at {}", level.head));
    }
    let of_keys = KEYS.iter().map(|key| key.variable).filter(|known| !known.is_empty());
    let variables = of_keys.chain([CONFIG_VARIABLE]);
    let near = variables.map(|known| (strsim::damerau_levenshtein(variable, known), known)).min();
    let (_, nearest) = near.filter(|(distance, _)| *distance <= 1 + key.len() / 3)?;
    Some(format!("did you mean {nearest}?"))
}

fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// The first line of a value, shortened for a message.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let line = text.trim().lines().next().unwrap_or_default();
    let mut short: String =
        line.chars().take(CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    short
}

fn unreadable_file(path: &Path, error: &std::io::Error) -> ConfigProblem {
    let (why, fix) = match error.kind() {
        std::io::ErrorKind::NotFound => ("there is no such file", "correct the path"),
        std::io::ErrorKind::PermissionDenied => ("permission denied", "let this user read it"),
        std::io::ErrorKind::IsADirectory => ("it is a directory", "name a file in it"),
        std::io::ErrorKind::InvalidData => ("it is not UTF-8 text", "save it as UTF-8"),
        _ => ("", "check the file"),
    };
    let why = if why.is_empty() { error.to_string() } else { why.to_owned() };
    let is_denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    ConfigProblem {
        origin: Some(Origin::File { path: path.to_owned(), line: 0 }),
        kind: if is_denied { ProblemKind::Denied } else { ProblemKind::File },
        value: None,
        ..ConfigProblem::refused("", "", why, fix)
    }
}

impl Config {
    /// Reads a TOML file. May block on the disk.
    ///
    /// # Errors
    /// All problems of syntax and form in the file, at once, with their lines. [`Config::plan`] checks the
    /// values against each other; [`Layers`] reports both together.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        layers.file(path);
        layers.into_config()
    }
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
