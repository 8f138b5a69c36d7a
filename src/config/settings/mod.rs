//! The settings: typed, checked, shared by `Arc`.
//!
//! The only form of the configuration that the rest of the program reads. Built from the layered document by
//! [`build`]; each section's types and reading stand together in one file.

pub mod agents;
pub mod channels;
pub mod exec;
pub mod gateway;
pub mod hooks;
pub mod mcp;
pub mod models;
mod reader;
pub mod runtime;
pub mod sandbox;
pub mod scheduling;
pub mod secrets;
pub mod security;
pub mod tools;
pub mod web;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::document::Context;
use super::environment;
use super::expand::Env;
use super::{Issue, rules};
use reader::{ReadContext, Reader};

/// Everything that was configured, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub gateway: gateway::Gateway,
    pub runtime: runtime::Runtime,
    pub scheduling: scheduling::Scheduling,
    pub store: runtime::Store,
    pub logging: runtime::Logging,
    pub security: security::Security,
    pub hooks: hooks::Hooks,
    pub channels: channels::Channels,
    pub session: agents::Session,
    pub agents: agents::Agents,
    pub mcp: mcp::Mcp,
    pub models: models::Models,
    pub secrets: secrets::Secrets,
    pub tools: tools::Tools,
    pub sandbox: sandbox::Sandbox,
    pub exec: exec::Exec,
    pub ui: agents::Ui,
    pub web: web::Web,
}

/// Settings and what the user should know about where they came from.
#[derive(Debug)]
pub struct Built {
    pub settings: Settings,
    pub warnings: Vec<Issue>,
}

/// Builds settings from a canonical, valid document, the environment and the command line.
///
/// # Errors
/// Every rule across keys that does not hold, and every secret that is not to be had.
pub fn build(config: &Value, dir: &Path, context: &Context, env: &Env) -> Result<Built, Vec<Issue>> {
    build_and_trace(config, dir, context, env).map(|(built, _)| built)
}

/// As [`build`], with the paths of the rows that were read.
fn build_and_trace(
    config: &Value,
    dir: &Path,
    context: &Context,
    env: &Env,
) -> Result<(Built, BTreeSet<String>), Vec<Issue>> {
    let mut layered = environment::layer(config, env, &context.overrides);
    let mut issues = std::mem::take(&mut layered.issues);
    let warnings = std::mem::take(&mut layered.warnings);
    let cx = ReadContext {
        layered: &layered,
        env,
        dir,
        home: context.home.as_deref(),
        issues: RefCell::new(Vec::new()),
        seen: RefCell::new(BTreeSet::new()),
    };
    let root = Reader::new(&cx);
    let settings = Settings {
        gateway: gateway::Gateway::read(&root, &layered, context),
        runtime: runtime::Runtime::read(&root.at("runtime")),
        scheduling: scheduling::Scheduling::read(&root),
        store: runtime::Store::read(&root.at("store")),
        logging: runtime::Logging::read(&root.at("logging")),
        security: security::Security::read(&root.at("security"), &context.state_dir),
        hooks: hooks::Hooks::read(&root.at("hooks")),
        channels: channels::Channels::read(&root),
        session: agents::Session::read(&root.at("session")),
        agents: agents::Agents::read(&root.at("agents"), &context.state_dir),
        mcp: mcp::Mcp::read(&root.at("mcp")),
        models: models::Models::read(&root),
        secrets: secrets::Secrets::read(&root.at("secrets")),
        tools: tools::Tools::read(&root),
        sandbox: sandbox::Sandbox::read(&root, &context.state_dir),
        exec: exec::Exec::read(&root.at("tools")),
        ui: agents::Ui::read(&root.at("ui")),
        web: web::Web::read(&root.at("tools.web")),
    };
    issues.extend(cx.issues.take());
    rules::check(&settings, &mut issues);
    if !issues.is_empty() {
        return Err(issues);
    }
    Ok((Built { settings, warnings }, cx.seen.take()))
}

impl Settings {
    /// When an agent's runs are taken to go in circles. What an agent says for itself holds against `tools`, and not
    /// against `security`.
    pub fn loop_detection(&self, agent: &str) -> tools::LoopDetection {
        let own = self.agents.get(agent).and_then(|agent| agent.tools.detects_loops);
        let loops = self.tools.loops;
        tools::LoopDetection { is_on: own.unwrap_or(loops.is_on) || loops.is_required, ..loops }
    }

    /// Whether it matters who of several people speaks.
    pub fn tells_senders_apart(&self) -> bool {
        let scopes = self.agents.list.iter().map(|agent| &agent.tools).chain([&self.tools.global]);
        scopes.into_iter().any(|scope| !scope.by_sender.is_empty()) || self.channels.tells_senders_apart()
    }
}

#[cfg(test)]
impl Settings {
    /// What an empty document means, for tests of other rooms.
    pub(crate) fn for_tests() -> Settings {
        Settings::of_document(&Value::Object(serde_json::Map::new())).expect("an empty document is valid")
    }

    /// What a document means, for tests of other rooms.
    pub(crate) fn of_document(document: &Value) -> Result<Settings, Vec<Issue>> {
        let context = Context {
            env: super::document::EnvHidden::default(),
            overrides: super::environment::Overrides::default(),
            state_dir: "/state".into(),
            home: Some("/home/ann".into()),
            tailnet: None,
            generated_token: None,
        };
        build(document, Path::new("/etc/claw"), &context, &Env::new()).map(|built| built.settings)
    }
}

#[cfg(test)]
mod tests;
