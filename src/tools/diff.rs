//! What changed in a text, for the eyes of people: bounded, whatever was changed.

use serde_json::{Map, Value, json};

/// Lines that stay the same which are shown around a change.
const CONTEXT_LINES: usize = 4;
/// Longest diff, in bytes; what follows is left out and that is said.
pub const DIFF_BYTES_MAX: usize = 16 * 1024;
/// Most pairs of lines that are compared; of a larger change everything old is shown as gone and everything new as
/// added.
const PAIRS_MAX: usize = 512 * 512;

/// One line of a diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'t> {
    Same(&'t str),
    Gone(&'t str),
    New(&'t str),
}

/// Lines that changed, with some that stayed the same around them. Lines count from 1.
#[derive(Debug)]
struct Hunk<'t> {
    old_start: usize,
    new_start: usize,
    lines: Vec<Line<'t>>,
}

/// What a tool's details tell of a change: `diff` with line numbers, `patch` in the unified form, `firstChangedLine`.
pub fn details(path: &str, old: &str, new: &str) -> Map<String, Value> {
    let hunks = hunks(old, new);
    let mut details = Map::new();
    let (mut diff, mut patch) = (String::new(), String::new());
    let width = old.lines().count().max(new.lines().count()).to_string().len();
    let gap = format!(" {:width$} ...\n", "");
    let mut first = None;
    patch.push_str(&format!("--- {path}\n+++ {path}\n"));
    'all: for (index, hunk) in hunks.iter().enumerate() {
        if index > 0 || hunk.new_start > 1 {
            diff.push_str(&gap);
        }
        let (mut at_old, mut at_new) = (hunk.old_start, hunk.new_start);
        patch.push_str(&hunk.head());
        for line in &hunk.lines {
            let (sign, text, number) = match line {
                Line::Same(text) => (' ', text, at_new),
                Line::Gone(text) => ('-', text, at_old),
                Line::New(text) => ('+', text, at_new),
            };
            if sign != ' ' {
                first.get_or_insert(at_new);
            }
            at_old += usize::from(sign != '+');
            at_new += usize::from(sign != '-');
            if diff.len() + text.len() + width + 3 > DIFF_BYTES_MAX {
                diff.push_str("[the rest is not shown]\n");
                patch.push_str("[the rest is not shown]\n");
                break 'all;
            }
            diff.push_str(&format!("{sign}{number:>width$} {text}\n"));
            patch.push_str(&format!("{sign}{text}\n"));
        }
    }
    diff.truncate(diff.trim_end_matches('\n').len());
    details.insert("diff".to_owned(), json!(diff));
    details.insert("patch".to_owned(), json!(patch));
    if let Some(first) = first {
        details.insert("firstChangedLine".to_owned(), json!(first));
    }
    details
}

impl Hunk<'_> {
    fn head(&self) -> String {
        let n_old = self.lines.iter().filter(|line| !matches!(line, Line::New(_))).count();
        let n_new = self.lines.iter().filter(|line| !matches!(line, Line::Gone(_))).count();
        // A side without lines is named by the line before it.
        let start = |start: usize, n: usize| if n == 0 { start - 1 } else { start };
        format!("@@ -{},{n_old} +{},{n_new} @@\n", start(self.old_start, n_old), start(self.new_start, n_new))
    }
}

fn hunks<'t>(old: &'t str, new: &'t str) -> Vec<Hunk<'t>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut hunks: Vec<Hunk<'t>> = Vec::new();
    let (mut at_old, mut at_new) = (0, 0);
    // Lines that stayed the same since the last change.
    let mut n_same = usize::MAX;
    let lines = compare(&old, &new);
    for line in &lines {
        match line {
            Line::Same(_) => {
                if n_same < CONTEXT_LINES
                    && let Some(hunk) = hunks.last_mut()
                {
                    hunk.lines.push(*line);
                }
                n_same = n_same.saturating_add(1);
            }
            changed => {
                if n_same > CONTEXT_LINES * 2 {
                    let n_before = n_same.min(CONTEXT_LINES).min(at_new).min(at_old);
                    let lines = old[at_old - n_before..at_old].iter().map(|text| Line::Same(text)).collect();
                    hunks.push(Hunk { old_start: at_old - n_before + 1, new_start: at_new - n_before + 1, lines });
                } else if let Some(hunk) = hunks.last_mut() {
                    // What lies between two changes that are near each other and was not shown yet.
                    let n_left = n_same.saturating_sub(CONTEXT_LINES);
                    hunk.lines.extend(old[at_old - n_left..at_old].iter().map(|text| Line::Same(text)));
                }
                n_same = 0;
                hunks.last_mut().expect("there is one by now").lines.push(*changed);
            }
        }
        at_old += usize::from(!matches!(line, Line::New(_)));
        at_new += usize::from(!matches!(line, Line::Gone(_)));
    }
    hunks
}

