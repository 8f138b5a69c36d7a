//! `tools` and `policy`: which tools an agent may use, why, and calling one.

use serde::Deserialize;
use serde_json::{Value, json};

use super::args::Args;
use super::client::{Client, ClientError};
use super::commands::{CONNECT, HELP, OUTPUT, PLACE, SECRETS};
use super::flags::{Command, Count, Example, FLAG, Flag, Word};
use super::table::{Cell, Table};
use super::term::{Out, Style};
use super::{CliError, Exit, Outcome, gateway};
use crate::config::json5;
use crate::protocol::scope::Scope;

/// The row of `tools`.
pub static COMMAND: Command = Command {
    name: "tools",
    about: "Look at what agents may do, and do it; alone, list it",
    doc: "",
    words: &[],
    flags: LIST_FLAGS,
    examples: &[Example { line: "openclaw-rs tools", what: "the tools, and which of them are offered" }],
    children: &[&LIST, &EXPLAIN, &INVOKE],
    run: Some(list),
};

static LIST: Command = Command {
    name: "list",
    about: "List the tools, and which of them are offered in a session",
    doc: "Without --session it is the main session of the default agent.",
    words: &[],
    flags: LIST_FLAGS,
    examples: &[
        Example { line: "openclaw-rs tools list", what: "in the main session" },
        Example { line: "openclaw-rs tools list --session agent:main:telegram:group:-100 --json", what: "in a group" },
    ],
    children: &[],
    run: Some(list),
};

static EXPLAIN: Command = Command {
    name: "explain",
    about: "Say whether a tool may be used, and what of the configuration decides",
    doc: EXPLAIN_DOC,
    words: TOOL,
    flags: EXPLAIN_FLAGS,
    examples: &[Example { line: "openclaw-rs tools explain exec", what: "in the main session" }],
    children: &[],
    run: Some(explain),
};

static INVOKE: Command = Command {
    name: "invoke",
    about: "Call a tool",
    doc: "The call is decided about like one of an agent: by the policy, by what callers over the gateway may not use \
          (`gateway.tools`), and by the defender. With --dry-run that is all that happens.",
    words: TOOL,
    flags: &[INVOKE_FLAGS, WHERE, HELP, CONNECT, SECRETS, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs tools invoke session_status", what: "what the main session is like" },
        Example {
            line: "openclaw-rs tools invoke read --args '{path: \"AGENTS.md\"}' --dry-run",
            what: "whether that file could be read",
        },
    ],
    children: &[],
    run: Some(invoke),
};

/// The row of `policy`.
pub static POLICY: Command = Command {
    name: "policy",
    about: "Look at the policy in force",
    doc: "",
    words: &[],
    flags: &[HELP, OUTPUT],
    examples: &[Example { line: "openclaw-rs policy explain exec", what: "whether commands may be run" }],
    children: &[&POLICY_EXPLAIN],
    run: None,
};

static POLICY_EXPLAIN: Command = Command {
    name: "explain",
    about: "Say whether a tool may be used, and what of the configuration decides",
    doc: EXPLAIN_DOC,
    words: TOOL,
    flags: EXPLAIN_FLAGS,
    examples: &[
        Example { line: "openclaw-rs policy explain exec", what: "in the main session" },
        Example {
            line: "openclaw-rs policy explain exec --channel telegram --sender 7 --provider openai",
            what: "for one person of a channel, with another model",
        },
    ],
    children: &[],
    run: Some(explain),
};

const EXPLAIN_DOC: &str = "Shows every stage that has something to say, in order; the first that refuses decides. What \
                           is not given is as in the session, which need not be there.\n\nThe status is 1 when the tool \
                           may not be used.";

const TOOL: &[Word] = &[Word {
    name: "TOOL",
    count: Count::One,
    choices: &[],
    help: "the tool, such as exec",
    set: |args, given| {
        args.tools.tool = Some(given.text()?);
        Ok(())
    },
}];

const LIST_FLAGS: &[&[Flag]] = &[WHERE, HELP, CONNECT, SECRETS, PLACE, OUTPUT];
const EXPLAIN_FLAGS: &[&[Flag]] = &[WHERE, WHOM, HELP, CONNECT, SECRETS, PLACE, OUTPUT];

