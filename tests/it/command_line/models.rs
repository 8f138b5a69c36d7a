//! Choosing among models from the command line, over a running gateway.

use serde_json::{Value, json};

use super::{FAILURE, USAGE, json_of, run_against, text};
use crate::harness::Server;
use crate::harness::provider::Provider;

fn status(server: &Server) -> Value {
    json_of(&run_against(server, &["models", "status", "--json"]))
}

#[test]
fn models_are_listed_and_chosen() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let list = text(&run_against(&server, &["models"]).stdout);
    assert!(list.contains("double/echo") && list.contains("default") && list.contains("yes"), "{list}");
    let listed = json_of(&run_against(&server, &["models", "list", "--provider", "double", "--json"]));
    assert_eq!(listed["models"][0]["id"], "echo", "{listed}");

    let before = status(&server);
    assert_eq!((&before["defaultModel"], &before["available"]), (&json!("double/echo"), &json!(true)), "{before}");
    assert!(!before.to_string().contains(crate::harness::provider::KEY));
    let chosen = run_against(&server, &["models", "set", "claude/claude-opus-5"]);
    assert_eq!(text(&chosen.stdout), "anthropic/claude-opus-5 is asked first\n", "{}", text(&chosen.stderr));
    assert_eq!(status(&server)["defaultModel"], "anthropic/claude-opus-5");
    let check = run_against(&server, &["models", "status", "--check"]);
    assert_eq!(check.status.code(), Some(FAILURE), "{}", text(&check.stdout));
    let wrong = run_against(&server, &["models", "set", "nonsense"]);
    assert_eq!(wrong.status.code(), Some(USAGE), "{}", text(&wrong.stderr));
}

#[test]
fn aliases_and_fallbacks_come_and_go() {
    let provider = Provider::start();
    let server = Server::with().config(&provider.config()).start();
    let ok = |args: &[&str]| {
        let output = run_against(&server, args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    ok(&["models", "aliases", "add", "fast", "double/echo"]);
    ok(&["models", "aliases", "add", "best", "openai/gpt-5.4"]);
    ok(&["models", "aliases", "add", "fast", "openai/gpt-5.4-mini"]);
    let aliases = json_of(&run_against(&server, &["models", "aliases", "--json"]));
    assert_eq!(aliases["aliases"], json!({ "fast": "openai/gpt-5.4-mini", "best": "openai/gpt-5.4" }));
    ok(&["models", "fallbacks", "add", "fast"]);
    ok(&["models", "fallbacks", "add", "best"]);
    assert_eq!(ok(&["models", "fallbacks"]), "openai/gpt-5.4-mini\nopenai/gpt-5.4\n");
    ok(&["models", "fallbacks", "remove", "fast"]);
    assert_eq!(status(&server)["fallbacks"], json!(["openai/gpt-5.4"]));
    assert_eq!(status(&server)["defaultModel"], "double/echo", "the first one stays");
    assert_eq!(ok(&["models", "fallbacks", "clear"]), "no fallbacks\n");
    ok(&["models", "aliases", "remove", "best"]);
    let gone = run_against(&server, &["models", "aliases", "remove", "best"]);
    assert_eq!(gone.status.code(), Some(FAILURE), "{}", text(&gone.stdout));
}
