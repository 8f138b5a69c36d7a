//! What was acknowledged is there after the process was killed at once, and it is there once.

use std::collections::HashSet;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use openclaw_rs::runtime::threads;
use serde_json::json;

use crate::harness::client::Outcome;
use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::{Client, Server};

/// Clients that send at the same time, and how many messages each sends.
const SENDERS: usize = 20;
const SENDS_PER_SENDER: usize = 10;
/// Acknowledged messages after which the daemon is killed: in the middle.
const KILL_AFTER: usize = 80;
/// Sessions the messages go to.
const SESSIONS: usize = 4;

fn session(n: usize) -> String {
    format!("agent:main:crash-{}", n % SESSIONS)
}

fn send(client: &Client, n: usize) -> crate::harness::client::Pending {
    let params = json!({ "sessionKey": session(n), "message": format!("message-{n:04}-end"), "idempotencyKey": format!("crash-{n}") });
    client.start("chat.send", Some(params))
}

fn acknowledged(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answer(frame) if frame["ok"] == true)
}

#[test]
fn kill_9_in_the_middle_of_200_sends_loses_nothing_acknowledged_and_doubles_nothing() {
    let mut server = Server::with().model().start();
    let (tx, rx) = mpsc::channel();
    let clients: Vec<Client> = (0..SENDERS).map(|n| server.operator(&format!("sender-{n}"))).collect();
    let workers: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(sender, client)| {
            let tx = tx.clone();
            let work = move || {
                let all = sender * SENDS_PER_SENDER..(sender + 1) * SENDS_PER_SENDER;
                // Two at a time, so that requests are under way on every connection when the end comes.
                let mut waiting = std::collections::VecDeque::new();
                for n in all {
                    waiting.push_back((n, send(&client, n)));
                    if waiting.len() == 2 {
                        let (n, pending) = waiting.pop_front().expect("two were put in");
                        let _ = tx.send((n, acknowledged(&client.wait(pending).outcome)));
                    }
                }
                for (n, pending) in waiting {
                    let _ = tx.send((n, acknowledged(&client.wait(pending).outcome)));
                }
            };
            threads::spawn("test-sender", threads::STACK_BYTES_DEEP, work).expect("a thread can be started")
        })
        .collect();
    drop(tx);
    let mut kept = HashSet::new();
    let mut killed = false;
    while let Ok((n, good)) = rx.recv() {
        if good {
            kept.insert(n);
        }
        if !killed && kept.len() >= KILL_AFTER {
            killed = true;
            server.kill_and_restart();
        }
    }
    for worker in workers {
        worker.join().expect("a sender does not panic");
    }
    let all = SENDERS * SENDS_PER_SENDER;
    assert!(killed && kept.len() < all, "{} of {all} were acknowledged: the kill came too late", kept.len());

    let ann = server.client("ann", Proto::V4, &ConnectOptions::operator("ann"));
    // What had not had its turn has it now.
    let before = histories_with(&ann, |messages| kept.iter().all(|n| count(messages, *n) > 0));
    for n in &kept {
        assert_eq!(count(&before, *n), 1, "message {n} was acknowledged before the kill");
    }
    // The senders do not know which of the others arrived, so they send everything again under the same keys.
    let again: Vec<_> = (0..all).map(|n| (n, send(&ann, n))).collect();
    for (n, pending) in again {
        // Well, or as badly as the first time: either way it is the answer of that one message.
        match ann.wait(pending).outcome {
            Outcome::Answer(frame) => assert_eq!(frame["payload"]["runId"], format!("crash-{n}"), "{frame}"),
            other => panic!("message {n}, sent again: {other:?}"),
        }
    }
    let after = histories_with(&ann, |messages| (0..all).all(|n| count(messages, n) > 0));
    for n in 0..all {
        assert_eq!(count(&after, n), 1, "message {n} after sending everything again");
    }
}

/// All sessions' messages, once they are as they are to become, or time is up.
fn histories_with(client: &Client, is_done: impl Fn(&[String]) -> bool) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let messages = histories(client);
        if is_done(&messages) || Instant::now() > deadline {
            return messages;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All sessions' messages as text, one message per element.
fn histories(client: &Client) -> Vec<String> {
    let mut messages = Vec::new();
    for n in 0..SESSIONS {
        let history = client.call("chat.history", json!({ "sessionKey": session(n), "limit": 1000 })).expect_ok();
        let listed = history["messages"].as_array().expect("a history has messages").iter();
        messages
            .extend(listed.filter(|message| message["role"] == "user").map(|message| message["content"].to_string()));
    }
    messages
}

fn count(messages: &[String], n: usize) -> usize {
    let text = format!("message-{n:04}-end");
    messages.iter().filter(|message| message.contains(&text)).count()
}

#[test]
fn a_session_a_device_and_a_token_outlive_a_kill() {
    let mut server = Server::with().model().start();
    let ann = server.operator("ann");
    let token = ann.hello["auth"]["deviceToken"].clone();
    let params = json!({ "sessionKey": "agent:main:kept", "message": "hello", "idempotencyKey": "kept-1" });
    ann.call("chat.send", params).expect_ok();
    ann.call("sessions.patch", json!({ "key": "agent:main:kept", "label": "kept" })).expect_ok();
    drop(ann);

    server.kill_and_restart();

    let options = ConnectOptions::operator("ann").auth(json!({ "deviceToken": token }));
    let ann = server.client("ann", Proto::V4, &options);
    let found = ann.call("sessions.resolve", json!({ "label": "kept" })).expect_ok();
    assert_eq!(found["key"], "agent:main:kept", "{found}");
}
