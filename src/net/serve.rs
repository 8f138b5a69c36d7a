//! Serving one connection: read, let its machine take the bytes apart, hand what is complete to the core, send.

use super::conn::is_foreign_proxy;
use super::conn::{Closing, Got, Keepalive, Machine, Phase, WebSocket};
use super::core::Core;
use super::crowd::Standing;
use super::effects::OUT_BYTES_TOTAL_MAX;
use super::http1::{AcceptKey, Refusal, Step, response};
use super::server::{Ended, Server, is_stranger};
use super::ws::{self, Incoming, Violation};
use crate::gateway::http::HttpRequest;
use crate::gateway::{Event, Gone, Upgrade};
use crate::log_limited;
use crate::protocol::{ConnId, FRAME_BYTES_MAX, close};
use crate::runtime::metrics;

/// Pipelined requests taken from one connection per turn.
const REQUESTS_PER_TURN: usize = 32;
/// Bytes held of incomplete messages and requests of all peers that are not admitted. Over it the peer that sends
/// more is closed or refused: who is unknown gets no memory worth naming.
pub(super) const STRANGER_BYTES_MAX: usize = 48 * 1024 * 1024;
/// The same of all admitted peers; room for two of the largest frames while they arrive.
pub(super) const ADMITTED_BYTES_MAX: usize = 64 * 1024 * 1024;
const _: () = assert!(ADMITTED_BYTES_MAX >= 2 * FRAME_BYTES_MAX);

impl<C: Core> Server<C> {
    /// Does one turn's work on a connection.
    pub(super) fn serve(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.writable && !conn.out.is_empty() && !std::mem::replace(&mut conn.is_dirty, true) {
            self.dirty.push(id);
        }
        if conn.has_work() || conn.read_closed {
            let mut buffer = std::mem::take(&mut self.buffer);
            match &conn.machine {
                // Nobody waits for an answer that takes its time and then reads it from a side it has ended.
                Machine::Http(http) if http.is_held() && conn.read_closed => self.remove(id),
                Machine::Http(_) => self.serve_http(id, &mut buffer),
                Machine::WebSocket(_) => self.serve_websocket(id, &mut buffer),
                Machine::Lingering(_) => self.discard(id, &mut buffer),
            }
            self.buffer = buffer;
        }
        self.account(id);
        self.arm(id);
        if self.conns.get_mut(id).is_some_and(|conn| conn.has_work()) {
            self.list_ready(id);
        }
    }

    fn serve_http(&mut self, id: ConnId, buffer: &mut [u8]) {
        // First what was left over: the next pipelined request may be complete.
        if self.step_http(id, buffer) {
            let Some(conn) = self.conns.get_mut(id) else { return };
            if !conn.readable && !conn.read_closed || conn.is_paused() {
                return;
            }
            let got = conn.read(buffer);
            let Machine::Http(http) = &mut conn.machine else { return };
            match got {
                Got::Bytes(n) => {
                    metrics::BYTES_IN.add(n as u64);
                    http.feed(&buffer[..n]);
                    self.step_http(id, buffer);
                }
                Got::Nothing => {}
                Got::End if !conn.out.is_empty() => http.end(),
                Got::End | Got::Broken => self.remove(id),
            }
        }
    }

    /// Takes complete requests from what has been read. Says whether more bytes are wanted.
    fn step_http(&mut self, id: ConnId, buffer: &mut [u8]) -> bool {
        for _ in 0..REQUESTS_PER_TURN {
            let now = self.now.mono;
            let Some(conn) = self.conns.get_mut(id) else { return false };
            if conn.is_paused() {
                return false;
            }
            let Machine::Http(http) = &mut conn.machine else { return false };
            match http.step(now, &self.limits.bodies) {
                Step::Starved => return http.wants_input(),
                Step::Continue => {
                    conn.out.push_bytes(response::CONTINUE.to_vec());
                    self.list_dirty(id);
                }
                Step::Request(request) => self.request(id, request),
                Step::Upgrade(upgrade, accept) => {
                    self.upgrade(id, upgrade, &accept);
                    if self.conns.get_mut(id).is_some_and(|conn| matches!(conn.machine, Machine::WebSocket(_))) {
                        self.serve_websocket(id, buffer);
                    }
                    return false;
                }
                Step::Refuse(refusal) => {
                    metrics::PEER_VIOLATIONS.increment();
                    self.refuse(id, refusal);
                    return false;
                }
            }
        }
        self.list_ready(id);
        false
    }

