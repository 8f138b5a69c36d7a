//! Sockets to other hosts, for `ureq`: they end at once when their run is stopped, and keep the times of the request
//! they carry, whichever that is, because a kept connection serves one request after the other. They lead only where
//! that request may go: every address is looked at when it is connected to, not when its name was read.
//!
//! What a socket needs to know of the request it carries lies beside the thread that makes it ([`waiting`]): `ureq` hands
//! nothing of ours down to its transports, and a request never leaves its thread.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, Transport,
};

use super::address::Reach;
use crate::runtime::stop::Stop;
use crate::runtime::threads;

/// Longest for finding a host's address and connecting to it.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(6);
/// Longest for the TLS handshake after that.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(6);
/// How often a run that waits for a connection looks whether it is stopped: what it waits on then is no socket yet.
const STOP_LOOK: Duration = Duration::from_millis(25);

/// Why a socket gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The run was stopped.
    Stopped,
    /// No byte for this long.
    Silent(Duration),
    /// The whole answer took longer than it may.
    TooLong,
    /// There is no connection to be had.
    Unreachable(String),
    /// The host has an address that this request may not go to.
    Forbidden,
}

/// What the sockets of one request go by.
struct Wait {
    /// Tells requests apart.
    id: u64,
    stop: Stop,
    reach: Reach,
    idle: Duration,
    deadline: Instant,
    handshake: Option<Instant>,
    trouble: Option<Trouble>,
    is_reused: bool,
}

thread_local! {
    static WAIT: RefCell<Option<Wait>> = const { RefCell::new(None) };
    static LAST_ID: RefCell<u64> = const { RefCell::new(0) };
}

/// What came of a request, beside its result.
#[derive(Debug)]
pub struct Waited {
    /// Why a socket gave up, when one did.
    pub trouble: Option<Trouble>,
    /// Whether it went over a connection that an earlier request had left open.
    pub is_reused: bool,
}

/// Runs one request, whose sockets lead no further than `reach`, and end when `stop` says so, when no byte comes for
/// `idle`, or at `deadline`.
pub fn waiting<T>(
    stop: &Stop,
    reach: Reach,
    idle: Duration,
    deadline: Instant,
    request: impl FnOnce() -> T,
) -> (T, Waited) {
    /// Takes the request's times away again, whatever happens to it.
    struct Forget<'a>(&'a Stop);
    impl Drop for Forget<'_> {
        fn drop(&mut self) {
            self.0.waits_on_none();
            WAIT.with_borrow_mut(|wait| *wait = None);
        }
    }
    let id = LAST_ID.with_borrow_mut(|last| {
        *last += 1;
        *last
    });
    let wait = Wait { id, stop: stop.clone(), reach, idle, deadline, handshake: None, trouble: None, is_reused: false };
    WAIT.with_borrow_mut(|slot| *slot = Some(wait));
    let forget = Forget(stop);
    let result = request();
    let waited = WAIT.with_borrow_mut(|slot| {
        let wait = slot.take().expect("set above, and taken away only here");
        Waited { trouble: wait.trouble, is_reused: wait.is_reused }
    });
    drop(forget);
    (result, waited)
}

/// Shortens the time without a byte for the rest of the request.
pub fn hurry(idle: Duration) {
    with_wait(|wait| wait.idle = wait.idle.min(idle));
}

/// Acts on the request of this thread; `None` outside of one.
fn with_wait<T>(act: impl FnOnce(&mut Wait) -> T) -> Option<T> {
    WAIT.with_borrow_mut(|slot| slot.as_mut().map(act))
}

/// Notes why a socket gives up, and makes the error of it.
fn give_up(trouble: Trouble) -> Error {
    let kind = match trouble {
        Trouble::Stopped => io::ErrorKind::ConnectionAborted,
        Trouble::Silent(_) | Trouble::TooLong => io::ErrorKind::TimedOut,
        Trouble::Unreachable(_) => io::ErrorKind::NotConnected,
        Trouble::Forbidden => io::ErrorKind::PermissionDenied,
    };
    with_wait(|wait| {
        wait.trouble.get_or_insert(trouble);
    });
    Error::Io(io::Error::from(kind))
}

/// The addresses are found where the connection is made, so that both can be given up together.
#[derive(Debug)]
pub struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// Connects.
#[derive(Debug)]
pub struct Dial;

impl Connector for Dial {
    type Out = Socket;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Socket>, Error> {
        let host = details.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = details.uri.port_u16().unwrap_or(if details.needs_tls() { 443 } else { 80 });
        let stream = dial(&host, port)?;
        // An error means that the peer is gone already, which the first use tells better.
        let _ = stream.set_nodelay(true);
        with_wait(|wait| wait.handshake = Some(Instant::now() + HANDSHAKE_TIME_MAX));
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Socket { stream, buffers, request: 0, read_timeout: None, write_timeout: None }))
    }
}

/// Connects to a host, in a thread of its own where that may take a while.
fn dial(host: &str, port: u16) -> Result<TcpStream, Error> {
    let reach = with_wait(|wait| wait.reach).ok_or_else(|| give_up(Trouble::Stopped))?;
    if let Ok(ip) = host.parse::<std::net::IpAddr>()
        && ip.is_loopback()
    {
        if !reach.admits(ip) {
            return Err(give_up(Trouble::Forbidden));
        }
        let found = TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_TIME_MAX);
        return found.map_err(|error| give_up(Trouble::Unreachable(error.to_string())));
    }
    let (sender, receiver) = sync_channel(1);
    let host = host.to_owned();
    let thread = threads::spawn("dial", threads::STACK_BYTES, move || {
        // Whoever asked may have been stopped: then nobody takes it, and it is closed.
        let _ = sender.send(find_and_connect(&host, port, reach));
    });
    if let Err(error) = thread {
        return Err(give_up(Trouble::Unreachable(error.to_string())));
    }
    let until = Instant::now() + CONNECT_TIME_MAX;
    loop {
        match receiver.recv_timeout(STOP_LOOK) {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(trouble)) => return Err(give_up(trouble)),
            Err(RecvTimeoutError::Disconnected) => return Err(give_up(Trouble::Unreachable("it failed".to_owned()))),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let (is_stopped, deadline) =
            with_wait(|wait| (wait.stop.why().is_some(), wait.deadline)).unwrap_or((true, until));
        if is_stopped {
            return Err(give_up(Trouble::Stopped));
        }
        if Instant::now() >= until.min(deadline) {
            return Err(give_up(Trouble::Unreachable("connecting took too long".to_owned())));
        }
    }
}

