//! Tool policy: which tools an agent may use, and what of the configuration says so.
//!
//! [`Policy::of`] looks up once which parts of the configuration hold for a [`Subject`] (an agent, in a session, with a
//! model, spoken to by somebody) and [`Policy::verdict`] answers for a tool. The parts are *stages*, in upstream's order:
//!
//! 1. the profile (the agent's, else `tools.profile`), with its `alsoAllow`,
//! 2. the profile for the model's provider (`byProvider`),
//! 3. `security.tool_runtime_policy`: its profile, its lists, its provider's,
//! 4. `tools`, and `tools.byProvider`,
//! 5. the agent's `tools`, and its `byProvider`,
//! 6. the group's `tools` or `toolsBySender`,
//! 7. `toolsBySender` (the agent's, else `tools`'),
//! 8. the sandbox's tools, where the session has one,
//! 9. what runs that a run starts are never given, and `tools.subagents.tools`,
//! 10. what the run that started this one had,
//! 11. `tools.exec.applyPatch`, for that tool alone,
//! 12. what can do nothing as configured.
//!
//! A tool must pass every stage. In each one `deny` wins over `allow`, and an empty `allow` restricts nothing. So a
//! further entry in a `deny` takes tools away and never gives any, wherever it stands.
//!
//! **Invariant:** pure: the same settings and the same subject give the same verdict, whatever the order of a list's
//! entries. **Invariant:** a tool that no stage speaks of is allowed by none of them being there, and by nothing else.

pub mod names;

use std::fmt;

use serde_json::Value;

use crate::config::settings::Settings;
use crate::config::settings::tools::{Group, Lists, Profile, ProviderScope, Scope, Tools};
use crate::protocol::session_key::SessionKey;
use crate::tools::{Callable, Prepared, TOOLS, ToolError};

/// Tools that a run which another run started is never given: what concerns the whole program, or speaks to people.
const SUBAGENT_DENY: &[&str] =
    &["gateway", "agents_list", "session_status", "cron", "message", "sessions_send", "sessions"];
/// Further ones for a run that may start none itself.
const LEAF_DENY: &[&str] = &["subagents", "sessions_list", "sessions_history", "sessions_spawn"];
/// What a sandbox offers when nothing else is written,
const SANDBOX_ALLOW: &[&str] = &[
    "exec",
    "process",
    "read",
    "write",
    "edit",
    "apply_patch",
    "image",
    "sessions_list",
    "sessions_history",
    "sessions_send",
    "sessions_spawn",
    "subagents",
    "session_status",
];
/// and what it withholds.
const SANDBOX_DENY: &[&str] = &["browser", "canvas", "nodes", "cron", "gateway"];
/// What callers over the gateway may not call: commands, files, other sessions, the gateway itself. Upstream's list, and
/// what its gateway has no such tools for.
const GATEWAY_DENY: &[&str] = &[
    "exec",
    "process",
    "write",
    "edit",
    "apply_patch",
    "sessions_spawn",
    "sessions_send",
    "cron",
    "gateway",
    "nodes",
    "whatsapp_login",
];
/// What of it only an owner may be allowed.
const OWNER_ONLY: &[&str] = &["cron", "gateway", "nodes"];
/// Providers whose models write patches in the form that `apply_patch` takes.
const PATCHING_PROVIDERS: &[&str] = &["openai", "openai-codex"];

/// What a policy is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The agent's id.
    pub agent: &'a str,
    /// The session it acts in.
    pub session: &'a SessionKey,
    /// The session whose run started it.
    pub spawned_by: Option<&'a str>,
    /// The model that speaks, as provider and model, both canonical.
    pub model: Option<(&'a str, &'a str)>,
    /// What a provider's name is compared as.
    pub canonical_provider: fn(&str) -> String,
    /// The channel the session belongs to.
    pub channel: Option<&'a str>,
    /// The account of ours on it.
    pub account: Option<&'a str>,
    /// Who speaks.
    pub sender: Sender<'a>,
    /// Whether a run started it, and what it may do about that.
    pub role: Role,
    /// Whether its tools run in a sandbox.
    pub is_sandboxed: bool,
    /// Tools that the run had which started it; `None`: not restricted.
    pub inherited: Option<&'a [String]>,
}

