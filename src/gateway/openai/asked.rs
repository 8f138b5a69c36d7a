//! What both endpoints read of a request in the same way: agent, session, tools, pictures, and how it is to be answered.

use serde_json::{Map, Value};

use super::trouble::Trouble;
use crate::agent::run::EXTRA_SYSTEM_CHARS_MAX;
use crate::config::settings::agents::Agents;
use crate::config::settings::gateway::Endpoint;
use crate::gateway::http::HttpRequest;
use crate::intake::turns::{TURNS_MAX, Turn};
use crate::intake::uploads::{Bounds, Upload, Uploads};
use crate::intake::{SenderTool, Wish, normalise};
use crate::protocol::json::json;
use crate::protocol::session_key::{AGENT_ID_CHARS_MAX, KeyRules, SessionKey, agent_id};
use crate::protocol::version::Protocol;
use crate::runtime::random;

/// Tools that one request may offer.
pub(super) const TOOLS_MAX: usize = 128;
/// Stop sequences of one request.
const STOPS_MAX: usize = 4;

/// What is asked, and of whom.
pub(super) struct Asked {
    /// The model as it was sent.
    pub(super) model: String,
    /// Where it belongs.
    pub(super) session: SessionKey,
    /// What is said.
    pub(super) text: String,
    /// What comes with it.
    pub(super) uploads: Uploads,
    /// How it is to be answered.
    pub(super) wish: Wish,
    /// Which tools must be called.
    pub(super) choice: Choice,
    /// Whether the answer is streamed.
    pub(super) is_streamed: bool,
    /// Whether a stream tells what it cost.
    pub(super) wants_usage: bool,
}

/// What the configuration says, as far as reading a request needs it.
pub(super) struct House<'a> {
    pub(super) agents: &'a Agents,
    pub(super) keys: &'a KeyRules,
    pub(super) endpoint: &'a Endpoint,
    /// The first part of the names of sessions.
    pub(super) prefix: &'static str,
}

/// Which of the caller's tools must be called (`tool_choice`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Choice {
    /// As the model likes.
    #[default]
    Free,
    /// None: it is not told of them.
    None,
    /// At least one.
    Any,
    /// This one.
    One(String),
}

impl Choice {
    /// `tool_choice`, as chat completions (`{"type":"function","function":{"name"}}`) and responses
    /// (`{"type":"function","name"}`) spell it.
    pub(super) fn read(value: Option<&Value>) -> Result<Choice, Trouble> {
        let refuse = |why: &str| Err(Trouble::invalid(format!("Invalid tools/tool_choice: {why}")));
        match value {
            None | Some(Value::Null) => Ok(Choice::Free),
            Some(Value::String(word)) => match word.as_str() {
                "auto" => Ok(Choice::Free),
                "none" => Ok(Choice::None),
                "required" => Ok(Choice::Any),
                _ => refuse("tool_choice must be auto, none, required or a function"),
            },
            Some(Value::Object(choice)) if choice.get("type").is_some_and(|kind| kind == "function") => {
                let of =
                    choice.get("function").and_then(|function| function.get("name")).or_else(|| choice.get("name"));
                match of.and_then(Value::as_str).map(str::trim).filter(|name| !name.is_empty()) {
                    Some(name) => Ok(Choice::One(name.to_owned())),
                    None => refuse("tool_choice.function.name is required"),
                }
            }
            Some(Value::Object(_)) => refuse("only functions can be chosen"),
            Some(_) => refuse("tool_choice must be a string or object"),
        }
    }

    /// The tools that are left.
    pub(super) fn apply(&self, tools: Vec<SenderTool>) -> Result<Vec<SenderTool>, Trouble> {
        let left: Vec<SenderTool> = match self {
            Choice::Free | Choice::Any => tools,
            Choice::None => Vec::new(),
            Choice::One(name) => tools.into_iter().filter(|tool| tool.name == *name).collect(),
        };
        match self {
            Choice::Any if left.is_empty() => {
                Err(Trouble::invalid("Invalid tools/tool_choice: tool_choice=required but no tools were provided"))
            }
            Choice::One(name) if left.is_empty() => {
                Err(Trouble::invalid(format!("Invalid tools/tool_choice: tool_choice requested unknown tool: {name}")))
            }
            _ => Ok(left),
        }
    }

