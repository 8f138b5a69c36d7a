//! What changed on disk, reported by jobs: the loop applies it to its own state and tells who listens.

use serde_json::Value;

use super::Gateway;
use super::broadcast::{self, For};
use super::stability::{Details, Kind};
use crate::config::load::Loaded;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::runtime::clock::Now;
use crate::runtime::stop::Why;
use crate::sessions::{history, row, transcript};

/// Something that changed, once it is durable.
#[derive(Debug)]
pub enum Fact {
    /// A session was made or changed.
    Session {
        /// Which.
        key: SessionKey,
        /// Why, in upstream's words: `create`, `patch`, `send`, `reset`.
        reason: &'static str,
        /// Its row as clients see it.
        row: Value,
        /// When it changed.
        updated_at: i64,
        /// Whether it was made.
        is_new: bool,
    },
    /// A session was deleted.
    SessionGone {
        /// Which.
        key: SessionKey,
        /// The id its transcript had.
        session_id: String,
    },
    /// The groups of sessions changed.
    Groups,
    /// A message was added to a session.
    Message {
        /// Which session.
        key: SessionKey,
        /// The message as clients see it.
        message: Value,
        /// Its id.
        message_id: String,
        /// Its number.
        seq: u64,
        /// The session's row.
        row: Value,
    },
    /// A finished message to show at once, from `chat.inject`.
    Injected {
        /// The session as the caller named it, which protocol 3 echoes.
        key_as_sent: String,
        /// The session.
        key: SessionKey,
        /// The message.
        message: Value,
        /// Its id.
        message_id: String,
    },
    /// The models that an inbound message's commands look at are known.
    ModelsMade,
    /// What came with an inbound message, and what is judged of both.
    Unpacked(Box<(crate::defender::request::ActionRequest, crate::intake::uploads::Unpacked)>),
    /// What came with an inbound message cannot be taken.
    Refused(crate::protocol::error::RpcError),
    /// A message of one run to another is accepted.
    Between(Box<super::runs::children::Between>),
    /// A command in the background has ended.
    CommandEnded(Box<crate::tools::processes::Ended>),
    /// What is to be told of that was judged.
    NoticeJudged(Box<crate::agent::run::Judged>),
    /// It is told, or nobody is to be told.
    NoticeTold,
    /// What goes on in a session is to be stopped.
    Stop(SessionKey),
    /// Sessions of runs that a run started were put away; when the oldest of those that are left was used last.
    ChildrenLeft(Option<i64>),
    /// Something that a run does was judged.
    Decided(Box<(SessionKey, crate::agent::run::Judged)>),
    /// An inbound message was judged.
    Judged(Box<crate::defender::decision::Decision>),
    /// An inbound message is on disk, or had been there before.
    Accepted(Box<crate::intake::accept::Accepted>),
    /// What an inbound message ordered is done.
    CarriedOut(Box<super::runs::commands::CarriedOut>),
    /// The id of the session that a job was to look up; `None`: it is not there.
    SessionId(Option<String>),
    /// A session is on disk that was made for a message, which follows now.
    FirstWords(Box<super::methods::sessions::create::FirstWords>),
    /// A message's turn is in the transcript of this session id.
    TurnBegan {
        /// The id.
        session_id: String,
    },
    /// A run took a message that it was offered.
    Steered {
        /// The message's own run.
        no: super::effect::RunNo,
        /// The run that took it.
        into: super::effect::RunNo,
    },
    /// A run's thread is done.
    RunEnded(Box<crate::agent::run::RunEnd>),
    /// A tool that was called for a caller has ended.
    Invoked(Box<crate::agent::invoke::Invoked>),
    /// What came of a run is on disk.
    RunClosed,
    /// The configuration was read again because somebody asked, or written.
    Config(Box<Loaded>),
    /// Somebody asked for the configuration to be read again, in so many milliseconds.
    ReloadAfter(u64),
    /// A look at the file found another configuration than the one in force.
    ConfigSeen(Box<Loaded>),
    /// The configuration on disk cannot be used; what was in force stays.
    ConfigBroken {
        /// What is wrong with it, with line and column.
        why: String,
    },
    /// A file of the page was read for an HTTP request.
    Page {
        /// Whose.
        conn: crate::protocol::ConnId,
        /// The answer.
        response: Box<super::http::HttpResponse>,
    },
    /// The words that wake a listening client changed.
    Voicewake(Vec<String>),
    /// `usage.cost` or `usage.status` was answered.
    Costs(Box<super::cost_cache::Kept>),
    /// Memory was sampled.
    Memory(Box<super::stability::Memory>),
    /// Heartbeats were switched.
    Heartbeats(bool),
    /// A client's request for an approval is on disk.
    ApprovalEntered(Box<super::approvals::Approval>),
    /// A run's request for an approval is on disk.
    ApprovalAsked(Box<super::approvals::flow::AskedByRun>),
    /// What came of an approval is on disk.
    ApprovalEnded(Box<(String, super::approvals::End)>),
    /// A setup code was made.
    SetupIssued(Box<super::setups::SetupCode>),
    /// What came of a setup code is known.
    SetupEnded(Box<super::setups::SetupCode>),
    /// A request to be paired was answered.
    PairAnswered {
        /// Which.
        request_id: String,
        /// How.
        end: super::upgrades::End,
    },
}

