//! Configuration: one document, one table of keys, typed settings.
//!
//! A document goes through five steps, each a file of its own: it is parsed ([`document`]), its includes are put in
//! ([`mod@include`]), its keys take their one spelling ([`spelling`]), its `${VAR}` references are filled in
//! ([`expand`]), and it is held against the rows of [`schema`] ([`validate`], [`rules`]). Out come [`settings`]: small,
//! typed, shared by `Arc`, the only form the rest of the program reads. [`load`] does it from files, and is beside
//! [`files`] the only part with IO.
//!
//! The way back: [`edit`] plans a change made by a client, [`rewrite`] puts it into the text without touching the
//! rest, [`changes`] says what it takes to come into force, [`redact`] and [`snapshot`] show a document to others.
//!
//! **Invariant:** a secret leaves this room only as [`secret::Secret`] or as [`secret::PLACEHOLDER`]; which keys are
//! secret is an attribute of their row, so a key cannot be added unredacted. **Invariant:** nothing here knows the
//! store, the gateway or a socket.

use std::fmt;
use std::io;
use std::path::PathBuf;

pub mod changes;
pub mod cidr;
pub mod document;
pub mod dotenv;
pub mod duration;
pub mod edit;
pub mod environment;
pub mod expand;
pub mod files;
pub mod include;
pub mod json5;
pub mod load;
pub mod network;
pub mod path;
pub mod redact;
pub mod references;
pub mod rewrite;
pub mod rules;
pub mod schema;
pub mod secret;
pub mod settings;
pub mod snapshot;
pub mod spelling;
pub mod validate;

/// Something wrong with a document, as `config.get` and refusals list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Dotted path; empty for the document itself.
    pub path: String,
    /// Never holds a secret value.
    pub message: String,
}

impl Issue {
    /// An issue at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Issue {
        Issue { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Why a configuration cannot be used, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no home directory to put the state directory in.
    #[error("no state directory: neither --state-dir nor OPENCLAW_RS_STATE_DIR nor HOME is set")]
    NoStateDir,
    /// A file named by flag or environment is not there, or one that is there cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// A file is larger than [`files::FILE_BYTES_MAX`].
    #[error("{} has {bytes} bytes, the limit is {max}", path.display())]
    TooLarge { path: PathBuf, bytes: u64, max: u64 },
    /// Not TOML, not JSON5.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    /// The document was understood and is not valid.
    #[error("{} is not valid: {}", path.display(), list(issues))]
    Invalid { path: PathBuf, issues: Vec<Issue> },
    /// The document could not be written; `step` says what was tried.
    #[error("cannot {step} {}", path.display())]
    Write { path: PathBuf, step: &'static str, source: io::Error },
    /// Somebody else wrote the document while this change was made.
    #[error("{} changed while it was being written", path.display())]
    Raced { path: PathBuf },
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ConfigError::NoStateDir => Some("give --state-dir"),
            ConfigError::Invalid { .. } | ConfigError::Syntax { .. } => {
                Some("`openclaw-rs config validate` shows every problem; docs/config-reference.md lists every key")
            }
            ConfigError::TooLarge { .. } | ConfigError::Unreadable { .. } => None,
            ConfigError::Write { .. } => Some("the previous file is untouched; backups stand beside it"),
            ConfigError::Raced { .. } => Some("read it again and repeat the change"),
        }
    }
}

/// The first issues on one line, and how many more there are.
fn list(issues: &[Issue]) -> String {
    const SHOWN_MAX: usize = 5;
    let shown: Vec<String> = issues.iter().take(SHOWN_MAX).map(Issue::to_string).collect();
    let more = issues.len().saturating_sub(SHOWN_MAX);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join("; "))
}
