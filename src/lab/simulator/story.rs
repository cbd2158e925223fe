//! A world as data: its agents, what happens to them and to the observer, and when. Drawn from a seed before
//! anything runs, so that it can be replayed, printed and shrunk.
//!
//! Every instant and duration is in ns; instants count from the begin of the world.

use crate::lab::fault::CommitStep;
use crate::lab::simulator::random::Random;
use crate::wire::{Status, Version};

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;

/// An agent with this status has nothing to do, where rules ask for progress.
pub const AT_REST: Status = Status::Degraded;

/// A whole world.
#[derive(Clone, Debug)]
pub struct Story {
    /// The seed; it also determines the small delays while the world runs.
    pub seed: u64,
    pub setting: Setting,
    pub agents: Vec<Agent>,
    /// Ordered by instant.
    pub happenings: Vec<Happening>,
}

/// The observer and the machine it runs on.
#[derive(Clone, Debug)]
pub struct Setting {
    /// After this instant nothing happens except that all agents exit.
    pub length: u64,
    pub shards: u16,
    pub threshold: u64,
    /// Thresholds of the classes 1.. by name.
    pub rules: Vec<u64>,
    pub tick: u64,
    pub max_delay: u64,
    pub agents_max: u32,
    pub queue_limit: u32,
    /// Time to read one datagram.
    pub frame_ns: u64,
    /// Time of a shard's turn, without its datagrams.
    pub turn_ns: u64,
    /// Longest delay of a woken thread.
    pub latency: u64,
    pub lookup_ns: u64,
    /// Most processes watched at once.
    pub pidfds: usize,
    /// Every n-th lookup fails; 0 = none.
    pub lookup_fails: u64,
    /// Words in a report lane.
    pub report_words: usize,
    /// Room of the slow subscriber, and how often it reads.
    pub slow_room: usize,
    pub slow_every: u64,
    /// A subscriber wants each beat.
    pub with_beats: bool,
    /// Limit of the silences the aggregator confirms at once; `None`: its own limit.
    pub in_flight_max: Option<u32>,
    /// The thresholds that reloads put in force.
    pub tables: Vec<Terms>,
    /// From an event to its acknowledgement by the event output; `None`: there is none.
    pub acknowledged_after: Option<u64>,
    /// How often the roster is written.
    pub roster_every: u64,
    /// Every rule allows longer silences in phases.
    pub phased: Option<Phased>,
    /// Every rule asks for progress, within this time.
    pub progress: Option<u64>,
    /// Something is started for agents that stall, resume, exit, freeze, are missing, or send a terminal frame.
    pub acts: bool,
    /// Beside the shards of frames there is one of daemons.
    pub notify: Option<Notify>,
}

/// The limits of daemons, in ns.
#[derive(Clone, Copy, Debug)]
pub struct Notify {
    /// The shortest threshold that a daemon may have of its own.
    pub min: u64,
    /// The longest, which is that of all of whom none is known; no limit is extended by more.
    pub max: u64,
    /// The longest stop.
    pub stop: u64,
}

/// What every rule allows in phases, in ns; more than any threshold.
#[derive(Clone, Copy, Debug)]
pub struct Phased {
    /// A silence at the start.
    pub start: u64,
    /// The start ends with so many beats; `None`: with a status `ok`.
    pub start_beats: Option<u32>,
    /// A silence after a payload that says that it is busy.
    pub busy: u64,
}

/// Thresholds that a reload puts in force.
#[derive(Clone, Debug)]
pub struct Terms {
    pub threshold: u64,
    /// The class that each rule is for, and its threshold.
    pub rules: Vec<(u8, u64)>,
}

impl Terms {
    pub fn threshold_of(&self, class: u8) -> u64 {
        let rule = self.rules.iter().find(|(of, _)| *of == class);
        rule.map_or(self.threshold, |(_, threshold)| *threshold)
    }

    fn thresholds(&self) -> impl Iterator<Item = u64> {
        self.rules.iter().map(|(_, threshold)| *threshold).chain([self.threshold])
    }

    pub fn smallest(&self) -> u64 {
        self.thresholds().min().unwrap()
    }

    pub fn largest(&self) -> u64 {
        self.thresholds().max().unwrap()
    }
}

impl Setting {
    /// Shards of frames and of daemons.
    pub fn sockets(&self) -> u16 {
        self.shards + u16::from(self.notify.is_some())
    }

    /// Whether this shard is that of daemons.
    pub fn is_of_daemons(&self, shard: u16) -> bool {
        self.notify.is_some() && shard == self.shards
    }

    /// Those of the start.
    pub fn terms(&self) -> Terms {
        Terms { threshold: self.threshold, rules: (1..).zip(self.rules.iter().copied()).collect() }
    }

