//! A table in which any words were replaced, adopted by a tracker: it is refused, or the tracker is consistent.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::config::classes::Classes;
use crate::refusal::Refusal;
use crate::rules::{Sender, Sight};
use crate::shard::tracker::{Admission, Outcome, Tracker};
use crate::shard::uids::UidAccounts;
use crate::table::adopt::adopt;
use crate::table::slot::State;
use crate::table::{Header, Progress, create_granted};
use crate::time::MonoNs;
use crate::wire::{Frame, Status, Version};

const HEADER: Header = Header { boot_id: 1, pid_namespace: 2, shard: 0, shards: 1 };
const MS: u64 = 1_000_000;
const T: u64 = 600 * MS;
const START: MonoNs = MonoNs(1_000_000_000_000);
const NOW: MonoNs = MonoNs(START.0 + 900 * MS);
const SLOTS: u32 = 8;
const AGENTS: u32 = 3;

/// One word of the table replaced.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Which one; beyond the end of the table it is counted from the begin again. The first 512 are the header.
    pub word: u16,
    /// Its bits that change.
    pub flip: u64,
}

/// Makes these changes to the table of three agents and adopts it, as one of `capacity` slots. Returns whether it
/// was adopted.
///
/// # Panics
/// What was adopted is not consistent.
pub fn adopt_changed(changes: &[Change], capacity: u32) -> bool {
    let (writer, table) = create_granted(SLOTS, HEADER, SLOTS).expect("memory for a table");
    let mut old =
        tracker_of(|classes, admission, uids| Tracker::new(writer, classes, 10 * MS, admission, uids, START));
    for pid in 101..101 + AGENTS {
        hear(&mut old, pid, 1, START + 50 * MS);
    }
    let progress = Progress {
        alive_at: START + 300 * MS,
        watermark: START + 290 * MS,
        paused_ns: START.0,
        paused_from: START + 300 * MS,
        clock_offset: 5,
    };
    old.writer().mark_progress(&progress);
    drop(old);
    let file = File::from(table.memfd().try_clone_to_owned().expect("a descriptor"));
    let length = file.metadata().expect("a length").len();
    for Change { word, flip } in changes {
        let at = u64::from(*word) * 8 % length;
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).expect("within the table");
        let value = u64::from_ne_bytes(bytes) ^ flip;
        file.write_all_at(&value.to_ne_bytes(), at).expect("within the table");
    }
    drop(table);
    let Ok((writer, table, legacy)) = adopt(file.into(), &HEADER, capacity, 64, NOW) else { return false };
    let mut tracker = tracker_of(|classes, admission, uids| {
        Tracker::new(writer, classes, 10 * MS, admission, uids, NOW).go_on_after(&legacy)
    });
    let held: Vec<_> = (0..legacy.used).map(|slot| (slot, tracker.hot(slot))).collect();
    let held: Vec<_> = held.into_iter().filter(|(_, hot)| hot.state != State::Free).collect();
    assert_eq!(held.len(), legacy.agents as usize);
    for (slot, hot) in &held {
        assert!(table.read(*slot).is_ok(), "slot {slot} is left open");
        assert_eq!(hot.class, 2, "the class of agents that were not looked up");
        assert!(hot.last_arrival <= legacy.last_arrival && legacy.last_arrival <= NOW);
    }
    // Everybody whose deadline may have come gets a whole threshold.
    let sight = |watermark| Sight { watermark, paused_before: NOW.0, last_blind_end: NOW };
    let mut stalled = Vec::new();
    while tracker.judge(&sight(NOW + 2 * T - 1), 5, |_| 0, |slot| stalled.push(slot)) {}
    while tracker.judge(&sight(NOW + 100 * T), 5, |_| 0, |slot| stalled.push(slot)) {}
    let due = held.iter().filter(|(_, hot)| hot.state == State::Up).count();
    let stalled: BTreeSet<u32> = stalled.into_iter().collect();
    assert_eq!(stalled.len(), due, "each agent that is up has one timer");
    // Every agent is found by its pid.
    let pids: BTreeSet<u32> = held.iter().map(|(_, hot)| hot.pid).collect();
    for (slot, hot) in &held {
        match hear(&mut tracker, hot.pid, hot.nonce().wrapping_add(1), NOW + 101 * T) {
            Outcome::Beat(found) | Outcome::Changed(found) => assert_eq!(found, *slot),
            Outcome::News(_) | Outcome::Heard => unreachable!("it was a frame"),
            Outcome::Refused(refusal) => assert_ne!(refusal, Refusal::TableFull),
        }
    }
    // Every other slot is free, once.
    let mut taken: BTreeSet<u32> = held.iter().map(|(slot, _)| *slot).collect();
    for pid in (1..).filter(|pid| !pids.contains(pid)) {
        match hear(&mut tracker, pid, 1, NOW + 102 * T) {
            Outcome::Beat(slot) | Outcome::Changed(slot) => {
                assert!(taken.insert(slot), "slot {slot} is taken")
            }
            Outcome::News(_) | Outcome::Heard => unreachable!("it was a frame"),
            Outcome::Refused(refusal) => {
                assert_eq!(refusal, Refusal::TableFull);
                break;
            }
        }
    }
    assert!(taken.into_iter().eq(0..table.capacity()));
    true
}

/// A tracker with three classes, without limits of its own.
fn tracker_of(tracker: impl FnOnce(Classes, Arc<Admission>, UidAccounts) -> Tracker) -> Tracker {
    let admission = Admission::new(1 << 20).expect("address space for pids");
    tracker(Classes::new(T, [2 * T]), admission, UidAccounts::default())
}

fn hear(tracker: &mut Tracker, pid: u32, nonce: u64, arrival: MonoNs) -> Outcome {
    let frame = Frame { version: Version::V02, status: Status::Ok, pid, timestamp: 1, nonce, payload: 0 };
    tracker.on_frame(&frame, &Sender { pid, uid: 1000, arrival, paused_before: 0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_without_a_change_is_adopted() {
        assert!(adopt_changed(&[], SLOTS) && adopt_changed(&[], 2 * SLOTS));
    }

    fn change() -> impl Strategy<Value = Change> {
        let slots = 512..512 + 8 * 8_u16;
        let cold = 512 + 64..512 + 64 + 8 * 8_u16;
        let word = prop_oneof![0..24_u16, slots, cold, any::<u16>()];
        let flip = prop_oneof![
            (0..64_u32).prop_map(|bit| 1 << bit),
            any::<u64>(),
            (any::<u64>(), 0..64_u32).prop_map(|(all, shift)| all >> shift)
        ];
        (word, flip).prop_map(|(word, flip)| Change { word, flip })
    }

    proptest! {
        #[test]
        fn any_words_are_refused_or_give_a_consistent_tracker(
            changes in prop::collection::vec(change(), 1..12),
            is_larger: bool,
        ) {
            adopt_changed(&changes, if is_larger { 2 * SLOTS } else { SLOTS });
        }
    }
}
