//! What the fleet tells: one [`Event`] a fact, `Copy` and of fixed size, so that queues of them are bounded memory.

use std::io;

use serde::Deserialize;

use crate::time::{MonoNs, WallNs};
use crate::wire::{DecodeError, Status};

mod json;
#[cfg(test)]
pub(crate) mod samples;

/// One told fact. As JSON: its line in the event log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Gapless over the run, from 1, in the order told. 0 where none is given: beats and [`EventKind::Lost`].
    pub seq: u64,
    /// When it was told, `CLOCK_REALTIME`. For display only.
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

/// The agent an event concerns, as last seen when it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Process id in the observer's pid namespace, attested by the kernel.
    pub pid: u32,
    /// Process id inside the agent's own pid namespace, where that differs and is known.
    pub ns_pid: Option<u32>,
    /// Number of the session, unique in this run, from 1.
    pub session: u32,
    /// Nonce of the last accepted frame.
    pub nonce: u64,
    /// Status of the last accepted frame.
    pub status: Status,
    /// Payload of the last accepted frame, whole.
    pub payload: u64,
}

impl Event {
    /// The process it is about: the agent, or who sent what was no frame.
    #[must_use]
    pub const fn pid(&self) -> Option<u32> {
        match (self.agent, self.kind) {
            (Some(agent), _) => Some(agent.pid),
            (None, EventKind::Decode { attested: 0, .. }) => None,
            (None, EventKind::Decode { attested, .. }) => Some(attested),
            (None, _) => None,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum EventKind {
    /// First session of a pid in this run or after its exit.
    Up,
    /// A silence reached the agent's threshold.
    Stall {
        /// From the last beat's arrival to the instant it was judged, ns.
        silent_ns: u64,
        /// Nonce of the last accepted frame before the silence.
        last_nonce: u64,
        /// False when we were blind for part of the silence, or another shard could not be asked.
        certain: bool,
        /// How much of the silence we were blind, ns.
        blind_ns: u64,
        /// Stalls told by this one event; more than 1 if the agent was faster than the telling.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// The silence ended with a beat.
    Resume {
        /// Length of the silence, ns.
        silent_ns: u64,
        /// Beats lost before us during the silence, from the gap in the nonce: a lower bound.
        lost: u64,
        /// Resumes told by this one event.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// A silence reached the agent's threshold while its control group was frozen, which is no stall. The end of
    /// one whose process dies meanwhile is its exit.
    Frozen {
        /// Begin or end.
        phase: FrozenPhase,
    },
    /// The kernel says the process is gone.
    Exit {
        /// From the last beat's arrival to the instant the exit was known, ns.
        silent_ns: u64,
        /// How it ended, where the kernel says.
        #[serde(flatten)]
        how: Option<ExitHow>,
    },
    /// A crash hook reported a panic or unhandled exception. The process may live on.
    Terminal {
        /// Crash reports told by this one event, whose payload is the first one's; of many after one that was told
        /// it is that of the last but one.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// The agent's status changed.
    Status {
        /// Changes told by this one event, which says what came of them.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// A later session or stream of a known agent.
    Session {
        /// What began it.
        why: SessionWhy,
        /// Sessions and streams told by this one event.
        #[serde(default = "single")]
        coalesced: u32,
    },
    /// Three streams at once, or both wire versions in turn: life is known, loss is not counted any more.
    Mixed,
    /// A datagram was no frame. At most 10 a second per shard; the rest is counted.
    Decode {
        /// Sender attested by the kernel; 0: none.
        #[serde(skip)]
        attested: u32,
        /// Why it was none.
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
    /// The shard could not see.
    Blind {
        /// Begin or end.
        #[serde(flatten)]
        phase: BlindPhase,
        /// What blinded it.
        why: BlindWhy,
    },
    /// The agent table is full, or a user has its share of it. At most once a second per shard.
    Full {
        /// Frames refused for either since the last such event.
        refused: u64,
        /// Those refused because their user has its share, if any were.
        #[serde(flatten)]
        share: Option<ShareSpent>,
    },
    /// The shard's queue was full, or a user overran its budget: who sent most of it. At most once a second per
    /// shard.
    Flood {
        /// What of the two it was.
        why: FloodWhy,
        /// The user who sent most; `None`: the many users who have no row of their own in the shard's counts.
        uid: Option<u32>,
        /// Its datagrams.
        frames: u64,
        /// Those of them that were refused, for any reason.
        refused: u64,
        /// The time they came in, ns, up to the event's `mono`: one to two seconds while the observer is busy.
        for_ns: u64,
    },
    /// A user's agents come and go too fast to be told of one by one: what was not told singly since the last such
    /// event. At most once a second per user. An `up` follows for those that live on, before what is told of them.
    Churn {
        /// The user; `None`: many users.
        uid: Option<u32>,
        /// Agents that came up.
        ups: u32,
        /// Those that ended.
        exits: u32,
        /// Their crash reports.
        terminals: u32,
        /// What else they said.
        changes: u32,
        /// The time it happened in, ns, up to the event's `mono`.
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
        /// The kernel's error number; 0 where there is none.
        errno: i32,
    },
    /// The fleet began to observe.
    Start {
        /// Number of shards.
        shards: u16,
    },
    /// The fleet stopped observing; the last event of a run.
    Stop,
    /// This subscriber was too slow: the events of this range did not reach it.
    Lost {
        /// First missing `seq`.
        from_seq: u64,
        /// Last missing `seq`.
        to_seq: u64,
    },
    /// One accepted frame, only for a subscriber that asked for beats. Has no `seq`.
    Beat,
}

const fn single() -> u32 {
    1
}

/// Frames refused because their user has its share of the agent table.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct ShareSpent {
    /// The user of the last of them.
    pub uid: u32,
    /// Their number.
    #[serde(rename = "share_refused")]
    pub refused: u64,
}

/// Why somebody is said to flood a shard.
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
}

/// What began a later session or stream.
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
    /// The process became another user.
    Uid,
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

/// Begin or end of what is told of a frozen agent.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FrozenPhase {
    /// It is frozen as of the event's `mono`.
    Begin,
    /// It is not, or beats: its next silence is a stall from its threshold on.
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

/// What blinded a shard.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BlindWhy {
    /// The observer did not run.
    Paused,
    /// The kernel's queue was full, so beats may have been refused.
    Full,
}

/// Where input or output failed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum IoPlace {
    /// A shard's socket.
    Receive,
    /// The event output.
    Events,
    /// A shard's thread panicked. It goes on, unless it did so too often.
    Shard,
    /// A shard's thread does not turn any more: it is stuck.
    ShardStuck,
    /// A shard's socket was not at its path: it was put back (error number 0), or agents that start now do not
    /// find it. Those that are connected are observed all the same.
    Socket,
    /// Lock, manifest or symlink were not in the runtime directory: as `Socket`.
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
    /// The spelling of metrics and events.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::WrongSize => "wrong_size",
            Self::Undecodable(error) => error.reason(),
        }
    }
}

/// Whose room an event takes where there is not enough: what there may be much of takes none from the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// A verdict, or that there may be none.
    Verdict,
    /// What agents and users do beside coming and going.
    Word,
    /// Agents come and go.
    Life,
}

impl EventKind {
    /// Its rank.
    pub(crate) const fn rank(&self) -> Rank {
        match self {
            Self::Stall { .. }
            | Self::Resume { .. }
            | Self::Frozen { .. }
            | Self::Blind { .. }
            | Self::Full { .. }
            | Self::Io { .. } => Rank::Verdict,
            Self::Up | Self::Exit { .. } | Self::Churn { .. } => Rank::Life,
            _ => Rank::Word,
        }
    }

