//! The defender's settings, from the configuration, and its decisions, for the store.

use crate::config::settings::Settings;
use crate::config::settings::security::ToolPolicy;
use crate::defender::decision::{Action, Decision};
use crate::defender::request::ActionRequest;
use crate::defender::rules::RuleInputs;
use crate::store::decisions::{Action as StoredAction, NewDecision};

/// What the defender's rules are made of.
pub fn rule_inputs(settings: &Settings) -> RuleInputs {
    let security = &settings.security;
    RuleInputs {
        review_threshold: security.review_threshold,
        block_threshold: security.block_threshold,
        audit_only: settings.runtime.audit_only,
        prompt_injection_patterns: security.prompt_injection_patterns.clone(),
        blocked_command_patterns: security.blocked_command_patterns.clone(),
        allowed_command_prefixes: security.allowed_command_prefixes.clone(),
        tool_policies: security
            .tool_policies
            .iter()
            .map(|(tool, policy)| {
                let action = match policy {
                    ToolPolicy::Allow => Action::Allow,
                    ToolPolicy::Review => Action::Review,
                    ToolPolicy::Block => Action::Block,
                };
                (tool.clone(), action)
            })
            .collect(),
        tool_risk_bonus: security.tool_risk_bonus.clone(),
        channel_risk_bonus: security.channel_risk_bonus.clone(),
        ..RuleInputs::default()
    }
}

/// A decision as it is stored; `preview` is the beginning of what was judged, masked.
pub fn stored(request: &ActionRequest, decision: &Decision, preview: String, now_ms: i64) -> NewDecision {
    NewDecision {
        at_ms: now_ms,
        request_id: request.id.clone().unwrap_or_default(),
        session_key: request.session_key.clone(),
        source: request.source.clone(),
        channel: request.channel.clone(),
        tool: request.tool.clone(),
        action: match decision.action {
            Action::Allow => StoredAction::Allow,
            Action::Review => StoredAction::Review,
            Action::Block => StoredAction::Block,
        },
        score: decision.risk_score,
        reasons: decision.reasons.clone(),
        tags: decision.tags.iter().map(|tag| (*tag).to_owned()).collect(),
        preview,
    }
}
