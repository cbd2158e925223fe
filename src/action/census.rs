//! What the desk asks of the fleet: how many agents the brake compares stalls with, counted in the slots, and the control
//! group of a process.
//!
//! Thread: act. Blocks: while the name of each agent is looked up, and in procfs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use super::brake::{Census, Scope};
use super::policy::Groups;
use crate::lane::Port;
use crate::process::names::Names;
use crate::process::procfs;
use crate::sys::clock::SystemClock;
use crate::table::place::{Holder, Place};
use crate::table::slot::State;
use crate::time::{Clock, MonoNs};

/// How old a count may be.
const CENSUS_NS: u64 = 1_000_000_000;

/// How many agents there are, counted when somebody asks, at most once in [`CENSUS_NS`].
#[derive(Debug)]
pub struct Counted {
    ports: Arc<[Arc<Port>]>,
    names: Arc<Names>,
    last: RefCell<HashMap<Scope, u32>>,
    at: Cell<Option<MonoNs>>,
}

impl Census for Counted {
    fn agents(&self, scope: Scope) -> u32 {
        let now = SystemClock.mono();
        if self.at.get().is_none_or(|at| now.since(at) > CENSUS_NS) {
            self.at.set(Some(now));
            self.count();
        }
        self.last.borrow().get(&scope).copied().unwrap_or(0)
    }
}

impl Groups for Counted {
    fn groups(&self, pid: u32) -> String {
        procfs::groups(pid)
    }
}

impl Counted {
    /// Of these agents; nothing is counted yet.
    pub fn new(ports: Arc<[Arc<Port>]>, names: Arc<Names>) -> Self {
        Self { ports, names, last: RefCell::default(), at: Cell::default() }
    }

    fn count(&self) {
        let mut last = self.last.borrow_mut();
        last.clear();
        for (shard, port) in (0..).zip(&*self.ports) {
            for slot in 0..port.table.used() {
                let Ok(hot) = port.table.read_hot(slot) else { continue };
                if !matches!(hot.state, State::Up | State::Stalled) {
                    continue;
                }
                let generation = port.table.generation(slot);
                let unit = self.names.unit(Holder { place: Place { shard, slot }, generation });
                for scope in [Some(Scope::Fleet), Some(Scope::Uid(hot.uid())), unit.map(Scope::Unit)]
                    .into_iter()
                    .flatten()
                {
                    *last.entry(scope).or_default() += 1;
                }
            }
        }
    }
}
