//! The limits of the shell that come from settings, and what they default to.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::http1::BodyLimits;
use crate::config::cidr::Cidr;
use crate::config::settings::Settings;

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
    /// How long peers may take for what no setting governs.
    pub clocks: Clocks,
}

/// Times that are the same for every installation; a value so that tests need not wait for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// How often an admitted client is pinged (upstream: 25 s).
    pub ping_interval: Duration,
    /// How long it may take to answer, from when the ping has left; then the socket is dropped (upstream: 25 s).
    pub pong_time_max: Duration,
    /// How long a message may take from its first byte to its last; then close 1008.
    pub message_time_max: Duration,
    /// How long a peer may take not a single byte of what waits for it; then the socket is dropped.
    pub write_stall_max: Duration,
    /// How long what was queued before a close frame, and the frame itself, may take to leave.
    pub close_flush_max: Duration,
    /// How long to wait for the peer to close, from when ours has left.
    pub close_wait_max: Duration,
}

impl Default for Clocks {
    fn default() -> Clocks {
        Clocks {
            ping_interval: Duration::from_secs(25),
            pong_time_max: Duration::from_secs(25),
            message_time_max: Duration::from_secs(120),
            write_stall_max: Duration::from_secs(120),
            close_flush_max: Duration::from_secs(10),
            close_wait_max: Duration::from_secs(1),
        }
    }
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
            clocks: Clocks::default(),
        }
    }
}

impl Limits {
    /// The limits that `settings` ask for.
    pub fn of(settings: &Settings) -> Limits {
        let Settings { gateway, hooks, .. } = settings;
        Limits {
            connections_max: gateway.server.max_connections,
            handshake_time_max: gateway.server.handshake_timeout,
            event_queue_frames_max: gateway.server.event_queue_capacity,
            shutdown_drain: gateway.server.shutdown_drain,
            http_concurrency_max: gateway.http.max_concurrency,
            bodies: BodyLimits {
                hooks_path: hooks.path.clone(),
                hooks_bytes_max: hooks.max_body_bytes,
                chat_bytes_max: gateway.http.chat.body_bytes_max,
                responses_bytes_max: gateway.http.responses.body_bytes_max,
                request_time_max: gateway.http.request_timeout,
            },
            trusted_proxies: gateway.trusted_proxies.clone(),
            clocks: Clocks::default(),
        }
    }

    /// Whether `peer` is a trusted proxy.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|range| range.contains(peer))
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
    use std::path::Path;

    use super::*;
    use crate::config::document::{Context, EnvHidden};
    use crate::config::environment::Overrides;
    use crate::config::expand::Env;
    use crate::config::settings;

    #[track_caller]
    fn limits_of(config: &serde_json::Value) -> Limits {
        let context = Context {
            env: EnvHidden::default(),
            overrides: Overrides::default(),
            state_dir: "/state".into(),
            home: None,
            tailnet: None,
            generated_token: None,
        };
        Limits::of(&settings::build(config, Path::new("/"), &context, &Env::new()).unwrap().settings)
    }

    #[test]
    fn the_defaults_are_those_of_the_configuration() {
        assert_eq!(limits_of(&serde_json::json!({})), Limits::default());
    }

    #[test]
    fn settings_change_them() {
        let limits = limits_of(&serde_json::json!({
            "gateway": {
                "server": { "max_connections": 7, "event_queue_capacity": 9 },
                "http": {
                    "max_concurrency": 3,
                    "request_timeout_ms": 400,
                    "endpoints": { "chatCompletions": { "maxBodyBytes": 12 }, "responses": { "maxBodyBytes": 13 } },
                },
                "trustedProxies": ["10.0.0.0/8"],
            },
            "hooks": { "path": "in/", "maxBodyBytes": 11 },
        }));
        assert_eq!((limits.connections_max, limits.event_queue_frames_max, limits.http_concurrency_max), (7, 9, 3));
        assert_eq!(limits.bodies.bytes_max("/in/x"), 11);
        assert_eq!(limits.bodies.bytes_max("/v1/chat/completions"), 12);
        assert_eq!(limits.bodies.bytes_max("/v1/responses"), 13);
        assert_eq!(limits.bodies.request_time_max, Duration::from_millis(400));
        assert!(limits.trusts("10.1.1.1".parse().unwrap()) && !limits.trusts("11.1.1.1".parse().unwrap()));
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
