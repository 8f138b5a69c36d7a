//! Commands, and other things, that wait for a person: asking, answering, looking.

use serde_json::{Map, Value, json};

use crate::gateway::Gateway;
use crate::gateway::approvals::flow::{self, Asked, shown_text};
use crate::gateway::approvals::{Approval, Decision, Kind, display, shown};
use crate::gateway::table::{Call, QueryCx, StoreCx, need};
use crate::gateway::{Done, Effect, Fact, Job, Origin, Work};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::params::{Any, Int, Issues, Loose, NonEmpty, Nullable, Object, Param, Params, Positive, Text};
use crate::protocol::version::Protocol;
use crate::runtime::random;
use crate::store::StoreError;
use crate::store::approvals::ApprovalRow;
use crate::tools::exec_policy::document::Document;
use crate::tools::exec_policy::{Ask, Security, reader};

/// How long a command waits for an answer unless its asker says otherwise, in milliseconds, on protocols 3 and 4.
pub const EXEC_TIMEOUT_MS: [i64; 2] = [120_000, 1_800_000];
/// The same for what plugins ask.
pub const PLUGIN_TIMEOUT_MS: i64 = 120_000;
/// Entries of one page of the history, unless the caller asks for fewer.
pub const HISTORY_PAGE_MAX: usize = 100;
/// Entries of a page when the caller does not say.
const HISTORY_PAGE: usize = 50;
/// Grants in one list.
pub const GRANTS_LISTED_MAX: usize = 500;
/// Longest id that a client may choose, in characters.
const ID_CHARS_MAX: usize = 128;
/// How ids of what plugins ask begin.
const PLUGIN_PREFIX: &str = "plugin:";
/// What a grant that no automation uses stands under in the list of grants.
const NO_AUTOMATION: &str = "exec";

crate::methods! {
    "exec.approval.request",       Both, need::APPROVALS, need::APPROVALS, Flow request;
    "exec.approval.waitDecision",  Both, need::APPROVALS, need::APPROVALS, Flow wait;
    "exec.approval.resolve",       Both, need::APPROVALS, need::APPROVALS, Flow resolve;
    "exec.approval.get",           V4,   need::ADMIN,     need::APPROVALS, Loop get;
    "exec.approval.list",          V4,   need::APPROVALS, need::APPROVALS, Loop list;
    "exec.approval.grants.list",   V4,   need::ADMIN,     need::APPROVALS, Query grants;
    "exec.approval.grants.revoke", V4,   need::ADMIN,     need::APPROVALS, Store revoke;
    "approval.get",                V4,   need::ADMIN,     need::APPROVALS, Query read;
    "approval.resolve",            V4,   need::ADMIN,     need::APPROVALS, Flow decide;
    "approval.history",            V4,   need::ADMIN,     need::APPROVALS, Query history;
    "plugin.approval.request",     V4,   need::ADMIN,     need::APPROVALS, Flow plugin_request;
    "plugin.approval.waitDecision", V4,  need::ADMIN,     need::APPROVALS, Flow wait;
    "plugin.approval.resolve",     V4,   need::ADMIN,     need::APPROVALS, Flow plugin_resolve;
    "plugin.approval.list",        V4,   need::APPROVALS, need::APPROVALS, Loop plugin_list;
    "openclaw.approval.list",      V4,   need::APPROVALS, need::APPROVALS, Loop agent_list;
}

/// A text that may be left out or be `null`.
type OptText = Option<Nullable<String>>;

/// A field that protocol 3 requires and protocol 4 does not.
#[derive(Debug, Clone)]
pub struct RequiredBefore4<T>(Option<T>);

impl<T: Param> Param for RequiredBefore4<T> {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        T::read(value, path, issues).map(|read| RequiredBefore4(Some(read)))
    }

    fn absent_on(protocol: Protocol) -> Option<Self> {
        (protocol == Protocol::V4).then_some(RequiredBefore4(None))
    }
}

