//! Daemons that speak the protocol of sd_notify(3), as real processes on the sockets of `[notify]`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{Agent, Client, Daemon, Keeper, Observer, Options, SOON, program, wait_for};

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

/// `systemd-notify` of a script ends at once: it is no agent, but its barrier is answered.
#[test]
fn a_script_that_reports_once_is_no_agent() {
    let mut observer = observer();
    for round in 0..5 {
        // As root it sends for its parent, here a shell that ends with it.
        let mut command = crate::common::program_by("sh");
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
    let others =
        observer.events().iter().filter(|event| event.has("origin") && event.pid() != Some(daemon.pid()));
    assert_eq!(others.count(), 0);
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
