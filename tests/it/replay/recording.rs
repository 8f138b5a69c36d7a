//! The recordings as they lie in `fixtures/recordings`; the format is described in the README there.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::harness::Proto;

/// One line: one step of a scenario.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    pub(super) scenario: String,
    pub(super) step: u64,
    /// Place of the scenario in the recording, across all files of the folder.
    pub(super) seq: u64,
    #[serde(default)]
    pub(super) fresh: bool,
    #[serde(default)]
    pub(super) op: Op,
    #[serde(default = "default_connection")]
    pub(super) on: String,
    pub(super) method: Option<String>,
    #[serde(default, deserialize_with = "present")]
    pub(super) params: Option<Value>,
    #[serde(default)]
    pub(super) connect: Map<String, Value>,
    pub(super) raw: Option<Value>,
    #[serde(default)]
    pub(super) binary: bool,
    #[serde(default)]
    pub(super) then_close: bool,
    /// Name of a request that is started here and joined later.
    #[serde(rename = "ref")]
    pub(super) reference: Option<String>,
    /// The last answer counts, not the one that says `accepted`.
    #[serde(default, rename = "final")]
    pub(super) last_answer: bool,
    pub(super) event: Option<String>,
    #[serde(default, rename = "where")]
    pub(super) filter: Map<String, Value>,
    pub(super) ms: Option<u64>,
    pub(super) wait_ms: Option<u64>,
    pub(super) timeout_ms: Option<u64>,
    #[serde(default)]
    pub(super) save: Map<String, Value>,
    #[serde(default)]
    pub(super) save_error: Map<String, Value>,
    pub(super) expect: Option<Expect>,
    pub(super) close_code: Option<u16>,
    #[serde(default)]
    pub(super) expect_events: Vec<ExpectEvent>,
    pub(super) order: Option<Order>,
    #[serde(default)]
    pub(super) unstable: bool,
    #[serde(default)]
    pub(super) net: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum Op {
    #[default]
    Req,
    Connect,
    Raw,
    Start,
    Join,
    Await,
    AnswerInvoke,
    Close,
    Sleep,
}

/// What must come back.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Expect {
    pub(super) ok: Option<bool>,
    #[serde(default)]
    pub(super) shape: Map<String, Value>,
    #[serde(default)]
    pub(super) literals: Map<String, Value>,
    pub(super) error: Option<ExpectError>,
    #[serde(default)]
    pub(super) closed: bool,
    #[serde(default)]
    pub(super) timeout: bool,
    /// Close code, with `closed`.
    pub(super) code: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExpectError {
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
    pub(super) details: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) detail_literals: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExpectEvent {
    pub(super) event: String,
    pub(super) on: Option<String>,
    #[serde(default, rename = "where")]
    pub(super) filter: Map<String, Value>,
    pub(super) timeout_ms: Option<u64>,
    #[serde(default)]
    pub(super) save: Map<String, Value>,
    /// Did not come in every run: not required.
    #[serde(default)]
    pub(super) absent: bool,
    pub(super) expect: Option<Expect>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Order {
    #[serde(default)]
    pub(super) chat: Vec<String>,
}

fn default_connection() -> String {
    String::from("op")
}

/// Keeps `null` apart from absent: a request with null params is not one without.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// A scenario: its steps in order, and the family (file) they lie in.
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) family: String,
    pub(super) steps: Vec<Step>,
}

/// The folder of a protocol's recordings.
pub(super) fn folder(proto: Proto) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recordings").join(proto.name())
}

/// The scenarios of all families, in the order in which they were recorded.
pub(super) fn scenarios(proto: Proto) -> Vec<Scenario> {
    let folder = folder(proto);
    let mut scenarios: Vec<Scenario> = Vec::new();
    for entry in fs::read_dir(&folder).expect("the recordings lie in fixtures/recordings") {
        let path = entry.expect("the folder can be listed").path();
        let family = path.file_stem().expect("a listed file has a name").to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a recording can be read");
        let start = scenarios.len();
        for (number, line) in text.lines().filter(|line| !line.is_empty()).enumerate() {
            let step: Step =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{}:{}: {error}", path.display(), number + 1));
            match scenarios[start..].iter_mut().find(|scenario| scenario.name == step.scenario) {
                Some(scenario) => scenario.steps.push(step),
                None => {
                    scenarios.push(Scenario { name: step.scenario.clone(), family: family.clone(), steps: vec![step] });
                }
            }
        }
    }
    assert!(!scenarios.is_empty(), "no recordings in {}", folder.display());
    scenarios.sort_by_key(|scenario| scenario.steps[0].seq);
    scenarios
}
