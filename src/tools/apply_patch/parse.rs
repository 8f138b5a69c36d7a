//! A patch as text, taken apart: the format of OpenAI's models.
//!
//! ```text
//! *** Begin Patch
//! *** Add File: PATH           lines that begin with +
//! *** Delete File: PATH
//! *** Update File: PATH        hunks, each after a line `@@` or `@@ LINE THAT STANDS BEFORE`
//! *** Move to: PATH            right after Update File
//! *** End of File              at a hunk's end: it is the file's end
//! *** End Patch
//! ```
//!
//! **Invariant:** any text is taken apart or refused in time linear in its length.

/// Files that one patch may name.
pub const FILES_MAX: usize = 256;

/// What a patch does to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section<'t> {
    /// There is a new one.
    Add {
        /// Its path.
        path: &'t str,
        /// Its lines.
        lines: Vec<&'t str>,
    },
    /// It goes.
    Delete {
        /// Its path.
        path: &'t str,
    },
    /// It changes.
    Update {
        /// Its path.
        path: &'t str,
        /// What it is called afterwards.
        to: Option<&'t str>,
        /// What changes in it, from its top down.
        hunks: Vec<Hunk<'t>>,
    },
}

/// A change within a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hunk<'t> {
    /// A line somewhere before it.
    pub after: Option<&'t str>,
    /// Its lines.
    pub lines: Vec<Line<'t>>,
    /// Whether it is at the file's end.
    pub is_end: bool,
}

/// A line of a hunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'t> {
    /// It stays.
    Same(&'t str),
    /// It goes.
    Gone(&'t str),
    /// It comes.
    New(&'t str),
}

/// What is wrong with a patch, and where. Lines are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// Its first line is another.
    #[error("patch must start with *** Begin Patch")]
    NoBegin,
    /// Its last line is another.
    #[error("patch must end with *** End Patch")]
    NoEnd,
    /// There is nothing in it.
    #[error("the patch changes no file")]
    Empty,
    /// It names more than [`FILES_MAX`] files.
    #[error("the patch changes more than {FILES_MAX} files")]
    TooMany,
    /// A line that belongs to nothing.
    #[error("line {line} of the patch: expected *** Add File: PATH, *** Delete File: PATH or *** Update File: PATH")]
    NoHeader {
        /// Where.
        line: usize,
    },
    /// A path is missing.
    #[error("line {line} of the patch names no file")]
    NoPath {
        /// Where.
        line: usize,
    },
    /// A file that is updated by nothing.
    #[error("line {line} of the patch: an update of a file needs changes after it")]
    NoChange {
        /// Where.
        line: usize,
    },
    /// A new file whose lines are not marked.
    #[error("line {line} of the patch: every line of a new file begins with +")]
    NotAdded {
        /// Where.
        line: usize,
    },
    /// A line of a hunk that says nothing of what becomes of it.
    #[error(
        "line {line} of the patch: a line of a change begins with a space (stays), + (comes) or - (goes), and a further change with @@"
    )]
    NotMarked {
        /// Where.
        line: usize,
    },
}

const BEGIN: &str = "*** Begin Patch";
const END: &str = "*** End Patch";
const ADD: &str = "*** Add File:";
const DELETE: &str = "*** Delete File:";
const UPDATE: &str = "*** Update File:";
const MOVE: &str = "*** Move to:";
const END_OF_FILE: &str = "*** End of File";

/// Lines that are still to be read.
struct Lines<'t> {
    lines: Vec<&'t str>,
    at: usize,
    /// How many stood before the first.
    n_before: usize,
}

impl<'t> Lines<'t> {
    fn peek(&self) -> Option<&'t str> {
        self.lines.get(self.at).copied()
    }

    /// The number of the line that is next.
    fn number(&self) -> usize {
        self.n_before + self.at + 1
    }

    /// The path after a header, when the next line is one.
    fn header(&mut self, header: &str) -> Result<Option<&'t str>, PatchError> {
        let Some(rest) = self.peek().and_then(|line| line.trim().strip_prefix(header)) else { return Ok(None) };
        let path = rest.trim();
        if path.is_empty() {
            return Err(PatchError::NoPath { line: self.number() });
        }
        self.at += 1;
        Ok(Some(path))
    }
}

/// Takes a patch apart.
///
/// # Errors
/// [`PatchError`].
pub fn parse(text: &str) -> Result<Vec<Section<'_>>, PatchError> {
    let mut lines = unwrapped(text)?;
    let mut sections = Vec::new();
    while let Some(line) = lines.peek() {
        if line.trim().is_empty() {
            lines.at += 1;
            continue;
        }
        if sections.len() == FILES_MAX {
            return Err(PatchError::TooMany);
        }
        let line = lines.number();
        let section = if let Some(path) = lines.header(ADD)? {
            Section::Add { path, lines: added(&mut lines)? }
        } else if let Some(path) = lines.header(DELETE)? {
            Section::Delete { path }
        } else if let Some(path) = lines.header(UPDATE)? {
            let to = lines.header(MOVE)?;
            let hunks = hunks(&mut lines)?;
            if hunks.is_empty() && to.is_none() {
                return Err(PatchError::NoChange { line });
            }
            Section::Update { path, to, hunks }
        } else {
            return Err(PatchError::NoHeader { line });
        };
        sections.push(section);
    }
    if sections.is_empty() { Err(PatchError::Empty) } else { Ok(sections) }
}

