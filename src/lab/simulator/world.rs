//! Runs a story: real shards and the real aggregator, each with its own clock; the thread with the earliest
//! instant runs next, so that no thread ever sees what another does later.
//!
//! A shard that is paused in the middle of a turn runs the whole turn at the end of the pause, with a clock
//! that starts at the begin of the turn: what it published in between would have been read no earlier than
//! now.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam::channel::Receiver;

use crate::aggregator::Next;
use crate::aggregator::Request;
use crate::aggregator::policy::Policy;
use crate::aggregator::reload::Reload;
use crate::config::classes::Classes;
use crate::config::plan::{PayloadPhase, Phases, Progress, Rule, Start};
use crate::config::{KeySet, ProgressOf, RuleMatch};
use crate::event::{Event, EventKind, ExitHow, ReloadOutcome};
use crate::lab::replay::{Act, Point, Script};
use crate::lab::simulator::acting::Acting;
use crate::lab::simulator::invariants::{Invariant, Verdict, Violation};
use crate::lab::simulator::lines;
use crate::lab::simulator::model::{End, Model, START, started};
use crate::lab::simulator::observer::{AnyShard, Here, Made, Observer, OneShard, Store, comm};
use crate::lab::simulator::random::Random;
use crate::lab::simulator::restart::{Past, Stage};
use crate::lab::simulator::story::{
    AT_REST, MS, Phased, SECOND, Setting, Story, Terms, TurnPart, US, What, Who,
};
use crate::lab::simulator::truth::{BUSY, Life, UID};
use crate::lane::Port;
use crate::lane::settings::Settings;
use crate::process::expected::Expected;
use crate::process::procfs::LookupError;
use crate::process::procfs::{Incarnation, Life as Lives, LookedUp, Program};
use crate::process::question::{Finding, Inquiry, Question};
use crate::process::watch::Order;
use crate::rules::Death;
use crate::sys::allocations::during;
use crate::table::place::{Holder, Place};
use crate::table::slot::State;
use crate::time::{Clock, ManualClock, MonoNs, WallNs};
use crate::view::tally::ShardTally;

/// By how much REALTIME is ahead of MONOTONIC at the begin.
const WALL_AHEAD: i64 = 1_700_000_000_000_000_000;
/// Longest turn, pauses aside; what arrives until then is scripted before the turn.
const LOOKAHEAD: u64 = 400 * MS;
/// Time a turn of the aggregator takes.
const AGGREGATOR_NS: u64 = 20 * US;
/// Shorter pauses are not recorded.
const STILL_MIN: u64 = MS;
/// Most datagrams of a turn.
const TURN_MAX: u64 = 1024;
pub const NEVER: u64 = u64::MAX;

/// The totals of a world.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub events: u64,
    pub datagrams: u64,
    pub steps: u64,
    pub simulated_ns: u64,
    pub restarts: u64,
}

/// A simulated thread.
#[derive(Debug)]
pub struct Thread {
    /// When it runs next.
    pub at: u64,
    /// When it should run next.
    due: u64,
    pub paused_until: u64,
}

impl Thread {
    /// One that runs first at this instant.
    pub const fn from(at: u64) -> Self {
        Self { at, due: at, paused_until: 0 }
    }

    pub const fn asleep() -> Self {
        Self { at: NEVER, due: NEVER, paused_until: 0 }
    }

    /// Schedules a run at `due`, delayed by `later`.
    pub fn wake(&mut self, due: u64, later: u64) {
        self.due = self.due.min(due);
        self.at = self.at.min(due + later);
    }

    pub fn sleep_until(&mut self, due: u64, later: u64) {
        self.due = due;
        self.at = due.saturating_add(later);
    }

    fn pause(&mut self, until: u64) {
        self.paused_until = self.paused_until.max(until);
    }
}

/// A socket, and the thread that reads it at present.
pub struct ShardThread {
    pub thread: Thread,
    pub clock: ManualClock,
    pub script: Script,
    /// `None`: it has ended.
    pub shard: Option<AnyShard>,
    pub port: Arc<Port>,
    /// Pauses in the middle of its next turns.
    pub pauses: Vec<(Point, u64)>,
    /// Set while it is in the middle of a turn.
    pub middle: Option<Middle>,
    /// How many sendings and steps of the wall clock are scripted already.
    fed: usize,
    fed_steps: usize,
    paused: usize,
    pub open_slot: Option<u32>,
    pub panic_after: Option<usize>,
    /// The panic ends the observer.
    pub is_killed_by_panic: bool,
}

/// Processes the watch thread watches, by slot, with the instant of their exit, which is not used before.
#[derive(Debug, Default)]
pub struct Watched {
    held: BTreeMap<Place, (Holder, u32, u64, u64)>,
    ends: BTreeSet<(u64, Place)>,
    /// Not watched: no descriptor was left.
    waiting: VecDeque<(Holder, u32, u64)>,
}

impl Watched {
    /// Those that have exited by now: holder, pid and id.
    fn ended(&mut self, now: u64) -> Vec<(Holder, u32, u64)> {
        let mut ended = Vec::new();
        while let Some((died, place)) = self.ends.first().copied().filter(|(died, _)| *died <= now) {
            self.ends.remove(&(died, place));
            if let Some((holder, pid, life, _)) = self.held.remove(&place) {
                ended.push((holder, pid, life));
            }
        }
        ended
    }

