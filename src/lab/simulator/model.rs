//! The reference model: knows the truth and is naive. It records the fate of every datagram and the times of
//! every thread in plain lists, and decides for each event and each silence whether it may or must be
//! reported.

macro_rules! must {
    ($self:ident, $invariant:ident, $what:expr, $($words:tt)*) => {
        if !$what {
            return Err(Violation { invariant: Invariant::$invariant, at: $self.now, what: format!($($words)*) });
        }
    };
}

mod absence;
mod actions;
mod messages;
mod phases;
mod progress;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use absence::Absence;
use actions::Actions;

use crate::event::{About, BlindPhase, DaemonPhase, Event, EventKind, FrozenPhase, RestartWhy, StallPhase};
use crate::lab::simulator::invariants::{Invariant, Verdict, Violation};
use crate::lab::simulator::story::{AT_REST, Garbage, MS, SECOND, Setting, Story, Terms, What};
use crate::lab::simulator::truth::{self, Datagram, Life, Sending, Truth, Worth, after, leaps};
use crate::lane::counters::ShardCounters;
use crate::refusal::Refusal;
use crate::sinks::jsonl;
use crate::time::MonoNs;

/// The world's begin on the observer's clock.
pub const START: MonoNs = MonoNs(1_000_000_000_000);
/// The kernel rounds start times down to 10 ms.
pub fn started(born: u64) -> MonoNs {
    let at = (START + born).0;
    MonoNs(at - at % (10 * MS))
}

/// Arrivals are exact to this: the offset of the wall clock is known to a millisecond.
const ERROR: u64 = MS + 50_000;
/// Time for the questions to other shards and the lookup thread.
const CONFIRM: u64 = 20 * MS;
/// Longest time in which nothing is reported of an agent whose claimed pid is looked up.
const HELD: u64 = SECOND;
/// How often the processes of stalled agents are polled.
const WATCH: u64 = SECOND;
/// How long an exit waits for shards that may hold a terminal frame.
const EXIT: u64 = SECOND;
const AWAKE_THRESHOLDS: u64 = 3;
/// An idle shard records this often how far it has come.
const IDLE: u64 = SECOND;
/// By how much an aggregator begins later than its shards.
pub const BEGINS_WITHIN: u64 = 30 * MS;
/// Most datagrams that a shard has taken and not processed.
const IN_HAND_MAX: usize = 64;

/// The fate of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not sent yet, as far as is known.
    Unknown,
    /// The queue was full.
    Refused,
    Queued,
    Read,
    /// The shard panicked or was killed while it processed the datagram.
    Lost,
    /// An observer read it of which nothing was adopted.
    Forgotten,
}

#[derive(Debug, Default)]
struct ShardTruth {
    /// Its sendings in order, and how many of them were sent.
    sendings: Vec<usize>,
    sent: usize,
    /// Those that the kernel queued, and how many of them were read.
    queued: Vec<usize>,
    read: usize,
    delivered_until: u64,
    /// Times in which the shard could not run.
    still: Vec<(u64, u64)>,
    /// Times in which the shard did not run though it should have.
    pauses: Vec<(u64, u64)>,
    /// Instants at which its sight began anew.
    grace: Vec<u64>,
    /// Times in which the queue was full, and since when it is now.
    full: Vec<(u64, u64)>,
    full_since: Option<u64>,
    /// When the queue was full last, as far as the shard can know.
    seemed_full_at: Option<u64>,
    watermark: u64,
    expected: BTreeMap<usize, u64>,
    perhaps: u64,
    read_total: u64,
    /// Messages that were read and are no beats.
    heard: u64,
    /// Read but not counted yet; and how many were counted but not read.
    in_hand: VecDeque<usize>,
    excess: usize,
    batches: u64,
    /// Ends of pauses whose blind window is not reported yet.
    blind_due: Vec<u64>,
    /// A successor knows that the shard was awake until here.
    awake_until: u64,
}

/// The start of a successor.
#[derive(Clone, Copy, Debug)]
struct Successor {
    at: u64,
    /// When its aggregator started.
    begun_at: u64,
    /// End of its predecessor, and the last instant at which that recorded that it ran.
    ended_at: u64,
    last_alive: u64,
    why: RestartWhy,
    is_adopting: bool,
}

/// What was reported of the silence of a pid in one lane.
#[derive(Clone, Copy, Debug, Default)]
struct ToldOfSilence {
    is_stalled: bool,
    /// What it misses is its end.
    is_stopping: bool,
    /// The beat that ended its last silence.
    resumed_at: u64,
    stalled_at: u64,
    is_frozen: bool,
    frozen_at: u64,
}

impl ToldOf {
    /// Its silence is over in every lane.
    fn forget_silence(&mut self) {
        self.is_still = false;
        for of in &mut self.silence {
            (of.is_stalled, of.is_frozen) = (false, false);
        }
    }

    fn is_stalled(&self) -> bool {
        self.silence.iter().any(|of| of.is_stalled)
    }

    fn is_frozen(&self) -> bool {
        self.silence.iter().any(|of| of.is_frozen)
    }
}

/// What was reported of a pid.
#[derive(Debug, Default)]
struct ToldOf {
    is_up: bool,
    /// By lane: frames, messages.
    silence: [ToldOfSilence; 2],
    /// The phase that was told of it last.
    phase: Option<DaemonPhase>,
    is_still: bool,
    up_at: u64,
    up_told_at: u64,
    exits: usize,
    /// Nothing before this instant belongs to the present process.
    not_before: u64,
    over: Vec<u32>,
    /// Exited processes that the observer cannot know of.
    unknown: Vec<u32>,
    history: Vec<(u64, &'static str, Option<u16>)>,
}

/// The reference model of one world.
#[derive(Debug)]
pub struct Model {
    pub truth: Truth,
    setting: Setting,
    /// Starts after the first.
    successors: Vec<Successor>,
    ended: Option<(u64, RestartWhy)>,
    last_alive: u64,
    /// Between an end and a start nobody owes anything.
    is_away: bool,
    /// A successor that has not started has the queues and the numbers of the events.
    is_taken_over: bool,
    /// The observer that runs has reported nothing of its own yet.
    is_beginning: bool,
    /// With restarts: what was reported so far, as lines, by number.
    lines: Option<Vec<Vec<u8>>>,
    acknowledged: u64,
    /// The number that is to be repeated next.
    repeats_next: u64,
    fates: Vec<Fate>,
    of_pid: HashMap<u32, Vec<usize>>,
    /// The messages of each pid.
    messages: HashMap<u32, Vec<usize>>,
    /// When a pid sent a frame that its uid may not send: evidence, but no beat.
    turned_away: HashMap<u32, Vec<u64>>,
    life_of_id: HashMap<u32, usize>,
    shards: Vec<ShardTruth>,
    /// Times in which the aggregator and the lookup thread did not run.
    still: [Vec<(u64, u64)>; 2],
    told: BTreeMap<u32, ToldOf>,
    /// The owner of each session number: pid, and its number of exits before.
    sessions: HashMap<u32, (u32, usize)>,
    checks: BinaryHeap<Reverse<(u64, u32)>>,
    not_before: u64,
    stalls: Vec<(u64, Event)>,
    /// Agents to which nothing happens that hides their phase, by pid.
    plain: std::collections::HashSet<u32>,
    /// Standstills that must be reported.
    stands: Vec<progress::Stand>,
    /// Whom the observer has to expect, by pid.
    absent: BTreeMap<u32, Absence>,
    actions: Actions,
    events: u64,
    last_seq: u64,
    decodes: Vec<u64>,
    beats: u64,
    slow_next: u64,
    slow_lost: u64,
    has_steps: bool,
    /// When the wall clock stepped back by as much as a pause.
    steps_back: Vec<u64>,
    has_panics: bool,
    with_forgers: bool,
    is_tight: bool,
    /// Thresholds, since when they are in force, in order.
    terms: Vec<(u64, Terms)>,
    pub now: u64,
}

impl Model {
    pub fn new(story: &Story) -> Self {
        let truth = Truth::of(story);
        let mut of_pid: HashMap<u32, Vec<usize>> = HashMap::new();
        let mut turned_away: HashMap<u32, Vec<u64>> = HashMap::new();
        let mut messages: HashMap<u32, Vec<usize>> = HashMap::new();
        let mut shards: Vec<ShardTruth> =
            (0..story.setting.sockets()).map(|_| ShardTruth::default()).collect();
        for (index, sending) in truth.sendings.iter().enumerate() {
            shards[usize::from(sending.shard)].sendings.push(index);
            if matches!(sending.what, Datagram::Garbage(Garbage::WrongUser)) {
                turned_away.entry(sending.pid).or_default().push(sending.at);
            }
            if matches!(sending.what, Datagram::Message(_)) {
                messages.entry(sending.pid).or_default().push(index);
            } else if sending.worth != Worth::Never {
                of_pid.entry(sending.pid).or_default().push(index);
            }
        }
        for shard in &mut shards {
            shard.grace.push(0);
        }
        let has = |is: fn(&What) -> bool| story.happenings.iter().any(|happening| is(&happening.what));
        let pids = truth.of_pid.len();
        let step = story.setting.threshold / 2;
        let checks = truth.of_pid.keys().enumerate().map(|(n, pid)| {
            let spread = step * n as u64 / pids.max(1) as u64;
            Reverse((story.setting.threshold + spread, *pid))
        });
        Self {
            setting: story.setting.clone(),
            successors: Vec::new(),
            ended: None,
            last_alive: 0,
            is_away: false,
            is_taken_over: false,
            is_beginning: true,
            lines: has(|what| matches!(what, What::Restart(_))).then(Vec::new),
            acknowledged: 0,
            repeats_next: 1,
            fates: vec![Fate::Unknown; truth.sendings.len()],
            of_pid,
            messages,
            turned_away,
            life_of_id: truth.lives.iter().enumerate().map(|(index, life)| (life.id, index)).collect(),
            shards,
            still: Default::default(),
            told: truth.of_pid.keys().map(|pid| (*pid, ToldOf::default())).collect(),
            sessions: HashMap::new(),
            checks: checks.collect(),
            not_before: 0,
            stalls: Vec::new(),
            plain: phases::plain_of(story, &truth),
            stands: progress::stands_of(story, &truth),
            absent: BTreeMap::new(),
            actions: Actions::default(),
            events: 0,
            last_seq: 0,
            decodes: vec![0; usize::from(story.setting.sockets())],
            beats: 0,
            slow_next: 1,
            slow_lost: 0,
            has_steps: has(|what| matches!(what, What::StepWall { .. })),
            steps_back: steps_back(story),
            has_panics: has(|what| matches!(what, What::Panic { .. })),
            with_forgers: has(|what| matches!(what, What::Forge { .. })),
            is_tight: (story.setting.agents_max as usize) < pids,
            terms: vec![(0, story.setting.terms())],
            truth,
            now: 0,
        }
    }

