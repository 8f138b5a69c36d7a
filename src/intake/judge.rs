//! The defender's settings, from the configuration.

use crate::config::settings::Settings;
use crate::config::settings::security::ToolPolicy;
use crate::defender::decision::Action;
use crate::defender::rules::RuleInputs;

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
