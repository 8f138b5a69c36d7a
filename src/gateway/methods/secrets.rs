//! `secrets.*`: where the configuration takes secrets from. No value leaves, but to who may resolve it for a command.
//!
//! Secrets are kept outside the configuration, which names them as `${NAME}`: in the process's environment, and in the
//! `.env` file of the state directory, which is the store that these methods write. What is known of an entry beside its
//! value (its kind, who wrote it and when) is in the database.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::path::Step;
use crate::config::references::{self, Reference};
use crate::config::secret::{PLACEHOLDER, Secret};
use crate::config::{ConfigError, dotenv, expand, files, schema};
use crate::gateway::table::{QueryCx, StoreCx, need};
use crate::gateway::{Fact, records, reload};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Issues, Loose, NonEmpty, Nothing, Param, Text};
use crate::store::StoreError;
use crate::store::audit::AuditRecord;

crate::methods! {
    "secrets.reload",     V4, need::ADMIN, need::ADMIN, QueryFacts reload_secrets;
    "secrets.resolve",    V4, need::ADMIN, need::ADMIN, Query resolve;
    "secrets.store.delete", V4, need::ADMIN, need::ADMIN, Store delete;
    "secrets.store.list", V4, need::ADMIN, need::ADMIN, Query list;
    "secrets.store.set",  V4, need::ADMIN, need::ADMIN, Store set;
}

/// Longest name that the contract lets a list show, in characters.
const NAME_CHARS_MAX: usize = 128;
/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Entries kept; one more is refused.
const ENTRIES_MAX: usize = 256;
/// Where the database keeps what is known of entries, by name.
const META_PREFIX: &str = "secrets.store:";
/// Variables of this form set keys of the gateway itself, which `config.set` is for.
const OWN_PREFIX: &str = "OPENCLAW_";

/// What is known of an entry beside its value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    kind: Kind,
    created_at_ms: i64,
    updated_at_ms: i64,
    updated_by: String,
}

/// Whether an entry's value is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Never.
    Secret,
    /// To whoever may list.
    Env,
}

impl Param for Kind {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        match value.as_str() {
            Some("secret") => return Some(Kind::Secret),
            Some("env") => return Some(Kind::Env),
            Some(_) => {}
            None => issues.wrong(path, "must be string"),
        }
        issues.wrong(path, "must be equal to constant");
        issues.wrong(path, "must match a schema in anyOf");
        None
    }
}

/// The name of an entry, in the contract's alphabet.
#[derive(Debug, Clone)]
pub struct Name(String);

impl Param for Name {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let text = String::read(value, path, issues)?;
        let is_setup = text.strip_prefix("github-setup-").is_some_and(|hex| {
            hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        });
        let is_variable = expand::is_name(&text) && !text.starts_with('_') && text.len() <= NAME_CHARS_MAX;
        if !is_variable && !is_setup {
            let why = "must match pattern \"^(?:[A-Z][A-Z0-9_]{0,127}|github-setup-[a-f0-9]{32})$\"";
            issues.wrong(path, why);
            return None;
        }
        Some(Name(text))
    }
}

/// A value to keep, which does not show in `Debug`.
#[derive(Debug, Clone)]
pub struct Kept(Secret);

impl Param for Kept {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        Text::<0, VALUE_BYTES_MAX>::read(value, path, issues).map(|text| Kept(Secret::new(text.0)))
    }
}

crate::params! {
    /// An entry to write.
    pub struct SetParams {
        name: Name = "name",
        value: Kept = "value",
        kind: Kind = "kind",
        allowed_hosts: Option<Vec<NonEmpty>> = "allowedHosts",
    }
}

crate::params! {
    /// An entry to remove.
    pub struct DeleteParams {
        name: Name = "name",
    }
}

fn set(cx: StoreCx<'_>, params: SetParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let (name, value) = (&params.name.0, params.value.0.reveal());
    let refusal = if value.len() > VALUE_BYTES_MAX {
        Some(format!("secret store value exceeds {VALUE_BYTES_MAX} bytes"))
    } else if !expand::is_name(name) {
        Some("entries of a GitHub set-up are not built in openclaw-rs yet".to_owned())
    } else if name.starts_with(OWN_PREFIX) {
        Some(format!("{name} is a setting of the gateway itself: change it with config.set"))
    } else if value.contains(PLACEHOLDER) {
        Some(format!("secret store entry \"{name}\" contains a redaction placeholder"))
    } else if params.kind == Kind::Secret && value.is_empty() {
        Some("secret store value is empty".to_owned())
    } else if params.allowed_hosts.is_some_and(|hosts| !hosts.is_empty()) {
        // A promise that nothing here would keep.
        Some("allowedHosts cannot be enforced by openclaw-rs yet".to_owned())
    } else {
        None
    };
    if let Some(why) = refusal {
        return Err(RpcError::invalid(why).into());
    }
    let key = format!("{META_PREFIX}{name}");
    let before = cx.db.meta(&key)?.and_then(|text| serde_json::from_str::<Known>(&text).ok());
    if before.is_none() && cx.db.meta_with_prefix(META_PREFIX)?.len() >= ENTRIES_MAX {
        return Err(RpcError::invalid(format!("the secret store holds {ENTRIES_MAX} entries at most")).into());
    }
    let known = Known {
        kind: params.kind,
        created_at_ms: before.map_or(cx.call.now_ms, |before| before.created_at_ms),
        updated_at_ms: cx.call.now_ms,
        updated_by: cx.call.caller.name.clone(),
    };
    records::put_meta(cx.db, &key, &known, cx.call.now_ms)?;
    written(&cx, name, Some(value))
}

