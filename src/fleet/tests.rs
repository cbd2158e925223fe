//! Real fleets, real sockets, real agents, and threads that fail.

use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::*;
use crate::aggregator::Request;
use crate::aggregator::fanout::EVENTS_SLACK;
use crate::config::{EventsFormat, KeyChange, Output};
use crate::event::{BlindPhase, Event, EventKind, IoPlace, ReloadOutcome};
use crate::fleet::handle::Subscription;
use crate::fleet::stop::WRITE_WITHIN;
use crate::lane::Port;
use crate::lane::counters::ShardHealth;
use crate::view::health::Problem;
use crate::wire::{self, Frame, Status, Version};

#[path = "restart_tests.rs"]
mod restart;

/// Far longer than the period of an agent, so that a busy machine causes no real stalls.
const T: Duration = Duration::from_secs(1);
const PERIOD: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Nothing here takes this long unless it never happens.
const SOON: Duration = Duration::from_secs(30);
/// A machine is not that busy each time.
const STOPS_MAX: u32 = 20;
/// How long a stall waits for the answers of others; a little less, because the clocks are not read at once.
const ANSWERS_WITHIN_NS: u64 = 19_000_000;
const SOCKET: &str = "VARTA_FLEET_TEST_SOCKET";

struct World {
    fleet: Fleet,
    events: Subscription,
    told: Vec<Event>,
    directory: TempDir,
}

