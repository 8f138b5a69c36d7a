//! `doctor`: looks at everything a gateway needs and says what is wrong.
//!
//! The checks run in one order and look without changing anything; the same machine gives the same report. Each one
//! carries the repairs it knows. `--fix` makes them and looks again, so a second `--fix` finds nothing left to do.
//! Repairs need no decision: they make a missing state directory and take access away from others. Secrets, addresses
//! and the configuration are never touched.

pub mod check;
pub mod reach;
pub mod settings;
pub mod state;
pub mod system;

use std::io::{self, BufRead as _, IsTerminal as _};

use serde::Serialize;

use super::args::Args;
use super::commands::{CONNECT, HELP, OUTPUT, PLACE, SECRETS};
use super::flags::{Command, Example, FLAG, Flag};
use super::table::{Cell, Table};
use super::term::{Out, Style, counted};
use super::{CliError, Exit, Outcome, gateway, place, target};
use crate::config::load;
use crate::runtime::clock;

use check::{Check, Fixed, Repair, Status};

/// The row of `doctor`.
pub static COMMAND: Command = Command {
    name: "doctor",
    about: "Find out what is wrong",
    doc: "Checks configuration, state directory, store, port and gateway, and changes nothing. The status is 1 when a \
          check fails; warnings are no failure. At a terminal it offers to make the repairs it knows.",
    words: &[],
    flags: &[DOCTOR_FLAGS, HELP, CONNECT, SECRETS, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs doctor", what: "look, and offer to repair" },
        Example { line: "openclaw-rs doctor --fix", what: "repair what needs no decision" },
        Example { line: "openclaw-rs doctor --non-interactive --json", what: "for a script" },
    ],
    children: &[],
    run: Some(run),
};

const DOCTOR_FLAGS: &[Flag] = &[
    Flag {
        long: "fix",
        aliases: &["repair"],
        help: "make a missing state directory and close what others can read",
        doc: "Directories become 0700 and files 0600. Never changes a secret, an address or the configuration.",
        set: |args, _| {
            args.doctor.fix = true;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "non-interactive",
        help: "never ask",
        set: |args, _| {
            args.doctor.non_interactive = true;
            Ok(())
        },
        ..FLAG
    },
];

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fixes: Vec<Fixed>,
}

fn run(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let mut checks = look(args);
    let repairs = distinct_repairs(&checks);
    let mut fixes = Vec::new();
    if !repairs.is_empty() && (args.doctor.fix || offer(args, out, &checks, repairs.len())?) {
        fixes = repairs.iter().map(Repair::make).collect();
        checks = look(args);
    }
    let ok = checks.iter().all(|check| check.status != Status::Fail);
    let report = Report { ok, checks, fixes };
    if out.is_json() {
        out.json(&report)?;
    } else {
        print(&report, out)?;
    }
    Ok(if ok { Outcome::Done } else { Outcome::BadNews(Exit::Failure) })
}

/// Every check, in the order of the report: what a later one needs comes first.
fn look(args: &Args) -> Vec<Check> {
    let now_ms = clock::wall_ms();
    let document = match place::document(args) {
        Ok(document) => document,
        Err(error) => return vec![settings::unreadable(&error)],
    };
    let state_dir = match load::state_dir(&place::inputs(args)) {
        Ok(state_dir) => state_dir,
        Err(error) => return vec![settings::unreadable(&CliError::Config(error))],
    };
    let loaded = place::loaded(args);
    let holder = state::holder(&state_dir);
    let reached = reach::reach(gateway::target(args));
    let mut checks = vec![
        settings::load(&document, &loaded),
        settings::unknown_keys(&document),
        settings::warnings(&document),
        settings::mode(&document),
    ];
    if let Ok(loaded) = &loaded {
        checks.push(settings::auth_secret(&loaded.settings.gateway.auth));
        checks.push(settings::bind(&loaded.settings));
    }
    checks.extend([
        state::dir(&state_dir),
        state::modes(&state_dir),
        state::database(&state_dir),
        state::lock(holder),
        reach::reachable(&reached, holder),
    ]);
    if let Ok(loaded) = &loaded {
        let address = target::nearest_address(&loaded.settings.gateway.listen.addresses);
        checks.push(reach::port(address, &reached, holder));
    }
    checks.extend([system::disk(&state_dir), system::clock(&state_dir, now_ms)]);
    if let Ok(loaded) = &loaded {
        checks.push(system::sandbox(loaded));
    }
    checks
}

/// What the checks know to repair, each once: the configuration may lie in the state directory.
fn distinct_repairs(checks: &[Check]) -> Vec<Repair> {
    let mut out: Vec<Repair> = Vec::new();
    for repair in checks.iter().flat_map(|check| &check.repairs) {
        if !out.contains(repair) {
            out.push(repair.clone());
        }
    }
    out
}

/// Shows what was found and asks whether to repair it; `false` where nobody can answer.
fn offer(args: &Args, out: &mut Out, checks: &[Check], n_repairs: usize) -> io::Result<bool> {
    let stdin = io::stdin();
    if args.doctor.non_interactive || out.is_json() || !stdin.is_terminal() || !io::stdout().is_terminal() {
        return Ok(false);
    }
    for check in checks.iter().filter(|check| !check.repairs.is_empty()) {
        out.line(&format!("{}: {}", check.id, check.message))?;
    }
    out.raw(&format!("Make {} now? [y/N] ", counted(n_repairs, "repair")))?;
    out.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn print(report: &Report, out: &mut Out) -> io::Result<()> {
    for fix in &report.fixes {
        let line = match &fix.error {
            None => format!("{} {}", out.styled(Style::Good, "repaired"), out.styled(Style::Plain, &fix.target)),
            Some(error) => {
                let why = out.styled(Style::Plain, &format!("{}: {error}", fix.target));
                format!("{} {why}", out.styled(Style::Bad, "could not repair"))
            }
        };
        out.styled_line(&line)?;
    }
    let mut table = Table::new(&["CHECK", "STATUS", "WHAT"]);
    for check in &report.checks {
        let style = match check.status {
            Status::Pass => Style::Good,
            Status::Warn => Style::Warn,
            Status::Fail => Style::Bad,
        };
        table.row(vec![check.id.into(), Cell::styled(check.status.as_str(), style), Cell::whole(&check.message)]);
    }
    table.print(out)?;
    for check in report.checks.iter().filter(|check| check.status != Status::Pass) {
        if let Some(detail) = &check.detail {
            out.line("")?;
            out.line(&format!("{}:", check.id))?;
            for line in detail.lines() {
                out.line(&format!("  {line}"))?;
            }
        }
    }
    let count = |status| report.checks.iter().filter(|check| check.status == status).count();
    let (passed, warned, failed) = (count(Status::Pass), count(Status::Warn), count(Status::Fail));
    out.line("")?;
    out.line(&format!("{passed} passed, {warned} to look at, {failed} failed"))
}
