//! A client as a story tells it: it calls, it is told things, it is shut out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::connect::{ConnectOptions, Proto};
use super::identity::Identities;
use super::inbox::{Arrival, Inbox, What};
use super::socket::{Refused, Socket};

/// Longest wait for an answer or event. Long, because the machine may be busy; a passing test never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Events that come by themselves and prove nothing about a test.
const HOUSEKEEPING: [&str; 6] =
    ["tick", "health", "presence", "heartbeat", "voicewake.changed", "voicewake.routing.changed"];

/// A connection that was accepted.
pub(crate) struct Client {
    name: String,
    socket: Socket,
    inbox: Arc<Inbox>,
    /// The payload of the accepted `connect`.
    pub(crate) hello: Value,
    /// Arrivals before this place are behind this client: events are looked for from here on.
    cursor: AtomicUsize,
    next_id: AtomicU64,
}

/// What became of one `connect`.
pub(crate) enum Attempt {
    Accepted(Box<Client>),
    /// Refused with this error, then closed.
    Refused {
        error: Value,
        close: Option<(u16, String)>,
    },
    /// Closed without an answer.
    Closed(u16, String),
    /// The upgrade itself was refused.
    NotUpgraded(Refused),
}

/// Everything one `connect` needs beside its options.
pub(crate) struct Door<'a> {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) token: &'a str,
    pub(crate) identities: &'a Identities,
    pub(crate) inbox: &'a Arc<Inbox>,
}

impl Attempt {
    /// Upgrades, waits for the challenge and says `connect`.
    pub(crate) fn make(door: &Door, name: &str, proto: Proto, options: &ConnectOptions) -> Attempt {
        let from = door.inbox.len();
        let socket = match Socket::open(door.address, door.headers, name, door.inbox) {
            Ok(socket) => socket,
            Err(refused) => return Attempt::NotUpgraded(refused),
        };
        let deadline = Instant::now() + PATIENCE;
        let challenge = door.inbox.wait(from, deadline, |a| {
            (a.socket == socket.id).then(|| a.event("connect.challenge").cloned().ok_or_else(|| ended(a)))
        });
        let nonce = match challenge {
            Some((_, Ok(payload))) => payload["nonce"].as_str().expect("the challenge has a nonce").to_owned(),
            Some((_, Err(Some((code, reason))))) => return Attempt::Closed(code, reason),
            _ => panic!("{name}: no challenge within {PATIENCE:?}"),
        };
        let params = options.params(proto, Some(&nonce), door.token, door.identities);
        let client = Client {
            name: name.to_owned(),
            inbox: door.inbox.clone(),
            hello: Value::Null,
            cursor: AtomicUsize::new(from),
            next_id: AtomicU64::new(1),
            socket,
        };
        match client.call("connect", params).outcome {
            Outcome::Answer(frame) if frame["ok"] == true => {
                Attempt::Accepted(Box::new(Client { hello: frame["payload"].clone(), ..client }))
            }
            Outcome::Answer(frame) => {
                let close = client.socket.closed(&client.inbox, PATIENCE);
                Attempt::Refused { error: frame["error"].clone(), close }
            }
            Outcome::Closed(code, reason) => Attempt::Closed(code, reason),
            Outcome::Nothing => panic!("{name}: no answer to connect within {PATIENCE:?}"),
        }
    }

    /// The client, for a test that is not about connecting.
    #[track_caller]
    pub(crate) fn expect_accepted(self) -> Client {
        match self {
            Attempt::Accepted(client) => *client,
            other => panic!("expected to be let in, but {}", other.told()),
        }
    }

    /// The error of a refusal with this code, after which the connection was closed with 1008.
    #[track_caller]
    pub(crate) fn expect_refused(self, code: &str) -> Refusal {
        match self {
            Attempt::Refused { error, close } => {
                assert_eq!(error["code"], code, "the refusal was {error}");
                let close = close.expect("a refused connect is followed by a close");
                assert_eq!(close.0, 1008, "close reason {:?}", close.1);
                Refusal { error }
            }
            other => panic!("expected a refusal with {code}, but {}", other.told()),
        }
    }

    fn told(&self) -> String {
        match self {
            Attempt::Accepted(client) => format!("it was accepted: {}", client.hello),
            Attempt::Refused { error, close } => format!("it was refused with {error} and closed with {close:?}"),
            Attempt::Closed(code, reason) => format!("it was closed with {code} {reason:?}"),
            Attempt::NotUpgraded(refused) => {
                format!("it was not upgraded: {:?} {}", refused.status, refused.text)
            }
        }
    }
}

