//! Blocked actions on disk, one file each: `blocked-<ms>-<id>.json` with `{request, decision}` (DEF-80, DEF-81).
//!
//! Files are created with mode 0600 in a directory of mode 0700, are written once and never changed. Credentials in
//! them are masked and long texts cut. [`Quarantine::sweep`] keeps age, bytes and number within limits, oldest first,
//! and touches nothing but files of that name.
//!
//! Blocking file operations: called on a worker, never on the loop. A failure is the caller's to log; it never
//! changes the decision.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::decision::Decision;
use super::event::WireDecision;
use super::request::ActionRequest;
use super::rules::Rules;

/// Most bytes kept of each text of a blocked action; what is cut is marked.
pub const QUARANTINE_TEXT_BYTES_MAX: usize = 256 * 1024;
/// Most files kept, whatever their size: listing them must stay quick.
pub const QUARANTINE_FILES_MAX: usize = 10_000;
/// Longest part of a file name that the request id may take, in bytes.
const ID_BYTES_MAX: usize = 64;
/// Names tried for one action before giving up; two blocks of one id in one millisecond are already rare.
const NAMES_MAX: usize = 100;

/// Why quarantine failed.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    #[error("quarantine directory {path} could not be created")]
    Directory { path: PathBuf, source: io::Error },
    #[error("quarantine file {path} could not be written")]
    Write { path: PathBuf, source: io::Error },
    #[error("quarantine directory {path} could not be listed")]
    List { path: PathBuf, source: io::Error },
    #[error("quarantine file {path} could not be removed")]
    Remove { path: PathBuf, source: io::Error },
}

/// What retention allows (`security.quarantine_retention`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Files from before are removed, in milliseconds before now.
    pub age_ms_max: i64,
    /// All files together, in bytes.
    pub bytes_max: u64,
}

impl Default for Retention {
    /// 90 days, 256 MiB.
    fn default() -> Retention {
        Retention { age_ms_max: 90 * 24 * 60 * 60 * 1000, bytes_max: 256 * 1024 * 1024 }
    }
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub removed_files: usize,
    pub removed_bytes: u64,
    pub kept_files: usize,
    pub kept_bytes: u64,
}

/// The quarantine directory.
#[derive(Clone, Debug)]
pub struct Quarantine {
    directory: PathBuf,
}

