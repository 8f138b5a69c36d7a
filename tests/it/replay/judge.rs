//! Compares one step as it went with the step as it was recorded.

use serde_json::Value;

use super::normal::Normal;
use super::recording::{Expect, ExpectError, Step};
use super::runner::{Observation, Response};
use super::shape::{Difference, Shape};

/// Longest error text that is compared, in characters.
const MESSAGE_CHARS_MAX: usize = 600;

/// The verdict on a step.
pub(super) struct Verdict {
    /// What does not match: `ok`, codes, required paths and types, required events.
    pub(super) hard: Vec<Difference>,
    /// What matches less closely: values, error texts, close codes.
    pub(super) soft: Vec<Difference>,
    /// For steps with a recorded order of chat events: whether it is the same.
    pub(super) order: Option<bool>,
}

/// Judges a step that expects something.
pub(super) fn judge(step: &Step, observed: &Observation, normal: &Normal) -> Verdict {
    let method = step.method.as_deref().unwrap_or("");
    let mut hard = match &step.expect {
        Some(expect) => response_differs(expect, &observed.response, method, normal),
        None => Vec::new(),
    };
    // An answer of another kind has no values to compare.
    let is_of_kind = !hard.iter().any(|found| [OK, CONNECTION, CLOSE].contains(&found.path.as_str()));
    let soft = if is_of_kind { values_differ(step, &observed.response, method, normal) } else { Vec::new() };
    hard.extend(events_differ(step, observed, normal));
    let order = step.order.as_ref().map(|order| order.chat == observed.chat_order);
    Verdict { hard, soft, order }
}

/// Path of a difference in whether the answer was good.
const OK: &str = "ok";
/// Path of a difference in whether there was an answer.
const CONNECTION: &str = "$";
/// Path of a difference in whether, and with which code, the connection was closed.
const CLOSE: &str = "$close";

fn response_differs(expect: &Expect, response: &Response, method: &str, normal: &Normal) -> Vec<Difference> {
    let one = |path: &str, why: String| vec![Difference::new(path, why)];
    if expect.timeout {
        return match response {
            Response::Timeout => Vec::new(),
            _ => one(CONNECTION, "expected no answer".to_owned()),
        };
    }
    if expect.closed {
        return match response {
            Response::Closed(code) => match expect.code.filter(|wanted| wanted != code) {
                Some(wanted) => one(CLOSE, format!("close code {code}, expected {wanted}")),
                None => Vec::new(),
            },
            _ => one(CLOSE, "expected the connection to be closed".to_owned()),
        };
    }
    let frame = match response {
        Response::Answer { frame, .. } => frame,
        Response::Closed(code) => return one(CONNECTION, format!("connection closed ({code})")),
        Response::Timeout | Response::None => return one(CONNECTION, "no answer".to_owned()),
    };
    let (wanted, ok) = (expect.ok.unwrap_or(false), frame["ok"] == true);
    if wanted != ok {
        let why = match ok {
            true => String::new(),
            false => format!(" ({}: {})", frame["error"]["code"], frame["error"]["message"]),
        };
        return one(OK, format!("ok={ok}, expected {wanted}{why}"));
    }
    if ok {
        return Shape::of(&frame["payload"], method, normal).differs(&expect.shape);
    }
    let Some(error) = &expect.error else { return Vec::new() };
    let code = frame["error"]["code"].as_str();
    if code != error.code.as_deref() {
        return one("error.code", format!("{code:?}, expected {:?}", error.code));
    }
    let Some(details) = &error.details else { return Vec::new() };
    below("error.details.", Shape::of(&frame["error"]["details"], "", normal).differs(details)).collect()
}

fn events_differ(step: &Step, observed: &Observation, normal: &Normal) -> Vec<Difference> {
    let required = step.expect_events.iter().filter(|expected| !expected.absent);
    let mut came = observed.events.iter();
    let mut found = Vec::new();
    for expected in required {
        let name = format!("event {}", expected.event);
        let Some(Some(payload)) = came.next() else {
            found.push(Difference::new(name, "did not arrive"));
            continue;
        };
        if let Some(expect) = &expected.expect {
            let differences = Shape::of(payload, "", normal).differs(&expect.shape);
            found.extend(below(&format!("{name}: "), differences));
        }
    }
    found
}

fn values_differ(step: &Step, response: &Response, method: &str, normal: &Normal) -> Vec<Difference> {
    let Some(expect) = &step.expect else { return Vec::new() };
    let Response::Answer { frame, close } = response else { return Vec::new() };
    let mut found = match &expect.error {
        None => Shape::of(&frame["payload"], method, normal).values_differ(&expect.literals),
        Some(error) => error_differs(error, &frame["error"], normal),
    };
    if let Some(wanted) = step.close_code.filter(|wanted| *close != Some(*wanted)) {
        found.push(Difference::new("close", format!("code {close:?}, expected {wanted}")));
    }
    found
}

fn error_differs(expected: &ExpectError, error: &Value, normal: &Normal) -> Vec<Difference> {
    let mut found = Vec::new();
    if let Some(wanted) = &expected.message {
        let message = normal.text(error["message"].as_str().unwrap_or(""));
        let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
        if message != *wanted {
            found.push(Difference::new("error.message", format!("{message:?}, expected {wanted:?}")));
        }
    }
    let details = Shape::of(&error["details"], "", normal).values_differ(&expected.detail_literals);
    found.extend(below("error.details.", details));
    found
}

/// The same differences, with their paths below `head`.
fn below(head: &str, found: Vec<Difference>) -> impl Iterator<Item = Difference> + use<> {
    let head = head.to_owned();
    found.into_iter().map(move |found| Difference { path: format!("{head}{}", found.path), ..found })
}
