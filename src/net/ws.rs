//! The reading half of a WebSocket (RFC 6455, server side), as a machine: bytes in, messages out, no socket.
//!
//! Frame headers are read by tungstenite; messages are put together here, for three things its own context cannot do:
//! a message that lies whole in the read buffer is unmasked where it lies and never copied, an idle connection holds no
//! buffer at all, and how much of an unfinished message is held is known and given back. A test drives both
//! implementations with the same bytes and compares.
//!
//! Binary messages are text to this protocol. No extension is negotiated, so reserved bits are refused.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::http1::grow;
use crate::protocol::close;

/// Longest frame header: two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// The code that stands for a close frame without one (RFC 6455, 7.4.1); never sent.
pub const NO_CODE: u16 = 1005;
/// The code that stands for an end without a close frame; never sent.
pub const ABNORMAL: u16 = 1006;

/// Something complete arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A message, text or binary; borrowed when it lay whole in the input.
    Message(Cow<'a, str>),
    /// A ping whose payload is to be sent back.
    Ping(Vec<u8>),
    /// The answer to a ping of ours, or one nobody asked for.
    Pong,
    /// The peer closes; [`NO_CODE`] when it gave no code. Nothing that follows is read.
    Close {
        /// Its code.
        code: u16,
        /// Its reason.
        reason: String,
    },
}

/// The peer broke a rule; the connection is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message over the limit.
    #[error("message too large bytes={bytes} max={bytes_max}")]
    TooLarge {
        /// Announced so far.
        bytes: u64,
        /// The limit.
        bytes_max: usize,
    },
    /// A message or close reason that is not UTF-8.
    #[error("message is not utf-8")]
    NotUtf8,
    /// Anything else.
    #[error("websocket protocol error: {0}")]
    Protocol(&'static str),
}

impl Violation {
    /// The code to close with.
    pub fn close_code(&self) -> u16 {
        match self {
            Violation::TooLarge { .. } => close::TOO_LARGE,
            Violation::NotUtf8 => close::NOT_UTF8,
            Violation::Protocol(_) => close::PROTOCOL,
        }
    }
}

/// Puts messages together.
#[derive(Debug)]
pub struct Reader {
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    frame: Option<Arriving>,
    /// Unmasked payload of the message that is not complete.
    message: Vec<u8>,
    /// A first fragment arrived and the last one did not.
    in_fragments: bool,
    /// Unmasked payload of the control frame that is not complete.
    control: Vec<u8>,
    message_bytes_max: usize,
    /// Throws everything away.
    is_deaf: bool,
}

/// A frame whose payload is arriving.
#[derive(Debug, Clone, Copy)]
struct Arriving {
    kind: Kind,
    is_final: bool,
    mask: [u8; 4],
    missing_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

impl Reader {
    /// A reader that refuses messages over `message_bytes_max`.
    pub fn new(message_bytes_max: usize) -> Reader {
        Reader {
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            message: Vec::new(),
            in_fragments: false,
            control: Vec::new(),
            message_bytes_max,
            is_deaf: false,
        }
    }

    /// A reader that throws everything away: for after a violation, when nothing can be understood any more.
    pub fn deaf() -> Reader {
        Reader { is_deaf: true, ..Reader::new(0) }
    }

    /// Changes the limit for what has not arrived yet.
    pub fn set_message_bytes_max(&mut self, bytes: usize) {
        self.message_bytes_max = bytes;
    }

    /// Whether something has begun and is not complete.
    pub fn is_partial(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.in_fragments
    }

    /// Bytes held of what is not complete.
    pub fn partial_bytes(&self) -> usize {
        self.message.capacity() + self.control.capacity()
    }

