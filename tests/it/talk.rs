//! Talking to an agent whose model answers: what clients of both protocols see of a run, and find of it afterwards.

use serde_json::{Value, json};

use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::provider::{Provider, Turn};
use crate::harness::{Client, Server};

const KEY: &str = "agent:main:talk";

#[track_caller]
fn say(client: &Client, text: &str, id: &str) {
    let params = json!({ "sessionKey": KEY, "message": text, "idempotencyKey": id });
    client.call("chat.send", params).expect_ok();
}

#[track_caller]
fn ended(client: &Client, id: &str) -> Value {
    let chat = client.expect_event_where("chat", |chat| {
        chat["runId"] == id && !matches!(chat["state"].as_str(), Some("delta" | "status"))
    });
    chat.payload
}

#[track_caller]
fn history(client: &Client, more: Value) -> Value {
    let mut params = json!({ "sessionKey": KEY });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.call("chat.history", params).expect_ok()
}

fn both(server: &Server) -> (Client, Client) {
    (server.client("old", Proto::V3, &ConnectOptions::operator("old")), server.operator("new"))
}

#[test]
fn a_reply_has_the_form_of_each_protocol() {
    let provider = Provider::start_with(|_| Turn::text("hello there").usage(10, 6, 5));
    let server = Server::with().config(&provider.config()).start();
    let (old, new) = both(&server);

    say(&new, "hi", "one");

    let (seen_old, seen_new) = (ended(&old, "one"), ended(&new, "one"));
    assert_eq!((&seen_old["state"], &seen_old["stopReason"]), (&json!("final"), &Value::Null));
    assert_eq!((&seen_new["state"], &seen_new["stopReason"]), (&json!("final"), &json!("stop")));
    let (told_old, told_new) = (history(&old, json!({})), history(&new, json!({})));
    assert_eq!(told_old["messages"][0]["content"], json!([{ "type": "text", "text": "hi" }]));
    assert_eq!(told_new["messages"][0]["content"], "hi");
    assert_eq!(told_new["messages"][0]["__openclaw"]["transport"]["clients"][0]["id"], "cli");
    assert_eq!(told_new["messages"][0]["__openclaw"]["senderIsOwner"], true);
    assert!(told_old["messages"][1].get("usage").is_none());
    assert_eq!(told_new["messages"][1]["usage"]["totalTokens"], 16 + 5);
    let info = &told_new["sessionInfo"];
    assert_eq!(
        (&info["status"], &info["lastRunId"], &info["hasActiveRun"]),
        (&json!("done"), &json!("one"), &json!(false))
    );
    assert_eq!((&info["inputTokens"], &info["outputTokens"]), (&json!(10), &json!(6)));
    assert_eq!(info["totalTokens"], 15, "what the model read, not what it wrote");
    assert_eq!(info["participants"][0]["identity"]["id"], "cli");
    assert_eq!(info["activeLeafEntryId"], told_new["messages"][1]["__openclaw"]["id"]);
    let budget = &info["contextBudgetStatus"];
    assert_eq!((&budget["route"], &budget["contextTokenBudget"]), (&json!("fits"), &json!(128_000)));
    assert!(budget["estimatedPromptTokens"].as_u64().unwrap() > 100, "the system prompt counts: {budget}");
    new.call("sessions.reset", json!({ "key": KEY })).expect_ok();
    let info = &history(&new, json!({}))["sessionInfo"];
    assert!(info.get("lastRunId").is_none() && info.get("contextBudgetStatus").is_none(), "a reset forgets it: {info}");
}

#[test]
fn a_cursor_brings_what_was_said_since_and_nothing_after_a_reset() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    say(&ann, "first", "one");
    ended(&ann, "one");
    let first = history(&ann, json!({ "limit": 1 }));
    assert_eq!((&first["hasMore"], &first["nextOffset"]), (&json!(true), &json!(1)));
    let cursor = first["deltaCursor"].clone();
    let none = history(&ann, json!({ "cursor": cursor }));
    assert_eq!((&none["kind"], &none["messages"], &none["deltaCursor"]), (&json!("delta"), &json!([]), &cursor));
    say(&ann, "second", "two");
    ended(&ann, "two");

    let since = history(&ann, json!({ "cursor": cursor }));

    assert_eq!(since["kind"], "delta");
    let told = since["messages"].as_array().unwrap().iter();
    let said: Vec<&Value> = told.map(|told| &told["message"]["role"]).collect();
    assert_eq!(said, ["user", "assistant"]);
    assert_ne!(since["deltaCursor"], cursor);
    ann.call("sessions.reset", json!({ "key": KEY })).expect_ok();
    assert_eq!(history(&ann, json!({ "cursor": cursor })), json!({ "kind": "reset" }));
    assert_eq!(history(&ann, json!({ "cursor": "no such" })), json!({ "kind": "reset" }));
    // A page that is loaded anew asks in its own way.
    let startup = |cursor: &Value| ann.call("chat.startup", json!({ "sessionKey": KEY, "cursor": cursor })).expect_ok();
    assert_eq!(startup(&cursor), json!({ "kind": "reset" }));
    let now = history(&ann, json!({}))["deltaCursor"].clone();
    say(&ann, "third", "three");
    ended(&ann, "three");
    assert_eq!(
        (&startup(&now)["kind"], startup(&now)["messages"].as_array().map(Vec::len)),
        (&json!("delta"), Some(2))
    );
}

