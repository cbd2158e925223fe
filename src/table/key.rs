//! The key of an agent: the indices of a shard and of the aggregator find agents by it. Seats and refused frames are
//! still found by pid.

use super::slots::{PIDS, Slots};

/// Number of possible keys.
pub const KEYS: usize = PIDS;

/// The key of an agent: the process id that the kernel attests, in our own pid namespace.
///
/// No two agents have the same key at the same time. An agent without a local process would change this type,
/// the code that creates it, the indices of a shard and of the aggregator, and what is found by pid:
/// `Admission` and `TurnedAway`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AgentKey(u32);

impl AgentKey {
    /// The key of the agent with this attested process id.
    #[inline]
    #[must_use]
    pub const fn of_pid(pid: u32) -> Self {
        Self(pid)
    }

    /// Its place in an array of [`KEYS`]; a place beyond the end belongs to no agent.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A record for each agent, by key. Memory is taken as keys are used.
#[derive(Debug)]
pub struct ByKey<T>(Slots<T>);

impl<T> Default for ByKey<T> {
    fn default() -> Self {
        Self(Slots::default())
    }
}

impl<T: Default> ByKey<T> {
    /// The record of an agent; `None` if neither it nor any key of its chunk has one.
    #[inline]
    pub fn get(&self, key: AgentKey) -> Option<&T> {
        self.0.get(key.0)
    }

    /// The record of an agent; allocates its chunk at first use.
    #[inline]
    pub fn of(&mut self, key: AgentKey) -> &mut T {
        self.0.of(key.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<T: Default> ByKey<T> {
        /// All allocated records, including unused ones.
        pub fn iter(&self) -> impl Iterator<Item = &T> {
            self.0.iter()
        }
    }
}
