//! The `${NAME}` of the recordings.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::harness::Identities;
use crate::harness::connect::wall_ms;

/// What names stand for, and what earlier steps kept.
pub(super) struct Variables {
    values: HashMap<String, Value>,
    identities: Identities,
}

impl Variables {
    pub(super) fn new(identities: Identities) -> Variables {
        Variables { values: HashMap::new(), identities }
    }

    pub(super) fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.values.insert(name.into(), value.into());
    }

    /// Keeps values of `payload` by name, as `save` says: name to dotted path. What is not there is forgotten.
    pub(super) fn save(&mut self, wanted: &Map<String, Value>, payload: &Value) {
        for (name, path) in wanted {
            match path.as_str().and_then(|path| at(payload, path)) {
                Some(value) => self.values.insert(name.clone(), value.clone()),
                None => self.values.remove(name),
            };
        }
    }

    /// `value` with its variables filled in; what stands for nothing is left out.
    pub(super) fn fill(&self, value: &Value) -> Value {
        self.filled(value).unwrap_or(Value::Null)
    }

    pub(super) fn fill_text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, name, after)) = next_variable(rest) {
            out.push_str(before);
            match self.lookup(name) {
                Some(Value::String(text)) => out.push_str(&text),
                Some(other) => out.push_str(&other.to_string()),
                None => {}
            }
            rest = after;
        }
        out + rest
    }

    fn filled(&self, value: &Value) -> Option<Value> {
        match value {
            Value::String(text) => match next_variable(text) {
                Some(("", name, "")) => self.lookup(name),
                _ => Some(Value::String(self.fill_text(text))),
            },
            Value::Array(items) => Some(items.iter().map(|item| self.fill(item)).collect()),
            Value::Object(map) => {
                if let (Some(repeated), Some(times)) = (map.get("$repeat"), map.get("times")) {
                    let times = usize::try_from(times.as_u64()?).ok()?;
                    return Some(Value::String(repeated.as_str()?.repeat(times)));
                }
                let fields = map.iter().filter_map(|(key, value)| Some((self.fill_text(key), self.filled(value)?)));
                Some(Value::Object(fields.collect()))
            }
            other => Some(other.clone()),
        }
    }

    fn lookup(&self, name: &str) -> Option<Value> {
        match name.split_once(':') {
            Some(("deviceId", device)) => Some(Value::from(self.identities.get(device).id.clone())),
            Some(("publicKey", device)) => Some(Value::from(self.identities.get(device).public_key.clone())),
            Some(("nowPlus", ms)) => Some(Value::from(iso(wall_ms() + ms.parse::<i64>().ok()?))),
            Some(("msPlus", ms)) => Some(Value::from(wall_ms() + ms.parse::<i64>().ok()?)),
            _ if name == "today" => Some(Value::from(&iso(wall_ms())[..10])),
            _ => self.values.get(name).cloned(),
        }
    }
}

fn iso(ms: i64) -> String {
    openclaw_rs::runtime::clock::iso(ms)
}

/// The first `${NAME}` of a text, with what is before and after it.
fn next_variable(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find("${")?;
    let end = start + text[start..].find('}')?;
    Some((&text[..start], &text[start + 2..end], &text[end + 1..]))
}

/// The value at a dotted path, where `[n]` is a place in an array.
pub(super) fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, key| {
        match key.strip_prefix('[').and_then(|key| key.strip_suffix(']')).and_then(|key| key.parse::<usize>().ok()) {
            Some(place) => value.get(place),
            None => value.get(key),
        }
    })
}

/// Whether `payload` has all these values at these dotted paths.
pub(super) fn matches(payload: &Value, filter: &Map<String, Value>) -> bool {
    filter.iter().all(|(path, wanted)| at(payload, path).unwrap_or(&Value::Null) == wanted)
}

#[test]
fn a_string_that_is_only_a_variable_takes_its_type() {
    let mut variables = Variables::new(Identities::default());
    variables.set("N", 7);
    let filled = variables.fill(&serde_json::json!({ "a": "${N}", "b": "n=${N}", "c": "${GONE}", "d": ["${N}"] }));
    assert_eq!(filled, serde_json::json!({ "a": 7, "b": "n=7", "d": [7] }));
}

#[test]
fn a_path_goes_into_arrays() {
    let value = serde_json::json!({ "a": [{ "b": 1 }] });
    assert_eq!(at(&value, "a.[0].b"), Some(&Value::from(1)));
    assert_eq!(at(&value, "a.[1].b"), None);
}
