//! Where a hunk belongs in a file, and the file with it in its place.
//!
//! A hunk's old lines are looked for from where the last hunk ended, first exactly, then more and more loosely; the
//! loosest form in which they stand somewhere must stand there once. What a hunk does not change stays byte for byte,
//! also where it was matched loosely.

use std::borrow::Cow;

use super::parse::{Hunk, Line};
use crate::tools::edit;

/// Lines that are compared for one patch at most. Real ones need some thousands; what needs more is made to.
pub const COMPARISONS_MAX: usize = 20_000_000;

/// Why a hunk has no place. Hunks are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Its lines are not there.
    #[error("the lines of change {hunk} are not there{hint}")]
    Missing {
        /// Which.
        hunk: usize,
        /// What comes near.
        hint: String,
    },
    /// They are there more than once.
    #[error(
        "the lines of change {hunk} stand there {times} times: give more lines around it, or a line before it after @@"
    )]
    Ambiguous {
        /// Which.
        hunk: usize,
        /// How often.
        times: usize,
    },
    /// The line it comes after is not there.
    #[error("the line after @@ of change {hunk} is not there{hint}")]
    NoContext {
        /// Which.
        hunk: usize,
        /// What comes near.
        hint: String,
    },
    /// Or more than once.
    #[error("the line after @@ of change {hunk} stands there {times} times: give one that stands there once")]
    ContextAmbiguous {
        /// Which.
        hunk: usize,
        /// How often.
        times: usize,
    },
    /// More than [`COMPARISONS_MAX`] lines would be compared.
    #[error("its lines are too much alike to find the place of change {hunk}")]
    TooAlike {
        /// Which.
        hunk: usize,
    },
}

/// How a search ended.
enum Search {
    At(usize),
    Nowhere,
    Often(usize),
    TooLong,
}

/// The text with all hunks in it. `left` is how many lines may still be compared.
///
/// # Errors
/// [`PlaceError`].
pub fn apply(text: &str, hunks: &[Hunk<'_>], left: &mut usize) -> Result<String, PlaceError> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let bare: Vec<&str> = lines.iter().map(|line| bare(line)).collect();
    let usual = lines.first().map_or("\n", |line| end_of(line, "\n"));
    let is_open = lines.last().is_some_and(|line| !line.ends_with('\n'));
    let mut out = String::with_capacity(text.len());
    // Lines before this one are in `out`.
    let mut at = 0;
    for (number, hunk) in (1..).zip(hunks) {
        let mut from = at;
        if let Some(after) = hunk.after {
            from = match search(&bare, &[after], from, false, left) {
                Search::At(found) => found + 1,
                Search::Nowhere => {
                    return Err(PlaceError::NoContext { hunk: number, hint: edit::nearest(text, after) });
                }
                Search::Often(times) => return Err(PlaceError::ContextAmbiguous { hunk: number, times }),
                Search::TooLong => return Err(PlaceError::TooAlike { hunk: number }),
            };
        }
        let (found, n_lines) = place(&bare, hunk, from, left).map_err(|search| match search {
            Search::Often(times) => PlaceError::Ambiguous { hunk: number, times },
            Search::TooLong => PlaceError::TooAlike { hunk: number },
            Search::Nowhere | Search::At(_) => {
                PlaceError::Missing { hunk: number, hint: edit::nearest(text, &old_lines(hunk).join("\n")) }
            }
        })?;
        out.extend(lines[at..found].iter().copied());
        at = found;
        for line in &hunk.lines[..n_lines] {
            match line {
                Line::Same(_) => {
                    out.push_str(lines[at]);
                    at += 1;
                }
                Line::Gone(_) => at += 1,
                Line::New(new) => {
                    // A line that had no end is not the last one any more.
                    if !out.is_empty() && !out.ends_with('\n') {
                        out.push_str(usual);
                    }
                    let beside = at.checked_sub(1).and_then(|before| lines.get(before)).or(lines.get(at));
                    out.push_str(new);
                    out.push_str(beside.map_or(usual, |line| end_of(line, usual)));
                }
            }
        }
    }
    out.extend(lines[at..].iter().copied());
    // The file ends as it did.
    if is_open && let Some(rest) = out.strip_suffix('\n') {
        out.truncate(rest.strip_suffix('\r').unwrap_or(rest).len());
    }
    Ok(out)
}

/// At which line a hunk is, and how many of its own count.
fn place(bare: &[&str], hunk: &Hunk<'_>, from: usize, left: &mut usize) -> Result<(usize, usize), Search> {
    let old = old_lines(hunk);
    if old.is_empty() {
        // Nothing says where, but what stands before it.
        let at = if hunk.after.is_some() && !hunk.is_end { from } else { bare.len() };
        return Ok((at, hunk.lines.len()));
    }
    match search(bare, &old, from, hunk.is_end, left) {
        Search::At(found) => return Ok((found, hunk.lines.len())),
        // Many end a hunk with the empty line that the file's last line end looks like.
        Search::Nowhere if old.len() > 1 && hunk.lines.last() == Some(&Line::Same("")) => {}
        other => return Err(other),
    }
    match search(bare, &old[..old.len() - 1], from, hunk.is_end, left) {
        Search::At(found) => Ok((found, hunk.lines.len() - 1)),
        other => Err(other),
    }
}

fn old_lines<'t>(hunk: &Hunk<'t>) -> Vec<&'t str> {
    let old = |line: &Line<'t>| match line {
        Line::Same(text) | Line::Gone(text) => Some(*text),
        Line::New(_) => None,
    };
    hunk.lines.iter().filter_map(old).collect()
}

