//! A directory with upstream's built page.
//!
//! Nothing is kept between requests: a build that is replaced on disk is served from the next request on.
//!
//! **Invariant:** every file is opened part by part below an open root, following no symbolic link, and only regular
//! files are read. There is no moment between a check and its use in which a path could change its meaning, so neither
//! a path nor a swapped link leaves the root. (`openat2` would do the same in one call, but the oldest kernel we run
//! on has none.) The root itself may be a link: it is the operator's own word.

use std::borrow::Cow;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::content::{self, Coding, Kind};
use super::headers::{self, ASK, FOREVER};
use super::index::{self, Build};
use super::{BasePath, Request, Response, path};

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
    let Ok(root) = File::open(root) else { return unavailable() };
    let root = OwnedFd::from(root);
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
    let Ok(root) = File::open(root) else { return headers::not_found(request.path) };
    match Kind::of(parts.last().map_or("", |part| part)) {
        Kind::File(content_type) => serve_file(&OwnedFd::from(root), &parts, content_type, ASK, request),
        Kind::View | Kind::Withheld => headers::not_found(request.path),
    }
}

fn serve_index(root: &OwnedFd, base: &BasePath, request: &Request<'_>) -> Response {
    let html = match open_below(root, &[INDEX]).and_then(|found| read(found, INDEX_BYTES_MAX)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return too_large(INDEX_BYTES_MAX),
        Err(_) => return unavailable(),
    };
    let index = index::prepare(html, base, has_service_worker(root));
    let mut headers = headers::upstream(index.build, &index.hashes);
    // Digest of what is sent, not of the file: the base path is part of it.
    let digest: String = Sha256::digest(index.html.as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect();
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
    root: &OwnedFd,
    parts: &[Cow<'_, str>],
    content_type: &str,
    keep: &str,
    request: &Request<'_>,
) -> Response {
    let Ok(mut found) = open_below(root, parts) else { return headers::not_found(request.path) };
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
    match read(found, FILE_BYTES_MAX) {
        Ok(body) => Response { status: 200, headers, body: Cow::Owned(body) },
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => too_large(FILE_BYTES_MAX),
        Err(_) => unavailable(),
    }
}

fn open_sibling(root: &OwnedFd, parts: &[Cow<'_, str>], coding: Coding) -> io::Result<Found> {
    let mut parts = parts.to_vec();
    if let Some(name) = parts.last_mut() {
        name.to_mut().push_str(coding.suffix());
    }
    open_below(root, &parts)
}

fn has_service_worker(root: &OwnedFd) -> bool {
    open_below(root, &[SERVICE_WORKER]).is_ok()
}

/// A regular file below the root, open.
struct Found {
    file: File,
    bytes: u64,
    modified_ns: i128,
}

/// Opens the file that `parts` name below `root`, following no symbolic link.
fn open_below(root: &OwnedFd, parts: &[impl AsRef<str>]) -> io::Result<Found> {
    let (name, folders) = parts.split_last().ok_or(io::ErrorKind::NotFound)?;
    let mut folder = None;
    for part in folders {
        let at = folder.as_ref().unwrap_or(root).as_raw_fd();
        folder = Some(open_at(at, part.as_ref(), libc::O_DIRECTORY)?);
    }
    let at = folder.as_ref().unwrap_or(root).as_raw_fd();
    // Not blocking: opening a pipe that nobody writes to must not hold up the worker.
    let file = File::from(open_at(at, name.as_ref(), libc::O_NONBLOCK)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    Ok(Found { file, bytes: metadata.len(), modified_ns })
}

/// Opens `name`, one part of a path, in the directory `at`, for reading and without following a link.
fn open_at(at: RawFd, name: &str, flags: libc::c_int) -> io::Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| io::ErrorKind::NotFound)?;
    let flags = flags | libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `name` is a NUL-terminated string that outlives the call, and `at` is an open directory that the caller
    // holds; `openat` keeps neither.
    let fd = unsafe { libc::openat(at, name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads the whole file; `FileTooLarge` over `bytes_max`, also when it grew after it was opened.
fn read(found: Found, bytes_max: u64) -> io::Result<Vec<u8>> {
    if found.bytes > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut body = Vec::with_capacity(usize::try_from(found.bytes).unwrap_or(0));
    found.file.take(bytes_max + 1).read_to_end(&mut body)?;
    if body.len() as u64 > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(body)
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
