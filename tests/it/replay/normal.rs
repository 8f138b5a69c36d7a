//! Volatile values become typed placeholders, so that two runs of one scenario can be compared.

use std::fs;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Replaces what differs from run to run: ids, times, paths, ports, hosts, versions.
pub(super) struct Normal {
    run: String,
    token: String,
    /// Directory names that stand for `<state>`, longest first.
    hidden: Vec<String>,
    host: Option<Regex>,
}

/// Patterns and what they become, in this order: an earlier one may hide what a later one would see.
static RULES: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        (r"(?-u)(?:/(?:tmp|root|home|usr|var|work|opt)(?:/[\w.@+-]+)+)", "<path>"),
        (r"-----BEGIN [A-Z ]+-----[\s\S]*?-----END [A-Z ]+-----", "<pem>"),
        (r"(?-u)\b[Ll]inux \d+\.\d+\.\d+[\w.+-]*", "linux <version>"),
        (r"(?i-u)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
        (r"(?-u)\b\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:?\d{2})?", "<iso-time>"),
        (
            r"(?-u)\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) \d{4}-\d{2}-\d{2} \d{2}:\d{2}(?::\d{2})? [A-Z]{2,5}(?:[+-]\d+)?",
            "<time>",
        ),
        (r"(?-u)\b\d{4}-\d{2}-\d{2}\b", "<date>"),
        (r"(?i-u)\b[0-9a-f]{32,}\b", "<hex>"),
    ]
    .map(|(pattern, becomes)| (Regex::new(pattern).expect("a literal pattern compiles"), becomes))
    .into_iter()
    .collect()
});

fn literal(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a literal pattern compiles")
}

static SHORT_HEX: LazyLock<Regex> = LazyLock::new(|| literal(r"(?i-u)\b[0-9a-f]{10,31}\b"));
static MILLISECONDS: LazyLock<Regex> = LazyLock::new(|| literal(r"(?-u)\b1[5-9]\d{11}\b"));
static PORT: LazyLock<Regex> = LazyLock::new(|| literal(r"(?-u)(127\.0\.0\.1:|localhost:|\[::1\]:)\d+"));
static IP: LazyLock<Regex> = LazyLock::new(|| literal(r"(?-u)\b(?:\d{1,3}\.){3}\d{1,3}\b"));
static VERSION: LazyLock<Regex> = LazyLock::new(|| literal(r"(?-u)\b20\d\d\.\d{1,2}\.\d{1,2}(?:-[\w.]+)?\b"));
static AGO: LazyLock<Regex> = LazyLock::new(|| literal(r"(?-u)\b\d+ (years|minutes) (ahead|ago)\b"));
static PID: LazyLock<Regex> = LazyLock::new(|| literal(r"(?i-u)\bpid[ =:]*\d+"));
static OPAQUE: LazyLock<Regex> = LazyLock::new(|| literal(r"(?-u)\b[A-Za-z0-9_-]{40,}\b"));

impl Normal {
    pub(super) fn new(run: &str, token: &str, hidden: &[String]) -> Normal {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let host = (host.len() > 1)
            .then(|| literal(&format!(r"(^|[^A-Za-z0-9_-]){}($|[^A-Za-z0-9_-])", regex::escape(&host))));
        let mut hidden: Vec<String> = hidden.iter().filter(|path| !path.is_empty()).cloned().collect();
        hidden.sort_by_key(|path| std::cmp::Reverse(path.len()));
        Normal { run: run.to_owned(), token: token.to_owned(), hidden, host }
    }

    /// `text` with its volatile parts replaced.
    pub(super) fn text(&self, text: &str) -> String {
        let mut s = text.replace(&self.run, "<run>").replace(&self.token, "<token>");
        for path in &self.hidden {
            s = s.replace(path, if path.contains("node_modules") { "<install>" } else { "<state>" });
        }
        for (pattern, becomes) in RULES.iter() {
            s = pattern.replace_all(&s, *becomes).into_owned();
        }
        s = replace_where(&SHORT_HEX, &s, "<hex>", |found| {
            found.bytes().any(|b| b.is_ascii_digit()) && found.bytes().any(|b| b.is_ascii_alphabetic())
        });
        s = MILLISECONDS.replace_all(&s, "<ms>").into_owned();
        s = PORT.replace_all(&s, "${1}<port>").into_owned();
        s = replace_where(&IP, &s, "<ip>", |found| {
            !["127.0.0.1", "0.0.0.0", "1.0.0"].iter().any(|kept| found.starts_with(kept))
        });
        s = VERSION.replace_all(&s, "<version>").into_owned();
        s = AGO.replace_all(&s, "<n> $1 $2").into_owned();
        s = PID.replace_all(&s, "pid <pid>").into_owned();
        s = replace_where(&OPAQUE, &s, "<opaque>", |found| {
            found.bytes().any(|b| b.is_ascii_digit())
                && found.bytes().any(|b| b.is_ascii_lowercase())
                && found.bytes().any(|b| b.is_ascii_uppercase())
        });
        if let Some(host) = &self.host {
            s = host.replace_all(&s, "${1}<host>${2}").into_owned();
        }
        s
    }

    /// A map key that is data rather than the name of a field becomes `<key>`.
    pub(super) fn key<'k>(&self, key: &'k str) -> &'k str {
        let data = key.starts_with("agent:")
            || key.contains(['/', '\\', ' '])
            || (!key.is_empty() && key.bytes().all(|b| b.is_ascii_digit()))
            || key.encode_utf16().count() > 48
            || self.text(key) != key;
        if data { "<key>" } else { key }
    }
}

fn replace_where(pattern: &Regex, text: &str, becomes: &str, wanted: impl Fn(&str) -> bool) -> String {
    let replace = |found: &Captures| if wanted(&found[0]) { becomes.to_owned() } else { found[0].to_owned() };
    pattern.replace_all(text, replace).into_owned()
}

#[test]
fn volatile_parts_become_placeholders() {
    let normal = Normal::new("r0ab12cd", "sekrit", &[String::from("/tmp/x/state")]);
    for (text, expected) in [
        ("run r0ab12cd with sekrit", "run <run> with <token>"),
        ("/tmp/x/state/logs and /home/ann/.cache", "<state>/logs and <path>"),
        ("6f1c2c9e-0d0b-4c43-9e53-3b1c7b0d9a11", "<uuid>"),
        ("at 2026-09-06T12:34:56.789Z on 2026-09-06", "at <iso-time> on <date>"),
        ("deadbeef12 but not deadbeefab", "<hex> but not deadbeefab"),
        ("ws://127.0.0.1:4711 from 10.1.2.3", "ws://127.0.0.1:<port> from <ip>"),
        ("version 2026.9.6-beta.1, client 1.0.0", "version <version>, client 1.0.0"),
        ("pid=123, 5 minutes ago", "pid <pid>, <n> minutes ago"),
    ] {
        assert_eq!(normal.text(text), expected);
    }
}

#[test]
fn keys_that_are_data_collapse() {
    let normal = Normal::new("r0ab12cd", "sekrit", &[]);
    for key in ["agent:main:main", "42", "a/b", "two words", "r0ab12cd-x"] {
        assert_eq!(normal.key(key), "<key>", "{key}");
    }
    assert_eq!(normal.key("sessionKey"), "sessionKey");
}
