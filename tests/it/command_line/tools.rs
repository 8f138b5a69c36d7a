//! Tools from the command line, over a running gateway.

use serde_json::json;

use super::{FAILURE, USAGE, json_of, run, run_against, text};
use crate::harness::Server;
use crate::harness::provider::Provider;

#[test]
fn tools_are_listed_explained_and_called() {
    let provider = Provider::start();
    let config = json!({ "tools": { "deny": ["sessions_spawn"], "byProvider": { "openai": { "deny": ["read"] } } } });
    let server = Server::with().config(&provider.config()).config(&config).start();
    let list = text(&run_against(&server, &["tools"]).stdout);
    assert!(list.contains("session_status") && list.contains("yes") && list.contains("no: global"), "{list}");

    let fine = run_against(&server, &["tools", "explain", "READ"]);
    assert!(fine.status.success() && text(&fine.stdout).starts_with("read is allowed: "), "{}", text(&fine.stdout));
    let denied = run_against(&server, &["policy", "explain", "read", "--provider", "openai"]);
    assert_eq!(denied.status.code(), Some(FAILURE));
    let said = text(&denied.stdout);
    assert!(
        said.starts_with("read is denied: tools.byProvider[openai]: deny has \"read\" (global provider)"),
        "{said}"
    );
    let json = json_of(&run_against(&server, &["policy", "explain", "bash", "--json"]));
    assert_eq!(
        (&json["tool"], &json["allowed"], &json["toolsInvoke"]["allowed"]),
        (&json!("exec"), &json!(true), &json!(false))
    );

    let called = run_against(&server, &["tools", "invoke", "session_status"]);
    assert!(called.status.success() && text(&called.stdout).contains("agent:main:main"), "{}", text(&called.stderr));
    let dry = run_against(&server, &["tools", "invoke", "read", "--args", "{path: 'a.md'}", "--dry-run"]);
    assert!(dry.status.success() && text(&dry.stdout).starts_with("dry run: allowed"), "{}", text(&dry.stdout));
    let refused = run_against(&server, &["tools", "invoke", "sessions_spawn", "--args", "{task: 'x'}"]);
    assert_eq!(refused.status.code(), Some(FAILURE));
    assert!(
        text(&refused.stdout).starts_with("not_found: Tool not available: sessions_spawn ("),
        "{}",
        text(&refused.stdout)
    );
    let wrong = run_against(&server, &["tools", "invoke", "read", "--args", "path"]);
    assert_eq!(wrong.status.code(), Some(USAGE), "{}", text(&wrong.stderr));
}

#[test]
fn help_has_examples() {
    for words in [["tools", "list"], ["tools", "explain"], ["tools", "invoke"], ["policy", "explain"]] {
        let help = text(&run(&[&words[..], &["--help"]].concat()).stdout);
        assert!(help.contains(&format!("openclaw-rs {} {}", words[0], words[1])), "{help}");
    }
}
