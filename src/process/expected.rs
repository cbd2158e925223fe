//! Agents that beat to an observer before this one, from which they were not adopted: who they were, and what became
//! of them.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::procfs;
use crate::event::Comm;

/// An agent of an earlier observer, as the roster has it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// When its process started, in clock ticks since boot: distinguishes it from others with this pid.
    pub start: u64,
    /// Name of its process.
    pub comm: Comm,
    /// `None` if it beat to the observer that wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absence: Option<Absence>,
}

/// The absence of an agent that beat to an observer still earlier only.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Absence {
    /// It was awaited.
    Awaited,
    /// It was reported as missing.
    Missing,
}

impl Expected {
    /// The process with this pid, as an agent of this user. `None` if it is gone or cannot be read. Four system
    /// calls.
    pub fn of(pid: u32, uid: u32) -> Option<Self> {
        let procfs::Stat { start_ticks, comm, .. } = procfs::stat(pid)?;
        Some(Self { pid, uid, start: start_ticks, comm: (&*comm).into(), absence: None })
    }
}

/// An agent that has to beat to this observer. The aggregator writes what becomes of it, upkeep reads that.
#[derive(Debug)]
pub struct Absent {
    /// Who it is.
    pub expected: Expected,
    is_missing: AtomicBool,
    was_found: AtomicBool,
    is_over: AtomicBool,
}

impl Absent {
    /// It is awaited, or missing already.
    pub const fn new(expected: Expected) -> Self {
        let is_missing = matches!(expected.absence, Some(Absence::Missing));
        let (was_found, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { expected, is_missing: AtomicBool::new(is_missing), was_found, is_over }
    }

    /// Whether it was reported as missing.
    pub fn is_missing(&self) -> bool {
        self.is_missing.load(Ordering::Relaxed)
    }

    /// It was reported as missing.
    pub fn set_missing(&self) {
        self.is_missing.store(true, Ordering::Relaxed);
    }

    /// Whether a process was found that may be it.
    pub fn was_found(&self) -> bool {
        self.was_found.load(Ordering::Relaxed)
    }

    /// A process was found that may be it.
    pub fn set_found(&self) {
        self.was_found.store(true, Ordering::Relaxed);
    }

    /// It beats, or has exited.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether its absence is over.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// How it stands now; `None` if its absence is over.
    pub fn now(&self) -> Option<Expected> {
        let absence = if self.is_missing() { Absence::Missing } else { Absence::Awaited };
        (!self.is_over()).then_some(Expected { absence: Some(absence), ..self.expected })
    }
}
