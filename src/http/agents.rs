//! The list of agents: all slots, read in chunks and at most twice a second whatever the number of clients,
//! then filtered, sorted and cut for each client.
//!
//! Each agent is consistent in itself; the list as a whole is not of one instant. An agent that beats on two
//! shards is listed once, with the slot that received its last beat.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::query::{BadQuery, Query};
use super::sources::Sources;
use crate::api::{Agent, AgentState, DaemonSays, Origin, Page, ThresholdOf};
use crate::config::classes::Classes;
use crate::json::Json;
use crate::label::Label;
use crate::lane::Port;
use crate::lane::sessions::Freeze;
use crate::notify::daemon::Daemon;
use crate::pattern::{ASKED_BYTES_MAX, Pattern};
use crate::process::unit::UNIT_BYTES_MAX;
use crate::rules::phase::{self, Allowed, By, Facts};
use crate::table::place::{Holder, Place};
use crate::table::slot::{Cold, Flags, Hot, State};
use crate::table::status_lines::StatusLines;
use crate::time::MonoNs;
use crate::wire::Version;

/// A scan is reused for this long.
const FRESH: Duration = Duration::from_millis(500);
/// A scan of more agents than [`MANY`] takes tens of milliseconds, and is reused for this long.
const FRESH_OF_MANY: Duration = Duration::from_secs(5);
const MANY: usize = 20_000;
/// A scan is dropped after this.
const KEPT: Duration = Duration::from_secs(6);
/// Slots read before other tasks of this thread run.
const CHUNK: u32 = 1024;
/// Attempts to read a slot that is being written, before it is skipped.
const LOOKS: u32 = 3;
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 10_000;
/// The maximum size of a page, whatever its number of agents.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// One agent, from its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its shard.
    pub shard: u16,
    /// Its slot there.
    pub slot: u32,
    /// The generation of the slot.
    pub generation: u32,
    /// The hot half of the slot.
    pub hot: Hot,
    /// Beats accepted.
    pub beats: u64,
    /// Arrival of the first beat.
    pub first_arrival: MonoNs,
    /// Beats lost, from gaps in nonces.
    pub lost: u64,
    /// Stalls judged.
    pub stalls: u32,
    /// Silences that ended.
    pub resumes: u32,
    /// Whether its control group is frozen.
    pub freeze: Freeze,
    /// Whether it beats and does not advance.
    pub is_still: bool,
    /// What its slot says of its phase.
    pub facts: Facts,
    /// Whether it sends messages.
    pub is_daemon: bool,
    /// The silence that is allowed to it, ns, if it is a daemon to which no rule gives a threshold; the largest number, if
    /// no silence is a stall for it.
    pub own_ns: Option<u64>,
}

impl Row {
    /// The agent of a slot; `None` if it is free.
    pub fn new(port: &Port, shard: u16, slot: u32, hot: Hot, cold: &Cold) -> Option<Self> {
        let session = port.sessions.get(slot, cold.generation).unwrap_or_default();
        let freeze = if hot.state == State::Stalled { session.freeze } else { Freeze::No };
        let is_nobodys = hot.flags.has(Flags::FORGER) && !cold.is_honest;
        (hot.state != State::Free && !is_nobodys).then_some(Self {
            shard,
            slot,
            generation: cold.generation,
            hot,
            beats: cold.beats(&hot),
            first_arrival: cold.first_arrival,
            lost: cold.beats_lost,
            stalls: cold.stalls,
            resumes: cold.resumes,
            freeze,
            is_still: session.is_still && hot.state == State::Up,
            facts: Facts::of(&hot, cold),
            is_daemon: port.daemons.is_some(),
            own_ns: own_ns(port, slot, cold.generation),
        })
    }

    /// The silence that is allowed to it at present.
    pub fn allowed(&self, classes: &Classes) -> Allowed {
        match self.own_ns {
            Some(ns) => Allowed { ns, by: By::Rule },
            None => phase::allowed(classes, self.hot.class, &self.facts),
        }
    }

