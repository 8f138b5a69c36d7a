//! `apply_patch`: changes of several files in the format of OpenAI's models, all of them or none.
//!
//! [`parse`](mod@parse) takes a patch apart, [`place`] finds where its hunks belong. All of it is worked out before the first file
//! is touched, and then made as one change ([`super::change`]).

pub mod parse;
pub mod place;

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use self::parse::{Line, Section, parse};
use self::place::COMPARISONS_MAX;
use super::change::Step;
use super::diff::{self, DIFF_BYTES_MAX};
use super::files::{self, FILE_BYTES_MAX, Old, Target};
use super::text::Encoding;
use super::workspace::{FileError, Place, Reach, Workspace};
use super::{Effect, Output, Prepared, Scene, Tool, ToolError};
use crate::defender::request::ActionRequest;
use crate::protocol::params::Text;
use crate::runtime::beneath::{Known, Refusal};

/// Longest patch, in bytes.
pub const PATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of all files of one patch together, before and after: they are held in memory until all is worked out.
pub const TOTAL_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) const TOOL: Tool = Tool {
    name: "apply_patch",
    description: "Change files of the workspace by a patch: between *** Begin Patch and *** End Patch, sections *** Add \
                  File: PATH (lines with +), *** Delete File: PATH, *** Update File: PATH (optionally *** Move to: PATH), \
                  with changes after @@ whose lines begin with a space (stays), - (goes) or + (comes). All of it is \
                  done, or nothing. With dryRun it is only checked.",
    summary: "Change files of the workspace by a patch",
    parameters,
    effect: Effect::Once,
    is_offered: |_| true,
    prepare,
};

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "input": { "type": "string", "description": "The patch, from *** Begin Patch to *** End Patch" },
            "dryRun": { "type": "boolean", "description": "Only say what it would do" },
        },
        "required": ["input"],
        "additionalProperties": false,
    })
}

/// Names that models give the patch.
const INPUT_ALIASES: &[(&str, &str)] = &[("patch", "input")];

crate::params! {
    /// Which patch.
    pub struct PatchArguments {
        input: Text<0, PATCH_BYTES_MAX> = "input",
        dry_run: Option<bool> = "dryRun",
    }
}

/// A call that was read.
#[derive(Debug)]
struct Patch {
    input: String,
    /// Every path of it, in the order it names them.
    targets: Vec<Target>,
    is_dry: bool,
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    let wanted: PatchArguments = super::decode_named("apply_patch", arguments, INPUT_ALIASES)?;
    let input = wanted.input.0;
    let sections = parse(&input).map_err(|error| ToolError::Arguments(error.to_string()))?;
    let targets = sections.iter().flat_map(paths).map(|path| Target::new(path.to_owned())).collect();
    Ok(Box::new(Patch { targets, input, is_dry: wanted.dry_run.unwrap_or(false) }))
}

fn paths<'t>(section: &Section<'t>) -> impl Iterator<Item = &'t str> {
    let (path, to) = match section {
        Section::Add { path, .. } | Section::Delete { path } => (*path, None),
        Section::Update { path, to, .. } => (*path, *to),
    };
    std::iter::once(path).chain(to)
}

/// The workspace, as far as patches reach.
fn workspace(scene: &Scene<'_>) -> Result<Workspace, ToolError> {
    let tools = &scene.config.settings.tools;
    let is_inside = tools.fs_workspace_only || tools.apply_patch.workspace_only;
    files::reaching(scene, if is_inside { Reach::Inside } else { Reach::Anywhere })
}

impl Prepared for Patch {
    fn parts(&self, scene: &Scene<'_>) -> ActionRequest {
        let Ok(sections) = parse(&self.input) else { return ActionRequest::default() };
        let workspace = workspace(scene).ok();
        let mut targets = self.targets.iter();
        let mut changes = Vec::new();
        for section in &sections {
            let added: Vec<&str> = match section {
                Section::Add { lines, .. } => lines.clone(),
                Section::Delete { .. } => Vec::new(),
                Section::Update { hunks, .. } => {
                    let lines = hunks.iter().flat_map(|hunk| &hunk.lines);
                    lines.filter_map(|line| if let Line::New(text) = line { Some(*text) } else { None }).collect()
                }
            };
            let added = added.join("\n");
            for target in targets.by_ref().take(paths(section).count()) {
                let place = workspace.as_ref().and_then(|workspace| target.place(workspace).ok());
                changes.push((place.map(|place| place.shown), added.clone()));
            }
        }
        files::parts(changes.iter().map(|(shown, added)| (shown.clone(), added.as_str())))
    }

    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        let sections = parse(&self.input).map_err(|error| ToolError::Arguments(error.to_string()))?;
        let mut plan = Plan::new(workspace(scene)?);
        let mut targets = self.targets.iter();
        for section in &sections {
            let mut next = || targets.next().expect("there is one for each path");
            match section {
                Section::Add { lines, .. } => plan.add(next(), lines)?,
                Section::Delete { .. } => plan.delete(next())?,
                Section::Update { to, hunks, .. } => {
                    let (from, to) = (next(), to.map(|_| next()));
                    plan.update(from, to, hunks)?;
                }
            }
        }
        plan.finish(scene, self.is_dry)
    }
}

