//! Google's Gemini (`POST /models/…:streamGenerateContent`).
//!
//! A signature of Gemini's belongs to the words or the call that follow the thought, not to the thought. It is kept with
//! the thought before them, which is made up where there was none, and put back onto what follows it.

use serde_json::{Map, Value};

use super::format::{Flow, Gather, Request, Target, joined_text};
use super::trouble;
use crate::agent::talk::{
    Answer, Failure, FailureKind, Message, Part, Piece, Prompt, Said, StopReason, Thinking, ToolResult, Usage,
};
use crate::protocol::json::json;

/// What Google takes in place of a signature for calls that another model made.
const FOREIGN_CALL: &str = "skip_thought_signature_validator";
/// What OpenAI calls it, and what Google does.
const CONFIG_WORDS: [(&str, &str); 7] = [
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("top_k", "topK"),
    ("stop", "stopSequences"),
    ("seed", "seed"),
    ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
];

/// The request for a prompt.
pub fn request(target: &Target<'_>, prompt: &Prompt) -> Request {
    let mut body = Map::new();
    body.insert("contents".to_owned(), Value::Array(contents(target, prompt)));
    if !prompt.system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({ "parts": [{ "text": prompt.system }] }));
    }
    if !prompt.tools.is_empty() {
        let tool = |tool: &crate::agent::talk::ToolSpec| json!({ "name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters });
        let tools: Vec<Value> = prompt.tools.iter().map(tool).collect();
        body.insert("tools".to_owned(), json!([{ "functionDeclarations": tools }]));
    }
    let mut config = Map::new();
    if let Some(max) = prompt.max_output_tokens {
        let max = target.max_tokens.map_or(max, |most| max.min(most));
        config.insert("maxOutputTokens".to_owned(), json!(max));
    }
    if target.reasoning {
        config.extend(thinking(target.model, prompt.thinking).map(|value| ("thinkingConfig".to_owned(), value)));
    }
    for (word, name) in CONFIG_WORDS {
        if let Some(value) = target.params.get(word) {
            let value = if word == "stop" && !value.is_array() { json!([value]) } else { value.clone() };
            config.insert(name.to_owned(), value);
        }
    }
    if target.params.get("response_format").is_some_and(|format| format["type"] != "text") {
        config.insert("responseMimeType".to_owned(), json!("application/json"));
        let schema = &target.params["response_format"]["json_schema"]["schema"];
        if schema.is_object() {
            config.insert("responseJsonSchema".to_owned(), schema.clone());
        }
    }
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), Value::Object(config));
    }
    if let Some(choice) = target.params.get("tool_choice").and_then(tool_config) {
        body.insert("toolConfig".to_owned(), choice);
    }
    let path = format!("/models/{}:streamGenerateContent?alt=sse", target.model);
    Request { path, headers: Vec::new(), body }
}

fn tool_config(choice: &Value) -> Option<Value> {
    let config = match (choice.as_str(), choice["function"]["name"].as_str()) {
        (Some("auto"), _) => json!({ "mode": "AUTO" }),
        (Some("none"), _) => json!({ "mode": "NONE" }),
        (Some("required"), _) => json!({ "mode": "ANY" }),
        (_, Some(name)) => json!({ "mode": "ANY", "allowedFunctionNames": [name] }),
        _ => return None,
    };
    Some(json!({ "functionCallingConfig": config }))
}

/// How much to think: the third generation takes levels, the second numbers of tokens.
fn thinking(model: &str, thinking: Thinking) -> Option<Value> {
    let is_off = thinking == Thinking::Off;
    if model.contains("gemini-3") {
        let level = match thinking {
            // It cannot be told not to.
            Thinking::Off => return None,
            Thinking::Minimal | Thinking::Low => "low",
            Thinking::Medium | Thinking::High | Thinking::Xhigh => "high",
        };
        return Some(json!({ "includeThoughts": true, "thinkingLevel": level }));
    }
    let budget = match thinking {
        // The large one cannot be told not to; this is the least it takes.
        Thinking::Off if model.contains("pro") => 128,
        Thinking::Off => 0,
        Thinking::Minimal => 512,
        Thinking::Low => 2048,
        Thinking::Medium => 8192,
        Thinking::High | Thinking::Xhigh => 24_576,
    };
    Some(json!({ "includeThoughts": !is_off, "thinkingBudget": budget }))
}

/// What was said, of which no two of the same side follow each other.
fn contents(target: &Target<'_>, prompt: &Prompt) -> Vec<Value> {
    let mut sides: Vec<(&'static str, Vec<Value>)> = Vec::new();
    let mut add = |role: &'static str, parts: Vec<Value>| match sides.last_mut() {
        _ if parts.is_empty() => {}
        Some((last, content)) if *last == role => content.extend(parts),
        _ => sides.push((role, parts)),
    };
    for message in &prompt.messages {
        match message {
            Message::User(parts) => add("user", parts.iter().filter_map(|part| part_of(target, part)).collect()),
            Message::Assistant(said) => add("model", model_parts(target, said)),
            Message::Tool(result) => add("user", tool_parts(target, result)),
        }
    }
    for (role, parts) in &mut sides {
        if *role == "user" {
            // Answers of tools come first, then what they show and what a person said meanwhile.
            parts.sort_by_key(|part| !part["functionResponse"].is_object());
        }
    }
    sides.into_iter().map(|(role, parts)| json!({ "role": role, "parts": parts })).collect()
}