    /// What the model is told of it.
    pub(super) fn instruction(&self) -> Option<String> {
        match self {
            Choice::Free | Choice::None => None,
            Choice::Any => Some("You must call one of the user's own tools before you answer.".to_owned()),
            Choice::One(name) => Some(format!("You must call the tool {name} before you answer.")),
        }
    }

    /// Whether something must be called.
    pub(super) fn is_binding(&self) -> bool {
        matches!(self, Choice::Any | Choice::One(_))
    }

    /// Whether these calls are what was asked for.
    pub(super) fn check<'a>(&self, mut called: impl Iterator<Item = &'a str>) -> Result<(), Trouble> {
        match self {
            Choice::Free | Choice::None => Ok(()),
            Choice::Any => match called.next() {
                Some(_) => Ok(()),
                None => Err(Trouble::failed(502, "tool_choice=required was not satisfied by the agent response")),
            },
            Choice::One(name) => match called.any(|called| called == name) {
                true => Ok(()),
                false => {
                    let why = format!("tool_choice required a {name} tool call, but the agent did not produce one");
                    Err(Trouble::failed(502, why))
                }
            },
        }
    }
}

/// Whether this names an agent: `openclaw`, `openclaw/ID`, `openclaw:ID`, `agent:ID`.
pub(super) fn is_model(name: &str) -> bool {
    let lower = name.trim().to_lowercase();
    lower == "openclaw" || agent_in(&lower).is_some()
}

fn agent_in(lower: &str) -> Option<&str> {
    let id = ["openclaw/", "openclaw:", "agent:"].iter().find_map(|prefix| lower.strip_prefix(prefix))?;
    is_agent_id(id).then_some(id)
}

fn is_agent_id(id: &str) -> bool {
    let mut bytes = id.bytes();
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric()) && bytes.all(is_inner) && id.len() <= AGENT_ID_CHARS_MAX
}

/// The agent that is asked: a header decides over the model's name.
pub(super) fn agent(house: &House<'_>, request: &HttpRequest, model: &str) -> Result<String, Trouble> {
    let lower = model.trim().to_lowercase();
    if !lower.is_empty() && !is_model(&lower) {
        return Err(Trouble::invalid("Invalid `model`. Use `openclaw` or `openclaw/<agentId>`."));
    }
    let unknown = |id: &str| Trouble::invalid(format!("Unknown agent '{id}'."));
    let header = ["x-openclaw-agent-id", "x-openclaw-agent"].iter().find_map(|name| request.header(name));
    let id = match header.map(str::trim).filter(|id| !id.is_empty()) {
        Some(id) if is_agent_id(id) => agent_id(id),
        Some(id) => return Err(unknown(id)),
        None => match agent_in(&lower) {
            None | Some("default") => house.agents.default_id.clone(),
            Some(id) => agent_id(id),
        },
    };
    match house.agents.get(&id) {
        Some(_) => Ok(id),
        None => Err(unknown(&id)),
    }
}

/// The session that is meant: the one a header names, the user's, else a new one.
pub(super) fn session(
    house: &House<'_>,
    request: &HttpRequest,
    agent: &str,
    user: Option<&str>,
) -> Result<SessionKey, Trouble> {
    let rules = KeyRules { default_agent: agent.to_owned(), ..house.keys.clone() };
    let parse = |text: &str| {
        SessionKey::parse(text, &rules).map_err(|error| Trouble::invalid(format!("invalid session key: {error}")))
    };
    if let Some(named) = request.header("x-openclaw-session-key").map(str::trim).filter(|key| !key.is_empty()) {
        let key = parse(named)?;
        // Whoever names one of these would speak in the name of the gateway's own parts.
        let is_reserved = |text: &str| ["subagent:", "cron:", "acp:"].iter().any(|own| text.starts_with(own));
        if is_reserved(&named.to_lowercase()) || is_reserved(key.rest()) || crate::sessions::row::is_subagent(&key) {
            let why = "`x-openclaw-session-key` cannot use reserved internal session namespaces.";
            return Err(Trouble::invalid(why));
        }
        if let Some(other) = key.agent().filter(|agent| house.agents.get(agent).is_none()) {
            return Err(Trouble::invalid(format!("Unknown agent '{other}'.")));
        }
        return Ok(key);
    }
    let prefix = house.prefix;
    match user.map(str::trim).filter(|user| !user.is_empty()) {
        Some(user) => parse(&format!("agent:{agent}:{prefix}-user:{user}")),
        None => parse(&format!("agent:{agent}:{prefix}:{}", random::uuid())),
    }
}

