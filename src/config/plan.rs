//! What will run: [`Config::plan`](super::Config::plan) makes it from what the operator wrote.

use std::net::SocketAddr;
use std::path::PathBuf;

pub use super::act::{ActPlan, Action, ActionMatch, Brake, Deed, Retry, Trigger, UnitVerb};
pub use super::bounds::{
    ACTIONS_MAX, AGENTS_MAX, METRICS_AGENTS_MAX, NOTIFY_MAX, RULES_MAX, SHARDS_MAX, SOCKET_PATH_MAX,
};
pub use super::bounds::{PHASES_MAX, START_BEATS_MAX};
use super::classes::Classes;
pub use super::classes::{PayloadPhase, Phases, Start};
use super::sizing::queue_limit_for;
use super::tables::{ProgressOf, RuleMatch};
pub use super::values::{CoreChoice, EventsFormat, LogFormat, Output};
use crate::notify::closer::{BARRIER_PLACES, PLACES};
use crate::pattern::Pattern;
use crate::wire::Status;

/// Most connections of the TCP listener.
pub(crate) const TCP_MAX: usize = 1024;
/// Most connections of `control.sock`. Counted apart, so that a full TCP listener does not lock out the
/// operator.
pub(crate) const CONTROL_MAX: usize = 256;

/// Runtime directory of an observer that runs as root.
pub const DIR_OF_ROOT: &str = "/run/varta";

/// Descriptors that are not used for pidfds, beside two for each shard.
const OPEN_FILES_RESERVED: u64 = 256;

/// Descriptors of each socket for daemons: two, and as many as strangers may have sent that are not closed yet.
const NOTIFY_FILES: u64 = 2 + (PLACES + BARRIER_PLACES) as u64;

/// What will run. [`Config::plan`](super::Config::plan) makes it and ensures that its fields agree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Runtime directory, absolute.
    pub dir: PathBuf,
    /// The shards, by index; 1..=64, each with a socket of its own.
    pub shards: Vec<ShardPlan>,
    /// Silence that is a stall for agents no rule matches, ns; 10 ms..=24 h.
    pub threshold_ns: u64,
    /// Resolution of detection, ns; 1 ms..=1 s and at most half of every threshold.
    pub tick_ns: u64,
    /// Longest coalescing sleep of a shard, ns; 0..=100 ms and at most a quarter of every threshold.
    pub max_delay_ns: u64,
    /// Permission bits of `control.sock`.
    pub control_mode: u32,
    /// Group of `control.sock`; `None`: the observer's own.
    pub control_group: Option<u32>,
    /// Users who may hold, brake and start actions, beside root and the observer's own; sorted.
    pub control_writers: Vec<u32>,
    /// Most agents tracked by the whole fleet; at least one for each shard.
    pub agents_max: u32,
    /// Most agents of one user, at least one; `None`: no limit.
    pub uid_agents_max: Option<u32>,
    /// Most datagrams of one user per second and shard, at least one; `None`: no limit.
    pub uid_frames_max: Option<u32>,
    /// Most processes whose exit is reported within milliseconds, each for a descriptor; at most as many as
    /// there can be processes.
    pub watched_max: u32,
    /// Sockets for daemons that speak the protocol of sd_notify(3), if there are any.
    pub notify: Option<NotifyPlan>,
    /// Classes of agents; the first match wins. At most 200.
    pub rules: Vec<Rule>,
    /// Where and how events are written, if anywhere.
    pub events: Option<EventsPlan>,
    /// How the program writes its own messages. The library writes none.
    pub log_format: LogFormat,
    /// Where HTTP requests are answered beside `control.sock`.
    pub http: HttpPlan,
    /// Patterns for the units that have series of their own before others; at most 256.
    pub metrics_units: Vec<String>,
    /// What is done about stalls; `None`: nothing.
    pub act: Option<ActPlan>,
}

