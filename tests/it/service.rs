//! The shipped units under a real systemd, which a test boots for itself, and what the observer tells a service
//! manager.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{PROGRAM, Place, Rig, SOON, program, program_by, signal, wait_for};

const UNITS: &str =
    "varta-fleet.service varta-fleet-act.service varta-fleet-shard@0.socket varta-fleet-control.socket";
const CONFIG: &str = r#"
shards = 1
threshold = "30s"
mode = "0660"
events = "/var/log/varta-fleet/events.jsonl"
"#;

/// A stock agent inside. It ends with this.
struct AgentInside {
    child: Child,
    pid: u32,
    _commands: ChildStdin,
}

impl AgentInside {
    fn start(rig: &Rig, arguments: &str) -> Self {
        let mut child = rig
            .command("stock-agent")
            .args(["--client", "0.2", "--socket", "/run/varta/shard-0.sock"])
            .args(arguments.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start an agent");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("it answers");
        let pid = line.trim().strip_prefix("up ").and_then(|pid| pid.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("the agent says {line:?}"));
        Self { _commands: child.stdin.take().expect("a pipe"), child, pid }
    }
}

impl Drop for AgentInside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of a metric inside.
fn metric(rig: &Rig, name: &str) -> f64 {
    let metrics = rig.run("curl -s --unix-socket /run/varta/control.sock http://localhost/metrics");
    let line = metrics.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// The wall clock, seconds.
fn wall(rig: &Rig) -> f64 {
    rig.run("date +%s.%N").trim().parse().expect("a number")
}

#[test]
fn units_are_understood_and_confined() {
    let rig = Rig::boot(CONFIG);
    // It succeeds in spite of what it complains about, such as a key that it does not know.
    let said = rig.attempt(&format!("systemd-analyze verify {UNITS} 2>&1"));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "");
    assert!(said.status.success());
    rig.run("systemd-analyze security --no-pager --threshold=25 varta-fleet.service");
    // Root, with what an action may need.
    rig.run("systemd-analyze security --no-pager --threshold=55 varta-fleet-act.service");
    // By default it is 0, and everything that is to be stored is dropped without a word.
    assert_ne!(rig.property("varta-fleet.service", "FileDescriptorStoreMax"), "0");
}

/// One boot, in the order of an operator's day.
#[test]
fn a_day_under_systemd() {
    let rig = Rig::boot(CONFIG);
    beats_from_before_the_start_are_taken(&rig);
    a_restart_keeps_sockets_and_manifest(&rig);
    a_reload_changes_what_is_live(&rig);
    a_stuck_shard_is_restarted(&rig);
    a_name_that_is_not_known_is_refused(&rig);
    check_sees_what_a_start_would(&rig);
}

fn beats_from_before_the_start_are_taken(rig: &Rig) {
    // Activation by the first beat waits until the test lets it go on.
    rig.run("mkdir -p /etc/systemd/system/varta-fleet.service.d && mkfifo /run/go && chmod 644 /run/go");
    rig.write(
        "/etc/systemd/system/varta-fleet.service.d/hold.conf",
        "[Service]\nExecStartPre=/bin/sh -c 'read line </run/go'\n",
    );
    rig.run(
        "systemctl daemon-reload && systemctl start varta-fleet-shard@0.socket varta-fleet-control.socket",
    );
    assert_eq!(
        rig.run("stat -c '%a %U %G' /run/varta/shard-0.sock /run/varta/control.sock").trim(),
        "660 varta varta\n660 varta varta"
    );
    let agent = AgentInside::start(rig, "--beats 5 --period-ms 0");
    wait_for("the activation", || {
        (rig.property("varta-fleet.service", "ActiveState") == "activating").then_some(())
    });
    let queued_at = wall(rig);
    rig.run("rm /etc/systemd/system/varta-fleet.service.d/hold.conf");
    let held = wall(rig) - queued_at;
    rig.run("echo >/run/go && systemctl start varta-fleet.service");
    // It is ready: agents find it.
    rig.run("test -e /run/varta/fleet.json");
    assert_eq!(rig.property("varta-fleet.service", "ActiveState"), "active");
    wait_for("the beats of before", || (metric(rig, "varta_beats_total") > 4.5).then_some(()));
    let up = wait_for("the agent", || {
        let events = rig.run("cat /var/log/varta-fleet/events.jsonl");
        let up = events.lines().find(|line| line.contains("\"kind\":\"up\""))?;
        Some(serde_json::from_str::<serde_json::Value>(up).expect("JSON"))
    });
    assert_eq!(up["pid"].as_u64(), Some(agent.pid.into()), "{up}");
    let measured = || metric(rig, "varta_queue_seconds_count") > 4.5;
    wait_for("how long they were queued", || measured().then_some(()));
    let waited = metric(rig, "varta_queue_seconds_sum");
    assert!(waited >= held, "stamped when they were sent, {held} s before the start: {waited} s");
    let expected = rig.run("cat /proc/sys/net/unix/max_dgram_qlen");
    assert_eq!(metric(rig, "varta_socket_queue_limit").to_string(), expected.trim());
    wait_for("the line of status", || {
        rig.property("varta-fleet.service", "StatusText")
            .starts_with("1 agent up, 0 stalled, on 1 shard")
            .then_some(())
    });
    let by_priority =
        |what: &str| rig.run(&format!("journalctl --output=cat --no-pager -u varta-fleet {what}"));
    let (warnings, all) = (by_priority("--priority=warning"), by_priority("--priority=info"));
    // A test runs it in a pid namespace, of which it warns.
    assert!(warnings.contains("warning: this observer runs inside a pid namespace"), "{warnings}");
    assert!(!warnings.contains("observing /run/varta"), "{warnings}");
    assert!(all.lines().any(|line| line.starts_with("observing /run/varta")), "{all}");
    let journal = rig.journal();
    assert!(!journal.contains("PassCredentials") && !journal.contains("did not pass"), "{journal}");
}

fn a_restart_keeps_sockets_and_manifest(rig: &Rig) {
    let sockets = "stat -c %i /run/varta/shard-0.sock /run/varta/control.sock";
    let before = rig.run(sockets);
    rig.run("systemctl daemon-reload && systemctl stop varta-fleet.service");
    // Agents that start meanwhile find the sockets by it.
    rig.run("grep -q shard-0.sock /run/varta/fleet.json");
    rig.run("systemctl start varta-fleet.service");
    rig.run("grep -q shard-0.sock /run/varta/fleet.json");
    assert_eq!(rig.run(sockets), before);
}

fn a_reload_changes_what_is_live(rig: &Rig) {
    let main = rig.property("varta-fleet.service", "MainPID");
    let threshold = || {
        rig.run(
            "curl -s --unix-socket /run/varta/control.sock http://localhost/api/v1/fleet | jq .threshold_ns",
        )
    };
    let is_successful = || metric(rig, "varta_config_last_reload_successful");
    rig.write("/etc/varta-fleet.toml", &CONFIG.replace("30s", "20s"));
    rig.run("systemctl reload varta-fleet.service");
    wait_for("the new threshold", || (threshold().trim() == "20000000000").then_some(()));
    assert_eq!(is_successful().to_string(), "1");
    rig.write("/etc/varta-fleet.toml", &CONFIG.replace("30s", "soon"));
    rig.run("systemctl reload varta-fleet.service");
    wait_for("the refusal", || (is_successful() < 0.5).then_some(()));
    let problems = rig.run("journalctl --output=cat --no-pager --priority=err -u varta-fleet");
    assert!(problems.contains("soon"), "{problems}");
    // A client gets the reasons, and its exit code.
    let refused = rig.attempt("varta-fleet reload");
    assert_eq!(refused.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("soon"), "{refused:?}");
    rig.write("/etc/varta-fleet.toml", CONFIG);
    let reloaded = rig.run("varta-fleet reload");
    assert!(reloaded.contains("threshold"), "{reloaded}");
    assert_eq!(threshold().trim(), "30000000000");
    assert_eq!(rig.property("varta-fleet.service", "MainPID"), main);
    assert_eq!(rig.property("varta-fleet.service", "ActiveState"), "active");
}

fn a_stuck_shard_is_restarted(rig: &Rig) {
    rig.write("/etc/systemd/system/varta-fleet.service.d/fast.conf", "[Service]\nWatchdogSec=2s\n");
    rig.run("systemctl daemon-reload && systemctl restart varta-fleet.service");
    let main = rig.property("varta-fleet.service", "MainPID");
    let shard = format!("grep -l '^varta-shard-0$' /proc/{main}/task/*/comm | cut -d/ -f5");
    let shard = rig.run(&shard).trim().to_owned();
    // Its next receive call takes a minute.
    let mut strace = rig
        .command("strace")
        .args(["-qq", "-o/dev/null", "-e", "inject=recvmmsg:delay_enter=60000000", "-p", &shard])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is missing: scripts/check --setup installs it");
    wait_for("the watchdog", || rig.journal().contains("Watchdog timeout").then_some(()));
    // A thread that is held up by strace would not end.
    rig.run("kill -KILL $(pidof strace)");
    strace.wait().expect("it is our child");
    wait_for("the restart", || {
        let pid = rig.property("varta-fleet.service", "MainPID");
        let is_active = rig.property("varta-fleet.service", "ActiveState") == "active";
        (pid != "0" && pid != main && is_active).then_some(())
    });
    assert_eq!(rig.property("varta-fleet.service", "NRestarts"), "1");
}

fn a_name_that_is_not_known_is_refused(rig: &Rig) {
    rig.write(
        "/etc/systemd/system/other.socket",
        "[Socket]\nListenDatagram=/run/varta/other.sock\nService=varta-fleet.service\nFileDescriptorName=other\n",
    );
    rig.run("systemctl stop varta-fleet.service; systemctl daemon-reload; systemctl start other.socket");
    assert!(!rig.attempt("systemctl start varta-fleet.service").status.success());
    assert_eq!(rig.property("varta-fleet.service", "ExecMainStatus"), "78");
    assert_eq!(rig.property("varta-fleet.service", "ActiveState"), "failed", "it is not started again");
    let journal = rig.journal();
    assert!(journal.contains("passed as \"other\"") && journal.contains("shard-0 to shard-63"), "{journal}");
}

/// `check` in the place of the observer: a watchdog that is too fast, and a socket whose queue attests nobody.
fn check_sees_what_a_start_would(rig: &Rig) {
    rig.write(
        "/etc/systemd/system/checked.service",
        "[Service]\nWatchdogSec=1s\nEnvironment=VARTA_DIR=/run/checked\nRuntimeDirectory=checked\n\
         ExecStart=/usr/bin/varta-fleet check --config /dev/null --shards 2\n",
    );
    rig.write(
        "/etc/systemd/system/checked.socket",
        "[Socket]\nListenDatagram=/run/checked/shard-0.sock\nFileDescriptorName=shard-0\n",
    );
    rig.run("systemctl daemon-reload && systemctl start checked.socket && systemctl start checked.service");
    let said = wait_for("what check says", || {
        let said = rig.run("journalctl --output=cat --no-pager -u checked.service");
        said.contains(" notes").then_some(said)
    });
    for part in [
        "WatchdogSec= is 1 s",
        "shard-0 was passed without PassCredentials=yes",
        "shard-0 was passed without Timestamping=ns",
        "the service manager did not pass shard-1",
    ] {
        assert!(said.contains(&format!("note: {part}")), "{part}: {said}");
    }
}

/// What a service manager is told by an observer that this starts with a socket for it.
struct Told {
    observer: Child,
    manager: UnixDatagram,
    place: Place,
}

impl Told {
    /// `within`: the words of a command that runs the observer.
    fn start(within: &[&str], watchdog: Option<Duration>) -> Self {
        let place = Place::new();
        let socket = place.base().join("notify");
        let manager = UnixDatagram::bind(&socket).expect("bind a socket");
        manager.set_read_timeout(Some(SOON)).expect("set an option");
        let mut command = match within {
            [] => program(),
            [first, rest @ ..] => {
                let mut command = program_by(first);
                command.args(rest).arg(PROGRAM);
                command
            }
        };
        command.args(["run", "--shards", "1", "--dir"]).arg(place.dir());
        command.env("NOTIFY_SOCKET", &socket).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        Self { observer: command.spawn().expect("start an observer"), manager, place }
    }

