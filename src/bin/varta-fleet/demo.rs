//! `demo`: runs a small fleet and describes it in plain words.
//!
//! Real processes beat on a real two-shard observer in a private directory. One is stopped and continued, one
//! is killed, one panics, one forges a frame. The demo fails if an announced event does not come.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use varta_fleet::config::Config;
use varta_fleet::event::{Agent, BlindPhase, BlindWhy, Event, EventKind};
use varta_fleet::wire::{Frame, NONCE_TERMINAL, Status, Version};
use varta_fleet::{Fleet, Manifest, Reason, Shown, Subscription};

use crate::exit::{CliError, Exit};

const AGENTS: usize = 50;
const SHARDS: u32 = 2;
const THRESHOLD: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(100);
/// How long the demo waits for each expected event. A stall comes after three thresholds where the observer cannot see.
const PATIENCE: Duration = Duration::from_secs(10);
const SUBSCRIPTION: usize = 4096;

/// Shows a small fleet at work.
pub fn demo() -> Result<Exit, CliError> {
    let is_interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&is_interrupted))?;
    }
    let directory = PrivateDirectory::new()?;
    let mut config = Config::default();
    config.dir = Some(directory.0.clone());
    config.shards = Some(SHARDS);
    config.threshold = THRESHOLD;
    config.agents_max = 1024;
    let fleet = Fleet::start(&config)?;
    let mut stage = Stage {
        events: fleet.handle().subscribe(SUBSCRIPTION),
        started: Instant::now(),
        is_interrupted,
        told: 0,
        stalls: 0,
        false_stalls: 0,
        forged: 0,
        full: 0,
        frozen: None,
    };
    stage.say(format_args!(
        "observing {} with {SHARDS} shards; a silence of {THRESHOLD:?} is a stall",
        Shown(directory.0.display())
    ))?;
    let played = play(&mut stage, &directory.0);
    let summary = fleet.handle().snapshot();
    let report = fleet.stop(Duration::from_millis(500));
    played?;
    let beats: u64 = summary.shards.iter().map(|shard| shard.beats).sum();
    let Stage { told, stalls, false_stalls, forged, full, .. } = stage;
    stage.say(format_args!(
        "done: {beats} frames taken, {forged} of them forged and told as such, {told} events reported, {stalls} true \
         stall, {false_stalls} false ones"
    ))?;
    if full > 0 {
        stage.say(format_args!(
            "a queue was full {full} times; allow longer ones: sysctl -w net.unix.max_dgram_qlen=512"
        ))?;
    }
    stage.say(format_args!("next, a fleet of your own: varta-fleet run --events -"))?;
    stage.say(format_args!(
        "agents for it, in another terminal: varta-fleet load; and a view: varta-fleet top"
    ))?;
    if stalls != 1 || false_stalls != 0 || report.shards_dead != 0 {
        return Err(unexpected("a healthy agent was reported as stalled, or the frozen one was not"));
    }
    Ok(Exit::Clean)
}

