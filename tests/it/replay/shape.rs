//! A payload reduced to its key paths with their JSON types, and two of those compared.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::normal::Normal;

/// Deepest level that is listed.
const DEPTH_MAX: usize = 9;
/// Longest string that can be a literal.
const LITERAL_CHARS_MAX: usize = 64;

/// Field names below which every key is data.
const DYNAMIC_PARENTS: [&str; 13] = [
    "channels",
    "channelLabels",
    "channelDetailLabels",
    "channelSystemImages",
    "channelAccounts",
    "channelDefaultAccountId",
    "uiHints",
    "providers",
    "env",
    "profiles",
    "byProvider",
    "byModel",
    "byTool",
];
/// Field names below which nothing is listed.
const OPAQUE: [&str; 8] =
    ["schema", "inputSchema", "parameters", "uiHints", "resolved", "parsed", "sourceConfig", "runtimeConfig"];
/// Endings of paths whose values are secrets, and never literals.
const SECRETS: [&str; 8] =
    ["token", "password", "secret", "apikey", "api_key", "privatekey", "credential", "authorization"];
/// Fields that describe the machine.
const MACHINE: [&str; 7] = ["machineName", "hostname", "osLabel", "release", "osRelease", "cpuModel", "nodeVersion"];
/// Number fields whose value counts.
const NUMBERS: [&str; 7] =
    ["protocol", "maxPayload", "maxBufferedBytes", "tickIntervalMs", "exitCode", "everyMs", "version"];

/// Key paths with the types seen there, and the values that may be compared.
#[derive(Debug, Default)]
pub(super) struct Shape {
    pub(super) types: BTreeMap<String, BTreeSet<&'static str>>,
    /// `None`: more than one value, or one that does not count.
    literals: BTreeMap<String, Option<Value>>,
}

/// A difference: where, and what.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub(super) path: String,
    pub(super) why: String,
}

impl Difference {
    pub(super) fn new(path: impl Into<String>, why: impl Into<String>) -> Difference {
        Difference { path: path.into(), why: why.into() }
    }
}

impl Shape {
    /// Reduces a payload. `method` decides what is opaque: configuration documents are compared by their own tests.
    pub(super) fn of(payload: &Value, method: &str, normal: &Normal) -> Shape {
        let opaque: &[&str] = match method {
            "config.get" | "config.set" | "config.patch" | "config.apply" => &["config", "resolved", "parsed"],
            _ if method.starts_with("config.schema") => &["schema", "uiHints"],
            _ => &[],
        };
        let mut shape = Shape::default();
        shape.walk("", payload, 0, opaque, normal);
        shape
    }

    fn walk(&mut self, path: &str, value: &Value, depth: usize, opaque: &[&str], normal: &Normal) {
        self.add(path, value, normal);
        if depth > DEPTH_MAX || (!path.is_empty() && (OPAQUE.contains(&last(path)) || opaque.contains(&path))) {
            return;
        }
        match value {
            Value::Array(items) => {
                for item in items {
                    self.walk(&format!("{path}[]"), item, depth + 1, opaque, normal);
                }
            }
            Value::Object(map) => {
                let dynamic = DYNAMIC_PARENTS.contains(&last(path)) || last(path) == "bins";
                for (key, value) in map {
                    let key = if dynamic { "<key>" } else { normal.key(key) };
                    let below = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    self.walk(&below, value, depth + 1, opaque, normal);
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, path: &str, value: &Value, normal: &Normal) {
        let name = if path.is_empty() { "$" } else { path };
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.types.entry(name.to_owned()).or_default().insert(kind);
        let counts = match value {
            Value::Bool(_) => true,
            Value::String(text) => is_literal(path, text, normal),
            Value::Number(_) => NUMBERS.contains(&last(path)) || last(path) == "limit",
            _ => false,
        };
        let literal = self.literals.entry(name.to_owned());
        let literal = literal.or_insert_with(|| counts.then(|| value.clone()));
        if literal.as_ref() != Some(value) || !counts {
            *literal = None;
        }
    }

    /// The required paths that are missing or of another type.
    pub(super) fn differs(&self, expected: &Map<String, Value>) -> Vec<Difference> {
        expected.iter().filter_map(|(path, types)| self.differs_at(path, types)).collect()
    }

    fn differs_at(&self, path: &str, types: &Value) -> Option<Difference> {
        let types = types.as_str().expect("a recorded shape is made of strings");
        let (types, optional) = types.strip_suffix('?').map_or((types, false), |types| (types, true));
        let Some(actual) = self.types.get(path) else {
            return (!optional).then(|| Difference::new(path, "missing"));
        };
        let other: Vec<&str> = actual.iter().copied().filter(|kind| !types.split('|').any(|t| t == *kind)).collect();
        if other.is_empty() {
            return None;
        }
        Some(Difference::new(path, format!("type {}, expected {types}", other.join("|"))))
    }

    /// The recorded values that are other ones here.
    pub(super) fn values_differ(&self, expected: &Map<String, Value>) -> Vec<Difference> {
        let differs = |(path, value): (&String, &Value)| match self.literals.get(path) {
            Some(Some(actual)) if actual == value => None,
            Some(Some(actual)) => Some(Difference::new(path, format!("value {actual}, expected {value}"))),
            Some(None) => Some(Difference::new(path, format!("value differs from {value}"))),
            None => Some(Difference::new(path, format!("no value, expected {value}"))),
        };
        expected.iter().filter_map(differs).collect()
    }
}

/// The last name of a path.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Enums and fixed strings count; prose, ids and secrets do not.
fn is_literal(path: &str, text: &str, normal: &Normal) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.:/@+-".contains(&b);
    let lower = path.to_ascii_lowercase();
    text.len() <= LITERAL_CHARS_MAX
        && text.bytes().all(plain)
        && !SECRETS.iter().any(|secret| lower.ends_with(secret))
        && !MACHINE.contains(&last(path))
        && normal.text(text) == text
}

#[test]
fn elements_of_an_array_merge_and_one_with_the_key_is_enough() {
    let normal = Normal::new("run", "token", &[]);
    let shape = Shape::of(&serde_json::json!({ "a": [{ "b": 1 }, { "b": "x", "c": null }] }), "m", &normal);
    let expected = serde_json::json!({ "$": "object", "a": "array", "a[]": "object", "a[].b": "number|string",
        "a[].c": "null", "a[].d": "string?" });
    assert!(shape.differs(expected.as_object().unwrap()).is_empty());
    let narrower = serde_json::json!({ "a[].b": "number" });
    assert_eq!(shape.differs(narrower.as_object().unwrap())[0].why, "type string, expected number");
    let more = serde_json::json!({ "a[].e": "number" });
    assert_eq!(shape.differs(more.as_object().unwrap())[0].why, "missing");
}

#[test]
fn a_value_counts_only_when_it_was_always_the_same() {
    let normal = Normal::new("run", "token", &[]);
    let shape = Shape::of(&serde_json::json!({ "kind": "x", "rows": [{ "on": true }, { "on": false }] }), "m", &normal);
    let same = serde_json::json!({ "kind": "x" });
    assert!(shape.values_differ(same.as_object().unwrap()).is_empty());
    let mixed = serde_json::json!({ "rows[].on": true });
    assert_eq!(shape.values_differ(mixed.as_object().unwrap()).len(), 1);
}

#[test]
fn keys_below_channels_are_data() {
    let normal = Normal::new("run", "token", &[]);
    let shape = Shape::of(&serde_json::json!({ "channels": { "telegram": { "ok": true } } }), "m", &normal);
    assert!(shape.types.contains_key("channels.<key>.ok"));
}
