//! The keys of the file: their names, what they take, what they mean. Flags, variables, help and messages follow
//! from these lists.

use super::tables::Config;
use super::values::{
    ADDRESS, DURATION, GROUP, LIMIT, MODE, OUTPUT, Refused, SIZE, USER, parse_address, parse_bool,
    parse_duration, parse_events_format, parse_group, parse_limit, parse_mode, parse_number, parse_size,
    read_output,
};

/// One key of the file. Those with `set` are also a flag and an environment variable.
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
    /// What it means, for help; one line.
    pub help: &'static str,
    pub(super) set: Option<Setter>,
}

pub(super) type Setter = fn(&mut Config, &str) -> Result<(), Refused>;

impl Key {
    /// Whether it is also a flag and an environment variable, rather than of the file alone.
    #[must_use]
    pub const fn is_settable(&self) -> bool {
        self.set.is_some()
    }

    const fn in_file(name: &'static str, takes: &'static str, help: &'static str) -> Self {
        Self { name, variable: "", takes, value_name: "", help, set: None }
    }
}

/// Every key at the top of the file. Flags, variables, help and messages are made from this list.
pub const KEYS: &[Key] = &[
    Key {
        name: "dir",
        variable: "VARTA_DIR",
        takes: "a path in quotes, such as \"/run/varta\"",
        value_name: "DIR",
        help: "Runtime directory: sockets, lock and manifest [default: /run/varta, or $XDG_RUNTIME_DIR/varta when not root]",
        set: Some(|config, text| {
            config.dir = Some(text.into());
            Ok(())
        }),
    },
    Key {
        name: "shards",
        variable: "VARTA_SHARDS",
        takes: "a whole number from 1 to 64",
        value_name: "N",
        help: "Number of shards: threads, each with its own socket [default: half of the allowed cores]",
        set: Some(|config, text| parse_number(text).map(|value| config.shards = Some(value))),
    },
    Key {
        name: "threshold",
        variable: "VARTA_THRESHOLD",
        takes: DURATION,
        value_name: "DURATION",
        help: "Silence that is a stall [default: 2s]",
        set: Some(|config, text| parse_duration(text).map(|value| config.threshold = value)),
    },
    Key {
        name: "tick",
        variable: "VARTA_TICK",
        takes: DURATION,
        value_name: "DURATION",
        help: "Resolution of detection [default: 10ms]",
        set: Some(|config, text| parse_duration(text).map(|value| config.tick = value)),
    },
    Key {
        name: "max-delay",
        variable: "VARTA_MAX_DELAY",
        takes: DURATION,
        value_name: "DURATION",
        help: "Longest coalescing sleep of a shard; 0 wakes it for every datagram [default: 1ms]",
        set: Some(|config, text| parse_duration(text).map(|value| config.max_delay = value)),
    },
    Key {
        name: "mode",
        variable: "VARTA_MODE",
        takes: MODE,
        value_name: "MODE",
        help: "Permission bits of the shards' sockets: who may beat [default: 0600]",
        set: Some(|config, text| parse_mode(text).map(|value| config.mode = value)),
    },
    Key {
        name: "group",
        variable: "VARTA_GROUP",
        takes: GROUP,
        value_name: "GROUP",
        help: "Group of the shards' sockets, by name or number [default: the observer's own]",
        set: Some(|config, text| parse_group(text).map(|value| config.group = Some(value))),
    },
    Key {
        name: "control-mode",
        variable: "VARTA_CONTROL_MODE",
        takes: MODE,
        value_name: "MODE",
        help: "Permission bits of control.sock: who may query the fleet [default: 0600]",
        set: Some(|config, text| parse_mode(text).map(|value| config.control_mode = value)),
    },
    Key {
        name: "control-group",
        variable: "VARTA_CONTROL_GROUP",
        takes: GROUP,
        value_name: "GROUP",
        help: "Group of control.sock, by name or number [default: the observer's own]",
        set: Some(|config, text| parse_group(text).map(|value| config.control_group = Some(value))),
    },
    Key {
        name: "agents-max",
        variable: "VARTA_AGENTS_MAX",
        takes: "a whole number from 1 to 4194304",
        value_name: "N",
        help: "Most agents tracked at once by the whole fleet [default: 131072]",
        set: Some(|config, text| parse_number(text).map(|value| config.agents_max = value)),
    },
    Key {
        name: "uid-agents-max",
        variable: "VARTA_UID_AGENTS_MAX",
        takes: LIMIT,
        value_name: "N",
        help: "Most agents of one user, of the whole fleet's [default: none]",
        set: Some(|config, text| parse_limit(text).map(|value| config.uid_agents_max = value)),
    },
    Key {
        name: "uid-frames-max",
        variable: "VARTA_UID_FRAMES_MAX",
        takes: LIMIT,
        value_name: "N",
        help: "Most datagrams a second of one user on one shard; crash reports pass [default: none]",
        set: Some(|config, text| parse_limit(text).map(|value| config.uid_frames_max = value)),
    },
    Key {
        name: "watched-max",
        variable: "VARTA_WATCHED_MAX",
        takes: "a whole number from 0 to 4194304",
        value_name: "N",
        help: "Most processes whose exit is reported at once, a descriptor each [default: 131072]",
        set: Some(|config, text| parse_number(text).map(|value| config.watched_max = value)),
    },
    Key {
        name: "events",
        variable: "VARTA_EVENTS",
        takes: OUTPUT,
        value_name: "PATH",
        help: "Write events to this file, - for standard output, none for nowhere [default: none]",
        set: Some(|config, text| {
            config.events = read_output(text);
            Ok(())
        }),
    },
    Key {
        name: "events-format",
        variable: "VARTA_EVENTS_FORMAT",
        takes: "\"jsonl\" or \"tsv\"",
        value_name: "FORMAT",
        help: "How events are written: jsonl or tsv [default: jsonl]",
        set: Some(|config, text| parse_events_format(text).map(|value| config.events_format = value)),
    },
    Key {
        name: "events-beats",
        variable: "VARTA_EVENTS_BEATS",
        takes: "true or false",
        value_name: "BOOL",
        help: "Write every accepted beat among the events [default: false]",
        set: Some(|config, text| parse_bool(text).map(|value| config.events_beats = value)),
    },
    Key {
        name: "events-max-bytes",
        variable: "VARTA_EVENTS_MAX_BYTES",
        takes: SIZE,
        value_name: "SIZE",
        help: "Size at which the file of events is renamed to PATH.1, such as 100MiB [default: none]",
        set: Some(|config, text| parse_size(text).map(|value| config.events_max_bytes = value)),
    },
    Key {
        name: "events-keep",
        variable: "VARTA_EVENTS_KEEP",
        takes: "a whole number from 1 to 1000",
        value_name: "N",
        help: "Renamed files of events that are kept [default: 3]",
        set: Some(|config, text| parse_number(text).map(|value| config.events_keep = value)),
    },
    Key {
        name: "http",
        variable: "VARTA_HTTP",
        takes: "a table, headed [http]",
        value_name: "ADDR:PORT",
        help: "Serve metrics, status page and API here, too; none for control.sock only [default: none]",
        set: Some(|config, text| parse_address(text).map(|value| config.http.listen = value)),
    },
    Key::in_file("shard", "blocks, each headed [[shard]]", "A shard each, instead of shards"),
    Key::in_file(
        "rule",
        "blocks, each headed [[rule]]",
        "Thresholds of classes of agents; the first match wins",
    ),
];

