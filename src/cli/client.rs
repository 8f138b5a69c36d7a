//! A blocking client of the gateway protocol: connect, prove who we are, call, leave.
//!
//! Follows the wire contract, parts 2, 3, 6, 9 and 18: it connects as `cli` in mode `cli` for protocols 3 to 4, with a
//! shared secret and no device, which a gateway lets keep its scopes on loopback, and asks only for the scopes that
//! the command needs. Every wait ends at one deadline, given for the whole command.
//!
//! Limits: `ws://` only. Over the network the secret would travel in the clear, so any address but loopback is refused
//! unless the caller insists.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::{HandshakeError, Message, WebSocket};

use crate::protocol::FRAME_BYTES_MAX;
use crate::protocol::connect::{ClientId, ClientMode, Credentials};
use crate::protocol::json::json;
use crate::protocol::scope::Scope;
use crate::protocol::version::Protocol;
use crate::runtime::random;

/// How long a command waits when it is not told.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Bytes read from the socket at once; answers are small, and tungstenite's own default is 128 KiB.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Pause before a gateway that is still starting is asked again, when it does not name one.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a request of a command that listens ([`Client::send`]) may take to be written.
const SEND_WAIT: Duration = Duration::from_secs(10);
/// How long to wait for the other side of the closing handshake; nothing depends on it.
const CLOSE_WAIT: Duration = Duration::from_millis(250);

/// Whether a secret may travel in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plaintext {
    /// On this machine only.
    LoopbackOnly,
    /// Anywhere: the caller insisted.
    Anywhere,
}

/// Where to connect and as whom.
#[derive(Debug)]
pub struct Target {
    /// `ws://HOST[:PORT][/PATH]`.
    pub url: String,
    /// The shared secret; a gateway in mode `none` needs none.
    pub credentials: Credentials,
    /// Where plain `ws://` may go.
    pub plaintext: Plaintext,
    /// How long everything together may take.
    pub timeout: Duration,
}

