//! Anthropic's Messages (`POST /v1/messages`), which some others speak too.

use serde_json::{Map, Value};

use super::format::{self, Flow, Gather, Request, Target};
use super::trouble;
use crate::agent::talk::{
    Answer, Failure, FailureKind, Message, Part, Piece, Prompt, Said, StopReason, Thinking, ToolResult, Usage,
};
use crate::protocol::json::json;

/// The version of the API that is spoken here.
const VERSION: &str = "2023-06-01";
/// Tokens an answer may have when nothing else says so: every model writes as many.
const MAX_TOKENS_DEFAULT: u64 = 8192;
/// Most tokens asked for without being told to: what a model reserves for its answer it cannot read.
const MAX_TOKENS_UNASKED: u64 = 32_000;
/// Fewest tokens a model may think with, and fewest that are left for its words.
const BUDGET_MIN: u64 = 1024;
/// What stands before a thought that only the provider can read.
const REDACTED: &str = "redacted:";
/// Words of OpenAI's that mean nothing here, and would be refused.
const FOREIGN_WORDS: [&str; 14] = [
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "n",
    "seed",
    "response_format",
    "max_tokens",
    "max_completion_tokens",
    "reasoning_effort",
    "stream_options",
    "user",
    "store",
];

/// The request for a prompt.
pub fn request(target: &Target<'_>, prompt: &Prompt) -> Request {
    let most = target.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT);
    let mut max_tokens = prompt.max_output_tokens.unwrap_or(MAX_TOKENS_UNASKED).clamp(1, most.max(1));
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(target.model));
    body.insert("messages".to_owned(), Value::Array(messages(target, prompt)));
    body.insert("stream".to_owned(), json!(true));
    if !prompt.system.is_empty() {
        // The end of what stays the same from step to step: tools come before it.
        let kept = json!({ "type": "ephemeral" });
        body.insert("system".to_owned(), json!([{ "type": "text", "text": prompt.system, "cache_control": kept }]));
    }
    if !prompt.tools.is_empty() {
        let tool = |tool: &crate::agent::talk::ToolSpec| json!({ "name": tool.name, "description": tool.description, "input_schema": tool.parameters });
        body.insert("tools".to_owned(), prompt.tools.iter().map(tool).collect());
    }
    let is_thinking = target.reasoning && prompt.thinking != Thinking::Off && may_think(target, prompt);
    if is_thinking && thinks_by_itself(target.model) {
        body.insert("thinking".to_owned(), json!({ "type": "adaptive" }));
        body.insert("output_config".to_owned(), json!({ "effort": effort(target.model, prompt.thinking) }));
    } else if is_thinking {
        max_tokens = max_tokens.max((2 * BUDGET_MIN).min(most));
        let budget = budget(prompt.thinking).min(max_tokens.saturating_sub(BUDGET_MIN));
        if budget >= BUDGET_MIN {
            body.insert("thinking".to_owned(), json!({ "type": "enabled", "budget_tokens": budget }));
        }
    }
    body.insert("max_tokens".to_owned(), json!(max_tokens));
    let has_own_ways = body.contains_key("thinking") || is_set_in_its_ways(target.model);
    for (name, value) in target.params {
        match name.as_str() {
            word if FOREIGN_WORDS.contains(&word) => {}
            "temperature" | "top_k" | "top_p" if has_own_ways => {}
            "stop" => {
                let stops = if value.is_array() { value.clone() } else { json!([value]) };
                body.insert("stop_sequences".to_owned(), stops);
            }
            "tool_choice" => {
                if let Some(choice) = tool_choice(value) {
                    body.insert("tool_choice".to_owned(), choice);
                }
            }
            "parallel_tool_calls" => {
                if value == &json!(false) && !prompt.tools.is_empty() && !body.contains_key("tool_choice") {
                    let choice = json!({ "type": "auto", "disable_parallel_tool_use": true });
                    body.insert("tool_choice".to_owned(), choice);
                }
            }
            _ => {
                body.insert(name.clone(), value.clone());
            }
        }
    }
    let headers = vec![("anthropic-version", VERSION.to_owned())];
    Request { path: "/v1/messages".to_owned(), headers, body }
}

/// OpenAI's word for which tool must be called, as Anthropic says it.
fn tool_choice(value: &Value) -> Option<Value> {
    match value.as_str() {
        Some("auto") => Some(json!({ "type": "auto" })),
        Some("none") => Some(json!({ "type": "none" })),
        Some("required") => Some(json!({ "type": "any" })),
        Some(_) => None,
        None => value["function"]["name"].as_str().map(|name| json!({ "type": "tool", "name": name })),
    }
}

/// The version of a model, as `claude-FAMILY-MAJOR-MINOR` says it; older names say it otherwise, and count as 0.
fn version(model: &str) -> (u32, u32) {
    let Some((_, rest)) = model.split_once("claude-") else { return (0, 0) };
    let mut parts = rest.split(['-', '.']).skip(1).map(str::parse::<u32>);
    let Some(Ok(major)) = parts.next().filter(|_| !rest.starts_with(|c: char| c.is_ascii_digit())) else {
        return (0, 0);
    };
    // A date is no version.
    let minor = parts.next().and_then(Result::ok).filter(|minor| *minor < 100).unwrap_or(0);
    (major, minor)
}