    /// The words of all kinds that have a number.
    pub const NAMES: [&'static str; 19] = [
        "up", "stall", "resume", "frozen", "exit", "terminal", "status", "session", "mixed", "decode",
        "auth", "blind", "full", "flood", "churn", "moved", "io", "start", "stop",
    ];

    /// Every kind and what it means, in the words of the manual; backquotes enclose words of the schema.
    pub const MEANINGS: [(&'static str, &'static str); 21] = [
        (
            "up",
            "A process beats for the first time in this run, or for the first time after an `exit` of its \
             pid.",
        ),
        (
            "stall",
            "A silence reached the threshold; once a silence. `silent_ns` is its length, `last_nonce` the \
             last nonce before it. `certain` is false if we could not see for a whole threshold, or could not \
             ask whether the process exists; `blind_ns` is how long of it we could not see.",
        ),
        (
            "resume",
            "The silence ended with a beat. `lost` beats of it never reached us, by the gap in the nonce: a \
             lower bound.",
        ),
        (
            "frozen",
            "Begin and end (`phase`) of a silence that is no stall: it reached the threshold while the \
             agent's control group, or one above it, was frozen (`docker pause`, `systemctl freeze`). After \
             the thaw the agent has its threshold to beat in. An `exit` ends it, too.",
        ),
        (
            "exit",
            "The kernel says that the process is gone, with its exit `code` or the `signal` that ended it; \
             `\"code\":null` where the kernel does not say. Never also a `stall` of the same silence.",
        ),
        (
            "terminal",
            "A crash hook reported a panic or an unhandled exception; the process may live on. Its status is \
             `critical` until it says otherwise.",
        ),
        ("status", "The agent's own status changed."),
        (
            "session",
            "A later program, user, connection or wire version of a known agent: `why` is `new-process`, \
             `exec`, `version`, `nonce` (a reconnect, or another handle) or `uid`.",
        ),
        (
            "mixed",
            "Three streams of the agent alternate, or both wire versions do. Its life is known; its losses \
             are counted no more.",
        ),
        (
            "decode",
            "A datagram was no frame, for its size or its content (`error`). At most 10 a second for each \
             shard; the rest is counted.",
        ),
        (
            "auth",
            "A frame claimed the pid of another process: `claimed`, sent by `attested`, of user `uid`. At \
             most 10 a second for each shard; the rest is counted.",
        ),
        (
            "blind",
            "Begin and end (`phase`) of a time in which a shard could not see: the observer was `paused`, or \
             the queue of the socket was `full` (`why`). No agent is condemned for it.",
        ),
        (
            "full",
            "The agent table is full, or a user has its share of it: `refused` frames since the last such \
             event, `share_refused` of them for their share, the last of those from `uid`.",
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
            "Input or output failed. `place` is `receive`, `events`, `shard` or `shard-stuck`; or `socket` or \
             `directory`, where agents could not find a socket, with `errno` 0 once it is back. `events` with `errno` \
             0: somebody else truncated the log.",
        ),
        ("start", "The fleet begins to observe, with so many `shards`. The first event."),
        ("stop", "The fleet stopped observing. The last event."),
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
            Self::Exit { .. } => "exit",
            Self::Terminal { .. } => "terminal",
            Self::Status { .. } => "status",
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
            Self::Stop => "stop",
            Self::Lost { .. } => "lost",
            Self::Beat => "beat",
        }
    }
}

impl SessionWhy {
    /// Every one of them, in the order of declaration.
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

    /// Why it failed: the kernel's words for `errno`, without the number.
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

    /// What to say where the kernel has no word to say.
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
    fn every_kind_has_one_meaning() {
        let mut kinds: Vec<_> = EventKind::MEANINGS.iter().map(|(kind, _)| *kind).collect();
        let mut named = EventKind::NAMES.to_vec();
        named.extend(["lost", "beat"]);
        kinds.sort_unstable();
        named.sort_unstable();
        assert_eq!(kinds, named);
    }
}
