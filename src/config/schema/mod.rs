//! One table of rows: every configuration key this build reads, keeps for upstream's tools, or knows by another name.
//!
//! A row says path, type, default, range, environment names, reload class, secrecy and whether this build reads the
//! key at all. Everything else is derived: defaults ([`Row::default_value`]), spelling and aliases
//! ([`super::spelling`]), validation ([`super::validate`]), redaction ([`super::redact`]), the JSON Schema and
//! `config.schema.lookup` ([`json_schema`]), and the reference page ([`mod@reference`]). A key is added by adding a row.
//!
//! Paths are dotted; `*` stands for a key that the user chooses, `[]` for an element of a list.
//! Follows `config.md` (keys, defaults, limits) and upstream's `openclaw.json`.

use std::sync::LazyLock;

use serde_json::Value;

pub mod json_schema;
pub mod reference;
pub mod rows;
pub mod tree;

use tree::Tree;

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number, inclusive range.
    Int { min: i64, max: i64 },
    /// A number, inclusive range.
    Number { min: f64, max: f64 },
    /// Text of at most this many characters.
    Text { chars_max: usize },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true`, `false` or one of these words.
    BoolOr(&'static [&'static str]),
    /// A list of at most `items_max` texts.
    Texts { items_max: usize },
    /// A list of ids: texts or whole numbers.
    Ids,
    /// A list of regular expressions, each compiled within [`super::rules::REGEX_BYTES_MAX`].
    Regexes,
    /// A list of addresses or `address/prefix` ranges.
    Ranges,
    /// A number in the unit the key names, or text such as `30s`.
    Duration(Unit),
    /// As [`Kind::Duration`], or `false`.
    DurationOrOff(Unit),
    /// A number of bytes, or text such as `10mb`.
    Size,
    /// A URL with one of these schemes.
    Url(&'static [&'static str]),
    /// A file or directory; relative ones are taken from the config file's directory, `~` is the home directory.
    Path,
    /// `host:port`.
    Address,
    /// SHA-256 as 64 hexadecimal digits.
    Digest,
    /// `#RRGGBB`.
    Color,
    /// An object with the keys that rows below it name, and no others.
    Table,
    /// An object with the keys that rows below it name; other keys are kept without a word.
    Open,
    /// An object whose keys the user chooses (`*` rows below it).
    Map,
    /// A list whose elements have rows of their own (`[]` rows below it).
    List,
    /// Text, or an object with the keys that rows below it name.
    TextOrTable,
    /// Anything.
    Any,
}

/// The unit of a plain number in a [`Kind::Duration`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Milliseconds,
    Minutes,
    Hours,
}

/// What a change of the key takes to come into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reload {
    /// `L`: at once.
    Live,
    /// `C`: for new connections or new runs.
    NewOnly,
    /// `A`: restarts the affected account or runtime.
    Account,
    /// `S`: restarts the process.
    Restart,
}

impl Reload {
    /// The letter of `config.md`.
    pub fn letter(self) -> char {
        match self {
            Reload::Live => 'L',
            Reload::NewOnly => 'C',
            Reload::Account => 'A',
            Reload::Restart => 'S',
        }
    }
}

/// Whether this build does anything with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// It does: [`super::settings::Settings`] or the loader reads it.
    Now,
    /// It is accepted, validated, redacted and written back, and has no effect yet.
    Kept,
}

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Canonical dotted path.
    pub path: &'static str,
    /// Other full paths that mean the same key.
    pub aliases: &'static [&'static str],
    /// What values it takes.
    pub kind: Kind,
    /// Default as JSON text; empty: none.
    pub default: &'static str,
    /// What stands in for a default that is not a constant, for the reference page.
    pub otherwise: &'static str,
    /// Environment variables that override it, strongest first.
    pub env: &'static [&'static str],
    /// Smaller numbers from the environment are raised to this.
    pub env_min: Option<i64>,
    /// Smaller numbers, wherever from, take effect as this.
    pub floor: Option<i64>,
    /// What a change takes.
    pub reload: Reload,
    /// Whether the value leaves the process only as a placeholder.
    pub secret: bool,
    /// Whether this build reads it.
    pub read: Read,
    /// Whether forms show it without being asked for advanced keys.
    pub basic: bool,
    /// Label in forms; empty: made from the path.
    pub label: &'static str,
    /// One or two sentences.
    pub doc: &'static str,
}

