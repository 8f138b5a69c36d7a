//! The program's allocator: dlmalloc behind one lock, and a few small blocks at hand for each thread.
//!
//! A daemon that lives for months in little memory wants blocks joined again when they are free, and pages given back.
//! The allocator of the C library that the static release is linked with does neither: it keeps what each thread freed in
//! lists of one size, and 10,000 turns cost 90 MiB that no one used. The heap here does both. Its lock alone was a quarter
//! of the processor's time under load, so a thread takes small blocks from the heap some at a time, and gives them back
//! some at a time ([`AtHand`]). SQLite allocates with the C library; its caches are bounded.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::Dlmalloc;

/// Bytes that stay at hand when free memory is given back, so that the next call need not ask the kernel.
const KEPT_BYTES: usize = 128 * 1024;
/// Small blocks are multiples of this many bytes, and aligned to it.
const STEP_BYTES: usize = 16;
/// Largest small block, in bytes.
const SMALL_BYTES_MAX: usize = 256;
/// Sizes of small blocks.
const CLASSES: usize = SMALL_BYTES_MAX / STEP_BYTES;
/// Most bytes of one size that a thread keeps at hand; half of them go when there are more. With [`CLASSES`] sizes that is
/// 32 KiB for each thread.
const AT_HAND_BYTES_MAX: usize = 2048;
/// Bytes of one size that are taken from the heap at once.
const TAKEN_BYTES: usize = 1024;

static HEAP: Mutex<Dlmalloc> = Mutex::new(Dlmalloc::new());

thread_local! {
    static HAND: Hand = const {
        Hand { is_open: Cell::new(false), lists: [const { Cell::new(List { first: ptr::null_mut(), n: 0 }) }; CLASSES] }
    };
}

/// Gives free memory back to the kernel, but for [`KEPT_BYTES`]; says whether there was any.
pub fn trim() -> bool {
    // SAFETY: the heap is this file's alone, and locked.
    unsafe { heap().trim(KEPT_BYTES) }
}

fn heap() -> MutexGuard<'static, Dlmalloc> {
    // Nothing panics while it is locked.
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As long as it lives, its thread keeps small blocks at hand; then they go back to the heap.
#[derive(Debug)]
pub struct AtHand(());

impl AtHand {
    /// From now on, on this thread.
    #[must_use = "it ends when it is dropped"]
    pub fn open() -> AtHand {
        HAND.with(|hand| hand.is_open.set(true));
        AtHand(())
    }
}

impl Drop for AtHand {
    fn drop(&mut self) {
        HAND.with(|hand| {
            hand.is_open.set(false);
            for class in 0..CLASSES {
                hand.give_back(class, 0);
            }
        });
    }
}

/// The small blocks that a thread has at hand.
struct Hand {
    is_open: Cell<bool>,
    lists: [Cell<List>; CLASSES],
}

/// Free blocks of one size; each begins with the address of the next.
#[derive(Clone, Copy)]
struct List {
    first: *mut u8,
    n: usize,
}

impl List {
    /// # Safety
    /// `block` is free, aligned and large enough for an address, and on no list.
    unsafe fn push(&mut self, block: *mut u8) {
        // SAFETY: the caller promises it.
        unsafe { block.cast::<*mut u8>().write(self.first) };
        self.first = block;
        self.n += 1;
    }

    fn pop(&mut self) -> Option<*mut u8> {
        if self.first.is_null() {
            return None;
        }
        let block = self.first;
        // SAFETY: a block on the list was written by `push`.
        self.first = unsafe { block.cast::<*mut u8>().read() };
        self.n -= 1;
        Some(block)
    }
}

impl Hand {
    /// A block; null when there is no memory.
    fn take(&self, class: usize) -> *mut u8 {
        let mut list = self.lists[class].get();
        let block = list.pop().unwrap_or_else(|| {
            let mut heap = heap();
            for _ in 1..TAKEN_BYTES / bytes_of(class) {
                // SAFETY: a block that nobody has, large enough.
                unsafe {
                    let block = heap.malloc(bytes_of(class), STEP_BYTES);
                    if block.is_null() {
                        break;
                    }
                    list.push(block);
                }
            }
            // SAFETY: no layout of a class is empty.
            unsafe { heap.malloc(bytes_of(class), STEP_BYTES) }
        });
        self.lists[class].set(list);
        block
    }

    /// # Safety
    /// `block` is of this class, and its owner is done with it.
    unsafe fn put(&self, class: usize, block: *mut u8) {
        let mut list = self.lists[class].get();
        // SAFETY: the caller promises it.
        unsafe { list.push(block) };
        self.lists[class].set(list);
        let n_max = AT_HAND_BYTES_MAX / bytes_of(class);
        if list.n > n_max {
            self.give_back(class, n_max / 2);
        }
    }

    /// All but `n_kept` blocks go back to the heap.
    fn give_back(&self, class: usize, n_kept: usize) {
        let mut list = self.lists[class].get();
        if list.n > n_kept {
            let mut heap = heap();
            while list.n > n_kept
                && let Some(block) = list.pop()
            {
                // SAFETY: it came from this heap, with this layout.
                unsafe { heap.free(block, bytes_of(class), STEP_BYTES) };
            }
        }
        self.lists[class].set(list);
    }
}

