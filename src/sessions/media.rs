//! What comes with a message beside its words: pictures and files. What one is, is read from its bytes; what it was
//! called is a name and nothing more.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::json::json;

/// Bytes of a text file that are judged and that a model is shown; the rest is named.
pub const TEXT_BYTES_SHOWN: usize = 64 * 1024;
/// Longest name that is kept, in characters.
pub const NAME_CHARS_MAX: usize = 80;

/// How clients and models are told where the bytes are.
pub const URL_PREFIX: &str = "media://inbound/";

/// A picture or a file of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Media {
    /// Names its bytes in the store.
    pub id: String,
    /// `image/png`, `text/plain`, `application/pdf`, …; as its bytes say.
    pub mime_type: String,
    /// What its sender calls it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file_name: Option<String>,
    /// Its size.
    pub bytes: u64,
}

impl Media {
    /// Whether it is a picture that models can be shown.
    pub fn is_picture(&self) -> bool {
        matches!(self.mime_type.as_str(), "image/png" | "image/jpeg" | "image/gif" | "image/webp")
    }

    /// Whether it is text that can be put before a model.
    pub fn is_text(&self) -> bool {
        self.mime_type.starts_with("text/")
            || matches!(self.mime_type.as_str(), "application/json" | "application/xml" | "application/yaml")
    }

    /// What it is called, or what it is.
    pub fn name(&self) -> &str {
        self.file_name.as_deref().unwrap_or(if self.is_picture() { "picture" } else { "file" })
    }

    /// As the message carries it, in the words of protocol 4.
    pub fn fact(&self) -> Value {
        let kind = match self.mime_type.split_once('/').map(|(kind, _)| kind) {
            Some(kind @ ("image" | "audio" | "video")) => kind,
            _ if self.mime_type == BINARY => "unknown",
            _ => "document",
        };
        let mut fact = json!({
            "url": format!("{URL_PREFIX}{}", self.id),
            "contentType": self.mime_type,
            "kind": kind,
        });
        if let Some(name) = &self.file_name {
            fact["fileName"] = json!(name);
        }
        fact["sizeBytes"] = json!(self.bytes);
        fact
    }

    fn of_fact(fact: &Value) -> Option<Media> {
        let text = |name: &str| fact.get(name).and_then(Value::as_str);
        Some(Media {
            id: text("url")?.strip_prefix(URL_PREFIX)?.to_owned(),
            mime_type: text("contentType").unwrap_or(BINARY).to_owned(),
            file_name: text("fileName").map(str::to_owned),
            bytes: fact.get("sizeBytes").and_then(Value::as_u64).unwrap_or(0),
        })
    }

    /// What came with a stored message.
    pub fn in_message(message: &Value) -> Vec<Media> {
        let facts = message.pointer("/__openclaw/media").and_then(Value::as_array);
        facts.into_iter().flatten().filter_map(Media::of_fact).collect()
    }
}

/// What nothing is known of.
const BINARY: &str = "application/octet-stream";

/// What these bytes are. A name helps to tell one kind of text from another, and one kind of archive; it makes nothing
/// a picture or a text that is none.
pub fn sniff(bytes: &[u8], name: Option<&str>) -> &'static str {
    let extension = name.and_then(|name| name.rsplit_once('.')).map(|(_, end)| end.to_ascii_lowercase());
    let extension = extension.as_deref().unwrap_or_default();
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => "audio/wav",
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => "image/bmp",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "image/tiff",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h', b'e', b'i', ..] => "image/heic",
        [_, _, _, _, b'f', b't', b'y', b'p', b'M', b'4', b'A', ..] => "audio/mp4",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "video/mp4",
        [0x1a, 0x45, 0xdf, 0xa3, ..] => "video/webm",
        [b'O', b'g', b'g', b'S', ..] => "audio/ogg",
        [b'I', b'D', b'3', ..] | [0xff, 0xfb, ..] => "audio/mpeg",
        [b'f', b'L', b'a', b'C', ..] => "audio/flac",
        [b'%', b'P', b'D', b'F', b'-', ..] => "application/pdf",
        [0x1f, 0x8b, ..] => "application/gzip",
        [b'P', b'K', 3, 4, ..] => match extension {
            "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
            _ => "application/zip",
        },
        _ if is_text(bytes) => match extension {
            "md" | "markdown" => "text/markdown",
            "csv" => "text/csv",
            "html" | "htm" => "text/html",
            "json" => "application/json",
            "xml" | "svg" => "application/xml",
            "yaml" | "yml" => "application/yaml",
            _ => "text/plain",
        },
        _ => BINARY,
    }
}

