//! Following sessions: which events a connection of protocol 4 is sent.

use serde_json::{Map, Value};

use super::find::{ListParams, listed};
use super::{Keyed, session_key, whole_key};
use crate::gateway::approvals::flow::{is_visible, page_base};
use crate::gateway::approvals::shown;
use crate::gateway::broadcast::For;
use crate::gateway::clients::{Ready, SUBSCRIBED_SESSIONS_MAX, WATCHED_SESSIONS_MAX};
use crate::gateway::table::Call;
use crate::gateway::typing::{Asked, State, Writer};
use crate::gateway::{Done, Effect, Gateway, Job, Origin, Work};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::params::{Issues, NonEmpty, Nothing, Param, Params, Text};
use crate::protocol::scope::Scope;
use crate::protocol::session_key::SessionKey;

/// A list to begin with, or nothing.
#[derive(Debug, Clone)]
pub struct SubscribeParams {
    list: Option<ListParams>,
}

impl Params for SubscribeParams {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        let list = ListParams::read_fields(object, path, issues)?;
        Some(SubscribeParams { list: (!object.is_empty()).then_some(list) })
    }
}

/// Only a WebSocket is sent events; a call over HTTP has nowhere to receive them.
fn connection<'g>(gateway: &'g mut Gateway, call: &Call) -> Result<&'g mut Ready, RpcError> {
    gateway
        .clients
        .ready_mut(call.conn())
        .ok_or_else(|| RpcError::invalid(format!("{} needs a WebSocket connection", call.method)))
}

pub(super) fn subscribe(gateway: &mut Gateway, call: &Call, params: SubscribeParams) -> Result<(), RpcError> {
    connection(gateway, call)?.subscriptions.sessions = true;
    let Some(list) = params.list else {
        let answer = Json::of(&json!({ "subscribed": true }))?;
        gateway.answer_request(call.conn(), &call.id, Ok(answer));
        return Ok(());
    };
    // Events from now on reach the connection before or after the list; in between nothing is lost.
    let (snapshot, asked) = (gateway.snapshot(), call.clone());
    let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
    let work = Work::Query(Box::new(move |store| {
        let list = listed(store.get()?, &snapshot, &asked, &list)?;
        let answer = Json::of(&json!({ "subscribed": true, "list": list }))?;
        Ok(Done { answer: Some(answer), facts: Vec::new() })
    }));
    gateway.effects.push_back(Effect::Start(Job { origin, work }));
    Ok(())
}

pub(super) fn unsubscribe(gateway: &mut Gateway, call: &Call, _params: Nothing) -> Result<Value, RpcError> {
    connection(gateway, call)?.subscriptions.sessions = false;
    Ok(json!({ "subscribed": false }))
}

crate::params! {
    /// Which session.
    pub struct MessagesSubscribeParams {
        key: NonEmpty = "key",
        agent_id: Option<NonEmpty> = "agentId",
        include_approvals: Option<bool> = "includeApprovals",
    }
}

pub(super) fn messages_subscribe(
    gateway: &mut Gateway,
    call: &Call,
    params: Keyed<MessagesSubscribeParams>,
) -> Result<Value, RpcError> {
    let params = params.0;
    let key = whole_key(&params.key, params.agent_id.as_ref(), &gateway.keys)?;
    let with_approvals = params.include_approvals == Some(true);
    if with_approvals
        && (call.caller.device_id.is_none() || !call.caller.scopes.satisfies(Scope::Approvals, call.protocol()))
    {
        return Err(RpcError::invalid(format!(
            "{} includeApprovals requires a paired device and gateway scope: {}",
            call.method,
            Scope::Approvals.as_str()
        )));
    }
    let subscriptions = &mut connection(gateway, call)?.subscriptions;
    subscriptions.approvals.retain(|followed| *followed != key);
    let followed = &mut subscriptions.messages;
    if !followed.contains(&key) {
        if followed.len() >= SUBSCRIBED_SESSIONS_MAX {
            return Err(RpcError::invalid(format!(
                "a connection can follow {SUBSCRIBED_SESSIONS_MAX} sessions; unsubscribe from one first"
            )));
        }
        followed.push(key.clone());
    }
    if with_approvals {
        subscriptions.approvals.push(key.clone());
    }
    let mut out = json!({ "subscribed": true, "key": key.as_str() });
    if with_approvals {
        let (open, base_path) = (gateway.approvals.open(), page_base(&gateway.config));
        let approvals: Vec<Value> = open
            .into_iter()
            .filter(|approval| approval.record.audience.iter().any(|audience| audience == key.as_str()))
            .filter(|approval| is_visible(&call.caller, &approval.record.asker, approval.asker_conn))
            .map(|approval| {
                let mut shown = shown::snapshot(approval, None, &base_path);
                shown["sourceSessionKey"] = json!(approval.record.audience.first());
                shown
            })
            .collect();
        out["approvalReplay"] = json!({
            "sessionKey": key.as_str(), "updatedAtMs": call.now_ms, "approvals": approvals, "truncated": false,
        });
    }
    Ok(out)
}

