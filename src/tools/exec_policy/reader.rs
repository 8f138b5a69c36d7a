//! Reads a command line into the programs it runs, or not at all.
//!
//! The defender reads a command as widely as it can, to find what hides in it; this reader is the other way round. It
//! knows words, quotes, `|`, `&&`, `||`, `;` and line ends, and refuses whatever else a shell would act on:
//! substitutions and variables, redirections, globs, braces, assignments, functions, here-documents, background jobs,
//! comments. So what it gives is what runs: [`Line::enforced`] writes the same programs with every word quoted, for a
//! shell that has nothing left to expand.

use std::fmt::Write as _;

/// Longest line that is read, in bytes.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Programs of one line.
pub const SEGMENTS_MAX: usize = 64;

/// Words that a shell acts on when they come first.
const RESERVED: [&str; 25] = [
    "!", "{", "}", "[[", "]]", "case", "coproc", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if",
    "in", "select", "then", "time", "until", "while", "exec", "eval", "source",
];

/// What stands between two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// What the first writes, the second reads.
    Pipe,
    /// The second, if the first went well.
    And,
    /// The second, if it did not.
    Or,
    /// One after the other.
    Then,
}

impl Between {
    fn as_str(self) -> &'static str {
        match self {
            Between::Pipe => " | ",
            Between::And => " && ",
            Between::Or => " || ",
            Between::Then => "; ",
        }
    }
}

/// One program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What stands before it; `None`: it is the first.
    pub after: Option<Between>,
    /// Its words, quotes resolved; at least one.
    pub words: Vec<String>,
}

/// A command line that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its programs in order; at least one.
    pub segments: Vec<Segment>,
}

impl Line {
    /// The same line for a shell, with `programs` in place of each first word and every word quoted.
    pub fn enforced(&self, programs: &[String]) -> String {
        let mut out = String::new();
        for (segment, program) in self.segments.iter().zip(programs) {
            out.push_str(segment.after.map_or("", Between::as_str));
            quote(&mut out, program);
            for word in &segment.words[1..] {
                out.push(' ');
                quote(&mut out, word);
            }
        }
        out
    }
}

fn quote(out: &mut String, word: &str) {
    let _ = write!(out, "'{}'", word.replace('\'', r"'\''"));
}

/// Reads a line; the error says, for people, what in it cannot be on any list.
///
/// # Errors
/// What the reader does not know.
pub fn read(text: &str) -> Result<Line, &'static str> {
    if text.len() > LINE_BYTES_MAX {
        return Err("it is too long");
    }
    let mut reader = Reader { segments: Vec::new(), words: Vec::new(), word: None, after: None };
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => reader.end_word(),
            '\n' => reader.end_line()?,
            ';' if chars.peek() == Some(&';') => return Err("';;'"),
            ';' => reader.end_segment(Between::Then)?,
            '|' if chars.next_if_eq(&'|').is_some() => reader.end_segment(Between::Or)?,
            '|' if chars.peek() == Some(&'&') => return Err("a redirection"),
            '|' => reader.end_segment(Between::Pipe)?,
            '&' if chars.next_if_eq(&'&').is_some() => reader.end_segment(Between::And)?,
            '&' => return Err("a job in the background"),
            '<' | '>' => return Err("a redirection"),
            '$' | '`' => return Err("a substitution"),
            '(' | ')' => return Err("a subshell"),
            '*' | '?' | '[' => return Err("a pattern that the shell expands"),
            '{' | '}' => return Err("braces"),
            '~' if reader.word.as_ref().is_none_or(|word| word.ends_with(['=', ':'])) => return Err("'~'"),
            '#' if reader.word.is_none() => return Err("a comment"),
            '!' => return Err("'!'"),
            '\'' => loop {
                match chars.next().ok_or("an open quote")? {
                    '\'' => break reader.quoted(),
                    c => reader.push(c),
                }
            },
            '"' => {
                reader.quoted();
                loop {
                    match chars.next().ok_or("an open quote")? {
                        '"' => break,
                        '$' | '`' => return Err("a substitution"),
                        '\\' => match chars.next().ok_or("an open quote")? {
                            c @ ('"' | '\\' | '$' | '`') => reader.push(c),
                            '\n' => {}
                            c => {
                                reader.push('\\');
                                reader.push(c);
                            }
                        },
                        c => reader.push(c),
                    }
                }
            }
            '\\' => match chars.next().ok_or("a backslash at its end")? {
                '\n' => {}
                c => reader.push(c),
            },
            '\0' | '\r' => return Err("a control character"),
            c if c.is_whitespace() => return Err("an unusual blank"),
            c => reader.push(c),
        }
    }
    reader.end_line()?;
    match (reader.segments.is_empty(), reader.after) {
        (true, _) => Err("no command"),
        (false, None | Some(Between::Then)) => Ok(Line { segments: reader.segments }),
        (false, Some(_)) => Err("an operator at its end"),
    }
}

