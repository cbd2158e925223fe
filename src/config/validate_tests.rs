//! Which configurations are refused, with which messages, and the plans of the others.

use super::super::plan::{AGENTS_MAX, Identity};
use super::super::tables::{PhaseConfig, ProgressOf, RuleConfig};
use super::super::values::CoreChoice;
use super::*;
use crate::wire::Status;

const ROOT: Host = Host { is_root: true, xdg_runtime_dir: None, cores_allowed: 8 };

fn plan(change: impl FnOnce(&mut Config)) -> Result<Plan, Vec<String>> {
    plan_on(&ROOT, change)
}

fn plan_on(host: &Host, change: impl FnOnce(&mut Config)) -> Result<Plan, Vec<String>> {
    let mut config = Config::default();
    change(&mut config);
    config.plan_on(host).map_err(|error| error.problems().iter().map(ToString::to_string).collect())
}

fn only_problem(change: impl FnOnce(&mut Config)) -> String {
    let told = plan(change).unwrap_err();
    assert_eq!(told.len(), 1, "{told:#?}");
    told.into_iter().next().unwrap()
}

fn block(socket: &str) -> ShardConfig {
    ShardConfig { socket: Some(socket.into()), ..ShardConfig::default() }
}

#[test]
fn defaults() {
    let plan = plan(|_| ()).unwrap();
    assert_eq!(plan.dir, Path::new("/run/varta"));
    assert_eq!(plan.shards.len(), 4);
    assert_eq!(plan.shards[3].socket, Path::new("/run/varta/shard-3.sock"));
    assert_eq!((plan.shards[0].mode, plan.shards[0].core), (0o600, CoreChoice::Auto));
    assert_eq!((plan.threshold_ns, plan.tick_ns, plan.max_delay_ns), (2_000_000_000, 10_000_000, 1_000_000));
    assert_eq!(plan.agents_max, 131_072);
}

#[test]
fn default_shards_follow_the_cores() {
    for (cores_allowed, agents_max, shards) in
        [(1, 10, 1), (2, 10, 1), (3, 10, 1), (9, 10, 4), (999, 999, 64), (64, 3, 3)]
    {
        let host = Host { cores_allowed, ..ROOT };
        assert_eq!(plan_on(&host, |config| config.agents_max = agents_max).unwrap().shards.len(), shards);
    }
}

#[test]
fn default_dir_of_a_user() {
    let user = |dir: Option<&str>| Host { is_root: false, xdg_runtime_dir: dir.map(PathBuf::from), ..ROOT };
    assert_eq!(plan_on(&user(Some("/run/user/7")), |_| ()).unwrap().dir, Path::new("/run/user/7/varta"));
    for host in [user(None), user(Some("")), user(Some("run"))] {
        let told = plan_on(&host, |_| ()).unwrap_err();
        assert!(
            told.len() == 1 && told[0].contains("XDG_RUNTIME_DIR is not set") && told[0].contains("--dir"),
            "{told:?}"
        );
        assert!(plan_on(&host, |config| config.dir = Some("/x".into())).is_ok());
    }
}

#[test]
fn relative_paths_are_resolved() {
    let plan = plan(|config| {
        config.dir = Some("here".into());
        config.shard_blocks = vec![block("a.sock"), block("/b.sock")];
        config.events = Some(Output::File("events.jsonl".into()));
    });
    let plan = plan.unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(plan.dir, here.join("here"));
    assert_eq!(plan.shards[0].socket, here.join("here/a.sock"));
    assert_eq!(plan.shards[1].socket, Path::new("/b.sock"));
    assert_eq!(plan.events.unwrap().output, Output::File(here.join("events.jsonl")));
}

