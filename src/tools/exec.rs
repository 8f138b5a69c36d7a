//! `exec`: run a command.
//!
//! A call is read, bound ([`bind`]) and then run as it was bound, in the foreground until it is done, or until it has
//! taken long enough to go on in the background, where `process` looks after it. What it finds in its environment is in
//! [`environment`], what is said of it in [`said`].

pub mod bind;
pub mod environment;
pub mod said;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::bind::{Bound, Parts, Wanted};
use super::processes::{
    About, Background, Confine, Foreground, Input, Launch, Notify, Processes, Program, Promoted, StartError, Waited,
};
use super::sandbox::rule::{self, RuleError, Session};
use super::session_status::Facts;
use super::{Command, Effect, Output, Prepared, Progress, Scene, Tool, ToolError};
use crate::config::settings::exec::{Ask, Exec as Settings, Host, Security};
use crate::defender::request::ActionRequest;
use crate::protocol::params::{Any, Int, Object, Text};

/// Longest command, in characters; a list of words together.
pub const COMMAND_CHARS_MAX: usize = 64 * 1024;
/// Words of a command that is given as a list.
pub const WORDS_MAX: usize = 1024;
/// How long a command is waited for before it goes on in the background: at least and at most.
pub const YIELD: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(120));
/// How long any command may run, whatever is asked for: a week.
pub const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(super) const TOOL: Tool = Tool {
    name: super::EXEC,
    description: "Run a command, and get what it writes. One that takes long goes on in the background: the answer then \
                  names its session, and `process` looks after it; when it ends, that is told here. Start servers and \
                  watchers with background=true, not with a trailing `&`: what a command leaves running ends with it. \
                  Use pty=true for programs that need a terminal. Quote what the shell would take for its own. Begins \
                  in the workspace, or in `workdir` below it.",
    summary: "Run a command, in the background when it takes long",
    parameters,
    effect: Effect::Once,
    is_offered: |settings| settings.exec.security != Some(Security::Deny),
    prepare,
};

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "command": {
                "description": "A line for the shell, or a list of words: a program and what it is given, without a shell",
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            },
            "workdir": { "type": "string", "description": "Where it begins, from the workspace; left out: the workspace" },
            "env": {
                "type": "object", "additionalProperties": { "type": "string" },
                "description": "Variables it finds beside the usual ones, word by word",
            },
            "yieldMs": {
                "type": "integer", "minimum": 0,
                "description": "Milliseconds until it goes on in the background; usually 10000",
            },
            "background": { "type": "boolean", "description": "Let it go on in the background at once; it can be written to" },
            "timeoutSeconds": { "type": "integer", "minimum": 0, "description": "Longest time it may run; 0: any" },
            "pty": { "type": "boolean", "description": "Give it a terminal" },
            "elevated": { "type": "boolean", "description": "Run it without its sandbox, where that is allowed" },
            "host": {
                "type": "string", "enum": ["auto", "sandbox", "gateway", "node"],
                "description": "Where it runs; left out: as configured",
            },
            "security": {
                "type": "string", "enum": ["deny", "allowlist", "full"],
                "description": "Which commands run; no more than is configured",
            },
            "ask": {
                "type": "string", "enum": ["off", "on-miss", "always"],
                "description": "When a person is asked; no less than is configured",
            },
        },
        "required": ["command"],
        "additionalProperties": false,
    })
}

crate::params! {
    /// What is to be run, and how.
    pub struct ExecArguments {
        command: Any = "command",
        workdir: Option<Text<0, 4096>> = "workdir",
        cwd: Option<Text<0, 4096>> = "cwd",
        env: Option<Object> = "env",
        yield_ms: Option<Int<0, { i64::MAX }>> = "yieldMs",
        background: Option<bool> = "background",
        timeout: Option<Int<0, { i64::MAX }>> = "timeout",
        timeout_seconds: Option<Int<0, { i64::MAX }>> = "timeoutSeconds",
        timeout_ms: Option<Int<0, { i64::MAX }>> = "timeoutMs",
        pty: Option<bool> = "pty",
        elevated: Option<bool> = "elevated",
        host: Option<Text<0, 32>> = "host",
        security: Option<Text<0, 32>> = "security",
        ask: Option<Text<0, 32>> = "ask",
    }
}

