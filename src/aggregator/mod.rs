//! The aggregator thread: looks at what shards report, asks what others know, decides what to tell,
//! numbers it and hands it out.
//!
//! In: facts, reports, samples and blind windows of all shards; answers of the lookup thread. Out: events
//! to subscribers, answers to shards, counts. Thread: aggregator. Blocks: only between turns. Allocates: as
//! agents come. Time is an argument.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::num::NonZeroU64;
use std::sync::Arc;

use crossbeam::channel::Receiver;
use parking_lot::Mutex;

use crate::counters::ShardHealth;
use crate::event::{Agent, BlindPhase, Event, EventKind, IoPlace, SessionWhy};
use crate::lane::report::SAMPLES_MAX;
use crate::lane::{Doorbell, Port, SampleOf, answer};
use crate::lookup::process::Identity;
use crate::lookup::{Answer, LookupError, Lookups, Question, Ticket};
use crate::plan::{self, Rule};
use crate::refusal::Refusal;
use crate::route::shard_for;
use crate::rules;
use crate::shard::sight::BlindNews;
use crate::table::Busy;
use crate::table::slot::{Cold, Flags, Hot, State};
use crate::time::{MonoNs, WallNs};
use crate::wire::{NONCE_TERMINAL, Status};

pub mod export;
pub mod fanout;
pub mod tally;
pub mod told;

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

use fanout::{Fanout, Subscriber};
use tally::Tally;
use told::{Existence, Place, Told, ToldTable};

/// Reports wait this long, so that the aggregator is not woken for each.
const REPORT_TICK_NS: u64 = 100_000_000;
/// The same where every beat is told.
const BEATS_TICK_NS: u64 = 10_000_000;
/// How long a stall waits for other shards and for the existence check.
const CONFIRM_NS: u64 = 20_000_000;
/// While something is confirmed, how often to look again if nobody rings.
const CONFIRM_TICK_NS: u64 = 1_000_000;
/// A longer gap between two turns while something is confirmed was our pause, not the others' silence.
/// Forgiven once: turns that take so long by themselves must not put off a stall for ever.
const TURN_GAP_NS: u64 = 20_000_000;
/// How long nothing is told of an agent whose claimed pid waits to be looked up.
const HELD_NS: u64 = 1_000_000_000;
/// How often a stalled agent's process is asked about.
const WATCH_NS: u64 = 1_000_000_000;
/// Facts taken from one shard in a turn.
const FACTS_PER_TURN: u32 = 4096;
/// Reports taken from one shard in a turn.
const REPORTS_PER_TURN: u32 = 16_384;
/// Answers of the lookup thread taken in a turn.
const ANSWERS_PER_TURN: usize = 4096;
/// The kernel rounds start times down to 10 ms.
const START_SLACK_NS: u64 = 10_000_000;
/// Events of one kind told a second and shard, where they are limited.
const PER_SECOND: u32 = 10;
const SECOND_NS: u64 = 1_000_000_000;

/// A request to the aggregator.
#[derive(Debug)]
pub enum Request {
    /// One more subscriber.
    Subscribe(Subscriber),
    /// An event output failed with this error number.
    WriteFailed(i32),
    /// The shards are done: tell what is left, then `stop`.
    Stop,
}

/// When to take the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: there is more.
    Now,
    /// At this instant, or when rung.
    At(MonoNs),
    /// When rung.
    WhenRung,
    /// Never: everything is told.
    Stopped,
}

/// One shard as the aggregator sees it.
#[derive(Debug)]
struct ShardView {
    port: Arc<Port>,
    told: ToldTable,
    /// Everything that arrived until here has been processed by the shard, and its facts were looked at.
    seen: MonoNs,
    /// Answers were posted: kick it at the end of the turn.
    is_to_be_kicked: bool,
    /// `full` was told last at this instant, with this many refused.
    full_told: (Option<MonoNs>, u64),
    io_errors_told: u64,
    io_told_at: Option<MonoNs>,
    panics_told: u64,
    auth: Limit,
}

/// So many a second.
#[derive(Clone, Copy, Debug, Default)]
struct Limit {
    since: MonoNs,
    told: u32,
}

impl Limit {
    fn allows(&mut self, now: MonoNs) -> bool {
        if self.told == 0 || now.since(self.since) >= SECOND_NS {
            *self = Self { since: now, told: 0 };
        }
        self.told += 1;
        self.told <= PER_SECOND
    }
}

/// A slot whose stall or exit waits to be told.
#[derive(Clone, Copy, Debug)]
struct Pending {
    place: Place,
    generation: u32,
    give_up_at: MonoNs,
    is_forgiven: bool,
}

/// What the aggregator needs to know of the plan.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Threshold of each class, ns; class 0 is the default, class i + 1 is rule i.
    pub thresholds_ns: Vec<u64>,
    /// Which agents belong to which class.
    pub rules: Vec<Rule>,
}

/// The aggregator.
#[derive(Debug)]
pub struct Aggregator {
    shards: Vec<ShardView>,
    /// At most 64 by the plan.
    shard_count: u16,
    policy: Policy,
    lookups: Lookups,
    requests: Receiver<Request>,
    doorbell: Arc<Doorbell>,
    fanout: Fanout,
    tally: Arc<Mutex<Tally>>,
    /// Where each pid beats; further places hang on the first.
    places: HashMap<u32, Place>,
    pending: VecDeque<Pending>,
    /// Agents of whom nothing is told until somebody has looked whose pid they claim, and until when.
    held: VecDeque<(MonoNs, Place, u32)>,
    /// Stalled and waiting agents, in the order in which they are asked about next.
    watched: VecDeque<(MonoNs, Place, u32)>,
    /// Slots that read busy.
    again: Vec<Place>,
    last_session: u32,
    last_turn: MonoNs,
    is_stopping: bool,
    now: MonoNs,
    wall: WallNs,
}