    /// Its state.
    pub const fn state(&self) -> AgentState {
        match (self.hot.state, self.freeze) {
            (State::Stalled, Freeze::No) => AgentState::Stalled,
            (State::Stalled, Freeze::Frozen) => AgentState::Frozen,
            // A daemon that does not beat waits for nothing.
            (State::Waiting, _) if self.is_daemon => AgentState::Up,
            (State::Waiting, _) => AgentState::Waiting,
            (State::Up, _) if self.is_still => AgentState::Standstill,
            (State::Free | State::Up | State::Stalled, _) => AgentState::Up,
        }
    }

    /// The key under which its name is stored.
    pub const fn holder(&self) -> Holder {
        Holder { place: Place { shard: self.shard, slot: self.slot }, generation: self.generation }
    }
}

/// All agents as of the last scan; none by default.
#[derive(Debug, Default)]
pub struct View {
    /// In the order of their pids, each once.
    rows: Vec<Row>,
    /// When the scan of each shard began.
    as_of: Vec<MonoNs>,
}

/// A scan and when it began.
#[derive(Clone, Debug)]
struct Scan {
    view: Rc<View>,
    began: Instant,
}

/// The last scan, and the lock for the next.
#[derive(Debug, Default)]
pub struct Views {
    last: RefCell<Option<Scan>>,
    /// Held during a scan: other tasks that need one wait for its result.
    scanning: Mutex<()>,
    is_forgetting: Cell<bool>,
}

impl Views {
    /// A scan that is at most half a second old; five seconds, if the agents are many.
    pub async fn fresh(&self, sources: &Sources, busy: impl Fn(u64)) -> Rc<View> {
        let _scanning = self.scanning.lock().await;
        if let Some(last) = self.last().filter(|last| last.began.elapsed() < last.view.fresh_for()) {
            return last.view;
        }
        self.scan(sources, busy).await
    }

    /// A scan that began after this call; at the earliest half a second after the last.
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

    /// Drops the last scan once it is no longer used: that of a large fleet takes many megabytes.
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
                    rows.extend(Row::new(port, shard, slot, hot, &cold));
                }
            }
        }
        let view = Rc::new(View { rows: one_each(rows), as_of });
        self.last.replace(Some(Scan { view: Rc::clone(&view), began }));
        view
    }
}

/// One row per pid, in the order of pids.
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

    /// How long it is reused.
    const fn fresh_for(&self) -> Duration {
        if self.rows.len() > MANY { FRESH_OF_MANY } else { FRESH }
    }

    /// When the scan of the agent's shard began: its silence is told as of then, since a later beat is not in the row.
    pub fn read_at(&self, row: &Row) -> MonoNs {
        self.as_of.get(usize::from(row.shard)).copied().unwrap_or_default()
    }

    /// When the scan of each shard began, ns.
    pub fn as_of(&self) -> Vec<u64> {
        self.as_of.iter().map(|at| at.0).collect()
    }

    /// The agent with this pid.
    pub fn find(&self, pid: u32) -> Option<&Row> {
        let at = self.rows.binary_search_by_key(&pid, |row| row.hot.pid).ok()?;
        self.rows.get(at)
    }
}

