//! Commands and flags as data: the rows that parsing, help, the man page, completions and the reference page read.
//!
//! A command's file holds its [`Command`] row and the function it names. The tree of all of them hangs from
//! [`commands::ROOT`](super::commands::ROOT). Nothing here knows what a command does.

use std::ffi::OsString;

use lexopt::Arg;
use thiserror::Error;

use super::args::{Args, BadValue, Given, Special};
use super::nearest::nearest;
use super::term::Out;
use super::{CliError, Outcome};

/// What runs a command.
pub type Run = fn(&Args, &mut Out) -> Result<Outcome, CliError>;

/// A command: one word after its parent's.
pub struct Command {
    /// The word; for the root, the program's name.
    pub name: &'static str,
    /// One line, as a sentence without a full stop, in the imperative.
    pub about: &'static str,
    /// What the one line cannot say, in paragraphs parted by an empty line. Shown by `--help`.
    pub doc: &'static str,
    /// Words it takes, in order.
    pub words: &'static [Word],
    /// Its flags, in the order of the help, as lists that commands share.
    pub flags: &'static [&'static [Flag]],
    /// Command lines that work, each with what it does.
    pub examples: &'static [Example],
    /// Commands below it, in the order of the help.
    pub children: &'static [&'static Command],
    /// What it does itself; `None` when it only groups others.
    pub run: Option<Run>,
}

/// A flag.
pub struct Flag {
    /// Its name after `--`.
    pub long: &'static str,
    /// Other names for it, understood but not shown.
    pub aliases: &'static [&'static str],
    /// Its letter.
    pub short: Option<char>,
    /// What its value is called; `None` for a switch.
    pub value: Option<&'static str>,
    /// The only values it takes, when they can be listed.
    pub choices: &'static [&'static str],
    /// Environment variables that say the same when the flag is absent, the first to win first.
    pub env: &'static [&'static str],
    /// One line.
    pub help: &'static str,
    /// What the line cannot say; may be empty.
    pub doc: &'static str,
    /// Notes the value.
    pub set: fn(&mut Args, &Given) -> Result<(), BadValue>,
}

/// What most flags leave out.
pub const FLAG: Flag = Flag {
    long: "",
    aliases: &[],
    short: None,
    value: None,
    choices: &[],
    env: &[],
    help: "",
    doc: "",
    set: |_, _| Ok(()),
};

/// A word that is neither a flag nor a command.
pub struct Word {
    /// What it is called in the help.
    pub name: &'static str,
    /// Whether it can be left out, or repeated.
    pub count: Count,
    /// The only values it takes, when they can be listed.
    pub choices: &'static [&'static str],
    /// One line.
    pub help: &'static str,
    /// Notes the value.
    pub set: fn(&mut Args, &Given) -> Result<(), BadValue>,
}

/// How often a word stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Exactly once.
    One,
    /// At most once.
    Optional,
    /// Any number of times; only as the last word.
    Many,
}

/// A command line that works.
pub struct Example {
    /// The line, from the program's name on.
    pub line: &'static str,
    /// What it does.
    pub what: &'static str,
}

impl Command {
    /// Its flags in the order of the help.
    pub fn flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().copied().flatten()
    }

    fn flag(&self, arg: &Arg<'_>) -> Option<&'static Flag> {
        self.flags().find(|flag| match arg {
            Arg::Short(letter) => flag.short == Some(*letter),
            Arg::Long(name) => flag.long == *name || flag.aliases.contains(name),
            Arg::Value(_) => false,
        })
    }

    fn child(&self, name: &str) -> Option<&'static Command> {
        self.children.iter().copied().find(|child| child.name == name)
    }
}

/// A command and the words that lead to it.
#[derive(Clone)]
pub struct Found {
    /// The row.
    pub command: &'static Command,
    /// `openclaw-rs gateway run`.
    pub path: String,
}

