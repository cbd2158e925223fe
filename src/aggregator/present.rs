//! What is said of a single agent to those who act upon it.

use crate::event::Agent;
use crate::process::procfs::Incarnation;
use crate::time::MonoNs;

/// An agent, as the aggregator knows it between two of its turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Present {
    /// The shard it beats on.
    pub shard: u16,
    /// The agent.
    pub agent: Agent,
    /// Which process it is; `None`: that could not be looked up.
    pub incarnation: Option<Incarnation>,
    /// A stall was reported, no beat has ended it, and it is not frozen.
    pub is_stalled: bool,
    /// That stall was reported as certain.
    pub is_certain: bool,
    /// It is frozen.
    pub is_frozen: bool,
    /// It beats and is at a standstill.
    pub is_still: bool,
    /// Its last beat.
    pub last_arrival: MonoNs,
}
