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
use crate::config::secret::{self, PLACEHOLDER, Secret};
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
        Some(if text.starts_with(IN_MEMORY) { PathBuf::from(text) } else { self.place_of(&text) })
    }

    /// A list of paths, each as [`Reader::path`].
    pub(super) fn paths(&self, path: &str) -> Vec<PathBuf> {
        self.texts(path).iter().map(|text| self.place_of(text.trim())).collect()
    }

    fn place_of(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), self.cx.home) {
            (Some(rest), Some(home)) => home.join(rest),
            (None, Some(home)) if text == "~" => home.to_owned(),
            _ => self.cx.dir.join(text),
        }
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

    /// Where a secret is to be had from; nothing is fetched. Empty text is no secret.
    pub(super) fn secret_source(&self, path: &str) -> Option<secret::Source> {
        assert!(self.row(path).secret, "{path} is read as a secret, and its row is none");
        self.source_of(path, &self.value_of(path)?)
    }

    /// A map of secrets, by name.
    pub(super) fn secret_sources(&self, path: &str) -> Vec<(String, secret::Source)> {
        let row = self.row(&format!("{path}.*"));
        assert!(row.secret, "{path}.* are read as secrets, and their row is none");
        let source = |(name, value): (String, Value)| {
            let source = self.source_of(&format!("{path}.{name}"), &value)?;
            Some((name, source))
        };
        self.values(path).into_iter().filter_map(source).collect()
    }

    /// Lists of secrets, by name.
    pub(super) fn secret_lists(&self, path: &str) -> Vec<(String, Vec<secret::Source>)> {
        let sources = |(name, value): (String, Value)| {
            let items = value.as_array().cloned().unwrap_or_default();
            let source = |item: &Value| self.source_of(&format!("{path}.{name}"), item);
            (name.clone(), items.iter().filter_map(source).collect())
        };
        self.values(path).into_iter().map(sources).collect()
    }

    fn source_of(&self, path: &str, value: &Value) -> Option<secret::Source> {
        let Some(text) = value.as_str().map(str::trim) else {
            let text = |name: &str| value[name].as_str().map(str::to_owned);
            let (source, id) = (text("source").unwrap_or_default(), text("id").unwrap_or_default());
            if id.is_empty() {
                self.issue(path, "a secret reference needs source and id".to_owned());
                return None;
            }
            return Some(match source.as_str() {
                "env" => secret::Source::Variable(id),
                _ => secret::Source::Referred { source, provider: text("provider"), id },
            });
        };
        if text == PLACEHOLDER {
            self.issue(path, "holds the placeholder that stands in for a secret, not a secret".to_owned());
            return None;
        }
        match reference_name(text).or_else(|| expand::is_reference(text).then(|| &text[2..text.len() - 1])) {
            Some(name) => Some(secret::Source::Variable(name.to_owned())),
            None => (!text.is_empty()).then(|| secret::Source::Written(Secret::new(text))),
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

    /// Whether an environment variable is set, and not to nothing.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.cx.env.get(name).is_some_and(|value| !value.trim().is_empty())
    }

    /// An object as it is written.
    pub(super) fn object(&self, path: &str) -> serde_json::Map<String, Value> {
        self.value_of(path).and_then(|value| value.as_object().cloned()).unwrap_or_default()
    }

    /// Text as it stands, blanks included.
    pub(super) fn text_untrimmed(&self, path: &str) -> Option<String> {
        self.value_of(path)?.as_str().map(str::to_owned)
    }

    /// A number.
    ///
    /// # Panics
    /// On a row without default: such a number is read by [`Reader::number_if_set`].
    pub(super) fn number(&self, path: &str) -> f64 {
        self.number_if_set(path).expect("the row has a default")
    }

    pub(super) fn number_if_set(&self, path: &str) -> Option<f64> {
        self.value_of(path)?.as_f64()
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

    /// Where it is, as issues name it.
    pub(super) fn place(&self) -> &str {
        &self.place
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
