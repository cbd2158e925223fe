//! What must hold of agents whose rule allows longer silences in phases, by what they have sent.
//!
//! The phase of an agent is known if everything that it sends goes to one shard as one stream, from one program.

use std::collections::HashSet;

use super::*;
use crate::event::StallPhase;
use crate::lab::simulator::story::{Ending, Phased};
use crate::lab::simulator::truth::BUSY;
use crate::wire::Status;

/// The pids whose phases are known.
pub(super) fn plain_of(story: &Story, truth: &Truth) -> HashSet<u32> {
    let hides = |what: &What| match what {
        What::Die { .. } | What::Hang { .. } | What::Status { .. } | What::Busy { .. } => false,
        What::Restart(restart) => {
            restart.elsewhere.is_some() || matches!(restart.ending, Ending::KilledInSlot { .. })
        }
        What::Panic { .. } | What::Forge { .. } | What::StepWall { .. } => true,
        what => what.agent().is_some(),
    };
    let hidden = || story.happenings.iter().map(|happening| &happening.what).filter(|what| hides(what));
    if story.setting.phased.is_none()
        || story.setting.lookup_fails > 0
        || hidden().any(|what| what.agent().is_none())
    {
        return HashSet::new();
    }
    let wild: HashSet<u32> = hidden().filter_map(What::agent).collect();
    let lives = truth.of_pid.iter().filter(|(_, lives)| lives.len() == 1);
    let lives = lives.map(|(_, lives)| &truth.lives[lives[0]]);
    lives.filter(|life| life.inner.is_none() && !wild.contains(&life.id)).map(|life| life.pid).collect()
}

/// The phase of an agent after a beat, and the silence that is allowed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    phase: Option<StallPhase>,
    ns: u64,
}

impl Model {
    /// The phase of the process after its beats until `at`; `None`: it is not known.
    fn phase_at(&self, pid: u32, at: u64) -> Option<Known> {
        let Phased { start, start_beats, busy } = self.setting.phased?;
        let life = &self.truth.lives[self.truth.of_pid[&pid][0]];
        if !self.plain.contains(&pid) || self.is_tight {
            return None;
        }
        let (mut beats, mut is_ready, mut payload) = (0, false, 0);
        for index in self.sendings_within(pid, life.born, at) {
            let sending = &self.truth.sendings[index];
            let Datagram::Frame(frame) = sending.what else { return None };
            match self.fates[index] {
                Fate::Queued | Fate::Read if sending.worth == Worth::Sure => {}
                Fate::Refused | Fate::Unknown => continue,
                _ => return None,
            }
            (beats, payload) = (beats + 1, frame.payload);
            is_ready |= frame.status == Status::Ok;
        }
        let is_starting = start_beats.map_or(!is_ready, |most| beats < most);
        let of_start = if is_starting { start } else { 0 };
        let of_payload = if payload >= BUSY { busy } else { 0 };
        Some(match () {
            () if of_start + of_payload == 0 => Known { phase: None, ns: 0 },
            () if of_start >= of_payload => Known { phase: Some(StallPhase::Start), ns: of_start },
            () => Known { phase: Some(StallPhase::Payload), ns: of_payload },
        })
    }

    /// The longest silence that a phase may allow after a beat.
    pub(super) fn most_in_phase(&self, life: &Life, last: &Sending) -> u64 {
        let most = self.setting.phased.map_or(0, |phased| phased.start.max(phased.busy));
        self.phase_at(life.pid, last.at).map_or(most, |known| known.ns)
    }

    /// A stall is of the phase that the agent was in, and not before the silence that was allowed then.
    pub(super) fn check_phase(&self, event: &Event, told_at: u64) -> Verdict {
        let EventKind::Stall { silent_ns, coalesced, phase, .. } = event.kind else { return Ok(()) };
        let pid = event.agent.unwrap().pid;
        let at = event.mono.since(START);
        let since = at.saturating_sub(silent_ns);
        let is_ruled = |index: usize| {
            let rules = &self.terms[index].1.rules;
            self.classes_of(pid, told_at).all(|class| rules.iter().any(|(of, _)| *of == class))
        };
        let are_ruled = self.terms_within(since, told_at).all(is_ruled);
        if coalesced > 1 || !are_ruled {
            return Ok(());
        }
        let Some(known) = self.phase_at(pid, since + ERROR) else { return Ok(()) };
        must!(
            self,
            I16,
            silent_ns + ERROR >= known.ns,
            "{pid} was silent for {silent_ns} only, and {known:?}: {event:?}; {}",
            self.history(pid)
        );
        // Until it is looked up, the phases of all rules may hold.
        let is_known = known.phase == phase || known.phase.is_none() && self.is_new(pid, told_at);
        must!(self, I16, is_known, "{pid} is in another phase, {known:?}: {event:?}; {}", self.history(pid));
        Ok(())
    }

    /// Whether it was told up only a short time before.
    fn is_new(&self, pid: u32, told_at: u64) -> bool {
        told_at.saturating_sub(self.told[&pid].up_told_at) < SECOND
    }
}
