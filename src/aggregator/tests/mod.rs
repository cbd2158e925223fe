//! Real shards and the real aggregator on a clock that the test turns; the lookup thread's findings come from
//! a table of processes.

use std::collections::HashMap;
use std::rc::Rc;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::*;
use crate::aggregator::fanout::EVENTS_SLACK;
use crate::config::RuleMatch;
use crate::config::classes::Classes;
use crate::config::plan::Rule;
use crate::journal::{Estate, Identity};
use crate::lab::replay::{Act, MessageReplay, Recorded, Replay, Script};
use crate::lane::kick::Kick;
use crate::notify::daemon::Terms;
use crate::process::procfs::{Incarnation, Life};
use crate::shard::Shard;
use crate::shard::front::{Front, Limits};
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::uids::UidAccounts;
use crate::sys::datagram::Credentials;
use crate::table::{self, Header};
use crate::time::{Clock, ManualClock};
use crate::view::copies::Copies;
use crate::wire::{Frame, Version};

mod adoption;
mod backlog;
mod blindness;
mod coming_and_going;
mod crowd;
mod ending;
mod lanes;
mod neighbours;
mod phases;
mod progress;
mod reloaded;
mod renamed;
mod stuck;
mod thaw;

pub(super) const MS: u64 = 1_000_000;
pub(super) const THRESHOLD: u64 = 600 * MS;
const TICK: u64 = 10 * MS;
pub(super) const STEP: u64 = 5 * MS;
const START: MonoNs = MonoNs(1_000_000_000_000);
/// The queue of a shard holds this many datagrams, or one for each agent if they are more.
pub(super) const QUEUE: u32 = 4096;

/// A process as the lookup thread sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    pub(super) incarnation: u64,
    pub(super) started: MonoNs,
    pub(super) inner_pids: Vec<u32>,
    pub(super) comm: &'static str,
    pub(super) exe: &'static str,
    pub(super) is_frozen: bool,
    pub(super) watchdog_ns: Option<u64>,
}

pub(super) struct World {
    pub(super) clock: ManualClock,
    pub(super) scripts: Vec<Script>,
    pub(super) shards: Vec<Shard<Replay, ManualClock>>,
    /// The shard of daemons, the last, if there is one.
    pub(super) daemons: Option<Shard<MessageReplay, ManualClock>>,
    pub(super) ports: Vec<Arc<Port>>,
    pub(super) aggregator: Aggregator,
    pub(super) events: Receiver<Event>,
    pub(super) questions: [Receiver<Question>; 2],
    pub(super) orders: [Receiver<Order>; 2],
    pub(super) findings: Sender<Finding>,
    pub(super) processes: HashMap<u32, Process>,
    /// Watched processes, if `is_watching`.
    watched: Vec<(Holder, u32, Option<Incarnation>)>,
    /// There are descriptors to watch with.
    pub(super) is_watching: bool,
    /// The lookup thread does not answer.
    pub(super) is_mute: bool,
    /// The kernel gives the lookup thread no answers.
    is_secretive: bool,
    /// Shards that take no turns.
    pub(super) asleep: Vec<usize>,
    /// The aggregator takes no turns.
    pub(super) is_aggregator_asleep: bool,
    /// How long its next turn takes, ns.
    pub(super) next_turn_takes: u64,
    pub(super) reported: Vec<Event>,
    pub(super) admission: Arc<Admission>,
    pub(super) requests: Sender<Request>,
}

impl World {
    pub(super) fn new(shards: usize) -> Self {
        Self::with(shards, 64, Vec::new())
    }

    pub(super) fn with(shards: usize, agents_max: u32, rules: Vec<Rule>) -> Self {
        Self::with_limits(shards, agents_max, rules, None, None)
    }

    pub(super) fn with_limits(
        shards: usize,
        agents_max: u32,
        rules: Vec<Rule>,
        uid_agents_max: Option<u32>,
        uid_frames_max: Option<u32>,
    ) -> Self {
        Self::with_daemons(shards, agents_max, rules, (uid_agents_max, uid_frames_max), None)
    }