/// A selection of agents: filters, order, page.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection {
    state: Option<AgentState>,
    shard: Option<u16>,
    uid: Option<u32>,
    comm: Option<Pattern>,
    unit: Option<Pattern>,
    name: Option<Pattern>,
    sort: Sort,
    is_descending: bool,
    limit: usize,
    /// The key of the last agent of the previous page.
    after: Option<(u64, u64)>,
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
    /// The selection that the query asks for.
    ///
    /// # Errors
    /// A parameter is invalid.
    pub fn parse(query: &Query) -> Result<Self, BadQuery> {
        query
            .allows(&["state", "shard", "uid", "comm", "unit", "name", "sort", "order", "limit", "after"])?;
        let state = query.one_of("state", &AgentState::TRACKED.map(|state| (state.as_str(), state)))?;
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
            unit: query.text("unit").map(unit_pattern).transpose()?,
            name: query.text("name").map(name_pattern).transpose()?,
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
        self.state.is_none_or(|state| state == row.state())
            && self.shard.is_none_or(|shard| shard == row.shard)
            && self.uid.is_none_or(|uid| uid == row.hot.uid())
            && Pattern::takes(self.comm.as_ref(), || sources.names.get(row.holder()))
            && Pattern::takes(self.unit.as_ref(), || sources.names.unit(row.holder())?.text())
            && self.name.as_ref().is_none_or(|pattern| {
                let about = sources.names.about(row.holder());
                pattern.matches(about.comm.as_str()) || Pattern::takes(Some(pattern), || about.unit?.text())
            })
    }

    /// The sort key. For silence it is the last arrival, which does not change while no beat arrives.
    fn key(&self, row: &Row) -> (u64, u64) {
        let key = match self.sort {
            Sort::Pid => 0,
            Sort::Silent => u64::MAX - row.hot.last_arrival.0,
            Sort::Beats => row.beats,
            Sort::Lost => row.lost,
            Sort::Stalls => u64::from(row.stalls),
        };
        // Of equal agents, stalled ones come first in both directions, and the others by pid.
        let is_late = (row.state() == AgentState::Stalled) == self.is_descending;
        let tie = if self.sort == Sort::Pid { 0 } else { u64::from(is_late) << 32 };
        (key, tie | u64::from(row.hot.pid))
    }

    fn order(&self, one: (u64, u64), other: (u64, u64)) -> Ordering {
        if self.is_descending { other.cmp(&one) } else { one.cmp(&other) }
    }

    /// The rows of the page, whether more follow, and the total on all pages.
    async fn page<'a>(&self, view: &'a View, sources: &Sources) -> (Vec<&'a Row>, bool, usize) {
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
        (rows, is_more, total)
    }

    /// The cursor of the page after this row.
    fn cursor(&self, row: &Row) -> String {
        let (key, tie) = self.key(row);
        format!("{key}.{tie}")
    }
}

fn parse_cursor(text: &str) -> Option<(u64, u64)> {
    let (key, tie) = text.split_once('.')?;
    Some((key.parse().ok()?, tie.parse().ok()?))
}

/// The pattern of a parameter `comm`.
///
/// # Errors
/// It is too long.
pub fn pattern(text: &str) -> Result<Pattern, BadQuery> {
    if text.len() > ASKED_BYTES_MAX {
        let why = format!("it has {} bytes, and names of processes have 15 at most", text.len());
        return Err(BadQuery::new("comm", why, format!("write {ASKED_BYTES_MAX} or fewer")));
    }
    Ok(Pattern::new(text))
}

/// The pattern of a parameter `unit`.
///
/// # Errors
/// It is too long.
pub fn unit_pattern(text: &str) -> Result<Pattern, BadQuery> {
    long_pattern("unit", text)
}

/// The pattern of a parameter `name`: of a process or its unit.
fn name_pattern(text: &str) -> Result<Pattern, BadQuery> {
    long_pattern("name", text)
}

fn long_pattern(parameter: &str, text: &str) -> Result<Pattern, BadQuery> {
    if text.len() > UNIT_BYTES_MAX {
        let why = format!("it has {} bytes, and names of units have {UNIT_BYTES_MAX} at most", text.len());
        return Err(BadQuery::new(parameter, why, "write fewer"));
    }
    Ok(Pattern::new(text))
}

fn bad_cursor() -> BadQuery {
    BadQuery::new("after", "it is no cursor", "take it from `next` of the page before, with the same filters")
}

/// The page of a selection.
pub async fn page(selection: &Selection, view: &View, sources: &Sources) -> Page {
    let (rows, is_more, total) = selection.page(view, sources).await;
    let (mut agents, mut bytes) = (Vec::new(), 0);
    for row in &rows {
        let agent = agent(row, sources, view.read_at(row));
        bytes += Json(&agent).to_bytes().map_or(0, |text| text.len());
        if bytes > PAGE_BYTES_MAX {
            break;
        }
        agents.push(agent);
        if agents.len() % CHUNK as usize == 0 {
            tokio::task::yield_now().await;
        }
    }
    let is_more = is_more || agents.len() < rows.len();
    let last = agents.len().checked_sub(1).filter(|_| is_more);
    let next = last.map(|last| selection.cursor(rows[last]));
    Page { next, agents, total: total as u64, as_of: view.as_of() }
}

