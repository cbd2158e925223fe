//! What the thread that acts counts, for metrics and for the state of the fleet.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::brake::{Engaged, Scope};
use crate::config::act::ActPlan;
use crate::event::{ActionName, ActionPhase};

/// The longest time that is told apart: a day.
const TOOK_MAX_NS: u64 = 86_400_000_000_000;

/// Counts of the thread, for metrics.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Steps, by action and phase.
    pub steps: BTreeMap<(ActionName, ActionPhase), u64>,
    /// How long each took that ended, from its order, ns.
    pub took_ns: Histogram<u64>,
    /// By outcome: how often evidence was written, was unavailable.
    pub evidence: [u64; 2],
    /// Due and held.
    pub waiting: u64,
    /// Children.
    pub running: u64,
    /// Agents that an operator holds actions for.
    pub held_agents: u64,
    /// Brakes that hold, by scope.
    pub brakes: [u64; 3],
    /// The most important of them, that of all agents first, then those with most stalls.
    pub engaged: Vec<(Scope, Engaged)>,
    /// How often a spawner was started anew or connected to again.
    pub spawner_restarts: u64,
    /// Whether one is there.
    pub has_spawner: bool,
    /// Lines that the audit file did not take.
    pub audit_lost: u64,
    /// Why it did not take the last one; empty: it did.
    pub audit_trouble: String,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            steps: BTreeMap::new(),
            took_ns: Histogram::new_with_max(TOOK_MAX_NS, 2)
                .unwrap_or_else(|_| unreachable!("the bounds are valid")),
            evidence: [0; 2],
            waiting: 0,
            running: 0,
            held_agents: 0,
            brakes: [0; 3],
            engaged: Vec::new(),
            spawner_restarts: 0,
            has_spawner: false,
            audit_lost: 0,
            audit_trouble: String::new(),
        }
    }
}

impl Counts {
    /// Each action has a count of each phase from the first on.
    pub fn of(plan: &ActPlan) -> Self {
        let mut counts = Self::default();
        counts.know(plan);
        counts
    }

    /// The same for actions of a new configuration.
    pub fn know(&mut self, plan: &ActPlan) {
        for action in &plan.actions {
            for phase in ActionPhase::ALL {
                self.steps.entry((action.name, phase)).or_default();
            }
        }
    }
}