    /// With `terms` the last shard is one of daemons.
    pub(super) fn with_daemons(
        shards: usize,
        agents_max: u32,
        rules: Vec<Rule>,
        (uid_agents_max, uid_frames_max): (Option<u32>, Option<u32>),
        terms: Option<Terms>,
    ) -> Self {
        let clock = ManualClock::new(START, 1_700_000_000_000_000_000);
        let classes = Classes::of_rules(THRESHOLD, &rules);
        let threshold_min_ns = classes.smallest_ns();
        let doorbell = Arc::new(Doorbell::default());
        let admission = Admission::with_shares(agents_max, uid_agents_max).unwrap();
        let (mut scripts, mut made, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        let mut daemons = None;
        for shard in 0..shards {
            let number = |n: usize| u16::try_from(n).unwrap();
            let header =
                Header { boot_id: 0, pid_namespace: 0, shard: number(shard), shards: number(shards) };
            let (writer, table) = table::create(agents_max, header).unwrap();
            let mut port = Port::new(table, Arc::new(Kick::new().unwrap()), false).unwrap();
            let terms = terms.filter(|_| shard + 1 == shards);
            if let Some(terms) = terms {
                port = port.of_daemons(terms).unwrap();
            }
            let port = Arc::new(port.with_turned_away(admission.turned_away()));
            let admission = Arc::clone(&admission);
            let uids = UidAccounts::new(Arc::clone(&port.uids), uid_frames_max);
            let now = clock.mono();
            let tracker = Tracker::new(writer, classes.clone(), TICK, admission, uids, now);
            let script = Script::new(&clock, QUEUE.max(agents_max));
            let limits = Limits { threshold_min_ns, tick_ns: TICK };
            if terms.is_some() {
                let tracker = tracker.of_daemons(port.daemons.clone().unwrap());
                let transport = MessageReplay { inner: script.transport(), let_go: Rc::default() };
                let front = Front::new(transport, clock.clone(), tracker, limits, None);
                daemons = Some(Shard::new(front, Arc::clone(&port), Arc::clone(&doorbell), 0));
            } else {
                let front = Front::new(script.transport(), clock.clone(), tracker, limits, None);
                made.push(Shard::new(front, Arc::clone(&port), Arc::clone(&doorbell), 0));
            }
            scripts.push(script);
            ports.push(port);
        }
        let (lookups, questions) = Lookups::detached();
        let (watch, orders) = Watch::detached(Arc::new(Kick::new().expect("a descriptor")));
        let (finder, findings) = unbounded();
        let (requests, requests_of) = unbounded();
        let (subscriber, events) = Subscriber::new(Reader::Log, agents_max as usize + EVENTS_SLACK);
        requests.send(Request::Subscribe(subscriber)).unwrap();
        let (_copies, asked) = Copies::new(ports.len(), Arc::default());
        let policy = Policy { classes, rules };
        let inquiries = Inquiries { lookups, watch, findings, names: Arc::new(Names::new(0)) };
        let identity = Identity { boot_id: 0, pid_namespace: 0, fleet: 0 };
        let capacities = ports.iter().map(|port| port.table.capacity());
        let estate = Estate::create(&identity, 0, clock.mono(), capacities).unwrap();
        let mut aggregator = Aggregator::new(&ports, policy, inquiries, requests_of, doorbell, asked, estate);
        aggregator.start(clock.mono(), clock.wall());
        let mut world = Self {
            clock,
            scripts,
            shards: made,
            daemons,
            ports,
            aggregator,
            events,
            questions,
            orders,
            findings: finder,
            processes: HashMap::new(),
            watched: Vec::new(),
            is_watching: false,
            is_mute: false,
            is_secretive: false,
            asleep: Vec::new(),
            is_aggregator_asleep: false,
            next_turn_takes: 0,
            reported: Vec::new(),
            admission,
            requests,
        };
        // A shard is in grace at its start; tests begin after that.
        world.run(2 * THRESHOLD);
        world
    }

    /// A process that the lookup thread finds.
    pub(super) fn born(&mut self, pid: u32) {
        let process =
            Process { incarnation: u64::from(pid), comm: "agent", exe: "/agent", ..Process::default() };
        self.processes.insert(pid, process);
    }

    pub(super) fn now(&self) -> MonoNs {
        self.clock.mono()
    }

    /// All threads take turns for this long.
    pub(super) fn run(&mut self, for_ns: u64) {
        let until = self.now() + for_ns;
        while self.now() < until {
            self.clock.advance(STEP);
            for index in 0..self.shards.len() {
                if !self.asleep.contains(&index) {
                    self.scripts[index].at(self.now(), Act::Kick);
                    self.shards[index].turn().unwrap();
                }
            }
            if let Some(daemons) = &mut self.daemons {
                self.scripts[self.shards.len()].at(self.clock.mono(), Act::Kick);
                daemons.turn().unwrap();
            }
            if !self.is_aggregator_asleep {
                self.aggregate();
            }
        }
    }

    pub(super) fn aggregate(&mut self) {
        self.aggregator.turn(self.clock.mono(), self.clock.wall());
        self.clock.advance(mem::take(&mut self.next_turn_takes));
        self.aggregator.kick_shards(self.clock.mono());
        if !self.is_mute {
            self.ask();
        }
        self.reported.extend(self.events.try_iter());
    }

    /// The lookup and the watch thread take a turn.
    pub(super) fn ask(&mut self) {
        while let Some(question) = self.questions.iter().find_map(|questions| questions.try_recv().ok()) {
            self.findings.send(self.identify(question)).unwrap();
        }
        self.watch_answers();
    }

    /// The watch thread takes a turn.
    pub(super) fn watch_answers(&mut self) {
        while let Some(order) = self.orders.iter().find_map(|orders| orders.try_recv().ok()) {
            match order {
                Order::Watch { holder, .. } if !self.is_watching => {
                    self.findings.send(Finding::Watching { holder, is_watched: false }).unwrap();
                }
                Order::Watch { holder, pid, incarnation } => self.watched.push((holder, pid, incarnation)),
                Order::Unwatch { holder } => self.watched.retain(|(watched, ..)| *watched != holder),
                Order::Exists { holder, pid, incarnation, .. } => {
                    let finding = match self.gone_at(pid, incarnation) {
                        None => Finding::There { holder },
                        Some(at) => Finding::Gone { holder, at, how: None },
                    };
                    self.findings.send(finding).unwrap();
                }
            }
        }
        for (holder, pid, incarnation) in mem::take(&mut self.watched) {
            match self.gone_at(pid, incarnation) {
                None => self.watched.push((holder, pid, incarnation)),
                Some(at) => {
                    let how = Some(ExitHow::Signal(9));
                    self.findings.send(Finding::Gone { holder, at, how }).unwrap();
                }
            }
        }
    }

    fn identify(&self, Question { holder, pid, of, .. }: Question) -> Finding {
        let program = |process: &Process| Program {
            comm: Some(process.comm.to_owned()),
            exe: Some(process.exe.to_owned()).filter(|exe| !exe.is_empty()),
            watchdog_ns: process.watchdog_ns,
            ..Program::default()
        };
        if matches!(of, Inquiry::Program | Inquiry::Class) {
            let process = self.processes.get(&pid).filter(|_| !self.is_secretive);
            let is_frozen = process.is_some_and(|process| process.is_frozen);
            return Finding::Program { holder, found: process.map(program).unwrap_or_default(), is_frozen };
        }
        if let Inquiry::Lives(start) = of {
            let life = match self.processes.get(&pid).filter(|process| process.incarnation == start) {
                _ if self.is_secretive => Life::Unknown,
                Some(process) => Life::Lives(process.comm.to_owned()),
                None => Life::Gone,
            };
            return Finding::Lives { pid, life };
        }
        if let Inquiry::Freezer(incarnation) = of {
            let is_frozen = self.processes.get(&pid).is_some_and(|process| process.is_frozen);
            return match self.gone_at(pid, incarnation).filter(|_| !is_frozen) {
                Some(at) => Finding::Gone { holder, at, how: None },
                None => Finding::Freezer { holder, is_frozen },
            };
        }
        let found = match self.processes.get(&pid) {
            _ if self.is_secretive => Err(LookupError::Failed),
            None => Err(LookupError::Gone(self.now(), None)),
            Some(process) => Ok(LookedUp {
                incarnation: Incarnation::new(process.incarnation),
                started: process.started,
                inner_pids: process.inner_pids.clone(),
                uid: 0,
                program: program(process),
            }),
        };
        Finding::Who { holder, found }
    }

    fn gone_at(&self, pid: u32, incarnation: Option<Incarnation>) -> Option<MonoNs> {
        match self.processes.get(&pid) {
            None => Some(self.now()),
            Some(heir) if incarnation.is_some_and(|known| known != Incarnation::new(heir.incarnation)) => {
                Some(heir.started)
            }
            Some(_) => None,
        }
    }

    /// `pid` sends this frame to `shard` now.
    pub(super) fn send(&mut self, shard: usize, pid: u32, frame: &Frame) {
        self.scripts[shard].at(self.now(), Act::Send(Recorded::frame(frame, pid)));
    }

    /// `pid` sends this message to the shard of daemons now.
    pub(super) fn notify(&mut self, pid: u32, text: &str) {
        self.scripts[self.shards.len()].at(self.now(), Act::Send(Recorded::bytes(text.as_bytes(), pid)));
    }

    /// As [`World::send`], of a process that has another user now.
    pub(super) fn send_as(&mut self, shard: usize, pid: u32, uid: u32, frame: &Frame) {
        let mut datagram = Recorded::frame(frame, pid);
        datagram.credentials = Some(Credentials { pid, uid });
        self.scripts[shard].at(self.now(), Act::Send(datagram));
    }

    /// `pid` beats on `shard` every 100 ms with these nonces.
    pub(super) fn beats(&mut self, shard: usize, pid: u32, nonces: std::ops::Range<u64>) {
        for nonce in nonces {
            self.send(shard, pid, &beat(pid, nonce));
            self.run(100 * MS);
        }
    }

    /// Kinds reported of `pid` so far, in order.
    pub(super) fn kinds(&self, pid: u32) -> Vec<&'static str> {
        let of = |event: &&Event| event.agent.is_some_and(|agent| agent.pid == pid);
        self.reported.iter().filter(of).map(|event| event.kind.name()).collect()
    }

