//! The aggregator thread: looks at what shards report, asks what others know, decides what to tell,
//! numbers it and hands it out.
//!
//! The loop and the facts are here; [`confirm`] asks the others, [`answers`] takes what was looked up,
//! [`troubles`] what concerns a whole shard.
//!
//! In: facts, reports, samples and blind windows of all shards; answers of the lookup thread. Out: events
//! to subscribers, answers to shards, counts. Thread: aggregator. Blocks: only between turns. Allocates: as
//! agents come. Time is an argument.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel::Receiver;

use crate::event::{Agent, BlindPhase, Event, EventKind, ExitHow, IoPlace, Rank, SessionWhy};
use crate::lane::blind::BlindNews;
use crate::lane::counters::ShardHealth;
use crate::lane::report::SAMPLES_MAX;
use crate::lane::sessions::{Freeze, Session};
use crate::lane::vigil::Vigil;
use crate::lane::{Doorbell, Port, SampleOf, answer};
use crate::process::lookup::Lookups;
use crate::process::procfs::LookupError;
use crate::process::procfs::{Identity, Program};
use crate::process::question::{Answer, Inquiry, Question, Ticket};
use crate::process::watch::{Order, Watch};
use crate::refusal::Refusal;
use crate::route::shard_for;
use crate::rules;
use crate::table::Busy;
use crate::table::slot::{Cold, Flags, Hot, State};
use crate::table::slots::Slots;
use crate::time::{MonoNs, WallNs};
use crate::view::copies::Asked;
use crate::view::tally::Tally;
use crate::wire::{NONCE_TERMINAL, Status};

mod answers;
mod churn;
mod confirm;
mod freezes;
mod frozen;
pub mod policy;
pub mod fanout;
mod limit;
pub mod told;
pub mod thread;
mod troubles;

#[cfg(test)]
mod backlog;
#[cfg(test)]
mod blindness;
#[cfg(test)]
mod coming_and_going;
#[cfg(test)]
mod crowd;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod neighbours;
#[cfg(test)]
mod renamed;
#[cfg(test)]
mod stuck;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thaw;

use churn::Churns;
use fanout::{Fanout, Subscriber};
use freezes::Freezes;
use limit::{Buckets, Limit, Often, SECOND_NS};
use policy::Policy;
use told::{Existence, Mark, PackedPlace, Place, Places, Told};

/// Reports wait this long, so that the aggregator is not woken for each.
const REPORT_TICK_NS: u64 = 100_000_000;
/// The same where every beat is told.
const BEATS_TICK_NS: u64 = 10_000_000;
/// With nothing pending, how often to see whether every shard turns, and whether a shard said something that
/// was told too recently to be told again.
const IDLE_NS: u64 = 1_000_000_000;
/// How long a stall waits for other shards and for the existence check.
const CONFIRM_NS: u64 = 20_000_000;
/// How much longer it waits to hear what its process runs by now, while the lookup thread answers at all: long
/// enough for thousands to be looked into.
const LOOK_NS: u64 = 500_000_000;
/// How long an exit waits for a shard to look at what the dead may have sent it.
const EXIT_NS: u64 = 1_000_000_000;
/// How long a stop waits for the watch thread's answers. The shards have ended by then, and say no more.
const STOP_NS: u64 = 300_000_000;
/// While something is confirmed, how often to look again if nobody rings.
const CONFIRM_TICK_NS: u64 = 1_000_000;
/// A longer gap between two turns while something is confirmed was our pause, not the others' silence.
/// Forgiven once: turns that take so long by themselves must not put off a stall for ever.
const TURN_GAP_NS: u64 = 20_000_000;
/// How long nothing is told of an agent whose claimed pid waits to be looked up.
const HELD_NS: u64 = 1_000_000_000;
/// How often the process of a stalled agent is asked about that is not watched.
const POLL_NS: u64 = 1_000_000_000;
/// Facts taken from one shard in a turn.
const FACTS_PER_TURN: u32 = 65_536;
/// Stalls and resumes of all shards together that may wait to be told at a time. The facts of more wait before
/// anybody is asked about them: the watch thread answers so many in a fraction of [`CONFIRM_NS`], so a fleet
/// that falls silent at once is told for certain.
const IN_FLIGHT_MAX: u32 = 8192;
/// Reports taken from one shard in a turn.
const REPORTS_PER_TURN: u32 = 16_384;
/// Answers taken in a turn.
const ANSWERS_PER_TURN: usize = 8192;
/// The kernel rounds start times down to 10 ms.
const START_SLACK_NS: u64 = 10_000_000;

