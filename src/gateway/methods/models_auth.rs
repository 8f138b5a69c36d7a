//! Keys of model providers: `models.authSetApiKey` and `models.authLogout`.
//!
//! A key is kept where everything else that is configured is, in the document, and taken over at once. What the
//! environment holds is not the gateway's to remove, and the answer says so.

use serde_json::{Map, Value, json};

use super::config;
use crate::agent::models::shown;
use crate::agent::providers::table;
use crate::config::secret::PLACEHOLDER;
use crate::config::settings::models::Credential;
use crate::gateway::Fact;
use crate::gateway::table::{StoreCx, need};
use crate::protocol::error::RpcError;
use crate::protocol::params::Loose;
use crate::protocol::session_key::agent_id;
use crate::store::StoreError;

crate::methods! {
    "models.authLogout",    V4, need::ADMIN, need::ADMIN, Store logout;
    "models.authSetApiKey", V4, need::ADMIN, need::ADMIN, Store set_api_key;
}

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

fn set_api_key(cx: StoreCx<'_>, params: Loose) -> Result<(Value, Vec<Fact>), StoreError> {
    let asked = required(&params.0, "models.authSetApiKey", "provider")?;
    let key = required(&params.0, "models.authSetApiKey", "apiKey")?.trim();
    let provider = provider(&cx, asked, &params.0)?;
    let is_known = table::find(&provider.id).is_some() || provider.written.is_some();
    let refusal = if !is_known {
        let asked: String = asked.chars().filter(|c| !c.is_control()).take(80).collect();
        Some(format!("unknown model provider \"{asked}\": add it below models.providers first"))
    } else if key.len() > KEY_BYTES_MAX {
        Some(format!("the key is longer than {KEY_BYTES_MAX} bytes"))
    } else if key.contains(PLACEHOLDER) || key.contains("${") || key.contains(char::is_control) {
        Some("this is no key: it holds a placeholder, a reference or a line break".to_owned())
    } else {
        None
    };
    if let Some(why) = refusal {
        return Err(RpcError::invalid(why).into());
    }
    let stored = config::stored(&cx)?;
    let name = provider.written.as_deref().unwrap_or(&provider.id);
    let patch = json!({ "models": { "providers": { name: { "apiKey": key } } } });
    let planned = config::patch_stored(&cx, &stored, &patch, &[])?;
    let fact = config::taken_over(&cx, planned);
    Ok((json!({ "provider": provider.id, "profileId": default_profile(&provider.id) }), vec![fact]))
}

fn logout(cx: StoreCx<'_>, params: Loose) -> Result<(Value, Vec<Fact>), StoreError> {
    let provider = provider(&cx, required(&params.0, "models.authLogout", "provider")?, &params.0)?;
    let chosen = match params.0.get("profileIds") {
        None => None,
        Some(ids) => Some(texts(ids).ok_or_else(|| RpcError::invalid("profileIds must be a list of texts"))?),
    };
    match (params.0.get("credentialType").map(Value::as_str), &chosen) {
        (None, _) | (Some(Some("api_key")), None) => {}
        _ => return Err(RpcError::invalid("Choose either API keys or specific profiles").into()),
    }
    let stored = config::stored(&cx)?;
    let (mut removed, mut patch) = (Vec::new(), json!({}));
    let written = &stored.config;
    if let Some(name) = &provider.written
        && !written["models"]["providers"][name]["apiKey"].is_null()
    {
        removed.push(default_profile(&provider.id));
    }
    let lists: Vec<(&String, usize)> = written["keys"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| shown::list_name(name) == provider.id)
        .map(|(name, keys)| (name, keys.as_array().map_or(0, Vec::len)))
        .collect();
    removed
        .extend((1..=lists.iter().map(|(_, n_keys)| n_keys).sum()).map(|n: usize| format!("{}:key-{n}", provider.id)));
    if let Some(chosen) = &chosen {
        if chosen.iter().any(|id| !removed.contains(id)) {
            return Err(RpcError::invalid("profileIds contain unavailable auth profiles").into());
        }
        if chosen.iter().any(|id| *id != default_profile(&provider.id)) {
            return Err(RpcError::invalid("keys of a list go together: edit keys with config.patch").into());
        }
        removed.retain(|id| chosen.contains(id));
    }
    for id in &removed {
        match id.strip_suffix(":default") {
            Some(_) => {
                let name = provider.written.as_deref().unwrap_or(&provider.id);
                patch["models"]["providers"][name]["apiKey"] = Value::Null;
            }
            None => lists.iter().for_each(|(name, _)| patch["keys"][name.as_str()] = Value::Null),
        }
    }
    // Runs that go on ask with what they began with; what comes next does not.
    let mut answer = json!({ "provider": provider.id, "removedProfiles": removed, "abortedRunIds": [] });
    if let Some(variable) = provider.variable {
        answer["warning"] = json!(format!("the key in {variable} stays: it is in the environment"));
    }
    if removed.is_empty() {
        return Ok((answer, Vec::new()));
    }
    let planned = config::patch_stored(&cx, &stored, &patch, &[])?;
    let fact = config::taken_over(&cx, planned);
    Ok((answer, vec![fact]))
}

/// A provider that a caller names.
struct Named {
    /// Its canonical id.
    id: String,
    /// The name it is configured under.
    written: Option<String>,
    /// The variable that holds a key of it.
    variable: Option<String>,
}

