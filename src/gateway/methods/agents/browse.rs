//! Looking around in an agent's workspace: folders, and files that can be shown. Nothing here writes.

use std::cmp::Reverse;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::files::{Place, not_found};
use crate::gateway::table::QueryCx;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Count, NonEmpty, Positive};
use crate::runtime::beneath::{Entry, Folder};

/// Largest text shown, in bytes, as upstream's; a larger one is refused by size.
pub const TEXT_BYTES_MAX: u64 = 256 * 1024;
/// Largest picture shown, in bytes, as upstream's; a larger one is refused by size.
pub const PICTURE_BYTES_MAX: u64 = 5 * 1024 * 1024;
/// Names looked at in one folder; what lies beyond is not listed.
pub const FOLDER_NAMES_MAX: usize = 10_000;
/// Entries of one page, at most.
pub const PAGE_ENTRIES_MAX: usize = 500;
/// Entries of one page when nothing is said.
const PAGE_ENTRIES: usize = 250;
/// Folders a path may go through; a deeper one is not found.
pub const PATH_PARTS_MAX: usize = 64;

crate::params! {
    /// Which folder, and which page of it.
    pub struct ListParams {
        agent_id: NonEmpty = "agentId",
        path: Option<String> = "path",
        offset: Option<Count> = "offset",
        limit: Option<Positive> = "limit",
    }
}

pub(super) fn list(cx: QueryCx<'_>, params: ListParams) -> Result<Value, RpcError> {
    let place = place(&cx, &params.agent_id)?;
    let parts = parts(params.path.as_deref().unwrap_or_default())?;
    let path = parts.join("/");
    let missing = || refusal("workspace_path_not_found", "workspace directory not found", &path);
    let folder = place.open()?.and_then(|folder| folder.folder(&parts).ok()).ok_or_else(missing)?;
    let mut entries = folder.entries(FOLDER_NAMES_MAX).map_err(|_| missing())?;
    // Folders first.
    entries.sort_by(|a, b| (Reverse(a.bytes.is_none()), &a.name).cmp(&(Reverse(b.bytes.is_none()), &b.name)));
    let n_total = entries.len();
    let offset = params.offset.map_or(0, |offset| usize::try_from(offset.0).unwrap_or(usize::MAX)).min(n_total);
    let limit = params.limit.map_or(PAGE_ENTRIES, |limit| usize::try_from(limit.0).unwrap_or(usize::MAX));
    let page = entries.iter().skip(offset).take(limit.min(PAGE_ENTRIES_MAX));
    let mut out = json!({ "agentId": place.id, "path": path });
    if let Some((_, above)) = parts.split_last() {
        out["parentPath"] = json!(above.join("/"));
    }
    out["entries"] = page.map(|entry| wire(entry, &parts)).collect();
    out["totalEntries"] = json!(n_total);
    out["offset"] = json!(offset);
    Ok(out)
}

fn wire(entry: &Entry, above: &[String]) -> Value {
    let path = above.iter().map(String::as_str).chain([entry.name.as_str()]).collect::<Vec<_>>().join("/");
    let mut out = json!({ "path": path, "name": entry.name });
    match entry.bytes {
        Some(bytes) => {
            out["kind"] = json!("file");
            out["size"] = json!(bytes);
        }
        None => out["kind"] = json!("directory"),
    }
    out["updatedAtMs"] = json!(ms(entry.modified_ns));
    out
}

pub(in crate::gateway::methods) fn ms(modified_ns: i128) -> i64 {
    i64::try_from(modified_ns / 1_000_000).unwrap_or(0).max(0)
}

crate::params! {
    /// Which file.
    pub struct GetParams {
        agent_id: NonEmpty = "agentId",
        path: NonEmpty = "path",
    }
}

pub(super) fn get(cx: QueryCx<'_>, params: GetParams) -> Result<Value, RpcError> {
    let place = place(&cx, &params.agent_id)?;
    let parts = parts(&params.path.0)?;
    let path = parts.join("/");
    let missing = || refusal("workspace_file_not_found", "workspace file not found", &path);
    let name = parts.last().ok_or_else(missing)?;
    let open = |folder: Folder| folder.file(&parts).ok();
    // A file with other names may lie anywhere on the disk.
    let found = place.open()?.and_then(open).filter(|found| found.n_links <= 1).ok_or_else(missing)?;
    let expects_picture = PICTURE_NAMES.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
    let bytes_max = if expects_picture { PICTURE_BYTES_MAX } else { TEXT_BYTES_MAX };
    let (bytes, modified_ns) = (found.bytes, found.modified_ns);
    let content = found.read(bytes_max).map_err(|error| match error.kind() {
        std::io::ErrorKind::FileTooLarge => {
            let details =
                json!({ "type": "workspace_file_too_large", "maxBytes": bytes_max, "path": path, "size": bytes });
            RpcError::invalid("workspace file is too large to preview").with_details(details)
        }
        _ => missing(),
    })?;
    let unsupported =
        || refusal("workspace_file_unsupported", "workspace file is not UTF-8 text or a supported image", &path);
    let (mime_type, encoding, text) = if expects_picture {
        (picture_type(&content).ok_or_else(unsupported)?, "base64", STANDARD.encode(&content))
    } else {
        ("text/plain", "utf8", String::from_utf8(content.clone()).map_err(|_| unsupported())?)
    };
    Ok(json!({ "agentId": place.id, "file": {
        "path": path,
        "name": name,
        "size": content.len(),
        "updatedAtMs": ms(modified_ns),
        "mimeType": mime_type,
        "encoding": encoding,
        "content": text,
    } }))
}

