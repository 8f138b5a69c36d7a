//! JSON5 text as a tree that remembers where everything stands.
//!
//! The places are what a plain decoder does not give and this room needs three times: to redact a secret in the raw
//! text without touching comments, to write a changed value without rewriting the file, and to name line and column
//! of a mistake in the words upstream's clients know (`JSON5: invalid character 'j' at 1:7`).
//!
//! Follows <https://spec.json5.org>. Not accepted: `Infinity` and `NaN`, which no key takes and JSON cannot hold.
//! Nesting is bounded by [`DEPTH_MAX`], so that no text can exhaust the stack.

use std::fmt;
use std::ops::Range;

use serde_json::{Map, Number, Value};

/// Deepest nesting of arrays and objects; deeper text is a syntax error.
pub const DEPTH_MAX: usize = 100;

/// A value and where it stands, as byte offsets.
#[derive(Debug, PartialEq)]
pub struct Node {
    pub span: Range<usize>,
    pub kind: NodeKind,
}

/// What a value is.
#[derive(Debug, PartialEq)]
pub enum NodeKind {
    /// Null, a bool or a number.
    Plain(Value),
    Text(String),
    Array(Vec<Node>),
    Object(Vec<Member>),
}

/// One entry of an object.
#[derive(Debug, PartialEq)]
pub struct Member {
    pub key: String,
    /// Where the key stands, quotes included.
    pub key_span: Range<usize>,
    pub value: Node,
}

/// Where and why text is not JSON5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// From 1, in UTF-16 units as upstream counts.
    pub column: usize,
    /// Without the place.
    pub message: String,
}

impl fmt::Display for SyntaxError {
    /// Upstream's words: clients show them as they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JSON5: {} at {}:{}", self.message, self.line, self.column)
    }
}

impl Node {
    /// The value without places; of a repeated key the last one counts.
    pub fn to_value(&self) -> Value {
        match &self.kind {
            NodeKind::Plain(value) => value.clone(),
            NodeKind::Text(text) => Value::String(text.clone()),
            NodeKind::Array(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            NodeKind::Object(members) => {
                Value::Object(members.iter().map(|m| (m.key.clone(), m.value.to_value())).collect::<Map<_, _>>())
            }
        }
    }
}

/// Reads a whole document.
///
/// # Errors
/// The first place that is not JSON5.
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.skip_blank()?;
    let node = parser.value()?;
    parser.skip_blank()?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.unexpected()),
    }
}

