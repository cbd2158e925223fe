//! What was reported of each slot so far. The slot counts what happened; the difference is to be reported.

use std::num::NonZeroU32;

use crate::event::{DaemonPhase, ExitHow};
use crate::journal::{Kept, flag};
use crate::lane::sessions::Session;
use crate::process::procfs::Incarnation;
use crate::rules::Existence;
use crate::table::key::AgentKey;
use crate::table::place::{PackedPlace, Place};
use crate::time::MonoNs;
use crate::wire::Status;

/// The slots of one pid. Nearly all pids have one, which allocates nothing.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where it was seen last.
    pub first: Option<Place>,
    /// Its other places.
    pub more: Vec<Place>,
}

impl Places {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Place> + '_ {
        self.first.into_iter().chain(self.more.iter().copied())
    }
}

/// What holds for a slot's holder, or was reported of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mark {
    /// `up` was reported or counted, or is not to be reported because the agent is known on another shard.
    Up = 1,
    /// Counted among the agents up or stalled of its shard.
    Counted = 1 << 1,
    /// A stall was reported, and no resume since.
    Stalled = 1 << 2,
    /// A stall waits for answers before it is reported.
    Confirming = 1 << 3,
    /// It beats while another slot of its pid is reported as stalled: it resumes once it is known to be the
    /// same.
    Returning = 1 << 4,
    /// A stall that ended before it was reported waits for the other shards.
    Recalling = 1 << 5,
    /// Its news waits until its process is known to be the reported one.
    Doubted = 1 << 6,
    /// `mixed` was reported.
    Mixed = 1 << 7,
    /// Nothing is reported until the lookup says whose pid the frames claim.
    Held = 1 << 8,
    /// All its frames were forged: it is no agent, and its silence is not reported.
    Closed = 1 << 9,
    /// The lookup thread was asked who it is.
    Identifying = 1 << 10,
    /// The shard was instructed to release the slot, unless it beat later than [`Record::as_of`].
    Releasing = 1 << 11,
    /// Its pid does not hash to its shard.
    OffHash = 1 << 12,
    /// The watch thread was ordered to report when its process ends.
    WatchOrdered = 1 << 13,
    /// The watch thread cannot watch it, for want of a descriptor.
    Unwatched = 1 << 14,
    /// In the list of slots whose facts were taken and not looked at.
    ToBeLookedAt = 1 << 15,
    /// In the list of polled agents.
    Polled = 1 << 16,
    /// The claimed pid was looked up, and the shard is instructed.
    ClaimSettled = 1 << 17,
    /// Events above its limit wait: they are reported later, or before its next event.
    Deferred = 1 << 18,
    /// The lookup thread was asked what it runs now.
    LookingAgain = 1 << 19,
    /// It was frozen at the last lookup.
    FoundFrozen = 1 << 20,
    /// The start of a freeze was reported, and not its end.
    Frozen = 1 << 21,
    /// It was frozen and is thawed; it is judged anew a threshold after the thaw.
    Thawed = 1 << 22,
    /// Its events are only counted so far, `up` included.
    Uncalled = 1 << 23,
    /// Adopted from an earlier observer, and its process was not found since.
    Adopted = 1 << 24,
    /// In the list of records that may have changed since the last commit.
    Touched = 1 << 25,
    /// Adopted from an earlier observer, and no process with its pid was found since.
    Unmet = 1 << 26,
    /// A standstill was reported, and no advance since.
    Still = 1 << 27,
    /// The rule of its class is known to match it: no rule before it may.
    Ruled = 1 << 28,
    /// It was found to run another program, whose first beat has not come.
    Begun = 1 << 29,
}

/// The marks of a record that are kept, and their flags.
const KEPT_MARKS: [(Mark, u32); 10] = [
    (Mark::Up, flag::UP),
    (Mark::Stalled, flag::STALLED),
    (Mark::Mixed, flag::MIXED),
    (Mark::Closed, flag::CLOSED),
    (Mark::Releasing, flag::RELEASING),
    (Mark::Uncalled, flag::UNCALLED),
    (Mark::Frozen, flag::FROZEN),
    (Mark::Thawed, flag::THAWED),
    (Mark::ClaimSettled, flag::CLAIM_SETTLED),
    (Mark::Still, flag::STILL),
];

/// What is known and reported of one slot's holder, besides what the slot itself says: 72 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Which process it is.
    pub incarnation: Option<Incarnation>,
    /// When it was gone, or the last beat that its release took into account.
    pub as_of: MonoNs,
    /// Which holder; 0 = none since the start.
    pub generation: u32,
    /// Its pid; 0 = the slot is free.
    pub pid: u32,
    /// Ordinal reported: stalls.
    pub stalls: u32,
    /// Ordinal reported: resumes.
    pub resumes: u32,
    /// Ordinal reported: streams.
    pub streams: u32,
    /// Ordinal reported: changes of its status.
    pub statuses: u32,
    /// Ordinal reported: terminal frames.
    pub terminals: u32,
    /// Ordinal reported: changes of its wire version.
    pub versions: u32,
    /// Hash of its program's path, to notice exec.
    pub program: Option<NonZeroU32>,
    /// Another slot of the same pid.
    pub next: Option<PackedPlace>,
    /// The claimed pid that was looked up last; of a daemon, the phase that was reported.
    settled_claim: u32,
    marks: u32,
    /// How its process ended, once that is known.
    pub how: Option<ExitHow>,
    /// Status reported last.
    pub status: Status,
    /// Whether its process exists.
    pub existence: Existence,
    /// Questions about that in flight.
    pub asked: u8,
    /// Threshold class, as the shard was instructed last.
    pub class: u8,
    /// Ordinal reported: changes of its user.
    pub users: u16,
}

