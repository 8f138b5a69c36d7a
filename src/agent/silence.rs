//! Words of a model that are for us and not for the reader: that it has nothing to say, and what it replies to.
//!
//! [`clean`] takes them out of a whole reply. [`Gate`] keeps them back while a reply is still being given, because what
//! a client was shown cannot be taken back.

use serde_json::Value;

/// Says that nobody is to be sent anything.
pub const NO_REPLY: &str = "NO_REPLY";
/// Says that a heartbeat found nothing to do.
pub const HEARTBEAT_OK: &str = "HEARTBEAT_OK";
/// Longest id of a message that is replied to, in characters.
const REPLY_ID_CHARS_MAX: usize = 256;
/// Longest reply tag, in bytes: what begins like one and goes on longer is text.
const TAG_BYTES_MAX: usize = 300;

/// A reply without what was for us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// For the reader; empty when nobody is to be sent anything.
    pub text: String,
    /// Whether it chose silence.
    pub is_silent: bool,
    /// What it replies to.
    pub reply_to: Option<ReplyTo>,
}

/// What a reply replies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyTo {
    /// The message that it answers.
    Current,
    /// The message of this id.
    Id(String),
}

/// Takes out of a whole reply what is for us.
pub fn clean(text: &str) -> Cleaned {
    let (text, reply_to) = without_tags(text);
    if is_silence(&text) {
        return Cleaned { text: String::new(), is_silent: true, reply_to };
    }
    let mut text = without_edges(&text, NO_REPLY, true);
    if text.contains(HEARTBEAT_OK) {
        let bare = |text: &str| text.trim_matches(|c| matches!(c, '*' | '`' | '~' | '_')).trim().to_owned();
        let stripped = without_edges(&text, HEARTBEAT_OK, false);
        // `**HEARTBEAT_OK**` and the like.
        text = if stripped == text.trim() { without_edges(&bare(&text), HEARTBEAT_OK, false) } else { stripped };
        let said = text.chars().any(char::is_alphanumeric);
        if !said {
            text.clear();
        }
    }
    let is_silent = text.is_empty();
    Cleaned { text, is_silent, reply_to }
}

/// Whether a reply is the word for silence and nothing else: alone or repeated, in any case, with punctuation around
/// it, as a JSON string, or as `{"action":"NO_REPLY"}`.
fn is_silence(text: &str) -> bool {
    let is_punctuation = |c: char| !c.is_alphanumeric() && !c.is_whitespace() && c != '_';
    let only_tokens = |text: &str| {
        let mut words = text.split_whitespace().peekable();
        words.peek().is_some() && words.all(|word| word.eq_ignore_ascii_case(NO_REPLY))
    };
    let trimmed = text.trim();
    if only_tokens(trimmed) || only_tokens(trimmed.trim_matches(is_punctuation)) {
        return true;
    }
    match trimmed.as_bytes().first() {
        Some(b'"' | b'{') => match serde_json::from_str(trimmed) {
            Ok(Value::String(said)) => said.trim() == NO_REPLY,
            Ok(Value::Object(fields)) => {
                fields.len() == 1
                    && fields.get("action").and_then(Value::as_str).is_some_and(|action| action.trim() == NO_REPLY)
            }
            _ => false,
        },
        _ => false,
    }
}

/// `text` without the token at its beginning and its end, however often it stands there. Within the text it stays: it
/// is spoken of there. `glued`: also where the text goes on right behind it.
fn without_edges(text: &str, token: &str, glued: bool) -> String {
    let mut rest = text.trim();
    loop {
        let starts = rest.get(..token.len()).is_some_and(|head| head.eq_ignore_ascii_case(token));
        let follows = rest.get(token.len()..).and_then(|tail| tail.chars().next());
        if starts && follows.is_none_or(|c| glued || !(c.is_alphanumeric() || c == '_')) {
            rest = rest[token.len()..].trim_start();
            continue;
        }
        let bare = rest.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '_');
        // Upstream's bound: a word, not the beginning of a new sentence.
        let tail = if rest.len() - bare.len() <= 4 { bare } else { rest };
        let before = tail.len().checked_sub(token.len()).filter(|at| tail.is_char_boundary(*at));
        if let Some(at) = before
            && tail[at..].eq_ignore_ascii_case(token)
            && tail[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || c == '*' || !glued && !is_word(c))
        {
            rest = rest[..at].trim_end().trim_end_matches('*').trim_end();
            continue;
        }
        return rest.to_owned();
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `text` without reply tags outside of code, and what the last of them says.
fn without_tags(text: &str) -> (String, Option<ReplyTo>) {
    if !text.contains("[[") {
        return (text.trim().to_owned(), None);
    }
    let (mut out, mut reply_to) = (String::with_capacity(text.len()), None);
    let (mut rest, mut in_block) = (text, false);
    while !rest.is_empty() {
        let line_end = rest.find('\n').map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at(line_end);
        rest = after;
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            out.push_str(line);
        } else {
            line_without_tags(line, &mut out, &mut reply_to);
        }
    }
    (out.trim().to_owned(), reply_to)
}

