//! The one place where threads start.
//!
//! Each has a name of at most 15 bytes (Linux keeps no more), so `top`, panics and the shutdown log agree, and a small
//! explicit stack, because a default of 2 MiB times a pool is address space and page tables for nothing.

use std::io;
use std::thread::{Builder, JoinHandle};

use super::allocator::AtHand;

/// Longest thread name Linux shows, in bytes.
pub const THREAD_NAME_BYTES_MAX: usize = 15;
/// Stack of a thread that runs only our own shallow code.
pub const STACK_BYTES: usize = 256 * 1024;
/// Stack of a thread that runs SQLite, regular expressions or deep JSON.
pub const STACK_BYTES_DEEP: usize = 1024 * 1024;

/// Starts a named thread.
///
/// # Errors
/// The operating system's refusal.
#[expect(clippy::disallowed_methods, reason = "this is the one place that starts threads")]
pub fn spawn<T: Send + 'static>(
    name: &str,
    stack_bytes: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    assert!(name.len() <= THREAD_NAME_BYTES_MAX, "thread name {name} is longer than Linux keeps");
    Builder::new().name(name.to_owned()).stack_size(stack_bytes).spawn(move || {
        let _at_hand = AtHand::open();
        body()
    })
}
