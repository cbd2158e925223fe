//! Events of the fleet: one [`Event`] per fact, `Copy` and of fixed size, so that queues of them have bounded
//! size.

use std::io;

use serde::Deserialize;

use crate::config::KeySet;
use crate::label::Label;
use crate::time::{MonoNs, WallNs};
use crate::wire::{DecodeError, Status};

pub(crate) mod action;
pub mod filter;
mod json;
mod process;

pub use action::{ActionName, ActionPhase, ActionWhy, BrakePhase, BrakeScope};
use process::known_state;
pub use process::{About, Comm, DaemonPhase, Origin, ProcessState, Texts};

/// One reported fact. As JSON: its line in the event log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Number in the run, without gaps, from 1, in the order of reports. 0 for beats and [`EventKind::Lost`],
    /// which have none.
    pub seq: u64,
    /// It was reported before, by an observer that ended before this output acknowledged it.
    pub again: bool,
    /// When it was reported, `CLOCK_REALTIME`. For display only.
    pub wall: WallNs,
    /// When it happened, `CLOCK_MONOTONIC`.
    pub mono: MonoNs,
    /// Index of the shard it concerns; `None` for the fleet as a whole.
    pub shard: Option<u16>,
    /// The agent it concerns.
    pub agent: Option<Agent>,
    /// What happened.
    pub kind: EventKind,
}

/// The agent of an event, as last seen when the event was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Process id in the observer's pid namespace, attested by the kernel.
    pub pid: u32,
    /// Process id in the agent's own pid namespace, if that differs and is known.
    pub ns_pid: Option<u32>,
    /// Number of the session, unique in this run, from 1.
    pub session: u32,
    /// Nonce of the last accepted frame.
    pub nonce: u64,
    /// Status of the last accepted frame.
    pub status: Status,
    /// In which language it beats on that shard.
    pub origin: Origin,
    /// Payload of the last accepted frame, whole.
    pub payload: u64,
    /// Who its process is.
    pub about: About,
}

impl Event {
    /// The process it is about: the agent, or the sender of a datagram that was no frame.
    #[must_use]
    pub const fn pid(&self) -> Option<u32> {
        match (self.agent, self.kind) {
            (Some(agent), _) => Some(agent.pid),
            (None, EventKind::Decode { attested: 0, .. }) => None,
            (None, EventKind::Decode { attested, .. }) => Some(attested),
            (None, EventKind::Missing { pid, .. }) => Some(pid),
            (None, _) => None,
        }
    }

