use proptest::prelude::*;

use super::*;

/// What the machine makes of a stream: each request in words, `upgrade`, or the status of a refusal. Answers each
/// request at once.
fn read_in_pieces(bytes: &[u8], piece: usize) -> Vec<String> {
    let ends = Ends { peer: "192.0.2.1:5".parse().unwrap(), local: "127.0.0.1:80".parse().unwrap() };
    let (now, limits) = (Instant::now(), BodyLimits::default());
    let mut http = Http::new(ends, now);
    let mut story = Vec::new();
    let ok = HttpResponse { status: 200, headers: Vec::new(), body: Vec::new() };
    for chunk in bytes.chunks(piece) {
        http.feed(chunk);
        loop {
            match http.step(now, &limits) {
                Step::Starved => break,
                Step::Continue => story.push("continue".to_owned()),
                Step::Request(r) => {
                    let body = String::from_utf8_lossy(&r.body).into_owned();
                    story.push(format!("{} {} {body}", r.method, r.target));
                    assert!(!http.wants_input(), "one request at a time");
                    assert!(matches!(http.step(now, &limits), Step::Starved), "one request at a time");
                    http.answer(&ok, false, now, 0).expect("an answer is owed");
                    if http.has_ended() {
                        story.push("end".to_owned());
                        return story;
                    }
                }
                Step::Upgrade(upgrade, accept) => {
                    story.push(format!("upgrade {} {}", upgrade.target, accept.0));
                    return story;
                }
                Step::Refuse(refusal) => {
                    assert!(!http.wants_input() && http.has_ended(), "nothing is read after a refusal");
                    story.push(refusal.status.to_string());
                    return story;
                }
            }
        }
        assert!(http.partial_bytes() <= 2 * (HEAD_BYTES_MAX + V1_BODY_BYTES_MAX), "what is held is bounded");
    }
    story
}

#[track_caller]
fn check(bytes: impl AsRef<[u8]>, expected: &[&str]) {
    for piece in [1, 2, 3, 50, usize::MAX] {
        assert_eq!(read_in_pieces(bytes.as_ref(), piece), expected, "in pieces of {piece}");
    }
}

fn get(headers: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /b HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}")
}

#[test]
fn reads_requests_one_after_the_other() {
    let bytes =
        get("") + &post("Content-Length: 3\r\n", "abc") + "\r\n" + &post("Content-Length: 0\r\n", "") + &get("");
    check(bytes, &["GET /a ", "POST /b abc", "POST /b ", "GET /a "]);
}

#[test]
fn reads_chunks_with_extensions_and_trailers() {
    let chunks = "3;name=\"v\"\r\nabc\r\n00A \r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n";
    check(post("Transfer-Encoding: Chunked\r\n", chunks) + &get(""), &["POST /b abc0123456789", "GET /a "]);
}

#[test]
fn refuses_malformed_chunks() {
    for chunks in [
        "x\r\n",
        "\r\n",
        "-1\r\n",
        "+3\r\nabc\r\n",
        "0x3\r\nabc\r\n",
        "3\nabc\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "11111111111111111\r\n",
        &("3;".to_owned() + &"x".repeat(300)),
    ] {
        check(post("Transfer-Encoding: chunked\r\n", chunks), &["400"]);
    }
    let endless = "0\r\n".to_owned() + &"Trailer: 1\r\n".repeat(1000);
    check(post("Transfer-Encoding: chunked\r\n", &endless), &["400"]);
}

#[test]
fn refuses_whatever_leaves_the_end_of_a_request_open() {
    for headers in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: \r\n",
        "Content-Length : 3\r\n",
        "Content-Length: 3\u{b2}\r\n",
        "Content-Length: 3\r\n Content-Length: 4\r\n",
        "Host: y\r\n",
    ] {
        check(post(headers, "abc"), &["400"]);
    }
    check(post("Transfer-Encoding: gzip, chunked\r\n", ""), &["501"]);
    check("POST /b HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", &["501"]);
    check("GET /a HTTP/1.1\r\n\r\n", &["400"]);
    check("GET /a HTTP/2.0\r\nHost: x\r\n\r\n", &["505"]);
    check("GET a HTTP/1.1\r\nHost: x\r\n\r\n", &["400"]);
    check("hello\r\n\r\n", &["400"]);
}

