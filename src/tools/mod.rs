//! Tools: what an agent may do besides speaking.
//!
//! [`TOOLS`] is the table: name, what a model is told of it, what it takes, and the function that reads a call of it.
//! A call that was read is [`Prepared`]: it says what it would do, is judged by that, and then runs. [`Scene`] is all
//! that a tool sees of the program, [`Output`] what it gives back, [`ToolError`] what it says when it cannot. What only
//! the program can do, a tool asks for with an [`Order`].
//! [`policy`] says which tools an agent may use, [`guard`] when a run goes in circles. [`workspace`] opens an agent's
//! files, [`text`] reads them without losing how they were written, [`change`] changes several of them or none, [`diff`]
//! shows what changed. [`processes`] owns every command that runs. What the program lends a tool while it works are its
//! [`Hands`].
//!
//! **Invariant:** a tool's arguments are a model's words: decoded into types before anything is done, refused with what
//! is wrong with them, and never read again: what is judged is what runs. **Invariant:** what a tool gives back is
//! bounded. **Invariant:** a tool asks nobody for leave; whoever calls it has judged the call.

pub mod apply_patch;
pub mod edit;
pub mod exec;
pub mod exec_policy;
pub mod guard;
pub mod mcp;
pub mod policy;
pub mod process;
pub mod processes;
pub mod read;
pub mod sandbox;
pub mod session_status;
pub mod sessions_spawn;
pub mod subagents;
pub mod web;
pub mod write;

pub mod change;
pub mod diff;
pub mod files;
pub mod text;
pub mod workspace;

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::processes::{Background, Processes};
use crate::config::load::Loaded;
use crate::config::settings::Settings;
use crate::config::settings::exec::{Ask, Host, Security};
use crate::defender::request::ActionRequest;
use crate::defender::rules::Rules;
use crate::protocol::params::{self, Params};
use crate::protocol::version::Protocol;
use crate::runtime::stop::Stop;

/// One tool.
pub struct Tool {
    /// What a model calls it: `[a-z0-9_]{1,64}`.
    pub name: &'static str,
    /// What a model is told of it.
    pub description: &'static str,
    /// One line for the list of tools in the system prompt.
    pub summary: &'static str,
    /// JSON schema of its arguments.
    pub parameters: fn() -> Value,
    /// What doing it twice would do.
    pub effect: Effect,
    /// Whether it can do anything as configured: what cannot is offered to nobody.
    pub is_offered: fn(&Settings) -> bool,
    prepare: fn(&Value) -> Result<Box<dyn Prepared>, ToolError>,
}

impl Tool {
    /// Reads a call of it. Others come by [`policy::MayCall::prepare`].
    ///
    /// # Errors
    /// [`ToolError::Arguments`], in words for the model.
    fn prepare(&self, arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
        (self.prepare)(arguments)
    }
}

/// A tool that may be called, whoever it belongs to.
#[derive(Clone, Copy)]
pub enum Callable<'a> {
    /// One of ours.
    Own(&'static Tool),
    /// One of a server.
    Remote(&'a mcp::Offered),
}

impl Callable<'_> {
    /// What a model calls it.
    pub fn name(&self) -> &str {
        match self {
            Callable::Own(tool) => tool.name,
            Callable::Remote(offered) => &offered.tool().name,
        }
    }

    /// What doing it twice would do. Of a stranger's nobody knows.
    pub fn effect(&self) -> Effect {
        match self {
            Callable::Own(tool) => tool.effect,
            Callable::Remote(_) => Effect::Once,
        }
    }

    fn prepare(&self, arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
        match self {
            Callable::Own(tool) => tool.prepare(arguments),
            Callable::Remote(offered) => offered.prepare(arguments),
        }
    }
}

/// What a call does to the world, which says what becomes of one that a kill interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// None: it only looks, and may be made again.
    None,
    /// It is carried out under a key that makes a second time nothing ([`Order`]).
    Keyed,
    /// It may have been made, and is never made again by itself.
    Once,
}

