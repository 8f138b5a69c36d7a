//! The store, as the daemon meets it.
//!
//! - `open`: from an empty directory and from a directory in use, to a database with its live state loaded; part of
//!   the 10 ms that a start may take. Printed with the resident memory that the writing and reading connections add.
//! - `accept`: a message from the queue to its report, alone (the latency a client sees) and with 200 waiting (what
//!   one commit for many is worth). Each is an inbox row, a transcript row and a decision, as `chat.send` writes them.
//! - `session_list`: 200 of 5,000 sessions, plain and narrowed by a search that reads them all.
//! - `transcript_page`: the newest 200 of 10,000 messages of about 300 bytes.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use crossbeam_channel::{Receiver, unbounded};
use openclaw_rs::store::StoreError;
use openclaw_rs::store::db::Db;
use openclaw_rs::store::decisions::{Action, NewDecision};
use openclaw_rs::store::dir::StateDir;
use openclaw_rs::store::inbox::{InboxState, NewInbound};
use openclaw_rs::store::open::{Database, OnDamage};
use openclaw_rs::store::reader::Reader;
use openclaw_rs::store::sessions::{SessionFilter, SessionRow};
use openclaw_rs::store::transcript::{NewMessage, PageAt, PageLimits};
use openclaw_rs::store::writer::{WriteJob, Writer};
use tempfile::TempDir;

const N_SESSIONS: usize = 5000;
const N_MESSAGES: usize = 10_000;
const N_OPENED: usize = 50;
const KEY: &str = "agent:main:main";

fn open(dir: &StateDir) -> Database {
    let database = Database::open(dir, 0, OnDamage::Fail).unwrap().database;
    black_box(database.devices_load(0).unwrap());
    black_box(database.idempotency_all(0).unwrap());
    database
}

fn message<'a>(session_id: &'a str, id: &'a str, text: &'a str) -> NewMessage<'a> {
    NewMessage {
        session_id,
        message_id: id,
        parent_id: None,
        role: "user",
        idempotency_key: Some(id),
        at_ms: 1,
        message: text,
    }
}

