//! The history: what is shown of each second, and what survives.

use rustix::process::Signal;
use serde_json::Value;

use crate::common::history::History;
use crate::common::{
    Agent, AgentOptions, Client, Event, Keeper, Observer, Options, SOON, signal, wait_for, wire,
};

const RUN: [&str; 6] = ["--shards", "2", "--threshold", "1s", "--agents-max", "1000"];

#[test]
fn a_stall_and_a_death_are_shown_in_their_second() {
    let mut observer = Observer::start(Options::default());
    let options = |_| AgentOptions { client: Client::Rust02, ..AgentOptions::default() };
    let mut agents = Agent::start_many(&observer, (0..3).map(options));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let history = |observer: &Observer| History::of(&observer.dir());
    wait_for("a second with all", || (history(&observer).seconds() > 1).then_some(()));
    agents[0].signal(Signal::STOP);
    let stall = observer.expect("stall", agents[0].pid(), SOON);
    // Else it may end in the second in which it began, and at the end of that there is none.
    wait_for("the stall to be shown", || history(&observer).ends_with(2, 1).then_some(()));
    agents[1].signal(Signal::KILL);
    agents[1].wait();
    let exit = observer.expect("exit", agents[1].pid(), SOON);
    agents[0].signal(Signal::CONT);
    let resume = observer.expect("resume", agents[0].pid(), SOON);
    // A deploy is no death.
    agents[2].signal(Signal::TERM);
    agents[2].wait();
    let stopped = observer.expect("exit", agents[2].pid(), SOON);
    let shown = wait_for("the last of it", || {
        let shown = history(&observer);
        shown.ends_with(1, 0).then_some(shown)
    });
    shown.shows(&stall, "a stalled agent", |series, second| series.stalled[second] == Some(1));
    shown.shows(&exit, "a death", |series, second| series.died[second] == Some(1));
    shown.shows(&resume, "a resume", |series, second| series.resumed[second] == Some(1));
    shown.shows(&stopped, "a single agent, not stalled", |series, second| {
        let has_resumed = series.resumed[..=second].contains(&Some(1));
        has_resumed && (series.up[second], series.stalled[second]) == (Some(1), Some(0))
    });
    assert_eq!(shown.died(), 1);
    observer.stop();
}

#[test]
fn what_is_shown_adds_up_at_each_resolution() {
    let mut observer = Observer::start(Options::default());
    let mut agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    wait_for("three seconds", || (History::of(&observer.dir()).seconds() > 3).then_some(()));
    agent.signal(Signal::KILL);
    agent.wait();
    observer.expect("exit", agent.pid(), SOON);
    for step in ["1s", "10s", "1m"] {
        let sum = |history: &Value, series: &str| -> u64 {
            history["series"][series].as_array().expect("a series").iter().filter_map(Value::as_u64).sum()
        };
        let history = wait_for("the death", || {
            let history = observer.get(&format!("/api/v1/history?step={step}")).json();
            (sum(&history, "died") == 1).then_some(history)
        });
        assert!(sum(&history, "beats") > 0 && sum(&history, "queue_p99_ns") > 0, "{history}");
        let length = history["series"]["up"].as_array().expect("a series").len();
        for (name, series) in history["series"].as_object().expect("series") {
            assert_eq!(series.as_array().expect("a series").len(), length, "{name}");
        }
    }
    for (bad, told) in [
        ("step=5s", "write 1s, 10s, 1m"),
        ("from=99999999999", "is in the future"),
        ("from=20&to=10", "is before from=20"),
        ("from=1.5", "no number"),
        ("until=3", "use step, from, to"),
    ] {
        let refusal = observer.get(&format!("/api/v1/history?{bad}")).refusal(400);
        assert!(refusal.contains(told), "{bad}: {refusal}");
    }
    observer.stop();
}