/// A function that the caller offers: `name`, `description`, `parameters`.
pub(super) fn tool(function: &Value) -> Result<SenderTool, Trouble> {
    let refuse = |why: &str| Trouble::invalid(format!("Invalid tools/tool_choice: {why}"));
    let name = function.get("name").and_then(Value::as_str).map(str::trim).unwrap_or_default();
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(is_fine) {
        return Err(refuse("a tool's name has 1 to 64 letters, digits, _ and -"));
    }
    let description = function.get("description").and_then(Value::as_str).unwrap_or_default();
    let parameters = function.get("parameters").filter(|schema| schema.is_object()).cloned();
    Ok(SenderTool {
        name: name.to_owned(),
        description: description.to_owned(),
        parameters: parameters.unwrap_or_else(|| json!({ "type": "object", "properties": {} })),
    })
}

/// Checks what is true of all tools together.
pub(super) fn tools(tools: Vec<SenderTool>) -> Result<Vec<SenderTool>, Trouble> {
    if tools.len() > TOOLS_MAX {
        return Err(Trouble::invalid(format!("Invalid tools/tool_choice: more than {TOOLS_MAX} tools")));
    }
    for (idx, tool) in tools.iter().enumerate() {
        if tools[..idx].iter().any(|other| other.name == tool.name) {
            return Err(Trouble::invalid(format!("Invalid tools/tool_choice: two tools are named {}", tool.name)));
        }
    }
    Ok(tools)
}

/// Fields of the request that go on to the model, each looked at first.
pub(super) fn params(body: &Value, tokens_words: &[&str]) -> Result<Map<String, Value>, Trouble> {
    let mut params = Map::new();
    let given = |name: &str| body.get(name).filter(|value| !value.is_null());
    for (name, least, most) in [
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("frequency_penalty", -2.0, 2.0),
        ("presence_penalty", -2.0, 2.0),
    ] {
        let Some(value) = given(name) else { continue };
        if !value.as_f64().is_some_and(|number| (least..=most).contains(&number)) {
            return Err(Trouble::invalid(format!("`{name}` must be a number from {least} to {most}.")));
        }
        params.insert(name.to_owned(), value.clone());
    }
    if let Some(seed) = given("seed") {
        if seed.as_i64().is_none() {
            return Err(Trouble::invalid("`seed` must be an integer."));
        }
        params.insert("seed".to_owned(), seed.clone());
    }
    for word in tokens_words {
        let Some(tokens) = given(word) else { continue };
        match tokens.as_u64().filter(|tokens| *tokens > 0) {
            Some(tokens) => {
                params.entry("max_completion_tokens").or_insert_with(|| json!(tokens));
            }
            None => return Err(Trouble::invalid(format!("{word} must be a positive integer"))),
        }
    }
    if let Some(stop) = given("stop") {
        let stops: Option<Vec<&str>> = match stop {
            Value::String(text) => Some(vec![text]),
            Value::Array(texts) => texts.iter().map(Value::as_str).collect(),
            _ => None,
        };
        match stops {
            Some(stops) if stops.len() <= STOPS_MAX && stops.iter().all(|text| !text.is_empty()) => {
                if !stops.is_empty() {
                    params.insert("stop".to_owned(), json!(stops));
                }
            }
            _ => return Err(Trouble::invalid(format!("Invalid stop: at most {STOPS_MAX} texts, none of them empty"))),
        }
    }
    Ok(params)
}

/// A picture in a request: only one whose bytes are in it.
pub(super) fn image(url: &str) -> Result<Upload, Trouble> {
    let Some(data) = url.trim().strip_prefix("data:") else {
        let why = "this build fetches no pictures: send the bytes, as data:image/png;base64,…";
        return Err(Trouble::invalid(format!("Invalid image_url content in `messages`: {why}")));
    };
    let Some((_, base64)) = data.split_once(',').filter(|(about, _)| about.to_lowercase().ends_with(";base64")) else {
        return Err(bad_image("a data URL must be base64 encoded"));
    };
    Ok(image_of(base64))
}

/// A picture by its bytes in base64. Whether it is one shows when it is taken apart.
pub(super) fn image_of(base64: &str) -> Upload {
    Upload { name: None, base64: base64.trim().to_owned() }
}