    /// Number of the last reported event.
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Events reported so far.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Datagrams read so far.
    pub fn datagrams(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read_total).sum()
    }

    // --- what the machine and the threads did -----------------------------------------------------

    /// The shard's sending with a number.
    pub fn sending(&self, shard: usize, number: usize) -> Option<&Sending> {
        self.shards[shard].sendings.get(number).map(|index| &self.truth.sendings[*index])
    }

    /// When the next datagram arrives at a shard.
    pub fn next_sending(&self, shard: usize) -> Option<u64> {
        self.sending(shard, self.shards[shard].sent).map(|sending| sending.at)
    }

    /// How many datagrams will arrive at a shard until an instant; at most `most`.
    pub fn sendings_until(&self, shard: usize, until: u64, most: u64) -> u64 {
        let mut come = 0;
        let first = self.shards[shard].sent;
        while come < most {
            match self.sending(shard, first + usize::try_from(come).unwrap()) {
                Some(sending) if sending.at <= until => come += 1,
                _ => break,
            }
        }
        come
    }

    /// The kernel queued or refused the shard's next sendings; all those up to `until` were delivered.
    pub fn delivered(&mut self, shard: usize, are_queued: impl Iterator<Item = bool>, until: u64) {
        let of = &mut self.shards[shard];
        for is_queued in are_queued {
            let index = of.sendings[of.sent];
            of.sent += 1;
            self.fates[index] = if is_queued { Fate::Queued } else { Fate::Refused };
            if is_queued {
                of.queued.push(index);
            }
        }
        of.delivered_until = of.delivered_until.max(until);
    }

    /// Each call of the shard read this many datagrams, and the shard counted `counted` of them.
    pub fn received(&mut self, shard: usize, calls: &[usize], counted: usize) -> Verdict {
        let is_empty = calls.iter().all(|read| *read == 0);
        must!(self, I13, is_empty || !self.is_taken_over, "two observers read the queue of shard {shard}");
        let of = &mut self.shards[shard];
        for read in calls {
            for _ in 0..*read {
                let index = of.queued[of.read];
                of.read += 1;
                self.fates[index] = Fate::Read;
                of.in_hand.push_back(index);
            }
            of.batches += u64::from(*read > 0);
        }
        of.excess += counted.saturating_sub(of.in_hand.len());
        for index in of.in_hand.drain(..counted.min(of.in_hand.len())) {
            of.read_total += 1;
            let sending = &self.truth.sendings[index];
            match (sending.what, sending.worth) {
                (Datagram::Garbage(garbage), _) => {
                    *of.expected.entry(refusal_of(garbage) as usize).or_default() += 1;
                }
                (Datagram::Message(words), _) => of.heard += u64::from(!words.is_beat()),
                (_, Worth::Sure) => {}
                _ => of.perhaps += 1,
            }
        }
        Ok(())
    }

    /// The shard's queue was full in these times, and has been full since `since`.
    pub fn was_full(&mut self, shard: usize, full: impl Iterator<Item = (u64, u64)>, since: Option<u64>) {
        let of = &mut self.shards[shard];
        of.full.extend(full);
        of.full_since = since;
    }

    /// The shard's queue was full last at this instant, as far as the shard can know.
    pub fn seemed_full(&mut self, shard: usize, at: Option<u64>) {
        self.shards[shard].seemed_full_at = at;
    }

    /// The shard cannot run until `to`.
    pub fn stands_still(&mut self, shard: usize, to: u64) {
        self.shards[shard].still.push((self.now, to));
    }

    /// The thresholds in force.
    pub fn terms(&self) -> Terms {
        self.terms[self.terms.len() - 1].1.clone()
    }

    /// The aggregator has put these thresholds in force.
    pub fn reloaded(&mut self, terms: Terms) {
        self.terms.push((self.now, terms));
    }

    /// When thresholds changed last.
    fn reloaded_at(&self) -> u64 {
        self.terms.last().map_or(0, |(since, _)| *since)
    }

