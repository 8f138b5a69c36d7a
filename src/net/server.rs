//! The loop.
//!
//! A turn: wait until the system has something; read the time once; then signals, reports, deadlines, sockets that are
//! ready, new sockets, in that order, each with a budget. What a budget leaves is the next turn's work, and then
//! waiting does not wait.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll};

use super::conn::{Conn, Keepalive, Machine, Phase};
use super::control::{self, Control};
use super::core::Core;
use super::crowd::{Crowd, Room, Standing};
use super::deadlines::Deadlines;
use super::doors::{self, ACCEPTS_PER_TURN, Accepted, Doors};
use super::http1::{Ends, Expired, Refusal};
use super::lanes::{Lanes, StoreLane};
use super::mailbox::{LoopSender, Mailbox, Post};
use super::quiet::Quiet;
use super::signals::Signals;
use super::{Limits, NetError, tokens};
use crate::gateway::effect::JOIN_TIME_MAX;
use crate::gateway::http::HttpResponse;
use crate::gateway::{Event, Gone, Lane, Origin, Signal};
use crate::log_limited;
use crate::protocol::{ConnId, close};
use crate::runtime::clock::Now;
use crate::runtime::notify::{self, Notify};
use crate::runtime::{allocator, memory, metrics};

/// Readiness events taken from the system per turn.
const EVENTS_PER_TURN: usize = 256;
/// Connections whose deadlines are looked at per turn.
const DEADLINES_PER_TURN: usize = 256;
/// Bytes read from one connection per turn, so that one busy peer cannot starve the rest. Also the size of the one
/// buffer all connections are read into.
pub const READ_BYTES_PER_TURN: usize = 16 * 1024;
/// Files beside connections: the store's, logs, pipes, listening sockets.
const FILES_BESIDE_CONNECTIONS: u64 = 128;

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// Asked to, and everything was finished.
    Stopped,
    /// Asked to, and something did not finish in time; the log says what.
    Unfinished,
}

/// What a run needs beside sockets.
pub struct Setup<C> {
    /// Decides everything.
    pub core: C,
    /// The limits to begin with.
    pub limits: Limits,
    /// Reads them again from the core after [`crate::gateway::Effect::Reconfigured`].
    pub limits_of: fn(&C) -> Limits,
    /// The store's writer.
    pub store: StoreLane,
    /// The signal handlers; `None` in a process that has its own.
    pub signals: Option<Signals>,
    /// The service manager.
    pub notify: Notify,
    /// Where the control port listens, if anywhere.
    pub control: Option<SocketAddr>,
}

/// Listening sockets and the way to the loop, before it runs.
pub struct Shell {
    poll: Poll,
    doors: Doors,
    mailbox: Mailbox,
    sender: LoopSender,
}

impl Shell {
    /// Listens on `addresses` (see [`Doors::open`]). Who connects now waits until [`Shell::run`].
    ///
    /// # Errors
    /// [`NetError::Listen`], [`NetError::SetUp`].
    pub fn open(addresses: &[SocketAddr]) -> Result<Shell, NetError> {
        let poll = Poll::new().map_err(NetError::SetUp)?;
        let mut doors = Doors::open(addresses)?;
        doors.register(poll.registry()).map_err(NetError::SetUp)?;
        let (mailbox, sender) = Mailbox::new(&poll).map_err(NetError::SetUp)?;
        Ok(Shell { poll, doors, mailbox, sender })
    }

