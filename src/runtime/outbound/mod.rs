//! The way out: requests to other hosts, over HTTP.
//!
//! [`socket`] connects and keeps the times, for every request that leaves this program. [`address`] says which addresses
//! belong to strangers and which to ourselves and our neighbours. [`fetch`] gets a page for somebody who may have been
//! talked into asking for it: it follows redirects one by one, and asks at each whether it may. [`sse`] takes a stream of
//! events apart.
//!
//! **Invariant:** whether an address may be reached is decided for the address that is connected to, at every hop;
//! no name, however it is spelled or resolves the next time, is believed. **Invariant:** nothing waits longer than its
//! deadline, or after its run was stopped.

pub mod address;
pub mod fetch;
pub mod socket;
pub mod sse;
