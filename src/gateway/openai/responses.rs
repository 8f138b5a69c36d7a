//! `POST /v1/responses`: reading a request, and writing its answer whole or as events.

use serde_json::Value;

use super::asked::{self, Asked, Choice, House, Talk, text_of};
use super::chat::{SILENCE, called};
use super::trouble::Trouble;
use super::{Ended, Live};
use crate::agent::talk::Usage;
use crate::gateway::http::{HttpRequest, HttpResponse};
use crate::gateway::routes::json_response;
use crate::intake::SenderTool;
use crate::intake::turns::{Call, Turn};
use crate::intake::uploads::Upload;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::runtime::random;
use crate::sessions::media::file_name;

/// Reads a request. `before` is the session of the response that it continues.
pub(super) fn read(
    house: &House<'_>,
    request: &HttpRequest,
    body: &Value,
    before: Option<SessionKey>,
) -> Result<Asked, Trouble> {
    let model = text_of(body, "model").unwrap_or_default().to_owned();
    if model.is_empty() {
        return Err(Trouble::invalid("`model` is required."));
    }
    let agent = asked::agent(house, request, &model)?;
    let session = match before {
        Some(session) if session.agent() == Some(&agent) => session,
        Some(_) => return Err(Trouble::invalid("`previous_response_id` is another agent's.")),
        None => asked::session(house, request, &agent, text_of(body, "user"))?,
    };
    let params = asked::params(body, &["max_output_tokens"])?;
    let choice = Choice::read(body.get("tool_choice"))?;
    let tools = choice.apply(asked::tools(tools(body.get("tools"))?)?)?;
    let mut talk = talk(body.get("input"))?;
    if let Some(instructions) = text_of(body, "instructions").filter(|text| !text.trim().is_empty()) {
        talk.system.insert(0, instructions.trim().to_owned());
    }
    let uploads = asked::images(house, std::mem::take(&mut talk.images), true)?;
    let (text, wish) = talk.into_wish(&choice)?;
    if text.is_empty() && uploads.is_empty() && wish.results.is_empty() {
        return Err(Trouble::invalid("Missing user message in `input`."));
    }
    let thinking = body.pointer("/reasoning/effort").and_then(Value::as_str).map(str::to_owned);
    let wish = crate::intake::Wish { tools, params, thinking, ..wish };
    let is_streamed = body.get("stream") == Some(&Value::Bool(true));
    Ok(Asked { model, session, text, uploads, wish, choice, is_streamed, wants_usage: true })
}

fn tools(tools: Option<&Value>) -> Result<Vec<SenderTool>, Trouble> {
    let refuse = |why: &str| Trouble::invalid(format!("Invalid tools/tool_choice: {why}"));
    match tools {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(tools)) => {
            let read = |tool: &Value| match text_of(tool, "type") {
                Some("function") => asked::tool(tool),
                _ => Err(refuse("only function tools are supported")),
            };
            tools.iter().map(read).collect()
        }
        Some(_) => Err(refuse("tools must be an array")),
    }
}

/// Takes the conversation apart.
fn talk(input: Option<&Value>) -> Result<Talk, Trouble> {
    let mut talk = Talk::default();
    let items = match input {
        Some(Value::String(text)) => {
            talk.turns.push(Turn::User { text: text.clone() });
            return Ok(talk);
        }
        Some(Value::Array(items)) => items,
        _ => return Err(Trouble::invalid("`input` must be a text or an array of items.")),
    };
    for item in items {
        // A message may leave its type out.
        match text_of(item, "type").unwrap_or("message") {
            "message" => message(&mut talk, item)?,
            "function_call" => {
                let call = Call {
                    id: text_of(item, "call_id").or_else(|| text_of(item, "id")).unwrap_or_default().to_owned(),
                    name: text_of(item, "name").unwrap_or_default().to_owned(),
                    arguments: asked::arguments(item.get("arguments")),
                };
                // Calls that follow each other, and the words before them, are one answer of the model.
                match talk.turns.last_mut() {
                    Some(Turn::Assistant { calls, .. }) => calls.push(call),
                    _ => talk.turns.push(Turn::Assistant { text: String::new(), calls: vec![call] }),
                }
            }
            "function_call_output" => {
                let Some(id) = text_of(item, "call_id").filter(|id| !id.is_empty()) else {
                    return Err(Trouble::invalid("a function_call_output needs a call_id"));
                };
                let text = match item.get("output") {
                    Some(Value::String(text)) => text.clone(),
                    output => text_in(output),
                };
                let name = called(&talk.turns, id).unwrap_or_default();
                talk.turns.push(Turn::Tool { call_id: id.to_owned(), name, text });
                talk.images.clear();
            }
            // Thoughts of a model and references to what this gateway does not keep under such an id.
            "reasoning" | "item_reference" => {}
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(Trouble::invalid(format!("input items of type `{other}` are not supported")));
            }
        }
    }
    Ok(talk)
}

