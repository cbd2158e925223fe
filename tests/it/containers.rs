//! Agents and observers in namespaces of their own: which pid identifies an agent, which pids can be forged,
//! and what an observer in a namespace cannot see.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::common::{
    Agent, AgentOptions, Client, Observer, Options, SOON, T, copy_program, in_pid_namespace, rust_program,
    signal, wire,
};
use rustix::process::Signal;

/// A container: the agent is the first process of a pid namespace.
const CONTAINER: &str = "unshare --pid --fork --kill-child";
/// A container in a container.
const NESTED: &str = "unshare --pid --fork --kill-child unshare --pid --fork --kill-child";
/// An unprivileged user.
const ORDINARY: u32 = 1000;
/// One shard that every user may beat on.
const OPEN: &str = "[[shard]]\nmode = \"0666\"\n";

fn within(client: Client, within: &str) -> AgentOptions {
    AgentOptions { client, within: within.to_owned(), ..AgentOptions::default() }
}

fn silent(options: AgentOptions) -> AgentOptions {
    AgentOptions { beats: Some(0), ..options }
}

/// Stops, continues and kills the agent: expects stall, resume and exit, each with this inner pid.
fn expect_life(observer: &mut Observer, agent: &mut Agent, ns_pid: Option<u32>) {
    let pid = agent.pid();
    agent.signal(Signal::STOP);
    observer.expect("stall", pid, T + SOON);
    agent.signal(Signal::CONT);
    observer.expect("resume", pid, SOON);
    agent.signal(Signal::KILL);
    observer.expect("exit", pid, T + SOON);
    let told: Vec<_> = observer.events().iter().filter(|event| event.pid() == Some(pid)).cloned().collect();
    let kinds: Vec<_> = told.iter().map(crate::common::Event::kind).collect();
    assert_eq!(kinds, ["up", "stall", "resume", "exit"], "{told:#?}");
    for event in &told {
        let inner = event.has("ns_pid").then(|| event.u64("ns_pid"));
        assert_eq!(inner, ns_pid.map(u64::from), "{event}");
        assert_eq!(event.u64("session"), told[0].u64("session"), "{event}");
    }
}

// --- inner pids -----------------------------------------------------------------------------------

/// An agent's own pid is not the one that the kernel attests, because the agent runs one or two pid
/// namespaces further in. It is tracked by the pid in the observer's namespace. Every event about it has its
/// own pid, too, and pid 1 is as valid as any.
#[test]
fn fault_19_agents_in_containers_are_known_by_both_their_pids() {
    let mut observer = Observer::start(Options::default());
    let each =
        [CONTAINER, NESTED].into_iter().flat_map(|place| Client::ALL.map(|client| within(client, place)));
    let mut agents = Agent::start_many(&observer, each);
    for agent in &agents {
        assert!(agent.pids().len() > 1 && agent.pids().ends_with(&[1]), "{:?}", agent.pids());
        let up = observer.expect("up", agent.pid(), SOON);
        assert_eq!(up.u64("ns_pid"), 1, "{up}");
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        expect_life(&mut observer, agent, Some(1));
    }
    let told: HashSet<_> = observer.events().iter().map(|event| event.kind().to_owned()).collect();
    assert!(!told.contains("auth"), "{told:?}");
    observer.stop();
}

/// A frame may carry the sender's pid at any level between its own namespace and the observer's; any other
/// pid is forged.
#[test]
fn fault_19_the_pid_of_every_level_is_the_senders_own() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let stranger = Agent::start(Client::Rust02, &observer);
    observer.expect("up", stranger.pid(), SOON);
    for level in 0..3 {
        let mut agent = Agent::start_with(&observer, silent(within(Client::Rust02, NESTED)));
        let pids = agent.pids();
        assert_eq!(pids.len(), 3, "{pids:?}");
        assert!(agent.send(&wire::frame(pids[level], 1)));
        let up = observer.expect("up", agent.pid(), SOON);
        let inner = up.has("ns_pid").then(|| up.u64("ns_pid"));
        assert_eq!(inner, (level > 0).then_some(pids[level].into()), "{up}");
        assert!(agent.send(&wire::frame(stranger.pid(), 2)));
        let auth = observer.expect_kind("auth", SOON);
        let who = (auth.u64("claimed"), auth.u64("attested"));
        assert_eq!(who, (stranger.pid().into(), agent.pid().into()), "{auth}");
    }
    let told = observer.events().iter().filter(|event| event.kind() == "auth").count();
    assert_eq!(told, 3, "one forged frame is told once");
    observer.stop();
}

