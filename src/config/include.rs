//! `$include`: parts of the document in files of their own.
//!
//! `{ "$include": "./agents.json5" }` is replaced by that file; with a list the files are merged in order; keys beside
//! `$include` win over what the files say. Files lie inside the config directory, links followed, and nest at most
//! [`DEPTH_MAX`] deep.

use std::cell::RefCell;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::Issue;
use super::document::{self, Format};
use super::json5;
use super::path::KeyPath;

/// The key.
pub const KEY: &str = "$include";
/// Deepest nesting of includes; deeper ones are an issue.
pub const DEPTH_MAX: usize = 10;
/// Most files one document may draw in; more are an issue.
pub const FILES_MAX: usize = 64;

/// Reads a file for an include, or says why not. Checks that it really lies inside the directory given second.
pub type ReadFile<'a> = dyn Fn(&Path, &Path) -> Result<String, String> + 'a;

/// A document with its includes in place.
#[derive(Debug)]
pub struct Included {
    pub value: Value,
    /// Files that were read, in order.
    pub files: Vec<PathBuf>,
    /// Includes that could not be put in; their objects are left as they are.
    pub issues: Vec<Issue>,
}

/// Puts in every include. `dir` is the directory of the config file.
pub fn resolve(document: &Value, dir: &Path, read: &ReadFile<'_>) -> Included {
    let walker = Walker { dir, read, files: RefCell::new(Vec::new()), issues: RefCell::new(Vec::new()) };
    let value = walker.walk(document, dir, &KeyPath::root(), 0);
    Included { value, files: walker.files.into_inner(), issues: walker.issues.into_inner() }
}

/// Whether a document draws in files at all.
pub fn has_any(document: &Value) -> bool {
    match document {
        Value::Object(members) => members.contains_key(KEY) || members.values().any(has_any),
        Value::Array(items) => items.iter().any(has_any),
        _ => false,
    }
}

struct Walker<'a> {
    dir: &'a Path,
    read: &'a ReadFile<'a>,
    files: RefCell<Vec<PathBuf>>,
    issues: RefCell<Vec<Issue>>,
}

impl Walker<'_> {
    /// `base` is the directory of the file that `value` came from.
    fn walk(&self, value: &Value, base: &Path, path: &KeyPath, depth: usize) -> Value {
        match value {
            Value::Array(items) => {
                let walk = |(n, item)| self.walk(item, base, &path.index(n), depth);
                Value::Array(items.iter().enumerate().map(walk).collect())
            }
            Value::Object(members) => {
                let siblings = members
                    .iter()
                    .filter(|(key, _)| *key != KEY)
                    .map(|(key, member)| (key.clone(), self.walk(member, base, &path.key(key), depth)))
                    .collect();
                let siblings = Value::Object(siblings);
                let Some(include) = members.get(KEY) else { return siblings };
                match self.include(include, base, path, depth) {
                    Ok(included) if members.len() == 1 => included,
                    Ok(included) if included.is_object() => merged(included, siblings),
                    Ok(_) => self.give_up(path, "an included file with keys beside it must hold an object", value),
                    Err(message) => self.give_up(path, &message, value),
                }
            }
            other => other.clone(),
        }
    }

    fn give_up(&self, path: &KeyPath, message: &str, value: &Value) -> Value {
        self.issues.borrow_mut().push(Issue::new(path.key(KEY).to_string(), message));
        value.clone()
    }

    fn include(&self, include: &Value, base: &Path, path: &KeyPath, depth: usize) -> Result<Value, String> {
        if depth == DEPTH_MAX {
            return Err(format!("includes nest deeper than {DEPTH_MAX}"));
        }
        match include {
            Value::String(name) => self.file(name, base, path, depth),
            Value::Array(names) => {
                let mut out = Value::Object(serde_json::Map::new());
                for name in names {
                    let name = name.as_str().ok_or("expected a file name or a list of them")?;
                    out = merged(out, self.file(name, base, path, depth)?);
                }
                Ok(out)
            }
            _ => Err("expected a file name or a list of them".to_owned()),
        }
    }

    fn file(&self, name: &str, base: &Path, path: &KeyPath, depth: usize) -> Result<Value, String> {
        let file = normal(&base.join(name));
        if !file.starts_with(self.dir) {
            return Err(format!("{name} lies outside the config directory"));
        }
        if self.files.borrow().len() == FILES_MAX {
            return Err(format!("more than {FILES_MAX} files"));
        }
        let text = (self.read)(&file, self.dir)?;
        self.files.borrow_mut().push(file.clone());
        let value = document::parse(&text, Format::of(&file, &text))
            .map_err(|error| format!("{name}:{}:{}: {}", error.line, error.column, error.message))?;
        if path.steps().len() + depth_of(&value) > json5::DEPTH_MAX {
            return Err(format!("{name} makes the document nest deeper than {}", json5::DEPTH_MAX));
        }
        Ok(self.walk(&value, file.parent().unwrap_or(self.dir), path, depth + 1))
    }
}

