//! Blindness of the observer: it is stopped, or its queue is full. No agent may be blamed for it.

use std::time::{Duration, Instant};

use crate::common::{
    Agent, AgentOptions, Client, Ended, Freezer, Observer, Options, SOON, mono_ns, ns, program, wait_for,
    wire,
};
use rustix::process::Signal;

/// Short, because tests wait for three of them. Agents beat every [`BEAT`].
const T: Duration = Duration::from_millis(800);
const BEAT: Duration = Duration::from_millis(80);

fn options(queue_limit: u32) -> Options {
    Options { threshold: T, queue_limit: Some(queue_limit), ..Options::default() }
}

fn agents_on_both_shards(observer: &Observer, count: u32) -> Vec<Agent> {
    let each = (0..count).map(|i| AgentOptions {
        client: if i % 4 < 2 { Client::Rust01 } else { Client::Rust02 },
        sockets: vec![observer.socket(i % 2)],
        period: BEAT,
        ..AgentOptions::default()
    });
    Agent::start_many(observer, each)
}

/// Lets this much time pass while the observer does not run; returns its begin and end. The time is what is tested, and an
/// observer that does not run reports nothing to wait for.
fn pause(length: Duration) -> (u64, u64) {
    let begin = mono_ns();
    std::thread::sleep(length);
    (begin, mono_ns())
}

// --- stopped --------------------------------------------------------------------------------------

#[test]
fn fault_23_defect_03_a_stopped_observer_with_a_short_queue_raises_no_false_stall() {
    stopped_for_three_thresholds(10);
}

#[test]
fn fault_23_defect_15_a_stopped_observer_with_a_long_queue_raises_no_false_stall_and_tells_one_pause() {
    stopped_for_three_thresholds(512);
}

fn stopped_for_three_thresholds(queue_limit: u32) {
    let mut observer = Observer::start(options(queue_limit));
    let mut agents = agents_on_both_shards(&observer, 16);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.signal(Signal::STOP);
    let (begin, end) = pause(3 * T);
    observer.signal(Signal::CONT);
    expect_one_pause_and_no_harm(observer, &mut agents, begin, end);
}

/// Freezing the observer is like suspending the machine: no thread runs, and neither a signal nor a call of
/// its own explains why.
#[test]
fn fault_24_a_frozen_observer_raises_no_false_stall_tells_one_pause_and_finds_true_stalls() {
    let queue_limit = 512;
    let mut observer = Observer::start(options(queue_limit));
    let freezer = Freezer::around(observer.pid());
    let mut agents = agents_on_both_shards(&observer, 16);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    freezer.freeze();
    let (begin, end) = pause(3 * T);
    freezer.thaw();
    expect_one_pause_and_no_harm(observer, &mut agents, begin, end);
}

/// An agent in a frozen container is silent without a stall. After the thaw it beats again, or stalls.
#[test]
fn fault_65_an_agent_in_a_frozen_control_group_is_frozen_and_not_stalled() {
    let mut observer = Observer::start(options(512));
    let agents = agents_on_both_shards(&observer, 2);
    let freezer = Freezer::around(agents[0].pid());
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    freezer.freeze();
    let pid = agents[0].pid();
    let begin = observer.expect("frozen", pid, T + SOON);
    assert_eq!(begin.str("phase"), "begin");
    observer.watch(T);
    freezer.thaw();
    let end = observer.expect("frozen", pid, SOON);
    assert_eq!(end.str("phase"), "end");
    observer.watch(T + T / 4);
    for agent in &agents {
        observer.none_of("stall", agent.pid());
        observer.none_of("resume", agent.pid());
    }
    // An agent that a signal stops is not frozen.
    agents[0].signal(Signal::STOP);
    observer.expect("stall", pid, T + SOON);
    agents[0].signal(Signal::CONT);
    observer.expect("resume", pid, SOON);
    observer.stop();
}

/// No beating agent is reported as stalled, the pause is reported once, and later stalls are reported.
fn expect_one_pause_and_no_harm(mut observer: Observer, agents: &mut [Agent], begin: u64, end: u64) {
    // A wrong verdict would come within the next thresholds.
    observer.watch(3 * T);
    for agent in agents.iter_mut() {
        observer.no_false_stall(agent);
    }
    // Stalls are reported again.
    agents[0].signal(Signal::STOP);
    observer.expect("stall", agents[0].pid(), T + SOON);

    let ended = observer.stop();
    for shard in [0, 1] {
        let covering: Vec<_> = blind_windows(&ended, shard)
            .into_iter()
            // A shard that read the last beats before the stop is blind from the next beats on.
            .filter(|window| window.begin <= begin + ns(2 * BEAT) && window.end >= end)
            .collect();
        assert_eq!(covering.len(), 1, "pause {begin}..{end}, shard {shard}: {covering:?}");
        assert_eq!(covering[0].why, "paused");
        let long =
            blind_windows(&ended, shard).into_iter().filter(|window| window.end - window.begin > ns(T));
        assert_eq!(long.count(), 1, "the pause is told once");
    }
}

