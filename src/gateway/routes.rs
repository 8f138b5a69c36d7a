//! HTTP on the gateway port: probes, the API, webhooks, the page.
//!
//! Routes are a table; everything but the probes asks for credentials, and what matches nothing is the page's.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::auth::{Refusal, check_shared};
use super::clients::{Admission, Caller, Caps};
use super::effect::{Done, Effect, Job, Origin, Work};
use super::http::{HttpRequest, HttpResponse};
use super::limiter::{Kind, Subject};
use super::locality::{Head, OriginVerdict};
use super::{Fact, Gateway, inbound, invocations, openai, setups, table};
use crate::intake::hooks::{self, Batch};
use crate::intake::uploads::Uploads;
use crate::protocol::ConnId;
use crate::protocol::connect::{ClientId, ClientMode, Credentials};
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::frame::{Json, write_error};
use crate::protocol::json::json;
use crate::protocol::scope::{Role, Scopes};
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::metrics;

/// Scopes of a caller that holds the shared secret over HTTP: all an operator has by default.
const HTTP_SCOPES: [&str; 7] = [
    "operator.admin",
    "operator.read",
    "operator.write",
    "operator.approvals",
    "operator.questions",
    "operator.pairing",
    "operator.talk.secrets",
];

/// An HTTP request that waits.
#[derive(Debug)]
pub enum HttpCall {
    /// For a file of the page.
    Page,
    /// For the answer to a method (`POST /rpc`).
    Rpc {
        /// The id the caller gave, echoed.
        id: Value,
    },
    /// For its messages to be accepted.
    Hook {
        /// What to answer.
        reply: hooks::ReplyForm,
        /// What came of each message, in order.
        outcomes: Vec<Option<Result<HookOutcome, RpcError>>>,
    },
    /// For a tool to end (`POST /tools/invoke`).
    Invoke,
    /// For its run to end (`/v1/*`).
    OpenAi(Box<super::openai::Live>),
}

/// What came of one message of a webhook.
#[derive(Debug, Clone)]
pub struct HookOutcome {
    /// Its run.
    pub run_id: String,
    /// Its session.
    pub session: String,
    /// Whether it had not been delivered before.
    pub is_new: bool,
}

type Handler = fn(&mut Gateway, Now, ConnId, &HttpRequest) -> Option<HttpResponse>;

/// One route.
struct Route {
    path: Match,
    methods: &'static [&'static str],
    handler: Handler,
}

