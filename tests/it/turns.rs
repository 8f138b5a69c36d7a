//! Turns: a message, the model that answers it, and everybody who watches.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::client::Pending;
use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::provider::{Format, KEY, Provider, Turn};
use crate::harness::server::ServerBuilder;
use crate::harness::{Client, Server};

/// Longest way from a failing model to the answer of the one that stands in.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

fn key(name: &str) -> String {
    format!("agent:main:{name}")
}

fn with(provider: &Provider) -> ServerBuilder {
    Server::with().config(&provider.config())
}

/// Sends a message whose run has the id of its text.
fn start(client: &Client, session: &str, text: &str) -> Pending {
    let params = json!({ "sessionKey": key(session), "message": text, "idempotencyKey": text });
    client.start("chat.send", Some(params))
}

#[track_caller]
fn send(client: &Client, session: &str, text: &str) {
    let answer = client.wait(start(client, session, text)).expect_ok();
    assert_eq!(answer["runId"], text, "{answer}");
}

/// How a run ended.
#[track_caller]
fn end_of(client: &Client, run_id: &str) -> Value {
    let end = client.call("agent.wait", json!({ "runId": run_id, "timeoutMs": 15_000 })).expect_ok();
    assert_ne!(end["status"], "timeout", "{run_id} has no end");
    end
}

/// A session's messages as `role: text`; a message without words as its error, its call or its kind. What says that a
/// conversation began anew is no part of it.
fn told(client: &Client, session: &str) -> Vec<String> {
    let history = client.call("chat.history", json!({ "sessionKey": key(session), "limit": 200 })).expect_ok();
    let words = |message: &Value| {
        let parts: Vec<String> = message["content"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|part| part["text"].as_str().or(part["name"].as_str()).unwrap_or("?").to_owned())
            .collect();
        match (message["errorMessage"].as_str(), message["content"].as_str()) {
            (Some(error), _) => format!("({error})"),
            (None, Some(text)) => text.to_owned(),
            (None, None) => parts.join(" "),
        }
    };
    let line = |message: &Value| format!("{}: {}", message["role"].as_str().unwrap_or("?"), words(message));
    let messages = history["messages"].as_array().expect("a history has messages").iter();
    messages.filter(|message| message["__openclaw"]["kind"] != "reset").map(line).collect()
}

/// What the newest request says last.
fn newest(provider: &Provider) -> String {
    let requests = provider.requests();
    let last = requests.last().expect("it was asked");
    last.messages().last().expect("something was said")["content"].to_string()
}

/// The `chat` events of a run, oldest first.
fn chats(client: &Client, run_id: &str) -> Vec<Value> {
    let events = client.events(0).into_iter().filter(|frame| frame["event"] == "chat");
    events.map(|frame| frame["payload"].clone()).filter(|payload| payload["runId"] == run_id).collect()
}

#[test]
fn a_streamed_answer_reaches_everybody_in_the_right_order_on_both_protocols() {
    let provider = Provider::start();
    let words = "the lamp in the attic is on and nobody knows why that is so";
    provider.then(Turn::text(words).delay(Duration::from_millis(40)));
    let server = with(&provider).start();
    let new = server.operator("new");
    let old = server.client("old", Proto::V3, &ConnectOptions::operator("old"));

    send(&new, "attic", "what-is-on");

    for client in [&new, &old] {
        client.expect_event_where("chat", |chat| chat["runId"] == "what-is-on" && chat["state"] == "final");
        let chats = chats(client, "what-is-on");
        let deltas: Vec<&Value> = chats.iter().filter(|chat| chat["state"] == "delta").collect();
        assert!(deltas.len() >= 2, "it was streamed: {chats:#?}");
        let mut before = String::new();
        for delta in &deltas {
            let text = delta["message"]["content"][0]["text"].as_str().expect("a delta has the text so far");
            assert!(text.len() > before.len() && text.starts_with(&before), "{text:?} after {before:?}");
            assert!(words.starts_with(text), "{text:?}");
            if client.hello["protocol"] == 4 {
                assert_eq!(format!("{before}{}", delta["deltaText"].as_str().unwrap()), text);
            } else {
                assert!(delta.get("deltaText").is_none() && delta.get("agentId").is_none(), "{delta}");
            }
            text.clone_into(&mut before);
        }
        let last = chats.last().unwrap();
        assert_eq!((&last["state"], &last["message"]["content"][0]["text"]), (&json!("final"), &json!(words)));
        assert_eq!(chats.iter().filter(|chat| chat["state"] == "final").count(), 1, "one end");
        let seqs: Vec<u64> = chats.iter().map(|chat| chat["seq"].as_u64().unwrap()).collect();
        assert!(seqs.is_sorted(), "{seqs:?}");
        // What is final can be read at once.
        assert_eq!(told(client, "attic"), ["user: what-is-on".to_owned(), format!("assistant: {words}")]);
    }
}

