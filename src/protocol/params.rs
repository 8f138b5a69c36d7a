//! Typed parameters from untrusted JSON, refusing what they do not know in upstream's words.
//!
//! A parameter type is written once, with [`params!`](crate::params): its fields, their wire names, which protocols
//! have them. From that come the decoder and the message `invalid METHOD params: …` in the form each protocol uses.
//! Field names are accepted in camelCase and, on input only, in snake_case.

use serde_json::{Map, Value};

use super::error::RpcError;
use super::version::Protocol;

/// Most problems reported for one request; the rest adds nothing to what the caller must fix.
pub const ISSUES_MAX: usize = 16;

/// What is wrong with a set of parameters, in the order upstream reports it.
#[derive(Debug)]
pub struct Issues {
    protocol: Protocol,
    missing: Vec<String>,
    unexpected: Vec<String>,
    wrong: Vec<String>,
    refusal: Option<RpcError>,
}

impl Issues {
    /// None yet.
    pub fn new(protocol: Protocol) -> Issues {
        Issues { protocol, missing: Vec::new(), unexpected: Vec::new(), wrong: Vec::new(), refusal: None }
    }

    /// Whose rules apply.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong.is_empty() && self.refusal.is_none()
    }

    /// Something that is refused with an error of its own, whatever else is wrong.
    pub fn refuse(&mut self, error: RpcError) {
        self.refusal.get_or_insert(error);
    }

    /// A required field is absent.
    pub fn missing(&mut self, path: &str, name: &str) {
        // Protocol 4's validator stops at the first missing field of an object.
        if self.protocol == Protocol::V3 || self.missing.is_empty() {
            let text = format!("must have required property '{name}'");
            push(&mut self.missing, at(path, text));
        }
    }

    /// A field nobody knows.
    pub fn unexpected(&mut self, path: &str, name: &str) {
        let place = if path.is_empty() { "root" } else { path };
        push(&mut self.unexpected, format!("at {place}: unexpected property '{name}'"));
    }

    /// A field with a value it cannot have, with the validator's words for why.
    pub fn wrong(&mut self, path: &str, why: impl Into<String>) {
        push(&mut self.wrong, at(path, why.into()));
    }

    /// The problems joined as upstream joins them.
    pub fn text(&self) -> String {
        let order: [&Vec<String>; 3] = match self.protocol {
            Protocol::V3 => [&self.missing, &self.unexpected, &self.wrong],
            Protocol::V4 => [&self.missing, &self.unexpected, &self.wrong],
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in order.into_iter().flatten() {
            if !parts.contains(&part.as_str()) {
                parts.push(part);
            }
        }
        if parts.is_empty() { "unknown validation error".to_owned() } else { parts.join("; ") }
    }
}

fn at(path: &str, text: String) -> String {
    if path.is_empty() { text } else { format!("at {path}: {text}") }
}

fn push(list: &mut Vec<String>, text: String) {
    if list.len() < ISSUES_MAX {
        list.push(text);
    }
}

/// A value that can stand in a parameter.
pub trait Param: Sized {
    /// Reads a value that is there; `None` means that an issue was noted.
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self>;

    /// What an absent field means; `None`: it is required.
    fn absent() -> Option<Self> {
        None
    }

    /// The same on `protocol`, for the fields that one of them requires and the other does not.
    fn absent_on(_protocol: Protocol) -> Option<Self> {
        Self::absent()
    }
}

/// A set of named parameters: made by [`params!`](crate::params).
pub trait Params: Sized {
    /// Reads the fields of `object`, noting every problem.
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self>;
}

/// Decodes the parameters of `method`; absent and `null` are read as `{}`.
///
/// # Errors
/// `INVALID_REQUEST` `invalid METHOD params: …`.
pub fn decode<P: Params>(method: &str, raw: Option<&str>, protocol: Protocol) -> Result<P, RpcError> {
    let object = object(method, raw)?;
    let mut issues = Issues::new(protocol);
    match P::read_fields(&object, "", &mut issues) {
        Some(params) if issues.is_empty() => Ok(params),
        _ => Err(issues.refusal(method)),
    }
}

// What is the same for all types stands apart from what is compiled for each.
#[inline(never)]
fn object(method: &str, raw: Option<&str>) -> Result<Map<String, Value>, RpcError> {
    match raw.map(serde_json::from_str) {
        None | Some(Ok(Value::Null)) => Ok(Map::new()),
        Some(Ok(Value::Object(object))) => Ok(object),
        Some(Ok(_) | Err(_)) => Err(refused(method, "must be object")),
    }
}

fn refused(method: &str, text: &str) -> RpcError {
    RpcError::invalid(format!("invalid {method} params: {text}"))
}