impl Record {
    /// The key by which the agent is known.
    pub const fn key(&self) -> AgentKey {
        AgentKey::of_pid(self.pid)
    }

    /// Whether a mark is set.
    pub const fn is(&self, mark: Mark) -> bool {
        self.marks & mark as u32 != 0
    }

    /// Sets or clears a mark. Returns whether it was set.
    pub const fn set(&mut self, mark: Mark, on: bool) -> bool {
        let was = self.is(mark);
        if on {
            self.marks |= mark as u32
        } else {
            self.marks &= !(mark as u32)
        }
        was
    }

    /// Clears marks.
    pub fn clear(&mut self, marks: &[Mark]) {
        for mark in marks {
            self.set(*mark, false);
        }
    }

    /// Whether the sender's claim to this pid was checked.
    pub fn has_settled(&self, claimed: u32) -> bool {
        self.is(Mark::ClaimSettled) && self.settled_claim == claimed
    }

    /// The phase of a daemon as reported; `None`: none was.
    pub fn phase(&self) -> Option<DaemonPhase> {
        let code = usize::try_from(self.settled_claim).ok()?.checked_sub(1)?;
        DaemonPhase::ALL.get(code).copied()
    }

    /// Records that this phase of a daemon was reported, which claims no other pid.
    pub fn set_phase(&mut self, phase: DaemonPhase) {
        let code = DaemonPhase::ALL.iter().position(|each| *each == phase);
        self.settled_claim = code.and_then(|code| u32::try_from(code).ok()).map_or(0, |code| code + 1);
    }

    /// Records that the sender's claim to this pid was checked.
    pub fn settle_claim(&mut self, claimed: u32) {
        self.set(Mark::ClaimSettled, true);
        self.settled_claim = claimed;
    }

    /// What of it outlives this process.
    pub fn to_kept(self, session: Session) -> Kept {
        if self.pid == 0 {
            return Kept::default();
        }
        let flags = KEPT_MARKS.iter().filter(|(mark, _)| self.is(*mark)).map(|(_, flag)| flag).sum::<u32>();
        Kept {
            generation: self.generation,
            pid: self.pid,
            flags: if self.is_over() { flags | flag::GONE } else { flags },
            settled_claim: self.settled_claim,
            session: session.number,
            ns_pid: session.ns_pid.unwrap_or(0),
            stalls: self.stalls,
            resumes: self.resumes,
            streams: self.streams,
            statuses: self.statuses,
            terminals: self.terminals,
            versions: self.versions,
            users: self.users,
            status: self.status,
            as_of: if self.is(Mark::Releasing) { self.as_of } else { MonoNs(0) },
            incarnation: self.incarnation.map(Into::into),
        }
    }

    /// The record of a holder of which a predecessor kept this. Its class is to be matched again.
    pub fn of_kept(kept: &Kept, class: u8) -> Self {
        let mut record = Self {
            incarnation: kept.incarnation.map(Into::into),
            as_of: kept.as_of,
            generation: kept.generation,
            pid: kept.pid,
            stalls: kept.stalls,
            resumes: kept.resumes,
            streams: kept.streams,
            statuses: kept.statuses,
            terminals: kept.terminals,
            versions: kept.versions,
            settled_claim: kept.settled_claim,
            status: kept.status,
            existence: if kept.is(flag::GONE) { Existence::Gone } else { Existence::Unknown },
            class,
            users: kept.users,
            ..Self::default()
        };
        for (mark, flag) in KEPT_MARKS {
            record.set(mark, kept.is(flag));
        }
        record
    }

    /// Whether its process is known to be gone.
    pub fn is_gone(&self) -> bool {
        self.existence == Existence::Gone
    }

    /// Whether its exit was reported and its slot is being released.
    pub fn is_over(&self) -> bool {
        self.is(Mark::Releasing) && self.is_gone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_as_small_as_it_says() {
        assert_eq!(size_of::<Record>(), 72);
    }

    #[test]
    fn a_mark_says_what_it_was() {
        let mut reported = Record::default();
        assert!(!reported.set(Mark::Up, true) && reported.set(Mark::Up, true));
        reported.set(Mark::Polled, true);
        reported.clear(&[Mark::Up, Mark::Held]);
        assert!(!reported.is(Mark::Up) && reported.is(Mark::Polled));
        assert!(!reported.has_settled(0));
        reported.settle_claim(0);
        assert!(reported.has_settled(0) && !reported.has_settled(1));
    }
}
