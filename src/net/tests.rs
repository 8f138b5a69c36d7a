//! The shell over real sockets with a core that echoes: what the machines' own tests cannot show.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Message, WebSocket};

use super::core::Core;
use super::lanes::StoreLane;
use super::limits::Clocks;
use super::server::{ExitReason, Setup, Shell};
use super::{Limits, crowd, http1, lanes};
use crate::gateway::effect::{Done, Job, Origin, Report, Work};
use crate::gateway::http::HttpResponse;
use crate::gateway::{Effect, Event, Signal};
use crate::protocol::frame::{Body, FrameClass, Json, OutFrame, Tail};
use crate::protocol::{ConnId, FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_HELLO};
use crate::runtime::clock::Now;
use crate::runtime::notify::Notify;
use crate::runtime::threads;
use crate::store::StoreError;
use crate::store::dir::StateDir;
use crate::store::open::{Database, OnDamage};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the core saw, told to the test.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Opened(u64),
    Closed(u64, u16),
    HttpGone(u64),
    Report(String),
    Shed,
}

/// A core that says what it saw and does what frames tell it:
///
/// `admit`, `close`, `stop`, `count` (says how long the frame is), `flood N` (N events), `query`, `write`, `wait N` and
/// `panic` (jobs); anything else comes back. Over HTTP
/// `/never` is not answered, `/query` after a job, anything else with its own body.
struct Echo {
    effects: VecDeque<Effect>,
    seen: Sender<Seen>,
    gate: Receiver<()>,
}

impl Echo {
    fn send(&mut self, id: ConnId, text: &str, class: FrameClass) {
        let frame = OutFrame { body: Body::Own(text.as_bytes().to_vec()), tail: Tail::None, class };
        self.effects.push_back(Effect::Send(id, frame));
    }

    fn frame(&mut self, id: ConnId, text: &str) {
        let mut words = text.splitn(2, ' ');
        match (words.next().unwrap_or(""), words.next().unwrap_or("")) {
            ("admit", _) => {
                self.effects.push_back(Effect::Admit(id));
                self.send(id, "admitted", FrameClass::Response);
            }
            ("close", reason) => self.effects.push_back(Effect::Close(id, 4001, reason.to_owned())),
            ("count", _) => self.send(id, &text.len().to_string(), FrameClass::Response),
            ("stop", _) => self.effects.push_back(Effect::Stop),
            ("flood", n) => {
                let body: std::sync::Arc<[u8]> = vec![b'x'; 256 * 1024].into();
                for _ in 0..n.parse().unwrap() {
                    let body = Body::Shared(std::sync::Arc::clone(&body));
                    self.effects
                        .push_back(Effect::Send(id, OutFrame { body, tail: Tail::None, class: FrameClass::Event }));
                }
            }
            ("query", n) => {
                let origin = Origin::Request { conn: id, id: n.to_owned(), method: "query" };
                let work = Work::Query(Box::new(|_| Ok(Done { answer: Some(Json(b"1".to_vec())), facts: Vec::new() })));
                self.effects.push_back(Effect::Start(Job { origin, work }));
            }
            ("write", what) => {
                let origin = Origin::Request { conn: id, id: what.to_owned(), method: "write" };
                let fails = what == "nothing";
                let work = Work::Store(Box::new(move |_| match fails {
                    true => Err(StoreError::DiskFull),
                    false => Ok(Done { answer: None, facts: Vec::new() }),
                }));
                self.effects.push_back(Effect::Start(Job { origin, work }));
            }
            ("wait", n) => {
                // Jobs that last until the test opens the gate.
                for _ in 0..n.parse().unwrap() {
                    let gate = self.gate.clone();
                    let origin = Origin::Request { conn: id, id: String::new(), method: "wait" };
                    let work = Work::Query(Box::new(move |_| {
                        assert!(gate.recv().is_err(), "nothing is ever sent");
                        Ok(Done { answer: None, facts: Vec::new() })
                    }));
                    self.effects.push_back(Effect::Start(Job { origin, work }));
                }
            }
            ("panic", n) => {
                let origin = Origin::Request { conn: id, id: n.to_owned(), method: "panic" };
                let work = Work::Defend(Box::new(|_| panic!("on purpose")));
                self.effects.push_back(Effect::Start(Job { origin, work }));
            }
            _ => self.send(id, text, FrameClass::Response),
        }
    }
}

