//! Whether agents that are silent use CPU time: one that does is busy or caught in a loop, one that does not waits
//! for something.
//!
//! The kernel does not record when a process used CPU time last, so that of each silent agent is noted early in its
//! silence, to be compared when a stall is confirmed. Thread: lookup. Blocks: never. Time is an argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::table::Table;
use crate::table::place::Place;
use crate::table::slot::State;
use crate::time::MonoNs;

/// Slots read in a second, however large the fleet is.
const SLOTS_PER_SECOND: u64 = 20_000;
/// Between two steps: an eighth of the shortest threshold, within these bounds.
const STEP_NS: std::ops::RangeInclusive<u64> = 10_000_000..=200_000_000;
/// Agents noted in one step, two system calls each, and agents noted in all.
const NOTES_PER_STEP: usize = 1000;
const NOTES_MAX: usize = 4096;

/// How long the note of an agent whose stall was judged is kept for those who ask.
const ANSWER_NS: u64 = 2_000_000_000;

/// The shortest threshold of the fleet, ns: stored by the aggregator, which knows of reloads.
pub type ShortestThreshold = Arc<AtomicU64>;

/// The CPU time that a silent agent had used.
#[derive(Clone, Copy, Debug)]
struct Note {
    pid: u32,
    /// The beat since which it is silent.
    last_arrival: MonoNs,
    cpu_ns: u64,
    at: MonoNs,
    /// When it was found stalled.
    stalled_at: Option<MonoNs>,
}

/// Notes of the agents that are silent for a quarter of the shortest threshold, and of stalls until they are confirmed.
#[derive(Debug)]
pub struct Idlers<F> {
    tables: Box<[Table]>,
    shortest: ShortestThreshold,
    cpu_time: F,
    notes: HashMap<Place, Note>,
    /// The next slot to look at.
    next: Place,
}

impl<F: Fn(u32) -> Option<u64>> Idlers<F> {
    /// Of the agents in these tables, one for each shard; `cpu_time` says how much CPU time, ns, a process has used.
    pub fn new(tables: impl IntoIterator<Item = Table>, shortest: ShortestThreshold, cpu_time: F) -> Self {
        let tables = tables.into_iter().collect();
        Self { tables, shortest, cpu_time, notes: HashMap::new(), next: Place::default() }
    }

    /// Looks at the next slots, each slot at most once, and returns when to take the next step. `None`: no agent was
    /// ever seen; once one is, there will be a question about it.
    pub fn step(&mut self, now: MonoNs) -> Option<MonoNs> {
        if self.tables.iter().all(|table| table.used() == 0) {
            return None;
        }
        let shortest_ns = self.shortest.load(Ordering::Relaxed);
        let step_ns = (shortest_ns / 8).clamp(*STEP_NS.start(), *STEP_NS.end());
        self.look(now, shortest_ns / 4, SLOTS_PER_SECOND * step_ns / 1_000_000_000);
        Some(now + step_ns)
    }

    fn look(&mut self, now: MonoNs, silent_ns: u64, slots: u64) {
        let all: u64 = self.tables.iter().map(|table| u64::from(table.used())).sum();
        let (mut left, mut notes_left) = (u32::try_from(slots.min(all)).unwrap_or(u32::MAX), NOTES_PER_STEP);
        for _ in 0..=self.tables.len() {
            let Some(table) = self.tables.get(usize::from(self.next.shard)) else { return };
            let until = table.used().min(self.next.slot.saturating_add(left));
            for slot in self.next.slot..until {
                let place = Place { slot, ..self.next };
                // One that is being written beats.
                let hot = table.read_hot(slot).ok();
                if let Some(hot) = hot.filter(|hot| hot.state == State::Stalled)
                    && let Some(note) = self.notes.get_mut(&place)
                    && (note.pid, note.last_arrival) == (hot.pid, hot.last_arrival)
                    && now.since(*note.stalled_at.get_or_insert(now)) < ANSWER_NS
                {
                    continue;
                }
                let silent =
                    hot.filter(|hot| hot.state == State::Up && now.since(hot.last_arrival) >= silent_ns);
                let Some(hot) = silent else {
                    self.notes.remove(&place);
                    continue;
                };
                let (pid, last_arrival) = (hot.pid, hot.last_arrival);
                let is_noted = self
                    .notes
                    .get(&place)
                    .is_some_and(|note| (note.pid, note.last_arrival) == (pid, last_arrival));
                let is_room = self.notes.len() < NOTES_MAX || self.notes.contains_key(&place);
                if is_noted || !is_room || notes_left == 0 {
                    continue;
                }
                notes_left -= 1;
                let note = (self.cpu_time)(pid).map(|cpu_ns| {
                    let stalled_at = None;
                    Note { pid, last_arrival, cpu_ns, at: now, stalled_at }
                });
                self.notes.remove(&place);
                self.notes.extend(note.map(|note| (place, note)));
            }
            left -= until.saturating_sub(self.next.slot);
            self.next.slot = until;
            if until < table.used() {
                return;
            }
            let shard = (self.next.shard + 1) % u16::try_from(self.tables.len()).unwrap_or(u16::MAX);
            self.next = Place { shard, slot: 0 };
        }
    }

