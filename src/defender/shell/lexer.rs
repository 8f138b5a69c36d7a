//! Splits a script into simple commands, resolving quotes, escapes and the few expansions that need no shell.

use super::{OPEN_FRAMES_MAX, Reader};

/// Longest `${...}` that is looked into, in bytes; keeps the search for its end from being quadratic.
const BRACED_BYTES_MAX: usize = 64;

/// A word of a simple command, unquoted.
#[derive(Debug, Default)]
pub(super) struct Word {
    pub(super) text: String,
    /// Part of it came from a command substitution, so its value is not known.
    pub(super) substituted: bool,
}

/// What a frame of the walk stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    Script,
    /// `( ... )`
    Subshell,
    /// `$( ... )`, `<( ... )`, `>( ... )`
    Substitution,
    Backticks,
}

/// One level of the walk: the command being gathered there.
#[derive(Debug)]
struct Frame {
    within: Within,
    in_double_quotes: bool,
    words: Vec<Word>,
    /// The word being gathered, in bytes of UTF-8.
    word: Vec<u8>,
    word_open: bool,
    word_quoted: bool,
    word_substituted: bool,
    /// Where the command being gathered starts in the source.
    start: usize,
    /// Operator before it.
    operator: &'static str,
    /// What the frame would print, when it is a single `echo` or `printf` of known words.
    printed: Option<String>,
    n_commands: usize,
}

impl Frame {
    fn new(within: Within, start: usize) -> Frame {
        Frame {
            within,
            in_double_quotes: false,
            words: Vec::new(),
            word: Vec::new(),
            word_open: false,
            word_quoted: false,
            word_substituted: false,
            start,
            operator: ";",
            printed: None,
            n_commands: 0,
        }
    }

    fn push(&mut self, byte: u8) {
        self.word.push(byte);
        self.word_open = true;
    }

    fn push_quoted(&mut self, bytes: &[u8]) {
        self.word.extend_from_slice(bytes);
        self.word_open = true;
        self.word_quoted = true;
    }

    fn end_word(&mut self) {
        if !self.word_open {
            return;
        }
        let bytes = std::mem::take(&mut self.word);
        // Only whole ASCII characters are dropped or added, so this is lossless.
        let text = String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into());
        let substituted = std::mem::take(&mut self.word_substituted);
        let quoted = std::mem::take(&mut self.word_quoted);
        self.word_open = false;
        // `{rm,-rf,/}` is three words.
        if !quoted && text.len() > 2 && text.starts_with('{') && text.ends_with('}') && text.contains(',') {
            let parts = text[1..text.len() - 1].split(',');
            self.words.extend(parts.map(|part| Word { text: part.to_owned(), substituted: false }));
        } else {
            self.words.push(Word { text, substituted });
        }
    }

    /// White space from an expansion: between words outside quotes, part of the word inside.
    fn blank(&mut self) {
        if self.in_double_quotes {
            self.push(b' ');
        } else {
            self.end_word();
        }
    }
}

/// Walks `source` and hands each simple command to `reader`. `segments` says whether their places are recorded.
/// Returns false when a quote, substitution or subshell stays open.
pub(super) fn walk(source: &str, segments: bool, reader: &mut Reader) -> bool {
    let mut lexer = Lexer {
        source: source.as_bytes(),
        at: 0,
        frames: vec![Frame::new(Within::Script, 0)],
        segments,
        balanced: true,
        reader,
    };
    while lexer.at < lexer.source.len() {
        lexer.step();
    }
    lexer.finish()
}

struct Lexer<'a> {
    source: &'a [u8],
    at: usize,
    /// Never empty: the first is the script.
    frames: Vec<Frame>,
    segments: bool,
    balanced: bool,
    reader: &'a mut Reader,
}

