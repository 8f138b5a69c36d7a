//! Commands that an agent runs: in the foreground and in the background, and what becomes of them.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::provider::{Provider, Request, Turn};
use crate::harness::{Client, Server};

const KEY: &str = "agent:main:shop";
/// Long enough for anything that does not hang.
const LONG: Duration = Duration::from_secs(30);

fn send(client: &Client, run_id: &str, text: &str) {
    client.call("chat.send", json!({ "sessionKey": KEY, "message": text, "idempotencyKey": run_id })).expect_ok();
}

/// What was said last.
fn last(request: &Request) -> (String, String) {
    let message = request.messages().last().expect("something was said");
    let text = message["content"].as_str().map_or_else(|| message["content"].to_string(), str::to_owned);
    (message["role"].as_str().unwrap_or_default().to_owned(), text)
}

/// A model that makes the call that a message names, `NAME ARGUMENTS`, and then says `done`.
fn obedient(request: &Request) -> Turn {
    let (role, said) = last(request);
    let call = said.find("call ").and_then(|at| said[at + 5..].split_once(' '));
    match call {
        Some((name, arguments)) if role == "user" => {
            Turn::call(name, serde_json::from_str(arguments.trim()).expect("arguments"))
        }
        _ => Turn::text("done"),
    }
}

/// Where a command is not reviewed for being unknown alone.
fn with_known_commands(mut config: Value) -> Value {
    config["security"] =
        json!({ "tool_risk_bonus": { "exec": 0, "process": 0 }, "channel_risk_bonus": { "webchat": 0 } });
    config
}

/// Somebody who talks to agents and cannot give them leave.
fn operator(server: &Server) -> Client {
    let options = ConnectOptions::operator("ann").scopes(&["operator.read", "operator.write"]);
    server.client("ann", Proto::V4, &options)
}

/// A gateway whose model does as it is told.
pub(crate) struct Shop {
    provider: Provider,
    pub(crate) server: Server,
    client: Client,
}

impl Shop {
    pub(crate) fn open() -> Shop {
        Shop::with(json!({}))
    }

    pub(crate) fn with(more: Value) -> Shop {
        let provider = Provider::start_with(obedient);
        let mut config = with_known_commands(provider.config());
        for (name, value) in more.as_object().expect("an object") {
            config[name] = value.clone();
        }
        let server = Server::with().config(&config).start();
        let client = operator(&server);
        Shop { provider, server, client }
    }

    /// Has a tool called; gives its result's text as the model sees it.
    #[track_caller]
    pub(crate) fn call(&self, run_id: &str, name: &str, arguments: Value) -> String {
        let n_before = self.provider.requests().len();
        send(&self.client, run_id, &format!("call {name} {arguments}"));
        let requests = self.provider.wait_for_requests(n_before + 2);
        let (role, text) = last(&requests[n_before + 1]);
        assert_eq!(role, "tool", "{text}");
        self.idle();
        text
    }

    /// Waits until nothing is under way in the session.
    fn idle(&self) {
        let until = Instant::now() + LONG;
        loop {
            let list = self.client.call("sessions.list", json!({})).expect_ok();
            let is_active = |row: &Value| row["key"] == KEY && row["hasActiveRun"] == true;
            if !list["sessions"].as_array().expect("sessions").iter().any(is_active) {
                return;
            }
            assert!(Instant::now() < until, "the run does not end");
        }
    }

    /// Everything said in the session.
    fn history(&self) -> Vec<Value> {
        let history = self.client.call("chat.history", json!({ "sessionKey": KEY, "limit": 200 })).expect_ok();
        history["messages"].as_array().expect("messages").clone()
    }

    /// Waits until something was said.
    #[track_caller]
    fn wait_for(&self, text: &str) -> Vec<String> {
        let until = Instant::now() + LONG;
        loop {
            let said: Vec<String> = self.history().iter().map(Value::to_string).collect();
            if said.iter().any(|line| line.contains(text)) {
                return said;
            }
            assert!(Instant::now() < until, "{text} is not said: {said:#?}\n{}", self.server.stderr());
        }
    }

