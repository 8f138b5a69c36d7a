//! The protocol's messages (Model Context Protocol, revision 2025-06-18), without their transport.
//!
//! A server is a stranger: names, descriptions, schemas and answers are read into bounded types, and what does not fit
//! is left out or refused.

use serde_json::{Map, Value, json};

use crate::tools::web::external;
use crate::tools::{Image, Output};

/// The revision that is asked for.
pub const REVISION: &str = "2025-06-18";
/// Revisions that are understood: what is used of them is the same.
const REVISIONS: &[&str] = &["2024-11-05", "2025-03-26", REVISION, "2025-11-25"];
/// Longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Tools of one server that are offered; more are left out.
pub const TOOLS_MAX: usize = 128;
/// Pages in which a server may list them.
pub const PAGES_MAX: usize = 16;
/// Longest description of a tool, in characters; the rest is cut.
const DESCRIPTION_CHARS_MAX: usize = 1024;
/// Largest schema of a tool's arguments, in bytes; a tool with a larger one is left out.
const SCHEMA_BYTES_MAX: usize = 16 * 1024;
/// Longest name that a model calls a tool by, in characters.
const NAME_CHARS_MAX: usize = 64;
/// Characters of it that the server's name may take.
const SERVER_CHARS_MAX: usize = 30;
/// Characters of an answer that are given to a model.
const ANSWER_CHARS_MAX: usize = 50_000;
/// Largest picture in an answer, in bytes.
const IMAGE_BYTES_MAX: usize = 5 * 1024 * 1024;

/// A request.
pub fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

/// A message that wants no answer.
pub fn notification(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

/// What begins a conversation.
pub fn hello() -> Value {
    json!({
        "protocolVersion": REVISION,
        "capabilities": {},
        "clientInfo": { "name": "openclaw-rs", "version": env!("CARGO_PKG_VERSION") },
    })
}

/// Whether a server's hello is one that is understood.
///
/// # Errors
/// What is wrong with it.
pub fn check_hello(answer: &Value) -> Result<(), String> {
    match answer["protocolVersion"].as_str() {
        Some(revision) if REVISIONS.contains(&revision) => Ok(()),
        Some(revision) => {
            let head: String = revision.chars().take(32).collect();
            Err(format!("it speaks revision {head:?} of the protocol, which is not understood"))
        }
        None => Err("it does not say which revision of the protocol it speaks".to_owned()),
    }
}

/// A message from a server.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// What came of a request of ours.
    Answer {
        /// Which.
        id: u64,
        /// What, or why not.
        result: Result<Value, String>,
    },
    /// A request of its own; it wants an answer.
    Asked {
        /// Its id, as it came.
        id: Value,
        /// What it asks for.
        method: String,
    },
    /// Something it tells.
    Told {
        /// What.
        method: String,
    },
}

/// Reads a message; `None`: it is none.
pub fn read(text: &str) -> Option<Heard> {
    let mut message: Value = serde_json::from_str(text).ok()?;
    let method = message["method"].as_str().map(str::to_owned);
    match (method, message.get("id").filter(|id| !id.is_null()).cloned()) {
        (Some(method), Some(id)) => Some(Heard::Asked { id, method }),
        (Some(method), None) => Some(Heard::Told { method }),
        (None, Some(id)) => {
            let result = match message.get("error") {
                Some(error) => {
                    let words = error["message"].as_str().unwrap_or("it does not say why");
                    Err(external::clean(words).chars().take(DESCRIPTION_CHARS_MAX).collect())
                }
                None => Ok(message["result"].take()),
            };
            Some(Heard::Answer { id: id.as_u64()?, result })
        }
        (None, None) => None,
    }
}

/// What is answered to a request of a server: it is alive, and nothing else is offered.
pub fn answer(id: &Value, method: &str) -> Value {
    match method {
        "ping" => json!({ "jsonrpc": "2.0", "id": id, "result": {} }),
        _ => json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "not offered" } }),
    }
}

/// A tool of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// What the server calls it.
    pub own: String,
    /// What a model calls it: `server__tool`.
    pub name: String,
    /// What a model is told of it.
    pub description: String,
    /// JSON schema of its arguments.
    pub parameters: Value,
}

