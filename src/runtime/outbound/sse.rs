//! Server-sent events, as the WHATWG's HTML standard ("Server-sent events", 9.2.6) reads them: bytes in, in any pieces,
//! events out. `id` and `retry` are for clients that reconnect, and are left out.

/// Longest event in bytes, all of its lines together; a longer one ends the stream. Providers send whole pictures in one.
pub const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Takes a stream apart. Use one for each stream.
#[derive(Debug, Default)]
pub struct Parser {
    /// The unfinished line.
    line: Vec<u8>,
    name: String,
    data: String,
    has_data: bool,
    /// The last byte was a CR: an LF after it ends no second line.
    after_cr: bool,
    /// Something was read: a byte order mark counts only before.
    has_begun: bool,
    /// Each line is the data of an event, as in newline-delimited JSON.
    takes_lines: bool,
}

/// An event is longer than [`EVENT_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl Parser {
    /// For a stream in which each line is an event, whose data it is; blank ones are none.
    pub fn of_lines() -> Parser {
        Parser { takes_lines: true, ..Parser::default() }
    }

    /// Takes bytes, and tells each event that they complete: its name (`message` is the empty one) and data. Stops at the
    /// first that `event` refuses, and forgets the rest.
    ///
    /// # Errors
    /// [`TooLong`] inside; what `event` said outside.
    pub fn feed<E>(
        &mut self,
        mut bytes: &[u8],
        event: &mut dyn FnMut(&str, &str) -> Result<(), E>,
    ) -> Result<Result<(), E>, TooLong> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, rest) = bytes.split_at(end);
            bytes = match rest {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_cr = true;
                    &[]
                }
                rest => &rest[1..],
            };
            let said = if self.line.is_empty() {
                self.take_line(line, event)?
            } else {
                self.room_for(line.len())?;
                self.line.extend_from_slice(line);
                let line = std::mem::take(&mut self.line);
                let said = self.take_line(&line, event);
                // Its room is used again.
                self.line = line;
                self.line.clear();
                said?
            };
            if said.is_err() {
                return Ok(said);
            }
        }
        self.room_for(bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(Ok(()))
    }

    /// Bytes it holds.
    pub fn held_bytes(&self) -> usize {
        self.line.len() + self.data.len() + self.name.len()
    }

    fn room_for(&self, bytes: usize) -> Result<(), TooLong> {
        if self.held_bytes() + bytes > EVENT_BYTES_MAX { Err(TooLong) } else { Ok(()) }
    }

    fn take_line<E>(
        &mut self,
        line: &[u8],
        event: &mut dyn FnMut(&str, &str) -> Result<(), E>,
    ) -> Result<Result<(), E>, TooLong> {
        let line = if self.has_begun { line } else { line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line) };
        self.has_begun = true;
        if self.takes_lines {
            let line = String::from_utf8_lossy(line);
            return Ok(if line.trim().is_empty() { Ok(()) } else { event("", &line) });
        }
        if line.is_empty() {
            let said = if self.has_data { event(&self.name, &self.data) } else { Ok(()) };
            self.name.clear();
            self.data.clear();
            self.has_data = false;
            return Ok(said);
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                self.room_for(value.len())?;
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(&String::from_utf8_lossy(value));
            }
            b"event" => {
                self.room_for(value.len())?;
                self.name = String::from_utf8_lossy(value).into_owned();
            }
            // A comment (no field), or one that is not for us.
            _ => {}
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], piece: usize) -> Vec<(String, String)> {
        read_pieces(bytes.chunks(piece.max(1)))
    }

    fn read_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<(String, String)> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            let said: Result<(), ()> = parser
                .feed(piece, &mut |name, data| {
                    events.push((name.to_owned(), data.to_owned()));
                    Ok(())
                })
                .unwrap();
            said.unwrap();
        }
        events
    }

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect();
        for piece in 1..=text.len() + 1 {
            assert_eq!(read(text.as_bytes(), piece), expected, "{text:?} in pieces of {piece}");
        }
    }

    #[test]
    fn reads_the_examples_of_the_standard() {
        check("data: YHOO\ndata: +2\ndata: 10\n\n", &[("", "YHOO\n+2\n10")]);
        check(
            ": test stream\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n",
            &[("", "first"), ("", "second"), ("", " third")],
        );
        check("data\n\ndata\ndata\n\ndata:", &[("", ""), ("", "\n")]);
        check("data:test\n\ndata: test\n\n", &[("", "test"), ("", "test")]);
    }

    #[test]
    fn lines_end_in_any_of_three_ways() {
        check("event: a\r\ndata: 1\r\n\r\n", &[("a", "1")]);
        check("event: a\rdata: 1\r\r", &[("a", "1")]);
        check("event: a\rdata: 1\n\r\ndata: 2\r\n\n", &[("a", "1"), ("", "2")]);
        check("\u{feff}data: ö\n\n\u{feff}data: x\n\n", &[("", "ö")]);
    }

    #[test]
    fn lines_may_be_events_themselves() {
        let mut parser = Parser::of_lines();
        let mut events = Vec::new();
        for piece in [&b"{\"a\""[..], b":1}\r", b"\n\ndata: 2\n: 3"] {
            let said = parser.feed::<()>(piece, &mut |_, data| {
                events.push(data.to_owned());
                Ok(())
            });
            said.unwrap().unwrap();
        }
        assert_eq!(events, ["{\"a\":1}", "data: 2"]);
    }

    #[test]
    fn a_name_without_data_is_no_event() {
        check("event: ping\n\nevent: b\ndata: 2\n\n", &[("b", "2")]);
    }

    #[test]
    fn an_event_that_never_ends_is_refused() {
        for head in ["data: ", "event: ", ": "] {
            let mut parser = Parser::default();
            let fill = vec![b'x'; EVENT_BYTES_MAX];
            let mut feed = |bytes: &[u8]| parser.feed::<()>(bytes, &mut |_, _| Ok(())).map(|_| ());
            feed(head.as_bytes()).unwrap();
            assert_eq!(feed(&fill), Err(TooLong), "{head}");
        }
        let mut parser = Parser::default();
        let line = format!("data: {}\n", "x".repeat(1024));
        let lines = EVENT_BYTES_MAX / 1024 + 1;
        let refused = (0..lines).find(|_| parser.feed::<()>(line.as_bytes(), &mut |_, _| Ok(())).is_err());
        assert!(refused.is_some_and(|n| n + 20 > EVENT_BYTES_MAX / 1025), "{refused:?}");
    }

    #[test]
    fn stops_where_it_is_told_to() {
        let mut parser = Parser::default();
        let mut seen = 0;
        let said = parser.feed(b"data: 1\n\ndata: 2\n\n", &mut |_, _| {
            seen += 1;
            Err("enough")
        });
        assert_eq!((said, seen), (Ok(Err("enough")), 1));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            bytes in prop::collection::vec(prop_oneof![
                3 => prop::sample::select(&b"\r\n: dataeventx\xf0\x9f\xa6\x80\xef\xbb\xbf"[..]),
                1 => any::<u8>(),
            ], 0..300),
            cuts in prop::collection::vec(0_usize..300, 0..20),
        ) {
            let whole = read(&bytes, usize::MAX);
            prop_assert_eq!(&read(&bytes, 1), &whole);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(&read_pieces(pieces), &whole);
        }
    }
}
