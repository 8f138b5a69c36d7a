//! The two sites as a browser meets them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::directory::{FILE_BYTES_MAX, INDEX_BYTES_MAX};
use super::*;

const OLD_INDEX: &str =
    "<!doctype html><html lang=\"en\"><script type=\"module\" src=\"./assets/index-1.js\"></script></html>";
const NEW_INDEX: &str = "<!doctype html><html data-openclaw-control-ui-build-id=\"x\"><link href=\"./favicon.svg\">\
                         <script>alert(1)</script></html>";

fn get(path: &str) -> Request<'_> {
    Request { method: "GET", path, accept: Some("text/html,*/*;q=0.8"), ..Request::default() }
}

fn own(base: &str) -> Site {
    Site { root: None, base: BasePath::parse(base).expect("plain") }
}

/// A root with an index, an asset and what must never be served, and a secret beside it.
fn built(index: &str) -> (tempfile::TempDir, Site) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("root");
    let put = |name: &str, text: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    put("index.html", index);
    put("favicon.svg", "<svg/>");
    put("assets/index-1.js", "let plain;");
    put("assets/index-1.js.br", "BROTLI");
    put("assets/index-1.js.gz", "GZIP");
    put("assets/only.css", "a{}");
    put(".env", "SECRET");
    put("notes.md", "NOTES");
    fs::write(folder.path().join("secret.txt"), "SECRET").expect("a file");
    fs::create_dir(folder.path().join("outside")).expect("a folder");
    fs::write(folder.path().join("outside/secret.js"), "SECRET").expect("a file");
    let site = Site { root: Some(root), base: BasePath::default() };
    (folder, site)
}

fn root(site: &Site) -> &Path {
    site.root.as_deref().expect("a site with a root")
}

/// Name, then value, in the order sent; the policy is left to its own tests.
fn head(answer: &Response) -> String {
    let plain = answer.headers.iter().filter(|(name, _)| *name != "Content-Security-Policy");
    let lines: Vec<String> = plain.map(|(name, value)| format!("{name}: {value}")).collect();
    format!("{}\n{}", answer.status, lines.join("\n"))
}

mod our_own_page {
    use super::*;

    const FILES: [(&str, &str); 14] = [
        ("index.html", include_str!("page/index.html")),
        ("chat.js", include_str!("page/chat.js")),
        ("decisions.js", include_str!("page/decisions.js")),
        ("devices.js", include_str!("page/devices.js")),
        ("dom.js", include_str!("page/dom.js")),
        ("errors.js", include_str!("page/errors.js")),
        ("health.js", include_str!("page/health.js")),
        ("icon.svg", include_str!("page/icon.svg")),
        ("identity.js", include_str!("page/identity.js")),
        ("main.js", include_str!("page/main.js")),
        ("sessions.js", include_str!("page/sessions.js")),
        ("socket.js", include_str!("page/socket.js")),
        ("style.css", include_str!("page/style.css")),
        ("transcript.js", include_str!("page/transcript.js")),
    ];

    /// What a browser loads on its first visit, and what the binary carries.
    const PAGE_BYTES_MAX: usize = 80 * 1024;

    #[test]
    fn is_found_at_its_three_entrances_and_nowhere_else() {
        for (base, path, status) in [
            ("", "/", 200),
            ("", "/ui", 200),
            ("", "/control", 200),
            ("", "/chat", 404),
            ("", "/index.html", 404),
            ("", "/page/index.html", 404),
            ("", "/page/", 404),
            ("", "/page/../main.js", 404),
            ("", "/page/main.js", 200),
            ("", "/ui/", 302),
            ("/oc", "/oc", 302),
            ("/oc", "/oc/", 200),
            ("/oc", "/oc/ui", 200),
            ("/oc", "/oc/page/style.css", 200),
            ("/oc", "/", 404),
            ("/oc", "/page/style.css", 404),
        ] {
            assert_eq!(own(base).serve(&get(path)).status, status, "{base} {path}");
        }
        assert_eq!(own("/oc").serve(&get("/oc/control/")).header("Location"), Some("../control"));
    }

    #[test]
    fn has_these_headers() {
        let answer = own("").serve(&get("/"));
        let etag = answer.header("ETag").expect("an entity tag").to_owned();
        assert_eq!(
            head(&answer).replace(&etag, "TAG"),
            "200\n\
             X-Content-Type-Options: nosniff\n\
             Referrer-Policy: no-referrer\n\
             X-Frame-Options: DENY\n\
             Permissions-Policy: camera=(), geolocation=(), microphone=(), payment=()\n\
             Cross-Origin-Resource-Policy: same-origin\n\
             Cache-Control: no-cache\n\
             ETag: TAG\n\
             Content-Type: text/html; charset=utf-8"
        );
        assert_eq!(
            answer.header("Content-Security-Policy"),
            Some(
                "default-src 'none'; base-uri 'none'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; \
                 img-src 'self'; script-src 'self'; style-src 'self'; require-trusted-types-for 'script'; \
                 trusted-types 'none'"
            )
        );
        let again = own("").serve(&Request { if_none_match: Some(&etag), ..get("/page/main.js") });
        assert_eq!((again.status, again.body.len()), (304, 0));
    }

