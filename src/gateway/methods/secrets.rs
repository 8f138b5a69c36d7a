//! `secrets.*`: where the configuration takes secrets from. No value leaves, but to who may resolve it for a command.
//!
//! Secrets are kept outside (in the environment, in `.env` files) and named in the configuration; there is no store of
//! our own that could be written, so `secrets.store.set` and `.delete` are not built.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use crate::config::path::Step;
use crate::config::references::{self, Reference};
use crate::config::schema;
use crate::gateway::table::{QueryCx, need};
use crate::gateway::{Fact, reload};
use crate::protocol::error::RpcError;
use crate::protocol::params::{Loose, Nothing};

crate::methods! {
    "secrets.reload",     V4, need::ADMIN, need::ADMIN, QueryFacts reload_secrets;
    "secrets.resolve",    V4, need::ADMIN, need::ADMIN, Query resolve;
    "secrets.store.list", V4, need::ADMIN, need::ADMIN, Query list;
}

/// Longest name that the contract lets a list show, in characters.
const NAME_CHARS_MAX: usize = 128;

fn reload_secrets(cx: QueryCx<'_>, _params: Loose) -> Result<(Value, Vec<Fact>), RpcError> {
    let loaded = reload::read(&cx.snapshot.load_inputs).map_err(|error| RpcError::unavailable(error.to_string()))?;
    let answer = json!({ "ok": true, "warningCount": loaded.document.warnings.len() });
    Ok((answer, vec![Fact::Config(Box::new(loaded))]))
}

/// The secrets that the configuration in force names, each once, without their values.
fn list(cx: QueryCx<'_>, _params: Nothing) -> Result<Value, RpcError> {
    let document = &cx.snapshot.config.document;
    // A name is as old as the file it stands in.
    let changed = std::fs::metadata(&document.path).and_then(|about| about.modified()).ok();
    let at_ms = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_millis() as u64);
    let names: BTreeSet<String> = references::of(&document.written).into_iter().map(|one| one.name).collect();
    let entries: Vec<Value> = names
        .into_iter()
        .filter(|name| name.len() <= NAME_CHARS_MAX && !name.starts_with('_'))
        .map(|name| {
            json!({
                "name": name,
                "scopeKind": "team",
                "scopeId": "",
                "kind": "secret",
                "allowedHosts": [],
                "createdAtMs": at_ms,
                "updatedAtMs": at_ms,
            })
        })
        .collect();
    Ok(json!({ "entries": entries }))
}

/// What a command asks to have resolved.
#[derive(Debug, Default)]
struct Wanted {
    targets: Vec<String>,
    allowed: Option<Vec<String>>,
}

impl Wanted {
    /// Upstream names the field that is wrong, and `targetIds` for whatever has no name.
    fn read(params: &Map<String, Value>) -> Result<Wanted, RpcError> {
        const FIELDS: [&str; 6] = [
            "commandName",
            "targetIds",
            "allowedPaths",
            "forcedActivePaths",
            "optionalActivePaths",
            "providerOverrides",
        ];
        let wrong = |field: &str| RpcError::invalid(format!("invalid secrets.resolve params: {field}"));
        let is_named = params.get("commandName").and_then(Value::as_str).is_some_and(|name| !name.trim().is_empty());
        if !is_named {
            return Err(wrong("commandName"));
        }
        let list = |field: &str| -> Result<Option<Vec<String>>, RpcError> {
            let Some(value) = params.get(field) else { return Ok(None) };
            let items = value.as_array().ok_or_else(|| wrong(field))?;
            let text = |item: &Value| item.as_str().filter(|text| !text.is_empty()).map(|text| text.trim().to_owned());
            items.iter().map(text).collect::<Option<Vec<_>>>().map(Some).ok_or_else(|| wrong(field))
        };
        // Every reference of ours is in use and none has a provider to choose: these only have to be well formed.
        list("forcedActivePaths")?;
        list("optionalActivePaths")?;
        if params.get("providerOverrides").is_some_and(|overrides| !overrides.is_object()) {
            return Err(wrong("providerOverrides"));
        }
        let wanted =
            Wanted { targets: list("targetIds")?.ok_or_else(|| wrong("targetIds"))?, allowed: list("allowedPaths")? };
        if params.keys().any(|key| !FIELDS.contains(&key.as_str())) {
            return Err(wrong("targetIds"));
        }
        let is_secret = |target: &String| schema::row_at(target).is_some_and(|row| row.secret);
        if let Some(unknown) = wanted.targets.iter().find(|target| !is_secret(target)) {
            return Err(wrong(&format!("unknown target id \"{unknown}\"")));
        }
        Ok(wanted)
    }