    /// Those of the start and of all reloads.
    pub fn all_terms(&self) -> impl Iterator<Item = Terms> {
        self.tables.iter().cloned().chain([self.terms()])
    }
}

/// A process that beats, until something happens to it.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its id in this world, and its payload.
    pub id: u32,
    pub pid: u32,
    pub seed: u64,
    pub born: u64,
    /// From its start to its first beat.
    pub first_beat: u64,
    pub period: u64,
    /// A beat is early or late by this much, at most.
    pub jitter: u64,
    pub shard: u16,
    pub version: Version,
    /// Its pid in its own namespace, which its frames carry.
    pub inner: Option<u32>,
    /// 0: no rule matches its name.
    pub class: u8,
    /// Its first nonce.
    pub nonce: u64,
    /// It sends messages; `None`: only frames.
    pub daemon: Option<Daemon>,
}

/// How an agent speaks that sends messages.
#[derive(Clone, Copy, Debug)]
pub struct Daemon {
    /// It sends frames, too.
    pub sends_frames: bool,
    /// It sends `WATCHDOG=1` with the rate of its beats.
    pub beats: bool,
    /// `WATCHDOG_USEC` in its environment, ns.
    pub started_with: Option<u64>,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    Beat,
    Ready,
    Reloading,
    Stopping,
    /// A threshold of its own, in us.
    Threshold(u64),
    /// An extension, in us.
    Extend(u64),
    Status,
    Trigger,
}

impl Words {
    /// Whether who sends this is to be judged by silence.
    pub const fn is_beat(self) -> bool {
        matches!(self, Self::Beat | Self::Threshold(_))
    }
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub struct Happening {
    pub at: u64,
    pub what: What,
}

/// What happens. Agents are named by id; nothing happens to an agent that does not exist.
#[derive(Clone, Copy, Debug)]
pub enum What {
    // --- to an agent -------------------------------------------------------------------------------
    Die {
        agent: u32,
    },
    /// It does nothing for a while.
    Hang {
        agent: u32,
        for_ns: u64,
    },
    /// It beats, and works at nothing for a while.
    Stand {
        agent: u32,
        for_ns: u64,
    },
    /// Its beats say for a while that it is busy.
    Busy {
        agent: u32,
        for_ns: u64,
    },
    /// It sends this many beats, 100 us apart.
    Burst {
        agent: u32,
        beats: u32,
    },
    /// Its control group is frozen for a while.
    Freeze {
        agent: u32,
        for_ns: u64,
    },
    /// Its next beats are lost before they are sent.
    Drop {
        agent: u32,
        beats: u32,
    },
    /// A new connection.
    Reconnect {
        agent: u32,
        nonce: u64,
    },
    /// A second connection beside the first, with the same rate.
    SecondHandle {
        agent: u32,
        shard: u16,
        nonce: u64,
    },
    Exec {
        agent: u32,
        class: u8,
    },
    /// It changes its name, as a server does for its workers.
    Rename {
        agent: u32,
        class: u8,
    },
    /// The child continues on the parent's shard with the parent's nonce.
    Fork {
        agent: u32,
        child: u32,
    },
    Move {
        agent: u32,
        shard: u16,
    },
    /// Every second beat goes to this shard.
    Alternate {
        agent: u32,
        shard: u16,
    },
    Status {
        agent: u32,
        status: Status,
    },
    Speak {
        agent: u32,
        version: Version,
    },
    /// A terminal frame; the process may continue.
    Terminal {
        agent: u32,
    },
    /// One frame that claims the pid of another process.
    Forge {
        agent: u32,
        claimed: u32,
    },
    /// A daemon sends a message.
    Say {
        agent: u32,
        words: Words,
    },
    /// It sends no frames, or no beats in messages, for a while.
    Mute {
        agent: u32,
        are_frames: bool,
        for_ns: u64,
    },
    // --- to a socket -------------------------------------------------------------------------------
    Garbage {
        shard: u16,
        pid: u32,
        what: Garbage,
    },
    // --- to the observer ---------------------------------------------------------------------------
    Pause {
        who: Who,
        place: TurnPart,
        for_ns: u64,
    },
    /// A shard is paused while it writes a slot.
    PauseInSlot {
        shard: u16,
        slot: u32,
        for_ns: u64,
    },
    Wake {
        shard: u16,
    },
    /// Its next turn panics after this many datagrams.
    Panic {
        shard: u16,
        after: u32,
    },
    /// Its next receive call fails.
    Fail {
        shard: u16,
    },
    /// These of [`Setting::tables`] are put in force.
    Reload {
        table: u8,
    },
    /// Other actions and another brake are put in force; those of the start are number 0.
    ReloadActions {
        number: u8,
    },
    /// The observer ends, and another starts after a while.
    Restart(Restart),
    // --- to the machine ----------------------------------------------------------------------------
    /// No agent and no thread of the observer runs: suspend, a frozen container.
    Leap {
        by: u64,
    },
    StepWall {
        by: i64,
    },
}

/// An end of the observer, and the start of its successor. What ends it while none runs, ends the next one.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    pub ending: Ending,
    /// Time until the successor starts.
    pub gap: u64,
    /// The successor takes what was left for that of another boot or pid namespace.
    pub elsewhere: Option<Elsewhere>,
}

