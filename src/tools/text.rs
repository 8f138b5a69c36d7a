//! A file's bytes as text, and back without a change to what was not edited: encoding, byte order mark and line ends
//! stay as they were.

use std::borrow::Cow;

/// How a file's text is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, as almost everything.
    Utf8,
    /// UTF-8 with a byte order mark.
    Utf8Marked,
    /// UTF-16, little end first, with a byte order mark.
    Utf16Le,
    /// UTF-16, big end first, with a byte order mark.
    Utf16Be,
    /// One byte for each character, taken as ISO 8859-1: what is not understood so is at least kept.
    Bytes,
}

/// Why bytes are no text, or a text cannot be written in its file's encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// They look like something else.
    #[error("is no text")]
    Binary,
    /// A character that the encoding has no bytes for.
    #[error("is written in ISO 8859-1 or the like, which has no character {0:?}")]
    Unwritable(char),
}

/// Bytes that are looked at for control characters, when they are no UTF-8.
const LOOKED_AT_BYTES: usize = 8 * 1024;
/// One control character in so many bytes is no text any more.
const CONTROL_SHARE: usize = 32;

const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
const UTF16_LE_MARK: &[u8] = b"\xff\xfe";
const UTF16_BE_MARK: &[u8] = b"\xfe\xff";

/// Reads a file's text.
///
/// # Errors
/// [`TextError::Binary`].
pub fn decode(bytes: &[u8]) -> Result<(Encoding, Cow<'_, str>), TextError> {
    if let Some(rest) = bytes.strip_prefix(UTF16_LE_MARK) {
        return Ok((Encoding::Utf16Le, utf16(rest, u16::from_le_bytes)?.into()));
    }
    if let Some(rest) = bytes.strip_prefix(UTF16_BE_MARK) {
        return Ok((Encoding::Utf16Be, utf16(rest, u16::from_be_bytes)?.into()));
    }
    let (encoding, rest) = match bytes.strip_prefix(UTF8_MARK) {
        Some(rest) => (Encoding::Utf8Marked, rest),
        None => (Encoding::Utf8, bytes),
    };
    if rest.contains(&0) {
        return Err(TextError::Binary);
    }
    match std::str::from_utf8(rest) {
        Ok(text) => Ok((encoding, text.into())),
        Err(_) if encoding == Encoding::Utf8Marked || is_garbled(rest) => Err(TextError::Binary),
        Err(_) => Ok((Encoding::Bytes, rest.iter().map(|&byte| char::from(byte)).collect())),
    }
}

/// Writes a text the way its file was written.
///
/// # Errors
/// [`TextError::Unwritable`].
pub fn encode(text: &str, encoding: Encoding) -> Result<Vec<u8>, TextError> {
    Ok(match encoding {
        Encoding::Utf8 => text.as_bytes().to_vec(),
        Encoding::Utf8Marked => [UTF8_MARK, text.as_bytes()].concat(),
        Encoding::Utf16Le => {
            UTF16_LE_MARK.iter().copied().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
        }
        Encoding::Utf16Be => {
            UTF16_BE_MARK.iter().copied().chain(text.encode_utf16().flat_map(u16::to_be_bytes)).collect()
        }
        Encoding::Bytes => {
            let byte = |c: char| u8::try_from(u32::from(c)).map_err(|_| TextError::Unwritable(c));
            text.chars().map(byte).collect::<Result<_, _>>()?
        }
    })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, TextError> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|&pair| unit(pair));
    let text: Result<String, _> = char::decode_utf16(units).collect();
    text.ok().filter(|text| rest.is_empty() && !text.contains('\0')).ok_or(TextError::Binary)
}

fn is_garbled(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(LOOKED_AT_BYTES)];
    let is_control = |byte: &&u8| matches!(**byte, 0..=8 | 14..=26 | 28..=31 | 127);
    head.iter().filter(is_control).count() * CONTROL_SHARE > head.len()
}

/// A text whose lines all end with `\n`, and where that was not so.
#[derive(Debug)]
pub struct Even {
    /// The text.
    pub text: String,
    /// Which of its `\n` had a `\r` before them, ascending.
    returns: Vec<usize>,
}

