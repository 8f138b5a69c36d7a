//! The way of an approval: from who asks, over the disk, to who may answer, and back.
//!
//! Who may answer is decided here: an operator with `operator.approvals` whose program shows approvals, and who may see
//! this one. On protocol 4 a request of one client is seen by its own device and by administrators; what a run of ours
//! asks is seen by all who may approve. Protocol 3 has no such rule, and every client of it that may approve sees all.

use std::collections::BTreeSet;
use std::sync::Arc;

use crossbeam_channel::Sender;
use serde_json::{Value, json};

use super::{Approval, Asker, Bound, Decision, Due, End, Form, Kind, Reason, Record, Refusal, Waiter, display, shown};
use crate::agent::run::{Approval as Wanted, Permission, RunInput, approval_id};
use crate::defender::rules::Rules;
use crate::gateway::broadcast::{self, EventKind, For};
use crate::gateway::clients::Caller;
use crate::gateway::dispatch::BUSY_RETRY_MS;
use crate::gateway::methods::approvals::analysis;
use crate::gateway::table::Call;
use crate::gateway::{Done, Effect, Fact, Gateway, Job, Origin, Work};
use crate::protocol::ConnId;
use crate::protocol::connect::ClientId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::scope::{Role, Scope};
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::store::StoreError;
use crate::store::approvals::ApprovalRow;
use crate::store::db::{Db, Queries};
use crate::tools::exec_policy::document::{Document, NewGrant};

/// How many sessions above its own see an approval.
const AUDIENCE_MAX: usize = 8;

/// What is written of an approval, so that the report finds its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Its row.
    Enter(String),
    /// Its end.
    End(String),
}

/// A request for an approval, from a client.
pub struct Asked {
    /// Its name.
    pub id: String,
    /// What kind of thing is asked.
    pub kind: Kind,
    /// How long it can be answered, in milliseconds.
    pub timeout_ms: i64,
    /// What may be answered.
    pub decisions: Vec<Decision>,
    /// Its session, if it has one.
    pub session_key: Option<String>,
    /// Whether the caller is told first that it was taken in.
    pub two_phase: bool,
    /// Whether nobody is to be shown it.
    pub is_silent: bool,
    /// Whether it waits although nobody can answer it now.
    pub waits_for_nobody: bool,
    /// What is asked, made where there is time for it.
    pub request: Box<dyn FnOnce(&Rules) -> Value + Send>,
}

/// An approval that a run asks for.
#[derive(Debug)]
pub struct AskedByRun {
    /// What is on disk.
    pub approval: Approval,
    /// Where the run waits.
    pub tell: Sender<Permission>,
}

/// `text` as a person may be shown it: without secrets, and with nothing invisible in it.
pub fn shown_text(rules: &Rules, text: &str) -> String {
    display::visible(&rules.scrub(text).0)
}

/// Who may see an approval of this asker.
pub fn is_visible(caller: &Caller, asker: &Asker, asker_conn: Option<ConnId>) -> bool {
    let is_operator = caller.role == Role::Operator && caller.scopes.satisfies(Scope::Approvals, caller.protocol);
    if !is_operator {
        return false;
    }
    if caller.protocol == Protocol::V3 || caller.is_admin() {
        return true;
    }
    match (&asker.device, &asker.client) {
        (Some(device), _) => caller.device_id.as_ref() == Some(device),
        (None, Some(_)) => asker_conn == Some(caller.conn),
        (None, None) => true,
    }
}

/// Whether a client shows approvals of this kind to a person. Protocol 3 has no word for it: its clients are asked.
fn shows(caller: &Caller, kind: Kind) -> bool {
    if caller.protocol == Protocol::V3 {
        return kind == Kind::Exec;
    }
    let (caps, id) = (caller.caps, caller.client_id);
    if caps.approvals || id == ClientId::ControlUi {
        return true;
    }
    match kind {
        Kind::Exec => caps.exec_approvals || matches!(id, ClientId::MacOs | ClientId::Ios | ClientId::Android),
        Kind::Plugin => caps.plugin_approvals || id == ClientId::Tui,
        Kind::SystemAgent => false,
    }
}

/// The session and those above it.
fn audience(db: &Queries, session_key: Option<&str>) -> Result<Vec<String>, StoreError> {
    let mut audience: Vec<String> = Vec::new();
    let mut next = session_key.map(str::to_owned);
    while let Some(key) = next.take() {
        if audience.contains(&key) || audience.len() > AUDIENCE_MAX {
            break;
        }
        next = db.session(&key)?.and_then(|session| session.spawned_by);
        audience.push(key);
    }
    Ok(audience)
}

