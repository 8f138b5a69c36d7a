//! Putting a changed document into its text, touching nothing that did not change.
//!
//! Comments, order, spelling of keys, quotes and `${VAR}` references stay where the value did not change. A key that
//! the file writes in the other spelling keeps it. The result is read again and compared with what was wanted; should
//! it differ, the document is written anew instead, which loses comments and never content.

use std::ops::Range;

use serde_json::{Map, Value};
use toml_edit::TableLike;

use super::document::{self, Format};
use super::json5::{self, Member, Node, NodeKind};
use super::schema::fold;
use super::spelling;

/// One step of indentation in text that is written anew.
const INDENT: &str = "  ";

/// `text` with the content of `target`, a canonical document.
pub fn rewrite(text: &str, format: Format, target: &Value) -> String {
    let edited = match format {
        Format::Json5 => edit_json5(text, target),
        Format::Toml => edit_toml(text, target),
    };
    match edited {
        Some(edited) if says(&edited, format, target) => edited,
        _ => fresh(format, target),
    }
}

/// A document written anew.
pub fn fresh(format: Format, target: &Value) -> String {
    match format {
        Format::Json5 => format!("{}\n", pretty(target, "")),
        Format::Toml => {
            let mut document = toml_edit::DocumentMut::new();
            if let Value::Object(members) = target {
                fill(document.as_table_mut(), members);
            }
            document.to_string()
        }
    }
}

fn says(text: &str, format: Format, target: &Value) -> bool {
    document::parse(text, format).is_ok_and(|parsed| same(&spelling::canonical(&parsed).value, target))
}

/// Equal, but for nulls in objects where TOML has none, and for 8 and 8.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys());
            let null = Value::Null;
            keys.into_iter().all(|key| same(a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

/// The keys of an object in the text, each with the key of the target that it is: by its word, else by the other
/// spelling of a key that the text does not have by its word.
fn paired<'t>(written: &[&str], target: &'t Map<String, Value>) -> Vec<Option<&'t str>> {
    let is_written = |key: &str| written.contains(&key);
    written
        .iter()
        .map(|key| {
            let by_word = target.get_key_value(*key).map(|(key, _)| key.as_str());
            by_word.or_else(|| {
                target.keys().map(String::as_str).find(|other| !is_written(other) && fold(other) == fold(key))
            })
        })
        .collect()
}

// JSON5

fn edit_json5(text: &str, target: &Value) -> Option<String> {
    let node = json5::parse(text).ok()?;
    let is_strict = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let mut edits = Json5Edits { text, is_strict, list: Vec::new() };
    edits.node(&node, target);
    edits.list.sort_by_key(|(span, _)| span.start);
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (span, with) in &edits.list {
        if span.start < at {
            return None;
        }
        out.push_str(&text[at..span.start]);
        out.push_str(with);
        at = span.end;
    }
    out.push_str(&text[at..]);
    Some(out)
}

struct Json5Edits<'a> {
    text: &'a str,
    /// Plain JSON must stay so: other programs may read it.
    is_strict: bool,
    list: Vec<(Range<usize>, String)>,
}

