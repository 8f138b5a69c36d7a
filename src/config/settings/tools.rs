//! `tools.*`, `security.tool_runtime_policy`, `agents.*.tools`, `gateway.tools`: what agents may use, as written.
//!
//! These are the words of the configuration, by scope; what they come to for one call is `tools::policy`'s to say.
//! Scopes inside other keys (an agent's, a provider's, a sender's, a group's) are read by one reader of values, so they
//! all take the same keys and are refused for the same mistakes.

use serde_json::{Map, Value};

use super::reader::Reader;

/// Most recent calls a loop guard remembers, and the largest threshold it knows: a run with more calls than this is
/// bounded otherwise.
pub const LOOP_HISTORY_MAX: usize = 256;

/// A base that is narrowed further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// What an agent is, and nothing it could do.
    Minimal,
    /// Files, commands, memory, sessions.
    Coding,
    /// Conversations.
    Messaging,
    /// Everything.
    Full,
}

impl Profile {
    /// All of them, narrowest first.
    pub const ALL: [Profile; 4] = [Profile::Minimal, Profile::Coding, Profile::Messaging, Profile::Full];

    /// Its word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Minimal => "minimal",
            Profile::Coding => "coding",
            Profile::Messaging => "messaging",
            Profile::Full => "full",
        }
    }

    fn of(word: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.as_str() == word)
    }
}

/// Tools, groups and wildcards, as written. `None`: not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// These alone; an empty list restricts nothing.
    pub allow: Option<Vec<String>>,
    /// These beside a profile's.
    pub also_allow: Option<Vec<String>>,
    /// None of these.
    pub deny: Option<Vec<String>>,
}

/// What holds in one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    pub profile: Option<Profile>,
    pub lists: Lists,
    /// By provider, or by `provider/model`.
    pub by_provider: Vec<(String, ProviderScope)>,
    /// By who speaks.
    pub by_sender: Vec<(String, Lists)>,
    /// In a sandbox.
    pub sandbox: Lists,
    /// Whether its runs are watched for going in circles; `None`: as everywhere.
    pub(super) detects_loops: Option<bool>,
}

/// What holds in one scope while one provider's model speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderScope {
    pub profile: Option<Profile>,
    pub lists: Lists,
}

/// What holds in one group of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its id; `*`: every group without an entry of its own.
    pub id: String,
    pub lists: Option<Lists>,
    pub by_sender: Vec<(String, Lists)>,
}

/// When a run is taken to go in circles. Numbers are calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopDetection {
    pub is_on: bool,
    /// Whether no agent may switch it off.
    pub(super) is_required: bool,
    /// Calls remembered, at most [`LOOP_HISTORY_MAX`] and at least `breaker`.
    pub history_max: usize,
    /// Repeats from which the model is told,
    pub warning: usize,
    /// from which a call is refused,
    pub critical: usize,
    /// and from which the run ends.
    pub breaker: usize,
    pub generic_repeat: bool,
    pub known_poll: bool,
    pub ping_pong: bool,
}

/// When `apply_patch` is offered (`tools.exec.applyPatch`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyPatch {
    pub is_on: bool,
    /// Models it is offered to, as `provider/model` or `model`; empty: those of OpenAI's kind.
    pub models: Vec<String>,
    /// Whether it stays in the workspace, even if the other file tools need not.
    pub workspace_only: bool,
}

/// What agents may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// `tools.*`.
    pub global: Scope,
    /// `security.tool_runtime_policy`: holds beside it, whatever else says.
    pub hardening: Scope,
    /// Tools of runs that a run starts.
    pub subagents: Lists,
    pub loops: LoopDetection,
    pub apply_patch: ApplyPatch,
    /// `tools.fs.workspaceOnly`: whether file tools stay in the workspace.
    pub fs_workspace_only: bool,
    /// `gateway.tools`: what callers over HTTP may not call beside the built-in list, and what is taken off that.
    pub http_deny: Vec<String>,
    /// See [`Tools::http_deny`].
    pub http_allow: Vec<String>,
}

const BOTH: &str = "cannot set both allow and alsoAllow in the same scope (merge alsoAllow into allow, or remove allow \
                    and use profile + alsoAllow)";

