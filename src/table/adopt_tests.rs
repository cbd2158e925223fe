//! What is refused, what is repaired, and what is kept.

use proptest::prelude::*;

use super::super::slot::Account;
use super::super::{create, sequence};
use super::*;
use crate::wire::Status;

const HEADER: Header = Header { boot_id: 5 << 64 | 6, pid_namespace: 7, shard: 1, shards: 4 };
const NOW: MonoNs = MonoNs(1_000_000);
const PROGRESS: Progress = Progress {
    alive_at: MonoNs(900_000),
    watermark: MonoNs(890_000),
    paused_ns: 100_000,
    paused_from: MonoNs(900_000),
    clock_offset: -77,
};

fn agent(pid: u32) -> Hot {
    Hot {
        frame_pid: pid,
        pid,
        state: State::Up,
        last_arrival: MonoNs(800_000),
        paused_before: 100_000,
        account: Account::new(1000, 3),
        ..Hot::default()
    }
}

fn session() -> Cold {
    Cold { generation: 3, first_arrival: MonoNs(700_000), ..Cold::default() }
}

/// A table of `capacity` slots, the first ones of which hold the agents of pid 101 and so on, 102 missing.
fn left_behind(capacity: u32) -> (TableWriter, Table) {
    let (mut writer, table) = create(capacity, HEADER).unwrap();
    for slot in 0..3 {
        writer.mark_used(slot + 1);
        writer.write(slot, &agent(101 + slot), &Cold { terminal_payload: 9, ..session() });
    }
    writer.write(1, &Hot::default(), &Cold { generation: 4, ..Cold::default() });
    writer.mark_progress(&PROGRESS);
    (writer, table)
}

fn memfd(table: &Table) -> OwnedFd {
    table.memfd().try_clone_to_owned().unwrap()
}

fn adopted(table: &Table) -> Result<(TableWriter, Table, Legacy), AdoptError> {
    adopt(memfd(table), &HEADER, 8, 2, NOW)
}

#[test]
fn a_table_is_adopted_with_its_agents_and_how_far_the_shard_had_come() {
    let (mut writer, old) = left_behind(8);
    writer.mark_clean();
    drop(writer);
    let (writer, table, legacy) = adopted(&old).unwrap();
    let expected = Legacy {
        progress: PROGRESS,
        was_clean: true,
        shards: 4,
        adoptions: 1,
        used: 3,
        agents: 2,
        torn: 0,
        last_arrival: MonoNs(800_000),
        is_copied: false,
    };
    assert_eq!(legacy, expected);
    assert_eq!((writer.hot(2), writer.cold(2)), (agent(103), Cold { terminal_payload: 9, ..session() }));
    assert_eq!((writer.used(), table.capacity(), table.granted()), (3, 8, 5));
    drop((writer, table));
    let again = adopted(&old).unwrap().2;
    assert_eq!(
        again,
        Legacy { was_clean: false, adoptions: 2, ..expected },
        "it did not stop in order this time"
    );
}

#[test]
fn a_table_with_more_slots_keeps_them_and_one_with_fewer_is_copied() {
    let (_, old) = left_behind(8);
    let (writer, table, legacy) = adopt(memfd(&old), &HEADER, 2, 2, NOW).unwrap();
    assert_eq!((legacy.is_copied, table.capacity(), writer.used()), (false, 8, 3));
    let before: Vec<_> = (0..8).map(|slot| (writer.hot(slot), writer.cold(slot))).collect();
    let (writer, table, legacy) = adopt(memfd(&old), &HEADER, 16, 2, NOW).unwrap();
    assert_eq!((legacy.is_copied, table.capacity(), writer.used(), table.granted()), (true, 16, 3, 5));
    let after: Vec<_> = (0..8).map(|slot| (writer.hot(slot), writer.cold(slot))).collect();
    assert_eq!(after, before);
    assert_eq!(legacy, Legacy { is_copied: true, adoptions: 2, ..adopted(&left_behind(8).1).unwrap().2 });
    drop(writer);
    let (_, _, again) = adopt(memfd(&table), &HEADER, 16, 2, NOW).unwrap();
    assert_eq!(again, Legacy { is_copied: false, adoptions: 3, ..legacy });
}

