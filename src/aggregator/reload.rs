//! What a reload changes, and how far it has come.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam::channel::{Receiver, Sender, TryRecvError};

use super::fanout::Subscriber;
use super::policy::Policy;
use crate::event::EventKind;
use crate::lane::settings::Settings;
use crate::time::MonoNs;

/// What a reload changes.
#[derive(Debug)]
pub struct Reload {
    /// Rules and thresholds, if they change.
    pub policy: Option<Policy>,
    /// By shard, without number and table.
    pub shards: Vec<Settings>,
    /// The event output, if that changes.
    pub output: Option<NewOutput>,
    /// The event that reports it, the first for the new output.
    pub event: EventKind,
    /// Whoever sets it first decides: the aggregator takes the reload, or the caller gives it up.
    pub is_decided: Arc<AtomicBool>,
    /// Gets the number of the reload when the aggregator has taken it, and again when every shard has whose thread
    /// runs.
    pub progress: Sender<u64>,
}

/// Another event output.
#[derive(Debug)]
pub struct NewOutput {
    /// Its subscriber; `None`: no output.
    pub subscriber: Option<Subscriber>,
    /// The writers of the outputs before it, each disconnected once it has written everything.
    pub earlier: Vec<Receiver<Infallible>>,
}

/// Where a reload stands.
#[derive(Debug, Default)]
pub struct Reloading {
    /// The number of the last reload.
    pub edition: u64,
    /// The number of the present table of classes.
    pub table: u16,
    /// When the last reload that changed classes was taken.
    pub at: MonoNs,
    /// Waits until every shard has taken the last reload.
    pub waiting: Option<Sender<u64>>,
    /// Writers of outputs that were replaced, and may have something to write.
    pub earlier: Vec<Receiver<Infallible>>,
    /// There are agents to be matched again.
    pub is_matching: bool,
}

impl Reloading {
    /// Whether outputs that were replaced have something to write.
    pub fn is_writing_earlier(&mut self) -> bool {
        self.earlier.retain(|ended| ended.try_recv() == Err(TryRecvError::Empty));
        !self.earlier.is_empty()
    }
}

/// Where a shard stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matching {
    /// Every agent was looked up since the last reload, or will be for another reason.
    #[default]
    Done,
    /// The shard has not taken the classes of the reload with this number.
    Offered(u64),
    /// Slots from here on were in use when it took them.
    From(u32),
}
