//! `completions`: what a shell needs to complete commands, options and values.

use std::fmt::Write as _;

use super::args::Args;
use super::flags::{Command, Count, Example, Flag, Found, Word};
use super::help::walk;
use super::term::Out;
use super::{CliError, Outcome, commands};

/// Shells we can write for.
const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// The row of `completions`.
pub static COMMAND: Command = Command {
    name: "completions",
    about: "Write completions for a shell",
    doc: "Writes a script to standard output that completes commands, options and the values that can be listed.",
    words: &[Word {
        name: "SHELL",
        count: Count::One,
        choices: SHELLS,
        help: "the shell to write for",
        set: |args, given| {
            args.words.push(given.text()?);
            Ok(())
        },
    }],
    flags: &[commands::HELP],
    examples: &[
        Example {
            line: "openclaw-rs completions bash > ~/.local/share/bash-completion/completions/openclaw-rs",
            what: "bash",
        },
        Example { line: "openclaw-rs completions zsh > ~/.zfunc/_openclaw-rs", what: "zsh, with ~/.zfunc in fpath" },
        Example { line: "openclaw-rs completions fish > ~/.config/fish/completions/openclaw-rs.fish", what: "fish" },
    ],
    children: &[],
    run: Some(run),
};

fn run(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let text = match args.words.first().map(String::as_str) {
        Some("zsh") => zsh(),
        Some("fish") => fish(),
        _ => bash(),
    };
    out.raw(&text)?;
    Ok(Outcome::Done)
}

/// The words after the program's name, `-` for the root: a key that every shell can compare.
fn key(found: &Found) -> String {
    let words = found.path.strip_prefix(commands::ROOT.name).unwrap_or("").trim();
    if words.is_empty() { "-".to_owned() } else { words.to_owned() }
}

/// What may follow a command: its children, the values of its words, its options.
fn follows(found: &Found) -> Vec<String> {
    let children = found.command.children.iter().map(|child| child.name.to_owned());
    let words = found.command.words.iter().flat_map(|word| word.choices.iter().map(|choice| (*choice).to_owned()));
    let flags = found.command.flags().map(|flag| format!("--{}", flag.long));
    children.chain(words).chain(flags).collect()
}

/// Flags of the whole tree that take a value, each once.
fn valued() -> Vec<&'static Flag> {
    let mut out: Vec<&'static Flag> = Vec::new();
    for found in walk(&commands::ROOT) {
        for flag in found.command.flags().filter(|flag| flag.value.is_some()) {
            if !out.iter().any(|known| known.long == flag.long) {
                out.push(flag);
            }
        }
    }
    out
}

fn is_file(flag: &Flag) -> bool {
    matches!(flag.value, Some("FILE" | "DIR"))
}

fn bash() -> String {
    let mut out = String::from(
        "# bash completion for openclaw-rs\n\
         _openclaw_rs() {\n\
         \x20   local cur prev word key='-' i skip=0\n\
         \x20   cur=\"${COMP_WORDS[COMP_CWORD]}\"\n\
         \x20   prev=\"${COMP_WORDS[COMP_CWORD-1]}\"\n\
         \x20   case \"$prev\" in\n",
    );
    for flag in valued() {
        let offer = match flag.choices {
            [] if is_file(flag) => "COMPREPLY=($(compgen -f -- \"$cur\"))".to_owned(),
            [] => "COMPREPLY=()".to_owned(),
            choices => format!("COMPREPLY=($(compgen -W '{}' -- \"$cur\"))", choices.join(" ")),
        };
        let _ = writeln!(out, "        --{}) {offer}; return ;;", flag.long);
    }
    out.push_str(
        "    esac\n\
         \x20   for ((i = 1; i < COMP_CWORD; i++)); do\n\
         \x20       word=\"${COMP_WORDS[i]}\"\n\
         \x20       if ((skip)); then skip=0; continue; fi\n\
         \x20       case \"$word\" in\n",
    );
    let names: Vec<String> = valued().iter().map(|flag| format!("--{}", flag.long)).collect();
    let _ = writeln!(out, "            {}) skip=1; continue ;;", names.join("|"));
    out.push_str("            -*) continue ;;\n        esac\n        case \"$key $word\" in\n");
    for found in walk(&commands::ROOT).iter().skip(1) {
        let key = key(found);
        let (parent, last) = key.rsplit_once(' ').unwrap_or(("-", &key));
        let _ = writeln!(out, "            '{parent} {last}') key='{key}' ;;");
    }
    out.push_str("        esac\n    done\n    case \"$key\" in\n");
    for found in walk(&commands::ROOT) {
        let _ = writeln!(out, "        '{}') word='{}' ;;", key(&found), follows(&found).join(" "));
    }
    out.push_str(
        "    esac\n\
         \x20   COMPREPLY=($(compgen -W \"$word\" -- \"$cur\"))\n\
         }\n\
         complete -F _openclaw_rs openclaw-rs\n",
    );
    out
}

