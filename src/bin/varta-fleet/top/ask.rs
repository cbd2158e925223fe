//! Asks the fleet: once a second for its state and the agents, and for events as they come.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use varta_fleet::Shown;
use varta_fleet::api::{Agent, Dead, Fleet, GroupBy, Groups, History, Page};

use super::model::{List, Update, View, Wish};
use crate::accounts::Users;
use crate::client::{Client, parameter};
use crate::exit::{CliError, Exit};
use crate::explain;

/// Time between two queries.
const PERIOD: Duration = Duration::from_secs(1);
/// A list that takes long is asked for less often: it takes no more than one part in so many of the time.
const SHARE: u32 = 10;
/// Past events shown at the start.
const EVENTS: u64 = 100;
/// Most agents of one answer.
const PAGE: usize = 10_000;

/// Asks until nobody wishes any more. A new wish is asked for at once.
pub fn ask(client: &Client, users: &Users, wishes: &Receiver<Wish>, updates: &Sender<Update>) {
    let Ok(mut wish) = wishes.recv() else { return };
    let mut list_due = Instant::now();
    let mut remembers = false;
    loop {
        let turn = Instant::now();
        let asked = seen(client, updates).and_then(|mono_ns| {
            // An answer that took long leaves a gap in the curves, too.
            if !remembers || turn.elapsed() > 2 * PERIOD {
                remembers = true;
                remember(client, mono_ns, updates)?;
            }
            if let Some(pid) = wish.explain {
                tell(updates, Update::Explained(pid, explained(client, pid)?))?;
            }
            if Instant::now() >= list_due {
                let began = Instant::now();
                let list = list(client, users, &wish, updates)?;
                list_due = began + began.elapsed() * SHARE;
                tell(updates, list)?;
            }
            Ok(())
        });
        match asked {
            Ok(()) => {}
            Err(Failure::Over) => return,
            Err(Failure::Trouble(why) | Failure::Refused(why)) => {
                remembers = false;
                list_due = Instant::now();
                if updates.send(Update::Trouble(why)).is_err() {
                    return;
                }
            }
        }
        match wishes.recv_timeout(PERIOD.saturating_sub(turn.elapsed())) {
            Ok(wanted) => {
                wish = wishes.try_iter().last().unwrap_or(wanted);
                list_due = Instant::now();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Why asking failed.
enum Failure {
    /// Nobody shows what was asked for.
    Over,
    /// The fleet did not answer.
    Trouble(String),
    /// It answered, but not with what was asked for.
    Refused(String),
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        if is_refusal(&error) { Self::Refused(error.to_string()) } else { Self::Trouble(error.to_string()) }
    }
}

impl From<SendError<Update>> for Failure {
    fn from(_: SendError<Update>) -> Self {
        Self::Over
    }
}

fn tell(updates: &Sender<Update>, update: Update) -> Result<(), Failure> {
    Ok(updates.send(update)?)
}

/// Asks for the state of the fleet; returns when it was written, `CLOCK_MONOTONIC`, ns.
fn seen(client: &Client, updates: &Sender<Update>) -> Result<u64, Failure> {
    let fleet: Box<Fleet> = client.get("/api/v1/fleet")?;
    let mono_ns = fleet.mono_ns;
    tell(updates, Update::Seen(fleet))?;
    Ok(mono_ns)
}

/// Asks for the last quarter of an hour. An observer of an earlier version does not know it.
fn remember(client: &Client, mono_ns: u64, updates: &Sender<Update>) -> Result<(), Failure> {
    let history: History = match client.get("/api/v1/history?step=1s") {
        Err(error) if is_refusal(&error) => return Ok(()),
        history => history?,
    };
    let series = &history.series;
    let at = |values: &[Option<u64>], second: usize| values.get(second).copied().flatten();
    let second = |n| [at(&series.up, n), at(&series.stalled, n), at(&series.died, n), at(&series.beats, n)];
    let seconds = (0..series.up.len()).map(second).collect();
    tell(updates, Update::Remembered(seconds, mono_ns / 1_000_000_000))
}

/// Whether the fleet answered, but not with what was asked for.
fn is_refusal(error: &CliError) -> bool {
    !matches!(error.exit(), Exit::Unavailable | Exit::Permission)
}

/// What `explain` says of a pid; also why it says nothing.
fn explained(client: &Client, pid: u32) -> Result<String, CliError> {
    match explain::text(client, pid) {
        Err(error) if is_refusal(&error) => Ok(error.to_string()),
        text => text,
    }
}

/// The rows that are wished for.
fn list(client: &Client, users: &Users, wish: &Wish, updates: &Sender<Update>) -> Result<Update, Failure> {
    let listed = match wish.view {
        View::Agents => agents(client, users, wish, updates),
        View::Groups(by) => Ok(groups(client, by)?),
        View::Dead => match query(users, wish) {
            Ok(query) => Ok(dead(client, &query)?),
            Err(why) => Ok(Update::Refused(why)),
        },
    };
    match listed {
        Err(Failure::Refused(why)) => Ok(Update::Refused(why)),
        listed => listed,
    }
}

fn groups(client: &Client, by: GroupBy) -> Result<Update, CliError> {
    let answer: Groups = client.get(&format!("/api/v1/groups?by={}", by.as_str()))?;
    Ok(Update::Listed(List::Groups(by, answer.groups), answer.total))
}

fn dead(client: &Client, query: &[String]) -> Result<Update, CliError> {
    let answer: Dead = client.get(&format!("/api/v1/dead?{}", query.join("&")))?;
    Ok(Update::Listed(List::Dead(answer.dead, answer.as_of), answer.total))
}

/// The agents that are wished for; the state of the fleet, too, as often as usual if there are many.
fn agents(client: &Client, users: &Users, wish: &Wish, updates: &Sender<Update>) -> Result<Update, Failure> {
    let query = match query(users, wish) {
        Ok(query) => query,
        Err(why) => return Ok(Update::Refused(why)),
    };
    if let Ok(pid) = wish.filter.pid.parse() {
        return Ok(one(client, pid, &query)?);
    }
    let (mut agents, mut pids) = (Vec::new(), HashSet::new());
    let mut after = None;
    let mut told = Instant::now();
    loop {
        let left = (wish.rows - agents.len()).min(PAGE);
        let mut query = query.clone();
        query.extend(parameter("limit", Some(left)));
        query.extend(parameter("after", after.take()));
        let page: Page = client.get(&format!("/api/v1/agents?{}", query.join("&")))?;
        // An agent that beat meanwhile may be on two pages.
        agents.extend(page.agents.into_iter().filter(|agent: &Agent| pids.insert(agent.pid)));
        after = page.next.filter(|_| agents.len() < wish.rows);
        if after.is_none() {
            // All pages together are not of one instant: what the last one ends is all there is.
            let listed = agents.len() as u64;
            let total = if agents.len() < wish.rows { listed } else { page.total.max(listed) };
            return Ok(Update::Listed(List::Agents(agents), total));
        }
        if told.elapsed() >= PERIOD {
            told = Instant::now();
            seen(client, updates)?;
        }
    }
}

/// The query for a wish, without its page; else why there is none.
fn query(users: &Users, wish: &Wish) -> Result<Vec<String>, String> {
    let filter = &wish.filter;
    let uid = match filter.user.as_str() {
        "" => None,
        text => Some(users.uid(text).ok_or_else(|| {
            format!("there is no user {} in /etc/passwd; u takes a number, too", Shown(text))
        })?),
    };
    let pattern = |text: &str| match text.strip_prefix('=') {
        Some(whole) => Some(whole.to_owned()),
        None => (!text.is_empty()).then(|| format!("*{text}*")),
    };
    let is_sorted = wish.view == View::Agents && filter.pid.is_empty();
    let query = [
        parameter("sort", is_sorted.then_some(wish.sort)),
        parameter("order", is_sorted.then_some(if wish.is_ascending { "asc" } else { "desc" })),
        parameter("comm", pattern(&filter.name)),
        parameter("unit", pattern(&filter.unit)),
        parameter("uid", uid),
        parameter("shard", Some(&filter.shard).filter(|shard| !shard.is_empty())),
        parameter("state", filter.state.map(|state| state.as_str())),
    ];
    Ok(query.into_iter().flatten().collect())
}

/// The agent with this pid, if the query takes it: the first behind the pid before.
fn one(client: &Client, pid: u32, query: &[String]) -> Result<Update, CliError> {
    let query = [query, &["limit=1".to_owned(), format!("after=0.{}", pid.saturating_sub(1))]].concat();
    let page: Page = client.get(&format!("/api/v1/agents?{}", query.join("&")))?;
    let agents: Vec<Agent> = page.agents.into_iter().filter(|agent| agent.pid == pid).collect();
    let total = agents.len() as u64;
    Ok(Update::Listed(List::Agents(agents), total))
}

/// Receives events, and reconnects.
pub fn follow(client: &Client, updates: &Sender<Update>) {
    loop {
        // Includes one screen of past events.
        let after =
            client.get::<Fleet>("/api/v1/fleet").map_or(0, |fleet| fleet.events.saturating_sub(EVENTS));
        if let Ok(mut events) = client.events(&format!("after={after}")) {
            while let Ok(Some(line)) = events.next() {
                // An observer of another version may report events that this version does not know.
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if updates.send(Update::Told(event)).is_err() {
                    return;
                }
            }
        }
        thread::sleep(PERIOD);
    }
}
