use std::fs;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::super::open::tests::{StateDirInTemp, reopen, scratch};
use super::super::reader::Reader;
use super::*;

/// Far more than any of these tests needs; only a defect reaches it.
const LONG: Duration = Duration::from_secs(30);

/// A writer whose groups are not cut by time, and what it reported.
struct Bench {
    dir: StateDirInTemp,
    writer: Writer<String>,
    reports: Receiver<String>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| {})
    }

    fn with(prepare: impl FnOnce(&Connection)) -> Bench {
        let (dir, database) = scratch();
        prepare(database.conn());
        let (sender, reports) = unbounded();
        let writer = Writer::start_with(database, LONG, move |report| sender.send(report).unwrap()).unwrap();
        Bench { dir, writer, reports }
    }

    fn submit(&self, job: WriteJob<String>) {
        self.writer.handle().try_submit(job).unwrap();
    }

    /// Holds the thread inside a job until the sender is dropped; what is submitted meanwhile becomes one group.
    fn hold(&self) -> Sender<()> {
        let (held, release) = bounded::<()>(0);
        let (started, has_started) = bounded(1);
        let job = move |_: &Db<'_>| {
            started.send(()).unwrap();
            release.recv().ok();
            Ok(String::from("held"))
        };
        self.submit(WriteJob::new(job, |error| error.to_string()));
        has_started.recv_timeout(LONG).unwrap();
        held
    }

    #[track_caller]
    fn expect(&self, expected: &str) {
        assert_eq!(self.reports.recv_timeout(LONG).unwrap(), expected);
    }

    /// Stops the writer and opens what it left.
    fn stopped(self) -> (StateDirInTemp, Database) {
        self.writer.stop(LONG).unwrap();
        let database = reopen(&self.dir);
        (self.dir, database)
    }
}

/// Writes `key` and reports it.
fn put(key: &str) -> WriteJob<String> {
    put_value(key, "1".to_owned())
}

fn put_value(key: &str, value: String) -> WriteJob<String> {
    let (key, failing) = (key.to_owned(), format!("{key} failed: "));
    WriteJob::new(
        move |db| {
            db.meta_put(&key, &value, 0)?;
            Ok(key)
        },
        move |error| failing + &error.to_string(),
    )
}

#[test]
fn a_report_goes_out_when_its_change_is_committed() {
    let (_dir, database) = scratch();
    let reader = Reader::open(database.path()).unwrap();
    let (sender, reports) = unbounded();
    let sink = move |key: String| sender.send((reader.meta(&key).unwrap(), key)).unwrap();
    let writer = Writer::start(database, sink).unwrap();
    for n in 0..100 {
        writer.handle().submit(put(&n.to_string()), LONG).unwrap();
    }
    for n in 0..100 {
        let (seen_by_others, key) = reports.recv_timeout(LONG).unwrap();
        assert_eq!((seen_by_others.as_deref(), key), (Some("1"), n.to_string()));
    }
    assert_eq!(writer.stop(LONG).unwrap().done, 100);
}

#[test]
fn what_waits_together_shares_a_transaction_up_to_the_bound() {
    let bench = Bench::new();
    let held = bench.hold();
    for n in 1..GROUP_JOBS_MAX + 5 {
        bench.submit(put(&n.to_string()));
    }
    assert_eq!(bench.writer.handle().depth(), GROUP_JOBS_MAX + 4);
    drop(held);
    bench.expect("held");
    for n in 1..GROUP_JOBS_MAX + 5 {
        bench.expect(&n.to_string());
    }
    let counts = bench.writer.stop(LONG).unwrap();
    assert_eq!((counts.done, counts.groups), (GROUP_JOBS_MAX as u64 + 5, 2));
}

#[test]
fn a_group_takes_no_more_when_its_time_is_up() {
    let (_dir, database) = scratch();
    let (sender, reports) = unbounded();
    let writer = Writer::start_with(database, Duration::ZERO, move |report| sender.send(report).unwrap()).unwrap();
    for n in 0..10 {
        writer.handle().try_submit(put(&n.to_string())).unwrap();
    }
    let counts = writer.stop(LONG).unwrap();
    assert_eq!((counts.done, counts.groups, reports.len()), (10, 10, 10));
}

