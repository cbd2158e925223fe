//! A successor finds what was committed, and refuses what it cannot use.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::*;
use crate::lab::fault::CommitStep;
use crate::lab::samples::up;

impl Journal {
    /// As killed between a commit and this.
    pub fn forget_the_last_number(&self) {
        self.put(header::LAST_SEQ, 0);
    }
}

const IDENTITY: Identity = Identity { boot_id: 5 << 64 | 6, pid_namespace: 7, fleet: 8 };
const NOW: MonoNs = MonoNs(1_000_000_000_000);

fn journal() -> Journal {
    Journal::create(&IDENTITY, 9, NOW).expect("memory")
}

fn copy_of(memfd: BorrowedFd<'_>) -> OwnedFd {
    memfd.try_clone_to_owned().expect("a descriptor")
}

fn adopt(journal: &Journal, now: MonoNs) -> Result<(Journal, Ended), Refused> {
    let next = Journal::identify(copy_of(journal.memfd()), IDENTITY.boot_id, IDENTITY.pid_namespace)?;
    let ended = next.adopt(now)?;
    Ok((next, ended))
}

/// An observer goes on with it.
fn go_on(journal: &Journal, now: MonoNs) -> Result<Journal, Refused> {
    let (journal, ended) = adopt(journal, now)?;
    journal.begin(&ended, now);
    Ok(journal)
}

fn kept(generation: u32) -> Kept {
    Kept { generation, pid: 4711, stalls: generation, ..Kept::default() }
}

fn commit(journal: &Journal, events: std::ops::RangeInclusive<u64>) {
    let events: Vec<Event> = events.map(up).collect();
    journal.commit(&events, &[], 1);
    journal.mark_applied();
}

fn seqs(journal: &Journal) -> Vec<u64> {
    journal.past().0.iter().map(|event| event.seq).collect()
}

#[test]
fn a_successor_finds_what_was_committed_and_what_was_not_acknowledged() {
    let journal = journal();
    commit(&journal, 1..=3);
    journal.acknowledge(2);
    journal.commit(&[up(4)], &[], 17);
    let (next, ended) = adopt(&journal, NOW + 5).expect("sound");
    assert_eq!(ended, Ended { is_clean: false, last_alive: NOW, failures: 0 });
    assert_eq!((seqs(&next), next.past().1), (vec![1, 2, 3, 4], 3));
    assert_eq!((next.run(), next.last_seq(), next.last_session()), (9, 4, 17));
    assert_eq!(next.identity(), IDENTITY);
}

/// The commit is one store: before it nothing happened, after it everything.
#[test]
fn what_is_written_and_not_committed_never_happened() {
    let journal = journal();
    commit(&journal, 1..=3);
    journal.commit(&[up(4), up(5)], &[(Place { shard: 0, slot: 1 }, kept(2))], 1);
    journal.put(header::COMMITTED, 3);
    journal.put(header::LAST_SEQ, 3);
    let (next, _) = adopt(&journal, NOW).expect("sound");
    assert_eq!((seqs(&next), next.unapplied(4).count()), (vec![1, 2, 3], 0));
}

#[test]
fn what_was_committed_and_not_written_to_its_table_is_found() {
    let journal = journal();
    let place = |slot| Place { shard: 3, slot };
    journal.commit(&[up(1)], &[(place(1), kept(1))], 1);
    journal.mark_applied();
    let latest = [(place(7), kept(2)), (place(1), kept(3))];
    journal.commit(&[up(2)], &latest, 1);
    let (next, _) = adopt(&journal, NOW).expect("sound");
    assert_eq!(next.unapplied(4).collect::<Vec<_>>(), latest);
}

#[test]
fn the_ring_keeps_the_last_entries_and_none_that_may_be_half_written() {
    let journal = journal();
    let entries = ENTRIES as u64;
    for first in (1..=3 * entries).step_by(1024) {
        commit(&journal, first..=first + 1023);
    }
    assert_eq!(seqs(&journal), Vec::from_iter(2 * entries + 1..=3 * entries));
    // Interrupted in the middle of the next commit.
    journal.put(header::BEGUN, 3 * entries + 10);
    assert_eq!(seqs(&journal), Vec::from_iter(2 * entries + 11..=3 * entries));
}