    pub(super) fn last(&self, kind: &str) -> Event {
        *self.reported.iter().rfind(|event| event.kind.name() == kind).expect(kind)
    }

    pub(super) fn count(&self, kind: &str) -> usize {
        self.reported.iter().filter(|event| event.kind.name() == kind).count()
    }

    /// `pid` does everything that it may do as often as it likes.
    fn babble(&mut self, shard: usize, pid: u32, round: u64) {
        let status = if round.is_multiple_of(2) { Status::Degraded } else { Status::Ok };
        self.send(shard, pid, &Frame { status, ..beat(pid, 1 + round) });
        let last_words = Frame { status: Status::Critical, payload: round, ..beat(pid, NONCE_TERMINAL) };
        self.send(shard, pid, &last_words);
        // Another connection each time. A mixed agent shows a new one by the first nonce alone.
        let nonce = if round < 4 { (10_000 - round) * 100_000 } else { 1 };
        self.send(shard, pid, &Frame { status, ..beat(pid, nonce) });
    }

    /// How many crash reports, changes of status and sessions were reported.
    fn coalesced(&self) -> [u32; 3] {
        let mut sums = [0; 3];
        for event in &self.reported {
            match event.kind {
                EventKind::Terminal { coalesced } => sums[0] += coalesced,
                EventKind::Status { coalesced } => sums[1] += coalesced,
                EventKind::Session { coalesced, .. } => sums[2] += coalesced,
                _ => {}
            }
        }
        sums
    }

    pub(super) fn agents(&self) -> (u64, u64) {
        let tally = self.aggregator.tally();
        (
            tally.shards.iter().map(|shard| shard.up).sum(),
            tally.shards.iter().map(|shard| shard.stalled).sum(),
        )
    }
}

impl Drop for World {
    /// Holds in every test: numbers have no gaps, and stall and resume alternate.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut stalled = HashMap::new();
        for (index, event) in self.reported.iter().enumerate() {
            assert_eq!(event.seq, index as u64 + 1, "{event:?}");
            let Some(agent) = event.agent else { continue };
            let is_stalled: &mut bool = stalled.entry(agent.pid).or_default();
            match event.kind {
                EventKind::Stall { .. } => {
                    assert!(!mem::replace(is_stalled, true), "two stalls of {agent:?}")
                }
                EventKind::Resume { .. } => {
                    assert!(mem::take(is_stalled), "resume without stall of {agent:?}")
                }
                EventKind::Exit { .. } => *is_stalled = false,
                _ => {}
            }
        }
    }
}

pub(super) fn beat(pid: u32, nonce: u64) -> Frame {
    Frame { version: Version::V02, status: Status::Ok, pid, timestamp: 5, nonce, payload: 0 }
}

#[test]
fn up_then_one_stall_then_one_resume() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.run(3 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    let EventKind::Stall {
        silent_ns,
        last_nonce: 3,
        certain: true,
        blind_ns: 0,
        process: None,
        used_cpu: None,
        phase: None,
        coalesced: 1,
    } = world.last("stall").kind
    else {
        panic!("{:?}", world.last("stall"));
    };
    assert!((THRESHOLD..=THRESHOLD + TICK + STEP).contains(&silent_ns), "{silent_ns}");
    assert_eq!(world.agents(), (0, 1));
    world.beats(0, 7, 6..8);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
    assert!(matches!(world.last("resume").kind, EventKind::Resume { lost: 2, coalesced: 1, .. }));
    assert_eq!(world.agents(), (1, 0));
}

#[test]
fn the_dead_exit_and_do_not_stall_and_their_pid_comes_up_again() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.processes.remove(&7);
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "exit"]);
    assert_eq!(world.agents(), (0, 0));
    world.born(7);
    world.beats(1, 7, 1..3);
    assert_eq!(world.kinds(7), ["up", "exit", "up"]);
    let sessions: Vec<u32> =
        world.reported.iter().filter_map(|event| event.agent.map(|agent| agent.session)).collect();
    assert_eq!(sessions, [1, 1, 2]);
}

#[test]
fn a_watched_process_that_dies_is_told_at_once_and_how() {
    let mut world = World::new(2);
    world.is_watching = true;
    world.born(7);
    world.beats(0, 7, 1..4);
    world.processes.remove(&7);
    world.run(4 * STEP);
    assert_eq!(world.kinds(7), ["up", "exit"], "long before the threshold");
    let EventKind::Exit { how: Some(ExitHow::Signal(9)), .. } = world.last("exit").kind else {
        panic!("{:?}", world.last("exit"));
    };
    assert_eq!(world.agents(), (0, 0));
}

#[test]
fn frames_of_the_dead_that_are_queued_are_its_last_words_and_nobody_new() {
    let mut world = World::new(2);
    world.is_watching = true;
    world.born(7);
    world.beats(0, 7, 1..4);
    // It beats on the other shard, too, which does not read, and exits.
    world.asleep = vec![1];
    world.send(1, 7, &beat(7, 9));
    world.processes.remove(&7);
    world.run(4 * STEP);
    assert_eq!(world.kinds(7), ["up"], "not before every shard has seen what had arrived");
    world.asleep.clear();
    world.run(200 * MS);
    assert_eq!(world.kinds(7), ["up", "exit"]);
    assert_eq!(world.last("exit").agent.map(|agent| agent.nonce), Some(9));
    assert_eq!(world.admission.tracked(), 0, "its slots are free");
}

#[test]
fn a_stalled_agent_that_dies_is_told_within_two_seconds() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.run(2 * THRESHOLD);
    world.processes.remove(&7);
    world.run(2000 * MS);
    assert_eq!(world.kinds(7), ["up", "stall", "exit"]);
    assert_eq!(world.agents(), (0, 0));
}

#[test]
fn an_agent_that_moves_is_one_agent_and_never_stalled() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.beats(1, 7, 4..20);
    assert_eq!(world.kinds(7), ["up", "moved"]);
    assert!(matches!(world.last("moved").kind, EventKind::Moved { from: 0 }));
    assert_eq!(world.last("moved").shard, Some(1));
    assert_eq!(world.agents(), (1, 0), "the slot it left is gone");
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "moved", "stall"], "silent everywhere is silent");
}

