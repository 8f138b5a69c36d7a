//! Calls of tools that no model makes: `tools.invoke` and `POST /tools/invoke`.
//!
//! Each goes on on a thread of the run lane, as a run does, and is answered when it ends. It is not a turn of its
//! session and writes nothing into its transcript; what is decided about it is written down like that of a run's call.
//! **Invariant:** there are at most [`INVOCATIONS_MAX`], each for as long as a run may take at most, and none whose
//! caller has left goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::never;
use serde_json::{Value, json};

use super::dispatch::BUSY_RETRY_MS;
use super::effect::{Done, Effect, Job, Origin, RunNo, RunWork, Task, Work};
use super::http::{HttpRequest, HttpResponse};
use super::methods::chat;
use super::openai;
use super::routes::{HttpCall, json_response};
use super::runs::RUN_TIME_ROOM;
use super::table::Call;
use super::{Fact, Gateway};
use crate::agent::invoke::{Failed, FailedKind, Invoke, Invoked};
use crate::agent::run::{Ask, Speaker};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::params::NonEmpty;
use crate::protocol::scope::Scope;
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::random;
use crate::runtime::stop::{Stop, Why};

/// Invocations that go on at once; one more is told to come back.
pub const INVOCATIONS_MAX: usize = 4;
/// Longest name that is repeated in an answer, in characters.
const NAME_CHARS_MAX: usize = 120;

/// Those that go on.
#[derive(Default)]
pub struct Invocations {
    going: BTreeMap<RunNo, Invocation>,
}

struct Invocation {
    waiter: Waiter,
    tool: String,
    stop: Stop,
    /// When it is stopped, and when it is given up.
    until: [Instant; 2],
}

/// Who waits for one.
enum Waiter {
    /// A method's caller.
    Call(Call),
    /// An HTTP request.
    Http(ConnId),
}

impl Invocations {
    /// When something is to be done.
    pub fn deadline(&self) -> Option<Instant> {
        let next = |one: &Invocation| one.until[usize::from(one.stop.why().is_some())];
        self.going.values().map(next).min()
    }

    /// How many go on.
    pub fn count(&self) -> usize {
        self.going.len()
    }
}

/// What somebody wants called, and where.
pub struct Wanted {
    /// The session, as its caller names it.
    pub session: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// Where the words come from that it is called for.
    pub speaker: Speaker,
    /// What.
    pub invoke: Invoke,
}

impl Gateway {
    /// `tools.invoke`: begins it; the answer comes when it is done.
    ///
    /// # Errors
    /// `INVALID_REQUEST` about the session or the agent. `UNAVAILABLE`, retryable, when too many go on.
    pub(in crate::gateway) fn invoke_for_call(&mut self, call: &Call, wanted: Wanted) -> Result<(), RpcError> {
        let session = self.session_of(&wanted)?;
        self.begin_invocation(Waiter::Call(call.clone()), session, wanted)
            .then_some(())
            .ok_or_else(|| RpcError::busy("too many tools are being called", BUSY_RETRY_MS))
    }

    fn session_of(&self, wanted: &Wanted) -> Result<SessionKey, RpcError> {
        let agent = wanted.agent.clone().map(NonEmpty);
        if let Some(agent) = &agent {
            super::methods::models::asked_agent(self, Some(&agent.0))?;
        }
        let session = chat::session_key(wanted.session.as_deref().unwrap_or("main"), agent.as_ref(), &self.keys)?;
        super::methods::models::asked_agent(self, session.agent())?;
        Ok(session)
    }

