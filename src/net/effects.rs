//! Carrying out what the core wants.

use std::time::Instant;

use super::conn::{Closing, Machine, Phase};
use super::core::Core;
use super::crowd::Standing;
use super::http1::Refusal;
use super::outbox::{Queued, Room};
use super::server::{Ended, Server};
use super::{tokens, ws};
use crate::gateway::http::HttpResponse;
use crate::gateway::{Effect, Event, Gone};
use crate::log_limited;
use crate::protocol::frame::OutFrame;
use crate::protocol::{BUFFERED_BYTES_MAX, ConnId, close};
use crate::runtime::metrics;

/// Bytes waiting to be sent to all peers together. Over it no peer may owe more than [`OUT_SHARE_BYTES`], and HTTP
/// requests are answered 503: a crowd of slow readers costs each of them, not the process.
pub(super) const OUT_BYTES_TOTAL_MAX: usize = 128 * 1024 * 1024;
/// What each peer may owe then.
const OUT_SHARE_BYTES: usize = 1024 * 1024;
const _: () = assert!(BUFFERED_BYTES_MAX < OUT_BYTES_TOTAL_MAX);

impl<C: Core> Server<C> {
    /// Hands an event to the core and does what it wants, until it wants nothing more.
    pub(super) fn deliver(&mut self, event: Event<'_>) {
        self.core.handle(self.now, event);
        self.carry_out();
        self.settle();
    }