    fn is_of(&self, holder: Holder) -> bool {
        self.held.get(&holder.place).is_some_and(|(held, ..)| *held == holder)
            || self.waiting.iter().any(|(waiting, ..)| *waiting == holder)
    }

    fn forget(&mut self, place: Place) {
        if let Some((.., died)) = self.held.remove(&place) {
            self.ends.remove(&(died, place));
        }
        self.waiting.retain(|(holder, ..)| holder.place != place);
    }

    fn next_end(&self) -> Option<u64> {
        self.ends.first().map(|(died, _)| *died)
    }
}

/// A turn that has begun and is not over.
#[derive(Clone, Copy, Debug)]
pub struct Middle {
    from: u64,
    pause: Option<(Point, u64)>,
    /// When it was kicked before the turn; later kicks are for the next turn.
    kicked_at: Option<MonoNs>,
    /// Nothing follows: the observer stops.
    is_last: bool,
}

/// A running world.
pub struct World<'a> {
    pub story: &'a Story,
    pub model: Model,
    pub shards: Vec<ShardThread>,
    pub observer: Observer,
    pub stage: Stage,
    pub past: Past,
    pub aggregator_thread: Thread,
    pub lookup_thread: Thread,
    pub watch_thread: Thread,
    /// When the roster is read or written next.
    pub roster_at: u64,
    pub slow_at: u64,
    pub watched: Watched,
    pub acting: Option<Acting>,
    /// The number of the actions that are configured.
    pub actions: u8,
    lookups: u64,
    steps_of_wall: Vec<(u64, i64)>,
    wall_stepped: i64,
    happened: usize,
    pub delays: Random,
    pub now: u64,
    steps: u64,
    /// Reloads that the aggregator has not taken.
    pub reloads: VecDeque<(Terms, Receiver<u64>)>,
}

/// Runs the story to its end, or to the first violation.
pub fn run(story: &Story) -> Result<Summary, Violation> {
    let mut world = World::new(story);
    world.run()?;
    Ok(Summary {
        events: world.model.events(),
        datagrams: world.model.datagrams(),
        steps: world.steps,
        simulated_ns: world.now,
        restarts: world.past.restarts,
    })
}

impl<'a> World<'a> {
    fn new(story: &'a Story) -> Self {
        let setting = &story.setting;
        let model = Model::new(story);
        let sockets: Vec<(ManualClock, Script)> = (0..setting.sockets()).map(|_| socket(setting)).collect();
        let here = Here { boot_id: 1, pid_namespace: 2 };
        let of_sockets: Vec<(&ManualClock, &Script)> =
            sockets.iter().map(|(clock, script)| (clock, script)).collect();
        let (past, nothing) = (Past::of(here), Store::new());
        let first = (START, &past.living);
        let Made { observer, shards, .. } = Observer::make(
            setting,
            policy(&setting.terms(), setting),
            here,
            &nothing,
            &of_sockets,
            first,
            story.agents.len(),
        );
        let shards = sockets.into_iter().zip(shards).map(|(socket, shard)| ShardThread::new(socket, shard));
        let steps = story.happenings.iter().filter_map(|happening| match happening.what {
            What::StepWall { by } => Some((happening.at, by)),
            _ => None,
        });
        Self {
            steps_of_wall: steps.collect(),
            shards: shards.collect(),
            story,
            model,
            observer,
            stage: Stage::Running,
            past,
            aggregator_thread: Thread::from(0),
            lookup_thread: Thread::asleep(),
            watch_thread: Thread::asleep(),
            roster_at: 0,
            slow_at: setting.slow_every,
            watched: Watched::default(),
            acting: None,
            actions: 0,
            lookups: 0,
            wall_stepped: 0,
            happened: 0,
            delays: Random::new(story.seed),
            now: 0,
            steps: 0,
            reloads: VecDeque::new(),
        }
    }

    fn run(&mut self) -> Verdict {
        let rest = 5 * self.model.threshold_max() + 4 * SECOND;
        self.begin()?;
        loop {
            let (at, what) = self.next();
            // Every observer has time to tell what is left, the next one as well.
            let started_at = match self.stage {
                Stage::Away { until } | Stage::TakenOver { until } => until,
                Stage::Running | Stage::Stopping { .. } => self.past.started_at,
            };
            if at > started_at.max(self.story.setting.length) + rest {
                break;
            }
            // An instant in the past must not set the world's time back.
            self.now = self.now.max(at);
            self.model.now = self.now;
            self.steps += 1;
            match what {
                Step::Happening => self.happen()?,
                Step::Start => self.succeed()?,
                Step::Shard(index) => self.turn_shard(index)?,
                Step::Aggregator => self.turn_aggregator()?,
                Step::Lookup => self.look_up(),
                Step::Watch => self.watch(),
                Step::Roster => self.write_roster()?,
                Step::Slow => self.take_slow()?,
                Step::Check => self.check_agents()?,
            }
            self.check_bounds()?;
        }
        self.check_end()
    }

