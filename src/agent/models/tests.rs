use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::config::document::{self, Context, EnvHidden};
use crate::config::environment::Overrides;

/// A configuration of these words, in a directory.
fn loaded(config: &Value, state_dir: &Path) -> Loaded {
    let context = Context {
        env: EnvHidden::default(),
        overrides: Overrides::default(),
        state_dir: state_dir.to_owned(),
        home: None,
        tailnet: None,
        generated_token: None,
    };
    let source = document::Source { path: state_dir.join("openclaw.json"), raw: Some(config.to_string()) };
    let document = document::evaluate(source, Arc::new(context), &|_, _| unreachable!("nothing is included"));
    assert!(document.is_valid(), "{:?}", document.issues);
    let settings = Arc::clone(document.settings.as_ref().unwrap());
    Loaded { document, settings, state_dir: state_dir.to_owned() }
}

fn models_in(config: Value, env: &[(&str, &str)]) -> Models {
    let dir = tempfile::tempdir().unwrap();
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    Models::new(&loaded(&config, dir.path()), &|name| env.get(name).map(|value| (*value).to_owned()))
}

fn stub() -> Value {
    json!({
        "agents": { "defaults": {
            "model": { "primary": "stub/a", "fallbacks": ["stub/b"] },
            "models": { "stub/a": { "alias": "Quick" }, "stub/c": { "params": { "temperature": 0 } } },
        } },
        "models": { "providers": { "stub": {
            "baseUrl": "http://127.0.0.1:1/v1", "apiKey": "k",
            "models": [{ "id": "a", "contextWindow": 1000 }, { "id": "b" }, { "id": "c" }],
        } } },
    })
}