struct Reader {
    segments: Vec<Segment>,
    words: Vec<String>,
    word: Option<String>,
    after: Option<Between>,
}

impl Reader {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    /// A quote begins or ends: there is a word, even an empty one.
    fn quoted(&mut self) {
        self.word.get_or_insert_default();
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    /// A line end is `;` where a command stands before it, and nothing after an operator.
    fn end_line(&mut self) -> Result<(), &'static str> {
        self.end_word();
        if self.words.is_empty() { Ok(()) } else { self.end_segment(Between::Then) }
    }

    fn end_segment(&mut self, next: Between) -> Result<(), &'static str> {
        self.end_word();
        let words = std::mem::take(&mut self.words);
        let Some(first) = words.first() else { return Err("an operator without a command") };
        if RESERVED.contains(&first.as_str()) {
            return Err("a word of the shell's own");
        }
        let is_assignment = first.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '+'))
        });
        if is_assignment || first.is_empty() {
            return Err("an assignment");
        }
        if self.segments.len() >= SEGMENTS_MAX {
            return Err("it has too many commands");
        }
        let after = if self.segments.is_empty() { None } else { self.after };
        self.segments.push(Segment { after, words });
        self.after = Some(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &[&str])]) {
        let line = read(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        let read: Vec<(&str, Vec<&str>)> = line
            .segments
            .iter()
            .map(|s| (s.after.map_or("", |op| op.as_str().trim()), s.words.iter().map(String::as_str).collect()))
            .collect();
        let expected: Vec<(&str, Vec<&str>)> = expected.iter().map(|(op, words)| (*op, words.to_vec())).collect();
        assert_eq!(read, expected, "{text}");
    }

    #[test]
    fn words_quotes_and_operators_are_read() {
        check("ls -l /tmp", &[("", &["ls", "-l", "/tmp"])]);
        check(r#"echo 'a b' "c\"d" e\ f ''"#, &[("", &["echo", "a b", "c\"d", "e f", ""])]);
        check("a | b && c || d ; e", &[("", &["a"]), ("|", &["b"]), ("&&", &["c"]), ("||", &["d"]), (";", &["e"])]);
        check("a\nb\n", &[("", &["a"]), (";", &["b"])]);
        check("a |\n b;", &[("", &["a"]), ("|", &["b"])]);
        check("a \\\n b", &[("", &["a", "b"])]);
        check("git commit -m 'x; rm -rf / $(y)'", &[("", &["git", "commit", "-m", "x; rm -rf / $(y)"])]);
        check("echo a#b x~y", &[("", &["echo", "a#b", "x~y"])]);
    }

    #[test]
    fn what_a_shell_would_act_on_is_refused() {
        for text in [
            "",
            " ",
            "a > b",
            "a < b",
            "a 2>&1",
            "a >> b",
            "a << E",
            "a <<< b",
            "a &",
            "a & b",
            "a |& b",
            "echo $HOME",
            "echo $(x)",
            "echo `x`",
            "echo \"$x\"",
            "echo \"`x`\"",
            "(a)",
            "a; (b)",
            "ls *",
            "ls a?",
            "ls [ab]",
            "echo {a,b}",
            "ls ~",
            "ls ~root",
            "X=1 a",
            "X=1",
            "a; X+=1 b",
            "PATH=/tmp:$PATH a",
            "# a",
            "a # b",
            "! a",
            "if a; then b; fi",
            "for x in a; do b; done",
            "while a; do b; done",
            "{ a; }",
            "eval a",
            "exec a",
            "source a",
            "time a",
            "a ||",
            "a &&",
            "a |",
            "| a",
            "; a",
            "a ;; b",
            "a && ; b",
            "'open",
            "\"open",
            "a \\",
            "a\0b",
            "a\rb",
            "a\u{a0}b",
            "a\u{3000}b",
            "coproc a",
            "function f { a; }",
            "f() { a; }",
            "case a in b) c;; esac",
            "[[ a ]]",
            "a=~ b",
            "x=~/y b",
            "''",
        ] {
            assert!(read(text).is_err(), "{text:?} was read");
        }
        assert!(read(&"a ".repeat(LINE_BYTES_MAX)).is_err());
        assert!(read(&"a;".repeat(SEGMENTS_MAX)).is_ok());
        assert!(read(&"a;".repeat(SEGMENTS_MAX + 1)).is_err());
    }

    #[test]
    fn the_enforced_line_reads_back_as_the_same_words() {
        for text in ["ls -l", "a 'b c' | d \"e'f\" && g", "echo \\$HOME '*' \\; x"] {
            let line = read(text).unwrap();
            let programs: Vec<String> = line.segments.iter().map(|s| format!("/bin/{}", s.words[0])).collect();
            let again = read(&line.enforced(&programs)).unwrap();
            for (before, after) in line.segments.iter().zip(&again.segments) {
                assert_eq!((before.after, &before.words[1..]), (after.after, &after.words[1..]), "{text}");
            }
        }
    }
}