fn text_of(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::from(RpcError::unavailable(format!("a record cannot be written: {error}"))))
}

/// Enters an approval; the row as it is on disk.
///
/// # Errors
/// One of this name is there; the store's.
fn enter(db: &Db<'_>, row: &ApprovalRow) -> Result<(), StoreError> {
    if db.approval_insert(row)? { Ok(()) } else { Err(taken().into()) }
}

fn taken() -> RpcError {
    RpcError::invalid("approval id already pending")
}

/// A run, as far as it asks.
#[derive(Debug, Clone)]
pub struct AskingRun {
    session: SessionKey,
    run_id: String,
    rules: Arc<Rules>,
}

impl AskingRun {
    /// The run that begins with this.
    pub fn of(input: &RunInput) -> AskingRun {
        AskingRun { session: input.session.clone(), run_id: input.run_id.clone(), rules: Arc::clone(&input.rules) }
    }

    #[cfg(test)]
    pub(super) fn for_tests(rules: Arc<Rules>) -> AskingRun {
        AskingRun { session: SessionKey::stored("agent:main:main".to_owned()), run_id: "run".to_owned(), rules }
    }

    /// A text as a person may be shown it.
    pub fn shown(&self, text: &str) -> String {
        shown_text(&self.rules, text)
    }
}

/// What a run asks, and what holds of it already.
pub enum Begun {
    /// Somebody is to be asked.
    Open(Box<Approval>),
    /// It was answered before, and what was granted is begun now.
    Answered(Permission),
}

/// Enters what a run asks, unless it was asked before.
///
/// # Errors
/// The store's.
pub fn begin_for_run(
    db: &Db<'_>,
    (question, run): (&Wanted, &AskingRun),
    (now_ms, expires_ms): (i64, i64),
) -> Result<Begun, StoreError> {
    let id = approval_id(&question.key);
    let row = match db.approval(&id)? {
        Some(row) => row,
        None => {
            let decisions: Vec<Decision> = Decision::ALL
                .into_iter()
                .filter(|decision| *decision != Decision::AllowAlways || question.may_always)
                .collect();
            let record = Record {
                request: request_of_run(question, run, &decisions),
                decisions,
                asker: Asker::default(),
                audience: audience(db, Some(run.session.as_str()))?,
                bound: Some(Bound {
                    digest: question.digest.clone(),
                    agent: question.agent.clone(),
                    path: question.program.clone().filter(|_| question.may_always),
                    command: run.shown(&question.command),
                    cwd: question.cwd.clone(),
                }),
            };
            let (kind, record) = (Kind::Exec.as_str().to_owned(), text_of(&record)?);
            let row = ApprovalRow { id, kind, created_ms: now_ms, expires_ms, record, end: None, used_ms: None };
            enter(db, &row)?;
            row
        }
    };
    let approval = Approval::of_row(&row)?;
    if approval.record.bound.as_ref().is_none_or(|bound| bound.digest != question.digest) {
        // What is to be done is not what was asked about: the answer is none to this.
        return Ok(Begun::Answered(Permission::Changed));
    }
    match approval.end() {
        None => Ok(Begun::Open(Box::new(approval))),
        Some(end) => Ok(Begun::Answered(match end.permission() {
            Permission::Granted => use_for_run(db, &approval.id, now_ms)?,
            permission => permission,
        })),
    }
}

/// What a person is shown of what a run asks, in protocol 4's form.
fn request_of_run(question: &Wanted, run: &AskingRun, decisions: &[Decision]) -> Value {
    let shown = |text: &Option<String>| text.as_ref().map(|text| run.shown(text));
    let decisions: Vec<&str> = decisions.iter().map(|decision| decision.as_str()).collect();
    let mut request = json!({
        "command": run.shown(&question.command),
        "systemRunBinding": null,
        "systemRunPlan": null,
        "cwd": shown(&question.cwd),
        "nodeId": null,
        "host": question.host,
        "security": question.security,
        "ask": question.ask,
        "warningText": question.why.as_ref().map(|why| display::visible_lines(&run.rules.scrub(why).0)),
        "scope": null,
        "commandAnalysis": analysis(&question.command),
        "allowedDecisions": decisions,
        "agentId": question.agent,
        "resolvedPath": shown(&question.program),
        "sessionKey": run.session.as_str(),
        "sessionId": null,
        "runId": run.run_id,
        "toolCallId": question.call_id,
        "turnSourceChannel": null,
        "turnSourceTo": null,
        "turnSourceAccountId": null,
        "turnSourceThreadId": null,
        "cronExecutionSource": null,
        "cronOperationBinding": null,
    });
    if !question.env_names.is_empty() {
        let names: Vec<String> = question.env_names.iter().map(|name| run.shown(name)).collect();
        request["envKeys"] = json!(names);
    }
    request
}