/// How the observer ends.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// It stops in order.
    Planned,
    /// It is killed between two steps of the world.
    Killed,
    /// It is killed when a shard has taken this many datagrams of a batch, or finds none.
    KilledInBatch { shard: u16, after: u32 },
    /// It is killed while a shard writes a slot.
    KilledInSlot { shard: u16, slot: u32 },
    /// It is killed in the first commit after this many others, perhaps while it adopts.
    KilledInCommit { step: CommitStep, commits: u32 },
    /// A successor takes over between two turns of each thread, or is too slow for that.
    Offered { is_taken: bool },
}

/// What differs from the place where memory was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    Boot,
    Namespace,
}

/// A thread of the observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Shard(u16),
    Aggregator,
    Lookup,
    Everybody,
}

/// Where in its turn a shard is paused; other threads are paused between turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnPart {
    Wait,
    BeforeReceive,
    InReceive,
    AfterReceive,
}

/// A datagram that is no beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    Probe,
    Short,
    Long,
    Magic,
    Version,
    Flipped,
    Status,
    Stall,
    Timestamp,
    Nonce,
    Init,
    NoSender,
    PidZero,
    WrongUser,
    ForeignFds,
    TruncatedControl,
}

impl Garbage {
    pub const ALL: [Self; 16] = [
        Self::Probe,
        Self::Short,
        Self::Long,
        Self::Magic,
        Self::Version,
        Self::Flipped,
        Self::Status,
        Self::Stall,
        Self::Timestamp,
        Self::Nonce,
        Self::Init,
        Self::NoSender,
        Self::PidZero,
        Self::WrongUser,
        Self::ForeignFds,
        Self::TruncatedControl,
    ];
}

impl What {
    /// The agent it happens to.
    pub const fn agent(&self) -> Option<u32> {
        match *self {
            Self::Die { agent }
            | Self::Hang { agent, .. }
            | Self::Freeze { agent, .. }
            | Self::Stand { agent, .. }
            | Self::Busy { agent, .. }
            | Self::Burst { agent, .. }
            | Self::Drop { agent, .. }
            | Self::Reconnect { agent, .. }
            | Self::SecondHandle { agent, .. }
            | Self::Exec { agent, .. }
            | Self::Rename { agent, .. }
            | Self::Fork { agent, .. }
            | Self::Move { agent, .. }
            | Self::Alternate { agent, .. }
            | Self::Status { agent, .. }
            | Self::Speak { agent, .. }
            | Self::Terminal { agent }
            | Self::Say { agent, .. }
            | Self::Mute { agent, .. }
            | Self::Forge { agent, .. } => Some(agent),
            _ => None,
        }
    }
}

/// Size of a world.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub agents: u32,
    pub length: u64,
}

impl Story {
    /// The world of this seed. `agents`: their minimum number; `None`: drawn from the seed.
    pub fn new(seed: u64, agents: Option<u32>) -> Self {
        let mut random = Random::new(seed);
        let scale = random.below(10);
        let drawn = match scale {
            0..=4 => random.between(2, 13),
            5..=8 => random.between(13, 120),
            _ => random.between(120, 2500),
        };
        let agents = agents.unwrap_or(u32::try_from(drawn).unwrap());
        let length = random.between(4, 16) * SECOND;
        Self::of_size(seed, Size { agents, length })
    }

    /// The world of this seed in a given size.
    pub fn of_size(seed: u64, size: Size) -> Self {
        let mut random = Random::new(seed ^ 0x5DEE_CE66);
        let setting = Setting::draw(&mut random, size);
        let mut story = Self { seed, setting, agents: Vec::new(), happenings: Vec::new() };
        story.populate(&mut random, size.agents);
        story.happen_to_observer(&mut random);
        story.setting.in_flight_max = random.is_one_in(4).then(|| random.one_of(&[1, 16]));
        story.rename(&mut random);
        // By numbers of its own: worlds without reloads stay as they were.
        story.reload(&mut Random::new(seed ^ 0x0C0F_F1E5));
        story.restart();
        story.stand(&mut Random::new(seed ^ 0x57A2_D511));
        if seed % 6 == 3 {
            story.phase();
        }
        if seed % 7 == 6 {
            story.freeze();
        }
        if matches!(seed % 10, 2 | 3 | 6) {
            story.act();
        } else if seed % 3 == 1 && story.setting.tables.is_empty() {
            // What reloads mean for daemons is not modelled in full.
            story.notify();
        }
        story.sort();
        story
    }

