//! Who is tracked: all slots, read in chunks and at most twice a second whatever the number of those who ask, then
//! filtered, sorted and cut for each of them.
//!
//! Each agent is consistent in itself, the list is no instant. One that beats on two shards is one agent: the
//! slot that heard it last speaks for it.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::Sources;
use super::query::{BadQuery, Query};
use super::ring::Ring;
use crate::aggregator::export::jsonl;
use crate::lookup::Ticket;
use crate::pattern::{ASKED_BYTES_MAX, Pattern};
use crate::snapshot::written;
use crate::table::slot::{Cold, Flags, Hot, State};
use crate::time::MonoNs;
use crate::wire::Status;

/// A scan is good for this long.
const FRESH: Duration = Duration::from_millis(500);
/// And is forgotten after this.
const KEPT: Duration = Duration::from_secs(3);
/// Slots read before others of this thread have their turn.
const CHUNK: u32 = 1024;
/// Looks at a slot that is being written before it is left out.
const LOOKS: u32 = 3;
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 10_000;

/// One agent, as its slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its shard.
    pub shard: u16,
    /// Its slot there.
    pub slot: u32,
    /// Which holder of the slot.
    pub generation: u32,
    /// What every beat writes.
    pub hot: Hot,
    /// Attested user.
    pub uid: u32,
    /// First beat.
    pub first_arrival: MonoNs,
    /// Beats lost, by gaps in nonces.
    pub lost: u64,
    /// Stalls judged.
    pub stalls: u32,
    /// Silences that ended.
    pub resumes: u32,
}

impl Row {
    fn new(shard: u16, slot: u32, hot: Hot, cold: &Cold) -> Option<Self> {
        let is_nobodys = hot.flags.has(Flags::FORGER) && !cold.is_honest;
        (hot.state != State::Free && !is_nobodys).then_some(Self {
            shard,
            slot,
            generation: cold.generation,
            hot,
            uid: cold.uid,
            first_arrival: cold.first_arrival,
            lost: cold.beats_lost,
            stalls: cold.stalls,
            resumes: cold.resumes,
        })
    }

    /// Where its name is kept.
    pub const fn ticket(&self) -> Ticket {
        Ticket { shard: self.shard, slot: self.slot, generation: self.generation }
    }
}

/// All agents, as of the last scan. The default: nobody.
#[derive(Debug, Default)]
pub struct View {
    /// In the order of their pids, each once.
    rows: Vec<Row>,
    /// When each shard was begun with.
    as_of: Vec<MonoNs>,
}

/// A scan, and when it began.
#[derive(Clone, Debug)]
struct Scan {
    view: Rc<View>,
    began: Instant,
}

/// The last scan, and who may begin the next.
#[derive(Debug, Default)]
pub struct Views {
    last: RefCell<Option<Scan>>,
    /// Held during a scan: whoever wants one meanwhile waits for that one.
    scanning: Mutex<()>,
    is_forgetting: Cell<bool>,
}

impl Views {
    /// A scan that is at most half a second old.
    pub async fn fresh(&self, sources: &Sources, busy: impl Fn(u64)) -> Rc<View> {
        let _scanning = self.scanning.lock().await;
        if let Some(last) = self.last().filter(|last| last.began.elapsed() < FRESH) {
            return last.view;
        }
        self.scan(sources, busy).await
    }

    /// A scan that began after this call; not before half a second after the last.
    pub async fn next(&self, sources: &Sources, busy: impl Fn(u64)) -> Rc<View> {
        let asked = Instant::now();
        let _scanning = self.scanning.lock().await;
        let last = self.last();
        if let Some(last) = last.as_ref().filter(|last| last.began >= asked) {
            return Rc::clone(&last.view);
        }
        if let Some(last) = last {
            sleep_until(last.began + FRESH).await;
        }
        self.scan(sources, busy).await
    }

    /// Forgets the last scan once nobody asks any more; a large fleet's takes many megabytes.
    pub async fn forget(&self) {
        if self.is_forgetting.replace(true) {
            return;
        }
        while self.last().is_some_and(|last| last.began.elapsed() < KEPT) {
            sleep(KEPT).await;
        }
        self.last.replace(None);
        self.is_forgetting.set(false);
    }

    fn last(&self) -> Option<Scan> {
        self.last.borrow().clone()
    }