/// The end of a connection, when this arrival is one.
fn ended(arrival: &Arrival) -> Option<(u16, String)> {
    match &arrival.what {
        What::Closed { code, reason } => Some((*code, reason.clone())),
        _ => None,
    }
}

impl Client {
    /// Calls with params and waits for the answer.
    pub(crate) fn call(&self, method: &str, params: Value) -> Reply {
        self.wait(self.start(method, Some(params)))
    }

    /// Calls without `params`, as the command lines do.
    pub(crate) fn call_bare(&self, method: &str) -> Reply {
        self.wait(self.start(method, None))
    }

    /// Sends a request and does not wait; [`Client::wait`] does.
    pub(crate) fn start(&self, method: &str, params: Option<Value>) -> Pending {
        let id = format!("{}-{}", self.name, self.next_id.fetch_add(1, Ordering::Relaxed));
        let mut frame = json!({ "type": "req", "id": id, "method": method });
        if let Some(params) = params {
            frame["params"] = params;
        }
        let from = self.inbox.len();
        self.send_raw(&frame.to_string());
        Pending { id, method: method.to_owned(), from }
    }

    /// Waits for the answer of a started request.
    pub(crate) fn wait(&self, pending: Pending) -> Reply {
        let outcome = self.outcome(pending.from, |frame| frame["type"] == "res" && frame["id"] == pending.id.as_str());
        Reply { who: self.name.clone(), method: pending.method, outcome }
    }

    /// Sends `text` as a frame, whatever it is.
    pub(crate) fn send_raw(&self, text: &str) {
        self.inbox.push(Arrival { socket: self.socket.id, name: self.name.clone(), what: What::Sent(text.to_owned()) });
        self.socket.send_text(text);
    }

    /// The connection below, for bytes that are no frame.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The next answer on this connection, whatever its id, among what arrived at `from` and later.
    pub(crate) fn next_answer(&self, from: usize) -> Reply {
        let outcome = self.outcome(from, |frame| frame["type"] != "event");
        Reply { who: self.name.clone(), method: String::from("(raw)"), outcome }
    }

    /// The second answer to a request that gets two.
    #[track_caller]
    pub(crate) fn second_answer(&self, pending: &Pending) -> Value {
        let mut n_seen = 0;
        let found = self.inbox.wait(pending.from, Instant::now() + PATIENCE, |arrival| {
            let frame = (arrival.socket == self.socket.id).then(|| arrival.frame()).flatten()?;
            n_seen += u32::from(frame["type"] == "res" && frame["id"] == pending.id.as_str());
            (n_seen == 2).then(|| frame.clone())
        });
        found.unwrap_or_else(|| panic!("{}: no second answer to {}", self.name, pending.method)).1
    }

    /// A place in the log, for [`Client::next_answer`].
    pub(crate) fn mark(&self) -> usize {
        self.inbox.len()
    }

    fn outcome(&self, from: usize, mut wanted: impl FnMut(&Value) -> bool) -> Outcome {
        // A connection that had ended before says so before `from`; what is there is all there will be.
        let patience = if self.socket.is_open() { PATIENCE } else { Duration::ZERO };
        let found = self.inbox.wait(from, Instant::now() + patience, |arrival| {
            if arrival.socket != self.socket.id {
                return None;
            }
            match &arrival.what {
                What::Frame(frame) if wanted(frame) => Some(Outcome::Answer(frame.clone())),
                What::Closed { code, reason } => Some(Outcome::Closed(*code, reason.clone())),
                _ => None,
            }
        });
        if let Some((_, outcome)) = found {
            return outcome;
        }
        let ended = (!self.socket.is_open()).then(|| self.socket.closed(&self.inbox, PATIENCE)).flatten();
        ended.map_or(Outcome::Nothing, |(code, reason)| Outcome::Closed(code, reason))
    }

    /// Waits for the next event of this name; earlier events are behind this client from then on.
    #[track_caller]
    pub(crate) fn expect_event(&self, name: &str) -> Seen {
        self.expect_event_where(name, |_| true)
    }

