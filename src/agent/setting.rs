//! What a run stands on: its session, agent, model and limits, looked up once when it begins.

use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::Value;

use super::context::{self, FileShare, System};
use super::conversation::{BYTES_PER_TOKEN, text_tokens};
use super::history;
use super::models::{CONTEXT_WINDOW_DEFAULT, ModelFacts, ModelNameError, ModelRef, Models, Pinning};
use super::providers::table;
use super::run::{Ask, EXTRA_SYSTEM_CHARS_MAX, RunInput, Speaker};
use super::talk::{Thinking, ToolSpec};
use crate::config::load::Loaded;
use crate::config::settings::tools::LoopDetection;
use crate::protocol::session_key::{DEFAULT_AGENT, SessionKey};
use crate::runtime::stop::Stop;
use crate::sessions::row::{Context, is_subagent};
use crate::sessions::thinking;
use crate::sessions::usage::UNPRICED;
use crate::store::sessions::SessionRow;
use crate::tools::mcp::Offered;
use crate::tools::policy::{Policy, Role, Sender, Subject};
use crate::tools::session_status::Facts;
use crate::tools::{TOOLS, Tool};

/// Tokens kept free for the answer, unless that is more than a quarter of what the model reads.
pub const OUTPUT_TOKENS_RESERVED: u64 = 16_384;

/// Field of a session's `entry`: the tools that the run had which started it, where its conversation restricts them.
pub const INHERITED_TOOLS: &str = "inheritedToolAllow";

/// What a run stands on.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The session as it was when the run began.
    pub session: SessionRow,
    /// The agent's id.
    pub agent: String,
    /// Its directory.
    pub workspace: PathBuf,
    /// Who is asked, in order; empty: nobody can be.
    pub chain: Vec<ModelRef>,
    /// The only profile of the first one's provider that may be used.
    pub profile: Option<String>,
    /// How much it is to think.
    pub thinking: Thinking,
    /// Tokens that everything put before the model may cost.
    pub input_tokens_max: u64,
    /// Longest run.
    pub timeout: Duration,
    /// Tool calls at most.
    pub tool_steps_max: u32,
    /// When it is taken to go in circles.
    pub loops: LoopDetection,
    /// The user's zone.
    pub zone: TimeZone,
    /// Whether the model is told when something was said.
    pub has_timestamps: bool,
    /// Whether any of those who are asked can see pictures.
    pub sees_pictures: bool,
    /// What it may call.
    pub tools: Vec<ToolSpec>,
    /// Those of them that are other programs'.
    pub remote: Vec<Offered>,
    /// Which of our tools its first model may use. Another one's calls are held to its own ([`policy`]).
    pub policy: Policy,
    /// Facts for `session_status`.
    pub facts: Facts,
    /// The system prompt,
    pub system: String,
    /// and what of it comes from the workspace.
    pub files: Vec<FileShare>,
}

impl Setting {
    /// Looks everything up.
    ///
    /// # Errors
    /// The name of a model that the run's caller asks for and that none may be asked by.
    pub fn of(input: &RunInput, session: SessionRow, stop: &Stop, now_ms: i64) -> Result<Setting, ModelNameError> {
        let remote = input.servers.tools(&input.config.settings.mcp, &input.rules, stop);
        Setting::of_session(&input.config, &input.models.get(), &input.session, &input.ask, session, remote, now_ms)
    }

