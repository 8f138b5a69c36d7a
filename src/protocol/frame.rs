//! Frames: reading a request, writing responses and events.
//!
//! An event that goes to many connections is written once: everything but its sequence number is the same for all of a
//! protocol, so a frame is a shared body and a short tail of its own.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::RpcError;
use super::params::{Issues, NonEmpty, Param, Params};
use super::version::Protocol;

/// Longest request id echoed back, in bytes; real clients send 36 to 45.
pub const REQUEST_ID_BYTES_MAX: usize = 512;

/// A request as it arrived, borrowing from the frame's text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "expectedProfileId")]
    expected_profile_id: Option<Cow<'a, str>>,
}

/// A well-formed request.
#[derive(Debug)]
pub struct Request<'a> {
    /// The client's own id; echoed, never interpreted.
    pub id: Cow<'a, str>,
    /// The method asked for; may be one nobody knows.
    pub method: Cow<'a, str>,
    /// Its parameters as JSON text; `None` when absent.
    pub params: Option<&'a str>,
}

/// Why a frame is not a request.
#[derive(Debug, PartialEq)]
pub enum BadFrame {
    /// Not JSON: ignored after the handshake, closes before it.
    NotJson,
    /// JSON, but not a request: answered under the id it carries, when that is a string.
    Invalid {
        /// The id to answer under.
        id: Option<String>,
        /// The problems, in upstream's words.
        reasons: String,
    },
}

/// Reads one frame as a request. Checks the envelope as strictly as upstream does.
///
/// # Errors
/// [`BadFrame`].
pub fn read_request(text: &str, protocol: Protocol) -> Result<Request<'_>, BadFrame> {
    match serde_json::from_str::<Envelope<'_>>(text) {
        Ok(envelope)
            if envelope.kind == "req"
                && !envelope.id.is_empty()
                && envelope.id.len() <= REQUEST_ID_BYTES_MAX
                && !envelope.method.is_empty()
                && envelope.traceparent.as_ref().is_none_or(|t| t.len() <= 128)
                && envelope.expected_profile_id.as_ref().is_none_or(|p| (1..=128).contains(&p.len()))
                && (protocol == Protocol::V4
                    || envelope.traceparent.is_none() && envelope.expected_profile_id.is_none()) =>
        {
            Ok(Request { id: envelope.id, method: envelope.method, params: envelope.params.map(RawValue::get) })
        }
        _ => Err(explain(text, protocol)),
    }
}

crate::params! {
    /// The envelope again, as a set of parameters, to say what is wrong with one.
    pub struct EnvelopeFields {
        kind: ReqWord = "type",
        id: NonEmpty = "id",
        method: NonEmpty = "method",
        params: Option<super::params::Any> = "params",
        @v4 {
            traceparent: Option<super::params::Text<0, 128>> = "traceparent",
            expected_profile_id: Option<super::params::Text<1, 128>> = "expectedProfileId",
        }
    }
}

/// The constant `req`.
#[derive(Debug, Clone)]
pub struct ReqWord;

impl Param for ReqWord {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        if value.as_str() == Some("req") {
            return Some(ReqWord);
        }
        issues.wrong(path, "must be equal to constant");
        None
    }
}

/// The slow path: reads the text again to say what is wrong with it.
fn explain(text: &str, protocol: Protocol) -> BadFrame {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return BadFrame::NotJson };
    let Value::Object(object) = value else {
        return BadFrame::Invalid { id: None, reasons: "must be object".to_owned() };
    };
    let id = object.get("id").and_then(Value::as_str).filter(|id| id.len() <= REQUEST_ID_BYTES_MAX).map(str::to_owned);
    let mut issues = Issues::new(protocol);
    EnvelopeFields::read_fields(&object, "", &mut issues);
    if issues.is_empty() {
        issues.wrong("/id", format!("must NOT have more than {REQUEST_ID_BYTES_MAX} characters"));
    }
    BadFrame::Invalid { id, reasons: issues.text() }
}

/// Whether a frame may be skipped for a peer that does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameClass {
    /// An answer: never skipped.
    Response,
    /// An event the client must not miss: a peer too slow for it is closed.
    Event,
    /// An event the next one makes good.
    DropIfSlow,
}

/// The bytes of a frame: of its own, or shared with other connections.
#[derive(Clone, Debug)]
pub enum Body {
    /// Written for one connection.
    Own(Vec<u8>),
    /// Written once for many.
    Shared(Arc<[u8]>),
}