    fn next(&self) -> String {
        let mut bytes = [0; 512];
        let len = self.manager.recv(&mut bytes).expect("it is told something");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    /// The next message that begins like this.
    fn expect(&self, start: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let told = self.next();
            if told.starts_with(start) {
                return told;
            }
            assert!(Instant::now() < deadline, "not told {start}, but {told}");
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.observer.kill();
        let _ = self.observer.wait();
    }
}

#[test]
fn a_service_manager_is_told_once_every_shard_turns_and_at_the_end() {
    let told = Told::start(&[], None);
    assert!(told.expect("STATUS=").starts_with("STATUS=no agents up, 0 stalled, on 1 shard"));
    assert_eq!(told.next(), "READY=1");
    assert!(told.place.dir().join("fleet.json").exists());
    signal(told.observer.id(), Signal::TERM);
    assert_eq!(told.next(), "STOPPING=1", "nothing of a watchdog that was not asked for");
}

#[test]
fn an_observer_whose_shard_does_not_receive_is_not_ready() {
    // A receive call of the shard takes until the test ends its tracer, which `-D` detaches from the observer.
    let delay = "inject=recvmmsg:delay_enter=60000000:when=2";
    let told = Told::start(&["strace", "-D", "-qq", "-f", "-o/dev/null", "-e", delay], None);
    let observer = told.observer.id();
    wait_for("the shard", || task_named(observer, "varta-shard-0").map(drop));
    told.manager.set_read_timeout(Some(Duration::from_millis(500))).expect("set an option");
    let mut bytes = [0; 512];
    while let Ok(len) = told.manager.recv(&mut bytes) {
        assert!(!bytes[..len].starts_with(b"READY"), "a shard does not receive");
    }
    told.manager.set_read_timeout(Some(SOON)).expect("set an option");
    let status = std::fs::read_to_string(format!("/proc/{observer}/status")).expect("it lives");
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).expect("a field of status");
    signal(tracer.trim().parse().expect("a pid"), Signal::KILL);
    told.expect("READY=1");
}

/// A thread of this process, by name.
fn task_named(pid: u32, name: &str) -> Option<std::fs::DirEntry> {
    let is_it = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().find(is_it)
}

/// It would wait for its delayed call.
fn end(strace: &mut Child) {
    strace.kill().expect("it is our child");
    strace.wait().expect("it is our child");
}

/// Makes the next call of this kind of a thread take a minute.
fn hold_up(told: &Told, thread: &str, call: &str) -> Child {
    let task = task_named(told.observer.id(), thread).expect(thread);
    let strace = Command::new("strace")
        .args(["-qq", "-o/dev/null", "-e", &format!("inject={call}:delay_enter=60000000"), "-p"])
        .arg(task.file_name())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is missing: scripts/check --setup installs it");
    let status = task.path().join("status");
    wait_for("strace", || {
        let status = std::fs::read_to_string(&status).expect("it lives");
        (!status.contains("TracerPid:\t0\n")).then_some(())
    });
    strace
}

#[test]
fn the_watchdog_is_fed_while_shards_and_aggregator_turn_whatever_else_does() {
    const FEED: Duration = Duration::from_millis(200);
    let told = Told::start(&[], Some(FEED));
    told.expect("WATCHDOG=1");
    let mut strace = hold_up(&told, "varta-lookup", "futex");
    for _ in 0..5 {
        told.expect("WATCHDOG=1");
    }
    end(&mut strace);
    for (thread, call) in [("varta-shard-0", "recvmmsg"), ("varta-aggregate", "futex")] {
        let told = Told::start(&[], Some(FEED));
        told.expect("WATCHDOG=1");
        let mut strace = hold_up(&told, thread, call);
        told.manager.set_read_timeout(Some(5 * FEED)).expect("set an option");
        let deadline = Instant::now() + SOON;
        while told.manager.recv(&mut [0; 512]).is_ok() {
            assert!(Instant::now() < deadline, "{thread} is stuck, and the watchdog is fed");
        }
        end(&mut strace);
    }
}

/// What a spawner answers to each of these orders, one line each, as this user. Python: nothing else here speaks with
/// sockets of that type.
fn asked(rig: &Rig, user: &str, orders: &[&str]) -> String {
    let script = "import os,pwd,socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n\
                  os.setuid(pwd.getpwnam(sys.argv[1]).pw_uid)\ns.connect('/run/varta/act.sock')\n\
                  print(s.recv(100000).decode())\n\
                  for order in sys.argv[2:]:\n s.send(order.encode())\n while True:\n  said=s.recv(100000).decode()\n  \
                  print(said)\n  if '\"report\":\"evidence\"' not in said: break\n";
    let output =
        rig.command("python3").args(["-c", script, user]).args(orders).output().expect("run in the rig");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_spawner_serves_root_and_the_observer_and_its_children_outlive_a_restart() {
    let rig = Rig::boot(CONFIG);
    rig.run("systemctl start varta-fleet-act.service varta-fleet.service");
    wait_for("the socket of the spawner", || {
        rig.attempt("test -S /run/varta/act.sock").status.success().then_some(())
    });
    let hello = "{\"report\":\"hello\",\"version\":1}\n";
    assert_eq!(asked(&rig, "varta", &[]), hello);
    assert_eq!(asked(&rig, "root", &[]), hello);
    assert_eq!(asked(&rig, "nobody", &[]), "\n", "it hangs up");

    let order = |id: u32, script: &str, user: &str| {
        format!(
            r#"{{"order":"start","id":{id},"pid":1,"deed":{{"run":["/bin/sh","-c","{script}"]}},"timeout_ns":600000000000,
            "user":{user},"env":[],"evidence":"/run/varta/evidence/{id}.json"}}"#
        )
    };
    let scripts = [
        order(1, "echo $$ >/run/varta/one; exec sleep 1000", "null"),
        order(2, "id -u >/run/varta/two 2>&1; exec sleep 1000", "[65534,65534]"),
    ];
    rig.run("touch /run/varta/two && chmod 666 /run/varta/two");
    let said = asked(&rig, "varta", &scripts.each_ref().map(String::as_str));
    assert_eq!(said.matches("\"report\":\"started\"").count(), 2, "{said}");
    assert_eq!(said.matches("\"is_written\":true").count(), 2, "{said}");
    let evidence = rig.run("stat -c '%a %U' /run/varta/evidence /run/varta/evidence/*");
    assert_eq!(evidence, "700 varta\n600 varta\n600 varta\n");
    wait_for("the other user", || (rig.run("cat /run/varta/two").trim() == "65534").then_some(()));

    let child = rig.run("cat /run/varta/one").trim().to_owned();
    assert!(rig.run(&format!("cat /proc/{child}/cgroup")).contains("/varta-fleet-act.service"));
    rig.run("systemctl restart varta-fleet.service");
    assert_eq!(rig.run(&format!("cat /proc/{child}/comm")), "sleep\n");
    assert_eq!(asked(&rig, "varta", &[]), hello);
    // Killed, it is back, and its children are gone.
    rig.run("systemctl kill --kill-whom=main --signal=KILL varta-fleet-act.service");
    wait_for("the end of its children", || {
        rig.attempt(&format!("test ! -e /proc/{child}")).status.success().then_some(())
    });
    wait_for("the spawner", || {
        let is_there = rig.attempt("systemctl is-active --quiet varta-fleet-act.service").status.success();
        (is_there && asked_quietly(&rig)).then_some(())
    });
    rig.run("systemctl stop varta-fleet-act.service");
}

fn asked_quietly(rig: &Rig) -> bool {
    let connect =
        "import socket;socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET).connect('/run/varta/act.sock')";
    rig.command("python3")
        .args(["-c", connect])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
