//! Real agents on real sockets, and what the observer reports about them.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use crate::common::{Agent, AgentOptions, Client, Observer, Options, PERIOD, SOON, T, mono_ns, ns, wait_for};
use rustix::process::Signal;
use varta_fleet::shard_for;

// --- beating --------------------------------------------------------------------------------------

#[test]
fn the_first_beat_of_every_client_is_told_as_up() {
    let mut observer = Observer::start(Options { shards: 4, ..Options::default() });
    let mut sessions = HashSet::new();
    for client in Client::ALL {
        let agent = Agent::start(client, &observer);
        let up = observer.expect("up", agent.pid(), SOON);
        assert_eq!(up.u64("shard"), u64::from(shard_for(agent.pid(), 4)), "{up}");
        assert!(sessions.insert(up.u64("session")), "each session has a number of its own: {up}");
        assert_eq!(up.str("status"), "ok", "{up}");
        let payload = match client {
            Client::Rust01 => 1,
            Client::Rust02 => 2,
            Client::Python => 0,
        };
        assert_eq!(up.u64("payload"), payload, "{up}");
    }
    observer.stop();
}

#[test]
fn two_hundred_processes_on_four_shards_raise_no_false_stall_and_every_true_one() {
    let mut observer = Observer::start(Options { shards: 4, ..Options::default() });
    let clients = (0..200).map(|i| match i % 40 {
        0 => Client::Python,
        i if i % 2 == 0 => Client::Rust01,
        _ => Client::Rust02,
    });
    let mut agents = Agent::start_many(
        &observer,
        clients.map(|client| AgentOptions { client, ..AgentOptions::default() }),
    );
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.watch(3 * T);
    for agent in &mut agents {
        observer.no_false_stall(agent);
        assert_eq!(observer.count("up", agent.pid()), 1);
        assert_eq!(observer.count("session", agent.pid()), 0, "one handle is one stream");
        agent.signal(Signal::STOP);
    }
    // When all fall silent at once, each stall is reported.
    for agent in &agents {
        observer.expect("stall", agent.pid(), T + SOON);
    }
    for agent in &agents {
        agent.signal(Signal::CONT);
    }
    for agent in &agents {
        observer.expect("resume", agent.pid(), SOON);
        assert_eq!(observer.count("stall", agent.pid()), 1);
    }
    observer.stop();
}

/// Two thousand processes begin to beat at the same instant: each is admitted and looked up, none is refused,
/// counted twice or reported as stalled.
#[test]
fn fault_10_two_thousand_agents_that_start_at_once_are_all_admitted() {
    const AGENTS: u32 = 2000;
    let threshold = Duration::from_secs(5);
    let mut observer = Observer::start(Options {
        threshold,
        agents_max: 4000,
        queue_limit: Some(4096),
        ..Options::default()
    });
    let period = Duration::from_secs(1);
    let mut parent = Agent::start_with(&observer, AgentOptions { period, ..AgentOptions::default() });
    let mut pids: HashSet<_> = parent.spawn_crowd(AGENTS).into_iter().collect();
    pids.insert(parent.pid());
    let ups = |observer: &mut Observer| -> Vec<u32> {
        let ups = observer.events().iter().filter(|event| event.kind() == "up");
        ups.filter_map(crate::common::Event::pid).collect()
    };
    wait_for("the whole crowd", || (ups(&mut observer).len() >= pids.len()).then_some(()));
    observer.watch(threshold);
    let up = ups(&mut observer);
    assert_eq!(up.iter().copied().collect::<HashSet<_>>(), pids, "each is up");
    assert_eq!(up.len(), pids.len(), "and only once");
    for kind in ["stall", "exit", "full", "decode", "auth"] {
        assert!(observer.events().iter().all(|event| event.kind() != kind), "{kind}");
    }
    let table = observer.table();
    let all = |column: &str| table.shard(0, column) + table.shard(1, column);
    assert_eq!((all("up"), all("refused")), (pids.len() as u64, 0), "{table}");
    observer.stop();
}