/// An agent that is not the first process of its container has another inner pid, and keeps it when it
/// executes another program.
#[test]
fn fault_19_an_inner_pid_is_kept_over_exec_and_not_inherited_by_a_fork() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let mut agent = Agent::start_with(&observer, within(Client::Rust02, CONTAINER));
    let pid = agent.pid();
    let up = observer.expect("up", pid, SOON);
    assert_eq!(up.u64("ns_pid"), 1, "{up}");
    // The stock client writes the pid that it had when it connected; the observer still looks the sender up.
    let inner = agent.fork();
    assert_ne!(inner, pid, "it is the pid inside");
    let child = observer
        .expect_that("up of its child", SOON, |event| event.kind() == "up" && event.pid() != Some(pid));
    let child_pids = pids_of(child.pid().expect("an agent has one"));
    assert_eq!(child_pids[1..], [inner], "{child}");
    assert_eq!(child.u64("ns_pid"), u64::from(inner), "{child}");
    for _ in 0..20 {
        agent.ask("beat");
    }
    agent.tell("exec");
    agent.expect_up();
    let session = observer.expect("session", pid, SOON);
    assert_eq!(session.u64("ns_pid"), 1, "{session}");
    observer.watch(T + T / 2);
    observer.none_of("stall", pid);
    observer.none_of("exit", pid);
    observer.stop();
}

