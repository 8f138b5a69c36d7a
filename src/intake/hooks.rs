//! Webhook bodies: from whatever a service posts to messages in the one shape.

use ring::hmac;
use serde_json::Value;

use super::{Message, Source, normalise};
use crate::config::settings::hooks::Hooks;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::session_key::{KeyRules, SessionKey, agent_id};
use crate::runtime::random;
use crate::sessions::activation;

/// Wrong secrets within the limiter's window before a sender is locked out.
pub const FAILURES_MAX: u32 = 20;
/// Messages taken from one body; a larger batch is refused whole.
pub const BATCH_MAX: usize = 64;

/// Messages of one body, and the form of the answer.
#[derive(Debug)]
pub struct Batch {
    /// In the order they stood.
    pub messages: Vec<Message>,
    /// How to answer.
    pub reply: ReplyForm,
}

/// How a webhook is answered.
#[derive(Debug, Clone)]
pub enum ReplyForm {
    /// `{"ok":true,"mode":MODE}`.
    Wake {
        /// `now` or `next-heartbeat`.
        mode: &'static str,
    },
    /// `{"ok":true,"runId":ID}`.
    Run,
    /// The long form of channel webhooks.
    Channel {
        /// The channel.
        channel: String,
        /// The account.
        account_id: Option<String>,
        /// The events, in order.
        events: Vec<String>,
    },
}

/// What came of one message, for the answer.
#[derive(Debug)]
pub struct Line<'a> {
    /// Its run.
    pub run_id: &'a str,
    /// Its session.
    pub session: &'a str,
    /// Whether it was new.
    pub is_new: bool,
    /// Why it was not accepted.
    pub error: Option<&'a str>,
}

impl ReplyForm {
    /// The body of the answer.
    pub fn body<'a>(&self, lines: impl Iterator<Item = Line<'a>>) -> Value {
        match self {
            ReplyForm::Wake { mode } => json!({ "ok": true, "mode": mode }),
            ReplyForm::Run => {
                let run_id = lines.map(|line| line.run_id).next().unwrap_or_default().to_owned();
                json!({ "ok": true, "runId": run_id })
            }
            ReplyForm::Channel { channel, account_id, events } => {
                let ingresses: Vec<Value> = lines
                    .map(|line| {
                        let dispatch = match (line.error, line.is_new) {
                            (Some(_), _) => "dropped",
                            (None, true) => "dispatched",
                            (None, false) => "ignored",
                        };
                        let mut row = json!({
                            "accepted": line.error.is_none(),
                            "extracted": true,
                            "dispatch": dispatch,
                            "requestId": line.run_id,
                            "sessionId": line.session,
                        });
                        if let Some(error) = line.error {
                            row["error"] = json!(error);
                        }
                        row
                    })
                    .collect();
                let count = |test: fn(&Value) -> bool| ingresses.iter().filter(|row| test(row)).count();
                let accepted = count(|row| row["accepted"] == true);
                json!({
                    "ok": true,
                    "accepted": accepted == ingresses.len(),
                    "acceptedCount": accepted,
                    "extractedCount": ingresses.len(),
                    "dispatchedCount": count(|row| row["dispatch"] == "dispatched"),
                    "eventCount": events.len(),
                    "channel": channel,
                    "event": events.first(),
                    "events": events,
                    "accountId": account_id,
                    "ingress": ingresses.first(),
                    "ingresses": ingresses,
                })
            }
        }
    }
}

/// Why a body is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct HookError {
    /// The HTTP status.
    pub status: u16,
    /// What is wrong.
    pub text: String,
}

fn refuse(status: u16, text: impl Into<String>) -> HookError {
    HookError { status, text: text.into() }
}

impl From<RpcError> for HookError {
    fn from(error: RpcError) -> HookError {
        refuse(400, error.message)
    }
}

/// The parts of an HTTP request that a webhook needs.
pub trait Post {
    /// The path without the query.
    fn path(&self) -> &str;
    /// The first header of a lower-case name.
    fn header(&self, name: &str) -> Option<&str>;
    /// The body.
    fn body(&self) -> &[u8];
}