/// One shard of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardPlan {
    /// Absolute path of its socket, at most 107 bytes.
    pub socket: PathBuf,
    /// Permission bits of its socket.
    pub mode: u32,
    /// Group of its socket; `None`: the observer's own.
    pub group: Option<u32>,
    /// Core its thread is pinned to.
    pub core: CoreChoice,
    /// User ids whose frames are accepted, sorted. `None`: all.
    pub allow_uids: Option<Vec<u32>>,
}

/// The sockets for daemons of a [`Plan`], and what holds for all that send to them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotifyPlan {
    /// The sockets, 1..=16, each with a shard of its own. These follow [`Plan::shards`] in the numbers of shards.
    pub sockets: Vec<ShardPlan>,
    /// The shortest threshold that a daemon gets by asking for it, ns; 10 ms..=24 h.
    pub threshold_min_ns: u64,
    /// The longest, ns, at least the shortest; most by which a daemon may extend a limit.
    pub threshold_max_ns: u64,
    /// How long a daemon may take to end after it has said that it stops, ns; 10 ms..=24 h.
    pub stop_ns: u64,
}

/// Where and how events are written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventsPlan {
    /// Standard output, or a file by its absolute path.
    pub output: Output,
    /// The format of each event.
    pub format: EventsFormat,
    /// Whether every accepted beat is written as an event, too.
    pub beats: bool,
    /// Size at which the file is renamed, bytes, at least 65 536; `None`: never.
    pub max_bytes: Option<u64>,
    /// How many renamed files are kept, 1..=1000.
    pub keep: u32,
}

/// A class of agents and its threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// Which agents are in it.
    pub matcher: RuleMatch,
    /// Silence that is a stall for them, ns; 10 ms..=24 h.
    pub threshold_ns: u64,
    /// When they may be silent for longer.
    pub phases: Phases,
    /// When they beat and are at a standstill; `None`: never.
    pub progress: Option<Progress>,
}

impl Rule {
    /// A rule that gives this threshold, ns, to the agents it matches, and nothing else.
    #[must_use]
    pub fn new(matcher: RuleMatch, threshold_ns: u64) -> Self {
        Self { matcher, threshold_ns, phases: Phases::default(), progress: None }
    }
}

/// When an agent that beats is at a standstill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What shows that it advances.
    pub of: ProgressOf,
    /// Beats with the same payload for so long are a standstill, ns; 1 s..=24 h, at least the threshold of the rule.
    pub threshold_ns: u64,
    /// Payload of an agent that has nothing to do.
    pub idle_payload: Option<u64>,
    /// Status of an agent that has nothing to do.
    pub idle_status: Option<Status>,
}

/// Where HTTP requests are answered, beside `control.sock`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpPlan {
    /// Address of the TCP listener.
    pub listen: Option<SocketAddr>,
    /// Absolute path of the file with the token that clients must send by TCP.
    pub token_file: Option<PathBuf>,
    /// Most agents with series of their own; 0: none.
    pub metrics_agents_max: u32,
    /// URL of a dashboard, `http` or `https`, of visible ASCII characters and without quotes.
    pub dashboard: Option<String>,
}

/// The properties of a process that rules match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Its name, at most 15 bytes; it can choose it itself.
    pub comm: &'a str,
    /// Its user id.
    pub uid: u32,
    /// Absolute path of its program.
    pub exe: &'a str,
    /// Its unit, if it is in one.
    pub unit: Option<&'a str>,
}

impl Classes {
    /// The classes of a fleet with these rules.
    pub(crate) fn of_rules(default_ns: u64, rules: &[Rule]) -> Self {
        Self::new(default_ns, rules.iter().map(|rule| rule.threshold_ns))
            .with_phases(rules.iter().map(|rule| rule.phases.clone()))
    }
}