    async fn scan(&self, sources: &Sources, busy: impl Fn(u64)) -> Rc<View> {
        let began = Instant::now();
        let (mut rows, mut as_of) = (Vec::new(), Vec::new());
        for (shard, port) in (0u16..).zip(&*sources.ports) {
            as_of.push(sources.now());
            let used = u32::try_from(port.counters.slots_used.get()).unwrap_or(u32::MAX);
            for slot in 0..used.min(port.table.capacity()) {
                if slot % CHUNK == 0 {
                    tokio::task::yield_now().await;
                }
                let mut read = port.table.read(slot);
                for _ in 1..LOOKS {
                    if read.is_ok() {
                        break;
                    }
                    busy(1);
                    tokio::task::yield_now().await;
                    read = port.table.read(slot);
                }
                if let Ok((hot, cold)) = read {
                    rows.extend(Row::new(shard, slot, hot, &cold));
                }
            }
        }
        let view = Rc::new(View { rows: one_each(rows), as_of });
        self.last.replace(Some(Scan { view: Rc::clone(&view), began }));
        view
    }
}

/// One row a pid, in their order.
fn one_each(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_unstable_by_key(|row| (row.hot.pid, std::cmp::Reverse(row.hot.last_arrival)));
    rows.dedup_by_key(|row| row.hot.pid);
    rows
}

impl View {
    /// Every agent, in the order of their pids.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// When each shard was begun with, ns.
    pub fn as_of(&self) -> Vec<u64> {
        self.as_of.iter().map(|at| at.0).collect()
    }

    /// The agent with this pid.
    pub fn find(&self, pid: u32) -> Option<&Row> {
        let at = self.rows.binary_search_by_key(&pid, |row| row.hot.pid).ok()?;
        self.rows.get(at)
    }
}

/// What to list, and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection {
    state: Option<State>,
    shard: Option<u16>,
    uid: Option<u32>,
    comm: Option<Pattern>,
    sort: Sort,
    is_descending: bool,
    limit: usize,
    /// The key of the last agent of the page before.
    after: Option<(u64, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Pid,
    Silent,
    Beats,
    Lost,
    Stalls,
}

impl Selection {
    /// What the query asks for.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn parse(query: &Query) -> Result<Self, BadQuery> {
        query.allows(&["state", "shard", "uid", "comm", "sort", "order", "limit", "after"])?;
        let state = query.one_of(
            "state",
            &[("up", State::Up), ("stalled", State::Stalled), ("waiting", State::Waiting)],
        )?;
        let sorts = [
            ("pid", Sort::Pid),
            ("silent", Sort::Silent),
            ("beats", Sort::Beats),
            ("lost", Sort::Lost),
            ("stalls", Sort::Stalls),
        ];
        let sort = query.one_of("sort", &sorts)?.unwrap_or(Sort::Pid);
        let order = query.one_of("order", &[("asc", false), ("desc", true)])?;
        Ok(Self {
            state,
            shard: query.number("shard", 0, u64::from(u16::MAX))?.and_then(|shard| u16::try_from(shard).ok()),
            uid: query.number("uid", 0, u64::from(u32::MAX))?.and_then(|uid| u32::try_from(uid).ok()),
            comm: query.text("comm").map(pattern).transpose()?,
            sort,
            is_descending: order.unwrap_or(sort != Sort::Pid),
            limit: query
                .number("limit", 1, LIMIT_MAX as u64)?
                .and_then(|limit| usize::try_from(limit).ok())
                .unwrap_or(LIMIT_DEFAULT),
            after: query.text("after").map(|text| parse_cursor(text).ok_or_else(bad_cursor)).transpose()?,
        })
    }

    fn takes(&self, row: &Row, sources: &Sources) -> bool {
        self.state.is_none_or(|state| state == row.hot.state)
            && self.shard.is_none_or(|shard| shard == row.shard)
            && self.uid.is_none_or(|uid| uid == row.uid)
            && self.comm.as_ref().is_none_or(|pattern| {
                sources.names.get(row.ticket()).is_some_and(|comm| pattern.matches(&comm))
            })
    }

    /// What it is sorted by. Of silence the last arrival, which does not change while nothing comes.
    fn key(&self, row: &Row) -> (u64, u32) {
        let key = match self.sort {
            Sort::Pid => 0,
            Sort::Silent => u64::MAX - row.hot.last_arrival.0,
            Sort::Beats => row.hot.beats,
            Sort::Lost => row.lost,
            Sort::Stalls => u64::from(row.stalls),
        };
        (key, row.hot.pid)
    }

    fn order(&self, one: (u64, u32), other: (u64, u32)) -> Ordering {
        // The same agent order among equals in both directions: pids tell them apart.
        if self.is_descending { other.cmp(&one) } else { one.cmp(&other) }
    }

    /// The page, the cursor of the next, and how many there are on all pages.
    pub async fn page<'a>(&self, view: &'a View, sources: &Sources) -> (Vec<&'a Row>, Option<String>, usize) {
        let mut rows: Vec<&Row> = Vec::new();
        for chunk in view.rows.chunks(CHUNK as usize) {
            rows.extend(chunk.iter().filter(|row| self.takes(row, sources)));
            tokio::task::yield_now().await;
        }
        let total = rows.len();
        if let Some(after) = self.after {
            rows.retain(|row| self.order(self.key(row), after) == Ordering::Greater);
        }
        let by_key = |one: &&Row, other: &&Row| self.order(self.key(one), self.key(other));
        let is_more = rows.len() > self.limit;
        if is_more {
            rows.select_nth_unstable_by(self.limit, by_key);
            rows.truncate(self.limit);
        }
        rows.sort_unstable_by(by_key);
        let next = rows.last().filter(|_| is_more).map(|row| {
            let (key, pid) = self.key(row);
            format!("{key}.{pid}")
        });
        (rows, next, total)
    }
}

