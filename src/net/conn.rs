//! One accepted socket and the machine that speaks on it.
//!
//! A socket begins as HTTP. An upgrade makes it a WebSocket; an answer that ends the connection leaves it lingering,
//! so that the peer reads the answer before the end. What the shell does with each is in `server`.

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::time::Instant;

use mio::net::TcpStream;

use super::crowd::Standing;
use super::deadlines::Armed;
use super::http1::{Ends, Http};
use super::limits::{Clocks, Limits, PeerKey};
use super::outbox::{Outbox, READ_PAUSE_BYTES};
use super::ws;
use crate::gateway::Gone;
use crate::protocol::{ConnId, FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_HELLO};

/// One connection.
pub(super) struct Conn {
    pub id: ConnId,
    pub stream: TcpStream,
    pub ends: Ends,
    pub key: PeerKey,
    pub standing: Standing,
    pub machine: Machine,
    pub out: Outbox,
    /// Bytes that were read and not yet looked at, because the peer does not take its answers or a turn was full.
    pub held: Vec<u8>,
    /// The kernel may have bytes for us.
    pub readable: bool,
    /// The kernel may take bytes from us.
    pub writable: bool,
    /// The peer sends nothing more.
    pub read_closed: bool,
    /// The core was handed a request and has not answered it.
    pub waits_for_core: bool,
    /// Listed to be served in the next turn.
    pub is_ready: bool,
    /// Listed to be flushed before the turn ends.
    pub is_dirty: bool,
    pub armed: Armed,
    /// Since when the kernel has taken nothing of what waits.
    pub stalled_since: Option<Instant>,
    /// What of the shared budgets is booked for this connection.
    pub booked: Booked,
}

/// Bytes booked in the shell's totals.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Booked {
    pub partial_bytes: usize,
    pub out_bytes: usize,
}

/// What speaks on the socket.
pub(super) enum Machine {
    Http(Box<Http>),
    WebSocket(Box<WebSocket>),
    /// Everything was said; what the peer still sends is thrown away until it closes or this time comes.
    Lingering(Instant),
}

/// A WebSocket and its clocks.
pub(super) struct WebSocket {
    pub reader: ws::Reader,
    pub phase: Phase,
    /// Since when a message has been incomplete.
    pub partial_since: Option<Instant>,
}

/// How far a WebSocket has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// `connect` has not been accepted; closes at this time.
    Handshake(Instant),
    /// In use.
    Admitted(Keepalive),
    /// A close frame has been queued.
    Closing(Closing),
}

/// Where an admitted client stands with its pings.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keepalive {
    /// The next ping is due then.
    PingAt(Instant),
    /// A ping waits to leave.
    Leaving,
    /// It has left; the answer is due then.
    PongBy(Instant),
}

/// How and until when a WebSocket closes.
#[derive(Debug)]
pub(super) struct Closing {
    pub gone: Gone,
    /// The peer has closed too, or sends nothing we would read: end as soon as all is sent.
    pub peer_closed: bool,
    pub until: Instant,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    Bytes(usize),
    Nothing,
    /// The peer has ended its side.
    End,
    /// The socket is broken.
    Broken,
}

impl Conn {
    pub(super) fn new(id: ConnId, stream: TcpStream, ends: Ends, now: Instant) -> Conn {
        Conn {
            id,
            stream,
            ends,
            key: PeerKey::of(ends.peer.ip()),
            standing: Standing::Silent,
            machine: Machine::Http(Box::new(Http::new(ends, now))),
            out: Outbox::default(),
            held: Vec::new(),
            readable: false,
            // A new socket has room; the first write tells if not.
            writable: true,
            read_closed: false,
            waits_for_core: false,
            is_ready: false,
            is_dirty: false,
            armed: Armed::default(),
            stalled_since: None,
            booked: Booked::default(),
        }
    }

    /// Reads once. Less than asked for means that the kernel has no more: a later arrival wakes the loop again.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Got {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => {
                    self.readable = false;
                    self.read_closed = true;
                    return Got::End;
                }
                Ok(n) => {
                    // When the end has been announced it is still to be read.
                    self.readable = n == buffer.len() || self.read_closed;
                    return Got::Bytes(n);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.readable = false;
                        return Got::Nothing;
                    }
                    io::ErrorKind::Interrupted => {}
                    _ => return Got::Broken,
                },
            }
        }
    }

    /// Whether input is looked at now, or left where it is: the peer does not take its answers.
    pub(super) fn is_paused(&self) -> bool {
        self.out.queued_bytes() > READ_PAUSE_BYTES
    }

    /// Whether there may be something to read and it would be looked at.
    pub(super) fn has_work(&self) -> bool {
        let input = self.readable || !self.held.is_empty();
        match &self.machine {
            Machine::Http(http) => (http.has_unread() || input && http.wants_input()) && !self.is_paused(),
            Machine::WebSocket(_) => input && !self.is_paused(),
            Machine::Lingering(_) => self.readable,
        }
    }

    /// Bytes held of messages and requests that are not complete.
    pub(super) fn partial_bytes(&self) -> usize {
        self.held.capacity()
            + match &self.machine {
                Machine::Http(http) => http.partial_bytes(),
                Machine::WebSocket(socket) => socket.reader.partial_bytes(),
                Machine::Lingering(_) => 0,
            }
    }

    /// Says everything is said, and waits for the peer to see it.
    pub(super) fn linger(&mut self, until: Instant) {
        // Fails only when the peer is gone already, and then so will be the socket.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.held = Vec::new();
        self.readable = true;
        self.machine = Machine::Lingering(until);
    }

    /// When to look at this connection although nothing happened on it.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let machine = match &self.machine {
            Machine::Http(http) => http.deadline(&limits.bodies),
            Machine::WebSocket(socket) => socket.deadline(&limits.clocks),
            Machine::Lingering(until) => Some(*until),
        };
        let stall = self.stalled_since.map(|since| since + limits.clocks.write_stall_max);
        [machine, stall].into_iter().flatten().min()
    }
}

impl WebSocket {
    /// A WebSocket whose `connect` is due `handshake_by`.
    pub(super) fn new(handshake_by: Instant) -> WebSocket {
        WebSocket {
            reader: ws::Reader::new(FRAME_BYTES_MAX_BEFORE_HELLO),
            phase: Phase::Handshake(handshake_by),
            partial_since: None,
        }
    }

    /// `connect` was accepted.
    pub(super) fn admit(&mut self, ping_at: Instant) {
        self.reader.set_message_bytes_max(FRAME_BYTES_MAX);
        self.phase = Phase::Admitted(Keepalive::PingAt(ping_at));
    }

    pub(super) fn is_admitted(&self) -> bool {
        matches!(self.phase, Phase::Admitted(_))
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }

    fn deadline(&self, clocks: &Clocks) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Handshake(by) => Some(*by),
            Phase::Admitted(Keepalive::PingAt(at) | Keepalive::PongBy(at)) => Some(*at),
            Phase::Admitted(Keepalive::Leaving) => None,
            Phase::Closing(closing) => return Some(closing.until),
        };
        let partial = self.partial_since.map(|since| since + clocks.message_time_max);
        [phase, partial].into_iter().flatten().min()
    }
}

/// Whether a request is refused because somebody it should not have come through has touched it: headers of a proxy
/// from a peer that is no trusted one.
pub(super) fn is_foreign_proxy(headers: &[(String, String)], ends: Ends, limits: &Limits) -> bool {
    headers.iter().any(|(name, _)| super::http1::is_proxy_header(name)) && !limits.trusts(ends.peer.ip())
}
