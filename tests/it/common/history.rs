//! The history of a fleet as `/api/v1/history` shows it.

use std::path::Path;

use serde_json::Value;
use varta_fleet::api;
use varta_fleet::time::WallNs;

use super::Event;
use super::http::Connection;

/// Series by second of the wall clock.
pub struct History(api::History);

impl History {
    /// The last 15 minutes, of the fleet in this directory.
    pub fn of(dir: &Path) -> Self {
        let answer = Connection::control(dir).get("/api/v1/history", &["Connection: close"]);
        assert_eq!(answer.code, 200, "{}", answer.text());
        Self(serde_json::from_slice(&answer.body).expect("a history"))
    }

    fn second_of(&self, at: WallNs) -> usize {
        let second = (at.0 / 1_000_000).checked_sub(self.0.from_unix_ms).expect("it is recent") / 1000;
        usize::try_from(second).expect("it is recent")
    }

    /// How many died, in all.
    pub fn died(&self) -> u64 {
        self.sum(|series| &series.died)
    }

    /// The sum of a series.
    pub fn sum(&self, of: fn(&api::Series) -> &Vec<Option<u64>>) -> u64 {
        of(&self.0.series).iter().flatten().sum()
    }

    /// The seconds with a sample.
    pub fn seconds(&self) -> usize {
        self.0.series.up.iter().flatten().count()
    }

    /// The last second has so many agents that beat and are stalled.
    pub fn ends_with(&self, up: u64, stalled: u64) -> bool {
        let last = |series: &[Option<u64>]| series.iter().rev().find_map(|value| *value);
        (last(&self.0.series.up), last(&self.0.series.stalled)) == (Some(up), Some(stalled))
    }

    /// The seconds without one between some that have one.
    pub fn missing(&self) -> usize {
        let up = &self.0.series.up;
        let (first, last) = (up.iter().position(Option::is_some), up.iter().rposition(Option::is_some));
        let (Some(first), Some(last)) = (first, last) else { return 0 };
        up[first..last].iter().filter(|value| value.is_none()).count()
    }

    /// The first second in which this holds is that of the event: the same, one beside it if it was at the very edge,
    /// or the next with a sample.
    pub fn shows(&self, event: &Event, what: &str, is: impl Fn(&api::Series, usize) -> bool) {
        let at: WallNs = serde_json::from_value(Value::from(event.str("ts"))).expect("a time");
        let (expected, series) = (self.second_of(at), &self.0.series);
        let found = (0..series.up.len()).find(|second| series.up[*second].is_some() && is(series, *second));
        let found = found.unwrap_or_else(|| panic!("no second with {what}, for {event}"));
        let is_held_up = || series.up[expected..found].iter().all(Option::is_none);
        assert!(
            found.abs_diff(expected) <= 1 || found > expected && is_held_up(),
            "{what} is shown in second {found}, and was in {expected}: {event}"
        );
    }
}
