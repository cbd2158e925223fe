//! The history in memory: what is read is what was recorded, through restarts and whatever memory is found.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::history::shown::Busy;

const BOOT: u128 = 7 << 64 | 9;

fn history() -> History {
    // Its axis is that of CLOCK_BOOTTIME.
    History::create(BOOT, 0, 0).expect("memory")
}

/// A sample that is told from others.
fn sample(number: u64) -> Sample {
    Sample::from_words(std::array::from_fn(|word| number * 16 + word as u64))
}

fn fd(history: &History) -> OwnedFd {
    history.memfd().try_clone_to_owned().expect("a descriptor")
}

fn all(history: &History, ring: &Ring, now_second: u64) -> Vec<(u64, Option<Sample>)> {
    let shown = history.read(ring, now_second * SECOND_NS, None, None).expect("nobody writes");
    shown.map(|shown| shown.steps.zip(shown.samples).collect()).unwrap_or_default()
}

/// What a history of these samples is to show.
fn expected(samples: &[(u64, Sample)], ring: &Ring, step: u64) -> Option<Sample> {
    let of_step = samples.iter().filter(|(second, _)| ring.step_of(*second) == step);
    of_step.map(|(_, sample)| *sample).reduce(Sample::and)
}

#[test]
fn a_second_that_was_missed_is_none() {
    let history = history();
    history.record(100, &sample(1));
    history.record(103, &sample(2));
    let seconds: BTreeMap<_, _> = all(&history, &Ring::ALL[0], 104).into_iter().collect();
    assert_eq!((seconds[&100], seconds[&103]), (Some(sample(1)), Some(sample(2))));
    assert_eq!([seconds[&99], seconds[&101], seconds[&102]], [None; 3]);
    assert_eq!(all(&history, &Ring::ALL[1], 104).last(), Some(&(10, Some(sample(1).and(sample(2))))));
    assert_eq!(all(&history, &Ring::ALL[2], 104).last(), Some(&(1, Some(sample(1).and(sample(2))))));
}

#[test]
fn nothing_is_left_of_what_is_older_than_a_ring() {
    let history = history();
    for second in 0..900 {
        history.record(second, &sample(second));
    }
    // A gap of exactly one turn of the ring: each slot holds a step of before.
    history.record(1800, &sample(5));
    let seconds = all(&history, &Ring::ALL[0], 1801);
    assert_eq!((seconds.len(), seconds.iter().filter(|(_, sample)| sample.is_some()).count()), (900, 1));
    assert_eq!(all(&history, &Ring::ALL[2], 1801).iter().filter(|(_, sample)| sample.is_some()).count(), 16);
    assert!(all(&history, &Ring::ALL[2], 1_000_000).iter().all(|(_, sample)| sample.is_none()), "days later");
}

proptest! {
    /// Gaps of any length: of an observer that did not run, a file system that hung, a host that was suspended.
    #[test]
    fn what_is_read_is_what_was_recorded(
        gaps in prop::collection::vec(prop_oneof![Just(0_u64), 1..=1_u64, 1..100_u64, 800..1000_u64, 0..100_000_u64], 1..60),
        restarts in prop::collection::vec(0..60_usize, 0..3),
    ) {
        let mut history = history();
        let (mut second, mut samples) = (0, Vec::new());
        for (number, gap) in gaps.into_iter().enumerate() {
            second += gap;
            samples.push((second, sample(number as u64)));
            history.record(second, &sample(number as u64));
            if restarts.contains(&number) {
                let next = History::create(BOOT, 17, 4_000_000_000).expect("memory");
                next.go_on_from(fd(&history), second * SECOND_NS).expect("it is sound");
                history = next;
            }
        }
        for ring in Ring::ALL {
            for (step, found) in all(&history, &ring, second + 1) {
                prop_assert_eq!(found, expected(&samples, &ring, step), "step {} of {:?}", step, ring);
            }
        }
    }

    #[test]
    fn memory_that_anything_was_written_to_is_refused_or_read_without_harm(
        begin in 0..WORDS as u64, words in prop::collection::vec(any::<u64>(), 1..2000), is_header in any::<bool>(),
    ) {
        let before = history();
        (0..100).for_each(|second| before.record(second, &sample(second)));
        let begin = if is_header { begin % 8 } else { begin }.min(WORDS as u64 - words.len() as u64);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        File::from(fd(&before)).write_all_at(&bytes, begin * 8).expect("write");
        let next = history();
        let is_adopted = next.go_on_from(fd(&before), 100 * SECOND_NS).is_ok();
        let shown = all(&next, &Ring::ALL[0], 100);
        prop_assert!(is_adopted || shown.iter().all(|(_, sample)| sample.is_none()));
        next.record(100, &sample(100));
        prop_assert_eq!(all(&next, &Ring::ALL[0], 101).last().cloned(), Some((100, Some(sample(100)))));
    }
}

