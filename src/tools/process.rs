//! `process`: look after commands in the background.

use std::time::Duration;

use serde_json::{Value, json};

use super::exec::said;
use super::processes::{GRACE, Id, Processes, Seen, WriteError, keys};
use super::{Effect, Output, Prepared, Scene, Tool, ToolError};
use crate::defender::request::ActionRequest;
use crate::protocol::params::{Int, NonEmpty, Text};
use crate::runtime::clock::wall_ms;

/// Longest text that is written at once, in characters.
pub const INPUT_CHARS_MAX: usize = 64 * 1024;
/// Longest wait of a `poll`.
pub const POLL_TIME_MAX: Duration = Duration::from_secs(30);
/// Lines of a log that are shown when nobody says how many.
pub const LOG_LINES: usize = 200;
/// How long a command is silent before it is said that it may wait for input.
const IDLE: Duration = Duration::from_secs(15);
/// Characters of a command in a list.
const NAME_CHARS: usize = 80;
/// Keys sent at once.
const KEYS_MAX: usize = 256;

pub(super) const TOOL: Tool = Tool {
    name: super::PROCESS,
    description: "Look after commands that exec left running in the background: list them; poll one for what it wrote \
                  since, with timeout to wait for news; log for all it wrote, by offset and limit in lines; write, submit \
                  (Enter), send-keys or paste to give it input; kill it; clear one that has ended; remove one whatever it \
                  does. Their ends are told here by themselves, so do not poll in a loop.",
    summary: "List, read, feed and end commands in the background",
    parameters,
    effect: Effect::Once,
    is_offered: super::exec::TOOL.is_offered,
    prepare,
};

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "action": {
                "type": "string",
                "enum": ["list", "poll", "log", "write", "submit", "send-keys", "paste", "kill", "clear", "remove"],
                "description": "What is to be done",
            },
            "sessionId": { "type": "string", "description": "Which command; not needed to list them" },
            "data": { "type": "string", "description": "write: the text" },
            "eof": { "type": "boolean", "description": "write: nothing follows" },
            "keys": {
                "type": "array", "items": { "type": "string" },
                "description": "send-keys: keys by name, such as Enter, Up, C-c, M-x, F5",
            },
            "hex": { "type": "array", "items": { "type": "string" }, "description": "send-keys: bytes in hexadecimal" },
            "literal": { "type": "string", "description": "send-keys: text as it is" },
            "text": { "type": "string", "description": "paste: the text" },
            "bracketed": { "type": "boolean", "description": "paste: tell it from typing; usually true" },
            "offset": { "type": "integer", "minimum": 0, "description": "log: lines to skip" },
            "limit": { "type": "integer", "minimum": 1, "description": "log: most lines" },
            "timeout": {
                "type": "integer", "minimum": 0, "description": "poll: milliseconds to wait for news, at most 30000",
            },
        },
        "required": ["action"],
        "additionalProperties": false,
    })
}

crate::params! {
    /// What is to be done to which.
    pub struct ProcessArguments {
        action: NonEmpty = "action",
        session_id: Option<Text<0, 128>> = "sessionId",
        data: Option<Text<0, INPUT_CHARS_MAX>> = "data",
        eof: Option<bool> = "eof",
        keys: Option<Vec<Text<0, 64>>> = "keys",
        hex: Option<Vec<Text<0, 8>>> = "hex",
        literal: Option<Text<0, INPUT_CHARS_MAX>> = "literal",
        text: Option<Text<0, INPUT_CHARS_MAX>> = "text",
        bracketed: Option<bool> = "bracketed",
        offset: Option<Int<0, { i64::MAX }>> = "offset",
        limit: Option<Int<0, { i64::MAX }>> = "limit",
        timeout: Option<Int<0, { i64::MAX }>> = "timeout",
    }
}

/// A call of it, read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    List,
    /// The others are about one.
    To(String, Do),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Do {
    Poll(Duration),
    Log { offset: Option<usize>, limit: Option<usize> },
    Write { text: String, closes: bool },
    Submit,
    Keys { literal: String, hex: Vec<String>, keys: Vec<String> },
    Paste { text: String, is_bracketed: bool },
    Kill,
    Clear,
    Remove,
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    let wanted: ProcessArguments = super::decode(super::PROCESS, arguments)?;
    read(wanted).map(|action| Box::new(action) as Box<dyn Prepared>).map_err(ToolError::Arguments)
}