/// What accepting a message writes.
fn accept(db: &Db<'_>, n: u64) -> Result<(), StoreError> {
    let id = n.to_string();
    let inbound = NewInbound {
        source: "chat.send",
        dedupe_key: &id,
        session_key: KEY,
        body: r#"{"text":"good morning"}"#,
        received_ms: 1,
    };
    db.inbox_accept(&inbound)?;
    db.transcript_append(&message("id-main", &id, r#"{"role":"user","content":"good morning","timestamp":1}"#))?;
    let decision = NewDecision {
        at_ms: 1,
        request_id: id,
        session_key: Some(KEY.to_owned()),
        source: String::from("chat.send"),
        channel: None,
        tool: None,
        action: Action::Allow,
        score: 0,
        reasons: Vec::new(),
        tags: Vec::new(),
        preview: String::from("good morning"),
    };
    db.decision_record(&decision)?;
    db.inbox_set_state(n as i64, InboxState::Done, None)?;
    Ok(())
}

/// Sessions and one long transcript.
fn fill(database: &mut Database) {
    database
        .write(|db| {
            db.session_put(&SessionRow::new(KEY, "main", "id-main", "direct", 1))?;
            for n in 1..N_SESSIONS {
                let mut session =
                    SessionRow::new(format!("agent:main:s{n}"), "main", format!("id-{n}"), "direct", n as i64);
                session.entry.insert(String::from("displayName"), format!("Session number {n}").into());
                session.entry.insert(String::from("thinkingLevel"), "low".into());
                db.session_put(&session)?;
            }
            let text = format!(r#"{{"role":"user","content":"{}"}}"#, "good morning ".repeat(20));
            for n in 0..N_MESSAGES {
                db.transcript_append(&message("id-1", &n.to_string(), &text))?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

/// Resident memory of this process in KiB: of its own, and pages of files (mostly this executable's code).
fn resident_kib() -> [i64; 2] {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    ["RssAnon:", "RssFile:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    })
}

/// Opening is measured by hand: each time needs another directory, and the first time in a process is what a start pays.
fn measure_opening(temp: &TempDir) {
    let before_kib = resident_kib();
    let started = Instant::now();
    let dir = StateDir::open(temp.path().join("first")).unwrap();
    let database = open(&dir);
    let first = started.elapsed();
    let opened_kib = resident_kib();
    let (sender, reports) = unbounded();
    let writer = Writer::start(database, move |n| sender.send(n).unwrap()).unwrap();
    writer.handle().try_submit(accept_job(0)).unwrap();
    reports.recv().unwrap();
    let first_report = started.elapsed();
    let wrote_kib = resident_kib();
    let reader = Reader::open(writer.path()).unwrap();
    reader.session_list(&SessionFilter::default(), 0, 200).unwrap();
    let read_kib = resident_kib();
    writer.stop(Duration::from_secs(5)).unwrap();
    println!("first open in the process, fresh directory: {first:?}; first report {first_report:?} after the start");
    let steps = [
        ("open", before_kib, opened_kib),
        ("thread and first write", opened_kib, wrote_kib),
        ("a reader", wrote_kib, read_kib),
    ];
    for (step, before, after) in steps {
        println!("resident, {step}: +{} KiB own, +{} KiB of files", after[0] - before[0], after[1] - before[1]);
    }

    let timed = |dir: &dyn Fn(usize) -> std::path::PathBuf| {
        let mut times: Vec<Duration> = (0..N_OPENED)
            .map(|n| {
                let started = Instant::now();
                drop(black_box(open(&StateDir::open(dir(n)).unwrap())));
                started.elapsed()
            })
            .collect();
        times.sort();
        format!("median {:?}, worst {:?} of {N_OPENED}", times[N_OPENED / 2], times[N_OPENED - 1])
    };
    println!("open, fresh directory: {}", timed(&|n| temp.path().join(n.to_string())));
    let full = StateDir::open(temp.path().join("full")).unwrap();
    fill(&mut open(&full));
    println!("open, {N_SESSIONS} sessions: {}", timed(&|_| full.path().to_owned()));
}

fn accept_job(n: u64) -> WriteJob<u64> {
    WriteJob::new(move |db| Ok(accept(db, n).map(|()| n)?), |error| panic!("{error}"))
}

/// Submits `n_jobs` messages, numbered from `next` on, and waits for their reports.
fn accept_many(writer: &Writer<u64>, reports: &Receiver<u64>, next: &mut u64, n_jobs: u64) {
    let handle = writer.handle();
    for n in *next..*next + n_jobs {
        handle.try_submit(accept_job(n)).unwrap();
    }
    for n in *next..*next + n_jobs {
        assert_eq!(reports.recv().unwrap(), n);
    }
    *next += n_jobs;
}

fn bench_accept(criterion: &mut Criterion, temp: &TempDir) {
    let dir = StateDir::open(temp.path().join("accept")).unwrap();
    let mut database = open(&dir);
    database.write(|db| db.session_put(&SessionRow::new(KEY, "main", "id-main", "direct", 1))).unwrap();
    let (sender, reports) = unbounded();
    let writer = Writer::start(database, move |n| sender.send(n).unwrap()).unwrap();
    let mut next = 1;
    let mut group = criterion.benchmark_group("accept");
    for n_jobs in [1, 200] {
        group.throughput(Throughput::Elements(n_jobs));
        group.bench_function(format!("{n_jobs} at once"), |bencher| {
            bencher.iter(|| accept_many(&writer, &reports, &mut next, n_jobs));
        });
    }
    group.finish();
    let counts = writer.stop(Duration::from_secs(5)).unwrap();
    println!("accept: {} jobs in {} transactions, {} checkpoints", counts.done, counts.groups, counts.checkpoints);
}

fn bench_reads(criterion: &mut Criterion, temp: &TempDir) {
    let reader = Reader::open(&temp.path().join("full/state.db")).unwrap();
    let search = SessionFilter { search: Some(String::from("number 4")), ..SessionFilter::default() };
    let limits = PageLimits { rows_max: 200, page_bytes_max: 6 * 1024 * 1024, message_bytes_max: 128 * 1024 };
    assert_eq!(reader.session_list(&SessionFilter::default(), 0, 200).unwrap().sessions.len(), 200);
    assert_eq!(reader.session_count(&search).unwrap(), 1111);
    assert_eq!(reader.transcript_page("id-1", PageAt::Newest, limits).unwrap().messages.len(), 200);

    criterion.bench_function("session_list/200 of 5000", |bencher| {
        bencher.iter(|| reader.session_list(&SessionFilter::default(), 0, 200).unwrap());
    });
    criterion.bench_function("session_list/search that counts all", |bencher| {
        bencher.iter(|| reader.session_count(&search).unwrap());
    });
    criterion.bench_function("session/by key", |bencher| bencher.iter(|| reader.session(KEY).unwrap().unwrap()));
    criterion.bench_function("transcript_page/newest 200 of 10000", |bencher| {
        bencher.iter(|| reader.transcript_page("id-1", PageAt::Newest, limits).unwrap());
    });
}

fn main() {
    let temp = TempDir::new().unwrap();
    measure_opening(&temp);
    let mut criterion = Criterion::default().configure_from_args();
    bench_accept(&mut criterion, &temp);
    bench_reads(&mut criterion, &temp);
    criterion.final_summary();
}
