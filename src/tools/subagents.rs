//! `subagents`: what became of tasks in the background, stopping one, telling one more.

use serde_json::{Value, json};

use super::sessions_spawn::TASK_CHARS_MAX;
use super::{Effect, Order, Output, Prepared, Scene, Tool, ToolError};
use crate::defender::request::ActionRequest;
use crate::protocol::params::{NonEmpty, Text};

pub(super) const TOOL: Tool = Tool {
    name: super::SUBAGENTS,
    description: "Tasks in the background that were started here: list them, stop one (`kill`), or tell one something \
                  while it works (`steer`). Their results come by themselves: list them only when somebody asks.",
    summary: "List, stop or direct tasks in the background",
    parameters,
    effect: Effect::Keyed,
    is_offered: |_| true,
    prepare,
};

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "action": { "type": "string", "enum": ["list", "kill", "steer"], "description": "What to do; `list` unless it is said" },
            "target": { "type": "string", "description": "Which one: its number in the list, its label, or its session key; `all` to kill all" },
            "message": { "type": "string", "description": "What it is told" },
        },
        "additionalProperties": false,
    })
}

crate::params! {
    /// What to do with which.
    pub struct SubagentsArguments {
        action: Option<NonEmpty> = "action",
        target: Option<NonEmpty> = "target",
        message: Option<Text<1, TASK_CHARS_MAX>> = "message",
    }
}

/// What is asked about runs that were started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Which there are.
    List,
    /// One is to end; `all`: every one.
    Kill(String),
    /// One is to be told this.
    Tell(String, String),
}

impl Ask {
    /// What words come to, as a person or a model says them: `list`, `kill TARGET`, `steer TARGET MESSAGE`.
    ///
    /// # Errors
    /// What is missing.
    pub fn of(action: &str, target: Option<&str>, message: Option<&str>) -> Result<Ask, String> {
        let target =
            || target.map(str::to_owned).ok_or_else(|| "which one? Its number, label or key is missing".to_owned());
        match action {
            "" | "list" => Ok(Ask::List),
            "kill" => Ok(Ask::Kill(target()?)),
            "steer" | "tell" => {
                let words = message.map(str::trim).filter(|words| !words.is_empty());
                Ok(Ask::Tell(target()?, words.ok_or("what is it to be told? The message is missing")?.to_owned()))
            }
            other => Err(format!("`{other}` is none of list, kill and steer")),
        }
    }
}

impl Prepared for Ask {
    /// What another run is told is what is said to it.
    fn parts(&self, _: &Scene<'_>) -> ActionRequest {
        let prompt = match self {
            Ask::Tell(_, words) => Some(words.clone()),
            Ask::List | Ask::Kill(_) => None,
        };
        ActionRequest { prompt, ..ActionRequest::default() }
    }

    /// By the time it is asked again, a number may name another one.
    fn effect(&self) -> Option<Effect> {
        matches!(self, Ask::Kill(_)).then_some(Effect::Once)
    }

    fn run(self: Box<Self>, _: &Scene<'_>) -> Result<Output, ToolError> {
        Ok(Output { order: Some(Order::Subagents(*self)), ..Output::default() })
    }
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    let wanted: SubagentsArguments = super::decode(super::SUBAGENTS, arguments)?;
    let text = |value: &Option<NonEmpty>| value.as_ref().map(|text| text.0.clone());
    let (action, target) = (text(&wanted.action).unwrap_or_default(), text(&wanted.target));
    let message = wanted.message.as_ref().map(|message| message.0.as_str());
    let ask = Ask::of(&action, target.as_deref(), message).map_err(ToolError::Arguments)?;
    Ok(Box::new(ask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_to_what_is_asked() {
        assert_eq!(Ask::of("", None, None), Ok(Ask::List));
        assert_eq!(Ask::of("kill", Some("2"), None), Ok(Ask::Kill("2".to_owned())));
        assert_eq!(Ask::of("tell", Some("a"), Some(" go on ")), Ok(Ask::Tell("a".to_owned(), "go on".to_owned())));
        for (action, target, message) in
            [("kill", None, None), ("steer", Some("a"), None), ("steer", Some("a"), Some(" ")), ("eat", None, None)]
        {
            assert!(Ask::of(action, target, message).is_err(), "{action}");
        }
    }
}
