//! The gateway as OpenAI's clients see it: `/v1/models`, `/v1/chat/completions`, `/v1/responses` (protocol 17).
//!
//! A request becomes a message like any other: judged, on disk, in its session's queue, answered by a run of the agent that
//! its model names. [`mod@asked`] reads what both endpoints share, [`mod@chat`] and [`mod@responses`] the rest, and they write the
//! answers; [`words`] makes of a run's words what a stream can carry; [`trouble`] is how errors look here.
//!
//! **Invariant:** who leaves stops the run that nobody else waits for; a restart finishes the run of who was cut off.

mod asked;
mod chat;
mod models;
mod responses;
mod trouble;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use self::asked::{Asked, Choice, House};
use self::responses::Events;
use self::trouble::Trouble;
use self::words::Words;
use super::clients::{Admission, Caller};
use super::dispatch::{authorize, need};
use super::effect::Effect;
use super::http::{HttpRequest, HttpResponse};
use super::inbound::Waiter;
use super::routes::{HttpCall, json_response, text};
use super::{Gateway, table};
use crate::agent::run::{Outcome, RunEnd, RunEvent};
use crate::agent::talk::{Said, StopReason, ToolCall, Usage};
use crate::intake::{Message, Source};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::scope::{Scope, Scopes};
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::random;
use crate::runtime::stop::Why;

/// Responses whose sessions are remembered for `previous_response_id`; the oldest is forgotten first.
pub const RESPONSES_MAX: usize = 500;
/// How long each is remembered, in milliseconds.
pub const RESPONSE_TTL_MS: i64 = 30 * 60 * 1000;

/// The end of every stream.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// Which endpoint was asked.
#[derive(Debug)]
enum Form {
    Chat,
    Responses(Events),
}

/// A request whose run has not ended.
#[derive(Debug)]
pub struct Live {
    form: Form,
    /// Names the run and the answer: `chatcmpl_UUID`, `resp_UUID`.
    run_id: String,
    /// The id of a response's message.
    item_id: String,
    /// When it came, in seconds since 1970.
    created: i64,
    /// The model as it was sent.
    model: String,
    choice: Choice,
    is_streamed: bool,
    wants_usage: bool,
    /// The answer has begun.
    has_begun: bool,
    words: Words,
}

/// What came of a run, as an answer tells it.
#[derive(Debug)]
struct Ended {
    text: String,
    /// The caller's tools that are to be called.
    calls: Vec<ToolCall>,
    /// The model's limit cut it.
    is_cut: bool,
    usage: Usage,
}

impl Ended {
    /// `finish_reason`.
    fn finish(&self) -> &'static str {
        match (self.calls.is_empty(), self.is_cut) {
            (false, _) => "tool_calls",
            (true, true) => "length",
            (true, false) => "stop",
        }
    }
}

/// Which session a response was given in, for the next one.
#[derive(Debug)]
struct Given {
    response_id: String,
    session: SessionKey,
    /// The device that asked, when it was one.
    device_id: Option<String>,
    at_ms: i64,
}

/// What is remembered between requests.
#[derive(Debug, Default)]
pub struct Responses {
    given: VecDeque<Given>,
}

impl Responses {
    fn remember(&mut self, given: Given) {
        if self.given.len() >= RESPONSES_MAX {
            self.given.pop_front();
        }
        self.given.push_back(given);
    }

    fn session(&self, id: &str, device_id: Option<&str>, now_ms: i64) -> Option<SessionKey> {
        let is_it = |given: &&Given| {
            given.response_id == id
                && given.device_id.as_deref() == device_id
                && now_ms - given.at_ms <= RESPONSE_TTL_MS
        };
        self.given.iter().find(is_it).map(|given| given.session.clone())
    }
}

/// An event of a stream (HTML standard, 9.2).
fn event(kind: Option<&str>, data: &Value) -> Vec<u8> {
    let mut out = kind.map(|kind| format!("event: {kind}\n")).unwrap_or_default();
    out.push_str("data: ");
    out.push_str(&data.to_string());
    out.push_str("\n\n");
    out.into_bytes()
}

