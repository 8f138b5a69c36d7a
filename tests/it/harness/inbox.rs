//! Where every connection's reader puts what arrived, in one order, and where tests wait for it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use serde_json::Value;

/// Most arrivals one inbox keeps; a test that gets more is not testing what it thinks.
const ARRIVALS_MAX: usize = 500_000;

/// Most lines and the most bytes of each that a failed test prints.
const TRANSCRIPT_LINES_MAX: usize = 400;
const TRANSCRIPT_LINE_BYTES_MAX: usize = 400;

/// Something that came in on a connection.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Which socket: unique for the life of the process, so a name used twice is still two connections.
    pub(crate) socket: u64,
    /// The connection's name in the test or recording.
    pub(crate) name: String,
    pub(crate) what: What,
}

/// The kinds of arrival.
#[derive(Debug)]
pub(crate) enum What {
    /// A frame of JSON.
    Frame(Value),
    /// A frame that is not JSON.
    Unparsable(String),
    /// What the test itself sent: for the transcript only.
    Sent(String),
    /// The end. Code 1005: closed without a code; 1006: gone without a close frame.
    Closed { code: u16, reason: String },
}

impl Arrival {
    /// The frame, when it is one of `socket` (or of anybody, for `None`).
    pub(crate) fn frame(&self) -> Option<&Value> {
        match &self.what {
            What::Frame(frame) => Some(frame),
            _ => None,
        }
    }

    /// The event's payload, when this is an event called `name`.
    pub(crate) fn event(&self, name: &str) -> Option<&Value> {
        let frame = self.frame()?;
        (frame["type"] == "event" && frame["event"] == name).then(|| &frame["payload"])
    }

    /// Whether this is an event of any name.
    pub(crate) fn is_event(&self) -> bool {
        self.frame().is_some_and(|frame| frame["type"] == "event")
    }
}

/// An append-only log of arrivals that can be waited on.
#[derive(Default)]
pub(crate) struct Inbox {
    log: Mutex<Vec<Arc<Arrival>>>,
    grew: Condvar,
}

impl Inbox {
    /// Appends and wakes whoever waits.
    pub(crate) fn push(&self, arrival: Arrival) {
        let mut log = self.log.lock().expect("no holder of this lock panics");
        assert!(log.len() < ARRIVALS_MAX, "more than {ARRIVALS_MAX} frames arrived in one test");
        log.push(Arc::new(arrival));
        self.grew.notify_all();
    }

    /// How much has arrived so far: the `from` of a later wait.
    pub(crate) fn len(&self) -> usize {
        self.log.lock().expect("no holder of this lock panics").len()
    }

    /// What arrived at `from` and later.
    pub(crate) fn since(&self, from: usize) -> Vec<Arc<Arrival>> {
        self.log.lock().expect("no holder of this lock panics")[from..].to_vec()
    }

    /// Everything said so far, one line each, long frames cut: what a failed test prints.
    pub(crate) fn transcript(&self) -> String {
        let line = |arrival: &Arc<Arrival>| match &arrival.what {
            What::Frame(frame) => format!("{} <- {}", arrival.name, cut(&frame.to_string())),
            What::Unparsable(text) => format!("{} <- not JSON: {}", arrival.name, cut(text)),
            What::Sent(text) => format!("{} -> {}", arrival.name, cut(text)),
            What::Closed { code, reason } => format!("{} closed {code} {reason:?}", arrival.name),
        };
        let log = self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let skipped = log.len().saturating_sub(TRANSCRIPT_LINES_MAX);
        let head = (skipped > 0).then(|| format!("({skipped} earlier lines left out)"));
        head.into_iter().chain(log[skipped..].iter().map(line)).collect::<Vec<_>>().join("\n")
    }

    /// Waits until `pick` finds something among the arrivals at `from` and later; `None` at the deadline.
    /// The number is the place of the arrival found.
    pub(crate) fn wait<T>(
        &self,
        from: usize,
        deadline: Instant,
        mut pick: impl FnMut(&Arrival) -> Option<T>,
    ) -> Option<(usize, T)> {
        let mut seen = from;
        let mut log = self.log.lock().expect("no holder of this lock panics");
        loop {
            while seen < log.len() {
                if let Some(found) = pick(&log[seen]) {
                    return Some((seen, found));
                }
                seen += 1;
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            log = self.grew.wait_timeout(log, left).expect("no holder of this lock panics").0;
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TRANSCRIPT_LINE_BYTES_MAX) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}
