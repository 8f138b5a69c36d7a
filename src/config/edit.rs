//! `config.set`, `config.patch`, `config.apply`: from a client's text to a document ready to be written.
//!
//! [`plan`] has no effect: it answers with the new text, the document it makes and what changes, or with the refusal
//! upstream's clients know. Writing it is [`super::load::commit`].
//!
//! A client works on what it was shown. So three things are put back before the document is judged: placeholders
//! become the stored secrets again, values that equal what a `${VAR}` stands for become the reference again, and
//! objects drawn in by `$include` stay drawn in as far as they say the same.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Issue;
use super::changes::{self, Change};
use super::document::{self, Document, Format};
use super::expand;
use super::include::{self, ReadFile};
use super::path::KeyPath;
use super::redact;
use super::rewrite;
use super::secret::PLACEHOLDER;
use super::settings::Settings;
use super::spelling;
use super::validate;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::version::Protocol;

/// Which method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The text is the whole document.
    Set,
    /// The text is the whole document, and takes effect at once.
    Apply,
    /// The text is a JSON merge patch.
    Patch,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: Method,
    pub protocol: Protocol,
    pub raw: &'a str,
    /// `hash` of the document the client saw.
    pub base_hash: Option<&'a str>,
    /// Dotted paths of lists that a patch replaces instead of merging by id.
    pub replace_paths: &'a [String],
}

/// A change that may be written.
#[derive(Debug)]
pub struct Planned {
    /// The document as it will be read back, with its new text and hash.
    pub document: Document,
    pub settings: Arc<Settings>,
    /// What differs from the document as it was.
    pub changes: Vec<Change>,
    /// Hash of the text it replaces; `None`: there is no file yet.
    pub replaces: Option<String>,
}

/// Why a change was refused. Nothing was written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EditError {
    #[error("config base hash required; re-run config.get and retry")]
    HashRequired {
        /// Where the patch would change something, for protocol 4's wording.
        paths: Vec<String>,
    },
    /// The stored document cannot be read, so nothing can be compared with it.
    #[error("config base hash unavailable; re-run config.get and retry")]
    HashUnavailable,
    #[error("config changed since last load; re-run config.get and retry")]
    Stale,
    #[error("config.patch raw must be an object")]
    PatchNotObject,
    #[error("invalid config; fix before patching")]
    StoredInvalid,
    /// The text is in no language we read, in upstream's words.
    #[error("SyntaxError: {0}")]
    Syntax(String),
    #[error("invalid config")]
    Invalid(Vec<Issue>),
}

impl EditError {
    /// As the client's protocol words it.
    pub fn to_rpc(&self, protocol: Protocol) -> RpcError {
        let text = match (self, protocol) {
            (EditError::HashRequired { paths }, Protocol::V4) if !paths.is_empty() => {
                format!("config base hash required for {}; re-run config.get and retry with baseHash", paths.join(", "))
            }
            (EditError::Invalid(issues), Protocol::V4) => {
                let shown = issues.iter().map(|issue| {
                    let path = if issue.path.is_empty() { "<root>" } else { &issue.path };
                    format!("{path}: {}", issue.message)
                });
                format!("invalid config: {}", shown.collect::<Vec<_>>().join("; "))
            }
            _ => self.to_string(),
        };
        let error = RpcError::invalid(text);
        match self {
            EditError::Invalid(issues) => error.with_details(json!({ "issues": issues_json(issues) })),
            _ => error,
        }
    }
}

/// Issues as clients read them.
pub fn issues_json(issues: &[Issue]) -> Value {
    issues.iter().map(|issue| json!({ "path": issue.path, "message": issue.message })).collect()
}

/// Works a request out against the document as it is. `read` reads included files.
///
/// # Errors
/// Every refusal of CFG-03 and CFG-04; the checks come in the order of the client's protocol.
pub fn plan(stored: &Document, request: &Request<'_>, read: &ReadFile<'_>) -> Result<Planned, EditError> {
    let is_patch = request.method == Method::Patch;
    // Protocol 4 reads a patch before it asks for the hash, and names what the patch would change.
    let early = (is_patch && request.protocol == Protocol::V4).then(|| patch_object(request, stored)).transpose()?;
    check_hash(stored, request, early.as_ref())?;
    if is_patch && !stored.is_valid() {
        return Err(EditError::StoredInvalid);
    }
    let wanted = match (is_patch, early) {
        (true, Some(patch)) => patched(stored, patch, request)?,
        (true, None) => patched(stored, patch_object(request, stored)?, request)?,
        (false, _) => spelled(parse(request.raw, stored)?)?,
    };
    let wanted = put_back(&wanted, stored)?;
    finish(stored, request, wanted, read)
}