/// Takes what was granted, once.
///
/// # Errors
/// The store's.
pub fn use_for_run(db: &Db<'_>, id: &str, now_ms: i64) -> Result<Permission, StoreError> {
    Ok(if db.approval_use(id, now_ms)? { Permission::Granted } else { Permission::Used })
}

/// Writes how an approval ended; the end it has, which is another one when that came first.
///
/// # Errors
/// The store's.
pub fn settle(db: &Db<'_>, id: &str, end: &End, state_dir: &std::path::Path) -> Result<End, StoreError> {
    let is_ours = db.approval_end(id, end.at_ms, &text_of(end)?)?;
    let Some(row) = db.approval(id)? else {
        return Err(RpcError::invalid("unknown or expired approval id").into());
    };
    let approval = Approval::of_row(&row)?;
    let bound = approval.record.bound.as_ref();
    if let (true, Some(Decision::AllowAlways), Some(bound)) = (is_ours, end.decision, bound)
        && let Some(path) = &bound.path
    {
        let mut document = Document::load(db, state_dir)?;
        let Bound { digest, agent, command, cwd, .. } = bound;
        document.grant(&NewGrant { id, agent, path, digest, command, cwd: cwd.as_deref() }, end.at_ms);
        document.save(db, end.at_ms)?;
    }
    approval.end().cloned().ok_or_else(|| RpcError::unavailable("an approval has no end").into())
}

/// Everybody who may answer what a run of ours asks.
#[cfg(test)]
pub fn approvers_of(gateway: &Gateway) -> Vec<ConnId> {
    gateway.approvers(Kind::Exec, &Asker::default(), None, None).into_iter().collect()
}

impl Gateway {
    /// Whom an approval can be shown to, but for one connection.
    fn approvers(
        &self,
        kind: Kind,
        asker: &Asker,
        asker_conn: Option<ConnId>,
        but: Option<ConnId>,
    ) -> BTreeSet<ConnId> {
        let all = self.clients.all_ready();
        let may = all.filter(|(conn, ready)| {
            Some(*conn) != but && shows(&ready.caller, kind) && is_visible(&ready.caller, asker, asker_conn)
        });
        may.map(|(conn, _)| conn).collect()
    }

    /// A client asks for an approval.
    ///
    /// # Errors
    /// It cannot be taken in.
    pub(in crate::gateway) fn ask_approval(&mut self, call: &Call, asked: Asked) -> Result<(), RpcError> {
        let Asked { id, kind, decisions, session_key, request, .. } = asked;
        let now_ms = call.now_ms;
        let expires_ms = now_ms.saturating_add(asked.timeout_ms.clamp(1, super::TIMEOUT_MS_MAX));
        let caller = &call.caller;
        let asker = Asker { device: caller.device_id.clone(), client: Some(caller.client_id.as_str().to_owned()) };
        let conn = Some(caller.conn);
        // Whoever asks does not answer: that would be no second pair of eyes, and a command line cannot.
        let is_reachable = !asked.is_silent && !self.approvers(kind, &asker, conn, conn).is_empty();
        let form = Form::Request { two_phase: asked.two_phase, is_silent: asked.is_silent };
        let waiter = Waiter::Call(caller.conn, call.id.clone(), form);
        self.approvals.reserve((&id, kind), (now_ms, expires_ms), conn, Some(waiter)).map_err(
            |refusal| match refusal {
                Refusal::Taken => taken(),
                Refusal::Full => RpcError::busy("too many approvals are waiting", BUSY_RETRY_MS),
            },
        )?;
        let end = (!is_reachable && !asked.waits_for_nobody).then(|| End::of_system(Reason::NoRoute, now_ms));
        let (rules, origin) = (Arc::clone(&self.rules), Origin::Approval(Box::new(Step::Enter(id.clone()))));
        let work = Work::Store(Box::new(move |db| {
            let audience = audience(db, session_key.as_deref())?;
            let record = Record { request: request(&rules), decisions, asker, audience, bound: None };
            let end = end.map(|end| Ok::<_, StoreError>((end.at_ms, text_of(&end)?))).transpose()?;
            let (kind, record) = (kind.as_str().to_owned(), text_of(&record)?);
            let row = ApprovalRow { id, kind, created_ms: now_ms, expires_ms, record, end, used_ms: None };
            enter(db, &row)?;
            let approval = Approval::of_row(&row)?;
            Ok(Done { answer: None, facts: vec![Fact::ApprovalEntered(Box::new(approval))] })
        }));
        self.effects.push_back(Effect::Start(Job { origin, work }));
        Ok(())
    }

