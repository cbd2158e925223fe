//! The types of the HTTP API: `/api/v1/fleet`, `/api/v1/agents`, `/api/v1/agents/{pid}`, `/api/v1/dead`,
//! `/api/v1/groups`, `/api/v1/agents/{pid}/evidence`, `/api/v1/history`, `/api/v1/act`, `/-/reload` and `/-/act/`.
//!
//! The HTTP thread serializes them, the command line and other programs deserialize them. Their JSON is
//! described by `/api/v1/openapi.json`. An event is an [`Event`](crate::event::Event), as in the event log.
//!
//! Later versions may add fields: match with `..`, and construct with `..Default::default()` where there is a default.
//! A field that an answer lacks has its default.

mod act;
mod agents;
mod dead;
mod fleet;
mod groups;
mod headline;
mod history;
mod reload;

pub use act::{Act, ActBrake, ActCase, ActDone, ActHold, AgentAct};
pub use agents::{
    Agent, AgentState, Blind, DaemonSays, Detail, Exited, Page, Past, Refused, Resume, Stall, Tracked,
};
pub use dead::{CrashLoop, DEAD_MAX, Dead, DeadAgent};
pub use fleet::{Cause, Died, Distribution, EventLog, FirstKept, Fleet, Headline, Level, Phase, Rule, Shard};
pub use groups::{Group, GroupBy, Groups};
pub use history::{History, Series};
pub use reload::Reload;

pub use crate::event::{DaemonPhase, Origin};
pub use crate::notify::daemon::ThresholdOf;
pub use crate::spawner::found::{
    Evidence, Text as EvidenceFile, Thread as EvidenceThread, Verdict as EvidenceVerdict,
};
pub use crate::table::turned_away::TurnedAwayFor;