/// No upper bound that anyone would reach.
pub const ANY_INT: i64 = i64::MAX;
/// Longest text of a key without a limit of its own, in characters.
pub const TEXT_CHARS_MAX: usize = 64 * 1024;
/// Most elements of a list of texts without a limit of its own.
pub const TEXTS_MAX: usize = 4096;
/// Longest path, in characters.
pub const PATH_CHARS_MAX: usize = 2048;

/// A row of `kind`; builders below fill in the rest.
pub const fn row(path: &'static str, kind: Kind) -> Row {
    Row {
        path,
        aliases: &[],
        kind,
        default: "",
        otherwise: "",
        env: &[],
        env_min: None,
        floor: None,
        reload: Reload::Live,
        secret: false,
        read: Read::Kept,
        basic: false,
        label: "",
        doc: "",
    }
}

/// A yes-or-no key.
pub const fn flag(path: &'static str) -> Row {
    row(path, Kind::Bool)
}

/// A whole-number key.
pub const fn int(path: &'static str, min: i64, max: i64) -> Row {
    row(path, Kind::Int { min, max })
}

/// A number key.
pub const fn number(path: &'static str, min: f64, max: f64) -> Row {
    row(path, Kind::Number { min, max })
}

/// A text key.
pub const fn text(path: &'static str) -> Row {
    row(path, Kind::Text { chars_max: TEXT_CHARS_MAX })
}

/// A secret text key.
pub const fn secret(path: &'static str) -> Row {
    text(path).hidden()
}

/// A key that takes one of `words`.
pub const fn choice(path: &'static str, words: &'static [&'static str]) -> Row {
    row(path, Kind::Choice(words))
}

/// A list of texts.
pub const fn texts(path: &'static str) -> Row {
    row(path, Kind::Texts { items_max: TEXTS_MAX })
}

/// A path key.
pub const fn path(path: &'static str) -> Row {
    row(path, Kind::Path)
}

/// A closed object.
pub const fn table(path: &'static str) -> Row {
    row(path, Kind::Table)
}

/// An object that keeps keys nobody named.
pub const fn open(path: &'static str) -> Row {
    row(path, Kind::Open)
}

/// An object with keys of the user's choice.
pub const fn map(path: &'static str) -> Row {
    row(path, Kind::Map)
}

/// A list of objects.
pub const fn list(path: &'static str) -> Row {
    row(path, Kind::List)
}

/// A key that takes anything.
pub const fn any(path: &'static str) -> Row {
    row(path, Kind::Any)
}

impl Row {
    /// Sets the default, as JSON text.
    pub const fn or(self, json: &'static str) -> Row {
        Row { default: json, ..self }
    }

    /// Says what holds when the key is absent and that is no constant.
    pub const fn otherwise(self, words: &'static str) -> Row {
        Row { otherwise: words, ..self }
    }

    /// Names the same key elsewhere.
    pub const fn alias(self, aliases: &'static [&'static str]) -> Row {
        Row { aliases, ..self }
    }

    /// Names environment overrides, strongest first.
    pub const fn env(self, env: &'static [&'static str]) -> Row {
        Row { env, ..self }
    }

    /// Raises smaller numbers from the environment to `min`.
    pub const fn env_min(self, min: i64) -> Row {
        Row { env_min: Some(min), ..self }
    }

    /// Lets smaller numbers take effect as `min`.
    pub const fn floor(self, min: i64) -> Row {
        Row { floor: Some(min), ..self }
    }

    /// Class `C`.
    pub const fn new_only(self) -> Row {
        Row { reload: Reload::NewOnly, ..self }
    }

    /// Class `A`.
    pub const fn account(self) -> Row {
        Row { reload: Reload::Account, ..self }
    }

    /// Class `S`.
    pub const fn restart(self) -> Row {
        Row { reload: Reload::Restart, ..self }
    }

    /// Redacted on every way out.
    pub const fn hidden(self) -> Row {
        Row { secret: true, ..self }
    }

    /// Read by this build.
    pub const fn now(self) -> Row {
        Row { read: Read::Now, ..self }
    }

    /// Shown in forms at once.
    pub const fn basic(self) -> Row {
        Row { basic: true, ..self }
    }

    /// Sets the label in forms.
    pub const fn label(self, label: &'static str) -> Row {
        Row { label, ..self }
    }

    /// Limits a text's length.
    pub const fn chars(self, chars_max: usize) -> Row {
        Row { kind: Kind::Text { chars_max }, ..self }
    }

    /// Sets the description.
    pub const fn doc(self, doc: &'static str) -> Row {
        Row { doc, ..self }
    }

    /// The default, `None` when there is none.
    ///
    /// # Panics
    /// On a default that is not JSON: a mistake in the table, held by a test.
    pub fn default_value(&self) -> Option<Value> {
        if self.default.is_empty() {
            return None;
        }
        Some(serde_json::from_str(self.default).expect("defaults in rows are JSON"))
    }
}

