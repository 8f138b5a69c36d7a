//! `approvals`: who waits for leave, what may run without, and what was granted for good.

use std::fs::File;
use std::io::{self, Read as _};

use serde_json::{Value, json};

use super::args::Args;
use super::client::Client;
use super::commands::{CONNECT, HELP, OUTPUT, PLACE, SECRETS, TALK};
use super::flags::{Command, Count, Example, FLAG, Flag, Word};
use super::table::Table;
use super::term::{Out, Style};
use super::{CliError, Outcome, gateway};
use crate::config::json5;
use crate::gateway::approvals::display::visible;
use crate::protocol::scope::Scope;
use crate::runtime::clock;

/// The row of `approvals`.
pub static COMMAND: Command = Command {
    name: "approvals",
    about: "Answer what waits for leave, and say which commands run",
    doc: "The policy is kept by the gateway. Of it and the configuration (`tools.exec.security`, `tools.exec.ask`) the \
          stricter holds.",
    words: &[],
    flags: &[HELP],
    examples: &[
        Example { line: "openclaw-rs approvals pending", what: "what waits" },
        Example { line: "openclaw-rs approvals allowlist add /usr/bin/uptime", what: "a program that needs no leave" },
    ],
    children: &[&PENDING, &RESOLVE, &GET, &SET, &ALLOWLIST, &GRANTS],
    run: None,
};

static PENDING: Command = Command {
    name: "pending",
    about: "List what waits for leave",
    doc: "Characters that cannot be seen are written out, as \\u{200B}. With --json the gateway's answers are passed on \
          whole.",
    words: &[],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs approvals pending --json", what: "for a script" }],
    children: &[],
    run: Some(pending),
};

static RESOLVE: Command = Command {
    name: "resolve",
    about: "Answer what waits for leave",
    doc: "`allow-always` lets exactly this command run again without asking, until it is revoked.",
    words: &[ID, DECISION],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs approvals resolve 5f0e6f1c allow-once", what: "let it run this once" }],
    children: &[],
    run: Some(resolve),
};

static GET: Command = Command {
    name: "get",
    about: "Show which commands run",
    doc: "With --json the gateway's answer is passed on whole, with the hash that a change must name.",
    words: &[],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs approvals get", what: "rules, lists and grants" }],
    children: &[],
    run: Some(get),
};

static SET: Command = Command {
    name: "set",
    about: "Replace what is said of commands",
    doc: "The file is a document of version 1, as `approvals get --json` shows it under `file`.",
    words: &[],
    flags: &[FILE, HELP, CONNECT, SECRETS, PLACE, OUTPUT],
    examples: &[Example { line: "openclaw-rs approvals set --file exec-approvals.json", what: "from a file" }],
    children: &[],
    run: Some(set),
};

static ALLOWLIST: Command = Command {
    name: "allowlist",
    about: "Change the list of programs that need no leave",
    doc: "A pattern is a glob on the program's path without links: `*` stays within a name, `**` does not. A pattern \
          without a slash stands for nothing. Programs that run other programs or text, such as shells and `env`, are on \
          no list by their path.",
    words: &[],
    flags: &[HELP],
    examples: &[Example {
        line: "openclaw-rs approvals allowlist add --agent main '/usr/bin/g*'",
        what: "several programs for one agent",
    }],
    children: &[&ADD, &REMOVE],
    run: None,
};

static ADD: Command = Command {
    name: "add",
    about: "Put a pattern on the list",
    doc: "",
    words: &[PATTERN],
    flags: &[AGENT, HELP, CONNECT, SECRETS, PLACE, OUTPUT],
    examples: &[Example { line: "openclaw-rs approvals allowlist add /usr/bin/uptime", what: "for all agents" }],
    children: &[],
    run: Some(add),
};

static REMOVE: Command = Command {
    name: "remove",
    about: "Take a pattern off the list",
    doc: "Grants are entries too: their pattern is the path of their program, and all of them go with it.",
    words: &[PATTERN],
    flags: &[AGENT, HELP, CONNECT, SECRETS, PLACE, OUTPUT],
    examples: &[Example { line: "openclaw-rs approvals allowlist remove /usr/bin/uptime", what: "for all agents" }],
    children: &[],
    run: Some(remove),
};

static GRANTS: Command = Command {
    name: "grants",
    about: "Look at what was granted for good, and take it back",
    doc: "",
    words: &[],
    flags: &[HELP],
    examples: &[Example { line: "openclaw-rs approvals grants list", what: "the newest first" }],
    children: &[&GRANTS_LIST, &GRANTS_REVOKE],
    run: None,
};

static GRANTS_LIST: Command = Command {
    name: "list",
    about: "List what was granted for good",
    doc: "",
    words: &[],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs approvals grants list --json", what: "for a script" }],
    children: &[],
    run: Some(grants),
};