#[derive(Serialize)]
struct Item<'a> {
    request: MaskedRequest<'a>,
    decision: WireDecision<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MaskedRequest<'a> {
    id: Option<&'a str>,
    session_key: Option<&'a str>,
    source: &'a str,
    channel: Option<&'a str>,
    tool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl Quarantine {
    /// The quarantine in `directory`, which is created with the first file.
    pub fn new(directory: impl Into<PathBuf>) -> Quarantine {
        Quarantine { directory: directory.into() }
    }

    /// Writes one blocked action and returns its file.
    ///
    /// # Errors
    /// [`QuarantineError::Directory`] and [`QuarantineError::Write`].
    pub fn write(
        &self,
        rules: &Rules,
        request: &ActionRequest,
        decision: &Decision,
        now_ms: i64,
    ) -> Result<PathBuf, QuarantineError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|source| QuarantineError::Directory { path: self.directory.clone(), source })?;
        let masked = |text: &Option<String>| text.as_deref().map(|text| mask(rules, text));
        let item = Item {
            request: MaskedRequest {
                id: request.id.as_deref(),
                session_key: request.session_key.as_deref(),
                source: &request.source,
                channel: request.channel.as_deref(),
                tool: request.tool.as_deref(),
                prompt: masked(&request.prompt),
                command: masked(&request.command),
                url: masked(&request.url),
                file: masked(&request.file),
                secret: masked(&request.secret),
            },
            decision: WireDecision::new(decision),
        };
        let mut text = serde_json::to_vec_pretty(&item).expect("strings and numbers always serialize");
        text.push(b'\n');
        self.create(&format!("blocked-{now_ms}-{}", sanitized(request.id.as_deref())), &text)
    }

    /// Removes files that are too old, and then the oldest until bytes and number are within limits.
    ///
    /// # Errors [`QuarantineError::List`]; [`QuarantineError::Remove`] for the first file that stays, after the
    /// others were tried.
    pub fn sweep(&self, retention: Retention, now_ms: i64) -> Result<Swept, QuarantineError> {
        let mut files = self.files()?;
        files.sort_unstable_by_key(|file| file.written_ms);
        let mut swept = Swept {
            kept_files: files.len(),
            kept_bytes: files.iter().map(|file| file.bytes).sum(),
            ..Swept::default()
        };
        let mut failure = None;
        for file in files {
            let too_old = now_ms.saturating_sub(file.written_ms) > retention.age_ms_max;
            if !too_old && swept.kept_bytes <= retention.bytes_max && swept.kept_files <= QUARANTINE_FILES_MAX {
                break;
            }
            match fs::remove_file(&file.path) {
                Ok(()) => {
                    swept.removed_files += 1;
                    swept.removed_bytes += file.bytes;
                    swept.kept_files -= 1;
                    swept.kept_bytes -= file.bytes;
                }
                Err(source) => failure = failure.or(Some(QuarantineError::Remove { path: file.path, source })),
            }
        }
        failure.map_or(Ok(swept), Err)
    }

    /// Creates a new file; a name that is taken gets a number.
    fn create(&self, stem: &str, text: &[u8]) -> Result<PathBuf, QuarantineError> {
        let mut taken = 0;
        loop {
            let name = if taken == 0 { format!("{stem}.json") } else { format!("{stem}-{taken}.json") };
            let path = self.directory.join(name);
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    return match file.write_all(text) {
                        Ok(()) => Ok(path),
                        Err(source) => {
                            // Half a file helps nobody, and on a full disk its space does.
                            let _ = fs::remove_file(&path);
                            Err(QuarantineError::Write { path, source })
                        }
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && taken < NAMES_MAX => taken += 1,
                Err(source) => return Err(QuarantineError::Write { path, source }),
            }
        }
    }

    fn files(&self) -> Result<Vec<File>, QuarantineError> {
        let failed = |source| QuarantineError::List { path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            // Nothing was ever blocked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let Some(written_ms) = written_ms(&path) else { continue };
            // A link would lead elsewhere; one that vanished meanwhile needs nothing.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_file() {
                files.push(File { path, written_ms, bytes: metadata.len() });
            }
        }
        Ok(files)
    }
}

struct File {
    path: PathBuf,
    written_ms: i64,
    bytes: u64,
}

/// The time in `blocked-<ms>-<id>.json`, if that is what the file is called.
fn written_ms(path: &Path) -> Option<i64> {
    let name = path.file_name()?.to_str()?;
    let (ms, _) = name.strip_prefix("blocked-")?.strip_suffix(".json")?.split_once('-')?;
    ms.parse().ok()
}

fn mask(rules: &Rules, text: &str) -> String {
    let kept = &text[..text.floor_char_boundary(QUARANTINE_TEXT_BYTES_MAX)];
    let (masked, _) = rules.scrub(kept);
    if kept.len() == text.len() {
        return masked.into_owned();
    }
    format!("{masked}… ({} bytes cut)", text.len() - kept.len())
}

