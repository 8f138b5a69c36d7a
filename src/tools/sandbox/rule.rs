//! Which sandbox a session's commands get, and by which rule of the configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::kernel::Kernel;
use super::selftest::{self, NotReady};
use super::{Access, Confinement, LIMITS, Mode, Network, SandboxError, Wanted};
use crate::config::load::Loaded;
use crate::config::settings::agents::SessionScope;
use crate::config::settings::sandbox::{Backend, SharedBy, WorkspaceAccess};
use crate::protocol::session_key::{KeyRules, SessionKey};
use crate::runtime::{beneath, digest};

/// How long what a sandbox keeps stays after its last use.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Directories of a home that hold keys and passwords, out of sight also where the home is not.
const KEYS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    ".config/gcloud",
    ".config/gh",
    ".config/openclaw",
    ".cargo/credentials.toml",
    ".local/share/keyrings",
    ".mozilla",
    ".password-store",
    ".openclaw",
    ".openclaw-rs",
];

/// A word of the decision, with the rule that says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruled<T> {
    pub value: T,
    /// The key of the configuration and its value, or what holds without one.
    pub rule: String,
}

fn ruled<T>(value: T, rule: impl Into<String>) -> Ruled<T> {
    Ruled { value, rule: rule.into() }
}

/// What was decided for a session's commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub mode: Ruled<Mode>,
    pub network: Ruled<Network>,
    pub access: Ruled<Access>,
    /// The agent's directory.
    pub workspace: PathBuf,
    /// What the sandbox keeps, seen as `/tmp`.
    pub scratch: Ruled<PathBuf>,
    /// This build cannot make what is configured.
    pub is_unbuilt: bool,
}

/// Whose command it is.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    pub agent: &'a str,
    /// Its whole key.
    pub key: &'a str,
    /// The agent's directory.
    pub workspace: &'a Path,
    /// The command is asked to run on the host, by somebody who may ask that.
    pub wants_elevated: bool,
}

/// Why a command is not run.
#[derive(Debug, Error)]
pub enum RuleError {
    /// The sandbox does not hold here.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// It cannot be put up.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Another sandbox is configured than this build can make.
    #[error(
        "commands are off: tools.shell_policy.sandbox_backend asks for a container, which this build does not make"
    )]
    Unbuilt,
    /// What it keeps has no place.
    #[error("commands are off: {} cannot be made", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl RuleError {
    /// The same with its cause and what to do about it, for whoever asked for the command.
    pub fn told(&self) -> String {
        let cause = std::error::Error::source(self).map(|cause| format!(": {cause}")).unwrap_or_default();
        let hint = match self {
            RuleError::Sandbox(error) => error.hint(),
            _ => "`openclaw-rs sandbox explain` and `openclaw-rs sandbox selftest` say more",
        };
        format!("not done: {self}{cause}; {hint}")
    }
}

