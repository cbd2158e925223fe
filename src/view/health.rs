//! Health of a fleet: one definition for `run`, `/-/healthy`, `status` and the table of counters.
//!
//! In: the marks of the threads, what the shards publish, a snapshot. Out: problems, worst first. Thread:
//! any; no thread of the fleet waits for the caller. Time is an argument.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::lane::Port;
use crate::lane::counters::{Counter, ShardHealth};
use crate::lane::vigil::Vigil;
use crate::message::Reason;
use crate::sinks::{OutputState, OutputTrouble};
use crate::time::MonoNs;
use crate::view::snapshot::Snapshot;
use crate::view::too_short::TooShort;

/// A thread of the fleet other than a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetThread {
    /// Decides on events and delivers them.
    Aggregator,
    /// Looks up processes.
    Lookup,
    /// Waits for processes to exit.
    Watch,
    /// Maintains the files.
    Upkeep,
    /// Writes events.
    Events,
    /// Answers HTTP requests.
    Http,
    /// Starts actions.
    Act,
}

impl FleetThread {
    const COUNT: usize = 7;
}

impl fmt::Display for FleetThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aggregator => "aggregator",
            Self::Lookup => "lookup",
            Self::Watch => "watch",
            Self::Upkeep => "upkeep",
            Self::Events => "events",
            Self::Http => "HTTP",
            Self::Act => "act",
        })
    }
}

/// A problem of a running fleet. Shown as what is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A thread ended.
    Died(FleetThread),
    /// The aggregator makes no progress.
    AggregatorStuck,
    /// A shard's thread ended, or its socket failed for good.
    ShardDead(usize),
    /// A shard's thread makes no progress.
    ShardStuck(usize),
    /// A shard cannot receive all that is sent to it.
    Blind(usize),
    /// New agents do not find a shard's socket.
    Unreachable(usize),
    /// Exits of this many processes of a shard are noticed only at their threshold.
    Unwatched(usize, u64),
    /// A shard's queue is too short for its agents.
    QueueLimit {
        /// The shard.
        shard: usize,
        /// Agents that beat there.
        agents: u64,
        /// `net.unix.max_dgram_qlen` when its socket was created.
        limit: u64,
        /// The limit it needs.
        needed: u64,
    },
    /// The kernel has no memory for more agents of a shard.
    NoMemory(usize, String),
    /// New agents may not find their shard.
    Unlisted,
    /// Events are not written correctly.
    Output(OutputTrouble),
    /// No action can be started: there is no spawner.
    NoSpawner,
    /// The audit file did not take its last line; why not.
    Audit(String),
    /// The token file was replaced by an unusable one; the former token stays in force.
    Token(String),
    /// A threshold that cannot work.
    TooShort(TooShort),
    /// A problem found at the start.
    AtStart(String),
}

