//! Inbound messages: whatever door one comes through, it becomes one shape, is judged once, and is on disk before its
//! sender is told so.
//!
//! [`normalise`] makes the shape, [`hooks`] reads webhook bodies, [`uploads`] takes pictures and files apart, [`accept`]
//! writes message, decision and transcript in one transaction if what the sender [`expected`] holds. The order of the steps is the gateway's (`gateway::inbound`). **Invariant:** the same message from
//! the same source is stored once, however often it is delivered.

pub mod accept;
pub mod activity;
pub mod expected;
pub mod hooks;
pub mod judge;
pub mod normalise;
pub mod turns;
pub mod uploads;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::expected::Expected;
use crate::defender::request::{ActionRequest, Routing};
use crate::protocol::session_key::SessionKey;
use crate::sessions::activation::{self, Mention};
use crate::sessions::media::Media;

/// The door a message came through; also the scope of its dedupe key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `chat.send`.
    Chat,
    /// `agent`.
    Agent,
    /// A webhook.
    Hook,
    /// `/v1/chat/completions` and `/v1/responses`.
    OpenAi,
    /// A run that started this one, or tells it something.
    Spawn,
    /// A run that this session started, and that has ended.
    Announce,
}

impl Source {
    /// Its name in the store and in decisions.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Chat => "chat.send",
            Source::Agent => "agent",
            Source::Hook => "hooks",
            Source::OpenAi => "openai",
            Source::Spawn => "sessions_spawn",
            Source::Announce => "announce",
        }
    }
}

/// A message in the one shape all doors produce.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The door.
    pub source: Source,
    /// The sender's own id of it: the same id again is the same message.
    pub dedupe_key: String,
    /// The run it asks for; equal to the dedupe key where the client chose it.
    pub run_id: String,
    /// The session it belongs to.
    #[serde(with = "key_text")]
    pub session: SessionKey,
    /// What it says, normalised.
    pub text: String,
    /// A command it asks to run, if it says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<String>,
    /// The channel it came over.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub channel: Option<String>,
    /// Who sent it, as the door knows it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sender: Option<String>,
    /// The program it came from, where that is one of a gateway's own clients.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<Client>,
    /// What its channel says of the conversation and of who is spoken to ([`activation`]).
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    pub heard: Map<String, Value>,
    /// The session whose run sent it, where one did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spawned_by: Option<String>,
    /// The recipient of an answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
    /// The account of ours it came to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub account_id: Option<String>,
    /// The thread it stands in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub thread_id: Option<String>,
    /// What its sender saw of the session. Of no use once it is on disk: it held then.
    #[serde(skip)]
    pub expected: Expected,
    /// When it arrived, in milliseconds since 1970.
    pub received_ms: i64,
    /// How it is to be answered.
    #[serde(skip_serializing_if = "Wish::is_empty", default)]
    pub wish: Wish,
}

/// A program that talks to this gateway, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// `cli`, `openclaw-control-ui`, …
    pub id: String,
    /// `cli`, `webchat`, `ui`, …
    pub mode: String,
    /// Whether the gateway's owner speaks: whoever may administer it.
    pub is_owner: bool,
}

/// How a sender wishes to be answered; kept with the message, so that a restart answers it the same way.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wish {
    /// How much to think, in the words of `thinkingLevel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// A model for this answer alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Further instructions for this answer alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_system: Option<String>,
    /// How long the answer may take in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What happens when the session is busy, in the words of `queueMode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_mode: Option<String>,
    /// A name for the session, given with the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Pictures and files that came with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<Media>,
    /// It is no message to the agent: its run summarises the conversation, with these wishes (`/compact`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compact: Option<String>,
    /// What was said before it elsewhere, oldest first; a new session begins with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<turns::Turn>,
    /// What the sender's own tools answered; it stands before the text, which may then be empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<turns::Turn>,
    /// Tools of the sender: a call of one ends the run with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<SenderTool>,
    /// Further fields of the request to the model, in the words of OpenAI's chat completions.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
}

/// A tool that a message's sender calls by itself.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SenderTool {
    /// `[a-zA-Z0-9_-]{1,64}`.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// JSON schema of its arguments.
    pub parameters: Value,
}

impl Wish {
    /// Whether it wishes for nothing but a way to wait.
    pub fn is_plain(&self) -> bool {
        *self == Wish { queue_mode: self.queue_mode.clone(), ..Wish::default() }
    }

    /// Whether it wishes for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Wish::default()
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("source", &self.source)
            .field("run_id", &self.run_id)
            .field("session", &self.session)
            .field("text_bytes", &self.text.len())
            .finish()
    }
}

mod key_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::SessionKey;

    pub(super) fn serialize<S: Serializer>(key: &SessionKey, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(key.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SessionKey, D::Error> {
        String::deserialize(from).map(SessionKey::stored)
    }
}

impl Message {
    /// What `source` brought for a session, with nothing but its words. It is known by the run it asks for; a door whose
    /// senders have ids of their own sets `dedupe_key`.
    pub fn new(source: Source, session: SessionKey, run_id: String, text: String, received_ms: i64) -> Message {
        Message {
            source,
            dedupe_key: run_id.clone(),
            run_id,
            session,
            text,
            command: None,
            channel: None,
            sender: None,
            client: None,
            heard: Map::new(),
            spawned_by: None,
            to: None,
            account_id: None,
            thread_id: None,
            expected: Expected::default(),
            received_ms,
            wish: Wish::default(),
        }
    }

    /// The idempotency key of its turn in the transcript.
    pub fn turn_key(&self) -> String {
        accept::turn_key(&self.dedupe_key)
    }

    /// What the defender judges. `preceding` is the end of what the session said before.
    pub fn to_judge(&self, preceding: Option<&str>) -> ActionRequest {
        ActionRequest {
            id: Some(self.run_id.clone()),
            session_key: Some(self.session.as_str().to_owned()),
            source: self.source.as_str().to_owned(),
            prompt: Some(turns::to_judge(self)),
            command: self.command.clone(),
            channel: self.channel.clone(),
            preceding: preceding.map(str::to_owned),
            routing: Routing {
                session_kind: Some(self.session.kind().to_owned()),
                chat_type: activation::chat_type(&self.heard).map(str::to_owned),
                was_mentioned: match activation::mention(&self.heard) {
                    Mention::Agent => Some(true),
                    Mention::NotAgent => Some(false),
                    Mention::Unknown => None,
                },
                to: self.to.clone(),
                account_id: self.account_id.clone(),
                thread_id: self.thread_id.clone(),
                ..Routing::default()
            },
            ..ActionRequest::default()
        }
    }
}
