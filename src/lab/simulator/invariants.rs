//! What must hold in every world, by name.

use std::fmt;

/// A promise that is checked after every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// Every datagram ends in exactly one counter, and none ends the loop.
    I1,
    /// An agent is one agent, wherever it beats: `up` once until its exit, and not never.
    I2,
    /// A stall is told for certain only if, on every shard, no beat of the agent had arrived within the
    /// threshold before the watermark, and no blind window excuses the silence. One whose beat lies in the
    /// queue of the telling shard itself is not told at all.
    I3,
    /// Sighted, a true silence is told within threshold + tick and what asking around may take, and for
    /// certain; in no case later than three thresholds of awake time. So is the end of a process.
    I4,
    /// Stall and resume take turns, from `up` to `exit`, and a silence that ends is told to have ended.
    I5,
    /// Nothing carries over from one process to the next holder of its pid: no silence, no number of a
    /// session, no word; and nobody is told to be gone, or up again, for what happened to another.
    I6,
    /// Tables, queues and lists hold no more than their maximum, and nothing once everybody is gone.
    I7,
    /// Nothing is lost silently: numbers without gaps, `lost` for exactly what a slow subscriber missed,
    /// blind windows told, every report, sample and beat delivered or counted as dropped.
    I8,
    /// Recovery commands stay within their limits. Waits for recovery commands to exist.
    I9,
    /// Verdicts survive any step of the wall clock: what fails in a world with steps and holds without them
    /// fails here. What no kernel attests is no life.
    I10,
    /// What the exporters write of an event is one bounded line that reads back as what it was.
    I11,
    /// Scrapes and beats do not hold each other up. Waits for the HTTP interface to exist.
    I12,
    /// A restart makes no false stall and counts nothing twice. Waits for the handover to exist.
    I13,
}

impl Invariant {
    /// Those that wait for what they are about.
    pub const WAITING: [Self; 3] = [Self::I9, Self::I12, Self::I13];
    /// Those that are checked.
    pub const CHECKED: [Self; 10] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I10,
        Self::I11,
    ];
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    /// When, in ns since the world began.
    pub at: u64,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.at / 1_000_000_000, self.at / 1_000 % 1_000_000);
        write!(f, "{:?} at {seconds}.{micros:06} s: {}", self.invariant, self.what)
    }
}

/// Whether what was looked at is as it should be.
pub type Verdict = Result<(), Violation>;
