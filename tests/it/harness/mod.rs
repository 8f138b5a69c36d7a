//! The house the tests live in: a real gateway on port 0 with its own directory, and clients that talk to it.
//!
//! [`Server::start`] spawns the binary with an empty environment, a temporary home and state directory, and waits for the line
//! that names its port. [`Server::operator`] and [`Server::node`] give signed-in clients of either protocol; [`Socket`] is
//! the plain connection below them, for what a well-behaved client would never send. [`provider::Provider`] is a model
//! provider that answers as it is told.
//!
//! **Invariants:** nothing here sleeps and hopes (every wait has a condition and a deadline); nothing touches the user's
//! files or a fixed port; a failed test prints what was said on every connection and what the daemon wrote.

pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod inbox;
pub(crate) mod provider;
pub(crate) mod schema;
pub(crate) mod server;
pub(crate) mod socket;

pub(crate) use client::{Attempt, Client};
pub(crate) use connect::{ConnectOptions, Proto};
pub(crate) use identity::Identities;
pub(crate) use inbox::{Arrival, Inbox, What};
pub(crate) use server::Server;
pub(crate) use socket::Socket;