#[test]
fn an_agent_that_beats_on_two_shards_in_turn_is_never_stalled() {
    let mut world = World::new(2);
    world.born(7);
    for nonce in 1..30 {
        let shard = usize::try_from(nonce % 2).unwrap();
        world.send(shard, 7, &beat(7, nonce));
        world.run(400 * MS);
    }
    assert_eq!((world.count("up"), world.count("stall"), world.count("exit")), (1, 0, 0));
}

#[test]
fn a_stalled_agent_that_comes_back_on_another_shard_resumes() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.run(2 * THRESHOLD);
    world.beats(1, 7, 4..8);
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "moved"]);
    world.beats(1, 7, 8..20);
    assert_eq!(world.agents(), (1, 0));
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "moved"]);
}

#[test]
fn a_forger_is_told_and_is_nobodys_agent() {
    let mut world = World::new(1);
    world.born(7);
    world.born(8);
    world.beats(0, 8, 1..3);
    for nonce in 3..6 {
        world.send(0, 7, &beat(8, nonce));
        world.send(0, 8, &beat(8, nonce));
        world.run(100 * MS);
    }
    world.beats(0, 8, 6..20);
    assert!(matches!(world.last("auth").kind, EventKind::Auth { claimed: 8, attested: 7, uid: 1000 }));
    assert!(world.kinds(7).is_empty(), "neither up nor stall nor exit: {:?}", world.kinds(7));
    assert_eq!(world.kinds(8), ["up"], "the victim is untouched");
    assert_eq!(world.ports[0].counters.refused(Refusal::Forged), 2, "the first frame was looked up");
    assert_eq!(world.agents(), (1, 0));
}

#[test]
fn a_forger_that_also_beats_for_itself_is_an_agent_too() {
    let mut world = World::new(1);
    world.born(7);
    world.send(0, 7, &beat(8, 1));
    world.run(100 * MS);
    world.beats(0, 7, 1..10);
    assert_eq!(world.kinds(7), ["up"]);
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

#[test]
fn the_inner_pid_of_a_container_is_an_attribute() {
    let mut world = World::new(1);
    world.born(7);
    world.processes.get_mut(&7).unwrap().inner_pids = vec![1];
    for nonce in 1..20 {
        world.send(0, 7, &beat(1, nonce));
        world.run(100 * MS);
    }
    assert_eq!(world.kinds(7), ["up"]);
    assert_eq!(world.last("up").agent.unwrap().ns_pid, Some(1));
    assert_eq!(world.count("auth"), 0);
    assert_eq!(world.ports[0].counters.beats.get(), 19);
}

#[test]
fn one_beat_of_a_process_that_is_gone_is_up_and_exit() {
    let mut world = World::new(1);
    world.send(0, 7, &beat(3, 1));
    world.run(200 * MS);
    assert_eq!(world.kinds(7), ["up", "exit"]);
    assert_eq!(world.count("auth"), 0, "nobody is left who could be asked");
}

#[test]
fn a_pid_that_went_to_another_process_is_an_exit_and_an_up() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..5);
    world.processes.get_mut(&7).unwrap().incarnation = 77;
    world.processes.get_mut(&7).unwrap().started = world.now();
    world.beats(0, 7, 1..10);
    assert_eq!(world.kinds(7), ["up", "exit", "up"]);
    world.beats(0, 7, 10..20);
    assert_eq!(world.kinds(7), ["up", "exit", "up"]);
}

#[test]
fn a_nonce_that_starts_again_is_a_stream_and_another_program_an_exec() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 100..105);
    world.beats(0, 7, 1..5);
    assert_eq!(world.kinds(7), ["up", "session"]);
    assert!(matches!(
        world.last("session").kind,
        EventKind::Session { why: SessionWhy::Nonce, coalesced: 1 }
    ));
    world.processes.get_mut(&7).unwrap().exe = "/other";
    world.run(400 * MS);
    world.beats(0, 7, 500_000..500_005);
    assert_eq!(world.kinds(7), ["up", "session", "session"]);
    assert!(matches!(world.last("session").kind, EventKind::Session { why: SessionWhy::Exec, coalesced: 1 }));
    // A process that is exiting has no program any more; that is not another one.
    world.processes.get_mut(&7).unwrap().exe = "";
    world.run(400 * MS);
    world.beats(0, 7, 1..5);
    assert!(matches!(
        world.last("session").kind,
        EventKind::Session { why: SessionWhy::Nonce, coalesced: 1 }
    ));
}

#[test]
fn a_mute_lookup_thread_delays_a_stall_by_20_ms_and_no_more() {
    let mut world = World::new(1);
    world.is_mute = true;
    world.beats(0, 7, 1..4);
    let last = world.now() - 100 * MS;
    while world.count("stall") == 0 {
        assert!(world.now() < last + 2 * THRESHOLD);
        world.run(STEP);
    }
    assert!(world.now() <= last + THRESHOLD + TICK + CONFIRM_NS + 2 * STEP);
}

#[test]
fn a_shard_that_does_not_answer_makes_a_stall_uncertain() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..2);
    world.beats(1, 7, 2..3);
    world.beats(0, 7, 3..6);
    world.asleep = vec![1];
    world.run(2 * THRESHOLD);
    assert!(matches!(world.last("stall").kind, EventKind::Stall { certain: false, .. }));
}

#[test]
fn a_rules_threshold_holds_once_it_is_looked_up_and_the_largest_before() {
    let rule = |comm: &str, threshold_ns| Rule::new(RuleMatch::comm(comm), threshold_ns);
    let mut world = World::with(1, 64, vec![rule("batch-*", 3000 * MS), rule("fast", 200 * MS)]);
    for (pid, comm) in [(7, "batch-1"), (8, "fast"), (9, "other")] {
        world.born(pid);
        world.processes.get_mut(&pid).unwrap().comm = comm;
        world.send(0, pid, &beat(pid, 1));
    }
    world.run(300 * MS);
    assert_eq!(world.kinds(8), ["up", "stall"]);
    assert_eq!(world.kinds(9), ["up"]);
    world.run(400 * MS);
    assert_eq!(world.kinds(9), ["up", "stall"]);
    world.run(2000 * MS);
    assert_eq!(world.kinds(7), ["up"]);
    world.run(500 * MS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    world.is_mute = true;
    world.born(10);
    world.processes.get_mut(&10).unwrap().comm = "fast";
    world.send(0, 10, &beat(10, 1));
    world.run(2900 * MS);
    assert_eq!(world.kinds(10), ["up"], "until it is looked up the largest holds");
}

#[test]
fn fault_32_an_agent_faster_than_the_telling_is_told_coalesced() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.is_aggregator_asleep = true;
    for nonce in 3..6 {
        world.run(2 * THRESHOLD);
        world.send(0, 7, &beat(7, nonce));
        world.run(STEP);
    }
    world.is_aggregator_asleep = false;
    world.beats(0, 7, 6..8);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
    assert!(matches!(world.last("stall").kind, EventKind::Stall { coalesced: 3, .. }));
    assert!(matches!(world.last("resume").kind, EventKind::Resume { coalesced: 3, .. }));
}

