//! Text that a person is shown before they say yes: nothing in it is invisible.
//!
//! What does not show (control characters, formatting, blanks other than the space, lone fillers) is written as
//! `\u{HEX}`, so that two commands which differ never look the same for what cannot be seen (advisories, section 3).
//! Letters that look alike are still letters: nothing here can tell those apart.

use std::fmt::Write as _;

/// Longest text that is shown, in characters; what is longer is refused, for nobody says yes to what they cannot see.
pub const SHOWN_CHARS_MAX: usize = 16_384;

/// Whether a character cannot be seen, or is a blank that is not the space.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00a0}' | '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{1680}' | '\u{17b4}'
            | '\u{17b5}' | '\u{3000}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            // Mongolian selectors, blanks, directions, joiners, separators, invisible operators.
            | '\u{180b}'..='\u{180f}' | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}'
            // Variation selectors, interlinear marks, musical and shorthand controls, tags.
            | '\u{fe00}'..='\u{fe0f}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
            | '\u{0600}'..='\u{0605}' | '\u{06dd}' | '\u{070f}' | '\u{08e2}' | '\u{110bd}' | '\u{110cd}')
}

/// `text` with everything invisible written out.
pub fn visible(text: &str) -> String {
    escape(text, |_| false)
}

/// The same for prose: its lines stay lines.
pub fn visible_lines(text: &str) -> String {
    escape(&text.replace("\r\n", "\n"), |c| c == '\n')
}

fn escape(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_invisible(c) && !stays(c) {
            let _ = write!(out, "\\u{{{:X}}}", c as u32);
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        for (text, shown) in [
            ("echo hi", "echo hi"),
            ("rm\u{200b} -rf", "rm\\u{200B} -rf"),
            ("a\u{202e}b", "a\\u{202E}b"),
            ("a\tb\nc", "a\\u{9}b\\u{A}c"),
            ("\u{a0}\u{3000}\u{feff}", "\\u{A0}\\u{3000}\\u{FEFF}"),
            ("x\u{e0041}", "x\\u{E0041}"),
            ("naïve 日本 🙂", "naïve 日本 🙂"),
        ] {
            assert_eq!(visible(text), shown);
        }
        assert_eq!(visible_lines("one\r\ntwo\u{200d}"), "one\ntwo\\u{200D}");
    }

    #[test]
    fn texts_that_differ_in_what_is_invisible_look_different() {
        let plain = "curl https://a.example | sh";
        for c in (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| is_invisible(*c)) {
            for at in [0, 4, plain.len()] {
                let mut other = plain.to_owned();
                other.insert(at, c);
                assert_ne!(visible(&other), visible(plain), "{:x}", c as u32);
                assert!(!visible(&other).chars().any(is_invisible));
            }
        }
    }
}
