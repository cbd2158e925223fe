//! Users that take more than their share: other users are not affected, and the user is named.

use std::collections::HashSet;
use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::common::{Agent, AgentOptions, Client, Observer, Options, SOON, T, needs_root, wait_for, wire};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;

const NEIGHBOUR: u32 = 1001;
const OTHER_NEIGHBOUR: u32 = 1002;

/// Two shards that every user may beat on.
const OPEN: &str = "[[shard]]\nmode = \"0666\"\n[[shard]]\nmode = \"0666\"\n";

fn open(settings: &str, queue_limit: u32) -> Options {
    needs_root("it becomes other users");
    let config = format!("{settings}\n{OPEN}");
    Options { config, queue_limit: Some(queue_limit), ..Options::default() }
}

/// A process that sends as fast as it can from several sockets, for a limited number of beats.
fn flooder(observer: &Observer, shard: u32, handles: u32) -> Agent {
    let options = AgentOptions {
        sockets: vec![observer.socket(shard)],
        handles,
        period: Duration::ZERO,
        beats: Some(2_000_000),
        uid: Some(NEIGHBOUR),
        ..AgentOptions::default()
    };
    Agent::start_with(observer, options)
}

// --- floods ---------------------------------------------------------------------------------------

#[test]
fn fault_22_a_flood_of_one_user_costs_agents_on_other_shards_nothing_and_is_named() {
    let mut observer = Observer::start(open("", 400));
    let each = (0..8).map(|i| AgentOptions {
        client: Client::RUST[i % 2],
        sockets: vec![observer.socket(0)],
        period: Duration::from_millis(50),
        ..AgentOptions::default()
    });
    let mut honest = Agent::start_many(&observer, each);
    for agent in &honest {
        observer.expect("up", agent.pid(), SOON);
    }
    let flooders = [flooder(&observer, 1, 8), flooder(&observer, 1, 8)];
    let flood = observer.expect_kind("flood", SOON);
    assert_eq!((flood.u64("shard"), flood.u64("uid")), (1, NEIGHBOUR.into()), "{flood}");
    assert!(flood.str("why") == "full" && flood.u64("frames") > 0 && flood.u64("for_ns") > 0, "{flood}");
    observer.watch(2 * T);

    let table = observer.table();
    assert!(table.uid(1, NEIGHBOUR, "frames") > 1_000, "{table}");
    assert_eq!(table.uid(1, NEIGHBOUR, "agents"), 2, "{table}");
    assert_eq!(table.uid(0, NEIGHBOUR, "frames"), 0, "{table}");
    drop(flooders);

    // The kernel accepted every beat, and so did the observer.
    let mut sent = 0;
    for agent in &mut honest {
        assert_eq!(agent.ask("quiet"), "quiet");
        let report = agent.report();
        assert_eq!((report.dropped, report.failed), (0, 0), "{report:?}");
        sent += report.sent;
        observer.no_false_stall(agent);
    }
    wait_for("every beat to be counted", || (observer.table().shard(0, "beats") >= sent).then_some(()));
    let table = observer.table();
    assert_eq!((table.shard(0, "beats"), table.shard(0, "refused")), (sent, 0), "{table}");
    assert_eq!(table.shard(0, "lost"), 0, "{table}");
    let on_shard_0 = |event: &&crate::common::Event| event.kind() == "flood" && event.u64("shard") == 0;
    assert_eq!(observer.events().iter().filter(on_shard_0).count(), 0);
    observer.stop();
}

