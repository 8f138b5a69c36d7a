//! What JSON a field may be, and the words for what is wrong with it.

use serde_json::Value;

use super::Null;
use crate::protocol::params::Issues;
use crate::protocol::version::Protocol;

/// What JSON a field may be, beside `null`.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Text of `min` to `max` characters; protocol 3 may allow fewer.
    Text {
        /// Fewest characters.
        min: usize,
        /// Most characters on protocol 3.
        max_v3: usize,
        /// Most characters on protocol 4.
        max_v4: usize,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// `true`, `false` or `auto`.
    BoolOrAuto,
    /// A whole number of at least 0.
    Count,
    /// Tools switched on and off: only members of these names.
    Members(&'static [&'static str]),
}

impl Shape {
    /// Whether `value` has this shape; notes what is wrong, in the words and order of the reference validators.
    pub fn admits(self, value: &Value, null: Null, path: &str, issues: &mut Issues) -> bool {
        if value.is_null() && null == Null::Clears {
            return true;
        }
        let mut wrong = Vec::new();
        let one_of_several = self.check(value, issues.protocol(), &mut wrong) || null == Null::Clears;
        if wrong.is_empty() {
            return true;
        }
        if null == Null::Clears {
            wrong.push("must be null".to_owned());
        }
        if one_of_several {
            wrong.push("must match a schema in anyOf".to_owned());
        }
        for why in wrong {
            issues.wrong(path, why);
        }
        false
    }

    /// Says what is wrong, and whether the schema lists alternatives.
    fn check(self, value: &Value, protocol: Protocol, wrong: &mut Vec<String>) -> bool {
        let mut note = |why: &str| wrong.push(why.to_owned());
        match self {
            Shape::Text { min, max_v3, max_v4 } => {
                let (max, not) = match protocol {
                    Protocol::V3 => (max_v3, "NOT"),
                    Protocol::V4 => (max_v4, "not"),
                };
                match value.as_str().map(|text| text.chars().count()) {
                    None => note("must be string"),
                    Some(n) if n < min => note(&format!("must {not} have fewer than {min} characters")),
                    Some(n) if n > max => note(&format!("must {not} have more than {max} characters")),
                    Some(_) => {}
                }
                false
            }
            Shape::Word(words) => {
                match value.as_str() {
                    None => note("must be string"),
                    Some(word) if !words.contains(&word) => note("must be equal to constant"),
                    Some(_) => {}
                }
                words.len() > 1
            }
            Shape::Bool => {
                if !value.is_boolean() {
                    note("must be boolean");
                }
                false
            }
            Shape::BoolOrAuto => {
                if !value.is_boolean() && value != "auto" {
                    note("must be boolean");
                    note("must be equal to constant");
                }
                true
            }
            Shape::Count => {
                match value.as_i64() {
                    None => note("must be integer"),
                    Some(n) if n < 0 => note("must be >= 0"),
                    Some(_) => {}
                }
                false
            }
            Shape::Members(names) => {
                match value.as_object() {
                    None => note("must be object"),
                    Some(map) if map.keys().any(|key| !names.contains(&key.as_str())) => {
                        note("must not have additional properties");
                    }
                    Some(_) => {}
                }
                false
            }
        }
    }
}
