//! Holds of operators: for whom nothing is started for a while, whatever is due.

use std::fmt;

use super::Subject;
use crate::label::Label;
use crate::pattern::Pattern;
use crate::time::MonoNs;

/// A hold of an operator.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Its number.
    pub id: u64,
    /// Whom it is for.
    pub of: HoldOf,
    /// Until when.
    pub until: MonoNs,
    /// What the operator says.
    pub text: String,
}

/// Whom an operator holds actions for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldOf {
    /// One process.
    Pid(u32),
    /// Those whose unit matches.
    Unit(String, Pattern),
    /// Those whose name matches.
    Comm(String, Pattern),
}

impl HoldOf {
    /// Whether it is for this process.
    pub fn holds(&self, subject: &Subject) -> bool {
        let about = &subject.agent.about;
        let unit = || about.unit.and_then(Label::text);
        match self {
            Self::Unit(..) => self.is_for(subject.agent.pid, unit().as_deref(), ""),
            Self::Pid(_) | Self::Comm(..) => self.is_for(subject.agent.pid, None, about.comm.as_str()),
        }
    }

    /// Whether it is for the process with this pid, unit and name.
    pub fn is_for(&self, pid: u32, unit: Option<&str>, comm: &str) -> bool {
        match self {
            Self::Pid(held) => *held == pid,
            Self::Unit(_, pattern) => unit.is_some_and(|unit| pattern.matches(unit)),
            Self::Comm(_, pattern) => pattern.matches(comm),
        }
    }
}

/// As the command line writes it.
impl fmt::Display for HoldOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "pid {pid}"),
            Self::Unit(pattern, _) => write!(f, "unit {pattern}"),
            Self::Comm(pattern, _) => write!(f, "comm {pattern}"),
        }
    }
}