impl Issues {
    #[inline(never)]
    fn refusal(mut self, method: &str) -> RpcError {
        self.refusal.take().unwrap_or_else(|| refused(method, &self.text()))
    }
}

impl<T: Param> Param for Option<T> {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        T::read(value, path, issues).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl Param for String {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        match value {
            Value::String(text) => Some(text.clone()),
            _ => {
                issues.wrong(path, "must be string");
                None
            }
        }
    }
}

/// A string of at least one character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonEmpty(pub String);

impl Param for NonEmpty {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        text(value, path, issues, 1, usize::MAX).map(NonEmpty)
    }
}

/// A string of `MIN` to `MAX` characters (UTF-16 units are upstream's measure; characters are ours, never stricter).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<const MIN: usize, const MAX: usize>(pub String);

impl<const MIN: usize, const MAX: usize> Param for Text<MIN, MAX> {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        text(value, path, issues, MIN, MAX).map(Text)
    }
}

#[inline(never)]
fn text(value: &Value, path: &str, issues: &mut Issues, min: usize, max: usize) -> Option<String> {
    let text = String::read(value, path, issues)?;
    let n_chars = text.chars().count();
    let (which, bound) = match () {
        () if n_chars < min => ("fewer", min),
        () if n_chars > max => ("more", max),
        () => return Some(text),
    };
    issues.wrong(path, format!("must {} have {which} than {bound} characters", not(issues.protocol)));
    None
}

fn not(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::V3 => "NOT",
        Protocol::V4 => "not",
    }
}

impl Param for bool {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        value.as_bool().or_else(|| {
            issues.wrong(path, "must be boolean");
            None
        })
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Int<const MIN: i64, const MAX: i64>(pub i64);

impl<const MIN: i64, const MAX: i64> Param for Int<MIN, MAX> {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        int(value, path, issues, MIN, MAX).map(Int)
    }
}

#[inline(never)]
fn int(value: &Value, path: &str, issues: &mut Issues, min: i64, max: i64) -> Option<i64> {
    let whole =
        value.as_i64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.0e15).map(|f| f as i64));
    let why = match whole {
        None => "must be integer".to_owned(),
        Some(number) if number < min => format!("must be >= {min}"),
        Some(number) if number > max => format!("must be <= {max}"),
        Some(number) => return Some(number),
    };
    issues.wrong(path, why);
    None
}

/// A whole number of at least 0.
pub type Count = Int<0, { i64::MAX }>;
/// A whole number of at least 1.
pub type Positive = Int<1, { i64::MAX }>;

/// Any JSON value: the handler knows more about it than a type can say.
#[derive(Clone, Debug, PartialEq)]
pub struct Any(pub Value);

impl Param for Any {
    fn read(value: &Value, _path: &str, _issues: &mut Issues) -> Option<Self> {
        Some(Any(value.clone()))
    }
}

/// A JSON object with keys of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(pub Map<String, Value>);

impl Param for Object {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Object(map.clone())),
            _ => {
                issues.wrong(path, "must be object");
                None
            }
        }
    }
}

impl<T: Param> Param for Vec<T> {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let Value::Array(items) = value else {
            issues.wrong(path, "must be array");
            return None;
        };
        let mut out = Vec::with_capacity(items.len());
        let mut whole = true;
        for (idx, item) in items.iter().enumerate() {
            match T::read(item, &format!("{path}/{idx}"), issues) {
                Some(item) => out.push(item),
                None => whole = false,
            }
        }
        whole.then_some(out)
    }
}

/// A field that protocol 4 requires and protocol 3 does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredSince4<T>(pub Option<T>);

impl<T: Param> Param for RequiredSince4<T> {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        T::read(value, path, issues).map(|read| RequiredSince4(Some(read)))
    }

    fn absent_on(protocol: Protocol) -> Option<Self> {
        (protocol == Protocol::V3).then_some(RequiredSince4(None))
    }
}

/// An explicit `null` clears, an absent field keeps, a value sets.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Patch<T> {
    /// Not mentioned.
    #[default]
    Keep,
    /// `null`.
    Clear,
    /// A value.
    Set(T),
}

impl<T: Param> Param for Patch<T> {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        match value {
            Value::Null => Some(Patch::Clear),
            value => T::read(value, path, issues).map(Patch::Set),
        }
    }

    fn absent() -> Option<Self> {
        Some(Patch::Keep)
    }
}

/// A field that must be there and may be `null`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nullable<T>(pub Option<T>);

impl<T: Param> Param for Nullable<T> {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        match value {
            Value::Null => Some(Nullable(None)),
            value => T::read(value, path, issues).map(|read| Nullable(Some(read))),
        }
    }
}

