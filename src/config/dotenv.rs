//! `.env` files: `NAME=value` lines beside the configuration, which name what the environment does not.

use std::path::Path;

use super::{ConfigError, expand, files};

/// The file's name, in the working and in the state directory.
pub const FILE: &str = ".env";

/// The variables of a file. `export` before them, quotes around values and `#` comments are understood, no more.
pub fn read(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(line)
}

fn line(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let value = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.split_once(*quote).map(|(inside, _)| inside))
        .unwrap_or_else(|| value.split_once(" #").map_or(value, |(value, _)| value.trim_end()));
    expand::is_name(name).then(|| (name.to_owned(), value.to_owned()))
}

/// A file's text with `name` set to `value`, or without it; every other line stays as it is. `None` when the value
/// cannot be written so that it is read again: it breaks lines, or holds both kinds of quotes.
pub fn with(text: &str, name: &str, value: Option<&str>) -> Option<String> {
    let written = match value {
        None => None,
        Some(value) => Some(format!("{name}={}", quoted(value)?)),
    };
    let others = text.lines().filter(|line| self::line(line).is_none_or(|(known, _)| known != name));
    let lines: Vec<&str> = others.chain(written.as_deref()).collect();
    Some(lines.iter().map(|line| format!("{line}\n")).collect())
}

fn quoted(value: &str) -> Option<String> {
    let quote = ['"', '\''].into_iter().find(|quote| !value.contains(*quote))?;
    (!value.contains(['\n', '\r', '\0'])).then(|| format!("{quote}{value}{quote}"))
}

/// Sets or removes a variable in the file of `dir`, which is then readable by its owner only.
///
/// # Errors
/// Those of reading and writing it; `Ok(false)`: the value cannot be kept in such a file.
pub fn change(dir: &Path, name: &str, value: Option<&str>) -> Result<bool, ConfigError> {
    let path = dir.join(FILE);
    let before = files::read(&path)?.unwrap_or_default();
    let Some(after) = with(&before, name, value) else { return Ok(false) };
    if after != before {
        files::put(&path, &after)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_again_as_it_was_set() {
        for value in ["plain", "", "with # and = and spaces ", "it's", "say \"hi\"", "$HOME ${X} \\n"] {
            let text = with("# mine\nOTHER=1\n", "KEY", Some(value)).unwrap();
            let found: Vec<_> = read(&text).collect();
            assert_eq!(found, [("OTHER".to_owned(), "1".to_owned()), ("KEY".to_owned(), value.to_owned())], "{text}");
            assert!(text.starts_with("# mine\n"), "{text}");
        }
    }

    #[test]
    fn a_value_that_would_be_read_otherwise_is_not_written() {
        for value in ["two\nlines", "nul\0", "'both\""] {
            assert_eq!(with("", "KEY", Some(value)), None, "{value:?}");
        }
    }

    #[test]
    fn setting_replaces_and_removing_leaves_the_others() {
        let text = with("export KEY=old\nOTHER=1\nKEY='older'\n", "KEY", Some("new")).unwrap();
        assert_eq!(text, "OTHER=1\nKEY=\"new\"\n");
        assert_eq!(with(&text, "KEY", None).unwrap(), "OTHER=1\n");
    }

    #[test]
    fn the_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        assert!(change(dir.path(), "KEY", Some("hush")).unwrap());
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!change(dir.path(), "KEY", Some("a\nb")).unwrap());
    }
}
