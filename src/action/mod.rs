//! What is done about a stall or an exit, and what holds it back.
//!
//! [`desk`] decides: it takes the events of the aggregator and returns what to start, when and for whom; beside it
//! [`policy`] (which action), [`queue`] (who is next), [`brake`] (when nothing may start) and [`backoff`] (how often).
//! These are pure: time is an argument.

pub mod backoff;
pub mod brake;
pub mod case;
pub mod census;
pub mod counts;
pub mod audit;
pub mod desk;
pub mod hold;
pub mod inspect;
pub mod orders;
pub mod policy;
pub mod queue;
pub mod request;
pub mod template;
pub mod thread;
pub mod verify;

#[cfg(test)]
mod desk_tests;

use crate::event::{About, Agent, Comm, Event, EventKind, Origin};
use crate::label::Label;
use crate::time::MonoNs;
use crate::wire::Status;

/// The process that an action is for, as the event said that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The shard it beat on.
    pub shard: u16,
    /// The agent. Its session is 0 if it has none: it is missing since the observer started.
    pub agent: Agent,
    /// How long it was silent, ns, if that started it.
    pub silent_ns: u64,
    /// When what started it happened.
    pub since: MonoNs,
}

impl Subject {
    /// Of an event; `None` if the event is of no agent.
    pub fn of(event: &Event) -> Option<Self> {
        let (agent, silent_ns) = match (event.kind, event.agent) {
            (EventKind::Missing { pid, uid, comm }, _) => {
                let about = About { uid: Some(uid), comm, ..Default::default() };
                let status = Status::default();
                (
                    Agent {
                        pid,
                        ns_pid: None,
                        session: 0,
                        nonce: 0,
                        status,
                        origin: Origin::Vlp,
                        payload: 0,
                        about,
                    },
                    0,
                )
            }
            (EventKind::Stall { silent_ns, .. } | EventKind::Exit { silent_ns, .. }, Some(agent)) => {
                (agent, silent_ns)
            }
            (_, Some(agent)) => (agent, 0),
            (_, None) => return None,
        };
        Some(Self { shard: event.shard.unwrap_or(0), agent, silent_ns, since: event.mono })
    }

    /// Its user; `u32::MAX` if that is not known.
    pub fn uid(&self) -> u32 {
        self.agent.about.uid.unwrap_or(u32::MAX)
    }

    /// What its likes have in common: those of one unit, or else of one user and name.
    pub fn group(&self) -> Group {
        match self.agent.about.unit {
            Some(unit) => Group::Unit(unit),
            None => Group::Name(self.uid(), self.agent.about.comm),
        }
    }
}

/// Processes that are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Those of one unit.
    Unit(Label),
    /// Those of one user with one name.
    Name(u32, Comm),
}
