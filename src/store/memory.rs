//! What SQLite holds in memory, by its own count, over all connections of the process.

/// Bytes in use and the most that ever were.
pub fn heap_bytes() -> (u64, u64) {
    // SAFETY: both calls read a counter that SQLite keeps under its own lock; they may be made at any time, from any
    // thread, with or without an open connection. The 0 leaves the mark where it is.
    let (used, most) = unsafe { (rusqlite::ffi::sqlite3_memory_used(), rusqlite::ffi::sqlite3_memory_highwater(0)) };
    let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
    (bytes(used), bytes(most))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_open_database_holds_memory() {
        let (_dir, _database) = super::super::open::tests::scratch();
        let (used, most) = super::heap_bytes();
        assert!(used > 0, "SQLite keeps count");
        assert!(most >= used);
    }
}
