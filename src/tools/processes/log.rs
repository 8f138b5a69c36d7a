//! What a process wrote: its newest bytes, and how they are shown.

use std::collections::VecDeque;

/// Bytes kept of what one process writes; older ones are dropped and counted.
pub const LOG_BYTES_MAX: usize = 256 * 1024;
/// Longest control sequence that is looked through for its end, in bytes; a longer one is shown.
const SEQUENCE_BYTES_MAX: usize = 256;

/// The newest output of a process.
#[derive(Debug, Default)]
pub struct Log {
    bytes: VecDeque<u8>,
    /// Bytes that were ever written.
    total: u64,
}

impl Log {
    /// Bytes that are kept.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that were ever written.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether the beginning was dropped.
    pub fn is_cut(&self) -> bool {
        self.total > self.bytes.len() as u64
    }

    /// Adds what was written.
    pub fn push(&mut self, chunk: &[u8]) {
        self.total += chunk.len() as u64;
        let chunk = &chunk[chunk.len().saturating_sub(LOG_BYTES_MAX)..];
        self.drop_oldest((self.bytes.len() + chunk.len()).saturating_sub(LOG_BYTES_MAX));
        self.bytes.extend(chunk);
    }

    /// Forgets so many of the oldest bytes, or all there are; says how many.
    pub fn drop_oldest(&mut self, n: usize) -> usize {
        let n = n.min(self.bytes.len());
        self.bytes.drain(..n);
        n
    }

    /// Gives back what room it does not need any more.
    pub fn settle(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// All that is kept, as text.
    pub fn text(&self) -> String {
        self.text_since(0)
    }

    /// What was written after the first `seen` bytes, as far as it is kept.
    pub fn text_since(&self, seen: u64) -> String {
        let dropped = self.total - self.bytes.len() as u64;
        let skip = usize::try_from(seen.saturating_sub(dropped)).unwrap_or(usize::MAX).min(self.bytes.len());
        let bytes: Vec<u8> = self.bytes.iter().skip(skip).copied().collect();
        clean(&bytes)
    }

    /// Its end, as text of at most so many bytes of output.
    pub fn tail(&self, bytes_max: usize) -> String {
        self.text_since(self.total.saturating_sub(bytes_max as u64))
    }
}

/// Output as words: without what steers a terminal, and without broken characters at its edges.
pub fn clean(bytes: &[u8]) -> String {
    // What is dropped or read may begin and end within a character.
    let start = bytes.iter().take(3).take_while(|byte| (**byte & 0xC0) == 0x80).count();
    let text = String::from_utf8_lossy(&bytes[start..]);
    let mut shown = String::with_capacity(text.len());
    let mut rest: &str = &text;
    while let Some(c) = rest.chars().next() {
        let n = match c {
            '\u{1b}' => sequence(rest.as_bytes()),
            '\n' | '\t' => {
                shown.push(c);
                1
            }
            // A line that is written over is a line of its own; one that ends as on a terminal is one line.
            '\r' => {
                if !rest[1..].starts_with('\n') && !shown.is_empty() && !shown.ends_with('\n') {
                    shown.push('\n');
                }
                1
            }
            c if c.is_control() || is_invisible(c) => c.len_utf8(),
            c => {
                shown.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[n..];
    }
    shown
}

/// Characters that nobody sees and that turn text around.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Bytes of the control sequence at the beginning of `bytes`, which is an escape character.
fn sequence(bytes: &[u8]) -> usize {
    let within = &bytes[..bytes.len().min(SEQUENCE_BYTES_MAX)];
    match within.get(1) {
        // CSI: parameters and intermediates, then one final byte.
        Some(b'[') => {
            let body = within[2..].iter().take_while(|byte| (0x20..0x40).contains(*byte)).count();
            match within.get(2 + body) {
                Some(last) if last.is_ascii() => 3 + body,
                _ => 2 + body,
            }
        }
        // OSC, DCS and their kind: up to BEL or ST.
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let end = within.iter().enumerate().skip(2).find_map(|(at, byte)| match byte {
                0x07 => Some(at + 1),
                0x1b if within.get(at + 1) == Some(&b'\\') => Some(at + 2),
                _ => None,
            });
            end.unwrap_or(1)
        }
        // Two bytes, or three with an intermediate one.
        Some(0x20..0x30) if within.get(2).is_some_and(u8::is_ascii) => 3,
        Some(byte) if byte.is_ascii() => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_bytes_and_counts_all() {
        let mut log = Log::default();
        log.push(&vec![b'a'; LOG_BYTES_MAX]);
        assert!(!log.is_cut(), "the limit itself");
        log.push(b"b");
        assert_eq!((log.len(), log.total(), log.is_cut()), (LOG_BYTES_MAX, LOG_BYTES_MAX as u64 + 1, true));
        assert!(log.tail(2).ends_with("ab"));
        log.push(&vec![b'c'; 3 * LOG_BYTES_MAX]);
        assert_eq!(log.len(), LOG_BYTES_MAX);
        assert!(log.text().bytes().all(|byte| byte == b'c'));
    }

    #[test]
    fn gives_what_came_since_a_place() {
        let mut log = Log::default();
        log.push(b"one ");
        let seen = log.total();
        log.push(b"two");
        assert_eq!((log.text_since(seen).as_str(), log.text_since(99).as_str()), ("two", ""));
        log.drop_oldest(5);
        assert_eq!(log.text_since(seen), "wo", "what was dropped is not there");
    }

    #[track_caller]
    fn check(bytes: impl AsRef<[u8]>, expected: &str) {
        assert_eq!(clean(bytes.as_ref()), expected);
    }

    #[test]
    fn shows_words_and_not_what_steers_a_terminal() {
        check("a\u{1b}[31mred\u{1b}[0m b", "ared b");
        check("\u{1b}]0;title\u{7}x\u{1b}]8;;http://a\u{1b}\\y", "xy");
        check("\u{1b}(Bz\u{1b}=w\u{1b}", "zw");
        check("10%\r20%\r\ndone\r\n", "10%\n20%\ndone\n");
        check("a\u{0}\u{8}b\u{202e}c\u{200b}", "abc");
        check([0xA9, b'a', 0xC3], "a\u{fffd}");
        check(format!("\u{1b}]{}", "x".repeat(SEQUENCE_BYTES_MAX)), &format!("]{}", "x".repeat(SEQUENCE_BYTES_MAX)));
    }
}