    fn request(&mut self, id: ConnId, request: Box<HttpRequest>) {
        metrics::HTTP_REQUESTS.increment();
        self.stand(id, Standing::Http);
        let full = self.totals.http_waiting >= self.limits.http_concurrency_max;
        if full || self.totals.out_bytes > OUT_BYTES_TOTAL_MAX {
            metrics::HTTP_SHED.increment();
            let busy = Refusal { status: 503, reason: "too many requests are waiting" };
            self.reply(id, &busy.response());
            return;
        }
        if let Some(conn) = self.conns.get_mut(id) {
            conn.waits_for_core = true;
            self.totals.http_waiting += 1;
            self.deliver(Event::Http(id, request));
        }
    }

    fn upgrade(&mut self, id: ConnId, upgrade: Box<Upgrade>, accept: &AcceptKey) {
        let by = self.now.mono + self.limits.handshake_time_max;
        let Some(conn) = self.conns.get_mut(id) else { return };
        if is_foreign_proxy(&upgrade.headers, conn.ends, &self.limits) {
            log_limited!(Warn, "refusing an upgrade through a proxy that is not trusted conn={}", id.0);
            self.refuse(id, Refusal { status: 403, reason: "proxy not trusted" });
            return;
        }
        if let Err((status, reason)) = self.core.may_upgrade(&upgrade) {
            log_limited!(Warn, "refusing an upgrade conn={} why={reason}", id.0);
            self.refuse(id, Refusal { status, reason });
            return;
        }
        if !self.crowd.takes_stranger(conn.key) && !self.limits.trusts(conn.ends.peer.ip()) {
            metrics::CONNECTIONS_REFUSED.increment();
            self.refuse(id, Refusal { status: 503, reason: "too many unauthenticated connections" });
            return;
        }
        conn.out.push_bytes(response::switching_protocols(accept));
        let socket = Machine::WebSocket(Box::new(WebSocket::new(by)));
        if let Machine::Http(http) = std::mem::replace(&mut conn.machine, socket) {
            conn.held = http.into_rest();
        }
        metrics::WEBSOCKETS.add(1);
        self.list_dirty(id);
        self.stand(id, Standing::Stranger);
        self.deliver(Event::Opened(id, upgrade));
    }

    fn serve_websocket(&mut self, id: ConnId, buffer: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.held.is_empty() {
            if !conn.readable && !conn.read_closed || conn.is_paused() {
                return;
            }
            match conn.read(buffer) {
                Got::Bytes(n) => {
                    metrics::BYTES_IN.add(n as u64);
                    self.take_messages(id, &mut buffer[..n]);
                }
                Got::Nothing => {}
                Got::End | Got::Broken => self.remove(id),
            }
        } else {
            let mut held = std::mem::take(&mut conn.held);
            self.take_messages(id, &mut held);
        }
    }

