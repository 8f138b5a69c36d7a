//! HTTP/1.1 on the gateway port (RFC 9112), as a machine: bytes in, requests and answers out, no socket.
//!
//! One request at a time: while one waits for its answer, the bytes of the next stay where they are and the shell
//! stops reading. Every state that waits for the peer has a deadline, every buffer a limit.
//!
//! What is refused rather than guessed at: more than one length, a length beside `Transfer-Encoding`, any coding but
//! `chunked`, a missing or second `Host`. Each is a way to make two readers of one stream see different requests.

mod chunked;
mod head;
pub mod response;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::gateway::Upgrade;
use crate::gateway::http::{HttpRequest, HttpResponse};

use chunked::Chunks;
use head::{Framing, Head};

pub use head::is_proxy_header;

/// Largest request head in bytes, request line included; a larger one is answered 431.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most headers of a request; more are answered 431.
pub const HEADERS_MAX: usize = 100;
/// How long a head may take to arrive, from its first byte (the first head: from accept); then 408.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection may be silent between two requests before it is closed.
pub const KEEP_ALIVE_TIME_MAX: Duration = Duration::from_secs(30);

/// The limits of a body that depend on settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyLimits {
    /// Paths below this one take [`BodyLimits::hooks_bytes_max`]; `/hooks`.
    pub hooks_path: String,
    /// Largest body of a webhook.
    pub hooks_bytes_max: usize,
    /// Largest body of `/v1/chat/completions`.
    pub chat_bytes_max: usize,
    /// Largest body of `/v1/responses`.
    pub responses_bytes_max: usize,
    /// How long a body may take to arrive, and then how long its answer may take.
    pub request_time_max: Duration,
}

/// Largest body where nothing else is said.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest body of `/tools/invoke`.
pub const TOOLS_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest body of `/v1/chat/completions` and `/v1/responses` unless configured (upstream counts in thousands here).
pub const V1_BODY_BYTES_MAX: usize = 20_000_000;

impl Default for BodyLimits {
    fn default() -> BodyLimits {
        BodyLimits {
            hooks_path: String::from("/hooks"),
            hooks_bytes_max: BODY_BYTES_MAX,
            chat_bytes_max: V1_BODY_BYTES_MAX,
            responses_bytes_max: V1_BODY_BYTES_MAX,
            request_time_max: Duration::from_secs(30),
        }
    }
}

impl BodyLimits {
    /// Largest body in bytes that `path` takes.
    pub fn bytes_max(&self, path: &str) -> usize {
        let below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if path == "/tools/invoke" {
            TOOLS_BODY_BYTES_MAX
        } else if path == "/v1/chat/completions" {
            self.chat_bytes_max
        } else if path == "/v1/responses" {
            self.responses_bytes_max
        } else if below(self.hooks_path.trim_end_matches('/')) {
            self.hooks_bytes_max
        } else {
            BODY_BYTES_MAX
        }
    }
}

/// The two ends of a socket.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The other end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
}

/// What the machine has to say after it was given bytes.
#[derive(Debug)]
pub enum Step {
    /// Nothing before more bytes arrive.
    Starved,
    /// The peer waits for leave to send its body: send [`response::CONTINUE`], then step again.
    Continue,
    /// A complete request. The machine stands still until [`Http::answer`].
    Request(Box<HttpRequest>),
    /// The connection becomes a WebSocket; what follows the head is in [`Http::into_rest`].
    Upgrade(Box<Upgrade>, AcceptKey),
    /// No request can be read any more: send the refusal and end the connection.
    Refuse(Refusal),
}

/// The value of `Sec-WebSocket-Accept`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptKey(pub String);

/// Why a connection is answered by the shell itself, and then ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Status code.
    pub status: u16,
    /// What is wrong, for the body and the log.
    pub reason: &'static str,
}

impl Refusal {
    const fn new(status: u16, reason: &'static str) -> Refusal {
        Refusal { status, reason }
    }