/// A call of it, read.
#[derive(Debug)]
struct Exec {
    command: Words,
    /// As it is shown and judged.
    text: String,
    cwd: String,
    env: Vec<(String, String)>,
    yields: Option<Duration>,
    is_background: bool,
    /// `None`: as configured.
    timeout: Option<Duration>,
    has_terminal: bool,
    is_elevated: bool,
    host: Option<Host>,
    security: Option<Security>,
    ask: Option<Ask>,
    bound: Option<Bound>,
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Words {
    /// A line for the shell.
    Line(String),
    /// A program and its words.
    List(Vec<String>),
}

impl Words {
    fn read(value: &Value) -> Result<Words, String> {
        let wrong = "command must be a line or a list of words";
        let words = match value {
            Value::String(line) => Words::Line(line.clone()),
            Value::Array(list) => {
                let list: Option<Vec<String>> = list.iter().map(|word| Some(word.as_str()?.to_owned())).collect();
                Words::List(list.ok_or(wrong)?)
            }
            _ => return Err(wrong.to_owned()),
        };
        let (chars, is_empty, has_end) = match &words {
            Words::Line(line) => (line.chars().count(), line.trim().is_empty(), line.contains('\0')),
            Words::List(list) if list.len() > WORDS_MAX => {
                return Err(format!("command has more than {WORDS_MAX} words"));
            }
            Words::List(list) => (
                list.iter().map(|word| word.chars().count()).sum(),
                list.first().is_none_or(|program| program.trim().is_empty()),
                list.iter().any(|word| word.contains('\0')),
            ),
        };
        match () {
            () if is_empty => Err("the command says nothing".to_owned()),
            () if has_end => Err("the command has a character that no command can hold".to_owned()),
            () if chars > COMMAND_CHARS_MAX => Err(format!("command has more than {COMMAND_CHARS_MAX} characters")),
            () => Ok(words),
        }
    }

    /// As a line for a shell: what is judged, and what people are shown.
    fn line(&self) -> String {
        match self {
            Words::Line(line) => line.clone(),
            Words::List(list) => list.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        }
    }

    fn argv(&self) -> Vec<OsString> {
        match self {
            Words::Line(line) => ["/bin/sh", "-c", line].map(OsString::from).into(),
            Words::List(list) => list.iter().map(OsString::from).collect(),
        }
    }
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    let wanted: ExecArguments = super::decode(super::EXEC, arguments)?;
    read(wanted).map(|exec| Box::new(exec) as Box<dyn Prepared>).map_err(ToolError::Arguments)
}

fn read(wanted: ExecArguments) -> Result<Exec, String> {
    let command = Words::read(&wanted.command.0)?;
    let mut env = Vec::new();
    for (name, value) in wanted.env.map(|env| env.0).unwrap_or_default() {
        let value = value.as_str().ok_or_else(|| format!("env.{} must be string", name.escape_debug()))?;
        env.push((name, value.to_owned()));
    }
    environment::check(&env)?;
    let word = |text: &Option<Text<0, 32>>| text.as_ref().map(|text| text.0.trim().to_ascii_lowercase());
    let known = |what: &str, word: &str| format!("{what} {} is none there is", word.escape_debug());
    let host = word(&wanted.host).filter(|word| !word.is_empty());
    let host = host.map(|word| Host::parse(&word).ok_or_else(|| known("host", &word))).transpose()?;
    let security = word(&wanted.security).filter(|word| !word.is_empty());
    let security = security.map(|word| Security::parse(&word).ok_or_else(|| known("security", &word))).transpose()?;
    let ask = word(&wanted.ask).filter(|word| !word.is_empty());
    let ask = ask.map(|word| Ask::parse(&word).ok_or_else(|| known("ask", &word))).transpose()?;
    let amount = |n: i64| u64::try_from(n).unwrap_or(0);
    let seconds = wanted.timeout_seconds.or(wanted.timeout).map(|s| Duration::from_secs(amount(s.0)));
    let timeout = seconds.or(wanted.timeout_ms.map(|ms| Duration::from_millis(amount(ms.0))));
    let cwd = wanted.workdir.or(wanted.cwd).map(|cwd| cwd.0).unwrap_or_default();
    if cwd.contains('\0') || (!cwd.is_empty() && cwd.trim().is_empty()) {
        return Err("workdir names no directory".to_owned());
    }
    Ok(Exec {
        text: command.line(),
        command,
        cwd,
        env,
        yields: wanted.yield_ms.map(|ms| Duration::from_millis(amount(ms.0))),
        is_background: wanted.background == Some(true),
        timeout,
        has_terminal: wanted.pty == Some(true),
        is_elevated: wanted.elevated == Some(true),
        host,
        security,
        ask,
        bound: None,
    })
}

impl Exec {
    /// Where it runs, which commands do, and when a person is asked: what is configured, and what the call adds to that.
    fn policy(&self, settings: &Settings) -> Result<(Host, Security, Ask), String> {
        let wanted = self.host.filter(|host| *host != Host::Auto);
        let host = match (wanted, settings.host) {
            (None, Host::Auto) => Host::Sandbox,
            (None, configured) => configured,
            (Some(host), configured) if host == configured || configured == Host::Auto => host,
            (Some(host), configured) => {
                return Err(format!(
                    "exec host not allowed (requested {}; configured host is {}; set tools.exec.host={0} or auto to allow \
                     this override).",
                    host.as_str(),
                    configured.as_str()
                ));
            }
        };
        if host == Host::Node {
            return Err("exec host=node requires a paired node, and none is connected".to_owned());
        }
        if self.is_elevated && !settings.allow_elevated {
            return Err("elevated is not available: tools.shell_policy.allow_elevated is false".to_owned());
        }
        let host = if self.is_elevated { Host::Gateway } else { host };
        // In the sandbox the sandbox decides; on the machine itself, the list.
        let of_host = if host == Host::Gateway { Security::Allowlist } else { Security::Full };
        let security = settings.security.unwrap_or(of_host);
        let security = self.security.map_or(security, |wanted| wanted.min(security));
        let ask = self.ask.map_or(settings.ask, |wanted| wanted.max(settings.ask));
        Ok((host, security, ask))
    }