impl Even {
    /// Of a text as it is written.
    pub fn of(text: &str) -> Even {
        let mut even = Even { text: String::with_capacity(text.len()), returns: Vec::new() };
        for line in text.split_inclusive('\n') {
            match line.strip_suffix("\r\n") {
                Some(line) => {
                    even.text.push_str(line);
                    even.returns.push(even.text.len());
                    even.text.push('\n');
                }
                None => even.text.push_str(line),
            }
        }
        even
    }

    /// Where a place of the even text is in the one it was made of. Before a line's end means before its `\r` too.
    pub fn origin(&self, at: usize) -> usize {
        at + self.returns.partition_point(|&end| end < at)
    }

    /// What lines end with where these bytes were, or else next to them.
    pub fn line_end(&self, from: usize, to: usize) -> &'static str {
        let ends = |range: &str| range.find('\n');
        let nearest = ends(&self.text[from..to])
            .map(|end| from + end)
            .or_else(|| self.text[..from].rfind('\n'))
            .or_else(|| ends(&self.text[to..]).map(|end| to + end));
        match nearest {
            Some(end) if self.returns.binary_search(&end).is_ok() => "\r\n",
            _ => "\n",
        }
    }
}

/// A text whose lines all end with `\n`.
pub fn even(text: &str) -> Cow<'_, str> {
    if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_encoding_comes_back_as_it_was() {
        for (bytes, encoding, text) in [
            (&b"gr\xc3\xbc\xc3\x9fe\r\n"[..], Encoding::Utf8, "grüße\r\n"),
            (b"\xef\xbb\xbfa\n", Encoding::Utf8Marked, "a\n"),
            (b"\xff\xfea\0\x34\xd8\x1e\xdd", Encoding::Utf16Le, "a𝄞"),
            (b"\xfe\xff\0a\xd8\x34\xdd\x1e", Encoding::Utf16Be, "a𝄞"),
            (b"gr\xfc\xdfe\n", Encoding::Bytes, "grüße\n"),
            (b"", Encoding::Utf8, ""),
        ] {
            let (found, decoded) = decode(bytes).unwrap();
            assert_eq!((found, &*decoded), (encoding, text));
            assert_eq!(encode(&decoded, found).unwrap(), bytes);
        }
        assert_eq!(encode("10 €", Encoding::Bytes), Err(TextError::Unwritable('€')));
    }

    #[test]
    fn what_is_no_text_is_told() {
        for bytes in [
            &b"a\0b"[..],
            b"\x7fELF\x02\x01\x01",
            b"\xff\xfea",
            b"\xff\xfe\x34\xd8",
            b"\xff\xfea\0\0\0",
            b"\xef\xbb\xbf\xff",
            b"\x89PNG\r\n\x1a\n\x01\x02\x03\xff",
        ] {
            let is_text = matches!(bytes, b"\x7fELF\x02\x01\x01");
            assert_eq!(decode(bytes).is_err(), !is_text, "{bytes:?}");
        }
    }

    #[test]
    fn places_of_the_even_text_lead_back() {
        let text = "a\r\nb\nc\r\n\r\nd";
        let even = Even::of(text);
        assert_eq!(even.text, "a\nb\nc\n\nd");
        // Before the end of the first line, and after it.
        assert_eq!((even.origin(1), even.origin(2)), (1, 3));
        assert_eq!(&text[even.origin(4)..even.origin(7)], "c\r\n\r\n");
        assert_eq!((even.line_end(0, 1), even.line_end(2, 4), even.line_end(7, 8)), ("\r\n", "\n", "\r\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_that_are_text_come_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((encoding, text)) = decode(&bytes) {
                prop_assert_eq!(encode(&text, encoding).unwrap(), bytes);
            }
        }

        #[test]
        fn every_place_leads_back(text in "[ab\r\n]{0,40}") {
            let even = Even::of(&text);
            for at in 0..=even.text.len() {
                let back = even.origin(at);
                let again = text[..back].replace("\r\n", "\n");
                prop_assert_eq!(again.trim_end_matches('\r'), even.text[..at].trim_end_matches('\r'));
            }
        }
    }
}
