//! The limits of the shell that come from settings, and what they default to.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::http1::BodyLimits;

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
    pub trusted_proxies: Vec<Network>,
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

/// An address, or a block of them in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Reads `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32`.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = bits.unwrap_or(bits_max);
        (prefix_bits <= bits_max).then_some(Network { address, prefix_bits })
    }

    /// Whether `address` lies in it. An IPv4 address written as IPv6 counts as the IPv4 address it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits()),
            _ => return false,
        };
        let shift = 128 - u32::from(self.prefix_bits);
        ours.checked_shr(shift).unwrap_or(0) == theirs.checked_shr(shift).unwrap_or(0)
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

    #[track_caller]
    fn check(network: &str, address: &str, contains: bool) {
        let network = Network::parse(network).expect("a network");
        assert_eq!(network.contains(address.parse().unwrap()), contains);
    }

    #[test]
    fn a_network_holds_its_addresses() {
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "::1", false);
        check("127.0.0.1", "127.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
        check("::/0", "2001:db8::1", true);
        check("::1", "::2", false);
    }

    #[test]
    fn refuses_what_is_no_network() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "example.com", "10.0.0/8", "10.0.0.0/"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_ipv6_host_is_one_peer_wherever_it_moves() {
        let key = |text: &str| PeerKey::of(text.parse().unwrap());
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
