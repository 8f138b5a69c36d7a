use super::*;
use crate::agent::talk::{ToolCall, ToolSpec};

fn target(model: &'static str) -> Target<'static> {
    Target { model, max_tokens: Some(64_000), ..Target::for_tests() }
}

fn user(text: &str) -> Message {
    Message::User(vec![Part::Text(text.into())])
}

fn call(id: &str) -> Said {
    Said::Call(ToolCall { id: id.into(), name: "read".into(), arguments: json!({ "path": "a" }) })
}

fn result(id: &str, text: &str) -> Message {
    let content = vec![Part::Text(text.into())];
    Message::Tool(ToolResult { call_id: id.into(), name: "read".into(), content, is_error: text == "no" })
}

fn prompt(messages: Vec<Message>) -> Prompt {
    Prompt { system: "be kind".into(), messages, ..Prompt::default() }
}

fn body(target: &Target<'_>, prompt: &Prompt) -> Value {
    Value::Object(request(target, prompt).body)
}

#[test]
fn a_plain_prompt_is_a_plain_request() {
    let mut prompt = prompt(vec![user("hi")]);
    prompt.max_output_tokens = Some(500);
    prompt.tools =
        vec![ToolSpec { name: "read".into(), description: "reads".into(), parameters: json!({ "type": "object" }) }];
    let params = json!({
        "temperature": 0.5, "stop": "END", "seed": 1, "tool_choice": "required", "service_tier": "auto",
    });
    let target = Target { params: params.as_object().unwrap(), ..target("claude-sonnet-4-5") };
    let kept = json!({ "type": "ephemeral" });
    assert_eq!(
        body(&target, &prompt),
        json!({
            "model": "claude-sonnet-4-5",
            "messages": [{ "role": "user", "content": [{ "type": "text", "text": "hi", "cache_control": kept }] }],
            "stream": true,
            "system": [{ "type": "text", "text": "be kind", "cache_control": kept }],
            "tools": [{ "name": "read", "description": "reads", "input_schema": { "type": "object" } }],
            "max_tokens": 500,
            "temperature": 0.5,
            "stop_sequences": ["END"],
            "tool_choice": { "type": "any" },
            "service_tier": "auto",
        })
    );
    assert_eq!(request(&target, &prompt).headers, [("anthropic-version", "2023-06-01".to_owned())]);
}

#[test]
fn sides_alternate_and_answers_of_tools_come_first() {
    let messages = vec![
        user("a"),
        user(" "),
        Message::Assistant(vec![Said::Text("look".into()), call("c:1"), call("c2")]),
        result("c:1", "one"),
        user("hurry"),
        result("c2", "no"),
    ];
    let body = body(&target("claude-sonnet-4-5"), &prompt(messages));
    let roles: Vec<&str> = body["messages"].as_array().unwrap().iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert_eq!(body["messages"][0]["content"].as_array().unwrap().len(), 1, "nothing blank");
    assert_eq!(body["messages"][1]["content"][1]["id"], "c_1");
    let last = &body["messages"][2]["content"];
    assert_eq!((&last[0]["tool_use_id"], &last[1]["tool_use_id"]), (&json!("c_1"), &json!("c2")));
    assert_eq!((&last[1]["is_error"], &last[2]["text"]), (&json!(true), &json!("hurry")));
}

#[test]
fn thinking_is_asked_for_as_the_model_takes_it() {
    let of = |model: &'static str, thinking: Thinking, max: Option<u64>| {
        let mut prompt = prompt(vec![user("hi")]);
        (prompt.thinking, prompt.max_output_tokens) = (thinking, max);
        let params = json!({ "temperature": 1 });
        body(&Target { params: params.as_object().unwrap(), ..target(model) }, &prompt)
    };
    let high = of("claude-sonnet-4-5-20250929", Thinking::High, None);
    assert_eq!(high["thinking"], json!({ "type": "enabled", "budget_tokens": 16_384 }));
    assert_eq!((&high["max_tokens"], high.get("temperature")), (&json!(32_000), None));
    let tight = of("claude-sonnet-4-5", Thinking::High, Some(100));
    assert_eq!((&tight["thinking"]["budget_tokens"], &tight["max_tokens"]), (&json!(1024), &json!(2048)));
    let adaptive = of("claude-opus-4-6", Thinking::Medium, None);
    assert_eq!(
        (&adaptive["thinking"]["type"], &adaptive["output_config"]["effort"]),
        (&json!("adaptive"), &json!("medium"))
    );
    let plain = of("claude-opus-4-6", Thinking::Off, None);
    assert_eq!((&plain["thinking"], &plain["temperature"]), (&Value::Null, &json!(1)));
    assert_eq!(of("claude-opus-4-8", Thinking::Off, None).get("temperature"), None, "it takes none");
    assert_eq!(of("claude-sonnet-4-6", Thinking::Xhigh, None)["output_config"]["effort"], "high");
    assert_eq!(of("claude-sonnet-5", Thinking::Xhigh, None)["output_config"]["effort"], "max");
    for (model, expected) in [
        ("claude-opus-4-5", false),
        ("claude-sonnet-4-20250514", false),
        ("claude-haiku-4-5-20251001", false),
        ("claude-sonnet-4-6", true),
        ("anthropic/claude-opus-4-6", true),
        ("claude-opus-5", true),
        ("claude-fable-5-1", true),
        ("claude-3-7-sonnet-20250219", false),
        ("kimi-k2", false),
    ] {
        assert_eq!(thinks_by_itself(model), expected, "{model}");
    }
}

