//! One answer of the double, and everything that can be wrong with it.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Shared;
use super::wire::{Format, Said};

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    body: Body,
    status: u16,
    headers: Vec<(String, String)>,
    end: End,
    pieces_of: usize,
    crlf: bool,
    comments: bool,
    delay: Duration,
    first_after: Duration,
    hold_after: Option<usize>,
}

#[derive(Debug, Clone)]
enum Body {
    /// Streamed in the format of the request.
    Stream(Said),
    /// The same at once, as one JSON document.
    Whole(Said),
    /// These bytes, of this type.
    Raw(&'static str, Vec<u8>),
}

/// What happens after some of its events.
#[derive(Debug, Clone)]
enum End {
    Whole,
    /// The connection is cut after so many.
    CutAfter(usize),
    /// Nothing more comes after so many, and the connection stays.
    StallAfter(usize),
    /// The provider says after so many what is wrong.
    ErrorAfter(usize, Value),
}

impl Turn {
    fn of(body: Body) -> Turn {
        Turn {
            body,
            status: 200,
            headers: Vec::new(),
            end: End::Whole,
            pieces_of: usize::MAX,
            crlf: false,
            comments: false,
            delay: Duration::ZERO,
            first_after: Duration::ZERO,
            hold_after: None,
        }
    }

    /// Says this, streamed word by word.
    pub(crate) fn text(text: &str) -> Turn {
        Turn::of(Body::Stream(Said { text: text.to_owned(), ..Said::default() }))
    }

    /// Calls a tool. The call's id is made of its name and place: `call_read_0`.
    pub(crate) fn call(name: &str, arguments: Value) -> Turn {
        Turn::text("").and_call(name, arguments)
    }

    /// Answers with an HTTP status and no body.
    pub(crate) fn status(status: u16) -> Turn {
        Turn { status, ..Turn::of(Body::Raw("application/json", Vec::new())) }
    }

    /// Answers with these bytes.
    pub(crate) fn raw(content_type: &'static str, bytes: &[u8]) -> Turn {
        Turn::of(Body::Raw(content_type, bytes.to_vec()))
    }

    /// Cuts the connection without a word.
    pub(crate) fn hang_up() -> Turn {
        Turn::text("").cut_after(0).status_line_left_out()
    }

    fn status_line_left_out(self) -> Turn {
        Turn { status: 0, ..self }
    }

    fn said(mut self, change: impl FnOnce(&mut Said)) -> Turn {
        match &mut self.body {
            Body::Stream(said) | Body::Whole(said) => change(said),
            Body::Raw(..) => panic!("raw bytes say nothing"),
        }
        self
    }

    /// Calls a further tool.
    pub(crate) fn and_call(self, name: &str, arguments: Value) -> Turn {
        self.said(|said| said.calls.push((name.to_owned(), arguments)))
    }

    /// Thinks before it speaks.
    pub(crate) fn thinking(self, words: &str) -> Turn {
        self.said(|said| said.thinking = words.to_owned())
    }

    /// Counts so many tokens: read anew, written, read from its cache.
    pub(crate) fn usage(self, input: u64, output: u64, cache_read: u64) -> Turn {
        self.said(|said| said.usage = (input, output, cache_read))
    }

    /// Stops because the answer reached its limit.
    pub(crate) fn cut_by_limit(self) -> Turn {
        self.said(|said| said.is_cut_by_limit = true)
    }

    /// A body of JSON beside a status.
    pub(crate) fn json(self, body: &Value) -> Turn {
        Turn { body: Body::Raw("application/json", body.to_string().into_bytes()), ..self }
    }

    /// A header more.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Turn {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Answers at once instead of streaming, whatever was asked for.
    pub(crate) fn unstreamed(self) -> Turn {
        match self.body {
            Body::Stream(said) => Turn { body: Body::Whole(said), ..self },
            body => Turn { body, ..self },
        }
    }

    /// Sends the stream in pieces of so many bytes, each by itself.
    pub(crate) fn pieces_of(self, bytes: usize) -> Turn {
        Turn { pieces_of: bytes.max(1), ..self }
    }

    /// Ends lines with CR LF.
    pub(crate) fn crlf(self) -> Turn {
        Turn { crlf: true, ..self }
    }

    /// Puts comments between the events, as some providers do to keep a connection alive.
    pub(crate) fn comments(self) -> Turn {
        Turn { comments: true, ..self }
    }

