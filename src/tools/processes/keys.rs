//! Keys of a terminal as bytes: `process` with `send-keys` and `paste`.
//!
//! Names and modifiers are tmux's, as upstream's: `Enter`, `C-c`, `M-x`, `S-Tab`, `^D`, `F5`.

/// Before and after pasted text, for programs that tell it apart from typing.
const PASTE: (&str, &str) = ("\u{1b}[200~", "\u{1b}[201~");

/// Keys with a name.
const NAMED: &[(&str, &str)] = &[
    ("enter", "\r"),
    ("return", "\r"),
    ("tab", "\t"),
    ("escape", "\u{1b}"),
    ("esc", "\u{1b}"),
    ("space", " "),
    ("bspace", "\u{7f}"),
    ("backspace", "\u{7f}"),
    ("btab", "\u{1b}[Z"),
    ("f1", "\u{1b}OP"),
    ("f2", "\u{1b}OQ"),
    ("f3", "\u{1b}OR"),
    ("f4", "\u{1b}OS"),
    ("f5", "\u{1b}[15~"),
    ("f6", "\u{1b}[17~"),
    ("f7", "\u{1b}[18~"),
    ("f8", "\u{1b}[19~"),
    ("f9", "\u{1b}[20~"),
    ("f10", "\u{1b}[21~"),
    ("f11", "\u{1b}[23~"),
    ("f12", "\u{1b}[24~"),
];

/// Keys that move: their sequence takes modifiers, and its shape depends on the terminal's mode.
const MOVING: &[(&str, &str)] = &[
    ("up", "A"),
    ("down", "B"),
    ("right", "C"),
    ("left", "D"),
    ("home", "H"),
    ("end", "F"),
    ("pageup", "5~"),
    ("pgup", "5~"),
    ("pagedown", "6~"),
    ("pgdn", "6~"),
    ("insert", "2~"),
    ("ic", "2~"),
    ("delete", "3~"),
    ("del", "3~"),
    ("dc", "3~"),
];

/// What is to be typed.
#[derive(Debug, Default)]
pub struct Keys<'a> {
    /// Text as it is.
    pub literal: &'a str,
    /// Bytes, in hexadecimal.
    pub hex: &'a [String],
    /// Keys by name.
    pub keys: &'a [String],
}

/// The bytes of what is to be typed, and what of it could not be read. `is_application`: the program asked for the
/// terminal's application mode, in which arrows are spelled differently.
pub fn encode(keys: &Keys<'_>, is_application: bool) -> (Vec<u8>, Vec<String>) {
    let mut bytes = keys.literal.as_bytes().to_vec();
    let mut warnings = Vec::new();
    for text in keys.hex {
        let digits = text.trim().trim_start_matches("0x").trim_start_matches("0X");
        match u8::from_str_radix(digits, 16) {
            Ok(byte) if !digits.starts_with('+') => bytes.push(byte),
            _ => warnings.push(format!("Invalid hex byte: {text}")),
        }
    }
    for token in keys.keys {
        bytes.extend(key(token.trim(), is_application, &mut warnings).into_bytes());
    }
    (bytes, warnings)
}