    /// Whether it concerns this process: as the agent, or as the sender of a datagram that was refused, or whom that
    /// claimed to be.
    #[must_use]
    pub fn concerns(&self, pid: u32) -> bool {
        match self.kind {
            EventKind::Decode { attested, .. } => attested == pid,
            EventKind::Auth { attested, claimed, .. } => attested == pid || claimed == pid,
            EventKind::Missing { pid: missing, .. } => missing == pid,
            _ => self.agent.is_some_and(|agent| agent.pid == pid),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum EventKind {
    /// The first session of a pid in this run or after its exit.
    Up,
    /// A silence reached the agent's threshold.
    Stall {
        /// From the last beat's arrival to the judgement, ns.
        silent_ns: u64,
        /// Nonce of the last accepted frame before the silence.
        last_nonce: u64,
        /// False if a shard was blind during the silence, or another shard could not be asked.
        certain: bool,
        /// How much of the silence was blind, ns.
        blind_ns: u64,
        /// What the kernel said of the process when the stall was confirmed, if it was asked in time and the silence
        /// goes on.
        #[serde(default, deserialize_with = "known_state")]
        process: Option<ProcessState>,
        /// Whether the process has used CPU time in the silence, where that is known.
        #[serde(default)]
        used_cpu: Option<bool>,
        /// The phase that lasted too long, if it was not an ordinary time between two beats.
        #[serde(default, deserialize_with = "known_phase")]
        phase: Option<StallPhase>,
        /// Stalls reported by this event; more than 1 if they happened faster than they were reported.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// The silence ended with a beat.
    Resume {
        /// Length of the silence, ns.
        silent_ns: u64,
        /// Beats lost before the socket during the silence, from the gap in the nonce: a lower bound.
        lost: u64,
        /// Resumes reported by this event.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// A silence reached the agent's threshold while its control group was frozen, which is no stall. If the
    /// process exits meanwhile, its exit ends it.
    Frozen {
        /// Begin or end.
        phase: FrozenPhase,
    },
    /// The agent beats, but its payload was the same for the progress threshold of its rule: its work stands still.
    Standstill {
        /// From the first of the beats with that payload to the last, ns.
        still_ns: u64,
        /// False if a shard was blind meanwhile, or the rule that holds could not be asked for.
        certain: bool,
    },
    /// The standstill is over.
    Advance {
        /// How long it lasted, ns.
        still_ns: u64,
        /// What ended it.
        why: AdvanceWhy,
    },
    /// The process has exited, according to the kernel.
    Exit {
        /// From the last beat's arrival to the instant the exit was known, ns.
        silent_ns: u64,
        /// How it ended, if the kernel provides it.
        #[serde(flatten)]
        how: Option<ExitHow>,
        /// From its first beat on this shard to the instant the exit was known, ns; 0: not known.
        #[serde(default)]
        lived_ns: u64,
        /// Its last frame reported a panic.
        #[serde(default)]
        panicked: bool,
        /// It exited while no observer ran, so `silent_ns` and `lived_ns` end when that was found.
        #[serde(default)]
        while_away: bool,
    },
    /// A crash hook reported a panic or unhandled exception. The process may still run.
    Terminal {
        /// Crash reports that this event covers. Its payload is that of the first; if one was reported before,
        /// that of the last but one.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// The agent's status changed.
    Status {
        /// Changes reported by this event, which has the last status.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// A daemon says that it has come to another phase.
    Phase {
        /// The phase.
        phase: DaemonPhase,
    },
    /// A later session or stream of a known agent.
    Session {
        /// The cause.
        why: SessionWhy,
        /// Sessions and streams reported by this event.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// Three streams at once, or both wire versions in turn: the agent beats, but losses are no longer
    /// counted.
    Mixed,
    /// A datagram was no frame. At most 10 a second per shard; the rest is counted.
    Decode {
        /// Sender attested by the kernel; 0: none.
        #[serde(skip)]
        attested: u32,
        /// Why it was no frame.
        error: NoFrame,
    },
    /// A frame claimed a pid that is not its sender's. At most 10 a second per shard; the rest is counted.
    Auth {
        /// The pid in the frame.
        claimed: u32,
        /// The sender attested by the kernel.
        attested: u32,
        /// The sender's user id attested by the kernel.
        uid: u32,
    },
    /// The shard was blind.
    Blind {
        /// Begin or end.
        #[serde(flatten)]
        phase: BlindPhase,
        /// What blinded it.
        why: BlindWhy,
    },
    /// The agent table is full, or a user has used up its share of it. At most once a second per shard.
    Full {
        /// Frames refused for either since the last such event.
        refused: u64,
        /// Those refused because their user has used up its share, if any.
        #[serde(flatten)]
        share: Option<ShareSpent>,
    },
    /// The shard's queue was full, or a user exceeded its budget; names the user that sent most. At most once
    /// a second per shard.
    Flood {
        /// Which of the two.
        why: FloodWhy,
        /// The user that sent most; `None`: the many users without a row in the shard's counts.
        uid: Option<u32>,
        /// Datagrams of that user.
        frames: u64,
        /// How many of them were refused, for any reason.
        refused: u64,
        /// The period they came in, ns, up to the event's `mono`: one to two seconds while the observer is
        /// busy.
        for_ns: u64,
    },
    /// A user's agents come and go too fast to be reported singly: the number of changes since the last such
    /// event that were not. At most once a second per user. An `up` follows for each agent that continues,
    /// before its other events.
    Churn {
        /// The user; `None`: many users.
        uid: Option<u32>,
        /// Agents that appeared.
        ups: u32,
        /// Agents that exited.
        exits: u32,
        /// Their crash reports.
        terminals: u32,
        /// Other changes.
        changes: u32,
        /// The period, ns, up to the event's `mono`.
        for_ns: u64,
    },
    /// The agent beats on this event's shard now.
    Moved {
        /// The shard it left.
        from: u16,
    },
    /// Input or output failed.
    Io {
        /// Where.
        place: IoPlace,
        /// The kernel's error number; 0 if there is none.
        errno: i32,
    },
    /// The fleet started to observe.
    Start {
        /// Number of shards.
        shards: u16,
    },
    /// The observer continues for one that ended: it adopted the agents. Stands in place of `Start`.
    Restart {
        /// How that one ended.
        why: RestartWhy,
        /// Number of shards.
        shards: u16,
        /// Agents adopted.
        adopted: u32,
        /// How many of them had exited meanwhile. An `exit` of each follows.
        gone: u32,
        /// How long no observer ran, ns.
        gap_ns: u64,
    },
    /// The configuration was read again.
    Reload {
        /// Whether it is in force.
        outcome: ReloadOutcome,
        /// Keys with another value, in force since.
        #[serde(default)]
        changed: KeySet,
        /// Keys with another value that only a restart puts in force.
        #[serde(default)]
        restart: KeySet,
    },
    /// A process that beat to an observer of which nothing could be adopted lives, and has not beaten for a
    /// threshold since the start. An `up` or an `exit` ends it.
    Missing {
        /// The process.
        #[serde(skip)]
        pid: u32,
        /// Its user, when it beat.
        uid: u32,
        /// Its name, when it beat.
        comm: Comm,
    },
    /// An action for an agent.
    Action {
        /// Which.
        action: ActionName,
        /// How far it is.
        phase: ActionPhase,
        /// Why it is held, failed, cancelled or refused.
        #[serde(default)]
        why: Option<ActionWhy>,
        /// Which attempt it is, from 1; 0: none was made.
        #[serde(default)]
        attempt: u16,
        /// The process that was started for it; 0: none.
        #[serde(default)]
        child: u32,
        /// How that ended.
        #[serde(flatten)]
        how: Option<ExitHow>,
        /// Why it could not be started: an error number of the kernel; 0: none.
        #[serde(default)]
        errno: i32,
        /// Number of the file with what was found about the process before; 0: none.
        #[serde(default)]
        evidence: u32,
    },
    /// So many agents stalled at once that actions are held, or that is over.
    Brake {
        /// Begin or end.
        phase: BrakePhase,
        /// What it holds.
        scope: BrakeScope,
        /// The user, if it holds the actions for one.
        #[serde(default)]
        uid: Option<u32>,
        /// The unit, if it holds the actions for one and its name is known.
        #[serde(skip)]
        unit: Option<Label>,
        /// Agents of the scope that stalled at once.
        stalls: u32,
        /// Agents of the scope.
        agents: u32,
        /// An operator did it.
        #[serde(default)]
        by_hand: bool,
    },
    /// The fleet stopped; the last event of an observer.
    Stop,
    /// This subscriber was too slow: the events of this range did not reach it.
    Lost {
        /// First missing `seq`.
        from_seq: u64,
        /// Last missing `seq`.
        to_seq: u64,
    },
    /// One accepted frame, only for a subscriber that wants beats. Has no `seq`.
    Beat,
}

/// What became of a configuration that was read again.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ReloadOutcome {
    /// It is in force, as far as a running fleet can change.
    Applied,
    /// It cannot be used, and nothing changed.
    Refused,
}

impl ReloadOutcome {
    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
        }
    }
}

const fn single() -> u32 {
    1
}

/// Frames refused because their user has used up its share of the agent table.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct ShareSpent {
    /// The user of the last such frame.
    pub uid: u32,
    /// Their number.
    #[serde(rename = "share_refused")]
    pub refused: u64,
}

/// The cause of a flood event.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FloodWhy {
    /// The shard's queue was full.
    Full,
    /// A user sent more than its budget.
    Budget,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ExitHow {
    /// It returned this exit status, 0..=255.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
    /// The kernel ended it by signal 9, because its control group or the host had no memory left.
    #[serde(skip)]
    OutOfMemory,
}

/// The same on every architecture that Linux runs on.
const SIGKILL: u8 = 9;

impl ExitHow {
    /// An end by SIGKILL.
    pub const KILLED: Self = Self::Signal(SIGKILL);

    /// The exit status, if it returned one.
    #[must_use]
    pub const fn code(self) -> Option<u8> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) | Self::OutOfMemory => None,
        }
    }

    /// The signal that ended it, if one did.
    #[must_use]
    pub const fn signal(self) -> Option<u8> {
        match self {
            Self::Signal(signal) => Some(signal),
            Self::OutOfMemory => Some(SIGKILL),
            Self::Code(_) => None,
        }
    }
}

/// The cause of a later session or stream.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum SessionWhy {
    /// The pid belongs to another process now.
    NewProcess,
    /// The process executed another program.
    Exec,
    /// The wire version changed.
    Version,
    /// A nonce that continues no known stream: a reconnect or another handle.
    Nonce,
    /// The process changed its user id.
    Uid,
}

