//! Single values that must survive a restart and have no table of their own: switches, files kept as JSON, counters.

use super::StoreError;
use super::db::{Db, Queries, check_size};

/// Values at most; the keys are ours, so reaching it is a defect.
pub const META_ROWS_MAX: usize = 1024;
/// Largest key, in bytes.
pub const META_KEY_BYTES_MAX: usize = 256;
/// Largest value, in bytes.
pub const META_VALUE_BYTES_MAX: usize = 1024 * 1024;

impl Queries {
    /// A value by its key.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.first("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
    }

    /// Every key that starts with `prefix`, with its value, in key order.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn meta_with_prefix(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        self.rows(
            // The last character there is ends the range of keys that start with the prefix.
            "SELECT key, value FROM meta WHERE key >= ?1 AND key < ?1 || char(1114111) ORDER BY key",
            [prefix],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }
}

impl Db<'_> {
    /// Writes a value.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::TableFull`] at [`META_ROWS_MAX`], and those of a statement.
    pub fn meta_put(&self, key: &str, value: &str, now_ms: i64) -> Result<(), StoreError> {
        check_size("meta key", key.len(), META_KEY_BYTES_MAX)?;
        check_size("meta value", value.len(), META_VALUE_BYTES_MAX)?;
        if self.run("UPDATE meta SET value = ?2, updated_ms = ?3 WHERE key = ?1", (key, value, now_ms))? > 0 {
            return Ok(());
        }
        let n_rows: i64 = self.one("SELECT count(*) FROM meta", [], |row| row.get(0))?;
        if n_rows >= META_ROWS_MAX as i64 {
            return Err(StoreError::TableFull { what: "meta table", rows_max: META_ROWS_MAX });
        }
        self.run("INSERT INTO meta (key, value, updated_ms) VALUES (?1, ?2, ?3)", (key, value, now_ms))?;
        Ok(())
    }

    /// Removes a value; returns whether it was there.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn meta_delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.run("DELETE FROM meta WHERE key = ?1", [key])? > 0)
    }

    /// Adds one to a number, which starts at 0, and returns it.
    ///
    /// # Errors
    /// [`StoreError::BadRow`] when the value is not a number, and those of [`Db::meta_put`].
    pub fn meta_count(&self, key: &str, now_ms: i64) -> Result<u64, StoreError> {
        let number = match self.meta(key)? {
            None => 0,
            Some(text) => text
                .parse::<u64>()
                .map_err(|error| StoreError::BadRow { what: format!("meta value {key}"), detail: error.to_string() })?,
        };
        let number = number.saturating_add(1);
        self.meta_put(key, &number.to_string(), now_ms)?;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::tests::scratch;
    use super::*;

    #[test]
    fn keeps_replaces_lists_and_removes_values() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for (key, value) in [("a.x", "1"), ("a.y", "2"), ("b", "3"), ("a.x", "4")] {
                    db.meta_put(key, value, 0)?;
                }
                assert_eq!(db.meta("a.x")?.as_deref(), Some("4"));
                let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
                assert_eq!(db.meta_with_prefix("a.")?, [pair("a.x", "4"), pair("a.y", "2")]);
                assert!(db.meta_delete("b")?);
                assert_eq!(db.meta("b")?, None);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn counts_from_one_and_refuses_to_count_text() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                assert_eq!((db.meta_count("starts", 0)?, db.meta_count("starts", 0)?), (1, 2));
                db.meta_put("starts", "many", 0)?;
                assert!(matches!(db.meta_count("starts", 0), Err(StoreError::BadRow { .. })));
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn a_full_table_still_takes_changes() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for n in 0..META_ROWS_MAX {
                    db.meta_put(&n.to_string(), "", 0)?;
                }
                assert!(matches!(db.meta_put("one more", "", 0), Err(StoreError::TableFull { .. })));
                db.meta_put("0", "changed", 0)
            })
            .unwrap();
    }
}