    /// The addresses listened on, with their real ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.doors.addresses()
    }

    /// The way back to the loop, for whoever works for it.
    pub fn sender(&self) -> LoopSender {
        self.sender.clone()
    }

    /// Serves until the core says [`crate::gateway::Effect::Stop`] and everything has ended.
    ///
    /// # Errors
    /// [`NetError`]: it could not start, or the system failed it.
    pub fn run<C: Core>(self, setup: Setup<C>) -> Result<ExitReason, NetError> {
        let wanted = setup.limits.connections_max as u64 + FILES_BESIDE_CONNECTIONS;
        let allowed = doors::raise_file_limit(wanted);
        if allowed < wanted {
            log::warn!(
                "the system allows fewer open files than connections may need allowed={allowed} wanted={wanted}"
            );
        }
        let Setup { core, limits, limits_of, store, mut signals, notify, control } = setup;
        if let Some(signals) = &mut signals {
            signals.register(self.poll.registry()).map_err(NetError::SetUp)?;
        }
        let pulse = Arc::new(Pulse::new(Instant::now()));
        let control = match control {
            Some(address) => Some(Control::start(address, self.sender.clone(), Arc::clone(&pulse))?),
            None => None,
        };
        let lanes = Lanes::new(store, &self.sender);
        let now = Now::read();
        let watchdog = notify.watchdog_interval();
        metrics::START_TIME.set(now.wall_ms / 1000);
        let mut server = Server {
            core,
            limits,
            limits_of,
            now,
            poll: self.poll,
            doors: self.doors,
            mailbox: self.mailbox,
            signals,
            signalled: false,
            lanes,
            conns: Conns::default(),
            crowd: Crowd::default(),
            deadlines: Deadlines::default(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            gone: VecDeque::new(),
            shed: VecDeque::new(),
            asked: BTreeMap::new(),
            asked_serial: 0,
            totals: Totals::default(),
            buffer: vec![0; READ_BYTES_PER_TURN],
            stopping: None,
            pulse,
            notify,
            watchdog: watchdog.map(|interval| (interval, now.mono + interval)),
            quiet: Quiet::new(now.mono),
        };
        for address in server.doors.addresses() {
            log::info!("listening address={address}");
        }
        server.notify.tell(notify::State::Ready, 0);
        server.run()?;
        let Server { lanes, mailbox, core, .. } = server;
        // From here on reports find nobody, and who would send one does not wait.
        drop((mailbox, core));
        let all_ended = lanes.stop(JOIN_TIME_MAX);
        let control_ended = control.is_none_or(|control| control.stop(Instant::now() + control::STOP_TIME_MAX));
        Ok(if all_ended && control_ended { ExitReason::Stopped } else { ExitReason::Unfinished })
    }
}

/// Whether the loop is busy and since when, for the control port to see.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    /// Milliseconds from `started` to the beginning of the turn, plus one; 0 while the loop waits.
    busy_since_ms: AtomicU64,
}

impl Pulse {
    /// A loop that waits.
    pub fn new(started: Instant) -> Pulse {
        Pulse { started, busy_since_ms: AtomicU64::new(0) }
    }

    /// How long the process has been up.
    pub fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// How long the current turn has taken; zero while the loop waits.
    pub fn busy_for(&self, now: Instant) -> Duration {
        match self.busy_since_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.uptime(now).saturating_sub(Duration::from_millis(since - 1)),
        }
    }

    pub(super) fn begin_turn(&self, now: Instant) {
        let ms = u64::try_from(self.uptime(now).as_millis()).unwrap_or(u64::MAX - 1);
        self.busy_since_ms.store(ms + 1, Ordering::Relaxed);
    }

    fn end_turn(&self) {
        self.busy_since_ms.store(0, Ordering::Relaxed);
    }
}

/// Shared budgets.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Held of incomplete messages and requests, before and after admission.
    pub stranger_bytes: usize,
    pub admitted_bytes: usize,
    /// HTTP requests handed to the core and not answered.
    pub http_waiting: usize,
    /// Waiting to be sent; a body that several connections share counts for each.
    pub out_bytes: usize,
}