/// Why a gateway could not be reached or what it refused.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address is none.
    #[error("{url} is not a gateway address: {why}")]
    BadUrl {
        /// As given, without what may be a secret.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// `wss://`.
    #[error("{url} needs TLS, which this build does not speak as a client")]
    NeedsTls {
        /// As given.
        url: String,
    },
    /// `ws://` to another machine.
    #[error("{url} is not on this machine, and ws:// would carry the secret in the clear")]
    PlaintextRefused {
        /// As given.
        url: String,
    },
    /// The name has no address.
    #[error("cannot find {host}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// Nobody listens.
    #[error("no gateway answers on {url}")]
    Connect {
        /// Where.
        url: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Something listens, and it is no gateway.
    #[error("what answers on {url} is not a gateway: {what}")]
    NotAGateway {
        /// Where.
        url: String,
        /// What it said instead.
        what: String,
    },
    /// The time is up.
    #[error("{url} did not {what} within {timeout_ms} ms")]
    Timeout {
        /// Where.
        url: String,
        /// What was waited for.
        what: &'static str,
        /// The time everything had.
        timeout_ms: u128,
    },
    /// The connection ended before the answer came.
    #[error("the gateway closed the connection: {} {reason}", code.map_or_else(|| String::from("no code"), |code| code.to_string()))]
    Closed {
        /// The close code; none when the socket just ended.
        code: Option<u16>,
        /// The reason given with it.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("the connection to {url} broke")]
    Broke {
        /// Where.
        url: String,
        /// The library's or the operating system's reason.
        source: Box<tungstenite::Error>,
    },
    /// A refusal, of the connection or of a call.
    #[error("the gateway refused {method}: {error}")]
    Refused {
        /// What was asked: `connect` or the method.
        method: String,
        /// What the gateway said.
        error: Box<WireError>,
    },
    /// A refusal of a method that the gateway does not list: what it then says of scopes misleads.
    #[error("the gateway (version {version}) does not offer {method}")]
    NotOffered {
        /// The method.
        method: String,
        /// The gateway's version.
        version: String,
        /// What it said.
        source: Box<WireError>,
    },
    /// An answer that does not have the form the command reads.
    #[error("the gateway's answer to {method} has another form than expected")]
    BadAnswer {
        /// The method.
        method: &'static str,
        /// Where it differs.
        source: serde_json::Error,
    },
}

/// An error as a gateway sends it.
#[derive(Clone, Debug, Deserialize, PartialEq, Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct WireError {
    /// `INVALID_REQUEST`, `UNAVAILABLE`, ...
    #[serde(default)]
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// For programs: `details.code` says which case it is.
    #[serde(default)]
    pub details: Option<Value>,
    /// Whether to try again.
    #[serde(default)]
    pub retryable: Option<bool>,
    /// When, in milliseconds.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

impl WireError {
    /// The case, when the gateway names one.
    pub fn detail_code(&self) -> Option<&str> {
        self.details.as_ref()?.get("code")?.as_str()
    }

    fn is_about_method_or_scope(&self) -> bool {
        self.message.starts_with("missing scope: ") || self.message.starts_with("unknown method: ")
    }
}

impl ClientError {
    /// A stable word for scripts: the gateway's own code for what it refused.
    pub fn code(&self) -> &str {
        match self {
            ClientError::BadUrl { .. } => "BAD_URL",
            ClientError::NeedsTls { .. } => "TLS_UNSUPPORTED",
            ClientError::PlaintextRefused { .. } => "PLAINTEXT_REFUSED",
            ClientError::Resolve { .. } | ClientError::Connect { .. } => "UNREACHABLE",
            ClientError::NotAGateway { .. } => "NOT_A_GATEWAY",
            ClientError::Timeout { .. } => "TIMEOUT",
            ClientError::Closed { .. } | ClientError::Broke { .. } => "CLOSED",
            ClientError::Refused { error, .. } if !error.code.is_empty() => &error.code,
            ClientError::Refused { .. } => "REFUSED",
            ClientError::NotOffered { .. } => "NOT_OFFERED",
            ClientError::BadAnswer { .. } => "BAD_ANSWER",
        }
    }

    /// Whether the command line named an address that cannot be used.
    pub fn is_bad_address(&self) -> bool {
        matches!(self, ClientError::BadUrl { .. } | ClientError::NeedsTls { .. } | ClientError::PlaintextRefused { .. })
    }

    /// What the operator could do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            ClientError::BadUrl { .. } => "an address looks like ws://127.0.0.1:18789",
            ClientError::NeedsTls { .. } | ClientError::PlaintextRefused { .. } => {
                "reach it through a tunnel: `ssh -N -L 18789:127.0.0.1:18789 HOST`, then --url ws://127.0.0.1:18789; \
                 --insecure-plaintext sends the secret over ws:// in the clear"
            }
            ClientError::Connect { .. } => "start one with `openclaw-rs gateway run`",
            ClientError::NotAGateway { .. } => "check the port: --url, gateway.port or OPENCLAW_GATEWAY_PORT",
            ClientError::Timeout { .. } => {
                "`openclaw-rs doctor` looks at the gateway from outside; --timeout waits longer"
            }
            ClientError::Refused { method, error } => return refusal_hint(method, error),
            ClientError::NotOffered { .. } => "another version may; `openclaw-rs gateway status` shows what runs there",
            ClientError::Resolve { .. }
            | ClientError::Closed { .. }
            | ClientError::Broke { .. }
            | ClientError::BadAnswer { .. } => return None,
        };
        Some(text.to_owned())
    }
}