/// Runs the scenes in order.
fn play(stage: &mut Stage, directory: &Path) -> Result<(), CliError> {
    let manifest =
        Manifest::read(directory).map_err(|error| CliError::new(Exit::Runtime, error.to_string()))?;
    let mut agents = Vec::with_capacity(AGENTS);
    for _ in 0..AGENTS {
        agents.push(DemoAgent::spawn(directory)?);
    }
    stage.quietly(AGENTS, "every agent to be up", |event| event.kind == EventKind::Up)?;
    let on_first =
        agents.iter().filter(|agent| manifest.socket_for(agent.pid()) == manifest.shards[0].socket);
    let on_first = on_first.count();
    stage.say(format_args!(
        "{AGENTS} real processes beat every {PERIOD:?}: {on_first} on shard 0, {} on shard 1",
        AGENTS - on_first
    ))?;
    let is_about = |event: &Event, pid: u32| event.agent.is_some_and(|agent: Agent| agent.pid == pid);

    let frozen = agents[3].pid();
    stage.say(format_args!("freezing agent {frozen} (SIGSTOP)"))?;
    stage.frozen = Some(frozen);
    agents[3].signal(Signal::STOP)?;
    stage.until("its stall", |event| {
        is_about(event, frozen) && matches!(event.kind, EventKind::Stall { .. })
    })?;
    stage.say(format_args!("waking agent {frozen} (SIGCONT)"))?;
    agents[3].signal(Signal::CONT)?;
    stage.until("its resume", |event| {
        is_about(event, frozen) && matches!(event.kind, EventKind::Resume { .. })
    })?;

    let forger = agents[7].pid();
    let victim = agents[11].pid();
    stage.say(format_args!("agent {forger} forges one frame in the name of agent {victim}"))?;
    agents[7].order(&format!("forge {victim}"))?;
    stage.until("the forgery", |event| {
        matches!(event.kind, EventKind::Auth { claimed, attested, .. } if (claimed, attested) == (victim, forger))
    })?;

    let panicking = agents[23].pid();
    stage.say(format_args!("agent {panicking} panics"))?;
    agents[23].order("panic")?;
    stage.until("its crash report", |event| {
        is_about(event, panicking) && matches!(event.kind, EventKind::Terminal { .. })
    })?;

    let killed = agents[31].pid();
    stage.say(format_args!("killing agent {killed} (SIGKILL)"))?;
    agents[31].signal(Signal::KILL)?;
    let mut gone = Vec::new();
    stage.until("both exits", |event| {
        if matches!(event.kind, EventKind::Exit { .. }) {
            gone.extend(event.agent.map(|agent| agent.pid));
        }
        gone.contains(&killed) && gone.contains(&panicking)
    })?;
    stage.say(format_args!("the other {} agents kept beating throughout", AGENTS - 2))
}

/// The output and the events so far.
struct Stage {
    events: Subscription,
    started: Instant,
    is_interrupted: Arc<AtomicBool>,
    told: u32,
    stalls: u32,
    false_stalls: u32,
    /// Frames that claimed another process.
    forged: u32,
    /// How often a queue was found full.
    full: u32,
    frozen: Option<u32>,
}

impl Stage {
    fn say(&self, text: fmt::Arguments<'_>) -> Result<(), CliError> {
        let seconds = self.started.elapsed().as_secs_f64();
        Ok(writeln!(io::stdout(), "[{seconds:6.3}s] {text}")?)
    }

    /// Shows each event up to the expected one.
    fn until(&mut self, what: &str, mut is_it: impl FnMut(&Event) -> bool) -> Result<(), CliError> {
        self.wait(what, |stage, event| {
            stage.show(event)?;
            Ok(is_it(event))
        })
    }

    /// Counts events of one sort without showing them.
    fn quietly(&mut self, count: usize, what: &str, is_one: impl Fn(&Event) -> bool) -> Result<(), CliError> {
        let mut seen = 0;
        self.wait(what, |stage, event| {
            if is_one(event) {
                seen += 1;
            } else {
                stage.show(event)?;
            }
            Ok(seen == count)
        })
    }

    fn wait(
        &mut self,
        what: &str,
        mut is_done: impl FnMut(&mut Self, &Event) -> Result<bool, CliError>,
    ) -> Result<(), CliError> {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.is_interrupted.load(Ordering::Relaxed) {
                return Err(CliError::new(Exit::Runtime, "interrupted; everything was cleaned up"));
            }
            let Some(event) = self.events.next_within(Duration::from_millis(50)) else {
                if Instant::now() >= until {
                    return Err(unexpected(&format!("waited {PATIENCE:?} for {what}, which did not come")));
                }
                continue;
            };
            self.told += 1;
            self.forged += u32::from(matches!(event.kind, EventKind::Auth { .. }));
            if matches!(event.kind, EventKind::Stall { .. }) {
                let is_true = event.agent.map(|agent| agent.pid) == self.frozen;
                *(if is_true { &mut self.stalls } else { &mut self.false_stalls }) += 1;
            }
            if is_done(self, &event)? {
                return Ok(());
            }
        }
    }

    fn show(&mut self, event: &Event) -> Result<(), CliError> {
        if !is_shown(event.kind, &mut self.full) {
            return Ok(());
        }
        self.say(format_args!("    {:<9}{}", event.kind.name(), in_words(event)))
    }
}

