//! A map of the fleet: all agents in a bounded number of cells, grouped by what they share.

use std::cmp::Reverse;

use serde::Serialize;

use super::agents::{Row, View};
use super::groups::{Key, Places, key, natural};
use super::sources::Sources;
use crate::api::{AgentState, GroupBy};
use crate::config::classes::Classes;

/// Most groups that are shown by themselves; the agents of all others are one group.
const GROUPS_MAX: usize = 100;
/// Agents looked at before other tasks of this thread run.
const CHUNK: usize = 1024;

/// All agents in a bounded number of cells, to draw a map.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Cells {
    by: GroupBy,
    agents_per_cell: usize,
    groups: Vec<Group>,
    cells: Vec<Cell>,
    as_of: Vec<u64>,
}

/// Agents that share a unit, a name, a user or a shard.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Group {
    /// What they share, a pattern if their names differ in numbers, empty if it is not known; `None`: agents of all
    /// groups that are not shown by themselves.
    name: Option<String>,
    agents: usize,
    stalled: usize,
    /// How many of the cells are its.
    cells: usize,
}

/// Agents of one group with consecutive pids.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Cell {
    /// Their shard, unless they are on several.
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
    pid_from: u32,
    pid_to: u32,
    agents: usize,
    stalled: usize,
    frozen: usize,
    standstill: usize,
    waiting: usize,
    /// The longest silence in the cell, in thousandths of the agent's threshold.
    silent_permille: u64,
}

impl Cells {
    /// At most `max` cells, plus one per group.
    pub async fn of(view: &View, max: usize, by: GroupBy, sources: &Sources) -> Self {
        let groups_by_name = grouped(view.rows(), |row| key(by, row, sources)).await;
        let agents_per_cell = view.rows().len().div_ceil(max.max(1)).max(1);
        let terms = sources.terms();
        let (mut groups, mut cells) = (Vec::new(), Vec::new());
        for (name, rows) in groups_by_name {
            tokio::task::yield_now().await;
            let of_group = rows.chunks(agents_per_cell).map(|rows| Cell::of(rows, &terms.classes, view));
            let from = cells.len();
            cells.extend(of_group);
            let stalled = cells[from..].iter().map(|cell: &Cell| cell.stalled).sum();
            groups.push(Group { name, agents: rows.len(), stalled, cells: cells.len() - from });
        }
        Self { by, agents_per_cell, groups, cells, as_of: view.as_of() }
    }
}

/// A group while it is collected.
#[derive(Default)]
struct Gathering<'a> {
    stalled: usize,
    rows: Vec<&'a Row>,
    name: Option<String>,
}

/// Groups by name, the one with the most stalled agents first, then the largest; the rest of them last, without a name.
/// The agents of each are in the order of the pids.
async fn grouped(rows: &[Row], key: impl Fn(&Row) -> Key) -> Vec<(Option<String>, Vec<&Row>)> {
    let (mut places, mut groups) = (Places::default(), Vec::<Gathering>::new());
    for chunk in rows.chunks(CHUNK) {
        for row in chunk {
            let group = places.of(key(row), &mut groups);
            group.stalled += usize::from(row.state() == AgentState::Stalled);
            group.rows.push(row);
        }
        tokio::task::yield_now().await;
    }
    for (group, name) in groups.iter_mut().zip(places.into_names()) {
        group.name = name;
    }
    groups.sort_unstable_by(|one, other| {
        let size = |group: &Gathering| Reverse((group.stalled, group.rows.len()));
        size(one).cmp(&size(other)).then_with(|| natural(&one.name, &other.name))
    });
    let rest = groups.drain(GROUPS_MAX.min(groups.len())..);
    let mut rest: Vec<&Row> = rest.flat_map(|group| group.rows).collect();
    rest.sort_unstable_by_key(|row| row.hot.pid);
    let named = groups.into_iter().map(|group| (Some(group.name.unwrap_or_default()), group.rows));
    let mut all: Vec<_> = named.collect();
    if !rest.is_empty() {
        all.push((None, rest));
    }
    all
}

impl Cell {
    fn of(rows: &[&Row], classes: &Classes, view: &View) -> Self {
        let count = |state| rows.iter().filter(|row| row.state() == state).count();
        let permille = |row: &&Row| {
            let silent = u128::from(view.read_at(row).since(row.hot.last_arrival)) * 1000;
            u64::try_from(silent / u128::from(row.allowed(classes).ns.max(1))).unwrap_or(u64::MAX)
        };
        let shard = rows[0].shard;
        Self {
            shard: rows.iter().all(|row| row.shard == shard).then_some(shard),
            pid_from: rows[0].hot.pid,
            pid_to: rows[rows.len() - 1].hot.pid,
            agents: rows.len(),
            stalled: count(AgentState::Stalled),
            frozen: count(AgentState::Frozen),
            standstill: count(AgentState::Standstill),
            waiting: count(AgentState::Waiting),
            silent_permille: rows.iter().map(permille).max().unwrap_or(0),
        }
    }
}

/// A fleet to draw maps of.
#[cfg(feature = "bench")]
#[derive(Debug)]
pub struct Drawn {
    sources: Sources,
    runtime: tokio::runtime::Runtime,
}