fn read(wanted: ProcessArguments) -> Result<Action, String> {
    let text = |text: Option<Text<0, INPUT_CHARS_MAX>>| text.map(|text| text.0).unwrap_or_default();
    let count = |n: Option<Int<0, { i64::MAX }>>| n.and_then(|n| usize::try_from(n.0).ok());
    let done = match wanted.action.0.trim() {
        "list" => return Ok(Action::List),
        "poll" => {
            let wait = Duration::from_millis(count(wanted.timeout).unwrap_or(0) as u64);
            Do::Poll(wait.min(POLL_TIME_MAX))
        }
        "log" => Do::Log { offset: count(wanted.offset), limit: count(wanted.limit) },
        "write" => Do::Write { text: text(wanted.data), closes: wanted.eof == Some(true) },
        "submit" => Do::Submit,
        "send-keys" => {
            let (keys, hex) = (wanted.keys.unwrap_or_default(), wanted.hex.unwrap_or_default());
            if keys.len() + hex.len() > KEYS_MAX {
                return Err(format!("more than {KEYS_MAX} keys at once"));
            }
            Do::Keys {
                literal: text(wanted.literal),
                hex: hex.into_iter().map(|hex| hex.0).collect(),
                keys: keys.into_iter().map(|key| key.0).collect(),
            }
        }
        "paste" => Do::Paste { text: text(wanted.text), is_bracketed: wanted.bracketed != Some(false) },
        "kill" | "stop" => Do::Kill,
        "clear" => Do::Clear,
        "remove" => Do::Remove,
        other => return Err(format!("Unknown action {}", other.escape_debug())),
    };
    let target = wanted.session_id.map(|id| id.0.trim().to_owned()).filter(|id| !id.is_empty());
    Ok(Action::To(target.ok_or("sessionId is required for this action.")?, done))
}

impl Prepared for Action {
    /// Looking changes nothing.
    fn effect(&self) -> Option<Effect> {
        let is_look = matches!(self, Action::List | Action::To(_, Do::Poll(_) | Do::Log { .. }));
        is_look.then_some(Effect::None)
    }

    /// What is given to a program to read may be a command to it.
    fn parts(&self, _: &Scene<'_>) -> ActionRequest {
        let command = match self {
            Action::To(_, Do::Write { text, .. } | Do::Paste { text, .. }) => Some(text.clone()),
            Action::To(_, Do::Keys { literal, hex, keys }) => {
                let (bytes, _) = keys::encode(&keys::Keys { literal, hex, keys }, false);
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            _ => None,
        };
        ActionRequest { command: command.filter(|text| !text.trim().is_empty()), ..ActionRequest::default() }
    }

    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        let Some(processes) = scene.hands.processes() else {
            return Err(ToolError::Failed("no commands can be run here".to_owned()));
        };
        let scope = scene.session.agent.as_str();
        let (name, done) = match *self {
            Action::List => return Ok(list(&processes.list(scope), wall_ms())),
            Action::To(name, done) => (name, done),
        };
        let Some(id) = Id::parse(&name) else { return Ok(not_found(&name)) };
        let is_stopped = || scene.stop.why().is_some();
        Ok(carry_out(&processes, id, scope, done, &is_stopped))
    }
}

