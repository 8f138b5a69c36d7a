//! A model provider on loopback: strict about what it is asked, and it answers as it is told.
//!
//! [`Provider::start`] listens on a port of its own and answers "ok" to everything. [`Provider::then`] adds turns to its
//! script; each request takes the next one. It speaks the wire format of the path that is asked: OpenAI's chat completions
//! and Responses, Anthropic's Messages, Google's `streamGenerateContent`. A request that no provider would take (a wrong
//! method or key, a tool's answer without its call, …) gets status 400, and fails the test when the double is dropped.
//!
//! ```ignore
//! let provider = Provider::start();
//! provider.then(Turn::call("read", json!({ "path": "a" }))).then(Turn::text("done").pieces_of(1));
//! let server = Server::builder().config(&provider.config()).start();
//! …
//! assert_eq!(provider.requests()[1].messages()[2]["content"], "what a holds");
//! ```

mod rules;
mod turn;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use openclaw_rs::runtime::threads;
use serde_json::{Value, json};

pub(crate) use turn::Turn;
pub(crate) use wire::Format;

/// The key it asks for, unless [`Provider::takes_keys`] says otherwise.
pub(crate) const KEY: &str = "double-key-0123456789abcdef";
/// The model's name in [`Provider::config`].
pub(crate) const MODEL: &str = "double/echo";
/// Longest wait of [`Provider::wait_for_requests`], and for a held turn's release.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Largest body it takes, in bytes.
const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) format: Format,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Value,
    /// Which connection it came over, counted from 0.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What was said so far: `messages`, `input` or `contents`.
    pub(crate) fn messages(&self) -> &[Value] {
        let field = ["messages", "input", "contents"].into_iter().find(|field| self.body[*field].is_array());
        field.and_then(|field| self.body[field].as_array()).map_or(&[], Vec::as_slice)
    }

    /// The key it came with.
    fn key(&self) -> Option<&str> {
        let bearer = self.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        bearer.or_else(|| self.header("x-api-key")).or_else(|| self.header("x-goog-api-key"))
    }
}

/// The double. Dropping it ends its threads' connections, and fails the test when it was asked something wrong.
pub(crate) struct Provider {
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    shared: Arc<Shared>,
}

type Answers = Box<dyn FnMut(&Request) -> Turn + Send>;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ends: AtomicBool,
}

struct State {
    script: VecDeque<Turn>,
    answers: Answers,
    requests: Vec<Request>,
    problems: Vec<String>,
    keys: Vec<String>,
    /// Those that are open, by their number.
    connections: BTreeMap<usize, TcpStream>,
    released: usize,
    holding: usize,
    may_be_wrong: bool,
}

impl Provider {
    /// Listens, and answers "ok" to whatever is not in its script.
    pub(crate) fn start() -> Provider {
        Provider::start_with(|_| Turn::text("ok"))
    }

    /// Listens, and lets `answers` decide on what is not in its script.
    pub(crate) fn start_with(answers: impl FnMut(&Request) -> Turn + Send + 'static) -> Provider {
        Provider::listen(Box::new(answers), None)
    }

    /// As [`Provider::start`], over TLS with a certificate of [`Provider::root`].
    pub(crate) fn start_tls() -> Provider {
        Provider::listen(Box::new(|_| Turn::text("ok")), Some(tls_config()))
    }