impl Selection {
    /// The stalled agents, longest silence first.
    pub fn stalled(limit: usize) -> Self {
        Self {
            state: Some(AgentState::Stalled),
            shard: None,
            uid: None,
            comm: None,
            unit: None,
            name: None,
            sort: Sort::Silent,
            is_descending: true,
            limit,
            after: None,
        }
    }
}

/// The response for a row.
pub fn agent(row: &Row, sources: &Sources, now: MonoNs) -> Agent {
    let hot = &row.hot;
    let sessions = &sources.ports[usize::from(row.shard)].sessions;
    let session = sessions.get(row.slot, row.generation);
    let about = sources.names.about(row.holder());
    let terms = sources.terms();
    let (daemon, own_ns) = daemon(row, sources, &terms.classes).unzip();
    let allowed = row.allowed(&terms.classes);
    Agent {
        origin: if row.is_daemon { Origin::Notify } else { Origin::Vlp },
        daemon,
        pid: hot.pid,
        ns_pid: session.and_then(|session| session.ns_pid),
        shard: row.shard,
        session: session.map(|session| session.number),
        state: row.state(),
        nonce: hot.nonce(),
        status: hot.status,
        payload: hot.payload,
        uid: hot.uid(),
        comm: sources.names.get(row.holder()),
        unit: about.unit.and_then(Label::text).map(String::from),
        container: about.container.and_then(Label::text).map(String::from),
        wire: if hot.flags.has(Flags::V02) { Version::V02 } else { Version::V01 },
        beats: row.beats,
        lost: row.lost,
        stalls: row.stalls,
        resumes: row.resumes,
        silent_ns: now.since(hot.last_arrival),
        threshold_ns: own_ns.unwrap_or(allowed.ns),
        phase: allowed.by.phase().filter(|_| !row.is_daemon).map(|phase| phase.as_str().to_owned()),
        first_ns: row.first_arrival.0,
        last_ns: hot.last_arrival.0,
    }
}

/// The silence that is allowed to the daemon of a slot: see [`Row::own_ns`].
fn own_ns(port: &Port, slot: u32, generation: u32) -> Option<u64> {
    let terms = &port.daemons.as_ref()?.terms;
    let (hot, cold, extra) = port.table.read_with_extra(slot).ok()?;
    let words = extra.filter(|_| cold.generation == generation)?.first_chunk().copied()?;
    let daemon = Daemon::from_words(&words, hot.last_arrival, hot.paused_before);
    if !daemon.is_judged_by_silence() {
        return Some(u64::MAX);
    }
    let has_rule = daemon.threshold_of(hot.class != 0) == ThresholdOf::Rule;
    (!has_rule).then(|| daemon.threshold_ns(&terms.limits(None)))
}

/// What the daemon of a row says of itself, and its threshold, ns; `None` if it is none, or has gone meanwhile, or its slot
/// is being written.
fn daemon(row: &Row, sources: &Sources, classes: &Classes) -> Option<(DaemonSays, u64)> {
    let port = &sources.ports[usize::from(row.shard)];
    let daemons = port.daemons.as_ref()?;
    let (hot, cold, extra) = port.table.read_with_extra(row.slot).ok()?;
    if cold.generation != row.generation {
        return None;
    }
    let words = extra?.first_chunk().copied()?;
    let daemon = Daemon::from_words(&words, hot.last_arrival, hot.paused_before);
    // The first class is that of the default, which is for agents that send frames.
    let has_rule = hot.class != 0;
    let limits = daemons.terms.limits(has_rule.then(|| classes.threshold_ns(hot.class)));
    let (errno, exit_status) = daemon.failure();
    let line = |lines: &StatusLines| lines.get(row.slot, row.generation).unwrap_or_default();
    let says = DaemonSays {
        phase: daemon.phase(),
        text: line(&daemons.lines),
        name: line(&daemons.names),
        beats: daemon.is_judged_by_silence(),
        threshold_of: daemon.threshold_of(has_rule),
        errno,
        exit_status,
    };
    Some((says, daemon.threshold_ns(&limits)))
}

