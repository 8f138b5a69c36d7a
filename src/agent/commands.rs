//! Slash commands: what a person says to the program and not to the agent (SES-90).
//!
//! [`COMMANDS`] is the table: names, what may follow, which scope it takes, what help says. [`parse`] finds commands in
//! a message; [`Command::effect`] says what one comes to, as a value: whoever carries it out asks whether the sender may
//! ([`Command::needs`], the scope of the method that does the same) and then does what the method does.

mod effects;

pub use effects::{Effect, Ground};

use serde_json::Value;

use crate::protocol::json::json;
use crate::protocol::scope::Scope;
use crate::sessions::thinking;

/// Longest command with what follows it, in bytes; a longer message is words for the agent.
pub const COMMAND_BYTES_MAX: usize = 4096;
/// Directives and shortcuts found in one message; further ones stay in its text.
pub const INLINE_MAX: usize = 8;

/// One command.
pub struct Command {
    /// Without the slash.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// What help says.
    pub description: &'static str,
    /// Where clients list it: `session`, `options`, `status`, `management`.
    pub category: &'static str,
    /// What may follow.
    pub argument: Option<Argument>,
    /// Where in a message it counts.
    pub place: Place,
    /// Who may give it.
    needs: Needs,
    effect: fn(&Ground<'_>, Option<&str>) -> Effect,
}

/// What may follow a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// What clients call it.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
    /// The words it may be; empty: any.
    pub choices: &'static [&'static str],
}

/// Where in a message a command counts.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// Only as the whole message.
    Alone,
    /// Also among words, for this one message, when what follows can be meant; the words go to the agent.
    Directive(fn(&str) -> bool),
    /// Also among words: it is answered, and the words go to the agent.
    Shortcut,
}

/// The scope a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// In any case.
    Always(Scope),
    /// When something follows; alone it only shows.
    ToChange(Scope),
}

const fn takes(name: &'static str, description: &'static str, choices: &'static [&'static str]) -> Option<Argument> {
    Some(Argument { name, description, choices })
}

macro_rules! commands {
    ( $( $name:literal, $aliases:expr, $category:literal, $place:expr, $needs:expr, $argument:expr, $effect:path, $description:literal; )* ) => {
        /// Every command, in the order they are listed.
        pub static COMMANDS: &[Command] = &[ $( Command {
            name: $name,
            aliases: $aliases,
            description: $description,
            category: $category,
            argument: $argument,
            place: $place,
            needs: $needs,
            effect: $effect,
        }, )* ];
    };
}

use Needs::{Always, ToChange};
use Place::{Alone, Directive, Shortcut};
use Scope::{Admin, Read, Write};