fn delete(cx: StoreCx<'_>, params: DeleteParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let name = &params.name.0;
    // What somebody wrote into the file by hand is not this store's to remove.
    if !cx.db.meta_delete(&format!("{META_PREFIX}{name}"))? {
        return Ok((json!({ "ok": true, "reloaded": false }), Vec::new()));
    }
    written(&cx, name, None)
}

/// Writes an entry's value into the file, or takes it out, and has the configuration read again if it names it.
fn written(cx: &StoreCx<'_>, name: &str, value: Option<&str>) -> Result<(Value, Vec<Fact>), StoreError> {
    let config = &cx.snapshot.config;
    cx.db.audit_append(&AuditRecord {
        at_ms: cx.call.now_ms,
        actor: cx.call.caller.actor(),
        address: Some(cx.call.caller.address.to_string()),
        action: cx.call.method.to_owned(),
        resource: name.to_owned(),
        outcome: "ok".to_owned(),
        request_id: Some(cx.call.id.clone()),
        detail: None,
    })?;
    let failed = |error: ConfigError| RpcError::unavailable(format!("the secret store cannot be written: {error}"));
    if !dotenv::change(&config.state_dir, name, value).map_err(failed)? {
        return Err(RpcError::invalid("a value with line breaks or both kinds of quotes cannot be kept").into());
    }
    if !references::of(&config.document.written).iter().any(|reference| reference.name == name) {
        return Ok((json!({ "ok": true, "reloaded": false }), Vec::new()));
    }
    match reload::read(&cx.snapshot.load_inputs) {
        Ok(loaded) => {
            let n_warnings = loaded.document.warnings.len();
            let answer = json!({ "ok": true, "reloaded": true, "warningCount": n_warnings });
            Ok((answer, vec![Fact::Config(Box::new(loaded))]))
        }
        // The entry stands as it was asked for; what was in force stays, and health says why.
        Err(error) => {
            let why = error.to_string();
            Ok((json!({ "ok": true, "reloaded": false }), vec![Fact::ConfigBroken { why }]))
        }
    }
}

fn reload_secrets(cx: QueryCx<'_>, _params: Loose) -> Result<(Value, Vec<Fact>), RpcError> {
    let loaded = reload::read(&cx.snapshot.load_inputs).map_err(|error| RpcError::unavailable(error.to_string()))?;
    let answer = json!({ "ok": true, "warningCount": loaded.document.warnings.len() });
    Ok((answer, vec![Fact::Config(Box::new(loaded))]))
}