/// Text as if it were pasted.
pub fn paste(text: &str, is_bracketed: bool) -> String {
    // What looks like the end of the pasted text within it would let the rest be taken for typing.
    let text = text.replace(PASTE.1, "");
    if is_bracketed { format!("{}{text}{}", PASTE.0, PASTE.1) } else { text }
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Held {
    control: bool,
    meta: bool,
    shift: bool,
}

impl Held {
    /// xterm's number for them.
    fn number(self) -> u8 {
        1 + u8::from(self.shift) + 2 * u8::from(self.meta) + 4 * u8::from(self.control)
    }
}

fn key(token: &str, is_application: bool, warnings: &mut Vec<String>) -> String {
    if let Some(control) = token.strip_prefix('^').and_then(control) {
        return control.to_string();
    }
    let (held, base) = held(token);
    let lower = base.to_ascii_lowercase();
    let meta = if held.meta { "\u{1b}" } else { "" };
    if lower == "tab" && held.shift {
        return "\u{1b}[Z".to_owned();
    }
    if let Some((_, shape)) = MOVING.iter().find(|(name, _)| *name == lower) {
        return moving(shape, held, is_application);
    }
    if let Some((_, bytes)) = NAMED.iter().find(|(name, _)| *name == lower) {
        return format!("{meta}{bytes}");
    }
    let mut chars = base.chars();
    if let (Some(c), None) = (chars.next(), chars.next()) {
        let c = if held.shift { c.to_ascii_uppercase() } else { c };
        let c = if held.control { control(&c.to_string()).unwrap_or(c) } else { c };
        return format!("{meta}{c}");
    }
    if held != Held::default() {
        warnings.push(format!("Unknown key \"{base}\" for modifiers; sending literal."));
    }
    base.to_owned()
}

fn moving(shape: &str, held: Held, is_application: bool) -> String {
    match (shape.strip_suffix('~'), held.number()) {
        (None, 1) if is_application => format!("\u{1b}O{shape}"),
        (_, 1) => format!("\u{1b}[{shape}"),
        (Some(number), held) => format!("\u{1b}[{number};{held}~"),
        (None, held) => format!("\u{1b}[1;{held}{shape}"),
    }
}

/// The modifiers before a key's name.
fn held(token: &str) -> (Held, &str) {
    let (mut held, mut rest) = (Held::default(), token);
    while rest.len() > 2 && rest.as_bytes()[1] == b'-' {
        match rest.as_bytes()[0].to_ascii_lowercase() {
            b'c' => held.control = true,
            b'm' => held.meta = true,
            b's' => held.shift = true,
            _ => break,
        }
        rest = &rest[2..];
    }
    (held, rest)
}

/// The control character of a letter.
fn control(letter: &str) -> Option<char> {
    match letter.as_bytes() {
        [b'?'] => Some('\u{7f}'),
        [byte] if (0x40..0x60).contains(&byte.to_ascii_uppercase()) => {
            Some(char::from(byte.to_ascii_uppercase() & 0x1f))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(token: &str, expected: &str) {
        let keys = [token.to_owned()];
        let (bytes, warnings) = encode(&Keys { keys: &keys, ..Keys::default() }, false);
        assert_eq!((String::from_utf8(bytes).unwrap().as_str(), warnings.len()), (expected, 0), "{token}");
    }

    #[test]
    fn keys_are_the_bytes_a_terminal_sends() {
        for (token, expected) in [
            ("Enter", "\r"),
            ("C-c", "\u{3}"),
            ("^D", "\u{4}"),
            ("C-?", "\u{7f}"),
            ("M-x", "\u{1b}x"),
            ("S-a", "A"),
            ("S-Tab", "\u{1b}[Z"),
            ("Up", "\u{1b}[A"),
            ("C-Right", "\u{1b}[1;5C"),
            ("S-PgUp", "\u{1b}[5;2~"),
            ("F12", "\u{1b}[24~"),
            ("hello", "hello"),
        ] {
            check(token, expected);
        }
        let up = ["up".to_owned()];
        assert_eq!(encode(&Keys { keys: &up, ..Keys::default() }, true).0, b"\x1bOA", "application mode");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let (hex, keys) = (["0x1b".to_owned(), "zz".to_owned(), "+1".to_owned()], ["C-nothing".to_owned()]);
        let (bytes, warnings) = encode(&Keys { literal: "a", hex: &hex, keys: &keys }, false);
        assert_eq!(bytes, b"a\x1bnothing");
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }

    #[test]
    fn pasted_text_cannot_end_its_own_brackets() {
        assert_eq!(paste("a\u{1b}[201~b", true), "\u{1b}[200~ab\u{1b}[201~");
        assert_eq!(paste("a", false), "a");
    }
}
