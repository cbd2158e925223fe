//! The aggregator thread: takes what shards queue, asks about processes, decides what to report, numbers
//! events and hands them out.
//!
//! The loop is here; [`facts`] compares slots with their records, [`confirm`] asks the others, [`findings`]
//! applies what they found out, [`settle`] lets the rules decide what is reported, [`troubles`] reports what
//! concerns a whole shard.
//!
//! In: facts, reports, samples and blind windows of all shards; findings of the lookup and the watch thread.
//! Out: events to subscribers, instructions to shards, counts. Thread: aggregator. Blocks: only between
//! turns. Allocates: for new agents. Time is an argument.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel::{Receiver, Sender};

use crate::event::{
    About, AdvanceWhy, Agent, BlindPhase, DaemonPhase, Event, EventKind, ExitHow, IoPlace, Origin, Rank,
    SessionWhy,
};
use crate::journal::{Adoption, Estate, Journal, Kept, KeptTable};
use crate::lane::blind::BlindNews;
use crate::lane::counters::ShardHealth;
use crate::lane::report::SAMPLES_MAX;
use crate::lane::sessions::{Freeze, Session};
use crate::lane::vigil::Vigil;
use crate::lane::{Doorbell, Instruction, Port, SampleOf, instruction};
use crate::process::expected::{Absent, Expected};
use crate::process::lookup::Lookups;
use crate::process::names::Names;
use crate::process::procfs::LookupError;
use crate::process::procfs::{Life, LookedUp, Program};
use crate::process::question::{Finding, Inquiry, Question};
use crate::process::watch::{Order, Watch};
use crate::refusal::Refusal;
use crate::route::shard_for;
use crate::rules::usual::Usual;
use crate::rules::{self, Existence};
use crate::table::Busy;
use crate::table::key::{AgentKey, ByKey};
use crate::table::place::{Holder, PackedPlace, Place};
use crate::table::slot::{Cold, Flags, Hot, State};
use crate::table::slots::Slots;
use crate::time::{MonoNs, WallNs};
use crate::view::copies::Asked;
use crate::view::tally::{Reader, Tally};
use crate::view::units::{Configured, Counted, Unit};
use crate::wire::{NONCE_TERMINAL, Status};

mod adopt;
mod asked;
mod changes;
mod churn;
mod commit;
mod confirm;
mod facts;
pub mod fanout;
mod findings;
mod freezes;
mod frozen;
mod limit;
mod missing;
pub mod policy;
pub mod present;
mod progress;
pub mod record;
pub mod reload;
mod reloaded;
mod roster;
mod rounds;
mod settle;
mod silence;
pub mod thread;
mod troubles;

#[cfg(test)]
mod tests;

use churn::Churns;
use fanout::{Fanout, Subscriber};
use freezes::Freezes;
use limit::{Buckets, Limit, Often, SECOND_NS};
use missing::Missing;
use policy::Policy;
use present::Present;
use record::{Mark, Places, Record};
use reload::{Matching, NewOutput, Reload, Reloading};
use rounds::{Rounds, Watched};

/// Reports wait this long, so that the aggregator is not woken for each.
const REPORT_TICK_NS: u64 = 100_000_000;
/// The same if a subscriber wants beats.
const BEATS_TICK_NS: u64 = 10_000_000;
/// With nothing pending, how often to check that every shard turns, and for events of a shard that its limit
/// held back.
const IDLE_NS: u64 = 1_000_000_000;
/// How long a stall waits for other shards and for the existence check.
const CONFIRM_NS: u64 = 20_000_000;
/// How much longer it waits to learn what its process runs now, while the lookup thread answers at all: long
/// enough to look up thousands of processes.
const LOOK_NS: u64 = 500_000_000;
/// How long an exit waits for a shard to read the last frames of the process.
const EXIT_NS: u64 = 1_000_000_000;
/// How long a stop waits for the watch thread's findings. The shards have ended by then.
const STOP_NS: u64 = 300_000_000;
/// Nanoseconds of a millisecond.
const MILLISECOND_NS: u64 = 1_000_000;
/// While something is confirmed, how often to check again without a ring.
const CONFIRM_TICK_NS: u64 = 1_000_000;
/// A longer gap between two turns while something is confirmed was a pause of the aggregator. Each wait is
/// extended once: turns that always take this long must not put off a stall for ever.
const TURN_GAP_NS: u64 = 20_000_000;
/// How long nothing is reported of an agent whose claimed pid waits to be looked up.
const HELD_NS: u64 = 1_000_000_000;
/// How often to poll a stalled agent whose process no pidfd watches.
const POLL_NS: u64 = 1_000_000_000;
/// Facts taken from one shard in a turn.
const FACTS_PER_TURN: u32 = 65_536;
/// Most stalls and resumes of all shards together that wait to be reported. Further facts wait before any
/// question is asked: the watch thread answers this many in a fraction of [`CONFIRM_NS`], so a fleet that
/// falls silent at once is reported for certain.
const IN_FLIGHT_MAX: u32 = 8192;
/// Reports taken from one shard in a turn.
const REPORTS_PER_TURN: u32 = 16_384;
/// Findings taken in a turn.
const FINDINGS_PER_TURN: usize = 8192;
/// The kernel rounds start times down to 10 ms.
const START_SLACK_NS: u64 = 10_000_000;

