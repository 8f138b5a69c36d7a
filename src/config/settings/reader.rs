//! Typed reading of the layered document, key by key, through the rows.
//!
//! A key is named once, by its row's path; default, floor and kind come from the row. Reading a key without a row is
//! a mistake in this program and panics; a test compares what is read with what the rows say is read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::config::environment::{Layered, Origin};
use crate::config::expand::{self, Env};
use crate::config::schema::{self, Kind, Row, Unit};
use crate::config::secret::{PLACEHOLDER, Secret};
use crate::config::{Issue, duration};

/// Prefix of a path that is no file.
const IN_MEMORY: &str = "memory://";

/// What reading needs beside the document.
pub(super) struct ReadContext<'a> {
    pub(super) layered: &'a Layered,
    pub(super) env: &'a Env,
    /// Directory of the config file.
    pub(super) dir: &'a Path,
    pub(super) home: Option<&'a Path>,
    pub(super) issues: RefCell<Vec<Issue>>,
    /// Paths that were asked for, for the test that compares them with the rows.
    pub(super) seen: RefCell<BTreeSet<String>>,
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SecretSource {
    /// It is written in the document.
    Document,
    /// It is in this environment variable.
    Variable(String),
}

/// A place in the document, to read keys below it.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    cx: &'a ReadContext<'a>,
    value: Option<&'a Value>,
    /// Path as rows write it.
    spec: String,
    /// Path as it is, for issues.
    place: String,
}

