//! `gateway`: run it, look at it, call it.

use serde_json::Value;

use super::args::Args;
use super::client::{Client, Target};
use super::commands::{HELP, OUTPUT, PLACE, SECRETS, TALK};
use super::flags::{Command, Example, FLAG, Flag};
use super::health::span;
use super::target;
use super::term::{Out, Style};
use super::{CliError, Outcome, call};
use crate::protocol::json::json;
use crate::protocol::scope::Scope;

/// The row of `gateway`.
pub static COMMAND: Command = Command {
    name: "gateway",
    about: "Run the gateway, or speak to a running one; alone, run it",
    doc: "",
    words: &[],
    flags: &[RUN_FLAGS, HELP, PLACE, SECRETS, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs gateway run", what: "run it" },
        Example { line: "openclaw-rs gateway status", what: "whether one runs, where, and which version" },
    ],
    children: &[&RUN, &STATUS, &call::COMMAND],
    run: Some(super::run::run),
};

static RUN: Command = Command {
    name: "run",
    about: "Run the gateway in the foreground",
    doc: "Listens for OpenClaw clients, web pages and webhooks on one port, until SIGTERM or Ctrl-C. SIGHUP reads the \
          configuration again; so does a change of the file.\n\n\
          Needs no configuration: the first run creates the state directory (only its owner can read it), generates \
          a token, and prints the address to open. A service manager gets `READY=1` once the port answers.",
    words: &[],
    flags: &[RUN_FLAGS, HELP, PLACE, SECRETS, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs gateway run", what: "on port 18789 of this machine" },
        Example {
            line: "openclaw-rs gateway run --port 0 --state-dir /tmp/try",
            what: "beside another one, on any free port",
        },
        Example {
            line: "openclaw-rs gateway run --bind lan --auth password --password ...",
            what: "for the local network",
        },
    ],
    children: &[],
    run: Some(super::run::run),
};

static STATUS: Command = Command {
    name: "status",
    about: "Show whether a gateway runs, where, and which version",
    doc: "The status is 1 when none answers.",
    words: &[],
    flags: TALK,
    examples: &[
        Example { line: "openclaw-rs gateway status", what: "for a person" },
        Example { line: "openclaw-rs gateway status --json", what: "for a script" },
    ],
    children: &[],
    run: Some(status),
};

/// Flags of the daemon.
pub const RUN_FLAGS: &[Flag] = &[
    Flag {
        long: "port",
        short: Some('p'),
        value: Some("PORT"),
        env: &["OPENCLAW_GATEWAY_PORT"],
        help: "listen on PORT instead of the configured one",
        doc: "Overrides gateway.port. 0 asks the system for a free port and prints it.",
        set: |args, given| {
            args.run.port = Some(given.number(0, u16::MAX)?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "bind",
        value: Some("WHERE"),
        help: "listen on loopback, lan, tailnet, auto, or an address",
        doc: "Overrides gateway.bind. Anything but loopback needs a secret.",
        set: |args, given| {
            args.run.bind = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "auth",
        value: Some("MODE"),
        choices: &["auto", "token", "password", "trusted-proxy", "none"],
        help: "how clients prove who they are",
        doc: "Overrides gateway.auth.mode. none must be asked for.",
        set: |args, given| {
            args.run.auth = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "audit-only",
        env: &["OPENCLAW_RS_AUDIT_ONLY"],
        help: "let the defender record what it would block, and block nothing",
        set: |args, _| {
            args.run.audit_only = true;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "log",
        value: Some("LEVEL"),
        choices: &["silent", "error", "warn", "info", "debug", "trace"],
        env: &["OPENCLAW_RS_LOG"],
        help: "how much to log; info without it",
        set: |args, given| {
            args.run.log = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
];

/// The gateway that `args`, the environment and the configuration mean.
///
/// # Errors
/// [`CliError`] for an address without a secret, or a configuration that cannot be read.
pub fn target(args: &Args) -> Result<Target, CliError> {
    target::resolve(args, &target::process_env, || target::configured(args))
}

fn status(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let client = Client::connect(&target(args)?, &[Scope::Read])?;
    if out.is_json() {
        out.json(&describe(&client))?;
    } else {
        print_hello(&client, out)?;
    }
    client.close();
    Ok(Outcome::Done)
}

/// What the hello said, for `--json`.
pub fn describe(client: &Client) -> Value {
    let hello = client.hello();
    json!({
        "ok": true,
        "url": client.url(),
        "version": hello.server.version,
        "protocol": hello.protocol,
        "uptimeMs": hello.snapshot.uptime_ms,
        "authMethod": hello.auth.as_ref().and_then(|auth| auth.method.as_deref()),
        "scopes": hello.auth.as_ref().map_or(&[][..], |auth| &auth.scopes),
        "methods": hello.features.methods.len(),
    })
}

/// What the hello said, for a person.
///
/// # Errors
/// The operating system's.
pub fn print_hello(client: &Client, out: &mut Out) -> std::io::Result<()> {
    let hello = client.hello();
    let line = format!("{} on {}", out.styled(Style::Good, "Running"), out.styled(Style::Plain, client.url()));
    out.styled_line(&line)?;
    out.line(&format!("Version: {} (protocol {})", hello.server.version, hello.protocol))?;
    match hello.snapshot.uptime_ms {
        Some(uptime_ms) => out.line(&format!("Up: {}", span(uptime_ms))),
        None => Ok(()),
    }
}