#[test]
fn what_is_no_history_of_this_boot_is_refused_and_the_reason_given() {
    let of = |change: &dyn Fn(&History)| {
        let before = history();
        before.record(50, &sample(1));
        change(&before);
        fd(&before)
    };
    let pipe: OwnedFd = io::pipe().expect("pipe").0.into();
    let short =
        Words::<AtomicU64>::sealed("test", 3).expect("memory").memfd().expect("a memfd").try_clone_to_owned();
    let cases = [
        (pipe, "it is no memfd"),
        (short.expect("a descriptor"), "not written by varta-fleet"),
        (of(&|before| before.put(header::MAGIC, 1)), "not written by varta-fleet"),
        (of(&|before| before.put(header::LAYOUT, 2)), "layout has version 2"),
        (of(&|before| before.put(header::BOOT_LOW, 2)), "of another boot"),
        (of(&|before| before.record(1000, &sample(1))), "the clock is behind"),
        (of(&|before| before.put(header::AHEAD, 60 * SECOND_NS)), "corrupt"),
        (of(&|before| before.put(start_of(&Ring::ALL[1], 7), 13)), "corrupt"),
        (of(&|before| before.put(start_of(&Ring::ALL[0], 51), 952)), "corrupt"),
    ];
    for (number, (memfd, why)) in cases.into_iter().enumerate() {
        let next = history();
        let refused = next.go_on_from(memfd, 51 * SECOND_NS).expect_err("refused").to_string();
        assert!(refused.contains(why), "case {number}: {refused}");
        assert!(all(&next, &Ring::ALL[0], 51).iter().all(|(_, sample)| sample.is_none()));
    }
}

/// Killed while it wrote a sample: only the steps with that are given up.
#[test]
fn a_sample_that_was_half_written_is_not_adopted() {
    let before = history();
    (0..65).for_each(|second| before.record(second, &sample(second)));
    sequence::begin(&before.words[header::SEQUENCE]);
    before.put(header::NEWEST, 66);
    assert_eq!(before.read(&Ring::ALL[0], 66 * SECOND_NS, None, None), Err(Busy));
    let next = history();
    next.go_on_from(fd(&before), 66 * SECOND_NS).expect("the rest is sound");
    let found = |ring: &Ring| all(&next, ring, 66).iter().filter(|(_, sample)| sample.is_some()).count();
    assert_eq!(Ring::ALL.map(|ring| found(&ring)), [65, 6, 1]);
}

#[test]
fn a_reader_in_another_thread_never_sees_half_of_a_sample() {
    let (history, is_over) = (history(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut seen = 0;
            while !is_over.load(Ordering::Acquire) || seen == 0 {
                let Ok(Some(shown)) = history.read(&Ring::ALL[1], 11 * SECOND_NS, None, None) else {
                    continue;
                };
                let Some(Some(found)) = shown.samples.last() else { continue };
                let counts =
                    [found.up, found.stalled, found.died, found.resumed, found.beats, found.covered_ns];
                assert!(counts.iter().all(|count| *count == counts[0]), "{found:?}");
                seen += 1;
            }
        });
        // The same step each time: nothing but the sequence tells one state of it from the next.
        for number in 1..=200_000 {
            let one = Sample {
                up: number,
                stalled: number,
                died: 1,
                resumed: 1,
                beats: 1,
                covered_ns: 1,
                ..Sample::default()
            };
            history.record(10, &one);
        }
        is_over.store(true, Ordering::Release);
    });
}
