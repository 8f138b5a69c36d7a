//! `agent`: one message to an agent, and its answer.
//!
//! Asks with the method `agent`, which answers twice: that the message was accepted, and how the run ended. Between the
//! two, the run's `chat` events are shown to a person who watches. Ctrl-C stops the run before the command ends.

use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::args::Args;
use super::client::{Arrival, Client, ClientError, TIMEOUT_DEFAULT, Target};
use super::commands::{CONNECT, HELP, OUTPUT, PLACE, SECRETS};
use super::flags::{Command, Example, FLAG, Flag};
use super::said::{Said, text_of};
use super::term::Out;
use super::{CliError, Outcome, gateway};
use crate::net::signals::Interrupts;
use crate::protocol::json::json;
use crate::protocol::scope::Scope;
use crate::runtime::random;

/// The row of `agent`.
pub static COMMAND: Command = Command {
    name: "agent",
    about: "Say something to an agent and show its answer",
    doc: "The running gateway asks the model; the message and the answer become part of the session, and every other \
          client sees them. On a terminal the answer is shown while it is written; otherwise it is printed when it is \
          whole, and nothing else is. Ctrl-C stops the answer.\n\n\
          With --json the gateway's last word on the run is passed on whole: status, result.payloads with the text, \
          result.meta with model, tokens and time.\n\n\
          The status is 1 when there is no answer: the gateway is not there, no model can be asked, the run was \
          stopped or took too long.",
    words: &[],
    flags: &[AGENT_FLAGS, SESSION_FLAGS, HELP, &CONNECT_BUT_TIMEOUT, SECRETS, PLACE, OUTPUT],
    examples: &[
        Example { line: "openclaw-rs agent --message Hello", what: "in the main session" },
        Example {
            line: "openclaw-rs agent --session agent:main:notes --thinking high --message -",
            what: "in a session of its own, with the text from standard input",
        },
        Example { line: "openclaw-rs agent -m Ready? --timeout 60 --json", what: "for a script, within a minute" },
    ],
    children: &[],
    run: Some(run),
};