/// Notes that `path` holds a value outside its enum, in the words of each protocol's validator.
pub fn not_allowed(path: &str, issues: &mut Issues) {
    match issues.protocol() {
        Protocol::V3 => {
            issues.wrong(path, "must be equal to constant");
            issues.wrong(path, "must match a schema in anyOf");
        }
        Protocol::V4 => issues.wrong(path, "must be equal to one of the allowed values"),
    }
}

/// Notes the keys that are no field: neither one of both protocols nor, on protocol 4, one of its own.
#[doc(hidden)]
pub fn look_for_unknown(object: &Map<String, Value>, path: &str, issues: &mut Issues, common: &[&str], only4: &[&str]) {
    for key in object.keys() {
        let known =
            |list: &[&str]| list.contains(&key.as_str()) || key.contains('_') && list.contains(&camel(key).as_str());
        let is_known = known(common) || issues.protocol() == Protocol::V4 && known(only4);
        if !is_known {
            issues.unexpected(path, key);
        }
    }
}

/// Which of an object's keys is the field `name`: its own spelling, else the snake_case of it.
#[doc(hidden)]
#[inline(never)]
pub fn find<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| object.iter().find(|(key, _)| key.contains('_') && camel(key) == name).map(|(_, v)| v))
}

/// `snake_case` as `snakeCase`.
#[doc(hidden)]
pub fn camel(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut up = false;
    for c in key.chars() {
        match c {
            '_' if !out.is_empty() => up = true,
            c if up => {
                out.extend(c.to_uppercase());
                up = false;
            }
            c => out.push(c),
        }
    }
    out
}

/// What [`params!`](crate::params) reads fields from: an object, where it stands, and what is wrong with it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: &'a str,
    issues: &'a mut Issues,
}

impl<'a> Fields<'a> {
    /// The fields of an object; those that are neither one of both protocols nor, on protocol 4, one of its own are noted.
    pub fn of(
        object: &'a Map<String, Value>,
        path: &'a str,
        issues: &'a mut Issues,
        common: &[&str],
        only4: &[&str],
    ) -> Fields<'a> {
        look_for_unknown(object, path, issues, common, only4);
        Fields { object, path, issues }
    }

    /// Reads one.
    #[inline(never)]
    pub fn read<T: Param>(&mut self, name: &str) -> Option<T> {
        match find(self.object, name) {
            Some(value) => T::read(value, &self.path_of(name), self.issues),
            None => T::absent_on(self.issues.protocol).or_else(|| {
                self.issues.missing(self.path, name);
                None
            }),
        }
    }

    /// Reads one of protocol 4; protocol 3 has none.
    #[inline(never)]
    pub fn read4<T: Param>(&mut self, name: &str) -> Option<T> {
        if self.issues.protocol == Protocol::V4 { self.read(name) } else { T::absent() }
    }

    #[inline(never)]
    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

/// Declares a set of parameters: the struct, its decoder and what is refused, in one list.
///
/// A field is `name: Type = "wireName"`; `Option<_>` and [`Patch`] are optional. Fields under `@v4 { … }` exist on
/// protocol 4 only: protocol 3 refuses them as unexpected, and reads them as absent.
#[macro_export]
macro_rules! params {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$fmeta:meta])* $field:ident : $type:ty = $wire:literal, )*
            $( @v4 { $( $(#[$f4meta:meta])* $field4:ident : $type4:ty = $wire4:literal, )* } )?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $type, )*
            $( $( $(#[$f4meta])* pub $field4: $type4, )* )?
        }

        impl $crate::protocol::params::Params for $name {
            fn read_fields(
                object: &serde_json::Map<String, serde_json::Value>,
                path: &str,
                issues: &mut $crate::protocol::params::Issues,
            ) -> Option<Self> {
                #[allow(unused_mut, unused_variables, reason = "of a type without fields none is read")]
                let mut fields = $crate::protocol::params::Fields::of(
                    object, path, issues, &[$($wire),*], &[$($($wire4),*)?],
                );
                // All of them are read, so that everything that is wrong is said; and taken together, for the same in
                // steps would be compiled into as many ways out as there are fields.
                match ( $( fields.read::<$type>($wire), )* $( $( fields.read4::<$type4>($wire4), )* )? ) {
                    ( $( Some($field), )* $( $( Some($field4), )* )? ) => {
                        Some($name { $( $field, )* $( $( $field4, )* )? })
                    }
                    #[allow(unreachable_patterns, reason = "a type without fields is always read")]
                    _ => None,
                }
            }
        }

        impl $crate::protocol::params::Param for $name {
            fn read(
                value: &serde_json::Value,
                path: &str,
                issues: &mut $crate::protocol::params::Issues,
            ) -> Option<Self> {
                match value {
                    serde_json::Value::Object(object) => {
                        <$name as $crate::protocol::params::Params>::read_fields(object, path, issues)
                    }
                    _ => {
                        issues.wrong(path, "must be object");
                        None
                    }
                }
            }
        }
    };
}

/// Declares a closed set of words a parameter may be.
#[macro_export]
macro_rules! words {
    ( $(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $word:literal ),* $(,)? } ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[$vmeta])* $variant ),* }

        impl $name {
            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word ),* }
            }

            /// The value of a word.
            pub fn parse(word: &str) -> Option<$name> {
                match word { $( $word => Some($name::$variant), )* _ => None }
            }
        }

        impl $crate::protocol::params::Param for $name {
            fn read(
                value: &serde_json::Value,
                path: &str,
                issues: &mut $crate::protocol::params::Issues,
            ) -> Option<Self> {
                let word = value.as_str().and_then($name::parse);
                if word.is_none() {
                    $crate::protocol::params::not_allowed(path, issues);
                }
                word
            }
        }
    };
}

