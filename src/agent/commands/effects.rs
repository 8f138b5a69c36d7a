//! What each command comes to.

use serde_json::{Map, Value};

use super::{COMMANDS, Command};
use crate::protocol::json::json;
use crate::protocol::scope::Scope;
use crate::sessions::row::Context;
use crate::sessions::thinking;
use crate::store::sessions::SessionRow;
use crate::tools::TOOLS;
use crate::tools::session_status::{self, Facts};
use crate::tools::subagents::Ask;

/// Modes of `/queue` that can be chosen, and the word that chooses none.
pub(super) const QUEUE_MODES: [&str; 6] = ["steer", "followup", "collect", "steer-backlog", "interrupt", DEFAULT];
/// The word that takes a choice back.
const DEFAULT: &str = "default";
/// Models of a provider that are listed; the others are counted.
const MODELS_SHOWN: usize = 50;

/// What a command looks at.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The session, as it is.
    pub session: &'a SessionRow,
    /// What is known of it.
    pub facts: &'a Facts,
    /// Agents and models.
    pub context: &'a Context<'a>,
    /// Providers and their models, as `provider` and `model`.
    pub models: &'a [(String, Vec<String>)],
    /// Who gives the command, as far as that is known.
    pub sender: Option<&'a str>,
    /// What the sender may do.
    pub scopes: &'a [Scope],
}

/// What a command comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The session is changed as by a patch with these fields; then this is said.
    Patch {
        /// As clients send them; `null` clears.
        fields: Map<String, Value>,
        /// What is said when it is done. What the patch refuses is said instead when it is not.
        said: String,
    },
    /// The session is started again.
    Reset {
        /// `new` or `reset`.
        reason: &'static str,
        /// What is said to the agent in the new one.
        then: Option<String>,
        /// What is said to the sender when nothing is said to the agent.
        said: String,
    },
    /// What runs in the session is stopped.
    Abort,
    /// The older part is summarised ([`crate::agent::turn::compact`]).
    Compact {
        /// What the sender wishes of the summary.
        instructions: Option<String>,
    },
    /// Something is asked about runs that this conversation started.
    Subagents(Ask),
    /// Something is said, and nothing done.
    Text(String),
}

fn text(text: impl Into<String>) -> Effect {
    Effect::Text(text.into())
}

fn patch(field: &str, to: Value, said: String) -> Effect {
    let mut fields = Map::new();
    fields.insert(field.to_owned(), to);
    Effect::Patch { fields, said }
}

fn ask(action: &str, rest: Option<&str>) -> Effect {
    let (target, message) = match rest.map(str::trim).filter(|rest| !rest.is_empty()) {
        None => (None, None),
        Some(rest) => match rest.split_once(char::is_whitespace) {
            Some((target, message)) => (Some(target), Some(message)),
            None => (Some(rest), None),
        },
    };
    match Ask::of(action, target, message) {
        Ok(ask) => Effect::Subagents(ask),
        Err(why) => text(why),
    }
}