/// The loop's state. Its methods are here, in `serve` (connections) and in `effects` (what the core wants).
pub(super) struct Server<C> {
    pub core: C,
    pub limits: Limits,
    pub limits_of: fn(&C) -> Limits,
    /// The time of this turn.
    pub now: Now,
    poll: Poll,
    pub doors: Doors,
    mailbox: Mailbox,
    signals: Option<Signals>,
    /// A signal's pipe woke the loop.
    signalled: bool,
    pub lanes: Lanes,
    pub conns: Conns,
    pub crowd: Crowd,
    pub deadlines: Deadlines,
    /// Connections with work left; each is listed once.
    pub ready: VecDeque<ConnId>,
    /// Connections with something new to send; each is listed once.
    pub dirty: Vec<ConnId>,
    /// Ends the core has not been told of.
    pub gone: VecDeque<(ConnId, Ended)>,
    /// Jobs that found no room, to be told to the core.
    pub shed: VecDeque<(Origin, Lane)>,
    /// Requests of the control port that wait for an answer, and until when; the oldest is the first.
    pub asked: BTreeMap<ConnId, (Sender<HttpResponse>, Instant)>,
    asked_serial: u64,
    pub totals: Totals,
    pub buffer: Vec<u8>,
    /// Set once the core said stop: when to give up waiting.
    pub stopping: Option<Instant>,
    pulse: Arc<Pulse>,
    pub notify: Notify,
    watchdog: Option<(Duration, Instant)>,
    quiet: Quiet,
}

/// What ended.
#[derive(Debug)]
pub(super) enum Ended {
    WebSocket(Gone),
    Request,
}

