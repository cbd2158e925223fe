//! Adopts the table that another process left: checks it, repairs it, grants its memory.
//!
//! In: a memfd, whose content may be anything. Out: the table with its writer, or why it cannot be used. Thread:
//! the caller's, before the shard has one. Blocks: while the kernel grants memory. Time is an argument.
//!
//! A table is adopted whole or not at all. What never changes in it is checked first ([`Unadopted::identify`]), while the
//! process before may still write it; from [`Unadopted::adopt`] on it may not. Everything is checked before anything is
//! changed. An importer for tables of an earlier layout would stand where [`AdoptError::Layout`] is
//! returned.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sequence::high;
use super::slot::{self, Cold, Hot, State};
use super::slots::PIDS;
use super::{
    HEADER_WORDS, Header, LAYOUT, MAGIC, Progress, SLOT_BYTES, Table, TableWriter, create_granted, halves,
    header, load_all, store_all, words_of,
};
use crate::config::bounds::AGENTS_MAX;
use crate::message::Reason;
use crate::sys::memory::Words;
use crate::time::MonoNs;

/// What the process before left in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Legacy {
    /// How far it came.
    pub progress: Progress,
    /// It stopped in order: everything that had arrived was processed.
    pub was_clean: bool,
    /// Number of shards of its fleet.
    pub shards: u16,
    /// How often the table was adopted, this time included.
    pub adoptions: u64,
    /// Slots that were ever used.
    pub used: u32,
    /// Slots that hold an agent.
    pub agents: u32,
    /// Slots it was writing when it ended. Their agents count as having beaten at the watermark.
    pub torn: u32,
    /// Latest arrival of a beat.
    pub last_arrival: MonoNs,
    /// The slots are in a new memfd: they had to be copied to make room for more.
    pub is_copied: bool,
}

