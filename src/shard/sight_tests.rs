//! Sight: single cases and random sequences.

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const TICK: u64 = 10 * MS;
/// Datagrams per call, used to size the memory of calls.
const BATCH: usize = 1;
/// A threshold of 0.6 s: a gap of more than 150 ms is a pause.
const T: u64 = 600 * MS;
const START: MonoNs = MonoNs(1_000_000_000_000);

/// An instant `ms` milliseconds after the start.
fn at(ms: u64) -> MonoNs {
    START + ms * MS
}

fn window(from_ms: u64, to_ms: u64) -> Window {
    Window { start: at(from_ms), end: at(to_ms) }
}

fn sight(queue_limit: u32) -> SightLog {
    let mut sight = SightLog::new(queue_limit, BATCH, T, TICK, START);
    call(&mut sight, 0, &[], true);
    sight
}

/// A receive call that takes no time.
fn call(sight: &mut SightLog, t_pre_ms: u64, arrivals_ms: &[u64], is_queue_empty: bool) {
    long_call(sight, [t_pre_ms; 3], arrivals_ms, is_queue_empty);
}

/// A receive call with these clock readings: before, after, and when all datagrams were taken.
fn long_call(sight: &mut SightLog, clock_ms: [u64; 3], arrivals_ms: &[u64], is_queue_empty: bool) {
    let [t_pre, received, taken] = clock_ms.map(at);
    sight.begin_receive(t_pre);
    sight.received(received);
    for arrival in arrivals_ms {
        sight.on_datagram(at(*arrival));
    }
    sight.end_receive(is_queue_empty, taken);
}

fn news(sight: &mut SightLog) -> Vec<BlindNews> {
    std::iter::from_fn(|| sight.take_news()).collect()
}

/// What is reported once no window can grow any more.
fn news_at(sight: &mut SightLog, ms: u64) -> Vec<BlindNews> {
    call(sight, ms, &[], true);
    news(sight)
}

fn paused(from_ms: u64, to_ms: u64) -> BlindNews {
    BlindNews::Both(window(from_ms, to_ms), BlindWhy::Paused)
}

// --- pauses ----------------------------------------------------------------------------------------

#[test]
fn fault_49_waiting_for_nothing_is_no_pause() {
    let mut sight = sight(10);
    for ms in [1000, 2000, 3000] {
        sight.begin_wait(at(ms), true);
        call(&mut sight, ms, &[], true);
    }
    sight.begin_wait(at(60_000), true);
    call(&mut sight, 50_000, &[50_000], true);
    assert_eq!(news_at(&mut sight, 50_100), []);
    assert_eq!((sight.view().last_blind_end, sight.blind_total_ns()), (START, 0));
    assert_eq!(sight.watermark(), at(50_100));
}

#[test]
fn a_wait_that_its_own_timeout_does_not_end_is_a_pause() {
    for is_for_datagrams in [false, true] {
        let mut sight = sight(10);
        sight.begin_wait(at(100), is_for_datagrams);
        call(&mut sight, 3000, &[], true);
        assert_eq!(sight.view().last_blind_end, at(3000));
        assert_eq!(news_at(&mut sight, 3010), [paused(100, 3000)]);
        assert_eq!(sight.blind_total_ns(), 2900 * MS);
    }
}

#[test]
fn a_wait_that_a_kick_does_not_end_is_a_pause() {
    let mut sight = sight(10);
    sight.begin_wait(at(1000), true);
    sight.kicked(at(200));
    call(&mut sight, 900, &[], true);
    assert_eq!(news_at(&mut sight, 910), [paused(200, 900)]);
}

#[test]
fn a_kick_before_the_wait_began_is_late_only_since_then() {
    let mut sight = sight(10);
    call(&mut sight, 100, &[], true);
    call(&mut sight, 1000, &[], true);
    sight.begin_wait(at(2000), true);
    sight.kicked(at(300));
    call(&mut sight, 1001, &[], true);
    assert_eq!(news_at(&mut sight, 1020), [paused(100, 1000)]);
    assert_eq!(sight.paused_before(at(1020)), START.0 + 900 * MS, "counted once");
}

#[test]
fn a_wait_that_its_oldest_frame_does_not_end_is_a_pause() {
    let mut sight = sight(10);
    sight.begin_wait(at(1000), true);
    call(&mut sight, 800, &[300, 301, 799], true);
    assert_eq!(news_at(&mut sight, 810), [paused(300, 800)]);
    // Where datagrams do not end the wait, they may stay queued.
    sight.begin_wait(at(1600), false);
    call(&mut sight, 1600, &[900, 1599], true);
    assert_eq!(news_at(&mut sight, 1700), []);
}

