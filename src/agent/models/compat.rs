//! `compat` of a configured model: what its API leaves out or names differently (MODEL-14).

use serde_json::{Map, Value};

use crate::agent::providers::table::{MaxTokensField, Quirks, ThinkingFormat};

/// A provider's quirks with what a model says of its own.
pub(super) fn overlaid(mut quirks: Quirks, compat: &Map<String, Value>) -> Quirks {
    let flag = |name: &str, to: &mut bool| {
        if let Some(value) = compat.get(name).and_then(Value::as_bool) {
            *to = value;
        }
    };
    flag("supportsStore", &mut quirks.store);
    flag("supportsDeveloperRole", &mut quirks.developer_role);
    flag("supportsUsageInStreaming", &mut quirks.stream_usage);
    flag("supportsStrictMode", &mut quirks.strict_tools);
    flag("requiresToolResultName", &mut quirks.tool_result_name);
    flag("requiresAssistantAfterToolResult", &mut quirks.assistant_after_tool);
    flag("requiresThinkingAsText", &mut quirks.thinking_as_text);
    flag("requiresMistralToolIds", &mut quirks.short_call_ids);
    match compat.get("maxTokensField").and_then(Value::as_str) {
        Some("max_tokens") => quirks.max_tokens = MaxTokensField::MaxTokens,
        Some("max_completion_tokens") => quirks.max_tokens = MaxTokensField::MaxCompletionTokens,
        _ => {}
    }
    match compat.get("thinkingFormat").and_then(Value::as_str) {
        Some("openai") => quirks.thinking = ThinkingFormat::OpenAi,
        Some("openrouter") => quirks.thinking = ThinkingFormat::OpenRouter,
        Some("zai") => quirks.thinking = ThinkingFormat::Zai,
        Some("qwen") => quirks.thinking = ThinkingFormat::Qwen,
        _ => {}
    }
    if compat.get("supportsReasoningEffort") == Some(&Value::Bool(false)) && quirks.thinking == ThinkingFormat::OpenAi {
        quirks.thinking = ThinkingFormat::None;
    }
    quirks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::providers::table::COMPATIBLE;

    #[test]
    fn what_a_model_says_counts_more_than_its_provider() {
        let compat = json!({
            "supportsStore": true, "supportsDeveloperRole": true, "supportsUsageInStreaming": false,
            "supportsStrictMode": true, "requiresToolResultName": true, "requiresAssistantAfterToolResult": true,
            "requiresThinkingAsText": true, "requiresMistralToolIds": true, "maxTokensField": "max_completion_tokens",
            "thinkingFormat": "zai",
        });
        let all = Quirks {
            max_tokens: MaxTokensField::MaxCompletionTokens,
            developer_role: true,
            stream_usage: false,
            store: true,
            strict_tools: true,
            thinking: ThinkingFormat::Zai,
            tool_result_name: true,
            assistant_after_tool: true,
            thinking_as_text: true,
            short_call_ids: true,
            keeps_thoughts: false,
        };
        assert_eq!(overlaid(COMPATIBLE, compat.as_object().unwrap()), all);
        assert_eq!(overlaid(COMPATIBLE, &Map::new()), COMPATIBLE);
        let mute = json!({ "supportsReasoningEffort": false });
        assert_eq!(overlaid(COMPATIBLE, mute.as_object().unwrap()).thinking, ThinkingFormat::None);
    }
}