impl Problem {
    /// Whether agents are not observed or their events are not delivered. The fleet should be restarted then.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        match self {
            // Without these threads, agents are still observed and events still delivered.
            Self::Died(thread) => !matches!(thread, FleetThread::Http | FleetThread::Act),
            Self::AggregatorStuck | Self::ShardDead(_) | Self::ShardStuck(_) => true,
            Self::Blind(_)
            | Self::Unreachable(_)
            | Self::QueueLimit { .. }
            | Self::Unwatched(..)
            | Self::NoMemory(..)
            | Self::Unlisted
            | Self::Output(_)
            | Self::NoSpawner
            | Self::Audit(_)
            | Self::Token(_)
            | Self::TooShort(_)
            | Self::AtStart(_) => false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died(thread) => {
                let consequence = match thread {
                    FleetThread::Aggregator => "nothing is told",
                    FleetThread::Lookup => "no new agent is identified",
                    FleetThread::Watch => "no exit is noticed",
                    FleetThread::Upkeep => "nobody looks after the sockets and the manifest",
                    FleetThread::Events => "no event is written",
                    FleetThread::Http => "metrics, API and page are not answered",
                    FleetThread::Act => "no action is started",
                };
                write!(
                    f,
                    "the {thread} thread died: {consequence}; restart the observer and report its panic"
                )
            }
            Self::AggregatorStuck => {
                f.write_str("the aggregator is stuck: nothing is told; restart the observer")
            }
            Self::ShardDead(shard) => {
                write!(f, "shard {shard} is dead: its agents are not observed; restart the observer")
            }
            Self::ShardStuck(shard) => {
                write!(f, "shard {shard} is stuck: its agents are not observed; restart the observer")
            }
            Self::Blind(shard) => {
                write!(f, "shard {shard} is blind: its queue is full or it was paused; beats may be refused")
            }
            Self::Unreachable(shard) => {
                write!(f, "shard {shard} has lost its socket's path: no new agent finds it")
            }
            Self::Unwatched(shard, count) => write!(
                f,
                "shard {shard} cannot watch {count} processes: their exits are told at their threshold; raise \
                 LimitNOFILE or watched-max"
            ),
            Self::QueueLimit { shard, agents, limit, needed } => write!(
                f,
                "net.unix.max_dgram_qlen is {limit}, and shard {shard} has {agents} agents, which need {needed}: when \
                 all beat at once, what does not fit is refused to them; see `varta-fleet check --agents-max {agents}`"
            ),
            Self::NoMemory(shard, why) => write!(
                f,
                "shard {shard} has no memory for more agents: {why}; new ones are refused as table_full; raise the memory \
                 limit of the observer"
            ),
            Self::Unlisted => {
                f.write_str("the runtime directory is not in order: new agents may not find their sockets")
            }
            Self::Output(trouble) => trouble.fmt(f),
            Self::NoSpawner => f.write_str(
                "there is no spawner: no action can be started; it is tried again, see `varta-fleet check` and the messages \
                 of the spawner's service, if one is configured",
            ),
            Self::Audit(why) => write!(
                f,
                "the audit file takes no lines: {why}; actions go on without a record; make room, or name another file with \
                 audit"
            ),
            Self::Token(why) => write!(f, "the token of before stays in force: {why}"),
            Self::TooShort(found) => found.fmt(f),
            Self::AtStart(warning) => f.write_str(warning),
        }
    }
}

/// The health of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The problems, worst first.
    pub problems: Vec<Problem>,
}

impl Health {
    /// Whether agents are observed and their events delivered.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.problems.iter().any(Problem::is_fatal)
    }
}

/// What hinders actions at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActTroubles {
    /// Actions are configured, and there has been no spawner for a while.
    pub has_no_spawner: bool,
    /// Why the audit file did not take its last line; empty: it did, or there is none.
    pub audit: String,
}

/// The state of the threads; shared by all readers.
#[derive(Debug)]
pub struct Vitals {
    ports: Arc<[Arc<Port>]>,
    /// When the aggregator last finished a turn.
    pub aggregator_turned_at: Counter,
    vigil: Mutex<Vigil>,
    died: [AtomicBool; FleetThread::COUNT],
    /// From now on threads end in order.
    is_stopping: AtomicBool,
    output: Arc<OutputState>,
    at_start: OnceLock<Vec<String>>,
    /// What hinders the thread that acts.
    pub act: Mutex<ActTroubles>,
    /// Why the present token file is unusable; the former token stays in force.
    #[cfg(feature = "http")]
    pub token_trouble: Mutex<Option<String>>,
}

impl Vitals {
    /// The vitals of a fleet with these shards. `output`: problems of the event output.
    pub fn new(ports: Arc<[Arc<Port>]>, output: Arc<OutputState>) -> Arc<Self> {
        Arc::new(Self {
            ports,
            aggregator_turned_at: Counter::default(),
            vigil: Mutex::default(),
            died: Default::default(),
            is_stopping: AtomicBool::new(false),
            output,
            at_start: OnceLock::new(),
            act: Mutex::default(),
            #[cfg(feature = "http")]
            token_trouble: Mutex::default(),
        })
    }

