//! Runs that a run starts: their place, their limits, their result, and what a kill does to them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::provider::{Provider, Request, Turn};
use crate::harness::{Client, Server};

const KEY: &str = "agent:main:farm";
const RESULT: &str = "there are seven sheep";
const TOLD: &str = "Seven sheep, says the one I sent.";

/// What was said last.
fn last(request: &Request) -> (String, String) {
    let message = request.messages().last().expect("something was said");
    (message["role"].as_str().unwrap_or_default().to_owned(), message["content"].to_string())
}

/// A model that has sheep counted when it is asked to.
fn farmer(request: &Request) -> Turn {
    let (role, said) = last(request);
    if role == "tool" {
        Turn::text("Somebody is counting.")
    } else if said.contains("in the background") {
        Turn::text(TOLD)
    } else if said.contains("how many sheep") {
        Turn::call("sessions_spawn", json!({ "task": "count the sheep", "label": "sheep" }))
    } else if said.contains("count the sheep") {
        Turn::text(RESULT).delay(Duration::from_millis(20))
    } else {
        Turn::text("ok")
    }
}

fn send(client: &Client, run_id: &str, text: &str) {
    client.call("chat.send", json!({ "sessionKey": KEY, "message": text, "idempotencyKey": run_id })).expect_ok();
}

/// What was said in a session, as `role: text`.
fn told(client: &Client, key: &str) -> Vec<String> {
    let history = client.call("chat.history", json!({ "sessionKey": key, "limit": 200 })).expect_ok();
    let words = |message: &Value| match &message["content"] {
        Value::String(text) => text.clone(),
        content => content[0]["text"].as_str().or(content[0]["name"].as_str()).unwrap_or("?").to_owned(),
    };
    let line = |message: &Value| format!("{}: {}", message["role"].as_str().unwrap_or("?"), words(message));
    history["messages"].as_array().expect("messages").iter().map(line).collect()
}

fn children(client: &Client) -> Vec<Value> {
    let list = client.call("sessions.list", json!({ "spawnedBy": KEY })).expect_ok();
    list["sessions"].as_array().expect("sessions").clone()
}

/// Waits until something was said.
#[track_caller]
fn wait_for(client: &Client, text: &str) -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let told = told(client, KEY);
        if told.iter().any(|line| line.contains(text)) {
            return told;
        }
        assert!(Instant::now() < until, "{text} is not said: {told:#?}");
        client.call_bare("health").expect_ok();
    }
}

#[test]
fn a_task_in_the_background_has_its_place_and_its_result_is_told() {
    let provider = Provider::start_with(farmer);
    let server = Server::with().config(&provider.config()).start();
    let client = server.operator("ann");
    send(&client, "r1", "how many sheep are there?");

    let told = wait_for(&client, TOLD);

    let announced: Vec<&String> = told.iter().filter(|line| line.contains(RESULT)).collect();
    assert_eq!(announced.len(), 1, "{told:#?}");
    assert!(announced[0].starts_with("user: [The task in the background \"sheep\""), "{announced:?}");
    let children = children(&client);
    assert_eq!(children.len(), 1, "{children:#?}");
    let child = &children[0];
    assert_eq!((&child["spawnedBy"], &child["spawnDepth"], &child["label"]), (&json!(KEY), &json!(1), &json!("sheep")));
    let key = child["key"].as_str().unwrap();
    assert!(key.starts_with("agent:main:subagent:"), "{key}");
    assert_eq!(self::told(&client, key), ["user: count the sheep", &format!("assistant: {RESULT}")]);
    // Its own place is fixed, and it is not told how to start others.
    let patch = json!({ "key": key, "spawnDepth": 0 });
    client.call("sessions.patch", patch).expect_err("INVALID_REQUEST");
    let of_child = |request: &Request| {
        request.messages().iter().any(|message| message["content"].to_string().contains("count the sheep\""))
    };
    let requests = provider.requests();
    let asked = requests.iter().find(|request| last(request).1.contains("count the sheep")).expect("it was asked");
    let tools = asked.body["tools"].to_string();
    assert!(
        tools.contains("read") && !tools.contains("session_status") && !tools.contains("sessions_spawn"),
        "{tools}"
    );
    assert!(!of_child(&requests[0]));
}

