//! A fleet of real processes that are killed, stopped and flooded at random, under an observer that is paused
//! now and then: no verdict may be wrong or missing, and no resource of the observer may grow.
//!
//! A short run is among the tests; `scripts/soak` sets the length and the number of processes. Variables:
//! `VARTA_SOAK_SECONDS`, `VARTA_SOAK_AGENTS` and `VARTA_TEST_SEED`.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::{Agent, AgentOptions, Chance, Client, Event, Observer, Options, SOON, mono_ns, ns};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than a busy machine with two cores delays a beat.
const T: Duration = Duration::from_secs(3);
const PERIOD: Duration = Duration::from_millis(500);
const SHARDS: u32 = 2;
/// Children for each parent process, and the most that it starts at a time.
const BROOD: u32 = 250;
const TURN: Duration = Duration::from_millis(10);
/// Nanoseconds that a verdict may take on a flooded machine; on an idle one it takes milliseconds.
const PATIENCE: u64 = 10_000_000_000;
/// Nanoseconds by which a silence may begin before the stop: a period, and the delays of a busy machine.
const SLACK: u64 = 1_500_000_000;
/// Nanoseconds after which a new process has been looked up and is watched, however many start with it.
const YOUTH: u64 = 3_000_000_000;

#[test]
fn fault_58_no_verdict_is_wrong_and_nothing_grows() {
    let number = |name: &str, default: u32| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let seconds = number("VARTA_SOAK_SECONDS", 12);
    let agents = number("VARTA_SOAK_AGENTS", 300);
    let mut soak = Soak::start(agents, Chance::from_environment());
    soak.run(Duration::from_secs(seconds.into()));
    soak.finish();
}

struct Soak {
    observer: Observer,
    stream: Stream,
    mothers: Vec<Agent>,
    flooder: Option<(Agent, Instant)>,
    agents: HashMap<u32, Known>,
    /// The same pids, to choose from at random.
    living: Vec<u32>,
    /// Events of processes whose pids their parents have not returned yet.
    early: HashMap<u32, Vec<Event>>,
    wanted: u32,
    chance: Chance,
    paused: Duration,
    samples: Vec<Sample>,
    counts: Counts,
    began: Instant,
}

#[derive(Debug, Default)]
struct Counts {
    born: u64,
    kills: u64,
    stops: u64,
    pauses: u64,
    floods: u64,
    events: u64,
    exits: u64,
    stalls: u64,
    uncertain: u64,
    resumes: u64,
    refuted: u64,
}

/// One process: what was done to it, and what was reported.
#[derive(Debug, Default)]
struct Known {
    is_up: bool,
    /// When it was reported as up.
    up_at: u64,
    /// When it was reported as stalled.
    stalled: Option<u64>,
    /// When it was last stopped and continued; 0 = not continued yet.
    stopped: Option<(u64, u64)>,
    /// It stays stopped until this instant, and if a stall is due, until that is reported.
    until: Option<(Instant, bool)>,
    killed: Option<(u64, i32)>,
    history: Vec<Event>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    rss_kib: u64,
    fds: usize,
    threads: u64,
    agents: usize,
}

impl Soak {
    fn start(wanted: u32, chance: Chance) -> Self {
        let base = tempfile::tempdir().expect("a directory").keep();
        let events = base.join("events");
        let options = Options {
            shards: SHARDS,
            threshold: T,
            agents_max: 2 * wanted + 100,
            queue_limit: Some((2 * wanted).max(64)),
            events: Some(events.clone()),
            ..Options::default()
        };
        let observer = Observer::start(options);
        let mothers = wanted.div_ceil(BROOD);
        let quiet = AgentOptions { period: PERIOD, ..AgentOptions::default() };
        let mut mothers = Agent::start_many(&observer, (0..mothers).map(|_| quiet.clone()));
        let mut soak = Self {
            stream: Stream::new(events),
            observer,
            flooder: None,
            agents: HashMap::new(),
            living: Vec::new(),
            early: HashMap::new(),
            wanted,
            chance,
            paused: Duration::ZERO,
            samples: Vec::new(),
            counts: Counts::default(),
            began: Instant::now(),
            mothers: Vec::new(),
        };
        for mother in &mut mothers {
            assert_eq!(mother.ask("reap"), "reap");
            soak.agents.insert(mother.pid(), Known::default());
        }
        soak.mothers = mothers;
        soak
    }

