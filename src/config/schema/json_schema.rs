//! The rows as JSON Schema with hints for forms: `config.schema` and `config.schema.lookup`.

use serde_json::{Map, Value};

use super::rows::section_of;
use super::tree::{NodeId, Tree};
use super::{Kind, Reload, Row, TEXT_CHARS_MAX, TEXTS_MAX, all, fold, tree};
use crate::protocol::json::json;
use crate::runtime::clock;

/// Objects nested deeper are described as any object: accounts have the keys of their channel, which has accounts.
const DEPTH_MAX: usize = 24;

/// The payload of `config.schema`. `version` is this program's.
pub fn document(version: &str, now_ms: i64) -> Value {
    let mut schema = node(tree(), tree().root(), 0);
    let root = schema.as_object_mut().expect("the root is an object");
    root.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    root.insert("title".to_owned(), json!("OpenClawConfig"));
    json!({ "schema": schema, "uiHints": hints(), "version": version, "generatedAt": clock::iso(now_ms) })
}

/// Hints by dotted path; `*` stands for keys of the user's choice and for elements.
fn hints() -> Value {
    let sections = super::rows::SECTIONS.iter().flat_map(|section| section.keys.iter());
    let of_sections = sections.map(|key| ((*key).to_owned(), section_hint(key)));
    let of_rows = all().map(|row| (hint_path(row.path), hint(row)));
    let mut out = Map::new();
    for (path, hint) in of_sections.chain(of_rows) {
        let known = out.entry(path).or_insert_with(|| json!({}));
        if let (Value::Object(known), Value::Object(hint)) = (known, hint) {
            hint.into_iter().for_each(|(key, value)| {
                known.entry(key).or_insert(value);
            });
        }
    }
    Value::Object(out)
}

fn hint_path(path: &str) -> String {
    path.replace("[]", ".*")
}

fn section_hint(key: &str) -> Value {
    let section = section_of(key).expect("sections are made of keys");
    let is_first = section.keys.first() == Some(&key);
    let label = if is_first { section.label.to_owned() } else { words(key) };
    let mut hint = json!({ "label": label, "group": section.label, "order": section.order, "help": section.help });
    hint["advanced"] = json!(!all().any(|row| row.basic && row.path.split(['.', '[']).next() == Some(key)));
    hint
}

fn hint(row: &Row) -> Value {
    let mut hint = json!({ "label": label(row), "help": row.doc, "advanced": !row.basic });
    if row.secret {
        hint["sensitive"] = json!(true);
    }
    if !row.default.is_empty() && !row.secret {
        hint["placeholder"] = json!(row.default.trim_matches('"'));
    }
    hint
}

fn label(row: &Row) -> String {
    match row.label {
        "" => words(row.path.trim_end_matches("[]").rsplit('.').find(|part| *part != "*").unwrap_or(row.path)),
        label => label.to_owned(),
    }
}

/// `maxBodyBytes` and `max_body_bytes` as `Max Body Bytes`.
fn words(key: &str) -> String {
    let mut out = String::new();
    let mut raise = true;
    for c in fold(key).chars() {
        if c.is_ascii_uppercase() || raise {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
            out.extend(c.to_uppercase());
            raise = false;
        } else if matches!(c, '-' | '_') {
            raise = true;
        } else {
            out.push(c);
        }
    }
    out
}

fn node(tree: &Tree, id: NodeId, depth: usize) -> Value {
    let mut schema = shallow(tree, id);
    let kind = tree.kind(id);
    if depth == DEPTH_MAX {
        return schema;
    }
    if let (Kind::List, Some(item)) = (kind, tree.node(id).item) {
        schema["items"] = node(tree, item, depth + 1);
    }
    if matches!(kind, Kind::Table | Kind::Open | Kind::Map | Kind::TextOrTable) {
        let object = match kind {
            Kind::TextOrTable => &mut schema["anyOf"][1],
            _ => &mut schema,
        };
        let children = tree.children(id);
        if !children.is_empty() {
            let property = |child: NodeId| {
                let key = tree.node(child).key.to_owned();
                let is_nested_account = key == "accounts" && depth > 3;
                (key, if is_nested_account { json!({ "type": "object" }) } else { node(tree, child, depth + 1) })
            };
            object["properties"] = Value::Object(children.into_iter().map(property).collect());
        }
        if let Some(entry) = tree.node(id).entry {
            object["additionalProperties"] = node(tree, entry, depth + 1);
        }
    }
    schema
}

