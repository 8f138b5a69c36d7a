//! `tools.shell_policy.*` and `agents.*.sandbox`: where commands run, and what they see there.

use std::path::{Path, PathBuf};

use super::reader::Reader;

/// Sandboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Commands run on the host unless an agent's own sandbox says otherwise, which
    /// [`super::exec::Exec::allow_elevated`] must allow.
    pub is_elevated: bool,
    pub backend: Backend,
    /// Where sandboxes keep what is their own.
    pub root: PathBuf,
    /// Further paths that commands see,
    pub read_paths: Vec<PathBuf>,
    /// and change.
    pub write_paths: Vec<PathBuf>,
    pub defaults: AgentSandbox,
    /// What agents have of their own, by id.
    pub agents: Vec<(String, AgentSandbox)>,
}

/// What a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Made by the gateway, with what the kernel has.
    Host,
    /// A container.
    Docker,
}

/// What an agent's sandbox is like; `None`: not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentSandbox {
    pub shared_by: Option<SharedBy>,
    pub access: Option<WorkspaceAccess>,
    /// Whether it has the host's network.
    pub has_network: Option<bool>,
}

/// Who shares what a sandbox keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedBy {
    Session,
    Agent,
    Everyone,
}

/// How the workspace is seen inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkspaceAccess {
    None,
    ReadOnly,
    ReadWrite,
}

impl Sandbox {
    pub(super) fn read(root: &Reader<'_>, state_dir: &Path) -> Sandbox {
        let shell = root.at("tools.shell_policy");
        let backend = match shell.text_or_default("sandbox_backend").as_str() {
            "host_constrained" => Backend::Host,
            _ => Backend::Docker,
        };
        let agents = root.at("agents");
        let listed = agents.each("list").into_iter().map(|agent| (agent.text("id").unwrap_or_default(), agent));
        let own = listed.chain(agents.entries("entries"));
        Sandbox {
            is_elevated: shell.text_or_default("default_mode") == "elevated",
            backend,
            root: shell.path("sandbox_root").unwrap_or_else(|| state_dir.join("sandboxes")),
            read_paths: shell.paths("read_paths"),
            write_paths: shell.paths("write_paths"),
            defaults: AgentSandbox::read(&agents.at("defaults.sandbox")),
            agents: own
                .map(|(id, agent)| (id.trim().to_lowercase(), AgentSandbox::read(&agent.at("sandbox"))))
                .filter(|(_, own)| *own != AgentSandbox::default())
                .collect(),
        }
    }

    /// What holds for an agent: what it has of its own, else the defaults'.
    pub fn of_agent(&self, id: &str) -> AgentSandbox {
        let own = self.agents.iter().find(|(agent, _)| agent == id).map(|(_, own)| own.clone()).unwrap_or_default();
        let default = &self.defaults;
        AgentSandbox {
            shared_by: own.shared_by.or(default.shared_by),
            access: own.access.or(default.access),
            has_network: own.has_network.or(default.has_network),
        }
    }
}

impl AgentSandbox {
    fn read(sandbox: &Reader<'_>) -> AgentSandbox {
        let network = sandbox.text("docker.network");
        if let Some(network) = &network
            && (network == "host" || network.starts_with("container:"))
        {
            sandbox.issue("docker.network", format!("{network} would share the network of others: none or bridge"));
        }
        AgentSandbox {
            shared_by: sandbox.text("scope").map(|word| match word.as_str() {
                "agent" => SharedBy::Agent,
                "shared" => SharedBy::Everyone,
                _ => SharedBy::Session,
            }),
            access: sandbox.text("workspaceAccess").map(|word| match word.as_str() {
                "rw" => WorkspaceAccess::ReadWrite,
                "ro" => WorkspaceAccess::ReadOnly,
                _ => WorkspaceAccess::None,
            }),
            has_network: network.map(|network| network != "none"),
        }
    }
}