    fn run(&mut self, length: Duration) {
        let end = Instant::now() + length;
        let every = |interval: Duration| (Instant::now() + interval, interval);
        let mut report = every(Duration::from_secs(10));
        let mut sample = every(Duration::from_secs(1));
        let mut pause = every(T * 3);
        let mut flood = every(T * 2);
        let is_due = |timer: &mut (Instant, Duration)| {
            let is_due = Instant::now() >= timer.0;
            if is_due {
                timer.0 = Instant::now() + timer.1;
            }
            is_due
        };
        while Instant::now() < end {
            self.give_birth();
            // Each second, one process in a hundred is killed and two are stopped.
            let per_turn = self.wanted * u32::try_from(TURN.as_millis()).expect("short");
            if self.chance.below(100_000) < per_turn {
                self.kill();
            }
            if self.chance.below(50_000) < per_turn {
                self.stop();
            }
            if is_due(&mut pause) {
                self.pause_observer();
            }
            if is_due(&mut flood) {
                self.flood();
            }
            if self.flooder.as_ref().is_some_and(|(_, until)| Instant::now() >= *until) {
                self.end_flood();
            }
            self.go_on();
            self.listen();
            self.judge_the_missing();
            if is_due(&mut sample) {
                self.sample();
            }
            if is_due(&mut report) {
                self.report();
            }
            // The interval between actions; the test waits for nothing here.
            std::thread::sleep(TURN);
        }
        self.end_flood();
        self.settle();
        self.report();
    }

    fn give_birth(&mut self) {
        let missing = self.wanted.saturating_sub(u32::try_from(self.living.len()).expect("few"));
        if missing == 0 {
            return;
        }
        let mother = self.chance.below(u32::try_from(self.mothers.len()).expect("few")) as usize;
        for pid in self.mothers[mother].spawn_children(missing.min(BROOD)) {
            self.counts.born += 1;
            let before = self.agents.insert(pid, Known::default());
            assert!(before.is_none(), "{pid} lives and was born again: {before:#?}");
            self.living.push(pid);
            for event in self.early.remove(&pid).unwrap_or_default() {
                self.hear(event);
            }
        }
    }

    fn choose(&mut self) -> Option<u32> {
        let count = u32::try_from(self.living.len()).expect("few");
        (count > 0).then(|| self.living[self.chance.below(count) as usize])
    }

    fn kill(&mut self) {
        let Some(pid) = self.choose() else { return };
        let known = self.known(pid);
        if !known.is_up {
            // The observer does not know the process yet, so no exit would be reported.
            return;
        }
        let is_stopped = known.until.is_some();
        let (signal, number) = match self.chance.below(3) {
            // A stopped process handles no other signal.
            0 if !is_stopped => (Signal::TERM, 15),
            1 if !is_stopped => (Signal::USR1, 10),
            _ => (Signal::KILL, 9),
        };
        self.counts.kills += 1;
        let known = self.known(pid);
        known.killed = Some((mono_ns(), number));
        known.until = None;
        send(pid, signal);
        self.living.retain(|living| *living != pid);
    }

    fn stop(&mut self) {
        let Some(pid) = self.choose() else { return };
        let is_long = self.chance.below(2) == 0;
        let permille = if is_long { 1200 + self.chance.below(1500) } else { 20 + self.chance.below(300) };
        let known = self.known(pid);
        let is_at_rest = known.is_up && known.until.is_none() && known.stalled.is_none();
        // Two silences with no beat between them are one.
        let was_lately = known.stopped.is_some_and(|(_, until)| mono_ns() - until < ns(T));
        if !is_at_rest || was_lately {
            return;
        }
        known.stopped = Some((mono_ns(), 0));
        known.until = Some((Instant::now() + T * permille / 1000, is_long));
        send(pid, Signal::STOP);
        self.counts.stops += 1;
    }

    /// Continues each process that has been stopped long enough.
    fn go_on(&mut self) {
        for (pid, known) in &mut self.agents {
            let Some((until, is_stall_due)) = known.until else { continue };
            if Instant::now() >= until && (!is_stall_due || known.stalled.is_some()) {
                known.until = None;
                send(*pid, Signal::CONT);
                if let Some((_, until)) = &mut known.stopped {
                    *until = mono_ns();
                }
            }
        }
    }

    fn pause_observer(&mut self) {
        let length = T * (50 + self.chance.below(1200)) / 1000;
        self.observer.signal(Signal::STOP);
        // The pause is under test, and a stopped observer reports nothing to wait for.
        std::thread::sleep(length);
        self.observer.signal(Signal::CONT);
        self.paused += length;
        self.counts.pauses += 1;
    }

    /// Starts a process that beats on one of the shards as fast as it can.
    fn flood(&mut self) {
        if self.flooder.is_some() {
            return;
        }
        let shard = self.chance.below(SHARDS);
        let options = AgentOptions {
            client: Client::Rust02,
            sockets: vec![self.observer.socket(shard)],
            period: Duration::ZERO,
            ..AgentOptions::default()
        };
        let agent = Agent::start_with(&self.observer, options);
        self.agents.insert(agent.pid(), Known::default());
        self.flooder = Some((agent, Instant::now() + T / 2));
        self.counts.floods += 1;
    }

