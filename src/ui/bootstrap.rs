//! The JSON that upstream's pages ask for before they connect (client notes, section 10, items 3 and 4).

use serde_json::Value;

use super::{BasePath, Response, headers};
use crate::protocol::json::json;

/// Whom the page says it talks to.
#[derive(Debug, Clone, Copy)]
pub struct Assistant<'a> {
    /// Name shown in the chat.
    pub name: &'a str,
    /// A letter, an emoji or an image address.
    pub avatar: &'a str,
    /// The default agent.
    pub agent_id: &'a str,
}

/// What anybody may know: the four keys of the 2026.2.21 page, which sends no credential.
pub fn open_config(base: &BasePath, assistant: Assistant<'_>) -> Response {
    headers::json_answer(200, &four_keys(base, assistant))
}

/// What a signed-in 2026.9.6 page is told. `version` is the gateway's.
pub fn full_config(base: &BasePath, assistant: Assistant<'_>, version: &str) -> Response {
    let mut config = four_keys(base, assistant);
    let rest = json!({
        "assistantAvatarSource": null,
        "assistantAvatarStatus": null,
        "assistantAvatarReason": null,
        "serverVersion": version,
        // No build id: the page compares it with its own and reloads when they differ, and this gateway has none.
        "serverBuildId": null,
        "embedSandbox": "scripts",
        "allowExternalEmbedUrls": false,
        "automaticallyFetchFavicons": false,
        "communityInvite": false,
        "terminalEnabled": false,
        "cliAgentsEnabled": false,
        "pluginAssetsRequireAuth": true,
        "pluginFrameGrants": [],
    });
    if let (Value::Object(config), Value::Object(rest)) = (&mut config, rest) {
        config.extend(rest);
    }
    headers::json_answer(200, &config)
}

/// No agent has a picture: both pages then draw a letter.
pub fn avatar_meta() -> Response {
    headers::json_answer(200, &json!({ "avatarUrl": null }))
}

fn four_keys(base: &BasePath, assistant: Assistant<'_>) -> Value {
    json!({
        "basePath": base.as_str(),
        "assistantName": assistant.name,
        "assistantAvatar": assistant.avatar,
        "assistantAgentId": assistant.agent_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(answer: &Response) -> Vec<String> {
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        body.as_object().expect("an object").keys().cloned().collect()
    }

    const ASSISTANT: Assistant<'_> = Assistant { name: "Ada", avatar: "A", agent_id: "main" };

    #[test]
    fn strangers_learn_four_things() {
        let base = BasePath::parse("/oc").expect("plain");
        let answer = open_config(&base, ASSISTANT);
        assert_eq!(
            std::str::from_utf8(&answer.body),
            Ok(r#"{"basePath":"/oc","assistantName":"Ada","assistantAvatar":"A","assistantAgentId":"main"}"#)
        );
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    }

    /// The keys 2026.9.6 answers with, in its order of meaning.
    #[test]
    fn a_signed_in_page_learns_the_rest() {
        let mut have = keys(&full_config(&BasePath::default(), ASSISTANT, "1.2.3"));
        have.sort();
        let mut want = [
            "basePath",
            "assistantName",
            "assistantAvatar",
            "assistantAvatarSource",
            "assistantAvatarStatus",
            "assistantAvatarReason",
            "assistantAgentId",
            "serverVersion",
            "serverBuildId",
            "embedSandbox",
            "allowExternalEmbedUrls",
            "automaticallyFetchFavicons",
            "communityInvite",
            "terminalEnabled",
            "cliAgentsEnabled",
            "pluginAssetsRequireAuth",
            "pluginFrameGrants",
        ];
        want.sort_unstable();
        assert_eq!(have, want);
    }
}