/// Every line of both, in order.
fn compare<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let n_head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old[n_head..].iter().rev().zip(new[n_head..].iter().rev());
    let n_tail = rest.take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[n_head..old.len() - n_tail], &new[n_head..new.len() - n_tail]);
    let mut lines: Vec<Line<'t>> = old[..n_head].iter().map(|text| Line::Same(text)).collect();
    if a.len().saturating_mul(b.len()) <= PAIRS_MAX {
        lines.extend(common(a, b));
    } else {
        lines.extend(a.iter().map(|text| Line::Gone(text)));
        lines.extend(b.iter().map(|text| Line::New(text)));
    }
    lines.extend(old[old.len() - n_tail..].iter().map(|text| Line::Same(text)));
    lines
}

/// The same by the longest common subsequence of lines; at most [`PAIRS_MAX`] pairs.
fn common<'t>(a: &[&'t str], b: &[&'t str]) -> Vec<Line<'t>> {
    let width = b.len() + 1;
    // How long the longest one is from each pair on.
    let mut longest = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = if a[i] == b[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::with_capacity(a.len() + b.len());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push(Line::Same(a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
            lines.push(Line::Gone(a[i]));
            i += 1;
        } else {
            lines.push(Line::New(b[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(old: &str, new: &str) -> String {
        details("f", old, new)["diff"].as_str().unwrap().to_owned()
    }

    #[test]
    fn shows_what_changed_with_its_lines() {
        let old: String = (1..=30).map(|n| format!("l{n}\n")).collect();
        let new = old.replace("l12\n", "x12\nx12b\n").replace("l25\n", "");
        assert_eq!(
            shown(&old, &new),
            "    ...\n  8 l8\n  9 l9\n 10 l10\n 11 l11\n-12 l12\n+12 x12\n+13 x12b\n 14 l13\n 15 l14\n 16 l15\n 17 l16\n    ...\n 22 l21\n 23 l22\n 24 l23\n 25 l24\n-25 l25\n 26 l26\n 27 l27\n 28 l28\n 29 l29"
        );
        let details = details("a/f.txt", &old, &new);
        assert_eq!(details["firstChangedLine"], 12);
        let patch = details["patch"].as_str().unwrap();
        assert!(patch.starts_with("--- a/f.txt\n+++ a/f.txt\n@@ -8,9 +8,10 @@\n l8\n"), "{patch}");
        assert!(patch.contains("@@ -21,9 +22,8 @@\n"), "{patch}");
    }

    #[test]
    fn changes_near_each_other_are_shown_together() {
        assert_eq!(shown("a\nb\nc\nd\ne\nf\n", "A\nb\nc\nd\ne\nF\n"), "-1 a\n+1 A\n 2 b\n 3 c\n 4 d\n 5 e\n-6 f\n+6 F");
        assert_eq!(shown("", "a\n"), "+1 a");
        assert_eq!(details("f", "", "a\n")["patch"], "--- f\n+++ f\n@@ -0,0 +1,1 @@\n+a\n");
        assert_eq!(shown("a\n", "a\n"), "");
    }

    #[test]
    fn is_bounded_in_bytes_and_in_time() {
        let old: String = (0..100_000).map(|n| format!("{n}\n")).collect();
        let new: String = (0..100_000).map(|n| format!("x{n}\n")).collect();
        let details = details("f", &old, &new);
        for name in ["diff", "patch"] {
            let text = details[name].as_str().unwrap();
            assert!(
                text.len() <= DIFF_BYTES_MAX + 100 && text.trim_end().ends_with("[the rest is not shown]"),
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn both_texts_can_be_read_from_it(old in "([ab]\n){0,12}", new in "([ab]\n){0,12}") {
            let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
            let lines = compare(&a, &b);
            let side = |is_old: bool| -> Vec<&str> {
                lines.iter().filter_map(|line| match line {
                    Line::Same(text) => Some(*text),
                    Line::Gone(text) => is_old.then_some(*text),
                    Line::New(text) => (!is_old).then_some(*text),
                }).collect()
            };
            prop_assert_eq!(side(true), a);
            prop_assert_eq!(side(false), b);
            // Hunks hold every change, once.
            let n_changed = |lines: &[Line<'_>]| lines.iter().filter(|line| !matches!(line, Line::Same(_))).count();
            let in_hunks: usize = hunks(&old, &new).iter().map(|hunk| n_changed(&hunk.lines)).sum();
            prop_assert_eq!(in_hunks, n_changed(&lines));
        }
    }
}
