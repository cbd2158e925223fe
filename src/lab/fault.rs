//! Faults that a test injects into a shard's thread or into the aggregator's. Tests only.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::table::Table;

const NONE: u32 = 0;
const PANIC: u32 = 1;
const PANIC_INSIDE_SLOT: u32 = 2;
const STUCK: u32 = 3;
const HELD: u32 = 4;

/// The fault of the shard's next turn.
#[derive(Debug, Default)]
pub struct Fault {
    next: AtomicU32,
}

impl Fault {
    /// Makes the next turn panic.
    pub fn panic(&self) {
        self.next.store(PANIC, Ordering::Release);
    }

    /// Makes the next turn panic while it writes slot 0, which stays open.
    pub fn panic_inside_slot(&self) {
        self.next.store(PANIC_INSIDE_SLOT, Ordering::Release);
    }

    /// Makes the next turn last until [`Fault::release`].
    pub fn stick(&self) {
        self.next.store(STUCK, Ordering::Release);
    }

    /// Ends a turn that is stuck.
    pub fn release(&self) {
        self.next.store(NONE, Ordering::Release);
    }

    /// Whether the requested fault has happened, or is happening.
    pub fn has_struck(&self) -> bool {
        matches!(self.next.load(Ordering::Acquire), NONE | HELD)
    }

    /// Shard only.
    pub fn strike(&self, table: &Table) {
        match self.next.load(Ordering::Acquire) {
            NONE => {}
            STUCK => {
                // If it was released before the turn, the turn does not wait.
                let _ = self.next.compare_exchange(STUCK, HELD, Ordering::AcqRel, Ordering::Acquire);
                while self.next.load(Ordering::Acquire) == HELD {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            fault => {
                self.next.store(NONE, Ordering::Release);
                if fault == PANIC_INSIDE_SLOT {
                    table.open(0);
                }
                panic!("a test asked for this panic");
            }
        }
    }
}

/// A step of a commit to the journal, at which the aggregator can be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CommitStep {
    /// Nothing is written.
    Begin = 1,
    /// Half of the entries are in the ring.
    HalfWritten,
    /// It is committed, and its last number is not recorded.
    Unnumbered,
    /// The number is, and nothing of it is in the tables.
    Committed,
    /// It is in the tables, which is not recorded.
    InTables,
    /// All is recorded, and nothing is passed on.
    Applied,
}

impl CommitStep {
    /// All steps, in order.
    pub const ALL: [Self; 6] =
        [Self::Begin, Self::HalfWritten, Self::Unnumbered, Self::Committed, Self::InTables, Self::Applied];
}

/// Where a journal ends the thread that commits to it.
#[derive(Debug, Default)]
pub struct Cut {
    step: AtomicU32,
    passes_left: AtomicU32,
}

impl Cut {
    /// What the panic carries.
    pub const PANIC: &str = "cut";

    /// The thread that passes `step` for the `passes`th time from now on, counted from 0, panics.
    pub fn arm(&self, step: CommitStep, passes: u32) {
        self.passes_left.store(passes, Ordering::Relaxed);
        self.step.store(step as u32, Ordering::Relaxed);
    }

    /// Aggregator only.
    pub fn pass(&self, step: CommitStep) {
        if self.step.load(Ordering::Relaxed) != step as u32 {
            return;
        }
        let left = self.passes_left.load(Ordering::Relaxed);
        self.passes_left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 {
            self.step.store(NONE, Ordering::Relaxed);
            // Without the message of the panic hook: the test catches it.
            std::panic::resume_unwind(Box::new(Self::PANIC));
        }
    }
}