    /// Begins one; `false`: there are enough.
    fn begin_invocation(&mut self, waiter: Waiter, session: SessionKey, wanted: Wanted) -> bool {
        if self.invocations.going.len() >= INVOCATIONS_MAX {
            return false;
        }
        let no = self.runs.take_no();
        let Wanted { speaker, invoke, .. } = wanted;
        let stop = Stop::default();
        let limit = self.config.settings.agents.defaults.runs.timeout;
        let until = [limit, limit + RUN_TIME_ROOM].map(|time| self.now.mono + time);
        let one = Invocation { waiter, tool: shown(&invoke.tool), stop: stop.clone(), until };
        self.invocations.going.insert(no, one);
        let input = self.run_input(random::uuid(), session, Ask { speaker, ..Ask::default() });
        let task = Task::Invoke(Box::new(invoke));
        let work = RunWork { no, turn_id: None, session_id: None, input, task, stop, steered: never() };
        self.effects.push_back(Effect::Start(Job { origin: Origin::Invocation(no), work: Work::Run(Box::new(work)) }));
        true
    }

    /// One's thread has ended, or there was none for it.
    pub(in crate::gateway) fn invocation_step(&mut self, now: Now, no: RunNo, outcome: Result<Done, RpcError>) {
        let facts = match outcome {
            Ok(done) => done.facts,
            Err(error) => return self.end_invocation(no, Err(error)),
        };
        for fact in facts {
            match fact {
                Fact::Invoked(invoked) => self.end_invocation(no, Ok(*invoked)),
                other => self.apply(now, other),
            }
        }
    }

    fn end_invocation(&mut self, no: RunNo, outcome: Result<Invoked, RpcError>) {
        // Whoever gave it up was answered then.
        let Some(Invocation { waiter, tool, .. }) = self.invocations.going.remove(&no) else { return };
        let invoked = match outcome {
            Ok(invoked) => invoked,
            Err(error) => {
                let failed = Failed { kind: FailedKind::Unavailable, message: error.message, details: None };
                Invoked { tool, outcome: Err(failed) }
            }
        };
        match waiter {
            Waiter::Call(call) => {
                let answer = Json::of(&of_call(&invoked));
                self.answer_request(call.conn(), &call.id, answer);
            }
            Waiter::Http(conn) => {
                if matches!(self.http_calls.get(&conn), Some(HttpCall::Invoke)) {
                    self.http_calls.remove(&conn);
                    self.reply(conn, of_http(invoked));
                }
            }
        }
    }

    /// Stops those that take too long, and gives up those that do not heed it.
    pub(in crate::gateway) fn tend_invocations(&mut self, now: Now) {
        let mut given_up = Vec::new();
        for (no, one) in &self.invocations.going {
            if one.until[0] <= now.mono {
                one.stop.stop(Why::Timeout);
            }
            if one.stop.why().is_some() && one.until[1] <= now.mono {
                given_up.push(*no);
            }
        }
        for no in given_up {
            self.end_invocation(no, Err(RpcError::unavailable("the tool did not end in time")));
        }
    }

    /// Whoever waits on this connection has left: nobody needs the answer.
    pub(in crate::gateway) fn leave_invocations(&mut self, conn: ConnId) {
        for one in self.invocations.going.values_mut() {
            let is_it = match &one.waiter {
                Waiter::Call(call) => call.conn() == conn,
                Waiter::Http(waits) => *waits == conn,
            };
            if is_it {
                one.stop.stop(Why::Rpc);
                one.until[1] = one.until[1].min(self.now.mono + RUN_TIME_ROOM);
            }
        }
    }

    /// The gateway ends.
    pub(in crate::gateway) fn stop_invocations(&mut self) {
        let going: Vec<RunNo> = self.invocations.going.keys().copied().collect();
        for no in going {
            if let Some(one) = self.invocations.going.get(&no) {
                one.stop.stop(Why::Shutdown);
            }
            self.end_invocation(no, Err(RpcError::unavailable("the gateway is restarting")));
        }
    }
}