#[test]
fn fault_52_a_full_table_is_told_once_a_second_and_lets_in_when_there_is_room() {
    let mut world = World::with(2, 2, Vec::new());
    for pid in [7, 8, 9] {
        world.born(pid);
    }
    for nonce in 1..22 {
        for pid in if nonce == 1 { 7..9 } else { 7..10 } {
            world.send(usize::from(pid == 8), pid, &beat(pid, nonce));
        }
        world.run(100 * MS);
    }
    assert!((2..=3).contains(&world.count("full")), "{}", world.count("full"));
    assert!(world.kinds(9).is_empty());
    let refused: u64 = world.ports.iter().map(|port| port.counters.refused(Refusal::TableFull)).sum();
    assert_eq!(refused, 20);
    world.processes.remove(&7);
    for nonce in 22..42 {
        for pid in [8, 9] {
            world.send(usize::from(pid == 8), pid, &beat(pid, nonce));
        }
        world.run(100 * MS);
    }
    assert_eq!(world.kinds(7), ["up", "exit"]);
    assert_eq!(world.kinds(9), ["up"]);
    assert_eq!(world.kinds(8), ["up"]);
}

#[test]
fn status_version_and_last_words_are_told_with_what_the_frame_said() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.send(0, 7, &Frame { status: Status::Degraded, payload: 9, ..beat(7, 3) });
    world.run(100 * MS);
    let status = world.last("status").agent.unwrap();
    assert_eq!((status.status, status.payload, status.nonce), (Status::Degraded, 9, 3));
    let last_words = Frame { status: Status::Critical, payload: 5, ..beat(7, NONCE_TERMINAL) };
    world.send(0, 7, &last_words);
    world.run(100 * MS);
    let terminal = world.last("terminal").agent.unwrap();
    assert_eq!((terminal.status, terminal.payload, terminal.nonce), (Status::Critical, 5, NONCE_TERMINAL));
    assert_eq!(
        world.ports[0].table.read_hot(0).unwrap().status,
        Status::Critical,
        "it is the last accepted frame"
    );
    for nonce in 1..4 {
        world.send(0, 7, &Frame { version: Version::V01, status: Status::Degraded, ..beat(7, nonce) });
        world.run(100 * MS);
    }
    assert!(matches!(
        world.last("session").kind,
        EventKind::Session { why: SessionWhy::Version, coalesced: 1 }
    ));
    assert_eq!(world.last("status").agent.unwrap().status, Status::Degraded);
    assert_eq!(world.kinds(7), ["up", "status", "terminal", "status", "session"]);
}

/// Stock observers show a process that reported a panic and hangs as critical.
#[test]
fn a_stall_after_last_words_is_of_a_critical_agent() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.send(0, 7, &Frame { status: Status::Critical, ..beat(7, NONCE_TERMINAL) });
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "terminal", "stall"]);
    assert_eq!(world.last("stall").agent.unwrap().status, Status::Critical);
}

#[test]
fn a_forged_frame_is_told_with_its_own_instant() {
    let mut world = World::new(1);
    [7, 8].into_iter().for_each(|pid| world.born(pid));
    world.beats(0, 7, 1..5);
    let at = world.now();
    world.send(0, 7, &beat(8, 5));
    world.run(100 * MS);
    let auth = world.last("auth");
    assert!(auth.mono >= at && auth.mono < at + 2 * STEP, "{auth:?}, sent at {at:?}");
}

#[test]
fn last_words_of_a_process_that_never_beat_are_told_and_open_no_deadline() {
    let mut world = World::new(1);
    world.born(7);
    world.send(0, 7, &Frame { status: Status::Critical, ..beat(7, NONCE_TERMINAL) });
    world.run(4 * THRESHOLD);
    assert_eq!(world.kinds(7), ["terminal"]);
    world.processes.remove(&7);
    world.run(2000 * MS);
    assert_eq!(world.kinds(7), ["terminal", "exit"], "its slot is given back");
}

#[test]
fn fault_67_what_changes_twice_between_two_looks_is_told() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.is_aggregator_asleep = true;
    for (nonce, status) in [(3, Status::Critical), (4, Status::Degraded), (5, Status::Ok)] {
        world.send(0, 7, &Frame { status, ..beat(7, nonce) });
        world.run(STEP);
    }
    for payload in 11..14 {
        world.send(0, 7, &Frame { status: Status::Critical, payload, ..beat(7, NONCE_TERMINAL) });
        world.run(STEP);
    }
    world.is_aggregator_asleep = false;
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "terminal", "status"]);
    assert_eq!(world.last("status").kind, EventKind::Status { coalesced: 3 });
    let terminal = world.last("terminal");
    assert_eq!(terminal.kind, EventKind::Terminal { coalesced: 3 });
    assert_eq!(terminal.agent.unwrap().payload, 11, "the root of the others");
    // And back: the status is the one reported last, and yet it changed.
    for (nonce, status) in [(6, Status::Ok), (7, Status::Critical)] {
        world.send(0, 7, &Frame { status, ..beat(7, nonce) });
    }
    world.run(100 * MS);
    assert_eq!(world.last("status").kind, EventKind::Status { coalesced: 2 });
    assert_eq!(world.last("status").agent.unwrap().status, Status::Critical);
}

/// 1000 a second of everything an agent may do as often as it likes.
#[test]
fn fault_68_one_agent_cannot_fill_the_log_and_nothing_of_it_is_lost() {
    let mut world = World::new(1);
    [7, 8].into_iter().for_each(|pid| world.born(pid));
    let rounds = 1_000_u64;
    for round in 0..rounds {
        world.babble(0, 7, round);
        if round % 20 == 0 {
            world.send(0, 8, &beat(8, 1 + round / 20));
        }
        world.run(STEP);
    }
    let seconds = rounds * STEP / SECOND_NS + 1;
    for kind in ["status", "terminal"] {
        let reported = world.count(kind) as u64;
        assert!(reported >= 10 && reported <= 10 + 3 * seconds, "{reported} of {kind}");
    }
    assert_eq!(world.kinds(8), ["up"]);
    // Then it falls silent: deferred events come before the stall.
    world.run(2 * THRESHOLD);
    let kinds = world.kinds(7);
    assert_eq!(kinds.last(), Some(&"stall"), "{kinds:?}");
    let (_, cold) = world.ports[0].table.read(0).unwrap();
    assert_eq!(u64::from(cold.terminals), rounds);
    assert_eq!(world.coalesced(), [cold.terminals, cold.statuses, cold.streams]);
}

