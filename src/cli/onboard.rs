//! `onboard` and `configure`: from nothing to an assistant that can answer.
//!
//! Decides ([`plan`]) what provider, key, model, directory and address are to be, asking ([`ask`]) only for what flags,
//! environment and configuration leave open. Then it writes the configuration in one step, as `config patch` does, so
//! that comments and other keys stay, and makes the agent's documents ([`workspace`]). Nothing is written before every
//! question is answered, and nothing that cannot be used is ever written.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::args::Args;
use super::commands::{HELP, OUTPUT, PLACE};
use super::flags::{Command, Example, FLAG, Flag};
use super::place;
use super::term::{Out, Style};
use super::{CliError, Outcome};
use crate::config::document::Document;
use crate::config::edit::{Method, Request};
use crate::config::load::{self, LoadInputs};
use crate::config::secret::Secret;
use crate::protocol::json::json;
use crate::protocol::version::Protocol;

pub mod ask;
pub mod plan;
pub mod workspace;

use ask::Person;
use plan::{Facts, Key, Plan};

/// The row of `onboard`.
pub static ONBOARD: Command = Command {
    name: "onboard",
    about: "Set up the model, its key, the agent's directory and the address",
    doc: "Asks for what it is not told, and offers what is configured or set in the environment. A key in a variable \
          such as ANTHROPIC_API_KEY stays there, and the configuration only names the variable; any other key is \
          written into the configuration file, which only its owner can read.\n\n\
          With --non-interactive nothing is asked: a key in the environment, or --provider and a key, are enough. Can \
          be run again at any time: comments and all other settings stay, and the agent's documents (AGENTS.md, \
          SOUL.md, IDENTITY.md, USER.md) are only made where they are missing. A gateway that runs takes the change \
          over within seconds.",
    words: &[],
    flags: FLAGS,
    examples: &[
        Example { line: "openclaw-rs onboard", what: "question by question" },
        Example {
            line: "openclaw-rs onboard --non-interactive --provider openai --api-key-env OPENAI_API_KEY",
            what: "for a script; the key stays in the environment",
        },
        Example {
            line: "openclaw-rs onboard --provider own --base-url http://127.0.0.1:8080/v1 --model qwen3",
            what: "a server of your own that speaks OpenAI's chat completions",
        },
    ],
    children: &[],
    run: Some(run),
};

/// The row of `configure`.
pub static CONFIGURE: Command = Command {
    name: "configure",
    about: "Change what onboard set up, with what is configured as the answers",
    doc: "The same questions and options as `openclaw-rs onboard`; Enter keeps what is configured.",
    words: &[],
    flags: FLAGS,
    examples: &[
        Example { line: "openclaw-rs configure", what: "question by question" },
        Example {
            line: "openclaw-rs configure --non-interactive --model openai/gpt-5.4-mini",
            what: "another model, everything else as it is",
        },
    ],
    children: &[],
    run: Some(run),
};

const FLAGS: &[&[Flag]] = &[ONBOARD_FLAGS, HELP, PLACE, OUTPUT];

