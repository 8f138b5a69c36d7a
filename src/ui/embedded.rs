//! Our own page, compiled in: plain files without a build step, served from memory.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::{Request, Response, content, headers};
use crate::runtime::digest::sha256_hex;

/// Where the page is found below the base path.
const ENTRANCES: [&str; 3] = ["/", "/ui", "/control"];
/// Stands in the index where the program's version goes.
const VERSION_MARK: &str = "{{version}}";

macro_rules! files {
    ($($name:literal $content_type:literal,)*) => {
        &[$(($name, $content_type, include_str!(concat!("page/", $name))),)*]
    };
}

/// The files below `/page/`.
const FILES: &[(&str, &str, &str)] = files! {
    "chat.js" "text/javascript; charset=utf-8",
    "decisions.js" "text/javascript; charset=utf-8",
    "devices.js" "text/javascript; charset=utf-8",
    "dom.js" "text/javascript; charset=utf-8",
    "errors.js" "text/javascript; charset=utf-8",
    "health.js" "text/javascript; charset=utf-8",
    "icon.svg" "image/svg+xml",
    "identity.js" "text/javascript; charset=utf-8",
    "main.js" "text/javascript; charset=utf-8",
    "sessions.js" "text/javascript; charset=utf-8",
    "socket.js" "text/javascript; charset=utf-8",
    "style.css" "text/css; charset=utf-8",
    "transcript.js" "text/javascript; charset=utf-8",
};

const INDEX: &str = include_str!("page/index.html");

/// The index with the version in it. Made on the first request, so that starting up touches none of it.
static INDEX_NOW: LazyLock<String> = LazyLock::new(|| INDEX.replace(VERSION_MARK, env!("CARGO_PKG_VERSION")));
/// Names the page as compiled in; changes with every change of any of its files.
static ETAG: LazyLock<String> = LazyLock::new(|| {
    let bodies = FILES.iter().map(|(_, _, body)| *body);
    let whole: String = [INDEX_NOW.as_str()].into_iter().chain(bodies).collect();
    format!("\"{}\"", &sha256_hex(whole.as_bytes())[..16])
});

/// Answers `inside`, a path below the base path.
pub fn serve(inside: &str, request: &Request<'_>) -> Response {
    if ENTRANCES.contains(&inside) {
        return answer("text/html; charset=utf-8", INDEX_NOW.as_bytes(), request);
    }
    // Relative, like every address in the page: it also works behind a proxy that strips a prefix.
    if let Some(entrance) = inside.strip_suffix('/').filter(|entrance| ENTRANCES.contains(entrance)) {
        return headers::moved(format!("..{entrance}"));
    }
    let file = inside.strip_prefix("/page/").and_then(|name| FILES.iter().find(|(known, _, _)| *known == name));
    match file {
        Some((_, content_type, body)) => answer(content_type, body.as_bytes(), request),
        None => headers::not_found(request.path),
    }
}

fn answer(content_type: &str, body: &'static [u8], request: &Request<'_>) -> Response {
    let mut headers = headers::embedded();
    headers.push(("Cache-Control", headers::ASK.to_owned()));
    headers.push(("ETag", ETAG.clone()));
    if content::is_current(request.if_none_match, &ETAG) {
        return headers::not_modified(headers);
    }
    headers.push(("Content-Type", content_type.to_owned()));
    Response { status: 200, headers, body: Cow::Borrowed(body) }
}