    /// The next step and when. At the same instant, happenings come before threads.
    fn next(&self) -> (u64, Step) {
        let happening = self.story.happenings.get(self.happened).map_or(NEVER, |happening| happening.at);
        let mut next = (happening, Step::Happening);
        if let Stage::Away { until } | Stage::TakenOver { until } = self.stage
            && until < happening
        {
            next = (until, Step::Start);
        }
        let mut at = |at: u64, step: Step| {
            if at < next.0 {
                next = (at, step);
            }
        };
        for (index, shard) in self.shards.iter().enumerate() {
            at(shard.thread.at, Step::Shard(index));
        }
        at(self.lookup_thread.at, Step::Lookup);
        at(self.watch_thread.at, Step::Watch);
        at(self.aggregator_thread.at, Step::Aggregator);
        at(self.roster_at, Step::Roster);
        at(self.slow_at, Step::Slow);
        at(self.model.next_check(), Step::Check);
        next
    }

    pub fn delay(&mut self) -> u64 {
        self.delays.below(self.story.setting.latency + 1)
    }

    pub fn shard(&mut self, shard: u16) -> &mut ShardThread {
        &mut self.shards[usize::from(shard % self.story.setting.sockets())]
    }

    fn happen(&mut self) -> Verdict {
        let what = self.story.happenings[self.happened].what;
        self.happened += 1;
        let now = self.now;
        match what {
            What::StepWall { by } => self.wall_stepped = self.wall_stepped.saturating_add(by),
            What::Leap { by } => {
                self.pause(Who::Everybody, TurnPart::Wait, by);
                self.model.leap_to(now + by);
                self.slow_at = self.slow_at.saturating_add(by);
            }
            What::Restart(restart) => return self.restart(restart),
            What::Reload { table } => self.reload(usize::from(table)),
            // Nobody is there.
            _ if matches!(self.stage, Stage::Away { .. }) => {}
            What::Pause { who, place, for_ns } => self.pause(who, place, for_ns),
            What::PauseInSlot { shard: index, slot, for_ns } => {
                let shard = self.shard(index);
                let is_running = shard.shard.is_some() && shard.middle.is_none();
                if is_running && shard.open_slot.is_none() && slot < shard.port.table.capacity() {
                    shard.port.table.open(slot);
                    shard.open_slot = Some(slot);
                    shard.thread.pause(now + for_ns);
                    // It was awake, and continues after the pause.
                    shard.thread.at = shard.thread.at.min(now);
                    let index = usize::from(index % self.story.setting.sockets());
                    self.model.stands_still(index, now + for_ns);
                }
            }
            What::ReloadActions { number } => self.actions = number,
            What::Wake { shard } => {
                let shard = self.shard(shard);
                if shard.middle.is_none() && shard.shard.is_some() {
                    shard.thread.at = shard.thread.at.min(now);
                }
            }
            What::Panic { shard, after } => {
                self.shard(shard).panic_after = Some(after as usize);
            }
            What::Fail { shard } => self.shard(shard).script.fail(libc::ENOMEM),
            _ => {}
        }
        Ok(())
    }

    /// Requests other thresholds of the aggregator.
    fn reload(&mut self, table: usize) {
        let Some(terms) = self.story.setting.tables.get(table) else { return };
        let (progress, steps) = crossbeam::channel::unbounded();
        let max_delay_ns = self.story.setting.max_delay;
        let settings = || Settings {
            edition: 0,
            table: None,
            allow_uids: Some([UID].into()),
            uid_frames_max: None,
            max_delay_ns,
        };
        let reload = Reload {
            policy: Some(policy(terms, &self.story.setting)),
            shards: self.shards.iter().map(|_| settings()).collect(),
            output: None,
            event: EventKind::Reload {
                outcome: ReloadOutcome::Applied,
                changed: KeySet::NONE,
                restart: KeySet::NONE,
            },
            is_decided: Arc::default(),
            progress,
        };
        self.reloads.push_back((terms.clone(), steps));
        if matches!(self.stage, Stage::Away { .. }) {
            // The next observer reads it when it starts.
            return;
        }
        self.observer.requests.send(Request::Reload(Box::new(reload))).unwrap();
        self.observer.doorbell.ring();
        self.ring_aggregator();
    }

    pub fn pause(&mut self, who: Who, place: TurnPart, for_ns: u64) {
        let until = self.now + for_ns;
        if let Stage::Away { until: start } | Stage::TakenOver { until: start } = &mut self.stage {
            *start = until.max(*start);
        }
        if matches!(self.stage, Stage::Away { .. }) {
            return;
        }
        let shards = self.shards.len();
        let is_all = who == Who::Everybody;
        if is_all || who == Who::Aggregator {
            self.aggregator_thread.pause(until);
            self.model.aggregator_stands_still(until);
        }
        if is_all || who == Who::Lookup {
            // Lookup and watch thread: both wait for the kernel.
            self.lookup_thread.pause(until);
            self.watch_thread.pause(until);
            self.model.lookup_stands_still(until);
        }
        for (index, shard) in self.shards.iter_mut().enumerate() {
            let is_this = matches!(who, Who::Shard(shard) if usize::from(shard) % shards == index);
            if shard.shard.is_none() {
                continue;
            }
            match place.point() {
                _ if !is_all && !is_this => {}
                None => {
                    shard.thread.pause(until);
                    self.model.stands_still(index, until);
                }
                Some(point) => shard.pauses.push((point, for_ns)),
            }
        }
    }