/// Its events are committed, and the next number follows theirs; before the commit, there is no trace of them.
#[test]
fn a_commit_that_is_interrupted_leaves_no_gap_in_the_numbers() {
    for (step, last_seq) in [
        (CommitStep::Begin, 3),
        (CommitStep::HalfWritten, 3),
        (CommitStep::Unnumbered, 5),
        (CommitStep::Committed, 5),
    ] {
        let journal = journal();
        commit(&journal, 1..=3);
        journal.cut.arm(step, 0);
        let cut = catch_unwind(AssertUnwindSafe(|| journal.commit(&[up(4), up(5)], &[], 0)));
        assert!(cut.is_err(), "{step:?}");
        let next = go_on(&journal, NOW).expect("sound");
        let last = next.past().0.last().expect("events").seq;
        assert_eq!((next.last_seq(), last), (last_seq, last_seq), "{step:?}");
    }
}

#[test]
fn the_sockets_are_remembered() {
    let journal = journal();
    let file = SocketFile { dev: 1, inode: 2, cookie: 3, queue_limit: 10 };
    journal.set_socket(63, file);
    journal.set_socket(79, file);
    journal.set_socket(80, file);
    let (next, _) = adopt(&journal, NOW).expect("sound");
    assert_eq!(
        (next.socket(63), next.socket(79), next.socket(0), next.socket(80)),
        (Some(file), Some(file), None, None)
    );
    assert_eq!(next.past().0, [], "nothing was written over");
}

#[test]
fn a_journal_of_another_boot_namespace_layout_or_time_is_refused() {
    let other_boot = Journal::identify(copy_of(journal().memfd()), 1, IDENTITY.pid_namespace);
    assert!(matches!(other_boot, Err(Refused::OtherBoot)));
    let other_namespace = Journal::identify(copy_of(journal().memfd()), IDENTITY.boot_id, 1);
    assert!(matches!(other_namespace, Err(Refused::OtherNamespace)));
    assert!(matches!(adopt(&journal(), NOW - 1), Err(Refused::ClockBehind)));
    let broken = |index: usize, value: u64| {
        let journal = journal();
        commit(&journal, 1..=3);
        journal.put(index, value);
        adopt(&journal, NOW).expect_err("broken").to_string()
    };
    assert_eq!(broken(header::MAGIC, 0), Refused::NotOurs.to_string());
    assert_eq!(broken(header::LAYOUT, 7), Refused::Layout(7).to_string());
    for (index, value) in [
        (header::ENTRIES, 1 << 20),
        (header::COMMITTED, 4),
        (header::APPLIED, 4),
        (header::BEGUN, 2),
        (header::BEGUN, u64::MAX),
        (header::ACKNOWLEDGED, 4),
    ] {
        assert_eq!(broken(index, value), Refused::Corrupt.to_string(), "word {index}");
    }
    let foreign = Words::<AtomicU64>::sealed("other", 4).expect("memory");
    let foreign = Journal::identify(copy_of(foreign.memfd().expect("it is one")), 1, 1);
    assert!(matches!(foreign, Err(Refused::NotOurs)));
    let no_memfd = std::fs::File::open("/dev/null").expect("there").into();
    assert!(matches!(Journal::identify(no_memfd, 1, 1), Err(Refused::Memory(_))));
}

/// Two observers in a row that fail on what they adopted are enough; one that proves itself begins anew, and
/// so does one that lived for a minute.
#[test]
fn what_fails_two_observers_in_a_row_is_refused() {
    let journal = journal();
    go_on(&journal, NOW).expect("the first");
    go_on(&journal, NOW + 1).expect("the first failed").mark_proved();
    go_on(&journal, NOW + 2).expect("the second proved itself");
    go_on(&journal, NOW + 3).expect("the third failed").mark_alive(NOW + 3 + SUSPECT_NS);
    let long_after = NOW + 4 + SUSPECT_NS;
    go_on(&journal, long_after).expect("the fourth had a minute");
    let proved = go_on(&journal, long_after).expect("the fifth failed");
    proved.mark_proved();
    proved.mark_failed();
    assert!(matches!(adopt(&journal, long_after), Err(Refused::Poisoned)), "the sixth failed, too");
}

