//! What `scripts/package` makes, installed, used, upgraded and removed under a real systemd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::packages::{NEXT, deb, made, packages};
use crate::common::{Chance, Event, Rig, needs_root, program_by, setting, signal, wait_for};

const UNIT: &str = "varta-fleet.service";
/// A systemd with the package of this version, the user alice, who is a member of its group, and bob.
fn installed() -> Rig {
    let rig = Rig::bare(packages());
    rig.run(&format!("dpkg --install {}", deb(env!("CARGO_PKG_VERSION"))));
    rig.run("useradd --no-create-home --groups varta alice && useradd --no-create-home bob");
    rig
}

/// A command as this user with its groups.
fn as_user(user: &str, command: &str) -> String {
    format!("setpriv --reuid {user} --regid {user} --init-groups {command}")
}

/// The files of agents to copy, without the header.
fn agents() -> BTreeSet<&'static str> {
    ["agent.c", "agent.go", "Agent.java", "agent.js", "agent.py", "agent.rs", "agent.sh"].into()
}

/// What is where packages and services write, without what systemd keeps of its own.
fn files(rig: &Rig) -> BTreeSet<String> {
    let left_out = ["/run/systemd", "/run/log", "/var/log/journal"];
    let left_out = left_out.map(|path| format!("-path {path}")).join(" -o ");
    let all = rig.run(&format!("find /etc /usr /var /run /srv /opt \\( {left_out} \\) -prune -o -print"));
    all.lines().map(str::to_owned).collect()
}

#[test]
fn the_package_brings_a_running_service_that_its_group_may_use() {
    let rig = installed();
    assert_eq!(rig.property(UNIT, "ActiveState"), "active");
    assert_eq!(rig.run(&format!("systemctl is-enabled {UNIT}")).trim(), "enabled");
    let status = rig.run(&as_user("alice", "varta-fleet status"));
    assert!(status.contains("No agent beats."), "{status}");
    // A member's process is heard, a stranger's is not, and both are told the truth.
    let mut agent = rig.command("sh");
    agent.args(["-c", &as_user("alice", "stock-agent --client 0.2 --dir /run/varta --period-ms 100")]);
    let mut agent = agent.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start an agent");
    wait_for("an agent that is up", || {
        let all = rig.run(&as_user("alice", "varta-fleet agents --json"));
        all.contains("\"stock-agent\"").then_some(())
    });
    for (command, why) in [("status", "join the group varta"), ("route", "cannot send to ")] {
        let refused = rig.attempt(&as_user("bob", &format!("varta-fleet {command}")));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(77) && said.contains(why), "{command}: {said}");
    }
    drop(agent.stdin.take());
    agent.wait().expect("it is our child");
    assert!(rig.run("cat /var/log/varta-fleet/events.jsonl").contains("\"kind\":\"up\""));
    // So is a program that was compiled with the header, and each agent is there to copy.
    let examples = "/usr/share/doc/varta-fleet/examples";
    assert_eq!(
        rig.run(&format!("cd {examples} && echo *")).split_whitespace().collect::<BTreeSet<_>>(),
        agents()
    );
    rig.run(&format!(
        "test -x {examples}/agent.sh && cc -Wall -Werror -o /usr/bin/an-agent {examples}/agent.c"
    ));
    let mut agent = rig.command("sh");
    let mut agent = agent.args(["-c", &as_user("alice", "an-agent")]).spawn().expect("start an agent");
    wait_for("an agent with the header", || {
        let all = rig.run(&as_user("alice", "varta-fleet agents --json"));
        all.contains("\"an-agent\"").then_some(())
    });
    rig.run("pkill -x an-agent");
    agent.wait().expect("it is our child");
    // Rotated: the next event is in the next file.
    rig.run("logrotate --force /etc/logrotate.d/varta-fleet");
    wait_for("the next log", || {
        let next = rig
            .attempt("cat /var/log/varta-fleet/events.jsonl && test -e /var/log/varta-fleet/events.jsonl.1");
        next.status.success().then_some(())
    });
    // What comes along is where programs look for it.
    rig.run("varta-fleet check; test $? != 77");
    rig.run("bash /usr/share/bash-completion/completions/varta-fleet");
    for page in [
        "man1/varta-fleet.1",
        "man1/varta-fleet-config.1",
        "man5/varta-fleet.toml.5",
        "man7/varta-fleet-events.7",
    ] {
        rig.run(&format!("zcat /usr/share/man/{page}.gz | grep -q '^.SH'"));
    }
    let sysctl = rig.run("systemd-analyze cat-config sysctl.d");
    assert!(sysctl.contains("\nnet.unix.max_dgram_qlen = "), "{sysctl}");
    assert_eq!(rig.run("stat --format %a /etc/varta-fleet.toml").trim(), "644");
}

