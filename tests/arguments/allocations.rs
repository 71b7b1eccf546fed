//! Enqueuing takes no memory on the host: every entry point, under an allocator that counts, on a driver that does nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use hadal::Device;

use super::{entries, idle};

thread_local! {
    /// How often this thread has asked for memory.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is handed on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often `work` asks for memory.
fn asked<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = ASKED.get();
    let result = work();
    (ASKED.get() - before, result)
}

#[test]
fn enqueuing_takes_no_memory() {
    let device = Device::from_driver(Arc::new(idle::Idle::default()), 0).unwrap();
    let stream = device.new_stream().unwrap();
    assert_eq!(asked(|| Box::new(7u64)).0, 1, "the allocator counts");
    for entry in entries::all(std::slice::from_ref(&device)) {
        for _ in 0..2 {
            let (count, result) = asked(|| (entry.run)(&entry.operands, &stream));
            result.unwrap_or_else(|error| panic!("{}: {error}", entry.name));
            assert_eq!(count, 0, "{} allocates", entry.name);
        }
    }
}
