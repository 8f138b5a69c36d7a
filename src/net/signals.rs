//! SIGTERM, SIGINT, SIGHUP and SIGUSR1 as readiness that the loop waits for like any other.
//!
//! SIGPIPE needs nothing: the standard library ignores it before `main`, so writing to a closed socket is an error.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::UnixStream;
use mio::{Interest, Registry};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{SigId, flag, low_level};

use super::tokens;

/// Exit status when a second SIGTERM or SIGINT cuts the shutdown short.
pub const CUT_SHORT_STATUS: i32 = 1;

/// The installed handlers; taken out again when dropped.
pub struct Signals {
    stop: UnixStream,
    reload: UnixStream,
    handlers: Vec<SigId>,
}

impl Signals {
    /// Installs the handlers, for the whole process. From the second SIGTERM or SIGINT on the process exits inside
    /// the handler, so that it does so whatever the loop is doing.
    ///
    /// # Errors
    /// The operating system's refusal.
    pub fn install() -> io::Result<Signals> {
        let (stop, stop_writer) = UnixStream::pair()?;
        let (reload, reload_writer) = UnixStream::pair()?;
        let mut signals = Signals { stop, reload, handlers: Vec::new() };
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag down and raises it.
            let second = flag::register_conditional_shutdown(signal, CUT_SHORT_STATUS, Arc::clone(&stopping))?;
            signals.handlers.push(second);
            signals.handlers.push(flag::register(signal, Arc::clone(&stopping))?);
        }
        let stop_writer: std::os::fd::OwnedFd = stop_writer.into();
        signals.handlers.push(low_level::pipe::register(SIGTERM, stop_writer.try_clone()?)?);
        signals.handlers.push(low_level::pipe::register(SIGINT, stop_writer)?);
        let reload_writer: std::os::fd::OwnedFd = reload_writer.into();
        signals.handlers.push(low_level::pipe::register(SIGHUP, reload_writer.try_clone()?)?);
        // Upstream's own tools ask a gateway with SIGUSR1 to start anew with the configuration on disk.
        signals.handlers.push(low_level::pipe::register(SIGUSR1, reload_writer)?);
        Ok(signals)
    }

    /// Has the loop woken by them.
    ///
    /// # Errors
    /// The operating system's refusal.
    pub fn register(&mut self, registry: &Registry) -> io::Result<()> {
        registry.register(&mut self.stop, tokens::SIGNAL_STOP, Interest::READABLE)?;
        registry.register(&mut self.reload, tokens::SIGNAL_RELOAD, Interest::READABLE)
    }

    /// Whether SIGTERM or SIGINT came since the last call.
    pub fn take_stop(&mut self) -> bool {
        drain(&mut self.stop)
    }

    /// Whether SIGHUP or SIGUSR1 came since the last call; several count as one.
    pub fn take_reload(&mut self) -> bool {
        drain(&mut self.reload)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}

/// Ctrl-C in a command that wants to end something before it ends itself.
///
/// It is noted, and whoever works looks at it in passing; a second one that comes before the first was looked at ends
/// the process, so that a command which is stuck can always be left.
pub struct Interrupts {
    came: Arc<AtomicBool>,
    handlers: [SigId; 2],
}

impl Interrupts {
    /// Installs the handler, for the whole process.
    ///
    /// # Errors
    /// The operating system's refusal.
    pub fn install() -> io::Result<Interrupts> {
        let came = Arc::new(AtomicBool::new(false));
        // In this order: the first signal finds the flag down and raises it.
        let second = flag::register_conditional_shutdown(SIGINT, CUT_SHORT_STATUS, Arc::clone(&came))?;
        let first = flag::register(SIGINT, Arc::clone(&came))?;
        Ok(Interrupts { came, handlers: [second, first] })
    }

    /// Whether it came since the last call.
    pub fn take(&self) -> bool {
        self.came.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for handler in self.handlers {
            low_level::unregister(handler);
        }
    }
}

fn drain(pipe: &mut UnixStream) -> bool {
    let mut buffer = [0; 64];
    let mut any = false;
    // Ends at WouldBlock: a handler writes one byte, and signals come one at a time.
    while matches!(pipe.read(&mut buffer), Ok(1..)) {
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_is_a_reload_and_no_stop() {
        let mut signals = Signals::install().unwrap();
        assert!(!signals.take_reload());
        low_level::raise(SIGHUP).unwrap();
        low_level::raise(SIGHUP).unwrap();
        assert!(signals.take_reload());
        assert!(!signals.take_reload());
        low_level::raise(SIGUSR1).unwrap();
        assert!(signals.take_reload());
        assert!(!signals.take_stop());
    }

    #[test]
    fn an_interrupt_is_told_of_once() {
        let interrupts = Interrupts::install().unwrap();
        assert!(!interrupts.take());
        low_level::raise(SIGINT).unwrap();
        assert!(interrupts.take());
        assert!(!interrupts.take());
    }
}
