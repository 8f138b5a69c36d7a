//! What was spent, as clients of both protocols are told of it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use openclaw_rs::runtime::threads;
use serde_json::{Value, json};

use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::provider::{Provider, Turn};
use crate::harness::{Client, Server};

/// A server whose model has a price (`double/echo`), and another one that has none (`double/bare`).
fn start(provider: &Provider) -> Server {
    let mut config = provider.config();
    let models = &mut config["models"]["providers"]["double"]["models"];
    let mut bare = models[0].clone();
    bare["id"] = json!("bare");
    models[0]["cost"] = json!({ "input": 100_000, "output": 500_000, "cacheRead": 0, "cacheWrite": 0 });
    models.as_array_mut().expect("there is a list").push(bare);
    Server::with().config(&config).start()
}

/// A model that counts 10 tokens read and 6 written for whatever it says.
fn provider() -> Provider {
    Provider::start_with(|_| Turn::text("ok").usage(10, 6, 0))
}

/// Says something and waits for the answer.
fn say(client: &Client, session: &str, text: &str) {
    let params = json!({ "sessionKey": session, "message": text, "idempotencyKey": text });
    client.call("chat.send", params).expect_ok();
    let end = client.call("agent.wait", json!({ "runId": text, "timeoutMs": 15_000 })).expect_ok();
    assert_eq!(end["status"], "ok", "{end}");
}

fn ask(client: &Client, method: &str, params: Value) -> Value {
    client.call(method, params).expect_ok()
}