/// What `agent` takes alone.
const AGENT_FLAGS: &[Flag] = &[
    Flag {
        long: "message",
        short: Some('m'),
        value: Some("TEXT"),
        help: "what to say; - reads it from standard input",
        set: |args, given| {
            args.agent.message = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "session-id",
        value: Some("ID"),
        help: "in the session of this id instead of one named by its key",
        doc: "Any word of your own. The session is made when it is not there.",
        set: |args, given| {
            args.agent.session_id = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "timeout",
        value: Some("TIME"),
        help: "stop the run after this time; the gateway's own limit without it",
        doc: "A number is seconds here; 500ms, 30s and 5m are understood too. Reaching the gateway has ten seconds of \
              its own.",
        set: |args, given| {
            args.connect.timeout = Some(given.seconds()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "deliver",
        help: "also send the answer to where the session's messages come from",
        doc: "The gateway sends it where a channel is connected for the session.",
        set: |args, _| {
            args.agent.deliver = true;
            Ok(())
        },
        ..FLAG
    },
];

/// Which session, and how it is to answer; shared with `chat`.
pub(super) const SESSION_FLAGS: &[Flag] = &[
    Flag {
        long: "session",
        aliases: &["session-key"],
        value: Some("KEY"),
        help: "in this session; main without it",
        set: |args, given| {
            args.agent.session = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "agent",
        aliases: &["agent-id"],
        value: Some("ID"),
        help: "speak to this agent instead of the default one",
        set: |args, given| {
            args.sessions.agent = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "thinking",
        value: Some("LEVEL"),
        help: "how hard to think, such as off, low, medium or high",
        doc: "Which levels there are depends on the model; a level it does not have is brought to the nearest.",
        set: |args, given| {
            args.agent.thinking = Some(given.text()?);
            Ok(())
        },
        ..FLAG
    },
];

/// How to reach the gateway, without the time for everything together, which an answer has no use for.
pub(super) const CONNECT_BUT_TIMEOUT: [Flag; 2] = [connect_flag(0), connect_flag(2)];

const fn connect_flag(idx: usize) -> Flag {
    let flag = &CONNECT[idx];
    Flag {
        long: flag.long,
        aliases: flag.aliases,
        short: flag.short,
        value: flag.value,
        choices: flag.choices,
        env: flag.env,
        help: flag.help,
        doc: flag.doc,
        set: flag.set,
    }
}

/// How long a wait for the gateway's next word may be before Ctrl-C and the clock are looked at again.
pub(super) const SLICE: Duration = Duration::from_millis(100);
/// A gateway that says nothing for so long, not even that it is there, is gone; it says that every 30 seconds.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(90);
/// What a run gets beyond its time before we stop asking after it: it stops itself first, and says so.
const ROOM: Duration = Duration::from_secs(30);
/// How long a run that is to be stopped has to say that it was.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Longest message read from standard input, in bytes; a frame takes no more.
const MESSAGE_BYTES_MAX: u64 = crate::protocol::FRAME_BYTES_MAX as u64;

fn run(args: &Args, out: &mut Out) -> Result<Outcome, CliError> {
    let params = params(args, message(args)?);
    let interrupts = Interrupts::install().map_err(|source| CliError::Input { name: "signals".to_owned(), source })?;
    let mut client = connect(args)?;
    let mut run = Run::start(&mut client, args, params)?;
    let end = run.follow(&mut client, args.connect.timeout, &interrupts, out);
    client.close();
    let end = end?;
    if out.is_json() {
        out.json(&end)?;
    } else {
        let text = reply(&end);
        if text.is_empty() && run.said.is_empty() {
            // Standard output holds the answer and nothing else.
            eprintln!("no answer: the agent had nothing to say");
        }
        run.said.end(&text, out)?;
    }
    Ok(Outcome::Done)
}

/// Connects to speak: the time given belongs to the answer.
pub(super) fn connect(args: &Args) -> Result<Client, CliError> {
    let target = Target { timeout: TIMEOUT_DEFAULT, ..gateway::target(args)? };
    Ok(Client::connect(&target, &[Scope::Read, Scope::Write])?)
}

/// What is to be said.
fn message(args: &Args) -> Result<String, CliError> {
    let bad = |what: &str| CliError::BadRequest {
        what: what.to_owned(),
        hint: "say something: `openclaw-rs agent --message \"Hello\"`",
    };
    let text = match args.agent.message.as_deref() {
        None => return Err(bad("--message is missing")),
        Some("-") => {
            let mut text = String::new();
            let read = io::stdin().take(MESSAGE_BYTES_MAX).read_to_string(&mut text);
            read.map_err(|source| CliError::Input { name: "standard input".to_owned(), source })?;
            text
        }
        Some(text) => text.to_owned(),
    };
    if text.trim().is_empty() { Err(bad("the message is empty")) } else { Ok(text) }
}

fn params(args: &Args, message: String) -> Value {
    let mut params = json!({ "message": message, "idempotencyKey": random::uuid() });
    let texts = [
        ("sessionKey", &args.agent.session),
        ("sessionId", &args.agent.session_id),
        ("agentId", &args.sessions.agent),
        ("thinking", &args.agent.thinking),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            params[name] = json!(value);
        }
    }
    if args.agent.deliver {
        params["deliver"] = json!(true);
    }
    if let Some(timeout) = args.connect.timeout {
        // Whole seconds on the wire; 0 would mean no limit.
        params["timeout"] = json!(timeout.as_millis().div_ceil(1000));
    }
    params
}

/// A run that was asked for.
struct Run {
    request: String,
    run_id: String,
    /// As it was named here, until an event says what the gateway calls it.
    session: String,
    said: Said,
}

impl Run {
    fn start(client: &mut Client, args: &Args, params: Value) -> Result<Run, CliError> {
        let run_id = params["idempotencyKey"].as_str().unwrap_or_default().to_owned();
        let session = session_named(args);
        let request = client.send("agent", params)?;
        Ok(Run { request, run_id, session, said: Said::default() })
    }

    /// Shows what is said until the run has ended, and gives the gateway's last word on it.
    fn follow(
        &mut self,
        client: &mut Client,
        timeout: Option<Duration>,
        interrupts: &Interrupts,
        out: &mut Out,
    ) -> Result<Value, CliError> {
        let began = Instant::now();
        let mut heard = began;
        let mut stopped: Option<Instant> = None;
        loop {
            let now = Instant::now();
            match client.arrival(now + SLICE)? {
                Some(arrival) => {
                    heard = now;
                    if let Some(end) = self.take(client, arrival, stopped.is_some(), out)? {
                        return Ok(end);
                    }
                }
                None if now.duration_since(heard) > SILENCE_MAX => return Err(silent(client)),
                None => {}
            }
            let is_overdue = timeout.is_some_and(|timeout| began.elapsed() > timeout + ROOM);
            if stopped.is_none() && (interrupts.take() || is_overdue) {
                self.stop(client)?;
                stopped = Some(now);
            }
            if stopped.is_some_and(|since| since.elapsed() > STOP_WAIT) {
                self.break_line(out)?;
                return Err(CliError::Stopped);
            }
        }
    }

    /// Takes in what came; gives the last word when it was that.
    fn take(
        &mut self,
        client: &Client,
        arrival: Arrival,
        is_stopped: bool,
        out: &mut Out,
    ) -> Result<Option<Value>, CliError> {
        match arrival {
            Arrival::Answer { id, outcome } if id == self.request => match outcome {
                Ok(answer) if answer["status"] == "accepted" => {
                    self.note_session(&answer);
                    Ok(None)
                }
                Ok(answer) => Ok(Some(answer)),
                Err(error) => {
                    self.break_line(out)?;
                    if is_stopped {
                        return Err(CliError::Stopped);
                    }
                    Err(failed(client.refused("agent", error)))
                }
            },
            Arrival::Event { name, payload } if name == "chat" && payload["runId"] == self.run_id.as_str() => {
                self.note_session(&payload);
                if out.is_watched() && payload["state"] == "delta" {
                    self.said.show(&text_of(&payload["message"]), out)?;
                }
                Ok(None)
            }
            Arrival::Answer { .. } | Arrival::Event { .. } => Ok(None),
        }
    }

    fn note_session(&mut self, payload: &Value) {
        if let Some(key) = payload["sessionKey"].as_str() {
            key.clone_into(&mut self.session);
        }
    }

    fn stop(&self, client: &mut Client) -> Result<(), CliError> {
        client.send("chat.abort", json!({ "sessionKey": self.session, "runId": self.run_id }))?;
        Ok(())
    }

    /// What comes next does not belong to the answer.
    fn break_line(&mut self, out: &mut Out) -> io::Result<()> {
        let shown = std::mem::take(&mut self.said);
        if shown.is_empty() { Ok(()) } else { out.prose("\n").and_then(|()| out.flush()) }
    }
}

/// The session that is meant, as `chat.*` names it.
pub(super) fn session_named(args: &Args) -> String {
    let agent = args.sessions.agent.as_deref();
    match (&args.agent.session, &args.agent.session_id, agent) {
        (Some(key), ..) => key.clone(),
        (None, Some(id), agent) => format!("agent:{}:explicit:{id}", agent.unwrap_or("main")),
        (None, None, Some(agent)) => format!("agent:{agent}:main"),
        (None, None, None) => "main".to_owned(),
    }
}

/// A gateway that says nothing any more.
pub(super) fn silent(client: &Client) -> CliError {
    let (url, what) = (client.url().to_owned(), "say anything");
    CliError::Client(ClientError::Timeout { url, what, timeout_ms: SILENCE_MAX.as_millis() })
}

/// What an agent said at the end.
fn reply(end: &Value) -> String {
    let payloads = end["result"]["payloads"].as_array().into_iter().flatten();
    payloads.filter_map(|payload| payload["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// The error for a run that failed: what the gateway said of it, and what helps.
fn failed(error: ClientError) -> CliError {
    match error {
        // A run that ended badly is `UNAVAILABLE`; what the gateway did not take at all keeps its own words.
        ClientError::Refused { error, .. } if error.code == "UNAVAILABLE" && error.retryable != Some(true) => {
            let what = error.message;
            CliError::Run { hint: hint_for(&what), what }
        }
        other => CliError::Client(other),
    }
}

/// What helps against a failure of a run, by the gateway's words for it.
pub(super) fn hint_for(what: &str) -> Option<&'static str> {
    let what = what.to_lowercase();
    if what.contains("no model is configured") || what.contains("no model may be asked") {
        return Some(
            "`openclaw-rs onboard` sets one up; or start the gateway with a provider's key in its environment, such as \
             ANTHROPIC_API_KEY or OPENAI_API_KEY",
        );
    }
    let is_about_keys = ["api key", "apikey", "unauthorized", "401", "authentication"];
    if is_about_keys.iter().any(|word| what.contains(word)) {
        return Some("check the provider's key: `openclaw-rs configure` sets another one");
    }
    if what.contains("longer than it may") {
        return Some("--timeout gives it more time, up to agents.defaults.timeoutSeconds");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::client::WireError;
    use super::*;

    fn args() -> Args {
        let mut args = Args::default();
        args.agent.message = Some("hi".to_owned());
        args
    }

    #[test]
    fn asks_only_what_was_said() {
        let mut args = args();
        let mut plain = params(&args, "hi".to_owned());
        let key = plain.as_object_mut().unwrap().remove("idempotencyKey").unwrap();
        assert!(key.as_str().is_some_and(|key| key.len() > 30));
        assert_eq!(plain, json!({ "message": "hi" }));
        args.agent.session = Some("agent:main:notes".to_owned());
        args.agent.thinking = Some("high".to_owned());
        args.agent.deliver = true;
        args.connect.timeout = Some(Duration::from_millis(1500));
        let all = params(&args, "hi".to_owned());
        assert_eq!((&all["sessionKey"], &all["thinking"]), (&json!("agent:main:notes"), &json!("high")));
        assert_eq!((&all["deliver"], &all["timeout"]), (&json!(true), &json!(2)));
    }

    #[test]
    fn the_session_to_stop_is_the_one_that_was_asked() {
        let mut args = args();
        assert_eq!(session_named(&args), "main");
        args.sessions.agent = Some("ops".to_owned());
        assert_eq!(session_named(&args), "agent:ops:main");
        args.agent.session_id = Some("x".to_owned());
        assert_eq!(session_named(&args), "agent:ops:explicit:x");
        args.agent.session = Some("agent:ops:notes".to_owned());
        assert_eq!(session_named(&args), "agent:ops:notes");
    }

    #[test]
    fn an_empty_message_is_refused_before_anything_is_asked() {
        let mut args = Args::default();
        assert!(matches!(message(&args), Err(CliError::BadRequest { .. })));
        args.agent.message = Some(" \n".to_owned());
        assert!(matches!(message(&args), Err(CliError::BadRequest { .. })));
    }

    #[test]
    fn a_failed_run_says_what_helps_and_a_refusal_keeps_its_own_words() {
        let refused = |code: &str, message: &str| {
            let error = WireError {
                code: code.to_owned(),
                message: message.to_owned(),
                details: None,
                retryable: None,
                retry_after_ms: None,
            };
            failed(ClientError::Refused { method: "agent".to_owned(), error: Box::new(error) })
        };
        let none = refused("UNAVAILABLE", "no model is configured, and no provider has an API key");
        assert_eq!(none.to_string(), "no model is configured, and no provider has an API key");
        assert!(none.hint().is_some_and(|hint| hint.contains("ANTHROPIC_API_KEY")));
        let invalid = refused("INVALID_REQUEST", "unknown agent id \"x\"");
        assert_eq!(invalid.to_string(), "the gateway refused agent: unknown agent id \"x\"");
    }

    #[test]
    fn the_answer_is_the_text_of_its_payloads() {
        let end = json!({ "status": "ok", "result": { "payloads": [{ "text": "a" }, { "mediaUrl": "x" }, { "text": "b" }] } });
        assert_eq!(reply(&end), "a\nb");
        assert_eq!(reply(&json!({ "status": "ok" })), "");
    }
}
