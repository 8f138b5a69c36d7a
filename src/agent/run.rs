//! A run: its input, its way of speaking to the rest of the program, and its end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::cooldown::Cooldowns;
use super::models::LazyModels;
use super::talk::{Attempt, Bill, Failure, Prices, Said, Thinking, Usage};
use crate::config::load::Loaded;
use crate::defender::decision::Decision;
use crate::defender::request::ActionRequest;
use crate::defender::rules::Rules;
use crate::protocol::session_key::SessionKey;
use crate::runtime::digest::sha256_hex;
use crate::runtime::stop::{Stop, Why};
use crate::sessions::media::Media;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::tools::Order;
use crate::tools::mcp::Servers;
use crate::tools::processes::{Background, Processes};

/// Everything a run starts with. The message it answers is the newest of the user's in the transcript.
#[derive(Debug, Clone)]
pub struct RunInput {
    /// Names it, for its clients and for good.
    pub run_id: String,
    /// The session it is in.
    pub session: SessionKey,
    /// The configuration in force when it began.
    pub config: Arc<Loaded>,
    /// The defender's rules in force when it began.
    pub rules: Arc<Rules>,
    /// Servers of other tools.
    pub servers: Servers,
    /// The models that may be asked, as configured when it began.
    pub models: Arc<LazyModels>,
    /// Which profiles rest, as known when it began.
    pub cooldowns: Cooldowns,
    /// What its caller asks for beyond what the session says.
    pub ask: Ask,
    /// How often it was begun: above 1 it is continued after a restart.
    pub attempt: u32,
}

/// What a caller asks for, for one run.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// How much to think; `None`: as the session says.
    pub thinking: Option<Thinking>,
    /// A model, as `provider/model`; `None`: the session's, else the agent's.
    pub model: Option<String>,
    /// Further instructions, at most [`EXTRA_SYSTEM_CHARS_MAX`] characters.
    pub extra_system: Option<String>,
    /// How long it may take in all; `None`: as configured.
    pub timeout: Option<Duration>,
    /// Further fields of the request to the model, in the words of OpenAI's chat completions.
    pub params: Map<String, Value>,
    /// Who speaks, and where.
    pub speaker: Speaker,
    /// Tools of the caller (HTTP face): a call of one ends the run with it.
    pub client_tools: Vec<super::talk::ToolSpec>,
}

/// Who speaks, and where: what they may have done depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Speaker {
    /// Who, as a channel knows them; never what a client says of itself.
    pub sender: Option<String>,
    /// The channel, where it is not the session's.
    pub channel: Option<String>,
    /// The account of ours on it, where it is not the session's.
    pub account: Option<String>,
}

/// Longest further instructions in characters (SES-87).
pub const EXTRA_SYSTEM_CHARS_MAX: usize = 8192;

/// What a run may do to the rest of the program. Everything else it does, it does to itself.
pub trait Host {
    /// The wall clock, in milliseconds since 1970.
    fn now_ms(&self) -> i64;
    /// Where it is told to stop.
    fn stop(&self) -> &Stop;
    /// Reads what is committed.
    ///
    /// # Errors
    /// The store's, when it cannot be opened.
    fn store(&mut self) -> Result<&Queries, StoreError>;
    /// Tells what happens. Waits while the loop is far behind, and is otherwise cheap.
    fn tell(&mut self, event: RunEvent);
    /// Adds messages to the transcript; when it returns they are on disk. Each has its idempotency key, so that a step
    /// that is done again adds nothing.
    ///
    /// # Errors
    /// The store's; nothing was added then.
    fn record(&mut self, messages: Vec<Record>) -> Result<(), StoreError>;
    /// Writes down what was decided that no message tells of; when it returns that is on disk.
    ///
    /// # Errors
    /// The store's; nothing was written then.
    fn decided(&mut self, judged: Vec<Judged>) -> Result<(), StoreError>;
    /// Messages for this run that came since it was last asked (mode `steer`): they are in the transcript already,
    /// oldest first.
    fn steered(&mut self) -> Vec<Steered>;
    /// Does what a tool asks for; when it returns that is on disk. Gives what is said to the model.
    ///
    /// # Errors
    /// Why it is not done, in words for the model.
    fn carry_out(&mut self, ordered: Ordered) -> Result<Value, String>;
    /// The owner of every command; `None`: none can be run.
    fn processes(&self) -> Option<Processes>;
    /// Asks a person for leave, and waits for the answer. When it is yes, that it is used is on disk.
    fn approve(&mut self, question: Approval) -> Permission;
    /// How long it has waited for people in all, which is no time of the run's own.
    fn waited(&self) -> Duration;
}

