//! WebSocket close codes and reasons as upstream uses them.

/// Longest close reason in bytes: WebSocket allows 123, upstream cuts at 120.
pub const REASON_BYTES_MAX: usize = 120;

/// Normal: handshake timeout, or bytes before the handshake that are not JSON.
pub const NORMAL: u16 = 1000;
/// No protocol in common.
pub const PROTOCOL: u16 = 1002;
/// Bytes that are not UTF-8 in a text frame (RFC 6455, 7.4.1).
pub const NOT_UTF8: u16 = 1007;
/// A refused connect, a slow consumer, repeated unauthorised calls.
pub const POLICY: u16 = 1008;
/// A frame over its limit.
pub const TOO_LARGE: u16 = 1009;
/// The gateway goes away and comes back.
pub const SERVICE_RESTART: u16 = 1012;
/// The gateway is starting.
pub const TRY_LATER: u16 = 1013;
/// The authority of the connection is gone: secrets changed, device removed.
pub const AUTHORITY_GONE: u16 = 4001;

/// `reason` cut to [`REASON_BYTES_MAX`] at a character boundary.
pub fn reason(text: &str) -> &str {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    #[test]
    fn cuts_at_a_character_boundary() {
        let long = "é".repeat(80);
        let cut = super::reason(&long);
        assert_eq!(cut.len(), 120);
        let odd = format!("x{long}");
        assert_eq!(super::reason(&odd).len(), 119);
        assert_eq!(super::reason("short"), "short");
    }
}
