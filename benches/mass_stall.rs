//! How late is a stall told when nearly the whole fleet falls silent at once, and how late its end?
//!
//!     mass-stall [--agents N] [--shards N] [--rounds N]
//!
//! Lateness of a stall: from its agent's last beat plus the threshold to the instant at which a subscriber
//! has the event in hand; of a resume: from the arrival of the beat that ended the silence.
//!
//! A host has not pids enough: agents are pids that do not exist, their datagrams come from memory, and
//! stand-ins for the lookup and the watch thread answer that everybody lives. Shards, lanes, aggregator and
//! their threads are the real ones.

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use varta_fleet::event::{Event, EventKind};
use varta_fleet::mass_stall::{Setup, Stage};
use varta_fleet::time::MonoNs;

const THRESHOLD_NS: u64 = 2_000_000_000;
const TICK_NS: u64 = 10_000_000;
/// What recvmmsg takes for a datagram of a batch.
const DATAGRAM_NS: u64 = 800;
/// From one volley of a steady fleet to the next.
const STEP: Duration = Duration::from_millis(1);
/// Nobody waits longer for what should have been told.
const PATIENCE: Duration = Duration::from_secs(30);
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
    let mut rounds = 5;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = arguments.next().and_then(|text| text.parse::<u32>().ok()).filter(|number| *number > 0);
        match (argument.as_str(), number) {
            ("--agents", Some(agents)) => setup.agents = agents,
            ("--shards", Some(shards)) => setup.shards = u16::try_from(shards).unwrap_or(u16::MAX),
            ("--rounds", Some(number)) => rounds = number,
            _ => {
                eprintln!("usage: mass-stall [--agents N] [--shards N] [--rounds N]");
                return ExitCode::from(2);
            }
        }
    }
    match run(&setup, rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("mass-stall: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(setup: &Setup, rounds: u32) -> Result<(), String> {
    let all = 0..setup.agents;
    println!(
        "{} agents on {} shards; datagrams from memory, {DATAGRAM_NS} ns each; stand-ins for lookup and watch",
        setup.agents, setup.shards
    );
    let stage = Stage::new(setup).map_err(|error| error.to_string())?;
    let events = stage.subscribe(2 * setup.agents as usize + 65_536);
    let mut steady = Steady { next: 0, agents: setup.agents };
    let until = Instant::now() + PATIENCE;
    while stage.agents_up() < u64::from(setup.agents) {
        steady.step(&stage, 0..0);
        if Instant::now() > until {
            return Err("the agents were not admitted in time".to_owned());
        }
    }
    events.try_iter().for_each(drop);
    for round in 1..=rounds {
        stage.beat(all.clone());
        let before = cpu_ns();
        let stalls =
            await_all(&stage, &events, setup.agents, |kind| matches!(kind, EventKind::Stall { .. }))?;
        report(&format!("round {round}: all stall"), stalls, before);
        let before = cpu_ns();
        stage.beat(all.clone());
        let resumes =
            await_all(&stage, &events, setup.agents, |kind| matches!(kind, EventKind::Resume { .. }))?;
        report(&format!("round {round}: all resume"), resumes, before);
    }
    few(&stage, &events, &mut steady)?;
    println!("batch reports dropped: {}", stage.reports_dropped());
    stage.stop();
    Ok(())
}

/// Everybody beats once within half a threshold, one after another.
struct Steady {
    next: u32,
    agents: u32,
}

impl Steady {
    /// The next millisecond's share beats, but for those that are `silent`.
    fn step(&mut self, stage: &Stage, silent: Range<u32>) {
        std::thread::sleep(STEP);
        let steps = u32::try_from(Duration::from_nanos(THRESHOLD_NS / 2).as_millis()).unwrap_or(u32::MAX);
        let end = (self.next + self.agents.div_ceil(steps)).min(self.agents);
        let share = self.next..end;
        for part in [share.start..share.end.min(silent.start), share.start.max(silent.end)..share.end] {
            if !part.is_empty() {
                stage.beat(part);
            }
        }
        self.next = if end == self.agents { 0 } else { end };
    }
}

/// A few fall silent now and then while all others beat.
fn few(stage: &Stage, events: &Receiver<Event>, steady: &mut Steady) -> Result<(), String> {
    let mut told = Told::default();
    let before = cpu_ns();
    for turn in 0..5 {
        let silent = turn * FEW..(turn + 1) * FEW;
        let until = Instant::now() + PATIENCE;
        let mut missing = FEW;
        while missing > 0 {
            steady.step(stage, silent.clone());
            for event in events.try_iter() {
                if matches!(event.kind, EventKind::Stall { .. }) {
                    told.take(&event, stage.now());
                    missing = missing.saturating_sub(1);
                }
            }
            if Instant::now() > until {
                return Err(format!("{missing} stalls of a few were not told"));
            }
        }
    }
    report("few stall, the others beat", told, before);
    Ok(())
}

#[derive(Default)]
struct Told {
    late_ns: Vec<u64>,
    uncertain: usize,
}

impl Told {
    fn take(&mut self, event: &Event, now: MonoNs) {
        let due = match event.kind {
            EventKind::Stall { silent_ns, .. } => event.mono - silent_ns + THRESHOLD_NS,
            _ => event.mono,
        };
        self.late_ns.push(now.since(due));
        self.uncertain += usize::from(matches!(event.kind, EventKind::Stall { certain: false, .. }));
    }
}

fn await_all(
    stage: &Stage,
    events: &Receiver<Event>,
    count: u32,
    is_it: impl Fn(&EventKind) -> bool,
) -> Result<Told, String> {
    let mut told = Told::default();
    let until = Instant::now() + PATIENCE;
    while told.late_ns.len() < count as usize {
        match events.recv_deadline(until) {
            Ok(event) if is_it(&event.kind) => told.take(&event, stage.now()),
            Ok(_) => {}
            Err(_) => return Err(format!("only {} of {count} were told", told.late_ns.len())),
        }
    }
    Ok(told)
}

fn report(what: &str, mut told: Told, before: Vec<(String, u64)>) {
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
