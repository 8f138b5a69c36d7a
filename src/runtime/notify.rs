//! Telling systemd how we are, over `NOTIFY_SOCKET` (sd_notify(3)); silent where nobody asked to be told.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What the service manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Listening and serving.
    Ready,
    /// Reading the configuration again; [`State::Ready`] follows.
    Reloading,
    /// Going away.
    Stopping,
    /// Alive: to be sent at least every half of the watchdog interval.
    Watchdog,
}

/// The way to the service manager, or nowhere.
#[derive(Debug)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC` from the environment.
    pub fn from_env() -> Notify {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| match Notify::connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                log::warn!("cannot use NOTIFY_SOCKET: {error}");
                None
            }
        });
        let usec = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        let watchdog = usec.filter(|_| socket.is_some()).map(Duration::from_micros);
        Notify { socket, watchdog }
    }

    /// Tells nobody.
    pub fn nowhere() -> Notify {
        Notify { socket: None, watchdog: None }
    }

    fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
        let bytes = name.as_bytes();
        // A leading @ stands for the zero byte of the abstract namespace.
        let addr = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A service manager that does not read must not stop the loop.
        socket.set_nonblocking(true)?;
        Ok((socket, addr))
    }

    /// How often to send [`State::Watchdog`]: half of what the service manager allows.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|all| all / 2)
    }

    /// Tells the service manager; a failure to do so is logged, never more.
    pub fn tell(&self, state: State, monotonic_usec: u64) {
        let Some((socket, addr)) = &self.socket else { return };
        let text = match state {
            State::Ready => String::from("READY=1"),
            // systemd refuses a reload notice without the time at which it began.
            State::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}"),
            State::Stopping => String::from("STOPPING=1"),
            State::Watchdog => String::from("WATCHDOG=1"),
        };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), addr) {
            log::debug!("the service manager was not told state={state:?}: {error}");
        }
    }
}

/// `CLOCK_MONOTONIC` in microseconds, as a reload notice carries it.
pub fn monotonic_usec() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec through the pointer, which is valid and exclusive for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_socket_with_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify { socket: Some(Notify::connect(path.as_os_str()).unwrap()), watchdog: None };
        for (state, text) in [
            (State::Ready, "READY=1"),
            (State::Reloading, "RELOADING=1\nMONOTONIC_USEC=17"),
            (State::Stopping, "STOPPING=1"),
            (State::Watchdog, "WATCHDOG=1"),
        ] {
            notify.tell(state, 17);
            let mut buffer = [0; 64];
            let n = manager.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..n]).unwrap(), text);
        }
    }

    #[test]
    fn tells_an_abstract_socket() {
        let name = format!("openclaw-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let at = format!("@{name}");
        let notify = Notify { socket: Some(Notify::connect(OsStr::new(&at)).unwrap()), watchdog: None };
        notify.tell(State::Ready, 0);
        let mut buffer = [0; 64];
        assert_eq!(manager.recv(&mut buffer).unwrap(), 7);
    }

    #[test]
    fn a_manager_that_went_away_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let notify = Notify { socket: Some(Notify::connect(path.as_os_str()).unwrap()), watchdog: None };
        notify.tell(State::Ready, 0);
        Notify::nowhere().tell(State::Stopping, 0);
        assert!(monotonic_usec() > 0);
    }
}
