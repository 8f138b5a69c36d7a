//! OpenAI's Responses (`POST /responses`), without keeping anything there: thoughts come back encrypted, and go with the
//! next request.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::format::{self, Flow, Gather, Request, Target, joined_text};
use super::trouble;
use crate::agent::talk::{
    Answer, Failure, FailureKind, Message, Part, Piece, Prompt, Said, StopReason, ToolResult, Usage,
};
use crate::protocol::json::json;

/// Longest name of a conversation that the provider's cache takes, in characters.
const CACHE_KEY_CHARS_MAX: usize = 64;
/// Words of chat completions that mean nothing here, and would be refused.
const FOREIGN_WORDS: [&str; 12] = [
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "n",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "reasoning_effort",
    "stream_options",
    "store",
];

/// The request for a prompt.
pub fn request(target: &Target<'_>, prompt: &Prompt) -> Request {
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(target.model));
    body.insert("input".to_owned(), Value::Array(input(target, prompt)));
    if !prompt.system.is_empty() {
        body.insert("instructions".to_owned(), json!(prompt.system));
    }
    body.insert("stream".to_owned(), json!(true));
    body.insert("store".to_owned(), json!(false));
    if !prompt.conversation.is_empty() {
        let key: String = prompt.conversation.chars().take(CACHE_KEY_CHARS_MAX).collect();
        body.insert("prompt_cache_key".to_owned(), json!(key));
    }
    if let Some(max) = prompt.max_output_tokens {
        /// Fewer are refused.
        const TOKENS_MIN: u64 = 16;
        let max = target.max_tokens.map_or(max, |most| max.min(most));
        body.insert("max_output_tokens".to_owned(), json!(max.max(TOKENS_MIN)));
    }
    if !prompt.tools.is_empty() {
        let tool = |tool: &crate::agent::talk::ToolSpec| {
            json!({
                "type": "function", "name": tool.name, "description": tool.description,
                "parameters": tool.parameters, "strict": false,
            })
        };
        body.insert("tools".to_owned(), prompt.tools.iter().map(tool).collect());
    }
    if target.reasoning {
        if let Some(effort) = format::effort(target.model, prompt.thinking) {
            body.insert("reasoning".to_owned(), json!({ "effort": effort, "summary": "auto" }));
        }
        body.insert("include".to_owned(), json!(["reasoning.encrypted_content"]));
    }
    for (name, value) in target.params {
        match name.as_str() {
            word if FOREIGN_WORDS.contains(&word) => {}
            "response_format" => {
                body.insert("text".to_owned(), json!({ "format": text_format(value) }));
            }
            "tool_choice" => {
                let choice = match value["function"]["name"].as_str() {
                    Some(name) => json!({ "type": "function", "name": name }),
                    None => value.clone(),
                };
                body.insert("tool_choice".to_owned(), choice);
            }
            _ => {
                body.insert(name.clone(), value.clone());
            }
        }
    }
    Request { path: "/responses".to_owned(), headers: Vec::new(), body }
}

/// `response_format`, whose schema lies one level deeper in chat completions.
fn text_format(format: &Value) -> Value {
    match format["json_schema"].as_object() {
        Some(schema) => {
            let mut flat = schema.clone();
            flat.insert("type".to_owned(), json!("json_schema"));
            Value::Object(flat)
        }
        None => format.clone(),
    }
}

fn input(target: &Target<'_>, prompt: &Prompt) -> Vec<Value> {
    let mut items = Vec::with_capacity(prompt.messages.len());
    for message in &prompt.messages {
        match message {
            Message::User(parts) => {
                let content = parts_of(target, parts);
                if !content.is_empty() {
                    items.push(json!({ "type": "message", "role": "user", "content": content }));
                }
            }
            Message::Assistant(said) => assistant(target, said, &mut items),
            Message::Tool(result) => items.push(tool_output(target, result)),
        }
    }
    items
}