    /// The answer that says so.
    pub fn response(self) -> HttpResponse {
        let mut headers = vec![(String::from("Content-Type"), String::from("application/json; charset=utf-8"))];
        match self.status {
            426 => {
                headers.push((String::from("Upgrade"), String::from("websocket")));
                headers.push((String::from("Sec-WebSocket-Version"), String::from("13")));
            }
            503 => headers.push((String::from("Retry-After"), String::from("1"))),
            _ => {}
        }
        headers.push((String::from("Cache-Control"), String::from("no-store")));
        headers.push((String::from("X-Content-Type-Options"), String::from("nosniff")));
        HttpResponse {
            status: self.status,
            headers,
            body: format!(r#"{{"ok":false,"error":"{}"}}"#, self.reason).into(),
        }
    }
}

/// What a passed deadline means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// Nothing was asked: close without a word.
    Quiet,
    /// Say why, then close. An unanswered request, if there is one, is given up.
    Refuse(Refusal),
}

/// One connection's HTTP.
#[derive(Debug)]
pub struct Http {
    ends: Ends,
    state: State,
    input: Vec<u8>,
    /// How far `input` has been searched for the end of the head.
    searched: usize,
}

#[derive(Debug)]
enum State {
    /// Between requests. `fresh` until the first one.
    Idle { since: Instant, fresh: bool },
    /// Some of a head is there.
    Head { since: Instant },
    /// The head is there, the body is not.
    Body { since: Instant, head: Head, arriving: Arriving, bytes_max: usize, body: Vec<u8> },
    /// The request has been handed over. `held`: its answer takes its time.
    Answering { since: Instant, keep_alive: bool, omit_body: bool, chunks: bool, held: bool },
    /// Its answer is being written in pieces.
    Streaming { keep_alive: bool, chunks: bool },
    /// Nothing more is read.
    Ended,
}

#[derive(Debug)]
enum Arriving {
    Sized { missing_bytes: usize },
    Chunked(Chunks),
}

impl Http {
    /// A connection accepted at `now`.
    pub fn new(ends: Ends, now: Instant) -> Http {
        Http { ends, state: State::Idle { since: now, fresh: true }, input: Vec::new(), searched: 0 }
    }

    /// Takes bytes from the peer. To be called only when [`Http::wants_input`].
    pub fn feed(&mut self, bytes: &[u8]) {
        debug_assert!(self.wants_input(), "bytes while an answer is owed");
        self.input.extend_from_slice(bytes);
    }

    /// Whether the shell should read from the peer.
    pub fn wants_input(&self) -> bool {
        !matches!(self.state, State::Answering { .. } | State::Streaming { .. } | State::Ended)
    }

    /// Whether bytes of a next request are there that [`Http::step`] has not looked at.
    pub fn has_unread(&self) -> bool {
        matches!(self.state, State::Idle { .. }) && !self.input.is_empty()
    }

    /// Whether a request waits for its answer.
    pub fn is_answering(&self) -> bool {
        matches!(self.state, State::Answering { .. } | State::Streaming { .. })
    }