fn check_hash(stored: &Document, request: &Request<'_>, patch: Option<&Value>) -> Result<(), EditError> {
    if !stored.exists() {
        return Ok(());
    }
    match request.base_hash.map(str::trim).filter(|hash| !hash.is_empty()) {
        None => {
            let paths = patch.map(leaves).unwrap_or_default();
            Err(EditError::HashRequired { paths })
        }
        Some(hash) if hash.eq_ignore_ascii_case(&stored.hash) => Ok(()),
        Some(_) => Err(EditError::Stale),
    }
}

/// Most paths named in a refusal.
const PATHS_SHOWN_MAX: usize = 20;

/// Dotted paths of every value in a patch.
fn leaves(patch: &Value) -> Vec<String> {
    fn walk(value: &Value, path: &KeyPath, out: &mut Vec<String>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                members.iter().for_each(|(key, member)| walk(member, &path.key(key), out));
            }
            _ if out.len() < PATHS_SHOWN_MAX && !path.is_root() => out.push(path.to_string()),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(patch, &KeyPath::root(), &mut out);
    out
}

fn parse(raw: &str, stored: &Document) -> Result<Value, EditError> {
    let format = match stored.format {
        Format::Toml if !raw.trim_start().starts_with('{') => Format::Toml,
        _ => Format::Json5,
    };
    document::parse(raw, format).map_err(|error| EditError::Syntax(error.to_string()))
}

fn patch_object(request: &Request<'_>, stored: &Document) -> Result<Value, EditError> {
    match parse(request.raw, stored)? {
        patch @ Value::Object(_) => Ok(patch),
        _ => Err(EditError::PatchNotObject),
    }
}

fn spelled(document: Value) -> Result<Value, EditError> {
    let spelled = spelling::canonical(&document);
    if spelled.issues.is_empty() { Ok(spelled.value) } else { Err(EditError::Invalid(spelled.issues)) }
}

fn patched(stored: &Document, patch: Value, request: &Request<'_>) -> Result<Value, EditError> {
    let patch = spelled(patch)?;
    let replaced: Vec<KeyPath> = request.replace_paths.iter().map(|path| KeyPath::dotted(path)).collect();
    // Merged into what is written, so that includes and references that the patch does not name stay.
    Ok(merge(stored.spelled.clone(), patch, &KeyPath::root(), &replaced))
}

/// JSON merge patch (RFC 7396), except that lists of objects with `id` merge by id.
fn merge(target: Value, patch: Value, path: &KeyPath, replaced: &[KeyPath]) -> Value {
    match (target, patch) {
        (target, Value::Object(patch)) => {
            let mut out = match target {
                Value::Object(members) => members,
                _ => Map::new(),
            };
            for (key, value) in patch {
                if value.is_null() {
                    out.shift_remove(&key);
                    continue;
                }
                let before = out.get(&key).cloned().unwrap_or(Value::Null);
                let merged = merge(before, value, &path.key(&key), replaced);
                out.insert(key, merged);
            }
            Value::Object(out)
        }
        (Value::Array(before), Value::Array(patch)) if !replaced.contains(path) && by_id(&before) && by_id(&patch) => {
            let mut out = before;
            for item in patch {
                let existing = out.iter_mut().find(|other| other["id"] == item["id"]);
                match existing {
                    Some(existing) => *existing = merge(existing.take(), item, path, replaced),
                    None => out.push(item),
                }
            }
            Value::Array(out)
        }
        (_, patch) => patch,
    }
}

/// Whether a list holds objects with ids and nothing else.
fn by_id(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|item| item.get("id").is_some_and(Value::is_string))
}

/// Puts back what the client was not shown.
fn put_back(wanted: &Value, stored: &Document) -> Result<Value, EditError> {
    let env = stored.env();
    let mut issues = Vec::new();
    let shown = redact::value(&stored.config);
    let value = restore(wanted, Some(&stored.written), Some(&shown), &env, &KeyPath::root(), &mut issues);
    if !issues.is_empty() {
        return Err(EditError::Invalid(issues));
    }
    Ok(restore_includes(value, &stored.spelled, stored))
}

/// `written` is what is stored at the same place, `shown` what a client sees of it.
fn restore(
    wanted: &Value,
    written: Option<&Value>,
    shown: Option<&Value>,
    env: &expand::Env,
    path: &KeyPath,
    issues: &mut Vec<Issue>,
) -> Value {
    match wanted {
        Value::Object(members) => {
            let member = |(key, member): (&String, &Value)| {
                let (written, shown) = (written.and_then(|w| w.get(key)), shown.and_then(|s| s.get(key)));
                (key.clone(), restore(member, written, shown, env, &path.key(key), issues))
            };
            Value::Object(members.iter().map(member).collect())
        }
        Value::Array(items) => {
            let stored_items = written.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let item = |(idx, item): (usize, &Value)| {
                // By id where there are ids: the client may have moved or removed some.
                let same_id =
                    item.get("id").and_then(|id| stored_items.iter().position(|other| other.get("id") == Some(id)));
                let from = same_id.unwrap_or(idx);
                let (written, shown) = (stored_items.get(from), shown.and_then(|s| s.get(from)));
                restore(item, written, shown, env, &path.index(idx), issues)
            };
            Value::Array(items.iter().enumerate().map(item).collect())
        }
        Value::String(text) => match (text.contains(PLACEHOLDER), written) {
            (true, Some(written)) if shown == Some(wanted) => written.clone(),
            (true, _) => {
                let message = format!("{PLACEHOLDER} stands for a stored secret, and there is none here");
                issues.push(Issue::new(path.to_string(), message));
                wanted.clone()
            }
            (false, Some(Value::String(reference)))
                if reference.contains("${") && is_value_of(text, reference, env) =>
            {
                Value::String(reference.clone())
            }
            _ => wanted.clone(),
        },
        other => other.clone(),
    }
}