#[test]
fn fault_51_ranges_of_times() {
    let ms = Duration::from_millis;
    for (threshold, tick, delay, fine) in [
        (ms(10), ms(5), ms(2), true),
        (ms(86_400_000), ms(1000), ms(100), true),
        (ms(2000), ms(1), ms(0), true),
        (ms(9), ms(1), ms(0), false),
        (ms(0), ms(1), ms(0), false),
        (ms(86_400_001), ms(1), ms(0), false),
        (ms(2000), ms(0), ms(0), false),
        (ms(9000), ms(1001), ms(0), false),
        (ms(9000), ms(10), ms(101), false),
        (ms(20), ms(11), ms(0), false),
        (ms(20), ms(10), ms(6), false),
    ] {
        let planned = plan(|config| {
            (config.threshold, config.tick, config.max_delay) = (threshold, tick, delay);
        });
        assert_eq!(planned.is_ok(), fine, "{threshold:?} {tick:?} {delay:?}: {planned:?}");
        assert!(planned.err().is_none_or(|told| told.len() == 1));
    }
    assert_eq!(
        only_problem(|config| config.threshold = ms(15)),
        "cannot use tick = 10ms: a tick of 10ms is more than half of the smallest threshold, 15ms; \
         write tick = \"7ms\" or less, or a threshold of at least 20ms"
    );
    let rule = only_problem(|config| config.rules.push(RuleConfig::new(RuleMatch::uid(7), ms(19))));
    assert!(rule.contains("smallest threshold, 19ms"), "{rule}");
}

#[test]
fn phases_are_longer_than_the_threshold_and_apart() {
    let ms = Duration::from_millis;
    let rule = |change: &dyn Fn(&mut RuleConfig)| {
        only_problem(|config| {
            let mut rule = RuleConfig::new(RuleMatch::uid(7), ms(5000));
            change(&mut rule);
            config.rules.push(rule);
        })
    };
    let phase = |from, to, threshold| PhaseConfig::new([from, to], ms(threshold));
    type Change<'a> = &'a dyn Fn(&mut RuleConfig);
    for (change, why) in [
        (
            (&|rule: &mut RuleConfig| rule.start_threshold = Some(ms(4999))) as Change,
            "cannot use rule[0].start-threshold = \"4s999ms\": it is shorter than the threshold of the rule, 5s: an agent is \
             started by being silent for less, not for more; write a duration of at least \"5s\"",
        ),
        (&|rule| rule.start_threshold = Some(ms(25 * 3_600_000)), "it is longer than 24h"),
        (&|rule| rule.start_beats = Some(5), "write start-threshold = \"2m\" beside it, or leave it out"),
        (
            &|rule| (rule.start_threshold, rule.start_beats) = (Some(ms(5000)), Some(0)),
            "cannot use rule[0].start-beats = 0: the start would never begin; write a whole number from 1 to 100000",
        ),
        (
            &|rule| (rule.start_threshold, rule.start_beats) = (Some(ms(5000)), Some(100_001)),
            "no start takes as many",
        ),
        (
            &|rule| rule.phase = Some(vec![phase(1, 2, 4000)]),
            "cannot use rule[0].phase[0].threshold = \"4s\": it is shorter than the threshold of the rule, 5s: what holds is \
             looked up once in a threshold of the rule, too late for a shorter one; write a duration of at least \"5s\"",
        ),
        (
            &|rule| rule.phase = Some(vec![phase(2, 1, 5000)]),
            "cannot use rule[0].phase[0].payload = [2, 1]: the first number is larger than the second; write [1, 2]",
        ),
        (
            &|rule| rule.phase = Some(vec![phase(1, 2, 5000), phase(7, 9, 5000), phase(2, 3, 6000)]),
            "cannot use rule[0].phase[2].payload = [2, 3]: payloads in it are in the phase [1, 2], too; give each phase \
             payloads of its own",
        ),
        (
            &|rule| rule.phase = Some((0..17).map(|number| phase(number, number, 5000)).collect()),
            "cannot use rule[0].phase = 17 phases: there are more than 16 phases",
        ),
    ] {
        let told = rule(change);
        assert!(told.contains(why), "{told}");
    }
    let mut whole = RuleConfig::new(RuleMatch::uid(7), ms(5000));
    (whole.start_threshold, whole.start_beats) = (Some(ms(5000)), Some(1));
    whole.phase = Some(vec![phase(1, 2, 9000), phase(0, 0, 5000), phase(3, u64::MAX, 6000)]);
    let plan = plan(|config| config.rules.push(whole)).unwrap();
    assert_eq!(plan.rules[0].phases.start, Some(Start { threshold_ns: 5_000_000_000, beats: Some(1) }));
    assert_eq!(plan.rules[0].phases.payload.len(), 3);
    assert_eq!(plan.threshold_max_ns(), 9_000_000_000);
}