    fn end_flood(&mut self) {
        if let Some((agent, _)) = self.flooder.take() {
            self.known(agent.pid()).killed = Some((mono_ns(), 9));
            agent.signal(Signal::KILL);
        }
    }

    fn known(&mut self, pid: u32) -> &mut Known {
        self.agents.get_mut(&pid).unwrap_or_else(|| panic!("{pid} is nobody"))
    }

    // --- what is reported -------------------------------------------------------------------------

    fn listen(&mut self) {
        for event in self.stream.read() {
            self.counts.events += 1;
            let Some(pid) = event.pid() else { continue };
            if self.agents.contains_key(&pid) {
                self.hear(event);
            } else {
                self.early.entry(pid).or_default().push(event);
            }
        }
    }

    fn hear(&mut self, event: Event) {
        let pid = event.pid().expect("of an agent");
        let known = self.agents.get_mut(&pid).expect("known");
        known.history.push(event.clone());
        let verdict = match event.kind() {
            "up" => known.up(&event),
            "stall" => known.stall(&event, &mut self.counts),
            "resume" => known.resume(&mut self.counts),
            "exit" => known.exit(&event, &mut self.counts),
            "session" if event.str("why") == "nonce" => Ok(()),
            _ => Err("what is this?"),
        };
        if let Err(wrong) = verdict {
            panic!("{wrong}\n{event}\nof {pid}: {known:#?}\n{:#?}", self.counts);
        }
        if event.kind() == "exit" {
            self.agents.remove(&pid);
        }
    }

    /// Fails if an event is overdue.
    fn judge_the_missing(&self) {
        let now = mono_ns();
        let paused = ns(self.paused);
        for (pid, known) in &self.agents {
            let missed = |what: &str, since: u64, within: u64| {
                assert!(
                    now.saturating_sub(since) < within + paused,
                    "{what} of {pid} is missing: {known:#?}\n{:#?}",
                    self.counts
                );
            };
            if let Some((at, _)) = known.killed {
                missed("exit", at, PATIENCE);
            } else if let (Some((_, true)), None) = (known.until, known.stalled) {
                missed("stall", known.stopped.map_or(now, |(at, _)| at), 3 * ns(T) + PATIENCE);
            } else if let (Some(_), None, Some((_, continued))) = (known.stalled, known.until, known.stopped)
            {
                missed("resume", continued, PATIENCE);
            }
        }
    }

    /// Waits until every process is up and none is stopped or stalled.
    fn settle(&mut self) {
        let deadline = Instant::now() + 4 * T + SOON;
        let is_settled = |known: &Known| known.is_up && known.stalled.is_none() && known.until.is_none();
        while !self.agents.values().all(is_settled) {
            self.go_on();
            self.listen();
            self.judge_the_missing();
            assert!(
                Instant::now() < deadline,
                "{:#?}",
                self.agents.values().find(|known| !is_settled(known))
            );
            std::thread::sleep(TURN);
        }
        assert!(self.early.is_empty(), "told of nobody: {:#?}", self.early);
        self.sample();
    }

    // --- resources --------------------------------------------------------------------------------

