//! The files a session is about: what its agent touched, and what lies around it in the workspace.
//!
//! Everything is opened below the agent's workspace ([`crate::runtime::beneath`]), so no path and no link leads out of
//! it; a file with a second name is as good as missing, because the other name may lie anywhere. Only files that are
//! there are written, by who saw what is in them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{audit_as, session_key};
use crate::gateway::methods::agents::browse::{FOLDER_NAMES_MAX, PATH_PARTS_MAX, TEXT_BYTES_MAX, ms, picture_type};
use crate::gateway::methods::agents::files::{Sha256Hex, hash};
use crate::gateway::table::{QueryCx, StoreCx};
use crate::gateway::{Fact, Snapshot};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::NonEmpty;
use crate::protocol::session_key::KeyRules;
use crate::runtime::beneath::{Entry, Folder, Found};
use crate::sessions::touched::{self, Touched};
use crate::store::StoreError;
use crate::store::sessions::SessionRow;

/// Largest file shown or written, in bytes, as upstream's; a larger one is refused by size.
pub const SHOWN_BYTES_MAX: u64 = TEXT_BYTES_MAX;
/// Entries shown of one folder.
pub const ENTRIES_MAX: usize = 250;
/// Files and folders found by one search.
pub const FOUND_MAX: usize = 500;
/// Files and folders that one search looks at.
pub const SEARCHED_MAX: usize = 5000;
/// What is read of a file that is too large to show, to say what it is.
const HEAD_BYTES: u64 = 4096;
/// Longest path repeated in an error, in characters.
const PATH_CHARS_SHOWN: usize = 400;

/// Folders that a search leaves out: what programs made, and not people.
const NOT_SEARCHED: [&str; 8] = [".git", ".hg", ".next", ".turbo", ".yarn", "coverage", "dist", "node_modules"];
/// Pictures that browsers show.
const PICTURES: [&str; 5] = ["image/avif", "image/gif", "image/jpeg", "image/png", "image/webp"];

crate::params! {
    /// Which session, and which folder or what to look for.
    pub struct ListParams {
        session_key: NonEmpty = "sessionKey",
        agent_id: Option<NonEmpty> = "agentId",
        path: Option<String> = "path",
        search: Option<String> = "search",
    }
}

pub(super) fn list(cx: QueryCx<'_>, params: ListParams) -> Result<Value, RpcError> {
    let db = cx.store.get()?;
    let mut out = json!({ "sessionKey": params.session_key.0, "files": [] });
    let Some(session) = session(db, &params.session_key, params.agent_id.as_ref(), &cx.snapshot.keys)? else {
        return Ok(out);
    };
    let Some(place) = Place::of(&cx.snapshot, &session) else { return Ok(out) };
    let touched = touched::of(db, &session.session_id)?;
    let touched: Vec<(Vec<String>, Touched)> =
        touched.into_iter().filter_map(|file| Some((place.below(&file.path)?, file))).collect();
    let folder = place.open();
    out["files"] = touched.iter().map(|(parts, file)| touched_entry(folder.as_ref(), parts, file)).collect();
    out["root"] = json!(place.root);
    out["gitCheckout"] = json!(place.root.ancestors().any(|above| above.join(".git").exists()));
    let how: BTreeMap<String, &str> = touched.iter().map(|(parts, file)| (parts.join("/"), kind(file))).collect();
    let search = params.search.as_deref().map(str::trim).filter(|search| !search.is_empty());
    let browsed = match search {
        Some(search) => Some(searched(folder.as_ref(), search, &how)),
        None => browsed(&place, folder.as_ref(), params.path.as_deref().unwrap_or_default(), &how),
    };
    if let Some(browsed) = browsed {
        out["browser"] = browsed;
    }
    Ok(out)
}

/// What lies in a folder; `None` when there is no such folder. A workspace that was never made is an empty one.
fn browsed(place: &Place, folder: Option<&Folder>, path: &str, how: &BTreeMap<String, &str>) -> Option<Value> {
    let parts = place.below(path)?;
    let mut entries = match folder {
        Some(folder) => folder.folder(&parts).ok()?.entries(FOLDER_NAMES_MAX).ok()?,
        None if parts.is_empty() => Vec::new(),
        None => return None,
    };
    entries.sort_by(folders_first);
    let is_cut = entries.len() > ENTRIES_MAX;
    let path = parts.join("/");
    let shown: Vec<Value> = entries.iter().take(ENTRIES_MAX).map(|entry| browser_entry(entry, &path, how)).collect();
    let mut out = json!({ "path": path, "entries": shown });
    if let Some((_, above)) = parts.split_last() {
        out["parentPath"] = json!(above.join("/"));
    }
    if is_cut {
        out["truncated"] = json!(true);
    }
    Some(out)
}

