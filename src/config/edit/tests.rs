use std::path::Path;

use super::*;
use crate::config::document::{Context, EnvHidden, Source, evaluate};
use crate::config::environment::Overrides;
use crate::config::schema::Reload;

fn read(path: &Path, _: &Path) -> Result<String, String> {
    match path.file_name().and_then(|name| name.to_str()) {
        Some("agents.json") => {
            Ok("{ list: [{ id: 'ann', name: 'Ann' }], defaults: { timeoutSeconds: 60 } }".to_owned())
        }
        _ => Err("no such file".to_owned()),
    }
}

fn document_at(path: &str, raw: Option<&str>) -> Document {
    let env = [("TOKEN", "expanded-token"), ("BASE", "http://127.0.0.1:9/v1")];
    let context = Context {
        env: EnvHidden(env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
        overrides: Overrides::default(),
        state_dir: "/state".into(),
        home: None,
        tailnet: None,
        generated_token: None,
    };
    evaluate(Source { path: path.into(), raw: raw.map(str::to_owned) }, Arc::new(context), &read)
}

fn stored(raw: &str) -> Document {
    document_at("/state/openclaw.json", Some(raw))
}

fn request<'a>(stored: &'a Document, method: Method, raw: &'a str) -> Request<'a> {
    Request { method, protocol: Protocol::V4, raw, base_hash: Some(&stored.hash), replace_paths: &[] }
}

#[track_caller]
fn text_after(stored: &Document, method: Method, raw: &str) -> String {
    plan(stored, &request(stored, method, raw), &read).unwrap().document.raw.unwrap()
}

#[track_caller]
fn refusal(stored: &Document, method: Method, raw: &str, hash: Option<&str>, protocol: Protocol) -> RpcError {
    let request = Request { method, protocol, raw, base_hash: hash, replace_paths: &[] };
    plan(stored, &request, &read).unwrap_err().to_rpc(protocol)
}

const COLOR: &str = r##"{"ui":{"seamColor":"#112233"}}"##;

/// The texts and their order are those of the recordings, families `config/set-errors`, `config/patch-errors`,
/// `config/set-invalid-content`, `config/patch-invalid-content`.
#[test]
fn refusals_are_upstreams_word_for_word() {
    let required = "config base hash required; re-run config.get and retry";
    let changed = "config changed since last load; re-run config.get and retry";
    let named = "config base hash required for ui.seamColor; re-run config.get and retry with baseHash";
    let object = "config.patch raw must be an object";
    let (set, patch) = (Method::Set, Method::Patch);
    let doc = stored("{}");
    let h = Some(doc.hash.as_str());
    let (v3, v4) = (Protocol::V3, Protocol::V4);
    let port = r#"{"gateway":{"port":"x"}}"#;
    let cases: &[(Method, &str, Option<&str>, Protocol, &str)] = &[
        (set, "{}", None, v3, required),
        (set, "{}", None, v4, required),
        (set, "{}", Some("stale"), v3, changed),
        (Method::Apply, "{}", Some("stale"), v4, changed),
        (patch, COLOR, None, v3, required),
        (patch, COLOR, None, v4, named),
        (patch, COLOR, Some("stale"), v4, changed),
        (patch, "5", None, v3, required),
        (patch, "5", None, v4, object),
        (patch, "[]", h, v3, object),
        (set, "{ not json", h, v3, "SyntaxError: JSON5: invalid character 'j' at 1:7"),
        (patch, "{broken", h, v4, "SyntaxError: JSON5: invalid end of input at 1:8"),
        (set, "[]", h, v3, "invalid config"),
        (set, "[]", h, v4, "invalid config: <root>: Invalid input: expected object, received array"),
        (set, port, h, v3, "invalid config"),
        (patch, port, h, v4, "invalid config: gateway.port: Invalid input: expected number, received string"),
        (set, r#"{"zzUnknownRoot":1}"#, h, v4, "invalid config: <root>: Unrecognized key: \"zzUnknownRoot\""),
    ];
    for (method, raw, hash, protocol, expected) in cases {
        let error = refusal(&doc, *method, raw, *hash, *protocol);
        assert_eq!((error.code.as_str(), error.message.as_str()), ("INVALID_REQUEST", *expected), "{raw}");
    }
    let details = refusal(&doc, set, port, h, v3).details.unwrap();
    let issue = json!({ "path": "gateway.port", "message": "Invalid input: expected number, received string" });
    assert_eq!(details, json!({ "issues": [issue] }));
    let root = refusal(&doc, set, r#"{"zzUnknownRoot":1}"#, h, v3).details.unwrap();
    assert_eq!(root["issues"][0]["path"], "");
}

#[test]
fn a_hash_is_compared_without_case_and_not_asked_for_without_a_file() {
    let doc = stored("{}");
    let upper = doc.hash.to_uppercase();
    let request = Request { base_hash: Some(&upper), ..request(&doc, Method::Set, COLOR) };
    assert!(plan(&doc, &request, &read).is_ok());
    let none = document_at("/state/openclaw.json", None);
    let planned = plan(&none, &Request { base_hash: None, ..request }, &read).unwrap();
    assert_eq!(planned.replaces, None);
    assert_eq!(planned.document.raw.unwrap(), COLOR);
}

#[test]
fn an_invalid_stored_document_must_be_fixed_before_patching_but_may_be_replaced() {
    let doc = stored("{ gateway: { port: 'x' } }");
    let error = refusal(&doc, Method::Patch, COLOR, Some(&doc.hash), Protocol::V3);
    assert_eq!(error.message, "invalid config; fix before patching");
    assert_eq!(text_after(&doc, Method::Set, "{ gateway: { port: 5 } }"), "{ gateway: { port: 5 } }");
}

#[test]
fn a_patch_deletes_merges_and_replaces() {
    let doc = stored(
        "{\n  // one\n  ui: { seamColor: '#112233', assistant: { name: 'A' } },\n  tools: { allow: ['a', 'b'] },\n}\n",
    );
    let patch = "{ ui: { seamColor: null }, tools: { allow: ['c'] }, logging: { level: 'warn' } }";
    let planned = plan(&doc, &request(&doc, Method::Patch, patch), &read).unwrap();
    assert_eq!(
        planned.document.config,
        json!({ "ui": { "assistant": { "name": "A" } }, "tools": { "allow": ["c"] }, "logging": { "level": "warn" } })
    );
    assert!(planned.document.raw.unwrap().contains("// one"));
    let changed: Vec<(String, Option<Reload>)> =
        planned.changes.iter().map(|change| (change.path.to_string(), change.reload)).collect();
    let expected = [("ui.seamColor", None), ("tools.allow", Some(Reload::Live)), ("logging", Some(Reload::Live))];
    assert_eq!(changed, expected.map(|(path, reload)| (path.to_owned(), reload)));
}

#[test]
fn lists_of_objects_merge_by_id_unless_told_to_replace() {
    let doc = stored("{ agents: { list: [{ id: 'a', name: 'A' }, { id: 'b', name: 'B' }] } }");
    let patch = "{ agents: { list: [{ id: 'b', name: 'Bea' }, { id: 'c' }] } }";
    let merged = plan(&doc, &request(&doc, Method::Patch, patch), &read).unwrap().document.config;
    assert_eq!(
        merged["agents"]["list"],
        json!([{ "id": "a", "name": "A" }, { "id": "b", "name": "Bea" }, { "id": "c" }])
    );
    let replaced = [String::from("agents.list")];
    let request = Request { replace_paths: &replaced, ..request(&doc, Method::Patch, patch) };
    let list = plan(&doc, &request, &read).unwrap().document.config["agents"]["list"].take();
    assert_eq!(list, json!([{ "id": "b", "name": "Bea" }, { "id": "c" }]));
}

#[test]
fn a_patch_finds_the_key_under_its_other_names() {
    let doc = stored("{ gateway: { token: 'old', control_ui: { base_path: '/a' } } }");
    let patch = "{ gateway: { auth: { token: 'new-token' }, controlUi: { basePath: '/b' } } }";
    let planned = plan(&doc, &request(&doc, Method::Patch, patch), &read).unwrap();
    assert_eq!(planned.document.config["gateway"]["auth"]["token"], "new-token");
    let text = planned.document.raw.unwrap();
    assert!(text.contains("control_ui: { base_path: \"/b\" }"), "{text}");
    assert!(!text.contains("old"), "{text}");
}

#[test]
fn placeholders_become_the_stored_secrets_again() {
    let raw =
        "{ gateway: { auth: { token: 'kept-secret' } }, models: { providers: { p: { apiKey: 'k1', models: [] } } } }";
    let doc = stored(raw);
    let sent = serde_json::to_string(&redact::value(&doc.config)).unwrap();
    assert!(sent.contains(PLACEHOLDER) && !sent.contains("kept-secret"));
    let planned = plan(&doc, &request(&doc, Method::Set, &sent), &read).unwrap();
    assert_eq!(planned.document.config, doc.config);
    assert_eq!(planned.changes, []);
    assert!(planned.document.raw.unwrap().contains("kept-secret"));
    // The raw text a client was shown, edited by hand.
    let shown = redact::text(raw, Format::Json5).unwrap().replace("models: []", "models: [{ id: 'm' }]");
    let planned = plan(&doc, &request(&doc, Method::Set, &shown), &read).unwrap();
    assert_eq!(planned.document.config["gateway"]["auth"]["token"], "kept-secret");
    assert_eq!(planned.document.raw.unwrap(), raw.replace('\'', "\"").replace("models: []", "models: [{ id: 'm' }]"));
}

#[test]
fn a_placeholder_without_a_stored_secret_is_refused_by_path() {
    let doc = stored("{ gateway: { auth: { token: 't' } } }");
    for raw in [
        r#"{ "gateway": { "auth": { "password": "__OPENCLAW_REDACTED__" } } }"#,
        r#"{ "gateway": { "auth": { "token": "prefix-__OPENCLAW_REDACTED__" } } }"#,
        r#"{ "hooks": { "token": "__OPENCLAW_REDACTED__" } }"#,
    ] {
        let error = refusal(&doc, Method::Set, raw, Some(&doc.hash), Protocol::V3);
        let path = error.details.as_ref().unwrap()["issues"][0]["path"].as_str().unwrap().to_owned();
        assert!(
            ["gateway.auth.password", "gateway.auth.token", "hooks.token"].contains(&path.as_str()),
            "{raw}: {path}"
        );
    }
}

#[test]
fn secrets_in_lists_follow_their_id() {
    let doc = stored("{ security: { control_api_keys: [{ id: 'a', token: 'ta' }, { id: 'b', token: 'tb' }] } }");
    let sent = r#"{ "security": { "control_api_keys": [{ "id": "b", "token": "__OPENCLAW_REDACTED__" }] } }"#;
    let planned = plan(&doc, &request(&doc, Method::Set, sent), &read).unwrap();
    assert_eq!(planned.document.config["security"]["control_api_keys"], json!([{ "id": "b", "token": "tb" }]));
}

#[test]
fn references_are_written_back_unexpanded() {
    let raw =
        "{ gateway: { auth: { token: '${TOKEN}' } }, models: { providers: { p: { baseUrl: '${BASE}' } } }, ui: {} }";
    let doc = stored(raw);
    assert_eq!(doc.config["models"]["providers"]["p"]["baseUrl"], "http://127.0.0.1:9/v1");
    let mut sent = redact::value(&doc.config);
    sent["ui"]["seamColor"] = json!("#112233");
    let text = text_after(&doc, Method::Set, &sent.to_string());
    assert!(text.contains("${TOKEN}") && text.contains("${BASE}") && !text.contains("expanded-token"), "{text}");
    sent["models"]["providers"]["p"]["baseUrl"] = json!("http://127.0.0.1:10/v1");
    assert!(text_after(&doc, Method::Set, &sent.to_string()).contains("127.0.0.1:10"));
}

#[test]
fn includes_stay_included_as_far_as_they_say_the_same() {
    let doc = stored("{ agents: { $include: './agents.json' }, ui: {} }");
    assert_eq!(doc.config["agents"]["list"][0]["name"], "Ann", "{:?}", doc.issues);
    let mut sent = doc.config.clone();
    sent["ui"]["seamColor"] = json!("#112233");
    let text = text_after(&doc, Method::Set, &sent.to_string());
    assert!(text.contains("agents: { $include: './agents.json' }"), "{text}");
    sent["agents"]["defaults"]["timeoutSeconds"] = json!(90);
    let planned = plan(&doc, &request(&doc, Method::Set, &sent.to_string()), &read).unwrap();
    assert_eq!(
        planned.document.parsed.unwrap()["agents"],
        json!({ "$include": "./agents.json", "defaults": { "timeoutSeconds": 90 } })
    );
    assert_eq!(planned.document.config["agents"]["defaults"]["timeoutSeconds"], 90);
    sent["agents"].as_object_mut().unwrap().remove("defaults");
    let planned = plan(&doc, &request(&doc, Method::Set, &sent.to_string()), &read).unwrap();
    assert_eq!(planned.document.config["agents"], json!({ "list": [{ "id": "ann", "name": "Ann" }] }), "written out");
    let patched = text_after(&doc, Method::Patch, COLOR);
    assert!(patched.contains("$include: './agents.json'"), "{patched}");
}

#[test]
fn an_unknown_key_the_file_had_is_no_reason_to_refuse_an_edit() {
    let doc = stored("{ zzOld: 1, gateway: { zzOld: 2 } }");
    assert_eq!(doc.warnings.len(), 2);
    let planned = plan(&doc, &request(&doc, Method::Patch, COLOR), &read).unwrap();
    assert_eq!(planned.document.config["zzOld"], 1);
    let error = refusal(&doc, Method::Patch, "{ gateway: { zzNew: 1 } }", Some(&doc.hash), Protocol::V4);
    assert!(error.message.contains("Unrecognized key: \"zzNew\""), "{}", error.message);
}

#[test]
fn rules_across_keys_hold_for_edits() {
    let doc = stored("{}");
    for (raw, path) in [
        ("{ gateway: { tls: { enabled: true } } }", "gateway.tls.enabled"),
        ("{ gateway: { bind: 'lan', auth: { mode: 'none' } } }", "gateway.auth.mode"),
        ("{ hooks: { enabled: true } }", "hooks.token"),
        ("{ ui: { assistant: { name: '${MISSING}' } } }", "ui.assistant.name"),
        ("{ gateway: { token: 'a', auth: { token: 'b' } } }", "gateway.auth.token"),
    ] {
        let error = refusal(&doc, Method::Patch, raw, Some(&doc.hash), Protocol::V3);
        assert_eq!(error.details.unwrap()["issues"][0]["path"], path, "{raw}");
    }
}

#[test]
fn toml_documents_are_edited_as_toml() {
    let raw = "# mine\n[gateway]\nport = 5 # five\n";
    let doc = document_at("/state/openclaw-rs.toml", Some(raw));
    let text = text_after(&doc, Method::Patch, r#"{ "gateway": { "port": 6 } }"#);
    assert_eq!(text, "# mine\n[gateway]\nport = 6 # five\n");
    let text = text_after(&doc, Method::Set, r##"{ "gateway": { "port": 5 }, "ui": { "seamColor": "#112233" } }"##);
    assert_eq!(text, "# mine\n[gateway]\nport = 5 # five\n\n[ui]\nseamColor = \"#112233\"\n");
    let text = text_after(&doc, Method::Set, "# new\n[gateway]\nport = 7\n");
    assert_eq!(text, "# new\n[gateway]\nport = 7\n");
    let error = refusal(&doc, Method::Set, "[gateway\n", Some(&doc.hash), Protocol::V3);
    assert!(error.message.starts_with("SyntaxError: TOML: "), "{}", error.message);
}

#[test]
fn an_unchanged_form_keeps_the_text_and_its_hash() {
    let raw = "// mine\n{ gateway: { port: 5 } }\n";
    let doc = stored(raw);
    let planned = plan(&doc, &request(&doc, Method::Set, &doc.config.to_string()), &read).unwrap();
    assert_eq!(planned.document.raw.as_deref(), Some(raw));
    assert_eq!((planned.document.hash, planned.changes.len()), (doc.hash, 0));
}
