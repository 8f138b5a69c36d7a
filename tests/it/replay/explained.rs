//! Differences that are meant: `fixtures/recordings/explained.json`, one row each, with the reason in a sentence.
//!
//! A step all of whose differences have a row is counted apart, never as a match. A row that explains nothing any more
//! fails the test, so the list only grows by decision and shrinks by itself.

use std::cell::Cell;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::recording::Step;
use super::report::Report;
use super::shape::Difference;
use crate::harness::Proto;

/// One row.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// `v3` or `v4`.
    protocol: String,
    /// The only family it speaks of; every one, when absent.
    family: Option<String>,
    /// The only scenario it speaks of.
    scenario: Option<String>,
    /// The only step of the scenario.
    step: Option<u64>,
    /// Where the answers differ: these paths and all below them.
    paths: Vec<Place>,
    /// Why that is meant.
    reason: String,
}

/// A path, and whether it explained something.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
struct Place {
    path: String,
    used: Cell<bool>,
}

impl From<String> for Place {
    fn from(path: String) -> Place {
        Place { path, used: Cell::new(false) }
    }
}

impl Place {
    fn holds(&self, found: &Difference) -> bool {
        found.path.strip_prefix(&self.path).is_some_and(|tail| tail.is_empty() || tail.starts_with(['.', '[']))
    }
}

impl Row {
    fn speaks_of(&self, proto: Proto, family: &str, step: &Step) -> bool {
        self.protocol == proto.name()
            && self.family.as_ref().is_none_or(|only| only == family)
            && self.scenario.as_ref().is_none_or(|only| *only == step.scenario)
            && self.step.is_none_or(|only| only == step.step)
    }

    /// Whether the families that were judged are all this row speaks of.
    fn was_tried(&self, report: &Report, all: &[&str]) -> bool {
        let judged = |family: &str| report.judged.iter().any(|judged| judged.family == family);
        self.protocol == report.proto.name()
            && match &self.family {
                Some(family) => judged(family),
                None => all.iter().all(|family| judged(family)),
            }
    }
}

/// The list.
pub(super) struct Explained(Vec<Row>);

impl Explained {
    pub(super) fn load() -> Explained {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recordings/explained.json");
        let text = fs::read_to_string(path).expect("the list of explained differences is committed");
        Explained::read(&text)
    }

    fn read(text: &str) -> Explained {
        let rows: Vec<Row> = serde_json::from_str(text).expect("the list of explained differences is well formed");
        for row in &rows {
            let paths = &row.paths;
            assert!(!paths.is_empty(), "a row names its paths: {}", row.reason);
            assert!(row.reason.split_whitespace().count() >= 5, "a reason is a sentence: {}", row.reason);
            assert!(row.scenario.is_none() || row.family.is_some(), "a scenario has a family: {paths:?}");
            assert!(row.step.is_none() || row.scenario.is_some(), "a step has a scenario: {paths:?}");
        }
        Explained(rows)
    }

    /// Whether there are differences and each of them has a row.
    pub(super) fn all(&self, proto: Proto, family: &str, step: &Step, found: &[Difference]) -> bool {
        let mut whole = !found.is_empty();
        for difference in found {
            let rows = self.0.iter().filter(|row| row.speaks_of(proto, family, step));
            let places = rows.flat_map(|row| &row.paths).filter(|place| place.holds(difference));
            let n_places = places.inspect(|place| place.used.set(true)).count();
            whole &= n_places > 0;
        }
        whole
    }

    /// Paths that explained nothing, though every family their row speaks of was judged. `all` names the families that are
    /// always held.
    pub(super) fn idle(&self, report: &Report, all: &[&str]) -> Vec<String> {
        let tried = self.0.iter().filter(|row| row.was_tried(report, all));
        let of = |row: &Row, place: &Place| {
            format!("{} {} {}", row.protocol, row.scenario.as_deref().unwrap_or("*"), place.path)
        };
        let idle = |row: &Row| -> Vec<String> {
            row.paths.iter().filter(|place| !place.used.get()).map(|place| of(row, place)).collect()
        };
        tried.flat_map(idle).collect()
    }
}

#[test]
fn a_row_explains_its_path_and_what_is_below_and_nothing_else() {
    let step: Step = serde_json::from_str(r#"{ "scenario": "x/y", "step": 2, "seq": 1 }"#).unwrap();
    let list = Explained::read(
        r#"[{ "protocol": "v4", "family": "x", "scenario": "x/y", "step": 2, "paths": ["a.b"], "reason": "it is meant to be so" }]"#,
    );
    let found = |path: &str| vec![Difference::new(path, "missing")];
    for path in ["a.b", "a.b.c", "a.b[].c"] {
        assert!(list.all(Proto::V4, "x", &step, &found(path)), "{path}");
    }
    assert!(!list.all(Proto::V4, "x", &step, &found("a.bc")));
    assert!(!list.all(Proto::V3, "x", &step, &found("a.b")));
    assert!(!list.all(Proto::V4, "z", &step, &found("a.b")));
    assert!(!list.all(Proto::V4, "x", &step, &[]));
    let (both, other) = ([found("a.b"), found("c")].concat(), Step { step: 3, ..step });
    assert!(!list.all(Proto::V4, "x", &other, &found("a.b")));
    assert!(!list.all(Proto::V4, "x", &Step { step: 2, ..other }, &both), "one of two is not enough");
}

#[test]
fn a_row_that_explains_nothing_is_found() {
    use std::collections::{BTreeMap, HashSet};

    let step: Step = serde_json::from_str(r#"{ "scenario": "x/y", "step": 2, "seq": 1 }"#).unwrap();
    let row =
        |extra: &str| format!(r#"[{{ "protocol": "v4", "paths": ["a"], "reason": "it is meant to be so"{extra} }}]"#);
    let verdict = super::judge::Verdict { hard: vec![], soft: vec![], order: None };
    let judged = vec![super::report::Judged::new("x", &step, verdict, false, false)];
    let report = Report { proto: Proto::V4, judged, skipped: BTreeMap::new(), unbuilt: HashSet::new() };
    let (all, of_x) = (Explained::read(&row("")), Explained::read(&row(r#", "family": "x""#)));
    assert_eq!(of_x.idle(&report, &["x", "z"]), ["v4 * a"]);
    assert_eq!(all.idle(&report, &["x", "z"]), Vec::<String>::new(), "family z was not judged");
    assert_eq!(all.idle(&report, &["x"]), ["v4 * a"]);
    assert!(all.all(Proto::V4, "x", &step, &[Difference::new("a", "missing")]));
    assert_eq!(all.idle(&report, &["x"]), Vec::<String>::new(), "it was of use");
}