fn provider(cx: &StoreCx<'_>, asked: &str, params: &Map<String, Value>) -> Result<Named, RpcError> {
    let settings = &cx.snapshot.config.settings;
    if let Some(agent) = params.get("agentId").and_then(Value::as_str).map(agent_id)
        && settings.agents.get(&agent).is_none()
    {
        let details = json!({ "code": "UNKNOWN_AGENT_ID", "agentId": agent });
        return Err(RpcError::invalid(format!("unknown agent id \"{agent}\"")).with_details(details));
    }
    let id = table::canonical(asked);
    let configured = settings.models.providers.iter().find(|provider| table::canonical(&provider.id) == id);
    let env = &cx.snapshot.load_inputs.env.0;
    let is_set = |name: &&&str| env.get(**name).is_some_and(|value| !value.trim().is_empty());
    let of_table = || table::find(&id).and_then(|row| row.env.iter().find(is_set)).map(|name| (*name).to_owned());
    let variable = match configured.map(|provider| &provider.credential) {
        Some(Credential::Variable(name)) => Some(name.clone()),
        _ => of_table(),
    };
    Ok(Named { written: configured.map(|provider| provider.id.clone()), id, variable })
}

/// The profile that one key of a provider is.
fn default_profile(provider: &str) -> String {
    format!("{provider}:default")
}

fn required<'p>(params: &'p Map<String, Value>, method: &str, name: &str) -> Result<&'p str, RpcError> {
    let wrong = |what: String| RpcError::invalid(format!("invalid {method} params: {what}"));
    match params.get(name) {
        None => Err(wrong(format!("must have required property '{name}'"))),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text),
        Some(Value::String(_)) => Err(wrong(format!("at /{name}: must match pattern \"\\S\""))),
        Some(_) => Err(wrong(format!("at /{name}: must be string"))),
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let items = value.as_array()?;
    items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stage::Stage;
    use crate::protocol::version::Protocol::V4;

    fn status(stage: &mut Stage) -> Vec<String> {
        let status = stage.ok(V4, "models.authStatus", &json!({}));
        let providers = status["providers"].as_array().unwrap().iter();
        providers.map(|provider| provider["provider"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_key_is_set_taken_over_and_removed_again() {
        let mut stage = Stage::new(&json!({}));
        let set = json!({ "provider": "OpenAI", "apiKey": " sk-test-0123456789 " });
        let answer = stage.ok(V4, "models.authSetApiKey", &set);
        assert_eq!(answer, json!({ "provider": "openai", "profileId": "openai:default" }));
        assert_eq!(status(&mut stage), ["openai"], "it is taken over at once");
        let config = stage.ok(V4, "config.get", &json!({}));
        assert!(!config.to_string().contains("sk-test"), "and shown to nobody");
        let file = std::fs::read_to_string(stage.dir().join("openclaw.json")).unwrap();
        assert!(file.contains("\"sk-test-0123456789\""), "{file}");

        let gone = stage.ok(V4, "models.authLogout", &json!({ "provider": "openai" }));
        assert_eq!(gone, json!({ "provider": "openai", "removedProfiles": ["openai:default"], "abortedRunIds": [] }));
        assert_eq!(status(&mut stage), [""; 0]);
        let again = stage.ok(V4, "models.authLogout", &json!({ "provider": "openai" }));
        assert_eq!(again["removedProfiles"], json!([]));
    }

    #[test]
    fn lists_of_keys_go_and_the_environment_stays() {
        let config = json!({ "keys": { "anthropic_api_keys": ["a-1", "a-2"], "openai_api_keys": ["o-1"] } });
        let mut stage = Stage::with_env(&config, &[("ANTHROPIC_API_KEY", "from-outside")]);
        let gone = stage.ok(V4, "models.authLogout", &json!({ "provider": "anthropic", "credentialType": "api_key" }));
        assert_eq!(gone["removedProfiles"], json!(["anthropic:key-1", "anthropic:key-2"]));
        assert_eq!(gone["warning"], "the key in ANTHROPIC_API_KEY stays: it is in the environment");
        assert!(status(&mut stage).contains(&"openai".to_owned()), "others keep theirs");
        let file = std::fs::read_to_string(stage.dir().join("openclaw.json")).unwrap();
        assert!(!file.contains("a-1") && file.contains("o-1"), "{file}");
    }

    #[test]
    fn what_is_no_key_or_no_provider_is_refused() {
        let mut stage = Stage::new(&json!({}));
        let set = |provider: &str, key: &str| json!({ "provider": provider, "apiKey": key });
        stage.refused(
            V4,
            "models.authSetApiKey",
            &set("x-none", "k"),
            "unknown model provider \"x-none\": add it below models.providers first",
        );
        for key in ["${HOME}", "two\nlines", PLACEHOLDER] {
            let error = stage.call(V4, "models.authSetApiKey", &set("openai", key)).unwrap_err();
            assert!(error.message.starts_with("this is no key"), "{}", error.message);
        }
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        stage.refused(V4, "models.authSetApiKey", &set("openai", &long), "the key is longer than 16384 bytes");
        stage.refused(
            V4,
            "models.authSetApiKey",
            &json!({ "provider": "openai" }),
            "invalid models.authSetApiKey params: must have required property 'apiKey'",
        );
        stage.refused(
            V4,
            "models.authLogout",
            &json!({ "provider": "openai", "profileIds": ["openai:default"] }),
            "profileIds contain unavailable auth profiles",
        );
        stage.refused(
            V4,
            "models.authLogout",
            &json!({ "provider": "openai", "agentId": "nobody" }),
            "unknown agent id \"nobody\"",
        );
        let none = stage.ok(V4, "models.authLogout", &json!({ "provider": "x-none", "zz": 1 }));
        assert_eq!(none, json!({ "provider": "x-none", "removedProfiles": [], "abortedRunIds": [] }));
    }
}