#[test]
fn a_length_no_number_can_hold_is_too_large_and_not_malformed() {
    check(post("Content-Length: 99999999999999999999999\r\n", ""), &["413"]);
    check(post("Content-Length: 18446744073709551615\r\n", ""), &["413"]);
}

#[test]
fn a_body_at_its_limit_passes_and_one_over_it_does_not() {
    let at = "x".repeat(BODY_BYTES_MAX);
    let sized = |body: &str| post(&format!("Content-Length: {}\r\n", body.len()), body);
    let chunked =
        |body: &str| post("Transfer-Encoding: chunked\r\n", &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    let over = at.clone() + "x";
    for piece in [1000, usize::MAX] {
        for request in [sized(&at), chunked(&at)] {
            assert_eq!(read_in_pieces(request.as_bytes(), piece), [format!("POST /b {at}")]);
        }
        for request in [sized(&over), chunked(&over)] {
            assert_eq!(read_in_pieces(request.as_bytes(), piece), ["413"]);
        }
    }
}

#[test]
fn each_path_has_its_limit() {
    let limits = BodyLimits { hooks_bytes_max: 7, hooks_path: "/in/".to_owned(), ..BodyLimits::default() };
    for (path, bytes) in [
        ("/", BODY_BYTES_MAX),
        ("/tools/invoke", TOOLS_BODY_BYTES_MAX),
        ("/tools/invoke/x", BODY_BYTES_MAX),
        ("/v1/responses", V1_BODY_BYTES_MAX),
        ("/v11", BODY_BYTES_MAX),
        ("/in/github", 7),
        ("/in", 7),
        ("/inn", BODY_BYTES_MAX),
    ] {
        assert_eq!(limits.bytes_max(path), bytes, "{path}");
    }
}

#[test]
fn a_head_at_its_limit_passes_and_one_over_it_does_not() {
    let fixed = get("X: \r\n").len();
    let at = get(&format!("X: {}\r\n", "x".repeat(HEAD_BYTES_MAX - fixed)));
    assert_eq!(at.len(), HEAD_BYTES_MAX);
    check(&at, &["GET /a "]);
    check(get(&format!("X: {}\r\n", "x".repeat(HEAD_BYTES_MAX - fixed + 1))), &["431"]);
    check(get(&"X: y\r\n".repeat(HEADERS_MAX - 1)), &["GET /a "]);
    check(get(&"X: y\r\n".repeat(HEADERS_MAX)), &["431"]);
    let endless = "GET /".to_owned() + &"a".repeat(2 * HEAD_BYTES_MAX);
    check(endless, &["431"]);
}

#[test]
fn a_connection_is_kept_as_the_peer_asks() {
    check(get("Connection: close\r\n") + &get(""), &["GET /a ", "end"]);
    check("GET /a HTTP/1.0\r\n\r\n", &["GET /a ", "end"]);
    let kept = "GET /a HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n";
    check(kept.to_owned() + &get(""), &["GET /a ", "GET /a "]);
}

#[test]
fn takes_a_target_in_its_absolute_form() {
    for (target, path) in [
        ("http://h/x?y", "/x?y"),
        ("HTTPS://h:1/x", "/x"),
        ("http://h", "/"),
        ("http://h?q", "/?q"),
        ("*", "*"),
        ("/http://h/", "/http://h/"),
    ] {
        check(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"), &[&format!("GET {path} ")]);
    }
    check("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", &["400"]);
}

#[test]
fn leave_is_given_only_when_the_body_would_be_taken() {
    let head = |length: usize| post(&format!("Content-Length: {length}\r\nExpect: 100-Continue\r\n"), "");
    assert_eq!(read_in_pieces((head(3) + "abc").as_bytes(), 1), ["continue", "POST /b abc"]);
    assert_eq!(read_in_pieces((head(3) + "abc").as_bytes(), usize::MAX), ["POST /b abc"], "the body is already here");
    check(head(BODY_BYTES_MAX + 1), &["413"]);
    check(post("Content-Length: 3\r\nExpect: tea\r\n", "abc"), &["417"]);
}

#[test]
fn an_upgrade_is_read_with_what_follows_left_alone() {
    let upgrade = |headers: &str| get(&format!("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n{headers}"));
    let good = upgrade("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    check(&good, &["upgrade /a s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
    check(upgrade("Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), &["426"]);
    check(upgrade("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2hvcnQ=\r\n"), &["400"]);
    check(upgrade("Sec-WebSocket-Version: 13\r\n"), &["400"]);
    check(get("Upgrade: websocket\r\n"), &["GET /a "]);
    check(get("Connection: Upgrade\r\nUpgrade: h2c\r\n"), &["GET /a "]);

    let ends = Ends { peer: "192.0.2.1:5".parse().unwrap(), local: "127.0.0.1:80".parse().unwrap() };
    let mut http = Http::new(ends, Instant::now());
    http.feed((good + "frame").as_bytes());
    assert!(matches!(http.step(Instant::now(), &BodyLimits::default()), Step::Upgrade(..)));
    assert_eq!(http.into_rest(), b"frame");
}

/// Feeds `bytes` at a start and returns how long after it the deadline is, and what it means.
fn waiting_after(bytes: &str) -> (Duration, Expired) {
    let (start, limits) = (Instant::now(), BodyLimits::default());
    let ends = Ends { peer: "192.0.2.1:5".parse().unwrap(), local: "127.0.0.1:80".parse().unwrap() };
    let mut http = Http::new(ends, start);
    http.feed(bytes.as_bytes());
    while !matches!(http.step(start + Duration::from_secs(1), &limits), Step::Starved) {}
    (http.deadline(&limits).expect("every state has a deadline") - start, http.expire())
}

#[test]
fn every_wait_ends() {
    let second = Duration::from_secs(1);
    let refused = |status| move |expired| matches!(expired, Expired::Refuse(refusal) if refusal.status == status);
    let (after, expired) = waiting_after("");
    assert_eq!((after, expired), (HEAD_TIME_MAX, Expired::Quiet));
    let (after, expired) = waiting_after("GET /a");
    assert!(after == HEAD_TIME_MAX && refused(408)(expired), "the first byte does not start the clock anew");
    let (after, expired) = waiting_after(&post("Content-Length: 3\r\n", "a"));
    assert!(after == second + BodyLimits::default().request_time_max && refused(408)(expired));
    let (after, expired) = waiting_after(&get(""));
    assert!(after == second + BodyLimits::default().request_time_max && refused(503)(expired));
}

#[test]
fn an_idle_connection_holds_nothing() {
    let ends = Ends { peer: "192.0.2.1:5".parse().unwrap(), local: "127.0.0.1:80".parse().unwrap() };
    let (now, limits) = (Instant::now(), BodyLimits::default());
    let mut http = Http::new(ends, now);
    http.feed(post("Content-Length: 3\r\n", "abc").as_bytes());
    let Step::Request(_) = http.step(now, &limits) else { panic!("no request") };
    http.answer(&HttpResponse { status: 200, headers: Vec::new(), body: Vec::new() }, false, now, 0).unwrap();
    assert!(!http.has_unread());
    assert_eq!(http.partial_bytes(), 0);
    assert_eq!(http.deadline(&limits), Some(now + KEEP_ALIVE_TIME_MAX));
    assert_eq!(http.expire(), Expired::Quiet);
}

#[test]
fn a_late_answer_finds_nobody() {
    let ends = Ends { peer: "192.0.2.1:5".parse().unwrap(), local: "127.0.0.1:80".parse().unwrap() };
    let now = Instant::now();
    let mut http = Http::new(ends, now);
    http.feed(get("").as_bytes());
    let Step::Request(_) = http.step(now, &BodyLimits::default()) else { panic!("no request") };
    http.expire();
    let late = HttpResponse { status: 200, headers: Vec::new(), body: Vec::new() };
    assert_eq!(http.answer(&late, false, now, 0), None);
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => prop::sample::select(vec![
            "GET /a HTTP/1.1\r\nHost: x\r\n", "POST /b HTTP/1.1\r\nHost: x\r\n", "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n", "\r\n", "abc", "3\r\nabc\r\n", "0\r\n\r\n", "Connection: close\r\n",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n", "Sec-WebSocket-Version: 13\r\n", "\n", "\r",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "Expect: 100-continue\r\n", "X: y\r\n", ":", "HTTP/1.1",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_pieces_make_no_difference(bytes in some_bytes(), piece in 1usize..40) {
        let mut whole = read_in_pieces(&bytes, usize::MAX);
        let mut pieces = read_in_pieces(&bytes, piece);
        // Leave is asked for only by a body that has not arrived.
        whole.retain(|step| step != "continue");
        pieces.retain(|step| step != "continue");
        prop_assert_eq!(whole, pieces);
    }
}
