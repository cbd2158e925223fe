//! The keys of the file, one row each. For a key at the top of the file the row declares the field: default,
//! form, meaning and usable values. Fields of tables are in `tables.rs`.
//!
//! Fields, flags, variables, help, the manual, `check` and messages follow from the rows. [`Config::plan`]
//! checks the keys against each other and turns their values into what takes effect.

use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::bounds::{AGENTS_MAX, PID_MAX};
use super::tables::{HttpConfig, MetricsConfig, RuleConfig, ShardConfig};
use super::values::{
    ADDRESS, BOOL, DURATION, EVENTS_FORMAT, EventsFormat, Form, GROUP, LIMIT, LOG_FORMAT, LogFormat, MODE,
    OUTPUT, Output, PATH, Refused, SIZE, USER, duration, group, limit, number, octal, output, size,
    some_number,
};

/// One key of the file. A key with a setting is also a flag and an environment variable.
#[derive(Debug)]
#[non_exhaustive]
pub struct Key {
    /// As in the file: `max-delay`. The flag is `--max-delay`.
    pub name: &'static str,
    /// Its environment variable: `VARTA_MAX_DELAY`; empty if it has none.
    pub variable: &'static str,
    /// What it takes, for messages: `a duration, such as …`.
    pub takes: &'static str,
    /// What it takes, for help: `DURATION`.
    pub value_name: &'static str,
    /// What it means, for help; one line, without the default.
    pub help: &'static str,
    /// Its full name in the file, which differs where a flag sets a key of a table: `http.listen`.
    pub in_file: &'static str,
    /// What applies if the key is not written, where that is not a value. Empty: the default of the setting,
    /// if any.
    pub(super) unwritten: &'static str,
    /// A value as the file writes it, for keys whose default is not a value or says nothing. Empty: the
    /// default is example enough.
    pub(super) example: &'static str,
    /// Whether a reload changes it; if not, a restart does.
    pub is_live: bool,
    pub(super) setting: Option<Setting>,
}

/// What a flag or variable does with the field of its key.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) set: fn(&mut Config, &str) -> Result<(), Refused>,
    show: fn(&Config) -> String,
    pub(super) value: fn(&Config) -> Option<Value>,
    judge: fn(&Config) -> Result<(), Refused>,
}

impl Key {
    /// The key at the top of the file that has this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Whether it is also a flag and an environment variable, not only a key of the file.
    #[must_use]
    pub const fn is_settable(&self) -> bool {
        self.setting.is_some()
    }

    /// Its value as the operator would write it, without quotes; empty for a key of the file only.
    #[must_use]
    pub fn value_in(&self, config: &Config) -> String {
        self.setting.as_ref().map(|setting| (setting.show)(config)).unwrap_or_default()
    }

    /// What applies if the key is not written. Empty: it must be written, or has no effect if it is not.
    #[must_use]
    pub fn default_text(&self) -> String {
        if self.unwritten.is_empty() { self.value_in(&Config::default()) } else { self.unwritten.to_owned() }
    }

    /// What it means, with the default if there is one, and whether it is live: changed by a reload.
    #[must_use]
    pub fn help_with_default(&self) -> String {
        self.help_with(Some(self.default_text()).filter(|default| !default.is_empty()))
    }

    /// What it means, with this default, and whether it is live.
    pub(super) fn help_with(&self, default: Option<String>) -> String {
        let default = default.map(|default| format!("default: {default}"));
        let notes: Vec<String> = default.into_iter().chain(self.is_live.then(|| "live".to_owned())).collect();
        match notes.join(", ") {
            notes if notes.is_empty() => self.help.to_owned(),
            notes => format!("{} [{notes}]", self.help),
        }
    }

    /// Refuses its value if it cannot be used with any values of the other keys.
    pub(super) fn judge(&self, config: &Config) -> Result<(), Refused> {
        self.setting.as_ref().map_or(Ok(()), |setting| (setting.judge)(config))
    }

    /// A key of the file only. `unwritten`: what applies without it, or empty. `example`: a value as the file
    /// writes it.
    pub(super) const fn in_file(
        name: &'static str,
        takes: &'static str,
        help: &'static str,
        unwritten: &'static str,
        example: &'static str,
    ) -> Self {
        Self {
            name,
            variable: "",
            takes,
            value_name: "",
            help,
            in_file: name,
            unwritten,
            example,
            is_live: false,
            setting: None,
        }
    }

    /// The same key, which a reload changes.
    const fn live(mut self) -> Self {
        self.is_live = true;
        self
    }
}