    /// Hands every complete message of `input` to the core. Stops early, and holds the rest, when the peer does not
    /// take the answers.
    fn take_messages(&mut self, id: ConnId, mut input: &mut [u8]) {
        loop {
            let now = self.now.mono;
            let Some(conn) = self.conns.get_mut(id) else { return };
            let paused = conn.is_paused();
            let Machine::WebSocket(socket) = &mut conn.machine else { return };
            if paused {
                conn.held = input.to_vec();
                return;
            }
            match socket.reader.read(&mut input) {
                Ok(Some(Incoming::Message(text))) => {
                    socket.partial_since = None;
                    if !socket.is_closing() {
                        metrics::FRAMES_IN.increment();
                        self.deliver(Event::Frame(id, &text));
                    }
                }
                Ok(Some(Incoming::Ping(payload))) => {
                    if !socket.is_closing() {
                        conn.out.push_bytes(ws::pong(&payload));
                        self.list_dirty(id);
                    }
                }
                Ok(Some(Incoming::Pong)) => {
                    if let Phase::Admitted(keepalive @ Keepalive::PongBy(_)) = &mut socket.phase {
                        *keepalive = Keepalive::PingAt(now + self.limits.clocks.ping_interval);
                    }
                }
                Ok(Some(Incoming::Close { code, reason })) => {
                    self.peer_closes(id, code, reason);
                    return;
                }
                Ok(None) => {
                    socket.partial_since =
                        if socket.reader.is_partial() { socket.partial_since.or(Some(now)) } else { None };
                    return;
                }
                Err(violation) => {
                    self.violation(id, &violation);
                    return;
                }
            }
        }
    }

    /// The peer sent a close frame: answered with the same, unless it is itself the answer to ours.
    fn peer_closes(&mut self, id: ConnId, code: u16, reason: String) {
        let until = self.now.mono + self.limits.clocks.close_wait_max;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::WebSocket(socket) = &mut conn.machine else { return };
        if let Phase::Closing(closing) = &mut socket.phase {
            closing.peer_closed = true;
        } else {
            conn.out.push_bytes(ws::close(code, ""));
            let gone = Gone { code, reason };
            socket.phase = Phase::Closing(Closing { gone, peer_closed: true, until });
        }
        self.list_dirty(id);
    }

    fn violation(&mut self, id: ConnId, violation: &Violation) {
        metrics::PEER_VIOLATIONS.increment();
        log_limited!(Info, "closing connection: {violation} conn={}", id.0);
        self.close(id, violation.close_code(), "");
        // Nothing after a violation can be read. What the peer still sends is thrown away, so that the close frame
        // reaches it before the end does.
        if let Some(conn) = self.conns.get_mut(id)
            && let Machine::WebSocket(socket) = &mut conn.machine
        {
            socket.reader = ws::Reader::deaf();
        }
    }

    fn discard(&mut self, id: ConnId, buffer: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if matches!(conn.read(buffer), Got::End | Got::Broken) {
            self.remove(id);
        }
    }

