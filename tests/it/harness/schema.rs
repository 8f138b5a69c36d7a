//! Payloads held to the JSON schemas of protocol 4, as its released clients read them.
//!
//! Only the keywords that those schemas use are known; any other one is an error here, so that nothing passes unread.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

static DEFINITIONS: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../../../fixtures/protocol/v4/protocol-2026.9.6.schema.json");
    serde_json::from_str::<Value>(text).expect("the fixture is JSON")["definitions"].take()
});

static METHODS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../fixtures/protocol/methods.json")).expect("the fixture is JSON")
});

/// Holds a result of `method` to its definition.
#[track_caller]
pub(crate) fn check_result(method: &str, payload: &Value) {
    let row = METHODS.iter().find(|row| row["name"] == method);
    let row = row.unwrap_or_else(|| panic!("{method} is no method of the contract"));
    let definition = row["result"].as_str().unwrap_or_else(|| panic!("{method} has no definition of its result"));
    check(definition, payload);
}

/// Holds a value to a definition.
#[track_caller]
pub(crate) fn check(definition: &str, value: &Value) {
    let schema = DEFINITIONS.get(definition).unwrap_or_else(|| panic!("there is no definition {definition}"));
    let mut wrong = Vec::new();
    judge(schema, value, "", &mut wrong);
    assert!(wrong.is_empty(), "{definition}: {wrong:#?} in {value:#}");
}

fn is_valid(schema: &Value, value: &Value) -> bool {
    let mut wrong = Vec::new();
    judge(schema, value, "", &mut wrong);
    wrong.is_empty()
}

fn judge(schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else { return };
    for (keyword, rule) in keywords {
        if let Some(why) = breaks(keyword, rule, keywords, value, at, wrong) {
            wrong.push(format!("{at}: {why}"));
        }
    }
}

/// What breaks one keyword here; what breaks below is added to `wrong`.
fn breaks(
    keyword: &str,
    rule: &Value,
    all: &Map<String, Value>,
    value: &Value,
    at: &str,
    wrong: &mut Vec<String>,
) -> Option<String> {
    let limit = rule.as_f64();
    let n_chars = value.as_str().map(|text| text.chars().count() as f64);
    let n_items = value.as_array().map(|items| items.len() as f64);
    let branches = || rule.as_array().into_iter().flatten();
    let holds = match keyword {
        "type" => is_of_type(rule.as_str().expect("one type"), value),
        "const" => rule == value,
        "enum" => branches().any(|one| one == value),
        "anyOf" => branches().any(|one| is_valid(one, value)),
        "oneOf" => branches().filter(|one| is_valid(one, value)).count() == 1,
        "allOf" => branches().all(|one| is_valid(one, value)),
        "not" => !is_valid(rule, value),
        "minLength" => n_chars.is_none_or(|n| Some(n) >= limit),
        "maxLength" => n_chars.is_none_or(|n| Some(n) <= limit),
        "minItems" => n_items.is_none_or(|n| Some(n) >= limit),
        "maxItems" => n_items.is_none_or(|n| Some(n) <= limit),
        "minimum" => value.as_f64().is_none_or(|n| Some(n) >= limit),
        "maximum" => value.as_f64().is_none_or(|n| Some(n) <= limit),
        "uniqueItems" => value.as_array().is_none_or(|items| (1..items.len()).all(|n| !items[..n].contains(&items[n]))),
        "pattern" => value.as_str().is_none_or(|text| matches(rule.as_str().expect("a pattern is text"), text)),
        "required" => {
            let missing = |name: &&Value| value.is_object() && value.get(name.as_str().expect("a name")).is_none();
            return branches().find(missing).map(|name| format!("{name} is missing"));
        }
        "contains" => value.as_array().is_none_or(|items| items.iter().any(|item| is_valid(rule, item))),
        "items" if rule.is_array() => {
            for (n, (rule, item)) in branches().zip(value.as_array().into_iter().flatten()).enumerate() {
                judge(rule, item, &format!("{at}/{n}"), wrong);
            }
            true
        }
        "additionalItems" => {
            let n_named = all.get("items").and_then(Value::as_array).map_or(0, Vec::len);
            rule != false || value.as_array().is_none_or(|items| items.len() <= n_named)
        }
        "items" => {
            for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                judge(rule, item, &format!("{at}/{n}"), wrong);
            }
            true
        }
        "properties" => {
            for (name, rule) in rule.as_object().expect("properties are named") {
                if let Some(value) = value.get(name) {
                    judge(rule, value, &format!("{at}/{name}"), wrong);
                }
            }
            true
        }
        "additionalProperties" => {
            let patterns = || all.get("patternProperties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
            let named = |name: &String| {
                all.get("properties").is_some_and(|named| named.get(name).is_some())
                    || patterns().any(|pattern| matches(pattern, name))
            };
            for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| !named(name)) {
                if rule == false {
                    wrong.push(format!("{at}: {name} is not defined"));
                }
                judge(rule, value, &format!("{at}/{name}"), wrong);
            }
            true
        }
        "patternProperties" => {
            for (pattern, rule) in rule.as_object().expect("patterns are named") {
                for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| matches(pattern, name))
                {
                    judge(rule, value, &format!("{at}/{name}"), wrong);
                }
            }
            true
        }
        "description" | "title" | "default" | "x-carried-from" | "x-openclaw-since" => true,
        other => panic!("{at}: the keyword {other} is not known here"),
    };
    (!holds).then(|| format!("breaks {keyword} {rule}"))
}

/// The one pattern of the contract that looks ahead: not `.` and not `..`, and no half of a character, which a string of
/// ours cannot hold.
const NO_DOTS: &str = r"^(?!\.{1,2}$)(?:[^\uD800-\uDFFF]|[\uD800-\uDBFF][\uDC00-\uDFFF])+$";

fn matches(pattern: &str, text: &str) -> bool {
    if pattern == NO_DOTS {
        return !matches!(text, "" | "." | "..");
    }
    Regex::new(pattern).expect("it compiles").is_match(text)
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("there is no type {other}"),
    }
}

#[test]
fn a_payload_is_held_to_each_word_of_its_schema() {
    let check = |schema: &str, value: &str| {
        is_valid(&serde_json::from_str(schema).unwrap(), &serde_json::from_str(value).unwrap())
    };
    let object = r#"{"type":"object","required":["a"],"properties":{"a":{"type":"integer","minimum":1}},"additionalProperties":false}"#;
    assert!(check(object, r#"{"a":1}"#));
    for bad in ["{}", r#"{"a":0}"#, r#"{"a":"1"}"#, r#"{"a":1,"b":1}"#, "[]"] {
        assert!(!check(object, bad), "{bad}");
    }
    let list = r#"{"type":"array","items":{"anyOf":[{"const":"x"},{"type":"string","maxLength":1,"pattern":"^[0-9]"}]},"maxItems":2}"#;
    assert!(check(list, r#"["x","7"]"#));
    for bad in [r#"["y"]"#, r#"["77"]"#, r#"["x","x","x"]"#] {
        assert!(!check(list, bad), "{bad}");
    }
}
