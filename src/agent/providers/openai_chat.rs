//! OpenAI's chat completions (`POST /chat/completions`), which most providers speak, each with its own gaps.

use serde_json::{Map, Value};

use super::format::{self, Flow, Gather, Request, Target, joined_text};
use super::table::{MaxTokensField, ThinkingFormat};
use super::trouble;
use crate::agent::talk::{
    Answer, Failure, FailureKind, Message, Part, Piece, Prompt, Said, StopReason, Thinking, ToolCall, ToolResult, Usage,
};
use crate::protocol::json::json;

/// Where thoughts stand in a message, depending on who speaks. The first is also where they go back to.
const THOUGHT_FIELDS: [&str; 3] = ["reasoning_content", "reasoning", "reasoning_text"];
/// Length of a tool call's id where it must be short (Mistral).
const SHORT_ID_CHARS: usize = 9;
/// Said in an assistant's name where one must stand between a tool's answer and a person.
const BRIDGE: &str = "I have read the results.";

/// The request for a prompt.
pub fn request(target: &Target<'_>, prompt: &Prompt) -> Request {
    let quirks = target.quirks;
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(target.model));
    body.insert("messages".to_owned(), Value::Array(messages(target, prompt)));
    body.insert("stream".to_owned(), json!(true));
    if quirks.stream_usage {
        body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
    }
    if quirks.store {
        body.insert("store".to_owned(), json!(false));
    }
    if let Some(max) = prompt.max_output_tokens {
        let max = target.max_tokens.map_or(max, |most| max.min(most));
        let field = match quirks.max_tokens {
            MaxTokensField::MaxTokens => "max_tokens",
            MaxTokensField::MaxCompletionTokens => "max_completion_tokens",
        };
        body.insert(field.to_owned(), json!(max));
    }
    if !prompt.tools.is_empty() {
        let tool = |tool: &crate::agent::talk::ToolSpec| {
            let mut function =
                json!({ "name": tool.name, "description": tool.description, "parameters": tool.parameters });
            if quirks.strict_tools {
                function["strict"] = json!(false);
            }
            json!({ "type": "function", "function": function })
        };
        body.insert("tools".to_owned(), prompt.tools.iter().map(tool).collect());
    }
    if target.reasoning {
        think(quirks.thinking, target.model, prompt.thinking, &mut body);
    }
    for (name, value) in target.params {
        body.insert(name.clone(), value.clone());
    }
    Request { path: "/chat/completions".to_owned(), headers: Vec::new(), body }
}

/// Tells how much to think, in the provider's way.
fn think(how: ThinkingFormat, model: &str, thinking: Thinking, body: &mut Map<String, Value>) {
    let effort = format::effort(model, thinking);
    match (how, effort) {
        (ThinkingFormat::OpenAi, Some(effort)) => {
            body.insert("reasoning_effort".to_owned(), json!(effort));
        }
        (ThinkingFormat::OpenRouter, Some(effort)) => {
            body.insert("reasoning".to_owned(), json!({ "effort": effort }));
        }
        (ThinkingFormat::Zai, effort) => {
            let kind = if effort.is_some() { "enabled" } else { "disabled" };
            body.insert("thinking".to_owned(), json!({ "type": kind }));
        }
        (ThinkingFormat::Qwen, effort) => {
            body.insert("enable_thinking".to_owned(), json!(effort.is_some()));
        }
        (ThinkingFormat::None, _) | (_, None) => {}
    }
}

fn messages(target: &Target<'_>, prompt: &Prompt) -> Vec<Value> {
    let mut out = Vec::with_capacity(prompt.messages.len() + 1);
    if !prompt.system.is_empty() {
        let role = if target.reasoning && target.quirks.developer_role { "developer" } else { "system" };
        out.push(json!({ "role": role, "content": prompt.system }));
    }
    // Pictures that tools gave: they follow the last of the results, in a person's name, because a tool may only speak.
    let mut pictures: Vec<Value> = Vec::new();
    let mut after_tool = false;
    for message in &prompt.messages {
        if !matches!(message, Message::Tool(_)) {
            flush_pictures(target, &mut out, &mut pictures, &mut after_tool);
        }
        match message {
            Message::User(parts) => {
                if after_tool && target.quirks.assistant_after_tool {
                    out.push(json!({ "role": "assistant", "content": BRIDGE }));
                }
                out.push(json!({ "role": "user", "content": content(target, parts) }));
                after_tool = false;
            }
            Message::Assistant(said) => {
                out.extend(assistant(target, said));
                after_tool = false;
            }
            Message::Tool(result) => {
                out.push(tool_message(target, result));
                let images = result.content.iter().filter(|part| matches!(part, Part::Image { .. }));
                pictures.extend(images.filter(|_| target.sees_images).map(part));
                after_tool = true;
            }
        }
    }
    flush_pictures(target, &mut out, &mut pictures, &mut after_tool);
    out
}

