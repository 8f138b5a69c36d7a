use super::super::open::tests::scratch;
use super::*;
use crate::store::archive::{ARCHIVE_PRUNE_ROWS_MAX, ArchiveRow};
use crate::store::open::Database;
use crate::store::sessions::{SessionRow, TranscriptFate};

const UNLIMITED: PageLimits =
    PageLimits { rows_max: usize::MAX, page_bytes_max: usize::MAX, message_bytes_max: TRANSCRIPT_MESSAGE_BYTES_MAX };

fn message<'a>(message_id: &'a str, text: &'a str) -> NewMessage<'a> {
    NewMessage {
        session_id: "s",
        message_id,
        parent_id: None,
        role: "user",
        idempotency_key: None,
        at_ms: 1,
        message: text,
    }
}

/// A session `a` with transcript `s` of messages `m1`, `m2`, ... whose texts are their ids.
fn spoken(n: u64) -> (super::super::open::tests::StateDirInTemp, Database) {
    let (dir, mut database) = scratch();
    database
        .write(|db| {
            db.session_put(&SessionRow::new("a", "main", "s", "direct", 1))?;
            append(db, 1..=n)
        })
        .unwrap();
    (dir, database)
}

fn append(db: &Db<'_>, numbers: std::ops::RangeInclusive<u64>) -> Result<(), StoreError> {
    numbers.into_iter().try_for_each(|n| {
        let id = format!("m{n}");
        assert_eq!(db.transcript_append(&message(&id, &id))?.seq, n);
        Ok(())
    })
}

fn seqs(messages: &[MessageRow]) -> Vec<u64> {
    messages.iter().map(|message| message.seq).collect()
}

#[track_caller]
fn check_page(database: &Database, at: PageAt, rows_max: usize, expected: &[u64], older: bool, newer: bool) {
    let page = database.transcript_page("s", at, PageLimits { rows_max, ..UNLIMITED }).unwrap();
    assert_eq!((&*seqs(&page.messages), page.has_older, page.has_newer), (expected, older, newer), "{at:?}");
    for message in &page.messages {
        assert_eq!(message.message.as_deref(), Some(&*format!("m{}", message.seq)));
    }
}

#[test]
fn pages_are_cut_from_either_end_and_in_between() {
    let (_dir, database) = spoken(10);
    check_page(&database, PageAt::Newest, 3, &[8, 9, 10], true, false);
    check_page(&database, PageAt::Newest, 10, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], false, false);
    check_page(&database, PageAt::BeforeNewest(3), 3, &[5, 6, 7], true, true);
    check_page(&database, PageAt::BeforeNewest(8), 3, &[1, 2], false, true);
    check_page(&database, PageAt::BeforeNewest(10), 3, &[], false, false);
    check_page(&database, PageAt::BeforeNewest(u64::MAX), 3, &[], false, false);
    check_page(&database, PageAt::Before(5), 2, &[3, 4], true, true);
    check_page(&database, PageAt::Before(99), 2, &[9, 10], true, false);
    check_page(&database, PageAt::After(0), 2, &[1, 2], false, true);
    check_page(&database, PageAt::After(8), 5, &[9, 10], true, false);
    check_page(&database, PageAt::After(10), 5, &[], false, false);
    let nothing = database.transcript_page("unknown", PageAt::Newest, UNLIMITED).unwrap();
    assert_eq!(nothing, Page::default());
}