#[test]
fn what_was_lost_refused_and_not_seen_is_shown() {
    let mut observer = Observer::start(Options { shards: 2, ..Options::default() });
    let agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    let me = std::process::id();
    let sender = wire::sender(&observer.socket(0));
    let send = |datagram: &[u8]| wire::send_at_last(&sender, datagram);
    // Six of its beats never came.
    [1, 2, 3, 10, 11, 12].into_iter().for_each(|nonce| send(&wire::frame(me, nonce)));
    (0..5).for_each(|_| send(b"no frame"));
    wait_for("both to be shown", || {
        let shown = History::of(&observer.dir());
        let counts = (shown.sum(|series| &series.lost), shown.sum(|series| &series.refused));
        (counts == (6, 5)).then_some(())
    });
    observer.signal(Signal::STOP);
    // The time itself is what is tested.
    std::thread::sleep(std::time::Duration::from_millis(2200));
    observer.signal(Signal::CONT);
    let told = wait_for("the end of the blindness to be told of both shards", || {
        let ends =
            observer.events().iter().filter(|event| event.kind() == "blind" && event.str("phase") == "end");
        let (paused, other): (Vec<&Event>, Vec<&Event>) =
            ends.partition(|event| event.str("why") == "paused");
        let sum = |ends: &[&Event]| ends.iter().map(|event| event.u64("for_ns")).sum::<u64>();
        (paused.len() >= 2).then(|| sum(&paused) + sum(&other))
    });
    assert!(told > 2_000_000_000, "{told} ns of two shards");
    wait_for("all of it to be shown", || {
        (History::of(&observer.dir()).sum(|series| &series.blind_ns) >= told).then_some(())
    });
    observer.stop();
}

#[test]
fn seconds_in_which_the_observer_could_not_run_are_missing() {
    let observer = Observer::start(Options::default());
    let history = || History::of(&observer.dir());
    wait_for("a second", || (history().seconds() > 1).then_some(()));
    let before = history().missing();
    observer.signal(Signal::STOP);
    // The time itself is what is tested.
    std::thread::sleep(std::time::Duration::from_millis(3200));
    observer.signal(Signal::CONT);
    let missing = wait_for("more seconds", || {
        let missing = history().missing();
        (missing > before).then_some(missing - before)
    });
    assert!(missing >= 2, "{missing} of three whole seconds");
    observer.stop();
}

#[test]
fn fault_25_the_history_survives_whatever_end_and_what_cannot_be_used_of_it_is_said() {
    let mut keeper = Keeper::start(&RUN);
    let mut agent = keeper.agent(AgentOptions::default());
    let is_recording = |keeper: &Keeper, seconds: usize| {
        wait_for("the history to grow", || {
            let shown = History::of(&keeper.dir());
            (shown.seconds() >= seconds).then_some(shown)
        })
    };
    is_recording(&keeper, 3);
    for (round, signal) in (1..).zip([Signal::KILL, Signal::TERM]) {
        let before = History::of(&keeper.dir()).missing();
        agent.signal(Signal::KILL);
        agent.wait();
        keeper.expect("exit", agent.pid());
        // The death is recorded as its second ends, or as the observer stops in order.
        if signal == Signal::KILL {
            wait_for("the death", || (History::of(&keeper.dir()).died() == round).then_some(()));
        }
        assert_eq!(keeper.end(signal), if signal == Signal::KILL { -9 } else { 0 });
        // The time itself is what is tested.
        std::thread::sleep(std::time::Duration::from_millis(2100));
        keeper.go_on();
        let shown = wait_for("a second after two in which nobody ran", || {
            let shown = History::of(&keeper.dir());
            (shown.missing() > before).then_some(shown)
        });
        assert_eq!(shown.died(), round);
        assert_eq!(keeper.stored().iter().filter(|name| *name == "history").count(), 1);
        agent = keeper.agent(AgentOptions::default());
    }
    // Each time the agents are observed as if nothing was.
    for is_spoilt in [true, false] {
        is_recording(&keeper, 3);
        assert_eq!(keeper.end(Signal::KILL), -9);
        if is_spoilt {
            keeper.spoil("history")
        } else {
            keeper.drop_stored("history")
        }
        keeper.go_on();
        keeper.expect_that("restart", |event| event.kind() == "restart" && event.u64("adopted") == 1);
        assert!(is_recording(&keeper, 1).seconds() < 3, "it begins now");
        let said = keeper.stderr();
        let said: Vec<_> = said.lines().filter(|line| line.contains("history")).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("not written by varta-fleet"), "{said:?}");
    }
    assert_eq!(keeper.count("stall", agent.pid()), 0);
    assert_eq!(keeper.end(Signal::TERM), 0);
    signal(agent.pid(), Signal::KILL);
}
