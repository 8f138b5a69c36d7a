//! Where a peer really is: on this machine, behind a trusted proxy, or elsewhere; and which web page it came from.

use std::net::IpAddr;

use super::limiter::canonical;
use crate::config::settings::Settings;

/// Headers that say a proxy forwarded this.
const FORWARDING: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip"];

/// Headers that say Tailscale forwarded this.
const TAILSCALE_PREFIX: &str = "tailscale-";

/// What the head of a request says about where it comes from.
#[derive(Debug)]
pub struct Head<'a> {
    /// The other end of the socket.
    pub peer: IpAddr,
    /// Lower-case names with values.
    pub headers: &'a [(String, String)],
}

impl<'a> Head<'a> {
    fn header(&self, name: &str) -> Option<&'a str> {
        super::http::header(self.headers, name)
    }

    /// The `Origin` a browser sent.
    pub fn origin(&self) -> Option<&'a str> {
        self.header("origin").map(str::trim).filter(|origin| !origin.is_empty())
    }

    /// Whether any forwarding header is there.
    pub fn is_forwarded(&self) -> bool {
        self.headers.iter().any(|(name, _)| FORWARDING.contains(&name.as_str()) || name.starts_with(TAILSCALE_PREFIX))
    }

    /// Whether the peer is a configured proxy.
    pub fn is_from_trusted_proxy(&self, settings: &Settings) -> bool {
        let peer = canonical(self.peer);
        settings.gateway.trusted_proxies.iter().any(|range| range.contains(peer))
    }

    /// Whether forwarding headers come from someone who has no business sending them: such a request cannot be
    /// attributed to anybody and is refused.
    pub fn is_unattributable(&self, settings: &Settings) -> bool {
        self.is_forwarded() && !self.is_from_trusted_proxy(settings)
    }

    /// Whether the request was made on this machine, directly: a loopback socket, a loopback `Host`, nothing forwarded.
    ///
    /// The `Host` test keeps out a web page that reaches loopback under a name of its own (DNS rebinding).
    pub fn is_direct_local(&self) -> bool {
        canonical(self.peer).is_loopback() && !self.is_forwarded() && self.host().is_none_or(is_loopback_name)
    }

    /// The `Host` without its port.
    pub fn host(&self) -> Option<&'a str> {
        self.header("host").map(host_of)
    }

    /// The address limits count: the peer, or what a trusted proxy says of it.
    pub fn client_address(&self, settings: &Settings) -> IpAddr {
        let peer = canonical(self.peer);
        if !self.is_from_trusted_proxy(settings) {
            return peer;
        }
        // The last address a trusted proxy did not itself add is the client; nearer ones are proxies of ours.
        let forwarded = self.header("x-forwarded-for").and_then(|chain| {
            chain
                .rsplit(',')
                .filter_map(|part| part.trim().trim_matches(['[', ']']).parse::<IpAddr>().ok())
                .map(canonical)
                .find(|hop| !settings.gateway.trusted_proxies.iter().any(|range| range.contains(*hop)))
        });
        let real = || {
            let fallback = settings.gateway.allow_real_ip_fallback;
            self.header("x-real-ip").filter(|_| fallback)?.trim().parse().ok().map(canonical)
        };
        forwarded.or_else(real).unwrap_or(peer)
    }

    /// Whether a page from this request's `Origin` may talk to the gateway.
    pub fn origin_verdict(&self, settings: &Settings) -> OriginVerdict {
        let Some(origin) = self.origin() else { return OriginVerdict::Absent };
        let allowed = &settings.gateway.control_ui.allowed_origins;
        if allowed.iter().any(|listed| listed == "*" || listed.trim_end_matches('/').eq_ignore_ascii_case(origin)) {
            return OriginVerdict::Allowed;
        }
        let Some(authority) = authority_of(origin) else { return OriginVerdict::Foreign };
        let (origin_host, host) = (host_of(authority), self.host().unwrap_or(""));
        if is_loopback_name(origin_host) && self.is_direct_local() {
            return OriginVerdict::Allowed;
        }
        let same = self.header("host").is_some_and(|full| full.trim().eq_ignore_ascii_case(authority));
        let fallback = settings.gateway.control_ui.dangerously_allow_host_header_origin_fallback;
        if same && (fallback || is_private_name(host)) { OriginVerdict::Allowed } else { OriginVerdict::Foreign }
    }
}

/// What an `Origin` header is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginVerdict {
    /// There is none: not a browser.
    Absent,
    /// A page that may.
    Allowed,
    /// A page that may not.
    Foreign,
}

