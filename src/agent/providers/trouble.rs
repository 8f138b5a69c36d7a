//! What goes wrong with a provider, and what kind of failure it is: by status, by the codes in the body, by its wording
//! where nothing else is given. Text of a provider is cut and cleaned before it goes anywhere.

use serde_json::Value;

use crate::agent::talk::{Failure, FailureKind};

/// Most characters of a provider's own words in a failure.
pub const WORDS_CHARS_MAX: usize = 300;
/// Longest wait a provider may ask for; a longer one is taken as this.
pub const RETRY_AFTER_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// A failure of ours.
pub fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into(), status: None, retry_after_ms: None }
}

/// An answer that ended before it was whole.
pub fn cut_off(is_empty: bool) -> Failure {
    let message =
        if is_empty { "the provider ended the connection without an answer" } else { "the answer was cut off" };
    failure(FailureKind::Unavailable, message)
}

/// What a provider says in the middle of a stream, or instead of an answer: `{message, type, code}`, or text.
pub fn of_error(error: &Value) -> Failure {
    let (words, code) = words_of(error);
    // OpenRouter and others put the status of who they asked here.
    let status = error["code"].as_u64().or_else(|| error["status"].as_u64()).and_then(|code| u16::try_from(code).ok());
    let status = status.filter(|status| (400..600).contains(status));
    let kind = kind_of(status, &code, &words).unwrap_or(FailureKind::Unavailable);
    let words = clean(&words);
    let message = if words.is_empty() { "the provider reports an error".to_owned() } else { words };
    Failure { kind, message, status, retry_after_ms: None }
}

/// What a status other than success means. `header` finds a header by its lower-case name; `now_ms` reads dates.
pub fn of_status(status: u16, body: &str, header: &dyn Fn(&str) -> Option<String>, now_ms: i64) -> Failure {
    let parsed = serde_json::from_str::<Value>(body).unwrap_or(Value::Null);
    // Google sends a list with one object.
    let parsed = if parsed.is_array() { &parsed[0] } else { &parsed };
    let error = if parsed["error"].is_null() { parsed } else { &parsed["error"] };
    let (words, code) = words_of(error);
    let kind = kind_of(Some(status), &code, &words).unwrap_or(FailureKind::Format);
    let words = if parsed.is_null() { String::new() } else { clean(&words) };
    let message = if words.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {words}") };
    Failure { kind, message, status: Some(status), retry_after_ms: retry_after(header, now_ms) }
}

/// The words and the codes of an error.
fn words_of(error: &Value) -> (String, String) {
    if let Some(text) = error.as_str() {
        return (text.to_owned(), String::new());
    }
    let words = ["message", "detail", "msg", "error"].iter().find_map(|name| error[*name].as_str()).unwrap_or_default();
    let codes: Vec<&str> =
        ["type", "code", "status", "reason"].iter().filter_map(|name| error[*name].as_str()).collect();
    (words.to_owned(), codes.join(" ").to_lowercase())
}

/// The kind of a failure; the codes weigh more than the status, because proxies and compatible servers use statuses
/// loosely; wording decides only where it must.
fn kind_of(status: Option<u16>, code: &str, words: &str) -> Option<FailureKind> {
    let words = words.to_lowercase();
    let has = |text: &str| words.contains(text);
    let says = |codes: &[&str]| codes.iter().any(|known| code.split(' ').any(|word| word == *known));
    if says(&[
        "insufficient_quota",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "payment_required",
    ]) || status == Some(402)
        || has("credit balance is too low")
        || has("insufficient credits")
        || has("insufficient balance")
        || has("exceeded your current quota, please check your plan and billing")
    {
        return Some(FailureKind::Billing);
    }
    if says(&["context_length_exceeded", "request_too_large"]) || is_about_length(&words) {
        return Some(FailureKind::ContextLength);
    }
    if says(&["invalid_api_key", "authentication_error", "permission_error", "unauthenticated", "permission_denied"])
        || has("api key not valid")
        || has("incorrect api key")
    {
        return Some(FailureKind::Auth);
    }
    if says(&["rate_limit_error", "rate_limit_exceeded", "resource_exhausted", "too_many_requests"]) {
        return Some(FailureKind::RateLimit);
    }
    if says(&["overloaded_error", "api_error", "server_error", "internal_error", "unavailable", "internal"]) {
        return Some(FailureKind::Unavailable);
    }
    if says(&["model_not_found", "not_found_error", "not_found"]) || (has("model") && has("does not exist")) {
        return Some(FailureKind::NotFound);
    }
    if says(&["content_policy_violation", "content_filter"]) {
        return Some(FailureKind::Refusal);
    }
    if says(&["timeout_error", "deadline_exceeded"]) {
        return Some(FailureKind::Timeout);
    }
    Some(match status? {
        401 | 403 => FailureKind::Auth,
        404 | 410 => FailureKind::NotFound,
        408 | 504 | 524 => FailureKind::Timeout,
        413 => FailureKind::ContextLength,
        429 => FailureKind::RateLimit,
        400..500 => FailureKind::Format,
        500.. => FailureKind::Unavailable,
        _ => FailureKind::Format,
    })
}