/// Reads a page of a server's list; gives what the next one is asked for with.
pub fn tools(page: &Value) -> (Vec<(String, String, Value)>, Option<String>) {
    let tool = |tool: &Value| {
        let own = tool["name"].as_str().filter(|name| !name.is_empty() && name.len() <= 256)?.to_owned();
        let description = tool["description"].as_str().or(tool["title"].as_str()).unwrap_or_default();
        let description = external::clean(description).chars().take(DESCRIPTION_CHARS_MAX).collect();
        let mut schema = tool["inputSchema"].clone();
        if !schema.is_object() || schema["type"] != "object" {
            schema = json!({ "type": "object" });
        }
        if schema.get("properties").is_none() {
            schema["properties"] = Value::Object(Map::new());
        }
        (schema.to_string().len() <= SCHEMA_BYTES_MAX).then_some((own, description, schema))
    };
    let listed = page["tools"].as_array().into_iter().flatten().filter_map(tool).take(TOOLS_MAX).collect();
    (listed, page["nextCursor"].as_str().filter(|cursor| !cursor.is_empty()).map(str::to_owned))
}

/// A name in characters that every provider takes; `fallback` where there is nothing of it.
fn fragment(raw: &str, fallback: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let safe: String = raw.trim().chars().map(|c| if is_safe(c) { c } else { '-' }).collect();
    match safe.chars().next() {
        None => fallback.to_owned(),
        Some(c) if c.is_ascii_alphabetic() => safe,
        Some(_) => format!("{fallback}-{safe}"),
    }
}

/// A name that is none of `taken`, cut to `chars_max`; case does not tell names apart.
fn free(base: &str, chars_max: usize, taken: &mut Vec<String>) -> String {
    let mut number = 1;
    loop {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let name = format!("{}{suffix}", &base[..base.len().min(chars_max.saturating_sub(suffix.len()).max(1))]);
        let lower = name.to_ascii_lowercase();
        if !taken.contains(&lower) {
            taken.push(lower);
            return name;
        }
        number += 1;
    }
}

/// The servers' names as they stand before their tools', in the order of the configuration.
pub fn server_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut taken = Vec::new();
    names.map(|name| free(&fragment(name, "mcp"), SERVER_CHARS_MAX, &mut taken)).collect()
}

/// The tools of a server by names of their own.
pub fn named(server: &str, listed: Vec<(String, String, Value)>) -> Vec<Remote> {
    let mut taken = Vec::new();
    let mut all: Vec<Remote> = Vec::new();
    for (own, description, parameters) in listed.into_iter().take(TOOLS_MAX) {
        if all.iter().any(|tool| tool.own == own) {
            continue;
        }
        let chars_max = NAME_CHARS_MAX - server.len() - 2;
        let name = free(&fragment(&own, "tool"), chars_max, &mut taken);
        all.push(Remote { own, name: format!("{server}__{name}"), description, parameters });
    }
    all
}

/// What a call came to: what a model is given, and whether the server calls it a failure.
pub fn output(server: &str, result: &Value) -> (Output, bool) {
    let (mut texts, mut image): (Vec<String>, Option<Image>) = (Vec::new(), None);
    for part in result["content"].as_array().into_iter().flatten() {
        let text = |name: &str| part[name].as_str().unwrap_or_default();
        match text("type") {
            "text" => texts.push(text("text").to_owned()),
            "image" => match picture(part) {
                Some(picture) if image.is_none() => image = Some(picture),
                _ => texts.push(format!("[a picture, {}, that is not shown]", text("mimeType"))),
            },
            "resource" => {
                let resource = &part["resource"];
                let uri = resource["uri"].as_str().unwrap_or_default();
                let words = resource["text"].as_str().map_or_else(|| "[no text]".to_owned(), str::to_owned);
                texts.push(format!("{uri}\n{words}"));
            }
            "resource_link" => texts.push(format!("{} {}", text("name"), text("uri"))),
            kind => texts.push(format!("[{kind}, which is not shown]")),
        }
    }
    if texts.is_empty() && image.is_none() && result["structuredContent"].is_object() {
        texts.push(result["structuredContent"].to_string());
    }
    let text = texts.join("\n");
    let end = text.char_indices().nth(ANSWER_CHARS_MAX).map_or(text.len(), |(at, _)| at);
    let mut shown = text[..end].to_owned();
    if end < text.len() {
        shown.push_str(&format!("\n[{} more characters are left out]", text[end..].chars().count()));
    }
    let is_error = result["isError"] == true;
    let details = json!({
        "mcpServer": server,
        "truncated": end < text.len(),
        "externalContent": { "untrusted": true, "source": "mcp", "wrapped": true },
    });
    let text = external::wrap(&format!("MCP server {server}"), &shown);
    (Output { text, image, details: Some(details), ..Output::default() }, is_error)
}

