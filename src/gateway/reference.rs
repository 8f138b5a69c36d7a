//! The reference pages that come from the core's tables: `docs/methods.md` and `docs/metrics.md`.

use std::fmt::Write as _;

use super::broadcast::{Audience, EVENTS};
use super::table::{self, Listed, Need};
use crate::protocol::frame::FrameClass;
use crate::runtime::metrics;

const METHODS_HEAD: &str = "\
# Methods and events

What this build serves over WebSocket, and by `POST /rpc`. A method that is not here is not built, and
`features.methods` does not name it: calling it answers `INVALID_REQUEST` with `unknown method: NAME`, or, to whoever lacks
the scope that the released gateways ask for it (`operator.admin`, where they do not know it either), that it is missing.

- **listed on**: the protocols whose `features.methods` name it. Both can call it either way.
- **protocol 3**, **protocol 4**: what a caller needs. `operator.admin` is enough everywhere; `operator.write` includes
  `operator.read`. *anyone* is every admitted connection, nodes included.
- **lane**: where it runs. `loop` runs at once, on live state, and what it changes on disk is there before it answers;
  `query` reads on another thread; `store` runs in a transaction and answers after its commit.
";

const EVENTS_HEAD: &str = "
## Events

- **to**: who may see it. *addressed* events go to one connection and carry no `seq`.
- **a slow client**: whether the event is left out for a connection that does not keep up, or the connection closed.

| event | protocols | to, protocol 3 | to, protocol 4 | a slow client |
|---|---|---|---|---|
";

/// `docs/methods.md`.
pub fn methods_page() -> String {
    let rows = table::sorted();
    let mut out = String::from(METHODS_HEAD);
    let _ = write!(
        out,
        "\n## Methods\n\n{} of them.\n\n| method | listed on | protocol 3 | protocol 4 | lane |\n|---|---|---|---|---|\n",
        rows.len()
    );
    for row in rows {
        let listed = match row.listed {
            Listed::Both => "3, 4",
            Listed::V3 => "3",
            Listed::V4 => "4",
            Listed::Never => "none",
        };
        let (need3, need4, lane) = (need(row.need3, false), need(row.need4, true), row.run.lane());
        let _ = writeln!(out, "| `{}` | {listed} | {need3} | {need4} | {lane} |", row.name);
    }
    out.push_str(EVENTS_HEAD);
    for event in EVENTS {
        let (protocols, to3) = if event.in_v3 { ("3, 4", audience(event.audience3)) } else { ("4", String::new()) };
        let slow = match event.class {
            FrameClass::DropIfSlow => "left out",
            FrameClass::Event | FrameClass::Response => "closed",
        };
        let _ = writeln!(out, "| `{}` | {protocols} | {to3} | {} | {slow} |", event.name, audience(event.audience4));
    }
    out.push_str("\nThis page is written from the tables in `src/gateway`; a test compares them.\n");
    out.replace("|  |", "| |")
}

/// `docs/metrics.md`.
pub fn metrics_page() -> String {
    let mut out = String::from(
        "# Metrics\n\nPrometheus text (version 0.0.4) at `GET /metrics`, on the gateway port and on the control port, for \
         whoever\nshows the gateway's secret or a paired operator's device token as a bearer. No label's value comes from a \
         peer.\n\n\
         | metric | type | label | meaning |\n|---|---|---|---|\n",
    );
    for row in metrics::described() {
        let label = row.label.map_or_else(String::new, |label| format!("`{label}`"));
        let _ = writeln!(out, "| `{}` | {} | {label} | {} |", row.name, row.kind, row.help);
    }
    out.push_str("\nThis page is written from the table in `src/runtime/metrics.rs`; a test compares the two.\n");
    out.replace("|  |", "| |")
}

fn need(need: Need, is_v4: bool) -> String {
    match need {
        Need::Anyone => "anyone".to_owned(),
        Need::Node => "a node".to_owned(),
        Need::Operator => "an operator".to_owned(),
        Need::Scope(scope) => format!("`{}`", scope.as_str()),
        Need::Either(scope, narrower) if is_v4 => format!("`{}` or `{}`", scope.as_str(), narrower.as_str()),
        Need::Either(scope, _) => format!("`{}`", scope.as_str()),
        Need::ByParams(_) => "by its parameters".to_owned(),
    }
}

fn audience(audience: Audience) -> String {
    match audience {
        Audience::Open => "anyone".to_owned(),
        Audience::Scope(scope) => format!("`{}`", scope.as_str()),
        Audience::Addressed => "addressed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_method_event_and_metric_has_its_line() {
        let page = super::methods_page();
        let (methods, events) = page.split_once("\n## Events\n").unwrap();
        let n_lines = |part: &str, name: &str| part.matches(&format!("\n| `{name}` | ")).count();
        for row in super::table::sorted() {
            assert_eq!(n_lines(methods, row.name), 1, "{}", row.name);
        }
        for event in super::EVENTS {
            assert_eq!(n_lines(events, event.name), 1, "{}", event.name);
        }
        let page = super::metrics_page();
        for line in super::metrics::text().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(page.contains(&format!("| `{name}` | ")), "{name}");
        }
    }
}
