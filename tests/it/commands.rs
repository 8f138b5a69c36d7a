//! Commands in messages, told over real sockets: what each does, who may give it, and that none is done twice.

use serde_json::{Value, json};

use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::provider::{Provider, Turn};
use crate::harness::{Client, Server};

const KEY: &str = "agent:main:talk";

fn send(client: &Client, text: &str, key: &str) -> Value {
    let params = json!({ "sessionKey": KEY, "message": text, "idempotencyKey": key });
    client.call("chat.send", params).expect_ok()
}

/// Sends a message and waits for the end of its run.
#[track_caller]
fn said(client: &Client, text: &str, key: &str) -> String {
    assert_eq!(send(client, text, key), json!({ "runId": key, "status": "started" }));
    let end = client.expect_event_where("chat", |chat| chat["runId"] == key && chat["state"] == "final");
    end.payload["message"]["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

/// The session as it is listed.
#[track_caller]
fn session(client: &Client) -> Value {
    let found = client.call("sessions.describe", json!({ "key": KEY })).expect_ok();
    found["session"].clone()
}

/// What a request to the model says, all messages in one.
fn asked(request: &crate::harness::provider::Request) -> String {
    Value::Array(request.messages().to_vec()).to_string()
}

#[test]
fn a_command_answers_in_one_event_and_asks_no_model() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let (old, new) = (server.client("old", Proto::V3, &ConnectOptions::operator("old")), server.operator("new"));

    send(&new, "/status", "st-1");

    let seen = new.expect_event_where("chat", |chat| chat["runId"] == "st-1");
    let seen = seen.with("/seq", 1).with("/state", "final").with("/sessionKey", KEY);
    let seen = seen.with("/message/provider", "openclaw").with("/message/model", "gateway-injected");
    let seen = seen.with("/message/stopReason", "stop").with("/message/usage/cost/total", 0);
    let seen = seen.with("/message/idempotencyKey", "st-1").with("/message/excludeFromContext", true);
    let seen = seen.with("/message/__openclaw/contextFreeCommand", true);
    assert!(seen.payload["message"]["content"][0]["text"].as_str().unwrap().contains("Model: double/echo"));
    let params = json!({ "sessionKey": "talk", "message": "/whoami", "idempotencyKey": "st-2" });
    old.call("chat.send", params).expect_ok();
    let seen =
        old.expect_event_where("chat", |chat| chat["runId"] == "st-2").with("/sessionKey", "talk").with("/seq", 1);
    assert!(seen.payload["message"].get("excludeFromContext").is_none(), "{}", seen.payload);
    assert!(provider.requests().is_empty());
}

#[test]
fn each_command_does_what_its_method_does() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    let mut n = 0;
    let mut tell = |text: &str| {
        n += 1;
        said(&ann, text, &format!("c-{n}"))
    };
    for text in ["/help", "/commands", "/context", "/usage", "/models", "/model", "/think", "/queue"] {
        assert!(!tell(text).is_empty(), "{text}");
    }
    assert!(tell("/whoami").contains("operator.admin"));
    assert_eq!(tell("/models double"), "double/echo");
    assert_eq!(tell("/abort-not-a-command hello"), "ok", "it is said to the agent");
    for (text, pointer, value) in [
        ("/think high", "/thinkingLevel", json!("high")),
        ("/verbose full", "/verboseLevel", json!("full")),
        ("/reasoning on", "/reasoningLevel", json!("on")),
        ("/usage tokens", "/responseUsage", json!("tokens")),
        ("/queue collect", "/queueMode", json!("collect")),
        ("/send on", "/sendPolicy", json!("allow")),
    ] {
        tell(text);
        assert_eq!(session(&ann).pointer(pointer), Some(&value), "{text}");
    }
    let refused = tell("/model nobody/nothing");
    assert!(refused.contains("Unknown provider \"nobody\""), "the method's own words: {refused}");
    assert!(tell("/think high /queue steer").contains("Queue: steer."));
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn a_new_session_begins_without_what_was_said_and_with_what_follows() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    said(&ann, "the code is 4711", "n-1");
    let before = session(&ann)["sessionId"].clone();

    assert_eq!(said(&ann, "/new", "n-2"), "\u{2705} New session started.");
    assert_ne!(session(&ann)["sessionId"], before);
    assert_eq!(said(&ann, "/reset tell me a story", "n-3"), "ok");

    let requests = provider.requests();
    let last = asked(requests.last().unwrap());
    assert!(last.contains("tell me a story"), "{last}");
    assert!(!last.contains("4711") && !last.contains("/new") && !last.contains("New session"), "{last}");
}

