//! What clients see of a run while it goes on: `chat` and `agent` events, in the words of each protocol (protocol 11).
//!
//! A run has a counter of its events for each protocol, because protocol 4 is shown steps that protocol 3 does not
//! know, and its clients take a hole for a lost event. A `chat` event carries the number of the `agent` event that
//! caused it.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::items::Item;
use crate::gateway::Gateway;
use crate::gateway::broadcast::{self, For};
use crate::gateway::clients::Caller;
use crate::protocol::ConnId;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::sessions::row;

/// At most one piece of an answer in this time, to clients of protocol 4.
pub(super) const PACE_V4: Duration = Duration::from_millis(75);
/// The same for `chat` events of protocol 3.
pub(super) const PACE_V3: Duration = Duration::from_millis(150);
/// Text of an answer that is shown while it is written, in bytes. What is beyond it comes with the end alone.
pub(super) const SHOWN_BYTES_MAX: usize = 1024 * 1024;

/// What has been shown of a run.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) run_id: String,
    pub(super) session: SessionKey,
    pub(super) session_id: Option<String>,
    /// When the run began, in milliseconds since 1970.
    pub(super) began_ms: i64,
    /// Everything said since the last tool call.
    pub(super) text: String,
    /// Events so far, on protocols 3 and 4.
    seq: [u64; 2],
    /// Bytes of `text` in `agent` events and protocol 4's `chat` events.
    told: usize,
    /// Bytes of `text` in protocol 3's `chat` events.
    told_v3: usize,
    /// Whether the next piece replaces what was told.
    replaces: bool,
    next: Instant,
    next_v3: Instant,
    /// Counts the parts of the answer that tool calls divide.
    part: u32,
    /// `provider`, `model` as last told.
    pub(super) model: Option<(String, String)>,
    /// The session's row as it was last told, for clients that follow a run by its tools.
    pub(super) row: Option<Value>,
    /// The tool that is called at this moment.
    pub(super) item: Option<Item>,
}

impl Shown {
    pub(super) fn new(run_id: String, session: SessionKey, session_id: Option<String>, now: Now) -> Shown {
        Shown {
            run_id,
            session,
            session_id,
            began_ms: now.wall_ms,
            text: String::new(),
            seq: [0, 0],
            told: 0,
            told_v3: 0,
            replaces: false,
            next: now.mono,
            next_v3: now.mono,
            part: 1,
            model: None,
            row: None,
            item: None,
        }
    }

    /// Takes more words.
    pub(super) fn add(&mut self, words: &str) {
        let room = SHOWN_BYTES_MAX.saturating_sub(self.text.len());
        self.text.push_str(&words[..words.floor_char_boundary(room.min(words.len()))]);
    }

    /// What was said counts no more; what comes takes its place.
    pub(super) fn restart(&mut self) {
        self.text.clear();
        self.replaces = self.told > 0 || self.told_v3 > 0;
        self.told = 0;
        self.told_v3 = 0;
    }

    /// A tool is called: what comes after it is a text of its own.
    pub(super) fn next_part(&mut self) {
        self.restart();
        self.part += 1;
    }

    /// When words that wait are to be told; `None`: none wait.
    pub(super) fn due(&self) -> Option<Instant> {
        let v4 = (self.told < self.text.len()).then_some(self.next);
        let v3 = (self.told_v3 < self.text.len()).then_some(self.next_v3);
        v4.into_iter().chain(v3).min()
    }

    fn seq(&mut self, protocol: Protocol) -> &mut u64 {
        &mut self.seq[usize::from(protocol == Protocol::V4)]
    }
}

/// On which protocols an event is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Both,
    V4,
}

const PROTOCOLS: [Protocol; 2] = [Protocol::V3, Protocol::V4];

impl Gateway {
    /// Sends an `agent` event of a run.
    pub(super) fn agent_event(&mut self, shown: &mut Shown, on: On, stream: &str, data: &Value, now_ms: i64) {
        for protocol in PROTOCOLS {
            if on == On::Both || protocol == Protocol::V4 {
                self.agent_event_for(shown, protocol, stream, data, now_ms);
            }
        }
    }

    /// The same to clients of one protocol, where each is told something else.
    pub(super) fn agent_event_for(
        &mut self,
        shown: &mut Shown,
        protocol: Protocol,
        stream: &str,
        data: &Value,
        now_ms: i64,
    ) {
        *shown.seq(protocol) += 1;
        let to = For::SessionRunsOn(&shown.session, protocol);
        if !self.is_heard(&broadcast::AGENT, to) {
            return;
        }
        let payload = agent_payload(shown, protocol, stream, data, now_ms);
        if let Ok(payload) = Json::of(&payload) {
            self.broadcast(&broadcast::AGENT, to, &payload);
        }
    }

