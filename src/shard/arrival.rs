//! Converts the kernel's stamp (REALTIME) to an instant of MONOTONIC, whatever steps the wall clock makes.
//!
//! In: one reading of REALTIME per batch, between two readings of MONOTONIC that the loop makes anyway. Out:
//! for each stamp, the earliest and the latest possible instant. Time is an argument.
//!
//! The offset REALTIME - MONOTONIC lies between (wall - later mono) and (wall - earlier mono): each batch
//! narrows it, and slewing moves it. If it seems to move by more than a millisecond, either the wall clock
//! stepped or the thread was preempted between the readings; a second, tight reading distinguishes the two.
//! After a step the queue holds stamps from before and after it, so both offsets are kept until the queue was
//! seen empty.

use crate::time::{Clock, MonoNs, WallNs};

/// A smaller change of the offset is slewing or reading noise.
const STEP_NS: i64 = 1_000_000;
/// Two readings of MONOTONIC closer than this determine the REALTIME reading between them.
const TIGHT_NS: u64 = 100_000;
/// Attempts at a tight reading. If all fail, the next batch tries again.
const TIGHT_ATTEMPTS: u32 = 8;

/// When one datagram arrived. The two instants differ only after a step of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The earliest possible instant: the watermark moves to this.
    pub earliest: MonoNs,
    /// The latest possible instant: the agent was alive until this.
    pub latest: MonoNs,
}

/// Converts the stamps of one socket, in the order of its queue.
#[derive(Clone, Debug)]
pub struct Arrivals {
    /// REALTIME - MONOTONIC, ns.
    offset: i64,
    /// The lowest and the highest offset before the last step, until the queue was seen empty after it.
    old_offsets: Option<[i64; 2]>,
    /// The last step was found in this batch: datagrams still queued may be older than the step.
    is_step_fresh: bool,
    /// The clock seems to have stepped, which could not be confirmed. This batch was read by this instant,
    /// and its stamps are ignored.
    doubt: Option<MonoNs>,
    /// The previous datagram's arrival; the queue is in order of arrival.
    previous: Arrival,
    steps: u64,
}

impl Arrivals {
    /// Reads the clock for the first offset.
    pub fn new(clock: &impl Clock) -> Self {
        let offset = tight_offset(clock).unwrap_or_else(|| difference(clock.wall(), clock.mono()));
        Self {
            offset,
            old_offsets: None,
            is_step_fresh: false,
            doubt: None,
            // The socket may be older than this process, and so what is queued in it.
            previous: Arrival { earliest: MonoNs(0), latest: MonoNs(0) },
            steps: 0,
        }
    }

    /// Continues for a process that found this offset, and this arrival of the last datagram it took. What is still
    /// queued arrived after that, and was stamped by the old offset or the present one.
    pub fn go_on_after(&mut self, offset: i64, previous: Arrival) {
        self.previous = previous;
        if self.offset.wrapping_sub(offset).unsigned_abs() > STEP_NS.unsigned_abs() {
            self.steps += 1;
            self.old_offsets = Some([offset; 2]);
        }
    }

    /// REALTIME - MONOTONIC, ns.
    pub const fn offset(&self) -> i64 {
        self.offset
    }

    /// Steps of the wall clock seen so far.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes the batch's reading of REALTIME, made after `before` (MONOTONIC). Call before its stamps.
    ///
    /// Without a step the reading converts to an instant with an error of at most a millisecond. If a step is
    /// possible and the instant lies in the future or before the call, the clock stepped between the
    /// readings, and the stamps of this batch mean nothing.
    #[inline]
    pub fn begin_batch(&mut self, clock: &impl Clock, before: MonoNs, wall: WallNs) {
        let highest = difference(wall, before);
        let moved = highest.wrapping_sub(self.offset);
        self.doubt = None;
        self.is_step_fresh = false;
        if !(-STEP_NS..=STEP_NS).contains(&moved) {
            // A backward move is a step. A forward move is a step, or the call took long.
            self.step(clock);
            let now = clock.mono();
            if !(before..=now + STEP_NS.unsigned_abs()).contains(&self.instant(wall)) {
                self.doubt = Some(now);
            }
        } else if moved < 0 {
            self.offset = highest;
        }
    }

