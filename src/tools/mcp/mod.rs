//! Tools of other programs: a client of the Model Context Protocol for the servers in `mcp.servers`.
//!
//! [`Servers`] owns them: one is started when its tools are first needed, and ends when it is configured no more or the
//! program ends. [`wire`] is the protocol without its transport; [`stdio`] speaks to a program, [`http`] to an address.
//!
//! **Invariant:** a tool of a server passes the same judgement as ours. **Invariant:** a server is a stranger: what it
//! says of its tools is cleaned, and what it answers stands between marks. **Invariant:** a server that cannot be had
//! costs a run its tools and nothing else, and is not tried again at once.

pub mod http;
pub mod stdio;
pub mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::wire::Remote;
use super::policy::wildcard;
use super::{Output, Prepared, Scene, ToolError};
use crate::config::settings::mcp::{Mcp, Place, Server};
use crate::defender::decision::Action;
use crate::defender::request::ActionRequest;
use crate::defender::rules::Rules;
use crate::runtime::stop::Stop;

/// How long a server that could not be had is left alone.
pub const REST: Duration = Duration::from_secs(30);
/// How often a wait for an answer looks whether its run is stopped.
const STOP_LOOK: Duration = Duration::from_millis(25);

/// Why a server did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum McpError {
    /// It cannot be started or reached.
    #[error("it cannot be had: {0}")]
    Start(String),
    /// It has ended.
    #[error("it has ended{0}")]
    Closed(String),
    /// It took too long.
    #[error("it did not answer within {} seconds", .0.as_secs_f32())]
    Late(Duration),
    /// The run was stopped.
    #[error("the run was stopped")]
    Stopped,
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// It does not speak the protocol.
    #[error("{0}")]
    Wire(String),
}

/// A way to a server.
trait Link: Send + Sync {
    /// Asks, and waits for the answer.
    fn ask(&self, method: &str, params: &Value, time_max: Duration, stop: &Stop) -> Result<Value, McpError>;
    /// Tells.
    fn tell(&self, method: &str, params: &Value, stop: &Stop) -> Result<(), McpError>;
    /// Whether it may be asked again.
    fn is_open(&self) -> bool;
    /// Whether its list of tools changed since this was last asked.
    fn has_new_tools(&self) -> bool;
}

/// The servers that are configured. Cloned, it is the same ones.
#[derive(Clone, Default)]
pub struct Servers(Arc<Mutex<HashMap<String, Arc<Known>>>>);

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Servers")
    }
}

/// A server, as it was configured when it was first needed.
struct Known {
    config: Server,
    state: Mutex<State>,
}

enum State {
    /// It has not been needed.
    Idle,
    /// It could not be had, and is left alone until then.
    Resting(Instant),
    Open {
        link: Arc<dyn Link>,
        tools: Arc<Vec<Remote>>,
    },
}

impl Servers {
    /// The tools of all servers. Starts those that are not there; one that cannot be had is named in the log.
    pub fn tools(&self, mcp: &Mcp, rules: &Rules, stop: &Stop) -> Vec<Offered> {
        let mut all = Vec::new();
        for (server, prefix) in mcp.servers.iter().zip(wire::server_names(mcp.servers.iter().map(|s| s.name.as_str())))
        {
            if !server.enabled || stop.why().is_some() {
                continue;
            }
            let known = self.known(server);
            match known.open(&prefix, rules, stop) {
                Ok((_, tools)) => all.extend((0..tools.len()).map(|idx| Offered {
                    server: Arc::clone(&known),
                    tools: Arc::clone(&tools),
                    idx,
                })),
                Err(McpError::Stopped) => break,
                Err(error) => log::warn!("mcp: server {} offers nothing: {error}", server.name),
            }
        }
        self.forget_others(mcp);
        all
    }

    /// Ends every server.
    pub fn stop(&self) {
        self.lock().clear();
    }

    fn known(&self, server: &Server) -> Arc<Known> {
        let mut all = self.lock();
        match all.get(&server.name) {
            Some(known) if known.config == *server => Arc::clone(known),
            _ => {
                let known = Arc::new(Known { config: server.clone(), state: Mutex::new(State::Idle) });
                all.insert(server.name.clone(), Arc::clone(&known));
                known
            }
        }
    }

    /// Ends those that are configured no more.
    fn forget_others(&self, mcp: &Mcp) {
        self.lock().retain(|name, _| mcp.servers.iter().any(|server| server.name == *name));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The way to it, and its tools. Whoever comes while it is being started waits for that.
    fn open(&self, prefix: &str, rules: &Rules, stop: &Stop) -> Result<(Arc<dyn Link>, Arc<Vec<Remote>>), McpError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match &*state {
            State::Resting(until) if Instant::now() < *until => {
                return Err(McpError::Start("it failed a moment ago, and is left alone for a while".to_owned()));
            }
            State::Open { link, tools } if link.is_open() => match link.has_new_tools() {
                false => return Ok((Arc::clone(link), Arc::clone(tools))),
                true => Some(Arc::clone(link)),
            },
            _ => None,
        };
        let opened = known.map_or_else(|| self.start(stop), Ok).and_then(|link| {
            let tools = self.list(&*link, prefix, rules, stop)?;
            Ok((link, Arc::new(tools)))
        });
        *state = match &opened {
            Ok((link, tools)) => State::Open { link: Arc::clone(link), tools: Arc::clone(tools) },
            Err(McpError::Stopped) => State::Idle,
            Err(_) => State::Resting(Instant::now() + REST),
        };
        opened
    }

