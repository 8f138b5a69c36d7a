//! The files that an agent read or changed in a conversation, by what its tool calls named.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::transcript::{PageAt, PageLimits};

/// Messages looked at, from the newest back.
pub const MESSAGES_MAX: usize = 4000;
/// Files told of.
pub const FILES_MAX: usize = 500;
/// Longest path told of, in bytes.
const PATH_BYTES_MAX: usize = 4096;
/// Messages and bytes read from the store at once; a larger message names no files.
const PAGE: PageLimits = PageLimits { rows_max: 200, page_bytes_max: 2 * 1024 * 1024, message_bytes_max: 1024 * 1024 };

/// A file that was touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// What the call named it.
    pub path: String,
    /// Whether it was changed, or only read.
    pub is_modified: bool,
}

/// Those of a session's conversation: what was changed first, then by path.
///
/// # Errors
/// The store's.
pub fn of(db: &Queries, session_id: &str) -> Result<Vec<Touched>, StoreError> {
    let (mut files, mut at, mut n_read) = (BTreeMap::new(), PageAt::Newest, 0);
    while n_read < MESSAGES_MAX {
        let page = db.transcript_page(session_id, at, PAGE)?;
        let Some(oldest) = page.messages.first().map(|row| row.seq) else { break };
        n_read += page.messages.len();
        for row in page.messages.iter().rev().filter(|row| row.role == "assistant") {
            let message = row.message.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
            for call in message.iter().filter_map(|message| message["content"].as_array()).flatten() {
                note(call, &mut files);
            }
        }
        if !page.has_older {
            break;
        }
        at = PageAt::Before(oldest);
    }
    let mut files: Vec<Touched> = files.into_iter().map(|(path, is_modified)| Touched { path, is_modified }).collect();
    files.sort_by_key(|file| !file.is_modified);
    Ok(files)
}

/// Notes the files of one block of a message, if it is a call of a tool for files.
fn note(call: &Value, files: &mut BTreeMap<String, bool>) {
    if call["type"] != "toolCall" {
        return;
    }
    let written;
    let arguments = match &call["arguments"] {
        Value::String(text) => {
            written = serde_json::from_str(text).unwrap_or_default();
            &written
        }
        arguments => arguments,
    };
    let mut touch = |path: Option<&str>, is_modified: bool| {
        let Some(path) = path.map(str::trim).filter(|path| !path.is_empty() && path.len() <= PATH_BYTES_MAX) else {
            return;
        };
        if files.len() < FILES_MAX || files.contains_key(path) {
            *files.entry(path.to_owned()).or_default() |= is_modified;
        }
    };
    let named = || ["path", "file_path", "filePath", "file"].iter().find_map(|name| arguments[*name].as_str());
    match call["name"].as_str().unwrap_or_default().to_lowercase().as_str() {
        "read" => touch(named(), false),
        "write" | "edit" => touch(named(), true),
        "apply_patch" => {
            let text = arguments["input"].as_str().unwrap_or_default();
            for line in text.lines() {
                let of = ["Add File", "Update File", "Delete File", "Move to"];
                let head = |what: &&str| line.strip_prefix("*** ")?.strip_prefix(*what)?.strip_prefix(": ");
                touch(of.iter().find_map(head), true);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn noted(calls: &[Value]) -> Vec<(String, bool)> {
        let mut files = BTreeMap::new();
        for call in calls {
            note(call, &mut files);
        }
        files.into_iter().collect()
    }

    fn call(name: &str, arguments: Value) -> Value {
        json!({ "type": "toolCall", "id": "1", "name": name, "arguments": arguments })
    }

    #[test]
    fn a_changed_file_stays_changed_and_other_tools_touch_none() {
        let calls = [
            call("Read", json!({ "path": " a " })),
            call("write", json!({ "file_path": "b" })),
            call("read", json!(r#"{"path":"b"}"#)),
            call("exec", json!({ "path": "c" })),
            json!({ "type": "text", "text": "read d" }),
        ];
        assert_eq!(noted(&calls), [("a".to_owned(), false), ("b".to_owned(), true)]);
    }

    #[test]
    fn a_patch_names_its_files_in_its_headings() {
        let patch = "*** Begin Patch\n*** Add File: new\n+*** Add File: no\n*** Update File: old\n*** Move to: moved\n";
        let files = noted(&[call("apply_patch", json!({ "input": patch }))]);
        assert_eq!(files, ["moved", "new", "old"].map(|path| (path.to_owned(), true)));
    }

    #[test]
    fn there_are_only_so_many_files() {
        let calls: Vec<Value> = (0..=FILES_MAX).map(|n| call("read", json!({ "path": n.to_string() }))).collect();
        assert_eq!(noted(&calls).len(), FILES_MAX);
        assert!(noted(&[call("read", json!({ "path": "x".repeat(PATH_BYTES_MAX + 1) }))]).is_empty());
    }
}