/// Who speaks, as far as known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sender<'a> {
    /// The id at the channel.
    pub id: Option<&'a str>,
    /// A name for people.
    pub name: Option<&'a str>,
    /// A name at the channel.
    pub username: Option<&'a str>,
    /// A telephone number.
    pub e164: Option<&'a str>,
}

/// What a run is to other runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A conversation's own.
    Main,
    /// Started by another run, and may start some.
    Orchestrator,
    /// Started by another run, and may start none.
    Leaf,
}

/// Whether a tool may be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may.
    pub allowed: bool,
    /// The stage that refused it, or the last one that named it; `default`: none did.
    pub stage: &'static str,
    /// What of the configuration decided: the key, and the entry in it.
    pub rule: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.rule, self.stage)
    }
}

/// A tool that a policy lets be called: the only way to read a call of one.
pub struct MayCall<'a>(Callable<'a>);

impl MayCall<'_> {
    /// Reads a call of it.
    ///
    /// # Errors
    /// [`ToolError::Arguments`], in words for the model.
    pub fn prepare(&self, arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
        self.0.prepare(arguments)
    }
}

/// What one stage says of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Its `deny` has it.
    Denied(String),
    /// Its `allow` does not.
    Missing(String),
    /// Its `allow` has it.
    Named(String),
    /// Nothing.
    Silent,
}

impl Word {
    fn passes(&self) -> bool {
        matches!(self, Word::Named(_) | Word::Silent)
    }
}

/// One stage's answer, for people who ask how a verdict came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The stage.
    pub stage: &'static str,
    /// Whether the tool passes it.
    pub passes: bool,
    /// Why.
    pub rule: String,
}

/// What holds for one subject.
#[derive(Clone, Debug)]
pub struct Policy {
    profile: Profile,
    stages: Vec<Stage>,
}

impl Policy {
    /// What holds for `subject`.
    pub fn of(settings: &Settings, subject: &Subject<'_>) -> Policy {
        let tools = &settings.tools;
        let (global, hardening) = (&tools.global, &tools.hardening);
        let nothing = Scope::default();
        let own = settings.agents.get(subject.agent).map_or(&nothing, |agent| &agent.tools);
        let own_key = format!("agents.{}.tools", subject.agent);
        let mut stages = Vec::new();
        let mut add = |stage: Option<Stage>| stages.extend(stage);

        let (profile, key) = match own.profile {
            Some(profile) => (profile, format!("{own_key}.profile")),
            None => (global.profile.unwrap_or(Profile::Full), "tools.profile".to_owned()),
        };
        let also = own.lists.also_allow.as_ref().or(global.lists.also_allow.as_ref());
        add(Stage::of_profile("profile", key, profile, also));
        let global_provider = subject.provider_scope(global, "tools");
        let own_provider = subject.provider_scope(own, &own_key);
        let profiled = [&own_provider, &global_provider].into_iter().flatten();
        if let Some((key, scope, profile)) = profiled.filter_map(|(key, s)| Some((key, s, s.profile?))).next() {
            // Upstream takes the agent's list for its provider, else everybody's, whichever profile it is.
            let also =
                own_provider.as_ref().or(global_provider.as_ref()).and_then(|(_, s)| s.lists.also_allow.as_ref());
            let also = also.or(scope.lists.also_allow.as_ref());
            add(Stage::of_profile("provider profile", format!("{key}.profile"), profile, also));
        }
        let key = "security.tool_runtime_policy";
        if let Some(profile) = hardening.profile {
            add(Stage::of_profile("security", format!("{key}.profile"), profile, None));
        }
        add(Stage::of_lists("security", key.to_owned(), &hardening.lists));
        if let Some((key, scope)) = subject.provider_scope(hardening, key) {
            if let Some(profile) = scope.profile {
                add(Stage::of_profile("security provider", format!("{key}.profile"), profile, None));
            }
            add(Stage::of_lists("security provider", key, &scope.lists));
        }
        add(Stage::of_lists("global", "tools".to_owned(), &global.lists));
        if let Some((key, scope)) = &global_provider {
            add(Stage::of_lists("global provider", key.clone(), &scope.lists));
        }
        add(Stage::of_lists("agent", own_key.clone(), &own.lists));
        if let Some((key, scope)) = &own_provider {
            add(Stage::of_lists("agent provider", key.clone(), &scope.lists));
        }
        if let Some((key, lists)) = subject.group_lists(settings) {
            add(Stage::of_lists("group", key, lists));
        }
        let by_sender = [(&own.by_sender, &own_key), (&global.by_sender, &"tools".to_owned())]
            .into_iter()
            .find_map(|(map, key)| Some((key.clone(), subject.sender_lists(map)?)));
        if let Some((key, (name, lists))) = by_sender {
            add(Stage::of_lists("sender", format!("{key}.toolsBySender[{name}]"), lists));
        }
        if subject.is_sandboxed {
            add(Some(Stage::of_sandbox(&own.sandbox, &global.sandbox, &own_key)));
        }
        if subject.role != Role::Main {
            add(Some(Stage::of_subagent(tools, subject.role)));
        }
        if let Some(inherited) = subject.inherited {
            add(Some(Stage {
                name: "inherited",
                key: "the run that started this one".to_owned(),
                profile: None,
                allow: Some(patterns(inherited)),
                deny: Vec::new(),
            }));
        }
        add(Stage::of_patches(tools, subject));
        add(Stage::of_idle(settings));
        Policy { profile, stages }
    }