/// Whether a model decides itself how long it thinks, and is told only how hard to try.
fn thinks_by_itself(model: &str) -> bool {
    version(model) >= (4, 6)
}

/// Whether a model chooses its words as it must, and refuses to be told how.
fn is_set_in_its_ways(model: &str) -> bool {
    version(model) >= (4, 7)
}

fn effort(model: &str, thinking: Thinking) -> &'static str {
    match thinking {
        Thinking::Off | Thinking::Minimal | Thinking::Low => "low",
        Thinking::Medium => "medium",
        Thinking::Xhigh if version(model) >= (4, 7) || model.contains("opus") => "max",
        Thinking::High | Thinking::Xhigh => "high",
    }
}

fn budget(thinking: Thinking) -> u64 {
    match thinking {
        Thinking::Off | Thinking::Minimal => 1024,
        Thinking::Low => 2048,
        Thinking::Medium => 8192,
        Thinking::High => 16_384,
        Thinking::Xhigh => 32_768,
    }
}

/// Whether it may think in this turn: one that called tools must be given back the thoughts it had before, and another
/// model's calls have none it would take.
fn may_think(target: &Target<'_>, prompt: &Prompt) -> bool {
    let turn = prompt.messages.iter().rev().take_while(|message| !matches!(message, Message::User(_)));
    let mut steps = turn.filter_map(|message| match message {
        Message::Assistant(said) => Some(said),
        _ => None,
    });
    let is_owned = |said: &Vec<Said>| match said.first() {
        Some(Said::Thinking { signature, .. }) => target.signed(signature).is_some(),
        _ => false,
    };
    let calls = |said: &Vec<Said>| said.iter().any(|said| matches!(said, Said::Call(_)));
    steps.all(|said| !calls(said) || is_owned(said))
}

/// The messages, of which no two of the same side follow each other.
fn messages(target: &Target<'_>, prompt: &Prompt) -> Vec<Value> {
    let mut sides: Vec<(&'static str, Vec<Value>)> = Vec::new();
    let mut add = |role: &'static str, blocks: Vec<Value>| match sides.last_mut() {
        _ if blocks.is_empty() => {}
        Some((last, content)) if *last == role => content.extend(blocks),
        _ => sides.push((role, blocks)),
    };
    for message in &prompt.messages {
        match message {
            Message::User(parts) => add("user", blocks(target, parts)),
            Message::Assistant(said) => add("assistant", said.iter().filter_map(|said| block(target, said)).collect()),
            Message::Tool(result) => add("user", vec![tool_result(target, result)]),
        }
    }
    for (role, content) in &mut sides {
        if *role == "user" {
            // Answers of tools come first, whatever a person said meanwhile.
            content.sort_by_key(|block| block["type"] != "tool_result");
        }
    }
    if let Some((_, content)) = sides.last_mut()
        && let Some(block) = content.last_mut()
    {
        block["cache_control"] = json!({ "type": "ephemeral" });
    }
    sides.into_iter().map(|(role, content)| json!({ "role": role, "content": content })).collect()
}

fn blocks(target: &Target<'_>, parts: &[Part]) -> Vec<Value> {
    let block = |part: &Part| match part {
        Part::Text(text) => (!text.trim().is_empty()).then(|| json!({ "type": "text", "text": text })),
        Part::Image { mime, base64 } => target.sees_images.then(|| {
            let source = json!({ "type": "base64", "media_type": mime, "data": &**base64 });
            json!({ "type": "image", "source": source })
        }),
    };
    parts.iter().filter_map(block).collect()
}

fn block(target: &Target<'_>, said: &Said) -> Option<Value> {
    match said {
        Said::Text(text) => (!text.trim().is_empty()).then(|| json!({ "type": "text", "text": text })),
        Said::Thinking { text, signature } => {
            let signed = target.signed(signature)?;
            Some(match signed.strip_prefix(REDACTED) {
                Some(data) => json!({ "type": "redacted_thinking", "data": data }),
                None => json!({ "type": "thinking", "thinking": text, "signature": signed }),
            })
        }
        Said::Call(call) => {
            let input = if call.arguments.is_object() { call.arguments.clone() } else { json!({}) };
            Some(json!({ "type": "tool_use", "id": format::plain_id(&call.id), "name": call.name, "input": input }))
        }
    }
}

fn tool_result(target: &Target<'_>, result: &ToolResult) -> Value {
    let mut content = blocks(target, &result.content);
    if content.is_empty() {
        content.push(json!({ "type": "text", "text": "(no output)" }));
    }
    let id = format::plain_id(&result.call_id);
    json!({ "type": "tool_result", "tool_use_id": id, "content": content, "is_error": result.is_error })
}

