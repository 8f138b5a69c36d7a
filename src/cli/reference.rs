//! `docs/cli-reference.md`, written from the rows and compared in a test.

use std::fmt::Write as _;

use super::EXITS;
use super::commands::ROOT;
use super::help::{sentence, spelling, usage, walk};

/// The page.
pub fn page() -> String {
    let mut out = String::from(
        "# Command line\n\n\
         Written from the program's own rows by `UPDATE_FIXTURES=1 cargo test cli::reference`; do not edit.\n",
    );
    for found in walk(&ROOT) {
        let command = found.command;
        let _ = write!(out, "\n## `{}`\n\n{}\n\n```\n{}\n```\n", found.path, sentence(command.about), usage(&found));
        if !command.doc.is_empty() {
            let _ = write!(out, "\n{}\n", command.doc);
        }
        if !command.words.is_empty() {
            out.push_str("\n| word | meaning |\n|---|---|\n");
            for word in command.words {
                let _ = writeln!(out, "| `{}` | {} |", word.name, cell(word.help, "", word.choices, &[]));
            }
        }
        out.push_str("\n| option | meaning |\n|---|---|\n");
        for flag in command.flags() {
            let _ = writeln!(out, "| `{}` | {} |", spelling(flag), cell(flag.help, flag.doc, flag.choices, flag.env));
        }
        for example in command.examples {
            let _ = write!(out, "\n{}\n\n```\n{}\n```\n", sentence(example.what), example.line);
        }
    }
    out.push_str("\n## Exit status\n\n| status | meaning |\n|---|---|\n");
    for (status, meaning) in EXITS {
        let _ = writeln!(out, "| {status} | {meaning} |");
    }
    out
}

fn cell(help: &str, doc: &str, choices: &[&str], env: &[&str]) -> String {
    let mut text = sentence(help);
    if !doc.is_empty() {
        let _ = write!(text, " {}", doc.replace('\n', " "));
    }
    if !choices.is_empty() {
        let _ = write!(text, " One of: `{}`.", choices.join("`, `"));
    }
    if !env.is_empty() {
        let _ = write!(text, " Environment: `{}`.", env.join("`, `"));
    }
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_page_is_what_the_rows_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli-reference.md");
        let page = super::page();
        if fs::read_to_string(&path).ok().as_deref() == Some(&page) {
            return;
        }
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, page).unwrap();
            return;
        }
        panic!("{} is stale; UPDATE_FIXTURES=1 cargo test rewrites it", path.display());
    }
}
