//! What is true outside of the observer: which processes exist when, and which datagrams they send. It
//! follows from the story alone, because agents never depend on the observer.

use std::collections::BTreeMap;

use crate::lab::replay::Recorded;
use crate::lab::simulator::random::Random;
use crate::lab::simulator::story::{Agent, Garbage, Story, US, What, Words};
use crate::sys::datagram::Credentials;
use crate::wire::{Frame, NONCE_MAX, NONCE_TERMINAL, Status, Version};

/// The uid of all agents; other users may not beat.
pub const UID: u32 = 1000;
/// Bits of a payload for the id of its agent; in those above it counts its work.
const ID_BITS: u32 = 16;
/// Time between the beats of a burst.
const BURST_GAP: u64 = 100 * US;
const NEVER: u64 = u64::MAX;

/// One process.
#[derive(Clone, Debug)]
pub struct Life {
    /// The agent's id in the story, a part of the payload of every frame.
    pub id: u32,
    pub pid: u32,
    pub born: u64,
    /// First instant at which it no longer exists.
    pub died: u64,
    pub inner: Option<u32>,
    /// Its names: since when, and of which class.
    pub names: Vec<(u64, u8)>,
    /// When each of its programs began.
    pub programs: Vec<u64>,
    /// The instant of its first forged frame.
    pub forges_from: Option<u64>,
    /// When its control group was frozen: begin and end.
    pub frozen: Vec<(u64, u64)>,
    /// `WATCHDOG_USEC` in its environment, ns.
    pub started_with: Option<u64>,
}

impl Life {
    pub fn class_at(&self, at: u64) -> u8 {
        let (_, class) = self.names.iter().rfind(|(from, _)| *from <= at).unwrap_or(&self.names[0]);
        *class
    }

    /// Whether its control group is frozen.
    pub fn is_frozen_at(&self, at: u64) -> bool {
        self.frozen.iter().any(|(from, to)| (*from..*to).contains(&at))
    }

    /// How many programs it has begun by then.
    pub fn program_at(&self, at: u64) -> usize {
        self.programs.iter().filter(|from| **from <= at).count()
    }
}

/// What a datagram proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// A beat, whatever the observer knows.
    Sure,
    /// Perhaps a beat: it depends on what the observer knows of the sender.
    Perhaps,
    /// A terminal frame: a beat of a known agent, otherwise refused.
    LastWords,
    /// Never a beat.
    Never,
}

/// One datagram as it is passed to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    pub at: u64,
    pub shard: u16,
    /// The sender, as the kernel attests it.
    pub pid: u32,
    /// Index of its process; meaningless for garbage.
    pub life: usize,
    pub worth: Worth,
    pub what: Datagram,
}

#[derive(Clone, Copy, Debug)]
pub enum Datagram {
    Frame(Frame),
    Garbage(Garbage),
    Message(Words),
}

/// Everything that is true in one world.
#[derive(Debug)]
pub struct Truth {
    pub lives: Vec<Life>,
    /// Ordered by instant.
    pub sendings: Vec<Sending>,
    /// Processes of each pid, in order.
    pub of_pid: BTreeMap<u32, Vec<usize>>,
}

impl Truth {
    pub fn of(story: &Story) -> Self {
        let leaps = leaps(story);
        let mut by_agent: BTreeMap<u32, Vec<(u64, What)>> = BTreeMap::new();
        for happening in &story.happenings {
            if let Some(agent) = happening.what.agent() {
                by_agent.entry(agent).or_default().push((after(&leaps, happening.at), happening.what));
            }
        }
        let mut agents: Vec<&Agent> = story.agents.iter().collect();
        agents.sort_by_key(|agent| (agent.born, agent.id));
        let mut truth = Self { lives: Vec::new(), sendings: Vec::new(), of_pid: BTreeMap::new() };
        let mut forks = BTreeMap::new();
        for agent in agents {
            let none = Vec::new();
            let happenings = by_agent.get(&agent.id).unwrap_or(&none);
            let born = after(&leaps, agent.born);
            if born >= story.setting.length {
                continue;
            }
            let life = truth.lives.len();
            truth.lives.push(Life {
                id: agent.id,
                pid: agent.pid,
                born,
                died: story.setting.length,
                inner: agent.inner,
                names: vec![(0, agent.class)],
                programs: vec![0],
                forges_from: None,
                frozen: Vec::new(),
                started_with: agent.daemon.and_then(|daemon| daemon.started_with),
            });
            // The previous process with this pid has exited by now.
            let holders = truth.of_pid.entry(agent.pid).or_default();
            if let Some(before) = holders.last() {
                let before = &mut truth.lives[*before];
                before.died = before.died.min(born);
            }
            holders.push(life);
            live(&mut truth, story, agent, life, happenings, &leaps, &mut forks);
        }
        let lives = &truth.lives;
        truth.sendings.retain(|sending| sending.at < lives[sending.life].died);
        truth.throw_garbage(story, &leaps);
        truth.sendings.sort_by_key(|sending| sending.at);
        truth
    }