/// The class of a layout; `None`: it is none of the small ones.
fn class_of(layout: Layout) -> Option<usize> {
    let is_small = layout.size() <= SMALL_BYTES_MAX && layout.align() <= STEP_BYTES;
    is_small.then(|| layout.size().max(1).div_ceil(STEP_BYTES) - 1)
}

/// Bytes of a class's blocks.
const fn bytes_of(class: usize) -> usize {
    (class + 1) * STEP_BYTES
}

/// The allocator that `main.rs` names as the program's.
pub struct Allocator;

// SAFETY: every block comes from the one heap, which is locked for each call, and goes back to it with the layout it was
// taken with: a small one with that of its class, which follows from the layout it is asked for with. Until then it is on
// the list of one thread, or its owner's. Neither the lock, the lists nor the heap allocate or unwind, and the lists have
// no destructor: they can be used for as long as the thread runs.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            // SAFETY: see above.
            return unsafe { heap().malloc(layout.size(), layout.align()) };
        };
        HAND.with(|hand| match hand.is_open.get() {
            true => hand.take(class),
            // SAFETY: see above.
            false => unsafe { heap().malloc(bytes_of(class), STEP_BYTES) },
        })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class_of(layout).is_none() {
            // SAFETY: see above.
            return unsafe { heap().calloc(layout.size(), layout.align()) };
        }
        // SAFETY: see above; the block has at least this many bytes.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class_of(layout) else {
            // SAFETY: see above.
            return unsafe { heap().free(block, layout.size(), layout.align()) };
        };
        HAND.with(|hand| match hand.is_open.get() {
            // SAFETY: see above.
            true => unsafe { hand.put(class, block) },
            // SAFETY: see above.
            false => unsafe { heap().free(block, bytes_of(class), STEP_BYTES) },
        });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size is one a layout can have.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (class_of(layout), class_of(new_layout)) {
            // SAFETY: see above.
            (None, None) => unsafe { heap().realloc(block, layout.size(), layout.align(), new_size) },
            (old, new) if old == new => block,
            // SAFETY: see above; both blocks have at least the smaller size.
            _ => unsafe {
                let new = self.alloc(new_layout);
                if !new.is_null() {
                    new.copy_from_nonoverlapping(block, layout.size().min(new_size));
                    self.dealloc(block, layout);
                }
                new
            },
        }
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
    fn a_thread_keeps_no_more_at_hand_than_it_may_and_nothing_when_it_ends() {
        let at_hand = AtHand::open();
        let n_at_hand = |class: usize| HAND.with(|hand| hand.lists[class].get().n);
        for class in 0..CLASSES {
            let layout = Layout::from_size_align(bytes_of(class), 8).expect("a small layout");
            // SAFETY: the layout is not empty.
            let blocks: Vec<*mut u8> = (0..1000).map(|_| unsafe { Allocator.alloc(layout) }).collect();
            let distinct: std::collections::BTreeSet<_> = blocks.iter().collect();
            assert_eq!(distinct.len(), blocks.len(), "a block has one owner");
            for block in blocks {
                // SAFETY: it was asked for above.
                unsafe { Allocator.dealloc(block, layout) };
                assert!(n_at_hand(class) <= AT_HAND_BYTES_MAX / bytes_of(class), "class {class}");
            }
            assert!(n_at_hand(class) > 0);
        }
        drop(at_hand);
        assert!((0..CLASSES).all(|class| n_at_hand(class) == 0));
    }

    #[test]
    fn blocks_may_be_given_back_by_another_thread() {
        let layouts: Vec<Layout> =
            (1..600).step_by(7).map(|size| Layout::from_size_align(size, 1).expect("a small layout")).collect();
        let (tell, told) = std::sync::mpsc::sync_channel::<(usize, Layout)>(64);
        let giver = std::thread::scope(|scope| {
            let giver = scope.spawn(move || {
                let _at_hand = AtHand::open();
                let mut n_blocks = 0;
                for (block, layout) in told {
                    let block = ptr::with_exposed_provenance_mut::<u8>(block);
                    // SAFETY: the other thread gave it away, whole.
                    unsafe {
                        assert!(std::slice::from_raw_parts(block, layout.size()).iter().all(|byte| *byte == 9));
                        let block = Allocator.realloc(block, layout, layout.size() * 2);
                        Allocator.dealloc(block, Layout::from_size_align_unchecked(layout.size() * 2, 1));
                    }
                    n_blocks += 1;
                }
                n_blocks
            });
            let _at_hand = AtHand::open();
            for layout in layouts.iter().cycle().take(20_000) {
                // SAFETY: the layout is not empty.
                let block = unsafe {
                    let block = Allocator.alloc(*layout);
                    block.write_bytes(9, layout.size());
                    block
                };
                tell.send((block.expose_provenance(), *layout)).expect("the other thread listens");
            }
            drop(tell);
            giver.join().expect("it does not panic")
        });
        assert_eq!(giver, 20_000);
    }

    #[test]
    fn a_block_keeps_its_bytes_and_its_alignment_as_it_grows() {
        let _at_hand = AtHand::open();
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
