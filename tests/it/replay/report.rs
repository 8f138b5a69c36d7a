//! Counts per family, the table that is printed, and the floor that must hold.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::judge::Verdict;
use super::recording::Step;
use super::shape::Difference;
use crate::harness::Proto;

/// Most mismatches of one family that are printed.
const MISMATCHES_PRINTED_MAX: usize = 200;
/// The contract: which methods there are, and which of them this project needs.
const METHODS: &str = include_str!("../../../fixtures/protocol/methods.json");
/// Most further paths that are named of one step.
const PATHS_SHOWN_MAX: usize = 40;

/// The methods that this project needs.
fn needed() -> HashSet<String> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(METHODS).expect("the fixture is JSON");
    let names = rows.iter().filter(|row| row["needed"] == true).filter_map(|row| row["name"].as_str());
    names.map(str::to_owned).collect()
}

/// One judged step.
pub(super) struct Judged {
    pub(super) family: String,
    pub(super) scenario: String,
    pub(super) step: u64,
    pub(super) method: Option<String>,
    /// Recorded as answered ok (or as nothing but events).
    pub(super) success: bool,
    pub(super) verdict: Verdict,
    /// Whether all that does not match is meant; still no match.
    pub(super) explained: bool,
    /// Whether all values that are others are meant.
    pub(super) values_explained: bool,
}

impl Judged {
    pub(super) fn new(family: &str, step: &Step, verdict: Verdict, explained: bool, values_explained: bool) -> Judged {
        Judged {
            family: family.to_owned(),
            scenario: step.scenario.clone(),
            step: step.step,
            method: step.method.clone(),
            success: step.expect.as_ref().is_none_or(|expect| expect.ok == Some(true)),
            verdict,
            explained,
            values_explained,
        }
    }

    fn matched(&self) -> bool {
        self.verdict.hard.is_empty()
    }

    /// Matches in its values too.
    fn same(&self) -> bool {
        self.matched() && self.verdict.soft.is_empty()
    }

    /// Whether it is no match, not even in its values, and all of that is meant.
    fn is_meant(&self) -> bool {
        !self.same() && (self.matched() || self.explained) && (self.verdict.soft.is_empty() || self.values_explained)
    }

    /// Whether its method is built and it does not differ on purpose.
    fn counts(&self, unbuilt: &HashSet<String>) -> bool {
        self.built(unbuilt) && !self.explained && !self.is_meant()
    }

    fn built(&self, unbuilt: &HashSet<String>) -> bool {
        self.method.as_ref().is_none_or(|method| !unbuilt.contains(method))
    }
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) matched: u32,
    pub(super) of: u32,
}

impl Part {
    fn add(&mut self, matched: bool) {
        self.of += 1;
        self.matched += u32::from(matched);
    }

    /// The same without so many that are no matches.
    fn without(self, n: u32) -> Part {
        Part { matched: self.matched, of: self.of - n }
    }

    /// Hundredths, rounded down: a floor of 95 means at least 95.
    fn percent(self) -> f64 {
        if self.of == 0 { 100.0 } else { (f64::from(self.matched) * 1000.0 / f64::from(self.of)).floor() / 10.0 }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(&format!("{}/{} {:.1}%", self.matched, self.of, self.percent()))
    }
}

/// What is counted of one family.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Tally {
    /// All steps that expect something.
    pub(super) steps: Part,
    /// Those recorded as answered ok.
    pub(super) successes: Part,
    /// Those recorded as refused or closed.
    pub(super) refusals: Part,
    /// Steps that match in their values, texts and close codes too.
    pub(super) values: Part,
    /// Orders of chat events.
    #[serde(default)]
    pub(super) order: Part,
}

impl Tally {
    fn of<'j>(judged: impl Iterator<Item = &'j Judged>) -> Tally {
        let mut tally = Tally::default();
        for step in judged {
            let matched = step.matched();
            tally.steps.add(matched);
            tally.values.add(step.same());
            if step.success {
                tally.successes.add(matched);
            } else {
                tally.refusals.add(matched);
            }
            if let Some(same) = step.verdict.order {
                tally.order.add(same);
            }
        }
        tally
    }

    fn parts(&self) -> [(&'static str, Part); 5] {
        [
            ("steps", self.steps),
            ("successes", self.successes),
            ("refusals", self.refusals),
            ("values", self.values),
            ("order", self.order),
        ]
    }
}

