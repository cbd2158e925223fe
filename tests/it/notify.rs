//! Daemons that speak the protocol of sd_notify(3), as real processes on the sockets of `[notify]`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{
    Agent, Client, Daemon, Keeper, Observer, Options, SOON, needs_root, program, program_by, signal, wait_for,
};

const T: Duration = Duration::from_millis(600);

fn observer() -> Observer {
    let config = "[notify]\n".to_owned();
    Observer::start(Options { threshold: T, config, shards: 2, ..Options::default() })
}

fn socket(observer: &Observer) -> PathBuf {
    observer.dir().join("notify.sock")
}

fn said(dir: &Path, arguments: &[&str]) -> String {
    let output = program().args(arguments).arg("--dir").arg(dir).output().expect("it runs");
    String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
}

fn explained(dir: &Path, pid: u32) -> String {
    said(dir, &["explain", &pid.to_string()]).replace('\n', " ")
}

/// How often it has beaten, as the API says.
fn beats(observer: &Observer, pid: u32) -> u64 {
    let answer = observer.get(&format!("/api/v1/agents/{pid}")).json();
    answer["beats"].as_u64().unwrap_or(0)
}

#[test]
fn a_daemon_is_an_agent_that_says_what_it_is() {
    let mut observer = observer();
    let mut daemon = Daemon::start(&socket(&observer), &[]);
    let pid = daemon.pid();
    daemon.send(r"READY=1\nSTATUS=Serving \u0007 7 clients\nWATCHDOG_USEC=1000000");
    daemon.ask("beat 0.1");
    let up = observer.expect("up", pid, SOON);
    assert_eq!(up.str("origin"), "notify", "{up}");
    wait_for("its words", || {
        let text = explained(&observer.dir(), pid);
        let parts =
            ["by messages of sd_notify", "It says that it is up and", "7 clients", "(it asked for that)"];
        parts.iter().all(|part| text.contains(part)).then_some(())
    });
    let answer = observer.get(&format!("/api/v1/agents/{pid}")).json();
    assert_eq!((&answer["origin"], &answer["threshold_ns"]), (&"notify".into(), &1_000_000_000_u64.into()));
    assert_eq!(answer["daemon"]["phase"], "up");

    daemon.ask("beat 0");
    let stall = observer.expect("stall", pid, SOON);
    assert!(stall.bool("certain") && stall.u64("silent_ns") >= 1_000_000_000, "{stall}");
    daemon.ask("beat 0.1");
    observer.expect("resume", pid, SOON);
    daemon.send("RELOADING=1");
    assert_eq!(observer.expect("phase", pid, SOON).str("phase"), "reloading");
    daemon.send("READY=1");
    assert_eq!(observer.expect("phase", pid, SOON).str("phase"), "up");
    daemon.send("WATCHDOG=trigger");
    observer.expect("terminal", pid, SOON);
    // From now on silence means nothing.
    daemon.send("STOPPING=1");
    assert_eq!(observer.expect("phase", pid, SOON).str("phase"), "stopping");
    daemon.ask("beat 0");
    let mut other = Daemon::start(&socket(&observer), &[("WATCHDOG_USEC", "1000000")]);
    other.send("WATCHDOG=1");
    observer.expect("stall", other.pid(), SOON);
    assert_eq!(observer.count("stall", pid), 1);
    daemon.signal(Signal::TERM);
    let exit = observer.expect("exit", pid, SOON);
    assert_eq!(exit.u64("signal"), 15, "{exit}");
    observer.stop();
}

