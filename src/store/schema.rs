//! The schema as a list of migrations, and the one way to walk it.
//!
//! The list only grows: a migration that has been released is never edited, because files written by it exist. A
//! file carries the number of its last migration in `user_version`, and who it belongs to in `application_id`.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// Marks a file as ours (`ocrs` in ASCII), in SQLite's `application_id` header field.
pub const APPLICATION_ID: i32 = 0x6f63_7273;

/// One step from the version before to `version`.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The version reached; the list counts 1, 2, 3, ...
    pub version: i64,
    /// What changes, as SQL statements.
    pub sql: &'static str,
}

/// Every migration, oldest first.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("migrations/001.sql") },
    Migration { version: 2, sql: include_str!("migrations/002.sql") },
    Migration { version: 3, sql: include_str!("migrations/003.sql") },
    Migration { version: 4, sql: include_str!("migrations/004.sql") },
    Migration { version: 5, sql: include_str!("migrations/005.sql") },
    Migration { version: 6, sql: include_str!("migrations/006.sql") },
    Migration { version: 7, sql: include_str!("migrations/007.sql") },
];

/// The version of a file that has seen every migration.
pub const VERSION: i64 = MIGRATIONS.len() as i64;

/// The version recorded in a file; 0 when it is empty.
pub(super) fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Brings a file from whatever version it has to the end of `migrations`, all or nothing.
///
/// # Errors
/// [`StoreError::Migration`]; the file is then as it was.
pub(super) fn migrate(conn: &mut Connection, migrations: &[Migration]) -> Result<(), StoreError> {
    let at = |version| move |source| StoreError::Migration { version, source };
    let found = version(conn)?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in migrations.iter().filter(|migration| migration.version > found) {
        tx.execute_batch(migration.sql).map_err(at(migration.version))?;
        tx.pragma_update(None, "user_version", migration.version).map_err(at(migration.version))?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.commit().map_err(at(migrations.last().map_or(0, |last| last.version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables, indexes and triggers with their SQL, in one order.
    fn dump(conn: &Connection) -> Vec<(String, Option<String>)> {
        let mut statement = conn.prepare("SELECT type || ' ' || name, sql FROM sqlite_schema ORDER BY 1").unwrap();
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn versions_count_up_from_one() {
        assert!(!MIGRATIONS.is_empty());
        for (idx, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version, idx as i64 + 1);
        }
    }

    #[test]
    fn every_older_version_arrives_at_the_schema_of_a_fresh_file() {
        let mut fresh = Connection::open_in_memory().unwrap();
        migrate(&mut fresh, MIGRATIONS).unwrap();
        let expected = dump(&fresh);
        assert!(expected.len() > 20, "the schema has tables and indexes");

        for n_applied in 0..MIGRATIONS.len() {
            let mut older = Connection::open_in_memory().unwrap();
            migrate(&mut older, &MIGRATIONS[..n_applied]).unwrap();
            assert_eq!(version(&older).unwrap(), n_applied as i64);
            migrate(&mut older, MIGRATIONS).unwrap();
            assert_eq!(dump(&older), expected, "from version {n_applied}");
            assert_eq!(version(&older).unwrap(), VERSION);
        }
    }

    #[test]
    fn a_failing_migration_leaves_the_file_as_it_was() {
        let good = Migration { version: 1, sql: "CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (7);" };
        let bad = Migration { version: 2, sql: "ALTER TABLE a ADD COLUMN y INTEGER; INSERT INTO missing VALUES (1);" };
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, &[good]).unwrap();
        let before = dump(&conn);

        let failed = migrate(&mut conn, &[good, bad]).unwrap_err();

        assert!(matches!(failed, StoreError::Migration { version: 2, .. }), "{failed:?}");
        assert_eq!(dump(&conn), before);
        assert_eq!(version(&conn).unwrap(), 1);
        assert_eq!(conn.query_row("SELECT x FROM a", [], |row| row.get::<_, i64>(0)).unwrap(), 7);
    }

    #[test]
    fn messages_from_before_runs_were_counted_are_kept() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, &MIGRATIONS[..1]).unwrap();
        let insert =
            "INSERT INTO inbox (id, source, dedupe_key, session_key, received_ms, state, is_open, decision, body)
             VALUES (?1, 'hooks', ?1, 'agent:main:main', 5, ?2, ?3, '{}', 'body ' || ?1)";
        conn.execute(insert, (7, "received", true)).unwrap();
        conn.execute(insert, (9, "done", false)).unwrap();

        migrate(&mut conn, MIGRATIONS).unwrap();

        let sql =
            "SELECT id || ' ' || dedupe_key || ' ' || received_ms || ' ' || state || ' ' || is_open || ' ' || attempts
             || ' ' || ifnull(turn_id, 'none') || ' ' || decision || ' ' || body FROM inbox ORDER BY id";
        let mut statement = conn.prepare(sql).unwrap();
        let rows: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows, ["7 7 5 received 1 0 none {} body 7", "9 9 5 done 0 0 none {} body 9"]);
    }

    #[test]
    fn what_was_spent_before_it_was_counted_is_counted() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, &MIGRATIONS[..5]).unwrap();
        let session =
            "INSERT INTO sessions VALUES ('agent:ops:main', 'ops', 's1', 'direct', NULL, 'webchat', NULL, NULL,
                       NULL, NULL, 1, 1, 3, 0, 0, 0, '', '{}')";
        conn.execute(session, []).unwrap();
        let archived = "INSERT INTO archives VALUES (1, 's0', 'agent:main:old', 'reset', 9, 1, 1)";
        conn.execute(archived, []).unwrap();
        let insert = "INSERT INTO transcript (session_id, seq, message_id, role, at_ms, message)
                      VALUES (?1, ?2, ?2, ?3, ?4, ?5)";
        for (session_id, seq, role, at_ms, message) in [
            ("s0", 1, "user", 1, r#"{"content":"as text"}"#),
            ("s1", 1, "user", 10, r#"{"content":[{"type":"text","text":"hi"}]}"#),
            (
                "s1",
                2,
                "assistant",
                15,
                r#"{"content":[{"type":"toolCall","name":"read"}],"provider":"p","model":"m","stopReason":"toolUse",
                    "usage":{"input":7,"output":3,"cacheRead":0,"cacheWrite":0,
                             "cost":{"input":0.5,"output":0,"cacheRead":0,"cacheWrite":0,"total":0.5}}}"#,
            ),
            ("s1", 3, "toolResult", 17, r#"{"content":[],"isError":true}"#),
            ("s1", 4, "system", 18, r#"{"content":[]}"#),
        ] {
            conn.execute(insert, (session_id, seq, role, at_ms, message)).unwrap();
        }

        migrate(&mut conn, MIGRATIONS).unwrap();

        let mut rows = Vec::new();
        let queries = crate::store::db::Queries::new(conn);
        let filter = crate::store::usage::UsageFilter::default();
        queries
            .usage_each(&filter, |of, row| {
                let spent = row.spent.map(|spent| (spent.provider, spent.input, spent.cost));
                let who = format!("{} {} {:?}", of.session_key, of.agent_id, of.channel.as_deref());
                rows.push((who, row.at_ms, row.is_error, row.latency_ms, spent, row.tools.join(",")));
            })
            .unwrap();
        let ops = || String::from("agent:ops:main ops Some(\"webchat\")");
        let spent = Some((String::from("p"), 7, Some([0.5, 0.0, 0.0, 0.0])));
        let none = String::new;
        assert_eq!(
            rows,
            [
                (String::from("agent:main:old main None"), 1, false, None, None, none()),
                (ops(), 10, false, None, None, none()),
                (ops(), 15, false, Some(5), spent, String::from("read")),
                (ops(), 17, true, None, None, none()),
            ]
        );
    }
}