impl Json5Edits<'_> {
    fn node(&mut self, node: &Node, target: &Value) {
        match (&node.kind, target) {
            (NodeKind::Object(members), Value::Object(target)) => self.object(node, members, target),
            (NodeKind::Array(items), Value::Array(target)) if items.len() == target.len() => {
                for (item, target) in items.iter().zip(target) {
                    self.node(item, target);
                }
            }
            _ if node.to_value() == *target => {}
            _ => self.list.push((node.span.clone(), pretty(target, self.indent_of(node.span.start)))),
        }
    }

    fn object(&mut self, node: &Node, members: &[Member], target: &Map<String, Value>) {
        let written: Vec<&str> = members.iter().map(|member| member.key.as_str()).collect();
        let pairs = paired(&written, target);
        let added: Vec<(&String, &Value)> =
            target.iter().filter(|(key, _)| !pairs.contains(&Some(key.as_str()))).collect();
        let last_stays = pairs.last().is_none_or(Option::is_some);
        let repeats = written.iter().enumerate().any(|(n, key)| written[..n].contains(key));
        // Where the last member goes while others come, and where a key stands twice, commas are not worth the care.
        if repeats || (!added.is_empty() && !last_stays) {
            let whole = Value::Object(target.clone());
            self.list.push((node.span.clone(), pretty(&whole, self.indent_of(node.span.start))));
            return;
        }
        let n_kept_front = pairs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        for (idx, (member, pair)) in members.iter().zip(&pairs).enumerate() {
            match pair {
                Some(key) => self.node(&member.value, &target[*key]),
                None if idx < n_kept_front => {
                    let span = self.whole_lines(member.key_span.start..self.after_comma(member.value.span.end));
                    self.list.push((span, String::new()));
                }
                None => {}
            }
        }
        if n_kept_front < members.len() {
            self.remove_tail(node, members, n_kept_front);
        }
        if !added.is_empty() {
            self.add(node, members, &added);
        }
    }

    /// Takes away every member from `first` on.
    fn remove_tail(&mut self, node: &Node, members: &[Member], first: usize) {
        let end = self.after_comma(members[members.len() - 1].value.span.end);
        let span = match first.checked_sub(1).map(|idx| members[idx].value.span.end) {
            // The comma before the first one taken away must go too.
            Some(kept_end) if self.is_strict => kept_end..members[members.len() - 1].value.span.end,
            Some(_) => self.whole_lines(members[first].key_span.start..end),
            None => node.span.start + 1..node.span.end - 1,
        };
        self.list.push((span, String::new()));
    }

    fn add(&mut self, node: &Node, members: &[Member], added: &[(&String, &Value)]) {
        let inside = &self.text[node.span.start + 1..node.span.end - 1];
        let outer = self.indent_of(node.span.start).to_owned();
        let indent = match members.first() {
            Some(first) if inside.contains('\n') => self.indent_of(first.key_span.start).to_owned(),
            _ => format!("{outer}{INDENT}"),
        };
        let is_quoted =
            self.is_strict || members.iter().any(|member| self.text[member.key_span.clone()].starts_with(['"', '\'']));
        let lines: Vec<String> = added
            .iter()
            .map(|(key, value)| {
                let is_bare = !is_quoted
                    && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
                    && !key.starts_with(|c: char| c.is_ascii_digit())
                    && !key.is_empty();
                let name = if is_bare { (*key).clone() } else { Value::from(key.as_str()).to_string() };
                format!("{indent}{name}: {}", pretty(value, &indent))
            })
            .collect();
        let lines = lines.join(",\n");
        match members.last() {
            None => self.list.push((node.span.start + 1..node.span.end - 1, format!("\n{lines}\n{outer}"))),
            Some(last) => {
                let end = last.value.span.end;
                let after = self.after_comma(end);
                let has_comma = after > end;
                let close = if inside.contains('\n') { String::new() } else { format!("\n{outer}") };
                if has_comma {
                    self.list.push((after..after, format!("\n{lines},{close}")));
                } else {
                    self.list.push((end..end, format!(",\n{lines}{close}")));
                }
            }
        }
    }

    /// The end of the comma that follows `at`, or `at`; comments between are passed over.
    fn after_comma(&self, at: usize) -> usize {
        let mut rest = &self.text[at..];
        loop {
            rest = rest.trim_start();
            if rest.starts_with("//") {
                rest = rest.split_once('\n').map_or("", |(_, after)| after);
            } else if let Some(comment) = rest.strip_prefix("/*") {
                rest = comment.split_once("*/").map_or("", |(_, after)| after);
            } else {
                break;
            }
        }
        if rest.starts_with(',') { self.text.len() - rest.len() + 1 } else { at }
    }

    /// The span, with the rest of its lines where they hold nothing else.
    fn whole_lines(&self, span: Range<usize>) -> Range<usize> {
        let line_start = self.text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[span.end..].find('\n').map(|newline| span.end + newline + 1);
        match line_end {
            Some(line_end) if self.is_blank(line_start..span.start) && self.is_blank(span.end..line_end) => {
                line_start..line_end
            }
            _ => span,
        }
    }

    fn is_blank(&self, span: Range<usize>) -> bool {
        self.text[span].trim().is_empty()
    }

    /// The blanks at the start of the line that holds `at`.
    fn indent_of(&self, at: usize) -> &str {
        let line = &self.text[self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)..];
        &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
    }
}