/// Many daemons never send their threshold: it is in their environment, as their service manager put it there.
#[test]
fn a_daemon_has_the_threshold_that_it_was_started_with() {
    let mut observer = observer();
    let mut daemon = Daemon::start(&socket(&observer), &[("WATCHDOG_USEC", "3000000")]);
    let mut unknown = Daemon::start(&socket(&observer), &[]);
    for daemon in [&mut daemon, &mut unknown] {
        daemon.ask("beat 1");
        observer.expect("up", daemon.pid(), SOON);
    }
    wait_for("beats that are further apart than the default threshold", || {
        [&daemon, &unknown].iter().all(|daemon| beats(&observer, daemon.pid()) >= 4).then_some(())
    });
    daemon.signal(Signal::STOP);
    unknown.signal(Signal::STOP);
    let stall = observer.expect("stall", daemon.pid(), SOON);
    assert!(stall.u64("silent_ns") >= 3_000_000_000, "{stall}");
    assert_eq!(observer.count("stall", daemon.pid()), 1);
    assert!(explained(&observer.dir(), daemon.pid()).contains("(it was started with that)"));
    assert!(explained(&observer.dir(), unknown.pid()).contains("the longest there is"));
    assert_eq!(observer.count("stall", unknown.pid()), 0, "nobody knows its threshold");
    observer.stop();
}

/// One that says how it is and never beats is shown, and no silence of it means anything.
#[test]
fn a_daemon_without_a_watchdog_is_never_stalled() {
    let mut observer = observer();
    let mut daemon = Daemon::start(&socket(&observer), &[]);
    daemon.send("READY=1");
    daemon.send("STATUS=idle");
    observer.expect("up", daemon.pid(), SOON);
    let mut agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    agent.ask("idle");
    agent.signal(Signal::STOP);
    observer.expect("stall", agent.pid(), SOON);
    assert_eq!(observer.count("stall", daemon.pid()), 0);
    assert!(explained(&observer.dir(), daemon.pid()).contains("It never sent WATCHDOG=1"));
    let listed = said(&observer.dir(), &["agents", "--state", "up", "--json"]);
    assert!(listed.contains(&format!("\"pid\":{},", daemon.pid())), "{listed}");
    daemon.end(3);
    assert_eq!(observer.expect("exit", daemon.pid(), SOON).u64("code"), 3);
    observer.stop();
}

/// When its barrier is answered, whoever asks sees what it sent before.
#[test]
fn a_barrier_is_answered_once_everything_before_it_is_seen() {
    let mut observer = observer();
    let mut daemon = Daemon::start(&socket(&observer), &[]);
    daemon.send("WATCHDOG=1");
    observer.expect("up", daemon.pid(), SOON);
    for beat in 2..=30 {
        daemon.send(&format!("WATCHDOG=1\\nSTATUS=beat {beat}"));
        daemon.ask("barrier");
        let answer = observer.get(&format!("/api/v1/agents/{}", daemon.pid())).json();
        assert_eq!(
            (&answer["beats"], &answer["daemon"]["text"]),
            (&beat.into(), &format!("beat {beat}").into())
        );
    }
    observer.stop();
}

/// `systemd-notify` of a script ends at once: it is no agent, but its barrier is answered.
#[test]
fn a_script_that_reports_once_is_no_agent() {
    let mut observer = observer();
    for round in 0..5 {
        // As root it sends for its parent, here a shell that ends with it.
        let mut command = program_by("sh");
        let script = format!("systemd-notify --ready --status 'round {round}' && true");
        let sent =
            command.args(["-c", &script]).env("NOTIFY_SOCKET", socket(&observer)).output().expect("sh");
        assert!(sent.status.success(), "{sent:?}");
    }
    let mut daemon = Daemon::start(&socket(&observer), &[("WATCHDOG_USEC", "1000000")]);
    daemon.ask("beat 0.1");
    observer.expect("up", daemon.pid(), SOON);
    daemon.signal(Signal::STOP);
    observer.expect("stall", daemon.pid(), SOON);
    let metrics = observer.get("/metrics").text().to_owned();
    assert!(metrics.contains("\nvarta_notify_one_shots_total 5\n"), "{metrics}");
    // A barrier of each brought a descriptor.
    assert!(metrics.contains("\nvarta_notify_fds_total{shard=\"2\"} 5\n"), "{metrics}");
    let others =
        observer.events().iter().filter(|event| event.has("origin") && event.pid() != Some(daemon.pid()));
    assert_eq!(others.count(), 0);
    observer.stop();
}