/// Counts full queues. They may be many, and are not what the demo is about: only the first is shown.
const fn is_shown(kind: EventKind, full: &mut u32) -> bool {
    match kind {
        EventKind::Blind { why: BlindWhy::Full, phase: BlindPhase::Begin } => {
            *full += 1;
            *full == 1
        }
        EventKind::Blind { why: BlindWhy::Full, .. } | EventKind::Flood { .. } => false,
        _ => true,
    }
}

/// One event in plain words.
fn in_words(event: &Event) -> String {
    let who = event.agent.map_or_else(String::new, |agent| format!("agent {}", agent.pid));
    let shard = event.shard.map_or_else(String::new, |shard| format!(" on shard {shard}"));
    match event.kind {
        EventKind::Up => format!("{who}{shard} sent its first beat"),
        EventKind::Stall { silent_ns, last_nonce, certain, .. } => format!(
            "{who}{shard} has been silent for {} since beat {last_nonce}{}",
            seconds(silent_ns),
            if certain { "" } else { ", though the observer was blind for some of it" }
        ),
        EventKind::Resume { silent_ns, lost, .. } => {
            format!(
                "{who}{shard} is back after {} of silence; {lost} beats were lost on the way",
                seconds(silent_ns)
            )
        }
        EventKind::Exit { silent_ns, .. } => {
            format!(
                "{who}{shard}: the kernel reports that it exited, {} after its last beat",
                seconds(silent_ns)
            )
        }
        EventKind::Standstill { .. } => format!("{who}{shard} beats, but does not advance"),
        EventKind::Advance { .. } => format!("{who}{shard} does not stand still any more"),
        EventKind::Phase { phase } => format!("{who}{shard} says that it is {}", phase.as_str()),
        EventKind::Frozen { phase } => {
            format!("{who}{shard}: frozen by its control group, {}", phase.as_str())
        }
        EventKind::Terminal { .. } => format!("{who}{shard}: its crash hook reports a panic"),
        EventKind::Auth { claimed, attested, uid } => format!(
            "a frame in the name of {claimed} came from process {attested} (user {uid}): it does not count as a beat of {claimed}"
        ),
        EventKind::Blind { phase: BlindPhase::Begin, why: BlindWhy::Full } => {
            format!("the queue{shard} is full, and the kernel refuses what does not fit; no agent is blamed")
        }
        EventKind::Blind { phase: BlindPhase::Begin, why } => {
            format!("the observer cannot see{shard}: {}", why.as_str())
        }
        EventKind::Blind { phase: BlindPhase::End { for_ns }, .. } => {
            format!("the observer sees again{shard}, after {}; no agent is blamed", seconds(for_ns))
        }
        EventKind::Start { shards } => format!("{shards} shards observe"),
        _ => format!("{who}{shard}"),
    }
}

fn seconds(ns: u64) -> String {
    format!("{:.3} s", Duration::from_nanos(ns).as_secs_f64())
}

fn unexpected(what: &str) -> CliError {
    CliError::new(
        Exit::Runtime,
        format!(
            "the demo did not go as expected: {what}; if this machine is not badly overloaded, it is a bug"
        ),
    )
}

/// A directory that only our user may enter, removed at the end.
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    fn new() -> Result<Self, CliError> {
        let path = std::env::temp_dir().join(format!("varta-demo-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            let message = format!(
                "cannot create {}: {}; point TMPDIR to a directory of yours",
                Shown(path.display()),
                Reason(&error)
            );
            CliError::new(Exit::Runtime, message)
        })?;
        Ok(Self(path))
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What remains after a failure is a directory of ours below the temporary one.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child process that beats.
struct DemoAgent {
    child: Child,
    orders: ChildStdin,
}