commands! {
    // name         also          category      where                  needs            what follows
    "help",       &[],            "status",     Shortcut,              Always(Read),    None,
        effects::help, "Show the most useful commands.";
    "commands",   &[],            "status",     Shortcut,              Always(Read),    None,
        effects::commands, "List every command.";
    "status",     &[],            "status",     Shortcut,              Always(Read),    None,
        effects::status, "Show model, context and settings of this conversation.";
    "whoami",     &["id"],        "status",     Shortcut,              Always(Read),    None,
        effects::whoami, "Show who you are to this gateway.";
    "context",    &[],            "status",     Alone,                 Always(Read),    None,
        effects::context, "Show what the model is given.";
    "new",        &[],            "session",    Alone,                 Always(Admin),   takes("message", "What to begin with", &[]),
        effects::new, "Start a new conversation.";
    "reset",      &[],            "session",    Alone,                 Always(Admin),   takes("message", "What to begin with", &[]),
        effects::reset, "Start this conversation again.";
    "stop",       &["abort", "cancel"], "session", Alone,              Always(Write),   None,
        effects::stop, "Stop what is running.";
    "compact",    &[],            "session",    Alone,                 Always(Admin),   takes("instructions", "What to keep in mind", &[]),
        effects::compact, "Summarise the older part of this conversation.";
    "model",      &[],            "options",    Directive(is_model),   ToChange(Write), takes("model", "`provider/model`, or `default`", &[]),
        effects::model, "Show or choose the model.";
    "models",     &[],            "options",    Alone,                 Always(Read),    takes("provider", "Whose models", &[]),
        effects::models, "List providers, or the models of one.";
    "think",      &["thinking", "t"], "options", Directive(is_level),  ToChange(Write), takes("level", "How much to think", &["default", "off", "minimal", "low", "medium", "high", "xhigh"]),
        effects::think, "Show or choose how much the model thinks.";
    "verbose",    &["v"],         "options",    Alone,                 ToChange(Admin), takes("mode", "Whether tools are shown", &["on", "off", "full"]),
        effects::verbose, "Show or choose whether tools are shown.";
    "reasoning",  &["reason"],    "options",    Alone,                 ToChange(Admin), takes("mode", "Whether thoughts are shown", &["on", "off", "stream"]),
        effects::reasoning, "Show or choose whether thoughts are shown.";
    "usage",      &[],            "options",    Alone,                 ToChange(Admin), takes("mode", "What is shown below replies", &["off", "tokens", "full"]),
        effects::usage, "Show tokens, or choose what is shown of them below replies.";
    "queue",      &[],            "options",    Directive(is_queue_mode), ToChange(Admin), takes("mode", "What a message does that comes during a run", &["steer", "followup", "collect", "interrupt", "default"]),
        effects::queue, "Show or choose what a message does that comes during a run.";
    "activation", &[],            "management", Alone,                 ToChange(Admin), takes("mode", "When a group is answered", &["mention", "always"]),
        effects::activation, "Show or choose when messages of this group are answered.";
    "send",       &[],            "management", Alone,                 ToChange(Admin), takes("mode", "Whether messages are taken", &["on", "off", "inherit"]),
        effects::send, "Show or choose whether messages to this conversation are taken.";
    "subagents",  &[],            "management", Alone,                 ToChange(Write), takes("action", "`list`, `kill TARGET` or `steer TARGET MESSAGE`", &[]),
        effects::subagents, "List tasks in the background, stop one, or tell it something.";
    "kill",       &[],            "management", Alone,                 Always(Write),   takes("target", "Its number, label or key, or `all`", &[]),
        effects::kill, "Stop a task in the background.";
    "steer",      &["tell"],      "management", Alone,                 Always(Write),   takes("target", "Its number, label or key, and the message", &[]),
        effects::steer, "Tell a task in the background something.";
}

fn is_level(text: &str) -> bool {
    thinking::parse(text).is_some()
}

/// Names with a provider only: a bare word among others is a word.
fn is_model(text: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '@' | '-' | '/');
    text.split_once('/').is_some_and(|(provider, model)| !provider.is_empty() && !model.is_empty())
        && text.chars().all(is_fine)
}

fn is_queue_mode(text: &str) -> bool {
    effects::QUEUE_MODES.contains(&text.to_ascii_lowercase().as_str())
}

/// The command of this name, without slash, in any case.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| {
        std::iter::once(&command.name).chain(command.aliases).any(|known| known.eq_ignore_ascii_case(name))
    })
}

impl Command {
    /// The scope that its sender needs.
    pub fn needs(&self, argument: Option<&str>) -> Scope {
        match self.needs {
            Always(scope) => scope,
            ToChange(scope) if argument.is_some() => scope,
            ToChange(_) => Read,
        }
    }

    /// What it comes to.
    pub fn effect(&self, ground: &Ground<'_>, argument: Option<&str>) -> Effect {
        (self.effect)(ground, argument)
    }

    /// As clients list it (`commands.list`).
    pub fn wire(&self) -> Value {
        let aliases: Vec<String> =
            std::iter::once(&self.name).chain(self.aliases).map(|name| format!("/{name}")).collect();
        let mut row = json!({
            "name": self.name,
            "nativeName": self.name,
            "textAliases": aliases,
            "description": self.description,
            "category": self.category,
            "source": "native",
            "scope": "both",
            "acceptsArgs": self.argument.is_some(),
        });
        if let Some(argument) = &self.argument {
            let mut wire = json!({ "name": argument.name, "description": argument.description, "type": "string" });
            if !argument.choices.is_empty() {
                let choices: Vec<Value> =
                    argument.choices.iter().map(|word| json!({ "value": word, "label": word })).collect();
                wire["choices"] = Value::Array(choices);
            }
            row["args"] = json!([wire]);
        }
        row
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}", self.name)
    }
}

