//! Counters and gauges: one table of everything that is measured, and its Prometheus text.
//!
//! A metric is a `static` in this file; whoever measures adds to it from any thread, and [`text`] writes them all.
//! Nothing is created at run time and no label comes from a peer, so the table can't grow.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Grows only.
#[derive(Debug)]
pub struct Counter {
    name: &'static str,
    help: &'static str,
    value: AtomicU64,
}

impl Counter {
    const fn new(name: &'static str, help: &'static str) -> Counter {
        Counter { name, help, value: AtomicU64::new(0) }
    }

    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.value.fetch_add(n, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug)]
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    value: AtomicI64,
}

impl Gauge {
    const fn new(name: &'static str, help: &'static str) -> Gauge {
        Gauge { name, help, value: AtomicI64::new(0) }
    }

    /// Changes it by `n`.
    pub fn add(&self, n: i64) {
        self.value.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces it.
    pub fn set(&self, n: i64) {
        self.value.store(n, Ordering::Relaxed);
    }

    /// What it stands at.
    pub fn value(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// Counters that differ in one label, whose values are known before the first one is counted.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    cells: OnceLock<Vec<(&'static str, AtomicU64)>>,
}

impl Family {
    const fn new(name: &'static str, help: &'static str, label: &'static str) -> Family {
        Family { name, help, label, cells: OnceLock::new() }
    }

    /// Names the label's values. Only the first call counts.
    pub fn declare(&self, values: impl IntoIterator<Item = &'static str>) {
        self.cells.get_or_init(|| {
            let mut cells: Vec<_> = values.into_iter().map(|value| (value, AtomicU64::new(0))).collect();
            cells.sort_unstable_by_key(|(value, _)| *value);
            cells
        });
    }

    /// One more of `value`; nothing when `value` was not declared.
    pub fn increment(&self, value: &str) {
        if let Some(cell) = self.cell(value) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many of `value` so far.
    pub fn value(&self, value: &str) -> u64 {
        self.cell(value).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    fn cell(&self, value: &str) -> Option<&AtomicU64> {
        let cells = self.cells.get()?;
        let at = cells.binary_search_by_key(&value, |(name, _)| name).ok()?;
        Some(&cells[at].1)
    }
}

/// A row of the table.
enum Row {
    Counter(&'static Counter),
    Gauge(&'static Gauge),
    Family(&'static Family),
}

/// Declares the statics and the table in one place, so that none can be missing from the text.
macro_rules! table {
    ($($(#[$doc:meta])* $ident:ident: $kind:ident = $name:literal, $help:literal $(, $label:literal)?;)+) => {
        $($(#[$doc])* #[doc = $help] pub static $ident: $kind = $kind::new($name, $help $(, $label)?);)+
        /// Every metric, in the order of the text.
        static TABLE: &[Row] = &[$(Row::$kind(&$ident)),+];
    };
}

table! {
    CONNECTIONS: Gauge = "openclaw_connections", "Sockets accepted and not yet closed";
    WEBSOCKETS: Gauge = "openclaw_websockets", "Sockets that finished their upgrade";
    CONNECTIONS_ACCEPTED: Counter = "openclaw_connections_accepted_total", "Sockets accepted";
    CONNECTIONS_REFUSED: Counter = "openclaw_connections_refused_total", "Sockets closed or answered 503 because a limit was reached";
    CONNECTIONS_EVICTED: Counter = "openclaw_connections_evicted_total", "Silent sockets closed to make room for new ones";
    ACCEPT_ERRORS: Counter = "openclaw_accept_errors_total", "Failures of accept, mostly for want of file descriptors";
    HANDSHAKE_TIMEOUTS: Counter = "openclaw_handshake_timeouts_total", "WebSockets closed because connect was not accepted in time";
    FRAMES_IN: Counter = "openclaw_frames_in_total", "WebSocket messages received";
    FRAMES_OUT: Counter = "openclaw_frames_out_total", "WebSocket messages queued";
    BYTES_IN: Counter = "openclaw_bytes_in_total", "Bytes read from sockets";
    BYTES_OUT: Counter = "openclaw_bytes_out_total", "Bytes written to sockets";
    OUT_QUEUED_BYTES: Gauge = "openclaw_out_queued_bytes", "Bytes waiting in outbound queues";
    PARTIAL_BYTES: Gauge = "openclaw_partial_bytes", "Bytes held of messages and requests that are not complete";
    EVENTS_DROPPED: Counter = "openclaw_events_dropped_total", "Events skipped for a slow consumer";
    SLOW_CONSUMERS: Counter = "openclaw_slow_consumers_total", "Connections closed because they did not read their events";
    PEER_VIOLATIONS: Counter = "openclaw_peer_violations_total", "Connections closed for breaking the WebSocket or HTTP protocol or a limit of ours";
    KEEPALIVE_LOST: Counter = "openclaw_keepalive_lost_total", "WebSockets ended because no pong came";
    HTTP_REQUESTS: Counter = "openclaw_http_requests_total", "HTTP requests read completely";
    HTTP_SHED: Counter = "openclaw_http_shed_total", "HTTP requests answered 503 because too many were waiting";
    HTTP_TIMEOUTS: Counter = "openclaw_http_timeouts_total", "HTTP requests that were not sent or not answered in time";
    CONTROL_REQUESTS: Counter = "openclaw_control_requests_total", "Requests on the control port";
    COMMANDS_RUNNING: Gauge = "openclaw_commands_running", "Commands of agents that run";
    COMMANDS_STARTED: Counter = "openclaw_commands_started_total", "Commands of agents that were started";
    COMMANDS_KILLED: Counter = "openclaw_commands_killed_total", "Commands of agents that had to be killed, because they did not end when they were told to";
    TURNS: Counter = "openclaw_loop_turns_total", "Turns of the loop";
    QUERY_DEPTH: Gauge = "openclaw_query_queue_depth", "Jobs waiting for a query thread";
    QUERY_ACTIVE: Gauge = "openclaw_query_active", "Jobs being worked on by query threads";
    RUN_DEPTH: Gauge = "openclaw_run_queue_depth", "Runs waiting for a thread";
    RUN_ACTIVE: Gauge = "openclaw_run_active", "Agents at work";
    DEFEND_ACTIVE: Gauge = "openclaw_defend_active", "Messages being judged";
    DEFEND_DEPTH: Gauge = "openclaw_defend_queue_depth", "Jobs waiting for a defend thread";
    STORE_DEPTH: Gauge = "openclaw_store_queue_depth", "Jobs waiting for the store thread";
    REPORT_DEPTH: Gauge = "openclaw_report_queue_depth", "Reports waiting for the loop";
    JOBS_SHED: Counter = "openclaw_jobs_shed_total", "Jobs refused because their queue was full";
    PANICS: Counter = "openclaw_panics_total", "Jobs that panicked";
    LOG_LINES_DROPPED: Counter = "openclaw_log_lines_dropped_total", "Log lines lost because the log thread did not keep up";
    LOG_LINES_LIMITED: Counter = "openclaw_log_lines_limited_total", "Log lines left out by a rate limit";
    DECISIONS: Family = "openclaw_decisions_total", "Decisions of the defender by action", "action";
    RPC_REQUESTS: Family = "openclaw_rpc_requests_total", "Requests by method", "method";
    RPC_ERRORS: Counter = "openclaw_rpc_errors_total", "Requests answered with an error";
    RESIDENT_BYTES: Gauge = "openclaw_resident_memory_bytes", "Resident memory when it was last sampled";
    START_TIME: Gauge = "openclaw_start_time_seconds", "When the process started, in seconds since 1970";
}

/// A metric as the reference page shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// `counter` or `gauge`, as Prometheus calls it.
    pub kind: &'static str,
    /// The label that tells its values apart.
    pub label: Option<&'static str>,
    /// What is measured.
    pub help: &'static str,
}

/// Every metric, in the order of the text.
pub fn described() -> impl Iterator<Item = Described> {
    TABLE.iter().map(|row| match row {
        Row::Counter(c) => Described { name: c.name, kind: "counter", label: None, help: c.help },
        Row::Gauge(g) => Described { name: g.name, kind: "gauge", label: None, help: g.help },
        Row::Family(f) => Described { name: f.name, kind: "counter", label: Some(f.label), help: f.help },
    })
}

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every metric in the Prometheus text format, version 0.0.4. A family nobody declared is left out.
pub fn text() -> String {
    let mut out = String::with_capacity(8 * 1024);
    for row in TABLE {
        // Writing into a String cannot fail.
        let _ = match row {
            Row::Counter(c) => single(&mut out, c.name, c.help, "counter", &c.value()),
            Row::Gauge(g) => single(&mut out, g.name, g.help, "gauge", &g.value()),
            Row::Family(f) => family(&mut out, f),
        };
    }
    out
}

fn single(out: &mut String, name: &str, help: &str, kind: &str, value: &dyn std::fmt::Display) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")
}

fn family(out: &mut String, family: &Family) -> std::fmt::Result {
    let Some(cells) = family.cells.get() else { return Ok(()) };
    let (name, label) = (family.name, family.label);
    writeln!(out, "# HELP {name} {}\n# TYPE {name} counter", family.help)?;
    for (value, cell) in cells {
        writeln!(out, "{name}{{{label}=\"{value}\"}} {}", cell.load(Ordering::Relaxed))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_as_their_kind_says() {
        let mut names: Vec<&str> = Vec::new();
        for row in TABLE {
            let (name, counts) = match row {
                Row::Counter(c) => (c.name, true),
                Row::Gauge(g) => (g.name, false),
                Row::Family(f) => (f.name, true),
            };
            assert_eq!(name.ends_with("_total"), counts, "{name}");
            assert!(name.starts_with("openclaw_"), "{name}");
            names.push(name);
        }
        assert!(names.len() > 20);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn a_family_counts_only_what_was_declared() {
        static FAMILY: Family = Family::new("openclaw_test_total", "A test", "kind");
        FAMILY.increment("a");
        FAMILY.declare(["b", "a"]);
        FAMILY.increment("a");
        FAMILY.increment("stranger");
        assert_eq!((FAMILY.value("a"), FAMILY.value("b"), FAMILY.value("stranger")), (1, 0, 0));
        let mut out = String::new();
        family(&mut out, &FAMILY).unwrap();
        assert!(out.contains("openclaw_test_total{kind=\"a\"} 1\n"), "{out}");
    }

    #[test]
    fn the_text_has_a_value_line_for_each_metric() {
        PANICS.add(0);
        let text = text();
        assert!(text.contains("# TYPE openclaw_panics_total counter\nopenclaw_panics_total "), "{text}");
        assert!(text.ends_with('\n'));
    }
}
