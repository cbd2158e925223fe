//! The data that responses are made of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::reload::Reloader;
use crate::action::thread::Act;
use crate::api::EventLog;
use crate::config::classes::Classes;
use crate::config::plan::{Output, Plan, Rule};
use crate::history::History;
use crate::lane::Port;
use crate::process::names::Names;
use crate::route::shard_for;
use crate::sinks::OutputState;
use crate::sys::clock::SystemClock;
use crate::time::{Clock, MonoNs, WallNs};
use crate::view::copies::Copies;
use crate::view::health::Vitals;

/// The data that responses are made of.
#[derive(Debug)]
pub struct Sources {
    /// What the shards publish.
    pub ports: Arc<[Arc<Port>]>,
    /// What the aggregator counts.
    pub copies: Arc<Copies>,
    /// What the fleet was like.
    pub history: Arc<History>,
    /// Names of processes.
    pub names: Arc<Names>,
    /// State of the threads.
    pub vitals: Arc<Vitals>,
    /// Problems of the event output.
    pub output: Arc<OutputState>,
    /// Thresholds and rules in force.
    pub terms: Arc<TermsInForce>,
    /// The plan of the start, of which only what a reload does not change is read.
    pub plan: Plan,
    /// Who reloads the configuration.
    pub reloader: Arc<Reloader>,
    /// The thread that acts, if there is one.
    pub act: Arc<Mutex<Option<Act>>>,
    /// The runtime directory.
    pub dir: PathBuf,
    /// Whether shards and aggregator have the priority they request, and it takes effect on the whole host.
    pub is_raised: [bool; 2],
    /// Distinguishes the numbers of its events from those of other fleets.
    pub run: u64,
    /// When the fleet started.
    pub started: (MonoNs, WallNs),
    /// The address of the TCP listener.
    pub address: Option<SocketAddr>,
}

/// What a reload changes of what is answered.
#[derive(Debug)]
pub struct Terms {
    /// The threshold of agents that no rule matches, ns.
    pub threshold_ns: u64,
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// The threshold of each class of agents.
    pub classes: Classes,
    /// The file of the event log.
    pub event_log: Option<EventLog>,
    /// The dashboard to which the page links.
    pub dashboard: Option<String>,
    /// Users who may hold, brake and start actions, beside root and our own.
    pub writers: Vec<u32>,
}

impl Terms {
    /// Those of a plan.
    pub fn of(plan: &Plan) -> Self {
        let event_log = plan.events.as_ref().and_then(|events| match &events.output {
            Output::Stdout => None,
            Output::File(path) => {
                let path = path.to_str()?.to_owned();
                Some(EventLog { path, format: events.format.as_str().to_owned() })
            }
        });
        Self {
            threshold_ns: plan.threshold_ns,
            rules: plan.rules.clone(),
            classes: plan.classes(),
            event_log,
            dashboard: plan.http.dashboard.clone(),
            writers: plan.control_writers.clone(),
        }
    }
}

/// The [`Terms`] in force, which a reload replaces. While it is under way, a slot may show a class of the others.
#[derive(Debug)]
pub struct TermsInForce(RwLock<Arc<Terms>>);

impl TermsInForce {
    /// These, until they are replaced.
    pub fn new(terms: Terms) -> Self {
        Self(RwLock::new(Arc::new(terms)))
    }

    /// Puts others in force.
    pub fn set(&self, terms: Terms) {
        *self.0.write() = Arc::new(terms);
    }
}

impl Sources {
    /// Thresholds and rules in force.
    pub fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.0.read())
    }

    pub fn now(&self) -> MonoNs {
        SystemClock.mono()
    }

    pub fn is_off_hash(&self, pid: u32, shard: u16) -> bool {
        let shards = u32::try_from(self.plan.shards.len()).unwrap_or(u32::MAX);
        u32::from(shard) < shards && shard_for(pid, shards) != u32::from(shard)
    }
}
