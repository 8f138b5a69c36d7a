//! The tree of commands, and the flags that several of them share.

use super::args::{Args, Given, Special};
use super::flags::{Command, Count, Example, FLAG, Flag, Found, Word};
use super::term::Out;
use super::{CliError, Outcome};
use super::{
    agent, approvals, chat, completions, config, defend, devices, doctor, gateway, health, help, man, models, onboard,
    sandbox, sessions, tools,
};

/// The program itself: without a command it runs the daemon.
pub static ROOT: Command = Command {
    name: "openclaw-rs",
    about: "A personal-assistant gateway that OpenClaw clients connect to unchanged",
    doc: "Without a command it runs the gateway, like `openclaw-rs gateway run`. Everything works without a \
          configuration: the first run creates the state directory, generates a token, and prints the address to open.\n\n\
          Commands that talk to a running gateway find it through the same configuration and state directory, so on \
          the gateway's own machine they need no address and no secret.",
    words: &[],
    flags: &[HELP, VERSION, gateway::RUN_FLAGS, PLACE, SECRETS, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs", what: "run the gateway" },
        Example { line: "openclaw-rs health", what: "ask the running gateway whether it is well" },
        Example { line: "openclaw-rs doctor", what: "find out what is wrong" },
    ],
    children: &[
        &gateway::COMMAND,
        &agent::COMMAND,
        &chat::COMMAND,
        &health::HEALTH,
        &health::STATUS,
        &sessions::COMMAND,
        &models::COMMAND,
        &tools::COMMAND,
        &tools::POLICY,
        &onboard::ONBOARD,
        &onboard::CONFIGURE,
        &config::COMMAND,
        &devices::COMMAND,
        &approvals::COMMAND,
        &doctor::COMMAND,
        &defend::COMMAND,
        &sandbox::COMMAND,
        &completions::COMMAND,
        &man::COMMAND,
        &HELP_COMMAND,
    ],
    run: Some(super::run::run),
};

static HELP_COMMAND: Command = Command {
    name: "help",
    about: "Show the help of a command",
    doc: "`openclaw-rs help gateway run` shows what `openclaw-rs gateway run --help` shows.",
    words: &[Word {
        name: "COMMAND",
        count: Count::Many,
        choices: &[],
        help: "the command, word by word",
        set: |args, given| {
            args.words.push(given.text()?);
            Ok(())
        },
    }],
    flags: &[HELP],
    examples: &[Example { line: "openclaw-rs help gateway call", what: "how to call a method" }],
    children: &[],
    run: Some(show_help),
};

fn show_help(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let found = Found::follow(&ROOT, args.words.iter().map(String::as_str))?;
    out.raw(&help::text(&found, Special::HelpLong))?;
    Ok(Outcome::Done)
}

/// Every command's.
pub const HELP: &[Flag] = &[Flag {
    long: "help",
    short: Some('h'),
    help: "show what this command does; -h is shorter",
    set: |args, given: &Given| {
        args.special = Some(if given.by_letter() { Special::HelpShort } else { Special::HelpLong });
        Ok(())
    },
    ..FLAG
}];

/// The program's own.
const VERSION: &[Flag] = &[Flag {
    long: "version",
    short: Some('V'),
    help: "show the version",
    set: |args, _| {
        args.special = Some(Special::Version);
        Ok(())
    },
    ..FLAG
}];

/// Where configuration and state are.
pub const PLACE: &[Flag] = &[
    Flag {
        long: "config",
        value: Some("FILE"),
        env: &["OPENCLAW_RS_CONFIG", "OPENCLAW_CONFIG_PATH"],
        help: "read this configuration file",
        doc: "TOML or JSON5. Without it: openclaw-rs.toml in the working directory, else openclaw.json in the state \
              directory, else defaults.",
        set: |args, given| {
            args.place.config = Some(given.path()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "state-dir",
        value: Some("DIR"),
        env: &["OPENCLAW_RS_STATE_DIR"],
        help: "keep state in this directory instead of ~/.openclaw-rs",
        set: |args, given| {
            args.place.state_dir = Some(given.path()?);
            Ok(())
        },
        ..FLAG
    },
];

/// The shared secrets: what the daemon accepts and what a command presents.
pub const SECRETS: &[Flag] = &[
    Flag {
        long: "token",
        aliases: &["gateway-token"],
        value: Some("TOKEN"),
        env: &["OPENCLAW_RS_GATEWAY_TOKEN", "OPENCLAW_GATEWAY_TOKEN"],
        help: "the gateway's shared token",
        doc: "Other users of the machine can see command lines; the environment, gateway.auth.token and the generated \
              token in the state directory stay private.",
        set: |args, given| {
            args.secrets.token = Some(given.secret()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "password",
        value: Some("PASSWORD"),
        env: &["OPENCLAW_RS_GATEWAY_PASSWORD", "OPENCLAW_GATEWAY_PASSWORD"],
        help: "the gateway's shared password",
        set: |args, given| {
            args.secrets.password = Some(given.secret()?);
            Ok(())
        },
        ..FLAG
    },
];

/// How to reach a running gateway.
pub const CONNECT: &[Flag] = &[
    Flag {
        long: "url",
        aliases: &["gateway-url"],
        value: Some("URL"),
        env: &["OPENCLAW_RS_GATEWAY_URL"],
        help: "speak to the gateway at this address",
        doc: "With --url the secret must be given too, with --token or --password: a secret found in the configuration \
              belongs to the configured gateway and is not sent to another one.",
        set: |args, given| {
            args.connect.url = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "timeout",
        aliases: &["timeout-ms"],
        value: Some("TIME"),
        help: "give up after this time; 10s without it",
        doc: "A number is milliseconds; 500ms, 30s and 5m are understood too. Covers connecting and answering together.",
        set: |args, given| {
            args.connect.timeout = Some(given.time()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "insecure-plaintext",
        help: "let ws:// carry the secret to another machine",
        doc: "Anyone on the way can read it. Without this, ws:// goes to this machine only.",
        set: |args, _| {
            args.connect.insecure_plaintext = true;
            Ok(())
        },
        ..FLAG
    },
];

/// How to answer.
pub const OUTPUT: &[Flag] = &[
    Flag {
        long: "json",
        help: "answer as JSON, errors included",
        set: |args, _| {
            args.json = true;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "no-color",
        env: &["NO_COLOR"],
        help: "never write colors; they are only written to a terminal anyway",
        set: |args, _| {
            args.no_color = true;
            Ok(())
        },
        ..FLAG
    },
];

/// What a command that talks to a running gateway takes.
pub const TALK: &[&[Flag]] = &[HELP, CONNECT, SECRETS, PLACE, OUTPUT];
