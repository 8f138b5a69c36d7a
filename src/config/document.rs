//! One document, from text to settings.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::environment::Overrides;
use super::expand::{self, Env};
use super::include::{self, ReadFile};
use super::secret::Secret;
use super::settings::Settings;
use super::validate::{self, Unknown};
use super::{Issue, json5, settings, spelling};
use crate::runtime::digest::sha256_hex;

/// The two languages a document is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Toml,
    Json5,
}

impl Format {
    /// By extension, else by the first character that is not blank: JSON5 starts with a brace or a comment.
    pub fn of(path: &Path, text: &str) -> Format {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Format::Toml,
            Some("json" | "json5") => Format::Json5,
            _ if text.trim_start().starts_with(['{', '/']) => Format::Json5,
            _ => Format::Toml,
        }
    }
}

/// Where and why text is not in its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub format: Format,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.format {
            Format::Toml => "TOML",
            Format::Json5 => "JSON5",
        };
        write!(f, "{name}: {} at {}:{}", self.message, self.line, self.column)
    }
}

/// Reads text into a value. TOML's times become text.
///
/// # Errors
/// The first place that is wrong.
pub fn parse(text: &str, format: Format) -> Result<Value, ParseError> {
    match format {
        Format::Json5 => json5::value(text).map_err(|error| ParseError {
            format,
            line: error.line,
            column: error.column,
            message: error.message,
        }),
        Format::Toml => match text.parse::<toml_edit::Document<String>>() {
            Ok(document) => Ok(toml_table(document.as_table())),
            Err(error) => {
                let offset = error.span().map_or(0, |span| span.start);
                let before = &text[..offset.min(text.len())];
                let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
                Err(ParseError {
                    format,
                    line: before.matches('\n').count() + 1,
                    column: before[line_start..].chars().count() + 1,
                    message: error.message().replace('\n', ", "),
                })
            }
        },
    }
}

fn toml_table(table: &dyn toml_edit::TableLike) -> Value {
    Value::Object(table.iter().map(|(key, item)| (key.to_owned(), toml_item(item))).collect())
}

pub(super) fn toml_item(item: &toml_edit::Item) -> Value {
    match item {
        toml_edit::Item::None => Value::Null,
        toml_edit::Item::Value(value) => toml_value(value),
        toml_edit::Item::Table(table) => toml_table(table),
        toml_edit::Item::ArrayOfTables(tables) => Value::Array(tables.iter().map(|table| toml_table(table)).collect()),
    }
}

pub(super) fn toml_value(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::String(text.value().clone()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(flag) => Value::Bool(*flag.value()),
        toml_edit::Value::Datetime(time) => Value::String(time.value().to_string()),
        toml_edit::Value::Array(items) => Value::Array(items.iter().map(toml_value).collect()),
        toml_edit::Value::InlineTable(table) => toml_table(table),
    }
}

/// SHA-256 of the stored text in hexadecimal; of nothing, when there is no file.
pub fn hash(raw: &str) -> String {
    sha256_hex(raw.as_bytes())
}

/// What a document is read with, the same for a reload and an edit as for the start.
#[derive(Debug)]
pub struct Context {
    /// Environment of the process, and of `.env` files for what it lacks.
    pub env: EnvHidden,
    /// From the command line.
    pub overrides: Overrides,
    /// Where state lives.
    pub state_dir: PathBuf,
    /// What `~` means.
    pub home: Option<PathBuf>,
    /// This machine's address in its tailnet, while it has one.
    pub tailnet: Option<IpAddr>,
    /// The token made on first start, once there is one.
    pub generated_token: Option<Secret>,
}

/// An environment whose values do not show in `Debug`.
#[derive(Clone, Default)]
pub struct EnvHidden(pub Env);

impl fmt::Debug for EnvHidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} variables", self.0.len())
    }
}

/// What was found on disk.
pub struct Source {
    pub path: PathBuf,
    /// `None`: there is no file.
    pub raw: Option<String>,
}

/// A document, usable or not.
#[derive(Clone)]
pub struct Document {
    /// The file, there or not; where edits are written.
    pub path: PathBuf,
    pub format: Format,
    /// The text; `None` when there is no file.
    pub raw: Option<String>,
    /// Of the text.
    pub hash: String,
    /// As written: no includes put in, no variables filled in, no key respelled. `None` when it is not in its format.
    pub parsed: Option<Value>,
    /// Canonical spelling, `${VAR}` and `$include` as written.
    pub spelled: Value,
    /// Includes put in, canonical spelling, `${VAR}` as written.
    pub written: Value,
    /// Includes put in, canonical spelling, variables filled in. Defaults and overrides are not in it.
    pub config: Value,
    /// Files drawn in.
    pub included: Vec<PathBuf>,
    /// What makes it unusable.
    pub issues: Vec<Issue>,
    /// What the user should know.
    pub warnings: Vec<Issue>,
    /// Keys that no row names.
    pub unknown: Vec<Unknown>,
    /// The settings, when it is usable.
    pub settings: Option<Arc<Settings>>,
    pub(super) context: Arc<Context>,
}

impl fmt::Debug for Document {
    /// Holds secrets in five forms: shows none of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("path", &self.path)
            .field("hash", &self.hash)
            .field("n_issues", &self.issues.len())
            .field("n_warnings", &self.warnings.len())
            .finish_non_exhaustive()
    }
}

impl Document {
    /// Whether there is a file.
    pub fn exists(&self) -> bool {
        self.raw.is_some()
    }

