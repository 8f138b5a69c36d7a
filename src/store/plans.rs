//! Every statement on a hot path finds its rows through an index (STORE-12). Asserted on SQLite's own plans, so a
//! lost index or a rephrased condition fails here and not in a year on somebody's large database.

use std::cell::RefCell;
use std::collections::BTreeSet;

use rusqlite::types::Value;
use rusqlite::{StatementStatus, params_from_iter};

use super::StoreError;
use super::activity::{self, ActivityFilter, ActivityRecord};
use super::audit::{self, AuditFilter, AuditRecord};
use super::db::Db;
use super::decisions::tests::decision;
use super::decisions::{Action, DecisionFilter, NewDecision};
use super::devices::{DeviceRow, PendingPairRow};
use super::inbox::{InboxState, NewInbound};
use super::open::Database;
use super::open::tests::scratch;
use super::session_state::StateFilter;
use super::sessions::{SessionFilter, SessionRow, TranscriptFate, list_statement};
use super::transcript::{NewMessage, PageAt, PageLimits, RangeEnd};
use super::usage::{UsageFilter, UsageOf, UsageRole, UsageRow};

fn plan(database: &Database, sql: &str, values: Vec<Value>) -> String {
    let mut statement = database.conn().prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let steps = statement.query_map(params_from_iter(values), |row| row.get::<_, String>("detail")).unwrap();
    steps.map(Result::unwrap).collect::<Vec<_>>().join("; ")
}

/// Holds that `sql` uses `index` and neither sorts nor reads a whole table.
#[track_caller]
fn check(database: &Database, sql: &str, values: Vec<Value>, index: &str) {
    let plan = plan(database, sql, values);
    assert!(plan.contains(index), "{sql}\nshould use {index}: {plan}");
    assert!(!plan.contains("TEMP B-TREE"), "{sql}\nsorts: {plan}");
    let scans_a_table =
        plan.split("; ").any(|step| step.starts_with("SCAN") && !step.contains("INDEX") && step != "SCAN CONSTANT ROW");
    assert!(!scans_a_table, "{sql}\nreads a whole table: {plan}");
}

#[test]
fn session_lists_are_read_in_order_from_an_index() {
    let (_dir, database) = scratch();
    let text = || Some(String::from("x"));
    let any = SessionFilter::default;
    for (filter, index) in [
        (any(), "sessions_updated"),
        (SessionFilter { active_since_ms: Some(1), ..any() }, "sessions_updated (updated_ms>?)"),
        (SessionFilter { search: text(), ..any() }, "sessions_updated"),
        (SessionFilter { kinds_excluded: vec![String::from("global")], ..any() }, "sessions_updated"),
        (SessionFilter { archived: Some(false), ..any() }, "sessions_updated"),
        (SessionFilter { agent_id: text(), ..any() }, "sessions_agent (agent_id=?)"),
        (SessionFilter { channel: text(), ..any() }, "sessions_channel (channel=?)"),
        (SessionFilter { peer: text(), ..any() }, "sessions_peer (peer=?)"),
        (SessionFilter { account_id: text(), ..any() }, "sessions_account (account_id=?)"),
        (SessionFilter { spawned_by: text(), ..any() }, "sessions_spawned_by (spawned_by=?)"),
        (
            SessionFilter { channel: text(), active_since_ms: Some(1), ..any() },
            "sessions_channel (channel=? AND updated_ms>?)",
        ),
    ] {
        let (sql, values) = list_statement(&filter, 0, 200);
        check(&database, &sql, values, index);
    }
}

#[test]
fn a_label_finds_its_few_sessions_and_sorts_only_those() {
    let (_dir, database) = scratch();
    let (sql, values) =
        list_statement(&SessionFilter { label: Some(String::from("x")), ..SessionFilter::default() }, 0, 2);
    let plan = plan(&database, &sql, values);
    assert!(plan.contains("sessions_label (label=?)"), "{plan}");
}