const WHERE: &[Flag] = &[
    Flag {
        long: "session",
        aliases: &["session-key"],
        value: Some("KEY"),
        help: "in this session",
        set: |args, given| {
            args.tools.session = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "agent",
        aliases: &["agent-id"],
        value: Some("ID"),
        help: "for this agent",
        set: |args, given| {
            args.tools.agent = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
];

const WHOM: &[Flag] = &[
    Flag {
        long: "channel",
        value: Some("NAME"),
        help: "as if spoken to on this channel",
        set: |args, given| {
            args.tools.channel = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "account",
        value: Some("ID"),
        help: "on this account of ours",
        set: |args, given| {
            args.tools.account = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "sender",
        value: Some("ID"),
        help: "by this person, as the channel knows them",
        set: |args, given| {
            args.tools.sender = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "provider",
        value: Some("ID"),
        help: "with a model of this provider; PROVIDER/MODEL for that model",
        set: |args, given| {
            args.tools.model = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
];

const INVOKE_FLAGS: &[Flag] = &[
    Flag {
        long: "args",
        value: Some("JSON"),
        help: "the tool's arguments, an object",
        doc: "JSON5: keys need no quotes.",
        set: |args, given| {
            args.tools.arguments = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "dry-run",
        help: "only decide about the call",
        set: |args, _| {
            args.tools.is_dry = true;
            Ok(())
        },
        ..FLAG
    },
];

#[derive(Debug, Deserialize)]
struct Catalog {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    id: String,
    tools: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    id: String,
    #[serde(default)]
    description: String,
}

fn list(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, &[Scope::Read])?;
    let mut whose = json!({});
    set(&mut whose, "agentId", args.tools.agent.as_ref());
    let mut catalog = client.call("tools.catalog", whose)?;
    let listed =
        Catalog::deserialize(&catalog).map_err(|source| ClientError::BadAnswer { method: "tools.catalog", source })?;
    let tools: Vec<(&str, &Listed)> =
        listed.groups.iter().flat_map(|group| group.tools.iter().map(|tool| (group.id.as_str(), tool))).collect();
    let mut explained = Vec::with_capacity(tools.len());
    for (_, tool) in &tools {
        explained.push(client.call("tools.explain", place(args, &tool.id))?);
    }
    client.close();
    if out.is_json() {
        catalog["policy"] = Value::Array(explained);
        out.json(&catalog)?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["TOOL", "GROUP", "OFFERED", "WHAT IT DOES"]);
    for ((group, tool), explained) in tools.iter().zip(&explained) {
        let offered = match explained["allowed"].as_bool() {
            Some(true) => Cell::styled("yes", Style::Good),
            _ => Cell::styled(&format!("no: {}", explained["stage"].as_str().unwrap_or("")), Style::Bad),
        };
        table.row(vec![tool.id.as_str().into(), (*group).into(), offered, Cell::whole(&tool.description)]);
    }
    table.print(out)?;
    Ok(Outcome::Done)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    tool: String,
    is_built: bool,
    session_key: String,
    agent_id: String,
    #[serde(default)]
    model: Option<String>,
    allowed: bool,
    stage: String,
    rule: String,
    steps: Vec<Step>,
    tools_invoke: Answer,
}

#[derive(Debug, Deserialize)]
struct Step {
    stage: String,
    passes: bool,
    rule: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    allowed: bool,
    stage: String,
    rule: String,
}

fn explain(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut client = Client::connect(&gateway::target(args)?, &[Scope::Read])?;
    let tool = args.tools.tool.as_deref().unwrap_or_default();
    let answer = client.call("tools.explain", place(args, tool))?;
    client.close();
    let explained =
        Explained::deserialize(&answer).map_err(|source| ClientError::BadAnswer { method: "tools.explain", source })?;
    if out.is_json() {
        out.json(&answer)?;
    } else {
        print(&explained, out)?;
    }
    Ok(if explained.allowed { Outcome::Done } else { Outcome::BadNews(Exit::Failure) })
}

fn print(explained: &Explained, out: &mut Out) -> std::io::Result<()> {
    let Explained { tool, session_key, agent_id, model, allowed, stage, rule, steps, tools_invoke, .. } = explained;
    let word = |allowed: bool| if allowed { "allowed" } else { "denied" };
    out.line(&format!("{tool} is {}: {rule} ({stage})", word(*allowed)))?;
    if !explained.is_built {
        out.line("This build has no tool of that name.")?;
    }
    let model = model.as_deref().unwrap_or("none");
    out.line(&format!("  agent {agent_id}, session {session_key}, model {model}"))?;
    for Step { stage, passes, rule } in steps {
        out.line(&format!("  {:<5} {stage}: {rule}", if *passes { "pass" } else { "deny" }))?;
    }
    let Answer { allowed, stage, rule } = tools_invoke;
    out.line(&format!("  through tools.invoke: {}, {rule} ({stage})", word(*allowed)))
}

fn invoke(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut params = place(args, args.tools.tool.as_deref().unwrap_or_default());
    if let Some(text) = &args.tools.arguments {
        let arguments = json5::value(text).ok().filter(Value::is_object).ok_or_else(|| CliError::BadRequest {
            what: "--args must be an object".to_owned(),
            hint: "for example --args '{path: \"AGENTS.md\"}'",
        })?;
        params["args"] = arguments;
    }
    if args.tools.is_dry {
        params["dryRun"] = json!(true);
    }
    // Who administers the gateway may be allowed more.
    let mut client = Client::connect(&gateway::target(args)?, &[Scope::Admin])?;
    let answer = client.call("tools.invoke", params)?;
    client.close();
    let is_done = answer["ok"] == true;
    if out.is_json() {
        out.json(&answer)?;
    } else if is_done {
        for part in answer["output"]["content"].as_array().into_iter().flatten() {
            match part["text"].as_str() {
                Some(text) => out.prose(text)?,
                None => out.line(&format!("[{}]", part["mimeType"].as_str().unwrap_or("something to see")))?,
            }
        }
        if let Some(policy) = answer["output"]["details"].get("policy") {
            out.line(&format!(
                "policy: {} ({})",
                policy["rule"].as_str().unwrap_or(""),
                policy["stage"].as_str().unwrap_or("")
            ))?;
        }
    } else {
        let error = &answer["error"];
        let (message, rule) = (error["message"].as_str().unwrap_or(""), error["details"]["rule"].as_str());
        let rule = rule.map(|rule| format!(" ({rule})")).unwrap_or_default();
        out.line(&format!("{}: {message}{rule}", error["code"].as_str().unwrap_or("failed")))?;
    }
    Ok(if is_done { Outcome::Done } else { Outcome::BadNews(Exit::Failure) })
}

/// The parameters that say which tool, and where.
fn place(args: &Args, tool: &str) -> Value {
    let mut params = json!({ "name": tool });
    let told = &args.tools;
    for (name, value) in [
        ("sessionKey", &told.session),
        ("agentId", &told.agent),
        ("channel", &told.channel),
        ("accountId", &told.account),
        ("sender", &told.sender),
        ("model", &told.model),
    ] {
        set(&mut params, name, value.as_ref());
    }
    params
}

fn set(params: &mut Value, name: &str, value: Option<&String>) {
    if let Some(value) = value {
        params[name] = json!(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::capture;

    #[test]
    fn says_what_decides_and_how_it_came_about() {
        let answer = json!({
            "tool": "exec", "isBuilt": false, "sessionKey": "agent:main:main", "sessionExists": false, "agentId": "main",
            "model": "p/m", "profile": "coding", "allowed": false, "stage": "global", "rule": "tools: deny has \"exec\"",
            "steps": [
                { "stage": "profile", "passes": true, "rule": "tools.profile: \"coding\" has it" },
                { "stage": "global", "passes": false, "rule": "tools: deny has \"exec\"" },
            ],
            "toolsInvoke": { "allowed": false, "stage": "global", "rule": "tools: deny has \"exec\"" },
        });
        let explained = Explained::deserialize(&answer).unwrap();
        assert_eq!(
            capture(false, |out| print(&explained, out)),
            "exec is denied: tools: deny has \"exec\" (global)\n\
             This build has no tool of that name.\n  \
             agent main, session agent:main:main, model p/m\n  \
             pass  profile: tools.profile: \"coding\" has it\n  \
             deny  global: tools: deny has \"exec\"\n  \
             through tools.invoke: denied, tools: deny has \"exec\" (global)\n"
        );
    }

    #[test]
    fn asks_only_what_was_said() {
        let mut args = Args::default();
        assert_eq!(place(&args, "exec"), json!({ "name": "exec" }));
        args.tools.session = Some("s".to_owned());
        args.tools.model = Some("openai".to_owned());
        assert_eq!(place(&args, "exec"), json!({ "name": "exec", "sessionKey": "s", "model": "openai" }));
    }
}
