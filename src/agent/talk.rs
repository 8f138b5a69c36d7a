//! What passes between an agent and a model, whoever offers it. Each wire format is made from these and read into these.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Everything a model is asked with.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    /// Who the agent is and what it knows; empty: nothing.
    pub system: String,
    /// What was said, oldest first. Begins with a user's message; every tool call is followed by its result.
    pub messages: Vec<Message>,
    /// What the model may call; names are unique.
    pub tools: Vec<ToolSpec>,
    /// How much it is to think.
    pub thinking: Thinking,
    /// Longest answer in tokens; `None`: the model's own limit.
    pub max_output_tokens: Option<u64>,
    /// Further fields of the request (`temperature`, `top_p`, `stop`, …) in the words of OpenAI's chat completions.
    pub params: Map<String, Value>,
    /// Names the conversation, for providers that keep a cache for each.
    pub conversation: String,
}

impl Prompt {
    /// The same for a model that cannot see: each picture of a person is named instead. `None`: there are none.
    pub fn without_pictures(&self) -> Option<Prompt> {
        let is_picture = |part: &Part| matches!(part, Part::Image { .. });
        let has_some = |message: &Message| matches!(message, Message::User(parts) if parts.iter().any(is_picture));
        if !self.messages.iter().any(has_some) {
            return None;
        }
        let mut told = self.clone();
        for message in &mut told.messages {
            let Message::User(parts) = message else { continue };
            for part in parts {
                if let Part::Image { mime, .. } = part {
                    *part = Part::Text(format!("[a picture ({mime}) stands here, which you cannot see: say so]"));
                }
            }
        }
        Some(told)
    }
}

/// One thing that was said.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// By a person.
    User(Vec<Part>),
    /// By the model.
    Assistant(Vec<Said>),
    /// What a tool answered.
    Tool(ToolResult),
}

/// A part of what a person or a tool says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text(String),
    /// A picture.
    Image {
        /// `image/png`, …
        mime: String,
        /// Its bytes in base64.
        base64: Arc<str>,
    },
}

/// A part of what a model says, in the order it was said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Words for the reader.
    Text(String),
    /// Words for itself.
    Thinking {
        /// The words; may be empty where a provider keeps them to itself.
        text: String,
        /// What the provider wants back unchanged with the next request.
        signature: Option<String>,
    },
    /// A wish to call a tool.
    Call(ToolCall),
}

/// A wish to call a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Unique within the conversation; the provider's, or made where it gives none.
    pub id: String,
    /// The tool.
    pub name: String,
    /// An object. What a model sent that is none is kept under `_raw`, for the tool to refuse.
    pub arguments: Value,
}

/// What a tool answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// The call's id.
    pub call_id: String,
    /// The tool.
    pub name: String,
    /// What it says.
    pub content: Vec<Part>,
    /// Whether it failed.
    pub is_error: bool,
}

impl ToolResult {
    /// Its words.
    pub fn text(&self) -> String {
        let texts = self.content.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Image { .. } => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// A tool as a model is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// `[a-zA-Z0-9_-]{1,64}`.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// JSON schema of its arguments: an object.
    pub parameters: Value,
}

/// How much a model is to think before it answers (`thinkingLevel` of a session).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thinking {
    /// Not at all.
    #[default]
    Off,
    /// As little as it can.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// As much as it can.
    Xhigh,
}

impl Thinking {
    /// The level of a word.
    pub fn parse(word: &str) -> Option<Thinking> {
        Some(match word {
            "off" => Thinking::Off,
            "minimal" => Thinking::Minimal,
            "low" => Thinking::Low,
            "medium" => Thinking::Medium,
            "high" => Thinking::High,
            "xhigh" => Thinking::Xhigh,
            _ => return None,
        })
    }
}

/// A model's whole answer to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What it said, in order; texts that follow each other are joined.
    pub said: Vec<Said>,
    /// Why it ended.
    pub stop: StopReason,
    /// What it cost in tokens, as the provider counts.
    pub usage: Usage,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
}

impl Answer {
    /// The words for the reader.
    pub fn text(&self) -> String {
        let texts = self.said.iter().filter_map(|said| match said {
            Said::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The tools it wishes to call, in order.
    pub fn calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.said.iter().filter_map(|said| match said {
            Said::Call(call) => Some(call),
            _ => None,
        })
    }
}

/// Why a model ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// It had said everything.
    Stop,
    /// Its answer reached the limit.
    Length,
    /// It wants tools called.
    ToolUse,
}

impl StopReason {
    /// The word in transcripts.
    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::Stop => "stop",
            StopReason::Length => "length",
            StopReason::ToolUse => "toolUse",
        }
    }
}

