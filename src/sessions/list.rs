//! What a list of sessions shows beside each row: a title made from what is known, and what was said last.

use serde_json::Value;

use super::transcript;
use crate::runtime::clock;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::sessions::SessionRow;
use crate::store::transcript::{PageAt, PageLimits};

/// Longest title made from a message, in characters; a longer one ends at a word (SES-29).
pub const TITLE_CHARS_MAX: usize = 60;
/// Longest preview of the last message, in characters.
pub const LAST_MESSAGE_CHARS_MAX: usize = 120;
/// Newest messages looked at for one that says something.
const LAST_MESSAGE_ROWS_MAX: usize = 10;
/// A larger message is not read for a title or a preview, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A title: the display name, else the subject, else what the user said first, else the session's id and day.
///
/// # Errors
/// The store's.
pub fn title(db: &Queries, session: &SessionRow) -> Result<String, StoreError> {
    for name in ["displayName", "subject"] {
        let known = session.entry.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        if let Some(known) = known {
            return Ok(known.to_owned());
        }
    }
    let first = db.transcript_first_of_role(&session.session_id, "user", MESSAGE_BYTES_MAX)?;
    let said = first.and_then(|row| said(row.message.as_deref()));
    Ok(said.and_then(|text| title_of(&text)).unwrap_or_else(|| {
        let id: String = session.session_id.chars().take(8).collect();
        let day: String = clock::iso(session.updated_ms).chars().take(10).collect();
        format!("{id} ({day})")
    }))
}

/// A title made of what was said; `None` when it says nothing.
pub fn title_of(text: &str) -> Option<String> {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!line.is_empty()).then(|| shorten(&line, TITLE_CHARS_MAX))
}

/// What was said last, by whomever, if anything was.
///
/// # Errors
/// The store's.
pub fn last_message(db: &Queries, session: &SessionRow) -> Result<Option<String>, StoreError> {
    let limits = PageLimits {
        rows_max: LAST_MESSAGE_ROWS_MAX,
        page_bytes_max: LAST_MESSAGE_ROWS_MAX * MESSAGE_BYTES_MAX,
        message_bytes_max: MESSAGE_BYTES_MAX,
    };
    let page = db.transcript_page(&session.session_id, PageAt::Newest, limits)?;
    let last = page.messages.iter().rev().filter(|row| row.role == "user" || row.role == "assistant");
    Ok(last.filter_map(|row| said(row.message.as_deref())).next().map(|text| cut(&text, LAST_MESSAGE_CHARS_MAX)))
}

/// A message's text on one line; `None` when it says nothing or cannot be read.
fn said(message: Option<&str>) -> Option<String> {
    let message: Value = serde_json::from_str(message?).ok()?;
    let text = transcript::text_of(&message);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!line.is_empty()).then_some(line)
}

/// At most `chars_max` characters; a longer text ends at a word, unless that would lose much of it, and in an ellipsis.
fn shorten(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    let head: String = text.chars().take(chars_max - 1).collect();
    let at_word = head.rfind(' ').filter(|end| head[..*end].chars().count() * 10 > chars_max * 6);
    format!("{}…", &head[..at_word.unwrap_or(head.len())])
}

/// At most `chars_max` characters; a longer text ends in three dots.
pub fn cut(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    let head: String = text.chars().take(chars_max.saturating_sub(3)).collect();
    format!("{head}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_title_ends_at_a_word() {
        let text = "what is the tallest mountain of the southern hemisphere and who climbed it";
        let title = shorten(text, TITLE_CHARS_MAX);
        assert_eq!(title, "what is the tallest mountain of the southern hemisphere…");
        assert!(title.chars().count() <= TITLE_CHARS_MAX);
    }

    #[test]
    fn one_long_word_is_cut_rather_than_lost() {
        let title = shorten(&format!("see {}", "ä".repeat(200)), TITLE_CHARS_MAX);
        assert_eq!(title.chars().count(), TITLE_CHARS_MAX);
        assert!(title.ends_with("ä…"));
    }

    #[test]
    fn at_the_limit_nothing_is_cut() {
        let text = "x".repeat(TITLE_CHARS_MAX);
        assert_eq!(shorten(&text, TITLE_CHARS_MAX), text);
        assert_eq!(cut(&text, TITLE_CHARS_MAX), text);
        assert_eq!(cut(&text, TITLE_CHARS_MAX - 1).chars().count(), TITLE_CHARS_MAX - 1);
    }

    #[test]
    fn what_is_said_stands_on_one_line() {
        let message = r#"{"content":[{"type":"text","text":" a\n b "},{"type":"image"},{"type":"text","text":"c"}]}"#;
        assert_eq!(said(Some(message)).as_deref(), Some("a b c"));
        assert_eq!(said(Some(r#"{"content":"plain"}"#)).as_deref(), Some("plain"));
        assert_eq!(said(Some(r#"{"content":[]}"#)), None);
        assert_eq!(said(None), None);
    }
}