impl Plan {
    /// Index of the first rule that matches; `None`: the default threshold applies.
    #[must_use]
    pub fn rule_for(&self, identity: &Identity<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches(identity))
    }

    /// The classes of agents and their thresholds.
    pub(crate) fn classes(&self) -> Classes {
        Classes::of_rules(self.threshold_ns, &self.rules)
    }

    /// The `net.unix.max_dgram_qlen` that this fleet needs at any rate of beats: see [`queue_limit_for`].
    #[must_use]
    pub fn queue_limit_needed(&self) -> u64 {
        queue_limit_for(self.agents_max, u32::try_from(self.shards.len()).unwrap_or(u32::MAX))
    }

    /// How many pidfds the fleet may hold with this limit on open files, one for each process whose exit is
    /// reported within milliseconds. The rest is left for sockets, procfs and the program that embeds the
    /// fleet.
    #[must_use]
    pub fn pidfds_max(&self, open_files_max: u64) -> u32 {
        let ours = OPEN_FILES_RESERVED
            + connections_max(open_files_max)
            + u64::from(memory_groups_max(open_files_max))
            + 2 * self.shards.len() as u64
            + self.notify.as_ref().map_or(0, |notify| NOTIFY_FILES * notify.sockets.len() as u64);
        let left = u32::try_from(open_files_max.saturating_sub(ours)).unwrap_or(u32::MAX);
        self.watched_max.min(left)
    }

    /// All shards in the order of their numbers: those of frames, then those of daemons.
    pub fn all_shards(&self) -> impl Iterator<Item = &ShardPlan> {
        self.shards.iter().chain(self.notify.iter().flat_map(|notify| &notify.sockets))
    }

    /// By which number the shard at this place of [`Plan::all_shards`] is known to every observer, whatever the number
    /// of shards is: those of daemons are numbered from [`SHARDS_MAX`] on.
    pub(crate) fn lasting_number(&self, shard: usize) -> usize {
        match shard.checked_sub(self.shards.len()) {
            None => shard,
            Some(of_daemons) => SHARDS_MAX as usize + of_daemons,
        }
    }

    /// Whether users other than the observer's own and root can beat on a shard.
    #[must_use]
    pub fn lets_others_beat(&self) -> bool {
        self.all_shards().any(|shard| shard.mode & 0o022 != 0)
    }

    /// The smallest of all thresholds, ns.
    #[must_use]
    pub fn threshold_min_ns(&self) -> u64 {
        self.classes().smallest_ns()
    }

    /// The largest of all thresholds, ns, in any phase: it applies to an agent until its identity is known.
    #[must_use]
    pub fn threshold_max_ns(&self) -> u64 {
        let classes = self.classes();
        classes.longest_ns(classes.unknown())
    }
}

impl Rule {
    /// Whether the process has every property that the rule names.
    #[must_use]
    pub fn matches(&self, identity: &Identity<'_>) -> bool {
        let RuleMatch { comm, uid, exe, unit } = &self.matcher;
        uid.is_none_or(|uid| uid == identity.uid)
            && comm.as_deref().is_none_or(|pattern| Pattern::new(pattern).matches(identity.comm))
            && exe.as_deref().is_none_or(|pattern| Pattern::new(pattern).matches(identity.exe))
            && unit
                .as_deref()
                .is_none_or(|pattern| identity.unit.is_some_and(|unit| Pattern::new(pattern).matches(unit)))
    }
}

/// Memory control groups whose counts of kills are held open: at most a sixteenth of all descriptors.
pub(crate) fn memory_groups_max(open_files_max: u64) -> u16 {
    u16::try_from(open_files_max / 16).unwrap_or(u16::MAX).min(256)
}

/// Descriptors reserved for connections to the observer: at most a quarter of all, as idle connections are
/// closed for new ones.
const fn connections_max(open_files_max: u64) -> u64 {
    const MAX: u64 = (TCP_MAX + CONTROL_MAX) as u64;
    let quarter = open_files_max / 4;
    if cfg!(not(feature = "http")) {
        return 0;
    }
    if quarter < MAX { quarter } else { MAX }
}
