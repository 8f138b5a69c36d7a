//! The limits of the shell that come from settings, and what they default to.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::http1::BodyLimits;
use crate::config::cidr::Cidr;

/// What the shell takes from settings. Those marked live are replaced while connections are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sockets open at once (`gateway.server.max_connections`, live).
    pub connections_max: usize,
    /// From accept to an accepted `connect`; then close 1000 (live).
    pub handshake_time_max: Duration,
    /// Events one connection may owe (`gateway.server.event_queue_capacity`, live).
    pub event_queue_frames_max: usize,
    /// How long connections may take to end after [`crate::gateway::Effect::Stop`] (`gateway.server.shutdown_drain_ms`).
    pub shutdown_drain: Duration,
    /// HTTP requests waiting for an answer at once (`gateway.http.max_concurrency`, live); more are answered 503.
    pub http_concurrency_max: usize,
    /// Limits of request bodies (live).
    pub bodies: BodyLimits,
    /// Peers whose forwarded headers count (`gateway.trustedProxies`, live).
    pub trusted_proxies: Vec<Cidr>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 2048,
            handshake_time_max: Duration::from_secs(10),
            event_queue_frames_max: 256,
            shutdown_drain: Duration::from_secs(10),
            http_concurrency_max: 64,
            bodies: BodyLimits::default(),
            trusted_proxies: Vec::new(),
        }
    }
}

impl Limits {
    /// Whether `peer` is a trusted proxy.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(peer))
    }
}

/// What is counted as one peer: an IPv4 address, or the /64 an IPv6 host can move about in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(IpAddr);

impl PeerKey {
    /// The key of `address`.
    pub fn of(address: IpAddr) -> PeerKey {
        PeerKey(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_one_peer_wherever_it_moves() {
        let key = |text: &str| PeerKey::of(text.parse().unwrap());
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
