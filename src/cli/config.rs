//! `config`: the document on this machine, read and changed without a gateway.
//!
//! Changes go to the file: planned and checked as a whole, written beside it and renamed over it, comments kept. A
//! running gateway looks at the file every few seconds and on SIGHUP, so nothing here needs one, and nothing here
//! can be refused by one. What cannot be used is never written.

use std::io::{self, Read as _};

use serde_json::Value;

use super::args::Args;
use super::commands::{HELP, OUTPUT, PLACE};
use super::flags::{Command, Count, Example, FLAG, Flag, Word};
use super::nearest::nearest;
use super::place;
use super::term::{Out, Style, counted};
use super::{CliError, Exit, Outcome};
use crate::config::changes::Change;
use crate::config::document::Document;
use crate::config::edit::{self, EditError, Method, Planned, Request};
use crate::config::path::{KeyPath, Step};
use crate::config::schema::{self, Reload, json_schema};
use crate::config::{Issue, json5, load, redact, spelling};
use crate::protocol::json::json;
use crate::protocol::version::Protocol;
use crate::runtime::clock;

/// The row of `config`.
pub static COMMAND: Command = Command {
    name: "config",
    about: "Read, check and change the configuration",
    doc: "Works on the file, with or without a running gateway. A change is checked as a whole before it is written, \
          and written in one step; earlier versions stay beside the file as .bak.1 to .bak.5. A running gateway reads \
          the file again within seconds (gateway.server.reload_interval_secs) or on SIGHUP.",
    words: &[],
    flags: &[HELP],
    examples: &[
        Example { line: "openclaw-rs config get gateway.port", what: "one value" },
        Example { line: "openclaw-rs config set gateway.port 19000", what: "change it" },
    ],
    children: &[&GET, &SET, &UNSET, &PATCH, &VALIDATE, &SCHEMA, &FILE],
    run: None,
};

static GET: Command = Command {
    name: "get",
    about: "Show the configuration or one value of it",
    doc: "Shows what the file says, else the key's default. Secrets are shown as __OPENCLAW_REDACTED__.",
    words: &[Word {
        name: "PATH",
        count: Count::Optional,
        choices: &[],
        help: "the key, such as gateway.port or agents.list[0].id",
        set: set_path,
    }],
    flags: &[HELP, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs config get", what: "everything the file says" },
        Example { line: "openclaw-rs config get gateway.auth", what: "a part of it" },
    ],
    children: &[],
    run: Some(get),
};

static SET: Command = Command {
    name: "set",
    about: "Set one value",
    doc: "The value is read as JSON5, and as plain text when it is none or when the key takes text. Replaces what was \
          there, lists and objects included.",
    words: &[PATH, VALUE],
    flags: &[HELP, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs config set gateway.bind lan", what: "listen on the local network" },
        Example { line: "openclaw-rs config set security.block_threshold 80", what: "block less" },
        Example { line: "openclaw-rs config set gateway.auth.token -", what: "a secret, from standard input" },
    ],
    children: &[],
    run: Some(set),
};

static UNSET: Command = Command {
    name: "unset",
    about: "Remove one value, so that its default holds",
    doc: "",
    words: &[PATH],
    flags: &[HELP, PLACE, OUTPUT],
    examples: &[Example { line: "openclaw-rs config unset gateway.port", what: "back to 18789" }],
    children: &[],
    run: Some(unset),
};

static PATCH: Command = Command {
    name: "patch",
    about: "Merge several values in one step",
    doc: "A JSON merge patch (RFC 7396): objects merge, null removes, lists of objects with an id merge by id.",
    words: &[Word {
        name: "JSON",
        count: Count::One,
        choices: &[],
        help: "the patch as JSON5, or - to read it from standard input",
        set: |args, given| {
            args.config.value = Some(given.text()?);
            Ok(())
        },
    }],
    flags: &[HELP, PLACE, OUTPUT],
    examples: &[Example {
        line: "openclaw-rs config patch '{gateway: {port: 19000, bind: \"lan\"}}'",
        what: "two values, both or none",
    }],
    children: &[],
    run: Some(patch),
};

static VALIDATE: Command = Command {
    name: "validate",
    about: "Check the configuration and name every problem",
    doc: "The status is 3 when it cannot be used. Unknown keys are kept and only named; with --strict they are problems.",
    words: &[],
    flags: &[VALIDATE_FLAGS, HELP, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs config validate", what: "would the gateway start with it" },
        Example { line: "openclaw-rs config validate --strict --config new.toml", what: "before putting it in place" },
    ],
    children: &[],
    run: Some(validate),
};

