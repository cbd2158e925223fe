//! The status page in a browser.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::act::{Ground, act, steps};
use crate::common::{
    Agent, AgentOptions, Daemon, Event, Freezer, Injection, Observer, Options, SOON, copy_program, python,
    rust_program, signal, wait_for,
};

/// A fleet of two shards that serves its page.
fn served() -> Observer {
    let arguments = vec!["--http".to_owned(), "127.0.0.1:0".to_owned()];
    Observer::start(Options { arguments, ..Options::default() })
}

/// An agent that runs under this name.
fn called(name: &str, observer: &Observer) -> AgentOptions {
    let program = observer.dir().with_file_name(name);
    copy_program(rust_program(), &program);
    AgentOptions { program: Some(program), ..AgentOptions::default() }
}

/// Starts the agents and waits until they are known.
fn start(observer: &mut Observer, options: impl IntoIterator<Item = AgentOptions>) -> Vec<Agent> {
    let agents = Agent::start_many(observer, options);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    agents
}

/// Runs a check of `tests/browser/page.py`.
fn browse(check: &str, observer: &Observer, pids: &[u32]) {
    browse_while(check, observer, pids, || ());
}

/// The same; does something once the browser shows the page, or the check has ended. A busy machine takes long to start
/// a browser.
fn browse_while<T>(check: &str, observer: &Observer, pids: &[u32], act: impl FnOnce() -> T) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut child = Command::new(python())
        .arg(tests.join("browser/page.py"))
        .arg(check)
        .arg(format!("http://{}/", observer.http_address()))
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("page"))
        .args(pids.iter().map(u32::to_string))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run Python");
    let mut line = String::new();
    let shows = child.stdout.take().expect("it is piped");
    BufReader::new(shows).read_line(&mut line).expect("read a line");
    let _during = act();
    let output = child.wait_with_output().expect("wait for Python");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\nis everything set up? scripts/check --setup");
}

#[test]
fn a_browser_shows_the_fleet_as_it_is() {
    let mut observer = served();
    let names = ["api-1", "api-2", "api-3", "worker"];
    let options: Vec<_> = names.iter().map(|name| called(name, &observer)).collect();
    let options = (0..12).map(|n| options[n % names.len()].clone());
    let agents = start(&mut observer, options);
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    browse("live", &observer, &pids);
    observer.stop();
}

#[test]
fn a_wave_is_one_line_with_the_names_and_each_agent_a_click_away() {
    let mut observer = served();
    let options = ["api-1", "api-2", "worker"].map(|name| called(name, &observer));
    let agents = start(&mut observer, options.into_iter().cycle().take(9));
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    browse("wave", &observer, &pids);
    observer.stop();
}

#[test]
fn without_scripts_the_page_says_the_same() {
    let mut observer = served();
    let agents = start(&mut observer, (0..12).map(|_| AgentOptions::default()));
    signal(agents[0].pid(), Signal::STOP);
    observer.expect("stall", agents[0].pid(), SOON);
    browse("without-scripts", &observer, &[agents[0].pid()]);
    signal(agents[0].pid(), Signal::CONT);
    observer.stop();
}

#[test]
fn an_empty_fleet_is_a_page_that_teaches() {
    let observer = served();
    browse("empty", &observer, &[]);
    observer.stop();
}

#[test]
fn names_of_any_bytes_are_text() {
    let mut observer = served();
    let names = ["a\u{1b}[31m\nb", "<b>x<", "{{nonce}}", "\u{202e}live", "a \"b\" c"];
    let options: Vec<_> = names.iter().map(|name| called(name, &observer)).collect();
    let agents = start(&mut observer, options);
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    browse("hostile", &observer, &pids);
    observer.stop();
}

#[test]
fn a_page_without_answers_is_grey_and_says_for_how_long_and_recovers() {
    let mut observer = served();
    let agents = start(&mut observer, (0..3).map(|_| AgentOptions::default()));
    browse("stale", &observer, &[observer.pid(), agents[0].pid()]);
    observer.stop();
}

