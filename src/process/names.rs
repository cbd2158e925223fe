//! Who the agents' processes are, for display: the lookup thread writes, readers look up by slot.
//!
//! Verdicts do not depend on it. Threads: lookup, aggregator, watch, upkeep, HTTP. Blocks: while an entry of 48 bytes is
//! copied.

use std::borrow::Cow;
use std::num::NonZeroU32;

use parking_lot::Mutex;

use crate::event::{About, ProcessState};
use crate::label::Label;
use crate::process::oom::GroupId;
use crate::process::procfs::Program;
use crate::process::unit::manager_of;
use crate::table::place::Holder;
use crate::table::slots::Slots;

/// Longest process name of the kernel, without its NUL.
const NAME_BYTES: usize = 15;

/// What was looked up of one slot's holder: 48 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The holder's generation; 0 = none yet.
    generation: u32,
    /// Length of the name, with the flags [`KNOWN`] and [`PROGRAM_HIDDEN`]: one byte, as there is one for
    /// each agent.
    flags: u8,
    name: [u8; NAME_BYTES],
    /// The user for whom its labels count.
    uid: u32,
    unit: Option<Label>,
    container: Option<Label>,
    exe: Option<Label>,
    state: Option<ProcessState>,
    used_cpu: Option<bool>,
    group: GroupId,
    /// The lower half of its start time; `None` if it is not known.
    start: Option<NonZeroU32>,
}

/// The name was read.
const KNOWN: u8 = 1 << 7;
/// The program could not be read.
const PROGRAM_HIDDEN: u8 = 1 << 6;

impl Entry {
    const fn is(self, what: u8) -> bool {
        self.flags & what != 0
    }

    const fn len(self) -> usize {
        (self.flags & !(KNOWN | PROGRAM_HIDDEN)) as usize
    }

    /// The name; `None` if it could not be read.
    fn comm(&self) -> Option<Cow<'_, str>> {
        self.is(KNOWN).then(|| String::from_utf8_lossy(&self.name[..self.len()]))
    }
}

/// The names of all agents that were looked up, as of the lookup.
#[derive(Debug)]
pub struct Names {
    shards: Box<[Mutex<Slots<Entry>>]>,
}