    /// Indices of the thresholds that were in force at some instant from one to another.
    fn terms_within(&self, from: u64, to: u64) -> impl Iterator<Item = usize> + '_ {
        let until = |index: usize| self.terms.get(index + 1).map_or(u64::MAX, |(next, _)| *next);
        (0..self.terms.len()).filter(move |index| self.terms[*index].0 <= to && until(*index) >= from)
    }

    /// The shard did not run in this time though it should have.
    pub fn was_paused(&mut self, shard: usize, from: u64, to: u64) {
        let longest = longest_pause_ns(&self.setting, self.lane_of(shard)) + 5 * MS;
        let of = &mut self.shards[shard];
        of.pauses.push((from, to));
        if to - from > longest {
            of.blind_due.push(to);
        }
    }

    /// The aggregator cannot run until `to`.
    pub fn aggregator_stands_still(&mut self, to: u64) {
        self.still[0].push((self.now, to));
    }

    /// The lookup thread cannot answer until `to`.
    pub fn lookup_stands_still(&mut self, to: u64) {
        self.still[1].push((self.now, to));
    }

    /// The shard's thread panicked and recovered. It lost the datagram in hand, if there was one.
    pub fn began_anew(&mut self, shard: usize, at: u64) {
        let of = &mut self.shards[shard];
        if let Some(lost) = of.in_hand.pop_front() {
            self.fates[lost] = Fate::Lost;
        }
        of.grace.push(at);
        of.blind_due.clear();
    }

    // --- restarts -----------------------------------------------------------------------------------------

    /// The shard ended a turn that began at `from`, and recorded that it ran at `alive_at`.
    pub fn turned(&mut self, shard: usize, (from, alive_at): (u64, u64), is_queue_empty: bool) {
        self.last_alive = self.last_alive.max(alive_at);
        if is_queue_empty {
            // Until then it knows its pauses one by one.
            self.shards[shard].awake_until = from;
        }
    }

    /// The aggregator recorded that it runs.
    pub fn aggregator_turned(&mut self) {
        self.last_alive = self.last_alive.max(self.now);
    }

    /// The observer stops in order: nobody owes anything any more.
    pub fn begins_to_stop(&mut self) {
        self.is_away = true;
        for still in &mut self.still {
            still.push((self.now, u64::MAX));
        }
    }

    /// A successor has taken over from the observer that runs. What that one has reported until now was handed over.
    pub const fn is_taken_over(&mut self) {
        self.is_taken_over = true;
    }

    /// The observer has ended. Its output had acknowledged everything up to a number.
    pub fn ended(&mut self, why: RestartWhy, acknowledged: u64) -> Verdict {
        if !self.is_away {
            self.begins_to_stop();
        }
        (self.ended, self.acknowledged) = (Some((self.now, why)), acknowledged);
        for shard in 0..self.shards.len() {
            let in_hand: Vec<usize> = self.shards[shard].in_hand.drain(..).collect();
            let is_within = in_hand.len() <= IN_HAND_MAX && (in_hand.is_empty() || why == RestartWhy::Crash);
            must!(self, I13, is_within, "shard {shard} loses {} datagrams by {why:?}", in_hand.len());
            in_hand.into_iter().for_each(|index| self.fates[index] = Fate::Lost);
        }
        Ok(())
    }

    /// A successor starts. Its counters begin anew.
    pub fn succeeds(&mut self, is_adopting: bool) {
        let (at, last_alive) = (self.now, self.last_alive);
        let (ended_at, why) = self.ended.take().unwrap_or((at, RestartWhy::Crash));
        self.successors.push(Successor { at, begun_at: at, ended_at, last_alive, why, is_adopting });
        for of in &mut self.still {
            if let Some(last) = of.last_mut() {
                last.1 = at;
            }
        }
        for of in &mut self.shards {
            of.still.push((of.awake_until.min(ended_at), at));
            of.expected.clear();
            (of.perhaps, of.read_total, of.batches, of.excess) = (0, 0, 0, 0);
            of.heard = 0;
            of.blind_due = is_adopting.then_some(at).into_iter().collect();
            if !is_adopting {
                of.watermark = 0;
            }
        }
        self.decodes.fill(0);
        (self.beats, self.slow_lost) = (0, 0);
        (self.is_away, self.is_taken_over, self.is_beginning) = (false, false, true);
        self.repeats_next = self.acknowledged + 1;
        self.not_before = self.not_before.max(at);
        if !is_adopting {
            self.forget();
        }
    }

    /// Nothing was adopted: the observer knows nobody, and numbers anew.
    fn forget(&mut self) {
        self.last_alive = self.now;
        (self.last_seq, self.acknowledged, self.repeats_next) = (0, 0, 1);
        self.sessions.clear();
        self.absent.clear();
        if let Some(lines) = &mut self.lines {
            lines.clear();
        }
        for fate in &mut self.fates {
            if matches!(fate, Fate::Read | Fate::Lost) {
                *fate = Fate::Forgotten;
            }
        }
        for (pid, told) in &mut self.told {
            let of_lanes =
                || [&self.of_pid, &self.messages].into_iter().filter_map(|of| of.get(pid)).flatten();
            let is_queued = |life: usize| {
                let of_life = |index: &&usize| self.truth.sendings[**index].life == life;
                of_lanes().filter(of_life).any(|index| self.fates[*index] == Fate::Queued)
            };
            let lives = self.truth.of_pid[pid].iter().copied();
            let unknown = lives.filter(|life| self.truth.lives[*life].died <= self.now && !is_queued(*life));
            let unknown = unknown.map(|life| self.truth.lives[life].id).collect();
            *told = ToldOf { unknown, history: std::mem::take(&mut told.history), ..ToldOf::default() };
            told.history.push((self.now, "anew", None));
        }
    }

    /// The aggregator starts.
    pub fn begins(&mut self) {
        if let Some(successor) = self.successors.last_mut() {
            successor.begun_at = self.now;
        }
    }

    /// The successor has reported what it adopted, and counts this many slots.
    pub fn has_begun(&mut self, up: u64, stalled: u64) -> Verdict {
        must!(self, I13, !self.is_beginning, "an observer began without a word");
        let told = || self.told.values().filter(|told| told.is_up);
        let are_stalled = |told: &ToldOf| told.silence.iter().filter(|of| of.is_stalled).count() as u64;
        let are_stalled: u64 = told().map(are_stalled).sum();
        // A slot counts until it is released, soon after its exit was reported.
        let gone = self.told.values().filter(|told| !told.is_up && told.exits > 0).count() as u64;
        // Who is or was frozen is silent by the slots until it beats.
        let is_silent = |pid: &u32, told: &ToldOf| !told.is_stalled() && self.was_frozen(*pid, 0, self.now);
        let all_up = self.told.iter().filter(|(_, told)| told.is_up);
        let frozen = all_up.filter(|(pid, told)| is_silent(pid, told)).count() as u64;
        let lanes = 1 + u64::from(self.setting.notify.is_some());
        let is_right = stalled >= are_stalled && stalled <= are_stalled + lanes * (frozen + gone);
        must!(self, I13, is_right, "{stalled} are counted as stalled, {are_stalled} are");
        let are_up = (told().count() as u64).saturating_sub(are_stalled + frozen);
        must!(self, I13, up >= are_up, "{up} are counted as up, {are_up} are");
        Ok(())
    }

    /// The first event of an observer's own: everything that was not acknowledged was repeated before.
    fn on_beginning(&mut self, event: &Event) -> Verdict {
        self.is_beginning = false;
        self.slow_next = event.seq;
        let Some(successor) = self.successors.last() else {
            must!(self, I13, matches!(event.kind, EventKind::Start { .. }), "the first event is {event:?}");
            return Ok(());
        };
        let is_right = match event.kind {
            EventKind::Start { .. } => !successor.is_adopting,
            EventKind::Restart { .. } => successor.is_adopting,
            _ => false,
        };
        must!(self, I13, is_right, "a successor begins by {event:?}: {successor:?}");
        let (next, seq) = (self.repeats_next, event.seq);
        must!(
            self,
            I13,
            next == seq,
            "what follows the acknowledged {} was repeated up to {next}, not to {seq}",
            self.acknowledged
        );
        Ok(())
    }

    /// An event is repeated, or the numbers of some that cannot be. True if it is news.
    fn on_repeated(&mut self, event: &Event) -> Result<bool, Violation> {
        let (from, to) = match event.kind {
            EventKind::Lost { from_seq, to_seq } => (from_seq, to_seq),
            _ => (event.seq, event.seq),
        };
        let next = self.repeats_next;
        must!(self, I13, self.is_beginning, "repeated later than at the start: {event:?}");
        must!(self, I13, from == next, "{next} is to be repeated, and not {event:?}");
        self.repeats_next = to + 1;
        if to > self.last_seq {
            must!(self, I13, from == to, "{to} is lost, and was never reported");
            return Ok(true);
        }
        let line = line_of(event);
        let index = usize::try_from(event.seq).unwrap().saturating_sub(1);
        let is_same = from < to || self.lines.as_ref().is_some_and(|lines| lines[index] == line);
        must!(self, I13, is_same, "{} is repeated with another content: {event:?}", event.seq);
        Ok(false)
    }

    fn on_restart(&self, event: &Event) -> Verdict {
        let EventKind::Restart { why, shards, adopted, gone, gap_ns } = event.kind else { return Ok(()) };
        let at = event.mono.since(START);
        let of = self.successors.iter().rfind(|successor| successor.at <= at);
        let of = of.filter(|successor| successor.is_adopting);
        must!(self, I13, of.is_some(), "no observer adopted anything then: {event:?}");
        let of = of.unwrap();
        let gap = of.at - of.last_alive.min(of.at);
        let error = self.setting.turn_ns + MS;
        let is_right = why == of.why && shards == self.setting.sockets() && gap_ns.abs_diff(gap) <= error;
        must!(self, I13, is_right, "{of:?}: {event:?}");
        let known = self.told.iter().filter(|(_, told)| told.is_up).map(|(pid, _)| *pid);
        let known: Vec<u32> = known.collect();
        must!(self, I13, adopted as usize == known.len(), "{} are known: {event:?}", known.len());
        let are_gone = known.iter().filter(|pid| self.truth.holder(**pid, at).is_none()).count();
        must!(self, I13, gone as usize == are_gone, "{are_gone} are gone: {event:?}");
        Ok(())
    }

    /// How much longer what was begun before may take, because it was begun again in each restart since.
    fn begun_again(&self, since: u64) -> u64 {
        let restarts = self.successors.iter().filter(|successor| successor.at > since).count() as u64;
        restarts * (HELD + WATCH + EXIT + 2 * CONFIRM + IDLE + self.slack())
    }

    // --- after every turn of a shard ----------------------------------------------------------------

    /// `local`: the shard's clock. `is_panicked`: datagrams may be left in hand.
    pub fn check_counters(
        &mut self,
        shard: usize,
        counters: &ShardCounters,
        local: u64,
        is_panicked: bool,
    ) -> Verdict {
        let (frames, beats) = (counters.frames.get(), counters.beats.get());
        let watermark = counters.watermark().since(START);
        let refused = |refusal: Refusal| counters.refused(refusal);
        let of = &self.shards[shard];
        // A datagram that the kernel does not attest proves nothing.
        let unattested = *of.expected.get(&(Refusal::Unattested as usize)).unwrap_or(&0);
        let found = refused(Refusal::Unattested);
        must!(self, I10, found == unattested, "{found} of {unattested} unattested datagrams were refused");
        let uncounted = of.in_hand.len();
        must!(
            self,
            I1,
            of.excess == 0 && (uncounted == 0 || is_panicked),
            "shard {shard} read {uncounted} datagrams that it did not count, and counted {} that it did not read",
            of.excess
        );
        must!(
            self,
            I1,
            frames == of.read_total,
            "shard {shard} counted {frames} of {} datagrams",
            of.read_total
        );
        let sum: u64 = Refusal::ALL.iter().map(|refusal| refused(*refusal)).sum();
        let heard = of.heard;
        let is_sum = beats + sum + heard == frames || heard > 0 && self.is_tight && beats + sum <= frames;
        must!(
            self,
            I1,
            is_sum,
            "shard {shard}: {beats} beats + {sum} refused + {heard} messages that are no beats of {frames} datagrams"
        );
        let mut by_state = 0;
        for refusal in Refusal::ALL {
            let found = refused(*refusal);
            let expected = *of.expected.get(&(*refusal as usize)).unwrap_or(&0);
            match refusal {
                Refusal::Downgrade | Refusal::Forged => by_state += found,
                Refusal::TableFull if self.is_tight => {}
                _ => must!(
                    self,
                    I1,
                    found == expected,
                    "shard {shard} refused {found} as {}, of {expected}",
                    refusal.as_str()
                ),
            }
        }
        must!(self, I1, by_state <= of.perhaps, "shard {shard} refused {by_state} beats of honest agents");
        if is_panicked && watermark == 0 {
            // Its first turn did not end.
            return Ok(());
        }
        must!(self, I3, watermark >= of.watermark, "the watermark of shard {shard} went back to {watermark}");
        must!(
            self,
            I3,
            watermark <= local + ERROR,
            "the watermark of shard {shard} is in the future: {watermark}"
        );
        if let Some(waiting) = of.in_hand.front().or_else(|| of.queued.get(of.read)) {
            let arrived = self.truth.sendings[*waiting].at;
            must!(
                self,
                I3,
                watermark <= arrived + ERROR,
                "the watermark of shard {shard} is {watermark}, but what arrived at {arrived} was not read"
            );
        }
        self.shards[shard].watermark = watermark;
        Ok(())
    }

    // --- what is reported ------------------------------------------------------------------------------

    pub fn on_event(&mut self, event: &Event) -> Verdict {
        self.events += 1;
        let seq = event.seq;
        must!(self, I13, !self.is_taken_over, "two observers number their events: {event:?}");
        let is_lost = seq == 0 && matches!(event.kind, EventKind::Lost { .. });
        if event.again || is_lost {
            if !self.on_repeated(event)? {
                return Ok(());
            }
        } else if self.is_beginning {
            self.on_beginning(event)?;
        }
        must!(self, I8, seq == self.last_seq + 1, "event {seq} follows {}", self.last_seq);
        self.last_seq = seq;
        if let Some(lines) = &mut self.lines {
            lines.push(line_of(event));
        }
        match event.kind {
            EventKind::Restart { .. } => self.on_restart(event)?,
            // The counts of its observer are gone.
            EventKind::Decode { .. } if event.again => {}
            EventKind::Decode { .. } => self.decodes[usize::from(event.shard.unwrap())] += 1,
            EventKind::Blind { phase: BlindPhase::End { for_ns }, .. } => {
                let end = event.mono.since(START);
                let begin = end.saturating_sub(for_ns);
                let of = &mut self.shards[usize::from(event.shard.unwrap())];
                of.blind_due.retain(|due| !(begin < *due && *due <= end + ERROR));
            }
            EventKind::Missing { pid, .. } => self.on_missing(event, pid)?,
            EventKind::Exit { while_away, .. } if event.shard.is_none() => {
                return self.on_missing_exit(event, while_away);
            }
            EventKind::Up => {
                let pid = event.pid();
                self.absent.retain(|absent, _| Some(*absent) != pid);
            }
            _ => {}
        }
        let Some(agent) = event.agent else { return Ok(()) };
        let at = event.mono.since(START);
        let pid = agent.pid;
        must!(self, I2, self.told.contains_key(&pid), "{pid} is nobody's: {event:?}");
        let id = truth::id_of(agent.payload);
        let life = self.life_of_id.get(&id).copied();
        let is_of_daemons = event.shard.is_some_and(|shard| self.setting.is_of_daemons(shard));
        let lane = usize::from(is_of_daemons);
        // A terminal frame has its own payload, which is the agent's as well. A message has none.
        must!(
            self,
            I6,
            life.is_some_and(|life| self.truth.lives[life].pid == pid) || is_of_daemons && id == 0,
            "the last words of {pid} are another's: {event:?}"
        );
        let now = self.now;
        let told = self.told.get_mut(&pid).unwrap();
        told.history.push((now, event.kind.name(), event.shard));
        let owner = *self.sessions.entry(agent.session).or_insert((pid, told.exits));
        let is_own = owner == (pid, told.exits);
        let (is_up, is_stalled, not_before) = (told.is_up, told.silence[lane].is_stalled, told.not_before);
        must!(self, I6, is_own, "session {} was another's: {event:?}, now exits of {owner:?}", agent.session);
        let began = |silent_ns: u64| event.mono.since(START).saturating_sub(silent_ns) + ERROR;
        match event.kind {
            EventKind::Up => {
                must!(self, I2, !is_up, "{pid} is up twice: {}", self.history(pid));
                self.check_up(event)?;
                must!(
                    self,
                    I6,
                    !self.told[&pid].over.contains(&id) || self.is_open(pid, not_before),
                    "{pid} is up, but {id} was told to be gone: {}",
                    self.history(pid)
                );
                let told = self.told.get_mut(&pid).unwrap();
                // An agent taken for the next process is reported as exited, too.
                told.over.retain(|over| *over != id);
                (told.is_up, told.phase) = (true, None);
                told.forget_silence();
                (told.up_at, told.up_told_at) = (at, now);
            }
            EventKind::Phase { phase } => self.on_phase(event, phase)?,
            EventKind::Stall { silent_ns, certain, phase, .. } => {
                must!(self, I6, is_up, "nobody is up as {pid}, and stalls: {}", self.history(pid));
                must!(self, I6, began(silent_ns) >= not_before, "{pid} inherits a silence: {event:?}");
                must!(self, I5, !is_stalled, "{pid} stalls twice: {}", self.history(pid));
                let of = &mut self.told.get_mut(&pid).unwrap().silence[lane];
                (of.is_stalled, of.stalled_at) = (true, at);
                of.is_stopping = phase == Some(StallPhase::Stopping);
                let since = at.saturating_sub(silent_ns);
                let is_sighted = self.is_sighted(since, now, lane) && !self.was_turned_away(pid, since, now);
                // After a thaw no shard has judged the silence yet.
                let is_sighted = is_sighted && !self.was_frozen(pid, since, now);
                must!(
                    self,
                    I4,
                    certain || !is_sighted,
                    "{pid} may be stalled, it is said, in full sight: {event:?}"
                );
                self.stalls.push((now, *event));
            }
            EventKind::Resume { silent_ns, .. } => {
                must!(self, I6, is_up, "nobody is up as {pid}, and resumes: {}", self.history(pid));
                must!(self, I6, began(silent_ns) >= not_before, "{pid} inherits a silence: {event:?}");
                must!(self, I5, is_stalled, "{pid} resumes without a stall: {}", self.history(pid));
                let of = &mut self.told.get_mut(&pid).unwrap().silence[lane];
                (of.is_stalled, of.resumed_at) = (false, at);
            }
            EventKind::Frozen { phase: FrozenPhase::Begin } => {
                must!(self, I6, is_up, "nobody is up as {pid}, and freezes: {}", self.history(pid));
                let is_new = !is_stalled && !self.told[&pid].silence[lane].is_frozen;
                must!(self, I5, is_new, "{pid} freezes twice: {}", self.history(pid));
                let since = now.saturating_sub(2 * SECOND + self.slack());
                let is_so = self.was_frozen(pid, since, now) || !self.is_sighted(since, now, lane);
                must!(self, I3, is_so, "{pid} is not frozen: {event:?}");
                let of = &mut self.told.get_mut(&pid).unwrap().silence[lane];
                (of.is_frozen, of.frozen_at) = (true, at);
            }
            EventKind::Frozen { phase: FrozenPhase::End } => {
                let is_frozen = std::mem::take(&mut self.told.get_mut(&pid).unwrap().silence[lane].is_frozen);
                must!(self, I5, is_frozen, "{pid} thaws, and was not frozen: {}", self.history(pid));
            }
            EventKind::Standstill { .. } | EventKind::Advance { .. } => self.on_progress(event)?,
            EventKind::Exit { silent_ns, while_away, .. } => {
                let is_own = began(silent_ns) >= not_before || self.is_offset_unknown();
                must!(self, I6, is_own, "{pid} inherits a silence: {event:?}");
                let lives = &self.truth.of_pid[&pid];
                let mut dead = lives
                    .iter()
                    .map(|life| &self.truth.lives[*life])
                    .filter(|life| life.died <= now && !self.told[&pid].unknown.contains(&life.id));
                // The first exited process whose exit is not reported yet.
                let gone = dead.nth(self.told[&pid].over.len());
                if gone.is_none() && self.is_offset_unknown() {
                    let told = self.told.get_mut(&pid).unwrap();
                    told.is_up = false;
                    told.forget_silence();
                    told.exits += 1;
                    return Ok(());
                }
                must!(self, I6, gone.is_some(), "{pid} lives, and is told to be gone: {}", self.history(pid));
                let gone = gone.unwrap();
                let (gone, born, died) = (gone.id, gone.born, gone.died);
                self.on_exit_while_away(event, while_away, (born, died))?;
                let told = self.told.get_mut(&pid).unwrap();
                told.is_up = false;
                told.forget_silence();
                told.exits += 1;
                // A shard that did not read for a second may still hold frames of the exited process; their
                // sender no longer exists.
                if self.shards.iter().all(|shard| shard.watermark >= died) {
                    told.not_before = told.not_before.max(died.min(at + ERROR));
                    told.over.push(gone);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// An exit is said to be of the time without an observer if it is.
    fn on_exit_while_away(&self, event: &Event, while_away: bool, (born, died): (u64, u64)) -> Verdict {
        let told = &self.told[&event.agent.unwrap().pid];
        let adopted = self.successors.iter().rfind(|successor| successor.is_adopting);
        let is_possible = adopted.is_some_and(|of| born <= of.ended_at);
        must!(self, I13, !while_away || is_possible, "nobody adopted it: {event:?}");
        // Another process that has exited, too, may not have been told apart.
        let pid = event.agent.unwrap().pid;
        let is_of_gap = adopted.is_some_and(|of| {
            let is_known = told.is_up && told.up_told_at <= of.ended_at;
            let heir = self.truth.holder(pid, of.begun_at);
            let is_told_apart = heir.is_none_or(|heir| heir.died > self.now);
            // The one before may have reported it, and ended in the very same instant.
            let is_of_before = event.again && event.mono.since(START) <= of.ended_at;
            is_known && is_told_apart && !is_of_before && (of.ended_at..of.at).contains(&died)
        });
        must!(self, I13, while_away || !is_of_gap, "died at {died}, while nobody ran: {event:?}");
        Ok(())
    }

    /// Whether the observer cannot know by how much the wall clock was ahead when the frames in its queue came:
    /// that clock steps in this world, and nothing was adopted. Their senders may seem to be of long ago.
    fn is_offset_unknown(&self) -> bool {
        self.has_steps && self.successors.iter().any(|successor| !successor.is_adopting)
    }

    /// Whether the owner of the last beat of a pid is undecidable. If a step of the wall clock or a panic
    /// hides when a frame arrived, a frame of the exited process may count as one of the next process; and a
    /// process that sent a terminal frame first has sent no other frame to identify it.
    fn is_open(&self, pid: u32, since: u64) -> bool {
        let is_terminal = |index: usize| {
            let what = self.truth.sendings[index].what;
            matches!(what, Datagram::Frame(frame) if frame.is_terminal())
        };
        self.has_panics || self.has_steps || self.sendings_within(pid, since, self.now).any(is_terminal)
    }

    /// A beat was delivered to the subscriber that wants them.
    pub fn on_beat(&mut self) {
        self.beats += 1;
    }

    /// An event that the slow subscriber read.
    pub fn on_slow(&mut self, event: &Event) -> Verdict {
        let next = self.slow_next;
        let (from, to) = match event.kind {
            EventKind::Lost { from_seq, to_seq } => {
                self.slow_lost += to_seq + 1 - from_seq;
                (from_seq, to_seq)
            }
            _ => (event.seq, event.seq),
        };
        must!(
            self,
            I8,
            from == next && to >= from,
            "after {} a slow subscriber gets {from} to {to}",
            next - 1
        );
        self.slow_next = to + 1;
        Ok(())
    }

    // --- silences ------------------------------------------------------------------------------------

    /// Checks the reported stalls once all arrivals up to their instant are known.
    pub fn check_stalls(&mut self) -> Verdict {
        let known = self.shards.iter().map(|shard| shard.delivered_until).min().unwrap_or(0);
        let stalls = std::mem::take(&mut self.stalls);
        for (told_at, event) in stalls {
            if event.mono.since(START) >= known {
                self.stalls.push((told_at, event));
                continue;
            }
            if event.shard.is_some_and(|shard| self.setting.is_of_daemons(shard)) {
                self.check_stall_of_daemon(&event, told_at)?;
                continue;
            }
            self.check_stall(&event, told_at)?;
            self.check_standstill(&event, told_at)?;
        }
        Ok(())
    }

    /// Whether reported stalls are not checked yet.
    pub const fn has_open_stalls(&self) -> bool {
        !self.stalls.is_empty()
    }

    fn check_stall(&self, event: &Event, told_at: u64) -> Verdict {
        let EventKind::Stall { silent_ns, certain, coalesced, phase, .. } = event.kind else { return Ok(()) };
        self.check_phase(event, told_at)?;
        let pid = event.agent.unwrap().pid;
        let home = event.shard.unwrap();
        let at = event.mono.since(START);
        let threshold = self.threshold_low(pid, at, told_at);
        must!(self, I3, silent_ns + ERROR >= threshold, "{pid} was silent for {silent_ns} only: {event:?}");
        must!(
            self,
            I3,
            coalesced > 1 || phase.is_some() || self.is_due(pid, at, silent_ns, told_at),
            "{pid} was given less than the threshold since a reload made it shorter: {event:?}; {:?}",
            self.terms
        );
        let from = (at + ERROR).saturating_sub(threshold);
        for index in self.sendings_within(pid, from.max(self.told[&pid].up_at), at.saturating_sub(ERROR)) {
            let sending = &self.truth.sendings[index];
            let is_life = matches!(sending.worth, Worth::Sure | Worth::LastWords);
            if !is_life || !matches!(self.fates[index], Fate::Queued | Fate::Read) {
                continue;
            }
            let is_here = sending.shard == home;
            let is_excused = !is_here && !certain;
            must!(
                self,
                I3,
                is_excused,
                "{pid} had beaten at {} on shard {}: {event:?}; {}",
                sending.at,
                sending.shard,
                self.history(pid)
            );
        }
        let since = at.saturating_sub(silent_ns);
        self.check_sight_since_restart((pid, home), (since, at), self.threshold_low(pid, at, at), event)?;
        if !certain {
            return Ok(());
        }
        let of_name = self.threshold_of_name(pid, since, at, told_at);
        must!(
            self,
            I3,
            coalesced > 1 || silent_ns + ERROR >= of_name,
            "{pid} has another name by then, and {of_name} ns: {event:?}"
        );
        self.check_sight(event, (since, at), threshold)
    }

    /// No shard of the lane was blind when it had to see for a threshold before the stall.
    fn check_sight(&self, event: &Event, (since, at): (u64, u64), threshold: u64) -> Verdict {
        let (pid, home) = (event.agent.unwrap().pid, event.shard.unwrap());
        let lane = self.lane_of(usize::from(home));
        let pause = longest_pause_ns(&self.setting, lane) + 2 * MS;
        // The agent may have moved to a shard that was blind when it came.
        for (shard, of) in self.of_lane(lane) {
            let pauses = of.pauses.iter().filter(|(from, to)| to - from > pause).map(|(_, to)| *to);
            let ended = pauses.chain(of.grace.iter().copied()).filter(|sight| *sight <= at);
            // A datagram sent to a full queue was refused. Stamps are rounded, so a queue that became full
            // just now is not judged.
            let full = of.full.iter().copied().chain(of.full_since.map(|since| (since, u64::MAX)));
            let full = full.filter(|(from, _)| *from + ERROR < at).map(|(_, to)| to);
            for sight in ended.chain(full).filter(|sight| *sight > since + ERROR) {
                must!(
                    self,
                    I3,
                    sight.saturating_add(threshold) <= at + ERROR,
                    "shard {shard} was blind until {sight}, and shard {home} is certain of {pid}: {event:?}"
                );
            }
        }
        Ok(())
    }

    /// The observer had to see for a threshold since it started, or for three of all time with an observer.
    fn check_sight_since_restart(
        &self,
        (pid, home): (u32, u16),
        (since, at): (u64, u64),
        threshold: u64,
        event: &Event,
    ) -> Verdict {
        let within =
            self.successors.iter().filter(|successor| successor.at > since + ERROR && successor.at <= at);
        let Some(last) = within.clone().next_back() else { return Ok(()) };
        let away: u64 = within.map(|of| of.at - of.ended_at.max(since).min(of.at)).sum();
        let is_owed = last.at + threshold > at + ERROR;
        let is_overdue = at - since - away + ERROR >= AWAKE_THRESHOLDS * threshold;
        let is_excused = matches!(event.kind, EventKind::Stall { certain: false, .. }) && is_overdue;
        must!(
            self,
            I3,
            !is_owed || is_excused,
            "an observer runs since {}, and shard {home} reports {pid}: {event:?}",
            last.at
        );
        Ok(())
    }

    /// The smallest threshold that may have applied to a pid, judged at `at` or later.
    fn threshold_low(&self, pid: u32, at: u64, told_at: u64) -> u64 {
        let all = self.terms_within(at.saturating_sub(ERROR), told_at);
        all.map(|index| self.threshold_low_of(index, pid, at)).min().unwrap_or(0)
    }

    /// The smallest of these thresholds that may have applied to a pid.
    fn threshold_low_of(&self, terms: usize, pid: u32, at: u64) -> u64 {
        let terms = &self.terms[terms].1;
        let lowest = self.classes_of(pid, at).map(|class| terms.threshold_of(class)).min();
        let lowest = lowest.unwrap_or(terms.threshold);
        if self.setting.lookup_fails > 0 { lowest.min(terms.threshold) } else { lowest }
    }

    fn classes_of(&self, pid: u32, at: u64) -> impl Iterator<Item = u8> + '_ {
        let lives = self.truth.of_pid[&pid].iter().map(|life| &self.truth.lives[*life]);
        let names = lives.filter(move |life| life.born <= at).flat_map(|life| life.names.iter());
        names.filter(move |(from, _)| *from <= at).map(|(_, class)| *class)
    }

    /// Whether a silence was long enough by thresholds in force; if a reload made them shorter in it, a whole one
    /// must have passed since.
    fn is_due(&self, pid: u32, at: u64, silent_ns: u64, told_at: u64) -> bool {
        let since = at.saturating_sub(silent_ns);
        self.terms_within(at.saturating_sub(ERROR), told_at).any(|index| {
            let low = self.threshold_low_of(index, pid, at);
            let reloaded_at = self.terms[index].0;
            let was_silent = index > 0 && since + ERROR < reloaded_at;
            let is_shorter =
                was_silent && self.terms[index].1.largest() < self.threshold_low_of(index - 1, pid, at);
            silent_ns + ERROR >= low && (!is_shorter || at + ERROR >= reloaded_at + low)
        })
    }

    /// The smallest threshold of the names that a pid has when its stall is reported; 0 if they could not be
    /// looked up.
    fn threshold_of_name(&self, pid: u32, since: u64, at: u64, told_at: u64) -> u64 {
        let asked_from = at.saturating_sub(CONFIRM);
        let holder = self.truth.holder(pid, at).filter(|life| life.born <= since && life.died > told_at);
        let Some(life) =
            holder.filter(|_| self.setting.lookup_fails == 0 && self.is_sighted(since, told_at, 0))
        else {
            return 0;
        };
        let later = life.names.iter().filter(|(from, _)| (asked_from..=told_at).contains(from));
        let classes = later.map(|(_, class)| *class).chain([life.class_at(asked_from)]);
        let all: Vec<usize> = self.terms_within(at.saturating_sub(ERROR), told_at).collect();
        let of_class = |class: u8| all.iter().map(move |index| self.terms[*index].1.threshold_of(class));
        classes.flat_map(of_class).min().unwrap_or(0)
    }

    /// The largest of all thresholds that are ever in force.
    pub fn threshold_max(&self) -> u64 {
        let largest = self.setting.all_terms().map(|terms| terms.largest()).max().unwrap_or(0);
        let phased = self.setting.phased.map_or(0, |phased| phased.start.max(phased.busy));
        largest.max(phased)
    }

    /// Sendings of a pid from one instant to another, both included.
    fn sendings_within(&self, pid: u32, from: u64, to: u64) -> impl DoubleEndedIterator<Item = usize> + '_ {
        let of_pid = self.of_pid.get(&pid).map_or(&[][..], |of_pid| &of_pid[..]);
        let first = of_pid.partition_point(|index| self.truth.sendings[*index].at < from);
        let last = of_pid.partition_point(|index| self.truth.sendings[*index].at <= to);
        of_pid[first..last.max(first)].iter().copied()
    }

    /// Messages of a pid from one instant to another, both included.
    fn messages_within(&self, pid: u32, from: u64, to: u64) -> impl DoubleEndedIterator<Item = usize> + '_ {
        let of_pid = self.messages.get(&pid).map_or(&[][..], |of_pid| &of_pid[..]);
        let first = of_pid.partition_point(|index| self.truth.sendings[*index].at < from);
        let last = of_pid.partition_point(|index| self.truth.sendings[*index].at <= to);
        of_pid[first..last.max(first)].iter().copied()
    }

    /// 0: the shard is of frames; 1: of daemons.
    fn lane_of(&self, shard: usize) -> usize {
        usize::from(u16::try_from(shard).is_ok_and(|shard| self.setting.is_of_daemons(shard)))
    }

    /// The shards of a lane, with their numbers.
    fn of_lane(&self, lane: usize) -> impl Iterator<Item = (usize, &ShardTruth)> + Clone + '_ {
        self.shards.iter().enumerate().filter(move |(shard, _)| self.lane_of(*shard) == lane)
    }

    /// When the next agents are due to be checked.
    pub fn next_check(&self) -> u64 {
        let next = self.checks.peek().filter(|_| !self.is_away);
        next.map_or(u64::MAX, |Reverse((at, _))| (*at).max(self.not_before))
    }

    /// Nothing is checked before this instant.
    pub fn leap_to(&mut self, at: u64) {
        self.not_before = self.not_before.max(at);
    }

    /// Checks the agents that are due.
    pub fn check_agents(&mut self) -> Verdict {
        self.check_stands()?;
        while let Some(Reverse((at, pid))) = self.checks.peek().copied() {
            if at.max(self.not_before) > self.now {
                return Ok(());
            }
            self.checks.pop();
            self.check_agent(pid)?;
            self.check_daemon(pid)?;
            self.check_absent(pid)?;
            self.checks.push(Reverse((self.now + self.setting.threshold / 2, pid)));
        }
        Ok(())
    }

    /// Whether every thread ran and saw everything from one instant to another.
    fn is_sighted(&self, from: u64, to: u64, lane: usize) -> bool {
        let is_new = self.successors.iter().any(|successor| successor.at + ERROR > from);
        !is_new && self.is_seen_by_one(from, to, lane)
    }

    /// The same, of a time with one observer.
    fn is_seen_by_one(&self, from: u64, to: u64, lane: usize) -> bool {
        let slack = 2 * MS + 2 * self.setting.latency;
        let overlaps = |windows: &[(u64, u64)]| {
            windows.iter().rev().any(|(start, end)| *end > from && *start < to && end - start > slack)
        };
        let mut shards = self.of_lane(lane).map(|(_, shard)| shard);
        let is_shard_blind = |shard: &ShardTruth| {
            let is_full = shard.full_since.is_some()
                || shard.full.last().is_some_and(|(_, end)| *end + SECOND > from)
                || shard.seemed_full_at.is_some_and(|at| at + SECOND > from);
            let is_new = shard.grace.iter().any(|at| *at + ERROR > from);
            overlaps(&shard.still) || is_full || is_new
        };
        let load = self.setting.turn_ns + self.setting.frame_ns * 64 + self.setting.latency;
        // After a step back, the first datagram seems to have been queued for as long as the step. That may
        // have been a pause, so the observer is not certain of a stall.
        let is_doubtful = self.steps_back.iter().any(|at| *at + 2 * SECOND > from && *at < to);
        // An agent that the observer turned away for lack of room may have beaten: that is blindness, too.
        !self.is_tight
            && !is_doubtful
            && load < 10 * MS
            && !self.still.iter().any(|still| overlaps(still))
            && !shards.any(is_shard_blind)
    }

    /// Whether a process with this pid was frozen at some time from one instant to another.
    fn was_frozen(&self, pid: u32, from: u64, to: u64) -> bool {
        let lives = self.truth.of_pid.get(&pid).into_iter().flatten();
        let mut frozen = lives.flat_map(|life| &self.truth.lives[*life].frozen);
        frozen.any(|(begin, end)| *end > from && *begin < to)
    }

    /// Whether the observer may have refused a frame of a pid from one instant to another, for a reason of
    /// its own.
    fn was_turned_away(&self, pid: u32, from: u64, to: u64) -> bool {
        let at = self.turned_away.get(&pid).into_iter().flatten();
        at.copied().any(|at| at + ERROR > from && at < to)
    }

    /// Time in which every thread involved ran.
    fn awake(&self, shard: u16, from: u64, to: u64) -> u64 {
        let of = &self.shards[usize::from(shard)];
        let mut windows: Vec<(u64, u64)> =
            of.still.iter().chain(&self.still[0]).chain(&self.still[1]).copied().collect();
        for grace in &of.grace {
            windows.push((0, *grace));
        }
        windows.retain(|(start, end)| *end > from && *start < to);
        windows.sort_unstable();
        let (mut still, mut until) = (0, from);
        for (start, end) in windows {
            let (start, end) = (start.max(until), end.min(to));
            still += end.saturating_sub(start);
            until = until.max(end);
        }
        (to - from).saturating_sub(still)
    }

    /// Time the observer itself may take, in addition to the thresholds.
    fn slack(&self) -> u64 {
        let Setting { tick, frame_ns, turn_ns, latency, queue_limit, lookup_ns, max_delay, .. } =
            self.setting;
        let queue = frame_ns * (u64::from(queue_limit).min(self.busiest()) + 1200);
        let lookups = lookup_ns.min(CONFIRM);
        // A silence that waits for its turn to be confirmed waits for all before it.
        let rounds = self.setting.in_flight_max.map_or(1, |max| {
            let share = (u64::from(max) / u64::from(self.setting.sockets())).max(1);
            1 + self.fates.len() as u64 / share
        });
        tick + rounds * CONFIRM
            + lookups
            + queue
            + 40 * (turn_ns + latency)
            + 2 * max_delay
            + 2 * ERROR
            + 5 * MS
    }

    /// Upper bound of the datagrams in one queue.
    fn busiest(&self) -> u64 {
        self.shards.iter().map(|shard| shard.sendings.len() as u64).max().unwrap_or(0).min(4096)
    }

    fn check_agent(&self, pid: u32) -> Verdict {
        let now = self.now;
        // What arrived at a shard in the middle of a turn is not known yet.
        let known = self.shards.iter().map(|shard| shard.delivered_until).min().unwrap_or(0);
        if known + ERROR < now {
            return Ok(());
        }
        let told = &self.told[&pid];
        let lives = &self.truth.of_pid[&pid];
        let Some(life) = lives.iter().map(|life| &self.truth.lives[*life]).rfind(|life| life.born <= now)
        else {
            return Ok(());
        };
        if self.with_forgers && life.forges_from.is_some() {
            return Ok(());
        }
        if self.is_tight && self.messages.contains_key(&pid) {
            // It may be up by its messages, and its frames may have found no room.
            return Ok(());
        }
        let is_life = |index: &usize| matches!(self.fates[*index], Fate::Queued | Fate::Read | Fate::Lost);
        let beats = || self.sendings_within(pid, 0, now).rev().filter(is_life);
        let Some(last) = beats().next().map(|index| self.truth.sendings[index]) else { return Ok(()) };
        let slack = self.slack();
        let threshold = self.threshold_max();
        let awake_since = |at: u64| self.awake(last.shard, at, now);
        if life.died <= now {
            // An exit must be reported, as a silence must.
            let since = life.died.max(last.at);
            let again = self.begun_again(since);
            let allowed = AWAKE_THRESHOLDS * threshold + HELD + 2 * WATCH + EXIT + slack + again;
            let is_told = !told.is_up;
            must!(
                self,
                I4,
                is_told || awake_since(since) <= allowed,
                "{pid} died at {} and no exit is told: {}",
                life.died,
                self.history(pid)
            );
            return Ok(());
        }
        if self.truth.lives[last.life].id != life.id {
            return Ok(());
        }
        // From its first beat on, the agent is up.
        let first = self.sendings_within(pid, life.born, now).find(|index| {
            self.truth.sendings[*index].worth == Worth::Sure
                && matches!(self.fates[*index], Fate::Queued | Fate::Read)
        });
        let Some(first) = first.map(|index| self.truth.sendings[index]) else { return Ok(()) };
        if !told.is_up {
            let allowed = 2 * HELD + AWAKE_THRESHOLDS * threshold + slack + self.begun_again(first.at);
            let is_owed = awake_since(first.at) > allowed && !self.is_tight && !self.has_panics;
            must!(self, I2, !is_owed, "{pid} beats since {} and is not up: {}", first.at, self.history(pid));
            return Ok(());
        }
        if told.silence[0].is_stalled {
            // The beat that ended the silence is reported.
            let back = self.sendings_within(pid, told.silence[0].stalled_at + ERROR, now).find(|index| {
                let sending = &self.truth.sendings[*index];
                sending.worth == Worth::Sure && matches!(self.fates[*index], Fate::Queued | Fate::Read)
            });
            let Some(back) = back.map(|index| self.truth.sendings[index]) else { return Ok(()) };
            let again = self.begun_again(back.at);
            let allowed = HELD + 10 * CONFIRM + slack + self.threshold_max() + again;
            let is_owed = self.awake(back.shard, back.at, now) > allowed && !self.is_tight;
            must!(
                self,
                I5,
                !is_owed,
                "{pid} beats again since {} and is stalled: {}",
                back.at,
                self.history(pid)
            );
            return Ok(());
        }
        // While it is frozen, and until it had a threshold to beat in after the thaw was noticed, no stall is owed.
        let noticed = AWAKE_THRESHOLDS * threshold + 2 * WATCH + slack;
        if self.was_frozen(pid, last.at.saturating_sub(noticed), now) {
            return Ok(());
        }
        // It is silent: since when, and is that reported?
        let started = self.successors.last().map_or(0, |successor| successor.at);
        let settled = first
            .at
            .max(told.up_told_at)
            .max(self.last_change(pid, last.at))
            .max(started)
            .max(self.reloaded_at());
        // A process whose nonce continues that of the one before may be taken for it until the pid is looked
        // up.
        let is_classed = self.setting.rules.is_empty() && self.setting.tables.is_empty()
            || told.up_at + ERROR >= life.born
                && now.saturating_sub(settled) > 2 * SECOND
                && self.setting.lookup_fails == 0
                && self.is_seen_by_one(settled, now, 0);
        // Another program under the same pid may stay undetected: its first nonce may repeat the last one.
        let programs = life.names.iter().filter(|(from, _)| *from <= now);
        let terms = &self.terms[self.terms.len() - 1].1;
        let of_programs = programs.map(|(_, class)| terms.threshold_of(*class)).max();
        let of_programs = of_programs.map(|of_programs| of_programs.max(self.most_in_phase(life, &last)));
        let threshold = of_programs.filter(|_| is_classed).unwrap_or(threshold);
        let seen_from = last.at.max(started);
        let is_seen = self.is_seen_by_one(seen_from, now, 0) && last.worth == Worth::Sure;
        let is_seen = is_seen && !self.was_turned_away(pid, last.at, now);
        // A threshold that a reload made shorter holds from then on.
        let from = seen_from.max(self.reloaded_at());
        let silent = now.saturating_sub(from);
        must!(
            self,
            I4,
            !is_seen || silent <= threshold + slack,
            "{pid} is silent since {}, in full sight, and nothing is told: {}",
            last.at,
            self.history(pid)
        );
        // If the table is too small, a shard may have turned its beats away while another tracks the agent.
        let known_by = |index: usize| self.awake(self.truth.sendings[index].shard, from, now);
        let awake = match self.is_tight {
            true => beats().map(known_by).min().unwrap_or(0),
            false => awake_since(from),
        };
        must!(
            self,
            I4,
            awake <= AWAKE_THRESHOLDS * threshold + HELD + slack + CONFIRM + self.begun_again(last.at),
            "{pid} is silent since {}, {awake} ns of them awake, and nothing is told: {}",
            last.at,
            self.history(pid)
        );
        Ok(())
    }

    /// When the agent was last looked up, or should have been: it appeared on a shard, or began a program.
    fn last_change(&self, pid: u32, until: u64) -> u64 {
        let mut seen: Vec<u16> = Vec::new();
        let mut change = 0;
        let from = until.saturating_sub(4 * SECOND);
        for index in self.sendings_within(pid, from, until) {
            let sending = &self.truth.sendings[index];
            if !seen.contains(&sending.shard) {
                seen.push(sending.shard);
                if seen.len() > 1 {
                    change = sending.at;
                }
            }
        }
        let lives = &self.truth.of_pid[&pid];
        let programs = lives.iter().flat_map(|life| self.truth.lives[*life].names.iter());
        programs.filter(|(at, _)| *at <= until).map(|(at, _)| *at).max().unwrap_or(0).max(change)
    }

    fn history(&self, pid: u32) -> String {
        let told = &self.told[&pid];
        let from = told.history.len().saturating_sub(12);
        format!("told {:?}", &told.history[from..])
    }

    // --- at the end ----------------------------------------------------------------------------------

    pub fn check_end(&self, end: &End) -> Verdict {
        for (pid, told) in &self.told {
            must!(self, I4, !told.is_up, "{pid} is gone, and no exit is told: {}", self.history(*pid));
        }
        for (pid, absence) in &self.absent {
            let is_over = absence.missing_at.is_none() || self.may_have_beaten(*pid);
            must!(self, I14, is_over, "{pid} is gone, and missing: {absence:?}");
        }
        must!(
            self,
            I7,
            end.left == 0,
            "{} are still kept after everybody is gone: {}",
            end.left,
            end.what_is_left
        );
        let last = self.slow_next - 1;
        must!(
            self,
            I8,
            last == self.last_seq,
            "a slow subscriber heard of {last} events of {}",
            self.last_seq
        );
        let (lost, dropped) = (self.slow_lost, end.events_dropped);
        must!(self, I8, lost == dropped, "{lost} events are said to be lost, {dropped} are counted");
        for (shard, of) in self.shards.iter().enumerate() {
            let found = end.reports[shard];
            must!(self, I8, found == of.batches, "shard {shard}: {found} reports of {} batches", of.batches);
            must!(
                self,
                I8,
                of.blind_due.is_empty(),
                "shard {shard} was blind until {:?}, untold",
                of.blind_due
            );
            let refused: u64 =
                of.expected.iter().filter(|(reason, _)| is_decode(**reason)).map(|(_, n)| n).sum();
            let told = self.decodes[shard];
            let dropped = end.samples_dropped[shard];
            must!(
                self,
                I8,
                told <= refused && refused <= told + dropped,
                "shard {shard}: {told} told and {dropped} dropped of {refused} that did not decode"
            );
        }
        if self.setting.with_beats {
            let (told, untold, beats) = (self.beats, end.beats_untold, end.beats);
            must!(self, I8, told + untold == beats, "{told} beats told and {untold} dropped of {beats}");
        }
        Ok(())
    }
}

