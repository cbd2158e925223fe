//! What answers are made of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::plan::Plan;
use crate::lane::Port;
use crate::process::names::Names;
use crate::route::shard_for;
use crate::sinks::OutputState;
use crate::sys::clock::SystemClock;
use crate::time::{Clock, MonoNs, WallNs};
use crate::view::copies::Copies;
use crate::view::health::Vitals;

/// What answers are made of.
#[derive(Debug)]
pub struct Sources {
    /// What the shards publish.
    pub ports: Arc<[Arc<Port>]>,
    /// What the aggregator counts.
    pub copies: Arc<Copies>,
    /// What processes are called.
    pub names: Arc<Names>,
    /// How the threads are.
    pub vitals: Arc<Vitals>,
    /// What is wrong with the event output.
    pub output: Arc<OutputState>,
    /// Thresholds by class; class 0 is the default, class i + 1 is rule i.
    pub thresholds_ns: Vec<u64>,
    /// What runs.
    pub plan: Plan,
    /// The runtime directory.
    pub dir: PathBuf,
    /// Whether shards and aggregator run at the priority they ask for, and it counts on the whole host.
    pub is_raised: [bool; 2],
    /// When the fleet started.
    pub started: (MonoNs, WallNs),
    /// Where the TCP listener is.
    pub address: Option<SocketAddr>,
}

impl Sources {
    pub fn now(&self) -> MonoNs {
        SystemClock.mono()
    }

    pub fn threshold_of(&self, class: u8) -> u64 {
        let thresholds = &self.thresholds_ns;
        thresholds.get(usize::from(class)).or(thresholds.first()).copied().unwrap_or(0)
    }

    /// The rule that gave an agent its class; `None`: the default, or not known yet.
    pub fn rule_of(&self, class: u8) -> Option<usize> {
        usize::from(class).checked_sub(1).filter(|rule| *rule < self.plan.rules.len())
    }

    pub fn is_off_hash(&self, pid: u32, shard: u16) -> bool {
        let shards = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        shard_for(pid, shards) != u32::from(shard)
    }
}
