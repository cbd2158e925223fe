//! The keys of the file, one row each. For a key at the top of the file the row declares the field: default,
//! form, meaning and usable values. Fields of tables are in `tables.rs`.
//!
//! Fields, flags, variables, help, the manual, `check` and messages follow from the rows. [`Config::plan`]
//! checks the keys against each other and turns their values into what takes effect.

use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::bounds::{AGENTS_MAX, PID_MAX};
use super::tables::{
    ActionConfig, BrakeConfig, HttpConfig, MetricsConfig, NotifyConfig, RuleConfig, ShardConfig,
};
use super::triggers::TRIGGERS;
use super::values::{
    ADDRESS, BOOL, DURATION, EVENTS_FORMAT, EventsFormat, FACTOR, FILE, Form, GROUP, LIMIT, LOG_FORMAT,
    LogFormat, MODE, OUTPUT, Output, PATH, RELEASE, Refused, SIGNAL, SIZE, USER, WRITERS, duration, file,
    group, limit, number, octal, output, size, some_number, users,
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
    /// The keys of the table that it takes, if it takes one on its line.
    pub(super) within: &'static [Self],
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
            within: &[],
            setting: None,
        }
    }

    /// The same key, which takes a table of these.
    const fn with(mut self, keys: &'static [Self]) -> Self {
        self.within = keys;
        self
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
                    within: &[],
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
        /// Users who may hold, brake and start actions through `control.sock`, beside root and the observer's own; in the
        /// file also by name. `None`: no others.
        #[serde(deserialize_with = "users")]
        control_writers: Option<Vec<u32>> = None,
            WRITERS,
            "Users who may also use act hold, unhold, brake and now, by name or number; the socket's mode must let them in",
            default "root and the observer's own", example "[\"deploy\"]",
            live = true;
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
        /// File that every step of an action is written to. `None`, `"none"` in the file: nowhere.
        #[serde(deserialize_with = "file")]
        audit: Option<PathBuf> = None,
            FILE,
            "Write every step of an action to this file, too, or none";
        /// Whether the audit file is synced to the disk after each line.
        audit_sync: bool = false,
            BOOL,
            "Sync the audit file to the disk after each line";
        /// Directory of the files with what was found about processes before something was done to them. `None`:
        /// `evidence` in the runtime directory.
        evidence_dir: Option<PathBuf> = None,
            PATH,
            "Directory of what was found about processes before an action",
            default "evidence in dir", example "\"/var/lib/varta-fleet/evidence\"";
        /// Socket of a spawner that runs as a service of its own. `None`, `"none"` in the file: the observer starts
        /// one.
        #[serde(deserialize_with = "file")]
        spawner: Option<PathBuf> = None,
            FILE,
            "Socket of the service that starts the children of actions; none starts one";
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
            within: &[],
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
        /// Sockets for daemons, `[notify]`. `None`: there are none.
        notify: Option<NotifyConfig> = Key::in_file(
            "notify",
            "a table, headed [notify]",
            "Sockets for daemons that speak sd_notify; without this heading there are none",
            "",
            "",
        );
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
        /// What is done about stalls, `[[action]]`; the first match wins.
        #[serde(rename = "action")]
        actions: Vec<ActionConfig> = Key::in_file(
            "action",
            "blocks, each headed [[action]]",
            "What is done about a stall or an exit; the first match wins. The file must be writable by its owner alone",
            "",
            "",
        )
        .live();
        /// What holds actions back, `[brake]`.
        brake: BrakeConfig = Key::in_file(
            "brake",
            "a table, headed [brake]",
            "What holds all actions back",
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
    ("[notify]", NOTIFY_KEYS),
    ("[[rule]]", RULE_KEYS),
    ("match of a [[rule]]", MATCH_KEYS),
    ("phase of a [[rule]]", PHASE_KEYS),
    ("[[action]]", ACTION_KEYS),
    ("match of an [[action]]", ACTION_MATCH_KEYS),
    ("retry of an [[action]]", RETRY_KEYS),
    ("[brake]", BRAKE_KEYS),
    ("starts of [brake]", STARTS_KEYS),
    ("share of [brake]", SHARE_KEYS),
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

pub(super) const NOTIFY_KEYS: &[Key] = &[
    Key::in_file(
        "socket",
        "a path in quotes, such as \"/run/varta/notify.sock\"",
        "Path of the socket that daemons get as NOTIFY_SOCKET; a relative one begins in the runtime directory",
        "notify.sock",
        "\"notify.sock\"",
    ),
    Key::in_file(
        "sockets",
        "a whole number from 1 to 16",
        "Sockets, each with a shard of its own; the others lie beside the first: notify-1.sock",
        "1",
        "1",
    ),
    Key::in_file(
        "mode",
        MODE.takes,
        "Permission bits of the sockets: who may send",
        "mode at the top",
        "\"0660\"",
    ),
    Key::in_file("group", GROUP.takes, "Group of the sockets", "group at the top", "\"varta\""),
    Key::in_file(
        "allow-uids",
        "a list of users, by number or name, such as [1000, \"batch\"]",
        "Users whose messages are accepted",
        "all whom mode lets in",
        "[1000, \"batch\"]",
    ),
    Key::in_file(
        "threshold-min",
        DURATION.takes,
        "The shortest threshold that a daemon gets by asking for it",
        "100ms",
        "\"100ms\"",
    ),
    Key::in_file(
        "threshold-max",
        DURATION.takes,
        "The longest, also for a daemon whose threshold is not known; no daemon can ask for more time",
        "1h",
        "\"1h\"",
    ),
    Key::in_file(
        "stop-threshold",
        DURATION.takes,
        "A daemon that has said that it stops, and has not ended after so long, is stalled",
        "1m30s",
        "\"1m30s\"",
    ),
];

pub(super) const RULE_KEYS: &[Key] = &[
    Key::in_file(
        "match",
        "what to match, such as { comm = \"batch-*\" }",
        "Which agents it is for: all that it names must hold",
        "",
        "",
    )
    .with(MATCH_KEYS)
    .live(),
    Key::in_file("threshold", DURATION.takes, "Silence that is a stall for them", "", "\"30s\"").live(),
    Key::in_file(
        "start-threshold",
        DURATION.takes,
        "The same while they start: from their first beat until their first status ok",
        "threshold",
        "\"2m\"",
    )
    .live(),
    Key::in_file(
        "start-beats",
        "a whole number from 1 to 100000",
        "Their start is over with so many beats, whatever their status",
        "with the first status ok",
        "20",
    )
    .live(),
    Key::in_file(
        "phase",
        "a list of phases, such as [{ payload = [1000, 1999], threshold = \"10m\" }]",
        "Silence that is a stall for them while their payload is from the first to the second number",
        "",
        "[{ payload = [1000, 1999], threshold = \"10m\" }]",
    )
    .with(PHASE_KEYS)
    .live(),
    Key::in_file(
        "progress",
        "\"payload\" or \"status\"",
        "What shows that they advance: their payload, or the status line of daemons. Without it, they need not",
        "",
        "\"payload\"",
    )
    .live(),
    Key::in_file(
        "progress-threshold",
        DURATION.takes,
        "How long they may beat with the same payload or status line: then they are at a standstill",
        "1m",
        "\"1m\"",
    )
    .live(),
    Key::in_file("idle-payload", "a whole number", "Their payload while they have nothing to do", "", "0")
        .live(),
    Key::in_file(
        "idle-status",
        "\"ok\", \"degraded\" or \"critical\"",
        "Their status while they have nothing to do",
        "",
        "\"degraded\"",
    )
    .live(),
];

pub(super) const PHASE_KEYS: &[Key] = &[
    Key::in_file(
        "payload",
        "two whole numbers, such as [1000, 1999]",
        "The least and the largest payload in the phase",
        "",
        "[1000, 1999]",
    )
    .live(),
    Key::in_file("threshold", DURATION.takes, "Silence that is a stall in the phase", "", "\"10m\"").live(),
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
    Key::in_file(
        "unit",
        "a pattern in quotes, such as \"batch@*.service\"",
        "Unit of the process: the last .service or .scope in the path of its control group",
        "",
        "\"batch@*.service\"",
    )
    .live(),
];

const COUNT: &str = "a whole number from 1 to 1000";

pub(super) const ACTION_KEYS: &[Key] = &[
    Key::in_file(
        "name",
        "1 to 19 letters, digits, - and _, in quotes",
        "Its name in events",
        "",
        "\"restart-worker\"",
    )
    .live(),
    Key::in_file(
        "on",
        TRIGGERS,
        "What starts it; an exit may be narrowed to a code or signal",
        "",
        "[\"stall\"]",
    )
    .live(),
    Key::in_file(
        "match",
        "what to match, such as { unit = \"worker@*.service\" }",
        "Which processes it is for: all that it names must hold, and uid, exe or unit must be among it",
        "",
        "",
    )
    .with(ACTION_MATCH_KEYS)
    .live(),
    Key::in_file(
        "any-user",
        BOOL.takes,
        "Allow a match that says neither uid, exe nor unit: anybody can give a process any name",
        "false",
        "false",
    )
    .live(),
    Key::in_file("certain", BOOL.takes, "An uncertain stall does not start it", "true", "true").live(),
    Key::in_file(
        "after",
        DURATION.takes,
        "How long the trigger must last; a resume or exit meanwhile cancels it",
        "5s",
        "\"5s\"",
    )
    .live(),
    Key::in_file(
        "run",
        "the absolute path of a program and its arguments, each in quotes, in brackets",
        "Run this program, without a shell; in arguments {pid}, {unit} and others stand for values",
        "none",
        "[\"/usr/local/sbin/restart-worker\", \"--pid\", \"{pid}\", \"--unit\", \"{unit}\"]",
    )
    .live(),
    Key::in_file("signal", SIGNAL, "Instead of run: send this signal to the process", "none", "\"SIGABRT\"")
        .live(),
    Key::in_file(
        "systemd",
        "\"restart\", \"kill\" or \"stop\"",
        "Instead of run: have systemd do this to the unit of the process, which match must name",
        "none",
        "\"restart\"",
    )
    .live(),
    Key::in_file(
        "timeout",
        DURATION.takes,
        "How long it may take; then its process group gets SIGTERM, and 5 s later SIGKILL",
        "30s",
        "\"30s\"",
    )
    .live(),
    Key::in_file(
        "retry",
        "what to say of attempts, such as { first = \"10s\", tries = 5 }",
        "How it is repeated for the same agent, and for the same unit or name",
        "",
        "",
    )
    .with(RETRY_KEYS)
    .live(),
    Key::in_file(
        "user",
        USER,
        "User, with its group, that the program runs as; any but the spawner's own needs root",
        "that of the spawner",
        "\"batch\"",
    )
    .live(),
    Key::in_file(
        "env",
        "names and texts, such as { PATH = \"/usr/bin:/bin\" }",
        "The whole environment of the program",
        "{}",
        "{ PATH = \"/usr/bin:/bin\" }",
    )
    .live(),
    Key::in_file(
        "evidence",
        BOOL.takes,
        "Collect before what the kernel knows of the process, for at most 0.5 s",
        "true",
        "true",
    )
    .live(),
];

pub(super) const ACTION_MATCH_KEYS: &[Key] = &[
    Key::in_file(
        "comm",
        "a pattern in quotes, such as \"worker-*\"",
        "Name of the process, /proc/PID/comm: 15 bytes, and chosen by the process itself",
        "",
        "\"worker-*\"",
    )
    .live(),
    Key::in_file("uid", USER, "User of the process", "", "\"batch\"").live(),
    Key::in_file(
        "exe",
        "a pattern in quotes, such as \"/opt/worker/*\"",
        "Absolute path of the program, /proc/PID/exe",
        "",
        "\"/opt/worker/*\"",
    )
    .live(),
    Key::in_file(
        "unit",
        "a pattern in quotes, such as \"worker@*.service\"",
        "Unit of the process, as the service manager of the system says",
        "",
        "\"worker@*.service\"",
    )
    .live(),
    Key::in_file(
        "cgroup",
        "a pattern in quotes, such as \"/kubepods.slice/*\"",
        "Path of its control group, as in /proc/PID/cgroup; whoever was given a group names those below",
        "",
        "\"/system.slice/*\"",
    )
    .live(),
];

pub(super) const RETRY_KEYS: &[Key] = &[
    Key::in_file("first", DURATION.takes, "From one attempt to the second", "10s", "\"10s\"").live(),
    Key::in_file("factor", FACTOR, "Each further wait is so many times longer", "2.0", "2.0").live(),
    Key::in_file("max", DURATION.takes, "The longest wait", "10m", "\"10m\"").live(),
    Key::in_file("tries", COUNT, "Attempts; then it is refused", "5", "5").live(),
    Key::in_file(
        "reset-after",
        DURATION.takes,
        "After so long without an attempt, the first comes again; longer than max",
        "1h",
        "\"1h\"",
    )
    .live(),
];

pub(super) const BRAKE_KEYS: &[Key] = &[
    Key::in_file("running", COUNT, "Children that may run at once, of all actions together", "8", "8").live(),
    Key::in_file(
        "starts",
        "a number and a time, such as { count = 20, per = \"1m\" }",
        "Starts that are allowed; more wait",
        "",
        "",
    )
    .with(STARTS_KEYS)
    .live(),
    Key::in_file(
        "share",
        "what is one incident, such as { percent = 20, at-least = 5, within = \"10s\" }",
        "If more than this share of the fleet stalls at once, nothing is started; so for each user and unit, too",
        "",
        "",
    )
    .with(SHARE_KEYS)
    .live(),
    Key::in_file(
        "release",
        RELEASE,
        "Released once no agent stalled for so long; manual waits for act brake release",
        "1m",
        "\"1m\"",
    )
    .live(),
    Key::in_file("dry-run", BOOL.takes, "Start nothing, only report what would be", "false", "false").live(),
];

pub(super) const STARTS_KEYS: &[Key] = &[
    Key::in_file("count", "a whole number from 1 to 10000", "So many", "20", "20").live(),
    Key::in_file("per", DURATION.takes, "In each period of this length", "1m", "\"1m\"").live(),
];

pub(super) const SHARE_KEYS: &[Key] = &[
    Key::in_file(
        "percent",
        "a whole number from 1 to 100",
        "More than so many percent; 100 is never exceeded",
        "20",
        "20",
    )
    .live(),
    Key::in_file("at-least", "a whole number from 1 to 4194304", "But at least so many agents", "5", "5")
        .live(),
    Key::in_file("within", DURATION.takes, "At once means within this time", "10s", "\"10s\"").live(),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_list_is_a_key_of_the_file() {
        let tables = [
            (KEYS, ""),
            (SHARD_KEYS, "[[shard]]"),
            (NOTIFY_KEYS, "[notify]"),
            (RULE_KEYS, "[[rule]]"),
            (PHASE_KEYS, "[[rule.phase]]"),
            (ACTION_KEYS, "[[action]]"),
            (ACTION_MATCH_KEYS, "[action.match]"),
            (RETRY_KEYS, "[action.retry]"),
            (BRAKE_KEYS, "[brake]"),
            (STARTS_KEYS, "[brake.starts]"),
            (SHARE_KEYS, "[brake.share]"),
        ];
        for (keys, head) in tables {
            for key in keys {
                // A value of the wrong type everywhere: serde must know the key, whatever it makes of the
                // value.
                let block = block_before(head);
                let value = if key.name == "env" { "7" } else { "1979-05-27" };
                let text = format!("{block}{head}\n{} = {value}", key.name);
                let error = toml::from_str::<Config>(&text).unwrap_err().to_string();
                assert!(!error.contains(&format!("unknown field `{}`", key.name)), "{error}");
            }
        }
        for (keys, head) in tables {
            let block = block_before(head);
            let error = toml::from_str::<Config>(&format!("{block}{head}\nx = 1")).unwrap_err().to_string();
            let told = error.split("expected").nth(1).unwrap().matches('`').count() / 2;
            assert_eq!(told, keys.len(), "serde knows other keys than the list: {error}");
        }
    }

    /// The block that a table is in needs a heading before it.
    fn block_before(head: &str) -> &'static str {
        match head {
            _ if head.starts_with("[action.") => "[[action]]\n",
            "[[rule.phase]]" => "[[rule]]\n",
            _ => "",
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
        assert_eq!(
            unwritten.collect::<Vec<_>>(),
            ["dir", "shards", "group", "control-group", "control-writers", "evidence-dir"]
        );
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
