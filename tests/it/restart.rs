//! Observers that end and go on, under a service manager that keeps their sockets and memory.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{
    Agent, AgentOptions, Chance, Client, Keeper, Live, State, T, Victim, judge_all, live, ns, setting, wire,
};

const RUN: [&str; 6] = ["--shards", "2", "--threshold", "1s", "--agents-max", "1000"];

fn agents(keeper: &mut Keeper, count: usize) -> Vec<Agent> {
    let client = |at: usize| Client::ALL[at % Client::ALL.len()];
    (0..count)
        .map(|at| keeper.agent(AgentOptions { client: client(at), ..AgentOptions::default() }))
        .collect()
}

/// Asserts that each reported stall of an agent that was never stopped covers a time in which it, by its own
/// report, did not beat.
fn no_false_stall(keeper: &mut Keeper, agent: &mut Agent) {
    let pid = agent.pid();
    let stalls =
        keeper.events().iter().filter(|event| event.is("stall", pid)).map(|event| event.u64("silent_ns"));
    let Some(longest) = stalls.max() else { return };
    let report = agent.report();
    assert!(longest <= ns(report.gap + T / 4), "pid {pid} was called stalled: {report:?}");
}

#[test]
fn fault_25_killed_observers_miss_no_stall_and_tell_nothing_twice() {
    let mut keeper = Keeper::start(&RUN);
    let mut chance = Chance::from_environment();
    let mut beating = agents(&mut keeper, 9);
    let mut stopped = agents(&mut keeper, 6);
    let names = [
        "fleet",
        "history",
        "shard-0",
        "shard-0-table",
        "shard-0-told",
        "shard-1",
        "shard-1-table",
        "shard-1-told",
    ];
    assert_eq!(keeper.stored(), names);
    for agent in &mut stopped {
        std::thread::sleep(Duration::from_millis(chance.below(300).into()));
        assert_eq!(keeper.end(Signal::KILL), -9);
        agent.signal(Signal::STOP);
        keeper.go_on();
        let restart = keeper.expect_that("restart", |event| event.kind() == "restart");
        assert_eq!((restart.str("why"), restart.u64("adopted"), restart.u64("gone")), ("crash", 15, 0));
        keeper.expect("stall", agent.pid());
        agent.signal(Signal::CONT);
        keeper.expect("resume", agent.pid());
    }
    assert_eq!(keeper.stored(), names);
    assert_eq!(keeper.end(Signal::TERM), 0);
    keeper.assert_whole();
    for agent in &mut stopped {
        assert_eq!((keeper.count("up", agent.pid()), keeper.count("stall", agent.pid())), (1, 1));
    }
    for agent in &mut beating {
        assert_eq!(keeper.count("up", agent.pid()), 1);
        no_false_stall(&mut keeper, agent);
    }
}

/// Nobody keeps the sockets: agents that reconnect are up again, in a numbering of its own.
#[test]
fn fault_26_without_what_was_kept_the_next_observer_begins_anew() {
    let mut keeper = Keeper::start(&RUN);
    let options = AgentOptions { client: Client::Rust02, reconnect_after: 1, ..AgentOptions::default() };
    let mut agent = keeper.agent(options);
    assert_eq!(keeper.end(Signal::KILL), -9);
    for name in keeper.stored() {
        keeper.drop_stored(&name);
    }
    keeper.go_on();
    keeper.expect_that("start", |event| event.kind() == "start");
    keeper.expect_that("a second start", |event| event.kind() == "start" && event.u64("seq") == 1);
    keeper.expect("up", agent.pid());
    no_false_stall(&mut keeper, &mut agent);
    assert_eq!(keeper.end(Signal::TERM), 0);
}

/// Nothing is kept, and an agent does not reconnect: it is missed, by name and once, until it exits.
#[test]
fn fault_26_an_agent_that_does_not_reconnect_is_missed() {
    let mut keeper = Keeper::start(&RUN);
    let mut agent = keeper.agent(AgentOptions::default());
    let reconnecting = AgentOptions { reconnect_after: 1, ..AgentOptions::default() };
    let mut reconnecting = keeper.agent(reconnecting);
    // This process only says that it panicked: it never beat, so nobody may miss it.
    let socket = UnixDatagram::unbound().expect("a socket");
    socket
        .send_to(&wire::last_word(std::process::id()), keeper.dir().join("shard-0.sock"))
        .expect("the socket");
    // The list is written at a stop.
    assert_eq!(keeper.end(Signal::TERM), 0);
    for name in keeper.stored() {
        keeper.drop_stored(&name);
    }
    keeper.go_on();
    let missing = keeper.expect("missing", agent.pid());
    assert_eq!(missing.u64("uid"), u64::from(rustix::process::geteuid().as_raw()));
    assert_eq!(missing.str("comm"), "stock-agent");
    keeper.expect("up", reconnecting.pid());
    // The next observer adopts what there is, and it is missing still.
    assert_eq!(keeper.end(Signal::TERM), 0);
    keeper.go_on();
    keeper.expect_that("restart", |event| event.kind() == "restart");
    agent.signal(Signal::KILL);
    agent.wait();
    keeper.expect("exit", agent.pid());
    assert_eq!((keeper.count("missing", agent.pid()), keeper.count("missing", reconnecting.pid())), (1, 0));
    assert_eq!(keeper.count("missing", std::process::id()), 0);
    no_false_stall(&mut keeper, &mut reconnecting);
    assert_eq!(keeper.end(Signal::TERM), 0);
}