fn parts_of(target: &Target<'_>, parts: &[Part]) -> Vec<Value> {
    let part = |part: &Part| match part {
        Part::Text(text) => Some(json!({ "type": "input_text", "text": text })),
        Part::Image { mime, base64 } => target.sees_images.then(|| {
            let url = format!("data:{mime};base64,{base64}");
            json!({ "type": "input_image", "detail": "auto", "image_url": url })
        }),
    };
    parts.iter().filter_map(part).collect()
}

fn assistant(target: &Target<'_>, said: &[Said], items: &mut Vec<Value>) {
    // A thought is taken back only before what it led to.
    let mut thought: Option<Value> = None;
    for said in said {
        let item = match said {
            Said::Text(text) if text.is_empty() => continue,
            Said::Text(text) => {
                let content = json!([{ "type": "output_text", "text": text, "annotations": [] }]);
                json!({ "type": "message", "role": "assistant", "status": "completed", "content": content })
            }
            Said::Thinking { signature, .. } => {
                thought = target.signed(signature).and_then(|signed| serde_json::from_str(signed).ok());
                continue;
            }
            Said::Call(call) => {
                let arguments = if call.arguments.is_object() { call.arguments.to_string() } else { "{}".to_owned() };
                json!({
                    "type": "function_call", "call_id": format::plain_id(&call.id), "name": call.name,
                    "arguments": arguments,
                })
            }
        };
        items.extend(thought.take());
        items.push(item);
    }
}

fn tool_output(target: &Target<'_>, result: &ToolResult) -> Value {
    let has_images = target.sees_images && result.content.iter().any(|part| matches!(part, Part::Image { .. }));
    let text = joined_text(&result.content);
    let output = match has_images {
        true => Value::Array(parts_of(target, &result.content)),
        false if text.is_empty() => json!("(no output)"),
        false => json!(text),
    };
    json!({ "type": "function_call_output", "call_id": format::plain_id(&result.call_id), "output": output })
}

/// Reads an answer.
#[derive(Debug)]
pub struct Reader {
    gather: Gather,
    stop: Option<StopReason>,
    /// What this model signs its thoughts with, so that they go back to it alone.
    mark: String,
    /// Items whose words came in pieces: they are not taken again when they come whole.
    told: BTreeSet<String>,
}

impl Reader {
    /// For one answer.
    pub fn new(target: &Target<'_>) -> Reader {
        Reader { gather: Gather::default(), stop: None, mark: target.sign(""), told: BTreeSet::new() }
    }