/// A request to the aggregator.
#[derive(Debug)]
pub enum Request {
    /// One more subscriber.
    Subscribe(Subscriber),
    /// An event output failed with this error number; 0: its file was cut.
    WriteFailed(i32),
    /// The file of a shard's socket, or those of the fleet as a whole, are not where they were put (error
    /// number) or are back (0).
    Files {
        /// The shard; `None` for the fleet.
        shard: Option<u16>,
        /// What keeps agents from finding them.
        errno: i32,
    },
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
    /// Never: everything is told.
    Stopped,
}

/// One shard as the aggregator sees it.
#[derive(Debug)]
struct ShardView {
    port: Arc<Port>,
    told: Slots<Told>,
    /// Slots of known holders that have something to tell, in order.
    to_look: VecDeque<u32>,
    /// Its slots in `pending`, but for exits.
    in_flight: u32,
    /// Everything that arrived until here has been processed by the shard, and its facts were looked at.
    seen: MonoNs,
    /// Answers were posted: kick it at the end of the turn.
    is_to_be_kicked: bool,
    /// `full` was told last at this instant, with this many refused.
    full_told: (Option<MonoNs>, u64),
    io_errors_told: u64,
    io_told_at: Option<MonoNs>,
    panics_told: u64,
    vigil: Vigil,
    /// The kernel had no memory for more agents: ask again then.
    grant_again_at: MonoNs,
    auth: Limit,
    /// Frames refused for a share that were told.
    share_told: u64,
    flood: troubles::FloodWatch,
}

/// A slot whose stall or exit waits to be told.
#[derive(Clone, Copy, Debug)]
struct Pending {
    place: Place,
    generation: u32,
    give_up_at: MonoNs,
    is_forgiven: bool,
    /// It waits for the last frames of the dead.
    is_exit: bool,
}

/// Whom the aggregator asks about processes.
#[derive(Debug)]
pub struct Inquiries {
    /// Who is it?
    pub lookups: Lookups,
    /// Is it there?
    pub watch: Watch,
    /// What both found out.
    pub answers: Receiver<Answer>,
}

/// The aggregator.
#[derive(Debug)]
pub struct Aggregator {
    shards: Vec<ShardView>,
    /// At most 64 by the plan.
    shard_count: u16,
    policy: Policy,
    inquiries: Inquiries,
    /// The lookup thread answered last.
    looked_up_at: MonoNs,
    /// The watch thread was ordered something: wake it at the end of the turn.
    is_watch_ordered: bool,
    requests: Receiver<Request>,
    doorbell: Arc<Doorbell>,
    fanout: Fanout,
    tally: Tally,
    asked: Asked,
    /// Where each pid beats, by pid; further places hang on the first.
    places: Slots<Option<PackedPlace>>,
    pending: VecDeque<Pending>,
    in_flight_max: u32,
    /// Agents of whom nothing is told until somebody has looked whose pid they claim, and until when.
    held: VecDeque<(MonoNs, Place, u32)>,
    /// Stalled and waiting agents that are not watched, in the order in which they are asked about next.
    polled: VecDeque<(MonoNs, Place, u32)>,
    /// Agents that are silent because they are frozen, or were.
    freezes: Freezes,
    /// What one agent may have told of it.
    buckets: Buckets,
    /// What the agents of one user may have told of them while they come and go.
    churns: Churns,
    /// Agents of whom something is told later, in the order of when.
    deferred: VecDeque<(MonoNs, Place, u32)>,
    /// Slots that read busy.
    again: Vec<Place>,
    last_session: u32,
    last_turn: MonoNs,
    /// The fleet stops, and from this instant on nothing is waited for.
    stop_by: Option<MonoNs>,
    now: MonoNs,
    wall: WallNs,
}