#[test]
fn what_is_asked_of_progress_agrees() {
    let rule = |change: fn(&mut RuleConfig)| {
        only_problem(|config| {
            let mut rule = RuleConfig::new(RuleMatch::uid(7), Duration::from_millis(5000));
            rule.progress = Some(ProgressOf::Payload);
            change(&mut rule);
            config.rules.push(rule);
        })
    };
    for (change, why) in [
        (
            (|rule| rule.progress_threshold = Some(Duration::from_millis(4000))) as fn(&mut RuleConfig),
            "cannot use rule[0].progress-threshold = \"4s\": its agents may be silent for 5s, and who is silent shows no \
             progress; write a duration of at least \"5s\"",
        ),
        (
            |rule| rule.progress_threshold = Some(Duration::ZERO),
            "it is shorter than 1s; write a duration from 1s to 24h",
        ),
        (
            |rule| rule.progress_threshold = Some(Duration::from_millis(25 * 3_600_000)),
            "it is longer than 24h",
        ),
        (|rule| rule.idle_status = Some(Status::Stall), "no agent ever says that; write \"ok\""),
        (
            |rule| (rule.progress, rule.idle_payload) = (None, Some(0)),
            "cannot use rule[0].idle-payload = 0: nothing says how its agents show that they advance; write progress = \"payload\"",
        ),
    ] {
        let told = rule(change);
        assert!(told.contains(why), "{told}");
    }
    let mut whole = RuleConfig::new(RuleMatch::uid(7), Duration::from_millis(5000));
    whole.progress = Some(ProgressOf::Payload);
    let plan = plan(|config| config.rules.push(whole)).unwrap();
    assert_eq!(plan.rules[0].progress.unwrap().threshold_ns, 60_000_000_000, "the default");
}

#[test]
fn fault_51_ranges_of_counts() {
    for shards in [0, 65, u32::MAX] {
        assert!(only_problem(|config| config.shards = Some(shards)).contains("from 1 to 64"));
    }
    for agents_max in [0, AGENTS_MAX + 1] {
        assert!(only_problem(|config| config.agents_max = agents_max).contains("from 1 to 4194304"));
    }
    assert!(only_problem(|config| config.watched_max = AGENTS_MAX + 1).contains("from 0 to 4194304"));
    let series = |max| move |config: &mut Config| config.http.metrics_agents_max = max;
    assert!(only_problem(series(250_001)).contains("from 0 to 250000"));
    assert!(plan(series(250_000)).is_ok());
    for (agents, frames) in [(Some(0), None), (None, Some(0))] {
        let told = only_problem(|config| (config.uid_agents_max, config.uid_frames_max) = (agents, frames));
        assert!(told.contains("it lets nobody beat; write a whole number from 1, or uid-"), "{told}");
    }
    let least = plan(|config| (config.uid_agents_max, config.uid_frames_max) = (Some(1), Some(1))).unwrap();
    assert_eq!((least.uid_agents_max, least.uid_frames_max), (Some(1), Some(1)));
    let crowded = only_problem(|config| (config.shards, config.agents_max) = (Some(4), 3));
    assert!(crowded.contains("agents-max = 3"), "{crowded}");
    let split =
        only_problem(|config| (config.shards, config.shard_blocks) = (Some(3), vec![block("a"), block("b")]));
    assert!(split.contains("shards = 3: there are 2 [[shard]] blocks"), "{split}");
    assert!(
        plan(|config| (config.shards, config.shard_blocks) = (Some(2), vec![block("a"), block("b")])).is_ok()
    );
    assert!(
        only_problem(|config| config.rules = vec![RuleConfig::new(RuleMatch::uid(7), config.threshold); 201])
            .contains("200")
    );
    assert!(
        plan(|config| config.rules = vec![RuleConfig::new(RuleMatch::uid(7), config.threshold); 200]).is_ok()
    );
}

