//! The program's allocator: dlmalloc behind one lock, the same on every C library.
//!
//! A daemon that lives for months in little memory wants blocks joined again when they are free, and pages given back.
//! The allocator of the C library that the static release is linked with does neither: it keeps what each thread freed in
//! lists of one size, and 10,000 turns cost 14 MiB that no one used. Threads here are few and wait for sockets and disks,
//! so one lock costs less than a cache for each of them. SQLite allocates with the C library; its caches are bounded.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::Dlmalloc;

/// Bytes that stay at hand when free memory is given back, so that the next call need not ask the kernel.
const KEPT_BYTES: usize = 128 * 1024;

static HEAP: Mutex<Dlmalloc> = Mutex::new(Dlmalloc::new());

/// Gives free memory back to the kernel, but for [`KEPT_BYTES`]; says whether there was any.
pub fn trim() -> bool {
    // SAFETY: the heap is this file's alone, and locked.
    unsafe { heap().trim(KEPT_BYTES) }
}

fn heap() -> MutexGuard<'static, Dlmalloc> {
    // Nothing panics while it is locked.
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The allocator that `main.rs` names as the program's.
pub struct Allocator;

// SAFETY: every block comes from the one heap, which is locked for each call, and goes back to it with the layout it was
// asked for with, as `GlobalAlloc` demands of its callers. Neither the lock nor the heap allocates or unwinds.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see above.
        unsafe { heap().malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see above.
        unsafe { heap().calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: see above.
        unsafe { heap().free(block, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: see above.
        unsafe { heap().realloc(block, layout.size(), layout.align(), new_size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::memory;

    /// Far more than the other tests of this process come to hold meanwhile.
    const BLOCKS: usize = 64 * 1024;
    const BLOCK: Layout = Layout::new::<[u64; 256]>();

    #[test]
    fn what_is_free_goes_back_to_the_kernel() {
        // SAFETY: the layout is not empty.
        let blocks: Vec<*mut u8> = (0..BLOCKS).map(|_| unsafe { Allocator.alloc(BLOCK) }).collect();
        for block in &blocks {
            // SAFETY: it is of that size, and nobody else's.
            unsafe { block.write_bytes(1, BLOCK.size()) };
        }
        let held = memory::resident_bytes().expect("Linux has /proc/self/statm");
        for block in blocks {
            // SAFETY: it was asked for above.
            unsafe { Allocator.dealloc(block, BLOCK) };
        }
        trim();
        let left = memory::resident_bytes().expect("Linux has /proc/self/statm");
        assert!(left + (BLOCKS * BLOCK.size() / 2) as u64 <= held, "{held} bytes with the blocks, {left} without");
    }

    #[test]
    fn a_block_keeps_its_bytes_and_its_alignment_as_it_grows() {
        for align in [1, 8, 64, 4096] {
            let layout = |size| Layout::from_size_align(size, align).expect("a small layout");
            // SAFETY: no layout is empty, each block goes back with its own, and no byte outside of it is touched.
            unsafe {
                let mut block = Allocator.alloc_zeroed(layout(100));
                assert!(std::slice::from_raw_parts(block, 100).iter().all(|byte| *byte == 0));
                block.write_bytes(7, 100);
                block = Allocator.realloc(block, layout(100), 1 << 20);
                assert!(block.addr().is_multiple_of(align));
                assert!(std::slice::from_raw_parts(block, 100).iter().all(|byte| *byte == 7));
                Allocator.dealloc(block, layout(1 << 20));
            }
        }
    }
}
