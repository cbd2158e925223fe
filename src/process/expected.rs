//! Agents that beat to an observer of which nothing can be adopted: who they were.

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
    /// The process with this pid, as an agent of this user. `None` if it is gone or cannot be read. Four system
    /// calls.
    pub fn of(pid: u32, uid: u32) -> Option<Self> {
        let procfs::Stat { start_ticks, comm, .. } = procfs::stat(pid)?;
        Some(Self { pid, uid, start: start_ticks, comm })
    }
}