    // --- a shard's turn -----------------------------------------------------------------------------

    pub fn turn_shard(&mut self, index: usize) -> Verdict {
        let (now, later) = (self.now, self.delay());
        let turn_ns = self.story.setting.turn_ns;
        let shard = &mut self.shards[index];
        // Its last turn may end later than now.
        let free_at = shard.thread.paused_until.max(shard.clock.mono().since(START));
        if free_at > now && shard.middle.is_none() {
            shard.thread.at = free_at;
            return Ok(());
        }
        if shard.middle.is_none() {
            let pause = shard.pauses.pop();
            let paused_until = now + pause.map_or(0, |(_, for_ns)| for_ns);
            let takes = shard.reading_takes(&self.model, index, paused_until, self.story.setting.frame_ns);
            if takes > 0 || pause.is_some() {
                let until = paused_until + takes;
                // A shard answers no one while it reads.
                if pause.is_some() || takes > 4 * MS {
                    self.model.stands_still(index, until);
                }
                let is_last = matches!(self.stage, Stage::Stopping { .. });
                shard.middle = Some(Middle { from: now, pause, kicked_at: shard.port.take_kick(), is_last });
                shard.thread.at = until;
                return Ok(());
            }
        }
        if let Some(slot) = shard.open_slot.take() {
            shard.port.table.close(slot);
        }
        shard.feed(&self.model, index, &self.steps_of_wall, now + LOOKAHEAD);
        let mut from = now;
        let mut kicked_at = None;
        let was_in_middle = shard.middle.as_ref().is_some_and(|middle| !middle.is_last);
        if let Some(middle) = shard.middle.take() {
            from = middle.from;
            kicked_at = shard.port.take_kick();
            if let Some((point, for_ns)) = middle.pause {
                shard.script.pause(START + from, for_ns, point);
            }
            if let Some(at) = middle.kicked_at {
                shard.port.kick(at);
            }
        }
        if from > shard.thread.due.saturating_add(STILL_MIN) {
            self.model.was_paused(index, shard.thread.due, from);
        }
        shard.clock.set(START + from);
        shard.script.wake();
        if let Some(after) = shard.panic_after.take() {
            shard.script.panic_after(after);
        }
        let frames = shard.port.counters.frames.get();
        let is_panicking = shard.script.has_panic();
        let mut allocated = 0;
        let is_last = matches!(self.stage, Stage::Stopping { .. }) && !was_in_middle;
        let turned = catch_unwind(AssertUnwindSafe(|| {
            let mut turned = Ok(());
            match &mut shard.shard {
                Some(running) if !is_last => allocated = during(|| turned = running.turn()),
                running => running.take().into_iter().for_each(AnyShard::finish),
            }
            turned
        }));
        for (start, end) in shard.script.paused().iter().skip(shard.paused) {
            self.model.was_paused(index, start.since(START), end.since(START));
            shard.paused += 1;
        }
        if let Some(at) = kicked_at {
            shard.port.kick(at);
        }
        shard.script.forget_pauses();
        shard.clock.advance(turn_ns);
        let local = shard.clock.mono().since(START);
        let sent = shard.script.take_sent();
        self.model.delivered(index, sent.iter().map(|sent| sent.is_queued), local);
        let counted = shard.port.counters.frames.get() - frames;
        self.model.received(index, &shard.script.take_calls(), usize::try_from(counted).unwrap())?;
        let full = shard.script.take_full();
        let full = full.into_iter().map(|(since, until)| (since.since(START), until.since(START)));
        self.model.was_full(index, full, shard.script.full_since().map(|since| since.since(START)));
        self.model.seemed_full(index, shard.script.seems_full_at().map(|at| at.since(START)));
        let is_panicked = turned.is_err();
        match turned {
            Ok(Ok(())) => {
                let is_quiet = allocated == 0 || is_panicking;
                self.must(is_quiet, Invariant::I7, || format!("a turn of shard {index} allocates"))?;
            }
            Ok(Err(error)) => {
                return self.must(false, Invariant::I1, || format!("shard {index} ended: {error}"));
            }
            Err(panic) => {
                let is_scripted = panic.downcast_ref::<&str>() == Some(&"scripted");
                self.must(is_scripted, Invariant::I1, || format!("shard {index} panicked"))?;
                let shard = &mut self.shards[index];
                if shard.is_killed_by_panic {
                    let counters = &shard.port.counters;
                    self.model.check_counters(index, counters, local.max(now), true)?;
                    return self.killed();
                }
                shard.port.counters.panics.add(1);
                if let Some(running) = &mut shard.shard {
                    running.recover();
                }
                self.model.began_anew(index, local);
            }
        }
        let local = local.max(now);
        let shard = &mut self.shards[index];
        let due = shard.due(&self.model, index, local);
        shard.thread.sleep_until(due, later);
        let is_empty = shard.script.depth() == 0;
        self.ring_aggregator();
        let counters = &self.shards[index].port.counters;
        self.model.check_counters(index, counters, local, is_panicked)?;
        if !is_panicked {
            self.model.turned(index, (from, local.saturating_sub(turn_ns)), is_empty);
        }
        self.check_stalls()?;
        self.stop_aggregator();
        Ok(())
    }

