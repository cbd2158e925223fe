//! The fleet over time, a value for each second. Time is an argument.

use std::collections::VecDeque;

use varta_fleet::api::{Fleet, Shard};

/// Seconds kept.
pub const KEPT: usize = 900;
/// A second without an answer is filled with the one before it if no more than this many are missing: queries come
/// a little less than once a second.
const FILLED: u64 = 2;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What is drawn over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Agents that beat.
    Up,
    /// Agents that are stalled.
    Stalled,
    /// Agents that died in that second.
    Died,
    /// Beats in that second.
    Beats,
}

impl Series {
    /// All of them, in the order in which they are drawn.
    pub const ALL: [Self; 4] = [Self::Up, Self::Stalled, Self::Died, Self::Beats];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Stalled => "stalled",
            Self::Died => "died/min",
            Self::Beats => "beats/s",
        }
    }

    /// Whether of several seconds the lowest matters; of the others it is the highest.
    const fn is_missed(self) -> bool {
        matches!(self, Self::Up | Self::Beats)
    }
}

/// One second: a value for each series, `None` where it is not known.
pub type Second = [Option<u64>; 4];

/// The last seconds of the fleet, the latest last.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    seconds: VecDeque<Second>,
    /// The second of the last one, of `CLOCK_MONOTONIC`.
    last: u64,
    before: Option<Counts>,
}

/// Counts of the last answer.
#[derive(Clone, Copy, Debug)]
struct Counts {
    pid: u32,
    mono_ns: u64,
    deaths: u64,
    beats: u64,
}

impl Curves {
    /// Adds an answer. Counts of another observer begin at 0, so its first answer has no rate.
    pub fn take(&mut self, fleet: &Fleet) {
        let sum = |of: fn(&Shard) -> u64| fleet.shards.iter().map(of).sum::<u64>();
        let now = Counts {
            pid: fleet.pid,
            mono_ns: fleet.mono_ns,
            deaths: sum(|shard| shard.deaths),
            beats: sum(|shard| shard.beats),
        };
        let before = self.before.replace(now);
        let before = before.filter(|before| before.pid == now.pid && before.mono_ns < now.mono_ns);
        let died = before.map(|before| now.deaths.saturating_sub(before.deaths));
        let beats = before
            .map(|before| per_second(now.beats.saturating_sub(before.beats), now.mono_ns - before.mono_ns));
        self.put(now.mono_ns / 1_000_000_000, [Some(fleet.up), Some(fleet.stalled), died, beats]);
    }

    /// Adds what the fleet remembers. What it does not know, as an observer that was started anew, stays as it was
    /// seen. `now`: the second in which it was asked, of `CLOCK_MONOTONIC`.
    pub fn remember(&mut self, seconds: &[Second], now: u64) {
        let known = |second: &Second| second.iter().any(Option::is_some);
        let Some(end) = seconds.iter().rposition(known).map(|last| last + 1) else { return };
        // The second that has not ended is not recorded yet.
        let last = now.saturating_sub((seconds.len() - end) as u64).max(self.last);
        let at = |seconds: &[Second], of_last: u64, second: u64| {
            let back = usize::try_from(of_last.checked_sub(second)?).ok()?;
            seconds.get(seconds.len().checked_sub(back + 1)?).copied()
        };
        let seen: Vec<Second> = self.seconds.iter().copied().collect();
        let either = |second: u64| {
            let told = at(seconds, now, second).unwrap_or_default();
            let seen = at(&seen, self.last, second).unwrap_or_default();
            std::array::from_fn(|series| told[series].or(seen[series]))
        };
        let merged: Vec<Second> = (last.saturating_sub(KEPT as u64 - 1)..=last).map(either).collect();
        let first = merged.iter().position(known).unwrap_or(0);
        self.seconds = merged[first..].iter().copied().collect();
        self.last = last;
    }

    fn put(&mut self, second: u64, mut values: Second) {
        let missing = second.saturating_sub(self.last + 1);
        match self.seconds.back().copied() {
            Some(same) if second <= self.last => {
                // Deaths of one second are added up, whatever the number of answers in it.
                let died = Series::Died as usize;
                values[died] = match (same[died], values[died]) {
                    (Some(one), Some(other)) => Some(one + other),
                    (one, other) => one.or(other),
                };
                self.seconds.pop_back();
            }
            Some(_) if missing < FILLED => {
                for _ in 0..missing {
                    let mut filled = values;
                    filled[Series::Died as usize] = values[Series::Died as usize].map(|_| 0);
                    self.seconds.push_back(filled);
                }
            }
            Some(_) => {
                let missing = usize::try_from(missing).unwrap_or(KEPT).min(KEPT);
                self.seconds.extend(std::iter::repeat_n([None; 4], missing));
            }
            None => {}
        }
        self.last = self.last.max(second);
        self.seconds.push_back(values);
        self.trim();
    }

    fn trim(&mut self) {
        let over = self.seconds.len().saturating_sub(KEPT);
        self.seconds.drain(..over);
    }

    /// How many seconds the curves go back.
    pub fn span(&self) -> usize {
        self.seconds.len()
    }

    /// The latest value that is known.
    pub fn latest(&self, series: Series) -> Option<u64> {
        self.seconds.iter().rev().find_map(|second| second[series as usize])
    }

