//! What the words of a command line said, before anything is read or resolved.
//!
//! Filled by the `set` functions of the flag rows and by nothing else. Environment, files and defaults come later, in
//! the command: until then a wrong word can be refused without having touched the machine.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::config::secret::Secret;

/// Everything that can be said on a command line. Each command reads the nouns it has flags for.
#[derive(Debug, Default)]
pub struct Args {
    /// A request that ends parsing at once.
    pub special: Option<Special>,
    /// Answer as JSON, for scripts.
    pub json: bool,
    /// Never write colors.
    pub no_color: bool,
    /// Where configuration and state are.
    pub place: PlaceArgs,
    /// The shared secrets given on the line.
    pub secrets: SecretArgs,
    /// How to run the daemon.
    pub run: RunArgs,
    /// How to reach a running daemon.
    pub connect: ConnectArgs,
    /// Tell what was spent as well.
    pub has_usage: bool,
    /// One call.
    pub call: CallArgs,
    /// Which sessions.
    pub sessions: SessionsArgs,
    /// What to say to an agent.
    pub agent: AgentArgs,
    /// What to set up.
    pub onboard: OnboardArgs,
    /// Which models.
    pub models: ModelsArgs,
    /// Which tool, and where.
    pub tools: ToolsArgs,
    /// Which device.
    pub devices: DevicesArgs,
    /// What waits for leave, and what may run.
    pub approvals: ApprovalsArgs,
    /// Which configuration key, and its value.
    pub config: ConfigArgs,
    /// What the doctor may do.
    pub doctor: DoctorArgs,
    /// What to judge.
    pub defend: DefendArgs,
    /// Free words: the shell of `completions`, the command of `help`.
    pub words: Vec<String>,
}

/// A request that is answered before any file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `-h`.
    HelpShort,
    /// `--help`.
    HelpLong,
    /// `-V`, `--version`.
    Version,
}

/// Where configuration and state are.
#[derive(Debug, Default)]
pub struct PlaceArgs {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The state directory.
    pub state_dir: Option<PathBuf>,
}

/// What waits for leave, and what may run.
#[derive(Debug, Default)]
pub struct ApprovalsArgs {
    /// An approval's or a grant's id, or its beginning.
    pub id: Option<String>,
    /// The answer.
    pub decision: Option<String>,
    /// A glob on paths of programs.
    pub pattern: Option<String>,
    /// Whose list.
    pub agent: Option<String>,
    /// The document.
    pub file: Option<PathBuf>,
}

/// The shared secrets, for the daemon to accept or for a command to present.
#[derive(Debug, Default)]
pub struct SecretArgs {
    /// The shared token.
    pub token: Option<Secret>,
    /// The shared password.
    pub password: Option<Secret>,
}

/// How to run the daemon.
#[derive(Debug, Default)]
pub struct RunArgs {
    /// The port; 0 asks the system for one.
    pub port: Option<u16>,
    /// A bind mode or an address.
    pub bind: Option<String>,
    /// The authentication mode.
    pub auth: Option<String>,
    /// Blocks become reviews.
    pub audit_only: bool,
    /// How much to log.
    pub log: Option<String>,
}

/// How to reach a running daemon.
#[derive(Debug, Default)]
pub struct ConnectArgs {
    /// Its address.
    pub url: Option<String>,
    /// How long the whole command may take.
    pub timeout: Option<Duration>,
    /// Send the secret over `ws://` to another machine.
    pub insecure_plaintext: bool,
}

/// One call.
#[derive(Debug, Default)]
pub struct CallArgs {
    /// The method.
    pub method: Option<String>,
    /// Its parameters as JSON text.
    pub params: Option<String>,
    /// Skip an answer that only says `accepted`.
    pub expect_final: bool,
}

