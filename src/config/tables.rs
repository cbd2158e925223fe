//! What the operator wrote: the fields of the file, with their defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::values::{
    CoreChoice, EventsFormat, Output, address, duration, group, limit, octal, output, size, some_octal, user,
    users,
};

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
pub struct Config {
    /// Runtime directory. `None`: `/run/varta` for root, else `$XDG_RUNTIME_DIR/varta`.
    pub dir: Option<PathBuf>,
    /// Number of shards. `None`: as many as there are shard blocks, else half of the allowed cores.
    pub shards: Option<u32>,
    /// Silence that is a stall, for agents no rule matches.
    #[serde(deserialize_with = "duration")]
    pub threshold: Duration,
    /// Resolution of detection: judging adds at most this much to how late a stall is told.
    #[serde(deserialize_with = "duration")]
    pub tick: Duration,
    /// Longest coalescing sleep of a shard; zero wakes it for every datagram.
    #[serde(deserialize_with = "duration")]
    pub max_delay: Duration,
    /// Permission bits of the shards' sockets: who may send. 0600, the default: the observer's own user and root.
    #[serde(deserialize_with = "octal")]
    pub mode: u32,
    /// Group of the shards' sockets, in the file also by name. `None`: the observer's own.
    #[serde(deserialize_with = "group")]
    pub group: Option<u32>,
    /// Permission bits of `control.sock`: who may ask.
    #[serde(deserialize_with = "octal")]
    pub control_mode: u32,
    /// Group of `control.sock`, in the file also by name. `None`: the observer's own.
    #[serde(deserialize_with = "group")]
    pub control_group: Option<u32>,
    /// Most agents tracked at once by the whole fleet; address space for them is reserved at start.
    pub agents_max: u32,
    /// Most of them of one user. `None`: as many as there is room for.
    #[serde(deserialize_with = "limit")]
    pub uid_agents_max: Option<u32>,
    /// Most datagrams of one user that one shard takes in a second, and at once; crash reports pass. `None`: any
    /// number.
    #[serde(deserialize_with = "limit")]
    pub uid_frames_max: Option<u32>,
    /// Most processes whose exit is told within milliseconds; each takes a descriptor and about 1.4 KiB of
    /// kernel memory. Of others it is noticed at their threshold. The limit on open files bounds it, too.
    pub watched_max: u32,
    /// Where events are written. `None`, `"none"` in the file: nowhere.
    #[serde(deserialize_with = "output")]
    pub events: Option<Output>,
    /// How events are written.
    pub events_format: EventsFormat,
    /// Whether every accepted beat is written among the events.
    pub events_beats: bool,
    /// Size at which a file of events is renamed away, bytes. `None`: never.
    #[serde(deserialize_with = "size")]
    pub events_max_bytes: Option<u64>,
    /// How many such files are kept: `events.1`, the latest, to `events.N`.
    pub events_keep: u32,
    /// Where questions are answered, `[http]`, beside `control.sock`.
    pub http: HttpConfig,
    /// One block per shard, `[[shard]]`; empty: every shard has the defaults.
    #[serde(rename = "shard")]
    pub shard_blocks: Vec<ShardConfig>,
    /// Classes of agents with their own threshold, `[[rule]]`; the first match wins.
    #[serde(rename = "rule")]
    pub rules: Vec<RuleConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: None,
            shards: None,
            threshold: Duration::from_secs(2),
            tick: Duration::from_millis(10),
            max_delay: Duration::from_millis(1),
            mode: 0o600,
            group: None,
            control_mode: 0o600,
            control_group: None,
            agents_max: 131_072,
            uid_agents_max: None,
            uid_frames_max: None,
            watched_max: 131_072,
            events: None,
            events_format: EventsFormat::default(),
            events_beats: false,
            events_max_bytes: None,
            events_keep: 3,
            http: HttpConfig::default(),
            shard_blocks: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// The `[http]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Address and port of a TCP listener; port 0: any that is free. `None`, `"none"` in the file: none. One that others than this
    /// host reach needs a token.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
    /// File with the token, one line, that clients must send by TCP. `None`: anybody on this host may ask.
    pub token_file: Option<PathBuf>,
    /// Most agents shown by `/metrics/agents`, a series each; 0: there is no such page.
    pub metrics_agents_max: u32,
}

/// One `[[shard]]` block.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ShardConfig {
    /// Path of its socket; a relative one starts in the runtime directory. `None`: `shard-<i>.sock`.
    pub socket: Option<PathBuf>,
    /// Core its thread is pinned to.
    pub core: CoreChoice,
    /// Permission bits of its socket: who may send. `None`: [`Config::mode`].
    #[serde(deserialize_with = "some_octal")]
    pub mode: Option<u32>,
    /// Group of its socket, in the file also by name. `None`: [`Config::group`].
    #[serde(deserialize_with = "group")]
    pub group: Option<u32>,
    /// User ids whose frames are accepted, in the file also by name. `None`: all that `mode` lets in.
    #[serde(deserialize_with = "users")]
    pub allow_uids: Option<Vec<u32>>,
}

/// One `[[rule]]` block.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct RuleConfig {
    /// Which agents it is for.
    #[serde(rename = "match")]
    pub matches: RuleMatch,
    /// Silence that is a stall for them.
    #[serde(deserialize_with = "duration")]
    pub threshold: Duration,
}

impl RuleConfig {
    /// A rule that gives `threshold` to the agents it matches.
    #[must_use]
    pub const fn new(matches: RuleMatch, threshold: Duration) -> Self {
        Self { matches, threshold }
    }
}

/// Which agents a rule is for: everything given must hold, and something must be given.
///
/// In patterns `*` stands for any characters, also `/` and none at all, and `?` for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RuleMatch {
    /// Pattern for the name of the process, `/proc/PID/comm`: 15 bytes, and chosen by the process itself.
    pub comm: Option<String>,
    /// User id of the process, in the file also by name.
    #[serde(deserialize_with = "user")]
    pub uid: Option<u32>,
    /// Pattern for the absolute path of the program, `/proc/PID/exe`.
    pub exe: Option<String>,
}

impl RuleMatch {
    /// Matches by the name of the process.
    #[must_use]
    pub fn comm(pattern: &str) -> Self {
        Self { comm: Some(pattern.to_owned()), ..Self::default() }
    }

    /// Matches by the user id of the process.
    #[must_use]
    pub fn uid(uid: u32) -> Self {
        Self { uid: Some(uid), ..Self::default() }
    }

    /// Matches by the path of the program.
    #[must_use]
    pub fn exe(pattern: &str) -> Self {
        Self { exe: Some(pattern.to_owned()), ..Self::default() }
    }
}