    pub fn ring_aggregator(&mut self) {
        if self.observer.doorbell.take_ring() {
            let later = self.delay();
            self.aggregator_thread.wake(self.now, later);
        }
    }

    // --- the aggregator's turn ------------------------------------------------------------------------

    pub fn turn_aggregator(&mut self) -> Verdict {
        let now = self.now;
        let thread = &mut self.aggregator_thread;
        if thread.paused_until > now {
            thread.at = thread.paused_until;
            return Ok(());
        }
        if !self.past.is_begun {
            return self.begin();
        }
        self.observer.doorbell.take_ring();
        let wall = self.wall();
        let Some(next) = self.until_cut(|aggregator| aggregator.turn(START + now, wall)) else {
            return self.killed();
        };
        self.observer.aggregator.kick_shards(START + now);
        while let Some((terms, _)) = self.reloads.pop_front_if(|(_, steps)| !steps.is_empty()) {
            self.model.reloaded(terms);
        }
        let began = START + self.past.adopted_at;
        let have_turned = self.shards.iter().all(|shard| shard.port.counters.turned_at.get() > began.0);
        self.past.aggregator_turned(now, next, have_turned);
        self.model.aggregator_turned();
        let thread = &mut self.aggregator_thread;
        match next {
            Next::Now => thread.sleep_until(now + AGGREGATOR_NS, 0),
            Next::At(at) => thread.sleep_until(at.since(START).max(now + AGGREGATOR_NS), 0),
            Next::Stopped => return self.stopped(),
        }
        self.ring_aggregator();
        for index in 0..self.shards.len() {
            let later = self.delay();
            let shard = &mut self.shards[index];
            if shard.shard.is_some() && shard.middle.is_none() && shard.port.is_kicked() {
                shard.thread.wake(now, later);
            }
        }
        let asked = self.observer.questions.iter().map(Receiver::len).sum::<usize>();
        if asked > 0 {
            // Many questions take long.
            let takes = self.story.setting.lookup_ns * asked as u64;
            if takes > 4 * MS {
                self.model.lookup_stands_still(now + takes);
            }
            self.lookup_thread.wake(now, self.story.setting.lookup_ns);
        }
        if self.observer.orders.iter().any(|orders| !orders.is_empty()) {
            let later = self.delay();
            self.watch_thread.wake(now, later);
        }
        self.hand_over()?;
        self.act()?;
        self.check_stalls()
    }

    /// Hands what was reported to the model, as the event output gets it.
    pub fn hand_over(&mut self) -> Verdict {
        while let Ok(event) = self.observer.log.try_recv() {
            self.model.on_event(&event)?;
            self.read_back(&event)?;
            self.acting.iter_mut().for_each(|acting| acting.hear(&event));
            self.past.handed_over(&event, self.now, self.story.setting.acknowledged_after);
        }
        if let Some(beats) = &self.observer.beats {
            for event in beats.try_iter() {
                if event.kind == EventKind::Beat {
                    self.model.on_beat();
                }
            }
        }
        Ok(())
    }

    /// The wall clock.
    pub fn wall(&self) -> WallNs {
        let ahead = WALL_AHEAD.saturating_add(self.wall_stepped);
        WallNs((START + self.now).0.saturating_add_signed(ahead))
    }

    /// The pids of all processes.
    pub fn living(&self) -> HashSet<u32> {
        let lives = self.model.truth.lives.iter();
        lives.filter(|life| life.born <= self.now && self.now < life.died).map(|life| life.pid).collect()
    }

    fn read_back(&self, event: &Event) -> Verdict {
        lines::read_back(event).map_err(|what| Violation { invariant: Invariant::I11, at: self.now, what })
    }

    fn take_slow(&mut self) -> Verdict {
        for event in self.observer.slow.try_iter() {
            self.model.on_slow(&event)?;
            lines::read_back(&event).map_err(|what| Violation {
                invariant: Invariant::I11,
                at: self.now,
                what,
            })?;
        }
        self.slow_at = self.now + self.story.setting.slow_every;
        Ok(())
    }

    // --- the lookup thread -------------------------------------------------------------------------------

    fn look_up(&mut self) {
        let now = self.now;
        let thread = &mut self.lookup_thread;
        if thread.paused_until > now {
            thread.at = thread.paused_until;
            return;
        }
        if let Some(question) = self.observer.questions.iter().find_map(|questions| questions.try_recv().ok())
        {
            let finding = self.identify(question);
            self.observer.findings.send(finding).unwrap();
            self.observer.doorbell.ring();
        }
        let is_more = self.observer.questions.iter().any(|questions| !questions.is_empty());
        let due = if is_more { now + self.story.setting.lookup_ns.max(1) } else { NEVER };
        self.lookup_thread.sleep_until(due, 0);
        self.ring_aggregator();
    }