fn message(talk: &mut Talk, item: &Value) -> Result<(), Trouble> {
    let text = text_in(item.get("content"));
    match text_of(item, "role").unwrap_or_default() {
        "system" | "developer" if !text.trim().is_empty() => talk.system.push(text.trim().to_owned()),
        "user" => {
            talk.images = images_in(item.get("content"))?;
            talk.turns.push(Turn::User { text });
        }
        "assistant" if !text.trim().is_empty() => talk.turns.push(Turn::Assistant { text, calls: Vec::new() }),
        _ => {}
    }
    Ok(())
}

fn text_in(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| text_of(part, "text")).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn images_in(content: Option<&Value>) -> Result<Vec<Upload>, Trouble> {
    let parts = content.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut images = Vec::new();
    for part in parts {
        match text_of(part, "type") {
            Some("input_image") => images.push(image(part)?),
            Some("input_file") => images.push(file(part)?),
            _ => {}
        }
    }
    Ok(images)
}

/// A file as the published SDK sends it (`file_data`), or as upstream reads it (`source`): only one whose bytes are in it.
fn file(part: &Value) -> Result<Upload, Trouble> {
    let source = part.get("source").unwrap_or(&Value::Null);
    let data = text_of(part, "file_data").or_else(|| text_of(source, "data"));
    let Some(data) = data else {
        return Err(Trouble::invalid("an input_file needs its bytes as file_data: this build fetches no files"));
    };
    let base64 = data.split_once(";base64,").map_or(data, |(_, base64)| base64);
    let name = text_of(part, "filename").or_else(|| text_of(source, "filename")).and_then(file_name);
    Ok(Upload { name, base64: base64.trim().to_owned() })
}

/// A picture as the published SDK sends it (`image_url`), or as upstream reads it (`source`).
fn image(part: &Value) -> Result<Upload, Trouble> {
    if let Some(url) = text_of(part, "image_url") {
        return asked::image(url);
    }
    let source = part.get("source").unwrap_or(&Value::Null);
    match (text_of(source, "type"), text_of(source, "data"), text_of(source, "url")) {
        (Some("base64"), Some(data), _) => Ok(asked::image_of(data)),
        (_, _, Some(url)) => asked::image(url),
        _ => Err(Trouble::invalid("an input_image needs an image_url")),
    }
}

/// The answer as a whole.
pub(super) fn whole(live: &Live, end: &Ended) -> HttpResponse {
    json_response(200, &response(live, status(end), output(live, end), &end.usage, None))
}

/// The first events.
pub(super) fn opening(live: &Live, events: &mut Events) -> Vec<u8> {
    let begun = response(live, "in_progress", Vec::new(), &Usage::default(), None);
    let mut out = events.event("response.created", json!({ "response": begun }));
    out.extend(events.event("response.in_progress", json!({ "response": begun })));
    let item = json!({
        "type": "message", "id": live.item_id, "role": "assistant", "content": [], "status": "in_progress",
    });
    out.extend(events.event("response.output_item.added", json!({ "output_index": 0, "item": item })));
    let part = json!({ "type": "output_text", "text": "", "annotations": [] });
    out.extend(events.event("response.content_part.added", at(live, json!({ "part": part }))));
    out
}

/// More words.
pub(super) fn words(live: &Live, events: &mut Events, words: &str) -> Vec<u8> {
    events.event("response.output_text.delta", at(live, json!({ "delta": words })))
}

