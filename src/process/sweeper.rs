//! Says which texts living agents need, so that those of all others can be freed.
//!
//! In: the tables, what was looked up of their holders. Thread: upkeep. Blocks: while an entry is copied. Cost: a look at
//! each used slot, every five seconds while the table of texts is crowded.

use std::sync::Arc;

use crate::label::{self, Needed, SWEEP_NS, Swept};
use crate::lane::Port;
use crate::process::names::Names;
use crate::table::place::{Holder, Place};
use crate::time::MonoNs;

/// Sweeps the table of texts for one fleet.
#[derive(Debug)]
pub struct Sweeper {
    ports: Arc<[Arc<Port>]>,
    names: Arc<Names>,
    next: MonoNs,
    _follows: Swept,
}

impl Sweeper {
    /// For the agents in these tables.
    pub fn new(ports: Arc<[Arc<Port>]>, names: Arc<Names>) -> Self {
        Self { ports, names, next: MonoNs(0), _follows: Swept::begin() }
    }

    /// Sweeps if it is time, and the table of texts is crowded. `events_wait`: the output of events is in trouble.
    pub fn turn(&mut self, events_wait: bool, now: MonoNs) {
        if now < self.next {
            return;
        }
        self.next = now + SWEEP_NS;
        if label::is_crowded() {
            label::sweep(&self.needed(), events_wait, now);
        }
    }

    /// The labels of those that hold a slot.
    fn needed(&self) -> Needed {
        let mut needed = Needed::default();
        for (shard, port) in (0..).zip(&*self.ports) {
            for slot in 0..port.table.used() {
                let generation = port.table.generation(slot);
                let holder = Holder { place: Place { shard, slot }, generation };
                self.names.labels(holder).for_each(|label| needed.add(label));
            }
        }
        needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::kick::Kick;
    use crate::process::procfs::Program;
    use crate::table::slot::{Cold, Hot};
    use crate::table::{self, Header};

    #[test]
    fn living_agents_need_their_names_and_those_that_left_do_not() {
        let header = Header { boot_id: 0, pid_namespace: 0, shard: 0, shards: 1 };
        let (mut writer, table) = table::create(8, header).unwrap();
        let port = Port::new(table, Arc::new(Kick::new().unwrap()), false).unwrap();
        let names = Arc::new(Names::new(1));
        writer.mark_used(2);
        let labels: Vec<_> = [(0, "sweeper-living"), (1, "sweeper-gone")]
            .into_iter()
            .flat_map(|(slot, name)| {
                let holder = Holder { place: Place { shard: 0, slot }, generation: 3 };
                let text = |what: &str| Some(format!("{name}-{what}"));
                let (unit, container, exe) = (text("unit"), text("container"), text("exe"));
                let program = Program { unit, container, exe, ..Program::default() };
                names.put(holder, &program, Some(7), 0);
                names.labels(holder).collect::<Vec<_>>()
            })
            .collect();
        writer.write(0, &Hot::default(), &Cold { generation: 3, ..Cold::default() });
        writer.write(1, &Hot::default(), &Cold { generation: 4, ..Cold::default() });
        let needed = Sweeper::new(Arc::from([Arc::new(port)]), names).needed();
        assert_eq!(labels.len(), 6);
        for (number, label) in labels.into_iter().enumerate() {
            assert_eq!(needed.has(label), number < 3, "{label:?}");
        }
    }
}
