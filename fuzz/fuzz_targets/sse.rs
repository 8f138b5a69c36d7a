//! The reader of providers' streams: any bytes, in any pieces, are the same events, none of which is longer than it may
//! be, and every format takes them or refuses them without a crash. The first byte of the input says how long the pieces
//! are, and which format reads them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openclaw_rs::agent::providers::format::{Api, Reader, Target};
use openclaw_rs::runtime::outbound::sse::{EVENT_BYTES_MAX, Parser};
use openclaw_rs::agent::providers::table::COMPATIBLE;
use serde_json::Map;

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let api = Api::ALL[usize::from(*first) % Api::ALL.len()];
    let whole = read(api, bytes, usize::MAX);
    assert_eq!(read(api, bytes, usize::from(*first).max(1)), whole);
});

/// The events, and what the format makes of them.
fn read(api: Api, bytes: &[u8], piece: usize) -> (Vec<(String, String)>, String) {
    let params = Map::new();
    let target = Target {
        provider: "p",
        model: "m",
        quirks: COMPATIBLE,
        reasoning: true,
        sees_images: true,
        context_window: None,
        max_tokens: None,
        params: &params,
    };
    let mut reader = Reader::new(api, &target);
    let mut parser = if reader.takes_lines() { Parser::of_lines() } else { Parser::default() };
    let (mut events, mut told) = (Vec::new(), String::new());
    for piece in bytes.chunks(piece) {
        let mut take = |name: &str, data: &str| {
            events.push((name.to_owned(), data.to_owned()));
            reader.event(name, data, &mut |piece| told.push_str(&format!("{piece:?}"))).map(|_| ())
        };
        match parser.feed(piece, &mut take) {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return (events, failure.message),
            Err(_) => return (events, "too long".to_owned()),
        }
        assert!(parser.held_bytes() <= EVENT_BYTES_MAX);
    }
    // Ids that are made up differ from one reading to the next.
    let end = reader.end().map_or_else(|failure| failure.message, |answer| format!("{} {:?}", answer.text(), answer.stop));
    (events, told + &end)
}
