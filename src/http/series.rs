//! A limited number of agents as metrics, one series each, written in pieces.

use super::agents::{Row, View};
use super::budget::{BYTES_MAX, Charge};
use crate::api::AgentState;
use crate::config::plan::METRICS_AGENTS_MAX;
use crate::wire::Status;

/// Names of the series of single agents: beats, stalls, status.
pub type SeriesNames = [&'static str; 3];

/// Our names. They differ from those of a shard, so that a sum over both counts nothing twice.
pub const NAMES: SeriesNames = ["varta_agent_beats_total", "varta_agent_stalls_total", "varta_agent_status"];
/// The names of varta-watch, for its dashboards.
pub const NAMES_OF_WATCH: SeriesNames = ["varta_beats_total", "varta_stalls_total", "varta_status"];

/// The values of one agent: its pid, and one value per family.
type Sample = (u32, [u64; 3]);

/// The configured maximum fits into the budget, for two clients at once.
const _: () = assert!(METRICS_AGENTS_MAX as usize * size_of::<Sample>() <= BYTES_MAX / 2);

const FAMILIES: [(&str, &str); 3] = [
    ("counter", "Accepted frames of this process"),
    ("counter", "Stalls judged of this process"),
    ("gauge", "Status: 0 ok, 1 degraded, 2 critical, 3 stalled"),
];
/// Agents per piece of the text.
const PIECE: usize = 500;

/// The first agents of a scan. A copy, so that a slow client does not keep the scan, which may be large.
#[derive(Debug)]
pub struct Series {
    samples: Vec<Sample>,
    all: usize,
}

impl Series {
    /// At most `max` of the agents.
    pub fn of(view: &View, max: usize) -> Self {
        let rows = view.rows();
        Self { samples: rows.iter().take(max).map(sample).collect(), all: rows.len() }
    }

    /// The memory it takes.
    pub const fn bytes(&self) -> usize {
        self.samples.len() * size_of::<Sample>()
    }

    /// The text, piece by piece. `charge` is held until the last piece.
    pub fn pieces(self, names: &'static SeriesNames, charge: Charge) -> impl Iterator<Item = String> {
        let Self { samples, all } = self;
        let shown = samples.len();
        let about = (shown < all).then(|| format!("# {shown} of {all} agents, as metrics-agents-max says\n"));
        let chunks = shown.div_ceil(PIECE);
        let texts = (0..names.len() * (1 + chunks)).map(move |number| {
            let (family, piece) = (number / (1 + chunks), number % (1 + chunks));
            let (name, (kind, help)) = (names[family], FAMILIES[family]);
            // Moves `charge` into the closure that makes the text.
            let _ = &charge;
            let Some(chunk) = piece.checked_sub(1).and_then(|piece| samples.chunks(PIECE).nth(piece)) else {
                return format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
            };
            chunk
                .iter()
                .map(|(pid, values)| format!("{name}{{pid=\"{pid}\"}} {}\n", values[family]))
                .collect()
        });
        about.into_iter().chain(texts)
    }
}

fn sample(row: &Row) -> Sample {
    let hot = &row.hot;
    let status = if row.state() == AgentState::Stalled { Status::Stall } else { hot.status };
    (hot.pid, [row.beats, row.stalls.into(), status as u64])
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    #[test]
    fn every_agent_has_its_series_and_what_is_copied_of_them_is_counted_until_the_end() {
        let samples: Vec<Sample> = (1..=1200).map(|pid| (pid, [u64::from(pid), 0, 3])).collect();
        let series = Series { samples, all: 2000 };
        let budget = Budget::default();
        let charge = budget.charge(series.bytes()).unwrap();
        let mut pieces = series.pieces(&NAMES, charge);
        assert_eq!(pieces.next().as_deref(), Some("# 1200 of 2000 agents, as metrics-agents-max says\n"));
        assert!(budget.charge(BYTES_MAX).is_none(), "it is held");
        let text: String = pieces.by_ref().collect();
        assert_eq!(text.lines().count(), 3 * (2 + 1200));
        assert!(text.contains("varta_agent_status{pid=\"1200\"} 3\n"));
        drop(pieces);
        assert!(budget.charge(BYTES_MAX).is_some());
    }
}