crate::params! {
    /// A command that somebody is asked about.
    pub struct RequestParams {
        id: Option<NonEmpty> = "id",
        command: RequiredBefore4<NonEmpty> = "command",
        cwd: OptText = "cwd",
        host: OptText = "host",
        security: OptText = "security",
        ask: OptText = "ask",
        agent_id: OptText = "agentId",
        resolved_path: OptText = "resolvedPath",
        session_key: OptText = "sessionKey",
        timeout_ms: Option<Positive> = "timeoutMs",
        two_phase: Option<bool> = "twoPhase",
        @v4 {
            command_argv: Option<Vec<String>> = "commandArgv",
            system_run_plan: Option<Object> = "systemRunPlan",
            env: Option<Object> = "env",
            node_id: Option<Nullable<NonEmpty>> = "nodeId",
            warning_text: OptText = "warningText",
            scope: Option<Object> = "scope",
            unavailable_decisions: Option<Vec<String>> = "unavailableDecisions",
            command_spans: Option<Vec<Object>> = "commandSpans",
            session_id: OptText = "sessionId",
            run_id: OptText = "runId",
            tool_call_id: OptText = "toolCallId",
            turn_source_channel: OptText = "turnSourceChannel",
            turn_source_to: OptText = "turnSourceTo",
            turn_source_account_id: OptText = "turnSourceAccountId",
            turn_source_thread_id: Option<Any> = "turnSourceThreadId",
            approval_reviewer_device_ids: Option<Vec<NonEmpty>> = "approvalReviewerDeviceIds",
            require_delivery_route: Option<bool> = "requireDeliveryRoute",
            suppress_delivery: Option<bool> = "suppressDelivery",
            deliver_to_approval_clients_only: Option<bool> = "deliverToApprovalClientsOnly",
        }
    }
}

fn text(field: &OptText) -> Option<&str> {
    field.as_ref().and_then(|field| field.0.as_deref()).map(str::trim).filter(|text| !text.is_empty())
}

fn request(gateway: &mut Gateway, call: &Call, params: RequestParams) -> Result<(), RpcError> {
    let protocol = call.protocol();
    let plan = params.system_run_plan.as_ref().map(|plan| &plan.0);
    let of_plan = |name: &str| plan.and_then(|plan| plan.get(name)).and_then(Value::as_str);
    let command = params.command.0.as_ref().map(|command| command.0.as_str()).or(of_plan("commandText"));
    let command = command.filter(|command| !command.trim().is_empty());
    let command = command.ok_or_else(|| RpcError::invalid("command is required"))?.to_owned();
    let host = text(&params.host);
    if protocol == Protocol::V4 && host == Some("node") {
        if params.node_id.as_ref().is_none_or(|node| node.0.is_none()) {
            return Err(RpcError::invalid("nodeId is required for host=node"));
        }
        if plan.is_none() {
            return Err(RpcError::invalid("systemRunPlan is required for host=node"));
        }
    }
    let id = match &params.id {
        None => random::uuid(),
        Some(id) if id.0.starts_with(PLUGIN_PREFIX) => {
            return Err(RpcError::invalid(format!("approval ids starting with {PLUGIN_PREFIX} are reserved")));
        }
        Some(id) => checked_id(&id.0)?,
    };
    if command.chars().count() > display::SHOWN_CHARS_MAX {
        return Err(RpcError::invalid("command exceeds exec approval display limit")
            .with_details(json!({ "reason": "EXEC_APPROVAL_COMMAND_DISPLAY_LIMIT" })));
    }
    let is_always_unavailable = text(&params.ask) == Some("always")
        || params.unavailable_decisions.as_ref().is_some_and(|words| words.iter().any(|word| word == "allow-always"));
    let decisions = Decision::ALL
        .into_iter()
        .filter(|decision| protocol == Protocol::V3 || *decision != Decision::AllowAlways || !is_always_unavailable)
        .collect::<Vec<_>>();
    let session_key = text(&params.session_key).or(of_plan("sessionKey")).map(str::to_owned);
    let timeout_ms = params.timeout_ms.map_or(EXEC_TIMEOUT_MS[usize::from(protocol == Protocol::V4)], |ms| ms.0);
    let asked = Asked {
        id,
        kind: Kind::Exec,
        timeout_ms,
        session_key: session_key.clone(),
        two_phase: params.two_phase == Some(true),
        is_silent: params.suppress_delivery == Some(true),
        waits_for_nobody: params.require_delivery_route == Some(false),
        request: {
            let decisions = decisions.clone();
            Box::new(move |rules| {
                let words: Vec<&str> = decisions.iter().map(|decision| decision.as_str()).collect();
                exec_request(rules, &params, &command, session_key.as_deref(), &words, protocol)
            })
        },
        decisions,
    };
    gateway.ask_approval(call, asked)
}

