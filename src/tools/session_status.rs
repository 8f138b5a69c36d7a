//! `session_status`: what a session is like, as `/status` shows it.

use serde_json::{Value, json};

use super::{Effect, Output, Prepared, Scene, Tool, ToolError};
use crate::defender::request::ActionRequest;
use crate::protocol::params::NonEmpty;

pub(super) const TOOL: Tool = Tool {
    name: "session_status",
    description: "Show the state of this conversation: time and date, model, how full its context is, tokens, and how it \
                  is set. Use it for questions about the current time or about which model answers.",
    summary: "Show time, model, tokens and settings of this conversation",
    parameters,
    effect: Effect::None,
    is_offered: |_| true,
    prepare,
};

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "sessionKey": { "type": "string", "description": "This conversation's key, or `current`" },
        },
        "additionalProperties": false,
    })
}

crate::params! {
    /// Which session.
    pub struct StatusArguments {
        session_key: Option<NonEmpty> = "sessionKey",
    }
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    Ok(Box::new(super::decode::<StatusArguments>("session_status", arguments)?))
}

impl Prepared for StatusArguments {
    /// Nothing that anybody could object to.
    fn parts(&self, _: &Scene<'_>) -> ActionRequest {
        ActionRequest::default()
    }

    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        let facts = scene.session;
        if let Some(key) = self.session_key
            && key.0 != "current"
            && key.0 != facts.key
        {
            return Err(ToolError::Failed(format!(
                "{} is another conversation; only this one can be looked at",
                key.0
            )));
        }
        Ok(Output { text: card(facts), details: Some(details(facts)), ..Output::default() })
    }
}

/// What is known of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its key.
    pub key: String,
    /// The id of its transcript.
    pub session_id: String,
    /// Its agent.
    pub agent: String,
    /// `direct`, `group`, …
    pub kind: String,
    /// Where its replies go.
    pub channel: Option<String>,
    /// Date, time and zone of the user.
    pub time: String,
    /// `provider/model`; `None`: none is configured.
    pub model: Option<String>,
    /// Whether the session chose it.
    pub is_model_chosen: bool,
    /// How much it thinks.
    pub thinking: String,
    /// Whether tools are shown.
    pub verbose: String,
    /// Whether thoughts are shown.
    pub reasoning: String,
    /// What a message does that comes during a run.
    pub queue: Option<String>,
    /// Messages of the live transcript.
    pub messages: u64,
    /// How often it was compacted.
    pub compactions: u64,
    /// Tokens read and written since it began.
    pub tokens: (u64, u64),
    /// What they cost, in words; `None`: no model was asked.
    pub cost: Option<String>,
    /// Tokens of its context, as last counted.
    pub context_tokens: u64,
    /// Tokens the model reads at most.
    pub context_window: Option<u64>,
}

/// The end of a line about tokens: what they cost.
pub fn cost(facts: &Facts) -> String {
    facts.cost.as_ref().map(|cost| format!("; cost: {cost}")).unwrap_or_default()
}

/// The facts in words, a subject on each line.
pub fn card(facts: &Facts) -> String {
    let model = match &facts.model {
        Some(model) if facts.is_model_chosen => format!("{model} (chosen for this conversation)"),
        Some(model) => model.clone(),
        None => "none configured".to_owned(),
    };
    let context = match facts.context_window.filter(|window| *window > 0) {
        Some(window) => {
            let percent = facts.context_tokens.saturating_mul(100) / window;
            format!("{} of {window} tokens ({percent}%)", facts.context_tokens)
        }
        None => format!("{} tokens", facts.context_tokens),
    };
    let mut lines = vec![
        format!("openclaw-rs {}", env!("CARGO_PKG_VERSION")),
        format!("Time: {}", facts.time),
        format!("Model: {model}"),
        format!("Tokens: {} in, {} out{}", facts.tokens.0, facts.tokens.1, cost(facts)),
        format!("Context: {context}, {} messages, {} compactions", facts.messages, facts.compactions),
        format!("Session: {} ({})", facts.key, facts.kind),
        format!("Settings: think {}, verbose {}, reasoning {}", facts.thinking, facts.verbose, facts.reasoning),
    ];
    if let Some(channel) = &facts.channel {
        lines.push(format!("Channel: {channel}"));
    }
    if let Some(queue) = &facts.queue {
        lines.push(format!("Queue: {queue}"));
    }
    lines.join("\n")
}

fn details(facts: &Facts) -> Value {
    json!({
        "ok": true,
        "sessionKey": facts.key,
        "sessionId": facts.session_id,
        "agentId": facts.agent,
        "model": facts.model,
        "thinkingLevel": facts.thinking,
        "inputTokens": facts.tokens.0,
        "outputTokens": facts.tokens.1,
        "contextTokens": facts.context_tokens,
        "contextWindow": facts.context_window,
        "compactionCount": facts.compactions,
        // It only looks.
        "changedModel": false,
        "statusText": card(facts),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tools::tests::call;

    fn facts() -> Facts {
        Facts {
            key: "agent:main:main".to_owned(),
            kind: "direct".to_owned(),
            time: "Sun 2026-09-06 12:00 UTC".to_owned(),
            model: Some("p/m".to_owned()),
            context_tokens: 25,
            context_window: Some(100),
            ..Facts::default()
        }
    }

    #[test]
    fn the_card_names_time_model_and_context() {
        let card = card(&facts());
        for line in ["Time: Sun 2026-09-06 12:00 UTC", "Model: p/m", "Context: 25 of 100 tokens (25%), 0 messages"] {
            assert!(card.lines().any(|shown| shown.starts_with(line)), "{line:?} not in {card}");
        }
        assert!(!card.contains("Channel") && !card.contains("Queue"));
    }

    #[test]
    fn looks_at_its_own_session_only() {
        let facts = facts();
        let call = |arguments: &Value| call(&TOOL, Path::new("/"), &facts, arguments);
        for arguments in [json!({}), json!({ "sessionKey": "current" }), json!({ "sessionKey": "agent:main:main" })] {
            assert_eq!(call(&arguments).unwrap().details.unwrap()["model"], "p/m");
        }
        let refused = call(&json!({ "sessionKey": "agent:other:main" })).unwrap_err();
        assert!(refused.to_string().contains("another conversation"), "{refused}");
    }
}