fn refusal_hint(method: &str, error: &WireError) -> Option<String> {
    let detail = error.detail_code().unwrap_or("");
    let text = match detail {
        "AUTH_TOKEN_MISSING" | "AUTH_PASSWORD_MISSING" | "AUTH_REQUIRED" => {
            "give the gateway's secret with --token or --password, or set OPENCLAW_RS_GATEWAY_TOKEN"
        }
        "AUTH_TOKEN_MISMATCH" | "AUTH_PASSWORD_MISMATCH" => {
            "the gateway runs with another secret: check --token, OPENCLAW_RS_GATEWAY_TOKEN and gateway.auth.token, \
             and --state-dir when the token was generated"
        }
        "AUTH_RATE_LIMITED" => "too many wrong secrets came from here; wait before trying again",
        "PAIRING_REQUIRED" | "DEVICE_IDENTITY_REQUIRED" | "MISSING_SCOPE" => {
            "this command speaks for the machine's owner without a device of its own: run it on the gateway's \
             machine, with the gateway's token"
        }
        "PROTOCOL_MISMATCH" => "the gateway speaks another protocol than 3 and 4: check its version",
        _ if error.code == "NOT_PAIRED" || error.message.starts_with("missing scope") => {
            "this command speaks for the machine's owner without a device of its own: run it on the gateway's \
             machine, with the gateway's token"
        }
        _ if method != "connect" && error.retryable == Some(true) => "the gateway asks to try again later",
        _ => return None,
    };
    Some(text.to_owned())
}

/// A connection that said hello.
pub struct Client {
    socket: WebSocket<Deadlined>,
    url: String,
    timeout: Duration,
    hello: Hello,
}

/// What the gateway said of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Hello {
    /// 3 or 4.
    pub protocol: i64,
    /// The server part.
    pub server: HelloServer,
    /// What it offers.
    #[serde(default)]
    pub features: HelloFeatures,
    /// What it granted; absent on protocol 3 without a device.
    #[serde(default)]
    pub auth: Option<HelloAuth>,
    /// State at the time of the hello.
    #[serde(default)]
    pub snapshot: HelloSnapshot,
}

/// The server part of a hello.
#[derive(Clone, Debug, Deserialize)]
pub struct HelloServer {
    /// Its version.
    #[serde(default)]
    pub version: String,
}

/// What a gateway offers.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct HelloFeatures {
    /// Names of methods.
    #[serde(default)]
    pub methods: Vec<String>,
}

/// What a gateway granted.
#[derive(Clone, Debug, Deserialize)]
pub struct HelloAuth {
    /// Which secret admitted us.
    #[serde(default)]
    pub method: Option<String>,
    /// What we may do.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// State at the time of the hello.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloSnapshot {
    /// How long it has been up, in milliseconds.
    #[serde(default)]
    pub uptime_ms: Option<u64>,
}

/// Any frame a gateway sends, read for what this client needs.
#[derive(Deserialize)]
struct Incoming {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    payload: Option<Value>,
    #[serde(default)]
    error: Option<WireError>,
}

/// What came, for a command that listens instead of waiting for one answer.
#[derive(Debug)]
pub enum Arrival {
    /// The answer to a request.
    Answer {
        /// What [`Client::send`] gave for it.
        id: String,
        /// What was answered.
        outcome: Result<Value, WireError>,
    },
    /// An event.
    Event {
        /// `chat`, `tick`, ...
        name: String,
        /// What it says.
        payload: Value,
    },
}

/// Whether an answer that only says `accepted` is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The first one.
    First,
    /// The first that is not `accepted`.
    Final,
}

impl Client {
    /// Connects to `target` asking for `scopes`, waiting for a gateway that is still starting as long as there is time.
    ///
    /// # Errors
    /// [`ClientError`]; a refused connect is [`ClientError::Refused`] with method `connect`.
    pub fn connect(target: &Target, scopes: &[Scope]) -> Result<Client, ClientError> {
        let place = Place::parse(&target.url)?;
        place.check_plaintext(target.plaintext)?;
        let deadline = Instant::now() + target.timeout;
        loop {
            match Client::connect_once(target, &place, scopes, deadline) {
                Err(ClientError::Refused { error, .. }) if starting(&error) => {
                    let pause = error.retry_after_ms.map_or(RETRY_PAUSE, Duration::from_millis);
                    if Instant::now() + pause >= deadline {
                        return Err(ClientError::Refused { method: "connect".to_owned(), error });
                    }
                    std::thread::sleep(pause);
                }
                connected_or_failed => return connected_or_failed,
            }
        }
    }

