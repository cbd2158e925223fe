//! The data that responses are made of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::classes::Classes;
use crate::config::plan::Plan;
use crate::lane::Port;
use crate::process::names::Names;
use crate::route::shard_for;
use crate::sinks::OutputState;
use crate::sys::clock::SystemClock;
use crate::time::{Clock, MonoNs, WallNs};
use crate::view::copies::Copies;
use crate::view::health::Vitals;

/// The data that responses are made of.
#[derive(Debug)]
pub struct Sources {
    /// What the shards publish.
    pub ports: Arc<[Arc<Port>]>,
    /// What the aggregator counts.
    pub copies: Arc<Copies>,
    /// Names of processes.
    pub names: Arc<Names>,
    /// State of the threads.
    pub vitals: Arc<Vitals>,
    /// Problems of the event output.
    pub output: Arc<OutputState>,
    /// The threshold of each class of agents.
    pub classes: Classes,
    /// The plan in force.
    pub plan: Plan,
    /// The runtime directory.
    pub dir: PathBuf,
    /// Whether shards and aggregator have the priority they request, and it takes effect on the whole host.
    pub is_raised: [bool; 2],
    /// Distinguishes the numbers of its events from those of other fleets.
    pub run: u64,
    /// When the fleet started.
    pub started: (MonoNs, WallNs),
    /// The address of the TCP listener.
    pub address: Option<SocketAddr>,
}

impl Sources {
    pub fn now(&self) -> MonoNs {
        SystemClock.mono()
    }

    pub fn is_off_hash(&self, pid: u32, shard: u16) -> bool {
        let shards = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        shard_for(pid, shards) != u32::from(shard)
    }
}