fn flush_pictures(target: &Target<'_>, out: &mut Vec<Value>, pictures: &mut Vec<Value>, after_tool: &mut bool) {
    if pictures.is_empty() {
        return;
    }
    if target.quirks.assistant_after_tool {
        out.push(json!({ "role": "assistant", "content": BRIDGE }));
    }
    let mut content = vec![json!({ "type": "text", "text": "Attached image(s) from tool result:" })];
    content.append(pictures);
    out.push(json!({ "role": "user", "content": content }));
    *after_tool = false;
}

/// Text alone as text, which every server takes; with pictures, parts.
fn content(target: &Target<'_>, parts: &[Part]) -> Value {
    let has_images = target.sees_images && parts.iter().any(|part| matches!(part, Part::Image { .. }));
    if !has_images {
        return Value::String(joined_text(parts));
    }
    parts.iter().map(part).collect()
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Image { mime, base64 } => {
            json!({ "type": "image_url", "image_url": { "url": format!("data:{mime};base64,{base64}") } })
        }
    }
}

fn assistant(target: &Target<'_>, said: &[Said]) -> Option<Value> {
    let mut text = String::new();
    let mut thoughts = String::new();
    let mut calls = Vec::new();
    for said in said {
        match said {
            Said::Text(more) => text.push_str(more),
            Said::Thinking { text: thought, signature } => {
                if target.quirks.thinking_as_text && !thought.is_empty() {
                    text.push_str(thought);
                    text.push_str("\n\n");
                } else if target.signed(signature).is_some() {
                    thoughts.push_str(thought);
                }
            }
            Said::Call(call) => calls.push(json!({
                "id": call_id(target, &call.id),
                "type": "function",
                "function": { "name": call.name, "arguments": arguments(call) },
            })),
        }
    }
    if text.is_empty() && calls.is_empty() {
        return None;
    }
    let mut message = Map::new();
    message.insert("role".to_owned(), json!("assistant"));
    // `null` beside calls is the rule, and an empty text is refused by some.
    message.insert("content".to_owned(), if text.is_empty() { Value::Null } else { Value::String(text) });
    if target.quirks.keeps_thoughts && !calls.is_empty() && !thoughts.is_empty() {
        message.insert(THOUGHT_FIELDS[0].to_owned(), Value::String(thoughts));
    }
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    Some(Value::Object(message))
}

fn tool_message(target: &Target<'_>, result: &ToolResult) -> Value {
    let text = joined_text(&result.content);
    let text = if text.is_empty() { "(no output)".to_owned() } else { text };
    let mut message = json!({ "role": "tool", "tool_call_id": call_id(target, &result.call_id), "content": text });
    if target.quirks.tool_result_name {
        message["name"] = json!(result.name);
    }
    message
}

fn arguments(call: &ToolCall) -> String {
    if call.arguments.is_object() { call.arguments.to_string() } else { "{}".to_owned() }
}