impl Names {
    /// Room for this many shards.
    pub fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| Mutex::default()).collect() }
    }

    /// Stores who the slot's holder is; its labels count for this user, or for that of the lookup before. A name that
    /// was not UTF-8 contains replacement characters, and may be cut here. `group`: its memory control group.
    pub fn put(&self, holder: Holder, program: &Program, uid: Option<u32>, group: GroupId) {
        let Program { comm, exe, unit, container, state, used_cpu, .. } = program;
        let before = self.entry(holder);
        let start = program
            .start
            .and_then(|ticks| NonZeroU32::new((ticks & u64::from(u32::MAX)).try_into().unwrap_or(0)));
        // Another process has the pid now; its own slot is yet to come.
        if before.is_some_and(|before| before.start.is_some() && start.is_some() && before.start != start) {
            return;
        }
        // Nobody's share is not root's, which has no limit.
        let uid = uid.or(before.map(|entry| entry.uid)).unwrap_or(u32::MAX);
        let uid = match unit.as_deref().and_then(manager_of) {
            // Whatever users the processes of its unit become, this one names them.
            Some(user) if user != 0 => user,
            // Root of a container is not the host's.
            _ if uid == 0 && container.is_some() => u32::MAX,
            _ => uid,
        };
        let is_known = comm.is_some();
        let comm = comm.as_deref().unwrap_or_default();
        let comm = &comm[..comm.floor_char_boundary(NAME_BYTES)];
        let label = |text: &Option<String>| text.as_deref().and_then(|text| Label::of(text, uid));
        let mut entry = Entry {
            generation: holder.generation,
            uid,
            unit: label(unit),
            container: label(container),
            exe: label(exe),
            state: *state,
            used_cpu: *used_cpu,
            group,
            start,
            ..Entry::default()
        };
        entry.name[..comm.len()].copy_from_slice(comm.as_bytes());
        entry.flags = u8::try_from(comm.len()).unwrap_or(0);
        entry.flags |= if is_known { KNOWN } else { 0 };
        entry.flags |= if exe.is_none() { PROGRAM_HIDDEN } else { 0 };
        // Of a process that exits little can be read, and its last events say who it was.
        if let Some(before) = before.filter(|_| !is_known || state.is_none()) {
            entry =
                Entry { flags: before.flags | PROGRAM_HIDDEN, state: *state, used_cpu: *used_cpu, ..before };
        }
        let Some(shard) = self.shards.get(usize::from(holder.place.shard)) else { return };
        *shard.lock().of(holder.place.slot) = entry;
    }

    fn entry(&self, holder: Holder) -> Option<Entry> {
        let entry = *self.shards.get(usize::from(holder.place.shard))?.lock().get(holder.place.slot)?;
        (entry.generation == holder.generation).then_some(entry)
    }

    /// The name of this holder of the slot; `None` if it was not looked up yet, or could not be read.
    #[cfg(any(test, feature = "http"))]
    pub fn get(&self, holder: Holder) -> Option<String> {
        self.entry(holder)?.comm().map(Cow::into_owned)
    }

    /// Who this holder of the slot is; its user is not known here.
    pub fn about(&self, holder: Holder) -> About {
        let Some(entry) = self.entry(holder) else { return About::default() };
        About {
            uid: None,
            comm: entry.comm().map(|comm| (&*comm).into()).unwrap_or_default(),
            unit: entry.unit,
            container: entry.container,
            exe: entry.exe,
        }
    }

    /// Unit, container and program of this holder.
    pub fn labels(&self, holder: Holder) -> impl Iterator<Item = Label> {
        let entry = self.entry(holder).unwrap_or_default();
        [entry.unit, entry.container, entry.exe].into_iter().flatten()
    }

    /// The unit of this holder.
    pub fn unit(&self, holder: Holder) -> Option<Label> {
        self.entry(holder)?.unit
    }

    /// The unit of this holder, and the user of whose share it is.
    pub fn unit_and_user(&self, holder: Holder) -> Option<(Label, u32)> {
        let entry = self.entry(holder)?;
        Some((entry.unit?, entry.uid))
    }

    /// What the process of this holder did at the last lookup.
    pub fn state(&self, holder: Holder) -> Option<ProcessState> {
        self.entry(holder)?.state
    }

    /// Whether it had used CPU time since its last beat, at the last lookup.
    pub fn used_cpu(&self, holder: Holder) -> Option<bool> {
        self.entry(holder)?.used_cpu
    }

    /// The memory control group of this holder; 0 if it is not known.
    pub fn group(&self, holder: Holder) -> GroupId {
        self.entry(holder).map_or(0, |entry| entry.group)
    }

    /// Whether this holder was looked up and its program could not be read.
    #[cfg(feature = "http")]
    pub fn is_program_hidden(&self, holder: Holder) -> bool {
        self.entry(holder).is_some_and(|entry| entry.is(PROGRAM_HIDDEN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::place::Place;

    #[test]
    fn an_entry_is_as_small_as_it_says() {
        assert_eq!(size_of::<Entry>(), 48);
    }

    #[test]
    fn a_unit_counts_for_the_user_who_names_it() {
        let names = Names::new(1);
        let holder = Holder { place: Place { shard: 0, slot: 1 }, generation: 1 };
        for (uid, unit, container, user) in [
            (0, "a.service", None, 0),
            (33, "a.service", None, 33),
            (1000, "user@1000.service/a.scope", None, 1000),
            (0, "user@1000.service/a.scope", None, 1000),
            (100_000, "user@1000.service/a.scope", None, 1000),
            (7, "user@0.service/a.scope", None, 7),
            (0, "a.service", Some("c"), u32::MAX),
            (0, "user@0.service/a.scope", Some("c"), u32::MAX),
            (100_000, "a.service", Some("c"), 100_000),
            (100_000, "user@1000.service/a.scope", Some("c"), 1000),
        ] {
            let program = Program {
                comm: Some("x".to_owned()),
                unit: Some(unit.to_owned()),
                container: container.map(str::to_owned),
                state: Some(ProcessState::Running),
                ..Program::default()
            };
            names.put(holder, &program, Some(uid), 0);
            let of = names.unit_and_user(holder).unwrap();
            assert_eq!((of.0.text().as_deref(), of.1), (Some(unit), user), "{uid} {container:?}");
        }
    }

    #[test]
    fn a_name_is_of_one_holder_and_cut_between_characters() {
        let names = Names::new(2);
        let holder = |slot, generation| Holder { place: Place { shard: 1, slot }, generation };
        let put = |holder, comm: &str| {
            names.put(holder, &Program { comm: Some(comm.to_owned()), ..Program::default() }, None, 0);
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
        names.put(holder(5000, 5), &Program::default(), None, 0);
        assert_eq!(names.get(holder(5000, 5)).as_deref(), Some(""), "it may be exiting");
        assert!(names.entry(holder(5000, 5)).is_some_and(|entry| entry.is(PROGRAM_HIDDEN)));
        let of = |comm: &str, start: u64| Program {
            comm: Some(comm.to_owned()),
            start: Some(start),
            state: Some(ProcessState::Running),
            ..Program::default()
        };
        for (program, name) in
            [(of("old", 7), "old"), (of("renamed", 7), "renamed"), (of("heir", 8), "renamed")]
        {
            names.put(holder(6000, 1), &program, None, 0);
            assert_eq!(names.get(holder(6000, 1)).as_deref(), Some(name), "the pid was reused");
        }
        names.put(holder(5000, 6), &Program::default(), None, 0);
        assert_eq!(names.get(holder(5000, 6)), None, "another holder");
    }
}