fn zsh() -> String {
    let quote = |text: &str| text.replace('\'', "'\\''").replace(':', "\\:");
    let mut out = String::from(
        "#compdef openclaw-rs\n\
         # zsh completion for openclaw-rs\n\
         _openclaw_rs() {\n\
         \x20   local key='-' word skip=0 i\n\
         \x20   local -a offers\n\
         \x20   case \"${words[CURRENT-1]}\" in\n",
    );
    for flag in valued() {
        let offer = match flag.choices {
            [] if is_file(flag) => "_files".to_owned(),
            [] => format!("_message '{}'", quote(flag.help)),
            choices => format!("compadd -- {}", choices.join(" ")),
        };
        let _ = writeln!(out, "        --{}) {offer}; return ;;", flag.long);
    }
    out.push_str(
        "    esac\n\
         \x20   for ((i = 2; i < CURRENT; i++)); do\n\
         \x20       word=\"${words[i]}\"\n\
         \x20       if ((skip)); then skip=0; continue; fi\n\
         \x20       case \"$word\" in\n",
    );
    let names: Vec<String> = valued().iter().map(|flag| format!("--{}", flag.long)).collect();
    let _ = writeln!(out, "            {}) skip=1; continue ;;", names.join("|"));
    out.push_str("            -*) continue ;;\n        esac\n        case \"$key $word\" in\n");
    for found in walk(&commands::ROOT).iter().skip(1) {
        let key = key(found);
        let (parent, last) = key.rsplit_once(' ').unwrap_or(("-", &key));
        let _ = writeln!(out, "            '{parent} {last}') key='{key}' ;;");
    }
    out.push_str("        esac\n    done\n    case \"$key\" in\n");
    for found in walk(&commands::ROOT) {
        let _ = writeln!(out, "        '{}') offers=(", key(&found));
        for child in found.command.children {
            let _ = writeln!(out, "            '{}:{}'", child.name, quote(child.about));
        }
        for word in found.command.words {
            for choice in word.choices {
                let _ = writeln!(out, "            '{choice}:{}'", quote(word.help));
            }
        }
        for flag in found.command.flags() {
            let _ = writeln!(out, "            '--{}:{}'", flag.long, quote(flag.help));
        }
        out.push_str("        ) ;;\n");
    }
    out.push_str("    esac\n    _describe 'openclaw-rs' offers\n}\n_openclaw_rs \"$@\"\n");
    out
}

fn fish() -> String {
    let quote = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut out = String::from(
        "# fish completion for openclaw-rs\n\
         function __openclaw_rs_key\n\
         \x20   set -l key -\n\
         \x20   set -l skip 0\n\
         \x20   for word in (commandline -opc)[2..]\n\
         \x20       if test $skip = 1\n\
         \x20           set skip 0\n\
         \x20           continue\n\
         \x20       end\n\
         \x20       switch $word\n",
    );
    let names: Vec<String> = valued().iter().map(|flag| format!("--{}", flag.long)).collect();
    let _ = writeln!(out, "            case {}\n                set skip 1", names.join(" "));
    out.push_str("            case '-*'\n            case '*'\n                switch \"$key $word\"\n");
    for found in walk(&commands::ROOT).iter().skip(1) {
        let key = key(found);
        let (parent, last) = key.rsplit_once(' ').unwrap_or(("-", &key));
        let _ = writeln!(out, "                    case '{parent} {last}'\n                        set key '{key}'");
    }
    out.push_str("                end\n        end\n    end\n    echo $key\nend\ncomplete -c openclaw-rs -f\n");
    for found in walk(&commands::ROOT) {
        let at = format!("complete -c openclaw-rs -n 'test (__openclaw_rs_key) = \"{}\"'", key(&found));
        for child in found.command.children {
            let _ = writeln!(out, "{at} -a {} -d '{}'", child.name, quote(child.about));
        }
        for word in found.command.words.iter().filter(|word| !word.choices.is_empty()) {
            let _ = writeln!(out, "{at} -a '{}' -d '{}'", word.choices.join(" "), quote(word.help));
        }
        for flag in found.command.flags() {
            let _ = write!(out, "{at} -l {}", flag.long);
            if let Some(letter) = flag.short {
                let _ = write!(out, " -s {letter}");
            }
            if is_file(flag) {
                out.push_str(" -rF");
            } else if !flag.choices.is_empty() {
                let _ = write!(out, " -xa '{}'", flag.choices.join(" "));
            } else if flag.value.is_some() {
                out.push_str(" -x");
            }
            let _ = writeln!(out, " -d '{}'", quote(flag.help));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::process::{Command as Process, Stdio};

    use super::*;

    /// What bash offers for `line`, run in bash itself; `None` where there is no bash.
    fn bash_offers(line: &str) -> Option<Vec<String>> {
        use std::io::Write as _;
        let words: Vec<&str> = line.split(' ').collect();
        let script = format!(
            "{}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_openclaw_rs\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            bash(),
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            words.len() - 1
        );
        let mut child = Process::new("bash")
            .args(["--norc", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .ok()?;
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
    }

    #[test]
    fn bash_completes_commands_options_and_values() {
        let cases: &[(&str, &[&str])] = &[
            ("openclaw-rs gat", &["gateway"]),
            ("openclaw-rs gateway ca", &["call"]),
            ("openclaw-rs --config x gateway ca", &["call"]),
            ("openclaw-rs gateway run --por", &["--port"]),
            ("openclaw-rs gateway run --auth pa", &["password"]),
            ("openclaw-rs completions f", &["fish"]),
            ("openclaw-rs config va", &["validate"]),
        ];
        for (line, expected) in cases {
            let Some(offers) = bash_offers(line) else { return };
            assert_eq!(&offers, expected, "{line}");
        }
    }

    #[test]
    fn every_shell_is_told_every_command() {
        for script in [bash(), zsh(), fish()] {
            for found in walk(&commands::ROOT) {
                assert!(script.contains(&key(&found)), "{}", found.path);
                for flag in found.command.flags() {
                    assert!(script.contains(flag.long), "{}", flag.long);
                }
            }
        }
    }
}