impl Core for Echo {
    fn handle(&mut self, _now: Now, event: Event<'_>) {
        let seen = match event {
            Event::Opened(id, _) => Some(Seen::Opened(id.0)),
            Event::Frame(id, text) => {
                self.frame(id, text);
                None
            }
            Event::Closed(id, gone) => Some(Seen::Closed(id.0, gone.code)),
            Event::Http(id, request) => {
                if request.path() == "/query" {
                    let origin = Origin::Request { conn: id, id: "http".to_owned(), method: "query" };
                    let work = Work::Query(Box::new(|_| Ok(Done { answer: None, facts: Vec::new() })));
                    self.effects.push_back(Effect::Start(Job { origin, work }));
                } else if let Some(pieces) = request.path().strip_prefix("/pieces/") {
                    let head = HttpResponse { status: 200, headers: Vec::new(), body: b"begun".to_vec() };
                    self.effects.push_back(Effect::Hold(id));
                    self.effects.push_back(Effect::Begin(id, Box::new(head)));
                    for _ in 0..pieces.parse().unwrap() {
                        self.effects.push_back(Effect::Piece(id, vec![b'x'; 256 * 1024]));
                    }
                    self.effects.push_back(Effect::Finish(id));
                } else if request.path() == "/held" {
                    self.effects.push_back(Effect::Hold(id));
                } else if request.path() != "/never" {
                    let headers = vec![("X-Method".to_owned(), request.method.clone())];
                    let response = HttpResponse { status: 200, headers, body: request.body };
                    self.effects.push_back(Effect::Reply(id, Box::new(response)));
                }
                None
            }
            Event::Told(..) => None,
            Event::HttpGone(id) => Some(Seen::HttpGone(id.0)),
            Event::Report(report) => {
                let Report { origin, outcome } = *report;
                let outcome = outcome.map_or_else(|e| e.message, |_| "done".to_owned());
                match origin {
                    Origin::Request { conn, id, .. } if id == "http" => {
                        let response = HttpResponse { status: 200, headers: Vec::new(), body: outcome.into() };
                        self.effects.push_back(Effect::Reply(conn, Box::new(response)));
                        None
                    }
                    Origin::Request { conn, .. } => {
                        self.send(conn, &outcome, FrameClass::Response);
                        Some(Seen::Report(outcome))
                    }
                    _ => None,
                }
            }
            Event::Shed(..) => Some(Seen::Shed),
            Event::Timer => None,
            Event::Signal(Signal::Stop) => {
                self.effects.push_back(Effect::Stop);
                None
            }
            Event::Signal(Signal::Reload) => None,
        };
        if let Some(seen) = seen {
            // The test may be done looking.
            let _ = self.seen.send(seen);
        }
    }

    fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

struct Host {
    address: SocketAddr,
    seen: Receiver<Seen>,
    /// Dropped to let jobs that wait go on.
    gate: Option<Sender<()>>,
    thread: Option<JoinHandle<ExitReason>>,
    _dir: tempfile::TempDir,
}

impl Host {
    fn start() -> Host {
        Host::with(Limits::default())
    }