    /// Whether the answer that is owed takes its time, or is being written.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Answering { held: true, .. } | State::Streaming { .. })
    }

    /// Whether the connection is to be closed once what was queued has been sent.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Bytes held of what is not complete.
    pub fn partial_bytes(&self) -> usize {
        let body = if let State::Body { body, .. } = &self.state { body.capacity() } else { 0 };
        self.input.capacity() + body
    }

    /// The bytes after the head of an upgrade.
    pub fn into_rest(self) -> Vec<u8> {
        self.input
    }

    /// The next thing to do. To be called until it is [`Step::Starved`].
    pub fn step(&mut self, now: Instant, limits: &BodyLimits) -> Step {
        let step = match &mut self.state {
            State::Idle { .. } | State::Head { .. } => self.step_head(now, limits),
            State::Body { .. } => self.step_body(now),
            State::Answering { .. } | State::Streaming { .. } | State::Ended => Ok(Step::Starved),
        };
        step.unwrap_or_else(|refusal| {
            self.end();
            Step::Refuse(refusal)
        })
    }

    fn step_head(&mut self, now: Instant, limits: &BodyLimits) -> Result<Step, Refusal> {
        self.skip_blank_lines();
        if self.input.is_empty() {
            return Ok(Step::Starved);
        }
        if let State::Idle { since, fresh } = self.state {
            // The first head is timed from accept, or a silent peer could start the clock anew with its first byte.
            self.state = State::Head { since: if fresh { since } else { now } };
        }
        let Some(end) = self.find_head_end() else {
            let too_long = self.input.len() > HEAD_BYTES_MAX;
            return if too_long { Err(head::TOO_LARGE) } else { Ok(Step::Starved) };
        };
        if end > HEAD_BYTES_MAX {
            return Err(head::TOO_LARGE);
        }
        let head = head::parse(&self.input[..end])?;
        self.input.drain(..end);
        self.searched = 0;
        if let Some(accept) = head.websocket_accept()? {
            let Ends { peer, local } = self.ends;
            let upgrade = Upgrade { peer, local, target: head.target, headers: head.headers };
            self.state = State::Ended;
            return Ok(Step::Upgrade(Box::new(upgrade), accept));
        }
        self.begin_body(head, now, limits)
    }

    fn begin_body(&mut self, head: Head, now: Instant, limits: &BodyLimits) -> Result<Step, Refusal> {
        let bytes_max = limits.bytes_max(head.path());
        let arriving = match head.framing {
            Framing::None => return Ok(self.complete(head, Vec::new(), now)),
            Framing::Sized(bytes) if bytes > bytes_max as u64 => return Err(BODY_TOO_LARGE),
            // Fits: it is at most `bytes_max`.
            Framing::Sized(bytes) => Arriving::Sized { missing_bytes: bytes as usize },
            Framing::Chunked => Arriving::Chunked(Chunks::default()),
        };
        let leave = head.expects_continue && self.input.is_empty();
        self.state = State::Body { since: now, head, arriving, bytes_max, body: Vec::new() };
        if leave { Ok(Step::Continue) } else { self.step_body(now) }
    }

    fn step_body(&mut self, now: Instant) -> Result<Step, Refusal> {
        let State::Body { arriving, bytes_max, body, .. } = &mut self.state else { return Ok(Step::Starved) };
        let complete = match arriving {
            Arriving::Sized { missing_bytes } => {
                let n = self.input.len().min(*missing_bytes);
                grow(body, n, *missing_bytes);
                body.extend(self.input.drain(..n));
                *missing_bytes -= n;
                *missing_bytes == 0
            }
            Arriving::Chunked(chunks) => {
                let (used, done) = chunks.read(&self.input, body, *bytes_max)?;
                self.input.drain(..used);
                done
            }
        };
        if !complete {
            self.shrink();
            return Ok(Step::Starved);
        }
        let State::Body { head, body, .. } = std::mem::replace(&mut self.state, State::Ended) else {
            return Ok(Step::Starved);
        };
        Ok(self.complete(head, body, now))
    }

    fn complete(&mut self, head: Head, body: Vec<u8>, now: Instant) -> Step {
        let omit_body = head.method == "HEAD";
        let chunks = head.knows_chunks();
        self.state = State::Answering { since: now, keep_alive: head.keep_alive, omit_body, chunks, held: false };
        self.shrink();
        let Ends { peer, local } = self.ends;
        let Head { method, target, headers, .. } = head;
        Step::Request(Box::new(HttpRequest { peer, local, method, target, headers, body }))
    }

    /// Writes the answer to the request that waits, and makes ready for the next one; `None` when none waits.
    ///
    /// `last` ends the connection whatever the peer asked for. `wall_ms` becomes the `Date`.
    pub fn answer(&mut self, response: &HttpResponse, last: bool, now: Instant, wall_ms: i64) -> Option<Vec<u8>> {
        let State::Answering { keep_alive, omit_body, .. } = self.state else { return None };
        let stays = keep_alive && !last;
        self.state = if stays { State::Idle { since: now, fresh: false } } else { State::Ended };
        let body = if omit_body { response::BodyPart::Omitted } else { response::BodyPart::Written };
        Some(response::encode(response, body, stays, wall_ms))
    }

    /// The answer that is owed takes its time: no clock runs for it. Says whether one is owed.
    pub fn hold(&mut self) -> bool {
        match &mut self.state {
            State::Answering { held, .. } => {
                *held = true;
                true
            }
            _ => false,
        }
    }

    /// Begins an answer that is written in pieces; `None` when no request waits. `last` and `wall_ms` as for
    /// [`Http::answer`].
    pub fn begin(&mut self, response: &HttpResponse, last: bool, wall_ms: i64) -> Option<Vec<u8>> {
        let State::Answering { keep_alive, chunks, .. } = self.state else { return None };
        // Without chunks it is the connection's end that ends the body.
        let keep_alive = keep_alive && !last && chunks;
        self.state = State::Streaming { keep_alive, chunks };
        let mut out = response::begin(response, chunks, keep_alive, wall_ms);
        out.extend(if chunks { response::chunk(&response.body) } else { response.body.clone() });
        Some(out)
    }

    /// A piece of the answer that is being written; `None` when none is.
    pub fn piece(&self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        match self.state {
            State::Streaming { chunks: true, .. } => Some(response::chunk(&bytes)),
            State::Streaming { chunks: false, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The end of the answer that is being written; makes ready for the next request. `None` when none is.
    pub fn finish(&mut self, last: bool, now: Instant) -> Option<&'static [u8]> {
        let State::Streaming { keep_alive, chunks } = self.state else { return None };
        self.state = if keep_alive && !last { State::Idle { since: now, fresh: false } } else { State::Ended };
        Some(if chunks { response::LAST_CHUNK } else { b"" })
    }

    /// Stops reading: after a refusal, or at shutdown. A request that waits is not answered any more.
    pub fn end(&mut self) {
        self.state = State::Ended;
        self.input = Vec::new();
    }

    /// When [`Http::expire`] is to be called.
    pub fn deadline(&self, limits: &BodyLimits) -> Option<Instant> {
        Some(match &self.state {
            State::Idle { since, fresh: false } => *since + KEEP_ALIVE_TIME_MAX,
            State::Idle { since, fresh: true } | State::Head { since } => *since + HEAD_TIME_MAX,
            State::Answering { held: true, .. } | State::Streaming { .. } | State::Ended => return None,
            State::Body { since, .. } | State::Answering { since, .. } => *since + limits.request_time_max,
        })
    }

    /// What to do now that the deadline has passed.
    pub fn expire(&mut self) -> Expired {
        let expired = match self.state {
            State::Idle { .. } | State::Streaming { .. } | State::Ended => Expired::Quiet,
            State::Head { .. } => Expired::Refuse(Refusal::new(408, "request head timed out")),
            State::Body { .. } => Expired::Refuse(Refusal::new(408, "request body timed out")),
            State::Answering { .. } => Expired::Refuse(Refusal::new(503, "request timed out")),
        };
        self.end();
        expired
    }

    /// Empty lines before a request line (RFC 9112, 2.2 asks to skip one). They start no clock anew.
    fn skip_blank_lines(&mut self) {
        let blank = self.input.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        // A lone CR may be half of a line end: it stays until its other half is there.
        let whole = if self.input[..blank].ends_with(b"\r") { blank - 1 } else { blank };
        if whole > 0 {
            self.input.drain(..whole);
            self.searched = 0;
        }
    }

    /// The length of the head, when its empty line has arrived. Each byte is looked at once.
    fn find_head_end(&mut self) -> Option<usize> {
        let from = self.searched.saturating_sub(2);
        let mut at = from;
        while let Some(n) = self.input[at..].iter().position(|b| *b == b'\n') {
            let after = &self.input[at + n + 1..];
            if after.first() == Some(&b'\n') {
                return Some(at + n + 2);
            }
            if after.starts_with(b"\r\n") {
                return Some(at + n + 3);
            }
            at += n + 1;
        }
        self.searched = self.input.len();
        None
    }

    /// An empty buffer holds no memory: idle connections are what a gateway has most of.
    fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }
}

const BODY_TOO_LARGE: Refusal = Refusal::new(413, "payload too large");

/// Makes room for `n` more bytes of `missing`, doubling up to exactly what is announced: an announced length alone
/// costs nothing, and a body that arrived is not twice its size.
pub(super) fn grow(buffer: &mut Vec<u8>, n: usize, missing: usize) {
    if buffer.capacity() - buffer.len() < n {
        buffer.reserve_exact(missing.min(n.max(buffer.len())));
    }
}