fn carry_out(processes: &Processes, id: Id, scope: &str, done: Do, is_stopped: &dyn Fn() -> bool) -> Output {
    let name = id.to_string();
    match done {
        Do::Poll(wait) => {
            // Waited for in parts, so that its run is known to live.
            match processes.poll(id, scope, wait, is_stopped) {
                Some((seen, text, has_gap)) => polled(&seen, &text, has_gap, wall_ms()),
                None => not_found(&name),
            }
        }
        Do::Log { offset, limit } => match processes.log(id, scope) {
            Some((seen, text)) => logged(&seen, &text, offset, limit, wall_ms()),
            None => not_found(&name),
        },
        Do::Write { text, closes } => {
            let bytes = text.into_bytes();
            let (n, end) = (bytes.len(), if closes { " (stdin closed)" } else { "" });
            fed(processes.write(id, scope, bytes, closes), &name, format!("Wrote {n} bytes to session {name}{end}."))
        }
        Do::Submit => {
            // At a terminal Enter is a carriage return; a line that is read from a pipe ends with a line feed.
            let is_terminal = processes.has_terminal(id);
            let (bytes, word) = if is_terminal { (b"\r", "CR") } else { (b"\n", "LF") };
            fed(
                processes.write(id, scope, bytes.to_vec(), false),
                &name,
                format!("Submitted session {name} (sent {word})."),
            )
        }
        Do::Keys { literal, hex, keys } => {
            let wanted = keys::Keys { literal: &literal, hex: &hex, keys: &keys };
            let (bytes, warnings) = keys::encode(&wanted, processes.is_application_mode(id));
            if bytes.is_empty() {
                return failed("No key data provided.", "No key data provided.");
            }
            let mut said = format!("Sent {} bytes to session {name}.", bytes.len());
            for (nth, warning) in warnings.iter().enumerate() {
                said.push_str(if nth == 0 { "\nWarnings:\n- " } else { "\n- " });
                said.push_str(warning);
            }
            fed(processes.write(id, scope, bytes, false), &name, said)
        }
        Do::Paste { text, is_bracketed } => {
            let pasted = keys::paste(&text, is_bracketed);
            if text.is_empty() {
                return failed("No paste text provided.", "No paste text provided.");
            }
            let said = format!("Pasted {} chars to session {name}.", text.chars().count());
            fed(processes.write(id, scope, pasted.into_bytes(), false), &name, said)
        }
        Do::Kill => match processes.kill(id, scope) {
            true => {
                let seconds = GRACE.as_secs();
                completed(format!("Termination requested for session {name}; after {seconds} s it is made to end."))
            }
            false if processes.look(id, scope).is_some() => {
                failed(&format!("Session {name} has ended already."), "not_running")
            }
            false => not_found(&name),
        },
        Do::Clear => match processes.clear(id, scope) {
            true => completed(format!("Cleared session {name}.")),
            false if processes.look(id, scope).is_some() => {
                failed(&format!("Session {name} still runs: kill or remove it."), "still_running")
            }
            false => not_found(&name),
        },
        Do::Remove => match processes.remove(id, scope) {
            Some(true) => completed(format!("Removed session {name} (termination requested).")),
            Some(false) => completed(format!("Removed session {name}.")),
            None => not_found(&name),
        },
    }
}

fn output(text: String, details: Value) -> Output {
    Output { text, details: Some(details), ..Output::default() }
}

fn completed(text: String) -> Output {
    output(text, json!({ "status": "completed" }))
}

fn failed(text: &str, error: &str) -> Output {
    output(text.to_owned(), json!({ "status": "failed", "error": error }))
}

fn not_found(name: &str) -> Output {
    failed(&format!("No session found for {}", name.escape_debug()), "process_not_found")
}

fn fed(written: Result<Seen, WriteError>, name: &str, said: String) -> Output {
    match written {
        Ok(_) => output(said, json!({ "status": "running", "sessionId": name })),
        Err(WriteError::NotFound) => failed(&format!("No active session found for {name}"), "process_not_found"),
        Err(WriteError::Closed) => failed(&format!("Session {name} stdin is not writable."), "stdin_closed"),
        Err(WriteError::Full) => {
            failed(&format!("Session {name} does not read what was written before; nothing was added."), "stdin_full")
        }
    }
}

/// A command in few words.
fn short(command: &str) -> String {
    let words = command.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(NAME_CHARS) {
        None => words,
        Some((at, _)) => format!("{}…", &words[..at]),
    }
}

fn status(seen: &Seen) -> &'static str {
    match seen.exit {
        None => "running",
        Some(super::processes::Exit::Cancelled) => "killed",
        Some(exit) if said::is_completed(exit) => "completed",
        Some(_) => "failed",
    }
}

/// Whether it may be waiting to be given something.
fn is_waiting(seen: &Seen, now_ms: i64) -> bool {
    seen.exit.is_none() && seen.is_input_open && idle_ms(seen, now_ms) >= IDLE.as_millis() as i64
}

fn idle_ms(seen: &Seen, now_ms: i64) -> i64 {
    now_ms.saturating_sub(seen.last_output_ms).max(0)
}

fn set(target: &mut Value, more: Value) {
    if let (Some(target), Value::Object(more)) = (target.as_object_mut(), more) {
        target.extend(more);
    }
}

/// How it goes on, or how it ended.
fn state(seen: &Seen, now_ms: i64) -> Value {
    match seen.exit {
        None => json!({
            "stdinWritable": seen.is_input_open,
            "waitingForInput": is_waiting(seen, now_ms),
            "idleMs": idle_ms(seen, now_ms),
            "lastOutputAt": seen.last_output_ms,
        }),
        Some(exit) => said::exit_values(exit),
    }
}