    /// Reads from the front of `input` up to the end of the next complete thing, which it unmasks in place. `None`
    /// when the input is used up before that.
    ///
    /// # Errors
    /// [`Violation`]; nothing after it can be read.
    pub fn read<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Incoming<'a>>, Violation> {
        if self.is_deaf {
            *input = &mut [];
            return Ok(None);
        }
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.read_header(input)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            if frame.kind == Kind::Data
                && frame.is_final
                && !self.in_fragments
                && self.message.is_empty()
                && input.len() >= frame.missing_bytes
            {
                self.frame = None;
                let payload = take_front(input, frame.missing_bytes);
                unmask(payload, frame.mask);
                return text(payload).map(|text| Some(Incoming::Message(Cow::Borrowed(text))));
            }
            if !self.read_payload(frame, input) {
                return Ok(None);
            }
            self.frame = None;
            if let Some(incoming) = self.complete(frame)? {
                return Ok(Some(incoming));
            }
        }
    }

    /// Reads a header, from what was kept of it and from the input.
    fn read_header(&mut self, input: &mut &mut [u8]) -> Result<Option<Arriving>, Violation> {
        let kept = usize::from(self.header_len);
        let n = input.len().min(HEADER_BYTES_MAX - kept);
        self.header[kept..kept + n].copy_from_slice(&input[..n]);
        let mut cursor = Cursor::new(&self.header[..kept + n]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Protocol("invalid opcode"))?;
        let Some((header, payload_bytes)) = parsed else {
            // A header that is not complete in 14 bytes does not exist, so the input is used up.
            take_front(input, n);
            self.header_len = (kept + n) as u8;
            return Ok(None);
        };
        // What was kept was not a whole header, so this one ends within the input.
        let used = cursor.position() as usize - kept;
        take_front(input, used);
        self.header_len = 0;
        let frame = self.admit(&header, payload_bytes)?;
        self.frame = Some(frame);
        Ok(Some(frame))
    }

    /// Checks a header against the rules and what came before.
    fn admit(&self, header: &FrameHeader, payload_bytes: u64) -> Result<Arriving, Violation> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::Protocol("reserved bits are set"));
        }
        let Some(mask) = header.mask else { return Err(Violation::Protocol("frame is not masked")) };
        let kind = match header.opcode {
            OpCode::Data(Data::Continue) if !self.in_fragments => {
                return Err(Violation::Protocol("continuation of nothing"));
            }
            OpCode::Data(Data::Text | Data::Binary) if self.in_fragments => {
                return Err(Violation::Protocol("new message inside another"));
            }
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
                return Err(Violation::Protocol("invalid opcode"));
            }
            OpCode::Data(_) => Kind::Data,
            OpCode::Control(Control::Ping) => Kind::Ping,
            OpCode::Control(Control::Pong) => Kind::Pong,
            OpCode::Control(Control::Close) => Kind::Close,
        };
        if kind == Kind::Data {
            let bytes = payload_bytes.saturating_add(self.message.len() as u64);
            if bytes > self.message_bytes_max as u64 {
                return Err(Violation::TooLarge { bytes, bytes_max: self.message_bytes_max });
            }
        } else if payload_bytes > CONTROL_BYTES_MAX as u64 {
            return Err(Violation::Protocol("control frame too large"));
        } else if !header.is_final {
            return Err(Violation::Protocol("control frame in fragments"));
        }
        // Fits: it is at most the message limit or 125.
        Ok(Arriving { kind, is_final: header.is_final, mask, missing_bytes: payload_bytes as usize })
    }

    /// Moves payload out of the input; says whether the frame is complete.
    fn read_payload(&mut self, frame: Arriving, input: &mut &mut [u8]) -> bool {
        let n = input.len().min(frame.missing_bytes);
        let buffer = if frame.kind == Kind::Data { &mut self.message } else { &mut self.control };
        let payload = take_front(input, n);
        unmask(payload, frame.mask);
        grow(buffer, n, frame.missing_bytes);
        buffer.extend_from_slice(payload);
        let mut mask = frame.mask;
        mask.rotate_left(n % 4);
        self.frame = Some(Arriving { missing_bytes: frame.missing_bytes - n, mask, ..frame });
        n == frame.missing_bytes
    }

    fn complete<'a>(&mut self, frame: Arriving) -> Result<Option<Incoming<'a>>, Violation> {
        match frame.kind {
            Kind::Data if !frame.is_final => {
                self.in_fragments = true;
                Ok(None)
            }
            Kind::Data => {
                self.in_fragments = false;
                let message = String::from_utf8(std::mem::take(&mut self.message)).map_err(|_| Violation::NotUtf8)?;
                Ok(Some(Incoming::Message(Cow::Owned(message))))
            }
            Kind::Ping => Ok(Some(Incoming::Ping(std::mem::take(&mut self.control)))),
            Kind::Pong => {
                self.control = Vec::new();
                Ok(Some(Incoming::Pong))
            }
            Kind::Close => close_frame(&std::mem::take(&mut self.control)).map(Some),
        }
    }
}

/// Reads a close frame's payload (RFC 6455, 5.5.1 and 7.4).
fn close_frame<'a>(payload: &[u8]) -> Result<Incoming<'a>, Violation> {
    match payload {
        [] => Ok(Incoming::Close { code: NO_CODE, reason: String::new() }),
        [_] => Err(Violation::Protocol("close code is cut")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !CloseCode::from(code).is_allowed() {
                return Err(Violation::Protocol("invalid close code"));
            }
            Ok(Incoming::Close { code, reason: text(reason)?.to_owned() })
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(bytes).map_err(|_| Violation::NotUtf8)
}

/// Splits `n` bytes off the front.
fn take_front<'a>(input: &mut &'a mut [u8], n: usize) -> &'a mut [u8] {
    let (front, rest) = std::mem::take(input).split_at_mut(n);
    *input = rest;
    front
}

/// Applies a mask that begins with the first byte (RFC 6455, 5.3); eight bytes at a time, which the compiler widens.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        let masked = u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
        word.copy_from_slice(&(masked ^ wide).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// The longest header of a frame of ours: no mask.
pub const OUT_HEADER_BYTES_MAX: usize = 10;

/// The header of a text frame of ours with a payload of `payload_bytes`; the second part of the pair is its length.
pub fn text_header(payload_bytes: usize) -> ([u8; OUT_HEADER_BYTES_MAX], u8) {
    const FINAL_TEXT: u8 = 0x81;
    let mut out = [0; OUT_HEADER_BYTES_MAX];
    out[0] = FINAL_TEXT;
    let len = match payload_bytes {
        0..=125 => {
            out[1] = payload_bytes as u8;
            2
        }
        126..=0xffff => {
            out[1] = 126;
            out[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        }
    };
    (out, len)
}

/// A ping of ours. Its payload is empty: with one ping in flight at a time there is nothing to tell apart.
pub fn ping() -> Vec<u8> {
    control(0x89, &[])
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    control(0x8a, payload)
}

/// A close frame; [`NO_CODE`] writes one without code or reason.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    if code == NO_CODE {
        return control(0x88, &[]);
    }
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(close::reason(reason).as_bytes());
    control(0x88, &payload)
}

fn control(first: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    let mut out = Vec::with_capacity(2 + payload.len());
    out.extend_from_slice(&[first, payload.len() as u8]);
    out.extend_from_slice(payload);
    out
}
