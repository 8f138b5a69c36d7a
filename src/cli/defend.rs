//! `defend`: judges lines with the rules the gateway would use.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::args::Args;
use super::commands::{HELP, OUTPUT, PLACE};
use super::flags::{Command, Example, FLAG, Flag};
use super::place;
use super::term::{Out, visible};
use super::{CliError, Exit, Outcome};
use crate::defender::defend::{self, Format, Kind};
use crate::defender::rules::Rules;
use crate::intake::judge;

/// The row of `defend`.
pub static COMMAND: Command = Command {
    name: "defend",
    about: "Judge lines as the gateway would judge them",
    doc: "Reads lines of text, or JSON rows `{\"id\", \"kind\", \"text\"}` (the first line says which), and writes one \
          verdict for each in the same order: a table, or with --format jsonl the rows \
          `{\"id\", \"action\", \"score\", \"reasons\", \"tags\"}`. Uses the configured rules and needs no running \
          gateway. The status is 1 when a row cannot be read; a blocked row is an answer, not a failure.",
    words: &[],
    flags: &[DEFEND_FLAGS, HELP, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs defend --kind command --input commands.txt", what: "a file of command lines" },
        Example { line: "openclaw-rs defend --input rows.jsonl --format jsonl", what: "rows in, rows out" },
    ],
    children: &[],
    run: Some(run),
};

const DEFEND_FLAGS: &[Flag] = &[
    Flag {
        long: "input",
        value: Some("FILE"),
        help: "read FILE; - or nothing is standard input",
        set: |args, given| {
            args.defend.input = Some(given.path()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "format",
        value: Some("FORMAT"),
        choices: &["table", "jsonl"],
        help: "how to write the verdicts; table without it, jsonl with --json",
        set: |args, given| {
            args.defend.format = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "kind",
        value: Some("KIND"),
        choices: &["prompt", "command", "secret", "url", "file"],
        help: "what plain lines are; prompt without it",
        set: |args, given| {
            args.defend.kind = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
];

/// Bytes read from the input at once.
const READ_BYTES: usize = 64 * 1024;

fn run(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let rules = Rules::compile(&judge::rule_inputs(&place::loaded(args)?.settings)).map_err(CliError::Rules)?;
    let format = match args.defend.format.as_deref() {
        Some("jsonl") => Format::Jsonl,
        Some(_) => Format::Table,
        None if args.json => Format::Jsonl,
        None => Format::Table,
    };
    let kind = args.defend.kind.as_deref().and_then(Kind::parse).unwrap_or_default();
    let (name, input): (String, Box<dyn Read>) = match args.defend.input.as_deref() {
        None => ("standard input".to_owned(), Box::new(io::stdin())),
        Some(path) if path == Path::new("-") => ("standard input".to_owned(), Box::new(io::stdin())),
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|source| CliError::Input { name: name.clone(), source })?;
            (name, Box::new(file))
        }
    };
    let input = BufReader::with_capacity(READ_BYTES, input);
    let totals = defend::run(input, out.sink(), format, kind, &rules, |bad| {
        eprintln!("{}: {}", visible(&name), visible(&bad.to_string()));
    })?;
    Ok(if totals.bad == 0 { Outcome::Done } else { Outcome::BadNews(Exit::Failure) })
}
