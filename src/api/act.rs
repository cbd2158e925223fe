//! What is done about agents, and what holds it back.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Open cases of actions, holds and brakes: `/api/v1/act`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Act {
    /// Whether any action is configured.
    pub is_configured: bool,
    /// Names of the configured actions, in their order.
    pub actions: Vec<String>,
    /// Nothing is started: what would be is only reported.
    pub dry_run: bool,
    /// Whether there is a spawner, without which nothing can be started.
    pub has_spawner: bool,
    /// Open cases, oldest first; at most 10 000.
    pub cases: Vec<ActCase>,
    /// How many are open.
    pub total: u64,
    /// Brakes that hold.
    pub brakes: Vec<ActBrake>,
    /// Holds of operators.
    pub holds: Vec<ActHold>,
    /// Why the audit file did not take its last line; empty: it did, or there is none.
    pub audit_trouble: String,
}

/// One open case, in the words of the event schema.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct ActCase {
    /// The action.
    pub action: String,
    /// `due`: its time has not come; `held`; `started`.
    pub phase: String,
    /// Why it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Process id of the agent.
    pub pid: u32,
    /// Its session.
    pub session: u32,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Attempts so far.
    pub attempt: u16,
    /// When it is due, from now, ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_in_ns: Option<u64>,
}

/// One brake.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct ActBrake {
    /// `fleet`, `uid` or `unit`.
    pub scope: String,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Agents that stalled.
    pub stalls: u32,
    /// Agents of the scope when it engaged.
    pub agents: u32,
    /// How long it has held, ns.
    pub for_ns: u64,
    /// An operator engaged it.
    pub by_hand: bool,
}

/// Why it holds: `12 of 30 agents of user 0 stalled at once`.
impl fmt::Display for ActBrake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_hand {
            return f.write_str("an operator engaged the brake");
        }
        let agents = if self.agents == 1 { "agent" } else { "agents" };
        write!(f, "{} of {} {agents}", self.stalls, self.agents)?;
        match (self.uid, &self.unit) {
            (Some(uid), _) => write!(f, " of user {uid}")?,
            (None, Some(unit)) => write!(f, " of {unit}")?,
            (None, None) => {}
        }
        f.write_str(" stalled at once")
    }
}

/// One hold of an operator.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct ActHold {
    /// Its number.
    pub id: u64,
    /// Whom it is for: `pid 4711`, `unit worker@*`, `comm worker`.
    pub of: String,
    /// When it ends, from now, ns.
    pub ends_in_ns: u64,
    /// What the operator wrote.
    pub text: String,
}

/// What is done about one agent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct AgentAct {
    /// Its open cases, oldest first.
    pub cases: Vec<ActCase>,
    /// Holds of operators that are for it.
    pub holds: Vec<ActHold>,
    /// The newest file of what was found about it before an action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// What came of a request: `/-/act/…`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct ActDone {
    /// A sentence.
    pub done: String,
}