#[test]
fn two_calls_far_apart_without_a_wait_are_a_pause() {
    let mut sight = sight(10);
    call(&mut sight, 100, &[], true);
    call(&mut sight, 251, &[], true);
    assert_eq!(news_at(&mut sight, 270), [paused(100, 251)]);
}

#[test]
fn a_pause_inside_a_call_or_after_it_is_a_pause_even_if_the_shard_then_sleeps() {
    for (clock, end) in [([100, 700, 700], 700), ([100, 100, 700], 700)] {
        let mut sight = sight(10);
        long_call(&mut sight, clock, &[], true);
        assert_eq!(sight.view().last_blind_end, at(end), "known before anybody is judged");
        sight.begin_wait(at(701), false);
        call(&mut sight, 701, &[150, 160], true);
        assert_eq!(news_at(&mut sight, 720), [paused(100, end)]);
    }
}

#[test]
fn a_pause_in_the_wait_and_one_in_the_call_after_it_are_one() {
    let mut sight = sight(10);
    sight.begin_wait(at(100), true);
    long_call(&mut sight, [500, 900, 1300], &[300, 600], true);
    assert_eq!(sight.paused_before(at(2000)), START.0 + 1200 * MS);
    assert_eq!(news_at(&mut sight, 1310), [paused(100, 1300)]);
}

#[test]
fn a_call_that_fails_ends_no_pause() {
    let mut sight = sight(10);
    sight.begin_wait(at(100), true);
    // The shard wakes a second late and the call fails: nothing is known yet.
    sight.begin_receive(at(1100));
    sight.begin_wait(at(1110), false);
    call(&mut sight, 1110, &[1100], true);
    assert_eq!(news_at(&mut sight, 1130), [paused(100, 1110)]);
}

#[test]
fn a_socket_that_keeps_failing_is_a_pause_like_any_other() {
    let mut sight = sight(10);
    sight.begin_wait(at(100), true);
    for retry in 10..60 {
        sight.begin_receive(at(retry * 10));
        sight.begin_wait(at(retry * 10 + 10), false);
    }
    call(&mut sight, 600, &[], true);
    assert_eq!(news_at(&mut sight, 620), [paused(100, 600)]);
}

#[test]
fn a_call_that_fails_takes_nothing_from_the_queue() {
    let mut sight = sight(1);
    sight.begin_wait(at(10), false);
    sight.begin_receive(at(10));
    sight.begin_wait(at(20), false);
    call(&mut sight, 20, &[12, 15], true);
    assert_eq!(sight.view().last_blind_end, at(20), "full from 15 until the next call");
}

#[test]
fn a_short_gap_with_room_left_is_no_blindness() {
    let mut sight = sight(10);
    sight.begin_wait(at(50), true);
    call(&mut sight, 149, &[5, 6, 7, 140], true);
    call(&mut sight, 299, &[150, 298], true);
    assert_eq!(news_at(&mut sight, 320), []);
    assert_eq!(sight.view().last_blind_end, START);
}

// --- a full queue ----------------------------------------------------------------------------------

/// The window in which the queue was full, as far as known.
fn full(sight: &SightLog) -> Option<Window> {
    sight.blindness.map(|blindness| blindness.window)
}

#[test]
fn full_is_exactly_one_more_than_the_limit() {
    for (frames, expected) in [(10, None), (11, Some(window(11, 100)))] {
        let mut sight = sight(10);
        let arrivals: Vec<u64> = (1..=frames).collect();
        call(&mut sight, 100, &arrivals, true);
        assert_eq!(full(&sight), expected, "{frames}");
    }
    // When in a call a datagram left the queue is not known: by the end of the call at the latest.
    let mut sight = sight(10);
    long_call(&mut sight, [100, 103, 104], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 101], true);
    assert_eq!(full(&sight), Some(window(101, 103)));
}

#[test]
fn full_is_known_over_several_calls() {
    for (last, expected) in [([100, 100, 100], Some(window(100, 100))), ([100, 100, 101], None)] {
        let mut sight = sight(10);
        call(&mut sight, 100, &[1, 2, 3, 4], false);
        call(&mut sight, 101, &[5, 6, 7, 8], false);
        assert!(!sight.is_blind(), "nobody knows yet");
        call(&mut sight, 102, &last, false);
        assert_eq!(full(&sight), expected, "the first of them left at 100");
    }
}

