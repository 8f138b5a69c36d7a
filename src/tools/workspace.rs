//! An agent's own directory, and the files in it.
//!
//! A path is settled first: read from the workspace, its links followed one by one as text, until it says where it
//! really leads. Only then is what it leads to opened below an open directory, following no link at all: a link that is
//! swapped meanwhile is refused, and what was judged is what is opened.
//!
//! **Invariant:** nothing outside is opened, whatever a path says and wherever its links lead; a link that stays inside
//! is followed. **Invariant:** the gateway's own files are not opened, even where they lie inside.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::runtime::beneath::{self, Folder, Found, Known, Refusal};

/// Links that one path is followed through; the kernel follows as many.
const LINKS_MAX: usize = 40;
/// Longest path, in bytes, as said; the kernel takes no longer one.
pub const PATH_BYTES_MAX: usize = 4096;

/// A workspace, open.
#[derive(Debug)]
pub struct Workspace {
    /// Where paths begin. Without links, as the next ones.
    base: PathBuf,
    /// What lies below may be opened.
    root: PathBuf,
    dir: Folder,
    /// What may not, even so.
    own: Vec<PathBuf>,
}

/// How far paths may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Not out of the workspace.
    Inside,
    /// Anywhere on this machine.
    Anywhere,
}

/// Why a file is not opened, as said after its path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Its path leads out.
    #[error("is outside of the workspace")]
    Outside,
    /// It is the gateway's own.
    #[error("belongs to the gateway itself")]
    Own,
    /// Nothing is there, or a folder is.
    #[error("is not there, or is no file")]
    NotThere,
    /// It is not what it should be.
    #[error("{0}")]
    Refused(Refusal),
    /// It has more bytes than are looked into.
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    /// What the operating system says.
    #[error("cannot be used: {0}")]
    Io(io::ErrorKind),
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> FileError {
        match beneath::refusal(&error) {
            Some(refusal) => FileError::Refused(refusal),
            None if beneath::is_link(&error) => FileError::Refused(Refusal::Link),
            None if error.kind() == io::ErrorKind::NotFound => FileError::NotThere,
            None => FileError::Io(error.kind()),
        }
    }
}

/// Where a file is or will be: its name in an open folder, so that whoever holds it means the same file for as long.
#[derive(Debug)]
pub struct Place {
    /// The deepest folder on the way that is there.
    pub folder: Folder,
    /// Folders below it that are to be made.
    pub missing: Vec<String>,
    /// The file's name.
    pub name: String,
    /// Its path, absolute and without links.
    pub path: PathBuf,
    /// The same from the workspace, where it lies inside.
    pub shown: String,
}

impl Workspace {
    /// Opens one whose files alone may be reached. The directory itself may be a link: it is the operator's own word.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(base: &Path) -> io::Result<Workspace> {
        Workspace::reaching(base, Reach::Inside, &[])
    }

    /// Opens one from which paths lead as far as `reach` says, and never to what is the gateway's `own`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn reaching(base: &Path, reach: Reach, own: &[&Path]) -> io::Result<Workspace> {
        let base = base.canonicalize()?;
        let root = match reach {
            Reach::Inside => base.clone(),
            Reach::Anywhere => PathBuf::from("/"),
        };
        let dir = Folder::open(&root)?;
        let own = own.iter().filter_map(|path| settle(path)).collect();
        Ok(Workspace { base, root, dir, own })
    }

    /// Opens a file by its path, absolute or from the workspace.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn file(&self, path: &Path) -> Result<Found, FileError> {
        let (_, parts) = self.parts(path)?;
        let found = self.dir.file(&parts)?;
        // Its other names may lie anywhere.
        if self.root == self.base && found.n_links > 1 {
            return Err(FileError::Refused(Refusal::HardLink));
        }
        Ok(found)
    }

    /// Where the file of this path is, or would be. Nothing is made.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn place(&self, path: &Path) -> Result<Place, FileError> {
        let (path, mut parts) = self.parts(path)?;
        let name = parts.pop().ok_or(FileError::Refused(Refusal::Folder))?;
        let mut missing = Vec::new();
        let folder = loop {
            match self.dir.folder(&parts) {
                Ok(folder) => break folder,
                Err(error) if error.kind() == io::ErrorKind::NotFound => match parts.pop() {
                    Some(part) => missing.insert(0, part),
                    None => return Err(FileError::NotThere),
                },
                Err(error) => return Err(error.into()),
            }
        };
        let shown = path.strip_prefix(&self.base).unwrap_or(&path).display().to_string();
        Ok(Place { folder, missing, name, path, shown })
    }

    /// Whether a path names a link. Only good for telling what was meant: opening follows none, whatever is said here.
    pub fn is_link(&self, path: &str) -> bool {
        fs::read_link(self.base.join(path)).is_ok()
    }

    /// Where a path leads, and its parts below the root.
    fn parts(&self, path: &Path) -> Result<(PathBuf, Vec<String>), FileError> {
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(FileError::NotThere);
        }
        let path = settle(&self.base.join(path)).ok_or(FileError::NotThere)?;
        // Whether something outside is there is not told.
        let inside = path.strip_prefix(&self.root).map_err(|_| FileError::Outside)?;
        let is_own =
            |own: &PathBuf| path.starts_with(own) && !(self.base.starts_with(own) && path.starts_with(&self.base));
        if self.own.iter().any(is_own) {
            return Err(FileError::Own);
        }
        // No name of a model's is anything but UTF-8, and a link to one is rare enough.
        let part = |part: &std::ffi::OsStr| part.to_str().map(str::to_owned).ok_or(FileError::NotThere);
        let parts = inside.iter().map(part).collect::<Result<_, _>>()?;
        Ok((path, parts))
    }
}

