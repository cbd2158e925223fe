//! Agents that beat to an observer of which nothing can be adopted: who they were, and whether they live.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::procfs;

/// An agent of an earlier observer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// When its process started, in clock ticks since boot: distinguishes it from others with this pid.
    pub start: u64,
    /// Name of its process.
    pub comm: String,
}

impl Expected {
    /// The process with this pid, as an agent of this user. `None` if it is gone or cannot be read. Three system
    /// calls.
    pub fn of(pid: u32, uid: u32) -> Option<Self> {
        let procfs::Stat { start_ticks, comm, .. } = procfs::stat(pid)?;
        Some(Self { pid, uid, start: start_ticks, comm })
    }

    /// Whether its process lives.
    pub fn lives(&self) -> bool {
        procfs::stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start && !stat.is_zombie)
    }
}

/// The agents of an earlier observer, and how to find out whether they live.
pub struct Roster {
    /// The agents.
    pub agents: Vec<Expected>,
    /// Whether the process of one lives.
    pub lives: Box<dyn Fn(&Expected) -> bool + Send>,
}

impl From<Vec<Expected>> for Roster {
    fn from(agents: Vec<Expected>) -> Self {
        Self { agents, lives: Box::new(Expected::lives) }
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").field("agents", &self.agents.len()).finish_non_exhaustive()
    }
}