#[test]
fn fault_68_what_was_held_back_of_an_agent_is_told_before_its_end_and_before_it_moves() {
    for (moves, last) in [(false, "exit"), (true, "moved")] {
        let mut world = World::new(2);
        world.is_watching = true;
        world.born(7);
        for round in 0..250 {
            world.babble(0, 7, round);
            world.run(STEP);
        }
        let (_, cold) = world.ports[0].table.read(0).unwrap();
        let counted = [cold.terminals, cold.statuses, cold.streams];
        assert_ne!(world.coalesced(), counted, "something is held back");
        if moves {
            world.beats(1, 7, 1..10);
        } else {
            world.processes.remove(&7);
            world.run(10 * STEP);
        }
        assert_eq!(world.kinds(7).last(), Some(&last), "{:?}", world.kinds(7));
        assert_eq!(world.coalesced(), counted, "{last}");
    }
}

/// An event that stands for several is counted as all of them: as many silences end as began.
#[test]
fn stalls_and_resumes_told_in_one_event_are_all_counted() {
    for is_first_reported in [false, true] {
        for cycles in 1..4_u64 {
            let mut world = World::new(1);
            world.born(7);
            world.beats(0, 7, 1..4);
            if is_first_reported {
                world.run(2 * THRESHOLD);
            }
            world.is_aggregator_asleep = true;
            for cycle in 0..cycles {
                world.run(2 * THRESHOLD);
                world.send(0, 7, &beat(7, 4 + cycle));
                world.run(STEP);
            }
            world.is_aggregator_asleep = false;
            let counted = |world: &World| {
                let tally = world.aggregator.tally();
                let [shard] = &tally.shards[..] else { unreachable!() };
                (shard.stalls_certain + shard.stalls_uncertain, shard.resumes)
            };
            world.run(100 * MS);
            assert_eq!(counted(&world), (cycles, cycles), "{is_first_reported}: {:?}", world.reported);
            // Silent again when the aggregator looks.
            world.is_aggregator_asleep = true;
            world.run(2 * THRESHOLD);
            world.send(0, 7, &beat(7, 20));
            world.run(2 * THRESHOLD);
            world.is_aggregator_asleep = false;
            world.run(100 * MS);
            assert_eq!(
                counted(&world),
                (cycles + 2, cycles + 1),
                "{is_first_reported}: {:?}",
                world.reported
            );
        }
    }
}

#[test]
fn fault_23_a_pause_of_the_observer_condemns_nobody_and_is_told_as_a_pair() {
    let mut world = World::new(2);
    let pids = [7, 8];
    for nonce in 1..40 {
        for (shard, pid) in pids.into_iter().enumerate() {
            world.born(pid);
            let at = world.now() + nonce * 100 * MS;
            world.scripts[shard].at(at, Act::Send(Recorded::frame(&beat(pid, nonce), pid)));
        }
    }
    world.run(1000 * MS);
    world.clock.advance(3 * THRESHOLD);
    world.run(1000 * MS);
    for pid in pids {
        assert_eq!(world.kinds(pid), ["up"]);
    }
    for shard in 0..2 {
        let of_shard: Vec<&Event> = world
            .reported
            .iter()
            .filter(|event| event.shard == Some(shard) && event.kind.name() == "blind")
            .collect();
        assert_eq!(of_shard.len(), 2, "shard {shard}: {of_shard:?}");
        let EventKind::Blind { phase: BlindPhase::End { for_ns }, .. } = of_shard[1].kind else {
            panic!("{of_shard:?}");
        };
        assert!(for_ns + 200 * MS >= 3 * THRESHOLD, "{for_ns}");
    }
}

#[test]
fn a_shard_that_starts_over_from_its_table_forgets_and_condemns_nobody() {
    let mut world = World::with(1, 3, Vec::new());
    for pid in 7..10 {
        world.born(pid);
        world.beats(0, pid, 1..3);
    }
    world.run(2 * THRESHOLD);
    assert_eq!((world.count("up"), world.count("stall")), (3, 3));
    world.beats(0, 8, 3..5);
    world.processes.remove(&9);
    world.run(1500 * MS);
    assert_eq!(world.kinds(8), ["up", "stall", "resume", "stall"]);
    world.beats(0, 8, 5..7);
    let before = world.reported.len();
    world.run(THRESHOLD - 100 * MS - 2 * STEP);
    world.shards[0].recover();
    world.run(200 * MS);
    assert_eq!(
        world.reported.len(),
        before,
        "it is owed a whole threshold of sight: {:?}",
        &world.reported[before..]
    );
    world.beats(0, 7, 3..5);
    assert_eq!(world.kinds(7), ["up", "stall", "resume"]);
    world.born(10);
    world.beats(0, 10, 1..2);
    assert_eq!(world.kinds(10), ["up"], "the place of the dead is known to be free");
    world.born(11);
    world.beats(0, 11, 1..2);
    assert!(world.kinds(11).is_empty(), "and there is only one");
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(8), ["up", "stall", "resume", "stall", "resume", "stall"]);
}

#[test]
fn stopping_tells_what_is_left_and_stop_is_the_last() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.requests.send(Request::Stop).unwrap();
    let mut turns = 0;
    while world.aggregator.turn(world.clock.mono(), world.clock.wall()) != Next::Stopped {
        world.clock.advance(STEP);
        turns += 1;
        assert!(turns < 100);
    }
    world.reported.extend(world.events.try_iter());
    assert_eq!(world.reported.last().unwrap().kind, EventKind::Stop);
}

#[test]
fn a_flood_does_not_keep_a_shard_from_stopping_and_what_had_arrived_is_taken() {
    let mut world = World::new(1);
    let script = world.scripts[0].clone();
    script.set_frame_ns(100_000);
    let start = world.now();
    // Twice as many as the shard can read, for longer than any stop may take.
    for n in 0..200_000 {
        script.at(start + n * 50_000, Act::Send(Recorded::bytes(&[0; 32], 7)));
    }
    world.clock.advance(10 * MS);
    script.at(world.now(), Act::Kick);
    world.shards[0].turn().unwrap();
    let arrived = script.take_sent().iter().filter(|sent| sent.is_queued).count() as u64;
    let stopped = world.now();
    world.shards.remove(0).finish();
    assert!(world.ports[0].counters.frames.get() >= arrived);
    assert!(world.now().since(stopped) < 1000 * MS, "{}", world.now().since(stopped));
}

// --- many slots of one agent, late findings, hard timing ------------------------------------------------

#[test]
fn a_stall_that_ended_before_it_was_settled_does_not_hide_the_next() {
    let mut world = World::new(1);
    world.is_mute = true;
    world.beats(0, 7, 1..3);
    while world.aggregator.pending.is_empty() {
        world.run(STEP);
    }
    // The beat comes after the look at the facts and before the settling.
    world.send(0, 7, &beat(7, 3));
    world.shards[0].turn().unwrap();
    world.aggregator.settle_pending();
    world.is_aggregator_asleep = true;
    world.run(2 * THRESHOLD);
    world.is_aggregator_asleep = false;
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    assert_eq!(world.agents(), (0, 1));
}