    /// The profile it begins with.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Whether a tool may be used.
    pub fn allows(&self, tool: &str) -> bool {
        let tool = names::canonical(tool);
        self.stages.iter().all(|stage| stage.word(&tool).passes())
    }

    /// The same for a caller who is no model: what is too dangerous for programs that hold a secret, or makes no sense
    /// there, is denied unless it is allowed by name; and what only an owner may do, whatever is allowed.
    pub fn over_gateway(mut self, tools: &Tools, is_owner: bool) -> Policy {
        let allowed = patterns(&tools.http_allow);
        let is_denied = |name: &&&str| {
            let is_allowed = allowed.iter().any(|pattern| pattern.fits(name));
            !is_allowed || !is_owner && OWNER_ONLY.contains(*name)
        };
        let built_in: Vec<&str> = GATEWAY_DENY.iter().filter(is_denied).copied().collect();
        for (key, deny) in
            [("gateway.tools: the built-in list", patterns(&built_in)), ("gateway.tools", patterns(&tools.http_deny))]
        {
            if !deny.is_empty() {
                let key = key.to_owned();
                self.stages.push(Stage { name: "gateway", key, profile: None, allow: None, deny });
            }
        }
        self
    }

    /// Lets a tool be called.
    ///
    /// # Errors
    /// Why not.
    pub fn let_call<'a>(&self, tool: Callable<'a>) -> Result<MayCall<'a>, Verdict> {
        let verdict = self.verdict(tool.name());
        if verdict.allowed { Ok(MayCall(tool)) } else { Err(verdict) }
    }

    /// Whether a tool may be used, and why.
    pub fn verdict(&self, tool: &str) -> Verdict {
        let tool = names::canonical(tool);
        let mut verdict =
            Verdict { allowed: true, stage: "default", rule: "nothing in the configuration restricts it".to_owned() };
        for stage in &self.stages {
            match stage.word(&tool) {
                Word::Silent => {}
                Word::Named(rule) => verdict = Verdict { allowed: true, stage: stage.name, rule },
                Word::Denied(rule) | Word::Missing(rule) => {
                    return Verdict { allowed: false, stage: stage.name, rule };
                }
            }
        }
        verdict
    }

    /// What every stage says of a tool, in order; those with nothing to say are left out.
    pub fn steps(&self, tool: &str) -> Vec<Step> {
        let tool = names::canonical(tool);
        let step = |stage: &Stage| {
            let word = stage.word(&tool);
            let passes = word.passes();
            match word {
                Word::Silent => None,
                Word::Named(rule) | Word::Denied(rule) | Word::Missing(rule) => {
                    Some(Step { stage: stage.name, passes, rule })
                }
            }
        };
        self.stages.iter().filter_map(step).collect()
    }

    /// Whether who speaks, or where, takes tools away: what a run that is started here must not get back.
    pub fn depends_on_conversation(&self) -> bool {
        self.stages.iter().any(|stage| matches!(stage.name, "group" | "sender" | "inherited"))
    }
}

