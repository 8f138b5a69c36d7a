//! Paired devices and requests to be paired (protocol 7, SEC-21 to SEC-24).
//!
//! The handshake needs all of it at once and without waiting, so it is loaded at the start ([`Queries::devices_load`])
//! and lives in memory; these tables are how it survives. What a device's tokens are derived from is part of its
//! record; no token is stored.

use rusqlite::{Row, named_params};

use super::StoreError;
use super::db::{Columns, Db, Queries, check_size, to_json};

/// Paired devices at most (SEC-23); beyond it the one not seen for longest goes.
pub const DEVICES_PAIRED_MAX: usize = 2048;
/// Requests to be paired at most (SEC-23); beyond it the oldest goes.
pub const PAIRS_PENDING_MAX: usize = 512;
/// Life of a request to be paired, in milliseconds: 5 minutes (protocol 7).
pub const PAIRS_PENDING_TTL_MS: i64 = 5 * 60 * 1000;
/// Largest record of a device or a request, in bytes of JSON.
pub const DEVICE_RECORD_BYTES_MAX: usize = 16 * 1024;
/// Largest id, key, role list or scope list, in bytes.
pub const DEVICE_TEXT_BYTES_MAX: usize = 4 * 1024;

const DEVICE_COLUMNS: &str = "device_id, public_key, roles, scopes, created_ms, approved_ms, last_seen_ms, record";
const PENDING_COLUMNS: &str = "request_id, device_id, at_ms, record";

/// A paired device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// The device's id.
    pub device_id: String,
    /// Its public key as sent.
    pub public_key: String,
    /// Roles it may take.
    pub roles: Vec<String>,
    /// Scopes it was approved for.
    pub scopes: Vec<String>,
    /// When it was first paired.
    pub created_ms: i64,
    /// When it was last approved.
    pub approved_ms: i64,
    /// When it last connected; at first the time of approval.
    pub last_seen_ms: i64,
    /// Everything else that is known about it, as JSON text.
    pub record: String,
}

impl DeviceRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<DeviceRow> {
        let mut columns = Columns::of(row);
        Ok(DeviceRow {
            device_id: columns.get()?,
            public_key: columns.get()?,
            roles: columns.json()?,
            scopes: columns.json()?,
            created_ms: columns.get()?,
            approved_ms: columns.get()?,
            last_seen_ms: columns.get()?,
            record: columns.get()?,
        })
    }
}

/// A device that asks to be paired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingPairRow {
    /// The request's id.
    pub request_id: String,
    /// The device that asks.
    pub device_id: String,
    /// When it asked, or asked again.
    pub at_ms: i64,
    /// The request as JSON text.
    pub record: String,
}

impl PendingPairRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<PendingPairRow> {
        let mut columns = Columns::of(row);
        Ok(PendingPairRow {
            request_id: columns.get()?,
            device_id: columns.get()?,
            at_ms: columns.get()?,
            record: columns.get()?,
        })
    }
}

/// Everything about devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// In the order they were first paired.
    pub paired: Vec<DeviceRow>,
    /// Oldest first.
    pub pending: Vec<PendingPairRow>,
}

impl Queries {
    /// Everything about devices; requests that are too old at `now_ms` are left out.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn devices_load(&self, now_ms: i64) -> Result<Devices, StoreError> {
        Ok(Devices {
            paired: self.rows(
                &format!("SELECT {DEVICE_COLUMNS} FROM devices ORDER BY created_ms, device_id LIMIT ?1"),
                [DEVICES_PAIRED_MAX as i64],
                DeviceRow::read,
            )?,
            pending: self.rows(
                &format!("SELECT {PENDING_COLUMNS} FROM pending_pairs WHERE at_ms > ?1 ORDER BY at_ms LIMIT ?2"),
                (now_ms - PAIRS_PENDING_TTL_MS, PAIRS_PENDING_MAX as i64),
                PendingPairRow::read,
            )?,
        })
    }
}

