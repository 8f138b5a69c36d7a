//! What every room stands on: threads, clocks, randomness, logging, metrics.
//!
//! **Invariant:** nothing here knows the protocol, the store or the gateway.

pub mod allocator;
pub mod beneath;
pub mod clock;
pub mod digest;
pub mod host;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod notify;
pub mod outbound;
pub mod pool;
pub mod qr;
pub mod random;
pub mod stop;
pub mod threads;