static GRANTS_REVOKE: Command = Command {
    name: "revoke",
    about: "Take back what was granted for good",
    doc: "The next time somebody is asked again.",
    words: &[ID],
    flags: TALK,
    examples: &[Example { line: "openclaw-rs approvals grants revoke 5f0e6f1c", what: "by the id of `grants list`" }],
    children: &[],
    run: Some(revoke),
};

const ID: Word = Word {
    name: "ID",
    count: Count::One,
    choices: &[],
    help: "its id, or a beginning of it that no other has",
    set: |args, given| {
        args.approvals.id = Some(given.text()?);
        Ok(())
    },
};

const DECISION: Word = Word {
    name: "DECISION",
    count: Count::One,
    choices: &["allow-once", "allow-always", "deny"],
    help: "the answer",
    set: |args, given| {
        args.approvals.decision = Some(given.text()?);
        Ok(())
    },
};

const PATTERN: Word = Word {
    name: "PATTERN",
    count: Count::One,
    choices: &[],
    help: "a glob on the path of a program",
    set: |args, given| {
        args.approvals.pattern = Some(given.text()?);
        Ok(())
    },
};

const AGENT: &[Flag] = &[Flag {
    long: "agent",
    value: Some("ID"),
    help: "whose list; all agents' (`*`) without it",
    set: |args, given| {
        args.approvals.agent = Some(given.text()?);
        Ok(())
    },
    ..FLAG
}];

const FILE: &[Flag] = &[Flag {
    long: "file",
    value: Some("FILE"),
    help: "read the document from here; from standard input without it",
    set: |args, given| {
        args.approvals.file = Some(given.path()?);
        Ok(())
    },
    ..FLAG
}];

/// Looking and answering. What other devices ask for is an administrator's to see.
const APPROVING: &[Scope] = &[Scope::Approvals, Scope::Admin];
/// The policy.
const ADMIN: &[Scope] = &[Scope::Admin];
/// The lists of what waits.
const LISTS: [&str; 3] = ["exec.approval.list", "plugin.approval.list", "openclaw.approval.list"];
/// Shortest beginning of an id that is looked up, in characters.
const ID_CHARS_MIN: usize = 4;
/// Largest document that is read, in bytes; the gateway takes no larger one.
const FILE_BYTES_MAX: u64 = crate::tools::exec_policy::document::DOCUMENT_BYTES_MAX as u64;

fn open(client: &mut Client) -> Result<Vec<Value>, CliError> {
    let mut open = Vec::new();
    for method in LISTS {
        open.extend(client.call(method, json!({}))?.as_array().cloned().unwrap_or_default());
    }
    Ok(open)
}

fn pending(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, APPROVING)?;
    let open = open(&mut client)?;
    client.close();
    if out.is_json() {
        out.json(&json!(open))?;
        return Ok(Outcome::Done);
    }
    print_open(&open, clock::wall_ms(), out)?;
    Ok(Outcome::Done)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn print_open(open: &[Value], now_ms: i64, out: &mut Out) -> io::Result<()> {
    if open.is_empty() {
        return out.line("Nothing waits for leave.");
    }
    for (n, one) in open.iter().enumerate() {
        if n > 0 {
            out.line("")?;
        }
        let command = text(one, "/request/command");
        let what = if command.is_empty() { text(one, "/request/title") } else { command };
        out.line(&format!("{}  {}", text(one, "/id"), visible(what)))?;
        for (name, pointer) in [
            ("program", "/request/resolvedPath"),
            ("in", "/request/cwd"),
            ("agent", "/request/agentId"),
            ("session", "/request/sessionKey"),
            ("host", "/request/host"),
            ("why", "/request/warningText"),
            ("about", "/request/description"),
        ] {
            let value = text(one, pointer);
            if !value.is_empty() {
                out.line(&format!("  {name}: {}", visible(value)))?;
            }
        }
        let left_s = (one["expiresAtMs"].as_i64().unwrap_or(now_ms) - now_ms).max(0) / 1000;
        let decisions = one.pointer("/request/allowedDecisions").and_then(Value::as_array);
        let decisions: Vec<&str> = decisions.into_iter().flatten().filter_map(Value::as_str).collect();
        out.line(&format!("  answer within {left_s} s: {}", decisions.join(", ")))?;
    }
    Ok(())
}