#[test]
fn a_failing_job_undoes_its_own_writes_and_nobody_elses() {
    let bench = Bench::new();
    let held = bench.hold();
    bench.submit(put("before"));
    bench.submit(WriteJob::new(
        |db| {
            db.meta_put("half", "1", 0)?;
            db.meta_put("before", "spoiled", 0)?;
            Err(Undo::Failed(StoreError::Busy))
        },
        |error| format!("failed: {error}"),
    ));
    bench.submit(WriteJob::new(
        |db| {
            db.meta_put("refused", "1", 0)?;
            Err(Undo::Refused(String::from("no such session")))
        },
        |error| error.to_string(),
    ));
    bench.submit(put("after"));
    drop(held);
    for report in ["held", "before", "failed: the database is busy in another process", "no such session", "after"] {
        bench.expect(report);
    }
    let (_dir, database) = bench.stopped();
    assert_eq!(database.meta("before").unwrap().as_deref(), Some("1"));
    assert_eq!(database.meta("after").unwrap().as_deref(), Some("1"));
    assert_eq!((database.meta("half").unwrap(), database.meta("refused").unwrap()), (None, None));
}

#[test]
fn a_panicking_job_is_reported_and_the_thread_lives() {
    let bench = Bench::new();
    bench.submit(WriteJob::new(
        |db| {
            db.meta_put("half", "1", 0)?;
            panic!("number {}", 7)
        },
        |error| error.to_string(),
    ));
    bench.expect("a store job panicked: number 7");
    bench.submit(WriteJob::new(|_| panic!("again"), |_| panic!("and again")));
    bench.submit(put("after"));
    bench.expect("after");
    let counts = bench.writer.handle().stats().counts();
    assert_eq!((counts.done, counts.failed, counts.panicked, counts.groups_failing), (1, 2, 2, 0));
    let (_dir, database) = bench.stopped();
    assert_eq!(database.meta("half").unwrap(), None);
}

#[test]
fn a_panicking_receiver_does_not_stop_the_thread() {
    let (_dir, database) = scratch();
    let (sender, reports) = unbounded();
    let sink = move |report: String| if report == "a" { panic!("receiver") } else { sender.send(report).unwrap() };
    let writer = Writer::start(database, sink).unwrap();
    writer.handle().try_submit(put("a")).unwrap();
    writer.handle().try_submit(put("b")).unwrap();
    assert_eq!(reports.recv_timeout(LONG).unwrap(), "b");
    assert_eq!(writer.stop(LONG).unwrap().done, 2);
}

#[test]
fn when_the_commit_fails_every_job_of_the_group_says_so() {
    let bench = Bench::new();
    let held = bench.hold();
    bench.submit(put("before"));
    // A child without its parent, checked only at the commit.
    bench.submit(WriteJob::new(
        |db| {
            db.run("PRAGMA defer_foreign_keys = ON", [])?;
            db.run("CREATE TABLE parent (id INTEGER PRIMARY KEY)", [])?;
            db.run("CREATE TABLE child (parent INTEGER REFERENCES parent (id))", [])?;
            db.run("INSERT INTO child VALUES (7)", [])?;
            Ok(String::from("orphan"))
        },
        |error| error.to_string(),
    ));
    bench.submit(put("after"));
    drop(held);
    // The job that held the thread was the first of the group.
    for report in ["a statement failed", "before failed: a statement failed", "a statement failed"] {
        bench.expect(report);
    }
    bench.expect("after failed: a statement failed");
    assert_eq!(bench.writer.handle().stats().counts().groups_failing, 1);

    bench.submit(put("later"));
    bench.expect("later");
    assert_eq!(bench.writer.handle().stats().counts().groups_failing, 0);
    let (_dir, database) = bench.stopped();
    assert_eq!((database.meta("before").unwrap(), database.meta("after").unwrap()), (None, None));
}

#[test]
fn a_full_disk_fails_what_does_not_fit_and_keeps_the_rest() {
    let bench = Bench::with(|conn| {
        let n_pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        conn.query_row(&format!("PRAGMA max_page_count = {}", n_pages + 2), [], |_| Ok(())).unwrap();
    });
    bench.submit(put("small"));
    bench.expect("small");
    bench.submit(put_value("large", "x".repeat(100_000)));
    bench.expect("large failed: the disk that holds the database is full");
    bench.submit(put("small again"));
    bench.expect("small again");
    let (_dir, database) = bench.stopped();
    assert_eq!(database.meta("small").unwrap().as_deref(), Some("1"));
    assert_eq!(database.meta("large").unwrap(), None);
}