#[test]
fn extra_words_are_copied_if_the_cold_half_claims_them_and_take_no_memory_otherwise() {
    let (writer, old) = left_behind(8);
    let mut cold = load_all(old.cold(2));
    assert!(!slot::has_extra(&cold));
    cold[7] |= 1 << 29;
    assert!(slot::has_extra(&cold));
    store_all(old.cold(2), &cold);
    store_all(old.extra(2), &[1, 2, 3, 4, 5, 6, 7, 8]);
    store_all(old.extra(0), &[9; 8]);
    assert_eq!(writer.cold(2), Cold { terminal_payload: 9, has_extra: true, ..session() });
    let (_, table, _) = adopt(memfd(&old), &HEADER, 16, 2, NOW).unwrap();
    assert_eq!(load_all(table.extra(2)), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(load_all(table.extra(0)), [0; 8]);
}

#[test]
fn a_header_that_is_not_ours_is_refused_and_nothing_is_changed() {
    type Change = fn(&Table);
    let cases: [(&str, Change); 13] = [
        ("no table", |table| table.put(header::MAGIC, 0)),
        ("its layout is 4, this version reads 5", |table| table.put(header::LAYOUT, 4)),
        ("256 bytes instead of 320", |table| table.put(header::SLOT_BYTES, 256)),
        ("0 slots", |table| table.put(header::CAPACITY, 0)),
        ("4194305 slots", |table| table.put(header::CAPACITY, 4_194_305)),
        ("its header promises", |table| table.put(header::CAPACITY, 9)),
        ("before the host was booted", |table| table.put(header::BOOT_ID[1], 7)),
        ("another pid namespace", |table| table.put(header::PID_NAMESPACE, 8)),
        ("shard 2", |table| table.put(header::SHARD, 2)),
        ("7 ns behind", |table| table.put(header::ALIVE_AT, NOW.0 + 7)),
        ("9 ns behind", |table| table.put(header::WATERMARK, NOW.0 + 9)),
        ("1000001 ns of pauses", |table| table.put(header::PAUSED_NS, NOW.0 + 1)),
        ("9 slots in use of 8", |table| table.put(header::USED, 9)),
    ];
    for (why, change) in cases {
        let (_, table) = left_behind(8);
        change(&table);
        let before: Vec<u64> = table.words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let error = adopted(&table).expect_err(why).to_string();
        assert!(error.contains(why), "{why}: {error}");
        assert!(table.words.iter().map(|word| word.load(Ordering::Relaxed)).eq(before), "{why}");
    }
}

#[test]
fn memory_that_holds_no_table_is_refused() {
    let short = Words::<AtomicU64>::sealed("test", 8).unwrap();
    let error = adopt(short.memfd().unwrap().try_clone_to_owned().unwrap(), &HEADER, 8, 2, NOW);
    assert!(matches!(error, Err(AdoptError::NoTable)), "{error:?}");
    let error = adopt(io::pipe().unwrap().0.into(), &HEADER, 8, 2, NOW).expect_err("a pipe");
    assert_eq!(error.to_string(), "it is no memfd");
}

#[test]
fn a_boot_or_namespace_that_cannot_be_read_is_no_proof() {
    let (_, table) = create(8, Header { boot_id: 0, pid_namespace: 0, ..HEADER }).unwrap();
    let unknown = Header { boot_id: 0, ..HEADER };
    assert!(matches!(adopt(memfd(&table), &unknown, 8, 2, NOW), Err(AdoptError::OtherBoot)));
    let (_, table) = create(8, Header { pid_namespace: 0, ..HEADER }).unwrap();
    let unknown = Header { pid_namespace: 0, ..HEADER };
    assert!(matches!(adopt(memfd(&table), &unknown, 8, 2, NOW), Err(AdoptError::OtherPidNamespace)));
}

#[test]
fn a_slot_that_no_observer_writes_makes_the_table_corrupt() {
    type Change = fn(&Table);
    let cases: [(&str, Change); 10] = [
        ("a state that is none", |table| table.hot(2)[1].store(103 << 32 | 4 << 8, Ordering::Relaxed)),
        ("a status that is none", |table| table.hot(2)[1].store(103 << 32 | 1 << 8 | 4, Ordering::Relaxed)),
        ("the status no agent sends", |table| {
            table.hot(2)[1].store(103 << 32 | 1 << 8 | 3, Ordering::Relaxed)
        }),
        ("pid 0", |table| table.hot(2)[1].store(1 << 8, Ordering::Relaxed)),
        ("a pid beyond the last", |table| table.hot(2)[1].store(4_194_305 << 32 | 1 << 8, Ordering::Relaxed)),
        ("a free slot with a pid", |table| table.hot(2)[1].store(103 << 32, Ordering::Relaxed)),
        ("a free slot with flags", |table| table.hot(2)[1].store(1 << 16, Ordering::Relaxed)),
        ("the future", |table| table.hot(2)[2].store(NOW.0 + 1, Ordering::Relaxed)),
        ("the first after the last", |table| table.cold(2)[1].store(800_001, Ordering::Relaxed)),
        ("the pid of slot 0", |table| table.hot(2)[1].store(101 << 32 | 1 << 8, Ordering::Relaxed)),
    ];
    for (what, change) in cases {
        let (_, table) = left_behind(8);
        change(&table);
        let error = adopted(&table).expect_err(what);
        assert!(matches!(error, AdoptError::Corrupt { slot: 2, .. }), "{what}: {error}");
    }
}

/// Stops the write of `hot` and `cold` after `stored` words, as a kill does.
fn write_partly(table: &Table, slot: u32, hot: &Hot, cold: &Cold, stored: usize) {
    sequence::begin(&table.hot(slot)[0]);
    let (cold, rare) = cold.to_words();
    let places = table.hot(slot)[1..].iter().chain(table.cold(slot)).chain(table.rare(slot));
    for (place, word) in places.zip(hot.to_words().into_iter().chain(cold).chain(rare)).take(stored) {
        place.store(word, Ordering::Relaxed);
    }
}

/// The writes of a shard, of which a kill may leave any part: an agent comes, beats, stalls, beats again, goes.
fn writes() -> [(Hot, Cold); 6] {
    let beat = |ms: u64| Hot { last_arrival: MonoNs(ms * 1000), ..agent(103) };
    let stalled =
        Cold { stalls: 1, stall_at: MonoNs(850_000), stall_silent_ns: 50_000, stall_nonce: 5, ..session() };
    let resumed =
        Cold { resumes: 1, resume_at: MonoNs(880_000), resume_silent_ns: 80_000, resume_lost: 2, ..stalled };
    [
        (Hot::default(), Cold { generation: 2, ..Cold::default() }),
        (Hot { last_arrival: MonoNs(700_000), ..agent(103) }, session()),
        (beat(800), session()),
        (Hot { state: State::Stalled, ..beat(800) }, stalled),
        (beat(880), resumed),
        (Hot::default(), Cold { generation: 4, ..Cold::default() }),
    ]
}

#[test]
fn whatever_write_was_cut_short_the_slot_is_mended_and_no_stall_is_lost() {
    for pair in writes().windows(2) {
        let [(old_hot, old_cold), (hot, cold)] = pair else { unreachable!() };
        for stored in 0..=7 + 8 + 16 {
            let (mut writer, old) = left_behind(8);
            writer.write(2, old_hot, old_cold);
            write_partly(&old, 2, hot, cold, stored);
            let (writer, table, legacy) = adopted(&old).unwrap();
            let case = format!("{stored} words of {hot:?}");
            assert_eq!(legacy.torn, 1, "{case}");
            let (found, cold) = table.read(2).expect("even again");
            assert_eq!(legacy.agents, 1 + u32::from(found.state != State::Free), "{case}");
            if found.state == State::Free {
                assert_eq!(found, Hot::default(), "{case}");
                continue;
            }
            assert_eq!(found.pid, 103, "{case}");
            assert!(cold.first_arrival <= found.last_arrival && found.last_arrival <= NOW, "{case}");
            assert!(found.last_arrival >= PROGRESS.watermark, "{case}: a whole threshold");
            assert_eq!(found.state == State::Stalled, cold.stalls != cold.resumes, "{case}: {cold:?}");
            assert!(legacy.last_arrival >= found.last_arrival, "{case}");
            drop((writer, table));
            assert!(adopted(&old).is_ok(), "{case}: what was mended is in order");
        }
    }
}

#[test]
fn a_torn_slot_of_a_process_that_another_slot_holds_becomes_free() {
    let (_, old) = left_behind(8);
    old.hot(2)[1].store(101 << 32 | 1 << 8, Ordering::Relaxed);
    old.open(2);
    let (writer, _, legacy) = adopted(&old).unwrap();
    assert_eq!((legacy.agents, legacy.torn), (1, 1));
    assert_eq!((writer.hot(2), writer.cold(2).generation), (Hot::default(), 4));
}

#[test]
fn awake_time_goes_on() {
    let (_, old) = left_behind(8);
    let (_, _, legacy) = adopted(&old).unwrap();
    let of = |last_arrival: u64, paused_before: u64| {
        legacy.paused_before(&Hot { last_arrival: MonoNs(last_arrival), paused_before, ..agent(1) })
    };
    assert_eq!(of(500_000, 60_000), 60_000, "kept");
    assert_eq!(of(500_000, u64::MAX), 100_000, "there were no more pauses");
    // All of the time after `paused_from` counts as a pause.
    assert_eq!(of(900_000, 100_000), 100_000);
    assert_eq!(of(950_000, 100_000), 150_000);
}

proptest! {
    /// Any words in place of some of a table: it is refused, or its slots are what an observer writes.
    #[test]
    fn any_bytes_are_refused_or_give_a_table_in_order(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0u32..64, 0u8..3), 1..40),
        capacity in prop::sample::select(vec![8u32, 16]),
    ) {
        let (_, old) = left_behind(8);
        // Half of the changes fall into the first words of the header, or into a slot in use.
        let words: Vec<usize> = (0..24).chain(HEADER_WORDS..HEADER_WORDS + 24).chain(0..old.words.len()).collect();
        for (index, value, bit, how) in changes {
            let word = &old.words[words[index.index(if how == 2 { words.len() } else { 48 })]];
            let value = match how {
                0 => word.load(Ordering::Relaxed) ^ 1 << bit,
                _ => value >> bit,
            };
            word.store(value, Ordering::Relaxed);
        }
        if let Ok((writer, table, legacy)) = adopt(memfd(&old), &HEADER, capacity, 2, NOW) {
            let mut pids = Vec::new();
            for slot in 0..legacy.used {
                let (hot, cold) = table.read(slot).expect("closed");
                prop_assert_eq!((hot, cold), (writer.hot(slot), writer.cold(slot)));
                if hot.state != State::Free {
                    pids.push(hot.pid);
                    prop_assert!((1..=4_194_304).contains(&hot.pid));
                    prop_assert!(hot.status != Status::Stall);
                    prop_assert!(cold.first_arrival <= hot.last_arrival && hot.last_arrival <= legacy.last_arrival);
                    prop_assert!(legacy.last_arrival <= NOW);
                }
            }
            prop_assert_eq!(pids.len(), legacy.agents as usize);
            pids.sort_unstable();
            pids.dedup();
            prop_assert_eq!(pids.len(), legacy.agents as usize, "each process once");
        }
    }
}