#[test]
fn a_changed_status_is_told_once_per_change() {
    let mut observer = Observer::start(Options::default());
    for client in Client::RUST {
        let mut agent = Agent::start(client, &observer);
        // A first beat with another status is no change: `up` has the status.
        observer.expect("up", agent.pid(), SOON);
        for word in ["degraded", "critical", "ok"] {
            agent.ask(format_args!("status {word}"));
            let told = observer.expect("status", agent.pid(), SOON);
            assert_eq!(told.str("status"), word);
        }
        // A critical status alone is no crash.
        observer.none_of("terminal", agent.pid());
        assert_eq!(observer.count("status", agent.pid()), 3);
    }
    observer.stop();
}

#[test]
fn defect_08_every_beat_is_taken_exactly_once_with_two_shards_busy() {
    const BEATS: u32 = 500;
    let arguments = vec!["--events-beats".to_owned()];
    let mut observer = Observer::start(Options { arguments, ..Options::default() });
    let mut agents = Vec::new();
    for shard in [0, 1] {
        for client in Client::RUST {
            let sockets = vec![observer.socket(shard)];
            let period = Duration::from_millis(2);
            let options =
                AgentOptions { client, sockets, period, beats: Some(BEATS), ..AgentOptions::default() };
            agents.push(Agent::start_with(&observer, options));
        }
    }
    for agent in &mut agents {
        let sent = wait_for("all beats to be sent", || {
            let report = agent.report();
            (report.sent + report.dropped == u64::from(BEATS)).then_some(report.sent)
        });
        // A `stall` follows all events before its silence.
        observer.expect("stall", agent.pid(), T + SOON);
        let beats = observer.events().iter().filter(|event| event.is("beat", agent.pid()));
        let mut nonces: Vec<_> = beats.map(|event| event.u64("nonce")).collect();
        assert_eq!(nonces.len() as u64, sent, "beats of {}", agent.pid());
        nonces.dedup();
        assert_eq!(nonces.len() as u64, sent, "no beat is told twice");
        assert!(nonces.is_sorted());
    }
    observer.stop();
}

// --- silence --------------------------------------------------------------------------------------

/// An agent is stopped and later continued: one stall, one resume, the same session before and after.
#[test]
fn fault_03_a_stopped_process_stalls_once_and_resumes_when_it_goes_on() {
    let mut observer = Observer::start(Options::default());
    let agents: Vec<_> = Client::ALL.iter().map(|&client| Agent::start(client, &observer)).collect();
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let before = mono_ns();
    for agent in &agents {
        agent.signal(Signal::STOP);
    }
    for agent in &agents {
        let stall = observer.expect("stall", agent.pid(), T + SOON);
        let silent_ns = stall.u64("silent_ns");
        assert!(silent_ns >= ns(T), "early: {stall}");
        assert!(silent_ns < ns(3 * T), "late, even with generous slack: {stall}");
        let last_beat = stall.u64("mono_ns") - silent_ns;
        assert!(last_beat <= before + ns(PERIOD), "beats after it was stopped: {stall}");
        assert_eq!(stall.u64("nonce"), stall.u64("last_nonce"), "{stall}");
    }

    // One stall for each silence, however long.
    observer.watch(T + T / 2);
    for agent in &agents {
        assert_eq!(observer.count("stall", agent.pid()), 1);
        observer.none_of("resume", agent.pid());
        agent.signal(Signal::CONT);
    }
    for agent in &agents {
        let resume = observer.expect("resume", agent.pid(), SOON);
        assert!(resume.u64("silent_ns") >= ns(2 * T), "{resume}");
        // A stopped process sends nothing, so no beat is lost.
        assert_eq!(resume.u64("lost"), 0, "{resume}");
        assert_eq!(observer.count("stall", agent.pid()), 1);
        assert_eq!(observer.count("session", agent.pid()), 0, "the same stream goes on");
    }
    observer.stop();
}

#[test]
fn a_second_silence_is_a_second_stall() {
    let mut observer = Observer::start(Options::default());
    let mut agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    for _ in 0..2 {
        agent.ask("quiet");
        observer.expect("stall", agent.pid(), T + SOON);
        agent.ask("go");
        observer.expect("resume", agent.pid(), SOON);
    }
    assert_eq!(observer.count("stall", agent.pid()), 2);
    observer.stop();
}

