//! An agent's own directory, and the files in it.
//!
//! **Invariant:** nothing outside of it is opened, whatever a path says and wherever its links lead. A link that stays
//! inside is followed. What it resolves to is opened part by part, so a link that is swapped meanwhile is refused.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::runtime::beneath::{Folder, Found};

/// A workspace, open.
#[derive(Debug)]
pub struct Workspace {
    /// Without links.
    root: PathBuf,
    dir: Folder,
}

impl Workspace {
    /// Opens it. The directory itself may be a link: it is the operator's own word.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(root: &Path) -> io::Result<Workspace> {
        let root = root.canonicalize()?;
        let dir = Folder::open(&root)?;
        Ok(Workspace { root, dir })
    }

    /// Opens a file of it by its path, absolute or from the workspace.
    ///
    /// # Errors
    /// `PermissionDenied` for what lies outside; the operating system's.
    pub fn file(&self, path: &Path) -> io::Result<Found> {
        let resolved = self.root.join(path).canonicalize();
        // What is not there is not there; but what lies outside is not told apart from that.
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(_) if self.leads_out(path) => return Err(io::ErrorKind::PermissionDenied.into()),
            Err(error) => return Err(error),
        };
        let Ok(inside) = resolved.strip_prefix(&self.root) else { return Err(io::ErrorKind::PermissionDenied.into()) };
        let parts: Vec<&OsStr> = inside.iter().collect();
        self.dir.file(&parts)
    }

    /// Whether a path leaves the workspace by its words alone.
    fn leads_out(&self, path: &Path) -> bool {
        let path = match path.strip_prefix(&self.root) {
            Ok(inside) => inside,
            Err(_) if path.is_absolute() => return true,
            Err(_) => path,
        };
        let mut depth = 0_usize;
        for part in path.components() {
            match part {
                Component::ParentDir if depth == 0 => return true,
                Component::ParentDir => depth -= 1,
                Component::Normal(_) => depth += 1,
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind::{NotFound, PermissionDenied};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn opens_what_is_inside_and_nothing_else() {
        let temp = tempfile::TempDir::new().unwrap();
        let root = temp.path().join("ws");
        fs::create_dir_all(root.join("notes")).unwrap();
        fs::write(root.join("notes/a.md"), "a").unwrap();
        fs::write(temp.path().join("secret"), "s").unwrap();
        symlink("notes/a.md", root.join("inner")).unwrap();
        symlink("../secret", root.join("outer")).unwrap();
        symlink(temp.path(), root.join("up")).unwrap();
        symlink("/etc/hostname", root.join("etc")).unwrap();
        symlink(&root, temp.path().join("alias")).unwrap();

        for opened in [root.clone(), temp.path().join("alias")] {
            let workspace = Workspace::open(&opened).unwrap();
            let read = |path: &str| workspace.file(Path::new(path)).and_then(|found| found.read(10));
            let absolute = root.join("notes/a.md");
            for inside in ["notes/a.md", "./notes/../notes/a.md", "inner", absolute.to_str().unwrap()] {
                assert_eq!(read(inside).unwrap(), b"a", "{inside}");
            }
            for (outside, kind) in [
                ("outer", PermissionDenied),
                ("up/secret", PermissionDenied),
                ("etc", PermissionDenied),
                ("../secret", PermissionDenied),
                ("../no-such-file", PermissionDenied),
                ("/etc/hostname", PermissionDenied),
                ("/no/such/file", PermissionDenied),
                ("notes/none", NotFound),
                ("notes", NotFound),
                ("", NotFound),
            ] {
                assert_eq!(read(outside).unwrap_err().kind(), kind, "{outside}");
            }
        }
    }
}