impl World {
    fn new(shards: u32) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let dir = Some(directory.path().to_owned());
        let config = Config { dir, shards: Some(shards), threshold: T, agents_max: 64, ..Config::default() };
        let fleet = Fleet::start(&config).expect("fleet");
        let events = fleet.handle().subscribe(4096);
        Self { fleet, events, told: Vec::new(), directory }
    }

    fn running(&self) -> &Running {
        self.fleet.running.as_ref().expect("it runs")
    }

    fn port(&self, shard: usize) -> &Port {
        &self.fleet.handle.ports[shard]
    }

    fn socket(&self, shard: usize) -> PathBuf {
        self.directory.path().join(format!("shard-{shard}.sock"))
    }

    /// An agent on this shard's socket, once it is up.
    fn agent(&mut self, shard: usize) -> Agent {
        let agent = Agent::start(&self.socket(shard));
        let pid = agent.pid();
        self.expect(|event| event.kind == EventKind::Up && event.agent.is_some_and(|who| who.pid == pid));
        agent
    }

    /// Triggers the planted fault of the shard and waits for it.
    fn strike(&self, shard: usize) {
        self.port(shard).kick(SystemClock.mono());
        wait_for(|| self.port(shard).fault.has_struck());
    }

    /// The next matching event; those before it are kept.
    fn expect(&mut self, is_it: impl Fn(&Event) -> bool) -> Event {
        loop {
            let Some(event) = self.events.next_within(SOON) else {
                panic!("not told in {SOON:?}; told: {:#?}", self.told);
            };
            self.told.push(event);
            if is_it(&event) {
                return event;
            }
        }
    }

    fn expect_of(&mut self, agent: &Agent, is_it: impl Fn(&EventKind) -> bool) -> Event {
        let pid = agent.pid();
        self.expect(|event| is_it(&event.kind) && event.agent.is_some_and(|who| who.pid == pid))
    }

    /// Stops the agent, and returns its stall once one is certain. One is not if the observer could not see or did not
    /// get answers in time, as on a busy machine; then it has to have noticed, and the agent is stopped once more.
    fn expect_certain_stall(&mut self, agent: &Agent) -> Event {
        for _ in 0..STOPS_MAX {
            let from = SystemClock.mono();
            wait_for(|| self.last_beat(agent).is_some_and(|at| at > from));
            agent.signal(Signal::STOP);
            let pid = agent.pid();
            let is_stall = |event: &Event| {
                let is_its = event.agent.is_some_and(|who| who.pid == pid);
                is_its && event.mono > from && matches!(event.kind, EventKind::Stall { .. })
            };
            let stall = self.expect(is_stall);
            if matches!(stall.kind, EventKind::Stall { certain: true, .. }) {
                return stall;
            }
            self.expect_reason(&stall);
            agent.signal(Signal::CONT);
            self.expect_of(agent, |kind| matches!(kind, EventKind::Resume { .. }));
        }
        panic!("not certain after {STOPS_MAX} stops: {:#?}", self.told);
    }

    /// When the last beat arrived that a shard has read of the agent.
    fn last_beat(&self, agent: &Agent) -> Option<MonoNs> {
        let tables = self.fleet.handle.ports.iter().map(|port| &port.table);
        let slots = tables.flat_map(|table| (0..table.used()).filter_map(|slot| table.read_hot(slot).ok()));
        slots.filter(|hot| hot.pid == agent.pid()).map(|hot| hot.last_arrival).max()
    }

    /// Why this stall is not certain: a shard was blind in the silence, or answers were waited for as long as they are
    /// at most.
    fn expect_reason(&mut self, stall: &Event) {
        let EventKind::Stall { silent_ns, .. } = stall.kind else { unreachable!("it was asked for") };
        let since = stall.mono - silent_ns;
        let is_reason = |event: &Event| matches!(event.kind, EventKind::Blind { .. }) && event.mono > since;
        let ahead = SystemClock.wall().0.saturating_sub(SystemClock.mono().0);
        let told_at = stall.wall.0.saturating_sub(ahead);
        let is_late = told_at.saturating_sub(stall.mono.0) >= ANSWERS_WITHIN_NS;
        if !is_late && !self.told.iter().any(is_reason) {
            self.expect(is_reason);
        }
    }

    fn expect_io(&mut self, shard: u16, at: IoPlace) {
        let is_it = |kind| matches!(kind, EventKind::Io { place, .. } if place == at);
        self.expect(|event| event.shard == Some(shard) && is_it(event.kind));
    }

    /// Waits until the shard has processed everything of the next `time`.
    fn watch(&self, shard: usize, time: Duration) {
        let until = SystemClock.mono() + crate::time::duration_ns(time);
        wait_for(|| self.port(shard).counters.watermark() >= until);
    }

    /// Events other than `up` that concern agents, without silences of an agent that had to wait that long
    /// for a core.
    fn told_of_agents(&mut self) -> Vec<Event> {
        self.told.extend(std::iter::from_fn(|| self.events.try_next()));
        let of_agents = self.told.iter().filter(|event| event.agent.is_some() && event.kind != EventKind::Up);
        of_agents.filter(|event| !self.did_not_beat(event)).copied().collect()
    }

    /// Whether the agent admits this silence. Waits until an agent that was not stopped runs again.
    fn did_not_beat(&self, event: &Event) -> bool {
        let (EventKind::Stall { silent_ns, .. } | EventKind::Resume { silent_ns, .. }) = event.kind else {
            return false;
        };
        let pid = event.agent.expect("a silence is somebody's").pid;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        if !matches!(state, Some('R' | 'S' | 'D')) {
            return false;
        }
        // The agent's gap ends a little before its next beat arrives.
        let admitted = silent_ns.saturating_sub(crate::time::duration_ns(T) / 4);
        wait_for(|| {
            let gap = std::fs::read_to_string(gap_file(self.directory.path(), pid)).unwrap_or_default();
            gap.parse::<u64>().is_ok_and(|gap| gap >= admitted)
        });
        true
    }
}

/// A process that beats. Killed when dropped.
struct Agent {
    child: Child,
}