#[cfg(test)]
impl Row {
    /// An agent of this shard, in its first slot.
    pub fn sample(shard: u16, pid: u32, state: State) -> Self {
        Self {
            freeze: Freeze::No,
            is_still: false,
            facts: Facts::of(&Hot::default(), &Cold::default()),
            is_daemon: false,
            own_ns: None,
            shard,
            slot: 0,
            generation: 1,
            hot: Hot { pid, state, ..Hot::default() },
            beats: 0,
            first_arrival: MonoNs(0),
            lost: 0,
            stalls: 0,
            resumes: 0,
        }
    }
}

#[cfg(test)]
impl View {
    /// These agents, in the order of their pids.
    pub fn sample(rows: Vec<Row>) -> Self {
        Self { rows, as_of: vec![MonoNs(0)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::standin::sources;

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

    fn row(shard: u16, pid: u32, arrival: u64) -> Row {
        let sample = Row::sample(shard, pid, State::Up);
        Row { hot: Hot { last_arrival: MonoNs(arrival), ..sample.hot }, ..sample }
    }

    /// A row of a reused scan must not make an agent that beats look silent.
    #[test]
    fn a_silence_is_as_of_the_scan_and_a_large_one_is_reused_longer() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let many = MANY + 1;
        let rows = (1..=u32::try_from(many).unwrap()).map(|pid| row(0, pid, 5)).collect();
        let view = View { rows, as_of: vec![MonoNs(12)] };
        let page =
            runtime.block_on(page(&Selection { state: None, ..Selection::stalled(1) }, &view, &sources(1)));
        assert_eq!((page.total, page.agents[0].silent_ns), (many as u64, 7));
        assert_eq!((view.fresh_for(), View::default().fresh_for()), (FRESH_OF_MANY, FRESH));
    }

    #[test]
    fn fault_74_a_page_ends_after_so_many_bytes_and_the_next_goes_on_there() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let sources = sources(1);
            let view = View::sample((1..=10_000).map(|pid| row(0, pid, 5)).collect());
            let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
            loop {
                let query = Query::parse(&format!("limit=10000{after}"));
                let page = page(&Selection::parse(&query).unwrap(), &view, &sources).await;
                assert!(Json(&page).to_bytes().unwrap().len() < 2 * PAGE_BYTES_MAX);
                assert_eq!(page.total, 10_000);
                found.extend(page.agents.iter().map(|agent| agent.pid));
                pages += 1;
                let Some(next) = page.next else { break };
                after = format!("&after={next}");
            }
            assert!(pages > 1);
            assert!(found.into_iter().eq(1..=10_000));
        });
    }

    #[test]
    fn of_equal_agents_stalled_ones_come_first_in_both_directions_and_on_every_page() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let sources = sources(1);
            let with = |pid: u32, stalls: u32, state: State| {
                let row = row(0, pid, 5);
                Row { stalls, hot: Hot { state, ..row.hot }, ..row }
            };
            let rows = vec![
                with(1, 0, State::Up),
                with(2, 0, State::Stalled),
                with(3, 0, State::Up),
                with(4, 7, State::Up),
                with(5, 0, State::Stalled),
            ];
            let view = View { rows, as_of: vec![MonoNs(0)] };
            for (order, expected) in [("desc", [4, 5, 2, 3, 1]), ("asc", [2, 5, 1, 3, 4])] {
                let (mut found, mut after) = (Vec::new(), String::new());
                loop {
                    let query = Query::parse(&format!("sort=stalls&order={order}&limit=1{after}"));
                    let page = page(&Selection::parse(&query).unwrap(), &view, &sources).await;
                    found.extend(page.agents.iter().map(|agent| agent.pid));
                    let Some(next) = page.next else { break };
                    after = format!("&after={next}");
                }
                assert_eq!(found, expected, "{order}");
            }
        });
    }

    #[test]
    fn an_agent_on_two_shards_is_one() {
        let rows = one_each(vec![row(0, 9, 5), row(0, 7, 1), row(1, 7, 2)]);
        let found: Vec<_> = rows.iter().map(|row| (row.hot.pid, row.shard)).collect();
        assert_eq!(found, [(7, 1), (9, 0)], "the one that heard it last");
    }
}
