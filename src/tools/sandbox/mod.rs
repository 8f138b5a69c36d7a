//! The sandbox: what a command that an agent runs can reach.
//!
//! [`Wanted`] says in plain words what a command may have. [`Confinement::of`] makes a plan of it for this kernel
//! ([`kernel`] asks what it offers) or refuses, and [`Confinement::confine`] hangs the plan on a
//! [`std::process::Command`]. Everything is prepared before the fork; what runs between `fork` and `exec` ([`mod@child`])
//! makes system calls and nothing else. The daemon itself is never confined: only what it starts.
//!
//! Several layers ([`Layer`]) do the work, and most promises ([`Promise`]) are kept by more than one of them:
//!
//! | layer | what it is | since |
//! |---|---|---|
//! | files | a mount namespace whose root holds only what is allowed, with a `/tmp`, `/dev` and `/proc` of its own | 3.8 |
//! | processes | namespaces of processes, shared memory and host name: nothing else can be seen or signalled, and all end with the command | 3.8 |
//! | network | a network namespace with nothing but a loopback | 3.8 |
//! | landlock | the same paths again, as rules of the kernel over the process | 5.13 |
//! | calls | a filter of system calls ([`mod@seccomp`]) | 3.5 |
//! | privileges | no new privileges, no capabilities, no other groups | 3.5 |
//! | limits | processes, memory, time, file size, open files; no core dumps | |
//! | descriptors | no open file of the daemon | |
//!
//! **Invariant:** a promise that no layer of this kernel keeps is a refusal, never a command that runs without it.
//! **Invariant:** when a step of the plan fails in the child, the program is not run.
//! **Invariant:** what is bound into the view is what was looked at: device and inode are compared after the mount.
//! **Invariant:** whatever a confined command starts is confined the same way; none of this can be taken off.

pub mod kernel;
pub mod rule;
pub mod selftest;

mod attempts;
mod child;
mod landlock;
mod seccomp;
mod view;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use thiserror::Error;

use child::{At, Plan};
use kernel::Kernel;
use seccomp::Surroundings;
use view::View;

/// How a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Confined.
    Sandbox,
    /// As the daemon's own user, on the host: only descriptors and core dumps are closed.
    Elevated,
}

impl Mode {
    /// The word in settings and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Sandbox => "sandbox",
            Mode::Elevated => "elevated",
        }
    }
}

/// Whether a command has the host's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Off,
    On,
}

/// How a command sees a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Not at all.
    None,
    ReadOnly,
    ReadWrite,
}

impl Access {
    /// The word in settings and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Access::None => "none",
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        }
    }
}

/// How much a command may use. Numbers are for each process, except where it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads of the whole command.
    pub processes: u64,
    /// Memory that can be written, in bytes.
    pub memory_bytes: u64,
    /// Time on a processor, in seconds.
    pub cpu_seconds: u64,
    /// Longest file that can be written, in bytes.
    pub file_bytes: u64,
    /// Open files.
    pub open_files: u64,
}

/// Enough for a build of a large program, and little enough that nothing else stands still.
pub const LIMITS: Limits = Limits {
    processes: 512,
    memory_bytes: 4 * 1024 * 1024 * 1024,
    cpu_seconds: 3600,
    file_bytes: 4 * 1024 * 1024 * 1024,
    open_files: 1024,
};

/// What a command may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub mode: Mode,
    pub network: Network,
    /// The agent's directory.
    pub workspace: PathBuf,
    /// How it is seen.
    pub access: Access,
    /// A directory that stands for `/tmp` and for the home of the command; it exists.
    pub scratch: PathBuf,
    /// Further files and directories to be seen.
    pub read: Vec<PathBuf>,
    /// Further files and directories to be changed.
    pub write: Vec<PathBuf>,
    /// What stays out of sight wherever it lies: the state directory, keys. A directory that is allowed by name and lies
    /// in one of them is seen all the same.
    pub hidden: Vec<PathBuf>,
    pub limits: Limits,
}

impl Wanted {
    /// What it asks to see.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.workspace, &self.scratch].into_iter().chain(&self.read).chain(&self.write).map(PathBuf::as_path)
    }
}

/// One of the means, each of which can be had or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Layer {
    Files,
    Processes,
    Network,
    Landlock,
    Calls,
    Privileges,
    Limits,
    Descriptors,
}

impl Layer {
    /// All of them, in the order of reports.
    pub const ALL: [Layer; 8] = [
        Layer::Files,
        Layer::Processes,
        Layer::Network,
        Layer::Landlock,
        Layer::Calls,
        Layer::Privileges,
        Layer::Limits,
        Layer::Descriptors,
    ];

    /// The word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Layer::Files => "files",
            Layer::Processes => "processes",
            Layer::Network => "network",
            Layer::Landlock => "landlock",
            Layer::Calls => "calls",
            Layer::Privileges => "privileges",
            Layer::Limits => "limits",
            Layer::Descriptors => "descriptors",
        }
    }
}

