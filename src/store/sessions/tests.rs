use serde_json::json;

use super::super::open::tests::{reopen, scratch};
use super::super::session_state::SessionState;
use super::*;
use crate::store::decisions::tests::decision;
use crate::store::decisions::{Action, NewDecision};
use crate::store::open::Database;
use crate::store::transcript::NewMessage;

/// A session whose id is made from its key.
fn session(key: &str, updated_ms: i64) -> SessionRow {
    SessionRow::new(key, "main", format!("id-{key}"), "direct", updated_ms)
}

fn put(database: &mut Database, sessions: impl IntoIterator<Item = SessionRow>) {
    let all = |db: &Db<'_>| sessions.into_iter().try_for_each(|session| db.session_put(&session));
    database.write(all).unwrap();
}

fn keys(page: &SessionPage) -> Vec<&str> {
    page.sessions.iter().map(|session| &*session.key).collect()
}

#[track_caller]
fn check_list(database: &Database, filter: SessionFilter, expected: &[&str]) {
    let page = database.session_list(&filter, 0, 100).unwrap();
    assert_eq!(keys(&page), expected, "{filter:?}");
    assert_eq!(database.session_count(&filter).unwrap(), expected.len() as u64);
}

fn owned(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn a_session_comes_back_as_it_was_put() {
    let (dir, mut database) = scratch();
    let mut full = session("agent:main:telegram:direct:7", 5);
    full.label = owned("night");
    full.channel = owned("telegram");
    full.peer = owned("7");
    full.account_id = owned("default");
    full.thread_id = owned("t");
    full.spawned_by = owned("agent:main:main");
    full.entry.insert(String::from("thinkingLevel"), json!("low"));
    full.entry.insert(String::from("origin"), json!({ "provider": "telegram", "n": [1, 2.5, null] }));
    full.tokens = TokenTotals { input: 1, output: 2, total: 3 };
    put(&mut database, [full.clone()]);
    drop(database);

    let database = reopen(&dir);
    assert_eq!(database.session(&full.key).unwrap(), Some(full.clone()));
    assert_eq!(database.session_by_id(&full.session_id).unwrap(), Some(full));
    assert_eq!(database.session("agent:main:other").unwrap(), None);
}

#[test]
fn lists_newest_first_and_equal_times_in_key_order() {
    let (_dir, mut database) = scratch();
    put(&mut database, [session("b", 5), session("a", 5), session("c", 9), session("d", 1)]);
    check_list(&database, SessionFilter::default(), &["c", "a", "b", "d"]);

    let page = |offset, limit| database.session_list(&SessionFilter::default(), offset, limit).unwrap();
    assert_eq!((keys(&page(0, 2)), page(0, 2).has_more), (vec!["c", "a"], true));
    assert_eq!((keys(&page(2, 2)), page(2, 2).has_more), (vec!["b", "d"], false));
    assert_eq!(keys(&page(9, 2)), [""; 0]);
}

#[test]
fn filters_hold_together() {
    let (_dir, mut database) = scratch();
    let telegram = |key: &str, peer: &str, updated_ms| SessionRow {
        channel: owned("telegram"),
        peer: owned(peer),
        account_id: owned("work"),
        ..session(key, updated_ms)
    };
    put(
        &mut database,
        [
            telegram("a", "7", 1),
            SessionRow { thread_id: owned("t"), account_id: owned("home"), ..telegram("b", "7", 2) },
            SessionRow { channel: owned("slack"), label: owned("night"), ..telegram("c", "7", 3) },
            SessionRow { agent_id: String::from("other"), label: owned("night"), ..session("d", 4) },
            SessionRow { kind: String::from("global"), spawned_by: owned("a"), ..session("global", 5) },
        ],
    );
    let any = SessionFilter::default;
    check_list(&database, SessionFilter { channel: owned("telegram"), ..any() }, &["b", "a"]);
    check_list(&database, SessionFilter { peer: owned("7"), ..any() }, &["c", "b", "a"]);
    let telegram_7 = SessionFilter { channel: owned("telegram"), peer: owned("7"), ..any() };
    check_list(&database, SessionFilter { account_id: owned("home"), ..telegram_7.clone() }, &["b"]);
    check_list(&database, SessionFilter { thread_id: owned("t"), ..telegram_7.clone() }, &["b"]);
    check_list(&database, SessionFilter { thread_id: owned("u"), ..telegram_7 }, &[]);
    check_list(&database, SessionFilter { label: owned("night"), ..any() }, &["d", "c"]);
    check_list(&database, SessionFilter { label: owned("night"), agent_id: owned("main"), ..any() }, &["c"]);
    check_list(&database, SessionFilter { agent_id: owned("other"), ..any() }, &["d"]);
    check_list(&database, SessionFilter { spawned_by: owned("a"), ..any() }, &["global"]);
    check_list(&database, SessionFilter { active_since_ms: Some(4), ..any() }, &["global", "d"]);
    let without_global = SessionFilter { kinds_excluded: vec![String::from("global")], ..any() };
    check_list(&database, without_global, &["d", "c", "b", "a"]);
}

#[test]
fn search_looks_through_names_in_any_case() {
    let (_dir, mut database) = scratch();
    let mut named = session("agent:main:x", 3);
    named.entry.insert(String::from("displayName"), json!("Lunch Ünion"));
    named.entry.insert(String::from("model"), json!("secret-sauce"));
    put(&mut database, [named, SessionRow { label: owned("Night Shift"), ..session("agent:main:y", 2) }]);
    let search = |text| SessionFilter { search: owned(text), ..SessionFilter::default() };
    check_list(&database, search("lunch ü"), &["agent:main:x"]);
    check_list(&database, search("NIGHT"), &["agent:main:y"]);
    check_list(&database, search("id-agent"), &["agent:main:x", "agent:main:y"]);
    check_list(&database, search("%"), &[]);
    check_list(&database, search("sauce"), &[]);
}

#[test]
fn a_label_is_one_sessions_only_within_its_agent() {
    let (_dir, mut database) = scratch();
    let labelled =
        |key: &str, agent: &str| SessionRow { label: owned("night"), agent_id: agent.to_owned(), ..session(key, 1) };
    put(&mut database, [labelled("a", "main"), labelled("b", "other")]);
    let refused = database.write(|db| db.session_put(&labelled("c", "main")));
    assert!(matches!(refused, Err(StoreError::LabelTaken { key, .. }) if key == "a"));
    put(&mut database, [labelled("a", "main")]);
    put(&mut database, [session("a", 2), labelled("c", "main")]);
}

#[test]
fn a_session_id_is_never_used_twice() {
    let (_dir, mut database) = scratch();
    put(&mut database, [session("a", 1), session("b", 1)]);
    let stealing = SessionRow { session_id: String::from("id-a"), ..session("c", 1) };
    assert!(matches!(database.write(|db| db.session_put(&stealing)), Err(StoreError::SessionIdTaken { .. })));
    assert!(matches!(database.write(|db| db.session_reset("b", "id-a", 2)), Err(StoreError::SessionIdTaken { .. })));

    say(&mut database, "id-a", 1);
    database.write(|db| db.session_delete("a", TranscriptFate::Archive, 2)).unwrap();
    assert!(matches!(database.write(|db| db.session_put(&stealing)), Err(StoreError::SessionIdTaken { .. })));
}

#[test]
fn a_change_is_refused_as_a_whole_or_stamped() {
    #[derive(Debug, PartialEq)]
    struct No;
    impl From<StoreError> for No {
        fn from(error: StoreError) -> No {
            panic!("{error}")
        }
    }
    let (_dir, mut database) = scratch();
    put(&mut database, [session("a", 1)]);
    let refused = database.write(|db| {
        db.session_update("a", 9, |session| {
            session.label = owned("half done");
            Err(No)
        })
    });
    assert_eq!(refused, Err(No));
    assert_eq!(database.session("a").unwrap(), Some(session("a", 1)));

    let change = |session: &mut SessionRow| {
        session.entry.insert(String::from("sendPolicy"), json!("deny"));
        // What a change may not touch.
        (session.key, session.session_id) = (String::from("z"), String::from("z"));
        (session.created_ms, session.message_count) = (0, 7);
        Ok::<_, StoreError>(())
    };
    let changed = database.write(|db| db.session_update("a", 9, change)).unwrap().unwrap();
    let mut expected = session("a", 1);
    expected.entry.insert(String::from("sendPolicy"), json!("deny"));
    expected.updated_ms = 9;
    assert_eq!(changed, expected);
    assert_eq!(database.session("a").unwrap(), Some(expected));
    assert_eq!(database.write(|db| db.session_update("missing", 9, change)).unwrap(), None);
}

/// Adds `n` messages.
fn say(database: &mut Database, session_id: &str, n: usize) {
    let all = |db: &Db<'_>| {
        (0..n).try_for_each(|n| {
            let message_id = format!("{session_id}-{n}");
            let new = NewMessage {
                session_id,
                message_id: &message_id,
                parent_id: None,
                role: "user",
                idempotency_key: None,
                at_ms: 1,
                message: "{}",
            };
            db.transcript_append(&new).map(|_| ())
        })
    };
    database.write(all).unwrap();
}