/// What a client is shown of a request, in protocol 4's form.
fn exec_request(
    rules: &crate::defender::rules::Rules,
    params: &RequestParams,
    command: &str,
    session_key: Option<&str>,
    decisions: &[&str],
    protocol: Protocol,
) -> Value {
    let plan = params.system_run_plan.as_ref().map(|plan| &plan.0);
    let of_plan = |name: &str| plan.and_then(|plan| plan.get(name)).and_then(Value::as_str);
    let shown = |field: Option<&str>| field.map(|text| shown_text(rules, text));
    let is_node = text(&params.host) == Some("node");
    let node_id = params.node_id.as_ref().and_then(|node| node.0.as_ref()).filter(|_| is_node);
    // Protocol 3 gives back what was said; protocol 4 only the words it knows.
    let word = |field: &OptText, known: fn(&str) -> bool| {
        text(field).filter(|word| protocol == Protocol::V3 || known(word)).map(str::to_owned)
    };
    let mut request = json!({
        "command": shown_text(rules, command),
        "systemRunBinding": null,
        "systemRunPlan": plan,
        "cwd": shown(text(&params.cwd).or(of_plan("cwd"))),
        "nodeId": node_id.map(|node| node.0.as_str()),
        "host": shown(text(&params.host)),
        "security": word(&params.security, |word| Security::parse(word).is_some()),
        "ask": word(&params.ask, |word| Ask::parse(word).is_some()),
        "warningText": text(&params.warning_text).map(|text| display::visible_lines(&rules.scrub(text).0)),
        "scope": params.scope.as_ref().map(|scope| scoped(rules, &scope.0)),
        "commandAnalysis": analysis(command),
        "allowedDecisions": decisions,
        "agentId": shown(text(&params.agent_id).or(of_plan("agentId"))),
        "resolvedPath": shown(text(&params.resolved_path)),
        "sessionKey": session_key,
        "sessionId": text(&params.session_id),
        "runId": text(&params.run_id),
        "toolCallId": text(&params.tool_call_id),
        "turnSourceChannel": text(&params.turn_source_channel),
        "turnSourceTo": text(&params.turn_source_to),
        "turnSourceAccountId": text(&params.turn_source_account_id),
        "turnSourceThreadId": params.turn_source_thread_id.as_ref().map(|id| &id.0),
        "cronExecutionSource": null,
        "cronOperationBinding": null,
    });
    if let Some(argv) = params.command_argv.as_ref().filter(|_| !is_node) {
        request["commandArgv"] = json!(argv);
    }
    if let Some(env) = params.env.as_ref().filter(|env| !env.0.is_empty()) {
        let mut names: Vec<String> = env.0.keys().map(|name| shown_text(rules, name)).collect();
        names.sort();
        request["envKeys"] = json!(names);
    }
    if let Some(preview) = of_plan("commandPreview").filter(|_| !is_node) {
        request["commandPreview"] = json!(shown_text(rules, preview));
    }
    request
}