fn picture(part: &Value) -> Option<Image> {
    use base64::Engine as _;
    let mime = match part["mimeType"].as_str()? {
        "image/png" => "image/png",
        "image/jpeg" => "image/jpeg",
        "image/gif" => "image/gif",
        "image/webp" => "image/webp",
        _ => return None,
    };
    let data = part["data"].as_str().filter(|data| data.len() / 4 * 3 <= IMAGE_BYTES_MAX)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
    Some(Image { mime, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let read = |value: Value| read(&value.to_string());
        assert_eq!(
            read(json!({ "id": 1, "result": { "a": 1 } })),
            Some(Heard::Answer { id: 1, result: Ok(json!({ "a": 1 })) })
        );
        let error = read(json!({ "id": 2, "error": { "code": 1, "message": "no\u{202e}" } }));
        assert_eq!(error, Some(Heard::Answer { id: 2, result: Err("no".to_owned()) }));
        assert_eq!(
            read(json!({ "id": "x", "method": "ping" })),
            Some(Heard::Asked { id: json!("x"), method: "ping".to_owned() })
        );
        assert_eq!(read(json!({ "method": "m" })), Some(Heard::Told { method: "m".to_owned() }));
        for none in
            [json!({}), json!([]), json!({ "id": "x", "result": 1 }), json!({ "id": -1, "result": 1 }), json!(1)]
        {
            assert_eq!(read(none), None);
        }
        assert_eq!(answer(&json!(3), "ping")["result"], json!({}));
        assert_eq!(answer(&json!(3), "sampling/createMessage")["error"]["code"], -32601);
        assert!(check_hello(&json!({ "protocolVersion": REVISION })).is_ok());
        assert!(check_hello(&json!({ "protocolVersion": "1999" })).is_err() && check_hello(&json!({})).is_err());
    }

    #[test]
    fn tools_have_names_that_every_provider_takes_and_no_two_the_same() {
        assert_eq!(
            server_names(["a b", "a.b", "1", "", "x".repeat(40).as_str()].into_iter())[..4],
            ["a-b", "a-b-2", "mcp-1", "mcp"]
        );
        let tool = |name: &str| (name.to_owned(), String::new(), json!({}));
        let long = "t".repeat(100);
        let all = named(
            "srv",
            vec![tool("read file"), tool("read-file"), tool("READ.FILE"), tool("read file"), tool(&long), tool("é")],
        );
        let names: Vec<&str> = all.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names[..3], ["srv__read-file", "srv__read-file-2", "srv__READ-FILE-3"]);
        assert_eq!((names[3].len(), names[4]), (NAME_CHARS_MAX, "srv__tool--"));
        assert_eq!(named("s", vec![tool("x"); 3]).len(), 1);
        let many: Vec<_> = (0..TOOLS_MAX + 9).map(|n| tool(&format!("t{n}"))).collect();
        assert_eq!(named("s", many).len(), TOOLS_MAX);
    }

    #[test]
    fn what_a_server_says_of_its_tools_is_bounded() {
        let page = json!({ "tools": [
            { "name": "fine", "description": "d".repeat(5000), "inputSchema": { "type": "object", "properties": {} } },
            { "name": "", "inputSchema": {} },
            { "name": "huge", "inputSchema": { "type": "object", "x": "y".repeat(SCHEMA_BYTES_MAX) } },
            { "name": "bare" },
        ], "nextCursor": "n" });
        let (listed, next) = tools(&page);
        let names: Vec<&str> = listed.iter().map(|(own, ..)| own.as_str()).collect();
        assert_eq!((names, next.as_deref()), (vec!["fine", "bare"], Some("n")));
        assert_eq!(listed[0].1.chars().count(), DESCRIPTION_CHARS_MAX);
        assert_eq!(listed[1].2, json!({ "type": "object", "properties": {} }));
        assert_eq!(tools(&json!({ "nextCursor": "" })), (Vec::new(), None));
    }

    #[test]
    fn what_a_call_came_to_is_words_between_marks_and_one_picture() {
        let png = json!({ "type": "image", "mimeType": "image/png", "data": "AAAA" });
        let result = json!({ "content": [
            { "type": "text", "text": "one" }, png, png, { "type": "resource", "resource": { "uri": "file:///a", "text": "two" } },
            { "type": "audio" },
        ], "isError": true });
        let (shown, is_error) = output("srv", &result);
        assert!(is_error && shown.image.is_some());
        for words in
            ["Source: MCP server srv", "one\n[a picture, image/png, that is not shown]\nfile:///a\ntwo\n[audio, which"]
        {
            assert!(shown.text.contains(words), "{words} not in {}", shown.text);
        }
        let (shown, _) = output("srv", &json!({ "structuredContent": { "a": 1 } }));
        assert!(shown.text.contains("{\"a\":1}"));
        let (shown, _) =
            output("srv", &json!({ "content": [{ "type": "text", "text": "é".repeat(ANSWER_CHARS_MAX + 1) }] }));
        assert!(shown.text.contains("[1 more characters are left out]") && shown.details.unwrap()["truncated"] == true);
    }
}