    fn start(&self, stop: &Stop) -> Result<Arc<dyn Link>, McpError> {
        let Server { name, place, connect_timeout, .. } = &self.config;
        let link: Arc<dyn Link> = match place {
            Place::Program(program) => Arc::new(stdio::Program::start(name, program)?),
            Place::Address { url, headers } => Arc::new(http::Address::new(url, headers)),
        };
        let hello = link.ask("initialize", &wire::hello(), *connect_timeout, stop)?;
        wire::check_hello(&hello).map_err(McpError::Wire)?;
        link.tell("notifications/initialized", &json!({}), stop)?;
        Ok(link)
    }

    fn list(&self, link: &dyn Link, prefix: &str, rules: &Rules, stop: &Stop) -> Result<Vec<Remote>, McpError> {
        let mut listed = Vec::new();
        let mut params = json!({});
        for _ in 0..wire::PAGES_MAX {
            let page = link.ask("tools/list", &params, self.config.connect_timeout, stop)?;
            let (tools, next) = wire::tools(&page);
            listed.extend(tools);
            match next {
                Some(cursor) if listed.len() < wire::TOOLS_MAX => params = json!({ "cursor": cursor }),
                _ => break,
            }
        }
        listed.retain(|(own, description, _)| self.is_wanted(own) && self.is_fine(own, description, rules));
        Ok(wire::named(prefix, listed))
    }

    /// Whether a tool is to be offered.
    fn is_wanted(&self, own: &str) -> bool {
        let fits = |patterns: &Vec<String>| patterns.iter().any(|pattern| wildcard(pattern, own));
        self.config.include.as_ref().is_none_or(fits) && !fits(&self.config.exclude)
    }

    /// Whether what a tool says of itself reads like an order to whoever reads it.
    fn is_fine(&self, own: &str, description: &str, rules: &Rules) -> bool {
        let request = ActionRequest {
            source: "mcp".to_owned(),
            tool: Some(own.to_owned()),
            prompt: Some(description.to_owned()),
            ..ActionRequest::default()
        };
        let decision = rules.evaluate(&request, || false);
        let is_fine = decision.action == Action::Allow;
        if !is_fine {
            let why = decision.reasons.join("; ");
            log::warn!(
                "mcp: tool {own:?} of server {} is left out, because of how it describes itself: {why}",
                self.config.name
            );
        }
        is_fine
    }
}

/// A tool of a server, as a run is offered it.
#[derive(Clone)]
pub struct Offered {
    server: Arc<Known>,
    tools: Arc<Vec<Remote>>,
    idx: usize,
}

impl std::fmt::Debug for Offered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.tool().name)
    }
}

impl Offered {
    /// What it is.
    pub fn tool(&self) -> &Remote {
        &self.tools[self.idx]
    }

    /// Reads a call of it.
    ///
    /// # Errors
    /// Its arguments are no object.
    pub(super) fn prepare(&self, arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
        if !arguments.is_object() {
            return Err(ToolError::Arguments(format!("invalid {} arguments: they are an object", self.tool().name)));
        }
        Ok(Box::new(RemoteCall { tool: self.clone(), arguments: arguments.clone() }))
    }
}

/// A call of a server's tool.
struct RemoteCall {
    tool: Offered,
    arguments: Value,
}

impl Prepared for RemoteCall {
    /// Nobody knows what its tool does with them: whatever reads like a command, an address, a path or words is judged
    /// as one, and all of it for credentials.
    fn parts(&self, _: &Scene<'_>) -> ActionRequest {
        let found = ActionRequest::from_value(&self.arguments, "agent").unwrap_or_default();
        ActionRequest {
            prompt: found.prompt,
            command: found.command,
            url: found.url,
            file: found.file.or_else(|| self.arguments["path"].as_str().map(str::to_owned)),
            secret: Some(self.arguments.to_string()),
            ..ActionRequest::default()
        }
    }

    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        let Offered { server, .. } = &self.tool;
        let tool = self.tool.tool();
        let failed = |error: McpError| ToolError::Failed(format!("MCP server {}: {error}", server.config.name));
        let prefix = tool.name.split("__").next().unwrap_or_default();
        let (link, _) = server.open(prefix, scene.rules, scene.stop).map_err(failed)?;
        let params = json!({ "name": tool.own, "arguments": self.arguments });
        let result = link.ask("tools/call", &params, server.config.request_timeout, scene.stop).map_err(failed)?;
        let (output, is_error) = wire::output(&server.config.name, &result);
        if is_error { Err(ToolError::Failed(output.text)) } else { Ok(output) }
    }
}