    /// Sends what is queued, as far as the kernel takes it.
    pub(super) fn flush(&mut self, id: ConnId) {
        let now = self.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let was_paused = conn.is_paused();
        if !conn.out.is_empty() && conn.writable {
            match conn.out.write_to(&mut conn.stream) {
                Ok(written) => {
                    metrics::BYTES_OUT.add(written.bytes as u64);
                    conn.writable = !written.blocked;
                    if written.bytes > 0 {
                        conn.stalled_since = None;
                    }
                    if written.ping_left
                        && let Machine::WebSocket(socket) = &mut conn.machine
                        && let Phase::Admitted(keepalive) = &mut socket.phase
                    {
                        *keepalive = Keepalive::PongBy(now + self.limits.clocks.pong_time_max);
                    }
                }
                Err(_) => {
                    self.remove(id);
                    return;
                }
            }
        }
        if conn.out.is_empty() {
            conn.stalled_since = None;
            if self.has_said_all(id) {
                return;
            }
        } else if conn.stalled_since.is_none() {
            conn.stalled_since = Some(now);
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        let more = conn.writable && !conn.out.is_empty();
        if more || was_paused && !conn.is_paused() {
            self.list_ready(id);
        }
        self.account(id);
        self.arm(id);
    }

    /// Everything queued has left: ends the connection if that was all. Says whether it is gone.
    fn has_said_all(&mut self, id: ConnId) -> bool {
        let until = self.now.mono + self.limits.clocks.close_wait_max;
        let Some(conn) = self.conns.get_mut(id) else { return true };
        match &mut conn.machine {
            Machine::Http(http) if http.has_ended() => {
                if conn.read_closed {
                    self.remove(id);
                    return true;
                }
                conn.linger(until);
                self.list_ready(id);
                false
            }
            Machine::WebSocket(socket) => {
                let Phase::Closing(closing) = &mut socket.phase else { return false };
                if !closing.peer_closed {
                    closing.until = closing.until.min(until);
                    return false;
                }
                self.remove(id);
                true
            }
            _ => false,
        }
    }

    /// Books what a connection holds; over the shared budget it is let go.
    fn account(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let (partial_bytes, out_bytes) = (conn.partial_bytes(), conn.out.queued_bytes());
        let booked = std::mem::replace(&mut conn.booked, super::conn::Booked { partial_bytes, out_bytes });
        let stranger = is_stranger(conn.standing);
        if booked.partial_bytes != partial_bytes {
            metrics::PARTIAL_BYTES.add(partial_bytes as i64 - booked.partial_bytes as i64);
            let (total, bytes_max) = if stranger {
                (&mut self.totals.stranger_bytes, STRANGER_BYTES_MAX)
            } else {
                (&mut self.totals.admitted_bytes, ADMITTED_BYTES_MAX)
            };
            *total = *total - booked.partial_bytes + partial_bytes;
            let over = *total > bytes_max && partial_bytes > booked.partial_bytes;
            if over {
                log_limited!(Warn, "closing connection: too much is unfinished conn={} bytes={partial_bytes}", id.0);
                self.let_go(id);
            }
        }
        if booked.out_bytes != out_bytes {
            self.totals.out_bytes = self.totals.out_bytes - booked.out_bytes + out_bytes;
            metrics::OUT_QUEUED_BYTES.add(out_bytes as i64 - booked.out_bytes as i64);
        }
    }

    /// Gives up on what a peer was sending.
    fn let_go(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        match &mut conn.machine {
            Machine::Http(_) => self.refuse(id, Refusal { status: 503, reason: "too many unfinished requests" }),
            Machine::WebSocket(socket) => {
                socket.reader = ws::Reader::deaf();
                self.close(id, close::TRY_LATER, "too many unfinished messages");
            }
            Machine::Lingering(_) => {}
        }
    }

    /// Changes a connection's standing, and moves what is booked for it along.
    pub(super) fn stand(&mut self, id: ConnId, standing: Standing) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let before = std::mem::replace(&mut conn.standing, standing);
        if before == standing {
            return;
        }
        if is_stranger(before) && !is_stranger(standing) {
            self.totals.stranger_bytes -= conn.booked.partial_bytes;
            self.totals.admitted_bytes += conn.booked.partial_bytes;
        }
        self.crowd.change(id, conn.key, before, standing);
    }

    /// Ends a connection now, and sees to it that the core hears of it.
    pub(super) fn remove(&mut self, id: ConnId) {
        let Some(mut conn) = self.conns.remove(id) else { return };
        self.deadlines.disarm(id, &mut conn.armed);
        self.crowd.leave(id, conn.key, conn.standing);
        let total =
            if is_stranger(conn.standing) { &mut self.totals.stranger_bytes } else { &mut self.totals.admitted_bytes };
        *total -= conn.booked.partial_bytes;
        self.totals.out_bytes -= conn.booked.out_bytes;
        metrics::PARTIAL_BYTES.add(-(conn.booked.partial_bytes as i64));
        metrics::OUT_QUEUED_BYTES.add(-(conn.booked.out_bytes as i64));
        metrics::CONNECTIONS.set(self.conns.len() as i64);
        if conn.waits_for_core {
            self.totals.http_waiting -= 1;
            self.gone.push_back((id, Ended::Request));
        }
        if let Machine::WebSocket(socket) = conn.machine {
            metrics::WEBSOCKETS.add(-1);
            let gone = match socket.phase {
                Phase::Closing(closing) => closing.gone,
                Phase::Handshake(_) | Phase::Admitted(_) => Gone { code: ws::ABNORMAL, reason: String::new() },
            };
            self.gone.push_back((id, Ended::WebSocket(gone)));
        }
    }
}
