//! What a reload takes, key by key.

use std::path::PathBuf;

use super::*;
use crate::config::Config;
use crate::config::act::{ActionMatch, Trigger};
use crate::config::tables::{ActionConfig, NotifyConfig, RuleConfig, RuleMatch, ShardConfig};
use crate::config::values::{EventsFormat, LogFormat};

/// A configuration in which every key has an effect.
fn base() -> Config {
    Config {
        dir: Some("/run/varta".into()),
        events: Some(Output::File("/var/log/events".into())),
        events_max_bytes: Some(1 << 20),
        shard_blocks: vec![ShardConfig::default(); 2],
        http: crate::config::HttpConfig {
            listen: Some("127.0.0.1:9464".parse().unwrap()),
            ..crate::config::HttpConfig::default()
        },
        actions: vec![action("abort")],
        notify: Some(NotifyConfig { mode: Some(0o600), group: Some(0), ..NotifyConfig::default() }),
        ..Config::default()
    }
}

fn action(name: &str) -> ActionConfig {
    ActionConfig {
        name: name.to_owned(),
        on: vec![Trigger::Stall],
        matches: ActionMatch { uid: Some(7), ..ActionMatch::default() },
        signal: Some(6),
        ..ActionConfig::default()
    }
}

fn notify(config: &mut Config) -> &mut NotifyConfig {
    config.notify.as_mut().expect("the base has one")
}

/// Gives the key another value.
fn change(config: &mut Config, name: &str) {
    let shard = &mut config.shard_blocks[1];
    match name {
        "dir" => config.dir = Some("/run/other".into()),
        "shards" => config.shard_blocks.push(ShardConfig::default()),
        "threshold" => config.threshold = Duration::from_secs(7),
        "tick" => config.tick = Duration::from_millis(20),
        "max-delay" => config.max_delay = Duration::ZERO,
        "mode" => config.mode = 0o666,
        "group" => config.group = Some(7),
        "control-mode" => config.control_mode = 0o666,
        "control-group" => config.control_group = Some(7),
        "control-writers" => config.control_writers = Some(vec![7]),
        "agents-max" => config.agents_max = 7,
        "uid-agents-max" => config.uid_agents_max = Some(7),
        "uid-frames-max" => config.uid_frames_max = Some(7),
        "watched-max" => config.watched_max = 7,
        "events" => config.events = None,
        "events-format" => config.events_format = EventsFormat::Tsv,
        "events-beats" => config.events_beats = true,
        "events-max-bytes" => config.events_max_bytes = None,
        "events-keep" => config.events_keep = 7,
        "log-format" => config.log_format = LogFormat::Json,
        "http.listen" => config.http.listen = None,
        "http.token-file" => config.http.token_file = Some("/etc/token".into()),
        "http.metrics-agents-max" => config.http.metrics_agents_max = 7,
        "http.dashboard" => config.http.dashboard = Some("https://grafana.example/d/x".into()),
        "metrics.units" => config.metrics.units = Some(vec!["db.service".into()]),
        "shard.socket" => shard.socket = Some("other.sock".into()),
        "shard.core" => shard.core = crate::config::CoreChoice::None,
        "shard.mode" => shard.mode = Some(0o666),
        "shard.group" => shard.group = Some(7),
        "shard.allow-uids" => shard.allow_uids = Some(vec![7]),
        "notify.socket" => config.notify = None,
        "notify.sockets" => notify(config).sockets = 7,
        "notify.mode" => notify(config).mode = Some(0o666),
        "notify.group" => notify(config).group = Some(7),
        "notify.allow-uids" => notify(config).allow_uids = Some(vec![7]),
        "notify.threshold-min" => notify(config).threshold_min = Duration::from_secs(7),
        "notify.threshold-max" => notify(config).threshold_max = Duration::from_secs(7),
        "notify.stop-threshold" => notify(config).stop_threshold = Duration::from_secs(7),
        "rule" => config.rules.push(RuleConfig::new(RuleMatch::uid(7), Duration::from_secs(7))),
        "audit" => config.audit = Some("/var/log/audit".into()),
        "audit-sync" => config.audit_sync = true,
        "evidence-dir" => config.evidence_dir = Some("/var/lib/evidence".into()),
        "spawner" => config.spawner = Some("/run/spawner.sock".into()),
        "action" => config.actions.push(action("another")),
        "brake.running" => config.brake.running = 7,
        "brake.starts" => config.brake.starts.count = 7,
        "brake.share" => config.brake.share.within = Duration::from_secs(7),
        "brake.release" => config.brake.release = None,
        "brake.dry-run" => config.brake.dry_run = true,
        _ => panic!("{name} is a new key: give it another value here"),
    }
}

fn reconciled_plans(before: &Plan, after: &Plan) -> Result<Reconciled, ConfigError> {
    reconcile(before, before, after, false)
}

