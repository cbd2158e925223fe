//! A whole core in a world of its own: agents that jitter, lose beats, fall silent and restart; an
//! observer that is paused wherever it hurts; a wall clock that steps. What is told is compared with
//! what happened. The seed of a failing world is in the message.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kick::Kick;
use crate::lane::{Answer, Doorbell, Port, answer};
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::shard::core::{Core, Limits};
use crate::shard::sight::BlindNews;
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::transport::Credentials;
use crate::shard::transport::replay::{Act, Point, Recorded, Replay, Script};
use crate::sys::allocations::during;
use crate::table::slot::State;
use crate::table::{Origin, create};
use crate::time::{Clock, ManualClock, MonoNs};
use crate::wire::{Frame, Status, Version};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const TICK: u64 = 10 * MS;
const IDLE: u64 = SECOND;
const START: MonoNs = MonoNs(1_000 * SECOND);
const ORIGIN: Origin = Origin { boot_id: 1, pid_namespace: 2, shard: 0, shards: 1 };
/// How far an arrival may be off: the offset of the wall clock is known to a millisecond.
const STAMP_ERROR: u64 = MS;

/// Small, seeded, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choose(self.next(), choices)
    }

    fn is_one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn choose<T: Copy>(number: u64, choices: &[T]) -> T {
    choices[usize::try_from(number).unwrap() % choices.len()]
}

/// One world.
#[derive(Clone, Copy, Debug)]
struct Setting {
    seed: u64,
    agents: u32,
    queue_limit: u32,
    threshold: u64,
    length: u64,
    /// Sleeping before draining; `None`: woken by each datagram.
    delay: Option<u64>,
    pauses: u64,
    pause_max: u64,
    is_wall_stepping: bool,
    /// Sends a second of one more agent, and what reading a datagram costs.
    flood: Option<(u64, u64)>,
}

/// What was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    pid: u32,
    watermark: MonoNs,
    at: MonoNs,
    is_certain: bool,
}

struct World {
    setting: Setting,
    clock: ManualClock,
    script: Script,
    core: Core<Replay, ManualClock>,
    is_behind: bool,
    /// What every agent did, as it did it; and whether the kernel took it.
    sent: BTreeMap<u32, Vec<(MonoNs, bool)>>,
    told: Vec<Told>,
    pauses: Vec<(MonoNs, MonoNs)>,
    news: Vec<BlindNews>,
}

const FLOODER: u32 = 4_000_000;

