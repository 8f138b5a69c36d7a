//! The error a client sees, and nothing a client must not see.

use serde_json::Value;

/// Error codes of both protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// Bad frames and parameters, unknown methods and ids, refused connects.
    InvalidRequest,
    /// Failed while doing the work, or may work later.
    Unavailable,
    /// The device is missing or not approved.
    NotPaired,
    /// A channel is not logged in.
    NotLinked,
    /// An agent run ran out of time.
    AgentTimeout,
    /// The caller's scopes do not reach; protocol 3 has no such code and sees `INVALID_REQUEST`.
    Forbidden,
    /// No such approval; protocol 3 sees `INVALID_REQUEST`.
    ApprovalNotFound,
}

impl ErrorCode {
    /// The code on a protocol 4 wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::InvalidRequest => "INVALID_REQUEST",
            ErrorCode::Unavailable => "UNAVAILABLE",
            ErrorCode::NotPaired => "NOT_PAIRED",
            ErrorCode::NotLinked => "NOT_LINKED",
            ErrorCode::AgentTimeout => "AGENT_TIMEOUT",
            ErrorCode::Forbidden => "FORBIDDEN",
            ErrorCode::ApprovalNotFound => "APPROVAL_NOT_FOUND",
        }
    }
}

/// A refusal or failure as it is written into a response frame.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// Upstream's text where it has one; never a secret.
    pub message: String,
    /// Machine-readable part; `details.code` is what clients branch on.
    pub details: Option<Value>,
    /// Whether the same request may succeed later; left out of the frame when `None`.
    pub retryable: Option<bool>,
    /// How long to wait before that, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl RpcError {
    /// An error of `code` with nothing but its text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into(), details: None, retryable: None, retry_after_ms: None }
    }

    /// `INVALID_REQUEST`.
    pub fn invalid(message: impl Into<String>) -> RpcError {
        RpcError::new(ErrorCode::InvalidRequest, message)
    }

    /// `UNAVAILABLE`: it failed while being done.
    pub fn unavailable(message: impl Into<String>) -> RpcError {
        RpcError::new(ErrorCode::Unavailable, message)
    }

    /// `UNAVAILABLE`, worth trying again after `retry_after_ms`: a queue is full or something is starting.
    pub fn busy(message: impl Into<String>, retry_after_ms: u64) -> RpcError {
        RpcError {
            retryable: Some(true),
            retry_after_ms: Some(retry_after_ms),
            ..RpcError::new(ErrorCode::Unavailable, message)
        }
    }

    /// The same error with `details`.
    #[must_use]
    pub fn with_details(self, details: Value) -> RpcError {
        RpcError { details: Some(details), ..self }
    }
}
