//! The yardstick: what a WebSocket server costs that does nothing.
//!
//! `echo [PORT]` listens on loopback (port 0 or none: one is picked), prints `listening PORT`, and answers every message:
//! with itself, or, on a connection opened with the path `/reply/N`, with a text of N bytes, so that a gateway's
//! request and answer sizes can be imitated. One thread, mio and tungstenite with small read buffers, nothing else.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use tungstenite::handshake::MidHandshake;
use tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response, ServerHandshake};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, HandshakeError, Message, Utf8Bytes, WebSocket};

/// Read buffer of each connection, in bytes: tungstenite's own default of 128 KiB would be measured instead of the loop.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Readiness events taken from the kernel per wait.
const EVENTS_PER_WAIT: usize = 256;
/// The longest answer `/reply/N` may ask for, in bytes.
const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

const LISTENER: Token = Token(0);

/// Keeps the length that the path asks for; the handshake owns its callback, so the connection shares the cell.
struct ReplyLength(Rc<Cell<Option<usize>>>);

impl Callback for ReplyLength {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        self.0.set(request.uri().path().strip_prefix("/reply/").and_then(|n| n.parse().ok()));
        Ok(response)
    }
}

/// A connection, before and after the upgrade.
enum Peer {
    Upgrading { handshake: MidHandshake<ServerHandshake<TcpStream, ReplyLength>>, length: Rc<Cell<Option<usize>>> },
    Open { socket: WebSocket<TcpStream>, reply: Option<Utf8Bytes> },
}

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).map_or(0, |port| port.parse().expect("the argument is a port number"));
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening {}", listener.local_addr()?.port());

    let mut events = Events::with_capacity(EVENTS_PER_WAIT);
    let mut peers: HashMap<Token, Peer> = HashMap::new();
    let mut next_token = LISTENER.0 + 1;
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Some(mut stream) = accept(&listener)? {
                    let token = Token(next_token);
                    next_token += 1;
                    stream.set_nodelay(true)?;
                    poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                    if let Some(peer) = upgrade(stream) {
                        peers.insert(token, peer);
                    }
                }
            } else if let Some(Peer::Open { socket, reply }) = peers.get_mut(&event.token()) {
                if !serve(socket, reply.as_ref()) {
                    peers.remove(&event.token());
                }
            } else if let Some(Peer::Upgrading { handshake, length }) = peers.remove(&event.token())
                && let Some(peer) = upgraded(handshake.handshake(), length)
            {
                peers.insert(event.token(), peer);
            }
        }
    }
}

fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn upgrade(stream: TcpStream) -> Option<Peer> {
    let length = Rc::new(Cell::new(None));
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let result = tungstenite::accept_hdr_with_config(stream, ReplyLength(Rc::clone(&length)), Some(config));
    upgraded(result, length)
}

fn upgraded(
    result: Result<WebSocket<TcpStream>, HandshakeError<ServerHandshake<TcpStream, ReplyLength>>>,
    length: Rc<Cell<Option<usize>>>,
) -> Option<Peer> {
    match result {
        Ok(mut socket) => {
            let reply = length.get().map(|bytes| Utf8Bytes::from("x".repeat(bytes.min(REPLY_BYTES_MAX))));
            // What came in one packet with the upgrade has no readiness event of its own any more.
            serve(&mut socket, reply.as_ref()).then_some(Peer::Open { socket, reply })
        }
        Err(HandshakeError::Interrupted(handshake)) => Some(Peer::Upgrading { handshake, length }),
        Err(HandshakeError::Failure(_)) => None,
    }
}

/// Answers everything that has arrived; false once the connection is gone.
fn serve(socket: &mut WebSocket<TcpStream>, reply: Option<&Utf8Bytes>) -> bool {
    loop {
        let answer = match (socket.read(), reply) {
            (Ok(Message::Text(_) | Message::Binary(_)), Some(reply)) => Message::Text(reply.clone()),
            (Ok(message @ (Message::Text(_) | Message::Binary(_))), None) => message,
            (Ok(_), _) => continue,
            (Err(error), _) if is_would_block(&error) => break,
            (Err(_), _) => return false,
        };
        if let Err(error) = socket.write(answer)
            && !is_would_block(&error)
        {
            return false;
        }
    }
    socket.flush().err().is_none_or(|error| is_would_block(&error))
}

fn is_would_block(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}