impl Aggregator {
    /// An aggregator of these shards.
    pub fn new(
        ports: &[Arc<Port>],
        policy: Policy,
        lookups: Lookups,
        requests: Receiver<Request>,
        doorbell: Arc<Doorbell>,
        tally: Arc<Mutex<Tally>>,
    ) -> Self {
        tally.lock().shards.resize_with(ports.len(), Default::default);
        let shards = ports.iter().map(|port| ShardView {
            told: ToldTable::new(port.table.capacity()),
            seen: MonoNs(0),
            port: Arc::clone(port),
            is_to_be_kicked: false,
            full_told: (None, 0),
            io_errors_told: 0,
            io_told_at: None,
            panics_told: 0,
            auth: Limit::default(),
        });
        Self {
            shards: shards.collect(),
            shard_count: u16::try_from(ports.len()).unwrap_or(u16::MAX),
            policy,
            lookups,
            requests,
            doorbell,
            fanout: Fanout::default(),
            tally,
            places: HashMap::new(),
            pending: VecDeque::new(),
            watched: VecDeque::new(),
            held: VecDeque::new(),
            again: Vec::new(),
            last_session: 0,
            last_turn: MonoNs(0),
            is_stopping: false,
            now: MonoNs(0),
            wall: WallNs(0),
        }
    }

    /// Tells that the fleet began. To be called once, before the first turn.
    pub fn start(&mut self, now: MonoNs, wall: WallNs) {
        (self.now, self.wall, self.last_turn) = (now, wall, now);
        self.take_requests();
        self.tell(None, None, now, EventKind::Start { shards: self.shard_count });
    }

    /// One turn: takes everything that is there, tells what is certain, says when to come again.
    pub fn turn(&mut self, now: MonoNs, wall: WallNs) -> Next {
        (self.now, self.wall) = (now, wall);
        self.doorbell.wake();
        self.forgive_own_pause();
        self.take_requests();
        let mut is_more = false;
        for place in mem::take(&mut self.again) {
            self.look(place);
        }
        for shard in 0..self.shard_count {
            // Read before the facts: theirs are all among those taken now.
            let watermark = self.view(shard).port.counters.watermark();
            let is_left = self.take_facts(shard);
            if !is_left && self.again.iter().all(|place| place.shard != shard) {
                self.view(shard).seen = watermark;
            }
            is_more |= is_left;
            self.take_blindness(shard);
            self.take_samples(shard);
            self.take_beats(shard);
            self.take_troubles(shard);
        }
        is_more |= self.take_answers();
        self.settle_pending();
        self.tell_of_held();
        self.ask_about_watched();
        let is_ticking = self.take_reports();
        self.kick_shards();
        let is_owing = self.fanout.settle(wall, now);
        self.publish();
        self.next(is_more, is_ticking || is_owing)
    }

    fn next(&mut self, is_more: bool, is_ticking: bool) -> Next {
        if is_more || !self.again.is_empty() {
            return Next::Now;
        }
        if self.is_stopping && self.pending.is_empty() {
            self.tell(None, None, self.now, EventKind::Stop);
            self.fanout.settle(self.wall, self.now);
            self.publish();
            return Next::Stopped;
        }
        let report_tick = if self.fanout.wants_beats() { BEATS_TICK_NS } else { REPORT_TICK_NS };
        let ticks = [
            (!self.pending.is_empty()).then_some(self.now + CONFIRM_TICK_NS),
            is_ticking.then_some(self.now + report_tick),
            self.held.front().map(|(until, ..)| *until),
            self.watched.front().map(|(at, ..)| *at),
        ];
        match ticks.into_iter().flatten().min() {
            // A tick for reports is on: shards need not ring for them.
            Some(at) if is_ticking => Next::At(at),
            at => {
                self.doorbell.sleep_tickless();
                let is_work = self.shards.iter().any(|view| !view.port.reports.is_empty());
                match at {
                    _ if is_work => Next::At(self.now + report_tick),
                    Some(at) => Next::At(at),
                    None => Next::WhenRung,
                }
            }
        }
    }

    /// What we waited for could not be answered while we did not run.
    fn forgive_own_pause(&mut self) {
        let gap = self.now.since(self.last_turn);
        self.last_turn = self.now;
        if gap > TURN_GAP_NS {
            for pending in self.pending.iter_mut().filter(|pending| !pending.is_forgiven) {
                pending.give_up_at = pending.give_up_at + gap;
                pending.is_forgiven = true;
            }
        }
    }

