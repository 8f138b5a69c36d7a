//! `man`: the whole command line as one page for the manual, in the `man` macros of roff.

use std::fmt::Write as _;
use std::io;

use super::args::Args;
use super::flags::{Command, Example};
use super::help::{sentence, spelling, usage, walk};
use super::term::Out;
use super::{CliError, EXITS, Outcome, VERSION, commands};

/// The row of `man`.
pub static COMMAND: Command = Command {
    name: "man",
    about: "Write the manual page",
    doc: "Writes one page with every command and option in roff to standard output.",
    words: &[],
    flags: &[commands::HELP],
    examples: &[
        Example { line: "openclaw-rs man | man -l -", what: "read it" },
        Example { line: "openclaw-rs man > /usr/local/share/man/man1/openclaw-rs.1", what: "install it" },
    ],
    children: &[],
    run: Some(run),
};

fn run(_args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    write(out)?;
    Ok(Outcome::Done)
}

fn write(out: &mut Out) -> io::Result<()> {
    out.raw(&page())
}

/// The page.
pub fn page() -> String {
    let root = &commands::ROOT;
    let mut out = format!(".TH OPENCLAW-RS 1 \"\" \"openclaw-rs {VERSION}\" \"User Commands\"\n");
    let _ = writeln!(out, ".SH NAME\nopenclaw\\-rs \\- {}", escape(root.about));
    let _ = writeln!(out, ".SH SYNOPSIS\n.B {}", escape("openclaw-rs [COMMAND] [OPTIONS]"));
    out.push_str(".SH DESCRIPTION\n");
    paragraphs(&mut out, root.doc);
    out.push_str(".SH COMMANDS\n");
    for found in walk(root) {
        let _ = writeln!(out, ".SS {}", escape(&found.path));
        let _ = writeln!(out, ".B {}\n.PP\n{}", escape(&usage(&found)), escape(&sentence(found.command.about)));
        if found.path != root.name && !found.command.doc.is_empty() {
            out.push_str(".PP\n");
            paragraphs(&mut out, found.command.doc);
        }
        for word in found.command.words {
            let _ = writeln!(out, ".TP\n.I {}\n{}", escape(word.name), escape(&sentence(word.help)));
            list(&mut out, "One of", word.choices);
        }
        for flag in found.command.flags() {
            let _ = writeln!(out, ".TP\n.B {}\n{}", escape(&spelling(flag)), escape(&sentence(flag.help)));
            if !flag.doc.is_empty() {
                let _ = writeln!(out, "{}", escape(flag.doc));
            }
            list(&mut out, "One of", flag.choices);
            list(&mut out, "Environment", flag.env);
        }
        for example in found.command.examples {
            let _ = writeln!(out, ".PP\nExample: {}", escape(&sentence(example.what)));
            let _ = writeln!(out, ".PP\n.RS\n.nf\n{}\n.fi\n.RE", escape(example.line));
        }
    }
    out.push_str(".SH EXIT STATUS\n");
    for (status, meaning) in EXITS {
        let _ = writeln!(out, ".TP\n.B {status}\n{}", escape(&sentence(meaning)));
    }
    out
}

fn list(out: &mut String, heading: &str, items: &[&str]) {
    if !items.is_empty() {
        let _ = writeln!(out, "{heading}: {}.", escape(&items.join(", ")));
    }
}

fn paragraphs(out: &mut String, text: &str) {
    for (n, paragraph) in text.split("\n\n").enumerate() {
        if n > 0 {
            out.push_str(".PP\n");
        }
        let _ = writeln!(out, "{}", escape(paragraph));
    }
}

/// Text that roff prints as it is: no control line, no escape, no hyphen turned into a dash.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let guarded =
        text.lines().map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.into() });
    guarded.collect::<Vec<String>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_command_and_flag_and_starts_no_stray_control_line() {
        let page = page();
        for found in walk(&commands::ROOT) {
            assert!(page.contains(&format!(".SS {}\n", escape(&found.path))), "{}", found.path);
            for flag in found.command.flags() {
                assert!(page.contains(&escape(&spelling(flag))), "{}", flag.long);
            }
        }
        let known = [".TH", ".SH", ".SS", ".B", ".I", ".PP", ".TP", ".RS", ".RE", ".nf", ".fi"];
        for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(known.contains(&line.split(' ').next().unwrap()), "{line}");
        }
    }

    #[test]
    fn escapes_what_roff_would_read() {
        assert_eq!(escape(".env\n'x a-b\\c"), "\\&.env\n\\&'x a\\-b\\ec");
    }
}
