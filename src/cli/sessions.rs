//! `sessions`: the sessions a running gateway knows.

use serde::Deserialize;
use serde_json::Value;

use super::args::Args;
use super::client::{Client, ClientError};
use super::commands::{CONNECT, HELP, OUTPUT, PLACE, SECRETS};
use super::flags::{Command, Example, FLAG, Flag};
use super::health::age;
use super::table::Table;
use super::term::Out;
use super::{CliError, Outcome, gateway};
use crate::protocol::json::json;
use crate::protocol::scope::Scope;
use crate::runtime::clock;

/// The row of `sessions`.
pub static COMMAND: Command = Command {
    name: "sessions",
    about: "Look at sessions; alone, list them",
    doc: "",
    words: &[],
    flags: FLAGS,
    examples: &[Example { line: "openclaw-rs sessions", what: "the sessions used last" }],
    children: &[&LIST],
    run: Some(list),
};

static LIST: Command = Command {
    name: "list",
    about: "List sessions, the one used last first",
    doc: "With --json the gateway's answer is passed on whole.",
    words: &[],
    flags: FLAGS,
    examples: &[
        Example { line: "openclaw-rs sessions list --limit 20", what: "twenty of them" },
        Example { line: "openclaw-rs sessions list --active 60 --json", what: "used within the hour, for a script" },
    ],
    children: &[],
    run: Some(list),
};

const FLAGS: &[&[Flag]] = &[LIST_FLAGS, HELP, CONNECT, SECRETS, PLACE, OUTPUT];

const LIST_FLAGS: &[Flag] = &[
    Flag {
        long: "limit",
        value: Some("N"),
        help: "show at most N sessions",
        set: |args, given| {
            args.sessions.limit = Some(given.number(1, 10_000)?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "search",
        value: Some("TEXT"),
        help: "only sessions whose key or title contains TEXT",
        set: |args, given| {
            args.sessions.search = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "agent",
        aliases: &["agent-id"],
        value: Some("ID"),
        help: "only sessions of this agent",
        set: |args, given| {
            args.sessions.agent = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "active",
        value: Some("MINUTES"),
        help: "only sessions used within so many minutes",
        set: |args, given| {
            args.sessions.active_minutes = Some(given.number(1, 10_000_000)?);
            Ok(())
        },
        ..FLAG
    },
];

/// What the table shows of the answer.
#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(default)]
    sessions: Vec<Session>,
    #[serde(default, rename = "totalCount")]
    total_count: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    key: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    derived_title: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    updated_at: Option<i64>,
}

fn list(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, &[Scope::Read])?;
    let answer = client.call("sessions.list", params(args))?;
    client.close();
    if out.is_json() {
        out.json(&answer)?;
        return Ok(Outcome::Done);
    }
    let listed =
        Listed::deserialize(&answer).map_err(|source| ClientError::BadAnswer { method: "sessions.list", source })?;
    print(&listed, clock::wall_ms(), out)?;
    Ok(Outcome::Done)
}

fn params(args: &Args) -> Value {
    let mut params = json!({"includeDerivedTitles": true});
    if let Some(limit) = args.sessions.limit {
        params["limit"] = json!(limit);
    }
    if let Some(search) = &args.sessions.search {
        params["search"] = json!(search);
    }
    if let Some(agent) = &args.sessions.agent {
        params["agentId"] = json!(agent);
    }
    if let Some(minutes) = args.sessions.active_minutes {
        params["activeMinutes"] = json!(minutes);
    }
    params
}

fn print(listed: &Listed, now_ms: i64, out: &mut Out) -> std::io::Result<()> {
    if listed.sessions.is_empty() {
        return out.line("No sessions.");
    }
    let mut table = Table::new(&["KEY", "KIND", "TITLE", "MODEL", "TOKENS", "ACTIVE"]);
    for session in &listed.sessions {
        let title = [&session.label, &session.display_name, &session.derived_title];
        table.row(vec![
            session.key.as_str().into(),
            session.kind.as_str().into(),
            title.into_iter().flatten().next().map_or("", String::as_str).into(),
            session.model.as_deref().unwrap_or("").into(),
            session.total_tokens.map_or_else(String::new, |tokens| tokens.to_string()).into(),
            age(session.updated_at, now_ms),
        ]);
    }
    table.print(out)?;
    let shown = listed.sessions.len() as u64;
    match listed.total_count {
        Some(total) if total > shown => out.line(&format!("{shown} of {total}; --limit shows more")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::capture;

    #[test]
    fn lists_titles_by_weight_and_says_when_there_are_more() {
        let answer = json!({"totalCount": 7, "sessions": [
            {"key": "agent:main:main", "kind": "direct", "label": "Night", "displayName": "x", "updatedAt": 1_000,
             "totalTokens": 12, "model": "m", "somethingNew": {}},
            {"key": "agent:main:dm", "kind": "direct", "derivedTitle": "Hello", "updatedAt": null}
        ]});
        let listed = Listed::deserialize(&answer).unwrap();
        assert_eq!(
            capture(false, |out| print(&listed, 61_000, out)),
            "KEY              KIND    TITLE  MODEL  TOKENS  ACTIVE\n\
             agent:main:main  direct  Night  m      12      1m ago\n\
             agent:main:dm    direct  Hello\n\
             2 of 7; --limit shows more\n"
        );
        let none = Listed::deserialize(&json!({"sessions": []})).unwrap();
        assert_eq!(capture(false, |out| print(&none, 0, out)), "No sessions.\n");
    }

    #[test]
    fn asks_only_what_was_said() {
        let mut args = Args::default();
        assert_eq!(params(&args), json!({"includeDerivedTitles": true}));
        args.sessions.limit = Some(3);
        args.sessions.active_minutes = Some(9);
        assert_eq!(params(&args), json!({"includeDerivedTitles": true, "limit": 3, "activeMinutes": 9}));
    }
}
