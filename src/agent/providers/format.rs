//! What the wire formats have in common: how one is chosen, what it is given, and how an answer is gathered.

use serde_json::{Map, Value};

use super::table::Quirks;
use super::trouble;
use super::{anthropic, google, ollama, openai_chat, openai_responses};
use crate::agent::talk::{Answer, Failure, FailureKind, Piece, Prompt, Said, StopReason, Thinking, ToolCall, Usage};

/// Most bytes of words, thoughts and arguments taken from one answer; a longer one is a failure.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most tool calls taken from one answer; a provider that sends more is not speaking sense.
pub const CALLS_MAX: usize = 256;
/// Where a model's thoughts or its wish for more is kept that has no JSON object for arguments.
pub const RAW_ARGUMENTS: &str = "_raw";

/// The ways to speak to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// OpenAI's chat completions, and everything that calls itself compatible.
    OpenAiCompletions,
    /// OpenAI's Responses.
    OpenAiResponses,
    /// Anthropic's Messages.
    AnthropicMessages,
    /// Google's `generateContent`.
    GoogleGenerativeAi,
    /// Ollama's own.
    Ollama,
}

impl Api {
    /// Every one.
    pub const ALL: [Api; 5] =
        [Api::OpenAiCompletions, Api::OpenAiResponses, Api::AnthropicMessages, Api::GoogleGenerativeAi, Api::Ollama];

    /// The word in documents and transcripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Api::OpenAiCompletions => "openai-completions",
            Api::OpenAiResponses => "openai-responses",
            Api::AnthropicMessages => "anthropic-messages",
            Api::GoogleGenerativeAi => "google-generative-ai",
            Api::Ollama => "ollama",
        }
    }

    /// The API of a word.
    pub fn of(word: &str) -> Option<Api> {
        Api::ALL.into_iter().find(|api| api.as_str() == word)
    }
}

/// What a format is told beside the prompt.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The provider's id.
    pub provider: &'a str,
    /// The model's id, as the provider knows it.
    pub model: &'a str,
    /// What the API leaves out.
    pub quirks: Quirks,
    /// Whether the model thinks.
    pub reasoning: bool,
    /// Whether it sees pictures.
    pub sees_images: bool,
    /// How much it reads in tokens, where known.
    pub context_window: Option<u64>,
    /// Its longest answer in tokens, where known.
    pub max_tokens: Option<u64>,
    /// Further fields of the request, in the words of OpenAI's chat completions.
    pub params: &'a Map<String, Value>,
}

impl Target<'_> {
    /// Marks what only this model understands (signatures of thoughts), so that no other is sent it.
    pub fn sign(&self, signature: &str) -> String {
        format!("{}/{}|{signature}", self.provider, self.model)
    }

    /// What this model signed; `None` where another did.
    pub fn signed<'s>(&self, signature: &'s Option<String>) -> Option<&'s str> {
        let rest = signature.as_deref()?.strip_prefix(self.provider)?.strip_prefix('/')?;
        rest.strip_prefix(self.model)?.strip_prefix('|')
    }
}

#[cfg(test)]
impl Target<'_> {
    /// Model `m` of provider `p`, which thinks and sees.
    pub(super) fn for_tests() -> Target<'static> {
        static NO_PARAMS: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        Target {
            provider: "p",
            model: "m",
            quirks: super::table::COMPATIBLE,
            reasoning: true,
            sees_images: true,
            context_window: None,
            max_tokens: None,
            params: &NO_PARAMS,
        }
    }
}

/// A request without what the way there adds.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// Added to the provider's address.
    pub path: String,
    /// Headers beside the usual ones and the provider's.
    pub headers: Vec<(&'static str, String)>,
    /// The body; an object.
    pub body: Map<String, Value>,
}

/// Makes the request for a prompt.
pub fn request(api: Api, target: &Target<'_>, prompt: &Prompt) -> Request {
    match api {
        Api::OpenAiCompletions => openai_chat::request(target, prompt),
        Api::OpenAiResponses => openai_responses::request(target, prompt),
        Api::AnthropicMessages => anthropic::request(target, prompt),
        Api::GoogleGenerativeAi => google::request(target, prompt),
        Api::Ollama => ollama::request(target, prompt),
    }
}

/// Whether more is to be read of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    More,
    /// It is whole.
    Done,
}

/// Reads an answer, event by event.
#[derive(Debug)]
pub enum Reader {
    /// OpenAI's chat completions.
    Chat(openai_chat::Reader),
    /// OpenAI's Responses.
    Responses(openai_responses::Reader),
    /// Anthropic's Messages.
    Anthropic(anthropic::Reader),
    /// Google's `generateContent`.
    Google(google::Reader),
    /// Ollama's own.
    Ollama(ollama::Reader),
}