fn line_without_tags(line: &str, out: &mut String, reply_to: &mut Option<ReplyTo>) {
    let (mut rest, mut in_code) = (line, false);
    while let Some(at) = rest.find(['`', '[']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with('`') {
            in_code = !in_code;
        } else if !in_code && let Some((length, found)) = tag(rest) {
            *reply_to = Some(found);
            rest = &rest[length..];
            // One space between the words on both sides, none at the edges of a line.
            if out.ends_with([' ', '\n']) || out.is_empty() {
                rest = rest.trim_start_matches([' ', '\t']);
            } else if rest.starts_with(is_word) {
                out.push(' ');
            }
            continue;
        }
        out.push_str(&rest[..1]);
        rest = &rest[1..];
    }
    out.push_str(rest);
}

/// The reply tag at the beginning of `text`, and how long it is.
fn tag(text: &str) -> Option<(usize, ReplyTo)> {
    let inner = text.strip_prefix("[[")?;
    let end = inner[..inner.floor_char_boundary(TAG_BYTES_MAX)].find("]]")?;
    let words = inner[..end].trim();
    let found = if words.eq_ignore_ascii_case("reply_to_current") {
        ReplyTo::Current
    } else {
        let (name, id) = words.split_once(':')?;
        if !name.trim().eq_ignore_ascii_case("reply_to") {
            return None;
        }
        let id: String =
            id.trim().chars().filter(|c| !c.is_control() && !matches!(c, '[' | ']')).take(REPLY_ID_CHARS_MAX).collect();
        if id.is_empty() {
            return None;
        }
        ReplyTo::Id(id)
    };
    Some((2 + end + 2, found))
}

/// Lets the beginning of a reply through only when it is certain to be for the reader.
#[derive(Debug, Default)]
pub struct Gate {
    held: String,
    is_open: bool,
}