impl Found {
    /// Follows `words` down from `root`.
    ///
    /// # Errors
    /// [`UsageError`] for the first word that is no command.
    pub fn follow<'a>(
        root: &'static Command,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<Found, Box<UsageError>> {
        let mut found = Found { command: root, path: root.name.to_owned() };
        for word in words {
            match found.command.child(word) {
                Some(child) => found = found.down(child),
                None => return Err(found.unknown_command(word)),
            }
        }
        Ok(found)
    }

    fn down(&self, child: &'static Command) -> Found {
        Found { command: child, path: format!("{} {}", self.path, child.name) }
    }

    fn fault(&self, fault: Fault) -> Box<UsageError> {
        Box::new(UsageError { path: self.path.clone(), fault })
    }

    fn unknown_command(&self, word: &str) -> Box<UsageError> {
        let known = self.command.children.iter().map(|child| child.name);
        self.fault(Fault::UnknownCommand { word: word.to_owned(), near: nearest(word, known).map(str::to_owned) })
    }

    fn unknown_flag(&self, written: String) -> Box<UsageError> {
        let near = written.strip_prefix("--").and_then(|name| nearest(name, self.command.flags().map(|f| f.long)));
        let near = near.map(|name| format!("--{name}"));
        self.fault(Fault::UnknownFlag { written, near })
    }
}

/// A command line that cannot be followed.
#[derive(Debug, Error)]
#[error("{fault}")]
pub struct UsageError {
    /// The command whose help says more.
    path: String,
    fault: Fault,
}

