//! Killing the process in the middle of its writes, again and again: what was reported is there, and nothing is
//! there twice (REL-15, REL-20).
//!
//! The victim is this very test executable, started again to run [`writes_until_killed`] alone. It prints a number
//! for each message whose report it got, and is killed while it does.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::StoreError;
use super::db::Db;
use super::decisions::NewDecision;
use super::decisions::tests::decision;
use super::dir::StateDir;
use super::inbox::{Accepted, InboxState, NewInbound};
use super::open::tests::reopen;
use super::sessions::SessionRow;
use super::transcript::NewMessage;
use super::writer::{WriteJob, Writer};
use crate::runtime::random;

/// Tells the victim where to write.
const DIR_VARIABLE: &str = "OPENCLAW_RS_TEST_CRASH_DIR";
/// Tells the victim which message to begin with.
const FIRST_VARIABLE: &str = "OPENCLAW_RS_TEST_CRASH_FIRST";
/// How often it is killed.
const N_ROUNDS: usize = 12;
/// Messages that a new victim sends once more: all that could have been on their way, and some that were reported.
const N_REPEATED: u64 = 400;
const KEY: &str = "agent:main:main";

/// Accepts a message as the gateway does: everything it leads to, in one job.
fn accept(db: &Db<'_>, n: u64) -> Result<(), StoreError> {
    let id = n.to_string();
    if db.session(KEY)?.is_none() {
        db.session_put(&SessionRow::new(KEY, "main", "s", "direct", 1))?;
    }
    // Mostly short, sometimes long enough to need pages of its own, so that the log is folded back now and then.
    let text = "x".repeat(if n.is_multiple_of(10) { 9000 } else { 100 });
    let inbound =
        NewInbound { source: "chat.send", dedupe_key: &id, session_key: KEY, body: &text, received_ms: n as i64 };
    if let Accepted::New(inbox_id) = db.inbox_accept(&inbound)? {
        let new = NewMessage {
            session_id: "s",
            message_id: &id,
            parent_id: None,
            role: "user",
            idempotency_key: Some(&id),
            at_ms: n as i64,
            message: &text,
        };
        db.transcript_append(&new)?;
        db.decision_record(&NewDecision { session_key: Some(KEY.to_owned()), ..decision() })?;
        db.inbox_set_state(inbox_id, InboxState::Done, None)?;
    }
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own, which acknowledged_writes_survive_kill starts and kills"]
fn writes_until_killed() {
    let dir = StateDir::open(std::env::var_os(DIR_VARIABLE).expect("the killer says where")).unwrap();
    let first: u64 = std::env::var(FIRST_VARIABLE).unwrap().parse().unwrap();
    let _lock = dir.lock().unwrap();
    let say = |report: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{report}").and_then(|()| out.flush()).unwrap();
    };
    let writer = Writer::start(reopen(&dir), say).unwrap();
    for n in first.. {
        let run = move |db: &Db<'_>| Ok(accept(db, n).map(|()| format!("done {n}"))?);
        let job = WriteJob::new(run, move |error| format!("failed {n}: {error}"));
        writer.handle().submit(job, Duration::from_secs(30)).unwrap();
    }
}

fn start_victim(dir: &StateDir, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["store::crash::writes_until_killed", "--exact", "--ignored", "--nocapture"])
        .env(DIR_VARIABLE, dir.path())
        .env(FIRST_VARIABLE, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets a victim write, kills it after `n_before` reports, and returns every message that was reported until the end.
fn kill_one(dir: &StateDir, first: u64, n_before: usize) -> Vec<u64> {
    let mut victim = start_victim(dir, first);
    let mut reported = Vec::new();
    let mut out = BufReader::new(victim.stdout.take().unwrap());
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        assert!(!line.starts_with("failed"), "{line}");
        // A line that the kill cut short was not acknowledged to anybody.
        if let Some(n) = line.strip_prefix("done ").and_then(|rest| rest.strip_suffix('\n')) {
            reported.push(n.parse().unwrap());
            if reported.len() == n_before {
                victim.kill().unwrap();
            }
        }
        line.clear();
    }
    victim.wait().unwrap();
    reported
}

#[test]
fn acknowledged_writes_survive_kill() {
    let temp = TempDir::new().unwrap();
    let dir = StateDir::open(temp.path()).unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..N_ROUNDS {
        let first = acknowledged.last().map_or(0, |last: &u64| last.saturating_sub(N_REPEATED));
        let n_before = 1 + usize::from(u16::from_le_bytes(random::bytes::<2>()) % 700);
        let reported = kill_one(&dir, first, n_before);
        let context = format!("round {round}, killed after {n_before} reports");
        assert!(reported.len() >= n_before, "{context}");
        assert!(reported.is_sorted(), "{context}: reports are in the order of the jobs");
        acknowledged.extend(reported);

        let _lock = dir.lock().expect("the lock went with the process");
        let database = reopen(&dir);
        let sound: String = database.conn().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok", "{context}");

        let stored = |sql: &str| {
            let mut statement = database.conn().prepare(sql).unwrap();
            let numbers = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
            numbers.map(|n| n.unwrap().parse::<u64>().unwrap()).collect::<Vec<_>>()
        };
        let messages = stored("SELECT message_id FROM transcript ORDER BY seq");
        let distinct: BTreeSet<u64> = messages.iter().copied().collect();
        assert_eq!(distinct.len(), messages.len(), "{context}: a message is there twice");
        let lost: Vec<_> = acknowledged.difference(&distinct).collect();
        assert_eq!(lost, [&0; 0], "{context}: acknowledged and not there");

        // Everything a message leads to came with it, once.
        let session = database.session(KEY).unwrap().unwrap();
        let state = database.session_state(KEY).unwrap().unwrap();
        assert_eq!(session.message_count, messages.len() as u64, "{context}");
        assert_eq!(state.total, messages.len() as u64, "{context}");
        assert_eq!(stored("SELECT dedupe_key FROM inbox ORDER BY id"), messages, "{context}");
        assert_eq!(database.inbox_open_count().unwrap(), 0, "{context}");
    }
}
