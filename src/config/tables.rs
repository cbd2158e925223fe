//! The tables of the file: their fields with their defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::act::{ActionMatch, Trigger, UnitVerb};
use super::values::{
    CoreChoice, account, address, duration, factor, group, release, signal, some_duration, some_octal, user,
    users,
};
use crate::wire::Status;

/// The `[http]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Address and port of a TCP listener; port 0: any free port. `None`, `"none"` in the file: no listener.
    /// An address that other hosts can reach needs a token.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
    /// File with the token, one line, that TCP clients must send. `None`: every user of this host may query.
    pub token_file: Option<PathBuf>,
    /// Most agents on `/metrics/agents`, a series each; 0: no such page.
    pub metrics_agents_max: u32,
    /// URL of a dashboard, `http` or `https`, to which the page has a link. `None`: no link.
    pub dashboard: Option<String>,
}

/// The `[metrics]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MetricsConfig {
    /// Patterns for the units that have series of their own before any other unit, as in [`RuleMatch`]; 1 to 256.
    /// `None`: no unit is preferred.
    pub units: Option<Vec<String>>,
}

/// The `[notify]` table: sockets for daemons that speak the protocol of sd_notify(3).
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct NotifyConfig {
    /// Path of the first socket; a relative one starts in the runtime directory. `None`: `notify.sock`.
    pub socket: Option<PathBuf>,
    /// How many sockets there are, each with a shard of its own. The others lie beside the first, with `-1`, `-2`…
    /// before its extension.
    pub sockets: u32,
    /// Permission bits of the sockets: who may send. `None`: those of [the fleet](super::Config::mode).
    #[serde(deserialize_with = "some_octal")]
    pub mode: Option<u32>,
    /// Group of the sockets, in the file also by name. `None`: that of [the fleet](super::Config::group).
    #[serde(deserialize_with = "group")]
    pub group: Option<u32>,
    /// User ids whose messages are accepted, in the file also by name. `None`: all that `mode` allows.
    #[serde(deserialize_with = "users")]
    pub allow_uids: Option<Vec<u32>>,
    /// The shortest threshold that a daemon gets by asking for it.
    #[serde(deserialize_with = "duration")]
    pub threshold_min: Duration,
    /// The longest; no daemon gets more time by asking for it, either. It holds for one whose threshold is not known.
    #[serde(deserialize_with = "duration")]
    pub threshold_max: Duration,
    /// How long a daemon may take to end after it has said that it stops.
    #[serde(deserialize_with = "duration")]
    pub stop_threshold: Duration,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self {
            socket: None,
            sockets: 1,
            mode: None,
            group: None,
            allow_uids: None,
            threshold_min: Duration::from_millis(100),
            threshold_max: Duration::from_secs(3600),
            stop_threshold: Duration::from_secs(90),
        }
    }
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
    /// Permission bits of its socket: who may send. `None`: those of [the fleet](super::Config::mode).
    #[serde(deserialize_with = "some_octal")]
    pub mode: Option<u32>,
    /// Group of its socket, in the file also by name. `None`: that of [the fleet](super::Config::group).
    #[serde(deserialize_with = "group")]
    pub group: Option<u32>,
    /// User ids whose frames are accepted, in the file also by name. `None`: all that `mode` allows.
    #[serde(deserialize_with = "users")]
    pub allow_uids: Option<Vec<u32>>,
}

/// One `[[rule]]` block.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct RuleConfig {
    /// The agents it applies to.
    #[serde(rename = "match")]
    pub matches: RuleMatch,
    /// Silence that is a stall for them.
    #[serde(deserialize_with = "duration")]
    pub threshold: Duration,
    /// Silence that is a stall for one of them while it starts, from its first beat on. `None`: the same.
    #[serde(default, deserialize_with = "some_duration")]
    pub start_threshold: Option<Duration>,
    /// With so many beats the start is over. `None`: with the first status `ok`.
    #[serde(default)]
    pub start_beats: Option<u32>,
    /// Silence that is a stall for one of them while its payload is in a range. `None`: the same.
    #[serde(default)]
    pub phase: Option<Vec<PhaseConfig>>,
    /// What shows that one of them advances. `None`: it need not.
    #[serde(default)]
    pub progress: Option<ProgressOf>,
    /// How long one of them may beat without that before it is at a standstill. `None`: a minute.
    #[serde(default, deserialize_with = "some_duration")]
    pub progress_threshold: Option<Duration>,
    /// Payload of one of them that has nothing to do. `None`: none means that.
    #[serde(default)]
    pub idle_payload: Option<u64>,
    /// Status of one of them that has nothing to do. `None`: none means that.
    #[serde(default)]
    pub idle_status: Option<Status>,
}

