//! The wiring: config -> fleet -> handle. Resources are acquired first, then threads run on them, and stop in
//! order.
//!
//! Start: lock, bind all sockets, reserve memory, open the output ([`acquire`]); start the aggregator and its
//! helpers, the shards, HTTP, then publish manifest and symlink ([`run`]). Stop: shards drain, the aggregator
//! reports what is left, outputs flush, files are removed unless the sockets are kept, the lock last
//! ([`Running::stop`]).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::acquire::acquire;
use super::error::StartError;
use super::handle::Handle;
use super::inherited::Inherited;
use super::predecessor::{Adopted, ToStore};
#[cfg(feature = "http")]
use super::reload::ReloadRequest;
use super::reload::{InForce, ReloadError, Reloaded};
use super::run::{Started, run};
use super::stop::{Running, StopReport, WRITE_WITHIN};
use super::takeover::{Handed, Reply, Successors};
use crate::action::request::Request as ActRequest;
use crate::config::plan::Plan;
use crate::config::trust::judge_programs;
use crate::config::{Config, ConfigError};
use crate::lane::Port;
use crate::rundir::binding::BoundSocket;
use crate::sys::clock::SystemClock;
use crate::time::{Clock, MonoNs};
use crate::view::health::{FleetThread, Health};
use crate::warning::Warning;

/// A running fleet. Dropping it stops it.
#[derive(Debug)]
pub struct Fleet {
    handle: Handle,
    /// `None` only while it is dropped.
    running: Option<Running>,
    /// The end of the HTTP thread was reported.
    is_unanswered_told: AtomicBool,
    in_force: Mutex<InForce>,
    dir: PathBuf,
    /// The TCP address of HTTP.
    address: Option<SocketAddr>,
    warnings: Vec<Warning>,
    to_store: Vec<ToStore>,
    adopted: Option<Adopted>,
    plan: Plan,
}