#[test]
fn what_was_spent_is_told_by_day_session_model_and_tool_and_outlives_the_session() {
    let provider = provider();
    let server = start(&provider);
    let ann = server.operator("ann");
    provider
        .then(Turn::call("session_status", json!({})).usage(10, 6, 0))
        .then(Turn::text("here you are").usage(10, 6, 0));
    say(&ann, "main", "one");
    ask(&ann, "sessions.patch", json!({ "key": "side", "model": "double/bare" }));
    say(&ann, "side", "two");

    let found = ask(&ann, "sessions.usage", json!({}));
    let (totals, all) = (&found["totals"], &found["aggregates"]);
    assert_eq!((&totals["input"], &totals["output"], &totals["totalTokens"]), (&json!(30), &json!(18), &json!(48)));
    assert_eq!((&totals["totalCost"], &totals["missingCostEntries"]), (&json!(8), &json!(1)), "{totals}");
    assert_eq!(totals["missingCostByModel"], json!({ "double/bare": 1 }));
    let counts = json!({ "total": 5, "user": 2, "assistant": 3, "toolCalls": 1, "toolResults": 1, "errors": 0 });
    assert_eq!(all["messages"], counts);
    assert_eq!(all["tools"]["tools"], json!([{ "name": "session_status", "count": 1 }]));
    assert_eq!((&all["byModel"][0]["model"], &all["byModel"][0]["count"]), (&json!("echo"), &json!(2)));
    assert_eq!((&all["byModel"][1]["model"], &all["byModel"][1]["totals"]["totalCost"]), (&json!("bare"), &json!(0)));
    assert_eq!((&all["sessionCount"], &all["latency"]["count"]), (&json!(2), &json!(3)));
    let sessions = found["sessions"].as_array().unwrap();
    let keys: Vec<&Value> = sessions.iter().map(|session| &session["key"]).collect();
    assert_eq!(keys, ["agent:main:side", "agent:main:main"], "the one heard of last comes first");
    assert_eq!((&sessions[1]["usage"]["totalCost"], &sessions[1]["hasContextWeight"]), (&json!(8), &json!(true)));

    let one = ask(&ann, "sessions.usage", json!({ "key": "main", "includeContextWeight": true }));
    assert_eq!((&one["count"], &one["totals"]["totalTokens"]), (&json!(1), &json!(32)));
    let weight = &one["sessions"][0]["contextWeight"];
    assert!(weight["systemPrompt"]["chars"].as_u64().unwrap() > 500, "{weight}");
    let tools: Vec<&Value> = weight["tools"]["entries"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    assert!(tools.contains(&&json!("read")) && tools.contains(&&json!("session_status")), "{weight}");
    ann.call("sessions.usage", json!({ "key": "nobody" }))
        .expect_err("INVALID_REQUEST")
        .message("Invalid session reference: nobody");

    let series = ask(&ann, "sessions.usage.timeseries", json!({ "key": "main" }));
    let points = series["points"].as_array().unwrap();
    assert_eq!(
        (points.len(), &points[1]["cumulativeTokens"], &points[1]["cumulativeCost"]),
        (2, &json!(32), &json!(8))
    );
    let logs = ask(&ann, "sessions.usage.logs", json!({ "key": "main" }));
    let said: Vec<&Value> = logs["logs"].as_array().unwrap().iter().map(|line| &line["content"]).collect();
    assert_eq!((said.len(), said[0], said[1]), (4, &json!("one"), &json!("[Tool: session_status]")));
    assert_eq!(
        (said[3], &logs["logs"][3]["tokens"], &logs["logs"][3]["cost"]),
        (&json!("here you are"), &json!(16), &json!(4))
    );

    // What was spent stays spent when the session goes, and is then listed by its transcript.
    ask(&ann, "sessions.delete", json!({ "key": "side" }));
    let after = ask(&ann, "sessions.usage", json!({}));
    assert_eq!(after["totals"], found["totals"]);
    let gone = &after["sessions"][0];
    assert_eq!(gone["key"], format!("agent:main:{}", gone["sessionId"].as_str().unwrap()));
    let again = ask(&ann, "sessions.usage", json!({ "key": gone["key"] }));
    assert_eq!(again["totals"]["missingCostEntries"], 1);
}

#[test]
fn a_session_that_was_reset_is_one_family() {
    let provider = provider();
    let server = start(&provider);
    let ann = server.operator("ann");
    say(&ann, "main", "one");
    ask(&ann, "sessions.reset", json!({ "key": "main" }));
    say(&ann, "main", "two");

    let apart = ask(&ann, "sessions.usage", json!({ "key": "main" }));
    assert_eq!(apart["totals"]["totalTokens"], 16);
    let family = ask(&ann, "sessions.usage", json!({ "key": "main", "groupBy": "family" }));
    let session = &family["sessions"][0];
    assert_eq!((&family["totals"]["totalTokens"], &session["historicalInstanceCount"]), (&json!(32), &json!(2)));
    assert_eq!((&session["scope"], &session["sessionFamilyKey"]), (&json!("family"), &json!("agent:main:main")));
    assert_eq!(ask(&ann, "sessions.usage", json!({}))["count"], 2);
}

#[test]
fn costs_are_told_by_day_on_both_protocols_and_kept_for_half_a_minute() {
    let provider = provider();
    let server = start(&provider);
    let (ann, old) = (server.operator("ann"), server.client("old", Proto::V3, &ConnectOptions::operator("old")));
    say(&ann, "main", "one");

    let first = ask(&ann, "usage.cost", json!({ "days": 7 }));
    let daily = first["daily"].as_array().unwrap();
    assert_eq!((&first["days"], daily.len(), &first["totals"]["totalCost"]), (&json!(7), 7, &json!(4)));
    assert_eq!((&daily[6]["totalCost"], &daily[5]["totalCost"]), (&json!(4), &json!(0)));
    assert_eq!(first["cacheStatus"]["status"], "fresh");
    say(&ann, "main", "two");
    assert_eq!(ask(&ann, "usage.cost", json!({ "days": 7 })), first, "the same question within half a minute");
    let other = ask(&ann, "usage.cost", json!({ "days": 8 }));
    assert_eq!(other["totals"]["totalCost"], 8);

    let seen = ask(&old, "usage.cost", json!({ "days": 7 }));
    let fields: Vec<&String> = seen.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["updatedAt", "days", "daily", "totals"]);
    assert_eq!((seen["daily"].as_array().unwrap().len(), &seen["totals"]["totalCost"]), (1, &json!(8)));
    let sessions = ask(&old, "sessions.usage", json!({}));
    assert_eq!(sessions["sessions"][0]["usage"]["totalTokens"], 32);
    assert!(sessions.get("cacheStatus").is_none() && sessions["totals"].get("missingCostByModel").is_none());
    for (client, proto) in [(&ann, Proto::V4), (&old, Proto::V3)] {
        let refused = client.call("usage.cost", json!({ "startDate": "bad", "endDate": "2026-01-31" }));
        refused.expect_err("INVALID_REQUEST").message("invalid startDate: expected a valid YYYY-MM-DD calendar date");
        let past = ask(client, "usage.cost", json!({ "startDate": "2026-01-01", "endDate": "2026-01-31" }));
        assert_eq!((&past["days"], &past["totals"]["totalTokens"]), (&json!(31), &json!(0)), "{proto:?}");
    }
}

#[test]
fn a_failed_run_pays_for_its_steps_once() {
    let provider = provider();
    let server = start(&provider);
    let ann = server.operator("ann");
    provider.then(Turn::call("session_status", json!({})).usage(10, 6, 0)).then(Turn::status(400));
    let params = json!({ "sessionKey": "main", "message": "one", "idempotencyKey": "one" });
    ann.call("chat.send", params).expect_ok();
    let end = ask(&ann, "agent.wait", json!({ "runId": "one", "timeoutMs": 15_000 }));
    assert_eq!(end["status"], "error", "{end}");

    let found = ask(&ann, "sessions.usage", json!({}));
    assert_eq!((&found["totals"]["totalTokens"], &found["totals"]["totalCost"]), (&json!(16), &json!(4)));
    assert_eq!(found["aggregates"]["messages"]["errors"], 1);
}