fn bad_image(why: &str) -> Trouble {
    Trouble::invalid(format!("Invalid image content: {why}"))
}

/// Checks the pictures of a request together.
pub(super) fn images(house: &House<'_>, images: Vec<Upload>, takes_files: bool) -> Result<Uploads, Trouble> {
    let (count_max, bytes_max) = (house.endpoint.images_max, house.endpoint.images_bytes_max);
    if images.len() > count_max {
        return Err(bad_image(&format!("{} pictures, at most {count_max} are accepted", images.len())));
    }
    let bytes: usize = images.iter().map(|image| image.base64.len() / 4 * 3).sum();
    if bytes > bytes_max {
        return Err(bad_image(&format!("{bytes} bytes of pictures, at most {bytes_max} are accepted")));
    }
    let bounds = Bounds { takes_files, ..Bounds::of(Protocol::V3) };
    Uploads::new(images, bounds).map_err(|error| Trouble::of_refusal(&error))
}

/// A conversation as a client keeps it, taken apart.
#[derive(Default)]
pub(super) struct Talk {
    /// Instructions, in order.
    pub(super) system: Vec<String>,
    /// What was said, in order.
    pub(super) turns: Vec<Turn>,
    /// Pictures of the newest of a person's turns.
    pub(super) images: Vec<Upload>,
}

impl Talk {
    /// What is said now, and what was before. The newest turn of a person or a tool is answered; what a model is said to
    /// have said after it does not count.
    pub(super) fn into_wish(mut self, choice: &Choice) -> Result<(String, Wish), Trouble> {
        if self.turns.len() > TURNS_MAX {
            let count = self.turns.len();
            return Err(Trouble::invalid(format!("{count} messages, at most {TURNS_MAX} are accepted")));
        }
        while matches!(self.turns.last(), Some(Turn::Assistant { .. })) {
            self.turns.pop();
        }
        let text = match self.turns.last() {
            Some(Turn::User { .. }) => self.turns.pop().map(|turn| turn.text().to_owned()).unwrap_or_default(),
            _ => String::new(),
        };
        // What tools answered since a model last spoke is new even to a session that knows the rest.
        let newest = self.turns.iter().rposition(|turn| matches!(turn, Turn::Assistant { .. })).map_or(0, |at| at + 1);
        let (results, between): (Vec<Turn>, Vec<Turn>) =
            self.turns.split_off(newest).into_iter().partition(|turn| matches!(turn, Turn::Tool { .. }));
        let mut earlier = self.turns;
        earlier.extend(between);
        let system = self.system.into_iter().chain(choice.instruction()).collect::<Vec<_>>().join("\n\n");
        let chars = system.chars().count();
        if chars > EXTRA_SYSTEM_CHARS_MAX {
            let why = format!("system messages have {chars} characters, at most {EXTRA_SYSTEM_CHARS_MAX} are accepted");
            return Err(Trouble::invalid(why));
        }
        let text = normal(&text)?;
        let normal_turn = |turn: Turn| -> Result<Turn, Trouble> {
            Ok(match turn {
                Turn::User { text } => Turn::User { text: normal(&text)? },
                Turn::Assistant { text, calls } => Turn::Assistant { text: normal(&text)?, calls },
                Turn::Tool { call_id, name, text } => Turn::Tool { call_id, name, text: normal(&text)? },
            })
        };
        let wish = Wish {
            extra_system: (!system.is_empty()).then_some(system),
            earlier: earlier.into_iter().map(normal_turn).collect::<Result<_, _>>()?,
            results: results.into_iter().map(normal_turn).collect::<Result<_, _>>()?,
            ..Wish::default()
        };
        Ok((text, wish))
    }
}

fn normal(text: &str) -> Result<String, Trouble> {
    normalise::text(text).map_err(|error| Trouble::invalid(error.message))
}

/// A field that holds a text, when it is there.
pub(super) fn text_of<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// A tool call's arguments, which come as a text that holds JSON; what holds none is kept for the reader.
pub(super) fn arguments(value: Option<&Value>) -> Value {
    match value {
        Some(Value::String(text)) => match serde_json::from_str::<Value>(text) {
            Ok(object @ Value::Object(_)) => object,
            _ if text.trim().is_empty() => json!({}),
            _ => json!({ "_raw": text }),
        },
        Some(object @ Value::Object(_)) => object.clone(),
        _ => json!({}),
    }
}
