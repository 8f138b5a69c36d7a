//! Where the gateway listens: one policy from mode, address, port and who said so.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address to listen on, as written: `127.0.0.1:18789`, `[::1]:80`, `localhost:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `None`: `localhost`, both loopback addresses.
    pub ip: Option<IpAddr>,
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`. Names other than `localhost` are refused: what a name means may change behind one's back.
    ///
    /// # Errors
    /// What is wrong, in words for an issue.
    pub fn parse(text: &str) -> Result<HostPort, String> {
        let wrong = || format!("Invalid address \"{text}\": expected host:port with an IP address or localhost");
        let text_trimmed = text.trim();
        if let Some(port) = text_trimmed.strip_prefix("localhost:") {
            return Ok(HostPort { ip: None, port: port.parse().map_err(|_| wrong())? });
        }
        let address: SocketAddr = text_trimmed.parse().map_err(|_| wrong())?;
        Ok(HostPort { ip: Some(address.ip()), port: address.port() })
    }

    /// The socket addresses it stands for.
    pub fn addresses(self) -> Vec<SocketAddr> {
        match self.ip {
            Some(ip) => vec![SocketAddr::new(ip, self.port)],
            None => loopback(self.port),
        }
    }
}

/// `gateway.bind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    Auto,
    Loopback,
    Lan,
    Tailnet,
    Custom,
}

impl BindMode {
    /// From its word.
    pub fn parse(word: &str) -> Option<BindMode> {
        Some(match word {
            "auto" => BindMode::Auto,
            "loopback" => BindMode::Loopback,
            "lan" => BindMode::Lan,
            "tailnet" => BindMode::Tailnet,
            "custom" => BindMode::Custom,
            _ => return None,
        })
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            BindMode::Auto => "auto",
            BindMode::Loopback => "loopback",
            BindMode::Lan => "lan",
            BindMode::Tailnet => "tailnet",
            BindMode::Custom => "custom",
        }
    }
}

impl fmt::Display for BindMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who can reach the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    Loopback,
    Tailnet,
    Public,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Every address; loopback means both families, and one may fail where the machine has no such family.
    pub addresses: Vec<SocketAddr>,
    pub mode: BindMode,
    pub exposure: Exposure,
}

/// Both loopback addresses.
fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)]
}

impl Listen {
    /// By mode.
    ///
    /// # Errors
    /// A mode whose address is not to be had, in words for an issue.
    pub fn by_mode(mode: BindMode, port: u16, custom: Option<&str>, tailnet: Option<IpAddr>) -> Result<Listen, String> {
        let addresses = match (mode, tailnet) {
            (BindMode::Loopback, _) | (BindMode::Auto, None) => loopback(port),
            (BindMode::Auto | BindMode::Tailnet, Some(ip)) => vec![SocketAddr::new(ip, port)],
            (BindMode::Tailnet, None) => {
                return Err("gateway.bind is `tailnet`, but this machine has no tailnet address".to_owned());
            }
            (BindMode::Lan, _) => vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)],
            (BindMode::Custom, _) => {
                let host = custom.ok_or("gateway.bind is `custom`, but gateway.customBindHost is not set")?;
                let bare = host.trim().trim_start_matches('[').trim_end_matches(']');
                match bare.parse::<IpAddr>() {
                    Ok(ip) => vec![SocketAddr::new(ip, port)],
                    Err(_) if bare == "localhost" => loopback(port),
                    Err(_) => return Err(format!("gateway.customBindHost \"{host}\" is no IP address")),
                }
            }
        };
        Ok(Listen::at(mode, addresses, tailnet))
    }

    /// At a written address.
    pub fn at_address(address: HostPort, tailnet: Option<IpAddr>) -> Listen {
        Listen::at(BindMode::Custom, address.addresses(), tailnet)
    }

    fn at(mode: BindMode, addresses: Vec<SocketAddr>, tailnet: Option<IpAddr>) -> Listen {
        let of = |address: &SocketAddr| match address.ip().to_canonical() {
            ip if ip.is_loopback() => Exposure::Loopback,
            ip if Some(ip) == tailnet => Exposure::Tailnet,
            _ => Exposure::Public,
        };
        let exposure = addresses.iter().map(of).max().unwrap_or(Exposure::Loopback);
        let mode = if mode == BindMode::Custom && exposure == Exposure::Loopback { BindMode::Loopback } else { mode };
        Listen { addresses, mode, exposure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(listen: &Listen) -> (Vec<String>, Exposure) {
        (listen.addresses.iter().map(SocketAddr::to_string).collect(), listen.exposure)
    }

    #[test]
    fn modes_have_their_addresses() {
        let tailnet: Option<IpAddr> = Some("100.64.1.2".parse().unwrap());
        let by = |mode, custom, tailnet| Listen::by_mode(mode, 7, custom, tailnet).map(|listen| shown(&listen));
        let both = vec!["127.0.0.1:7".to_owned(), "[::1]:7".to_owned()];
        assert_eq!(by(BindMode::Loopback, None, None), Ok((both.clone(), Exposure::Loopback)));
        assert_eq!(by(BindMode::Auto, None, None), Ok((both.clone(), Exposure::Loopback)));
        assert_eq!(by(BindMode::Auto, None, tailnet), Ok((vec!["100.64.1.2:7".to_owned()], Exposure::Tailnet)));
        assert_eq!(by(BindMode::Lan, None, None), Ok((vec!["0.0.0.0:7".to_owned()], Exposure::Public)));
        assert_eq!(by(BindMode::Custom, Some("[::1]"), None), Ok((vec!["[::1]:7".to_owned()], Exposure::Loopback)));
        assert_eq!(by(BindMode::Custom, Some("localhost"), None), Ok((both, Exposure::Loopback)));
        assert_eq!(by(BindMode::Custom, Some("10.0.0.1"), None), Ok((vec!["10.0.0.1:7".to_owned()], Exposure::Public)));
        assert!(by(BindMode::Tailnet, None, None).is_err());
        assert!(by(BindMode::Custom, None, None).is_err());
        assert!(by(BindMode::Custom, Some("example.org"), None).is_err());
    }

    #[test]
    fn written_addresses_are_taken_at_their_word() {
        let at = |text: &str| HostPort::parse(text).map(|address| shown(&Listen::at_address(address, None)));
        assert_eq!(at("127.0.0.1:0"), Ok((vec!["127.0.0.1:0".to_owned()], Exposure::Loopback)));
        assert_eq!(at("0.0.0.0:1"), Ok((vec!["0.0.0.0:1".to_owned()], Exposure::Public)));
        assert_eq!(at("[::ffff:127.0.0.1]:1"), Ok((vec!["[::ffff:127.0.0.1]:1".to_owned()], Exposure::Loopback)));
        assert_eq!(at("localhost:9").unwrap().0.len(), 2);
        for bad in ["", " ", "127.0.0.1", "example.org:80", ":80", "127.0.0.1:99999"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