    fn sample(&mut self) {
        let proc = PathBuf::from(format!("/proc/{}", self.observer.pid()));
        let status = fs::read_to_string(proc.join("status")).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("procfs has it");
            line.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
        };
        self.samples.push(Sample {
            at: self.began.elapsed(),
            rss_kib: field("VmRSS:"),
            fds: fs::read_dir(proc.join("fd")).expect("it runs").count(),
            threads: field("Threads:"),
            agents: self.agents.len(),
        });
    }

    fn report(&self) {
        let Some(Sample { at, rss_kib, fds, threads, agents }) = self.samples.last() else { return };
        let Counts { born, kills, stops, pauses, floods, events, exits, stalls, uncertain, resumes, refuted } =
            self.counts;
        println!(
            "{:5.0}s agents {agents} born {born} killed {kills} stopped {stops} pauses {pauses} floods {floods} \
             | events {events} exits {exits} stalls {stalls} ({uncertain} uncertain) resumes {resumes} refuted \
             {refuted} | rss {rss_kib} KiB fds {fds} threads {threads}",
            at.as_secs_f64()
        );
    }

    /// Kills all processes; the observer must free what it held for them.
    fn finish(mut self) {
        self.judge_growth();
        for mother in &self.mothers {
            send(mother.pid(), Signal::KILL);
        }
        for known in self.agents.values_mut() {
            // The children exit with their parent.
            known.killed = Some((mono_ns(), 9));
        }
        while !self.agents.is_empty() {
            self.listen();
            self.judge_the_missing();
            std::thread::sleep(TURN);
        }
        self.sample();
        self.report();
        let (first, last) = (self.samples[0], self.samples[self.samples.len() - 1]);
        assert!(last.fds < first.fds, "descriptors of the dead are kept: {first:?} {last:?}");
        assert!(last.fds < 64, "descriptors of the dead are kept: {last:?}");
        let table = self.observer.table();
        for shard in 0..SHARDS {
            assert_eq!((table.shard(shard, "up"), table.shard(shard, "stalled")), (0, 0), "{table}");
        }
        self.observer.stop_without_events(0);
        self.stream.remove();
    }

    /// Descriptors follow the number of agents, threads stay the same, and memory does not grow once all
    /// agents run.
    fn judge_growth(&self) {
        let half = self.samples.len() / 2;
        let (early, late) = self.samples.split_at(half);
        let highest = |samples: &[Sample]| samples.iter().map(|sample| sample.rss_kib).max().unwrap_or(0);
        let (before, after) = (highest(early), highest(late));
        assert!(after <= before + before / 10 + 4096, "memory grew: {before} KiB, then {after} KiB");
        let threads = self.samples[0].threads;
        for sample in &self.samples {
            assert_eq!(sample.threads, threads, "{sample:?}");
            assert!(sample.fds <= sample.agents + self.wanted as usize / 10 + 100, "{sample:?}");
        }
    }
}

type Verdict = Result<(), &'static str>;

impl Known {
    fn up(&mut self, event: &Event) -> Verdict {
        self.up_at = event.u64("mono_ns");
        if std::mem::replace(&mut self.is_up, true) { Err("up twice") } else { Ok(()) }
    }

    fn stall(&mut self, event: &Event, counts: &mut Counts) -> Verdict {
        let at = event.u64("mono_ns");
        if !self.is_up || self.stalled.replace(at).is_some() {
            return Err("stalled twice, or before it was up");
        }
        counts.stalls += 1;
        if !event.bool("certain") {
            counts.uncertain += 1;
            return Ok(());
        }
        if event.u64("silent_ns") < ns(T) {
            return Err("stalled before its threshold");
        }
        let Some((stopped, continued)) = self.stopped else { return Err("stalled, but never stopped") };
        // Beats that were lost while the observer was blind may lengthen the silence: only its last threshold
        // must lie within the stop.
        if stopped > at - ns(T) + SLACK || continued != 0 && continued + SLACK < at {
            return Err("stalled, but not while it was stopped");
        }
        if self.killed.is_some_and(|(killed, _)| killed + ns(T) < at) {
            return Err("stalled long after it was killed");
        }
        Ok(())
    }

    fn resume(&mut self, counts: &mut Counts) -> Verdict {
        counts.resumes += 1;
        let is_continued = self.stopped.is_none_or(|(_, continued)| continued != 0);
        if !is_continued {
            counts.refuted += 1;
        }
        if self.stalled.take().is_none() { Err("resumed without a stall") } else { Ok(()) }
    }

    fn exit(&mut self, event: &Event, counts: &mut Counts) -> Verdict {
        counts.exits += 1;
        let Some((killed, signal)) = self.killed else { return Err("exited, but lives") };
        // The cause is unknown if the process was killed and reaped before its first lookup.
        let is_unknown = event.is_null("code") && killed < self.up_at + YOUTH;
        let is_so = event.has("signal") && event.u64("signal") == u64::from(signal.unsigned_abs());
        if !is_so && !is_unknown {
            return Err("exited otherwise than it was killed");
        }
        if self.is_up { Ok(()) } else { Err("exited before it was up") }
    }
}

/// The event file, read as it grows; events are not kept.
struct Stream {
    path: PathBuf,
    file: File,
    rest: VecDeque<u8>,
    next_seq: u64,
}

impl Stream {
    fn new(path: PathBuf) -> Self {
        let file = File::open(&path).expect("the observer made it");
        Self { path, file, rest: VecDeque::new(), next_seq: 1 }
    }

    fn read(&mut self) -> Vec<Event> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).expect("read the events");
        self.rest.extend(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let event = Event::parse(String::from_utf8(line).expect("text").trim_end());
            assert_eq!(event.u64("seq"), self.next_seq, "a gap: {event}");
            self.next_seq += 1;
            events.push(event);
        }
        events
    }

    fn remove(self) {
        let directory = self.path.parent().expect("made here").to_owned();
        fs::remove_dir_all(directory).expect("made here");
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
    // The process may have exited with its parent.
    let _ = kill_process(pid, signal);
}