/// A call that was read.
pub trait Prepared {
    /// What of it is to be judged: its command, address, file, words. Who asks and where is filled in by the judge.
    fn parts(&self, scene: &Scene<'_>) -> ActionRequest;

    /// What making this very call twice would do, where that is not what [`Tool::effect`] says of its tool.
    fn effect(&self) -> Option<Effect> {
        None
    }

    /// Binds it to what it would run, right before leave is asked for that: nothing but what was bound runs then. `None`:
    /// it runs no command.
    ///
    /// # Errors
    /// [`ToolError`], in words for the model: there is nothing to run.
    fn bind(&mut self, scene: &Scene<'_>) -> Result<Option<Command>, ToolError> {
        let _ = scene;
        Ok(None)
    }

    /// Does it.
    ///
    /// # Errors
    /// [`ToolError`], in words for the model.
    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError>;
}

/// Every tool, in the order models are told of them.
pub static TOOLS: &[Tool] = &[
    read::TOOL,
    write::TOOL,
    edit::TOOL,
    apply_patch::TOOL,
    exec::TOOL,
    process::TOOL,
    session_status::TOOL,
    sessions_spawn::TOOL,
    subagents::TOOL,
    web::fetch::TOOL,
    web::search::TOOL,
];

/// The tool that runs commands.
pub const EXEC: &str = "exec";
/// The tool that looks after those in the background.
pub const PROCESS: &str = "process";
/// The tool that starts a run of its own.
pub const SPAWN: &str = "sessions_spawn";
/// The tool that looks after those.
pub const SUBAGENTS: &str = "subagents";

/// The tool of this name.
pub fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name)
}

/// What a tool may look at.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The agent's directory.
    pub workspace: &'a Path,
    /// The session it is called in.
    pub session: &'a session_status::Facts,
    /// The configuration in force when its run began.
    pub config: &'a Loaded,
    /// The defender's rules then: what a call comes upon only while it runs, such as where an address leads to, is judged
    /// by them too.
    pub rules: &'a Rules,
    /// Where its run is told to stop.
    pub stop: &'a Stop,
    /// What the program lends it.
    pub hands: &'a dyn Hands,
}

/// What the program lends a tool while it works.
pub trait Hands: fmt::Debug {
    /// The owner of every command; `None`: none can be run.
    fn processes(&self) -> Option<Processes>;

    /// Shows how far it is.
    fn tell(&self, progress: Progress);
}

/// How far a tool is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// In words.
    pub text: String,
    /// As values.
    pub details: Value,
}

/// Nothing is lent: for who only wants to know what a call would do.
#[derive(Debug, Clone, Copy)]
pub struct NoHands;

impl Hands for NoHands {
    fn processes(&self) -> Option<Processes> {
        None
    }

    fn tell(&self, _: Progress) {}
}

/// A command, bound: what leave is asked for, and what runs then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// As a line for a shell.
    pub text: String,
    /// The words.
    pub argv: Vec<String>,
    /// The program's path, without links.
    pub program: PathBuf,
    /// Where it begins, without links.
    pub cwd: PathBuf,
    /// Names of the variables that the call gives it.
    pub env_names: Vec<String>,
    /// Stands for the words, the place, the environment and what lies in the files it names.
    pub digest: String,
    /// Where it runs.
    pub host: Host,
    /// Which commands run there.
    pub security: Security,
    /// When a person is asked.
    pub ask: Ask,
}

/// What a tool gives back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// Words.
    pub text: String,
    /// A picture.
    pub image: Option<Image>,
    /// The same as values, for programs that show what a tool did.
    pub details: Option<Value>,
    /// What is to be done by whoever called the tool, whose answer then stands for its words.
    pub order: Option<Order>,
    /// A command that goes on in the background: written down with the words that tell of it, until its end was told.
    pub background: Option<Background>,
}

/// What a tool asks the program to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Start a run.
    Spawn(Box<sessions_spawn::Spawn>),
    /// Look after runs that were started.
    Subagents(subagents::Ask),
}