impl World {
    fn new(setting: Setting) -> Self {
        let clock = ManualClock::new(START, 1_700_000_000_000_000_000);
        let script = Script::new(&clock, setting.queue_limit);
        let agents_max = setting.agents + 1;
        let (writer, _) = create(agents_max, ORIGIN).unwrap();
        let admission = Admission::new(agents_max);
        let tracker = Tracker::new(writer, &[setting.threshold], 0, TICK, admission, START);
        let limits = Limits { threshold_min_ns: setting.threshold, tick_ns: TICK };
        let core = Core::new(script.transport(), clock.clone(), tracker, limits, None);
        let mut world = Self {
            setting,
            clock,
            script,
            core,
            is_behind: true,
            sent: BTreeMap::new(),
            told: Vec::new(),
            pauses: Vec::new(),
            news: Vec::new(),
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let mut random = Random::new(self.setting.seed);
        for agent in 0..self.setting.agents {
            self.live(&mut random, 1000 + agent * 7);
        }
        for _ in 0..self.setting.pauses {
            let at = START + random.below(self.setting.length);
            let for_ns = random.between(150 * MS, self.setting.pause_max);
            let points = [Point::Wait, Point::BeforeReceive, Point::InReceive, Point::AfterReceive];
            self.script.pause(at, for_ns, random.one_of(&points));
        }
        if self.setting.is_wall_stepping {
            for step in [3_600, -3_600, -86_400, 1, -1, 3_600, -1] {
                let at = START + random.below(self.setting.length);
                self.script.at(at, Act::StepWall(step * 1_000_000_000 + 77));
            }
        }
        for _ in 0..20 {
            self.script.at(START + random.below(self.setting.length), Act::Kick);
        }
        if let Some((rate, frame_ns)) = self.setting.flood {
            self.script.set_frame_ns(frame_ns);
            let mut at = START + SECOND;
            for nonce in 1.. {
                at = at + SECOND / rate;
                if at > START + self.setting.length {
                    break;
                }
                self.script.send(at, &frame(FLOODER, nonce), FLOODER);
            }
        }
    }

    /// The life of one agent: steady, with jitter, lost beats, silences, new handles; some die.
    fn live(&self, random: &mut Random, pid: u32) {
        let period = random.between(self.setting.threshold / 8, self.setting.threshold / 3);
        let end = START + self.setting.length;
        let mut at = START + random.below(self.setting.threshold);
        let mut nonce = 1;
        while at < end {
            self.script.send(at, &frame(pid, nonce), pid);
            nonce += 1;
            at = at + period - period / 5 + random.below(period * 2 / 5);
            if random.is_one_in(40) {
                nonce += 1;
                at = at + period;
            }
            if random.is_one_in(150) {
                at = at + random.below(self.setting.threshold * 4);
            }
            if random.is_one_in(100) {
                nonce = 1;
            }
            if random.is_one_in(400) {
                return;
            }
        }
    }

    fn run(&mut self) {
        let end = START + self.setting.length + 2 * SECOND;
        while self.clock.mono() < end {
            self.turn();
        }
        self.pauses = self.script.paused();
        for sent in self.script.take_sent() {
            self.sent.entry(sent.pid).or_default().push((sent.at, sent.is_queued));
        }
    }

    /// A turn of a shard, without its surroundings.
    fn turn(&mut self) {
        if !self.is_behind {
            let now = self.core.now();
            let due = [self.core.tracker.next_due(), self.core.sight.news_due(), Some(now + IDLE)];
            let until = due.into_iter().flatten().min().unwrap();
            match self.setting.delay {
                Some(delay) => self.core.wait(until.min(now + delay), false).unwrap(),
                None => self.core.wait(until, true).unwrap(),
            }
        }
        if let Some(kicked_at) = self.script.take_kick() {
            self.core.sight.kicked(kicked_at);
        }
        self.is_behind = true;
        for _ in 0..16 {
            let before = self.core.sight.watermark();
            let batch = self.core.receive().unwrap();
            for index in 0..batch.len {
                self.core.hear(&batch, index);
            }
            self.core.end_batch(&batch);
            assert!(self.core.sight.watermark() >= before, "the watermark went back: {:?}", self.setting);
            assert!(self.core.sight.watermark() <= self.clock.mono(), "{:?}", self.setting);
            if batch.is_last {
                self.is_behind = false;
                break;
            }
        }
        let mut stalled = Vec::new();
        self.is_behind |= self.core.judge(4096, |slot| stalled.push(slot));
        for slot in stalled {
            let (hot, cold) = (self.core.tracker.hot(slot), self.core.tracker.cold(slot));
            assert_eq!(hot.state, State::Stalled);
            assert!(cold.stalls == cold.resumes + 1, "stall and resume take turns: {:?}", self.setting);
            let told = Told {
                pid: hot.pid,
                watermark: self.core.sight.watermark(),
                at: self.core.now(),
                is_certain: !cold.is_stall_uncertain,
            };
            self.told.push(told);
        }
        self.news.extend(std::iter::from_fn(|| self.core.sight.take_news()));
    }

    /// Time in which the observer ran, from one instant to another.
    fn awake(&self, from: MonoNs, to: MonoNs) -> u64 {
        let paused: u64 =
            self.pauses.iter().map(|(start, end)| (*end).min(to).since((*start).max(from))).sum();
        to.since(from).saturating_sub(paused)
    }

    /// No stall while a beat had arrived, or was tried, within the threshold.
    fn check_no_false_stall(&self) {
        let threshold = self.setting.threshold;
        for told in &self.told {
            let within =
                |at: MonoNs| at <= told.watermark && told.watermark.since(at) + STAMP_ERROR < threshold;
            let tried: Vec<_> = self.sent[&told.pid].iter().filter(|(at, _)| within(*at)).collect();
            let is_false = tried.iter().any(|(_, is_queued)| *is_queued);
            assert!(!is_false, "{told:?} while {tried:?} had arrived: {:?}", self.setting);
            let is_blindly_false = !tried.is_empty() && (told.is_certain || self.setting.flood.is_none());
            assert!(!is_blindly_false, "{told:?} while {tried:?} were tried: {:?}", self.setting);
        }
    }

    /// Every silence that lasted was told, and in time.
    fn check_no_missed_stall(&self) {
        let (threshold, end) = (self.setting.threshold, self.core.sight.watermark());
        // A turn, and how old the oldest datagram of a full queue is.
        let slack = TICK
            + 3 * MS
            + self.setting.flood.map_or(0, |(_, ns)| (u64::from(self.setting.queue_limit) + 1200) * ns);
        for (pid, sent) in &self.sent {
            let arrived: Vec<MonoNs> =
                sent.iter().filter(|(_, is_queued)| *is_queued).map(|(at, _)| *at).collect();
            for (index, from) in arrived.iter().enumerate() {
                let to = arrived.get(index + 1).copied().unwrap_or(end);
                let told = self.told.iter().find(|told| {
                    told.pid == *pid && told.watermark > *from && told.watermark < to + threshold
                });
                let is_within =
                    |(start, end): &(MonoNs, MonoNs)| *start < *from + threshold + slack && *end > *from;
                let is_sighted = !self.pauses.iter().any(is_within) && self.setting.flood.is_none();
                let allowed = if is_sighted { threshold } else { 3 * threshold } + slack;
                if self.awake(*from, to) > allowed + slack {
                    assert!(
                        told.is_some(),
                        "{pid} silent from {from:?} to {to:?} was not told: {:?}",
                        self.setting
                    );
                }
                if let Some(told) = told {
                    let late = self.awake(*from, told.at);
                    assert!(
                        late <= allowed,
                        "{told:?}, silent since {from:?}, awake {late} > {allowed}: {:?}",
                        self.setting
                    );
                }
            }
        }
    }
}

fn frame(pid: u32, nonce: u64) -> Frame {
    Frame { version: Version::V02, status: Status::Ok, pid, timestamp: nonce, nonce, payload: 0 }
}

const CALM: Setting = Setting {
    seed: 0,
    agents: 200,
    queue_limit: 512,
    threshold: 600 * MS,
    length: 12 * SECOND,
    delay: None,
    pauses: 0,
    pause_max: 4 * SECOND,
    is_wall_stepping: false,
    flood: None,
};

fn check(setting: Setting) -> World {
    let mut world = World::new(setting);
    world.run();
    world.check_no_false_stall();
    world.check_no_missed_stall();
    let is_proof = !world.told.is_empty() || setting.pauses > 0;
    assert!(is_proof, "a world without a stall proves little: {setting:?}");
    world
}

#[test]
fn a_sighted_observer_tells_every_silence_in_time_and_nothing_else() {
    for seed in 0..2 {
        for queue_limit in [10, 512] {
            let world = check(Setting { seed, queue_limit, ..CALM });
            assert!(world.told.iter().all(|told| told.is_certain), "{seed}");
            assert_eq!(world.news, [], "{seed}");
        }
    }
}

#[test]
fn fault_23_pauses_of_the_observer_raise_no_stall_and_hide_none_for_long() {
    for seed in 0..24 {
        let delay = choose(seed, &[None, Some(MS)]);
        let (agents, queue_limit) = choose(seed, &[(200, 512), (200, 10), (60, 64)]);
        // A small queue would overflow within a delay.
        let delay = delay.filter(|_| queue_limit > 10);
        check(Setting { seed, agents, queue_limit, delay, pauses: 4, ..CALM });
    }
}

#[test]
fn short_pauses_in_the_middle_of_a_turn_are_pauses_too() {
    for seed in 0..60 {
        let (agents, queue_limit) = choose(seed, &[(40, 10), (20, 5), (100, 30)]);
        let delay = choose(seed, &[None, Some(MS)]);
        check(Setting { seed, agents, queue_limit, delay, pauses: 10, pause_max: 700 * MS, ..CALM });
    }
}

#[test]
fn fault_50_steps_of_the_wall_clock_change_no_verdict() {
    for seed in 0..12 {
        let queue_limit = choose(seed, &[10, 512]);
        check(Setting { seed, agents: 100, queue_limit, is_wall_stepping: true, pauses: seed % 3, ..CALM });
    }
}

#[test]
fn an_endless_flood_hides_no_silence_beyond_three_thresholds() {
    for seed in 0..2 {
        let queue_limit = choose(seed, &[10, 512]);
        let flood = Some((8_000, 200_000));
        check(Setting { seed, agents: 50, queue_limit, flood, length: 8 * SECOND, ..CALM });
    }
}

/// A whole shard with its port, fed everything a socket can bring.
struct Shards {
    script: Script,
    clock: ManualClock,
    port: Arc<Port>,
    shard: Shard<Replay, ManualClock>,
}

impl Shards {
    fn new(slots: u32, threshold: u64) -> Self {
        let clock = ManualClock::new(START, 1_700_000_000_000_000_000);
        let script = Script::new(&clock, 512);
        let (writer, table) = create(slots, ORIGIN).unwrap();
        let tracker = Tracker::new(writer, &[threshold], 0, TICK, Admission::new(slots), START);
        let limits = Limits { threshold_min_ns: threshold, tick_ns: TICK };
        let core = Core::new(script.transport(), clock.clone(), tracker, limits, Some(&[1000, 0]));
        let port = Arc::new(Port::new(table, Arc::new(Kick::new().unwrap()), true).unwrap());
        script.kick_through(Arc::clone(&port));
        let shard = Shard::new(core, Arc::clone(&port), Arc::new(Doorbell::default()), MS);
        Self { script, clock, port, shard }
    }
}

#[test]
fn a_shard_allocates_nothing_after_start_and_counts_every_datagram_once() {
    let mut random = Random::new(7);
    let Shards { script, clock, port, mut shard } = Shards::new(100, 600 * MS);
    let mut at = START;
    for n in 0..30_000_u64 {
        at = at + random.below(300_000);
        let pid = 100 + u32::try_from(random.below(120)).unwrap();
        let mut datagram = Recorded::frame(&frame(pid, n), pid);
        match random.below(40) {
            0 => datagram.bytes[9] ^= 4,
            1 => datagram.bytes.truncate(usize::try_from(random.below(32)).unwrap()),
            2 => datagram.bytes.extend([0; 20]),
            3 => datagram.credentials = None,
            4 => datagram.credentials = Some(Credentials { pid: 0, uid: 65_534 }),
            5 => datagram.credentials = Some(Credentials { pid, uid: 77 }),
            6 => datagram.has_foreign_fds = true,
            7 => datagram.is_control_truncated = true,
            8 => datagram.credentials = Some(Credentials { pid: pid + 500, uid: 0 }),
            9 => datagram.bytes = Frame { version: Version::V01, ..frame(pid, n) }.encode().to_vec(),
            10 => {
                datagram.bytes = Frame { status: Status::Critical, ..frame(pid, u64::MAX) }.encode().to_vec()
            }
            11 => datagram.bytes = Frame { status: Status::Degraded, ..frame(pid, n) }.encode().to_vec(),
            12 => datagram.is_stamped = false,
            13 => script.at(at, Act::StepWall(3_000_000)),
            14 => script.at(at, Act::Kick),
            15 if random.is_one_in(10) => script.pause(at, 300 * MS, Point::AfterReceive),
            16 => at = at + random.below(20 * MS),
            17 if random.is_one_in(10) => at = at + SECOND,
            _ => {}
        }
        script.at(at, Act::Send(datagram));
    }
    let end = at + SECOND;
    let mut allocations = 0;
    while clock.mono() < end {
        allocations += during(|| shard.turn().unwrap());
        // An aggregator of sorts.
        while let Some((slot, _)) = port.facts.pop() {
            let bits = [answer::RELEASE, answer::RELEASE | answer::IF_SILENT, answer::CLASS, answer::FORGED];
            if let Ok((hot, cold)) = port.table.read(slot)
                && random.is_one_in(20)
            {
                let as_of = hot.last_arrival - random.below(2) * MS;
                let answer = Answer { as_of, ..Answer::default() };
                port.inbox.post(slot, cold.generation, random.one_of(&bits), answer);
            }
        }
    }
    assert_eq!(allocations, 0);
    let counters = &port.counters;
    let refused: u64 = Refusal::ALL.iter().map(|refusal| counters.refused(*refusal)).sum();
    let queued = script.take_sent().iter().filter(|sent| sent.is_queued).count() as u64;
    assert_eq!(counters.frames.get(), queued);
    assert_eq!(counters.beats.get() + refused, queued);
    for refusal in
        [Refusal::BadCrc, Refusal::WrongSize, Refusal::Unattested, Refusal::Uid, Refusal::ForeignFds]
    {
        assert!(counters.refused(refusal) > 0, "{refusal:?} was not tried");
    }
    assert!(counters.refused(Refusal::TableFull) > 0 && counters.refused(Refusal::Downgrade) > 0);
    assert!(counters.refused(Refusal::Forged) > 0 && counters.blind_ns.get() > 0);
}

#[test]
fn errors_of_the_socket_that_pass_end_nothing_and_conclude_nothing() {
    let Shards { script, clock, port, mut shard } = Shards::new(10, 600 * MS);
    script.send(START, &frame(100, 1), 100);
    shard.turn().unwrap();
    let before = port.counters.watermark();
    clock.advance(50 * MS);
    script.send(clock.mono(), &frame(100, 2), 100);
    script.fail(libc::ENOMEM);
    shard.turn().unwrap();
    assert_eq!(port.counters.watermark(), before, "nothing was seen");
    shard.turn().unwrap();
    assert_eq!((port.counters.frames.get(), port.counters.io_errors.get()), (2, 1));
    script.fail(libc::EBADF);
    let ended = (0..10).any(|_| shard.turn().is_err());
    assert!(ended, "a socket that is gone ends the shard");
}