/// What is left once all agents are gone.
#[derive(Debug, Default)]
pub struct End {
    pub left: u64,
    pub what_is_left: String,
    pub events_dropped: u64,
    /// Reports taken and dropped, by shard.
    pub reports: Vec<u64>,
    pub samples_dropped: Vec<u64>,
    pub beats: u64,
    pub beats_untold: u64,
}

/// An event as the output writes it the first time.
/// The line of an event, or of its repetition by another observer: to that one the labels of this one mean nothing.
fn line_of(event: &Event) -> Vec<u8> {
    let mut line = Vec::new();
    let mut event = Event { again: false, ..*event };
    if let Some(agent) = &mut event.agent {
        agent.about = About { unit: None, container: None, exe: None, ..agent.about };
    }
    jsonl::write_line(&event, &mut line);
    line
}

fn steps_back(story: &Story) -> Vec<u64> {
    let leaps = leaps(story);
    let step = |what: &What| match what {
        What::StepWall { by } if *by < 0 => by.unsigned_abs(),
        _ => 0,
    };
    let shortest = shortest_pause_ns(&story.setting);
    let steps = story.happenings.iter().filter(|happening| step(&happening.what) >= shortest);
    steps.map(|happening| after(&leaps, happening.at)).collect()
}

/// A shorter gap is no pause, whatever is in force.
fn shortest_pause_ns(setting: &Setting) -> u64 {
    setting.all_terms().map(|terms| pause_ns(setting, &terms, 1)).min().unwrap_or(0)
}

