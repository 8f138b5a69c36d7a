//! `sessions_spawn`: have a task done in the background, by a run of its own.
//!
//! The tool only reads what is asked for; whoever called it starts the run ([`Order::Spawn`]).

use std::time::Duration;

use serde_json::{Value, json};

use super::sandbox::rule::{self, Session};
use super::{Effect, Order, Output, Prepared, Scene, Tool, ToolError, session_status};
use crate::defender::request::ActionRequest;
use crate::protocol::params::{Count, NonEmpty, Text};

/// Longest task, in characters.
pub const TASK_CHARS_MAX: usize = 32 * 1024;
/// Longest label, in characters.
const LABEL_CHARS_MAX: usize = 64;

pub(super) const TOOL: Tool = Tool {
    name: super::SPAWN,
    description: "Have a task done in the background, in a conversation of its own. Whoever does it knows nothing of this \
                  conversation: put everything it needs into the task. Returns at once. What comes of it is told here as \
                  a message when it is done, so do not wait for it and do not ask.",
    summary: "Have a task done in the background; its result is told here",
    parameters,
    effect: Effect::Keyed,
    is_offered: |_| true,
    prepare,
};

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "task": { "type": "string", "description": "What is to be done, with everything needed for it" },
            "label": { "type": "string", "description": "A short name for it" },
            "agentId": { "type": "string", "description": "Another agent that is to do it" },
            "model": { "type": "string", "description": "The model that is to do it, as provider/model" },
            "thinking": { "type": "string", "description": "How much to think: off, minimal, low, medium, high, xhigh" },
            "runTimeoutSeconds": { "type": "integer", "minimum": 0, "description": "Longest time it may take; 0: as usual" },
        },
        "required": ["task"],
        "additionalProperties": false,
    })
}

crate::params! {
    /// What is to be done, and how.
    pub struct SpawnArguments {
        task: Text<1, TASK_CHARS_MAX> = "task",
        label: Option<Text<0, LABEL_CHARS_MAX>> = "label",
        agent_id: Option<NonEmpty> = "agentId",
        model: Option<NonEmpty> = "model",
        thinking: Option<NonEmpty> = "thinking",
        run_timeout_seconds: Option<Count> = "runTimeoutSeconds",
    }
}

/// A run to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawn {
    /// What is to be done.
    pub task: String,
    /// A short name for it.
    pub label: Option<String>,
    /// The agent that is to do it; `None`: the one that asks.
    pub agent: Option<String>,
    /// The model that is to do it.
    pub model: Option<String>,
    /// How much to think.
    pub thinking: Option<String>,
    /// Longest time it may take.
    pub timeout: Option<Duration>,
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    Ok(Box::new(spawn(arguments)?))
}

impl Prepared for Spawn {
    /// What another run is told is what is said to it.
    fn parts(&self, _: &Scene<'_>) -> ActionRequest {
        ActionRequest { prompt: Some(self.task.clone()), ..ActionRequest::default() }
    }

    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        let session_status::Facts { agent, key, .. } = scene.session;
        let own = Session { agent, key, workspace: scene.workspace, wants_elevated: false };
        let other = self.agent.as_deref().unwrap_or(agent);
        if rule::would_have_more(scene.config, own, other) {
            return Err(ToolError::Failed(format!(
                "not started: commands of this conversation are held in a sandbox, and those of {other} would be held less"
            )));
        }
        Ok(Output { order: Some(Order::Spawn(self)), ..Output::default() })
    }
}

fn spawn(arguments: &Value) -> Result<Spawn, ToolError> {
    let wanted: SpawnArguments = super::decode(super::SPAWN, arguments)?;
    let spawn = Spawn {
        task: wanted.task.0,
        label: wanted.label.map(|label| label.0.trim().to_owned()).filter(|label| !label.is_empty()),
        agent: wanted.agent_id.map(|id| id.0),
        model: wanted.model.map(|model| model.0),
        thinking: wanted.thinking.map(|level| level.0),
        timeout: wanted.run_timeout_seconds.map(|s| Duration::from_secs(s.0 as u64)).filter(|time| !time.is_zero()),
    };
    if spawn.task.trim().is_empty() {
        return Err(ToolError::Arguments("the task says nothing".to_owned()));
    }
    Ok(spawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_asked_for_and_starts_nothing() {
        let asked = json!({ "task": "count", "label": " sheep ", "runTimeoutSeconds": 7, "thinking": "low" });
        let read = spawn(&asked).unwrap();
        assert_eq!(
            (&*read.task, read.label.as_deref(), read.timeout),
            ("count", Some("sheep"), Some(Duration::from_secs(7)))
        );
        assert!(spawn(&json!({})).is_err() && spawn(&json!({ "task": "  " })).is_err());
        assert!(spawn(&json!({ "task": "x".repeat(TASK_CHARS_MAX) })).is_ok(), "the limit itself");
        assert!(spawn(&json!({ "task": "x".repeat(TASK_CHARS_MAX + 1) })).is_err());
    }
}