fn part_of(target: &Target<'_>, part: &Part) -> Option<Value> {
    match part {
        Part::Text(text) => (!text.is_empty()).then(|| json!({ "text": text })),
        Part::Image { mime, base64 } => {
            target.sees_images.then(|| json!({ "inlineData": { "mimeType": mime, "data": &**base64 } }))
        }
    }
}

fn model_parts(target: &Target<'_>, said: &[Said]) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut signature: Option<&str> = None;
    let mut may_need_one = target.model.contains("gemini-3");
    for said in said {
        let mut part = match said {
            Said::Text(text) if text.is_empty() => continue,
            Said::Text(text) => json!({ "text": text }),
            Said::Thinking { signature: signed, .. } => {
                signature = target.signed(signed);
                continue;
            }
            Said::Call(call) => {
                let arguments = if call.arguments.is_object() { call.arguments.clone() } else { json!({}) };
                // The first call of a step must have one.
                if std::mem::take(&mut may_need_one) {
                    signature = signature.or(Some(FOREIGN_CALL));
                }
                json!({ "functionCall": { "name": call.name, "args": arguments } })
            }
        };
        if let Some(signature) = signature.take() {
            part["thoughtSignature"] = json!(signature);
        }
        parts.push(part);
    }
    parts
}

fn tool_parts(target: &Target<'_>, result: &ToolResult) -> Vec<Value> {
    let key = if result.is_error { "error" } else { "output" };
    let response = json!({ "name": result.name, "response": { key: joined_text(&result.content) } });
    let images = result.content.iter().filter(|part| matches!(part, Part::Image { .. }));
    let mut parts = vec![json!({ "functionResponse": response })];
    parts.extend(images.filter_map(|part| part_of(target, part)));
    parts
}

/// Reads an answer.
#[derive(Debug)]
pub struct Reader {
    gather: Gather,
    stop: Option<StopReason>,
    /// What this model signs its thoughts with, so that they go back to it alone.
    mark: String,
    n_calls: usize,
}

impl Reader {
    /// For one answer.
    pub fn new(target: &Target<'_>) -> Reader {
        Reader { gather: Gather::default(), stop: None, mark: target.sign(""), n_calls: 0 }
    }

    /// Takes a chunk.
    ///
    /// # Errors
    /// What the provider says went wrong; a chunk that is no JSON.
    pub fn event(&mut self, _: &str, data: &str, tell: &mut dyn FnMut(Piece<'_>)) -> Result<Flow, Failure> {
        let chunk: Value =
            serde_json::from_str(data).map_err(|_| trouble::failure(FailureKind::Format, "the answer is not JSON"))?;
        self.chunk(&chunk, tell)?;
        // Nothing says that a chunk is the last one.
        Ok(Flow::More)
    }

    /// Takes an answer that came whole: one chunk, or a list of them.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn whole(&mut self, body: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        match body.as_array() {
            Some(chunks) => chunks.iter().try_for_each(|chunk| self.chunk(chunk, tell)),
            None => self.chunk(body, tell),
        }
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

    fn chunk(&mut self, chunk: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        if chunk["error"].is_object() {
            return Err(trouble::of_error(&chunk["error"]));
        }
        if let Some(reason) = chunk["promptFeedback"]["blockReason"].as_str() {
            let why = format!("the provider refuses this prompt: {}", trouble::clean(reason));
            return Err(trouble::failure(FailureKind::Refusal, why));
        }
        if let Some(id) = chunk["responseId"].as_str() {
            self.gather.response_id = Some(id.to_owned());
        }
        if chunk["usageMetadata"].is_object() {
            self.gather.usage = tokens(&chunk["usageMetadata"]);
        }
        let candidate = &chunk["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            self.part(part, tell)?;
        }
        self.finish(candidate)
    }

    fn part(&mut self, part: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        let text = part["text"].as_str().unwrap_or_default();
        let signature = part["thoughtSignature"].as_str().filter(|signature| !signature.is_empty());
        if part["thought"] == true {
            return self.gather.thinking(text, tell);
        }
        if let Some(signature) = signature {
            self.gather.signature(format!("{}{signature}", self.mark))?;
        }
        if let Some(name) = part["functionCall"]["name"].as_str() {
            let wire = self.n_calls.to_string();
            self.n_calls += 1;
            self.gather.call(&wire, part["functionCall"]["id"].as_str().unwrap_or_default(), name)?;
            return match &part["functionCall"]["args"] {
                Value::Null => Ok(()),
                arguments => self.gather.arguments(&wire, &arguments.to_string()),
            };
        }
        self.gather.text(text, tell)
    }

    fn finish(&mut self, candidate: &Value) -> Result<(), Failure> {
        let Some(reason) = candidate["finishReason"].as_str() else { return Ok(()) };
        self.stop = Some(match reason {
            "MAX_TOKENS" => StopReason::Length,
            "MALFORMED_FUNCTION_CALL" => {
                return Err(trouble::failure(FailureKind::Format, "the model called a tool in a way nobody can read"));
            }
            "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" if self.gather.is_empty() => {
                let why = format!("the provider's content filter stopped the answer: {reason}");
                return Err(trouble::failure(FailureKind::Refusal, why));
            }
            _ => StopReason::Stop,
        });
        Ok(())
    }
}

fn tokens(usage: &Value) -> Usage {
    let count = |name: &str| usage[name].as_u64().unwrap_or(0);
    let cache_read = count("cachedContentTokenCount");
    Usage {
        input: count("promptTokenCount").saturating_sub(cache_read),
        output: count("candidatesTokenCount") + count("thoughtsTokenCount"),
        cache_read,
        cache_write: 0,
    }
}

#[cfg(test)]
mod tests;
