//! Where answers are written: plain and stable for scripts, aligned and colored for a person at a terminal.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal as _, Write};

use serde::Serialize;

/// Standard output, and what may be written to it.
pub struct Out {
    sink: BufWriter<Box<dyn Write>>,
    json: bool,
    color: bool,
    terminal: bool,
}

/// How a piece of text is to be seen, where colors are seen at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// A heading.
    Bold,
    /// All is well.
    Good,
    /// Someone should look.
    Warn,
    /// It failed.
    Bad,
    /// Of less weight.
    Dim,
}

impl Style {
    /// The escape sequence that starts it (ECMA-48, SGR).
    fn start(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Bold => "\x1b[1m",
            Style::Good => "\x1b[32m",
            Style::Warn => "\x1b[33m",
            Style::Bad => "\x1b[31m",
            Style::Dim => "\x1b[2m",
        }
    }
}

impl Out {
    /// This process's standard output. Colors need a terminal, and neither `NO_COLOR` nor `--no-color` nor `TERM=dumb`.
    pub fn stdout(json: bool, no_color: bool) -> Out {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let color = !no_color
            && terminal
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Out { sink: BufWriter::new(Box::new(stdout)), json, color, terminal }
    }

    /// Writes to `sink`, without colors: for tests.
    #[cfg(test)]
    pub fn to(sink: Box<dyn Write>, json: bool) -> Out {
        Out { sink: BufWriter::new(sink), json, color: false, terminal: false }
    }

    /// Whether the answer is for a script.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches, so that text is worth showing while it comes.
    pub fn is_watched(&self) -> bool {
        self.terminal && !self.json
    }

    /// For those who write many lines themselves.
    pub fn sink(&mut self) -> &mut impl Write {
        &mut self.sink
    }

    /// Writes `text` as it is.
    ///
    /// # Errors
    /// The operating system's.
    pub fn raw(&mut self, text: &str) -> io::Result<()> {
        self.sink.write_all(text.as_bytes())
    }

    /// Writes one line. Control characters from outside cannot move the cursor or set a title: they are shown.
    ///
    /// # Errors
    /// The operating system's.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.sink.write_all(visible(text).as_bytes())?;
        self.sink.write_all(b"\n")
    }

    /// Writes a text of several lines, or a piece of one: as [`Out::line`], but lines stay lines and nothing is added.
    ///
    /// # Errors
    /// The operating system's.
    pub fn prose(&mut self, text: &str) -> io::Result<()> {
        let mut lines = text.split('\n');
        self.prose_line(lines.next().unwrap_or(""))?;
        for line in lines {
            self.sink.write_all(b"\n")?;
            self.prose_line(line)?;
        }
        Ok(())
    }

    fn prose_line(&mut self, line: &str) -> io::Result<()> {
        let mut pieces = line.trim_end_matches('\r').split('\t');
        self.sink.write_all(visible(pieces.next().unwrap_or("")).as_bytes())?;
        for piece in pieces {
            self.sink.write_all(b"\t")?;
            self.sink.write_all(visible(piece).as_bytes())?;
        }
        Ok(())
    }

    /// Writes one JSON document, indented, and a line end.
    ///
    /// # Errors
    /// The operating system's.
    pub fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.sink, value)?;
        self.sink.write_all(b"\n")
    }

    /// `text`, safe to print, in `style` where that shows.
    pub fn styled(&self, style: Style, text: &str) -> String {
        let text = visible(text);
        if self.color && style != Style::Plain { format!("{}{text}\x1b[0m", style.start()) } else { text.into_owned() }
    }

    /// Writes a line that was put together from [`Out::styled`] pieces.
    ///
    /// # Errors
    /// The operating system's.
    pub fn styled_line(&mut self, text: &str) -> io::Result<()> {
        self.sink.write_all(text.as_bytes())?;
        self.sink.write_all(b"\n")
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// The operating system's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// `1 problem`, `2 problems`.
pub fn counted(n: usize, noun: &str) -> String {
    let ending = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{ending}")
}

/// `text` with every control character made visible as `\u{..}`, so that what a stranger wrote into a name cannot
/// drive the terminal. Line ends count as control characters.
pub fn visible(text: &str) -> Cow<'_, str> {
    let hostile = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if hostile(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        let cases = [
            ("plain ünïcode", "plain ünïcode"),
            ("a\x1b]0;owned\x07b", "a\\u{1b}]0;owned\\u{7}b"),
            ("two\nlines\tand\r", "two\\nlines\\tand\\u{d}"),
            ("right\u{202e}left", "right\\u{202e}left"),
            ("c1\u{9b}31m", "c1\\u{9b}31m"),
        ];
        for (text, expected) in cases {
            assert_eq!(visible(text), expected);
        }
    }

    #[test]
    fn a_text_keeps_its_lines_and_still_cannot_drive_the_terminal() {
        let shown = crate::cli::capture(false, |out| out.prose("a\tb\r\n\n\x1b[2Jc"));
        assert_eq!(shown, "a\tb\n\n\\u{1b}[2Jc");
    }

    #[test]
    fn colors_only_where_they_show() {
        let mut out = Out::to(Box::new(io::sink()), false);
        assert_eq!(out.styled(Style::Bad, "no"), "no");
        out.color = true;
        assert_eq!(out.styled(Style::Bad, "no"), "\x1b[31mno\x1b[0m");
        assert_eq!(out.styled(Style::Plain, "no"), "no");
    }
}