    /// The guard that a thread holds while it runs.
    pub fn of(self: &Arc<Self>, thread: FleetThread) -> Lifeline {
        Lifeline { vitals: Arc::clone(self), thread }
    }

    /// Sets the problems found at the start; once.
    pub fn warn(&self, warnings: Vec<String>) {
        let _ = self.at_start.set(warnings);
    }

    /// The fleet stops: threads that end from now on are not reported.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// Whether this thread ended before the stop.
    pub fn has_died(&self, thread: FleetThread) -> bool {
        self.died[thread as usize].load(Ordering::Acquire)
    }

    /// The state of the threads. Call it about once a second: with fewer calls a stuck aggregator is noticed
    /// later. A time in which the whole process was paused is not counted.
    pub fn threads(&self, now: MonoNs) -> Health {
        use FleetThread::{Act, Aggregator, Events, Http, Lookup, Upkeep, Watch};
        let threads = [Aggregator, Lookup, Watch, Upkeep, Events, Http, Act];
        let mut problems: Vec<Problem> =
            threads.into_iter().filter(|thread| self.has_died(*thread)).map(Problem::Died).collect();
        let is_stuck = self.vigil.lock().look(MonoNs(self.aggregator_turned_at.get()), now);
        if is_stuck && !self.has_died(Aggregator) {
            problems.push(Problem::AggregatorStuck);
        }
        for (shard, port) in self.ports.iter().enumerate() {
            if port.counters.health() != ShardHealth::Alive {
                problems.push(Problem::ShardDead(shard));
            } else if !port.is_alive() {
                problems.push(Problem::ShardStuck(shard));
            }
        }
        // Fatal ones first: the end of the HTTP thread is not fatal.
        problems.sort_by_key(|problem| !problem.is_fatal());
        Health { problems }
    }

    /// The health of the fleet with these counts.
    pub fn health(&self, snapshot: &Snapshot, now: MonoNs) -> Health {
        let Health { mut problems } = self.threads(now);
        for (shard, port) in self.ports.iter().enumerate() {
            let error = port.table.grant_error();
            problems.extend(error.map(|error| Problem::NoMemory(shard, Reason(&error).to_string())));
        }
        for (index, shard) in snapshot.shards.iter().enumerate() {
            problems.extend(shard.is_blind.then_some(Problem::Blind(index)));
            problems.extend((!shard.is_reachable).then_some(Problem::Unreachable(index)));
            problems.extend(shard.queue_limit_missed().map(|needed| {
                let (agents, limit) = (shard.up + shard.stalled, shard.queue_limit);
                Problem::QueueLimit { shard: index, agents, limit, needed }
            }));
            problems.extend((shard.unwatched > 0).then_some(Problem::Unwatched(index, shard.unwatched)));
        }
        problems.extend((!snapshot.is_listed).then_some(Problem::Unlisted));
        problems.extend(self.output.trouble().map(Problem::Output));
        let ActTroubles { has_no_spawner, audit } = self.act.lock().clone();
        problems.extend(has_no_spawner.then_some(Problem::NoSpawner));
        problems.extend((!audit.is_empty()).then_some(Problem::Audit(audit)));
        #[cfg(feature = "http")]
        problems.extend(self.token_trouble.lock().clone().map(Problem::Token));
        problems.extend(snapshot.too_short.iter().cloned().map(Problem::TooShort));
        let at_start = self.at_start.get().into_iter().flatten();
        problems.extend(at_start.map(|warning| Problem::AtStart(warning.clone())));
        Health { problems }
    }
}

/// Records, when dropped, that its thread ended, by a panic or otherwise.
#[derive(Debug)]
pub struct Lifeline {
    vitals: Arc<Vitals>,
    thread: FleetThread,
}

