//! What a conversation is put before a model with, counted in characters: whose words fill the context before anything
//! is said (`sessions.usage` with `includeContextWeight`).
//!
//! It is counted on what the next run would really send, in the words of upstream's clients.

use serde_json::Value;

use super::models::Models;
use super::run::Ask;
use super::setting::Setting;
use crate::config::load::Loaded;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::store::sessions::SessionRow;
use crate::tools::TOOLS;

/// A file that takes more than this much of its share, in percent, is said to be near its limit.
const NEAR_LIMIT_PERCENT: usize = 90;

/// Counts it; `None`: nobody can be asked in the session. Reads the workspace's files.
pub fn weigh(config: &Loaded, models: &Models, session: &SessionRow, now_ms: i64) -> Option<Value> {
    let key = SessionKey::stored(session.key.clone());
    let setting =
        Setting::of_session(config, models, &key, &Ask::default(), session.clone(), Vec::new(), now_ms).ok()?;
    let runs = &config.settings.agents.defaults.runs;
    let (provider, model) = setting.first();
    let chars = |text: &str| text.chars().count();
    let all = chars(&setting.system);
    let of_files: usize = setting.files.iter().map(|file| file.kept_chars).sum();
    let is_near = |n: usize, max: usize| n * 100 > max * NEAR_LIMIT_PERCENT;
    let files: Vec<Value> = setting
        .files
        .iter()
        .map(|file| {
            json!({
                "name": file.name,
                "path": setting.workspace.join(file.name),
                "missing": file.is_missing,
                "rawChars": file.raw_chars,
                "injectedChars": file.kept_chars,
                "truncated": file.kept_chars < file.raw_chars,
            })
        })
        .collect();
    let summary = |name: &str| TOOLS.iter().find(|tool| tool.name == name).map_or(0, |tool| chars(tool.summary));
    let tools: Vec<Value> = setting
        .tools
        .iter()
        .map(|tool| {
            json!({
                "name": tool.name,
                "summaryChars": chars(&tool.description),
                "schemaChars": chars(&tool.parameters.to_string()),
                "propertiesCount": tool.parameters["properties"].as_object().map_or(0, serde_json::Map::len),
            })
        })
        .collect();
    let n_near = setting.files.iter().filter(|file| is_near(file.kept_chars, runs.bootstrap_chars_max)).count();
    Some(json!({
        "source": "estimate",
        "generatedAt": now_ms,
        "sessionId": session.session_id,
        "sessionKey": session.key,
        "provider": provider,
        "model": model,
        "workspaceDir": setting.workspace,
        "bootstrapMaxChars": runs.bootstrap_chars_max,
        "bootstrapTotalMaxChars": runs.bootstrap_total_chars_max,
        "bootstrapTruncation": {
            // A file that is cut says so where it is cut.
            "warningMode": "always",
            "warningShown": files.iter().any(|file| file["truncated"] == true),
            "truncatedFiles": files.iter().filter(|file| file["truncated"] == true).count(),
            "nearLimitFiles": n_near,
            "totalNearLimit": is_near(of_files, runs.bootstrap_total_chars_max),
        },
        "systemPrompt": {
            "chars": all,
            "projectContextChars": of_files,
            "nonProjectContextChars": all.saturating_sub(of_files),
        },
        "injectedWorkspaceFiles": files,
        // No skill is put before a model yet.
        "skills": { "promptChars": 0, "entries": [] },
        "tools": {
            "listChars": setting.tools.iter().map(|tool| summary(&tool.name)).sum::<usize>(),
            "schemaChars": tools.iter().filter_map(|tool| tool["schemaChars"].as_u64()).sum::<u64>(),
            "entries": tools,
        },
    }))
}