    /// Answers with the truth at this instant.
    fn identify(&mut self, Question { holder, pid, of, .. }: Question) -> Finding {
        self.lookups += 1;
        let now = self.now;
        let fails = self.story.setting.lookup_fails;
        let is_failing = fails > 0 && self.lookups.is_multiple_of(fails);
        let program = |life: &Life| Program {
            comm: Some(comm(life.class_at(now))),
            exe: Some(format!("/program-{}", life.program_at(now))),
            // Some agents are in none, and a unit changes with the program.
            unit: (!life.id.is_multiple_of(4)).then(|| format!("unit-{}.service", life.program_at(now) % 3)),
            watchdog_ns: life.started_with,
            ..Program::default()
        };
        if matches!(of, Inquiry::Program | Inquiry::Class) {
            let life = self.model.truth.holder(pid, now).filter(|_| !is_failing);
            let is_frozen = life.is_some_and(|life| life.is_frozen_at(now));
            let found = life.map(program).unwrap_or_default();
            self.observer.names.put(holder, &found, None, 0);
            return Finding::Program { holder, found, is_frozen };
        }
        if let Inquiry::Lives(start) = of {
            let life = self.model.truth.holder(pid, now).filter(|life| started(life.born).0 == start);
            let life = match life {
                _ if is_failing => Lives::Unknown,
                Some(life) => Lives::Lives(comm(life.class_at(now))),
                None => Lives::Gone,
            };
            self.model.looked_if_lives(pid, &life);
            return Finding::Lives { pid, life };
        }
        if let Inquiry::Freezer(of) = of {
            let life = self.model.truth.holder(pid, now).filter(|_| !is_failing);
            let is_it = |life: &&Life| of.is_none_or(|of| of == Incarnation::new(u64::from(life.id)));
            let is_frozen = life.filter(is_it).is_some_and(|life| life.is_frozen_at(now));
            return Finding::Freezer { holder, is_frozen };
        }
        if is_failing {
            return Finding::Who { holder, found: Err(LookupError::Failed) };
        }
        let found = self.model.truth.holder(pid, now).map(|life| LookedUp {
            incarnation: Incarnation::new(u64::from(life.id)),
            started: started(life.born),
            inner_pids: life.inner.into_iter().collect(),
            uid: 0,
            program: program(life),
        });
        if let Some(found) = &found {
            self.observer.names.put(holder, &found.program, Some(found.uid), 0);
        }
        Finding::Who { holder, found: found.ok_or(LookupError::Gone(START + now, None)) }
    }

    // --- the roster ----------------------------------------------------------------------------------------

    /// Takes the roster of the observer before, the first time, and writes it.
    pub fn write_roster(&mut self) -> Verdict {
        if let Some(roster) = self.past.next_roster.take() {
            let of_roster = roster.iter().map(|expected| (expected.pid, expected.start, expected.absence));
            self.model.expects(of_roster.collect())?;
            self.observer.agents.expect(roster);
            self.ring_aggregator();
        }
        let (truth, now) = (&self.model.truth, self.now);
        let who = |pid: u32, uid: u32| {
            let life = truth.holder(pid, now)?;
            let (start, comm) = (started(life.born).0, (&*comm(life.class_at(now))).into());
            Some(Expected { pid, uid, start, comm, absence: None })
        };
        self.past.roster = self.observer.agents.list(who);
        // A slot that is being written is listed the next time.
        if self.shards.iter().all(|shard| shard.open_slot.is_none()) {
            let listed = self.past.roster.iter().map(|expected| (expected.pid, expected.start));
            self.model.roster_is_written(&listed.collect())?;
        }
        self.roster_at = now + self.story.setting.roster_every;
        Ok(())
    }

    // --- the watch thread --------------------------------------------------------------------------------

    fn watch(&mut self) {
        let now = self.now;
        if self.watch_thread.paused_until > now {
            self.watch_thread.at = self.watch_thread.paused_until;
            return;
        }
        // Exits come before findings: the process asked about may be among them.
        for (holder, pid, life) in self.watched.ended(now) {
            let at = self.gone_at(pid, Some(Incarnation::new(life))).unwrap_or(START + now);
            let how = Some(ExitHow::Signal(9)).filter(|_| life % 5 > 0);
            self.observer.findings.send(Finding::Gone { holder, at, how }).unwrap();
            self.observer.doorbell.ring();
        }
        while let Some(order) = self.observer.orders.iter().find_map(|orders| orders.try_recv().ok()) {
            let finding = match order {
                Order::Watch { holder, pid, incarnation } => self.hold(holder, pid, incarnation),
                Order::Unwatch { holder } => {
                    // The slot's next process may be watched already.
                    if self.watched.is_of(holder) {
                        self.watched.forget(holder.place);
                    }
                    None
                }
                Order::Exists { holder, pid, incarnation, .. } => {
                    Some(match self.gone_at(pid, incarnation) {
                        None => Finding::There { holder },
                        Some(at) => Finding::Gone { holder, at, how: None },
                    })
                }
            };
            if let Some(finding) = finding {
                self.observer.findings.send(finding).unwrap();
                self.observer.doorbell.ring();
            }
        }
        while self.watched.held.len() < self.story.setting.pidfds
            && let Some((holder, pid, life)) = self.watched.waiting.pop_front()
        {
            let finding = self.hold(holder, pid, Some(Incarnation::new(life)));
            self.observer
                .findings
                .send(finding.unwrap_or(Finding::Watching { holder, is_watched: true }))
                .unwrap();
            self.observer.doorbell.ring();
        }
        let later = self.delay();
        self.watch_thread.sleep_until(self.watched.next_end().unwrap_or(NEVER).max(now), later);
        self.ring_aggregator();
    }