const ONBOARD_FLAGS: &[Flag] = &[
    Flag {
        long: "provider",
        value: Some("ID"),
        help: "who offers the model: anthropic, openai, google, ollama or a name of your own",
        set: |args, given| {
            args.onboard.provider = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "api-key-env",
        value: Some("NAME"),
        help: "take the provider's key from this variable of the gateway's environment",
        doc: "The configuration names the variable and never holds the key.",
        set: |args, given| {
            args.onboard.api_key_env = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "api-key",
        value: Some("KEY"),
        help: "write this key into the configuration; - reads it from standard input",
        doc: "Other users of the machine can see command lines: - or --api-key-env keep it private.",
        set: |args, given| {
            args.onboard.api_key = Some(given.secret()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "base-url",
        value: Some("ADDRESS"),
        help: "where the provider's API is, when it is not a known one",
        set: |args, given| {
            args.onboard.base_url = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "api",
        value: Some("API"),
        choices: plan::APIS,
        help: "which API it speaks; its own, or openai-completions, without it",
        set: |args, given| {
            args.onboard.api = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "model",
        value: Some("MODEL"),
        help: "the model, as PROVIDER/MODEL or by its id at the provider",
        set: |args, given| {
            args.onboard.model = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "workspace",
        value: Some("DIR"),
        help: "the directory of the agent's documents",
        set: |args, given| {
            args.onboard.workspace = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "bind",
        value: Some("WHERE"),
        help: "let the gateway listen on loopback, lan, tailnet, auto, or an address",
        doc: "Written as gateway.bind. A running gateway listens there after its next start.",
        set: |args, given| {
            args.run.bind = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "non-interactive",
        help: "never ask; what is missing is an error",
        set: |args, _| {
            args.onboard.non_interactive = true;
            Ok(())
        },
        ..FLAG
    },
];

/// Longest key read from standard input, in bytes.
const KEY_BYTES_MAX: u64 = 16 * 1024;

fn run(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let inputs = inputs(args);
    let stored = load::inspect(&inputs)?;
    let loaded = load::load(&inputs)?;
    let env = stored.env();
    let facts = Facts {
        config: &stored.config,
        workspace: loaded.settings.agents.defaults.workspace.display().to_string(),
        env: &|name| env.get(name).cloned(),
    };
    let mut plan = decide(args, &facts, out)?;
    plan.workspace = plan.workspace.map(|path| absolute(&path, &inputs.cwd));
    let changed = write(&stored, &plan)?;
    // Read again: the directory may have a name that only the configuration can resolve.
    let settings = load::load(&inputs)?.settings;
    let dir = &settings.agents.defaults.workspace;
    let made = workspace::prepare(dir)?;
    let missing = match &plan.key {
        Key::Variable(name) if !env.contains_key(name) => Some(name.as_str()),
        _ => None,
    };
    let done = Done { path: &stored.path, changed: &changed, plan: &plan, dir, made: &made, missing };
    if out.is_json() {
        out.json(&done.to_json())?
    } else {
        done.print(out)?
    }
    Ok(Outcome::Done)
}

/// What the configuration is read with. A file that is named and not there is to be made, so it is named as a place.
fn inputs(args: &Args) -> LoadInputs {
    let mut inputs = place::inputs(args);
    if let Some(path) = inputs.flag_config.take_if(|path| !inputs.cwd.join(path).exists()) {
        inputs.env.0.insert("OPENCLAW_RS_CONFIG".to_owned(), path.display().to_string());
    }
    inputs
}

fn decide(args: &Args, facts: &Facts<'_>, out: &Out) -> Result<Plan, CliError> {
    let (mut wish, bind) = (args.onboard.clone(), args.run.bind.as_deref());
    if wish.api_key.as_ref().is_some_and(|key| key.reveal() == "-") {
        // Standard input holds the key: whatever else is missing cannot be asked for.
        wish.api_key = Some(key_from_input()?);
    } else if !wish.non_interactive {
        let stdin = io::stdin();
        if !stdin.is_terminal() || out.is_json() {
            return Err(CliError::BadRequest {
                what: "there is nobody to ask: standard input is no terminal, or --json was given".to_owned(),
                hint: "add --non-interactive, and --provider, --model and so on for what is not configured yet",
            });
        }
        let (mut input, mut output) = (stdin.lock(), io::stderr());
        let mut person = Person { input: &mut input, output: &mut output, is_terminal: true };
        return plan::decide(&wish, bind, facts, Some(&mut person));
    }
    plan::decide(&wish, bind, facts, None)
}

fn key_from_input() -> Result<Secret, CliError> {
    let mut text = String::new();
    let read = io::stdin().take(KEY_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|source| CliError::Input { name: "standard input".to_owned(), source })?;
    match text.trim() {
        "" => Err(CliError::BadRequest {
            what: "--api-key - found nothing on standard input".to_owned(),
            hint: "write the key there: `... --api-key - < key.txt`",
        }),
        key => Ok(Secret::new(key)),
    }
}

/// A directory that means the same wherever the gateway is started; `~/` stays.
fn absolute(path: &str, cwd: &Path) -> String {
    if path == "~" || path.starts_with("~/") { path.to_owned() } else { cwd.join(path).display().to_string() }
}

/// Writes the plan into the document, and gives the keys that are other than before.
fn write(stored: &Document, plan: &Plan) -> Result<Vec<String>, CliError> {
    let raw = plan.patch().to_string();
    let base_hash = Some(stored.hash.as_str());
    let request =
        Request { method: Method::Patch, protocol: Protocol::NEWEST, raw: &raw, base_hash, replace_paths: &[] };
    let failed = |error| CliError::Edit { path: stored.path.clone(), error };
    let planned = load::plan(stored, &request).map_err(failed)?;
    if !stored.exists() || !planned.changes.is_empty() {
        load::commit(&planned)?;
    }
    Ok(planned.changes.iter().map(|change| change.path.to_string()).collect())
}

/// What was done.
struct Done<'a> {
    path: &'a PathBuf,
    changed: &'a [String],
    plan: &'a Plan,
    dir: &'a Path,
    made: &'a workspace::Made,
    /// The variable that is to hold the key and is not set.
    missing: Option<&'a str>,
}

/// What to run next.
const NEXT: [&str; 2] = ["openclaw-rs gateway run", "openclaw-rs agent --message \"Hello\""];

impl Done<'_> {
    fn to_json(&self) -> Value {
        json!({
            "ok": true,
            "path": self.path,
            "changed": self.changed,
            "provider": self.plan.provider,
            "model": self.plan.model_name(),
            "key": self.plan.key_source(),
            "keyMissing": self.missing,
            "workspace": { "dir": self.dir, "made": self.made.made, "kept": self.made.kept },
            "next": NEXT,
        })
    }

    fn print(&self, out: &mut Out) -> io::Result<()> {
        let key = match &self.plan.key {
            Key::AsItIs => "with the key that was configured".to_owned(),
            Key::None => "without a key".to_owned(),
            Key::Variable(name) => format!("with the key from {name}"),
            Key::Written(_) => "with the key in the configuration".to_owned(),
        };
        out.line(&format!("Model {}, {key}", self.plan.model_name()))?;
        let said = if self.changed.is_empty() { "says so already" } else { "written" };
        out.line(&format!("Configuration {}: {said}", self.path.display()))?;
        let documents = match (self.made.made.as_slice(), self.made.kept.as_slice()) {
            (made, []) => format!("made {}", made.join(", ")),
            ([], _) => "all documents were there".to_owned(),
            (made, kept) => format!("made {}, kept {}", made.join(", "), kept.join(", ")),
        };
        out.line(&format!("Agent's directory {}: {documents}", self.dir.display()))?;
        if let Some(name) = self.missing {
            let text = out.styled(Style::Warn, &format!("{name} is not set here: set it where the gateway is started"));
            out.styled_line(&text)?;
        }
        out.line("Next:")?;
        NEXT.iter().try_for_each(|line| out.line(&format!("    {line}")))
    }
}