/// Its helper thread beats, and its status line says that nothing is done any more.
#[test]
fn a_daemon_whose_status_line_stays_the_same_stands_still() {
    let rule = "[[rule]]\nmatch = { comm = \"python*\" }\nthreshold = \"2s\"\nprogress = \"status\"\nprogress-threshold = \"3s\"\n";
    let config = format!("[notify]\n{rule}");
    let mut observer = Observer::start(Options { threshold: T, config, shards: 1, ..Options::default() });
    let mut daemons = [(); 2].map(|()| Daemon::start(&socket(&observer), &[]));
    let pids = daemons.each_ref().map(Daemon::pid);
    for daemon in &mut daemons {
        daemon.send("READY=1\\nSTATUS=0 jobs done");
        daemon.ask("beat 0.1");
    }
    let mut jobs = 0;
    wait_for("a standstill", || {
        jobs += 1;
        daemons[1].send(&format!("STATUS={jobs} jobs done"));
        observer.events().iter().any(|event| event.is("standstill", pids[0])).then_some(())
    });
    assert_eq!(observer.count("standstill", pids[1]), 0, "it works");
    assert!(explained(&observer.dir(), pids[0]).contains("its status line stays the same"));
    daemons[0].send("STATUS=1 job done");
    assert_eq!(observer.expect("advance", pids[0], SOON).str("why"), "status");
    observer.stop();
}

/// The socket, its queue and what is known of each daemon outlive the observer, however it ends.
#[test]
fn a_daemon_goes_on_over_a_restart_of_the_observer() {
    let place = tempfile::tempdir().expect("a directory");
    let config = place.path().join("varta.toml");
    fs::write(&config, "[notify]\n").expect("write");
    let config = config.display().to_string();
    let mut keeper = Keeper::start(&["--shards", "1", "--threshold", "2s", "--config", &config]);
    let socket = keeper.dir().join("notify.sock");
    let mut daemon = Daemon::start(&socket, &[]);
    let pid = daemon.pid();
    daemon.send(r"READY=1\nWATCHDOG_USEC=2000000");
    daemon.ask("beat 0.1");
    keeper.expect("up", pid);
    for signal in [Signal::KILL, Signal::TERM] {
        keeper.end(signal);
        // What is sent meanwhile waits in the queue.
        if signal == Signal::KILL {
            daemon.send("RELOADING=1");
        }
        keeper.go_on();
        keeper.expect_that("restart", |event| event.kind() == "restart");
    }
    daemon.send("READY=1");
    daemon.ask("beat 0");
    // Each phase is told, and told once.
    for phase in ["reloading", "up"] {
        assert_eq!(keeper.expect("phase", pid).str("phase"), phase);
    }
    let stall = keeper.expect("stall", pid);
    assert!(stall.u64("silent_ns") >= 2_000_000_000, "{stall}");
    daemon.send("STOPPING=1");
    assert_eq!(keeper.expect("phase", pid).str("phase"), "stopping");
    daemon.end(0);
    assert_eq!(keeper.expect("exit", pid).u64("code"), 0);
    let counts = ["up", "stall", "phase"].map(|kind| keeper.count(kind, pid));
    assert_eq!(counts, [1, 1, 3]);
    assert_eq!(keeper.end(Signal::TERM), 0);
}

/// Kills it when it is dropped.
struct Real(Child);