    fn throw_garbage(&mut self, story: &Story, leaps: &[(u64, u64)]) {
        for happening in &story.happenings {
            if let What::Garbage { shard, pid, what } = happening.what {
                self.sendings.push(Sending {
                    at: after(leaps, happening.at),
                    shard: shard % story.setting.shards,
                    pid,
                    life: usize::MAX,
                    worth: Worth::Never,
                    what: Datagram::Garbage(what),
                });
            }
        }
    }

    /// The process that has a pid at an instant.
    pub fn holder(&self, pid: u32, at: u64) -> Option<&Life> {
        let lives = self.of_pid.get(&pid)?;
        lives.iter().map(|life| &self.lives[*life]).find(|life| life.born <= at && at < life.died)
    }
}

/// Times in which no process and no thread runs: start and end.
pub fn leaps(story: &Story) -> Vec<(u64, u64)> {
    let mut leaps: Vec<(u64, u64)> = Vec::new();
    for happening in &story.happenings {
        if let What::Leap { by } = happening.what {
            let from = leaps.last().map_or(0, |(_, end)| *end).max(happening.at);
            leaps.push((from, from + by));
        }
    }
    leaps
}

/// What would happen within a leap happens at its end.
pub fn after(leaps: &[(u64, u64)], at: u64) -> u64 {
    leaps.iter().find(|(from, to)| (*from..*to).contains(&at)).map_or(at, |(_, to)| *to)
}

/// The agent that sent this payload.
pub fn id_of(payload: u64) -> u32 {
    u32::try_from(payload & ((1 << ID_BITS) - 1)).unwrap()
}

/// Whether the payload counts work, as it does where rules ask for progress and but for second handles.
pub fn is_counted(payload: u64) -> bool {
    payload >> ID_BITS > 0
}

/// A payload from here on says that its agent is busy. 0.2 has 32 bits for it.
pub const BUSY: u64 = 1 << 31;

/// State of an agent so far.
struct Doing {
    /// Beats that it worked for; 0: nobody asks.
    work: u64,
    stands_until: u64,
    busy_until: u64,
    nonce: u64,
    shard: u16,
    other_shard: Option<u16>,
    beats: u64,
    status: Status,
    version: Version,
    /// This process has sent 0.2: 0.1 may be refused.
    has_spoken_v02: bool,
    handle: Option<(u16, u64)>,
}