    fn includes(&self, reference: &Reference) -> bool {
        self.targets.iter().any(|target| reference.is_under(target))
            && self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&reference.path.to_string()))
    }
}

/// The values behind the references that a command's targets stand for, and no other.
fn resolve(cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let wanted = Wanted::read(&params.0)?;
    let document = &cx.snapshot.config.document;
    let env = document.env();
    let (mut assignments, mut diagnostics) = (Vec::new(), Vec::new());
    for reference in references::of(&document.written).into_iter().filter(|one| wanted.includes(one)) {
        let path = reference.path.to_string();
        let Some(value) = env.get(&reference.name).filter(|value| !value.is_empty()) else {
            diagnostics.push(format!("{path}: variable {} is missing or empty", reference.name));
            continue;
        };
        let segments: Vec<String> = reference
            .path
            .steps()
            .iter()
            .map(|step| match step {
                Step::Key(key) => key.clone(),
                Step::Index(idx) => idx.to_string(),
            })
            .collect();
        assignments.push(json!({ "path": path, "pathSegments": segments, "value": value }));
    }
    Ok(json!({ "ok": true, "assignments": assignments, "diagnostics": diagnostics, "inactiveRefPaths": [] }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stage::Stage;
    use crate::protocol::version::Protocol::V4;

    fn stage() -> Stage {
        let config = json!({ "models": { "providers": {
            "one": { "baseUrl": "http://127.0.0.1:9", "apiKey": "${ONE_KEY}", "models": [] },
            "two": { "baseUrl": "http://127.0.0.1:9", "apiKey": "written-out", "models": [] },
        } } });
        Stage::with_env(&config, &[("ONE_KEY", "hush-hush")])
    }

    #[test]
    fn references_are_listed_and_no_value_is() {
        let listed = stage().ok(V4, "secrets.store.list", &json!({}));
        assert_eq!(listed["entries"].as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(
            (&listed["entries"][0]["name"], &listed["entries"][0]["kind"]),
            (&json!("ONE_KEY"), &json!("secret"))
        );
        assert!(listed["entries"][0]["updatedAtMs"].as_u64() > Some(0));
        let text = listed.to_string();
        assert!(!text.contains("hush") && !text.contains("written-out"), "{text}");
    }

    #[test]
    fn only_what_a_commands_targets_stand_for_is_resolved() {
        let mut stage = stage();
        let mut resolved = |targets: Value, more: Value| {
            let mut params = json!({ "commandName": "models", "targetIds": targets });
            crate::sessions::row::set_all(&mut params, more);
            stage.ok(V4, "secrets.resolve", &params)["assignments"].clone()
        };
        assert_eq!(resolved(json!([]), json!({})), json!([]));
        assert_eq!(resolved(json!(["gateway.auth.token"]), json!({})), json!([]));
        let targets = || json!(["models.providers.*.apiKey"]);
        let one = json!([{
            "path": "models.providers.one.apiKey",
            "pathSegments": ["models", "providers", "one", "apiKey"],
            "value": "hush-hush",
        }]);
        assert_eq!(resolved(targets(), json!({})), one);
        assert_eq!(resolved(targets(), json!({ "allowedPaths": ["models.providers.two.apiKey"] })), json!([]));
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        let mut stage = stage();
        for (params, field) in [
            (json!({}), "commandName"),
            (json!({ "commandName": 1, "targetIds": [] }), "commandName"),
            (json!({ "commandName": "x" }), "targetIds"),
            (json!({ "commandName": "x", "targetIds": [1] }), "targetIds"),
            (json!({ "commandName": "x", "targetIds": [], "more": 1 }), "targetIds"),
            (json!({ "commandName": "x", "targetIds": [], "allowedPaths": "x" }), "allowedPaths"),
            (json!({ "commandName": "x", "targetIds": ["ui.seamColor"] }), "unknown target id \"ui.seamColor\""),
        ] {
            stage.refused(V4, "secrets.resolve", &params, &format!("invalid secrets.resolve params: {field}"));
        }
    }

    #[test]
    fn a_reload_reads_the_file_again() {
        let mut stage = stage();
        let path = stage.dir().join("openclaw.json");
        std::fs::write(path, json!({ "ui": { "seamColor": "#112233" } }).to_string()).unwrap();
        assert_eq!(stage.ok(V4, "secrets.reload", &json!({}))["ok"], true);
        assert_eq!(stage.ok(V4, "secrets.store.list", &json!({}))["entries"], json!([]));
    }
}