#[test]
fn protocol_3_is_greeted_in_a_new_session() {
    let provider = Provider::start();
    provider.then(Turn::text("Good evening!"));
    let server = Server::with().config(&provider.config()).start();
    let old = server.client("old", Proto::V3, &ConnectOptions::operator("old"));

    assert_eq!(said(&old, "/new", "g-1"), "Good evening!");
    let asked = asked(&provider.requests()[0]);
    assert!(asked.contains("Greet the person") && !asked.contains("/new"), "{asked}");
}

#[test]
fn a_command_is_answered_while_a_run_goes_on_and_abort_ends_it() {
    let provider = Provider::start();
    provider.then(Turn::text("one two three").hold_after(1));
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    send(&ann, "hello", "w-1");
    provider.wait_until_held();

    assert!(said(&ann, "/status", "w-2").contains("Model: double/echo"));
    let stopped = send(&ann, "/cancel", "w-3");

    assert_eq!(stopped, json!({ "ok": true, "aborted": true, "runIds": ["w-1"] }));
    ann.expect_event_where("chat", |chat| chat["runId"] == "w-1").with("/state", "aborted").with("/stopReason", "stop");
    provider.release();
}

#[test]
fn the_command_line_gets_a_second_answer() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    let ask = |text: &str, key: &str| {
        let params = json!({ "sessionKey": KEY, "message": text, "idempotencyKey": key });
        let pending = ann.start("agent", Some(params));
        let second = ann.second_answer(&pending)["payload"].clone();
        assert_eq!(ann.wait(pending).expect_ok()["status"], "accepted");
        assert_eq!(ann.call("agent.wait", json!({ "runId": key })).expect_ok()["status"], "ok");
        second
    };
    let second = ask("/new", "a-1");
    assert_eq!((&second["status"], &second["summary"]), (&json!("ok"), &json!("completed")), "{second}");
    let payload = json!({ "text": "\u{2705} New session started.", "isStatusNotice": true });
    assert_eq!(second["result"]["payloads"], json!([payload]));
    assert_eq!(second["result"]["meta"]["agentMeta"]["sessionId"], session(&ann)["sessionId"]);
    assert_eq!(ask("/stop", "a-2")["result"]["payloads"][0]["text"], "Nothing is running.");
    let again = ann.call("agent", json!({ "sessionKey": KEY, "message": "/new", "idempotencyKey": "a-1" })).expect_ok();
    assert_eq!(again["status"], "ok");
    assert!(provider.requests().is_empty());
}

#[test]
fn who_may_not_call_the_method_may_not_give_the_command() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let reader = server.client("reader", Proto::V4, &ConnectOptions::operator("reader").scopes(&["operator.read"]));
    let scopes = ["operator.read", "operator.write"];
    let writer = server.client("writer", Proto::V4, &ConnectOptions::operator("writer").scopes(&scopes));
    let old = server.client("old", Proto::V3, &ConnectOptions::operator("oldwriter").scopes(&scopes));
    said(&writer, "hello", "r-0");
    let before = session(&writer)["sessionId"].clone();

    let params = json!({ "sessionKey": KEY, "message": "/status", "idempotencyKey": "r-1" });
    reader.call("chat.send", params).expect_err("FORBIDDEN").message("missing scope: operator.write");
    let mut n = 1;
    for text in ["/new", "/reset and then this", "/compact", "/verbose on", "/queue steer", "/send off"] {
        n += 1;
        let words = said(&writer, text, &format!("r-{n}"));
        assert!(words.contains("missing scope: operator.admin"), "{text}: {words}");
    }
    // As light as the field it changes, which on protocol 3 nobody changes without `operator.admin`.
    assert_eq!(said(&writer, "/think low", "r-20"), "Thinking: low.");
    assert!(said(&old, "/think high", "r-21").contains("missing scope: operator.admin"));
    assert!(said(&old, "/think", "r-22").starts_with("Thinking: low."));

    let after = session(&writer);
    assert_eq!(after["sessionId"], before, "nothing was started again");
    for field in ["verboseLevel", "queueMode", "sendPolicy"] {
        assert!(after.get(field).is_none(), "{after}");
    }
    assert_eq!(provider.requests().len(), 1, "no model was asked with a command");
}

