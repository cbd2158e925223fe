//! Lists the agents of a running fleet, for the roster.
//!
//! Thread: upkeep. Costs a look at each used slot, and a read of procfs once for each process.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lane::Port;
use crate::process::expected::Expected;
use crate::rundir::roster::AGENTS_MAX;
use crate::table::place::{Holder, Place};
use crate::table::slot::State;

/// Processes read at a time: a tenth of a second. The others follow with the next list.
const READ_MAX: usize = 8192;

/// The agents, as far as they were read.
#[derive(Debug)]
pub struct Agents {
    ports: Arc<[Arc<Port>]>,
    known: HashMap<Holder, Expected>,
}

impl Agents {
    /// None yet.
    pub fn of(ports: &Arc<[Arc<Port>]>) -> Self {
        Self { ports: Arc::clone(ports), known: HashMap::new() }
    }

    /// The agents that are tracked now, at most [`AGENTS_MAX`].
    pub fn list(&mut self) -> Vec<Expected> {
        let mut before = std::mem::take(&mut self.known);
        let mut left = READ_MAX;
        for (shard, port) in (0..).zip(&*self.ports) {
            for slot in 0..port.table.used() {
                let Ok((hot, cold)) = port.table.read(slot) else { continue };
                if hot.state == State::Free || self.known.len() == AGENTS_MAX {
                    continue;
                }
                let holder = Holder { place: Place { shard, slot }, generation: cold.generation };
                let known = before.remove(&holder).or_else(|| {
                    left = left.checked_sub(1)?;
                    Expected::of(hot.pid, hot.uid())
                });
                self.known.extend(known.map(|expected| (holder, expected)));
            }
        }
        self.known.values().cloned().collect()
    }
}