/// Why a table cannot be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The descriptor is no memory that can be shared.
    #[error("{}", Reason(.0))]
    Memory(#[source] io::Error),
    /// The memory holds something else.
    #[error("it holds no table of an observer")]
    NoTable,
    /// It was left by another version.
    #[error("another version of this program left it: its layout is {found}, this version reads {LAYOUT}")]
    Layout {
        /// Its layout.
        found: u64,
    },
    /// Its slots have another size.
    #[error("its slots have {found} bytes instead of {SLOT_BYTES}")]
    SlotSize {
        /// Size of a slot, bytes.
        found: u64,
    },
    /// It has room for an impossible number of agents.
    #[error("its header has {found} slots, and there can be 1 to {AGENTS_MAX}")]
    Capacity {
        /// Number of slots.
        found: u64,
    },
    /// It is shorter or longer than its header says.
    #[error("it has {found} bytes, and its header promises {expected}")]
    Length {
        /// Its length, bytes.
        found: usize,
        /// The length of a table of as many slots, bytes.
        expected: usize,
    },
    /// Its instants belong to another boot.
    #[error("it was left before the host was booted")]
    OtherBoot,
    /// Its pids belong to another namespace.
    #[error("it was left in another pid namespace: its process ids mean nothing here")]
    OtherPidNamespace,
    /// It belongs to another shard.
    #[error("it belongs to shard {found}")]
    OtherShard {
        /// Index of that shard.
        found: u64,
    },
    /// The clock is earlier than when the table was written.
    #[error("the monotonic clock is {behind_ns} ns behind its last instant: another clock wrote it")]
    ClockBehind {
        /// How far, ns.
        behind_ns: u64,
    },
    /// It was paused for longer than the clock has run.
    #[error("its header is corrupt: {paused_ns} ns of pauses, and the clock has run for {now_ns}")]
    Paused {
        /// Length of all pauses.
        paused_ns: u64,
        /// The monotonic clock, ns.
        now_ns: u64,
    },
    /// More slots are in use than there are.
    #[error("its header has {used} slots in use of {capacity}")]
    Used {
        /// Slots in use.
        used: u64,
        /// Number of slots.
        capacity: u32,
    },
    /// A slot holds what no observer writes.
    #[error("its slot {slot} is corrupt: {why}")]
    Corrupt {
        /// Index of the slot.
        slot: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel grants no memory for it.
    #[error("cannot reserve memory for it: {}", Reason(.0))]
    Resources(#[source] io::Error),
}

/// A table that another process left, or is about to leave.
#[derive(Debug)]
pub struct Unadopted {
    words: Words<AtomicU64>,
    header: Header,
    capacity: u32,
}

impl Unadopted {
    /// The table in `memfd`, if it is one of the shard that `header` describes. Looks only at what never changes.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn identify(memfd: OwnedFd, header: &Header) -> Result<Self, AdoptError> {
        let words = Words::<AtomicU64>::adopt(memfd).map_err(AdoptError::Memory)?;
        let capacity = identify(&words, header)?;
        Ok(Self { words, header: *header, capacity })
    }

    /// The number of its slots.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Adopts it as a table of at least `capacity` slots. No other process may write it any more. Obtains memory for
    /// `ahead` agents beyond those in it. `now`: MONOTONIC.
    ///
    /// Each agent keeps its slot. A table with more slots than `capacity` keeps them: what limits the agents of a
    /// fleet is its admission, not the size of its tables. One with fewer is copied into a new memfd.
    ///
    /// # Errors
    /// Why the table cannot be used; nothing in it was changed, except for [`AdoptError::Resources`].
    pub fn adopt(
        self,
        capacity: u32,
        ahead: u32,
        now: MonoNs,
    ) -> Result<(TableWriter, Table, Legacy), AdoptError> {
        let used = used(&self.words, self.capacity, now)?;
        let table = Table::of(self.words, self.capacity, ahead);
        // Without a grant a look at a slot could end the process.
        table.grant(used).map_err(AdoptError::Resources)?;
        let found = examine(&table, used, now)?;
        let (table, is_copied) = if table.capacity < capacity {
            (enlarged(&table, &self.header, capacity, ahead, used).map_err(AdoptError::Resources)?, true)
        } else {
            table.grant(used.saturating_add(ahead).min(table.capacity)).map_err(AdoptError::Resources)?;
            (table, false)
        };
        let mut legacy = Legacy {
            progress: table.progress(),
            was_clean: table.get(header::IS_CLEAN) == 1,
            shards: u16::try_from(table.get(header::SHARDS)).unwrap_or(u16::MAX),
            adoptions: table.get(header::GENERATION),
            used,
            agents: found.agents,
            torn: 0,
            last_arrival: found.last_arrival,
            is_copied,
        };
        table.put(header::SHARDS, u64::from(self.header.shards));
        table.put(header::GENERATION, legacy.adoptions.wrapping_add(1));
        table.words[header::IS_CLEAN].store(0, Ordering::Release);
        let mut writer = TableWriter { table: table.clone() };
        let mut holders = found.holders;
        for slot in found.torn {
            writer.mend(slot, &mut holders, &mut legacy, now);
        }
        Ok((writer, table, legacy))
    }
}

/// [`Unadopted::identify`] and [`Unadopted::adopt`] in one.
///
/// # Errors
/// As theirs.
#[cfg(any(test, fuzzing, feature = "bench"))]
pub fn adopt(
    memfd: OwnedFd,
    header: &Header,
    capacity: u32,
    ahead: u32,
    now: MonoNs,
) -> Result<(TableWriter, Table, Legacy), AdoptError> {
    Unadopted::identify(memfd, header)?.adopt(capacity, ahead, now)
}

impl Legacy {
    /// Total length of all pauses before the last beat of this agent, ns, such that the time since then in which a
    /// shard was awake goes on: no restart hides an agent from judgement.
    #[must_use]
    pub fn paused_before(&self, hot: &Hot) -> u64 {
        let Progress { paused_ns, paused_from, .. } = self.progress;
        let all = paused_ns.saturating_add(hot.last_arrival.since(paused_from));
        // The process before may have counted pauses after `paused_from` one by one. The successor takes all time
        // from there to its start for a pause, whatever was awake of it.
        if hot.last_arrival >= paused_from { all } else { hot.paused_before.min(all) }
    }
}

/// The number of slots of the table in these words, if it is one of `header`'s shard.
fn identify(words: &Words<AtomicU64>, header: &Header) -> Result<u32, AdoptError> {
    let length = words.len();
    if length < HEADER_WORDS {
        return Err(AdoptError::NoTable);
    }
    words.grant(0..HEADER_WORDS).map_err(AdoptError::Resources)?;
    let word = |index: usize| words[index].load(Ordering::Acquire);
    if word(header::MAGIC) != MAGIC {
        return Err(AdoptError::NoTable);
    }
    match word(header::LAYOUT) {
        LAYOUT => {}
        found => return Err(AdoptError::Layout { found }),
    }
    match word(header::SLOT_BYTES) {
        SLOT_BYTES => {}
        found => return Err(AdoptError::SlotSize { found }),
    }
    let found = word(header::CAPACITY);
    let capacity = u32::try_from(found).ok().filter(|capacity| (1..=AGENTS_MAX).contains(capacity));
    let capacity = capacity.ok_or(AdoptError::Capacity { found })?;
    let expected = words_of(capacity);
    if length != expected {
        let bytes = |words: usize| words * size_of::<u64>();
        return Err(AdoptError::Length { found: bytes(length), expected: bytes(expected) });
    }
    // A boot or namespace that could not be read is 0, and the same as no other.
    let is_other_boot = header.boot_id == 0 || header::BOOT_ID.map(word) != halves(header.boot_id);
    if is_other_boot && !planted!(AdoptsAnotherBoot) {
        return Err(AdoptError::OtherBoot);
    }
    let is_other_namespace = header.pid_namespace == 0 || word(header::PID_NAMESPACE) != header.pid_namespace;
    if is_other_namespace && !planted!(AdoptsAnotherBoot) {
        return Err(AdoptError::OtherPidNamespace);
    }
    let found = word(header::SHARD);
    if found != u64::from(header.shard) {
        return Err(AdoptError::OtherShard { found });
    }
    Ok(capacity)
}

/// How many of the `capacity` slots were used, if the rest of the header can be true.
fn used(words: &Words<AtomicU64>, capacity: u32, now: MonoNs) -> Result<u32, AdoptError> {
    let word = |index: usize| words[index].load(Ordering::Acquire);
    let instants = [header::ALIVE_AT, header::WATERMARK, header::PAUSED_FROM].map(word);
    let behind_ns = MonoNs(instants.into_iter().max().unwrap_or(0)).since(now);
    if behind_ns > 0 {
        return Err(AdoptError::ClockBehind { behind_ns });
    }
    let paused_ns = word(header::PAUSED_NS);
    if paused_ns > now.0 {
        return Err(AdoptError::Paused { paused_ns, now_ns: now.0 });
    }
    let used = word(header::USED);
    let fits = u32::try_from(used).ok().filter(|used| *used <= capacity);
    fits.ok_or(AdoptError::Used { used, capacity })
}

/// What the slots hold.
struct Found {
    /// Slots with an agent, without those of `torn`.
    agents: u32,
    last_arrival: MonoNs,
    /// A bit for each pid that a slot holds, without those of `torn`.
    holders: Vec<u64>,
    /// Slots the writer was inside.
    torn: Vec<u32>,
}

/// Looks at every slot that was used. Changes nothing.
fn examine(table: &Table, used: u32, now: MonoNs) -> Result<Found, AdoptError> {
    let mut found =
        Found { agents: 0, last_arrival: MonoNs(0), holders: vec![0; PIDS.div_ceil(64)], torn: Vec::new() };
    for slot in 0..used {
        let [first, identity, last_arrival, ..] = load_all(table.hot(slot));
        if first & 1 == 1 {
            found.torn.push(slot);
            continue;
        }
        let corrupt = |why| Err(AdoptError::Corrupt { slot, why });
        if !Hot::is_possible(identity) {
            return corrupt("no observer writes its state");
        }
        if identity == 0 {
            continue;
        }
        let last_arrival = MonoNs(last_arrival);
        if last_arrival > now {
            return corrupt("its last beat is in the future");
        }
        if slot::first_arrival_of(&load_all(table.cold(slot))) > last_arrival {
            return corrupt("its first beat is later than its last one");
        }
        if !is_new(&mut found.holders, high(identity)) {
            return corrupt("another slot holds its process, too");
        }
        found.agents += 1;
        found.last_arrival = found.last_arrival.max(last_arrival);
    }
    Ok(found)
}

/// Records that a slot holds this pid. False if another one does.
fn is_new(holders: &mut [u64], pid: u32) -> bool {
    let bit = 1 << (pid % 64);
    let word = &mut holders[pid as usize / 64];
    let is_new = *word & bit == 0;
    *word |= bit;
    is_new
}

/// A copy with more slots, in a new memfd.
fn enlarged(old: &Table, header: &Header, capacity: u32, ahead: u32, used: u32) -> io::Result<Table> {
    let (mut writer, table) = create_granted(capacity, *header, used.saturating_add(ahead))?;
    for slot in 0..used {
        store_all(table.hot(slot), &load_all(old.hot(slot)));
        let cold = load_all(old.cold(slot));
        store_all(table.cold(slot), &cold);
        if slot::has_rare(&cold) {
            store_all(table.rare(slot), &load_all(old.rare(slot)));
        }
        if slot::has_extra(&cold) {
            store_all(table.extra(slot), &load_all(old.extra(slot)));
        }
    }
    for index in [header::GENERATION, header::IS_CLEAN, header::SHARDS] {
        table.put(index, old.get(index));
    }
    writer.mark_progress(&old.progress());
    writer.mark_used(used);
    Ok(table)
}

impl Table {
    fn progress(&self) -> Progress {
        Progress {
            alive_at: MonoNs(self.get(header::ALIVE_AT)),
            watermark: MonoNs(self.get(header::WATERMARK)),
            paused_ns: self.get(header::PAUSED_NS),
            paused_from: MonoNs(self.get(header::PAUSED_FROM)),
            clock_offset: self.get(header::CLOCK_OFFSET).cast_signed(),
        }
    }
}

impl TableWriter {
    /// Closes a slot whose writer was killed inside it. Each of its words may be of before or of after the write.
    fn mend(&mut self, slot: u32, holders: &mut [u64], legacy: &mut Legacy, now: MonoNs) {
        legacy.torn += 1;
        let [_, identity, ..] = load_all(self.table.hot(slot));
        let (mut hot, mut cold) = (self.hot(slot), self.cold(slot));
        if identity == 0 || !Hot::is_possible(identity) || !is_new(holders, hot.pid) {
            // It was being released, or holds nothing that could be read.
            let generation = cold.generation.wrapping_add(1);
            self.write(slot, &Hot::default(), &Cold { generation, ..Cold::default() });
            return;
        }
        // An agent gets a whole threshold like all others. What is queued arrived after the watermark.
        let Progress { watermark, paused_ns, paused_from, .. } = legacy.progress;
        hot.last_arrival = hot.last_arrival.min(now).max(watermark);
        hot.paused_before = paused_ns.saturating_sub(paused_from.since(hot.last_arrival));
        cold.first_arrival = match cold.first_arrival {
            MonoNs(0) => hot.last_arrival,
            first => first.min(hot.last_arrival),
        };
        match hot.state {
            // The stall is not recorded yet: it is judged again.
            State::Stalled if cold.stalls == cold.resumes => hot.state = State::Up,
            // The end of the stall is not recorded yet.
            State::Up if cold.stalls != cold.resumes => {
                cold.resumes = cold.stalls;
                cold.resume_at = hot.last_arrival;
                let since_told = hot.last_arrival.since(cold.stall_at);
                cold.resume_silent_ns = cold.stall_silent_ns.saturating_add(since_told);
                cold.resume_lost = 0;
            }
            _ => {}
        }
        self.write(slot, &hot, &cold);
        legacy.agents += 1;
        legacy.last_arrival = legacy.last_arrival.max(hot.last_arrival);
    }
}

#[cfg(test)]
#[path = "adopt_tests.rs"]
mod tests;