#[cfg(feature = "bench")]
impl Drawn {
    /// Agents that beat, with twenty names.
    ///
    /// # Panics
    /// Without memory.
    #[expect(clippy::unwrap_used, reason = "for benches")]
    pub fn of(sources: Sources, agents: u32) -> Self {
        use crate::table::slot::{Cold, Hot, State};
        let shards = u16::try_from(sources.ports.len()).unwrap();
        let of_each = agents / u32::from(shards);
        let port = |shard| {
            let header = crate::table::Header { boot_id: 0, pid_namespace: 0, shard, shards };
            let (mut writer, table) = crate::table::create(of_each, header).unwrap();
            let port =
                crate::lane::Port::new(table, crate::lane::kick::Kick::new().unwrap().into(), false).unwrap();
            for slot in 0..of_each {
                let pid = slot * u32::from(shards) + u32::from(shard) + 1;
                let hot = Hot { pid, state: State::Up, last_arrival: sources.now(), ..Hot::default() };
                let cold = Cold { generation: pid, ..Cold::default() };
                writer.write(slot, &hot, &cold);
                let comm =
                    Some(format!("{}-{}", ["web", "worker", "encoder", "mailer"][pid as usize % 4], pid % 5));
                let program = crate::process::procfs::Program { comm, ..Default::default() };
                sources.names.put(
                    Row::new(&port, shard, slot, hot, &cold).unwrap().holder(),
                    &program,
                    None,
                    0,
                );
            }
            port.counters.slots_used.set(of_each.into());
            std::sync::Arc::new(port)
        };
        let ports = (0..shards).map(port).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { sources: Sources { ports, ..sources }, runtime }
    }

    /// The answer that the page asks for, from a scan of its own.
    pub fn answer(&self, max: usize, by: GroupBy) -> Vec<u8> {
        self.runtime.block_on(async {
            let view = super::agents::Views::default().fresh(&self.sources, |_| {}).await;
            let cells = Cells::of(&view, max, by, &self.sources).await;
            crate::json::Json(&cells).to_bytes().unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::standin::sources;
    use crate::process::procfs::Program;
    use crate::table::slot::{Account, Hot, State};

    fn cells(rows: impl IntoIterator<Item = (u32, u16, State)>, max: usize, by: GroupBy) -> Cells {
        let rows = rows.into_iter().map(|(pid, shard, state)| Row::sample(shard, pid, state)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Cells::of(&View::sample(rows), max, by, &sources(4)))
    }

    fn groups(cells: &Cells) -> Vec<(Option<&str>, usize, usize, usize)> {
        let groups = cells.groups.iter();
        groups.map(|group| (group.name.as_deref(), group.agents, group.stalled, group.cells)).collect()
    }

    #[test]
    fn groups_with_stalled_agents_come_first_then_large_ones() {
        let up = State::Up;
        let rows = [(1, 0, up), (2, 1, up), (3, 1, up), (4, 2, State::Stalled), (5, 3, up)];
        let by_shard = cells(rows, 100, GroupBy::Shard);
        let expected = [("2", 1, 1), ("1", 2, 0), ("0", 1, 0), ("3", 1, 0)];
        assert_eq!(
            groups(&by_shard),
            expected.map(|(name, agents, stalled)| (Some(name), agents, stalled, agents))
        );
        let pids: Vec<_> = by_shard.cells.iter().map(|cell| (cell.pid_from, cell.shard)).collect();
        assert_eq!(pids, [(4, Some(2)), (2, Some(1)), (3, Some(1)), (1, Some(0)), (5, Some(3))]);
        assert_eq!(groups(&cells(rows, 100, GroupBy::Comm)), [(Some(""), 5, 1, 5)], "nobody was looked up");
        assert_eq!(groups(&cells([], 100, GroupBy::Uid)), []);
    }

    #[test]
    fn agents_that_differ_in_a_number_are_one_group_and_an_agent_alone_has_its_name() {
        let sources = sources(1);
        let mut rows = Vec::new();
        for (pid, comm) in [(1, "load-001"), (2, "load-002"), (3, "python3")] {
            let row = Row { generation: pid, slot: pid, ..Row::sample(0, pid, State::Up) };
            let program = Program { comm: Some(comm.to_owned()), ..Program::default() };
            sources.names.put(row.holder(), &program, None, 0);
            rows.push(row);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cells = runtime.block_on(Cells::of(&View::sample(rows), 100, GroupBy::Comm, &sources));
        assert_eq!(groups(&cells), [(Some("load-*"), 2, 0, 2), (Some("python3"), 1, 0, 1)]);
    }

    #[test]
    fn ten_thousand_groups_are_a_hundred_and_the_rest() {
        let of_user = |uid| {
            let row = Row::sample(0, uid + 1, State::Up);
            Row { hot: Hot { account: Account::new(uid, 1), ..row.hot }, ..row }
        };
        let rows = (0..10_000).map(of_user).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cells = runtime.block_on(Cells::of(&View::sample(rows), 500, GroupBy::Uid, &sources(1)));
        let groups = groups(&cells);
        assert_eq!((groups.len(), groups[0], groups[100]), (101, (Some("0"), 1, 0, 1), (None, 9900, 0, 495)));
        assert_eq!((cells.agents_per_cell, cells.cells.len()), (20, 595));
        assert_eq!(cells.cells.iter().map(|cell| cell.agents).sum::<usize>(), 10_000);
    }

    #[test]
    fn the_cells_of_a_large_fleet_are_bounded_and_have_each_agent_once() {
        let rows = (1..=100_000).map(|pid| (pid, u16::try_from(pid % 4).unwrap(), State::Up));
        let by_shard = cells(rows.clone(), 4096, GroupBy::Shard);
        assert!(by_shard.cells.len() <= 4096 + 4, "{}", by_shard.cells.len());
        assert_eq!(by_shard.cells.iter().map(|cell| cell.agents).sum::<usize>(), 100_000);
        assert!(by_shard.cells.iter().all(|cell| cell.shard.is_some()));
        let by_user = cells(rows, 4096, GroupBy::Uid);
        assert!(by_user.cells.iter().all(|cell| cell.shard.is_none()), "each has agents of all shards");
    }
}
