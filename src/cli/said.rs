//! An answer of an agent, shown while it is written.
//!
//! Follows the wire contract, part 11: a `chat` event of state `delta` carries everything said since the last tool
//! call, so a piece that was lost changes nothing, and a text that does not go on from the last one is another one.

use std::io;

use serde_json::Value;

use super::term::Out;

/// What is shown of one answer.
#[derive(Debug, Default)]
pub struct Said {
    text: String,
}

impl Said {
    /// Whether nothing has been shown.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Shows what `text` says beyond what is shown already, on a line of its own when it is another text.
    ///
    /// # Errors
    /// The operating system's.
    pub fn show(&mut self, text: &str, out: &mut Out) -> io::Result<()> {
        match text.strip_prefix(self.text.as_str()) {
            Some(more) => out.prose(more)?,
            None => {
                out.prose("\n")?;
                out.prose(text)?;
            }
        }
        text.clone_into(&mut self.text);
        out.flush()
    }

    /// Shows what of the whole answer was not shown yet, and ends the line.
    ///
    /// # Errors
    /// The operating system's.
    pub fn end(&mut self, whole: &str, out: &mut Out) -> io::Result<()> {
        let whole = whole.trim_end();
        // What was streamed may hold blanks or tags that the whole answer leaves out: it need not be said twice.
        if !self.text.contains(whole) {
            self.show(whole, out)?;
        }
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            out.prose("\n")?;
        }
        self.text.clear();
        out.flush()
    }
}

/// The text of a message: its `content`, written plainly or in parts.
pub fn text_of(message: &Value) -> String {
    let content = &message["content"];
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let parts = content.as_array().into_iter().flatten().filter(|part| part["type"] == "text");
    parts.filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::capture;

    #[track_caller]
    fn check(pieces: &[&str], whole: &str, expected: &str) {
        let shown = capture(false, |out| {
            let mut said = Said::default();
            pieces.iter().try_for_each(|text| said.show(text, out))?;
            said.end(whole, out)
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn every_word_is_shown_once() {
        check(&["He", "Hello", "Hello", "Hello there"], "Hello there", "Hello there\n");
        check(&["Hel"], "Hello", "Hello\n");
        check(&[], "Hello\n", "Hello\n");
        check(&["Hello \n"], "Hello", "Hello \n");
        check(&[], "", "");
    }

    #[test]
    fn another_text_begins_a_line() {
        check(&["Let me look", "It says"], "It says no", "Let me look\nIt says no\n");
    }

    #[test]
    fn a_text_is_read_from_either_form() {
        assert_eq!(text_of(&json!({ "content": "plain" })), "plain");
        let parts = json!([{ "type": "text", "text": "a" }, { "type": "toolCall" }, { "type": "text", "text": "b" }]);
        assert_eq!(text_of(&json!({ "content": parts })), "a\nb");
        assert_eq!(text_of(&Value::Null), "");
    }
}