/// The outcome of one replay.
pub(super) struct Report {
    pub(super) proto: Proto,
    pub(super) judged: Vec<Judged>,
    /// Steps not compared, by family: unstable ones and those that need a network.
    pub(super) skipped: BTreeMap<String, u32>,
    /// Methods that the gateway neither lists nor answers.
    pub(super) unbuilt: HashSet<String>,
}

impl Report {
    /// Tallies of all families, with those of their built methods alone, less what differs on purpose.
    pub(super) fn tallies(&self) -> BTreeMap<String, (Tally, Tally)> {
        let families: HashSet<&String> = self.judged.iter().map(|judged| &judged.family).collect();
        let tally = |family: &String| {
            let all = || self.judged.iter().filter(move |judged| judged.family == *family);
            (family.clone(), (Tally::of(all()), Tally::of(all().filter(|judged| judged.counts(&self.unbuilt)))))
        };
        families.into_iter().map(tally).collect()
    }

    /// The table. Columns under "explained" count what differs and is meant; those under "less explained" leave it out
    /// of both counts, those under "built" leave out the steps of methods that are not built as well.
    pub(super) fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "replay of protocol {} ({} methods not built)\n{:18} {:16} {:16} {:16} {:16} {:10} | explained: steps, values \
             | less explained: steps, successes, values | and built: steps, successes, values | skipped",
            self.proto.number(),
            self.unbuilt.len(),
            "family",
            "steps",
            "successes",
            "refusals",
            "values too",
            "chat order",
        );
        for (family, (all, built)) in self.tallies() {
            let judged: Vec<&Judged> = self.judged.iter().filter(|judged| judged.family == family).collect();
            let skipped = self.skipped.get(&family).copied().unwrap_or(0);
            out.push_str(&row(&family, &judged, all, built, skipped));
        }
        let all: Vec<&Judged> = self.judged.iter().collect();
        let built = Tally::of(all.iter().copied().filter(|judged| judged.counts(&self.unbuilt)));
        out.push_str(&row("ALL", &all, Tally::of(all.iter().copied()), built, self.skipped.values().sum()));
        out
    }

    /// The share of the steps, and of the recorded successes, whose method is needed: as they match, in their values too,
    /// and less what differs on purpose. A step without a method (a handshake, an HTTP request) is of none.
    pub(super) fn needed_table(&self) -> String {
        let needed = needed();
        let mut out = format!("steps of methods that are needed, protocol {}\n", self.proto.number());
        let columns = ["steps", "successes", "values too", "less explained: steps", "successes", "values"];
        let _ = writeln!(out, "{:18} {}", "family", columns.map(|name| format!("{name:22}")).join(" "));
        let steps =
            || self.judged.iter().filter(|judged| judged.method.as_ref().is_some_and(|name| needed.contains(name)));
        let families = self.tallies().into_keys().map(Some).chain([None]);
        for family in families {
            let of_family = || steps().filter(|judged| family.as_ref().is_none_or(|name| judged.family == *name));
            let all = Tally::of(of_family());
            if all.steps.of == 0 {
                continue;
            }
            let less = Tally::of(of_family().filter(|judged| !judged.explained));
            let values = Tally::of(of_family().filter(|judged| !judged.is_meant())).values;
            let parts = [all.steps, all.successes, all.values, less.steps, less.successes, values];
            let name = family.as_deref().unwrap_or("ALL");
            let _ = writeln!(out, "{name:18} {}", parts.map(|part| format!("{part:22}")).join(" "));
        }
        out
    }

    /// The differences, family by family, all but those that are meant; those of methods that are not built are only
    /// counted, unless they are asked for.
    pub(super) fn mismatches(&self, values_too: bool, unbuilt_too: bool) -> String {
        let mut out = String::new();
        for family in self.tallies().keys() {
            let mut lines = Vec::new();
            let (mut not_built, mut meant) = (0, 0);
            for judged in self.judged.iter().filter(|judged| judged.family == *family) {
                let order = [Difference::new("order.chat", "another order")];
                let order = if judged.verdict.order == Some(false) { order.as_slice() } else { &[] };
                let hard = if judged.explained { &[] } else { judged.verdict.hard.as_slice() };
                let soft = if judged.values_explained { &[] } else { judged.verdict.soft.as_slice() };
                let (mark, found) = match (hard, soft, order) {
                    (hard @ [_, ..], _, _) => ("", hard),
                    (_, soft @ [_, ..], _) if values_too => ("(value) ", soft),
                    (_, _, order @ [_, ..]) if values_too => ("(value) ", order),
                    _ => {
                        meant += u32::from(judged.is_meant());
                        continue;
                    }
                };
                if !judged.built(&self.unbuilt) && !unbuilt_too {
                    not_built += 1;
                    continue;
                }
                let method = judged.method.as_deref().unwrap_or("");
                lines.push(format!("  {mark}{} #{} {method}: {}", judged.scenario, judged.step, told(found)));
            }
            if lines.is_empty() && not_built == 0 && meant == 0 {
                continue;
            }
            let more = lines.len().saturating_sub(MISMATCHES_PRINTED_MAX);
            lines.truncate(MISMATCHES_PRINTED_MAX);
            let _ = writeln!(out, "== {} {family}\n{}", self.proto.name(), lines.join("\n"));
            let _ = writeln!(out, "  ({more} more; {not_built} of methods not built; {meant} explained)");
        }
        out
    }
}

