//! A directory with upstream's built page.
//!
//! Nothing is kept between requests: a build that is replaced on disk is served from the next request on.
//!
//! **Invariant:** files are opened through [`beneath`](crate::runtime::beneath) and in no other way, so neither a path nor a
//! swapped link leaves the root.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use super::content::{self, Coding, Kind};
use super::headers::{self, ASK, FOREVER};
use super::index::{self, Build};
use super::{BasePath, Request, Response, path};
use crate::protocol::json::json;
use crate::runtime::beneath::{Folder, Found};
use crate::runtime::digest::sha256_hex;

/// Largest file sent, in bytes (upstream's largest is 3.6 MB); a larger one is answered with 500.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Largest index read, in bytes; it is rewritten in memory. A larger one is answered with 500.
pub const INDEX_BYTES_MAX: u64 = 1024 * 1024;

const INDEX: &str = "index.html";
const SERVICE_WORKER: &str = "sw.js";
/// First parts of paths that are requests of programs and never views of the page.
const NOT_VIEWS: [&str; 4] = ["api", "v1", "__openclaw", "__openclaw__"];

/// Answers `inside`, a path below the base path, from `root`. Reads files: runs on a worker.
pub fn serve(root: &Path, base: &BasePath, inside: &str, request: &Request<'_>) -> Response {
    let Some(parts) = path::parts(inside) else { return headers::not_found(request.path) };
    let Ok(root) = Folder::open(root) else { return unavailable() };
    let name = parts.last().map_or("", |part| part);
    match Kind::of(name) {
        Kind::File(_) if parts.len() == 1 && name == INDEX => serve_index(&root, base, request),
        Kind::File(content_type) => {
            // Names below `assets/` hold a digest of their content.
            let hashed = parts.len() > 1 && parts[0] == "assets";
            serve_file(&root, &parts, content_type, if hashed { FOREVER } else { ASK }, request)
        }
        Kind::View if !NOT_VIEWS.contains(&&*parts[0]) && content::takes_html(request.accept) => {
            serve_index(&root, base, request)
        }
        Kind::View | Kind::Withheld => headers::not_found(request.path),
    }
}

/// Answers `inside` with the file of that name below `root`, and nothing else.
pub fn file(root: &Path, inside: &str, request: &Request<'_>) -> Response {
    let Some(parts) = path::parts(inside) else { return headers::not_found(request.path) };
    let Ok(root) = Folder::open(root) else { return headers::not_found(request.path) };
    match Kind::of(parts.last().map_or("", |part| part)) {
        Kind::File(content_type) => serve_file(&root, &parts, content_type, ASK, request),
        Kind::View | Kind::Withheld => headers::not_found(request.path),
    }
}

fn serve_index(root: &Folder, base: &BasePath, request: &Request<'_>) -> Response {
    let html = match root.file(&[INDEX]).and_then(|found| found.read(INDEX_BYTES_MAX)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return too_large(INDEX_BYTES_MAX),
        Err(_) => return unavailable(),
    };
    let index = index::prepare(html, base, has_service_worker(root));
    let mut headers = headers::upstream(index.build, &index.hashes);
    // Digest of what is sent, not of the file: the base path is part of it.
    let digest = &sha256_hex(index.html.as_bytes())[..16];
    let etag = format!("\"{digest}\"");
    let current = content::is_current(request.if_none_match, &etag);
    headers.push(("Cache-Control", ASK.to_owned()));
    headers.push(("ETag", etag));
    if current {
        return headers::not_modified(headers);
    }
    headers.push(("Content-Type", "text/html; charset=utf-8".to_owned()));
    Response { status: 200, headers, body: Cow::Owned(index.html.into_bytes()) }
}

fn serve_file(
    root: &Folder,
    parts: &[Cow<'_, str>],
    content_type: &str,
    keep: &str,
    request: &Request<'_>,
) -> Response {
    let Ok(mut found) = open(root, parts) else { return headers::not_found(request.path) };
    let mut coding = None;
    for wanted in content::codings(request.accept_encoding) {
        if let Ok(sibling) = open_sibling(root, parts, wanted) {
            found = sibling;
            coding = Some(wanted);
            break;
        }
    }
    // Only upstream's newer build has files that need more than the older policy, and a policy on a file only matters
    // when it is opened as a page of its own.
    let mut headers =
        headers::upstream(if has_service_worker(root) { Build::Protocol4 } else { Build::Protocol3 }, &[]);
    headers.push(("Cache-Control", keep.to_owned()));
    headers.push(("Vary", "Accept-Encoding".to_owned()));
    let etag = format!("W/\"{:x}-{:x}\"", found.bytes, found.modified_ns);
    let current = content::is_current(request.if_none_match, &etag);
    headers.push(("ETag", etag));
    headers.push(("Content-Type", content_type.to_owned()));
    if let Some(coding) = coding {
        headers.push(("Content-Encoding", coding.token().to_owned()));
    }
    if current {
        return headers::not_modified(headers);
    }
    match found.read(FILE_BYTES_MAX) {
        Ok(body) => Response { status: 200, headers, body: Cow::Owned(body) },
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => too_large(FILE_BYTES_MAX),
        Err(_) => unavailable(),
    }
}

fn open_sibling(root: &Folder, parts: &[Cow<'_, str>], coding: Coding) -> io::Result<Found> {
    let mut parts = parts.to_vec();
    if let Some(name) = parts.last_mut() {
        name.to_mut().push_str(coding.suffix());
    }
    open(root, &parts)
}

fn open(root: &Folder, parts: &[Cow<'_, str>]) -> io::Result<Found> {
    let parts: Vec<&str> = parts.iter().map(|part| &**part).collect();
    root.file(&parts)
}

fn has_service_worker(root: &Folder) -> bool {
    root.file(&[SERVICE_WORKER]).is_ok()
}

/// The root or its index cannot be read. Strangers are not told which directory that is.
fn unavailable() -> Response {
    headers::json_answer(
        503,
        &json!({ "ok": false, "error": "control_ui_unavailable", "hint": "gateway.controlUi.root has no readable index.html" }),
    )
}

fn too_large(bytes_max: u64) -> Response {
    headers::json_answer(500, &json!({ "ok": false, "error": "file_too_large", "maxBytes": bytes_max }))
}
