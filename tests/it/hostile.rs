//! Malicious or broken senders: they are reported and counted, and no other agent is affected.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Agent, AgentOptions, Client, Event, Observer, Options, SOON, T, mono_ns, needs_root, ns, wait_for, wire,
};
use rustix::process::Signal;

/// A user that owns nothing here.
const STRANGER: u32 = 65534;

/// One shard that every user may beat on.
const OPEN: &str = "[[shard]]\nmode = \"0666\"\n";

/// A queue as deep as `check` asks for: one sender cannot fill it, so no agent's beats are refused.
fn with_room() -> Options {
    Options { queue_limit: Some(2000), ..Options::default() }
}

fn beating_fast(observer: &Observer, shards: u32) -> Vec<Agent> {
    let each = (0..2 * shards).map(|i| AgentOptions {
        client: if i % 2 == 0 { Client::Rust01 } else { Client::Rust02 },
        sockets: vec![observer.socket(i % shards)],
        period: Duration::from_millis(20),
        ..AgentOptions::default()
    });
    Agent::start_many(observer, each)
}

// --- who sent it ----------------------------------------------------------------------------------

/// A user writes the pid of another user's process into its frames, to hide a stall of that process or to
/// have it reported as stalled. The kernel attests the sender: the forgery is reported and counted, and the
/// victim is judged as if nothing had been sent.
#[test]
fn threat_01_a_forged_pid_of_another_user_is_told_and_its_victim_is_unharmed() {
    needs_root("it becomes another user");
    let config = OPEN.to_owned();
    let mut observer = Observer::start(Options { shards: 1, config, ..Options::default() });
    let mut victim = Agent::start(Client::Rust02, &observer);
    observer.expect("up", victim.pid(), SOON);
    let silent = AgentOptions { uid: Some(STRANGER), beats: Some(0), ..AgentOptions::default() };
    let mut forger = Agent::start_with(&observer, silent);

    // Frames with the victim's pid and nonces far ahead of its own.
    for nonce in 1_000_000..1_000_003 {
        assert!(forger.send(&wire::frame(victim.pid(), nonce)));
    }
    let (claimed, attested) = (u64::from(victim.pid()), u64::from(forger.pid()));
    let auth = observer.expect_kind("auth", SOON);
    let who = (auth.u64("claimed"), auth.u64("attested"), auth.u64("uid"));
    assert_eq!(who, (claimed, attested, STRANGER.into()), "{auth}");

    // A stall of the victim is reported whatever the forger sends.
    observer.watch(T);
    observer.no_false_stall(&mut victim);
    assert_eq!(observer.count("session", victim.pid()), 0, "no stream but its own");
    victim.signal(Signal::STOP);
    let end = Instant::now() + T;
    while Instant::now() < end {
        forger.send(&wire::frame(victim.pid(), 1_000_100));
        observer.watch(Duration::from_millis(20));
    }
    let stall = observer.expect("stall", victim.pid(), SOON);
    assert!(stall.u64("last_nonce") < 1_000, "the forger's nonce is not the victim's: {stall}");
    assert!(stall.u64("silent_ns") < ns(3 * T), "the forger prolongs nobody's life: {stall}");

    // The forger is no agent: no deadline exists for its next frame.
    observer.watch(T);
    observer.none_of("stall", forger.pid());
    assert!(observer.table().refused(0, "forged") > 0, "{}", observer.table());
    observer.stop();
}

#[test]
fn defect_17_agents_of_other_users_beat_where_the_sockets_mode_lets_them() {
    needs_root("it becomes another user");
    let config = OPEN.to_owned();
    let mut observer = Observer::start(Options { shards: 1, config, ..Options::default() });
    let others =
        Client::RUST.map(|client| AgentOptions { client, uid: Some(1000), ..AgentOptions::default() });
    let mut agents = Agent::start_many(&observer, others);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        observer.no_false_stall(agent);
    }
    let table = observer.table();
    assert_eq!(table.shard(0, "refused"), 0, "{table}");
    observer.stop();
}