impl RuleConfig {
    /// A rule that gives `threshold` to the agents it matches.
    #[must_use]
    pub const fn new(matches: RuleMatch, threshold: Duration) -> Self {
        Self {
            matches,
            threshold,
            start_threshold: None,
            start_beats: None,
            phase: None,
            progress: None,
            progress_threshold: None,
            idle_payload: None,
            idle_status: None,
        }
    }
}

/// One phase of a `[[rule]]` block: what its agents do takes longer while their payload says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct PhaseConfig {
    /// The least and the largest payload in it.
    pub payload: [u64; 2],
    /// Silence that is a stall in it.
    #[serde(deserialize_with = "duration")]
    pub threshold: Duration,
}

impl PhaseConfig {
    /// The phase of agents whose payload is at least the first number and at most the second.
    #[must_use]
    pub const fn new(payload: [u64; 2], threshold: Duration) -> Self {
        Self { payload, threshold }
    }
}

/// What shows that an agent advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProgressOf {
    /// Its payload changes: it counts the work done. Of agents that send frames.
    Payload,
    /// Its `STATUS=` line changes. Of daemons that send messages.
    Status,
}

impl ProgressOf {
    /// The word that selects it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Status => "status",
        }
    }
}

/// The agents a rule applies to: all given conditions must match, and at least one must be given.
///
/// In patterns `*` stands for any number of characters, including `/` and none, and `?` for one character.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RuleMatch {
    /// Pattern for the name of the process, `/proc/PID/comm`: 15 bytes; the process can choose it itself.
    pub comm: Option<String>,
    /// User id of the process, in the file also by name.
    #[serde(deserialize_with = "user")]
    pub uid: Option<u32>,
    /// Pattern for the absolute path of the program, `/proc/PID/exe`.
    pub exe: Option<String>,
    /// Pattern for the unit: the last `.service` or `.scope` in the path of the control group, behind the user or
    /// container it belongs to, if it does to one.
    pub unit: Option<String>,
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

/// One `[[action]]` block.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ActionConfig {
    /// Its name in events: 1 to 19 letters, digits, `-` and `_`.
    pub name: String,
    /// What it is for; at least one.
    pub on: Vec<Trigger>,
    /// The processes it is for. `uid`, `exe` or `unit` must be given unless `any_user` is set: the name alone can be
    /// chosen by anybody.
    #[serde(rename = "match")]
    pub matches: ActionMatch,
    /// Whether processes of any user may match.
    pub any_user: bool,
    /// Whether only a certain stall starts it.
    pub certain: bool,
    /// How long the trigger must last before it starts.
    #[serde(deserialize_with = "duration")]
    pub after: Duration,
    /// The program that is run, an absolute path, and its arguments with placeholders. One of this, `signal` and
    /// `systemd` must be given.
    pub run: Option<Vec<String>>,
    /// The signal that the process gets, in the file by name or number.
    #[serde(deserialize_with = "signal")]
    pub signal: Option<u8>,
    /// What the service manager does to the unit of the process.
    pub systemd: Option<UnitVerb>,
    /// How long it may take; then SIGTERM, and 5 s later SIGKILL.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// How it is repeated.
    pub retry: RetryConfig,
    /// User and group it runs as; in the file a user by name or number, whose group the host knows. `None`: those
    /// of the spawner.
    #[serde(deserialize_with = "account")]
    pub user: Option<(u32, u32)>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Whether evidence is collected before.
    pub evidence: bool,
}

impl Default for ActionConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            on: Vec::new(),
            matches: ActionMatch::default(),
            any_user: false,
            certain: true,
            after: Duration::from_secs(5),
            run: None,
            signal: None,
            systemd: None,
            timeout: Duration::from_secs(30),
            retry: RetryConfig::default(),
            user: None,
            env: BTreeMap::new(),
            evidence: true,
        }
    }
}