fn pids_of(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("a line of pids");
    line.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

// --- forging --------------------------------------------------------------------------------------

/// An unprivileged user sends with the pid of another process. The kernel refuses it at the sender, and the
/// observer receives nothing.
#[test]
fn threat_01_the_kernel_lets_no_ordinary_user_send_as_another_process() {
    let config = OPEN.to_owned();
    let mut observer = Observer::start(Options { shards: 1, config, ..Options::default() });
    let victim = Agent::start(Client::Rust02, &observer);
    observer.expect("up", victim.pid(), SOON);
    let ordinary = AgentOptions { uid: Some(ORDINARY), ..AgentOptions::default() };
    let mut forger = Agent::start_with(&observer, silent(ordinary.clone()));
    let mut neighbour = Agent::start_with(&observer, silent(ordinary));
    let before = observer.table();
    for pid in [victim.pid(), neighbour.pid(), 1] {
        let said = forger.forge(pid, &wire::frame(pid, 1_000_000));
        assert!(said.contains("Operation not permitted"), "as {pid}: {said}");
    }
    // Its own pid is allowed.
    let own = forger.pid();
    assert_eq!(forger.forge(own, &wire::frame(own, 1)), "ok");
    observer.expect("up", own, SOON);
    neighbour.beat();
    observer.expect("up", neighbour.pid(), SOON);
    let after = observer.table();
    assert_eq!(after.shard(0, "refused"), before.shard(0, "refused"), "{after}");
    victim.signal(Signal::STOP);
    observer.expect("stall", victim.pid(), T + SOON);
    observer.stop();
}

/// A process that is privileged over a pid namespace may send as any process in it, and an unprivileged user
/// has that privilege over a namespace that it creates. The kernel attests such a pid, and the observer
/// cannot detect the forgery. It is limited to that namespace: processes outside cannot be named.
#[test]
fn threat_02_the_root_of_a_container_forges_its_own_processes_and_nobody_elses() {
    let allowed = fs::read_to_string("/proc/sys/user/max_user_namespaces").expect("a kernel with them");
    assert_ne!(allowed.trim(), "0", "this test needs user namespaces: sysctl user.max_user_namespaces=10000");
    let config = OPEN.to_owned();
    let mut observer = Observer::start(Options { shards: 1, config, ..Options::default() });
    let outside = Agent::start(Client::Rust02, &observer);
    observer.expect("up", outside.pid(), SOON);
    let program = observer.place().base().join("stock-agent");
    copy_program(rust_program(), &program);
    let unprivileged = format!("setpriv --reuid {ORDINARY} --regid {ORDINARY} --clear-groups");
    let mut root = Agent::start_with(
        &observer,
        AgentOptions {
            within: format!("{unprivileged} unshare --user --map-root-user --pid --fork --kill-child"),
            program: Some(program),
            sockets: vec![observer.socket(0)],
            ..AgentOptions::default()
        },
    );
    observer.expect("up", root.pid(), SOON);
    let inner = root.fork();
    let up = observer.expect_that("up of the victim", SOON, |event| {
        event.kind() == "up" && event.has("ns_pid") && event.u64("ns_pid") == u64::from(inner)
    });
    let victim = up.pid().expect("an agent has one");

    // A process of its own namespace: the forged beats hide its silence.
    signal(victim, Signal::STOP);
    let end = Instant::now() + 2 * T;
    let mut nonce = 1_000_000;
    while Instant::now() < end {
        nonce += 1;
        assert_eq!(root.forge(inner, &wire::frame(inner, nonce)), "ok");
        observer.watch(T / 10);
    }
    observer.none_of("stall", victim);
    let table = observer.table();
    assert_eq!(table.refused(0, "forged"), 0, "nobody can tell: {table}");
    // The stall is reported once the forged beats stop.
    observer.expect("stall", victim, T + SOON);

    // A process outside: inside the namespace its pid is free or another process's.
    let said = root.forge(outside.pid(), &wire::frame(outside.pid(), 1));
    assert!(said.contains("No such process") || said.contains("not permitted"), "{said}");
    outside.signal(Signal::STOP);
    observer.expect("stall", outside.pid(), T + SOON);
    observer.stop();
}

// --- an observer inside ---------------------------------------------------------------------------

/// The observer runs in a pid namespace, the agents outside. The kernel reports them as pid 0, which attests
/// nothing: their frames are counted and refused, whatever pid they claim. The observer warns at start.
#[test]
fn fault_19_whom_the_kernel_does_not_attest_is_nobody_and_the_observer_says_so_at_start() {
    let inside = "--pid --fork --kill-child --mount-proc";
    let mut observer = Observer::start(Options { shards: 1, unshare: inside, ..Options::default() });
    let warning = observer.stderr();
    for part in ["warning: ", "inside a pid namespace", "unattested", "on the host"] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    let sockets = vec![observer.socket(0)];
    let each = Client::RUST.map(|client| AgentOptions {
        client,
        sockets: sockets.clone(),
        ..AgentOptions::default()
    });
    let mut agents = Agent::start_many(&observer, each);
    for agent in &mut agents {
        // A pid that exists in the namespace: the observer's own.
        assert!(agent.send(&wire::frame(1, 7)));
        assert!(agent.send(&wire::frame(2, 7)));
    }
    observer.watch(2 * T);
    let told: HashSet<_> = observer.events().iter().map(|event| event.kind().to_owned()).collect();
    for kind in ["up", "stall", "exit", "terminal", "auth"] {
        assert!(!told.contains(kind), "{kind} of nobody");
    }
    for agent in &mut agents {
        assert!(agent.report().sent > 0);
    }
    let table = observer.table();
    observer.stop();
    assert!(table.refused(0, "unattested") >= 4, "{table}");
    assert_eq!(table.shard(0, "beats"), 0, "{table}");
}

/// The observer and its agents share a pid namespace with its own /proc: everything works as on a host,
/// containers inside included.
#[test]
fn fault_19_inside_a_pid_namespace_an_observer_sees_what_is_inside() {
    in_pid_namespace(|_| {
        let mut observer = Observer::start(Options::default());
        let mut host = Agent::start(Client::Rust02, &observer);
        let mut contained = Agent::start_with(&observer, within(Client::Rust02, CONTAINER));
        for agent in [&host, &contained] {
            observer.expect("up", agent.pid(), SOON);
        }
        observer.watch(2 * T);
        expect_life(&mut observer, &mut host, None);
        expect_life(&mut observer, &mut contained, Some(1));
        observer.stop();
    });
}

/// The observer runs in a pid namespace whose /proc is still the host's: the pids in it belong to other
/// processes, or to none. The observer warns at start, and reports no exit because an entry is missing.
#[test]
fn fault_19_a_proc_of_another_pid_namespace_is_not_believed() {
    let inside = "--pid --fork --kill-child";
    let mut observer = Observer::start(Options { shards: 1, unshare: inside, ..Options::default() });
    let warning = observer.stderr();
    for part in ["warning: ", "/proc", "another pid namespace"] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    let beside = format!("nsenter --target {} --pid --", observer.pid());
    let each = Client::ALL
        .map(|client| AgentOptions { sockets: vec![observer.socket(0)], ..within(client, &beside) });
    let mut agents: Vec<_> = each.into_iter().map(|options| Agent::start_with(&observer, options)).collect();
    for agent in &agents {
        observer.expect("up", agent.inner_pid(), SOON);
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        let pid = agent.inner_pid();
        for kind in ["exit", "stall", "session"] {
            observer.none_of(kind, pid);
        }
        agent.signal(Signal::KILL);
        observer.expect("exit", pid, T + SOON);
        observer.none_of("stall", pid);
        assert_eq!(observer.count("up", pid), 1);
    }
    observer.stop();
}

/// The observer runs as an unprivileged user and /proc hides the processes of other users: a hidden process
/// has not exited.
#[test]
fn fault_19_who_is_hidden_in_proc_is_not_gone() {
    let mut observer = Observer::start(Options {
        shards: 1,
        config: OPEN.to_owned(),
        uid: Some(ORDINARY),
        mounts: Some("mount -t proc -o hidepid=2 proc /proc".to_owned()),
        ..Options::default()
    });
    let warning = observer.stderr();
    assert!(warning.contains("warning: /proc hides other users' processes"), "{warning}");
    let mut agents = Client::ALL.map(|client| Agent::start(client, &observer));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        let pid = agent.pid();
        assert_eq!(observer.count("exit", pid), 0, "it lives");
        expect_life(&mut observer, agent, None);
    }
    observer.stop();
}

