//! From a frame to a method and back: who may call, where it runs, how the answer finds its way.

use std::sync::Arc;

use super::clients::Caller;
use super::table::{self, Answer, Call, Method, Need, QueryCx, Run, StoreCx};

use super::{Effect, Gateway, Job, Lane, Origin, Report, Work, unbuilt};
use crate::protocol::ConnId;
use crate::protocol::close;
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::frame::{BadFrame, Json, read_request, response_error, response_ok};
use crate::protocol::json::json;
use crate::protocol::scope::{Role, Scope};
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::{metrics, pool};

/// Calls refused for the caller's role before its connection is closed.
pub const ROLE_REFUSALS_MAX: u32 = 10;
/// What a client is asked to wait when a lane is full, in milliseconds.
pub const BUSY_RETRY_MS: u64 = 500;
/// What requests for methods that do not exist are counted under.
pub(super) const UNKNOWN: &str = "unknown";

impl Gateway {
    /// A frame of an admitted connection.
    pub(super) fn frame(&mut self, now: Now, conn: ConnId, text: &str) {
        let Some(ready) = self.clients.ready(conn) else { return };
        let caller = Arc::clone(&ready.caller);
        let request = match read_request(text, caller.protocol) {
            Ok(request) => request,
            Err(BadFrame::NotJson) => return,
            Err(BadFrame::Invalid { id, reasons }) => {
                let error = RpcError::invalid(format!("invalid request frame: {reasons}"));
                return self.answer(conn, id.as_deref().unwrap_or("invalid"), caller.protocol, Err(error));
            }
        };
        match self.call(now, &caller, &request.id, &request.method, request.params) {
            Ok(Some(payload)) => {
                self.effects.push_back(Effect::Send(conn, response_ok(&request.id, &payload)));
            }
            Ok(None) => {}
            Err(error) => self.answer(conn, &request.id, caller.protocol, Err(error)),
        }
    }

    /// Calls a method for a caller. `None`: the answer comes later, by a report.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub(super) fn call(
        &mut self,
        now: Now,
        caller: &Arc<Caller>,
        id: &str,
        name: &str,
        params: Option<&str>,
    ) -> Result<Option<Json>, RpcError> {
        let method = table::find(name);
        metrics::RPC_REQUESTS.increment(method.map_or(UNKNOWN, |method| method.name));
        if let Err(error) = authorize(need(name, method, caller.protocol), caller, params) {
            self.count_role_refusal(caller, &error);
            return Err(error);
        }
        let Some(method) = method else {
            return Err(match name {
                "connect" => RpcError::invalid("connect is only valid as the first request"),
                _ => RpcError::invalid(format!("unknown method: {name}")),
            });
        };
        self.may_begin(method.name)?;
        self.control_writes.count(method.name, caller, now.wall_ms)?;
        let call = Call { caller: Arc::clone(caller), id: id.to_owned(), method: method.name, now_ms: now.wall_ms };
        let origin = || Origin::Request { conn: caller.conn, id: id.to_owned(), method: method.name };
        let work = match method.run {
            Run::Loop(handler) => {
                self.now = now;
                let outcome = pool::guarded(|| handler(self, &call, params));
                return match outcome {
                    Ok(Ok(Answer::Now(json))) => Ok(Some(json)),
                    Ok(Ok(Answer::Later)) => Ok(None),
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(panicked(method.name, id)),
                };
            }
            Run::Query(handler) => {
                let (snapshot, params) = (self.snapshot(), params.map(str::to_owned));
                Work::Query(Box::new(move |store| handler(QueryCx { store, snapshot, call }, params.as_deref())))
            }
            Run::Store(handler) => {
                let (snapshot, params) = (self.snapshot(), params.map(str::to_owned));
                Work::Store(Box::new(move |db| {
                    handler(StoreCx { db, snapshot, call, ordered_by: None }, params.as_deref())
                }))
            }
        };
        self.effects.push_back(Effect::Start(Job { origin: origin(), work }));
        Ok(None)
    }

    /// A job is done: what changed is applied, then who waits is answered.
    pub(super) fn report(&mut self, now: Now, report: Report) {
        let Report { origin, outcome } = report;
        self.active.ended(&origin);
        match origin {
            Origin::Message(ticket) => return self.message_step(now, ticket, outcome),
            Origin::Compaction(no) => return self.compaction_step(now, no, outcome),
            Origin::Invocation(no) => return self.invocation_step(now, no, outcome),
            Origin::Approval(step) => return self.approval_step(now, &step, outcome),
            Origin::Notice(id) => return self.notice_step(now, id, outcome),
            Origin::Typing(asked) => return self.typing_looked_up(now, *asked, outcome),
            Origin::Quotas => return self.quotas_told(outcome),
            Origin::Run(no) | Origin::RunBegin(no) | Origin::RunEnd(no) => {
                return self.run_step(now, &origin, no, outcome);
            }
            _ => {}
        }
        let outcome = outcome.map(|mut done| {
            let facts = std::mem::take(&mut done.facts);
            for fact in facts {
                self.apply(now, fact);
            }
            done
        });
        match origin {
            // The message that follows answers.
            Origin::Creation { conn, id } => {
                if let Err(error) = outcome {
                    self.answer_request(conn, &id, Err(error));
                }
            }
            Origin::Request { conn, id, .. } => {
                let result = outcome.map(|done| done.answer.unwrap_or(Json(b"null".to_vec())));
                self.answer_request(conn, &id, result);
            }
            Origin::Pairing(conn) => self.device_recorded(now, conn, outcome),
            // The run itself is told by who wrote for it.
            Origin::RunStep(_) => {}
            Origin::Message(_) | Origin::Run(_) | Origin::RunBegin(_) | Origin::RunEnd(_) | Origin::Compaction(_) => {}
            Origin::Invocation(_) => {}
            Origin::Typing(_) | Origin::Quotas | Origin::Approval(_) | Origin::Notice(_) => {}
            Origin::Page(conn) => {
                if let Err(error) = outcome {
                    self.page_failed(conn, &error);
                }
            }
            Origin::Housekeeping(what) => {
                if what == super::reload::LOOK {
                    self.looked_at_config();
                }
                if let Err(error) = outcome {
                    log::warn!("background work failed what={what} error={}", error.message);
                }
            }
        }
    }

    /// A lane was full: nobody waits in vain.
    pub(super) fn shed(&mut self, now: Now, origin: Origin, lane: Lane) {
        self.note_shed(lane);
        let error = RpcError::busy("The server is busy. Please try again in a moment.", BUSY_RETRY_MS);
        if let (Lane::Defend, Origin::Message(ticket)) = (lane, &origin) {
            return self.message_unjudged(now, *ticket);
        }
        if let Origin::RunBegin(no) | Origin::RunEnd(no) = origin {
            return self.write_put_off(now, no);
        }
        self.report(now, Report { origin, outcome: Err(error) });
    }

    /// Answers whoever waits for request `id`: a WebSocket, or an HTTP request that called a method.
    pub(super) fn answer_request(&mut self, conn: ConnId, id: &str, result: Result<Json, RpcError>) {
        if self.http_calls.contains_key(&conn) {
            return self.answer_http_call(conn, id, result);
        }
        let Some(ready) = self.clients.ready(conn) else { return };
        let protocol = ready.caller.protocol;
        self.answer(conn, id, protocol, result);
        if let Some(idx) = self.closing_behind_answer.iter().position(|(closing, _)| *closing == conn) {
            let (_, reason) = self.closing_behind_answer.remove(idx);
            self.leave(conn, close::AUTHORITY_GONE, reason);
        }
    }

    fn answer(&mut self, conn: ConnId, id: &str, protocol: Protocol, result: Result<Json, RpcError>) {
        let frame = match result {
            Ok(payload) => response_ok(id, &payload),
            Err(error) => {
                metrics::RPC_ERRORS.increment();
                response_error(id, &error, None, protocol)
            }
        };
        self.effects.push_back(Effect::Send(conn, frame));
    }

    fn count_role_refusal(&mut self, caller: &Caller, error: &RpcError) {
        if !error.message.starts_with("unauthorized role") || caller.protocol == Protocol::V3 {
            return;
        }
        if let Some(ready) = self.clients.ready_mut(caller.conn) {
            ready.n_role_refusals += 1;
            if ready.n_role_refusals > ROLE_REFUSALS_MAX {
                self.leave(caller.conn, close::POLICY, "repeated unauthorized calls");
            }
        }
    }
}