/// `GET /v1/models` and below.
pub(super) fn models(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    let http = &gateway.config.settings.gateway.http;
    if !http.chat.enabled && !http.responses.enabled {
        return Some(text(404, "Not Found"));
    }
    match caller(gateway, now, conn, request, "models.list") {
        Ok(_) => Some(models::answer(&gateway.config.settings.agents, request.path())),
        Err(response) => Some(response),
    }
}

/// `POST /v1/chat/completions`.
pub(super) fn chat(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    if !gateway.config.settings.gateway.http.chat.enabled {
        return Some(text(404, "Not Found"));
    }
    ask(gateway, now, conn, request, Form::Chat)
}

/// `POST /v1/responses`.
pub(super) fn responses(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    if !gateway.config.settings.gateway.http.responses.enabled {
        return Some(text(404, "Not Found"));
    }
    ask(gateway, now, conn, request, Form::Responses(Events::default()))
}

/// Who asks, when it may call `method`.
///
/// # Errors
/// The response to refuse with.
pub(super) fn caller(
    gateway: &mut Gateway,
    now: Now,
    conn: ConnId,
    request: &HttpRequest,
    method: &str,
) -> Result<Arc<Caller>, HttpResponse> {
    let caller = gateway.http_caller(now, conn, request)?;
    // Who proves nothing by a secret of their own may ask for less than everything.
    let wished = request.header("x-openclaw-scopes");
    let caller = match (caller.admission, wished) {
        (Admission::None | Admission::TrustedProxy, Some(names)) => {
            Arc::new(Caller { scopes: Scopes::from_names(names.split([',', ' '])), ..Caller::clone(&caller) })
        }
        _ => caller,
    };
    let asks = need(method, table::find(method), Protocol::V4);
    authorize(asks, &caller, None).map_err(|error| missing(&error))?;
    Ok(caller)
}

fn missing(error: &RpcError) -> HttpResponse {
    let mut body = serde_json::json!({ "type": "forbidden", "message": error.message });
    if let Some(details) = &error.details {
        body["details"] = details.clone();
    }
    json_response(403, &serde_json::json!({ "ok": false, "error": body }))
}

fn ask(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest, form: Form) -> Option<HttpResponse> {
    let caller = match caller(gateway, now, conn, request, "chat.send") {
        Ok(caller) => caller,
        Err(response) => return Some(response),
    };
    match begin(gateway, now, &caller, request, form) {
        Ok(()) => None,
        Err(trouble) => Some(trouble.response()),
    }
}

fn begin(gateway: &mut Gateway, now: Now, caller: &Caller, request: &HttpRequest, form: Form) -> Result<(), Trouble> {
    let body: Value = match serde_json::from_slice(&request.body) {
        Ok(Value::Object(body)) => Value::Object(body),
        _ => return Err(Trouble::invalid("the body must be a JSON object")),
    };
    let settings = &gateway.config.settings;
    let (agents, keys) = (&settings.agents, &gateway.keys);
    let asked = match &form {
        Form::Chat => {
            let house = House { agents, keys, endpoint: &settings.gateway.http.chat, prefix: "openai" };
            chat::read(&house, request, &body)?
        }
        Form::Responses(_) => {
            let house = House { agents, keys, endpoint: &settings.gateway.http.responses, prefix: "openresponses" };
            let before = body.get("previous_response_id").and_then(Value::as_str);
            let before = before.map(|id| {
                let known = gateway.responses.session(id, caller.device_id.as_deref(), now.wall_ms);
                known.ok_or_else(|| Trouble::not_found(format!("Previous response with id '{id}' not found.")))
            });
            responses::read(&house, request, &body, before.transpose()?)?
        }
    };
    let Asked { model, session, text, uploads, mut wish, choice, is_streamed, wants_usage } = asked;
    if let Some(other) = request.header("x-openclaw-model").map(str::trim).filter(|model| !model.is_empty()) {
        if !caller.scopes.satisfies(Scope::Admin, Protocol::V4) {
            return Err(Trouble::invalid("`x-openclaw-model` needs the scope operator.admin"));
        }
        wish.model = Some(other.to_owned());
    }
    let (run_id, item_id) = match form {
        Form::Chat => (format!("chatcmpl_{}", random::uuid()), String::new()),
        Form::Responses(_) => (format!("resp_{}", random::uuid()), format!("msg_{}", random::uuid())),
    };
    if matches!(form, Form::Responses(_)) {
        gateway.responses.remember(Given {
            response_id: run_id.clone(),
            session: session.clone(),
            device_id: caller.device_id.clone(),
            at_ms: now.wall_ms,
        });
    }
    let message = Message {
        channel: Some(crate::sessions::transcript::WEBCHAT.to_owned()),
        wish,
        ..Message::new(Source::OpenAi, session, run_id.clone(), text, now.wall_ms)
    };
    let live = Live {
        form,
        run_id,
        item_id,
        created: now.wall_ms / 1000,
        model,
        choice,
        is_streamed,
        wants_usage,
        has_begun: false,
        words: Words::default(),
    };
    let conn = caller.conn;
    // A program's words are words: it calls methods where a person types commands.
    gateway.receive(message, uploads, None, Waiter::OpenAi { conn }).map_err(|error| Trouble::of_refusal(&error))?;
    gateway.http_calls.insert(conn, HttpCall::OpenAi(Box::new(live)));
    gateway.effects.push_back(Effect::Hold(conn));
    Ok(())
}