/// The tables of the file by their headings, and the keys in each.
pub const TABLES: &[(&str, &[Key])] = &[
    ("[http]", HTTP_KEYS),
    ("[[shard]]", SHARD_KEYS),
    ("[[rule]]", RULE_KEYS),
    ("match of a [[rule]]", MATCH_KEYS),
];

pub(super) const HTTP_KEYS: &[Key] = &[
    Key::in_file(
        "listen",
        ADDRESS,
        "Serve metrics, status page and API here, too; --http and VARTA_HTTP set it, too [default: none]",
    ),
    Key::in_file(
        "token-file",
        "a path in quotes, such as \"/etc/varta/token\"",
        "File, mode 0600, whose content TCP clients must send; any address but loopback needs it [default: none]",
    ),
    Key::in_file(
        "metrics-agents-max",
        "a whole number from 0, for no such page, to 250000",
        "Most agents at /metrics/agents, a series each [default: 0]",
    ),
];

pub(super) const SHARD_KEYS: &[Key] = &[
    Key::in_file(
        "socket",
        "a path in quotes, such as \"/run/varta/shard-0.sock\"",
        "Path of its socket; a relative one begins in the runtime directory [default: shard-<i>.sock]",
    ),
    Key::in_file(
        "core",
        "the number of a core, \"auto\" or \"none\"",
        "Core its thread is pinned to; auto pins if more cores are allowed than there are shards [default: auto]",
    ),
    Key::in_file("mode", MODE, "Permission bits of its socket: who may beat [default: mode at the top]"),
    Key::in_file("group", GROUP, "Group of its socket [default: group at the top]"),
    Key::in_file(
        "allow-uids",
        "a list of users, by number or name, such as [1000, \"batch\"]",
        "Users whose frames are accepted [default: all whom mode lets in]",
    ),
];

pub(super) const RULE_KEYS: &[Key] = &[
    Key::in_file("match", "what to match, such as { comm = \"batch-*\" }", "Which agents it is for"),
    Key::in_file("threshold", DURATION, "Silence that is a stall for them"),
];

pub(super) const MATCH_KEYS: &[Key] = &[
    Key::in_file(
        "comm",
        "a pattern in quotes, such as \"batch-*\"",
        "Name of the process, /proc/PID/comm: 15 bytes, and chosen by the process itself",
    ),
    Key::in_file("uid", USER, "User of the process"),
    Key::in_file(
        "exe",
        "a pattern in quotes, such as \"/opt/batch/*\"",
        "Absolute path of the program, /proc/PID/exe",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::tables::ShardConfig;
    use super::super::values::CoreChoice;
    use super::*;

    #[test]
    fn every_key_of_the_list_is_a_key_of_the_file() {
        for (keys, head) in [(KEYS, ""), (SHARD_KEYS, "[[shard]]"), (RULE_KEYS, "[[rule]]")] {
            for key in keys {
                // A value of the wrong type everywhere: serde must know the key, not like the value.
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
    fn variables_and_defaults_are_as_the_help_says() {
        let mut config = Config::default();
        for key in KEYS {
            let variable = format!("VARTA_{}", key.name.to_uppercase().replace('-', "_"));
            assert!(key.variable == variable || !key.is_settable(), "{key:?}");
            let default = key
                .help
                .split_once("[default: ")
                .and_then(|(_, rest)| rest.split_once(']'))
                .map(|pair| pair.0);
            if let (Some(set), Some(default)) = (key.set, default)
                && !["dir", "shards", "group", "control-group"].contains(&key.name)
            {
                set(&mut config, default).unwrap();
            }
        }
        assert_eq!(config, Config::default());
    }

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
