//! Text as a person meant it, without what only confuses.

use crate::protocol::error::RpcError;

/// Longest text of one message in bytes; a frame holds more, a model does not.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// `text` without control characters except tab, newline and return.
///
/// # Errors
/// `INVALID_REQUEST` for a null byte, which nobody sends by accident, and for a text over [`TEXT_BYTES_MAX`].
pub fn text(text: &str) -> Result<String, RpcError> {
    if text.contains('\0') {
        return Err(RpcError::invalid("message must not contain null bytes"));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(RpcError::invalid(format!(
            "message has {} bytes, at most {TEXT_BYTES_MAX} are accepted",
            text.len()
        )));
    }
    Ok(text.chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r')).collect())
}

/// Words that stop what runs instead of being said, as both protocols know them.
pub fn is_stop_word(text: &str) -> bool {
    const WORDS: [&str; 6] = ["/stop", "stop", "abort", "esc", "exit", "interrupt"];
    let word = text.trim();
    WORDS.iter().any(|known| known.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_a_person_types_and_drops_what_no_person_does() {
        assert_eq!(text("a\tb\nc\u{1b}[31m").unwrap(), "a\tb\nc[31m");
        assert_eq!(text("a\0").unwrap_err().message, "message must not contain null bytes");
    }

    #[test]
    fn a_text_over_its_limit_is_refused() {
        assert!(text(&"a".repeat(TEXT_BYTES_MAX)).is_ok());
        assert!(text(&"a".repeat(TEXT_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn stop_words_are_whole_messages() {
        assert!(is_stop_word(" Stop "));
        assert!(is_stop_word("/stop"));
        assert!(!is_stop_word("stop it"));
    }
}