fn folders_first(a: &Entry, b: &Entry) -> std::cmp::Ordering {
    (Reverse(a.bytes.is_none()), &a.name).cmp(&(Reverse(b.bytes.is_none()), &b.name))
}

fn below_path(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") }
}

fn browser_entry(entry: &Entry, above: &str, how: &BTreeMap<String, &str>) -> Value {
    let path = below_path(above, &entry.name);
    let mut out = json!({ "path": path, "name": entry.name, "updatedAtMs": ms(entry.modified_ns) });
    let touched = match entry.bytes {
        Some(bytes) => {
            out["kind"] = json!("file");
            out["size"] = json!(bytes);
            how.get(&path).copied()
        }
        None => {
            out["kind"] = json!("directory");
            let prefix = format!("{path}/");
            let within = how.range(prefix.clone()..).take_while(|(file, _)| file.starts_with(&prefix));
            within.map(|(_, kind)| *kind).reduce(|a, b| if a == b { a } else { "mixed" })
        }
    };
    if let Some(touched) = touched {
        out["sessionKind"] = json!(touched);
    }
    out
}

/// Files and folders whose path contains a text, in any case.
fn searched(folder: Option<&Folder>, search: &str, how: &BTreeMap<String, &str>) -> Value {
    let mut found = Search { wanted: search.to_lowercase(), how, n_seen: 0, entries: Vec::new(), is_cut: false };
    if let Some(folder) = folder {
        found.look(folder, "", 0);
    }
    let is_folder = |entry: &Value| entry["kind"] == "directory";
    found.entries.sort_by_key(|entry| (!is_folder(entry), entry["name"].as_str().unwrap_or_default().to_owned()));
    let mut out = json!({ "path": "", "search": search, "entries": found.entries });
    if found.is_cut {
        out["truncated"] = json!(true);
    }
    out
}

struct Search<'a> {
    wanted: String,
    how: &'a BTreeMap<String, &'a str>,
    n_seen: usize,
    entries: Vec<Value>,
    is_cut: bool,
}

impl Search<'_> {
    fn look(&mut self, folder: &Folder, above: &str, depth: usize) {
        let Ok(mut entries) = folder.entries(FOLDER_NAMES_MAX) else { return };
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            if self.n_seen >= SEARCHED_MAX || self.entries.len() >= FOUND_MAX {
                self.is_cut = true;
                return;
            }
            self.n_seen += 1;
            let path = below_path(above, &entry.name);
            if path.to_lowercase().contains(&self.wanted) {
                self.entries.push(browser_entry(&entry, above, self.how));
            }
            let goes_on = entry.bytes.is_none() && !NOT_SEARCHED.contains(&&*entry.name) && depth < PATH_PARTS_MAX;
            if goes_on && let Ok(below) = folder.folder(&[&entry.name]) {
                self.look(&below, &path, depth + 1);
            }
        }
    }
}

crate::params! {
    /// Which file of which session.
    pub struct GetParams {
        session_key: NonEmpty = "sessionKey",
        path: NonEmpty = "path",
        agent_id: Option<NonEmpty> = "agentId",
    }
}

pub(super) fn get(cx: QueryCx<'_>, params: GetParams) -> Result<Value, RpcError> {
    let db = cx.store.get()?;
    let missing = || not_found(&params.path.0);
    let session = session(db, &params.session_key, params.agent_id.as_ref(), &cx.snapshot.keys)?.ok_or_else(missing)?;
    let place = Place::of(&cx.snapshot, &session).ok_or_else(missing)?;
    let parts = place.below(&params.path.0).filter(|parts| !parts.is_empty()).ok_or_else(missing)?;
    let touched = touched::of(db, &session.session_id)?;
    let same = touched.iter().find(|file| place.below(&file.path).as_ref() == Some(&parts));
    let found = place.open().and_then(|folder| plain(&folder, &parts)).ok_or_else(missing)?;
    let (bytes, modified_ns) = (found.bytes, found.modified_ns);
    let mut file = entry(&parts, bytes, modified_ns);
    file["path"] =
        json!(same.filter(|file| file.path == params.path.0).map_or(parts.join("/"), |file| file.path.clone()));
    file["kind"] = json!(same.map_or("read", kind));
    if bytes <= SHOWN_BYTES_MAX {
        show(&mut file, &found.read(SHOWN_BYTES_MAX).map_err(|_| missing())?);
    } else {
        let head = found.head(HEAD_BYTES).map_err(|_| missing())?;
        if is_text_so_far(&head) {
            return Err(too_large(&params.path.0, bytes));
        }
        file["previewKind"] = json!("unsupported");
        if let Some(mime) = picture_type(&head) {
            file["mimeType"] = json!(mime);
        }
    }
    Ok(json!({ "sessionKey": params.session_key.0, "root": place.root, "file": file }))
}