#[test]
fn fault_22_over_its_budget_a_user_is_refused_but_for_its_crash_reports() {
    // Four handles cannot fill the queue, so only the observer refuses frames.
    let mut observer = Observer::start(open("uid-frames-max = 300", 4_000));
    let on_shard_1 = |uid| AgentOptions { sockets: vec![observer.socket(1)], uid, ..AgentOptions::default() };
    let mut honest = Agent::start_with(&observer, on_shard_1(None));
    let silent = AgentOptions { beats: Some(0), ..on_shard_1(Some(NEIGHBOUR)) };
    let mut crashing = Agent::start_with(&observer, silent);
    let flooder = flooder(&observer, 1, 4);
    let flood = observer.expect_kind("flood", SOON);
    let who = (flood.u64("shard"), flood.str("why"), flood.u64("uid"));
    assert_eq!(who, (1, "budget", NEIGHBOUR.into()), "{flood}");
    assert!(flood.u64("refused") > 0 && flood.u64("refused") <= flood.u64("frames"), "{flood}");

    crashing.tell("panic");
    let terminal = observer.expect("terminal", crashing.pid(), SOON);
    assert_eq!(terminal.str("status"), "critical", "{terminal}");
    observer.watch(2 * T);

    observer.no_false_stall(&mut honest);
    let report = honest.report();
    assert_eq!((report.dropped, report.failed), (0, 0), "{report:?}");
    // The frames within the budget keep the flooder alive.
    observer.none_of("stall", flooder.pid());
    let pid = flooder.pid();
    drop(flooder);
    // After its exit nothing more of it is counted.
    observer.expect("exit", pid, T + SOON);
    let table = observer.table();
    let refused = table.refused(1, "budget");
    assert!(refused > 1_000 && table.shard(1, "refused") == refused, "{table}");
    assert_eq!(table.uid(1, NEIGHBOUR, "budget"), refused, "{table}");
    assert_eq!(table.uid(1, 0, "refused"), 0, "{table}");
    observer.stop();
}

// --- shares ---------------------------------------------------------------------------------------