    /// Something is done about agents, and in every second world not always the same. Drawn apart, so that all else is
    /// as it would be without.
    pub fn act(&mut self) {
        self.setting.acts = true;
        let mut random = Random::new(self.seed ^ 0x0DD_AC75);
        if random.is_one_in(2) {
            for number in 1..2 + random.small(3) {
                let at = random.below(self.setting.length);
                self.put(at, What::ReloadActions { number: u8::try_from(number).unwrap() });
            }
            self.sort();
        }
    }

    /// The groups of some agents are frozen, some of them twice. Drawn apart, too.
    pub fn freeze(&mut self) {
        let mut random = Random::new(self.seed ^ 0x0F05_7E11);
        let Setting { length, threshold, .. } = self.setting;
        let born: Vec<(u32, u64)> = self.agents.iter().map(|agent| (agent.id, agent.born)).collect();
        for (agent, born) in born {
            let mut at = born + random.below(threshold * 4);
            for _ in 0..random.one_of(&[0, 0, 1, 2]) {
                let for_ns = random.one_of(&[threshold, threshold + SECOND, 3 * threshold + 2 * SECOND]);
                if at < length {
                    self.put(at, What::Freeze { agent, for_ns });
                }
                at += for_ns + random.below(threshold * 4);
            }
        }
        self.sort();
    }

    /// Some agents are daemons, others speak both languages, and some scripts say something and end. Drawn apart, too.
    pub fn notify(&mut self) {
        let mut random = Random::new(self.seed ^ 0x0D0E_50D1);
        let Setting { length, threshold, .. } = self.setting;
        let max = threshold * random.one_of(&[3, 6]);
        self.setting.notify = Some(Notify {
            min: threshold / random.one_of(&[2, 4]),
            max,
            stop: threshold * random.one_of(&[1, 2, 3]),
        });
        let own = [threshold / 8, threshold / 2, threshold, threshold, 2 * threshold, 3_600 * SECOND];
        for number in 0..self.agents.len() {
            let kind = random.below(4);
            if kind == 0 {
                continue;
            }
            let agent = &mut self.agents[number];
            let started_with = if random.is_one_in(2) { Some(random.one_of(&own)) } else { None };
            let beats = !random.is_one_in(4);
            agent.daemon = Some(Daemon { sends_frames: kind == 3, beats, started_with });
            let (id, born) = (agent.id, agent.born);
            let mut at = born + agent.first_beat;
            if !random.is_one_in(4) {
                self.put(at, What::Say { agent: id, words: Words::Ready });
            }
            for _ in 0..random.below(6) {
                at += random.below(threshold * 4);
                self.say(&mut random, (id, at), &own);
            }
        }
        self.send_reports(&mut random);
        self.happen_to_shard_of_daemons(&mut random);
        self.happenings.retain(|happening| happening.at < length);
        self.sort();
    }

    /// What a daemon says besides.
    fn say(&mut self, random: &mut Random, (agent, at): (u32, u64), own: &[u64]) {
        let threshold = self.setting.threshold;
        let extension = random.one_of(&[threshold, 2 * threshold, 4 * threshold, 86_400 * SECOND]);
        let words = match random.below(12) {
            0..=2 => Words::Threshold(random.one_of(own) / US),
            3 | 4 => Words::Extend(extension / US),
            5 => Words::Status,
            6 => Words::Trigger,
            7 => Words::Stopping,
            8 => {
                self.put(at, What::Say { agent, words: Words::Reloading });
                let at = at + random.below(threshold);
                return self.put(at, What::Say { agent, words: Words::Ready });
            }
            9 => {
                let words = [Words::Beat, Words::Ready, Words::Extend(extension / US), Words::Stopping];
                let (later, after) = (random.below(threshold), random.one_of(&words));
                self.put(at, What::Say { agent, words: Words::Stopping });
                return self.put(at + later, What::Say { agent, words: after });
            }
            _ => {
                let for_ns = random.below(threshold * 6);
                return self.put(at, What::Mute { agent, are_frames: random.is_one_in(2), for_ns });
            }
        };
        self.put(at, What::Say { agent, words });
    }