fn list(seen: &[Seen], now_ms: i64) -> Output {
    let (mut lines, mut sessions) = (Vec::new(), Vec::new());
    for one in seen {
        let runtime_ms = one.ended_ms.unwrap_or(now_ms).saturating_sub(one.started_ms).max(0);
        let waits = if is_waiting(one, now_ms) { " [input-wait]" } else { "" };
        lines.push(format!("{} {:<9} {}s{waits} :: {}", one.id, status(one), runtime_ms / 1000, short(&one.command)));
        let mut session = json!({
            "sessionId": one.id.to_string(), "status": status(one), "startedAt": one.started_ms, "runtimeMs": runtime_ms,
            "cwd": one.cwd, "command": one.command, "name": short(&one.command), "tail": one.tail,
            "truncated": one.is_cut,
        });
        match one.ended_ms {
            None => set(&mut session, json!({ "pid": one.pid })),
            Some(ended_ms) => set(&mut session, json!({ "endedAt": ended_ms })),
        }
        set(&mut session, state(one, now_ms));
        sessions.push(session);
    }
    let text = if lines.is_empty() { "No running or recent sessions.".to_owned() } else { lines.join("\n") };
    output(text, json!({ "status": "completed", "sessions": sessions }))
}

/// How it goes on, or how it ended, in words.
fn ending(seen: &Seen, now_ms: i64) -> String {
    match seen.exit {
        None if is_waiting(seen, now_ms) => format!(
            "No new output for {} s; this session may be waiting for input. Give it some with write, submit, send-keys or \
             paste.",
            idle_ms(seen, now_ms) / 1000
        ),
        None => "Process still running.".to_owned(),
        Some(super::processes::Exit::Cancelled) => "Process stopped by request.".to_owned(),
        Some(exit) => format!("Process exited with {}.", said::label(exit)),
    }
}

fn polled(seen: &Seen, text: &str, has_gap: bool, now_ms: i64) -> Output {
    let gap = if has_gap { "[earlier output was dropped]\n" } else { "" };
    let new = said::bounded(text.trim());
    let shown = if new.is_empty() { "(no new output)" } else { &new };
    let mut details = json!({
        "status": if seen.exit.is_none() { "running" } else if status(seen) == "failed" { "failed" } else { "completed" },
        "sessionId": seen.id.to_string(), "name": short(&seen.command), "aggregated": said::bounded(seen.tail.trim()),
    });
    set(&mut details, state(seen, now_ms));
    output(format!("{gap}{shown}\n\n{}", ending(seen, now_ms)), details)
}

/// Some lines of a log: the last ones, unless somebody says which.
fn logged(seen: &Seen, text: &str, offset: Option<usize>, limit: Option<usize>, now_ms: i64) -> Output {
    let lines: Vec<&str> = text.lines().collect();
    let n = limit.unwrap_or(if offset.is_some() { usize::MAX } else { LOG_LINES });
    let from = offset.unwrap_or(lines.len().saturating_sub(n)).min(lines.len());
    let shown = &lines[from..from.saturating_add(n).min(lines.len())];
    let mut said = String::new();
    if seen.is_cut {
        said.push_str("[earlier output was dropped]\n");
    }
    match shown.is_empty() {
        true if seen.exit.is_none() => said.push_str("(no output yet)"),
        true => said.push_str("(no output recorded)"),
        false => said.push_str(&said::bounded(&shown.join("\n"))),
    }
    if shown.len() < lines.len() {
        let (total, to) = (lines.len(), from + shown.len());
        said.push_str(&format!("\n\n[lines {} to {to} of {total}; page with offset and limit]", from + 1));
    }
    if seen.exit.is_some() || is_waiting(seen, now_ms) {
        said.push_str(&format!("\n\n{}", ending(seen, now_ms)));
    }
    let mut details = json!({
        "status": if seen.exit.is_none() { "running" } else if status(seen) == "failed" { "failed" } else { "completed" },
        "sessionId": seen.id.to_string(), "name": short(&seen.command), "output": said, "total": lines.len(),
        "totalLines": lines.len(), "totalChars": text.chars().count(), "truncated": seen.is_cut,
    });
    set(&mut details, state(seen, now_ms));
    output(said, details)
}