impl<'a> Reader<'a> {
    /// At the document.
    pub(super) fn new(cx: &'a ReadContext<'a>) -> Reader<'a> {
        Reader { cx, value: Some(&cx.layered.value), spec: String::new(), place: String::new() }
    }

    /// At an object below, whether it is there or not.
    pub(super) fn at(&self, path: &str) -> Reader<'a> {
        Reader { cx: self.cx, value: self.raw(path), spec: join(&self.spec, path), place: join(&self.place, path) }
    }

    /// Whether a key is written anywhere.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.row(path);
        self.raw(path).is_some()
    }

    pub(super) fn flag(&self, path: &str) -> bool {
        self.value_of(path).as_ref().and_then(Value::as_bool).unwrap_or(false)
    }

    /// A flag that may be left out to mean something of its own.
    pub(super) fn flag_if_set(&self, path: &str) -> Option<bool> {
        self.is_set(path).then(|| self.flag(path))
    }

    /// A whole number, raised to the row's floor.
    ///
    /// # Panics
    /// On a row without default: such a number is read by [`Reader::int_if_set`].
    pub(super) fn int(&self, path: &str) -> i64 {
        self.int_if_set(path).expect("the row has a default")
    }

    pub(super) fn int_if_set(&self, path: &str) -> Option<i64> {
        let number = self.value_of(path)?;
        let number = number.as_i64().or_else(|| number.as_f64().map(|float| float as i64))?;
        Some(self.row(path).floor.map_or(number, |floor| number.max(floor)))
    }

    pub(super) fn usize(&self, path: &str) -> usize {
        usize::try_from(self.int(path)).unwrap_or(usize::MAX)
    }

    /// A number of milliseconds, or of seconds, as a duration.
    pub(super) fn ms(&self, path: &str) -> Duration {
        clamp(Duration::from_millis(u64::try_from(self.int(path)).unwrap_or(0)))
    }

    pub(super) fn secs(&self, path: &str) -> Duration {
        clamp(Duration::from_secs(u64::try_from(self.int(path)).unwrap_or(0)))
    }

    /// A [`Kind::Duration`] key, and its text.
    pub(super) fn duration(&self, path: &str) -> (Duration, String) {
        let unit = match self.row(path).kind {
            Kind::Duration(unit) | Kind::DurationOrOff(unit) => unit,
            _ => Unit::Milliseconds,
        };
        let value = self.value_of(path).expect("the row has a default");
        let read = duration::of_value(&value, unit).expect("validated");
        let text = match value {
            Value::String(text) => text,
            _ => format!("{}ms", read.as_millis()),
        };
        (read, text)
    }

    /// Text, trimmed; empty text is no text.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let value = self.value_of(path)?;
        let text = value.as_str()?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Text of a key with a default.
    pub(super) fn text_or_default(&self, path: &str) -> String {
        self.text(path).or_else(|| self.row(path).default_value()?.as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub(super) fn texts(&self, path: &str) -> Vec<String> {
        let value = self.value_of(path);
        let items = value.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    pub(super) fn texts_if_set(&self, path: &str) -> Option<Vec<String>> {
        self.is_set(path).then(|| self.texts(path))
    }

    /// A path, from the config file's directory and with `~` filled in.
    pub(super) fn path(&self, path: &str) -> Option<PathBuf> {
        let text = self.text(path)?;
        if text.starts_with(IN_MEMORY) {
            return Some(PathBuf::from(text));
        }
        Some(match (text.strip_prefix("~/"), self.cx.home) {
            (Some(rest), Some(home)) => home.join(rest),
            (None, Some(home)) if text == "~" => home.to_owned(),
            _ => self.cx.dir.join(text),
        })
    }

    /// A secret: text, or a reference to a variable. Empty text is no secret.
    pub(super) fn secret(&self, path: &str) -> Option<Secret> {
        assert!(self.row(path).secret, "{path} is read as a secret, and its row is none");
        let value = self.value_of(path)?;
        let is_literal = self.cx.layered.origin(&join(&self.spec, path)).is_some_and(|o| o != Origin::Document);
        let text = match &value {
            Value::String(text) => text.trim(),
            reference => return self.referred(path, reference),
        };
        if text == PLACEHOLDER {
            self.issue(path, "holds the placeholder that stands in for a secret, not a secret".to_owned());
            return None;
        }
        match reference_name(text) {
            Some(name) if !is_literal => self.variable(path, name),
            _ => (!text.is_empty()).then(|| Secret::new(text)),
        }
    }

    /// Where a secret would come from; `None` where there is none to be had. For what a gateway runs without: unlike
    /// [`Reader::secret`], a missing variable is no reason to refuse the document.
    pub(super) fn secret_source(&self, path: &str) -> Option<SecretSource> {
        assert!(self.row(path).secret, "{path} is read as a secret, and its row is none");
        let named = |name: &str| {
            let is_set = self.cx.env.get(name).is_some_and(|value| !value.trim().is_empty());
            is_set.then(|| SecretSource::Variable(name.to_owned()))
        };
        match self.value_of(path)? {
            Value::String(text) => {
                let text = text.trim();
                match reference_name(text) {
                    Some(name) => named(name),
                    None => (!text.is_empty() && text != PLACEHOLDER).then_some(SecretSource::Document),
                }
            }
            reference if reference["source"] == "env" => named(reference["id"].as_str()?),
            // Other sources are not built, so what they hold cannot be had.
            _ => None,
        }
    }

    /// A secret from `{source, id}`.
    fn referred(&self, path: &str, reference: &Value) -> Option<Secret> {
        match (reference["source"].as_str(), reference["id"].as_str()) {
            (Some("env"), Some(name)) => self.variable(path, name),
            (source, _) => {
                let source = source.unwrap_or_default();
                self.issue(path, format!("secret source `{source}` is not built yet; use `env`"));
                None
            }
        }
    }

    fn variable(&self, path: &str, name: &str) -> Option<Secret> {
        let value = self.cx.env.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        if value.is_none() {
            self.issue(path, format!("environment variable {name} is missing or empty"));
        }
        value.map(Secret::new)
    }

    /// The elements of a list.
    pub(super) fn each(&self, path: &str) -> Vec<Reader<'a>> {
        self.row(path);
        let items = self.raw(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let reader = |(idx, value)| Reader {
            cx: self.cx,
            value: Some(value),
            spec: format!("{}[]", join(&self.spec, path)),
            place: format!("{}.{idx}", join(&self.place, path)),
        };
        items.iter().enumerate().map(reader).collect()
    }

    /// The entries of a map; the row's default when it is not written.
    pub(super) fn entries(&self, path: &str) -> Vec<(String, Reader<'a>)> {
        self.row(path);
        let members = self.raw(path).and_then(Value::as_object).into_iter().flatten();
        let reader = |(key, value): (&'a String, &'a Value)| {
            let reader = Reader {
                cx: self.cx,
                value: Some(value),
                spec: format!("{}.*", join(&self.spec, path)),
                place: format!("{}.{key}", join(&self.place, path)),
            };
            (key.clone(), reader)
        };
        members.map(reader).collect()
    }

    /// A map of plain values, or the row's default map.
    pub(super) fn values(&self, path: &str) -> Vec<(String, Value)> {
        self.row(path);
        self.row(&format!("{path}.*"));
        let value = self.raw(path).cloned().or_else(|| self.row(path).default_value());
        let members = value.and_then(|value| value.as_object().cloned()).unwrap_or_default();
        members.into_iter().collect()
    }

    pub(super) fn issue(&self, path: &str, message: String) {
        self.cx.issues.borrow_mut().push(Issue::new(join(&self.place, path), message));
    }

    /// What is written, or the default.
    fn value_of(&self, path: &str) -> Option<Value> {
        let row = self.row(path);
        match self.raw(path) {
            Some(value) => Some(value.clone()),
            None => row.default_value(),
        }
    }

    fn raw(&self, path: &str) -> Option<&'a Value> {
        path.split('.').try_fold(self.value?, |value, key| value.as_object()?.get(key))
    }

    fn row(&self, path: &str) -> &'static Row {
        let spec = join(&self.spec, path);
        let row = schema::row_at(&spec);
        let row = row.unwrap_or_else(|| panic!("{spec} is read and has no row"));
        self.cx.seen.borrow_mut().insert(spec);
        row
    }
}

/// The variable that secret text names: `env:NAME`, `shell env:NAME`, or a bare `UPPER_SNAKE` name.
fn reference_name(text: &str) -> Option<&str> {
    let prefixed = text.strip_prefix("shell env:").or_else(|| text.strip_prefix("env:")).map(str::trim);
    match prefixed {
        Some(name) => expand::is_name(name).then_some(name),
        None => (text.contains('_') && text.contains(|c: char| c.is_ascii_uppercase()) && expand::is_name(text))
            .then_some(text),
    }
}

fn join(base: &str, path: &str) -> String {
    if base.is_empty() { path.to_owned() } else { format!("{base}.{path}") }
}

/// No duration of ours is longer than [`duration::DURATION_MAX`].
fn clamp(read: Duration) -> Duration {
    read.min(duration::DURATION_MAX)
}