    /// What was written of an approval, or was not.
    pub(in crate::gateway) fn approval_step(&mut self, now: Now, step: &Step, outcome: Result<Done, RpcError>) {
        match (step, outcome) {
            (_, Ok(done)) => {
                for fact in done.facts {
                    self.apply(now, fact);
                }
            }
            (Step::Enter(id), Err(error)) => {
                for waiter in self.approvals.not_entered(id) {
                    self.answer_waiter(waiter, Err(error.clone()));
                }
            }
            (Step::End(id), Err(error)) => {
                log::warn!("what came of an approval could not be written id={id} error={}", error.message);
                for waiter in self.approvals.not_ended(id, now.wall_ms) {
                    self.answer_waiter(waiter, Err(error.clone()));
                }
            }
        }
    }

    /// An approval is on disk: who may answer it is shown it.
    pub(in crate::gateway) fn approval_entered(&mut self, approval: Approval) {
        let id = approval.id.clone();
        if let Some(end) = approval.end().cloned() {
            // It had its end with its row: nobody could be asked.
            let waiters = self.approvals.entered_ended(approval);
            return self.tell_approval_end(&id, &end, waiters, false);
        }
        self.approvals.entered(approval);
        let forms: Vec<(ConnId, String, Form)> =
            self.approvals.get(&id).map(super::Approval::calls).unwrap_or_default();
        let is_silent = forms.iter().any(|(_, _, form)| matches!(form, Form::Request { is_silent: true, .. }));
        if !is_silent {
            self.show_approval(&id);
        }
        for (conn, request_id, form) in forms {
            if let (Form::Request { two_phase: true, .. }, Some(approval)) = (form, self.approvals.get(&id)) {
                let mut answer = json!({
                    "status": "accepted",
                    "id": id,
                    "createdAtMs": approval.created_ms,
                    "expiresAtMs": approval.expires_ms,
                });
                if self.clients.ready(conn).is_some_and(|ready| ready.caller.protocol == Protocol::V4) {
                    let (kind, asker) = (approval.kind, &approval.record.asker);
                    let has_clients = !self.approvers(kind, asker, Some(conn), Some(conn)).is_empty();
                    answer["deliveryRoute"] = json!(if has_clients && !is_silent { "approval-client" } else { "none" });
                }
                self.answer_request(conn, &request_id, Json::of(&answer));
            }
        }
    }

    /// A run asks: its row is on disk.
    pub(in crate::gateway) fn approval_asked(&mut self, asked: AskedByRun) {
        let AskedByRun { approval, tell } = asked;
        let id = approval.id.clone();
        let nobody = self.approvers(approval.kind, &approval.record.asker, None, None).is_empty();
        let is_new = self.approvals.get(&id).is_none();
        if is_new && self.approvals.is_full() {
            log::warn!("an approval is not asked for: too many are waiting");
            let _ = tell.send(Permission::NobodyToAsk);
            return;
        }
        match self.approvals.get(&id).and_then(Approval::end).map(End::permission) {
            Some(permission) => {
                let _ = tell.send(permission);
                return;
            }
            None if is_new => self.approvals.entered(approval),
            // Asked again after its run began anew: who was shown it still is.
            None => {}
        }
        self.approvals.wait(&id, Waiter::Run(tell), |_| true);
        if nobody && is_new {
            return self.end_approval(&id, End::of_system(Reason::NoRoute, self.now.wall_ms));
        }
        if is_new {
            self.show_approval(&id);
        }
    }

