//! The dream diary of a workspace, `DREAMS.md`: blocks between two marks, of which upstream's clients ask to have some
//! removed. Text in, text out; reading and writing it is the methods' (`methods::doctor`).

use std::collections::BTreeSet;

/// Names a diary may have, in the order they are looked for.
pub const FILE_NAMES: [&str; 2] = ["DREAMS.md", "dreams.md"];

const START: &str = "<!-- openclaw:dreaming:diary:start -->";
const END: &str = "<!-- openclaw:dreaming:diary:end -->";
/// In each block that was made from old notes afterwards.
const BACKFILLED: &str = "openclaw:dreaming:backfill-entry";

/// A diary after some of its blocks were taken out.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    /// The whole text.
    pub text: String,
    /// Blocks taken out.
    pub n_removed: usize,
    /// Blocks that stayed.
    pub n_kept: usize,
}

/// Takes out every block that was made from old notes afterwards.
pub fn without_backfilled(text: &str) -> Kept {
    keep(text, |block| !block.contains(BACKFILLED))
}

/// Takes out every block that says what an earlier one of the same date says.
pub fn without_doubles(text: &str) -> Kept {
    let mut seen = BTreeSet::new();
    keep(text, |block| seen.insert(fingerprint(block)))
}

fn keep(text: &str, mut wanted: impl FnMut(&str) -> bool) -> Kept {
    let Some((before, inside, after)) = parts(text) else {
        return Kept { text: text.to_owned(), n_removed: 0, n_kept: 0 };
    };
    let blocks: Vec<&str> = inside.split("\n---\n").map(str::trim).filter(|block| !block.is_empty()).collect();
    let kept: Vec<&str> = blocks.iter().copied().filter(|block| wanted(block)).collect();
    let n_removed = blocks.len() - kept.len();
    let text = match n_removed {
        0 => text.to_owned(),
        _ => {
            let inside: String = kept.iter().map(|block| format!("\n---\n\n{block}\n")).collect();
            format!("{before}{}{after}", if inside.is_empty() { "\n" } else { &inside })
        }
    };
    Kept { text, n_removed, n_kept: kept.len() }
}

/// What stands before the blocks, the blocks, and what stands after them; `None` without the two marks in their order.
fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find(START)? + START.len();
    let end = text.find(END).filter(|end| *end >= start)?;
    Some((&text[..start], &text[start..end], &text[end..]))
}

/// The date and the words of a block, without comments, headings and the way its lines are broken.
fn fingerprint(block: &str) -> String {
    let mut date = None;
    let mut words = Vec::new();
    for line in block.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let is_date = line.len() > 2 && line.starts_with('*') && line.ends_with('*');
        if is_date && date.is_none() {
            date = Some(line.trim_matches('*').split_whitespace().collect::<Vec<_>>().join(" "));
        } else if !line.starts_with("<!--") && !line.starts_with('#') {
            words.push(line);
        }
    }
    format!("{}\n{}", date.unwrap_or_default(), words.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diary(blocks: &[&str]) -> String {
        let inside: String = blocks.iter().map(|block| format!("\n---\n\n{block}\n")).collect();
        format!("# Dream Diary\n\n{START}{inside}{END}\n\nmy own words\n")
    }

    #[test]
    fn only_what_was_filled_in_afterwards_goes() {
        let old = "*May 1, 2026*\n\n<!-- openclaw:dreaming:backfill-entry day=2026-05-01 -->\n\na walk";
        let kept = without_backfilled(&diary(&["*May 2, 2026*\n\nrain", old]));
        assert_eq!(kept, Kept { text: diary(&["*May 2, 2026*\n\nrain"]), n_removed: 1, n_kept: 1 });
        assert_eq!(
            without_backfilled(&diary(&[old])).text,
            format!("# Dream Diary\n\n{START}\n{END}\n\nmy own words\n")
        );
    }

    #[test]
    fn a_block_is_double_when_date_and_words_are_the_same() {
        let (rain, again, other_day) = ("*May 2*\n\nrain", "*May  2*\n\n<!-- x -->\nrain", "*May 3*\n\nrain");
        let kept = without_doubles(&diary(&[rain, again, other_day]));
        assert_eq!(kept, Kept { text: diary(&[rain, other_day]), n_removed: 1, n_kept: 2 });
    }

    #[test]
    fn text_without_both_marks_in_order_stays_as_it_is() {
        for text in ["", "words", &format!("{END}\n---\nx\n---\nx\n{START}"), &format!("{START}\n---\nx\n---\nx")] {
            for kept in [without_backfilled(text), without_doubles(text)] {
                assert_eq!(kept, Kept { text: text.to_owned(), n_removed: 0, n_kept: 0 });
            }
        }
    }
}
