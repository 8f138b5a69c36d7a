//! The wire as plain data: frames, errors, versions, scopes, session keys, device proofs.
//!
//! Follows the gateway wire contract (protocols 3 and 4). **Invariant:** no IO, no clock, no other room of ours.

pub mod error;
