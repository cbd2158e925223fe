//! What is done about a stall, and what holds it back, as it will run.

use std::fmt;
use std::path::PathBuf;

use super::values::{signal_name, user};
use crate::event::action::ActionName;

/// All actions and what holds them back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActPlan {
    /// The actions; of those that a process matches, the first is taken. At most [`ACTIONS_MAX`](super::bounds::ACTIONS_MAX).
    pub actions: Vec<Action>,
    /// What holds them back.
    pub brake: Brake,
    /// File that every step of an action is written to, absolute; `None`: none.
    pub audit: Option<PathBuf>,
    /// Whether the audit file is synced to the disk after each line.
    pub audit_sync: bool,
    /// Directory of the files with what was found about processes before something was done to them, absolute.
    pub evidence_dir: PathBuf,
    /// Socket of a spawner that runs as a service of its own, absolute. `None`: the observer starts one.
    pub spawner: Option<PathBuf>,
}

/// One action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Action {
    /// Its name.
    pub name: ActionName,
    /// What it is for; at least one.
    pub on: Vec<Trigger>,
    /// Which processes it is for: all conditions that are given hold.
    pub matcher: ActionMatch,
    /// Whether only a certain stall starts it.
    pub certain: bool,
    /// How long the trigger must last before it starts, ns.
    pub after_ns: u64,
    /// What is done.
    pub deed: Deed,
    /// How long that may take, ns; then SIGTERM, and 5 s later SIGKILL.
    pub timeout_ns: u64,
    /// How it is repeated.
    pub retry: Retry,
    /// User and group it runs as; `None`: those of the spawner.
    pub user: Option<(u32, u32)>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Whether evidence is collected before.
    pub evidence: bool,
}

/// What starts an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A stall.
    Stall,
    /// Any exit.
    Exit,
    /// An exit with this status.
    ExitCode(u8),
    /// An exit by this signal.
    ExitSignal(u8),
    /// A crash report.
    Terminal,
    /// A freeze.
    Frozen,
    /// A standstill.
    Standstill,
    /// An agent that does not come back after a restart of the observer.
    Missing,
    /// The end of a stall.
    Resume,
}

impl Trigger {
    /// Whether the process that it is about was there a moment ago.
    #[must_use]
    pub const fn is_of_the_living(self) -> bool {
        matches!(self, Self::Stall | Self::Frozen | Self::Resume)
    }

    /// Those that are one word in the file.
    pub(super) const WORDS: [(&str, Self); 7] = [
        ("stall", Self::Stall),
        ("exit", Self::Exit),
        ("terminal", Self::Terminal),
        ("frozen", Self::Frozen),
        ("standstill", Self::Standstill),
        ("missing", Self::Missing),
        ("resume", Self::Resume),
    ];

    /// Whether it is the end of the process.
    #[must_use]
    pub const fn is_exit(self) -> bool {
        matches!(self, Self::Exit | Self::ExitCode(_) | Self::ExitSignal(_))
    }
}

impl fmt::Display for Trigger {
    /// `stall`, `exit with 1`, `exit by SIGKILL`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExitCode(code) => write!(f, "exit with {code}"),
            Self::ExitSignal(signal) => write!(f, "exit by {}", signal_name(*signal)),
            word => {
                let word = Self::WORDS.iter().find(|(_, known)| known == word);
                f.write_str(word.map_or("", |(word, _)| word))
            }
        }
    }
}

/// Which processes an action is for: all given conditions hold. Patterns are those of a
/// [`RuleMatch`](super::RuleMatch).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ActionMatch {
    /// Pattern of the name, `/proc/PID/comm`: 15 bytes; the process can choose it itself.
    pub comm: Option<String>,
    /// User, in the file also by name.
    #[serde(deserialize_with = "user")]
    pub uid: Option<u32>,
    /// Pattern of the absolute path of the program, `/proc/PID/exe`.
    pub exe: Option<String>,
    /// Pattern of the unit that the service manager of the system names.
    pub unit: Option<String>,
    /// Pattern of the path of the control group, from the root of its hierarchy on: `/system.slice/web.service`. It is
    /// read when the trigger is reported, so not after an exit.
    pub cgroup: Option<String>,
}

/// What an action does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Runs a program, without a shell: an absolute path, and arguments with placeholders, such as `{pid}`.
    Run(Vec<String>),
    /// Sends this signal to the process.
    Signal(u8),
    /// Has the service manager do this to the unit of the process.
    Systemd(UnitVerb),
}

impl fmt::Display for Deed {
    /// `run /bin/restart --pid {pid}`, `signal SIGABRT`, `systemd restart`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(run) => write!(f, "run {}", run.join(" ")),
            Self::Signal(signal) => write!(f, "signal {}", signal_name(*signal)),
            Self::Systemd(verb) => write!(f, "systemd {}", verb.as_str()),
        }
    }
}

/// What a service manager does to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitVerb {
    /// Restarts it.
    Restart,
    /// Sends SIGKILL to its processes.
    Kill,
    /// Stops it.
    Stop,
}

impl UnitVerb {
    /// By its word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::Restart, Self::Kill, Self::Stop].into_iter().find(|verb| verb.as_str() == word)
    }

    /// The word of the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Stop => "stop",
        }
    }
}

/// How an action is repeated for the same agent, and for the same unit or name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// From one attempt to the second, ns.
    pub first_ns: u64,
    /// Each further wait is so many times longer, in hundredths: 200 doubles it.
    pub factor_percent: u32,
    /// The longest wait, ns.
    pub max_ns: u64,
    /// Attempts, at least one.
    pub tries: u16,
    /// After so long without an attempt, ns, the first comes again.
    pub reset_after_ns: u64,
}

/// What holds actions back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Brake {
    /// Children that may run at once, at least one.
    pub running: u32,
    /// Starts that are allowed in each period, at least one.
    pub starts: u32,
    /// The period, ns.
    pub per_ns: u64,
    /// If more than so many percent of the agents of a scope stall at once, its actions are held; 1..=100.
    pub percent: u32,
    /// But at least so many of them.
    pub at_least: u32,
    /// At once means within this time, ns.
    pub within_ns: u64,
    /// It is released once so long no agent of its scope stalled, ns; `None`: by hand only.
    pub release_ns: Option<u64>,
    /// Nothing is started: what would be is only reported.
    pub dry_run: bool,
}
