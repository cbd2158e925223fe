//! What is written is read back as it was meant.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::super::problem::Origin;
use super::super::values::{EventsFormat, LogFormat, Output};
use super::*;

fn layers(text: &str) -> Layers {
    let mut layers = Layers::default();
    layers.toml(text, "f.toml".as_ref());
    layers
}

#[test]
fn each_line_has_its_origin_in_a_column() {
    let mut layers = layers(
        "threshold = \"5s\"\nevents = \"/var/log/a \\\"b\\\".jsonl\"\n[[rule]]\nmatch = { uid = 7, comm = \"a*\" }\nthreshold = \"3s\"\n",
    );
    layers.set("dir", "/tmp/varta", Origin::Flag);
    layers.set("http", "127.0.0.1:1", Origin::Environment);
    layers.set("shards", "3", Origin::Environment);
    let file = layers.effective().unwrap();
    let columns = file.lines().filter_map(|line| line.rfind(" # "));
    assert!(columns.collect::<BTreeSet<_>>().len() == 1, "not aligned:\n{file}");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |line: &str| assert!(file.lines().any(|known| words(known) == line), "no {line:?} in\n{file}");
    has("dir = \"/tmp/varta\" # --dir");
    has("shards = 3 # VARTA_SHARDS");
    has("threshold = \"5s\" # f.toml line 1");
    has("# group: the observer's own # default");
    has("events-max-bytes = \"none\" # default");
    has("events = '/var/log/a \"b\".jsonl' # f.toml line 2");
    has("listen = \"127.0.0.1:1\" # VARTA_HTTP");
    has("match = { comm = \"a*\", uid = 7 } # f.toml line 4");
    has("threshold = \"3s\" # f.toml line 5");
}

#[test]
fn shards_may_follow_from_their_blocks() {
    let mut layers =
        layers("dir = \"/tmp/varta\"\n[[shard]]\ncore = 3\nallow-uids = [7, 8]\n[[shard]]\nmode = \"0620\"");
    let file = layers.effective().unwrap();
    for line in ["shards = 2 ", "core = 3 ", "allow-uids = [7, 8] ", "mode = \"0620\" "] {
        assert!(file.lines().any(|known| known.starts_with(line)), "no {line:?} in\n{file}");
    }
    layers.set("agents-max", "0", Origin::Flag);
    assert!(layers.effective().is_err());
}

#[test]
fn the_example_sets_nothing() {
    assert_eq!(toml::from_str::<Config>(&example()).unwrap(), Config::default());
}

#[test]
fn what_the_example_switches_off_is_a_configuration_with_every_key() {
    let is_off = |line: &&str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
    };
    let example = example();
    let on: String = example.lines().filter(is_off).map(|line| format!("{}\n", &line[1..])).collect();
    // Names that hosts have, and as many shards as blocks.
    let on = on
        .replace("\"varta\"", "\"root\"")
        .replace("\"batch\"", "\"root\"")
        .replace("shards = 4", "shards = 1");
    let layers = layers(&on);
    let plan = layers.plan().unwrap_or_else(|error| panic!("{error}\n{on}"));
    assert_eq!((plan.shards.len(), plan.rules.len()), (1, 1));
    let names = |keys: &'static [Key], prefix: &'static str| {
        keys.iter().filter(|key| key.name == key.in_file).map(move |key| format!("{prefix}{}", key.name))
    };
    let all = names(KEYS, "")
        .chain(names(HTTP_KEYS, "http."))
        .chain(names(METRICS_KEYS, "metrics."))
        .chain(names(SHARD_KEYS, "shard[0]."));
    for name in all.chain(names(RULE_KEYS, "rule[0].")).chain(names(MATCH_KEYS, "rule[0].match.")) {
        assert_ne!(layers.origin(&name), Origin::Default, "{name} is not in\n{on}");
    }
}

/// The default, where the example shows one, is the default.
#[test]
fn a_default_that_is_shown_is_one() {
    let example = example();
    for key in
        KEYS.iter().filter(|key| key.is_settable() && key.unwritten.is_empty() && key.name == key.in_file)
    {
        let line = example.lines().find_map(|line| line.strip_prefix(&format!("#{} = ", key.name)));
        let value: toml::Table = toml::from_str(&format!("v = {}", line.unwrap())).unwrap();
        let value = value["v"].as_str().map_or_else(|| value["v"].to_string(), str::to_owned);
        assert_eq!(value, key.default_text(), "{}", key.name);
    }
}

fn path() -> impl Strategy<Value = String> {
    "/[a-z \"'\\\\#=é✓]{1,12}/[a-z\"'\\\\]{1,9}".prop_map(|path| path)
}

