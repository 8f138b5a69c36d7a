//! The wire formats of the double, written from the providers' documentation and independent of the code under test.

use serde_json::{Value, json};

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Chat,
    Responses,
    Anthropic,
    Google,
}

/// What a turn says.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) thinking: String,
    pub(super) text: String,
    pub(super) calls: Vec<(String, Value)>,
    pub(super) usage: (u64, u64, u64),
    pub(super) is_cut_by_limit: bool,
}

type Event = (String, String);

impl Format {
    /// Every one.
    pub(crate) const ALL: [Format; 4] = [Format::Chat, Format::Responses, Format::Anthropic, Format::Google];

    /// The format of a path.
    pub(super) fn of_path(path: &str) -> Option<Format> {
        let path = path.split('?').next()?;
        match path {
            "/v1/chat/completions" => Some(Format::Chat),
            "/v1/responses" => Some(Format::Responses),
            "/v1/messages" => Some(Format::Anthropic),
            _ if path.starts_with("/v1beta/models/") && path.ends_with("enerateContent") => Some(Format::Google),
            _ => None,
        }
    }

    /// Its word in the configuration.
    pub(crate) fn api(self) -> &'static str {
        match self {
            Format::Chat => "openai-completions",
            Format::Responses => "openai-responses",
            Format::Anthropic => "anthropic-messages",
            Format::Google => "google-generative-ai",
        }
    }

    pub(super) fn events(self, said: &Said) -> Vec<Event> {
        match self {
            Format::Chat => chat_events(said),
            Format::Responses => responses_events(said),
            Format::Anthropic => anthropic_events(said),
            Format::Google => google_events(said),
        }
    }

    pub(super) fn whole(self, said: &Said) -> Value {
        match self {
            Format::Chat => chat_whole(said),
            Format::Responses => responses_whole(said),
            Format::Anthropic => anthropic_whole(said),
            Format::Google => google_whole(said),
        }
    }
}

/// The id of a call.
fn call_id(name: &str, place: usize) -> String {
    format!("call_{name}_{place}")
}

/// Words with the blanks after them, as models send them.
fn words(text: &str) -> Vec<&str> {
    text.split_inclusive(' ').collect()
}

/// Arguments in two pieces, cut where it hurts.
fn halves(arguments: &Value) -> (String, String) {
    let text = arguments.to_string();
    let middle = (text.len() / 2..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    (text[..middle].to_owned(), text[middle..].to_owned())
}

fn unnamed(data: Value) -> Event {
    (String::new(), data.to_string())
}

fn chat_events(said: &Said) -> Vec<Event> {
    let chunk = |delta: Value, finish: Value| {
        unnamed(json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "echo",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
        }))
    };
    let more = |delta: Value| chunk(delta, Value::Null);
    let mut events = vec![more(json!({ "role": "assistant", "content": "" }))];
    events.extend(words(&said.thinking).into_iter().map(|word| more(json!({ "reasoning_content": word }))));
    events.extend(words(&said.text).into_iter().map(|word| more(json!({ "content": word }))));
    for (place, (name, arguments)) in said.calls.iter().enumerate() {
        let (first, second) = halves(arguments);
        let function = json!({ "name": name, "arguments": "" });
        let call = json!({ "index": place, "id": call_id(name, place), "type": "function", "function": function });
        events.push(more(json!({ "tool_calls": [call] })));
        for piece in [first, second] {
            let call = json!({ "index": place, "function": { "arguments": piece } });
            events.push(more(json!({ "tool_calls": [call] })));
        }
    }
    events.push(chunk(json!({}), chat_stop(said)));
    events.push(unnamed(json!({ "id": "chatcmpl-1", "choices": [], "usage": chat_usage(said) })));
    events.push((String::new(), "[DONE]".to_owned()));
    events
}

fn chat_stop(said: &Said) -> Value {
    json!(match (said.is_cut_by_limit, said.calls.is_empty()) {
        (true, _) => "length",
        (_, false) => "tool_calls",
        _ => "stop",
    })
}

fn chat_usage(said: &Said) -> Value {
    let (input, output, cached) = said.usage;
    json!({
        "prompt_tokens": input + cached, "completion_tokens": output, "total_tokens": input + cached + output,
        "prompt_tokens_details": { "cached_tokens": cached },
    })
}

