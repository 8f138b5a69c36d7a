//! What is to be judged, and how it is found in a frame (GW-12).

use std::fmt;

use serde_json::{Map, Value};

/// Objects looked into for the parts of an action, in this order, at every level.
const NESTED: &[&str] = &["payload", "params", "data", "message", "context"];
/// Levels of nested objects looked into, the frame itself included.
pub const NESTED_LEVELS_MAX: usize = 4;

const PROMPT: &[&str] = &["prompt", "message", "text", "input"];
const COMMAND: &[&str] = &["command", "shell", "bash", "exec"];
const TOOL: &[&str] = &["tool", "tool_name", "toolName"];
const CHANNEL: &[&str] = &["channel", "platform", "provider"];
const URL: &[&str] = &["url", "artifact_url", "artifactUrl"];
const FILE: &[&str] = &["file_path", "filePath", "artifact_path", "artifactPath"];
const ID: &[&str] = &["id", "request_id", "requestId", "runId", "action_id", "actionId"];
const SESSION: &[&str] = &["sessionKey", "session_key", "sessionId", "session_id"];
// Delivery hints (SES-64).
const TO: &[&str] = &["to", "recipient", "target", "peer", "chatId"];
const ACCOUNT: &[&str] = &["accountId", "fromAccountId", "channelAccountId", "defaultAccountId"];
const THREAD: &[&str] = &["threadId", "topicId"];

/// One action: its parts to be judged, and where it came from.
///
/// `Debug` shows lengths instead of texts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ActionRequest {
    pub id: Option<String>,
    pub session_key: Option<String>,
    /// Which door it came through, for the decision event: `chat.send`, `hooks`, `agent` ...
    pub source: String,
    pub prompt: Option<String>,
    /// One shell command line; an argument vector joined with spaces.
    pub command: Option<String>,
    pub url: Option<String>,
    /// A path, or a file's text.
    pub file: Option<String>,
    /// Files that are written, moved to or removed: from the agent's workspace, or absolute; without links.
    pub writes: Vec<String>,
    /// Text that is judged for credentials and nothing else.
    pub secret: Option<String>,
    pub tool: Option<String>,
    pub channel: Option<String>,
    /// The end of what the session said before ([`super::recent::RecentText`]): an attack may be spread over messages.
    pub preceding: Option<String>,
    pub routing: Routing,
}

/// Where the action's conversation takes place; carried into the decision event, never judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// `direct`, `group` ...
    pub session_kind: Option<String>,
    pub chat_type: Option<String>,
    pub was_mentioned: Option<bool>,
    pub reply_back: Option<bool>,
    pub to: Option<String>,
    pub account_id: Option<String>,
    pub thread_id: Option<String>,
}

impl ActionRequest {
    /// Finds the action in any frame. `None` when it has neither prompt, command, URL nor file.
    ///
    /// A name that is preferred wins wherever it stands; of equal names the outer one wins.
    pub fn from_value(frame: &Value, source: &str) -> Option<ActionRequest> {
        let scopes = scopes(frame);
        let text = |names| find(&scopes, names, text_of);
        let flag = |names| find(&scopes, names, Value::as_bool);
        let request = ActionRequest {
            id: text(ID),
            session_key: text(SESSION),
            source: source.to_owned(),
            prompt: text(PROMPT),
            command: find(&scopes, COMMAND, command_of),
            url: text(URL),
            file: text(FILE),
            writes: Vec::new(),
            secret: None,
            tool: text(TOOL),
            channel: text(CHANNEL),
            preceding: None,
            routing: Routing {
                session_kind: text(&["sessionKind", "session_kind"]),
                chat_type: text(&["chatType", "chat_type"]),
                was_mentioned: flag(&["wasMentioned", "was_mentioned"]),
                reply_back: flag(&["replyBack", "reply_back"]),
                to: text(TO),
                account_id: text(ACCOUNT),
                thread_id: text(THREAD),
            },
        };
        let has_part =
            request.prompt.is_some() || request.command.is_some() || request.url.is_some() || request.file.is_some();
        has_part.then_some(request)
    }
}

impl fmt::Debug for ActionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |part: &Option<String>| part.as_ref().map(String::len);
        f.debug_struct("ActionRequest")
            .field("id", &self.id)
            .field("session_key", &self.session_key)
            .field("source", &self.source)
            .field("tool", &self.tool)
            .field("channel", &self.channel)
            .field("prompt_bytes", &bytes(&self.prompt))
            .field("command_bytes", &bytes(&self.command))
            .field("url_bytes", &bytes(&self.url))
            .field("file_bytes", &bytes(&self.file))
            .field("writes", &self.writes.len())
            .field("secret_bytes", &bytes(&self.secret))
            .finish_non_exhaustive()
    }
}