/// A picture that a tool gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `image/png`, …
    pub mime: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why a tool did not do what it was asked, in words for the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// Its arguments cannot be used.
    #[error("{0}")]
    Arguments(String),
    /// It would lead out of where it may go.
    #[error("{0}")]
    Outside(String),
    /// The operating system refuses.
    #[error("{0}")]
    Io(String),
    /// What was asked for is not to be had.
    #[error("{0}")]
    Failed(String),
}

impl ToolError {
    /// What kind of reason it is.
    pub fn code(&self) -> Code {
        match self {
            ToolError::Arguments(_) => Code::InvalidArgs,
            ToolError::Outside(_) => Code::PathOutsideRoot,
            ToolError::Io(_) => Code::IoError,
            ToolError::Failed(_) => Code::ExecutionFailed,
        }
    }
}

/// Why a call came to nothing, in a word for programs (TOOL-19).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Its arguments cannot be used.
    InvalidArgs,
    /// There is no such tool.
    UnsupportedTool,
    /// The policy denies it ([`policy`]).
    PolicyDenied,
    /// It was made too often, and to no end.
    LoopCritical,
    /// It would lead out of where it may go.
    PathOutsideRoot,
    /// The operating system refuses.
    IoError,
    /// It was made, and failed.
    ExecutionFailed,
}

impl Code {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgs => "invalid_args",
            Code::UnsupportedTool => "unsupported_tool",
            Code::PolicyDenied => "policy_denied",
            Code::LoopCritical => "loop_critical",
            Code::PathOutsideRoot => "path_outside_root",
            Code::IoError => "io_error",
            Code::ExecutionFailed => "execution_failed",
        }
    }
}

/// A model's arguments as a tool's own type.
fn decode<P: Params>(tool: &str, arguments: &Value) -> Result<P, ToolError> {
    // The same decoder that reads what clients send, so the same words for the same mistakes.
    params::decode(tool, Some(&arguments.to_string()), Protocol::V4)
        .map_err(|error| ToolError::Arguments(error.message.replacen(" params: ", " arguments: ", 1)))
}

/// The same of arguments that may have other names, each with the one it stands for.
fn decode_named<P: Params>(tool: &str, arguments: &Value, aliases: &[(&str, &str)]) -> Result<P, ToolError> {
    decode(tool, &named(arguments, aliases)?)
}