fn duration(from_ms: u64, to_ms: u64) -> impl Strategy<Value = Duration> {
    (from_ms * 1_000_000..to_ms * 1_000_000).prop_map(Duration::from_nanos)
}

fn shard() -> impl Strategy<Value = ShardConfig> {
    let core =
        prop_oneof![Just(CoreChoice::Auto), Just(CoreChoice::None), any::<u32>().prop_map(CoreChoice::Core)];
    (
        proptest::option::of(path()),
        core,
        proptest::option::of(0o200..=0o777u32),
        proptest::option::of(any::<u32>()),
        proptest::option::of(proptest::collection::vec(any::<u32>(), 1..4)),
    )
        .prop_map(|(socket, core, mode, group, allow_uids)| ShardConfig {
            socket: socket.map(Into::into),
            core,
            mode: mode.map(|mode| mode | 0o200),
            group,
            allow_uids,
        })
}

fn rule() -> impl Strategy<Value = RuleConfig> {
    (
        "[a-z*?\"'\\\\é]{1,7}",
        proptest::option::of(any::<u32>()),
        proptest::option::of(path()),
        duration(40, 60_000),
    )
        .prop_map(|(comm, uid, exe, threshold)| RuleConfig {
            matches: RuleMatch { comm: Some(comm), uid, exe },
            threshold,
        })
}

fn config() -> impl Strategy<Value = Config> {
    let times = (duration(200, 100_000), duration(1, 20), duration(0, 10));
    let access = (
        0o200..=0o777u32,
        proptest::option::of(any::<u32>()),
        0o200..=0o777u32,
        proptest::option::of(any::<u32>()),
    );
    let limits = (
        64..=4_194_304u32,
        proptest::option::of(1..u32::MAX),
        proptest::option::of(1..u32::MAX),
        0..=4_194_304u32,
    );
    let events = (
        proptest::option::of(prop_oneof![Just("-".to_owned()), path()]),
        any::<bool>(),
        any::<bool>(),
        proptest::option::of(65_536..u64::MAX),
        1..=1000u32,
    );
    let http = (
        proptest::option::of((any::<[u8; 4]>(), any::<u16>())),
        path(),
        0..=250_000u32,
        proptest::option::of("https?://[a-z]{1,5}(:[1-9]{1,4})?/[a-z?&=#%]{0,9}"),
    );
    let units = proptest::option::of(proptest::collection::vec("[a-z*?\"'\\\\é@]{0,7}\\.service", 1..4));
    let blocks = (
        proptest::option::of(1..=64u32),
        proptest::collection::vec(shard(), 0..4),
        proptest::collection::vec(rule(), 0..4),
    );
    (proptest::option::of(path()), times, access, limits, events, (http, units), blocks).prop_map(
        |(dir, (threshold, tick, max_delay), access, limits, events, (http, units), blocks)| {
            let (listen, token, series, dashboard) = http;
            let (shards, shard_blocks, rules) = blocks;
            Config {
                dir: Some(dir.map_or_else(|| "/tmp/varta".into(), Into::into)),
                shards: shards.filter(|_| shard_blocks.is_empty()),
                threshold,
                tick,
                max_delay,
                mode: access.0 | 0o200,
                group: access.1,
                control_mode: access.2 | 0o200,
                control_group: access.3,
                agents_max: limits.0,
                uid_agents_max: limits.1,
                uid_frames_max: limits.2,
                watched_max: limits.3,
                events: events.0.map(Output::from),
                events_format: if events.1 { EventsFormat::Tsv } else { EventsFormat::Jsonl },
                events_beats: events.2,
                events_max_bytes: events.3,
                events_keep: events.4,
                log_format: if events.2 { LogFormat::Json } else { LogFormat::Plain },
                http: HttpConfig {
                    listen: listen.map(SocketAddr::from),
                    token_file: listen.map(|_| token.into()),
                    metrics_agents_max: series,
                    dashboard,
                },
                metrics: MetricsConfig { units },
                shard_blocks,
                rules,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_in_effect_makes_the_same_plan_when_it_is_read(config in config()) {
        let mut written = Layers::default();
        written.config = config;
        // Two sockets of the same path, say.
        let Ok(plan) = written.plan() else { return Ok(()) };
        let file = written.effective().unwrap();
        let again = layers(&file);
        prop_assert_eq!(again.plan(), Ok(plan), "{}", file);
        // What is in effect is all that there is to say.
        prop_assert_eq!(again.effective().unwrap().lines().count(), file.lines().count());
    }
}