/// Puts what is in a file beside what it is called.
fn show(file: &mut Value, content: &[u8]) {
    let picture = picture_type(content);
    let text = std::str::from_utf8(content).ok().filter(|text| !text.contains('\0'));
    match (picture, text) {
        (Some(mime), _) if PICTURES.contains(&mime) => {
            file["mimeType"] = json!(mime);
            file["contentEncoding"] = json!("base64");
            file["previewKind"] = json!("image");
            file["content"] = json!(STANDARD.encode(content));
        }
        (None, Some(text)) => {
            file["mimeType"] = json!("text/plain");
            file["contentEncoding"] = json!("utf8");
            file["previewKind"] = json!("text");
            file["content"] = json!(text);
            file["hash"] = json!(hash(content));
        }
        (picture, _) => {
            file["previewKind"] = json!("unsupported");
            if let Some(mime) = picture {
                file["mimeType"] = json!(mime);
            }
        }
    }
}

/// Whether the beginning of a file is text, as far as one can tell: a character may have been cut at its end.
fn is_text_so_far(head: &[u8]) -> bool {
    let is_whole = |error: std::str::Utf8Error| error.error_len().is_none();
    !head.contains(&0) && picture_type(head).is_none() && std::str::from_utf8(head).map_or_else(is_whole, |_| true)
}

crate::params! {
    /// A file, what it is to hold, and the hash of what the caller saw in it.
    pub struct SetParams {
        session_key: NonEmpty = "sessionKey",
        path: NonEmpty = "path",
        agent_id: Option<NonEmpty> = "agentId",
        content: String = "content",
        expected_hash: Sha256Hex = "expectedHash",
    }
}

/// Replaces what is in a file that is there, whole or not at all.
pub(super) fn set(cx: StoreCx<'_>, params: SetParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let path = &params.path.0;
    let missing = || StoreError::from(not_found(path));
    let unsafe_file = || refusal("session_file_unsafe", "session file could not be written safely", path);
    let session = session(cx.db, &params.session_key, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    let session = session.ok_or_else(missing)?;
    let place = Place::of(&cx.snapshot, &session).ok_or_else(missing)?;
    let bytes = params.content.as_bytes();
    if bytes.contains(&0) {
        return Err(unsafe_file().into());
    }
    if bytes.len() as u64 > SHOWN_BYTES_MAX {
        return Err(too_large(path, bytes.len() as u64).into());
    }
    let parts = place.below(path).filter(|parts| !parts.is_empty()).ok_or_else(missing)?;
    let (name, folders) = parts.split_last().ok_or_else(missing)?;
    let folder = place.open().and_then(|folder| folder.folder(folders).ok()).ok_or_else(missing)?;
    let found = folder.file(&[name]).map_err(|_| missing())?;
    if found.n_links > 1 {
        return Err(unsafe_file().into());
    }
    let before = found.read(SHOWN_BYTES_MAX).map_err(|_| unsafe_file())?;
    if before.contains(&0) || std::str::from_utf8(&before).is_err() {
        return Err(unsafe_file().into());
    }
    let current = hash(&before);
    if current != params.expected_hash.as_str() {
        let error = RpcError::invalid("session file changed since it was read");
        let details = json!({ "type": "session_file_conflict", "path": shown(path), "currentHash": current });
        return Err(error.with_details(details).into());
    }
    audit_as(&cx, &format!("{}/{}", session.agent_id, parts.join("/")), Some(json!({ "session": session.key })))?;
    let written = folder.replace(name, bytes).and_then(|()| folder.file(&[name]));
    let found = written.map_err(|error| {
        log::warn!("workspace file cannot be written agent={} error={error}", session.agent_id);
        unsafe_file()
    })?;
    let mut file = entry(&parts, bytes.len() as u64, found.modified_ns);
    file["path"] = json!(path);
    file["kind"] = json!("modified");
    file["hash"] = json!(hash(bytes));
    Ok((json!({ "sessionKey": params.session_key.0, "root": place.root, "file": file }), Vec::new()))
}

fn session(
    db: &crate::store::db::Queries,
    key: &NonEmpty,
    agent: Option<&NonEmpty>,
    keys: &KeyRules,
) -> Result<Option<SessionRow>, StoreError> {
    db.session(session_key(key.0.trim(), agent, keys)?.as_str())
}

/// Where a session's files are.
struct Place {
    root: PathBuf,
}

impl Place {
    /// `None` when its agent is not configured any more.
    fn of(snapshot: &Snapshot, session: &SessionRow) -> Option<Place> {
        let agent = snapshot.config.settings.agents.get(&session.agent_id)?;
        Some(Place { root: agent.workspace.clone() })
    }

    fn open(&self) -> Option<Folder> {
        Folder::open(&self.root).ok()
    }

    /// The parts of a path below the root, whether it was said from there or from the root of the disk; `None` when it
    /// leads elsewhere.
    fn below(&self, path: &str) -> Option<Vec<String>> {
        let path = Path::new(path.trim());
        let relative = if path.is_absolute() { path.strip_prefix(&self.root).ok()? } else { path };
        let mut parts: Vec<String> = Vec::new();
        for component in relative.components() {
            match component {
                Component::Normal(name) => parts.push(name.to_str()?.to_owned()),
                Component::CurDir => {}
                Component::ParentDir => _ = parts.pop()?,
                Component::RootDir | Component::Prefix(_) => return None,
            }
        }
        (parts.len() <= PATH_PARTS_MAX).then_some(parts)
    }
}

/// A file that has this name only.
fn plain(folder: &Folder, parts: &[String]) -> Option<Found> {
    folder.file(parts).ok().filter(|found| found.n_links <= 1)
}

fn kind(file: &Touched) -> &'static str {
    if file.is_modified { "modified" } else { "read" }
}

