//! The listening sockets, and accepting without running out of file descriptors.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use super::NetError;
use super::tokens::{LISTENER_FIRST, LISTENERS_MAX};
use crate::runtime::metrics;

/// Sockets accepted per turn, so that a storm of connects does not hold up who is connected.
pub const ACCEPTS_PER_TURN: usize = 64;
/// How long accepting rests when the system has no descriptors or memory for another socket.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often an address is tried again that another process is just leaving.
const ADDRESSES_TRIED_MAX: usize = 8;

/// All listening sockets.
pub struct Doors {
    listeners: Vec<Door>,
    /// Given up for a moment when descriptors run out, so that a waiting peer is turned away instead of left hanging.
    reserve: Option<File>,
    paused_until: Option<Instant>,
}

struct Door {
    listener: TcpListener,
    address: SocketAddr,
    ready: bool,
}

/// What accepting brought.
pub enum Accepted {
    /// A socket, and the listening address it came through.
    Socket(TcpStream, SocketAddr, SocketAddr),
    /// Nobody waits, or accepting rests.
    Nobody,
}

impl Doors {
    /// Listens on all of `addresses`. The first must succeed. Port 0 lets the system choose; further addresses with
    /// port 0 get the same port. A further address may fail only where the machine does not have it (IPv6 switched
    /// off).
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub fn open(addresses: &[SocketAddr]) -> Result<Doors, NetError> {
        assert!((1..=LISTENERS_MAX).contains(&addresses.len()), "one to {LISTENERS_MAX} addresses");
        let mut tried = 0;
        let listeners = loop {
            tried += 1;
            match listen_on_all(addresses) {
                // The port the system chose for the first address may be taken on the second.
                Err(NetError::Listen { source, .. })
                    if addresses[0].port() == 0
                        && source.kind() == io::ErrorKind::AddrInUse
                        && tried < ADDRESSES_TRIED_MAX => {}
                other => break other?,
            }
        };
        let reserve = File::open("/dev/null").ok();
        Ok(Doors { listeners, reserve, paused_until: None })
    }

    /// Has the loop woken by them.
    ///
    /// # Errors
    /// The operating system's refusal.
    pub fn register(&mut self, registry: &Registry) -> io::Result<()> {
        for (n, door) in self.listeners.iter_mut().enumerate() {
            registry.register(&mut door.listener, Token(LISTENER_FIRST.0 + n), Interest::READABLE)?;
        }
        Ok(())
    }

    /// The addresses listened on, with their real ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|door| door.address).collect()
    }

    /// Somebody may be waiting at the `n`th socket.
    pub fn mark_ready(&mut self, n: usize) {
        if let Some(door) = self.listeners.get_mut(n) {
            door.ready = true;
        }
    }

    /// Whether somebody may be waiting and accepting does not rest.
    pub fn has_ready(&self) -> bool {
        self.paused_until.is_none() && self.listeners.iter().any(|door| door.ready)
    }

    /// When accepting goes on after a rest.
    pub fn deadline(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Stops listening: who comes now is refused by the system.
    pub fn close(&mut self) {
        self.listeners.clear();
        self.paused_until = None;
    }

    /// Accepts one socket.
    pub fn accept(&mut self, now: Instant) -> Accepted {
        match self.paused_until {
            Some(until) if until > now => return Accepted::Nobody,
            _ => self.paused_until = None,
        }
        for door in self.listeners.iter_mut().filter(|door| door.ready) {
            loop {
                match door.listener.accept() {
                    Ok((stream, peer)) => return Accepted::Socket(stream, peer, door.address),
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => {
                            door.ready = false;
                            break;
                        }
                        // The peer left while it waited.
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                        _ => {
                            metrics::ACCEPT_ERRORS.increment();
                            crate::log_limited!(Warn, "cannot accept a connection: {error}");
                            if self.reserve.take().is_some() {
                                drop(door.listener.accept());
                                self.reserve = File::open("/dev/null").ok();
                            }
                            self.paused_until = Some(now + ACCEPT_PAUSE);
                            return Accepted::Nobody;
                        }
                    },
                }
            }
        }
        Accepted::Nobody
    }
}

fn listen_on_all(addresses: &[SocketAddr]) -> Result<Vec<Door>, NetError> {
    let mut doors: Vec<Door> = Vec::with_capacity(addresses.len());
    for wanted in addresses {
        let mut address = *wanted;
        if let Some(first) = doors.first().filter(|_| address.port() == 0) {
            address.set_port(first.address.port());
        }
        let opened = TcpListener::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        match opened {
            Ok((address, listener)) => doors.push(Door { listener, address, ready: false }),
            Err(source) if !doors.is_empty() && is_missing_family(&source) => {
                log::info!("not listening, the machine does not have the address address={address}: {source}");
            }
            Err(source) => return Err(NetError::Listen { address, source }),
        }
    }
    Ok(doors)
}

/// The machine has no such address, or no such family of addresses.
fn is_missing_family(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Raises the limit of open files towards `wanted`, as far as the system allows; returns what it is now.
pub fn raise_file_limit(wanted: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit through the pointer, which is valid and exclusive for the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    if limit.rlim_cur < wanted && limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: wanted.min(limit.rlim_max), ..limit };
        // SAFETY: setrlimit reads one rlimit through the pointer, which is valid for the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    limit.rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_get_the_port_that_was_chosen() {
        let loopback = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
        let doors = Doors::open(&loopback).unwrap();
        let addresses = doors.addresses();
        assert!(addresses[0].port() != 0);
        assert!(addresses.iter().all(|address| address.port() == addresses[0].port()));
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it() {
        let first = Doors::open(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let Err(error) = Doors::open(&first.addresses()) else { panic!("two doors on one port") };
        assert!(error.to_string().contains(&first.addresses()[0].to_string()), "{error}");
    }

    #[test]
    fn the_file_limit_is_never_lowered() {
        let now = raise_file_limit(0);
        assert!(now > 0);
        assert!(raise_file_limit(now) >= now);
    }
}
