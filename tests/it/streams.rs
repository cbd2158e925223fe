//! Nonces, versions and clocks in an agent's frames: the kernel attests the sender, so every frame shows that
//! the agent is alive, whatever they are.

use crate::common::{Agent, AgentOptions, Client, Event, Observer, Options, SOON, T, wait_for, wire};
use rustix::process::Signal;

/// The largest nonce of an ordinary frame.
const NONCE_MAX: u64 = u64::MAX - 1;

fn silent() -> AgentOptions {
    AgentOptions { beats: Some(0), ..AgentOptions::default() }
}

fn observer() -> Observer {
    Observer::start(Options { shards: 1, queue_limit: Some(512), ..Options::default() })
}

/// Sends all frames and waits until the observer has counted them.
fn send_all(observer: &mut Observer, agent: &mut Agent, frames: impl IntoIterator<Item = [u8; 32]>) {
    let taken = |observer: &mut Observer| {
        let table = observer.table();
        table.shard(0, "beats") + table.shard(0, "refused")
    };
    let before = taken(observer);
    let mut sent = 0;
    for frame in frames {
        assert!(agent.send(&frame));
        sent += 1;
    }
    wait_for("all frames to be taken", || (taken(observer) == before + sent).then_some(()));
}

fn story(observer: &mut Observer, pid: u32) -> Vec<String> {
    let told = observer.events().iter().filter(|event| event.pid() == Some(pid));
    told.map(|event| event.kind().to_owned()).collect()
}

fn reasons(observer: &mut Observer, pid: u32) -> Vec<String> {
    let told = observer.events().iter().filter(|event| event.is("session", pid));
    told.map(|event: &Event| event.str("why").to_owned()).collect()
}

// --- the ends of the ranges -----------------------------------------------------------------------

/// An agent reaches the largest nonce and continues: in 0.2 at 0, in 0.1 with the same nonce again and again.
/// It is the same stream, and nothing was lost.
#[test]
fn fault_12_numbers_that_come_to_their_end_go_on_in_the_same_stream() {
    let mut observer = observer();
    let wrapping = [NONCE_MAX - 1, NONCE_MAX, 0, 1, 2];
    let sticking = [NONCE_MAX - 1, NONCE_MAX, NONCE_MAX, NONCE_MAX, NONCE_MAX];
    let frame: [fn(u32, u64) -> [u8; 32]; 2] = [wire::frame, wire::frame_01];
    for (frame, nonces) in frame.into_iter().zip([wrapping, sticking]) {
        let mut agent = Agent::start_with(&observer, silent());
        let pid = agent.pid();
        send_all(&mut observer, &mut agent, nonces.map(|nonce| frame(pid, nonce)));
        observer.expect("up", pid, SOON);
        let stall = observer.expect("stall", pid, T + SOON);
        assert_eq!(stall.u64("last_nonce"), nonces[4], "{stall}");
        send_all(&mut observer, &mut agent, [frame(pid, nonces[4])]);
        let resume = observer.expect("resume", pid, SOON);
        assert_eq!(resume.u64("lost"), 0, "{resume}");
        assert_eq!(story(&mut observer, pid), ["up", "stall", "resume"]);
    }
    let table = observer.table();
    assert_eq!((table.shard(0, "lost"), table.shard(0, "refused")), (0, 0), "{table}");
    observer.stop();
}

/// The terminal frame of a crash hook, with the largest nonce, is reported each time it is sent, and later
/// nonces do not continue from it. Without the status critical it is no valid frame; nor is a frame with the
/// reserved timestamp.
#[test]
fn fault_12_a_last_word_is_told_once_and_counted_on_by_nobody() {
    let mut observer = observer();
    let mut agent = Agent::start_with(&observer, silent());
    let pid = agent.pid();
    send_all(&mut observer, &mut agent, [1, 2, 3].map(|nonce| wire::frame(pid, nonce)));
    send_all(&mut observer, &mut agent, [wire::last_word(pid)]);
    let terminal = observer.expect("terminal", pid, SOON);
    assert_eq!(terminal.str("status"), "critical", "{terminal}");
    // The process survived: the stream continues, and the smallest and largest timestamps are valid.
    let instants = [(4, 0), (5, u64::MAX - 1), (6, 1)];
    send_all(
        &mut observer,
        &mut agent,
        instants.map(|(nonce, timestamp)| wire::frame_at(pid, nonce, timestamp)),
    );
    let refused = observer.table().shard(0, "refused");
    assert_eq!(refused, 0);
    let broken = [wire::frame(pid, u64::MAX), wire::frame_at(pid, 7, u64::MAX)];
    send_all(&mut observer, &mut agent, broken);
    let table = observer.table();
    for reason in ["bad_nonce", "bad_timestamp"] {
        assert_eq!(table.refused(0, reason), 1, "{table}");
    }
    let stall = observer.expect("stall", pid, T + SOON);
    assert_eq!(stall.u64("last_nonce"), 6, "{stall}");
    assert_eq!(observer.count("terminal", pid), 1);
    assert_eq!(reasons(&mut observer, pid), [""; 0], "one stream");
    assert_eq!(table.shard(0, "lost"), 0, "{table}");
    observer.stop();
}

