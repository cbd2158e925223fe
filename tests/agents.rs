//! Agents as they are in the field, and what the observer tells of them: real processes, real sockets.

mod common;

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use common::{
    Agent, AgentOptions, Client, Observer, Options, PERIOD, SOON, T, mono_ns, needs_root, ns, wait_for,
};
use rustix::process::Signal;
use varta_fleet::shard_for;

/// Nobody who beats is told as stalled. If the agent itself was late, the message says so.
fn assert_never_stalled(observer: &mut Observer, agent: &mut Agent) {
    if observer.count("stall", agent.pid()) > 0 {
        let report = agent.report();
        println!("the agent says: {report:?}");
        observer.none_of("stall", agent.pid());
    }
}

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
        assert_never_stalled(&mut observer, agent);
        assert_eq!(observer.count("up", agent.pid()), 1);
        assert_eq!(observer.count("session", agent.pid()), 0, "one handle is one stream");
        agent.signal(Signal::STOP);
    }
    // And when all fall silent at once, nobody is missed.
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

#[test]
fn a_changed_status_is_told_once_per_change() {
    let mut observer = Observer::start(Options::default());
    for client in Client::RUST {
        let mut agent = Agent::start(client, &observer);
        // A first beat with another status changes nothing: `up` tells it.
        observer.expect("up", agent.pid(), SOON);
        for word in ["degraded", "critical", "ok"] {
            agent.ask(format_args!("status {word}"));
            let told = observer.expect("status", agent.pid(), SOON);
            assert_eq!(told.str("status"), word);
        }
        // Critical by itself is no crash.
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
        // Everything before a silence is told before it.
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

#[test]
fn an_agent_in_a_container_is_known_by_both_its_pids() {
    let mut observer = Observer::start(Options::default());
    let contained = Client::ALL.map(|client| AgentOptions {
        client,
        within: "unshare --pid --fork --kill-child".into(),
        ..AgentOptions::default()
    });
    let mut agents = Agent::start_many(&observer, contained);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        assert_never_stalled(&mut observer, agent);
        observer.none_of("auth", agent.pid());
        agent.signal(Signal::STOP);
    }
    for agent in &agents {
        let stall = observer.expect("stall", agent.pid(), T + SOON);
        assert_eq!(stall.u64("ns_pid"), 1, "{stall}");
    }
    observer.stop();
}

// --- silence --------------------------------------------------------------------------------------

#[test]
fn a_stopped_process_stalls_once_and_resumes_when_it_goes_on() {
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

    // One stall a silence, however long.
    observer.watch(T + T / 2);
    for agent in &agents {
        assert_eq!(observer.count("stall", agent.pid()), 1);
        observer.none_of("resume", agent.pid());
        agent.signal(Signal::CONT);
    }
    for agent in &agents {
        let resume = observer.expect("resume", agent.pid(), SOON);
        assert!(resume.u64("silent_ns") >= ns(2 * T), "{resume}");
        // A stopped process sends nothing, so nothing was lost.
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
        assert_never_stalled(&mut observer, other);
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
    // Until both are looked up, the largest threshold holds for both.
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

// --- the end --------------------------------------------------------------------------------------

#[test]
fn a_killed_process_is_told_as_exit_and_never_as_stall() {
    let mut observer = Observer::start(Options::default());
    let agents: Vec<_> = Client::ALL.iter().map(|&client| Agent::start(client, &observer)).collect();
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
        agent.signal(Signal::KILL);
    }
    for agent in &agents {
        let exit = observer.expect("exit", agent.pid(), SOON);
        assert_eq!(exit.u64("signal"), 9, "{exit}");
    }
    // Until every deadline that was open is long over.
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
        assert_never_stalled(&mut observer, agent);
        observer.none_of("exit", agent.pid());
        assert_eq!(observer.count("session", agent.pid()), 0, "the old stream goes on");
        // Its silence is judged as before: the nonce of the crash hook is no reference.
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
        // In one write: microseconds lie between the beat and the panic.
        agent.tell("beat\npanic");
        observer.expect("up", agent.pid(), SOON);
        observer.expect("terminal", agent.pid(), SOON);
        observer.expect("exit", agent.pid(), SOON);
    }
    observer.stop();
}

// --- one process, several streams; several processes, one stream ----------------------------------

#[test]
fn a_forked_child_is_an_agent_of_its_own_and_its_parent_is_unharmed() {
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
        assert_never_stalled(&mut observer, agent);
        observer.none_of("stall", child);
        assert_eq!(observer.count("session", agent.pid()), 0, "the parent's stream goes on");
        // The child follows its parent; both are told.
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
        // The nonce of the first handle is far ahead; the incumbent ignores what is not.
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
        assert_never_stalled(&mut observer, agent);
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
        assert_never_stalled(&mut observer, agent);
        observer.none_of("exit", agent.pid());
    }
    observer.stop();
}