#[test]
fn units_that_nothing_is_called_are_refused() {
    let units = |patterns: &[&str]| {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        move |config: &mut Config| config.metrics.units = Some(patterns)
    };
    for (pattern, why) in [
        ("", "the pattern \"\" matches nothing: it is empty"),
        ("trading", "the names of units end in .service or .scope"),
        ("trading-*.servic", "the names of units end in .service or .scope"),
        ("*.slice", "the names of units end in .service or .scope"),
        ("a\u{202e}.service", "it holds characters that control a terminal or cannot be seen"),
        (&"x".repeat(512), "no unit has so long a name"),
    ] {
        let told = only_problem(units(&["db.service", pattern]));
        assert!(told.contains(why) && told.contains("such as \"trading-*.service\""), "{told}");
    }
    assert!(only_problem(units(&[])).contains("it names no unit"));
    let many = ["db.service"; 257];
    assert!(only_problem(units(&many)).contains("there are 257 patterns"));
    assert!(plan(units(&many[1..])).is_ok());
    let fine = ["*", "?", "a*", "a.service", "*.scope", "a*ice", "user@*.service/b?.scope", "a*b-[x]*"];
    assert_eq!(plan(units(&fine)).unwrap().metrics_units, fine);
    assert!(plan(|_| ()).unwrap().metrics_units.is_empty());
}

#[test]
fn the_dashboard_is_a_plain_link() {
    let url = |url: &str| {
        let url = Some(url.to_owned());
        move |config: &mut Config| config.http.dashboard = url
    };
    for (bad, why) in [
        ("", "it is empty"),
        ("javascript:alert(1)", "only to http:// and https://"),
        ("JavaScript://x/%0aalert(1)", "only to http:// and https://"),
        ("data:text/html,x", "only to http:// and https://"),
        ("//grafana.example/", "only to http:// and https://"),
        ("/d/varta-fleet", "only to http:// and https://"),
        (" https://grafana.example/", "only to http:// and https://"),
        ("https://x/\"onclick=\"alert(1)", "a character that no URL does"),
        ("https://x/'a'", "a character that no URL does"),
        ("https://x/<b>", "a character that no URL does"),
        ("https://x/a b", "a character that no URL does"),
        ("https://x/a\nb", "a character that no URL does"),
        ("https://grafana.é/", "a character that no URL does"),
        ("https://x\\@y/", "a character that no URL does"),
        ("https://admin:secret@grafana.example/", "a user or password"),
        ("https://", "names no host"),
        ("https:///d/x", "names no host"),
        ("https://:3000/", "names no host"),
        ("https://x:99999/", "a port that is none"),
        ("https://x:/", "a port that is none"),
        (&format!("https://x/{}", "a".repeat(2040)), "longer than 2048 bytes"),
    ] {
        let told = only_problem(url(bad));
        assert!(told.starts_with("cannot use http.dashboard = ") && told.contains(why), "{bad:?}: {told}");
    }
    for fine in [
        "https://grafana.example/d/varta-fleet",
        "http://10.0.0.1:3000",
        "http://[fe80::1]:3000/d/x?orgId=1&var-job=varta#top",
        "http://[fe80::1]/",
        "https://grafana.example/d/a%20b/@x",
    ] {
        assert_eq!(plan(url(fine)).unwrap().http.dashboard.as_deref(), Some(fine));
    }
}

#[test]
fn sockets() {
    let twice = only_problem(|config| {
        config.shard_blocks = vec![block("/run/varta/shard-1.sock"), ShardConfig::default()]
    });
    assert!(twice.contains("it is the socket of shard 0, too"), "{twice}");
    assert!(only_problem(|config| config.shard_blocks = vec![block("lock")]).contains("observer's own lock"));
    assert!(plan(|config| config.shard_blocks = vec![block("varta.sock")]).is_ok());

    let path = |bytes: usize| format!("/{}", "s".repeat(bytes - 1));
    assert!(plan(|config| config.shard_blocks = vec![block(&path(107))]).is_ok());
    let long = only_problem(|config| config.shard_blocks = vec![block(&path(110))]);
    assert!(
        long.contains("110 bytes") && long.contains("107 at most") && long.contains("shorter by 3"),
        "{long}"
    );
    let long = only_problem(|config| config.dir = Some(path(100).into()));
    assert!(long.starts_with("cannot use dir = ") && long.contains("107 at most"), "{long}");
    assert!(only_problem(|config| config.shard_blocks = vec![block("")]).contains("it is empty"));
}

