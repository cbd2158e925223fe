//! A map of the fleet: all agents in a bounded number of cells.

use serde::Serialize;

use super::agents::{Row, View};
use super::sources::Sources;
use crate::api::AgentState;
use crate::config::classes::Classes;
use crate::time::MonoNs;

/// All agents in a bounded number of cells, to draw a map.
#[derive(Debug, Serialize)]
pub struct Cells {
    agents_per_cell: usize,
    cells: Vec<Cell>,
    as_of: Vec<u64>,
}

/// Agents of one shard with consecutive pids.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Cell {
    shard: u16,
    pid_from: u32,
    pid_to: u32,
    agents: usize,
    stalled: usize,
    waiting: usize,
    /// The longest silence in the cell, in thousandths of the agent's threshold.
    silent_permille: u64,
}

impl Cells {
    /// At most `max` cells, plus one per shard.
    pub fn of(view: &View, max: usize, sources: &Sources) -> Self {
        let mut rows: Vec<&Row> = view.rows().iter().collect();
        rows.sort_by_key(|row| (row.shard, row.hot.pid));
        let agents_per_cell = rows.len().div_ceil(max.max(1)).max(1);
        let shards = rows.chunk_by(|one, other| one.shard == other.shard);
        let now = sources.now();
        let cells = shards.flat_map(|shard| shard.chunks(agents_per_cell));
        let terms = sources.terms();
        let cells = cells.map(|rows| Cell::of(rows, &terms.classes, now)).collect();
        Self { agents_per_cell, cells, as_of: view.as_of() }
    }
}

impl Cell {
    fn of(rows: &[&Row], classes: &Classes, now: MonoNs) -> Self {
        let count = |state| rows.iter().filter(|row| row.state() == state).count();
        let permille = |row: &&Row| {
            let silent = u128::from(now.since(row.hot.last_arrival)) * 1000;
            u64::try_from(silent / u128::from(classes.threshold_ns(row.hot.class).max(1))).unwrap_or(u64::MAX)
        };
        Self {
            shard: rows[0].shard,
            pid_from: rows[0].hot.pid,
            pid_to: rows[rows.len() - 1].hot.pid,
            agents: rows.len(),
            stalled: count(AgentState::Stalled),
            waiting: count(AgentState::Waiting),
            silent_permille: rows.iter().map(permille).max().unwrap_or(0),
        }
    }
}
