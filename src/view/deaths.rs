//! The deaths of the last minute, by cause, in fixed memory. Time is an argument.

use std::collections::VecDeque;

use crate::rules::Death;
use crate::time::MonoNs;

/// How far back they are counted, ns.
pub const RECENT_NS: u64 = 60 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;
/// Causes told apart within a second; further deaths of that second count as [`Death::Unknown`].
const CAUSES_MAX: usize = 16;

/// Deaths by second and cause. At most a kibibyte for each second.
#[derive(Clone, Debug, Default)]
pub struct RecentDeaths {
    seconds: VecDeque<(u64, Vec<(Death, u64)>)>,
}

impl RecentDeaths {
    /// Counts one.
    pub fn add(&mut self, death: Death, now: MonoNs) {
        let second = now.0 / SECOND_NS;
        self.forget_before(now);
        if self.seconds.back().is_none_or(|(last, _)| *last < second) {
            self.seconds.push_back((second, Vec::new()));
        }
        let Some((_, causes)) = self.seconds.back_mut() else { return };
        let is_room = causes.len() < CAUSES_MAX;
        match causes.iter_mut().find(|(known, _)| *known == death || !is_room && *known == Death::Unknown) {
            Some((_, count)) => *count += 1,
            None if is_room => causes.push((death, 1)),
            // The last place is for the rest.
            None => {
                if let Some((cause, count)) = causes.last_mut() {
                    (*cause, *count) = (Death::Unknown, *count + 1);
                }
            }
        }
    }

    fn forget_before(&mut self, now: MonoNs) {
        let oldest = now.0.saturating_sub(RECENT_NS) / SECOND_NS;
        while self.seconds.front().is_some_and(|(second, _)| *second < oldest) {
            self.seconds.pop_front();
        }
    }

    /// Those of the last minute, the most frequent cause first.
    #[cfg(any(test, feature = "http"))]
    #[must_use]
    pub fn within(&self, now: MonoNs) -> Vec<(Death, u64)> {
        let oldest = now.0.saturating_sub(RECENT_NS) / SECOND_NS;
        let mut sum: Vec<(Death, u64)> = Vec::new();
        let recent = self.seconds.iter().filter(|(second, _)| *second >= oldest);
        for (cause, count) in recent.flat_map(|(_, causes)| causes) {
            match sum.iter_mut().find(|(known, _)| known == cause) {
                Some((_, so_far)) => *so_far += count,
                None => sum.push((*cause, *count)),
            }
        }
        sum.sort_by_key(|(cause, count)| (std::cmp::Reverse(*count), *cause));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_of_the_last_minute_are_told_by_cause() {
        let mut deaths = RecentDeaths::default();
        let at = |seconds: u64| MonoNs(1000 * SECOND_NS + seconds * SECOND_NS);
        deaths.add(Death::Code(1), at(0));
        for _ in 0..3 {
            deaths.add(Death::Signal(9), at(30));
        }
        deaths.add(Death::Code(1), at(30));
        assert_eq!(deaths.within(at(30)), [(Death::Signal(9), 3), (Death::Code(1), 2)]);
        assert_eq!(deaths.within(at(61)), [(Death::Signal(9), 3), (Death::Code(1), 1)]);
        assert_eq!(deaths.within(at(91)), []);
    }

    #[test]
    fn memory_is_bounded_and_no_death_is_lost() {
        let mut deaths = RecentDeaths::default();
        for second in 0..1000 {
            for code in 1..=200 {
                deaths.add(Death::Code(code), MonoNs(second * SECOND_NS));
            }
        }
        let total: u64 = deaths.within(MonoNs(999 * SECOND_NS)).iter().map(|(_, count)| count).sum();
        assert_eq!(total, 61 * 200);
        assert!(deaths.seconds.len() <= 61 && deaths.seconds.iter().all(|(_, of)| of.len() <= CAUSES_MAX));
    }
}
