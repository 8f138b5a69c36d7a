//! What a run stands on: its session, agent, model and limits, looked up once when it begins.

use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::Value;

use super::context;
use super::conversation::{BYTES_PER_TOKEN, text_tokens};
use super::history;
use super::run::{EXTRA_SYSTEM_CHARS_MAX, RunInput};
use super::talk::{Thinking, ToolSpec};
use crate::config::load::Loaded;
use crate::protocol::session_key::DEFAULT_AGENT;
use crate::sessions::row::{Chosen, Context, is_subagent};
use crate::sessions::thinking;
use crate::store::sessions::SessionRow;
use crate::tools::TOOLS;
use crate::tools::session_status::Facts;

/// Tokens a model is taken to read when nobody says: what the smallest of those that can call tools read today.
pub const CONTEXT_TOKENS_DEFAULT: u64 = 128_000;
/// Tokens kept free for the answer, unless that is more than a quarter of what the model reads.
pub const OUTPUT_TOKENS_RESERVED: u64 = 16_384;

/// What a run stands on.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The session as it was when the run began.
    pub session: SessionRow,
    /// The agent's id.
    pub agent: String,
    /// Its directory.
    pub workspace: PathBuf,
    /// The provider that is asked first; empty: none is configured.
    pub provider: String,
    /// The model that is asked first.
    pub model: String,
    /// How much it is to think.
    pub thinking: Thinking,
    /// Tokens that everything put before the model may cost.
    pub input_tokens_max: u64,
    /// Longest run.
    pub timeout: Duration,
    /// Tool calls at most.
    pub tool_steps_max: u32,
    /// The user's zone.
    pub zone: TimeZone,
    /// Whether the model is told when something was said.
    pub has_timestamps: bool,
    /// What it may call.
    pub tools: Vec<ToolSpec>,
    /// Facts for `session_status`.
    pub facts: Facts,
    /// The system prompt.
    pub system: String,
}

impl Setting {
    /// Looks everything up.
    pub fn of(input: &RunInput, session: SessionRow, now_ms: i64) -> Setting {
        let settings = &input.config.settings;
        let runs = &settings.agents.defaults.runs;
        let agent = input.session.agent().unwrap_or(DEFAULT_AGENT).to_owned();
        let of_agent = settings.agents.get(&agent).or_else(|| settings.agents.list.first());
        let (provider, model, known) = model(input, &session);
        let window = [known.window, runs.context_tokens].into_iter().flatten().min().unwrap_or(CONTEXT_TOKENS_DEFAULT);
        let thinking = input.ask.thinking.unwrap_or_else(|| thinking_of(&input.config, &session, &known));
        let zone = context::zone(runs);
        let own_tools = TOOLS.iter().map(|tool| ToolSpec {
            name: tool.name.to_owned(),
            description: tool.description.to_owned(),
            parameters: (tool.parameters)(),
        });
        // A caller's tool wins over ours of the same name: it is the caller who answers then.
        let is_free = |tool: &ToolSpec| input.ask.client_tools.iter().all(|theirs| theirs.name != tool.name);
        let tools: Vec<ToolSpec> = own_tools.filter(is_free).chain(input.ask.client_tools.iter().cloned()).collect();
        let facts = facts(&session, &agent, &provider, &model, window, thinking, now_ms, &zone);
        let extra = input.ask.extra_system.as_deref().map(|extra| head(extra, EXTRA_SYSTEM_CHARS_MAX));
        let lines: Vec<(&str, &str)> = TOOLS
            .iter()
            .filter(|tool| tools.iter().any(|t| t.name == tool.name))
            .map(|t| (t.name, t.summary))
            .collect();
        let workspace = of_agent.map_or_else(|| PathBuf::from("."), |agent| agent.workspace.clone());
        let system = context::system_prompt(&context::Scene {
            agent: &agent,
            name: of_agent.and_then(|agent| agent.identity.name.as_deref().or(agent.name.as_deref())),
            workspace: &workspace,
            runs,
            session_key: input.session.as_str(),
            kind: &session.kind,
            is_subagent: is_subagent(&input.session),
            channel: session.channel.as_deref(),
            model: &whole_name(&provider, &model),
            thinking: word(thinking),
            tools: &lines,
            heartbeat: settings.agents.defaults.heartbeat.prompt.as_deref(),
            extra,
            now_ms,
            zone: &zone,
        });
        Setting {
            agent,
            workspace,
            provider,
            model,
            thinking,
            input_tokens_max: window - OUTPUT_TOKENS_RESERVED.min(window / 4),
            timeout: input.ask.timeout.unwrap_or(runs.timeout),
            tool_steps_max: u32::try_from(runs.tool_steps_max).unwrap_or(u32::MAX),
            has_timestamps: runs.has_timestamps,
            zone,
            tools,
            facts,
            system,
            session,
        }
    }