/// Arguments by their own names.
fn named(arguments: &Value, aliases: &[(&str, &str)]) -> Result<Value, ToolError> {
    let mut arguments = arguments.clone();
    let Some(object) = arguments.as_object_mut() else { return Ok(arguments) };
    for &(alias, name) in aliases {
        let Some(value) = object.shift_remove(alias) else { continue };
        if *object.entry(name).or_insert_with(|| value.clone()) != value {
            return Err(ToolError::Arguments(format!("`{name}` and `{alias}` say different things")));
        }
    }
    Ok(arguments)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::LazyLock;

    use serde_json::json;

    use super::session_status::Facts;
    use super::*;
    use crate::config::load::{self, LoadInputs};
    use crate::defender::rules::RuleInputs;

    /// A scene where nothing is configured and nothing is lent.
    pub(crate) fn scene<T>(workspace: &Path, session: &Facts, then: impl FnOnce(&Scene<'_>) -> T) -> T {
        static CONFIG: LazyLock<Loaded> = LazyLock::new(|| {
            let mut inputs = LoadInputs::of_process();
            inputs.env = Default::default();
            inputs.state_dir = Some("/nonexistent".into());
            load::load(&inputs).expect("nothing configured is fine")
        });
        let rules = Rules::compile(&RuleInputs::default()).expect("the usual rules compile");
        let (config, stop) = (&*CONFIG, &Stop::default());
        then(&Scene { workspace, session, config, rules: &rules, stop, hands: &NoHands })
    }

    /// Reads a call of a tool and makes it there.
    pub(crate) fn call(tool: &Tool, workspace: &Path, session: &Facts, arguments: &Value) -> Result<Output, ToolError> {
        let prepared = tool.prepare(arguments)?;
        scene(workspace, session, |scene| prepared.run(scene))
    }

    /// A workspace with something beside it, and tools called there.
    pub(crate) struct Files {
        temp: tempfile::TempDir,
        workspace: PathBuf,
        pub(crate) facts: Facts,
        config: Loaded,
        rules: Rules,
    }

    impl Files {
        pub(crate) fn new() -> Files {
            Files::configured(json!({}))
        }

        pub(crate) fn configured(config: Value) -> Files {
            let temp = tempfile::TempDir::new().unwrap();
            for folder in ["ws", "state", "beside"] {
                fs::create_dir(temp.path().join(folder)).unwrap();
            }
            let mut inputs = LoadInputs::of_process();
            inputs.env = Default::default();
            inputs.state_dir = Some(temp.path().join("state"));
            inputs.flag_config = Some(temp.path().join("state/openclaw.json"));
            fs::write(temp.path().join("state/openclaw.json"), config.to_string()).unwrap();
            let config = load::load(&inputs).unwrap();
            let rules = Rules::compile(&RuleInputs::default()).unwrap();
            Files { workspace: temp.path().join("ws"), temp, facts: Facts::default(), config, rules }
        }

        pub(crate) fn path(&self, name: &str) -> PathBuf {
            self.workspace.join(name)
        }

        pub(crate) fn beside(&self, name: &str) -> PathBuf {
            self.temp.path().join("beside").join(name)
        }

        pub(crate) fn state(&self) -> PathBuf {
            self.temp.path().join("state")
        }

        pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            fs::write(self.path(name), content).unwrap();
        }

        #[track_caller]
        pub(crate) fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        pub(crate) fn call(&self, tool: &Tool, arguments: Value) -> Result<Output, ToolError> {
            self.call_after(tool, arguments, || ())
        }

        /// The same; something happens after the call was judged and before it is made.
        pub(crate) fn call_after(
            &self,
            tool: &Tool,
            arguments: Value,
            meanwhile: impl FnOnce(),
        ) -> Result<Output, ToolError> {
            let stop = Stop::default();
            let prepared = tool.prepare(&arguments)?;
            prepared.parts(&self.scene(&stop));
            meanwhile();
            prepared.run(&self.scene(&stop))
        }

        /// What of a call is judged.
        pub(crate) fn parts(&self, tool: &Tool, arguments: Value) -> ActionRequest {
            tool.prepare(&arguments).unwrap().parts(&self.scene(&Stop::default()))
        }

        #[track_caller]
        pub(crate) fn refuses(&self, tool: &Tool, arguments: Value, words: &str) {
            let error = self.call(tool, arguments).unwrap_err().to_string();
            assert!(error.contains(words), "{words:?} not in {error:?}");
        }

        fn scene<'a>(&'a self, stop: &'a Stop) -> Scene<'a> {
            let Files { facts, config, rules, .. } = self;
            Scene { workspace: &self.workspace, session: facts, config, rules, stop, hands: &NoHands }
        }
    }

    #[test]
    fn names_are_unique_and_what_every_provider_takes() {
        let names: BTreeSet<&str> = TOOLS.iter().map(|tool| tool.name).collect();
        assert_eq!(names.len(), TOOLS.len());
        for tool in TOOLS {
            let is_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!((1..=64).contains(&tool.name.len()) && tool.name.chars().all(is_fine), "{}", tool.name);
            assert!(!tool.description.is_empty() && !tool.summary.contains('\n'), "{}", tool.name);
            assert_eq!(find(tool.name).map(|found| found.name), Some(tool.name));
        }
    }

    #[test]
    fn every_schema_is_a_closed_object_whose_properties_are_told_of() {
        for tool in TOOLS {
            let schema = (tool.parameters)();
            assert_eq!(schema["type"], "object", "{}", tool.name);
            assert_eq!(schema["additionalProperties"], false, "{}", tool.name);
            for (name, property) in schema["properties"].as_object().expect("properties") {
                assert!(property["description"].is_string(), "{} {name}", tool.name);
            }
        }
    }
}
