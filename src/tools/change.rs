//! Changes of files that belong together: all of them are made, or none.
//!
//! Each new content is written beside its file and synced before the first file gets it; what is replaced or removed
//! keeps a second name until the last one is done. So what fails on the way is undone. What a kill leaves is undone when
//! the program starts again ([`recover`]): a journal in the state directory, written before anything else and moved
//! aside when all is done, says what belongs to it. One file alone needs none of that: a rename is all or nothing, and
//! what a kill leaves of it is at most a temporary file beside it, or folders without files.
//!
//! **Invariant:** a file that is not what it was when the change was made up is left alone, and so is everything else.

use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::FILE_BYTES_MAX;
use super::workspace::{FileError, Place};
use crate::runtime::beneath::{self, Folder, Known, Refusal, own_name};
use crate::runtime::{digest, random};

/// The folder of the state directory that journals are in.
const JOURNALS: &str = "changes";
/// What a journal ends with while its change goes on.
const OPEN: &str = ".open.json";
/// And once all of it is done, and only second names are left to be removed.
const DONE: &str = ".done.json";
/// Journals that one start looks at. A kill leaves one at most for each run that went on.
pub const JOURNALS_MAX: usize = 256;
/// Largest journal that is read, in bytes; what is written is far below it.
const JOURNAL_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// One file that changes.
#[derive(Debug)]
pub struct Step {
    /// Where it is.
    pub place: Place,
    /// What it was when the change was made up; `None`: it is not to be there.
    pub old: Option<Known>,
    /// Its new content; `None`: it is removed.
    pub new: Option<Vec<u8>>,
    /// Whose mode and owner a file gets that was not there before, because it was elsewhere.
    pub like: Option<Known>,
}

/// Why a change was not made: the file it failed at, as it is shown, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown} {error}")]
pub struct ChangeError {
    /// The file.
    pub shown: String,
    /// What is wrong with it.
    pub error: FileError,
}

/// What is to be undone, by the names of things: whoever finds it knows no more.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Journal {
    steps: Vec<Noted>,
    /// Folders that are made for it, with those above first.
    folders: Vec<PathBuf>,
}

/// A step, as it is noted.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    /// The file's path, without links.
    path: PathBuf,
    /// What its new content is called until it gets the name.
    temporary: String,
    /// The second name of what was there.
    kept: Option<String>,
    /// SHA-256 of the new content, by which a file is known that is to be removed again.
    digest: Option<String>,
}

/// Makes the changes, all or none. `state_dir` is where the journal of more than one goes.
///
/// # Errors
/// [`ChangeError`]; nothing was changed then.
pub fn make(steps: &[Step], state_dir: &Path) -> Result<(), ChangeError> {
    let journal = Journal::of(steps);
    let is_alone = steps.len() <= 1;
    let file = match is_alone {
        true => None,
        false => Some(journal.write(state_dir).map_err(|error| {
            log::warn!("journal of changes cannot be written dir={} error={error}", state_dir.display());
            ChangeError { shown: "the journal of changes".to_owned(), error: error.into() }
        })?),
    };
    let made = journal.carry_out(steps, is_alone);
    if let Err((index, _)) = &made {
        journal.undo(*index);
    }
    if let Some(file) = file {
        file.close(&journal, made.is_ok());
    }
    made.map_err(|(index, error)| ChangeError { shown: steps[index].place.shown.clone(), error })
}

/// Undoes what a kill left half done, and removes what it left behind; how many changes that were.
pub fn recover(state_dir: &Path) -> usize {
    let Ok(folder) = Folder::open(state_dir).and_then(|dir| dir.folder(&[JOURNALS])) else { return 0 };
    let mut n_found = 0;
    for entry in folder.entries(JOURNALS_MAX).unwrap_or_default() {
        if !entry.name.ends_with(OPEN) && !entry.name.ends_with(DONE) {
            // A journal that was not whole yet: nothing had been done.
            let _ = folder.remove(&entry.name);
            continue;
        }
        let read = || folder.file(&[&entry.name]).ok()?.read(JOURNAL_BYTES_MAX).ok();
        let Some(journal) = read().and_then(|bytes| serde_json::from_slice::<Journal>(&bytes).ok()) else {
            // Nothing is removed because it cannot be read.
            log::warn!("journal of changes cannot be read name={}", entry.name);
            continue;
        };
        if entry.name.ends_with(OPEN) {
            journal.undo(journal.steps.len());
        } else {
            journal.tidy_up();
        }
        n_found += 1;
        let _ = folder.remove(&entry.name);
    }
    n_found
}

/// A journal on disk.
struct OnDisk {
    folder: Folder,
    id: String,
}

impl Journal {
    fn of(steps: &[Step]) -> Journal {
        let mut journal = Journal::default();
        for step in steps {
            journal.steps.push(Noted {
                path: step.place.path.clone(),
                temporary: own_name("tmp"),
                kept: step.old.as_ref().map(|_| own_name("old")),
                digest: step.new.as_deref().map(digest::sha256_hex),
            });
            let n_missing = step.place.missing.len();
            let above: Vec<&Path> = step.place.path.ancestors().skip(1).take(n_missing).collect();
            for folder in above.into_iter().rev() {
                if !journal.folders.iter().any(|known| known == folder) {
                    journal.folders.push(folder.to_owned());
                }
            }
        }
        journal
    }

    fn write(&self, state_dir: &Path) -> io::Result<OnDisk> {
        let path = state_dir.join(JOURNALS);
        beneath::make(&path)?;
        let on_disk = OnDisk { folder: Folder::open(&path)?, id: random::uuid() };
        on_disk.folder.replace(&on_disk.name(OPEN), &serde_json::to_vec(self)?)?;
        Ok(on_disk)
    }