fn place(cx: &QueryCx<'_>, agent: &NonEmpty) -> Result<Place, RpcError> {
    // Protocol 3 has no such methods; who calls them all the same is answered in the words of the one that has.
    Place::of(&cx.snapshot.config, &agent.0, crate::protocol::version::Protocol::V4).map_err(|_| not_found(&agent.0))
}

fn refusal(kind: &str, text: &str, path: &str) -> RpcError {
    RpcError::invalid(text).with_details(json!({ "type": kind, "path": path }))
}

/// The parts of a path below the workspace; none: the workspace itself.
fn parts(path: &str) -> Result<Vec<String>, RpcError> {
    let shown: String = path.chars().filter(|c| !c.is_control()).take(200).collect();
    let is_drive = path.as_bytes().get(1) == Some(&b':');
    if path.starts_with(['/', '\\']) || is_drive {
        return Err(refusal("workspace_path_invalid", "path must be workspace-relative", &shown));
    }
    let parts = path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".");
    let parts: Vec<String> = parts.map(str::to_owned).collect();
    if parts.len() > PATH_PARTS_MAX || parts.iter().any(|part| part == "..") {
        return Err(refusal("workspace_path_invalid", "path escapes the agent workspace", &shown));
    }
    Ok(parts)
}

/// Endings of names that promise a picture.
const PICTURE_NAMES: [&str; 9] = [".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".webp"];

/// What a picture is by its first bytes, whatever its name says.
pub(in crate::gateway::methods) fn picture_type(content: &[u8]) -> Option<&'static str> {
    let at = |from: usize, bytes: &[u8]| content.get(from..from + bytes.len()) == Some(bytes);
    Some(match () {
        () if at(0, b"\x89PNG\r\n\x1a\n") => "image/png",
        () if at(0, b"\xff\xd8\xff") => "image/jpeg",
        () if at(0, b"GIF87a") || at(0, b"GIF89a") => "image/gif",
        () if at(0, b"RIFF") && at(8, b"WEBP") => "image/webp",
        () if at(0, b"BM") => "image/bmp",
        () if at(4, b"ftypavif") || at(4, b"ftypavis") => "image/avif",
        () if at(4, b"ftyphei") || at(4, b"ftyphev") => "image/heic",
        () if at(4, b"ftypmif1") || at(4, b"ftypmsf1") => "image/heif",
        () => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_workspace() {
        let check = |path: &str, expected: &[&str]| assert_eq!(parts(path).unwrap(), expected, "{path}");
        check("", &[]);
        check(".", &[]);
        check("a/./b//c", &["a", "b", "c"]);
        check("a\\b", &["a", "b"]);
        for (path, why) in [
            ("/etc/passwd", "path must be workspace-relative"),
            ("\\\\host\\share", "path must be workspace-relative"),
            ("C:\\x", "path must be workspace-relative"),
            ("..", "path escapes the agent workspace"),
            ("a/../../b", "path escapes the agent workspace"),
        ] {
            assert_eq!(parts(path).unwrap_err().message, why, "{path}");
        }
        assert!(parts(&"a/".repeat(PATH_PARTS_MAX)).is_ok());
        assert!(parts(&"a/".repeat(PATH_PARTS_MAX + 1)).is_err());
    }

    #[test]
    fn a_picture_is_what_its_first_bytes_say() {
        assert_eq!(picture_type(b"\x89PNG\r\n\x1a\nrest"), Some("image/png"));
        assert_eq!(picture_type(b"RIFF....WEBPVP8 "), Some("image/webp"));
        assert_eq!(picture_type(b"\0\0\0\x20ftypavif"), Some("image/avif"));
        assert_eq!(picture_type(b"<svg onload=alert(1)>"), None);
        assert_eq!(picture_type(b""), None);
    }
}
