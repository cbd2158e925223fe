//! Counts what each thread allocates, for the tests that say it is nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Neither lazily made nor dropped, so that counting allocates nothing itself.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread while `work` ran.
pub fn during(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Does `work` without counting what it allocates.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.get();
    let result = work();
    ALLOCATIONS.set(before);
    result
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call goes to the system's allocator as it came; counting touches no allocated memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps GlobalAlloc's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; the block is the system allocator's, as all of ours are.
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
