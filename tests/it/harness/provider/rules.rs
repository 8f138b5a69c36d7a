//! What a provider refuses. Each rule is one that a real provider holds its clients to.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Request;
use super::wire::Format;

/// What is wrong with a request.
pub(super) fn problem(request: &Request) -> Option<String> {
    let body = &request.body;
    if !body.is_object() {
        return Some("the body is no object".to_owned());
    }
    if request.messages().is_empty() {
        return Some("nothing was said".to_owned());
    }
    let found = match request.format {
        Format::Chat => chat(body),
        Format::Responses => responses(body),
        Format::Anthropic => anthropic(request),
        Format::Google => google(request),
    };
    found.map(|what| format!("{}: {what}", request.path))
}

fn each<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

fn is_name(name: &Value) -> bool {
    name.as_str().is_some_and(|name| {
        (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    })
}

fn chat(body: &Value) -> Option<String> {
    if !body["model"].is_string() {
        return Some("no model".to_owned());
    }
    if let Some(tool) = each(body, "tools").find(|tool| !is_name(&tool["function"]["name"])) {
        return Some(format!("a tool without a proper name: {tool}"));
    }
    // Calls whose answers are still owed.
    let mut owed: BTreeSet<&str> = BTreeSet::new();
    for message in each(body, "messages") {
        let role = message["role"].as_str().unwrap_or_default();
        if role != "tool" && !owed.is_empty() {
            return Some(format!("calls without an answer: {owed:?}"));
        }
        match role {
            "system" | "developer" | "user" if message["content"].is_string() || message["content"].is_array() => {}
            "assistant" => {
                for call in each(message, "tool_calls") {
                    let arguments = call["function"]["arguments"].as_str().unwrap_or("no text");
                    if !serde_json::from_str::<Value>(arguments).is_ok_and(|arguments| arguments.is_object()) {
                        return Some(format!("arguments that are no object: {arguments}"));
                    }
                    owed.insert(call["id"].as_str()?);
                }
                if message["content"].as_str() == Some("") {
                    return Some("an assistant's empty content".to_owned());
                }
                if message["content"].is_null() && message["tool_calls"].is_null() {
                    return Some("an assistant who said nothing".to_owned());
                }
            }
            "tool" if !message["content"].is_string() => return Some("a tool's answer that is no text".to_owned()),
            "tool" => {
                let id = message["tool_call_id"].as_str().unwrap_or_default();
                if !owed.remove(id) {
                    return Some(format!("a tool's answer to a call nobody made: {id}"));
                }
            }
            _ => return Some(format!("a message like this: {message}")),
        }
    }
    (!owed.is_empty()).then(|| format!("calls without an answer: {owed:?}"))
}

fn responses(body: &Value) -> Option<String> {
    if !body["model"].is_string() {
        return Some("no model".to_owned());
    }
    if let Some(tool) = each(body, "tools").find(|tool| !is_name(&tool["name"]) || tool["type"] != "function") {
        return Some(format!("a tool without a proper name: {tool}"));
    }
    let mut owed: BTreeSet<&str> = BTreeSet::new();
    let mut is_after_thought = false;
    for item in each(body, "input") {
        let kind = item["type"].as_str().unwrap_or("message");
        if is_after_thought && item["role"] == "user" {
            return Some("a thought without what followed it".to_owned());
        }
        is_after_thought = kind == "reasoning";
        match kind {
            "message" if item["content"].is_string() || item["content"].is_array() => {}
            "reasoning" if item["id"].is_string() && item["summary"].is_array() => {}
            "function_call" => {
                if !item["arguments"].is_string() || !is_name(&item["name"]) {
                    return Some(format!("a call like this: {item}"));
                }
                owed.insert(item["call_id"].as_str()?);
            }
            "function_call_output" => {
                let id = item["call_id"].as_str().unwrap_or_default();
                if !owed.remove(id) {
                    return Some(format!("a tool's answer to a call nobody made: {id}"));
                }
            }
            _ => return Some(format!("an item like this: {item}")),
        }
    }
    (!owed.is_empty()).then(|| format!("calls without an answer: {owed:?}"))
}

fn anthropic(request: &Request) -> Option<String> {
    let body = &request.body;
    if request.header("anthropic-version").is_none() {
        return Some("no anthropic-version".to_owned());
    }
    if !body["model"].is_string() {
        return Some("no model".to_owned());
    }
    let max_tokens = body["max_tokens"].as_u64().unwrap_or(0);
    if max_tokens == 0 {
        return Some("no max_tokens".to_owned());
    }
    let budget = body["thinking"]["budget_tokens"].as_u64();
    if budget.is_some_and(|budget| budget < 1024 || budget >= max_tokens) {
        return Some(format!("a budget of {budget:?} with {max_tokens} tokens"));
    }
    if let Some(tool) = each(body, "tools").find(|tool| !is_name(&tool["name"]) || !tool["input_schema"].is_object()) {
        return Some(format!("a tool like this: {tool}"));
    }
    let mut last = "";
    let mut owed: BTreeSet<&str> = BTreeSet::new();
    for message in each(body, "messages") {
        let role = message["role"].as_str().unwrap_or_default();
        if !["user", "assistant"].contains(&role) || role == last || (last.is_empty() && role != "user") {
            return Some(format!("role {role} after {last:?}"));
        }
        last = role;
        let answered: BTreeSet<&str> =
            each(message, "content").filter_map(|block| block["tool_use_id"].as_str()).collect();
        if role == "user" && answered != owed {
            return Some(format!("answers {answered:?} to the calls {owed:?}"));
        }
        owed.clear();
        for block in each(message, "content") {
            match block["type"].as_str().unwrap_or_default() {
                "text" if block["text"].as_str().is_some_and(|text| !text.trim().is_empty()) => {}
                "image" if role == "user" && block["source"]["data"].is_string() => {}
                "tool_result" if role == "user" => {}
                "tool_use" if role == "assistant" && block["input"].is_object() && is_name(&block["name"]) => {
                    owed.insert(block["id"].as_str()?);
                }
                "thinking" if role == "assistant" && block["signature"] == "c2lnbmVk" => {}
                _ => return Some(format!("a block of {role} like this: {block}")),
            }
        }
        if message["content"].as_array().is_some_and(Vec::is_empty) {
            return Some("a message without content".to_owned());
        }
    }
    let last = each(body, "messages").last()?;
    (last["role"] != "user").then(|| "the last word is the assistant's".to_owned())
}

fn google(request: &Request) -> Option<String> {
    let body = &request.body;
    if let Some(tool) = each(&body["tools"][0], "functionDeclarations").find(|tool| !is_name(&tool["name"])) {
        return Some(format!("a tool like this: {tool}"));
    }
    let mut last = "";
    let mut owed = 0;
    for content in each(body, "contents") {
        let role = content["role"].as_str().unwrap_or_default();
        if !["user", "model"].contains(&role) || role == last || (last.is_empty() && role != "user") {
            return Some(format!("role {role} after {last:?}"));
        }
        last = role;
        let answers = each(content, "parts").filter(|part| part["functionResponse"].is_object()).count();
        if role == "user" && answers != owed {
            return Some(format!("{answers} answers to {owed} calls"));
        }
        owed = each(content, "parts").filter(|part| part["functionCall"].is_object()).count();
        for part in each(content, "parts") {
            let is_known = part["text"].is_string()
                || part["inlineData"]["data"].is_string()
                || part["functionCall"]["args"].is_object()
                || part["functionResponse"]["response"].is_object();
            if !is_known {
                return Some(format!("a part like this: {part}"));
            }
        }
        if each(content, "parts").next().is_none() {
            return Some("content without parts".to_owned());
        }
    }
    None
}