pub(super) fn subagents(_: &Ground<'_>, argument: Option<&str>) -> Effect {
    let words = argument.unwrap_or_default().trim();
    let (action, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
    ask(&action.to_ascii_lowercase(), Some(rest))
}

pub(super) fn kill(_: &Ground<'_>, argument: Option<&str>) -> Effect {
    ask("kill", argument)
}

pub(super) fn steer(_: &Ground<'_>, argument: Option<&str>) -> Effect {
    ask("steer", argument)
}

fn line(command: &Command) -> String {
    let argument = match &command.argument {
        Some(argument) if argument.choices.is_empty() => format!(" [{}]", argument.name),
        Some(argument) => format!(" [{}]", argument.choices.join("|")),
        None => String::new(),
    };
    format!("/{}{argument} - {}", command.name, command.description)
}

/// Commands that help names; the others are listed by `/commands`.
const HELPFUL: [&str; 8] = ["new", "reset", "stop", "status", "model", "think", "compact", "commands"];

pub(super) fn help(_: &Ground<'_>, _: Option<&str>) -> Effect {
    let lines: Vec<String> = COMMANDS.iter().filter(|command| HELPFUL.contains(&command.name)).map(line).collect();
    text(lines.join("\n"))
}

pub(super) fn commands(_: &Ground<'_>, _: Option<&str>) -> Effect {
    text(COMMANDS.iter().map(line).collect::<Vec<_>>().join("\n"))
}

pub(super) fn status(ground: &Ground<'_>, _: Option<&str>) -> Effect {
    text(session_status::card(ground.facts))
}

pub(super) fn whoami(ground: &Ground<'_>, _: Option<&str>) -> Effect {
    let scopes: Vec<&str> = ground.scopes.iter().map(|scope| scope.as_str()).collect();
    text(format!(
        "You: {}\nChannel: {}\nSession: {}\nScopes: {}",
        ground.sender.unwrap_or("not named"),
        ground.facts.channel.as_deref().unwrap_or("none"),
        ground.session.key,
        if scopes.is_empty() { "none".to_owned() } else { scopes.join(", ") },
    ))
}

pub(super) fn context(ground: &Ground<'_>, _: Option<&str>) -> Effect {
    let facts = ground.facts;
    let window = facts.context_window.map_or_else(|| "not known".to_owned(), |tokens| format!("{tokens} tokens"));
    let tools: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
    text(format!(
        "The model is given: instructions with the workspace's files, {} tools ({}), and this conversation.\n\
         Window: {window}; last counted: {} tokens.\n\
         Conversation: {} messages, compacted {} times. What does not fit is left out, old tool answers first, or \
         summarised.",
        tools.len(),
        tools.join(", "),
        facts.context_tokens,
        facts.messages,
        facts.compactions,
    ))
}

pub(super) fn new(_: &Ground<'_>, argument: Option<&str>) -> Effect {
    Effect::Reset { reason: "new", then: argument.map(str::to_owned), said: "\u{2705} New session started.".to_owned() }
}

pub(super) fn reset(_: &Ground<'_>, argument: Option<&str>) -> Effect {
    Effect::Reset { reason: "reset", then: argument.map(str::to_owned), said: "\u{2705} Session reset.".to_owned() }
}

pub(super) fn stop(_: &Ground<'_>, _: Option<&str>) -> Effect {
    Effect::Abort
}

pub(super) fn compact(_: &Ground<'_>, argument: Option<&str>) -> Effect {
    Effect::Compact { instructions: argument.map(str::to_owned) }
}

pub(super) fn model(ground: &Ground<'_>, argument: Option<&str>) -> Effect {
    let current = ground.facts.model.as_deref().unwrap_or("none configured");
    match argument {
        None => text(format!("Model: {current}\n/model provider/model chooses another one, /models lists them.")),
        Some(DEFAULT) => patch("model", Value::Null, "The agent's own model answers from now on.".to_owned()),
        Some(name) if name.contains(char::is_whitespace) => text("A model is one word: provider/model."),
        Some(name) => patch("model", json!(name), format!("{name} answers from now on.")),
    }
}

pub(super) fn models(ground: &Ground<'_>, argument: Option<&str>) -> Effect {
    if ground.models.is_empty() {
        return text("No provider is configured.");
    }
    let Some(wanted) = argument else {
        let lines = ground.models.iter().map(|(provider, models)| format!("{provider}: {} models", models.len()));
        return text(format!("{}\n/models PROVIDER lists its models.", lines.collect::<Vec<_>>().join("\n")));
    };
    match ground.models.iter().find(|(provider, _)| provider.eq_ignore_ascii_case(wanted)) {
        None => text(format!("No provider is called {wanted}.")),
        Some((provider, models)) => {
            let mut lines: Vec<String> =
                models.iter().take(MODELS_SHOWN).map(|model| format!("{provider}/{model}")).collect();
            if models.len() > MODELS_SHOWN {
                lines.push(format!("and {} more", models.len() - MODELS_SHOWN));
            }
            text(if lines.is_empty() { format!("{provider} names no models.") } else { lines.join("\n") })
        }
    }
}

pub(super) fn think(ground: &Ground<'_>, argument: Option<&str>) -> Effect {
    let levels = ground.context.model_of(ground.session).thinking_levels();
    match argument {
        None => text(format!("Thinking: {}. Levels: {}.", ground.facts.thinking, levels.join(", "))),
        Some(DEFAULT) => patch("thinkingLevel", Value::Null, "Thinking is as the agent's again.".to_owned()),
        Some(word) => match thinking::parse(word) {
            Some(level) => patch("thinkingLevel", json!(level), format!("Thinking: {level}.")),
            None => text(format!("{word} is no level. Levels: {}.", levels.join(", "))),
        },
    }
}

/// A setting with a few words, as the patch of its field reads them.
fn setting(field: &str, what: &str, current: &str, choices: &[&str], argument: Option<&str>) -> Effect {
    match argument.map(str::to_ascii_lowercase) {
        None => text(format!("{what}: {current}. It may be {}.", choices.join(", "))),
        Some(word) if choices.contains(&word.as_str()) => patch(field, json!(word), format!("{what}: {word}.")),
        Some(word) => text(format!("{word} is not known. {what} may be {}.", choices.join(", "))),
    }
}

pub(super) fn verbose(ground: &Ground<'_>, argument: Option<&str>) -> Effect {
    setting("verboseLevel", "Tools shown", &ground.facts.verbose, &["on", "off", "full"], argument)
}

pub(super) fn reasoning(ground: &Ground<'_>, argument: Option<&str>) -> Effect {
    setting("reasoningLevel", "Thoughts shown", &ground.facts.reasoning, &["on", "off", "stream"], argument)
}

pub(super) fn usage(ground: &Ground<'_>, argument: Option<&str>) -> Effect {
    let facts = ground.facts;
    match argument {
        None => text(format!(
            "Tokens: {} in, {} out, {} in context{}. Below replies: {}.",
            facts.tokens.0,
            facts.tokens.1,
            facts.context_tokens,
            session_status::cost(facts),
            stored(ground.session, "responseUsage", "off"),
        )),
        some => setting("responseUsage", "Usage below replies", "", &["off", "tokens", "full"], some),
    }
}

pub(super) fn queue(ground: &Ground<'_>, argument: Option<&str>) -> Effect {
    match argument.map(str::to_ascii_lowercase).as_deref() {
        Some(DEFAULT | "reset") => patch("queueMode", Value::Null, "The queue is as configured again.".to_owned()),
        word => {
            let current = ground.facts.queue.as_deref().unwrap_or("as configured");
            setting("queueMode", "Queue", current, &QUEUE_MODES[..QUEUE_MODES.len() - 1], word)
        }
    }
}

pub(super) fn activation(ground: &Ground<'_>, argument: Option<&str>) -> Effect {
    if argument.is_some() && ground.session.kind != "group" {
        return text("This is no group: every message is answered.");
    }
    let current = stored(ground.session, "groupActivation", "as configured");
    setting("groupActivation", "Activation", current, &["mention", "always"], argument)
}

pub(super) fn send(ground: &Ground<'_>, argument: Option<&str>) -> Effect {
    let to = |value: Value, said: &str| patch("sendPolicy", value, said.to_owned());
    match argument.map(str::to_ascii_lowercase).as_deref() {
        None => {
            text(format!("Messages: {}. It may be on, off, inherit.", stored(ground.session, "sendPolicy", "inherit")))
        }
        Some("on" | "allow") => to(json!("allow"), "Messages are taken."),
        Some("off" | "deny") => to(json!("deny"), "Messages are refused."),
        Some("inherit" | DEFAULT) => to(Value::Null, "Messages are taken as configured."),
        Some(word) => text(format!("{word} is not known. It may be on, off, inherit.")),
    }
}

fn stored<'s>(session: &'s SessionRow, field: &str, otherwise: &'s str) -> &'s str {
    session.entry.get(field).and_then(Value::as_str).unwrap_or(otherwise)
}