    /// Watches a process. Returns the immediate finding, if any.
    fn hold(&mut self, holder: Holder, pid: u32, incarnation: Option<Incarnation>) -> Option<Finding> {
        if let Some(at) = self.gone_at(pid, incarnation) {
            return Some(Finding::Gone { holder, at, how: None });
        }
        let life = self.model.truth.holder(pid, self.now)?;
        let (id, died) = (u64::from(life.id), life.died);
        self.watched.forget(holder.place);
        if self.watched.held.len() >= self.story.setting.pidfds {
            self.watched.waiting.push_back((holder, pid, id));
            return Some(Finding::Watching { holder, is_watched: false });
        }
        self.watched.held.insert(holder.place, (holder, pid, id, died));
        self.watched.ends.insert((died, holder.place));
        None
    }

    /// Since when a process no longer exists, judged by the process that now has its pid.
    pub fn gone_at(&self, pid: u32, incarnation: Option<Incarnation>) -> Option<MonoNs> {
        match self.model.truth.holder(pid, self.now) {
            None => Some(START + self.now),
            Some(heir) => {
                let present = Incarnation::new(u64::from(heir.id));
                incarnation.is_some_and(|known| known != present).then(|| started(heir.born))
            }
        }
    }

    // --- what is checked whatever happens -----------------------------------------------------------

    pub fn must(&self, holds: bool, invariant: Invariant, what: impl FnOnce() -> String) -> Verdict {
        if holds { Ok(()) } else { Err(Violation { invariant, at: self.now, what: what() }) }
    }

    /// Delivers to shards that sleep what has arrived meanwhile.
    pub fn deliver(&mut self) {
        let now = self.now;
        for (index, shard) in self.shards.iter_mut().enumerate() {
            if shard.middle.is_some() {
                continue;
            }
            shard.feed(&self.model, index, &self.steps_of_wall, now);
            shard.clock.set(START + now);
            let sent = shard.script.take_sent();
            self.model.delivered(index, sent.iter().map(|sent| sent.is_queued), now);
        }
    }

    fn check_stalls(&mut self) -> Verdict {
        if !self.model.has_open_stalls() {
            return Ok(());
        }
        self.deliver();
        self.model.check_stalls()
    }

    fn check_agents(&mut self) -> Verdict {
        self.deliver();
        self.model.check_agents()
    }

    fn check_bounds(&self) -> Verdict {
        let slots = self.story.setting.agents_max as usize * self.shards.len();
        let agents_max = self.story.setting.agents_max;
        let tracked = self.observer.admission.tracked();
        let backlog = self.observer.aggregator.backlog();
        // A place that is not given back stays, so a later check finds it; counting all places is slow.
        let places = if self.steps.is_multiple_of(256) { self.observer.aggregator.places() } else { 0 };
        let questions = self.observer.questions.iter().map(Receiver::len).sum::<usize>()
            + self.observer.orders.iter().map(Receiver::len).sum::<usize>();
        let is_within = tracked <= agents_max
            && places <= slots
            // For each slot: one that waits, and one released and assigned again.
            && backlog.pending <= 4 * slots + 64
            && backlog.polled <= 2 * slots + 64
            && backlog.to_look <= 2 * slots + 64
            && questions <= 5 * slots + 64;
        self.must(is_within, Invariant::I7, || {
            format!("{tracked} agents of {agents_max} tracked, {places} places, {backlog:?}, {questions} questions")
        })?;
        let tally = self.observer.aggregator.tally();
        let of_shards = tally.shards.iter().fold([0; 4], |[up, stalled, stalls, deaths], shard| {
            let reported = shard.stalls_certain + shard.stalls_uncertain;
            [up + shard.up, stalled + shard.stalled, stalls + reported, deaths + known_deaths(shard)]
        });
        let of_units = tally.units.sums();
        self.must(of_shards == of_units, Invariant::I8, || {
            format!("by shard {of_shards:?} up, stalled, stalls and deaths, by unit {of_units:?}")
        })
    }

    fn check_end(&mut self) -> Verdict {
        self.take_slow()?;
        // A slow subscriber gets `lost` once it has room.
        self.aggregator_thread.paused_until = 0;
        self.turn_aggregator()?;
        self.take_slow()?;
        self.check_stalls()?;
        let tally = self.observer.aggregator.tally();
        let stalls: u64 =
            tally.shards.iter().map(|shard| shard.stalls_certain + shard.stalls_uncertain).sum();
        let resumes: u64 = tally.shards.iter().map(|shard| shard.resumes).sum();
        let stalls = stalls + self.past.stalled_at_start;
        self.must(resumes <= stalls, Invariant::I5, || format!("{resumes} resumes of {stalls} stalls"))?;
        let counted: u64 = tally.shards.iter().map(|shard| shard.up + shard.stalled + shard.off_hash).sum();
        let backlog = self.observer.aggregator.backlog();
        let lists = self.observer.aggregator.places()
            + backlog.pending
            + backlog.held
            + backlog.again
            + backlog.to_look;
        let ports = || self.shards.iter().map(|shard| &shard.port);
        let busy =
            ports().flat_map(|port| (0..port.table.capacity().min(1 << 16)).map(move |slot| (port, slot)));
        let slots =
            busy.filter(|(port, slot)| port.table.read_hot(*slot).is_ok_and(|hot| hot.state != State::Free));
        let slots = slots.count();
        let tracked = self.observer.admission.tracked();
        let end = End {
            left: counted + lists as u64 + u64::from(tracked) + slots as u64,
            what_is_left: format!("{counted} counted, {tracked} tracked, {slots} slots, {backlog:?}"),
            events_dropped: tally.events_dropped.iter().sum(),
            reports: (tally.shards.iter().zip(ports()))
                .map(|(shard, port)| {
                    shard.histograms.batch_frames.len() + port.counters.reports_dropped.get()
                })
                .collect(),
            samples_dropped: ports().map(|port| port.counters.samples_dropped.get()).collect(),
            // Beats in messages are not among the events.
            beats: ports().filter(|port| port.daemons.is_none()).map(|port| port.counters.beats.get()).sum(),
            beats_untold: tally.beats_untold
                + ports().map(|port| port.counters.beats_untold.get()).sum::<u64>(),
        };
        self.model.check_end(&end)
    }
}