#[test]
fn defect_17_only_the_users_of_a_list_beat_where_there_is_one() {
    needs_root("it becomes another user");
    let config = format!("{OPEN}allow-uids = [1000]\n");
    let mut observer = Observer::start(Options { shards: 1, config, ..Options::default() });
    let mut listed =
        Agent::start_with(&observer, AgentOptions { uid: Some(1000), ..AgentOptions::default() });
    let mut unlisted = Agent::start(Client::Rust02, &observer);
    observer.expect("up", listed.pid(), SOON);
    let sent = wait_for("beats", || Some(unlisted.report().sent).filter(|sent| *sent > 5));
    observer.watch(T + T / 2);
    for kind in ["up", "stall", "exit"] {
        observer.none_of(kind, unlisted.pid());
    }
    observer.no_false_stall(&mut listed);
    let table = observer.table();
    assert!(table.refused(0, "uid") >= sent, "{sent} sent\n{table}");
    observer.stop();
}

#[test]
fn the_sockets_mode_keeps_other_users_out_by_default() {
    needs_root("it becomes another user");
    let observer = Observer::start(Options::default());
    let refused = std::panic::catch_unwind(|| {
        let sockets = vec![observer.socket(0)];
        let stranger = AgentOptions { sockets, uid: Some(STRANGER), ..AgentOptions::default() };
        Agent::start_with(&observer, stranger)
    });
    let message = *refused.map(drop).expect_err("it connected").downcast::<String>().expect("a message");
    assert!(message.contains("Permission denied"), "{message}");
    observer.stop();
}

// --- what they send -------------------------------------------------------------------------------

#[test]
fn defect_02_a_flood_of_garbage_harms_nobody_and_is_told_ten_times_a_second() {
    const FLOOD: Duration = Duration::from_secs(3);
    let shards = 2;
    let mut observer = Observer::start(with_room());
    let mut agents = beating_fast(&observer, shards);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let began = mono_ns();
    let is_over = AtomicBool::new(false);
    let sockets: Vec<_> = (0..shards).map(|shard| observer.socket(shard)).collect();
    thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(|| flood_with_garbage(socket, &is_over));
        }
        observer.watch(FLOOD);
        is_over.store(true, Ordering::Relaxed);
    });
    let seconds = (mono_ns() - began).div_ceil(1_000_000_000);

    observer.watch(T);
    for agent in &mut agents {
        observer.no_false_stall(agent);
        observer.none_of("exit", agent.pid());
    }
    for shard in 0..shards {
        let of_shard = |event: &&Event| event.kind() == "decode" && event.u64("shard") == u64::from(shard);
        let told = observer.events().iter().filter(of_shard).count() as u64;
        assert!(
            told > 0 && told <= 10 * (seconds + 1),
            "{told} decode events in {seconds} s on shard {shard}"
        );
    }
    let errors: HashSet<_> = observer
        .events()
        .iter()
        .filter(|event| event.kind() == "decode")
        .map(|event| event.str("error").to_owned())
        .collect();
    assert!(errors.contains("bad_magic"), "{errors:?}");
    // Every datagram is counted, reported or not.
    let table = observer.table();
    for shard in 0..shards {
        for reason in ["bad_magic", "bad_version", "bad_crc", "wrong_size", "probe"] {
            assert!(table.refused(shard, reason) > 100, "{reason} of shard {shard}\n{table}");
        }
    }
    observer.stop();
}

/// Malformed datagrams of every kind, a few thousand a second.
fn flood_with_garbage(socket: &std::path::Path, is_over: &AtomicBool) {
    let sender = wire::sender(socket);
    // xorshift64 with a fixed seed: the same garbage in every run.
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut round = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        let noise: Vec<u8> = (0..64).flat_map(|_| next().to_le_bytes()).collect();
        let mut versionless = wire::frame(std::process::id(), 1);
        versionless[2] = 9;
        let mut torn = wire::frame(std::process::id(), 1);
        torn[20] ^= 4;
        let datagrams: [&[u8]; 7] =
            [&noise[..32], &noise[..31], &noise[..33], &noise, &[], &versionless, &torn];
        for datagram in datagrams {
            let _ = sender.send(datagram);
        }
        round += 1;
        if round.is_multiple_of(8) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn fault_14_defect_13_long_short_and_empty_datagrams_and_foreign_descriptors_are_counted_apart() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let sender = wire::sender(&observer.socket(0));
    for _ in 0..3 {
        wire::send_at_last(&sender, &[0; 31]);
        wire::send_at_last(&sender, &[0; 5000]);
    }
    // They are no frames, and are reported with their sender.
    for _ in 0..6 {
        let told =
            observer.expect_that("a datagram that is no frame", SOON, |event| event.kind() == "decode");
        assert_eq!((told.str("error"), told.pid()), ("wrong_size", Some(std::process::id())), "{told}");
    }
    wire::send_at_last(&sender, &[]);
    let is_taken = send_with_descriptors(&sender);
    wait_for("all to be counted", || {
        let table = observer.table();
        let counts = ["wrong_size", "probe"].map(|reason| table.refused(0, reason));
        (counts == [6, 1]).then_some(())
    });
    let table = observer.table();
    let foreign = table.refused(0, "truncated_control") + table.refused(0, "foreign_fds");
    // A kernel that is new enough refuses them at the sender.
    assert_eq!(foreign, u64::from(is_taken), "{table}");
    assert_eq!(table.shard(0, "refused"), 7 + foreign, "{table}");
    observer.stop();
}