fn resolve(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, APPROVING)?;
    let open = open(&mut client)?;
    let start = args.approvals.id.as_deref().unwrap_or("");
    let found = pick(start, open.iter().map(|one| text(one, "/id")), "waits for leave");
    // What ended a moment ago is in no list, and the gateway says so in its own words.
    let id = found.or_else(|error| if start.len() >= 16 { Ok(start.to_owned()) } else { Err(error) })?;
    let kind = open.iter().find(|one| text(one, "/id") == id).map_or("exec", |one| text(one, "/approvalKind"));
    let method = if kind == "plugin" { "plugin.approval.resolve" } else { "exec.approval.resolve" };
    let decision = args.approvals.decision.as_deref().unwrap_or("deny");
    let answer = client.call(method, json!({ "id": id, "decision": decision }))?;
    client.close();
    if out.is_json() {
        out.json(&answer)?;
        return Ok(Outcome::Done);
    }
    let line = format!("{} {id}: {decision}", out.styled(Style::Good, "answered"));
    out.styled_line(&line)?;
    Ok(Outcome::Done)
}

/// The id that starts like this.
fn pick<'a>(start: &str, ids: impl Iterator<Item = &'a str>, what: &str) -> Result<String, CliError> {
    let long_enough = start.chars().count() >= ID_CHARS_MIN;
    let mut found = ids.filter(|id| *id == start || long_enough && id.starts_with(start));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.to_owned()),
        (Some(_), Some(_)) => Err(CliError::BadRequest {
            what: format!("more than one {what} and starts with {start}"),
            hint: "write more of the id",
        }),
        (None, _) => Err(CliError::BadRequest {
            what: format!("nothing {what} and starts with {start}"),
            hint: "`openclaw-rs approvals pending` and `openclaw-rs approvals grants list` show the ids",
        }),
    }
}

fn get(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, ADMIN)?;
    let answer = client.call("exec.approvals.get", json!({}))?;
    client.close();
    if out.is_json() {
        out.json(&answer)?;
        return Ok(Outcome::Done);
    }
    print_policy(&answer, out)?;
    Ok(Outcome::Done)
}

fn print_policy(answer: &Value, out: &mut Out) -> io::Result<()> {
    let rules = |value: &Value| -> String {
        let words = ["security", "ask", "askFallback"].iter();
        let words = words.filter_map(|name| Some(format!("{name} {}", value.get(name)?.as_str()?)));
        words.collect::<Vec<_>>().join(", ")
    };
    let defaults = rules(&answer["file"]["defaults"]);
    let in_force = if defaults.is_empty() { "nothing said: the configuration holds".to_owned() } else { defaults };
    out.line(&format!("defaults: {in_force}"))?;
    let mut table = Table::new(&["AGENT", "PATTERN", "ARGUMENTS", "LAST USED FOR", "ID"]);
    let mut n_entries = 0;
    for (agent, own) in answer["file"]["agents"].as_object().into_iter().flatten() {
        let own_rules = rules(own);
        if !own_rules.is_empty() {
            out.line(&format!("{agent}: {own_rules}"))?;
        }
        for entry in own["allowlist"].as_array().into_iter().flatten() {
            n_entries += 1;
            let is_granted = entry["source"] == "allow-always";
            let arguments = if is_granted { "as granted" } else { text(entry, "/argPattern") };
            table.row(vec![
                agent.as_str().into(),
                visible(text(entry, "/pattern")).into(),
                visible(arguments).into(),
                visible(text(entry, "/lastUsedCommand")).into(),
                text(entry, "/id").into(),
            ]);
        }
    }
    if n_entries == 0 {
        return out.line("No program is on a list.");
    }
    table.print(out)
}

fn set(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let read = match &args.approvals.file {
        Some(path) => File::open(path).and_then(|file| io::read_to_string(file.take(FILE_BYTES_MAX))),
        None => io::read_to_string(io::stdin().take(FILE_BYTES_MAX)),
    };
    let text = read.map_err(|error| CliError::BadRequest {
        what: format!("the document cannot be read: {error}"),
        hint: "--file names it; without it standard input is read",
    })?;
    let file: Value = json5::value(&text).map_err(|error| CliError::BadRequest {
        what: format!("the document cannot be read: {error}"),
        hint: "`openclaw-rs approvals get --json` shows one",
    })?;
    change(args, out, "replaced", |document| {
        *document = file;
        document["version"] = json!(1);
        Ok(())
    })
}

/// Reads the document, changes it, and puts it back on top of what was read.
fn change(
    args: &Args,
    out: &mut Out,
    done: &str,
    change: impl FnOnce(&mut Value) -> Result<(), CliError>,
) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, ADMIN)?;
    let mut before = client.call("exec.approvals.get", json!({}))?;
    let mut file = before["file"].take();
    change(&mut file)?;
    let answer = client.call("exec.approvals.set", json!({ "file": file, "baseHash": before["hash"] }))?;
    client.close();
    if out.is_json() {
        out.json(&answer)?;
        return Ok(Outcome::Done);
    }
    let line = out.styled(Style::Good, done).to_string();
    out.styled_line(&line)?;
    Ok(Outcome::Done)
}