#[test]
fn an_upgrade_restarts_the_service_and_keeps_what_the_operator_changed() {
    let rig = installed();
    rig.run("echo '# mine' >> /etc/varta-fleet.toml");
    let before = rig.property(UNIT, "MainPID");
    let upgrade = format!("dpkg --install {}", deb(NEXT));
    rig.run(&upgrade);
    let after = rig.property(UNIT, "MainPID");
    assert!(
        rig.property(UNIT, "ActiveState") == "active" && after != before && after != "0",
        "{before} {after}"
    );
    assert_eq!(rig.run(&format!("readlink /proc/{after}/exe")).trim(), "/usr/bin/varta-fleet");
    assert_eq!(rig.run("dpkg-query --show --showformat '${Version}' varta-fleet"), NEXT);
    assert!(rig.run("cat /etc/varta-fleet.toml").ends_with("\n# mine\n"));
    rig.run(&as_user("alice", "varta-fleet status"));

    // What the new version would refuse keeps the one before running.
    rig.run("echo 'treshold = 7' > /etc/varta-fleet.toml");
    let said = rig.run(&format!("{upgrade} 2>&1"));
    assert!(
        said.contains("did you mean threshold?") && said.contains("the one before goes on running"),
        "{said}"
    );
    assert_eq!(rig.property(UNIT, "MainPID"), after);
    // A service that the operator stopped stays so.
    rig.run(&format!("echo > /etc/varta-fleet.toml; systemctl stop {UNIT}; {upgrade}"));
    assert_eq!(rig.property(UNIT, "ActiveState"), "inactive");
}

/// Agents that beat all the time, one of which stops for good just before the upgrade, and no other.
#[test]
fn an_upgrade_under_load_tells_the_one_stall_and_loses_nobody() {
    const AGENTS: usize = 200;
    let rig = installed();
    // Longer than the upgrade takes: the version that saw the last beat is not the one that tells of the silence.
    rig.run(&format!("echo 'threshold = \"10s\"' >> /etc/varta-fleet.toml && systemctl restart {UNIT}"));
    let crowd = Crowd::start(&rig, AGENTS);
    let stopped = crowd.pids[AGENTS / 2];
    let count = |what: &str| count(&rig, what);
    rig.run(&format!("kill -STOP {stopped} && dpkg --install {}", deb(NEXT)));
    wait_for("the stall of the one that stopped", || (count("stalled") > 0).then_some(()));
    assert_eq!((count("up"), count("stalled")), (AGENTS as u64 - 1, 1));
    let events = rig.events();
    let of_kind = |kind: &str| events.iter().filter(|event| event.kind() == kind).collect::<Vec<_>>();
    let [stall] = of_kind("stall")[..] else { panic!("{:?}", of_kind("stall")) };
    assert_eq!(stall.pid(), Some(stopped));
    // Nobody is new, nobody is gone, nobody is told twice.
    assert_eq!((of_kind("up").len(), of_kind("exit").len()), (AGENTS, 0));
    let restart = of_kind("restart").pop().expect("the upgrade restarts it");
    assert_eq!(restart.u64("adopted"), AGENTS as u64, "{restart}");
    let seqs: Vec<u64> = events.iter().map(|event| event.u64("seq")).collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
}

