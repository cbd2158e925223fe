//! Agents that may be silent for longer while they start, or while their payload says so.

use std::time::Duration;

use rustix::process::Signal;

use super::common::{
    Agent, AgentOptions, Event, Keeper, Observer, Options, SOON, copy_program, program, rust_program,
    wait_for,
};

const T: Duration = Duration::from_millis(600);
const START: Duration = Duration::from_secs(4);
const BUSY: Duration = Duration::from_secs(3);
/// The payload of an agent counts its beats once it works: it is busy from about the tenth on.
const RULE: &str = "[[rule]]\nmatch = { comm = \"stock-agent\" }\nthreshold = \"600ms\"\nstart-threshold = \"4s\"\n\
                    phase = [{ payload = [12, 1000000], threshold = \"3s\" }]\n";

fn observer() -> Observer {
    Observer::start(Options { config: RULE.to_owned(), shards: 2, ..Options::default() })
}

fn starting() -> AgentOptions {
    AgentOptions { status: "degraded", ..AgentOptions::default() }
}

/// Waits for the stall of an agent that is silent by then.
fn expect_stall(observer: &mut Observer, agent: &Agent, least: Duration, phase: Option<&str>) -> Event {
    let stall = observer.expect("stall", agent.pid(), least + SOON);
    assert!(Duration::from_nanos(stall.u64("silent_ns")) >= least, "{stall}");
    let said = stall.has("phase").then(|| stall.str("phase").to_owned());
    assert_eq!(said.as_deref(), phase, "{stall}");
    stall
}

/// What `explain` says, in one line, once it says this.
fn explained(observer: &Observer, agent: &Agent, part: &str) {
    wait_for(part, || {
        let pid = agent.pid().to_string();
        let output =
            program().args(["explain", &pid, "--dir"]).arg(observer.dir()).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text").replace('\n', " ");
        text.contains(part).then_some(())
    });
}

#[test]
fn an_agent_that_starts_has_time_until_it_says_ok() {
    let mut observer = observer();
    let mut slow = Agent::start_with(&observer, starting());
    let mut quick = Agent::start_with(&observer, AgentOptions::default());
    for agent in [&slow, &quick] {
        observer.expect("up", agent.pid(), SOON);
    }
    explained(
        &observer,
        &slow,
        "A silence of 4.00 s until it has started is a stall for it (rule 0: name stock-agent)",
    );
    explained(&observer, &quick, "A silence of 600 ms is a stall for it");
    assert_eq!(slow.ask("quiet"), "quiet");
    assert_eq!(quick.ask("quiet"), "quiet");
    expect_stall(&mut observer, &quick, T, None);
    assert_eq!(observer.count("stall", slow.pid()), 0, "its start is not over");
    expect_stall(&mut observer, &slow, START, Some("start"));
    // It is ready, and may get worse again: that is no start.
    slow.ask("status ok");
    slow.ask("go");
    observer.expect("resume", slow.pid(), SOON);
    slow.ask("status degraded");
    observer.expect_that("the change", SOON, |event| {
        event.is("status", slow.pid()) && event.str("status") == "degraded"
    });
    explained(&observer, &slow, "A silence of 600 ms is a stall for it");
    slow.ask("quiet");
    let stall = expect_stall(&mut observer, &slow, T, None);
    assert!(Duration::from_nanos(stall.u64("silent_ns")) < START, "{stall}");
    observer.stop();
}

#[test]
fn a_payload_says_that_an_agent_takes_long() {
    let mut observer = observer();
    let mut agent = Agent::start_with(&observer, AgentOptions::default());
    observer.expect("up", agent.pid(), SOON);
    agent.ask("work");
    explained(&observer, &agent, "A silence of 3.00 s in the phase that its payload says is a stall for it");
    wait_for("the API to say it", || {
        let agents = observer.get("/api/v1/agents").json();
        let agent = &agents["agents"][0];
        (agent["phase"] == "payload" && agent["threshold_ns"] == 3_000_000_000_u64).then_some(())
    });
    agent.ask("quiet");
    expect_stall(&mut observer, &agent, BUSY, Some("payload"));
    observer.stop();
}

