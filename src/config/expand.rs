//! `${VAR}` in string values.
//!
//! Names are `[A-Z_][A-Z0-9_]*`; what is not such a name between braces is plain text. `$${VAR}` is the literal
//! `${VAR}`. A missing or empty variable is an issue naming key and variable: a gateway that starts with half a
//! token is worse than one that does not start. The secrets of model providers are the exception: a reference that
//! cannot be filled in stays as it is, and takes that one provider out of service.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Issue;
use super::path::KeyPath;

/// Environment variables by name, as the process was given them.
pub type Env = BTreeMap<String, String>;

/// Fills in every string of a document.
///
/// # Errors
/// Every missing variable.
pub fn document(document: &Value, env: &Env) -> Result<Value, Vec<Issue>> {
    let mut issues = Vec::new();
    let value = walk(document, env, &KeyPath::root(), &mut issues);
    if issues.is_empty() { Ok(value) } else { Err(issues) }
}

fn walk(value: &Value, env: &Env, path: &KeyPath, issues: &mut Vec<Issue>) -> Value {
    match value {
        Value::String(text) => match self::text(text, env) {
            Ok(text) => Value::String(text),
            Err(_) if is_reference(text) && is_of_a_provider(path) => value.clone(),
            Err(name) => {
                issues.push(Issue::new(path.to_string(), format!("environment variable {name} is missing or empty")));
                value.clone()
            }
        },
        Value::Array(items) => {
            Value::Array(items.iter().enumerate().map(|(n, item)| walk(item, env, &path.index(n), issues)).collect())
        }
        Value::Object(members) => Value::Object(
            members.iter().map(|(key, member)| (key.clone(), walk(member, env, &path.key(key), issues))).collect(),
        ),
        other => other.clone(),
    }
}

/// Whether a key is a secret of a model provider, which is fetched when the provider is asked.
fn is_of_a_provider(path: &KeyPath) -> bool {
    let path = path.to_string();
    path.starts_with("keys.")
        || path
            .strip_prefix("models.providers.")
            .and_then(|rest| rest.split_once('.'))
            .is_some_and(|(_, key)| key == "apiKey" || key.starts_with("headers."))
}

/// Fills in one string.
///
/// # Errors
/// The name of the variable that is missing or empty.
pub fn text(text: &str, env: &Env) -> Result<String, String> {
    if !text.contains("${") {
        return Ok(text.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(name) = name_of(&rest[start..]) else {
            out.push_str(&rest[..start + 2]);
            rest = &rest[start + 2..];
            continue;
        };
        let end = start + name.len() + 3;
        match rest[..start].strip_suffix('$') {
            Some(before) => {
                out.push_str(before);
                out.push_str(&rest[start..end]);
            }
            None => {
                out.push_str(&rest[..start]);
                let value = env.get(name).filter(|value| !value.is_empty()).ok_or_else(|| name.to_owned())?;
                out.push_str(value);
            }
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether the whole text is one reference, which names a variable and holds no secret.
pub fn is_reference(text: &str) -> bool {
    name_of(text).is_some_and(|name| name.len() + 3 == text.len())
}

/// The name in `${NAME}` at the start of `text`.
fn name_of(text: &str) -> Option<&str> {
    let inside = text.strip_prefix("${")?;
    let name = &inside[..inside.find('}')?];
    is_name(name).then_some(name)
}

/// Whether `name` can be a variable here.
pub fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_uppercase() || c == '_')
        && chars.all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fills_in_keeps_literals_and_names_what_is_missing() {
        let env = Env::from([
            ("A".to_owned(), "1".to_owned()),
            ("B_2".to_owned(), "x${A}".to_owned()),
            ("E".into(), "".into()),
        ]);
        let cases = [
            ("plain $ text", Ok("plain $ text")),
            ("${A}", Ok("1")),
            ("http://${A}:${B_2}/", Ok("http://1:x${A}/")),
            ("$${A}", Ok("${A}")),
            ("a$${A}b${A}", Ok("a${A}b1")),
            ("${lower} ${", Ok("${lower} ${")),
            ("${}", Ok("${}")),
            ("${MISSING}", Err("MISSING")),
            ("${E}", Err("E")),
        ];
        for (written, expected) in cases {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(text(written, &env), expected, "{written}");
        }
    }

    #[test]
    fn an_issue_names_the_key() {
        let issues = document(&json!({ "a": [{ "b": "${NOPE}" }] }), &Env::new()).unwrap_err();
        assert_eq!(issues, [Issue::new("a.0.b", "environment variable NOPE is missing or empty")]);
    }

    #[test]
    fn a_key_of_a_provider_may_be_missing() {
        let written =
            json!({ "models": { "providers": { "p": { "apiKey": "${NOPE}", "headers": { "x": "${NOPE}" } } } } });
        assert_eq!(document(&written, &Env::new()).unwrap(), written);
        let url = json!({ "models": { "providers": { "p": { "baseUrl": "${NOPE}" } } } });
        assert!(document(&url, &Env::new()).is_err(), "only secrets");
        let half = json!({ "models": { "providers": { "p": { "apiKey": "a${NOPE}" } } } });
        assert!(document(&half, &Env::new()).is_err(), "only whole references");
    }

    #[test]
    fn only_a_whole_reference_is_one() {
        assert!(is_reference("${A_B1}"));
        for not in ["${A}x", "x${A}", "$${A}", "${a}", "A"] {
            assert!(!is_reference(not), "{not}");
        }
    }
}