    fn connect_once(
        target: &Target,
        place: &Place,
        scopes: &[Scope],
        deadline: Instant,
    ) -> Result<Client, ClientError> {
        let url = place.shown.as_str();
        let timed_out =
            |what| ClientError::Timeout { url: url.to_owned(), what, timeout_ms: target.timeout.as_millis() };
        let stream = place.open(deadline, || timed_out("accept a connection"))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let socket = match tungstenite::client::client_with_config(place.url.as_str(), stream, Some(config)) {
            Ok((socket, _)) => socket,
            Err(HandshakeError::Failure(error)) => return Err(no_upgrade(url, error, || timed_out("answer"))),
            // Only a socket that does not wait can be interrupted; ours waits until its deadline.
            Err(HandshakeError::Interrupted(_)) => return Err(timed_out("answer")),
        };
        let hello = Hello {
            protocol: 0,
            server: HelloServer { version: String::new() },
            features: HelloFeatures::default(),
            auth: None,
            snapshot: HelloSnapshot::default(),
        };
        let mut client = Client { socket, url: url.to_owned(), timeout: target.timeout, hello };
        // Nothing here is signed, so the challenge's nonce has no use; but a gateway that sends none is none.
        client.next(|frame| frame.event.as_deref() == Some("connect.challenge"), "greet")?;
        let payload = client.request("connect", connect_params(&target.credentials, scopes), Answer::First)?;
        client.hello =
            serde_json::from_value(payload).map_err(|source| ClientError::BadAnswer { method: "connect", source })?;
        Ok(client)
    }

