use std::sync::Arc;

use super::*;
use crate::agent::providers::format::read_arguments;
use crate::agent::providers::table::{self, COMPATIBLE, Quirks};
use crate::agent::talk::ToolSpec;

fn target(quirks: Quirks) -> Target<'static> {
    Target { quirks, max_tokens: Some(100), ..Target::for_tests() }
}

fn quirks_of(id: &str) -> Quirks {
    table::find(id).unwrap().quirks
}

fn image() -> Part {
    Part::Image { mime: "image/png".into(), base64: Arc::from("aGk=") }
}

fn call(id: &str) -> ToolCall {
    ToolCall { id: id.into(), name: "read".into(), arguments: json!({ "path": "a" }) }
}

fn result(id: &str, content: Vec<Part>) -> Message {
    Message::Tool(ToolResult { call_id: id.into(), name: "read".into(), content, is_error: false })
}

fn prompt(messages: Vec<Message>) -> Prompt {
    Prompt { system: "be kind".into(), messages, ..Prompt::default() }
}

fn user(text: &str) -> Message {
    Message::User(vec![Part::Text(text.into())])
}

fn body(quirks: Quirks, prompt: &Prompt) -> Value {
    Value::Object(request(&target(quirks), prompt).body)
}

#[test]
fn a_plain_prompt_is_a_plain_request() {
    let mut prompt = prompt(vec![user("hi")]);
    prompt.max_output_tokens = Some(500);
    let params = Map::from_iter([("temperature".to_owned(), json!(0.5))]);
    let target = Target { params: &params, ..target(COMPATIBLE) };
    assert_eq!(
        Value::Object(request(&target, &prompt).body),
        json!({
            "model": "m",
            "messages": [{ "role": "system", "content": "be kind" }, { "role": "user", "content": "hi" }],
            "stream": true,
            "stream_options": { "include_usage": true },
            "max_tokens": 100,
            "temperature": 0.5,
        })
    );
}

#[test]
fn openai_has_its_own_names() {
    let mut prompt = prompt(vec![user("hi")]);
    prompt.max_output_tokens = Some(5);
    prompt.thinking = Thinking::Low;
    prompt.tools =
        vec![ToolSpec { name: "read".into(), description: "reads".into(), parameters: json!({ "type": "object" }) }];
    let body = body(quirks_of("openai"), &prompt);
    assert_eq!(body["messages"][0]["role"], "developer");
    assert_eq!(
        (&body["max_completion_tokens"], &body["reasoning_effort"], &body["store"]),
        (&json!(5), &json!("low"), &json!(false))
    );
    let function =
        json!({ "name": "read", "description": "reads", "parameters": { "type": "object" }, "strict": false });
    assert_eq!(body["tools"], json!([{ "type": "function", "function": function }]));
}

#[test]
fn thinking_is_asked_for_in_the_providers_way() {
    let of = |id: &str, thinking: Thinking| {
        let mut prompt = prompt(vec![user("hi")]);
        prompt.thinking = thinking;
        body(quirks_of(id), &prompt)
    };
    assert_eq!(of("zai", Thinking::Off)["thinking"], json!({ "type": "disabled" }));
    assert_eq!(of("zai", Thinking::High)["thinking"], json!({ "type": "enabled" }));
    assert_eq!(of("qwen", Thinking::Low)["enable_thinking"], json!(true));
    assert_eq!(of("openrouter", Thinking::High)["reasoning"], json!({ "effort": "high" }));
    assert_eq!(of("groq", Thinking::Off)["reasoning_effort"], Value::Null);
    assert_eq!(of("mistral", Thinking::High)["reasoning_effort"], Value::Null);
}

#[test]
fn a_turn_with_tools_goes_back_as_it_was() {
    let said = vec![
        Said::Thinking { text: "let me see".into(), signature: Some(target(COMPATIBLE).sign("reasoning_content")) },
        Said::Call(call("c1")),
    ];
    let messages = vec![
        Message::User(vec![Part::Text("look".into()), image()]),
        Message::Assistant(said),
        result("c1", vec![Part::Text("one".into()), image(), Part::Text("two".into())]),
        user("and?"),
    ];
    let body = body(quirks_of("deepseek"), &prompt(messages));
    let picture = json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,aGk=" } });
    assert_eq!(body["messages"][1]["content"], json!([{ "type": "text", "text": "look" }, picture]));
    assert_eq!(
        body["messages"][2],
        json!({
            "role": "assistant",
            "content": null,
            "reasoning_content": "let me see",
            "tool_calls": [{ "id": "c1", "type": "function", "function": { "name": "read", "arguments": "{\"path\":\"a\"}" } }],
        })
    );
    assert_eq!(body["messages"][3], json!({ "role": "tool", "tool_call_id": "c1", "content": "one\ntwo" }));
    assert_eq!(body["messages"][4]["content"][1], picture);
    assert_eq!(body["messages"][5]["content"], "and?");
}

#[test]
fn mistral_gets_short_ids_names_and_an_assistant_in_between() {
    let messages = vec![
        user("a"),
        Message::Assistant(vec![Said::Call(call("toolu_01ABC"))]),
        result("toolu_01ABC", vec![]),
        user("b"),
    ];
    let body = body(quirks_of("mistral"), &prompt(messages));
    let id = body["messages"][2]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
    assert_eq!(
        body["messages"][3],
        json!({ "role": "tool", "tool_call_id": id, "content": "(no output)", "name": "read" })
    );
    assert_eq!(body["messages"][4]["role"], "assistant");
    assert_eq!(body["messages"][5], json!({ "role": "user", "content": "b" }));
}