/// The end of a stream; `rest` are words that have not been sent.
pub(super) fn ending(live: &Live, events: &mut Events, end: &Ended, rest: &str) -> Vec<u8> {
    let is_empty = end.text.is_empty() && end.calls.is_empty();
    let (text, rest) = if is_empty { (SILENCE, SILENCE) } else { (end.text.as_str(), rest) };
    let mut out = Vec::new();
    if !rest.is_empty() {
        out.extend(words(live, events, rest));
    }
    out.extend(events.event("response.output_text.done", at(live, json!({ "text": text }))));
    let part = json!({ "type": "output_text", "text": text, "annotations": [] });
    out.extend(events.event("response.content_part.done", at(live, json!({ "part": part }))));
    // The message was announced, so it stays in the list, be it empty.
    let mut output = vec![spoken(live, end, text)];
    output.extend(end.calls.iter().map(function_call));
    out.extend(events.event("response.output_item.done", json!({ "output_index": 0, "item": output[0] })));
    for (idx, item) in output.iter().enumerate().skip(1) {
        let mut begun = item.clone();
        begun["status"] = json!("in_progress");
        begun["arguments"] = json!("");
        out.extend(events.event("response.output_item.added", json!({ "output_index": idx, "item": begun })));
        let (id, arguments) = (&item["id"], &item["arguments"]);
        let more = json!({ "item_id": id, "output_index": idx, "delta": arguments });
        out.extend(events.event("response.function_call_arguments.delta", more));
        let done = json!({ "item_id": id, "output_index": idx, "name": item["name"], "arguments": arguments });
        out.extend(events.event("response.function_call_arguments.done", done));
        out.extend(events.event("response.output_item.done", json!({ "output_index": idx, "item": item })));
    }
    let status = status(end);
    let done = response(live, status, output, &end.usage, None);
    out.extend(events.event(&format!("response.{status}"), json!({ "response": done })));
    out.extend_from_slice(super::DONE);
    out
}

/// The end of a stream that came to nothing.
pub(super) fn failure(live: &Live, events: &mut Events, trouble: &Trouble, usage: &Usage) -> Vec<u8> {
    let failed = failed(live, trouble, usage);
    let mut out = events.event("response.failed", json!({ "response": failed }));
    out.extend_from_slice(super::DONE);
    out
}

/// A response that came to nothing.
fn failed(live: &Live, trouble: &Trouble, usage: &Usage) -> Value {
    let error = json!({ "code": trouble.code.unwrap_or(trouble.kind), "message": trouble.message });
    response(live, "failed", Vec::new(), usage, Some(error))
}

/// Numbers the events of a stream.
#[derive(Debug, Default)]
pub(super) struct Events {
    next: u64,
}

impl Events {
    fn event(&mut self, kind: &str, mut fields: Value) -> Vec<u8> {
        fields["type"] = json!(kind);
        fields["sequence_number"] = json!(self.next);
        self.next += 1;
        super::event(Some(kind), &fields)
    }
}

/// Fields of the message's only part.
fn at(live: &Live, mut fields: Value) -> Value {
    fields["item_id"] = json!(live.item_id);
    fields["output_index"] = json!(0);
    fields["content_index"] = json!(0);
    fields
}

fn status(end: &Ended) -> &'static str {
    if end.is_cut { "incomplete" } else { "completed" }
}

fn output(live: &Live, end: &Ended) -> Vec<Value> {
    let mut output = Vec::new();
    if !end.text.is_empty() {
        output.push(spoken(live, end, &end.text));
    } else if end.calls.is_empty() {
        output.push(spoken(live, end, SILENCE));
    }
    output.extend(end.calls.iter().map(function_call));
    output
}

fn spoken(live: &Live, end: &Ended, text: &str) -> Value {
    let phase = if end.calls.is_empty() { "final_answer" } else { "commentary" };
    json!({
        "type": "message",
        "id": live.item_id,
        "role": "assistant",
        "content": [{ "type": "output_text", "text": text, "annotations": [] }],
        "phase": phase,
        "status": status(end),
    })
}

fn function_call(call: &crate::agent::talk::ToolCall) -> Value {
    json!({
        "type": "function_call",
        "id": format!("fc_{}", random::uuid()),
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments.to_string(),
        "status": "completed",
    })
}

fn response(live: &Live, status: &str, output: Vec<Value>, usage: &Usage, error: Option<Value>) -> Value {
    let input = usage.input + usage.cache_read + usage.cache_write;
    let mut response = json!({
        "id": live.run_id,
        "object": "response",
        "created_at": live.created,
        "status": status,
        "model": live.model,
        "output": output,
        "usage": {
            "input_tokens": input,
            "input_tokens_details": { "cached_tokens": usage.cache_read },
            "output_tokens": usage.output,
            "total_tokens": input + usage.output,
        },
        "error": error,
    });
    if status == "incomplete" {
        response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
    }
    response
}