    /// Waits this long before each event.
    pub(crate) fn delay(self, delay: Duration) -> Turn {
        Turn { delay, ..self }
    }

    /// Waits this long before its first byte.
    pub(crate) fn first_after(self, first_after: Duration) -> Turn {
        Turn { first_after, ..self }
    }

    /// After so many events, waits for [`super::Provider::release`].
    pub(crate) fn hold_after(self, events: usize) -> Turn {
        Turn { hold_after: Some(events), ..self }
    }

    /// Cuts the connection after so many events.
    pub(crate) fn cut_after(self, events: usize) -> Turn {
        Turn { end: End::CutAfter(events), ..self }
    }

    /// Says nothing more after so many events, and keeps the connection.
    pub(crate) fn stall_after(self, events: usize) -> Turn {
        Turn { end: End::StallAfter(events), ..self }
    }

    /// Reports an error after so many events, in the middle of the stream.
    pub(crate) fn error_after(self, events: usize, error: Value) -> Turn {
        Turn { end: End::ErrorAfter(events, error), ..self }
    }

    pub(super) fn ends_connection(&self) -> bool {
        !matches!(self.end, End::Whole)
    }

    /// Sends it.
    pub(super) fn play(&self, format: Format, stream: &mut dyn Write, shared: &Shared) -> io::Result<()> {
        shared.pause(self.first_after);
        if self.status == 0 {
            return Ok(());
        }
        let (kind, bytes) = match &self.body {
            Body::Stream(said) => return self.play_stream(&format.events(said), stream, shared),
            Body::Whole(said) => ("application/json", format.whole(said).to_string().into_bytes()),
            Body::Raw(kind, bytes) => (*kind, bytes.clone()),
        };
        if self.hold_after.is_some() {
            shared.hold();
        }
        let head = self.head(kind, &format!("content-length: {}", bytes.len()));
        stream.write_all(head.as_bytes())?;
        for piece in bytes.chunks(self.pieces_of) {
            stream.write_all(piece)?;
            stream.flush()?;
        }
        stream.flush()
    }

    fn head(&self, content_type: &str, length: &str) -> String {
        let mut head = format!("HTTP/1.1 {} X\r\ncontent-type: {content_type}\r\n{length}\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    fn play_stream(&self, events: &[(String, String)], stream: &mut dyn Write, shared: &Shared) -> io::Result<()> {
        stream.write_all(self.head("text/event-stream; charset=utf-8", "transfer-encoding: chunked").as_bytes())?;
        stream.flush()?;
        for (number, event) in events.iter().enumerate() {
            if self.hold_after == Some(number) {
                shared.hold();
            }
            match &self.end {
                End::CutAfter(events) if *events == number => return Ok(()),
                End::StallAfter(events) if *events == number => {
                    shared.stall();
                    return Ok(());
                }
                End::ErrorAfter(events, error) if *events == number => {
                    self.send(&("error".to_owned(), json!({ "type": "error", "error": error }).to_string()), stream)?;
                    break;
                }
                _ => {}
            }
            shared.pause(self.delay);
            self.send(event, stream)?;
        }
        stream.write_all(b"0\r\n\r\n")?;
        stream.flush()
    }

    fn send(&self, (name, data): &(String, String), stream: &mut dyn Write) -> io::Result<()> {
        let end = if self.crlf { "\r\n" } else { "\n" };
        let mut text = String::new();
        if self.comments {
            text.push_str(&format!(": still there{end}{end}"));
        }
        if !name.is_empty() {
            text.push_str(&format!("event: {name}{end}"));
        }
        text.push_str(&format!("data: {data}{end}{end}"));
        for piece in text.as_bytes().chunks(self.pieces_of) {
            write!(stream, "{:x}\r\n", piece.len())?;
            stream.write_all(piece)?;
            stream.write_all(b"\r\n")?;
            stream.flush()?;
        }
        Ok(())
    }
}

impl Shared {
    /// Lets time pass, unless the double ends.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let guard = self.lock();
        let left = until.saturating_duration_since(Instant::now());
        let is_waiting =
            |_: &mut super::State| !self.ends.load(std::sync::atomic::Ordering::Acquire) && Instant::now() < until;
        drop(self.changed.wait_timeout_while(guard, left, is_waiting).expect("nothing panics while it holds"));
    }

    /// Keeps the connection without a word, until the double ends.
    fn stall(&self) {
        drop(self.wait_while(|_| true));
    }
}