/// Reads a whole document, places aside.
///
/// # Errors
/// As [`parse`].
pub fn value(text: &str) -> Result<Value, SyntaxError> {
    parse(text).map(|node| node.to_value())
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, SyntaxError>;

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    /// An error about the next character, or about the end.
    fn unexpected(&self) -> SyntaxError {
        match self.peek() {
            Some(c) => self.error_at(self.at, format!("invalid character '{}'", escaped(c))),
            None => self.error_at(self.text.len(), "invalid end of input".to_owned()),
        }
    }

    fn error_at(&self, offset: usize, message: String) -> SyntaxError {
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        SyntaxError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].encode_utf16().count() + 1,
            message,
        }
    }

    fn skip_blank(&mut self) -> Parsed<()> {
        loop {
            match self.peek() {
                Some(c) if is_blank(c) => self.at += c.len_utf8(),
                Some('/') => {
                    let rest = &self.text[self.at..];
                    let n_bytes = if rest.starts_with("//") {
                        rest.find(['\n', '\r', '\u{2028}', '\u{2029}']).unwrap_or(rest.len())
                    } else if let Some(comment) = rest.strip_prefix("/*") {
                        let Some(end) = comment.find("*/") else {
                            return Err(self.error_at(self.text.len(), "invalid end of input".to_owned()));
                        };
                        end + 4
                    } else {
                        self.at += 1;
                        return Err(self.unexpected());
                    };
                    self.at += n_bytes;
                }
                _ => return Ok(()),
            }
        }
    }

    fn value(&mut self) -> Parsed<Node> {
        let start = self.at;
        let kind = match self.peek() {
            Some('{') => self.nested(Parser::object)?,
            Some('[') => self.nested(Parser::array)?,
            Some('"' | '\'') => NodeKind::Text(self.string()?),
            Some('t') => self.word("true", Value::Bool(true))?,
            Some('f') => self.word("false", Value::Bool(false))?,
            Some('n') => self.word("null", Value::Null)?,
            Some('+' | '-' | '.' | '0'..='9') => self.number()?,
            _ => return Err(self.unexpected()),
        };
        Ok(Node { span: start..self.at, kind })
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Parsed<NodeKind>) -> Parsed<NodeKind> {
        if self.depth == DEPTH_MAX {
            return Err(self.error_at(self.at, format!("nesting deeper than {DEPTH_MAX}")));
        }
        self.depth += 1;
        self.bump();
        let kind = inner(self)?;
        self.depth -= 1;
        Ok(kind)
    }

    fn object(&mut self) -> Parsed<NodeKind> {
        let mut members = Vec::new();
        loop {
            self.skip_blank()?;
            if self.eat('}') {
                return Ok(NodeKind::Object(members));
            }
            let key_start = self.at;
            let key = match self.peek() {
                Some('"' | '\'') => self.string()?,
                _ => self.identifier()?,
            };
            let key_span = key_start..self.at;
            self.skip_blank()?;
            if !self.eat(':') {
                return Err(self.unexpected());
            }
            self.skip_blank()?;
            let value = self.value()?;
            members.push(Member { key, key_span, value });
            self.skip_blank()?;
            if !self.eat(',') && self.peek() != Some('}') {
                return Err(self.unexpected());
            }
        }
    }

    fn array(&mut self) -> Parsed<NodeKind> {
        let mut items = Vec::new();
        loop {
            self.skip_blank()?;
            if self.eat(']') {
                return Ok(NodeKind::Array(items));
            }
            items.push(self.value()?);
            self.skip_blank()?;
            if !self.eat(',') && self.peek() != Some(']') {
                return Err(self.unexpected());
            }
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Parsed<NodeKind> {
        for c in word.chars() {
            if !self.eat(c) {
                return Err(self.unexpected());
            }
        }
        Ok(NodeKind::Plain(value))
    }

    fn identifier(&mut self) -> Parsed<String> {
        let mut name = String::new();
        loop {
            match self.peek() {
                Some('\\') => {
                    self.bump();
                    if !self.eat('u') {
                        return Err(self.unexpected());
                    }
                    let c = char::from_u32(self.hex(4)?).ok_or_else(|| self.unexpected())?;
                    name.push(c);
                }
                Some(c) if c == '$' || c == '_' || c.is_alphabetic() || (!name.is_empty() && c.is_alphanumeric()) => {
                    self.bump();
                    name.push(c);
                }
                _ if name.is_empty() => return Err(self.unexpected()),
                _ => return Ok(name),
            }
        }
    }

    fn string(&mut self) -> Parsed<String> {
        let quote = self.bump().expect("the caller saw a quote");
        let mut out = String::new();
        loop {
            match self.peek() {
                None | Some('\n' | '\r') => return Err(self.unexpected()),
                Some(c) => {
                    self.bump();
                    match c {
                        c if c == quote => return Ok(out),
                        '\\' => self.escape(&mut out)?,
                        c => out.push(c),
                    }
                }
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Parsed<()> {
        let Some(c) = self.peek() else { return Err(self.unexpected()) };
        if ('1'..='9').contains(&c) {
            return Err(self.unexpected());
        }
        self.bump();
        match c {
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            '0' => match self.peek() {
                Some('0'..='9') => return Err(self.unexpected()),
                _ => out.push('\0'),
            },
            'x' => {
                let code = self.hex(2)?;
                out.push(char::from_u32(code).expect("two hexadecimal digits are a character"));
            }
            'u' => out.push(self.utf16_escape()?),
            '\r' => {
                self.eat('\n');
            }
            '\n' | '\u{2028}' | '\u{2029}' => {}
            c => out.push(c),
        }
        Ok(())
    }

    /// The rest of `\uXXXX`, with its second half when it is the first of a surrogate pair; a lone half becomes U+FFFD.
    fn utf16_escape(&mut self) -> Parsed<char> {
        let first = self.hex(4)?;
        if !(0xd800..0xdc00).contains(&first) || !self.text[self.at..].starts_with("\\u") {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let before = self.at;
        self.at += 2;
        let second = self.hex(4)?;
        if !(0xdc00..0xe000).contains(&second) {
            self.at = before;
            return Ok(char::REPLACEMENT_CHARACTER);
        }
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        Ok(char::from_u32(code).expect("two halves make a character"))
    }

    fn hex(&mut self, n_digits: usize) -> Parsed<u32> {
        let mut code = 0;
        for _ in 0..n_digits {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else { return Err(self.unexpected()) };
            self.bump();
            code = code * 16 + digit;
        }
        Ok(code)
    }

    fn number(&mut self) -> Parsed<NodeKind> {
        let start = self.at;
        let negative = self.peek() == Some('-');
        if matches!(self.peek(), Some('+' | '-')) {
            self.bump();
        }
        let rest = &self.text[self.at..];
        let value = if rest.starts_with("0x") || rest.starts_with("0X") {
            self.at += 2;
            let n_digits = self.digits(16);
            if n_digits == 0 {
                return Err(self.unexpected());
            }
            let digits = &self.text[self.at - n_digits..self.at];
            i64::from_str_radix(digits, 16).ok().map(|n| Number::from(if negative { -n } else { n }))
        } else {
            self.decimal(start)?
        };
        value
            .map(|n| NodeKind::Plain(Value::Number(n)))
            .ok_or_else(|| self.error_at(start, "number out of range".to_owned()))
    }

    fn decimal(&mut self, start: usize) -> Parsed<Option<Number>> {
        let leading_zero = self.peek() == Some('0');
        let n_whole = self.digits(10);
        if leading_zero && n_whole > 1 {
            self.at -= n_whole - 1;
            return Err(self.unexpected());
        }
        let mut is_whole = true;
        let mut n_fraction = 0;
        if self.eat('.') {
            is_whole = false;
            n_fraction = self.digits(10);
        }
        if n_whole + n_fraction == 0 {
            return Err(self.unexpected());
        }
        if self.eat('e') || self.eat('E') {
            is_whole = false;
            if !self.eat('+') {
                self.eat('-');
            }
            if self.digits(10) == 0 {
                return Err(self.unexpected());
            }
        }
        let digits = self.text[start..self.at].trim_start_matches('+');
        if is_whole {
            if let Ok(n) = digits.parse::<i64>() {
                return Ok(Some(Number::from(n)));
            }
            if let Ok(n) = digits.parse::<u64>() {
                return Ok(Some(Number::from(n)));
            }
        }
        Ok(digits.parse::<f64>().ok().and_then(Number::from_f64))
    }

    fn digits(&mut self, radix: u32) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_digit(radix)) {
            self.at += 1;
        }
        self.at - start
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ' | '\u{a0}' | '\u{feff}' | '\u{2028}' | '\u{2029}')
        || (c > '\u{7f}' && c.is_whitespace())
}

fn escaped(c: char) -> String {
    match c {
        '\'' | '\\' => format!("\\{c}"),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        c if c.is_control() => format!("\\x{:02x}", c as u32),
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Value) {
        assert_eq!(parse(text).map(|node| node.to_value()), Ok(expected), "{text}");
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    }

    #[test]
    fn reads_what_json5_adds_to_json() {
        check("{ a: 1, 'b': \"two\", $c_1: [1, 2,], }", json!({ "a": 1, "b": "two", "$c_1": [1, 2] }));
        check("// head\n{ /* in */ a: true } // tail", json!({ "a": true }));
        check("[0x1F, +1, -.5, 5., 1e3, -0x10]", json!([31, 1, -0.5, 5.0, 1000.0, -16]));
        check(
            r"'it\'s\x41\u0042\
 ok'",
            json!("it'sAB ok"),
        );
        check(r#""\ud83d\ude00 \ud800""#, json!("\u{1f600} \u{fffd}"));
        check("{ a: 1, a: 2 }", json!({ "a": 2 }));
        check("18446744073709551615", json!(u64::MAX));
        check("null", Value::Null);
    }

    #[test]
    fn names_the_place_in_upstreams_words() {
        refused("{ not json", "JSON5: invalid character 'j' at 1:7");
        refused("{broken", "JSON5: invalid end of input at 1:8");
        refused("x-none", "JSON5: invalid character 'x' at 1:1");
        refused("", "JSON5: invalid end of input at 1:1");
        refused("{\n  a: 1,\n  b: ]\n}", "JSON5: invalid character ']' at 3:6");
        refused("{ a: 'x\ny' }", "JSON5: invalid character '\\n' at 1:8");
        refused("{} {}", "JSON5: invalid character '{' at 1:4");
        refused("[1 2]", "JSON5: invalid character '2' at 1:4");
        refused("012", "JSON5: invalid character '1' at 1:2");
        refused("{ a: Infinity }", "JSON5: invalid character 'I' at 1:6");
        refused("1e999", "JSON5: number out of range at 1:1");
        refused("/* open", "JSON5: invalid end of input at 1:8");
        refused("'\u{1f600}", "JSON5: invalid end of input at 1:4");
    }

    #[test]
    fn nesting_ends_at_its_limit() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&deep(DEPTH_MAX)).is_ok());
        assert!(parse(&deep(DEPTH_MAX + 1)).unwrap_err().message.starts_with("nesting deeper"));
        assert!(parse(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn spans_hold_exactly_the_text_of_keys_and_values() {
        let text = "{ 'a b': [1, \"x\"] , c: {} }";
        let NodeKind::Object(members) = parse(text).unwrap().kind else { panic!("an object") };
        assert_eq!(&text[members[0].key_span.clone()], "'a b'");
        assert_eq!(&text[members[0].value.span.clone()], "[1, \"x\"]");
        assert_eq!(&text[members[1].key_span.clone()], "c");
        assert_eq!(&text[members[1].value.span.clone()], "{}");
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_agrees_with_json(text in "[\\PC\n\t]{0,60}") {
            let ours = parse(&text).map(|node| node.to_value());
            if let Ok(theirs) = serde_json::from_str::<Value>(&text) {
                proptest::prop_assert_eq!(ours, Ok(theirs));
            }
        }

        #[test]
        fn reads_every_json_value(text in "[\\[\\]{}\",:0-9a-c.e+ -]{0,40}") {
            if let Ok(theirs) = serde_json::from_str::<Value>(&text) {
                proptest::prop_assert_eq!(parse(&text).map(|node| node.to_value()), Ok(theirs));
            }
        }
    }
}