/// One node without what is inside it.
fn shallow(tree: &Tree, id: NodeId) -> Value {
    let row = tree.node(id).row;
    let mut schema = of_kind(&tree.kind(id), row.is_some_and(|row| row.secret));
    if let Some(row) = row {
        schema["title"] = json!(label(row));
        schema["description"] = json!(row.doc);
        if let Some(default) = row.default_value().filter(|_| !row.secret) {
            schema["default"] = default;
        }
    } else if let Some(section) = section_of(tree.node(id).key) {
        schema["title"] = json!(section.label);
        schema["description"] = json!(section.help);
    }
    schema
}

fn of_kind(kind: &Kind, is_secret: bool) -> Value {
    match kind {
        Kind::Any => json!({}),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::BoolOr(words) => json!({ "anyOf": [{ "type": "boolean" }, { "type": "string", "enum": words }] }),
        Kind::Int { min, max } => {
            let mut schema = json!({ "type": "integer", "minimum": min });
            if *max < i64::MAX {
                schema["maximum"] = json!(max);
            }
            schema
        }
        Kind::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Text { chars_max } => {
            let mut schema = json!({ "type": "string" });
            if *chars_max < TEXT_CHARS_MAX {
                schema["maxLength"] = json!(chars_max);
            }
            // A secret may be kept elsewhere and named here.
            if is_secret { json!({ "anyOf": [schema, secret_reference()] }) } else { schema }
        }
        Kind::Choice(words) => json!({ "type": "string", "enum": words }),
        Kind::Texts { items_max } if *items_max < TEXTS_MAX => {
            json!({ "type": "array", "items": { "type": "string" }, "maxItems": items_max })
        }
        Kind::Texts { .. } | Kind::Regexes | Kind::Ranges => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Ids => json!({ "type": "array", "items": { "anyOf": [{ "type": "string" }, { "type": "integer" }] } }),
        Kind::Duration(_) | Kind::Size => {
            json!({ "anyOf": [{ "type": "string" }, { "type": "number", "minimum": 0 }] })
        }
        Kind::DurationOrOff(_) => {
            json!({ "anyOf": [{ "type": "string" }, { "type": "number", "minimum": 0 }, { "const": false }] })
        }
        Kind::Url(_) | Kind::Path | Kind::Address => json!({ "type": "string" }),
        Kind::Digest => json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" }),
        Kind::Color => json!({ "type": "string", "pattern": "^#?([0-9A-Fa-f]{3}|[0-9A-Fa-f]{6})$" }),
        Kind::Table => json!({ "type": "object", "additionalProperties": false }),
        Kind::Open | Kind::Map => json!({ "type": "object", "additionalProperties": true }),
        Kind::TextOrTable => {
            json!({ "anyOf": [{ "type": "string" }, { "type": "object", "additionalProperties": false }] })
        }
        Kind::List => json!({ "type": "array" }),
    }
}

fn secret_reference() -> Value {
    json!({
        "type": "object",
        "properties": {
            "source": { "type": "string", "enum": ["env", "file", "exec"] },
            "provider": { "type": "string" },
            "id": { "type": "string" },
        },
        "required": ["source", "id"],
        "additionalProperties": false,
    })
}