#[test]
fn defect_24_a_stall_is_told_while_others_beat_fast() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let fast = || AgentOptions { period: Duration::from_millis(2), ..AgentOptions::default() };
    let mut others = Agent::start_many(&observer, [fast(), fast(), fast()]);
    let agent = Agent::start(Client::Rust01, &observer);
    observer.expect("up", agent.pid(), SOON);
    agent.signal(Signal::STOP);
    observer.expect("stall", agent.pid(), T + SOON);
    for other in &mut others {
        observer.no_false_stall(other);
    }
    observer.stop();
}

#[test]
fn a_rule_gives_its_agents_a_threshold_of_their_own() {
    let config = "[[rule]]\nmatch = { comm = \"stock-*\" }\nthreshold = \"3s\"\n".to_owned();
    let mut observer = Observer::start(Options { config, ..Options::default() });
    let ruled = Agent::start(Client::Rust02, &observer);
    let default = Agent::start(Client::Python, &observer);
    for agent in [&ruled, &default] {
        observer.expect("up", agent.pid(), SOON);
    }
    // Until an agent is looked up, the largest threshold holds for it.
    observer.watch(T / 2);
    for agent in [&ruled, &default] {
        agent.signal(Signal::STOP);
    }
    let by_default = observer.expect("stall", default.pid(), 3 * T + SOON);
    let by_rule = observer.expect("stall", ruled.pid(), 3 * T + SOON);
    assert!(by_default.u64("silent_ns") < ns(3 * T), "{by_default}");
    assert!(by_rule.u64("silent_ns") >= ns(3 * T), "{by_rule}");
    observer.stop();
}

/// The main thread of an agent hangs while a helper thread still beats. That is no stall by design, since the
/// observer judges beats only; the status that the process sends is reported.
#[test]
fn fault_04_a_hung_process_whose_helper_beats_is_alive_and_what_it_says_is_told() {
    let mut observer = Observer::start(Options::default());
    for client in Client::RUST {
        let mut agent = Agent::start(client, &observer);
        let pid = agent.pid();
        observer.expect("up", pid, SOON);
        agent.tell("hang");
        let status = observer.expect("status", pid, SOON);
        assert_eq!(status.str("status"), "degraded", "{status}");
        agent.tell("report");
        observer.watch(2 * T);
        assert!(!agent.answers(Duration::ZERO), "it hangs");
        for kind in ["stall", "exit", "session"] {
            observer.none_of(kind, pid);
        }
        assert_eq!(observer.count("up", pid), 1, "a thread is no agent of its own");
        agent.signal(Signal::STOP);
        observer.expect("stall", pid, T + SOON);
    }
    observer.stop();
}

/// The main thread of an agent exits while a helper thread still beats. The process is alive until its last
/// thread exits, although procfs shows a zombie.
#[test]
fn fault_04_a_process_whose_main_thread_ended_is_alive_while_its_helper_beats() {
    let mut observer = Observer::start(Options { queue_limit: Some(512), ..Options::default() });
    for (client, is_known) in Client::RUST.into_iter().flat_map(|client| [(client, true), (client, false)]) {
        if !is_known {
            // The lookup happens after the main thread has exited.
            observer.signal(Signal::STOP);
        }
        let mut agent = Agent::start(client, &observer);
        let pid = agent.pid();
        if is_known {
            observer.expect("up", pid, SOON);
        }
        agent.tell("leave");
        wait_for("the end of its main thread", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
            stat.contains(") Z ").then_some(())
        });
        if !is_known {
            observer.signal(Signal::CONT);
            observer.expect("up", pid, SOON);
        }
        observer.watch(2 * T);
        for kind in ["stall", "exit", "session"] {
            observer.none_of(kind, pid);
        }
        agent.signal(Signal::STOP);
        observer.expect("stall", pid, T + SOON);
        agent.signal(Signal::KILL);
        observer.expect("exit", pid, SOON);
        assert_eq!(observer.count("up", pid), 1);
    }
    observer.stop();
}

// --- the end --------------------------------------------------------------------------------------