/// The service is restarted, killed, reloaded and upgraded at random, and each time an agent stops: what happened is
/// reported, once, and nothing else.
#[test]
fn a_service_that_is_treated_badly_tells_what_happened_once() {
    let mut chance = Chance::from_environment();
    let (seconds, agents) = (setting("VARTA_CHAOS_SECONDS", 12), setting("VARTA_CHAOS_AGENTS", 40));
    let rig = installed();
    rig.run(&format!("echo 'threshold = \"2s\"' >> /etc/varta-fleet.toml && systemctl restart {UNIT}"));
    let crowd = Crowd::start(&rig, agents as usize);
    let mut stops: BTreeMap<u32, usize> = BTreeMap::new();
    let (mut done, mut version) = (BTreeMap::<&str, u32>::new(), false);
    let end = Instant::now() + Duration::from_secs(seconds.into());
    while Instant::now() < end {
        let pid = crowd.pids[chance.below(agents) as usize];
        rig.run(&format!("kill -STOP {pid}"));
        *stops.entry(pid).or_default() += 1;
        let stalls = stops[&pid];
        let what = ["restart", "kill", "reload", "upgrade"][chance.below(4) as usize];
        *done.entry(what).or_default() += 1;
        rig.run(&match what {
            "restart" => format!("systemctl restart {UNIT}"),
            "kill" => format!("systemctl kill --kill-whom=main --signal=KILL {UNIT}"),
            "reload" => format!("systemctl reload {UNIT}"),
            _ => {
                version = !version;
                let to = if version { NEXT } else { env!("CARGO_PKG_VERSION") };
                format!("dpkg --install {} 2>&1", deb(to))
            }
        });
        let told = |kind: &str| once(&rig.events()).iter().filter(|event| event.is(kind, pid)).count();
        wait_for("the stall", || (told("stall") == stalls).then_some(()));
        rig.run(&format!("kill -CONT {pid}"));
        wait_for("the return", || (told("resume") == stalls).then_some(()));
    }
    let events = once(&rig.events());
    for pid in &crowd.pids {
        let of = |kind: &str| events.iter().filter(|event| event.is(kind, *pid)).count();
        let expected = stops.get(pid).copied().unwrap_or(0);
        let found = ["up", "stall", "resume", "exit"].map(of);
        assert_eq!(found, [1, expected, expected, 0], "{pid}: {events:#?}");
    }
    let seqs: Vec<u64> = events.iter().map(|event| event.u64("seq")).collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
    eprintln!("{agents} agents, {done:?}, {} silences", stops.values().sum::<usize>());
}

/// Agents of alice inside, which beat each 100 ms. They end with this.
struct Crowd {
    parent: Child,
    pids: Vec<u32>,
    _input: ChildStdin,
}