/// How the observer ended that this one continues for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RestartWhy {
    /// It stopped in order.
    Planned,
    /// It did not.
    Crash,
}

impl RestartWhy {
    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Crash => "crash",
        }
    }
}

/// Begin or end of a blind window.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum BlindPhase {
    /// It began at the event's `mono`.
    Begin,
    /// It ended at the event's `mono`.
    End {
        /// Its length, ns.
        for_ns: u64,
    },
}

/// Begin or end of a freeze.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FrozenPhase {
    /// It is frozen as of the event's `mono`.
    Begin,
    /// It is not frozen any more, or beats: its next silence is a stall once it reaches the threshold.
    End,
}

impl FrozenPhase {
    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::End => "end",
        }
    }
}

/// A phase whose limit is another one than the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallPhase {
    /// It had begun and was not ready.
    Start,
    /// Its payload said so.
    Payload,
    /// It is a daemon that said that it stops, and has not ended.
    Stopping,
}

impl StallPhase {
    /// Every variant, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Start, Self::Payload, Self::Stopping];

    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Payload => "payload",
            Self::Stopping => "stopping",
        }
    }
}

/// A phase that this version knows; others come from a later one.
fn known_phase<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<StallPhase>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    Ok(word.and_then(|word| StallPhase::ALL.into_iter().find(|phase| phase.as_str() == word)))
}