/// The entries of the store, and the secrets that the configuration in force names without one. No value of a secret.
fn list(cx: QueryCx<'_>, _params: Nothing) -> Result<Value, RpcError> {
    let config = &cx.snapshot.config;
    let text =
        files::read(&config.state_dir.join(dotenv::FILE)).map_err(|error| RpcError::unavailable(error.to_string()))?;
    let values: BTreeMap<String, String> = dotenv::read(&text.unwrap_or_default()).collect();
    let mut entries = BTreeMap::new();
    for (key, known) in cx.store.get()?.meta_with_prefix(META_PREFIX)? {
        let name = key.trim_start_matches(META_PREFIX).to_owned();
        // One whose line was taken out of the file by hand is an entry no longer.
        let (Ok(known), Some(value)) = (serde_json::from_str::<Known>(&known), values.get(&name)) else { continue };
        let mut entry = json!({
            "name": name,
            "scopeKind": "team",
            "scopeId": "",
            "kind": known.kind,
            "createdAtMs": known.created_at_ms,
            "updatedAtMs": known.updated_at_ms,
            "updatedBy": known.updated_by,
        });
        match known.kind {
            Kind::Env => entry["value"] = json!(value),
            Kind::Secret => entry["allowedHosts"] = json!([]),
        }
        entries.insert(name, entry);
    }
    // A name that only the configuration knows is as old as the file it stands in.
    let at_ms = files::changed_ms(&config.document.path).unwrap_or(0);
    for reference in references::of(&config.document.written) {
        let name = reference.name;
        if name.len() > NAME_CHARS_MAX || name.starts_with('_') {
            continue;
        }
        entries.entry(name.clone()).or_insert_with(|| {
            json!({
                "name": name,
                "scopeKind": "team",
                "scopeId": "",
                "kind": Kind::Secret,
                "allowedHosts": [],
                "createdAtMs": at_ms,
                "updatedAtMs": at_ms,
            })
        });
    }
    Ok(json!({ "entries": entries.into_values().collect::<Vec<_>>() }))
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
    use std::time::Duration;

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

    fn listed(stage: &mut Stage, name: &str) -> Option<Value> {
        let listed = stage.ok(V4, "secrets.store.list", &json!({}));
        listed["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == name).cloned()
    }

    #[test]
    fn a_stored_secret_is_what_the_configuration_names_and_never_shown() {
        let config = json!({ "models": { "providers": {
            "one": { "baseUrl": "http://127.0.0.1:9", "apiKey": "${ONE_KEY}", "models": [] },
        } } });
        // A gateway does not start on a secret that nothing sets.
        let mut stage = Stage::with_files(&config, &[(".env", "ONE_KEY=first\n")]);
        let set = |stage: &mut Stage, value: &str| {
            stage.ok(V4, "secrets.store.set", &json!({ "name": "ONE_KEY", "value": value, "kind": "secret" }))
        };

        assert_eq!(set(&mut stage, "hush-hush"), json!({ "ok": true, "reloaded": true, "warningCount": 0 }));

        let resolve = json!({ "commandName": "models", "targetIds": ["models.providers.*.apiKey"] });
        assert_eq!(stage.ok(V4, "secrets.resolve", &resolve)["assignments"][0]["value"], "hush-hush");
        let entry = listed(&mut stage, "ONE_KEY").unwrap();
        assert_eq!((&entry["kind"], &entry["updatedBy"]), (&json!("secret"), &json!("stage")));
        assert!(!entry.to_string().contains("hush"), "{entry}");
    }

    #[test]
    fn a_variable_is_shown_until_it_is_deleted_and_what_was_there_by_hand_stays() {
        let mut stage = stage();
        std::fs::write(stage.dir().join(".env"), "BY_HAND=1\n").unwrap();
        stage.ok(V4, "secrets.store.set", &json!({ "name": "PLACE", "value": "attic", "kind": "env" }));
        assert_eq!(listed(&mut stage, "PLACE").unwrap()["value"], "attic");

        for name in ["PLACE", "BY_HAND"] {
            let deleted = stage.ok(V4, "secrets.store.delete", &json!({ "name": name }));
            assert_eq!(deleted, json!({ "ok": true, "reloaded": false }));
        }

        assert_eq!(listed(&mut stage, "PLACE"), None);
        assert_eq!(std::fs::read_to_string(stage.dir().join(".env")).unwrap(), "BY_HAND=1\n");
    }

    #[test]
    fn what_could_not_be_kept_or_held_to_is_refused() {
        let mut stage = stage();
        let pattern = "invalid secrets.store.set params: at /name: must match pattern \
                       \"^(?:[A-Z][A-Z0-9_]{0,127}|github-setup-[a-f0-9]{32})$\"";
        for (params, why) in [
            (json!({ "name": "a name", "value": "x", "kind": "secret" }), pattern),
            (json!({ "name": "A", "value": "", "kind": "secret" }), "secret store value is empty"),
            (
                json!({ "name": "A", "value": "\u{e9}".repeat(VALUE_BYTES_MAX / 2 + 1), "kind": "secret" }),
                "secret store value exceeds 65536 bytes",
            ),
            (
                json!({ "name": "A", "value": "x\ny", "kind": "secret" }),
                "a value with line breaks or both kinds of quotes cannot be kept",
            ),
            (
                json!({ "name": "A", "value": "x", "kind": "secret", "allowedHosts": ["a.example"] }),
                "allowedHosts cannot be enforced by openclaw-rs yet",
            ),
            (
                json!({ "name": "OPENCLAW_GATEWAY_TOKEN", "value": "x", "kind": "secret" }),
                "OPENCLAW_GATEWAY_TOKEN is a setting of the gateway itself: change it with config.set",
            ),
        ] {
            stage.refused(V4, "secrets.store.set", &params, why);
        }
        assert_eq!(listed(&mut stage, "A"), None, "a refusal takes back what it wrote");
    }

    #[test]
    fn the_store_is_bounded() {
        let mut stage = stage();
        let entry = |n: usize| json!({ "name": format!("N{n}"), "value": "x", "kind": "env" });
        for n in 0..ENTRIES_MAX {
            if n % 20 == 0 {
                // Somebody who writes faster is told to wait.
                stage.pass(Duration::from_secs(60));
            }
            stage.ok(V4, "secrets.store.set", &entry(n));
        }
        stage.ok(V4, "secrets.store.set", &entry(0));
        stage.refused(V4, "secrets.store.set", &entry(ENTRIES_MAX), "the secret store holds 256 entries at most");
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