#[test]
fn agent_answers_twice_and_whoever_waits_is_told_the_end() {
    let provider = Provider::start();
    provider.then(Turn::text("it is nine").hold_after(0));
    let server = with(&provider).start();
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    let from = ann.mark();
    let ask = json!({ "message": "what time is it", "sessionKey": key("clock"), "idempotencyKey": "clock-1" });
    let pending = ann.start("agent", Some(ask.clone()));
    let first = ann.wait(pending).expect_ok();
    assert_eq!((&first["status"], &first["runId"]), (&json!("accepted"), &json!("clock-1")), "{first}");
    let early = bob.call("agent.wait", json!({ "runId": "clock-1", "timeoutMs": 50 })).expect_ok();
    assert_eq!(early, json!({ "runId": "clock-1", "status": "timeout" }));
    let wait = bob.start("agent.wait", Some(json!({ "runId": "clock-1", "timeoutMs": 15_000 })));

    provider.release();

    let end = bob.wait(wait).expect_ok();
    assert_eq!(end["status"], "ok", "{end}");
    assert!(end["endedAt"].as_i64() >= end["startedAt"].as_i64() && end["startedAt"].is_i64(), "{end}");
    ann.expect_event_where("chat", |chat| chat["state"] == "final");
    ann.call_bare("health").expect_ok();
    let answers: Vec<Value> = server
        .inbox
        .since(from)
        .iter()
        .filter_map(|arrival| arrival.frame().cloned())
        .filter(|frame| {
            frame["type"] == "res" && frame["payload"]["runId"] == "clock-1" && frame["payload"]["result"].is_object()
        })
        .collect();
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert_eq!(answers[0]["payload"]["result"]["payloads"][0]["text"], "it is nine");
    assert_eq!(answers[0]["payload"]["result"]["meta"]["agentMeta"]["model"], "echo");

    // The same call again is the same run.
    let again = ann.call("agent", ask).expect_ok();
    assert_eq!((&again["runId"], &again["status"]), (&json!("clock-1"), &json!("ok")), "{again}");
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn an_abort_hangs_up_on_the_provider_at_once_and_keeps_what_was_said() {
    let provider = Provider::start();
    provider.then(Turn::text("one two three four").hold_after(3));
    let server = with(&provider).start();
    let ann = server.operator("ann");
    send(&ann, "long", "tell-me");
    provider.wait_until_held();
    ann.expect_event_where("chat", |chat| chat["state"] == "delta");

    let aborted = ann.call("chat.abort", json!({ "sessionKey": key("long"), "runId": "tell-me" })).expect_ok();
    assert_eq!(aborted, json!({ "ok": true, "aborted": true, "runIds": ["tell-me"] }));

    let left = provider.hung_up_after(0, Duration::from_secs(10)).expect("the connection is closed");
    assert!(left < Duration::from_millis(500), "{left:?}");
    let seen = ann.expect_event_where("chat", |chat| chat["state"] == "aborted");
    let partial = seen.payload["message"]["content"][0]["text"].as_str().unwrap().to_owned();
    assert!(!partial.is_empty() && "one two three four".starts_with(partial.trim_end()), "{partial:?}");
    assert_eq!(told(&ann, "long"), ["user: tell-me".to_owned(), format!("assistant: {partial}")]);
    let end = end_of(&ann, "tell-me");
    assert_eq!((&end["status"], &end["stopReason"]), (&json!("error"), &json!("rpc")), "{end}");
    provider.release();

    // The session goes on, and the model knows how far it came.
    send(&ann, "long", "go-on");
    assert_eq!(end_of(&ann, "go-on")["status"], "ok");
    let sent = provider.requests()[1].body.to_string();
    assert!(sent.contains(partial.trim()) && sent.contains("go-on"), "{sent}");
}

#[test]
fn one_session_answers_in_order_and_two_at_once() {
    let provider = Provider::start();
    provider.then(Turn::text("first").hold_after(0)).then(Turn::text("other")).then(Turn::text("second"));
    let server = with(&provider).start();
    let ann = server.operator("ann");
    send(&ann, "left", "one");
    provider.wait_for_requests(1);
    send(&ann, "left", "two");
    send(&ann, "right", "three");

    // The other session's answer comes while the first one's is held.
    assert_eq!(end_of(&ann, "three")["status"], "ok");
    assert_eq!(provider.requests().len(), 2, "the second message of the busy session waits");
    assert_eq!(told(&ann, "left"), ["user: one"], "and is not in its transcript before its turn");
    provider.release();
    for run_id in ["one", "two"] {
        assert_eq!(end_of(&ann, run_id)["status"], "ok");
    }
    assert_eq!(told(&ann, "left"), ["user: one", "assistant: first", "user: two", "assistant: second"]);
    assert_eq!(told(&ann, "right"), ["user: three", "assistant: other"]);
}

#[test]
fn a_full_queue_says_who_gives_way() {
    for (drop, loser) in [("new", "four"), ("old", "two")] {
        let provider = Provider::start();
        provider.then(Turn::text("ok").hold_after(0));
        let queue = json!({ "messages": { "queue": { "cap": 2, "drop": drop } } });
        let server = with(&provider).config(&queue).start();
        let ann = server.operator("ann");
        send(&ann, "full", "one");
        provider.wait_for_requests(1);
        for text in ["two", "three", "four"] {
            send(&ann, "full", text);
        }
        let seen = ann.expect_event_where("chat", |chat| chat["state"] == "error");
        seen.with("/runId", loser).with("/errorMessage", "dropped_session_full");
        let end = end_of(&ann, loser);
        assert_eq!((&end["status"], &end["error"]), (&json!("error"), &json!("dropped_session_full")), "{end}");
        provider.release();
        for text in ["one", "two", "three", "four"].into_iter().filter(|text| *text != loser) {
            assert_eq!(end_of(&ann, text)["status"], "ok", "{text}");
        }
        let told = told(&ann, "full").join("\n");
        assert!(!told.contains(loser), "{loser} had no turn: {told}");
        assert_eq!(provider.requests().len(), 3);
    }
}

#[test]
fn messages_over_all_sessions_are_bounded_too() {
    /// The smallest bound that takes effect.
    const PENDING_MAX: usize = 16;
    let provider = Provider::start();
    provider.then(Turn::text("ok").hold_after(0));
    let small = json!({ "runtime": { "worker_concurrency": 1, "max_queue": PENDING_MAX } });
    let server = with(&provider).config(&small).start();
    let ann = server.operator("ann");
    send(&ann, "busy", "first");
    provider.wait_for_requests(1);
    for n in 0..=PENDING_MAX {
        send(&ann, &format!("waits-{n}"), &format!("more-{n}"));
    }
    let seen = ann.expect_event_where("chat", |chat| chat["state"] == "error");
    assert_eq!(seen.payload["errorMessage"], "dropped_capacity", "{}", seen.payload);
    let loser = seen.payload["runId"].as_str().unwrap().to_owned();
    provider.release();
    let mut ends: Vec<Value> = (0..=PENDING_MAX).map(|n| end_of(&ann, &format!("more-{n}"))).collect();
    ends.retain(|end| end["status"] != "ok");
    assert_eq!(ends.len(), 1, "{ends:#?}");
    assert_eq!(ends[0]["runId"], loser.as_str());
}

#[test]
fn a_tool_is_called_and_its_answer_said_to_the_model() {
    let provider = Provider::start();
    provider.then(Turn::call("read", json!({ "path": "cave.txt" }))).then(Turn::text("it is dark in there"));
    let server = with(&provider).start();
    let workspace = server.state_dir().join("workspace");
    std::fs::create_dir_all(&workspace).unwrap();
    std::fs::write(workspace.join("cave.txt"), "as dark as it gets\n").unwrap();
    let mut options = ConnectOptions::operator("ann");
    options.extra.insert("caps".to_owned(), json!(["tool-events"]));
    let ann = server.client("ann", Proto::V4, &options);

    send(&ann, "cave", "how-is-it");

    let is_tool =
        |phase: &'static str| move |event: &Value| event["stream"] == "tool" && event["data"]["phase"] == phase;
    ann.expect_event_where("agent", is_tool("start")).with("/data/name", "read").with("/data/args/path", "cave.txt");
    let result = ann.expect_event_where("agent", is_tool("result")).with("/data/isError", false);
    assert!(result.payload.to_string().contains("as dark as it gets"), "{}", result.payload);
    assert_eq!(end_of(&ann, "how-is-it")["status"], "ok");
    let requests = provider.requests();
    let said = requests[1].messages().last().unwrap();
    assert_eq!((&said["role"], &said["tool_call_id"]), (&json!("tool"), &json!("call_read_0")));
    assert!(said["content"].as_str().unwrap().contains("as dark as it gets"), "{said}");
    let told = told(&ann, "cave");
    assert_eq!(told.len(), 4, "{told:#?}");
    assert_eq!((told[1].as_str(), told[3].as_str()), ("assistant: read", "assistant: it is dark in there"));
    assert!(told[2].starts_with("toolResult: ") && told[2].contains("as dark as it gets"), "{told:#?}");
}

#[test]
fn a_run_that_takes_too_long_ends_and_its_session_goes_on() {
    let provider = Provider::start();
    provider.then(Turn::text("one two three").stall_after(2));
    let server = with(&provider).start();
    let ann = server.operator("ann");
    let began = Instant::now();
    let params = json!({ "sessionKey": key("slow"), "message": "hurry", "idempotencyKey": "hurry", "timeoutMs": 400 });
    ann.call("chat.send", params).expect_ok();

    let seen = ann.expect_event_where("chat", |chat| chat["runId"] == "hurry" && chat["state"] == "aborted");

    seen.with("/stopReason", "timeout");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let end = end_of(&ann, "hurry");
    assert_eq!((&end["status"], &end["stopReason"]), (&json!("error"), &json!("timeout")), "{end}");
    assert!(end["error"].as_str().unwrap().contains("longer than it may"), "{end}");
    send(&ann, "slow", "again");
    assert_eq!(end_of(&ann, "again")["status"], "ok");
}

#[test]
fn whoever_stands_in_for_a_failing_model_answers_within_ten_seconds() {
    let failures: [(&str, fn() -> Turn); 8] = [
        ("429", || Turn::status(429).header("retry-after", "60")),
        ("401", || Turn::status(401)),
        ("404", || Turn::status(404)),
        ("500", || Turn::status(500)),
        ("silent", || Turn::text("late").first_after(Duration::from_secs(60))),
        ("stalled", || Turn::text("one two three").stall_after(2)),
        ("cut", || Turn::text("one two three").cut_after(2)),
        ("gone", Turn::hang_up),
    ];
    let (first, second) = (Provider::start(), Provider::start_with(|_| Turn::text("I stand in")));
    let mut config = first.config();
    let mut entry = first.entry(Format::Chat);
    entry["timeoutMs"] = json!(1000);
    config["models"]["providers"]["double"] = entry;
    config["models"]["providers"]["spare"] = second.entry(Format::Chat);
    config["agents"]["defaults"]["model"]["fallbacks"] = json!(["spare/echo"]);
    for (name, turn) in failures {
        // A gateway of its own for each: who failed once rests for a while.
        let server = Server::with().config(&config).start();
        let ann = server.operator("ann");
        let before = first.requests().len();
        first.then(turn());
        let began = Instant::now();
        send(&ann, "failover", name);
        let end = end_of(&ann, name);
        assert_eq!(end["status"], "ok", "{name}: {end}");
        assert!(began.elapsed() < FAILOVER_MAX, "{name} took {:?}", began.elapsed());
        assert!(first.requests().len() > before, "{name}: the first was asked");
        assert_eq!(told(&ann, "failover"), [format!("user: {name}"), "assistant: I stand in".to_owned()]);
        let events = ann.events(0);
        let is_fallback = |frame: &&Value| frame["event"] == "agent" && frame["payload"]["data"]["phase"] == "fallback";
        let fallback = events.iter().find(is_fallback).unwrap_or_else(|| panic!("{name}: nobody was told"));
        assert_eq!(fallback["payload"]["data"]["to"], "spare/echo", "{name}");
        let finals = chats(&ann, name).into_iter().filter(|chat| chat["state"] == "final");
        let finals: Vec<Value> = finals.map(|chat| chat["message"]["content"][0]["text"].clone()).collect();
        assert_eq!(finals, [json!("I stand in")], "{name}");
    }
}

#[test]
fn nobody_to_ask_is_said_with_what_to_configure() {
    let server = Server::start();
    let ann = server.operator("ann");
    send(&ann, "alone", "hello");
    let seen = ann.expect_event_where("chat", |chat| chat["state"] == "error");
    let error = seen.payload["errorMessage"].as_str().unwrap();
    assert!(error.contains("no model is configured") && error.contains("API key"), "{error}");
    let end = end_of(&ann, "hello");
    assert_eq!((&end["status"], &end["error"]), (&json!("error"), &json!(error)), "{end}");
}

#[test]
fn a_session_that_is_reset_or_deleted_takes_its_run_with_it() {
    for method in ["sessions.reset", "sessions.delete"] {
        let provider = Provider::start();
        provider.then(Turn::text("one two three").hold_after(2));
        let server = with(&provider).start();
        // Not a page: those may not delete.
        let ann = server.operator("ann");
        send(&ann, "gone", "first");
        provider.wait_until_held();
        send(&ann, "gone", "waiting");

        ann.call(method, json!({ "key": key("gone") })).expect_ok();

        assert!(provider.hung_up_after(0, Duration::from_secs(10)).is_some(), "{method}: the provider is still asked");
        for run_id in ["first", "waiting"] {
            assert_eq!(end_of(&ann, run_id)["status"], "error", "{method}: {run_id}");
            let ends = chats(&ann, run_id).into_iter().filter(|chat| chat["state"] == "aborted").count();
            assert_eq!(ends, 1, "{method}: {run_id}");
        }
        provider.release();
        assert_eq!(told(&ann, "gone"), Vec::<String>::new(), "{method}: nothing of it comes back");
        send(&ann, "gone", "anew");
        assert_eq!(end_of(&ann, "anew")["status"], "ok");
        assert_eq!(told(&ann, "gone"), ["user: anew", "assistant: ok"], "{method}");
        let sent = provider.requests().last().unwrap().body.to_string();
        assert!(!sent.contains("first") && !sent.contains("waiting"), "{method}: it is a new conversation: {sent}");
    }
}

#[test]
fn a_webhook_gets_its_run() {
    let provider = Provider::start();
    provider.then(Turn::text("I close it"));
    let hooks = json!({ "hooks": { "enabled": true, "token": "hook-token-77aa", "allowRequestSessionKey": true } });
    let server = with(&provider).config(&hooks).start();
    let ann = server.operator("ann");
    let headers = [("Authorization", "Bearer hook-token-77aa"), ("Content-Type", "application/json")];
    let body = json!({ "message": "the door is open", "sessionKey": key("hook:door") }).to_string();

    let answer = server.http("POST", "/hooks/agent", &headers, body.as_bytes()).json();

    assert_eq!(end_of(&ann, answer["runId"].as_str().expect("a run"))["status"], "ok");
    assert!(newest(&provider).contains("the door is open"), "{}", newest(&provider));
    assert_eq!(told(&ann, "hook:door").last().unwrap(), "assistant: I close it");
}

#[test]
fn a_run_under_way_outlives_a_restart_and_says_so() {
    for is_killed in [true, false] {
        let provider = Provider::start();
        provider.then(Turn::text("one two three four").hold_after(2)).then(Turn::text("from the start again"));
        let mut server = with(&provider).start();
        let ann = server.operator("ann");
        send(&ann, "kept", "tell-me");
        send(&ann, "kept", "and-this");
        provider.wait_until_held();
        ann.expect_event_where("chat", |chat| chat["state"] == "delta");
        if !is_killed {
            server.signal(libc::SIGTERM);
            assert!(server.wait().success(), "{}", server.stderr());
        }
        drop(ann);

        server.kill_and_restart();

        let ann = server.operator("ann");
        assert_eq!(end_of(&ann, "tell-me")["status"], "ok", "killed: {is_killed}");
        assert_eq!(end_of(&ann, "and-this")["status"], "ok", "killed: {is_killed}");
        provider.release();
        let all = ["user: tell-me", "assistant: from the start again", "user: and-this", "assistant: ok"];
        assert_eq!(told(&ann, "kept"), all, "killed: {is_killed}");
        let history = ann.call("chat.history", json!({ "sessionKey": key("kept") })).expect_ok();
        assert_eq!(history["messages"][1]["continuedAfterRestart"], true, "{history}");
        assert!(history["messages"][3].get("continuedAfterRestart").is_none(), "it had not begun: {history}");
        assert_eq!(provider.requests().len(), 3);
    }
}

#[test]
fn a_call_under_way_at_a_restart_is_not_made_again() {
    let provider = Provider::start();
    // The call is written down, its answer is said to the model, and that is where it ends.
    provider.then(Turn::call("read", json!({ "path": "cave.txt" }))).then(Turn::text("never said").hold_after(0));
    provider.then(Turn::text("it is dark"));
    let mut server = with(&provider).start();
    let ann = server.operator("ann");
    send(&ann, "cave", "how-is-it");
    provider.wait_until_held();
    drop(ann);

    server.kill_and_restart();

    let ann = server.operator("ann");
    assert_eq!(end_of(&ann, "how-is-it")["status"], "ok");
    let told = told(&ann, "cave");
    assert_eq!(told.len(), 4, "one call, one result, one answer: {told:#?}");
    assert_eq!(told[3], "assistant: it is dark");
    let requests = provider.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[1].messages().last(), requests[2].messages().last(), "the model is told the same again");
    provider.release();
}

