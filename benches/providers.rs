//! What an answer of a model costs between its provider's bytes and the pieces that are shown.
//!
//! - `sse/*`: the bytes of a stream to events, in pieces as a socket gives them: all at once, a TLS record, a network
//!   packet, byte by byte.
//! - `chat/*`: the same to pieces and an answer, through the format that most providers speak: what each token adds.
//! - `request/chat`: a conversation of 200 messages to the body of a request.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use openclaw_rs::agent::providers::format::{self, Api, Flow, Reader, Target};
use openclaw_rs::agent::providers::table::COMPATIBLE;
use openclaw_rs::agent::talk::{Answer, Message, Part, Prompt, Said};
use openclaw_rs::runtime::outbound::sse::Parser;
use serde_json::Map;

/// Sizes of the pieces, and what gives such.
const PIECES: &[(&str, usize)] = &[("whole", usize::MAX), ("record", 16 * 1024), ("packet", 1400), ("bytes", 1)];

fn stream() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/providers/chat.sse")).unwrap()
}

fn events(bytes: &[u8], piece: usize) -> usize {
    let (mut parser, mut n) = (Parser::default(), 0);
    for piece in bytes.chunks(piece) {
        let mut count = |_: &str, data: &str| {
            n += usize::from(!data.is_empty());
            Ok::<(), ()>(())
        };
        parser.feed(piece, &mut count).expect("its events are short").expect("nothing refuses them");
    }
    n
}

fn answer(bytes: &[u8], piece: usize, target: &Target<'_>) -> (Answer, usize) {
    let (mut parser, mut n) = (Parser::default(), 0);
    let mut reader = Reader::new(Api::OpenAiCompletions, target);
    for piece in bytes.chunks(piece) {
        let mut take = |name: &str, data: &str| match reader.event(name, data, &mut |_| n += 1) {
            Ok(Flow::More | Flow::Done) => Ok(()),
            Err(failure) => Err(failure),
        };
        parser.feed(piece, &mut take).expect("its events are short").expect("it is an answer");
    }
    (reader.end().expect("it is whole"), n)
}

fn answers(c: &mut Criterion) {
    let bytes = stream();
    let params = Map::new();
    let target = Target {
        provider: "openai",
        model: "gpt-5.2",
        quirks: COMPATIBLE,
        reasoning: true,
        sees_images: true,
        context_window: None,
        max_tokens: None,
        params: &params,
    };
    let n_events = events(&bytes, usize::MAX);
    let (whole, n_pieces) = answer(&bytes, usize::MAX, &target);
    assert!(n_events > 150 && n_pieces > 100, "{n_events} events, {n_pieces} pieces");
    assert_eq!(whole.calls().count(), 1);
    let mut group = c.benchmark_group("sse");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (name, piece) in PIECES {
        assert_eq!(events(&bytes, *piece), n_events);
        group.bench_function(*name, |b| b.iter(|| events(black_box(&bytes), *piece)));
    }
    group.finish();
    let mut group = c.benchmark_group("chat");
    group.throughput(Throughput::Elements(n_events as u64));
    for (name, piece) in PIECES {
        assert_eq!(answer(&bytes, *piece, &target), (whole.clone(), n_pieces));
        group.bench_function(*name, |b| b.iter(|| answer(black_box(&bytes), *piece, &target)));
    }
    group.finish();
    let said = whole.text();
    let message = |n: usize| match n % 2 {
        0 => Message::User(vec![Part::Text(said.clone())]),
        _ => Message::Assistant(vec![Said::Text(said.clone())]),
    };
    let prompt = Prompt { system: said.clone(), messages: (0..200).map(message).collect(), ..Prompt::default() };
    let body =
        |prompt: &Prompt| serde_json::to_vec(&format::request(Api::OpenAiCompletions, &target, prompt).body).unwrap();
    let length = body(&prompt).len();
    assert!(length > 200 * said.len(), "{length}");
    let mut group = c.benchmark_group("request");
    group.throughput(Throughput::Bytes(length as u64));
    group.bench_function("chat", |b| b.iter(|| body(black_box(&prompt))));
    group.finish();
}

criterion_group!(benches, answers);
criterion_main!(benches);