    /// Waits for the next event of this name that `wanted` accepts.
    #[track_caller]
    pub(crate) fn expect_event_where(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Seen {
        let from = self.cursor.load(Ordering::Relaxed);
        let found = self.inbox.wait(from, Instant::now() + PATIENCE, |arrival| {
            let payload = (arrival.socket == self.socket.id).then(|| arrival.event(name)).flatten()?;
            wanted(payload).then(|| (payload.clone(), arrival.frame().expect("an event is a frame").clone()))
        });
        let Some((place, (payload, frame))) = found else {
            panic!("{}: no event {name} that fits within {PATIENCE:?}", self.name);
        };
        self.cursor.store(place + 1, Ordering::Relaxed);
        Seen { name: name.to_owned(), payload, frame }
    }

    /// Nothing but housekeeping has been said to this client since the last event it waited for. The wait is bounded by a
    /// request of its own: what was broadcast before has been sent before its answer.
    #[track_caller]
    pub(crate) fn expect_silence(&self) {
        self.call_bare("health").expect_ok();
        let from = self.cursor.load(Ordering::Relaxed);
        let heard: Vec<String> = self
            .events(from)
            .into_iter()
            .filter(|frame| !HOUSEKEEPING.contains(&frame["event"].as_str().unwrap_or("")))
            .filter(|frame| frame["event"] != "connect.challenge")
            .map(|frame| frame.to_string())
            .collect();
        assert!(heard.is_empty(), "{} should have heard nothing, but: {heard:#?}", self.name);
    }

    /// The event frames that arrived at `from` and later.
    pub(crate) fn events(&self, from: usize) -> Vec<Value> {
        let log = self.inbox.since(from);
        let mine = log.iter().filter(|arrival| arrival.socket == self.socket.id && arrival.is_event());
        mine.map(|arrival| arrival.frame().expect("an event is a frame").clone()).collect()
    }

    /// Waits for the end of the connection and holds it to this code and reason.
    #[track_caller]
    pub(crate) fn expect_close(&self, code: u16, reason: &str) {
        let end = self.socket.closed(&self.inbox, PATIENCE);
        let end = end.unwrap_or_else(|| panic!("{}: still open after {PATIENCE:?}", self.name));
        assert_eq!((end.0, end.1.as_str()), (code, reason), "{}", self.name);
    }

    /// Closes and waits until the server has agreed.
    pub(crate) fn leave(self) {
        self.socket.close();
        assert!(self.socket.closed(&self.inbox, PATIENCE).is_some(), "{}: the close was not answered", self.name);
    }
}

/// A request on its way.
pub(crate) struct Pending {
    id: String,
    method: String,
    from: usize,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Value),
    Closed(u16, String),
    Nothing,
}

/// The answer to a call.
#[derive(Debug)]
pub(crate) struct Reply {
    who: String,
    method: String,
    pub(crate) outcome: Outcome,
}

impl Reply {
    /// The payload of a good answer.
    #[track_caller]
    pub(crate) fn expect_ok(self) -> Value {
        match &self.outcome {
            Outcome::Answer(frame) if frame["ok"] == true => frame["payload"].clone(),
            other => panic!("{}: {} should have been answered ok, but {other:?}", self.who, self.method),
        }
    }

    /// The payload of a good answer that is what the contract of protocol 4 defines.
    #[track_caller]
    pub(crate) fn expect_valid(self) -> Value {
        let method = self.method.clone();
        let payload = self.expect_ok();
        super::schema::check_result(&method, &payload);
        payload
    }

    /// The error of a refusal with this code.
    #[track_caller]
    pub(crate) fn expect_err(self, code: &str) -> Refusal {
        match &self.outcome {
            Outcome::Answer(frame) if frame["ok"] == false => {
                let error = frame["error"].clone();
                assert_eq!(error["code"], code, "{}: {} was refused with {error}", self.who, self.method);
                Refusal { error }
            }
            other => panic!("{}: {} should have been refused with {code}, but {other:?}", self.who, self.method),
        }
    }
}

/// A refusal whose code has been seen.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: Value,
}

impl Refusal {
    /// Holds the refusal to this text.
    #[track_caller]
    pub(crate) fn message(self, text: &str) -> Refusal {
        assert_eq!(self.error["message"], text);
        self
    }

    /// Holds the refusal to a text that begins so.
    #[track_caller]
    pub(crate) fn message_starts(self, text: &str) -> Refusal {
        let message = self.error["message"].as_str().unwrap_or_default();
        assert!(message.starts_with(text), "the message {message:?} does not begin with {text:?}");
        self
    }

    /// Holds `details` to a value at a JSON pointer.
    #[track_caller]
    pub(crate) fn detail(self, pointer: &str, value: impl Into<Value>) -> Refusal {
        assert_eq!(self.error["details"].pointer(pointer), Some(&value.into()), "in {}", self.error);
        self
    }
}

/// An event that arrived.
#[derive(Debug)]
pub(crate) struct Seen {
    name: String,
    pub(crate) payload: Value,
    /// The whole frame, `seq` and `stateVersion` included.
    pub(crate) frame: Value,
}

impl Seen {
    /// Holds the payload to a value at a JSON pointer.
    #[track_caller]
    pub(crate) fn with(self, pointer: &str, value: impl Into<Value>) -> Seen {
        assert_eq!(self.payload.pointer(pointer), Some(&value.into()), "in {} {}", self.name, self.payload);
        self
    }
}