/// A set of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers(u8);

impl Layers {
    /// Every one.
    pub const ALL: Layers = Layers(u8::MAX);
    /// None.
    pub const NONE: Layers = Layers(0);

    /// Whether `layer` is in it.
    pub fn has(self, layer: Layer) -> bool {
        self.0 & 1 << layer as u8 != 0
    }

    /// The same without `layer`.
    #[must_use]
    pub fn without(self, layer: Layer) -> Layers {
        Layers(self.0 & !(1 << layer as u8))
    }

    /// The same with `layer`.
    #[must_use]
    pub fn with(self, layer: Layer) -> Layers {
        Layers(self.0 | 1 << layer as u8)
    }
}

/// What a sandbox promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Only files that are allowed.
    Files,
    /// No network, when it is off.
    Network,
    /// No other process can be signalled or looked into.
    Processes,
    /// No system call that reaches beyond the process.
    Calls,
}

impl Promise {
    /// All of them.
    pub const ALL: [Promise; 4] = [Promise::Files, Promise::Network, Promise::Processes, Promise::Calls];

    /// The words in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Promise::Files => "only files that are allowed",
            Promise::Network => "no network",
            Promise::Processes => "no other process",
            Promise::Calls => "no system call that reaches out",
        }
    }

    /// The layers that keep it, each alone.
    pub fn kept_by(self, kernel: &Kernel, layers: Layers) -> Vec<Layer> {
        let candidates: &[Layer] = match self {
            Promise::Files => &[Layer::Files, Layer::Landlock],
            Promise::Network => &[Layer::Network, Layer::Calls],
            Promise::Processes if kernel.landlock_abi >= landlock::ABI_SCOPES => &[Layer::Processes, Layer::Landlock],
            Promise::Processes => &[Layer::Processes],
            Promise::Calls => &[Layer::Calls],
        };
        let have = kernel.layers();
        candidates.iter().copied().filter(|layer| have.has(*layer) && layers.has(*layer)).collect()
    }
}

/// Why a command is not run.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// This kernel, or this container, keeps a promise by no layer.
    #[error("this machine cannot promise a sandbox: {}", promise.as_str())]
    Unavailable {
        /// Which.
        promise: Promise,
    },
    /// A path of the settings cannot be used.
    #[error("cannot use {} in the sandbox", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A path of the settings would open the system itself.
    #[error("{} is not opened to a sandbox", path.display())]
    Forbidden {
        /// Which.
        path: PathBuf,
    },
    /// Something that must stay out of sight lies where everything can be seen, and nothing on this machine covers it.
    #[error("{} cannot be kept out of the sandbox", path.display())]
    Uncovered {
        /// What.
        path: PathBuf,
    },
    /// A step failed in the child; the program was not run.
    #[error("the sandbox could not be put up ({at})")]
    Refused {
        /// Which step.
        at: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl SandboxError {
    /// What the operator could do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            SandboxError::Unavailable { .. } | SandboxError::Refused { .. } => {
                "`openclaw-rs sandbox explain` shows what this machine offers; a container may need user namespaces allowed"
            }
            SandboxError::Path { .. } => "the directory must exist and be readable for the gateway's user",
            SandboxError::Forbidden { .. } => "name the files or directories below it that commands need",
            SandboxError::Uncovered { .. } => "put the agent's workspace where the state directory and keys are not",
        }
    }
}

/// A plan for confining commands, made once and used for any number of them.
#[derive(Clone, Debug)]
pub struct Confinement {
    wanted: Wanted,
    kernel: Kernel,
    layers: Layers,
}

impl Confinement {
    /// A plan for what is wanted, with all that `kernel` offers.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`], [`SandboxError::Path`].
    pub fn of(wanted: Wanted, kernel: Kernel) -> Result<Confinement, SandboxError> {
        if wanted.mode == Mode::Sandbox {
            for promise in Promise::ALL {
                let matters = promise != Promise::Network || wanted.network == Network::Off;
                if matters && promise.kept_by(&kernel, Layers::ALL).is_empty() {
                    return Err(SandboxError::Unavailable { promise });
                }
            }
        }
        Confinement::with_layers(wanted, kernel, Layers::ALL)
    }

    /// The same with some layers left out, whatever is promised then. Only for showing what each of them does.
    ///
    /// # Errors
    /// [`SandboxError::Path`].
    pub fn with_layers(wanted: Wanted, kernel: Kernel, layers: Layers) -> Result<Confinement, SandboxError> {
        if wanted.mode == Mode::Elevated {
            return Ok(Confinement { wanted, kernel, layers: Layers::NONE.with(Layer::Descriptors) });
        }
        let wanted = Wanted {
            workspace: real(&wanted.workspace)?,
            scratch: real(&wanted.scratch)?,
            read: wanted.read.iter().map(|path| real(path)).collect::<Result<_, _>>()?,
            write: wanted.write.iter().map(|path| real(path)).collect::<Result<_, _>>()?,
            // What is not there needs no hiding.
            hidden: wanted.hidden.iter().filter_map(|path| path.canonicalize().ok()).collect(),
            ..wanted
        };
        if let Some(path) = wanted.paths().find(|path| view::is_forbidden(path)) {
            return Err(SandboxError::Forbidden { path: path.to_owned() });
        }
        Ok(Confinement { wanted, kernel, layers })
    }