/// Decides for a session of `config`.
pub fn decide(config: &Loaded, session: Session<'_>) -> Decision {
    let settings = &config.settings;
    let sandbox = &settings.sandbox;
    let own = sandbox.of_agent(session.agent);
    let keys = KeyRules {
        default_agent: settings.agents.default_id.clone(),
        main_key: settings.session.main_key.clone(),
        global: settings.session.scope == SessionScope::Global,
    };
    let is_main = SessionKey::stored(session.key.to_owned()).is_main(&keys);
    let held = settings.agents.is_sandboxed(session.agent, is_main).then_some(match is_main {
        true => "sandbox.mode of the agent or of agents.defaults is \"all\"",
        false => "sandbox.mode of the agent or of agents.defaults holds for every session but the main one",
    });
    let mode = match held {
        _ if session.wants_elevated && settings.exec.allow_elevated => {
            ruled(Mode::Elevated, "asked for, and tools.shell_policy.allow_elevated is true")
        }
        Some(rule) => ruled(Mode::Sandbox, rule),
        None if sandbox.is_elevated && settings.exec.allow_elevated => {
            ruled(Mode::Elevated, "tools.shell_policy.default_mode is \"elevated\", and allow_elevated is true")
        }
        None if sandbox.is_elevated => {
            ruled(Mode::Sandbox, "tools.shell_policy.default_mode is \"elevated\", but allow_elevated is false")
        }
        None => ruled(Mode::Sandbox, "tools.shell_policy.default_mode is \"sandbox\""),
    };
    let network = match own.has_network {
        Some(true) => ruled(Network::On, "sandbox.docker.network of the agent or of agents.defaults"),
        Some(false) => ruled(Network::Off, "sandbox.docker.network is \"none\""),
        None => ruled(Network::Off, "nothing says otherwise"),
    };
    let access = match own.access {
        Some(WorkspaceAccess::None) => ruled(Access::None, "sandbox.workspaceAccess is \"none\""),
        Some(WorkspaceAccess::ReadOnly) => ruled(Access::ReadOnly, "sandbox.workspaceAccess is \"ro\""),
        Some(WorkspaceAccess::ReadWrite) => ruled(Access::ReadWrite, "sandbox.workspaceAccess is \"rw\""),
        // What upstream does in a sandbox that its own setting asked for.
        None if held.is_some() => {
            ruled(Access::None, "sandbox.mode asks for the sandbox, and workspaceAccess is not set")
        }
        None => ruled(Access::ReadWrite, "nothing says otherwise"),
    };
    let (name, rule) = match own.shared_by.unwrap_or(SharedBy::Agent) {
        SharedBy::Session => (format!("session-{}", &digest::sha256_hex(session.key.as_bytes())[..16]), "session"),
        SharedBy::Agent => (format!("agent-{}", session.agent), "agent"),
        SharedBy::Everyone => ("shared".to_owned(), "shared"),
    };
    Decision {
        mode,
        network,
        access,
        workspace: session.workspace.to_owned(),
        scratch: ruled(sandbox.root.join(name), format!("sandbox.scope is \"{rule}\"")),
        is_unbuilt: sandbox.backend != Backend::Host,
    }
}

/// Whether a session of `agent` that `own` starts would have more than it: what a session cannot do, none that it starts
/// can do for it.
pub fn would_have_more(config: &Loaded, own: Session<'_>, agent: &str) -> bool {
    // Whatever it is called, it is not the main one.
    let key = format!("agent:{agent}:subagent:new");
    let theirs = decide(config, Session { agent, key: &key, wants_elevated: false, ..own });
    let own = decide(config, Session { wants_elevated: false, ..own });
    own.mode.value == Mode::Sandbox
        && (theirs.mode.value == Mode::Elevated
            || own.network.value == Network::Off && theirs.network.value == Network::On)
}

impl Decision {
    /// What is to be hung on each command.
    ///
    /// # Errors
    /// [`RuleError`]: then no command runs, neither in a sandbox nor, silently, without one.
    pub fn confinement(&self, config: &Loaded, home: Option<&Path>) -> Result<Confinement, RuleError> {
        let sandbox = &config.settings.sandbox;
        if self.mode.value == Mode::Sandbox {
            if self.is_unbuilt {
                return Err(RuleError::Unbuilt);
            }
            selftest::ready(&sandbox.root)?;
            self.make_scratch(&sandbox.root)?;
        }
        Ok(Confinement::of(self.wanted(config, home), Kernel::get())?)
    }

    /// The decision in the words of the sandbox.
    pub fn wanted(&self, config: &Loaded, home: Option<&Path>) -> Wanted {
        let sandbox = &config.settings.sandbox;
        // Whatever else is configured, what the gateway knows and what other agents have stays out of sight.
        let others = config.settings.agents.list.iter().map(|agent| &agent.workspace);
        let others = others.filter(|workspace| **workspace != self.workspace).cloned();
        let keys = home.into_iter().flat_map(|home| KEYS.iter().map(|name| home.join(name)));
        Wanted {
            mode: self.mode.value,
            network: self.network.value,
            workspace: self.workspace.clone(),
            access: self.access.value,
            scratch: self.scratch.value.clone(),
            read: sandbox.read_paths.clone(),
            write: sandbox.write_paths.clone(),
            hidden: [config.state_dir.clone(), sandbox.root.clone()].into_iter().chain(others).chain(keys).collect(),
            limits: LIMITS,
        }
    }

