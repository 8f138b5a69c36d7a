//! Everything that can make the gateway act. If it is not listed here, it cannot happen.

use std::net::SocketAddr;

use super::effect::{Lane, Origin, Report, RunNo};
use super::http::HttpRequest;
use crate::agent::run::RunEvent;
use crate::protocol::ConnId;

/// Something happened. Given to `Gateway::handle` one at a time, in one order.
#[derive(Debug)]
pub enum Event<'a> {
    /// A socket finished its WebSocket upgrade; nothing has been read from it yet.
    Opened(ConnId, Box<Upgrade>),
    /// A complete message arrived; binary ones are text to this protocol.
    Frame(ConnId, &'a str),
    /// A WebSocket ended, by either side. Sent exactly once for each `Opened`.
    Closed(ConnId, Gone),
    /// A complete HTTP request arrived. The connection reads no further request until it is replied to.
    Http(ConnId, Box<HttpRequest>),
    /// The connection of an unanswered HTTP request ended.
    HttpGone(ConnId),
    /// A job finished.
    Report(Box<Report>),
    /// A run tells what happens in it.
    Told(RunNo, Box<RunEvent>),
    /// A job could not be started: its lane's queue is full.
    Shed(Origin, Lane),
    /// The time that `Gateway::deadline` named has passed.
    Timer,
    /// The operating system asks.
    Signal(Signal),
}

/// What the head of an upgrade request said.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// Our end of the socket.
    pub local: SocketAddr,
    /// Path and query as sent.
    pub target: String,
    /// Header names in lower case, in order; values that are not UTF-8 are left out.
    pub headers: Vec<(String, String)>,
}

impl Upgrade {
    /// The first header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        super::http::header(&self.headers, name)
    }
}

/// How a WebSocket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The close code: the peer's, ours, or 1006 when the socket ended without one.
    pub code: u16,
    /// The reason given with it.
    pub reason: String,
}

/// What the operating system asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: say goodbye, finish, exit. (The shell itself exits at once on the second.)
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}
