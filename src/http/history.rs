//! What the fleet was like, for plots.

use super::query::{BadQuery, Query};
use crate::api;
use crate::history::rings::{Ring, SECOND_NS, Sample};
use crate::history::{Busy, History};
use crate::time::WallNs;

const MS_NS: u64 = 1_000_000;

/// The part of the history that a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    ring: Ring,
    /// Seconds since 1970.
    from: Option<u64>,
    to: Option<u64>,
}

impl Part {
    /// What the query asks for at this time of the wall clock.
    ///
    /// # Errors
    /// A parameter is invalid.
    pub fn parse(query: &Query, wall: WallNs) -> Result<Self, BadQuery> {
        query.allows(&["step", "from", "to"])?;
        let [seconds, tens, minutes] = Ring::ALL;
        let ring = query.one_of("step", &[("1s", seconds), ("10s", tens), ("1m", minutes)])?;
        let [from, to] = [query.number("from", 0, u64::MAX)?, query.number("to", 0, u64::MAX)?];
        let now = wall.0 / SECOND_NS;
        if let Some(from) = from.filter(|from| *from > now) {
            let fix = format!("write a time up to now, which is {now}");
            return Err(BadQuery::new("from", format!("{from} is in the future"), fix));
        }
        if let (Some(from), Some(to)) = (from, to)
            && to < from
        {
            return Err(BadQuery::new("to", format!("{to} is before from={from}"), "swap the two"));
        }
        Ok(Self { ring: ring.unwrap_or(seconds), from, to })
    }

    /// It, at a time at which the clocks show this. An error if the history cannot be read.
    pub fn of(&self, history: &History, boot_ns: u64, wall: WallNs) -> Result<api::History, Busy> {
        let now = history.axis().at(boot_ns);
        // The axis goes on evenly, so it is as far from the wall clock at any time as it is now.
        let on_axis = |seconds: u64| {
            let at = i128::from(seconds) * i128::from(SECOND_NS) + i128::from(now) - i128::from(wall.0);
            u64::try_from(at.max(0)).unwrap_or(u64::MAX)
        };
        let shown = history.read(&self.ring, now, self.from.map(on_axis), self.to.map(on_axis))?;
        let (step, samples) = shown.map_or_else(
            || (self.from.map_or(now, on_axis) / self.ring.step_ns(), Vec::new()),
            |shown| (*shown.steps.start(), shown.samples),
        );
        let from = i128::from(wall.0) + i128::from(step * self.ring.step_ns()) - i128::from(now);
        // The clocks were not read at once.
        let from_unix_ms = u64::try_from((from + i128::from(MS_NS / 2)) / i128::from(MS_NS)).unwrap_or(0);
        let series = |of: fn(&Sample) -> u64| samples.iter().map(|sample| sample.as_ref().map(of)).collect();
        Ok(api::History {
            step_ns: self.ring.step_ns(),
            from: WallNs(from_unix_ms.saturating_mul(MS_NS)),
            from_unix_ms,
            now: wall,
            series: api::Series {
                up: series(|sample| sample.up),
                stalled: series(|sample| sample.stalled),
                died: series(|sample| sample.died),
                resumed: series(|sample| sample.resumed),
                beats: series(Sample::beats_per_second),
                lost: series(|sample| sample.lost),
                refused: series(|sample| sample.refused),
                queue_p99_ns: series(|sample| sample.queue_p99_ns),
                blind_ns: series(|sample| sample.blind_ns),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;

    const WALL: WallNs = WallNs(1_772_366_407_250_000_000);
    const BOOT: u64 = 12_345_678_000_000_000;

    fn history() -> History {
        let history = History::create(1, BOOT, WALL.0).unwrap();
        let now = history.axis().at(BOOT) / SECOND_NS;
        for age in 1..=10 {
            history.record(now - age, &Sample { up: age, died: 1, ..Sample::default() });
        }
        history
    }

    fn ask(history: &History, query: &str, wall: WallNs) -> api::History {
        Part::parse(&Query::parse(query), wall).unwrap().of(history, BOOT, wall).unwrap()
    }

    #[test]
    fn steps_are_at_their_time_and_what_is_missing_is_null() {
        let history = history();
        let seconds = ask(&history, "", WALL);
        assert_eq!((seconds.step_ns, seconds.series.up.len()), (SECOND_NS, 900));
        assert_eq!(seconds.from_unix_ms, (WALL.0 / SECOND_NS - 900) * 1000);
        assert_eq!(seconds.from.0, seconds.from_unix_ms * MS_NS);
        assert_eq!(
            seconds.series.up[888..],
            [
                None,
                None,
                Some(10),
                Some(9),
                Some(8),
                Some(7),
                Some(6),
                Some(5),
                Some(4),
                Some(3),
                Some(2),
                Some(1)
            ]
        );
        let minutes = ask(&history, "step=1m", WALL);
        assert_eq!((minutes.step_ns, minutes.series.died.len()), (60 * SECOND_NS, 1440));
        assert_eq!(minutes.series.died[1437..], [None, Some(3), Some(7)], "the minute is seven seconds old");
        assert_eq!(minutes.from_unix_ms % 60_000, 0);
        let now = WALL.0 / SECOND_NS;
        let few = ask(&history, &format!("from={}&to={}", now - 3, now - 2), WALL);
        assert_eq!((few.from_unix_ms, &few.series.up[..]), ((now - 3) * 1000, &[Some(3), Some(2)][..]));
        let none = ask(&history, &format!("from={now}"), WALL);
        assert_eq!((none.from_unix_ms, none.series.up.len()), (now * 1000, 0), "it is not over");
        let old = ask(&history, "step=1m&from=1000&to=2000", WALL);
        assert_eq!(old.series.up.len(), 0);
    }

    /// What was ten seconds ago stays ten seconds ago.
    #[test]
    fn a_step_of_the_wall_clock_moves_all_steps() {
        let history = history();
        for wall in [WallNs(WALL.0 + 3_600_500_000_000), WallNs(WALL.0 - 86_400_000_000_000), WallNs(5)] {
            let shown = ask(&history, "", wall);
            assert_eq!(shown.series.up.last(), Some(&Some(1)));
            let end = i128::from(shown.from_unix_ms) + 900_000;
            let expected = i128::from(wall.0 / MS_NS) - 250;
            assert!(shown.from_unix_ms == 0 || (end - expected).abs() <= 1, "{end} {expected}");
        }
    }

    #[test]
    fn what_is_answered_is_read_back_as_it_was() {
        let written = ask(&history(), "step=10s", WALL);
        let read: api::History = serde_json::from_slice(&Json(&written).to_bytes().unwrap()).unwrap();
        assert_eq!(read, written);
    }

    #[test]
    fn what_cannot_be_shown_is_refused_and_the_reason_given() {
        let now = WALL.0 / SECOND_NS;
        for (query, told) in [
            ("step=5s".to_owned(), "write 1s, 10s, 1m"),
            ("from=yesterday".to_owned(), "no number in range"),
            ("from=-1".to_owned(), "no number in range"),
            (format!("from={}", now + 1), "is in the future; write a time up to now"),
            ("from=10&to=9".to_owned(), "9 is before from=10"),
            ("since=1".to_owned(), "use step, from, to"),
            ("to=1&to=2".to_owned(), "given twice"),
        ] {
            let refused = Part::parse(&Query::parse(&query), WALL).unwrap_err().to_string();
            assert!(refused.contains(told), "{query}: {refused}");
        }
    }
}
