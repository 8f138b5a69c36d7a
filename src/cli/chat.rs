//! `chat`: a conversation in a terminal, line by line.
//!
//! What is typed goes to the session by `chat.send`, commands that begin with a slash included; what `chat` events say of
//! the runs that were asked for here is shown. One thread reads standard input, and the command itself looks in turn at
//! its lines, at the connection and at Ctrl-C.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};
use serde_json::Value;

use super::agent::{CONNECT_BUT_TIMEOUT, SESSION_FLAGS, SILENCE_MAX, SLICE, connect, hint_for, session_named, silent};
use super::args::Args;
use super::client::{Arrival, Client};
use super::commands::{HELP, OUTPUT, PLACE, SECRETS};
use super::flags::{Command, Example, FLAG, Flag};
use super::said::{Said, text_of};
use super::term::{Out, Style};
use super::{CliError, Exit, Outcome};
use crate::net::signals::Interrupts;
use crate::protocol::json::json;
use crate::runtime::{random, threads};

/// The row of `chat`.
pub static COMMAND: Command = Command {
    name: "chat",
    about: "Talk to an agent in the terminal",
    doc: "Shows the last messages of the session, then takes one message a line. Answers are shown while they are \
          written. Lines that begin with a slash are commands of the gateway: /help lists them, /new begins a new \
          conversation, /model changes the model, /stop stops what goes on.\n\n\
          Ctrl-C stops the answer, Ctrl-D ends the chat; the session stays, and the next chat goes on with it. From a \
          pipe, every line is sent when the one before is answered, and only answers are printed; the status is then 1 \
          when one of them failed. With --json every answer is a JSON document: runId, state and text, or error.",
    words: &[],
    flags: &[CHAT_FLAGS, SESSION_FLAGS, HELP, &CONNECT_BUT_TIMEOUT, SECRETS, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs chat", what: "the main session" },
        Example { line: "openclaw-rs chat --session agent:main:notes --limit 50", what: "another one, and more of it" },
        Example {
            line: "openclaw-rs chat --url ws://127.0.0.1:18789 --token ...",
            what: "a gateway at the other end of a tunnel",
        },
    ],
    children: &[],
    run: Some(run),
};

const CHAT_FLAGS: &[Flag] = &[Flag {
    long: "limit",
    value: Some("N"),
    help: "show the last N messages at the start; 20 without it, 0 shows none",
    set: |args, given| {
        args.sessions.limit = Some(given.number(0, 1000)?);
        Ok(())
    },
    ..FLAG
}];

/// Messages shown at the start.
const HISTORY_DEFAULT: u32 = 20;
/// Answers that may be waited for at once; one more line is kept until one of them has come.
const OPEN_MAX: usize = 16;
/// Lines read ahead.
const LINES_MAX: usize = 16;
/// How long answers that are to be stopped have to say that they were, when the chat ends.
const STOP_WAIT: Duration = Duration::from_secs(5);

fn run(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let interrupts = Interrupts::install().map_err(|source| CliError::Input { name: "signals".to_owned(), source })?;
    let mut client = connect(args)?;
    let is_person = io::stdin().is_terminal() && !out.is_json();
    let mut chat = Chat {
        session: session_named(args),
        thinking: args.agent.thinking.clone(),
        open: Vec::new(),
        is_person,
        has_failed: false,
    };
    if is_person {
        chat.greet(&mut client, args.sessions.limit.unwrap_or(HISTORY_DEFAULT), out)?;
    }
    let lines = read_lines().map_err(|source| CliError::Input { name: "standard input".to_owned(), source })?;
    let ended = chat.talk(&mut client, &lines, &interrupts, out);
    client.close();
    ended?;
    Ok(if chat.has_failed && !is_person { Outcome::BadNews(Exit::Failure) } else { Outcome::Done })
}

