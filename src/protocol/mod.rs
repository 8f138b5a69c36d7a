//! The wire as plain data: frames, errors, versions, scopes, session keys, device proofs.
//!
//! Follows the gateway wire contract for protocols 3 (release 2026.2.21) and 4 (release 2026.9.6).
//!
//! **Invariant:** no IO, no clock, no other room of ours. What arrives as text is parsed here once, into types;
//! nothing downstream asks again whether a name, a scope or a key has been checked.

pub mod close;
pub mod connect;
pub mod device;
pub mod error;
pub mod frame;
pub mod json;
pub mod params;
pub mod scope;
pub mod session_key;
pub mod version;

/// Names one accepted connection for the life of the process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Largest frame after `hello-ok`, in bytes (`policy.maxPayload`); a longer one closes with 1009.
pub const FRAME_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Largest frame before `hello-ok`, in bytes; a longer one closes with 1009.
pub const FRAME_BYTES_MAX_BEFORE_HELLO: usize = 64 * 1024;
/// Unsent bytes one connection may owe before events are dropped or the connection closed (`policy.maxBufferedBytes`).
pub const BUFFERED_BYTES_MAX: usize = 50 * 1024 * 1024;

const _: () = assert!(FRAME_BYTES_MAX_BEFORE_HELLO < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < BUFFERED_BYTES_MAX);
