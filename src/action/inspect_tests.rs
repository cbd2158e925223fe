//! What is found on a real host, and what would be on others.

use std::os::unix::net::UnixListener;

use super::*;
use crate::config::{ActionConfig, ActionMatch, Config, Trigger, UnitVerb};

fn config(action: ActionConfig) -> Config {
    Config { dir: Some("/tmp/varta".into()), actions: vec![action], ..Config::default() }
}

fn action(change: impl FnOnce(&mut ActionConfig)) -> ActionConfig {
    let mut action = ActionConfig::default();
    (action.name, action.on) = ("act".to_owned(), vec![Trigger::Stall]);
    action.matches = ActionMatch { unit: Some("worker@*.service".to_owned()), ..ActionMatch::default() };
    change(&mut action);
    action
}

/// What hinders this action on a host with this user, these capabilities and these units.
fn told(host: (u32, u64, &[&str]), change: impl FnOnce(&mut Config, &mut ActionConfig)) -> Vec<String> {
    let mut config = config(ActionConfig::default());
    let action = action(|action| change(&mut config, action));
    config.actions = vec![action];
    let act = config.plan().unwrap().act.unwrap();
    let (uid, capabilities, units) = host;
    let host = Host {
        rights: Rights { uid, capabilities },
        has_systemd: units.first() != Some(&"none"),
        has_bus: units.first() != Some(&"no bus"),
        groups: units.iter().map(|unit| format!("0::/system.slice/{unit}\n")).collect(),
    };
    of_action(&act.actions[0], &act, &host).iter().map(ToString::to_string).collect()
}

const WORKER: &[&str] = &["cron.service", "worker@7.service"];

#[test]
fn what_this_user_may_not_do_is_told() {
    let signal = |action: &mut ActionConfig| action.signal = Some(6);
    assert_eq!(told((0, CAP_KILL, WORKER), |_, action| signal(action)), [""; 0]);
    let refused = told((7, 0, WORKER), |_, action| signal(action));
    assert_eq!(refused, ["action act: user 7 may not signal processes of other users, which needs CAP_KILL"]);
    assert_eq!(told((7, CAP_KILL, WORKER), |_, action| signal(action)), [""; 0]);
    let own = |_: &mut Config, action: &mut ActionConfig| {
        (action.signal, action.matches.uid) = (Some(6), Some(7));
    };
    assert_eq!(told((7, 0, WORKER), own), [""; 0]);
    assert_eq!(told((8, 0, WORKER), own).len(), 1);

    let program = |action: &mut ActionConfig, user| {
        (action.run, action.user) = (Some(vec!["/bin/true".to_owned()]), user);
    };
    assert_eq!(told((7, 0, WORKER), |_, action| program(action, None)), [""; 0]);
    assert_eq!(told((7, 0, WORKER), |_, action| program(action, Some((7, 7)))), [""; 0]);
    assert_eq!(
        told((0, CAP_SETUID | CAP_SETGID, WORKER), |_, action| program(action, Some((7, 7)))),
        [""; 0]
    );
    for capabilities in [0, CAP_SETUID, CAP_SETGID, CAP_KILL] {
        let refused = told((8, capabilities, WORKER), |_, action| program(action, Some((7, 7))));
        assert_eq!(refused, ["action act: user 8 may not start a program as user 7, which needs CAP_SETUID"]);
    }
    let restart = |action: &mut ActionConfig| action.systemd = Some(UnitVerb::Restart);
    assert_eq!(told((0, 0, WORKER), |_, action| restart(action)), [""; 0]);
    assert!(told((7, 0, WORKER), |_, action| restart(action))[0].contains("unless polkit allows it"));
    // A spawner of its own has rights of its own.
    let by_another = |config: &mut Config, action: &mut ActionConfig| {
        (config.spawner, action.signal) = (Some("/run/act.sock".into()), Some(6));
    };
    assert_eq!(told((7, 0, WORKER), by_another), [""; 0]);
}