fn live(
    truth: &mut Truth,
    story: &Story,
    agent: &Agent,
    life: usize,
    happenings: &[(u64, What)],
    leaps: &[(u64, u64)],
    forks: &mut BTreeMap<u32, (u16, u64)>,
) {
    let shards = story.setting.shards;
    let mut random = Random::new(agent.seed);
    let mut doing = Doing {
        work: u64::from(story.setting.progress.is_some()),
        stands_until: 0,
        busy_until: 0,
        nonce: agent.nonce,
        shard: agent.shard % shards,
        other_shard: None,
        beats: 0,
        status: Status::Ok,
        version: agent.version,
        has_spoken_v02: truth.of_pid[&agent.pid].len() > 1,
        handle: None,
    };
    if let Some((shard, nonce)) = forks.get(&agent.id) {
        (doing.shard, doing.nonce) = (*shard, *nonce);
    }
    let born = truth.lives[life].born;
    let first = after(leaps, born + agent.first_beat);
    let (sends_frames, beats) =
        agent.daemon.map_or((true, false), |daemon| (daemon.sends_frames, daemon.beats));
    // The next frame, and the next beat in a message.
    let mut next = if sends_frames { first } else { NEVER };
    let mut next_message = if beats { first } else { NEVER };
    let mut happenings = happenings.iter().filter(|(at, _)| *at >= born).peekable();
    loop {
        let due = next.min(next_message);
        let happening = happenings.next_if(|(at, _)| *at <= due);
        let at = happening.map_or(due, |(at, _)| *at);
        if at >= story.setting.length {
            return;
        }
        let Some((_, what)) = happening else {
            let is_frame = next <= next_message;
            if is_frame {
                beat(truth, &mut doing, agent, life, at);
            } else {
                say(truth, shards, agent, life, at, Words::Beat);
            }
            let jitter = random.below(agent.jitter * 2 + 1);
            let then = after(leaps, at + (agent.period + jitter).saturating_sub(agent.jitter).max(US));
            *(if is_frame { &mut next } else { &mut next_message }) = then;
            continue;
        };
        match *what {
            What::Say { words, .. } if agent.daemon.is_some() => say(truth, shards, agent, life, at, words),
            What::Mute { are_frames: true, for_ns, .. } => next = next.max(after(leaps, at + for_ns)),
            What::Mute { for_ns, .. } => next_message = next_message.max(after(leaps, at + for_ns)),
            What::Burst { beats, .. } if !sends_frames => {
                for n in 0..u64::from(beats) {
                    say(truth, shards, agent, life, at + n * BURST_GAP, Words::Beat);
                }
            }
            What::Status { .. } if !sends_frames => say(truth, shards, agent, life, at, Words::Status),
            What::Terminal { .. } if !sends_frames => say(truth, shards, agent, life, at, Words::Trigger),
            What::Forge { .. } | What::Drop { .. } if !sends_frames => {}
            What::Die { .. } => {
                truth.lives[life].died = at;
                return;
            }
            What::Hang { for_ns, .. } => {
                let until = after(leaps, at + for_ns);
                (next, next_message) = (next.max(until), next_message.max(until));
            }
            What::Freeze { for_ns, .. } => {
                let until = after(leaps, at + for_ns);
                truth.lives[life].frozen.push((at, until));
                (next, next_message) = (next.max(until), next_message.max(until));
            }
            What::Stand { for_ns, .. } => doing.stands_until = after(leaps, at + for_ns),
            What::Busy { for_ns, .. } => doing.busy_until = after(leaps, at + for_ns),
            What::Burst { beats, .. } => {
                for n in 0..u64::from(beats) {
                    beat(truth, &mut doing, agent, life, at + n * BURST_GAP);
                }
                next = next.max(at + u64::from(beats) * BURST_GAP);
            }
            What::Drop { beats, .. } => {
                for _ in 0..beats {
                    doing.nonce = after_nonce(doing.nonce, doing.version);
                }
                next = after(leaps, next + agent.period * u64::from(beats));
            }
            What::Reconnect { nonce, .. } => doing.nonce = nonce,
            What::SecondHandle { shard, nonce, .. } => doing.handle = Some((shard % shards, nonce)),
            What::Exec { class, .. } => {
                truth.lives[life].names.push((at, class));
                truth.lives[life].programs.push(at);
                (doing.nonce, doing.handle) = (1, None);
            }
            What::Rename { class, .. } => truth.lives[life].names.push((at, class)),
            What::Fork { child, .. } => {
                forks.insert(child, (doing.shard, doing.nonce));
            }
            What::Move { shard, .. } => (doing.shard, doing.other_shard) = (shard % shards, None),
            What::Alternate { shard, .. } => doing.other_shard = Some(shard % shards),
            What::Status { status, .. } => doing.status = status,
            What::Speak { version, .. } => doing.version = version,
            What::Terminal { .. } => {
                let is_claim_of_forger = agent.inner.is_some() && truth.lives[life].forges_from.is_some();
                let is_open = doing.version == Version::V01 || is_claim_of_forger;
                let worth = if is_open { Worth::Perhaps } else { Worth::LastWords };
                let nonce = NONCE_TERMINAL;
                let frame = Frame { nonce, status: Status::Critical, ..frame(&doing, agent) };
                send(truth, doing.shard, agent, life, at, worth, frame);
            }
            What::Forge { claimed, .. } => {
                truth.lives[life].forges_from.get_or_insert(at);
                let frame = Frame { pid: claimed, ..frame(&doing, agent) };
                send(truth, doing.shard, agent, life, at, Worth::Perhaps, frame);
            }
            _ => {}
        }
    }
}

fn frame(doing: &Doing, agent: &Agent) -> Frame {
    Frame {
        version: doing.version,
        status: doing.status,
        pid: agent.inner.unwrap_or(agent.pid),
        timestamp: doing.nonce & 0xFFFF,
        nonce: doing.nonce,
        payload: u64::from(agent.id) | doing.work << ID_BITS,
    }
}