/// Compares in constant time.
pub trait Same {
    /// Whether the texts are equal.
    fn same(&self, one: &str, other: &str) -> bool;
}

/// Whether `path` is `base` or under it.
pub fn is_hook_path(path: &str, base: &str) -> bool {
    path.strip_prefix(base.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a request shows `secret`: as a bearer, in `x-openclaw-token`, or by a signature of the body made with it
/// (`x-openclaw-signature` or `x-hub-signature-256`: `sha256=` and the hexadecimal HMAC-SHA256).
pub fn is_authentic(request: &impl Post, secret: &str, comparer: &impl Same) -> bool {
    if secret.is_empty() {
        return false;
    }
    let bearer = request.header("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    if let Some(token) = bearer.or_else(|| request.header("x-openclaw-token").map(str::trim)) {
        return comparer.same(token, secret);
    }
    let signature = request.header("x-openclaw-signature").or_else(|| request.header("x-hub-signature-256"));
    let Some(sent) = signature.and_then(|value| value.trim().strip_prefix("sha256=")) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let expected = random::hex(hmac::sign(&key, request.body()).as_ref());
    comparer.same(&sent.to_ascii_lowercase(), &expected)
}

/// Reads `POST /hooks/wake`, `/hooks/agent` and `/hooks/NAME`.
///
/// # Errors
/// What to answer instead.
pub fn read(request: &impl Post, settings: &Hooks, keys: &KeyRules, now_ms: i64) -> Result<Batch, HookError> {
    let base = settings.path.trim_end_matches('/');
    let name = request.path().strip_prefix(base).unwrap_or("").trim_matches('/');
    let body: Value =
        serde_json::from_slice(request.body()).map_err(|error| refuse(400, format!("invalid JSON: {error}")))?;
    let Value::Object(_) = &body else { return Err(refuse(400, "the body must be a JSON object")) };
    let text_of = |key: &str| body.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    match name {
        "wake" => {
            let text = text_of("text").ok_or_else(|| refuse(400, "text required"))?;
            let mode = match body.get("mode").map(|mode| mode.as_str()) {
                None | Some(Some("now")) => "now",
                Some(Some("next-heartbeat")) => "next-heartbeat",
                Some(_) => return Err(refuse(400, "mode must be now or next-heartbeat")),
            };
            let session = keys.main();
            let message = message(request, session, text, now_ms)?;
            Ok(Batch { messages: vec![message], reply: ReplyForm::Wake { mode } })
        }
        "agent" => {
            let text = text_of("message").ok_or_else(|| refuse(400, "message required"))?;
            let session = session_of(&body, settings, keys)?;
            let mut message = message(request, session, text, now_ms)?;
            message.sender = text_of("name").map(str::to_owned);
            message.channel = text_of("channel").filter(|channel| *channel != "last").map(str::to_owned);
            message.to = text_of("to").map(str::to_owned);
            message.account_id = text_of("accountId").map(str::to_owned);
            Ok(Batch { messages: vec![message], reply: ReplyForm::Run })
        }
        _ => Err(refuse(404, "no mapping for this path")),
    }
}

fn session_of(body: &Value, settings: &Hooks, keys: &KeyRules) -> Result<SessionKey, HookError> {
    let agent = match body.get("agentId").and_then(Value::as_str).map(str::trim).filter(|id| !id.is_empty()) {
        None => keys.default_agent.clone(),
        Some(asked) => {
            let allowed = &settings.allowed_agent_ids;
            if allowed.as_ref().is_some_and(|list| !list.iter().any(|id| id == "*" || id == asked)) {
                return Err(refuse(400, "agentId is not allowed (hooks.allowedAgentIds)"));
            }
            agent_id(asked)
        }
    };
    let asked = body.get("sessionKey").and_then(Value::as_str).map(str::trim).filter(|key| !key.is_empty());
    let text = match asked {
        Some(_) if !settings.allow_request_session_key => {
            return Err(refuse(
                400,
                "sessionKey is disabled for hook requests; set hooks.allowRequestSessionKey=true to enable",
            ));
        }
        Some(key) => {
            let prefixes = &settings.allowed_session_key_prefixes;
            if prefixes.as_ref().is_some_and(|list| !list.iter().any(|prefix| key.starts_with(prefix.as_str()))) {
                return Err(refuse(400, "sessionKey has none of hooks.allowedSessionKeyPrefixes"));
            }
            key.to_owned()
        }
        None => settings.default_session_key.clone().unwrap_or_else(|| format!("hook:{}", random::uuid())),
    };
    let rules = KeyRules { default_agent: agent, ..keys.clone() };
    SessionKey::parse(&text, &rules).map_err(|error| refuse(400, error.to_string()))
}

/// The sender's own id of a delivery, so that a second one is recognised; a new one when it sends none.
fn delivery_id(request: &impl Post) -> Option<String> {
    ["idempotency-key", "x-openclaw-event-id", "x-github-delivery"]
        .into_iter()
        .find_map(|name| request.header(name))
        .map(str::trim)
        .filter(|id| !id.is_empty() && id.len() <= 256)
        .map(str::to_owned)
}

fn message(request: &impl Post, session: SessionKey, text: &str, now_ms: i64) -> Result<Message, HookError> {
    let mut message = Message::new(Source::Hook, session, random::uuid(), normalise::text(text)?, now_ms);
    if let Some(id) = delivery_id(request) {
        message.dedupe_key = id;
    }
    Ok(message)
}

/// A channel webhook's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The channel, in its canonical spelling.
    pub channel: String,
    /// The account.
    pub account_id: Option<String>,
}

/// The channel and account in `/webhook/CH[/ACCT]`, `/webhooks/CH[/ACCT]`, `/channel[s]/CH/webhook`,
/// `/channels/CH/account[s]/ACCT/webhook`.
pub fn channel_target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (channel, account) = match parts.as_slice() {
        ["webhook" | "webhooks", channel] | ["channel" | "channels", channel, "webhook"] => (*channel, None),
        ["webhook" | "webhooks", channel, account]
        | ["channels", channel, "account" | "accounts", account, "webhook"] => (*channel, Some(*account)),
        _ => return None,
    };
    let plain = |text: &str| {
        (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@+".contains(c))
    };
    if !plain(channel) || account.is_some_and(|account| !plain(account)) {
        return None;
    }
    let channel = channel.to_ascii_lowercase();
    let canonical = ALIASES.iter().find(|(alias, _)| *alias == channel).map_or(channel.as_str(), |(_, name)| name);
    Some(Target { channel: canonical.to_owned(), account_id: account.map(str::to_owned) })
}

/// Other spellings of channel names.
const ALIASES: [(&str, &str); 6] = [
    ("tg", "telegram"),
    ("wa", "whatsapp"),
    ("gchat", "googlechat"),
    ("google-chat", "googlechat"),
    ("teams", "msteams"),
    ("imsg", "imessage"),
];

/// Reads a channel webhook: one object, `{events:[…]}`, a list, or `{type|event, payload|data}`.
///
/// # Errors
/// What to answer instead.
pub fn read_channel(request: &impl Post, target: &Target, keys: &KeyRules, now_ms: i64) -> Result<Batch, HookError> {
    let body: Value =
        serde_json::from_slice(request.body()).map_err(|error| refuse(400, format!("invalid JSON: {error}")))?;
    let items = match body {
        Value::Array(items) => items,
        Value::Object(mut object) => match object.remove("events") {
            Some(Value::Array(items)) => items,
            Some(other) => {
                object.insert("events".to_owned(), other);
                vec![Value::Object(object)]
            }
            None => vec![Value::Object(object)],
        },
        other => vec![other],
    };
    if items.len() > BATCH_MAX {
        return Err(refuse(413, format!("{} events in one body, at most {BATCH_MAX} are taken", items.len())));
    }
    let delivery = delivery_id(request);
    let mut messages = Vec::new();
    let mut events = Vec::new();
    for (idx, item) in items.into_iter().enumerate() {
        let item = if item.is_object() { item } else { json!({ "body": item }) };
        events.push(event_name(&item, &target.channel));
        let payload = ["payload", "data"].into_iter().find_map(|key| item.get(key)).unwrap_or(&item);
        messages.push(channel_message(payload, target, keys, delivery.as_deref(), idx, now_ms)?);
    }
    let reply = ReplyForm::Channel { channel: target.channel.clone(), account_id: target.account_id.clone(), events };
    Ok(Batch { messages, reply })
}

fn event_name(item: &Value, channel: &str) -> String {
    let name = ["event", "type"].into_iter().find_map(|key| item.get(key)).and_then(Value::as_str);
    match name {
        None => format!("{channel}.message"),
        Some(name) if name.contains('.') => name.to_owned(),
        Some(name) => format!("{channel}.{name}"),
    }
}

fn channel_message(
    payload: &Value,
    target: &Target,
    keys: &KeyRules,
    delivery: Option<&str>,
    idx: usize,
    now_ms: i64,
) -> Result<Message, HookError> {
    let field = |names: &[&str]| {
        names.iter().find_map(|name| payload.get(*name)).and_then(|value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    };
    let text = field(&["text", "message", "prompt", "input", "body"]).unwrap_or_else(|| payload.to_string());
    let peer = field(&["from", "sender", "senderId", "user", "peer", "to", "chatId"]);
    let to = field(&["to", "recipient", "target", "peer", "chatId"]);
    let is_group = field(&["chatType", "chat", "roomType"])
        .is_some_and(|kind| ["group", "channel", "room"].contains(&kind.as_str()));
    let session = match field(&["sessionKey", "session_key"]) {
        Some(key) => key,
        None => match (&peer, &to, is_group) {
            (_, Some(group), true) => format!("{}:group:{group}", target.channel),
            (Some(peer), _, false) => format!("{}:direct:{peer}", target.channel),
            _ => "main".to_owned(),
        },
    };
    let session = SessionKey::parse(&session, keys).map_err(|error| refuse(400, error.to_string()))?;
    let own_id = field(&["id", "messageId", "message_id", "eventId", "requestId"]);
    let scope = format!("{}:{}", target.channel, target.account_id.as_deref().unwrap_or("default"));
    let mut message = Message {
        command: field(&["command", "shell", "bash", "exec"]),
        channel: Some(target.channel.clone()),
        sender: peer,
        heard: activation::facts_in(payload),
        to,
        account_id: target.account_id.clone().or_else(|| field(&["accountId", "account_id"])),
        thread_id: field(&["threadId", "topicId"]),
        ..Message::new(Source::Hook, session, random::uuid(), normalise::text(&text)?, now_ms)
    };
    if let Some(id) = own_id.or_else(|| delivery.map(|delivery| format!("{delivery}:{idx}"))) {
        message.dedupe_key = format!("{scope}:{id}");
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        path: &'static str,
        headers: Vec<(&'static str, String)>,
        body: String,
    }

    impl Post for Fake {
        fn path(&self) -> &str {
            self.path
        }
        fn header(&self, name: &str) -> Option<&str> {
            self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
        }
        fn body(&self) -> &[u8] {
            self.body.as_bytes()
        }
    }

    struct Plain;

    impl Same for Plain {
        fn same(&self, one: &str, other: &str) -> bool {
            one == other
        }
    }

    fn post(path: &'static str, body: Value) -> Fake {
        Fake { path, headers: Vec::new(), body: body.to_string() }
    }

    #[test]
    fn a_secret_is_shown_as_a_token_or_by_a_signature() {
        let mut request = post("/hooks/wake", json!({ "text": "hi" }));
        assert!(!is_authentic(&request, "s3", &Plain));
        request.headers = vec![("authorization", "Bearer s3".to_owned())];
        assert!(is_authentic(&request, "s3", &Plain));
        assert!(!is_authentic(&request, "", &Plain), "no secret admits nobody");
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3");
        let signature = format!("sha256={}", random::hex(hmac::sign(&key, request.body.as_bytes()).as_ref()));
        request.headers = vec![("x-hub-signature-256", signature)];
        assert!(is_authentic(&request, "s3", &Plain));
        request.body.push(' ');
        assert!(!is_authentic(&request, "s3", &Plain), "another body");
    }

    #[test]
    fn finds_channel_and_account_in_every_spelling_of_the_path() {
        let target = |path| channel_target(path).map(|t| (t.channel, t.account_id));
        let with = |account: &str| Some(("telegram".to_owned(), Some(account.to_owned())));
        assert_eq!(target("/webhook/telegram"), Some(("telegram".to_owned(), None)));
        assert_eq!(target("/webhooks/tg/bot1"), with("bot1"));
        assert_eq!(target("/channel/telegram/webhook"), Some(("telegram".to_owned(), None)));
        assert_eq!(target("/channels/telegram/account/a/webhook"), with("a"));
        assert_eq!(target("/channels/telegram/accounts/a/webhook"), with("a"));
        assert_eq!(target("/webhook/te%2Flegram"), None);
        assert_eq!(target("/channels/telegram/accounts/a"), None);
    }

    #[test]
    fn a_batch_keeps_its_order_and_its_ids() {
        let body = json!({ "events": [
            { "event": "message", "payload": { "id": 7, "from": "ann", "text": "one" } },
            { "type": "telegram.edit", "data": { "text": "two", "chatType": "group", "to": "-100" } },
            "three",
        ] });
        let target = channel_target("/webhook/telegram").unwrap();
        let batch = read_channel(&post("/webhook/telegram", body), &target, &KeyRules::default(), 5).unwrap();
        let said: Vec<&str> = batch.messages.iter().map(|m| m.text.as_str()).collect();
        assert_eq!(said, ["one", "two", "three"]);
        assert_eq!(batch.messages[0].dedupe_key, "telegram:default:7");
        assert_eq!(batch.messages[0].session.as_str(), "agent:main:telegram:direct:ann");
        assert_eq!(batch.messages[1].session.as_str(), "agent:main:telegram:group:-100");
        let ReplyForm::Channel { events, .. } = batch.reply else { panic!("long form") };
        assert_eq!(events, ["telegram.message", "telegram.edit", "telegram.message"]);
    }

    #[test]
    fn a_batch_over_its_limit_is_refused_whole() {
        let target = channel_target("/webhook/x").unwrap();
        let many = |n: usize| post("/webhook/x", json!(vec!["m"; n]));
        assert!(read_channel(&many(BATCH_MAX), &target, &KeyRules::default(), 0).is_ok());
        assert_eq!(read_channel(&many(BATCH_MAX + 1), &target, &KeyRules::default(), 0).unwrap_err().status, 413);
    }

    #[test]
    fn a_caller_chooses_its_session_only_where_that_is_allowed() {
        let mut settings = crate::config::settings::Settings::for_tests().hooks;
        let request = post("/hooks/agent", json!({ "message": "hi", "sessionKey": "hook:mine" }));
        assert_eq!(read(&request, &settings, &KeyRules::default(), 0).unwrap_err().status, 400);
        settings.allow_request_session_key = true;
        settings.allowed_session_key_prefixes = Some(vec!["other:".to_owned()]);
        assert_eq!(read(&request, &settings, &KeyRules::default(), 0).unwrap_err().status, 400);
        settings.allowed_session_key_prefixes = Some(vec!["hook:".to_owned()]);
        let batch = read(&request, &settings, &KeyRules::default(), 0).unwrap();
        assert_eq!(batch.messages[0].session.as_str(), "agent:main:hook:mine");
    }
}