/// What a person is asked, because a run wants to do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Names it for good: after a restart the same question finds what was answered.
    pub key: String,
    /// Whose run it is.
    pub agent: String,
    /// The call of a tool that it is about.
    pub call_id: String,
    /// What is to be done, as a line.
    pub command: String,
    /// The program, without links.
    pub program: Option<String>,
    /// Where it begins.
    pub cwd: Option<String>,
    /// Where it runs.
    pub host: &'static str,
    /// The policy, in its words.
    pub security: Option<&'static str>,
    /// The same.
    pub ask: Option<&'static str>,
    /// Names of the variables that it is given.
    pub env_names: Vec<String>,
    /// Why it is asked, for the one who is.
    pub why: Option<String>,
    /// Stands for exactly what is to be done: nothing else is done on its answer.
    pub digest: String,
    /// Whether it can be granted for good.
    pub may_always: bool,
}

/// How the approval is called that a question is kept as: the same question has the same one after a restart.
pub fn approval_id(key: &str) -> String {
    const CHARS: usize = 32;
    sha256_hex(key.as_bytes())[..CHARS].to_owned()
}

/// What came of asking a person for leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// Somebody said yes. It is used up with this: the same question is not answered by it again.
    Granted,
    /// Somebody said no.
    Denied {
        /// Who, as others know them.
        by: Option<String>,
    },
    /// Nobody answered in time.
    Expired,
    /// Nobody was there to be asked.
    NobodyToAsk,
    /// The run was stopped meanwhile.
    Stopped,
    /// What is to be done is not what was asked about.
    Changed,
    /// Somebody said yes, and what they said it to was begun before: whether it was done is not known.
    Used,
}

/// Something that a tool asks the program to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Ordered {
    /// What.
    pub order: Order,
    /// Names it for good: asked for again, it is not done again.
    pub key: String,
    /// What was decided about it.
    pub judged: Judged,
    /// The tools that a run started by it may use at most; `None`: its conversation restricts none.
    pub tools: Option<Vec<String>>,
}

/// What was said to a run while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steered {
    /// The words.
    pub text: String,
    /// What came with them.
    pub media: Vec<Media>,
}

/// A message of a run for the transcript, as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// `assistant`, `toolResult`, …
    pub role: &'static str,
    /// Content blocks.
    pub content: Value,
    /// Further fields of the message: `provider`, `model`, `usage`, `stopReason`, `toolCallId`, ….
    pub extra: Vec<(&'static str, Value)>,
    /// `RUNID:step:N`, …
    pub idempotency_key: String,
    /// What the defender decided about what it tells of, written down with it: about each call before it is made, about
    /// each answer before a model sees it.
    pub judged: Vec<Judged>,
    /// A command in the background that it tells of: written down with it, until its end was told.
    pub background: Option<Background>,
}

/// What the defender decided about something a run does.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// What was judged: where it comes from and which tool it is about, without its text.
    pub request: ActionRequest,
    /// The decision.
    pub decision: Decision,
    /// The beginning of the text, masked.
    pub preview: String,
}

