//! A running fleet takes another configuration: all of it is checked first, then what is live changes.
//!
//! Thread: the caller's. Blocks: on the disk to open the new output and read the token, and until the threads have
//! taken the change, for a bounded time.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::bounded;

use super::acquire::event_output;
use super::act::start_act;
use super::handle::Handle;
use super::run::write_events;
use super::stop::Writers;
use crate::action::request::Request as ActRequest;
use crate::aggregator::Request;
use crate::aggregator::policy::Policy;
use crate::aggregator::reload::{NewOutput, Reload};
use crate::config::ConfigError;
use crate::config::act::ActPlan;
use crate::config::live::{KeyChange, Reconciled, keys_of, reconcile};
use crate::config::plan::Plan;
use crate::config::trust::judge_programs;
use crate::event::{EventKind, ReloadOutcome};
#[cfg(feature = "http")]
use crate::http::{NotReloaded, Requested, Terms, TokenError, TokenFile};
use crate::lane::Port;
use crate::lane::settings::Settings;
use crate::message::Reason;
use crate::shard::front::sorted;
use crate::sinks::Descriptor;
use crate::table::admission::Admission;
use crate::view::units::Configured;
use crate::warning::Warning;

/// How long a reload waits for the aggregator to take it, and then for the shards. Both take milliseconds unless
/// they are stuck.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// What a reload changed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Reloaded {
    /// Keys whose new values are in force.
    pub changed: Vec<KeyChange>,
    /// Keys whose new values need a restart; until then the values before stay in force.
    pub restart: Vec<KeyChange>,
    /// Shards that made no turn within two seconds: they take the new values in their next one, before they judge any
    /// agent.
    pub late_shards: Vec<usize>,
    /// Problems that limit what was changed.
    pub warnings: Vec<Warning>,
}

/// Why a reload changed nothing. The configuration before stays in force, whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The configuration is refused, for each of these reasons.
    #[error("{}", listed(.0))]
    Refused(Vec<Refusal>),
    /// A thread does not make progress, so that it could not take the change.
    #[error("cannot reload: {what}; restart the observer")]
    Stuck {
        /// Which one.
        what: String,
    },
}

/// One reason to refuse a new configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Values cannot be used, or do not agree with those that only a restart changes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The event output cannot be opened, or the kernel grants no thread to write it.
    #[error(transparent)]
    Events(io::Error),
    /// The thread that acts cannot be started: the audit file cannot be opened, or the kernel grants no thread.
    #[error("cannot start the thread that acts: {}", Reason(.0))]
    Act(io::Error),
    /// The token cannot be used.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Token(#[from] TokenError),
}

