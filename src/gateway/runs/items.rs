//! Tools as clients see them: the `tool` stream, and on protocol 4 the lines that its pages draw (`item`,
//! `command_output`).

use serde_json::{Value, json};

use super::shown::{On, Shown};
use crate::gateway::Gateway;
use crate::protocol::ConnId;
use crate::sessions::history::COMMAND_TOOL;
use crate::sessions::row;

/// Characters of what a tool was asked for in the line that tells of it.
const META_CHARS_MAX: usize = 120;
/// Characters of an error in it.
const ERROR_CHARS_MAX: usize = 400;

/// A tool that is called, as the line that tells of it.
#[derive(Debug)]
pub(super) struct Item {
    call_id: String,
    title: String,
    /// What it was asked for, in few words.
    meta: Option<String>,
    began_ms: i64,
}

impl Item {
    fn of(call_id: &str, name: &str, arguments: &Value, now_ms: i64) -> Item {
        let asked =
            ["command", "path", "file_path", "action", "query", "url"].iter().find_map(|key| arguments.get(*key));
        let meta = match asked {
            Some(Value::String(text)) => Some(short(text, META_CHARS_MAX)),
            Some(Value::Array(words)) => {
                let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                Some(short(&words.join(" "), META_CHARS_MAX))
            }
            _ => None,
        };
        let meta = meta.filter(|meta| !meta.is_empty());
        let spelled = name.split('_').map(capital).collect::<Vec<_>>().join(" ");
        let title = meta.as_ref().map_or_else(|| spelled.clone(), |meta| format!("{spelled} {meta}"));
        Item { call_id: call_id.to_owned(), title, meta, began_ms: now_ms }
    }

    /// The line's part that is always the same.
    fn data(&self, name: &str, phase: &str, status: &str) -> Value {
        let mut data = json!({
            "itemId": format!("tool:{}", self.call_id), "toolCallId": self.call_id, "name": name, "kind": "tool",
            "phase": phase, "title": self.title, "status": status,
        });
        if let Some(meta) = &self.meta {
            data["meta"] = json!(meta);
        }
        data["commandBearing"] = json!(name == COMMAND_TOOL);
        data
    }

    fn output(&self, phase: &str, output: &str, status: &str) -> Value {
        let title = self.meta.as_ref().map_or_else(|| "command".to_owned(), |meta| format!("command {meta}"));
        json!({
            "itemId": format!("command:{}", self.call_id), "phase": phase, "title": title, "toolCallId": self.call_id,
            "name": COMMAND_TOOL, "output": output, "status": status,
        })
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// In one line of at most so many characters.
fn short(text: &str, chars_max: usize) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(chars_max) {
        None => words,
        Some((at, _)) => format!("{}…", &words[..at]),
    }
}

fn said(text: &str) -> Value {
    json!([{ "type": "text", "text": text }])
}

impl Gateway {
    /// A tool is called.
    pub(super) fn show_tool_start(
        &mut self,
        shown: &mut Shown,
        starter: Option<ConnId>,
        (id, name): (&str, &str),
        arguments: &Value,
        now_ms: i64,
    ) {
        let item = Item::of(id, name, arguments, now_ms);
        let mut data = item.data(name, "start", "running");
        data["startedAt"] = json!(item.began_ms);
        self.agent_event(shown, On::V4, "item", &data, now_ms);
        shown.item = Some(item);
        let data = json!({ "phase": "start", "name": name, "toolCallId": id, "args": arguments });
        self.tool_event(shown, starter, &data, now_ms);
    }

    /// It shows how far it is.
    pub(super) fn show_tool_update(
        &mut self,
        shown: &mut Shown,
        starter: Option<ConnId>,
        (id, name): (&str, &str),
        (text, details): (&str, &Value),
        now_ms: i64,
    ) {
        let partial = json!({ "content": said(text), "details": details });
        let data = json!({ "phase": "update", "name": name, "toolCallId": id, "partialResult": partial });
        self.tool_event(shown, starter, &data, now_ms);
        let Some(item) = shown.item.take_if(|item| item.call_id == id) else { return };
        self.agent_event(shown, On::V4, "item", &item.data(name, "update", "running"), now_ms);
        if name == COMMAND_TOOL {
            self.agent_event(shown, On::V4, "command_output", &item.output("delta", text, "running"), now_ms);
        }
        shown.item = Some(item);
    }

    /// It has answered.
    pub(super) fn show_tool_end(
        &mut self,
        shown: &mut Shown,
        starter: Option<ConnId>,
        (id, name): (&str, &str),
        (text, details, is_error): (&str, Option<&Value>, bool),
        now_ms: i64,
    ) {
        let mut result = json!({ "content": said(text) });
        if let Some(details) = details {
            result["details"] = details.clone();
        }
        let data = json!({
            "phase": "result", "name": name, "toolCallId": id, "isError": is_error,
            "commandBearing": name == COMMAND_TOOL, "result": result,
        });
        self.tool_event(shown, starter, &data, now_ms);
        let Some(item) = shown.item.take_if(|item| item.call_id == id) else { return };
        let of = |field: &str| details.and_then(|details| details.get(field)).filter(|value| !value.is_null());
        let went_wrong = is_error
            || of("status").is_some_and(|status| status == "failed")
            || of("exitCode").is_some_and(|code| code != 0);
        let mut data = item.data(name, "end", if went_wrong { "failed" } else { "completed" });
        row::set_all(&mut data, json!({ "startedAt": item.began_ms, "endedAt": now_ms }));
        if is_error {
            data["error"] = json!(short(text, ERROR_CHARS_MAX));
        }
        self.agent_event(shown, On::V4, "item", &data, now_ms);
        if let (COMMAND_TOOL, Some(status)) = (name, of("status")) {
            let output = of("aggregated").or_else(|| of("tail")).and_then(Value::as_str).unwrap_or(text);
            let output = if output.is_empty() { text } else { output };
            let mut data = item.output("end", output, status.as_str().unwrap_or("completed"));
            for field in ["exitCode", "durationMs", "cwd"] {
                if let Some(value) = of(field) {
                    data[field] = value.clone();
                }
            }
            self.agent_event(shown, On::V4, "command_output", &data, now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_which_tool_was_asked_for_what() {
        let title = |name: &str, arguments: Value| Item::of("1", name, &arguments, 5).title;
        assert_eq!(title("exec", json!({ "command": "exit\n 3" })), "Exec exit 3");
        assert_eq!(title("exec", json!({ "command": ["ls", "-l"] })), "Exec ls -l");
        assert_eq!(title("no_such_tool", json!({})), "No Such Tool");
        assert_eq!(Item::of("1", "read", &json!({ "path": "x".repeat(500) }), 5).meta.unwrap().chars().count(), 121);
    }
}