fn reconciled(before: &Config, after: &Config) -> Reconciled {
    reconciled_plans(&before.plan().unwrap(), &after.plan().unwrap()).unwrap()
}

#[test]
fn every_key_is_taken_or_named_as_its_row_says() {
    for (name, key) in ALL.iter() {
        let mut after = base();
        change(&mut after, name);
        let Reconciled { plan, changed, restart } = reconciled(&base(), &after);
        let (named, other) = if key.is_live { (&changed, &restart) } else { (&restart, &changed) };
        assert!(other.is_empty(), "{name}: {other:?}");
        assert!(!named.is_empty(), "{name} is not named");
        // The mode and group at the top are those of each shard.
        let expected =
            if ["mode", "group"].contains(&&**name) { format!("shard.{name}") } else { name.clone() };
        assert!(named.iter().all(|change| change.name() == expected), "{name}: {named:?}");
        assert_eq!(keys_of(named).names().collect::<Vec<_>>(), [&expected]);
        let in_force = if key.is_live { after.plan().unwrap() } else { base().plan().unwrap() };
        assert_eq!(plan, in_force, "{name}");
    }
}

#[test]
fn the_same_configuration_changes_nothing() {
    let Reconciled { plan, changed, restart } = reconciled(&base(), &base());
    assert!(changed.is_empty() && restart.is_empty());
    assert_eq!(plan, base().plan().unwrap());
}

#[test]
fn a_change_says_what_was_and_what_is() {
    let mut after = base();
    for name in [
        "threshold",
        "uid-frames-max",
        "shard.allow-uids",
        "events",
        "rule",
        "action",
        "brake.starts",
        "brake.release",
    ] {
        change(&mut after, name);
    }
    let told: Vec<String> = reconciled(&base(), &after).changed.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "threshold: 2s -> 7s",
            "uid-frames-max: none -> 7",
            "events: /var/log/events -> none",
            "shard[1].allow-uids: all -> [7]",
            "brake.starts: 20 per 1m -> 7 per 1m",
            "brake.release: 1m -> manual",
            "rule: 0 rules -> 1 rule",
            "action: 1 action -> 2 actions",
        ]
    );
}

#[test]
fn values_that_do_not_agree_with_what_stays_are_refused() {
    let (mut before, mut after) = (base(), base());
    (before.notify, after.notify) = (None, None);
    before.tick = Duration::from_millis(500);
    after.threshold = Duration::from_millis(300);
    let (before, after) = (before.plan().unwrap(), after.plan().unwrap());
    let told = reconciled_plans(&before, &after).unwrap_err().to_string();
    assert_eq!(
        told,
        "cannot use threshold = \"300ms\": the tick in force is 500ms, more than half of it, and only a restart \
         changes that; restart the observer, or write a threshold of at least 1s"
    );
    let mut after = base();
    (after.dir, after.events) = (Some("/run/other".into()), Some(Output::File("/run/varta/lock".into())));
    let told = reconciled_plans(&base().plan().unwrap(), &after.plan().unwrap()).unwrap_err().to_string();
    assert!(told.contains("it is the observer's own lock"), "{told}");
}

/// What only a restart changes of actions is what the thread that acts has open; before the first action it has
/// nothing open.
#[test]
fn the_first_action_brings_its_files_along() {
    let none = Config { actions: Vec::new(), ..base() };
    let mut after = base();
    (after.audit, after.brake.running) = (Some("/var/log/audit".into()), 7);
    let Reconciled { plan, changed, restart } = reconciled(&none, &after);
    let told: Vec<String> = changed.iter().map(ToString::to_string).collect();
    assert_eq!((told, restart.len()), (vec!["action: 0 actions -> 1 action".to_owned()], 0));
    assert_eq!(plan.act, after.plan().unwrap().act);
    // Without actions the files stay open, and the next action does not change them.
    let Reconciled { plan, changed, .. } = reconciled(&after, &none);
    assert_eq!(changed.len(), 1);
    let other = Config { audit: Some("/var/log/other".into()), ..after.clone() };
    let next = reconciled_plans(&plan, &other.plan().unwrap()).unwrap();
    assert_eq!(keys_of(&next.restart).names().collect::<Vec<_>>(), ["audit"]);
    assert_eq!(next.plan.act, after.plan().unwrap().act);
}

#[test]
fn evidence_stays_in_the_directory_in_force() {
    let none = Config { actions: Vec::new(), ..base() };
    let mut moved = base();
    moved.dir = Some("/run/other".into());
    for before in [none, base()] {
        let Reconciled { plan, restart, .. } = reconciled(&before, &moved);
        assert_eq!(plan.act.unwrap().evidence_dir, Path::new("/run/varta/evidence"));
        assert_eq!(keys_of(&restart).names().collect::<Vec<_>>(), ["dir"]);
    }
}