    /// The same for a run that there need not be: of the session `key`, for a caller who asks for `ask`.
    ///
    /// # Errors
    /// Those of [`Setting::of`].
    pub fn of_session(
        config: &Loaded,
        models: &Models,
        key: &SessionKey,
        ask: &Ask,
        session: SessionRow,
        remote: Vec<Offered>,
        now_ms: i64,
    ) -> Result<Setting, ModelNameError> {
        let settings = &config.settings;
        let runs = &settings.agents.defaults.runs;
        let agent = key.agent().unwrap_or(DEFAULT_AGENT).to_owned();
        let of_agent = settings.agents.get(&agent).or_else(|| settings.agents.list.first());
        let asked = ask.model.as_deref();
        let Choice { chain, profile, window, thinking } = Choice::of(config, models, &session, asked)?;
        let thinking = ask.thinking.unwrap_or(thinking);
        let sees_pictures = chain.iter().any(|model| models.facts(model).is_some_and(|facts| facts.sees_images));
        let first = chain.first();
        let zone = context::zone(runs);
        let policy = policy(config, key, &ask.speaker, &session, first);
        // What it may not use it is not told of.
        let is_here = |tool: &&Tool| policy.allows(tool.name);
        let own_tools = TOOLS.iter().filter(is_here).map(|tool| ToolSpec {
            name: tool.name.to_owned(),
            description: tool.description.to_owned(),
            parameters: (tool.parameters)(),
        });
        let remote: Vec<Offered> = remote.into_iter().filter(|offered| policy.allows(&offered.tool().name)).collect();
        let remote_tools = remote.iter().map(|offered| {
            let tool = offered.tool();
            let (name, description) = (tool.name.clone(), tool.description.clone());
            ToolSpec { name, description, parameters: tool.parameters.clone() }
        });
        // A caller's tool wins over ours of the same name: it is the caller who answers then.
        let is_free = |tool: &ToolSpec| ask.client_tools.iter().all(|theirs| theirs.name != tool.name);
        let tools: Vec<ToolSpec> =
            own_tools.chain(remote_tools).filter(is_free).chain(ask.client_tools.iter().cloned()).collect();
        let name = first.map(ToString::to_string).unwrap_or_default();
        let facts = Facts {
            agent: agent.clone(),
            time: history::stamp(now_ms, &zone).unwrap_or_default(),
            model: first.map(ToString::to_string),
            thinking: word(thinking).to_owned(),
            context_window: Some(window),
            ..facts_of(&session)
        };
        let extra = ask.extra_system.as_deref().map(|extra| head(extra, EXTRA_SYSTEM_CHARS_MAX));
        let lines: Vec<(&str, &str)> = TOOLS
            .iter()
            .filter(|tool| tools.iter().any(|t| t.name == tool.name))
            .map(|t| (t.name, t.summary))
            .collect();
        let workspace = of_agent.map_or_else(|| PathBuf::from("."), |agent| agent.workspace.clone());
        let System { text: system, files } = context::system_prompt(&context::Scene {
            agent: &agent,
            name: of_agent.and_then(|agent| agent.identity.name.as_deref().or(agent.name.as_deref())),
            workspace: &workspace,
            runs,
            session_key: key.as_str(),
            kind: &session.kind,
            is_subagent: is_subagent(key),
            channel: session.channel.as_deref(),
            model: if name.is_empty() { "none" } else { &name },
            thinking: word(thinking),
            tools: &lines,
            heartbeat: settings.agents.defaults.heartbeat.prompt.as_deref(),
            extra,
            now_ms,
            zone: &zone,
        });
        let loops = settings.loop_detection(&agent);
        Ok(Setting {
            agent,
            workspace,
            chain,
            profile,
            thinking,
            input_tokens_max: window - OUTPUT_TOKENS_RESERVED.min(window / 4),
            sees_pictures,
            timeout: ask.timeout.unwrap_or(runs.timeout),
            tool_steps_max: u32::try_from(runs.tool_steps_max).unwrap_or(u32::MAX),
            loops,
            has_timestamps: runs.has_timestamps,
            zone,
            tools,
            remote,
            policy,
            facts,
            system,
            files,
            session,
        })
    }

    /// The tools that a run started from here may use at most; `None`: it is restricted by nothing that it would leave.
    pub fn inherited_tools(&self) -> Option<Vec<String>> {
        let allowed = TOOLS.iter().map(|tool| tool.name).filter(|name| self.policy.allows(name));
        self.policy.depends_on_conversation().then(|| allowed.map(str::to_owned).collect())
    }