/// `POST /tools/invoke`.
pub(super) fn http(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    let caller = match openai::caller(gateway, now, conn, request, "tools.invoke") {
        Ok(caller) => caller,
        Err(response) => return Some(response),
    };
    let is_owner = caller.scopes.satisfies(Scope::Admin, Protocol::V4);
    let wanted = match read(request, is_owner) {
        Ok(wanted) => wanted,
        Err(message) => return Some(invalid(&message)),
    };
    let session = match gateway.session_of(&wanted) {
        Ok(session) => session,
        Err(error) => return Some(invalid(&error.message)),
    };
    if !gateway.begin_invocation(Waiter::Http(conn), session, wanted) {
        let error = json!({ "type": "rate_limited", "message": "too many tools are being called; try again" });
        let mut response = json_response(429, &json!({ "ok": false, "error": error }));
        let seconds = Duration::from_millis(BUSY_RETRY_MS).as_secs().max(1);
        response.headers.push(("Retry-After".to_owned(), seconds.to_string()));
        return Some(response);
    }
    gateway.http_calls.insert(conn, HttpCall::Invoke);
    gateway.effects.push_back(Effect::Hold(conn));
    None
}

fn invalid(message: &str) -> HttpResponse {
    json_response(400, &json!({ "ok": false, "error": { "type": "invalid_request", "message": message } }))
}

/// What an HTTP request asks for.
///
/// # Errors
/// What is wrong with it.
fn read(request: &HttpRequest, is_owner: bool) -> Result<Wanted, String> {
    let body: Value = serde_json::from_slice(&request.body).map_err(|_| "the body must be a JSON object".to_owned())?;
    let Value::Object(body) = body else { return Err("the body must be a JSON object".to_owned()) };
    let text = |name: &str| match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(_) => Err(format!("{name} must be a text")),
    };
    let tool = text("name")?.or(text("tool")?).ok_or("tools.invoke requires name")?;
    let arguments = match body.get("args") {
        None | Some(Value::Null) => json!({}),
        Some(Value::Object(arguments)) => Value::Object(arguments.clone()),
        Some(_) => return Err("args must be an object".to_owned()),
    };
    let is_dry = match body.get("dryRun") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is_dry)) => *is_dry,
        Some(_) => return Err("dryRun must be true or false".to_owned()),
    };
    let header = |name: &str| request.header(name).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    Ok(Wanted {
        session: text("sessionKey")?,
        agent: text("agentId")?,
        speaker: Speaker {
            sender: None,
            channel: header("x-openclaw-message-channel").map(|name| name.to_lowercase()),
            account: header("x-openclaw-account-id"),
        },
        invoke: Invoke {
            tool,
            action: text("action")?,
            arguments,
            key: format!("http-{}", text("idempotencyKey")?.unwrap_or_else(random::uuid)),
            is_dry,
            is_owner,
        },
    })
}

/// A name that is repeated to who gave it.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

/// The answer of `tools.invoke`: what went wrong is a result, not an error.
fn of_call(invoked: &Invoked) -> Value {
    let tool = shown(&invoked.tool);
    match &invoked.outcome {
        Ok(output) => json!({ "ok": true, "toolName": tool, "output": output, "source": "core" }),
        Err(Failed { kind, message, details }) => {
            let code = match kind {
                FailedKind::NotFound => "not_found",
                FailedKind::Arguments => "validation_error",
                FailedKind::Blocked => "forbidden",
                FailedKind::NeedsApproval => "requires_approval",
                FailedKind::Tool => "internal_error",
                FailedKind::Unavailable => "unavailable",
            };
            let mut answer =
                json!({ "ok": false, "toolName": tool, "error": { "code": code, "message": shown_message(message) } });
            if let Some(details) = details {
                answer["error"]["details"] = details.clone();
            }
            if *kind == FailedKind::NeedsApproval {
                answer["requiresApproval"] = json!(true);
            }
            answer
        }
    }
}