fn touched_entry(folder: Option<&Folder>, parts: &[String], file: &Touched) -> Value {
    let name = parts.last().map_or(file.path.as_str(), String::as_str);
    let found = folder.and_then(|folder| plain(folder, parts));
    let mut out = match found {
        Some(found) => entry(parts, found.bytes, found.modified_ns),
        None => json!({ "name": name, "missing": true }),
    };
    out["path"] = json!(file.path);
    out["kind"] = json!(kind(file));
    out
}

fn entry(parts: &[String], bytes: u64, modified_ns: i128) -> Value {
    json!({
        "workspacePath": parts.join("/"),
        "name": parts.last(),
        "missing": false,
        "size": bytes,
        "updatedAtMs": ms(modified_ns),
    })
}

fn shown(path: &str) -> String {
    path.chars().take(PATH_CHARS_SHOWN).collect()
}

fn refusal(kind: &str, text: &str, path: &str) -> RpcError {
    RpcError::invalid(text).with_details(json!({ "type": kind, "path": shown(path) }))
}

fn not_found(path: &str) -> RpcError {
    refusal("session_file_not_found", "session file not found", path)
}

fn too_large(path: &str, bytes: u64) -> RpcError {
    let details = json!({
        "type": "session_file_too_large",
        "maxPreviewBytes": SHOWN_BYTES_MAX,
        "path": shown(path),
        "size": bytes,
    });
    RpcError::invalid("session file is too large").with_details(details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_root_however_it_is_said() {
        let place = Place { root: PathBuf::from("/w/s") };
        let below = |path: &str| place.below(path).map(|parts| parts.join("/"));
        for (path, expected) in [
            ("a/b", Some("a/b")),
            (" ./a//b/../c ", Some("a/c")),
            ("", Some("")),
            ("/w/s/a", Some("a")),
            ("/w/s", Some("")),
            ("/w/sa", None),
            ("/w/s/../x", None),
            ("..", None),
            ("a/../../w", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(below(path).as_deref(), expected, "{path}");
        }
        assert!(below(&"a/".repeat(PATH_PARTS_MAX)).is_some());
        assert!(below(&"a/".repeat(PATH_PARTS_MAX + 1)).is_none());
    }

    #[test]
    fn what_a_file_is_is_told_by_what_is_in_it() {
        let of = |content: &[u8]| {
            let mut file = json!({});
            show(&mut file, content);
            (file["previewKind"].clone(), file["mimeType"].clone(), file.get("content").is_some())
        };
        assert_eq!(of(b"words"), (json!("text"), json!("text/plain"), true));
        assert_eq!(of(b"\x89PNG\r\n\x1a\n"), (json!("image"), json!("image/png"), true));
        assert_eq!(of(b"BM rest"), (json!("unsupported"), json!("image/bmp"), false));
        assert_eq!(of(b"a\0b"), (json!("unsupported"), Value::Null, false));
        assert_eq!(of(b"\xff\xfe"), (json!("unsupported"), Value::Null, false));
        assert!(is_text_so_far("aé".as_bytes()) && is_text_so_far(&"aé".as_bytes()[..2]));
        assert!(!is_text_so_far(b"a\xffb") && !is_text_so_far(b"a\0"));
    }
}