impl Reader {
    /// For the answer of one request.
    pub fn new(api: Api, target: &Target<'_>) -> Reader {
        match api {
            Api::OpenAiCompletions => Reader::Chat(openai_chat::Reader::new(target)),
            Api::OpenAiResponses => Reader::Responses(openai_responses::Reader::new(target)),
            Api::AnthropicMessages => Reader::Anthropic(anthropic::Reader::new(target)),
            Api::GoogleGenerativeAi => Reader::Google(google::Reader::new(target)),
            Api::Ollama => Reader::Ollama(ollama::Reader::default()),
        }
    }

    /// Whether each line of a stream is an event, and not each server-sent event.
    pub fn takes_lines(&self) -> bool {
        matches!(self, Reader::Ollama(_))
    }

    /// Takes an event of a stream.
    ///
    /// # Errors
    /// What the provider says went wrong; an event that makes no sense.
    pub fn event(&mut self, name: &str, data: &str, tell: &mut dyn FnMut(Piece<'_>)) -> Result<Flow, Failure> {
        match self {
            Reader::Chat(reader) => reader.event(name, data, tell),
            Reader::Responses(reader) => reader.event(name, data, tell),
            Reader::Anthropic(reader) => reader.event(name, data, tell),
            Reader::Google(reader) => reader.event(name, data, tell),
            Reader::Ollama(reader) => reader.event(name, data, tell),
        }
    }

    /// Takes an answer that came whole, because the server does not stream.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn whole(&mut self, body: &Value, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        match self {
            Reader::Chat(reader) => reader.whole(body, tell),
            Reader::Responses(reader) => reader.whole(body, tell),
            Reader::Anthropic(reader) => reader.whole(body, tell),
            Reader::Google(reader) => reader.whole(body, tell),
            Reader::Ollama(reader) => reader.whole(body, tell),
        }
    }

    /// The answer, when nothing more comes.
    ///
    /// # Errors
    /// `Unavailable` when the answer was cut off.
    pub fn end(self) -> Result<Answer, Failure> {
        match self {
            Reader::Chat(reader) => reader.end(),
            Reader::Responses(reader) => reader.end(),
            Reader::Anthropic(reader) => reader.end(),
            Reader::Google(reader) => reader.end(),
            Reader::Ollama(reader) => reader.end(),
        }
    }
}

/// Gathers an answer from its pieces, in order.
#[derive(Debug, Default)]
pub struct Gather {
    said: Vec<Said>,
    /// Calls whose arguments are still text: place in `said`, what names the call on the wire, the text.
    open: Vec<OpenCall>,
    bytes: usize,
    /// Tokens so far.
    pub usage: Usage,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
}

#[derive(Debug)]
struct OpenCall {
    at: usize,
    wire: String,
    arguments: String,
}