#[test]
fn events_are_not_written_into_the_audit_in_force() {
    let (mut before, mut after) = (base(), base());
    before.audit = Some("/var/log/audit".into());
    after.events = Some(Output::File("/var/log/audit".into()));
    let told = reconciled_plans(&before.plan().unwrap(), &after.plan().unwrap()).unwrap_err().to_string();
    assert!(told.contains("the audit in force is written there"), "{told}");
}

/// Without a listener of its own the new token would guard the one before, or leave it open.
#[test]
fn a_token_stays_with_the_listener_that_it_is_for() {
    let mut before = base();
    before.http.listen = Some("0.0.0.0:9464".parse().unwrap());
    before.http.token_file = Some("/etc/token".into());
    let Reconciled { plan, changed, restart } = reconciled(&before, &base());
    assert!(changed.is_empty(), "{changed:?}");
    assert_eq!(keys_of(&restart).names().collect::<Vec<_>>(), ["http.listen", "http.token-file"]);
    assert_eq!(plan.http, before.plan().unwrap().http);
}

#[test]
fn users_follow_the_socket_that_they_may_use() {
    let block = |socket: &str, uid| ShardConfig {
        socket: Some(PathBuf::from(socket)),
        allow_uids: Some(vec![uid]),
        ..ShardConfig::default()
    };
    let before = Config { shard_blocks: vec![block("a", 1), block("b", 2)], ..base() };
    let swapped = Config { shard_blocks: vec![block("b", 2), block("a", 3)], ..base() };
    let Reconciled { plan, changed, restart } = reconciled(&before, &swapped);
    assert_eq!(
        changed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["shard[0].allow-uids: [1] -> [3]"]
    );
    assert!(restart.is_empty(), "{restart:?}");
    assert_eq!(plan.shards[0].allow_uids, Some(vec![3]));
    let fewer = Config { shard_blocks: vec![block("b", 4)], ..base() };
    let Reconciled { plan, changed, restart } = reconciled(&before, &fewer);
    assert_eq!(changed.iter().map(|change| &*change.key).collect::<Vec<_>>(), ["shard[1].allow-uids"]);
    assert_eq!(restart.iter().map(|change| &*change.key).collect::<Vec<_>>(), ["shards"]);
    assert_eq!(plan.shards[0].allow_uids, Some(vec![1]), "nothing else is said of it");
}

/// The service manager passed one more socket than shards are configured: its users are those of the last.
#[test]
fn the_users_of_a_surplus_shard_follow_the_last_configured_one() {
    let block = |uid| ShardConfig { allow_uids: Some(vec![uid]), ..ShardConfig::default() };
    let configured = Config { shard_blocks: vec![block(1), block(2)], ..base() }.plan().unwrap();
    let mut in_force = configured.clone();
    let surplus = ShardPlan { socket: "/run/varta/shard-2.sock".into(), ..in_force.shards[1].clone() };
    in_force.shards.push(surplus);
    let after = Config { shard_blocks: vec![block(1), block(3)], ..base() }.plan().unwrap();
    let Reconciled { plan, changed, .. } = reconcile(&in_force, &configured, &after, false).unwrap();
    assert_eq!(
        changed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["shard[1].allow-uids: [2] -> [3]", "shard[2].allow-uids: [2] -> [3]"]
    );
    assert_eq!(plan.shards[2].allow_uids, Some(vec![3]));
}

#[test]
fn a_set_of_keys_is_a_list_of_their_names() {
    let set: KeySet = ["rule", "threshold", "no such key"].into_iter().collect();
    let text = serde_json::to_string(&set).unwrap();
    assert_eq!(text, r#"["threshold","rule"]"#);
    assert_eq!(serde_json::from_str::<KeySet>(&text).unwrap(), set);
    assert_eq!(serde_json::from_str::<KeySet>(r#"["of another version"]"#).unwrap(), KeySet::NONE);
    assert!(ALL.iter().all(|(name, _)| BITS.contains(&&**name)), "append the new key to the bits");
    let all: KeySet = ALL.iter().map(|(name, _)| &**name).collect();
    assert_eq!(all.names().count(), ALL.len());
}

/// A service manager passed three sockets where two were configured: that is no change of the configuration.
#[test]
fn what_was_passed_at_the_start_is_no_change() {
    let started = base().plan().unwrap();
    let mut in_force = started.clone();
    in_force.shards.push(ShardPlan { socket: "/run/varta/shard-2.sock".into(), ..started.shards[0].clone() });
    in_force.shards[0].mode = 0o666;
    let Reconciled { plan, changed, restart } = reconcile(&in_force, &started, &started, false).unwrap();
    assert!(changed.is_empty() && restart.is_empty(), "{changed:?} {restart:?}");
    assert_eq!(plan, in_force);
}
