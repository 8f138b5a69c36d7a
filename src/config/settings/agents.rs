//! `agents.*`, `session.*`, `ui.*`: who answers, and in which session.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::Reader;
use super::tools::Scope;

/// The agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agents {
    /// At least one; ids are unique.
    pub list: Vec<Agent>,
    /// Id of the one that answers when nothing else decides; in `list`.
    pub default_id: String,
    pub defaults: AgentDefaults,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Lower case.
    pub id: String,
    pub name: Option<String>,
    pub workspace: PathBuf,
    pub identity: Identity,
    /// Its own models; empty: those of the defaults.
    pub model: ModelChoice,
    /// Other agents that its runs may start; `*`: any.
    pub subagents_allowed: Vec<String>,
    /// What it may use.
    pub tools: Scope,
    /// Which of its sessions are sandboxed; `None`: as the defaults say.
    sandbox_mode: Option<SandboxMode>,
}

/// Which sessions are sandboxed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxMode {
    Off,
    /// All but the agent's main one.
    NonMain,
    All,
}

impl SandboxMode {
    fn of(word: &str) -> Option<SandboxMode> {
        match word {
            "off" => Some(SandboxMode::Off),
            "non-main" => Some(SandboxMode::NonMain),
            "all" => Some(SandboxMode::All),
            _ => None,
        }
    }
}

/// How an agent presents itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub name: Option<String>,
    pub theme: Option<String>,
    pub emoji: Option<String>,
    pub avatar: Option<String>,
}

/// Models in order of use, as `provider/model`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelChoice {
    pub primary: Option<String>,
    pub fallbacks: Vec<String>,
    /// Whether fallbacks are written: an empty list means that there are none, a missing one the defaults' own.
    pub(super) has_fallbacks: bool,
}

/// What every agent starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentDefaults {
    /// Where an agent works that has no workspace of its own.
    pub workspace: PathBuf,
    pub model: ModelChoice,
    /// How hard models are asked to think; `None`: as hard as suits the model.
    pub thinking: Option<String>,
    pub heartbeat: Heartbeat,
    pub runs: Runs,
    pub subagents: Subagents,
    sandbox_mode: SandboxMode,
}

/// Runs that a run starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subagents {
    /// How far below a conversation of people one may be.
    pub depth_max: u64,
    /// How many of one conversation may go on at once.
    pub children_max: u64,
    /// How long the session of one that ended stays; `None`: for good.
    pub archive_after: Option<Duration>,
}

/// What a run is given, and how far it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Characters taken from one workspace file.
    pub bootstrap_chars_max: usize,
    /// Characters taken from all of them.
    pub bootstrap_total_chars_max: usize,
    /// Name of the user's time zone; `None`: the host's.
    pub user_timezone: Option<String>,
    /// Whether a model is told when a message came.
    pub has_timestamps: bool,
    /// Context window to use, in tokens; `None`: the model's.
    pub context_tokens: Option<u64>,
    /// Longest run.
    pub timeout: Duration,
    /// Tool calls of one run.
    pub tool_steps_max: usize,
    /// Whether what is worth remembering is noted before a conversation is summarised.
    pub notes_memory: bool,
}

/// Runs without a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// `None`: off.
    pub every: Option<Duration>,
    /// As written, for status answers.
    pub every_text: String,
    pub target: String,
    pub prompt: Option<String>,
    pub ack_max_chars: usize,
}

/// The agent there is when none is configured.
const SOLE_AGENT: &str = "main";