#[test]
fn a_session_says_which_runs_go_on_in_it() {
    let provider = Provider::start();
    provider.then(Turn::text("one two three").hold_after(2));
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    ann.call("sessions.subscribe", json!({})).expect_ok();

    say(&ann, "hi", "long");
    provider.wait_until_held();

    let row = ann.call("sessions.describe", json!({ "key": KEY })).expect_ok()["session"].clone();
    assert_eq!((&row["hasActiveRun"], &row["activeRunIds"]), (&json!(true), &json!(["long"])));
    assert_eq!(row["status"], "running");
    provider.release();
    let last = ann.expect_event_where("sessions.changed", |change| change["session"]["lastRunId"] == "long");
    last.with("/session/hasActiveRun", false).with("/session/activeRunIds", json!([])).with("/session/status", "done");
    ended(&ann, "long");
    let row = ann.call("sessions.describe", json!({ "key": KEY })).expect_ok()["session"].clone();
    assert_eq!((&row["hasActiveRun"], &row["status"]), (&json!(false), &json!("done")));
}

#[test]
fn a_refused_request_is_told_in_the_words_of_each_protocol() {
    let error = json!({ "error": { "message": "no such thing", "type": "stub_error" } });
    let provider = Provider::start_with(move |_| Turn::status(400).json(&error));
    let server = Server::with().config(&provider.config()).start();
    let (old, new) = both(&server);
    const NEW: &str = "LLM request failed: provider rejected the request schema or tool payload.";
    const OLD: &str = "HTTP 400: no such thing";

    say(&new, "hi", "bad");

    assert_eq!(ended(&old, "bad")["errorMessage"], OLD);
    let seen = ended(&new, "bad");
    assert_eq!((&seen["errorMessage"], &seen["errorDetail"]["failoverReason"]), (&json!(NEW), &json!("format")));
    let wait = |client: &Client| client.call("agent.wait", json!({ "runId": "bad" })).expect_ok();
    assert_eq!((&wait(&old)["error"], &wait(&new)["error"]), (&json!(OLD), &json!(NEW)));
    assert!(wait(&new).get("errorV4").is_none());
    let told = &history(&old, json!({}))["messages"][1];
    assert_eq!((&told["content"], &told["errorMessage"]), (&json!([]), &json!(OLD)));
    assert_eq!((&told["api"], &told["stopReason"]), (&json!("openai-completions"), &json!("error")));
    let told = history(&new, json!({}));
    assert_eq!(told["messages"][1]["content"][0]["text"], format!("⚠️ No answer: {OLD}"));
    assert_eq!((&told["sessionInfo"]["status"], &told["sessionInfo"]["lastRunError"]), (&json!("failed"), &json!(NEW)));
}

#[test]
fn the_result_of_agent_says_who_answered_and_what_it_took() {
    let provider = Provider::start_with(|_| Turn::text("done").usage(10, 6, 0));
    let server = Server::with().config(&provider.config()).start();
    let (old, new) = both(&server);
    for (client, id) in [(&old, "a3"), (&new, "a4")] {
        let params = json!({
            "message": "hi", "sessionKey": KEY, "label": "night shift", "thinking": "off", "idempotencyKey": id,
        });
        let pending = client.start("agent", Some(params));
        let answer = client.second_answer(&pending)["payload"].clone();
        let about = &answer["result"]["meta"]["agentMeta"];
        assert!(about["sessionId"].is_string(), "{about}");
        assert_eq!((&about["usage"]["total"], &about["promptTokens"]), (&json!(16), &json!(10)));
        let trace = &answer["result"]["meta"]["executionTrace"];
        match client.hello["protocol"] == 4 {
            true => assert_eq!((&trace["winnerModel"], &trace["fallbackUsed"]), (&json!("echo"), &json!(false))),
            false => assert!(trace.is_null(), "protocol 3 knows of none: {trace}"),
        }
    }
    let rows = new.call("sessions.list", json!({ "label": "night shift" })).expect_ok();
    assert_eq!((&rows["sessions"][0]["key"], &rows["sessions"][0]["thinkingLevel"]), (&json!(KEY), &json!("off")));
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_runs() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let (old, new) = both(&server);
    let to = |key: Value| json!({ "sessionKey": key, "message": "hi", "idempotencyKey": "x" });
    for nobody in [json!({}), to(json!("")), to(json!(7))] {
        let refusal = new.call("chat.send", nobody).expect_err("INVALID_REQUEST");
        refusal.message("session mutation target is unavailable").detail("/code", "SESSION_MUTATION_TARGET_REQUIRED");
    }
    old.call("chat.send", to(json!(7))).expect_err("INVALID_REQUEST");
    let gone = new.call("chat.send", to(json!("agent:nobody:main"))).expect_err("INVALID_REQUEST");
    gone.message("Agent \"nobody\" no longer exists in configuration");
    let params = json!({
        "message": "hi", "sessionKey": KEY, "deliver": true, "channel": "telegram", "to": "1", "idempotencyKey": "y",
    });
    let why = "the answer cannot be delivered: channel telegram is not set up on this gateway";
    new.call("agent", params).expect_err("UNAVAILABLE").message(why);
    assert!(provider.requests().is_empty());
}
