//! Devices that ask for more while they are connected: who waits for which request, and how it ended.
//!
//! The request itself is one to be paired ([`super::pairing`]); here is only what its owner is still to be told. An end
//! is noted once it is on disk, and kept for a moment, so that who asks just after it still hears of it.

use crate::protocol::ConnId;
use crate::protocol::scope::Scopes;
use crate::store::devices::PAIRS_PENDING_TTL_MS;

/// Requests followed at once; the oldest is forgotten, and who waits for it hears that it expired.
pub const UPGRADES_MAX: usize = 64;
/// Calls that wait for one request; one more is refused. A page waits with one.
pub const UPGRADE_WAITERS_MAX: usize = 8;
/// How long an end is kept, in milliseconds, as by upstream's gateway.
pub const ENDED_KEPT_MS: i64 = 15_000;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Somebody approved it.
    Approved,
    /// Somebody rejected it, the device was removed, or another request took its place.
    Rejected,
    /// Nobody answered in time.
    Expired,
}

/// A call that waits: the connection to answer, and the call's id.
pub type Waiter = (ConnId, String);

/// What was asked, and by whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Names the request.
    pub request_id: String,
    /// Whose it is; nobody else may wait for it.
    pub device_id: String,
    /// What it asks for.
    pub scopes: Scopes,
}

/// One request.
#[derive(Debug)]
pub struct Upgrade {
    asked: Asked,
    /// Until when it can be answered, or, once ended, is kept.
    until_ms: i64,
    end: Option<End>,
    waiters: Vec<Waiter>,
}

/// Every request that somebody may wait for.
#[derive(Debug, Default)]
pub struct Upgrades {
    list: Vec<Upgrade>,
}

impl Upgrades {
    /// Follows a request from now on; asking again renews it. Returns who waited for one that had to make room.
    pub fn follow(&mut self, request_id: &str, device_id: &str, scopes: &Scopes, now_ms: i64) -> Option<Upgrade> {
        let until_ms = now_ms + PAIRS_PENDING_TTL_MS;
        if let Some(known) = self.list.iter_mut().find(|upgrade| upgrade.asked.request_id == request_id) {
            known.asked.scopes = scopes.clone();
            (known.until_ms, known.end) = (until_ms, None);
            return None;
        }
        let pushed_out = (self.list.len() >= UPGRADES_MAX).then(|| self.list.remove(0));
        self.list.push(Upgrade {
            asked: Asked { request_id: request_id.to_owned(), device_id: device_id.to_owned(), scopes: scopes.clone() },
            until_ms,
            end: None,
            waiters: Vec::new(),
        });
        pushed_out
    }

    /// The request `request_id` of this device.
    pub fn find(&mut self, request_id: &str, device_id: &str) -> Option<&mut Upgrade> {
        let is_it = |asked: &Asked| asked.request_id == request_id && asked.device_id == device_id;
        self.list.iter_mut().find(|upgrade| is_it(&upgrade.asked))
    }

    /// Notes how a request ended, and takes out who waited for it.
    pub fn ended(&mut self, request_id: &str, end: End, now_ms: i64) -> Option<(Asked, Vec<Waiter>)> {
        let upgrade = self.list.iter_mut().find(|upgrade| upgrade.asked.request_id == request_id)?;
        upgrade.end = Some(end);
        upgrade.until_ms = now_ms + ENDED_KEPT_MS;
        Some((upgrade.asked.clone(), std::mem::take(&mut upgrade.waiters)))
    }

    /// The requests whose time is over: those that had not ended expire now, those that had are forgotten.
    pub fn overdue(&mut self, now_ms: i64) -> Vec<String> {
        self.list.retain(|upgrade| upgrade.end.is_none() || now_ms < upgrade.until_ms);
        let over = self.list.iter().filter(|upgrade| upgrade.end.is_none() && now_ms >= upgrade.until_ms);
        over.map(|upgrade| upgrade.asked.request_id.clone()).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl Upgrade {
    /// What was asked.
    pub fn asked(&self) -> Asked {
        self.asked.clone()
    }

    /// How it ended, if it did.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Adds a call that waits; `is_open` says which connections are still there. `false`: too many wait already.
    pub fn wait(&mut self, waiter: Waiter, is_open: impl Fn(ConnId) -> bool) -> bool {
        self.waiters.retain(|(conn, _)| is_open(*conn));
        if self.waiters.len() >= UPGRADE_WAITERS_MAX {
            return false;
        }
        self.waiters.push(waiter);
        true
    }

    /// Who waits.
    pub fn into_waiters(self) -> Vec<Waiter> {
        self.waiters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes() -> Scopes {
        Scopes::from_names(["operator.write"])
    }

    #[test]
    fn an_end_is_kept_for_a_moment_and_told_to_all_who_wait() {
        let mut upgrades = Upgrades::default();
        upgrades.follow("r", "d", &scopes(), 0);
        assert!(upgrades.find("r", "other").is_none(), "another device's");
        for n in 0..2 {
            assert!(upgrades.find("r", "d").unwrap().wait((ConnId(n), "w".to_owned()), |_| true));
        }
        assert_eq!(upgrades.ended("r", End::Approved, 10).unwrap().1.len(), 2);
        assert!(upgrades.ended("another", End::Approved, 10).is_none());
        assert_eq!(upgrades.find("r", "d").unwrap().end(), Some(End::Approved));
        assert!(upgrades.overdue(10 + ENDED_KEPT_MS - 1).is_empty());
        assert_eq!(upgrades.len(), 1);
        assert!(upgrades.overdue(10 + ENDED_KEPT_MS).is_empty());
        assert!(upgrades.is_empty());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut upgrades = Upgrades::default();
        upgrades.follow("r", "d", &scopes(), 0);
        assert!(upgrades.overdue(PAIRS_PENDING_TTL_MS - 1).is_empty());
        assert_eq!(upgrades.overdue(PAIRS_PENDING_TTL_MS), ["r"]);
        upgrades.follow("r", "d", &scopes(), PAIRS_PENDING_TTL_MS);
        assert!(upgrades.overdue(PAIRS_PENDING_TTL_MS).is_empty(), "asking again renews it");
    }

    #[test]
    fn requests_and_who_waits_are_bounded() {
        let mut upgrades = Upgrades::default();
        for n in 0..UPGRADES_MAX {
            assert!(upgrades.follow(&format!("r{n}"), "d", &scopes(), 0).is_none());
        }
        assert!(upgrades.find("r0", "d").unwrap().wait((ConnId(1), "w".to_owned()), |_| true));
        let out = upgrades.follow("one more", "d", &scopes(), 0).unwrap();
        assert_eq!((out.asked().request_id.as_str(), upgrades.len()), ("r0", UPGRADES_MAX));
        assert_eq!(out.into_waiters().len(), 1);
        let upgrade = upgrades.find("r1", "d").unwrap();
        for n in 0..UPGRADE_WAITERS_MAX {
            assert!(upgrade.wait((ConnId(n as u64), "w".to_owned()), |_| true));
        }
        assert!(!upgrade.wait((ConnId(99), "w".to_owned()), |_| true));
        assert!(upgrade.wait((ConnId(99), "w".to_owned()), |conn| conn != ConnId(3)), "one had gone");
    }
}