impl Gather {
    /// Counts what is taken from an answer.
    ///
    /// # Errors
    /// `Format` when it is more than [`ANSWER_BYTES_MAX`].
    pub fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        self.bytes += bytes;
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(trouble::failure(FailureKind::Format, "the answer is longer than any model's"));
        }
        Ok(())
    }

    /// More words for the reader.
    ///
    /// # Errors
    /// `Format` when there are too many.
    pub fn text(&mut self, text: &str, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        self.grow(text.len())?;
        match self.said.last_mut() {
            Some(Said::Text(last)) => last.push_str(text),
            _ => self.said.push(Said::Text(text.to_owned())),
        }
        tell(Piece::Text(text));
        Ok(())
    }

    /// More words of the model for itself.
    ///
    /// # Errors
    /// `Format` when there are too many.
    pub fn thinking(&mut self, more: &str, tell: &mut dyn FnMut(Piece<'_>)) -> Result<(), Failure> {
        self.grow(more.len())?;
        match self.said.last_mut() {
            Some(Said::Thinking { text, signature: None }) => text.push_str(more),
            _ if more.is_empty() => return Ok(()),
            _ => self.said.push(Said::Thinking { text: more.to_owned(), signature: None }),
        }
        if !more.is_empty() {
            tell(Piece::Thinking(more));
        }
        Ok(())
    }

    /// What the provider wants back with the thoughts that were said last; a thought without words where none were.
    ///
    /// # Errors
    /// `Format` when it is too long.
    pub fn signature(&mut self, signed: String) -> Result<(), Failure> {
        self.grow(signed.len())?;
        match self.said.last_mut() {
            Some(Said::Thinking { signature: signature @ None, .. }) => *signature = Some(signed),
            _ => self.said.push(Said::Thinking { text: String::new(), signature: Some(signed) }),
        }
        Ok(())
    }

    /// A call begins, named `wire` in what follows. An empty id is filled in at the end.
    ///
    /// # Errors
    /// `Format` when there are too many.
    pub fn call(&mut self, wire: &str, id: &str, name: &str) -> Result<(), Failure> {
        self.grow(id.len() + name.len())?;
        if self.open.len() >= CALLS_MAX {
            return Err(trouble::failure(FailureKind::Format, "the answer calls more tools than any model does"));
        }
        self.open.push(OpenCall { at: self.said.len(), wire: wire.to_owned(), arguments: String::new() });
        let call = ToolCall { id: id.to_owned(), name: name.to_owned(), arguments: Value::Null };
        self.said.push(Said::Call(call));
        Ok(())
    }

    /// Whether a call by this name of the wire has begun.
    pub fn has_call(&self, wire: &str) -> bool {
        self.open.iter().any(|open| open.wire == wire)
    }

    /// Whether any call has begun.
    pub fn has_calls(&self) -> bool {
        !self.open.is_empty()
    }

    /// More of a call's name or id, from servers that send them in pieces or late.
    pub fn name_call(&mut self, wire: &str, id: &str, name: &str) {
        let Some(open) = self.open.iter().rev().find(|open| open.wire == wire) else { return };
        let Some(Said::Call(call)) = self.said.get_mut(open.at) else { return };
        if call.id.is_empty() {
            call.id.push_str(id);
        }
        if call.name.is_empty() {
            call.name.push_str(name);
        }
    }

    /// More of a call's arguments.
    ///
    /// # Errors
    /// `Format` when they are too long, or no such call has begun.
    pub fn arguments(&mut self, wire: &str, more: &str) -> Result<(), Failure> {
        self.grow(more.len())?;
        match self.open.iter_mut().rev().find(|open| open.wire == wire) {
            Some(open) => open.arguments.push_str(more),
            None => return Err(trouble::failure(FailureKind::Format, "arguments for a tool call that never began")),
        }
        Ok(())
    }

    /// A call's arguments, whole; they take the place of what came in pieces.
    pub fn set_arguments(&mut self, wire: &str, whole: &str) {
        if let Some(open) = self.open.iter_mut().rev().find(|open| open.wire == wire) {
            open.arguments.clear();
            open.arguments.push_str(whole);
        }
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// The answer.
    pub fn end(mut self, stop: StopReason) -> Answer {
        for open in self.open {
            let Some(Said::Call(call)) = self.said.get_mut(open.at) else { continue };
            call.arguments = read_arguments(&open.arguments);
            if call.id.is_empty() {
                call.id = format!("call_{}", crate::runtime::random::hex(&crate::runtime::random::bytes::<12>()));
            }
        }
        // A call without a name is none: no tool could answer it, and no provider would take it back.
        self.said.retain(|said| !matches!(said, Said::Call(call) if call.name.is_empty()));
        let has_calls = self.said.iter().any(|said| matches!(said, Said::Call(_)));
        let stop = match stop {
            StopReason::ToolUse if !has_calls => StopReason::Stop,
            StopReason::Stop if has_calls => StopReason::ToolUse,
            other => other,
        };
        Answer { said: self.said, stop, usage: self.usage, response_id: self.response_id }
    }
}

/// Arguments as an object; what is none is kept for the tool to refuse.
pub fn read_arguments(text: &str) -> Value {
    if text.trim().is_empty() {
        return Value::Object(Map::new());
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) => Value::Object(object),
        _ => Value::Object(Map::from_iter([(RAW_ARGUMENTS.to_owned(), Value::String(text.to_owned()))])),
    }
}

/// An id of a tool call that every provider takes, the same for the same call, wherever it stands.
pub fn plain_id(id: &str) -> String {
    /// The shortest limit of those that have one; ids made by providers are shorter.
    const ID_CHARS_MAX: usize = 40;
    // Responses' ids are two, of the call and of the item; the first names the call.
    let id = id.split('|').next().unwrap_or(id);
    let plain: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect();
    if plain.len() <= ID_CHARS_MAX {
        return plain;
    }
    // Two long ids may begin alike.
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    crate::runtime::random::hex(digest.as_ref())[..ID_CHARS_MAX].to_owned()
}

/// How much to think, in OpenAI's words, as far as a model knows them; `None`: nothing is said of it.
pub fn effort(model: &str, thinking: Thinking) -> Option<&'static str> {
    let name = model.rsplit('/').next().unwrap_or(model);
    let first_of_its_kind = name.strip_prefix("gpt-5").is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    let version = name.strip_prefix("gpt-").and_then(|rest| rest.split('-').next()?.parse::<f32>().ok());
    Some(match thinking {
        Thinking::Off => return None,
        Thinking::Minimal if first_of_its_kind => "minimal",
        Thinking::Minimal | Thinking::Low => "low",
        Thinking::Medium => "medium",
        Thinking::Xhigh if version.is_some_and(|version| version >= 5.2) => "xhigh",
        Thinking::High | Thinking::Xhigh => "high",
    })
}