#[test]
fn a_message_steers_the_run_that_goes_on() {
    let provider = Provider::start();
    provider.then(Turn::call("read", json!({ "path": "none.txt" })).hold_after(1)).then(Turn::text("both then"));
    let server = with(&provider).start();
    let ann = server.operator("ann");
    send(&ann, "steered", "look");
    provider.wait_until_held();
    let params = json!({ "sessionKey": key("steered"), "message": "no, listen", "idempotencyKey": "listen", "queueMode": "steer" });
    ann.call("chat.send", params).expect_ok();

    provider.release();

    for run_id in ["look", "listen"] {
        assert_eq!(end_of(&ann, run_id)["status"], "ok", "{run_id}");
    }
    assert_eq!(provider.requests().len(), 2, "one run answers both");
    assert!(newest(&provider).contains("no, listen"), "{}", newest(&provider));
    let told = told(&ann, "steered");
    assert_eq!(told.last().unwrap(), "assistant: both then", "{told:#?}");
    assert_eq!(told.iter().filter(|line| *line == "user: no, listen").count(), 1, "{told:#?}");
}

#[test]
fn many_sessions_are_answered_at_once_each_in_its_own_words() {
    let provider = Provider::start_with(|request| {
        let text = request.messages().last().expect("something was said")["content"].to_string();
        let number: String = text.split("number-").nth(1).unwrap_or("?").chars().take(2).collect();
        Turn::text(&format!("you are {number} indeed")).delay(Duration::from_millis(10))
    });
    let server = with(&provider).start();
    let ann = server.operator("ann");
    let names: Vec<String> = (10..42).map(|n| format!("number-{n}")).collect();
    let pending: Vec<Pending> = names.iter().map(|name| start(&ann, name, name)).collect();
    for pending in pending {
        ann.wait(pending).expect_ok();
    }
    for name in &names {
        assert_eq!(end_of(&ann, name)["status"], "ok");
        let number = name.trim_start_matches("number-");
        assert_eq!(told(&ann, name), [format!("user: {name}"), format!("assistant: you are {number} indeed")]);
    }
    assert!(
        provider.requests().iter().all(|request| request.header("authorization") == Some(&format!("Bearer {KEY}")))
    );
}

