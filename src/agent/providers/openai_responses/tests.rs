use super::*;
use crate::agent::talk::{Thinking, ToolCall, ToolSpec};

fn target() -> Target<'static> {
    Target::for_tests()
}

fn user(text: &str) -> Message {
    Message::User(vec![Part::Text(text.into())])
}

#[test]
fn a_prompt_is_a_request_that_keeps_nothing_there() {
    let prompt = Prompt {
        system: "be kind".into(),
        messages: vec![Message::User(vec![
            Part::Text("hi".into()),
            Part::Image { mime: "image/png".into(), base64: "aGk=".into() },
        ])],
        tools: vec![ToolSpec {
            name: "read".into(),
            description: "reads".into(),
            parameters: json!({ "type": "object" }),
        }],
        thinking: Thinking::Low,
        max_output_tokens: Some(3),
        conversation: "c".repeat(100),
        ..Prompt::default()
    };
    let schema = json!({ "name": "s", "schema": { "type": "object" } });
    let params = json!({
        "temperature": 1, "stop": "x", "tool_choice": { "type": "function", "function": { "name": "read" } },
        "response_format": { "type": "json_schema", "json_schema": schema },
    });
    let request = request(&Target { params: params.as_object().unwrap(), ..target() }, &prompt);
    assert_eq!(
        Value::Object(request.body),
        json!({
            "model": "m",
            "input": [{ "type": "message", "role": "user", "content": [
                { "type": "input_text", "text": "hi" },
                { "type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,aGk=" },
            ] }],
            "instructions": "be kind",
            "stream": true,
            "store": false,
            "prompt_cache_key": "c".repeat(64),
            "max_output_tokens": 16,
            "tools": [{ "type": "function", "name": "read", "description": "reads", "parameters": { "type": "object" }, "strict": false }],
            "reasoning": { "effort": "low", "summary": "auto" },
            "include": ["reasoning.encrypted_content"],
            "temperature": 1,
            "tool_choice": { "type": "function", "name": "read" },
            "text": { "format": { "type": "json_schema", "name": "s", "schema": { "type": "object" } } },
        })
    );
}

#[test]
fn a_thought_goes_back_only_before_what_it_led_to() {
    let thought = |target: &Target<'_>| Said::Thinking {
        text: "hm".into(),
        signature: Some(target.sign("{\"type\":\"reasoning\",\"id\":\"rs\",\"summary\":[]}")),
    };
    let other = Target { model: "other", ..target() };
    let call = Said::Call(ToolCall { id: "c|fc".into(), name: "read".into(), arguments: json!({ "a": 1 }) });
    let result = ToolResult { call_id: "c|fc".into(), name: "read".into(), content: vec![], is_error: false };
    let prompt = Prompt {
        messages: vec![
            user("a"),
            Message::Assistant(vec![thought(&target()), call, thought(&target())]),
            Message::Tool(result),
            Message::Assistant(vec![thought(&other), Said::Text("b".into())]),
            user("c"),
        ],
        ..Prompt::default()
    };
    let body = Value::Object(request(&target(), &prompt).body);
    let kinds: Vec<&str> = body["input"].as_array().unwrap().iter().filter_map(|item| item["type"].as_str()).collect();
    assert_eq!(kinds, ["message", "reasoning", "function_call", "function_call_output", "message", "message"]);
    assert_eq!(
        body["input"][2],
        json!({ "type": "function_call", "call_id": "c", "name": "read", "arguments": "{\"a\":1}" })
    );
    assert_eq!(body["input"][3], json!({ "type": "function_call_output", "call_id": "c", "output": "(no output)" }));
}

fn read(events: &[Value]) -> (Result<Answer, Failure>, String) {
    let mut reader = Reader::new(&target());
    let mut told = String::new();
    for event in events {
        let mut tell = |piece: Piece<'_>| match piece {
            Piece::Text(text) => told.push_str(text),
            Piece::Thinking(text) => told.push_str(&format!("<{text}>")),
        };
        match reader.event("", &event.to_string(), &mut tell) {
            Ok(Flow::More) => {}
            Ok(Flow::Done) => break,
            Err(failure) => return (Err(failure), told),
        }
    }
    (reader.end(), told)
}

