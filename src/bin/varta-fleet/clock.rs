//! Times as people write and read them: local, unless `--utc` is given.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use varta_fleet::config::read_duration;
use varta_fleet::time::{WallNs, duration_ns};

/// Whether times are shown and read in UTC. Tests do not depend on where they run.
static IS_UTC: AtomicBool = AtomicBool::new(cfg!(test));

/// In which zone times are shown and read.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct ZoneArgs {
    /// Show and read times in UTC, not in local time
    #[arg(long)]
    utc: bool,
}

impl ZoneArgs {
    /// From now on.
    pub fn apply(self) {
        IS_UTC.fetch_or(self.utc, Ordering::Relaxed);
    }
}

/// The local zone follows the environment variable TZ, else /etc/localtime; `None` for UTC, also where neither names a
/// zone that this host knows.
fn local_zone() -> Option<TimeZone> {
    if IS_UTC.load(Ordering::Relaxed) { None } else { TimeZone::try_system().ok() }
}

fn zone() -> TimeZone {
    local_zone().unwrap_or(TimeZone::UTC)
}

fn at(wall: WallNs) -> DateTime {
    zone().to_datetime(Timestamp::from_nanosecond(wall.0.into()).unwrap_or(Timestamp::MAX))
}

/// `2026-11-30 14:05:06.123`, with a `Z` in UTC.
pub fn date_time(wall: WallNs) -> String {
    let z = if local_zone().is_none() { "Z" } else { "" };
    format!("{}{z}", at(wall).strftime("%Y-%m-%d %H:%M:%S.%3f"))
}

/// `14:05:06.123`.
pub fn time_of_day(wall: WallNs) -> String {
    at(wall).strftime("%H:%M:%S.%3f").to_string()
}

/// Now.
pub fn now() -> WallNs {
    WallNs(duration_ns(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// A time in the forms that the help of `events` names. A time of day is the last one: `23:50` is yesterday's just
/// after midnight.
///
/// # Errors
/// What it is not, and what to write.
pub fn parse(text: &str, now: WallNs) -> Result<WallNs, String> {
    let bare = text.trim();
    if let Ok(ago) = read_duration(bare) {
        return Ok(WallNs(now.0.saturating_sub(duration_ns(ago))));
    }
    let found = bare.parse::<Timestamp>().ok().or_else(|| local(bare, now));
    // Beyond what an event can have is the future all the same.
    let ns = |at: Timestamp| u128::try_from(at.as_nanosecond()).ok();
    found.and_then(ns).map(|ns| u64::try_from(ns).unwrap_or(u64::MAX)).map(WallNs).ok_or_else(|| {
        "it is no time; write 10m for ten minutes ago, a time of day like 14:05, a date like 2026-11-30 or \
         \"2026-11-30 14:05\", or 2026-11-30T14:05:06Z"
            .to_owned()
    })
}

fn local(text: &str, now: WallNs) -> Option<Timestamp> {
    let is_date = text.len() >= 10 && text.as_bytes()[4] == b'-';
    if is_date {
        let at = text.parse::<DateTime>().ok()?;
        return zone().to_timestamp(at).ok();
    }
    let of_day = text.contains(':').then(|| text.parse::<Time>().ok()).flatten()?;
    let today = at(now).date();
    [today, today.checked_sub(1.day()).ok()?]
        .into_iter()
        .filter_map(|date| zone().to_timestamp(date.to_datetime(of_day)).ok())
        .find(|at| at.as_nanosecond() <= now.0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30T14:05:06.25Z
    const NOW: WallNs = WallNs(1_796_047_506_250_000_000);

    #[test]
    fn times_are_shown_with_their_date() {
        assert_eq!(date_time(NOW), "2026-11-30 14:05:06.250Z");
        assert_eq!(time_of_day(NOW), "14:05:06.250");
        assert_eq!(date_time(WallNs(u64::MAX)), "2554-07-21 23:34:33.709Z");
    }

    #[test]
    fn times_are_read_in_each_form() {
        for (text, read) in [
            ("10m", "2026-11-30 13:55:06.250Z"),
            (" 1h 30s ", "2026-11-30 13:04:36.250Z"),
            ("0", "2026-11-30 14:05:06.250Z"),
            ("14:05", "2026-11-30 14:05:00.000Z"),
            ("14:05:06.2", "2026-11-30 14:05:06.200Z"),
            ("14:06", "2026-11-29 14:06:00.000Z"),
            ("2026-11-29", "2026-11-29 00:00:00.000Z"),
            ("2026-11-29 23:59", "2026-11-29 23:59:00.000Z"),
            ("2026-11-29T23:59:01", "2026-11-29 23:59:01.000Z"),
            ("2026-11-29T23:59:01.5Z", "2026-11-29 23:59:01.500Z"),
            ("2026-11-29T23:59:01+02:00", "2026-11-29 21:59:01.000Z"),
            ("2027-01-01", "2027-01-01 00:00:00.000Z"),
            ("9999-12-01", "2554-07-21 23:34:33.709Z"),
        ] {
            assert_eq!(parse(text, NOW).map(date_time), Ok(read.to_owned()), "{text}");
        }
        for text in [
            "",
            "10",
            "1405",
            "yesterday",
            "25:00",
            "14:60",
            "2026-13-01",
            "2026-11-31",
            "1969-12-31",
            "14:05pm",
            "äöüäöü",
        ] {
            assert!(parse(text, NOW).is_err_and(|why| why.starts_with("it is no time; write 10m")), "{text}");
        }
    }
}