impl<'a> Subject<'a> {
    /// What is written for the model's provider: `provider/model` before `provider`.
    fn provider_scope<'s>(&self, scope: &'s Scope, key: &str) -> Option<(String, &'s ProviderScope)> {
        let (provider, model) = self.model?;
        let canonical = |key: &str| match key.trim().split_once('/') {
            Some((provider, model)) if !provider.is_empty() && !model.is_empty() => {
                format!("{}/{}", (self.canonical_provider)(provider), model.to_lowercase())
            }
            _ => (self.canonical_provider)(key),
        };
        let wanted = [format!("{provider}/{}", model.to_lowercase()), provider.to_owned()];
        wanted.iter().find_map(|wanted| {
            let found = scope.by_provider.iter().find(|(key, _)| canonical(key) == *wanted)?;
            Some((format!("{key}.byProvider[{}]", found.0), &found.1))
        })
    }

    /// What is written for who speaks.
    fn sender_lists<'s>(&self, by_sender: &'s [(String, Lists)]) -> Option<(&'s str, &'s Lists)> {
        let channel = self.channel.map(str::to_lowercase);
        let fold = |text: &str| text.trim().to_lowercase();
        let bare = |text: &str| fold(text.trim().strip_prefix('@').unwrap_or(text.trim()));
        let find = |kind: &str, value: &str| {
            let is_it = |key: &str| {
                let key = key.trim();
                let (written, rest) = match key.split_once(':') {
                    Some((kind, rest)) if KINDS.contains(&&*kind.to_lowercase()) => (kind.to_lowercase(), rest),
                    // Upstream's older form: an id.
                    _ => ("id".to_owned(), key),
                };
                written == kind && key != "*" && bare(rest) == value
            };
            by_sender.iter().find(|(key, _)| is_it(key))
        };
        let Sender { id, name, username, e164 } = self.sender;
        let found = id
            .zip(channel.as_deref())
            .and_then(|(id, channel)| find("channel", &format!("{channel}:{}", bare(id))))
            .or_else(|| id.and_then(|id| find("id", &bare(id))))
            .or_else(|| e164.and_then(|number| find("e164", &bare(number))))
            .or_else(|| username.and_then(|name| find("username", &bare(name))))
            .or_else(|| name.and_then(|name| find("name", &bare(name))))
            .or_else(|| by_sender.iter().find(|(key, _)| key.trim() == "*"));
        found.map(|(key, lists)| (key.as_str(), lists))
    }

    /// What is written for the group it speaks in; a run that another one started speaks where that one does.
    fn group_lists<'s>(&self, settings: &'s Settings) -> Option<(String, &'s Lists)> {
        let of_parent = || group_of(&SessionKey::stored(self.spawned_by?.to_owned()));
        let (channel, ids) = group_of(self.session).or_else(of_parent)?;
        let groups: &[Group] = settings.channels.groups(&channel, self.account);
        let of = |id: &str| {
            let group = groups.iter().find(|group| group.id.eq_ignore_ascii_case(id))?;
            let key = format!("channels.{channel}.groups[{}]", group.id);
            if let Some((name, lists)) = self.sender_lists(&group.by_sender) {
                return Some((format!("{key}.toolsBySender[{name}]"), lists));
            }
            Some((format!("{key}.tools"), group.lists.as_ref()?))
        };
        ids.iter().map(String::as_str).chain(["*"]).find_map(of)
    }
}

/// What a key of `toolsBySender` may begin with.
const KINDS: [&str; 5] = ["channel", "id", "e164", "username", "name"];