/// Every text of a scope, as a person may be shown it.
fn scoped(rules: &crate::defender::rules::Rules, scope: &Map<String, Value>) -> Value {
    let shown = scope.iter().map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.clone(), |text| json!(shown_text(rules, text)));
        (name.clone(), value)
    });
    Value::Object(shown.collect())
}

/// What a command line consists of; `null`: it cannot be said.
pub(in crate::gateway) fn analysis(command: &str) -> Value {
    match reader::read(command) {
        Ok(line) => json!({
            "commandCount": line.segments.len(), "nestedCommandCount": 0, "riskKinds": [], "warningLines": [],
        }),
        Err(why) => json!({
            "commandCount": 1, "nestedCommandCount": 0, "riskKinds": ["not-a-plain-command"],
            "warningLines": [format!("Contains {why}")],
        }),
    }
}

/// An id that a client chose.
fn checked_id(id: &str) -> Result<String, RpcError> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    if id.len() > ID_CHARS_MAX || matches!(id, "." | "..") || !id.chars().all(is_fine) {
        let text = "approval id must be 1-128 characters using only letters, numbers, '.', '_', ':', or '-', and cannot \
                    be '.' or '..'";
        let details = json!({ "code": "EXEC_APPROVAL_ID_INVALID", "reason": "INVALID_APPROVAL_ID" });
        return Err(RpcError::invalid(text).with_details(details));
    }
    Ok(id.to_owned())
}