impl Place {
    /// What is known of the file there; `None`: there is none yet.
    ///
    /// # Errors
    /// [`FileError`], also for what must not be replaced.
    pub fn look(&self) -> Result<Option<Known>, FileError> {
        if self.missing.is_empty() { Ok(self.folder.replaceable(&self.name)?) } else { Ok(None) }
    }

    /// Reads the file there, which must be one that may be replaced.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(&self, bytes_max: u64) -> Result<(Known, Vec<u8>), FileError> {
        self.look()?.ok_or(FileError::NotThere)?;
        let found = self.folder.file(&[&self.name])?;
        if found.n_links > 1 {
            return Err(FileError::Refused(Refusal::HardLink));
        }
        let known = found.known.clone();
        Ok((known, read(found, bytes_max)?))
    }
}

/// Reads a file of at most so many bytes.
///
/// # Errors
/// [`FileError`].
pub fn read(found: Found, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    found.read(bytes_max).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => FileError::TooLarge(bytes_max),
        _ => error.into(),
    })
}

/// Where an absolute path leads once its links are followed, as far as it is there. `None`: through too many links.
fn settle(path: &Path) -> Option<PathBuf> {
    let mut settled = PathBuf::from("/");
    let mut left: Vec<OsString> = Vec::new();
    push(&mut left, path);
    let mut n_links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            settled.pop();
            continue;
        }
        settled.push(&part);
        // What is no link, or not there, stays as it is.
        if let Ok(target) = fs::read_link(&settled) {
            n_links += 1;
            if n_links > LINKS_MAX {
                return None;
            }
            if target.is_absolute() {
                settled = PathBuf::from("/");
            } else {
                settled.pop();
            }
            push(&mut left, &target);
        }
    }
    Some(settled)
}