/// Whether words complain of a prompt that is too long.
fn is_about_length(words: &str) -> bool {
    const SIGNS: [&str; 12] = [
        "context length",
        "context_length",
        "context window",
        "maximum context",
        "prompt is too long",
        "too many tokens",
        "token limit",
        "input token count",
        "maximum prompt length",
        "exceeds the available context size",
        "reduce the length of the messages",
        "input is too long",
    ];
    // "Rate limit reached … tokens per min" is not about this prompt.
    let is_rate = words.contains("per min") || words.contains("rate limit") || words.contains("per day");
    !is_rate && SIGNS.iter().any(|sign| words.contains(sign))
}

/// When the provider asks to be left alone until: `retry-after-ms`, `retry-after` in seconds or as a date, else the
/// resets of its limits.
fn retry_after(header: &dyn Fn(&str) -> Option<String>, now_ms: i64) -> Option<u64> {
    let number = |text: String| text.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let until = |ms: i64| u64::try_from(ms.saturating_sub(now_ms)).unwrap_or(0);
    let ms = header("retry-after-ms").and_then(number).map(|ms| ms as u64).or_else(|| {
        let text = header("retry-after")?;
        let date = || {
            let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
            Some(until(date.as_millisecond()))
        };
        number(text.clone()).map(|seconds| (seconds * 1000.0) as u64).or_else(date)
    });
    let reset = || {
        // Seconds from now, or since 1970, or `1m3.5s`.
        const SINCE_1970: f64 = 1e9;
        const MS_SINCE_1970: f64 = 1e12;
        let names = ["x-ratelimit-reset", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"];
        let text = names.iter().find_map(|name| header(name))?;
        match number(text.clone()) {
            Some(ms) if ms >= MS_SINCE_1970 => Some(until(ms as i64)),
            Some(seconds) if seconds >= SINCE_1970 => Some(until((seconds * 1000.0) as i64)),
            Some(seconds) => Some((seconds * 1000.0) as u64),
            None => spelled_duration(text.trim()),
        }
    };
    ms.or_else(reset).map(|ms| ms.min(RETRY_AFTER_MS_MAX))
}

/// `1h2m3.5s`, `250ms`.
fn spelled_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut ms = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let (unit, after) = [("ms", 1.0), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1000.0)]
            .into_iter()
            .find_map(|(unit, factor)| Some((factor, rest[digits..].strip_prefix(unit)?)))?;
        ms += number * unit;
        rest = after;
    }
    Some(ms as u64)
}