/// The lines between the first and the last. Some models put a patch into a here-document, as for a shell.
fn unwrapped(text: &str) -> Result<Lines<'_>, PatchError> {
    let n_before = text[..text.len() - text.trim_start().len()].matches('\n').count();
    let mut lines: Vec<&str> = text.trim().split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let mut n_before = n_before + 1;
    let is_wrapped = lines.len() >= 4
        && matches!(lines[0].trim(), "<<EOF" | "<<'EOF'" | "<<\"EOF\"")
        && lines.last().is_some_and(|line| line.trim() == "EOF");
    if is_wrapped {
        lines.pop();
        lines.remove(0);
        n_before += 1;
    }
    if lines.first().is_none_or(|line| line.trim() != BEGIN) {
        return Err(PatchError::NoBegin);
    }
    if lines.len() < 2 || lines.last().is_none_or(|line| line.trim() != END) {
        return Err(PatchError::NoEnd);
    }
    lines.pop();
    lines.remove(0);
    Ok(Lines { lines, at: 0, n_before })
}

fn added<'t>(lines: &mut Lines<'t>) -> Result<Vec<&'t str>, PatchError> {
    let mut added = Vec::new();
    while let Some(line) = lines.peek() {
        match line.strip_prefix('+') {
            Some(line) => added.push(line),
            None if line.starts_with("***") || line.trim().is_empty() => break,
            None => return Err(PatchError::NotAdded { line: lines.number() }),
        }
        lines.at += 1;
    }
    Ok(added)
}

fn hunks<'t>(lines: &mut Lines<'t>) -> Result<Vec<Hunk<'t>>, PatchError> {
    let mut hunks: Vec<Hunk<'t>> = Vec::new();
    while let Some(line) = lines.peek() {
        if line.trim().is_empty() && hunks.is_empty() {
            lines.at += 1;
            continue;
        }
        if line.starts_with("***") {
            break;
        }
        let after = line.strip_prefix("@@");
        if let Some(after) = after {
            lines.at += 1;
            let after = after.strip_prefix(' ').unwrap_or(after);
            let hunk = Hunk { after: Some(after).filter(|after| !after.trim().is_empty()), ..Hunk::default() };
            hunks.push(hunk);
        } else if hunks.is_empty() {
            // The first one may do without.
            hunks.push(Hunk::default());
        } else {
            return Err(PatchError::NotMarked { line: lines.number() });
        }
        let begins = lines.number();
        let hunk = hunks.last_mut().expect("one was just pushed");
        body(lines, hunk);
        if hunk.lines.is_empty() {
            return Err(PatchError::NotMarked { line: begins });
        }
    }
    Ok(hunks)
}