    fn bind_to(&self, scene: &Scene<'_>) -> Result<Bound, String> {
        let settings = &scene.config.settings.exec;
        let path = environment::path(std::env::var_os("PATH").as_deref(), &settings.path_prepend, scene.workspace);
        let joined = std::env::join_paths(&path).map_err(|error| error.to_string())?;
        let script = match &self.command {
            Words::Line(line) => Some(line.as_str()),
            Words::List(_) => None,
        };
        Bound::of(Wanted {
            argv: self.command.argv(),
            script,
            cwd: Path::new(&self.cwd),
            root: scene.workspace,
            is_inside: settings.workspace_only,
            path: &path,
            env: &|cwd| environment::of(std::env::vars_os(), &joined, cwd, self.has_terminal, &self.env),
        })
    }

    fn input(&self) -> Input {
        match (self.has_terminal, self.is_background) {
            (true, _) => Input::Terminal,
            // Who starts it in the background means to look after it.
            (false, true) => Input::Pipe,
            (false, false) => Input::Nothing,
        }
    }
}

impl Prepared for Exec {
    /// The line as a shell would read it, with the variables it is given before it: their values may become words.
    fn parts(&self, _: &Scene<'_>) -> ActionRequest {
        let env = self.env.iter().map(|(name, value)| format!("{name}={} ", quoted(value)));
        let command = env.chain([self.text.clone()]).collect();
        ActionRequest { command: Some(command), ..ActionRequest::default() }
    }

    fn bind(&mut self, scene: &Scene<'_>) -> Result<Option<Command>, ToolError> {
        let (host, security, ask) = self.policy(&scene.config.settings.exec).map_err(ToolError::Failed)?;
        let bound = self.bind_to(scene).map_err(ToolError::Failed)?;
        let command = Command {
            text: self.text.clone(),
            argv: bound.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            program: bound.program.clone(),
            cwd: bound.cwd.clone(),
            env_names: self.env.iter().map(|(name, _)| name.clone()).collect(),
            digest: bound.digest(),
            host,
            security,
            ask,
        };
        self.bound = Some(bound);
        Ok(Some(command))
    }