/// A provider's words as we pass them on: one line, cut, and without what looks like a key.
pub fn clean(words: &str) -> String {
    let mut out = String::new();
    for word in words.split_whitespace() {
        if out.chars().count() + 1 >= WORDS_CHARS_MAX {
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        if looks_secret(word) {
            out.push('…');
        } else {
            out.extend(word.chars().filter(|c| !c.is_control()));
        }
    }
    match out.char_indices().nth(WORDS_CHARS_MAX) {
        Some((end, _)) => {
            out.truncate(end);
            out.push('…');
            out
        }
        None => out,
    }
}

/// Whether a word might be a key: providers quote the one they refuse, some of them whole.
fn looks_secret(word: &str) -> bool {
    /// Shorter words are no keys, longer words are hardly ever English.
    const KEY_CHARS_MIN: usize = 20;
    let word = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '*');
    let has_prefix =
        ["sk-", "pk-", "gsk_", "AIza", "xai-", "Bearer", "hf_", "r8_", "key-"].iter().any(|p| word.starts_with(p));
    let is_mixed = word.chars().any(|c| c.is_ascii_digit()) && word.chars().any(char::is_alphabetic);
    let is_url = word.contains("://");
    has_prefix || (word.chars().count() >= KEY_CHARS_MIN && is_mixed && !is_url)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn status(status: u16, body: &str) -> Failure {
        of_status(status, body, &|_| None, NOW_MS)
    }

    #[test]
    fn statuses_and_codes_say_what_kind_it_is() {
        use FailureKind::*;
        let cases: &[(u16, &str, FailureKind)] = &[
            (
                401,
                "{\"error\":{\"message\":\"Incorrect API key provided: sk-abc.\",\"code\":\"invalid_api_key\"}}",
                Auth,
            ),
            (403, "{\"error\":{\"type\":\"permission_error\",\"message\":\"no\"}}", Auth),
            (
                400,
                "[{\"error\":{\"status\":\"INVALID_ARGUMENT\",\"message\":\"API key not valid. Please pass a valid API key.\"}}]",
                Auth,
            ),
            (402, "", Billing),
            (
                429,
                "{\"error\":{\"type\":\"insufficient_quota\",\"message\":\"You exceeded your current quota\"}}",
                Billing,
            ),
            (
                400,
                "{\"error\":{\"type\":\"invalid_request_error\",\"message\":\"Your credit balance is too low to access the API.\"}}",
                Billing,
            ),
            (429, "{\"error\":{\"message\":\"Rate limit reached for tokens per min\"}}", RateLimit),
            (429, "{\"error\":{\"status\":\"RESOURCE_EXHAUSTED\"}}", RateLimit),
            (429, "slow down", RateLimit),
            (404, "{\"error\":{\"message\":\"The model `x` does not exist\",\"code\":\"model_not_found\"}}", NotFound),
            (404, "<html>", NotFound),
            (400, "{\"error\":{\"code\":\"context_length_exceeded\",\"message\":\"x\"}}", ContextLength),
            (
                400,
                "{\"error\":{\"type\":\"invalid_request_error\",\"message\":\"prompt is too long: 9 tokens > 8 maximum\"}}",
                ContextLength,
            ),
            (413, "", ContextLength),
            (400, "{\"error\":{\"message\":\"unknown field\"}}", Format),
            (500, "", Unavailable),
            (503, "oops", Unavailable),
            (
                529,
                "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}",
                Unavailable,
            ),
            (504, "", Timeout),
            (408, "", Timeout),
            (302, "", Format),
        ];
        for (code, body, kind) in cases {
            let found = status(*code, body);
            assert_eq!((found.kind, found.status), (*kind, Some(*code)), "{code} {body}");
        }
    }

    #[test]
    fn an_error_in_a_stream_has_its_kind_too() {
        let of = |text: &str| of_error(&serde_json::from_str(text).unwrap()).kind;
        assert_eq!(of("{\"code\":429,\"message\":\"x\"}"), FailureKind::RateLimit);
        assert_eq!(of("{\"type\":\"overloaded_error\"}"), FailureKind::Unavailable);
        assert_eq!(of("{\"message\":\"whatever\"}"), FailureKind::Unavailable);
        assert_eq!(of("\"This model's maximum context length is 8 tokens\""), FailureKind::ContextLength);
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        let of = |name: &'static str, value: &'static str| {
            let header = move |asked: &str| (asked == name).then(|| value.to_owned());
            of_status(429, "", &header, NOW_MS).retry_after_ms
        };
        let cases = [
            ("retry-after", "2", Some(2000)),
            ("retry-after", "0.5", Some(500)),
            ("retry-after", "Fri, 15 Jan 2027 08:00:10 GMT", Some(10_000)),
            ("retry-after", "Fri, 15 Jan 2027 07:00:00 GMT", Some(0)),
            ("retry-after", "soon", None),
            ("retry-after", "-1", None),
            ("retry-after", "99999999", Some(RETRY_AFTER_MS_MAX)),
            ("retry-after-ms", "1500", Some(1500)),
            ("x-ratelimit-reset", "30", Some(30_000)),
            ("x-ratelimit-reset", "1800000007", Some(7000)),
            ("x-ratelimit-reset", "1800000007000", Some(7000)),
            ("x-ratelimit-reset-requests", "1m3.5s", Some(63_500)),
            ("x-ratelimit-reset-tokens", "250ms", Some(250)),
            ("x-ratelimit-reset-tokens", "abc", None),
        ];
        for (name, value, expected) in cases {
            assert_eq!(of(name, value), expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_providers_words_are_cut_and_hold_no_key() {
        let body = "{\"error\":{\"message\":\"Incorrect key\\n sk-proj-abcDEF123 (AIzaSyA1234567890abcdef) given; see https://x.example/keys?page=1\"}}";
        let message = status(401, body).message;
        assert_eq!(message, "HTTP 401: Incorrect key … … given; see https://x.example/keys?page=1");
        let long = clean(&"word ".repeat(1000));
        assert!(long.chars().count() <= WORDS_CHARS_MAX + 1, "{}", long.len());
        assert!(clean(&"x".repeat(1000)).chars().count() <= WORDS_CHARS_MAX + 1);
        assert_eq!(status(500, "<html>secret page</html>").message, "HTTP 500", "a page is no error text");
    }
}