/// JSON on lines of their own, the first one without indentation.
fn pretty(value: &Value, indent: &str) -> String {
    let text = serde_json::to_string_pretty(value).expect("a value is always JSON");
    text.replace('\n', &format!("\n{indent}"))
}

// TOML

fn edit_toml(text: &str, target: &Value) -> Option<String> {
    let mut document: toml_edit::DocumentMut = text.parse().ok()?;
    edit_table(document.as_table_mut(), target.as_object()?);
    Some(document.to_string())
}

fn edit_table(table: &mut dyn TableLike, target: &Map<String, Value>) {
    let written: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    let words: Vec<&str> = written.iter().map(String::as_str).collect();
    let pairs = paired(&words, target);
    for (key, pair) in words.iter().zip(&pairs) {
        match pair.map(|name| &target[name]) {
            None | Some(Value::Null) => {
                table.remove(key);
            }
            Some(value) => {
                let item = table.get_mut(key).expect("the key was just listed");
                edit_item(item, value);
            }
        }
    }
    for (key, value) in target.iter().filter(|(key, _)| !pairs.contains(&Some(key.as_str()))) {
        if let Some(item) = item_of(value) {
            table.insert(key, item);
        }
    }
}

fn edit_item(item: &mut toml_edit::Item, target: &Value) {
    if same(&document::toml_item(item), target) {
        return;
    }
    if let (Some(table), Value::Object(target)) = (item.as_table_like_mut(), target) {
        edit_table(table, target);
        return;
    }
    if let (Some(tables), Value::Array(target)) = (item.as_array_of_tables_mut(), target)
        && tables.len() == target.len()
        && target.iter().all(Value::is_object)
    {
        for (table, target) in tables.iter_mut().zip(target) {
            edit_table(table, target.as_object().expect("checked above"));
        }
        return;
    }
    let Some(mut new) = item_of(target) else { return };
    if let (Some(old), Some(value)) = (item.as_value(), new.as_value_mut()) {
        *value.decor_mut() = old.decor().clone();
    }
    *item = new;
}

fn fill(table: &mut toml_edit::Table, members: &Map<String, Value>) {
    for (key, value) in members {
        if let Some(item) = item_of(value) {
            table.insert(key, item);
        }
    }
}

/// A value as TOML; `None` for null, which TOML does not have.
fn item_of(value: &Value) -> Option<toml_edit::Item> {
    Some(match value {
        Value::Null => return None,
        Value::Object(members) => {
            let mut table = toml_edit::Table::new();
            table.set_implicit(members.values().all(Value::is_object) && !members.is_empty());
            fill(&mut table, members);
            toml_edit::Item::Table(table)
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            let mut tables = toml_edit::ArrayOfTables::new();
            for members in items.iter().filter_map(Value::as_object) {
                let mut table = toml_edit::Table::new();
                fill(&mut table, members);
                tables.push(table);
            }
            toml_edit::Item::ArrayOfTables(tables)
        }
        plain => toml_edit::Item::Value(inline(plain)?),
    })
}