impl Aggregator {
    /// An aggregator of these shards.
    pub fn new(
        ports: &[Arc<Port>],
        policy: Policy,
        inquiries: Inquiries,
        requests: Receiver<Request>,
        doorbell: Arc<Doorbell>,
        asked: Asked,
    ) -> Self {
        let shards = ports.iter().map(|port| ShardView {
            told: Slots::default(),
            to_look: VecDeque::new(),
            in_flight: 0,
            seen: MonoNs(0),
            port: Arc::clone(port),
            is_to_be_kicked: false,
            full_told: (None, 0),
            io_errors_told: 0,
            io_told_at: None,
            panics_told: 0,
            vigil: Vigil::default(),
            grant_again_at: MonoNs(0),
            auth: Limit::default(),
            share_told: 0,
            flood: troubles::FloodWatch::default(),
        });
        Self {
            shards: shards.collect(),
            shard_count: u16::try_from(ports.len()).unwrap_or(u16::MAX),
            policy,
            inquiries,
            looked_up_at: MonoNs(0),
            is_watch_ordered: false,
            requests,
            doorbell,
            fanout: Fanout::default(),
            tally: Tally::of_shards(ports.len()),
            asked,
            places: Slots::default(),
            pending: VecDeque::new(),
            in_flight_max: IN_FLIGHT_MAX,
            polled: VecDeque::new(),
            held: VecDeque::new(),
            freezes: Freezes::default(),
            buckets: Buckets::default(),
            churns: Churns::new(ports.iter().map(|port| port.table.capacity()).max().unwrap_or(0)),
            deferred: VecDeque::new(),
            again: Vec::new(),
            last_session: 0,
            last_turn: MonoNs(0),
            stop_by: None,
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

    /// One turn: takes everything that is there, tells what is certain, says when to come again. To be followed by
    /// [`Aggregator::kick_shards`].
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
            self.look_at_known(shard);
            self.take_blindness(shard);
            self.take_samples(shard);
            self.take_beats(shard);
            self.take_troubles(shard);
            self.grant_memory(shard);
        }
        // As long as agents die there are more of them.
        is_more |= !self.is_out_of_time() && self.take_answers();
        self.settle_pending();
        self.tell_of_held();
        self.tell_of_deferred();
        self.tell_of_churn(false);
        self.ask_about_polled();
        self.look_at_frozen();
        is_more |= (0..self.shard_count).any(|shard| self.may_look(shard));
        let is_ticking = self.take_reports();
        if mem::take(&mut self.is_watch_ordered) {
            self.inquiries.watch.begin();
        }
        let is_owing = self.fanout.settle(wall, now);
        self.publish();
        self.next(is_more, is_ticking || is_owing)
    }

    /// Wakes the shards that are to look at answers or to move their watermark, at `now`: read after the turn, for
    /// the turn may have been long, and a shard that is kicked late was not paused.
    pub fn kick_shards(&mut self, now: MonoNs) {
        for view in &mut self.shards {
            if mem::take(&mut view.is_to_be_kicked) {
                view.port.kick(now);
            }
        }
    }

    fn next(&mut self, is_more: bool, is_ticking: bool) -> Next {
        // Whoever is stuck in the middle of writing a slot will not finish it.
        let is_waiting = !self.again.is_empty() && !self.is_out_of_time();
        if is_more || is_waiting {
            return Next::Now;
        }
        if self.stop_by.is_some() && (self.pending.is_empty() || self.is_out_of_time()) {
            self.tell_of_churn(true);
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
            self.deferred.front().map(|(at, ..)| *at),
            self.polled.front().map(|(at, ..)| *at),
            self.freezes.next(),
            self.churns.next(),
        ];
        let at = ticks.into_iter().flatten().fold(self.now + IDLE_NS, MonoNs::min);
        if is_ticking {
            // A tick for reports is on: shards need not ring for them.
            return Next::At(at);
        }
        self.doorbell.sleep_tickless();
        let is_work = self.shards.iter().any(|view| !view.port.reports.is_empty());
        Next::At(if is_work { at.min(self.now + report_tick) } else { at })
    }

