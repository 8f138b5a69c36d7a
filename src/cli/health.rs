//! `health` and `status`: what a running gateway says of itself.

use serde::Deserialize;
use serde_json::Value;

use super::args::Args;
use super::client::Client;
use super::commands::{CONNECT, HELP, OUTPUT, PLACE, SECRETS, TALK};
use super::flags::{Command, Example, FLAG, Flag};
use super::table::{Cell, Table};
use super::term::{Out, Style};
use super::{CliError, Exit, Outcome, gateway};
use crate::protocol::json::json;
use crate::protocol::scope::Scope;
use crate::runtime::clock;

/// The row of `health`.
pub static HEALTH: Command = Command {
    name: "health",
    about: "Ask the running gateway whether it is well",
    doc: "The status is 1 when the gateway answers that it is not. With --json the gateway's answer is passed on whole.",
    words: &[],
    flags: TALK,
    examples: &[
        Example { line: "openclaw-rs health", what: "for a person" },
        Example { line: "openclaw-rs health --json --timeout 2s", what: "for a monitor" },
    ],
    children: &[],
    run: Some(health),
};

/// The row of `status`.
pub static STATUS: Command = Command {
    name: "status",
    about: "Show what the running gateway is doing",
    doc: "Version, sessions, channels and agents at a glance; with --usage also what the last thirty days cost and what \
          providers say of subscriptions. With --json the gateway's answers are passed on whole, as `{\"gateway\", \
          \"health\", \"status\"}`, with --usage also `\"usage\"` and `\"cost\"`.",
    words: &[],
    flags: STATUS_FLAGS,
    examples: &[
        Example { line: "openclaw-rs status", what: "at a glance" },
        Example { line: "openclaw-rs status --usage", what: "and what was spent" },
        Example { line: "openclaw-rs status --json", what: "everything, for a script" },
    ],
    children: &[],
    run: Some(status),
};

const STATUS_FLAGS: &[&[Flag]] = &[USAGE, HELP, CONNECT, SECRETS, PLACE, OUTPUT];

const USAGE: &[Flag] = &[Flag {
    long: "usage",
    help: "tell what was spent, and what is left of subscriptions",
    set: |args, _| {
        args.has_usage = true;
        Ok(())
    },
    ..FLAG
}];