/// What ended a standstill.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AdvanceWhy {
    /// The payload changed.
    Payload,
    /// The agent says that it has nothing to do.
    Idle,
    /// Another session of the agent began.
    Session,
    /// No rule asks for progress of the agent any more.
    Rule,
    /// The status line of the daemon changed.
    Status,
}

impl AdvanceWhy {
    /// Every variant, in the order of declaration.
    pub const ALL: [Self; 5] = [Self::Payload, Self::Idle, Self::Session, Self::Rule, Self::Status];

    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Idle => "idle",
            Self::Session => "session",
            Self::Rule => "rule",
            Self::Status => "status",
        }
    }
}

/// What blinded a shard.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BlindWhy {
    /// The observer did not run.
    Paused,
    /// The kernel's queue was full, so beats may have been refused.
    Full,
    /// No observer ran.
    Restart,
}

/// Where input or output failed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum IoPlace {
    /// A shard's socket.
    Receive,
    /// The event output.
    Events,
    /// A shard's thread panicked. It continues, unless it panicked too often.
    Shard,
    /// A shard's thread is stuck: it no longer turns.
    ShardStuck,
    /// A shard's socket was not at its path: it was restored (error number 0), or new agents cannot find it.
    /// Connected agents are still observed.
    Socket,
    /// As `Socket`, for lock, manifest or symlink in the runtime directory.
    Directory,
}

/// Why a datagram was no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoFrame {
    /// It is not 32 bytes long.
    WrongSize,
    /// The first check of the decoder that failed.
    Undecodable(DecodeError),
}

