//! Writing JSON values down as they look.
//!
//! [`json!`] reads like the macro of `serde_json` and makes the same values. That one is compiled into all that making and
//! inserting a member takes, for each member anew, and this program writes thousands of them: here a member is one call.

use serde::Serialize;
use serde_json::{Map, Value};

/// An object that is being written.
#[derive(Debug, Default)]
pub struct Object(Map<String, Value>);

impl Object {
    /// Adds a member.
    #[inline(never)]
    pub fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// Adds a member that is made of any value.
    #[inline(never)]
    pub fn add<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.put(name, to_value(value));
    }

    /// The object.
    pub fn done(self) -> Value {
        Value::Object(self.0)
    }
}

/// Any value as JSON.
///
/// # Panics
/// For a map whose keys are no text, which none of ours is.
#[inline(never)]
pub fn to_value<T: Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).expect("strings, numbers and maps with text keys can be written")
}

/// A JSON value, written as it looks: `json!({ "runId": run_id, "parts": [1, null], "at": { "ms": now_ms } })`.
#[allow(unused_macro_rules, reason = "it reads all that may be written")]
macro_rules! json {
    // Members of an object, one after the other.
    (@member $object:ident) => {};
    (@member $object:ident $name:literal : null $(, $($rest:tt)*)?) => {
        $object.put($name, serde_json::Value::Null);
        $crate::protocol::json::json!(@member $object $($($rest)*)?);
    };
    (@member $object:ident $name:literal : { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $object.put($name, $crate::protocol::json::json!({ $($inner)* }));
        $crate::protocol::json::json!(@member $object $($($rest)*)?);
    };
    (@member $object:ident $name:literal : [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $object.put($name, $crate::protocol::json::json!([ $($inner)* ]));
        $crate::protocol::json::json!(@member $object $($($rest)*)?);
    };
    (@member $object:ident $name:literal : $value:expr $(, $($rest:tt)*)?) => {
        $object.add($name, &$value);
        $crate::protocol::json::json!(@member $object $($($rest)*)?);
    };
    (@member $object:ident $name:ident : $($rest:tt)*) => { $crate::protocol::json::json!(@member $object ($name) : $($rest)*); };
    (@member $object:ident ($name:expr) : { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $object.put(AsRef::<str>::as_ref(&$name), $crate::protocol::json::json!({ $($inner)* }));
        $crate::protocol::json::json!(@member $object $($($rest)*)?);
    };
    (@member $object:ident ($name:expr) : [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $object.put(AsRef::<str>::as_ref(&$name), $crate::protocol::json::json!([ $($inner)* ]));
        $crate::protocol::json::json!(@member $object $($($rest)*)?);
    };
    (@member $object:ident ($name:expr) : $value:expr $(, $($rest:tt)*)?) => {
        $object.add(AsRef::<str>::as_ref(&$name), &$value);
        $crate::protocol::json::json!(@member $object $($($rest)*)?);
    };
    // Items of an array, taken together in the end.
    (@items [$($done:expr,)*]) => { serde_json::Value::Array(vec![$($done),*]) };
    (@items [$($done:expr,)*] null $(, $($rest:tt)*)?) => {
        $crate::protocol::json::json!(@items [$($done,)* serde_json::Value::Null,] $($($rest)*)?)
    };
    (@items [$($done:expr,)*] { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $crate::protocol::json::json!(@items [$($done,)* $crate::protocol::json::json!({ $($inner)* }),] $($($rest)*)?)
    };
    (@items [$($done:expr,)*] [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $crate::protocol::json::json!(@items [$($done,)* $crate::protocol::json::json!([ $($inner)* ]),] $($($rest)*)?)
    };
    (@items [$($done:expr,)*] $value:expr $(, $($rest:tt)*)?) => {
        $crate::protocol::json::json!(@items [$($done,)* $crate::protocol::json::json!($value),] $($($rest)*)?)
    };
    (null) => { serde_json::Value::Null };
    ({}) => { serde_json::Value::Object(serde_json::Map::new()) };
    ([]) => { serde_json::Value::Array(Vec::new()) };
    ({ $($members:tt)+ }) => {{
        let mut object = $crate::protocol::json::Object::default();
        $crate::protocol::json::json!(@member object $($members)+);
        object.done()
    }};
    ([ $($items:tt)+ ]) => { $crate::protocol::json::json!(@items [] $($items)+) };
    ($value:expr) => { $crate::protocol::json::to_value(&$value) };
}
pub(crate) use json;

#[cfg(test)]
mod tests {
    #[test]
    fn makes_what_the_other_one_makes() {
        let (name, none, list) = ("key", None::<&str>, vec!["a", "b"]);
        let text = String::from("words");
        let ours = json!({
            "null": null, "yes": true, "text": text, "none": none,
            name: { "in": { "deep": [1, null, [], {}, { "x": [2.5] }, list] } },
            (format!("{name}2")): [text, -1],
            "sum": 1 + 2, "if": if true { "a" } else { "b" }, "empty": {}, "nothing": [],
        });
        let theirs = serde_json::json!({
            "null": null, "yes": true, "text": text, "none": none,
            name: { "in": { "deep": [1, null, [], {}, { "x": [2.5] }, list] } },
            (format!("{name}2")): [text, -1],
            "sum": 1 + 2, "if": if true { "a" } else { "b" }, "empty": {}, "nothing": [],
        });
        assert_eq!(ours.to_string(), theirs.to_string(), "in the same order too");
        assert_eq!(json!(null), serde_json::json!(null));
        assert_eq!(json!(text), serde_json::json!(text));
        assert_eq!(json!([]), serde_json::json!([]));
        assert_eq!(json!({ "joined": [name, name].concat() }), serde_json::json!({ "joined": "keykey" }));
    }
}