impl Fact {
    /// What a message that was added to a session changed; `row` is the session's.
    pub fn of_added(key: &SessionKey, added: transcript::Added, reason: &'static str, row: Value) -> [Fact; 2] {
        let transcript::Added { session, is_new_session: is_new, message, message_id, seq, .. } = added;
        let reason = if is_new { "create" } else { reason };
        let updated_at = session.updated_ms;
        [
            Fact::Session { key: key.clone(), reason, row: row.clone(), updated_at, is_new },
            Fact::Message { key: key.clone(), message, message_id, seq, row },
        ]
    }
}

impl Gateway {
    /// Applies one fact.
    pub(super) fn apply(&mut self, now: Now, fact: Fact) {
        match fact {
            Fact::Session { key, reason, mut row, updated_at, is_new } => {
                if matches!(reason, "reset" | "new") {
                    self.stop_session(now, &key, Why::Rpc);
                }
                self.session_touched(&key, updated_at, is_new);
                if is_new {
                    self.note_new_session(&key);
                }
                row::set_runs(&mut row, self.runs.list().of(key.as_str()));
                self.runs.note_row(&key, &row);
                self.sessions_changed(&key, reason, row::beside(row), now.wall_ms);
            }
            Fact::SessionGone { key, session_id } => {
                self.health_cache = Default::default();
                self.stop_session(now, &key, Why::Rpc);
                self.sessions.removed(key.agent().unwrap_or_default(), key.as_str());
                self.sessions_changed(&key, "delete", json!({ "sessionId": session_id }), now.wall_ms);
            }
            Fact::Groups => {
                if let Ok(payload) = Json::of(&json!({ "reason": "groups", "ts": now.wall_ms })) {
                    self.broadcast(&broadcast::SESSIONS_CHANGED, For::SessionList, &payload);
                }
            }
            Fact::Message { key, message, message_id, seq, mut row } => {
                row::set_runs(&mut row, self.runs.list().of(key.as_str()));
                let session_id = row["sessionId"].as_str().unwrap_or_default();
                let mut payload = json!({
                    "sessionKey": key.as_str(),
                    "agentId": key.agent(),
                    "message": history::told(message, session_id),
                    "messageId": message_id,
                    "messageSeq": seq,
                });
                if let Some(is_owner) = payload["message"].pointer("/__openclaw/senderIsOwner") {
                    payload["senderIsOwner"] = is_owner.clone();
                }
                row::set_all(&mut payload, row::beside(row));
                if let Ok(payload) = Json::of(&payload) {
                    self.broadcast(&broadcast::SESSION_MESSAGE, For::SessionMessages(&key), &payload);
                }
            }
            Fact::Injected { key_as_sent, key, message, message_id } => {
                self.chat_injected(&key_as_sent, &key, &message, &message_id);
            }
            Fact::Between(between) => {
                let (message, stored) = *between;
                self.run_between(now, message, &stored);
            }
            Fact::CommandEnded(ended) => self.command_ended(now, *ended),
            Fact::Stop(session) => {
                self.stop_session(now, &session, Why::Rpc);
            }
            Fact::ChildrenLeft(oldest_ms) => self.children_left(now, oldest_ms),
            Fact::Decided(decided) => {
                let (session, judged) = *decided;
                self.tell_decision(&session, &judged.request, &judged.decision);
            }
            // These belong to a message on its way, which takes them before they get here (`inbound`).
            Fact::ModelsMade
            | Fact::Unpacked(_)
            | Fact::Refused(_)
            | Fact::Judged(_)
            | Fact::Accepted(_)
            | Fact::CarriedOut(_) => {
                debug_assert!(false, "a message's fact without its message")
            }
            // And these to a run, or to who had a session looked up, which take them in `dispatch`.
            Fact::TurnBegan { .. }
            | Fact::RunEnded(_)
            | Fact::Invoked(_)
            | Fact::RunClosed
            | Fact::SessionId(_)
            | Fact::NoticeJudged(_)
            | Fact::NoticeTold => {
                debug_assert!(false, "a fact without who asked for it");
            }
            Fact::FirstWords(first) => self.say_first(*first),
            Fact::Steered { no, into } => self.steered(no, into),
            Fact::Config(loaded) => self.take_config(now, *loaded),
            Fact::ReloadAfter(delay_ms) => self.reload.ask(now, delay_ms),
            Fact::ConfigSeen(loaded) => self.config_seen(now, *loaded),
            Fact::ConfigBroken { why } => self.config_broken(&why),
            Fact::Page { conn, response } => self.page_read(conn, *response),
            Fact::Voicewake(triggers) => {
                self.voicewake = triggers;
                self.tell_voicewake();
            }
            Fact::ApprovalEntered(approval) => self.approval_entered(*approval),
            Fact::ApprovalAsked(asked) => self.approval_asked(*asked),
            Fact::ApprovalEnded(ended) => {
                let (id, end) = *ended;
                self.approval_ended(&id, end);
            }
            Fact::SetupIssued(setup) => self.setups.put(*setup),
            Fact::SetupEnded(setup) => self.setup_ended(&setup),
            Fact::PairAnswered { request_id, end } => self.upgrade_ended(&request_id, end, now.wall_ms),
            Fact::Costs(kept) => self.keep_costs(*kept),
            Fact::Memory(memory) => {
                self.note(Kind::MemorySample, Details { memory: Some(*memory), ..Details::default() });
            }
            Fact::Heartbeats(enabled) => {
                self.heartbeats_enabled = enabled;
                self.health_cache = Default::default();
            }
        }
    }

    pub(super) fn session_touched(&mut self, key: &SessionKey, updated_at: i64, is_new: bool) {
        self.health_cache = Default::default();
        self.sessions.touched(key.agent().unwrap_or_default(), key.as_str(), updated_at, is_new);
    }

    fn sessions_changed(&mut self, key: &SessionKey, reason: &str, more: Value, now_ms: i64) {
        let mut payload = json!({ "sessionKey": key.as_str(), "agentId": key.agent(), "reason": reason, "ts": now_ms });
        row::set_all(&mut payload, more);
        if let Ok(payload) = Json::of(&payload) {
            self.broadcast(&broadcast::SESSIONS_CHANGED, For::SessionList, &payload);
        }
    }

    fn tell_voicewake(&mut self) {
        let conns: Vec<_> = self.clients.all_ready().map(|(conn, _)| conn).collect();
        for conn in conns {
            self.send_voicewake(conn);
        }
    }

    fn chat_injected(&mut self, key_as_sent: &str, key: &SessionKey, message: &Value, message_id: &str) {
        let state = json!({ "state": "final", "message": message });
        self.chat_event(&format!("inject-{message_id}"), key, key_as_sent, 0, state);
    }
}
