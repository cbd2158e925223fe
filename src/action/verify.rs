//! Whether an action may still be started for a process: right before the start.
//!
//! Thread: act. Blocks: in procfs.

use std::os::fd::OwnedFd;

use super::Subject;
use super::case::Needs;
use super::desk::Ticket;
use crate::aggregator::present::Present;
use crate::event::{ActionPhase, ActionWhy, Agent};
use crate::process::procfs::{Incarnation, NotHeld, has_exited, hold};
use crate::sys::clock::SystemClock;

/// Whom actions must never be for: the first process, this one, and those that started it, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Protected(Vec<u32>);

impl Protected {
    /// As of now.
    pub fn here() -> Self {
        let mut pids = vec![0, 1, std::process::id()];
        let mut pid = std::process::id();
        while let Some(parent) = parent_of(pid).filter(|parent| !pids.contains(parent)) {
            pids.push(parent);
            pid = parent;
        }
        Self(pids)
    }

    /// Whether it is one of them.
    pub fn has(&self, pid: u32) -> bool {
        self.0.contains(&pid)
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Right before a start: the pidfd of the very process the case is for, if it is still what the action needs. `None`:
/// it needs no process. `is_process_needed`: what is done is done to the process itself.
///
/// # Errors
/// Why nothing must be started.
pub fn verify(
    ticket: &Ticket,
    present: Option<&Present>,
    protected: &Protected,
    is_process_needed: bool,
) -> Result<Option<OwnedFd>, (ActionPhase, ActionWhy)> {
    let Some(incarnation) = needed(ticket, present, protected, is_process_needed)? else { return Ok(None) };
    let gone = Err((ActionPhase::Cancelled, ActionWhy::Gone));
    match hold(ticket.subject.agent.pid, Some(incarnation), &SystemClock) {
        Ok(pidfd) if has_exited(&pidfd) => gone,
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(NotHeld::Gone(_)) => gone,
        Err(NotHeld::Refused) => Err((ActionPhase::Refused, ActionWhy::Text)),
    }
}

/// The process that must exist for this start; `None`: it needs none. `present`: what is said of its pid now.
///
/// # Errors
/// Why nothing must be started, whether it exists or not.
pub fn needed(
    ticket: &Ticket,
    present: Option<&Present>,
    protected: &Protected,
    is_process_needed: bool,
) -> Result<Option<Incarnation>, (ActionPhase, ActionWhy)> {
    let Subject { agent: Agent { pid, session, .. }, .. } = ticket.subject;
    let gone = Err((ActionPhase::Cancelled, ActionWhy::Gone));
    if protected.has(pid) && (is_process_needed || ticket.needs != Needs::Nothing) {
        return Err((ActionPhase::Refused, ActionWhy::Protected));
    }
    let needs = if ticket.needs == Needs::Nothing && is_process_needed { Needs::Alive } else { ticket.needs };
    if needs == Needs::Nothing {
        return Ok(None);
    }
    let incarnation = match present {
        // A missing agent has not beaten, so that nobody knows which process had its pid: it is only told of.
        None if session == 0 && !is_process_needed => return Ok(None),
        None if session == 0 => None,
        None => return gone,
        // It was missing, and beats.
        Some(_) if session == 0 => return Err((ActionPhase::Cancelled, ActionWhy::Resumed)),
        Some(present) if present.agent.session != session => return gone,
        Some(present) => {
            let is_so = match needs {
                Needs::Stalled => present.is_stalled,
                Needs::Frozen => present.is_frozen,
                Needs::Still => present.is_still,
                Needs::Alive | Needs::Nothing => true,
            };
            if !is_so {
                return Err((ActionPhase::Cancelled, ActionWhy::Resumed));
            }
            present.incarnation
        }
    };
    incarnation.map(Some).ok_or((ActionPhase::Refused, ActionWhy::Text))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::event::{About, Origin};
    use crate::process::procfs::identify;
    use crate::time::MonoNs;
    use crate::wire::Status;

    fn agent(pid: u32) -> Agent {
        let (session, status, about) = (3, Status::Ok, About::UNKNOWN);
        Agent { pid, ns_pid: None, session, nonce: 0, status, origin: Origin::Vlp, payload: 0, about }
    }

    fn ticket(pid: u32, needs: Needs) -> Ticket {
        let subject = Subject { shard: 0, agent: agent(pid), silent_ns: 0, since: MonoNs(0) };
        Ticket { id: 1, action: 0, subject, needs, attempt: 1 }
    }

    /// What is said of this process: stalled.
    fn stalled(pid: u32) -> Present {
        let incarnation = identify(pid, &SystemClock).ok().map(|found| found.incarnation);
        Present {
            shard: 0,
            agent: agent(pid),
            incarnation,
            is_stalled: true,
            is_certain: true,
            is_frozen: false,
            is_still: false,
            last_arrival: MonoNs(0),
        }
    }

    fn child() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat is there")
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().expect("it is our child");
    }

    #[test]
    fn fault_43_neither_the_observer_nor_what_runs_it_is_acted_upon() {
        let protected = Protected::here();
        let parent = std::os::unix::process::parent_id();
        for pid in [0, 1, std::process::id(), parent] {
            let refused = verify(&ticket(pid, Needs::Stalled), Some(&stalled(pid)), &protected, true);
            assert_eq!(refused.unwrap_err(), (ActionPhase::Refused, ActionWhy::Protected), "{pid}");
        }
        let child = child();
        let taken = verify(&ticket(child.id(), Needs::Stalled), Some(&stalled(child.id())), &protected, true);
        assert!(taken.unwrap().is_some());
        end(child);
    }

    #[test]
    fn fault_43_another_process_with_the_pid_is_left_alone() {
        let protected = Protected::here();
        let gone = Err((ActionPhase::Cancelled, ActionWhy::Gone));
        let judged = |ticket: &Ticket, present: Option<&Present>| {
            verify(ticket, present, &protected, true).map(|pidfd| pidfd.is_some())
        };
        let (one, other) = (child(), child());
        let ticket = ticket(one.id(), Needs::Stalled);
        assert_eq!(judged(&ticket, Some(&stalled(one.id()))), Ok(true));
        let before = stalled(one.id());
        // As if the pid were that of the other process now.
        let heir = Present { incarnation: stalled(other.id()).incarnation, ..before };
        assert_eq!(judged(&ticket, Some(&heir)), gone);
        let later = Agent { session: 4, ..before.agent };
        assert_eq!(judged(&ticket, Some(&Present { agent: later, ..before })), gone, "another session");
        assert_eq!(judged(&ticket, None), gone, "no agent");
        let beats = Present { is_stalled: false, ..before };
        assert_eq!(judged(&ticket, Some(&beats)), Err((ActionPhase::Cancelled, ActionWhy::Resumed)));
        let unknown = Present { incarnation: None, ..before };
        assert_eq!(judged(&ticket, Some(&unknown)), Err((ActionPhase::Refused, ActionWhy::Text)));
        end(one);
        assert_eq!(judged(&ticket, Some(&before)), gone, "it has exited");
        end(other);
    }

    #[test]
    fn who_is_missing_is_told_of_and_left_alone() {
        let mut ticket = ticket(4_000_000, Needs::Alive);
        ticket.subject.agent.session = 0;
        let protected = Protected::here();
        assert!(verify(&ticket, None, &protected, false).unwrap().is_none());
        let refused = verify(&ticket, None, &protected, true);
        assert_eq!(refused.unwrap_err(), (ActionPhase::Refused, ActionWhy::Text));
        let child = child();
        ticket.subject.agent.pid = child.id();
        for is_process_needed in [false, true] {
            let back = Some(&stalled(child.id()));
            let refused = verify(&ticket, back, &protected, is_process_needed).unwrap_err();
            assert_eq!(refused, (ActionPhase::Cancelled, ActionWhy::Resumed), "it beat meanwhile");
        }
        end(child);
    }

    #[test]
    fn what_needs_no_process_is_started_for_one_that_is_gone() {
        let ticket = ticket(std::process::id(), Needs::Nothing);
        assert!(verify(&ticket, None, &Protected::here(), false).unwrap().is_none());
    }
}