impl Crowd {
    /// Starts this many, which are up afterwards.
    fn start(rig: &Rig, agents: usize) -> Self {
        let mut parent = rig.command("sh");
        parent.args(["-c", &as_user("alice", "stock-agent --client 0.2 --dir /run/varta --period-ms 100")]);
        let mut parent = parent.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start agents");
        let mut input = parent.stdin.take().expect("a pipe");
        let mut output =
            BufReader::new(parent.stdout.take().expect("a pipe")).lines().map(|line| line.expect("text"));
        let pid = |word: &str| word.parse::<u32>().ok();
        let up = output.next().expect("an answer");
        let first = up.strip_prefix("up ").and_then(pid).expect("a pid");
        writeln!(input, "spawn {}", agents - 1).expect("it reads");
        let spawned = output.next().expect("an answer");
        let pids: Vec<u32> = [first].into_iter().chain(spawned.split(' ').filter_map(pid)).collect();
        assert_eq!(pids.len(), agents, "{spawned}");
        wait_for("agents that beat", || (count(rig, "up") == agents as u64).then_some(()));
        Self { parent, pids, _input: input }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}

/// A count of the fleet inside.
fn count(rig: &Rig, what: &str) -> u64 {
    let status = rig.run("varta-fleet status --json || true");
    serde_json::from_str(&status).map_or(0, |fleet: Value| fleet[what].as_u64().expect("a number"))
}

/// Each of them once, as a reader takes them.
fn once(events: &[Event]) -> Vec<Event> {
    let mut last = 0;
    let is_new = |event: &&Event| {
        let is_new = !event.has("again") || event.u64("seq") > last;
        last = last.max(event.u64("seq"));
        is_new
    };
    events.iter().filter(is_new).cloned().collect()
}

#[test]
fn a_removal_leaves_configuration_and_logs_and_a_purge_nothing() {
    let rig = Rig::bare(packages());
    let accounts = || rig.run("cat /etc/passwd /etc/group /etc/shadow /etc/gshadow");
    let (before, accounts_before) = (files(&rig), accounts());
    rig.run(&format!("dpkg --install {}", deb(env!("CARGO_PKG_VERSION"))));
    // Where alerts say that it is, unless they are told otherwise.
    rig.run("grep -q '^## VartaStallWave' /usr/share/doc/varta-fleet/RUNBOOK.md");
    rig.run("cd /usr/share/varta-fleet && test -f README.md -a -f prometheus/runbook.yml -a -f grafana/varta-fleet.json");
    let sockets = "varta-fleet-control.socket varta-fleet-shard@0.socket";
    rig.run(&format!("systemctl stop {UNIT} && systemctl enable --now {sockets} && systemctl start {UNIT}"));
    rig.run("dpkg --remove varta-fleet");
    assert_eq!(rig.run("pgrep -x varta-fleet || true"), "");
    let left: Vec<String> = files(&rig).difference(&before).cloned().collect();
    let expected = |path: &String| {
        let is_log = path.starts_with("/var/log/varta-fleet");
        let is_config = ["/etc/varta-fleet.toml", "/etc/logrotate.d/varta-fleet"].contains(&path.as_str());
        // Which units were enabled, and what dpkg knows.
        let is_record = path.starts_with("/etc/systemd/system/") && path.contains(".wants")
            || path.starts_with("/var/lib/systemd/deb-systemd-helper-")
            || path.starts_with("/var/lib/dpkg/info/varta-fleet.");
        is_log || is_config || is_record
    };
    assert!(left.iter().all(expected), "{left:#?}");
    for kept in ["/etc/varta-fleet.toml", "/var/log/varta-fleet/events.jsonl"] {
        assert!(left.iter().any(|path| path == kept), "{left:#?}");
    }
    // Installed again, it runs again.
    rig.run(&format!("dpkg --install {}", deb(env!("CARGO_PKG_VERSION"))));
    assert_eq!(rig.property(UNIT, "ActiveState"), "active");
    rig.run("dpkg --remove varta-fleet && dpkg --purge varta-fleet");
    let left: Vec<String> = files(&rig).difference(&before).cloned().collect();
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(accounts(), accounts_before);
}

/// In a root that has nothing but the program, as that of a container made by `scripts/deploy/Containerfile`.
#[test]
fn the_program_of_the_tarball_runs_alone() {
    needs_root("it changes the root of a process");
    let directory = tempfile::tempdir().expect("a directory");
    let tarball = made("varta-fleet-", ".tar.gz");
    let status = Command::new("tar").arg("-xzf").arg(&tarball).arg("-C").arg(directory.path()).status();
    assert!(status.expect("run tar").success());
    let name = tarball.file_name().expect("it has one").to_string_lossy().replace(".tar.gz", "");
    let tree = directory.path().join(name);
    for file in [
        "deploy/systemd/varta-fleet.service",
        "deploy/varta-fleet.toml",
        "man/man5/varta-fleet.toml.5",
        "LICENSE-MIT",
        "agents/varta.h",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(agents().iter().map(|file| format!("agents/{file}")))
    {
        assert!(tree.join(&file).exists(), "{file} is missing");
    }
    let root = directory.path().join("root");
    fs::create_dir_all(root.join("run")).expect("it is ours");
    fs::create_dir(root.join("proc")).expect("it is ours");
    // The configuration that the program is told to read.
    fs::create_dir(root.join("dev")).and_then(|()| fs::write(root.join("dev/null"), "")).expect("it is ours");
    crate::common::copy_program(&tree.join("varta-fleet"), &root.join("varta-fleet"));
    let script = "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" /varta-fleet \"$@\"";
    let inside = |arguments: &[&str]| {
        let mut command = program_by("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&root).args(arguments);
        command
    };
    let version = inside(&["--version"]).output().expect("run it");
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("varta-fleet {}\n", env!("CARGO_PKG_VERSION"))
    );
    let check = inside(&["check", "--shards", "1", "--agents-max", "1"]).output().expect("run it");
    assert!(String::from_utf8_lossy(&check.stdout).contains("/run/varta/shard-0.sock"), "{check:?}");
    let mut observer = inside(&["run", "--shards", "1", "--agents-max", "10", "--print-ready"]);
    let mut observer = observer.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start it");
    let mut ready = String::new();
    BufReader::new(observer.stdout.take().expect("a pipe")).read_line(&mut ready).expect("its output");
    assert_eq!(ready, "ready shards=1 dir=/run/varta\n");
    let mut status = program_by(tree.join("varta-fleet"));
    let status = status.args(["status", "--dir"]).arg(root.join("run/varta")).output().expect("run it");
    assert!(String::from_utf8_lossy(&status.stdout).contains("No agent beats."), "{status:?}");
    signal(observer.id(), Signal::TERM);
    assert_eq!(observer.wait().expect("it is our child").code(), Some(0));
}

#[test]
fn the_bill_of_materials_names_every_crate_and_no_path_of_the_builder() {
    let text = fs::read_to_string(made("varta-fleet-", ".cdx.json")).expect("read it");
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")));
    let bill: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let components = bill["components"].as_array().expect("a list");
    let named = |part: &Value| Some(format!("{} v{}", part["name"].as_str()?, part["version"].as_str()?));
    let named: BTreeSet<String> = components.iter().filter_map(named).collect();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let tree = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--edges", "normal,no-proc-macro", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run cargo");
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    let used: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    let missing: Vec<_> =
        used.iter().filter(|name| !name.starts_with("varta-fleet ") && !named.contains(**name)).collect();
    assert!(used.len() > 50 && missing.is_empty(), "{missing:?}");
}