static SCHEMA: Command = Command {
    name: "schema",
    about: "Write the JSON Schema of the configuration",
    doc: "For editors and forms: every key with type, range, default and description.",
    words: &[],
    flags: &[HELP, OUTPUT],
    examples: &[Example { line: "openclaw-rs config schema > openclaw.schema.json", what: "keep it in a file" }],
    children: &[],
    run: Some(schema),
};

static FILE: Command = Command {
    name: "file",
    about: "Show which file is the configuration",
    doc: "",
    words: &[],
    flags: &[HELP, PLACE, OUTPUT],
    examples: &[Example { line: "openclaw-rs config file", what: "its path, whether it exists or not" }],
    children: &[],
    run: Some(file),
};

const VALIDATE_FLAGS: &[Flag] = &[Flag {
    long: "strict",
    help: "unknown keys are problems",
    set: |args, _| {
        args.config.strict = true;
        Ok(())
    },
    ..FLAG
}];

const PATH: Word = Word {
    name: "PATH",
    count: Count::One,
    choices: &[],
    help: "the key, such as gateway.port or agents.list[0].id",
    set: set_path,
};

const VALUE: Word = Word {
    name: "VALUE",
    count: Count::One,
    choices: &[],
    help: "the value as JSON5 or text, or - to read it from standard input, where nobody sees it",
    set: |args, given| {
        // An empty text is a value, unlike everywhere else.
        args.config.value = Some(given.os().to_string_lossy().into_owned());
        Ok(())
    },
};

fn set_path(args: &mut Args, given: &super::args::Given) -> Result<(), super::args::BadValue> {
    args.config.path = Some(given.text()?);
    Ok(())
}

/// Longest value read from standard input, in bytes; no document is longer.
const INPUT_BYTES_MAX: u64 = crate::config::files::FILE_BYTES_MAX;

fn get(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let document = usable_text(args)?;
    let Some(written) = &args.config.path else {
        out.json(&redact::value(&document.config))?;
        return Ok(Outcome::Done);
    };
    let path = key_path(written)?;
    let value = redact::at(&document.config, &path).or_else(|| schema::row_at(&row_path(&path))?.default_value());
    match value {
        // Plain text reads better without quotes, and a shell takes it as it is.
        Some(Value::String(text)) if !out.is_json() => out.line(&text)?,
        Some(value) => out.json(&value)?,
        None => return Err(not_set(written, &path)),
    }
    Ok(Outcome::Done)
}

/// The document, as long as it is in a language we read: a value can be looked at in one that breaks a rule.
fn usable_text(args: &Args) -> Result<Document, CliError> {
    let document = place::document(args)?;
    if document.exists() && document.parsed.is_none() {
        load::load(&place::inputs(args))?;
    }
    Ok(document)
}

fn not_set(written: &str, path: &KeyPath) -> CliError {
    if schema::tree().at(&row_path(path)).is_some() {
        return CliError::NoValue { what: format!("{written} is not set and has no default"), near: None };
    }
    let known = schema::all().map(|row| row.path);
    let near = nearest(&path.to_string(), known).map(str::to_owned);
    CliError::NoValue { what: format!("{written} is not set, and no key has this name"), near }
}

/// `a.b[0].c` as steps, every key in its one spelling.
fn key_path(written: &str) -> Result<KeyPath, CliError> {
    let bad = || CliError::BadRequest {
        what: format!("{written} is not a path"),
        hint: "write keys with dots and places in lists with brackets: agents.list[0].id",
    };
    let mut steps = Vec::new();
    for part in written.split('.') {
        let (key, mut rest) = part.split_at(part.find('[').unwrap_or(part.len()));
        if key.is_empty() && (rest.is_empty() || steps.is_empty()) {
            return Err(bad());
        }
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        }
        while !rest.is_empty() {
            let (inside, after) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or_else(bad)?;
            let quoted = inside.trim_matches(['"', '\'']);
            steps.push(match inside.parse::<usize>() {
                Ok(place) => Step::Index(place),
                Err(_) if quoted.len() + 2 == inside.len() => Step::Key(quoted.to_owned()),
                Err(_) => return Err(bad()),
            });
            rest = after;
        }
    }
    Ok(canonical(&KeyPath::new(steps)))
}