    /// Takes the reading of MONOTONIC after the batch; `wall` as in [`Arrivals::begin_batch`].
    #[inline]
    pub fn end_batch(&mut self, clock: &impl Clock, wall: WallNs, after: MonoNs, is_queue_empty: bool) {
        if is_queue_empty && !self.is_step_fresh {
            self.old_offsets = None;
        }
        let lowest = difference(wall, after);
        if self.offset < lowest {
            if lowest - self.offset > STEP_NS {
                self.step(clock);
            } else {
                self.offset = lowest;
            }
        }
    }

    #[cold]
    fn step(&mut self, clock: &impl Clock) {
        if planted!(TrustsTheWallClock) {
            return;
        }
        let Some(offset) = tight_offset(clock) else {
            self.doubt = Some(clock.mono());
            return;
        };
        if offset.wrapping_sub(self.offset).unsigned_abs() <= STEP_NS.unsigned_abs() {
            return;
        }
        self.steps += 1;
        let [lowest, highest] = self.old_offsets.unwrap_or([self.offset; 2]);
        self.old_offsets = Some([lowest.min(self.offset), highest.max(self.offset)]);
        self.is_step_fresh = true;
        self.offset = offset;
    }

    /// The instant of this batch's reading of REALTIME, or a later one if the clock is in doubt.
    #[inline]
    pub fn instant(&self, wall: WallNs) -> MonoNs {
        match self.doubt {
            None => mono(wall, self.offset),
            Some(later) => later,
        }
    }

    /// When the next datagram of the queue arrived, given its stamp and an instant after its receipt.
    ///
    /// Without a stamp it may have arrived at any time since the previous one.
    #[inline]
    pub fn arrival(&mut self, stamp: Option<WallNs>, now: MonoNs) -> Arrival {
        let from = self.previous.earliest;
        let until = now.max(self.previous.latest);
        let anything = Arrival { earliest: from, latest: until };
        let arrival = match stamp {
            Some(stamp) if self.doubt.is_none() => match self.old_offsets {
                None => {
                    let at = mono(stamp, self.offset);
                    let is_possible =
                        at <= until + STEP_NS.unsigned_abs() && at + STEP_NS.unsigned_abs() >= from;
                    // Otherwise the clock stepped unnoticed, or has already stepped back.
                    if is_possible { self.within(at, at, until) } else { anything }
                }
                Some(old) => self.after_step(stamp, old, until).unwrap_or(anything),
            },
            _ => anything,
        };
        self.previous = arrival;
        arrival
    }

    /// Nothing arrived before its predecessor: the queue is in order of arrival.
    #[inline]
    fn within(&self, earliest: MonoNs, latest: MonoNs, until: MonoNs) -> Arrival {
        Arrival {
            earliest: earliest.clamp(self.previous.earliest, until),
            latest: latest.clamp(self.previous.latest, until),
        }
    }

    /// The arrival by the present offset and the earlier ones, limited to possible instants.
    #[cold]
    fn after_step(&self, stamp: WallNs, old: [i64; 2], until: MonoNs) -> Option<Arrival> {
        let slack = STEP_NS.unsigned_abs();
        let possible = self.previous.earliest - slack..=until + slack;
        let ats = [self.offset, old[0], old[1]].map(|offset| mono(stamp, offset));
        let earliest = ats.into_iter().filter(|at| possible.contains(at)).min()?;
        let latest = ats.into_iter().filter(|at| possible.contains(at)).max()?;
        Some(self.within(earliest, latest, until))
    }
}

/// The offset, if REALTIME can be read between two close readings of MONOTONIC.
fn tight_offset(clock: &impl Clock) -> Option<i64> {
    (0..TIGHT_ATTEMPTS).find_map(|_| {
        let before = clock.mono();
        let wall = clock.wall();
        let after = clock.mono();
        let width = after.since(before);
        (width < TIGHT_NS).then(|| difference(wall, before + width / 2))
    })
}

#[inline]
const fn difference(wall: WallNs, mono: MonoNs) -> i64 {
    wall.0.wrapping_sub(mono.0).cast_signed()
}

