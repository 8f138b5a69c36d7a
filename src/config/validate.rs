//! A canonical document held against the rows: what is wrong, and where.
//!
//! Words follow upstream's validator (`Invalid input: expected number, received string`), because its clients show
//! them and its recordings hold them. An issue's path is the canonical dotted one, list elements by number; an unknown
//! key is reported at the object that holds it.

use serde_json::Value;

use super::path::KeyPath;
use super::rules;
use super::schema::tree::NodeId;
use super::schema::{self, Kind, PATH_CHARS_MAX, TEXT_CHARS_MAX, Unit};
use super::{Issue, duration};

/// Most issues or warnings kept for one document; the rest adds nothing to what must be fixed.
pub const ISSUES_MAX: usize = 100;

/// Longest unknown key compared with known ones, in bytes: no key that someone mistyped is longer.
const NEAREST_KEY_BYTES_MAX: usize = 64;

/// What the walk found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What makes the document unusable.
    pub issues: Vec<Issue>,
    /// Keys that no row names, as canonical paths.
    pub unknown: Vec<Unknown>,
}

/// A key that no row names.
#[derive(Clone, Debug, PartialEq)]
pub struct Unknown {
    /// Where it is.
    pub path: KeyPath,
    /// The known key it is most like, as a full path.
    pub nearest: Option<String>,
}

impl Unknown {
    /// The warning for a file, where unknown keys are kept.
    pub fn warning(&self) -> Issue {
        let hint = self.nearest.as_ref().map(|nearest| format!(" (did you mean {nearest}?)")).unwrap_or_default();
        Issue::new(self.path.to_string(), format!("unknown key, kept as it is{hint}"))
    }

    /// The error for an edit and for strict validation, in upstream's words.
    pub fn issue(&self) -> Issue {
        let hint = self.nearest.as_ref().map(|nearest| format!(" (did you mean {nearest}?)")).unwrap_or_default();
        Issue::new(self.path.parent().to_string(), format!("Unrecognized key: \"{}\"{hint}", self.path.last()))
    }
}

/// Walks a canonical document beside the rows.
pub fn check(document: &Value) -> Findings {
    let mut findings = Findings::default();
    let tree = schema::tree();
    match document {
        Value::Object(_) => walk(tree.root(), document, &KeyPath::root(), &mut findings),
        other => {
            findings.push(Issue::new("", format!("Invalid input: expected object, received {}", type_name(other))))
        }
    }
    findings
}

impl Findings {
    fn push(&mut self, issue: Issue) {
        if self.issues.len() < ISSUES_MAX {
            self.issues.push(issue);
        }
    }

    fn push_unknown(&mut self, unknown: Unknown) {
        if self.unknown.len() < ISSUES_MAX {
            self.unknown.push(unknown);
        }
    }
}