/// The request id as part of a file name: ASCII letters, digits, `-` and `_`.
fn sanitized(id: Option<&str>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let name: String = id.unwrap_or_default().chars().map(plain).take(ID_BYTES_MAX).collect();
    if name.is_empty() { "no-id".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defender::rules::RuleInputs;
    use std::os::unix::fs::PermissionsExt as _;

    struct Fixture {
        _root: tempfile::TempDir,
        directory: PathBuf,
        quarantine: Quarantine,
        rules: Rules,
    }

    fn fixture() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("state/quarantine");
        let quarantine = Quarantine::new(&directory);
        Fixture { _root: root, directory, quarantine, rules: Rules::compile(&RuleInputs::default()).unwrap() }
    }

    impl Fixture {
        fn write(&self, id: &str, command: &str, now_ms: i64) -> PathBuf {
            let request =
                ActionRequest { id: Some(id.into()), command: Some(command.into()), ..ActionRequest::default() };
            let decision = self.rules.evaluate(&request, || false);
            self.quarantine.write(&self.rules, &request, &decision, now_ms).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(&self.directory)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn files_are_private_and_hold_request_and_decision() {
        let fixture = fixture();
        let path = fixture.write("r1", "rm -rf /", 1700);
        assert_eq!(path.file_name().unwrap(), "blocked-1700-r1.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&fixture.directory).unwrap().permissions().mode() & 0o777, 0o700);
        let item: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(item["request"]["command"], "rm -rf /");
        assert_eq!(item["decision"]["action"], "block");
    }

    #[test]
    fn secrets_are_masked_and_long_texts_cut() {
        let fixture = fixture();
        let key = format!("sk-{}", "a1".repeat(20));
        let long = format!("curl -H 'x: {key}' {}", "x".repeat(QUARANTINE_TEXT_BYTES_MAX));
        let text = fs::read_to_string(fixture.write("r", &long, 0)).unwrap();
        assert!(!text.contains(&key) && text.contains("[REDACTED_SECRET]"));
        assert!(text.len() < QUARANTINE_TEXT_BYTES_MAX + 2048 && text.contains("bytes cut)"));
    }

    #[test]
    fn an_id_cannot_leave_the_directory_and_nothing_is_overwritten() {
        let fixture = fixture();
        let first = fixture.write("../../etc/x y", "one", 5);
        let second = fixture.write("../../etc/x y", "two", 5);
        assert_eq!(fixture.names(), ["blocked-5-______etc_x_y-1.json", "blocked-5-______etc_x_y.json"]);
        assert!(fs::read_to_string(first).unwrap().contains("one"));
        assert!(fs::read_to_string(second).unwrap().contains("two"));
        assert_eq!(sanitized(Some(&"ä/".repeat(200))).len(), ID_BYTES_MAX);
        assert_eq!(sanitized(None), "no-id");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_with_its_path() {
        let fixture = fixture();
        fs::write(fixture._root.path().join("state"), "a file is in the way").unwrap();
        let request = ActionRequest::default();
        let error = fixture.quarantine.write(&fixture.rules, &request, &Decision::failed(), 0).unwrap_err();
        assert!(matches!(&error, QuarantineError::Directory { path, .. } if path == &fixture.directory));
    }

    #[test]
    fn a_sweep_removes_by_age_then_by_bytes_and_nothing_else() {
        let fixture = fixture();
        let retention = Retention { age_ms_max: 100, bytes_max: u64::MAX };
        assert_eq!(fixture.quarantine.sweep(retention, 0).unwrap(), Swept::default());
        for ms in [100, 200, 300, 400] {
            fixture.write("r", "rm -rf /", ms);
        }
        fs::write(fixture.directory.join("notes.json"), "mine").unwrap();
        std::os::unix::fs::symlink("notes.json", fixture.directory.join("blocked-1-link.json")).unwrap();

        let swept = fixture.quarantine.sweep(retention, 300).unwrap();
        assert_eq!((swept.removed_files, swept.kept_files), (1, 3));
        let one_file = swept.removed_bytes;
        let by_bytes = Retention { age_ms_max: i64::MAX, bytes_max: 2 * one_file };
        assert_eq!(fixture.quarantine.sweep(by_bytes, 300).unwrap().removed_files, 1);
        assert_eq!(fixture.names(), ["blocked-1-link.json", "blocked-300-r.json", "blocked-400-r.json", "notes.json"]);
    }
}
