//! Questions to a person at a terminal.

use std::io::{self, BufRead, Read as _, Write};

use super::super::CliError;
use super::super::term::visible;

/// Longest answer, in bytes: no key, name or path is longer.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;
/// How often a question is put again when its answer cannot be used.
const TRIES_MAX: usize = 5;

/// Who is asked.
pub struct Person<'a> {
    /// Where answers come from.
    pub input: &'a mut dyn BufRead,
    /// Where questions go.
    pub output: &'a mut dyn Write,
    /// Whether `input` is this process's terminal, whose echo is to be switched off for secrets.
    pub is_terminal: bool,
}

impl Person<'_> {
    /// Puts a question until the answer can be used; an empty answer is `default`.
    ///
    /// # Errors
    /// [`CliError::Input`] when there are no more answers, or none that can be used.
    pub fn ask<T>(
        &mut self,
        question: &str,
        default: Option<&str>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, CliError> {
        for _ in 0..TRIES_MAX {
            match default {
                Some(default) => write!(self.output, "{question} [{}]: ", visible(default))?,
                None => write!(self.output, "{question}: ")?,
            }
            self.output.flush()?;
            let line = self.line()?;
            let answer = if line.is_empty() { default.unwrap_or("") } else { &line };
            match read(answer) {
                Ok(value) => return Ok(value),
                Err(why) => writeln!(self.output, "  {}", visible(&why))?,
            }
        }
        Err(no_answer("there was none that can be used"))
    }

    /// Puts a question that is answered by yes or no.
    ///
    /// # Errors
    /// As [`Person::ask`].
    pub fn agrees(&mut self, question: &str) -> Result<bool, CliError> {
        self.ask(question, Some("yes"), |answer| match answer.to_lowercase().as_str() {
            "y" | "yes" => Ok(true),
            "n" | "no" => Ok(false),
            _ => Err("answer yes or no".to_owned()),
        })
    }

    /// Asks for a secret, which is not shown while it is typed.
    ///
    /// # Errors
    /// As [`Person::ask`].
    pub fn secret(&mut self, question: &str) -> Result<String, CliError> {
        // Before the question is seen, so that not even a hasty answer is shown.
        let hidden = if self.is_terminal { Hidden::begin() } else { None };
        write!(self.output, "{question} (not shown): ")?;
        self.output.flush()?;
        let answer = match &hidden {
            Some(_) => self.keys(),
            None => self.line(),
        };
        drop(hidden);
        writeln!(self.output)?;
        answer
    }

    fn line(&mut self) -> Result<String, CliError> {
        let mut line = String::new();
        let read = (&mut *self.input).take(ANSWER_BYTES_MAX).read_line(&mut line);
        match read {
            Ok(0) => Err(no_answer("it ended before every question was answered")),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(source) => Err(CliError::Input { name: NAME.to_owned(), source }),
        }
    }

    /// Key by key, as a terminal that neither shows nor edits gives them.
    fn keys(&mut self) -> Result<String, CliError> {
        const END_OF_TEXT: u8 = 3;
        const END_OF_TRANSMISSION: u8 = 4;
        const BACKSPACE: [u8; 2] = [8, 127];
        let mut typed = Vec::new();
        for key in (&mut *self.input).take(ANSWER_BYTES_MAX).bytes() {
            match key.map_err(|source| CliError::Input { name: NAME.to_owned(), source })? {
                b'\r' | b'\n' => return Ok(String::from_utf8_lossy(&typed).trim().to_owned()),
                END_OF_TEXT | END_OF_TRANSMISSION => break,
                key if BACKSPACE.contains(&key) => {
                    typed.pop();
                }
                key => typed.push(key),
            }
        }
        Err(no_answer("it ended before every question was answered"))
    }
}

const NAME: &str = "the answers; nothing was written";

fn no_answer(why: &'static str) -> CliError {
    CliError::Input { name: NAME.to_owned(), source: io::Error::other(why) }
}

/// The terminal on standard input, showing nothing; as it was again when dropped.
struct Hidden {
    before: libc::termios,
}

impl Hidden {
    fn begin() -> Option<Hidden> {
        let mut before = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr(3) writes a whole termios to the place given, or fails.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: the call above succeeded, so all of it is written.
        let before = unsafe { before.assume_init() };
        let mut hidden = before;
        // Ctrl-C comes as a key too: the terminal must not be left as it is now.
        hidden.c_lflag &= !(libc::ECHO | libc::ICANON | libc::ISIG);
        // SAFETY: tcsetattr(3) reads the termios given.
        let outcome = unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const hidden) };
        (outcome == 0).then_some(Hidden { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // SAFETY: tcsetattr(3) reads the termios given.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const self.before) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(
        answers: &str,
        ask: impl FnOnce(&mut Person<'_>) -> Result<T, CliError>,
    ) -> (Result<T, CliError>, String) {
        let (mut input, mut output) = (answers.as_bytes(), Vec::new());
        let asked = ask(&mut Person { input: &mut input, output: &mut output, is_terminal: false });
        (asked, String::from_utf8(output).unwrap())
    }

    #[test]
    fn a_question_is_put_again_until_its_answer_can_be_used() {
        let number = |text: &str| text.parse::<u8>().map_err(|_| "a number, please".to_owned());
        let (asked, shown) = with("x\n7\n", |person| person.ask("How many", Some("3"), number));
        assert_eq!(asked.unwrap(), 7);
        assert_eq!(shown, "How many [3]:   a number, please\nHow many [3]: ");
        assert_eq!(with("\n", |person| person.ask("How many", Some("3"), number)).0.unwrap(), 3);
        let (never, _) = with(&"x\n".repeat(TRIES_MAX + 1), |person| person.ask("How many", None, number));
        assert!(never.is_err());
        assert!(with("", |person| person.agrees("Sure?")).0.is_err(), "no answer is no answer");
    }

    #[test]
    fn a_secret_is_read_key_by_key_and_never_shown() {
        let (asked, shown) = with("sk-1\n", |person| person.secret("API key"));
        assert_eq!((asked.unwrap().as_str(), shown.as_str()), ("sk-1", "API key (not shown): \n"));
        assert_eq!(with("sx\u{7f}k\r", |person| person.keys()).0.unwrap(), "sk");
        assert!(with("sk\u{3}", |person| person.keys()).0.is_err(), "Ctrl-C ends it");
    }
}