/// Looks for lines that follow each other, not before `from`; with `is_end`, at the end only.
fn search(lines: &[&str], wanted: &[&str], from: usize, is_end: bool, left: &mut usize) -> Search {
    type Form = for<'t> fn(&'t str) -> Cow<'t, str>;
    // From the strictest to the loosest, as upstream's.
    const FORMS: [Form; 4] = [
        |line| line.into(),
        |line| line.trim_end().into(),
        |line| line.trim().into(),
        |line| line.trim().chars().map(plain).collect(),
    ];
    let Some(last) = lines.len().checked_sub(wanted.len()) else { return Search::Nowhere };
    let from = if is_end { from.max(last) } else { from };
    if from > last {
        return Search::Nowhere;
    }
    for form in FORMS {
        let wanted: Vec<Cow<'_, str>> = wanted.iter().map(|line| form(line)).collect();
        let lines: Vec<Cow<'_, str>> = lines[from..].iter().map(|line| form(line)).collect();
        let (mut first, mut times) = (None, 0);
        for at in 0..=last - from {
            let n_same = wanted.iter().zip(&lines[at..]).take_while(|(a, b)| a == b).count();
            let Some(rest) = left.checked_sub(n_same + 1) else { return Search::TooLong };
            *left = rest;
            if n_same == wanted.len() {
                first.get_or_insert(from + at);
                times += 1;
            }
        }
        match first {
            Some(at) if times == 1 => return Search::At(at),
            Some(_) => return Search::Often(times),
            None => {}
        }
    }
    Search::Nowhere
}

/// A character as a keyboard has it.
fn plain(c: char) -> char {
    match c {
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        '\u{a0}' | '\u{2002}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
        other => other,
    }
}

