//! The control port: a small HTTP server of its own on `gateway.server.http_bind`, apart from the loop so that it
//! answers when the loop is stuck, and says so.
//!
//! | route | answered by |
//! |---|---|
//! | `GET /health` | here, for anyone |
//! | `GET /status`, `GET /metrics`, `GET /rpc/methods`, `POST /rpc` | the core, which asks for the gateway's bearer |
//!
//! The core gets such a request as an event like those of the gateway port, and has [`ANSWER_TIME_MAX`] for it.
//!
//! The sockets are tiny_http's, which gives a thread to each connection that has sent something and bounds neither
//! their number nor their heads. So this port is off unless it is configured, and belongs on an address that only the
//! operator's own machines reach; the kernel keeps connections that send nothing away from it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use mio::net::TcpStream;
use tiny_http::{Header, Method, Request, Response, Server as HttpServer, StatusCode};

use super::NetError;
use super::http1::{BODY_BYTES_MAX, HEADERS_MAX, Refusal, response};
use super::mailbox::{LoopSender, Question};
use super::server::Pulse;
use crate::gateway::http::{HttpRequest, HttpResponse};
use crate::log_limited;
use crate::runtime::{memory, metrics, pool, threads};

/// Threads that answer; as many requests are worked on at once.
pub const THREADS: usize = 2;
/// How long the loop has to answer a request; then 503.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// A turn of the loop longer than this is called stuck by `/health`.
pub const STUCK_TIME: Duration = Duration::from_secs(5);
/// How long the threads get to end.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(6);
/// How long a thread waits for a request before it looks whether it should end.
const POLL_TIME: Duration = Duration::from_millis(500);
/// How long the kernel keeps a connection that has sent nothing.
const SILENCE_SECONDS_MAX: libc::c_int = 5;
/// How long to rest before listening again after accepting failed.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

const _: () = assert!(STOP_TIME_MAX.as_secs() > ANSWER_TIME_MAX.as_secs());

/// The routes that the core answers.
const ROUTES: [(&str, Verb); 4] =
    [("/status", Verb::Get), ("/metrics", Verb::Get), ("/rpc/methods", Verb::Get), ("/rpc", Verb::Post)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
}

impl Verb {
    fn allow(self) -> &'static str {
        match self {
            Verb::Get => "GET, HEAD",
            Verb::Post => "POST",
        }
    }

    fn allows(self, method: &Method) -> bool {
        match self {
            Verb::Get => matches!(method, Method::Get | Method::Head),
            Verb::Post => *method == Method::Post,
        }
    }
}

/// The running control port.
pub struct Control {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    address: SocketAddr,
}

/// What its threads share.
struct Desk {
    sender: LoopSender,
    pulse: Arc<Pulse>,
    address: SocketAddr,
}