impl Live {
    /// More words of the answer, as they are sent.
    fn words(&mut self, words: &str) -> Vec<u8> {
        let mut form = std::mem::replace(&mut self.form, Form::Chat);
        let out = match &mut form {
            Form::Chat => chat::words(self, words),
            Form::Responses(events) => responses::words(self, events, words),
        };
        self.form = form;
        out
    }

    fn opening(&mut self) -> Vec<u8> {
        let mut form = std::mem::replace(&mut self.form, Form::Chat);
        let out = match &mut form {
            Form::Chat => chat::opening(self),
            Form::Responses(events) => responses::opening(self, events),
        };
        self.form = form;
        out
    }

    /// The last of a stream.
    fn ending(mut self, end: Result<(&Ended, &str), &Trouble>, usage: &Usage) -> Vec<u8> {
        let form = std::mem::replace(&mut self.form, Form::Chat);
        match (form, end) {
            (Form::Chat, Ok((end, rest))) => chat::ending(&self, end, rest),
            (Form::Chat, Err(trouble)) => chat::failure(trouble),
            (Form::Responses(mut events), Ok((end, rest))) => responses::ending(&self, &mut events, end, rest),
            (Form::Responses(mut events), Err(trouble)) => responses::failure(&self, &mut events, trouble, usage),
        }
    }
}

impl Gateway {
    fn openai_live(&mut self, conn: ConnId) -> Option<&mut Live> {
        match self.http_calls.get_mut(&conn) {
            Some(HttpCall::OpenAi(live)) => Some(live),
            _ => None,
        }
    }

    /// Whether a request of this face waits here.
    pub(super) fn is_openai(&self, conn: ConnId) -> bool {
        matches!(self.http_calls.get(&conn), Some(HttpCall::OpenAi(_)))
    }

    fn take_openai(&mut self, conn: ConnId) -> Option<Live> {
        if !self.is_openai(conn) {
            return None;
        }
        match self.http_calls.remove(&conn) {
            Some(HttpCall::OpenAi(live)) => Some(*live),
            _ => None,
        }
    }