fn parse_cursor(text: &str) -> Option<(u64, u32)> {
    let (key, pid) = text.split_once('.')?;
    Some((key.parse().ok()?, pid.parse().ok()?))
}

fn pattern(text: &str) -> Result<Pattern, BadQuery> {
    if text.len() > ASKED_BYTES_MAX {
        let why = format!("it has {} bytes, and names of processes have 15 at most", text.len());
        return Err(BadQuery::new("comm", why, format!("write {ASKED_BYTES_MAX} or fewer")));
    }
    Ok(Pattern::new(text))
}

fn bad_cursor() -> BadQuery {
    BadQuery::new("after", "it is no cursor", "take it from `next` of the page before, with the same filters")
}

/// One page.
#[derive(Debug, Serialize)]
pub struct Page {
    agents: Vec<AgentAnswer>,
    next: Option<String>,
    total: usize,
    as_of: Vec<u64>,
}

impl Page {
    /// What the selection finds.
    pub async fn of(selection: &Selection, view: &View, sources: &Sources) -> Self {
        let (rows, next, total) = selection.page(view, sources).await;
        let now = sources.now();
        Self {
            agents: rows.into_iter().map(|row| AgentAnswer::of(row, sources, now)).collect(),
            next,
            total,
            as_of: view.as_of(),
        }
    }
}

impl Page {
    /// For the page without a script.
    pub fn rows(&self) -> impl Iterator<Item = Vec<String>> {
        let rows = self.agents.iter().map(move |agent| {
            let comm = agent.comm.clone().unwrap_or_else(|| "?".to_owned());
            vec![
                agent.pid.to_string(),
                comm,
                agent.shard.to_string(),
                agent.uid.to_string(),
                written(agent.silent_ns),
                written(agent.threshold_ns),
                agent.beats.to_string(),
                agent.lost.to_string(),
            ]
        });
        let nobody = self.agents.is_empty().then(|| vec![String::new(), "nobody".to_owned()]);
        rows.chain(nobody)
    }
}

impl Selection {
    /// Those who are stalled, the longest silence first.
    pub fn stalled(limit: usize) -> Self {
        Self {
            state: Some(State::Stalled),
            shard: None,
            uid: None,
            comm: None,
            sort: Sort::Silent,
            is_descending: true,
            limit,
            after: None,
        }
    }
}

/// One agent, in the words of the event schema.
#[derive(Debug, Serialize)]
pub struct AgentAnswer {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ns_pid: Option<u32>,
    shard: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u32>,
    state: &'static str,
    nonce: u64,
    status: &'static str,
    payload: u64,
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<String>,
    wire: &'static str,
    beats: u64,
    lost: u64,
    stalls: u32,
    resumes: u32,
    silent_ns: u64,
    threshold_ns: u64,
    first_ns: u64,
    last_ns: u64,
}