/// How deep a value nests.
fn depth_of(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(depth_of).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// `over` laid over `under`: objects merge, everything else is replaced.
pub fn merged(under: Value, over: Value) -> Value {
    match (under, over) {
        (Value::Object(mut under), Value::Object(over)) => {
            for (key, value) in over {
                let value = match under.get_mut(&key) {
                    Some(existing) => merged(existing.take(), value),
                    None => value,
                };
                under.insert(key, value);
            }
            Value::Object(under)
        }
        (_, over) => over,
    }
}

/// The path without `.` and `..`, by its words alone: links are checked by whoever opens the file.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn run(document: Value, files: &[(&str, &str)]) -> Included {
        let files: BTreeMap<PathBuf, &str> =
            files.iter().map(|(name, text)| (Path::new("/c").join(name), *text)).collect();
        let read =
            |path: &Path, _: &Path| files.get(path).map(|t| (*t).to_owned()).ok_or_else(|| "no such file".to_owned());
        resolve(&document, Path::new("/c"), &read)
    }

    #[test]
    fn one_file_replaces_a_list_merges_and_siblings_win() {
        let files =
            [("a.json5", "{ x: 1, deep: { p: 1 } }"), ("sub/b.toml", "y = 2\n[deep]\nq = 2\n"), ("list.json", "[1,2]")];
        assert_eq!(run(json!({ "k": { "$include": "./list.json" } }), &files).value, json!({ "k": [1, 2] }));
        let included = run(json!({ "k": { "$include": ["a.json5", "sub/b.toml"], "x": 9 } }), &files);
        assert_eq!(included.value, json!({ "k": { "x": 9, "deep": { "p": 1, "q": 2 }, "y": 2 } }));
        assert_eq!(included.files, [Path::new("/c/a.json5"), Path::new("/c/sub/b.toml")]);
        assert_eq!(included.issues, []);
    }

    #[test]
    fn includes_in_includes_are_relative_to_their_own_file() {
        let files = [("sub/a.json", r#"{ "$include": "./b.json" }"#), ("sub/b.json", r#"{ "z": 1 }"#)];
        assert_eq!(run(json!({ "$include": "sub/a.json" }), &files).value, json!({ "z": 1 }));
    }

    #[track_caller]
    fn refused(document: Value, files: &[(&str, &str)], expected: &str) {
        let issues = run(document, files).issues;
        assert!(issues.iter().any(|issue| issue.message.contains(expected)), "{issues:?}");
    }

    #[test]
    fn outside_missing_broken_and_endless_ones_are_issues() {
        refused(json!({ "$include": "../x.json" }), &[], "outside the config directory");
        refused(json!({ "$include": "/etc/passwd" }), &[], "outside the config directory");
        refused(json!({ "$include": "x.json" }), &[], "no such file");
        refused(json!({ "$include": 5 }), &[], "expected a file name");
        refused(json!({ "$include": "x.json" }), &[("x.json", "{\n a: ]")], "x.json:2:5:");
        refused(json!({ "$include": "x.json", "k": 1 }), &[("x.json", "[]")], "must hold an object");
        refused(json!({ "$include": "x.json" }), &[("x.json", r#"{ "$include": "x.json" }"#)], "nest deeper than 10");
    }

    #[test]
    fn included_depth_counts_for_the_whole_document() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let nested = json!({ "a": { "b": { "$include": "x.json" } } });
        assert_eq!(run(nested.clone(), &[("x.json", &deep(json5::DEPTH_MAX - 2))]).issues, []);
        refused(nested, &[("x.json", &deep(json5::DEPTH_MAX - 1))], "nest deeper than 100");
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let names: Vec<&str> = vec!["x.json"; FILES_MAX + 1];
        refused(json!({ "$include": names }), &[("x.json", "{}")], "more than 64 files");
    }
}