#[test]
fn a_command_is_carried_out_once_and_survives_a_kill() {
    let provider = Provider::start();
    let mut server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    said(&ann, "hello", "k-0");
    said(&ann, "/new", "k-1");
    said(&ann, "/think high", "k-2");
    let before = session(&ann);

    assert_eq!(send(&ann, "/new", "k-1"), json!({ "runId": "k-1", "status": "ok" }));
    server.kill_and_restart();
    let ann = server.operator("ann");
    assert_eq!(send(&ann, "/new", "k-1"), json!({ "runId": "k-1", "status": "ok" }));

    let after = session(&ann);
    assert_eq!(after["sessionId"], before["sessionId"], "started again once");
    assert_eq!(after["thinkingLevel"], "high");
    let history = ann.call("chat.history", json!({ "sessionKey": KEY })).expect_ok();
    assert_eq!(history["messages"].to_string().matches("New session started").count(), 1, "{history}");
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn directives_among_words_count_for_that_message_alone() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");

    assert_eq!(said(&ann, "/think high what is the sum?", "d-1"), "ok");
    assert_eq!(said(&ann, "and now?", "d-2"), "ok");

    let requests = provider.requests();
    assert_eq!(requests[0].body["reasoning_effort"], "high", "{}", requests[0].body);
    assert_ne!(requests[1].body["reasoning_effort"], "high", "{}", requests[1].body);
    assert!(asked(&requests[0]).contains("what is the sum?") && !asked(&requests[0]).contains("/think"));
    assert!(session(&ann).get("thinkingLevel").is_none());
}

#[test]
fn a_shortcut_among_words_is_answered_beside_them() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");

    send(&ann, "/status and how are you?", "s-1");

    let beside = ann.expect_event_where("chat", |chat| chat["runId"].as_str().unwrap().starts_with("inject-"));
    assert!(beside.payload["message"]["content"][0]["text"].as_str().unwrap().contains("Model: double/echo"));
    ann.expect_event_where("chat", |chat| chat["runId"] == "s-1" && chat["state"] == "final");
    let asked = asked(&provider.requests()[0]);
    assert!(asked.contains("and how are you?") && !asked.contains("Model: double/echo"), "{asked}");
}

#[test]
fn a_conversation_is_summarised_on_request() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    said(&ann, "the code is 4711", "z-1");
    said(&ann, "and the door is green", "z-2");
    provider.then(Turn::text("The code is 4711.").usage(30, 5, 0));

    let words = said(&ann, "/compact keep the code", "z-3");

    assert!(words.contains("summarised"), "{words}");
    let summary = asked(&provider.requests()[2]);
    assert!(summary.contains("keep the code") && summary.contains("the code is 4711"), "{summary}");
    assert!(!summary.contains("the door is green"), "the newest turn stays as it is: {summary}");
    assert_eq!(session(&ann)["compactionCount"], 1);
    said(&ann, "what is the code?", "z-4");
    let last = asked(&provider.requests()[3]);
    assert!(last.contains("The code is 4711.") && !last.contains("/compact") && !last.contains("summarised"), "{last}");
    assert!(!last.contains("the code is 4711"), "the summary stands for it: {last}");
}