/// Words of parts, each on its own line.
pub fn joined_text(parts: &[crate::agent::talk::Part]) -> String {
    let texts: Vec<&str> = parts
        .iter()
        .filter_map(|part| match part {
            crate::agent::talk::Part::Text(text) => Some(text.as_str()),
            crate::agent::talk::Part::Image { .. } => None,
        })
        .collect();
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_in_order_and_joins_what_follows_itself() {
        let mut gather = Gather::default();
        let mut told = String::new();
        let mut tell = |piece: Piece<'_>| match piece {
            Piece::Text(text) => told.push_str(text),
            Piece::Thinking(text) => told.push_str(&text.to_uppercase()),
        };
        gather.thinking("hm", &mut tell).unwrap();
        gather.thinking("m", &mut tell).unwrap();
        gather.signature("s".to_owned()).unwrap();
        gather.text("a", &mut tell).unwrap();
        gather.text("b", &mut tell).unwrap();
        gather.call("0", "id", "read").unwrap();
        gather.call("1", "", "list").unwrap();
        gather.arguments("0", "{\"p\":").unwrap();
        gather.arguments("1", "[1]").unwrap();
        gather.arguments("0", "1}").unwrap();
        assert_eq!(gather.arguments("2", "x").unwrap_err().kind, FailureKind::Format);
        let answer = gather.end(StopReason::Stop);
        assert_eq!(told, "HMMab");
        assert_eq!(answer.said[0], Said::Thinking { text: "hmm".into(), signature: Some("s".into()) });
        assert_eq!(answer.said[1], Said::Text("ab".into()));
        let calls: Vec<_> = answer.calls().collect();
        assert_eq!(calls[0].arguments, serde_json::json!({ "p": 1 }));
        assert_eq!(calls[1].arguments, serde_json::json!({ "_raw": "[1]" }));
        assert!(!calls[1].id.is_empty());
        assert_eq!(answer.stop, StopReason::ToolUse, "it wants tools called, whatever it says");
    }

    #[test]
    fn a_model_is_asked_for_no_effort_it_does_not_know() {
        let cases = [
            ("gpt-5", Thinking::Minimal, Some("minimal")),
            ("openai/gpt-5-mini", Thinking::Minimal, Some("minimal")),
            ("gpt-5.4", Thinking::Minimal, Some("low")),
            ("gpt-5.4-mini", Thinking::Xhigh, Some("xhigh")),
            ("gpt-6-sol", Thinking::Xhigh, Some("xhigh")),
            ("gpt-5.1", Thinking::Xhigh, Some("high")),
            ("openai/gpt-oss-120b", Thinking::Xhigh, Some("high")),
            ("o3", Thinking::Medium, Some("medium")),
            ("gpt-5", Thinking::Off, None),
        ];
        for (model, thinking, expected) in cases {
            assert_eq!(effort(model, thinking), expected, "{model} {thinking:?}");
        }
    }

    #[test]
    fn ids_of_calls_are_plain_and_stay_apart() {
        assert_eq!(plain_id("call_1|fc_2"), "call_1");
        assert_eq!(plain_id("functions.read:0"), "functions_read_0");
        let long = |end: &str| plain_id(&format!("{}{end}", "x".repeat(60)));
        assert_eq!((long("a").len(), long("a") == long("b")), (40, false));
    }

    #[test]
    fn an_answer_is_bounded() {
        let mut gather = Gather::default();
        let piece = "x".repeat(ANSWER_BYTES_MAX / 4);
        for _ in 0..4 {
            gather.text(&piece, &mut |_| {}).unwrap();
        }
        assert_eq!(gather.text("x", &mut |_| {}).unwrap_err().kind, FailureKind::Format);
        let mut gather = Gather::default();
        for n in 0..CALLS_MAX {
            gather.call(&n.to_string(), "i", "n").unwrap();
        }
        assert_eq!(gather.call("more", "i", "n").unwrap_err().kind, FailureKind::Format);
    }

    #[test]
    fn what_a_model_signed_goes_back_to_it_alone() {
        let target = |provider, model| Target { provider, model, ..Target::for_tests() };
        let signed = Some(target("a", "m").sign("s|1"));
        assert_eq!(target("a", "m").signed(&signed), Some("s|1"));
        for (provider, model) in [("a", "n"), ("b", "m"), ("a/m", "")] {
            assert_eq!(target(provider, model).signed(&signed), None);
        }
        assert_eq!(target("a", "m").signed(&Some("foreign".to_owned())), None);
        assert_eq!(target("a", "m").signed(&None), None);
    }
}