    /// Shows an open approval to all who may answer it.
    fn show_approval(&mut self, id: &str) {
        let Some(approval) = self.approvals.get(id) else { return };
        let kind = approval.kind;
        let [v3, v4] = [Protocol::V3, Protocol::V4].map(|protocol| shown::asked(approval, protocol));
        // Protocol 3 shows it to the connection that asked as well.
        let (asker, conn) = (approval.record.asker.clone(), approval.asker_conn);
        self.tell_approvers(requested_event(kind), (kind, &asker, conn), conn, [v3, v4]);
        self.tell_audience(id);
    }

    fn tell_approvers(
        &mut self,
        event: &EventKind,
        (kind, asker, conn): (Kind, &Asker, Option<ConnId>),
        but_on_v4: Option<ConnId>,
        payloads: [Value; 2],
    ) {
        let all = self.approvers(kind, asker, conn, None);
        for (protocol, payload) in [Protocol::V3, Protocol::V4].into_iter().zip(payloads) {
            let those: Vec<ConnId> = match protocol {
                Protocol::V3 => all.iter().copied().collect(),
                Protocol::V4 => all.iter().copied().filter(|conn| Some(*conn) != but_on_v4).collect(),
            };
            if let Ok(payload) = Json::of(&payload) {
                self.broadcast(event, For::Those(&For::These(&those), protocol), &payload);
            }
        }
    }

    /// Tells who follows one of its sessions with its approvals.
    fn tell_audience(&mut self, id: &str) {
        let Some(approval) = self.approvals.get(id) else { return };
        let base_path = self.page_base();
        let snapshot = shown::snapshot(approval, approval.end(), &base_path);
        let (source, asker) = (approval.record.audience.first().cloned(), approval.record.asker.clone());
        let (audience, asker_conn) = (approval.record.audience.clone(), approval.asker_conn);
        let updated_ms = approval.end().map_or(approval.created_ms, |end| end.at_ms);
        let phase = if approval.end().is_some() { "terminal" } else { "pending" };
        for key in audience {
            let all = self.clients.all_ready();
            let those: Vec<ConnId> = all
                .filter(|(_, ready)| ready.subscriptions.approvals.iter().any(|followed| followed.as_str() == key))
                .filter(|(_, ready)| is_visible(&ready.caller, &asker, asker_conn))
                .map(|(conn, _)| conn)
                .collect();
            let payload = json!({
                "sessionKey": key, "sourceSessionKey": source, "updatedAtMs": updated_ms, "phase": phase,
                "approval": snapshot,
            });
            if let (false, Ok(payload)) = (those.is_empty(), Json::of(&payload)) {
                self.broadcast(&broadcast::SESSION_APPROVAL, For::These(&those), &payload);
            }
        }
    }

    /// Somebody answers, in words that were understood. The call is answered once that is on disk.
    ///
    /// # Errors
    /// It cannot be answered, or not with this.
    pub(in crate::gateway) fn decide_approval(
        &mut self,
        call: &Call,
        (id, kind): (&str, Kind),
        decision: Decision,
    ) -> Result<(), RpcError> {
        let protocol = call.protocol();
        let approval = self.visible_approval(call, id).filter(|approval| approval.kind == kind);
        let approval = approval.ok_or_else(|| unknown(protocol))?;
        if let Some(end) = approval.end() {
            repeated(end, decision, protocol)?;
            self.answer_request(call.conn(), &call.id, Json::of(&json!({ "ok": true })));
            return Ok(());
        }
        if !approval.record.decisions.contains(&decision) {
            return Err(RpcError::invalid("allow-always is unavailable for this command")
                .with_details(json!({ "reason": "APPROVAL_ALLOW_ALWAYS_UNAVAILABLE" })));
        }
        let by = call.caller.label.clone();
        let resolver = ("runtime".to_owned(), Some(by.clone()));
        let end = End { decision: Some(decision), reason: Reason::User, by: Some(by), resolver, at_ms: call.now_ms };
        self.end_for_call(call, id, end, Form::Resolve { decision, decides: true })
    }

