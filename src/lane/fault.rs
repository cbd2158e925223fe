//! What a test does to a shard's thread. Tests only.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::table::Table;

const NONE: u32 = 0;
const PANIC: u32 = 1;
const PANIC_INSIDE_SLOT: u32 = 2;
const STUCK: u32 = 3;
const HELD: u32 = 4;

/// What happens in the shard's next turn.
#[derive(Debug, Default)]
pub struct Fault {
    next: AtomicU32,
}

impl Fault {
    /// The next turn panics.
    pub fn panic(&self) {
        self.next.store(PANIC, Ordering::Release);
    }

    /// The next turn panics while it writes slot 0, which stays open.
    pub fn panic_inside_slot(&self) {
        self.next.store(PANIC_INSIDE_SLOT, Ordering::Release);
    }

    /// The next turn does not end before [`Fault::release`].
    pub fn stick(&self) {
        self.next.store(STUCK, Ordering::Release);
    }

    /// Ends a turn that is stuck.
    pub fn release(&self) {
        self.next.store(NONE, Ordering::Release);
    }

    /// Whether what was asked for has happened, or happens.
    pub fn has_struck(&self) -> bool {
        matches!(self.next.load(Ordering::Acquire), NONE | HELD)
    }

    /// Shard only.
    pub fn strike(&self, table: &Table) {
        match self.next.load(Ordering::Acquire) {
            NONE => {}
            STUCK => {
                // Released before it began, it does not begin.
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