#[test]
fn a_reset_keeps_settings_and_archives_the_transcript() {
    let (_dir, mut database) = scratch();
    let mut before = session("a", 1);
    before.label = owned("night");
    before.entry.insert(String::from("thinkingLevel"), json!("low"));
    before.tokens = TokenTotals { input: 1, output: 2, total: 3 };
    put(&mut database, [before.clone()]);
    say(&mut database, "id-a", 3);

    let reset = database.write(|db| db.session_reset("a", "id-2", 9)).unwrap().unwrap();

    let after =
        SessionRow { session_id: String::from("id-2"), updated_ms: 9, tokens: TokenTotals::default(), ..before };
    assert_eq!(
        reset,
        SessionReset { session: after.clone(), previous_session_id: String::from("id-a"), n_archived: 3 }
    );
    assert_eq!(database.session("a").unwrap(), Some(after));
    assert_eq!(database.transcript_count("id-a").unwrap(), 0);
    say(&mut database, "id-2", 1);
    assert_eq!(database.session("a").unwrap().unwrap().message_count, 1);
    assert_eq!(database.write(|db| db.session_reset("missing", "id-3", 9)).unwrap(), None);
}

#[test]
fn a_delete_archives_or_keeps_the_transcript_and_forgets_the_counters() {
    let (_dir, mut database) = scratch();
    put(&mut database, [session("a", 1), session("b", 1)]);
    say(&mut database, "id-a", 2);
    say(&mut database, "id-b", 2);
    let blocked = NewDecision { session_key: owned("a"), action: Action::Block, ..decision() };
    database.write(|db| db.decision_record(&blocked)).unwrap();

    let gone = database.write(|db| db.session_delete("a", TranscriptFate::Archive, 5)).unwrap().unwrap();
    assert_eq!((gone.session.message_count, gone.n_archived), (2, 2));
    let gone = database.write(|db| db.session_delete("b", TranscriptFate::Keep, 5)).unwrap().unwrap();
    assert_eq!(gone.n_archived, 0);

    assert_eq!(database.write(|db| db.session_delete("a", TranscriptFate::Keep, 5)).unwrap(), None);
    assert_eq!(database.session_state("a").unwrap(), None::<SessionState>);
    assert_eq!(database.transcript_count("id-a").unwrap(), 0);
    assert_eq!(database.transcript_count("id-b").unwrap(), 2);
}

