//! Writing answers.

use jiff::tz::TimeZone;

use super::AcceptKey;
use crate::gateway::http::HttpResponse;
use crate::runtime::clock::Shown;

/// Leave to send a body (RFC 9110, 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Whether the body goes out with its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyPart {
    /// As it is.
    Written,
    /// Announced and left out: the answer to `HEAD`.
    Omitted,
}

/// Headers the shell writes itself; an answer's own are left out.
const OURS: [&str; 4] = ["content-length", "connection", "date", "transfer-encoding"];

/// An answer as bytes.
pub fn encode(response: &HttpResponse, body: BodyPart, keep_alive: bool, wall_ms: i64) -> Vec<u8> {
    let bodiless = matches!(response.status, 100..=199 | 204 | 304);
    let mut out = Vec::with_capacity(256 + response.body.len());
    let length = format!("Content-Length: {}\r\n", response.body.len());
    head(&mut out, response, if bodiless { "" } else { &length }, keep_alive, wall_ms);
    if !bodiless && body == BodyPart::Written {
        out.extend_from_slice(&response.body);
    }
    out
}

/// The head of an answer whose body comes in pieces: in chunks, or up to the connection's end where the peer knows no
/// chunks (HTTP/1.0).
pub fn begin(response: &HttpResponse, chunked: bool, keep_alive: bool, wall_ms: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let framing = if chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
    head(&mut out, response, framing, keep_alive, wall_ms);
    out
}

/// A chunk (RFC 9112, 7.1). An empty one would be the end, so it is none.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut out = format!("{:x}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    out
}

/// The end of a body in chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Status line and headers, the empty line included.
fn head(out: &mut Vec<u8>, response: &HttpResponse, framing: &str, keep_alive: bool, wall_ms: i64) {
    out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status)).as_bytes());
    for (name, value) in &response.headers {
        let ours = OURS.iter().any(|own| name.eq_ignore_ascii_case(own));
        if !ours && is_name(name) && is_value(value) {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
    }
    out.extend_from_slice(framing.as_bytes());
    let connection = if keep_alive { "keep-alive" } else { "close" };
    out.extend_from_slice(format!("Connection: {connection}\r\nDate: {}\r\n\r\n", http_date(wall_ms)).as_bytes());
}

/// The answer to an upgrade. No subprotocol and no extension is ever negotiated.
pub fn switching_protocols(accept: &AcceptKey) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        accept.0
    )
    .into_bytes()
}

/// A name or value that would end its line early is never written: it could carry a second answer.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn is_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f))
}

fn http_date(wall_ms: i64) -> String {
    let shown = Shown::of(wall_ms, &TimeZone::UTC).or_else(|| Shown::of(0, &TimeZone::UTC));
    shown.map_or_else(String::new, |shown| shown.http())
}

/// The phrase that goes with a status (RFC 9110, 15); nobody reads it, the grammar wants it.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)], body: &str) -> HttpResponse {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        HttpResponse { status, headers, body: body.into() }
    }

    #[track_caller]
    fn check(response: &HttpResponse, body: BodyPart, keep_alive: bool, expected: &str) {
        let text = String::from_utf8(encode(response, body, keep_alive, 784_111_777_000)).unwrap();
        assert_eq!(text, expected.replace('\n', "\r\n").replace("DATE", "Sun, 06 Nov 1994 08:49:37 GMT"));
    }

    #[test]
    fn writes_what_the_grammar_wants() {
        check(
            &response(200, &[("Content-Type", "text/plain")], "hi"),
            BodyPart::Written,
            true,
            "HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 2\nConnection: keep-alive\nDate: DATE\n\nhi",
        );
        check(
            &response(200, &[], "hi"),
            BodyPart::Omitted,
            false,
            "HTTP/1.1 200 OK\nContent-Length: 2\nConnection: close\nDate: DATE\n\n",
        );
        check(
            &response(204, &[], "never"),
            BodyPart::Written,
            true,
            "HTTP/1.1 204 No Content\nConnection: keep-alive\nDate: DATE\n\n",
        );
    }

    #[test]
    fn a_body_in_pieces_says_how_it_ends() {
        let head = |chunked, keep| String::from_utf8(begin(&response(200, &[], ""), chunked, keep, 784_111_777_000));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\nDate: ";
        assert!(head(true, true).unwrap().starts_with(chunked));
        let plain = "HTTP/1.1 200 OK\r\nConnection: close\r\nDate: ";
        assert!(head(false, false).unwrap().starts_with(plain));
        assert_eq!(chunk(&[b'x'; 17]), b"11\r\nxxxxxxxxxxxxxxxxx\r\n");
        assert_eq!(chunk(b""), b"", "the end comes once");
    }

    #[test]
    fn a_header_cannot_carry_a_second_answer() {
        let evil = [("X-A", "1\r\n\r\nHTTP/1.1 200 OK"), ("X B", "2"), ("Content-Length", "99"), ("X-C", "3")];
        check(
            &response(200, &evil, ""),
            BodyPart::Written,
            true,
            "HTTP/1.1 200 OK\nX-C: 3\nContent-Length: 0\nConnection: keep-alive\nDate: DATE\n\n",
        );
    }
}