/// The list that is to be changed.
fn list<'v>(args: &Args, file: &'v mut Value) -> &'v mut Vec<Value> {
    let agent = args.approvals.agent.as_deref().unwrap_or("*");
    let list = &mut file["agents"][agent]["allowlist"];
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut().expect("it is a list by now")
}

fn add(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let pattern = args.approvals.pattern.as_deref().unwrap_or("").trim();
    if !pattern.starts_with('/') && !pattern.starts_with("~/") {
        return Err(CliError::BadRequest {
            what: format!("{pattern} stands for no program: a pattern is a path"),
            hint: "write the whole path, as `command -v NAME` shows it",
        });
    }
    change(args, out, "added", |file| {
        let list = list(args, file);
        let is_there = |entry: &Value| entry["pattern"] == pattern && entry["source"].is_null();
        if !list.iter().any(is_there) {
            list.push(json!({ "pattern": pattern }));
        }
        Ok(())
    })
}

fn remove(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let pattern = args.approvals.pattern.as_deref().unwrap_or("").trim();
    change(args, out, "removed", |file| {
        let list = list(args, file);
        let n_before = list.len();
        list.retain(|entry| entry["pattern"] != pattern);
        if list.len() == n_before {
            return Err(CliError::BadRequest {
                what: format!("{pattern} is not on the list"),
                hint: "`openclaw-rs approvals get` shows it; --agent says whose",
            });
        }
        Ok(())
    })
}

fn grants(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, APPROVING)?;
    let answer = client.call("exec.approval.grants.list", json!({}))?;
    client.close();
    if out.is_json() {
        out.json(&answer)?;
        return Ok(Outcome::Done);
    }
    let grants = answer["grants"].as_array().cloned().unwrap_or_default();
    if grants.is_empty() {
        out.line("Nothing was granted for good.")?;
        return Ok(Outcome::Done);
    }
    let now_ms = clock::wall_ms();
    let mut table = Table::new(&["ID", "AGENT", "COMMAND", "IN", "USED", "LAST"]);
    for grant in &grants {
        table.row(vec![
            text(grant, "/grantId").into(),
            text(grant, "/agentId").into(),
            visible(text(grant, "/command")).into(),
            visible(text(grant, "/cwd")).into(),
            grant["useCount"].as_u64().unwrap_or(0).to_string().into(),
            super::health::age(grant["lastUsedAtMs"].as_i64(), now_ms),
        ]);
    }
    table.print(out)?;
    Ok(Outcome::Done)
}

fn revoke(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, APPROVING)?;
    let answer = client.call("exec.approval.grants.list", json!({}))?;
    let start = args.approvals.id.as_deref().unwrap_or("");
    let grants = answer["grants"].as_array().into_iter().flatten();
    let id = pick(start, grants.map(|grant| text(grant, "/grantId")), "was granted")?;
    let answer = client.call("exec.approval.grants.revoke", json!({ "grantId": id }))?;
    client.close();
    if out.is_json() {
        out.json(&answer)?;
        return Ok(Outcome::Done);
    }
    let line = format!("{} {id}", out.styled(Style::Good, text(&answer, "/outcome")));
    out.styled_line(&line)?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::capture;

    #[test]
    fn what_waits_is_shown_with_everything_that_is_said_yes_to() {
        let open = [json!({
            "id": "a1", "approvalKind": "exec", "expiresAtMs": 61_000,
            "request": {
                "command": "rm\u{200b} -rf x", "resolvedPath": "/usr/bin/rm", "cwd": "/home/ann", "agentId": "main",
                "host": "gateway", "sessionKey": "agent:main:main", "allowedDecisions": ["allow-once", "deny"],
            },
        })];
        assert_eq!(
            capture(false, |out| print_open(&open, 1_000, out)),
            "a1  rm\\u{200B} -rf x\n  program: /usr/bin/rm\n  in: /home/ann\n  agent: main\n  session: agent:main:main\n\
             \u{20} host: gateway\n  answer within 60 s: allow-once, deny\n"
        );
        assert_eq!(capture(false, |out| print_open(&[], 0, out)), "Nothing waits for leave.\n");
    }

    #[test]
    fn a_beginning_must_name_one() {
        let ids = ["aaaa1", "aaaa2", "bb"];
        let found = |start| pick(start, ids.into_iter(), "waits").ok();
        assert_eq!((found("aaaa1"), found("bb")), (Some("aaaa1".to_owned()), Some("bb".to_owned())));
        assert_eq!((found("aaaa"), found("aaa"), found("")), (None, None, None));
    }
}