    /// As what happens to the shards of frames.
    fn happen_to_shard_of_daemons(&mut self, random: &mut Random) {
        let Setting { length, threshold, shards: shard, .. } = self.setting;
        let until = length.saturating_sub(3 * threshold).max(1);
        for _ in 0..random.one_of(&[0, 0, 2, 6]) {
            let at = random.below(until);
            let for_ns = random.one_of(&[90 * MS, 300 * MS, threshold]);
            let place = random.one_of(&[TurnPart::Wait, TurnPart::BeforeReceive, TurnPart::AfterReceive]);
            let what = match random.below(10) {
                0 => What::Panic { shard, after: random.small(4) },
                1 => What::PauseInSlot { shard, slot: random.small(4), for_ns: random.between(MS, 200 * MS) },
                2 => What::Fail { shard },
                _ => What::Pause { who: Who::Shard(shard), place, for_ns },
            };
            self.put(at, what);
        }
    }

    /// Scripts that say one thing, and end sooner or later.
    fn send_reports(&mut self, random: &mut Random) {
        let Some(like) = self.agents.first().cloned() else { return };
        let daemon = Some(Daemon { sends_frames: false, beats: false, started_with: None });
        let first = 1 + self.agents.iter().map(|agent| agent.id).max().unwrap_or(0);
        for id in first..first + random.small(4) {
            let born = random.below(self.setting.length);
            self.agents.push(Agent {
                id,
                pid: 2_000_000 + id,
                born,
                daemon,
                seed: random.next(),
                ..like.clone()
            });
            self.put(born + MS, What::Say { agent: id, words: Words::Status });
            let lives = random.one_of(&[10 * MS, 500 * MS, 950 * MS, 1_100 * MS, 3 * SECOND]);
            self.put(born + MS + lives, What::Die { agent: id });
        }
    }

    fn sort(&mut self) {
        self.happenings.sort_by_key(|happening| happening.at);
    }

    fn shard(&self, random: &mut Random) -> u16 {
        u16::try_from(random.below(u64::from(self.setting.shards))).unwrap()
    }

    fn put(&mut self, at: u64, what: What) {
        self.happenings.push(Happening { at, what });
    }

    fn populate(&mut self, random: &mut Random, agents: u32) {
        // How much happens to the agents; in some worlds none forges, in some none exits.
        let wildness = random.one_of(&[0, 2, 4, 8]);
        let with_forgers = random.is_one_in(4);
        let with_versions = random.is_one_in(3);
        let with_inner = random.is_one_in(3);
        let mut next_id = 1;
        for number in 0..agents {
            let pid = 100 + number * 3;
            let born = match random.below(3) {
                0 => 0,
                1 => random.below(self.setting.threshold),
                _ => random.below(self.setting.length / 2),
            };
            let mut agent = Agent {
                id: next_id,
                pid,
                seed: random.next(),
                born,
                first_beat: random.one_of(&[0, MS, 20 * MS, 100 * MS]),
                period: random.between(self.setting.threshold / 12, self.setting.threshold / 2),
                jitter: 0,
                shard: self.shard(random),
                version: if random.is_one_in(5) { Version::V01 } else { Version::V02 },
                inner: (with_inner && random.is_one_in(3)).then(|| 1 + random.small(40)),
                class: u8::try_from(random.index(self.setting.rules.len() + 1)).unwrap(),
                nonce: if random.is_one_in(5) { random.one_of(&[0, 2, 7, 70_000, u64::MAX - 6]) } else { 1 },
                daemon: None,
            };
            agent.jitter = agent.period / random.one_of(&[2, 5, 100]);
            next_id += 1;
            // Successive processes with the same pid.
            for _ in 0..1 + if random.is_one_in(6) { random.below(3) } else { 0 } {
                let end = self.live(random, &agent, wildness, with_forgers, with_versions, &mut next_id);
                let id = agent.id;
                self.agents.push(agent.clone());
                let Some(died) = end else { break };
                self.put(died, What::Die { agent: id });
                let gap = random.one_of(&[15 * MS, 60 * MS, 300 * MS, 2 * SECOND]);
                agent = Agent {
                    id: next_id,
                    seed: random.next(),
                    born: died + gap,
                    shard: if random.is_one_in(2) { agent.shard } else { self.shard(random) },
                    nonce: random.one_of(&[1, 1, 1, 500]),
                    ..agent
                };
                next_id += 1;
                if agent.born >= self.setting.length {
                    break;
                }
            }
        }
    }