/// Sends a valid frame with a descriptor; returns whether the kernel accepted it.
fn send_with_descriptors(sender: &std::os::unix::net::UnixDatagram) -> bool {
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    let frame = wire::frame(std::process::id(), 1);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [sender.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(sender, &[std::io::IoSlice::new(&frame)], &mut control, SendFlags::DONTWAIT).is_ok()
}

// --- too many -------------------------------------------------------------------------------------

#[test]
fn a_full_table_is_told_harms_nobody_in_it_and_has_room_again_after_an_exit() {
    let mut observer = Observer::start(Options { agents_max: 5, ..Options::default() });
    let began = mono_ns();
    let mut agents = Agent::start_many(&observer, (0..10).map(|_| AgentOptions::default()));
    let full = observer.expect_kind("full", SOON);
    assert!(full.u64("refused") > 0, "{full}");
    observer.watch(2 * T);
    let (mut tracked, mut refused): (Vec<_>, Vec<_>) =
        agents.drain(..).partition(|agent| observer.count("up", agent.pid()) > 0);
    assert_eq!((tracked.len(), refused.len()), (5, 5));
    for agent in tracked.iter_mut().chain(&mut refused) {
        observer.no_false_stall(agent);
    }
    let detail = observer.get(&format!("/api/v1/agents/{}", refused[0].pid())).json();
    assert_eq!((&detail["state"], &detail["refused"]["why"]), (&"refused".into(), &"table_full".into()));
    let seconds = (mono_ns() - began).div_ceil(1_000_000_000);
    let told = observer.events().iter().filter(|event| event.kind() == "full").count() as u64;
    assert!(told <= 2 * (seconds + 1), "{told} in {seconds} s on two shards");

    // After one agent exits, one of the refused agents gets its slot; the others keep theirs.
    let gone = tracked.pop().expect("there are five");
    gone.signal(Signal::KILL);
    observer.expect("exit", gone.pid(), T + SOON);
    let waiting: HashSet<_> = refused.iter().map(Agent::pid).collect();
    let up = observer.expect_that("up of a refused agent", SOON, |event| {
        event.kind() == "up" && event.pid().is_some_and(|pid| waiting.contains(&pid))
    });
    observer.watch(T + T / 2);
    refused.retain(|agent| Some(agent.pid()) == up.pid());
    tracked.append(&mut refused);
    for agent in &mut tracked {
        observer.no_false_stall(agent);
    }
    let table = observer.table();
    assert_eq!(table.shard(0, "up") + table.shard(1, "up"), 5, "{table}");
    observer.stop();
}

#[test]
fn fault_21_a_true_stall_is_told_although_a_flood_keeps_the_queue_full() {
    let mut observer = Observer::start(Options { shards: 1, queue_limit: Some(10), ..Options::default() });
    let fast = AgentOptions { period: Duration::from_millis(5), ..AgentOptions::default() };
    let victim = Agent::start_with(&observer, fast);
    observer.expect("up", victim.pid(), SOON);
    let flood = AgentOptions { handles: 16, period: Duration::ZERO, ..AgentOptions::default() };
    let flooder = Agent::start_with(&observer, flood);
    observer.expect("up", flooder.pid(), SOON);

    let stopped = mono_ns();
    victim.signal(Signal::STOP);
    // Refused beats may have begun the silence before the stop, so it counts from the last accepted beat.
    let stall = observer.expect("stall", victim.pid(), 3 * T + SOON);
    let last_beat = stall.u64("mono_ns") - stall.u64("silent_ns");
    assert!(last_beat <= stopped + ns(T) / 4, "{stall}");
    // At most 3T of awake time, and T of slack for a machine that is busy with the flood.
    assert!(stall.u64("silent_ns") < ns(4 * T), "late: {stall}");
    assert!(stall.u64("silent_ns") >= ns(T), "early: {stall}");
    drop(flooder);
    observer.stop();
}
