//! Ollama's own API (`POST /api/chat`), a JSON document on each line. Its OpenAI-compatible one is the usual way; this is
//! for who asks for it (`api: "ollama"`), because only here the context's size can be set.

use serde_json::{Map, Value};

use super::format::{Flow, Gather, Request, Target, joined_text};
use super::trouble;
use crate::agent::talk::{
    Answer, Failure, FailureKind, Message, Part, Piece, Prompt, Said, StopReason, Thinking, Usage,
};
use crate::protocol::json::json;

/// Where OpenAI's words stand here.
const OPTION_WORDS: [(&str, &str); 7] = [
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("stop", "stop"),
    ("seed", "seed"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
];

/// The request for a prompt.
pub fn request(target: &Target<'_>, prompt: &Prompt) -> Request {
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(target.model));
    body.insert("messages".to_owned(), Value::Array(messages(target, prompt)));
    body.insert("stream".to_owned(), json!(true));
    if !prompt.tools.is_empty() {
        let tool = |tool: &crate::agent::talk::ToolSpec| {
            let function = json!({ "name": tool.name, "description": tool.description, "parameters": tool.parameters });
            json!({ "type": "function", "function": function })
        };
        body.insert("tools".to_owned(), prompt.tools.iter().map(tool).collect());
    }
    if target.reasoning {
        body.insert("think".to_owned(), json!(prompt.thinking != Thinking::Off));
    }
    let mut options = Map::new();
    // Its own default is a few thousand tokens, and what is longer is cut without a word.
    if let Some(window) = target.context_window {
        options.insert("num_ctx".to_owned(), json!(window));
    }
    if let Some(max) = prompt.max_output_tokens {
        options.insert("num_predict".to_owned(), json!(max));
    }
    for (word, name) in OPTION_WORDS {
        if let Some(value) = target.params.get(word) {
            options.insert(name.to_owned(), value.clone());
        }
    }
    if let Some(Value::Object(own)) = target.params.get("options") {
        options.extend(own.clone());
    }
    if !options.is_empty() {
        body.insert("options".to_owned(), Value::Object(options));
    }
    for word in ["keep_alive", "format"] {
        if let Some(value) = target.params.get(word) {
            body.insert(word.to_owned(), value.clone());
        }
    }
    Request { path: "/api/chat".to_owned(), headers: Vec::new(), body }
}

fn messages(target: &Target<'_>, prompt: &Prompt) -> Vec<Value> {
    let mut out = Vec::with_capacity(prompt.messages.len() + 1);
    if !prompt.system.is_empty() {
        out.push(json!({ "role": "system", "content": prompt.system }));
    }
    for message in &prompt.messages {
        match message {
            Message::User(parts) => out.push(with_images(target, parts, json!({ "role": "user" }))),
            Message::Assistant(said) => out.extend(assistant(said)),
            Message::Tool(result) => {
                out.push(with_images(target, &result.content, json!({ "role": "tool", "tool_name": result.name })));
            }
        }
    }
    out
}

fn with_images(target: &Target<'_>, parts: &[Part], mut message: Value) -> Value {
    message["content"] = json!(joined_text(parts));
    let image = |part: &Part| match part {
        Part::Image { base64, .. } if target.sees_images => Some(json!(&**base64)),
        _ => None,
    };
    let images: Vec<Value> = parts.iter().filter_map(image).collect();
    if !images.is_empty() {
        message["images"] = Value::Array(images);
    }
    message
}

fn assistant(said: &[Said]) -> Option<Value> {
    let mut text = String::new();
    let mut calls = Vec::new();
    for said in said {
        match said {
            Said::Text(more) => text.push_str(more),
            Said::Thinking { .. } => {}
            Said::Call(call) => {
                calls.push(json!({ "function": { "name": call.name, "arguments": call.arguments } }));
            }
        }
    }
    if text.is_empty() && calls.is_empty() {
        return None;
    }
    let mut message = json!({ "role": "assistant", "content": text });
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    Some(message)
}

/// Reads an answer, line by line.
#[derive(Debug, Default)]
pub struct Reader {
    gather: Gather,
    stop: Option<StopReason>,
    n_calls: usize,
}