#[test]
fn defect_10_nonce_starts_again_with_a_recycled_pid() {
    needs_root("it chooses the pid of a process");
    let mut observer = Observer::start(Options::default());
    let mut dead = Agent::start_on(Client::Rust02, &observer, 0);
    let pid = dead.pid();
    observer.expect("up", pid, SOON);
    for _ in 0..20 {
        dead.ask("beat");
    }
    dead.signal(Signal::KILL);
    dead.wait();
    let heir = wait_for("the pid to be used again", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("choose the next pid");
        Some(Agent::start_on(Client::Rust02, &observer, 0)).filter(|agent| agent.pid() == pid)
    });
    let told = observer.expect_that("the newcomer", T + SOON, |event| {
        event.is("up", pid) || event.is("session", pid) && event.str("why") == "new-process"
    });
    assert!(told.u64("session") > 1, "another process is another session: {told}");
    observer.watch(2 * T);
    observer.none_of("stall", pid);
    heir.signal(Signal::STOP);
    let stall = observer.expect("stall", pid, T + SOON);
    drop(heir);
    observer.expect_that("its exit", T + SOON, |exit| {
        exit.is("exit", pid) && exit.u64("mono_ns") > stall.u64("mono_ns")
    });
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
        assert_never_stalled(&mut observer, agent);
        assert_eq!(observer.count("up", pid), 1);
        assert!(observer.count("session", pid) <= 3, "a stream is told when it begins, not with every beat");
        agent.ask("quiet");
    }
    for agent in &agents {
        // Silence of all handles is still a stall.
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
            // So that the nonces of the handles lie apart.
            for _ in 0..20 {
                agent.ask("beat");
            }
            agent.ask("open");
        }
        observer.expect("mixed", agent.pid(), SOON);
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        assert_never_stalled(&mut observer, agent);
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

#[test]
fn an_agent_that_moves_to_another_shard_is_told_as_moved_and_never_as_stalled() {
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
        assert_never_stalled(&mut observer, agent);
        observer.none_of("resume", pid);
        assert_eq!((observer.count("up", pid), observer.count("moved", pid)), (1, 1));
        agent.signal(Signal::STOP);
    }
    for agent in &agents {
        let stall = observer.expect("stall", agent.pid(), T + SOON);
        assert_eq!(stall.u64("shard"), 1, "{stall}");
    }
    // Its place on the first shard is gone: no second stall from there.
    observer.watch(T + T / 2);
    for agent in &agents {
        assert_eq!(observer.count("stall", agent.pid()), 1);
    }
    observer.stop();
}

#[test]
fn an_agent_that_beats_on_two_shards_is_one_agent() {
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
        assert_never_stalled(&mut observer, agent);
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
        // Nonces go on over a reconnect: any first nonce is fine.
        assert!(up.u64("nonce") > 1, "{up}");
    }
    second.watch(2 * T);
    for agent in &mut agents {
        assert_never_stalled(&mut second, agent);
        assert_eq!(second.count("up", agent.pid()), 1);
    }
    second.stop();
}