impl Control {
    /// Listens on `address` and starts the `control` thread.
    ///
    /// # Errors
    /// [`NetError::ListenControl`], [`NetError::Thread`].
    pub fn start(address: SocketAddr, sender: LoopSender, pulse: Arc<Pulse>) -> Result<Control, NetError> {
        let failed = |source| NetError::ListenControl { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        keep_silent_peers_waiting(&listener).map_err(failed)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let desk = Arc::new(Desk { sender, pulse, address });
        let body = move || serve(&listener, &desk, &stop);
        let thread = threads::spawn("control", threads::STACK_BYTES, body)
            .map_err(|source| NetError::Thread { name: "control", source })?;
        log::info!("control port is listening address={address}");
        Ok(Control { stopping, thread, address })
    }

    /// Where it listens, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends its threads; says whether they ended by `deadline`.
    pub fn stop(self, deadline: Instant) -> bool {
        self.stopping.store(true, Ordering::Release);
        let ended = pool::join_until(self.thread, deadline);
        if !ended {
            log::error!("a thread did not stop in time thread=control");
        }
        ended
    }
}

/// Runs servers on one listening socket: tiny_http's accepting ends with its first error, out of descriptors included,
/// and is then begun anew.
fn serve(listener: &TcpListener, desk: &Arc<Desk>, stopping: &Arc<AtomicBool>) {
    while !stopping.load(Ordering::Acquire) {
        let server = listener
            .try_clone()
            .map_err(|e| e.to_string())
            .and_then(|socket| HttpServer::from_listener(socket, None).map(Arc::new).map_err(|e| e.to_string()));
        match server {
            Ok(server) => serve_until_error(&server, desk, stopping),
            Err(error) => log_limited!(Error, "the control port cannot serve: {error}"),
        }
        if !stopping.load(Ordering::Acquire) {
            std::thread::sleep(REOPEN_PAUSE);
        }
    }
}

fn serve_until_error(server: &Arc<HttpServer>, desk: &Arc<Desk>, stopping: &Arc<AtomicBool>) {
    let helper = {
        let (server, desk, stopping) = (Arc::clone(server), Arc::clone(desk), Arc::clone(stopping));
        threads::spawn("control-1", threads::STACK_BYTES, move || answer_requests(&server, &desk, &stopping))
    };
    answer_requests(server, desk, stopping);
    if let Ok(helper) = helper {
        // It ends by itself: it waits for a request no longer than this thread did.
        let _ = helper.join();
    }
}

fn answer_requests(server: &HttpServer, desk: &Desk, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Acquire) {
        match server.recv_timeout(POLL_TIME) {
            Ok(Some(request)) => desk.answer(request),
            Ok(None) => {}
            Err(error) => {
                log_limited!(Warn, "the control port cannot accept: {error}");
                return;
            }
        }
    }
}

impl Desk {
    fn answer(&self, mut request: Request) {
        metrics::CONTROL_REQUESTS.increment();
        let response = self.respond(&mut request);
        let mut out = Response::from_data(response.body).with_status_code(StatusCode(response.status));
        for (name, value) in &response.headers {
            if let Ok(header) = Header::from_bytes(name.as_bytes(), value.as_bytes()) {
                out.add_header(header);
            }
        }
        if let Err(error) = request.respond(out) {
            log_limited!(Debug, "a control request was not answered: {error}");
        }
    }

    fn respond(&self, request: &mut Request) -> HttpResponse {
        let path = request.url().split(['?', '#']).next().unwrap_or("/").to_owned();
        if path == "/health" {
            return if Verb::Get.allows(request.method()) { self.health() } else { wrong_verb(Verb::Get) };
        }
        match ROUTES.iter().find(|(route, _)| *route == path) {
            None => not_found(&path),
            Some((_, verb)) if !verb.allows(request.method()) => wrong_verb(*verb),
            Some(_) => match self.read(request) {
                Ok(request) if path == "/metrics" => {
                    // Here rather than on the loop, which reads no files.
                    memory::sample();
                    self.ask(request)
                }
                Ok(request) => self.ask(request),
                Err(refusal) => refusal.response(),
            },
        }
    }