crate::params! {
    /// Which session.
    pub struct MessagesUnsubscribeParams {
        key: NonEmpty = "key",
        agent_id: Option<NonEmpty> = "agentId",
    }
}

pub(super) fn messages_unsubscribe(
    gateway: &mut Gateway,
    call: &Call,
    params: Keyed<MessagesUnsubscribeParams>,
) -> Result<Value, RpcError> {
    let params = params.0;
    let key = whole_key(&params.key, params.agent_id.as_ref(), &gateway.keys)?;
    let subscriptions = &mut connection(gateway, call)?.subscriptions;
    subscriptions.messages.retain(|followed| *followed != key);
    subscriptions.approvals.retain(|followed| *followed != key);
    Ok(json!({ "subscribed": false, "key": key.as_str() }))
}

crate::params! {
    /// The sessions that somebody looks at here, in place of those named before.
    pub struct ViewersParams {
        session_keys: Watched = "sessionKeys",
        agent_id: Option<NonEmpty> = "agentId",
    }
}

/// At most [`WATCHED_SESSIONS_MAX`] keys.
#[derive(Debug, Clone)]
pub struct Watched(Vec<Text<1, 512>>);

impl Param for Watched {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let keys = Vec::<Text<1, 512>>::read(value, path, issues)?;
        if keys.len() > WATCHED_SESSIONS_MAX {
            issues.wrong(path, format!("must not have more than {WATCHED_SESSIONS_MAX} items"));
            return None;
        }
        Some(Watched(keys))
    }
}

/// Says which sessions somebody looks at on this connection, until it says otherwise or ends. The presence list shows it.
pub(super) fn viewers(gateway: &mut Gateway, call: &Call, params: ViewersParams) -> Result<Value, RpcError> {
    let mut keys = Vec::new();
    for key in params.session_keys.0 {
        // An agent beside the keys is for those that name none.
        let agent = params.agent_id.as_ref().filter(|_| !key.0.trim().starts_with("agent:"));
        keys.push(whole_key(&NonEmpty(key.0), agent, &gateway.keys)?);
    }
    keys.sort();
    keys.dedup();
    let ready = connection(gateway, call)?;
    ready.subscriptions.watched.clone_from(&keys);
    if let Some(presence_key) = ready.presence_key.clone()
        && gateway.watched_by(&presence_key)
    {
        gateway.presence_changed(For::All);
    }
    Ok(json!({ "sessionKeys": keys.iter().map(SessionKey::as_str).collect::<Vec<_>>() }))
}

crate::params! {
    /// Whether somebody writes in a session, and what so far.
    pub struct TypingParams {
        session_key: NonEmpty = "sessionKey",
        session_id: NonEmpty = "sessionId",
        typing: bool = "typing",
        agent_id: Option<NonEmpty> = "agentId",
        preview: Option<String> = "preview",
    }
}

/// Longest preview that others are shown, in characters; the rest is cut.
pub const PREVIEW_CHARS_MAX: usize = 400;

pub(super) fn typing(gateway: &mut Gateway, call: &Call, params: TypingParams) -> Result<(), RpcError> {
    connection(gateway, call)?;
    let session = session_key(params.session_key.0.trim(), params.agent_id.as_ref(), &gateway.keys)?;
    let preview: Option<String> =
        params.preview.map(|preview| preview.trim().chars().take(PREVIEW_CHARS_MAX).collect());
    let state =
        State { is_typing: params.typing, preview: preview.filter(|preview| params.typing && !preview.is_empty()) };
    let writer = Writer { session, session_id: params.session_id.0, actor: call.caller.actor() };
    gateway.asked_to_tell_typing(Asked { conn: call.conn(), id: call.id.clone(), writer, state });
    Ok(())
}