#[test]
fn a_queue_that_was_emptied_in_between_was_not_full() {
    let mut sight = sight(2);
    call(&mut sight, 100, &[99, 99], true);
    call(&mut sight, 100, &[100], true);
    call(&mut sight, 101, &[100, 101], true);
    assert_eq!(full(&sight), None);
}

/// The queue may fill between any two calls, whatever the calls before and after find.
#[test]
fn no_call_at_which_the_queue_is_full_is_overlooked() {
    let mut sight = sight(2);
    call(&mut sight, 100, &[90], false);
    // Three are queued at the second call, which takes one; only the third call shows that the queue was full.
    call(&mut sight, 200, &[150], false);
    call(&mut sight, 201, &[151, 152, 210], false);
    call(&mut sight, 211, &[], true);
    assert_eq!(full(&sight), Some(window(152, 200)));
    assert_eq!(sight.view().last_blind_end, at(200));
}

#[test]
fn full_ends_when_a_place_gets_free_for_good() {
    let mut sight = sight(2);
    call(&mut sight, 100, &[90, 91, 92], false);
    assert_eq!(news(&mut sight), [BlindNews::Began(window(92, 100), BlindWhy::Full)], "told at once");
    call(&mut sight, 102, &[100, 100, 101], false);
    assert_eq!(full(&sight), Some(window(92, 102)), "the kernel refused whoever came between 101 and 102");
    assert_eq!(news(&mut sight), [], "told once");
    call(&mut sight, 105, &[103, 104], true);
    assert_eq!(full(&sight), Some(window(92, 102)));
    assert_eq!(sight.view().last_blind_end, at(102));
    assert_eq!(news(&mut sight), [], "it may still grow");
    assert_eq!(sight.news_due(), Some(at(112)));
    assert_eq!(news_at(&mut sight, 112), [BlindNews::Ended(window(92, 102), BlindWhy::Full)]);
    assert_eq!((sight.news_due(), sight.blind_total_ns()), (None, 10 * MS));
}

#[test]
fn windows_closer_than_a_tick_are_one() {
    let mut sight = sight(2);
    let began = |from, to| BlindNews::Began(window(from, to), BlindWhy::Full);
    let ended = |from, to| BlindNews::Ended(window(from, to), BlindWhy::Full);
    call(&mut sight, 100, &[90, 91, 92], true);
    assert_eq!(news(&mut sight), [began(92, 100)]);
    call(&mut sight, 112, &[108, 109, 110], true);
    call(&mut sight, 113, &[], true);
    assert_eq!(news(&mut sight), [], "its end may still move");
    assert_eq!(news_at(&mut sight, 130), [ended(92, 112)]);
    // Further apart they are two; one not reported yet is reported together with its end.
    call(&mut sight, 200, &[190, 191, 192], true);
    call(&mut sight, 220, &[213, 214, 215], true);
    let both = BlindNews::Both(window(192, 200), BlindWhy::Full);
    assert_eq!(news_at(&mut sight, 221), [both, began(215, 220)]);
    assert_eq!(news_at(&mut sight, 230), [ended(215, 220)]);
}

#[test]
fn a_pause_swallows_the_full_queue_it_left_behind() {
    let mut sight = sight(2);
    sight.begin_wait(at(1000), true);
    call(&mut sight, 3000, &[50, 51, 52], false);
    assert_eq!(full(&sight), Some(window(50, 3000)));
    assert_eq!(news(&mut sight), []);
    call(&mut sight, 3003, &[3001, 3001, 3002], true);
    assert_eq!(news_at(&mut sight, 3013), [paused(50, 3003)]);
    assert_eq!(sight.blind_total_ns(), 2953 * MS);
}

#[test]
fn a_queue_that_stays_full_after_a_pause_is_told_while_it_lasts() {
    let mut sight = sight(2);
    sight.begin_wait(at(1000), true);
    call(&mut sight, 3000, &[50, 51, 52], false);
    for ms in 3001..3050 {
        call(&mut sight, ms, &[ms, ms, ms], false);
    }
    assert_eq!(news(&mut sight), [BlindNews::Began(window(50, 3049), BlindWhy::Paused)]);
    call(&mut sight, 3060, &[], true);
    assert_eq!(news_at(&mut sight, 3080), [BlindNews::Ended(window(50, 3049), BlindWhy::Paused)]);
}

