//! `-h` and `--help`, written from the rows.

use std::fmt::Write as _;

use super::EXITS;
use super::args::Special;
use super::flags::{Command, Count, Flag, Found};

/// Lines of the long help end before this column.
const WIDTH_CHARS: usize = 100;
/// Where the explanation of a name starts.
const INDENT: usize = 6;

/// The help of a command: a page for `--help`, one line for each flag for `-h`.
pub fn text(found: &Found, special: Special) -> String {
    if special == Special::HelpLong { long(found) } else { short(found) }
}

fn short(found: &Found) -> String {
    let command = found.command;
    let mut out = format!("{}\n\nUsage: {}\n", command.about, usage(found));
    let commands: Vec<(String, &str)> =
        command.children.iter().map(|child| (child.name.to_owned(), child.about)).collect();
    list(&mut out, "Commands", &commands);
    let words: Vec<(String, &str)> = command.words.iter().map(|word| (word.name.to_owned(), word.help)).collect();
    list(&mut out, "Words", &words);
    let flags: Vec<(String, &str)> = command.flags().map(|flag| (spelling(flag), flag.help)).collect();
    list(&mut out, "Options", &flags);
    out
}

fn list(out: &mut String, heading: &str, rows: &[(String, &str)]) {
    if rows.is_empty() {
        return;
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let _ = writeln!(out, "\n{heading}:");
    for (name, help) in rows {
        let _ = writeln!(out, "  {name:width$}  {help}");
    }
}

fn long(found: &Found) -> String {
    let command = found.command;
    let mut out = format!("{}\n\nUsage:\n  {}\n", command.about, usage(found));
    if !command.doc.is_empty() {
        out.push('\n');
        wrap(&mut out, command.doc, 0);
    }
    if !command.children.is_empty() {
        let commands: Vec<(String, &str)> =
            command.children.iter().map(|child| (child.name.to_owned(), child.about)).collect();
        list(&mut out, "Commands", &commands);
    }
    if !command.words.is_empty() {
        out.push_str("\nWords:\n");
        for word in command.words {
            let _ = writeln!(out, "  {}", word.name);
            wrap(&mut out, &sentence(word.help), INDENT);
            choices(&mut out, word.choices);
        }
    }
    out.push_str("\nOptions:\n");
    for flag in command.flags() {
        let _ = writeln!(out, "  {}", spelling(flag));
        wrap(&mut out, &sentence(flag.help), INDENT);
        if !flag.doc.is_empty() {
            wrap(&mut out, flag.doc, INDENT);
        }
        choices(&mut out, flag.choices);
        if !flag.env.is_empty() {
            wrap(&mut out, &format!("Environment: {}.", flag.env.join(", ")), INDENT);
        }
    }
    if !command.examples.is_empty() {
        out.push_str("\nExamples:\n");
        for example in command.examples {
            let _ = writeln!(out, "  {}", example.line);
            wrap(&mut out, &sentence(example.what), INDENT);
        }
    }
    out.push_str("\nExit status:\n");
    for (status, meaning) in EXITS {
        let _ = writeln!(out, "  {status:>2}  {meaning}");
    }
    out
}

fn choices(out: &mut String, choices: &[&str]) {
    if !choices.is_empty() {
        wrap(out, &format!("One of: {}.", choices.join(", ")), INDENT);
    }
}

/// `openclaw-rs gateway call METHOD [OPTIONS]`.
pub fn usage(found: &Found) -> String {
    let mut out = found.path.clone();
    if !found.command.children.is_empty() {
        out.push_str(if found.command.run.is_some() { " [COMMAND]" } else { " COMMAND" });
    }
    for word in found.command.words {
        let _ = match word.count {
            Count::One => write!(out, " {}", word.name),
            Count::Optional => write!(out, " [{}]", word.name),
            Count::Many => write!(out, " [{}...]", word.name),
        };
    }
    out.push_str(" [OPTIONS]");
    out
}

/// `-p, --port PORT`.
pub fn spelling(flag: &Flag) -> String {
    let mut out = String::new();
    if let Some(letter) = flag.short {
        let _ = write!(out, "-{letter}, ");
    }
    let _ = write!(out, "--{}", flag.long);
    if let Some(value) = flag.value {
        let _ = write!(out, " {value}");
    }
    out
}

/// A row's line as a sentence: with a capital and a full stop.
pub fn sentence(line: &str) -> String {
    let mut letters = line.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let stop = if line.ends_with('.') { "" } else { "." };
    format!("{first}{}{stop}", letters.as_str())
}

/// Every command of the tree with its path, parents before children.
pub fn walk(root: &'static Command) -> Vec<Found> {
    let mut all = vec![Found { command: root, path: root.name.to_owned() }];
    let mut at = 0;
    while at < all.len() {
        let below: Vec<Found> = all[at]
            .command
            .children
            .iter()
            .map(|child| Found { command: child, path: format!("{} {}", all[at].path, child.name) })
            .collect();
        // Children follow their parent at once, so that a reader meets `config` and then `config get`.
        all.splice(at + 1..at + 1, below);
        at += 1;
    }
    all
}

fn wrap(out: &mut String, text: &str, indent: usize) {
    for (n, paragraph) in text.split("\n\n").enumerate() {
        if n > 0 {
            out.push('\n');
        }
        let mut column = 0;
        for word in paragraph.split_whitespace() {
            let length = word.chars().count();
            if column > 0 && column + 1 + length > WIDTH_CHARS {
                out.push('\n');
                column = 0;
            }
            if column == 0 {
                out.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += length;
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::commands::ROOT;

    #[test]
    fn every_command_has_help_with_an_example_and_json() {
        let all = walk(&ROOT);
        assert!(all.len() > 20, "only {} commands", all.len());
        for found in &all {
            let (short, long) = (text(found, Special::HelpShort), text(found, Special::HelpLong));
            for page in [&short, &long] {
                assert!(page.contains(&usage(found)), "{}", found.path);
                assert!(page.contains("--help"), "{}", found.path);
            }
            assert!(long.contains("\nExamples:\n"), "{} has no example", found.path);
            assert!(long.contains("  78  "), "{}", found.path);
            assert!(long.lines().all(|line| line.chars().count() <= WIDTH_CHARS), "{} is too wide", found.path);
            let runs = found.command.run.is_some();
            let writes_documents = ["man", "completions", "help"].contains(&found.command.name);
            if runs && !writes_documents {
                assert!(found.command.flags().any(|flag| flag.long == "json"), "{} has no --json", found.path);
            }
        }
    }

    #[test]
    fn wraps_at_words_and_keeps_paragraphs() {
        let mut out = String::new();
        wrap(&mut out, "one two\n\nthree", 2);
        assert_eq!(out, "  one two\n\n  three\n");
        let mut out = String::new();
        wrap(&mut out, &"word ".repeat(60), 6);
        assert!(out.lines().count() > 2 && out.lines().all(|line| line.len() <= WIDTH_CHARS));
    }
}
