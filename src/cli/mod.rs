//! The command line: flags declared as data, one file per command.
//!
//! [`flags`] reads the words and has no effects; a command then finds its files, its gateway and its secrets
//! ([`target`]), does its one thing, and answers through [`term::Out`]: JSON for scripts with `--json`, aligned text
//! for people. Help, man page, completions and `docs/cli-reference.md` are written from the same rows.
//!
//! **Invariants.** `--help` and `--version` are answered before any file is read. An error is a message, its causes
//! and a hint, and never holds a secret. The exit status is [`Exit`] and nothing else. Nothing here touches the
//! daemon's state except through the gateway protocol; what must work without a daemon (`config`, `doctor`, `defend`)
//! reads files through the rooms that own them.

pub mod args;
pub mod commands;
pub mod flags;
pub mod nearest;

pub mod completions;
pub mod help;
pub mod man;
pub mod reference;

pub mod table;
pub mod term;
pub mod tools;

pub mod client;
pub mod place;
pub mod target;

pub mod said;

pub mod agent;
pub mod approvals;
pub mod call;
pub mod chat;
pub mod config;
pub mod defend;
pub mod devices;
pub mod doctor;
pub mod gateway;
pub mod health;
pub mod models;
pub mod onboard;
pub mod run;
pub mod sandbox;
pub mod sessions;

/// The program's allocator, for `main.rs` to name.
pub use crate::runtime::allocator::Allocator;
use std::error::Error as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use thiserror::Error;

use client::ClientError;
use flags::{Parsed, UsageError};
use term::{Out, visible};

use crate::config::ConfigError;
use crate::config::edit::EditError;
use crate::defender::rules::RuleError;
use crate::net::NetError;
use crate::protocol::json::json;
use crate::store::StoreError;
use crate::tools::sandbox::selftest;

/// The version of the program, as `--version` and the handshake say it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Process exit statuses. Scripts and service managers rely on these; never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did not work.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The configuration cannot be used.
    Config = 3,
    /// The state directory or the store cannot be used.
    Store = 4,
    /// The port is taken or a gateway already runs: starting again will not help, so a service manager should not.
    Busy = 78,
}

/// What each status means, in the words of the help.
pub const EXITS: &[(u8, &str)] = &[
    (0, "it worked"),
    (Exit::Failure as u8, "it did not work, or a check failed"),
    (Exit::Usage as u8, "unknown command or option, or a value that makes no sense"),
    (Exit::Config as u8, "the configuration cannot be used"),
    (Exit::Store as u8, "the state directory or the store cannot be used"),
    (Exit::Busy as u8, "the port is taken or a gateway already runs (a service manager should not restart)"),
];

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// The answer was given, and it is bad news: a check failed, the gateway is not well. The status says so.
    BadNews(Exit),
}

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CliError {
    /// The words make no sense.
    #[error(transparent)]
    Usage(#[from] Box<UsageError>),
    /// Two options that contradict each other, or a value that only the command can judge.
    #[error("{what}")]
    BadRequest {
        /// What is wrong.
        what: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// The gateway could not be reached or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The configuration cannot be read, used or written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A change of the configuration was refused; nothing was written.
    #[error("{} was not changed: {}", path.display(), edit_refusal(error))]
    Edit {
        /// The document.
        path: PathBuf,
        /// Why.
        error: EditError,
    },
    /// A configuration value that is not there.
    #[error("{what}")]
    NoValue {
        /// Which.
        what: String,
        /// The key it may have been meant to be.
        near: Option<String>,
    },
    /// The configured rules cannot be used.
    #[error("the defender's rules cannot be used")]
    Rules(#[source] RuleError),
    /// The state directory or the store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gateway cannot listen, or its loop failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// An agent was asked and did not answer.
    #[error("{what}")]
    Run {
        /// Why not, as the gateway said it.
        what: String,
        /// What to do about it.
        hint: Option<&'static str>,
    },
    /// An answer was stopped from here.
    #[error("the answer was stopped")]
    Stopped,
    /// What a command was to read cannot be read.
    #[error("cannot read {name}")]
    Input {
        /// The file.
        name: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Standard output is closed or full.
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
}

impl CliError {
    /// A stable word for scripts, the `error.code` of a JSON answer.
    pub fn code(&self) -> &str {
        match self {
            CliError::Usage(_) | CliError::BadRequest { .. } => "USAGE",
            CliError::Client(error) => error.code(),
            CliError::Config(_) | CliError::Edit { .. } | CliError::Rules(_) => "CONFIG",
            CliError::NoValue { .. } => "NOT_SET",
            CliError::Store(StoreError::Locked { .. }) => "ALREADY_RUNNING",
            CliError::Store(_) => "STORE",
            CliError::Net(_) => "LISTEN",
            CliError::Run { .. } => "RUN_FAILED",
            CliError::Stopped => "STOPPED",
            CliError::Input { .. } => "INPUT",
            CliError::Output(_) => "OUTPUT",
        }
    }

    /// What the operator could do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            CliError::Usage(error) => Some(error.hint()),
            CliError::BadRequest { hint, .. } => Some((*hint).to_owned()),
            CliError::Client(error) => error.hint(),
            CliError::Config(error) => error.hint().map(str::to_owned),
            CliError::Edit { .. } => Some("nothing was written".to_owned()),
            CliError::NoValue { near, .. } => near.as_ref().map(|near| format!("did you mean {near}?")),
            CliError::Rules(_) => Some("`openclaw-rs config validate` shows every problem".to_owned()),
            CliError::Store(error) => error.hint().map(str::to_owned),
            CliError::Net(error) => error.hint().map(str::to_owned),
            CliError::Run { hint, .. } => hint.map(str::to_owned),
            CliError::Stopped | CliError::Input { .. } | CliError::Output(_) => None,
        }
    }
}

/// Why a change was refused, with every problem.
fn edit_refusal(error: &EditError) -> String {
    match error {
        EditError::Invalid(issues) => issues.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

/// The only judge of exit statuses.
impl From<&CliError> for Exit {
    fn from(error: &CliError) -> Exit {
        match error {
            CliError::Usage(_) | CliError::BadRequest { .. } => Exit::Usage,
            CliError::Client(error) if error.is_bad_address() => Exit::Usage,
            CliError::Config(_) | CliError::Edit { .. } | CliError::Rules(_) => Exit::Config,
            CliError::Store(StoreError::Locked { .. }) => Exit::Busy,
            CliError::Net(error) if error.is_address_taken() => Exit::Busy,
            CliError::Store(_) => Exit::Store,
            CliError::Client(_)
            | CliError::NoValue { .. }
            | CliError::Net(_)
            | CliError::Run { .. }
            | CliError::Stopped
            | CliError::Input { .. }
            | CliError::Output(_) => Exit::Failure,
        }
    }
}

/// Runs the command line of this process and returns its exit status.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == selftest::COMMAND) {
        // The other half of a self-test, which nobody types: it is no command and stands in no help.
        return selftest::inside();
    }
    let (json, ended) = match flags::parse(&commands::ROOT, std::env::args_os().skip(1)) {
        Ok(Parsed::Run(run, args)) => {
            let mut out = Out::stdout(args.json, args.no_color);
            let ended = run(&args, &mut out);
            (args.json, finish(out, ended))
        }
        Ok(Parsed::Help(found, special)) => {
            let mut out = Out::stdout(false, false);
            let text = help::text(&found, special);
            let ended = out.raw(&text).map(|()| Outcome::Done).map_err(CliError::Output);
            (false, finish(out, ended))
        }
        Ok(Parsed::Version) => {
            let mut out = Out::stdout(false, false);
            let ended = out.line(&format!("openclaw-rs {VERSION}")).map(|()| Outcome::Done).map_err(CliError::Output);
            (false, finish(out, ended))
        }
        Err(error) => (false, Err(CliError::Usage(error))),
    };
    match ended {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::BadNews(exit)) => ExitCode::from(exit as u8),
        // The reader went away (`| head`): it has what it wanted, and there is nobody left to tell.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error, json);
            ExitCode::from(Exit::from(&error) as u8)
        }
    }
}