    /// Tells of a tool: to who started the run, if it asked for that, and on protocol 4 to who follows all sessions.
    /// What a tool answered is not shown on protocol 3, whose clients read it from the history.
    pub(super) fn tool_event(&mut self, shown: &mut Shown, starter: Option<ConnId>, data: &Value, now_ms: i64) {
        for protocol in PROTOCOLS {
            *shown.seq(protocol) += 1;
        }
        let wants = |caller: &Caller| caller.caps.tool_events;
        let starter = starter.filter(|conn| self.clients.ready(*conn).is_some_and(|ready| wants(&ready.caller)));
        if let Some(conn) = starter {
            let protocol = self.clients.ready(conn).map_or(Protocol::V4, |ready| ready.caller.protocol);
            let mut payload = tool_payload(shown, protocol, data, now_ms);
            if protocol == Protocol::V3
                && let Some(data) = payload["data"].as_object_mut()
            {
                data.remove("result");
                data.remove("partialResult");
            }
            let Ok(payload) = Json::of(&payload) else { return };
            match protocol {
                Protocol::V3 => self.send_event(conn, &broadcast::AGENT, &payload),
                Protocol::V4 => self.broadcast(&broadcast::AGENT, For::One(conn), &payload),
            }
        }
        let to = For::SessionListBut(starter);
        if self.is_heard(&broadcast::SESSION_TOOL, to)
            && let Ok(payload) = Json::of(&tool_payload(shown, Protocol::V4, data, now_ms))
        {
            self.broadcast(&broadcast::SESSION_TOOL, to, &payload);
        }
    }

    /// Sends a `chat` event of a run, with the number of its last `agent` event.
    pub(super) fn run_chat_event(&mut self, shown: &Shown, protocol: Protocol, state: &Value) {
        let to = For::SessionRunsOn(&shown.session, protocol);
        if !self.is_heard(&broadcast::CHAT, to) {
            return;
        }
        let seq = shown.seq[usize::from(protocol == Protocol::V4)];
        let mut payload = json!({ "runId": shown.run_id, "sessionKey": shown.session.as_str() });
        if protocol == Protocol::V4 {
            payload["agentId"] = json!(shown.session.agent());
        }
        payload["seq"] = json!(seq);
        row::set_all(&mut payload, state.clone());
        if let Ok(payload) = Json::of(&payload) {
            self.broadcast(&broadcast::CHAT, to, &payload);
        }
    }

    /// Tells what a run is doing before it says anything (protocol 4).
    pub(super) fn show_phase(&mut self, shown: &mut Shown, phase: &str, now_ms: i64) {
        self.agent_event(shown, On::V4, "run_status", &json!({ "phase": phase }), now_ms);
        self.run_chat_event(shown, Protocol::V4, &json!({ "state": "status", "phase": phase }));
    }

    /// Tells the words that are due.
    pub(super) fn show_words(&mut self, shown: &mut Shown, now: Now) {
        if shown.told < shown.text.len() && now.mono >= shown.next {
            self.show_all_words(shown, now);
        }
        if shown.told_v3 < shown.text.len() && now.mono >= shown.next_v3 {
            shown.told_v3 = shown.text.len();
            shown.next_v3 = now.mono + PACE_V3;
            let delta = json!({ "state": "delta", "message": assistant(&shown.text, now.wall_ms) });
            self.run_chat_event(shown, Protocol::V3, &delta);
        }
    }

    /// Tells all words that wait, whether they are due or not.
    pub(super) fn show_all_words(&mut self, shown: &mut Shown, now: Now) {
        if shown.told == shown.text.len() {
            return;
        }
        let new = shown.text[shown.told..].to_owned();
        let mut data = json!({ "text": shown.text, "delta": new });
        if shown.replaces {
            data["replace"] = json!(true);
        }
        data["itemId"] = json!(format!("{}:{}", shown.run_id, shown.part));
        self.agent_event(shown, On::Both, "assistant", &data, now.wall_ms);
        let mut delta = json!({ "state": "delta", "deltaText": new, "message": assistant(&shown.text, now.wall_ms) });
        if std::mem::take(&mut shown.replaces) {
            delta["replace"] = json!(true);
        }
        shown.told = shown.text.len();
        shown.next = now.mono + PACE_V4;
        self.run_chat_event(shown, Protocol::V4, &delta);
    }
}

/// What is told of a tool; on protocol 4 with the row of the session.
fn tool_payload(shown: &Shown, protocol: Protocol, data: &Value, now_ms: i64) -> Value {
    let mut payload = agent_payload(shown, protocol, "tool", data, now_ms);
    if let (Protocol::V4, Some(row)) = (protocol, &shown.row) {
        let mut beside = row::beside(row.clone());
        beside["startedAt"] = json!(shown.began_ms);
        if let Some((provider, model)) = &shown.model {
            row::set_all(&mut beside, json!({ "activeModelProvider": provider, "activeModel": model }));
        }
        row::set_all(&mut beside, payload);
        payload = beside;
    }
    payload
}

fn agent_payload(shown: &Shown, protocol: Protocol, stream: &str, data: &Value, now_ms: i64) -> Value {
    let seq = shown.seq[usize::from(protocol == Protocol::V4)];
    let mut payload = json!({
        "runId": shown.run_id,
        "stream": stream,
        "data": data,
        "sessionKey": shown.session.as_str(),
        "seq": seq,
        "ts": now_ms,
    });
    match protocol {
        Protocol::V3 => {
            // Its clients know none of them.
            for unknown in ["itemId", "replace", "commandBearing"] {
                if let Some(data) = payload["data"].as_object_mut() {
                    data.remove(unknown);
                }
            }
        }
        Protocol::V4 => {
            payload["agentId"] = json!(shown.session.agent());
            payload["isHeartbeat"] = json!(false);
            if let (true, Some(id)) = (stream == "lifecycle", &shown.session_id) {
                payload["sessionId"] = json!(id);
            }
        }
    }
    payload
}

/// An answer so far, as `chat` events show it.
pub(super) fn assistant(text: &str, now_ms: i64) -> Value {
    json!({ "role": "assistant", "content": [{ "type": "text", "text": text }], "timestamp": now_ms })
}