#[inline]
fn mono(stamp: WallNs, offset: i64) -> MonoNs {
    if offset >= 0 {
        MonoNs(stamp.0.saturating_sub(offset.unsigned_abs()))
    } else {
        MonoNs(stamp.0.saturating_add(offset.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::ManualClock;

    const START: MonoNs = MonoNs(1_000_000_000_000);
    const AHEAD: i64 = 1_700_000_000_000_000_000;
    const MS: u64 = 1_000_000;

    fn wall_of(clock: &ManualClock) -> WallNs {
        clock.wall()
    }

    /// One batch, read at the clock's present, of datagrams with these stamps.
    fn batch(
        arrivals: &mut Arrivals,
        clock: &ManualClock,
        stamps: &[Option<WallNs>],
        is_queue_empty: bool,
    ) -> Vec<Arrival> {
        let before = clock.mono();
        let wall = clock.wall();
        arrivals.begin_batch(clock, before, wall);
        let found = stamps.iter().map(|stamp| arrivals.arrival(*stamp, clock.mono())).collect();
        arrivals.end_batch(clock, wall, clock.mono(), is_queue_empty);
        found
    }

    #[test]
    fn what_was_queued_before_the_start_keeps_its_instant() {
        let clock = ManualClock::new(START, AHEAD);
        let stamp = wall_of(&clock);
        clock.advance(10_000 * MS);
        let mut arrivals = Arrivals::new(&clock);
        let found = batch(&mut arrivals, &clock, &[Some(stamp)], true);
        assert_eq!(found, [Arrival { earliest: START, latest: START }]);
    }

    #[test]
    fn after_another_process_nothing_arrived_before_what_it_took_and_a_step_between_is_known() {
        for step in [0, -50_000_000, 50_000_000] {
            let clock = ManualClock::new(START, AHEAD);
            let [older, newer] = [(); 2].map(|()| {
                clock.advance(MS / 2);
                (clock.mono(), clock.wall())
            });
            clock.advance(MS);
            clock.step_wall(step);
            clock.advance(MS);
            let mut arrivals = Arrivals::new(&clock);
            let last = Arrival { earliest: older.0, latest: newer.0 };
            arrivals.go_on_after(AHEAD, last);
            let found = batch(&mut arrivals, &clock, &[Some(older.1), Some(newer.1)], true);
            assert_eq!(arrivals.steps(), u64::from(step != 0), "{step}");
            for (arrival, truth) in found.iter().zip([older.0, newer.0]) {
                assert!(
                    arrival.earliest <= truth && truth <= arrival.latest,
                    "{step}: {arrival:?} {truth:?}"
                );
                assert!(newer.0 <= arrival.latest && arrival.latest <= clock.mono(), "{step}: {arrival:?}");
            }
        }
    }

    #[test]
    fn without_a_step_a_stamp_is_one_instant() {
        let clock = ManualClock::new(START, AHEAD);
        let mut arrivals = Arrivals::new(&clock);
        clock.advance(5 * MS);
        let stamp = wall_of(&clock);
        clock.advance(20 * MS);
        let found = batch(&mut arrivals, &clock, &[Some(stamp)], true);
        assert_eq!(found, [Arrival { earliest: START + 5 * MS, latest: START + 5 * MS }]);
    }

    #[test]
    fn slewing_is_followed_and_is_no_step() {
        let clock = ManualClock::new(START, AHEAD);
        let mut arrivals = Arrivals::new(&clock);
        for _ in 0..10_000 {
            clock.advance(MS);
            clock.step_wall(-500);
            batch(&mut arrivals, &clock, &[], true);
        }
        for _ in 0..20_000 {
            clock.advance(MS);
            clock.step_wall(500);
            batch(&mut arrivals, &clock, &[], true);
        }
        let stamp = wall_of(&clock);
        let found = batch(&mut arrivals, &clock, &[Some(stamp)], true);
        assert_eq!(arrivals.steps(), 0);
        assert!(clock.mono().since(found[0].latest) < MS, "5 ms of slewing were followed");
    }

    #[test]
    fn after_a_step_life_gets_the_latest_and_the_watermark_the_earliest() {
        for step in
            [-86_400_000 * 1_000_000_i64, 3_600_000 * 1_000_000, -500_000_000, 500_000_000, 10_000_000]
        {
            let clock = ManualClock::new(START, AHEAD);
            let mut arrivals = Arrivals::new(&clock);
            batch(&mut arrivals, &clock, &[], true);
            clock.advance(1000 * MS);
            let sent_before = (clock.mono(), wall_of(&clock));
            clock.step_wall(step);
            clock.advance(50 * MS);
            let sent_after = (clock.mono(), wall_of(&clock));
            clock.advance(50 * MS);
            let found = batch(&mut arrivals, &clock, &[Some(sent_before.1), Some(sent_after.1)], true);
            assert_eq!(arrivals.steps(), 1, "step {step}");
            for (arrival, truth) in found.iter().zip([sent_before.0, sent_after.0]) {
                assert!(
                    arrival.earliest <= truth && truth <= arrival.latest,
                    "step {step}: {arrival:?} {truth:?}"
                );
                assert!(arrival.latest <= clock.mono(), "never in the future");
            }
            // The queue was seen empty, so a stamp has one meaning again.
            clock.advance(MS);
            let stamp = wall_of(&clock);
            let found = batch(&mut arrivals, &clock, &[Some(stamp)], true);
            assert_eq!(found, [Arrival { earliest: clock.mono(), latest: clock.mono() }], "step {step}");
        }
    }

    #[test]
    fn fault_50_arrivals_never_run_backwards_nor_ahead_whatever_the_stamps_say() {
        let clock = ManualClock::new(START, AHEAD);
        let mut arrivals = Arrivals::new(&clock);
        let mut last = MonoNs(0);
        for n in 0..1000_u64 {
            clock.advance(n % 7 * MS);
            if n % 50 == 0 {
                clock.step_wall(if n % 100 == 0 { 1 << 50 } else { -(1 << 50) });
            }
            let stamps = [Some(WallNs(n.wrapping_mul(0x9E37_79B9_7F4A_7C15))), None, Some(wall_of(&clock))];
            for arrival in batch(&mut arrivals, &clock, &stamps, n % 3 == 0) {
                assert!(arrival.earliest <= arrival.latest);
                assert!(arrival.latest >= last && arrival.latest <= clock.mono());
                last = arrival.latest;
            }
        }
    }

    /// A machine so busy that two readings of MONOTONIC are never close.
    struct Busy(ManualClock);

    impl Clock for Busy {
        fn mono(&self) -> MonoNs {
            self.0.advance(2 * TIGHT_NS);
            self.0.mono()
        }
        fn wall(&self) -> WallNs {
            self.0.wall()
        }
    }

    #[test]
    fn a_step_nobody_can_confirm_leaves_everything_possible() {
        const HOUR: i64 = 3_600_000_000_000;
        for step in [HOUR, -HOUR] {
            let clock = ManualClock::new(START, AHEAD);
            let mut arrivals = Arrivals::new(&clock);
            let busy = Busy(clock.clone());
            let mut sent = Vec::new();
            for step in [0, step] {
                clock.advance(100 * MS);
                clock.step_wall(step);
                clock.advance(100 * MS);
                sent.push((clock.mono(), clock.wall()));
            }
            let before = clock.mono();
            let wall = clock.wall();
            arrivals.begin_batch(&busy, before, wall);
            let until = arrivals.instant(wall);
            assert!((before..=clock.mono()).contains(&until), "{step}: {until:?}");
            for (truth, stamp) in sent {
                let arrival = arrivals.arrival(Some(stamp), until);
                assert!(
                    arrival.earliest <= truth && truth <= arrival.latest,
                    "{step}: {arrival:?} {truth:?}"
                );
                assert!(arrival.latest <= clock.mono());
            }
        }
    }

    /// A clock that steps after so many readings of REALTIME or MONOTONIC.
    struct Stepping {
        clock: ManualClock,
        readings: std::cell::Cell<u32>,
        steps: Vec<(u32, i64)>,
    }

    impl Stepping {
        fn read(&self) {
            let reading = self.readings.replace(self.readings.get() + 1);
            self.clock.advance(100);
            for (_, by) in self.steps.iter().filter(|(at, _)| *at == reading) {
                self.clock.step_wall(*by);
            }
        }
    }

    impl Clock for Stepping {
        fn mono(&self) -> MonoNs {
            self.read();
            self.clock.mono()
        }
        fn wall(&self) -> WallNs {
            self.read();
            self.clock.wall()
        }
    }

    proptest! {
        /// The wall clock steps, and steps back, between any two readings: the converted instant is never in
        /// the future.
        #[test]
        fn fault_50_no_step_between_two_readings_makes_an_instant_of_the_future(
            steps in prop::collection::vec((0_u32..24, prop_oneof![
                Just(3_600_000_000_000_i64), Just(-3_600_000_000_000_i64), Just(500_000_000), Just(-500_000_000),
            ]), 1..4),
        ) {
            let clock = ManualClock::new(START, AHEAD);
            let mut arrivals = Arrivals::new(&clock);
            clock.advance(100 * MS);
            let stepping = Stepping { clock: clock.clone(), readings: std::cell::Cell::new(0), steps };
            for _ in 0..3 {
                let before = stepping.mono();
                let (truth, stamp) = (clock.mono(), clock.wall());
                let wall = stepping.wall();
                arrivals.begin_batch(&stepping, before, wall);
                let instant = arrivals.instant(wall);
                prop_assert!(before <= instant + MS && instant <= clock.mono() + MS, "{before:?} {instant:?}");
                let until = instant.max(before);
                let arrival = arrivals.arrival(Some(stamp), until);
                prop_assert!(arrival.latest <= clock.mono() + MS, "{truth:?} {arrival:?}");
                let after = stepping.mono();
                arrivals.end_batch(&stepping, wall, after, true);
                clock.advance(10 * MS);
            }
        }
    }

    #[test]
    fn what_was_queued_between_the_empty_queue_and_the_step_is_of_the_old_age() {
        for step in [500_000_000, -500_000_000, 3_600_000_000_000, -3_600_000_000_000] {
            let clock = ManualClock::new(START, AHEAD);
            let mut arrivals = Arrivals::new(&clock);
            clock.advance(1000 * MS);
            let before = clock.mono();
            // The call finds nothing; then a datagram arrives, and the clock steps before the datagram is
            // read.
            clock.advance(1);
            let (truth, stamp) = (clock.mono(), clock.wall());
            clock.step_wall(step);
            let wall = clock.wall();
            arrivals.begin_batch(&clock, before, wall);
            arrivals.end_batch(&clock, wall, clock.mono(), true);
            clock.advance(MS);
            let found = batch(&mut arrivals, &clock, &[Some(stamp)], true);
            assert!(found[0].earliest <= truth && truth <= found[0].latest, "{step}: {found:?} {truth:?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Happening {
        Passes(u64),
        Sends,
        Steps(i64),
        Reads(usize),
    }

    fn happening() -> impl Strategy<Value = Happening> {
        let steps = prop_oneof![Just(86_400_000), Just(3_600_000), Just(60_000), 2i64..2_000];
        prop_oneof![
            3 => (0u64..300).prop_map(Happening::Passes),
            4 => Just(Happening::Sends),
            1 => (steps, any::<bool>()).prop_map(|(ms, is_back)| {
                Happening::Steps(ms * 1_000_000 * if is_back { -1 } else { 1 })
            }),
            3 => (1usize..6).prop_map(Happening::Reads),
        ]
    }

    proptest! {
        /// However the wall clock steps, the truth lies between earliest and latest.
        #[test]
        fn the_truth_is_always_among_what_is_possible(
            happenings in prop::collection::vec(happening(), 1..60)
        ) {
            let clock = ManualClock::new(START, AHEAD);
            let mut arrivals = Arrivals::new(&clock);
            let mut queue = std::collections::VecDeque::new();
            let (mut has_stepped, mut ages) = (false, 1);
            for happening in happenings {
                match happening {
                    Happening::Passes(ms) => clock.advance(ms * MS),
                    Happening::Sends => queue.push_back((clock.mono(), clock.wall())),
                    // The observer cannot notice a step that a second one undoes before the next reading, and
                    // does not remember three steps while the queue is never empty.
                    Happening::Steps(_) if has_stepped || ages > 2 => {}
                    Happening::Steps(ns) => {
                        clock.step_wall(ns);
                        has_stepped = true;
                        ages += 1;
                    }
                    Happening::Reads(room) => {
                        let is_settled = !std::mem::take(&mut has_stepped) && queue.len() < room;
                        ages = if is_settled { 1 } else { ages };
                        let read: Vec<_> = queue.drain(..room.min(queue.len())).collect();
                        let stamps: Vec<_> = read.iter().map(|(_, stamp)| Some(*stamp)).collect();
                        let found = batch(&mut arrivals, &clock, &stamps, read.len() < room);
                        for ((truth, _), arrival) in read.iter().zip(found) {
                            prop_assert!(
                                arrival.earliest <= *truth + MS && *truth <= arrival.latest + MS,
                                "{arrival:?} {truth:?}"
                            );
                            prop_assert!(arrival.latest <= clock.mono());
                        }
                    }
                }
            }
        }
    }
}