    /// The curve in `width` characters. Each stands for the worst of its seconds; what is not known is a gap.
    pub fn drawn(&self, series: Series, width: usize) -> String {
        let values: Vec<Option<u64>> = self.seconds.iter().map(|second| second[series as usize]).collect();
        let columns = width.min(values.len());
        let worst = |column: usize| {
            let seconds = &values[column * values.len() / columns..(column + 1) * values.len() / columns];
            let known = seconds.iter().flatten().copied();
            if series.is_missed() { known.min() } else { known.max() }
        };
        let drawn: Vec<Option<u64>> = (0..columns).map(worst).collect();
        bars(&drawn, width)
    }
}

/// A curve whose highest value fills a character. Anything above 0 is higher than 0.
pub fn bars(values: &[Option<u64>], width: usize) -> String {
    let most = values.iter().flatten().copied().max().unwrap_or(0).max(1);
    let bar = |value: &Option<u64>| match value {
        None => ' ',
        Some(0) => BARS[0],
        Some(value) => {
            let step = u128::from(*value) * 7 / u128::from(most);
            BARS[usize::try_from(step).unwrap_or(7).clamp(1, 7)]
        }
    };
    let drawn: String = values.iter().map(bar).collect();
    format!("{drawn:>width$}")
}

/// A count over a time, as a rate.
pub fn per_second(count: u64, gap_ns: u64) -> u64 {
    let rate = u128::from(count) * 1_000_000_000 / u128::from(gap_ns.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(pid: u32, second: u64, up: u64, deaths: u64, beats: u64) -> Fleet {
        let shard = Shard { deaths, beats, ..Shard::default() };
        Fleet { pid, mono_ns: second * 1_000_000_000 + 7, up, shards: vec![shard], ..Fleet::default() }
    }

    #[test]
    fn each_second_has_a_value_and_what_nobody_saw_is_a_gap() {
        let mut curves = Curves::default();
        curves.take(&fleet(1, 100, 8, 0, 0));
        curves.take(&fleet(1, 101, 4, 4, 50));
        curves.take(&fleet(1, 103, 4, 4, 250));
        assert_eq!(curves.span(), 4, "one second that no query met");
        assert_eq!(curves.drawn(Series::Up, 4), "█▄▄▄");
        assert_eq!(curves.drawn(Series::Died, 6), "   █▁▁");
        assert_eq!(curves.latest(Series::Beats), Some(100));
        // It did not answer for ten seconds, and another observer does.
        curves.take(&fleet(2, 113, 8, 0, 3));
        assert_eq!(curves.drawn(Series::Up, 14), "█▄▄▄         █");
        assert_eq!(curves.latest(Series::Died), Some(0), "what another observer counted is no death");
        assert_eq!(curves.drawn(Series::Up, 2), "▄█", "the worst of its seconds");
    }

    #[test]
    fn two_answers_in_a_second_are_one_value() {
        let mut curves = Curves::default();
        for (second, deaths) in [(9, 0), (10, 0), (10, 2), (10, 5)] {
            let mut fleet = fleet(1, second, 1, deaths, 0);
            fleet.mono_ns += deaths;
            curves.take(&fleet);
        }
        assert_eq!((curves.span(), curves.latest(Series::Died)), (2, Some(5)));
    }

    #[test]
    fn what_the_fleet_remembers_comes_before_what_was_seen() {
        let mut curves = Curves::default();
        curves.take(&fleet(1, 5000, 7, 0, 0));
        let second = |up| [Some(up), Some(0), Some(0), Some(9)];
        let unknown = [None; 4];
        curves.remember(&[unknown; 900], 5000);
        assert_eq!(curves.span(), 1, "it remembers nothing");
        let seconds = [unknown, unknown, second(2), second(4), unknown, second(8), unknown];
        curves.remember(&seconds, 5000);
        assert_eq!((curves.span(), curves.drawn(Series::Up, 6)), (5, " ▂▄ █▇".to_owned()));
        curves.take(&fleet(1, 5001, 8, 3, 10));
        assert_eq!(curves.drawn(Series::Up, 6), "▂▄ █▇█");
        assert_eq!(curves.latest(Series::Died), Some(3));
        // Another observer remembers nothing of the time before it was started.
        curves.take(&fleet(2, 5004, 4, 0, 10));
        curves.remember(&[unknown, second(4), second(4)], 5005);
        assert_eq!(curves.drawn(Series::Up, 10), "▂▄ █▇█  ▄▄");
        curves.remember(&[second(1); 2000], 9000);
        assert_eq!((curves.span(), curves.latest(Series::Up)), (KEPT, Some(1)));
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept() {
        let mut curves = Curves::default();
        for second in 0..2000 {
            curves.take(&fleet(1, second + 1, second, 0, 0));
        }
        assert_eq!((curves.span(), curves.latest(Series::Up)), (KEPT, Some(1999)));
        curves.take(&fleet(1, u64::MAX / 1_000_000_000 - 1, 7, 0, 0));
        assert_eq!((curves.span(), curves.latest(Series::Up)), (KEPT, Some(7)));
        for width in [0, 1, 7, 900, 1000] {
            assert_eq!(curves.drawn(Series::Stalled, width).chars().count(), width);
        }
    }
}
