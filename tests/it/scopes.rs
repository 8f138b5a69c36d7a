//! The matrix of method and scope, row by row, for both protocols (`fixtures/protocol/methods.json`).

use std::fs;
use std::path::Path;

use openclaw_rs::gateway::table;
use serde::Deserialize;
use serde_json::json;

use crate::harness::client::Outcome;
use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::{Client, Server};

/// Scopes that are tried, one at a time.
const SCOPES: [&str; 10] = [
    "operator.admin",
    "operator.read",
    "operator.write",
    "operator.approvals",
    "operator.pairing",
    "operator.questions",
    "operator.talk",
    "operator.talk.secrets",
    "operator.sessions.read",
    "operator.sessions.write",
];

/// Methods that are not called with a scope that lets them through, because they act before they look at their params.
const NOT_CALLED: [&str; 6] = [
    "update.run",
    "gateway.restart.request",
    "gateway.suspend.prepare",
    "gateway.suspend.resume",
    "device.token.rotate",
    "device.token.revoke",
];

/// One method of the released gateways.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    in_v3: bool,
    in_v4: bool,
    role: String,
    scopes: Vec<String>,
    scopes_v3: Option<Vec<String>>,
    session_scope: Option<String>,
    /// On protocol 4 the scope depends on the params.
    #[serde(default)]
    dynamic_v4: bool,
}

impl Row {
    /// The scope this method needs; `None` when it needs none or its params decide.
    fn needs(&self, proto: Proto) -> Option<&str> {
        let scopes = match proto {
            Proto::V3 => self.scopes_v3.as_ref().unwrap_or(&self.scopes),
            Proto::V4 if self.dynamic_v4 => return None,
            Proto::V4 => &self.scopes,
        };
        scopes.first().map(String::as_str).filter(|_| self.role == "operator")
    }

    /// Whether one held scope is enough, by the table of the wire contract.
    fn satisfied_by(&self, held: &str, proto: Proto) -> bool {
        let needed = self.needs(proto).expect("asked only for methods with a scope");
        let implied: &[&str] = match (held, proto) {
            ("operator.admin", _) => return true,
            ("operator.write", Proto::V3) => &["operator.read"],
            ("operator.write", Proto::V4) => {
                &["operator.read", "operator.talk", "operator.sessions.read", "operator.sessions.write"]
            }
            ("operator.read", Proto::V4) => &["operator.sessions.read"],
            ("operator.sessions.write", Proto::V4) => &["operator.sessions.read"],
            _ => &[],
        };
        let covers = |scope: &str| held == scope || implied.contains(&scope);
        covers(needed) || (proto == Proto::V4 && self.session_scope.as_deref().is_some_and(covers))
    }
}

fn rows() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/protocol/methods.json");
    let text = fs::read_to_string(path).expect("the table of methods is committed");
    serde_json::from_str(&text).expect("the table of methods is well formed")
}

fn refusal(client: &Client, method: &str) -> String {
    // No method has this field: one that is reached refuses it, or ignores it and only reads.
    let pending = client.start(method, Some(json!({ "zzNoSuchParam": true })));
    match client.wait(pending).outcome {
        Outcome::Answer(frame) => frame["error"]["message"].as_str().unwrap_or("").to_owned(),
        other => panic!("{method} was not answered: {other:?}"),
    }
}

fn check(proto: Proto) {
    let server = Server::start();
    let rows = rows();
    let mut refused = 0;
    let mut let_through = 0;
    for scope in SCOPES {
        let options = ConnectOptions::operator(scope).scopes(&[scope]);
        let client = server.client(scope, proto, &options);
        let listed = client.hello["features"]["methods"].as_array().expect("a hello lists methods").clone();
        for row in rows.iter().filter(|row| listed.contains(&json!(row.name))) {
            let Some(needed) = row.needs(proto) else { continue };
            if row.satisfied_by(scope, proto) {
                if !NOT_CALLED.contains(&row.name.as_str()) {
                    let said = refusal(&client, &row.name);
                    assert!(!said.starts_with("missing scope"), "{} with {scope}: {said}", row.name);
                    let_through += 1;
                }
            } else {
                let wanted = format!("missing scope: {needed}");
                assert_eq!(refusal(&client, &row.name), wanted, "{} with {scope}", row.name);
                refused += 1;
            }
        }
    }
    assert!(refused > 100 && let_through > 50, "the matrix had {refused} refused and {let_through} open cells");
}

#[test]
fn every_cell_of_the_protocol_3_matrix_holds() {
    check(Proto::V3);
}