/// Which sessions.
#[derive(Debug, Default)]
pub struct SessionsArgs {
    /// At most this many.
    pub limit: Option<u32>,
    /// Only those that contain this text.
    pub search: Option<String>,
    /// Only this agent's.
    pub agent: Option<String>,
    /// Only those active within this many minutes.
    pub active_minutes: Option<u32>,
}

/// Which tool, and where.
#[derive(Debug, Default)]
pub struct ToolsArgs {
    /// Its name.
    pub tool: Option<String>,
    /// The session.
    pub session: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// As if spoken to on this channel,
    pub channel: Option<String>,
    /// on this account of ours,
    pub account: Option<String>,
    /// by this person,
    pub sender: Option<String>,
    /// with this provider's model.
    pub model: Option<String>,
    /// What it is called with, as JSON text.
    pub arguments: Option<String>,
    /// Only decide about the call.
    pub is_dry: bool,
}

/// What to say to an agent, and how it is to answer.
#[derive(Debug, Default)]
pub struct AgentArgs {
    /// The text; `-` is standard input.
    pub message: Option<String>,
    /// The session's key.
    pub session: Option<String>,
    /// The id of a session of its own.
    pub session_id: Option<String>,
    /// How hard to think.
    pub thinking: Option<String>,
    /// Send the answer to where the session's messages come from.
    pub deliver: bool,
}

/// What to set up.
#[derive(Clone, Debug, Default)]
pub struct OnboardArgs {
    /// The provider's id or alias.
    pub provider: Option<String>,
    /// Its key; `-` is standard input.
    pub api_key: Option<Secret>,
    /// The variable that holds its key.
    pub api_key_env: Option<String>,
    /// Where its API is.
    pub base_url: Option<String>,
    /// Which API it speaks.
    pub api: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The agents' directory.
    pub workspace: Option<String>,
    /// Never ask.
    pub non_interactive: bool,
}

/// Which models.
#[derive(Debug, Default)]
pub struct ModelsArgs {
    /// The catalogue, whether a model may be chosen or not.
    pub all: bool,
    /// A model by name or alias.
    pub model: Option<String>,
    /// A short name.
    pub alias: Option<String>,
    /// Fail when the default model cannot be asked.
    pub check: bool,
}

/// Which device.
#[derive(Debug, Default)]
pub struct DevicesArgs {
    /// A request id or a device id.
    pub id: Option<String>,
    /// The role of a token.
    pub role: Option<String>,
    /// The scopes of a new token.
    pub scopes: Vec<String>,
}

/// Which configuration key, and its value.
#[derive(Debug, Default)]
pub struct ConfigArgs {
    /// The key, dotted.
    pub path: Option<String>,
    /// The value, or a patch, as JSON5 text.
    pub value: Option<String>,
    /// Unknown keys are errors.
    pub strict: bool,
}

/// What the doctor may do.
#[derive(Debug, Default)]
pub struct DoctorArgs {
    /// Repair what can be repaired without a decision.
    pub fix: bool,
    /// Never ask.
    pub non_interactive: bool,
}

/// What to judge.
#[derive(Debug, Default)]
pub struct DefendArgs {
    /// The file to read; `-` is standard input.
    pub input: Option<PathBuf>,
    /// `table` or `jsonl`.
    pub format: Option<String>,
    /// What plain lines are.
    pub kind: Option<String>,
}

/// Why a value was refused: completes "--flag ...". Never repeats the value, which may be a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct BadValue(pub String);

/// What stood on the line for one flag or word.
pub struct Given {
    value: OsString,
    by_letter: bool,
}

impl Given {
    /// A value, or nothing for a switch.
    pub fn new(value: OsString, by_letter: bool) -> Given {
        Given { value, by_letter }
    }

    /// Whether the flag was written as a letter: `-h` is shorter than `--help`.
    pub fn by_letter(&self) -> bool {
        self.by_letter
    }

    /// The value as it is.
    pub fn os(&self) -> &OsStr {
        &self.value
    }

