//! Stopping a run from another thread: at once, even while it waits for a provider's next byte.

use std::fmt;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a run is stopped; the word is what clients are told (`stopReason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// `chat.abort` and its kin.
    Rpc = 1,
    /// A stop word was said.
    Stop = 2,
    /// It took longer than it may.
    Timeout = 3,
    /// The gateway ends; the run is run again after the next start.
    Shutdown = 4,
    /// A newer message takes its place.
    Interrupt = 5,
}

impl Why {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Rpc => "rpc",
            Why::Stop => "stop",
            Why::Timeout => "timeout",
            Why::Shutdown => "shutdown",
            Why::Interrupt => "interrupt",
        }
    }

    fn from_u8(number: u8) -> Option<Why> {
        [Why::Rpc, Why::Stop, Why::Timeout, Why::Shutdown, Why::Interrupt].into_iter().find(|why| *why as u8 == number)
    }
}

/// Shared by a run and whoever may stop it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// 0: go on; else a [`Why`].
    why: AtomicU8,
    // The run's thread puts the socket it waits on here, and the loop takes it to shut it down: both for an instant.
    socket: Mutex<Option<TcpStream>>,
    // What wakes the run's thread when it waits for something else: put here by it, called by the loop.
    wake: Mutex<Option<Wake>>,
}

/// Wakes a thread.
struct Wake(Box<dyn FnOnce() + Send>);

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

impl Stop {
    /// Stops the run, for good; the first reason counts. Whatever socket it waits on is shut down, so that it wakes.
    pub fn stop(&self, why: Why) {
        if self.0.why.compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        if let Some(socket) = self.0.socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // An error means that the peer was faster.
            let _ = socket.shutdown(Shutdown::Both);
        }
        if let Some(Wake(wake)) = self.0.wake.lock().unwrap_or_else(PoisonError::into_inner).take() {
            wake();
        }
    }

    /// Why the run is to stop; `None`: it is not.
    pub fn why(&self) -> Option<Why> {
        Why::from_u8(self.0.why.load(Ordering::Acquire))
    }

    /// From now on the run waits on this socket. Shuts it down at once when the run is stopped already.
    pub fn waits_on(&self, socket: TcpStream) {
        let mut slot = self.0.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if self.why().is_some() {
            let _ = socket.shutdown(Shutdown::Both);
        } else {
            *slot = Some(socket);
        }
    }

    /// From now on the run waits for something that `wake` ends; called at once when it is stopped already.
    pub fn waits_for(&self, wake: impl FnOnce() + Send + 'static) {
        let mut slot = self.0.wake.lock().unwrap_or_else(PoisonError::into_inner);
        if self.why().is_some() {
            wake();
        } else {
            *slot = Some(Wake(Box::new(wake)));
        }
    }

    /// It waits for nothing of the kind any more.
    pub fn waits_for_none(&self) {
        self.0.wake.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The run waits on no socket any more.
    pub fn waits_on_none(&self) {
        self.0.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn wakes_a_thread_that_waits_on_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut reading = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _silent = listener.accept().unwrap();
        let stop = Stop::default();
        stop.waits_on(reading.try_clone().unwrap());
        let stopper = stop.clone();
        let thread = crate::runtime::threads::spawn("stopper", crate::runtime::threads::STACK_BYTES_DEEP, move || {
            stopper.stop(Why::Rpc);
            stopper.stop(Why::Timeout);
        });
        assert_eq!(reading.read(&mut [0; 1]).unwrap(), 0, "the socket ends");
        thread.unwrap().join().unwrap();
        assert_eq!(stop.why(), Some(Why::Rpc), "the first reason counts");
    }

    #[test]
    fn wakes_what_waits_for_something_else_once() {
        let (stop, woken) = (Stop::default(), Arc::new(AtomicU8::new(0)));
        let wakes = |stop: &Stop| {
            let woken = Arc::clone(&woken);
            stop.waits_for(move || {
                woken.fetch_add(1, Ordering::Relaxed);
            });
        };
        wakes(&stop);
        stop.waits_for_none();
        wakes(&stop);
        stop.stop(Why::Rpc);
        stop.stop(Why::Rpc);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        wakes(&stop);
        assert_eq!(woken.load(Ordering::Relaxed), 2, "it is stopped already");
    }

    #[test]
    fn a_socket_that_comes_too_late_is_shut_down_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut late = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stop = Stop::default();
        stop.stop(Why::Stop);
        stop.waits_on(late.try_clone().unwrap());
        assert_eq!(late.read(&mut [0; 1]).unwrap(), 0);
    }
}