    /// Tells the core what its effects, or ours, have brought about.
    pub(super) fn settle(&mut self) {
        loop {
            let event = if let Some((origin, lane)) = self.shed.pop_front() {
                Event::Shed(origin, lane)
            } else if let Some((id, ended)) = self.gone.pop_front() {
                match ended {
                    Ended::WebSocket(gone) => Event::Closed(id, gone),
                    Ended::Request => Event::HttpGone(id),
                }
            } else {
                return;
            };
            self.core.handle(self.now, event);
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.core.next_effect() {
            match effect {
                Effect::Send(id, frame) => self.send(id, frame),
                Effect::Close(id, code, reason) => self.close(id, code, &reason),
                Effect::Admit(id) => self.admit(id),
                Effect::Reply(id, response) => self.reply(id, &response),
                Effect::Hold(id) => self.hold(id),
                Effect::Begin(id, response) => self.begin(id, &response),
                Effect::Piece(id, bytes) => self.piece(id, bytes),
                Effect::Finish(id) => self.finish(id),
                Effect::Start(job) => {
                    if let Err(refused) = self.lanes.start(job) {
                        self.shed.push_back(refused);
                    }
                }
                Effect::Reconfigured => self.limits = (self.limits_of)(&self.core),
                Effect::Stop => self.begin_stop(),
            }
        }
    }

    fn send(&mut self, id: ConnId, frame: OutFrame) {
        let room = Room {
            events_max: self.limits.event_queue_frames_max,
            bytes_max: if self.totals.out_bytes > OUT_BYTES_TOTAL_MAX { OUT_SHARE_BYTES } else { BUFFERED_BYTES_MAX },
        };
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::WebSocket(socket) = &conn.machine else { return };
        if socket.is_closing() {
            return;
        }
        // What waits may only be waiting for the end of this turn: who takes it now is not slow.
        if conn.out.is_full(room) && conn.writable {
            self.flush(id);
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        match conn.out.push_frame(frame, room) {
            Queued::Yes => {
                metrics::FRAMES_OUT.increment();
                self.list_dirty(id);
            }
            Queued::Skipped => metrics::EVENTS_DROPPED.increment(),
            Queued::NoRoom => {
                metrics::SLOW_CONSUMERS.increment();
                let bytes = conn.out.queued_bytes();
                log_limited!(Warn, "closing connection: slow consumer conn={} bytes={bytes}", id.0);
                // It would never get to what waits.
                conn.out.clear_unsent();
                let until = self.now.mono + self.limits.clocks.close_wait_max;
                self.close_until(id, close::POLICY, "slow consumer", until);
            }
        }
    }

    /// Begins to close a WebSocket: what is queued leaves first.
    pub(super) fn close(&mut self, id: ConnId, code: u16, reason: &str) {
        self.close_until(id, code, reason, self.now.mono + self.limits.clocks.close_flush_max);
    }

    /// The same, with the time at which it ends at the latest.
    fn close_until(&mut self, id: ConnId, code: u16, reason: &str, until: Instant) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::WebSocket(socket) = &mut conn.machine else { return };
        if socket.is_closing() {
            return;
        }
        let gone = Gone { code, reason: close::reason(reason).to_owned() };
        socket.phase = Phase::Closing(Closing { gone, peer_closed: false, until });
        conn.out.push_bytes(ws::close(code, reason));
        self.list_dirty(id);
        self.arm(id);
    }

    fn admit(&mut self, id: ConnId) {
        let ping_at = self.now.mono + self.limits.clocks.ping_interval;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::WebSocket(socket) = &mut conn.machine else { return };
        if socket.is_closing() || socket.is_admitted() {
            return;
        }
        socket.admit(ping_at);
        self.stand(id, Standing::Admitted);
        self.arm(id);
    }

    pub(super) fn reply(&mut self, id: ConnId, response: &HttpResponse) {
        if tokens::is_control(id) {
            if let Some((answer, _)) = self.asked.remove(&id) {
                // Nobody waits any more when the control port has given up.
                let _ = answer.try_send(response.clone());
            }
            return;
        }
        let last = self.stopping.is_some();
        let (now, wall_ms) = (self.now.mono, self.now.wall_ms);
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::Http(http) = &mut conn.machine else { return };
        let last = last || conn.read_closed;
        if let Some(bytes) = http.answer(response, last, now, wall_ms) {
            conn.out.push_bytes(bytes);
            if std::mem::take(&mut conn.waits_for_core) {
                self.totals.http_waiting -= 1;
            }
            self.list_dirty(id);
            self.list_ready(id);
            self.arm(id);
        }
    }

    /// Lets the core take its time for an answer.
    fn hold(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::Http(http) = &mut conn.machine else { return };
        if http.hold() {
            // What it has said of its end so far is looked at now.
            let has_ended = conn.read_closed;
            self.arm(id);
            if has_ended {
                self.list_ready(id);
            }
        }
    }

    /// Begins an answer that is written in pieces.
    fn begin(&mut self, id: ConnId, response: &HttpResponse) {
        if tokens::is_control(id) {
            // That port answers in one piece, from a thread that waits for it.
            if let Some((answer, _)) = self.asked.remove(&id) {
                let refusal = Refusal { status: 501, reason: "streamed answers are given on the gateway port only" };
                let _ = answer.try_send(refusal.response());
            }
            self.gone.push_back((id, Ended::Request));
            return;
        }
        let (last, wall_ms) = (self.stopping.is_some(), self.now.wall_ms);
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::Http(http) = &mut conn.machine else { return };
        if let Some(bytes) = http.begin(response, last, wall_ms) {
            conn.out.push_bytes(bytes);
            self.list_dirty(id);
            self.arm(id);
        }
    }

    /// One more piece of it, as long as the peer takes them.
    fn piece(&mut self, id: ConnId, bytes: Vec<u8>) {
        let bytes_max = if self.totals.out_bytes > OUT_BYTES_TOTAL_MAX { OUT_SHARE_BYTES } else { BUFFERED_BYTES_MAX };
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.out.queued_bytes() > bytes_max && conn.writable {
            self.flush(id);
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::Http(http) = &mut conn.machine else { return };
        let Some(piece) = http.piece(bytes) else { return };
        if conn.out.queued_bytes() > bytes_max {
            metrics::SLOW_CONSUMERS.increment();
            let bytes = conn.out.queued_bytes();
            log_limited!(Warn, "dropping connection: slow consumer of an answer conn={} bytes={bytes}", id.0);
            self.remove(id);
            return;
        }
        if !piece.is_empty() {
            conn.out.push_bytes(piece);
            self.list_dirty(id);
        }
    }

    /// The end of it; the next request may come.
    fn finish(&mut self, id: ConnId) {
        let (last, now) = (self.stopping.is_some(), self.now.mono);
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::Http(http) = &mut conn.machine else { return };
        if let Some(bytes) = http.finish(last || conn.read_closed, now) {
            if !bytes.is_empty() {
                conn.out.push_bytes(bytes.to_vec());
            }
            if std::mem::take(&mut conn.waits_for_core) {
                self.totals.http_waiting -= 1;
            }
            self.list_dirty(id);
            self.list_ready(id);
            self.arm(id);
        }
    }

    /// Answers for the core, and ends the connection after that.
    pub(super) fn refuse(&mut self, id: ConnId, refusal: Refusal) {
        let wall_ms = self.now.wall_ms;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Machine::Http(http) = &mut conn.machine else { return };
        log_limited!(Debug, "refusing request: {} conn={} status={}", refusal.reason, id.0, refusal.status);
        let was_waiting = std::mem::take(&mut conn.waits_for_core);
        http.end();
        let body = super::http1::response::BodyPart::Written;
        conn.out.push_bytes(super::http1::response::encode(&refusal.response(), body, false, wall_ms));
        if was_waiting {
            self.totals.http_waiting -= 1;
            self.gone.push_back((id, Ended::Request));
        }
        self.list_dirty(id);
        self.arm(id);
    }

    /// The core has said everything: nobody new, and everybody out.
    fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(self.now.mono + self.limits.shutdown_drain);
        self.doors.close();
        for id in self.conns.ids() {
            let Some(conn) = self.conns.get_mut(id) else { continue };
            match &conn.machine {
                // An answer that is owed is given; a request that is not complete was promised nothing.
                Machine::Http(http) if http.is_answering() || !conn.out.is_empty() => {}
                Machine::Http(_) => self.remove(id),
                Machine::WebSocket(_) => self.close(id, close::SERVICE_RESTART, "service restart"),
                Machine::Lingering(_) => {}
            }
        }
    }

    pub(super) fn list_dirty(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !std::mem::replace(&mut conn.is_dirty, true)
        {
            self.dirty.push(id);
        }
    }

    /// Sends what this part of the turn has queued.
    pub(super) fn flush_dirty(&mut self) {
        while let Some(id) = self.dirty.pop() {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.is_dirty = false;
                self.flush(id);
            }
        }
        self.settle();
    }
}
