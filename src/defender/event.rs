//! A decision as others read it: the payload of the decision event (GW-64), also stored with quarantined actions.

use serde::Serialize;

use super::decision::Decision;
use super::request::ActionRequest;

/// Payload of `security.decision`. Holds no judged text.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionEvent<'a> {
    pub request_id: Option<&'a str>,
    pub session_id: Option<&'a str>,
    pub source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was_mentioned: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_back: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_context: Option<DeliveryContext<'a>>,
    pub decision: WireDecision<'a>,
}

/// Where an answer would go.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryContext<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<&'a str>,
}

/// A decision under its wire names, which the reference spells with underscores.
#[derive(Debug, Serialize)]
pub struct WireDecision<'a> {
    pub action: &'static str,
    pub risk_score: u8,
    pub reasons: &'a [String],
    pub tags: &'a [&'static str],
    pub source: &'static str,
}

impl<'a> DecisionEvent<'a> {
    /// The event that tells of `decision` about `request`.
    pub fn new(request: &'a ActionRequest, decision: &'a Decision) -> DecisionEvent<'a> {
        let routing = &request.routing;
        let channel = request.channel.as_deref();
        // A channel alone is no destination.
        let has_destination = routing.to.is_some() || routing.account_id.is_some() || routing.thread_id.is_some();
        DecisionEvent {
            request_id: request.id.as_deref(),
            session_id: request.session_key.as_deref(),
            source: &request.source,
            channel,
            session_kind: routing.session_kind.as_deref(),
            chat_type: routing.chat_type.as_deref(),
            was_mentioned: routing.was_mentioned,
            reply_back: routing.reply_back,
            delivery_context: has_destination.then_some(DeliveryContext {
                channel,
                to: routing.to.as_deref(),
                account_id: routing.account_id.as_deref(),
                thread_id: routing.thread_id.as_deref(),
            }),
            decision: WireDecision::new(decision),
        }
    }
}

impl<'a> WireDecision<'a> {
    /// `decision` under its wire names.
    pub fn new(decision: &'a Decision) -> WireDecision<'a> {
        WireDecision {
            action: decision.action.as_str(),
            risk_score: decision.risk_score,
            reasons: &decision.reasons,
            tags: &decision.tags,
            source: decision.source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defender::request::Routing;
    use serde_json::json;

    #[test]
    fn the_payload_has_the_documented_shape() {
        let request = ActionRequest {
            id: Some("r1".into()),
            session_key: Some("main".into()),
            source: "chat.send".into(),
            channel: Some("discord".into()),
            prompt: Some("text that must not be repeated".into()),
            routing: Routing { to: Some("room".into()), was_mentioned: Some(true), ..Routing::default() },
            ..ActionRequest::default()
        };
        let decision = Decision::queue_full();
        assert_eq!(
            serde_json::to_value(DecisionEvent::new(&request, &decision)).unwrap(),
            json!({
                "requestId": "r1", "sessionId": "main", "source": "chat.send", "channel": "discord",
                "wasMentioned": true,
                "deliveryContext": { "channel": "discord", "to": "room" },
                "decision": {
                    "action": "review", "risk_score": 50, "reasons": ["queue_full"], "tags": ["runtime_error"],
                    "source": "openclaw-rs"
                }
            })
        );
    }
}
