//! The names of the agents' processes, for display: the lookup thread writes, readers look up by slot.
//!
//! Verdicts do not depend on it. Threads: lookup, HTTP. Blocks: while a name is copied.

use parking_lot::Mutex;

use crate::process::procfs::Program;
use crate::table::place::Holder;
use crate::table::slots::Slots;

/// Longest process name of the kernel, without its NUL.
const NAME_BYTES: usize = 15;

/// The name of one slot's holder.
#[derive(Clone, Copy, Debug, Default)]
struct Name {
    /// The holder's generation; 0 = none yet.
    generation: u32,
    /// Length of the name, with the flags [`KNOWN`] and [`PROGRAM_HIDDEN`]: one byte, as there is one for
    /// each agent.
    about: u8,
    bytes: [u8; NAME_BYTES],
}

/// The name was read.
const KNOWN: u8 = 1 << 7;
/// The program could not be read.
const PROGRAM_HIDDEN: u8 = 1 << 6;

impl Name {
    const fn is(self, what: u8) -> bool {
        self.about & what != 0
    }

    const fn len(self) -> usize {
        (self.about & !(KNOWN | PROGRAM_HIDDEN)) as usize
    }
}

/// The names of all agents that were looked up, as of the lookup.
#[derive(Debug)]
pub struct Names {
    shards: Box<[Mutex<Slots<Name>>]>,
}

impl Names {
    /// Room for this many shards.
    pub fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| Mutex::default()).collect() }
    }

    /// Stores the name of the slot's holder. A name that was not UTF-8 contains replacement characters, and
    /// may be cut here.
    pub fn put(&self, holder: Holder, Program { comm, exe }: &Program) {
        let is_known = comm.is_some();
        let comm = comm.as_deref().unwrap_or_default();
        let comm = &comm[..comm.floor_char_boundary(NAME_BYTES)];
        let mut name = Name { generation: holder.generation, ..Name::default() };
        name.bytes[..comm.len()].copy_from_slice(comm.as_bytes());
        name.about = u8::try_from(comm.len()).unwrap_or(0);
        name.about |= if is_known { KNOWN } else { 0 };
        name.about |= if exe.is_none() { PROGRAM_HIDDEN } else { 0 };
        let Some(shard) = self.shards.get(usize::from(holder.place.shard)) else { return };
        *shard.lock().of(holder.place.slot) = name;
    }

    /// The name of this holder of the slot; `None` if it was not looked up yet, or could not be read.
    pub fn get(&self, holder: Holder) -> Option<String> {
        let name = *self.shards.get(usize::from(holder.place.shard))?.lock().get(holder.place.slot)?;
        let is_known = name.is(KNOWN) && name.generation == holder.generation;
        is_known.then(|| String::from_utf8_lossy(&name.bytes[..name.len()]).into_owned())
    }

    /// Whether this holder was looked up and its program could not be read.
    pub fn is_program_hidden(&self, holder: Holder) -> bool {
        let shard = self.shards.get(usize::from(holder.place.shard));
        let name = shard.and_then(|shard| shard.lock().get(holder.place.slot).copied());
        name.is_some_and(|name| name.generation == holder.generation && name.is(PROGRAM_HIDDEN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::place::Place;

    #[test]
    fn a_name_is_of_one_holder_and_cut_between_characters() {
        let names = Names::new(2);
        let holder = |slot, generation| Holder { place: Place { shard: 1, slot }, generation };
        let put = |holder, comm: &str| {
            names.put(holder, &Program { comm: Some(comm.to_owned()), exe: None });
        };
        put(holder(5000, 3), "worker");
        assert_eq!(names.get(holder(5000, 3)).as_deref(), Some("worker"));
        assert_eq!(names.get(holder(5000, 4)), None, "the next holder");
        assert_eq!(names.get(holder(5001, 0)), None, "never used");
        assert_eq!(names.get(Holder { place: Place { shard: 0, slot: 5000 }, generation: 3 }), None);
        assert_eq!(names.get(Holder { place: Place { shard: 7, slot: 5000 }, generation: 3 }), None);
        put(holder(5000, 4), "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(names.get(holder(5000, 4)).as_deref(), Some("\u{fffd}".repeat(5).as_str()));
        put(holder(5000, 5), "");
        assert_eq!(names.get(holder(5000, 5)).as_deref(), Some(""));
        names.put(holder(5000, 5), &Program::default());
        assert_eq!(names.get(holder(5000, 5)), None, "it may not be read any more");
    }
}