#[derive(Debug, PartialEq, Eq, Error)]
enum Fault {
    #[error("unknown command `{word}`")]
    UnknownCommand { word: String, near: Option<String> },
    #[error("unknown option `{written}`")]
    UnknownFlag { written: String, near: Option<String> },
    #[error("option `{written}` does not belong to this command")]
    StrayFlag { written: String },
    #[error("option `{written}` needs a value: {value}")]
    MissingValue { written: String, value: &'static str },
    #[error("option `{written}` takes no value")]
    UnexpectedValue { written: String },
    #[error("option `{written}` {why}")]
    BadFlag { written: String, why: String },
    #[error("{name} {why}")]
    BadWord { name: &'static str, why: String },
    #[error("one word too many: `{word}`")]
    SurplusWord { word: String },
    #[error("{name} is missing")]
    MissingWord { name: &'static str },
    #[error("a command is missing: {known}")]
    MissingCommand { known: String },
}

impl UsageError {
    /// What to type instead.
    pub fn hint(&self) -> String {
        match &self.fault {
            Fault::UnknownCommand { near: Some(near), .. } | Fault::UnknownFlag { near: Some(near), .. } => {
                format!("did you mean `{near}`? `{} --help` lists what there is", self.path)
            }
            _ => format!("`{} --help` says how", self.path),
        }
    }
}

/// What a command line asks for.
pub enum Parsed {
    /// Run this command.
    Run(Run, Box<Args>),
    /// Show the help of this command, short or long.
    Help(Found, Special),
    /// Say the version.
    Version,
}

/// Reads the words after the program's name.
///
/// Has no effects: nothing is opened, no variable is read. `--help` and `--version` end it where they stand.
///
/// # Errors
/// [`UsageError`] for the first word that fits nowhere.
pub fn parse(root: &'static Command, words: impl IntoIterator<Item = OsString>) -> Result<Parsed, Box<UsageError>> {
    let mut parser = lexopt::Parser::from_args(words);
    let mut found = Found { command: root, path: root.name.to_owned() };
    let mut args = Args::default();
    let mut n_words = 0;
    // Flags may stand before the command they belong to, so each is judged again once the command is known.
    let mut seen: Vec<(&'static Flag, String, Given)> = Vec::new();
    loop {
        let arg = match parser.next() {
            Ok(Some(arg)) => arg,
            Ok(None) => break,
            // lexopt keeps a value nobody asked for (`--json=yes`) and complains at the next step.
            Err(lexopt::Error::UnexpectedValue { option, .. }) => {
                return Err(found.fault(Fault::UnexpectedValue { written: option }));
            }
            Err(other) => return Err(found.fault(Fault::SurplusWord { word: other.to_string() })),
        };
        if let Arg::Value(word) = arg {
            let name = word.to_str().unwrap_or("");
            match found.command.child(name) {
                Some(child) if n_words == 0 => found = found.down(child),
                _ => take_word(&found, &mut n_words, &mut args, word)?,
            }
            continue;
        }
        let (written, by_letter) = match &arg {
            Arg::Short(letter) => (format!("-{letter}"), true),
            Arg::Long(name) => (format!("--{name}"), false),
            Arg::Value(_) => continue,
        };
        let Some(flag) = found.command.flag(&arg).or_else(|| anywhere(root, &arg)) else {
            return Err(found.unknown_flag(written));
        };
        let value = match flag.value {
            None => OsString::new(),
            Some(value) => {
                parser.value().map_err(|_| found.fault(Fault::MissingValue { written: written.clone(), value }))?
            }
        };
        let given = Given::new(value, by_letter);
        check_choice(flag.choices, &given)
            .and_then(|()| (flag.set)(&mut args, &given))
            .map_err(|bad| found.fault(Fault::BadFlag { written: written.clone(), why: bad.0 }))?;
        if let Some(special) = args.special {
            return Ok(if special == Special::Version { Parsed::Version } else { Parsed::Help(found, special) });
        }
        seen.push((flag, written, given));
    }
    for (flag, written, given) in seen {
        let Some(own) = found.command.flags().find(|own| own.long == flag.long) else {
            return Err(found.fault(Fault::StrayFlag { written }));
        };
        // The command may read the same word in a way of its own.
        if !std::ptr::eq(own, flag) {
            check_choice(own.choices, &given)
                .and_then(|()| (own.set)(&mut args, &given))
                .map_err(|bad| found.fault(Fault::BadFlag { written, why: bad.0 }))?;
        }
    }
    let Some(run) = found.command.run else {
        let known: Vec<&str> = found.command.children.iter().map(|child| child.name).collect();
        return Err(found.fault(Fault::MissingCommand { known: known.join(", ") }));
    };
    if let Some(missing) = found.command.words.get(n_words).filter(|word| word.count == Count::One) {
        return Err(found.fault(Fault::MissingWord { name: missing.name }));
    }
    Ok(Parsed::Run(run, Box::new(args)))
}

/// A flag of any command below `root`: it stands before the command it belongs to.
fn anywhere(root: &'static Command, arg: &Arg<'_>) -> Option<&'static Flag> {
    root.children.iter().find_map(|child| child.flag(arg).or_else(|| anywhere(child, arg)))
}

fn take_word(found: &Found, n_words: &mut usize, args: &mut Args, value: OsString) -> Result<(), Box<UsageError>> {
    let words = found.command.words;
    let word = match words.get(*n_words) {
        Some(word) => word,
        None => match words.last() {
            Some(last) if last.count == Count::Many => last,
            _ if words.is_empty() && !found.command.children.is_empty() => {
                return Err(found.unknown_command(&value.to_string_lossy()));
            }
            _ => return Err(found.fault(Fault::SurplusWord { word: value.to_string_lossy().into_owned() })),
        },
    };
    *n_words += 1;
    let given = Given::new(value, false);
    check_choice(word.choices, &given)
        .and_then(|()| (word.set)(args, &given))
        .map_err(|bad| found.fault(Fault::BadWord { name: word.name, why: bad.0 }))
}

fn check_choice(choices: &[&str], given: &Given) -> Result<(), BadValue> {
    if choices.is_empty() || given.os().to_str().is_some_and(|text| choices.contains(&text)) {
        return Ok(());
    }
    Err(BadValue(format!("must be one of: {}", choices.join(", "))))
}

#[cfg(test)]
mod tests;
