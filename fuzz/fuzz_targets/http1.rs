//! The HTTP machine: any bytes, in any pieces, end in requests or a refusal; the pieces make no difference, and what is
//! held is bounded. The first byte of the input says how long the pieces are.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use openclaw_rs::gateway::http::HttpResponse;
use openclaw_rs::net::http1::{BodyLimits, Ends, HEAD_BYTES_MAX, Http, Step, V1_BODY_BYTES_MAX};

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let whole = read(bytes, usize::MAX);
    assert_eq!(read(bytes, usize::from(*piece).max(1)), whole);
});

/// Each request as text, and how it ended.
fn read(bytes: &[u8], piece: usize) -> Vec<String> {
    let now = Instant::now();
    let ends = Ends { peer: ([192, 0, 2, 1], 5).into(), local: ([127, 0, 0, 1], 80).into() };
    let (mut http, limits) = (Http::new(ends, now), BodyLimits::default());
    let ok = HttpResponse { status: 200, headers: Vec::new(), body: Vec::new() };
    let mut story = Vec::new();
    for chunk in bytes.chunks(piece) {
        http.feed(chunk);
        loop {
            match http.step(now, &limits) {
                Step::Starved => break,
                // Asked for only by a body that has not arrived, which the pieces decide.
                Step::Continue => {}
                Step::Request(request) => {
                    story.push(format!("{:?}", (&request.method, &request.target, &request.headers, &request.body)));
                    http.answer(&ok, false, now, 0).expect("an answer is owed");
                    if http.has_ended() {
                        return story;
                    }
                }
                Step::Upgrade(upgrade, _) => {
                    story.push(format!("upgrade {}", upgrade.target));
                    return story;
                }
                Step::Refuse(refusal) => {
                    story.push(refusal.status.to_string());
                    return story;
                }
            }
        }
        assert!(http.partial_bytes() <= 2 * (HEAD_BYTES_MAX + V1_BODY_BYTES_MAX) + bytes.len());
    }
    story
}
