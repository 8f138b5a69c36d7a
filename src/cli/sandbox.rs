//! `sandbox`: what commands can reach on this machine, and whether that holds.

use std::io;

use serde::Serialize;
use serde_json::json;

use super::args::Args;
use super::commands::{HELP, OUTPUT, PLACE};
use super::flags::{Command, Example, FLAG, Flag};
use super::table::{Cell, Table};
use super::term::{Out, Style};
use super::{CliError, Exit, Outcome, place};
use crate::config::load::Loaded;
use crate::tools::sandbox::kernel::Kernel;
use crate::tools::sandbox::rule::{self, Decision, Session};
use crate::tools::sandbox::selftest::{self, Row, SelfTestError};
use crate::tools::sandbox::{Layer, Layers, Mode, Network, Promise};

/// The row of `sandbox`.
pub static COMMAND: Command = Command {
    name: "sandbox",
    about: "Show what agents' commands can reach, and try to get out",
    doc: "",
    words: &[],
    flags: &[HELP],
    examples: &[Example { line: "openclaw-rs sandbox explain", what: "what holds here, and why" }],
    children: &[&EXPLAIN, &SELFTEST],
    run: None,
};

static EXPLAIN: Command = Command {
    name: "explain",
    about: "Show where a session's commands run, by which rule, and what this machine offers for it",
    doc: "Reads the configuration and asks the kernel; needs no running gateway. The status is 1 when commands would be \
          refused, because no layer of this machine keeps one of the promises.",
    words: &[],
    flags: &[EXPLAIN_FLAGS, HELP, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs sandbox explain", what: "for the main session" },
        Example {
            line: "openclaw-rs sandbox explain --agent work --session agent:work:telegram:group:1",
            what: "for another one",
        },
    ],
    children: &[],
    run: Some(explain),
};

static SELFTEST: Command = Command {
    name: "selftest",
    about: "Try every known way out of the sandbox on this machine",
    doc: "What the gateway does by itself before it runs the first command: it starts this program in a sandbox, which \
          tries to read, write, connect, signal and mount what it must not. The status is 1 when one of the attempts got \
          out; the gateway runs no command in a sandbox then.",
    words: &[],
    flags: &[HELP, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs sandbox selftest", what: "a line for each attempt" },
        Example { line: "openclaw-rs sandbox selftest --json", what: "for a script" },
    ],
    children: &[],
    run: Some(run_selftest),
};