/// The observer is killed during the start of an agent: that is neither over nor does it begin again.
#[test]
fn fault_25_a_start_outlives_the_observer() {
    let place = tempfile::tempdir().expect("a directory");
    let config = place.path().join("varta.toml");
    std::fs::write(&config, RULE).expect("write");
    let config = config.display().to_string();
    let mut keeper = Keeper::start(&["--shards", "1", "--threshold", "2s", "--config", &config]);
    let mut starting = keeper.agent(starting());
    let mut started = keeper.agent(AgentOptions::default());
    started.ask("status degraded");
    keeper.expect("status", started.pid());
    assert_eq!(keeper.end(Signal::KILL), -9);
    keeper.go_on();
    // Both beat to the next observer.
    let third = keeper.agent(AgentOptions::default());
    starting.ask("quiet");
    started.ask("quiet");
    let of_started = keeper.expect("stall", started.pid());
    assert!(!of_started.has("phase"), "{of_started}");
    let stall = keeper.expect("stall", starting.pid());
    assert_eq!(stall.str("phase"), "start", "{stall}");
    assert!(Duration::from_nanos(stall.u64("silent_ns")) >= START, "{stall}");
    assert_eq!(keeper.count("stall", third.pid()), 0);
    assert_eq!(keeper.end(Signal::TERM), 0);
}

#[test]
fn another_program_with_the_same_pid_starts_anew() {
    let mut observer = observer();
    let place = tempfile::tempdir().expect("a directory");
    // The rule goes by the name.
    let copy = place.path().join("stock-agent");
    copy_program(rust_program(), &copy);
    let mut agent = Agent::start_with(&observer, AgentOptions::default());
    observer.expect("up", agent.pid(), SOON);
    // Its nonces do not go on where these end.
    for _ in 0..20 {
        agent.ask("beat");
    }
    let socket = observer.socket(varta_fleet::shard_for(agent.pid(), 2));
    agent.tell(format_args!(
        "exec {} --client 0.2 --status degraded --socket {}",
        copy.display(),
        socket.display()
    ));
    agent.expect_up();
    let is_exec = |event: &Event| event.is("session", agent.pid()) && event.str("why") == "exec";
    observer.expect_that("an exec", SOON, is_exec);
    agent.ask("quiet");
    expect_stall(&mut observer, &agent, START, Some("start"));
    observer.stop();
}

/// A threshold that is shorter than the time between two beats is a mistake of whoever wrote it, and is said as one.
#[test]
fn a_threshold_that_cannot_work_is_said_on_every_surface() {
    let config = "[[rule]]\nmatch = { comm = \"stock-agent\" }\nthreshold = \"50ms\"\n".to_owned();
    let mut observer = Observer::start(Options { config, ..Options::default() });
    let agent = Agent::start_with(
        &observer,
        AgentOptions { period: Duration::from_millis(250), ..AgentOptions::default() },
    );
    observer.expect("up", agent.pid(), SOON);
    let part = ", cannot work for ";
    wait_for("status to say it", || {
        let output = program().args(["status", "--dir"]).arg(observer.dir()).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        (text.contains(part) && text.contains("once in 2")).then_some(())
    });
    wait_for("the API to say it", || {
        let fleet = observer.get("/api/v1/fleet").json();
        fleet["problems"]
            .as_array()?
            .iter()
            .any(|problem| problem.as_str().is_some_and(|text| text.contains(part)))
            .then_some(())
    });
    wait_for("the observer to say it", || observer.stderr().contains(part).then_some(()));
    let metrics = observer.get("/metrics").text().to_owned();
    assert!(metrics.contains("varta_thresholds_too_short 1\n"), "{metrics}");
    let said = observer.stderr().matches(part).count();
    observer.stop();
    assert_eq!(said, 1, "once");
}