/// The frame and the objects nested in it under the known names, outer ones first.
fn scopes(frame: &Value) -> Vec<&Map<String, Value>> {
    let mut all: Vec<&Map<String, Value>> = frame.as_object().into_iter().collect();
    let mut level = 0..all.len();
    for _ in 1..NESTED_LEVELS_MAX {
        for index in level.clone() {
            let inner: Vec<_> = NESTED.iter().filter_map(|name| all[index].get(*name)?.as_object()).collect();
            all.extend(inner);
        }
        level = level.end..all.len();
    }
    all
}

fn find<'v, T>(scopes: &[&'v Map<String, Value>], names: &[&str], read: impl Fn(&'v Value) -> Option<T>) -> Option<T> {
    names.iter().find_map(|name| scopes.iter().find_map(|scope| scope.get(*name).and_then(&read)))
}

/// A text that says something; numbers count, because some clients number their requests.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A command line, or an argument vector joined with spaces.
fn command_of(value: &Value) -> Option<String> {
    match value {
        Value::Array(words) => {
            let words: Vec<String> = words.iter().filter_map(text_of).collect();
            (!words.is_empty()).then(|| words.join(" "))
        }
        other => text_of(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(frame: Value) -> Option<ActionRequest> {
        ActionRequest::from_value(&frame, "test")
    }

    #[test]
    fn reads_a_request_frame_of_a_real_client() {
        let request = read(json!({
            "type": "req", "id": "7", "method": "chat.send",
            "params": { "sessionKey": "agent:main:main", "message": "hello", "idempotencyKey": "k" }
        }))
        .unwrap();
        assert_eq!(request.id.as_deref(), Some("7"));
        assert_eq!(request.session_key.as_deref(), Some("agent:main:main"));
        assert_eq!(request.prompt.as_deref(), Some("hello"));
        assert_eq!(request.command, None);
    }

    #[test]
    fn every_alias_is_read() {
        let check = |names: &[&str], part: fn(&ActionRequest) -> &Option<String>| {
            for name in names {
                // The URL is there so that there is something to judge; the name under test comes after it.
                let mut frame = json!({ "url": "http://x/" });
                frame["payload"][*name] = json!("value");
                let request = read(frame).unwrap();
                if names != URL {
                    assert_eq!(part(&request).as_deref(), Some("value"), "{name}");
                }
            }
        };
        check(PROMPT, |r| &r.prompt);
        check(COMMAND, |r| &r.command);
        check(TOOL, |r| &r.tool);
        check(CHANNEL, |r| &r.channel);
        check(FILE, |r| &r.file);
        check(ID, |r| &r.id);
        check(SESSION, |r| &r.session_key);
        check(TO, |r| &r.routing.to);
        check(ACCOUNT, |r| &r.routing.account_id);
        check(THREAD, |r| &r.routing.thread_id);
        for name in URL {
            assert_eq!(read(json!({ *name: "value" })).unwrap().url.as_deref(), Some("value"), "{name}");
        }
    }

    #[test]
    fn preferred_names_win_and_then_outer_objects() {
        let request = read(json!({ "text": "c", "payload": { "prompt": "a" }, "data": { "prompt": "b" } })).unwrap();
        assert_eq!(request.prompt.as_deref(), Some("a"));
        let request = read(json!({ "message": { "text": "inside" } })).unwrap();
        assert_eq!(request.prompt.as_deref(), Some("inside"));
    }

    #[test]
    fn an_argument_vector_is_joined() {
        let request = read(json!({ "params": { "command": ["rm", "-rf", "/", 7] } })).unwrap();
        assert_eq!(request.command.as_deref(), Some("rm -rf / 7"));
    }

    #[test]
    fn nothing_to_judge_is_no_action() {
        assert_eq!(read(json!({ "id": "1", "method": "health", "tool": "exec" })), None);
        assert_eq!(read(json!({ "prompt": "  ", "command": [] })), None);
        assert_eq!(read(json!("prompt")), None);
    }

    #[test]
    fn looks_no_deeper_than_the_limit() {
        let nest = |levels: usize| (1..levels).fold(json!({ "prompt": "x" }), |inner, _| json!({ "data": inner }));
        assert!(read(nest(NESTED_LEVELS_MAX)).is_some());
        assert!(read(nest(NESTED_LEVELS_MAX + 1)).is_none());
    }

    #[test]
    fn debug_shows_no_text() {
        let request = read(json!({ "prompt": "s3cret", "command": "s3cret" })).unwrap();
        assert!(!format!("{request:?}").contains("s3cret"));
    }
}
