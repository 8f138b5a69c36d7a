//! Many clients on one thread: a crowd that only sits there, and a few that send as fast as they are answered.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde_json::Value;
use tungstenite::{Error, Message, Utf8Bytes, WebSocket};

use crate::Result;
use crate::client::request_text;
use crate::latency::is_ok;

/// Readiness events taken from the kernel per wait.
const EVENTS_PER_WAIT: usize = 256;
/// Load before the counted part begins.
const WARM_UP: Duration = Duration::from_millis(300);

/// Connections that one poll watches.
pub struct Crowd {
    poll: Poll,
    events: Events,
    sockets: Vec<WebSocket<TcpStream>>,
}

impl Crowd {
    pub fn new() -> Result<Crowd> {
        Ok(Crowd { poll: Poll::new()?, events: Events::with_capacity(EVENTS_PER_WAIT), sockets: Vec::new() })
    }

    /// Adds a connection that has finished its handshake.
    pub fn add(&mut self, socket: WebSocket<TcpStream>) -> Result<()> {
        socket.get_ref().set_nonblocking(true)?;
        let token = Token(self.sockets.len());
        let fd = socket.get_ref().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE | Interest::WRITABLE)?;
        self.sockets.push(socket);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Reads and drops whatever arrives, for a while: idle clients still take their events.
    ///
    /// # Errors
    /// When a connection ends: the crowd would be smaller than the number it is divided by.
    pub fn idle(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            wait(&mut self.poll, &mut self.events, left)?;
            for event in &self.events {
                while next_text(&mut self.sockets[event.token().0])?.is_some() {}
            }
        }
        Ok(())
    }

    /// Keeps `depth` requests under way on every connection and counts the answers.
    pub fn load(&mut self, request: &Request, depth: usize, time: Duration) -> Result<Counted> {
        let mut next_id = 1_u64;
        for socket in &mut self.sockets {
            for _ in 0..depth {
                send(socket, request.text(&mut next_id))?;
            }
            flush(socket)?;
        }
        let warm_up = self.answer_for(request, &mut next_id, WARM_UP)?;
        let counted = self.answer_for(request, &mut next_id, time)?;
        // Every answer was followed by a request, so as many are under way as at first.
        let n_under_way = depth * self.sockets.len();
        self.drain(request, n_under_way)?;
        Ok(Counted { n_answers_all: warm_up.n_answers + counted.n_answers + n_under_way as u64, ..counted })
    }

    /// Answers each answer with a new request until the time is over.
    fn answer_for(&mut self, request: &Request, next_id: &mut u64, time: Duration) -> Result<Counted> {
        let began = Instant::now();
        let mut n_answers = 0;
        while began.elapsed() < time {
            wait(&mut self.poll, &mut self.events, time)?;
            for event in &self.events {
                let socket = &mut self.sockets[event.token().0];
                while let Some(frame) = next_text(socket)? {
                    if request.is_answer(&frame)? {
                        n_answers += 1;
                        send(socket, request.text(next_id))?;
                    }
                }
                flush(socket)?;
            }
        }
        Ok(Counted { n_answers, n_answers_all: n_answers, time: began.elapsed() })
    }

    /// Takes the last answers, so that the next measure on these connections does not meet them.
    fn drain(&mut self, request: &Request, mut n_left: usize) -> Result<()> {
        while n_left > 0 {
            wait(&mut self.poll, &mut self.events, Duration::from_secs(10))?;
            if self.events.is_empty() {
                return Err(format!("{n_left} requests were never answered").into());
            }
            for event in &self.events {
                while let Some(frame) = next_text(&mut self.sockets[event.token().0])? {
                    n_left -= usize::from(request.is_answer(&frame)?);
                }
            }
        }
        Ok(())
    }
}

/// What is sent, again and again.
pub enum Request {
    /// A gateway method; its answers must say `ok`.
    Method { method: String, params: Option<Value> },
    /// A text of this many bytes to the echo server, which answers with a text of its own length.
    Echo { bytes: usize },
}

impl Request {
    fn text(&self, next_id: &mut u64) -> Utf8Bytes {
        *next_id += 1;
        match self {
            Request::Method { method, params } => request_text(*next_id, method, params.as_ref()).into(),
            Request::Echo { bytes } => "x".repeat(*bytes).into(),
        }
    }

    /// False for an event that came in between.
    fn is_answer(&self, frame: &str) -> Result<bool> {
        match self {
            Request::Echo { .. } => Ok(true),
            // First, because a `health` event says `ok` too.
            Request::Method { .. } if frame.starts_with(r#"{"type":"event""#) => Ok(false),
            Request::Method { .. } if is_ok(frame) => Ok(true),
            Request::Method { method, .. } => Err(format!("{method} was refused under load: {frame}").into()),
        }
    }
}

/// Answers within a time.
pub struct Counted {
    pub n_answers: u64,
    /// With those before and after the counted time, as processor time is counted.
    pub n_answers_all: u64,
    pub time: Duration,
}

impl Counted {
    pub fn per_second(&self) -> f64 {
        self.n_answers as f64 / self.time.as_secs_f64()
    }
}

fn wait(poll: &mut Poll, events: &mut Events, time: Duration) -> Result<()> {
    match poll.poll(events, Some(time)) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error.into()),
        _ => Ok(()),
    }
}

/// The next text frame that has arrived; `None` when there is no more for now.
fn next_text(socket: &mut WebSocket<TcpStream>) -> Result<Option<Utf8Bytes>> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => return Ok(Some(text)),
            Ok(Message::Close(frame)) => return Err(format!("closed by the server: {frame:?}").into()),
            Ok(_) => {}
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn send(socket: &mut WebSocket<TcpStream>, text: Utf8Bytes) -> Result<()> {
    unless_full(socket.write(Message::Text(text)))
}

fn flush(socket: &mut WebSocket<TcpStream>) -> Result<()> {
    unless_full(socket.flush())
}

/// A full socket is not an error: what is buffered goes out with the next readiness.
fn unless_full(result: tungstenite::Result<()>) -> Result<()> {
    match result {
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => Ok(other?),
    }
}