impl AgentAnswer {
    /// What is known of it.
    pub fn of(row: &Row, sources: &Sources, now: MonoNs) -> Self {
        let hot = &row.hot;
        let sessions = &sources.ports[usize::from(row.shard)].sessions;
        let session = sessions.get(row.slot, row.generation);
        Self {
            pid: hot.pid,
            ns_pid: session.and_then(|session| session.ns_pid),
            shard: row.shard,
            session: session.map(|session| session.number),
            state: word_of(hot.state),
            nonce: hot.nonce(),
            status: hot.status.as_str(),
            payload: hot.payload,
            uid: row.uid,
            comm: sources.names.get(row.ticket()),
            wire: if hot.flags.has(Flags::V02) { "0.2" } else { "0.1" },
            beats: hot.beats,
            lost: row.lost,
            stalls: row.stalls,
            resumes: row.resumes,
            silent_ns: now.since(hot.last_arrival),
            threshold_ns: sources.threshold_of(hot.class),
            first_ns: row.first_arrival.0,
            last_ns: hot.last_arrival.0,
        }
    }
}

const fn word_of(state: State) -> &'static str {
    match state {
        State::Free => "free",
        State::Up => "up",
        State::Stalled => "stalled",
        State::Waiting => "waiting",
    }
}

/// One agent and its past.
#[derive(Debug, Serialize)]
pub struct Detail {
    #[serde(flatten)]
    agent: AgentAnswer,
    as_of: u64,
    off_hash: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    period_ns: Option<u64>,
    rule: Option<usize>,
    terminals: u32,
    mixed: bool,
    blind: Blind,
    #[serde(skip_serializing_if = "Option::is_none")]
    stall: Option<Stall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<Resume>,
    #[serde(flatten)]
    past: Past,
}

#[derive(Debug, Serialize)]
struct Blind {
    is_blind: bool,
    total_ns: u64,
    last_end_ns: u64,
}

#[derive(Debug, Serialize)]
struct Stall {
    at_ns: u64,
    silent_ns: u64,
    blind_ns: u64,
    certain: bool,
    last_nonce: u64,
}

#[derive(Debug, Serialize)]
struct Resume {
    at_ns: u64,
    silent_ns: u64,
    lost: u64,
}

/// The events of one pid, as far back as the ring goes.
#[derive(Debug, Serialize)]
pub struct Past {
    history: Vec<Box<serde_json::value::RawValue>>,
    history_from_seq: u64,
}

/// An agent that is gone, and its past.
#[derive(Debug, Serialize)]
pub struct Exited {
    pid: u32,
    state: &'static str,
    #[serde(flatten)]
    past: Past,
}

impl Past {
    /// What the ring holds of a pid.
    pub fn of(pid: u32, ring: &Ring) -> Self {
        let lines = ring.of_pid(pid).filter_map(|event| {
            let mut line = Vec::new();
            jsonl::write_line(event, &mut line);
            serde_json::value::RawValue::from_string(String::from_utf8(line).ok()?).ok()
        });
        Self { history: lines.collect(), history_from_seq: ring.first_seq() }
    }

    /// Nothing is known of the pid.
    pub fn is_empty(&self) -> bool {
        self.history.is_empty()
    }
}

impl Exited {
    /// Only its past is left.
    pub const fn of(pid: u32, past: Past) -> Self {
        Self { pid, state: "exited", past }
    }
}

