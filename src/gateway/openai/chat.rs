//! `POST /v1/chat/completions`: reading a request, and writing its answer whole or in chunks.

use serde_json::Value;

use super::asked::{self, Asked, Choice, House, Talk, text_of};
use super::trouble::Trouble;
use super::{Ended, Live};
use crate::agent::talk::{ToolCall, Usage};
use crate::gateway::http::{HttpRequest, HttpResponse};
use crate::gateway::routes::json_response;
use crate::intake::SenderTool;
use crate::intake::turns::{Call, Turn};
use crate::intake::uploads::Upload;
use crate::protocol::json::json;

/// Bytes of a call's arguments in one chunk.
const ARGUMENTS_BYTES: usize = 256;
/// What is answered when the agent chose to say nothing.
pub(super) const SILENCE: &str = "No response from OpenClaw.";

/// Reads a request.
pub(super) fn read(house: &House<'_>, request: &HttpRequest, body: &Value) -> Result<Asked, Trouble> {
    let model = text_of(body, "model").unwrap_or("openclaw").to_owned();
    let agent = asked::agent(house, request, &model)?;
    let session = asked::session(house, request, &agent, text_of(body, "user"))?;
    let mut params = asked::params(body, &["max_completion_tokens", "max_tokens"])?;
    if let Some(format) = body.get("response_format").filter(|format| !format.is_null()) {
        if !matches!(text_of(format, "type"), Some("text" | "json_object" | "json_schema")) {
            let why = "Invalid response_format: its type must be text, json_object, or json_schema";
            return Err(Trouble::invalid(why));
        }
        params.insert("response_format".to_owned(), format.clone());
    }
    let choice = Choice::read(body.get("tool_choice"))?;
    let tools = choice.apply(asked::tools(tools(body.get("tools"))?)?)?;
    let mut talk = talk(body)?;
    let uploads = asked::images(house, std::mem::take(&mut talk.images), false)?;
    let (text, wish) = talk.into_wish(&choice)?;
    if text.is_empty() && uploads.is_empty() && wish.results.is_empty() {
        return Err(Trouble::invalid("Missing user message in `messages`."));
    }
    let wants_usage = body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true));
    let is_streamed = body.get("stream") == Some(&Value::Bool(true));
    let wish = crate::intake::Wish { tools, params, ..wish };
    Ok(Asked { model, session, text, uploads, wish, choice, is_streamed, wants_usage })
}

fn tools(tools: Option<&Value>) -> Result<Vec<SenderTool>, Trouble> {
    let refuse = |why: &str| Trouble::invalid(format!("Invalid tools/tool_choice: {why}"));
    let tools = match tools {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(_) => return Err(refuse("tools must be an array")),
    };
    let read = |tool: &Value| match (text_of(tool, "type"), tool.get("function")) {
        (Some("function"), Some(function)) if function.is_object() => asked::tool(function),
        (Some("function"), _) => Err(refuse("tool.function is required")),
        _ => Err(refuse("only function tools are supported")),
    };
    tools.iter().map(read).collect()
}