#[test]
fn agents_are_grouped_and_found_by_unit() {
    let mut observer = served();
    let agents = start(&mut observer, (0..3).map(|_| AgentOptions::default()));
    let units: Vec<Freezer> = agents[..2].iter().map(|agent| Freezer::around(agent.pid())).collect();
    // What a process has become is looked up before its stall is reported.
    for agent in &agents {
        agent.signal(Signal::STOP);
        observer.expect("stall", agent.pid(), SOON);
        agent.signal(Signal::CONT);
        observer.expect("resume", agent.pid(), SOON);
    }
    let found = observer.get(&format!("/api/v1/agents?name=*test*{}.scope", agents[0].pid())).json();
    assert_eq!((&found["total"], found["agents"][0]["unit"].as_str()), (&1.into(), Some(units[0].unit())));
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    browse("units", &observer, &pids);
    drop(units);
    observer.stop();
}

#[test]
fn a_frozen_agent_is_told_from_a_stalled_one() {
    let mut observer = served();
    let agents = start(&mut observer, (0..3).map(|_| AgentOptions::default()));
    let group = Freezer::around(agents[0].pid());
    group.freeze();
    observer.expect("frozen", agents[0].pid(), SOON);
    browse("frozen", &observer, &[agents[0].pid()]);
    group.thaw();
    observer.stop();
}

#[test]
fn what_is_done_about_an_agent_is_in_its_drawer() {
    let ground = Ground::new();
    let options = ground.options("[\"stall\"]", "after = \"0s\"");
    let arguments = vec!["--http".to_owned(), "127.0.0.1:0".to_owned()];
    let mut observer = Observer::start_in(ground.place, Options { arguments, ..options });
    let agents = start(&mut observer, [AgentOptions::default()]);
    let pid = agents[0].pid();
    signal(pid, Signal::STOP);
    wait_for("the evidence", || {
        let events = observer.events();
        let found = |event: &Event| event.is("action", pid) && event.has("evidence");
        (events.iter().any(found) && steps(events, pid).contains(&"ended".to_owned())).then_some(())
    });
    signal(pid, Signal::CONT);
    observer.expect("resume", pid, SOON);
    let held = ["hold", &pid.to_string(), "--for", "1h", "--why", "a <b>dump</b>"];
    assert!(act(&observer, &held).0);
    signal(pid, Signal::STOP);
    wait_for("it to be held", || {
        steps(observer.events(), pid).contains(&"held hand".to_owned()).then_some(())
    });
    browse("acted", &observer, &[pid]);
    signal(pid, Signal::CONT);
    observer.stop();
}

#[test]
fn what_a_daemon_says_is_in_its_drawer() {
    let arguments = vec!["--http".to_owned(), "127.0.0.1:0".to_owned()];
    let config = "[notify]\n".to_owned();
    let mut observer = Observer::start(Options { arguments, config, ..Options::default() });
    let socket = observer.dir().join("notify.sock");
    let mut daemons = [(); 2].map(|()| Daemon::start(&socket, &[]));
    daemons[0].send(r"READY=1\nSTATUS=Serving <b>7</b> clients\nX_VARTA_NAME=one\nWATCHDOG_USEC=3000000");
    daemons[0].ask("beat 0.1");
    daemons[1].send("READY=1");
    daemons[1].send("RELOADING=1");
    let pids = daemons.each_ref().map(Daemon::pid);
    observer.expect("up", pids[0], SOON);
    observer.expect("up", pids[1], SOON);
    browse("daemon", &observer, &pids);
    observer.stop();
}

#[test]
fn a_shard_that_is_stuck_is_told_before_the_observer_ends_of_it() {
    let mut observer = served();
    let _agents = start(&mut observer, (0..2).map(|_| AgentOptions::default()));
    // Each of its receive calls takes a minute.
    let begin = || Injection::begin(&observer, "varta-shard-0", "recvmmsg:delay_enter=60000000");
    browse_while("stuck", &observer, &[], begin);
    observer.ends_by_itself(1);
}

#[test]
fn a_page_that_slept_for_an_hour_never_shows_what_was_as_what_is() {
    let mut observer = served();
    let agents = start(&mut observer, (0..3).map(|_| AgentOptions::default()));
    browse("asleep", &observer, &[observer.pid(), agents[0].pid()]);
    observer.stop();
}

#[test]
fn a_clock_that_steps_in_the_browser_moves_nothing() {
    let mut observer = served();
    let agents = start(&mut observer, (0..3).map(|_| AgentOptions::default()));
    browse("clock", &observer, &[agents[0].pid()]);
    observer.stop();
}

#[test]
fn ten_thousand_groups_are_a_hundred_and_the_rest() {
    let mut observer = served();
    let _agent = start(&mut observer, [AgentOptions::default()]);
    browse("crowd", &observer, &[]);
    observer.stop();
}