#[test]
fn access() {
    let shard =
        |mode, allow_uids| vec![ShardConfig { mode: Some(mode), allow_uids, ..ShardConfig::default() }];
    assert!(only_problem(|config| config.shard_blocks = shard(0o444, None)).contains("nobody may write"));
    assert!(only_problem(|config| config.shard_blocks = shard(0o1666, None)).contains("no such bits"));
    assert!(
        only_problem(|config| config.shard_blocks = shard(0o600, Some(vec![]))).contains("lets nobody beat")
    );
    let plan = plan(|config| config.shard_blocks = shard(0o600, Some(vec![9, 7, 9]))).unwrap();
    assert_eq!(plan.shards[0].allow_uids, Some(vec![7, 9]));
    assert!(only_problem(|config| config.mode = 0o444).contains("nobody can beat"));
    assert!(only_problem(|config| config.control_mode = 0o400).contains("nobody can ask"));
}

#[test]
fn a_block_says_otherwise_than_all_shards() {
    let plan = plan(|config| {
        (config.mode, config.group) = (0o660, Some(7));
        config.shard_blocks = vec![
            ShardConfig::default(),
            ShardConfig { mode: Some(0o666), group: Some(8), ..ShardConfig::default() },
        ];
    });
    let shards = plan.unwrap().shards;
    let access: Vec<_> = shards.iter().map(|shard| (shard.mode, shard.group)).collect();
    assert_eq!(access, [(0o660, Some(7)), (0o666, Some(8))]);
}

#[test]
fn patterns_that_match_nothing_are_refused() {
    let rule = |matches: RuleMatch| {
        only_problem(|config| config.rules.push(RuleConfig::new(matches, config.threshold)))
    };
    assert!(rule(RuleMatch::default()).contains("matches every agent"));
    assert!(rule(RuleMatch::comm("")).contains("is empty"));
    assert!(rule(RuleMatch::comm("sixteen-bytes-xx")).contains("longer than 15 bytes"));
    assert!(rule(RuleMatch::exe("bin/x")).contains("absolute"));
    assert!(
        plan(|config| config
            .rules
            .push(RuleConfig::new(RuleMatch::comm("fifteen-bytes-x"), config.threshold)))
        .is_ok()
    );
}

#[test]
fn the_first_matching_rule_wins() {
    let second = Duration::from_secs(1);
    let plan = plan(|config| {
        config.rules = vec![
            RuleConfig::new(RuleMatch { uid: Some(7), ..RuleMatch::comm("batch-*") }, second * 30),
            RuleConfig::new(RuleMatch::comm("batch-*"), second * 9),
            RuleConfig::new(RuleMatch::exe("/opt/*/agent"), second),
            RuleConfig::new(RuleMatch { unit: Some("web-*.service".into()), ..RuleMatch::default() }, second),
        ];
    })
    .unwrap();
    let rule = |comm, uid, exe| plan.rule_for(&Identity { comm, uid, exe, unit: None });
    assert_eq!(rule("batch-1", 7, "/opt/a/agent"), Some(0));
    assert_eq!(rule("batch-1", 8, "/opt/a/agent"), Some(1));
    assert_eq!(rule("web", 7, "/opt/a/b/agent"), Some(2));
    assert_eq!(rule("web", 7, "/usr/agent"), None);
    let in_unit =
        |unit| plan.rule_for(&Identity { comm: "web", uid: 7, exe: "/usr/agent", unit: Some(unit) });
    assert_eq!((in_unit("web-1.service"), in_unit("web.service")), (Some(3), None));
    assert_eq!((plan.threshold_min_ns(), plan.threshold_max_ns()), (1_000_000_000, 30_000_000_000));
}