/// Takes the conversation apart.
fn talk(body: &Value) -> Result<Talk, Trouble> {
    let mut talk = Talk::default();
    let messages = body.get("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let newest = messages.iter().rposition(|message| matches!(text_of(message, "role"), Some("user")));
    for (idx, message) in messages.iter().enumerate() {
        let text = text_in(message.get("content"));
        match text_of(message, "role").unwrap_or_default() {
            "system" | "developer" if !text.trim().is_empty() => talk.system.push(text.trim().to_owned()),
            "user" => {
                talk.turns.push(Turn::User { text });
                if Some(idx) == newest {
                    talk.images = images_in(message.get("content"))?;
                }
            }
            "assistant" => {
                let calls = calls_in(message);
                if !text.trim().is_empty() || !calls.is_empty() {
                    talk.turns.push(Turn::Assistant { text, calls });
                }
            }
            "tool" | "function" => {
                let id = text_of(message, "tool_call_id").or_else(|| text_of(message, "name")).unwrap_or_default();
                if id.is_empty() {
                    return Err(Trouble::invalid("a message with role `tool` needs a tool_call_id"));
                }
                let name = called(&talk.turns, id).unwrap_or_default();
                talk.turns.push(Turn::Tool { call_id: id.to_owned(), name, text });
            }
            _ => {}
        }
    }
    // A picture that stands before an answer was seen then.
    if !matches!(talk.turns.last(), Some(Turn::User { .. })) {
        talk.images.clear();
    }
    Ok(talk)
}

/// The tool that was called under this id.
pub(super) fn called(turns: &[Turn], id: &str) -> Option<String> {
    turns.iter().rev().find_map(|turn| match turn {
        Turn::Assistant { calls, .. } => calls.iter().find(|call| call.id == id).map(|call| call.name.clone()),
        _ => None,
    })
}

fn calls_in(message: &Value) -> Vec<Call> {
    let calls = message.get("tool_calls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let read = |call: &Value| {
        let function = call.get("function")?;
        Some(Call {
            id: text_of(call, "id").filter(|id| !id.is_empty())?.to_owned(),
            name: text_of(function, "name").filter(|name| !name.is_empty())?.to_owned(),
            arguments: asked::arguments(function.get("arguments")),
        })
    };
    calls.iter().filter_map(read).collect()
}

/// The words of a content: a text, or the texts among its parts.
fn text_in(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| text_of(part, "text").or_else(|| text_of(part, "input_text")).map(str::to_owned);
            parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn images_in(content: Option<&Value>) -> Result<Vec<Upload>, Trouble> {
    let parts = content.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_image = |part: &&Value| text_of(part, "type") == Some("image_url");
    let read = |part: &Value| {
        let url = part.get("image_url").and_then(|url| url.as_str().or_else(|| text_of(url, "url")));
        asked::image(url.ok_or_else(|| Trouble::invalid("an image_url part needs a url"))?)
    };
    parts.iter().filter(is_image).map(read).collect()
}

/// The answer as a whole.
pub(super) fn whole(live: &Live, end: &Ended) -> HttpResponse {
    let text = if end.text.is_empty() && end.calls.is_empty() { SILENCE } else { &end.text };
    let mut message = json!({ "role": "assistant", "content": text });
    if !end.calls.is_empty() {
        let call = |call: &ToolCall| {
            let function = json!({ "name": call.name, "arguments": call.arguments.to_string() });
            json!({ "id": call.id, "type": "function", "function": function })
        };
        message["tool_calls"] = end.calls.iter().map(call).collect();
    }
    let body = json!({
        "id": live.run_id,
        "object": "chat.completion",
        "created": live.created,
        "model": live.model,
        "choices": [{ "index": 0, "message": message, "finish_reason": end.finish() }],
        "usage": usage(&end.usage),
    });
    json_response(200, &body)
}

/// The first chunk.
pub(super) fn opening(live: &Live) -> Vec<u8> {
    delta(live, &json!({ "role": "assistant" }))
}

/// More words.
pub(super) fn words(live: &Live, words: &str) -> Vec<u8> {
    delta(live, &json!({ "content": words }))
}

/// The end of a stream; `rest` are words that have not been sent.
pub(super) fn ending(live: &Live, end: &Ended, rest: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let rest = if end.text.is_empty() && end.calls.is_empty() { SILENCE } else { rest };
    if !rest.is_empty() {
        out.extend(words(live, rest));
    }
    for (idx, call) in end.calls.iter().enumerate() {
        let function = json!({ "name": call.name, "arguments": "" });
        let first = json!({ "index": idx, "id": call.id, "type": "function", "function": function });
        out.extend(delta(live, &json!({ "tool_calls": [first] })));
        let arguments = call.arguments.to_string();
        let mut left = arguments.as_str();
        while !left.is_empty() {
            let (piece, after) = left.split_at(left.floor_char_boundary(ARGUMENTS_BYTES.min(left.len())));
            let more = json!({ "index": idx, "function": { "arguments": piece } });
            out.extend(delta(live, &json!({ "tool_calls": [more] })));
            left = after;
        }
    }
    out.extend(chunk(live, &json!({ "index": 0, "delta": {}, "finish_reason": end.finish() }), None));
    if live.wants_usage {
        out.extend(chunk(live, &Value::Null, Some(usage(&end.usage))));
    }
    out.extend_from_slice(super::DONE);
    out
}

/// The end of a stream that came to nothing.
pub(super) fn failure(trouble: &Trouble) -> Vec<u8> {
    let mut out = super::event(None, &json!({ "error": trouble.body() }));
    out.extend_from_slice(super::DONE);
    out
}

fn delta(live: &Live, delta: &Value) -> Vec<u8> {
    chunk(live, &json!({ "index": 0, "delta": delta, "finish_reason": null }), None)
}

/// A chunk with this choice, or without any and with what it cost.
fn chunk(live: &Live, choice: &Value, usage: Option<Value>) -> Vec<u8> {
    let choices = if choice.is_null() { json!([]) } else { json!([choice]) };
    let mut chunk = json!({
        "id": live.run_id,
        "object": "chat.completion.chunk",
        "created": live.created,
        "model": live.model,
        "choices": choices,
    });
    if let Some(usage) = usage {
        chunk["usage"] = usage;
    }
    super::event(None, &chunk)
}

fn usage(usage: &Usage) -> Value {
    // What came from a cache, or went there, was read all the same.
    let prompt = usage.input + usage.cache_read + usage.cache_write;
    let mut out = json!({
        "prompt_tokens": prompt,
        "completion_tokens": usage.output,
        "total_tokens": prompt + usage.output,
    });
    if usage.cache_read > 0 {
        out["prompt_tokens_details"] = json!({ "cached_tokens": usage.cache_read });
    }
    out
}
