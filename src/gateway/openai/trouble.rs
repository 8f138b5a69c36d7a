//! What goes wrong, in the shape that OpenAI's clients read.

use serde_json::Value;

use crate::agent::run::{Outcome, RunEnd};
use crate::agent::talk::{Failure, FailureKind};
use crate::gateway::http::HttpResponse;
use crate::gateway::routes::json_response;
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::json::json;
use crate::runtime::stop::Why;

/// An error of this face.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// HTTP status, where nothing has been answered yet.
    pub(super) status: u16,
    /// `invalid_request_error`, `api_error`, …
    pub(super) kind: &'static str,
    /// What is wrong.
    pub(super) message: String,
    /// A word for programs.
    pub(super) code: Option<&'static str>,
    /// When the same may work, in milliseconds.
    pub(super) retry_after_ms: Option<u64>,
    /// Whether asking again does it again: something has been done already.
    pub(super) has_acted: bool,
}

impl Trouble {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Trouble {
        Trouble { status, kind, message: message.into(), code: None, retry_after_ms: None, has_acted: false }
    }

    /// The request is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Trouble {
        Trouble::new(400, "invalid_request_error", message)
    }

    /// What is asked for is not there.
    pub(super) fn not_found(message: impl Into<String>) -> Trouble {
        Trouble::new(404, "invalid_request_error", message)
    }

    /// The gateway could not do it.
    pub(super) fn failed(status: u16, message: impl Into<String>) -> Trouble {
        Trouble::new(status, "api_error", message)
    }

    /// Why a message was not accepted.
    pub(super) fn of_refusal(error: &RpcError) -> Trouble {
        let code = match error.details.as_ref().and_then(|details| details["code"].as_str()) {
            Some("BLOCKED_BY_DEFENDER") => Some("blocked_by_defender"),
            Some("REVIEW_BY_DEFENDER") => Some("review_by_defender"),
            _ => None,
        };
        if code.is_some() {
            return Trouble { code, ..Trouble::new(403, "permission_error", error.message.clone()) };
        }
        match error.code {
            ErrorCode::Unavailable => {
                let trouble = Trouble::failed(503, error.message.clone());
                Trouble { retry_after_ms: error.retry_after_ms.or(Some(1000)), ..trouble }
            }
            _ => Trouble::invalid(error.message.clone()),
        }
    }

    /// Why a run gave no answer; `None`: it did.
    pub(super) fn of_end(end: &RunEnd) -> Option<Trouble> {
        let trouble = match &end.outcome {
            Outcome::Replied(_) => return None,
            Outcome::Stopped { why: Why::Timeout, .. } => {
                let trouble = Trouble::failed(504, "the run took longer than it may");
                Trouble { code: Some("timeout"), ..trouble }
            }
            Outcome::Stopped { why, .. } => {
                let trouble = Trouble::failed(500, format!("the run was stopped ({})", why.as_str()));
                Trouble { code: Some("run_stopped"), has_acted: true, ..trouble }
            }
            Outcome::Failed(failure) => of_failure(failure),
        };
        Some(Trouble { has_acted: trouble.has_acted || end.tool_calls > 0, ..trouble })
    }

    /// `{"message","type","code"?}`.
    pub(super) fn body(&self) -> Value {
        let mut error = json!({ "message": self.message, "type": self.kind });
        if let Some(code) = self.code {
            error["code"] = json!(code);
        }
        error
    }

    /// As a whole answer.
    pub(super) fn response(&self) -> HttpResponse {
        self.dress(json_response(self.status, &json!({ "error": self.body() })))
    }

    /// Puts what clients want to know of trying again into the head of an answer.
    pub(super) fn dress(&self, mut response: HttpResponse) -> HttpResponse {
        if let Some(ms) = self.retry_after_ms {
            response.headers.push(("Retry-After".to_owned(), ms.div_ceil(1000).to_string()));
        }
        if self.has_acted {
            // The published SDKs ask again by themselves after a 5xx, unless they are told not to.
            response.headers.push(("x-should-retry".to_owned(), "false".to_owned()));
        }
        response
    }
}

fn of_failure(failure: &Failure) -> Trouble {
    let message = failure.message.clone();
    let (status, kind, code) = match failure.kind {
        FailureKind::Auth => (401, "authentication_error", None),
        FailureKind::RateLimit => (429, "rate_limit_error", None),
        FailureKind::Billing => (402, "insufficient_quota", Some("insufficient_quota")),
        FailureKind::Timeout => (504, "api_error", None),
        FailureKind::Unavailable => (502, "api_error", None),
        FailureKind::NotFound => (404, "invalid_request_error", Some("model_not_found")),
        FailureKind::Format => (400, "invalid_request_error", None),
        FailureKind::ContextLength => (400, "invalid_request_error", Some("context_length_exceeded")),
        FailureKind::Refusal => (400, "invalid_request_error", Some("refusal")),
        FailureKind::Stopped | FailureKind::NoModel => (500, "api_error", None),
    };
    Trouble { code, retry_after_ms: failure.retry_after_ms, ..Trouble::new(status, kind, message) }
}
