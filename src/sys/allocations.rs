//! Counts the allocations of each thread, for tests that require none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Neither initialised lazily nor dropped, so that counting does not allocate.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Number of allocations of this thread while `work` ran.
pub fn during(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Runs `work` without counting its allocations.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.get();
    let result = work();
    ALLOCATIONS.set(before);
    result
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is passed unchanged to the system's allocator; counting touches no allocated memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the contract of GlobalAlloc, which is the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; the block came from the system's allocator, as all blocks do.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted() {
        assert_eq!(during(|| drop(std::hint::black_box(Box::new(7)))), 1);
        assert_eq!(during(|| uncounted(|| drop(std::hint::black_box(vec![7; 100])))), 0);
        assert_eq!(during(|| ()), 0);
    }
}