    /// Whether the fleet stops and nothing is waited for any more.
    fn is_out_of_time(&self) -> bool {
        self.stop_by.is_some_and(|stop_by| self.now >= stop_by)
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

    /// What was counted so far.
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    fn take_requests(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Subscribe(subscriber) => self.fanout.add(subscriber),
                Request::WriteFailed(errno) => {
                    self.tally.event_write_errors += 1;
                    self.tell(None, None, self.now, EventKind::Io { place: IoPlace::Events, errno });
                }
                Request::Files { shard, errno } => self.tell_of_files(shard, errno),
                Request::Stop => self.stop_by = self.stop_by.or(Some(self.now + STOP_NS)),
            }
        }
    }

    // --- facts: what a slot says against what was told of it ---------------------------------------

    /// Takes what the shard queued; true if there is more. New holders are looked at here, for whoever asks
    /// where a pid beats has to know of them all; the others wait for their turn.
    fn take_facts(&mut self, shard: u16) -> bool {
        for _ in 0..FACTS_PER_TURN {
            let view = self.view(shard);
            let Some((slot, _)) = view.port.facts.pop() else { return false };
            let told = view.told.of(slot);
            if told.generation != view.port.table.generation(slot) {
                self.look(Place { shard, slot });
            } else if !told.set(Mark::ToBeLookedAt, true) {
                view.to_look.push_back(slot);
            }
        }
        true
    }

    /// Whether the shard has facts that need not wait any longer.
    fn may_look(&mut self, shard: u16) -> bool {
        let share = (self.in_flight_max / u32::from(self.shard_count)).max(1);
        let view = self.view(shard);
        view.in_flight < share && !view.to_look.is_empty()
    }

    /// Looks at slots of known holders, as many as may be in flight.
    fn look_at_known(&mut self, shard: u16) {
        // Not all of them have to wait for anything.
        for _ in 0..IN_FLIGHT_MAX {
            if !self.may_look(shard) {
                return;
            }
            let Some(slot) = self.view(shard).to_look.pop_front() else { return };
            let place = Place { shard, slot };
            self.told(place).set(Mark::ToBeLookedAt, false);
            self.look(place);
        }
    }

    fn look(&mut self, place: Place) {
        let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
            self.tally.slot_reads_busy += 1;
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
        } else if told.is(Mark::Releasing) {
            // Without a later beat the shard has not come to it yet: it may have started over.
            if told.is_over() || hot.last_arrival <= told.as_of {
                return;
            }
            // Released only if it stayed silent, and it did not: it stays, and whatever was found out
            // about it meanwhile is found out again.
            self.told(place).set(Mark::Releasing, false);
            self.identify(place);
            self.return_if_stalled(place);
        }
        self.tell_difference(place, &hot, &cold);
    }

    /// Somebody new holds the slot.
    fn admit(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let is_off_hash = shard_for(hot.pid, u32::from(self.shard_count)) != u32::from(place.shard);
        let first = self.place_of_pid(hot.pid);
        let is_held = hot.flags.has(Flags::UNVERIFIED);
        // An agent that is known on another shard is not up again, and it is the same session, unless the
        // lookup finds another process; nobody is the same as one whose exit was told.
        let places = self.places_of(hot.pid);
        let known = places.iter().find(|place| !self.told(*place).is_over());
        let known = known.filter(|_| !planted!(TakesOneForTwo));
        let session = match known {
            Some(known) => self.session(known),
            None => Session::default(),
        };
        // Of a user other than there it is told as one that changed it.
        let uid = known.and_then(|known| self.view(known.shard).port.table.read_hot(known.slot).ok());
        let is_other_user = uid.is_some_and(|there| there.uid() != hot.uid());
        let known = known.map(|place| *self.told(place));
        if known.is_none() && !(planted!(KeepsTheSession) && self.last_session > 0) {
            self.last_session = self.last_session.wrapping_add(1);
        }
        let class = self.policy.first_class();
        let record = self.told(place);
        *record = Told::default();
        (record.generation, record.pid, record.class) = (cold.generation, hot.pid, class);
        record.status = known.map_or(hot.status, |known| known.status);
        record.next = first.map(PackedPlace::from);
        record.incarnation = known.and_then(|known| known.incarnation);
        record.program = known.and_then(|known| known.program);
        record.users = cold.users.wrapping_sub(is_other_user.into());
        let is_up = known.is_some_and(|known| known.is(Mark::Up));
        record.set(Mark::Up, is_up);
        record.set(Mark::Uncalled, known.is_some_and(|known| known.is(Mark::Uncalled)));
        record.set(Mark::Held, is_held);
        record.set(Mark::OffHash, is_off_hash);
        let number = if known.is_some() { session.number } else { self.last_session };
        self.enter(place, Session { number, ns_pid: session.ns_pid, freeze: Freeze::No });
        if is_up && !is_held {
            self.doubt(place);
        }
        *self.places.of(hot.pid) = Some(place.into());
        self.tally.shards[usize::from(place.shard)].off_hash += u64::from(is_off_hash);
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
            self.places_of(pid).iter().any(|other| other != place && self.told(other).is(Mark::Stalled));
        if is_back && !self.told(place).is(Mark::Returning) {
            self.told(place).set(Mark::Returning, true);
            let generation = self.told(place).generation;
            self.await_word(place, generation);
        }
    }

    /// An agent told stalled on another shard beats here: it is back, and its slot there goes.
    fn resume_from_elsewhere(&mut self, place: Place) -> Result<(), Busy> {
        let (hot, cold) = self.view(place.shard).port.table.read(place.slot)?;
        for other in self.places_of(hot.pid).iter() {
            let told = *self.told(other);
            let is_gone = told.is_gone();
            if other == place || !told.is(Mark::Stalled) || told.is(Mark::Releasing) || is_gone {
                continue;
            }
            let (there, mut silence) = self.view(other.shard).port.table.read(other.slot)?;
            let at =
                if cold.first_arrival > there.last_arrival { cold.first_arrival } else { hot.last_arrival };
            if at <= there.last_arrival {
                // Not back yet. An ordinary beat here would go unnoticed; after this it is news.
                self.release(place, there.last_arrival, answer::RELEASE | answer::IF_SILENT);
                return Ok(());
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
        if told.is(Mark::Identifying) {
            return;
        }
        told.set(Mark::Identifying, true);
        let (pid, generation) = (told.pid, told.generation);
        let ticket = Ticket { shard: place.shard, slot: place.slot, generation };
        self.inquiries.lookups.ask(Question { ticket, pid, of: Inquiry::Identity });
    }

    /// Nobody, or somebody else, holds the slot from here on.
    fn forget(&mut self, place: Place) {
        let told = mem::take(self.told(place));
        if told.pid == 0 {
            return;
        }
        self.buckets.forget(place);
        self.forget_freeze(place, &told);
        if told.is(Mark::WatchOrdered) {
            let ticket = Ticket { shard: place.shard, slot: place.slot, generation: told.generation };
            self.order(Order::Unwatch { ticket });
        }
        if self.place_of_pid(told.pid) == Some(place) {
            *self.places.of(told.pid) = told.next;
        } else {
            let mut at = self.place_of_pid(told.pid);
            while let Some(earlier) = at {
                if self.next_of(earlier) == Some(place) {
                    self.told(earlier).next = told.next;
                }
                at = self.next_of(earlier);
            }
        }
        let tally = &mut self.tally;
        let shard = &mut tally.shards[usize::from(place.shard)];
        shard.unwatched -= u64::from(told.is(Mark::Unwatched));
        shard.off_hash -= u64::from(told.is(Mark::OffHash));
        if told.is(Mark::Counted) {
            let count = if told.is(Mark::Stalled) { &mut shard.stalled } else { &mut shard.up };
            *count -= 1;
        }
    }

    /// Tells what changed since the slot was looked at last.
    fn tell_difference(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let told = *self.told(place);
        if told.is_gone() {
            // Its exit is on the way, which tells what was its own of this and nothing of an heir's.
            return;
        }
        if hot.flags.has(Flags::UNVERIFIED) && !told.has_settled(cold.claimed_pid) {
            self.identify(place);
        }
        if told.is(Mark::Closed) && !cold.is_honest {
            if hot.state == State::Waiting {
                // No deadline will ever end it; the end of its process does.
                self.poll_unwatched(place);
            }
            return self.close_silently(place, hot);
        }
        if told.is(Mark::Held) || told.is(Mark::Releasing) {
            return;
        }
        if is_doubtful(&told, cold) {
            return self.doubt(place);
        }
        self.tell_news(place, hot, cold);
    }

    /// Tells what changed of the process that was known before.
    fn tell_news(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        self.told(place).set(Mark::Closed, false);
        self.tell_arrival(place, hot, cold);
        self.tell_changes(place, hot, cold, false);
        self.tell_silence(place, hot, cold);
        if hot.state == State::Waiting {
            self.poll_unwatched(place);
        }
    }

    fn tell_arrival(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let told = *self.told(place);
        if hot.state == State::Waiting {
            return;
        }
        if !told.is(Mark::Counted) {
            self.told(place).set(Mark::Counted, true);
            self.tally.shards[usize::from(place.shard)].up += 1;
        }
        if told.is(Mark::Up) {
            return;
        }
        // Says the status, too; of what it was before in between, nothing.
        let record = self.told(place);
        record.status = hot.status;
        if cold.statuses.wrapping_sub(record.statuses) <= 1 {
            record.statuses = cold.statuses;
        }
        self.mark_session(place, Mark::Up, true);
        self.mark_session(place, Mark::Uncalled, true);
        self.tally.shards[usize::from(place.shard)].sessions[SessionWhy::NewProcess as usize] += 1;
        self.tell_of(place, hot, cold.first_arrival, EventKind::Up);
    }

    /// Sets the mark wherever the agent is known.
    fn mark_session(&mut self, place: Place, mark: Mark, is_set: bool) {
        let session = self.session(place).number;
        let pid = self.told(place).pid;
        for other in self.places_of(pid).iter() {
            if self.session(other).number == session {
                self.told(other).set(mark, is_set);
            }
        }
    }

    fn begin_session(&mut self, place: Place, why: SessionWhy, coalesced: u32) {
        if why != SessionWhy::Nonce {
            self.last_session = self.last_session.wrapping_add(1);
            let session = self.session(place);
            self.enter(place, Session { number: self.last_session, ..session });
        }
        self.tally.shards[usize::from(place.shard)].sessions[why as usize] += u64::from(coalesced);
    }

    /// `is_rest`: whatever is left is told now, however often it was.
    fn tell_changes(&mut self, place: Place, hot: &Hot, cold: &Cold, is_rest: bool) {
        let told = *self.told(place);
        let is_other_session = (told.streams, told.versions) != (cold.streams, cold.versions);
        if is_other_session
            && !told.is(Mark::Identifying)
            && self.may_tell(place, hot, cold, Often::Session, is_rest)
        {
            // Whether it is another program or another connection is for the lookup to say.
            self.identify(place);
        }
        if told.users != cold.users && self.may_tell(place, hot, cold, Often::Session, is_rest) {
            self.tell_user(place, hot, cold);
        }
        if hot.flags.has(Flags::MIXED) != told.is(Mark::Mixed) {
            self.told(place).set(Mark::Mixed, hot.flags.has(Flags::MIXED));
            if !told.is(Mark::Mixed) {
                self.tell_of(place, hot, cold.changed_at, EventKind::Mixed);
            }
        }
        self.tell_terminal(place, hot, cold, is_rest);
        let told = *self.told(place);
        if hot.state == State::Waiting {
            self.told(place).statuses = cold.statuses;
            return;
        }
        let changes = cold.statuses.wrapping_sub(told.statuses);
        // A crash report that waits to be told brings its status with it.
        let is_other = told.status != hot.status && told.terminals == cold.terminals;
        if (changes > 0 || is_other) && self.may_tell(place, hot, cold, Often::Status, is_rest) {
            let record = self.told(place);
            (record.statuses, record.status) = (cold.statuses, hot.status);
            let at = if changes == 0 { cold.first_arrival } else { cold.changed_at };
            self.tell_of(place, hot, at, EventKind::Status { coalesced: changes.max(1) });
        }
    }

    /// Its process became another user; another rule may hold for that one.
    fn tell_user(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        self.identify(place);
        let told = self.told(place);
        if told.is(Mark::Up) {
            let coalesced = u32::from(cold.users.wrapping_sub(told.users));
            told.users = cold.users;
            self.begin_session(place, SessionWhy::Uid, coalesced);
            let at = cold.changed_at.max(cold.first_arrival);
            self.tell_of(place, hot, at, EventKind::Session { why: SessionWhy::Uid, coalesced });
        }
    }

    fn tell_terminal(&mut self, place: Place, hot: &Hot, cold: &Cold, is_rest: bool) {
        let before = self.told(place).terminals;
        let coalesced = cold.terminals.wrapping_sub(before);
        if coalesced == 0 || !self.may_tell(place, hot, cold, Often::Terminal, is_rest) {
            return;
        }
        let told = self.told(place);
        // Says the status, too.
        (told.terminals, told.status) = (cold.terminals, Status::Critical);
        let mut agent = self.agent(place, hot);
        agent.nonce = NONCE_TERMINAL;
        agent.status = Status::Critical;
        // The first is the root of the others. Of those after one that was told the last two are kept.
        agent.payload = match (before, coalesced) {
            (0, _) => cold.terminal_first,
            (_, 1) => cold.terminal_payload,
            _ => cold.terminal_before,
        };
        self.tell_agent(place, agent, cold.terminal_at, EventKind::Terminal { coalesced });
    }

    /// Whether something of this kind may be told of the agent now; if not, what there is to tell comes later.
    fn may_tell(&mut self, place: Place, hot: &Hot, cold: &Cold, kind: Often, is_rest: bool) -> bool {
        // Processes that are started in a loop have a full bucket each: they take from their user's, too.
        let is_free = self.told(place).is(Mark::Uncalled) || self.is_settled(cold);
        let has_left = self.buckets.take(place, kind, self.now);
        if is_rest || has_left && (is_free || self.churns.take(hot.uid(), self.now)) {
            return true;
        }
        let told = self.told(place);
        if !told.set(Mark::Deferred, true) {
            let generation = told.generation;
            self.deferred.push_back((self.now + SECOND_NS, place, generation));
        }
        false
    }

    /// Tells of those of whom too much was told before; at the end of all of them.
    fn tell_of_deferred(&mut self) {
        while let Some((at, place, generation)) = self.deferred.front().copied() {
            if at > self.now && !self.are_shards_over() {
                return;
            }
            self.deferred.pop_front();
            let told = self.told(place);
            if told.generation != generation || !told.is(Mark::Deferred) {
                continue;
            }
            let Ok((hot, cold)) = self.view(place.shard).port.table.read(place.slot) else {
                self.deferred.push_back((self.now + CONFIRM_TICK_NS, place, generation));
                return;
            };
            if self.are_shards_over() {
                self.tell_rest(place, &hot, &cold);
            } else {
                self.told(place).set(Mark::Deferred, false);
                self.look(place);
            }
        }
    }

    /// What was not told of the agent so far precedes what is told next.
    fn tell_rest(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let told = *self.told(place);
        if !told.is(Mark::Deferred) || told.generation != cold.generation {
            return;
        }
        self.told(place).set(Mark::Deferred, false);
        self.settle_session(place, hot, cold, None);
        self.tell_changes(place, hot, cold, true);
    }

    fn tell_silence(&mut self, place: Place, hot: &Hot, cold: &Cold) {
        let mut told = *self.told(place);
        if told.is(Mark::Frozen) || told.is(Mark::Thawed) {
            if told.resumes == cold.resumes {
                return;
            }
            self.stir(place, hot, cold);
            told = *self.told(place);
        }
        let stalls = cold.stalls.wrapping_sub(told.stalls);
        let resumes = cold.resumes.wrapping_sub(told.resumes);
        if stalls == 0 && resumes == 0 {
            return;
        }
        if hot.state == State::Stalled {
            // The last stall is not told yet, and what came before it ended.
            if told.is(Mark::Stalled) && resumes > 0 {
                self.resume(place, hot, cold, resumes);
                self.told(place).resumes = cold.resumes;
            }
            return self.confirm(place);
        }
        if told.is(Mark::Stalled) {
            self.resume(place, hot, cold, resumes);
        } else if stalls > 0 {
            // It was over before it could be told, and the beat shows that the process was there; but it may
            // have beaten elsewhere meanwhile.
            self.told(place).set(Mark::Confirming, false);
            if !self.told(place).is(Mark::Recalling) {
                self.told(place).set(Mark::Recalling, true);
                let generation = self.told(place).generation;
                self.look_again(place);
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
        // By what is known by now it was no stall.
        let least_ns = self.threshold_of_ended(place, &hot, &cold);
        let is_short = stalls == 1 && cold.resume_silent_ns < least_ns;
        if is_short && hot.state != State::Stalled && cold.generation == told.generation {
            let told = self.told(place);
            (told.stalls, told.resumes) = (cold.stalls, cold.resumes);
            told.set(Mark::Recalling, false);
            return true;
        }
        // Stalled again: then that stall tells of this one, too.
        if hot.state != State::Stalled && cold.generation == told.generation && stalls > 0 {
            if has_time && self.is_awaited(cold.stall_at, |shard| shard != place.shard) {
                return false;
            }
            let places = self.places_of(hot.pid);
            let silent_since = cold.stall_at - cold.stall_silent_ns;
            let Ok(elsewhere) = self.lives_elsewhere(&places, place, silent_since) else {
                return false;
            };
            let told = self.told(place);
            (told.stalls, told.resumes) = (cold.stalls, cold.resumes);
            if elsewhere.is_none() {
                // If asked in vain, nobody could say in time by which rule it was one.
                let is_uncertain = cold.is_stall_uncertain
                    || told.is(Mark::LookingAgain)
                    || self.is_unsighted(place.shard, silent_since, &hot, &cold);
                self.stall(place, &hot, &cold, is_uncertain, stalls);
                self.resume(place, &hot, &cold, resumes);
            }
        }
        self.told(place).set(Mark::Recalling, false);
        true
    }

    /// How long the silence that ended last had to be for a stall.
    fn threshold_of_ended(&mut self, place: Place, hot: &Hot, cold: &Cold) -> u64 {
        let class = self.told(place).class;
        let threshold_ns = self.policy.threshold_ns(class);
        let began = cold.resume_at - cold.resume_silent_ns;
        let refused = self.view(place.shard).port.turned_away.last(hot.pid);
        if refused.is_some_and(|refused| refused.at > began && refused.at <= cold.resume_at) {
            return rules::longest_doubt(threshold_ns);
        }
        threshold_ns
    }

    /// Tells the last stall, and with it of all others since the last that was told; what ended these is counted.
    fn stall(&mut self, place: Place, hot: &Hot, cold: &Cold, is_uncertain: bool, coalesced: u32) {
        self.tell_rest(place, hot, cold);
        let silent_since = cold.stall_at - cold.stall_silent_ns;
        // By a shard whose word we had to wait for, perhaps.
        let turned_away = &self.view(place.shard).port.turned_away;
        let is_uncertain = is_uncertain || turned_away.is_after(hot.pid, silent_since);
        let kind = EventKind::Stall {
            silent_ns: cold.stall_silent_ns,
            last_nonce: cold.stall_nonce,
            certain: !is_uncertain,
            blind_ns: cold.stall_blind_ns,
            coalesced,
        };
        let deadline = self.thawed_at(place).unwrap_or(silent_since) + self.threshold_of(hot);
        let told = self.told(place);
        let between = cold.resumes.wrapping_sub(told.resumes).min(coalesced.saturating_sub(1));
        told.resumes = told.resumes.wrapping_add(between);
        {
            let tally = &mut self.tally;
            let shard = &mut tally.shards[usize::from(place.shard)];
            let count = if is_uncertain { &mut shard.stalls_uncertain } else { &mut shard.stalls_certain };
            *count += u64::from(coalesced);
            shard.resumes += u64::from(between);
            shard.up -= 1;
            shard.stalled += 1;
            shard.histograms.lateness_ns.saturating_record(self.now.since(deadline));
        }
        self.told(place).set(Mark::Stalled, true);
        self.tell_of(place, hot, cold.stall_at, kind);
    }

    /// Tells that the silence ended that was told, and with it of all others that began and ended since: these were
    /// stalls, too, of which nobody was asked.
    fn resume(&mut self, place: Place, hot: &Hot, cold: &Cold, coalesced: u32) {
        self.tell_rest(place, hot, cold);
        let (silent_ns, lost) = (cold.resume_silent_ns, cold.resume_lost);
        let is_refuted = rules::is_refuted(silent_ns, lost, self.threshold_of(hot));
        let told = self.told(place);
        let between = cold.stalls.wrapping_sub(told.stalls).min(coalesced.saturating_sub(1));
        told.stalls = told.stalls.wrapping_add(between);
        {
            let tally = &mut self.tally;
            let shard = &mut tally.shards[usize::from(place.shard)];
            shard.stalls_uncertain += u64::from(between);
            shard.resumes += u64::from(coalesced);
            shard.stalls_refuted += u64::from(is_refuted);
            shard.stalled -= 1;
            shard.up += 1;
        }
        let told = self.told(place);
        told.set(Mark::Stalled, false);
        // The last frame of the dead may have ended the silence; they are dead all the same.
        if !told.is_gone() {
            told.existence = Existence::Unknown;
        }
        self.tell_of(place, hot, cold.resume_at, EventKind::Resume { silent_ns, lost, coalesced });
        if planted!(ResumesTwice) {
            self.tell_of(place, hot, cold.resume_at, EventKind::Resume { silent_ns, lost, coalesced });
        }
    }

    fn threshold_of(&self, hot: &Hot) -> u64 {
        self.policy.threshold_ns(hot.class)
    }

    // --- telling ------------------------------------------------------------------------------------

    fn agent(&mut self, place: Place, hot: &Hot) -> Agent {
        let Session { number: session, ns_pid, .. } = self.session(place);
        Agent { pid: hot.pid, ns_pid, session, nonce: hot.nonce(), status: hot.status, payload: hot.payload }
    }

    fn tell_of(&mut self, place: Place, hot: &Hot, mono: MonoNs, kind: EventKind) {
        let agent = self.agent(place, hot);
        self.tell_agent(place, agent, mono, kind);
    }

    /// Tells it of the agent, or counts it if its user's agents come and go too fast.
    fn tell_agent(&mut self, place: Place, agent: Agent, mono: MonoNs, kind: EventKind) {
        if self.told(place).is(Mark::Uncalled) && self.counts_only(place, agent, mono, &kind) {
            return;
        }
        self.tell(Some(place.shard), Some(agent), mono, kind);
    }

    /// Counts it, if there are too many of its kind. If not, the agent's `up` precedes it.
    fn counts_only(&mut self, place: Place, agent: Agent, mono: MonoNs, kind: &EventKind) -> bool {
        let generation = self.told(place).generation;
        let facts = self.view(place.shard).port.table.read(place.slot).ok();
        let facts = facts.filter(|(_, cold)| cold.generation == generation);
        if let Some((hot, cold)) = facts
            && kind.rank() != Rank::Verdict
            && !self.is_settled(&cold)
            && (matches!(kind, EventKind::Exit { .. }) || !self.churns.take(hot.uid(), self.now))
        {
            self.churns.count(hot.uid(), self.now, kind);
            return true;
        }
        self.mark_session(place, Mark::Uncalled, false);
        if *kind != EventKind::Up {
            let at = facts.map_or(mono, |(_, cold)| cold.first_arrival);
            self.tell(Some(place.shard), Some(agent), at, EventKind::Up);
        }
        false
    }

    /// Whether the agent does not come and go.
    fn is_settled(&self, cold: &Cold) -> bool {
        self.now.since(cold.first_arrival) >= churn::SETTLED_NS
    }

    fn tell_of_churn(&mut self, is_last: bool) {
        for churn in self.churns.tell(self.now, is_last) {
            self.tell(None, None, self.now, churn);
        }
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

    /// The session of the slot's holder.
    fn session(&mut self, place: Place) -> Session {
        let generation = self.told(place).generation;
        self.view(place.shard).port.sessions.get(place.slot, generation).unwrap_or_default()
    }

    /// The slot's holder is in this session.
    fn enter(&mut self, place: Place, session: Session) {
        let generation = self.told(place).generation;
        self.view(place.shard).port.sessions.put(place.slot, generation, session);
    }
}

/// Whether what the slot says may be somebody else's, who got the pid of the agent that was told of.
fn is_doubtful(told: &Told, cold: &Cold) -> bool {
    let is_silent = [Mark::Stalled, Mark::Frozen, Mark::Thawed].iter().any(|mark| told.is(*mark));
    let is_return = is_silent && told.resumes != cold.resumes;
    let is_other_session =
        (told.streams, told.versions, told.users) != (cold.streams, cold.versions, cold.users);
    told.is(Mark::Doubted) || told.is(Mark::Closed) || told.is(Mark::Up) && (is_return || is_other_session)
}

/// What tells one program from the next; `None` if the kernel did not say, as of a process on its way out.
fn hash_of(program: &Program) -> Option<NonZeroU32> {
    let mut hasher = DefaultHasher::new();
    program.exe.as_ref()?.hash(&mut hasher);
    NonZeroU32::new((hasher.finish() >> 32) as u32)
}