fn words(chain: &[ModelRef]) -> Vec<String> {
    chain.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(models: &Models, name: &str, expected: Result<&str, &str>) {
    let found = models.resolve(name).map(|model| model.to_string()).map_err(|error| error.to_string());
    assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{name}");
}

#[test]
fn names_become_models() {
    let mut config = stub();
    config["agents"]["defaults"]["models"] = json!({});
    let models = models_in(config, &[("ANTHROPIC_API_KEY", "k")]);
    check(&models, " stub/a ", Ok("stub/a"));
    check(&models, "STUB/x/y", Ok("stub/x/y"));
    check(&models, "claude/sonnet-4.5", Ok("anthropic/claude-sonnet-4-5"));
    check(&models, "opus-4.6", Ok("anthropic/claude-opus-4-6"));
    check(&models, "sonnet", Ok("anthropic/claude-sonnet-5"));
    check(&models, "openai/gpt-5.3-codex", Ok("openai-codex/gpt-5.3-codex"));
    check(&models, "b", Ok("stub/b"));
    check(&models, "gemini-2.5-pro", Ok("google/gemini-2.5-pro"));
    check(&models, "who-knows", Ok("stub/who-knows"));
    check(&models, "", Err("model cannot be empty"));
    check(&models, "stub/", Err("model must be 'provider/model' or 'model'"));
    check(&models, "/a", Err("model must be 'provider/model' or 'model'"));
    check(&models, "nobody/a", Err("Unknown provider \"nobody\". Use /models to list providers."));
    let named = models.resolve_with_profile("stub/a@stub:default").unwrap();
    assert_eq!((named.0.to_string().as_str(), named.1.as_deref()), ("stub/a", Some("stub:default")));
    assert_eq!(models.resolve_with_profile("stub/a@2024").unwrap().0.model, "a@2024");
}

#[test]
fn people_choose_only_what_is_offered() {
    let models = models_in(stub(), &[]);
    check(&models, "quick", Ok("stub/a"));
    check(&models, "stub/c", Ok("stub/c"));
    check(&models, "stub/b", Ok("stub/b"));
    check(&models, "stub/d", Err("model not allowed: stub/d"));
    let mut config = stub();
    config["agents"]["defaults"]["models"] = json!({ "stub/d*": {} });
    let models = models_in(config, &[]);
    check(&models, "stub/d1", Ok("stub/d1"));
    check(&models, "stub/c", Err("model not allowed: stub/c"));
    check(&models, "openai/d1", Err("model not allowed: openai/d1"));
    let models = models_in(stub(), &[]);
    assert_eq!(models.params(&models.resolve("stub/c").unwrap()).unwrap()["temperature"], 0);
}

#[test]
fn the_chain_is_the_wanted_model_the_fallbacks_the_default() {
    let mut config = stub();
    config["agents"]["list"] = json!([
        { "id": "main" },
        { "id": "own", "model": { "primary": "stub/c", "fallbacks": [] } },
        { "id": "half", "model": "stub/c" },
    ]);
    let models = models_in(config, &[("OPENAI_API_KEY", "k")]);
    let wanted = models.resolve("stub/c").unwrap();
    assert_eq!(words(&models.chain("main", None, Pinning::Prefer)), ["stub/a", "stub/b"]);
    assert_eq!(words(&models.chain("main", Some(&wanted), Pinning::Prefer)), ["stub/c", "stub/b", "stub/a"]);
    assert_eq!(words(&models.chain("main", Some(&wanted), Pinning::Strict)), ["stub/c"]);
    assert_eq!(words(&models.chain("own", None, Pinning::Prefer)), ["stub/c", "stub/a"]);
    assert_eq!(words(&models.chain("half", None, Pinning::Prefer)), ["stub/c", "stub/b", "stub/a"]);
    let anthropic = ModelRef { provider: "anthropic".into(), model: "claude-opus-4-6".into() };
    let chain = models.chain("own", Some(&anthropic), Pinning::Prefer);
    assert_eq!(words(&chain), ["anthropic/claude-opus-4-6", "stub/c", "stub/a", "openai/gpt-5.4"]);
    assert_eq!(models.fallback_providers("openai-codex"), ["openai"], "only who has credentials");
}

#[test]
fn without_a_configured_model_the_first_with_credentials_is_asked() {
    assert!(models_in(json!({}), &[]).chain("main", None, Pinning::Prefer).is_empty());
    let models = models_in(json!({}), &[("GEMINI_API_KEY", "k")]);
    assert_eq!(words(&models.chain("main", None, Pinning::Prefer)), ["google/gemini-3.1-pro-preview"]);
    assert!(models.all().all(|(model, _)| model.provider == "google"));
    let replaced = json!({ "models": { "mode": "replace" } });
    assert_eq!(models_in(replaced, &[("GEMINI_API_KEY", "k")]).all().count(), 0);
}

#[test]
fn facts_come_from_the_configuration_then_the_catalogue() {
    let config = json!({ "models": { "providers": { "anthropic": { "apiKey": "k", "models": [
        { "id": "claude-opus-4-6", "contextWindow": 5, "input": ["text"], "compat": { "supportsStore": true } },
        { "id": "own", "api": "openai-completions" },
        { "id": "far", "api": "bedrock-converse-stream" },
        { "id": "bare", "headers": { "x": "env:NOT_SET" } },
    ] } } } });
    let models = models_in(config, &[]);
    let facts = |model: &str| models.facts(&ModelRef { provider: "anthropic".into(), model: model.into() }).unwrap();
    let opus = facts("claude-opus-4-6");
    assert_eq!((opus.context_window, opus.max_tokens, opus.sees_images), (Some(5), Some(128_000), false));
    assert!(opus.is_configured && opus.reasoning && opus.quirks.store);
    assert_eq!((facts("own").api, facts("own").context_tokens()), (Api::OpenAiCompletions, CONTEXT_WINDOW_DEFAULT));
    assert_eq!(facts("claude-sonnet-4-6").api, Api::AnthropicMessages);
    let problem = |model: &str| facts(model).problem.clone().unwrap_or_default();
    assert!(problem("far").contains("bedrock-converse-stream"), "{}", problem("far"));
    assert!(problem("bare").contains("NOT_SET"), "{}", problem("bare"));
    assert_eq!(models.problem(&ModelRef { provider: "anthropic".into(), model: "bare".into() }), Some(problem("bare")));
    assert_eq!(models.problem(&ModelRef { provider: "anthropic".into(), model: "own".into() }), None);
    assert_eq!(models.all().count(), 14, "four configured, ten more of the catalogue");
}

#[test]
fn who_cannot_be_asked_says_why() {
    let config = json!({ "models": { "providers": {
        "a": { "baseUrl": "https://a.example/v1", "apiKey": "env:NOT_SET" },
        "b": { "apiKey": "k" },
        "c": { "baseUrl": "https://c.example", "api": "bedrock-converse-stream", "apiKey": "k" },
        "d": { "baseUrl": "https://d.example", "apiKey": "k", "headers": { "x": "${NOT_SET}" } },
        "e": { "baseUrl": "http://127.0.0.1:1/v1" },
        "f": { "baseUrl": "https://f.example", "auth": "aws-sdk" },
    } } });
    let models = models_in(config, &[]);
    let problem = |id: &str| models.availability(id).problem.unwrap_or_default();
    assert!(problem("a").contains("NOT_SET"), "{}", problem("a"));
    assert!(problem("b").contains("models.providers.b.baseUrl"), "{}", problem("b"));
    assert!(problem("c").contains("bedrock-converse-stream"), "{}", problem("c"));
    assert!(problem("d").contains("header x"), "{}", problem("d"));
    assert!(models.availability("e").is_available, "one's own machine asks for no key");
    assert!(problem("f").contains("AWS"), "{}", problem("f"));
    assert!(problem("anthropic").contains("ANTHROPIC_API_KEY"), "{}", problem("anthropic"));
    assert!(problem("nobody").contains("nobody"));
    assert_eq!(models.provider_ids().collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn keys_come_from_everywhere_once_each() {
    let config = json!({
        "models": { "providers": { "openai": { "apiKey": "one" } } },
        "keys": { "openai_api_keys": ["two", "one", "env:KEY_3"], "anthropic_api_keys": ["x"] },
        "auth": { "profiles": { "openai:me": { "provider": "openai", "mode": "oauth" } }, "order": { "openai": ["openai:key-1"] } },
    });
    let models = models_in(
        config,
        &[("KEY_3", "three"), ("OPENCLAW_RS_OPENAI_API_KEYS", "four, two"), ("OPENAI_API_KEY", "five")],
    );
    let provider = models.provider("openai").unwrap();
    let ids: Vec<(&str, bool)> = provider.profiles.iter().map(|p| (p.id.as_str(), p.secret.is_ok())).collect();
    let expected = [
        ("openai:default", true),
        ("openai:key-1", true),
        ("openai:key-3", true),
        ("openai:key-4", true),
        ("openai:env", true),
        ("openai:me", false),
    ];
    assert_eq!(ids, expected);
    assert_eq!(provider.order, ["openai:key-1"]);
    assert_eq!(models.provider("anthropic").unwrap().profiles.len(), 1);
}

#[test]
fn nothing_shown_of_it_holds_a_secret() {
    let config = json!({ "models": { "providers": { "a": {
        "baseUrl": "https://a.example/v1", "apiKey": "hunter2-key", "headers": { "x": "hunter2-header" },
    } } }, "keys": { "a_api_keys": ["hunter2-list"] } });
    let models = models_in(config, &[("OPENAI_API_KEY", "hunter2-env")]);
    assert_eq!(models.provider("a").unwrap().profiles.len(), 2);
    for shown in [format!("{models:?}"), format!("{:?}", models.availability("a"))] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn roots_that_cannot_be_read_are_a_problem_not_a_crash() {
    let models = models_in(json!({}), &[("SSL_CERT_FILE", "/nowhere/roots.pem")]);
    assert!(models.problems()[0].contains("/nowhere/roots.pem"), "{:?}", models.problems());
}