fn beat(truth: &mut Truth, doing: &mut Doing, agent: &Agent, life: usize, at: u64) {
    let is_v01 = doing.version == Version::V01;
    let is_claim_of_forger = agent.inner.is_some() && truth.lives[life].forges_from.is_some();
    let worth =
        if is_v01 && doing.has_spoken_v02 || is_claim_of_forger { Worth::Perhaps } else { Worth::Sure };
    doing.has_spoken_v02 |= !is_v01;
    doing.beats += 1;
    if doing.work > 0 && at >= doing.stands_until {
        doing.work += 1;
    }
    let home = doing.other_shard.filter(|_| doing.beats.is_multiple_of(2)).unwrap_or(doing.shard);
    let mut sent = frame(doing, agent);
    if at < doing.busy_until {
        sent.payload |= BUSY;
    }
    send(truth, home, agent, life, at, worth, sent);
    doing.nonce = after_nonce(doing.nonce, doing.version);
    if let Some((shard, nonce)) = doing.handle {
        let frame = Frame { nonce, payload: u64::from(agent.id), ..frame(doing, agent) };
        send(truth, shard, agent, life, at + US, worth, frame);
        doing.handle = Some((shard, nonce + 1));
    }
}

/// After the largest nonce, 0.2 begins anew and 0.1 stays there.
const fn after_nonce(nonce: u64, version: Version) -> u64 {
    match version {
        _ if nonce < NONCE_MAX => nonce + 1,
        Version::V01 => NONCE_MAX,
        Version::V02 => 0,
    }
}

/// Sends a message, to the shard after those of frames.
fn say(truth: &mut Truth, shard: u16, agent: &Agent, life: usize, at: u64, words: Words) {
    let (pid, what) = (agent.pid, Datagram::Message(words));
    truth.sendings.push(Sending { at, shard, pid, life, worth: Worth::Sure, what });
}

fn send(truth: &mut Truth, shard: u16, agent: &Agent, life: usize, at: u64, worth: Worth, frame: Frame) {
    let what = Datagram::Frame(frame);
    truth.sendings.push(Sending { at, shard, pid: agent.pid, life, worth, what });
}

impl Sending {
    /// What the kernel delivers.
    pub fn recorded(&self) -> Recorded {
        match self.what {
            Datagram::Frame(frame) => Recorded::frame(&frame, self.pid),
            Datagram::Garbage(garbage) => garbage.recorded(self.pid),
            Datagram::Message(words) => Recorded::bytes(words.text().as_bytes(), self.pid),
        }
    }
}

impl Words {
    fn text(self) -> String {
        match self {
            Self::Beat => "WATCHDOG=1".to_owned(),
            Self::Ready => "READY=1\nSTATUS=Serving".to_owned(),
            Self::Reloading => "RELOADING=1\nMONOTONIC_USEC=1".to_owned(),
            Self::Stopping => "STOPPING=1".to_owned(),
            Self::Threshold(us) => format!("WATCHDOG_USEC={us}"),
            Self::Extend(us) => format!("EXTEND_TIMEOUT_USEC={us}"),
            Self::Status => "STATUS=At work".to_owned(),
            Self::Trigger => "WATCHDOG=trigger\nERRNO=5".to_owned(),
        }
    }
}

impl Garbage {
    fn recorded(self, pid: u32) -> Recorded {
        let (version, status) = (Version::V02, Status::Ok);
        let good = Frame { version, status, pid, timestamp: 1, nonce: 1, payload: 0 };
        let mut recorded = Recorded::frame(&good, pid);
        let replaced = |frame: Frame| Recorded::frame(&frame, pid);
        match self {
            Self::Probe => recorded.bytes.clear(),
            Self::Short => recorded.bytes.truncate(31),
            Self::Long => recorded.bytes.push(0),
            Self::Magic => recorded.bytes[0] ^= 1,
            Self::Version => recorded.bytes[2] = 3,
            Self::Flipped => recorded.bytes[9] ^= 4,
            Self::Status => {
                recorded = replaced(Frame { version: Version::V01, ..good });
                recorded.bytes[3] = 4;
            }
            Self::Stall => recorded = replaced(Frame { status: Status::Stall, ..good }),
            Self::Timestamp => recorded = replaced(Frame { timestamp: u64::MAX, ..good }),
            Self::Nonce => recorded = replaced(Frame { nonce: NONCE_TERMINAL, ..good }),
            Self::Init => recorded.credentials = Some(Credentials { pid: 1, uid: UID }),
            Self::NoSender => recorded.credentials = None,
            Self::PidZero => recorded.credentials = Some(Credentials { pid: 0, uid: 65_534 }),
            Self::WrongUser => recorded.credentials = Some(Credentials { pid, uid: 77 }),
            Self::ForeignFds => recorded.has_foreign_fds = true,
            Self::TruncatedControl => recorded.is_control_truncated = true,
        }
        recorded
    }
}
