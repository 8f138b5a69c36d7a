//! Headers that every answer carries, the content-security policies, and the answers that are not pages.

use std::borrow::Cow;

use super::index::Build;
use super::{BasePath, Response};
use crate::protocol::json::json;

/// For files whose name holds a digest of their content.
pub const FOREVER: &str = "public, max-age=31536000, immutable";
/// For everything else: keep it, but ask whether it is current.
pub const ASK: &str = "no-cache";
/// For answers about this moment.
pub const NEVER: &str = "no-store";

/// Policy of our own page: everything from its own origin, nothing inline, nothing parsed from text.
///
/// `connect-src 'self'` covers the page's own WebSocket and keeps a token from being sent anywhere else;
/// `form-action 'none'` keeps the sign-in form from putting it into an address when scripts are blocked.
const EMBEDDED_POLICY: &str = "default-src 'none'; base-uri 'none'; connect-src 'self'; form-action 'none'; \
     frame-ancestors 'none'; img-src 'self'; script-src 'self'; style-src 'self'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Headers of our own page.
pub fn embedded() -> Vec<(&'static str, String)> {
    let mut headers = common(EMBEDDED_POLICY.to_owned());
    headers.push(("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=()".to_owned()));
    headers.push(("Cross-Origin-Resource-Policy", "same-origin".to_owned()));
    headers
}

/// Headers of upstream's page and its files; `hashes` are the policy sources of the index's inline scripts.
pub fn upstream(build: Build, hashes: &[String]) -> Vec<(&'static str, String)> {
    let mut headers = common(upstream_policy(build, hashes));
    // The newer page scans codes, listens and speaks; each still asks its user first.
    headers.push(("Permissions-Policy", "camera=(self), geolocation=(self), microphone=(self), payment=()".to_owned()));
    headers
}

/// The policy each build needs (client notes, section 10, item 6), with the terminal off.
fn upstream_policy(build: Build, hashes: &[String]) -> String {
    let mut scripts = "script-src 'self'".to_owned();
    for hash in hashes {
        scripts.push(' ');
        scripts.push_str(hash);
    }
    let fixed = "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'";
    match build {
        Build::Protocol3 => format!(
            "{fixed}; {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: https:; font-src 'self'; \
             connect-src 'self' ws: wss:"
        ),
        Build::Protocol4 => format!(
            "{fixed}; frame-src 'self' http: https:; {scripts}; style-src 'self' 'unsafe-inline'; \
             img-src 'self' data: blob: https:; media-src 'self' data: blob:; font-src 'self'; worker-src 'self'; \
             connect-src 'self' ws: wss: data:"
        ),
    }
}

fn common(policy: String) -> Vec<(&'static str, String)> {
    vec![
        ("X-Content-Type-Options", "nosniff".to_owned()),
        ("Referrer-Policy", "no-referrer".to_owned()),
        ("X-Frame-Options", "DENY".to_owned()),
        ("Content-Security-Policy", policy),
    ]
}

/// A JSON answer that is never stored.
pub fn json_answer(status: u16, body: &serde_json::Value) -> Response {
    // A document that is only ever read by scripts may do nothing at all.
    let mut headers = common("default-src 'none'; frame-ancestors 'none'".to_owned());
    headers.push(("Content-Type", "application/json; charset=utf-8".to_owned()));
    headers.push(("Cache-Control", NEVER.to_owned()));
    Response { status, headers, body: Cow::Owned(body.to_string().into_bytes()) }
}

/// 404 with the path that was asked for.
pub fn not_found(path: &str) -> Response {
    json_answer(404, &json!({ "ok": false, "error": "not_found", "path": path }))
}

/// 405: pages are read, nothing else.
pub fn method_not_allowed() -> Response {
    let mut answer = json_answer(405, &json!({ "ok": false, "error": "method_not_allowed" }));
    answer.headers.push(("Allow", "GET, HEAD".to_owned()));
    answer
}

/// From the base path to the same with a slash, where relative addresses resolve below it; the query is kept.
pub fn redirect(base: &BasePath, query: Option<&str>) -> Response {
    // Only what is visible ASCII: anything else has no place in a header.
    let query = query.filter(|query| query.bytes().all(|byte| byte.is_ascii_graphic()));
    let location = format!("{}/{}{}", base.as_str(), if query.is_some() { "?" } else { "" }, query.unwrap_or(""));
    moved(location)
}

/// 302 to `location`.
pub fn moved(location: String) -> Response {
    let mut headers = common("default-src 'none'; frame-ancestors 'none'".to_owned());
    headers.push(("Location", location));
    headers.push(("Cache-Control", NEVER.to_owned()));
    Response { status: 302, headers, body: Cow::Borrowed(b"") }
}

/// 304 for a client whose copy is current: the headers of the full answer without those that describe its body.
pub fn not_modified(mut headers: Vec<(&'static str, String)>) -> Response {
    headers.retain(|(name, _)| !matches!(*name, "Content-Type" | "Content-Encoding"));
    Response { status: 304, headers, body: Cow::Borrowed(b"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_are_those_the_builds_need() {
        assert_eq!(
            upstream_policy(Build::Protocol3, &[]),
            "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; script-src 'self'; \
             style-src 'self' 'unsafe-inline'; img-src 'self' data: https:; font-src 'self'; connect-src 'self' ws: wss:"
        );
        assert_eq!(
            upstream_policy(Build::Protocol4, &["'sha256-A='".to_owned(), "'sha256-B='".to_owned()]),
            "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; \
             frame-src 'self' http: https:; script-src 'self' 'sha256-A=' 'sha256-B='; \
             style-src 'self' 'unsafe-inline'; img-src 'self' data: blob: https:; media-src 'self' data: blob:; \
             font-src 'self'; worker-src 'self'; connect-src 'self' ws: wss: data:"
        );
    }

    #[test]
    fn our_own_page_may_run_nothing_inline_and_reach_nothing_else() {
        for forbidden in ["unsafe", "http:", "https:", "ws:", "wss:", "data:", "*", "blob:"] {
            assert!(!EMBEDDED_POLICY.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn a_redirect_cannot_be_split_into_headers() {
        let base = BasePath::parse("/oc").expect("plain");
        assert_eq!(redirect(&base, None).header("Location"), Some("/oc/"));
        assert_eq!(redirect(&base, Some("session=main")).header("Location"), Some("/oc/?session=main"));
        assert_eq!(redirect(&base, Some("a\r\nSet-Cookie: x")).header("Location"), Some("/oc/"));
    }

    #[test]
    fn a_path_is_reflected_as_json_text_only() {
        let answer = not_found("/<script>\"");
        assert_eq!(&*answer.body, br#"{"ok":false,"error":"not_found","path":"/<script>\""}"#);
        assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"));
    }
}