impl Agents {
    pub(super) fn read(agents: &Reader<'_>, state_dir: &Path) -> Agents {
        let defaults = agents.at("defaults");
        let workspace = defaults.path("workspace").unwrap_or_else(|| state_dir.join("workspace"));
        let mut list: Vec<Agent> = Vec::new();
        let mut default_id = None;
        let listed = agents.each("list").into_iter().map(|agent| (agent.text("id").unwrap_or_default(), agent));
        for (id, agent) in listed.chain(agents.entries("entries")) {
            let id = id.trim().to_lowercase();
            if agent.flag("default") && default_id.is_none() {
                default_id = Some(id.clone());
            }
            list.push(Agent::read(id, &agent, &workspace));
        }
        if list.is_empty() {
            list.push(Agent {
                id: SOLE_AGENT.to_owned(),
                name: None,
                workspace: workspace.clone(),
                identity: Identity::default(),
                model: ModelChoice::default(),
                subagents_allowed: Vec::new(),
                tools: Scope::default(),
                sandbox_mode: None,
            });
        }
        Agents {
            default_id: default_id.unwrap_or_else(|| list[0].id.clone()),
            list,
            defaults: AgentDefaults {
                workspace,
                model: ModelChoice::read(&defaults),
                thinking: defaults.text("thinkingDefault"),
                heartbeat: Heartbeat::read(&defaults.at("heartbeat")),
                runs: Runs::read(&defaults),
                subagents: Subagents::read(&defaults.at("subagents")),
                // Validation lets no other word through; were there one, the strictest reading would be the safe one.
                sandbox_mode: SandboxMode::of(&defaults.text_or_default("sandbox.mode")).unwrap_or(SandboxMode::All),
            },
        }
    }

    /// The agent with an id.
    pub fn get(&self, id: &str) -> Option<&Agent> {
        self.list.iter().find(|agent| agent.id == id)
    }

    /// Whether an agent's session is sandboxed, its main one or another.
    pub fn is_sandboxed(&self, id: &str, is_main: bool) -> bool {
        let own = self.get(id).and_then(|agent| agent.sandbox_mode);
        match own.unwrap_or(self.defaults.sandbox_mode) {
            SandboxMode::Off => false,
            SandboxMode::NonMain => !is_main,
            SandboxMode::All => true,
        }
    }

    /// The models of an agent: its own, else the defaults'.
    pub fn model_of(&self, id: &str) -> &ModelChoice {
        match self.get(id) {
            Some(agent) if agent.model.primary.is_some() => &agent.model,
            _ => &self.defaults.model,
        }
    }
}

impl Agents {
    /// The models an agent's runs ask, in order: what it has of its own, else the defaults'.
    pub fn choice_of(&self, id: &str) -> ModelChoice {
        let own = self.get(id).map(|agent| &agent.model);
        let default = &self.defaults.model;
        ModelChoice {
            primary: own.and_then(|own| own.primary.clone()).or_else(|| default.primary.clone()),
            fallbacks: own.filter(|own| own.has_fallbacks).unwrap_or(default).fallbacks.clone(),
            has_fallbacks: own.is_some_and(|own| own.has_fallbacks) || default.has_fallbacks,
        }
    }
}

impl Agent {
    fn read(id: String, agent: &Reader<'_>, workspace: &Path) -> Agent {
        let identity = agent.at("identity");
        Agent {
            id,
            name: agent.text("name"),
            workspace: agent.path("workspace").unwrap_or_else(|| workspace.to_owned()),
            identity: Identity {
                name: identity.text("name"),
                theme: identity.text("theme"),
                emoji: identity.text("emoji"),
                avatar: identity.text("avatar"),
            },
            model: ModelChoice::read(agent),
            subagents_allowed: agent.texts("subagents.allowAgents"),
            tools: Scope::of_agent(agent),
            sandbox_mode: own_sandbox_mode(agent),
        }
    }
}

/// `sandbox.mode` of an agent's own. What cannot be read is refused.
fn own_sandbox_mode(agent: &Reader<'_>) -> Option<SandboxMode> {
    let written = agent.object("sandbox").remove("mode")?;
    let mode = written.as_str().and_then(SandboxMode::of);
    if mode.is_none() {
        agent.issue("sandbox.mode", "Invalid option: expected one of \"off\"|\"non-main\"|\"all\"".to_owned());
    }
    mode
}

