//! What must hold in every world. Each invariant has a name.

use std::fmt;

/// An invariant that is checked after every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// Every datagram ends in exactly one counter, and none ends the loop.
    I1,
    /// An agent is one agent on all shards: `up` is reported exactly once before its exit.
    I2,
    /// A stall is reported as certain only if, on every shard, no beat of the agent arrived within the
    /// threshold before the watermark, and no blind window excuses the silence. A stall is not reported at
    /// all if a beat of the agent is in the queue of the reporting shard.
    I3,
    /// If nothing was blind, a true silence is reported as certain within threshold + tick + the time of the
    /// questions; in any case within three thresholds of awake time. The same holds for exits.
    I4,
    /// Stall and resume alternate between `up` and `exit`, and a silence that ends is reported as ended.
    I5,
    /// Nothing carries over from one process to the next with the same pid: no silence, no session number, no
    /// payload; and no agent is reported as exited or up because of another process.
    I6,
    /// Tables, queues and lists never exceed their maximum, and are empty once all agents are gone.
    I7,
    /// Nothing is lost silently: event numbers without gaps, `lost` for exactly the events a slow subscriber
    /// missed, blind windows reported, every report, sample and beat delivered or counted as dropped.
    I8,
    /// What is started for an agent stays within its limits: one child at a time for a session, as many attempts, starts
    /// and children as are allowed, nothing under a brake or while a shard is blind; and nothing is done to a process
    /// that beats, is gone or is another one.
    I9,
    /// Verdicts survive any step of the wall clock: a failure that occurs only in a world with steps is
    /// reported under this name. A datagram without attested sender proves nothing.
    I10,
    /// The line an exporter writes for an event is bounded, and reads back as the event.
    I11,
    /// Scrapes and beats do not delay each other. Not checked by the simulator, which has no HTTP.
    I12,
    /// A restart causes no false stall and counts nothing twice: over all observers each event has one number and
    /// is reported once, or repeated because its output did not acknowledge it; agents are adopted with what was
    /// reported of them, and what happened meanwhile is reported. A failure that occurs only in a world with
    /// restarts is reported under this name.
    I13,
    /// An agent of an observer of which nothing was adopted is reported as missing if it lives and does not beat to
    /// the present one: once, when that had a threshold of sight, until it beats or exits.
    I14,
    /// A standstill is reported of agents that a rule asks for progress, and that beat for a progress threshold while
    /// what they count stayed the same and they did not say that they have nothing to do; once until it is over; and of
    /// all of them if nothing disturbs.
    I15,
    /// An agent that starts, or whose last payload says that it is busy, is reported as stalled after the silence that
    /// its rule allows then, and as in that phase; every other one after the threshold of its rule.
    I16,
    /// A daemon is judged by its messages alone: it stalls if it has sent a beat and not the next one within the
    /// threshold that it sent, was started with or was given, or if it does not end after it said that it stops; once
    /// until it makes up for that. What it asks for on top is limited. Scripts that say one thing and end are no agents.
    I17,
}

impl Invariant {
    /// Not checked by the simulator: what they are about does not exist in it.
    pub const WAITING: [Self; 1] = [Self::I12];
    /// Checked.
    pub const CHECKED: [Self; 16] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I11,
        Self::I13,
        Self::I14,
        Self::I15,
        Self::I16,
        Self::I17,
    ];
}

/// A violated invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    /// When, in ns from the begin of the world.
    pub at: u64,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.at / 1_000_000_000, self.at / 1_000 % 1_000_000);
        write!(f, "{:?} at {seconds}.{micros:06} s: {}", self.invariant, self.what)
    }
}

/// Whether the checked invariants hold.
pub type Verdict = Result<(), Violation>;