/// Starts reading lines. The thread ends with standard input, or with the process: a read cannot be called off.
fn read_lines() -> io::Result<Receiver<String>> {
    let (sender, lines) = bounded(LINES_MAX);
    threads::spawn("chat-lines", threads::STACK_BYTES, move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(lines)
}

/// An answer that has not come yet.
struct Open {
    /// The id of `chat.send`'s request.
    request: String,
    run_id: String,
    said: Said,
}

struct Chat {
    session: String,
    thinking: Option<String>,
    open: Vec<Open>,
    /// Whether a person types.
    is_person: bool,
    has_failed: bool,
}

impl Chat {
    /// Shows where we are, and what was said before.
    fn greet(&self, client: &mut Client, limit: u32, out: &mut Out) -> Result<(), CliError> {
        if limit > 0 {
            let history = client.call("chat.history", json!({ "sessionKey": self.session, "limit": limit }))?;
            for message in history["messages"].as_array().into_iter().flatten() {
                print_message(message, out)?;
            }
        }
        let text = format!("{} · Ctrl-C stops an answer, Ctrl-D ends, /help lists commands", self.session);
        let text = out.styled(Style::Dim, &text);
        out.styled_line(&text)?;
        self.prompt(out)
    }

    fn prompt(&self, out: &mut Out) -> Result<(), CliError> {
        if self.is_person && self.open.is_empty() {
            out.raw("> ")?;
        }
        out.flush()?;
        Ok(())
    }

    fn talk(
        &mut self,
        client: &mut Client,
        lines: &Receiver<String>,
        interrupts: &Interrupts,
        out: &mut Out,
    ) -> Result<(), CliError> {
        let mut heard = Instant::now();
        let mut leaves: Option<Instant> = None;
        loop {
            // A person may say something meanwhile: the session's queue decides what becomes of it.
            let may_speak = self.open.is_empty() || self.is_person && self.open.len() < OPEN_MAX;
            match if may_speak { lines.try_recv() } else { Err(TryRecvError::Empty) } {
                Ok(line) => self.say(client, line.trim(), out)?,
                Err(TryRecvError::Disconnected) if self.open.is_empty() => return self.leave(out),
                // A person who ends the chat does not want the rest; a pipe that ends waits for its answers.
                Err(TryRecvError::Disconnected) if self.is_person && leaves.is_none() => {
                    self.stop(client)?;
                    leaves = Some(Instant::now());
                }
                Err(_) => {}
            }
            if leaves.is_some_and(|since| since.elapsed() > STOP_WAIT) {
                return self.leave(out);
            }
            let now = Instant::now();
            match client.arrival(now + SLICE)? {
                Some(arrival) => {
                    heard = now;
                    self.take(client, arrival, out)?;
                }
                None if now.duration_since(heard) > SILENCE_MAX => return Err(silent(client)),
                None => {}
            }
            if interrupts.take() {
                match self.open.is_empty() {
                    false => self.stop(client)?,
                    true if self.is_person => {
                        let text = out.styled(Style::Dim, "Ctrl-D ends the chat");
                        out.raw("\n")?;
                        out.styled_line(&text)?;
                        self.prompt(out)?;
                    }
                    true => return Err(CliError::Stopped),
                }
            }
        }
    }

    fn leave(&self, out: &mut Out) -> Result<(), CliError> {
        if self.is_person {
            out.raw("\n")?;
        }
        out.flush()?;
        Ok(())
    }

    fn say(&mut self, client: &mut Client, line: &str, out: &mut Out) -> Result<(), CliError> {
        if line.is_empty() {
            return self.prompt(out);
        }
        let run_id = random::uuid();
        let mut params = json!({ "sessionKey": self.session, "message": line, "idempotencyKey": run_id });
        if let Some(level) = &self.thinking {
            params["thinking"] = json!(level);
        }
        let request = client.send("chat.send", params)?;
        self.open.push(Open { request, run_id, said: Said::default() });
        Ok(())
    }

    fn stop(&self, client: &mut Client) -> Result<(), CliError> {
        client.send("chat.abort", json!({ "sessionKey": self.session }))?;
        Ok(())
    }

    fn take(&mut self, client: &Client, arrival: Arrival, out: &mut Out) -> Result<(), CliError> {
        match arrival {
            Arrival::Answer { id, outcome } => {
                let Some(place) = self.open.iter().position(|open| open.request == id) else { return Ok(()) };
                match outcome {
                    Err(error) => {
                        let open = self.open.remove(place);
                        let error = CliError::Client(client.refused("chat.send", error));
                        self.fail(open, &error.to_string(), error.hint().as_deref(), out)
                    }
                    // The word `stop` starts no run: it says which it stopped.
                    Ok(answer) if answer.get("runId").is_none() => {
                        self.open.remove(place);
                        self.prompt(out)
                    }
                    Ok(_) => Ok(()),
                }
            }
            Arrival::Event { name, payload } if name == "chat" => {
                let run_id = payload["runId"].as_str();
                let place = self.open.iter().position(|open| Some(open.run_id.as_str()) == run_id);
                place.map_or(Ok(()), |place| self.hear(place, &payload, out))
            }
            Arrival::Event { .. } => Ok(()),
        }
    }

    fn hear(&mut self, place: usize, payload: &Value, out: &mut Out) -> Result<(), CliError> {
        let text = text_of(&payload["message"]);
        match payload["state"].as_str().unwrap_or("") {
            "delta" if out.is_watched() => self.open[place].said.show(&text, out)?,
            state @ ("final" | "aborted") if out.is_json() => {
                let open = self.open.remove(place);
                self.has_failed |= state == "aborted";
                out.json(&json!({ "runId": open.run_id, "state": state, "text": text }))?;
                out.flush()?;
            }
            "final" => {
                self.open.remove(place).said.end(&text, out)?;
                self.prompt(out)?;
            }
            "aborted" => {
                let mut open = self.open.remove(place);
                open.said.end(&text, out)?;
                self.has_failed = true;
                let text = out.styled(Style::Dim, "(stopped)");
                out.styled_line(&text)?;
                self.prompt(out)?;
            }
            "error" => {
                let open = self.open.remove(place);
                let what = payload["errorMessage"].as_str().unwrap_or("the run failed").to_owned();
                self.fail(open, &what, hint_for(&what), out)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn fail(&mut self, mut open: Open, what: &str, hint: Option<&str>, out: &mut Out) -> Result<(), CliError> {
        self.has_failed = true;
        if out.is_json() {
            out.json(&json!({ "runId": open.run_id, "state": "error", "error": what, "hint": hint }))?;
            out.flush()?;
            return Ok(());
        }
        open.said.end("", out)?;
        let line = format!("{} {}", out.styled(Style::Bad, "error:"), out.styled(Style::Plain, what));
        match self.is_person {
            true => out.styled_line(&line)?,
            // Standard output holds answers and nothing else.
            false => eprintln!("{line}"),
        }
        if let (Some(hint), true) = (hint, self.is_person) {
            out.line(&format!("hint: {hint}"))?;
        }
        self.prompt(out)
    }
}

/// A message of the past: what a person said after `>`, what the agent said as it is.
fn print_message(message: &Value, out: &mut Out) -> io::Result<()> {
    let text = text_of(message);
    let text = text.trim();
    match message["role"].as_str() {
        Some("user") if !text.is_empty() => {
            let mark = out.styled(Style::Bold, ">");
            out.raw(&format!("{mark} "))?;
            out.prose(text)?;
            out.raw("\n")
        }
        Some("assistant") if !text.is_empty() => {
            out.prose(text)?;
            out.raw("\n")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::capture;

    fn chat(run_ids: &[&str]) -> Chat {
        let open = |run_id: &&str| Open { request: String::new(), run_id: (*run_id).to_owned(), said: Said::default() };
        Chat {
            session: "main".to_owned(),
            thinking: None,
            open: run_ids.iter().map(open).collect(),
            is_person: true,
            has_failed: false,
        }
    }

    fn heard(chat: &mut Chat, events: &[Value]) -> String {
        capture(false, |out| {
            events
                .iter()
                .try_for_each(|event| chat.hear(0, event, out))
                .map_err(|error| io::Error::other(error.to_string()))
        })
    }

    #[test]
    fn an_answer_is_shown_and_the_prompt_comes_back() {
        let mut chat = chat(&["r"]);
        let message = json!({ "content": [{ "type": "text", "text": "Hello" }] });
        assert_eq!(heard(&mut chat, &[json!({ "state": "final", "message": message })]), "Hello\n> ");
        assert!(chat.open.is_empty() && !chat.has_failed);
    }

    #[test]
    fn the_prompt_waits_until_every_answer_has_come() {
        let mut chat = chat(&["a", "b"]);
        assert_eq!(heard(&mut chat, &[json!({ "state": "final" })]), "");
        assert_eq!(heard(&mut chat, &[json!({ "state": "aborted" })]), "(stopped)\n> ");
    }

    #[test]
    fn a_failure_is_a_sentence_with_what_helps() {
        let mut chat = chat(&["r"]);
        let event = json!({ "state": "error", "errorMessage": "no model is configured" });
        let shown = heard(&mut chat, &[event]);
        assert!(shown.starts_with("error: no model is configured\nhint: `openclaw-rs onboard`"), "{shown}");
        assert!(chat.has_failed);
    }

    #[test]
    fn the_past_is_shown_without_what_tools_said() {
        let shown = capture(false, |out| {
            [
                json!({ "role": "user", "content": "hi\nthere" }),
                json!({ "role": "toolResult", "content": "rows" }),
                json!({ "role": "assistant", "content": [{ "type": "text", "text": "Hello\u{1b}[2J" }] }),
            ]
            .iter()
            .try_for_each(|message| print_message(message, out))
        });
        assert_eq!(shown, "> hi\nthere\nHello\\u{1b}[2J\n");
    }
}
