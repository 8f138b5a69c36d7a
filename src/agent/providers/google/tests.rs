use super::*;
use crate::agent::talk::{ToolCall, ToolSpec};

fn target(model: &'static str) -> Target<'static> {
    Target { model, ..Target::for_tests() }
}

fn user(text: &str) -> Message {
    Message::User(vec![Part::Text(text.into())])
}

fn call(name: &str) -> Said {
    Said::Call(ToolCall { id: format!("id-{name}"), name: name.into(), arguments: json!({ "a": 1 }) })
}

fn result(name: &str, is_error: bool) -> Message {
    let content = vec![Part::Text("x".into()), Part::Image { mime: "image/png".into(), base64: "aGk=".into() }];
    Message::Tool(ToolResult { call_id: format!("id-{name}"), name: name.into(), content, is_error })
}

#[test]
fn a_prompt_is_a_request() {
    let prompt = Prompt {
        system: "be kind".into(),
        messages: vec![user("hi"), user("there")],
        tools: vec![ToolSpec {
            name: "read".into(),
            description: "reads".into(),
            parameters: json!({ "type": "object" }),
        }],
        thinking: Thinking::Medium,
        max_output_tokens: Some(7),
        ..Prompt::default()
    };
    let params = json!({ "stop": "END", "top_p": 0.5, "tool_choice": "none" });
    let request = request(&Target { params: params.as_object().unwrap(), ..target("gemini-2.5-flash") }, &prompt);
    assert_eq!(request.path, "/models/gemini-2.5-flash:streamGenerateContent?alt=sse");
    assert_eq!(
        Value::Object(request.body),
        json!({
            "contents": [{ "role": "user", "parts": [{ "text": "hi" }, { "text": "there" }] }],
            "systemInstruction": { "parts": [{ "text": "be kind" }] },
            "tools": [{ "functionDeclarations": [
                { "name": "read", "description": "reads", "parametersJsonSchema": { "type": "object" } },
            ] }],
            "generationConfig": {
                "maxOutputTokens": 7, "thinkingConfig": { "includeThoughts": true, "thinkingBudget": 8192 },
                "topP": 0.5, "stopSequences": ["END"],
            },
            "toolConfig": { "functionCallingConfig": { "mode": "NONE" } },
        })
    );
}

#[test]
fn each_generation_is_told_to_think_in_its_own_way() {
    assert_eq!(thinking("gemini-3-pro-preview", Thinking::High).unwrap()["thinkingLevel"], "high");
    assert_eq!(thinking("gemini-3-pro-preview", Thinking::Off), None);
    assert_eq!(
        thinking("gemini-2.5-pro", Thinking::Off).unwrap(),
        json!({ "includeThoughts": false, "thinkingBudget": 128 })
    );
    assert_eq!(thinking("gemini-2.5-flash", Thinking::Off).unwrap()["thinkingBudget"], 0);
}

#[test]
fn signatures_go_back_onto_what_followed_the_thought() {
    let model = target("gemini-3-pro-preview");
    let signed = Said::Thinking { text: String::new(), signature: Some(model.sign("abc")) };
    let messages = vec![
        user("a"),
        Message::Assistant(vec![signed, call("read"), call("list")]),
        result("read", false),
        user("hurry"),
        result("list", true),
        Message::Assistant(vec![call("read")]),
        result("read", false),
    ];
    let body = Value::Object(request(&model, &Prompt { messages, ..Prompt::default() }).body);
    let calls = &body["contents"][1]["parts"];
    assert_eq!(calls[0], json!({ "functionCall": { "name": "read", "args": { "a": 1 } }, "thoughtSignature": "abc" }));
    assert_eq!(calls[1].get("thoughtSignature"), None);
    let answers = body["contents"][2]["parts"].as_array().unwrap();
    assert_eq!(answers[0]["functionResponse"], json!({ "name": "read", "response": { "output": "x" } }));
    assert_eq!(answers[1]["functionResponse"], json!({ "name": "list", "response": { "error": "x" } }));
    assert_eq!(answers.len(), 5, "two answers, two pictures, and what was said meanwhile");
    assert_eq!(body["contents"][3]["parts"][0]["thoughtSignature"], FOREIGN_CALL, "another model's call");
}

fn read(chunks: &[Value]) -> (Result<Answer, Failure>, String) {
    let mut reader = Reader::new(&target("m"));
    let mut told = String::new();
    for chunk in chunks {
        let mut tell = |piece: Piece<'_>| match piece {
            Piece::Text(text) => told.push_str(text),
            Piece::Thinking(text) => told.push_str(&format!("<{text}>")),
        };
        if let Err(failure) = reader.event("", &chunk.to_string(), &mut tell) {
            return (Err(failure), told);
        }
    }
    (reader.end(), told)
}

fn parts(parts: Value) -> Value {
    json!({ "candidates": [{ "content": { "parts": parts } }] })
}

#[test]
fn reads_thoughts_words_calls_and_tokens() {
    let usage = json!({
        "promptTokenCount": 9, "cachedContentTokenCount": 4, "candidatesTokenCount": 2, "thoughtsTokenCount": 3,
    });
    let (answer, told) = read(&[
        parts(json!([{ "text": "hm", "thought": true }])),
        parts(json!([{ "text": "Hello" }])),
        parts(json!([{ "functionCall": { "name": "read", "args": { "a": 1 } }, "thoughtSignature": "abc" }])),
        parts(json!([{ "functionCall": { "name": "list" } }])),
        json!({ "candidates": [{ "finishReason": "STOP" }], "usageMetadata": usage, "responseId": "r" }),
    ]);
    let answer = answer.unwrap();
    assert_eq!(told, "<hm>Hello");
    let signature = Some(target("m").sign("abc"));
    assert_eq!(answer.said[2], Said::Thinking { text: String::new(), signature });
    let calls: Vec<_> = answer.calls().map(|call| call.arguments.clone()).collect();
    assert_eq!(calls, [json!({ "a": 1 }), json!({})]);
    assert!(answer.calls().all(|call| !call.id.is_empty()), "it gives no ids");
    assert_eq!(answer.usage, Usage { input: 5, output: 5, cache_read: 4, cache_write: 0 });
    assert_eq!((answer.stop, answer.response_id.as_deref()), (StopReason::ToolUse, Some("r")));
}

#[test]
fn what_ends_early_or_badly_is_a_failure() {
    let kind = |chunk: Value| read(&[chunk]).0.unwrap_err().kind;
    let finish = |reason: &str| json!({ "candidates": [{ "finishReason": reason }] });
    assert_eq!(kind(parts(json!([{ "text": "x" }]))), FailureKind::Unavailable);
    assert_eq!(kind(finish("SAFETY")), FailureKind::Refusal);
    assert_eq!(kind(finish("MALFORMED_FUNCTION_CALL")), FailureKind::Format);
    assert_eq!(kind(json!({ "promptFeedback": { "blockReason": "OTHER" } })), FailureKind::Refusal);
    assert_eq!(kind(json!({ "error": { "code": 429, "status": "RESOURCE_EXHAUSTED" } })), FailureKind::RateLimit);
    assert_eq!(read(&[finish("MAX_TOKENS")]).0.unwrap().stop, StopReason::Length);
}