fn is_value_of(text: &str, reference: &str, env: &expand::Env) -> bool {
    expand::text(reference, env).is_ok_and(|value| value == text)
}

/// Objects that the stored document draws in from files stay drawn in, with what differs beside `$include`; where that
/// cannot be said (a key of the file is gone), the object is written out.
fn restore_includes(wanted: Value, spelled: &Value, stored: &Document) -> Value {
    if !include::has_any(spelled) || include::has_any(&wanted) {
        return wanted;
    }
    fold_in(wanted, spelled, &stored.written, &KeyPath::root())
}

/// `written` is the stored document with its includes in place.
fn fold_in(wanted: Value, spelled: &Value, written: &Value, path: &KeyPath) -> Value {
    match (wanted, spelled) {
        (wanted, Value::Object(stored)) if stored.contains_key(include::KEY) => {
            let Some(resolved) = path.get(written) else { return wanted };
            if wanted == *resolved {
                return spelled.clone();
            }
            let (Value::Object(members), Value::Object(resolved)) = (&wanted, resolved) else { return wanted };
            if resolved.keys().any(|key| !members.contains_key(key)) {
                return wanted;
            }
            let beside =
                members.iter().filter(|(key, value)| stored.contains_key(*key) || resolved.get(*key) != Some(*value));
            let mut out = Map::new();
            out.insert(include::KEY.to_owned(), stored[include::KEY].clone());
            out.extend(beside.map(|(key, value)| (key.clone(), value.clone())));
            Value::Object(out)
        }
        (Value::Object(members), Value::Object(stored)) => {
            let member = |(key, value): (String, Value)| match stored.get(&key) {
                Some(stored) => {
                    let value = fold_in(value, stored, written, &path.key(&key));
                    (key, value)
                }
                None => (key, value),
            };
            Value::Object(members.into_iter().map(member).collect())
        }
        (wanted, _) => wanted,
    }
}

/// Judges the new document and writes its text.
fn finish(stored: &Document, request: &Request<'_>, wanted: Value, read: &ReadFile<'_>) -> Result<Planned, EditError> {
    let mut document = Document {
        spelled: wanted,
        issues: Vec::new(),
        warnings: Vec::new(),
        unknown: Vec::new(),
        settings: None,
        ..stored.clone()
    };
    // What is no object has no places to look at.
    if !document.spelled.is_object() {
        return Err(EditError::Invalid(validate::check(&document.spelled).issues));
    }
    document::resolve(&mut document, read);
    // A key that nobody knows is an error in an edit, unless the file had it before: then it is the file's affair.
    let known_before = |path: &KeyPath| path.get(&stored.config).is_some();
    let new_unknown =
        document.unknown.iter().filter(|unknown| !known_before(&unknown.path)).map(validate::Unknown::issue);
    let issues: Vec<Issue> = document.issues.iter().cloned().chain(new_unknown).collect();
    if !issues.is_empty() {
        return Err(EditError::Invalid(issues));
    }
    let text = new_text(stored, request, &document.spelled);
    document.hash = document::hash(&text);
    document.parsed = document::parse(&text, document.format).ok();
    document.raw = Some(text);
    let settings = document.settings.clone().expect("a document without issues has settings");
    let changes = changes::between(&stored.config, &document.config);
    Ok(Planned { settings, changes, replaces: stored.raw.as_ref().map(|_| stored.hash.clone()), document })
}

/// The text to store: what the client wrote where it wrote by hand, else the stored text with the changes put in.
fn new_text(stored: &Document, request: &Request<'_>, wanted: &Value) -> String {
    let is_whole = request.method != Method::Patch;
    let in_stored_format = document::parse(request.raw, stored.format).is_ok();
    // A form sends plain JSON and knows nothing of comments; an editor sends the text it was given.
    let is_form = serde_json::from_str::<serde::de::IgnoredAny>(request.raw).is_ok();
    match &stored.raw {
        Some(raw) if !(is_whole && in_stored_format) || (is_form && !is_plain_json(raw)) => {
            rewrite::rewrite(raw, stored.format, wanted)
        }
        _ if is_whole && in_stored_format => rewrite::rewrite(request.raw, stored.format, wanted),
        _ => rewrite::fresh(stored.format, wanted),
    }
}

fn is_plain_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests;