fn reasoning() -> Value {
    json!({ "type": "reasoning", "id": "rs", "encrypted_content": "x", "summary": [{ "type": "summary_text", "text": "hm" }] })
}

fn completed(output: Value) -> Value {
    let usage = json!({ "input_tokens": 9, "input_tokens_details": { "cached_tokens": 4 }, "output_tokens": 3 });
    json!({ "type": "response.completed", "response": { "id": "r", "status": "completed", "output": output, "usage": usage } })
}

#[test]
fn reads_thoughts_words_calls_and_tokens() {
    let call = json!({ "type": "function_call", "call_id": "c", "name": "read", "arguments": "" });
    let mut done = call.clone();
    done["arguments"] = json!("{\"a\":1}");
    let (answer, told) = read(&[
        json!({ "type": "response.created", "response": { "id": "r" } }),
        json!({ "type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "hm" }),
        json!({ "type": "response.output_item.done", "output_index": 0, "item": reasoning() }),
        json!({ "type": "response.output_text.delta", "output_index": 1, "delta": "Hel" }),
        json!({ "type": "response.output_text.delta", "output_index": 1, "delta": "lo" }),
        json!({ "type": "response.output_item.done", "output_index": 1, "item": { "type": "message", "content": [{ "text": "Hello" }] } }),
        json!({ "type": "response.output_item.added", "output_index": 2, "item": call }),
        json!({ "type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{\"a\"" }),
        json!({ "type": "response.output_item.done", "output_index": 2, "item": done }),
        completed(json!([])),
    ]);
    let answer = answer.unwrap();
    assert_eq!(told, "<hm>Hello");
    let Said::Thinking { signature: Some(signature), .. } = &answer.said[0] else { panic!("{:?}", answer.said) };
    assert!(signature.contains("encrypted_content"), "{signature}");
    assert_eq!(answer.calls().next().unwrap().arguments, json!({ "a": 1 }));
    assert_eq!(answer.usage, Usage { input: 5, output: 3, cache_read: 4, cache_write: 0 });
    assert_eq!((answer.stop, answer.response_id.as_deref()), (StopReason::ToolUse, Some("r")));
}

#[test]
fn what_came_in_no_pieces_is_taken_from_the_whole() {
    let message = json!({ "type": "message", "content": [{ "type": "output_text", "text": "Hello" }] });
    let (answer, told) = read(&[completed(json!([reasoning(), message]))]);
    assert_eq!((answer.unwrap().text().as_str(), told.as_str()), ("Hello", "<hm>Hello"));
}

#[test]
fn what_ends_early_or_badly_is_a_failure() {
    let kind = |event: Value| read(&[event]).0.unwrap_err().kind;
    assert_eq!(
        kind(json!({ "type": "response.output_text.delta", "output_index": 0, "delta": "x" })),
        FailureKind::Unavailable
    );
    let failed = json!({ "code": "rate_limit_exceeded", "message": "slow down" });
    assert_eq!(kind(json!({ "type": "response.failed", "response": { "error": failed } })), FailureKind::RateLimit);
    assert_eq!(kind(json!({ "type": "error", "code": "server_error", "message": "x" })), FailureKind::Unavailable);
    let cut = json!({ "type": "response.incomplete", "response": { "incomplete_details": { "reason": "max_output_tokens" }, "output": [] } });
    assert_eq!(read(&[cut]).0.unwrap().stop, StopReason::Length);
    let filtered = json!({ "type": "response.incomplete", "response": { "incomplete_details": { "reason": "content_filter" }, "output": [] } });
    assert_eq!(kind(filtered), FailureKind::Refusal);
}
