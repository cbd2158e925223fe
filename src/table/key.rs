//! By what an agent is known: whatever is found by agent and not by slot is found by its key.

use super::slots::{PIDS, Slots};

/// So many keys there may be.
pub const KEYS: usize = PIDS;

/// The key of an agent: the process id that the kernel attests, in our own pid namespace.
///
/// Two agents never have the same at the same time. One that no local process has would change this type, what makes
/// it, and the indices made for it: those of a shard and of the aggregator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AgentKey(u32);

impl AgentKey {
    /// The key of the agent with this attested process id.
    #[inline]
    #[must_use]
    pub const fn of_pid(pid: u32) -> Self {
        Self(pid)
    }

    /// Its place in an array of [`KEYS`]; one beyond its end is nobody's.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A record for each agent, by key: memory is taken as keys are used.
#[derive(Debug)]
pub struct ByKey<T>(Slots<T>);

impl<T> Default for ByKey<T> {
    fn default() -> Self {
        Self(Slots::default())
    }
}

impl<T: Default> ByKey<T> {
    /// The record of an agent; `None`: neither it nor a neighbour ever had one.
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
        /// All records that there are, new ones included.
        pub fn iter(&self) -> impl Iterator<Item = &T> {
            self.0.iter()
        }
    }
}