/// Tokens. `input` leaves out what came from a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Read anew.
    pub input: u64,
    /// Written, thinking included.
    pub output: u64,
    /// Read from the provider's cache.
    pub cache_read: u64,
    /// Written to the provider's cache.
    pub cache_write: u64,
}

impl Usage {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.input + self.output + self.cache_read + self.cache_write
    }

    /// What was read to write the rest: how full the context was.
    pub fn prompt(&self) -> u64 {
        self.input + self.cache_read + self.cache_write
    }

    /// What is left of it without `other`, which is part of it.
    pub fn minus(&self, other: &Usage) -> Usage {
        Usage {
            input: self.input.saturating_sub(other.input),
            output: self.output.saturating_sub(other.output),
            cache_read: self.cache_read.saturating_sub(other.cache_read),
            cache_write: self.cache_write.saturating_sub(other.cache_write),
        }
    }

    /// Both together.
    pub fn plus(&self, other: &Usage) -> Usage {
        Usage {
            input: self.input + other.input,
            output: self.output + other.output,
            cache_read: self.cache_read + other.cache_read,
            cache_write: self.cache_write + other.cache_write,
        }
    }
}

/// Prices of a million tokens, in dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prices {
    /// Read anew.
    pub input: f64,
    /// Written.
    pub output: f64,
    /// Read from the cache.
    pub cache_read: f64,
    /// Written to the cache.
    pub cache_write: f64,
}

impl Prices {
    /// Dollars for these tokens: read, written, read from the cache, written to it.
    pub fn of(&self, usage: &Usage) -> [f64; 4] {
        let cost = |tokens: u64, price: f64| tokens as f64 * price / 1_000_000.0;
        [
            cost(usage.input, self.input),
            cost(usage.output, self.output),
            cost(usage.cache_read, self.cache_read),
            cost(usage.cache_write, self.cache_write),
        ]
    }

    /// Dollars for all of them together.
    pub fn total(&self, usage: &Usage) -> f64 {
        self.of(usage).iter().sum()
    }
}

/// What a run's answers cost together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bill {
    /// Dollars, as far as prices are known.
    pub dollars: f64,
    /// Answers whose price is not known.
    pub n_unpriced: u64,
}

impl Bill {
    /// Adds an answer at its model's prices.
    pub fn add(&mut self, usage: &Usage, prices: Option<&Prices>) {
        match prices {
            Some(prices) => self.dollars += prices.total(usage),
            None => self.n_unpriced += u64::from(usage.total() > 0),
        }
    }
}

/// A piece of an answer while it is being given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Words for the reader.
    Text(&'a str),
    /// Words for itself.
    Thinking(&'a str),
}

/// Who was asked, and what came of it (MODEL-52).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The provider's id.
    pub provider: String,
    /// The model's id.
    pub model: String,
    /// The auth profile's id, where one was used.
    pub profile: Option<String>,
    /// What came of it.
    pub outcome: AttemptOutcome,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// It answered.
    Ok,
    /// It was not asked, for this reason: `profile_cooldown`, `profile_disabled`, …
    Skipped(&'static str),
    /// It failed.
    Error(Failure),
}

/// Why a model gave no answer. `message` is for people and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened, and with whom.
    pub message: String,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// When the provider asks to be left alone until, in milliseconds from the failure.
    pub retry_after_ms: Option<u64>,
}

/// Kinds of failure; what is done about it depends on this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The key is refused, missing or out of date: another profile, then another model.
    Auth,
    /// Too many requests: another profile, then another model.
    RateLimit,
    /// No money left: another profile, then another model.
    Billing,
    /// No byte came for too long, or the answer took too long in all.
    Timeout,
    /// The provider failed, is overloaded, or could not be reached; or cut the answer off.
    Unavailable,
    /// The model does not exist there.
    NotFound,
    /// The provider did not understand the request, or we not its answer.
    Format,
    /// The prompt is longer than the model reads: shorten it.
    ContextLength,
    /// The provider refuses to answer this prompt: nobody else is asked.
    Refusal,
    /// The run was stopped.
    Stopped,
    /// No model is configured, or none that may be used.
    NoModel,
}

impl FailureKind {
    /// The reason in attempt traces (MODEL-52).
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Auth => "auth",
            FailureKind::RateLimit => "rate_limit",
            FailureKind::Billing => "billing",
            FailureKind::Timeout => "timeout",
            FailureKind::Unavailable => "unavailable",
            FailureKind::NotFound => "model_not_found",
            FailureKind::Format => "format",
            FailureKind::ContextLength => "context_length",
            FailureKind::Refusal => "refusal",
            FailureKind::Stopped => "stopped",
            FailureKind::NoModel => "no_model",
        }
    }
}
