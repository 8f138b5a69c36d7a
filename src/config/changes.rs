//! What differs between two documents, and what it takes to come into force.

use serde_json::Value;

use super::path::{KeyPath, Step};
use super::schema;
use super::schema::tree::NodeId;
use super::schema::{Read, Reload};
use super::settings::gateway::ReloadMode;

/// A place where two documents differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The highest place that is new, gone or different; a list is one place.
    pub path: KeyPath,
    /// What it takes; `None`: this build reads nothing there.
    pub reload: Option<Reload>,
}

/// Every difference between two canonical documents with their variables filled in.
pub fn between(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    diff(Some(old), Some(new), &KeyPath::root(), &mut changes);
    changes
}

fn diff(old: Option<&Value>, new: Option<&Value>, path: &KeyPath, changes: &mut Vec<Change>) {
    match (old, new) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            for (key, value) in before {
                diff(Some(value), after.get(key), &path.key(key), changes);
            }
            for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                diff(None, Some(value), &path.key(key), changes);
            }
        }
        (old, new) if old == new => {}
        (old, new) => {
            let reload = [old, new].into_iter().flatten().filter_map(|value| strongest(path, value)).max();
            changes.push(Change { path: path.clone(), reload });
        }
    }
}

/// The strongest class among the keys written in `value`, which stands at `path`.
fn strongest(path: &KeyPath, value: &Value) -> Option<Reload> {
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().filter_map(|(key, member)| strongest(&path.key(key), member)).max()
        }
        Value::Array(_) => {
            let below = node_at(path).ok().and_then(|id| schema::tree().reload(id));
            below.max(class_at(path))
        }
        _ => class_at(path),
    }
}

/// The class of the key at a path, or of the nearest one above that is read as a whole.
fn class_at(path: &KeyPath) -> Option<Reload> {
    let id = match node_at(path) {
        Ok(id) | Err(id) => id,
    };
    schema::tree().node(id).row.filter(|row| row.read == Read::Now).map(|row| row.reload)
}

/// The node of a path, or the deepest one above it that there is.
fn node_at(path: &KeyPath) -> Result<NodeId, NodeId> {
    let tree = schema::tree();
    path.steps().iter().try_fold(tree.root(), |id, step| {
        let child = match step {
            Step::Key(key) => tree.child(id, key),
            Step::Index(_) => tree.node(id).item,
        };
        child.map(|child| tree.resolve(child)).ok_or(id)
    })
}

/// What to do about changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Take effect now, or for new connections and runs: swap the settings in.
    pub apply: Vec<KeyPath>,
    /// Take effect after a restart; the running process keeps its old values.
    pub restart: Vec<KeyPath>,
}

/// Sorts changes by `gateway.reload.mode` (CFG-22). What this build does not read is in neither list, and a change of
/// the reload policy itself never asks for a restart.
pub fn plan(changes: &[Change], mode: ReloadMode) -> Plan {
    let mut plan = Plan::default();
    for change in changes {
        let Some(reload) = change.reload else { continue };
        let never_restarts = change.path.to_string().starts_with("gateway.reload");
        match mode {
            ReloadMode::Off => {}
            ReloadMode::Hybrid if reload == Reload::Restart => plan.restart.push(change.path.clone()),
            ReloadMode::Hot if reload == Reload::Restart => {}
            ReloadMode::Restart if !never_restarts => plan.restart.push(change.path.clone()),
            ReloadMode::Hybrid | ReloadMode::Hot | ReloadMode::Restart => plan.apply.push(change.path.clone()),
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(old: Value, new: Value, expected: &[(&str, Option<Reload>)]) {
        let found: Vec<(String, Option<Reload>)> =
            between(&old, &new).into_iter().map(|change| (change.path.to_string(), change.reload)).collect();
        let found: Vec<(&str, Option<Reload>)> = found.iter().map(|(path, reload)| (path.as_str(), *reload)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn paths_are_the_highest_that_differ() {
        check(json!({}), json!({ "ui": { "seamColor": "#112233" } }), &[("ui", None)]);
        check(json!({ "ui": { "seamColor": "#112233" } }), json!({ "ui": {} }), &[("ui.seamColor", None)]);
        check(json!({ "a": 1 }), json!({ "a": 1 }), &[]);
    }

    #[test]
    fn classes_come_from_the_rows() {
        let port = |n: u16| json!({ "gateway": { "port": n } });
        check(port(1), port(2), &[("gateway.port", Some(Reload::Restart))]);
        check(json!({}), port(2), &[("gateway", Some(Reload::Restart))]);
        check(json!({}), json!({ "gateway": { "auth": { "token": "t" } } }), &[("gateway", Some(Reload::NewOnly))]);
        check(
            json!({ "hooks": { "allowedAgentIds": [] } }),
            json!({ "hooks": { "allowedAgentIds": ["a"] } }),
            &[("hooks.allowedAgentIds", Some(Reload::Live))],
        );
        check(
            json!({ "agents": { "list": [{ "id": "a" }] } }),
            json!({ "agents": { "list": [{ "id": "b" }] } }),
            &[("agents.list", Some(Reload::NewOnly))],
        );
        check(
            json!({ "security": { "tool_policies": {} } }),
            json!({ "security": { "tool_policies": { "exec": "block" } } }),
            &[("security.tool_policies.exec", Some(Reload::Live))],
        );
        check(json!({}), json!({ "browser": { "enabled": false } }), &[("browser", None)]);
    }

    #[test]
    fn the_mode_decides_what_happens() {
        let old = json!({});
        let new =
            json!({ "gateway": { "port": 2, "reload": { "mode": "hot" } }, "logging": { "level": "warn" }, "ui": {} });
        let changes: Vec<Change> = ["gateway.port", "gateway.reload.mode", "logging.level"]
            .into_iter()
            .map(|path| {
                let path = KeyPath::dotted(path);
                Change { reload: strongest(&path, path.get(&new).unwrap()), path }
            })
            .chain(between(&old, &json!({ "ui": {} })))
            .collect();
        let by = |mode| {
            let plan = plan(&changes, mode);
            let text = |paths: Vec<KeyPath>| paths.iter().map(KeyPath::to_string).collect::<Vec<_>>().join(" ");
            (text(plan.apply), text(plan.restart))
        };
        let s = str::to_owned;
        assert_eq!(by(ReloadMode::Hybrid), (s("gateway.reload.mode logging.level"), s("gateway.port")));
        assert_eq!(by(ReloadMode::Hot), (s("gateway.reload.mode logging.level"), s("")));
        assert_eq!(by(ReloadMode::Restart), (s("gateway.reload.mode"), s("gateway.port logging.level")));
        assert_eq!(by(ReloadMode::Off), (s(""), s("")));
    }
}