/// Puts the parts of a path before those that are left.
fn push(left: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().filter_map(|part| match part {
        Component::ParentDir => Some(OsString::from("..")),
        Component::Normal(name) => Some(name.to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let at = left.len();
    left.extend(parts);
    left[at..].reverse();
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A workspace with files and links, and what lies beside it.
    fn bench() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::TempDir::new().unwrap();
        let root = temp.path().join("ws");
        fs::create_dir_all(root.join("notes")).unwrap();
        fs::write(root.join("notes/a.md"), "a").unwrap();
        fs::write(temp.path().join("secret"), "s").unwrap();
        symlink("notes/a.md", root.join("inner")).unwrap();
        symlink(root.join("notes"), root.join("absolute")).unwrap();
        symlink("../secret", root.join("outer")).unwrap();
        symlink("../no-such-file", root.join("nowhere")).unwrap();
        symlink(temp.path(), root.join("up")).unwrap();
        symlink("/etc/hostname", root.join("etc")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink(&root, temp.path().join("alias")).unwrap();
        fs::hard_link(temp.path().join("secret"), root.join("second")).unwrap();
        (temp, root)
    }

    fn content(workspace: &Workspace, path: &str) -> Result<Vec<u8>, FileError> {
        workspace.file(Path::new(path)).and_then(|found| read(found, 10))
    }

    #[test]
    fn opens_what_is_inside_and_nothing_else() {
        use FileError::{NotThere, Outside, Refused};

        let (temp, root) = bench();
        let alias = temp.path().join("alias");
        for opened in [&root, &alias] {
            let workspace = Workspace::open(opened).unwrap();
            let absolute = root.join("notes/a.md");
            let by_alias = alias.join("notes/a.md");
            for inside in [
                "notes/a.md",
                "./notes/../notes//a.md",
                "inner",
                "absolute/a.md",
                "absolute/../inner",
                absolute.to_str().unwrap(),
                by_alias.to_str().unwrap(),
            ] {
                assert_eq!(content(&workspace, inside).unwrap(), b"a", "{inside}");
            }
            for (path, why) in [
                ("outer", Outside),
                ("nowhere", Outside),
                ("up/secret", Outside),
                ("up/none", Outside),
                ("etc", Outside),
                ("../secret", Outside),
                ("../no-such-file", Outside),
                ("notes/../../secret", Outside),
                ("/etc/hostname", Outside),
                ("/no/such/file", Outside),
                ("second", Refused(Refusal::HardLink)),
                ("notes/none", NotThere),
                ("notes", NotThere),
                ("loop", NotThere),
                ("a\0b", NotThere),
                ("", NotThere),
            ] {
                assert_eq!(content(&workspace, path).unwrap_err(), why, "{path}");
            }
            let long = format!("{}a.md", "./".repeat(PATH_BYTES_MAX / 2));
            assert_eq!(content(&workspace, &long).unwrap_err(), NotThere);
        }
    }

    #[test]
    fn says_where_a_file_would_be() {
        let (_temp, root) = bench();
        let workspace = Workspace::open(&root).unwrap();
        let place = |path: &str| workspace.place(Path::new(path));
        let new = place("notes/x/y/b.md").unwrap();
        assert_eq!((new.missing.join("/"), &*new.name, &*new.shown), ("x/y".to_owned(), "b.md", "notes/x/y/b.md"));
        assert_eq!(new.look(), Ok(None));
        let linked = place("absolute/../inner").unwrap();
        assert_eq!((&*linked.shown, linked.look().unwrap().unwrap().bytes), ("notes/a.md", 1));
        assert!(!root.join("notes/x").exists(), "nothing is made");
        for (path, why) in [
            ("outer", FileError::Outside),
            ("up/new", FileError::Outside),
            ("../new", FileError::Outside),
            ("nowhere", FileError::Outside),
            (".", FileError::Refused(Refusal::Folder)),
            ("notes/a.md/b", FileError::Io(io::ErrorKind::NotADirectory)),
        ] {
            assert_eq!(place(path).unwrap_err(), why, "{path}");
        }
        let refused = |path: &str| place(path).unwrap().look().unwrap_err();
        assert_eq!(refused("second"), FileError::Refused(Refusal::HardLink));
        assert_eq!(refused("notes"), FileError::Refused(Refusal::Folder));
    }

    #[test]
    fn a_way_that_becomes_a_link_after_it_was_settled_is_refused() {
        let (temp, root) = bench();
        let workspace = Workspace::open(&root).unwrap();
        let place = workspace.place(Path::new("new/b.md")).unwrap();
        symlink(temp.path(), root.join("new")).unwrap();
        let made = place.folder.make_folder(&place.missing[0]).unwrap_err();
        assert_eq!(FileError::from(made), FileError::Refused(Refusal::Link));
    }

    #[test]
    fn the_gateways_own_files_are_not_opened_wherever_they_lie() {
        let temp = tempfile::TempDir::new().unwrap();
        let workspace = temp.path().join("state/workspace");
        fs::create_dir_all(&workspace).unwrap();
        for file in ["state/token", "state/workspace/a.md", "beside"] {
            fs::write(temp.path().join(file), "x").unwrap();
        }
        symlink("state", temp.path().join("alias")).unwrap();
        let own: [&Path; 2] = [&temp.path().join("alias"), &temp.path().join("none")];
        for (base, reach, path, expected) in [
            (&workspace, Reach::Inside, "a.md", Ok(())),
            (&workspace, Reach::Inside, "../token", Err(FileError::Outside)),
            (&workspace, Reach::Anywhere, "../token", Err(FileError::Own)),
            (&workspace, Reach::Anywhere, "../../beside", Ok(())),
            (&temp.path().to_owned(), Reach::Inside, "state/token", Err(FileError::Own)),
            (&temp.path().to_owned(), Reach::Inside, "state/workspace/a.md", Err(FileError::Own)),
            (&temp.path().to_owned(), Reach::Inside, "beside", Ok(())),
        ] {
            let workspace = Workspace::reaching(base, reach, &own).unwrap();
            assert_eq!(content(&workspace, path).map(|_| ()), expected, "{base:?} {path}");
            assert_eq!(workspace.place(Path::new(path)).map(|_| ()), expected, "{base:?} {path}");
        }
    }
}
