//! SetupCode codes: making one to be shown, and asking what came of it.
//!
//! What a code is and gives is [`crate::gateway::setups`]; here is the address that it leads to. A code is worth as much
//! as what it gives, so it does not travel in the clear: an address without TLS is only taken within this machine or its
//! own network, and never gives a phone the administration.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::config::settings::gateway::AuthMode;
use crate::gateway::setups::{self, Access, SetupCode};
use crate::gateway::table::{Call, need};
use crate::gateway::{Done, Effect, Fact, Gateway, Job, Origin, Snapshot, Work};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::params::{NonEmpty, Text};
use crate::runtime::host;
use crate::runtime::qr::Code;
use crate::runtime::random;
use crate::store::audit::AuditRecord;

crate::methods! {
    "device.pair.setupCode",   Never, need::ADMIN, need::ADMIN, Flow code;
    "device.pair.setupStatus", Never, need::ADMIN, need::ADMIN, Loop status;
}

crate::words! {
    /// What the device is to get; without a word, all that its address allows.
    pub enum Wanted {
        /// A phone that talks.
        Limited = "limited",
        /// A machine that runs commands.
        Node = "node",
        /// An embedded machine that listens and speaks.
        VoiceNode = "voice-node",
    }
}

crate::params! {
    /// Where the device finds the gateway, and what it gets.
    pub struct CodeParams {
        public_url: Option<NonEmpty> = "publicUrl",
        prefer_remote_url: Option<bool> = "preferRemoteUrl",
        include_qr: Option<bool> = "includeQr",
        bootstrap_profile: Option<Wanted> = "bootstrapProfile",
        join_url: Option<bool> = "joinUrl",
    }
}

/// How a picture is written into an answer.
const QR_PREFIX: &str = "data:image/png;base64,";
/// Largest picture of a code, in bytes: with its prefix and in base64 it is what the contract takes, 16384 characters.
pub const QR_BYTES_MAX: usize = (16_384 - QR_PREFIX.len()) / 4 * 3;

/// Makes a code. It works once it is on disk, and is answered then.
fn code(gateway: &mut Gateway, call: &Call, params: CodeParams) -> Result<(), RpcError> {
    let with_link = params.join_url == Some(true);
    if with_link && params.bootstrap_profile.as_ref().is_some_and(|wanted| !matches!(wanted, Wanted::Node)) {
        return Err(RpcError::invalid("Join URLs require bootstrapProfile=node."));
    }
    let id = random::uuid();
    // The key stays here: what is made of it goes along.
    let (token, link) = (gateway.token_key.setup_token(&id), gateway.token_key.setup_link(&id));
    let (snapshot, call) = (gateway.snapshot(), call.clone());
    let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
    let work = Work::Store(Box::new(move |db| {
        let auth = auth(&snapshot)?;
        let (address, source) = address(&snapshot, &params)?;
        let wanted = match params.bootstrap_profile {
            Some(Wanted::Limited) => Access::Limited,
            Some(Wanted::VoiceNode) => Access::VoiceNode,
            Some(Wanted::Node) => Access::Node,
            None if with_link => Access::Node,
            None => Access::Full,
        };
        let is_less = wanted == Access::Full && !address.is_private();
        let setup = SetupCode {
            id,
            access: if is_less { Access::Limited } else { wanted },
            url: address.to_string(),
            issued_ms: call.now_ms,
            has_link: with_link,
            bound: None,
            outcome: None,
        };
        let setup_code = URL_SAFE_NO_PAD.encode(setup.payload(&token).to_string());
        let mut answer = json!({
            "setupId": setup.id,
            "expiresAtMs": setup.expires_ms(),
            "setupCode": setup_code,
            "gatewayUrl": setup.url,
            "auth": auth,
            "urlSource": source,
            "access": setup.access.as_str(),
        });
        if is_less {
            answer["accessDowngraded"] = json!(true);
        }
        if params.include_qr != Some(false)
            && let Some(png) = Code::of(setup_code.as_bytes()).and_then(|code| code.png(QR_BYTES_MAX))
        {
            answer["qrDataUrl"] = json!(format!("{QR_PREFIX}{}", STANDARD.encode(png)));
        }
        if with_link {
            answer["joinUrl"] = json!(address.link(&link)?);
        }
        setups::write(db, &setup, call.now_ms)?;
        db.audit_append(&AuditRecord {
            at_ms: call.now_ms,
            actor: call.caller.actor(),
            address: Some(call.caller.address.to_string()),
            action: call.method.to_owned(),
            resource: setup.id.clone(),
            outcome: "ok".to_owned(),
            request_id: Some(call.id.clone()),
            detail: Some(json!({ "access": setup.access.as_str(), "url": setup.url }).to_string()),
        })?;
        Ok(Done { answer: Some(Json::of(&answer)?), facts: vec![Fact::SetupIssued(Box::new(setup))] })
    }));
    gateway.effects.push_back(Effect::Start(Job { origin, work }));
    Ok(())
}

