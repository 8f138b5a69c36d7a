//! A server at an address: messages are the bodies of requests, and of what they are answered with ("Streamable HTTP").

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::wire::{self, Heard, MESSAGE_BYTES_MAX};
use super::{Link, McpError};
use crate::config::secret::Secret;
use crate::runtime::outbound::address::Reach;
use crate::runtime::outbound::fetch::{self, FetchError, Request, Response};
use crate::runtime::outbound::sse;
use crate::runtime::stop::Stop;

/// Longest name of a session, in bytes.
const SESSION_BYTES_MAX: usize = 512;
/// How long something that is told may take.
const TELL_TIME_MAX: Duration = Duration::from_secs(10);
/// The header that names a session.
const SESSION: &str = "mcp-session-id";

/// An address, and the conversation there.
pub struct Address {
    url: String,
    headers: Vec<(String, Secret)>,
    session: Mutex<Option<String>>,
    /// The server has forgotten the conversation.
    is_over: AtomicBool,
    last_id: AtomicU64,
}

impl Address {
    /// Nothing is asked yet.
    pub fn new(url: &str, headers: &[(String, Secret)]) -> Address {
        Address {
            url: url.to_owned(),
            headers: headers.to_vec(),
            session: Mutex::default(),
            is_over: AtomicBool::new(false),
            last_id: AtomicU64::new(0),
        }
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, message: &Value, time_max: Duration, stop: &Stop) -> Result<Response, McpError> {
        let session = self.session().clone();
        let mut headers: Vec<(&str, &str)> =
            vec![("accept", "application/json, text/event-stream"), ("mcp-protocol-version", wire::REVISION)];
        headers.extend(session.as_deref().map(|session| (SESSION, session)));
        headers.extend(self.headers.iter().map(|(name, value)| (name.as_str(), value.reveal())));
        let body = message.to_string();
        let request = Request {
            url: &self.url,
            headers: &headers,
            wants: &[SESSION],
            body: Some(body.as_bytes()),
            time_max,
            bytes_max: MESSAGE_BYTES_MAX,
            // It would carry secrets to who knows whom.
            redirects_max: 0,
            stop,
        };
        // The address is the operator's own word.
        let got = fetch::fetch(&request, &|_| Ok(Reach::Anywhere)).map_err(|error| match error {
            FetchError::Late(time) => McpError::Late(time),
            FetchError::Stopped => McpError::Stopped,
            error => McpError::Start(error.to_string()),
        })?;
        let named = got.headers.iter().find(|(name, _)| name == SESSION).map(|(_, value)| value.clone());
        if let Some(named) = named.filter(|named| named.len() <= SESSION_BYTES_MAX) {
            *self.session() = Some(named);
        }
        match got.status {
            200..=299 if got.is_cut => {
                Err(McpError::Wire(format!("its answer is longer than {MESSAGE_BYTES_MAX} bytes")))
            }
            200..=299 => Ok(got),
            // It has forgotten the conversation: the next one begins anew.
            404 if session.is_some() => {
                self.is_over.store(true, Ordering::Release);
                Err(McpError::Closed(": it has forgotten the conversation".to_owned()))
            }
            status => Err(McpError::Start(format!("it answered {status}"))),
        }
    }
}

impl Link for Address {
    fn ask(&self, method: &str, params: &Value, time_max: Duration, stop: &Stop) -> Result<Value, McpError> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let got = self.post(&wire::request(id, method, params), time_max, stop)?;
        let is_stream = got.content_type.as_deref().is_some_and(|kind| kind.starts_with("text/event-stream"));
        let mut answer = None;
        let mut hear = |text: &str| {
            if let Some(Heard::Answer { id: own, result }) = wire::read(text)
                && own == id
            {
                answer = Some(result);
            }
        };
        if is_stream {
            let fed = sse::Parser::default().feed(&got.body, &mut |_, data| {
                hear(data);
                Ok::<(), ()>(())
            });
            fed.map_err(|_| McpError::Wire("an event of its answer is too long".to_owned()))?.unwrap_or_default();
        } else {
            hear(&String::from_utf8_lossy(&got.body));
        }
        answer.ok_or_else(|| McpError::Wire("it gave no answer".to_owned()))?.map_err(McpError::Refused)
    }

    fn tell(&self, method: &str, params: &Value, stop: &Stop) -> Result<(), McpError> {
        self.post(&wire::notification(method, params), TELL_TIME_MAX, stop).map(|_| ())
    }

    /// Each request is a connection of its own; what can end is the conversation.
    fn is_open(&self) -> bool {
        !self.is_over.load(Ordering::Acquire)
    }

    fn has_new_tools(&self) -> bool {
        false
    }
}