fn walk(id: NodeId, value: &Value, path: &KeyPath, findings: &mut Findings) {
    let tree = schema::tree();
    let kind = tree.kind(id);
    let is_secret = tree.node(id).row.is_some_and(|row| row.secret);
    if is_secret && is_secret_reference(value) {
        return;
    }
    if let Err(message) = check_kind(&kind, value) {
        findings.push(Issue::new(path.to_string(), message));
        return;
    }
    match value {
        Value::Object(members) if takes_members(&kind) => {
            for (key, member) in members {
                let child_path = path.key(key);
                match tree.child(id, key) {
                    Some(child) => walk(child, member, &child_path, findings),
                    None if matches!(kind, Kind::Open | Kind::Map) => {}
                    None => findings.push_unknown(Unknown { nearest: nearest(id, key, path), path: child_path }),
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = tree.node(id).item {
                for (idx, element) in items.iter().enumerate() {
                    walk(item, element, &path.index(idx), findings);
                }
            }
        }
        _ => {}
    }
}

/// Whether objects of this kind are looked into.
pub fn takes_members(kind: &Kind) -> bool {
    matches!(kind, Kind::Table | Kind::Open | Kind::Map | Kind::TextOrTable)
}

/// `{source, id, provider?}`: a secret kept elsewhere.
pub fn is_secret_reference(value: &Value) -> bool {
    value.get("source").is_some_and(Value::is_string) && value.get("id").is_some_and(Value::is_string)
}

/// The known key below `id` that differs least from `key`, when it differs little.
fn nearest(id: NodeId, key: &str, parent: &KeyPath) -> Option<String> {
    if key.len() > NEAREST_KEY_BYTES_MAX {
        return None;
    }
    let tree = schema::tree();
    let names = tree.children(id).into_iter().map(|child| tree.node(child).key);
    let (distance, name) = names.map(|name| (distance(&schema::fold(key), &schema::fold(name)), name)).min()?;
    (distance <= 1 + key.len() / 4).then(|| parent.key(name).to_string())
}

/// Edits between two short texts (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

/// Whether a value is of a kind, leaving what is inside objects and lists to the walk.
///
/// # Errors
/// What is wrong with it, in upstream's words.
pub fn check_kind(kind: &Kind, value: &Value) -> Result<(), String> {
    let expected = |name: &str| Err(format!("Invalid input: expected {name}, received {}", type_name(value)));
    match kind {
        Kind::Any => Ok(()),
        Kind::Bool => value.as_bool().map(|_| ()).map_or_else(|| expected("boolean"), Ok),
        Kind::BoolOr(words) => match value {
            Value::Bool(_) => Ok(()),
            Value::String(text) if words.contains(&text.as_str()) => Ok(()),
            _ => Err(format!("Invalid input: expected boolean or one of {}", quoted(words))),
        },
        Kind::Int { min, max } => match value {
            Value::Number(number) => check_int(number, *min, *max),
            _ => expected("number"),
        },
        Kind::Number { min, max } => match value.as_f64() {
            None => expected("number"),
            Some(number) if number < *min => Err(format!("Too small: expected number to be >={min}")),
            Some(number) if number > *max => Err(format!("Too big: expected number to be <={max}")),
            Some(_) => Ok(()),
        },
        Kind::Text { chars_max } => match value {
            Value::String(text) => check_length(text, *chars_max),
            _ => expected("string"),
        },
        Kind::Path => match value {
            Value::String(text) => check_length(text, PATH_CHARS_MAX),
            _ => expected("string"),
        },
        Kind::Choice(words) => match value {
            Value::String(text) if words.contains(&text.as_str()) => Ok(()),
            _ => Err(format!("Invalid option: expected one of {}", quoted(words))),
        },
        Kind::Texts { items_max } => check_texts(value, *items_max, |_| Ok(())),
        Kind::Regexes => check_texts(value, schema::TEXTS_MAX, rules::check_regex),
        Kind::Ranges => check_texts(value, schema::TEXTS_MAX, |text| super::cidr::Cidr::parse(text).map(|_| ())),
        Kind::Ids => match value {
            Value::Array(items) => items
                .iter()
                .all(|item| item.is_string() || item.is_i64())
                .then_some(())
                .ok_or_else(|| "Invalid input: expected texts or whole numbers".to_owned()),
            _ => expected("array"),
        },
        Kind::DurationOrOff(_) if *value == Value::Bool(false) => Ok(()),
        Kind::Duration(unit) | Kind::DurationOrOff(unit) => check_duration(value, *unit),
        Kind::Size => match value {
            Value::Number(number) => check_int(number, 0, i64::MAX),
            Value::String(text) => duration::parse_size(text).map(|_| ()),
            _ => expected("number"),
        },
        Kind::Url(schemes) => match value {
            Value::String(text) => check_url(text, schemes),
            _ => expected("string"),
        },
        Kind::Address => match value {
            Value::String(text) => super::network::HostPort::parse(text).map(|_| ()),
            _ => expected("string"),
        },
        Kind::Digest => match value {
            Value::String(text) if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(()),
            _ => Err("Invalid string: must be 64 hexadecimal digits".to_owned()),
        },
        Kind::Color => match value {
            Value::String(text) if is_color(text) => Ok(()),
            _ => Err("Invalid string: must be a color such as #4b5563".to_owned()),
        },
        Kind::Table | Kind::Open | Kind::Map => value.as_object().map(|_| ()).map_or_else(|| expected("object"), Ok),
        Kind::TextOrTable => match value {
            Value::String(text) => check_length(text, TEXT_CHARS_MAX),
            Value::Object(_) => Ok(()),
            _ => expected("string or object"),
        },
        Kind::List => value.as_array().map(|_| ()).map_or_else(|| expected("array"), Ok),
    }
}

fn check_int(number: &serde_json::Number, min: i64, max: i64) -> Result<(), String> {
    let whole = number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        // Upstream's numbers are doubles: 8 and 8.0 are the same to it.
        (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
    });
    match whole {
        None => Err("Invalid input: expected int, received number".to_owned()),
        Some(n) if n < min => Err(format!("Too small: expected number to be >={min}")),
        Some(n) if n > max => Err(format!("Too big: expected number to be <={max}")),
        Some(_) => Ok(()),
    }
}

fn check_length(text: &str, chars_max: usize) -> Result<(), String> {
    if text.len() > chars_max && text.chars().count() > chars_max {
        return Err(format!("Too big: expected string to have <={chars_max} characters"));
    }
    Ok(())
}

fn check_texts(value: &Value, items_max: usize, each: fn(&str) -> Result<(), String>) -> Result<(), String> {
    let Value::Array(items) = value else {
        return Err(format!("Invalid input: expected array, received {}", type_name(value)));
    };
    if items.len() > items_max {
        return Err(format!("Too big: expected array to have <={items_max} items"));
    }
    for (idx, item) in items.iter().enumerate() {
        let Value::String(text) = item else {
            return Err(format!("Invalid input: expected string, received {} at [{idx}]", type_name(item)));
        };
        check_length(text, TEXT_CHARS_MAX)?;
        each(text).map_err(|message| format!("{message} at [{idx}]"))?;
    }
    Ok(())
}

fn check_duration(value: &Value, unit: Unit) -> Result<(), String> {
    match value {
        Value::Number(number) if number.as_f64().is_some_and(|n| n >= 0.0) => Ok(()),
        Value::Number(_) => Err("Too small: expected number to be >=0".to_owned()),
        Value::String(text) => duration::parse(text, unit).map(|_| ()),
        _ => Err(format!("Invalid input: expected string, received {}", type_name(value))),
    }
}

fn check_url(text: &str, schemes: &[&str]) -> Result<(), String> {
    let known = text.split_once("://").filter(|(scheme, rest)| {
        schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known)) && !rest.trim().is_empty()
    });
    known.map(|_| ()).ok_or_else(|| format!("Invalid URL: expected {}", schemes.join(" or ")))
}