/// An agent is killed: that is reported as an exit with the signal, and never as a stall.
#[test]
fn fault_01_a_killed_process_is_told_as_exit_with_its_signal_and_never_as_stall() {
    let mut observer = Observer::start(Options::default());
    let agents: Vec<_> = Client::ALL.iter().map(|&client| Agent::start(client, &observer)).collect();
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
        agent.signal(Signal::KILL);
    }
    for agent in &agents {
        let exit = observer.expect("exit", agent.pid(), SOON);
        assert_eq!(exit.u64("signal"), 9, "{exit}");
        assert!(!exit.has("code"), "{exit}");
    }
    // Until every deadline has passed.
    observer.watch(2 * T);
    for agent in &agents {
        observer.none_of("stall", agent.pid());
        assert_eq!(observer.count("exit", agent.pid()), 1);
    }
    observer.stop();
}

#[test]
fn defect_20_a_stalled_process_that_dies_is_told_as_exit() {
    let mut observer = Observer::start(Options::default());
    let agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    agent.signal(Signal::STOP);
    observer.expect("stall", agent.pid(), T + SOON);
    agent.signal(Signal::KILL);
    let exit = observer.expect("exit", agent.pid(), SOON);
    assert!(exit.u64("silent_ns") >= ns(T), "{exit}");
    observer.none_of("resume", agent.pid());
    assert_eq!(observer.count("stall", agent.pid()), 1);
    observer.stop();
}

#[test]
fn a_crash_is_told_as_terminal_then_exit() {
    let mut observer = Observer::start(Options::default());
    for client in Client::ALL {
        let mut agent = Agent::start(client, &observer);
        observer.expect("up", agent.pid(), SOON);
        agent.tell("panic");
        let terminal = observer.expect("terminal", agent.pid(), SOON);
        assert_eq!(terminal.str("status"), "critical", "{terminal}");
        let exit = observer.expect("exit", agent.pid(), SOON);
        assert!(exit.u64("seq") > terminal.u64("seq"), "{terminal}\n{exit}");
        assert!(!agent.wait().success());
        observer.none_of("stall", agent.pid());
        assert_eq!(observer.count("terminal", agent.pid()), 1);
    }
    observer.stop();
}

#[test]
fn defect_11_a_process_that_survives_a_panic_goes_on_without_a_stall() {
    let mut observer = Observer::start(Options::default());
    let mut agents: Vec<_> = Client::RUST.iter().map(|&client| Agent::start(client, &observer)).collect();
    for agent in &mut agents {
        observer.expect("up", agent.pid(), SOON);
        assert_eq!(agent.ask("survive"), "survive true");
        observer.expect("terminal", agent.pid(), SOON);
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        observer.no_false_stall(agent);
        observer.none_of("exit", agent.pid());
        assert_eq!(observer.count("session", agent.pid()), 0, "the old stream goes on");
        // Its silence is judged as before: the nonce of the terminal frame does not count.
        agent.signal(Signal::STOP);
        let stall = observer.expect("stall", agent.pid(), T + SOON);
        assert!(stall.u64("last_nonce") < 1_000_000, "{stall}");
    }
    observer.stop();
}

#[test]
fn defect_12_a_terminal_frame_right_after_a_beat_is_told() {
    let mut observer = Observer::start(Options::default());
    for client in Client::RUST {
        let options = AgentOptions { client, beats: Some(0), ..AgentOptions::default() };
        let mut agent = Agent::start_with(&observer, options);
        // One write, so that microseconds lie between the beat and the panic.
        agent.tell("beat\npanic");
        observer.expect("up", agent.pid(), SOON);
        observer.expect("terminal", agent.pid(), SOON);
        observer.expect("exit", agent.pid(), SOON);
    }
    observer.stop();
}

// --- one process, several streams; several processes, one stream ----------------------------------

/// An agent forks, and the child beats on the inherited socket: it is an agent of its own, and nothing
/// changes for the parent.
#[test]
fn fault_05_a_forked_child_is_an_agent_of_its_own_and_its_parent_is_unharmed() {
    let mut observer = Observer::start(Options::default());
    let mut agents: Vec<_> = Client::ALL.iter().map(|&client| Agent::start(client, &observer)).collect();
    let mut children = Vec::new();
    for agent in &mut agents {
        observer.expect("up", agent.pid(), SOON);
        let child = agent.fork();
        observer.expect("up", child, SOON);
        children.push(child);
    }
    observer.watch(2 * T);
    for (agent, child) in agents.iter_mut().zip(children) {
        observer.no_false_stall(agent);
        observer.none_of("stall", child);
        assert_eq!(observer.count("session", agent.pid()), 0, "the parent's stream goes on");
        // The child exits with its parent; both exits are reported.
        agent.signal(Signal::KILL);
        observer.expect("exit", agent.pid(), SOON);
        observer.expect("exit", child, SOON);
    }
    observer.stop();
}