fn bare(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// What a line ends with.
fn end_of(line: &str, otherwise: &'static str) -> &'static str {
    match line {
        _ if line.ends_with("\r\n") => "\r\n",
        _ if line.ends_with('\n') => "\n",
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::{Section, parse};
    use super::*;

    fn try_patch(text: &str, hunks: &str) -> Result<String, PlaceError> {
        let patch = format!("*** Begin Patch\n*** Update File: f\n{hunks}\n*** End Patch");
        let sections = parse(&patch).unwrap();
        let [Section::Update { hunks, .. }] = sections.as_slice() else { panic!("it is an update") };
        apply(text, hunks, &mut COMPARISONS_MAX.clone())
    }

    #[track_caller]
    fn check(text: &str, hunks: &str, expected: &str) {
        assert_eq!(try_patch(text, hunks).unwrap(), expected);
    }

    #[track_caller]
    fn refuses(text: &str, hunks: &str, words: &str) {
        let error = try_patch(text, hunks).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    }

    #[test]
    fn puts_hunks_where_they_belong() {
        check("a\nb\nc\n", "@@\n a\n-b\n+B\n c", "a\nB\nc\n");
        check("a\nb\nc\nb\n", "@@ c\n-b\n+B", "a\nb\nc\nB\n");
        check("a\nb\nc\nb\n", "@@\n a\n-b\n+1\n@@\n c\n-b\n+2\n*** End of File", "a\n1\nc\n2\n");
        check("a\nb\n", "@@ a\n+new", "a\nnew\nb\n");
        check("a\nb\n", "@@\n+new", "a\nb\nnew\n");
        check("a\nb\n", "@@ a\n+new\n*** End of File", "a\nb\nnew\n");
        check("x\na\nx\n", "@@\n-x\n+y\n*** End of File", "x\na\ny\n");
        check("", "@@\n+new", "new\n");
        check("a\nb\n", "@@\n-a\n-b", "");
    }

    #[test]
    fn what_stays_keeps_its_bytes() {
        // Spaces and quotes that a model got wrong.
        check("  a \u{201c}x\u{201d}  \nb\n", "@@\n a \"x\"\n-b\n+c", "  a \u{201c}x\u{201d}  \nc\n");
        check("a\r\nb\r\nc\n", "@@\n a\n-b\n+1\n+2\n c", "a\r\n1\r\n2\r\nc\n");
        check("a\nb", "@@\n-b\n+c\n+d", "a\nc\nd");
        check("a\nb", "@@\n a\n b\n+c", "a\nb\nc");
        check("a\r\nb", "@@\n+c", "a\r\nb\r\nc");
        check("a\nb\n", "@@\n a\n-b\n+c\n \n@@\n+d", "a\nc\nd\n");
    }

    #[test]
    fn says_why_there_is_no_place() {
        refuses("a\nb\n", "@@\n-zzz", "the lines of change 1 are not there");
        refuses(
            "call one();\n",
            "@@\n-call ome();",
            "the lines of change 1 are not there; nearest is line 1: \"call one();\"",
        );
        refuses("b\nb\n", "@@\n-b", "the lines of change 1 stand there 2 times");
        refuses("a\nb\n", "@@\n-a\n@@ none\n-b", "the line after @@ of change 2 is not there");
        refuses("a\na\nb\n", "@@ a\n-b", "the line after @@ of change 1 stands there 2 times");
        refuses("a\nb\n", "@@\n-b\n@@\n-a", "the lines of change 2 are not there");
        refuses("a\nb\n", "@@\n-a\n*** End of File", "the lines of change 1 are not there");
        let text = "a\n".repeat(50_000);
        let hunk = format!("@@\n{}-b", "-a\n".repeat(25_000));
        refuses(&text, &hunk, "its lines are too much alike to find the place of change 1");
    }

    proptest! {
        /// A hunk made of two texts makes the one of the other.
        #[test]
        fn makes_one_text_of_another(
            old in prop::collection::vec("[a-d]{1,3}", 1..12),
            new in prop::collection::vec("[a-d]{0,3}", 0..6),
            from in 0_usize..12,
            n_gone in 0_usize..6,
        ) {
            let from = from.min(old.len());
            let to = (from + n_gone).min(old.len());
            let mut hunk = Hunk { is_end: true, ..Hunk::default() };
            hunk.lines.extend(old[..from].iter().map(|line| Line::Same(line)));
            hunk.lines.extend(old[from..to].iter().map(|line| Line::Gone(line)));
            hunk.lines.extend(new.iter().map(|line| Line::New(line)));
            hunk.lines.extend(old[to..].iter().map(|line| Line::Same(line)));
            let text: String = old.iter().map(|line| format!("{line}\n")).collect();
            let expected: String =
                old[..from].iter().chain(&new).chain(&old[to..]).map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(apply(&text, &[hunk], &mut COMPARISONS_MAX.clone()).unwrap(), expected);
        }

        #[test]
        fn never_panics(text in "([ab ]{0,2}\r?\n?){0,8}", hunks in prop::collection::vec(("[ab]?", prop::collection::vec((0..3, "[ab ]{0,2}"), 1..4), any::<bool>()), 0..4)) {
            let hunks: Vec<Hunk<'_>> = hunks.iter().map(|(after, lines, is_end)| Hunk {
                after: Some(after.as_str()).filter(|after| !after.is_empty()),
                lines: lines.iter().map(|(kind, line)| match kind {
                    0 => Line::Same(line.as_str()),
                    1 => Line::Gone(line.as_str()),
                    _ => Line::New(line.as_str()),
                }).collect(),
                is_end: *is_end,
            }).collect();
            let _ = apply(&text, &hunks, &mut COMPARISONS_MAX.clone());
        }
    }
}
