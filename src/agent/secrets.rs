//! Fetching secrets from where they are kept: the document, the environment, a file, a program (MODEL-12; upstream's
//! "SecretRef contract").
//!
//! **Invariant:** no error quotes what was fetched, or what a program wrote: it may be the secret itself.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use serde_json::Value;

use crate::config::secret::{Secret, Source};
use crate::config::settings::secrets::{Access, Place, Program, Secrets as Settings};
use crate::protocol::json::json;
use crate::runtime::threads;

/// Largest secret that a file of its own may hold, in bytes.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// Longest time that a program may take, whatever is configured: a reload waits for it.
pub const PROGRAM_TIME_MAX: Duration = Duration::from_secs(30);
/// Most bytes that are read of a file or a program, whatever is configured.
pub const FETCHED_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Where secrets are fetched from.
pub struct Secrets<'a> {
    settings: &'a Settings,
    /// Environment variables by name.
    environment: &'a dyn Fn(&str) -> Option<String>,
    /// Programs that did not answer in time: they are not waited for again.
    gave_up: RefCell<BTreeSet<String>>,
}

impl<'a> Secrets<'a> {
    /// From these places and this environment.
    pub fn new(settings: &'a Settings, environment: &'a dyn Fn(&str) -> Option<String>) -> Secrets<'a> {
        Secrets { settings, environment, gave_up: RefCell::new(BTreeSet::new()) }
    }

    /// A variable's value; an empty one is none.
    pub fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Fetches a secret.
    ///
    /// # Errors
    /// Words that say why there is none, without any part of it.
    pub fn fetch(&self, source: &Source) -> Result<Secret, String> {
        match source {
            Source::Written(secret) => Ok(secret.clone()),
            Source::Variable(name) => self.of_variable(name),
            Source::Referred { source, provider, id } => self.referred(source, provider.as_deref(), id),
        }
    }

    fn of_variable(&self, name: &str) -> Result<Secret, String> {
        let value = self.variable(name);
        value.map(Secret::new).ok_or_else(|| format!("environment variable {name} is missing or empty"))
    }

    fn referred(&self, source: &str, provider: Option<&str>, id: &str) -> Result<Secret, String> {
        let default = self.settings.default_places.iter().find(|(of, _)| of == source).map(|(_, name)| name.as_str());
        let Some(name) = provider.or(default) else {
            // Our own short form: the file itself.
            return if source == "file" {
                read_secret(Path::new(id))
            } else {
                Err(format!("the reference to source `{source}` names none of secrets.providers"))
            };
        };
        let Some(place) = self.settings.places.iter().find(|place| place.name == name) else {
            return Err(format!("secrets.providers.{name} is not there"));
        };
        let fetched = match &place.access {
            Access::Env(allowed) if source == "env" => match allowed {
                Some(allowed) if !allowed.iter().any(|known| known == id) => Err(format!("it does not allow {id}")),
                _ => self.of_variable(id),
            },
            Access::File { path, is_json } if source == "file" => of_file(path, *is_json, place.bytes_max, id),
            Access::Exec(program) if source == "exec" => self.of_program(place, program, id),
            Access::Unknown(known) => Err(format!("its source `{known}` is not built")),
            _ => Err(format!("it is no source `{source}`")),
        };
        fetched.map_err(|why| format!("secrets.providers.{name}: {why}"))
    }

    fn of_program(&self, place: &Place, program: &Program, id: &str) -> Result<Secret, String> {
        if self.gave_up.borrow().contains(&place.name) {
            return Err("it did not answer in time".to_owned());
        }
        check_program(program)?;
        let time = place.fetch_timeout.min(PROGRAM_TIME_MAX);
        let passed = program.pass_env.iter().filter_map(|name| Some((name.clone(), (self.environment)(name)?)));
        let own = program.own_env.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned()));
        let env: Vec<(String, String)> = passed.chain(own).collect();
        let request = json!({ "protocolVersion": 1, "provider": place.name, "ids": [id] });
        let text = match run(program, &env, &request.to_string(), time, place.bytes_max.min(FETCHED_BYTES_MAX)) {
            Ok(text) => text,
            Err(Failed::TooLong) => {
                self.gave_up.borrow_mut().insert(place.name.clone());
                return Err("it did not answer in time".to_owned());
            }
            Err(Failed::Other(why)) => return Err(why),
        };
        match serde_json::from_str::<Value>(&text) {
            Ok(answer) if answer["protocolVersion"] == 1 => match answer["values"][id].as_str() {
                Some(value) if !value.is_empty() => Ok(Secret::new(value)),
                _ => Err(format!("it has no {id}{}", known_code(&answer["errors"][id]["code"]))),
            },
            _ if !program.json_only && !text.trim().is_empty() => Ok(Secret::new(text.trim_end_matches(['\r', '\n']))),
            _ => Err("its answer is none of protocol version 1".to_owned()),
        }
    }
}

