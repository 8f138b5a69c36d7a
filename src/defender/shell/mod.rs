//! Reads a command line closely enough that the patterns meet what would run, not how it was spelled.
//!
//! [`read`] walks the text as a POSIX shell would split it (quotes, escapes, operators, substitutions) and writes
//! every simple command it finds in one *canonical* form: words separated by single spaces, quotes and escapes
//! resolved, `$IFS` a blank, leading assignments and wrappers (`sudo`, `env`, `nohup`, `xargs` ...) left out, the
//! program's directory left out, every shell called `sh`, `rm`'s flags as `-rf`, `dd`'s `if=` first. What runs later
//! or elsewhere is read too: the text given to `sh -c`, `eval`, `su -c`, `ssh` and `find -exec`, and what stands in
//! base64 or hexadecimal beside its decoder.
//!
//! It is a reader for judging and not a shell: globs, functions and arithmetic are not expanded, here-documents are
//! read as commands, and a text that no shell would accept (an open quote) is read once more with its quotes ignored.
//! Time and memory are linear in the input; nesting is bounded, and [`Reading::unreadable`] says when a bound was
//! met.

mod canonical;
mod lexer;

use std::ops::Range;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Scripts within scripts (`sh -c "sh -c ..."`, decoded text) that are followed; deeper ones make a command unreadable.
pub(super) const NESTING_MAX: usize = 5;
/// Substitutions and subshells open at one time; more make a command unreadable.
pub(super) const OPEN_FRAMES_MAX: usize = 32;
/// Text that nested scripts and variables may add, in bytes, beside twice the length of the command itself.
pub(super) const EXPANSION_BYTES_FREE: usize = 4 * 1024;
/// Variables of one command whose values are followed; further assignments are not.
pub(super) const VARIABLES_MAX: usize = 16;
/// Shortest word that is tried as base64 or hexadecimal, in bytes.
const ENCODED_BYTES_MIN: usize = 8;

/// What a command line amounts to.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Every simple command in canonical form, operators between them, nested scripts on lines of their own.
    pub(super) canonical: String,
    /// Where the simple commands stand in the source; substitutions apart from what surrounds them. Not trimmed.
    pub(super) segments: Vec<Range<usize>>,
    /// Some output is piped, at whatever depth.
    pub(super) pipes: bool,
    /// Some command runs under `sudo` or one of its kind.
    pub(super) elevated: bool,
    /// Nesting or expansion beyond the limits: part of the command was not read.
    pub(super) unreadable: bool,
}

/// Reads `source`, which has been through [`super::fold::fold_command`].
pub(super) fn read(source: &str) -> Reading {
    let mut reader = Reader {
        expansion_left: source.len().saturating_mul(2).saturating_add(EXPANSION_BYTES_FREE),
        ..Reader::default()
    };
    if !lexer::walk(source, true, &mut reader) {
        split_roughly(source, &mut reader.reading.segments);
        reader.reading.canonical.push('\n');
        reader.reading.canonical.extend(source.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')));
    }
    reader.queue_decoded(0, 0);
    while let Some((script, depth)) = reader.nested.pop() {
        let start = reader.begin_line();
        reader.depth = depth;
        lexer::walk(&script, false, &mut reader);
        reader.queue_decoded(start, depth);
    }
    reader.reading
}

/// The reading in the making.
#[derive(Debug, Default)]
struct Reader {
    reading: Reading,
    /// Scripts found inside, with their depth.
    nested: Vec<(String, usize)>,
    /// Depth of the script being read: 0 is the command itself.
    depth: usize,
    expansion_left: usize,
    /// Values assigned earlier in the command.
    variables: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Reader {
    /// Starts a line of `canonical` and returns where it starts.
    fn begin_line(&mut self) -> usize {
        self.reading.canonical.push('\n');
        self.reading.canonical.len()
    }

    /// Queues text that some command of the current script would run as a script.
    fn queue(&mut self, script: String) {
        self.queue_at(script, self.depth + 1);
    }

    fn queue_at(&mut self, script: String, depth: usize) {
        if script.trim().is_empty() {
            return;
        }
        if depth > NESTING_MAX || !self.spend(script.len()) {
            self.reading.unreadable = true;
            return;
        }
        self.nested.push((script, depth));
    }

    /// Takes `bytes` from what expansion may still add.
    fn spend(&mut self, bytes: usize) -> bool {
        match self.expansion_left.checked_sub(bytes) {
            Some(left) => {
                self.expansion_left = left;
                true
            }
            None => false,
        }
    }

    /// Where a decoder is called, what it may be given is read as a script.
    fn queue_decoded(&mut self, start: usize, depth: usize) {
        let line = &self.reading.canonical[start..];
        let base64 = line.contains("base64") || line.contains("openssl");
        let hex = line.contains("xxd");
        if !base64 && !hex {
            return;
        }
        let decoded: Vec<String> = line
            .split_ascii_whitespace()
            .filter(|word| word.len() >= ENCODED_BYTES_MIN)
            .filter_map(|word| {
                let bytes = if hex { unhex(word) } else { None }.or_else(|| BASE64.decode(word).ok())?;
                String::from_utf8(bytes).ok()
            })
            .filter(|text| !text.contains(|c: char| c.is_control() && !c.is_ascii_whitespace()))
            .collect();
        for script in decoded {
            self.queue_at(script, depth + 1);
        }
    }
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

fn unhex(word: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    if !word.len().is_multiple_of(2) {
        return None;
    }
    word.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Cuts a text that no shell would accept at everything that could separate commands.
fn split_roughly(source: &str, segments: &mut Vec<Range<usize>>) {
    let mut start = 0;
    for (at, _) in source.match_indices([';', '&', '|', '\n', '`', '(', ')']) {
        segments.push(start..at);
        start = at + 1;
    }
    segments.push(start..source.len());
}

#[cfg(test)]
mod tests;