    /// Draws what happens to one agent. Returns when it exits, if it does.
    fn live(
        &mut self,
        random: &mut Random,
        agent: &Agent,
        wildness: u64,
        with_forgers: bool,
        with_versions: bool,
        next_id: &mut u32,
    ) -> Option<u64> {
        let Setting { length, threshold, .. } = self.setting;
        let mut at = agent.born + random.below(threshold * 4);
        let id = agent.id;
        for _ in 0..random.below(wildness + 1) {
            if at >= length {
                break;
            }
            let what = match random.below(20) {
                0..=2 => What::Hang { agent: id, for_ns: random.below(threshold * 4) },
                3 => What::Hang { agent: id, for_ns: length },
                4 => What::Burst { agent: id, beats: 2 + random.small(30) },
                5 | 6 => What::Drop { agent: id, beats: 1 + random.small(8) },
                7 => What::Reconnect { agent: id, nonce: random.one_of(&[0, 1, 1, 90_000]) },
                8 => What::SecondHandle { agent: id, shard: self.shard(random), nonce: 1 },
                9 => {
                    let class = u8::try_from(random.index(self.setting.rules.len() + 1)).unwrap();
                    What::Exec { agent: id, class }
                }
                10 => {
                    let child = Agent {
                        id: *next_id,
                        pid: 3_000_000 + *next_id,
                        seed: random.next(),
                        born: at,
                        ..agent.clone()
                    };
                    *next_id += 1;
                    let child_id = child.id;
                    self.agents.push(child);
                    What::Fork { agent: id, child: child_id }
                }
                11..=13 => What::Move { agent: id, shard: self.shard(random) },
                14 => What::Alternate { agent: id, shard: self.shard(random) },
                15 => What::Status {
                    agent: id,
                    status: random.one_of(&[Status::Ok, Status::Degraded, Status::Critical]),
                },
                16 => What::Terminal { agent: id },
                17 if with_versions => {
                    What::Speak { agent: id, version: random.one_of(&[Version::V01, Version::V02]) }
                }
                18 if with_forgers => What::Forge { agent: id, claimed: agent.pid + 1 },
                _ => What::Hang { agent: id, for_ns: threshold + random.below(threshold) },
            };
            self.put(at, what);
            at += random.below(threshold * 4);
        }
        (wildness > 0 && random.is_one_in(2) && at < length).then_some(at)
    }

    /// Some agents change their name, if names matter.
    fn rename(&mut self, random: &mut Random) {
        let Setting { threshold, length, .. } = self.setting;
        let classes = self.setting.rules.len() + 1;
        if classes == 1 || random.is_one_in(2) {
            return;
        }
        let born: Vec<(u32, u64)> = self.agents.iter().map(|agent| (agent.id, agent.born)).collect();
        for (agent, born) in born {
            let at = born + random.below(threshold * 4);
            let class = u8::try_from(random.index(classes)).unwrap();
            if random.is_one_in(3) && at < length {
                self.put(at, What::Rename { agent, class });
            }
        }
    }

    /// In some worlds with rules these ask for progress, and some agents work at nothing for a while. In some of these
    /// nothing that was drawn before happens.
    fn stand(&mut self, random: &mut Random) {
        let Setting { threshold, length, .. } = self.setting;
        if self.setting.rules.is_empty() || !random.is_one_in(2) {
            return;
        }
        let progress = threshold * random.one_of(&[1, 2, 3]);
        self.setting.progress = Some(progress);
        if self.seed % 11 == 8 {
            // Nothing disturbs, so that all that is to be found must be.
            self.happenings.clear();
            self.setting.lookup_fails = 0;
        }
        let born: Vec<(u32, u64)> = self.agents.iter().map(|agent| (agent.id, agent.born)).collect();
        for (agent, born) in born {
            let at = born + random.below(threshold * 4);
            let for_ns = random.below(progress * 4);
            if random.is_one_in(2) && at < length {
                self.put(at, What::Stand { agent, for_ns });
            }
        }
    }

    /// In some worlds with rules these allow longer silences in phases, some agents start slowly, and some are busy. Drawn
    /// apart, too.
    pub fn phase(&mut self) {
        let mut random = Random::new(self.seed ^ 0x0A11_0BED);
        let Setting { threshold, length, .. } = self.setting;
        if self.setting.rules.is_empty() || self.setting.progress.is_some() {
            return;
        }
        let start = threshold * random.one_of(&[2, 3, 4]);
        let start_beats = random.one_of(&[None, None, Some(1), Some(5)]);
        self.setting.phased = Some(Phased { start, start_beats, busy: threshold * random.one_of(&[2, 3]) });
        let born: Vec<(u32, u64)> = self.agents.iter().map(|agent| (agent.id, agent.born)).collect();
        for (agent, born) in born {
            if random.is_one_in(2) {
                self.put(born, What::Status { agent, status: Status::Degraded });
                let ready = born + random.below(threshold * 8);
                if ready < length {
                    self.put(ready, What::Status { agent, status: Status::Ok });
                    let again = ready + random.below(threshold * 4);
                    self.put(again, What::Status { agent, status: Status::Degraded });
                    self.put(again + threshold, What::Hang { agent, for_ns: length });
                }
            }
            let mut at = born + random.below(threshold * 4);
            for _ in 0..random.below(3) {
                if at < length {
                    self.put(at, What::Busy { agent, for_ns: random.below(threshold * 4) });
                    self.put(
                        at + random.below(threshold * 2),
                        What::Hang { agent, for_ns: random.below(start) },
                    );
                }
                at += random.below(threshold * 6);
            }
        }
        self.happenings.retain(|happening| happening.at < length);
        self.sort();
    }