    /// Takes an event.
    ///
    /// # Errors
    /// What the provider says went wrong; an event that is no JSON.
    pub fn event(&mut self, _: &str, data: &str, tell: &mut dyn FnMut(Piece<'_>)) -> Result<Flow, Failure> {
        if data.trim() == "[DONE]" {
            return Ok(Flow::Done);
        }
        let event: Value =
            serde_json::from_str(data).map_err(|_| trouble::failure(FailureKind::Format, "the answer is not JSON"))?;
        let wire = event["output_index"].to_string();
        let delta = event["delta"].as_str().unwrap_or_default();
        match event["type"].as_str().unwrap_or_default() {
            "response.created" => self.gather.response_id = event["response"]["id"].as_str().map(str::to_owned),
            "response.output_item.added" if event["item"]["type"] == "function_call" => {
                let text = |name: &str| event["item"][name].as_str().unwrap_or_default();
                self.gather.call(&wire, text("call_id"), text("name"))?;
            }
            "response.output_text.delta" | "response.refusal.delta" => {
                self.note(wire)?;
                self.gather.text(delta, tell)?;
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.note(wire)?;
                self.gather.thinking(delta, tell)?;
            }
            // Between two parts of a summary.
            "response.reasoning_summary_part.added" if self.told.contains(&wire) => {
                self.gather.thinking("\n\n", tell)?
            }
            "response.function_call_arguments.delta" if self.gather.has_call(&wire) => {
                self.gather.arguments(&wire, delta)?;
            }
            "response.output_item.done" => self.item(&wire, &event["item"], tell)?,
            "response.completed" | "response.incomplete" => {
                self.finish(&event["response"], tell)?;
                return Ok(Flow::Done);
            }
            "response.failed" => return Err(trouble::of_error(&event["response"]["error"])),
            "error" => {
                let error = if event["error"].is_object() { &event["error"] } else { &event };
                return Err(trouble::of_error(error));
            }
            _ => {}
        }
        Ok(Flow::More)
    }

    /// Takes an answer that came whole.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn whole(&mut self, body: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        if body["error"].is_object() {
            return Err(trouble::of_error(&body["error"]));
        }
        if !body["output"].is_array() {
            return Err(trouble::failure(FailureKind::Format, "the answer has no output"));
        }
        self.finish(body, tell)
    }

    /// The answer, when nothing more comes.
    ///
    /// # Errors
    /// `Unavailable` when the answer was cut off.
    pub fn end(self) -> Result<Answer, Failure> {
        match self.stop {
            Some(stop) => Ok(self.gather.end(stop)),
            None => Err(trouble::cut_off(self.gather.is_empty())),
        }
    }

    fn note(&mut self, wire: String) -> Result<(), Failure> {
        /// Most items of one answer.
        const ITEMS_MAX: usize = 4096;
        if self.told.len() >= ITEMS_MAX {
            return Err(trouble::failure(FailureKind::Format, "the answer has more items than any model's"));
        }
        self.told.insert(wire);
        Ok(())
    }

    /// Takes an item when it is whole: what of it did not come in pieces.
    fn item(&mut self, wire: &str, item: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        let is_told = self.told.contains(wire);
        match item["type"].as_str().unwrap_or_default() {
            "message" if !is_told => {
                for part in item["content"].as_array().into_iter().flatten() {
                    let text = part["text"].as_str().or_else(|| part["refusal"].as_str());
                    self.gather.text(text.unwrap_or_default(), tell)?;
                }
            }
            "function_call" => {
                let text = |name: &str| item[name].as_str().unwrap_or_default();
                if !self.gather.has_call(wire) {
                    self.gather.call(wire, text("call_id"), text("name"))?;
                }
                self.gather.grow(text("arguments").len())?;
                self.gather.set_arguments(wire, text("arguments"));
            }
            "reasoning" => {
                if !is_told {
                    let texts =
                        item["summary"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
                    self.gather.thinking(&texts.collect::<Vec<_>>().join("\n\n"), tell)?;
                }
                if item["encrypted_content"].is_string() {
                    let kept = json!({
                        "type": "reasoning", "id": item["id"], "summary": item["summary"],
                        "encrypted_content": item["encrypted_content"],
                    });
                    self.gather.signature(format!("{}{kept}", self.mark))?;
                }
            }
            _ => {}
        }
        self.note(wire.to_owned())
    }

    fn finish(&mut self, response: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        if response["status"] == "failed" {
            return Err(trouble::of_error(&response["error"]));
        }
        if let Some(id) = response["id"].as_str() {
            self.gather.response_id = Some(id.to_owned());
        }
        if self.told.is_empty() {
            for (index, item) in response["output"].as_array().into_iter().flatten().enumerate() {
                self.item(&index.to_string(), item, tell)?;
            }
        }
        self.gather.usage = tokens(&response["usage"]);
        self.stop = Some(match response["incomplete_details"]["reason"].as_str() {
            Some("content_filter") if self.gather.is_empty() => {
                return Err(trouble::failure(FailureKind::Refusal, "the provider's content filter stopped the answer"));
            }
            Some("max_output_tokens") => StopReason::Length,
            _ if self.gather.has_calls() => StopReason::ToolUse,
            _ => StopReason::Stop,
        });
        Ok(())
    }
}

fn tokens(usage: &Value) -> Usage {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let cache_read = count(&usage["input_tokens_details"]["cached_tokens"]);
    Usage {
        input: count(&usage["input_tokens"]).saturating_sub(cache_read),
        output: count(&usage["output_tokens"]),
        cache_read,
        cache_write: 0,
    }
}

#[cfg(test)]
mod tests;