impl Real {
    fn start(socket: &Path, command: &str, arguments: &[&str]) -> Self {
        let mut program = program_by(command);
        program.args(arguments).env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "3000000");
        Self(program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The user of this name.
fn user(name: &str) -> u32 {
    let passwd = fs::read_to_string("/etc/passwd").expect("it can be read");
    let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")));
    line.and_then(|line| line.split(':').nth(2)?.parse().ok()).expect("its package made it")
}

/// tor, freeradius and php-fpm as Debian packages them, beside a thousand agents that must not notice. Two of them drop
/// their user; php-fpm writes over its environment, so a rule gives it its threshold.
#[test]
fn daemons_as_they_are_packaged_are_agents() {
    const T_NS: u64 = 3_000_000_000;
    needs_root("daemons change their user");
    let config = "[notify]\nmode = \"0666\"\n\
                  [[rule]]\nmatch = { comm = \"php-fpm*\" }\nthreshold = \"3s\"\n";
    let mut observer = Observer::start(Options {
        threshold: 5 * T,
        agents_max: 2000,
        queue_limit: Some(4096),
        config: config.to_owned(),
        shards: 2,
        ..Options::default()
    });
    let base = observer.place().base().to_owned();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut crowd = program();
    crowd.args(["load", "--agents", "1000", "--rate", "1000", "--for", "10m", "--dir"]).arg(observer.dir());
    let crowd = Real(crowd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));

    let data = base.join("tor");
    fs::create_dir(&data).expect("a directory");
    chown(&data, Some(user("debian-tor")), None).expect("we are root");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("we are root");
    let [torrc, fpm] = ["torrc", "fpm.conf"].map(|name| base.join(name));
    let text = format!("DataDirectory {}\nSocksPort 0\nDisableNetwork 1\nUser debian-tor\n", data.display());
    fs::write(&torrc, text).expect("write");
    let text = format!(
        "[global]\nerror_log = {0}/fpm.log\n[www]\nuser = www-data\nlisten = {0}/fpm.sock\npm = static\n\
         pm.max_children = 1\n",
        base.display()
    );
    fs::write(&fpm, text).expect("write");
    let fpm_program = fs::read_dir("/usr/sbin")
        .expect("it can be read")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("php-fpm"))
        .expect("php-fpm is installed");
    let socket = socket(&observer);
    let [torrc, fpm] = [&torrc, &fpm].map(|path| path.to_str().expect("text"));
    let daemons = [
        Real::start(&socket, "tor", &["--defaults-torrc", "/dev/null", "-f", torrc]),
        Real::start(&socket, &fpm_program, &["--nodaemonize", "--fpm-config", fpm]),
        Real::start(&socket, "freeradius", &["-f", "-l", "stdout"]),
    ];
    for daemon in &daemons {
        let up = observer.expect("up", daemon.pid(), 2 * SOON);
        assert_eq!(up.str("origin"), "notify", "{up}");
        wait_for("its beats and its threshold", || {
            let answer = observer.get(&format!("/api/v1/agents/{}", daemon.pid())).json();
            (answer["beats"].as_u64() >= Some(3) && answer["threshold_ns"] == T_NS).then_some(())
        });
    }
    for daemon in &daemons {
        signal(daemon.pid(), Signal::STOP);
        let stall = observer.expect("stall", daemon.pid(), SOON);
        // The dead line is exact; how long the observer needs to find out is its own affair.
        assert!(stall.bool("certain") && stall.u64("silent_ns") >= T_NS, "{stall}");
        signal(daemon.pid(), Signal::CONT);
        observer.expect("resume", daemon.pid(), SOON);
    }
    for daemon in &daemons {
        signal(daemon.pid(), Signal::TERM);
        observer.expect("exit", daemon.pid(), SOON);
        assert_eq!(observer.count("stall", daemon.pid()), 1, "its end is no stall");
    }
    let of_crowd = |kind| move |event: &&crate::common::Event| event.kind() == kind && !event.has("origin");
    let ups = observer.events().iter().filter(of_crowd("up")).count();
    let stalls = observer.events().iter().filter(of_crowd("stall")).count();
    assert_eq!((ups, stalls), (1000, 0));
    drop(crowd);
    observer.stop();
}
