//! Steps, axis and what several seconds make together.

use proptest::prelude::*;

use super::*;

const SECONDS: Ring = Ring::ALL[0];
const MINUTES: Ring = Ring::ALL[2];

#[test]
fn what_seconds_make_together() {
    let one = Sample {
        up: 9,
        stalled: 1,
        died: 2,
        resumed: 3,
        beats: 10,
        lost: 4,
        refused: 5,
        queue_p99_ns: 70,
        blind_ns: 6,
        covered_ns: SECOND_NS,
    };
    let other = Sample { up: 7, stalled: 3, queue_p99_ns: 50, beats: 50, covered_ns: 2 * SECOND_NS, ..one };
    let both = one.and(other);
    assert_eq!((both.up, both.stalled), (7, 3), "as at the end");
    assert_eq!(
        (both.died, both.resumed, both.lost, both.refused, both.blind_ns),
        (4, 6, 8, 10, 12),
        "in all"
    );
    assert_eq!(both.queue_p99_ns, 70, "the worst");
    assert_eq!(both.beats_per_second(), 20);
    assert_eq!(Sample::from_words(both.to_words()), both);
    let large = Sample::from_words([u64::MAX; Sample::WORDS]);
    assert_eq!(large.and(large), large);
    assert_eq!(large.beats_per_second(), SECOND_NS);
}

#[test]
fn a_part_of_a_second_is_no_peak() {
    let sample = Sample { beats: 1000, covered_ns: 1_000_000, ..Sample::default() };
    assert_eq!(sample.beats_per_second(), 1000);
}

#[test]
fn minutes_are_those_of_the_wall_clock() {
    let (boot, wall) = (12_345_678_901_234, 1_772_366_407_250_000_000);
    let axis = Axis::new(boot, wall);
    assert!(axis.ahead_ns < MINUTE_NS);
    assert_eq!(axis.at(boot) % MINUTE_NS, 7_250_000_000);
    assert_eq!(Axis::new(boot, 0).at(boot) % MINUTE_NS, 0);
}

#[test]
fn the_last_step_is_whole_or_its_sample_is_due() {
    let shown =
        |newest, now_ms: u64| SECONDS.shown(newest, now_ms * 1_000_000, None, None).map(|steps| *steps.end());
    assert_eq!(shown(Some(98), 100_000), Some(98), "second 99 is over, its sample is due");
    assert_eq!(shown(Some(99), 100_001), Some(99));
    assert_eq!(shown(Some(98), 100_999), Some(98));
    assert_eq!(shown(Some(98), 101_000), Some(100), "it is missing");
    assert_eq!(shown(Some(100), 100_500), Some(99), "second 100 is not over");
    assert_eq!(shown(None, 100_000), Some(99));
    assert_eq!(shown(None, 999), None, "no second has passed");
}

#[test]
fn only_what_is_asked_for_and_kept_is_shown() {
    let now = 100_000 * SECOND_NS;
    let shown = |from: Option<u64>, to: Option<u64>| {
        let ns = |seconds: Option<u64>| seconds.map(|seconds| seconds * SECOND_NS);
        SECONDS.shown(Some(99_999), now, ns(from), ns(to))
    };
    assert_eq!(shown(None, None), Some(99_100..=99_999));
    assert_eq!(shown(Some(0), None), Some(99_100..=99_999));
    assert_eq!(shown(Some(99_990), Some(99_992)), Some(99_990..=99_992));
    assert_eq!(shown(Some(99_990), Some(200_000)), Some(99_990..=99_999));
    assert_eq!(shown(Some(1), Some(2)), None, "it is no longer kept");
    assert_eq!(shown(Some(100_000), None), None, "it is not over");
    assert_eq!(MINUTES.shown(Some(99_999), now, None, None), Some(1666 - 1439..=1666));
    assert_eq!(MINUTES.shown(Some(119), 120 * SECOND_NS, None, None), Some(0..=1), "the host is young");
}

proptest! {
    #[test]
    fn no_more_steps_are_shown_than_are_kept(
        newest in any::<Option<u32>>(), now in any::<u64>(), from in any::<Option<u64>>(), to in any::<Option<u64>>(),
    ) {
        for ring in Ring::ALL {
            let Some(steps) = ring.shown(newest.map(u64::from), now, from, to) else { continue };
            prop_assert!(steps.end() - steps.start() < ring.steps as u64);
            prop_assert!(ring.slot_of(*steps.start()) < ring.steps);
            prop_assert!(steps.end() * ring.step_seconds <= now / SECOND_NS);
        }
    }
}