    /// The session of a command that goes on.
    pub(crate) fn background(&self, run_id: &str, arguments: Value) -> String {
        let said = self.call(run_id, "exec", arguments);
        let id = said.split_once("(session ").and_then(|(_, rest)| rest.split_once(',')).map(|(id, _)| id.to_owned());
        id.unwrap_or_else(|| panic!("it does not go on: {said}"))
    }

    fn commands(&self) -> usize {
        commands_of(self.server.pid())
    }
}

/// How many processes a gateway has.
fn commands_of(pid: i32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    children.map(|children| children.split_whitespace().count()).sum()
}

/// Whether a process runs whose words contain these.
pub(crate) fn runs(words: &str) -> bool {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let lines = pids.filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).any(|line| line.contains(words))
}

#[track_caller]
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_command_is_run_and_shown_while_it_runs() {
    let provider = Provider::start_with(obedient);
    let server = Server::with().config(&with_known_commands(provider.config())).start();
    let mut options = ConnectOptions::operator("ann");
    options.extra.insert("caps".to_owned(), json!(["tool-events"]));
    let client = server.client("ann", Proto::V4, &options);
    let from = client.mark();
    client.call("sessions.subscribe", json!({})).expect_ok();
    let arguments = json!({ "command": "echo begun; sleep 0.4; echo ended >&2; exit 3" });
    send(&client, "r1", &format!("call exec {arguments}"));
    provider.wait_for_requests(2);
    let output = client.expect_event_where("agent", |payload| {
        payload["stream"] == "command_output" && payload["data"]["phase"] == "end"
    });
    let output = output.with("/data/exitCode", 3).with("/data/status", "completed").with("/data/name", "exec");
    output.with("/data/output", "begun\nended\n\n(Command exited with code 3)");

    let events = client.events(from);
    let of = |stream: &str, phase: &str| {
        let found = events.iter().filter(|event| {
            let data = &event["payload"]["data"];
            event["event"] == "agent" && event["payload"]["stream"] == stream && data["phase"] == phase
        });
        found.map(|event| event["payload"]["data"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("command_output", "delta")[0]["output"], "begun\n");
    let item = &of("item", "start")[0];
    assert_eq!(
        (&item["kind"], &item["commandBearing"], &item["status"]),
        (&json!("tool"), &json!(true), &json!("running"))
    );
    assert_eq!(of("item", "end")[0]["status"], "failed", "it did not go well");
    let update = &of("tool", "update")[0]["partialResult"];
    assert_eq!((&update["content"][0]["text"], &update["details"]["status"]), (&json!("begun\n"), &json!("running")));
    let result = &of("tool", "result")[0]["result"];
    assert_eq!((&result["details"]["exitCode"], &result["details"]["status"]), (&json!(3), &json!("completed")));
    let seqs: Vec<u64> = events
        .iter()
        .filter(|event| event["event"] == "agent")
        .filter_map(|event| event["payload"]["seq"].as_u64())
        .collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "numbered in order: {seqs:?}");
}

#[test]
fn a_command_that_fails_or_takes_too_long_says_so() {
    let shop = Shop::open();
    let said = shop.call("r1", "exec", json!({ "command": "no-such-program-at-all" }));
    assert!(said.ends_with("\n\nCommand not found"), "{said}");
    let said = shop.call("r2", "exec", json!({ "command": "echo half; sleep 71", "timeoutSeconds": 1 }));
    assert!(said.starts_with("half\n\nCommand timed out after 1 seconds."), "{said}");
    let said = shop.call("r3", "exec", json!({ "command": "kill -9 $$" }));
    assert!(said.contains("Command aborted by signal SIGKILL"), "{said}");
    let said = shop.call("r4", "exec", json!({ "command": "id", "workdir": "/etc" }));
    assert!(said.contains("outside of the workspace"), "{said}");
    wait_until("nothing is left", || shop.commands() == 0);
}

#[test]
fn a_command_in_the_background_is_read_fed_and_told_of() {
    let shop = Shop::open();
    let id = shop
        .background("r1", json!({ "command": "echo name?; read name; echo hello $name; exit 4", "background": true }));
    let said = shop.call("r2", "process", json!({ "action": "poll", "sessionId": id, "timeout": 10_000 }));
    assert_eq!(said, "name?\n\nProcess still running.");
    let said = shop.call("r3", "process", json!({ "action": "list" }));
    assert!(said.starts_with(&format!("{id} running")), "{said}");
    let said = shop.call("r4", "process", json!({ "action": "write", "sessionId": id, "data": "ann\n" }));
    assert_eq!(said, format!("Wrote 4 bytes to session {id}."));
    let said = shop.wait_for(&format!("Exec completed ({id}, code 4) :: name? hello ann"));
    assert_eq!(said.iter().filter(|line| line.contains("Exec completed")).count(), 1, "{said:#?}");
    shop.idle();
    let said = shop.call("r5", "process", json!({ "action": "log", "sessionId": id }));
    assert_eq!(said, "name?\nhello ann\n\nProcess exited with code 4.");
}

#[test]
fn a_terminal_takes_keys() {
    let shop = Shop::open();
    let id = shop.background(
        "r1",
        json!({ "command": "stty size; read line; echo got $line; sleep 72", "pty": true, "yieldMs": 500 }),
    );
    let keys = json!({ "action": "send-keys", "sessionId": id, "literal": "a b", "keys": ["Enter"] });
    assert!(shop.call("r2", "process", keys).starts_with("Sent 4 bytes"));
    let until = Instant::now() + LONG;
    let mut nth = 0;
    loop {
        nth += 1;
        let log = shop.call(&format!("log{nth}"), "process", json!({ "action": "log", "sessionId": id }));
        if log.contains("30 120") && log.contains("got a b") {
            break;
        }
        assert!(Instant::now() < until, "{log}");
    }
    shop.call("r3", "process", json!({ "action": "send-keys", "sessionId": id, "keys": ["C-c"] }));
    shop.wait_for(&format!("Exec failed ({id}, signal SIGINT)"));
}

#[test]
fn one_that_does_not_want_to_end_is_made_to() {
    let shop = Shop::open();
    let stubborn = "trap '' TERM; echo deaf; while :; do sleep 0.05; done # seventy-three";
    let id = shop.background("r1", json!({ "command": stubborn, "background": true }));
    shop.call("r2", "process", json!({ "action": "poll", "sessionId": id, "timeout": 10_000 }));
    let said = shop.call("r3", "process", json!({ "action": "kill", "sessionId": id }));
    assert!(said.starts_with("Termination requested"), "{said}");
    wait_until("it is gone", || shop.commands() == 0 && !runs("seventy-three"));
    let said = shop.call("r4", "process", json!({ "action": "log", "sessionId": id }));
    assert!(said.contains("Process stopped by request."), "{said}");
    let all: Vec<String> = shop.history().iter().map(Value::to_string).collect();
    assert!(!all.iter().any(|line| line.contains("Exec ")), "who ended it knows: {all:#?}");
}

#[test]
fn a_stopped_run_ends_its_command() {
    let shop = Shop::open();
    let arguments = json!({ "command": "sleep 74 # by a run" });
    send(&shop.client, "r1", &format!("call exec {arguments}"));
    wait_until("it runs", || runs("sleep 74"));
    shop.client.call("chat.abort", json!({ "sessionKey": KEY })).expect_ok();
    wait_until("it is gone", || shop.commands() == 0 && !runs("sleep 74"));
}

#[test]
fn a_flood_of_output_does_not_fill_the_memory() {
    let shop = Shop::open();
    shop.call("r0", "exec", json!({ "command": "true" }));
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", shop.server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = resident();
    let said =
        shop.call("r1", "exec", json!({ "command": "head -c 300000000 /dev/zero | tr '\\0' 'x'; echo; echo end" }));
    assert!(said.starts_with("[earlier output was dropped]") && said.ends_with("end"), "{}", &said[said.len() - 60..]);
    assert!(said.chars().count() < 8300, "{}", said.chars().count());
    let grown = resident() - before;
    assert!(grown < 16 * 1024, "{grown} KiB more");
}

#[test]
fn what_is_forbidden_is_not_run() {
    let shop = Shop::open();
    for (nth, env) in ["LD_PRELOAD", "BASH_ENV", "NODE_OPTIONS", "PATH", "GIT_SSH_COMMAND"].into_iter().enumerate() {
        let arguments = json!({ "command": "touch done", "env": { env: "/tmp/x" } });
        let said = shop.call(&format!("r{nth}"), "exec", arguments);
        assert!(said.contains("Security Violation"), "{said}");
    }
    let said = shop.call("smuggled", "exec", json!({ "command": "touch done", "approved": true }));
    assert!(said.contains("approved"), "{said}");
    for (nth, more) in
        [json!({ "security": "deny" }), json!({ "ask": "always" }), json!({ "elevated": true })].iter().enumerate()
    {
        let mut arguments = json!({ "command": "touch done" });
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let said = shop.call(&format!("strict{nth}"), "exec", arguments);
        let is_refused = ["denied", "nobody can be asked", "not available"].iter().any(|why| said.contains(why));
        assert!(is_refused, "{said}");
    }
    let said = shop.call("dangerous", "exec", json!({ "command": ["rm", "-rf", "/no-such-place"] }));
    assert!(said.contains("defender") || said.contains("approval"), "{said}");
    assert!(!shop.server.state_dir().join("workspace/done").exists(), "nothing was run");

    let strict = Shop::with(json!({ "tools": { "exec": { "security": "deny" } } }));
    let said = strict.call("r1", "exec", json!({ "command": "touch done", "security": "full" }));
    assert!(!strict.server.state_dir().join("workspace/done").exists(), "{said}");
    let tools = strict.provider.requests()[0].body["tools"].to_string();
    assert!(!tools.contains("\"exec\""), "it is not offered: {tools}");
    let listed = Shop::with(json!({ "tools": { "exec": { "host": "gateway" } } }));
    let said = listed.call("r1", "exec", json!({ "command": "touch done" }));
    assert!(said.contains("it is not on the list of commands"), "{said}");
}

#[test]
fn a_person_is_asked_about_an_unknown_command_and_what_they_saw_is_what_runs() {
    let provider = Provider::start_with(obedient);
    let server = Server::with().config(&provider.config()).start();
    let mut options = ConnectOptions::operator("bob");
    options.extra.insert("caps".to_owned(), json!(["exec-approvals", "approvals"]));
    let bob = server.client("bob", Proto::V4, &options);
    let workspace = server.state_dir().join("workspace");
    fs::create_dir_all(&workspace).unwrap();
    let script = workspace.join("x.sh");
    fs::write(&script, "echo one").unwrap();
    let arguments = json!({ "command": "sh x.sh" });
    let asks = |run_id: &str, decision: Option<&str>| {
        let n_before = provider.requests().len();
        send(&bob, run_id, &format!("call exec {arguments}"));
        if let Some(decision) = decision {
            let asked = bob.expect_event("exec.approval.requested");
            assert_eq!(asked.payload["request"]["command"], "sh x.sh", "{}", asked.payload);
            if run_id == "changed" {
                fs::write(&script, "echo two").unwrap();
            }
            let answer = json!({ "id": asked.payload["id"], "decision": decision });
            bob.call("exec.approval.resolve", answer).expect_ok();
        }
        let requests = provider.wait_for_requests(n_before + 2);
        bob.expect_event_where("chat", |chat| chat["state"] == "final");
        last(&requests[n_before + 1]).1
    };
    assert_eq!(asks("once", Some("allow-once")), "one");
    let said = asks("denied", Some("deny"));
    assert!(said.contains("said no"), "{said}");
    let said = asks("changed", Some("allow-once"));
    assert!(said.contains("x.sh changed after the command was read"), "{said}");
    assert_eq!(asks("always", Some("allow-always")), "two");
    assert_eq!(asks("granted", None), "two", "it is granted for good");
    fs::write(&script, "echo three").unwrap();
    let said = asks("another", Some("deny"));
    assert!(said.contains("said no"), "what was granted is not this: {said}");
}

#[test]
fn nothing_secret_reaches_a_command() {
    let provider = Provider::start_with(obedient);
    let server = Server::with()
        .config(&with_known_commands(provider.config()))
        .env("OPENAI_API_KEY", "sk-canary-0123456789")
        .start();
    let client = server.operator("ann");
    send(&client, "r1", "call exec {\"command\": \"env; cat /proc/$PPID/environ | head -c 0; ls /proc/self/fd\"}");
    let requests = provider.wait_for_requests(2);
    let (_, said) = last(&requests[1]);
    assert!(said.contains("PATH=") && !said.contains("canary") && !said.contains("OPENAI"), "{said}");
}

#[test]
fn a_kill_in_the_middle_of_a_command_runs_it_once_and_the_model_is_told() {
    let mut shop = Shop::open();
    let arguments = json!({ "command": "echo run >> runs; sleep 75" });
    send(&shop.client, "r1", &format!("call exec {arguments}"));
    // Its shell's own words name what it will do: what it has done is in the file.
    wait_until("it runs", || {
        find(&shop.server, "runs").is_some_and(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0))
    });
    let pid = shop.server.pid();
    shop.server.kill_and_restart();
    assert_ne!(pid, shop.server.pid());
    shop.client = operator(&shop.server);
    let requests = shop.provider.wait_for_requests(2);
    let (role, said) = last(&requests[1]);
    assert!(role == "tool" && said.contains("interrupted by a restart"), "{role}: {said}");
    shop.idle();
    let runs_file = find(&shop.server, "runs").expect("it was run");
    assert_eq!(fs::read_to_string(runs_file).unwrap(), "run\n");
    wait_until("its shell died with the gateway", || !runs("echo run >> runs"));
}