    /// The same by `approval.resolve`, where what cannot be an answer is a no.
    ///
    /// # Errors
    /// Too many wait for it.
    pub(in crate::gateway) fn decide_unified(
        &mut self,
        call: &Call,
        id: &str,
        decision: Option<Decision>,
    ) -> Result<(), RpcError> {
        let Some(approval) = self.approvals.get(id) else { return Ok(()) };
        let allowed =
            decision.filter(|decision| *decision == Decision::Deny || approval.record.decisions.contains(decision));
        let reason = if allowed.is_some() { Reason::User } else { Reason::MalformedVerdict };
        let caller = &call.caller;
        let resolver = match &caller.device_id {
            Some(device) => ("device".to_owned(), Some(device.clone())),
            None => ("runtime".to_owned(), Some(caller.client_id.as_str().to_owned())),
        };
        let (decision, by) = (Some(allowed.unwrap_or(Decision::Deny)), Some(caller.label.clone()));
        let end = End { decision, reason, by, resolver, at_ms: call.now_ms };
        self.end_for_call(call, id, end, Form::Unified { decides: true })
    }

    fn end_for_call(&mut self, call: &Call, id: &str, end: End, form: Form) -> Result<(), RpcError> {
        let is_open = self.approvals.get(id).is_some_and(Approval::is_open);
        let form = match form {
            Form::Unified { .. } => Form::Unified { decides: is_open },
            Form::Resolve { decision, .. } => Form::Resolve { decision, decides: is_open },
            other => other,
        };
        let (clients, http_calls) = (&self.clients, &self.http_calls);
        let is_here = |conn| clients.ready(conn).is_some() || http_calls.contains_key(&conn);
        if !self.approvals.wait(id, Waiter::Call(call.conn(), call.id.clone(), form), is_here) {
            return Err(RpcError::busy("too many calls wait for this approval", BUSY_RETRY_MS));
        }
        if is_open {
            self.audit(call, "approval.resolve", id);
            self.end_approval(id, end);
        }
        Ok(())
    }

    /// Writes an end.
    fn end_approval(&mut self, id: &str, end: End) {
        if !self.approvals.ending(id) {
            return;
        }
        let (id, state_dir) = (id.to_owned(), Arc::clone(&self.state_dir));
        let origin = Origin::Approval(Box::new(Step::End(id.clone())));
        let work = Work::Store(Box::new(move |db| {
            let end = settle(db, &id, &end, std::path::Path::new(&*state_dir))?;
            Ok(Done { answer: None, facts: vec![Fact::ApprovalEnded(Box::new((id, end)))] })
        }));
        self.effects.push_back(Effect::Start(Job { origin, work }));
    }

    /// An end is on disk: everybody hears of it.
    pub(in crate::gateway) fn approval_ended(&mut self, id: &str, end: End) {
        let Some(waiters) = self.approvals.ended(id, end.clone()) else { return };
        self.tell_approval_end(id, &end, waiters, true);
    }

    fn tell_approval_end(&mut self, id: &str, end: &End, waiters: Vec<Waiter>, was_shown: bool) {
        let Some(approval) = self.approvals.get(id) else { return };
        let is_answer = matches!(end.reason, Reason::User | Reason::MalformedVerdict);
        let base_path = self.page_base();
        let mut answers = Vec::new();
        for waiter in waiters {
            let protocol = match &waiter {
                Waiter::Call(conn, ..) => self.clients.ready(*conn).map_or(Protocol::V4, |ready| ready.caller.protocol),
                Waiter::Run(_) => Protocol::V4,
            };
            let answer = match &waiter {
                Waiter::Call(_, _, Form::Request { .. }) => Ok(shown::waited(approval, end, false)),
                Waiter::Call(_, _, Form::Wait) => Ok(shown::waited(approval, end, protocol == Protocol::V4)),
                // The one that decided, unless something else came before it on disk.
                Waiter::Call(_, _, Form::Resolve { decision, decides: true }) if end.decision == Some(*decision) => {
                    Ok(json!({ "ok": true }))
                }
                Waiter::Call(_, _, Form::Resolve { decision, .. }) => {
                    repeated(end, *decision, protocol).map(|()| json!({ "ok": true }))
                }
                Waiter::Call(_, _, Form::Unified { decides }) => {
                    let approval = shown::told(approval, Some(end), &base_path);
                    Ok(json!({ "applied": *decides && is_answer, "approval": approval }))
                }
                Waiter::Run(_) => Ok(Value::Null),
            };
            answers.push((waiter, answer));
        }
        let kind = approval.kind;
        let [v3, v4] = [Protocol::V3, Protocol::V4].map(|protocol| shown::resolved(approval, end, protocol));
        let (asker, conn) = (approval.record.asker.clone(), approval.asker_conn);
        for (waiter, answer) in answers {
            match waiter {
                Waiter::Run(tell) => {
                    let _ = tell.send(end.permission());
                }
                waiter => self.answer_waiter(waiter, answer),
            }
        }
        if is_answer && was_shown {
            self.tell_approvers(resolved_event(kind), (kind, &asker, conn), None, [v3, v4]);
        }
        if was_shown {
            self.tell_audience(id);
        }
    }