#[test]
fn a_page_has_at_most_its_bytes_and_at_least_one_message() {
    let (_dir, mut database) = scratch();
    let texts = ["x".repeat(10), "y".repeat(100), "z".repeat(30)];
    database
        .write(|db| {
            for (n, text) in texts.iter().enumerate() {
                db.transcript_append(&message(&format!("m{n}"), text))?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let page = |page_bytes_max, message_bytes_max| {
        let limits = PageLimits { page_bytes_max, message_bytes_max, ..UNLIMITED };
        database.transcript_page("s", PageAt::Newest, limits).unwrap()
    };
    assert_eq!(seqs(&page(130, usize::MAX).messages), [2, 3]);
    assert_eq!(seqs(&page(129, usize::MAX).messages), [3]);
    assert_eq!(seqs(&page(1, usize::MAX).messages), [3]);

    let without_large = page(40, 50);
    assert_eq!(seqs(&without_large.messages), [1, 2, 3], "what is not read does not count");
    let large = &without_large.messages[1];
    assert_eq!((large.message.as_deref(), large.size_bytes), (None, 100));
}

#[test]
fn a_page_never_has_more_rows_than_its_bound() {
    let n_rows = TRANSCRIPT_PAGE_ROWS_MAX as u64 + 1;
    let (_dir, database) = spoken(n_rows);
    let page = database.transcript_page("s", PageAt::Newest, UNLIMITED).unwrap();
    assert_eq!((page.messages.len(), page.has_older, page.n_total), (TRANSCRIPT_PAGE_ROWS_MAX, true, n_rows));
}

#[test]
fn an_idempotency_key_adds_once_even_when_the_first_is_archived() {
    let (_dir, mut database) = spoken(0);
    let keyed = |message_id| NewMessage { idempotency_key: Some("run:user"), ..message(message_id, "{}") };
    database
        .write(|db| {
            let first = db.transcript_append(&keyed("m1"))?;
            assert_eq!(first, Appended { seq: 1, message_id: String::from("m1"), existed: false });
            let again = Appended { existed: true, ..first };
            assert_eq!(db.transcript_append(&keyed("m2"))?, again);
            db.transcript_append(&message("m3", "{}"))?;
            assert_eq!(db.transcript_compact("s", 1, 5)?, 1);
            assert_eq!(db.transcript_append(&keyed("m4"))?, again);

            let elsewhere = NewMessage { session_id: "t", ..keyed("m1") };
            assert!(!db.transcript_append(&elsewhere)?.existed, "keys belong to their transcript");
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

#[test]
fn a_message_counts_in_its_session_and_dates_it() {
    let (_dir, mut database) = spoken(2);
    database.write(|db| db.transcript_append(&NewMessage { at_ms: 50, ..message("late", "{}") })).unwrap();
    database.write(|db| db.transcript_append(&NewMessage { at_ms: 20, ..message("early", "{}") })).unwrap();
    let session = database.session("a").unwrap().unwrap();
    assert_eq!((session.message_count, session.updated_ms), (4, 50));
}

#[test]
fn a_message_id_is_unique_and_found() {
    let (_dir, mut database) = spoken(2);
    let refused = database.write(|db| db.transcript_append(&message("m1", "{}")));
    assert!(matches!(refused, Err(StoreError::Statement(_))));
    assert_eq!(database.transcript_message("s", "m2").unwrap().unwrap().seq, 2);
    assert_eq!(database.transcript_message("s", "m3").unwrap(), None);
}

#[test]
fn the_first_of_a_role_is_the_first_live_one() {
    let (_dir, mut database) = scratch();
    database
        .write(|db| {
            for (id, role) in [("1", "user"), ("2", "assistant"), ("3", "user")] {
                db.transcript_append(&NewMessage { role, ..message(id, "{}") })?;
            }
            let first = |role| Ok::<_, StoreError>(db.transcript_first_of_role("s", role, 100)?.map(|row| row.seq));
            assert_eq!((first("user")?, first("toolResult")?), (Some(1), None));
            db.transcript_compact("s", 2, 5)?;
            assert_eq!(first("user")?, Some(3));
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

/// Every archive's reason and numbers, oldest first, as read page by page.
fn archives(database: &Database) -> Vec<(&'static str, Vec<u64>)> {
    let read = |archive: &ArchiveRow| {
        let (mut read, mut after) = (Vec::new(), 0);
        loop {
            let page = database.archive_page(archive, after, PageLimits { rows_max: 2, ..UNLIMITED }).unwrap();
            let Some(last) = page.last() else { break };
            after = last.seq;
            read.extend(seqs(&page));
        }
        (archive.reason.as_str(), read)
    };
    database.archive_list("a").unwrap().iter().rev().map(read).collect()
}

#[test]
fn messages_and_archives_come_back_as_they_were_written() {
    let (_dir, mut database) = spoken(0);
    let new = NewMessage {
        session_id: "s",
        message_id: "m",
        parent_id: Some("parent"),
        role: "assistant",
        idempotency_key: Some("key"),
        at_ms: 7,
        message: r#"{"text":"hi"}"#,
    };
    database.write(|db| db.transcript_append(&new)).unwrap();
    let row = MessageRow {
        seq: 1,
        message_id: String::from("m"),
        parent_id: Some(String::from("parent")),
        role: String::from("assistant"),
        idempotency_key: Some(String::from("key")),
        at_ms: 7,
        size_bytes: 13,
        message: Some(String::from(r#"{"text":"hi"}"#)),
    };
    assert_eq!(database.transcript_page("s", PageAt::Newest, UNLIMITED).unwrap().messages, [row]);

    database.write(|db| db.session_reset("a", "t", 9)).unwrap();
    let archive = ArchiveRow {
        id: 1,
        session_id: String::from("s"),
        session_key: String::from("a"),
        reason: ArchiveReason::Reset,
        archived_ms: 9,
        first_seq: 1,
        last_seq: 1,
    };
    assert_eq!(database.archive_list("a").unwrap(), [archive]);
}

#[test]
fn compaction_keeps_the_newest_and_the_rest_stays_readable() {
    let (_dir, mut database) = spoken(7);
    assert_eq!(database.write(|db| db.transcript_compact("s", 7, 5)).unwrap(), 0, "at the limit nothing goes");
    assert_eq!(database.write(|db| db.transcript_compact("s", 4, 5)).unwrap(), 3);
    assert_eq!(database.write(|db| db.transcript_compact("s", 4, 5)).unwrap(), 0);
    check_page(&database, PageAt::Newest, 9, &[4, 5, 6, 7], false, false);
    check_page(&database, PageAt::Before(5), 9, &[4], false, true);
    check_page(&database, PageAt::After(0), 2, &[4, 5], false, true);
    assert_eq!(database.session("a").unwrap().unwrap().message_count, 4);

    database.write(|db| append(db, 8..=8)).unwrap();
    assert_eq!(database.write(|db| db.transcript_compact("s", 1, 6)).unwrap(), 4);
    database.write(|db| db.session_delete("a", TranscriptFate::Archive, 7)).unwrap();
    assert_eq!(
        archives(&database),
        [("compacted", vec![1, 2, 3]), ("compacted", vec![4, 5, 6, 7]), ("deleted", vec![8])]
    );
}

#[test]
fn at_the_bound_the_older_half_is_archived() {
    let (_dir, mut database) = spoken(0);
    database
        .write(|db| {
            // Straight into the table: the last message but one under the bound.
            db.run(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                 INSERT INTO transcript (session_id, seq, message_id, role, at_ms, message)
                     SELECT 's', i, 'm' || i, 'user', 1, 'm' || i FROM n",
                [TRANSCRIPT_LIVE_ROWS_MAX as i64 - 1],
            )?;
            append(db, TRANSCRIPT_LIVE_ROWS_MAX..=TRANSCRIPT_LIVE_ROWS_MAX)?;
            assert_eq!(db.transcript_count("s")?, TRANSCRIPT_LIVE_ROWS_MAX);
            append(db, TRANSCRIPT_LIVE_ROWS_MAX + 1..=TRANSCRIPT_LIVE_ROWS_MAX + 1)?;
            assert_eq!(db.transcript_count("s")?, TRANSCRIPT_LIVE_ROWS_MAX / 2);
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

#[test]
fn old_archives_are_removed_piece_by_piece_and_numbers_go_on() {
    let n_rows = ARCHIVE_PRUNE_ROWS_MAX as u64 + 5;
    let (_dir, mut database) = spoken(n_rows);
    database.write(|db| db.transcript_compact("s", 2, 100)).unwrap();
    let prune = |database: &mut Database, before_ms| database.write(|db| db.archive_prune(before_ms)).unwrap();
    assert_eq!(prune(&mut database, 100), 0, "not old enough");
    assert_eq!(prune(&mut database, 101), ARCHIVE_PRUNE_ROWS_MAX as u64);
    assert_eq!(archives(&database).len(), 1);
    assert_eq!(prune(&mut database, 101), 3);
    assert_eq!(prune(&mut database, 101), 0);
    assert_eq!(archives(&database), []);
    assert_eq!(database.n_rows("transcript"), 2);
    database.write(|db| append(db, n_rows + 1..=n_rows + 1)).unwrap();
    check_page(&database, PageAt::Newest, 9, &[n_rows - 1, n_rows, n_rows + 1], false, false);

    database.write(|db| db.session_delete("a", TranscriptFate::Archive, 200)).unwrap();
    assert_eq!(prune(&mut database, 201), 3);
    assert_eq!((database.n_rows("transcript"), database.n_rows("archives")), (0, 0));
}

#[test]
fn a_message_that_is_too_large_is_refused_by_its_size() {
    let (_dir, mut database) = scratch();
    let text = "x".repeat(TRANSCRIPT_MESSAGE_BYTES_MAX + 1);
    let refused = database.write(|db| db.transcript_append(&message("m", &text)));
    assert!(matches!(refused, Err(StoreError::TooLarge { what: "message", .. })));
    let refused = database.write(|db| db.transcript_append(&message(&text[..TRANSCRIPT_TEXT_BYTES_MAX + 1], "{}")));
    assert!(matches!(refused, Err(StoreError::TooLarge { what: "message id", .. })));
}
