//! Paths of requests: the base path they live under, and the parts that may become file names.

use std::borrow::Cow;

use super::UiError;

/// Longest request path that is looked at, in bytes as sent; a longer one is not found.
pub const PATH_BYTES_MAX: usize = 1024;
/// Most parts of a path below the root; upstream's builds need four.
pub const PATH_PARTS_MAX: usize = 12;

/// Where the page lives: the empty string at the root, else `/part` or `/part/part`, without a slash at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasePath(String);

impl BasePath {
    /// Reads `gateway.controlUi.basePath`; slashes at either end do not matter.
    ///
    /// # Errors
    /// [`UiError::BasePath`] when a part is empty, starts with a dot, or holds a character that would need escaping in
    /// an address or in HTML (the base path is written into upstream's page).
    pub fn parse(text: &str) -> Result<BasePath, UiError> {
        let trimmed = text.trim().trim_matches('/');
        if trimmed.is_empty() {
            return Ok(BasePath(String::new()));
        }
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        };
        if trimmed.split('/').all(plain) {
            Ok(BasePath(format!("/{trimmed}")))
        } else {
            Err(UiError::BasePath { given: text.to_owned() })
        }
    }

    /// The base path as text, empty at the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the base path: `""` for the base path itself, else something that starts with a slash. `None` outside.
    pub fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(self.0.as_str())?;
        (rest.starts_with('/') || rest.is_empty() && !self.0.is_empty()).then_some(rest)
    }
}

/// The parts of `path` (which starts with a slash), percent-decoded, each safe to use as one file name below a root.
///
/// `None` for anything a file name must not be: `.` and `..`, hidden files, encoded slashes, backslashes, NUL and other
/// control characters, bytes that are not UTF-8, broken escapes; and for paths over [`PATH_BYTES_MAX`] or
/// [`PATH_PARTS_MAX`]. A slash at the end leaves an empty last part, which is kept: it names no file.
pub fn parts(path: &str) -> Option<Vec<Cow<'_, str>>> {
    if path.len() > PATH_BYTES_MAX {
        return None;
    }
    let parts = path.strip_prefix('/')?.split('/').map(decode).collect::<Option<Vec<_>>>()?;
    let last = parts.len() - 1;
    let plain = |(at, part): (usize, &Cow<'_, str>)| {
        (at == last || !part.is_empty())
            && !part.starts_with('.')
            && !part.chars().any(|c| matches!(c, '/' | '\\') || c.is_control())
    };
    (parts.len() <= PATH_PARTS_MAX && parts.iter().enumerate().all(plain)).then_some(parts)
}

/// Decodes percent escapes once; `None` when an escape is broken or the result is not UTF-8.
fn decode(part: &str) -> Option<Cow<'_, str>> {
    if !part.contains('%') {
        return Some(Cow::Borrowed(part));
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = if *first == b'%' {
            let [high, low, tail @ ..] = tail else { return None };
            let digit = |byte: u8| char::from(byte).to_digit(16);
            bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).expect("two hex digits fit a byte"));
            tail
        } else {
            bytes.push(*first);
            tail
        };
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_is_normalised_or_refused() {
        for (given, kept) in [("", ""), ("/", ""), ("ui", "/ui"), ("/ui/", "/ui"), (" /a/b.c-d_e~1/ ", "/a/b.c-d_e~1")]
        {
            assert_eq!(BasePath::parse(given).map(|base| base.0), Ok(kept.to_owned()), "{given:?}");
        }
        for given in
            ["/a//b", "/../x", "/.x", "/a b", "/a\"onload=x", "/a<b", "/a%2fb", "/ä", "/a?b", "/a#b", "/a\r\nX: y"]
        {
            assert_eq!(BasePath::parse(given), Err(UiError::BasePath { given: given.to_owned() }), "{given:?}");
        }
    }

    #[test]
    fn stripping_needs_a_whole_part() {
        let base = BasePath::parse("/oc").expect("plain");
        assert_eq!(base.strip("/oc"), Some(""));
        assert_eq!(base.strip("/oc/"), Some("/"));
        assert_eq!(base.strip("/oc/chat"), Some("/chat"));
        assert_eq!(base.strip("/ocean"), None);
        assert_eq!(base.strip("/"), None);
        let root = BasePath::default();
        assert_eq!(root.strip("/"), Some("/"));
        assert_eq!(root.strip(""), None);
        assert_eq!(root.strip("*"), None);
    }

    #[test]
    fn parts_are_decoded_once() {
        let check = |path: &str, want: &[&str]| {
            assert_eq!(
                parts(path).as_deref(),
                Some(&want.iter().map(|part| Cow::from(*part)).collect::<Vec<_>>()[..]),
                "{path}"
            )
        };
        check("/", &[""]);
        check("/a/b.js", &["a", "b.js"]);
        check("/a/", &["a", ""]);
        check("/a%20b/%C3%A4", &["a b", "ä"]);
        check("/%252e%252e", &["%2e%2e"]);
    }

    #[test]
    fn nothing_that_could_leave_the_root_is_a_part() {
        let long = format!("/{}", "a".repeat(PATH_BYTES_MAX));
        let deep = "/a".repeat(PATH_PARTS_MAX + 1);
        for path in [
            "",
            "a",
            "/..",
            "/../x",
            "/a/../../x",
            "/a/./b",
            "/.",
            "/.env",
            "/a/.git/config",
            "//etc/passwd",
            "/a//b",
            "/%2e%2e/x",
            "/%2E%2e/x",
            "/.%2e/x",
            "/%2e/x",
            "/a%2fb",
            "/a%2Fb",
            "/..%2fx",
            "/a%5cb",
            "/..\\x",
            "/a\\b",
            "/%00",
            "/a%00.js",
            "/a%0ab",
            "/a\u{7f}b",
            "/%",
            "/%2",
            "/%zz",
            "/%ff",
            "/%c0%ae%c0%ae/x",
            long.as_str(),
            deep.as_str(),
        ] {
            assert_eq!(parts(path), None, "{path:?}");
        }
        assert!(parts(&long[..PATH_BYTES_MAX]).is_some());
        assert!(parts(&deep[2..]).is_some());
    }
}
