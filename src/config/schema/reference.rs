//! The reference page, `docs/config-reference.md`, written from the rows.

use std::fmt::Write as _;

use super::rows::SECTIONS;
use super::{Kind, Row, TEXT_CHARS_MAX, TEXTS_MAX, Unit};

const HEAD: &str = "\
# Configuration reference

One document, TOML (`openclaw-rs.toml`) or JSON5 (`openclaw.json`): `--config`, else `OPENCLAW_RS_CONFIG`, else
`OPENCLAW_CONFIG_PATH`, else `openclaw-rs.toml` in the working directory, else `openclaw.json` in the state directory.
Without any, every default below holds. The command line beats environment variables, which beat the document.

`snake_case` and `camelCase` are the same key at every level. `${VAR}` in a text is that environment variable
(`$${VAR}` is the literal); `$include` draws in a file from the same directory. An unknown key in a file is a warning
and is kept; in `config.set`, `config.patch`, `config.apply` and `config validate --strict` it is an error.

- **R**, what a change takes: `L` nothing, `C` a new connection or run, `A` a restart of the account, `S` a restart of
  the process.
- **S**: `x` marks secrets, which leave the process only as `__OPENCLAW_REDACTED__`.
- *kept, not read by this build*: the key is accepted, checked and written back, and has no effect yet.
- `*` is a key of your choice, `[]` an element of a list.

This page is written from the table in `src/config/schema`; a test compares the two.
";

/// The whole page.
pub fn page() -> String {
    let mut out = String::from(HEAD);
    for section in SECTIONS {
        let _ = write!(out, "\n## {}\n\n{}\n\n", section.label, section.help);
        out.push_str("| key | type | default | meaning | environment | R | S |\n|---|---|---|---|---|---|---|\n");
        for row in section.rows {
            let _ = writeln!(out, "{}", line(row));
        }
    }
    out
}

fn line(row: &Row) -> String {
    let mut key = format!("`{}`", row.path);
    if !row.aliases.is_empty() {
        let aliases: Vec<String> = row.aliases.iter().map(|alias| format!("`{alias}`")).collect();
        let _ = write!(key, " (also {})", aliases.join(", "));
    }
    let mut meaning = row.doc.to_owned();
    // An object is read when something in it is.
    let is_read = super::tree().at(row.path).is_some_and(|id| super::tree().is_read(id));
    if !is_read {
        meaning.push_str(" *Kept, not read by this build.*");
    }
    let env: Vec<String> = row.env.iter().map(|name| format!("`{name}`")).collect();
    let secret = if row.secret { "x" } else { "" };
    let cells =
        [&key, &kind(&row.kind), &default(row), &meaning, &env.join(", "), &row.reload.letter().to_string(), secret];
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |", cells.join(" | ")).replace("|  |", "| |")
}

fn default(row: &Row) -> String {
    match (row.default, row.otherwise) {
        ("", "") => String::new(),
        ("", words) => words.to_owned(),
        (json, _) => format!("`{}`", json.trim_matches('"')),
    }
}

fn kind(kind: &Kind) -> String {
    let words = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    match kind {
        Kind::Bool => "yes or no".to_owned(),
        Kind::Int { min, max: i64::MAX } => format!("whole number from {min}"),
        Kind::Int { min, max } => format!("whole number {min} to {max}"),
        Kind::Number { min, max } => format!("number {min} to {max}"),
        Kind::Text { chars_max } if *chars_max < TEXT_CHARS_MAX => format!("text, at most {chars_max} characters"),
        Kind::Text { .. } => "text".to_owned(),
        Kind::Choice(choices) => words(choices),
        Kind::BoolOr(choices) => format!("yes, no, {}", words(choices)),
        Kind::Texts { items_max } if *items_max < TEXTS_MAX => format!("list of at most {items_max} texts"),
        Kind::Texts { .. } => "list of texts".to_owned(),
        Kind::Ids => "list of ids".to_owned(),
        Kind::Regexes => "list of regular expressions".to_owned(),
        Kind::Ranges => "list of addresses or ranges".to_owned(),
        Kind::Duration(unit) => format!("duration, plain numbers in {}", unit_name(*unit)),
        Kind::DurationOrOff(unit) => format!("duration or `false`, plain numbers in {}", unit_name(*unit)),
        Kind::Size => "size".to_owned(),
        Kind::Url(schemes) => format!("URL ({})", schemes.join(", ")),
        Kind::Path => "path".to_owned(),
        Kind::Address => "`host:port`".to_owned(),
        Kind::Digest => "64 hexadecimal digits".to_owned(),
        Kind::Color => "color".to_owned(),
        Kind::Table => "object".to_owned(),
        Kind::Open => "object, further keys kept".to_owned(),
        Kind::Map => "map".to_owned(),
        Kind::List => "list of objects".to_owned(),
        Kind::TextOrTable => "text or object".to_owned(),
        Kind::Any => "anything".to_owned(),
    }
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Milliseconds => "milliseconds",
        Unit::Minutes => "minutes",
        Unit::Hours => "hours",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_page_in_docs_is_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config-reference.md");
        let page = super::page();
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            fs::write(&path, &page).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == page,
            "docs/config-reference.md is stale: run `UPDATE_FIXTURES=1 cargo test config::schema::reference`"
        );
    }
}
