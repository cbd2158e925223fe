//! Agents counted by what they have in common.

use serde::{Deserialize, Serialize};

/// Counts of groups of agents: `/api/v1/groups`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Groups {
    /// What the agents of a group have in common.
    pub by: GroupBy,
    /// At most 1000: those with the most stalled agents first, then those with the most that died, then by name.
    pub groups: Vec<Group>,
    /// The sum of the groups that are not listed, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<Group>,
    /// Groups, listed or not.
    pub total: u64,
    /// When each shard was read, `CLOCK_MONOTONIC`, ns.
    pub as_of: Vec<u64>,
}

/// What the agents of a group have in common.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// The unit of the service manager.
    #[default]
    Unit,
    /// The name of the process.
    Comm,
    /// The user.
    Uid,
    /// The shard.
    Shard,
}

impl GroupBy {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Unit, Self::Comm, Self::Uid, Self::Shard];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Comm => "comm",
            Self::Uid => "uid",
            Self::Shard => "shard",
        }
    }
}

/// The counts of one group.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Group {
    /// What they have in common, a pattern if their names differ in numbers; `None` for agents that have no unit or whose
    /// name is not known, and for the rest.
    pub name: Option<String>,
    /// Agents, in any of the states that follow.
    pub agents: u64,
    /// Those that beat.
    pub up: u64,
    /// Those that are stalled.
    pub stalled: u64,
    /// Those that are frozen.
    pub frozen: u64,
    /// Those that beat and do not advance. They are not among those that are up.
    pub standstill: u64,
    /// Those that sent crash reports only.
    pub waiting: u64,
    /// Agents that died in the last minute, of those that `/api/v1/dead` lists. They are not among the others.
    pub died: u64,
}

impl Group {
    /// Adds the counts of another.
    pub const fn add(&mut self, other: &Self) {
        self.agents += other.agents;
        self.up += other.up;
        self.stalled += other.stalled;
        self.frozen += other.frozen;
        self.standstill += other.standstill;
        self.waiting += other.waiting;
        self.died += other.died;
    }
}