impl Tools {
    pub(super) fn read(root: &Reader<'_>) -> Tools {
        let tools = root.at("tools");
        let policy = root.at("security.tool_runtime_policy");
        let patch = tools.at("exec.applyPatch");
        Tools {
            global: Scope {
                profile: profile(&tools),
                lists: Lists::read(&tools, true),
                by_provider: each(&tools, "byProvider", ProviderScope::of),
                by_sender: each(&tools, "toolsBySender", Lists::of),
                sandbox: one(&tools, "sandbox", "tools"),
                detects_loops: None,
            },
            hardening: Scope {
                profile: profile(&policy),
                lists: Lists::read(&policy, false),
                by_provider: policy
                    .entries("byProvider")
                    .into_iter()
                    .map(|(name, scope)| {
                        let lists = Lists::read(&scope, false);
                        (name, ProviderScope { profile: profile(&scope), lists })
                    })
                    .collect(),
                ..Scope::default()
            },
            subagents: one(&tools, "subagents", "tools"),
            loops: LoopDetection::read(&policy.at("loop_detection"), &tools.at("loopDetection")),
            apply_patch: ApplyPatch {
                is_on: patch.flag("enabled"),
                models: patch.texts("allowModels"),
                workspace_only: patch.flag("workspaceOnly"),
            },
            fs_workspace_only: tools.flag("fs.workspaceOnly"),
            http_deny: root.texts("gateway.tools.deny"),
            http_allow: root.texts("gateway.tools.allow"),
        }
    }
}

/// The profile that is written; the row's default is what none means.
fn profile(scope: &Reader<'_>) -> Option<Profile> {
    if !scope.is_set("profile") {
        return None;
    }
    scope.text("profile").and_then(|word| Profile::of(&word))
}

/// A map of scopes.
fn each<T>(holder: &Reader<'_>, path: &str, of: fn(&mut Issues<'_>, &Value) -> T) -> Vec<(String, T)> {
    let read = |(name, value): (String, Value)| {
        let scope = of(&mut Issues::new(holder, format!("{path}.{name}")), &value);
        (name, scope)
    };
    holder.values(path).into_iter().map(read).collect()
}

/// The lists that an object holds under `name`.
fn one(holder: &Reader<'_>, path: &str, name: &str) -> Lists {
    let value = holder.object(path).remove(name).unwrap_or_default();
    Lists::of(&mut Issues::new(holder, format!("{path}.{name}")), &value)
}

impl Scope {
    /// What an agent's `tools` say.
    pub(super) fn of_agent(agent: &Reader<'_>) -> Scope {
        let value = Value::Object(agent.object("tools"));
        let mut issues = Issues::new(agent, "tools".to_owned());
        let ProviderScope { profile, lists } = ProviderScope::of(&mut issues, &value);
        let sandbox = issues.below("sandbox.tools", |issues| Lists::of(issues, &value["sandbox"]["tools"]));
        Scope {
            profile,
            lists,
            by_provider: issues.each(&value, "byProvider", ProviderScope::of),
            by_sender: issues.each(&value, "toolsBySender", Lists::of),
            sandbox,
            detects_loops: issues.flag(&value["loopDetection"], "loopDetection", "enabled"),
        }
    }
}

impl ProviderScope {
    fn of(issues: &mut Issues<'_>, value: &Value) -> ProviderScope {
        let lists = Lists::of(issues, value);
        let written = &value["profile"];
        let profile = written.as_str().and_then(Profile::of);
        if profile.is_none() && !written.is_null() {
            issues.add("profile", "Invalid option: expected one of \"minimal\"|\"coding\"|\"messaging\"|\"full\"");
        }
        ProviderScope { profile, lists }
    }
}

impl Lists {
    fn read(scope: &Reader<'_>, has_also: bool) -> Lists {
        let lists = Lists {
            allow: scope.texts_if_set("allow"),
            also_allow: if has_also { scope.texts_if_set("alsoAllow") } else { None },
            deny: scope.texts_if_set("deny"),
        };
        if lists.contradicts() {
            scope.issue("alsoAllow", format!("{} {BOTH}", scope.place()));
        }
        lists
    }

    /// What an object says. What is not a list of texts is refused: a policy that is misread lets too much pass.
    fn of(issues: &mut Issues<'_>, value: &Value) -> Lists {
        if !value.is_null() && !value.is_object() {
            issues.add("", "Invalid input: expected object");
            return Lists::default();
        }
        let mut list = |name: &str| issues.texts(&value[name], name);
        let lists = Lists { allow: list("allow"), also_allow: list("alsoAllow"), deny: list("deny") };
        if lists.contradicts() {
            let message = format!("{} {BOTH}", issues.place());
            issues.add("alsoAllow", &message);
        }
        lists
    }

    /// Whether both ways of allowing are used.
    fn contradicts(&self) -> bool {
        let is_filled = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        is_filled(&self.allow) && is_filled(&self.also_allow)
    }
}

impl Group {
    /// Whether it matters who speaks in it.
    pub(super) fn has_senders(&self) -> bool {
        !self.by_sender.is_empty()
    }

    /// The groups of a channel or of an account of one.
    pub(super) fn all(holder: &Reader<'_>) -> Vec<Group> {
        let groups = holder.object("groups");
        let mut issues = Issues::new(holder, "groups".to_owned());
        let group = |(id, value): (&String, &Value)| {
            let lists = (!value["tools"].is_null())
                .then(|| issues.below(&format!("{id}.tools"), |issues| Lists::of(issues, &value["tools"])));
            let by_sender = issues.below(id, |issues| issues.each(value, "toolsBySender", Lists::of));
            let is_said = lists.is_some() || !by_sender.is_empty();
            is_said.then(|| Group { id: id.clone(), lists, by_sender })
        };
        groups.iter().filter_map(group).collect()
    }
}