/// What the files will be once everything before was done.
struct Plan {
    workspace: Workspace,
    files: Vec<Planned>,
    by_path: HashMap<PathBuf, usize>,
    comparisons_left: usize,
    bytes_left: usize,
}

/// One file of a plan.
struct Planned {
    place: Place,
    /// What it is on disk; `None`: it is not there.
    known: Option<Known>,
    /// Its text there, once that was needed.
    before: Option<String>,
    now: Now,
    /// Where it comes from, when it is another file moved here: whose mode and owner it gets.
    moved: Option<Option<Known>>,
    /// Whether it went because it was moved away.
    is_left: bool,
}

/// What becomes of a file.
enum Now {
    /// What it is.
    Kept,
    /// It is not there.
    Gone,
    /// It has this text.
    Text(Encoding, String),
}

impl Planned {
    fn is_there(&self) -> bool {
        match self.now {
            Now::Kept => self.known.is_some(),
            Now::Gone => false,
            Now::Text(..) => true,
        }
    }
}

impl Plan {
    fn new(workspace: Workspace) -> Plan {
        let (comparisons_left, bytes_left) = (COMPARISONS_MAX, TOTAL_BYTES_MAX);
        Plan { workspace, files: Vec::new(), by_path: HashMap::new(), comparisons_left, bytes_left }
    }

    /// The file of a path.
    fn at(&mut self, target: &Target) -> Result<usize, ToolError> {
        let why_not = |error: FileError| files::why_not(&target.said, &error);
        let place = target.place(&self.workspace).map_err(why_not)?;
        if let Some(&index) = self.by_path.get(&place.path) {
            return Ok(index);
        }
        let known = place.look().map_err(why_not)?;
        let index = self.files.len();
        self.by_path.insert(place.path.clone(), index);
        self.files.push(Planned { place, known, before: None, now: Now::Kept, moved: None, is_left: false });
        Ok(index)
    }

    /// The file of a path that goes: not what a link of that name leads to.
    fn at_itself(&mut self, target: &Target) -> Result<usize, ToolError> {
        if self.workspace.is_link(&target.said) {
            return Err(files::why_not(&target.said, &FileError::Refused(Refusal::Link)));
        }
        let index = self.at(target)?;
        if !self.files[index].is_there() {
            return Err(files::why_not(&target.said, &FileError::NotThere));
        }
        Ok(index)
    }

