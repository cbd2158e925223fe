//! What was told of each slot so far. The slot counts what happened; the difference is to be told.

use std::num::NonZeroU32;

use crate::event::ExitHow;
use crate::process::procfs::Incarnation;
use crate::rules::Existence;
use crate::table::key::AgentKey;
use crate::table::place::{PackedPlace, Place};
use crate::time::MonoNs;
use crate::wire::Status;

/// The slots of one pid. Nearly all have one, which allocates nothing.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where it was seen last.
    pub first: Option<Place>,
    /// Where else.
    pub more: Vec<Place>,
}

impl Places {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Place> + '_ {
        self.first.into_iter().chain(self.more.iter().copied())
    }
}

/// What is true of a slot's holder, or was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mark {
    /// `up` was told or counted, or is not to be told because the agent is known on another shard.
    Up = 1,
    /// Counted among the agents up or stalled of its shard.
    Counted = 1 << 1,
    /// A stall was told and no resume since.
    Stalled = 1 << 2,
    /// A stall waits for what others know before it is told.
    Confirming = 1 << 3,
    /// It beats while another slot of its pid is told stalled: it resumes once it is known to be the same.
    Returning = 1 << 4,
    /// A stall that was over before it was told is told once other shards had their word.
    Recalling = 1 << 5,
    /// What it says waits until its process is known to be the one that was told of.
    Doubted = 1 << 6,
    /// `mixed` was told.
    Mixed = 1 << 7,
    /// Nothing is told until the lookup says whose pid the frames claim.
    Held = 1 << 8,
    /// All its frames were forged: it is nobody's agent, and its silence is not told.
    Closed = 1 << 9,
    /// The lookup thread was asked who it is.
    Identifying = 1 << 10,
    /// The shard was told to give the slot back, unless it beat later than [`Record::as_of`].
    Releasing = 1 << 11,
    /// Its pid does not hash to its shard.
    OffHash = 1 << 12,
    /// The watch thread was told to say when its process ends.
    WatchOrdered = 1 << 13,
    /// It will not, for want of a descriptor.
    Unwatched = 1 << 14,
    /// In the list of those whose facts were taken and not looked at.
    ToBeLookedAt = 1 << 15,
    /// In the list of those asked about again and again.
    Polled = 1 << 16,
    /// The claimed pid was looked into: the shard has been told, or will be.
    ClaimSettled = 1 << 17,
    /// More was to be told of it than may be: the rest comes later, or before what else is told of it.
    Deferred = 1 << 18,
    /// The lookup thread was asked what it runs by now.
    LookingAgain = 1 << 19,
    /// It was frozen when the lookup thread looked last.
    FoundFrozen = 1 << 20,
    /// It was told to be frozen, and not that it is no more.
    Frozen = 1 << 21,
    /// It was frozen and is not any more, and it is judged anew a threshold after that.
    Thawed = 1 << 22,
    /// Its `up` was only counted, as is what it says, until there is more to tell of it.
    Uncalled = 1 << 23,
}

/// What is known and told of one slot's holder, beside what the slot itself says: 72 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Which process it is.
    pub incarnation: Option<Incarnation>,
    /// Since when it is gone, or its last beat elsewhere.
    pub as_of: MonoNs,
    /// Which holder; 0 = none since the start.
    pub generation: u32,
    /// Its pid; 0 = the slot is free.
    pub pid: u32,
    /// Ordinals told.
    pub stalls: u32,
    /// Ordinals told.
    pub resumes: u32,
    /// Ordinals told.
    pub streams: u32,
    /// Ordinals told.
    pub statuses: u32,
    /// Ordinals told.
    pub terminals: u32,
    /// Ordinals told.
    pub versions: u32,
    /// Hash of its program's path, to notice exec.
    pub program: Option<NonZeroU32>,
    /// Another slot of the same pid.
    pub next: Option<PackedPlace>,
    /// The claimed pid that was looked into last.
    settled_claim: u32,
    marks: u32,
    /// How its process ended, once that is known.
    pub how: Option<ExitHow>,
    /// Status told last.
    pub status: Status,
    /// Whether its process is there.
    pub existence: Existence,
    /// Questions about that under way.
    pub asked: u8,
    /// Which threshold holds: what the shard was told last.
    pub class: u8,
    /// Ordinal told: changes of its user.
    pub users: u16,
}

impl Record {
    /// By what the agent is known.
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

    /// Whether it was looked into whether the sender may claim this pid.
    pub fn has_settled(&self, claimed: u32) -> bool {
        self.is(Mark::ClaimSettled) && self.settled_claim == claimed
    }

    /// It was looked into whether the sender may claim this pid.
    pub fn settle_claim(&mut self, claimed: u32) {
        self.set(Mark::ClaimSettled, true);
        self.settled_claim = claimed;
    }

    /// Its process is known to be gone.
    pub fn is_gone(&self) -> bool {
        self.existence == Existence::Gone
    }

    /// Its exit was told, and its slot is on its way back.
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