impl LoopDetection {
    /// Both places may be written; the stricter one wins (TOOL keys of `config.md`).
    fn read(hardening: &Reader<'_>, tools: &Reader<'_>) -> LoopDetection {
        let names = [
            ("history_size", "historySize"),
            ("warning_threshold", "warningThreshold"),
            ("critical_threshold", "criticalThreshold"),
            ("global_circuit_breaker_threshold", "globalCircuitBreakerThreshold"),
        ];
        let number = |reader: &Reader<'_>, name: &str| {
            let number = usize::try_from(reader.int(name)).unwrap_or(LOOP_HISTORY_MAX);
            number.clamp(1, LOOP_HISTORY_MAX)
        };
        let of = |reader: &Reader<'_>, names: [&str; 4]| names.map(|name| number(reader, name));
        let [ours, theirs] = [of(hardening, names.map(|(ours, _)| ours)), of(tools, names.map(|(_, theirs)| theirs))];
        for (reader, numbers, name) in
            [(hardening, ours, names.map(|(ours, _)| ours)), (tools, theirs, names.map(|(_, theirs)| theirs))]
        {
            for (low, high) in [(1, 2), (2, 3)] {
                if numbers[low] >= numbers[high] {
                    let message =
                        format!("{} ({}) must be below {} ({})", name[low], numbers[low], name[high], numbers[high]);
                    reader.issue(name[low], message);
                }
            }
        }
        let detects = |name: &str| {
            let name = format!("detectors.{name}");
            // One that is switched off in one place is on when the other says so.
            match (hardening.flag_if_set(&name), tools.flag_if_set(&name)) {
                (None, None) => true,
                (ours, theirs) => ours == Some(true) || theirs == Some(true),
            }
        };
        let is_required = hardening.flag_if_set("enabled") == Some(true);
        let is_on = match (hardening.flag_if_set("enabled"), tools.flag_if_set("enabled")) {
            (None, None) => true,
            (_, theirs) => is_required || theirs == Some(true),
        };
        let strictest = |idx: usize| ours[idx].min(theirs[idx]);
        LoopDetection {
            is_on,
            is_required,
            history_max: ours[0].max(theirs[0]).max(strictest(3)),
            warning: strictest(1),
            critical: strictest(2),
            breaker: strictest(3),
            generic_repeat: detects("genericRepeat"),
            known_poll: detects("knownPollNoProgress"),
            ping_pong: detects("pingPong"),
        }
    }
}

/// Where the values that are read stand, and what is wrong with them.
struct Issues<'a> {
    holder: &'a Reader<'a>,
    path: String,
}

impl<'a> Issues<'a> {
    fn new(holder: &'a Reader<'a>, path: String) -> Issues<'a> {
        Issues { holder, path }
    }

    fn place(&self) -> String {
        match self.holder.place() {
            "" => self.path.clone(),
            place => format!("{place}.{}", self.path),
        }
    }

    fn add(&mut self, name: &str, message: &str) {
        let path = if name.is_empty() { self.path.clone() } else { format!("{}.{name}", self.path) };
        self.holder.issue(&path, message.to_owned());
    }

    fn below<T>(&mut self, name: &str, read: impl FnOnce(&mut Issues<'_>) -> T) -> T {
        let path = format!("{}.{name}", self.path);
        read(&mut Issues { holder: self.holder, path })
    }

    fn each<T>(&mut self, value: &Value, name: &str, of: fn(&mut Issues<'_>, &Value) -> T) -> Vec<(String, T)> {
        let empty = Map::new();
        let members = match &value[name] {
            Value::Object(members) => members,
            Value::Null => &empty,
            _ => {
                self.add(name, "Invalid input: expected object");
                &empty
            }
        };
        let read = |(key, value): (&String, &Value)| {
            (key.clone(), self.below(&format!("{name}.{key}"), |issues| of(issues, value)))
        };
        members.iter().map(read).collect()
    }

    fn texts(&mut self, value: &Value, name: &str) -> Option<Vec<String>> {
        if value.is_null() {
            return None;
        }
        let texts = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
        });
        if texts.is_none() {
            self.add(name, "Invalid input: expected a list of texts");
        }
        texts
    }

    fn flag(&mut self, value: &Value, holder: &str, name: &str) -> Option<bool> {
        match &value[name] {
            Value::Null => None,
            Value::Bool(flag) => Some(*flag),
            _ => {
                self.add(&format!("{holder}.{name}"), "Invalid input: expected boolean");
                None
            }
        }
    }
}