    fn answer_waiter(&mut self, waiter: Waiter, answer: Result<Value, RpcError>) {
        match waiter {
            Waiter::Call(conn, id, _) => {
                self.answer_request(conn, &id, answer.and_then(|answer| Json::of(&answer)));
            }
            // It could not be written down: that is no leave.
            Waiter::Run(tell) => {
                let _ = tell.send(Permission::Expired);
            }
        }
    }

    /// An approval that a caller may see.
    pub(in crate::gateway) fn visible_approval(&self, call: &Call, id: &str) -> Option<&Approval> {
        let approval = self.approvals.get(id).filter(|approval| approval.is_known())?;
        is_visible(&call.caller, &approval.record.asker, approval.asker_conn).then_some(approval)
    }

    /// Waits for an end.
    ///
    /// # Errors
    /// There is no such approval; too many wait.
    pub(in crate::gateway) fn wait_approval(&mut self, call: &Call, id: &str) -> Result<(), RpcError> {
        let Some(approval) = self.visible_approval(call, id) else {
            return Err(RpcError::invalid("approval expired or not found"));
        };
        if let Some(end) = approval.end() {
            let answer = shown::waited(approval, end, call.protocol() == Protocol::V4);
            self.answer_request(call.conn(), &call.id, Json::of(&answer));
            return Ok(());
        }
        let (clients, http_calls) = (&self.clients, &self.http_calls);
        let is_here = |conn| clients.ready(conn).is_some() || http_calls.contains_key(&conn);
        if !self.approvals.wait(id, Waiter::Call(call.conn(), call.id.clone(), Form::Wait), is_here) {
            return Err(RpcError::busy("too many calls wait for this approval", BUSY_RETRY_MS));
        }
        Ok(())
    }

    /// Ends those whose time is over.
    pub(in crate::gateway) fn tend_approvals(&mut self, now: Now) {
        for Due::Expired(id) in self.approvals.overdue(now.wall_ms) {
            self.end_approval(&id, End::of_system(Reason::Timeout, now.wall_ms));
        }
    }

    /// Where the page lies, before the path of an approval.
    fn page_base(&self) -> String {
        page_base(&self.config)
    }
}

/// Where the page lies, without a slash at its end.
pub fn page_base(config: &crate::config::load::Loaded) -> String {
    config.settings.gateway.control_ui.base_path.trim_end_matches('/').to_owned()
}

fn requested_event(kind: Kind) -> &'static EventKind {
    match kind {
        Kind::Exec => &broadcast::EXEC_APPROVAL_REQUESTED,
        Kind::Plugin | Kind::SystemAgent => &broadcast::PLUGIN_APPROVAL_REQUESTED,
    }
}

fn resolved_event(kind: Kind) -> &'static EventKind {
    match kind {
        Kind::Exec => &broadcast::EXEC_APPROVAL_RESOLVED,
        Kind::Plugin | Kind::SystemAgent => &broadcast::PLUGIN_APPROVAL_RESOLVED,
    }
}

/// There is no such approval, for this caller.
pub fn unknown(protocol: Protocol) -> RpcError {
    match protocol {
        Protocol::V3 => RpcError::invalid("unknown approval id"),
        Protocol::V4 => RpcError::invalid("unknown or expired approval id").with_details(json!({
            "reason": "APPROVAL_NOT_FOUND",
            "remediation": "ask for it again: what nobody answered in time is gone",
        })),
    }
}

/// An answer to what was answered: the same one again is no mistake on protocol 4.
fn repeated(end: &End, decision: Decision, protocol: Protocol) -> Result<(), RpcError> {
    match protocol {
        Protocol::V4 if end.decision == Some(decision) => Ok(()),
        Protocol::V4 => Err(RpcError::invalid("approval already resolved")
            .with_details(json!({ "reason": "APPROVAL_ALREADY_RESOLVED" }))),
        Protocol::V3 => Err(unknown(protocol)),
    }
}
