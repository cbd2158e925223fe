//! The end of one observer of a world and the start of the next, which goes on with what is left: memory, sockets
//! and their queues.
//!
//! A shard that is in the middle of a turn when the observer is killed has not received yet.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::aggregator::{Aggregator, Next, Request};
use crate::event::{Event, RestartWhy};
use crate::lab::fault::Cut;
use crate::lab::simulator::invariants::{Invariant, Verdict};
use crate::lab::simulator::model::{BEGINS_WITHIN, START};
use crate::lab::simulator::observer::{Here, Living, Made, Observer};
use crate::lab::simulator::story::{Elsewhere, Ending, MS, Restart, SECOND};
use crate::lab::simulator::story::{TurnPart, Who};
use crate::lab::simulator::world::{NEVER, ShardThread, Thread, Watched, World, policy};
use crate::process::expected::Expected;

/// Who fails later than this after it adopted did not fail because of that.
const SUSPECT: u64 = 60 * SECOND;
/// How long an observer is parked at most.
const PARKED_MAX: u64 = 200 * MS;
/// Observers that fail in a row, after which nothing is adopted.
const FAILURES_MAX: u64 = 2;

/// Whether an observer runs.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    Running,
    /// It stops in order. `are_shards_over`: the aggregator was asked to stop, too.
    Stopping {
        are_shards_over: bool,
    },
    /// A successor has taken over and starts at this instant. One that goes on nevertheless runs until then.
    TakenOver {
        until: u64,
    },
    /// None runs until this instant.
    Away {
        until: u64,
    },
}

/// What is known of the observers so far.
#[derive(Debug)]
pub struct Past {
    here: Here,
    /// Start of the last one.
    pub started_at: u64,
    /// Its aggregator has adopted what it found.
    pub is_begun: bool,
    pub living: Living,
    /// The roster as it was written last, and what the present observer has not read of it.
    pub roster: Vec<Expected>,
    pub next_roster: Option<Vec<Expected>>,
    /// How many followed the first one.
    pub restarts: u64,
    /// Agents it adopted that were reported as stalled.
    pub stalled_at_start: u64,
    /// How the present one ends, if it does.
    end: Option<Restart>,
    /// What happened while none ran.
    waiting: VecDeque<Restart>,
    /// Events that the output has and did not acknowledge: when it will, and their numbers.
    unacknowledged: VecDeque<(u64, u64)>,
    acknowledged: u64,
    /// How many failed in a row before the one that is to adopt what they left.
    adopts_after: Option<u64>,
    /// The present one adopted, and has not looked at everything.
    is_unproved: bool,
    failures: u64,
    /// The last one did not end by itself.
    is_taken: bool,
    pub adopted_at: u64,
    alive_at: u64,
}

impl Past {
    /// That of a world whose first observer runs here.
    pub fn of(here: Here) -> Self {
        Self {
            here,
            started_at: 0,
            is_begun: false,
            living: Living::default(),
            roster: Vec::new(),
            next_roster: None,
            restarts: 0,
            stalled_at_start: 0,
            end: None,
            waiting: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
            adopts_after: None,
            is_unproved: false,
            failures: 0,
            is_taken: false,
            adopted_at: 0,
            alive_at: 0,
        }
    }

    /// The output got an event, and acknowledges it `after` some time, if ever.
    pub fn handed_over(&mut self, event: &Event, now: u64, after: Option<u64>) {
        if let Some(after) = after
            && event.seq > 0
        {
            self.unacknowledged.push_back((now + after, event.seq));
        }
        self.acknowledge(now);
    }

    fn acknowledge(&mut self, now: u64) {
        while let Some((_, seq)) = self.unacknowledged.pop_front_if(|(at, _)| *at <= now) {
            self.acknowledged = seq;
        }
    }

    /// The aggregator took a turn.
    pub const fn aggregator_turned(&mut self, now: u64, next: Next, have_shards_turned: bool) {
        self.alive_at = now;
        self.is_unproved &= matches!(next, Next::Now) || !have_shards_turned;
    }

    /// What the next start has to find of those before: how many failed in a row.
    const fn failures(&self) -> u64 {
        let has_failed = self.is_unproved && self.alive_at.saturating_sub(self.adopted_at) < SUSPECT;
        if has_failed { self.failures + (!self.is_taken) as u64 } else { 0 }
    }
}