#[test]
fn the_usage_command_says_what_a_conversation_cost() {
    let provider = provider();
    let server = start(&provider);
    let ann = server.operator("ann");
    say(&ann, "main", "one");
    ask(&ann, "sessions.patch", json!({ "key": "main", "model": "double/bare" }));
    say(&ann, "main", "two");
    ask(&ann, "chat.send", json!({ "sessionKey": "main", "message": "/usage", "idempotencyKey": "u" }));
    let told = ann.expect_event_where("chat", |chat| chat["runId"] == "u" && chat["state"] == "final");
    let text = told.payload["message"]["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    let expected =
        "Tokens: 20 in, 12 out, 10 in context; cost: $4.0000 and what 1 answer cost whose price is not known.";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn a_provider_is_asked_what_is_left_of_a_subscription() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let base = format!("http://{}/api/paas/v4", listener.local_addr().expect("it is bound"));
    let provider = threads::spawn("quota", threads::STACK_BYTES, move || {
        let (mut peer, _) = listener.accept().expect("it is asked");
        let mut lines = BufReader::new(peer.try_clone().expect("a socket can be shared")).lines();
        let head: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let body = json!({ "success": true, "code": 200, "data": { "planName": "Pro", "limits": [
            { "type": "TOKENS_LIMIT", "unit": 3, "number": 5, "percentage": 40, "nextResetTime": 1_800_000_000_000_i64 },
        ] } })
        .to_string();
        let length = body.len();
        write!(peer, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
            .expect("it waits for the answer");
        head
    })
    .expect("a thread can be started");
    let zai = json!({ "baseUrl": base, "apiKey": "quota-key", "models": [{ "id": "glm" }] });
    let server = Server::with().model().config(&json!({ "models": { "providers": { "zai": zai } } })).start();
    let (ann, old) = (server.operator("ann"), server.client("old", Proto::V3, &ConnectOptions::operator("old")));

    let told = ask(&ann, "usage.status", json!({}));
    let expected = json!([{
        "provider": "zai", "displayName": "z.ai", "plan": "Pro",
        "windows": [{ "label": "Tokens (5h)", "usedPercent": 40, "resetAt": 1_800_000_000_000_i64 }],
    }]);
    assert_eq!(told["providers"], expected);
    let head = provider.join().expect("the double ends");
    assert_eq!(head[0], "GET /api/monitor/usage/quota/limit HTTP/1.1");
    assert!(head.iter().any(|line| line.eq_ignore_ascii_case("authorization: Bearer quota-key")), "{head:?}");
    assert_eq!(ask(&ann, "usage.status", json!({})), told, "nobody is asked again within half a minute");
    assert_eq!(ask(&old, "usage.status", json!({})), told, "nor for the other protocol");
}

#[test]
fn providers_that_take_their_time_hold_up_nobody_else_and_are_asked_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let base = format!("http://{}/v1", listener.local_addr().expect("it is bound"));
    let (is_asked, wait_until_asked) = std::sync::mpsc::channel();
    let (answer, may_answer) = std::sync::mpsc::channel();
    let double = threads::spawn("quota", threads::STACK_BYTES, move || {
        let mut asked = Vec::new();
        for _ in 0..2 {
            let (mut peer, _) = listener.accept().expect("it is asked");
            let mut lines = BufReader::new(peer.try_clone().expect("a socket can be shared")).lines();
            let head: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            asked.push(head[0].clone());
            is_asked.send(()).expect("the test waits");
            may_answer.recv().expect("the test says when");
            let body = json!({ "balance_infos": [{ "currency": "USD", "total_balance": 1 }] }).to_string();
            let length = body.len();
            // The gateway may have hung up.
            let _ = write!(
                peer,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            );
        }
        asked
    })
    .expect("a thread can be started");
    let tells = json!({ "baseUrl": base, "apiKey": "quota-key", "models": [{ "id": "one" }] });
    let providers = json!({ "zai": tells, "deepseek": tells });
    let server = Server::with().model().config(&json!({ "models": { "providers": providers } })).start();
    let (ann, old) = (server.operator("ann"), server.client("old", Proto::V3, &ConnectOptions::operator("old")));
    let waiting: Vec<_> = [&ann, &old, &ann, &ann].map(|client| client.start("usage.status", None)).into();
    wait_until_asked.recv().expect("the first one is asked");

    // Both are still to answer: as many threads as there are could wait for them.
    let history = ask(&ann, "chat.history", json!({ "sessionKey": "main" }));
    assert_eq!(history["messages"], json!([]));

    for _ in 0..2 {
        answer.send(()).expect("the double waits");
    }
    for (client, waiting) in [&ann, &old, &ann, &ann].into_iter().zip(waiting) {
        let told = client.wait(waiting).expect_ok();
        assert_eq!(told["providers"][1]["provider"], "deepseek", "{told}");
    }
    let asked = double.join().expect("the double ends");
    assert_eq!(asked, ["GET /api/monitor/usage/quota/limit HTTP/1.1", "GET /user/balance HTTP/1.1"], "each once");
}