    /// The configuration changes, in some worlds.
    fn reload(&mut self, random: &mut Random) {
        if !random.is_one_in(3) {
            return;
        }
        let threshold = self.setting.threshold;
        let (short, long) = (threshold / 2, threshold * 2);
        for table in 0..1 + random.small(5) {
            let rules = match random.below(6) {
                0 => Vec::new(),
                1 => vec![(1, short), (2, long)],
                2 => vec![(2, long), (1, short)],
                3 => vec![(2, short), (1, long)],
                4 => vec![(1, long)],
                _ => vec![(2, short)],
            };
            let threshold = random.one_of(&[threshold, threshold, threshold * 3 / 2, long]);
            self.setting.tables.push(Terms { threshold, rules });
            let at = random.below(self.setting.length);
            self.put(at, What::Reload { table: u8::try_from(table).unwrap() });
        }
    }

    /// In one world of three the observer ends, once or several times. Drawn apart, so that all else is as
    /// it would be without.
    fn restart(&mut self) {
        let mut random = Random::new(self.seed ^ 0x1357_9BDF);
        let Setting { length, threshold, .. } = self.setting;
        self.setting.acknowledged_after =
            random.one_of(&[Some(0), Some(MS), Some(300 * MS), Some(3 * SECOND), None]);
        let is_restarting = random.is_one_in(3);
        let with_missing = self.seed % 8 == 5;
        if !is_restarting && !with_missing {
            return;
        }
        let mut at = random.below(length);
        if with_missing {
            // Early, so that there is time to miss somebody.
            self.lose_agents(at / 2);
            at /= 2;
        }
        for _ in 0..random.one_of(&[1, 1, 1, 2, 3, 6]) {
            let shard = self.shard(&mut random);
            let ending = match random.below(8) {
                0 | 1 => Ending::Planned,
                2 | 3 => Ending::Killed,
                4 => Ending::KilledInBatch { shard, after: random.small(4) },
                5 => Ending::KilledInSlot { shard, slot: random.small(4) },
                _ => {
                    let step = random.one_of(&CommitStep::ALL);
                    Ending::KilledInCommit { step, commits: random.small(3) }
                }
            };
            let ending = match self.seed % 5 {
                1 if random.is_one_in(2) => Ending::Offered { is_taken: random.below(4) > 0 },
                _ => ending,
            };
            let longest = random.one_of(&[MS, 100 * MS, threshold, 2 * threshold, 5 * SECOND]);
            let elsewhere =
                random.is_one_in(12).then(|| random.one_of(&[Elsewhere::Boot, Elsewhere::Namespace]));
            self.put(at, What::Restart(Restart { ending, gap: random.below(longest), elsewhere }));
            let pause = random.one_of(&[MS, 20 * MS, threshold, 4 * threshold, 4 * SECOND]);
            at = (at + random.below(pause)).min(length);
        }
    }

    /// The observer ends, and the next one can adopt nothing: some agents do not beat to that one, or late.
    fn lose_agents(&mut self, at: u64) {
        let mut random = Random::new(self.seed ^ 0x2468_ACE1);
        let Setting { length, threshold, .. } = self.setting;
        self.setting.roster_every = random.one_of(&[100 * MS, SECOND, 10 * SECOND]);
        let ending = if random.is_one_in(2) { Ending::Planned } else { Ending::Killed };
        let elsewhere = Some(random.one_of(&[Elsewhere::Boot, Elsewhere::Namespace]));
        let gap = random.one_of(&[MS, 100 * MS, SECOND]);
        // The roster that a killed one wrote may be older than the agents.
        for agent in self.agents.iter().map(|agent| agent.id).collect::<Vec<_>>() {
            let for_ns = random.one_of(&[0, threshold, 2 * threshold, threshold + 2 * SECOND, length]);
            self.put(at, What::Hang { agent, for_ns });
        }
        self.put(at, What::Restart(Restart { ending, gap, elsewhere }));
    }

    /// Delays everything from an instant on.
    fn defer(&mut self, from: u64, by: u64) {
        let instants = self.happenings.iter_mut().map(|happening| &mut happening.at);
        for at in instants.chain(self.agents.iter_mut().map(|agent| &mut agent.born)) {
            if *at >= from {
                *at += by;
            }
        }
        self.setting.length += by;
    }