fn chat_whole(said: &Said) -> Value {
    let call = |(place, (name, arguments)): (usize, &(String, Value))| {
        let function = json!({ "name": name, "arguments": arguments.to_string() });
        json!({ "id": call_id(name, place), "type": "function", "function": function })
    };
    let mut message = json!({ "role": "assistant", "content": said.text });
    if !said.thinking.is_empty() {
        message["reasoning_content"] = json!(said.thinking);
    }
    if !said.calls.is_empty() {
        message["tool_calls"] = said.calls.iter().enumerate().map(call).collect();
    }
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "echo", "usage": chat_usage(said),
        "choices": [{ "index": 0, "message": message, "finish_reason": chat_stop(said) }],
    })
}

/// The finished items of a response.
fn responses_items(said: &Said) -> Vec<Value> {
    let mut items = Vec::new();
    if !said.thinking.is_empty() {
        items.push(json!({
            "type": "reasoning", "id": "rs_1", "encrypted_content": "c2VjcmV0",
            "summary": [{ "type": "summary_text", "text": said.thinking }],
        }));
    }
    if !said.text.is_empty() {
        let content = json!([{ "type": "output_text", "text": said.text, "annotations": [] }]);
        items.push(
            json!({ "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content }),
        );
    }
    for (place, (name, arguments)) in said.calls.iter().enumerate() {
        items.push(json!({
            "type": "function_call", "id": format!("fc_{place}"), "call_id": call_id(name, place), "name": name,
            "arguments": arguments.to_string(), "status": "completed",
        }));
    }
    items
}

fn responses_whole(said: &Said) -> Value {
    let (input, output, cached) = said.usage;
    let status = if said.is_cut_by_limit { "incomplete" } else { "completed" };
    let details = if said.is_cut_by_limit { json!({ "reason": "max_output_tokens" }) } else { Value::Null };
    json!({
        "id": "resp_1", "object": "response", "status": status, "incomplete_details": details,
        "output": responses_items(said),
        "usage": {
            "input_tokens": input + cached, "input_tokens_details": { "cached_tokens": cached },
            "output_tokens": output, "total_tokens": input + cached + output,
        },
    })
}

fn responses_events(said: &Said) -> Vec<Event> {
    let named = |name: &str, mut data: Value| {
        data["type"] = json!(name);
        (name.to_owned(), data.to_string())
    };
    let mut events =
        vec![named("response.created", json!({ "response": { "id": "resp_1", "status": "in_progress" } }))];
    for (index, item) in responses_items(said).iter().enumerate() {
        let mut begun = item.clone();
        match item["type"].as_str().unwrap_or_default() {
            "message" => begun["content"] = json!([]),
            "function_call" => begun["arguments"] = json!(""),
            _ => begun["summary"] = json!([]),
        }
        events.push(named("response.output_item.added", json!({ "output_index": index, "item": begun })));
        let delta = |name: &str, piece: &str| {
            named(name, json!({ "output_index": index, "item_id": item["id"], "delta": piece }))
        };
        match item["type"].as_str().unwrap_or_default() {
            "message" => {
                events.extend(words(&said.text).into_iter().map(|word| delta("response.output_text.delta", word)));
                events.push(named("response.output_text.done", json!({ "output_index": index, "text": said.text })));
            }
            "function_call" => {
                let arguments: Value =
                    serde_json::from_str(item["arguments"].as_str().unwrap_or_default()).unwrap_or_default();
                let (first, second) = halves(&arguments);
                events.push(delta("response.function_call_arguments.delta", &first));
                events.push(delta("response.function_call_arguments.delta", &second));
                let done = json!({ "output_index": index, "item_id": item["id"], "arguments": item["arguments"] });
                events.push(named("response.function_call_arguments.done", done));
            }
            _ => {
                let pieces = words(&said.thinking);
                events.extend(pieces.into_iter().map(|word| delta("response.reasoning_summary_text.delta", word)));
            }
        }
        events.push(named("response.output_item.done", json!({ "output_index": index, "item": item })));
    }
    let name = if said.is_cut_by_limit { "response.incomplete" } else { "response.completed" };
    events.push(named(name, json!({ "response": responses_whole(said) })));
    events
}

fn anthropic_blocks(said: &Said) -> Vec<Value> {
    let mut blocks = Vec::new();
    if !said.thinking.is_empty() {
        blocks.push(json!({ "type": "thinking", "thinking": said.thinking, "signature": "c2lnbmVk" }));
    }
    if !said.text.is_empty() {
        blocks.push(json!({ "type": "text", "text": said.text }));
    }
    for (place, (name, arguments)) in said.calls.iter().enumerate() {
        blocks.push(json!({ "type": "tool_use", "id": call_id(name, place), "name": name, "input": arguments }));
    }
    blocks
}

fn anthropic_stop(said: &Said) -> &'static str {
    match (said.is_cut_by_limit, said.calls.is_empty()) {
        (true, _) => "max_tokens",
        (_, false) => "tool_use",
        _ => "end_turn",
    }
}

fn anthropic_whole(said: &Said) -> Value {
    let (input, output, cached) = said.usage;
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "echo", "content": anthropic_blocks(said),
        "stop_reason": anthropic_stop(said),
        "usage": {
            "input_tokens": input, "output_tokens": output,
            "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0,
        },
    })
}