#[test]
fn windows_that_end_in_one_turn_are_told_in_order_and_none_is_lost() {
    let mut sight = sight(2);
    let mut truth = 0;
    for n in 0..20_u64 {
        let ms = 1000 * n;
        call(&mut sight, ms + 1, &[], true);
        call(&mut sight, ms + 500, &[], true);
        call(&mut sight, ms + 550, &[], true);
        truth += 499;
        call(&mut sight, ms + 650, &[], true);
        call(&mut sight, ms + 750, &[], true);
        call(&mut sight, ms + 850, &[], true);
        call(&mut sight, ms + 950, &[], true);
    }
    let told = news_at(&mut sight, 20_050);
    assert_eq!(sight.blind_total_ns(), truth * MS);
    assert_eq!(told.len(), FINISHED_MAX);
    let windows: Vec<Window> = told
        .iter()
        .map(|news| match news {
            BlindNews::Both(window, BlindWhy::Paused) => *window,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(windows.is_sorted_by_key(|window| window.start));
    assert_eq!(windows[0], window(1, 500));
    assert_eq!(windows[6], window(6001, 6500));
    assert_eq!(windows[7], window(7001, 19_500), "the rest is one");
}

#[test]
fn the_blind_part_of_a_silence_is_what_lies_in_windows() {
    let mut sight = sight(2);
    call(&mut sight, 1000, &[], true);
    call(&mut sight, 1100, &[], true);
    call(&mut sight, 2100, &[], true);
    assert_eq!(sight.blind_since(at(0)), 2000 * MS);
    assert_eq!(sight.blind_since(at(500)), 1500 * MS);
    assert_eq!(sight.blind_since(at(1500)), 600 * MS);
    assert_eq!(sight.blind_since(at(2100)), 0);
    call(&mut sight, 2200, &[2190, 2191, 2192], false);
    assert_eq!(
        sight.blind_since(at(2100)),
        8 * MS,
        "the window that may still grow counts as far as it is known"
    );
}

// --- awake time ------------------------------------------------------------------------------------

#[test]
fn before_it_looked_the_shard_was_not_awake() {
    let sight = SightLog::new(10, BATCH, T, TICK, START);
    assert_eq!(sight.paused_before(START), START.0);
    assert_eq!(sight.paused_before(START - 7), START.0 - 7);
    assert_eq!(sight.paused_before(at(9)), START.0);
    assert_eq!(sight.view().last_blind_end, START);
}

#[test]
fn a_beat_from_inside_a_pause_was_awake_for_none_of_the_rest() {
    let mut sight = sight(10);
    sight.begin_wait(at(10), true);
    sight.begin_receive(at(3000));
    sight.received(at(3000));
    sight.on_datagram(at(50));
    // The wait should have ended at 10 ms.
    let base = START.0;
    assert_eq!(sight.paused_before(at(50)), base + 40 * MS);
    sight.on_datagram(at(2000));
    assert_eq!(sight.paused_before(at(2000)), base + 1990 * MS);
    sight.end_receive(true, at(3000));
    assert_eq!(sight.view().paused_before, base + 2990 * MS);
    // A later beat: the window is no longer kept, its length still counts.
    assert_eq!(sight.paused_before(at(3500)), base + 2990 * MS);
}

#[test]
fn a_pause_after_the_queue_was_seen_empty_is_remembered_for_what_arrives_in_it() {
    let mut sight = sight(10);
    long_call(&mut sight, [100, 100, 3000], &[], true);
    let base = START.0;
    assert_eq!(sight.view().paused_before, base, "the watermark is before it");
    sight.begin_wait(at(3001), false);
    sight.begin_receive(at(3001));
    sight.received(at(3001));
    sight.on_datagram(at(150));
    assert_eq!(sight.paused_before(at(150)), base + 50 * MS);
    assert_eq!(sight.view().paused_before, base + 50 * MS);
    sight.end_receive(true, at(3001));
    assert_eq!(sight.view().paused_before, base + 2900 * MS);
}

#[test]
fn a_pause_inside_a_call_counts_for_what_arrived_in_it_and_was_read_by_the_same_call() {
    for is_after_wait in [false, true] {
        let mut sight = sight(10);
        if is_after_wait {
            sight.begin_wait(at(100), true);
        }
        sight.begin_receive(at(100));
        sight.received(at(3100));
        sight.on_datagram(at(2000));
        assert_eq!(sight.paused_before(at(2000)), START.0 + 1900 * MS);
        sight.end_receive(true, at(3101));
        assert_eq!(sight.paused_before(at(3101)), START.0 + 3000 * MS);
    }
}

#[test]
fn more_pauses_than_are_remembered_keep_the_total() {
    let mut sight = sight(1000);
    // The queue is never empty.
    for n in 1..=100 {
        call(&mut sight, 200 * n, &[n], false);
    }
    assert_eq!(sight.paused_before(at(30_000)), START.0 + 100 * 200 * MS);
}

// --- the watermark ---------------------------------------------------------------------------------

#[test]
fn a_queue_that_is_never_empty_moves_the_watermark_by_its_frames() {
    let mut sight = sight(512);
    call(&mut sight, 100, &[50, 60], false);
    assert_eq!(sight.watermark(), at(60));
    call(&mut sight, 110, &[70, 105], false);
    assert_eq!(sight.watermark(), at(105));
    call(&mut sight, 120, &[106], true);
    assert_eq!(sight.watermark(), at(120));
}

#[test]
fn an_empty_queue_vouches_for_the_time_before_the_call_and_no_longer() {
    let mut sight = sight(512);
    long_call(&mut sight, [100, 180, 240], &[], true);
    assert_eq!(sight.watermark(), at(100));
    long_call(&mut sight, [250, 250, 260], &[255], true);
    assert_eq!(sight.watermark(), at(255));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait { ms: u64, late: u64, is_for_datagrams: bool, kick: Option<u64> },
    Call { before: u64, after: u64, frames: usize, is_empty: bool },
    News,
}

fn step() -> impl Strategy<Value = Step> {
    let late = prop_oneof![3 => 0u64..20, 1 => 100u64..2000];
    let slow = prop_oneof![5 => Just(0u64), 1 => 0u64..2000];
    prop_oneof![
        1 => (0u64..500, late, any::<bool>(), prop::option::of(0u64..500)).prop_map(
            |(ms, late, is_for_datagrams, kick)| Step::Wait { ms, late, is_for_datagrams, kick }
        ),
        3 => (slow.clone(), slow, 0usize..8, any::<bool>())
            .prop_map(|(before, after, frames, is_empty)| Step::Call { before, after, frames, is_empty }),
        1 => Just(Step::News),
    ]
}

proptest! {
    /// The watermark never goes back or ahead of the clock; no time counts as a pause twice; reported windows
    /// are in order, begin before they end, and add up.
    #[test]
    fn whatever_happens_time_stays_in_order(steps in prop::collection::vec(step(), 1..80)) {
        let mut sight = SightLog::new(3, BATCH, T, TICK, START);
        let (mut now, mut last_arrival) = (0, 0);
        let mut told = Vec::new();
        let mut watermark = MonoNs(0);
        for step in steps {
            match step {
                Step::Wait { ms, late, is_for_datagrams, kick } => {
                    sight.begin_wait(at(now + ms), is_for_datagrams);
                    let kicked_at = kick.map(|ms| now + ms).filter(|at| *at <= now + ms);
                    now = kicked_at.unwrap_or(now + ms) + late;
                    if let Some(kicked_at) = kicked_at {
                        sight.kicked(at(kicked_at));
                    }
                    call(&mut sight, now, &[], true);
                    last_arrival = now;
                }
                Step::Call { before, after, frames, is_empty } => {
                    let t_pre = now;
                    let received = t_pre + before;
                    now = received + after;
                    let arrivals: Vec<u64> = (1..=frames as u64)
                        .map(|n| last_arrival + (received - last_arrival) * n / (frames as u64))
                        .collect();
                    long_call(&mut sight, [t_pre, received, now], &arrivals, is_empty);
                    last_arrival = arrivals.last().copied().unwrap_or(last_arrival);
                    if is_empty {
                        last_arrival = last_arrival.max(t_pre);
                    }
                }
                Step::News => told.extend(news(&mut sight)),
            }
            prop_assert!(sight.watermark() >= watermark);
            watermark = sight.watermark();
            prop_assert!(watermark <= at(now));
            let awake = |ms: u64| at(ms).0 - sight.paused_before(at(ms)).min(at(ms).0);
            prop_assert!(sight.paused_before(at(now)) <= at(now).0, "awake for less than no time");
            prop_assert!(awake(now) >= awake(now.saturating_sub(50)), "awake time goes on");
            prop_assert!(sight.view().last_blind_end <= at(now));
        }
        call(&mut sight, now, &[], true);
        call(&mut sight, now + 20, &[], true);
        told.extend(news(&mut sight));
        let mut open = None;
        let (mut last_end, mut total, mut merged) = (START, 0, 0);
        for news in told {
            let window = match news {
                BlindNews::Began(window, _) => {
                    prop_assert!(open.is_none(), "one at a time");
                    open = Some(window.start);
                    continue;
                }
                BlindNews::Ended(window, _) => {
                    prop_assert_eq!(open.take(), Some(window.start));
                    window
                }
                BlindNews::Both(window, _) => window,
            };
            prop_assert!(open.is_none());
            prop_assert!(last_end <= window.start && window.start <= window.end, "{last_end:?} {window:?}");
            last_end = window.end;
            total += window.length();
            merged += 1;
        }
        prop_assert!(open.is_none(), "what began has ended");
        prop_assert!(total >= sight.blind_total_ns());
        if merged < FINISHED_MAX {
            prop_assert_eq!(total, sight.blind_total_ns());
        }
    }
}

/// The largest value `net.unix.max_dgram_qlen` can take.
#[test]
fn the_longest_queue_there_may_be_takes_no_more_memory_than_a_long_one() {
    let mut sight = SightLog::new(i32::MAX.unsigned_abs(), 64, T, TICK, at(0));
    assert!(sight.calls.capacity() <= 2 * CALLS_MAX, "{}", sight.calls.capacity());
    let before = sight.calls.capacity();
    for call in 0..2 * CALLS_MAX as u64 {
        sight.begin_receive(at(call));
        sight.received(at(call));
        for _ in 0..64 {
            sight.on_datagram(at(0));
        }
        sight.end_receive(false, at(call));
    }
    assert_eq!(sight.calls.capacity(), before, "and never more");
}

// --- after another process -------------------------------------------------------------------------

/// Sight from `START` on, for a process that last ran 400 ms before and had processed everything up to 20 ms before that.
fn sight_after(paused_from: MonoNs) -> SightLog {
    let mut sight = SightLog::new(512, BATCH, T, TICK, START);
    sight.go_on_after(&Progress {
        alive_at: START - 400 * MS,
        watermark: START - 420 * MS,
        paused_ns: 77 * MS,
        paused_from,
        clock_offset: 0,
    });
    sight
}

#[test]
fn after_a_restart_the_watermark_goes_on_and_sight_begins_anew() {
    let mut sight = sight_after(START - 400 * MS);
    assert_eq!(sight.watermark(), START - 420 * MS, "what is queued is older than the start");
    assert_eq!(sight.last_blind_end(), START);
    let paused: Vec<u64> = [410, 400, 300, 0].map(|ago| sight.paused_before(START - ago * MS) / MS).into();
    assert_eq!(paused, [77, 77, 177, 477]);
    assert_eq!(sight.paused_before(at(50)), 477 * MS);
    assert_eq!(sight.blind_since(START - 100 * MS), 100 * MS);
    sight.begin_receive(at(0));
    sight.received(at(1));
    sight.on_datagram(START - 350 * MS);
    assert_eq!(sight.watermark(), START - 350 * MS);
    sight.end_receive(true, at(2));
    assert_eq!(sight.watermark(), START);
    assert_eq!(sight.accounted(), (477 * MS, at(2)));
}

#[test]
fn a_restart_swallows_the_pause_that_touches_it_and_is_told_once() {
    let mut sight = sight_after(START - 400 * MS);
    assert_eq!(news(&mut sight), []);
    // The thread runs only 300 ms after the sight was set up.
    call(&mut sight, 300, &[], true);
    assert_eq!(news(&mut sight), []);
    let restart = Window { start: START - 400 * MS, end: at(300) };
    assert_eq!(news_at(&mut sight, 310), [BlindNews::Both(restart, BlindWhy::Restart)]);
    assert_eq!((news_at(&mut sight, 350), sight.last_blind_end()), (vec![], at(300)));
    assert_eq!(sight.blind_total_ns(), 700 * MS);
}

#[test]
fn pauses_that_the_process_before_had_not_accounted_for_are_part_of_the_restart() {
    let sight = sight_after(START - 900 * MS);
    assert_eq!(sight.paused_before(START), 977 * MS);
    assert_eq!(sight.accounted(), (77 * MS, START - 900 * MS), "nor has this one");
    // It says only what it knows: the time before was reported by the process before.
    assert_eq!(sight.blind_since(MonoNs(0)), 400 * MS);
}