/// What was kept and cannot be used is said. The agents are connected to the kept sockets and come up again.
#[test]
fn what_cannot_be_adopted_is_said_and_agents_are_up_again() {
    let mut keeper = Keeper::start(&RUN);
    let mut all = agents(&mut keeper, 3);
    for (round, name) in ["shard-1-table", "shard-0-told", "fleet"].into_iter().enumerate() {
        assert_eq!(keeper.end(Signal::KILL), -9);
        keeper.spoil(name);
        keeper.go_on();
        for agent in &mut all {
            keeper.expect("up", agent.pid());
            no_false_stall(&mut keeper, agent);
        }
        let said = keeper.stderr();
        let said: Vec<_> = said.lines().filter(|line| line.contains("cannot go on")).collect();
        assert_eq!(said.len(), round + 1, "{said:?}");
        assert!(said[round].contains(&format!("{name}: ")), "{said:?}");
        // What is kept now is good.
        assert_eq!(keeper.end(Signal::KILL), -9);
        keeper.go_on();
        let restart = keeper.expect_that("restart", |event| event.kind() == "restart");
        assert_eq!(restart.u64("adopted"), 3);
    }
    assert_eq!(keeper.end(Signal::TERM), 0);
}

/// A member of the fleet that is stopped in order leaves everything in its place for the next one.
#[test]
fn fault_25_a_planned_restart_leaves_the_files_in_place() {
    let mut keeper = Keeper::start(&RUN);
    let mut agent = keeper.agent(AgentOptions::default());
    assert_eq!(keeper.end(Signal::TERM), 0);
    for file in ["fleet.json", "varta.sock", "shard-0.sock", "shard-1.sock"] {
        assert!(keeper.dir().join(file).symlink_metadata().is_ok(), "{file}");
    }
    // An agent that starts while nobody observes queues its beats.
    let late = Agent::start_in(&keeper.dir(), AgentOptions::default());
    keeper.go_on();
    keeper.expect("up", late.pid());
    let restart = keeper.expect_that("restart", |event| event.kind() == "restart");
    assert_eq!((restart.str("why"), restart.u64("adopted")), ("planned", 1));
    assert_eq!(keeper.end(Signal::TERM), 0);
    keeper.assert_whole();
    assert_eq!(keeper.count("up", agent.pid()), 1);
    no_false_stall(&mut keeper, &mut agent);
}

/// The observer is killed, stopped and reloaded at random while agents fall silent, return and die: each thing that
/// happened to them is told once, and nothing else.
#[test]
fn fault_25_observers_that_end_at_any_instant_tell_what_happened_once() {
    let mut chance = Chance::from_environment();
    let (seconds, count) = (setting("VARTA_CHAOS_SECONDS", 12), setting("VARTA_CHAOS_AGENTS", 40));
    let mut keeper = Keeper::start(&["--shards", "2", "--threshold", "1s", "--agents-max", "20000"]);
    let mut victims = Victim::start(&keeper.dir(), count);
    for victim in &victims {
        keeper.expect("up", victim.agent.pid());
    }
    let (mut kills, mut stops) = (0_u32, 0_u32);
    let reloads = live(&mut keeper, &mut victims, &mut chance, seconds, |keeper, chance| {
        let is_kill = chance.below(4) > 0;
        let status = keeper.end(if is_kill { Signal::KILL } else { Signal::TERM });
        assert_eq!(status, if is_kill { -9 } else { 0 });
        *(if is_kill { &mut kills } else { &mut stops }) += 1;
        std::thread::sleep(Duration::from_millis(chance.below(400).into()));
        keeper.go_on();
    });
    // What the observers accepted, in all, and what their ends may have cost.
    let mut missing = 0;
    for victim in victims.iter_mut().filter(|victim| victim.state == State::Beats) {
        victim.gaps = victim.agent.gaps();
        let agent = keeper.get(&format!("/api/v1/agents/{}", victim.agent.pid()));
        let sent = victim.agent.report().sent;
        missing += sent.saturating_sub(agent["beats"].as_u64().expect("a count"));
    }
    // Each agent sends about one beat between the two looks.
    let in_hand = u64::from(kills) * 2 * 64;
    assert!(missing <= in_hand + u64::from(count) * 2, "{missing} beats missing after {kills} kills");
    assert_eq!(keeper.end(Signal::TERM), 0);
    keeper.assert_whole();
    let events = keeper.events_once();
    let (silences, dead) = judge_all(&victims, &events, &keeper.stderr());
    eprintln!(
        "{count} agents, {kills} kills, {stops} stops, {reloads} reloads of the observer; {silences} silences, \
         {dead} exits, {} events; {missing} beats not seen",
        events.len()
    );
}
