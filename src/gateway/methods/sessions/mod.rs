//! Sessions: finding them, changing them, following them.
//!
//! [`find`] holds the readers, [`search`] looks for words, [`change`] has what writes, [`cleanup`] what puts away,
//! [`create`] what makes new ones, [`talk`] what is said in them, [`branch`] the ways back in a conversation, [`groups`]
//! the groups of the list, [`files`] the files a session is about, [`follow`] the subscriptions. A
//! write answers once it is durable, leaves a record in the audit trail in the same transaction, and reports a fact from
//! which `sessions.changed` is told.

pub mod branch;
pub mod change;
pub mod cleanup;
pub mod create;
pub mod files;
pub mod find;
pub mod follow;
pub mod groups;
pub mod scope;
pub mod search;
pub mod talk;

use serde_json::{Map, Value};

use super::chat::session_key;
use crate::gateway::table::{StoreCx, need};
use crate::protocol::connect::ClientId;
use crate::protocol::error::RpcError;
use crate::protocol::params::{self, Issues, NonEmpty, Param, Params};
use crate::protocol::session_key::{KeyRules, SessionKey};
use crate::sessions::patch::{Null, Shape};
use crate::store::StoreError;
use crate::store::audit::AuditRecord;

crate::methods! {
    "sessions.list",                 Both,  need::READ,  need::SESSIONS_READ,  Query find::list;
    "sessions.preview",              Both,  need::READ,  need::SESSIONS_READ,  Query find::preview;
    "sessions.resolve",              Never, need::READ,  need::SESSIONS_READ,  Query find::resolve;
    "sessions.describe",             V4,    need::READ,  need::SESSIONS_READ,  Query find::describe;
    "sessions.search",               V4,    need::ADMIN, need::SESSIONS_READ,  Query search::search;
    "sessions.get",                  Never, need::READ,  need::SESSIONS_READ,  Query find::get;
    "sessions.create",               V4,    need::ADMIN, scope::CREATE,        Flow  create::create;
    "sessions.send",                 V4,    need::ADMIN, need::SESSIONS_WRITE, Flow  talk::send;
    "sessions.steer",                Never, need::ADMIN, need::SESSIONS_WRITE, Flow  talk::steer;
    "sessions.abort",                V4,    need::ADMIN, need::SESSIONS_WRITE, Flow  talk::abort;
    "sessions.patch",                Both,  need::ADMIN, scope::PATCH,         Store change::patch;
    "sessions.patchMany",            V4,    need::ADMIN, scope::PATCH_MANY,    Store change::patch_many;
    "sessions.reset",                Both,  need::ADMIN, need::ADMIN,          Store change::reset;
    "sessions.delete",               Both,  need::ADMIN, scope::DELETE,        Store change::delete;
    "sessions.cleanup",              V4,    need::ADMIN, need::ADMIN,          Store cleanup::cleanup;
    "sessions.compact",              Both,  need::ADMIN, need::ADMIN,          Flow  change::compact;
    "sessions.branches.list",        V4,    need::READ,  need::SESSIONS_READ,  Query branch::list;
    "sessions.branches.switch",      V4,    need::ADMIN, need::ADMIN,          Flow  branch::switch;
    "sessions.rewind",               V4,    need::ADMIN, need::ADMIN,          Flow  branch::rewind;
    "sessions.fork",                 V4,    need::ADMIN, need::SESSIONS_WRITE, Flow  branch::fork;
    "sessions.groups.list",          V4,    need::READ,  need::READ,           Query groups::list;
    "sessions.groups.defaults",      V4,    need::ADMIN, need::WRITE,          Query groups::defaults;
    "sessions.groups.put",           V4,    need::ADMIN, need::WRITE,          Store groups::put;
    "sessions.groups.rename",        V4,    need::ADMIN, need::WRITE,          Store groups::rename;
    "sessions.groups.update",        V4,    need::ADMIN, need::WRITE,          Store groups::update;
    "sessions.groups.delete",        V4,    need::ADMIN, need::WRITE,          Store groups::delete;
    "sessions.files.list",           V4,    need::READ,  need::SESSIONS_READ,  Query files::list;
    "sessions.files.get",            V4,    need::READ,  need::SESSIONS_READ,  Query files::get;
    "sessions.files.set",            V4,    need::ADMIN, need::ADMIN,          Store files::set;
    "sessions.subscribe",            V4,    need::READ,  need::SESSIONS_READ,  Flow  follow::subscribe;
    "sessions.unsubscribe",          Never, need::READ,  need::SESSIONS_READ,  Loop  follow::unsubscribe;
    "sessions.messages.subscribe",   V4,    need::READ,  need::SESSIONS_READ,  Loop  follow::messages_subscribe;
    "sessions.messages.unsubscribe", V4,    need::READ,  need::SESSIONS_READ,  Loop  follow::messages_unsubscribe;
    "sessions.viewers.set",          V4,    need::READ,  need::SESSIONS_READ,  Loop  follow::viewers;
    "session.typing",                V4,    need::ADMIN, need::WRITE,          Flow  follow::typing;
}