#[test]
fn a_beat_queued_on_a_shard_that_never_saw_the_agent_is_waited_for() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.run(400 * MS);
    world.asleep = vec![1];
    world.send(1, 7, &beat(7, 3));
    while world.aggregator.pending.is_empty() {
        world.run(STEP);
    }
    world.asleep.clear();
    world.run(200 * MS);
    assert_eq!(world.kinds(7), ["up", "moved"]);
}

#[test]
fn no_stall_is_certain_while_another_shard_may_hold_a_beat() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.asleep = vec![1];
    world.send(1, 7, &beat(7, 3));
    world.run(2 * THRESHOLD);
    assert!(matches!(world.last("stall").kind, EventKind::Stall { certain: false, .. }));
}

#[test]
fn an_agent_told_stalled_resumes_on_any_slot_it_has() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..2);
    world.beats(1, 7, 2..3);
    world.asleep = vec![0];
    world.run(1000 * MS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    world.asleep.clear();
    world.beats(0, 7, 3..13);
    assert_eq!(world.count("resume"), 1, "{:?}", world.kinds(7));
    assert_eq!(world.agents(), (1, 0));
    world.run(2 * THRESHOLD);
    assert_eq!((world.count("stall"), world.agents()), (2, (0, 1)));
}

#[test]
fn an_old_beat_on_another_shard_resumes_nobody_and_the_next_one_does() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..3);
    // A beat from before the silence lies in the queue of a shard that does not read.
    world.asleep = vec![1];
    world.send(1, 7, &beat(7, 3));
    world.run(100 * MS);
    world.beats(0, 7, 4..5);
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    world.asleep.clear();
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    world.beats(1, 7, 4..6);
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "moved"]);
    assert_eq!(world.agents(), (1, 0));
}

#[test]
fn an_agent_whose_shard_starts_over_while_it_is_asked_to_let_go_resumes_all_the_same() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(1, 7, 1..3);
    world.beats(0, 7, 3..5);
    // It goes on on a paused shard, so it seems silent.
    world.asleep = vec![1];
    world.run(300 * MS);
    world.send(1, 7, &beat(7, 5));
    world.run(THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
    // The paused shard recovers as after a panic, and is looked at before it has read anything.
    world.shards[1].recover();
    world.run(2 * STEP);
    world.asleep.clear();
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["up", "stall", "resume", "moved"]);
}

#[test]
fn who_takes_a_dead_agents_pid_on_another_shard_is_somebody_else() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..3);
    world.processes.remove(&7);
    while world.count("exit") == 0 {
        world.run(STEP);
    }
    // The slot of the exited process is not released yet.
    world.asleep = vec![0];
    world.born(7);
    world.beats(1, 7, 1..3);
    world.asleep.clear();
    world.beats(1, 7, 3..5);
    assert_eq!(world.kinds(7), ["up", "exit", "up"]);
    assert_eq!(world.last("up").agent.unwrap().session, 2);
    assert_eq!(world.agents(), (1, 0));
}

/// A slot that is not released yet belongs to a process whose exit was reported: no second exit.
#[test]
fn the_exit_of_an_heir_is_told_of_the_heir() {
    let mut world = World::new(2);
    world.is_watching = true;
    world.born(7);
    world.beats(0, 7, 1..3);
    world.processes.remove(&7);
    while world.count("exit") == 0 {
        world.run(STEP);
    }
    world.asleep = vec![0];
    for (incarnation, nonces) in [(70, 1..3), (77, 1..2)] {
        world.clock.advance(STEP);
        let started = world.now();
        world
            .processes
            .insert(7, Process { incarnation, started, comm: "agent", exe: "/agent", ..Process::default() });
        world.clock.advance(STEP);
        world.beats(1, 7, nonces);
    }
    world.run(2 * EXIT_NS);
    let reported = world.reported.iter().filter_map(|event| Some((event.kind.name(), event.agent?.session)));
    let expected = [("up", 1), ("exit", 1), ("up", 2), ("exit", 2)];
    assert_eq!(reported.take(4).collect::<Vec<_>>(), expected);
}

#[test]
fn a_pid_that_is_reused_on_another_shard_resumes_nobody() {
    for is_stalled in [false, true] {
        let mut world = World::new(2);
        world.born(7);
        world.beats(0, 7, 1..3);
        if is_stalled {
            world.run(2 * THRESHOLD);
        }
        let started = world.now();
        let process = world.processes.get_mut(&7).unwrap();
        (process.incarnation, process.started) = (77, started);
        world.beats(1, 7, 1..15);
        let reported: Vec<&str> = world.kinds(7).into_iter().filter(|kind| *kind != "stall").collect();
        assert_eq!(reported, ["up", "exit", "up"]);
        assert_eq!(world.agents(), (1, 0));
    }
}

#[test]
fn an_agent_in_two_places_is_up_once() {
    let mut world = World::new(2);
    world.born(7);
    world.send(0, 7, &Frame { status: Status::Critical, ..beat(7, NONCE_TERMINAL) });
    world.run(100 * MS);
    world.beats(1, 7, 1..3);
    world.beats(0, 7, 3..5);
    assert_eq!(world.count("up"), 1, "{:?}", world.kinds(7));
}

#[test]
fn a_status_that_changed_while_the_agent_moved_or_began_is_told() {
    let mut world = World::new(2);
    world.born(7);
    world.send(0, 7, &Frame { status: Status::Critical, ..beat(7, NONCE_TERMINAL) });
    world.run(100 * MS);
    world.beats(0, 7, 1..3);
    world.send(0, 7, &Frame { status: Status::Critical, ..beat(7, 3) });
    world.run(100 * MS);
    assert_eq!(world.kinds(7), ["terminal", "up", "status"]);
    world.beats(1, 7, 4..6);
    assert_eq!(world.kinds(7), ["terminal", "up", "status", "status"]);
}

#[test]
fn a_forgers_last_words_hold_no_place_for_ever() {
    let mut world = World::with(1, 1, Vec::new());
    world.born(7);
    world.send(0, 7, &Frame { status: Status::Critical, ..beat(8, NONCE_TERMINAL) });
    world.run(200 * MS);
    world.processes.remove(&7);
    world.run(2500 * MS);
    world.born(9);
    world.beats(0, 9, 1..3);
    assert_eq!(world.kinds(9), ["up"]);
    assert!(world.kinds(7).is_empty());
}