    /// The root that signed the certificate of [`Provider::start_tls`], for `SSL_CERT_FILE`.
    pub(crate) fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls/root.pem")
    }

    fn listen(answers: Answers, tls: Option<Arc<rustls::ServerConfig>>) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = State {
            script: VecDeque::new(),
            answers,
            requests: Vec::new(),
            problems: Vec::new(),
            keys: vec![KEY.to_owned()],
            connections: BTreeMap::new(),
            released: 0,
            holding: 0,
            may_be_wrong: false,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), ends: AtomicBool::new(false) });
        let (accepting, config) = (Arc::clone(&shared), tls.clone());
        let accept = move || {
            for (number, stream) in listener.incoming().enumerate() {
                if accepting.ends.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { return };
                let Ok(kept) = stream.try_clone() else { continue };
                accepting.lock().connections.insert(number, kept);
                let (shared, config) = (Arc::clone(&accepting), config.clone());
                let serve = move || serve(number, stream, config, &shared);
                threads::spawn("double", threads::STACK_BYTES_DEEP, serve).expect("a thread can be started");
            }
        };
        threads::spawn("double-accept", threads::STACK_BYTES_DEEP, accept).expect("a thread can be started");
        Provider { address, tls, shared }
    }

    /// Adds a turn to the script.
    pub(crate) fn then(&self, turn: Turn) -> &Provider {
        self.shared.lock().script.push_back(turn);
        self
    }

    /// Takes these keys and no others.
    pub(crate) fn takes_keys(&self, keys: &[&str]) -> &Provider {
        self.shared.lock().keys = keys.iter().map(|key| (*key).to_owned()).collect();
        self
    }

    /// Lets wrong requests pass without failing the test; they still get status 400 or 401.
    pub(crate) fn may_be_asked_wrongly(&self) -> &Provider {
        self.shared.lock().may_be_wrong = true;
        self
    }

    /// Its address, without a path.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Everything it was asked so far, in order.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Waits until it was asked that often.
    #[track_caller]
    pub(crate) fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        let is_less = |state: &mut State| state.requests.len() < count;
        let state = self.shared.wait_while(is_less);
        assert!(state.requests.len() >= count, "asked {} times, not {count}", state.requests.len());
        state.requests.clone()
    }

    /// Waits until a turn holds ([`Turn::hold_after`]).
    #[track_caller]
    pub(crate) fn wait_until_held(&self) {
        let state = self.shared.wait_while(|state| state.holding == 0);
        assert!(state.holding > 0, "no turn holds");
    }

    /// Lets one held turn go on.
    pub(crate) fn release(&self) {
        self.shared.lock().released += 1;
        self.shared.changed.notify_all();
    }

    /// Forgets what it was asked so far, for a test that asks without end.
    pub(crate) fn forget_requests(&self) {
        self.shared.lock().requests.clear();
    }

    /// Waits until whoever asked over this connection has closed it, and says how long that took; `None`: it is open
    /// still after `within`.
    pub(crate) fn hung_up_after(&self, connection: usize, within: Duration) -> Option<Duration> {
        let began = Instant::now();
        let open = self.shared.lock().connections.get(&connection).map(|stream| stream.try_clone());
        let Some(stream) = open else { return Some(Duration::ZERO) };
        let stream = stream.expect("a descriptor is free");
        stream.set_read_timeout(Some(within)).expect("the time is not zero");
        let has_ended = match stream.peek(&mut [0; 1]) {
            Ok(n) => n == 0,
            Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        };
        // The option is the socket's, not this handle's. An error means that the socket is gone.
        let _ = stream.set_read_timeout(None);
        has_ended.then(|| began.elapsed())
    }

    /// Closes every connection, as a provider does with those that were idle for too long.
    pub(crate) fn drop_connections(&self) {
        for stream in std::mem::take(&mut self.shared.lock().connections).into_values() {
            // An error means that its peer was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Turns of the script that nobody has asked for yet.
    pub(crate) fn turns_left(&self) -> usize {
        self.shared.lock().script.len()
    }

    /// A configuration that asks it, as `double/echo`, through OpenAI's chat completions.
    pub(crate) fn config(&self) -> Value {
        self.config_for(Format::Chat)
    }

    /// A configuration that asks it, as `double/echo`, through this API.
    pub(crate) fn config_for(&self, format: Format) -> Value {
        json!({
            "agents": { "defaults": { "model": { "primary": MODEL } } },
            "models": { "providers": { "double": self.entry(format) } },
        })
    }

    /// Its entry under `models.providers`.
    pub(crate) fn entry(&self, format: Format) -> Value {
        let base = match format {
            Format::Chat | Format::Responses => "/v1",
            Format::Anthropic => "",
            Format::Google => "/v1beta",
        };
        json!({
            "baseUrl": format!("{}{base}", self.url()),
            "apiKey": KEY,
            "api": format.api(),
            "models": [{
                "id": "echo", "name": "Echo", "reasoning": true, "input": ["text", "image"],
                "contextWindow": 128_000, "maxTokens": 8192,
            }],
        })
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        let (problems, may_be_wrong) = {
            let mut state = self.shared.lock();
            for stream in std::mem::take(&mut state.connections).into_values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            (std::mem::take(&mut state.problems), state.may_be_wrong)
        };
        if !problems.is_empty() && !may_be_wrong && !std::thread::panicking() {
            panic!("the provider was asked wrongly:\n{}", problems.join("\n"));
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    fn wait_while(&self, mut condition: impl FnMut(&mut State) -> bool) -> std::sync::MutexGuard<'_, State> {
        let until = Instant::now() + WAIT_MAX;
        let is_waiting = |state: &mut State| !self.ends.load(Ordering::Acquire) && condition(state);
        let left = until.saturating_duration_since(Instant::now());
        self.changed.wait_timeout_while(self.lock(), left, is_waiting).expect("nothing panics while it holds").0
    }

    /// Waits for a release of its own.
    fn hold(&self) {
        self.lock().holding += 1;
        self.changed.notify_all();
        let mut state = self.wait_while(|state| state.released == 0);
        state.released = state.released.saturating_sub(1);
        state.holding -= 1;
    }

    /// What to answer to a request, which is kept.
    fn answer(&self, request: Request) -> Turn {
        let mut state = self.lock();
        let problem = rules::problem(&request);
        let is_known = request.key().is_some_and(|key| state.keys.iter().any(|known| known == key));
        state.requests.push(request.clone());
        self.changed.notify_all();
        if let Some(problem) = problem {
            state.problems.push(problem.clone());
            return Turn::status(400)
                .json(&json!({ "error": { "message": problem, "type": "invalid_request_error" } }));
        }
        if !is_known {
            state.problems.push(format!("the key {:?} is not known", request.key()));
            let error = json!({ "message": "Incorrect API key provided", "code": "invalid_api_key" });
            return Turn::status(401).json(&json!({ "error": error }));
        }
        match state.script.pop_front() {
            Some(turn) => turn,
            None => (state.answers)(&request),
        }
    }
}

/// Whatever bytes go over.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

fn tls_config() -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls");
    let chain = vec![CertificateDer::from_pem_file(dir.join("leaf.pem")).expect("the fixture is a certificate")];
    let key = PrivateKeyDer::from_pem_file(dir.join("leaf.key")).expect("the fixture is a key");
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let versions = rustls::ServerConfig::builder_with_provider(crypto).with_safe_default_protocol_versions();
    let config = versions.expect("ring speaks them").with_no_client_auth().with_single_cert(chain, key);
    Arc::new(config.expect("key and certificate belong together"))
}

/// One connection, request after request.
fn serve(number: usize, stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>, shared: &Shared) {
    let Ok(raw) = stream.try_clone() else { return };
    // Small pieces are the point: they must leave one by one.
    let _ = stream.set_nodelay(true);
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(config) => {
            let connection = rustls::ServerConnection::new(config).expect("the configuration is complete");
            Box::new(rustls::StreamOwned::new(connection, stream))
        }
    };
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(number, &mut reader, shared) {
        let format = request.format;
        let turn = shared.answer(request);
        if turn.play(format, reader.get_mut(), shared).is_err() || turn.ends_connection() {
            break;
        }
    }
    let _ = raw.shutdown(Shutdown::Both);
    shared.lock().connections.remove(&number);
}

fn read_request(number: usize, reader: &mut BufReader<Box<dyn Stream>>, shared: &Shared) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let find = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let length = find("content-length").and_then(|length| length.parse::<u64>().ok());
    let Some(length) = length.filter(|length| *length <= BODY_BYTES_MAX) else {
        shared.lock().problems.push(format!("{method} {path} has no content-length, or a huge one"));
        return None;
    };
    let mut body = vec![0; usize::try_from(length).ok()?];
    reader.read_exact(&mut body).ok()?;
    let complain = |what: String| {
        shared.lock().problems.push(what);
        None
    };
    if method != "POST" {
        return complain(format!("{method} {path} instead of POST"));
    }
    if find("content-type") != Some("application/json") {
        return complain(format!("{path} came with content-type {:?}", find("content-type")));
    }
    let Some(format) = Format::of_path(&path) else { return complain(format!("{path} is no path of a provider")) };
    match serde_json::from_slice(&body) {
        Ok(body) => Some(Request { format, path, headers, body, connection: number }),
        Err(error) => complain(format!("{path} came with a body that is no JSON: {error}")),
    }
}