/// An id the provider takes: the same for the same call, wherever it stands.
fn call_id(target: &Target<'_>, id: &str) -> String {
    if !target.quirks.short_call_ids {
        return format::plain_id(id);
    }
    if id.len() == SHORT_ID_CHARS && id.chars().all(|c| c.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    crate::runtime::random::hex(digest.as_ref())[..SHORT_ID_CHARS].to_owned()
}

/// Reads an answer.
#[derive(Debug)]
pub struct Reader {
    gather: Gather,
    stop: Option<StopReason>,
    /// What this model signs its thoughts with, so that they go back to it alone.
    mark: String,
    has_thoughts: bool,
    is_done: bool,
}

impl Reader {
    /// For one answer.
    pub fn new(target: &Target<'_>) -> Reader {
        Reader {
            gather: Gather::default(),
            stop: None,
            mark: target.sign(THOUGHT_FIELDS[0]),
            has_thoughts: false,
            is_done: false,
        }
    }

    /// Takes a chunk.
    ///
    /// # Errors
    /// What the provider says went wrong; a chunk that is no JSON.
    pub fn event(&mut self, _: &str, data: &str, tell: &mut dyn FnMut(Piece<'_>)) -> Result<Flow, Failure> {
        if data.trim() == "[DONE]" {
            self.is_done = true;
            return Ok(Flow::Done);
        }
        if data.trim().is_empty() {
            return Ok(Flow::More);
        }
        let chunk: Value =
            serde_json::from_str(data).map_err(|_| trouble::failure(FailureKind::Format, "the answer is not JSON"))?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(trouble::of_error(error));
        }
        self.head(&chunk);
        // Some servers send a chunk without choices for the tokens alone.
        for choice in chunk["choices"].as_array().into_iter().flatten().take(1) {
            self.message(&choice["delta"], tell)?;
            self.finish(choice)?;
        }
        Ok(Flow::More)
    }

    /// Takes an answer that came whole.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn whole(&mut self, body: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
            return Err(trouble::of_error(error));
        }
        self.head(body);
        let Some(choice) = body["choices"].get(0) else {
            return Err(trouble::failure(FailureKind::Format, "the answer has no choices"));
        };
        self.message(&choice["message"], tell)?;
        self.finish(choice)?;
        self.is_done = true;
        Ok(())
    }

    /// The answer, when nothing more comes. Some servers leave `[DONE]` out: a reason to stop is an end too.
    ///
    /// # Errors
    /// `Unavailable` when the answer was cut off.
    pub fn end(mut self) -> Result<Answer, Failure> {
        let is_whole = self.stop.is_some() || (self.is_done && !self.gather.is_empty());
        if !is_whole {
            return Err(trouble::cut_off(self.gather.is_empty()));
        }
        self.close_thoughts()?;
        Ok(self.gather.end(self.stop.unwrap_or(StopReason::Stop)))
    }

    fn head(&mut self, chunk: &Value) {
        if self.gather.response_id.is_none() {
            self.gather.response_id = chunk["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
        }
        // Moonshot counts inside the choice.
        let usage = [&chunk["usage"], &chunk["choices"][0]["usage"]].into_iter().find(|usage| usage.is_object());
        if let Some(usage) = usage {
            self.gather.usage = tokens(usage);
        }
    }

    fn message(&mut self, message: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        // Some servers send the same thoughts under two names.
        let thoughts = THOUGHT_FIELDS.iter().find_map(|field| message[*field].as_str().filter(|text| !text.is_empty()));
        if let Some(thoughts) = thoughts {
            self.has_thoughts = true;
            self.gather.thinking(thoughts, tell)?;
        }
        match &message["content"] {
            Value::String(text) if !text.is_empty() => {
                self.close_thoughts()?;
                self.gather.text(text, tell)?;
            }
            // Mistral's thinking models send parts.
            Value::Array(parts) => self.parts(parts, tell)?,
            _ => {}
        }
        if let Some(refusal) = message["refusal"].as_str() {
            self.gather.text(refusal, tell)?;
        }
        for (place, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
            self.call(place, call)?;
        }
        Ok(())
    }

    fn parts(&mut self, parts: &[Value], tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        for part in parts {
            match part["type"].as_str() {
                Some("thinking") => {
                    for thought in part["thinking"].as_array().into_iter().flatten() {
                        self.has_thoughts = true;
                        self.gather.thinking(thought["text"].as_str().unwrap_or_default(), tell)?;
                    }
                }
                _ => {
                    self.close_thoughts()?;
                    self.gather.text(part["text"].as_str().unwrap_or_default(), tell)?;
                }
            }
        }
        Ok(())
    }

    fn close_thoughts(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.has_thoughts) {
            self.gather.signature(self.mark.clone())?;
        }
        Ok(())
    }

    fn call(&mut self, place: usize, call: &Value) -> Result<(), Failure> {
        self.close_thoughts()?;
        let (id, function) = (call["id"].as_str().unwrap_or_default(), &call["function"]);
        let name = function["name"].as_str().unwrap_or_default();
        // Calls are told apart by index; servers that have none send each call whole, with an id of its own.
        let wire = match (call["index"].as_u64(), id) {
            (Some(index), _) => index.to_string(),
            (None, "") => place.to_string(),
            (None, id) => format!("id {id}"),
        };
        if self.gather.has_call(&wire) {
            self.gather.name_call(&wire, id, name);
        } else {
            self.gather.call(&wire, id, name)?;
        }
        match &function["arguments"] {
            Value::String(more) => self.gather.arguments(&wire, more),
            // Some servers send the object itself.
            object @ Value::Object(_) => {
                self.gather.set_arguments(&wire, &object.to_string());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, choice: &Value) -> Result<(), Failure> {
        let Some(reason) = choice["finish_reason"].as_str() else { return Ok(()) };
        self.stop = Some(match reason {
            "length" | "max_tokens" | "model_length" => StopReason::Length,
            "tool_calls" | "function_call" => StopReason::ToolUse,
            "content_filter" if self.gather.is_empty() => {
                return Err(trouble::failure(FailureKind::Refusal, "the provider's content filter stopped the answer"));
            }
            "error" | "network_error" => {
                return Err(trouble::failure(
                    FailureKind::Unavailable,
                    "the provider gave up in the middle of its answer",
                ));
            }
            _ => StopReason::Stop,
        });
        Ok(())
    }
}

fn tokens(usage: &Value) -> Usage {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    // DeepSeek has a name of its own for what came from its cache.
    let cached =
        [&usage["prompt_tokens_details"]["cached_tokens"], &usage["prompt_cache_hit_tokens"], &usage["cached_tokens"]];
    let cache_read = cached.into_iter().find_map(Value::as_u64).unwrap_or(0);
    let cache_write = count(&usage["prompt_tokens_details"]["cache_write_tokens"]);
    Usage {
        input: count(&usage["prompt_tokens"]).saturating_sub(cache_read + cache_write),
        output: count(&usage["completion_tokens"]),
        cache_read,
        cache_write,
    }
}

#[cfg(test)]
mod tests;