    /// Where it is, without what may be a secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the gateway said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Calls `method`; `params` `Null` sends none.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for what the gateway refuses; the others when there is no answer.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, ClientError> {
        self.request(method, params, Answer::First)
    }

    /// Calls `method` and reads the answer as `T`.
    ///
    /// # Errors
    /// As [`Client::call`], and [`ClientError::BadAnswer`].
    pub fn ask<T: for<'a> Deserialize<'a>>(&mut self, method: &'static str, params: Value) -> Result<T, ClientError> {
        let answer = self.call(method, params)?;
        serde_json::from_value(answer).map_err(|source| ClientError::BadAnswer { method, source })
    }

    /// Calls `method` and waits for `answer`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn request(&mut self, method: &str, params: Value, answer: Answer) -> Result<Value, ClientError> {
        let id = self.write(method, params)?;
        let is_answer = |frame: &Incoming| {
            let accepted = || frame.payload.as_ref().and_then(|p| p.get("status")).is_some_and(|s| s == "accepted");
            frame.kind == "res"
                && frame.id.as_deref() == Some(&id)
                && (answer == Answer::First || !frame.ok || !accepted())
        };
        let response = self.next(is_answer, "answer")?;
        if response.ok {
            return Ok(response.payload.unwrap_or(Value::Null));
        }
        Err(self.refused(method, response.error.unwrap_or_else(no_reason)))
    }

    /// Writes a request and gives its id.
    fn write(&mut self, method: &str, params: Value) -> Result<String, ClientError> {
        let id = random::uuid();
        let mut frame = json!({"type": "req", "id": id, "method": method});
        if !params.is_null() {
            frame["params"] = params;
        }
        let sent = self.socket.send(Message::text(frame.to_string()));
        // A gateway that refuses at once may have closed already; what it said is still there to be read.
        if let Err(error) = sent
            && !matches!(error, tungstenite::Error::Io(_) | tungstenite::Error::ConnectionClosed)
        {
            return Err(self.broke(error, "take a request"));
        }
        Ok(id)
    }

    /// Calls `method` without waiting: its answer is one of the [`Client::arrival`]s.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn send(&mut self, method: &str, params: Value) -> Result<String, ClientError> {
        self.socket.get_mut().deadline = Instant::now() + SEND_WAIT;
        self.write(method, params)
    }

    /// What comes next, if anything does until `until`. Answers to [`Client::call`] are not among them.
    ///
    /// # Errors
    /// When the connection ended.
    pub fn arrival(&mut self, until: Instant) -> Result<Option<Arrival>, ClientError> {
        self.socket.get_mut().deadline = until;
        match self.next(|frame| frame.kind == "res" || frame.kind == "event", "speak") {
            // What has arrived of a frame is kept, and the rest of it is read the next time.
            Err(ClientError::Timeout { .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(Incoming { kind, id, ok, payload, error, .. }) if kind == "res" => {
                let payload = payload.unwrap_or(Value::Null);
                let outcome = if ok { Ok(payload) } else { Err(error.unwrap_or_else(no_reason)) };
                Ok(Some(Arrival::Answer { id: id.unwrap_or_default(), outcome }))
            }
            Ok(Incoming { event, payload, .. }) => {
                Ok(Some(Arrival::Event { name: event.unwrap_or_default(), payload: payload.unwrap_or(Value::Null) }))
            }
        }
    }

    /// The error for a refusal of `method`.
    pub fn refused(&self, method: &str, error: WireError) -> ClientError {
        let (method, error) = (method.to_owned(), Box::new(error));
        let offered = &self.hello.features.methods;
        // Whoever lacks admin hears of a missing scope for a method that nobody knows (wire contract, part 9).
        if error.is_about_method_or_scope() && !offered.is_empty() && !offered.contains(&method) {
            let version = self.hello.server.version.clone();
            return ClientError::NotOffered { method, version, source: error };
        }
        ClientError::Refused { method, error }
    }

    /// Says goodbye and lets go.
    pub fn close(mut self) {
        // Clients of this protocol close without a code; the answer to it is only waited for briefly.
        self.socket.get_mut().deadline = Instant::now() + CLOSE_WAIT;
        if self.socket.close(None).is_ok() {
            while self.socket.read().is_ok() {}
        }
    }

    /// The next frame that `wanted` accepts; the others (events we did not ask for) are let go.
    fn next(&mut self, wanted: impl Fn(&Incoming) -> bool, what: &'static str) -> Result<Incoming, ClientError> {
        loop {
            let message = match self.socket.read() {
                Ok(message) => message,
                Err(error) => return Err(self.broke(error, what)),
            };
            match message {
                Message::Text(_) | Message::Binary(_) => {
                    let bytes = message.into_data();
                    if let Ok(frame) = serde_json::from_slice::<Incoming>(&bytes)
                        && wanted(&frame)
                    {
                        return Ok(frame);
                    }
                }
                Message::Close(frame) => return Err(closed(frame)),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
            // A gateway that keeps talking past the question must not keep us here.
            if Instant::now() >= self.socket.get_ref().deadline {
                return Err(self.timed_out(what));
            }
        }
    }

    fn timed_out(&self, what: &'static str) -> ClientError {
        ClientError::Timeout { url: self.url.clone(), what, timeout_ms: self.timeout.as_millis() }
    }

    fn broke(&self, error: tungstenite::Error, what: &'static str) -> ClientError {
        match error {
            tungstenite::Error::Io(error) if is_timeout(&error) => self.timed_out(what),
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => closed(None),
            error => ClientError::Broke { url: self.url.clone(), source: Box::new(error) },
        }
    }
}

fn no_reason() -> WireError {
    WireError {
        code: String::new(),
        message: "refused without a reason".to_owned(),
        details: None,
        retryable: None,
        retry_after_ms: None,
    }
}

fn closed(frame: Option<CloseFrame>) -> ClientError {
    match frame {
        Some(frame) => ClientError::Closed { code: Some(frame.code.into()), reason: frame.reason.to_string() },
        None => ClientError::Closed { code: None, reason: String::new() },
    }
}

/// Whether a refused connect only means that the gateway needs another moment.
fn starting(error: &WireError) -> bool {
    error.code == "UNAVAILABLE" && error.retryable == Some(true)
}

fn no_upgrade(url: &str, error: tungstenite::Error, timed_out: impl FnOnce() -> ClientError) -> ClientError {
    let url = url.to_owned();
    match error {
        tungstenite::Error::Io(error) if is_timeout(&error) => timed_out(),
        tungstenite::Error::Http(response) => {
            ClientError::NotAGateway { url, what: format!("HTTP status {}", response.status()) }
        }
        tungstenite::Error::Io(source) => ClientError::Broke { url, source: Box::new(tungstenite::Error::Io(source)) },
        other => ClientError::NotAGateway { url, what: other.to_string() },
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// What this client says of itself (wire contract, part 3).
fn connect_params(credentials: &Credentials, scopes: &[Scope]) -> Value {
    // Without a secret there is only a gateway in mode `none`, and that lets nobody in without a device but a local
    // program that is no command line (part 9).
    let has_secret = credentials.token.is_some() || credentials.password.is_some();
    let (id, mode) =
        if has_secret { (ClientId::Cli, ClientMode::Cli) } else { (ClientId::GatewayClient, ClientMode::Backend) };
    let mut params = json!({
        "minProtocol": Protocol::V3.number(),
        "maxProtocol": Protocol::V4.number(),
        "client": {
            "id": id.as_str(), "mode": mode.as_str(), "version": super::VERSION,
            "platform": std::env::consts::OS, "instanceId": random::uuid(),
        },
        "caps": [],
        "role": "operator",
        "scopes": scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
    });
    if let Some(token) = &credentials.token {
        params["auth"]["token"] = json!(token);
    }
    if let Some(password) = &credentials.password {
        params["auth"]["password"] = json!(password);
    }
    params
}

/// A gateway's address, taken apart.
struct Place {
    /// As given.
    url: String,
    /// Without what may hold a secret: for errors.
    shown: String,
    host: String,
    port: u16,
}

impl Place {
    fn parse(given: &str) -> Result<Place, ClientError> {
        use tungstenite::http::Uri;
        // A name before an @ and whatever follows a ? may be secrets; errors show the address without them.
        let plain = given.split(['?', '#']).next().unwrap_or("");
        let shown = match plain.rsplit_once('@') {
            Some((_, host)) => format!("...@{host}"),
            None => plain.to_owned(),
        };
        let bad = |why| ClientError::BadUrl { url: shown.clone(), why };
        let uri: Uri = given.parse().map_err(|_| bad("it cannot be read"))?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => return Err(ClientError::NeedsTls { url: shown }),
            _ => return Err(bad("it must start with ws://")),
        }
        if given.contains('@') {
            return Err(bad("secrets belong into --token or --password"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it has no host"))?;
        let port = uri.port_u16().unwrap_or(80);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Place { url: given.to_owned(), shown, host, port })
    }

    fn check_plaintext(&self, plaintext: Plaintext) -> Result<(), ClientError> {
        let loopback = self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        if loopback || plaintext == Plaintext::Anywhere {
            return Ok(());
        }
        Err(ClientError::PlaintextRefused { url: self.shown.clone() })
    }

    /// Tries every address of the host in turn.
    fn open(&self, deadline: Instant, timed_out: impl FnOnce() -> ClientError) -> Result<Deadlined, ClientError> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let addresses: Vec<SocketAddr> =
            found.map_err(|source| ClientError::Resolve { host: self.host.clone(), source })?.collect();
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            let Some(left) = left(deadline) else { return Err(timed_out()) };
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(Deadlined { stream, deadline });
                }
                Err(error) => last = error,
            }
        }
        if is_timeout(&last) {
            return Err(timed_out());
        }
        Err(ClientError::Connect { url: self.shown.clone(), source: last })
    }
}

/// The time until `deadline`, when there is any.
fn left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// A socket whose every wait ends at one instant, so that a peer which sends a byte now and then gains nothing.
struct Deadlined {
    stream: TcpStream,
    deadline: Instant,
}

impl Deadlined {
    fn left(&self) -> io::Result<Duration> {
        left(self.deadline).ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))
    }
}

impl Read for Deadlined {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(self.left()?))?;
            return match self.stream.read(buffer) {
                // A signal came; a wait with a limit is not taken up again by itself.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The handshake takes `WouldBlock` for a socket that does not wait; here the time is up.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Err(io::Error::from(io::ErrorKind::TimedOut))
                }
                done => done,
            };
        }
    }
}

impl Write for Deadlined {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.set_write_timeout(Some(self.left()?))?;
            return match self.stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Err(io::Error::from(io::ErrorKind::TimedOut))
                }
                done => done,
            };
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests;