fn anthropic_events(said: &Said) -> Vec<Event> {
    let named = |name: &str, mut data: Value| {
        data["type"] = json!(name);
        (name.to_owned(), data.to_string())
    };
    let mut begun = anthropic_whole(said);
    (begun["content"], begun["stop_reason"], begun["usage"]["output_tokens"]) = (json!([]), Value::Null, json!(1));
    let mut events = vec![named("message_start", json!({ "message": begun })), named("ping", json!({}))];
    for (index, block) in anthropic_blocks(said).iter().enumerate() {
        let delta = |delta: Value| named("content_block_delta", json!({ "index": index, "delta": delta }));
        let (start, deltas): (Value, Vec<Event>) = match block["type"].as_str().unwrap_or_default() {
            "thinking" => {
                let word = |word| delta(json!({ "type": "thinking_delta", "thinking": word }));
                let mut deltas: Vec<Event> = words(&said.thinking).into_iter().map(word).collect();
                deltas.push(delta(json!({ "type": "signature_delta", "signature": block["signature"] })));
                (json!({ "type": "thinking", "thinking": "", "signature": "" }), deltas)
            }
            "text" => {
                let word = |word| delta(json!({ "type": "text_delta", "text": word }));
                (json!({ "type": "text", "text": "" }), words(&said.text).into_iter().map(word).collect())
            }
            _ => {
                let (first, second) = halves(&block["input"]);
                let piece = |piece| delta(json!({ "type": "input_json_delta", "partial_json": piece }));
                let mut start = block.clone();
                start["input"] = json!({});
                (start, vec![piece(String::new()), piece(first), piece(second)])
            }
        };
        events.push(named("content_block_start", json!({ "index": index, "content_block": start })));
        events.extend(deltas);
        events.push(named("content_block_stop", json!({ "index": index })));
    }
    let delta = json!({ "stop_reason": anthropic_stop(said), "stop_sequence": null });
    events.push(named("message_delta", json!({ "delta": delta, "usage": { "output_tokens": said.usage.1 } })));
    events.push(named("message_stop", json!({})));
    events
}

fn google_chunk(parts: Value, finish: Value, said: &Said) -> Value {
    let (input, output, cached) = said.usage;
    let mut candidate = json!({ "index": 0, "content": { "role": "model", "parts": parts } });
    if !finish.is_null() {
        candidate["finishReason"] = finish;
    }
    json!({
        "responseId": "g_1", "modelVersion": "echo", "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": input + cached, "cachedContentTokenCount": cached, "candidatesTokenCount": output,
            "totalTokenCount": input + cached + output,
        },
    })
}

fn google_calls(said: &Said) -> Vec<Value> {
    let call = |(place, (name, arguments)): (usize, &(String, Value))| {
        let mut part = json!({ "functionCall": { "name": name, "args": arguments } });
        if place == 0 {
            part["thoughtSignature"] = json!("c2lnbmVk");
        }
        part
    };
    said.calls.iter().enumerate().map(call).collect()
}

fn google_stop(said: &Said) -> Value {
    json!(if said.is_cut_by_limit { "MAX_TOKENS" } else { "STOP" })
}

fn google_events(said: &Said) -> Vec<Event> {
    let more = |part: Value| unnamed(google_chunk(json!([part]), Value::Null, said));
    let mut events: Vec<Event> =
        words(&said.thinking).into_iter().map(|word| more(json!({ "text": word, "thought": true }))).collect();
    events.extend(words(&said.text).into_iter().map(|word| more(json!({ "text": word }))));
    events.extend(google_calls(said).into_iter().map(more));
    events.push(unnamed(google_chunk(json!([{ "text": "" }]), google_stop(said), said)));
    events
}

fn google_whole(said: &Said) -> Value {
    let mut parts = Vec::new();
    if !said.thinking.is_empty() {
        parts.push(json!({ "text": said.thinking, "thought": true }));
    }
    if !said.text.is_empty() {
        parts.push(json!({ "text": said.text }));
    }
    parts.extend(google_calls(said));
    google_chunk(json!(parts), google_stop(said), said)
}
