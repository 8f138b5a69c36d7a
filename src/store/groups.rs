//! Groups of the session list: their order, and what a new session of a group begins with.
//!
//! Which group a session is in is the session's own business (`category` in its entry); this table says which groups
//! there are, also empty ones, and in which order. Renaming or deleting one changes its sessions in the same
//! transaction, and not their time of change: looking after groups is no news in a session.

use std::collections::BTreeMap;

use rusqlite::Row;

use super::StoreError;
use super::db::{Columns, Db, Queries, check_size, signed};

/// Groups at most.
pub const GROUPS_MAX: usize = 500;
/// Largest name of a group, in bytes: 512 characters.
pub const GROUP_NAME_BYTES_MAX: usize = 4 * 512;
/// Largest path a group begins with, in bytes.
pub const GROUP_CWD_BYTES_MAX: usize = 4096;

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// Its name.
    pub name: String,
    /// Groups are shown by this, equal ones by name.
    pub position: u64,
    /// Where a new session of it works.
    pub cwd: Option<String>,
    /// Whether a new session of it has a tree of its own; `None`: nobody said.
    pub worktree: Option<bool>,
}

impl GroupRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<GroupRow> {
        let mut columns = Columns::of(row);
        Ok(GroupRow { name: columns.get()?, position: columns.count()?, cwd: columns.get()?, worktree: columns.get()? })
    }
}

impl Queries {
    /// All groups, in their order.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn groups(&self) -> Result<Vec<GroupRow>, StoreError> {
        self.rows(
            "SELECT name, position, cwd, worktree FROM session_groups ORDER BY position, name",
            [],
            GroupRow::read,
        )
    }

    /// One group.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn group(&self, name: &str) -> Result<Option<GroupRow>, StoreError> {
        self.first("SELECT name, position, cwd, worktree FROM session_groups WHERE name = ?1", [name], GroupRow::read)
    }

    /// How many sessions are in each group that has any.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn group_members(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let sql = "SELECT json_extract(entry, '$.category') AS name, count(*) FROM sessions \
                   WHERE name IS NOT NULL GROUP BY name";
        let rows = self.rows(sql, [], |row| {
            let mut columns = Columns::of(row);
            Ok((columns.get()?, columns.count()?))
        })?;
        Ok(rows.into_iter().collect())
    }
}