    /// Whether it can be used.
    pub fn is_valid(&self) -> bool {
        self.settings.is_some()
    }

    /// The directory that relative paths and includes start from.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Every file it was read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.path.as_path()).chain(self.included.iter().map(PathBuf::as_path))
    }

    /// The environment that `${VAR}` in it sees: the process, then its own `env` section for what is unset.
    pub fn env(&self) -> Env {
        env_with_own(&self.context.env.0, &self.written)
    }
}

/// Reads a document all the way. Never fails: what is wrong is in [`Document::issues`].
pub fn evaluate(source: Source, context: Arc<Context>, read: &ReadFile<'_>) -> Document {
    let text = source.raw.as_deref().unwrap_or("");
    let format = Format::of(&source.path, text);
    let mut document = Document {
        format,
        hash: hash(text),
        parsed: None,
        spelled: Value::Object(Map::new()),
        written: Value::Object(Map::new()),
        config: Value::Object(Map::new()),
        included: Vec::new(),
        issues: Vec::new(),
        warnings: Vec::new(),
        unknown: Vec::new(),
        settings: None,
        path: source.path,
        raw: source.raw,
        context,
    };
    let parsed = match &document.raw {
        None => Ok(Value::Object(Map::new())),
        Some(text) if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        Some(text) => parse(text, format),
    };
    match parsed {
        Err(error) => document.issues.push(Issue::new("", error.to_string())),
        Ok(parsed) => {
            let spelled = spelling::canonical(&parsed);
            document.parsed = Some(parsed);
            document.spelled = spelled.value;
            resolve(&mut document, read);
        }
    }
    document
}

/// The steps from `spelled` to settings, used again for a document that an edit has not written yet.
pub(super) fn resolve(document: &mut Document, read: &ReadFile<'_>) {
    // Spelled again after the includes: the files drawn in have spellings of their own.
    let included = include::resolve(&document.spelled, document.dir(), read);
    let spelled = spelling::canonical(&included.value);
    document.issues.extend(included.issues);
    document.issues.extend(spelled.issues);
    document.included = included.files;
    document.written = spelled.value;
    let env = document.env();
    match expand::document(&document.written, &env) {
        Ok(config) => document.config = config,
        Err(issues) => {
            document.issues.extend(issues);
            document.config = document.written.clone();
        }
    }
    let findings = validate::check(&document.config);
    document.issues.extend(findings.issues);
    document.warnings.extend(findings.unknown.iter().map(Unknown::warning));
    document.unknown = findings.unknown;
    if !document.issues.is_empty() {
        return;
    }
    match settings::build(&document.config, document.dir(), &document.context, &env) {
        Ok(built) => {
            document.warnings.extend(built.warnings);
            document.settings = Some(Arc::new(built.settings));
        }
        Err(issues) => document.issues = issues,
    }
}

/// The process's environment with the document's own variables for what is unset.
fn env_with_own(process: &Env, written: &Value) -> Env {
    let mut env = process.clone();
    let Some(section) = written.get("env").and_then(Value::as_object) else { return env };
    let direct = section.iter().filter(|(key, _)| *key != "vars" && *key != "shellEnv");
    let vars = section.get("vars").and_then(Value::as_object).into_iter().flatten();
    for (name, value) in vars.chain(direct) {
        let Some(text) = value.as_str() else { continue };
        if env.get(name).is_none_or(String::is_empty)
            && let Ok(value) = expand::text(text, process)
        {
            env.insert(name.clone(), value);
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn broken(text: &str, format: Format, line: usize, column: usize) {
        let error = parse(text, format).unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{error}");
    }

    #[test]
    fn mistakes_have_line_and_column() {
        broken("{\n  gateway: {\n    port: ,\n  }\n}", Format::Json5, 3, 11);
        broken("{\n  'gateway': 1\n  x: 2\n}", Format::Json5, 3, 3);
        broken("[gateway]\nport = \n", Format::Toml, 2, 8);
        broken("[gateway]\nport = 1\nport = 2\n", Format::Toml, 3, 1);
        broken("[gateway\n", Format::Toml, 1, 9);
    }

    #[test]
    fn the_format_follows_the_extension_else_the_first_character() {
        let of = |path: &str, text: &str| Format::of(Path::new(path), text);
        assert_eq!(of("a.toml", "{"), Format::Toml);
        assert_eq!(of("a.json", "x = 1"), Format::Json5);
        assert_eq!(of("a.conf", "  \n{ a: 1 }"), Format::Json5);
        assert_eq!(of("a.conf", "// hi\n{}"), Format::Json5);
        assert_eq!(of("a", "[gateway]"), Format::Toml);
        assert_eq!(of("a", "# hi"), Format::Toml);
    }

    #[test]
    fn toml_says_the_same_as_json5() {
        let toml = "when = 2026-01-02T03:04:05Z\n[gateway]\nport = 1\nratio = 0.5\n[[agents.list]]\nid = 'a'\n[x]\ny = { z = [1, 'b', true] }\n";
        assert_eq!(
            parse(toml, Format::Toml).unwrap(),
            json!({
                "when": "2026-01-02T03:04:05Z",
                "gateway": { "port": 1, "ratio": 0.5 },
                "agents": { "list": [{ "id": "a" }] },
                "x": { "y": { "z": [1, "b", true] } },
            })
        );
    }

    #[test]
    fn the_hash_is_sha_256_of_the_text() {
        assert_eq!(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_ne!(hash("{}"), hash("{ }"));
    }
}
