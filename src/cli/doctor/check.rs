//! What a check finds, and what can be done about it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Pass,
    /// It works, and someone should know.
    Warn,
    /// It does not work.
    Fail,
}

impl Status {
    /// The word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

/// One finding.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Stable name, `area.what`.
    pub id: &'static str,
    /// How it ended.
    pub status: Status,
    /// One line; never a secret.
    pub message: String,
    /// More lines: causes, places, what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What would put it right without a decision.
    #[serde(skip)]
    pub repairs: Vec<Repair>,
}

impl Check {
    /// A finding without details.
    pub fn new(id: &'static str, status: Status, message: impl Into<String>) -> Check {
        Check { id, status, message: message.into(), detail: None, repairs: Vec::new() }
    }

    /// All is well.
    pub fn pass(id: &'static str, message: impl Into<String>) -> Check {
        Check::new(id, Status::Pass, message)
    }

    /// Someone should know.
    pub fn warn(id: &'static str, message: impl Into<String>) -> Check {
        Check::new(id, Status::Warn, message)
    }

    /// It does not work.
    pub fn fail(id: &'static str, message: impl Into<String>) -> Check {
        Check::new(id, Status::Fail, message)
    }

    /// The same with more lines.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Check {
        Check { detail: Some(detail.into()), ..self }
    }

    /// The same with what would put it right.
    #[must_use]
    pub fn repairs(self, repairs: Vec<Repair>) -> Check {
        Check { repairs, ..self }
    }
}

/// A change that needs no decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Make a directory and its parents, mode 0700.
    MakeDir(PathBuf),
    /// Take everyone else's access away.
    Chmod(PathBuf, u32),
}

/// What came of a repair.
#[derive(Debug, Serialize)]
pub struct Fixed {
    /// `mkdir` or `chmod`.
    pub kind: &'static str,
    /// The path.
    pub target: String,
    /// The mode it should have, in octal digits.
    pub mode: String,
    /// Whether it was made.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Repair {
    /// Makes the change.
    pub fn make(&self) -> Fixed {
        let (kind, path, mode, made): (_, _, _, io::Result<()>) = match self {
            Repair::MakeDir(path) => {
                ("mkdir", path, 0o700, fs::DirBuilder::new().recursive(true).mode(0o700).create(path))
            }
            Repair::Chmod(path, mode) => {
                ("chmod", path, *mode, fs::set_permissions(path, fs::Permissions::from_mode(*mode)))
            }
        };
        Fixed {
            kind,
            target: path.display().to_string(),
            mode: format!("{mode:04o}"),
            ok: made.is_ok(),
            error: made.err().map(|error| error.to_string()),
        }
    }
}