    /// The layers a command gets.
    pub fn layers(&self) -> Layers {
        let have = self.kernel.layers();
        let is_on = |layer: &Layer| {
            let matters = *layer != Layer::Network || self.wanted.network == Network::Off;
            matters && self.layers.has(*layer) && have.has(*layer)
        };
        Layer::ALL.iter().filter(|layer| is_on(layer)).fold(Layers::NONE, |layers, layer| layers.with(*layer))
    }

    /// Has `command` run under the plan. To be called last: what is hung on the command before runs outside, what is
    /// hung on it after runs inside. Sets `HOME` and `TMPDIR`. The command starts in the directory it would have started
    /// in, which must be one that is seen; where the workspace is not, it may also start in its `/tmp`.
    ///
    /// With the layer [`Layer::Processes`] the process that the caller gets to know stands outside and waits for the
    /// command; it ends as the command ended, whatever the command left running ends with it, and a signal that is not
    /// `SIGKILL` has to be sent to the whole group to arrive.
    ///
    /// # Errors
    /// [`SandboxError`]; what fails later, in the child, is an error of starting the command, which
    /// [`refusal`] reads.
    pub fn confine(&self, command: &mut Command) -> Result<(), SandboxError> {
        let plan = Arc::new(self.plan()?);
        if self.wanted.mode == Mode::Sandbox {
            let home = if plan.view.is_some() { Path::new(view::TMP) } else { &self.wanted.scratch };
            command.env("HOME", home).env("TMPDIR", home);
        }
        // SAFETY: `enter` makes system calls only, on memory that was prepared here and is not changed any more: it
        // takes no lock and allocates nothing.
        unsafe { command.pre_exec(move || child::enter(&plan)) };
        Ok(())
    }

    fn plan(&self) -> Result<Plan, SandboxError> {
        let Wanted { network, limits, .. } = self.wanted;
        let layers = self.layers();
        let is_sandbox = self.wanted.mode == Mode::Sandbox;
        let own_files = layers.has(Layer::Files);
        let own_network = layers.has(Layer::Network);
        let has_landlock = layers.has(Layer::Landlock);
        let has_proc = layers.has(Layer::Processes) && self.kernel.proc;
        let (mut view, mut landlock) = (None, None);
        if own_files || has_landlock {
            let seen = view::Seen::of(&self.wanted)?;
            if !own_files && let Some(path) = seen.uncovered(&self.wanted.hidden) {
                return Err(SandboxError::Uncovered { path: path.to_owned() });
            }
            if has_landlock {
                landlock = Some(seen.rules(&self.kernel, network, own_network, own_files)?);
            }
            if own_files {
                view = Some(View::of(&seen, has_proc)?);
            }
        }
        let surroundings = Surroundings {
            internet: network == Network::On || own_network,
            own_files,
            own_memory: layers.has(Layer::Processes) && self.kernel.ipc,
        };
        Ok(Plan {
            spaces: self.kernel.spaces(layers),
            has_pids: layers.has(Layer::Processes),
            view,
            has_loopback: own_network,
            pid_max: (has_proc && own_files && layers.has(Layer::Limits))
                .then(|| self.kernel.pid_max(limits.processes))
                .flatten(),
            landlock,
            filter: if layers.has(Layer::Calls) { seccomp::program(surroundings) } else { Vec::new() },
            has_privileges: !layers.has(Layer::Privileges),
            limits: layers.has(Layer::Limits).then_some(Limits {
                processes: limits.processes.saturating_add(self.kernel.foreign_tasks()),
                ..limits
            }),
            dumps_core: is_sandbox && !layers.has(Layer::Limits),
            has_descriptors: !layers.has(Layer::Descriptors),
            shelter: (self.wanted.access == Access::None).then_some(c"/tmp"),
        })
    }
}

/// What a command that was confined could not be started for; `None` when that was not the sandbox.
pub fn refusal(error: &io::Error) -> Option<SandboxError> {
    let (at, errno) = At::decode(error.raw_os_error()?)?;
    Some(SandboxError::Refused { at, source: io::Error::from_raw_os_error(errno) })
}

/// A path without links.
fn real(path: &Path) -> Result<PathBuf, SandboxError> {
    path.canonicalize().map_err(|source| SandboxError::Path { path: path.to_owned(), source })
}

/// A path for the kernel. Paths come from the system or were opened before, so there is no zero byte in one.
fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path that exists holds no zero byte")
}

#[cfg(test)]
mod tests;
