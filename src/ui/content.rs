//! What kind of file a name stands for, and which form of it a client takes.

/// Extensions that are files and never views of the page, with their content types (`None`: never served by name).
///
/// A path that ends in one of these and has no file is 404; any other path may be a view.
const TYPES: &[(&str, Option<&str>)] = &[
    ("html", Some("text/html; charset=utf-8")),
    ("js", Some("application/javascript; charset=utf-8")),
    ("mjs", Some("application/javascript; charset=utf-8")),
    ("css", Some("text/css; charset=utf-8")),
    ("json", Some("application/json; charset=utf-8")),
    ("map", Some("application/json; charset=utf-8")),
    ("webmanifest", Some("application/manifest+json; charset=utf-8")),
    ("svg", Some("image/svg+xml")),
    ("png", Some("image/png")),
    ("jpg", Some("image/jpeg")),
    ("jpeg", Some("image/jpeg")),
    ("gif", Some("image/gif")),
    ("webp", Some("image/webp")),
    ("avif", Some("image/avif")),
    ("ico", Some("image/x-icon")),
    ("txt", Some("text/plain; charset=utf-8")),
    ("wasm", Some("application/wasm")),
    ("woff", Some("font/woff")),
    ("woff2", Some("font/woff2")),
    // Precompressed siblings: sent in place of the file they belong to, never by their own name.
    ("br", None),
    ("gz", None),
];

/// What a file name's ending means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file of this content type.
    File(&'static str),
    /// A file that is not served by its own name.
    Withheld,
    /// No file ending we know: a view of the page.
    View,
}

impl Kind {
    /// Of a file name; letter case does not matter.
    pub fn of(name: &str) -> Kind {
        let Some((_, ending)) = name.rsplit_once('.') else { return Kind::View };
        match TYPES.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known)) {
            Some((_, Some(content_type))) => Kind::File(content_type),
            Some((_, None)) => Kind::Withheld,
            None => Kind::View,
        }
    }
}

/// A content coding with precompressed siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `.br`
    Brotli,
    /// `.gz`
    Gzip,
}

impl Coding {
    /// What a sibling's name ends in.
    pub fn suffix(self) -> &'static str {
        match self {
            Coding::Brotli => ".br",
            Coding::Gzip => ".gz",
        }
    }

    /// The value of `Content-Encoding`.
    pub fn token(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Gzip => "gzip",
        }
    }
}

/// The codings that `Accept-Encoding` allows, best first: the client's weights, then the smaller form (RFC 9110, 12.5.3).
pub fn codings(accept_encoding: Option<&str>) -> Vec<Coding> {
    let Some(header) = accept_encoding else { return Vec::new() };
    let mut wanted: Vec<(Coding, u16)> = [Coding::Brotli, Coding::Gzip]
        .into_iter()
        .map(|coding| (coding, weight_of(header, coding.token()).or_else(|| weight_of(header, "*")).unwrap_or(0)))
        .filter(|(_, weight)| *weight > 0)
        .collect();
    wanted.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    wanted.into_iter().map(|(coding, _)| coding).collect()
}

/// Whether `Accept` allows an HTML answer; an absent header allows everything (RFC 9110, 12.5.1).
pub fn takes_html(accept: Option<&str>) -> bool {
    let Some(header) = accept else { return true };
    ["text/html", "text/*", "*/*"].iter().find_map(|range| weight_of(header, range)).is_some_and(|weight| weight > 0)
}

/// The weight of `name` in a list header, in thousandths; 1000 without one, `None` when it is not listed.
fn weight_of(header: &str, name: &str) -> Option<u16> {
    header.split(',').find_map(|item| {
        let mut pieces = item.split(';').map(str::trim);
        if !pieces.next()?.eq_ignore_ascii_case(name) {
            return None;
        }
        let weight = pieces.find_map(|piece| piece.strip_prefix("q=").or_else(|| piece.strip_prefix("Q=")));
        Some(weight.map_or(1000, |text| {
            text.parse::<f32>()
                .map_or(0, |value| if (0.0..=1.0).contains(&value) { (value * 1000.0) as u16 } else { 0 })
        }))
    })
}

/// Whether `If-None-Match` names `etag`: the client's copy is current (weak comparison, RFC 9110, 13.1.2).
pub fn is_current(if_none_match: Option<&str>, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    if_none_match.is_some_and(|header| header.trim() == "*" || header.split(',').any(|tag| opaque(tag) == opaque(etag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_tell_files_from_views() {
        for (name, kind) in [
            ("index.html", Kind::File("text/html; charset=utf-8")),
            ("a.b.JS", Kind::File("application/javascript; charset=utf-8")),
            ("x.woff2", Kind::File("font/woff2")),
            ("x.webmanifest", Kind::File("application/manifest+json; charset=utf-8")),
            ("x.js.br", Kind::Withheld),
            ("x.gz", Kind::Withheld),
            ("chat", Kind::View),
            ("v1.2", Kind::View),
            ("agent:main:peer@example.org", Kind::View),
            ("", Kind::View),
        ] {
            assert_eq!(Kind::of(name), kind, "{name}");
        }
    }

    #[test]
    fn a_coding_is_used_only_when_the_client_takes_it() {
        use Coding::{Brotli, Gzip};
        for (header, want) in [
            (None, vec![]),
            (Some(""), vec![]),
            (Some("identity"), vec![]),
            (Some("gzip, deflate, br"), vec![Brotli, Gzip]),
            (Some("gzip;q=1.0, br;q=0.5"), vec![Gzip, Brotli]),
            (Some("br;q=0, gzip"), vec![Gzip]),
            (Some("*"), vec![Brotli, Gzip]),
            (Some("*;q=0.1, br;q=0"), vec![Gzip]),
            (Some("GZIP"), vec![Gzip]),
            (Some("brotli, xgzip"), vec![]),
            (Some("gzip;q=high"), vec![]),
        ] {
            assert_eq!(codings(header), want, "{header:?}");
        }
    }

    #[test]
    fn html_is_not_sent_to_those_who_ask_for_something_else() {
        for (header, want) in [
            (None, true),
            (Some("*/*"), true),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), true),
            (Some("text/*"), true),
            (Some("application/json"), false),
            (Some("text/html;q=0, */*"), false),
            (Some("image/avif,image/webp"), false),
            (Some("*/*;q=0"), false),
        ] {
            assert_eq!(takes_html(header), want, "{header:?}");
        }
    }

    #[test]
    fn a_known_copy_is_recognised() {
        for (header, want) in [
            (None, false),
            (Some("\"a\""), true),
            (Some("W/\"a\""), true),
            (Some("\"b\", W/\"a\""), true),
            (Some("\"b\""), false),
            (Some("*"), true),
            (Some("a"), false),
        ] {
            assert_eq!(is_current(header, "\"a\""), want, "{header:?}");
            assert_eq!(is_current(header, "W/\"a\""), want, "{header:?}");
        }
    }
}