    fn happen_to_observer(&mut self, random: &mut Random) {
        let Setting { length, threshold, shards, .. } = self.setting;
        let until = length.saturating_sub(3 * threshold).max(1);
        for _ in 0..random.one_of(&[0, 0, 5, 40]) {
            let what = random.one_of(&Garbage::ALL);
            let garbage = What::Garbage { shard: self.shard(random), pid: 100 + random.small(40) * 3, what };
            self.put(random.below(until), garbage);
        }
        let long = random.one_of(&[90 * MS, 300 * MS, threshold, 3 * threshold]);
        for _ in 0..random.one_of(&[0, 0, 3, 10]) {
            let at = random.below(until);
            let most = random.one_of(&[90 * MS, long]);
            let for_ns = random.between(MS, most + 2 * MS);
            let who = match random.below(10) {
                0..=5 => Who::Shard(self.shard(random)),
                6 | 7 => Who::Aggregator,
                8 => Who::Lookup,
                _ => Who::Everybody,
            };
            let place = random.one_of(&[
                TurnPart::Wait,
                TurnPart::BeforeReceive,
                TurnPart::InReceive,
                TurnPart::AfterReceive,
            ]);
            self.put(at, What::Pause { who, place, for_ns });
        }
        let with_steps = random.is_one_in(3);
        let wild = random.one_of(&[0, 0, 1, 3]);
        for _ in 0..wild {
            let at = random.below(until);
            let shard = u16::try_from(random.below(u64::from(shards))).unwrap();
            let what = match random.below(6) {
                0 => What::PauseInSlot { shard, slot: random.small(4), for_ns: random.between(MS, 200 * MS) },
                1 => What::Wake { shard },
                2 => What::Fail { shard },
                3 if random.is_one_in(2) => What::Panic { shard, after: random.small(4) },
                4 if random.is_one_in(2) => {
                    let by = random.one_of(&[SECOND, 3_600 * SECOND]);
                    self.defer(at, by);
                    What::Leap { by }
                }
                _ => What::Wake { shard },
            };
            self.put(at, what);
        }
        // Two steps without a batch in between cannot be distinguished: the queue holds stamps with an offset
        // that no shard has seen. So they are further apart than any pause.
        let apart = 2 * SECOND + 2 * long;
        let mut at = random.below(until);
        while with_steps && at < until {
            let by = random.one_of(&[3_600, -3_600, -86_400]) * 1_000_000_000;
            let by = random.one_of(&[by, 300_000_000, -300_000_000, -100_000_000, 77, -2_000_000]);
            self.put(at, What::StepWall { by });
            at += apart + random.below(SECOND);
        }
    }
}

impl Setting {
    fn draw(random: &mut Random, size: Size) -> Self {
        let threshold = random.one_of(&[600, 600, 600, 150, 2_000]) * MS;
        let is_small = size.agents < 200;
        let agents_max = if random.is_one_in(5) { (size.agents / 2).max(1) } else { size.agents * 16 + 64 };
        Self {
            length: size.length.max(8 * threshold),
            shards: random.one_of(&[1, 2, 2, 3, 4]),
            threshold,
            rules: if random.is_one_in(3) { vec![threshold / 2, threshold * 2] } else { Vec::new() },
            tick: 10 * MS,
            max_delay: random.one_of(&[0, MS, 2 * MS]),
            agents_max: agents_max.min(1 << 20),
            queue_limit: if is_small {
                random.one_of(&[1, 5, 10, 64, 512, 65_536])
            } else {
                random.one_of(&[64, 512, 4096, 65_536])
            },
            frame_ns: random.one_of(&[0, US, US, 20 * US]),
            turn_ns: random.one_of(&[0, 2 * US, 50 * US]),
            latency: random.one_of(&[0, 50 * US, 500 * US]),
            lookup_ns: random.one_of(&[10 * US, 60 * US, 2 * MS]) / if is_small { 1 } else { 10 },
            pidfds: random.one_of(&[0, 3, 1 << 20, 1 << 20]),
            lookup_fails: random.one_of(&[0, 0, 0, 7]),
            report_words: random.one_of(&[1 << 17, 1 << 17, 256]),
            slow_room: random.one_of(&[2, 16, 1024]),
            slow_every: random.one_of(&[MS, 200 * MS, 2 * SECOND]),
            with_beats: random.is_one_in(4),
            in_flight_max: None,
            tables: Vec::new(),
            acknowledged_after: None,
            roster_every: 10 * SECOND,
            phased: None,
            progress: None,
            acts: false,
            notify: None,
        }
    }
}