/// The path in the document's one spelling, aliases resolved: the way a document with only this key is spelled.
fn canonical(path: &KeyPath) -> KeyPath {
    let nest = |inside: Value, step: &Step| match step {
        Step::Key(key) => json!({ (key.as_str()): inside }),
        Step::Index(_) => json!([inside]),
    };
    let spelled = spelling::canonical(&path.steps().iter().rev().fold(Value::Bool(true), nest)).value;
    let mut places = path.steps().iter().filter_map(|step| match step {
        Step::Index(place) => Some(*place),
        Step::Key(_) => None,
    });
    let (mut steps, mut value) = (Vec::new(), &spelled);
    loop {
        match value {
            Value::Object(members) => {
                let Some((key, inside)) = members.iter().next() else { break };
                steps.push(Step::Key(key.clone()));
                value = inside;
            }
            Value::Array(items) => {
                let (Some(place), Some(inside)) = (places.next(), items.first()) else { break };
                steps.push(Step::Index(place));
                value = inside;
            }
            _ => break,
        }
    }
    KeyPath::new(steps)
}

/// The path as rows write it: `agents.list[].id`.
fn row_path(path: &KeyPath) -> String {
    let mut out = String::new();
    for step in path.steps() {
        match step {
            Step::Key(key) if out.is_empty() => out.push_str(key),
            Step::Key(key) => {
                out.push('.');
                out.push_str(key);
            }
            Step::Index(_) => out.push_str("[]"),
        }
    }
    out
}

fn set(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let path = key_path(args.config.path.as_deref().unwrap_or(""))?;
    let text = value_text(args)?;
    let stored = place::document(args)?;
    let planned = match json5::value(&text) {
        Ok(value) => match plan_set(&stored, &path, value) {
            // `12345` for a key that takes text, say.
            Err(first) => plan_set(&stored, &path, Value::String(text)).map_err(|_| first),
            planned => planned,
        },
        Err(_) => plan_set(&stored, &path, Value::String(text)),
    };
    write(&stored, planned, Some(&path), out)
}

fn unset(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let written = args.config.path.as_deref().unwrap_or("");
    let path = key_path(written)?;
    let stored = place::document(args)?;
    let mut wanted = stored.spelled.clone();
    if path.remove(&mut wanted).is_none() {
        return Err(CliError::NoValue {
            what: format!("{written} is not set in {}", stored.path.display()),
            near: None,
        });
    }
    let planned = plan_change(&stored, &path, &wanted);
    write(&stored, planned, Some(&path), out)
}

fn patch(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let text = value_text(args)?;
    let stored = place::document(args)?;
    let planned = plan(&stored, Method::Patch, &text, &[]);
    write(&stored, planned, None, out)
}

/// The value given, or standard input for `-`.
fn value_text(args: &Args) -> Result<String, CliError> {
    let given = args.config.value.as_deref().unwrap_or("");
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut text = String::new();
    let read = io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|source| CliError::Input { name: "standard input".to_owned(), source })?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Puts `value` where `path` points, whatever was there.
fn plan_set(stored: &Document, path: &KeyPath, value: Value) -> Result<Planned, EditError> {
    let mut wanted = stored.spelled.clone();
    path.set(&mut wanted, value.clone());
    if path.get(&wanted) != Some(&value) {
        let message = "something else than an object stands in the way, or the list has no such place";
        return Err(EditError::Invalid(vec![Issue::new(path.to_string(), message)]));
    }
    plan_change(stored, path, &wanted)
}

/// Makes the document `wanted`, which differs from the stored one at `path` only.
///
/// A patch leaves the rest of the text as it is written. It merges, so what it must not keep is named: keys that are
/// gone as null, lists as replaced. A document that breaks a rule takes no patch, and a change may be what mends it.
fn plan_change(stored: &Document, path: &KeyPath, wanted: &Value) -> Result<Planned, EditError> {
    if !stored.is_valid() {
        return plan(stored, Method::Set, &format!("{wanted:#}"), &[]);
    }
    let keys: Vec<Step> = path.steps().iter().take_while(|step| matches!(step, Step::Key(_))).cloned().collect();
    let whole = KeyPath::new(keys);
    let (before, after) = (whole.get(&stored.spelled), whole.get(wanted));
    let mut lists = Vec::new();
    let change = after.map_or(Value::Null, |after| replacing(before, after, &whole, &mut lists));
    let mut patch = Value::Null;
    whole.set(&mut patch, change);
    plan(stored, Method::Patch, &patch.to_string(), &lists)
}

/// The merge patch that turns `before` into `after`, and the lists in it.
fn replacing(before: Option<&Value>, after: &Value, path: &KeyPath, lists: &mut Vec<String>) -> Value {
    match (before, after) {
        (before, Value::Object(after)) => {
            let before = before.and_then(Value::as_object);
            let gone = before.into_iter().flatten().filter(|(key, _)| !after.contains_key(*key));
            let mut out: serde_json::Map<String, Value> = gone.map(|(key, _)| (key.clone(), Value::Null)).collect();
            for (key, value) in after {
                let stood = before.and_then(|before| before.get(key));
                out.insert(key.clone(), replacing(stood, value, &path.key(key), lists));
            }
            Value::Object(out)
        }
        (_, after) => {
            if after.is_array() {
                lists.push(path.to_string());
            }
            after.clone()
        }
    }
}