#[cfg(test)]
mod tests {
    use super::super::processes::Exit;
    use super::*;

    fn seen() -> Seen {
        Seen {
            id: Id::parse("0000abcd").unwrap(),
            pid: 7,
            command: "tail -f log".to_owned(),
            cwd: "/w".to_owned(),
            started_ms: 1_000,
            ended_ms: None,
            exit: None,
            is_input_open: true,
            last_output_ms: 5_000,
            tail: "two".to_owned(),
            is_cut: false,
        }
    }

    fn parsed(arguments: Value) -> Result<Action, String> {
        let wanted = super::super::decode(crate::tools::PROCESS, &arguments).map_err(|error| error.to_string())?;
        read(wanted)
    }

    #[test]
    fn what_is_asked_for_is_read_once() {
        assert_eq!(parsed(json!({ "action": "list" })), Ok(Action::List));
        let to = |done| Ok(Action::To("a".to_owned(), done));
        assert_eq!(parsed(json!({ "action": "stop", "sessionId": " a " })), to(Do::Kill));
        let long = json!({ "action": "poll", "sessionId": "a", "timeout": 600_000 });
        assert_eq!(parsed(long), to(Do::Poll(POLL_TIME_MAX)));
        for wrong in [
            json!({ "action": "poll" }),
            json!({ "action": "start", "sessionId": "a" }),
            json!({}),
            json!({ "action": "write", "sessionId": "a", "data": "x".repeat(INPUT_CHARS_MAX + 1) }),
            json!({ "action": "send-keys", "sessionId": "a", "keys": vec!["a"; KEYS_MAX + 1] }),
        ] {
            assert!(parsed(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_program_is_given_to_read_is_judged() {
        let facts = Default::default();
        let judged = |arguments: Value| {
            let action = parsed(arguments).unwrap();
            crate::tools::tests::scene(std::path::Path::new("/"), &facts, |scene| action.parts(scene).command)
        };
        let words = "rm -rf /";
        assert_eq!(judged(json!({ "action": "write", "sessionId": "a", "data": words })).as_deref(), Some(words));
        assert_eq!(judged(json!({ "action": "paste", "sessionId": "a", "text": words })).as_deref(), Some(words));
        let keys = json!({ "action": "send-keys", "sessionId": "a", "literal": "rm ", "keys": ["-rf", "Space", "/"] });
        assert_eq!(judged(keys).as_deref(), Some("rm -rf /"));
        let hex = json!({ "action": "send-keys", "sessionId": "a", "hex": ["72", "6d"] });
        assert_eq!(judged(hex).as_deref(), Some("rm"));
        assert_eq!(judged(json!({ "action": "submit", "sessionId": "a" })), None);
    }

    #[test]
    fn a_list_says_who_runs_and_who_waits() {
        let ended = Seen { exit: Some(Exit::Code(2)), ended_ms: Some(4_000), ..seen() };
        let said = list(&[seen(), ended], 25_000);
        let lines: Vec<&str> = said.text.lines().collect();
        assert_eq!(lines[0], "0000abcd running   24s [input-wait] :: tail -f log");
        assert_eq!(lines[1], "0000abcd completed 3s :: tail -f log");
        let details = said.details.unwrap();
        assert_eq!(details["sessions"][0]["pid"], 7);
        assert_eq!(
            (&details["sessions"][1]["exitCode"], &details["sessions"][1]["endedAt"]),
            (&json!(2), &json!(4_000))
        );
        assert_eq!(list(&[], 0).text, "No running or recent sessions.");
    }

    #[test]
    fn a_log_is_paged_by_lines() {
        let text = (1..=LOG_LINES + 5).map(|n| format!("{n}\n")).collect::<String>();
        let page = |offset, limit| logged(&seen(), &text, offset, limit, 6_000).text;
        assert!(page(None, None).starts_with("6\n") && page(None, None).contains("[lines 6 to 205 of 205;"));
        assert!(page(Some(2), Some(2)).starts_with("3\n4\n\n[lines 3 to 4 of 205"), "{}", page(Some(2), Some(2)));
        assert!(page(None, Some(1)).starts_with("205\n"));
        assert!(page(Some(9_999), None).starts_with("(no output yet)"));
        let whole = logged(&seen(), "one\n", None, None, 6_000);
        assert_eq!((whole.text.as_str(), &whole.details.unwrap()["totalLines"]), ("one", &json!(1)));
    }
}
