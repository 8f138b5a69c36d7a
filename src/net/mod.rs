//! The shell of the loop: sockets, pools and signals around the core, and nothing of the protocol.
//!
//! [`Shell::open`] listens; [`Shell::run`] is the loop: wait for the system, take an event, hand it to the core, carry
//! out the effects. One thread owns every accepted socket.
//!
//! Read in this order: [`server`] (the loop), `serve` and `effects` (what it does for one connection and one effect),
//! `conn` (a connection), [`http1`] and [`ws`] (the machines that read), [`outbox`] (what waits to be sent), [`crowd`]
//! and [`limits`] (who may take how much), `lanes` and [`mailbox`] (work on other threads and the way back),
//! [`control`] (the port that answers when the loop does not).
//!
//! **Invariants.** The loop waits in one place only, `Server::wait`. Machines get bytes and the time, never a socket or
//! a clock. Whatever a peer can make grow has a named limit; what is over it is refused, closed, or left unread in the
//! kernel. The shell decides nothing about the protocol: what a frame means is the core's.

mod conn;
pub mod control;
pub mod core;
pub mod crowd;
pub mod deadlines;
pub mod doors;
mod effects;
pub mod http1;
pub mod lanes;
pub mod limits;
pub mod mailbox;
pub mod outbox;
mod quiet;
pub mod run_host;
mod serve;
pub mod server;
pub mod signals;
pub mod tokens;
pub mod ws;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;

pub use limits::Limits;
pub use mailbox::LoopSender;
pub use server::{ExitReason, Setup, Shell};

/// Why the shell could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// An address could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The control port's address could not be listened on.
    #[error("cannot listen on the control address {address}")]
    ListenControl {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system has no readiness queue, waker or signal handler for us.
    #[error("cannot set up the event loop")]
    SetUp(#[source] io::Error),
    /// Waiting for readiness failed.
    #[error("cannot wait for sockets")]
    Wait(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start thread {name}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl NetError {
    /// Whether another process has the address.
    pub fn is_address_taken(&self) -> bool {
        match self {
            NetError::Listen { source, .. } | NetError::ListenControl { source, .. } => {
                source.kind() == io::ErrorKind::AddrInUse
            }
            NetError::SetUp(_) | NetError::Wait(_) | NetError::Thread { .. } => false,
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            NetError::Listen { source, .. } | NetError::ListenControl { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    Some("another process listens there; stop it, or choose another port (--port, 0 takes a free one)")
                }
                io::ErrorKind::PermissionDenied => Some("ports below 1024 need a privilege; choose a higher one"),
                io::ErrorKind::AddrNotAvailable => Some("this machine has no such address; see gateway.bind"),
                _ => None,
            },
            NetError::SetUp(_) | NetError::Wait(_) | NetError::Thread { .. } => None,
        }
    }
}