impl Agent {
    fn start(socket: &Path) -> Self {
        let (_, module) = module_path!().split_once("::").expect("the crate and the module");
        let test = format!("{module}::an_agent_of_these_tests_beats_and_counts");
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", &test, "--nocapture"])
            .env(SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start an agent");
        Self { child }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal an agent");
    }

    /// Ends it. Returns the number of beats it sent, all accepted by the kernel.
    fn stop(mut self) -> u64 {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
        let sent = said.split("sent ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        sent.unwrap_or_else(|| panic!("an agent could not send: {said}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Also the program of the agents: each agent is this test binary, run with this test only.
#[test]
fn an_agent_of_these_tests_beats_and_counts() {
    if let Some(path) = std::env::var_os(SOCKET) {
        return beat(Path::new(&path));
    }
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("s");
    let socket = UnixDatagram::bind(&path).expect("bind");
    let agent = Agent::start(&path);
    let mut bytes = [0; 32];
    for nonce in 1..=3 {
        assert_eq!(socket.recv(&mut bytes).expect("beat"), 32);
        let frame = wire::decode(&bytes).expect("frame");
        assert_eq!((frame.nonce, frame.pid), (nonce, agent.pid()));
    }
    let sent = agent.stop();
    socket.set_nonblocking(true).expect("option");
    while socket.recv(&mut bytes).is_ok() {}
    assert_eq!(wire::decode(&bytes).expect("frame").nonce, sent);
}

/// File in which an agent writes its longest time without a beat, ns, once that is long.
fn gap_file(dir: &Path, pid: u32) -> PathBuf {
    dir.join(format!("gap-{pid}"))
}

fn beat(path: &Path) {
    let gap_file = gap_file(path.parent().expect("its directory"), std::process::id());
    let mut longest = T / 4;
    let mut last = Instant::now();
    let socket = UnixDatagram::unbound().expect("socket");
    socket.connect(path).expect("connect");
    let mut frame = Frame {
        version: Version::V02,
        status: Status::Ok,
        pid: std::process::id(),
        timestamp: 1,
        nonce: 0,
        payload: 0,
    };
    let stdin = io::stdin();
    while matches!(poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&PERIOD)), Ok(0)) {
        (frame.nonce, frame.timestamp) = (frame.nonce + 1, SystemClock.mono().0);
        let gap = last.elapsed();
        if gap > longest {
            longest = gap;
            std::fs::write(&gap_file, gap.as_nanos().to_string()).expect("write a file");
        }
        // Blocks while the queue is full, and fails once no process has the socket open.
        if let Err(error) = socket.send(&frame.encode()) {
            return println!("refused: {error}");
        }
        last = Instant::now();
    }
    println!("sent {}", frame.nonce);
}

fn wait_for(is_so: impl Fn() -> bool) {
    let until = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < until, "not so within {SOON:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn fault_30_a_shard_that_panics_goes_on_with_its_socket_and_its_agents() {
    let mut world = World::new(2);
    let first = world.agent(0);
    let agents = [world.agent(0), world.agent(1), world.agent(1)];
    let inode = || std::fs::metadata(world.socket(0)).expect("socket").ino();
    let before = inode();
    for _ in 0..2 {
        world.port(0).fault.panic();
        world.strike(0);
        world.expect_io(0, IoPlace::Shard);
        // An agent whose beats are not received in this time is stalled.
        world.watch(0, T + T / 4);
        assert!(world.fleet.is_healthy());
    }
    assert_eq!(world.told_of_agents(), []);
    // Each is counted once, also if it is silent because it waits for a core.
    let counted = || -> Vec<u64> {
        world.fleet.handle().snapshot().shards.iter().map(|shard| shard.up + shard.stalled).collect()
    };
    wait_for(|| counted() == [2, 2]);

    // The shard still observes after a panic inside the slot of an agent that sends no more beats.
    world.expect_certain_stall(&first);
    let told = world.told_of_agents();
    let stalls = told.iter().filter(|event| matches!(event.kind, EventKind::Stall { .. })).count();
    assert_eq!(told.len(), 2 * stalls - 1, "all stalls but one have ended: {told:#?}");
    world.port(0).fault.panic_inside_slot();
    world.strike(0);
    world.expect_io(0, IoPlace::Shard);
    world.watch(0, T + T / 4);
    assert_eq!(world.told_of_agents(), told, "the stall lasts: {:#?}", world.told);
    first.signal(Signal::KILL);
    let exit = world.expect_of(&first, |kind| matches!(kind, EventKind::Exit { .. }));
    assert_eq!(std::fs::metadata(world.socket(0)).expect("socket").ino(), before);
    assert!(world.fleet.is_healthy());
    assert_eq!(world.port(0).counters.panics.get(), 3);

    // The agents' nonces count their beats.
    let last = exit.agent.expect("of an agent").nonce;
    let sent: u64 = last + agents.into_iter().map(Agent::stop).sum::<u64>();
    let beats = |world: &World| -> u64 {
        world.fleet.handle().snapshot().shards.iter().map(|shard| shard.beats).sum()
    };
    wait_for(|| beats(&world) >= sent);
    let snapshot = world.fleet.handle().snapshot();
    assert_eq!(beats(&world), sent, "nothing that was queued is lost");
    assert_eq!(snapshot.shards.iter().map(|shard| shard.frames).sum::<u64>(), sent);
    assert_eq!(snapshot.shards.iter().map(|shard| shard.beats_lost).sum::<u64>(), 0);
    assert_eq!(world.fleet.stop(SOON).shards_dead, 0);
}

/// The descriptors of this process for the socket.
fn descriptors_of(socket: &Path) -> Vec<(String, PathBuf)> {
    let unix = std::fs::read_to_string("/proc/self/net/unix").expect("list the sockets");
    // The kernel lists the name it was bound to, which begins like its path.
    let begin = format!("{}/.{}~", socket.parent().expect("a directory").display(), "shard-0");
    let inode =
        unix.lines().find(|line| line.contains(&begin)).and_then(|line| line.split_whitespace().nth(6));
    let wanted = format!("socket:[{}]", inode.expect("it is bound"));
    let open = std::fs::read_dir("/proc/self/fd").expect("list the descriptors").flatten();
    let open = open
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path().read_link().ok()?)));
    open.filter(|(_, link)| link.as_os_str() == wanted.as_str()).collect()
}

