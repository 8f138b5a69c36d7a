use std::io::{self, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use super::*;

const MAX: usize = 1024;

/// A client's frame: first byte (final bit and opcode) and payload, masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = vec![first];
    match payload.len() {
        0..=125 => out.push(0x80 | payload.len() as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// What a reader makes of a stream: everything complete in words, then how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Story {
    heard: Vec<String>,
    violation: Option<u16>,
}

/// Feeds `bytes` in pieces of `piece` bytes.
fn read_in_pieces(bytes: &[u8], piece: usize, max: usize) -> Story {
    let mut reader = Reader::new(max);
    let mut story = Story::default();
    for chunk in bytes.chunks(piece) {
        let mut chunk = chunk.to_vec();
        let mut input = &mut chunk[..];
        loop {
            match reader.read(&mut input) {
                Ok(None) => break,
                Ok(Some(Incoming::Message(text))) => story.heard.push(format!("message {text}")),
                Ok(Some(Incoming::Ping(payload))) => story.heard.push(format!("ping {payload:?}")),
                Ok(Some(Incoming::Pong)) => story.heard.push("pong".to_owned()),
                Ok(Some(Incoming::Close { code, reason })) => {
                    story.heard.push(format!("close {code} {reason}"));
                    return story;
                }
                Err(violation) => {
                    story.violation = Some(violation.close_code());
                    return story;
                }
            }
        }
        assert!(input.is_empty(), "what is not complete is taken in");
        assert!(reader.partial_bytes() <= max + CONTROL_BYTES_MAX, "no more is held than may be");
    }
    if !reader.is_partial() {
        assert_eq!(reader.partial_bytes(), 0, "who is between messages holds nothing");
    }
    story
}

#[track_caller]
fn check(bytes: &[u8], heard: &[&str], violation: Option<u16>) {
    let expected = Story { heard: heard.iter().map(|text| (*text).to_owned()).collect(), violation };
    for piece in [1, 2, 3, 7, 64, usize::MAX] {
        assert_eq!(read_in_pieces(bytes, piece, MAX), expected, "in pieces of {piece}");
    }
}

#[test]
fn reads_messages_however_they_arrive() {
    let long = "x".repeat(700);
    let mut bytes = frame(0x81, b"hello");
    bytes.extend(frame(0x82, "bin\u{e4}r".as_bytes()));
    bytes.extend(frame(0x81, b""));
    bytes.extend(frame(0x81, long.as_bytes()));
    check(&bytes, &["message hello", "message bin\u{e4}r", "message ", &format!("message {long}")], None);
}

#[test]
fn puts_fragments_together_around_control_frames() {
    let text = "gr\u{fc}n".as_bytes();
    let mut bytes = frame(0x01, &text[..3]);
    bytes.extend(frame(0x89, b"are you there"));
    bytes.extend(frame(0x00, b""));
    bytes.extend(frame(0x8a, b""));
    bytes.extend(frame(0x80, &text[3..]));
    let ping = format!("ping {:?}", b"are you there");
    check(&bytes, &[&ping, "pong", "message gr\u{fc}n"], None);
}

#[test]
fn reads_a_close_and_nothing_after_it() {
    let mut bytes = frame(0x88, b"\x0f\xa8bye");
    bytes.extend(frame(0x81, b"too late"));
    check(&bytes, &["close 4008 bye"], None);
    check(&frame(0x88, b""), &["close 1005 "], None);
}

#[test]
fn a_message_at_the_limit_passes_and_one_over_it_does_not() {
    let at = "x".repeat(MAX);
    check(&frame(0x81, at.as_bytes()), &[&format!("message {at}")], None);
    check(&frame(0x81, &[b'x'; MAX + 1]), &[], Some(1009));
    let mut in_fragments = frame(0x01, &[b'x'; MAX]);
    in_fragments.extend(frame(0x00, b""));
    in_fragments.extend(frame(0x80, b"x"));
    check(&in_fragments, &[], Some(1009));
}

#[test]
fn an_announced_length_alone_takes_no_memory() {
    let mut reader = Reader::new(usize::MAX);
    let mut bytes = [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, b'x'];
    let mut input = &mut bytes[..];
    assert_eq!(reader.read(&mut input), Ok(None));
    assert!(reader.is_partial() && reader.partial_bytes() <= 16, "{}", reader.partial_bytes());
}

#[test]
fn an_announced_length_over_the_limit_is_refused_before_it_arrives() {
    check(&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], &[], Some(1009));
}

#[test]
fn refuses_what_the_rfc_forbids() {
    check(&[0x81, 0x01, b'x'], &[], Some(1002));
    check(&frame(0xc1, b"x"), &[], Some(1002));
    check(&frame(0x80, b"x"), &[], Some(1002));
    check(&frame(0x83, b"x"), &[], Some(1002));
    check(&frame(0x8b, b"x"), &[], Some(1002));
    check(&frame(0x09, b"x"), &[], Some(1002));
    check(&frame(0x89, &[0; CONTROL_BYTES_MAX + 1]), &[], Some(1002));
    check(&frame(0x89, &[1; CONTROL_BYTES_MAX]), &[&format!("ping {:?}", [1; CONTROL_BYTES_MAX])], None);
    check(&frame(0x88, b"\x03"), &[], Some(1002));
    check(&frame(0x88, b"\x03\xee"), &[], Some(1002));
    check(&frame(0x88, b"\x03\xe8\xff"), &[], Some(1007));
    let mut nested = frame(0x01, b"a");
    nested.extend(frame(0x81, b"b"));
    check(&nested, &[], Some(1002));
}

#[test]
fn text_that_is_not_utf8_is_refused_wherever_it_is_cut() {
    check(&frame(0x81, b"ab\xffcd"), &[], Some(1007));
    check(&frame(0x81, b"\xed\xa0\x80"), &[], Some(1007));
    check(&frame(0x82, b"\xc3"), &[], Some(1007));
    let mut halves = frame(0x01, b"\xc3");
    halves.extend(frame(0x80, b"\xb6"));
    check(&halves, &["message \u{f6}"], None);
}

#[test]
fn a_deaf_reader_hears_nothing() {
    let mut reader = Reader::deaf();
    let mut bytes = frame(0x81, b"hello");
    let mut input = &mut bytes[..];
    assert_eq!(reader.read(&mut input), Ok(None));
    assert!(input.is_empty() && !reader.is_partial());
}

#[test]
fn a_message_that_lies_whole_in_the_input_is_not_copied() {
    let mut bytes = frame(0x81, b"hello");
    let range = bytes.as_ptr_range();
    let mut input = &mut bytes[..];
    let Ok(Some(Incoming::Message(Cow::Borrowed(text)))) = Reader::new(MAX).read(&mut input) else { panic!("copied") };
    assert!(range.contains(&text.as_ptr()));
}

#[test]
fn unmasks_every_length_and_alignment() {
    let plain: Vec<u8> = (0..64).collect();
    for len in 0..plain.len() {
        let mask = [1, 2, 4, 8];
        let mut masked: Vec<u8> = plain[..len].iter().zip(mask.iter().cycle()).map(|(b, k)| b ^ k).collect();
        unmask(&mut masked, mask);
        assert_eq!(masked, plain[..len]);
    }
}

/// What we write, tungstenite reads as a client.
#[test]
fn our_frames_are_read_by_a_client() {
    for len in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
        let (header, header_len) = text_header(len);
        let mut bytes = header[..usize::from(header_len)].to_vec();
        bytes.extend(std::iter::repeat_n(b'x', len));
        bytes.extend(ping());
        bytes.extend(pong(b"p"));
        bytes.extend(close(1008, &"r".repeat(200)));
        let mut client = WebSocketContext::new(Role::Client, None);
        let mut wire = Wire { bytes: &bytes };
        assert_eq!(client.read(&mut wire).unwrap().len(), len);
        assert!(matches!(client.read(&mut wire).unwrap(), Message::Ping(payload) if payload.is_empty()));
        assert!(matches!(client.read(&mut wire).unwrap(), Message::Pong(payload) if &payload[..] == b"p"));
        let Message::Close(Some(frame)) = client.read(&mut wire).unwrap() else { panic!("no close") };
        assert_eq!((u16::from(frame.code), frame.reason.len()), (1008, crate::protocol::close::REASON_BYTES_MAX));
    }
    assert_eq!(close(NO_CODE, "dropped"), [0x88, 0]);
}