#[test]
fn every_cell_of_the_protocol_4_matrix_holds() {
    check(Proto::V4);
}

/// A protocol 4 gateway closes a socket after more than ten calls of the wrong role; each node makes fewer.
const CALLS_PER_NODE: usize = 8;

#[test]
fn a_node_may_call_nothing_of_an_operator_and_an_operator_nothing_of_a_node() {
    let server = Server::start();
    let ann = server.operator("ann");
    let listed = ann.hello["features"]["methods"].as_array().unwrap().clone();
    // `health` is everybody's.
    let mut methods = rows();
    methods.retain(|row| row.role == "operator" && listed.contains(&json!(row.name)));
    assert!(methods.len() > 20, "only {} methods are listed", methods.len());
    for some in methods.chunks(CALLS_PER_NODE) {
        let node = server.node("attic");
        for row in some {
            assert_eq!(refusal(&node, &row.name), "unauthorized role: node", "{}", row.name);
        }
    }
    for row in rows().iter().filter(|row| row.role == "node" && listed.contains(&json!(row.name))) {
        assert_eq!(refusal(&ann, &row.name), "unauthorized role: operator", "{}", row.name);
    }
}

/// What `src/gateway/unbuilt.txt` must say: the contract less what is built.
fn unbuilt() -> String {
    let mut lines: Vec<String> = rows()
        .iter()
        .filter(|row| row.in_v3 || row.in_v4)
        .filter(|row| row.name != "connect" && table::find(&row.name).is_none())
        .map(|row| format!("{} {} {}\n", row.name, row.word(Proto::V3), row.word(Proto::V4)))
        .collect();
    lines.sort();
    lines.concat()
}

impl Row {
    /// What a protocol asks, as a word of `unbuilt.txt`; where it does not know the method, what it asks for any such.
    fn word(&self, proto: Proto) -> String {
        let (known, scopes) = match proto {
            Proto::V3 => (self.in_v3, self.scopes_v3.as_deref().unwrap_or_default()),
            Proto::V4 => (self.in_v4, self.scopes.as_slice()),
        };
        let short = |scope: &str| scope.strip_prefix("operator.").expect("scopes are an operator's").to_owned();
        match (known, self.role.as_str(), scopes) {
            (false, ..) => "admin".to_owned(),
            (true, "node", _) => "node".to_owned(),
            (true, "any", _) => "anyone".to_owned(),
            (true, _, []) => "operator".to_owned(),
            (true, _, [scope, ..]) => match &self.session_scope {
                Some(narrower) if proto == Proto::V4 && scope != "operator.admin" => {
                    format!("{}/{}", short(scope), short(narrower))
                }
                _ => short(scope),
            },
        }
    }
}

#[test]
fn the_list_of_unbuilt_methods_is_the_contract_less_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway/unbuilt.txt");
    let wanted = unbuilt();
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    let differs: Vec<&str> = wanted.lines().filter(|line| !stored.lines().any(|row| row == *line)).collect();
    assert!(stored == wanted, "stale: UPDATE_FIXTURES=1 cargo test unbuilt rewrites it; not in it: {differs:?}");
}

/// Calls of one connection in the test below: the rows of another role are counted, and close it after more than ten.
const CALLS_PER_OPERATOR: usize = 40;

#[test]
fn an_unbuilt_method_asks_for_its_scope_before_it_says_that_it_is_unknown() {
    let server = Server::start();
    let mut rows = rows();
    rows.retain(|row| (row.in_v3 || row.in_v4) && row.name != "connect" && table::find(&row.name).is_none());
    let (mut refused, mut unknown) = (0, 0);
    for proto in [Proto::V3, Proto::V4] {
        for (n, some) in rows.chunks(CALLS_PER_OPERATOR).enumerate() {
            let name = format!("reader-{n}");
            let options = ConnectOptions::operator(&name).scopes(&["operator.read"]);
            let reader = server.client(&name, proto, &options);
            for row in some {
                let word = row.word(proto);
                let wanted = match word.split('/').next().unwrap() {
                    "node" => "unauthorized role: operator".to_owned(),
                    "read" | "operator" | "anyone" => format!("unknown method: {}", row.name),
                    scope => format!("missing scope: operator.{scope}"),
                };
                unknown += u32::from(wanted.starts_with("unknown"));
                refused += u32::from(wanted.starts_with("missing"));
                assert_eq!(refusal(&reader, &row.name), wanted, "{} on {}", row.name, proto.name());
            }
        }
    }
    assert!(refused > 100 && unknown > 20, "{refused} refused, {unknown} unknown");
}