impl Detail {
    /// The agent of a row that was found by its pid, as of now; `None` if it is gone meanwhile, or its slot is
    /// being written.
    pub fn of(row: &Row, sources: &Sources, ring: &Ring) -> Option<Self> {
        let port = &sources.ports[usize::from(row.shard)];
        let (hot, cold) = port.table.read(row.slot).ok()?;
        let now = sources.now();
        let as_is = Row::new(row.shard, row.slot, hot, &cold)?;
        if (as_is.generation, hot.pid) != (row.generation, row.hot.pid) {
            return None;
        }
        let counters = &port.counters;
        let blind_ns = counters.blind_ns.get();
        let sent = hot.beats + cold.beats_lost;
        Some(Self {
            agent: AgentAnswer::of(&as_is, sources, now),
            as_of: now.0,
            off_hash: sources.is_off_hash(hot.pid, row.shard),
            period_ns: (hot.beats > 2).then(|| hot.last_arrival.since(cold.first_arrival) / (sent - 1)),
            rule: sources.rule_of(hot.class),
            terminals: cold.terminals,
            mixed: hot.flags.has(Flags::MIXED),
            blind: Blind {
                is_blind: counters.is_blind.get() != 0,
                total_ns: blind_ns,
                last_end_ns: if blind_ns > 0 { counters.last_blind_end.get() } else { 0 },
            },
            stall: (cold.stalls > 0).then_some(Stall {
                at_ns: cold.stall_at.0,
                silent_ns: cold.stall_silent_ns,
                blind_ns: cold.stall_blind_ns,
                certain: !cold.is_stall_uncertain,
                last_nonce: cold.stall_nonce,
            }),
            resume: (cold.resumes > 0).then_some(Resume {
                at_ns: cold.resume_at.0,
                silent_ns: cold.resume_silent_ns,
                lost: cold.resume_lost,
            }),
            past: Past::of(hot.pid, ring),
        })
    }
}

/// What the series of single agents are called: beats, stalls, status.
pub type SeriesNames = [&'static str; 3];

/// Ours: others than those of a shard, so that a sum over both counts nothing twice.
pub const NAMES: SeriesNames = ["varta_agent_beats_total", "varta_agent_stalls_total", "varta_agent_status"];
/// Those of varta-watch, for its dashboards.
pub const NAMES_OF_WATCH: SeriesNames = ["varta_beats_total", "varta_stalls_total", "varta_status"];

/// A few agents as metrics, in pieces.
pub fn series(view: Rc<View>, max: usize, names: &'static SeriesNames) -> impl Iterator<Item = String> {
    type Read = fn(&Row) -> u64;
    const PIECE: usize = 1000;
    const FAMILIES: [(&str, &str, Read); 3] = [
        ("counter", "Accepted frames of this process", |row| row.hot.beats),
        ("counter", "Stalls judged of this process", |row| row.stalls.into()),
        ("gauge", "Status: 0 ok, 1 degraded, 2 critical, 3 stalled", |row| {
            if row.hot.state == State::Stalled { Status::Stall as u64 } else { row.hot.status as u64 }
        }),
    ];
    let (all, shown) = (view.rows.len(), view.rows.len().min(max));
    let about = (shown < all).then(|| format!("# {shown} of {all} agents, as metrics-agents-max says\n"));
    let pieces = names.iter().zip(&FAMILIES).flat_map(move |(name, (kind, help, read))| {
        let view = Rc::clone(&view);
        let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let body = (0..shown.div_ceil(PIECE)).map(move |piece| {
            let rows = &view.rows[piece * PIECE..shown.min((piece + 1) * PIECE)];
            rows.iter().map(|row| format!("{name}{{pid=\"{}\"}} {}\n", row.hot.pid, read(row))).collect()
        });
        std::iter::once(head).chain(body)
    });
    about.into_iter().chain(pieces)
}

#[cfg(test)]
mod tests {
    use super::super::standin::sources;
    use super::*;

    #[test]
    fn whoever_asks_at_once_shares_a_scan_and_the_next_comes_half_a_second_later() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (sources, views) = (sources(2), Views::default());
            let both =
                futures_util::future::join(views.fresh(&sources, |_| {}), views.fresh(&sources, |_| {}));
            let (one, other) = both.await;
            assert!(Rc::ptr_eq(&one, &other));
            let began = views.last().unwrap().began;
            let next = views.next(&sources, |_| {}).await;
            assert!(!Rc::ptr_eq(&one, &next));
            assert!(views.last().unwrap().began - began >= FRESH);
        });
    }

    #[test]
    fn an_agent_on_two_shards_is_one() {
        let row = |shard, pid, arrival| Row {
            shard,
            slot: 0,
            generation: 1,
            hot: Hot { pid, last_arrival: MonoNs(arrival), state: State::Up, ..Hot::default() },
            uid: 0,
            first_arrival: MonoNs(0),
            lost: 0,
            stalls: 0,
            resumes: 0,
        };
        let rows = one_each(vec![row(0, 9, 5), row(0, 7, 1), row(1, 7, 2)]);
        let found: Vec<_> = rows.iter().map(|row| (row.hot.pid, row.shard)).collect();
        assert_eq!(found, [(7, 1), (9, 0)], "the one that heard it last");
    }
}