// --- other namespaces -----------------------------------------------------------------------------

/// An agent in another network namespace reaches the socket by its path, as a container does through a
/// mounted directory.
#[test]
fn fault_19_agents_of_other_network_namespaces_reach_the_socket_by_its_path() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let each = Client::ALL.map(|client| within(client, "unshare --net --mount --uts --ipc"));
    let mut agents = Agent::start_many(&observer, each);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    observer.watch(2 * T);
    for agent in &mut agents {
        expect_life(&mut observer, agent, None);
    }
    observer.stop();
}

/// An agent's clock is days ahead or behind, or goes back while the agent beats. The observer compares it
/// with none of its own clocks: silence counts from the arrival of beats.
#[test]
fn fault_11_the_clock_of_an_agent_has_no_effect() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let mut agents: Vec<_> = Client::ALL
        .into_iter()
        .map(|client| within(client, "unshare --time --monotonic 1000000 --boottime 1000000"))
        .map(|options| Agent::start_with(&observer, options))
        .collect();
    let mut stepping = Agent::start_with(&observer, silent(AgentOptions::default()));
    let clock = [5_000_000_000, 4, u64::MAX - 1, 1, 7_000_000_000, 6_999_999_999, 0];
    for (nonce, timestamp) in (1..).zip(clock) {
        assert!(stepping.send(&wire::frame_at(stepping.pid(), nonce, timestamp)));
    }
    observer.expect("up", stepping.pid(), SOON);
    stepping.ask("go");
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let table = observer.table();
    assert_eq!(table.shard(0, "refused"), 0, "{table}");
    observer.watch(2 * T);
    for agent in &mut agents {
        expect_life(&mut observer, agent, None);
    }
    observer.stop();
}

/// The observer's clocks are far from the kernel's, each by another offset. Start times of processes are on
/// one clock and arrivals on another, and both are still compared correctly.
#[test]
fn fault_11_an_observer_in_a_time_namespace_sees_that_a_pid_is_used_again() {
    in_pid_namespace(|pids| {
        for clocks in ["--time --monotonic 1000000", "--time --boottime 1000000"] {
            let mut observer = Observer::start(Options {
                shards: 1,
                queue_limit: Some(512),
                unshare: clocks,
                ..Options::default()
            });
            let mut dead = Agent::start_with(&observer, silent(AgentOptions::default()));
            let pid = dead.pid();
            observer.signal(Signal::STOP);
            dead.beat();
            // The kernel reports start times in steps of 10 ms: within a step, both holders look the same.
            std::thread::sleep(Duration::from_millis(50));
            dead.signal(Signal::KILL);
            dead.wait();
            let mut heir = pids.start_as(pid, || Agent::start(Client::Rust02, &observer));
            heir.ask("beat");
            observer.signal(Signal::CONT);
            observer.expect("up", pid, SOON);
            observer.expect("exit", pid, SOON);
            observer.expect("up", pid, SOON);
            observer.watch(T + T / 2);
            assert_eq!(observer.count("exit", pid), 1, "the heir lives, {clocks}");
            observer.none_of("stall", pid);
            observer.stop();
        }
    });
}