    /// A message of this face is on disk, or was refused.
    pub(super) fn openai_accepted(&mut self, conn: ConnId, outcome: Result<(), RpcError>) {
        if let Err(error) = outcome {
            if self.take_openai(conn).is_some() {
                self.reply(conn, Trouble::of_refusal(&error).response());
            }
            return;
        }
        let Some(live) = self.openai_live(conn).filter(|live| live.is_streamed) else { return };
        live.has_begun = true;
        let headers = [
            ("Content-Type", "text/event-stream; charset=utf-8"),
            ("Cache-Control", "no-cache"),
            // Proxies that know this word hand each piece on at once.
            ("X-Accel-Buffering", "no"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let body = live.opening();
        let response = super::routes::dressed(HttpResponse { status: 200, headers, body });
        self.effects.push_back(Effect::Begin(conn, Box::new(response)));
    }

    /// A run tells what happens in it to who asked for it.
    pub(super) fn openai_told(&mut self, conn: ConnId, event: &RunEvent) {
        let Some(live) = self.openai_live(conn) else { return };
        let more = match event {
            RunEvent::Text(words) => live.words.say(words),
            RunEvent::Restart => {
                live.words.restart();
                return;
            }
            RunEvent::ToolStart { .. } => {
                live.words.next_part();
                return;
            }
            _ => return,
        };
        // Whether the tool that must be called is called is known at the end alone.
        if live.has_begun && !live.choice.is_binding() && !more.is_empty() {
            let piece = live.words(&more);
            self.effects.push_back(Effect::Piece(conn, piece));
        }
    }

    /// The run of a request has ended.
    pub(super) fn openai_ended(&mut self, conn: ConnId, end: &RunEnd) {
        let Some(live) = self.take_openai(conn) else { return };
        let outcome = outcome(&live, end);
        if !live.has_begun {
            let response = match (outcome, &live.form) {
                (Err(trouble), _) => trouble.response(),
                (Ok((ended, _)), Form::Chat) => chat::whole(&live, &ended),
                (Ok((ended, _)), Form::Responses(_)) => responses::whole(&live, &ended),
            };
            return self.reply(conn, response);
        }
        let last = match &outcome {
            Ok((ended, rest)) => live.ending(Ok((ended, rest)), &end.usage),
            Err(trouble) => live.ending(Err(trouble), &end.usage),
        };
        self.effects.push_back(Effect::Piece(conn, last));
        self.effects.push_back(Effect::Finish(conn));
    }

    /// The gateway ends: its runs are taken up by the next start, but nobody can wait for that here.
    pub(super) fn end_openai_calls(&mut self) {
        let waiting: Vec<ConnId> = self.http_calls.keys().copied().filter(|conn| self.is_openai(*conn)).collect();
        for conn in waiting {
            let Some(live) = self.take_openai(conn) else { continue };
            let trouble = Trouble::failed(503, "the gateway is restarting; the run goes on without this connection");
            if live.has_begun {
                let last = live.ending(Err(&trouble), &Usage::default());
                self.effects.push_back(Effect::Piece(conn, last));
                self.effects.push_back(Effect::Finish(conn));
            } else {
                self.reply(conn, trouble.response());
            }
        }
    }

    /// The connection of an HTTP request that was not answered has ended.
    pub(super) fn http_gone(&mut self, now: Now, conn: ConnId) {
        if let Some(HttpCall::OpenAi(live)) = self.http_calls.remove(&conn) {
            self.leave_run(now, &live.run_id, conn, Why::Rpc);
        }
        self.leave_invocations(conn);
    }
}

/// What a stream has left to say, or why there is no answer.
fn outcome(live: &Live, end: &RunEnd) -> Result<(Ended, String), Trouble> {
    if let Some(trouble) = Trouble::of_end(end) {
        return Err(trouble);
    }
    let Outcome::Replied(reply) = &end.outcome else {
        return Err(Trouble::failed(500, "internal error"));
    };
    let calls: Vec<ToolCall> = reply
        .said
        .iter()
        .filter_map(|said| match said {
            Said::Call(call) => Some(call.clone()),
            _ => None,
        })
        .collect();
    live.choice.check(calls.iter().map(|call| call.name.as_str()))?;
    let (text, rest) = live.words.end(if reply.is_silent { "" } else { &reply.text });
    let rest = match (rest, live.has_begun) {
        (_, false) => String::new(),
        (_, true) if live.choice.is_binding() => text.clone(),
        (Some(rest), true) => rest,
        (None, true) => {
            let why = "Assistant output cannot be represented as an append-only response stream.";
            return Err(Trouble::failed(500, why));
        }
    };
    let is_cut = reply.stop == StopReason::Length;
    Ok((Ended { text, calls, is_cut, usage: end.usage }, rest))
}