/// Reads an answer.
#[derive(Debug)]
pub struct Reader {
    gather: Gather,
    stop: Option<StopReason>,
    is_done: bool,
    /// What this model signs its thoughts with, so that they go back to it alone.
    mark: String,
    /// The signature of the thought that is being said.
    signature: String,
}

impl Reader {
    /// For one answer.
    pub fn new(target: &Target<'_>) -> Reader {
        Reader {
            gather: Gather::default(),
            stop: None,
            is_done: false,
            mark: target.sign(""),
            signature: String::new(),
        }
    }

    /// Takes an event.
    ///
    /// # Errors
    /// What the provider says went wrong; an event that is no JSON.
    pub fn event(&mut self, _: &str, data: &str, tell: &mut dyn FnMut(Piece<'_>)) -> Result<Flow, Failure> {
        let event: Value =
            serde_json::from_str(data).map_err(|_| trouble::failure(FailureKind::Format, "the answer is not JSON"))?;
        let wire = || event["index"].to_string();
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => self.head(&event["message"]),
            "content_block_start" => self.begin(&wire(), &event["content_block"], tell)?,
            "content_block_delta" => self.delta(&wire(), &event["delta"], tell)?,
            "content_block_stop" => self.close_thought()?,
            "message_delta" => {
                self.count(&event["usage"]);
                self.finish(&event["delta"])?;
            }
            "message_stop" => {
                self.is_done = true;
                return Ok(Flow::Done);
            }
            "error" => return Err(trouble::of_error(&event["error"])),
            // `ping`, and whatever is invented next.
            _ => {}
        }
        Ok(Flow::More)
    }

    /// Takes an answer that came whole.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn whole(&mut self, body: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        if body["type"] == "error" || body["error"].is_object() {
            return Err(trouble::of_error(&body["error"]));
        }
        let Some(content) = body["content"].as_array() else {
            return Err(trouble::failure(FailureKind::Format, "the answer has no content"));
        };
        self.head(body);
        for (index, block) in content.iter().enumerate() {
            let wire = index.to_string();
            self.begin(&wire, block, tell)?;
            if block["input"].is_object() {
                self.gather.set_arguments(&wire, &block["input"].to_string());
            }
            self.close_thought()?;
        }
        self.finish(body)?;
        self.is_done = true;
        Ok(())
    }

    /// The answer, when nothing more comes.
    ///
    /// # Errors
    /// `Unavailable` when the answer was cut off.
    pub fn end(self) -> Result<Answer, Failure> {
        if !self.is_done && self.stop.is_none() {
            return Err(trouble::cut_off(self.gather.is_empty()));
        }
        Ok(self.gather.end(self.stop.unwrap_or(StopReason::Stop)))
    }

    fn head(&mut self, message: &Value) {
        self.gather.response_id = message["id"].as_str().map(str::to_owned);
        self.count(&message["usage"]);
    }

    /// Takes the tokens over; what an event leaves out stays as it was.
    fn count(&mut self, usage: &Value) {
        let take = |name: &str, to: &mut u64| {
            if let Some(count) = usage[name].as_u64() {
                *to = count;
            }
        };
        let counted: &mut Usage = &mut self.gather.usage;
        take("input_tokens", &mut counted.input);
        take("output_tokens", &mut counted.output);
        take("cache_read_input_tokens", &mut counted.cache_read);
        take("cache_creation_input_tokens", &mut counted.cache_write);
    }

    fn begin(&mut self, wire: &str, block: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        let text = |name: &str| block[name].as_str().unwrap_or_default();
        match text("type") {
            "text" => self.gather.text(text("text"), tell),
            "thinking" => {
                self.signature.push_str(text("signature"));
                self.gather.thinking(text("thinking"), tell)
            }
            "redacted_thinking" => self.gather.signature(format!("{}{REDACTED}{}", self.mark, text("data"))),
            "tool_use" => self.gather.call(wire, text("id"), text("name")),
            _ => Ok(()),
        }
    }

    fn delta(&mut self, wire: &str, delta: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        let text = |name: &str| delta[name].as_str().unwrap_or_default();
        match text("type") {
            "text_delta" => self.gather.text(text("text"), tell),
            "thinking_delta" => self.gather.thinking(text("thinking"), tell),
            "input_json_delta" if self.gather.has_call(wire) => self.gather.arguments(wire, text("partial_json")),
            "signature_delta" => {
                self.gather.grow(text("signature").len())?;
                self.signature.push_str(text("signature"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn close_thought(&mut self) -> Result<(), Failure> {
        let signature = std::mem::take(&mut self.signature);
        if signature.is_empty() { Ok(()) } else { self.gather.signature(format!("{}{signature}", self.mark)) }
    }

    fn finish(&mut self, message: &Value) -> Result<(), Failure> {
        let Some(reason) = message["stop_reason"].as_str() else { return Ok(()) };
        self.stop = Some(match reason {
            "max_tokens" | "model_context_window_exceeded" => StopReason::Length,
            "tool_use" => StopReason::ToolUse,
            "refusal" if self.gather.is_empty() => {
                return Err(trouble::failure(FailureKind::Refusal, "the model refuses to answer this"));
            }
            _ => StopReason::Stop,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
