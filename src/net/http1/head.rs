//! A request's head: what it asks for, how its body is delimited, whether it wants a WebSocket.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tungstenite::handshake::derive_accept_key;

use super::{AcceptKey, HEADERS_MAX, Refusal};
use crate::gateway::http::header;

pub(super) const MALFORMED: Refusal = Refusal::new(400, "malformed request");
pub(super) const TOO_LARGE: Refusal = Refusal::new(431, "request head too large");

/// A request without its body.
#[derive(Debug)]
pub(super) struct Head {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub framing: Framing,
    pub keep_alive: bool,
    pub expects_continue: bool,
    minor: u8,
}

/// How the body is delimited (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Sized(u64),
    Chunked,
}

impl Head {
    pub(super) fn path(&self) -> &str {
        self.target.split(['?', '#']).next().unwrap_or("/")
    }

    /// Whether its sender reads a body in chunks.
    pub(super) fn knows_chunks(&self) -> bool {
        self.minor > 0
    }

    /// The accept value when this asks for a WebSocket (RFC 6455, 4.2.1).
    pub(super) fn websocket_accept(&self) -> Result<Option<AcceptKey>, Refusal> {
        if !has_token(&self.headers, "connection", "upgrade") || !has_token(&self.headers, "upgrade", "websocket") {
            return Ok(None);
        }
        if self.method != "GET" || self.minor == 0 || self.framing != Framing::None {
            return Err(Refusal::new(400, "malformed websocket upgrade"));
        }
        if header(&self.headers, "sec-websocket-version") != Some("13") {
            return Err(Refusal::new(426, "unsupported websocket version"));
        }
        let key = header(&self.headers, "sec-websocket-key").unwrap_or("");
        if STANDARD.decode(key).map(|nonce| nonce.len()) != Ok(16) {
            return Err(Refusal::new(400, "malformed websocket key"));
        }
        Ok(Some(AcceptKey(derive_accept_key(key.as_bytes()))))
    }
}

/// Whether a header (lower case) tells of a proxy in front of the peer.
pub fn is_proxy_header(name: &str) -> bool {
    name == "forwarded" || name == "x-real-ip" || name.starts_with("x-forwarded-")
}

/// Reads a complete head, its empty line included.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut slots);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(MALFORMED),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(httparse::Error::Version) => return Err(Refusal::new(505, "http version not supported")),
        Err(_) => return Err(MALFORMED),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(MALFORMED);
    };
    check_framing_headers(request.headers, minor)?;
    let headers: Vec<(String, String)> = request
        .headers
        .iter()
        .filter_map(|h| Some((h.name.to_ascii_lowercase(), std::str::from_utf8(h.value).ok()?.trim().to_owned())))
        .collect();
    let expects_continue = match header(&headers, "expect") {
        None => false,
        Some(value) if value.eq_ignore_ascii_case("100-continue") => minor > 0,
        Some(_) => return Err(Refusal::new(417, "expectation failed")),
    };
    let keep_alive = match minor {
        0 => has_token(&headers, "connection", "keep-alive"),
        _ => !has_token(&headers, "connection", "close"),
    };
    let framing = framing(&headers, minor)?;
    Ok(Head {
        method: method.to_owned(),
        target: origin_form(target)?,
        headers,
        framing,
        keep_alive,
        expects_continue,
        minor,
    })
}

/// Checks, before anything is left out for not being text, what decides where a request ends and whom it is for.
fn check_framing_headers(headers: &[httparse::Header<'_>], minor: u8) -> Result<(), Refusal> {
    let count = |name: &str| headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).count();
    let framing = |h: &&httparse::Header<'_>| {
        h.name.eq_ignore_ascii_case("content-length") || h.name.eq_ignore_ascii_case("transfer-encoding")
    };
    if headers.iter().any(|h| h.name.is_empty()) || headers.iter().filter(framing).any(|h| !h.value.is_ascii()) {
        return Err(MALFORMED);
    }
    if count("content-length") > 1 || count("transfer-encoding") > 1 {
        return Err(Refusal::new(400, "conflicting lengths"));
    }
    match (count("host"), minor) {
        (1, _) | (0, 0) => Ok(()),
        _ => Err(Refusal::new(400, "exactly one host header is required")),
    }
}

fn framing(headers: &[(String, String)], minor: u8) -> Result<Framing, Refusal> {
    match (header(headers, "content-length"), header(headers, "transfer-encoding")) {
        (None, None) => Ok(Framing::None),
        (Some(_), Some(_)) => Err(Refusal::new(400, "conflicting lengths")),
        (Some(length), None) => {
            // `parse` alone would take a sign.
            let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
            match length.parse() {
                Ok(0) if digits => Ok(Framing::None),
                Ok(bytes) if digits => Ok(Framing::Sized(bytes)),
                // More digits than fit are a length over every limit, not a malformed one.
                Err(_) if digits => Ok(Framing::Sized(u64::MAX)),
                _ => Err(Refusal::new(400, "malformed content-length")),
            }
        }
        (None, Some(coding)) if minor > 0 && coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => Err(Refusal::new(501, "transfer coding not supported")),
    }
}

/// `/path?query` of a target; a proxy's `http://host/path` loses its front (RFC 9112, 3.2.2 asks to accept it).
fn origin_form(target: &str) -> Result<String, Refusal> {
    if target.starts_with('/') || target == "*" {
        return Ok(target.to_owned());
    }
    let front = target.get(..7).filter(|f| f.eq_ignore_ascii_case("http://")).map(|_| 7);
    let front = front.or_else(|| target.get(..8).filter(|f| f.eq_ignore_ascii_case("https://")).map(|_| 8));
    let rest = &target[front.ok_or(MALFORMED)?..];
    match rest.find(['/', '?']) {
        Some(at) if rest[at..].starts_with('/') => Ok(rest[at..].to_owned()),
        Some(at) => Ok(format!("/{}", &rest[at..])),
        None => Ok(String::from("/")),
    }
}

/// Whether any header `name` has `token` in its comma-separated list, in any case.
fn has_token(headers: &[(String, String)], name: &str, token: &str) -> bool {
    let values = headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}
