//! The chunked transfer coding (RFC 9112, 7.1), read incrementally.

use super::{BODY_TOO_LARGE, Refusal};

/// Longest line of a chunk's size, extensions included, in bytes.
const LINE_BYTES_MAX: usize = 256;
/// Most bytes of trailers; they are read and thrown away.
const TRAILER_BYTES_MAX: usize = 4 * 1024;
/// Most hexadecimal digits of a size: sixteen fill a `u64`.
const SIZE_DIGITS_MAX: usize = 16;

const MALFORMED: Refusal = Refusal { status: 400, reason: "malformed chunk" };

/// Where in the coding the next byte stands.
#[derive(Debug, Default)]
pub(super) enum Chunks {
    /// A size line.
    #[default]
    Size,
    /// Data, with this many bytes of it missing; at least one.
    Data { missing_bytes: usize },
    /// The line end after data.
    DataEnd,
    /// Trailers, of which this many bytes were seen, up to the empty line.
    Trailers { seen_bytes: usize },
}

impl Chunks {
    /// Reads as much of `input` as is there, adding data to `body` up to `bytes_max`. Returns how many bytes of
    /// `input` are done with, and whether the body is complete.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        body: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(usize, bool), Refusal> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self {
                Chunks::Size => {
                    let Some(line) = line(rest, LINE_BYTES_MAX)? else { return Ok((used, false)) };
                    used += line.len() + 2;
                    let size = size(line)?;
                    *self = match usize::try_from(size) {
                        Ok(0) => Chunks::Trailers { seen_bytes: 0 },
                        Ok(size) if size <= bytes_max - body.len() => Chunks::Data { missing_bytes: size },
                        _ => return Err(BODY_TOO_LARGE),
                    };
                }
                Chunks::Data { missing_bytes } => {
                    if rest.is_empty() {
                        return Ok((used, false));
                    }
                    let n = rest.len().min(*missing_bytes);
                    body.extend_from_slice(&rest[..n]);
                    used += n;
                    *missing_bytes -= n;
                    if *missing_bytes == 0 {
                        *self = Chunks::DataEnd;
                    }
                }
                Chunks::DataEnd => match rest {
                    [] | [b'\r'] => return Ok((used, false)),
                    [b'\r', b'\n', ..] => {
                        used += 2;
                        *self = Chunks::Size;
                    }
                    _ => return Err(MALFORMED),
                },
                Chunks::Trailers { seen_bytes } => {
                    let Some(line) = line(rest, TRAILER_BYTES_MAX - *seen_bytes)? else { return Ok((used, false)) };
                    used += line.len() + 2;
                    if line.is_empty() {
                        return Ok((used, true));
                    }
                    *seen_bytes += line.len() + 2;
                    if *seen_bytes >= TRAILER_BYTES_MAX {
                        return Err(MALFORMED);
                    }
                }
            }
        }
    }
}

/// The first line of `input` without its line end, when it is there. Only CRLF ends a line here: a reader that takes
/// a bare LF and one that does not would disagree about where the body ends.
fn line(input: &[u8], bytes_max: usize) -> Result<Option<&[u8]>, Refusal> {
    let window = &input[..input.len().min(bytes_max)];
    match window.iter().position(|b| *b == b'\n') {
        Some(at) if at > 0 && window[at - 1] == b'\r' => Ok(Some(&window[..at - 1])),
        Some(_) => Err(MALFORMED),
        None if window.len() == bytes_max => Err(MALFORMED),
        None => Ok(None),
    }
}

/// The size a line begins with; what follows a semicolon says nothing to us.
fn size(line: &[u8]) -> Result<u64, Refusal> {
    let text = line.split(|b| *b == b';').next().unwrap_or(line).trim_ascii_end();
    if text.is_empty() || text.len() > SIZE_DIGITS_MAX || !text.iter().all(u8::is_ascii_hexdigit) {
        return Err(MALFORMED);
    }
    let digits = std::str::from_utf8(text).map_err(|_| MALFORMED)?;
    u64::from_str_radix(digits, 16).map_err(|_| MALFORMED)
}