impl Lexer<'_> {
    fn top(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the script's own frame is never popped")
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.source.get(self.at + ahead).copied()
    }

    /// Consumes at least one byte.
    fn step(&mut self) {
        let byte = self.source[self.at];
        match byte {
            b'`' => self.backtick(),
            b'$' => self.dollar(),
            _ if self.top().in_double_quotes => self.step_in_double_quotes(byte),
            _ => self.step_plain(byte),
        }
    }

    fn step_in_double_quotes(&mut self, byte: u8) {
        match (byte, self.peek(1)) {
            (b'"', _) => self.top().in_double_quotes = false,
            (b'\\', Some(b'\n')) => self.at += 1,
            (b'\\', Some(next @ (b'$' | b'`' | b'"' | b'\\'))) => {
                self.top().push(next);
                self.at += 1;
            }
            _ => self.top().push(byte),
        }
        self.at += 1;
    }

    fn step_plain(&mut self, byte: u8) {
        let next = self.peek(1);
        match (byte, next) {
            (b'\\', Some(b'\n')) => self.at += 2,
            (b'\\', Some(b'\r')) if self.peek(2) == Some(b'\n') => self.at += 3,
            (b'\\', Some(escaped)) => {
                self.top().push_quoted(&[escaped]);
                self.at += 2;
            }
            (b'\'', _) => self.single_quotes(),
            (b'"', _) => {
                let frame = self.top();
                frame.in_double_quotes = true;
                frame.push_quoted(&[]);
                self.at += 1;
            }
            (b' ' | b'\t' | b'\r', _) => {
                self.top().end_word();
                self.at += 1;
            }
            (b'#', _) if !self.top().word_open => {
                let rest = &self.source[self.at..];
                self.at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
            }
            (b'(', _) => {
                self.end_command(";", 0);
                self.open(Within::Subshell, 1);
            }
            (b')', _) => self.close_parenthesis(),
            (b'\n' | b';', _) => self.end_command(";", 1),
            (b'&', Some(b'&')) => self.end_command("&&", 2),
            (b'|', Some(b'|')) => self.end_command("||", 2),
            (b'|', Some(b'&')) => self.end_command("|", 2),
            (b'|', _) => self.end_command("|", 1),
            (b'<' | b'>', Some(b'(')) => self.open(Within::Substitution, 2),
            (b'&', Some(b'>')) | (b'<' | b'>', _) => self.redirection(),
            (b'&', _) => self.end_command("&", 1),
            _ => {
                self.top().push(byte);
                self.at += 1;
            }
        }
    }

    fn single_quotes(&mut self) {
        let rest = &self.source[self.at + 1..];
        let length = rest.iter().position(|&b| b == b'\'');
        self.balanced &= length.is_some();
        let text = &rest[..length.unwrap_or(rest.len())];
        // Where the quote stays open there is no second one to step over.
        self.at = (self.at + text.len() + 2).min(self.source.len());
        self.top().push_quoted(text);
    }

    /// `>`, `>>`, `2>&1`, `<<<`: a word of its own, so that it neither joins nor separates commands.
    fn redirection(&mut self) {
        let frame = self.frames.last_mut().expect("the script's own frame is never popped");
        frame.end_word();
        while let Some(&byte @ (b'<' | b'>' | b'&' | b'|')) = self.source.get(self.at) {
            frame.push(byte);
            self.at += 1;
        }
        frame.end_word();
    }

    fn backtick(&mut self) {
        if self.top().within == Within::Backticks {
            self.close(1);
        } else {
            self.open(Within::Backticks, 1);
        }
    }

    fn close_parenthesis(&mut self) {
        match self.top().within {
            Within::Subshell | Within::Substitution => self.close(1),
            // A `case` pattern, or a stray one.
            Within::Script | Within::Backticks => self.end_command(";", 1),
        }
    }

    /// Enters a substitution or subshell that starts here with `length` bytes.
    fn open(&mut self, within: Within, length: usize) {
        self.at += length;
        if self.frames.len() > OPEN_FRAMES_MAX {
            self.reader.reading.unreadable = true;
            return;
        }
        self.frames.push(Frame::new(within, self.at));
    }

    /// Leaves the innermost frame, whose end stands here with `length` bytes.
    fn close(&mut self, length: usize) {
        self.end_command(";", 0);
        let inner = self.frames.pop().expect("only called inside a substitution or subshell");
        self.at += length;
        let at = self.at;
        let outer = self.top();
        if inner.within == Within::Subshell {
            outer.start = at;
            return;
        }
        match inner.printed {
            Some(text) if inner.n_commands == 1 => outer.push_quoted(text.as_bytes()),
            _ => {
                outer.push_quoted(b"$()");
                outer.word_substituted = true;
            }
        }
    }

    /// Ends the simple command being gathered; `operator` stands here with `length` bytes and precedes the next.
    fn end_command(&mut self, operator: &'static str, length: usize) {
        let at = self.at;
        let frame = self.frames.last_mut().expect("the script's own frame is never popped");
        frame.end_word();
        if self.segments && frame.start < at {
            self.reader.reading.segments.push(frame.start..at);
        }
        let words = std::mem::take(&mut frame.words);
        if !words.is_empty() {
            frame.n_commands += 1;
            frame.printed = super::canonical::printed(&words);
            let before = frame.operator;
            self.reader.command(&words, before);
        }
        let frame = self.top();
        // A subshell's own end is no operator: what follows decides.
        frame.operator = operator;
        frame.start = at + length;
        self.reader.reading.pipes |= operator == "|";
        self.at += length;
    }

    fn dollar(&mut self) {
        let in_double_quotes = self.top().in_double_quotes;
        match self.peek(1) {
            Some(b'(') => self.open(Within::Substitution, 2),
            Some(b'\'') if !in_double_quotes => self.ansi_c_quotes(),
            Some(b'"') if !in_double_quotes => self.at += 1,
            Some(b'{') => self.braced_variable(),
            // Positional parameters and the last background process: empty in a command of its own.
            Some(b'@' | b'*' | b'!' | b'1'..=b'9') => self.at += 2,
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') => {
                let rest = &self.source[self.at + 1..];
                let is_name = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
                let length = rest.iter().position(|b| !is_name(b)).unwrap_or(rest.len());
                let end = self.at + 1 + length;
                self.variable(self.at + 1..end, self.at..end);
                self.at = end;
            }
            _ => {
                self.top().push(b'$');
                self.at += 1;
            }
        }
    }

    fn braced_variable(&mut self) {
        let from = self.at + 2;
        let window = &self.source[from..self.source.len().min(from + BRACED_BYTES_MAX)];
        let Some(length) = window.iter().position(|&b| b == b'}') else {
            self.top().push(b'$');
            self.at += 1;
            return;
        };
        let inner = &window[..length];
        let end = from + length + 1;
        // `${x:-rm}` is `rm` where x is not set.
        let default = inner.windows(2).position(|pair| matches!(pair, b":-" | b":=")).map(|at| &inner[at + 2..]);
        match default {
            Some(default) => self.top().push_quoted(default),
            None => self.variable(from..from + length, self.at..end),
        }
        self.at = end;
    }

    /// Puts a variable's value here: blanks for `IFS`, the value assigned in this command, or else its name as written.
    fn variable(&mut self, name: std::ops::Range<usize>, written: std::ops::Range<usize>) {
        let (name, written) = (&self.source[name], &self.source[written]);
        let frame = self.frames.last_mut().expect("the script's own frame is never popped");
        if name.starts_with(b"IFS") {
            frame.blank();
            return;
        }
        if matches!(name, b"@" | b"*" | b"!" | b"1" | b"2" | b"3" | b"4" | b"5" | b"6" | b"7" | b"8" | b"9") {
            return;
        }
        let value = self.reader.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        match value {
            Some(value) if self.reader.spend(value.len()) => {
                for byte in value {
                    if byte.is_ascii_whitespace() { frame.blank() } else { frame.push(byte) }
                }
            }
            Some(_) => {
                self.reader.reading.unreadable = true;
                frame.push_quoted(written);
            }
            None => frame.push_quoted(written),
        }
    }

    /// `$'r\x6d'`
    fn ansi_c_quotes(&mut self) {
        let mut end = self.at + 2;
        while end < self.source.len() && self.source[end] != b'\'' {
            end += if self.source[end] == b'\\' { 2 } else { 1 };
        }
        self.balanced &= end < self.source.len();
        let inner = &self.source[(self.at + 2).min(self.source.len())..end.min(self.source.len())];
        self.at = (end + 1).min(self.source.len());
        let text = unescape(inner);
        self.top().push_quoted(&text);
    }

    fn finish(&mut self) -> bool {
        while self.frames.len() > 1 {
            self.balanced = false;
            self.close(0);
        }
        self.balanced &= !self.top().in_double_quotes;
        self.end_command(";", 0);
        self.balanced
    }
}

/// Resolves the escapes that `$'...'`, `printf` and `echo -e` know. Bytes outside ASCII are left out: no command is
/// named with them.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        at += 1;
        let Some(&escape) = text.get(at).filter(|_| byte == b'\\') else {
            out.push(byte);
            continue;
        };
        let (radix, digits_at, digits_max) = match escape {
            b'x' => (16, at + 1, 2),
            b'u' => (16, at + 1, 4),
            b'0' => (8, at + 1, 3),
            b'1'..=b'7' => (8, at, 3),
            _ => {
                out.push(match escape {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    other => other,
                });
                at += 1;
                continue;
            }
        };
        let digits = text[digits_at..].iter().take(digits_max).map_while(|&b| char::from(b).to_digit(radix));
        let (value, n_digits) = digits.fold((0, 0), |(value, n), digit| (value * radix + digit, n + 1));
        at = digits_at + n_digits;
        if n_digits == 0 {
            out.extend_from_slice(&[b'\\', escape]);
        } else if (1..0x80).contains(&value) {
            out.push(value as u8);
        }
    }
    out
}