#[test]
fn fault_52_a_user_fills_its_share_of_the_table_and_not_the_table() {
    let mut observer = Observer::start(open("uid-agents-max = 3", 2_000));
    let sockets = [0, 1].map(|shard| observer.socket(shard));
    let of = |uid, i: usize| AgentOptions {
        sockets: vec![sockets[i % 2].clone()],
        uid,
        ..AgentOptions::default()
    };
    let mut greedy = Agent::start_many(&observer, (0..6).map(|i| of(Some(NEIGHBOUR), i)));
    let full = observer.expect_kind("full", SOON);
    assert_eq!(
        (full.u64("uid"), full.u64("share_refused")),
        (NEIGHBOUR.into(), full.u64("refused")),
        "{full}"
    );
    // Other users' agents get slots, before and after.
    let mut others =
        Agent::start_many(&observer, (0..4).map(|i| of(if i < 2 { None } else { Some(OTHER_NEIGHBOUR) }, i)));
    for agent in &others {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.watch(2 * T);
    let is_in = |observer: &mut Observer, agent: &Agent| observer.count("up", agent.pid()) > 0;
    let (mut inside, mut outside): (Vec<_>, Vec<_>) =
        greedy.drain(..).partition(|agent| is_in(&mut observer, agent));
    assert_eq!((inside.len(), outside.len()), (3, 3));
    let table = observer.table();
    assert_eq!(table.uid(0, NEIGHBOUR, "agents") + table.uid(1, NEIGHBOUR, "agents"), 3, "{table}");
    for agent in inside.iter_mut().chain(&mut outside).chain(&mut others) {
        observer.no_false_stall(agent);
    }
    // A slot that an exit frees goes to the same user again.
    let gone = inside.pop().expect("there are three");
    gone.signal(Signal::KILL);
    observer.expect("exit", gone.pid(), T + SOON);
    let waiting: HashSet<_> = outside.iter().map(Agent::pid).collect();
    observer.expect_that("up of a refused agent", SOON, |event| {
        event.kind() == "up" && event.pid().is_some_and(|pid| waiting.contains(&pid))
    });
    observer.stop();
}

#[test]
fn each_shard_lets_in_the_users_of_its_own_list() {
    needs_root("it becomes other users");
    let config = format!(
        "[[shard]]\nmode = \"0666\"\nallow-uids = [{NEIGHBOUR}]\n\
         [[shard]]\nmode = \"0666\"\nallow-uids = [{OTHER_NEIGHBOUR}]\n"
    );
    let mut observer = Observer::start(Options { config, ..Options::default() });
    let places = [(0, NEIGHBOUR), (1, OTHER_NEIGHBOUR), (0, OTHER_NEIGHBOUR), (1, NEIGHBOUR)];
    let of = |(shard, uid)| AgentOptions {
        sockets: vec![observer.socket(shard)],
        uid: Some(uid),
        ..AgentOptions::default()
    };
    let mut agents = Agent::start_many(&observer, places.map(of));
    for agent in &agents[..2] {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.watch(T + T / 2);
    for agent in &agents[2..] {
        for kind in ["up", "stall", "exit"] {
            observer.none_of(kind, agent.pid());
        }
    }
    for agent in &mut agents {
        assert_eq!(agent.ask("quiet"), "quiet");
    }
    let sent: Vec<u64> = agents.iter_mut().map(|agent| agent.report().sent).collect();
    let counted = |table: &crate::common::Table| places.map(|(shard, uid)| table.uid(shard, uid, "frames"));
    wait_for("every frame to be counted", || (counted(&observer.table())[..] == sent[..]).then_some(()));
    let table = observer.table();
    let refused = places.map(|(shard, uid)| table.uid(shard, uid, "refused"));
    assert_eq!(refused, [0, 0, sent[2], sent[3]], "{table}");
    assert_eq!([table.refused(0, "uid"), table.refused(1, "uid")], [sent[2], sent[3]], "{table}");
    observer.stop();
}

// --- descriptors ----------------------------------------------------------------------------------

/// The largest number of descriptors that one datagram can carry (SCM_MAX_FD).
const FDS_MAX: usize = 253;

#[test]
fn fault_20_descriptors_sent_along_never_reach_the_observer() {
    const DATAGRAMS: usize = 10_000;
    let mut observer = Observer::start(Options { shards: 1, queue_limit: Some(2_000), ..Options::default() });
    let sender = wire::sender(&observer.socket(0));
    let before = open_fds(&observer);
    let frame = wire::frame(std::process::id(), 1);
    let mut taken = 0;
    for round in 0..DATAGRAMS {
        match send_with_descriptors(&sender, &frame, [1, 2, 16, FDS_MAX][round % 4]) {
            // A kernel that knows SO_PASSRIGHTS refuses them.
            Err(Errno::PERM) => {}
            // An older kernel passes or drops them, unless the queue is full.
            Ok(_) => taken += 1,
            Err(Errno::AGAIN | Errno::TOOMANYREFS) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(round % 500 != 0 || open_fds(&observer) <= before, "{} open", open_fds(&observer));
    }
    // The same socket can still send.
    wire::send_at_last(&sender, &frame);
    observer.expect("up", std::process::id(), SOON);
    let table = observer.table();
    let foreign = table.refused(0, "truncated_control") + table.refused(0, "foreign_fds");
    assert_eq!((foreign, table.shard(0, "refused"), table.shard(0, "beats")), (taken, taken, 1), "{table}");
    // Two more descriptors: the pidfd that watches this process, and the count of kills in its control group.
    assert!(open_fds(&observer) <= before + 2, "{} open, {before} before", open_fds(&observer));
    observer.stop();
}

fn open_fds(observer: &Observer) -> usize {
    fs::read_dir(format!("/proc/{}/fd", observer.pid())).expect("it runs").count()
}

fn send_with_descriptors(sender: &UnixDatagram, frame: &[u8], count: usize) -> Result<usize, Errno> {
    let descriptors = vec![sender.as_fd(); count];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(sender, &[IoSlice::new(frame)], &mut control, SendFlags::DONTWAIT)
}