    #[test]
    fn is_read_and_nothing_else() {
        assert_eq!(own("").serve(&Request { method: "HEAD", ..get("/") }), own("").serve(&get("/")));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", ""] {
            let answer = own("").serve(&Request { method, ..get("/") });
            assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET, HEAD")), "{method}");
        }
    }

    #[test]
    fn says_the_version_of_the_program() {
        let answer = own("").serve(&get("/"));
        let html = std::str::from_utf8(&answer.body).expect("UTF-8");
        assert!(html.contains(&format!("content=\"{}\"", env!("CARGO_PKG_VERSION"))));
        assert!(!html.contains("{{"));
    }

    #[test]
    fn stays_small() {
        let bytes: usize = FILES.iter().map(|(_, body)| body.len()).sum();
        assert!(bytes <= PAGE_BYTES_MAX, "{bytes} bytes");
    }

    /// Follows every address in the index and every import in the scripts, from the root and from the entrances.
    #[test]
    fn every_file_it_names_exists_and_is_served() {
        let mut followed = 0;
        for (name, text) in FILES {
            for mark in ["href=\"./", "src=\"./", "from \"./", "src: \"./"] {
                for (at, _) in text.match_indices(mark) {
                    let rest = &text[at + mark.len()..];
                    let target = &rest[..rest.find('"').expect("a closing quote")];
                    let path = if mark.starts_with("from") { format!("/page/{target}") } else { format!("/{target}") };
                    assert_eq!(own("").serve(&get(&path)).status, 200, "{name} names {path}");
                    followed += 1;
                }
            }
        }
        assert!(followed > 20, "only {followed} addresses found: the marks no longer match how the page is written");
    }

    /// CVE-2026-25253: an address in the query decided where the token was sent.
    #[test]
    fn takes_nothing_from_the_query_and_connects_only_to_where_it_came_from() {
        let sockets: Vec<_> = FILES
            .iter()
            .flat_map(|(name, text)| text.match_indices("new WebSocket(").map(move |(at, _)| (name, &text[at..])))
            .collect();
        assert_eq!(sockets.len(), 1);
        assert!(sockets[0].1.starts_with("new WebSocket(socketUrl())"));
        let socket = FILES.iter().find(|(name, _)| *name == "socket.js").expect("listed").1;
        assert!(socket.contains("new URL(\"./\", `${location.origin}${location.pathname}`)"));
        for (name, text) in FILES {
            for forbidden in [
                "location.search",
                "searchParams",
                "URLSearchParams",
                "location.href",
                "gatewayUrl",
                "document.URL",
                "document.referrer",
                "fetch(",
                "XMLHttpRequest",
                "sendBeacon",
                "EventSource",
                "postMessage",
            ] {
                assert!(!text.contains(forbidden), "{name} uses {forbidden}");
            }
        }
    }

    #[test]
    fn keeps_secrets_in_the_tab_only_and_never_parses_text_as_code_or_markup() {
        for (name, text) in FILES {
            for forbidden in [
                "localStorage",
                "document.cookie",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "javascript:",
                "style=\"",
                "onclick=\"",
                "onload=",
                "<script>",
                "console.",
            ] {
                assert!(!text.contains(forbidden), "{name} uses {forbidden}");
            }
        }
    }

    #[test]
    fn names_no_other_place() {
        for (name, text) in FILES {
            for (at, _) in text.match_indices("://") {
                let from = text[..at].rfind(|c: char| !c.is_ascii_alphabetic()).map_or(0, |before| before + 1);
                let address =
                    &text[from..text[at..].find(['"', ' ', '`', '[', ')']).map_or(text.len(), |end| at + end)];
                let known = ["http://www.w3.org/2000/svg", "http://127.0.0.1", "http://localhost"];
                assert!(known.contains(&address), "{name} names {address}");
            }
        }
    }
}

mod an_upstream_build {
    use super::*;