    /// Who is asked first, as provider and model.
    pub fn first(&self) -> (&str, &str) {
        self.chain.first().map_or(("", ""), |model| (&model.provider, &model.model))
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

/// Which tools may be used in the session `key`, by the model that would be asked first there or by another one; and
/// by which.
pub fn session_policy(
    config: &Loaded,
    models: &Models,
    key: &SessionKey,
    speaker: &Speaker,
    session: &SessionRow,
    model: Option<ModelRef>,
) -> (Policy, Option<ModelRef>) {
    // Only a name that a caller gives can be refused.
    let first = || Choice::of(config, models, session, None).ok()?.chain.into_iter().next();
    let model = model.or_else(first);
    (policy(config, key, speaker, session, model.as_ref()), model)
}

/// Which tools may be used in the session `key` while `model` answers what `speaker` says.
pub fn policy(
    config: &Loaded,
    key: &SessionKey,
    speaker: &Speaker,
    session: &SessionRow,
    model: Option<&ModelRef>,
) -> Policy {
    let depth = session.entry.get("spawnDepth").and_then(Value::as_u64).unwrap_or(0);
    let role = match (is_subagent(key), depth < config.settings.agents.defaults.subagents.depth_max) {
        (false, true) => Role::Main,
        (true, true) => Role::Orchestrator,
        (_, false) => Role::Leaf,
    };
    let inherited = session.entry.get(INHERITED_TOOLS).and_then(Value::as_array);
    let inherited: Option<Vec<String>> =
        inherited.map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    let agent = key.agent().unwrap_or(DEFAULT_AGENT);
    let is_main = key.as_str() == "global" || key.rest() == config.settings.session.main_key;
    let subject = Subject {
        agent,
        session: key,
        spawned_by: session.spawned_by.as_deref(),
        model: model.map(|model| (model.provider.as_str(), model.model.as_str())),
        canonical_provider: table::canonical,
        channel: speaker.channel.as_deref().or(session.channel.as_deref()).or(key.channel()),
        account: speaker.account.as_deref().or(session.account_id.as_deref()),
        sender: Sender { id: speaker.sender.as_deref(), ..Sender::default() },
        role,
        is_sandboxed: config.settings.agents.is_sandboxed(agent, is_main),
        inherited: inherited.as_deref(),
    };
    Policy::of(&config.settings, &subject)
}

/// Who would be asked in a session, and how.
struct Choice {
    chain: Vec<ModelRef>,
    profile: Option<String>,
    /// Tokens the first one reads at most.
    window: u64,
    thinking: Thinking,
}

impl Choice {
    fn of(
        config: &Loaded,
        models: &Models,
        session: &SessionRow,
        asked: Option<&str>,
    ) -> Result<Choice, ModelNameError> {
        let runs = &config.settings.agents.defaults.runs;
        let (wanted, profile) = wanted(models, asked, session)?;
        let chain = models.chain(&session.agent_id, wanted.as_ref(), pinning(session));
        let first = chain.first();
        let facts = first.and_then(|model| models.facts(model));
        let window = facts.map_or(CONTEXT_WINDOW_DEFAULT, ModelFacts::context_tokens);
        let window = runs.context_tokens.map_or(window, |tokens| tokens.min(window));
        let is_reasoning = facts.is_some_and(|facts| facts.reasoning);
        let thinking = thinking_of(config, session, first, is_reasoning);
        Ok(Choice { chain, profile, window, thinking })
    }
}

/// What is known of a session while no run goes on in it (`/status`).
pub fn facts(config: &Loaded, models: &Models, session: &SessionRow, now_ms: i64) -> Facts {
    let zone = context::zone(&config.settings.agents.defaults.runs);
    let facts = Facts {
        agent: session.agent_id.clone(),
        time: history::stamp(now_ms, &zone).unwrap_or_default(),
        ..facts_of(session)
    };
    // Only a name that a caller gives can be refused.
    match Choice::of(config, models, session, None) {
        Err(_) => facts,
        Ok(choice) => Facts {
            model: choice.chain.first().map(ToString::to_string),
            thinking: word(choice.thinking).to_owned(),
            context_window: Some(choice.window),
            ..facts
        },
    }
}

/// The first `chars_max` characters.
fn head(text: &str, chars_max: usize) -> &str {
    text.char_indices().nth(chars_max).map_or(text, |(end, _)| &text[..end])
}

/// The model and the profile that the run's caller asks for, else the session. What a session asks for and may not be
/// had any more is not asked for; its agent's own model answers.
fn wanted(
    models: &Models,
    asked: Option<&str>,
    session: &SessionRow,
) -> Result<(Option<ModelRef>, Option<String>), ModelNameError> {
    let text = |name: &str| session.entry.get(name).and_then(Value::as_str);
    if let Some(name) = asked {
        let (model, profile) = models.resolve_with_profile(name)?;
        return Ok((Some(model), profile));
    }
    let profile = text("authProfileOverride").map(str::to_owned);
    let Some(model) = text("modelOverride") else { return Ok((None, profile)) };
    let name = match text("providerOverride") {
        Some(provider) => format!("{provider}/{model}"),
        None => model.to_owned(),
    };
    match models.resolve(&name) {
        Ok(model) => Ok((Some(model), profile)),
        Err(error) => {
            log::warn!("agent: session {} asks for a model that may not be asked: {error}", session.key);
            Ok((None, profile))
        }
    }
}

/// Whether others are asked when the session's model does not answer (MODEL-55).
fn pinning(session: &SessionRow) -> Pinning {
    session.entry.get("modelPinning").and_then(Value::as_str).and_then(Pinning::of).unwrap_or_default()
}

/// How much to think: as the session says, else as configured, else in the middle where the model is made for it.
fn thinking_of(config: &Loaded, session: &SessionRow, model: Option<&ModelRef>, is_reasoning: bool) -> Thinking {
    let of_session = session.entry.get("thinkingLevel").and_then(Value::as_str);
    let configured = config.settings.agents.defaults.thinking.as_deref();
    let wanted = of_session.or(configured).unwrap_or(if is_reasoning { "medium" } else { "off" });
    let wanted = match wanted {
        // Words of the configuration that no session has.
        "adaptive" => "medium",
        "max" => "xhigh",
        other => thinking::parse(other).unwrap_or("off"),
    };
    // No more than the model can.
    let levels = match model {
        Some(model) => Context::of(config).chosen(Some(&model.provider), Some(&model.model)).thinking_levels(),
        None => &thinking::LEVELS,
    };
    let rank = |level: &str| thinking::LEVELS.iter().position(|known| *known == level).unwrap_or(0);
    let highest = levels.last().copied().unwrap_or("off");
    Thinking::parse(if rank(wanted) > rank(highest) { highest } else { wanted }).unwrap_or_default()
}

const WORDS: [(Thinking, &str); 6] = [
    (Thinking::Off, "off"),
    (Thinking::Minimal, "minimal"),
    (Thinking::Low, "low"),
    (Thinking::Medium, "medium"),
    (Thinking::High, "high"),
    (Thinking::Xhigh, "xhigh"),
];

/// The word of a level.
pub fn word(level: Thinking) -> &'static str {
    WORDS.iter().find(|(known, _)| *known == level).map_or("off", |(_, word)| word)
}

/// What a session has cost since it began, in words; `None`: no model was asked.
fn cost_of(session: &SessionRow) -> Option<String> {
    let dollars = session.entry.get("estimatedCostUsd").and_then(Value::as_f64)?;
    Some(match session.entry.get(UNPRICED).and_then(Value::as_u64).unwrap_or(0) {
        0 => format!("${dollars:.4}"),
        1 => format!("${dollars:.4} and what 1 answer cost whose price is not known"),
        n => format!("${dollars:.4} and what {n} answers cost whose prices are not known"),
    })
}

/// What a session says of itself.
fn facts_of(session: &SessionRow) -> Facts {
    let text = |name: &str| session.entry.get(name).and_then(Value::as_str);
    let word = |name: &str| text(name).unwrap_or("off").to_owned();
    Facts {
        key: session.key.clone(),
        session_id: session.session_id.clone(),
        kind: session.kind.clone(),
        channel: session.channel.clone(),
        is_model_chosen: session.entry.contains_key("modelOverride"),
        verbose: word("verboseLevel"),
        reasoning: word("reasoningLevel"),
        queue: text("queueMode").map(str::to_owned),
        messages: session.message_count,
        compactions: session.entry.get("compactionCount").and_then(Value::as_u64).unwrap_or(0),
        tokens: (session.tokens.input, session.tokens.output),
        context_tokens: session.tokens.total,
        cost: cost_of(session),
        ..Facts::default()
    }
}