    /// The value as text that says something.
    ///
    /// # Errors
    /// When it is empty or not UTF-8.
    pub fn text(&self) -> Result<String, BadValue> {
        match self.value.to_str() {
            Some("") => Err(BadValue("must not be empty".to_owned())),
            Some(text) => Ok(text.to_owned()),
            None => Err(BadValue("must be UTF-8".to_owned())),
        }
    }

    /// The value as a secret.
    ///
    /// # Errors
    /// As [`Given::text`].
    pub fn secret(&self) -> Result<Secret, BadValue> {
        self.text().map(Secret::new)
    }

    /// The value as a path.
    ///
    /// # Errors
    /// When it is empty.
    pub fn path(&self) -> Result<PathBuf, BadValue> {
        if self.value.is_empty() {
            return Err(BadValue("must not be empty".to_owned()));
        }
        Ok(PathBuf::from(&self.value))
    }

    /// The value as a number from `min` to `max`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn number<N: FromStr + PartialOrd + fmt::Display>(&self, min: N, max: N) -> Result<N, BadValue> {
        match self.value.to_str().and_then(|text| text.parse::<N>().ok()) {
            Some(number) if min <= number && number <= max => Ok(number),
            _ => Err(BadValue(format!("must be a whole number from {min} to {max}"))),
        }
    }

    /// The value as a time: a plain number of milliseconds, or `500ms`, `30s`, `5m`.
    ///
    /// # Errors
    /// When it is not one, is zero, or is longer than [`TIMEOUT_MAX`].
    pub fn time(&self) -> Result<Duration, BadValue> {
        self.time_in("ms")
            .ok_or_else(|| BadValue("must be milliseconds or a time such as 500ms, 30s, 5m (at most 60m)".to_owned()))
    }

    /// The value as a time: a plain number of seconds, or as [`Given::time`].
    ///
    /// # Errors
    /// As [`Given::time`].
    pub fn seconds(&self) -> Result<Duration, BadValue> {
        self.time_in("s")
            .ok_or_else(|| BadValue("must be seconds or a time such as 500ms, 30s, 5m (at most 60m)".to_owned()))
    }

    /// A time in the unit that is written behind it, or else in this one.
    fn time_in(&self, unit: &str) -> Option<Duration> {
        let text = self.value.to_str()?;
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().ok()?;
        let time = match if digits == text.len() { unit } else { &text[digits..] } {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            _ => return None,
        };
        (!time.is_zero() && time <= TIMEOUT_MAX).then_some(time)
    }
}

/// Longest wait a command can be asked for: longer than any call may take, short enough that a script ends.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Given {
        Given::new(OsString::from(text), false)
    }

    #[test]
    fn reads_times_with_and_without_a_unit() {
        let cases = [("1500", 1500), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("60m", 3_600_000)];
        for (text, ms) in cases {
            assert_eq!(given(text).time().unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "0", "61m", "1h", "-1", "5 s", "s", "99999999999999999999m", "307445734561825861m"] {
            assert!(given(text).time().is_err(), "{text}");
        }
    }

    #[test]
    fn a_plain_number_may_also_be_seconds() {
        assert_eq!(given("90").seconds().unwrap(), Duration::from_secs(90));
        assert_eq!(given("500ms").seconds().unwrap(), Duration::from_millis(500));
        assert!(given("3601").seconds().is_err());
    }

    #[test]
    fn a_number_stays_in_its_range() {
        assert_eq!(given("65535").number(0u16, u16::MAX), Ok(65535));
        assert_eq!(
            given("65536").number(0u16, u16::MAX),
            Err(BadValue("must be a whole number from 0 to 65535".to_owned()))
        );
        assert!(given("").number(0u16, 9).is_err());
    }

    #[test]
    fn a_secret_is_not_shown() {
        let args = Args {
            secrets: SecretArgs { token: Some(given("canary-7f3a").secret().unwrap()), password: None },
            ..Args::default()
        };
        assert!(!format!("{args:?}").contains("canary"));
    }
}