impl ModelChoice {
    /// `model` is text or `{primary, fallbacks}`.
    fn read(holder: &Reader<'_>) -> ModelChoice {
        ModelChoice {
            primary: holder.text("model").or_else(|| holder.text("model.primary")),
            fallbacks: holder.texts("model.fallbacks"),
            has_fallbacks: holder.is_set("model.fallbacks"),
        }
    }
}

impl Subagents {
    fn read(subagents: &Reader<'_>) -> Subagents {
        let minutes = subagents.usize("archiveAfterMinutes") as u64;
        Subagents {
            depth_max: subagents.usize("maxSpawnDepth") as u64,
            children_max: subagents.usize("maxChildrenPerAgent") as u64,
            archive_after: (minutes > 0).then(|| Duration::from_secs(minutes * 60)),
        }
    }
}

impl Runs {
    fn read(defaults: &Reader<'_>) -> Runs {
        Runs {
            bootstrap_chars_max: defaults.usize("bootstrapMaxChars"),
            bootstrap_total_chars_max: defaults.usize("bootstrapTotalMaxChars"),
            user_timezone: defaults.text("userTimezone"),
            has_timestamps: defaults.text_or_default("envelopeTimestamp") == "on",
            context_tokens: defaults.int_if_set("contextTokens").and_then(|tokens| u64::try_from(tokens).ok()),
            timeout: defaults.secs("timeoutSeconds"),
            tool_steps_max: defaults.usize("maxToolSteps"),
            notes_memory: defaults.flag("compaction.memoryFlush.enabled"),
        }
    }
}

impl Heartbeat {
    fn read(heartbeat: &Reader<'_>) -> Heartbeat {
        let (every, every_text) = heartbeat.duration("every");
        Heartbeat {
            every: (!every.is_zero()).then_some(every),
            every_text,
            target: heartbeat.text_or_default("target"),
            prompt: heartbeat.text("prompt"),
            ack_max_chars: heartbeat.usize("ackMaxChars"),
        }
    }
}

/// Session keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Name of the main session.
    pub main_key: String,
    pub scope: SessionScope,
    /// How long what left a session is kept; `None`: for good.
    pub archives_kept: Option<Duration>,
    pub maintenance: Maintenance,
}

/// Which sessions nobody needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// Whether they are put away, or only counted.
    pub is_enforced: bool,
    /// After how long nobody needs one.
    pub prune_after: Duration,
    /// How many are kept of an agent.
    pub entries_max: u64,
    /// Whether all direct messages belong to the main session.
    pub is_main_shared: bool,
}

/// `session.scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionScope {
    PerSender,
    Global,
}

impl SessionScope {
    /// Its word in documents and in `hello-ok`.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionScope::PerSender => "per-sender",
            SessionScope::Global => "global",
        }
    }
}

impl Session {
    pub(super) fn read(session: &Reader<'_>) -> Session {
        let is_enforced = session.text_or_default("maintenance.mode") == "enforce";
        let (prune_after, _) = session.duration("maintenance.pruneAfter");
        Session {
            main_key: session.text_or_default("mainKey").to_lowercase(),
            scope: match session.text_or_default("scope").as_str() {
                "global" => SessionScope::Global,
                _ => SessionScope::PerSender,
            },
            archives_kept: is_enforced.then_some(prune_after),
            maintenance: Maintenance {
                is_enforced,
                prune_after,
                entries_max: session.int("maintenance.maxEntries").unsigned_abs(),
                is_main_shared: session.text_or_default("dmScope") == "main",
            },
        }
    }
}

/// How the assistant is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ui {
    /// `None`: the default agent's name.
    pub assistant_name: Option<String>,
    /// `None`: the default agent's picture.
    pub assistant_avatar: Option<String>,
}

impl Ui {
    pub(super) fn read(ui: &Reader<'_>) -> Ui {
        Ui { assistant_name: ui.text("assistant.name"), assistant_avatar: ui.text("assistant.avatar") }
    }
}