/// The codes that are safe to repeat.
fn known_code(code: &Value) -> String {
    let known = ["NOT_FOUND", "AMBIGUOUS_DUPLICATE_KEY"].into_iter().find(|known| code == known);
    known.map_or_else(String::new, |code| format!(" ({code})"))
}

/// Whether nobody else could have put something in a program's place.
fn check_program(program: &Program) -> Result<(), String> {
    let command = &program.command;
    check_file(command)?;
    let is_trusted = program.trusted_dirs.is_empty() || program.trusted_dirs.iter().any(|dir| command.starts_with(dir));
    if is_trusted { Ok(()) } else { Err(format!("{} is in none of trustedDirs", command.display())) }
}

/// Whether a file is ours or root's, and nobody else can write it.
fn check_file(path: &Path) -> Result<(), String> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let shown = path.display();
    let metadata = std::fs::symlink_metadata(path).map_err(|error| format!("cannot look at {shown}: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{shown} is no regular file"));
    }
    // SAFETY: it takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    if metadata.uid() != own && metadata.uid() != 0 {
        return Err(format!("{shown} belongs to somebody else"));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(format!("{shown} can be written by others"));
    }
    Ok(())
}

enum Failed {
    TooLong,
    Other(String),
}

/// Runs a program with a request, and reads what it answers, within bounds.
fn run(
    program: &Program,
    env: &[(String, String)],
    request: &str,
    time: Duration,
    bytes_max: u64,
) -> Result<String, Failed> {
    let other = |what: &str| Failed::Other(what.to_owned());
    let started = Command::new(&program.command)
        .args(&program.args)
        .env_clear()
        .envs(env.iter().cloned())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = started.map_err(|error| Failed::Other(format!("it cannot be started: {error}")))?;
    // Shorter than a pipe holds, so this does not wait. One that does not read is told nothing, and may still answer.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(request.as_bytes()));
    let stdout = child.stdout.take().expect("it was asked for above");
    let (sender, receiver) = sync_channel(1);
    let read = threads::spawn("secret", threads::STACK_BYTES, move || {
        let mut text = String::new();
        let read = stdout.take(bytes_max + 1).read_to_string(&mut text).map(|_| text);
        // Nobody takes it when it comes too late.
        let _ = sender.send(read);
    });
    let answer = match read {
        Ok(_) => receiver.recv_timeout(time).map_err(|_| Failed::TooLong),
        Err(_) => Err(other("no thread can be started to read it")),
    };
    // It has said what it had to say, or is too late; an error means that it has ended already.
    let _ = child.kill();
    let _ = child.wait();
    let text = answer?.map_err(|_| other("its answer is no text"))?;
    if text.len() as u64 > bytes_max { Err(other("its answer is too long")) } else { Ok(text) }
}