#[test]
fn a_slow_aggregator_does_not_forgive_itself_for_ever() {
    let mut world = World::new(1);
    world.is_mute = true;
    world.beats(0, 7, 1..3);
    world.is_aggregator_asleep = true;
    for _ in 0..40 {
        world.run(25 * MS);
        world.aggregate();
    }
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

#[test]
fn frames_of_the_dead_that_are_still_queued_are_not_somebody_new() {
    let mut world = World::new(1);
    world.born(7);
    world.born(8);
    world.beats(0, 7, 1..3);
    world.run(2 * THRESHOLD);
    world.asleep = vec![0];
    for nonce in 1..1500 {
        world.send(0, 8, &beat(8, nonce));
    }
    world.send(0, 7, &beat(7, 3));
    world.processes.remove(&7);
    // The exit waits for the shard, but not for ever.
    world.run(POLL_NS + EXIT_NS + 200 * MS);
    assert_eq!(world.kinds(7), ["up", "stall", "exit"]);
    world.asleep.clear();
    world.run(200 * MS);
    assert_eq!(world.kinds(7), ["up", "stall", "exit"]);
    assert_eq!(world.agents(), (1, 0));
}

#[test]
fn a_slot_that_is_being_written_is_asked_again_before_anything_is_told() {
    let mut world = World::new(2);
    world.born(7);
    world.beats(0, 7, 1..2);
    world.beats(1, 7, 2..3);
    world.is_mute = true;
    world.is_aggregator_asleep = true;
    world.run(THRESHOLD - 50 * MS);
    world.send(1, 7, &beat(7, 3));
    world.run(100 * MS);
    world.is_aggregator_asleep = false;
    world.ports[1].table.open(0);
    world.run(100 * MS);
    assert_eq!(world.count("stall"), 0, "the other slot may have beaten");
    world.processes.remove(&7);
    world.is_mute = false;
    world.run(200 * MS);
    assert_eq!(world.count("exit"), 0, "nobody knows its last words yet");
    world.ports[1].table.close(0);
    world.run(200 * MS);
    assert_eq!(world.kinds(7).last(), Some(&"exit"));
}

#[test]
fn last_words_on_another_shard_do_not_end_the_watch_over_an_agent() {
    for silence in [300 * MS, 1000 * MS] {
        let mut world = World::new(2);
        world.born(7);
        world.beats(0, 7, 1..3);
        world.run(silence);
        world.send(1, 7, &Frame { status: Status::Critical, ..beat(7, NONCE_TERMINAL) });
        world.run(2 * THRESHOLD);
        assert_eq!(world.kinds(7).last(), Some(&"stall"), "{:?}", world.kinds(7));
        assert_eq!(world.agents(), (0, 1));
    }
}

#[test]
fn an_agent_that_forged_before_anybody_looked_is_still_an_agent() {
    let mut world = World::new(1);
    world.born(7);
    world.send(0, 7, &beat(7, 1));
    world.send(0, 7, &beat(8, 2));
    world.run(2 * THRESHOLD);
    assert_eq!(world.count("auth"), 1);
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

#[test]
fn a_socket_that_keeps_failing_is_told_once_a_second_and_does_not_spin() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..3);
    let before = world.ports[0].counters.receive_calls.get();
    for _ in 0..10_000 {
        world.scripts[0].fail(libc::ENOMEM);
    }
    let from = world.now();
    while world.now().since(from) < 2000 * MS {
        world.send(0, 7, &beat(7, 3));
        world.shards[0].turn().unwrap();
        world.aggregate();
    }
    let calls = world.ports[0].counters.receive_calls.get() - before;
    assert!(calls <= 250, "{calls} calls in two seconds");
    assert!((2..=3).contains(&world.count("io")), "{}", world.count("io"));
}

#[test]
fn a_mute_lookup_thread_hides_no_container() {
    let mut world = World::new(1);
    world.is_mute = true;
    for nonce in 1..16 {
        world.send(0, 7, &beat(1, nonce));
        world.run(100 * MS);
    }
    assert_eq!(world.kinds(7), ["up"]);
    world.run(2 * THRESHOLD);
    assert_eq!(world.kinds(7), ["up", "stall"]);
}

#[test]
fn a_newcomer_with_the_pid_of_a_stalled_agent_ends_no_silence() {
    for nonces in [1..3, 4..6] {
        let mut world = World::new(2);
        world.born(7);
        world.beats(0, 7, 1..4);
        world.run(2 * THRESHOLD);
        assert_eq!(world.kinds(7), ["up", "stall"]);
        let now = world.now();
        world.processes.insert(7, Process { incarnation: 99, started: now, ..Process::default() });
        world.run(STEP);
        world.beats(0, 7, nonces.clone());
        assert_eq!(world.kinds(7), ["up", "stall", "exit", "up"], "{nonces:?}");
        assert_eq!(world.agents(), (1, 0));
    }
}

#[test]
fn a_newcomer_that_speaks_another_version_changes_nothing_of_the_dead() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..4);
    let now = world.now();
    world.processes.insert(7, Process { incarnation: 99, started: now, ..Process::default() });
    world.run(STEP);
    for nonce in 1..5 {
        world.send(0, 7, &Frame { version: Version::V01, status: Status::Degraded, ..beat(7, nonce) });
        world.run(STEP);
    }
    world.run(50 * MS);
    assert_eq!(world.kinds(7), ["up", "exit", "up"]);
    assert_eq!(world.last("exit").agent.map(|agent| agent.status), Some(Status::Ok));
    assert_eq!(world.last("up").agent.map(|agent| agent.status), Some(Status::Degraded));
}

#[test]
fn another_program_that_speaks_another_version_is_an_exec() {
    let mut world = World::new(1);
    world.born(7);
    world.beats(0, 7, 1..4);
    world.processes.get_mut(&7).expect("it was born").exe = "/another";
    for nonce in 1..5 {
        world.send(0, 7, &Frame { version: Version::V01, ..beat(7, nonce) });
        world.run(STEP);
    }
    world.run(50 * MS);
    assert_eq!(world.kinds(7), ["up", "session"]);
    assert!(matches!(world.last("session").kind, EventKind::Session { why: SessionWhy::Exec, coalesced: 1 }));
    assert_eq!(world.last("session").agent.map(|agent| agent.session), Some(2));
}

#[test]
fn a_lookup_that_fails_is_not_repeated_without_news() {
    let mut world = World::new(1);
    world.born(7);
    world.is_secretive = true;
    world.beats(0, 7, 100..104);
    world.beats(0, 7, 1..20);
    assert_eq!(world.kinds(7), ["up", "session"]);
    assert_eq!(world.aggregator.tally().lookups_failed, 2, "the first beat and the second stream");
}

#[test]
fn a_forged_frame_is_told_once_however_late_its_shard_hears_of_it() {
    let mut world = World::new(1);
    world.born(7);
    world.send(0, 7, &beat(8, 1));
    world.run(STEP);
    world.asleep.push(0);
    world.run(100 * MS);
    world.asleep.clear();
    world.run(100 * MS);
    assert_eq!(world.count("auth"), 1);
}