enum Match {
    Exact(&'static str),
    /// Everything below it, whatever the method.
    Below(&'static str),
    /// What posts below it.
    Under(&'static str),
}

impl Match {
    fn fits(&self, path: &str) -> bool {
        match self {
            Match::Exact(exact) => path == *exact,
            Match::Below(prefix) | Match::Under(prefix) => path.starts_with(prefix),
        }
    }
}

/// In order; the first that fits answers.
static ROUTES: &[Route] = &[
    Route { path: Match::Exact("/health"), methods: READ, handler: live },
    Route { path: Match::Exact("/healthz"), methods: READ, handler: live },
    Route { path: Match::Exact("/ready"), methods: READ, handler: ready },
    Route { path: Match::Exact("/readyz"), methods: READ, handler: ready },
    Route { path: Match::Exact("/startup"), methods: READ, handler: started },
    Route { path: Match::Exact("/startupz"), methods: READ, handler: started },
    Route { path: Match::Exact("/status"), methods: READ, handler: status },
    Route { path: Match::Exact("/metrics"), methods: READ, handler: measured },
    Route { path: Match::Exact("/rpc/methods"), methods: READ, handler: methods },
    Route { path: Match::Exact("/rpc"), methods: &["POST"], handler: rpc },
    Route { path: Match::Under("/webhook/"), methods: &["POST"], handler: channel_hook },
    Route { path: Match::Under("/webhooks/"), methods: &["POST"], handler: channel_hook },
    Route { path: Match::Under("/channel/"), methods: &["POST"], handler: channel_hook },
    Route { path: Match::Under("/channels/"), methods: &["POST"], handler: channel_hook },
    Route { path: Match::Below("/j/"), methods: &["GET"], handler: setup_link },
    Route { path: Match::Exact("/tools/invoke"), methods: &["POST"], handler: invocations::http },
    Route { path: Match::Exact("/v1/models"), methods: &["GET"], handler: openai::models },
    Route { path: Match::Below("/v1/models/"), methods: &["GET"], handler: openai::models },
    Route { path: Match::Exact("/v1/chat/completions"), methods: &["POST"], handler: openai::chat },
    Route { path: Match::Exact("/v1/responses"), methods: &["POST"], handler: openai::responses },
];
const READ: &[&str] = &["GET", "HEAD"];

impl Gateway {
    /// An HTTP request.
    pub(super) fn http(&mut self, now: Now, conn: ConnId, request: HttpRequest) {
        let path = request.path().to_owned();
        let response = if hooks::is_hook_path(&path, &self.config.settings.hooks.path) {
            self.hook(now, conn, &request)
        } else {
            // Only what posts is for a webhook; a page may have views under the same names.
            let fits = |route: &&Route| {
                route.path.fits(&path) && (!matches!(route.path, Match::Under(_)) || request.method == "POST")
            };
            match ROUTES.iter().find(fits) {
                Some(route) if route.methods.contains(&request.method.as_str()) => {
                    (route.handler)(self, now, conn, &request)
                }
                Some(route) => Some(method_not_allowed(route.methods)),
                None => self.page(now, conn, &request),
            }
        };
        if let Some(response) = response {
            self.reply(conn, response);
        }
    }

    pub(super) fn reply(&mut self, conn: ConnId, response: HttpResponse) {
        self.effects.push_back(Effect::Reply(conn, Box::new(dressed(response))));
    }

    /// Who makes an HTTP request, by its bearer.
    ///
    /// # Errors
    /// The response to refuse it with.
    pub(super) fn http_caller(
        &mut self,
        now: Now,
        conn: ConnId,
        request: &HttpRequest,
    ) -> Result<Arc<Caller>, HttpResponse> {
        let head = Head { peer: request.peer.ip(), headers: &request.headers };
        let address = head.client_address(&self.config.settings);
        if head.is_unattributable(&self.config.settings)
            || head.origin_verdict(&self.config.settings) == OriginVerdict::Foreign
        {
            return Err(error_json(403, "forbidden", "this origin or proxy is not allowed"));
        }
        let bearer = bearer(request);
        let subject = subject(Kind::Shared, address, head.origin());
        if let Some(ms) = self.limiter.locked_for_ms(&subject, now.wall_ms) {
            return Err(too_many(ms));
        }
        // Tried as the token and as the password: whichever the mode asks for.
        let credentials = Credentials { token: bearer.clone(), password: bearer.clone(), ..Credentials::default() };
        let admission = match check_shared(&self.config.settings, &credentials, &head, &self.comparer, Protocol::V4) {
            Ok(admission) => {
                self.limiter.succeeded(&subject);
                admission
            }
            Err(refusal) => {
                if let Some(caller) = bearer.as_deref().and_then(|token| self.device_of_token(token, conn, address)) {
                    return Ok(Arc::new(caller));
                }
                if refusal.is_wrong_secret() {
                    let rules = self.config.settings.gateway.auth.rate_limit.clone();
                    self.limiter.failed(subject, &rules, now.wall_ms);
                }
                return Err(unauthorized(&refusal));
            }
        };
        Ok(Arc::new(http_caller(conn, address, admission, Scopes::from_names(HTTP_SCOPES), None)))
    }

    /// The device whose operator token this is: the Control UI fetches its settings with it.
    fn device_of_token(&self, token: &str, conn: ConnId, address: IpAddr) -> Option<Caller> {
        let record = self
            .devices
            .paired()
            .into_iter()
            .find(|record| record.admits(Role::Operator, token, &self.token_key, &self.comparer))?;
        let scopes = Scopes::from_names(&record.token(Role::Operator)?.scopes);
        Some(http_caller(conn, address, Admission::DeviceToken, scopes, Some(record.device_id.clone())))
    }

    /// A method called over HTTP was answered.
    pub(super) fn answer_http_call(&mut self, conn: ConnId, _id: &str, result: Result<Json, RpcError>) {
        let Some(HttpCall::Rpc { id }) = self.http_calls.remove(&conn) else { return };
        self.reply(conn, rpc_response(&id, result));
    }

    /// One message of a webhook was accepted, or was not.
    pub(super) fn hook_message_done(&mut self, conn: ConnId, idx: usize, outcome: Result<HookOutcome, RpcError>) {
        let Some(HttpCall::Hook { outcomes, .. }) = self.http_calls.get_mut(&conn) else { return };
        if let Some(slot) = outcomes.get_mut(idx) {
            *slot = Some(outcome);
        }
        if outcomes.iter().any(Option::is_none) {
            return;
        }
        if let Some(HttpCall::Hook { reply, outcomes }) = self.http_calls.remove(&conn) {
            let outcomes: Vec<_> = outcomes.into_iter().flatten().collect();
            self.reply(conn, hook_response(&reply, &outcomes));
        }
    }

    /// Starts every message of a webhook on its way; the reply follows when all are accepted.
    pub(super) fn receive_batch(&mut self, conn: ConnId, batch: Batch) -> Option<HttpResponse> {
        let Batch { messages, reply } = batch;
        let outcomes = messages.iter().map(|_| None).collect();
        if messages.is_empty() {
            return Some(hook_response(&reply, &[]));
        }
        self.http_calls.insert(conn, HttpCall::Hook { reply, outcomes });
        for (idx, message) in messages.into_iter().enumerate() {
            if let Err(error) = self.receive(message, Uploads::default(), None, inbound::Waiter::Hook { conn, idx }) {
                self.hook_message_done(conn, idx, Err(error));
            }
        }
        None
    }

    /// `POST /hooks/…`.
    fn hook(&mut self, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
        let settings = &self.config.settings.hooks;
        if !settings.enabled {
            return Some(text(404, "Not Found"));
        }
        if request.method != "POST" {
            return Some(method_not_allowed(&["POST"]));
        }
        if request.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("token="))) {
            return Some(hook_error(400, "the token belongs in a header, not in the address"));
        }
        let secret = settings.token.as_ref().map(|token| token.reveal().to_owned());
        if let Err(response) = self.check_hook_secret(now, request, secret.as_deref()) {
            return Some(response);
        }
        if request.body.len() > self.config.settings.hooks.max_body_bytes {
            return Some(hook_error(413, "payload too large"));
        }
        match hooks::read(request, &self.config.settings.hooks, &self.keys, now.wall_ms) {
            Ok(batch) => self.receive_batch(conn, batch),
            Err(error) => Some(hook_error(error.status, &error.text)),
        }
    }

    /// A webhook's secret: the token in a header, or a signature of the body made with it.
    ///
    /// # Errors
    /// The response to refuse with; a webhook without a configured secret refuses everybody.
    fn check_hook_secret(&mut self, now: Now, request: &HttpRequest, secret: Option<&str>) -> Result<(), HttpResponse> {
        let head = Head { peer: request.peer.ip(), headers: &request.headers };
        let subject = subject(Kind::Hook, head.client_address(&self.config.settings), None);
        if let Some(ms) = self.limiter.locked_for_ms(&subject, now.wall_ms) {
            return Err(too_many(ms));
        }
        let Some(secret) = secret else { return Err(text(401, "Unauthorized")) };
        if hooks::is_authentic(request, secret, &self.comparer) {
            self.limiter.succeeded(&subject);
            return Ok(());
        }
        let mut rules = self.config.settings.gateway.auth.rate_limit.clone();
        rules.max_attempts = hooks::FAILURES_MAX;
        self.limiter.failed(subject, &rules, now.wall_ms);
        Err(text(401, "Unauthorized"))
    }
}

/// With the headers that every answer carries.
pub(super) fn dressed(mut response: HttpResponse) -> HttpResponse {
    for (name, value) in [
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Permissions-Policy", "camera=(), geolocation=(), payment=()"),
        ("Cache-Control", "no-store"),
    ] {
        if !response.headers.iter().any(|(known, _)| known == name) {
            response.headers.push((name.to_owned(), value.to_owned()));
        }
    }
    response
}

fn live(gateway: &mut Gateway, _now: Now, _conn: ConnId, _request: &HttpRequest) -> Option<HttpResponse> {
    let _ = gateway;
    Some(json_response(200, &json!({ "ok": true, "status": "live" })))
}

fn ready(gateway: &mut Gateway, now: Now, _conn: ConnId, _request: &HttpRequest) -> Option<HttpResponse> {
    let failing: Vec<&str> = [(gateway.stopping, "stopping"), (gateway.suspension.is_some(), "suspended")]
        .into_iter()
        .filter_map(|(holds, why)| holds.then_some(why))
        .collect();
    let is_ready = failing.is_empty();
    let body = json!({ "ready": is_ready, "failing": failing, "uptimeMs": gateway.uptime_ms(now) });
    Some(json_response(if is_ready { 200 } else { 503 }, &body))
}

fn started(gateway: &mut Gateway, now: Now, _conn: ConnId, _request: &HttpRequest) -> Option<HttpResponse> {
    let body = json!({
        "ok": true,
        "status": "started",
        "version": env!("CARGO_PKG_VERSION"),
        "uptimeMs": gateway.uptime_ms(now),
    });
    Some(json_response(200, &body))
}

fn status(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    match gateway.http_caller(now, conn, request) {
        Ok(caller) => call_over_http(gateway, now, &caller, Value::Null, "status", None),
        Err(response) => Some(response),
    }
}

/// What is measured, for Prometheus.
fn measured(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    if let Err(response) = gateway.http_caller(now, conn, request) {
        return Some(response);
    }
    let headers = vec![("Content-Type".to_owned(), metrics::CONTENT_TYPE.to_owned())];
    Some(HttpResponse { status: 200, headers, body: metrics::text().into_bytes() })
}

fn methods(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    if let Err(response) = gateway.http_caller(now, conn, request) {
        return Some(response);
    }
    let names: Vec<&str> = table::sorted().iter().map(|method| method.name).collect();
    Some(json_response(200, &json!({ "ok": true, "count": names.len(), "methods": names })))
}

fn rpc(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    // Who cannot sign in learns nothing of how a body is read.
    let caller = match gateway.http_caller(now, conn, request) {
        Ok(caller) => caller,
        Err(response) => return Some(response),
    };
    let body: Value = match serde_json::from_slice(&request.body) {
        Ok(Value::Object(body)) => Value::Object(body),
        _ => return Some(error_json(400, "invalid_request_error", "the body must be a JSON object")),
    };
    let id = body.get("id").cloned().unwrap_or(Value::Null);
    let Some(method) = body.get("method").and_then(Value::as_str) else {
        return Some(error_json(400, "invalid_request_error", "the body needs a method"));
    };
    let params = body.get("params").map(Value::to_string);
    call_over_http(gateway, now, &caller, id, method, params.as_deref())
}

fn call_over_http(
    gateway: &mut Gateway,
    now: Now,
    caller: &Arc<Caller>,
    id: Value,
    method: &str,
    params: Option<&str>,
) -> Option<HttpResponse> {
    let conn = caller.conn;
    gateway.http_calls.insert(conn, HttpCall::Rpc { id: id.clone() });
    match gateway.call(now, caller, "rpc", method, params) {
        Ok(None) => None,
        Ok(Some(json)) => {
            gateway.http_calls.remove(&conn);
            Some(rpc_response(&id, Ok(json)))
        }
        Err(error) => {
            gateway.http_calls.remove(&conn);
            Some(rpc_response(&id, Err(error)))
        }
    }
}

fn channel_hook(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    let Some(target) = hooks::channel_target(request.path()) else {
        return Some(json_response(404, &json!({ "ok": false, "error": "not_found", "path": request.path() })));
    };
    let Some(secret) = channel_secret(&gateway.config, &target.channel) else {
        // Unknown, or known and without a secret: an unsigned post is never accepted.
        return Some(json_response(
            404,
            &json!({ "ok": false, "error": "unknown channel", "channel": target.channel }),
        ));
    };
    if let Err(response) = gateway.check_hook_secret(now, request, Some(secret.as_str())) {
        return Some(response);
    }
    match hooks::read_channel(request, &target, &gateway.keys, now.wall_ms) {
        Ok(batch) => gateway.receive_batch(conn, batch),
        Err(error) => Some(hook_error(error.status, &error.text)),
    }
}

/// The secret of a channel's webhook.
fn channel_secret(config: &crate::config::load::Loaded, channel: &str) -> Option<String> {
    config.settings.channels.webhook_secret(channel).map(|secret| secret.reveal().to_owned())
}

fn http_caller(
    conn: ConnId,
    address: IpAddr,
    admission: Admission,
    scopes: Scopes,
    device_id: Option<String>,
) -> Caller {
    Caller {
        conn,
        protocol: Protocol::V4,
        role: Role::Operator,
        scopes,
        client_id: ClientId::GatewayClient,
        mode: ClientMode::Backend,
        device_id,
        admission,
        address,
        name: "http".to_owned(),
        label: "http".to_owned(),
        caps: Caps::default(),
    }
}

fn subject(kind: Kind, address: IpAddr, origin: Option<&str>) -> Subject {
    Subject { kind, address, origin: origin.map(str::to_owned) }
}

/// The link to a setup code: the first look at it is the only one.
fn setup_link(gateway: &mut Gateway, now: Now, conn: ConnId, request: &HttpRequest) -> Option<HttpResponse> {
    let head = Head { peer: request.peer.ip(), headers: &request.headers };
    let subject = subject(Kind::SetupLink, head.client_address(&gateway.config.settings), None);
    if let Some(ms) = gateway.limiter.locked_for_ms(&subject, now.wall_ms) {
        let mut response = json_response(429, &json!({ "error": "rate_limited" }));
        response.headers.push(("Retry-After".to_owned(), ms.div_ceil(1000).to_string()));
        return Some(response);
    }
    let code = request.path().strip_prefix("/j/").filter(|_| request.query().is_none()).unwrap_or_default();
    let Some(setup) = gateway.setups.open_link(code, &gateway.token_key, &gateway.comparer, now.wall_ms) else {
        let rules = gateway.config.settings.gateway.auth.rate_limit.clone();
        gateway.limiter.failed(subject, &rules, now.wall_ms);
        return Some(json_response(404, &json!({ "error": "not_found" })));
    };
    gateway.limiter.succeeded(&subject);
    let payload = setup.payload(&gateway.token_key.setup_token(&setup.id));
    let response = Box::new(json_response(200, &payload));
    gateway.http_calls.insert(conn, HttpCall::Page);
    // Closed on disk before anybody reads what is behind it.
    let work = Work::Store(Box::new(move |db| {
        setups::write(db, &setup, now.wall_ms)?;
        Ok(Done { answer: None, facts: vec![Fact::Page { conn, response }] })
    }));
    gateway.effects.push_back(Effect::Start(Job { origin: Origin::Page(conn), work }));
    None
}

fn bearer(request: &HttpRequest) -> Option<String> {
    let value = request.header("authorization")?;
    let (scheme, secret) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !secret.trim().is_empty()).then(|| secret.trim().to_owned())
}