/// A command in a message, and what follows it.
#[derive(Debug, Clone)]
pub struct Given {
    /// The command.
    pub command: &'static Command,
    /// What follows; never empty.
    pub argument: Option<String>,
}

impl PartialEq for Given {
    fn eq(&self, other: &Given) -> bool {
        self.command.name == other.command.name && self.argument == other.argument
    }
}

/// What a message is.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Words for the agent, with no command among them.
    Words,
    /// Commands and nothing else: they are carried out, what they change stays, and no agent is asked.
    Commands(Vec<Given>),
    /// Words for the agent, and commands among them: what these change counts for this message only.
    Mixed {
        /// The commands.
        given: Vec<Given>,
        /// The words.
        text: String,
    },
}

/// Finds the commands in a message.
pub fn parse(message: &str) -> Parsed {
    let message = message.trim();
    if !message.contains('/') || message.len() > COMMAND_BYTES_MAX {
        return Parsed::Words;
    }
    if let Some(given) = alone(message) {
        return Parsed::Commands(vec![given]);
    }
    let (given, text) = among_words(message);
    match (given.is_empty(), text.is_empty()) {
        (true, _) => Parsed::Words,
        (false, true) => Parsed::Commands(given),
        (false, false) => Parsed::Mixed { given, text },
    }
}

/// The command that a whole message is: `/name`, `/name rest`, `/name: rest`, `/name@bot rest`.
fn alone(message: &str) -> Option<Given> {
    let (command, rest) = head(message)?;
    let rest = rest.trim();
    let argument = (!rest.is_empty()).then(|| rest.to_owned());
    match (command.place, &argument) {
        (_, None) => Some(Given { command, argument }),
        // Something follows what takes nothing: it is said about the command.
        (_, Some(_)) if command.argument.is_none() => None,
        (Alone, Some(_)) => Some(Given { command, argument }),
        // One word may be wrong and is answered; more than that are words unless the first can be meant.
        (_, Some(rest)) => (!rest.contains(char::is_whitespace)).then_some(Given { command, argument }),
    }
}

/// The command at the beginning of `text`, and what follows it.
fn head(text: &str) -> Option<(&'static Command, &str)> {
    let rest = text.strip_prefix('/')?;
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ':' | '@')).unwrap_or(rest.len());
    let command = find(&rest[..end])?;
    let mut rest = &rest[end..];
    if let Some(mention) = rest.strip_prefix('@') {
        rest = &mention[mention.find(|c: char| c.is_whitespace() || c == ':').unwrap_or(mention.len())..];
    }
    let after = rest.trim_start();
    Some((command, after.strip_prefix(':').unwrap_or(rest)))
}

/// Directives and shortcuts among words, and the words without them. What stands in code is code.
fn among_words(message: &str) -> (Vec<Given>, String) {
    let (mut given, mut text) = (Vec::new(), String::with_capacity(message.len()));
    let (mut rest, mut in_code) = (message, false);
    while !rest.is_empty() {
        let begins_word = text.is_empty() || text.ends_with(char::is_whitespace);
        if begins_word
            && !in_code
            && given.len() < INLINE_MAX
            && let Some((found, after)) = inline(rest)
        {
            given.push(found);
            // One space is left where the command stood between two words.
            rest = after.trim_start_matches([' ', '\t']);
            continue;
        }
        let c = rest.chars().next().expect("not empty");
        in_code ^= c == '`';
        text.push(c);
        rest = &rest[c.len_utf8()..];
    }
    (given, text.trim().to_owned())
}

/// The directive or shortcut at the beginning of `text`, and what follows it.
fn inline(text: &str) -> Option<(Given, &str)> {
    let (command, rest) = head(text)?;
    match command.place {
        Alone => None,
        Shortcut => {
            let is_word = rest.is_empty() || rest.starts_with(char::is_whitespace);
            is_word.then_some((Given { command, argument: None }, rest))
        }
        Directive(is_meant) => {
            let words = rest.trim_start();
            let end = words.find(char::is_whitespace).unwrap_or(words.len());
            let argument = &words[..end];
            is_meant(argument).then(|| (Given { command, argument: Some(argument.to_owned()) }, &words[end..]))
        }
    }
}

#[cfg(test)]
mod tests;