/// The channel and the group's ids in a session key: with its topic or thread first, then without.
fn group_of(session: &SessionKey) -> Option<(String, Vec<String>)> {
    let channel = session.channel()?.to_owned();
    let rest = session.rest();
    let marks = [":group:", ":channel:"];
    let (at, mark) = marks.into_iter().filter_map(|mark| Some((rest.find(mark)?, mark))).min()?;
    let mut id = &rest[at + mark.len()..];
    let mut ids = vec![id.to_owned()];
    while let Some(end) = [":sender:", ":topic:", ":thread:"].into_iter().filter_map(|part| id.rfind(part)).max() {
        id = &id[..end];
        ids.push(id.to_owned());
    }
    Some((channel, ids))
}

/// One stage.
#[derive(Clone, Debug)]
struct Stage {
    name: &'static str,
    /// Where it stands in the configuration.
    key: String,
    /// Its `allow` is a profile's, with what is allowed beside it.
    profile: Option<Profile>,
    /// `None`: it restricts nothing.
    allow: Option<Vec<Pattern>>,
    deny: Vec<Pattern>,
}

impl Stage {
    fn of_profile(name: &'static str, key: String, profile: Profile, also: Option<&Vec<String>>) -> Option<Stage> {
        // The whole of everything restricts nothing, and nobody need hear of it.
        (profile != Profile::Full).then(|| Stage {
            name,
            key,
            profile: Some(profile),
            allow: Some(also.map(|also| patterns(also)).unwrap_or_default()),
            deny: Vec::new(),
        })
    }

    /// `None`: nothing is written. `alsoAllow` belongs to the profile, and allows nothing here that `allow` does not.
    fn of_lists(name: &'static str, key: String, lists: &Lists) -> Option<Stage> {
        let allow = lists.allow.as_ref().filter(|allow| !allow.is_empty()).map(|allow| patterns(allow));
        let deny = lists.deny.as_ref().map(|deny| patterns(deny)).unwrap_or_default();
        (allow.is_some() || !deny.is_empty()).then_some(Stage { name, key, profile: None, allow, deny })
    }

    /// Each list is the agent's, else everybody's, else the built-in one. What is allowed by name is not withheld for
    /// being on the built-in list.
    fn of_sandbox(own: &Lists, global: &Lists, own_key: &str) -> Stage {
        let pick = |list: fn(&Lists) -> &Option<Vec<String>>| list(own).as_ref().or(list(global).as_ref());
        let is_own = own.allow.is_some() || own.also_allow.is_some() || own.deny.is_some();
        let (allow, also, deny) =
            (pick(|lists| &lists.allow), pick(|lists| &lists.also_allow), pick(|lists| &lists.deny));
        let also = also.map(|also| patterns(also)).unwrap_or_default();
        let named: Vec<Pattern> =
            allow.map(|allow| patterns(allow)).unwrap_or_default().into_iter().chain(also.iter().cloned()).collect();
        let allowed = match allow {
            Some(allow) if allow.is_empty() => None,
            Some(_) => Some(named.clone()),
            None => Some(patterns(SANDBOX_ALLOW).into_iter().chain(also).collect()),
        };
        let deny = match deny {
            Some(deny) => patterns(deny),
            None => {
                let is_named = |name: &&&str| named.iter().any(|pattern| pattern.fits(name));
                SANDBOX_DENY.iter().filter(|name| !is_named(name)).map(|name| Pattern::of(name)).collect()
            }
        };
        let key = if is_own { format!("{own_key}.sandbox.tools") } else { "tools.sandbox.tools".to_owned() };
        Stage { name: "sandbox", key, profile: None, allow: allowed, deny }
    }