fn finish(mut out: Out, ended: Result<Outcome, CliError>) -> Result<Outcome, CliError> {
    let flushed = out.flush();
    let outcome = ended?;
    flushed?;
    Ok(outcome)
}

/// Says what went wrong: people read it on standard error, scripts as JSON on standard output.
fn complain(error: &CliError, json: bool) {
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    if json {
        let mut answer = json!({"ok": false, "error": {"code": error.code(), "message": error.to_string()}});
        if !causes.is_empty() {
            answer["error"]["causes"] = json!(causes);
        }
        if let Some(hint) = error.hint() {
            answer["error"]["hint"] = json!(hint);
        }
        if let CliError::Client(ClientError::Refused { error, .. }) = error
            && let Some(details) = &error.details
        {
            answer["error"]["details"] = details.clone();
        }
        let mut out = Out::stdout(true, true);
        let _ = out.json(&answer).and_then(|()| out.flush());
        return;
    }
    let _ = io::stderr().write_all(complaint(error, &causes).as_bytes());
}

fn complaint(error: &CliError, causes: &[String]) -> String {
    let mut text = format!("error: {}\n", visible(&error.to_string()));
    for cause in causes {
        text.push_str(&format!("caused by: {}\n", visible(cause)));
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("hint: {}\n", visible(&hint)));
    }
    text
}

/// What `write` prints.
#[cfg(test)]
pub(crate) fn capture(json: bool, write: impl FnOnce(&mut Out) -> io::Result<()>) -> String {
    use std::sync::{Arc, Mutex};
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let page = Page::default();
    let mut out = Out::to(Box::new(page.clone()), json);
    write(&mut out).unwrap();
    out.flush().unwrap();
    let bytes = page.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_never_change() {
        let all = [Exit::Failure, Exit::Usage, Exit::Config, Exit::Store, Exit::Busy];
        assert_eq!(all.map(|exit| exit as u8), [1, 2, 3, 4, 78]);
        for exit in all {
            assert!(EXITS.iter().any(|(status, _)| *status == exit as u8), "{exit:?} is not in the help");
        }
    }

    #[test]
    fn an_error_is_a_message_its_causes_and_a_hint() {
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = CliError::Client(ClientError::Connect { url: "ws://127.0.0.1:1".to_owned(), source });
        let causes = vec![error.source().unwrap().to_string()];
        assert_eq!(
            complaint(&error, &causes),
            "error: no gateway answers on ws://127.0.0.1:1\n\
             caused by: connection refused\n\
             hint: start one with `openclaw-rs gateway run`\n"
        );
        assert_eq!(Exit::from(&error), Exit::Failure);
    }
}