fn find_and_connect(host: &str, port: u16, reach: Reach) -> Result<TcpStream, Trouble> {
    /// Most addresses of one host that are tried.
    const ADDRESSES_MAX: usize = 8;
    let until = Instant::now() + CONNECT_TIME_MAX;
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|_| Trouble::Unreachable("its address is not known".to_owned()))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    // One that is not admitted condemns them all: a name that means a neighbour too is no name of a stranger.
    if addresses.iter().any(|address| !reach.admits(address.ip())) {
        return Err(Trouble::Forbidden);
    }
    let mut why = "it has no address".to_owned();
    for (idx, address) in addresses.iter().enumerate() {
        // The last one gets what is left, each before it half of that: one that is dead must not cost the others theirs.
        let left = until.saturating_duration_since(Instant::now());
        let share = if idx + 1 == addresses.len() { left } else { left / 2 };
        if share.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error.to_string(),
        }
    }
    Err(Trouble::Unreachable(why))
}

/// A connection to a host.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    buffers: LazyBuffers,
    /// The request it carries; 0: none yet.
    request: u64,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

impl Socket {
    /// How long the next read or write may take.
    fn time_left(&mut self) -> Result<Duration, Error> {
        let left = with_wait(|wait| {
            if self.request != wait.id {
                wait.is_reused |= self.request != 0;
                // Who kept it open may have been allowed more.
                let peer = self.stream.peer_addr().map_err(|error| Trouble::Unreachable(error.to_string()))?;
                if !wait.reach.admits(peer.ip()) {
                    return Err(Trouble::Forbidden);
                }
                self.request = wait.id;
                wait.stop.waits_on(self.stream.try_clone().map_err(|error| Trouble::Unreachable(error.to_string()))?);
            }
            if wait.stop.why().is_some() {
                return Err(Trouble::Stopped);
            }
            let now = Instant::now();
            let until_end = wait.deadline.saturating_duration_since(now);
            if until_end.is_zero() {
                return Err(Trouble::TooLong);
            }
            let until_shaken = wait.handshake.map_or(Duration::MAX, |until| until.saturating_duration_since(now));
            if until_shaken.is_zero() {
                return Err(Trouble::Silent(HANDSHAKE_TIME_MAX));
            }
            Ok(wait.idle.min(until_end).min(until_shaken))
        });
        left.unwrap_or(Err(Trouble::Stopped)).map_err(give_up)
    }

    /// The error of a read or write that failed.
    fn failed(error: io::Error) -> Error {
        let trouble = with_wait(|wait| match error.kind() {
            _ if wait.stop.why().is_some() => Some(Trouble::Stopped),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let is_late = wait.deadline.saturating_duration_since(Instant::now()).is_zero();
                let silent = if wait.handshake.is_some() { HANDSHAKE_TIME_MAX.min(wait.idle) } else { wait.idle };
                Some(if is_late { Trouble::TooLong } else { Trouble::Silent(silent) })
            }
            _ => None,
        });
        match trouble.flatten() {
            Some(trouble) => give_up(trouble),
            None => Error::Io(error),
        }
    }
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        let mut from = 0;
        while from < amount {
            let left = self.time_left()?;
            if self.write_timeout != Some(left) {
                self.stream.set_write_timeout(Some(left)).map_err(Socket::failed)?;
                self.write_timeout = Some(left);
            }
            match self.stream.write(&self.buffers.output()[from..amount]) {
                Ok(0) => return Err(Socket::failed(io::ErrorKind::WriteZero.into())),
                Ok(written) => from += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Socket::failed(error)),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        loop {
            let left = self.time_left()?;
            if self.read_timeout != Some(left) {
                self.stream.set_read_timeout(Some(left)).map_err(Socket::failed)?;
                self.read_timeout = Some(left);
            }
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(0) if with_wait(|wait| wait.stop.why().is_some()) == Some(true) => {
                    return Err(give_up(Trouble::Stopped));
                }
                Ok(read) => {
                    self.buffers.input_appended(read);
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Socket::failed(error)),
            }
        }
    }

    /// Whether it can carry another request: nothing may wait in it, not even its end.
    fn is_open(&mut self) -> bool {
        let is_quiet = |stream: &TcpStream| {
            stream.set_nonblocking(true).ok()?;
            let peeked = stream.peek(&mut [0]);
            stream.set_nonblocking(false).ok()?;
            Some(matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock))
        };
        is_quiet(&self.stream).unwrap_or(false)
    }
}

/// TLS, where the address asks for it; the handshake has its own time.
#[derive(Debug, Default)]
pub struct Tls(RustlsConnector);

impl Connector<Socket> for Tls {
    type Out = <RustlsConnector as Connector<Socket>>::Out;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<Socket>) -> Result<Option<Self::Out>, Error> {
        let connected = self.0.connect(details, chained);
        with_wait(|wait| wait.handshake = None);
        connected
    }
}