impl Db<'_> {
    /// Writes a device, new or not. Returns the devices that had to make room.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of a statement.
    pub fn device_put(&self, device: &DeviceRow) -> Result<Vec<String>, StoreError> {
        let (roles, scopes) = (to_json(&device.roles), to_json(&device.scopes));
        check_size("device record", device.record.len(), DEVICE_RECORD_BYTES_MAX)?;
        for (what, size_bytes) in [
            ("device id", device.device_id.len()),
            ("device public key", device.public_key.len()),
            ("device roles", roles.len()),
            ("device scopes", scopes.len()),
        ] {
            check_size(what, size_bytes, DEVICE_TEXT_BYTES_MAX)?;
        }
        self.run(
            "INSERT INTO devices (device_id, public_key, roles, scopes, created_ms, approved_ms, last_seen_ms, record)
             VALUES (:device_id, :public_key, :roles, :scopes, :created_ms, :approved_ms, :last_seen_ms, :record)
             ON CONFLICT (device_id) DO UPDATE SET public_key = :public_key, roles = :roles, scopes = :scopes, \
                 created_ms = :created_ms, approved_ms = :approved_ms, last_seen_ms = :last_seen_ms, \
                 record = :record",
            named_params! {
                ":device_id": device.device_id,
                ":public_key": device.public_key,
                ":roles": roles,
                ":scopes": scopes,
                ":created_ms": device.created_ms,
                ":approved_ms": device.approved_ms,
                ":last_seen_ms": device.last_seen_ms,
                ":record": device.record,
            },
        )?;
        self.rows(
            "DELETE FROM devices WHERE device_id IN
                 (SELECT device_id FROM devices WHERE device_id <> ?1 ORDER BY last_seen_ms
                  LIMIT max((SELECT count(*) FROM devices) - ?2, 0))
             RETURNING device_id",
            (&device.device_id, DEVICES_PAIRED_MAX as i64),
            |row| row.get(0),
        )
    }

    /// Removes a device and its requests; returns whether it was paired.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn device_delete(&self, device_id: &str) -> Result<bool, StoreError> {
        self.run("DELETE FROM pending_pairs WHERE device_id = ?1", [device_id])?;
        Ok(self.run("DELETE FROM devices WHERE device_id = ?1", [device_id])? > 0)
    }

    /// Writes a request to be paired, new or refreshed. Returns the requests that were too old or had to make room.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of a statement.
    pub fn pending_pair_put(&self, pending: &PendingPairRow) -> Result<Vec<String>, StoreError> {
        check_size("pairing request", pending.record.len(), DEVICE_RECORD_BYTES_MAX)?;
        check_size("pairing request id", pending.request_id.len(), DEVICE_TEXT_BYTES_MAX)?;
        check_size("device id", pending.device_id.len(), DEVICE_TEXT_BYTES_MAX)?;
        self.run(
            "INSERT INTO pending_pairs (request_id, device_id, at_ms, record) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (request_id) DO UPDATE SET device_id = ?2, at_ms = ?3, record = ?4",
            (&pending.request_id, &pending.device_id, pending.at_ms, &pending.record),
        )?;
        let mut gone = self.pending_pairs_expire(pending.at_ms)?;
        gone.extend(self.rows(
            "DELETE FROM pending_pairs WHERE request_id IN
                 (SELECT request_id FROM pending_pairs WHERE request_id <> ?1 ORDER BY at_ms
                  LIMIT max((SELECT count(*) FROM pending_pairs) - ?2, 0))
             RETURNING request_id",
            (&pending.request_id, PAIRS_PENDING_MAX as i64),
            |row| row.get::<_, String>(0),
        )?);
        Ok(gone)
    }

    /// Removes a request that was answered; returns whether it was there.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn pending_pair_delete(&self, request_id: &str) -> Result<bool, StoreError> {
        Ok(self.run("DELETE FROM pending_pairs WHERE request_id = ?1", [request_id])? > 0)
    }

    /// Removes the requests that are too old at `now_ms` and returns their ids.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn pending_pairs_expire(&self, now_ms: i64) -> Result<Vec<String>, StoreError> {
        self.rows(
            "DELETE FROM pending_pairs WHERE at_ms <= ?1 RETURNING request_id",
            [now_ms - PAIRS_PENDING_TTL_MS],
            |row| row.get(0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::tests::scratch;
    use super::*;

    fn device(device_id: &str, last_seen_ms: i64) -> DeviceRow {
        DeviceRow {
            device_id: device_id.to_owned(),
            public_key: String::from("key"),
            roles: vec![String::from("operator")],
            scopes: vec![String::from("operator.read")],
            created_ms: 1,
            approved_ms: 2,
            last_seen_ms,
            record: String::from(r#"{"platform":"linux"}"#),
        }
    }

    fn pending(request_id: &str, at_ms: i64) -> PendingPairRow {
        let (request_id, device_id) = (request_id.to_owned(), String::from("d"));
        PendingPairRow { request_id, device_id, at_ms, record: String::from("{}") }
    }

    #[test]
    fn what_was_written_is_loaded() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                db.device_put(&device("d", 1))?;
                db.pending_pair_put(&pending("r", 3))
            })
            .unwrap();
        let expected = Devices { paired: vec![device("d", 1)], pending: vec![pending("r", 3)] };
        assert_eq!(database.devices_load(4).unwrap(), expected);
    }

    #[test]
    fn a_removed_device_takes_its_requests_along() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                db.device_put(&device("d", 1))?;
                db.pending_pair_put(&pending("r", 1))?;
                assert!(db.device_delete("d")?);
                assert!(!db.device_delete("d")?);
                assert_eq!(db.devices_load(1)?, Devices::default());
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn the_device_not_seen_for_longest_makes_room() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for n in 0..DEVICES_PAIRED_MAX {
                    // The first one paired is in daily use.
                    let last_seen_ms = if n == 0 { i64::MAX } else { n as i64 };
                    assert_eq!(db.device_put(&device(&format!("d{n}"), last_seen_ms))?, [""; 0]);
                }
                assert_eq!(db.device_put(&device("new", 0))?, ["d1"]);
                assert_eq!(db.devices_load(0)?.paired.len(), DEVICES_PAIRED_MAX);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn the_oldest_request_makes_room_and_old_ones_expire() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for n in 0..PAIRS_PENDING_MAX {
                    assert_eq!(db.pending_pair_put(&pending(&format!("r{n}"), n as i64))?, [""; 0]);
                }
                assert_eq!(db.pending_pair_put(&pending("r1", 600))?, [""; 0], "a refresh adds none");
                assert_eq!(db.pending_pair_put(&pending("new", 601))?, ["r0"]);
                assert_eq!(db.pending_pairs_expire(PAIRS_PENDING_TTL_MS + 2)?, ["r2"]);
                assert_eq!(db.devices_load(PAIRS_PENDING_TTL_MS + 600)?.pending.len(), 1, "old ones are not loaded");
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
}
