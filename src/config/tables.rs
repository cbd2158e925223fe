//! The tables of the file: their fields with their defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::values::{CoreChoice, address, duration, group, some_octal, user, users};

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
}

impl RuleConfig {
    /// A rule that gives `threshold` to the agents it matches.
    #[must_use]
    pub const fn new(matches: RuleMatch, threshold: Duration) -> Self {
        Self { matches, threshold }
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
