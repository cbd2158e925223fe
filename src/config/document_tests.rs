//! What is written is read back as it was meant.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::super::act::{Trigger, UnitVerb};
use super::super::keys::{ACTION_MATCH_KEYS, MATCH_KEYS, PHASE_KEYS, RETRY_KEYS, SHARE_KEYS, STARTS_KEYS};
use super::super::problem::Origin;
use super::super::tables::ProgressOf;
use super::super::values::{EventsFormat, LogFormat, Output};
use super::*;
use crate::wire::Status;

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
    // Longer lines have theirs where they end.
    let columns = file.lines().filter_map(|line| line.rfind(" # ")).filter(|column| *column <= WIDTH_MAX);
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
    // Names and programs that hosts have, and as many shards as blocks.
    let on = on
        .replace("\"varta\"", "\"root\"")
        .replace("\"batch\"", "\"root\"")
        .replace("\"deploy\"", "\"root\"")
        .replace("/usr/local/sbin/restart-worker", "/bin/true")
        .replace("shards = 4", "shards = 1");
    // An action does one thing; the other two are only shown. Users and variables are of programs.
    let deeds = ["run = ", "user = ", "env = ", "signal = ", "systemd = "];
    for deed in [&deeds[..3], &deeds[3..4], &deeds[4..]] {
        let other = |line: &str| {
            deeds.iter().any(|known| line.starts_with(known)) && !deed.iter().any(|own| line.starts_with(own))
        };
        let text: String = on.lines().filter(|line| !other(line)).map(|line| format!("{line}\n")).collect();
        let plan = layers(&text).plan().unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!((plan.shards.len(), plan.rules.len(), plan.act.unwrap().actions.len()), (1, 1, 1));
        assert!(plan.notify.is_some());
    }
    let layers = layers(&on);
    let names = |keys: &'static [Key], prefix: &'static str| {
        keys.iter().filter(|key| key.name == key.in_file).map(move |key| format!("{prefix}{}", key.name))
    };
    let all = names(KEYS, "").chain(names(HTTP_KEYS, "http.")).chain(names(METRICS_KEYS, "metrics."));
    let all = all.chain(names(SHARD_KEYS, "shard[0].")).chain(names(NOTIFY_KEYS, "notify."));
    let all = all.chain(names(RULE_KEYS, "rule[0].")).chain(names(MATCH_KEYS, "rule[0].match."));
    let all = all.chain(names(PHASE_KEYS, "rule[0].phase[0]."));
    let all = all.chain(names(ACTION_KEYS, "action[0].")).chain(names(RETRY_KEYS, "action[0].retry."));
    let all = all.chain(names(ACTION_MATCH_KEYS, "action[0].match.")).chain(names(BRAKE_KEYS, "brake."));
    for name in all.chain(names(STARTS_KEYS, "brake.starts.")).chain(names(SHARE_KEYS, "brake.share.")) {
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

/// So are those of the tables.
#[test]
fn a_default_of_a_table_that_is_shown_is_one() {
    let text = |of: &[Key]| {
        let shown =
            of.iter().filter(|key| key.within.is_empty() && key.example.trim_matches('"') == key.unwritten);
        shown.map(|key| format!("{} = {}\n", key.name, key.example)).collect::<String>()
    };
    let retry = text(RETRY_KEYS);
    let action = format!("[[action]]\n{}[action.retry]\n{retry}", text(ACTION_KEYS));
    assert_eq!(toml::from_str::<Config>(&action).unwrap().actions, [ActionConfig::default()], "{action}");
    let (starts, share) = (text(STARTS_KEYS), text(SHARE_KEYS));
    let brake = format!("[brake]\n{}[brake.starts]\n{starts}[brake.share]\n{share}", text(BRAKE_KEYS));
    assert_eq!(toml::from_str::<Config>(&brake).unwrap(), Config::default(), "{brake}");
    let shown = [retry, starts, share].iter().map(|text| text.lines().count()).sum::<usize>();
    assert_eq!(shown, RETRY_KEYS.len() + STARTS_KEYS.len() + SHARE_KEYS.len());
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

fn notify() -> impl Strategy<Value = NotifyConfig> {
    let access = (
        proptest::option::of(0o200..=0o777u32),
        proptest::option::of(any::<u32>()),
        proptest::option::of(proptest::collection::vec(any::<u32>(), 1..4)),
    );
    let times = (duration(40, 60_000), duration(60_000, 86_400_000), duration(10, 86_400_000));
    (proptest::option::of(path()), 1..=16u32, access, times).prop_map(
        |(socket, sockets, (mode, group, allow_uids), (threshold_min, threshold_max, stop_threshold))| {
            NotifyConfig {
                socket: socket.map(Into::into),
                sockets,
                mode: mode.map(|mode| mode | 0o200),
                group,
                allow_uids,
                threshold_min,
                threshold_max,
                stop_threshold,
            }
        },
    )
}

fn rule() -> impl Strategy<Value = RuleConfig> {
    (
        "[a-z*?\"'\\\\é]{1,7}",
        proptest::option::of(any::<u32>()),
        proptest::option::of(path()),
        proptest::option::of("[a-z@]{1,7}[*]"),
        (
            duration(40, 60_000),
            proptest::option::of(duration(60_000, 86_400_000)),
            proptest::option::of(1..=100_000u32),
            proptest::option::of(proptest::collection::vec(phase(), 0..2)),
        ),
        proptest::option::of((
            proptest::option::of(duration(60_000, 86_400_000)),
            proptest::option::of(0..=i64::MAX.cast_unsigned()),
            proptest::option::of(prop_oneof![
                Just(Status::Ok),
                Just(Status::Degraded),
                Just(Status::Critical)
            ]),
        )),
    )
        .prop_map(
            |(comm, uid, exe, unit, (threshold, start_threshold, start_beats, phase), progress)| {
                let (progress_threshold, idle_payload, idle_status) = progress.unwrap_or_default();
                RuleConfig {
                    matches: RuleMatch { comm: Some(comm), uid, exe, unit },
                    threshold,
                    start_threshold,
                    start_beats: start_beats.filter(|_| start_threshold.is_some()),
                    phase,
                    progress: progress.map(|_| match (idle_payload, idle_status) {
                        (None, None) => ProgressOf::Status,
                        _ => ProgressOf::Payload,
                    }),
                    progress_threshold,
                    idle_payload,
                    idle_status,
                }
            },
        )
}

fn phase() -> impl Strategy<Value = PhaseConfig> {
    (0..=i64::MAX.cast_unsigned(), 0..=i64::MAX.cast_unsigned(), duration(60_000, 86_400_000))
        .prop_map(|(one, other, threshold)| PhaseConfig::new([one.min(other), one.max(other)], threshold))
}

fn action() -> impl Strategy<Value = ActionConfig> {
    let trigger = prop_oneof![
        Just(Trigger::Stall),
        Just(Trigger::Frozen),
        Just(Trigger::Resume),
        any::<u8>().prop_map(Trigger::ExitCode),
        (1..=64u8).prop_map(Trigger::ExitSignal),
    ];
    let run = proptest::collection::vec("[a-z \"'\\\\#=é✓\t]{0,9}(\\{pid\\}|\\{\\{)?", 0..3);
    let deed =
        prop_oneof![
            run.prop_map(|arguments| {
                let program = std::iter::once("/bin/true".to_owned());
                (Some(program.chain(arguments).collect::<Vec<_>>()), None, None)
            }),
            (1..=64u8).prop_map(|signal| (None, Some(signal), None)),
            prop_oneof![Just(UnitVerb::Restart), Just(UnitVerb::Kill), Just(UnitVerb::Stop)]
                .prop_map(|verb| (None, None, Some(verb))),
        ];
    let matches = (
        proptest::option::of("[a-z*?]{1,7}"),
        proptest::option::of(any::<u32>()),
        "[a-z@]{1,7}[*]",
        proptest::option::of("/[a-z@*/\"'\\\\]{0,9}"),
    );
    let retry =
        (duration(100, 1000), 100..=10_000u32, duration(1000, 9000), 1..=1000u16, duration(9001, 99_999));
    let env = proptest::collection::btree_map("[A-Za-z_0-9]{1,6}", "[ -~é\n]{0,9}", 0..3);
    (
        ("[a-zA-Z0-9_-]{1,19}", proptest::collection::vec(trigger, 1..4), matches, any::<[bool; 4]>()),
        (deed, duration(0, 9000), duration(100, 9000), retry, env),
    )
        .prop_map(
            |((name, on, (comm, uid, unit, cgroup), flags), (deed, after, timeout, retry, env))| {
                let runs = deed.0.is_some();
                ActionConfig {
                    name,
                    on: on
                        .into_iter()
                        .filter(|trigger| runs && cgroup.is_none() || !trigger.is_exit())
                        .chain([Trigger::Frozen])
                        .collect(),
                    matches: ActionMatch { comm, uid, exe: None, unit: Some(unit), cgroup },
                    any_user: flags[0],
                    certain: flags[1],
                    after,
                    run: deed.0,
                    signal: deed.1,
                    systemd: deed.2,
                    timeout,
                    retry: RetryConfig {
                        first: retry.0,
                        factor_percent: retry.1,
                        max: retry.2,
                        tries: retry.3,
                        reset_after: retry.4,
                    },
                    user: (runs && flags[2]).then_some((0, 0)),
                    env: if runs { env } else { std::collections::BTreeMap::new() },
                    evidence: flags[3],
                }
            },
        )
}

fn brake() -> impl Strategy<Value = BrakeConfig> {
    let (starts, share) =
        ((1..=10_000u32, duration(1000, 99_999)), (1..=100u32, 1..=4_194_304u32, duration(100, 99_999)));
    (1..=1000u32, starts, share, proptest::option::of(duration(1000, 99_999)), any::<bool>()).prop_map(
        |(running, (count, per), (percent, at_least, within), release, dry_run)| BrakeConfig {
            running,
            starts: StartsConfig { count, per },
            share: ShareConfig { percent, at_least, within },
            release,
            dry_run,
        },
    )
}

fn config() -> impl Strategy<Value = Config> {
    let times = (duration(200, 100_000), duration(1, 20), duration(0, 10));
    let access = (
        0o200..=0o777u32,
        proptest::option::of(any::<u32>()),
        0o200..=0o777u32,
        proptest::option::of(any::<u32>()),
        proptest::option::of(proptest::collection::vec(any::<u32>(), 1..4)),
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
        proptest::option::of(notify()),
    );
    let files = (
        proptest::option::of(path()),
        proptest::option::of(path()),
        proptest::option::of(path()),
        any::<bool>(),
    );
    let act = (proptest::collection::vec(action(), 0..3), brake(), files);
    (proptest::option::of(path()), times, access, limits, events, (http, units), (blocks, act)).prop_map(
        |(dir, (threshold, tick, max_delay), access, limits, events, (http, units), tables)| {
            let (listen, token, series, dashboard) = http;
            let ((shards, shard_blocks, rules, notify), (actions, brake, files)) = tables;
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
                control_writers: access.4,
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
                notify,
                rules,
                audit: files.0.map(Into::into),
                audit_sync: files.3,
                evidence_dir: files.1.map(Into::into),
                spawner: files.2.map(Into::into),
                actions,
                brake,
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