#[test]
fn a_model_without_eyes_gets_no_picture_and_foreign_thoughts_stay_away() {
    let messages = vec![
        Message::User(vec![Part::Text("look".into()), image()]),
        Message::Assistant(vec![Said::Thinking { text: "hm".into(), signature: Some("other/x|s".into()) }]),
        user("more"),
    ];
    let blind = Target { sees_images: false, ..target(quirks_of("deepseek")) };
    let body = Value::Object(request(&blind, &prompt(messages)).body);
    assert_eq!(body["messages"].as_array().unwrap().len(), 3, "an assistant who only thought is not quoted");
    assert_eq!(body["messages"][1]["content"], "look");
}

struct Read {
    answer: Result<Answer, Failure>,
    told: String,
}

fn read(events: &[&str]) -> Read {
    let mut reader = Reader::new(&target(COMPATIBLE));
    let mut told = String::new();
    for event in events {
        let mut tell = |piece: Piece<'_>| match piece {
            Piece::Text(text) => told.push_str(text),
            Piece::Thinking(text) => told.push_str(&format!("<{text}>")),
        };
        match reader.event("", event, &mut tell) {
            Ok(Flow::More) => {}
            Ok(Flow::Done) => break,
            Err(failure) => return Read { answer: Err(failure), told },
        }
    }
    Read { answer: reader.end(), told }
}

#[test]
fn reads_words_thoughts_calls_and_tokens() {
    let Read { answer, told } = read(&[
        r#"{"id":"x1","choices":[{"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"delta":{"content":"Hel"}}]}"#,
        r#"{"choices":[{"delta":{"content":"lo"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"read","arguments":""}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"list","arguments":"{}"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"p\":1}"}}]}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#,
        "[DONE]",
    ]);
    let answer = answer.unwrap();
    assert_eq!(told, "<hm>Hello");
    assert_eq!(answer.text(), "Hello");
    assert_eq!(answer.said[0], Said::Thinking { text: "hm".into(), signature: Some("p/m|reasoning_content".into()) });
    let calls: Vec<_> =
        answer.calls().map(|call| (call.id.as_str(), call.name.as_str(), call.arguments.clone())).collect();
    assert_eq!(calls, [("a", "read", json!({ "p": 1 })), ("b", "list", json!({}))]);
    assert_eq!(answer.usage, Usage { input: 6, output: 3, cache_read: 4, cache_write: 0 });
    assert_eq!((answer.stop, answer.response_id.as_deref()), (StopReason::ToolUse, Some("x1")));
}

#[test]
fn calls_without_index_and_with_objects_are_read() {
    let answer = read(&[
        r#"{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"x","arguments":{"k":1}}},{"id":"b","function":{"name":"y","arguments":"{}"}}]},"finish_reason":"stop"}]}"#,
    ]);
    let answer = answer.answer.unwrap();
    let names: Vec<_> = answer.calls().map(|call| call.name.as_str()).collect();
    assert_eq!((names, answer.stop), (vec!["x", "y"], StopReason::ToolUse));
    assert_eq!(answer.calls().next().unwrap().arguments, json!({ "k": 1 }));
}

#[test]
fn an_answer_that_is_cut_off_is_none() {
    let cut = read(&[r#"{"choices":[{"delta":{"content":"Hel"}}]}"#]);
    assert_eq!((cut.answer.unwrap_err().kind, cut.told.as_str()), (FailureKind::Unavailable, "Hel"));
    assert_eq!(read(&[]).answer.unwrap_err().kind, FailureKind::Unavailable);
    assert_eq!(read(&["[DONE]"]).answer.unwrap_err().kind, FailureKind::Unavailable, "nothing was said");
    let whole = read(&[r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}"#]);
    assert_eq!(whole.answer.unwrap().text(), "x", "a reason to stop is an end");
}

#[test]
fn errors_in_the_stream_end_it() {
    let failed =
        read(&[r#"{"choices":[{"delta":{"content":"x"}}]}"#, r#"{"error":{"message":"Overloaded","code":503}}"#]);
    assert_eq!(failed.answer.unwrap_err().kind, FailureKind::Unavailable);
    assert_eq!(read(&["{nope"]).answer.unwrap_err().kind, FailureKind::Format);
    let filtered = read(&[r#"{"choices":[{"delta":{},"finish_reason":"content_filter"}]}"#]);
    assert_eq!(filtered.answer.unwrap_err().kind, FailureKind::Refusal);
}

#[test]
fn a_whole_answer_is_read_as_well() {
    let mut reader = Reader::new(&target(COMPATIBLE));
    let body = json!({
        "id": "r",
        "choices": [{ "message": { "content": "hello", "tool_calls": [{ "id": "a", "function": { "name": "x", "arguments": "{\"k\":1}" } }] }, "finish_reason": "length" }],
        "usage": { "prompt_tokens": 2, "completion_tokens": 1 },
    });
    let mut told = 0;
    reader.whole(&body, &mut |_| told += 1).unwrap();
    let answer = reader.end().unwrap();
    assert_eq!((answer.text().as_str(), answer.stop, told), ("hello", StopReason::Length, 1));
    assert_eq!(answer.calls().next().unwrap().arguments, read_arguments("{\"k\":1}"));
    let refused = Reader::new(&target(COMPATIBLE)).whole(&json!({ "choices": [] }), &mut |_| {});
    assert_eq!(refused.unwrap_err().kind, FailureKind::Format);
}