crate::params! {
    /// No parameters at all.
    pub struct Nothing {}
}

/// Parameters of a method that upstream reads by hand and without refusing anything unknown.
#[derive(Debug, Clone)]
pub struct Loose(pub Map<String, Value>);

impl Params for Loose {
    fn read_fields(object: &Map<String, Value>, _path: &str, _issues: &mut Issues) -> Option<Self> {
        Some(Loose(object.clone()))
    }
}

#[cfg(test)]
#[expect(dead_code, unreachable_pub, reason = "the macros write more than the tests use")]
mod tests {
    use super::*;

    crate::params! {
        /// For the tests.
        pub struct Sample {
            session_key: NonEmpty = "sessionKey",
            limit: Option<Int<1, 1000>> = "limit",
            mode: Option<Mode> = "mode",
            @v4 { max_bytes: Option<Positive> = "maxBytes", }
        }
    }

    crate::words! {
        /// For the tests.
        pub enum Mode { Now = "now", Later = "later" }
    }

    #[track_caller]
    fn check(protocol: Protocol, raw: &str, expected: Result<(), &str>) {
        let got = decode::<Sample>("chat.history", Some(raw), protocol).map(|_| ()).map_err(|e| e.message);
        assert_eq!(got, expected.map_err(|text| format!("invalid chat.history params: {text}")));
    }

    #[test]
    fn says_what_is_wrong_in_upstreams_words() {
        use Protocol::{V3, V4};
        check(V3, r#"{"sessionKey":"main","limit":5}"#, Ok(()));
        check(V3, r#"{"session_key":"main"}"#, Ok(()));
        check(V3, "[]", Err("must be object"));
        check(V3, "{}", Err("must have required property 'sessionKey'"));
        check(V3, r#"{"sessionKey":""}"#, Err("at /sessionKey: must NOT have fewer than 1 characters"));
        check(V4, r#"{"sessionKey":""}"#, Err("at /sessionKey: must not have fewer than 1 characters"));
        check(V4, r#"{"sessionKey":"m","limit":0}"#, Err("at /limit: must be >= 1"));
        check(V4, r#"{"sessionKey":"m","limit":"x"}"#, Err("at /limit: must be integer"));
        check(V4, r#"{"sessionKey":"m","mode":"x"}"#, Err("at /mode: must be equal to one of the allowed values"));
        check(
            V3,
            r#"{"sessionKey":"m","mode":"x"}"#,
            Err("at /mode: must be equal to constant; at /mode: must match a schema in anyOf"),
        );
        check(V3, r#"{"zz":1}"#, Err("must have required property 'sessionKey'; at root: unexpected property 'zz'"));
    }

    #[test]
    fn a_field_of_protocol_4_is_unknown_to_protocol_3() {
        check(Protocol::V4, r#"{"sessionKey":"m","maxBytes":1}"#, Ok(()));
        check(Protocol::V3, r#"{"sessionKey":"m","maxBytes":1}"#, Err("at root: unexpected property 'maxBytes'"));
    }

    #[test]
    fn reports_a_bounded_number_of_problems() {
        let many: Vec<String> = (0..100).map(|i| format!("\"k{i}\":1")).collect();
        let raw = format!("{{\"sessionKey\":\"m\",{}}}", many.join(","));
        let error = decode::<Sample>("x", Some(&raw), Protocol::V4).unwrap_err();
        assert_eq!(error.message.matches("unexpected").count(), ISSUES_MAX);
    }
}