#[test]
fn a_turn_goes_on_with_the_thoughts_it_had_or_with_none() {
    let own = target("claude-sonnet-4-5");
    let turn = |signature: String| {
        let thought = Said::Thinking { text: "hm".into(), signature: Some(signature) };
        let mut prompt = prompt(vec![user("a"), Message::Assistant(vec![thought, call("c")]), result("c", "x")]);
        prompt.thinking = Thinking::Low;
        body(&own, &prompt)
    };
    let same = turn(own.sign("abc"));
    let block = json!({ "type": "thinking", "thinking": "hm", "signature": "abc" });
    assert_eq!((&same["messages"][1]["content"][0], &same["thinking"]["type"]), (&block, &json!("enabled")));
    let hidden = turn(own.sign("redacted:xyz"));
    assert_eq!(hidden["messages"][1]["content"][0], json!({ "type": "redacted_thinking", "data": "xyz" }));
    let foreign = turn(target("other").sign("abc"));
    assert_eq!(foreign["messages"][1]["content"][0]["type"], "tool_use");
    assert_eq!(foreign["thinking"], Value::Null, "it cannot go on thinking where another did");
}

struct Read {
    answer: Result<Answer, Failure>,
    told: String,
}

fn read(events: &[Value]) -> Read {
    let mut reader = Reader::new(&target("m"));
    let mut told = String::new();
    for event in events {
        let mut tell = |piece: Piece<'_>| match piece {
            Piece::Text(text) => told.push_str(text),
            Piece::Thinking(text) => told.push_str(&format!("<{text}>")),
        };
        match reader.event("", &event.to_string(), &mut tell) {
            Ok(Flow::More) => {}
            Ok(Flow::Done) => break,
            Err(failure) => return Read { answer: Err(failure), told },
        }
    }
    Read { answer: reader.end(), told }
}

fn start() -> Value {
    let usage = json!({ "input_tokens": 9, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 1 });
    json!({ "type": "message_start", "message": { "id": "msg", "usage": usage } })
}

fn delta(index: u64, delta: Value) -> Value {
    json!({ "type": "content_block_delta", "index": index, "delta": delta })
}

fn block_start(index: u64, block: Value) -> Value {
    json!({ "type": "content_block_start", "index": index, "content_block": block })
}

fn stop(reason: &str) -> Value {
    json!({ "type": "message_delta", "delta": { "stop_reason": reason }, "usage": { "output_tokens": 7 } })
}

#[test]
fn reads_thoughts_words_calls_and_tokens() {
    let Read { answer, told } = read(&[
        start(),
        json!({ "type": "ping" }),
        block_start(0, json!({ "type": "thinking", "thinking": "" })),
        delta(0, json!({ "type": "thinking_delta", "thinking": "hm" })),
        delta(0, json!({ "type": "signature_delta", "signature": "ab" })),
        delta(0, json!({ "type": "signature_delta", "signature": "c" })),
        json!({ "type": "content_block_stop", "index": 0 }),
        block_start(1, json!({ "type": "redacted_thinking", "data": "xyz" })),
        block_start(2, json!({ "type": "text", "text": "" })),
        delta(2, json!({ "type": "text_delta", "text": "Hello" })),
        block_start(3, json!({ "type": "tool_use", "id": "t", "name": "read", "input": {} })),
        delta(3, json!({ "type": "input_json_delta", "partial_json": "{\"a\":" })),
        delta(3, json!({ "type": "input_json_delta", "partial_json": "1}" })),
        block_start(4, json!({ "type": "tool_use", "id": "u", "name": "list", "input": {} })),
        stop("tool_use"),
        json!({ "type": "message_stop" }),
    ]);
    let answer = answer.unwrap();
    let mark = target("m").sign("");
    assert_eq!(told, "<hm>Hello");
    assert_eq!(answer.said[0], Said::Thinking { text: "hm".into(), signature: Some(format!("{mark}abc")) });
    assert_eq!(answer.said[1], Said::Thinking { text: "".into(), signature: Some(format!("{mark}redacted:xyz")) });
    let calls: Vec<_> = answer.calls().map(|call| (call.id.as_str(), call.arguments.clone())).collect();
    assert_eq!(calls, [("t", json!({ "a": 1 })), ("u", json!({}))]);
    assert_eq!(answer.usage, Usage { input: 9, output: 7, cache_read: 4, cache_write: 2 });
    assert_eq!((answer.stop, answer.response_id.as_deref()), (StopReason::ToolUse, Some("msg")));
}

#[test]
fn what_ends_early_or_badly_is_a_failure() {
    let hello = block_start(0, json!({ "type": "text", "text": "Hello" }));
    let kind = |events: &[Value]| read(events).answer.unwrap_err().kind;
    assert_eq!(kind(&[start(), hello.clone()]), FailureKind::Unavailable);
    let overloaded = json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } });
    assert_eq!(kind(&[start(), overloaded]), FailureKind::Unavailable);
    assert_eq!(kind(&[start(), stop("refusal")]), FailureKind::Refusal);
    assert_eq!(read(&[start(), hello, stop("max_tokens")]).answer.unwrap().stop, StopReason::Length);
}
