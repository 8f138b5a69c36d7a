//! From a machine without anything to an answer.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::talk::Terminal;
use super::{USAGE, json_of, openclaw_rs, text};
use crate::harness::provider::{KEY, Provider, Turn};

/// The variable that holds the double's key.
const VARIABLE: &str = "ATTIC_KEY";

/// A gateway that is killed when dropped.
struct Gateway(Child);

impl Gateway {
    fn run(home: &Path) -> Gateway {
        let mut command = openclaw_rs(home, &["gateway", "run", "--port", "0"]);
        let mut child =
            command.env(VARIABLE, KEY).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be started");
        let said = BufReader::new(child.stdout.take().expect("it was asked for as a pipe")).lines();
        let gateway = Gateway(child);
        let listens = said.map_while(Result::ok).any(|line| line.starts_with("state "));
        assert!(listens, "the gateway did not start");
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_fresh_machine_gets_an_answer_after_two_commands() {
    let provider = Provider::start();
    provider.then(Turn::text("Hello, I am here."));
    let home = TempDir::new().unwrap();
    let url = format!("{}/v1", provider.url());
    let words = ["onboard", "--non-interactive", "--provider", "attic", "--base-url", &url, "--model", "small"];
    let words: Vec<&str> = words.into_iter().chain(["--api-key-env", VARIABLE, "--json"]).collect();
    let done = json_of(&openclaw_rs(home.path(), &words).env(VARIABLE, KEY).output().unwrap());
    assert_eq!((&done["model"], &done["keyMissing"]), (&json!("attic/small"), &Value::Null), "{done}");
    let state = home.path().join(".openclaw-rs");
    let file = state.join("openclaw.json");
    assert_eq!((mode(&state), mode(&file)), (0o700, 0o600));
    assert!(!fs::read_to_string(&file).unwrap().contains(KEY), "the key stays in the environment");
    assert!(fs::read_to_string(state.join("workspace/AGENTS.md")).unwrap().contains("Rules"));

    let _gateway = Gateway::run(home.path());
    let answer = openclaw_rs(home.path(), &["agent", "--message", "Who is there?"]).output().unwrap();
    assert_eq!(text(&answer.stdout), "Hello, I am here.\n", "{}", text(&answer.stderr));
    let prompt = provider.requests()[0].body.to_string();
    assert!(prompt.contains("Before anything that cannot be undone"), "the agent begins with its documents: {prompt}");
}

#[test]
fn configure_changes_what_it_is_told_and_nothing_else() {
    let home = TempDir::new().unwrap();
    let state = home.path().join(".openclaw-rs");
    fs::create_dir_all(state.join("workspace")).unwrap();
    fs::write(state.join("workspace/SOUL.md"), "mine\n").unwrap();
    let file = state.join("openclaw.json");
    let before = "{\n  // written by hand\n  agents: { defaults: { model: 'openai/gpt-5.4' } }, // the good one\n  \
                  models: { providers: { openai: { apiKey: 'sk-canary' } } },\n  gateway: { port: 19001 },\n}\n";
    fs::write(&file, before).unwrap();
    let args = ["configure", "--non-interactive", "--model", "openai/gpt-5.4-mini", "--bind", "lan"];
    let done = openclaw_rs(home.path(), &args).output().unwrap();
    assert!(done.status.success() && !text(&done.stdout).contains("canary"), "{}", text(&done.stderr));
    let after = fs::read_to_string(&file).unwrap();
    for kept in ["// written by hand", "// the good one", "sk-canary", "19001", "openai/gpt-5.4-mini", "lan"] {
        assert!(after.contains(kept), "{kept}: {after}");
    }
    assert_eq!(fs::read_to_string(state.join("workspace/SOUL.md")).unwrap(), "mine\n");
    let again = json_of(&openclaw_rs(home.path(), &[&args[..], &["--json"]].concat()).output().unwrap());
    assert_eq!((&again["changed"], &again["workspace"]["made"]), (&json!([]), &json!([])), "{again}");
}

#[test]
fn what_is_missing_is_named_and_nothing_is_written() {
    let home = TempDir::new().unwrap();
    for (args, needle) in [
        (&["onboard"][..], "--non-interactive"),
        (&["onboard", "--non-interactive"], "--provider"),
        (&["onboard", "--non-interactive", "--provider", "openai"], "--api-key-env"),
        (&["onboard", "--non-interactive", "--provider", "attic"], "--base-url"),
        (&["onboard", "--non-interactive", "--provider", "ollama", "--bind", "everywhere", "--model", "m"], "--bind"),
    ] {
        let refused = openclaw_rs(home.path(), args).output().unwrap();
        assert_eq!(refused.status.code(), Some(USAGE), "{args:?}");
        assert!(text(&refused.stderr).contains(needle), "{args:?}: {}", text(&refused.stderr));
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_person_is_asked_and_the_key_is_not_shown() {
    let home = TempDir::new().unwrap();
    let (mut terminal, theirs) = Terminal::open();
    let child = openclaw_rs(home.path(), &["onboard"])
        .stdin(theirs.try_clone().unwrap())
        .stderr(theirs)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for (question, answer) in [
        ("[anthropic]: ", "openai\n"),
        ("API key (not shown): ", "sk-canary\n"),
        ("Model of openai [gpt-5.4]: ", "\n"),
        ("/workspace]: ", "\n"),
        ("[loopback]: ", "\n"),
    ] {
        terminal.expect(question);
        terminal.ours.write_all(answer.as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let output = text(&output.stdout);
    assert!(!terminal.shown.contains("canary"), "{}", terminal.shown);
    assert!(output.contains("Next:") && !output.contains("canary"), "{output}");
    let file = home.path().join(".openclaw-rs/openclaw.json");
    assert!(fs::read_to_string(&file).unwrap().contains("sk-canary"));
    assert_eq!(mode(&file), 0o600);
}