/// The answer of `POST /tools/invoke`.
fn of_http(invoked: Invoked) -> HttpResponse {
    match invoked.outcome {
        Ok(result) => json_response(200, &json!({ "ok": true, "result": result })),
        Err(Failed { kind, message, details }) => {
            let (status, word) = match kind {
                FailedKind::NotFound => (404, "not_found"),
                FailedKind::Arguments => (400, "tool_error"),
                FailedKind::Blocked | FailedKind::NeedsApproval => (403, "tool_call_blocked"),
                FailedKind::Tool => (500, "tool_error"),
                FailedKind::Unavailable => (503, "unavailable"),
            };
            let mut error = json!({ "type": word, "message": shown_message(&message) });
            if kind == FailedKind::NeedsApproval {
                error["requiresApproval"] = json!(true);
            }
            if let Some(details) = details {
                error["details"] = details;
            }
            json_response(status, &json!({ "ok": false, "error": error }))
        }
    }
}

/// A message without what a terminal would obey.
fn shown_message(message: &str) -> String {
    message.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::Event;
    use crate::gateway::effect::Report;
    use crate::gateway::stage::Stage;

    fn begin(stage: &mut Stage) -> Result<Option<Value>, RpcError> {
        stage.begin(Protocol::V4, "tools.invoke", &json!({ "name": "session_status" }))
    }

    /// As many as there may be, and their threads, which do not end.
    fn full() -> (Stage, Vec<RunWork>) {
        let mut stage = Stage::new(&json!({ "agents": { "defaults": { "timeoutSeconds": 10 } } }));
        for _ in 0..INVOCATIONS_MAX {
            assert_eq!(begin(&mut stage).unwrap(), None);
        }
        let mut works = Vec::new();
        while let Some(effect) = stage.core.next_effect() {
            if let Effect::Start(Job { work: Work::Run(work), .. }) = effect {
                works.push(*work);
            }
        }
        assert_eq!(works.len(), INVOCATIONS_MAX);
        (stage, works)
    }

    #[test]
    fn no_more_go_on_than_there_may() {
        let (mut stage, works) = full();
        let refused = begin(&mut stage).unwrap_err();
        assert_eq!((refused.retryable, &*refused.message), (Some(true), "too many tools are being called"));
        let invoked = Invoked { tool: "session_status".to_owned(), outcome: Ok(json!({})) };
        let done = Done { answer: None, facts: vec![Fact::Invoked(Box::new(invoked))] };
        let report = Report { origin: Origin::Invocation(works[0].no), outcome: Ok(done) };
        stage.core.handle(stage.now, Event::Report(Box::new(report)));
        assert_eq!(begin(&mut stage).unwrap(), None, "there is room again");
    }

    #[test]
    fn what_takes_too_long_is_stopped_and_then_given_up() {
        let (mut stage, works) = full();
        let limit = Duration::from_secs(10);
        assert_eq!(stage.core.invocations.deadline(), Some(stage.now.mono + limit));
        stage.pass(limit - Duration::from_millis(1));
        assert!(works.iter().all(|work| work.stop.why().is_none()));
        stage.pass(Duration::from_millis(1));
        assert!(works.iter().all(|work| work.stop.why() == Some(Why::Timeout)));
        assert!(begin(&mut stage).is_err(), "they have not ended");
        assert_eq!(stage.core.invocations.deadline(), Some(stage.now.mono + RUN_TIME_ROOM));
        stage.pass(RUN_TIME_ROOM);
        assert_eq!(stage.core.invocations.count(), 0);
        // A thread that ends after all changes nothing.
        let report = Report { origin: Origin::Invocation(works[0].no), outcome: Err(RpcError::unavailable("late")) };
        stage.core.handle(stage.now, Event::Report(Box::new(report)));
    }

    #[test]
    fn none_goes_on_whose_caller_has_left() {
        let (mut stage, works) = full();
        stage.core.leave_invocations(ConnId(2));
        assert!(works.iter().all(|work| work.stop.why().is_none()), "that is somebody else");
        stage.core.leave_invocations(ConnId(1));
        assert!(works.iter().all(|work| work.stop.why() == Some(Why::Rpc)));
        stage.pass(RUN_TIME_ROOM);
        assert_eq!(stage.core.invocations.count(), 0);
    }
}
