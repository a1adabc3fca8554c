//! Measures how much memory a piece of code holds at most, so that a target can compare it with its input.
//!
//! Every binary that links this crate counts its allocations, per thread. Never here: the real allocator, which
//! stays the system's.
#![expect(unsafe_code, reason = "a global allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD_BYTES: Cell<isize> = const { Cell::new(0) };
    static MOST_BYTES: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: isize) {
    // A thread that is ending has no counters any more, and nothing to measure.
    let _ = HELD_BYTES.try_with(|held| {
        let now = held.get() + bytes;
        held.set(now);
        let _ = MOST_BYTES.try_with(|most| most.set(most.get().max(now)));
    });
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every call is handed to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(signed(bytes) - signed(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

/// Runs `work`; gives its result and the most bytes this thread held because of it at any moment.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD_BYTES.with(Cell::get);
    let outer = MOST_BYTES.with(|most| most.replace(before));
    let result = work();
    let most = MOST_BYTES.with(|most| most.replace(most.get().max(outer)));
    (result, usize::try_from(most - before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::measured;

    #[test]
    fn what_was_held_at_once_is_measured_and_not_what_was_held_in_turn() {
        let (_, most) = measured(|| {
            for _ in 0..10 {
                drop(std::hint::black_box(vec![1_u8; 100_000]));
            }
        });
        assert!((100_000..150_000).contains(&most), "{most}");
    }
}
