//! How late is a stall reported when nearly the whole fleet falls silent at once, and how late is its end?
//!
//!     mass-stall [--agents N] [--shards N] [--rounds N] [--real]
//!
//! Lateness of a stall: from the agent's last beat plus the threshold to the instant at which a subscriber
//! has the event. Lateness of a resume: from the arrival of the beat that ended the silence.
//!
//! A host does not have enough pids: the agents' pids do not exist, their datagrams come from memory, and
//! stand-ins for the lookup and the watch thread report every process as alive. Shards, lanes, aggregator and
//! their threads are the real ones. With `--real` everything is: sleeping processes with whose pids root
//! sends beats to the fleet's sockets, as fast as the kernel accepts them. Events are read only after the
//! last beat of a volley, so the first resumes appear late by its length.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, UCred, sendmsg};
use rustix::process::{Gid, Pid, Uid};
use rustix::time::{ClockId, clock_gettime};
use varta_fleet::config::Config;
use varta_fleet::event::{Event, EventKind};
use varta_fleet::mass_stall::{Setup, Stage};
use varta_fleet::time::MonoNs;
use varta_fleet::wire::{Frame, Status, Version};
use varta_fleet::{Fleet, Subscription, shard_for, socket_for};

const THRESHOLD_NS: u64 = 2_000_000_000;
const TICK_NS: u64 = 10_000_000;
/// Time of recvmmsg for each datagram of a batch.
const DATAGRAM_NS: u64 = 800;
/// Time between two volleys of a steady fleet.
const STEP: Duration = Duration::from_millis(1);
/// Time limit for an event.
const PATIENCE: Duration = Duration::from_secs(60);
/// Agents that fall silent together while all others beat.
const FEW: u32 = 20;