impl Db<'_> {
    /// Enters a group behind the others, unless it is there; says whether it was entered.
    ///
    /// # Errors
    /// [`StoreError::TableFull`] at [`GROUPS_MAX`], [`StoreError::TooLarge`], and those of a statement.
    pub fn group_register(&self, name: &str) -> Result<bool, StoreError> {
        if self.group(name)?.is_some() {
            return Ok(false);
        }
        let position =
            self.one("SELECT coalesce(max(position) + 1, 0) FROM session_groups", [], |row| Columns::of(row).count())?;
        self.group_insert(&GroupRow { name: name.to_owned(), position, cwd: None, worktree: None })?;
        Ok(true)
    }

    /// Makes these the groups, in this order; those that were there keep what they begin with.
    ///
    /// The caller has seen to it that no session is in a group that is left out.
    ///
    /// # Errors
    /// As [`Db::group_register`]; nothing is to be kept then.
    pub fn groups_put(&self, names: &[String]) -> Result<(), StoreError> {
        let before = self.groups()?;
        for group in before.iter().filter(|group| !names.contains(&group.name)) {
            self.run("DELETE FROM session_groups WHERE name = ?1", [&group.name])?;
        }
        for (position, name) in names.iter().enumerate() {
            let position = position as u64;
            if before.iter().any(|group| group.name == *name) {
                let sql = "UPDATE session_groups SET position = ?2 WHERE name = ?1";
                self.run(sql, (name, signed(position)))?;
            } else {
                self.group_insert(&GroupRow { name: name.clone(), position, cwd: None, worktree: None })?;
            }
        }
        Ok(())
    }

    fn group_insert(&self, group: &GroupRow) -> Result<(), StoreError> {
        check_size("group name", group.name.len(), GROUP_NAME_BYTES_MAX)?;
        let n_rows: u64 = self.one("SELECT count(*) FROM session_groups", [], |row| Columns::of(row).count())?;
        if n_rows >= GROUPS_MAX as u64 {
            return Err(StoreError::TableFull { what: "group table", rows_max: GROUPS_MAX });
        }
        self.run(
            "INSERT INTO session_groups (name, position, cwd, worktree) VALUES (?1, ?2, ?3, ?4)",
            (&group.name, signed(group.position), &group.cwd, group.worktree),
        )?;
        Ok(())
    }

    /// Gives a group another name; when a group of that name is there, its sessions join that one. Returns how many
    /// sessions there were, `None` when there is no such group.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of a statement.
    pub fn group_rename(&self, from: &str, to: &str) -> Result<Option<u64>, StoreError> {
        check_size("group name", to.len(), GROUP_NAME_BYTES_MAX)?;
        if self.group(from)?.is_none() {
            return Ok(None);
        }
        if from == to {
            return Ok(Some(0));
        }
        if self.group(to)?.is_some() {
            self.run("DELETE FROM session_groups WHERE name = ?1", [from])?;
        } else {
            self.run("UPDATE session_groups SET name = ?2 WHERE name = ?1", [from, to])?;
        }
        let sql = "UPDATE sessions SET entry = json_set(entry, '$.category', ?2) \
                   WHERE json_extract(entry, '$.category') = ?1";
        self.run(sql, [from, to]).map(|n| Some(n as u64))
    }

    /// Removes a group, if it is there, and takes its sessions out of it; returns how many there were.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn group_delete(&self, name: &str) -> Result<u64, StoreError> {
        self.run("DELETE FROM session_groups WHERE name = ?1", [name])?;
        let sql = "UPDATE sessions SET entry = json_remove(entry, '$.category') \
                   WHERE json_extract(entry, '$.category') = ?1";
        self.run(sql, [name]).map(|n| n as u64)
    }

    /// Says what a new session of a group begins with; `false` when there is no such group.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of a statement.
    pub fn group_begins_with(&self, name: &str, cwd: Option<&str>, worktree: bool) -> Result<bool, StoreError> {
        check_size("group directory", cwd.map_or(0, str::len), GROUP_CWD_BYTES_MAX)?;
        let sql = "UPDATE session_groups SET cwd = ?2, worktree = ?3 WHERE name = ?1";
        Ok(self.run(sql, (name, cwd, worktree))? > 0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::open::tests::scratch;
    use super::*;
    use crate::store::sessions::SessionRow;

    fn names(db: &Queries) -> Vec<(String, u64)> {
        db.groups().unwrap().into_iter().map(|group| (group.name, group.position)).collect()
    }

    fn member(db: &Db<'_>, key: &str, group: &str) {
        let mut session = SessionRow::new(key, "main", key, "direct", 1);
        session.entry.insert("category".to_owned(), json!(group));
        session.entry.insert("icon".to_owned(), json!("x"));
        db.session_put(&session).unwrap();
    }

    fn group_of(db: &Queries, key: &str) -> serde_json::Value {
        let entry = db.session(key).unwrap().unwrap().entry;
        assert_eq!(entry["icon"], "x", "the rest is as it was");
        entry.get("category").cloned().unwrap_or_default()
    }

    #[test]
    fn groups_keep_their_order_and_what_they_begin_with() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                db.groups_put(&["b".to_owned(), "a".to_owned()])?;
                assert!(db.group_begins_with("a", Some("/x"), true)?);
                assert!(!db.group_begins_with("c", None, false)?);
                db.groups_put(&["a".to_owned(), "c".to_owned()])?;
                assert!(db.group_register("d")?);
                assert!(!db.group_register("d")?);
                assert_eq!(names(db), [("a".to_owned(), 0), ("c".to_owned(), 1), ("d".to_owned(), 2)]);
                let a = db.group("a")?.unwrap();
                assert_eq!((a.cwd.as_deref(), a.worktree), (Some("/x"), Some(true)));
                assert_eq!(db.group("c")?.unwrap().worktree, None);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn sessions_go_along_with_their_group() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                db.groups_put(&["a".to_owned(), "b".to_owned()])?;
                for (key, group) in [("1", "a"), ("2", "a"), ("3", "b")] {
                    member(db, key, group);
                }
                assert_eq!(db.group_members()?, [("a".to_owned(), 2), ("b".to_owned(), 1)].into());
                assert_eq!(db.group_rename("none", "c")?, None);
                assert_eq!(db.group_rename("a", "a")?, Some(0));
                assert_eq!(db.group_rename("a", "c")?, Some(2));
                assert_eq!(names(db), [("c".to_owned(), 0), ("b".to_owned(), 1)]);
                assert_eq!(db.group_rename("c", "b")?, Some(2), "into one that is there");
                assert_eq!((names(db), db.group_members()?.get("b")), (vec![("b".to_owned(), 1)], Some(&3)));
                assert_eq!((group_of(db, "1"), db.session("1")?.unwrap().updated_ms), (json!("b"), 1));
                assert_eq!(db.group_delete("b")?, 3);
                assert_eq!((group_of(db, "3"), db.group_delete("b")?), (json!(null), 0));
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn there_are_only_so_many_groups() {
        let (_dir, mut database) = scratch();
        let all: Vec<String> = (0..GROUPS_MAX).map(|n| n.to_string()).collect();
        let over = database.write(|db| {
            db.groups_put(&all)?;
            db.group_register("one more")
        });
        assert!(matches!(over, Err(StoreError::TableFull { .. })), "{over:?}");
        database.write(|db| db.groups_put(&all)).unwrap();
        assert_eq!(names(&database).len(), GROUPS_MAX);
    }
}