/// A request to the aggregator.
#[derive(Debug)]
pub enum Request {
    /// Adds a subscriber.
    Subscribe(Subscriber),
    /// An event output failed with this error number; 0: its file was truncated.
    WriteFailed(i32),
    /// A shard's socket file, or a file of the fleet as a whole, is not in its place, or is back.
    Files {
        /// The shard; `None` for the fleet.
        shard: Option<u16>,
        /// The error number of what keeps agents from finding it; 0: it is back.
        errno: i32,
    },
    /// These agents of an observer before this one were not adopted. Once, after the start.
    Expect(Arc<[Absent]>),
    /// The configuration changes.
    Reload(Box<Reload>),
    /// These units have series of their own before others. Before the start, and with a reload that changes them.
    Units(Configured),
    /// A reload was refused: nothing changes.
    ReloadRefused,
    /// Report what is done about an agent, or that nothing is.
    Report(Option<u16>, Option<Agent>, EventKind),
    /// What is known of the agent with this pid.
    Present(u32, Sender<Option<Present>>),
    /// Every agent that is stalled.
    Stalled(Sender<Vec<Present>>),
    /// The shards have ended: report what is left, then `stop`.
    Stop,
}

/// When to take the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: there is more.
    Now,
    /// At this instant, or when rung.
    At(MonoNs),
    /// Never: everything is reported.
    Stopped,
}

/// One shard as the aggregator sees it.
#[derive(Debug)]
struct ShardView {
    port: Arc<Port>,
    reported: Slots<Record>,
    /// What of `reported` outlives this process.
    kept: KeptTable,
    /// Where each agent is counted by unit.
    counted: Slots<Counted>,
    /// How agents advance whose rule asks for that.
    watched: Slots<Watched>,
    /// Slots of known holders with facts to look at, in order.
    to_look: VecDeque<u32>,
    /// Its slots in `pending`, without exits.
    in_flight: u32,
    /// The shard has processed everything that arrived until here, and its facts were taken.
    seen: MonoNs,
    /// Instructions were posted: kick it at the end of the turn.
    is_to_be_kicked: bool,
    /// When `full` was reported last, and the refusals reported so far.
    full_reported: (Option<MonoNs>, u64),
    io_errors_reported: u64,
    io_reported_at: Option<MonoNs>,
    panics_reported: u64,
    vigil: Vigil,
    /// The kernel refused memory for more agents: ask again at this instant.
    grant_again_at: MonoNs,
    auth: Limit,
    /// Frames refused for a share that were reported.
    share_reported: u64,
    flood: troubles::FloodWatch,
    matching: Matching,
}

/// A slot with an event that waits for answers.
#[derive(Clone, Copy, Debug)]
struct Pending {
    place: Place,
    generation: u32,
    give_up_at: MonoNs,
    is_forgiven: bool,
    /// The event is an exit, and waits for the last frames of the process.
    is_exit: bool,
}

/// An instruction to a shard that waits for the commit.
#[derive(Clone, Copy, Debug)]
struct Post {
    holder: Holder,
    bits: u32,
    instruction: Instruction,
}

/// The threads that the aggregator asks about processes.
#[derive(Debug)]
pub struct Inquiries {
    /// Who is it?
    pub lookups: Lookups,
    /// Is it there?
    pub watch: Watch,
    /// What both found out.
    pub findings: Receiver<Finding>,
    /// Who the processes are, for display.
    pub names: Arc<Names>,
}