impl NoFrame {
    /// The spelling in metrics and events.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::WrongSize => "wrong_size",
            Self::Undecodable(error) => error.reason(),
        }
    }
}

/// Priority of events when a queue has little room: frequent kinds must not displace the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// A verdict, or the reason why there is none.
    Verdict,
    /// Other changes of agents and users.
    Word,
    /// Agents that appear and exit.
    Life,
}

impl EventKind {
    /// A refused reload.
    pub(crate) const REFUSED_RELOAD: Self =
        Self::Reload { outcome: ReloadOutcome::Refused, changed: KeySet::NONE, restart: KeySet::NONE };

    /// Its rank.
    pub(crate) const fn rank(&self) -> Rank {
        match self {
            Self::Stall { .. }
            | Self::Resume { .. }
            | Self::Frozen { .. }
            | Self::Standstill { .. }
            | Self::Advance { .. }
            | Self::Blind { .. }
            | Self::Full { .. }
            | Self::Restart { .. }
            | Self::Reload { .. }
            | Self::Missing { .. }
            | Self::Action { .. }
            | Self::Brake { .. }
            | Self::Io { .. } => Rank::Verdict,
            Self::Up | Self::Exit { .. } | Self::Churn { .. } => Rank::Life,
            _ => Rank::Word,
        }
    }

    /// The names of all kinds with a `seq`.
    pub const NAMES: [&'static str; 27] = [
        "up",
        "stall",
        "resume",
        "frozen",
        "standstill",
        "advance",
        "exit",
        "terminal",
        "status",
        "phase",
        "session",
        "mixed",
        "decode",
        "auth",
        "blind",
        "full",
        "flood",
        "churn",
        "moved",
        "io",
        "start",
        "restart",
        "reload",
        "missing",
        "action",
        "brake",
        "stop",
    ];

