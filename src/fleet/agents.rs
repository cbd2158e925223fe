//! Lists the agents of a running fleet in the roster, and gives those of the observer before to the aggregator.
//!
//! In: the roster, the tables. Out: the roster, and a request for the aggregator. Thread: upkeep. Costs a look at each
//! used slot, and a read of procfs once for each process. Blocks: in file system calls, and in procfs.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::acquire::{boot_id, pid_namespace};
use crate::aggregator::Request;
use crate::lane::{Doorbell, Port};
use crate::process::expected::{Absence, Absent, Expected};
use crate::rundir::dir::RunDir;
use crate::rundir::roster::{self, AGENTS_MAX};
use crate::rundir::upkeep::Roster;
use crate::table::place::{Holder, Place};
use crate::table::slot::State;

/// Processes read at a time: a tenth of a second. The others follow with the next list.
const READ_MAX: usize = 8192;

/// The agents, as far as they were read.
#[derive(Debug)]
pub struct Agents {
    ports: Arc<[Arc<Port>]>,
    known: HashMap<Holder, Expected>,
    absent: Arc<[Absent]>,
    requests: Sender<Request>,
    doorbell: Arc<Doorbell>,
    /// The tables were adopted: of the roster, the aggregator needs only those who are not in one.
    is_adopted: bool,
}

impl Agents {
    /// None yet.
    pub fn new(
        ports: Arc<[Arc<Port>]>,
        requests: Sender<Request>,
        doorbell: Arc<Doorbell>,
        is_adopted: bool,
    ) -> Self {
        Self { ports, known: HashMap::new(), absent: Arc::from([]), requests, doorbell, is_adopted }
    }

    /// Expects those of the list that the observer before left.
    pub fn expect(&mut self, mut agents: Vec<Expected>) {
        if self.is_adopted {
            agents.retain(|expected| expected.absence.is_some());
        } else {
            // Its numbering begins anew, so that nothing counts as reported.
            agents.iter_mut().for_each(|expected| expected.absence = Some(Absence::Awaited));
        }
        // Of several with one pid, all but the last have exited.
        agents.sort_unstable_by_key(|expected| (expected.pid, Reverse(expected.start)));
        agents.dedup_by_key(|expected| expected.pid);
        if agents.is_empty() {
            return;
        }
        self.absent = agents.into_iter().map(Absent::new).collect();
        let _ = self.requests.send(Request::Expect(Arc::clone(&self.absent)));
        self.doorbell.ring();
    }

    /// The agents that are observed now and those that have not beaten to this observer yet, at most [`AGENTS_MAX`].
    /// `of` reads who a process of a user is.
    pub fn list(&mut self, of: impl Fn(u32, u32) -> Option<Expected>) -> Vec<Expected> {
        let mut before = std::mem::take(&mut self.known);
        let mut left = READ_MAX;
        let slots = (0..)
            .zip(&*self.ports)
            .flat_map(|(shard, port)| (0..port.table.used()).map(move |slot| (port, Place { shard, slot })));
        for (port, place) in slots {
            if self.known.len() == AGENTS_MAX {
                break;
            }
            let Ok((hot, cold)) = port.table.read(place.slot) else { continue };
            // A process that has only said that it panicked may never have beaten.
            if !matches!(hot.state, State::Up | State::Stalled) {
                continue;
            }
            let holder = Holder { place, generation: cold.generation };
            let known = before.remove(&holder).or_else(|| {
                left = left.checked_sub(1)?;
                of(hot.pid, hot.uid())
            });
            self.known.extend(known.map(|expected| (holder, expected)));
        }
        // One that beats on several shards is one.
        let mut beating: Vec<Expected> = self.known.values().copied().collect();
        beating.sort_unstable_by_key(|expected| (expected.pid, expected.start));
        beating.dedup_by_key(|expected| expected.pid);
        let absent = self.absent.iter().filter_map(Absent::now);
        let is_beating = |pid: u32| beating.binary_search_by_key(&pid, |expected| expected.pid).is_ok();
        let absent = absent.filter(|expected| !is_beating(expected.pid));
        let absent: Vec<Expected> = absent.filter(|_| !planted!(ForgetsTheAwaited)).collect();
        let room = AGENTS_MAX.saturating_sub(absent.len());
        beating.truncate(room);
        beating.splice(..0, absent);
        beating
    }
}

impl Roster for Agents {
    fn begin(&mut self, dir: &RunDir) -> io::Result<()> {
        self.expect(roster::read(dir, (boot_id(), pid_namespace()))?);
        Ok(())
    }

    fn write(&mut self, dir: &RunDir) -> io::Result<()> {
        roster::write(dir, (boot_id(), pid_namespace()), self.list(Expected::of))
    }
}