/// A secret of a file: by JSON pointer, or all of it.
fn of_file(path: &Path, is_json: bool, bytes_max: u64, id: &str) -> Result<Secret, String> {
    check_file(path)?;
    let text = read_bounded(path, bytes_max.min(FETCHED_BYTES_MAX))?;
    let value = if is_json {
        let document: Value = serde_json::from_str(&text).map_err(|_| format!("{} is not JSON", path.display()))?;
        document.pointer(id).and_then(Value::as_str).map(str::to_owned)
    } else {
        (id == "value").then(|| text.trim_end_matches(['\r', '\n']).to_owned())
    };
    let value = value.filter(|value| !value.is_empty());
    value.map(Secret::new).ok_or_else(|| format!("{} has no {id}", path.display()))
}

/// The text of a file, without blanks around it.
fn read_secret(path: &Path) -> Result<Secret, String> {
    let text = read_bounded(path, SECRET_BYTES_MAX)?;
    let text = text.trim();
    if text.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(Secret::new(text)) }
}

/// The text of a file of at most so many bytes.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(bytes_max + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > bytes_max {
        return Err(format!("{} is larger than {bytes_max} bytes", path.display()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use std::time::Instant;

    use super::*;

    struct Desk {
        dir: tempfile::TempDir,
        settings: Settings,
    }

    impl Desk {
        fn new() -> Desk {
            Desk { dir: tempfile::tempdir().unwrap(), settings: Settings::default() }
        }

        fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn place(&mut self, name: &str, access: Access) {
            let (fetch_timeout, bytes_max) = (Duration::from_secs(10), 200);
            self.settings.places.push(Place { name: name.to_owned(), access, fetch_timeout, bytes_max });
        }

        /// A shell script as a place.
        fn program(&mut self, name: &str, script: &str) {
            let command = self.file(name, &format!("#!/bin/sh\n{script}\n"), 0o700);
            let program = Program {
                command,
                args: vec!["arg".to_owned()],
                own_env: vec![("OWN".to_owned(), Secret::new("own"))],
                pass_env: vec!["KEY_A".to_owned()],
                json_only: true,
                trusted_dirs: Vec::new(),
            };
            self.place(name, Access::Exec(program));
        }

        fn fetch_all(&self, sources: &[Source]) -> Vec<Result<String, String>> {
            let environment = |name: &str| (name == "KEY_A").then(|| " value ".to_owned());
            let secrets = Secrets::new(&self.settings, &environment);
            sources.iter().map(|source| secrets.fetch(source).map(|secret| secret.reveal().to_owned())).collect()
        }

        fn fetch(&self, source: Source) -> Result<String, String> {
            self.fetch_all(&[source]).remove(0)
        }

        #[track_caller]
        fn refused(&self, source: Source, words: &str) {
            let why = self.fetch(source).unwrap_err();
            assert!(why.contains(words), "{why}");
            assert!(!why.contains("s3cret"), "{why}");
        }
    }

    fn referred(source: &str, provider: &str, id: &str) -> Source {
        let provider = (!provider.is_empty()).then(|| provider.to_owned());
        Source::Referred { source: source.to_owned(), provider, id: id.to_owned() }
    }

    #[test]
    fn plain_ones_come_from_document_environment_and_files() {
        let mut desk = Desk::new();
        let path = desk.file("key", " s3cret\n", 0o600).display().to_string();
        assert_eq!(desk.fetch(Source::Written(Secret::new("x"))), Ok("x".to_owned()));
        assert_eq!(desk.fetch(Source::Variable("KEY_A".into())), Ok("value".to_owned()));
        desk.refused(Source::Variable("KEY_B".into()), "KEY_B");
        assert_eq!(desk.fetch(referred("file", "", &path)), Ok("s3cret".to_owned()));
        desk.refused(referred("file", "", "/nowhere/key"), "/nowhere/key");
        desk.refused(referred("moon", "", "x"), "moon");
        desk.refused(referred("exec", "", "x"), "names none");
        desk.refused(referred("exec", "gone", "x"), "secrets.providers.gone is not there");
        desk.place("some", Access::Env(Some(vec!["KEY_A".to_owned()])));
        assert_eq!(desk.fetch(referred("env", "some", "KEY_A")), Ok("value".to_owned()));
        desk.refused(referred("env", "some", "KEY_B"), "does not allow KEY_B");
        desk.refused(referred("file", "some", "x"), "no source `file`");
        desk.place("later", Access::Unknown("store".to_owned()));
        desk.refused(referred("store", "later", "x"), "`store` is not built");
    }

    #[test]
    fn files_are_asked_by_pointer_and_must_be_ours() {
        let mut desk = Desk::new();
        let json = desk.file("all.json", "{\"a\":{\"b/c\":\"s3cret\"},\"n\":1}", 0o600);
        let one = desk.file("one", "s3cret\n", 0o600);
        desk.place("all", Access::File { path: json, is_json: true });
        desk.place("one", Access::File { path: one.clone(), is_json: false });
        assert_eq!(desk.fetch(referred("file", "all", "/a/b~1c")), Ok("s3cret".to_owned()));
        desk.refused(referred("file", "all", "/n"), "has no /n");
        assert_eq!(desk.fetch(referred("file", "one", "value")), Ok("s3cret".to_owned()));
        desk.settings.default_places = vec![("file".to_owned(), "one".to_owned())];
        assert_eq!(desk.fetch(referred("file", "", "value")), Ok("s3cret".to_owned()));
        fs::set_permissions(&one, fs::Permissions::from_mode(0o622)).unwrap();
        desk.refused(referred("file", "one", "value"), "written by others");
        let link = desk.dir.path().join("link");
        std::os::unix::fs::symlink(&one, &link).unwrap();
        desk.place("link", Access::File { path: link, is_json: false });
        desk.refused(referred("file", "link", "value"), "no regular file");
        let long = desk.file("long", &"x".repeat(201), 0o600);
        desk.place("long", Access::File { path: long, is_json: false });
        desk.refused(referred("file", "long", "value"), "larger than 200 bytes");
    }

    #[test]
    fn programs_are_asked_in_upstreams_protocol() {
        let mut desk = Desk::new();
        desk.program("vault", r#"read line; case "$line" in *'"ids":["a/b"]'*'"protocolVersion":1'*|*'"protocolVersion":1'*'"ids":["a/b"]'*) printf '{"protocolVersion":1,"values":{"a/b":"s3cret %s %s %s"}}' "$1" "$OWN" "$KEY_A";; *) printf '{"protocolVersion":1,"values":{},"errors":{"x":{"code":"NOT_FOUND","message":"s3cret"}}}';; esac"#);
        assert_eq!(desk.fetch(referred("exec", "vault", "a/b")), Ok("s3cret arg own  value ".to_owned()));
        desk.refused(referred("exec", "vault", "x"), "it has no x (NOT_FOUND)");
        desk.program("plain", "echo s3cret");
        desk.refused(referred("exec", "plain", "x"), "none of protocol version 1");
        if let Access::Exec(program) = &mut desk.settings.places[1].access {
            program.json_only = false;
        }
        assert_eq!(desk.fetch(referred("exec", "plain", "x")), Ok("s3cret".to_owned()));
        if let Access::Exec(program) = &mut desk.settings.places[1].access {
            program.trusted_dirs = vec!["/usr/bin".into()];
        }
        desk.refused(referred("exec", "plain", "x"), "none of trustedDirs");
        desk.program("long", "while true; do echo s3crets3crets3cret; done");
        desk.refused(referred("exec", "long", "x"), "too long");
        desk.program("fails", "exit 3");
        desk.refused(referred("exec", "fails", "x"), "none of protocol version 1");
    }

    #[test]
    fn a_program_that_hangs_is_waited_for_once() {
        let mut desk = Desk::new();
        desk.program("slow", "sleep 60");
        desk.settings.places[0].fetch_timeout = Duration::from_millis(200);
        let began = Instant::now();
        let asked = desk.fetch_all(&[
            referred("exec", "slow", "a"),
            referred("exec", "slow", "b"),
            referred("exec", "slow", "c"),
        ]);
        assert!(asked.iter().all(|asked| asked.as_ref().is_err_and(|why| why.contains("in time"))), "{asked:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