/// A stream to read from; what is written is thrown away.
struct Wire<'a> {
    bytes: &'a [u8],
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.bytes.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of the same stream. Binary messages must be UTF-8 with us, and are refused where they end.
fn read_by_tungstenite(bytes: &[u8]) -> Story {
    let config = WebSocketConfig::default().read_buffer_size(256).max_message_size(Some(MAX)).max_frame_size(None);
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let mut wire = Wire { bytes };
    let mut story = Story::default();
    loop {
        match context.read(&mut wire) {
            Ok(Message::Text(text)) => story.heard.push(format!("message {text}")),
            Ok(Message::Binary(bytes)) => match std::str::from_utf8(&bytes) {
                Ok(text) => story.heard.push(format!("message {text}")),
                Err(_) => story.violation = Some(1007),
            },
            Ok(Message::Ping(payload)) => story.heard.push(format!("ping {:?}", payload.to_vec())),
            Ok(Message::Pong(_)) => story.heard.push("pong".to_owned()),
            Ok(Message::Close(None)) => story.heard.push("close 1005 ".to_owned()),
            Ok(Message::Close(Some(frame))) => {
                // tungstenite rewrites a code that may not be sent; we refuse it.
                match (u16::from(frame.code), frame.reason.as_str()) {
                    (1002, "Protocol violation") => story.violation = Some(1002),
                    (code, reason) => story.heard.push(format!("close {code} {reason}")),
                }
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return story,
            Err(Error::Capacity(_)) => story.violation = Some(1009),
            Err(Error::Utf8(_)) => story.violation = Some(1007),
            Err(Error::Protocol(_)) => story.violation = Some(1002),
            Err(error) => panic!("{error}"),
        }
        if story.violation.is_some() || story.heard.last().is_some_and(|last| last.starts_with("close")) {
            return story;
        }
    }
}

fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80]),
        2 => prop::sample::select(vec![0x89u8, 0x8a]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => "[a-z\u{e4}\u{20ac}]{0,40}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (MAX - 2..MAX + 3).prop_map(|n| vec![b'x'; n]),
    ];
    (first, payload).prop_map(|(first, payload)| frame(first, &payload))
}

proptest! {
    #[test]
    fn agrees_with_tungstenite(frames in prop::collection::vec(some_frame(), 0..12), piece in 1usize..300) {
        let bytes = frames.concat();
        let (ours, theirs) = (read_in_pieces(&bytes, piece, MAX), read_by_tungstenite(&bytes));
        if theirs.violation == Some(1007) {
            // tungstenite refuses bad UTF-8 with the fragment it is in, we with the message: until then we hear more.
            prop_assert!(ours.heard.starts_with(&theirs.heard), "{:?} {:?}", ours, theirs);
        } else {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), piece in 1usize..64) {
        read_in_pieces(&bytes, piece, MAX);
    }

    #[test]
    fn pieces_make_no_difference(frames in prop::collection::vec(some_frame(), 0..8), piece in 1usize..40) {
        let bytes = frames.concat();
        prop_assert_eq!(read_in_pieces(&bytes, piece, MAX), read_in_pieces(&bytes, usize::MAX, MAX));
    }
}