impl Lifeline {
    /// Where the thread says what hinders it.
    pub const fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if !self.vitals.is_stopping.load(Ordering::Acquire) {
            self.vitals.died[self.thread as usize].store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::lane::kick::Kick;
    use crate::sinks::WriteTrouble;
    use crate::table::{self, Header};
    use crate::view::tally::Tally;

    fn ports(shards: u16) -> Arc<[Arc<Port>]> {
        let port = |shard| {
            let (_, table) =
                table::create(8, Header { boot_id: 0, pid_namespace: 0, shard, shards }).unwrap();
            Arc::new(Port::new(table, Arc::new(Kick::new().unwrap()), false).unwrap())
        };
        (0..shards).map(port).collect()
    }

    #[test]
    fn fault_76_a_thread_that_ends_before_the_stop_is_named_however_it_ended() {
        use FleetThread::{Act, Aggregator, Events, Http, Lookup, Upkeep, Watch};
        for died in [Aggregator, Lookup, Watch, Upkeep, Events, Http, Act] {
            for panics in [true, false] {
                let vitals = Vitals::new(ports(1), Arc::default());
                assert_eq!(vitals.threads(MonoNs(5)), Health::default());
                let lifeline = vitals.of(died);
                let body = move || {
                    let _lifeline = lifeline;
                    assert!(!panics, "a test asked for this panic");
                };
                assert_eq!(thread::spawn(body).join().is_err(), panics);
                let health = vitals.threads(MonoNs(5));
                assert_eq!(health.problems, [Problem::Died(died)]);
                assert_eq!(health.is_healthy(), matches!(died, Http | Act), "{died}");
                let told = health.problems[0].to_string();
                assert!(told.starts_with(&format!("the {died} thread died: ")), "{told}");
            }
        }
    }

    #[test]
    fn a_thread_that_ends_with_the_fleet_did_not_die() {
        let vitals = Vitals::new(ports(1), Arc::default());
        let lifeline = vitals.of(FleetThread::Watch);
        vitals.stop();
        drop(lifeline);
        assert_eq!(vitals.threads(MonoNs(5)), Health::default());
    }

    #[test]
    fn what_is_wrong_is_said_in_words_and_the_worst_first() {
        let vitals = Vitals::new(ports(2), Arc::default());
        let mut tally = Tally::default();
        tally.shards.resize_with(2, Default::default);
        tally.shards[0].is_unreachable = true;
        tally.shards[0].unwatched = 3;
        tally.is_unlisted = true;
        vitals.ports[1].counters.is_blind.set(1);
        vitals.ports[1].counters.queue_limit.set(511);
        tally.shards[1].up = 256;
        let _ = vitals.output.take(WriteTrouble::Failing { errno: libc::ENOSPC });
        *vitals.act.lock() = ActTroubles { has_no_spawner: true, audit: "no space left on it".to_owned() };
        vitals.warn(vec!["cold outside".to_owned()]);
        let health = || vitals.health(&Snapshot::take(&vitals.ports, &tally, 1), MonoNs(5));
        assert!(health().is_healthy(), "none of that is a reason to restart");
        assert_eq!(
            health().problems,
            [
                Problem::Unreachable(0),
                Problem::Unwatched(0, 3),
                Problem::Blind(1),
                Problem::QueueLimit { shard: 1, agents: 256, limit: 511, needed: 512 },
                Problem::Unlisted,
                Problem::Output(OutputTrouble::Held { errno: libc::ENOSPC }),
                Problem::NoSpawner,
                Problem::Audit("no space left on it".to_owned()),
                Problem::AtStart("cold outside".to_owned()),
            ]
        );
        drop(vitals.of(FleetThread::Http));
        vitals.ports[0].is_stuck.store(true, Ordering::Relaxed);
        vitals.ports[1].counters.set_health(ShardHealth::Panicked);
        assert!(!health().is_healthy());
        let worst = [Problem::ShardStuck(0), Problem::ShardDead(1), Problem::Died(FleetThread::Http)];
        assert_eq!(health().problems[..3], worst);
        let told: Vec<String> = health().problems.iter().map(ToString::to_string).collect();
        for part in
            ["shard 0 has lost", "watch 3 processes", "shard 1 is blind", "not in order", "no space left"]
        {
            assert!(told.iter().any(|problem| problem.contains(part)), "{part}: {told:?}");
        }
    }
}