/// The prefix of every key's environment variable.
pub(super) const PREFIX: &str = "VARTA_";

/// A field's name as the file spells it: `max-delay` of `max_delay`.
const fn in_kebab<const N: usize>(field: &str) -> [u8; N] {
    let mut text = [b'-'; N];
    let mut i = 0;
    while i < N {
        if field.as_bytes()[i] != b'_' {
            text[i] = field.as_bytes()[i];
        }
        i += 1;
    }
    text
}

/// The variable of a field: `VARTA_MAX_DELAY` of `max_delay`.
const fn in_capitals<const N: usize>(field: &str) -> [u8; N] {
    let mut text = [b'_'; N];
    let mut i = 0;
    while i < N {
        text[i] = match i.checked_sub(PREFIX.len()) {
            None => PREFIX.as_bytes()[i],
            Some(at) => field.as_bytes()[at].to_ascii_uppercase(),
        };
        i += 1;
    }
    text
}

const fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("names of fields are UTF-8"),
    }
}

/// Makes [`Config`], its default and [`KEYS`] from the rows. A row is a field with its default, the form of
/// its values and its help; `default` describes the default in words where it is not a value, `example` gives
/// one then. Rows of tables contain their key.
macro_rules! keys {
    (
        $(#[$about:meta])*
        $config:ident {
            $(
                $(#[$doc:meta])*
                $field:ident: $type:ty = $default:expr,
                    $form:expr,
                    $help:literal
                    $(, default $unwritten:literal, example $example:literal)?
                    $(, live = $live:literal)?;
            )*
        }
        tables {
            $($(#[$table_doc:meta])* $table:ident: $table_type:ty = $table_key:expr;)*
        }
    ) => {
        $(#[$about])*
        pub struct $config {
            $($(#[$doc])* pub $field: $type,)*
            $($(#[$table_doc])* pub $table: $table_type,)*
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $($field: $default,)* $($table: <$table_type>::default(),)* }
            }
        }

        /// Every key at the top of the file. Flags, variables, help and messages are made from this list.
        pub const KEYS: &[Key] = &[
            $({
                const FIELD: &str = stringify!($field);
                const NAME: &[u8] = &in_kebab::<{ FIELD.len() }>(FIELD);
                const VARIABLE: &[u8] = &in_capitals::<{ PREFIX.len() + FIELD.len() }>(FIELD);
                const FORM: &Form<$type> = &$form;
                Key {
                    name: text(NAME),
                    variable: text(VARIABLE),
                    takes: FORM.takes,
                    value_name: FORM.value_name,
                    help: $help,
                    in_file: text(NAME),
                    unwritten: concat!($($unwritten)?),
                    example: concat!($($example)?),
                    is_live: false $(|| $live)?,
                    setting: Some(Setting {
                        set: |config, text| (FORM.parse)(text).map(|value| config.$field = value),
                        show: |config| (FORM.show)(&config.$field),
                        value: |config| (FORM.value)(&config.$field),
                        judge: |config| FORM.judge(&config.$field, text(NAME)),
                    }),
                }
            },)*
            $($table_key,)*
        ];
    };
}

keys! {
    /// What the operator wrote. Fields that are not given hold their defaults.
    ///
    /// ```
    /// use std::time::Duration;
    /// use varta_fleet::config::{Config, RuleConfig, RuleMatch};
    ///
    /// let mut config = Config::default();
    /// config.dir = Some("/tmp/varta".into());
    /// config.shards = Some(2);
    /// config.threshold = Duration::from_millis(500);
    /// config.rules.push(RuleConfig::new(RuleMatch::comm("batch-*"), Duration::from_secs(30)));
    /// assert_eq!(config.plan()?.shards.len(), 2);
    /// # Ok::<(), varta_fleet::config::ConfigError>(())
    /// ```
    #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
    #[non_exhaustive]
    Config {
        /// Runtime directory. `None`: `/run/varta` for root, else `$XDG_RUNTIME_DIR/varta`.
        dir: Option<PathBuf> = None,
            PATH,
            "Runtime directory: sockets, lock and manifest",
            default "/run/varta, or $XDG_RUNTIME_DIR/varta when not root", example "\"/run/varta\"";
        /// Number of shards. `None`: as many as there are shard blocks, else half of the allowed cores.
        shards: Option<u32> = None,
            // The number of blocks matters, too: `Config::plan` checks both.
            some_number("a whole number from 1 to 64"),
            "Number of shards: threads, each with its own socket",
            default "half of the allowed cores", example "4";
        /// Silence that is a stall, for agents no rule matches.
        #[serde(deserialize_with = "duration")]
        threshold: Duration = Duration::from_secs(2),
            DURATION,
            "Silence that is a stall",
            live = true;
        /// Resolution of detection: judging delays the report of a stall by at most this much.
        #[serde(deserialize_with = "duration")]
        tick: Duration = Duration::from_millis(10),
            DURATION,
            "Resolution of detection";
        /// Longest coalescing sleep of a shard; zero wakes it for every datagram.
        #[serde(deserialize_with = "duration")]
        max_delay: Duration = Duration::from_millis(1),
            DURATION,
            "Longest coalescing sleep of a shard; 0 wakes it for every datagram",
            live = true;
        /// Permission bits of the shards' sockets: who may send. 0600, the default: the observer's own user
        /// and root.
        #[serde(deserialize_with = "octal")]
        mode: u32 = 0o600,
            MODE,
            "Permission bits of the shards' sockets: who may beat";
        /// Group of the shards' sockets, in the file also by name. `None`: the observer's own.
        #[serde(deserialize_with = "group")]
        group: Option<u32> = None,
            GROUP,
            "Group of the shards' sockets, by name or number",
            default "the observer's own", example "\"varta\"";
        /// Permission bits of `control.sock`: who may query the fleet.
        #[serde(deserialize_with = "octal")]
        control_mode: u32 = 0o600,
            MODE,
            "Permission bits of control.sock: who may query the fleet";
        /// Group of `control.sock`, in the file also by name. `None`: the observer's own.
        #[serde(deserialize_with = "group")]
        control_group: Option<u32> = None,
            GROUP,
            "Group of control.sock, by name or number",
            default "the observer's own", example "\"varta\"";
        /// Most agents tracked at once by the whole fleet; address space for them is reserved at start.
        agents_max: u32 = 131_072,
            number("a whole number from 1 to 4194304", |number| match number {
                0 => Some("a fleet of none"),
                1..=AGENTS_MAX => None,
                _ => Some("it is more than one fleet can track"),
            }),
            "Most agents tracked at once by the whole fleet";
        /// Most agents of one user. `None`: no limit but `agents_max`.
        #[serde(deserialize_with = "limit")]
        uid_agents_max: Option<u32> = None,
            LIMIT,
            "Most agents of one user, of the whole fleet's",
            live = true;
        /// Most datagrams of one user that one shard accepts in a second, and at once; crash reports pass.
        /// `None`: no limit.
        #[serde(deserialize_with = "limit")]
        uid_frames_max: Option<u32> = None,
            LIMIT,
            "Most datagrams a second of one user on one shard; crash reports pass",
            live = true;
        /// Most processes whose exit is reported within milliseconds; each takes a descriptor and about 1.4
        /// KiB of kernel memory. The exits of others are noticed at their threshold. The limit on open files
        /// applies, too.
        watched_max: u32 = 131_072,
            number("a whole number from 0 to 4194304", |number| match number {
                0..=PID_MAX => None,
                _ => Some("there cannot be so many processes"),
            }),
            "Most processes whose exit is reported at once, a descriptor each";
        /// Where events are written. `None`, `"none"` in the file: nowhere.
        #[serde(deserialize_with = "output")]
        events: Option<Output> = None,
            OUTPUT,
            "Write events to this file, - for standard output, none for nowhere",
            live = true;
        /// How events are written.
        events_format: EventsFormat = EventsFormat::Jsonl,
            EVENTS_FORMAT,
            "How events are written: jsonl, or tsv with the columns of varta-watch",
            live = true;
        /// Whether every accepted beat is written as an event, too.
        events_beats: bool = false,
            BOOL,
            "Write every accepted beat among the events";
        /// Size at which the file of events is renamed, bytes. `None`: never.
        #[serde(deserialize_with = "size")]
        events_max_bytes: Option<u64> = None,
            SIZE,
            "Size at which the file of events is renamed to PATH.1, such as 100MiB",
            live = true;
        /// How many renamed files are kept: `events.1`, the latest, to `events.N`.
        events_keep: u32 = 3,
            number("a whole number from 1 to 1000", |number| match number {
                1..=1000 => None,
                _ => Some("so many files cannot be kept beside the one that is written"),
            }),
            "Renamed files of events that are kept",
            live = true;
        /// How the program writes its own messages to standard error.
        log_format: LogFormat = LogFormat::Auto,
            LOG_FORMAT,
            "Form of messages: auto (for terminal, journal or file), plain, or json";
    }
    tables {
        /// Where HTTP requests are answered, `[http]`, beside `control.sock`.
        http: HttpConfig = Key {
            name: "http",
            variable: "VARTA_HTTP",
            takes: "a table, headed [http]",
            value_name: ADDRESS.value_name,
            help: "Serve metrics, status page and API here, too; none for control.sock only",
            in_file: "http.listen",
            unwritten: "",
            example: "",
            is_live: false,
            setting: Some(Setting {
                set: |config, text| (ADDRESS.parse)(text).map(|value| config.http.listen = value),
                show: |config| (ADDRESS.show)(&config.http.listen),
                value: |config| (ADDRESS.value)(&config.http.listen),
                judge: |config| ADDRESS.judge(&config.http.listen, "http.listen"),
            }),
        };
        /// What `/metrics` shows, `[metrics]`.
        metrics: MetricsConfig =
            Key::in_file("metrics", "a table, headed [metrics]", "What the metrics show", "", "");
        /// One block per shard, `[[shard]]`; empty: every shard has the defaults.
        #[serde(rename = "shard")]
        shard_blocks: Vec<ShardConfig> =
            Key::in_file("shard", "blocks, each headed [[shard]]", "One block for each shard, instead of shards", "", "");
        /// Classes of agents with their own threshold, `[[rule]]`; the first match wins.
        #[serde(rename = "rule")]
        rules: Vec<RuleConfig> = Key::in_file(
            "rule",
            "blocks, each headed [[rule]]",
            "Thresholds of classes of agents; the first match wins",
            "",
            "",
        )
        .live();
    }
}

/// The tables of the file by their headings, and the keys in each.
pub const TABLES: &[(&str, &[Key])] = &[
    ("[http]", HTTP_KEYS),
    ("[metrics]", METRICS_KEYS),
    ("[[shard]]", SHARD_KEYS),
    ("[[rule]]", RULE_KEYS),
    ("match of a [[rule]]", MATCH_KEYS),
];

pub(super) const HTTP_KEYS: &[Key] = &[
    Key::in_file(
        "listen",
        ADDRESS.takes,
        "Serve metrics, status page and API here, too; --http and VARTA_HTTP set it, too",
        "none",
        "\"127.0.0.1:9464\"",
    ),
    Key::in_file(
        "token-file",
        "a path in quotes, such as \"/etc/varta/token\"",
        "File, mode 0600, whose content TCP clients must send; any address but loopback needs it",
        "none",
        "\"/etc/varta/token\"",
    )
    .live(),
    Key::in_file(
        "metrics-agents-max",
        "a whole number from 0, for no such page, to 250000",
        "Most agents at /metrics/agents, a series each",
        "0",
        "0",
    ),
    Key::in_file(
        "dashboard",
        "a URL in quotes, such as \"https://grafana.example/d/varta-fleet\"",
        "URL of a dashboard, http or https, to which the page has a link",
        "none",
        "\"https://grafana.example/d/varta-fleet\"",
    )
    .live(),
];

pub(super) const METRICS_KEYS: &[Key] = &[Key::in_file(
    "units",
    "a list of patterns in quotes, such as [\"trading-*.service\", \"db.service\"]",
    "Units that get series of their own first; at most 256 units have them",
    "none",
    "[\"trading-*.service\", \"db.service\"]",
)
.live()];

pub(super) const SHARD_KEYS: &[Key] = &[
    Key::in_file(
        "socket",
        "a path in quotes, such as \"/run/varta/shard-0.sock\"",
        "Path of its socket; a relative one begins in the runtime directory",
        "shard-<i>.sock",
        "\"shard-0.sock\"",
    ),
    Key::in_file(
        "core",
        "the number of a core, \"auto\" or \"none\"",
        "Core its thread is pinned to; auto pins if more cores are allowed than there are shards",
        "auto",
        "\"auto\"",
    ),
    Key::in_file(
        "mode",
        MODE.takes,
        "Permission bits of its socket: who may beat",
        "mode at the top",
        "\"0660\"",
    ),
    Key::in_file("group", GROUP.takes, "Group of its socket", "group at the top", "\"varta\""),
    Key::in_file(
        "allow-uids",
        "a list of users, by number or name, such as [1000, \"batch\"]",
        "Users whose frames are accepted",
        "all whom mode lets in",
        "[1000, \"batch\"]",
    )
    .live(),
];

pub(super) const RULE_KEYS: &[Key] = &[
    Key::in_file(
        "match",
        "what to match, such as { comm = \"batch-*\" }",
        "Which agents it is for: all that it names must hold",
        "",
        "",
    )
    .live(),
    Key::in_file("threshold", DURATION.takes, "Silence that is a stall for them", "", "\"30s\"").live(),
];

pub(super) const MATCH_KEYS: &[Key] = &[
    Key::in_file(
        "comm",
        "a pattern in quotes, such as \"batch-*\"",
        "Name of the process, /proc/PID/comm: 15 bytes, and chosen by the process itself",
        "",
        "\"batch-*\"",
    )
    .live(),
    Key::in_file("uid", USER, "User of the process", "", "\"batch\"").live(),
    Key::in_file(
        "exe",
        "a pattern in quotes, such as \"/opt/batch/*\"",
        "Absolute path of the program, /proc/PID/exe",
        "",
        "\"/opt/batch/*\"",
    )
    .live(),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_list_is_a_key_of_the_file() {
        for (keys, head) in [(KEYS, ""), (SHARD_KEYS, "[[shard]]"), (RULE_KEYS, "[[rule]]")] {
            for key in keys {
                // A value of the wrong type everywhere: serde must know the key, whatever it makes of the
                // value.
                let text = format!("{head}\n{} = 1979-05-27", key.name);
                let error = toml::from_str::<Config>(&text).unwrap_err().to_string();
                assert!(!error.contains(&format!("unknown field `{}`", key.name)), "{error}");
            }
        }
        for (known, head) in [("dir", ""), ("socket", "[[shard]]\n"), ("match", "[[rule]]\n")] {
            let error = toml::from_str::<Config>(&format!("{head}{known}x = 1")).unwrap_err().to_string();
            let keys = [KEYS, SHARD_KEYS, RULE_KEYS]
                .into_iter()
                .find(|keys| keys.iter().any(|key| key.name == known));
            let told = error.split("expected").nth(1).unwrap().matches('`').count() / 2;
            assert_eq!(told, keys.unwrap().len(), "serde knows other keys than the list: {error}");
        }
    }

    #[test]
    fn a_key_is_called_the_same_everywhere() {
        let delay = Key::named("max-delay").unwrap();
        assert_eq!((delay.variable, delay.in_file), ("VARTA_MAX_DELAY", "max-delay"));
        for key in KEYS.iter().filter(|key| key.is_settable()) {
            let variable = format!("VARTA_{}", key.name.to_uppercase().replace('-', "_"));
            assert_eq!(key.variable, variable);
        }
    }

    #[test]
    fn defaults_are_read_back_as_they_are_shown_by_flag_and_by_file() {
        let mut by_flag = Config::default();
        let mut file = String::new();
        for key in KEYS {
            // A default that is not a value is described in words.
            let (Some(setting), "") = (&key.setting, key.unwritten) else { continue };
            let text = key.default_text();
            (setting.set)(&mut by_flag, &text).unwrap();
            let is_bare = !text.starts_with("06") && (text.parse::<u32>().is_ok() || text == "false");
            let written = if is_bare { text } else { format!("\"{text}\"") };
            file += &format!("{} = {written}\n", key.in_file);
        }
        assert_eq!(by_flag, Config::default());
        assert_eq!(toml::from_str::<Config>(&file).unwrap(), Config::default(), "{file}");
        let unwritten = KEYS.iter().filter(|key| !key.unwritten.is_empty()).map(|key| key.name);
        assert_eq!(unwritten.collect::<Vec<_>>(), ["dir", "shards", "group", "control-group"]);
    }

    #[test]
    fn the_bounds_that_a_number_takes_are_those_it_keeps() {
        let is_refused = |key: &Key, number: u64| {
            let mut config = Config { dir: Some("/tmp/varta".into()), ..Config::default() };
            (key.setting.as_ref().unwrap().set)(&mut config, &number.to_string()).unwrap();
            let problems = config.plan().err().map(|error| error.problems().to_vec()).unwrap_or_default();
            problems.iter().any(|problem| problem.key == key.name)
        };
        let mut judged = 0;
        for key in KEYS {
            let Some(bounds) = key.takes.strip_prefix("a whole number from ") else { continue };
            let (least, most) = match bounds.split_once(" to ") {
                Some((least, most)) => (least, most.parse::<u64>().unwrap()),
                None => (bounds.trim_end_matches(", or \"none\""), u64::from(u32::MAX)),
            };
            let least = least.parse::<u64>().unwrap();
            let beyond =
                least.checked_sub(1).into_iter().chain(Some(most + 1)).filter(|n| *n <= u32::MAX.into());
            for number in beyond {
                assert!(is_refused(key, number), "{}: {number}", key.name);
            }
            assert!(!is_refused(key, least) && !is_refused(key, most), "{}", key.name);
            judged += 1;
        }
        assert_eq!(judged, 6);
    }
}