/// What happens in a run while it goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEvent {
    /// It began to do something that takes a while, in protocol 4's words (`preparing_context`, `starting_model`, …).
    Phase(&'static str),
    /// A model is asked.
    Model {
        /// The provider's id.
        provider: String,
        /// The model's id.
        model: String,
    },
    /// A model failed and the next is asked.
    Fallback {
        /// Who failed.
        from: Attempt,
        /// Who is asked next, as `provider/model`.
        to: String,
    },
    /// More words for the reader.
    Text(String),
    /// More words of the model for itself.
    Thinking(String),
    /// What was said since the last tool call counts no more: the model is asked again and begins anew.
    Restart,
    /// A tool is called.
    ToolStart {
        /// The call.
        id: String,
        /// The tool.
        name: String,
        /// What it is called with.
        arguments: Value,
    },
    /// A tool shows how far it is.
    ToolUpdate {
        /// The call.
        id: String,
        /// The tool.
        name: String,
        /// How far, in words.
        text: String,
        /// The same as values.
        details: Value,
    },
    /// A tool answered.
    ToolEnd {
        /// The call.
        id: String,
        /// The tool.
        name: String,
        /// What it said.
        text: String,
        /// Whether it failed.
        is_error: bool,
        /// The same as values.
        details: Option<Value>,
    },
    /// A person is asked, or answered, in protocol 4's form.
    Approval(Value),
    /// It has waited for a person since it was last heard of, and still does.
    Waits(Duration),
    /// The transcript is being shortened.
    CompactionStart,
    /// The transcript is shorter.
    CompactionEnd {
        /// Whether the model is asked again because of it.
        will_retry: bool,
    },
    /// Tokens so far.
    Usage(Usage),
}

/// How a run ended. Exactly one for each run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEnd {
    /// What came of it.
    pub outcome: Outcome,
    /// What was decided about its last words, where they go on to another conversation.
    pub judged: Option<Box<Judged>>,
    /// What it summarised, when that was its task.
    pub compacted: Option<Box<super::turn::Compacted>>,
    /// Tokens of all models it asked.
    pub usage: Usage,
    /// What these cost.
    pub bill: Bill,
    /// Tokens of answers that no message was recorded for: they are told with the message that ends the run.
    pub unrecorded: Usage,
    /// Who was asked, in order.
    pub attempts: Vec<Attempt>,
    /// How many tools were called.
    pub tool_calls: u32,
    /// How often a model was asked.
    pub steps: u32,
    /// Which profiles rest, as found at the end: for its owner to merge.
    pub cooldowns: Cooldowns,
    /// What was put before the first model; `None`: it never came to that.
    pub load: Option<Load>,
    /// When it began and ended, in milliseconds since 1970.
    pub began_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
}

/// What a model was to be asked with, counted before it was asked. Tokens are estimates.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// The provider's id.
    pub provider: String,
    /// The model's id.
    pub model: String,
    /// The API it speaks.
    pub api: &'static str,
    /// What it takes for its tokens; `None`: not known.
    pub prices: Option<Prices>,
    /// Tokens it reads.
    pub window: u64,
    /// Tokens of them that may be used for the prompt; the rest is for its answer.
    pub room: u64,
    /// Tokens of the prompt.
    pub tokens: u64,
    /// Things that were said, in the prompt.
    pub n_items: u64,
    /// Characters of old tool results that can be left out of it.
    pub reducible_chars: u64,
    /// When it was counted, in milliseconds since 1970.
    pub at_ms: i64,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The model said what it had to say. It is not yet in the transcript: whoever gets this writes it there.
    Replied(Box<Reply>),
    /// It was stopped.
    Stopped {
        /// Why.
        why: Why,
        /// What the model had said since the last tool call.
        partial: String,
    },
    /// No model gave an answer.
    Failed(Failure),
}

/// A model's last words.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What it said, in order.
    pub said: Vec<Said>,
    /// The words for the reader, without reply tags; empty when it chose silence (`NO_REPLY`).
    pub text: String,
    /// Whether nobody is to be sent anything.
    pub is_silent: bool,
    /// Who said it: the provider's id,
    pub provider: String,
    /// the model's,
    pub model: String,
    /// and which API it speaks.
    pub api: &'static str,
    /// Why it ended.
    pub stop: super::talk::StopReason,
    /// Tokens of the last answer alone: how full the context is.
    pub usage: Usage,
    /// The message it is stored as.
    pub record: Record,
}