    /// The file of a path that comes.
    fn at_free(&mut self, target: &Target) -> Result<usize, ToolError> {
        let index = self.at(target)?;
        if self.files[index].is_there() {
            let why = "is there already: change it with *** Update File, or delete it earlier in the patch";
            return Err(ToolError::Failed(format!("{} {why}", self.files[index].place.shown)));
        }
        Ok(index)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), ToolError> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| {
            ToolError::Failed(format!("the files of the patch have more than {TOTAL_BYTES_MAX} bytes together"))
        })?;
        Ok(())
    }

    fn add(&mut self, target: &Target, lines: &[&str]) -> Result<(), ToolError> {
        let index = self.at_free(target)?;
        let text: String = lines.iter().flat_map(|line| [*line, "\n"]).collect();
        self.spend(text.len())?;
        self.files[index].now = Now::Text(Encoding::Utf8, text);
        Ok(())
    }

    fn delete(&mut self, target: &Target) -> Result<(), ToolError> {
        let index = self.at_itself(target)?;
        self.files[index].now = Now::Gone;
        Ok(())
    }

    fn update(&mut self, from: &Target, to: Option<&Target>, hunks: &[parse::Hunk<'_>]) -> Result<(), ToolError> {
        let index = if to.is_some() { self.at_itself(from)? } else { self.at(from)? };
        let file = &mut self.files[index];
        let (encoding, text) = match &file.now {
            Now::Gone => return Err(files::why_not(&from.said, &FileError::NotThere)),
            Now::Text(encoding, text) => (*encoding, text.clone()),
            Now::Kept => {
                let old = Old::read(&file.place)?;
                if file.known.as_ref() != Some(&old.known) {
                    return Err(files::why_not(&from.said, &FileError::Refused(Refusal::Changed)));
                }
                file.before = Some(old.text.clone());
                (old.encoding, old.text)
            }
        };
        let new = place::apply(&text, hunks, &mut self.comparisons_left)
            .map_err(|error| ToolError::Failed(format!("{}: {error}", file.place.shown)))?;
        if new.len() as u64 > FILE_BYTES_MAX {
            return Err(files::why_not(&file.place.shown, &FileError::TooLarge(FILE_BYTES_MAX)));
        }
        self.spend(text.len() + new.len())?;
        let to = match to {
            Some(to) => self.at(to)?,
            None => index,
        };
        if to != index {
            let target = to;
            if self.files[target].is_there() {
                let shown = &self.files[target].place.shown;
                return Err(ToolError::Failed(format!("{shown} is there already: delete it earlier in the patch")));
            }
            let file = &mut self.files[index];
            let like = file.moved.take().flatten().or_else(|| file.known.clone());
            (file.now, file.is_left) = (Now::Gone, true);
            self.files[target].moved = Some(like);
        }
        self.files[to].now = Now::Text(encoding, new);
        Ok(())
    }

    /// Makes the changes, unless it is only to be said which.
    fn finish(self, scene: &Scene<'_>, is_dry: bool) -> Result<Output, ToolError> {
        let mut summary: [(&str, &str, Vec<String>); 3] =
            [("added", "A", Vec::new()), ("modified", "M", Vec::new()), ("deleted", "D", Vec::new())];
        let (mut steps, mut same) = (Vec::new(), Vec::new());
        let mut shown = Shown::default();
        for file in self.files {
            let Planned { place, known, before, now, moved, is_left } = file;
            let before = before.unwrap_or_default();
            let name = place.shown.clone();
            match (now, known) {
                (Now::Kept, _) | (Now::Gone, None) => {}
                (Now::Gone, old @ Some(_)) => {
                    if !is_left {
                        summary[2].2.push(name);
                    }
                    steps.push(Step { place, old, new: None, like: None });
                }
                (Now::Text(_, text), Some(_)) if text == before && moved.is_none() => same.push(name),
                (Now::Text(encoding, text), known) => {
                    let kind = usize::from(known.is_some() || moved.is_some());
                    shown.add(&name, &before, &text);
                    summary[kind].2.push(name);
                    let mut step = files::step(scene, place, encoding, &before, &text)?;
                    (step.old, step.like) = (known, moved.flatten());
                    steps.push(step);
                }
            }
        }
        let mut details = shown.details;
        let names: Map<String, Value> =
            summary.iter().map(|(name, _, files)| ((*name).to_owned(), json!(files))).collect();
        details.insert("summary".to_owned(), Value::Object(names));
        if is_dry {
            details.insert("dryRun".to_owned(), true.into());
        } else if !steps.is_empty() {
            files::make(scene, &steps)?;
        }
        let text = match (steps.is_empty(), is_dry) {
            (true, _) => format!("No changes made to {}.", same.join(", ")),
            (_, true) => listed("The patch fits. It would update the following files:", &summary),
            (_, false) => listed("Success. Updated the following files:", &summary),
        };
        Ok(Output { text, details: Some(Value::Object(details)), ..Output::default() })
    }
}

fn listed(head: &str, summary: &[(&str, &str, Vec<String>)]) -> String {
    let mut text = head.to_owned();
    for (_, letter, names) in summary {
        for name in names {
            text.push_str(&format!("\n{letter} {name}"));
        }
    }
    text
}

/// What the details show of all files together.
#[derive(Default)]
struct Shown {
    details: Map<String, Value>,
    bytes: usize,
}

impl Shown {
    fn add(&mut self, name: &str, before: &str, after: &str) {
        if self.bytes > DIFF_BYTES_MAX {
            return;
        }
        let one = diff::details(name, before, after);
        for key in ["diff", "patch"] {
            let Some(more) = one[key].as_str() else { continue };
            self.bytes += more.len();
            let all = self.details.entry(key).or_insert_with(|| json!(""));
            let head = if key == "diff" { format!("{name}:\n") } else { String::new() };
            *all = json!(format!("{}{head}{}\n", all.as_str().unwrap_or_default(), more.trim_end_matches('\n')));
        }
    }
}

#[cfg(test)]
mod tests;
