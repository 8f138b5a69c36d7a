//! Writes a simple command in canonical form and finds the scripts in its words.

use super::lexer::{Word, unescape};
use super::{Reader, VARIABLES_MAX};

/// Words that stand before a command without being one.
const KEYWORDS: &[&str] = &["if", "then", "elif", "else", "while", "until", "do", "!", "{", "}"];

/// A program that runs the command in its remaining words.
struct Wrapper {
    name: &'static str,
    /// Short options that take the following word as their value.
    valued: &'static str,
    /// Words of its own before the command.
    n_operands: usize,
}

const fn wrapper(name: &'static str, valued: &'static str, n_operands: usize) -> Wrapper {
    Wrapper { name, valued, n_operands }
}

const WRAPPERS: &[Wrapper] = &[
    wrapper("sudo", "ugpChRTUDrt", 0),
    wrapper("doas", "uC", 0),
    wrapper("pkexec", "", 0),
    wrapper("env", "uC", 0),
    wrapper("command", "", 0),
    wrapper("builtin", "", 0),
    wrapper("exec", "a", 0),
    wrapper("nohup", "", 0),
    wrapper("nice", "n", 0),
    wrapper("ionice", "cnp", 0),
    wrapper("setsid", "", 0),
    wrapper("stdbuf", "ioe", 0),
    wrapper("time", "fo", 0),
    wrapper("timeout", "ks", 1),
    wrapper("chroot", "", 1),
    wrapper("taskset", "", 1),
    wrapper("chrt", "", 1),
    wrapper("flock", "wE", 1),
    wrapper("busybox", "", 0),
    wrapper("toybox", "", 0),
    wrapper("xargs", "adEIiLnPs", 0),
    wrapper("watch", "n", 0),
    wrapper("unbuffer", "", 0),
    wrapper("strace", "eopsu", 0),
];

const ELEVATING: &[&str] = &["sudo", "doas", "pkexec"];
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "rbash", "fish"];

impl Reader {
    /// Takes one simple command; `operator` stands before it.
    pub(super) fn command(&mut self, words: &[Word], operator: &str) {
        let mut rest = words;
        while let Some((head, tail)) = rest.split_first() {
            let name = program(&head.text);
            if let Some((variable, value)) = assignment(&head.text) {
                self.assign(variable, value);
                rest = tail;
            } else if KEYWORDS.contains(&&*head.text) {
                rest = tail;
            } else if let Some(wrapper) = WRAPPERS.iter().find(|w| name.eq_ignore_ascii_case(w.name)) {
                self.reading.elevated |= ELEVATING.contains(&wrapper.name);
                if wrapper.name == "env" && self.queue_split_string(tail) {
                    break;
                }
                let inner = skip_options(tail, wrapper);
                if inner.is_empty() {
                    break;
                }
                rest = inner;
            } else {
                break;
            }
        }
        let Some((head, arguments)) = rest.split_first() else { return };
        let name = program(&head.text).to_ascii_lowercase();
        let is_shell = SHELLS.contains(&&*name);
        let runs_substitution =
            (is_shell || matches!(&*name, "eval" | "source" | ".")) && arguments.iter().any(|word| word.substituted);
        // `sh -c "$(curl ...)"` and `sh <(curl ...)` are `curl ... | sh`; the inner command was written just before.
        let operator = if runs_substitution { "|" } else { operator };
        self.reading.pipes |= runs_substitution;
        match &*name {
            _ if is_shell || runs_substitution => {
                self.emit(operator, "sh", arguments);
                self.queue_shell_scripts(arguments);
                if name == "eval" {
                    self.queue(joined(arguments));
                }
            }
            "rm" => self.emit_remove(operator, arguments),
            "dd" => {
                let input_first = |word: &&Word| word.text.starts_with("if=");
                let mut sorted: Vec<&Word> = arguments.iter().filter(input_first).collect();
                sorted.extend(arguments.iter().filter(|word| !input_first(word)));
                self.emit(operator, "dd", sorted);
            }
            _ => {
                self.emit(operator, &name, arguments);
                self.queue_scripts(&name, arguments);
            }
        }
    }