fn rpc_response(id: &Value, result: Result<Json, RpcError>) -> HttpResponse {
    let body = match result {
        Ok(json) => format!("{{\"ok\":true,\"id\":{id},\"result\":{}}}", json.as_str()),
        Err(error) => {
            let mut text = Vec::new();
            write_error(&mut text, &error, Protocol::V4);
            let unknown = error.code == ErrorCode::InvalidRequest && error.message.starts_with("unknown method");
            let marker = if unknown { ",\"notHandled\":true" } else { "" };
            format!("{{\"ok\":false,\"id\":{id}{marker},\"error\":{}}}", String::from_utf8_lossy(&text))
        }
    };
    response(200, "application/json; charset=utf-8", body.into_bytes())
}

fn hook_response(reply: &hooks::ReplyForm, outcomes: &[Result<HookOutcome, RpcError>]) -> HttpResponse {
    if outcomes.iter().all(Result::is_err)
        && let Some(Err(error)) = outcomes.first()
    {
        let status = if error.retryable == Some(true) { 503 } else { 400 };
        return hook_error(status, &error.message);
    }
    json_response(
        200,
        &reply.body(outcomes.iter().map(|outcome| match outcome {
            Ok(done) => hooks::Line { run_id: &done.run_id, session: &done.session, is_new: done.is_new, error: None },
            Err(error) => hooks::Line { run_id: "", session: "", is_new: false, error: Some(&error.message) },
        })),
    )
}

