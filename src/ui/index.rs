//! The index of an upstream build: which build it is, what has to be rewritten in it, and which inline scripts it runs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::BasePath;
use crate::runtime::digest::sha256;

/// The generations of upstream's Control UI that differ in how they want to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// 2026.2.21 and its like: one bundle, relative addresses, no inline script; finds its base path by itself.
    Protocol3,
    /// 2026.9.6 and its like: many chunks, inline scripts, a service worker; is told its base path.
    Protocol4,
}

impl Build {
    /// Tells a build by its files: the newer one stamps its build id on the `<html>` tag and has a service worker
    /// (`sw.js`) beside the index; either is enough.
    pub fn of(index: &str, has_service_worker: bool) -> Build {
        if has_service_worker || index.contains("data-openclaw-control-ui-build-id=") {
            Build::Protocol4
        } else {
            Build::Protocol3
        }
    }
}

/// An index as it is sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    /// Which build it is.
    pub build: Build,
    /// The document.
    pub html: String,
    /// Policy sources of its inline scripts, in order: `'sha256-…'`.
    pub hashes: Vec<String>,
}

/// Prepares `html` for the page at `base` (client notes, section 10, item 2).
///
/// The older build is sent as it is. In the newer one `./` addresses become absolute, since it is also served for deep
/// links such as `/chat/main`, and the `<html>` tag gets the two attributes its scripts read.
pub fn prepare(html: String, base: &BasePath, has_service_worker: bool) -> Index {
    let build = Build::of(&html, has_service_worker);
    let html = match build {
        Build::Protocol3 => html,
        Build::Protocol4 => {
            let prefix = base.as_str();
            let absolute = html
                .replace("href=\"./", &format!("href=\"{prefix}/"))
                .replace("src=\"./", &format!("src=\"{prefix}/"));
            // A base path holds no character that would end the attribute (`BasePath::parse`).
            absolute.replacen(
                "<html",
                &format!(
                    "<html data-openclaw-control-ui-base-path=\"{prefix}\" data-openclaw-terminal-enabled=\"false\""
                ),
                1,
            )
        }
    };
    let hashes = inline_scripts(&html).iter().map(|script| source_of(script)).collect();
    Index { build, html, hashes }
}

/// The policy source that allows exactly `script`.
fn source_of(script: &str) -> String {
    // Browsers hash the script after the HTML parser has turned every line ending into one line feed.
    let normal = script.replace("\r\n", "\n").replace('\r', "\n");
    format!("'sha256-{}'", STANDARD.encode(sha256(normal.as_bytes())))
}

/// The text of every `<script>` without a `src`, in order.
fn inline_scripts(html: &str) -> Vec<&str> {
    let lower = html.to_ascii_lowercase();
    let mut scripts = Vec::new();
    let mut at = 0;
    while let Some(found) = lower[at..].find("<script") {
        let attributes = at + found + "<script".len();
        let Some(length) = tag_end(&html[attributes..]) else { break };
        let body = attributes + length + 1;
        let Some(end) = lower[body..].find("</script") else { break };
        if !has_source(&lower[attributes..attributes + length]) {
            scripts.push(&html[body..body + end]);
        }
        at = body + end;
    }
    scripts
}

/// Where a tag's `>` is, past quoted attribute values.
fn tag_end(rest: &str) -> Option<usize> {
    let mut quote = None;
    rest.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            (None, '>') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        None
    })
}

/// Whether a tag's attributes (in lower case) name a `src`, outside any quoted value.
fn has_source(attributes: &str) -> bool {
    let mut quote = None;
    let mut bare = String::with_capacity(attributes.len());
    for c in attributes.chars() {
        match quote {
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None => bare.push(c),
            Some(open) if c == open => {
                quote = None;
                bare.push(' ');
            }
            Some(_) => {}
        }
    }
    bare.split(|c: char| c.is_ascii_whitespace() || c == '=').any(|name| name == "src")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> BasePath {
        BasePath::parse(text).expect("plain")
    }

    const OLD: &str = "<!doctype html>\n<html lang=\"en\"><head><link rel=\"icon\" href=\"./favicon.svg\" />\n\
                       <script type=\"module\" crossorigin src=\"./assets/index-1.js\"></script></head></html>\n";
    const NEW: &str = "<!doctype html>\n<html data-openclaw-control-ui-build-id=\"2026.9.6-x\" lang=\"en\"><head>\n\
                       <link rel=\"manifest\" href=\"./manifest.webmanifest\" />\n\
                       <a href=\"https://example.org/./x\">y</a>\n\
                       <script data-cfasync=\"false\">alert(1)</script>\n\
                       <SCRIPT type=\"module\" src=\"./assets/index-2.js\"></SCRIPT>\n\
                       <script>\r\nvar a = \"</div>\";\r\n</script>\n</head></html>\n";

    #[test]
    fn the_older_build_is_sent_as_it_is() {
        let index = prepare(OLD.to_owned(), &base("/oc"), false);
        assert_eq!(index, Index { build: Build::Protocol3, html: OLD.to_owned(), hashes: vec![] });
    }

    #[test]
    fn the_newer_build_is_told_where_it_lives() {
        for (at, prefix) in [("/", ""), ("/oc", "/oc")] {
            let index = prepare(NEW.to_owned(), &base(at), false);
            assert_eq!(index.build, Build::Protocol4);
            assert!(index.html.contains(&format!(
                "<html data-openclaw-control-ui-base-path=\"{prefix}\" data-openclaw-terminal-enabled=\"false\" \
                 data-openclaw-control-ui-build-id=\"2026.9.6-x\" lang=\"en\">"
            )));
            assert!(index.html.contains(&format!("href=\"{prefix}/manifest.webmanifest\"")));
            assert!(index.html.contains(&format!("src=\"{prefix}/assets/index-2.js\"")));
            assert!(index.html.contains("href=\"https://example.org/./x\""));
        }
    }

    #[test]
    fn either_mark_tells_the_newer_build() {
        assert_eq!(Build::of(OLD, false), Build::Protocol3);
        assert_eq!(Build::of(OLD, true), Build::Protocol4);
        assert_eq!(Build::of(NEW, false), Build::Protocol4);
    }

    /// Expected values made with `printf … | openssl dgst -sha256 -binary | base64`.
    #[test]
    fn every_inline_script_is_allowed_by_its_digest() {
        let index = prepare(NEW.to_owned(), &base("/"), true);
        assert_eq!(
            index.hashes,
            [
                "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='",
                "'sha256-VnsqHITKhiHFfBVtv1MhamSYlP1gdbm8XVigbpToTl0='"
            ]
        );
    }

    #[test]
    fn scripts_are_found_as_a_browser_finds_them() {
        for (html, want) in [
            ("<script src=x></script>", vec![]),
            ("<script data-src=\"x\">a</script>", vec!["a"]),
            ("<script title=\"a > b\">a</script>", vec!["a"]),
            ("<script title='src=\"x\"'>a</script>", vec!["a"]),
            ("<script async src = \"x\"></script>", vec![]),
            ("<Script>A</sCript >", vec!["A"]),
            ("<script></script><script>b</script>", vec!["", "b"]),
            ("<script>never closed", vec![]),
        ] {
            assert_eq!(inline_scripts(html), want, "{html}");
        }
    }
}