#[derive(Debug)]
struct Window {
    begin: u64,
    end: u64,
    why: String,
}

/// The blind windows of a shard, each from a begin event and the end that follows it.
fn blind_windows(ended: &Ended, shard: u64) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut open = None;
    for event in ended.events.iter().filter(|event| event.kind() == "blind" && event.u64("shard") == shard) {
        match event.str("phase") {
            "begin" => assert!(open.replace(event).is_none(), "begins twice: {event}"),
            _ => {
                let begin = open.take().unwrap_or_else(|| panic!("ends without a begin: {event}"));
                let window = Window {
                    begin: begin.u64("mono_ns"),
                    end: event.u64("mono_ns"),
                    why: event.str("why").to_owned(),
                };
                assert_eq!(window.end - window.begin, event.u64("for_ns"), "{begin}\n{event}");
                windows.push(window);
            }
        }
    }
    assert!(open.is_none(), "never ends: {open:?}");
    windows
}

#[test]
fn fault_23_an_agent_that_falls_silent_while_the_observer_is_stopped_is_told_once_it_sees_again() {
    let mut observer = Observer::start(options(512));
    let mut agents = agents_on_both_shards(&observer, 4);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.signal(Signal::STOP);
    agents[0].signal(Signal::STOP);
    pause(2 * T);
    observer.signal(Signal::CONT);
    let stall = observer.expect("stall", agents[0].pid(), 3 * T + SOON);
    assert!(stall.u64("silent_ns") >= ns(2 * T), "{stall}");
    for agent in &mut agents[1..] {
        observer.no_false_stall(agent);
    }
    observer.stop();
}

#[test]
fn fault_23_defect_01_last_words_of_the_dead_are_heard() {
    let mut observer = Observer::start(options(512));
    let silent = |client| AgentOptions { client, beats: Some(0), ..AgentOptions::default() };
    let mut agents = Agent::start_many(&observer, Client::RUST.map(silent));
    observer.signal(Signal::STOP);
    for agent in &mut agents {
        agent.tell("beat\npanic");
        // The agents have exited and are reaped before the observer reads their frames.
        agent.wait();
    }
    observer.signal(Signal::CONT);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
        let terminal = observer.expect("terminal", agent.pid(), SOON);
        assert_eq!(terminal.str("status"), "critical", "{terminal}");
        observer.expect("exit", agent.pid(), T + SOON);
    }
    observer.watch(2 * T);
    for agent in &agents {
        observer.none_of("stall", agent.pid());
        assert_eq!(observer.count("exit", agent.pid()), 1);
    }
    observer.stop();
}

#[test]
fn fault_23_defect_19_silence_counts_from_the_arrival_of_a_beat_not_from_its_reading() {
    // The delay is below a quarter of the threshold, and therefore not a pause.
    let threshold = Duration::from_secs(2);
    let delay = Duration::from_millis(400);
    let mut observer = Observer::start(Options { threshold, ..options(512) });
    let silent = AgentOptions { beats: Some(0), ..AgentOptions::default() };
    let mut agent = Agent::start_with(&observer, silent);
    agent.beat();
    observer.expect("up", agent.pid(), SOON);
    observer.signal(Signal::STOP);
    let sent = agent.beat();
    pause(delay);
    observer.signal(Signal::CONT);

    let stall = observer.expect("stall", agent.pid(), threshold + SOON);
    let last_beat = stall.u64("mono_ns") - stall.u64("silent_ns");
    assert!(last_beat >= sent, "{stall}");
    assert!(last_beat < sent + ns(delay) / 2, "it arrived at {sent}: {stall}");
    observer.stop();
}

// --- a full queue ---------------------------------------------------------------------------------

#[test]
fn fault_28_defect_16_a_second_observer_gives_up_at_once_though_the_firsts_queue_is_full() {
    let observer = Observer::start(options(10));
    observer.signal(Signal::STOP);
    for shard in [0, 1] {
        assert_eq!(wire::fill(&observer.socket(shard), &[0; 8]), 11);
    }
    let began = Instant::now();
    let mut second = program()
        .args(["run", "--shards", "2", "--dir"])
        .arg(observer.dir())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("start a second observer");
    let status = wait_for("its end", || second.try_wait().expect("it is our child"));
    assert_eq!(status.code(), Some(69));
    assert!(began.elapsed() < Duration::from_secs(5), "at once, with slack: {:?}", began.elapsed());
    observer.signal(Signal::CONT);
    observer.stop();
}