    fn emit<'w>(&mut self, operator: &str, name: &str, words: impl IntoIterator<Item = &'w Word>) {
        let out = &mut self.reading.canonical;
        if !out.is_empty() && !out.ends_with('\n') {
            out.push(' ');
            out.push_str(operator);
            out.push(' ');
        }
        out.push_str(name);
        for word in words {
            out.push(' ');
            out.push_str(&word.text);
        }
    }

    /// `rm -r -f /x`, `rm --recursive --force -- /x` and `rm -fr /x` are `rm -rf /x`.
    fn emit_remove(&mut self, operator: &str, arguments: &[Word]) {
        let (mut recursive, mut force) = (false, false);
        let mut operands = Vec::new();
        let mut flags = Vec::new();
        let mut options_end = false;
        for word in arguments {
            match &*word.text {
                "--" => options_end = true,
                // GNU takes any beginning of a long option that leaves no doubt.
                text if !options_end && is_option(text, "--recursive") => recursive = true,
                text if !options_end && is_option(text, "--force") => force = true,
                text if options_end || !text.starts_with('-') => operands.push(word),
                // It removes the last guard of `/` and says nothing else.
                text if is_option(text, "--no-preserve-root") => {}
                text if text.starts_with("--") => flags.push(word),
                text => {
                    recursive |= text.contains(['r', 'R']);
                    force |= text.contains('f');
                    if !text.contains(['r', 'R', 'f']) {
                        flags.push(word);
                    }
                }
            }
        }
        let name = match (recursive, force) {
            (true, true) => "rm -rf",
            (true, false) => "rm -r",
            (false, true) => "rm -f",
            (false, false) => "rm",
        };
        // Other flags last: they would stand between the ones that matter and the operands.
        self.emit(operator, name, operands.into_iter().chain(flags));
    }

    /// The text after `-c` (or a flag group with `c` in it), and after `<<<`.
    fn queue_shell_scripts(&mut self, arguments: &[Word]) {
        let is_c = |text: &str| text.starts_with('-') && !text.starts_with("--") && text.contains('c');
        if let Some(at) = arguments.iter().position(|word| is_c(&word.text) || word.text == "--command")
            && let Some(script) = arguments[at + 1..].iter().find(|word| !word.text.starts_with('-'))
        {
            self.queue(script.text.clone());
        }
        if let Some(at) = arguments.iter().position(|word| word.text == "<<<")
            && let Some(script) = arguments.get(at + 1)
        {
            self.queue(script.text.clone());
        }
    }

    /// `env -S 'rm -rf /'`: the rest of the words is split again. Returns whether that is so; reading them here as well
    /// would be quadratic for `env -S env -S ...`.
    fn queue_split_string(&mut self, arguments: &[Word]) -> bool {
        for (at, word) in arguments.iter().enumerate().take_while(|(_, word)| word.text.starts_with('-')) {
            let rest = &arguments[at + 1..];
            let script = match &*word.text {
                "--split-string" | "-S" | "-iS" => joined(rest),
                text => match text.strip_prefix("--split-string=").or_else(|| text.strip_prefix("-S")) {
                    Some(first) => format!("{first} {}", joined(rest)),
                    None => continue,
                },
            };
            self.queue(script);
            return true;
        }
        false
    }

    fn queue_scripts(&mut self, name: &str, arguments: &[Word]) {
        match name {
            "eval" => self.queue(joined(arguments)),
            "su" | "runuser" | "script" => self.queue_shell_scripts(arguments),
            "trap" => self.queue(arguments.first().map(|word| word.text.clone()).unwrap_or_default()),
            "ssh" => {
                let host = arguments.iter().position(|word| !word.text.starts_with('-'));
                self.queue(joined(&arguments[host.map_or(arguments.len(), |at| at + 1)..]));
            }
            "find" => {
                let is_exec = |word: &&Word| matches!(&*word.text, "-exec" | "-execdir" | "-ok" | "-okdir");
                for part in arguments.split(|word| is_exec(&word)).skip(1) {
                    let end = part.iter().position(|word| matches!(&*word.text, ";" | "+")).unwrap_or(part.len());
                    self.queue(joined(&part[..end]));
                }
            }
            "echo" | "printf" => {
                for word in arguments.iter().filter(|word| word.text.contains('\\')) {
                    self.queue(String::from_utf8_lossy(&unescape(word.text.as_bytes())).into_owned());
                }
            }
            _ => {}
        }
    }

    fn assign(&mut self, name: &str, value: &str) {
        if self.variables.len() < VARIABLES_MAX {
            self.variables.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
    }
}

/// Whether a word is a long option or a beginning of it.
fn is_option(word: &str, option: &str) -> bool {
    word.len() > 2 && option.starts_with(word)
}

/// What a command of these words prints, when that is plain to see.
pub(super) fn printed(words: &[Word]) -> Option<String> {
    let (head, arguments) = words.split_first()?;
    let known = matches!(program(&head.text), "echo" | "printf") && !arguments.iter().any(|word| word.substituted);
    known.then(|| {
        let arguments = if arguments.first().is_some_and(|word| matches!(&*word.text, "-n" | "-e" | "-ne" | "-en")) {
            &arguments[1..]
        } else {
            arguments
        };
        String::from_utf8_lossy(&unescape(joined(arguments).as_bytes())).into_owned()
    })
}

/// The program a word names, without its directory.
fn program(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    (starts && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')).then_some((name, value))
}

fn skip_options<'w>(mut words: &'w [Word], wrapper: &Wrapper) -> &'w [Word] {
    while let Some((head, tail)) = words.split_first() {
        let Some(option) = head.text.strip_prefix('-') else { break };
        words = tail;
        if option == "-" {
            break;
        }
        let mut letters = option.chars();
        if let (Some(letter), None) = (letters.next(), letters.next())
            && wrapper.valued.contains(letter)
        {
            words = words.get(1..).unwrap_or_default();
        }
    }
    words.get(wrapper.n_operands..).unwrap_or_default()
}

fn joined(words: &[Word]) -> String {
    words.iter().map(|word| &*word.text).collect::<Vec<_>>().join(" ")
}