    /// Whether the process of this slot has used CPU time in its silence. `None`: it is not known, or it has not and
    /// was watched for less than an eighth of the shortest threshold.
    pub fn has_used_cpu(&self, place: Place, pid: u32, now: MonoNs) -> Option<bool> {
        let note = self.notes.get(&place)?;
        let hot = self.tables.get(usize::from(place.shard))?.read_hot(place.slot).ok()?;
        if (note.pid, note.last_arrival) != (hot.pid, hot.last_arrival) || hot.pid != pid {
            return None;
        }
        let has = (self.cpu_time)(pid)? > note.cpu_ns;
        let is_long = now.since(note.at) >= self.shortest.load(Ordering::Relaxed) / 8;
        (has || is_long).then_some(has)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::table::slot::{Cold, Hot};
    use crate::table::{Header, TableWriter, create};

    const SECOND: u64 = 1_000_000_000;

    fn table(slots: u32) -> (TableWriter, Table) {
        create(slots, Header { boot_id: 5, pid_namespace: 7, shard: 0, shards: 1 }).unwrap()
    }

    fn beat(writer: &mut TableWriter, slot: u32, at: u64) {
        let hot = Hot { pid: 100 + slot, state: State::Up, last_arrival: MonoNs(at), ..Hot::default() };
        writer.write(slot, &hot, &Cold::default());
        writer.mark_used(writer.used().max(slot + 1));
    }

    fn idlers<F: Fn(u32) -> Option<u64>>(tables: Vec<Table>, cpu_time: F) -> Idlers<F> {
        Idlers::new(tables, Arc::new(AtomicU64::new(8 * SECOND)), cpu_time)
    }

    #[test]
    fn cpu_time_counts_from_early_in_the_silence() {
        let used = Cell::new(5);
        let (mut writer, reader) = table(8);
        let mut idlers = idlers(vec![reader], |_| Some(used.get()));
        let place = Place { shard: 0, slot: 3 };
        let says = |idlers: &Idlers<_>, at| idlers.has_used_cpu(place, 103, MonoNs(at * SECOND));
        beat(&mut writer, 3, 10 * SECOND);
        idlers.step(MonoNs(11 * SECOND));
        assert_eq!(says(&idlers, 18), None, "it was not silent long enough to be noted");
        idlers.step(MonoNs(12 * SECOND));
        assert_eq!(says(&idlers, 12), None, "watched for too short a time");
        assert_eq!(says(&idlers, 13), Some(false));
        used.set(6);
        assert_eq!(says(&idlers, 12), Some(true), "one use is enough");
        idlers.step(MonoNs(14 * SECOND));
        assert_eq!(says(&idlers, 18), Some(true), "the first note of a silence stays");
        assert_eq!(idlers.has_used_cpu(place, 104, MonoNs(18 * SECOND)), None, "another process");
        beat(&mut writer, 3, 15 * SECOND);
        assert_eq!(says(&idlers, 18), None, "another silence");
        idlers.step(MonoNs(17 * SECOND));
        assert_eq!(says(&idlers, 18), Some(false));
    }

    /// The stall is judged by the shard, and confirmed by an answer that may come after further steps.
    #[test]
    fn the_note_of_a_stall_stays_until_it_was_asked_for() {
        let (mut writer, reader) = table(8);
        let mut idlers = idlers(vec![reader], |_| Some(5));
        let says = |idlers: &Idlers<_>, ns| idlers.has_used_cpu(Place { shard: 0, slot: 3 }, 103, MonoNs(ns));
        beat(&mut writer, 3, 10 * SECOND);
        idlers.step(MonoNs(12 * SECOND));
        let hot = Hot { state: State::Stalled, ..writer.hot(3) };
        writer.write(3, &hot, &Cold::default());
        let judged = 18 * SECOND;
        idlers.step(MonoNs(judged));
        idlers.step(MonoNs(judged + ANSWER_NS - 1));
        assert_eq!(says(&idlers, judged + ANSWER_NS), Some(false));
        idlers.step(MonoNs(judged + ANSWER_NS));
        assert_eq!(says(&idlers, judged + ANSWER_NS), None, "it makes room for others");
    }

    #[test]
    fn a_step_reads_and_notes_so_many_and_a_round_all() {
        let asked = Cell::new(0);
        let tables: Vec<_> = [3, 10_000, 0, 2]
            .map(|agents| {
                let (mut writer, reader) = table(10_000);
                (0..agents).for_each(|slot| beat(&mut writer, slot, SECOND));
                reader
            })
            .into();
        let mut idlers = idlers(tables, |_| {
            asked.set(asked.get() + 1);
            Some(0)
        });
        let mut rounds = 0;
        while idlers.notes.len() < NOTES_MAX {
            let before = asked.get();
            idlers.step(MonoNs(10 * SECOND));
            assert!(asked.get() - before <= NOTES_PER_STEP);
            rounds += 1;
            assert!(rounds < 40, "{} noted", idlers.notes.len());
        }
        (0..10).for_each(|_| {
            idlers.step(MonoNs(10 * SECOND));
        });
        assert_eq!((idlers.notes.len(), asked.get()), (NOTES_MAX, NOTES_MAX), "bounded, and asked once each");
        for place in [Place { shard: 0, slot: 2 }, Place { shard: 1, slot: 0 }] {
            assert!(idlers.notes.contains_key(&place), "{place:?}");
        }
    }

    #[test]
    fn a_step_looks_at_each_slot_once() {
        let asked = Cell::new(0);
        let tables: Vec<_> = [3, 2]
            .map(|agents| {
                let (mut writer, reader) = table(8);
                (0..agents).for_each(|slot| beat(&mut writer, slot, SECOND));
                reader
            })
            .into();
        // Processes that are gone, so that nothing is noted.
        let mut idlers = idlers(tables, |_| {
            asked.set(asked.get() + 1);
            None
        });
        for steps in 1..4 {
            idlers.step(MonoNs(10 * SECOND));
            assert_eq!(asked.get(), 5 * steps);
        }
    }

    #[test]
    fn without_shards_or_agents_there_is_nothing_to_do() {
        assert_eq!(idlers(Vec::new(), |_| None).step(MonoNs(0)), None);
        assert_eq!(idlers(vec![table(1).1, table(1).1], |_| None).step(MonoNs(0)), None);
    }
}