    #[test]
    fn has_these_headers_on_its_index() {
        let (_folder, site) = built(NEW_INDEX);
        let answer = site.serve(&get("/chat/main"));
        let etag = answer.header("ETag").expect("an entity tag").to_owned();
        assert_eq!(
            head(&answer).replace(&etag, "TAG"),
            "200\n\
             X-Content-Type-Options: nosniff\n\
             Referrer-Policy: no-referrer\n\
             X-Frame-Options: DENY\n\
             Permissions-Policy: camera=(self), geolocation=(self), microphone=(self), payment=()\n\
             Cache-Control: no-cache\n\
             ETag: TAG\n\
             Content-Type: text/html; charset=utf-8"
        );
        let policy = answer.header("Content-Security-Policy").expect("a policy");
        assert!(
            policy.contains("script-src 'self' 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI=';"),
            "{policy}"
        );
        assert!(policy.contains("worker-src 'self'"));
        let again = site.serve(&Request { if_none_match: Some(&etag), ..get("/") });
        assert_eq!((again.status, again.body.len(), again.header("Content-Security-Policy")), (304, 0, Some(policy)));
    }

    #[test]
    fn of_the_older_kind_is_sent_as_it_is_with_the_older_policy() {
        let (_folder, site) = built(OLD_INDEX);
        let answer = site.serve(&get("/"));
        assert_eq!(&*answer.body, OLD_INDEX.as_bytes());
        let policy = answer.header("Content-Security-Policy").expect("a policy");
        assert!(policy.contains("script-src 'self';") && !policy.contains("worker-src"), "{policy}");
    }

    #[test]
    fn is_told_its_base_path() {
        let (_folder, site) = built(NEW_INDEX);
        let site = Site { base: BasePath::parse("/oc").expect("plain"), ..site };
        let answer = site.serve(&get("/oc/chat/main"));
        let html = std::str::from_utf8(&answer.body).expect("UTF-8");
        assert!(html.contains("data-openclaw-control-ui-base-path=\"/oc\""));
        assert!(html.contains("href=\"/oc/favicon.svg\""));
        assert_eq!(site.serve(&get("/oc/favicon.svg")).status, 200);
        assert_eq!(site.serve(&get("/favicon.svg")).status, 404);
        assert_eq!(
            site.serve(&Request { query: Some("session=a"), ..get("/oc") }).header("Location"),
            Some("/oc/?session=a")
        );
    }

    #[test]
    fn tells_views_from_files() {
        let (_folder, site) = built(OLD_INDEX);
        for (path, accept, status) in [
            ("/", None, 200),
            ("/index.html", None, 200),
            ("/chat", Some("text/html"), 200),
            ("/chat/agent:main:main", Some("text/html"), 200),
            ("/chat/a.b", Some("text/html"), 200),
            ("/assets", Some("text/html"), 200),
            ("/assets/", Some("text/html"), 200),
            ("/chat", Some("application/json"), 404),
            ("/assets/missing.js", Some("text/html"), 404),
            ("/missing.png", None, 404),
            ("/chat/index.html", None, 404),
            ("/api/users/1/avatar", None, 404),
            ("/v1/models", None, 404),
            ("/__openclaw__/workspace-icon/x", None, 404),
            ("/assets/index-1.js.br", None, 404),
            ("/assets/index-1.js.gz", None, 404),
            ("/avatar/main.png", None, 404),
        ] {
            assert_eq!(site.serve(&Request { accept, ..get(path) }).status, status, "{path} {accept:?}");
        }
        // A file whose kind we do not know is not served, whatever it holds.
        assert_eq!(&*site.serve(&get("/notes.md")).body, OLD_INDEX.as_bytes());
    }

    #[test]
    fn has_these_headers_on_its_files() {
        let (_folder, site) = built(OLD_INDEX);
        let check = |path: &str, accept_encoding, body: &str, want: &str| {
            let answer = site.serve(&Request { accept_encoding, ..get(path) });
            let etag = answer.header("ETag").expect("an entity tag").to_owned();
            assert!(etag.starts_with(&format!("W/\"{:x}-", body.len())), "{etag}");
            let lines = head(&answer);
            let lines = lines.split_once("payment=()\n").expect("the common headers").1;
            assert_eq!(lines.replace(&etag, "TAG"), want, "{path} {accept_encoding:?}");
            assert_eq!(&*answer.body, body.as_bytes());
            let again = site.serve(&Request { accept_encoding, if_none_match: Some(&etag), ..get(path) });
            assert_eq!((again.status, again.body.len()), (304, 0));
        };
        let forever = "Cache-Control: public, max-age=31536000, immutable\nVary: Accept-Encoding\nETag: TAG\n";
        let script = "Content-Type: application/javascript; charset=utf-8";
        check("/assets/index-1.js", None, "let plain;", &format!("{forever}{script}"));
        check("/assets/index-1.js", Some("gzip, br"), "BROTLI", &format!("{forever}{script}\nContent-Encoding: br"));
        check("/assets/index-1.js", Some("gzip"), "GZIP", &format!("{forever}{script}\nContent-Encoding: gzip"));
        check("/assets/only.css", Some("gzip, br"), "a{}", &format!("{forever}Content-Type: text/css; charset=utf-8"));
        check(
            "/favicon.svg",
            Some("br"),
            "<svg/>",
            "Cache-Control: no-cache\nVary: Accept-Encoding\nETag: TAG\nContent-Type: image/svg+xml",
        );
    }