fn inline(value: &Value) -> Option<toml_edit::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => toml_edit::Value::Array(items.iter().filter_map(inline).collect()),
        Value::Object(members) => {
            let pairs = members.iter().filter_map(|(key, value)| Some((key.as_str(), inline(value)?)));
            toml_edit::Value::InlineTable(pairs.collect())
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, format: Format, target: Value, expected: &str) {
        let out = rewrite(text, format, &target);
        assert_eq!(out, expected);
        assert!(says(&out, format, &target));
    }

    const JSON5: &str =
        "// mine\n{\n  gateway: {\n    port: 1, // why\n    bind: 'lan',\n  },\n  ui: { seamColor: '#112233' },\n}\n";

    #[test]
    fn an_unchanged_document_keeps_its_text() {
        let target = spelling::canonical(&document::parse(JSON5, Format::Json5).unwrap()).value;
        check(JSON5, Format::Json5, target, JSON5);
    }

    #[test]
    fn a_changed_value_changes_alone() {
        check(
            JSON5,
            Format::Json5,
            json!({ "gateway": { "port": 2, "bind": "lan" }, "ui": { "seamColor": "#112233" } }),
            &JSON5.replace("port: 1", "port: 2"),
        );
    }

    #[test]
    fn keys_come_and_go_by_lines() {
        check(
            JSON5,
            Format::Json5,
            json!({ "gateway": { "bind": "lan" }, "ui": { "seamColor": "#112233" } }),
            &JSON5.replace("    port: 1, // why\n", "     // why\n"),
        );
        check(
            JSON5,
            Format::Json5,
            json!({ "gateway": { "port": 1 }, "ui": { "seamColor": "#112233" } }),
            &JSON5.replace("    bind: 'lan',\n", ""),
        );
        check(
            JSON5,
            Format::Json5,
            json!({ "gateway": { "port": 1, "bind": "lan", "auth": { "mode": "none" } }, "ui": { "seamColor": "#112233" } }),
            &JSON5.replace("'lan',\n", "'lan',\n    auth: {\n      \"mode\": \"none\"\n    },\n"),
        );
        check(
            JSON5,
            Format::Json5,
            json!({ "gateway": { "port": 1, "bind": "lan" }, "ui": {} }),
            &JSON5.replace("ui: { seamColor: '#112233' }", "ui: {}"),
        );
    }

    #[test]
    fn plain_json_stays_plain_json() {
        let text = "{\n  \"gateway\": {\n    \"port\": 1,\n    \"bind\": \"lan\"\n  },\n  \"ui\": {}\n}\n";
        let cases = [
            json!({ "gateway": { "port": 1 }, "ui": {} }),
            json!({ "gateway": { "port": 1, "bind": "lan" } }),
            json!({ "gateway": {}, "ui": { "seamColor": "#112233" } }),
            json!({ "gateway": { "port": 1, "bind": "lan", "customBindHost": "::1" }, "ui": {}, "logging": { "level": "warn" } }),
            json!({}),
        ];
        for target in cases {
            let out = rewrite(text, Format::Json5, &target);
            assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), target, "{out}");
        }
    }

    #[test]
    fn the_files_spelling_stays() {
        check(
            "{ gateway: { control_ui: { base_path: '/a', enabled: true } } }",
            Format::Json5,
            json!({ "gateway": { "controlUi": { "basePath": "/b", "enabled": true } } }),
            "{ gateway: { control_ui: { base_path: \"/b\", enabled: true } } }",
        );
    }

    #[test]
    fn toml_keeps_comments_order_and_spelling() {
        let text = "# head\n[gateway]\nport = 1 # why\nbind = 'lan'\n\n[gateway.control_ui]\nbase_path = '/a' # path\n\n[[agents.list]]\nid = 'a' # first\n";
        check(
            text,
            Format::Toml,
            json!({
                "gateway": { "port": 2, "controlUi": { "basePath": "/a" }, "auth": { "mode": "none" } },
                "agents": { "list": [{ "id": "b" }] },
                "logging": { "level": "warn" },
            }),
            "# head\n[gateway]\nport = 2 # why\n\n[gateway.control_ui]\nbase_path = '/a' # path\n\n[gateway.auth]\nmode = \"none\"\n\n[[agents.list]]\nid = \"b\" # first\n\n[logging]\nlevel = \"warn\"\n",
        );
    }

    #[test]
    fn a_key_written_twice_is_written_anew() {
        check(
            "{ ui: {}, ui: {} }",
            Format::Json5,
            json!({ "ui": { "seamColor": "#1" } }),
            "{\n  \"ui\": {\n    \"seamColor\": \"#1\"\n  }\n}",
        );
    }

    fn json_value() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            any::<i32>().prop_map(Value::from),
            "[a-z']{0,4}".prop_map(Value::from),
            any::<bool>().prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::hash_map("[a-d]_?[a-b]?", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        /// Any document becomes any other, in either language, whatever path the edit takes.
        #[test]
        fn the_result_always_says_what_was_wanted(old in json_value(), new in json_value()) {
            // Below a key that takes anything, so that keys are nobody's.
            let wrap = |value: &Value| serde_json::json!({ "acp": { "x": value.clone() }, "ui": { "seamColor": "#112233" } });
            let (old, new) = (wrap(&old), wrap(&new));
            for format in [Format::Json5, Format::Toml] {
                let out = rewrite(&fresh(format, &old), format, &new);
                proptest::prop_assert!(says(&out, format, &new), "{out}");
            }
        }
    }
}