/// Every row, section by section.
pub fn all() -> impl Iterator<Item = &'static Row> {
    rows::SECTIONS.iter().flat_map(|section| section.rows.iter())
}

/// The rows as a tree, built once.
pub fn tree() -> &'static Tree {
    static TREE: LazyLock<Tree> = LazyLock::new(Tree::build);
    &TREE
}

/// The row with this canonical path.
pub fn row_at(path: &str) -> Option<&'static Row> {
    let tree = tree();
    tree.at(path).and_then(|id| tree.node(id).row)
}

/// `a_key` and `aKey` are one key: the camelCase form of either.
pub fn fold(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut raise = false;
    for c in key.chars() {
        match c {
            '_' if !out.is_empty() => raise = true,
            c if raise && c.is_ascii_lowercase() => {
                out.push(c.to_ascii_uppercase());
                raise = false;
            }
            c => {
                if raise && !c.is_ascii_digit() {
                    out.push('_');
                }
                out.push(c);
                raise = false;
            }
        }
    }
    if raise {
        out.push('_');
    }
    out
}

/// The parts of a row's path: `agents.list[].id` is `agents`, `list`, `[]`, `id`.
pub fn parts(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('.').flat_map(|part| match part.strip_suffix("[]") {
        Some(name) => [Some(name), Some("[]")].into_iter().flatten(),
        None => [Some(part), None].into_iter().flatten(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn both_spellings_fold_to_one() {
        for (a, b) in [("http_bind", "httpBind"), ("max_connections", "maxConnections"), ("ipv_4", "ipv4")] {
            assert_eq!(fold(a), fold(b), "{a} {b}");
        }
        assert_ne!(fold("OPENAI_API_KEY"), fold("OPENAIAPIKEY"), "names in capitals are no snake_case keys");
        assert_eq!(fold("_x"), "_x");
    }

    #[test]
    fn paths_and_aliases_are_unique_and_say_something() {
        let mut seen = HashSet::new();
        let mut n_rows = 0;
        for row in all() {
            n_rows += 1;
            assert!(seen.insert(row.path), "{} twice", row.path);
            assert!(!row.doc.is_empty(), "{} has no description", row.path);
            for alias in row.aliases {
                assert!(seen.insert(alias), "{alias} twice");
            }
        }
        assert!(n_rows > 300, "only {n_rows} rows");
    }

    #[test]
    fn defaults_pass_their_own_checks() {
        let mut n_defaults = 0;
        for row in all() {
            let Some(default) = row.default_value() else { continue };
            n_defaults += 1;
            assert_eq!(crate::config::validate::check_kind(&row.kind, &default), Ok(()), "{}", row.path);
        }
        assert!(n_defaults > 100, "only {n_defaults} defaults");
    }

    #[test]
    fn our_environment_names_come_before_upstreams() {
        for row in all() {
            let first_upstream = row.env.iter().position(|name| !name.starts_with("OPENCLAW_RS_"));
            let last_ours = row.env.iter().rposition(|name| name.starts_with("OPENCLAW_RS_"));
            if let (Some(upstream), Some(ours)) = (first_upstream, last_ours) {
                assert!(ours < upstream, "{}", row.path);
            }
        }
    }
}
