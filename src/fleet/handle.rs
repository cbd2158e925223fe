//! Queries to a running fleet, and its events.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::action::thread::Act;
use crate::aggregator::Request;
use crate::aggregator::fanout::Subscriber;
use crate::event::Event;
#[cfg(feature = "http")]
use crate::http::{Reloader, TermsInForce, TokenFile};
use crate::journal::Journal;
use crate::lane::{Doorbell, Port};
use crate::process::names::Names;
use crate::sinks::{OutputState, OutputTrouble};
use crate::sys::clock::SystemClock;
use crate::time::Clock;
use crate::view::copies::Copies;
use crate::view::health::{Health, Vitals};
use crate::view::snapshot::{Latencies, Snapshot};
use crate::view::tally::Reader;
use crate::view::text::Table;

/// Queries a running fleet, from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) ports: Arc<[Arc<Port>]>,
    pub(super) copies: Arc<Copies>,
    pub(super) requests: Sender<Request>,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) agents_max: u32,
    /// Problems of the event output.
    pub(super) output: Arc<OutputState>,
    /// What a successor goes on from.
    pub(super) journal: Arc<Journal>,
    /// What HTTP answers say of the configuration.
    #[cfg(feature = "http")]
    pub(super) terms: Arc<TermsInForce>,
    /// Who reloads on request.
    #[cfg(feature = "http")]
    pub(super) reloader: Arc<Reloader>,
    /// The token of TCP clients.
    #[cfg(feature = "http")]
    pub(super) token: Arc<Mutex<Option<TokenFile>>>,
    /// Names of processes.
    pub(super) names: Arc<Names>,
    /// The thread that acts, once there is an action.
    pub(super) act: Arc<Mutex<Option<Act>>>,
    /// Its end.
    pub(super) act_thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Events in order; gaps are reported.
#[derive(Debug)]
pub struct Subscription {
    pub(super) events: Receiver<Event>,
}

impl Handle {
    /// Events reported from now on. `capacity`: how many may wait, at least 2; a slower reader loses events
    /// and gets `Lost` with their range.
    #[must_use]
    pub fn subscribe(&self, capacity: usize) -> Subscription {
        let (subscriber, events) = Subscriber::new(Reader::Subscriber, capacity);
        let _ = self.requests.send(Request::Subscribe(subscriber));
        self.doorbell.ring();
        Subscription { events }
    }

    /// The present counts. The aggregator copies them between two turns, about 0.1 ms; if it takes no turn
    /// within 0.1 s, those of its last copy. Never waits for a shard.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.ports, &self.copies.take(), self.agents_max)
    }

    /// Whether the fleet was started to report every beat.
    pub(super) fn has_beats(&self) -> bool {
        self.ports.iter().any(|port| port.beats.is_some())
    }

    pub(super) fn health(&self) -> Health {
        let snapshot = Snapshot::take(&self.ports, &self.copies.latest(), self.agents_max);
        self.vitals.health(&snapshot, SystemClock.mono())
    }

    /// The present problem of the event output, if any.
    #[must_use]
    pub fn output_trouble(&self) -> Option<OutputTrouble> {
        self.output.trouble()
    }

    /// Histograms and counters as a table of text.
    #[must_use]
    pub fn table(&self) -> String {
        let tally = self.copies.take();
        let snapshot = Snapshot::take(&self.ports, &tally, self.agents_max);
        let health = self.vitals.health(&snapshot, SystemClock.mono());
        Table { snapshot: &snapshot, health: &health, merged: Latencies::from(&tally.merged()) }.to_string()
    }
}

impl Subscription {
    /// The next event; waits for it up to `timeout`. `None` after the timeout, or if the fleet stopped.
    #[must_use]
    pub fn next_within(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// The next event if there is one. Never waits.
    #[must_use]
    pub fn try_next(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

impl Iterator for Subscription {
    type Item = Event;

    /// The next event; waits for it. `None` when the fleet stopped.
    fn next(&mut self) -> Option<Event> {
        self.events.recv().ok()
    }
}