/// The payload of `config.schema.lookup`; `None`: there is no such path. Steps are parted by `.`, `/` or brackets;
/// `*` or a number is an element or an entry.
pub fn lookup(path: &str) -> Option<Value> {
    let tree = tree();
    let mut id = tree.root();
    let mut steps: Vec<String> = Vec::new();
    let path = path.replace("[]", ".*");
    for step in path.split(['.', '/', '[', ']']).filter(|step| !step.is_empty()) {
        let is_any = step == "*" || step.bytes().all(|b| b.is_ascii_digit());
        let child = match tree.node(id).item {
            Some(item) if is_any => item,
            _ if step == "*" => tree.entry(id)?,
            _ => tree.child(id, step)?,
        };
        let node = tree.node(child);
        steps.push(match node.key {
            "[]" => "*".to_owned(),
            "*" => step.to_owned(),
            key => key.to_owned(),
        });
        id = tree.resolve(child);
    }
    if steps.is_empty() {
        return None;
    }
    let path = steps.join(".");
    let children: Vec<Value> = children_of(tree, id).into_iter().map(|child| child_of(tree, child, &path)).collect();
    let mut out = json!({ "path": path, "schema": shallow(tree, id), "reloadKind": reload_kind(tree, id) });
    out["hint"] = hint_of(tree, id);
    out["hintPath"] = json!(path);
    out["children"] = Value::Array(children);
    Some(out)
}

fn children_of(tree: &Tree, id: NodeId) -> Vec<NodeId> {
    let node = tree.node(id);
    tree.children(id).into_iter().chain(node.entry).chain(node.item).collect()
}

fn child_of(tree: &Tree, id: NodeId, parent: &str) -> Value {
    let node = tree.node(id);
    let key = if node.key == "[]" { "*" } else { node.key };
    let path = format!("{parent}.{key}");
    let mut child = json!({
        "key": key,
        "path": path,
        "required": false,
        "hasChildren": !children_of(tree, id).is_empty(),
        "reloadKind": reload_kind(tree, id),
        "hint": hint_of(tree, id),
        "hintPath": path,
    });
    if let Some(name) = type_of(&tree.kind(id)) {
        child["type"] = json!(name);
    }
    child
}

fn hint_of(tree: &Tree, id: NodeId) -> Value {
    let node = tree.node(id);
    match node.row {
        Some(row) => hint(row),
        None if let Some(section) = section_of(node.key) => {
            let mut hint = section_hint(node.key);
            // Only here: protocol 3, which has no look-up, refuses a hint with an address.
            if let Some(url) = section.docs_url {
                hint["docsUrl"] = json!(url);
            }
            hint
        }
        None => json!({ "label": words(node.key), "advanced": true }),
    }
}

fn type_of(kind: &Kind) -> Option<Value> {
    Some(match kind {
        Kind::Any => return None,
        Kind::Bool => json!("boolean"),
        Kind::Int { .. } => json!("integer"),
        Kind::Number { .. } => json!("number"),
        Kind::BoolOr(_) => json!(["boolean", "string"]),
        Kind::Duration(_) | Kind::Size => json!(["string", "number"]),
        Kind::DurationOrOff(_) => json!(["string", "number", "boolean"]),
        Kind::TextOrTable => json!(["string", "object"]),
        Kind::Texts { .. } | Kind::Ids | Kind::Regexes | Kind::Ranges | Kind::List => json!("array"),
        Kind::Table | Kind::Open | Kind::Map => json!("object"),
        _ => json!("string"),
    })
}