    /// Every kind and its meaning, in the words of the manual; backquotes enclose words of the schema.
    pub const MEANINGS: [(&'static str, &'static str); 29] = [
        (
            "up",
            "A process beats for the first time in this run, or for the first time after an `exit` of its \
             pid.",
        ),
        (
            "stall",
            "A silence reached the threshold; reported once per silence. `silent_ns` is its length, \
             `last_nonce` the last nonce before it. `certain` is false if the observer did not see a whole \
             threshold of it, or could not ask whether the process exists; `blind_ns` is how long the \
             observer was blind during it. `process` is what the process does, if the kernel said so in time: \
             `running`, `sleeping`, `uninterruptible` (mostly waits for a disk), `stopped` or `traced`; `used_cpu` \
             whether it has used CPU time since early in the silence, where that is known: one that has is busy, one that has not \
             waits. `phase` is there if another limit than the threshold was reached: `start` (it had begun and was not \
             ready), `payload` (its payload said that it was in a phase) or `stopping` (a daemon said that it stops, \
             and has not ended).",
        ),
        (
            "resume",
            "A beat ended the silence. `lost` beats of it never arrived, by the gap in the nonce: a lower \
             bound.",
        ),
        (
            "frozen",
            "Begin and end (`phase`) of a silence that is not a stall: it reached the threshold while the \
             agent's control group, or one above it, was frozen (`docker pause`, `systemctl freeze`). After \
             the thaw the agent has one threshold to beat again. An `exit` ends it, too.",
        ),
        (
            "standstill",
            "The agent beats, but its payload, or the `STATUS=` line of a daemon, was the same for the `progress-threshold` of its rule: its work stands still. \
             Reported once; `still_ns` is how long it has lasted by then. `certain` is false if the observer did not see a \
             whole threshold of it.",
        ),
        (
            "advance",
            "A standstill of `still_ns` is over. `why` is `payload` or `status` (it changed), `idle` (the agent says that it has nothing \
             to do), `session` (another began) or `rule` (none asks for progress any more). An `exit` ends a standstill, too.",
        ),
        (
            "exit",
            "The kernel reports that the process exited, with its exit `code` or the `signal` that ended it; \
             `\"code\":null` where the kernel does not report how. `\"oom\":true`: the kernel killed it, out of memory. `lived_ns` is the time since its first \
             beat on that shard, 0 if it is not known; `\"panicked\":true` if its last frame reported a panic. An exit is never reported as a `stall`.",
        ),
        (
            "terminal",
            "A crash hook reported a panic or an unhandled exception; the process may continue to run. Its \
             status is `critical` until it reports another.",
        ),
        ("status", "The agent's own status changed."),
        (
            "phase",
            "A daemon says by sd_notify how far it has come: `phase` is `up` (ready), `reloading` or `stopping`. Its first \
             phase comes with its `up`.",
        ),
        (
            "session",
            "The process, program, user, connection or wire version of a known agent changed: `why` is \
             `new-process`, `exec`, `version`, `nonce` (a reconnect, or another handle) or `uid`.",
        ),
        (
            "mixed",
            "Three streams of the agent alternate, or both wire versions do. It is still observed, but its \
             lost beats are no longer counted.",
        ),
        (
            "decode",
            "A datagram was not a valid frame, by its size or its content (`error`). At most 10 a second for \
             each shard; the rest is only counted.",
        ),
        (
            "auth",
            "A frame claimed the pid of another process: `claimed`, sent by `attested`, of user `uid`. At \
             most 10 a second for each shard; the rest is only counted.",
        ),
        (
            "blind",
            "Begin and end (`phase`) of a time in which a shard could not see: the observer was `paused`, \
             the queue of the socket was `full`, or no observer ran (`restart`; `why`). This time does not count against any agent.",
        ),
        (
            "full",
            "The agent table is full, or a user has used up its share of it: `refused` frames since the last \
             such event, `share_refused` of them because of a share, the last of those from `uid`.",
        ),
        (
            "flood",
            "A shard's queue was `full`, or a user overran its `budget` (`why`): the `uid` that sent most, \
             its `frames`, and how many of them were `refused`, in the last `for_ns`; `\"uid\":null` stands \
             for many users. At most once a second for each shard.",
        ),
        (
            "churn",
            "Agents of a user (`uid`) come and go too fast to be reported one by one: `ups`, `exits`, \
             `terminals` and other `changes` that were only counted in the last `for_ns`; `\"uid\":null` \
             stands for many users. At most once a second for each user.",
        ),
        ("moved", "The agent beats on another shard now; `from` is the one it left."),
        (
            "io",
            "Input or output failed. `place` is `receive`, `events`, `shard` or `shard-stuck`; or `socket` \
             or `directory`, where agents could not find a socket, with `errno` 0 once it is back. `events` \
             with `errno` 0: another program truncated the log.",
        ),
        ("start", "The fleet starts to observe, with this number of `shards`. The first event."),
        (
            "restart",
            "The observer continues for one that stopped or handed over (`why` is `planned`) or ended otherwise \
             (`crash`), after a gap of `gap_ns`: it `adopted` that many agents, of which no `up` is reported. `gone` of them had \
             exited meanwhile, and an `exit` with `while_away` follows for each. `seq` goes on. It stands in \
             place of `start`.",
        ),
        (
            "reload",
            "The configuration was read again. `outcome` is `applied` or `refused`; the messages of the \
             observer give the reasons of a refusal, after which nothing has changed. `changed` lists the keys \
             whose new values are in force, `restart` those whose new values need a restart.",
        ),
        (
            "missing",
            "A process that beat to the observer before (`uid` as it was, `comm` as it is) lives, but has not \
             beaten for a threshold since this one started: its client does not reconnect. An `up` or an `exit` ends it.",
        ),
        (
            "action",
            "An `action` of the configuration for an agent: `phase` is `due`, `held`, `started`, `ended`, `failed`, \
             `cancelled` or `refused`, and `why` says why. `attempt` counts its starts, `child` is the process that was \
             started for it, with its exit `code` or `signal` once it ended; `errno` says why it could not be started; `evidence` \
             is the number of the file with what was found about the agent before.",
        ),
        (
            "brake",
            "More agents than the configured share stalled at once: actions for the `fleet`, for one `uid` or one `unit` \
             (`scope`) are held. `phase` is `engaged` or `released`; `stalls` of `agents` had stalled; `\"by_hand\":true`: an \
             operator did it.",
        ),
        ("stop", "The fleet stopped observing. The last event of an observer."),
        (
            "lost",
            "This output or subscriber was too slow: the events from `from_seq` to `to_seq` did not reach it.",
        ),
        ("beat", "One accepted frame, only with `events-beats`. It has no `seq`."),
    ];

