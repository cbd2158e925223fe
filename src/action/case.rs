//! One action for one agent, from its trigger to its end.

use super::Subject;
use super::backoff::Counted;
use crate::event::{ActionName, ActionWhy};
use crate::time::MonoNs;

/// What must hold right before a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The process lives and is stalled.
    Stalled,
    /// The process lives and is frozen.
    Frozen,
    /// The process lives, beats and is at a standstill.
    Still,
    /// The process lives.
    Alive,
    /// Nothing: it is gone, or may be.
    Nothing,
}

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Matter {
    /// A stall.
    Stall,
    /// An exit.
    Exit,
    /// A crash report.
    Terminal,
    /// A freeze.
    Frozen,
    /// A standstill.
    Standstill,
    /// It does not come back after a restart.
    Missing,
    /// A stall that ended.
    Resume,
    /// An operator wants it.
    Hand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Until this instant: the trigger has to last.
    Waiting(MonoNs),
    /// In the queue.
    Due,
    /// Its child runs.
    Running,
    /// Until this instant: it was tried, and is tried again.
    Again(MonoNs),
}

#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The process.
    pub subject: Subject,
    /// The name of its action, and the index; `None`: it was removed.
    pub name: ActionName,
    /// See `name`.
    pub action: Option<usize>,
    /// What it is about.
    pub matter: Matter,
    /// How far it is.
    pub state: State,
    /// What was reported last: that it is due, and why it is held.
    pub is_told_due: bool,
    /// See `is_told_due`.
    pub told: Option<ActionWhy>,
    /// Attempts so far.
    pub attempt: u16,
    /// The last attempt, to be taken back if it was none.
    pub counted: Option<Counted>,
    /// The process that was started; 0: none.
    pub child: u32,
    /// The last attempt succeeded: the end of the trigger is what it was for.
    pub has_succeeded: bool,
    /// The trigger is over: nothing further is tried.
    pub is_over: Option<ActionWhy>,
}

impl Matter {
    /// Whether it lasts until something ends it.
    pub const fn lasts(self) -> bool {
        matches!(self, Self::Stall | Self::Frozen | Self::Standstill | Self::Missing)
    }

    /// What must hold right before a start.
    pub const fn needs(self) -> Needs {
        match self {
            Self::Stall => Needs::Stalled,
            Self::Frozen => Needs::Frozen,
            Self::Standstill => Needs::Still,
            Self::Hand | Self::Missing => Needs::Alive,
            Self::Exit | Self::Terminal | Self::Resume => Needs::Nothing,
        }
    }
}