impl World<'_> {
    /// The story ends the observer.
    pub fn restart(&mut self, restart: Restart) -> Verdict {
        match (self.stage, restart.ending) {
            (Stage::Away { .. } | Stage::TakenOver { .. }, _) => self.past.waiting.push_back(restart),
            (Stage::Stopping { .. }, Ending::Planned) => {}
            _ => return self.end(restart),
        }
        Ok(())
    }

    fn end(&mut self, restart: Restart) -> Verdict {
        self.past.end = Some(restart);
        match restart.ending {
            Ending::Planned => self.stop(),
            Ending::Killed => return self.killed(),
            Ending::KilledInBatch { shard, after } => {
                let shard = self.shard(shard);
                (shard.panic_after, shard.is_killed_by_panic) = (Some(after as usize), true);
            }
            Ending::KilledInSlot { shard, slot } => {
                let shard = self.shard(shard);
                let is_there = slot < shard.port.table.capacity() && shard.shard.is_some();
                if is_there && shard.open_slot != Some(slot) {
                    shard.port.table.open(slot);
                }
                return self.killed();
            }
            Ending::KilledInCommit { step, commits } => self.observer.journal.cut.arm(step, commits),
            Ending::Offered { is_taken } => return self.offered(is_taken),
        }
        Ok(())
    }

    // --- a take-over ------------------------------------------------------------------------------------

    /// All threads are parked between two turns, and the aggregator has taken what the shards found. A successor takes
    /// it, or does not. While a thread is in a turn, nothing is offered.
    fn offered(&mut self, is_taken: bool) -> Verdict {
        let now = self.now;
        let is_parked = |shard: &ShardThread| {
            let is_between = shard.middle.is_none() && shard.open_slot.is_none() && shard.shard.is_some();
            is_between && shard.thread.paused_until <= now && shard.local() <= now
        };
        let is_begun = self.past.is_begun && self.aggregator_thread.paused_until <= now;
        if !matches!(self.stage, Stage::Running) || !is_begun || !self.shards.iter().all(is_parked) {
            self.past.end = None;
            return Ok(());
        }
        self.turn_aggregator()?;
        if !matches!(self.stage, Stage::Running) {
            return Ok(());
        }
        let offer = self.observer.journal.offer();
        if !is_taken {
            let is_kept = self.observer.journal.keep(offer);
            self.must(is_kept, Invariant::I13, || "nobody took what was offered".to_owned())?;
            self.past.end = None;
            let parked_ns = self.delays.below(PARKED_MAX);
            self.pause(Who::Everybody, TurnPart::Wait, parked_ns);
            return Ok(());
        }
        self.write_roster()?;
        let is_taken = self.observer.journal.take(offer);
        self.must(is_taken, Invariant::I13, || "what is offered can be taken".to_owned())?;
        self.past.is_taken = true;
        self.stage = Stage::TakenOver { until: self.start_of_next() };
        self.model.is_taken_over();
        if self.observer.journal.keep(offer) {
            return Ok(());
        }
        if self.delays.is_one_in(2) {
            self.hand_over()?;
        }
        self.past.acknowledge(self.now);
        self.away(RestartWhy::Planned)
    }

    /// Calls the aggregator. `None`: it was killed in a commit.
    pub fn until_cut<T>(&mut self, call: impl FnOnce(&mut Aggregator) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| call(&mut self.observer.aggregator))) {
            Ok(done) => Some(done),
            Err(panic) if panic.downcast_ref::<&str>() == Some(&Cut::PANIC) => None,
            Err(panic) => resume_unwind(panic),
        }
    }

    // --- a stop in order ------------------------------------------------------------------------------

    fn stop(&mut self) {
        self.stage = Stage::Stopping { are_shards_over: false };
        self.model.begins_to_stop();
        for shard in &mut self.shards {
            (shard.panic_after, shard.is_killed_by_panic) = (None, false);
            shard.script.forget_panic();
            if shard.middle.is_none() {
                shard.thread.wake(self.now, 0);
            }
        }
    }

    /// Once the shards have ended, the aggregator is asked to report what is left.
    pub fn stop_aggregator(&mut self) {
        if matches!(self.stage, Stage::Stopping { are_shards_over: false })
            && self.shards.iter().all(|shard| shard.shard.is_none())
        {
            self.stage = Stage::Stopping { are_shards_over: true };
            self.observer.requests.send(Request::Stop).expect("the aggregator is here");
            self.observer.doorbell.ring();
            self.ring_aggregator();
        }
    }

    /// The aggregator has reported everything, and the output has written it.
    pub fn stopped(&mut self) -> Verdict {
        self.hand_over()?;
        self.past.unacknowledged.clear();
        self.past.acknowledged = self.model.last_seq();
        self.write_roster()?;
        (self.past.is_unproved, self.past.failures) = (false, 0);
        self.observer.journal.mark_clean();
        self.away(RestartWhy::Planned)
    }

    // --- a crash ----------------------------------------------------------------------------------------

    /// All its threads end. The output may have got the last events or not.
    pub fn killed(&mut self) -> Verdict {
        if self.delays.is_one_in(2) {
            self.hand_over()?;
        }
        self.past.acknowledge(self.now);
        let is_over = matches!(self.stage, Stage::TakenOver { .. });
        self.away(if is_over { RestartWhy::Planned } else { RestartWhy::Crash })
    }

    /// When the next observer starts, if the present one ends now.
    fn start_of_next(&self) -> u64 {
        match self.stage {
            Stage::TakenOver { until } => until.max(self.now),
            _ => self.now + self.past.end.map_or(0, |end| end.gap),
        }
    }

    fn away(&mut self, why: RestartWhy) -> Verdict {
        self.observer.journal.acknowledge(self.past.acknowledged);
        let mut until = self.start_of_next();
        for shard in &mut self.shards {
            (shard.thread, shard.shard, shard.middle) = (Thread::asleep(), None, None);
            (shard.open_slot, shard.panic_after, shard.is_killed_by_panic) = (None, None, false);
            shard.pauses.clear();
            shard.script.change_observer();
            until = until.max(shard.local());
        }
        self.aggregator_thread = Thread::asleep();
        self.lookup_thread = Thread::asleep();
        self.watch_thread = Thread::asleep();
        (self.slow_at, self.roster_at, self.watched) = (NEVER, NEVER, Watched::default());
        self.past.unacknowledged.clear();
        self.acting = None;
        self.stage = Stage::Away { until };
        self.model.ended(why, self.past.acknowledged)
    }

    // --- a start ------------------------------------------------------------------------------------------

    /// A successor starts, on what is left.
    pub fn succeed(&mut self) -> Verdict {
        if matches!(self.stage, Stage::TakenOver { .. }) {
            return self.away(RestartWhy::Planned);
        }
        let now = self.now;
        self.deliver();
        let elsewhere = self.past.end.take().and_then(|end| end.elsewhere);
        let here = &mut self.past.here;
        match elsewhere {
            Some(Elsewhere::Boot) => here.boot_id += 1,
            Some(Elsewhere::Namespace) => here.pid_namespace += 1,
            None => {}
        }
        // It reads its configuration anew.
        for (terms, _) in std::mem::take(&mut self.reloads) {
            self.model.reloaded(terms);
        }
        let terms = self.model.terms();
        let sockets: Vec<_> = self.shards.iter().map(|shard| (&shard.clock, &shard.script)).collect();
        let Made { observer, shards, adopted } = Observer::make(
            &self.story.setting,
            policy(&terms, &self.story.setting),
            self.past.here,
            &self.observer.store,
            &sockets,
            (START + now, &self.past.living),
            self.story.agents.len(),
        );
        let failures = self.past.failures();
        let is_adopting = elsewhere.is_none() && failures < FAILURES_MAX;
        self.must((adopted == Ok(true)) == is_adopting, Invariant::I13, || {
            format!("what was left is adopted: {adopted:?}, after {failures} failures, now {elsewhere:?}")
        })?;
        self.observer = observer;
        for (there, (shard, port)) in self.shards.iter_mut().zip(shards) {
            let later = self.delays.below(self.story.setting.latency + 1);
            (there.thread, there.shard, there.port) = (Thread::from(now + later), Some(shard), port);
        }
        // The shards may be at work before the aggregator has adopted anything.
        let later = self.delays.one_of(&[0, 0, MS, BEGINS_WITHIN]);
        self.aggregator_thread = Thread::from(now + later);
        self.slow_at = now + self.story.setting.slow_every;
        // The upkeep begins sooner or later than the aggregator.
        self.past.next_roster = Some(self.past.roster.clone());
        self.roster_at = now + BEGINS_WITHIN / 2;
        let past = &mut self.past;
        past.adopts_after = is_adopting.then_some(failures);
        past.is_taken = false;
        if !is_adopting {
            (past.is_unproved, past.failures, past.alive_at, past.acknowledged) = (false, 0, now, 0);
        }
        (past.started_at, past.restarts, past.is_begun) = (now, past.restarts + 1, false);
        self.stage = Stage::Running;
        self.model.succeeds(is_adopting);
        Ok(())
    }

    /// The aggregator starts.
    pub fn begin(&mut self) -> Verdict {
        // It may be killed in this very start.
        let is_in_commit = |restart: &mut Restart| matches!(restart.ending, Ending::KilledInCommit { .. });
        if let Some(restart) = self.past.waiting.pop_front_if(is_in_commit) {
            self.end(restart)?;
        }
        self.model.begins();
        self.begin_to_act();
        let (now, wall) = (START + self.now, self.wall());
        self.past.is_begun = true;
        if let Some(failures) = self.past.adopts_after.take() {
            (self.past.is_unproved, self.past.failures) = (true, failures);
            self.past.adopted_at = self.now;
        }
        *self.past.living.lock().expect("no thread of its own") = self.living();
        if self.until_cut(|aggregator| aggregator.start(now, wall)).is_none() {
            return self.killed();
        }
        self.hand_over()?;
        let counts = &self.observer.aggregator.tally().shards;
        let stalled = counts.iter().map(|shard| shard.stalled).sum();
        let up = counts.iter().map(|shard| shard.up).sum();
        self.past.stalled_at_start = stalled;
        // A slot that is being written is adopted later.
        if self.shards.iter().all(|shard| shard.open_slot.is_none()) {
            self.model.has_begun(up, stalled)?;
        }
        self.aggregator_thread.sleep_until(self.now, 0);
        match self.past.waiting.pop_front() {
            Some(restart) => self.end(restart),
            None => Ok(()),
        }
    }
}