#[test]
fn a_transaction_that_cannot_begin_is_reported_and_tried_again_with_the_next() {
    let bench = Bench::with(|conn| conn.busy_timeout(Duration::ZERO).unwrap());
    let other = Connection::open(bench.writer.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    bench.submit(put("a"));
    bench.expect("a failed: the database is busy in another process");
    other.execute_batch("ROLLBACK").unwrap();
    bench.submit(put("b"));
    bench.expect("b");
}

#[test]
fn a_full_queue_gives_the_job_back() {
    let bench = Bench::new();
    let held = bench.hold();
    let handle = bench.writer.handle();
    for n in 0..WRITE_QUEUE_MAX {
        handle.try_submit(WriteJob::new(move |_| Ok(n.to_string()), |error| error.to_string())).unwrap();
    }
    assert_eq!(handle.depth(), WRITE_QUEUE_MAX);
    let NotTaken::Full(job) = handle.try_submit(put("a")).unwrap_err() else { panic!("is not stopped") };
    let NotTaken::Full(job) = handle.submit(job, Duration::from_millis(1)).unwrap_err() else { panic!("is running") };
    assert_eq!((job.fail)(&StoreError::DiskFull), "a failed: the disk that holds the database is full");

    drop(held);
    bench.expect("held");
    for n in 0..WRITE_QUEUE_MAX {
        bench.expect(&n.to_string());
    }
    // Now that there is room, a submitter that waits gets in.
    handle.submit(put("b"), LONG).unwrap();
    bench.expect("b");
}

#[test]
fn stopping_finishes_what_waits_and_folds_the_log_back() {
    let bench = Bench::new();
    let held = bench.hold();
    for n in 0..20 {
        bench.submit(put(&n.to_string()));
    }
    drop(held);
    let (handle, reports) = (bench.writer.handle(), bench.reports.clone());
    let (dir, database) = bench.stopped();
    assert_eq!(reports.len(), 21);
    assert_eq!(database.n_rows("meta"), 20);
    drop(database);
    assert!(!dir.path().join("state.db-wal").exists());
    assert!(matches!(handle.try_submit(put("late")), Err(NotTaken::Stopped(_))));
    assert!(matches!(handle.submit(put("late"), LONG), Err(NotTaken::Stopped(_))));
}

#[test]
fn stopping_does_not_wait_longer_than_it_was_told() {
    let bench = Bench::new();
    let _held = bench.hold();
    let stopped = bench.writer.stop(Duration::from_millis(20));
    assert!(matches!(stopped, Err(StoreError::StopTimeout { limit_ms: 20 })), "{stopped:?}");
}

#[test]
fn a_fresh_file_is_written_through_once_its_first_report_is_out() {
    let bench = Bench::new();
    let synchronous = || {
        let read = |db: &Db<'_>| db.one("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
        WriteJob::new(move |db| Ok(read(db)?.to_string()), |error| error.to_string())
    };
    bench.submit(synchronous());
    bench.expect("0");
    bench.submit(synchronous());
    bench.expect("1");
}

#[test]
fn the_disk_gets_back_what_was_deleted_a_little_at_a_time() {
    let (_dir, mut database) = scratch();
    let n_pages = |conn: &Connection| -> (i64, i64) {
        let number = |pragma| conn.query_row(pragma, [], |row| row.get(0)).unwrap();
        (number("PRAGMA page_count"), number("PRAGMA freelist_count"))
    };
    let value = "x".repeat(900_000);
    database.write(|db| (0..10).try_for_each(|n| db.meta_put(&n.to_string(), &value, 0))).unwrap();
    database.write(|db| (0..10).try_for_each(|n| db.meta_delete(&n.to_string()).map(|_| ()))).unwrap();
    let (all, free) = n_pages(database.conn());
    assert!(free > FREE_PAGES_KEPT + 3 * GIVE_BACK_PAGES, "{free}");

    give_back(database.conn()).unwrap();
    assert_eq!(n_pages(database.conn()).1, free - GIVE_BACK_PAGES);
    for _ in 0..10 {
        give_back(database.conn()).unwrap();
    }
    let (left, free_left) = n_pages(database.conn());
    assert_eq!(free_left, FREE_PAGES_KEPT);
    assert!(left <= all - (free - FREE_PAGES_KEPT), "{left} of {all}, with {free} unused");
}

#[test]
fn the_log_does_not_grow_with_what_is_written() {
    let bench = Bench::new();
    // A reader in the middle of something must not keep the log from shrinking later.
    let reader = Reader::open(bench.writer.path()).unwrap();
    let log = bench.dir.path().join("state.db-wal");
    let (mut written_bytes, mut log_bytes_max) = (0, 0);
    for n in 0..400 {
        if n == 100 {
            reader
                .snapshot(|queries| {
                    queries.meta("0")?;
                    bench.submit(put_value("while reading", "y".repeat(50_000)));
                    bench.expect("while reading");
                    Ok::<_, StoreError>(())
                })
                .unwrap();
        }
        let key = (n % 10).to_string();
        bench.submit(put_value(&key, n.to_string().repeat(20_000)));
        bench.expect(&key);
        written_bytes += 40_000;
        log_bytes_max = log_bytes_max.max(fs::metadata(&log).unwrap().len());
    }
    let bound = 2 * CHECKPOINT_PAGES as u64 * 4096;
    assert!(log_bytes_max < bound, "{log_bytes_max} bytes of log for {written_bytes} written");
    assert!(bench.writer.handle().stats().counts().checkpoints > 3);
}