#[test]
fn defect_10_nonce_starts_again_with_a_second_handle() {
    let mut observer = Observer::start(Options::default());
    let mut agents = Vec::new();
    for client in Client::RUST {
        let mut agent = Agent::start(client, &observer);
        observer.expect("up", agent.pid(), SOON);
        // The nonce of the first handle is far ahead of the second's: varta-watch ignores the lower ones.
        for _ in 0..20 {
            agent.ask("beat");
        }
        let shard = shard_for(agent.pid(), 2);
        agent.ask(format_args!("move {}", observer.socket(shard).display()));
        let session = observer.expect("session", agent.pid(), SOON);
        assert_eq!(session.str("why"), "nonce", "{session}");
        agents.push(agent);
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        observer.no_false_stall(agent);
    }
    observer.stop();
}

#[test]
fn defect_10_nonce_starts_again_when_a_process_executes_another_program() {
    let mut observer = Observer::start(Options::default());
    let mut agents: Vec<_> = Client::RUST.iter().map(|&client| Agent::start(client, &observer)).collect();
    for agent in &mut agents {
        observer.expect("up", agent.pid(), SOON);
        for _ in 0..20 {
            agent.ask("beat");
        }
        agent.tell("exec");
        agent.expect_up();
        let session = observer.expect("session", agent.pid(), SOON);
        assert!(["nonce", "exec"].contains(&session.str("why")), "{session}");
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        observer.no_false_stall(agent);
        observer.none_of("exit", agent.pid());
    }
    observer.stop();
}

#[test]
fn handles_in_step_under_one_pid_are_never_a_stall() {
    let mut observer = Observer::start(Options::default());
    let mut agents = Vec::new();
    for client in Client::RUST {
        for handles in [2, 3, 5] {
            let options = AgentOptions { client, handles, ..AgentOptions::default() };
            agents.push(Agent::start_with(&observer, options));
        }
    }
    observer.watch(3 * T);
    for agent in &mut agents {
        let pid = agent.pid();
        observer.no_false_stall(agent);
        assert_eq!(observer.count("up", pid), 1);
        assert!(observer.count("session", pid) <= 3, "a stream is told when it begins, not with every beat");
        agent.ask("quiet");
    }
    for agent in &agents {
        // The silence of all handles is still a stall.
        observer.expect("stall", agent.pid(), T + SOON);
    }
    observer.stop();
}

#[test]
fn three_streams_at_once_are_told_as_mixed_once_and_never_as_stalled() {
    let mut observer = Observer::start(Options::default());
    let mut agents: Vec<_> = Client::RUST.iter().map(|&client| Agent::start(client, &observer)).collect();
    for agent in &mut agents {
        observer.expect("up", agent.pid(), SOON);
        for _ in 0..2 {
            // Beats that put the nonces of the handles far apart.
            for _ in 0..20 {
                agent.ask("beat");
            }
            agent.ask("open");
        }
        observer.expect("mixed", agent.pid(), SOON);
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        observer.no_false_stall(agent);
        assert_eq!(observer.count("mixed", agent.pid()), 1);
        assert!(observer.count("session", agent.pid()) <= 3, "streams are not told any more");
        agent.signal(Signal::STOP);
    }
    for agent in &agents {
        observer.expect("stall", agent.pid(), T + SOON);
    }
    observer.stop();
}

// --- several shards -------------------------------------------------------------------------------