/// What this command reads of a health snapshot; the rest is passed on with `--json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Snapshot {
    ok: bool,
    status: Option<String>,
    channel_order: Vec<String>,
    default_agent_id: String,
    agents: Vec<Agent>,
    sessions: Count,
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot {
            // A gateway that answers and does not say otherwise is well.
            ok: true,
            status: None,
            channel_order: Vec::new(),
            default_agent_id: String::new(),
            agents: Vec::new(),
            sessions: Count::default(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Agent {
    agent_id: String,
    sessions: Count,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Count {
    count: u64,
    recent: Vec<Recent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Recent {
    key: String,
    updated_at: Option<i64>,
}

fn read<T: for<'a> Deserialize<'a>>(method: &'static str, answer: &Value) -> Result<T, CliError> {
    T::deserialize(answer).map_err(|source| super::client::ClientError::BadAnswer { method, source }.into())
}

fn health(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, &[Scope::Read])?;
    let answer = client.call("health", Value::Null)?;
    client.close();
    let snapshot: Snapshot = read("health", &answer)?;
    if out.is_json() {
        out.json(&answer)?;
    } else {
        print_health(&snapshot, out)?;
    }
    Ok(if snapshot.ok { Outcome::Done } else { Outcome::BadNews(Exit::Failure) })
}

fn print_health(snapshot: &Snapshot, out: &mut Out) -> std::io::Result<()> {
    let word = match (&snapshot.status, snapshot.ok) {
        (Some(word), _) => word.as_str(),
        (None, true) => "ok",
        (None, false) => "not well",
    };
    let style = if snapshot.ok { Style::Good } else { Style::Bad };
    let line = format!("Gateway: {}", out.styled(style, word));
    out.styled_line(&line)?;
    let channels =
        if snapshot.channel_order.is_empty() { "none".to_owned() } else { snapshot.channel_order.join(", ") };
    out.line(&format!("Channels: {channels}"))?;
    let agents: Vec<&str> = snapshot.agents.iter().map(|agent| agent.agent_id.as_str()).collect();
    if !agents.is_empty() {
        out.line(&format!("Agents: {} (default {})", agents.join(", "), snapshot.default_agent_id))?;
    }
    out.line(&format!("Sessions: {}", snapshot.sessions.count))
}

fn status(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, &[Scope::Read])?;
    let health = client.call("health", Value::Null)?;
    let status = client.call("status", Value::Null)?;
    let spent = match args.has_usage {
        true => Some((
            client.call("usage.cost", json!({ "agentScope": "all" }))?,
            client.call("usage.status", Value::Null)?,
        )),
        false => None,
    };
    let now_ms = clock::wall_ms();
    let snapshot: Snapshot = read("health", &health)?;
    if out.is_json() {
        let mut all = json!({"gateway": gateway::describe(&client), "health": health, "status": status});
        if let Some((cost, usage)) = spent {
            all["cost"] = cost;
            all["usage"] = usage;
        }
        out.json(&all)?;
    } else {
        print_status(&client, &snapshot, now_ms, out)?;
        if let Some((cost, usage)) = spent {
            out.line("")?;
            print_usage(&read("usage.cost", &cost)?, &read("usage.status", &usage)?, now_ms, out)?;
        }
    }
    client.close();
    Ok(if snapshot.ok { Outcome::Done } else { Outcome::BadNews(Exit::Failure) })
}

fn print_status(client: &Client, snapshot: &Snapshot, now_ms: i64, out: &mut Out) -> std::io::Result<()> {
    gateway::print_hello(client, out)?;
    print_health(snapshot, out)?;
    let mut table = Table::new(&["AGENT", "SESSIONS", "LAST SESSION", "ACTIVE"]);
    for agent in &snapshot.agents {
        let last = agent.sessions.recent.first();
        table.row(vec![
            agent.agent_id.as_str().into(),
            agent.sessions.count.to_string().into(),
            last.map_or("", |recent| recent.key.as_str()).into(),
            age(last.and_then(|recent| recent.updated_at), now_ms),
        ]);
    }
    if table.is_empty() {
        return Ok(());
    }
    out.line("")?;
    table.print(out)
}

/// What this command reads of `usage.cost`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Cost {
    days: u64,
    totals: Totals,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Totals {
    total_tokens: u64,
    total_cost: f64,
    missing_cost_entries: u64,
}

/// What this command reads of `usage.status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Usage {
    providers: Vec<Subscription>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subscription {
    display_name: String,
    windows: Vec<UsageWindow>,
    summary: Option<String>,
    plan: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UsageWindow {
    label: String,
    used_percent: f64,
    reset_at: Option<i64>,
}

fn print_usage(cost: &Cost, usage: &Usage, now_ms: i64, out: &mut Out) -> std::io::Result<()> {
    let Totals { total_tokens, total_cost, missing_cost_entries } = &cost.totals;
    let missing = match missing_cost_entries {
        0 => String::new(),
        1 => ", without 1 answer whose price is not known".to_owned(),
        n => format!(", without {n} answers whose prices are not known"),
    };
    out.line(&format!("Usage of {} days: ${total_cost:.2}{missing}; {total_tokens} tokens", cost.days))?;
    for provider in &usage.providers {
        let mut parts: Vec<String> = provider.plan.iter().chain(&provider.summary).cloned().collect();
        parts.extend(provider.windows.iter().map(|window| {
            let reset = window.reset_at.filter(|at| *at > now_ms);
            let reset = reset.map(|at| format!(", anew in {}", span((at - now_ms).unsigned_abs()))).unwrap_or_default();
            format!("{} {:.0}% used{reset}", window.label, window.used_percent)
        }));
        parts.extend(provider.error.clone());
        out.line(&format!("{}: {}", provider.display_name, parts.join("; ")))?;
    }
    Ok(())
}

/// How long ago `then_ms` was: `12s`, `5m`, `3h`, `9d`.
pub fn age(then_ms: Option<i64>, now_ms: i64) -> Cell {
    let Some(then_ms) = then_ms.filter(|then_ms| *then_ms > 0) else { return "".into() };
    format!("{} ago", span((now_ms - then_ms).max(0).unsigned_abs())).into()
}

/// A length of time in its largest unit.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::capture;

    #[test]
    fn a_snapshot_is_read_whatever_else_it_holds() {
        let answer = json!({
            "ok": true, "ts": 1, "durationMs": 19, "plugins": {"loaded": []}, "channels": {}, "channelOrder": ["telegram"],
            "defaultAgentId": "main", "sessions": {"path": "x", "count": 3, "recent": []},
            "agents": [{"agentId": "main", "isDefault": true, "sessions": {"count": 3, "recent": []}}]
        });
        let snapshot: Snapshot = read("health", &answer).unwrap();
        assert_eq!(
            capture(false, |out| print_health(&snapshot, out)),
            "Gateway: ok\nChannels: telegram\nAgents: main (default main)\nSessions: 3\n"
        );
        let empty: Snapshot = read("health", &json!({})).unwrap();
        assert!(empty.ok);
        let unwell: Snapshot = read("health", &json!({"ok": false})).unwrap();
        assert!(capture(false, |out| print_health(&unwell, out)).contains("not well"));
        assert!(read::<Snapshot>("health", &json!({"ok": "yes"})).is_err());
    }

    #[test]
    fn what_was_spent_is_told_with_what_is_not_known() {
        let cost: Cost = read(
            "usage.cost",
            &json!({ "days": 30, "totals": { "totalTokens": 1234, "totalCost": 1.5, "missingCostEntries": 2 } }),
        )
        .unwrap();
        let usage: Usage = read(
            "usage.status",
            &json!({ "providers": [
                { "displayName": "z.ai", "plan": "Pro", "windows": [
                    { "label": "Tokens (5h)", "usedPercent": 40, "resetAt": 7_200_000 },
                ] },
                { "displayName": "DeepSeek", "windows": [], "error": "cannot be reached" },
            ] }),
        )
        .unwrap();
        assert_eq!(
            capture(false, |out| print_usage(&cost, &usage, 0, out)),
            "Usage of 30 days: $1.50, without 2 answers whose prices are not known; 1234 tokens\n\
             z.ai: Pro; Tokens (5h) 40% used, anew in 2h\nDeepSeek: cannot be reached\n"
        );
    }

    #[test]
    fn spans_use_their_largest_unit() {
        let cases = [(0, "0s"), (59_999, "59s"), (60_000, "1m"), (3_599_999, "59m"), (86_400_000, "1d")];
        for (ms, text) in cases {
            assert_eq!(span(ms), text);
        }
    }
}
