//! The WebSocket machine: any bytes, in any pieces, end in messages or a violation; the pieces make no difference, and
//! what is held is bounded. The first byte of the input says how long the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openclaw_rs::net::ws::{CONTROL_BYTES_MAX, Incoming, Reader};

const MESSAGE_BYTES_MAX: usize = 4 * 1024;

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let whole = read(bytes, usize::MAX);
    assert_eq!(read(bytes, usize::from(*piece).max(1)), whole);
});

/// Everything that was complete, and how it ended.
fn read(bytes: &[u8], piece: usize) -> Vec<String> {
    let mut reader = Reader::new(MESSAGE_BYTES_MAX);
    let mut story = Vec::new();
    for chunk in bytes.chunks(piece) {
        let mut chunk = chunk.to_vec();
        let mut input = &mut chunk[..];
        loop {
            match reader.read(&mut input) {
                Ok(None) => break,
                Ok(Some(incoming)) => {
                    let is_close = matches!(incoming, Incoming::Close { .. });
                    story.push(match incoming {
                        // Borrowed or not is what the pieces decide.
                        Incoming::Message(text) => format!("message {text}"),
                        other => format!("{other:?}"),
                    });
                    if is_close {
                        return story;
                    }
                }
                Err(violation) => {
                    story.push(violation.close_code().to_string());
                    return story;
                }
            }
        }
        assert!(input.is_empty());
        assert!(reader.partial_bytes() <= MESSAGE_BYTES_MAX + CONTROL_BYTES_MAX);
    }
    story
}
