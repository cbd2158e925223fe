//! Faults that a test injects into a shard's thread. Tests only.

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