impl Gate {
    /// More of the reply; returns what may be shown now.
    pub fn push(&mut self, piece: &str) -> String {
        if self.is_open {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        let start = self.held.trim_start();
        if start.is_empty() || could_be_token(start) || could_be_tag(start) {
            return String::new();
        }
        if let Some((length, _)) = tag(start) {
            // The tag is gone; what follows is looked at afresh.
            self.held = start[length..].trim_start().to_owned();
            return self.push("");
        }
        self.is_open = true;
        std::mem::take(&mut self.held)
    }

    /// The reply is whole: what was kept back and is for the reader after all.
    pub fn finish(&mut self) -> String {
        clean(&std::mem::take(&mut self.held)).text
    }
}

/// Whether `text` is one of the tokens so far, or one with something behind it that may yet be nothing.
fn could_be_token(text: &str) -> bool {
    [NO_REPLY, HEARTBEAT_OK].iter().any(|token| {
        let n = text.len().min(token.len());
        text.is_char_boundary(n)
            && text[..n].eq_ignore_ascii_case(&token[..n])
            && text[n..].chars().all(|c| !c.is_alphanumeric())
    })
}

fn could_be_tag(text: &str) -> bool {
    text.starts_with('[')
        && text.len() < TAG_BYTES_MAX
        && ("[[".starts_with(text) || text.starts_with("[["))
        && !text.contains("]]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_the_whole_reply_or_stands_at_its_edges() {
        // What a model says, and what a reader sees of it.
        for (said, shown) in [
            ("NO_REPLY", ""),
            ("  no_reply\n", ""),
            ("NO_REPLY NO_REPLY", ""),
            ("**NO_REPLY**.", ""),
            ("\"NO_REPLY\"", ""),
            ("{\"action\":\"NO_REPLY\"}", ""),
            ("{\"action\":\"NO_REPLY\",\"x\":1}", "{\"action\":\"NO_REPLY\",\"x\":1}"),
            ("HEARTBEAT_OK", ""),
            ("**HEARTBEAT_OK**", ""),
            ("HEARTBEAT_OK.", ""),
            ("", ""),
            ("[[reply_to_current]] NO_REPLY", ""),
            ("Done.\n\nNO_REPLY", "Done."),
            ("Done. **NO_REPLY", "Done."),
            ("NO_REPLYHere it is", "Here it is"),
            ("HEARTBEAT_OK but look at this", "but look at this"),
            ("All is well. HEARTBEAT_OK", "All is well."),
            ("HEARTBEAT_OKAY is no token", "HEARTBEAT_OKAY is no token"),
            ("I answer NO_REPLY when I am silent", "I answer NO_REPLY when I am silent"),
            ("MY_NO_REPLY", "MY_NO_REPLY"),
            ("Hello\n  there", "Hello\n  there"),
            ("No.", "No."),
        ] {
            let cleaned = clean(said);
            assert_eq!((&*cleaned.text, cleaned.is_silent), (shown, shown.is_empty()), "{said:?}");
        }
    }

    #[test]
    fn reply_tags_are_taken_out_and_read() {
        let id = |id: &str| Some(ReplyTo::Id(id.to_owned()));
        for (said, shown, reply_to) in [
            ("[[reply_to_current]] hello", "hello", Some(ReplyTo::Current)),
            ("[[ Reply_To_Current ]]hello", "hello", Some(ReplyTo::Current)),
            ("[[reply_to: 12 ]] hello", "hello", id("12")),
            ("hello [[reply_to:a-b]]", "hello", id("a-b")),
            ("see [[reply_to:1]] here", "see here", id("1")),
            ("see[[reply_to:1]]here", "see here", id("1")),
            ("[[reply_to:1]] [[reply_to:2]] x", "x", id("2")),
            ("[[reply_to:]] x", "[[reply_to:]] x", None),
            ("[[say:x]]", "[[say:x]]", None),
            ("`[[reply_to_current]]`", "`[[reply_to_current]]`", None),
            ("```\n[[reply_to_current]]\n```", "```\n[[reply_to_current]]\n```", None),
            ("a [link](x) [[", "a [link](x) [[", None),
        ] {
            let cleaned = clean(said);
            assert_eq!((&*cleaned.text, cleaned.reply_to), (shown, reply_to), "{said:?}");
        }
        let long = format!("[[reply_to:{}]] x", "9".repeat(REPLY_ID_CHARS_MAX));
        assert_eq!(clean(&long).reply_to, id(&"9".repeat(REPLY_ID_CHARS_MAX)));
        let endless = format!("[[reply_to:{}", "9".repeat(10_000));
        assert_eq!(clean(&endless).text, endless);
    }

    #[test]
    fn nothing_is_shown_that_may_be_for_us() {
        for (pieces, shown) in [
            (&["NO_", "REPLY"][..], &["", ""][..]),
            (&["N", "o", ", I do"], &["", "", "No, I do"]),
            (&["HEART", "BEAT_OK", "."], &["", "", ""]),
            (&["Hello", " NO_REPLY"], &["Hello", " NO_REPLY"]),
            (&[" ", "\n", "Hi"], &["", "", " \nHi"]),
            (&["[", "[reply_to", "_current]", "] H", "i"], &["", "", "", "", "Hi"][..0]),
        ] {
            let mut gate = Gate::default();
            let seen: Vec<String> = pieces.iter().map(|piece| gate.push(piece)).collect();
            if shown.is_empty() {
                assert_eq!(seen.concat(), "Hi", "{pieces:?}");
            } else {
                assert_eq!(seen, shown, "{pieces:?}");
            }
        }
        let mut gate = Gate::default();
        assert_eq!((gate.push("No"), gate.finish()), (String::new(), "No".to_owned()));
        let mut gate = Gate::default();
        assert_eq!((gate.push("NO_REPLY"), gate.finish()), (String::new(), String::new()));
        let mut gate = Gate::default();
        assert_eq!(gate.push("[1] is a list"), "[1] is a list");
        let mut gate = Gate::default();
        assert_eq!(
            gate.push(&format!("[[{}", "x".repeat(TAG_BYTES_MAX))).len(),
            TAG_BYTES_MAX + 2,
            "not held for good"
        );
    }
}