#[test]
fn a_unit_that_no_process_is_in_is_told() {
    let refused = told((0, CAP_KILL, &["cron.service"]), |_, action| action.signal = Some(6));
    assert_eq!(refused, ["action act: no process is in a unit that worker@*.service matches now"]);
    let in_group = |pattern: &str| {
        let pattern = Some(pattern.to_owned());
        told((0, CAP_KILL, WORKER), |_, action| {
            (action.signal, action.matches.cgroup) = (Some(6), pattern);
        })
    };
    assert_eq!(in_group("/system.slice/*"), [""; 0]);
    assert_eq!(
        in_group("/kubepods.slice/*"),
        ["action act: no process is in a control group that /kubepods.slice/* matches now"]
    );
    let refused = told((0, 0, &["none"]), |_, action| action.systemd = Some(UnitVerb::Stop));
    assert_eq!(refused.len(), 2);
    assert!(refused[1].contains("there is no systemd to ask on this host"), "{refused:?}");
    let refused = told((0, 0, &["no bus"]), |_, action| action.systemd = Some(UnitVerb::Stop));
    assert_eq!(refused.len(), 2);
    assert!(refused[1].contains("there is no system bus"), "{refused:?}");
}

#[test]
fn files_that_cannot_be_written_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let told = |change: &dyn Fn(&mut Config)| {
        let mut config = config(action(|action| action.signal = Some(6)));
        change(&mut config);
        let troubles = inspect(&config.plan().unwrap());
        let problems = troubles.iter().filter(|trouble| trouble.is_problem());
        problems.map(|trouble| format!("{trouble}; {}", trouble.fix())).collect::<Vec<_>>()
    };
    fs::write(path("file"), "").unwrap();
    fs::create_dir(path("evidence")).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    for name in ["audit", "file"] {
        assert_eq!(told(&|config| config.audit = Some(path(name))), [""; 0], "{name}");
    }
    assert_eq!(told(&|config| config.evidence_dir = Some(path("evidence"))), [""; 0]);
    assert_eq!(told(&|config| config.spawner = Some(path("socket"))), [""; 0]);
    assert_eq!(told(&|config| config.dir = Some(path("run"))), [""; 0], "its evidence directory is made");
    for (change, expected) in [
        (
            &|config: &mut Config| config.audit = Some(path("none/audit")) as _,
            "cannot write the audit file, ",
        ),
        (&|config: &mut Config| config.audit = Some(path("evidence")), "evidence: it is not a regular file"),
        (&|config: &mut Config| config.audit = Some(path("file/audit")), "cannot write the audit file, "),
        (&|config: &mut Config| config.evidence_dir = Some(path("none")), "create the directory "),
        (&|config: &mut Config| config.evidence_dir = Some(path("file")), "file: not a directory"),
        (
            &|config: &mut Config| config.spawner = Some(path("none")),
            "none: there is no such socket; start the service",
        ),
        (&|config: &mut Config| config.spawner = Some(path("file")), "file: it is not a socket"),
    ] as [(&dyn Fn(&mut Config), &str); 7]
    {
        let told = told(change);
        assert!(told.len() == 1 && told[0].contains(expected), "{expected}: {told:?}");
    }
    assert!(rustix::process::geteuid().is_root(), "this test needs root, to give a socket to another");
    std::os::unix::fs::chown(path("socket"), Some(54_321), None).unwrap();
    let foreign = told(&|config| config.spawner = Some(path("socket")));
    assert!(
        foreign[0].contains("it belongs to user 54321, and only root and user 0 are believed"),
        "{foreign:?}"
    );
}

#[test]
fn a_share_that_is_never_exceeded_is_told() {
    let mut config = config(action(|action| action.signal = Some(6)));
    let has_none = |config: &Config| {
        inspect(&config.plan().unwrap()).iter().any(|trouble| matches!(trouble, ActionTrouble::NoShare))
    };
    config.brake.share.percent = 99;
    assert!(!has_none(&config));
    config.brake.share.percent = 100;
    assert!(has_none(&config));
    config.actions.clear();
    assert!(!has_none(&config), "there is nothing to hold back");
}

#[test]
fn rights_are_read_from_this_process() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let own = Rights::own();
    assert_eq!(
        (own.uid, format!("{:016x}", own.capabilities)),
        (0, effective.to_owned()),
        "this test needs root"
    );
}