/// Parameters in which `sessionKey` may stand for `key`, as clients of the reference gateway write it (SES-40).
#[derive(Debug, Clone)]
pub struct Keyed<P>(P);

impl<P: Params> Params for Keyed<P> {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        let renamed = (!object.contains_key("key")).then(|| rename(object)).flatten();
        P::read_fields(renamed.as_ref().unwrap_or(object), path, issues).map(Keyed)
    }
}

fn rename(object: &Map<String, Value>) -> Option<Map<String, Value>> {
    params::find(object, "sessionKey")?;
    let name = |key: &String| if key == "sessionKey" || key == "session_key" { "key".to_owned() } else { key.clone() };
    Some(object.iter().map(|(key, value)| (name(key), value.clone())).collect())
}

/// A label: shorter on protocol 3.
#[derive(Debug, Clone)]
pub struct Label(String);

impl Param for Label {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let shape = crate::sessions::patch::LABEL;
        shape
            .admits(value, Null::Refused, path, issues)
            .then(|| value.as_str().unwrap_or_default().to_owned())
            .map(Label)
    }
}

/// A word of a set that the schemas spell as constants.
pub(super) fn read_constant(
    words: &'static [&'static str],
    value: &Value,
    path: &str,
    issues: &mut Issues,
) -> Option<&'static str> {
    if !Shape::Word(words).admits(value, Null::Refused, path, issues) {
        return None;
    }
    words.iter().find(|word| value == **word).copied()
}

/// The whole key a caller means, refusing one that says nothing.
fn whole_key(text: &NonEmpty, agent: Option<&NonEmpty>, keys: &KeyRules) -> Result<SessionKey, RpcError> {
    if text.0.trim().is_empty() {
        return Err(RpcError::invalid("key required"));
    }
    session_key(&text.0, agent, keys)
}

/// Refuses web chat clients: what they may change of a session goes through `chat.send` (SEC-15).
fn refuse_web_chat(cx: &StoreCx<'_>, what: &str) -> Result<(), RpcError> {
    // A command in a message is carried out by the same code, and is how they do it.
    if !cx.call.method.starts_with("sessions.") {
        return Ok(());
    }
    match cx.call.caller.client_id {
        ClientId::Webchat | ClientId::WebchatUi => Err(RpcError::invalid(format!(
            "webchat clients cannot {what} sessions; use chat.send for session-scoped updates"
        ))),
        _ => Ok(()),
    }
}

/// Records the call on a session, in the transaction of what it does.
fn audit(cx: &StoreCx<'_>, resource: &SessionKey, detail: Option<Value>) -> Result<(), StoreError> {
    audit_as(cx, resource.as_str(), detail)
}

/// Records the call on `resource`, in the transaction of what it does.
fn audit_as(cx: &StoreCx<'_>, resource: &str, detail: Option<Value>) -> Result<(), StoreError> {
    cx.db.audit_append(&AuditRecord {
        at_ms: cx.call.now_ms,
        actor: cx.call.caller.actor(),
        address: Some(cx.call.caller.address.to_string()),
        action: cx.call.method.to_owned(),
        resource: resource.to_owned(),
        outcome: "ok".to_owned(),
        request_id: Some(cx.call.id.clone()),
        detail: detail.map(|detail| detail.to_string()),
    })?;
    Ok(())
}

#[cfg(test)]
mod tests;