crate::params! {
    /// Which code.
    pub struct StatusParams {
        setup_id: Text<1, 128> = "setupId",
    }
}

/// What came of a code; nothing while it waits, when it expired, and when there is none.
fn status(gateway: &mut Gateway, call: &Call, params: StatusParams) -> Result<Value, RpcError> {
    let told = gateway.setups.get(&params.setup_id.0, call.now_ms).and_then(SetupCode::told);
    Ok(match told {
        Some((true, told)) => json!({ "completion": told }),
        Some((false, told)) => json!({ "deliveryUncertain": told }),
        None => json!({}),
    })
}

/// What devices that have no code prove themselves with.
fn auth(snapshot: &Snapshot) -> Result<&'static str, RpcError> {
    match snapshot.config.settings.gateway.auth.mode {
        AuthMode::Token => Ok("token"),
        AuthMode::Password => Ok("password"),
        mode => Err(RpcError::invalid(format!(
            "Pairing setup requires gateway.auth.mode \"token\" or \"password\"; current mode is \"{}\".",
            mode.as_str()
        ))),
    }
}

/// Where a device finds the gateway, and who says so.
fn address(snapshot: &Snapshot, params: &CodeParams) -> Result<(Address, String), RpcError> {
    let document = &snapshot.config.document.config;
    let text =
        |pointer: &str| document.pointer(pointer).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
    let prefers_remote = params.prefer_remote_url == Some(true);
    let public = "/plugins/entries/device-pair/config/publicUrl";
    let (found, source) = if let Some(url) = &params.public_url {
        (
            Address::parse(&url.0).ok_or_else(|| RpcError::invalid("Configured publicUrl is invalid."))?,
            "request.publicUrl",
        )
    } else if let Some(url) = text(public).filter(|_| !prefers_remote) {
        let found = Address::parse(url).ok_or_else(|| RpcError::invalid("Configured publicUrl is invalid."))?;
        (found, "plugins.entries.device-pair.config.publicUrl")
    } else if let Some(url) = text("/gateway/remote/url") {
        let found =
            Address::parse(url).ok_or_else(|| RpcError::invalid("Configured gateway.remote.url is invalid."))?;
        (found, "gateway.remote.url")
    } else {
        let listen = &snapshot.config.settings.gateway.listen;
        let outward = listen.addresses.iter().map(SocketAddr::ip).find(|ip| !ip.is_loopback());
        let host = match outward {
            Some(ip) if ip.is_unspecified() => host::network_address(),
            found => found,
        };
        let host = host.ok_or_else(|| {
            RpcError::invalid("Gateway is only bound to loopback. Set gateway.bind=lan, or give publicUrl.")
        })?;
        let host = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
        let found = Address { is_tls: false, host, port: Some(snapshot.port), path: String::new() };
        return found.checked(&format!("gateway.bind={}", listen.mode.as_str()));
    };
    found.checked(source)
}

/// The address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    is_tls: bool,
    /// As it stands in an address: IPv6 in brackets.
    host: String,
    port: Option<u16>,
    path: String,
}