    /// Alive when the loop waits, or has been busy for no longer than [`STUCK_TIME`].
    fn health(&self) -> HttpResponse {
        let now = Instant::now();
        let (busy, uptime_ms) = (self.pulse.busy_for(now), self.pulse.uptime(now).as_millis());
        if busy > STUCK_TIME {
            let busy_ms = busy.as_millis();
            let body = format!(r#"{{"ok":false,"loop":"stuck","busyMs":{busy_ms},"uptimeMs":{uptime_ms}}}"#);
            return json(503, body);
        }
        json(200, format!(r#"{{"ok":true,"uptimeMs":{uptime_ms}}}"#))
    }

    fn read(&self, request: &mut Request) -> Result<HttpRequest, Refusal> {
        const TOO_LARGE: Refusal = Refusal { status: 413, reason: "payload too large" };
        if request.headers().len() > HEADERS_MAX {
            return Err(Refusal { status: 431, reason: "request head too large" });
        }
        if request.body_length().is_some_and(|bytes| bytes > BODY_BYTES_MAX) {
            return Err(TOO_LARGE);
        }
        let mut body = Vec::new();
        let limit = BODY_BYTES_MAX as u64 + 1;
        request
            .as_reader()
            .take(limit)
            .read_to_end(&mut body)
            .map_err(|_| Refusal { status: 400, reason: "request body is not readable" })?;
        if body.len() > BODY_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        if request.body_length().is_some_and(|bytes| bytes != body.len()) {
            return Err(Refusal { status: 400, reason: "request body is cut" });
        }
        let headers = request.headers().iter();
        let lower =
            |header: &Header| (header.field.as_str().as_str().to_ascii_lowercase(), header.value.as_str().to_owned());
        Ok(HttpRequest {
            peer: request.remote_addr().copied().unwrap_or(self.address),
            local: self.address,
            method: request.method().as_str().to_owned(),
            target: request.url().to_owned(),
            headers: headers.map(lower).collect(),
            body,
        })
    }

    /// Has the core answer.
    fn ask(&self, request: HttpRequest) -> HttpResponse {
        let (answer, answered) = bounded(1);
        if self.sender.ask(Question { request, answer }).is_err() {
            return Refusal { status: 503, reason: "the gateway is busy" }.response();
        }
        match answered.recv_timeout(ANSWER_TIME_MAX) {
            Ok(mut response) => {
                add_missing(&mut response.headers, "Cache-Control", "no-store");
                add_missing(&mut response.headers, "X-Content-Type-Options", "nosniff");
                response
            }
            Err(_) => Refusal { status: 503, reason: "the gateway does not answer" }.response(),
        }
    }
}

fn add_missing(headers: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name)) {
        headers.push((name.to_owned(), value.to_owned()));
    }
}

fn json(status: u16, body: String) -> HttpResponse {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = vec![
        header("Content-Type", "application/json; charset=utf-8"),
        header("Cache-Control", "no-store"),
        header("X-Content-Type-Options", "nosniff"),
    ];
    HttpResponse { status, headers, body: body.into_bytes() }
}

fn not_found(path: &str) -> HttpResponse {
    json(404, serde_json::json!({ "ok": false, "error": "not_found", "path": path }).to_string())
}

fn wrong_verb(verb: Verb) -> HttpResponse {
    let mut response = json(405, String::from(r#"{"ok":false,"error":"method_not_allowed"}"#));
    response.headers.push((String::from("Allow"), verb.allow().to_owned()));
    response
}

/// Has the kernel hold connections back until they have sent something, and forget those that do not.
fn keep_silent_peers_waiting(listener: &TcpListener) -> io::Result<()> {
    let seconds = SILENCE_SECONDS_MAX;
    // SAFETY: setsockopt reads one int through the pointer, which is valid for the call; the descriptor is open for as
    // long as the listener is borrowed.
    let done = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tells a socket that was just accepted on the gateway port why it is not served. One attempt, which the kernel's
/// empty buffer takes; whoever does not wait for it misses it.
pub(super) fn refuse(stream: &mut TcpStream, refusal: Refusal, wall_ms: i64) {
    let bytes = response::encode(&refusal.response(), response::BodyPart::Written, false, wall_ms);
    let _ = stream.write(&bytes);
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as StdStream;

    use super::*;
    use crate::net::mailbox::{Mailbox, Post};

    /// A control port and the loop's end of its questions, of which nothing is answered unless the test does.
    struct Port {
        control: Control,
        mailbox: Mailbox,
    }

    impl Port {
        fn start(pulse: Pulse) -> Port {
            let poll = mio::Poll::new().unwrap();
            let (mailbox, sender) = Mailbox::new(&poll).unwrap();
            let address = "127.0.0.1:0".parse().unwrap();
            Port { control: Control::start(address, sender, Arc::new(pulse)).unwrap(), mailbox }
        }

        fn waiting() -> Port {
            Port::start(Pulse::new(Instant::now()))
        }

        fn send(&self, request: &str) -> StdStream {
            let mut stream = StdStream::connect(self.control.address()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        }

        fn exchange(&self, request: &str) -> String {
            read_all(self.send(request))
        }

        fn stop(self) {
            assert!(self.control.stop(Instant::now() + STOP_TIME_MAX));
        }
    }

    fn read_all(mut stream: StdStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    }

    #[track_caller]
    fn check(answer: &str, status: u16, body: &str) {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("Cache-Control: no-store\r\n"), "{answer}");
        assert!(answer.contains("X-Content-Type-Options: nosniff\r\n"), "{answer}");
        assert!(answer.contains(&format!("Content-Length: {}\r\n", answer.split("\r\n\r\n").nth(1).unwrap().len())));
        assert!(answer.ends_with(body), "{answer}");
    }

    #[test]
    fn health_is_for_anyone_and_says_when_the_loop_is_stuck() {
        let port = Port::waiting();
        let answer = port.exchange(&get("/health"));
        check(&answer, 200, "}");
        assert!(answer.contains(r#"{"ok":true,"uptimeMs":"#), "{answer}");
        port.stop();

        let started = Instant::now().checked_sub(STUCK_TIME * 3).unwrap();
        let pulse = Pulse::new(started);
        pulse.begin_turn(started + STUCK_TIME);
        let port = Port::start(pulse);
        let answer = port.exchange(&get("/health"));
        check(&answer, 503, "}");
        assert!(answer.contains(r#"{"ok":false,"loop":"stuck","busyMs":"#), "{answer}");
        port.stop();
    }

    #[test]
    fn an_unknown_route_and_a_wrong_verb_are_told_apart() {
        let port = Port::waiting();
        check(&port.exchange(&get("/no\"where?x=1")), 404, r#"{"ok":false,"error":"not_found","path":"/no\"where"}"#);
        let answer = port.exchange(&get("/rpc"));
        check(&answer, 405, r#"{"ok":false,"error":"method_not_allowed"}"#);
        assert!(answer.contains("Allow: POST\r\n"), "{answer}");
        let answer =
            port.exchange("POST /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        check(&answer, 405, r#"{"ok":false,"error":"method_not_allowed"}"#);
        assert!(answer.contains("Allow: GET, HEAD\r\n"), "{answer}");
        port.stop();
    }

    #[test]
    fn the_core_answers_the_rest_with_the_headers_it_was_sent() {
        let mut port = Port::waiting();
        let stream = port.send(
            "POST /rpc?a=b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        );
        let deadline = Instant::now() + Duration::from_secs(10);
        let question = loop {
            assert!(Instant::now() < deadline, "nothing is asked");
            if port.mailbox.begin_turn() > 0
                && let Some(Post::Ask(question)) = port.mailbox.take()
            {
                break question;
            }
            std::thread::yield_now();
        };
        let request = &question.request;
        assert_eq!(
            (request.method.as_str(), request.target.as_str(), &request.body[..]),
            ("POST", "/rpc?a=b", &b"abc"[..])
        );
        assert_eq!(request.header("authorization"), Some("Bearer s"));
        assert_eq!(request.local, port.control.address());
        assert!(request.peer.ip().is_loopback());
        question.answer.send(json(401, "no".to_owned())).unwrap();
        check(&read_all(stream), 401, "no");
        port.stop();
    }

    #[test]
    fn a_body_over_the_limit_is_not_asked_about() {
        let port = Port::waiting();
        let body = "x".repeat(BODY_BYTES_MAX + 1);
        let head = "POST /rpc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
        let sized = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        check(&port.exchange(&sized), 413, r#"{"ok":false,"error":"payload too large"}"#);
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        check(&port.exchange(&chunked), 413, r#"{"ok":false,"error":"payload too large"}"#);
        port.stop();
    }
}