/// How an action is repeated for the same agent, and for the same unit or name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RetryConfig {
    /// From one attempt to the second.
    #[serde(deserialize_with = "duration")]
    pub first: Duration,
    /// Each further wait is so many times longer, in hundredths: 200 doubles it.
    #[serde(rename = "factor", deserialize_with = "factor")]
    pub factor_percent: u32,
    /// The longest wait.
    #[serde(deserialize_with = "duration")]
    pub max: Duration,
    /// Attempts.
    pub tries: u16,
    /// After so long without an attempt, the first comes again.
    #[serde(deserialize_with = "duration")]
    pub reset_after: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            factor_percent: 200,
            max: Duration::from_secs(600),
            tries: 5,
            reset_after: Duration::from_secs(3600),
        }
    }
}

/// The `[brake]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct BrakeConfig {
    /// Children that may run at once.
    pub running: u32,
    /// Starts that are allowed.
    pub starts: StartsConfig,
    /// The share of agents whose stall at once is one incident.
    pub share: ShareConfig,
    /// It is released once so long no agent stalled; `None`, `"manual"` in the file: by hand only.
    #[serde(deserialize_with = "release")]
    pub release: Option<Duration>,
    /// Nothing is started: what would be is only reported.
    pub dry_run: bool,
}

impl Default for BrakeConfig {
    fn default() -> Self {
        Self {
            running: 8,
            starts: StartsConfig::default(),
            share: ShareConfig::default(),
            release: Some(Duration::from_secs(60)),
            dry_run: false,
        }
    }
}

/// Starts that a brake allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct StartsConfig {
    /// So many.
    pub count: u32,
    /// In each period of this length.
    #[serde(deserialize_with = "duration")]
    pub per: Duration,
}

impl Default for StartsConfig {
    fn default() -> Self {
        Self { count: 20, per: Duration::from_secs(60) }
    }
}

/// The share of agents whose stall at once engages a brake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ShareConfig {
    /// More than so many percent of them.
    pub percent: u32,
    /// But at least so many.
    pub at_least: u32,
    /// At once means within this time.
    #[serde(deserialize_with = "duration")]
    pub within: Duration,
}

impl Default for ShareConfig {
    fn default() -> Self {
        Self { percent: 20, at_least: 5, within: Duration::from_secs(10) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Config;
    use super::*;

    #[test]
    fn leaves_of_a_shard_block() {
        let text =
            "[[shard]]\ncore = 3\nmode = \"0660\"\nallow-uids = [7]\n[[shard]]\ncore = \"none\"\n[[shard]]";
        let config: Config = toml::from_str(text).unwrap();
        let [first, second, third] = &config.shard_blocks[..] else { panic!("{config:?}") };
        assert_eq!(
            (first.core, first.mode, first.allow_uids.as_deref()),
            (CoreChoice::Core(3), Some(0o660), Some(&[7][..]))
        );
        assert_eq!(second.core, CoreChoice::None);
        assert_eq!(*third, ShardConfig::default());
        for bad in ["mode = 660", "mode = \"0689\"", "core = -1", "core = \"two\""] {
            assert!(toml::from_str::<Config>(&format!("[[shard]]\n{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn users_and_groups_are_taken_by_number_or_name() {
        let text = "group = \"root\"\ncontrol-group = 7\n[[shard]]\ngroup = 8\nallow-uids = [\"root\", 7]\n\
                    [[rule]]\nmatch = { uid = \"root\" }\nthreshold = \"3s\"";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!((config.group, config.control_group), (Some(0), Some(7)));
        assert_eq!(
            (config.shard_blocks[0].group, &config.shard_blocks[0].allow_uids),
            (Some(8), &Some(vec![0, 7]))
        );
        assert_eq!(config.rules[0].matches.uid, Some(0));
        let refused = |text: &str| toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(refused("group = \"no such group\"").contains("there is no such group on this host"));
        assert!(refused("[[shard]]\nallow-uids = [\"no such user\"]").contains("no such user on this host"));
        assert!(refused("group = -1").contains("out of range"));
        assert!(refused("group = true").contains("the number of a group, or its name in quotes"));
    }
}