impl Address {
    /// Reads `wss://host:port/path`, `https://…` for the same, or a host alone. Names and passwords in it are refused.
    fn parse(text: &str) -> Option<Address> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("ws", text));
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "wss" | "https" => true,
            "ws" | "http" => false,
            _ => return None,
        };
        let rest = rest.split(['?', '#']).next()?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return None;
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(literal) => {
                let (address, rest) = literal.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (format!("[{address}]"), rest.strip_prefix(':').or(rest.is_empty().then_some("")))
            }
            None => {
                let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
                (host.to_ascii_lowercase(), Some(port))
            }
        };
        let port = match port? {
            "" => None,
            digits => Some(digits.parse::<u16>().ok().filter(|port| *port > 0)?),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let is_host = host.starts_with('[') || !host.is_empty() && host.chars().all(is_name);
        let is_path = path.chars().all(|c| c.is_ascii_graphic());
        let path = path.trim_end_matches('/').to_owned();
        (is_host && is_path).then_some(Address { is_tls, host, port, path })
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.trim_matches(['[', ']']).parse().ok()
    }

    fn is_this_machine(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// Whether nobody on the way can read what passes.
    fn is_private(&self) -> bool {
        self.is_tls || self.is_this_machine()
    }

    fn is_own_network(&self) -> bool {
        self.host.ends_with(".local")
            || self.ip().is_some_and(|ip| match ip {
                IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unique_local(),
            })
    }

    /// With who named it, unless it leads through other people's networks in the clear.
    fn checked(self, source: &str) -> Result<(Address, String), RpcError> {
        if self.is_private() || self.is_own_network() {
            return Ok((self, source.to_owned()));
        }
        Err(RpcError::invalid(format!(
            "A setup code for {self} ({source}) would travel in the clear: give a wss:// address, or one of the own network."
        )))
    }

    /// The link to a code here.
    fn link(&self, code: &str) -> Result<String, RpcError> {
        if !self.is_private() {
            return Err(RpcError::invalid(
                "Join URLs require a TLS gateway endpoint, except for loopback. Use the setup code directly.",
            ));
        }
        let scheme = if self.is_tls { "https" } else { "http" };
        Ok(format!("{scheme}://{}{}{}/j/{code}", self.host, self.port_text(), self.path))
    }

    fn port_text(&self) -> String {
        let usual = if self.is_tls { 443 } else { 80 };
        self.port.filter(|port| *port != usual).map(|port| format!(":{port}")).unwrap_or_default()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}{}", self.host, self.port_text(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_the_ways_people_write_it() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(Address::parse(text).map(|address| address.to_string()).as_deref(), expected, "{text}");
        };
        check("wss://Gate.example:8443/base/", Some("wss://gate.example:8443/base"));
        check("https://gate.example:443", Some("wss://gate.example"));
        check("http://127.0.0.1:18789", Some("ws://127.0.0.1:18789"));
        check("gate.local", Some("ws://gate.local"));
        check("192.168.1.4:18789", Some("ws://192.168.1.4:18789"));
        check("ws://[fd00::1]:1", Some("ws://[fd00::1]:1"));
        for bad in [
            "",
            "ftp://x",
            "wss://",
            "wss://a b",
            "wss://user:pass@x",
            "wss://x:0",
            "wss://x:99999",
            "wss://[x]",
            "ws://\u{7f}",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn a_code_does_not_travel_in_the_clear_beyond_the_own_network() {
        let check = |text: &str, is_taken: bool, is_full: bool| {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.is_private(), address.clone().checked("x").is_ok()), (is_full, is_taken), "{text}");
        };
        check("wss://gate.example", true, true);
        check("ws://localhost:1", true, true);
        check("ws://127.0.0.1", true, true);
        check("ws://192.168.1.4", true, false);
        check("ws://gate.local", true, false);
        check("ws://[fe80::1]", true, false);
        check("ws://100.64.0.1", false, false);
        check("ws://gate.example", false, false);
    }

    #[test]
    fn a_link_leads_to_the_same_place() {
        let link = |text: &str| Address::parse(text).unwrap().link("C").ok();
        assert_eq!(link("wss://gate.example/base").as_deref(), Some("https://gate.example/base/j/C"));
        assert_eq!(link("ws://127.0.0.1:7").as_deref(), Some("http://127.0.0.1:7/j/C"));
        assert_eq!(link("ws://192.168.1.4"), None);
    }
}