#[test]
fn a_full_table_refuses_new_sessions_and_changes_old_ones() {
    let (_dir, mut database) = scratch();
    database
        .write(|db| {
            // Straight into the table: putting that many one by one counts them each time.
            db.run(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                 INSERT INTO sessions SELECT 'k' || i, 'main', 'id-k' || i, 'direct', NULL, NULL, NULL, NULL, NULL, \
                     NULL, 1, 1, 0, 0, 0, 0, '', '{}' FROM n",
                [SESSION_ROWS_MAX as i64],
            )?;
            let refused = db.session_put(&session("new", 1));
            assert!(matches!(refused, Err(StoreError::TableFull { rows_max: SESSION_ROWS_MAX, .. })));
            db.session_put(&session("k1", 2))?;
            let page = db.session_list(&SessionFilter::default(), 0, usize::MAX)?;
            assert_eq!((page.sessions.len(), page.has_more), (SESSION_LIST_ROWS_MAX, true));
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

#[test]
fn oversize_texts_are_refused() {
    let (_dir, mut database) = scratch();
    let key = "k".repeat(SESSION_TEXT_BYTES_MAX + 1);
    let refused = database.write(|db| db.session_put(&session(&key, 1)));
    assert!(matches!(refused, Err(StoreError::TooLarge { what: "session key", .. })));
    let mut large = session("a", 1);
    large.entry.insert(String::from("note"), json!("x".repeat(SESSION_ENTRY_BYTES_MAX)));
    let refused = database.write(|db| db.session_put(&large));
    assert!(matches!(refused, Err(StoreError::TooLarge { what: "session entry", .. })));
}

#[test]
fn an_unreadable_entry_is_an_error_and_not_an_empty_one() {
    let (_dir, mut database) = scratch();
    put(&mut database, [session("a", 1)]);
    database.conn().execute("UPDATE sessions SET entry = '{half'", []).unwrap();
    let failed = database.session("a");
    assert!(matches!(failed, Err(StoreError::BadRow { .. })), "{failed:?}");
}
