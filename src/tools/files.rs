//! What the tools that change files have in common: the file that a call names, and what may be written to it.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::change::{self, Step};
use super::text::{self, Encoding, TextError};
use super::workspace::{FileError, Place, Reach, Workspace};
use super::{Scene, ToolError};
use crate::defender::decision::Action;
use crate::defender::paths::{Standing, standing};
use crate::defender::request::ActionRequest;
use crate::runtime::beneath::{Known, Refusal};

/// Names that models give a path besides `path`.
pub const PATH_ALIASES: &[(&str, &str)] = &[("file_path", "path"), ("filePath", "path")];
/// Largest file that is read and changed, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A file that a call names. Where its path leads is looked up when the call is judged; when it leads elsewhere by the
/// time it is made, it is not made.
#[derive(Debug)]
pub struct Target {
    /// As it was said.
    pub said: String,
    settled: OnceCell<PathBuf>,
}

impl Target {
    /// Of a path as it was said.
    pub fn new(said: String) -> Target {
        Target { said, settled: OnceCell::new() }
    }

    /// Where it is.
    ///
    /// # Errors
    /// [`FileError`]; [`Refusal::Changed`] when that is not where it was.
    pub fn place(&self, workspace: &Workspace) -> Result<Place, FileError> {
        let place = workspace.place(Path::new(&self.said))?;
        if *self.settled.get_or_init(|| place.path.clone()) != place.path {
            return Err(FileError::Refused(Refusal::Changed));
        }
        Ok(place)
    }
}

/// The workspace of a call, with as much around it as is configured.
///
/// # Errors
/// It cannot be opened.
pub fn workspace(scene: &Scene<'_>) -> Result<Workspace, ToolError> {
    let tools = &scene.config.settings.tools;
    reaching(scene, if tools.fs_workspace_only { Reach::Inside } else { Reach::Anywhere })
}

/// The same, as far as it is said.
///
/// # Errors
/// It cannot be opened.
pub fn reaching(scene: &Scene<'_>, reach: Reach) -> Result<Workspace, ToolError> {
    let own: [&Path; 2] = [&scene.config.state_dir, &scene.config.document.path];
    Workspace::reaching(scene.workspace, reach, &own)
        .map_err(|error| ToolError::Io(format!("the workspace cannot be opened: {}", error.kind())))
}

/// What is to be judged of a change: which files, and what is put into them. What a model will read as instructions one
/// day is judged as words, too.
pub fn parts<'t>(changes: impl IntoIterator<Item = (Option<String>, &'t str)>) -> ActionRequest {
    let mut request = ActionRequest::default();
    let (mut content, mut words) = (String::new(), String::new());
    for (shown, added) in changes {
        content.push_str(added);
        content.push('\n');
        let Some(shown) = shown else { continue };
        if standing(&shown) == Standing::Instructions {
            words.push_str(added);
            words.push('\n');
        }
        request.writes.push(shown);
    }
    request.file = Some(content).filter(|content| !content.trim().is_empty());
    request.prompt = Some(words).filter(|words| !words.trim().is_empty());
    request
}

/// A text file that is to be changed.
#[derive(Debug)]
pub struct Old {
    /// What it was.
    pub known: Known,
    /// How it is written.
    pub encoding: Encoding,
    /// Its text.
    pub text: String,
}

impl Old {
    /// Reads it.
    ///
    /// # Errors
    /// [`ToolError`].
    pub fn read(place: &Place) -> Result<Old, ToolError> {
        let (known, bytes) = place.read(FILE_BYTES_MAX).map_err(|error| why_not(&place.shown, &error))?;
        let (encoding, text) = text::decode(&bytes).map_err(|error| no_text(&place.shown, error))?;
        Ok(Old { known, encoding, text: text.into_owned() })
    }
}

/// The step that gives a file a new text instead of the old one; whether there is a file yet is for its caller to fill
/// in.
///
/// # Errors
/// It is too large, cannot be written the way the file is, or may not stand in it.
pub fn step(scene: &Scene<'_>, place: Place, encoding: Encoding, old: &str, new: &str) -> Result<Step, ToolError> {
    let bytes = text::encode(new, encoding).map_err(|error| no_text(&place.shown, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(why_not(&place.shown, &FileError::TooLarge(FILE_BYTES_MAX)));
    }
    if standing(&place.shown) == Standing::Instructions {
        check_words(scene, &place.shown, old, new)?;
    }
    Ok(Step { place, old: None, new: Some(bytes), like: None })
}

/// What a call put together of pieces may read like orders although no piece did. What stood there before is not held
/// against it.
fn check_words(scene: &Scene<'_>, shown: &str, old: &str, new: &str) -> Result<(), ToolError> {
    let judge = |text: &str| {
        let request = ActionRequest {
            source: "agent.file".to_owned(),
            prompt: Some(text.to_owned()),
            ..ActionRequest::default()
        };
        scene.rules.evaluate(&request, || false)
    };
    let decision = judge(new);
    if decision.action == Action::Allow || scene.config.settings.runtime.audit_only {
        return Ok(());
    }
    if decision.risk_score <= judge(old).risk_score {
        return Ok(());
    }
    Err(ToolError::Failed(format!("{shown} would hold what may not stand there: {}", decision.reasons.join("; "))))
}

/// Makes changes, all or none.
///
/// # Errors
/// [`ToolError`].
pub fn make(scene: &Scene<'_>, steps: &[Step]) -> Result<(), ToolError> {
    change::make(steps, &scene.config.state_dir).map_err(|error| {
        let note = if steps.len() > 1 { "; nothing was changed" } else { "" };
        match why_not(&error.shown, &error.error) {
            ToolError::Outside(text) => ToolError::Outside(text + note),
            ToolError::Io(text) => ToolError::Io(text + note),
            ToolError::Failed(text) | ToolError::Arguments(text) => ToolError::Failed(text + note),
        }
    })
}

/// Why a file cannot be used, in words for the model.
pub fn why_not(shown: &str, error: &FileError) -> ToolError {
    let text = format!("{shown} {error}");
    match error {
        FileError::Outside | FileError::Own => ToolError::Outside(text),
        FileError::NotThere | FileError::Refused(_) | FileError::TooLarge(_) => ToolError::Failed(text),
        FileError::Io(_) => ToolError::Io(text),
    }
}

/// Why a file is not read or written as text, in words for the model.
pub fn no_text(shown: &str, error: TextError) -> ToolError {
    ToolError::Failed(format!("{shown} {error}"))
}

/// How many bytes and lines a file has now, for its details.
pub fn sizes(details: &mut Map<String, Value>, bytes: usize, text: &str) {
    details.insert("bytes".to_owned(), bytes.into());
    details.insert("lines".to_owned(), text.lines().count().into());
}