const EXPLAIN_FLAGS: &[Flag] = &[
    Flag {
        long: "agent",
        value: Some("ID"),
        help: "whose commands; the default agent's without it",
        set: |args, given| {
            args.sessions.agent = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "session",
        value: Some("KEY"),
        help: "in which session; the agent's main one without it",
        set: |args, given| {
            args.agent.session = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
];

/// What `explain --json` prints.
#[derive(Debug, Serialize)]
struct Explained {
    ok: bool,
    session: String,
    decision: Vec<Fact>,
    layers: Vec<LayerFact>,
    promises: Vec<PromiseFact>,
    kernel: Vec<KernelFact>,
}

#[derive(Debug, Serialize)]
struct Fact {
    name: &'static str,
    value: String,
    rule: String,
}

#[derive(Debug, Serialize)]
struct LayerFact {
    layer: &'static str,
    offered: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PromiseFact {
    promise: &'static str,
    kept_by: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelFact {
    name: &'static str,
    offered: bool,
    used_for: &'static str,
}

fn explain(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let config = place::loaded(args)?;
    let agents = &config.settings.agents;
    let agent = args.sessions.agent.clone().unwrap_or_else(|| agents.default_id.clone());
    let Some(own) = agents.get(&agent) else {
        return Err(CliError::BadRequest {
            what: format!("there is no agent {agent}"),
            hint: "`openclaw-rs config get agents.list` shows them",
        });
    };
    let main = || format!("agent:{agent}:{}", config.settings.session.main_key);
    let session = args.agent.session.clone().unwrap_or_else(main);
    let decision = rule::decide(
        &config,
        Session { agent: &agent, key: &session, workspace: &own.workspace, wants_elevated: false },
    );
    let explained = told(session, &decision, &config, Kernel::get());
    if out.is_json() {
        out.json(&explained)?;
    } else {
        print(&explained, out)?;
    }
    Ok(if explained.ok { Outcome::Done } else { Outcome::BadNews(Exit::Failure) })
}

fn told(session: String, decision: &Decision, config: &Loaded, kernel: Kernel) -> Explained {
    let fact = |name, value: &str, rule: &str| Fact { name, value: value.to_owned(), rule: rule.to_owned() };
    let is_sandbox = decision.mode.value == Mode::Sandbox;
    let network = if decision.network.value == Network::On { "on" } else { "off" };
    let mut facts = vec![fact("mode", decision.mode.value.as_str(), &decision.mode.rule)];
    if is_sandbox {
        let paths = |list: &[std::path::PathBuf]| {
            let list: Vec<String> = list.iter().map(|path| path.display().to_string()).collect();
            if list.is_empty() { "none".to_owned() } else { list.join(", ") }
        };
        let sandbox = &config.settings.sandbox;
        facts.extend([
            fact("network", network, &decision.network.rule),
            fact(
                "workspace",
                &format!("{}, {}", decision.access.value.as_str(), decision.workspace.display()),
                &decision.access.rule,
            ),
            fact("/tmp", &decision.scratch.value.display().to_string(), &decision.scratch.rule),
            fact("read also", &paths(&sandbox.read_paths), "tools.shell_policy.read_paths"),
            fact("change also", &paths(&sandbox.write_paths), "tools.shell_policy.write_paths"),
        ]);
        if decision.is_unbuilt {
            facts.push(fact("refused", "this build makes no containers", "tools.shell_policy.sandbox_backend"));
        }
    }
    let have = kernel.layers();
    let promises: Vec<PromiseFact> = Promise::ALL
        .into_iter()
        .filter(|promise| *promise != Promise::Network || decision.network.value == Network::Off)
        .map(|promise| PromiseFact {
            promise: promise.as_str(),
            kept_by: promise.kept_by(&kernel, Layers::ALL).into_iter().map(Layer::as_str).collect(),
        })
        .collect();
    let holds = promises.iter().all(|promise| !promise.kept_by.is_empty()) && !decision.is_unbuilt;
    Explained {
        ok: holds || !is_sandbox,
        session,
        decision: facts,
        layers: Layer::ALL.map(|layer| LayerFact { layer: layer.as_str(), offered: have.has(layer) }).into(),
        promises,
        kernel: kernel
            .offers()
            .map(|offer| KernelFact { name: offer.name, offered: offer.is_there, used_for: offer.used_for })
            .into(),
    }
}

fn print(explained: &Explained, out: &mut Out) -> io::Result<()> {
    out.line(&format!("Commands of {}", explained.session))?;
    let mut table = Table::new(&["WHAT", "IS", "BECAUSE"]);
    for fact in &explained.decision {
        table.row(vec![fact.name.into(), fact.value.as_str().into(), Cell::whole(&fact.rule)]);
    }
    table.print(out)?;
    out.line("")?;
    let mut table = Table::new(&["PROMISE", "KEPT BY"]);
    for promise in &explained.promises {
        let kept = match promise.kept_by.is_empty() {
            true => Cell::styled("nothing here", Style::Bad),
            false => Cell::whole(&promise.kept_by.join(", ")),
        };
        table.row(vec![promise.promise.into(), kept]);
    }
    table.print(out)?;
    out.line("")?;
    let mut table = Table::new(&["THIS KERNEL", "HAS IT", "USED FOR"]);
    for fact in &explained.kernel {
        table.row(vec![fact.name.into(), yes_or_no(fact.offered), Cell::whole(fact.used_for)]);
    }
    table.print(out)?;
    if !explained.ok {
        out.line("")?;
        out.line("Commands are refused: a promise without anything that keeps it is no sandbox.")?;
    }
    Ok(())
}

fn yes_or_no(is_there: bool) -> Cell {
    if is_there { Cell::styled("yes", Style::Good) } else { Cell::styled("no", Style::Warn) }
}

/// What `selftest --json` prints.
#[derive(Debug, Serialize)]
struct Tested<'a> {
    ok: bool,
    attempts: &'a [Row],
}

fn run_selftest(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let config = place::loaded(args)?;
    let program = std::env::current_exe().map_err(SelfTestError::Start);
    let rows = match program.and_then(|program| selftest::run(&program, &config.settings.sandbox.root)) {
        Ok(rows) => rows,
        Err(error) => {
            let causes: Vec<String> = std::error::Error::source(&error).map(ToString::to_string).into_iter().collect();
            match out.is_json() {
                true => out.json(&json!({ "ok": false, "error": error.to_string(), "causes": causes }))?,
                false => out.line(&format!("{error}: {}", causes.join(": ")))?,
            }
            return Ok(Outcome::BadNews(Exit::Failure));
        }
    };
    let escaped = rows.iter().filter(|row| row.outcome == selftest::Outcome::Escaped).count();
    if out.is_json() {
        out.json(&Tested { ok: escaped == 0, attempts: &rows })?;
    } else {
        let mut table = Table::new(&["ATTEMPT", "CAME TO", "TRIED TO", "SAW"]);
        for row in &rows {
            let style = match row.outcome {
                selftest::Outcome::Held => Style::Good,
                selftest::Outcome::Escaped => Style::Bad,
                selftest::Outcome::Absent => Style::Plain,
            };
            let outcome = Cell::styled(row.outcome.as_str(), style);
            table.row(vec![row.name.into(), outcome, row.about.into(), Cell::whole(&row.saw)]);
        }
        table.print(out)?;
        out.line("")?;
        let held = rows.iter().filter(|row| row.outcome == selftest::Outcome::Held).count();
        out.line(&format!("{held} held, {escaped} got out, {} not to be tried here", rows.len() - held - escaped))?;
    }
    Ok(if escaped == 0 { Outcome::Done } else { Outcome::BadNews(Exit::Failure) })
}
