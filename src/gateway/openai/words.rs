//! What a run says, for a reader that can only be told more and never to forget.
//!
//! A run may be told to begin anew (another model takes over) and may call tools between its words. Parts that tools
//! divide stay; a part that is begun anew must say again what was already sent, or the answer cannot be continued.

/// Text that is sent while it is being said, in bytes. What is beyond it comes with the end alone.
pub(super) const SENT_BYTES_MAX: usize = 1024 * 1024;
/// Stands between the parts.
const BETWEEN: &str = "\n\n";

/// The words of one answer.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Parts before the newest tool call.
    done: String,
    /// The newest part, as far as it has been said.
    part: String,
    /// What was sent of it before it began anew, until it has caught up.
    before: String,
    /// It began anew and says something else.
    is_torn: bool,
    /// Something was left out because there was too much; the end makes up for it.
    is_full: bool,
}

impl Words {
    /// Takes more; gives what is to be sent.
    pub(super) fn say(&mut self, words: &str) -> String {
        if self.is_torn || self.is_full || words.is_empty() {
            return String::new();
        }
        if self.done.len() + self.part.len() + words.len() > SENT_BYTES_MAX {
            self.is_full = true;
            return String::new();
        }
        let is_first = self.part.is_empty() && !self.done.is_empty();
        self.part.push_str(words);
        if self.before.is_empty() {
            return if is_first { format!("{BETWEEN}{words}") } else { words.to_owned() };
        }
        if let Some(more) = self.part.strip_prefix(self.before.as_str()) {
            let more = more.to_owned();
            self.before.clear();
            return more;
        }
        self.is_torn = !self.before.starts_with(&self.part);
        String::new()
    }

    /// What was said since the last tool call is said anew.
    pub(super) fn restart(&mut self) {
        if self.before.is_empty() {
            self.before = std::mem::take(&mut self.part);
        }
        self.part.clear();
    }

    /// A tool was called: what comes is another part.
    pub(super) fn next_part(&mut self) {
        self.is_torn |= !self.before.is_empty();
        if self.part.is_empty() {
            return;
        }
        if !self.done.is_empty() {
            self.done.push_str(BETWEEN);
        }
        self.done.push_str(&std::mem::take(&mut self.part));
    }

    /// The last part as it stands in the end: gives the whole text, and what of it has not been sent; `None` when what
    /// was sent is not how it begins.
    pub(super) fn end(&self, last: &str) -> (String, Option<String>) {
        let sent = if self.before.is_empty() { &self.part } else { &self.before };
        let between = if self.done.is_empty() || last.is_empty() { "" } else { BETWEEN };
        let whole = format!("{}{between}{last}", self.done);
        // Space at either end says nothing: a reply is told without it.
        let more = if self.is_torn { None } else { last.trim().strip_prefix(sent.trim()) };
        let more = more.map(|more| if sent.is_empty() { format!("{between}{last}") } else { more.to_owned() });
        (whole, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_tools_divide_stay() {
        let mut words = Words::default();
        assert_eq!(words.say("I "), "I ");
        assert_eq!(words.say("look\n"), "look\n");
        words.next_part();
        assert_eq!(words.say("done"), "\n\ndone");
        assert_eq!(words.end("done"), ("I look\n\n\ndone".to_owned(), Some(String::new())));
        assert_eq!(words.end("done."), ("I look\n\n\ndone.".to_owned(), Some(".".to_owned())));
    }

    #[test]
    fn nothing_said_means_that_all_is_to_be_sent() {
        let mut words = Words::default();
        assert_eq!(words.end("all"), ("all".to_owned(), Some("all".to_owned())));
        words.say("a");
        words.next_part();
        assert_eq!(words.end("all"), ("a\n\nall".to_owned(), Some("\n\nall".to_owned())));
        assert_eq!(words.end(""), ("a".to_owned(), Some(String::new())));
    }

    #[test]
    fn what_is_said_anew_must_begin_as_before() {
        let mut words = Words::default();
        words.say("Hello");
        words.restart();
        assert_eq!(words.say("Hel"), "");
        words.restart();
        assert_eq!(words.say("Hello"), "");
        assert_eq!(words.say(" Ann"), " Ann");
        assert_eq!(words.end("Hello Ann").1.as_deref(), Some(""));

        words.restart();
        assert_eq!(words.say("Good day"), "");
        assert_eq!(words.end("Good day"), ("Good day".to_owned(), None));
    }

    #[test]
    fn what_is_too_much_to_be_kept_comes_with_the_end() {
        let mut words = Words::default();
        let long = "x".repeat(SENT_BYTES_MAX);
        assert_eq!(words.say(&long).len(), SENT_BYTES_MAX);
        assert_eq!(words.say("y"), "");
        assert_eq!(words.end(&format!("{long}y")).1.as_deref(), Some("y"));
    }
}
