//! The answer of `config.get`.

use serde_json::Value;

use super::document::Document;
use super::edit::issues_json;
use super::redact;
use crate::protocol::json::json;
use crate::protocol::version::Protocol;

/// The payload, redacted, with the keys the protocol's clients know.
///
/// `applied_hash` is the hash of the document that is in force: another one than the stored document's while that one
/// is invalid or waits for a restart.
pub fn payload(document: &Document, protocol: Protocol, applied_hash: &str) -> Value {
    let parsed = document.parsed.as_ref().map_or_else(|| json!({}), redact::value);
    let written = redact::value(&document.written);
    let config = redact::value(&document.config);
    let raw = document.raw.as_deref().and_then(|raw| redact::text(raw, document.format));
    let mut payload = json!({
        "path": document.path.to_string_lossy(),
        "exists": document.exists(),
        "raw": raw,
        "parsed": parsed,
        "resolved": config,
        "valid": document.is_valid(),
        "config": config,
        "hash": document.hash,
        "issues": issues_json(&document.issues),
        "warnings": issues_json(&document.warnings),
        // Nothing is migrated behind the user's back: an older name is an alias, and both names work.
        "legacyIssues": [],
    });
    if protocol == Protocol::V4 {
        let included: Vec<String> = document.included.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        let provenance: Vec<Value> = included.iter().map(|path| json!({ "path": path })).collect();
        let more = json!({
            "sourceConfig": written,
            "runtimeConfig": config,
            "includedPaths": included,
            "includeProvenance": provenance,
            "agentRosterIncludeOwned": is_drawn_in(document, "agents"),
            "bindingsIncludeOwned": is_drawn_in(document, "bindings"),
            "configRevisionHash": document.hash,
            "appliedConfigHash": applied_hash,
        });
        let (Value::Object(payload), Value::Object(more)) = (&mut payload, more) else { unreachable!("two objects") };
        payload.extend(more);
    }
    payload
}

/// Whether a section comes from an included file, so that edits of it belong there.
fn is_drawn_in(document: &Document, section: &str) -> bool {
    let spelled = &document.spelled;
    spelled.get(section).is_some_and(super::include::has_any) || spelled.get(super::include::KEY).is_some()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::config::document::{Context, EnvHidden, Source, evaluate};
    use crate::config::environment::Overrides;
    use crate::config::secret::PLACEHOLDER;

    fn document(raw: Option<&str>) -> Document {
        let context = Context {
            env: EnvHidden([("NAME".to_owned(), "value".to_owned())].into()),
            overrides: Overrides::default(),
            state_dir: "/state".into(),
            home: None,
            tailnet: None,
            generated_token: None,
        };
        let source = Source { path: "/state/openclaw.json".into(), raw: raw.map(str::to_owned) };
        evaluate(source, Arc::new(context), &|path: &Path, _: &Path| {
            if path.ends_with("agents.json") {
                Ok("{ list: [{ id: 'ann' }] }".to_owned())
            } else {
                Err("gone".to_owned())
            }
        })
    }

    const RAW: &str = "{ gateway: { auth: { token: 'secret-token' } }, agents: { $include: './agents.json' }, ui: { assistant: { name: '${NAME}' } } }";

    fn keys(payload: &Value) -> Vec<&str> {
        let mut keys: Vec<&str> = payload.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn both_protocols_get_the_keys_their_clients_know() {
        let v3 = [
            "config",
            "exists",
            "hash",
            "issues",
            "legacyIssues",
            "parsed",
            "path",
            "raw",
            "resolved",
            "valid",
            "warnings",
        ];
        let more = [
            "agentRosterIncludeOwned",
            "appliedConfigHash",
            "bindingsIncludeOwned",
            "configRevisionHash",
            "includeProvenance",
            "includedPaths",
            "runtimeConfig",
            "sourceConfig",
        ];
        assert_eq!(keys(&payload(&document(Some(RAW)), Protocol::V3, "h")), v3);
        let mut v4: Vec<&str> = v3.into_iter().chain(more).collect();
        v4.sort_unstable();
        assert_eq!(keys(&payload(&document(Some(RAW)), Protocol::V4, "h")), v4);
    }

    #[test]
    fn shows_the_document_at_each_stage_and_no_secret_at_any() {
        let shown = payload(&document(Some(RAW)), Protocol::V4, "h");
        assert_eq!(shown["valid"], true, "{shown}");
        assert!(!shown.to_string().contains("secret-token"));
        assert_eq!(shown["raw"], RAW.replace("'secret-token'", &format!("\"{PLACEHOLDER}\"")));
        assert_eq!(shown["parsed"]["agents"]["$include"], "./agents.json");
        assert_eq!(shown["sourceConfig"]["agents"]["list"][0]["id"], "ann");
        assert_eq!(shown["sourceConfig"]["ui"]["assistant"]["name"], "${NAME}");
        assert_eq!(shown["config"]["ui"]["assistant"]["name"], "value");
        assert_eq!(shown["includedPaths"][0], "/state/agents.json");
        assert_eq!((&shown["agentRosterIncludeOwned"], &shown["bindingsIncludeOwned"]), (&json!(true), &json!(false)));
    }

    #[test]
    fn a_broken_document_shows_where_and_nothing_of_itself() {
        let shown = payload(&document(Some("{ gateway: { auth: { token: 'secret-token', } ")), Protocol::V3, "h");
        assert_eq!((&shown["valid"], &shown["raw"], &shown["exists"]), (&json!(false), &Value::Null, &json!(true)));
        assert!(shown["issues"][0]["message"].as_str().unwrap().contains("at 1:47"), "{shown}");
        assert!(!shown.to_string().contains("secret-token"));
    }

    #[test]
    fn no_file_is_a_valid_document() {
        let shown = payload(&document(None), Protocol::V3, "h");
        assert_eq!((&shown["valid"], &shown["exists"], &shown["raw"]), (&json!(true), &json!(false), &Value::Null));
        assert_eq!(shown["parsed"], json!({}));
    }
}
