//! Where a document takes secrets from: each place that names a secret kept elsewhere.

use serde_json::{Map, Value};

use super::expand;
use super::path::{KeyPath, Step};
use super::redact;
use super::secret::PLACEHOLDER;
use super::validate::is_secret_reference;

/// A place that names a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The place.
    pub path: KeyPath,
    /// The variable that holds it.
    pub name: String,
}

impl Reference {
    /// Whether a canonical path with `*` for any key and `[]` for any element stands for this place.
    pub fn is_under(&self, pattern: &str) -> bool {
        let parts: Vec<&str> = pattern.split('.').collect();
        let mut wanted = Vec::new();
        for part in parts {
            let (name, is_list) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
            wanted.push(name);
            if is_list {
                wanted.push("[]");
            }
        }
        let steps = self.path.steps();
        steps.len() == wanted.len()
            && steps.iter().zip(wanted).all(|(step, wanted)| match step {
                Step::Key(key) => wanted == "*" || wanted == key,
                Step::Index(_) => wanted == "[]",
            })
    }
}

/// Every place of a document (its variables as written) where a secret belongs and a variable is named: `${NAME}`, or an
/// object with `source: "env"` and the name as its `id`.
///
/// What is a secret's place is decided by [`redact::value`], so that nothing is a secret in one list and none in another.
pub fn of(written: &Value) -> Vec<Reference> {
    let shown = redact::value(&probe(written));
    let mut found = Vec::new();
    walk(written, &shown, &KeyPath::root(), &mut found);
    found
}

/// The document with something secret in each place of a reference.
fn probe(value: &Value) -> Value {
    match value {
        Value::String(text) if expand::is_reference(text) => Value::String("x".to_owned()),
        Value::Object(_) if is_secret_reference(value) => Value::String("x".to_owned()),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(key, member)| (key.clone(), probe(member))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(probe).collect()),
        other => other.clone(),
    }
}

fn walk(written: &Value, shown: &Value, path: &KeyPath, found: &mut Vec<Reference>) {
    if shown == PLACEHOLDER {
        if let Some(name) = name_in(written) {
            found.push(Reference { path: path.clone(), name: name.to_owned() });
        }
        return;
    }
    match written {
        Value::Object(members) => {
            for (key, member) in members {
                walk(member, shown.get(key).unwrap_or(&Value::Null), &path.key(key), found);
            }
        }
        Value::Array(items) => {
            for (idx, item) in items.iter().enumerate() {
                walk(item, shown.get(idx).unwrap_or(&Value::Null), &path.index(idx), found);
            }
        }
        _ => {}
    }
}

/// The variable that a reference names.
fn name_in(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) if expand::is_reference(text) => text.strip_prefix("${")?.strip_suffix('}'),
        _ if is_secret_reference(value) && value["source"] == "env" => {
            value["id"].as_str().filter(|id| expand::is_name(id))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_counts_where_a_secret_belongs() {
        let found = of(&json!({
            "gateway": { "auth": { "token": "${GATEWAY}", "password": "plain" } },
            "models": { "providers": { "stub": {
                "apiKey": { "source": "env", "provider": "default", "id": "STUB" },
                "baseUrl": "${NO_SECRET}",
            } } },
            "unknown": { "list": [{ "apiKey": "${DEEP}" }] },
        }));
        let found: Vec<_> = found.iter().map(|one| (one.path.to_string(), one.name.as_str())).collect();
        assert_eq!(
            found,
            [
                ("gateway.auth.token".to_owned(), "GATEWAY"),
                ("models.providers.stub.apiKey".to_owned(), "STUB"),
                ("unknown.list.0.apiKey".to_owned(), "DEEP"),
            ]
        );
    }

    #[test]
    fn a_pattern_stands_for_the_places_of_its_shape() {
        let path = KeyPath::root().key("models").key("list").index(3).key("apiKey");
        let reference = Reference { path, name: "X".to_owned() };
        for (pattern, fits) in [
            ("models.list[].apiKey", true),
            ("*.list[].apiKey", true),
            ("models.list.*.apiKey", false),
            ("models.list[]", false),
            ("models.list[].apiKey.more", false),
        ] {
            assert_eq!(reference.is_under(pattern), fits, "{pattern}");
        }
    }
}