impl Body {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Body::Own(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }
}

/// What ends a frame whose body others share: its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The body is the whole frame.
    None,
    /// `,"seq":N}`.
    Seq(u64),
    /// `}`: an event without a number.
    Unnumbered,
}

impl Tail {
    /// Longest tail in bytes: `,"seq":` and twenty digits and `}`.
    pub const BYTES_MAX: usize = 28;

    /// The text.
    pub fn text(self) -> String {
        match self {
            Tail::None => String::new(),
            Tail::Seq(n) => format!(",\"seq\":{n}}}"),
            Tail::Unnumbered => "}".to_owned(),
        }
    }
}

/// A frame on its way to one connection.
#[derive(Clone, Debug)]
pub struct OutFrame {
    /// Everything but the tail.
    pub body: Body,
    /// The rest.
    pub tail: Tail,
    /// What to do with it when the peer is slow.
    pub class: FrameClass,
}

impl OutFrame {
    /// The whole text, for tests and for clients.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body.as_bytes()).into_owned() + &self.tail.text()
    }
}

/// A payload already written as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(pub Vec<u8>);

impl Json {
    /// Writes `value`.
    ///
    /// # Errors
    /// `UNAVAILABLE` when a value cannot be JSON (a map with keys that are not text, a number that is not finite).
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Json, RpcError> {
        serde_json::to_vec(value)
            .map(Json)
            .map_err(|error| RpcError::unavailable(format!("the answer cannot be written as JSON: {error}")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("null")
    }
}

/// A successful response.
pub fn response_ok(id: &str, payload: &Json) -> OutFrame {
    let mut out = Vec::with_capacity(payload.0.len() + id.len() + 48);
    out.extend_from_slice(b"{\"type\":\"res\",\"id\":");
    write_string(&mut out, id);
    out.extend_from_slice(b",\"ok\":true,\"payload\":");
    out.extend_from_slice(&payload.0);
    out.push(b'}');
    OutFrame { body: Body::Own(out), tail: Tail::None, class: FrameClass::Response }
}

/// A refused or failed response. Protocol 3 knows fewer codes and sees the nearest one.
pub fn response_error(id: &str, error: &RpcError, payload: Option<&Json>, protocol: Protocol) -> OutFrame {
    let mut out = Vec::with_capacity(160 + id.len() + error.message.len());
    out.extend_from_slice(b"{\"type\":\"res\",\"id\":");
    write_string(&mut out, id);
    out.extend_from_slice(b",\"ok\":false");
    if let Some(payload) = payload {
        out.extend_from_slice(b",\"payload\":");
        out.extend_from_slice(&payload.0);
    }
    out.extend_from_slice(b",\"error\":");
    write_error(&mut out, error, protocol);
    out.push(b'}');
    OutFrame { body: Body::Own(out), tail: Tail::None, class: FrameClass::Response }
}

/// `{"code":…,"message":…}` of an error, as protocol `protocol` names it.
pub fn write_error(out: &mut Vec<u8>, error: &RpcError, protocol: Protocol) {
    use super::error::ErrorCode::{ApprovalNotFound, Forbidden, InvalidRequest};
    let code = match (protocol, error.code) {
        (Protocol::V3, Forbidden | ApprovalNotFound) => InvalidRequest,
        (_, code) => code,
    };
    out.extend_from_slice(b"{\"code\":\"");
    out.extend_from_slice(code.as_str().as_bytes());
    out.extend_from_slice(b"\",\"message\":");
    write_string(out, &error.message);
    if let Some(details) = &error.details {
        out.extend_from_slice(b",\"details\":");
        out.extend_from_slice(details.to_string().as_bytes());
    }
    if let Some(retryable) = error.retryable {
        out.extend_from_slice(if retryable { b",\"retryable\":true" } else { b",\"retryable\":false" });
    }
    if let Some(ms) = error.retry_after_ms {
        out.extend_from_slice(format!(",\"retryAfterMs\":{ms}").as_bytes());
    }
    out.push(b'}');
}

/// The same as a value, for errors that stand in a payload.
pub fn error_shape(error: &RpcError, protocol: Protocol) -> Value {
    let mut text = Vec::new();
    write_error(&mut text, error, protocol);
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Versions of the two snapshots that clients keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateVersion {
    /// Grows with every change of the presence list.
    pub presence: u64,
    /// Grows with every new health snapshot.
    pub health: u64,
}

/// The shared part of an event frame: everything but the sequence number and the closing brace.
pub fn event_body(event: &str, payload: Option<&Json>, state_version: Option<StateVersion>) -> Vec<u8> {
    let payload_bytes = payload.map_or(0, |p| p.0.len());
    let mut out = Vec::with_capacity(payload_bytes + event.len() + 96);
    out.extend_from_slice(b"{\"type\":\"event\",\"event\":");
    write_string(&mut out, event);
    if let Some(payload) = payload {
        out.extend_from_slice(b",\"payload\":");
        out.extend_from_slice(&payload.0);
    }
    if let Some(version) = state_version {
        out.extend_from_slice(
            format!(",\"stateVersion\":{{\"presence\":{},\"health\":{}}}", version.presence, version.health).as_bytes(),
        );
    }
    out
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing a string into a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_real_clients_send() {
        let text = r#"{"type":"req","id":"1","method":"health"}"#;
        let request = read_request(text, Protocol::V3).unwrap();
        assert_eq!((request.id.as_ref(), request.method.as_ref(), request.params), ("1", "health", None));
        let text = r#"{"type":"req","id":"1:a","method":"x","params":{"a":1},"traceparent":"00"}"#;
        assert_eq!(read_request(text, Protocol::V4).unwrap().params, Some(r#"{"a":1}"#));
    }

    #[track_caller]
    fn refused(text: &str, protocol: Protocol, id: Option<&str>, reasons: &str) {
        let expected = BadFrame::Invalid { id: id.map(str::to_owned), reasons: reasons.to_owned() };
        assert_eq!(read_request(text, protocol).unwrap_err(), expected);
    }

    #[test]
    fn says_why_a_frame_is_not_a_request() {
        use Protocol::{V3, V4};
        assert_eq!(read_request("nope", V3).unwrap_err(), BadFrame::NotJson);
        refused("[]", V3, None, "must be object");
        refused(r#"{"type":"req","method":"health"}"#, V3, None, "must have required property 'id'");
        refused(
            r#"{"type":"req","id":"x2","method":"health","zz":1}"#,
            V3,
            Some("x2"),
            "at root: unexpected property 'zz'",
        );
        refused(
            r#"{"type":"event","event":"tick"}"#,
            V3,
            None,
            "must have required property 'id'; must have required property 'method'; \
             at root: unexpected property 'event'; at /type: must be equal to constant",
        );
        refused(
            r#"{"type":"event","event":"tick"}"#,
            V4,
            None,
            "must have required property 'id'; at root: unexpected property 'event'; \
             at /type: must be equal to constant",
        );
        refused(
            r#"{"type":"req","id":"1","method":"x","traceparent":"t"}"#,
            V3,
            Some("1"),
            "at root: unexpected property 'traceparent'",
        );
    }

    #[test]
    fn an_id_over_its_limit_is_refused_not_echoed() {
        let text = json!({"type": "req", "id": "i".repeat(REQUEST_ID_BYTES_MAX + 1), "method": "x"}).to_string();
        assert!(matches!(read_request(&text, Protocol::V4), Err(BadFrame::Invalid { id: None, .. })));
        let text = json!({"type": "req", "id": "i".repeat(REQUEST_ID_BYTES_MAX), "method": "x"}).to_string();
        assert!(read_request(&text, Protocol::V4).is_ok());
    }

    #[test]
    fn frames_are_json_whatever_their_tail() {
        let payload = Json::of(&json!({"ts": 1})).unwrap();
        let body = event_body("tick", Some(&payload), Some(StateVersion { presence: 1, health: 2 }));
        for tail in [Tail::Seq(u64::MAX), Tail::Unnumbered] {
            assert!(tail.text().len() <= Tail::BYTES_MAX);
            let frame = OutFrame { body: Body::Shared(body.clone().into()), tail, class: FrameClass::DropIfSlow };
            let value: Value = serde_json::from_str(&frame.text()).unwrap();
            assert_eq!(value["payload"]["ts"], 1);
        }
    }

    #[test]
    fn protocol_3_sees_no_code_it_does_not_know() {
        let error = RpcError::new(crate::protocol::error::ErrorCode::Forbidden, "missing scope: operator.read");
        assert!(response_error("1", &error, None, Protocol::V3).text().contains("INVALID_REQUEST"));
        assert!(response_error("1", &error, None, Protocol::V4).text().contains("FORBIDDEN"));
    }
}
