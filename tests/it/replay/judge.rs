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
    pub(super) hard: Option<Difference>,
    /// What matches less closely: values, error texts, close codes. Looked at only when nothing is hard.
    pub(super) soft: Option<Difference>,
    /// For steps with a recorded order of chat events: whether it is the same.
    pub(super) order: Option<bool>,
}

/// Judges a step that expects something.
pub(super) fn judge(step: &Step, observed: &Observation, normal: &Normal) -> Verdict {
    let method = step.method.as_deref().unwrap_or("");
    let hard = step.expect.as_ref().and_then(|expect| response_differs(expect, &observed.response, method, normal));
    let hard = hard.or_else(|| events_differ(step, observed, normal));
    let soft = match hard {
        Some(_) => None,
        None => values_differ(step, &observed.response, method, normal),
    };
    let order = step.order.as_ref().map(|order| order.chat == observed.chat_order);
    Verdict { hard, soft, order }
}

fn response_differs(expect: &Expect, response: &Response, method: &str, normal: &Normal) -> Option<Difference> {
    if expect.timeout {
        return match response {
            Response::Timeout => None,
            _ => Some(Difference::new("$", "expected no answer")),
        };
    }
    if expect.closed {
        return match response {
            Response::Closed(code) => expect
                .code
                .filter(|wanted| wanted != code)
                .map(|wanted| Difference::new("$close", format!("close code {code}, expected {wanted}"))),
            _ => Some(Difference::new("$close", "expected the connection to be closed")),
        };
    }
    let frame = match response {
        Response::Answer { frame, .. } => frame,
        Response::Closed(code) => return Some(Difference::new("$", format!("connection closed ({code})"))),
        Response::Timeout | Response::None => return Some(Difference::new("$", "no answer")),
    };
    let (wanted, ok) = (expect.ok.unwrap_or(false), frame["ok"] == true);
    if wanted != ok {
        let why = match ok {
            true => String::new(),
            false => format!(" ({}: {})", frame["error"]["code"], frame["error"]["message"]),
        };
        return Some(Difference::new("ok", format!("ok={ok}, expected {wanted}{why}")));
    }
    if ok {
        return Shape::of(&frame["payload"], method, normal).differs(&expect.shape);
    }
    let error = expect.error.as_ref()?;
    let code = frame["error"]["code"].as_str();
    if code != error.code.as_deref() {
        return Some(Difference::new("error.code", format!("{code:?}, expected {:?}", error.code)));
    }
    let details = error.details.as_ref()?;
    let found = Shape::of(&frame["error"]["details"], "", normal).differs(details)?;
    Some(Difference { path: format!("error.details.{}", found.path), ..found })
}

fn events_differ(step: &Step, observed: &Observation, normal: &Normal) -> Option<Difference> {
    let required = step.expect_events.iter().filter(|expected| !expected.absent);
    let mut came = observed.events.iter();
    required.into_iter().find_map(|expected| {
        let name = format!("event {}", expected.event);
        let Some(Some(payload)) = came.next() else { return Some(Difference::new(name, "did not arrive")) };
        let found = Shape::of(payload, "", normal).differs(&expected.expect.as_ref()?.shape)?;
        Some(Difference { path: format!("{name}: {}", found.path), ..found })
    })
}

fn values_differ(step: &Step, response: &Response, method: &str, normal: &Normal) -> Option<Difference> {
    let expect = step.expect.as_ref()?;
    let Response::Answer { frame, close } = response else { return None };
    let in_answer = match &expect.error {
        None => Shape::of(&frame["payload"], method, normal).values_differ(&expect.literals),
        Some(error) => error_differs(error, &frame["error"], normal),
    };
    in_answer.or_else(|| {
        let wanted = step.close_code?;
        (*close != Some(wanted)).then(|| Difference::new("close", format!("code {close:?}, expected {wanted}")))
    })
}

fn error_differs(expected: &ExpectError, error: &Value, normal: &Normal) -> Option<Difference> {
    if let Some(wanted) = &expected.message {
        let message = normal.text(error["message"].as_str().unwrap_or(""));
        let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
        if message != *wanted {
            return Some(Difference::new("error.message", format!("{message:?}, expected {wanted:?}")));
        }
    }
    let found = Shape::of(&error["details"], "", normal).values_differ(&expected.detail_literals)?;
    Some(Difference { path: format!("error.details.{}", found.path), ..found })
}