    /// Makes the scratch directory, and removes those that nobody has used for long.
    fn make_scratch(&self, root: &Path) -> Result<(), RuleError> {
        let scratch = &self.scratch.value;
        let cannot = |source| RuleError::Scratch { path: scratch.clone(), source };
        beneath::make(scratch).map_err(cannot)?;
        let own = fs::File::open(scratch).map_err(cannot)?;
        let now = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(crate::runtime::clock::wall_ms() as u64);
        own.set_modified(now).map_err(cannot)?;
        // What cannot be looked at now is looked at the next time.
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let used = entry.metadata().and_then(|metadata| metadata.modified());
            let is_old = used.is_ok_and(|used| now.duration_since(used).is_ok_and(|since| since > KEPT));
            let name = entry.file_name();
            let is_ours =
                ["session-", "agent-", "selftest-"].iter().any(|start| name.to_string_lossy().starts_with(start));
            if is_old && is_ours {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::load::{self, LoadInputs};

    fn config(document: &Value) -> (tempfile::TempDir, Loaded) {
        let temp = tempfile::TempDir::new().unwrap();
        fs::write(temp.path().join("openclaw.json"), document.to_string()).unwrap();
        let mut inputs = LoadInputs::of_process();
        inputs.env = Default::default();
        inputs.cwd = temp.path().to_owned();
        inputs.state_dir = Some(temp.path().to_owned());
        (temp, load::load(&inputs).unwrap())
    }

    fn main() -> Session<'static> {
        Session { agent: "main", key: "agent:main:main", workspace: Path::new("/srv/main"), wants_elevated: false }
    }

    #[track_caller]
    fn check(document: Value, session: Session<'_>, mode: Mode, access: Access, network: Network, rule: &str) {
        let (_temp, config) = config(&document);
        let decision = decide(&config, session);
        let got = (decision.mode.value, decision.access.value, decision.network.value);
        assert_eq!(got, (mode, access, network), "{decision:?}");
        assert!(decision.mode.rule.contains(rule), "{}", decision.mode.rule);
    }

    #[test]
    fn a_sandbox_is_the_rule_and_the_host_an_exception_that_is_written_twice() {
        use Access::{None as Nothing, ReadOnly, ReadWrite};
        use Mode::{Elevated, Sandbox};
        use Network::{Off, On};
        let elevated = Session { wants_elevated: true, ..main() };
        let shell = |words: Value| json!({ "tools": { "shell_policy": words } });
        let agents = |words: Value| json!({ "agents": { "defaults": { "sandbox": words } } });
        check(json!({}), main(), Sandbox, ReadWrite, Off, "default_mode");
        check(json!({}), elevated, Sandbox, ReadWrite, Off, "default_mode");
        check(shell(json!({ "default_mode": "elevated" })), main(), Sandbox, ReadWrite, Off, "allow_elevated is false");
        let both = shell(json!({ "default_mode": "elevated", "allow_elevated": true }));
        check(both, main(), Elevated, ReadWrite, Off, "default_mode");
        check(shell(json!({ "allow_elevated": true })), elevated, Elevated, ReadWrite, Off, "asked for");
        check(shell(json!({ "allow_elevated": true })), main(), Sandbox, ReadWrite, Off, "default_mode");
        check(agents(json!({ "mode": "all" })), main(), Sandbox, Nothing, Off, "all");
        let mut mixed = shell(json!({ "default_mode": "elevated", "allow_elevated": true }));
        mixed["agents"] = json!({ "defaults": { "sandbox": { "mode": "non-main", "workspaceAccess": "ro" } } });
        check(mixed.clone(), main(), Elevated, ReadOnly, Off, "default_mode");
        let group = Session { key: "agent:main:telegram:group:1", ..main() };
        check(mixed, group, Sandbox, ReadOnly, Off, "but the main one");
        check(agents(json!({ "docker": { "network": "bridge" } })), main(), Sandbox, ReadWrite, On, "default_mode");
    }

    #[test]
    fn an_agents_own_sandbox_wins_over_the_defaults() {
        let document = json!({ "agents": {
            "defaults": { "sandbox": { "workspaceAccess": "rw", "scope": "shared" } },
            "list": [
                { "id": "main" },
                { "id": "guest", "workspace": "/srv/guest", "sandbox": { "workspaceAccess": "none", "scope": "session" } },
            ],
        } });
        let (_temp, config) = config(&document);
        let own = decide(&config, main());
        assert_eq!(own.access.value, Access::ReadWrite);
        assert!(own.scratch.value.ends_with("sandboxes/shared"));
        let guest = decide(&config, Session { agent: "guest", key: "agent:guest:main", ..main() });
        assert_eq!(guest.access.value, Access::None);
        assert!(guest.scratch.value.file_name().unwrap().to_string_lossy().starts_with("session-"));
        let hidden = own.wanted(&config, Some(Path::new("/home/ann"))).hidden;
        for path in [config.state_dir.as_path(), Path::new("/srv/guest"), Path::new("/home/ann/.ssh")] {
            assert!(hidden.iter().any(|hidden| hidden == path), "{}", path.display());
        }
    }

    #[test]
    fn what_a_session_starts_has_no_more_than_it() {
        let document = json!({
            "tools": { "shell_policy": { "default_mode": "elevated", "allow_elevated": true } },
            "agents": {
                "defaults": { "sandbox": { "mode": "non-main" } },
                "list": [
                    { "id": "main" },
                    { "id": "free", "sandbox": { "mode": "off" } },
                    { "id": "wired", "sandbox": { "mode": "all", "docker": { "network": "bridge" } } },
                ],
            },
        });
        let (_temp, config) = config(&document);
        let group = Session { key: "agent:main:telegram:group:1", ..main() };
        for (own, agent, more) in [
            (main(), "main", false),
            (main(), "free", false),
            (group, "main", false),
            (group, "free", true),
            (group, "wired", true),
            (Session { agent: "wired", key: "agent:wired:main", ..main() }, "main", false),
        ] {
            assert_eq!(would_have_more(&config, own, agent), more, "{} {agent}", own.key);
        }
    }

    #[test]
    fn another_sandbox_than_can_be_made_is_none() {
        for backend in ["docker", "horizons_docker"] {
            let (_temp, config) = config(&json!({ "tools": { "shell_policy": { "sandbox_backend": backend } } }));
            let decision = decide(&config, main());
            assert!(matches!(decision.confinement(&config, None), Err(RuleError::Unbuilt)), "{backend}");
        }
    }

    #[test]
    fn a_network_that_belongs_to_others_is_refused() {
        for network in ["host", "container:other"] {
            let temp = tempfile::TempDir::new().unwrap();
            let document = json!({ "agents": { "defaults": { "sandbox": { "docker": { "network": network } } } } });
            fs::write(temp.path().join("openclaw.json"), document.to_string()).unwrap();
            let mut inputs = LoadInputs::of_process();
            (inputs.env, inputs.cwd) = (Default::default(), temp.path().to_owned());
            inputs.state_dir = Some(temp.path().to_owned());
            assert!(load::load(&inputs).is_err(), "{network}");
        }
    }

    #[test]
    fn what_nobody_used_for_long_is_removed() {
        let (temp, config) = config(&json!({}));
        let decision = decide(&config, main());
        let root = temp.path().join("sandboxes");
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for name in ["session-old", "session-new", "agent-main", "somebody-elses"] {
            fs::create_dir_all(root.join(name)).unwrap();
            if name != "session-new" {
                fs::File::open(root.join(name)).unwrap().set_modified(long_ago).unwrap();
            }
        }
        decision.make_scratch(&root).unwrap();
        let mut left: Vec<String> =
            fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["agent-main", "session-new", "somebody-elses"]);
    }
}