impl<C: Core> Server<C> {
    fn run(&mut self) -> Result<(), NetError> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !self.has_finished() {
            self.wait(&mut events)?;
            self.take_signals();
            self.take_posts();
            self.take_deadlines();
            self.serve_ready();
            self.accept();
            self.give_back();
        }
        Ok(())
    }

    /// What work that is over took, of memory and of the program's file, need not stay.
    fn give_back(&mut self) {
        if self.quiet.has_come(self.now.mono) {
            let released = memory::release_program_pages();
            let trimmed = allocator::trim();
            log::trace!("quiet: released pages of the program bytes={released} free memory given back={trimmed}");
        }
    }

    /// The one place that waits.
    fn wait(&mut self, events: &mut Events) -> Result<(), NetError> {
        let timeout = self.timeout();
        self.pulse.end_turn();
        let waited = self.poll.poll(events, timeout);
        self.now = Now::read();
        self.pulse.begin_turn(self.now.mono);
        metrics::TURNS.increment();
        match waited {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(NetError::Wait(error)),
        }
        if !events.is_empty() {
            self.quiet.stir(self.now.mono);
        }
        for event in events.iter() {
            if let Some(id) = tokens::conn_of(event.token()) {
                self.mark(id, event);
            } else if let Some(n) = tokens::listener_of(event.token()) {
                self.doors.mark_ready(n);
            } else if event.token() != tokens::WAKER {
                self.signalled = true;
            }
            // The mailbox knows by itself whether it was woken.
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() || self.doors.has_ready() || self.mailbox.has_leftover() {
            return Some(Duration::ZERO);
        }
        let watchdog = self.watchdog.map(|(_, at)| at);
        let asked = self.asked.first_key_value().map(|(_, (_, until))| *until);
        [
            self.core.deadline(),
            self.deadlines.first(),
            self.doors.deadline(),
            self.stopping,
            watchdog,
            asked,
            self.quiet.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Notes what the system says about a connection.
    fn mark(&mut self, id: ConnId, event: &mio::event::Event) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        conn.read_closed |= event.is_read_closed();
        conn.writable |= event.is_writable();
        self.list_ready(id);
    }

    pub(super) fn list_ready(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !std::mem::replace(&mut conn.is_ready, true)
        {
            self.ready.push_back(id);
        }
    }

    fn take_signals(&mut self) {
        if !std::mem::take(&mut self.signalled) {
            return;
        }
        let Some(signals) = &mut self.signals else { return };
        let (stop, reload) = (signals.take_stop(), signals.take_reload());
        if stop {
            log::info!("asked to stop by a signal");
            self.notify.tell(notify::State::Stopping, 0);
            self.deliver(Event::Signal(Signal::Stop));
        }
        if reload {
            log::info!("asked to reload by a signal");
            self.notify.tell(notify::State::Reloading, notify::monotonic_usec());
            self.deliver(Event::Signal(Signal::Reload));
            self.notify.tell(notify::State::Ready, 0);
        }
        self.flush_dirty();
    }

    fn take_posts(&mut self) {
        for _ in 0..self.mailbox.begin_turn() {
            match self.mailbox.take() {
                Some(Post::Report(report)) => self.deliver(Event::Report(report)),
                Some(Post::Told(no, event)) => self.deliver(Event::Told(no, event)),
                Some(Post::Ask(question)) => {
                    self.asked_serial += 1;
                    let id = tokens::control_id(self.asked_serial);
                    let until = self.now.mono + control::ANSWER_TIME_MAX;
                    self.asked.insert(id, (question.answer, until));
                    self.deliver(Event::Http(id, Box::new(question.request)));
                }
                None => break,
            }
        }
        self.flush_dirty();
    }

    fn take_deadlines(&mut self) {
        if self.core.deadline().is_some_and(|at| at <= self.now.mono) {
            self.deliver(Event::Timer);
        }
        if let Some((interval, at)) = self.watchdog
            && at <= self.now.mono
        {
            self.notify.tell(notify::State::Watchdog, 0);
            self.watchdog = Some((interval, self.now.mono + interval));
        }
        while let Some(oldest) = self.asked.first_entry()
            && oldest.get().1 <= self.now.mono
        {
            self.gone.push_back((oldest.remove_entry().0, Ended::Request));
        }
        for _ in 0..DEADLINES_PER_TURN {
            let Some(id) = self.deadlines.pop_due(self.now.mono) else { break };
            if let Some(conn) = self.conns.get_mut(id) {
                conn.armed.came_up();
                self.expire(id);
            }
        }
        self.settle();
        self.flush_dirty();
    }

    fn serve_ready(&mut self) {
        // Those listed while serving are the next turn's.
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.is_ready = false;
            self.serve(id);
            self.settle();
            self.flush_dirty();
        }
    }

    fn accept(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Accepted::Socket(stream, peer, local) = self.doors.accept(self.now.mono) else { break };
            metrics::CONNECTIONS_ACCEPTED.increment();
            self.enter(stream, peer, local);
        }
        self.settle();
        self.flush_dirty();
    }

    /// Takes a new socket in, if there is room.
    fn enter(&mut self, mut stream: TcpStream, peer: SocketAddr, listening: SocketAddr) {
        let key = super::limits::PeerKey::of(peer.ip());
        match self.crowd.room(key, self.limits.connections_max.min(tokens::PLACES_MAX)) {
            Room::Free => {}
            Room::Evict(oldest) => {
                metrics::CONNECTIONS_EVICTED.increment();
                self.remove(oldest);
            }
            Room::None => {
                metrics::CONNECTIONS_REFUSED.increment();
                log_limited!(Warn, "refusing a connection: too many are open max={}", self.limits.connections_max);
                control::refuse(&mut stream, Refusal { status: 503, reason: "too many connections" }, self.now.wall_ms);
                return;
            }
        }
        // Answers are small and wait for nothing; the peer may be gone already, which the first read tells.
        let _ = stream.set_nodelay(true);
        let local = if listening.ip().is_unspecified() { stream.local_addr().unwrap_or(listening) } else { listening };
        let id = self.conns.next_id();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, tokens::of_conn(id), interest) {
            log_limited!(Warn, "cannot wait for a connection: {error}");
            return;
        }
        let conn = Conn::new(id, stream, Ends { peer, local }, self.now.mono);
        self.conns.insert(conn);
        self.crowd.enter(id, key);
        metrics::CONNECTIONS.set(self.conns.len() as i64);
        self.arm(id);
    }

    /// Sees to it that the loop wakes when this connection is due.
    pub(super) fn arm(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            let at = conn.deadline(&self.limits);
            self.deadlines.arm(id, &mut conn.armed, at);
        }
    }

    /// A connection's deadline came up; it may have moved on since.
    fn expire(&mut self, id: ConnId) {
        let now = self.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.deadline(&self.limits).is_none_or(|at| at > now) {
            self.arm(id);
            return;
        }
        if conn.stalled_since.is_some_and(|since| since + self.limits.clocks.write_stall_max <= now) {
            log_limited!(Debug, "dropping connection: it takes no bytes conn={}", id.0);
            self.remove(id);
            return;
        }
        match &mut conn.machine {
            Machine::Http(http) => match http.expire() {
                Expired::Quiet => self.remove(id),
                Expired::Refuse(refusal) => {
                    metrics::HTTP_TIMEOUTS.increment();
                    self.refuse(id, refusal);
                }
            },
            Machine::Lingering(_) => self.remove(id),
            Machine::WebSocket(socket) => {
                let paused = conn.out.queued_bytes() > super::outbox::READ_PAUSE_BYTES;
                match &mut socket.phase {
                    Phase::Closing(_) => self.remove(id),
                    Phase::Handshake(by) if *by <= now => {
                        metrics::HANDSHAKE_TIMEOUTS.increment();
                        log_limited!(Debug, "closing connection: no connect in time conn={}", id.0);
                        self.close(id, close::NORMAL, "");
                    }
                    Phase::Admitted(Keepalive::PingAt(at)) if *at <= now => {
                        socket.phase = Phase::Admitted(Keepalive::Leaving);
                        conn.out.push_ping();
                        self.list_dirty(id);
                    }
                    // The answer may be among what is left unread while the peer takes no answers of ours.
                    Phase::Admitted(Keepalive::PongBy(by)) if *by <= now && paused => {
                        *by = now + self.limits.clocks.pong_time_max;
                        self.arm(id);
                    }
                    Phase::Admitted(Keepalive::PongBy(by)) if *by <= now => {
                        metrics::KEEPALIVE_LOST.increment();
                        self.remove(id);
                    }
                    _ => {
                        metrics::PEER_VIOLATIONS.increment();
                        log_limited!(Debug, "closing connection: a message was not finished in time conn={}", id.0);
                        self.close(id, close::POLICY, "message timed out");
                    }
                }
            }
        }
    }

    /// Whether the core said stop and nothing is left to wait for.
    fn has_finished(&mut self) -> bool {
        let Some(until) = self.stopping else { return false };
        if self.now.mono >= until {
            if self.conns.len() > 0 {
                log::warn!("not every connection ended in time connections={}", self.conns.len());
            }
            return true;
        }
        self.conns.len() == 0 && self.lanes.unfinished() == 0 && self.asked.is_empty()
    }
}

