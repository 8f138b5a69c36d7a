//! `tools.exec.*` and `tools.shell_policy.*`: where and how commands run.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reader::Reader;

/// How long an ended command in the background is remembered: at least and at most.
const KEPT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3 * 60 * 60));

macro_rules! ordered_words {
    ( $(#[$meta:meta])* $name:ident, strictest $strictest:ident { $( $(#[$vmeta:meta])* $variant:ident = $word:literal ),* $(,)? } ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $( $(#[$vmeta])* $variant ),* }

        impl $name {
            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word ),* }
            }

            /// The value of a word, in whatever case.
            pub fn parse(word: &str) -> Option<$name> {
                let word = word.trim().to_ascii_lowercase();
                match word.as_str() { $( $word => Some($name::$variant), )* _ => None }
            }

            /// The same; a word that nobody knows is the strictest.
            pub fn or_strictest(word: &str) -> $name {
                $name::parse(word).unwrap_or($name::$strictest)
            }
        }
    };
}

ordered_words! {
    /// Which commands run; the stricter one is the lesser.
    Security, strictest Deny {
        /// None.
        Deny = "deny",
        /// Those on the list.
        Allowlist = "allowlist",
        /// All.
        Full = "full",
    }
}

ordered_words! {
    /// When somebody is asked; the stricter one is the greater.
    Ask, strictest Always {
        /// Never.
        Off = "off",
        /// For what is not on the list.
        OnMiss = "on-miss",
        /// For everything.
        Always = "always",
    }
}

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Wherever it is held best.
    Auto,
    /// Held by a sandbox, where there is one; else on this machine.
    Sandbox,
    /// On this machine, by its policy.
    Gateway,
    /// On a paired node.
    Node,
}

/// How commands run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    pub host: Host,
    /// `None`: as the host has it.
    pub security: Option<Security>,
    pub ask: Ask,
    /// Directories before the program path, in order; absolute.
    pub path_prepend: Vec<PathBuf>,
    /// When a command goes on in the background.
    pub background_after: Duration,
    /// How long one may run; `None`: as long as it likes.
    pub timeout: Option<Duration>,
    /// How long one that ended in the background is remembered; a minute to three hours.
    pub kept: Duration,
    /// Whether a session is told when one of its own ends in the background,
    pub notify_on_exit: bool,
    /// also when that went well and had nothing to say.
    pub notify_on_empty_success: bool,
    /// Commands in the background at once.
    pub background_max: usize,
    /// Whether one may ask to run without its sandbox.
    pub allow_elevated: bool,
    /// Whether commands begin inside of the workspace only.
    pub workspace_only: bool,
}

impl Host {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Host::Auto => "auto",
            Host::Sandbox => "sandbox",
            Host::Gateway => "gateway",
            Host::Node => "node",
        }
    }

    /// The value of a word.
    pub fn parse(word: &str) -> Option<Host> {
        [Host::Auto, Host::Sandbox, Host::Gateway, Host::Node].into_iter().find(|host| host.as_str() == word)
    }
}

impl Exec {
    /// `tools` is the document's `tools`.
    pub(super) fn read(tools: &Reader<'_>) -> Exec {
        let (exec, shell) = (tools.at("exec"), tools.at("shell_policy"));
        let mut path_prepend = Vec::new();
        for dir in exec.texts("pathPrepend") {
            match PathBuf::from(&dir) {
                path if path.is_absolute() => path_prepend.push(path),
                _ => exec.issue("pathPrepend", format!("{dir} is no absolute path")),
            }
        }
        let timeout = exec.secs("timeoutSec");
        Exec {
            // What no word of ours names is the strictest that may be meant.
            host: Host::parse(&exec.text_or_default("host")).unwrap_or(Host::Sandbox),
            security: exec.text("security").map(|word| Security::or_strictest(&word)),
            ask: Ask::or_strictest(&exec.text_or_default("ask")),
            path_prepend,
            background_after: exec.ms("backgroundMs"),
            timeout: (!timeout.is_zero()).then_some(timeout),
            kept: exec.ms("cleanupMs").clamp(KEPT.0, KEPT.1),
            notify_on_exit: exec.flag("notifyOnExit"),
            notify_on_empty_success: exec.flag("notifyOnExitEmptySuccess"),
            background_max: shell.usize("max_background_processes"),
            allow_elevated: shell.flag("allow_elevated"),
            workspace_only: tools.at("fs").flag("workspaceOnly"),
        }
    }
}
