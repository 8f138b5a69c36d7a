//! What is printed and written: the table, the verdicts on the limits, the JSON.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::latency::Latency;
use crate::process::Memory;
use crate::samples::Samples;
use crate::turns::{self, TurnLoad, Turns};
use crate::{Load, Measured, Result};

/// The limits of the design: what is looked at, the most (or least) it may be, and how to get it from the measures.
const LIMITS: [Limit; 10] = [
    Limit { name: "binary", unit: "MB", bound: Bound::AtMost(8.0), value: |m| m.program_bytes.map(|b| b as f64 / 1e6) },
    Limit {
        name: "start to first accepted connect, median",
        unit: "ms",
        bound: Bound::AtMost(10.0),
        value: |m| Some(m.start_warm_ms.median()),
    },
    Limit {
        name: "resident memory, idle",
        unit: "MB",
        bound: Bound::AtMost(6.0),
        value: |m| Some(m.idle.resident_kib as f64 * 1024.0 / 1e6),
    },
    Limit {
        name: "own memory for each idle client",
        unit: "KiB",
        bound: Bound::AtMost(12.0),
        value: |m| Some(per_client_kib(m)),
    },
    Limit {
        name: "health round trip over bare echo, medians",
        unit: "times",
        bound: Bound::AtMost(1.5),
        value: |m| Some(m.latency("health")?.ratio.median()),
    },
    Limit {
        name: "health, 16 clients pipelined",
        unit: "/s",
        bound: Bound::AtLeast(60_000.0),
        value: |m| Some(m.load("health")?.gateway_per_s.median()),
    },
    Limit {
        name: "whole turn, 1 session, median",
        unit: "ms",
        bound: Bound::AtMost(2.0),
        value: |m| Some(m.turns.as_ref()?.load(1)?.ms.median()),
    },
    Limit {
        name: "whole turns, 8 sessions",
        unit: "/s",
        bound: Bound::AtLeast(500.0),
        value: |m| Some(m.turns.as_ref()?.load(8)?.per_s),
    },
    Limit {
        name: "8 streaming runs above idle, own memory",
        unit: "MiB",
        bound: Bound::AtMost(6.0),
        value: |m| Some(m.turns.as_ref()?.streaming_mib()),
    },
    Limit {
        name: "growth in the later turns, own memory",
        unit: "MiB",
        bound: Bound::AtMost(GROWTH_MIB_MAX),
        value: |m| Some(m.turns.as_ref()?.growth_mib()),
    },
];

/// What counts as flat between a quarter and all of many turns, in MiB: the allocator's share of chance.
const GROWTH_MIB_MAX: f64 = 2.0;

/// The methods in the table, in its order.
const METHODS: [&str; 2] = ["health", "sessions.list"];

const MIB: f64 = 1024.0 * 1024.0;
/// Column widths of the table, in characters.
const NAME_WIDTH: usize = 46;
const VALUE_WIDTH: usize = 30;

struct Limit {
    name: &'static str,
    unit: &'static str,
    bound: Bound,
    value: fn(&Measured) -> Option<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A limit held against a measure.
pub struct Verdict {
    pub name: &'static str,
    pub value: String,
    pub bound: String,
    pub holds: bool,
}

/// Compares a target with the limits. What could not be measured does not hold.
pub fn verdicts(measured: &Measured) -> Vec<Verdict> {
    LIMITS.iter().map(|limit| limit.verdict(measured)).collect()
}

impl Limit {
    fn verdict(&self, measured: &Measured) -> Verdict {
        let value = (self.value)(measured);
        let (bound, holds) = match self.bound {
            Bound::AtMost(most) => (format!("at most {}", number(most)), value.is_some_and(|value| value <= most)),
            Bound::AtLeast(least) => (format!("at least {}", number(least)), value.is_some_and(|value| value >= least)),
        };
        let value = value.map_or("not measured".to_owned(), |value| format!("{} {}", number(value), self.unit));
        Verdict { name: self.name, value, bound, holds }
    }
}

/// One line for each limit, beginning with PASS or FAIL.
pub fn verdict_lines(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        let word = if verdict.holds { "PASS" } else { "FAIL" };
        let _ = writeln!(text, "{word}  {:<NAME_WIDTH$}{:>16}  ({})", verdict.name, verdict.value, verdict.bound);
    }
    text
}