fn is_text(bytes: &[u8]) -> bool {
    let is_fine = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{c}');
    std::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(is_fine))
}

/// The part of a text file that is judged and shown.
pub fn head(bytes: &[u8]) -> &str {
    let bytes = &bytes[..bytes.len().min(TEXT_BYTES_SHOWN)];
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // The cut may have gone through a character.
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// A sender's name for a file, as one line that can be shown: no path, no quotes, no brackets.
pub fn file_name(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let is_fine = |c: &char| !c.is_control() && !matches!(c, '"' | '<' | '>' | '[' | ']' | '\u{2028}' | '\u{2029}');
    let name: String = last.chars().filter(is_fine).take(NAME_CHARS_MAX).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_is_read_from_its_bytes() {
        let check = |bytes: &[u8], name: &str, expected: &str| assert_eq!(sniff(bytes, Some(name)), expected, "{name}");
        check(b"\x89PNG\r\n\x1a\n", "a.txt", "image/png");
        check(b"plain words", "a.png", "text/plain");
        check(b"# head", "a.MD", "text/markdown");
        check(b"<svg onload=alert(1)>", "a.svg", "application/xml");
        check(b"%PDF-1.7", "a.png", "application/pdf");
        check(b"PK\x03\x04", "a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document");
        check(b"\x00\x01\x02", "a.txt", BINARY);
        check(b"a\x00b", "a.txt", BINARY);
        check(b"", "a", "text/plain");
        assert_eq!(sniff(b"\xff\xd8\xff\xe0", None), "image/jpeg");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = format!("{}é", "x".repeat(TEXT_BYTES_SHOWN - 1));
        assert_eq!(head(text.as_bytes()).len(), TEXT_BYTES_SHOWN - 1);
        let text = "x".repeat(TEXT_BYTES_SHOWN);
        assert_eq!(head(text.as_bytes()).len(), TEXT_BYTES_SHOWN, "the limit itself is whole");
    }

    #[test]
    fn a_name_is_one_harmless_line() {
        let name = |text: &str| file_name(text);
        assert_eq!(name("../../etc/passwd").as_deref(), Some("passwd"));
        assert_eq!(name("C:\\a\\b.png").as_deref(), Some("b.png"));
        assert_eq!(name("a\n</file>\".txt").as_deref(), Some("file.txt"));
        assert_eq!(name(" \t/ "), None);
        assert_eq!(name(&"x".repeat(99)).map(|name| name.len()), Some(NAME_CHARS_MAX));
    }

    #[test]
    fn a_message_carries_it_and_gives_it_back() {
        let media = Media {
            id: "a---1.png".to_owned(),
            mime_type: "image/png".to_owned(),
            file_name: Some("a.png".to_owned()),
            bytes: 7,
        };
        let message = json!({ "__openclaw": { "media": [media.fact(), { "url": "https://elsewhere/x.png" }] } });
        assert_eq!(message["__openclaw"]["media"][0]["url"], "media://inbound/a---1.png");
        assert_eq!(message["__openclaw"]["media"][0]["kind"], "image");
        assert_eq!(Media::in_message(&message), [media], "what lies elsewhere is not ours to read");
        assert!(Media::in_message(&json!({ "content": "x" })).is_empty());
    }
}