/// `host[:port]` of `scheme://host[:port]`; `None` for `null` and what is not an origin.
fn authority_of(origin: &str) -> Option<&str> {
    let (scheme, authority) = origin.split_once("://")?;
    let scheme_ok = ["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme));
    (scheme_ok && !authority.is_empty() && !authority.contains(['/', '@', '?', '#'])).then_some(authority)
}

/// A host without its port; brackets of an IPv6 literal kept off.
fn host_of(authority: &str) -> &str {
    let authority = authority.trim();
    if let Some(tail) = authority.strip_prefix('[') {
        return tail.split(']').next().unwrap_or(tail);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.contains(':') => host,
        _ => authority,
    }
}

fn is_loopback_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| canonical(address).is_loopback())
}

/// A loopback name, an address literal of a private network, `*.local` or `*.ts.net`: names a foreign site cannot have.
fn is_private_name(host: &str) -> bool {
    let lower = host.to_ascii_lowercase();
    if is_loopback_name(host) || lower.ends_with(".local") || lower.ends_with(".ts.net") {
        return true;
    }
    match host.parse::<IpAddr>().map(canonical) {
        Ok(IpAddr::V4(v4)) => {
            v4.is_private() || v4.is_link_local() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
        }
        Ok(IpAddr::V6(v6)) => v6.is_unique_local() || v6.is_unicast_link_local(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cidr::Cidr;

    fn head<'a>(peer: &str, headers: &'a [(String, String)]) -> Head<'a> {
        Head { peer: peer.parse().unwrap(), headers }
    }

    fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn proxied() -> Settings {
        let mut settings = Settings::for_tests();
        settings.gateway.trusted_proxies = vec![Cidr::parse("10.0.0.0/8").unwrap()];
        settings
    }

    #[test]
    fn local_means_loopback_with_a_loopback_host_and_nothing_forwarded() {
        let cases: [(&str, &[(&str, &str)], bool); 7] = [
            ("127.0.0.1", &[("host", "127.0.0.1:18789")], true),
            ("::1", &[("host", "[::1]:18789")], true),
            ("::ffff:127.0.0.1", &[("host", "localhost")], true),
            ("127.0.0.1", &[("host", "evil.example:18789")], false),
            ("127.0.0.1", &[("host", "127.0.0.1"), ("x-forwarded-for", "1.2.3.4")], false),
            ("127.0.0.1", &[("host", "127.0.0.1"), ("tailscale-user-login", "x")], false),
            ("10.0.0.5", &[("host", "127.0.0.1")], false),
        ];
        for (peer, list, expected) in cases {
            assert_eq!(head(peer, &headers(list)).is_direct_local(), expected, "{peer} {list:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_who_the_client_is() {
        let chain = headers(&[("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.7")]);
        assert_eq!(head("10.0.0.5", &chain).client_address(&proxied()).to_string(), "1.2.3.4");
        assert_eq!(head("9.9.9.9", &chain).client_address(&proxied()).to_string(), "9.9.9.9");
        assert!(head("9.9.9.9", &chain).is_unattributable(&proxied()));
        assert!(!head("10.0.0.5", &chain).is_unattributable(&proxied()));
    }

    #[test]
    fn an_origin_is_judged_by_what_it_is_not_by_who_claims_to_send_it() {
        use OriginVerdict::{Absent, Allowed, Foreign};
        let cases: [(&str, &[(&str, &str)], OriginVerdict); 9] = [
            ("127.0.0.1", &[("host", "127.0.0.1:1")], Absent),
            ("127.0.0.1", &[("host", "127.0.0.1:1"), ("origin", "http://127.0.0.1:1")], Allowed),
            ("127.0.0.1", &[("host", "127.0.0.1:1"), ("origin", "http://localhost:5173")], Allowed),
            ("127.0.0.1", &[("host", "127.0.0.1:1"), ("origin", "https://evil.example")], Foreign),
            ("127.0.0.1", &[("host", "evil.example"), ("origin", "http://evil.example")], Foreign),
            ("127.0.0.1", &[("host", "evil.example"), ("origin", "http://localhost")], Foreign),
            ("127.0.0.1", &[("host", "127.0.0.1:1"), ("origin", "null")], Foreign),
            ("192.168.1.9", &[("host", "192.168.1.2:1"), ("origin", "http://192.168.1.2:1")], Allowed),
            ("192.168.1.9", &[("host", "192.168.1.2:1"), ("origin", "http://192.168.1.2:2")], Foreign),
        ];
        for (peer, list, expected) in cases {
            let got = head(peer, &headers(list)).origin_verdict(&Settings::for_tests());
            assert_eq!(got, expected, "{peer} {list:?}");
        }
    }
}