/// A line of the table.
fn row(name: &str, judged: &[&Judged], all: Tally, built: Tally, skipped: u32) -> String {
    let order = if all.order.of == 0 { String::new() } else { format!("{}/{}", all.order.matched, all.order.of) };
    let count = |meant: fn(&Judged) -> bool| {
        u32::try_from(judged.iter().filter(|judged| meant(judged)).count()).expect("fewer steps than that are recorded")
    };
    let (steps, values) = (count(|judged| judged.explained), count(Judged::is_meant));
    let successes = count(|judged| judged.explained && judged.success);
    format!(
        "{name:18} {:16} {:16} {:16} {:16} {order:10} | {steps:5} {values:5} | {:16} {:16} {:16} | {:16} {:16} {:16} | {skipped}\n",
        all.steps,
        all.successes,
        all.refusals,
        all.values,
        all.steps.without(steps),
        all.successes.without(successes),
        all.values.without(values),
        built.steps,
        built.successes,
        built.values,
    )
}

/// The first difference, and the paths of the others.
fn told(found: &[Difference]) -> String {
    let Some((first, others)) = found.split_first() else { return String::new() };
    let mut line = format!("{} {}", first.path, first.why);
    if !others.is_empty() {
        let shown: Vec<&str> = others.iter().take(PATHS_SHOWN_MAX).map(|other| other.path.as_str()).collect();
        let _ = write!(line, " (and {} more: {})", others.len(), shown.join(", "));
    }
    line
}

/// The committed floor: protocol, then family.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Floor(BTreeMap<String, BTreeMap<String, Tally>>);

/// What became of the comparison with the floor.
#[derive(Default)]
pub(super) struct Standing {
    /// Below the floor: the test fails.
    pub(super) below: Vec<String>,
    /// Above it: the floor should be raised.
    pub(super) above: Vec<String>,
}

impl Floor {
    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recordings/floor.json")
    }

    pub(super) fn load() -> Floor {
        let text = fs::read_to_string(Floor::path()).expect("the floor is committed");
        serde_json::from_str(&text).expect("the floor is well formed")
    }

    /// Compares a report with the floor. A family without a floor is not held; one that lost recorded steps is below it.
    pub(super) fn standing(&self, report: &Report) -> Standing {
        let mut standing = Standing::default();
        let Some(families) = self.0.get(report.proto.name()) else { return standing };
        for (family, (tally, _)) in report.tallies() {
            let Some(floor) = families.get(&family) else { continue };
            for ((what, now), (_, floor)) in tally.parts().into_iter().zip(floor.parts()) {
                let line = format!("{} {family} {what}: {now}, the floor is {floor}", report.proto.name());
                if now.matched < floor.matched || now.of < floor.of {
                    standing.below.push(line);
                } else if now != floor {
                    standing.above.push(line);
                }
            }
        }
        standing
    }

    /// Raises the floor of the report's families to what they reached, and writes it. Never lowers a count.
    pub(super) fn raise(&mut self, report: &Report) {
        let families = self.0.entry(report.proto.name().to_owned()).or_default();
        for (family, (tally, _)) in report.tallies() {
            let floor = families.entry(family).or_default();
            for (floor, now) in [
                (&mut floor.steps, tally.steps),
                (&mut floor.successes, tally.successes),
                (&mut floor.refusals, tally.refusals),
                (&mut floor.values, tally.values),
                (&mut floor.order, tally.order),
            ] {
                *floor = Part { matched: floor.matched.max(now.matched), of: floor.of.max(now.of) };
            }
        }
        let text = serde_json::to_string_pretty(self).expect("plain data can be written") + "\n";
        fs::write(Floor::path(), text).expect("the floor can be written");
    }
}