impl Fleet {
    /// Starts to observe as configured. Returns once every shard receives and agents can find it.
    ///
    /// Installs no signal handler and no logger; changes nothing in the process but its threads.
    ///
    /// # Errors
    /// The first resource that is refused; everything acquired before is released.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_plan(config.plan()?)
    }

    /// As [`Fleet::start`], with a plan made before.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_plan(plan: Plan) -> Result<Self, StartError> {
        Self::start_with(plan, &mut Inherited::default())
    }

    /// As [`Fleet::start_plan`], on sockets that were passed to this process. Those that were not passed are
    /// bound. Descriptors that are not taken stay in `inherited`.
    ///
    /// # Errors
    /// As [`Fleet::start`]; also what is wrong with a passed descriptor.
    pub fn start_with(plan: Plan, inherited: &mut Inherited) -> Result<Self, StartError> {
        Self::start_kept(plan, inherited, |_| false)
    }

    /// As [`Fleet::start_with`]. Before anything is observed, `keep` hands what a successor will need to another
    /// process, and returns whether that process has all of it: then the sockets live on, and their paths and the
    /// manifest stay at the stop.
    ///
    /// # Errors
    /// As [`Fleet::start_with`].
    pub fn start_kept(
        mut plan: Plan,
        inherited: &mut Inherited,
        keep: impl FnOnce(&[ToStore]) -> bool,
    ) -> Result<Self, StartError> {
        ConfigError::check(judge_programs(plan.act.as_ref()))?;
        let started = plan.clone();
        let mut acquired = acquire(&mut plan, inherited)?;
        let admission = Arc::clone(&acquired.admission);
        if keep(&acquired.to_store) {
            acquired.files.sockets.iter_mut().for_each(BoundSocket::keep_path);
        }
        let dir = acquired.files.dir.path().to_owned();
        #[cfg(feature = "http")]
        let address = acquired.listeners.address();
        #[cfg(not(feature = "http"))]
        let address = None;
        let adopted = acquired.adopted;
        let Started { running, handle, warnings, to_store, takeover } = run(&plan, acquired)?;
        if let Some(takeover) = takeover {
            takeover.observing();
        }
        let is_unanswered_told = AtomicBool::new(false);
        let in_force = Mutex::new(InForce { plan: plan.clone(), started, admission });
        Ok(Self {
            handle,
            running: Some(running),
            is_unanswered_told,
            in_force,
            dir,
            address,
            warnings,
            plan,
            to_store,
            adopted,
        })
    }

    /// What runs: the plan of the start, with the shards, modes and groups of sockets that were passed. A reload does
    /// not change it.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What was taken over from an observer before this one; `None` if it started anew.
    #[must_use]
    pub const fn adopted(&self) -> Option<Adopted> {
        self.adopted
    }

    /// What a successor needs to go on with these agents: sockets, and memory that outlives this process. Pass it
    /// to [`Fleet::start_with`] of the successor under the same names, on the same boot and in the same pid
    /// namespace.
    #[must_use]
    pub fn to_store(&self) -> &[ToStore] {
        &self.to_store
    }

    /// The TCP address of metrics, API and status page, if they are served by TCP.
    #[must_use]
    pub const fn http_address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Problems found at the start that limit the fleet.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The next problem since the start, or its end; each is returned once. Call it about once a second; `io`
    /// events report the same.
    #[must_use]
    pub fn next_warning(&self) -> Option<Warning> {
        let is_unanswered = self.handle.vitals.has_died(FleetThread::Http);
        if is_unanswered && !self.is_unanswered_told.swap(true, Ordering::Relaxed) {
            return Some(Warning::Unanswered);
        }
        self.running.as_ref().and_then(|running| running.upkeep.next_warning())
    }

    /// Whether every thread that observes or reports runs and makes progress: a thread stuck for 5 s is not
    /// healthy. Call it about once a second; with fewer calls a stuck aggregator is noticed later. A time in
    /// which the whole process was paused is not counted. Never waits for a thread.
    ///
    /// A socket that agents no longer find does not make the fleet unhealthy: a restart would also lose the
    /// agents that are connected. [`Fleet::next_warning`], an `io` event and the
    /// [`Snapshot`](crate::Snapshot) report it.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.handle.vitals.threads(SystemClock.mono()).is_healthy()
    }

    /// Wakes every shard and the aggregator for a turn, and returns the present instant, for
    /// [`Fleet::has_turned_since`]. An idle shard turns only once a second by itself. Never waits.
    #[must_use]
    pub fn wake(&self) -> MonoNs {
        let now = SystemClock.mono();
        for port in &*self.handle.ports {
            port.kick(now);
        }
        self.handle.doorbell.ring();
        now
    }

    /// Whether every shard and the aggregator has ended a turn that was under way at this instant or began
    /// after it. The other threads do not count: without them, stalls are still found and told.
    #[must_use]
    pub fn has_turned_since(&self, then: MonoNs) -> bool {
        let has_turned = |port: &Port| port.counters.turned_at.get() >= then.0;
        self.handle.vitals.aggregator_turned_at.get() >= then.0
            && self.handle.ports.iter().all(|port| has_turned(port))
    }

    /// All problems, fatal or not; otherwise as [`Fleet::is_healthy`]. Costs about 0.1 ms more.
    #[must_use]
    pub fn health(&self) -> Health {
        self.handle.health()
    }

    /// Reopens the event output at once, after its file was moved away, and the audit file. Without this call the next
    /// event detects the move of the first. Never waits.
    pub fn reopen(&self) {
        if let Some(running) = &self.running {
            running.tellers.writers.reopen();
            if let Some(act) = &*self.handle.act.lock() {
                act.ask(ActRequest::Reopen);
            }
        }
    }

    /// Takes another configuration while agents are observed: first all of it is checked, then what is live changes, at
    /// once. `plan` is what [`Config::plan`] made of it; a refused one is counted and reported, too.
    ///
    /// Live are thresholds, rules, budgets, allowed users, the event output, the HTTP token and the longest delay (see
    /// [`Key::is_live`](crate::config::Key::is_live)); other keys with another value are named in
    /// [`Reloaded::restart`], and stay as they are. An agent whose threshold became shorter is not judged before it
    /// has passed once since the reload; until an agent was looked up again, the largest threshold holds for it.
    ///
    /// A changed event output is written from the `reload` event on; the events before it still go to the one before,
    /// which is written to its end in the background.
    ///
    /// Several calls at once come one after the other. Blocks on the disk, and up to two seconds each for the
    /// aggregator and the shards; normally a few milliseconds.
    ///
    /// # Errors
    /// Why nothing changed.
    pub fn reload(&self, plan: Result<Plan, ConfigError>) -> Result<Reloaded, ReloadError> {
        let Some(running) = &self.running else { return Err(ReloadError::stuck("the fleet has stopped")) };
        self.in_force.lock().reload(plan, &self.handle, &running.tellers.writers)
    }

    /// Hands the requests of clients to reload (`varta-fleet reload`) to `handler`, on the HTTP thread; it must not
    /// block. The fleet does not know where its configuration comes from: read it, call [`Fleet::reload`] on another
    /// thread, and answer. Without a handler clients are told that this program does not reload.
    ///
    /// Such requests come through `control.sock` only, of root and of the user of this process.
    #[cfg(feature = "http")]
    pub fn on_reload_request(&self, handler: impl Fn(ReloadRequest) + Send + 'static) {
        self.handle.reloader.set(Box::new(move |requested| handler(ReloadRequest(requested))));
    }

    /// A handle for queries from any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Lets another observer take over from this one: see [`Inherited::take_over`]. `handler` is called, on a thread of
    /// the fleet, with the pid of the successor once that goes on in the place of this one. It must not block; call
    /// [`Fleet::leave`] at once, on another thread. Until this is called, successors are refused.
    pub fn on_takeover(&self, handler: impl FnOnce(u32) + Send + 'static) {
        self.reply_to_successors(Reply::HandOver(Box::new(handler)));
    }

    /// Refuses successors; they are told why, and what to do.
    pub fn refuse_takeover(&self, why: &str) {
        self.reply_to_successors(Reply::Refuse(why.to_owned()));
    }

    fn reply_to_successors(&self, reply: Reply) {
        if let Some(successors) = self.running.as_ref().and_then(|running| running.successors.as_ref()) {
            successors.reply(reply);
        }
    }

    /// Whether another observer has taken over from this one, which is to [leave](Fleet::leave). Never waits.
    #[must_use]
    pub fn is_taken_over(&self) -> bool {
        let successors = self.running.as_ref().and_then(|running| running.successors.as_ref());
        successors.is_some_and(Successors::have_taken)
    }

    /// Ends a fleet that was taken over: no file is removed. Then waits until the successor observes, up to half a
    /// minute.
    ///
    /// # Errors
    /// It was not taken over, so it was stopped, as by [`Fleet::stop`] with `within`.
    pub fn leave(mut self, within: Duration) -> Result<Handed, StopReport> {
        self.running.take().map_or_else(|| Err(StopReport::default()), |running| running.leave(within))
    }

    /// The runtime directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops: shards drain their queues, remaining events are reported, outputs flush, the files are removed
    /// unless the sockets are kept. `within` limits the flush of the event output; the rest takes milliseconds. A stuck thread is left
    /// behind after 5 s; it ends by itself if it ever continues.
    #[must_use]
    pub fn stop(mut self, within: Duration) -> StopReport {
        self.running.take().map(|running| running.stop(within)).unwrap_or_default()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.stop(WRITE_WITHIN);
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
