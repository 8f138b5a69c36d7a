//! Talking to an agent from the command line, with a provider that answers as it is told.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use openclaw_rs::runtime::threads;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{FAILURE, USAGE, json_of, openclaw_rs, run_against, text};
use crate::harness::Server;
use crate::harness::provider::{Provider, Turn};

/// Longest wait for words on a terminal.
const WAIT_MAX: Duration = Duration::from_secs(20);

fn server(provider: &Provider) -> Server {
    Server::with().config(&provider.config()).start()
}

/// A terminal that a command writes to, and what it wrote.
pub(super) struct Terminal {
    pub(super) ours: File,
    pub(super) shown: String,
    pieces: Receiver<String>,
}

impl Terminal {
    pub(super) fn open() -> (Terminal, OwnedFd) {
        let (mut ours, mut theirs) = (0, 0);
        let (name, modes, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
        // SAFETY: openpty(3) writes two descriptors to the places given and takes null for what is not wanted.
        let opened = unsafe { libc::openpty(&raw mut ours, &raw mut theirs, name, modes, size) };
        assert_eq!(opened, 0, "a terminal can be opened");
        // SAFETY: both were opened just now, and nobody else has them.
        let (ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let mut reading = ours.try_clone().unwrap();
        let (sender, pieces) = channel();
        let read = move || {
            let mut buffer = [0; 1024];
            // Ends when nobody has the other end any more.
            while let Ok(n @ 1..) = reading.read(&mut buffer) {
                if sender.send(String::from_utf8_lossy(&buffer[..n]).into_owned()).is_err() {
                    return;
                }
            }
        };
        threads::spawn("terminal", threads::STACK_BYTES, read).unwrap();
        (Terminal { ours, shown: String::new(), pieces }, theirs)
    }

    /// Reads until `words` are shown.
    #[track_caller]
    pub(super) fn expect(&mut self, words: &str) {
        let until = Instant::now() + WAIT_MAX;
        while !self.shown.contains(words) {
            let left = until.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.shown.push_str(&piece),
                Err(_) => panic!("{words:?} is not shown: {:?}", self.shown),
            }
        }
    }
}

/// A command that is told where the gateway is.
fn command(server: &Server, home: &TempDir, args: &[&str]) -> std::process::Command {
    let url = format!("ws://{}", server.address());
    let all: Vec<&str> = args.iter().copied().chain(["--url", &url, "--token", Server::TOKEN]).collect();
    openclaw_rs(home.path(), &all)
}

fn interrupt(child: &Child) {
    // SAFETY: kill(2) takes two integers; the child has not been waited for, so the id is its own.
    let sent = unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    assert_eq!(sent, 0);
}

fn stderr(output: &Output) -> String {
    text(&output.stderr)
}

#[test]
fn an_agent_answers_a_script_with_its_words_and_nothing_else() {
    let provider = Provider::start();
    provider.then(Turn::text("The sky is blue.\nMostly.")).then(Turn::text("Yes."));
    let server = server(&provider);
    let answer = run_against(&server, &["agent", "--message", "What colour is the sky?"]);
    assert_eq!(text(&answer.stdout), "The sky is blue.\nMostly.\n", "{}", stderr(&answer));
    let args =
        ["agent", "-m", "Sure?", "--session", "agent:main:notes", "--thinking", "low", "--timeout", "60", "--json"];
    let last = json_of(&run_against(&server, &args));
    assert_eq!((&last["status"], &last["result"]["payloads"][0]["text"]), (&json!("ok"), &json!("Yes.")), "{last}");
    assert_eq!(last["result"]["meta"]["agentMeta"]["model"], "echo", "{last}");
    let asked = provider.requests();
    assert_eq!(asked[1].body["reasoning_effort"], "low");
    assert!(!asked[1].body.to_string().contains("sky"), "another session is another conversation");
}

#[test]
fn a_message_may_come_from_standard_input() {
    let provider = Provider::start();
    let server = server(&provider);
    let home = TempDir::new().unwrap();
    let mut child = command(&server, &home, &["agent", "--message", "-", "--session-id", "letters"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all("two\nlines".as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "ok\n");
    assert!(provider.requests()[0].messages().last().unwrap().to_string().contains("two\\nlines"));
    let empty = run_against(&server, &["agent", "--message", " "]);
    assert_eq!(empty.status.code(), Some(USAGE), "{}", stderr(&empty));
}

#[test]
fn a_person_sees_the_answer_while_it_is_written() {
    let provider = Provider::start();
    provider.then(Turn::text("The first words come at once, the others later.").hold_after(6));
    let server = server(&provider);
    let home = TempDir::new().unwrap();
    let (mut terminal, theirs) = Terminal::open();
    let mut child = command(&server, &home, &["agent", "--message", "Tell me"]).stdout(theirs).spawn().unwrap();
    provider.wait_until_held();
    terminal.expect("The first words");
    assert!(!terminal.shown.contains("later"), "{:?}", terminal.shown);
    provider.release();
    terminal.expect("the others later.\r\n");
    assert_eq!(terminal.shown.matches("The first words").count(), 1, "{:?}", terminal.shown);
    assert!(child.wait().unwrap().success());
}

#[test]
fn ctrl_c_stops_the_run_and_frees_its_session() {
    let provider = Provider::start();
    provider.then(Turn::text("This goes on and on and on.").hold_after(3));
    let server = server(&provider);
    let home = TempDir::new().unwrap();
    let mut stopped = command(&server, &home, &["agent", "--message", "Tell me", "--session", "agent:main:long"]);
    let child = stopped.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    provider.wait_until_held();
    interrupt(&child);
    let began = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(FAILURE));
    assert_eq!(stderr(&output), "error: the answer was stopped\n");
    assert!(began.elapsed() < Duration::from_secs(4), "the gateway was not asked to stop it: {:?}", began.elapsed());
    provider.release();
    let next = run_against(&server, &["agent", "--message", "And now?", "--session", "agent:main:long"]);
    assert_eq!(text(&next.stdout), "ok\n", "{}", stderr(&next));
}

#[test]
fn without_an_answer_there_is_a_sentence_what_to_do_and_a_status() {
    let bare = Server::start();
    let nobody = run_against(&bare, &["agent", "--message", "Hello"]);
    assert_eq!(nobody.status.code(), Some(FAILURE));
    assert!(stderr(&nobody).starts_with("error: no model is configured"), "{}", stderr(&nobody));
    assert!(stderr(&nobody).contains("hint: ") && nobody.stdout.is_empty(), "{}", stderr(&nobody));
    let scripted = run_against(&bare, &["agent", "--message", "Hello", "--json"]);
    let answer: Value = serde_json::from_slice(&scripted.stdout).unwrap();
    assert_eq!((scripted.status.code(), &answer["error"]["code"]), (Some(FAILURE), &json!("RUN_FAILED")), "{answer}");
    let unknown = run_against(&bare, &["agent", "--message", "Hello", "--agent", "nobody"]);
    assert!(stderr(&unknown).contains("unknown agent id"), "{}", stderr(&unknown));

    let home = TempDir::new().unwrap();
    let away = ["agent", "--message", "Hello", "--url", "ws://127.0.0.1:9", "--token", "x"];
    let away = openclaw_rs(home.path(), &away).output().unwrap();
    assert_eq!(away.status.code(), Some(FAILURE));
    assert!(stderr(&away).contains("start one with `openclaw-rs gateway run`"), "{}", stderr(&away));
}

#[test]
fn a_chat_shows_what_was_said_and_goes_on_with_it() {
    let provider = Provider::start();
    provider.then(Turn::text("Four.")).then(Turn::text("The answer takes a while to be written.").hold_after(5));
    let server = server(&provider);
    assert_eq!(text(&run_against(&server, &["agent", "-m", "Two and two?"]).stdout), "Four.\n");
    let home = TempDir::new().unwrap();
    let (mut terminal, theirs) = Terminal::open();
    let mut command = command(&server, &home, &["chat"]);
    let child = command.env("NO_COLOR", "1").stdin(theirs.try_clone().unwrap()).stdout(theirs).spawn();
    let mut child = child.unwrap();
    // The command's own copies of the terminal must not outlive it.
    drop(command);
    terminal.expect("> Two and two?\r\nFour.\r\n");
    terminal.expect("Ctrl-D ends");
    terminal.ours.write_all(b"And three?\n").unwrap();
    provider.wait_until_held();
    terminal.expect("The answer");
    assert!(!terminal.shown.contains("written"), "{}", terminal.shown);
    provider.release();
    terminal.expect("to be written.\r\n> ");
    terminal.ours.write_all(b"/status\n").unwrap();
    terminal.expect("echo");
    assert_eq!(provider.requests().len(), 2, "a command is no question to the model");
    // Ctrl-D.
    terminal.ours.write_all(&[4]).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(provider.requests()[1].body.to_string().contains("Two and two?"), "one conversation");
}

#[test]
fn ctrl_c_stops_an_answer_and_the_chat_goes_on() {
    let provider = Provider::start();
    provider.then(Turn::text("On and on and on and on and on.").hold_after(4));
    let server = server(&provider);
    let home = TempDir::new().unwrap();
    let (mut terminal, theirs) = Terminal::open();
    let mut command = command(&server, &home, &["chat", "--session", "agent:main:long", "--limit", "0"]);
    let mut child = command.env("NO_COLOR", "1").stdin(theirs.try_clone().unwrap()).stdout(theirs).spawn().unwrap();
    drop(command);
    terminal.expect("> ");
    terminal.ours.write_all(b"Tell me\n").unwrap();
    provider.wait_until_held();
    terminal.expect("On and");
    interrupt(&child);
    terminal.expect("(stopped)\r\n> ");
    provider.release();
    terminal.ours.write_all(b"Still there?\n").unwrap();
    terminal.expect("ok\r\n> ");
    terminal.ours.write_all(&[4]).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_chat_from_a_pipe_prints_the_answers_in_order() {
    let provider = Provider::start();
    provider.then(Turn::text("one")).then(Turn::text("two"));
    let server = server(&provider);
    let home = TempDir::new().unwrap();
    let mut child = command(&server, &home, &["chat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"first\n\nsecond\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "one\ntwo\n"));
    let mut child =
        command(&server, &home, &["chat", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"third\n").unwrap();
    let answer = json_of(&child.wait_with_output().unwrap());
    assert_eq!((&answer["state"], &answer["text"]), (&json!("final"), &json!("ok")), "{answer}");
    let bare = Server::start();
    let mut child = command(&bare, &home, &["chat"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"first\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(FAILURE));
    assert!(stderr(&output).contains("no model is configured"), "{}", stderr(&output));
}