    fn of_subagent(tools: &Tools, role: Role) -> Stage {
        let Lists { allow, also_allow, deny } = &tools.subagents;
        let leaf: &[&str] = if role == Role::Leaf { LEAF_DENY } else { &[] };
        let built_in = SUBAGENT_DENY.iter().chain(leaf).map(|name| Pattern::of(name));
        let allow = allow.as_ref().filter(|allow| !allow.is_empty());
        let allow = allow.map(|allow| allow.iter().chain(also_allow.iter().flatten()).map(|text| Pattern::of(text)));
        Stage {
            name: "subagent",
            key: "tools.subagents.tools".to_owned(),
            profile: None,
            allow: allow.map(Iterator::collect),
            deny: built_in.chain(deny.iter().flatten().map(|text| Pattern::of(text))).collect(),
        }
    }

    /// Whether the model is one that `apply_patch` is for; `None`: it is.
    fn of_patches(tools: &Tools, subject: &Subject<'_>) -> Option<Stage> {
        let settings = &tools.apply_patch;
        let (provider, model) = subject.model.unwrap_or_default();
        let is_for = if settings.models.is_empty() {
            PATCHING_PROVIDERS.contains(&provider)
        } else {
            let whole = format!("{provider}/{model}").to_lowercase();
            let is_it = |named: &String| {
                let named = named.trim().to_lowercase();
                named == whole || named == model.to_lowercase()
            };
            settings.models.iter().any(is_it)
        };
        let key = match (settings.is_on, is_for) {
            (true, true) => return None,
            (false, _) => "tools.exec.applyPatch.enabled: false",
            (true, false) => "tools.exec.applyPatch.allowModels: not for this model",
        };
        let deny = vec![Pattern::of("apply_patch")];
        Some(Stage { name: "model", key: key.to_owned(), profile: None, allow: None, deny })
    }

    /// Tools that can do nothing as configured; `None`: every one can.
    fn of_idle(settings: &Settings) -> Option<Stage> {
        let idle = TOOLS.iter().filter(|tool| !(tool.is_offered)(settings));
        let deny: Vec<Pattern> = idle.map(|tool| Pattern::of(tool.name)).collect();
        let key = "it can do nothing as configured".to_owned();
        (!deny.is_empty()).then_some(Stage { name: "configuration", key, profile: None, allow: None, deny })
    }

    /// What it says of the tool of this canonical name.
    fn word(&self, tool: &str) -> Word {
        let Stage { key, profile, allow, deny, .. } = self;
        if let Some(pattern) = deny.iter().find(|pattern| pattern.fits(tool)) {
            return Word::Denied(format!("{key}: deny has \"{}\"", pattern.0));
        }
        if let Some(profile) = profile {
            if names::has(*profile, tool) {
                return Word::Named(format!("{key}: \"{}\" has it", profile.as_str()));
            }
            return match allow.iter().flatten().find(|pattern| pattern.admits(tool)) {
                Some(pattern) => Word::Named(format!("{key}: alsoAllow has \"{}\"", pattern.0)),
                None => Word::Missing(format!("{key}: \"{}\" does not have it", profile.as_str())),
            };
        }
        match allow {
            None => Word::Silent,
            Some(allow) => match allow.iter().find(|pattern| pattern.admits(tool)) {
                Some(pattern) => Word::Named(format!("{key}: allow has \"{}\"", pattern.0)),
                None => Word::Missing(format!("{key}: allow does not have it")),
            },
        }
    }
}

/// An entry of a list: a name, a group, or a name with `*` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(String);

fn patterns<T: AsRef<str>>(list: &[T]) -> Vec<Pattern> {
    list.iter().map(|text| Pattern::of(text.as_ref())).collect()
}

impl Pattern {
    fn of(text: &str) -> Pattern {
        Pattern(names::canonical(text))
    }

    /// Whether it means the tool of this canonical name.
    fn fits(&self, tool: &str) -> bool {
        match self.0.strip_prefix("group:") {
            Some(group) => names::is_in_group(group, tool),
            None => wildcard(&self.0, tool),
        }
    }

    /// The same where it allows: who may write files, or run anything, may patch them.
    fn admits(&self, tool: &str) -> bool {
        self.fits(tool) || tool == "apply_patch" && (self.fits("write") || self.fits("exec"))
    }
}

/// Whether `text` is what `pattern` says, where `*` stands for anything. Linear in each, but for their product.
pub(super) fn wildcard(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests;