/// Where and when: processor, cores, memory, kernel, date, and the label given on the command line.
pub fn machine(label: &str) -> Result<Value> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let memory_kib: Option<u64> = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(json!({
        "date": String::from_utf8(date.stdout)?.trim(),
        "cpu": model.map(|(_, name)| name),
        "cores": std::thread::available_parallelism()?.get(),
        "memory_mib": memory_kib.map(|kib| kib / 1024),
        "kernel": kernel.trim(),
        "load_average": load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        "label": label,
    }))
}

/// The measures side by side.
pub fn table(machine: &Value, measured: &[Measured]) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\n{}, {} cores, {} MiB, Linux {}, load {}, {} {}\n",
        text("cpu"),
        machine["cores"],
        machine["memory_mib"],
        text("kernel"),
        text("load_average"),
        text("date"),
        text("label"),
    );
    let mut row = |name: &str, value: &dyn Fn(&Measured) -> String| {
        let _ = write!(out, "{name:<NAME_WIDTH$}");
        for one in measured {
            let _ = write!(out, "{:>VALUE_WIDTH$}", value(one));
        }
        out.push('\n');
    };
    row("", &|m| m.name.clone());
    row("program file", &|m| m.program_bytes.map_or("-".to_owned(), |b| format!("{} MiB", number(b as f64 / MIB))));
    row("start to accepted connect, new state", &|m| ms(&m.start_fresh_ms));
    row("start to accepted connect, warm state", &|m| ms(&m.start_warm_ms));
    row("SIGTERM to end", &|m| ms(&m.stop_ms));
    row("resident, idle", &|m| memory(&m.idle));
    row(&format!("resident, {} idle clients", measured[0].n_idle_clients), &|m| memory(&m.crowd));
    row("  own, for each client", &|m| format!("{} KiB", number(per_client_kib(m))));
    row("  bare echo's own, for each client", &|m| format!("{} KiB", number(m.echo_kib_per_client)));
    row("resident, clients gone", &|m| memory(&m.after_crowd));
    row("resident, after the load below", &|m| memory(&m.after_load));
    row("threads", &|m| m.idle.n_threads.to_string());
    row("sessions listed", &|m| known(m.n_sessions, |n| n.to_string()));
    for method in METHODS {
        let latency = |m: &Measured, say: &dyn Fn(&Latency) -> String| known(m.latency(method), say);
        row(&format!("{method}: bytes asked, answered"), &|m| {
            latency(m, &|l| format!("{}, {}", l.request_bytes, l.answer_bytes))
        });
        row(&format!("{method}, 1 client: median / p99"), &|m| latency(m, &|l| us(&l.gateway_us)));
        row("  bare echo, same sizes", &|m| latency(m, &|l| us(&l.echo_us)));
        row("  times the echo's median", &|m| latency(m, &|l| number(l.ratio.median())));
        let load = |m: &Measured, say: &dyn Fn(&Load) -> String| known(m.load(method), say);
        row(&format!("{method}, 16 clients of depth 12"), &|m| load(m, &|l| rate(&l.gateway_per_s)));
        row("  bare echo, same sizes", &|m| load(m, &|l| rate(&l.echo_per_s)));
        row("  processor time: gateway, echo", &|m| {
            load(m, &|l| format!("{}, {} µs", number(l.gateway_cpu_us.median()), number(l.echo_cpu_us.median())))
        });
        row("  driver's share of one core", &|m| load(m, &|l| number(l.driver_share.median())));
    }
    let turns = |m: &Measured, say: &dyn Fn(&Turns) -> String| known(m.turns.as_ref(), say);
    for n_sessions in turns::SESSIONS {
        let load = |m: &Measured, say: &dyn Fn(&TurnLoad) -> String| {
            known(m.turns.as_ref().and_then(|turns| turns.load(n_sessions)), say)
        };
        row(&format!("whole turns, {n_sessions} sessions: median / p99"), &|m| {
            load(m, &|l| format!("{} / {} ms", number(l.ms.median()), number(l.ms.p99())))
        });
        row("  turns a second, processor time each", &|m| {
            load(m, &|l| format!("{}/s, {} ms", number(l.per_s), number(l.cpu_ms)))
        });
    }
    row("first word of an answer: median / p99", &|m| {
        turns(m, &|t| format!("{} / {} ms", number(t.first_word_ms.median()), number(t.first_word_ms.p99())))
    });
    row("resident, model configured, idle", &|m| turns(m, &|t| memory(&t.idle)));
    row(&format!("resident, {} streaming runs", turns::STREAMS), &|m| turns(m, &|t| memory(&t.streaming)));
    row("resident, after a quarter of many turns", &|m| turns(m, &|t| format!("{}, {}", memory(&t.early), t.n_early)));
    row("resident, after many turns", &|m| turns(m, &|t| format!("{}, {}", memory(&t.late), t.n_late)));
    out.push('\n');
    out
}

