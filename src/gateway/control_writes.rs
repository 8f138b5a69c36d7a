//! How often one client may change the gateway itself: a runaway script must not turn into a restart loop.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::clients::Caller;
use super::limiter;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::version::Protocol;

/// The built methods that change the gateway itself (protocol.md, section 16).
pub const METHODS: &[&str] = &[
    "config.apply",
    "config.patch",
    "gateway.suspend.prepare",
    "secrets.store.delete",
    "secrets.store.set",
    "update.run",
];
/// The window that calls are counted in, in milliseconds.
pub const WINDOW_MS: i64 = 60_000;
/// Clients counted at once; beyond that the one whose window began first is forgotten.
pub const TRACKED_MAX: usize = 1024;

/// Calls allowed in one window.
pub fn allowed(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::V3 => 3,
        Protocol::V4 => 30,
    }
}

/// A method, and who calls it: the device if it has one, at its address.
type Subject = (&'static str, Option<String>, IpAddr);

#[derive(Debug)]
struct Window {
    began_at_ms: i64,
    n_calls: u32,
}

/// The counts.
#[derive(Debug, Default)]
pub struct ControlWrites {
    windows: BTreeMap<Subject, Window>,
}

impl ControlWrites {
    /// Counts a call of `method`, if it is one that is counted.
    ///
    /// # Errors
    /// Too many in this window, in upstream's words.
    pub fn count(&mut self, method: &'static str, caller: &Caller, now_ms: i64) -> Result<(), RpcError> {
        if !METHODS.contains(&method) {
            return Ok(());
        }
        let subject = (method, caller.device_id.clone(), limiter::canonical(caller.address));
        if !self.windows.contains_key(&subject) && self.windows.len() >= TRACKED_MAX {
            let oldest = self.windows.iter().min_by_key(|(_, window)| window.began_at_ms).map(|(who, _)| who.clone());
            if let Some(oldest) = oldest {
                self.windows.remove(&oldest);
            }
        }
        let window = self.windows.entry(subject).or_insert(Window { began_at_ms: now_ms, n_calls: 0 });
        if now_ms - window.began_at_ms >= WINDOW_MS {
            *window = Window { began_at_ms: now_ms, n_calls: 0 };
        }
        let max = allowed(caller.protocol);
        if window.n_calls < max {
            window.n_calls += 1;
            return Ok(());
        }
        let left_ms = (window.began_at_ms + WINDOW_MS - now_ms).max(1) as u64;
        let message = format!("rate limit exceeded for {method}; retry after {}s", left_ms.div_ceil(1000));
        Err(RpcError::busy(message, left_ms)
            .with_details(json!({ "method": method, "limit": format!("{max} per 60s") })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::clients::{Admission, Caps};
    use crate::protocol::ConnId;
    use crate::protocol::connect::{ClientId, ClientMode};
    use crate::protocol::scope::{Role, Scopes};

    fn caller(protocol: Protocol, address: [u8; 4]) -> Caller {
        Caller {
            conn: ConnId(1),
            protocol,
            role: Role::Operator,
            scopes: Scopes::default(),
            client_id: ClientId::Cli,
            mode: ClientMode::Cli,
            device_id: None,
            admission: Admission::Token,
            address: IpAddr::from(address),
            name: String::new(),
            label: String::new(),
            caps: Caps::default(),
        }
    }

    #[test]
    fn the_window_lets_so_many_through_and_says_how_long_to_wait() {
        for protocol in [Protocol::V3, Protocol::V4] {
            let mut writes = ControlWrites::default();
            let who = caller(protocol, [10, 0, 0, 1]);
            for n in 0..allowed(protocol) {
                writes.count("config.patch", &who, i64::from(n)).unwrap();
            }
            let error = writes.count("config.patch", &who, 500).unwrap_err();
            assert_eq!(error.message, "rate limit exceeded for config.patch; retry after 60s");
            assert_eq!((error.retryable, error.retry_after_ms), (Some(true), Some(59_500)));
            writes.count("config.apply", &who, 500).unwrap();
            writes.count("config.patch", &caller(protocol, [10, 0, 0, 2]), 500).unwrap();
            writes.count("config.get", &who, 500).unwrap();
            writes.count("config.patch", &who, WINDOW_MS).unwrap();
        }
    }

    #[test]
    fn remembers_a_bounded_number_of_clients() {
        let mut writes = ControlWrites::default();
        for n in 0..TRACKED_MAX as u32 + 9 {
            writes.count("config.patch", &caller(Protocol::V4, n.to_be_bytes()), i64::from(n)).unwrap();
        }
        assert_eq!(writes.windows.len(), TRACKED_MAX);
    }
}