fn listed(refusals: &[Refusal]) -> String {
    let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

impl ReloadError {
    pub(super) fn stuck(what: impl fmt::Display) -> Self {
        Self::Stuck { what: what.to_string() }
    }
}

impl From<ConfigError> for ReloadError {
    fn from(error: ConfigError) -> Self {
        Self::Refused(vec![error.into()])
    }
}

#[cfg(feature = "http")]
impl From<&Reloaded> for crate::api::Reload {
    fn from(done: &Reloaded) -> Self {
        let Reloaded { changed, restart, late_shards, warnings } = done.clone();
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Self { changed, restart, late_shards, warnings }
    }
}

/// A client's request to reload, which waits for an answer: see
/// [`Fleet::on_reload_request`](crate::Fleet::on_reload_request). If it is dropped, the client is told that there was
/// none.
#[cfg(feature = "http")]
#[derive(Debug)]
pub struct ReloadRequest(pub(super) Requested);

#[cfg(feature = "http")]
impl ReloadRequest {
    /// Tells the client what [`Fleet::reload`](crate::Fleet::reload) returned. Never blocks.
    pub fn answer(self, done: &Result<Reloaded, ReloadError>) {
        self.0.answer(match done {
            Ok(done) => Ok(done.into()),
            Err(error) => Err(NotReloaded {
                is_refused: matches!(error, ReloadError::Refused(_)),
                error: error.to_string(),
            }),
        });
    }
}

/// What is in force, and what a reload needs to change it.
#[derive(Debug)]
pub struct InForce {
    pub plan: Plan,
    /// As configured at the start.
    pub started: Plan,
    pub admission: Arc<Admission>,
}

/// What was opened for a new plan, before anything changes.
#[derive(Default)]
struct Opened {
    output: Option<Descriptor>,
    #[cfg(feature = "http")]
    token: Option<TokenFile>,
}

/// Opens what a plan needs and the one in force does not have.
///
/// # Errors
/// Everything that cannot be opened.
fn open(plan: &Plan, has_other_output: bool, has_other_token: bool) -> Result<Opened, Vec<Refusal>> {
    let mut opened = Opened::default();
    let mut refusals = Vec::new();
    if let Some(events) = plan.events.as_ref().filter(|_| has_other_output) {
        match event_output(events) {
            Ok(output) => opened.output = Some(output),
            Err(error) => refusals.push(Refusal::Events(error)),
        }
    }
    #[cfg(feature = "http")]
    if let Some(path) = plan.http.token_file.as_deref().filter(|_| has_other_token) {
        match TokenFile::open(path) {
            Ok(token) => opened.token = Some(token),
            Err(error) => refusals.push(error.into()),
        }
    }
    #[cfg(not(feature = "http"))]
    let _ = has_other_token;
    if refusals.is_empty() { Ok(opened) } else { Err(refusals) }
}

impl InForce {
    /// Puts in force what is live of `plan`.
    pub fn reload(
        &mut self,
        plan: Result<Plan, ConfigError>,
        handle: &Handle,
        writers: &Writers,
    ) -> Result<Reloaded, ReloadError> {
        let checked = plan.and_then(|plan| {
            ConfigError::check(judge_programs(plan.act.as_ref()))?;
            Ok(plan)
        });
        let done = checked.map_err(ReloadError::from).and_then(|plan| self.change(&plan, handle, writers));
        if done.is_err() {
            let _ = handle.requests.send(Request::ReloadRefused);
            handle.doorbell.ring();
        }
        done
    }

    fn change(&mut self, plan: &Plan, handle: &Handle, writers: &Writers) -> Result<Reloaded, ReloadError> {
        let Reconciled { plan, changed, restart } =
            reconcile(&self.plan, &self.started, plan, handle.has_beats())?;
        let has_other = |key: &str| changed.iter().any(|change| change.key == key);
        let has_other_output = plan.events != self.plan.events;
        let has_other_token = has_other("http.token-file");
        let opened = open(&plan, has_other_output, has_other_token).map_err(ReloadError::Refused)?;
        if let Some(shard) = handle.ports.iter().position(|port| port.is_stuck.load(Ordering::Relaxed)) {
            return Err(ReloadError::stuck(format_args!("shard {shard} makes no progress")));
        }
        if let (None, Some(act)) = (&self.plan.act, &plan.act) {
            let idle = ActPlan { actions: Vec::new(), ..act.clone() };
            start_act(&idle, &plan.dir, handle)
                .map_err(|error| ReloadError::Refused(vec![Refusal::Act(error)]))?;
            self.plan.act = Some(idle);
        }
        let output = match (has_other_output, &plan.events, opened.output) {
            (false, ..) => None,
            (true, Some(events), Some(output)) => {
                let earlier = writers.before(&events.output, output.file());
                let (writer, subscriber) = write_events(&plan, events, output, earlier, handle)
                    .map_err(|error| ReloadError::Refused(vec![Refusal::Events(error)]))?;
                Some((Some(writer), Some(subscriber)))
            }
            (true, ..) => Some((None, None)),
        };
        let (writer, subscriber) = output.unzip();
        let has_other_classes = plan.threshold_ns != self.plan.threshold_ns || plan.rules != self.plan.rules;
        let is_decided = Arc::new(AtomicBool::new(false));
        let (progress, steps) = bounded(2);
        let event = EventKind::Reload {
            outcome: ReloadOutcome::Applied,
            changed: keys_of(&changed),
            restart: keys_of(&restart),
        };
        let reload = Reload {
            policy: has_other_classes.then(|| Policy { classes: plan.classes(), rules: plan.rules.clone() }),
            shards: plan
                .all_shards()
                .map(|shard| Settings {
                    edition: 0,
                    table: None,
                    allow_uids: shard.allow_uids.as_deref().map(sorted),
                    uid_frames_max: plan.uid_frames_max,
                    max_delay_ns: plan.max_delay_ns,
                })
                .collect(),
            output: subscriber.map(|subscriber| NewOutput { subscriber, earlier: writers.ends() }),
            event,
            is_decided: Arc::clone(&is_decided),
            progress,
        };
        let _ = handle.requests.send(Request::Reload(Box::new(reload)));
        handle.doorbell.ring();
        let taken = steps.recv_timeout(TAKEN_WITHIN).or_else(|error| {
            // It may have begun just now.
            let is_begun = is_decided.swap(true, Ordering::AcqRel);
            if is_begun { steps.recv_timeout(TAKEN_WITHIN) } else { Err(error) }
        });
        let Ok(edition) = taken else {
            return Err(ReloadError::stuck("the aggregator makes no progress"));
        };
        if let Some(writer) = writer {
            writers.replace(writer);
        }
        if plan.metrics_units != self.plan.metrics_units {
            let _ = handle.requests.send(Request::Units(Configured::new(&plan.metrics_units)));
            handle.doorbell.ring();
        }
        self.admission.set_share(plan.uid_agents_max);
        #[cfg(feature = "http")]
        if has_other_token {
            *handle.token.lock() = opened.token;
        }
        let _ = steps.recv_timeout(TAKEN_WITHIN);
        #[cfg(feature = "http")]
        handle.terms.set(Terms::of(&plan));
        let is_late = |port: &Port| port.handover.edition() < edition && port.counters.is_alive();
        let shards = handle.ports.iter().enumerate();
        let late_shards = shards.filter(|(_, port)| is_late(port)).map(|(shard, _)| shard).collect();
        let warnings =
            if has_other("rule") { Warning::of_rules(&plan).into_iter().collect() } else { Vec::new() };
        if let (Some(act), Some(plan)) = (&*handle.act.lock(), &plan.act)
            && Some(plan) != self.plan.act.as_ref()
        {
            act.ask(ActRequest::Replace(Box::new(plan.clone())));
        }
        self.plan = plan;
        Ok(Reloaded { changed, restart, late_shards, warnings })
    }
}
