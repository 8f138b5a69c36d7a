//! The model of the recordings: a provider whose reply is chosen by a directive in the newest text of the user
//! (`fixtures/recordings/README.md`).

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::provider::{Provider, Request, Turn};

/// The key it was asked with when the recordings were made.
pub(super) const KEY: &str = "stub-key";
/// Time between two pieces of a plain reply.
const PACE: Duration = Duration::from_millis(60);
/// Time between two pieces of a slow one.
const SLOW_PACE: Duration = Duration::from_millis(150);
/// Pieces of a slow reply.
const SLOW_PIECES: usize = 60;

/// Listens on loopback.
pub(super) fn start() -> Provider {
    let provider = Provider::start_with(reply);
    provider.takes_keys(&[KEY]);
    provider
}

/// What it says to a request.
fn reply(request: &Request) -> Turn {
    let said = request.messages();
    let newest = said.iter().rposition(|message| message["role"] == "assistant").map_or(said, |last| &said[last + 1..]);
    if newest.iter().any(|message| message["role"] == "tool") {
        return counted(Turn::text("tool done").delay(PACE));
    }
    let texts: Vec<String> = newest.iter().filter(|message| message["role"] == "user").rev().map(text_of).collect();
    let text = texts.iter().find(|text| text.contains("[[")).or(texts.first()).map_or("", String::as_str);
    if text.contains("[[slow]]") {
        let words: String = (0..SLOW_PIECES).map(|word| format!("w{word} ")).collect();
        return counted(Turn::text(&words).delay(SLOW_PACE));
    }
    if let Some(command) = directive(text, "tool") {
        return counted(Turn::call("exec", json!({ "command": command })));
    }
    if let Some((name, arguments)) = directive(text, "call").and_then(|call| call.split_once(':')) {
        // What is no JSON is sent as no arguments.
        return counted(Turn::call(name, serde_json::from_str(arguments).unwrap_or(json!({}))));
    }
    if let Some(status) = directive(text, "http").and_then(|status| status.parse().ok()) {
        let error = json!({ "message": format!("stub error {status}"), "type": "stub_error", "code": "stub_error" });
        return Turn::status(status).json(&json!({ "error": error }));
    }
    counted(Turn::text(directive(text, "say").unwrap_or("Hello from the stub model.")).delay(PACE))
}

/// With the tokens that every reply of it counts.
fn counted(turn: Turn) -> Turn {
    turn.usage(10, 6, 0)
}

/// What a directive says.
fn directive<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("[[{name}:"))?;
    // Arguments of a call may end with brackets of their own.
    let end = rest.find("]]")?;
    let more = rest[end + 2..].bytes().take_while(|byte| *byte == b']').count();
    Some(&rest[..end + more])
}

fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        parts => {
            let parts = parts.as_array().into_iter().flatten();
            parts.filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
    }
}

#[test]
fn a_directive_is_read_to_its_end() {
    assert_eq!(directive("please [[say:one two]] now", "say"), Some("one two"));
    assert_eq!(directive("[[call:x:[1]]]", "call"), Some("x:[1]"));
    assert_eq!(directive("[[http:503]]", "http"), Some("503"));
    assert_eq!(directive("[[slow]]", "say"), None);
}