/// Everything, for machines.
pub fn json(machine: &Value, measured: &[Measured], verdicts: &[Verdict]) -> String {
    let value = json!({
        "machine": machine,
        "targets": measured.iter().map(target_json).collect::<Vec<_>>(),
        "limits": verdicts.iter().map(|v| json!({
            "name": v.name, "value": v.value, "bound": v.bound, "holds": v.holds,
        })).collect::<Vec<_>>(),
    });
    format!("{value:#}\n")
}

fn target_json(m: &Measured) -> Value {
    json!({
        "name": m.name,
        "command": m.command,
        "program_bytes": m.program_bytes,
        "start_fresh_ms": m.start_fresh_ms.to_json(),
        "start_warm_ms": m.start_warm_ms.to_json(),
        "stop_ms": m.stop_ms.to_json(),
        "memory_idle": memory_json(&m.idle),
        "memory_idle_clients": memory_json(&m.crowd),
        "idle_clients": m.n_idle_clients,
        "kib_per_idle_client": per_client_kib(m),
        "echo_kib_per_idle_client": m.echo_kib_per_client,
        "memory_clients_gone": memory_json(&m.after_crowd),
        "memory_after_load": memory_json(&m.after_load),
        "sessions_listed": m.n_sessions,
        "latency": m.latencies.iter().map(|l| json!({
            "method": l.method,
            "request_bytes": l.request_bytes,
            "answer_bytes": l.answer_bytes,
            "gateway_us": l.gateway_us.to_json(),
            "echo_us": l.echo_us.to_json(),
            "ratio": l.ratio.to_json(),
        })).collect::<Vec<_>>(),
        "load": m.loads.iter().map(|l| json!({
            "method": l.method,
            "gateway_per_s": l.gateway_per_s.to_json(),
            "echo_per_s": l.echo_per_s.to_json(),
            "gateway_cpu_us_per_request": l.gateway_cpu_us.to_json(),
            "echo_cpu_us_per_request": l.echo_cpu_us.to_json(),
            "driver_share_of_a_core": l.driver_share.to_json(),
        })).collect::<Vec<_>>(),
        "turns": m.turns.as_ref().map(|t| json!({
            "loads": t.loads.iter().map(|l| json!({
                "sessions": l.n_sessions,
                "ms": l.ms.to_json(),
                "per_s": l.per_s,
                "gateway_cpu_ms_per_turn": l.cpu_ms,
            })).collect::<Vec<_>>(),
            "first_word_ms": t.first_word_ms.to_json(),
            "memory_idle": memory_json(&t.idle),
            "memory_streaming": memory_json(&t.streaming),
            "memory_early": memory_json(&t.early),
            "memory_late": memory_json(&t.late),
            "turns_before_early": t.n_early,
            "turns_before_late": t.n_late,
        })),
    })
}

/// A value, or a word for a gateway that has no such method.
fn known<T>(value: Option<T>, say: impl FnOnce(T) -> String) -> String {
    value.map_or("no such method".to_owned(), say)
}

fn memory_json(memory: &Memory) -> Value {
    json!({
        "resident_kib": memory.resident_kib, "anonymous_kib": memory.anonymous_kib, "file_kib": memory.file_kib,
        "threads": memory.n_threads, "processes": memory.n_processes,
    })
}

/// Own memory: pages of the program's file come and go with what is done and say nothing of a client.
fn per_client_kib(m: &Measured) -> f64 {
    m.crowd.anonymous_kib.saturating_sub(m.idle.anonymous_kib) as f64 / m.n_idle_clients as f64
}

fn memory(memory: &Memory) -> String {
    let mib = |kib: u64| number(kib as f64 / 1024.0);
    format!("{} MiB ({} own)", mib(memory.resident_kib), mib(memory.anonymous_kib))
}

fn ms(samples: &Samples) -> String {
    format!("{} ms ({} to {})", number(samples.median()), number(samples.min()), number(samples.max()))
}

fn us(samples: &Samples) -> String {
    format!("{} / {} µs", number(samples.median()), number(samples.p99()))
}

fn rate(samples: &Samples) -> String {
    format!("{}/s ({} to {})", number(samples.median()), number(samples.min()), number(samples.max()))
}

/// Three significant digits, thousands unshortened.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