    /// Does it; on failure the index of the step that failed, and why.
    fn carry_out(&self, steps: &[Step], is_alone: bool) -> Result<(), (usize, FileError)> {
        let mut folders = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            folders.push(make_folders(step).map_err(|error| (index, error.into()))?);
        }
        // What is staged is not removed when this fails: undoing tells by it how far this came.
        let mut staged = Vec::with_capacity(steps.len());
        for (index, ((step, noted), folder)) in steps.iter().zip(&self.steps).zip(&folders).enumerate() {
            let like = step.old.as_ref().or(step.like.as_ref());
            let stage = |new: &Vec<u8>| folder.stage(noted.temporary.clone(), new, like);
            let done = step.new.as_ref().map(stage).transpose().map_err(|error| (index, error.into()))?;
            staged.push(done.map(ManuallyDrop::new));
        }
        for (index, ((step, noted), folder)) in steps.iter().zip(&self.steps).zip(&folders).enumerate() {
            let mut give = || -> io::Result<()> {
                let name = step.place.name.as_str();
                if folder.replaceable(name)? != step.old {
                    return Err(Refusal::Changed.into());
                }
                if let (Some(kept), false) = (&noted.kept, is_alone) {
                    folder.keep(name, kept)?;
                }
                match (&mut staged[index], &step.old) {
                    (Some(staged), Some(_)) => staged.replace(name)?,
                    (Some(staged), None) => staged.create(name)?,
                    (None, _) => folder.remove(name)?,
                }
                folder.sync()
            };
            give().map_err(|error| (index, error.into()))?;
        }
        Ok(())
    }

    /// Puts everything back, last things first. What cannot be put back is told to the log. Steps after `last` have given
    /// no file its name.
    fn undo(&self, last: usize) {
        for (index, noted) in self.steps.iter().enumerate().rev() {
            if let Err(error) = noted.undo(index <= last) {
                log::warn!("change of a file cannot be undone path={} error={error}", noted.path.display());
            }
        }
        for folder in self.folders.iter().rev() {
            // What is not empty is somebody's by now.
            if let Ok((folder, name)) = open(folder) {
                let _ = folder.remove_folder(&name);
            }
        }
    }

    /// Removes second names: what they are of is done.
    fn tidy_up(&self) {
        for noted in &self.steps {
            let Ok((folder, _)) = open(&noted.path) else { continue };
            for name in noted.kept.iter().chain([&noted.temporary]) {
                let _ = folder.remove(name);
            }
        }
    }
}

impl OnDisk {
    fn name(&self, end: &str) -> String {
        format!("{}{end}", self.id)
    }

    /// Ends it. When all was done, second names are removed only after that is known for good.
    fn close(self, journal: &Journal, is_done: bool) {
        let mut end = OPEN;
        if is_done {
            if let Err(error) =
                self.folder.move_over(&self.name(OPEN), &self.name(DONE)).and_then(|()| self.folder.sync())
            {
                log::warn!("journal of changes cannot be closed id={} error={error}", self.id);
                return;
            }
            end = DONE;
            journal.tidy_up();
        }
        if let Err(error) = self.folder.remove(&self.name(end)) {
            log::warn!("journal of changes cannot be removed id={} error={error}", self.id);
        }
    }
}

impl Noted {
    fn undo(&self, may_be_done: bool) -> io::Result<()> {
        let (folder, name) = match open(&self.path) {
            // Its folder was not made yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let was_staged = remove(&folder, &self.temporary)?;
        let kept = match &self.kept {
            Some(kept) => folder.look(kept)?.map(|known| (kept, known)),
            None => None,
        };
        match kept {
            Some((kept, known)) => {
                let now = folder.look(&name)?;
                let is_ours = now.is_none_or(|now| now.id == known.id) || self.is_new(&folder, &name);
                // What somebody wrote since then is theirs; the old one is beside it.
                if !is_ours {
                    return Err(Refusal::Changed.into());
                }
                folder.give_back(kept, &name)?;
            }
            // It has its name.
            None if self.kept.is_none() && may_be_done && !was_staged && self.is_new(&folder, &name) => {
                folder.remove(&name)?;
            }
            None => {}
        }
        folder.sync()
    }

    /// Whether the file has the new content.
    fn is_new(&self, folder: &Folder, name: &str) -> bool {
        let Some(digest) = &self.digest else { return false };
        let read = || folder.file(&[name])?.read(FILE_BYTES_MAX);
        read().is_ok_and(|content| digest::sha256_hex(&content) == *digest)
    }
}

fn remove(folder: &Folder, name: &str) -> io::Result<bool> {
    match folder.remove(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the folders that a step's file is to be in, and opens the last one.
fn make_folders(step: &Step) -> io::Result<Folder> {
    let mut folder = step.place.folder.again()?;
    for name in &step.place.missing {
        let made = folder.make_folder(name)?;
        folder.sync()?;
        folder = made;
    }
    Ok(folder)
}

/// The folder that a path without links is in, and its name there.
fn open(path: &Path) -> io::Result<(Folder, String)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::NotFound)?;
    let above = path.parent().and_then(|above| above.strip_prefix("/").ok()).ok_or(io::ErrorKind::NotFound)?;
    let parts: Vec<_> = above.iter().collect();
    Ok((Folder::open(Path::new("/"))?.folder(&parts)?, name.to_owned()))
}

#[cfg(test)]
mod tests;