/// Plans an edit by someone who just read the document.
fn plan(stored: &Document, method: Method, raw: &str, replace_paths: &[String]) -> Result<Planned, EditError> {
    let base_hash = Some(stored.hash.as_str());
    load::plan(stored, &Request { method, protocol: Protocol::NEWEST, raw, base_hash, replace_paths })
}

/// Writes a change, and says what it takes to come into force: of the key that was named, or of each that differs.
fn write(
    stored: &Document,
    planned: Result<Planned, EditError>,
    named: Option<&KeyPath>,
    out: &mut Out,
) -> Result<Outcome, CliError> {
    let planned = planned.map_err(|error| CliError::Edit { path: stored.path.clone(), error })?;
    let (document, changes) = (&planned.document, &planned.changes);
    if !stored.exists() || !changes.is_empty() {
        load::commit(&planned)?;
    }
    if out.is_json() {
        let changes: Vec<Value> = changes
            .iter()
            .map(|change| json!({"path": change.path.to_string(), "reload": change.reload.map(Reload::letter)}))
            .collect();
        out.json(&json!({"ok": true, "path": document.path, "hash": document.hash, "changes": changes}))?;
        return Ok(Outcome::Done);
    }
    let path = document.path.display();
    if changes.is_empty() {
        out.line(&format!("{path} says so already"))?;
        return Ok(Outcome::Done);
    }
    match named {
        // A value that makes the object around it shows up as a change of that object.
        Some(named) => {
            let strictest = changes.iter().filter_map(|change| change.reload).max();
            out.line(&format!("{named} changed; in force {}", when(strictest)))?;
        }
        None => {
            for Change { path, reload } in changes {
                out.line(&format!("{path} changed; in force {}", when(*reload)))?;
            }
        }
    }
    out.line(&format!("written to {path}"))?;
    Ok(Outcome::Done)
}

/// When a running gateway goes by a change.
fn when(reload: Option<Reload>) -> &'static str {
    match reload {
        Some(Reload::Restart) => "after a restart of the gateway",
        Some(Reload::NewOnly) => "for new connections",
        Some(Reload::Live | Reload::Account) | None => "within seconds",
    }
}

fn validate(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let document = place::document(args)?;
    if !out.is_json() && document.exists() && document.parsed.is_none() {
        // The error of the loader names line and column.
        load::load(&place::inputs(args))?;
    }
    let mut issues = document.issues.clone();
    let mut warnings = document.warnings.clone();
    if args.config.strict {
        let unknown: Vec<Issue> = document.unknown.iter().map(|unknown| unknown.warning()).collect();
        warnings.retain(|warning| !unknown.contains(warning));
        issues.extend(document.unknown.iter().map(|unknown| unknown.issue()));
    }
    let ok = issues.is_empty();
    if out.is_json() {
        out.json(&json!({
            "ok": ok, "path": document.path, "exists": document.exists(),
            "issues": edit::issues_json(&issues), "warnings": edit::issues_json(&warnings),
        }))?;
    } else {
        print_findings(&document, &issues, &warnings, out)?;
    }
    Ok(if ok { Outcome::Done } else { Outcome::BadNews(Exit::Config) })
}

fn print_findings(document: &Document, issues: &[Issue], warnings: &[Issue], out: &mut Out) -> io::Result<()> {
    for (list, word, style) in [(issues, "error", Style::Bad), (warnings, "warning", Style::Warn)] {
        for issue in list {
            let line = format!("{}: {}", out.styled(style, word), out.styled(Style::Plain, &issue.to_string()));
            out.styled_line(&line)?;
        }
    }
    let path = document.path.display();
    match (document.exists(), issues.len()) {
        (false, 0) => out.line(&format!("{path} does not exist; defaults are in force, and they are valid")),
        (_, 0) => out.line(&format!("{path} is valid")),
        (_, n) => out.line(&format!("{path} is not valid: {}", counted(n, "problem"))),
    }
}

fn schema(_args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    out.json(&json_schema::document(super::VERSION, clock::wall_ms())["schema"])?;
    Ok(Outcome::Done)
}

fn file(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let document = place::document(args)?;
    if out.is_json() {
        out.json(&json!({"path": document.path, "exists": document.exists()}))?;
    } else {
        out.line(&document.path.display().to_string())?;
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests;