fn wait(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<(), RpcError> {
    let id = params.0.get("id").and_then(Value::as_str).map(str::trim).unwrap_or_default();
    if id.is_empty() {
        return Err(RpcError::invalid("id is required"));
    }
    gateway.wait_approval(call, id)
}

crate::params! {
    /// Who answers in a chat.
    pub struct Reviewer {
        channel: NonEmpty = "channel",
        account_id: NonEmpty = "accountId",
        sender_id: NonEmpty = "senderId",
    }
}

crate::params! {
    /// An answer.
    pub struct ResolveParams {
        id: NonEmpty = "id",
        decision: NonEmpty = "decision",
        @v4 {
            reviewer: Option<Reviewer> = "reviewer",
            grant_expires_in_days: Option<Int<1, 3650>> = "grantExpiresInDays",
        }
    }
}

fn resolve(gateway: &mut Gateway, call: &Call, params: ResolveParams) -> Result<(), RpcError> {
    answer(gateway, call, Kind::Exec, &params)
}

fn plugin_resolve(gateway: &mut Gateway, call: &Call, params: ResolveParams) -> Result<(), RpcError> {
    answer(gateway, call, Kind::Plugin, &params)
}

fn answer(gateway: &mut Gateway, call: &Call, kind: Kind, params: &ResolveParams) -> Result<(), RpcError> {
    let decision = Decision::parse(&params.decision.0).ok_or_else(|| RpcError::invalid("invalid decision"))?;
    if params.reviewer.is_some() {
        // No chat channel can speak for a person yet.
        return Err(flow::unknown(call.protocol()));
    }
    if params.grant_expires_in_days.is_some() {
        return Err(RpcError::invalid("grantExpiresInDays is for grants of automations, and nothing here is one"));
    }
    gateway.decide_approval(call, (&params.id.0, kind), decision)
}

crate::params! {
    /// Which approval.
    pub struct IdParams {
        id: NonEmpty = "id",
    }
}

fn get(gateway: &mut Gateway, call: &Call, params: IdParams) -> Result<Value, RpcError> {
    let approval = gateway.visible_approval(call, &params.id.0);
    let approval = approval.filter(|approval| approval.is_open() && approval.kind == Kind::Exec);
    let approval = approval.ok_or_else(|| flow::unknown(call.protocol()))?;
    let field = |name: &str| approval.record.request[name].clone();
    let decisions: Vec<&str> = approval.record.decisions.iter().map(|decision| decision.as_str()).collect();
    Ok(json!({
        "id": approval.id,
        "commandText": field("command"),
        "commandPreview": field("commandPreview"),
        "allowedDecisions": decisions,
        "host": field("host"),
        "nodeId": field("nodeId"),
        "agentId": field("agentId"),
        "expiresAtMs": approval.expires_ms,
    }))
}

fn list(gateway: &mut Gateway, call: &Call, _params: Loose) -> Result<Value, RpcError> {
    Ok(open(gateway, call, Kind::Exec))
}

fn plugin_list(gateway: &mut Gateway, call: &Call, _params: Loose) -> Result<Value, RpcError> {
    Ok(open(gateway, call, Kind::Plugin))
}

fn agent_list(gateway: &mut Gateway, call: &Call, _params: Loose) -> Result<Value, RpcError> {
    Ok(open(gateway, call, Kind::SystemAgent))
}

fn open(gateway: &Gateway, call: &Call, kind: Kind) -> Value {
    let open = gateway.approvals.open().into_iter();
    open.filter(|approval| approval.kind == kind)
        .filter(|approval| flow::is_visible(&call.caller, &approval.record.asker, approval.asker_conn))
        .map(|approval| shown::asked(approval, Protocol::V4))
        .collect()
}

crate::params! {
    /// How many.
    pub struct GrantsParams {
        limit: Option<Int<1, 500>> = "limit",
    }
}

fn grants(cx: QueryCx<'_>, params: GrantsParams) -> Result<Value, RpcError> {
    let document = Document::load(cx.store.get()?, std::path::Path::new(&*cx.snapshot.state_dir))?;
    let limit = params.limit.map_or(GRANTS_LISTED_MAX, |limit| limit.0 as usize);
    let grants: Vec<Value> = document
        .grants()
        .into_iter()
        .take(limit)
        .map(|grant| {
            let entry = grant.entry;
            json!({
                "grantId": entry.id,
                "mintedByApprovalId": entry.id,
                "agentId": grant.agent,
                "cronJobId": NO_AUTOMATION,
                "cronJobName": null,
                "command": entry.last_used_command.as_deref().unwrap_or(&entry.pattern),
                "cwd": entry.cwd,
                "createdAtMs": entry.created_ms.or(entry.last_used_ms).unwrap_or_default(),
                "expiresAtMs": null,
                "revokedAtMs": null,
                "revokedBy": null,
                "lastUsedAtMs": entry.last_used_ms.filter(|_| entry.n_used > 0),
                "useCount": entry.n_used,
            })
        })
        .collect();
    Ok(json!({ "grants": grants }))
}

crate::params! {
    /// Which grant.
    pub struct RevokeParams {
        grant_id: NonEmpty = "grantId",
    }
}

fn revoke(cx: StoreCx<'_>, params: RevokeParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let mut document = Document::load(cx.db, std::path::Path::new(&*cx.snapshot.state_dir))?;
    let is_revoked = document.revoke(&params.grant_id.0);
    if is_revoked {
        document.save(cx.db, cx.call.now_ms)?;
        super::audit(&cx, &params.grant_id.0)?;
    }
    Ok((json!({ "outcome": if is_revoked { "revoked" } else { "not-found" } }), Vec::new()))
}

fn not_found() -> RpcError {
    RpcError::invalid("approval not found").with_details(json!({ "reason": "APPROVAL_NOT_FOUND" }))
}

/// An approval that is on disk, as a caller sees it.
fn told_row(cx: &mut QueryCx<'_>, id: &str) -> Result<Value, RpcError> {
    let row = cx.store.get()?.approval(id)?.ok_or_else(not_found)?;
    let approval = visible(cx, &row)?.ok_or_else(not_found)?;
    Ok(shown::told(&approval, approval.end(), &flow::page_base(&cx.snapshot.config)))
}

fn visible(cx: &QueryCx<'_>, row: &ApprovalRow) -> Result<Option<Approval>, RpcError> {
    let approval = Approval::of_row(row)?;
    Ok(flow::is_visible(&cx.call.caller, &approval.record.asker, None).then_some(approval))
}

fn read(mut cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let id = match (params.0.get("id").and_then(Value::as_str), params.0.len()) {
        (Some(id), 1) if !id.is_empty() => id.to_owned(),
        _ => return Err(RpcError::invalid("invalid approval.get params")),
    };
    Ok(json!({ "approval": told_row(&mut cx, &id)? }))
}

crate::params! {
    /// Which of what ended.
    pub struct HistoryParams {
        cursor: Option<Text<1, 512>> = "cursor",
        limit: Option<Int<1, 100>> = "limit",
        kind: Option<Kind> = "kind",
    }
}

fn history(cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let mut issues = Issues::new(cx.call.protocol());
    let params = HistoryParams::read_fields(&params.0, "", &mut issues).filter(|_| issues.is_empty());
    let params = params.ok_or_else(|| RpcError::invalid("invalid approval.history params"))?;
    let cursor = params.cursor.as_ref().map(|cursor| cursor.0.split_once(':'));
    let before = match cursor {
        None => (i64::MAX, ""),
        Some(Some((at_ms, id))) if at_ms.parse::<i64>().is_ok() => (at_ms.parse().unwrap_or_default(), id),
        Some(_) => return Err(RpcError::invalid("invalid approval.history cursor")),
    };
    let limit = params.limit.map_or(HISTORY_PAGE, |limit| limit.0 as usize).min(HISTORY_PAGE_MAX);
    let rows = cx.store.get()?.approvals_ended(before, params.kind.map(Kind::as_str), limit)?;
    let base_path = flow::page_base(&cx.snapshot.config);
    let mut items = Vec::with_capacity(rows.len());
    for row in &rows {
        items.extend(visible(&cx, row)?.map(|approval| shown::told(&approval, approval.end(), &base_path)));
    }
    let mut out = json!({ "items": items });
    if let Some((at_ms, last)) =
        rows.last().filter(|_| rows.len() == limit).and_then(|row| Some((row.end.as_ref()?.0, row)))
    {
        out["nextCursor"] = json!(format!("{at_ms}:{}", last.id));
    }
    Ok(out)
}

fn decide(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<(), RpcError> {
    let field = |name: &str| params.0.get(name).and_then(Value::as_str);
    let Some(id) = field("id").filter(|id| !id.is_empty()) else { return Err(not_found()) };
    if params.0.contains_key("reviewer") {
        // No chat channel can speak for a person yet.
        return Err(not_found());
    }
    let Some(approval) = gateway.visible_approval(call, id) else {
        return told_later(gateway, call, id.to_owned());
    };
    if let Some(end) = approval.end() {
        let base_path = flow::page_base(&gateway.config);
        let answer = json!({ "applied": false, "approval": shown::told(approval, Some(end), &base_path) });
        gateway.answer_request(call.conn(), &call.id, Json::of(&answer));
        return Ok(());
    }
    // What cannot be an answer is a no, once it is clear what is answered.
    let known = ["id", "kind", "decision"];
    let is_whole = params.0.keys().all(|name| known.contains(&name.as_str()));
    let is_kind = field("kind") == Some(approval.kind.as_str());
    let decision = field("decision").and_then(Decision::parse).filter(|_| is_whole && is_kind);
    gateway.decide_unified(call, id, decision)
}

/// Answers with what is on disk of an approval that ended a while ago.
fn told_later(gateway: &mut Gateway, call: &Call, id: String) -> Result<(), RpcError> {
    let (snapshot, asked) = (gateway.snapshot(), call.clone());
    let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
    let work = Work::Query(Box::new(move |store| {
        let approval = told_row(&mut QueryCx { store, snapshot, call: asked }, &id)?;
        let answer = Json::of(&json!({ "applied": false, "approval": approval }))?;
        Ok(Done { answer: Some(answer), facts: Vec::new() })
    }));
    gateway.effects.push_back(Effect::Start(Job { origin, work }));
    Ok(())
}

crate::words! {
    /// How bad it would be.
    pub enum Severity {
        /// Not at all.
        Info = "info",
        /// Somewhat.
        Warning = "warning",
        /// Very.
        Critical = "critical",
    }
}

crate::params! {
    /// What a plugin, or another program, asks.
    pub struct PluginRequestParams {
        plugin_id: OptText = "pluginId",
        title: Text<1, 80> = "title",
        description: Text<1, 512> = "description",
        detail: Option<Nullable<Text<1, 16384>>> = "detail",
        severity: Option<Nullable<Severity>> = "severity",
        scope: Option<Nullable<Object>> = "scope",
        tool_name: OptText = "toolName",
        tool_call_id: OptText = "toolCallId",
        allowed_decisions: Option<Nullable<Vec<String>>> = "allowedDecisions",
        agent_id: OptText = "agentId",
        session_key: OptText = "sessionKey",
        approval_reviewer_device_ids: Option<Nullable<Vec<NonEmpty>>> = "approvalReviewerDeviceIds",
        turn_source_channel: OptText = "turnSourceChannel",
        turn_source_to: OptText = "turnSourceTo",
        turn_source_account_id: OptText = "turnSourceAccountId",
        turn_source_thread_id: Option<Any> = "turnSourceThreadId",
        timeout_ms: Option<Int<1, 600000>> = "timeoutMs",
        two_phase: Option<bool> = "twoPhase",
    }
}

fn plugin_request(gateway: &mut Gateway, call: &Call, params: PluginRequestParams) -> Result<(), RpcError> {
    let allowed = params.allowed_decisions.as_ref().and_then(|allowed| allowed.0.as_ref());
    let is_allowed =
        |decision: &Decision| allowed.is_none_or(|allowed| allowed.iter().any(|word| word == decision.as_str()));
    // A no is always possible.
    let decisions: Vec<Decision> =
        Decision::ALL.into_iter().filter(|one| *one == Decision::Deny || is_allowed(one)).collect();
    let session_key = text(&params.session_key).map(str::to_owned);
    let asked = Asked {
        id: format!("{PLUGIN_PREFIX}{}", random::uuid()),
        kind: Kind::Plugin,
        timeout_ms: params.timeout_ms.map_or(PLUGIN_TIMEOUT_MS, |ms| ms.0),
        session_key,
        two_phase: params.two_phase == Some(true),
        is_silent: false,
        waits_for_nobody: false,
        request: {
            let words: Vec<&'static str> = decisions.iter().map(|decision| decision.as_str()).collect();
            Box::new(move |rules| {
                let shown = |field: &OptText| text(field).map(|text| shown_text(rules, text));
                let lines = |text: &str| display::visible_lines(&rules.scrub(text).0);
                json!({
                    "pluginId": shown(&params.plugin_id),
                    "title": shown_text(rules, &params.title.0),
                    "description": lines(&params.description.0),
                    "detail": params.detail.as_ref().and_then(|detail| detail.0.as_ref()).map(|text| lines(&text.0)),
                    "severity": params.severity.as_ref().and_then(|word| word.0).map(Severity::as_str),
                    "scope": params.scope.as_ref().and_then(|scope| scope.0.as_ref()).map(|scope| scoped(rules, &scope.0)),
                    "toolName": shown(&params.tool_name),
                    "toolCallId": text(&params.tool_call_id),
                    "allowedDecisions": words,
                    "agentId": shown(&params.agent_id),
                    "sessionKey": text(&params.session_key),
                    "runId": null,
                    "turnSourceChannel": text(&params.turn_source_channel),
                    "turnSourceTo": text(&params.turn_source_to),
                    "turnSourceAccountId": text(&params.turn_source_account_id),
                    "turnSourceThreadId": params.turn_source_thread_id.as_ref().map(|id| &id.0),
                })
            })
        },
        decisions,
    };
    gateway.ask_approval(call, asked)
}
