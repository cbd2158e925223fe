//! Agents that beat and do not advance: their payload counts their work, and stays the same.

use std::time::Duration;

use rustix::process::Signal;

use super::act::{Ground, acted, steps};
use crate::common::{Agent, AgentOptions, Client, Event, Keeper, Observer, Options, SOON, program, wait_for};

/// Long enough for an agent to be told to work once it beats.
const P: Duration = Duration::from_secs(3);
const RULE: &str = "[[rule]]\nmatch = { comm = \"stock-agent\" }\nthreshold = \"600ms\"\nprogress = \"payload\"\nprogress-threshold = \"3s\"\n";

fn observer() -> Observer {
    Observer::start(Options { config: RULE.to_owned(), shards: 2, ..Options::default() })
}

/// What the command says and its exit code.
fn said(observer: &Observer, arguments: &[&str]) -> (Option<i32>, String) {
    let output = program().args(arguments).arg("--dir").arg(observer.dir()).output().expect("it runs");
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
}

fn kinds(observer: &mut Observer, pid: u32) -> Vec<String> {
    let told = observer.events().iter().filter(|event| event.pid() == Some(pid));
    told.map(|event| event.kind().to_owned()).collect()
}

/// Waits for the verdict on an agent that hangs by then; its standstill is about as long as the rule says.
fn expect_standstill(observer: &mut Observer, pid: u32) -> Event {
    let standstill = observer.expect("standstill", pid, P + SOON);
    assert!(standstill.u64("still_ns") >= u64::try_from(P.as_nanos()).expect("it is short"), "{standstill}");
    standstill
}

#[test]
fn an_agent_whose_helper_beats_while_its_work_hangs_is_found_on_every_surface() {
    let mut observer = observer();
    let rust = |client, handles| AgentOptions { client, handles, ..AgentOptions::default() };
    let mut agents =
        [rust(Client::Rust01, 1), rust(Client::Rust02, 1), rust(Client::Rust02, 2)].map(|options| {
            let mut agent = Agent::start_with(&observer, options);
            assert_eq!(agent.ask("work"), "work");
            agent
        });
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    assert_eq!(said(&observer, &["status", "--fail-on", "standstill"]).0, Some(0));
    agents[1].ask("idle");
    let pid = agents[1].pid();
    let standstill = expect_standstill(&mut observer, pid);
    assert!(standstill.bool("certain") && standstill.u64("payload") >= 2, "{standstill}");

    wait_for("every surface to say it", || {
        let (code, status) = said(&observer, &["status", "--fail-on", "standstill"]);
        (code == Some(1) && status.starts_with("1 of 3 agents is at a standstill.")).then_some(())
    });
    let (code, explained) = said(&observer, &["explain", &pid.to_string()]);
    let explained = explained.replace('\n', " ");
    assert_eq!(code, Some(0));
    for part in ["is at a STANDSTILL: it beats", "its payload had been ", "counts its work."] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    wait_for("it to be listed", || {
        let (_, listed) = said(&observer, &["agents", "--state", "standstill", "--json"]);
        (listed.lines().count() == 1 && listed.contains(&format!("\"pid\":{pid},"))).then_some(())
    });
    let metrics = observer.get("/metrics").text().to_owned();
    let sum = |name: &str| -> u32 {
        let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        lines.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<u32>().expect("a number")).sum()
    };
    assert_eq!((sum("varta_agents_standstill"), sum("varta_standstills_total")), (1, 1));

    assert_eq!(agents[1].ask("work"), "work");
    let advance = observer.expect("advance", pid, SOON);
    assert_eq!(advance.str("why"), "payload", "{advance}");
    wait_for("all to be well", || {
        (said(&observer, &["status", "--fail-on", "standstill"]).0 == Some(0)).then_some(())
    });
    agents[1].ask("idle");
    expect_standstill(&mut observer, pid);
    // Its exit ends it, too.
    agents[1].signal(Signal::KILL);
    observer.expect("exit", pid, SOON);
    wait_for("all to be well", || {
        (said(&observer, &["status", "--fail-on", "standstill"]).0 == Some(0)).then_some(())
    });
    assert_eq!(kinds(&mut observer, agents[0].pid()), ["up"], "it works all the while");
    assert_eq!(
        kinds(&mut observer, agents[2].pid()),
        ["up"],
        "so does this, and its other handle does not count"
    );
    assert_eq!(kinds(&mut observer, pid), ["up", "standstill", "advance", "standstill", "exit"]);
    observer.stop();
}

#[test]
fn who_falls_silent_is_stalled_and_not_at_a_standstill() {
    let mut observer = observer();
    let mut agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    agent.ask("work");
    agent.signal(Signal::STOP);
    observer.expect("stall", agent.pid(), SOON);
    // Far longer than the progress threshold, and nothing else is said of it meanwhile.
    let mut other = Agent::start(Client::Rust02, &observer);
    observer.expect("up", other.pid(), SOON);
    other.ask("idle");
    expect_standstill(&mut observer, other.pid());
    agent.signal(Signal::CONT);
    observer.expect("resume", agent.pid(), SOON);
    assert_eq!(kinds(&mut observer, agent.pid()), ["up", "stall", "resume"]);
    observer.stop();
}

#[test]
fn fault_25_a_standstill_outlives_the_observer_and_is_said_once() {
    let place = tempfile::tempdir().expect("a directory");
    let config = place.path().join("varta.toml");
    std::fs::write(&config, RULE).expect("write");
    let config = config.display().to_string();
    let mut keeper = Keeper::start(&["--shards", "1", "--threshold", "2s", "--config", &config]);
    let mut agent = keeper.agent(AgentOptions::default());
    let pid = agent.pid();
    keeper.expect("standstill", pid);
    assert_eq!(keeper.end(Signal::KILL), -9);
    keeper.go_on();
    // Two progress thresholds of another agent pass.
    let second = keeper.agent(AgentOptions::default());
    keeper.expect("standstill", second.pid());
    agent.ask("work");
    keeper.expect("advance", pid);
    assert_eq!(keeper.count("standstill", pid), 1);
    assert_eq!(keeper.end(Signal::TERM), 0);
}

#[test]
fn what_stands_still_is_acted_upon_and_what_goes_on_in_time_is_not() {
    let ground = Ground::new();
    let log = ground.log();
    let options = ground.options("[\"standstill\"]", "after = \"2s\"\nevidence = false");
    let config = format!("{}\n{RULE}", options.config);
    let mut observer = Observer::start_in(ground.place, Options { config, ..options });
    let mut agents = [(); 2].map(|()| {
        let mut agent = Agent::start(Client::Rust02, &observer);
        assert_eq!(agent.ask("work"), "work");
        agent
    });
    for agent in &mut agents {
        observer.expect("up", agent.pid(), SOON);
        agent.ask("idle");
    }
    for agent in &agents {
        observer.expect("standstill", agent.pid(), P + SOON);
    }
    agents[1].ask("work");
    observer.expect("advance", agents[1].pid(), SOON);
    let pid = agents[0].pid();
    wait_for("the action to end", || {
        steps(observer.events(), pid).iter().any(|step| step == "ended").then_some(())
    });
    assert_eq!(steps(observer.events(), agents[1].pid()), [""; 0]);
    let lines = acted(&log);
    assert!(lines.len() == 1 && lines[0].starts_with(&format!("{pid} restart ")), "{lines:?}");
    agents[0].ask("work");
    observer.stop();
}