/// A socket that nobody has read yet, and its reader's clock.
fn socket(setting: &Setting) -> (ManualClock, Script) {
    let clock = ManualClock::new(START, WALL_AHEAD);
    let script = Script::new(&clock, setting.queue_limit);
    script.set_frame_ns(setting.frame_ns);
    (clock, script)
}

impl ShardThread {
    fn new((clock, script): (ManualClock, Script), (shard, port): OneShard) -> Self {
        Self {
            thread: Thread::from(0),
            clock,
            script,
            shard: Some(shard),
            port,
            pauses: Vec::new(),
            middle: None,
            fed: 0,
            fed_steps: 0,
            paused: 0,
            open_slot: None,
            panic_after: None,
            is_killed_by_panic: false,
        }
    }

    /// Its clock, which may be ahead of the world's after a turn.
    pub fn local(&self) -> u64 {
        self.clock.mono().since(START)
    }

    /// Scripts what arrives until an instant.
    fn feed(&mut self, model: &Model, index: usize, steps: &[(u64, i64)], until: u64) {
        while let Some(sending) = model.sending(index, self.fed).filter(|sending| sending.at <= until) {
            self.script.at(START + sending.at, Act::Send(sending.recorded()));
            self.fed += 1;
        }
        while let Some((at, by)) = steps.get(self.fed_steps).filter(|(at, _)| *at <= until) {
            self.script.at(START + *at, Act::StepWall(*by));
            self.fed_steps += 1;
        }
    }

    /// Time to read what is queued, what arrives until `from`, and what arrives while reading, ns.
    fn reading_takes(&self, model: &Model, index: usize, from: u64, frame_ns: u64) -> u64 {
        if frame_ns == 0 {
            return 0;
        }
        let depth = self.script.depth() as u64;
        let mut frames = depth + model.sendings_until(index, from, TURN_MAX);
        while frames < TURN_MAX {
            let until = from + frames * frame_ns;
            let come = model.sendings_until(index, until, TURN_MAX);
            if depth + come <= frames {
                break;
            }
            frames = depth + come;
        }
        frames.min(TURN_MAX) * frame_ns
    }

    /// When the wait of its next turn ends without a kick.
    fn due(&self, model: &Model, index: usize, now: u64) -> u64 {
        let Some(shard) = &self.shard else { return NEVER };
        let Some((until, for_datagrams)) = shard.next_wait() else { return now };
        if self.port.is_kicked() {
            return now;
        }
        let until = until.since(START).max(now);
        if !for_datagrams {
            return until;
        }
        if self.script.depth() > 0 {
            return now;
        }
        model.next_sending(index).map_or(until, |at| until.min(at.max(now)))
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Happening,
    /// A successor starts.
    Start,
    Shard(usize),
    Aggregator,
    Lookup,
    Watch,
    Roster,
    Slow,
    Check,
}

impl TurnPart {
    const fn point(self) -> Option<Point> {
        match self {
            Self::Wait => None,
            Self::BeforeReceive => Some(Point::BeforeReceive),
            Self::InReceive => Some(Point::InReceive),
            Self::AfterReceive => Some(Point::AfterReceive),
        }
    }
}

/// The rules that put these thresholds in force.
pub fn policy(terms: &Terms, setting: &Setting) -> Policy {
    let progress = setting.progress.map(|threshold_ns| Progress {
        of: ProgressOf::Payload,
        threshold_ns,
        idle_payload: None,
        idle_status: Some(AT_REST),
    });
    let phases = setting.phased.map_or_else(Phases::default, |Phased { start, start_beats, busy }| Phases {
        start: Some(Start { threshold_ns: start, beats: start_beats }),
        payload: vec![PayloadPhase { from: BUSY, to: u64::MAX, threshold_ns: busy }],
    });
    let rules = terms.rules.iter().map(|(class, threshold_ns)| Rule {
        phases: phases.clone(),
        progress,
        ..Rule::new(RuleMatch::comm(&comm(*class)), *threshold_ns)
    });
    let rules: Vec<Rule> = rules.collect();
    Policy { classes: Classes::of_rules(terms.threshold, &rules), rules }
}

/// Those of which the kernel said how.
fn known_deaths(shard: &ShardTally) -> u64 {
    shard.deaths.iter().sum::<u64>() - shard.deaths[Death::Unknown.kind()]
}