/// A file somewhere below the server's state directory.
fn find(server: &Server, name: &str) -> Option<std::path::PathBuf> {
    let mut dirs = vec![server.state_dir()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_name() == name {
                return Some(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            }
        }
    }
    None
}

#[test]
fn what_ran_in_the_background_is_gone_after_a_restart_and_that_is_told_once() {
    let mut shop = Shop::open();
    let id = shop.background("r1", json!({ "command": "setsid sleep 76 & sleep 77", "background": true }));
    wait_until("both run", || runs("sleep 76") && runs("sleep 77"));
    shop.server.kill_and_restart();
    shop.client = operator(&shop.server);
    let notice = format!("Exec failed ({id}, unknown exit code) :: the gateway was restarted");
    shop.wait_for(&notice);
    shop.idle();
    let said = shop.call("r2", "process", json!({ "action": "poll", "sessionId": id }));
    assert_eq!(said, format!("No session found for {id}"));
    wait_until("nothing is left of it", || !runs("sleep 76") && !runs("sleep 77"));
    shop.server.kill_and_restart();
    shop.client = operator(&shop.server);
    let told = shop.wait_for(&notice);
    assert_eq!(told.iter().filter(|line| line.contains(&notice)).count(), 1, "{told:#?}");
}

#[test]
fn the_end_of_the_gateway_is_the_end_of_its_commands() {
    let mut shop = Shop::open();
    shop.background(
        "r1",
        json!({ "command": "trap '' TERM; while :; do sleep 0.05; done # seventy-eight", "background": true }),
    );
    shop.background("r2", json!({ "command": "setsid sleep 79 & sleep 79", "background": true }));
    wait_until("they run", || runs("seventy-eight") && runs("sleep 79"));
    shop.server.signal(15);
    assert!(shop.server.wait().success());
    assert!(!runs("seventy-eight") && !runs("sleep 79"));
}

#[test]
fn many_short_commands_leave_no_process_and_no_descriptor() {
    let shop = Shop::open();
    shop.call("r0", "exec", json!({ "command": "true" }));
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", shop.server.pid())).unwrap().count();
    let before = descriptors();
    for nth in 0..25 {
        shop.call(
            &format!("r-{nth}"),
            "exec",
            json!({ "command": "i=0; while [ $i -lt 20 ]; do /bin/true & i=$((i+1)); done; wait" }),
        );
    }
    assert_eq!(shop.commands(), 0, "every one is reaped");
    assert!(descriptors() <= before + 2, "{} after {before}", descriptors());
}