fn main() -> ExitCode {
    let mut setup = Setup {
        agents: 100_000,
        shards: 4,
        threshold_ns: THRESHOLD_NS,
        tick_ns: TICK_NS,
        max_delay_ns: 1_000_000,
        datagram_ns: DATAGRAM_NS,
    };
    let (mut rounds, mut is_real) = (5, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--real" {
            is_real = true;
            continue;
        }
        let number = arguments.next().and_then(|text| text.parse::<u32>().ok()).filter(|number| *number > 0);
        match (argument.as_str(), number) {
            ("--agents", Some(agents)) => setup.agents = agents,
            ("--shards", Some(shards)) => setup.shards = u16::try_from(shards).unwrap_or(u16::MAX),
            ("--rounds", Some(number)) => rounds = number,
            _ => {
                eprintln!("usage: mass-stall [--agents N] [--shards N] [--rounds N] [--real]");
                return ExitCode::from(2);
            }
        }
    }
    let ran = if is_real {
        Processes::new(&setup).and_then(|mut fleet| run(&mut fleet, &setup, rounds))
    } else {
        OnStage::new(&setup).and_then(|mut fleet| run(&mut fleet, &setup, rounds))
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("mass-stall: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// A fleet whose agents beat on command.
trait Crowd {
    /// Sends a beat of each of these agents, counted from 0.
    fn beat(&mut self, agents: Range<u32>);
    fn next_event(&self, within: Duration) -> Option<Event>;
    fn agents_up(&self) -> u64;
    fn reports_dropped(&self) -> u64;
}

struct OnStage {
    stage: Stage,
    events: Receiver<Event>,
}

impl OnStage {
    fn new(setup: &Setup) -> Result<Self, String> {
        println!(
            "{} agents on {} shards; datagrams from memory, {DATAGRAM_NS} ns each; stand-ins for lookup and watch",
            setup.agents, setup.shards
        );
        let stage = Stage::new(setup).map_err(|error| error.to_string())?;
        let events = stage.subscribe(room(setup));
        Ok(Self { stage, events })
    }
}

impl Crowd for OnStage {
    fn beat(&mut self, agents: Range<u32>) {
        self.stage.beat(agents);
    }

    fn next_event(&self, within: Duration) -> Option<Event> {
        self.events.recv_timeout(within).ok()
    }

    fn agents_up(&self) -> u64 {
        self.stage.agents_up()
    }

    fn reports_dropped(&self) -> u64 {
        self.stage.reports_dropped()
    }
}

struct Processes {
    fleet: Fleet,
    events: Subscription,
    sleepers: Vec<Child>,
    sockets: Vec<UnixDatagram>,
    nonces: Vec<u64>,
    _dir: tempfile::TempDir,
}

impl Processes {
    fn new(setup: &Setup) -> Result<Self, String> {
        println!("{} processes on {} shards; root beats in their names", setup.agents, setup.shards);
        let text = |error: std::io::Error| error.to_string();
        let dir = tempfile::tempdir().map_err(text)?;
        let mut config = Config::default();
        config.dir = Some(dir.path().to_owned());
        config.shards = Some(u32::from(setup.shards));
        config.threshold = Duration::from_nanos(setup.threshold_ns);
        config.tick = Duration::from_nanos(setup.tick_ns);
        config.max_delay = Duration::from_nanos(setup.max_delay_ns);
        let fleet = Fleet::start(&config).map_err(|error| error.to_string())?;
        let events = fleet.handle().subscribe(room(setup));
        let mut sockets = Vec::new();
        for shard in 0..u32::from(setup.shards) {
            // Any key that hashes to the shard.
            let key = (1..).find(|key| shard_for(*key, u32::from(setup.shards)) == shard).unwrap_or(1);
            let socket = UnixDatagram::unbound().map_err(text)?;
            let path = socket_for(dir.path(), key).map_err(|error| error.to_string())?;
            socket.connect(path).map_err(text)?;
            sockets.push(socket);
        }
        let mut processes =
            Self { fleet, events, sleepers: Vec::new(), sockets, nonces: Vec::new(), _dir: dir };
        for _ in 0..setup.agents {
            let sleeper = Command::new("sleep").arg("infinity").stdin(Stdio::null()).spawn();
            processes.sleepers.push(sleeper.map_err(text)?);
            processes.nonces.push(0);
        }
        Ok(processes)
    }
}

impl Crowd for Processes {
    fn beat(&mut self, agents: Range<u32>) {
        for agent in agents.start as usize..agents.end as usize {
            let pid = self.sleepers[agent].id();
            self.nonces[agent] += 1;
            let nonce = self.nonces[agent];
            let frame =
                Frame { version: Version::V02, status: Status::Ok, pid, timestamp: 5, nonce, payload: 0 };
            let shards = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
            let socket = &self.sockets[shard_for(pid, shards) as usize];
            let Some(attested) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let credentials = UCred { pid: attested, uid: Uid::ROOT, gid: Gid::ROOT };
            let _ = control.push(SendAncillaryMessage::ScmCredentials(credentials));
            // Blocks while the queue is full. A failure shows as a missing event.
            let _ = sendmsg(socket, &[IoSlice::new(&frame.encode())], &mut control, SendFlags::empty());
        }
    }

    fn next_event(&self, within: Duration) -> Option<Event> {
        self.events.next_within(within)
    }

    fn agents_up(&self) -> u64 {
        let snapshot = self.fleet.handle().snapshot();
        snapshot.agents() - snapshot.stalled()
    }

    fn reports_dropped(&self) -> u64 {
        self.fleet.handle().snapshot().shards.iter().map(|shard| shard.reports_dropped).sum()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for sleeper in &mut self.sleepers {
            let _ = sleeper.kill();
        }
        for sleeper in &mut self.sleepers {
            let _ = sleeper.wait();
        }
    }
}

/// Capacity of a subscriber that must not lose an event.
fn room(setup: &Setup) -> usize {
    2 * setup.agents as usize + 65_536
}

/// `CLOCK_MONOTONIC`.
fn now() -> MonoNs {
    let now = clock_gettime(ClockId::Monotonic);
    let [seconds, ns] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    MonoNs(seconds * 1_000_000_000 + ns)
}

fn run(fleet: &mut impl Crowd, setup: &Setup, rounds: u32) -> Result<(), String> {
    let all = 0..setup.agents;
    let mut steady = Steady { next: 0, agents: setup.agents };
    let until = Instant::now() + PATIENCE;
    while fleet.agents_up() < u64::from(setup.agents) {
        steady.step(fleet, 0..0);
        if Instant::now() > until {
            return Err("the agents were not admitted in time".to_owned());
        }
    }
    while fleet.next_event(Duration::ZERO).is_some() {}
    for round in 1..=rounds {
        fleet.beat(all.clone());
        let before = cpu_ns();
        let stalls = await_all(fleet, setup.agents, |kind| matches!(kind, EventKind::Stall { .. }))?;
        report(&format!("round {round}: all stall"), stalls, &before);
        let before = cpu_ns();
        fleet.beat(all.clone());
        let resumes = await_all(fleet, setup.agents, |kind| matches!(kind, EventKind::Resume { .. }))?;
        report(&format!("round {round}: all resume"), resumes, &before);
    }
    few(fleet, &mut steady)?;
    println!("batch reports dropped: {}", fleet.reports_dropped());
    Ok(())
}

/// All agents beat once within half a threshold, one after another.
struct Steady {
    next: u32,
    agents: u32,
}

impl Steady {
    /// Sends the beats of the next millisecond, except those of `silent`.
    fn step(&mut self, fleet: &mut impl Crowd, silent: Range<u32>) {
        std::thread::sleep(STEP);
        let steps = u32::try_from(Duration::from_nanos(THRESHOLD_NS / 2).as_millis()).unwrap_or(u32::MAX);
        let end = (self.next + self.agents.div_ceil(steps)).min(self.agents);
        let share = self.next..end;
        for part in [share.start..share.end.min(silent.start), share.start.max(silent.end)..share.end] {
            if !part.is_empty() {
                fleet.beat(part);
            }
        }
        self.next = if end == self.agents { 0 } else { end };
    }
}

/// Reports the lateness of a few stalls at a time while all others beat.
fn few(fleet: &mut impl Crowd, steady: &mut Steady) -> Result<(), String> {
    let mut told = Told::default();
    let before = cpu_ns();
    for turn in 0..5 {
        let silent = turn * FEW..(turn + 1) * FEW;
        let until = Instant::now() + PATIENCE;
        let mut missing = FEW;
        while missing > 0 {
            steady.step(fleet, silent.clone());
            while let Some(event) = fleet.next_event(Duration::ZERO) {
                if matches!(event.kind, EventKind::Stall { .. }) {
                    told.take(&event);
                    missing = missing.saturating_sub(1);
                }
            }
            if Instant::now() > until {
                return Err(format!("{missing} stalls of a few were not told"));
            }
        }
    }
    report("few stall, the others beat", told, &before);
    Ok(())
}

#[derive(Default)]
struct Told {
    late_ns: Vec<u64>,
    uncertain: usize,
}

impl Told {
    fn take(&mut self, event: &Event) {
        let due = match event.kind {
            EventKind::Stall { silent_ns, .. } => event.mono - silent_ns + THRESHOLD_NS,
            _ => event.mono,
        };
        self.late_ns.push(now().since(due));
        self.uncertain += usize::from(matches!(event.kind, EventKind::Stall { certain: false, .. }));
    }
}

fn await_all(fleet: &impl Crowd, count: u32, is_it: impl Fn(&EventKind) -> bool) -> Result<Told, String> {
    let mut told = Told::default();
    let until = Instant::now() + PATIENCE;
    while told.late_ns.len() < count as usize {
        match fleet.next_event(until.saturating_duration_since(Instant::now())) {
            Some(event) if is_it(&event.kind) => told.take(&event),
            Some(_) => {}
            None => return Err(format!("only {} of {count} were told", told.late_ns.len())),
        }
    }
    Ok(told)
}

fn report(what: &str, mut told: Told, before: &[(String, u64)]) {
    told.late_ns.sort_unstable();
    let at = |percent: usize| told.late_ns[(told.late_ns.len() - 1) * percent / 100] as f64 / 1e6;
    print!(
        "{what:<28} {:>6}: p50 {:6.1}  p99 {:6.1}  max {:6.1} ms late, {} uncertain; CPU ms:",
        told.late_ns.len(),
        at(50),
        at(99),
        at(100),
        told.uncertain
    );
    for ((name, before), (_, after)) in before.iter().zip(cpu_ns()) {
        print!(" {name} {:.0}", (after - before) as f64 / 1e6);
    }
    println!();
}

/// CPU time of each kind of thread so far.
fn cpu_ns() -> Vec<(String, u64)> {
    let mut times: Vec<(String, u64)> = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let name = read("comm").trim().trim_start_matches("varta-").to_owned();
        let ns = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        match times.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += ns,
            None => times.push((name, ns)),
        }
    }
    times
}