impl Reader {
    /// Takes a line.
    ///
    /// # Errors
    /// What the server says went wrong; a line that is no JSON.
    pub fn event(&mut self, _: &str, line: &str, tell: &mut dyn FnMut(Piece<'_>)) -> Result<Flow, Failure> {
        let chunk: Value =
            serde_json::from_str(line).map_err(|_| trouble::failure(FailureKind::Format, "the answer is not JSON"))?;
        self.whole(&chunk, tell)?;
        Ok(if self.stop.is_some() { Flow::Done } else { Flow::More })
    }

    /// Takes a chunk, which may be all of it.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn whole(&mut self, chunk: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        if !chunk["error"].is_null() {
            return Err(trouble::of_error(&chunk["error"]));
        }
        let message = &chunk["message"];
        self.gather.thinking(message["thinking"].as_str().unwrap_or_default(), tell)?;
        self.gather.text(message["content"].as_str().unwrap_or_default(), tell)?;
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let wire = self.n_calls.to_string();
            self.n_calls += 1;
            self.gather.call(
                &wire,
                call["id"].as_str().unwrap_or_default(),
                call["function"]["name"].as_str().unwrap_or_default(),
            )?;
            self.gather.arguments(&wire, &call["function"]["arguments"].to_string())?;
        }
        if chunk["done"] == true {
            let count = |name: &str| chunk[name].as_u64().unwrap_or(0);
            self.gather.usage =
                Usage { input: count("prompt_eval_count"), output: count("eval_count"), ..Usage::default() };
            self.stop = Some(if chunk["done_reason"] == "length" { StopReason::Length } else { StopReason::Stop });
        }
        Ok(())
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::providers::table::COMPATIBLE;
    use crate::agent::talk::{ToolCall, ToolResult};

    #[test]
    fn a_request_says_how_large_the_context_is() {
        let params =
            Map::from_iter([("temperature".to_owned(), json!(0)), ("options".to_owned(), json!({ "mirostat": 1 }))]);
        let target = Target {
            provider: "ollama",
            model: "m",
            quirks: COMPATIBLE,
            reasoning: true,
            sees_images: true,
            context_window: Some(9000),
            max_tokens: None,
            params: &params,
        };
        let call = ToolCall { id: "c".into(), name: "read".into(), arguments: json!({ "a": 1 }) };
        let image = Part::Image { mime: "image/png".into(), base64: "aGk=".into() };
        let result = ToolResult { call_id: "c".into(), name: "read".into(), content: vec![image], is_error: false };
        let prompt = Prompt {
            system: "s".into(),
            messages: vec![
                Message::User(vec![Part::Text("hi".into())]),
                Message::Assistant(vec![Said::Text("x".into()), Said::Call(call)]),
                Message::Tool(result),
            ],
            max_output_tokens: Some(7),
            ..Prompt::default()
        };
        assert_eq!(
            Value::Object(request(&target, &prompt).body),
            json!({
                "model": "m",
                "messages": [
                    { "role": "system", "content": "s" },
                    { "role": "user", "content": "hi" },
                    { "role": "assistant", "content": "x", "tool_calls": [{ "function": { "name": "read", "arguments": { "a": 1 } } }] },
                    { "role": "tool", "tool_name": "read", "content": "", "images": ["aGk="] },
                ],
                "stream": true,
                "think": false,
                "options": { "num_ctx": 9000, "num_predict": 7, "temperature": 0, "mirostat": 1 },
            })
        );
    }

    #[test]
    fn reads_lines_to_the_one_that_is_done() {
        let mut reader = Reader::default();
        let lines = [
            r#"{"message":{"thinking":"hm"},"done":false}"#,
            r#"{"message":{"content":"Hi"},"done":false}"#,
            r#"{"message":{"tool_calls":[{"function":{"name":"read","arguments":{"a":1}}}]},"done":false}"#,
        ];
        for line in lines {
            assert_eq!(reader.event("", line, &mut |_| {}).unwrap(), Flow::More);
        }
        let done =
            r#"{"message":{"content":""},"done":true,"done_reason":"stop","prompt_eval_count":5,"eval_count":2}"#;
        assert_eq!(reader.event("", done, &mut |_| {}).unwrap(), Flow::Done);
        let answer = reader.end().unwrap();
        assert_eq!((answer.text().as_str(), answer.stop, answer.usage.total()), ("Hi", StopReason::ToolUse, 7));
        assert_eq!(answer.calls().next().unwrap().arguments, json!({ "a": 1 }));
        let mut cut = Reader::default();
        cut.event("", lines[1], &mut |_| {}).unwrap();
        assert_eq!(cut.end().unwrap_err().kind, FailureKind::Unavailable);
        let missing = Reader::default().event("", r#"{"error":"model 'x' not found"}"#, &mut |_| {});
        assert_eq!(missing.unwrap_err().message, "model 'x' not found");
    }
}