/// What a change takes, in protocol 4's words. `none`: nothing has to be done, the key is read when it is needed, or
/// not at all.
fn reload_kind(tree: &Tree, id: NodeId) -> &'static str {
    match tree.reload(id) {
        None | Some(Reload::Live) => "none",
        Some(Reload::NewOnly | Reload::Account) => "hot",
        Some(Reload::Restart) => "restart",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_describes_what_validation_accepts() {
        let schema = document("1", 0)["schema"].take();
        assert_eq!(schema["type"], "object");
        assert_eq!(schema["additionalProperties"], false);
        let port = &schema["properties"]["gateway"]["properties"]["port"];
        assert_eq!((&port["type"], &port["minimum"], &port["maximum"]), (&json!("integer"), &json!(1), &json!(65535)));
        let agent = &schema["properties"]["agents"]["properties"]["list"]["items"];
        assert_eq!(agent["properties"]["id"]["type"], "string");
        let provider = &schema["properties"]["models"]["properties"]["providers"]["additionalProperties"];
        assert_eq!(provider["properties"]["models"]["items"]["properties"]["id"]["type"], "string");
        let account = &schema["properties"]["channels"]["properties"]["telegram"]["properties"]["accounts"]["additionalProperties"];
        assert!(account["properties"]["dmPolicy"].is_object(), "{account}");
        assert!(schema["properties"]["gateway"]["properties"].get("token").is_none(), "aliases are not offered");
        assert!(schema["properties"].get("agent").is_none());
    }

    #[test]
    fn hints_have_only_the_fields_both_protocols_allow() {
        let allowed = ["label", "help", "group", "order", "advanced", "sensitive", "placeholder"];
        let hints = document("1", 0)["uiHints"].take();
        let hints = hints.as_object().unwrap();
        assert!(hints.len() > 300);
        for (path, hint) in hints {
            for key in hint.as_object().unwrap().keys() {
                assert!(allowed.contains(&key.as_str()), "{path}: {key}");
            }
            assert!(!hint["label"].as_str().unwrap().is_empty(), "{path}");
        }
        assert_eq!(hints["gateway.auth.token"]["sensitive"], true);
        assert_eq!(hints["agents.list.*.id"]["label"], "Id");
        assert_eq!(hints["gateway"]["order"], 30);
    }

    /// As the released gateway answers (recordings of protocol 4, `config/schema-lookup`).
    #[test]
    fn lookup_answers_as_recorded() {
        let port = lookup("gateway.port").unwrap();
        assert_eq!((&port["path"], &port["hintPath"]), (&json!("gateway.port"), &json!("gateway.port")));
        assert_eq!((&port["reloadKind"], &port["hint"]["advanced"]), (&json!("restart"), &json!(false)));
        assert_eq!(port["hint"]["label"], "Gateway Port");
        assert_eq!(port["children"], json!([]));
        let ui = lookup("ui").unwrap();
        assert_eq!(ui["hint"]["label"], "UI");
        assert_eq!(ui["hint"]["docsUrl"], "https://docs.openclaw.ai/web/control-ui");
        assert_eq!(ui["reloadKind"], "none");
        assert_eq!(ui["hint"]["advanced"], true);
        assert_eq!(ui["schema"]["additionalProperties"], false);
        let seam = ui["children"].as_array().unwrap().iter().find(|child| child["key"] == "seamColor").unwrap();
        assert_eq!(
            (&seam["path"], &seam["type"], &seam["required"]),
            (&json!("ui.seamColor"), &json!("string"), &json!(false))
        );
        assert_eq!((&seam["reloadKind"], &seam["hint"]["label"]), (&json!("none"), &json!("Accent Color")));
        for missing in ["no.such.path", "x-none", ".", "gateway.port.more", "agents.list.id"] {
            assert_eq!(lookup(missing), None, "{missing}");
        }
    }

    #[test]
    fn lookup_goes_through_lists_maps_aliases_and_spellings() {
        for path in
            ["agents.list[].id", "agents.list.0.id", "agents.list.*.id", "agents/list/3/id", "agents.list[2].id"]
        {
            assert_eq!(lookup(path).unwrap()["path"], "agents.list.*.id", "{path}");
        }
        assert_eq!(lookup("agents.list[]").unwrap()["path"], "agents.list.*");
        assert_eq!(lookup("models.providers.mine.apiKey").unwrap()["hint"]["sensitive"], true);
        assert_eq!(lookup("gateway.token").unwrap()["hint"]["label"], "Gateway Token");
        assert_eq!(lookup("gateway.server.httpBind").unwrap()["path"], "gateway.server.http_bind");
    }

    #[test]
    fn labels_are_words() {
        assert_eq!(words("maxBodyBytes"), "Max Body Bytes");
        assert_eq!(words("event_queue_capacity"), "Event Queue Capacity");
        assert_eq!(words("nextcloud-talk"), "Nextcloud Talk");
    }
}