#[test]
fn no_more_are_started_than_configured_and_one_can_be_listed_told_and_stopped() {
    let provider = Provider::start_with(|request| {
        let (role, said) = last(request);
        if role == "tool" {
            Turn::text("Some are at work.")
        } else if said.contains("everything") {
            let task = |name: &str| json!({ "task": format!("count the {name}"), "label": name });
            Turn::call("sessions_spawn", task("goats")).and_call("sessions_spawn", task("hens"))
        } else if said.contains("count the") {
            Turn::text("still counting").hold_after(1)
        } else {
            Turn::text("ok")
        }
    });
    let mut config = provider.config();
    config["agents"]["defaults"]["subagents"] = json!({ "maxChildrenPerAgent": 1 });
    let server = Server::with().config(&config).start();
    let client = server.operator("ann");
    send(&client, "r1", "count everything");
    let lines = wait_for(&client, "Some are at work.");
    let results: Vec<&String> = lines.iter().filter(|line| line.starts_with("toolResult")).collect();
    assert_eq!(results.len(), 2, "{lines:#?}");
    assert!(results[0].contains("\"status\":\"accepted\""), "{}", results[0]);
    assert!(results[1].contains("max active children for this session (1/1)"), "{}", results[1]);
    provider.wait_until_held();

    send(&client, "list", "/subagents");
    wait_for(&client, "1. goats: working");
    send(&client, "none", "/kill cows");
    wait_for(&client, "there is no task cows in the background here");
    send(&client, "kill", "/kill goats");
    wait_for(&client, "It is stopped.");
    provider.release();

    // Nothing is told of what somebody stopped, and there is room for another.
    let child = children(&client)[0]["key"].as_str().unwrap().to_owned();
    let until = Instant::now() + Duration::from_secs(10);
    while children(&client)[0]["hasActiveRun"] == true {
        assert!(Instant::now() < until, "it is still at work");
    }
    send(&client, "list2", "/subagents list");
    wait_for(&client, "1. goats: done");
    assert!(!told(&client, KEY).iter().any(|line| line.contains("still counting\n")), "{:#?}", told(&client, &child));

    send(&client, "tell", "/tell 1 say hello to them");
    wait_for(&client, "It is told.");
    let requests = provider.wait_for_requests(4);
    assert!(requests.iter().any(|request| last(request).1.contains("say hello to them")));
    wait_for(&client, "is done");
}

#[test]
fn kill_9_neither_loses_nor_doubles_what_a_task_in_the_background_comes_to() {
    for round in 0..6 {
        let provider = Provider::start_with(farmer);
        provider.may_be_asked_wrongly();
        let mut server = Server::with().config(&provider.config()).start();
        let client = server.operator("ann");
        send(&client, "r1", "how many sheep are there?");
        // After the first question, after the call, while it is counted, when the result is told.
        provider.wait_for_requests(1 + round % 4);
        if round % 2 == 1 {
            std::thread::sleep(Duration::from_millis(7 * round as u64));
        }
        drop(client);
        server.kill_and_restart();
        let client = server.operator("ann");

        let until = Instant::now() + Duration::from_secs(20);
        let (lines, children) = loop {
            let is_at_work =
                client.call("sessions.list", json!({})).expect_ok().to_string().contains("\"hasActiveRun\":true");
            let (lines, children) = (told(&client, KEY), children(&client));
            let has = |text: &str| lines.iter().any(|line| line.contains(text));
            if !is_at_work && has(TOLD) {
                break (lines, children);
            }
            assert!(Instant::now() < until, "round {round}: it does not end: {lines:#?}");
        };
        let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        let counts = (count("user: [The task in the background"), count(TOLD));
        assert_eq!(counts, (1, 1), "round {round}: {lines:#?}");
        // A kill between a call and its result: the call is made again, under its key.
        assert_eq!(count("interrupted by a restart"), 0, "round {round}: {lines:#?}");
        assert_eq!(children.len(), 1, "round {round}: {children:#?}");
        let of_child = told(&client, children[0]["key"].as_str().unwrap());
        assert_eq!(of_child.iter().filter(|line| line.contains(RESULT)).count(), 1, "round {round}: {of_child:#?}");
    }
}