/// An agent moves from one shard to another: it is alive where it beats, and its silence on the first shard
/// is no stall.
#[test]
fn fault_18_an_agent_that_moves_to_another_shard_is_told_as_moved_and_never_as_stalled() {
    let mut observer = Observer::start(Options::default());
    let mut agents: Vec<_> =
        Client::ALL.iter().map(|&client| Agent::start_on(client, &observer, 0)).collect();
    for agent in &mut agents {
        let up = observer.expect("up", agent.pid(), SOON);
        assert_eq!(up.u64("shard"), 0, "{up}");
        let socket = observer.socket(1);
        agent.ask(format_args!("move {}", socket.display()));
    }
    for agent in &agents {
        let moved = observer.expect("moved", agent.pid(), T + SOON);
        assert_eq!((moved.u64("from"), moved.u64("shard")), (0, 1), "{moved}");
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        let pid = agent.pid();
        observer.no_false_stall(agent);
        observer.none_of("resume", pid);
        assert_eq!((observer.count("up", pid), observer.count("moved", pid)), (1, 1));
        agent.signal(Signal::STOP);
    }
    for agent in &agents {
        let stall = observer.expect("stall", agent.pid(), T + SOON);
        assert_eq!(stall.u64("shard"), 1, "{stall}");
    }
    // Its slot on the first shard is free: no second stall from there.
    observer.watch(T + T / 2);
    for agent in &agents {
        assert_eq!(observer.count("stall", agent.pid()), 1);
    }
    observer.stop();
}

/// An agent beats on two shards at once: it is one agent, with one silence and one exit.
#[test]
fn fault_18_an_agent_that_beats_on_two_shards_is_one_agent() {
    let mut observer = Observer::start(Options::default());
    let mut agents = Vec::new();
    for client in Client::RUST {
        let sockets = vec![observer.socket(0), observer.socket(1)];
        agents
            .push(Agent::start_with(&observer, AgentOptions { client, sockets, ..AgentOptions::default() }));
    }
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.watch(3 * T);
    for agent in &mut agents {
        observer.no_false_stall(agent);
        assert_eq!(observer.count("up", agent.pid()), 1, "the same process is up once");
        agent.ask("quiet");
    }
    for agent in &agents {
        observer.expect("stall", agent.pid(), T + SOON);
    }
    observer.watch(T + T / 2);
    for agent in &mut agents {
        assert_eq!(observer.count("stall", agent.pid()), 1, "its silence is one silence");
        agent.ask("go");
        observer.expect("resume", agent.pid(), SOON);
    }
    observer.watch(T / 2);
    for agent in &agents {
        assert_eq!(observer.count("resume", agent.pid()), 1);
        agent.signal(Signal::KILL);
        observer.expect("exit", agent.pid(), SOON);
    }
    observer.watch(T / 2);
    for agent in &agents {
        assert_eq!(observer.count("exit", agent.pid()), 1, "it dies once");
    }
    observer.stop();
}

/// Agents that beat on shards other than their pids' are observed there like any others.
#[test]
fn fault_18_agents_on_a_shard_that_is_not_their_pids_are_watched_there() {
    let mut observer = Observer::start(Options { shards: 4, ..Options::default() });
    let mut agents: Vec<_> = (0..8).map(|i| Agent::start_on(Client::RUST[i % 2], &observer, 3)).collect();
    for agent in &agents {
        let up = observer.expect("up", agent.pid(), SOON);
        assert_eq!(up.u64("shard"), 3, "{up}");
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        observer.no_false_stall(agent);
    }
    let table = observer.table();
    assert_eq!(table.shard(3, "up"), 8, "{table}");
    for agent in &agents {
        agent.signal(Signal::STOP);
    }
    for agent in &agents {
        let stall = observer.expect("stall", agent.pid(), T + SOON);
        assert_eq!(stall.u64("shard"), 3, "{stall}");
    }
    observer.stop();
}

// --- restart of the observer ----------------------------------------------------------------------

#[test]
fn agents_that_reconnect_are_up_again_at_the_next_observer_without_a_stall() {
    let mut first = Observer::start(Options::default());
    let reconnecting =
        Client::ALL.map(|client| AgentOptions { client, reconnect_after: 3, ..AgentOptions::default() });
    let mut agents = Agent::start_many(&first, reconnecting);
    for agent in &agents {
        first.expect("up", agent.pid(), SOON);
    }
    let place = first.stop().place;

    let mut second = Observer::start_in(place, Options::default());
    for agent in &agents {
        let up = second.expect("up", agent.pid(), SOON);
        // Nonces continue over a reconnect: any first nonce is valid.
        assert!(up.u64("nonce") > 1, "{up}");
    }
    second.watch(2 * T);
    for agent in &mut agents {
        second.no_false_stall(agent);
        assert_eq!(second.count("up", agent.pid()), 1);
    }
    second.stop();
}