fn body<'t>(lines: &mut Lines<'t>, hunk: &mut Hunk<'t>) {
    while let Some(line) = lines.peek() {
        if line.trim_end() == END_OF_FILE {
            hunk.is_end = true;
            lines.at += 1;
            // Empty lines before the next header are nobody's.
            while lines.peek().is_some_and(|line| line.trim().is_empty()) {
                lines.at += 1;
            }
            return;
        }
        let read = match line.as_bytes().first() {
            // An empty line that stays; models forget its space.
            None => Line::Same(""),
            Some(b' ') => Line::Same(&line[1..]),
            Some(b'+') => Line::New(&line[1..]),
            Some(b'-') => Line::Gone(&line[1..]),
            Some(_) => break,
        };
        hunk.lines.push(read);
        lines.at += 1;
    }
    // Empty lines before the next header are nobody's, either: each was one line of the hunk.
    let is_over = lines.peek().is_none_or(|line| line.starts_with("***"));
    let mut at = lines.at;
    while is_over && hunk.lines.len() > 1 && lines.lines[at - 1].is_empty() {
        hunk.lines.pop();
        at -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_every_kind_apart() {
        let text = "*** Begin Patch\n*** Add File: a/new.txt\n+one\n+\n+++ two\n*** Delete File: old.txt\n\
                    *** Update File: b.txt\n*** Move to: c.txt\n@@ fn main() {\n same\n-gone\n+new\n\n@@\n+last\n\
                    *** End of File\n*** End Patch";
        assert_eq!(
            parse(text).unwrap(),
            [
                Section::Add { path: "a/new.txt", lines: vec!["one", "", "++ two"] },
                Section::Delete { path: "old.txt" },
                Section::Update {
                    path: "b.txt",
                    to: Some("c.txt"),
                    hunks: vec![
                        Hunk {
                            after: Some("fn main() {"),
                            lines: vec![Line::Same("same"), Line::Gone("gone"), Line::New("new"), Line::Same("")],
                            is_end: false,
                        },
                        Hunk { after: None, lines: vec![Line::New("last")], is_end: true },
                    ],
                },
            ]
        );
    }

    #[test]
    fn forgives_what_models_do() {
        let plain = parse("*** Begin Patch\n*** Update File: a\n-x\n+y\n*** End Patch").unwrap();
        for text in [
            "\n\n  *** Begin Patch  \r\n*** Update File:   a \r\n-x\r\n+y\r\n*** End Patch\r\n\r\n",
            "<<'EOF'\n*** Begin Patch\n*** Update File: a\n@@\n-x\n+y\n*** End Patch\nEOF",
            "*** Begin Patch\n\n*** Update File: a\n\n-x\n+y\n\n*** End Patch",
        ] {
            assert_eq!(parse(text).unwrap(), plain, "{text:?}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let wrapped = |inner: &str| format!("*** Begin Patch\n{inner}\n*** End Patch");
        for (text, words) in [
            (String::new(), "patch must start with *** Begin Patch"),
            ("*** Update File: a".to_owned(), "patch must start with *** Begin Patch"),
            ("*** Begin Patch".to_owned(), "patch must end with *** End Patch"),
            ("*** Begin Patch\n*** Add File: a\n+x".to_owned(), "patch must end with *** End Patch"),
            (wrapped(""), "the patch changes no file"),
            (wrapped("hello"), "line 2 of the patch: expected *** Add File"),
            (format!("\n\n{}", wrapped("hello")), "line 4 of the patch"),
            (format!("<<EOF\n{}\nEOF", wrapped("hello")), "line 3 of the patch"),
            (wrapped("*** Add File:  \n+x"), "line 2 of the patch names no file"),
            (wrapped("*** Add File: a\nx"), "line 3 of the patch: every line of a new file begins with +"),
            (wrapped("*** Update File: a"), "line 2 of the patch: an update of a file needs changes"),
            (wrapped("*** Update File: a\n@@\n*** End of File"), "line 4 of the patch: a line of a change"),
            (wrapped("*** Update File: a\n@@\n-x\nnot marked"), "line 5 of the patch: a line of a change"),
            (wrapped("*** Update File: a\nnot marked"), "line 3 of the patch: a line of a change"),
            (wrapped("*** Move to: b"), "line 2 of the patch: expected"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(words), "{text:?}: {error}");
        }
        let many = |n: usize| wrapped(&vec!["*** Delete File: a"; n].join("\n"));
        assert_eq!(parse(&many(FILES_MAX)).unwrap().len(), FILES_MAX);
        assert_eq!(parse(&many(FILES_MAX + 1)), Err(PatchError::TooMany));
        assert!(parse(&wrapped("*** Update File: a\n*** Move to: b")).is_ok(), "moving alone changes enough");
    }

    fn any_line() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*** Begin Patch".to_owned()),
            Just("*** End Patch".to_owned()),
            Just("*** End of File".to_owned()),
            "\\*\\*\\* (Add File|Delete File|Update File|Move to):? ?[a-z/.]{0,4}",
            "@@ ?[a-z]{0,3}",
            "[ +-][a-z]{0,3}",
            "[\\x00-\u{ffff}]{0,6}",
        ]
    }

    proptest! {
        #[test]
        fn never_panics(lines in prop::collection::vec(any_line(), 0..40), is_whole: bool, end in "\r?\n") {
            let mut text = lines.join(&end);
            if is_whole {
                text = format!("*** Begin Patch{end}{text}{end}*** End Patch");
            }
            if let Ok(sections) = parse(&text) {
                // Nothing is read twice.
                let n_lines: usize = sections.iter().map(|section| match section {
                    Section::Add { lines, .. } => lines.len() + 1,
                    Section::Delete { .. } => 1,
                    Section::Update { hunks, .. } => 1 + hunks.iter().map(|hunk| hunk.lines.len()).sum::<usize>(),
                }).sum();
                prop_assert!(n_lines <= text.split('\n').count());
            }
        }

        #[test]
        fn never_panics_on_any_text(text in "\\PC*") {
            let _ = parse(&text);
        }
    }

    /// Twice the text takes twice the time, whatever it is made of: a limit that a quadratic reader misses by far.
    #[test]
    fn takes_time_in_proportion() {
        for inner in
            ["+x\n", "\n", "*** End of File\n", "@@\n", "@@ a\n+x\n", " \n", "-\n", "*** Add File: a\n", "<<EOF\n"]
        {
            for head in ["*** Add File: a\n", "*** Update File: a\n@@\n-x\n", ""] {
                let text = format!("*** Begin Patch\n{head}{}*** End Patch", inner.repeat(400_000 / inner.len()));
                let began = std::time::Instant::now();
                let _ = parse(&text);
                assert!(began.elapsed() < std::time::Duration::from_secs(2), "{head:?} {inner:?}");
            }
        }
    }
}