fn is_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join("|")
}

/// The name upstream's validator gives a value's type.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn issue(document: Value, path: &str, message: &str) {
        let found: Vec<String> = check(&document).issues.iter().map(Issue::to_string).collect();
        let expected = if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") };
        assert_eq!(found, [expected], "{document}");
    }

    #[track_caller]
    fn fine(document: Value) {
        let findings = check(&document);
        assert!(findings.issues.is_empty() && findings.unknown.is_empty(), "{document}: {findings:?}");
    }

    #[test]
    fn wrong_values_are_named_with_path_and_upstreams_words() {
        issue(json!([]), "", "Invalid input: expected object, received array");
        issue(json!({ "gateway": { "port": "x" } }), "gateway.port", "Invalid input: expected number, received string");
        issue(json!({ "gateway": { "port": 0 } }), "gateway.port", "Too small: expected number to be >=1");
        issue(json!({ "gateway": { "port": 65536 } }), "gateway.port", "Too big: expected number to be <=65535");
        issue(json!({ "gateway": { "port": 1.5 } }), "gateway.port", "Invalid input: expected int, received number");
        issue(json!({ "gateway": 5 }), "gateway", "Invalid input: expected object, received number");
        issue(
            json!({ "gateway": { "bind": "moon" } }),
            "gateway.bind",
            "Invalid option: expected one of \"auto\"|\"loopback\"|\"lan\"|\"tailnet\"|\"custom\"",
        );
        issue(
            json!({ "agents": { "list": [{ "id": "a" }, { "id": 5 }] } }),
            "agents.list.1.id",
            "Invalid input: expected string, received number",
        );
        issue(
            json!({ "security": { "tool_risk_bonus": { "exec": 300 } } }),
            "security.tool_risk_bonus.exec",
            "Too big: expected number to be <=255",
        );
        issue(
            json!({ "ui": { "seamColor": "red" } }),
            "ui.seamColor",
            "Invalid string: must be a color such as #4b5563",
        );
        issue(
            json!({ "gateway": { "remote": { "url": "http://x" } } }),
            "gateway.remote.url",
            "Invalid URL: expected ws or wss",
        );
    }

    #[test]
    fn unknown_keys_name_the_nearest_known_one() {
        let findings = check(&json!({ "gateway": { "prot": 1 }, "zzUnknownRoot": 1 }));
        assert!(findings.issues.is_empty());
        let issues: Vec<String> = findings.unknown.iter().map(|unknown| unknown.issue().to_string()).collect();
        assert_eq!(
            issues,
            ["gateway: Unrecognized key: \"prot\" (did you mean gateway.port?)", "Unrecognized key: \"zzUnknownRoot\""]
        );
        let warnings: Vec<String> = findings.unknown.iter().map(|unknown| unknown.warning().to_string()).collect();
        assert_eq!(
            warnings,
            [
                "gateway.prot: unknown key, kept as it is (did you mean gateway.port?)",
                "zzUnknownRoot: unknown key, kept as it is"
            ]
        );
    }

    #[test]
    fn keys_of_the_users_choice_and_open_objects_are_taken() {
        fine(json!({ "models": { "providers": { "my own": { "baseUrl": "http://x", "novelty": 1 } } } }));
        fine(
            json!({ "channels": { "telegram": { "dmPolicy": "open", "accounts": { "Alice": { "botToken": "t" } } } } }),
        );
        fine(json!({ "env": { "OPENAI_API_KEY": "k", "vars": { "a_b": "c" }, "shellEnv": { "enabled": true } } }));
        fine(json!({ "gateway": { "auth": { "token": { "source": "env", "id": "TOKEN" } } } }));
        fine(json!({ "cron": { "sessionRetention": false } }));
        fine(json!({ "agents": { "defaults": { "model": "stub/test", "heartbeat": { "every": "30m" } } } }));
    }

    #[test]
    fn the_list_of_issues_is_bounded() {
        let agents: Vec<Value> = (0..ISSUES_MAX + 5).map(|_| json!({ "id": 1 })).collect();
        assert_eq!(check(&json!({ "agents": { "list": agents } })).issues.len(), ISSUES_MAX);
    }
}