    #[test]
    fn never_lets_a_path_out_of_its_root() {
        let (folder, site) = built(OLD_INDEX);
        symlink(folder.path().join("secret.txt"), root(&site).join("link.txt")).expect("a link");
        symlink(folder.path().join("outside"), root(&site).join("folder")).expect("a link");
        symlink("favicon.svg", root(&site).join("inside.svg")).expect("a link");
        symlink(folder.path().join("secret.txt"), root(&site).join("assets/only.css.gz")).expect("a link");
        fs::create_dir(root(&site).join("folder.js")).expect("a folder");
        let pipe = std::ffi::CString::new(root(&site).join("pipe.js").to_str().expect("UTF-8")).expect("no NUL");
        // SAFETY: `pipe` is a NUL-terminated path that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let absolute = folder.path().join("secret.txt");
        let absolute = absolute.to_str().expect("UTF-8");
        let doubled = format!("/{absolute}");
        for path in [
            "/../secret.txt",
            "/assets/../../secret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/%2e%2e%2fsecret.txt",
            "/..%5csecret.txt",
            "/..\\secret.txt",
            "/%252e%252e/secret.txt",
            "/.%2e/secret.txt",
            "/assets/..%2f..%2fsecret.txt",
            "/link.txt",
            "/folder/secret.js",
            "/inside.svg",
            "/folder.js",
            "/pipe.js",
            "/.env",
            "/secret.txt",
            "/favicon.svg/",
            "/favicon.svg/x.js",
            "/favicon.svg%00.js",
            "/%2fetc%2fpasswd.txt",
            absolute,
            doubled.as_str(),
            "/..;/secret.txt",
            "/%c0%ae%c0%ae/secret.txt",
            "/\u{2025}/secret.txt",
        ] {
            let answer = site.serve(&Request { accept: Some("text/plain"), ..get(path) });
            assert_eq!(answer.status, 404, "{path}");
            assert!(!String::from_utf8_lossy(&answer.body).contains("SECRET"), "{path}");
        }
        // A sibling that is a link is passed over, not followed.
        let answer = site.serve(&Request { accept_encoding: Some("gzip"), ..get("/assets/only.css") });
        assert_eq!((&*answer.body, answer.header("Content-Encoding")), (&b"a{}"[..], None));
    }

    #[test]
    fn may_be_reached_by_a_link_to_its_root() {
        let (folder, site) = built(OLD_INDEX);
        let link = folder.path().join("current");
        symlink(root(&site), &link).expect("a link");
        let site = Site { root: Some(link), ..site };
        assert_eq!(site.serve(&get("/favicon.svg")).status, 200);
    }

    #[test]
    fn is_bounded_in_the_size_of_its_files() {
        let (_folder, site) = built(OLD_INDEX);
        let grow = |name: &str, bytes: u64| {
            fs::File::create(root(&site).join(name))
                .and_then(|file| file.set_len(bytes))
                .expect("a file of that length");
        };
        grow("big.png", FILE_BYTES_MAX);
        assert_eq!(site.serve(&get("/big.png")).body.len() as u64, FILE_BYTES_MAX);
        grow("big.png", FILE_BYTES_MAX + 1);
        assert_eq!(site.serve(&get("/big.png")).status, 500);
        grow("index.html", INDEX_BYTES_MAX);
        assert_eq!(site.serve(&get("/")).status, 200);
        grow("index.html", INDEX_BYTES_MAX + 1);
        assert_eq!(site.serve(&get("/")).status, 500);
    }

    #[test]
    fn that_is_not_there_says_which_setting_to_look_at() {
        let (folder, site) = built(OLD_INDEX);
        fs::remove_file(root(&site).join("index.html")).expect("was there");
        let gone = Site { root: Some(folder.path().join("nowhere")), ..site.clone() };
        for site in [&site, &gone] {
            let answer = site.serve(&get("/"));
            assert_eq!(answer.status, 503);
            let body = String::from_utf8_lossy(&answer.body);
            assert!(
                body.contains("gateway.controlUi.root") && !body.contains(folder.path().to_str().expect("UTF-8")),
                "{body}"
            );
        }
    }

    #[test]
    fn is_read_again_when_it_is_replaced() {
        let (_folder, site) = built(OLD_INDEX);
        assert_eq!(&*site.serve(&get("/")).body, OLD_INDEX.as_bytes());
        fs::write(root(&site).join("index.html"), NEW_INDEX).expect("writable");
        assert!(String::from_utf8_lossy(&site.serve(&get("/")).body).contains("terminal-enabled"));
    }
}
