//! The wiring: config -> fleet -> handle. What it needs is acquired first, then threads run on it, and stop in order.
//!
//! Start: lock, bind all sockets, reserve memory, open the output ([`acquire`]); what tells runs, shards receive,
//! questions are answered, manifest, symlink ([`run`]). Stop: shards drain, the aggregator tells what is left,
//! outputs flush, files go, the lock last ([`Running::stop`]).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::acquire::acquire;
use super::error::StartError;
use super::handle::Handle;
use super::run::{Started, run};
use super::stop::{Running, StopReport, WRITE_WITHIN};
use crate::config::Config;
use crate::config::plan::Plan;
use crate::sys::clock::SystemClock;
use crate::time::Clock;
use crate::view::health::{FleetThread, Health};
use crate::warning::Warning;

/// A running fleet. Dropping it stops it.
#[derive(Debug)]
pub struct Fleet {
    handle: Handle,
    /// `None` only while it is dropped.
    running: Option<Running>,
    /// The end of the HTTP thread was told.
    is_unanswered_told: AtomicBool,
    dir: PathBuf,
    /// Where questions are answered by TCP.
    address: Option<SocketAddr>,
    warnings: Vec<Warning>,
}

impl Fleet {
    /// Starts to observe as configured. Returns once every shard receives and agents can find it.
    ///
    /// Installs no signal handler and no logger, changes nothing of the process but its threads.
    ///
    /// # Errors
    /// The first thing that cannot be had; nothing is left behind.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_plan(config.plan()?)
    }

    /// As [`Fleet::start`], of a plan made before.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_plan(plan: Plan) -> Result<Self, StartError> {
        let acquired = acquire(&plan)?;
        let dir = acquired.files.dir.path().to_owned();
        #[cfg(feature = "http")]
        let address = acquired.listeners.address();
        #[cfg(not(feature = "http"))]
        let address = None;
        let Started { running, handle, warnings } = run(&plan, acquired)?;
        let is_unanswered_told = AtomicBool::new(false);
        Ok(Self { handle, running: Some(running), is_unanswered_told, dir, address, warnings })
    }

    /// Where metrics, API and status page are served by TCP, if they are.
    #[must_use]
    pub const fn http_address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What works less well than it should.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The next thing that came to work less well since the start, or works again; each is told once. To be
    /// asked for about once a second; `io` events tell the same.
    #[must_use]
    pub fn next_warning(&self) -> Option<Warning> {
        let is_unanswered = self.handle.vitals.has_died(FleetThread::Http);
        if is_unanswered && !self.is_unanswered_told.swap(true, Ordering::Relaxed) {
            return Some(Warning::Unanswered);
        }
        self.running.as_ref().and_then(|running| running.upkeep.next_warning())
    }

    /// Whether every thread that observes and tells runs, and turns: one that is stuck for 5 s is not healthy. To
    /// be asked about once a second; who asks less often learns later that the aggregator is stuck. A time in
    /// which the whole process stood still counts against nobody. Never waits for any of them.
    ///
    /// A socket that agents cannot find any more does not count: to end for it would lose those that are
    /// connected, too. [`Fleet::next_warning`], an `io` event and the [`Snapshot`](crate::Snapshot) tell of it.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.handle.vitals.threads(SystemClock.mono()).is_healthy()
    }

    /// What is wrong, fatal or not; as [`Fleet::is_healthy`] otherwise, and about 0.1 ms more.
    #[must_use]
    pub fn health(&self) -> Health {
        self.handle.health()
    }

    /// Opens the event output again, at once; for whoever has moved its file away and does not want to wait for the
    /// next event. Without it the next event finds out. Never waits.
    pub fn reopen(&self) {
        if let Some(writer) = self.running.as_ref().and_then(|running| running.tellers.writer.as_ref()) {
            writer.reopen();
        }
    }

    /// To be asked from any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The runtime directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops: shards drain what is queued, what is left is told, outputs flush, the files go. `within`
    /// bounds the flushing of the event output; the rest takes milliseconds. A thread that is stuck is left
    /// behind after 5 s; it ends by itself if it ever goes on.
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
