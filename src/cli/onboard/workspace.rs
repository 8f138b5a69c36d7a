//! The documents an agent begins with. What stands in a workspace already is never touched.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::super::CliError;
use crate::runtime::beneath;

/// Their names, and what they say at first.
const DOCUMENTS: &[(&str, &str)] = &[
    ("AGENTS.md", include_str!("AGENTS.md")),
    ("SOUL.md", include_str!("SOUL.md")),
    ("IDENTITY.md", include_str!("IDENTITY.md")),
    ("USER.md", include_str!("USER.md")),
];
/// Owner only: what a person tells an assistant is nobody else's.
const FILE_MODE: u32 = 0o600;

/// What was made, and what was there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// New documents.
    pub made: Vec<&'static str>,
    /// Documents that were there, and are as they were.
    pub kept: Vec<&'static str>,
}

/// Makes a workspace and the documents that are missing in it.
///
/// # Errors
/// [`CliError::Input`] with the path that cannot be made.
pub fn prepare(dir: &Path) -> Result<Made, CliError> {
    let failed = |path: &Path, source| CliError::Input { name: path.display().to_string(), source };
    beneath::make(dir).map_err(|source| failed(dir, source))?;
    let mut made = Made::default();
    for (name, text) in DOCUMENTS {
        let path = dir.join(name);
        // Refuses also a link that leads nowhere: a name that is taken is taken.
        match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path) {
            Ok(mut file) => {
                file.write_all(text.as_bytes()).map_err(|source| failed(&path, source))?;
                made.made.push(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => made.kept.push(name),
            Err(source) => return Err(failed(&path, source)),
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn makes_what_is_missing_and_touches_nothing_else() {
        let temp = tempfile::TempDir::new().unwrap();
        let dir = temp.path().join("a/workspace");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("SOUL.md"), "mine").unwrap();
        symlink("/no/such/file", dir.join("USER.md")).unwrap();
        let made = prepare(&dir).unwrap();
        assert_eq!(made, Made { made: vec!["AGENTS.md", "IDENTITY.md"], kept: vec!["SOUL.md", "USER.md"] });
        assert_eq!(fs::read_to_string(dir.join("SOUL.md")).unwrap(), "mine");
        let mode = fs::metadata(dir.join("AGENTS.md")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE);
        assert_eq!(prepare(&dir).unwrap().made, Vec::<&str>::new());
    }

    #[test]
    fn the_documents_are_small_and_say_something() {
        for (name, text) in DOCUMENTS {
            assert!(text.len() > 100 && text.len() < 2500 && text.ends_with('\n'), "{name}: {} bytes", text.len());
        }
    }
}