#[test]
fn a_session_that_was_deleted_or_reset_does_not_come_back_after_a_kill() {
    for method in ["sessions.delete", "sessions.reset"] {
        let provider = Provider::start_with(|_| Turn::text("one two three").stall_after(2));
        let mut server = with(&provider).start();
        for n in 0..5 {
            let ann = server.operator("ann");
            let (session, first, waits) = (format!("gone-{n}"), format!("first-{n}"), format!("waits-{n}"));
            let asked = provider.requests().len();
            send(&ann, &session, &first);
            provider.wait_for_requests(asked + 1);
            send(&ann, &session, &waits);
            ann.call(method, json!({ "key": key(&session) })).expect_ok();

            server.kill_and_restart();

            let ann = server.operator("ann");
            for run_id in [&first, &waits] {
                let end = end_of(&ann, run_id);
                assert_eq!(end["status"], "error", "{method}: {run_id} went with its session: {end}");
            }
            assert_eq!(told(&ann, &session), Vec::<String>::new(), "{method}");
        }
    }
}

#[test]
fn a_burst_keeps_its_order_while_runs_end_in_its_midst() {
    let provider = Provider::start();
    let many = json!({ "messages": { "queue": { "cap": 1000 } } });
    let server = with(&provider).config(&many).start();
    let ann = server.operator("ann");
    let names: Vec<String> = (0..240).map(|n| format!("message-{n:03}")).collect();
    for (round, some) in names.chunks(3).enumerate() {
        // The first one's run ends somewhere between the arrival of the others, in one round or another.
        let mut pending = vec![start(&ann, "burst", &some[0])];
        std::thread::sleep(Duration::from_micros(round as u64 % 40 * 250));
        pending.extend(some[1..].iter().map(|name| start(&ann, "burst", name)));
        for pending in pending {
            ann.wait(pending).expect_ok();
        }
        for name in some {
            assert_eq!(end_of(&ann, name)["status"], "ok", "{name}");
        }
    }
    let history = ann.call("chat.history", json!({ "sessionKey": key("burst"), "limit": 1000 })).expect_ok();
    let users = history["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
    let said: Vec<&str> = users.map(|message| message["content"].as_str().unwrap()).collect();
    assert_eq!(said, names);
}

#[test]
fn what_waits_for_its_turn_is_shown_below_the_conversation_until_it_has_it() {
    let provider = Provider::start();
    provider.then(Turn::text("first").hold_after(0));
    let server = with(&provider).start();
    let ann = server.operator("ann");
    send(&ann, "busy", "one");
    provider.wait_for_requests(1);
    let params = |name: &str| json!({ "sessionKey": key("busy"), "message": format!("say {name}"), "idempotencyKey": name, "queueMode": "followup" });
    for name in ["two", "three", "four"] {
        ann.call("chat.send", params(name)).expect_ok();
    }
    let look = |method: &str, more: Value| {
        let mut params = json!({ "sessionKey": key("busy") });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ann.call(method, params).expect_ok()
    };
    let words = |answer: &Value| -> Vec<String> {
        let items = answer["pendingInputs"]["items"].as_array().expect("what waits is listed").iter();
        items.map(|item| item["message"]["content"].as_str().unwrap_or("?").to_owned()).collect()
    };

    let history = look("chat.history", json!({}));
    assert_eq!(words(&history), ["say two", "say three", "say four"], "{history:#}");
    assert_eq!(words(&look("chat.startup", json!({}))), words(&history));
    let pending = &history["pendingInputs"];
    let item = &pending["items"][0];
    assert_eq!((&item["runId"], &item["state"], &pending["total"]), (&json!("two"), &json!("queued"), &json!(3)));
    let (id, shown) = (item["id"].as_str().unwrap(), &item["message"]);
    assert_eq!((&shown["role"], &shown["timestamp"]), (&json!("user"), &item["acceptedAt"]));
    assert_eq!(shown["__openclaw"]["id"], format!("pending:{id}"));
    assert!(shown["__openclaw"].get("idempotencyKey").is_none(), "{shown}");
    assert_eq!(told(&ann, "busy"), ["user: one"], "none of them is said yet");
    let delta = look("chat.history", json!({ "cursor": history["deltaCursor"] }));
    assert_eq!((&delta["kind"], words(&delta)), (&json!("delta"), words(&history)));

    // In pages, the newest first.
    let newest = look("chat.history", json!({ "limit": 2 }));
    assert_eq!(words(&newest), ["say three", "say four"]);
    let before = &newest["pendingInputs"]["nextBefore"];
    let oldest = look("chat.history", json!({ "limit": 2, "pendingBefore": before }));
    assert_eq!(words(&oldest), ["say two"]);
    assert!(oldest["pendingInputs"].get("nextBefore").is_none(), "{oldest:#}");

    let asked = json!({ "inputRunIds": ["one", "three", "nobody"] });
    let receipts = look("chat.history", asked.clone())["inputReceipts"].clone();
    assert_eq!((&receipts[0]["runId"], &receipts[0]["state"]), (&json!("one"), &json!("consumed")));
    assert_eq!(
        (&receipts[1], receipts.as_array().map(Vec::len)),
        (&json!({ "runId": "three", "state": "pending" }), Some(2))
    );

    provider.release();
    for name in ["two", "three", "four"] {
        end_of(&ann, name);
    }
    let history = look("chat.history", asked);
    assert_eq!(history["pendingInputs"], json!({ "items": [], "total": 0 }));
    let three =
        history["messages"].as_array().unwrap().iter().find(|message| message["content"] == "say three").unwrap();
    let consumed = json!({ "runId": "three", "consumedByEventId": three["__openclaw"]["id"] });
    assert_eq!(history["inputConsumptions"][1], consumed);
}

#[test]
fn a_history_can_be_asked_for_around_one_of_its_messages() {
    let provider = Provider::start();
    let server = with(&provider).start();
    let ann = server.operator("ann");
    for text in ["one", "two", "three", "four"] {
        send(&ann, "long", text);
        end_of(&ann, text);
    }
    let look = |more: Value| {
        let mut params = json!({ "sessionKey": key("long") });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ann.call("chat.history", params)
    };
    let all = look(json!({})).expect_ok();
    let messages = all["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 8);
    let id = |idx: usize| messages[idx]["__openclaw"]["id"].clone();
    let around = |idx: usize, limit: usize| {
        let page = look(json!({ "messageId": id(idx), "sessionId": all["sessionId"], "limit": limit })).expect_ok();
        assert!(page.get("hasMore").is_none() && page.get("deltaCursor").is_none(), "{page:#}");
        let place = |message: &Value| messages.iter().position(|known| known == message).expect("it is one of them");
        page["messages"].as_array().unwrap().iter().map(place).collect::<Vec<_>>()
    };

    assert_eq!(around(4, 3), [3, 4, 5]);
    assert_eq!(around(4, 1), [4]);
    assert_eq!(around(0, 3), [0, 1, 2], "what is not there on one side is taken from the other");
    assert_eq!(around(7, 3), [5, 6, 7]);
    assert_eq!(around(3, 99), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(look(json!({ "messageId": "nobody" })).expect_ok()["messages"], json!([]));
    for (params, why) in [
        (json!({ "messageId": id(1), "offset": 1 }), "offset and messageId cannot be used together"),
        (json!({ "messageId": id(1), "cursor": "x" }), "cursor cannot be used with offset or messageId"),
        (json!({ "sessionId": all["sessionId"] }), "sessionId requires messageId"),
        (json!({ "messageId": id(1), "sessionId": "other" }), "sessionId does not belong to sessionKey"),
    ] {
        look(params).expect_err("INVALID_REQUEST").message(why);
    }
    let many: Vec<String> = (0..51).map(|n| n.to_string()).collect();
    for (ids, why) in [(json!([]), "fewer than 1"), (json!(many), "more than 50"), (json!(["a", "a"]), "duplicate")] {
        let refused = look(json!({ "inputRunIds": ids })).expect_err("INVALID_REQUEST");
        assert!(refused.error["message"].as_str().unwrap().contains(why), "{refused:?}");
    }
}