    fn take_requests(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Subscribe(subscriber) => self.fanout.add(subscriber),
                Request::WriteFailed(errno) => {
                    self.tally.lock().event_write_errors += 1;
                    self.tell(None, None, self.now, EventKind::Io { place: IoPlace::Events, errno });
                }
                Request::Stop => self.is_stopping = true,
            }
        }
    }

    // --- facts: what a slot says against what was told of it ---------------------------------------

    fn take_facts(&mut self, shard: u16) -> bool {
        for _ in 0..FACTS_PER_TURN {
            let Some((slot, _)) = self.view(shard).port.facts.pop() else { return false };
            self.look(Place { shard, slot });
        }
        true
    }

    fn look(&mut self, place: Place) {
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
            self.tally.lock().slot_reads_busy += 1;
            self.again.push(place);
            return;
        };
        let told = *self.told(place);
        if told.generation != cold.generation {
            self.forget(place);
            if hot.state == State::Free {
                return;
            }
            self.admit(place, &hot, &cold);
        } else if hot.state == State::Free {
            return;
        } else if told.is_releasing {
            if told.is_over() {
                return;
            }
            // Released only if it stayed silent, and it did not: it stays, and whatever was found out
            // about it meanwhile is found out again.
            self.told(place).is_releasing = false;
            self.identify(place);
            self.return_if_stalled(place);
        }
        self.tell_difference(place, &hot, &cold);
    }

    /// Somebody new holds the slot.
    fn admit(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let is_off_hash = shard_for(hot.pid, u32::from(self.shard_count)) != u32::from(place.shard);
        let first = self.places.get(&hot.pid).copied();
        let is_held = hot.flags.has(Flags::UNVERIFIED);
        // An agent that is known on another shard is not up again, and it is the same session, unless the
        // lookup finds another process; nobody is the same as one whose exit was told.
        let places = self.places_of(hot.pid);
        let known = places.iter().map(|place| *self.told(*place)).find(|told| !told.is_over());
        if known.is_none() {
            self.last_session = self.last_session.wrapping_add(1);
        }
        *self.told(place) = Told {
            generation: cold.generation,
            pid: hot.pid,
            status: known.map_or(hot.status, |known| known.status),
            is_held,
            is_off_hash,
            next: first,
            session: known.map_or(self.last_session, |known| known.session),
            ns_pid: known.and_then(|known| known.ns_pid),
            is_up: known.is_some_and(|known| known.is_up),
            incarnation: known.and_then(|known| known.incarnation),
            program: known.and_then(|known| known.program),
            ..Told::default()
        };
        self.places.insert(hot.pid, place);
        self.tally.lock().shards[usize::from(place.shard)].off_hash += u64::from(is_off_hash);
        if is_held {
            self.held.push_back((self.now + HELD_NS, place, cold.generation));
        }
        self.identify(place);
        self.return_if_stalled(place);
    }

    /// Somebody beats here whose pid was told stalled on another shard: the agent is back, unless the
    /// pid went to another process meanwhile. The lookup tells which.
    fn return_if_stalled(&mut self, place: Place) {
        let pid = self.told(place).pid;
        let is_back =
            self.places_of(pid).into_iter().any(|other| other != place && self.told(other).is_stalled);
        if is_back && !self.told(place).is_returning {
            self.told(place).is_returning = true;
            let generation = self.told(place).generation;
            self.await_word(place, generation);
        }
    }

    /// An agent told stalled on another shard beats here: it is back, and its slot there goes.
    fn resume_from_elsewhere(&mut self, place: Place) -> Result<(), Busy> {
        let (hot, cold) = self.view(place.shard).port.table.read(place.slot)?;
        for other in self.places_of(hot.pid) {
            let told = *self.told(other);
            let is_gone = matches!(told.existence, Existence::Gone(_));
            if other == place || !told.is_stalled || told.is_releasing || is_gone {
                continue;
            }
            let (there, mut silence) = self.view(other.shard).port.table.read(other.slot)?;
            let at =
                if cold.first_arrival > there.last_arrival { cold.first_arrival } else { hot.last_arrival };
            if at <= there.last_arrival {
                continue;
            }
            silence.resume_at = at;
            silence.resume_silent_ns = at.since(there.last_arrival);
            silence.resume_lost = 0;
            self.resume(other, &there, &silence, 1);
            self.tell_of(place, &hot, at, EventKind::Moved { from: other.shard });
            self.release(other, there.last_arrival, answer::RELEASE | answer::IF_SILENT);
            self.open(place, &hot);
        }
        Ok(())
    }

    fn identify(&mut self, place: Place) {
        let told = self.told(place);
        if told.is_identifying {
            return;
        }
        told.is_identifying = true;
        let (pid, generation) = (told.pid, told.generation);
        let ticket = Ticket { shard: place.shard, slot: place.slot, generation };
        self.lookups.ask(Question::Identify { ticket, pid });
    }

    /// Nobody, or somebody else, holds the slot from here on.
    fn forget(&mut self, place: Place) {
        let told = mem::take(self.told(place));
        if told.pid == 0 {
            return;
        }
        if self.places.get(&told.pid) == Some(&place) {
            match told.next {
                Some(next) => self.places.insert(told.pid, next),
                None => self.places.remove(&told.pid),
            };
        } else {
            let mut at = self.places.get(&told.pid).copied();
            while let Some(earlier) = at {
                let record = self.told(earlier);
                if record.next == Some(place) {
                    record.next = told.next;
                }
                at = record.next;
            }
        }
        let mut tally = self.tally.lock();
        let shard = &mut tally.shards[usize::from(place.shard)];
        shard.off_hash -= u64::from(told.is_off_hash);
        if told.is_counted {
            let count = if told.is_stalled { &mut shard.stalled } else { &mut shard.up };
            *count -= 1;
        }
    }

    /// Tells what changed since the slot was looked at last.
    fn tell_difference(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        if hot.flags.has(Flags::UNVERIFIED) {
            self.identify(place);
        }
        if self.told(place).is_closed {
            if !cold.is_honest {
                if hot.state == State::Waiting {
                    // No deadline will ever end it; the end of its process does.
                    self.watch(place);
                }
                return self.close_silently(place, hot);
            }
            self.told(place).is_closed = false;
        }
        if self.told(place).is_held || self.told(place).is_releasing {
            return;
        }
        self.tell_arrival(place, hot, cold);
        self.tell_changes(place, hot, cold);
        self.tell_silence(place, hot, cold);
        if hot.state == State::Waiting {
            self.watch(place);
        }
    }

    fn tell_arrival(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let told = *self.told(place);
        if hot.state == State::Waiting {
            return;
        }
        if !told.is_counted {
            self.told(place).is_counted = true;
            self.tally.lock().shards[usize::from(place.shard)].up += 1;
        }
        if told.is_up {
            return;
        }
        // Says the status, too.
        self.told(place).status = hot.status;
        for other in self.places_of(told.pid) {
            let of_other = self.told(other);
            of_other.is_up |= of_other.session == told.session;
        }
        self.tally.lock().shards[usize::from(place.shard)].sessions[SessionWhy::NewProcess as usize] += 1;
        self.tell_of(place, hot, cold.first_arrival, EventKind::Up);
    }

    fn begin_session(&mut self, place: Place, why: SessionWhy) {
        if why != SessionWhy::Nonce {
            self.last_session = self.last_session.wrapping_add(1);
            self.told(place).session = self.last_session;
        }
        self.tally.lock().shards[usize::from(place.shard)].sessions[why as usize] += 1;
    }

    fn tell_changes(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let told = *self.told(place);
        if told.versions != cold.versions {
            self.told(place).versions = cold.versions;
            self.begin_session(place, SessionWhy::Version);
            self.tell_of(place, hot, cold.changed_at, EventKind::Session { why: SessionWhy::Version });
        }
        if told.streams != cold.streams {
            // Whether it is another program or another connection is for the lookup to say.
            self.identify(place);
        }
        if hot.flags.has(Flags::MIXED) != told.is_mixed {
            self.told(place).is_mixed = hot.flags.has(Flags::MIXED);
            if !told.is_mixed {
                self.tell_of(place, hot, cold.changed_at, EventKind::Mixed);
            }
        }
        if told.terminals != cold.terminals {
            self.told(place).terminals = cold.terminals;
            let mut agent = self.agent(place, hot);
            agent.nonce = NONCE_TERMINAL;
            agent.status = Status::Critical;
            agent.payload = cold.terminal_payload;
            self.tell(Some(place.shard), Some(agent), cold.terminal_at, EventKind::Terminal);
        }
        self.told(place).statuses = cold.statuses;
        if told.status != hot.status && hot.state != State::Waiting {
            self.told(place).status = hot.status;
            let at = if told.statuses == cold.statuses { cold.first_arrival } else { cold.changed_at };
            self.tell_of(place, hot, at, EventKind::Status);
        }
    }

    fn tell_silence(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let told = *self.told(place);
        let stalls = cold.stalls.wrapping_sub(told.stalls);
        let resumes = cold.resumes.wrapping_sub(told.resumes);
        if stalls == 0 && resumes == 0 {
            return;
        }
        if hot.state == State::Stalled {
            // The last stall is not told yet, and what came before it ended.
            if told.is_stalled && resumes > 0 {
                self.resume(place, hot, cold, resumes);
            }
            self.told(place).resumes = cold.resumes;
            return self.confirm(place);
        }
        if told.is_stalled {
            self.resume(place, hot, cold, resumes);
        } else if stalls > 0 {
            // It was over before it could be told, and the beat shows that the process was there; but it may
            // have beaten elsewhere meanwhile.
            self.told(place).is_confirming = false;
            if !self.told(place).is_recalling {
                self.told(place).is_recalling = true;
                let generation = self.told(place).generation;
                self.kick_others(place);
                self.await_word(place, generation);
            }
            return;
        }
        let told = self.told(place);
        (told.stalls, told.resumes) = (cold.stalls, cold.resumes);
    }

    /// Tells a stall that was over before it was told, and its end. False: still waiting.
    fn recall(&mut self, place: Place, has_time: bool) -> bool {
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else { return false };
        let told = *self.told(place);
        let stalls = cold.stalls.wrapping_sub(told.stalls);
        let resumes = cold.resumes.wrapping_sub(told.resumes);
        // Stalled again: then that stall tells of this one, too.
        if hot.state != State::Stalled && cold.generation == told.generation && stalls > 0 {
            let is_unseen = self.is_unseen(cold.stall_at, |shard| shard != place.shard);
            if is_unseen && has_time {
                return false;
            }
            let Ok(elsewhere) = self.lives_elsewhere(place, cold.stall_at - cold.stall_silent_ns) else {
                return false;
            };
            if elsewhere.is_none() {
                self.stall(place, &hot, &cold, cold.is_stall_uncertain || is_unseen, stalls);
                self.resume(place, &hot, &cold, resumes);
            }
            let told = self.told(place);
            (told.stalls, told.resumes) = (cold.stalls, cold.resumes);
        }
        self.told(place).is_recalling = false;
        true
    }

    fn stall(&mut self, place: Place, hot: &Hot, cold: &Cold, is_uncertain: bool, coalesced: u32) {
        let kind = EventKind::Stall {
            silent_ns: cold.stall_silent_ns,
            last_nonce: cold.stall_nonce,
            certain: !is_uncertain,
            blind_ns: cold.stall_blind_ns,
            coalesced,
        };
        let deadline = cold.stall_at - cold.stall_silent_ns + self.threshold_of(hot);
        {
            let mut tally = self.tally.lock();
            let shard = &mut tally.shards[usize::from(place.shard)];
            let count = if is_uncertain { &mut shard.stalls_uncertain } else { &mut shard.stalls_certain };
            *count += u64::from(coalesced);
            shard.up -= 1;
            shard.stalled += 1;
            shard.histograms.lateness_ns.saturating_record(self.now.since(deadline));
        }
        self.told(place).is_stalled = true;
        self.tell_of(place, hot, cold.stall_at, kind);
    }

    fn resume(&mut self, place: Place, hot: &Hot, cold: &Cold, coalesced: u32) {
        let (silent_ns, lost) = (cold.resume_silent_ns, cold.resume_lost);
        let is_refuted = rules::is_refuted(silent_ns, lost, self.threshold_of(hot));
        {
            let mut tally = self.tally.lock();
            let shard = &mut tally.shards[usize::from(place.shard)];
            shard.resumes += u64::from(coalesced);
            shard.stalls_refuted += u64::from(is_refuted);
            shard.stalled -= 1;
            shard.up += 1;
        }
        let told = self.told(place);
        told.is_stalled = false;
        told.existence = Existence::Unknown;
        self.tell_of(place, hot, cold.resume_at, EventKind::Resume { silent_ns, lost, coalesced });
    }

    fn threshold_of(&self, hot: &Hot) -> u64 {
        let thresholds = &self.policy.thresholds_ns;
        thresholds.get(usize::from(hot.class)).or(thresholds.first()).copied().unwrap_or(0)
    }

    // --- a stall is told only after everybody was asked ---------------------------------------------

    /// Asks what others know of a silent agent: is its process there, does it beat elsewhere?
    fn confirm(&mut self, place: Place) {
        let told = self.told(place);
        if told.is_confirming {
            return;
        }
        told.is_confirming = true;
        if !matches!(told.existence, Existence::Gone(_)) {
            told.existence = Existence::Asked;
        }
        let generation = told.generation;
        self.ask_existence(place, true);
        self.kick_others(place);
        self.await_word(place, generation);
    }

    /// Asks whether the holder's process is there. At most two questions a slot are under way: one that
    /// can wait and one that cannot.
    fn ask_existence(&mut self, place: Place, is_urgent: bool) {
        let told = self.told(place);
        if told.asked > u8::from(is_urgent) {
            return;
        }
        told.asked += 1;
        let Told { generation, pid, incarnation, .. } = *told;
        let ticket = Ticket { shard: place.shard, slot: place.slot, generation };
        self.lookups.ask(Question::Exists { ticket, pid, incarnation, is_urgent });
    }

    fn await_word(&mut self, place: Place, generation: u32) {
        let give_up_at = self.now + CONFIRM_NS;
        self.pending.push_back(Pending { place, generation, give_up_at, is_forgiven: false });
    }

    /// Other shards move their watermark when kicked. All of them: the agent may have moved to one that
    /// has not read its first beat there yet.
    fn kick_others(&mut self, place: Place) {
        for (shard, view) in self.shards.iter_mut().enumerate() {
            view.is_to_be_kicked |= shard != usize::from(place.shard);
        }
    }

    /// Whether a shard that `matters` may still hold a frame from before `at`. A shard whose thread is dead
    /// will never say; what it held is lost with it, and that is told.
    fn is_unseen(&self, at: MonoNs, matters: impl Fn(u16) -> bool) -> bool {
        let mut shards = (0..self.shard_count).zip(&self.shards);
        shards.any(|(shard, view)| {
            view.seen < at && matters(shard) && view.port.counters.health() == ShardHealth::Alive
        })
    }

    fn places_of(&mut self, pid: u32) -> Vec<Place> {
        let mut places = Vec::new();
        let mut at = self.places.get(&pid).copied();
        while let Some(place) = at {
            places.push(place);
            at = self.told(place).next;
        }
        places
    }

    fn settle_pending(&mut self) {
        for _ in 0..self.pending.len() {
            let Some(pending) = self.pending.pop_front() else { return };
            if !self.settle(&pending) {
                self.pending.push_back(pending);
            }
        }
    }

    /// Tells the stall or exit if everybody answered or had their time. False: still waiting.
    fn settle(&mut self, pending: &Pending) -> bool {
        let Pending { place, generation, give_up_at, .. } = *pending;
        let told = *self.told(place);
        if told.generation != generation {
            return true;
        }
        if told.is_releasing {
            let told = self.told(place);
            (told.is_confirming, told.is_returning, told.is_recalling) = (false, false, false);
            return true;
        }
        let has_time = self.now < give_up_at;
        if let Existence::Gone(at) = told.existence {
            if has_time && self.is_unseen(at, |_| true) {
                for view in &mut self.shards {
                    view.is_to_be_kicked = true;
                }
                return false;
            }
            return self.exit(place, at);
        }
        if told.is_returning {
            if told.is_identifying && has_time || self.resume_from_elsewhere(place).is_err() {
                return false;
            }
            self.told(place).is_returning = false;
        }
        if told.is_recalling && !self.recall(place, has_time) {
            return false;
        }
        if !told.is_confirming {
            return true;
        }
        // First of all: a pid that is somebody else's by now has not moved. And it costs nothing to look.
        if told.existence == Existence::Asked && has_time {
            return false;
        }
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else { return false };
        if hot.state != State::Stalled || cold.generation != generation {
            // It beat again: its fact is on the way, and says so.
            self.told(place).is_confirming = false;
            return true;
        }
        let is_unseen = self.is_unseen(cold.stall_at, |shard| shard != place.shard);
        if is_unseen && has_time {
            return false;
        }
        // If asked in vain, nobody could say in time whether there is a process to be stalled.
        let mut is_uncertain = cold.is_stall_uncertain || is_unseen || told.existence == Existence::Asked;
        for other in self.places_of(told.pid) {
            if other != place {
                let counters = &self.view(other.shard).port.counters;
                is_uncertain |= counters.watermark() < cold.stall_at || counters.is_blind.get() != 0;
            }
        }
        let silent_since = hot.last_arrival;
        match self.lives_elsewhere(place, silent_since) {
            Err(Busy) => return false,
            Ok(Some(elsewhere)) => {
                self.told(place).is_confirming = false;
                self.move_to(elsewhere, place, &hot, &cold);
                return true;
            }
            Ok(None) => {}
        }
        let stalls = cold.stalls.wrapping_sub(told.stalls);
        let pid = told.pid;
        let told = self.told(place);
        told.is_confirming = false;
        told.stalls = cold.stalls;
        told.resumes = cold.resumes;
        self.stall(place, &hot, &cold, is_uncertain, stalls.max(1));
        self.watch(place);
        // An ordinary beat on another slot would go unnoticed; after this it is news.
        for other in self.places_of(pid) {
            if other != place && !self.told(other).is_releasing && !self.told(other).is_closed {
                self.release(other, silent_since, answer::RELEASE | answer::IF_SILENT);
            }
        }
        true
    }

    /// Another slot of the same agent that beat later than this one. One that is on its way back counts,
    /// too: it stays if it beat. Busy: a slot is just being written, by a beat perhaps.
    fn lives_elsewhere(&mut self, place: Place, silent_since: MonoNs) -> Result<Option<(Place, Hot)>, Busy> {
        let pid = self.told(place).pid;
        for other in self.places_of(pid) {
            if other == place || self.told(other).is_over() || self.told(other).is_closed {
                continue;
            }
            let hot = self.view(other.shard).port.table.read_hot(other.slot)?;
            let is_same = hot.pid == pid && hot.state != State::Free;
            if is_same && rules::outlives((hot.last_arrival, other.shard), (silent_since, place.shard)) {
                return Ok(Some((other, hot)));
            }
        }
        Ok(None)
    }

    /// The agent beats elsewhere: its slot here goes, and its silence here was none.
    fn move_to(&mut self, (to, there): (Place, Hot), from: Place, here: &Hot, cold: &Cold) {
        let told = *self.told(from);
        // What was told of the agent goes with it.
        let is_stalled_there = there.state == State::Stalled;
        {
            let heir = self.told(to);
            heir.session = told.session;
            heir.is_up = told.is_up;
            heir.ns_pid = heir.ns_pid.or(told.ns_pid);
        }
        let record = self.told(from);
        (record.stalls, record.resumes) = (cold.stalls, cold.resumes);
        if !is_stalled_there {
            self.tell_of(to, &there, there.last_arrival, EventKind::Moved { from: from.shard });
        }
        self.release(from, here.last_arrival, answer::RELEASE | answer::IF_SILENT);
        self.open(to, &there);
    }

    /// Tells the exit of the process that holds `place` and gives back every slot of it. False: one of them
    /// is just being written.
    fn exit(&mut self, place: Place, at: MonoNs) -> bool {
        let told = *self.told(place);
        let places = self.places_of(told.pid);
        let mut last: Option<(Place, Hot, Cold)> = None;
        for place in &places {
            let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else { return false };
            // What beat later than the exit is an heir, whose words are not the last of the dead.
            let rank = |hot: &Hot| (hot.last_arrival <= at, hot.last_arrival);
            let is_later = last.as_ref().is_none_or(|(_, latest, _)| rank(&hot) > rank(latest));
            let is_told = !self.told(*place).is_closed && !self.told(*place).is_held;
            if is_told && hot.pid == told.pid && is_later {
                last = Some((*place, hot, cold));
            }
        }
        if let Some((place, hot, cold)) = last {
            self.tell_arrival(place, &hot, &cold);
            self.tell_changes(place, &hot, &cold);
            let silent_ns = at.since(hot.last_arrival);
            self.tell_of(place, &hot, at, EventKind::Exit { silent_ns, how: None });
            self.tally.lock().shards[usize::from(place.shard)].exits += 1;
        }
        for place in places {
            let told = self.told(place);
            told.existence = Existence::Gone(at);
            told.is_confirming = false;
            self.release(place, at, answer::RELEASE);
        }
        true
    }

    /// A forger fell silent: its slot goes without a word.
    fn close_silently(&mut self, place: Place, hot: &Hot) {
        if hot.state == State::Stalled && !self.told(place).is_releasing {
            self.told(place).existence = Existence::Gone(hot.last_arrival);
            self.release(place, hot.last_arrival, answer::RELEASE);
        }
    }

    /// Last words alone open no deadline, but those of an agent that beat elsewhere do.
    fn open(&mut self, place: Place, hot: &Hot) {
        if hot.state == State::Waiting {
            self.post(place, answer::OPEN, crate::lane::Answer::default());
        }
    }

    fn release(&mut self, place: Place, as_of: MonoNs, bits: u32) {
        self.told(place).is_releasing = true;
        self.post(place, bits, crate::lane::Answer { as_of, ..Default::default() });
    }

    fn post(&mut self, place: Place, bits: u32, answer: crate::lane::Answer) {
        let generation = self.told(place).generation;
        let view = self.view(place.shard);
        view.port.inbox.post(place.slot, generation, bits, answer);
        view.is_to_be_kicked = true;
    }

    fn kick_shards(&mut self) {
        for view in &mut self.shards {
            if mem::take(&mut view.is_to_be_kicked) {
                view.port.kick(self.now);
            }
        }
    }

    // --- what the lookup thread found out -----------------------------------------------------------

    fn take_answers(&mut self) -> bool {
        for _ in 0..ANSWERS_PER_TURN {
            let Ok(answer) = self.lookups.answers.try_recv() else { return false };
            match answer {
                Answer::Identity { ticket, found } => self.identified(ticket, found),
                Answer::Existence { ticket, gone_at } => self.exists(ticket, gone_at),
            }
        }
        true
    }

    fn exists(&mut self, ticket: Ticket, gone_at: Option<MonoNs>) {
        let place = Place { shard: ticket.shard, slot: ticket.slot };
        let told = self.told(place);
        if told.generation != ticket.generation {
            return;
        }
        told.asked = told.asked.saturating_sub(1);
        if told.is_releasing {
            return;
        }
        match gone_at {
            // An earlier question's answer says nothing of now.
            None if told.asked > 0 => {}
            None => told.existence = Existence::There,
            Some(at) => {
                let is_pending = told.is_confirming;
                self.gone(place, at, is_pending);
            }
        }
    }

    fn gone(&mut self, place: Place, at: MonoNs, is_pending: bool) {
        let told = self.told(place);
        told.existence = Existence::Gone(at);
        let generation = told.generation;
        for view in &mut self.shards {
            view.is_to_be_kicked = true;
        }
        if !is_pending {
            self.await_word(place, generation);
        }
    }

    fn identified(&mut self, ticket: Ticket, found: Result<Identity, LookupError>) {
        let place = Place { shard: ticket.shard, slot: ticket.slot };
        let told = self.told(place);
        if told.generation != ticket.generation {
            return;
        }
        told.is_identifying = false;
        if told.is_releasing {
            return;
        }
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
            // Met the writer; ask again rather than guess.
            return self.identify(place);
        };
        if cold.generation != ticket.generation {
            return;
        }
        match found {
            Ok(identity) => self.known(place, &hot, &cold, &identity),
            Err(LookupError::Gone(at)) => {
                self.accept_claim(place, &hot, &cold, None);
                let is_pending = self.told(place).is_confirming;
                self.gone(place, at, is_pending);
            }
            Err(LookupError::Failed) => {
                self.tally.lock().lookups_failed += 1;
                self.accept_claim(place, &hot, &cold, None);
                self.set_class(place, &hot, 0);
            }
        }
        if let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) {
            self.tell_difference(place, &hot, &cold);
        }
    }

    fn known(&mut self, place: Place, hot: &Hot, cold: &Cold, identity: &Identity) {
        let told = *self.told(place);
        let is_other = told.incarnation.is_some_and(|known| known != identity.incarnation);
        if is_other || identity.started > cold.first_arrival + START_SLACK_NS {
            // The sender is dead, and the pid is somebody else's.
            self.accept_claim(place, hot, cold, None);
            self.gone(place, identity.started, told.is_confirming);
            return;
        }
        let program = program_of(identity);
        let record = self.told(place);
        record.incarnation = Some(identity.incarnation);
        record.program = program.or(told.program);
        if told.streams != cold.streams {
            record.streams = cold.streams;
            let is_exec = program.is_some() && told.program.is_some_and(|known| Some(known) != program);
            let why = if is_exec { SessionWhy::Exec } else { SessionWhy::Nonce };
            if !told.is_held && !told.is_closed {
                self.begin_session(place, why);
                self.tell_of(place, hot, cold.changed_at, EventKind::Session { why });
            }
        }
        let identity_of = plan::Identity { comm: &identity.comm, uid: identity.uid, exe: &identity.exe };
        let rule = self.policy.rules.iter().position(|rule| rule.matches(&identity_of));
        self.set_class(place, hot, rule.map_or(0, |rule| rule + 1));
        if hot.flags.has(Flags::UNVERIFIED) {
            if identity.inner_pids.contains(&cold.claimed_pid) {
                self.accept_claim(place, hot, cold, Some(cold.claimed_pid));
            } else {
                self.forged(place, cold, hot);
            }
        }
    }

    fn set_class(&mut self, place: Place, hot: &Hot, class: usize) {
        let class = u8::try_from(class).unwrap_or(0);
        if hot.class != class {
            self.post(place, answer::CLASS, crate::lane::Answer { class, ..Default::default() });
        }
    }

    /// The pid that frames claim is the sender's, or nobody is left to ask.
    fn accept_claim(&mut self, place: Place, hot: &Hot, cold: &Cold, ns_pid: Option<u32>) {
        let told = self.told(place);
        told.is_held = false;
        if !hot.flags.has(Flags::UNVERIFIED) {
            return;
        }
        told.ns_pid = ns_pid;
        let inner_pid = cold.claimed_pid;
        self.post(place, answer::INNER_PID, crate::lane::Answer { inner_pid, ..Default::default() });
    }

    fn forged(&mut self, place: Place, cold: &Cold, hot: &Hot) {
        let told = self.told(place);
        told.is_closed = !told.is_up && !cold.is_honest;
        told.is_held = false;
        self.post(place, answer::FORGED, crate::lane::Answer::default());
        self.tell_auth(place.shard, cold.first_arrival, cold.claimed_pid, hot.pid, cold.uid);
    }

    fn tell_auth(&mut self, shard: u16, at: MonoNs, claimed: u32, attested: u32, uid: u32) {
        let now = self.now;
        if self.view(shard).auth.allows(now) {
            self.tell(Some(shard), None, at, EventKind::Auth { claimed, attested, uid });
        }
    }

    /// Stalled agents may die: their processes are asked about again and again.
    fn watch(&mut self, place: Place) {
        let told = self.told(place);
        if told.is_watched {
            return;
        }
        told.is_watched = true;
        let generation = told.generation;
        self.watched.push_back((self.now + WATCH_NS, place, generation));
    }

    /// Frames that nobody could look into in time are life all the same, and their silence is one.
    fn tell_of_held(&mut self) {
        while let Some((until, place, generation)) = self.held.front().copied() {
            if until > self.now {
                return;
            }
            self.held.pop_front();
            let told = self.told(place);
            if told.generation == generation && told.is_held {
                told.is_held = false;
                self.look(place);
            }
        }
    }

    fn ask_about_watched(&mut self) {
        while let Some((at, place, generation)) = self.watched.front().copied() {
            if at > self.now {
                return;
            }
            self.watched.pop_front();
            let told = *self.told(place);
            if told.generation != generation {
                continue;
            }
            self.told(place).is_watched = false;
            if !told.is_releasing && (told.is_stalled || !told.is_counted) {
                self.ask_existence(place, false);
                self.watch(place);
            }
        }
    }

    // --- what concerns a whole shard ----------------------------------------------------------------

    fn take_blindness(&mut self, shard: u16) {
        while let Some(news) = self.view(shard).port.blind.pop() {
            let (window, why, is_begin, is_end) = match news {
                BlindNews::Began(window, why) => (window, why, true, false),
                BlindNews::Ended(window, why) => (window, why, false, true),
                BlindNews::Both(window, why) => (window, why, true, true),
            };
            if is_begin {
                let kind = EventKind::Blind { phase: BlindPhase::Begin, why };
                self.tell(Some(shard), None, window.start, kind);
            }
            if is_end {
                let phase = BlindPhase::End { for_ns: window.end.since(window.start) };
                self.tell(Some(shard), None, window.end, EventKind::Blind { phase, why });
            }
        }
    }

    fn take_samples(&mut self, shard: u16) {
        while let Some(sample) = self.view(shard).port.samples.pop() {
            match sample.what {
                SampleOf::Decode(error) => {
                    let kind = EventKind::Decode { attested: sample.attested, error };
                    self.tell(Some(shard), None, sample.arrival, kind);
                }
                SampleOf::Forged(claimed) => {
                    self.tell_auth(shard, sample.arrival, claimed, sample.attested, sample.uid);
                }
            }
        }
    }

    fn take_beats(&mut self, shard: u16) {
        let port = Arc::clone(&self.view(shard).port);
        let Some(beats) = &port.beats else { return };
        for _ in 0..beats.len() {
            let Some(note) = beats.pop() else { return };
            let place = self.places.get(&note.pid).copied();
            let told = place.map(|place| *self.told(place)).unwrap_or_default();
            let agent = Agent {
                pid: note.pid,
                ns_pid: (note.frame_pid != note.pid).then_some(note.frame_pid),
                session: told.session,
                nonce: note.nonce,
                status: note.status,
                payload: note.payload,
            };
            let kind = EventKind::Beat;
            let (wall, mono) = (self.wall, note.arrival);
            self.fanout.tell_beat(Event { seq: 0, wall, mono, shard: Some(shard), agent: Some(agent), kind });
        }
    }

    /// What only counters say: a full table, a failing socket, a dead thread.
    fn take_troubles(&mut self, shard: u16) {
        let now = self.now;
        let view = self.view(shard);
        let counters = &view.port.counters;
        let refused = counters.refused(Refusal::TableFull);
        let (told_at, told) = view.full_told;
        let io_errors = counters.io_errors.get();
        let errno = i32::try_from(counters.io_errno.get()).unwrap_or(0);
        let is_full_due = refused > told && told_at.is_none_or(|at| now.since(at) >= SECOND_NS);
        let is_io_due =
            io_errors != view.io_errors_told && view.io_told_at.is_none_or(|at| now.since(at) >= SECOND_NS);
        let panics = counters.panics.get();
        let is_panic_due = panics != view.panics_told;
        if is_full_due {
            view.full_told = (Some(now), refused);
            self.tell(Some(shard), None, now, EventKind::Full { refused: refused - told });
            self.hurry_watched();
        }
        if is_io_due {
            let view = self.view(shard);
            (view.io_errors_told, view.io_told_at) = (io_errors, Some(now));
            self.tell(Some(shard), None, now, EventKind::Io { place: IoPlace::Receive, errno });
        }
        if is_panic_due {
            self.view(shard).panics_told = panics;
            self.tell(Some(shard), None, now, EventKind::Io { place: IoPlace::Shard, errno });
        }
    }

    /// Room is needed: ask at once who of the stalled is gone.
    fn hurry_watched(&mut self) {
        for (at, ..) in &mut self.watched {
            *at = (*at).min(self.now);
        }
    }

    /// True if there were any, so that there will be more.
    fn take_reports(&mut self) -> bool {
        let mut samples = [0; SAMPLES_MAX];
        let mut tally = self.tally.lock();
        let mut is_any = false;
        for (view, tally) in self.shards.iter().zip(&mut tally.shards) {
            let histograms = &mut tally.histograms;
            for _ in 0..REPORTS_PER_TURN {
                let Some(report) = view.port.reports.pop(&mut samples) else { break };
                is_any = true;
                histograms.batch_frames.saturating_record(u64::from(report.frames));
                histograms
                    .decode_ns
                    .saturating_record_n(u64::from(report.decode_ns), u64::from(report.frames));
                for sample in report.queue_ns {
                    histograms.queue_ns.saturating_record(u64::from(*sample));
                }
            }
        }
        is_any
    }

    fn publish(&mut self) {
        let mut tally = self.tally.lock();
        tally.events = self.fanout.last_seq();
        tally.events_dropped = self.fanout.dropped();
        tally.beats_untold = self.fanout.beats_dropped();
    }

    // --- telling ------------------------------------------------------------------------------------

    fn agent(&mut self, place: Place, hot: &Hot) -> Agent {
        let told = self.told(place);
        Agent {
            pid: hot.pid,
            ns_pid: told.ns_pid,
            session: told.session,
            nonce: hot.nonce(),
            status: hot.status,
            payload: hot.payload,
        }
    }

    fn tell_of(&mut self, place: Place, hot: &Hot, mono: MonoNs, kind: EventKind) {
        let agent = self.agent(place, hot);
        self.tell(Some(place.shard), Some(agent), mono, kind);
    }

    fn tell(&mut self, shard: Option<u16>, agent: Option<Agent>, mono: MonoNs, kind: EventKind) {
        self.fanout.tell(Event { seq: 0, wall: self.wall, mono, shard, agent, kind });
    }

    fn view(&mut self, shard: u16) -> &mut ShardView {
        &mut self.shards[usize::from(shard)]
    }

    fn told(&mut self, place: Place) -> &mut Told {
        self.shards[usize::from(place.shard)].told.of(place.slot)
    }
}

/// What tells one program from the next; `None` if the kernel did not say, as of a process on its way out.
fn program_of(identity: &Identity) -> Option<NonZeroU64> {
    if identity.exe.is_empty() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    identity.exe.hash(&mut hasher);
    NonZeroU64::new(hasher.finish())
}