    fn run(mut self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        let Some(mut bound) = self.bound.take() else {
            return Err(ToolError::Failed("not done: the command was not bound".to_owned()));
        };
        let Some(processes) = scene.hands.processes() else {
            return Err(ToolError::Failed("no commands can be run here".to_owned()));
        };
        bound.check().map_err(ToolError::Failed)?;
        let cwd = bound.cwd.clone();
        let started = self.start(scene, &processes, bound).map_err(ToolError::Failed)?;
        self.follow(scene, started, &cwd)
    }
}

/// What holds a command, as the configuration has it for its session; without that it is not run.
fn confinement(scene: &Scene<'_>, wants_elevated: bool) -> Result<Confine, String> {
    let Facts { agent, key, .. } = scene.session;
    let session = Session { agent, key, workspace: scene.workspace, wants_elevated };
    let decision = rule::decide(scene.config, session);
    let home = std::env::home_dir();
    let confinement = decision.confinement(scene.config, home.as_deref()).map_err(|error| error.told())?;
    Ok(Box::new(move |command| confinement.confine(command).map_err(io::Error::other)))
}

/// Why a command was not started.
fn refused(error: &StartError) -> String {
    let refusal = match error {
        StartError::Failed(source) => super::sandbox::refusal(source),
        _ => None,
    };
    refusal.map_or_else(|| format!("not done: {error}"), |refusal| RuleError::from(refusal).told())
}

impl Exec {
    fn start(&self, scene: &Scene<'_>, processes: &Processes, bound: Bound) -> Result<Foreground, String> {
        let settings = &scene.config.settings.exec;
        let (host, ..) = self.policy(settings)?;
        let confine = confinement(scene, host == Host::Gateway)?;
        let Parts { argv, program, file, dir, env } = bound.into_parts();
        let launch = Launch {
            program: file.map_or(Program::Path(program), Program::File),
            argv,
            env,
            cwd: dir,
            input: self.input(),
            timeout: self.time_max(settings),
            confine: Some(confine),
        };
        let cwd = scene.workspace.join(&self.cwd);
        let about = About {
            scope: scene.session.agent.clone(),
            session: Some(scene.session.key.clone()).filter(|key| !key.is_empty()),
            command: self.text.clone(),
            cwd: cwd.display().to_string(),
            notify: Notify { on_exit: settings.notify_on_exit, on_empty_success: settings.notify_on_empty_success },
            kept: settings.kept,
        };
        processes.start(launch, about).map_err(|error| refused(&error))
    }

    fn time_max(&self, settings: &Settings) -> Option<Duration> {
        match self.timeout {
            Some(Duration::ZERO) => None,
            Some(asked) => Some(asked.min(TIME_MAX)),
            None => settings.timeout,
        }
    }

    /// Waits for it until it is done, or goes on in the background, or its run is stopped.
    fn follow(&self, scene: &Scene<'_>, mut process: Foreground, cwd: &Path) -> Result<Output, ToolError> {
        let settings = &scene.config.settings.exec;
        let patience = match (self.is_background, self.yields) {
            (true, _) => Duration::ZERO,
            (false, asked) => asked.unwrap_or(settings.background_after).clamp(YIELD.0, YIELD.1),
        };
        let mut until = Some(Instant::now() + patience);
        let (pid, id, started_ms) = (process.pid(), process.id, process.started_ms());
        let cwd = cwd.display().to_string();
        let mut warning = None;
        let waited = loop {
            let mut show = |tail: String| {
                let details = json!({
                    "status": "running", "sessionId": id.to_string(), "pid": pid, "startedAt": started_ms, "cwd": cwd,
                    "tail": tail,
                });
                scene.hands.tell(Progress { text: tail, details });
            };
            match process.wait(until, &|| scene.stop.why().is_some(), &mut show) {
                Waited::Late => match process.promote(settings.background_max) {
                    Promoted::Background(tail) => {
                        let background = Background {
                            id,
                            pid,
                            session: Some(scene.session.key.clone()).filter(|key| !key.is_empty()),
                            command: self.text.clone(),
                            started_ms,
                            notify: Notify {
                                on_exit: settings.notify_on_exit,
                                on_empty_success: settings.notify_on_empty_success,
                            },
                        };
                        return Ok(said::running(background, &tail, &cwd));
                    }
                    Promoted::Full if self.is_background => {
                        process.end();
                        return Err(ToolError::Failed(format!(
                            "not done: {} commands run in the background already, which is the limit",
                            settings.background_max
                        )));
                    }
                    Promoted::Full => {
                        let max = settings.background_max;
                        warning = Some(format!(
                            "Warning: {max} commands run in the background already, so this one was waited for."
                        ));
                        until = None;
                    }
                    // What is told of it is there already.
                    Promoted::Ended => until = None,
                },
                waited => break waited,
            }
        };
        match waited {
            Waited::Ended(ended) => Ok(said::ended(&ended, self.time_max(settings), &cwd, warning.as_deref())),
            _ => {
                process.end();
                Err(ToolError::Failed("Command aborted: its run was stopped".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