    fn with(limits: Limits) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&StateDir::open(dir.path()).unwrap(), 0, OnDamage::Fail).unwrap().database;
        let shell = Shell::open(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = shell.addresses()[0];
        let (seen_tx, seen) = unbounded();
        let (gate, gate_rx) = bounded(0);
        let store = StoreLane::start(database, shell.sender()).unwrap();
        let run = move || {
            let setup = Setup {
                core: Echo { effects: VecDeque::new(), seen: seen_tx, gate: gate_rx },
                limits,
                limits_of: |_| Limits::default(),
                store,
                signals: None,
                notify: Notify::nowhere(),
                control: None,
            };
            shell.run(setup).unwrap()
        };
        let thread = threads::spawn("test-loop", threads::STACK_BYTES_DEEP, run).unwrap();
        Host { address, seen, gate: Some(gate), thread: Some(thread), _dir: dir }
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn websocket(&self) -> WebSocket<TcpStream> {
        let (socket, _) = tungstenite::client(format!("ws://{}/any/path", self.address), self.tcp()).unwrap();
        socket
    }

    /// The answer to `request`, up to the end of the connection.
    fn exchange(&self, request: &str) -> String {
        let mut stream = self.tcp();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[track_caller]
    fn expect(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        loop {
            let seen = self.seen.recv_timeout(PATIENCE).expect("the core sees it");
            if wanted(&seen) {
                return seen;
            }
        }
    }

    /// Has it stop, and returns why it did.
    fn stop(mut self) -> ExitReason {
        let mut socket = self.websocket();
        socket.send(Message::text("stop")).unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

fn say(socket: &mut WebSocket<TcpStream>, text: &str) {
    socket.send(Message::text(text)).unwrap();
}

#[track_caller]
fn hear(socket: &mut WebSocket<TcpStream>) -> String {
    loop {
        match socket.read().unwrap() {
            Message::Text(text) => return text.as_str().to_owned(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// Reads up to the close frame.
#[track_caller]
fn closed(socket: &mut WebSocket<TcpStream>) -> (u16, String) {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => return (frame.code.into(), frame.reason.as_str().to_owned()),
            Ok(Message::Close(None)) => return (1005, String::new()),
            Ok(_) => {}
            Err(error) => panic!("no close frame: {error}"),
        }
    }
}

#[test]
fn frames_come_back_over_a_websocket_on_any_path() {
    let host = Host::start();
    let mut socket = host.websocket();
    for text in ["hello", "", "äöü", &"x".repeat(60_000)] {
        say(&mut socket, text);
        assert_eq!(hear(&mut socket), text);
    }
    socket.send(Message::binary(b"as text".to_vec())).unwrap();
    assert_eq!(hear(&mut socket), "as text");
    assert_eq!(host.stop(), ExitReason::Stopped);
}

#[test]
fn pipelined_frames_are_answered_in_order() {
    let host = Host::start();
    let mut socket = host.websocket();
    for n in 0..5_000 {
        socket.write(Message::text(n.to_string())).unwrap();
    }
    socket.flush().unwrap();
    for n in 0..5_000 {
        assert_eq!(hear(&mut socket), n.to_string());
    }
}

#[test]
fn a_frame_may_be_larger_once_the_client_is_admitted() {
    let host = Host::start();
    let text = "x".repeat(FRAME_BYTES_MAX_BEFORE_HELLO + 1);
    let mut stranger = host.websocket();
    say(&mut stranger, &text);
    assert_eq!(closed(&mut stranger), (1009, String::new()));

    let mut client = host.websocket();
    say(&mut client, "admit");
    assert_eq!(hear(&mut client), "admitted");
    say(&mut client, &text);
    assert_eq!(hear(&mut client).len(), text.len());
    let text = format!("count {}", "x".repeat(FRAME_BYTES_MAX - 6));
    say(&mut client, &text);
    assert_eq!(hear(&mut client), FRAME_BYTES_MAX.to_string());
    // The refusal may come while we still write.
    let _ = client.send(Message::text(text + "x"));
    assert_eq!(closed(&mut client).0, 1009);
}

#[test]
fn the_core_closes_with_its_code_and_hears_of_it() {
    let host = Host::start();
    let mut socket = host.websocket();
    say(&mut socket, "close device removed");
    assert_eq!(closed(&mut socket), (4001, "device removed".to_owned()));
    assert!(socket.read().is_err());
    host.expect(|seen| matches!(seen, Seen::Closed(_, 4001)));
}

#[test]
fn what_was_queued_leaves_before_the_close() {
    let host = Host::with(hasty(|clocks| clocks.close_wait_max = Duration::from_millis(50)));
    let mut socket = admitted(&host);
    say(&mut socket, "flood 100");
    say(&mut socket, "close enough");
    // Longer than the wait for a peer that was told: this one has not been told yet.
    std::thread::sleep(Duration::from_millis(300));
    let heard = (0..100).map(|_| hear(&mut socket).len()).sum::<usize>();
    assert_eq!(heard, 100 * 256 * 1024);
    assert_eq!(closed(&mut socket), (4001, "enough".to_owned()));
}

#[test]
fn a_close_is_answered_and_a_vanished_peer_is_noticed() {
    let host = Host::start();
    let mut socket = host.websocket();
    socket
        .close(Some(tungstenite::protocol::CloseFrame { code: CloseCode::Library(4008), reason: "bye".into() }))
        .unwrap();
    assert_eq!(closed(&mut socket).0, 4008);
    host.expect(|seen| matches!(seen, Seen::Closed(_, 4008)));

    let mut socket = host.websocket();
    socket.close(None).unwrap();
    host.expect(|seen| matches!(seen, Seen::Closed(_, 1005)));

    drop(host.websocket());
    host.expect(|seen| matches!(seen, Seen::Closed(_, 1006)));
}

#[test]
fn who_does_not_connect_in_time_is_closed_without_a_word() {
    let limits = Limits { handshake_time_max: Duration::from_millis(150), ..Limits::default() };
    let host = Host::with(limits);
    let mut socket = host.websocket();
    let mut admitted = host.websocket();
    say(&mut admitted, "admit");
    assert_eq!(closed(&mut socket), (1000, String::new()));
    assert_eq!(hear(&mut admitted), "admitted");
    say(&mut admitted, "still here");
    assert_eq!(hear(&mut admitted), "still here");
}

/// Limits whose clocks run fast.
fn hasty(change: impl FnOnce(&mut Clocks)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits.clocks);
    limits
}

fn admitted(host: &Host) -> WebSocket<TcpStream> {
    let mut socket = host.websocket();
    say(&mut socket, "admit");
    assert_eq!(hear(&mut socket), "admitted");
    socket
}

#[test]
fn an_admitted_client_is_pinged_and_lives_as_long_as_it_answers() {
    let host = Host::with(hasty(|clocks| {
        clocks.ping_interval = Duration::from_millis(50);
        clocks.pong_time_max = Duration::from_millis(400);
    }));
    let (mut lively, silent) = (admitted(&host), admitted(&host));
    let start = Instant::now();
    let mut pings = 0;
    while start.elapsed() < Duration::from_millis(900) {
        // Reading answers the ping, at the next read or write.
        if matches!(lively.read().unwrap(), Message::Ping(_)) {
            pings += 1;
            lively.flush().unwrap();
        }
    }
    assert!(pings >= 3, "{pings}");
    host.expect(|seen| matches!(seen, Seen::Closed(_, 1006)));
    say(&mut lively, "hello");
    assert_eq!(hear(&mut lively), "hello");
    drop(silent);
}

#[test]
fn a_message_must_be_finished_in_time() {
    let host = Host::with(hasty(|clocks| clocks.message_time_max = Duration::from_millis(150)));
    let mut fragments = admitted(&host);
    let opcode = OpCode::Data(Data::Text);
    fragments.send(Message::Frame(Frame::message(&b"never"[..], opcode, false))).unwrap();
    let start = Instant::now();
    let dripping = threads::spawn("test-drip", threads::STACK_BYTES_DEEP, {
        let mut stream = fragments.get_ref().try_clone().unwrap();
        move || {
            // Empty continuations, which cost nothing and end nothing.
            while start.elapsed() < PATIENCE && stream.write_all(&[0, 0x80, 1, 2, 3, 4]).is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    })
    .unwrap();
    assert_eq!(closed(&mut fragments), (1008, "message timed out".to_owned()));
    drop(fragments);
    dripping.join().unwrap();

    let mut half = admitted(&host);
    half.get_mut().write_all(&[0x81, 0x85, 1, 2]).unwrap();
    assert_eq!(closed(&mut half).0, 1008);
}

#[test]
fn who_takes_nothing_at_all_is_dropped() {
    let host = Host::with(hasty(|clocks| clocks.write_stall_max = Duration::from_millis(200)));
    let mut socket = admitted(&host);
    // Below the limit of a slow consumer, above what the kernel holds for it.
    say(&mut socket, "flood 100");
    host.expect(|seen| matches!(seen, Seen::Closed(_, 1006)));
}

#[test]
fn a_job_reports_and_a_panic_is_an_answer() {
    let host = Host::start();
    let mut socket = host.websocket();
    say(&mut socket, "query 1");
    assert_eq!(hear(&mut socket), "done");
    say(&mut socket, "panic 2");
    assert_eq!(hear(&mut socket), "internal error");
    say(&mut socket, "query 3");
    assert_eq!(hear(&mut socket), "done");
    assert_eq!(host.stop(), ExitReason::Stopped);
}

#[test]
fn a_write_reports_what_came_of_it() {
    let host = Host::start();
    let mut socket = host.websocket();
    say(&mut socket, "write something");
    assert_eq!(hear(&mut socket), "done");
    say(&mut socket, "write nothing");
    assert_ne!(hear(&mut socket), "done");
    assert_eq!(host.stop(), ExitReason::Stopped);
}

#[test]
fn a_full_lane_sheds_and_the_loop_goes_on() {
    let mut host = Host::start();
    let mut socket = host.websocket();
    let (room, over) = (lanes::QUERY_QUEUE_MAX + crate::gateway::Lane::Query.threads(), 40);
    say(&mut socket, &format!("wait {}", room + over));
    for _ in 0..over {
        host.expect(|seen| *seen == Seen::Shed);
    }
    say(&mut socket, "hello");
    assert_eq!(hear(&mut socket), "hello");
    host.gate = None;
    host.expect(|seen| matches!(seen, Seen::Report(outcome) if outcome == "done"));
    assert_eq!(host.stop(), ExitReason::Stopped);
}

#[test]
fn a_slow_consumer_is_closed_and_the_others_are_not() {
    let host = Host::start();
    let (mut slow, mut other) = (host.websocket(), host.websocket());
    say(&mut slow, "admit");
    hear(&mut slow);
    // More than its queue, the kernel's buffers included, can take.
    say(&mut slow, "flood 400");
    host.expect(|seen| matches!(seen, Seen::Closed(_, 1008)));
    say(&mut other, "hello");
    assert_eq!(hear(&mut other), "hello");
}

#[test]
fn who_takes_no_answers_is_not_read_any_more() {
    let host = Host::start();
    let mut socket = host.websocket();
    say(&mut socket, "admit");
    hear(&mut socket);
    socket.get_ref().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let text = "x".repeat(512 * 1024);
    let mut sent = 0;
    let stuck = loop {
        match socket.send(Message::text(text.as_str())) {
            Ok(()) => sent += text.len(),
            Err(tungstenite::Error::Io(error)) => break error.kind(),
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 256 * 1024 * 1024, "it is still read");
    };
    assert!(matches!(stuck, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{stuck:?}");
    let mut other = host.websocket();
    say(&mut other, "hello");
    assert_eq!(hear(&mut other), "hello");
    // Once it takes its answers it is read again.
    socket.get_ref().set_write_timeout(None).unwrap();
    let mut heard = 0;
    while heard < sent {
        heard += hear(&mut socket).len();
    }
}

#[test]
fn a_request_is_answered_and_the_connection_is_kept() {
    let host = Host::start();
    let answer = host.exchange(
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
         GET /query HTTP/1.1\r\nHost: x\r\n\r\n\
         HEAD /c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    let heads: Vec<&str> = answer.split("HTTP/1.1 200 OK\r\n").skip(1).collect();
    assert_eq!(heads.len(), 3, "{answer}");
    assert!(heads[0].contains("X-Method: POST") && heads[0].ends_with("\r\n\r\nabc"), "{answer}");
    assert!(heads[1].ends_with("\r\n\r\ndone"), "{answer}");
    assert!(heads[2].contains("Connection: close") && heads[2].ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn leave_is_given_before_a_body_is_sent() {
    let host = Host::start();
    let mut stream = host.tcp();
    stream
        .write_all(
            b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    let mut leave = [0; 25];
    stream.read_exact(&mut leave).unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
}

#[test]
fn a_body_over_its_limit_is_refused_and_the_refusal_is_read() {
    let host = Host::start();
    let body = "x".repeat(http1::BODY_BYTES_MAX + 1);
    let answer = host.exchange(&format!("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let body = &body[1..];
    let answer = host.exchange(&format!(
        "POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(body), "{}", &answer[..200]);
}

#[test]
fn an_unanswered_request_is_given_up_by_either_side() {
    let mut limits = Limits::default();
    limits.bodies.request_time_max = Duration::from_millis(200);
    let host = Host::with(limits);
    let answer = host.exchange("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    host.expect(|seen| matches!(seen, Seen::HttpGone(_)));
}

#[test]
fn a_held_request_has_no_clock_and_ends_with_its_peer() {
    let mut limits = Limits::default();
    limits.bodies.request_time_max = Duration::from_millis(50);
    let host = Host::with(limits);
    let mut held = host.tcp();
    held.write_all(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // Another one whose clock runs out has waited longer than the held one was allowed to.
    let answer = host.exchange("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    host.expect(|seen| matches!(seen, Seen::HttpGone(_)));
    held.set_nonblocking(true).unwrap();
    let nothing = held.read(&mut [0; 16]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    drop(held);
    host.expect(|seen| matches!(seen, Seen::HttpGone(_)));
}

#[test]
fn an_answer_in_pieces_is_whole_and_the_next_request_follows() {
    let host = Host::start();
    let answer = host
        .exchange("GET /pieces/2 HTTP/1.1\r\nHost: x\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let piece = format!("40000\r\n{}\r\n", "x".repeat(256 * 1024));
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Transfer-Encoding: chunked") && !head.contains("Content-Length"), "{head}");
    let rest = rest.strip_prefix(&format!("5\r\nbegun\r\n{piece}{piece}0\r\n\r\n")).unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.contains("X-Method: GET"), "{rest}");
    // Who knows no chunks reads to the end of the connection.
    let answer = host.exchange("GET /pieces/1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Connection: close") && !head.contains("Transfer-Encoding"), "{head}");
    assert_eq!(body.len(), 5 + 256 * 1024);
}

#[test]
fn who_does_not_take_the_pieces_is_dropped() {
    let host = Host::start();
    let mut slow = host.tcp();
    let enough = 2 * crate::protocol::BUFFERED_BYTES_MAX / (256 * 1024);
    slow.write_all(format!("GET /pieces/{enough} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    host.expect(|seen| matches!(seen, Seen::HttpGone(_)));
    let mut got = Vec::new();
    // A reset is an end too.
    let _ = slow.read_to_end(&mut got);
    assert!(got.len() < crate::protocol::BUFFERED_BYTES_MAX, "{}", got.len());
    assert!(!got.ends_with(b"0\r\n\r\n"), "it was not finished");
}

#[test]
fn too_many_waiting_requests_are_shed() {
    let host = Host::with(Limits { http_concurrency_max: 2, ..Limits::default() });
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut stream = host.tcp();
        stream.write_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        waiting.push(stream);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = host.exchange("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        if answer.starts_with("HTTP/1.1 503 ") {
            assert!(answer.contains("Retry-After: 1\r\n"), "{answer}");
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
}

#[test]
fn an_upgrade_through_a_foreign_proxy_is_refused() {
    let upgrade = |header: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{header}\r\n"
        )
    };
    let host = Host::start();
    for header in ["X-Forwarded-For: 1.2.3.4\r\n", "Forwarded: for=1.2.3.4\r\n", "X-Real-IP: 1.2.3.4\r\n"] {
        let answer = host.exchange(&upgrade(header));
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    let trusted = vec![crate::config::cidr::Cidr::parse("127.0.0.0/8").unwrap()];
    let host = Host::with(Limits { trusted_proxies: trusted, ..Limits::default() });
    let mut stream = host.tcp();
    stream.write_all(upgrade("X-Forwarded-For: 1.2.3.4\r\n").as_bytes()).unwrap();
    let mut head = [0; 129];
    stream.read_exact(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head);
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
}

#[test]
fn strangers_of_one_address_are_bounded_and_the_admitted_are_not() {
    let host = Host::start();
    let mut strangers: Vec<_> = (0..crowd::STRANGERS_PER_ADDRESS_MAX).map(|_| host.websocket()).collect();
    let refused = tungstenite::client(format!("ws://{}/", host.address), host.tcp());
    assert!(
        matches!(refused, Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(r))) if r.status() == 503)
    );
    say(&mut strangers[0], "admit");
    assert_eq!(hear(&mut strangers[0]), "admitted");
    host.websocket();
}

#[test]
fn a_flood_of_silent_sockets_does_not_keep_a_client_out() {
    let host = Host::start();
    let _flood: Vec<_> = (0..3 * crowd::SILENT_PER_ADDRESS_MAX).map(|_| host.tcp()).collect();
    let mut socket = host.websocket();
    say(&mut socket, "hello");
    assert_eq!(hear(&mut socket), "hello");
}

#[test]
fn a_full_house_refuses_with_an_answer() {
    let host = Host::with(Limits { connections_max: 2, ..Limits::default() });
    let (_one, _two) = (host.websocket(), host.websocket());
    let mut stream = host.tcp();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
fn stopping_gives_owed_answers_and_closes_the_rest() {
    let host = Host::start();
    let (mut socket, mut idle) = (host.websocket(), host.tcp());
    say(&mut socket, "hello");
    assert_eq!(hear(&mut socket), "hello");
    let (told, stopped) = mpsc::channel();
    let reader = threads::spawn("test-reader", threads::STACK_BYTES_DEEP, move || {
        told.send(closed(&mut socket)).unwrap();
    })
    .unwrap();
    assert_eq!(host.stop(), ExitReason::Stopped);
    assert_eq!(stopped.recv_timeout(PATIENCE).unwrap(), (1012, "service restart".to_owned()));
    reader.join().unwrap();
    assert_eq!(idle.read(&mut [0; 16]).unwrap_or(0), 0);
}