// --- nonces out of order --------------------------------------------------------------------------

/// An agent sends the same frame again and again, and old frames. The kernel attests the sender, so it is
/// alive: a repeat is nothing new, an old nonce is another stream, and neither is a stall.
#[test]
fn fault_13_repeats_and_old_numbers_are_life_and_old_ones_another_stream() {
    let mut observer = observer();
    let mut repeating = Agent::start_with(&observer, silent());
    let mut replaying = Agent::start_with(&observer, silent());
    let (same, old) = (repeating.pid(), replaying.pid());
    send_all(&mut observer, &mut repeating, (1..=20).map(|nonce| wire::frame(same, nonce)));
    send_all(&mut observer, &mut replaying, (1001..=1020).map(|nonce| wire::frame(old, nonce)));
    for pid in [same, old] {
        observer.expect("up", pid, SOON);
    }
    // For three thresholds, no frame has a new nonce.
    for round in 0..30 {
        send_all(&mut observer, &mut repeating, [wire::frame(same, 20)]);
        send_all(&mut observer, &mut replaying, [wire::frame(old, 1 + round % 5)]);
        observer.watch(T / 10);
    }
    assert_eq!(story(&mut observer, same), ["up"], "a repeat is nothing new");
    for pid in [same, old] {
        observer.none_of("stall", pid);
        observer.none_of("exit", pid);
    }
    let reasons = reasons(&mut observer, old);
    assert!(!reasons.is_empty() && reasons.iter().all(|why| why == "nonce"), "{reasons:?}");
    let table = observer.table();
    assert_eq!((table.shard(0, "refused"), table.shard(0, "lost")), (0, 0), "{table}");
    for pid in [same, old] {
        observer.expect("stall", pid, T + SOON);
    }
    observer.stop();
}

/// Two frames arrive in reverse order. Both count as beats, and none as lost.
#[test]
fn fault_13_beats_that_change_places_are_life_and_not_lost() {
    let mut observer = observer();
    let mut agent = Agent::start_with(&observer, silent());
    let pid = agent.pid();
    let nonces = [1, 2, 4, 3, 5, 6, 8, 7, 9, 10];
    send_all(&mut observer, &mut agent, nonces.map(|nonce| wire::frame(pid, nonce)));
    observer.expect("up", pid, SOON);
    let stall = observer.expect("stall", pid, T + SOON);
    assert_eq!(stall.u64("last_nonce"), 10, "{stall}");
    let table = observer.table();
    assert_eq!((table.shard(0, "beats"), table.shard(0, "refused")), (10, 0), "{table}");
    observer.stop();
}

// --- versions -------------------------------------------------------------------------------------

/// Agents of both versions beat on one socket, each counted by its version.
#[test]
fn fault_17_agents_of_both_versions_share_a_socket() {
    let mut observer = observer();
    let agents: Vec<_> = (0..10).map(|i| Agent::start(Client::ALL[i % 3], &observer)).collect();
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.watch(2 * T);
    for agent in &agents {
        assert_eq!(story(&mut observer, agent.pid()), ["up"]);
    }
    let table = observer.table();
    assert_eq!(table.shard(0, "refused"), 0, "{table}");
    for agent in &agents {
        agent.signal(Signal::STOP);
    }
    for agent in &agents {
        observer.expect("stall", agent.pid(), T + SOON);
    }
    observer.stop();
}

/// Two flipped bits turn a 0.2 frame into a 0.1 frame, which has no checksum. A single such frame is refused
/// and is no beat; an agent that really changes to 0.1 is accepted with its second frame.
#[test]
fn fault_17_a_stray_frame_of_0_1_is_no_life_of_an_agent_of_0_2() {
    let mut observer = observer();
    let mut agent = Agent::start_with(&observer, silent());
    let pid = agent.pid();
    send_all(&mut observer, &mut agent, [1, 2, 3].map(|nonce| wire::frame(pid, nonce)));
    observer.expect("up", pid, SOON);
    // Never two 0.1 frames in a row with rising nonces: a 0.2 frame lies between them, or the nonce repeats.
    for nonce in 4..8 {
        let stray = [wire::frame_01(pid, 1_000_000), wire::frame(pid, nonce)];
        send_all(&mut observer, &mut agent, stray);
    }
    let before = observer.table();
    assert_eq!(before.refused(0, "downgrade"), 4, "{before}");
    for _ in 0..12 {
        send_all(&mut observer, &mut agent, [wire::frame_01(pid, 1_000_000)]);
        observer.watch(T / 10);
    }
    let stall = observer.expect("stall", pid, T + SOON);
    assert_eq!(stall.u64("last_nonce"), 7, "they are no life: {stall}");
    assert_eq!(observer.table().refused(0, "downgrade"), 16);
    // Now the agent really sends 0.1.
    send_all(&mut observer, &mut agent, [1_000_001, 1_000_002].map(|nonce| wire::frame_01(pid, nonce)));
    observer.expect("resume", pid, SOON);
    observer.expect("session", pid, SOON);
    assert_eq!(reasons(&mut observer, pid), ["version"]);
    assert_eq!(story(&mut observer, pid), ["up", "stall", "resume", "session"]);
    observer.stop();
}