/// Connections by place.
#[derive(Default)]
pub(super) struct Conns {
    places: Vec<Option<Box<Conn>>>,
    free: Vec<usize>,
    serial: u64,
    len: usize,
}

impl Conns {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.places.get_mut(tokens::place(id))?.as_deref_mut()?;
        (conn.id == id).then_some(conn)
    }

    pub(super) fn ids(&self) -> Vec<ConnId> {
        self.places.iter().flatten().map(|conn| conn.id).collect()
    }

    /// The id of the next connection to be inserted.
    fn next_id(&self) -> ConnId {
        tokens::conn_id(self.serial + 1, self.free.last().copied().unwrap_or(self.places.len()))
    }

    fn insert(&mut self, conn: Conn) {
        debug_assert_eq!(conn.id, self.next_id(), "ids are handed out in order");
        let place = tokens::place(conn.id);
        self.serial += 1;
        self.len += 1;
        match self.free.pop() {
            Some(free) => self.places[free] = Some(Box::new(conn)),
            None => self.places.push(Some(Box::new(conn))),
        }
        debug_assert!(self.places[place].is_some());
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Box<Conn>> {
        self.get_mut(id)?;
        let place = tokens::place(id);
        self.free.push(place);
        self.len -= 1;
        self.places[place].take()
    }
}

/// Whether a connection counts as a stranger's in the shared budget.
pub(super) fn is_stranger(standing: Standing) -> bool {
    standing != Standing::Admitted
}