thread_local! {
    /// Statements that were run on this thread.
    static NOTED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Called for each statement that is prepared in a test.
pub(super) fn note(sql: &str) {
    NOTED.with_borrow_mut(|noted| _ = noted.insert(sql.to_owned()));
}

/// Steps that may read a whole table or sort, and why that is fine.
const ALLOWED: &[(&str, &str)] = &[
    ("SELECT count(*) FROM meta", "at most 1024 small rows, only for a new key"),
    ("FROM devices ORDER BY created_ms", "everything is loaded once, at the start"),
    ("FROM idempotency WHERE expires_ms > ?1 ORDER BY", "everything is loaded once, at the start"),
    ("FROM pending_pairs WHERE at_ms > ?1 ORDER BY", "everything is loaded once, at the start"),
    ("FROM session_groups ORDER BY", "at most 500 small rows"),
    ("max(position) + 1, 0) FROM session_groups", "at most 500 small rows, only for a new group"),
    ("SELECT count(*) FROM session_groups", "at most 500 small rows, only for a new group"),
    ("'$.category') AS name, count(*) FROM sessions", "a person puts groups in order"),
    ("UPDATE sessions SET entry = json_set", "a person renames a group"),
    ("UPDATE sessions SET entry = json_remove", "a person removes a group"),
    ("DELETE FROM pending_pairs WHERE device_id", "at most 512 rows, and a person is waiting"),
    ("DELETE FROM pending_pairs WHERE at_ms", "at most 512 rows, and a person is waiting"),
    ("DELETE FROM pending_pairs WHERE request_id IN", "at most 513 rows, and a person is waiting"),
    ("DELETE FROM devices WHERE device_id IN", "at most 2049 rows, sorted only when there is one too many"),
    ("SELECT count(DISTINCT session_key) FROM inbox", "at most 4096 open messages, when a run starts another one"),
    ("DELETE FROM usage_transcripts", "once an hour, a small row for each transcript"),
];

/// Calls every method of `Db` and `Queries` that runs a fixed statement.
fn touch_everything(db: &Db<'_>) -> Result<(), StoreError> {
    let limits = PageLimits { rows_max: 9, page_bytes_max: 999, message_bytes_max: 99 };
    for key in ["a", "b"] {
        db.session_put(&SessionRow { label: Some(key.into()), ..SessionRow::new(key, "main", key, "direct", 1) })?;
        let new = NewMessage {
            session_id: key,
            message_id: key,
            parent_id: None,
            role: "user",
            idempotency_key: Some(key),
            at_ms: 1,
            message: "{}",
        };
        db.transcript_append(&new)?;
        db.transcript_append(&NewMessage { message_id: "second", idempotency_key: None, ..new })?;
    }
    db.session_by_id("a")?;
    db.transcript_page("a", PageAt::Newest, limits)?;
    db.transcript_page("a", PageAt::After(0), limits)?;
    db.transcript_first_of_role("a", "user", 9)?;
    db.transcript_message("a", "a")?;
    db.transcript_move_leaf("a", 1)?;
    db.transcript_branches("a")?;
    db.transcript_branch_page("a", 1, limits)?;
    db.transcript_standing("a", "a")?;
    db.transcript_is_active("a", 1)?;
    db.transcript_compact("a", 0, 1)?;
    db.transcript_append(&NewMessage {
        session_id: "a",
        message_id: "third",
        parent_id: None,
        role: "user",
        idempotency_key: None,
        at_ms: 1,
        message: "{}",
    })?;
    db.transcript_fork("a", 3, &SessionRow::new("f", "main", "f", "direct", 1), 1)?;
    db.groups_put(&["g".into()])?;
    db.groups_put(&["g".into(), "h".into()])?;
    db.group_register("i")?;
    db.group_members()?;
    db.group_rename("g", "j")?;
    db.group_rename("j", "h")?;
    db.group_begins_with("h", None, true)?;
    db.group_delete("h")?;
    db.session_update("a", 2, |_| Ok::<_, StoreError>(()))?;
    db.session_reset("a", "c", 3)?;
    db.session_delete("b", TranscriptFate::Archive, 3)?;
    for archive in db.archive_list("a")? {
        db.archive(archive.id)?;
        db.archive_page(&archive, 0, limits)?;
    }
    while db.archive_prune(9)? > 0 {}

    let inbound = NewInbound { source: "s", dedupe_key: "k", session_key: "a", body: "{}", received_ms: 1 };
    db.inbox_accept(&inbound)?;
    db.inbox(1)?;
    db.inbox_open(0)?;
    db.inbox_in_state(InboxState::Received, 9, 9)?;
    db.inbox_set_state(1, InboxState::Queued, None)?;
    db.inbox_waiting("a", 9, 9)?;
    db.inbox_fate("s", "k", "a")?;
    db.inbox_delivered("s", "k")?;
    db.inbox_open_of("a")?;
    db.inbox_open_below("a")?;
    db.inbox_open_count()?;
    db.inbox_begin(1, &[1])?;
    db.inbox_join(1, 1)?;
    db.inbox_end(1, InboxState::Done)?;
    db.inbox_set_state(1, InboxState::Done, None)?;

    db.decision_record(&NewDecision { session_key: Some("a".into()), ..decision() })?;
    db.session_state("a")?;

    db.idempotency_begin("k", 1)?;
    db.idempotency_finish("k", Ok("{}"), 1)?;
    db.idempotency_cancel("k")?;
    db.idempotency_all(1)?;

    let record = || String::from("{}");
    db.device_put(&DeviceRow {
        device_id: "d".into(),
        public_key: String::new(),
        roles: vec![],
        scopes: vec![],
        created_ms: 1,
        approved_ms: 1,
        last_seen_ms: 1,
        record: record(),
    })?;
    let pending = PendingPairRow { request_id: "r".into(), device_id: "d".into(), at_ms: 1, record: record() };
    db.pending_pair_put(&pending)?;
    db.pending_pair_delete("r")?;
    db.devices_load(1)?;
    db.device_delete("d")?;

    db.audit_append(&AuditRecord::default())?;
    db.audit_prune(1)?;
    db.activity_append(&ActivityRecord::default())?;
    let of = UsageOf { session_id: "a", session_key: "a", agent_id: "main", channel: Some("x") };
    let row = |at_ms| UsageRow {
        at_ms,
        role: UsageRole::User,
        is_error: false,
        latency_ms: None,
        spent: None,
        tools: Vec::new(),
    };
    db.usage_append(&UsageOf { channel: None, ..of }, &row(1))?;
    db.usage_append(&of, &row(2))?;
    for filter in [
        UsageFilter::default(),
        UsageFilter { session_key: Some("a".into()), ..UsageFilter::default() },
        UsageFilter { session_id: Some("a".into()), ..UsageFilter::default() },
    ] {
        db.usage_each(&filter, |_, _| ())?;
    }
    db.usage_transcript("a")?;
    db.usage_prune()?;
    db.meta_count("k", 1)?;
    db.meta_with_prefix("k")?;
    db.meta_delete("k")?;
    Ok(())
}

#[test]
fn no_method_reads_a_whole_table_or_sorts_without_a_reason() {
    let (_dir, mut database) = scratch();
    NOTED.take();
    database.write(touch_everything).unwrap();
    let noted = NOTED.take();
    assert!(noted.len() > 60, "only {} statements were seen", noted.len());

    let mut used = BTreeSet::new();
    for sql in noted {
        if let Some(allowed) = ALLOWED.iter().find(|(part, _)| sql.contains(part)) {
            used.insert(allowed);
            continue;
        }
        let values = vec![Value::Null; database.conn().prepare(&sql).unwrap().parameter_count()];
        check(&database, &sql, values, "");
    }
    assert_eq!(used.len(), ALLOWED.len(), "an exemption that nothing needs: {used:?}");
}

#[test]
fn transcript_pages_are_read_in_order_from_an_index() {
    let (_dir, database) = scratch();
    for end in [RangeEnd::Oldest, RangeEnd::Newest] {
        let values = vec![Value::Null; 5];
        check(&database, &end.statement(), values, "transcript_seq (session_id=? AND seq>? AND seq<?)");
    }
}

#[test]
fn decisions_and_records_are_read_in_order_from_an_index() {
    let (_dir, database) = scratch();
    let values = |wanted: Option<&str>, n: usize| {
        let wanted = wanted.map_or(Value::Null, |wanted| Value::from(wanted.to_owned()));
        std::iter::once(wanted).chain(std::iter::repeat_n(Value::from(9), n)).collect::<Vec<_>>()
    };
    for (filter, wanted, index) in [
        (DecisionFilter::All, None, "PRIMARY KEY (rowid<?)"),
        (DecisionFilter::Session("x"), Some("x"), "decisions_session_key (session_key=? AND id<?)"),
        (DecisionFilter::Action(Action::Block), Some("block"), "decisions_action (action=? AND id<?)"),
    ] {
        check(&database, &filter.statement(), values(wanted, 2), index);
    }
    for (filter, wanted, index) in [
        (StateFilter::All, None, "idx_session_state_last_seen_ms"),
        (StateFilter::LastAction(Action::Block), Some("block"), "idx_session_state_last_action (last_action=?)"),
        (StateFilter::LastChannel("x"), Some("x"), "idx_session_state_last_channel (last_channel=?)"),
    ] {
        check(&database, &filter.statement(), values(wanted, 1), index);
    }
    let text = || Some(String::from("x"));
    for filter in [
        ActivityFilter::default(),
        ActivityFilter { kind: text(), run_id: text(), since_ms: Some(1), ..ActivityFilter::default() },
    ] {
        let (sql, values) = activity::list_statement(&filter, 10);
        check(&database, &sql, values, "PRIMARY KEY (rowid<?)");
    }
    let actor = Some(String::from("x"));
    for (filter, index) in [
        (AuditFilter::default(), "audit_at_ms"),
        (AuditFilter { since_ms: Some(1), ..AuditFilter::default() }, "audit_at_ms (at_ms>?)"),
        (AuditFilter { actor: actor.clone(), ..AuditFilter::default() }, "audit_actor (actor=?)"),
        (AuditFilter { actor, until_ms: Some(9), ..AuditFilter::default() }, "audit_actor (actor=? AND at_ms<?)"),
    ] {
        let (sql, values) = audit::list_statement(&filter, 10);
        check(&database, &sql, values, index);
    }
}

#[test]
fn a_statement_is_planned_once_and_not_for_each_value() {
    let (_dir, mut database) = scratch();
    NOTED.take();
    database.write(touch_everything).unwrap();
    for sql in NOTED.take() {
        for value in [7_i64, 8, 9] {
            let mut statement = database.conn().prepare_cached(&sql).unwrap();
            let values = vec![Value::Integer(value); statement.parameter_count()];
            let mut rows = statement.query(params_from_iter(values)).unwrap();
            while let Ok(Some(_)) = rows.next() {}
        }
        let statement = database.conn().prepare_cached(&sql).unwrap();
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{sql}");
    }
}