fn unauthorized(_refusal: &Refusal) -> HttpResponse {
    json_response(401, &json!({ "error": { "message": "Unauthorized", "type": "unauthorized" } }))
}

fn too_many(ms: u64) -> HttpResponse {
    let body = json!({ "error": {
        "message": "Too many failed authentication attempts. Please try again later.",
        "type": "rate_limited",
    } });
    let mut response = json_response(429, &body);
    response.headers.push(("Retry-After".to_owned(), ms.div_ceil(1000).to_string()));
    response
}

fn hook_error(status: u16, error: &str) -> HttpResponse {
    json_response(status, &json!({ "ok": false, "error": error }))
}

fn method_not_allowed(allowed: &[&str]) -> HttpResponse {
    let mut response = text(405, "Method Not Allowed");
    response.headers.push(("Allow".to_owned(), allowed.join(", ")));
    response
}

pub(super) fn error_json(status: u16, kind: &str, message: &str) -> HttpResponse {
    json_response(status, &json!({ "error": { "message": message, "type": kind } }))
}

pub(super) fn json_response(status: u16, body: &Value) -> HttpResponse {
    response(status, "application/json; charset=utf-8", body.to_string().into_bytes())
}

pub(super) fn text(status: u16, body: &str) -> HttpResponse {
    response(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

pub(super) fn response(status: u16, kind: &str, body: Vec<u8>) -> HttpResponse {
    HttpResponse { status, headers: vec![("Content-Type".to_owned(), kind.to_owned())], body }
}