/// The aggregator.
#[derive(Debug)]
pub struct Aggregator {
    shards: Vec<ShardView>,
    /// At most 64 by the plan.
    shard_count: u16,
    /// The threshold that each daemon was started with, ms; 0: none.
    started_with: HashMap<Place, u32>,
    policy: Policy,
    inquiries: Inquiries,
    /// When the lookup thread answered last.
    looked_up_at: MonoNs,
    /// The watch thread has new orders: wake it at the end of the turn.
    is_watch_ordered: bool,
    requests: Receiver<Request>,
    doorbell: Arc<Doorbell>,
    fanout: Fanout,
    tally: Tally,
    asked: Asked,
    /// Where each agent was seen last; its other places are linked from there.
    places: ByKey<Option<PackedPlace>>,
    pending: VecDeque<Pending>,
    in_flight_max: u32,
    /// Agents of which nothing is reported until the lookup says whose pid they claim, or until this instant.
    held: VecDeque<(MonoNs, Holder)>,
    /// Stalled and waiting agents that no pidfd watches, in the order of their next poll.
    polled: VecDeque<(MonoNs, Holder)>,
    /// Agents that are silent because they are or were frozen.
    freezes: Freezes,
    /// Limits the events of one agent.
    buckets: Buckets,
    /// Limits the events of a user's agents that come and go.
    churns: Churns,
    /// Agents with deferred events, in the order in which these are due.
    deferred: VecDeque<(MonoNs, Holder)>,
    reloading: Reloading,
    rounds: Rounds,
    /// The usual period of agents that stalled, with the generation of their slot.
    usual: HashMap<Place, (u32, Usual)>,
    /// Units that have series of their own before others.
    configured: Configured,
    /// From here on, agents are counted by unit again. `None`: all are.
    recounting: Option<Place>,
    /// Slots that were being written when read.
    again: Vec<Place>,
    /// Those of them whose process was gone at the start.
    gone_unread: Vec<Place>,
    journal: Arc<Journal>,
    /// What a predecessor left, until the start.
    adoption: Option<Adoption>,
    /// Agents of an observer before this one that have not beaten.
    missing: Missing,
    /// Not everything adopted was looked at.
    is_unproved: bool,
    /// Since the last commit: events, instructions, and records that may have changed.
    collected: Vec<Event>,
    posts: Vec<Post>,
    touched: Vec<Place>,
    /// Used by a commit; empty in between.
    changed: Vec<(Place, Kept)>,
    last_session: u32,
    /// When this observer started.
    started: MonoNs,
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
        estate: Estate,
    ) -> Self {
        debug_assert_eq!(estate.kept.len(), ports.len(), "one for each shard");
        let shards = ports.iter().zip(estate.kept).map(|(port, kept)| ShardView {
            reported: Slots::default(),
            kept,
            counted: Slots::default(),
            watched: Slots::default(),
            to_look: VecDeque::new(),
            in_flight: 0,
            seen: MonoNs(0),
            port: Arc::clone(port),
            is_to_be_kicked: false,
            full_reported: (None, 0),
            io_errors_reported: 0,
            io_reported_at: None,
            panics_reported: 0,
            vigil: Vigil::default(),
            grant_again_at: MonoNs(0),
            auth: Limit::default(),
            share_reported: 0,
            flood: troubles::FloodWatch::default(),
            matching: Matching::default(),
        });
        inquiries.lookups.expect_stalls_after(policy.classes.smallest_ns());
        Self {
            shards: shards.collect(),
            shard_count: u16::try_from(ports.len()).unwrap_or(u16::MAX),
            started_with: HashMap::new(),
            policy,
            inquiries,
            looked_up_at: MonoNs(0),
            is_watch_ordered: false,
            requests,
            doorbell,
            fanout: Fanout::default(),
            tally: Tally::of_shards(ports.len()),
            asked,
            places: ByKey::default(),
            pending: VecDeque::new(),
            in_flight_max: IN_FLIGHT_MAX,
            polled: VecDeque::new(),
            held: VecDeque::new(),
            freezes: Freezes::default(),
            buckets: Buckets::default(),
            churns: Churns::new(ports.iter().map(|port| port.table.capacity()).max().unwrap_or(0)),
            deferred: VecDeque::new(),
            reloading: Reloading::default(),
            rounds: Rounds::default(),
            usual: HashMap::new(),
            configured: Configured::default(),
            recounting: None,
            again: Vec::new(),
            gone_unread: Vec::new(),
            journal: estate.journal,
            is_unproved: estate.adoption.is_some(),
            adoption: estate.adoption,
            missing: Missing::default(),
            collected: Vec::new(),
            posts: Vec::new(),
            touched: Vec::new(),
            changed: Vec::new(),
            last_session: 0,
            started: MonoNs(0),
            last_turn: MonoNs(0),
            stop_by: None,
            now: MonoNs(0),
            wall: WallNs(0),
        }
    }

    /// Adopts what a predecessor left, if anything, and reports that, or that the fleet began. Call it once,
    /// before the first turn.
    pub fn start(&mut self, now: MonoNs, wall: WallNs) {
        (self.now, self.wall, self.last_turn, self.started) = (now, wall, now, now);
        self.tally.configured = wall;
        self.take_requests();
        match self.adoption.take() {
            Some(adoption) => self.adopt(&adoption),
            None => self.report(None, None, now, EventKind::Start { shards: self.shard_count }),
        }
        self.journal.set_of_frames(u16::try_from(self.of_frames()).unwrap_or(u16::MAX));
        self.commit();
    }

    /// One turn: takes what other threads queued, reports what is settled, and returns when to take the next.
    /// Call [`Aggregator::kick_shards`] after it.
    pub fn turn(&mut self, now: MonoNs, wall: WallNs) -> Next {
        (self.now, self.wall) = (now, wall);
        self.doorbell.wake();
        self.forgive_own_pause();
        self.take_requests();
        self.follow_reload();
        let mut is_more = false;
        for place in mem::take(&mut self.again) {
            self.look(place);
            self.commit_if_much();
        }
        for shard in 0..self.shard_count {
            // Read before the facts: all facts from before it are among those taken now.
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
        // Out of time, no more findings are taken: agents may go on to exit.
        is_more |= !self.is_out_of_time() && self.take_findings();
        self.settle_pending();
        self.report_of_held();
        self.report_of_deferred();
        self.report_of_churn(false);
        self.ask_about_polled();
        self.look_at_frozen();
        let next_look = self.look_for_progress();
        self.ask_about_missing();
        is_more |= (0..self.shard_count).any(|shard| self.may_look(shard));
        is_more |= self.recount();
        let is_ticking = self.take_reports();
        if mem::take(&mut self.is_watch_ordered) {
            self.inquiries.watch.begin();
        }
        self.commit();
        let is_owing = self.fanout.settle(wall, now);
        self.journal.mark_alive(now);
        if self.is_unproved && !is_more && self.again.is_empty() && self.have_shards_turned() {
            self.journal.mark_proved();
            self.is_unproved = false;
            self.gone_unread = Vec::new();
        }
        self.publish();
        self.next(is_more, is_ticking || is_owing, next_look)
    }

    /// Wakes the shards that have instructions or are to move their watermark. `now` is read after the turn:
    /// the turn may have been long, and a shard that is kicked late was not paused.
    pub fn kick_shards(&mut self, now: MonoNs) {
        for view in &mut self.shards {
            if mem::take(&mut view.is_to_be_kicked) {
                view.port.kick(now);
            }
        }
    }

    fn next(&mut self, is_more: bool, is_ticking: bool, next_look: Option<MonoNs>) -> Next {
        // A shard that is stuck while it writes a slot will not finish it.
        let is_waiting = !self.again.is_empty() && !self.is_out_of_time();
        if is_more || is_waiting {
            return Next::Now;
        }
        if self.stop_by.is_some() && (self.pending.is_empty() || self.is_out_of_time()) {
            self.report_of_churn(true);
            self.report(None, None, self.now, EventKind::Stop);
            self.commit();
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
            self.reloading.is_matching.then_some(self.now + CONFIRM_TICK_NS),
            self.freezes.next(),
            self.churns.next(),
            self.missing.due(),
            next_look,
        ];
        let at = ticks.into_iter().flatten().fold(self.now + IDLE_NS, MonoNs::min);
        if is_ticking {
            // A tick for reports is set: shards need not ring for them.
            return Next::At(at);
        }
        self.doorbell.sleep_tickless();
        let is_work = self.shards.iter().any(|view| !view.port.reports.is_empty());
        Next::At(if is_work { at.min(self.now + report_tick) } else { at })
    }

    /// Whether every shard has taken a whole turn since the start.
    fn have_shards_turned(&self) -> bool {
        self.shards.iter().all(|view| view.port.counters.turned_at.get() > self.started.0)
    }

    /// Whether the fleet stops and nothing is waited for any more.
    fn is_out_of_time(&self) -> bool {
        self.stop_by.is_some_and(|stop_by| self.now >= stop_by)
    }

    /// Extends the waits by a pause of the aggregator, which could take no answers meanwhile.
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

    /// The counts so far.
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    fn take_requests(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Subscribe(subscriber) => {
                    self.commit();
                    self.fanout.add(subscriber);
                }
                Request::WriteFailed(errno) => {
                    self.tally.event_write_errors += 1;
                    self.report(None, None, self.now, EventKind::Io { place: IoPlace::Events, errno });
                }
                Request::Files { shard, errno } => self.report_of_files(shard, errno),
                Request::Expect(roster) => self.expect_agents(roster),
                Request::Reload(reload) => self.reload(*reload),
                Request::Units(configured) => self.configure_units(configured),
                Request::ReloadRefused => self.reload_refused(),
                Request::Report(shard, agent, kind) => self.report(shard, agent, self.now, kind),
                Request::Present(pid, to) => drop(to.send(self.present(pid))),
                Request::Stalled(to) => drop(to.send(self.stalled())),
                Request::Stop => self.stop_by = self.stop_by.or(Some(self.now + STOP_NS)),
            }
        }
    }

    fn agent(&mut self, place: Place, hot: &Hot) -> Agent {
        let Session { number: session, ns_pid, .. } = self.session(place);
        let about = self.about(place);
        Agent {
            pid: hot.pid,
            ns_pid,
            session,
            nonce: hot.nonce(),
            status: hot.status,
            origin: if self.has_messages(place.shard) { Origin::Notify } else { Origin::Vlp },
            payload: hot.payload,
            about: About { uid: Some(hot.uid()), ..about },
        }
    }

    /// Who the holder of the slot is, as far as it was looked up.
    fn about(&mut self, place: Place) -> About {
        let generation = self.record(place).generation;
        self.inquiries.names.about(Holder { place, generation })
    }

    fn report_of(&mut self, place: Place, hot: &Hot, mono: MonoNs, kind: EventKind) {
        let agent = self.agent(place, hot);
        self.report_agent(place, agent, mono, kind);
    }

    /// Reports the event, or counts it if agents of its user come and go too fast.
    fn report_agent(&mut self, place: Place, agent: Agent, mono: MonoNs, kind: EventKind) {
        if self.record(place).is(Mark::Uncalled) && self.counts_only(place, agent, mono, &kind) {
            return;
        }
        self.report(Some(place.shard), Some(agent), mono, kind);
    }

    /// Counts the event, if there are too many of its kind. If not, reports the agent's `up` before it.
    fn counts_only(&mut self, place: Place, agent: Agent, mono: MonoNs, kind: &EventKind) -> bool {
        let generation = self.record(place).generation;
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
            self.report(Some(place.shard), Some(agent), at, EventKind::Up);
        }
        false
    }

    /// Whether the agent no longer counts as coming and going.
    fn is_settled(&self, cold: &Cold) -> bool {
        self.now.since(cold.first_arrival) >= churn::SETTLED_NS
    }

    fn report_of_churn(&mut self, is_last: bool) {
        for churn in self.churns.report(self.now, is_last) {
            self.report(None, None, self.now, churn);
        }
    }

    fn view(&mut self, shard: u16) -> &mut ShardView {
        &mut self.shards[usize::from(shard)]
    }

    fn record(&mut self, place: Place) -> &mut Record {
        let record = self.shards[usize::from(place.shard)].reported.of(place.slot);
        if !record.set(Mark::Touched, true) {
            self.touched.push(place);
        }
        record
    }

    /// The session of the slot's holder.
    fn session(&mut self, place: Place) -> Session {
        let generation = self.record(place).generation;
        self.view(place.shard).port.sessions.get(place.slot, generation).unwrap_or_default()
    }

    /// Stores the session of the slot's holder.
    fn enter(&mut self, place: Place, session: Session) {
        let generation = self.record(place).generation;
        self.view(place.shard).port.sessions.put(place.slot, generation, session);
    }
}

/// Identifies a program; `None` if the kernel did not say, as for a process that is exiting.
fn hash_of(program: &Program) -> Option<NonZeroU32> {
    let mut hasher = DefaultHasher::new();
    program.exe.as_ref()?.hash(&mut hasher);
    NonZeroU32::new((hasher.finish() >> 32) as u32)
}