/// What calling `name` asks for: what its row says, else what the released gateways ask for it.
///
/// A method nobody knows asks for `operator.admin`, so only an administrator learns that it does not exist.
pub fn need(name: &str, method: Option<&Method>, protocol: Protocol) -> Need {
    let known = method.map(|method| method.need(protocol)).or_else(|| unbuilt::need(name, protocol));
    known.unwrap_or(Need::Scope(Scope::Admin))
}

/// Whether `caller` has what a call with these parameters needs; the one place that decides.
///
/// # Errors
/// The refusal, in upstream's words.
pub fn authorize(need: Need, caller: &Caller, params: Option<&str>) -> Result<(), RpcError> {
    let protocol = caller.protocol;
    let wrong_role = || Err(RpcError::invalid(format!("unauthorized role: {}", caller.role.as_str())));
    let (asked, enough) = match (need, caller.role) {
        (Need::Anyone, _) | (Need::Node, Role::Node) | (Need::Operator, Role::Operator) => return Ok(()),
        (_, Role::Node) | (Need::Node, _) => return wrong_role(),
        (Need::Scope(scope), _) => (scope, scope),
        (Need::Either(asked, narrower), _) => (asked, if protocol == Protocol::V4 { narrower } else { asked }),
        (Need::ByParams(decide), _) => {
            let (asked, narrower) = decide(params);
            (asked, if protocol == Protocol::V4 { narrower } else { asked })
        }
    };
    if caller.scopes.satisfies(asked, protocol) || caller.scopes.satisfies(enough, protocol) {
        return Ok(());
    }
    let error = RpcError::new(ErrorCode::Forbidden, format!("missing scope: {}", asked.as_str()));
    Err(match protocol {
        Protocol::V3 => error,
        Protocol::V4 => error.with_details(json!({
            "code": "MISSING_SCOPE",
            "missingScope": asked.as_str(),
            "requiredScopes": [asked.as_str()],
        })),
    })
}

fn panicked(method: &str, id: &str) -> RpcError {
    log::error!("handler panicked method={method} id={id}");
    RpcError::unavailable("internal error")
}