#[test]
fn a_stop_in_order_is_known() {
    let journal = journal();
    go_on(&journal, NOW).expect("sound").mark_clean();
    assert!(adopt(&journal, NOW).expect("sound").1.is_clean);
    let (_, ended) = adopt(&go_on(&journal, NOW).expect("sound"), NOW).expect("sound");
    assert!(!ended.is_clean, "the successor did not stop");
}

#[test]
fn a_table_is_adopted_in_any_capacity() {
    let mut table = KeptTable::create(4, 2, &IDENTITY).expect("memory");
    table.grant_ahead(2, 0).expect("memory");
    (0..2).for_each(|slot| table.put(slot, &kept(slot + 1)));
    for capacity in [4, 8, 2] {
        let next = KeptTable::identify(copy_of(table.memfd()), 2, &IDENTITY).expect("sound");
        let next = next.adopt(capacity, 2).expect("memory");
        assert_eq!([0, 1, 2].map(|slot| next.get(slot)), [kept(1), kept(2), Kept::default()]);
    }
}

/// Of the observer that offers and the one that takes, only the first to decide goes on.
#[test]
fn an_offer_is_taken_or_kept_once() {
    let journal = journal();
    let (next, _) = adopt(&journal, NOW).expect("sound");
    let first = journal.offer();
    assert!(journal.keep(first), "nobody took it");
    assert!(!next.take(first), "it ran out");
    let second = journal.offer();
    assert!(!next.take(first), "a slow successor does not take what is offered to another");
    assert!(next.take(Offer::numbered(second.number())));
    assert!(!journal.keep(second) && !next.take(second));
    assert!(journal.is_taken(second));
    // It goes on, and offers in turn: whoever was taken over from knows that still.
    let (next, ended) = adopt(&journal, NOW).expect("sound");
    next.begin(&ended, NOW);
    assert!(journal.is_taken(second) && !journal.keep(second));
    let third = next.offer();
    assert!(journal.is_taken(second) && !journal.keep(second) && !next.is_taken(third));
    assert!(next.keep(third));
}

/// Who was taken over from did not end by itself, however short it ran.
#[test]
fn what_was_taken_is_a_planned_end_and_no_failure() {
    let mut journal = journal();
    for _ in 0..5 {
        let offer = journal.offer();
        assert!(journal.take(offer));
        let (_, ended) = adopt(&journal, NOW).expect("sound");
        assert!(ended.is_clean);
        journal = go_on(&journal, NOW).expect("sound");
        assert!(!adopt(&journal, NOW).expect("sound").1.is_clean, "the next one has not ended in order");
    }
}

#[test]
fn acknowledged_events_stay_so() {
    let journal = journal();
    commit(&journal, 1..=3);
    journal.acknowledge(3);
    journal.acknowledge(2);
    assert_eq!(journal.acknowledged(), 3, "the output of an observer before is late");
}

#[test]
fn a_table_of_another_fleet_or_shard_is_refused() {
    let table = KeptTable::create(4, 2, &IDENTITY).expect("memory");
    let adopt = |shard, identity: &Identity| {
        KeptTable::identify(copy_of(table.memfd()), shard, identity).expect_err("foreign").to_string()
    };
    assert_eq!(adopt(2, &Identity { fleet: 1, ..IDENTITY }), Refused::OtherFleet.to_string());
    assert_eq!(adopt(2, &Identity { boot_id: 1, ..IDENTITY }), Refused::OtherBoot.to_string());
    assert_eq!(adopt(1, &IDENTITY), Refused::Corrupt.to_string());
    let fd = journal();
    let as_table = KeptTable::identify(copy_of(fd.memfd()), 2, &IDENTITY);
    assert!(matches!(as_table, Err(Refused::NotOurs)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in the memory, it is refused or read without harm.
    #[test]
    fn any_header_and_any_entries_are_refused_or_read_without_harm(
        header in proptest::collection::vec((0_usize..320, any::<u64>()), 0..4),
        entries in proptest::collection::vec(any::<u64>(), 256),
    ) {
        let journal = journal();
        commit(&journal, 1..=100);
        for (index, value) in entries.iter().enumerate() {
            journal.put(HEADER_WORDS + index, *value);
        }
        for (index, value) in header {
            journal.put(index, value);
        }
        if let Ok((next, _)) = adopt(&journal, MonoNs(u64::MAX)) {
            let _ = (next.past(), next.unapplied(4).count());
            let _ = (0..100).filter_map(|shard| next.socket(shard)).count();
        }
    }
}