    /// Tokens that are left for what was said.
    pub fn conversation_tokens_max(&self) -> u64 {
        let of_tool = |tool: &ToolSpec| {
            let bytes = tool.name.len() + tool.description.len() + tool.parameters.to_string().len();
            (bytes as u64).div_ceil(BYTES_PER_TOKEN)
        };
        let tools: u64 = self.tools.iter().map(of_tool).sum();
        self.input_tokens_max.saturating_sub(text_tokens(&self.system) + tools)
    }
}

/// The first `chars_max` characters.
fn head(text: &str, chars_max: usize) -> &str {
    text.char_indices().nth(chars_max).map_or(text, |(end, _)| &text[..end])
}

/// `provider/model`, or the model alone.
pub fn whole_name(provider: &str, model: &str) -> String {
    if provider.is_empty() { model.to_owned() } else { format!("{provider}/{model}") }
}

/// What is known of a model.
struct Known {
    window: Option<u64>,
    levels: &'static [&'static str],
    /// `None`: nobody says.
    is_reasoning: Option<bool>,
}

/// The model that is asked first: the caller's, else the session's, else the agent's.
fn model(input: &RunInput, session: &SessionRow) -> (String, String, Known) {
    let context = Context::of(&input.config);
    let asked = input.ask.model.as_deref();
    let chosen = match asked.map(|name| name.split_once('/').map_or((None, name), |(p, m)| (Some(p), m))) {
        Some((provider, model)) => context.chosen(provider, Some(model)),
        None => context.model_of(session),
    };
    let known = known(&chosen);
    (chosen.provider.unwrap_or_default().to_owned(), chosen.model.unwrap_or_default().to_owned(), known)
}

fn known(chosen: &Chosen<'_>) -> Known {
    Known {
        window: chosen.known.and_then(|model| model.context_window),
        levels: chosen.thinking_levels(),
        is_reasoning: chosen.known.map(|model| model.reasoning),
    }
}

/// How much to think: as the session says, else as configured, else in the middle where the model is made for it.
fn thinking_of(config: &Loaded, session: &SessionRow, known: &Known) -> Thinking {
    let of_session = session.entry.get("thinkingLevel").and_then(Value::as_str);
    let configured = config.settings.agents.defaults.thinking.as_deref();
    let wanted = of_session.or(configured).unwrap_or(if known.is_reasoning == Some(true) { "medium" } else { "off" });
    let wanted = match wanted {
        // Words of the configuration that no session has.
        "adaptive" => "medium",
        "max" => "xhigh",
        other => thinking::parse(other).unwrap_or("off"),
    };
    // No more than the model can.
    let rank = |level: &str| thinking::LEVELS.iter().position(|known| *known == level).unwrap_or(0);
    let highest = known.levels.last().copied().unwrap_or("off");
    level(if rank(wanted) > rank(highest) { highest } else { wanted })
}

const WORDS: [(Thinking, &str); 6] = [
    (Thinking::Off, "off"),
    (Thinking::Minimal, "minimal"),
    (Thinking::Low, "low"),
    (Thinking::Medium, "medium"),
    (Thinking::High, "high"),
    (Thinking::Xhigh, "xhigh"),
];

/// The level of this word; off for a word that is none.
pub fn level(word: &str) -> Thinking {
    WORDS.iter().find(|(_, known)| *known == word).map_or(Thinking::Off, |(level, _)| *level)
}

/// Its word.
pub fn word(level: Thinking) -> &'static str {
    WORDS.iter().find(|(known, _)| *known == level).map_or("off", |(_, word)| word)
}

#[expect(clippy::too_many_arguments, reason = "each is looked up elsewhere; a struct would be Facts itself")]
fn facts(
    session: &SessionRow,
    agent: &str,
    provider: &str,
    model: &str,
    window: u64,
    thinking: Thinking,
    now_ms: i64,
    zone: &TimeZone,
) -> Facts {
    let text =
        |name: &str, otherwise: &str| session.entry.get(name).and_then(Value::as_str).unwrap_or(otherwise).to_owned();
    Facts {
        key: session.key.clone(),
        session_id: session.session_id.clone(),
        agent: agent.to_owned(),
        kind: session.kind.clone(),
        channel: session.channel.clone(),
        time: history::stamp(now_ms, zone).unwrap_or_default(),
        model: (!model.is_empty()).then(|| whole_name(provider, model)),
        is_model_chosen: session.entry.contains_key("modelOverride"),
        thinking: word(thinking).to_owned(),
        verbose: text("verboseLevel", "off"),
        reasoning: text("reasoningLevel", "off"),
        queue: session.entry.get("queueMode").and_then(Value::as_str).map(str::to_owned),
        messages: session.message_count,
        compactions: session.entry.get("compactionCount").and_then(Value::as_u64).unwrap_or(0),
        tokens: (session.tokens.input, session.tokens.output),
        context_tokens: session.tokens.total,
        context_window: Some(window),
    }
}