    /// The word of the event schema.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Stall { .. } => "stall",
            Self::Resume { .. } => "resume",
            Self::Frozen { .. } => "frozen",
            Self::Standstill { .. } => "standstill",
            Self::Advance { .. } => "advance",
            Self::Exit { .. } => "exit",
            Self::Terminal { .. } => "terminal",
            Self::Status { .. } => "status",
            Self::Phase { .. } => "phase",
            Self::Session { .. } => "session",
            Self::Mixed => "mixed",
            Self::Decode { .. } => "decode",
            Self::Auth { .. } => "auth",
            Self::Blind { .. } => "blind",
            Self::Full { .. } => "full",
            Self::Flood { .. } => "flood",
            Self::Churn { .. } => "churn",
            Self::Moved { .. } => "moved",
            Self::Io { .. } => "io",
            Self::Start { .. } => "start",
            Self::Restart { .. } => "restart",
            Self::Reload { .. } => "reload",
            Self::Missing { .. } => "missing",
            Self::Action { .. } => "action",
            Self::Brake { .. } => "brake",
            Self::Stop => "stop",
            Self::Lost { .. } => "lost",
            Self::Beat => "beat",
        }
    }
}

impl SessionWhy {
    /// Every variant, in the order of declaration.
    pub const ALL: [Self; 5] = [Self::NewProcess, Self::Exec, Self::Version, Self::Nonce, Self::Uid];

    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewProcess => "new-process",
            Self::Exec => "exec",
            Self::Version => "version",
            Self::Nonce => "nonce",
            Self::Uid => "uid",
        }
    }
}

impl BlindWhy {
    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Full => "full",
            Self::Restart => "restart",
        }
    }
}

impl FloodWhy {
    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Budget => "budget",
        }
    }
}

impl IoPlace {
    /// The word of the event schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Events => "events",
            Self::Shard => "shard",
            Self::ShardStuck => "shard-stuck",
            Self::Socket => "socket",
            Self::Directory => "directory",
        }
    }

    /// Why it failed: the kernel's text for `errno`, without the number.
    #[must_use]
    pub fn reason(self, errno: i32) -> String {
        if let Some(words) = self.own_words(errno) {
            return words.to_owned();
        }
        let mut words = io::Error::from_raw_os_error(errno).to_string();
        if let Some(end) = words.find(" (os error") {
            words.truncate(end);
        }
        words
    }

    /// The text for a failure that has no error number of the kernel.
    pub(crate) const fn own_words(self, errno: i32) -> Option<&'static str> {
        match (self, errno) {
            (Self::Shard, _) => Some("the shard's thread panicked"),
            (Self::ShardStuck, _) => Some("the shard's thread is stuck"),
            (Self::Socket | Self::Directory, 0) => {
                Some("it had been removed or replaced, and is in place again")
            }
            (Self::Events, 0) => Some(
                "the file was cut by somebody else, and what was written since it was copied is lost; rename it instead",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_of_one_line() {
        assert_eq!(Comm::from("a\n\u{202e}b").as_str(), "a??b");
        assert_eq!(Comm::from("fourteen bytes\u{e4}").as_str(), "fourteen bytes");
    }

    #[test]
    fn every_kind_has_one_meaning() {
        let mut kinds: Vec<_> = EventKind::MEANINGS.iter().map(|(kind, _)| *kind).collect();
        let mut named = EventKind::NAMES.to_vec();
        named.extend(["lost", "beat"]);
        kinds.sort_unstable();
        named.sort_unstable();
        assert_eq!(kinds, named);
    }
}