#[test]
fn fault_55_a_shard_that_starts_over_keeps_its_descriptor() {
    let mut world = World::new(1);
    let agent = world.agent(0);
    let before = descriptors_of(&world.socket(0));
    assert_eq!(before.len(), 1, "{before:?}");
    for _ in 0..3 {
        world.port(0).fault.panic();
        world.strike(0);
        world.expect_io(0, IoPlace::Shard);
        assert_eq!(descriptors_of(&world.socket(0)), before);
    }
    // Connected agents stay connected.
    world.watch(0, T + T / 4);
    assert_eq!(world.told_of_agents(), []);
    agent.stop();
}

/// Wakes the shard without a reason, repeatedly, until dropped.
struct Restless {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Restless {
    fn of(port: &Arc<Port>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (port, until) = (Arc::clone(port), Arc::clone(&is_over));
        let body = move || {
            while !until.load(Ordering::Acquire) {
                port.kick(SystemClock.mono());
                // A pause between kicks, not a wait: without it the machine would be busy.
                thread::sleep(Duration::from_micros(200));
            }
        };
        Self { is_over, thread: Some(thread::spawn(body)) }
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn fault_49_a_shard_that_is_woken_without_a_reason_judges_nobody_early_and_everybody_in_time() {
    let mut world = World::new(1);
    let agents = [world.agent(0), world.agent(0)];
    let calls = |world: &World| world.port(0).counters.receive_calls.get();
    let restless = Restless::of(&world.fleet.handle.ports[0]);
    let before = calls(&world);
    world.watch(0, T + T / 4);
    assert!(calls(&world) > before, "it looks each time");
    assert_eq!(world.told_of_agents(), []);
    let stall = world.expect_certain_stall(&agents[0]);
    let EventKind::Stall { silent_ns, .. } = stall.kind else { unreachable!("it was asked for") };
    assert!(silent_ns >= crate::time::duration_ns(T), "{stall:?}");
    let told = world.told_of_agents();
    let stalls = told.iter().filter(|event| matches!(event.kind, EventKind::Stall { .. })).count();
    assert_eq!(told.len(), 2 * stalls - 1, "all stalls but one have ended: {told:#?}");
    drop(restless);
}

#[test]
fn fault_30_the_fourth_panic_within_a_minute_ends_the_shard_and_is_seen() {
    let mut world = World::new(2);
    let _lost = world.agent(0);
    let kept = world.agent(1);
    for _ in 0..4 {
        assert!(world.fleet.is_healthy());
        world.port(0).fault.panic();
        world.strike(0);
        world.expect_io(0, IoPlace::Shard);
    }
    wait_for(|| !world.fleet.is_healthy());
    assert_eq!(world.port(0).counters.health(), ShardHealth::Panicked);
    let alive: Vec<bool> =
        world.fleet.handle().snapshot().shards.iter().map(|shard| shard.is_alive).collect();
    assert_eq!(alive, [false, true]);

    // Other shards continue, and no thread waits for the ended shard.
    world.watch(1, T + T / 4);
    assert_eq!(world.told_of_agents(), []);
    kept.signal(Signal::STOP);
    // But its queue, which may hold a beat of this agent, is never read again.
    world.expect_of(&kept, |kind| matches!(kind, EventKind::Stall { certain: false, .. }));
    kept.signal(Signal::CONT);
    world.expect_of(&kept, |kind| matches!(kind, EventKind::Resume { .. }));
    assert_eq!(world.fleet.stop(SOON).shards_dead, 1);
}

#[test]
fn fault_31_a_stuck_shard_is_told_and_forgiven_when_it_goes_on() {
    let mut world = World::new(2);
    let stuck = world.agent(0);
    let kept = world.agent(1);
    assert!(world.fleet.is_healthy());
    world.port(0).fault.stick();
    world.port(0).kick(SystemClock.mono());
    world.expect_io(0, IoPlace::ShardStuck);
    assert!(!world.fleet.is_healthy());
    let alive: Vec<bool> =
        world.fleet.handle().snapshot().shards.iter().map(|shard| shard.is_alive).collect();
    assert_eq!(alive, [false, true]);
    kept.signal(Signal::STOP);
    world.expect_of(&kept, |kind| matches!(kind, EventKind::Stall { .. }));
    kept.signal(Signal::CONT);
    world.expect_of(&kept, |kind| matches!(kind, EventKind::Resume { .. }));

    // The shard continues: it was blind, and its agent beat all the time.
    world.port(0).fault.release();
    world.expect(|event| matches!(event.kind, EventKind::Blind { phase: BlindPhase::End { .. }, .. }));
    wait_for(|| world.fleet.is_healthy());
    world.watch(0, T + T / 4);
    let pid = stuck.pid();
    let of_stuck = |event: &Event| event.agent.is_some_and(|who| who.pid == pid);
    assert!(!world.told_of_agents().iter().any(of_stuck), "{:#?}", world.told);
}

#[test]
fn fault_31_a_fleet_stops_without_the_shard_that_is_stuck() {
    let mut world = World::new(2);
    world.port(0).fault.stick();
    world.port(0).kick(SystemClock.mono());
    world.expect_io(0, IoPlace::ShardStuck);
    let port = Arc::clone(&world.fleet.handle.ports[0]);
    let begun = Instant::now();
    let report = world.fleet.stop(SOON);
    assert_eq!((report.shards_dead, report.is_aggregator_dead), (1, false));
    assert!(begun.elapsed() < SOON);
    port.fault.release();
}

#[test]
fn what_was_found_while_the_fleet_stopped_is_in_its_report() {
    let world = World::new(1);
    let socket = world.socket(0);
    std::fs::remove_file(&socket).expect("it is there");
    // The problem is found from now on, whether reported or not.
    wait_for(|| socket.exists());
    let report = world.fleet.stop(SOON);
    assert_eq!(report.warnings, [Warning::PutBack { path: socket }]);
}

/// The upkeep thread panics. The files still belong to the fleet until it has stopped.
#[test]
fn fault_76_a_panic_of_the_upkeep_thread_leaves_sockets_and_lock_until_the_shards_have_ended() {
    let mut world = World::new(2);
    world.running().upkeep.make_panic();
    std::fs::remove_file(world.socket(0)).expect("it is there");
    wait_for(|| !world.fleet.is_healthy());
    assert_eq!(world.fleet.health().problems[0], Problem::Died(FleetThread::Upkeep));
    // The fleet continues to observe, and no other observer takes its place.
    world.agent(1);
    let dir = Some(world.directory.path().to_owned());
    let second = Fleet::start(&Config { dir, shards: Some(1), ..Config::default() });
    assert_eq!(second.map(|_| ()).map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
    let table = world.fleet.handle().table();
    assert!(table.contains("the upkeep thread died"), "{table}");
    let socket = world.socket(1);
    let report = world.fleet.stop(SOON);
    assert_eq!(report.problems, [Problem::Died(FleetThread::Upkeep)]);
    assert!(!socket.exists());
}

/// While a shard reads its socket, no other observer takes its place.
#[test]
fn fault_76_the_files_stay_until_the_last_shard_has_ended() {
    let world = World::new(2);
    world.port(0).fault.stick();
    world.strike(0);
    let dir = world.directory.path().to_owned();
    let (socket, port) = (world.socket(0), Arc::clone(&world.fleet.handle.ports[0]));
    let is_stopping = Arc::clone(&world.running().shards.stop);
    thread::scope(|scope| {
        let stop = scope.spawn(|| world.fleet.stop(SOON));
        wait_for(|| is_stopping.load(Ordering::Acquire));
        let second = Fleet::start(&Config { dir: Some(dir), shards: Some(1), ..Config::default() });
        assert_eq!(second.map(|_| ()).map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
        assert!(socket.exists());
        port.fault.release();
        assert_eq!(stop.join().expect("it stops").shards_dead, 0);
    });
    assert!(!socket.exists());
}

/// Publishing fails after the threads have started: another observer may begin only when they have ended.
#[test]
fn fault_76_the_files_of_a_failed_start_stay_until_its_threads_have_ended() {
    let directory = tempfile::tempdir().expect("directory");
    let dir = directory.path().join("run");
    std::fs::create_dir_all(dir.join("varta.sock")).expect("create a directory where the symlink goes");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    // A full FIFO keeps the event writer for as long as it may take.
    let fifo = directory.path().join("events");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("make a FIFO");
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK;
    let full = rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty()).expect("open the FIFO");
    while rustix::io::write(&full, &[b'\n'; 4096]).is_ok() {}
    let config = Config {
        dir: Some(dir.clone()),
        shards: Some(1),
        agents_max: 64,
        events: Some(Output::File(fifo.clone())),
        ..Config::default()
    };
    let is_locked = || {
        let Ok(lock) = std::fs::metadata(dir.join("lock")) else { return false };
        let locks = std::fs::read_to_string("/proc/locks").expect("list the locks");
        locks.lines().any(|line| line.contains("FLOCK") && line.contains(&format!(":{} ", lock.ino())))
    };
    let is_open = || {
        let open = std::fs::read_dir("/proc/self/fd").expect("list the descriptors").flatten();
        open.filter(|entry| entry.path().read_link().is_ok_and(|link| link == fifo)).count() > 1
    };
    let began = Instant::now();
    // The writer may be given up after this, and still have the FIFO open.
    let within = WRITE_WITHIN * 4 / 5;
    thread::scope(|scope| {
        let start = scope.spawn(|| Fleet::start(&config));
        while !start.is_finished() {
            // The list of locks is read in pieces, and one that moves between two is left out.
            let is_free = is_open() && !is_locked() && !is_locked() && is_open();
            assert!(!is_free || began.elapsed() > within, "the event writer still has the FIFO open");
        }
        assert!(began.elapsed() > within, "the event writer was held up by nothing");
        let error = start.join().expect("it returns").expect_err("the symlink is in the way");
        assert!(error.to_string().contains("varta.sock"), "{error}");
    });
}

#[cfg(feature = "http")]
#[test]
fn the_end_of_the_http_thread_is_told_once_and_is_no_reason_to_stop_observing() {
    let mut world = World::new(1);
    assert_eq!(world.fleet.next_warning(), None);
    drop(world.fleet.handle.vitals.of(FleetThread::Http));
    assert!(world.fleet.is_healthy());
    assert_eq!(world.fleet.next_warning(), Some(Warning::Unanswered));
    assert_eq!(world.fleet.next_warning(), None);
    world.agent(0);
}

// --- reload ----------------------------------------------------------------------------------------

impl World {
    /// The configuration of the start, changed by `change`.
    fn reload(&self, change: impl FnOnce(&mut Config)) -> Result<Reloaded, ReloadError> {
        let dir = Some(self.directory.path().to_owned());
        let shards = Some(u32::try_from(self.fleet.handle.ports.len()).expect("few"));
        let mut config = Config { dir, shards, threshold: T, agents_max: 64, ..Config::default() };
        change(&mut config);
        self.fleet.reload(config.plan())
    }

    fn log(&self, name: &str) -> Vec<Event> {
        let text = std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    fn output(&self, name: &str) -> Option<Output> {
        Some(Output::File(self.directory.path().join(name)))
    }
}

fn keys(changes: &[KeyChange]) -> Vec<&str> {
    changes.iter().map(|change| &*change.key).collect()
}

#[test]
fn another_threshold_is_in_force_when_the_call_returns_and_nobody_stalls_by_it() {
    let mut world = World::new(2);
    let agents = [world.agent(0), world.agent(1)];
    for threshold in [60_000, 300, 5_000, 250, 1_000] {
        let threshold = Duration::from_millis(threshold);
        let done = world.reload(|config| config.threshold = threshold).expect("taken");
        assert!(done.late_shards.is_empty() && done.restart.is_empty(), "{done:?}");
        world.watch(0, Duration::from_millis(100));
    }
    let told = world.told_of_agents();
    assert!(told.is_empty(), "{told:#?}");
    world.reload(|config| config.threshold = Duration::from_millis(300)).expect("taken");
    agents[0].signal(Signal::STOP);
    // On a busy machine nobody may answer in time, and then it is not certain.
    world.expect_of(&agents[0], |kind| matches!(kind, EventKind::Stall { .. }));
    agents[0].signal(Signal::CONT);
}

#[test]
fn fault_35_what_cannot_be_used_changes_nothing_and_is_told() {
    let mut world = World::new(1);
    let refused = |world: &World, change: &dyn Fn(&mut Config)| {
        world
            .reload(|config| {
                config.threshold = Duration::from_secs(60);
                change(config);
            })
            .expect_err("refused")
            .to_string()
    };
    let told = refused(&world, &|config| config.tick = Duration::ZERO);
    assert!(told.contains("tick"), "{told}");
    let told = refused(&world, &|config| config.events = Some(Output::File("/nonexistent/events".into())));
    assert!(told.contains("cannot open event output /nonexistent/events"), "{told}");
    let told = refused(&world, &|config| config.events = Some(Output::File("/proc/self/mem/x".into())));
    assert!(told.contains("cannot open event output"), "{told}");
    let missing = crate::config::ActionConfig {
        name: "act".to_owned(),
        on: vec![crate::config::Trigger::Stall],
        any_user: true,
        run: Some(vec!["/nonexistent/program".to_owned()]),
        ..crate::config::ActionConfig::default()
    };
    let told = refused(&world, &|config| config.actions = vec![missing.clone()]);
    assert!(told.contains("there is no /nonexistent"), "{told}");
    let fresh = tempfile::tempdir().expect("a directory");
    let dir = Some(fresh.path().to_owned());
    let started = Fleet::start(&Config { dir, actions: vec![missing], ..Config::default() });
    assert_eq!(started.map(|_| ()).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));
    for _ in 0..4 {
        world.expect(|event| event.kind == EventKind::REFUSED_RELOAD);
    }
    assert!(world.reload(|_| ()).expect("what is in force").changed.is_empty(), "nothing had changed");
    world.expect(|event| matches!(event.kind, EventKind::Reload { outcome: ReloadOutcome::Applied, .. }));
}

#[test]
fn fault_31_a_shard_that_is_stuck_refuses_a_reload_and_one_that_is_late_takes_it_when_it_goes_on() {
    let mut world = World::new(2);
    let agent = world.agent(1);
    world.port(0).fault.stick();
    world.strike(0);
    let done = world.reload(|config| config.threshold = Duration::from_secs(7)).expect("taken by the other");
    assert_eq!((done.late_shards, world.port(1).handover.edition()), (vec![0], 1));
    assert_eq!(world.port(0).handover.edition(), 0);
    world.expect_io(0, IoPlace::ShardStuck);
    let refused = world.reload(|config| config.threshold = Duration::from_secs(9)).expect_err("stuck");
    assert_eq!(refused.to_string(), "cannot reload: shard 0 makes no progress; restart the observer");
    world.port(0).fault.release();
    wait_for(|| world.port(0).handover.edition() == 1);
    wait_for(|| !world.port(0).is_stuck.load(Ordering::Relaxed));
    world.reload(|config| config.threshold = T).expect("it turns again");
    drop(agent);
}

#[test]
fn each_event_is_in_the_output_of_its_time_and_in_no_other() {
    let mut world = World::new(1);
    let _first = world.agent(0);
    world.reload(|config| config.events = world.output("a")).expect("none, then a");
    let _second = world.agent(0);
    world.reload(|config| config.events = world.output("b")).expect("a, then b");
    let _third = world.agent(0);
    world
        .reload(|config| {
            config.events = world.output("b");
            config.events_format = EventsFormat::Tsv;
        })
        .expect("the same file in another format");
    let _fourth = world.agent(0);
    world.reload(|config| config.events = world.output("b")).expect("and back");
    let _fifth = world.agent(0);
    let done = world.reload(|_| ()).expect("b, then none");
    assert_eq!(keys(&done.changed), ["events"]);
    let _sixth = world.agent(0);
    let directory = world.directory;
    let report = world.fleet.stop(SOON);
    assert_eq!(report.events_unwritten, 0);
    let text = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect(name);
    let kinds = |name: &str| -> Vec<String> {
        let kind = |line: &str| match serde_json::from_str::<Event>(line) {
            Ok(event) => event.kind.name().to_owned(),
            Err(_) => line.split('\t').nth(1).expect("a column").to_owned(),
        };
        // A busy machine blinds the shard at any time.
        text(name).lines().map(kind).filter(|kind| ["reload", "up"].contains(&kind.as_str())).collect()
    };
    assert_eq!(kinds("a"), ["reload", "up"]);
    assert_eq!(kinds("b"), ["reload", "up", "reload", "up", "reload", "up"]);
}

/// Many events while the output changes back and forth: their numbers have no gap and no repetition.
#[test]
fn no_event_is_lost_or_written_twice_while_outputs_change_under_load() {
    const RELOADS: u64 = 40;
    let world = World::new(1);
    let names = ["a", "b"];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let storm = scope.spawn(|| {
            // As many as one queue holds: none is dropped, however slow the writers are.
            for _ in 0..EVENTS_SLACK {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let _ = world.fleet.handle.requests.send(Request::WriteFailed(0));
                world.fleet.handle.doorbell.ring();
                thread::yield_now();
            }
        });
        for turn in 0..RELOADS {
            let name = names[usize::from(turn % 2 == 1)];
            world.reload(|config| config.events = world.output(name)).expect("taken");
        }
        done.store(true, Ordering::Relaxed);
        storm.join().expect("storm");
    });
    world.reload(|_| ()).expect("no output: the last writer ends, too");
    wait_for(|| world.running().tellers.writers.have_ended());
    let (a, b) = (world.log("a"), world.log("b"));
    for log in [&a, &b] {
        assert!(log.is_sorted_by_key(|event| event.seq), "in order");
    }
    let mut seqs: Vec<u64> = a.iter().chain(&b).map(|event| event.seq).collect();
    seqs.sort_unstable();
    let first = seqs[0];
    assert!(seqs.len() as u64 >= RELOADS);
    assert!(seqs.iter().enumerate().all(|(index, seq)| *seq == first + index as u64), "each once");
}

#[test]
fn reloads_at_once_come_one_after_the_other() {
    let world = World::new(2);
    thread::scope(|scope| {
        for reloader in 0..4_u64 {
            let world = &world;
            scope.spawn(move || {
                for round in 1..=5 {
                    let threshold = Duration::from_secs(10 + reloader * 10 + round);
                    let done = world.reload(|config| config.threshold = threshold).expect("taken");
                    assert_eq!(keys(&done.changed), ["threshold"]);
                    assert!(done.late_shards.is_empty());
                }
            });
        }
    });
    assert_eq!(world.port(1).handover.edition(), 20);
    let done = world.reload(|config| config.shards = Some(7)).expect("taken");
    assert_eq!((keys(&done.changed), keys(&done.restart)), (vec!["threshold"], vec!["shards"]));
}