#[test]
fn a_summary_that_a_kill_interrupted_is_made_after_it() {
    let provider = Provider::start();
    let mut server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    said(&ann, "the code is 4711", "x-1");
    said(&ann, "and the door is green", "x-2");
    provider.then(Turn::text("lost").hold_after(0)).then(Turn::text("The code is 4711."));
    send(&ann, "/compact", "x-3");
    provider.wait_until_held();

    server.kill_and_restart();
    let ann = server.operator("ann");

    assert_eq!(ann.call("agent.wait", json!({ "runId": "x-3" })).expect_ok()["status"], "ok");
    assert_eq!(session(&ann)["compactionCount"], 1);
    let summary = asked(&provider.requests()[3]);
    assert!(summary.contains("the code is 4711") && summary.contains("Summarise"), "{summary}");
    provider.release();
}

#[test]
fn a_new_session_with_words_ends_the_run_of_the_old_one() {
    let provider = Provider::start();
    provider.then(Turn::text("one two three").hold_after(1));
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    send(&ann, "an old question", "v-1");
    provider.wait_until_held();

    send(&ann, "/new a new question", "v-2");

    ann.expect_event_where("chat", |chat| chat["runId"] == "v-1" && chat["state"] == "aborted");
    provider.release();
    ann.expect_event_where("chat", |chat| chat["runId"] == "v-2" && chat["state"] == "final");
    let last = asked(provider.requests().last().unwrap());
    assert!(last.contains("a new question") && !last.contains("an old question"), "{last}");
    let history = ann.call("chat.history", json!({ "sessionKey": KEY })).expect_ok()["messages"].to_string();
    assert!(!history.contains("an old question") && !history.contains("one"), "{history}");
}

#[test]
fn a_client_has_a_session_summarised_unless_it_is_busy() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    let compact = || ann.call("sessions.compact", json!({ "key": KEY }));
    assert_eq!(compact().expect_ok()["reason"], "no sessionId");
    said(&ann, "the code is 4711", "y-1");
    assert_eq!(compact().expect_ok()["reason"], "nothing to compact");
    said(&ann, "and the door is green", "y-2");
    provider.then(Turn::text("The code is 4711.").hold_after(0));

    let pending = ann.start("sessions.compact", Some(json!({ "key": KEY })));
    provider.wait_until_held();
    compact().expect_err("UNAVAILABLE").message("the session is busy");
    send(&ann, "what is the code?", "y-3");
    provider.release();
    let done = ann.wait(pending).expect_ok();

    assert_eq!((&done["compacted"], &done["result"]["summary"]), (&json!(true), &json!("The code is 4711.")), "{done}");
    let history = ann.call("chat.history", json!({ "sessionKey": KEY })).expect_ok();
    let first_kept = done["result"]["firstKeptEntryId"].as_str().unwrap();
    let messages = history["messages"].as_array().unwrap();
    let kept = messages.iter().find(|message| message["__openclaw"]["id"] == first_kept).unwrap();
    assert!(kept["content"].to_string().contains("and the door is green"), "{kept}");
    ann.expect_event_where("chat", |chat| chat["runId"] == "y-3" && chat["state"] == "final");
    let last = asked(provider.requests().last().unwrap());
    assert!(last.contains("The code is 4711.") && !last.contains("the code is 4711"), "{last}");
    assert_eq!(session(&ann)["compactionCount"], 1);
}

#[test]
fn commands_are_listed_with_what_may_follow() {
    let server = Server::with().model().start();
    let ann = server.operator("ann");
    let listed = ann.call("commands.list", json!({ "scope": "text" })).expect_ok();
    let commands = listed["commands"].as_array().unwrap();
    let think = commands.iter().find(|command| command["name"] == "think").unwrap();
    assert_eq!(think["args"][0]["name"], "level");
    let bare = ann.call("commands.list", json!({ "includeArgs": false })).expect_ok();
    assert!(bare["commands"].as_array().unwrap().iter().all(|command| command.get("args").is_none()));
    ann.call("commands.list", json!({ "agentId": "nobody" }))
        .expect_err("INVALID_REQUEST")
        .message("unknown agent id \"nobody\"");
}