impl DemoAgent {
    fn spawn(directory: &Path) -> Result<Self, CliError> {
        let failed = |error: io::Error| {
            CliError::new(
                Exit::Runtime,
                format!("cannot start an agent: {}; is there room for {AGENTS} processes?", Reason(&error)),
            )
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .arg("demo-agent")
            .arg("--dir")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        match child.stdin.take() {
            Some(orders) => Ok(Self { child, orders }),
            None => Err(unexpected("an agent has no standard input")),
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) -> Result<(), CliError> {
        kill_process(Pid::from_child(&self.child), signal).map_err(|error| {
            CliError::new(
                Exit::Runtime,
                format!("cannot signal agent {}: {}", self.pid(), Reason(&error.into())),
            )
        })
    }

    fn order(&mut self, order: &str) -> Result<(), CliError> {
        writeln!(self.orders, "{order}").map_err(|error| {
            CliError::new(
                Exit::Runtime,
                format!("agent {} does not listen: {}", self.child.id(), Reason(&error)),
            )
        })
    }
}

impl Drop for DemoAgent {
    fn drop(&mut self) {
        // It may have exited already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Arguments of the hidden command that is one agent of the demo.
#[derive(clap::Args, Debug)]
pub struct DemoAgentArgs {
    /// Runtime directory of the demo's observer
    #[arg(long)]
    dir: PathBuf,
}

/// One agent: beats until its standard input closes, so that it cannot outlive the demo.
pub fn agent(args: &DemoAgentArgs) -> Result<Exit, CliError> {
    let failed = |error: io::Error| CliError::new(Exit::Unavailable, error.to_string());
    let pid = std::process::id();
    let socket = varta_fleet::socket_for(&args.dir, pid).map_err(failed)?;
    let sender = UnixDatagram::unbound().map_err(failed)?;
    sender.set_nonblocking(true).map_err(failed)?;
    sender.connect(&socket).map_err(failed)?;
    install_crash_hook(sender.try_clone().map_err(failed)?);
    let forge = Arc::new(AtomicU32::new(0));
    take_orders(Arc::clone(&forge))?;
    let frame = |pid: u32, nonce: u64, status: Status| Frame {
        version: Version::V02,
        status,
        pid,
        timestamp: nonce * 100_000_000,
        nonce,
        payload: 0,
    };
    for nonce in 1.. {
        // A beat that finds the queue full is lost, as with any agent.
        let _ = sender.send(&frame(pid, nonce, Status::Ok).encode());
        let victim = forge.swap(0, Ordering::Relaxed);
        if victim != 0 {
            let _ = sender.send(&frame(victim, nonce, Status::Ok).encode());
        }
        thread::sleep(PERIOD);
    }
    Ok(Exit::Clean)
}

/// Sends a terminal frame when a thread panics, as the hooks of the stock clients do.
fn install_crash_hook(sender: UnixDatagram) {
    std::panic::set_hook(Box::new(move |_| {
        let last_words = Frame {
            version: Version::V02,
            status: Status::Critical,
            pid: std::process::id(),
            timestamp: 0,
            nonce: NONCE_TERMINAL,
            payload: 0,
        };
        let _ = sender.send(&last_words.encode());
    }));
}

fn take_orders(forge: Arc<AtomicU32>) -> io::Result<()> {
    let listen = move || {
        for order in io::stdin().lock().lines().map_while(Result::ok) {
            match order.split_once(' ') {
                Some(("forge", victim)) => forge.store(victim.parse().unwrap_or(0), Ordering::Relaxed),
                _ => {
                    // The hook sends the frame; then the process exits as after a panic.
                    let _ = std::panic::catch_unwind(|| panic!("as ordered"));
                    std::process::exit(101);
                }
            }
        }
        std::process::exit(0);
    };
    thread::Builder::new().spawn(listen).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_full_queues_only_the_first_is_shown() {
        let blind = |why, phase| EventKind::Blind { why, phase };
        let end = BlindPhase::End { for_ns: 1 };
        let mut full = 0;
        let mut shown = |kind| is_shown(kind, &mut full);
        assert!(shown(blind(BlindWhy::Full, BlindPhase::Begin)));
        assert!(!shown(blind(BlindWhy::Full, end)));
        assert!(!shown(blind(BlindWhy::Full, BlindPhase::Begin)));
        assert!(shown(blind(BlindWhy::Paused, BlindPhase::Begin)) && shown(blind(BlindWhy::Paused, end)));
        assert!(shown(EventKind::Up));
        assert_eq!(full, 2);
    }
}