/// A longer gap of a shard of this lane is a pause, whatever is in force.
fn longest_pause_ns(setting: &Setting, lane: usize) -> u64 {
    setting.all_terms().map(|terms| pause_ns(setting, &terms, lane)).max().unwrap_or(0)
}

fn pause_ns(setting: &Setting, terms: &Terms, lane: usize) -> u64 {
    let of_daemons = setting.notify.filter(|_| lane > 0).map_or(u64::MAX, |notify| notify.min);
    (100 * MS).max(terms.smallest().min(of_daemons) / 4)
}

fn is_decode(reason: usize) -> bool {
    reason <= Refusal::WrongSize as usize
}

const fn refusal_of(garbage: Garbage) -> Refusal {
    match garbage {
        Garbage::Probe => Refusal::Probe,
        Garbage::Short | Garbage::Long => Refusal::WrongSize,
        Garbage::Magic => Refusal::BadMagic,
        Garbage::Version => Refusal::BadVersion,
        Garbage::Flipped => Refusal::BadCrc,
        Garbage::Status => Refusal::BadStatus,
        Garbage::Stall => Refusal::StallOnWire,
        Garbage::Timestamp => Refusal::BadTimestamp,
        Garbage::Nonce => Refusal::BadNonce,
        Garbage::Init => Refusal::BadPid,
        Garbage::NoSender | Garbage::PidZero => Refusal::Unattested,
        Garbage::WrongUser => Refusal::Uid,
        Garbage::ForeignFds => Refusal::ForeignFds,
        Garbage::TruncatedControl => Refusal::TruncatedControl,
    }
}
