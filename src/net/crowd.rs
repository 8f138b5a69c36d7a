//! Who is connected and how much of the room they may take.
//!
//! A socket that has not yet said anything costs its sender nothing, so what such sockets may hold is bounded by
//! address, and when room is short the oldest of them makes way. A client that speaks as it connects is never in the
//! way of a flood that does not.

use std::collections::{BTreeMap, HashMap};

use super::limits::PeerKey;
use crate::protocol::ConnId;

/// Sockets of one address that have not sent a complete request head; beyond it the oldest of them is closed.
pub const SILENT_PER_ADDRESS_MAX: usize = 128;
/// WebSockets of one address whose `connect` has not been accepted; beyond it an upgrade is answered 503 (upstream's
/// number). Trusted proxies are exempt: they speak for many.
pub const STRANGERS_PER_ADDRESS_MAX: usize = 32;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No complete request head has arrived.
    Silent,
    /// Speaks HTTP.
    Http,
    /// A WebSocket before its `connect` is accepted.
    Stranger,
    /// A WebSocket after that.
    Admitted,
}

/// What is to be done so that a new connection fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Nothing.
    Free,
    /// Close this one.
    Evict(ConnId),
    /// There is none: refuse the new one.
    None,
}

/// Counts of one address.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    connections: usize,
    silent: usize,
    strangers: usize,
}

/// All connections by address and standing.
#[derive(Debug, Default)]
pub struct Crowd {
    addresses: HashMap<PeerKey, Counts>,
    // Ids grow, so the first is the oldest.
    silent: BTreeMap<ConnId, PeerKey>,
    connections: usize,
}

impl Crowd {
    /// Whether a connection from `key` fits beside the others.
    pub fn room(&self, key: PeerKey, connections_max: usize) -> Room {
        let of_address = self.addresses.get(&key).map_or(0, |counts| counts.silent);
        if of_address >= SILENT_PER_ADDRESS_MAX {
            let oldest = self.silent.iter().find(|(_, other)| **other == key).map(|(id, _)| *id);
            return oldest.map_or(Room::None, Room::Evict);
        }
        if self.connections >= connections_max {
            return self.silent.first_key_value().map_or(Room::None, |(id, _)| Room::Evict(*id));
        }
        Room::Free
    }

    /// Whether one more WebSocket of `key` may wait for its `connect`.
    pub fn takes_stranger(&self, key: PeerKey) -> bool {
        self.addresses.get(&key).is_none_or(|counts| counts.strangers < STRANGERS_PER_ADDRESS_MAX)
    }

    /// A connection was accepted; it is [`Standing::Silent`].
    pub fn enter(&mut self, id: ConnId, key: PeerKey) {
        self.connections += 1;
        self.addresses.entry(key).or_default().connections += 1;
        self.count(id, key, Standing::Silent);
    }

    /// A connection's standing changed.
    pub fn change(&mut self, id: ConnId, key: PeerKey, from: Standing, to: Standing) {
        self.uncount(id, key, from);
        self.count(id, key, to);
    }

    /// A connection ended.
    pub fn leave(&mut self, id: ConnId, key: PeerKey, standing: Standing) {
        self.uncount(id, key, standing);
        self.connections -= 1;
        if let Some(counts) = self.addresses.get_mut(&key) {
            counts.connections -= 1;
            if counts.connections == 0 {
                self.addresses.remove(&key);
            }
        }
        self.check_invariants();
    }

    fn count(&mut self, id: ConnId, key: PeerKey, standing: Standing) {
        let counts = self.addresses.entry(key).or_default();
        match standing {
            Standing::Silent => {
                counts.silent += 1;
                self.silent.insert(id, key);
            }
            Standing::Stranger => counts.strangers += 1,
            Standing::Http | Standing::Admitted => {}
        }
    }

    fn uncount(&mut self, id: ConnId, key: PeerKey, standing: Standing) {
        let counts = self.addresses.entry(key).or_default();
        match standing {
            Standing::Silent => {
                counts.silent -= 1;
                self.silent.remove(&id);
            }
            Standing::Stranger => counts.strangers -= 1,
            Standing::Http | Standing::Admitted => {}
        }
    }

    #[cfg(not(debug_assertions))]
    fn check_invariants(&self) {}

    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        let sum = |count: fn(&Counts) -> usize| self.addresses.values().map(count).sum::<usize>();
        assert_eq!(sum(|c| c.connections), self.connections, "each connection has one address");
        assert_eq!(sum(|c| c.silent), self.silent.len(), "each silent connection is listed");
        assert!(self.addresses.values().all(|c| c.connections > 0), "no address without a connection is kept");
        assert!(self.addresses.values().all(|c| c.silent + c.strangers <= c.connections), "each is counted once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PeerKey {
        PeerKey::of(std::net::Ipv4Addr::new(192, 0, 2, n).into())
    }

    #[test]
    fn the_oldest_silent_socket_of_an_address_makes_way() {
        let mut crowd = Crowd::default();
        crowd.enter(ConnId(1), key(9));
        for n in 0..SILENT_PER_ADDRESS_MAX as u64 {
            assert_eq!(crowd.room(key(1), 9999), Room::Free);
            crowd.enter(ConnId(10 + n), key(1));
        }
        assert_eq!(crowd.room(key(1), 9999), Room::Evict(ConnId(10)));
        assert_eq!(crowd.room(key(2), 9999), Room::Free);
        crowd.change(ConnId(10), key(1), Standing::Silent, Standing::Http);
        assert_eq!(crowd.room(key(1), 9999), Room::Free);
    }

    #[test]
    fn a_full_house_sends_the_silent_away_and_nobody_else() {
        let mut crowd = Crowd::default();
        crowd.enter(ConnId(1), key(1));
        crowd.enter(ConnId(2), key(2));
        assert_eq!(crowd.room(key(3), 2), Room::Evict(ConnId(1)));
        crowd.change(ConnId(1), key(1), Standing::Silent, Standing::Stranger);
        assert_eq!(crowd.room(key(3), 2), Room::Evict(ConnId(2)));
        crowd.change(ConnId(2), key(2), Standing::Silent, Standing::Http);
        assert_eq!(crowd.room(key(3), 2), Room::None);
        crowd.leave(ConnId(2), key(2), Standing::Http);
        assert_eq!(crowd.room(key(3), 2), Room::Free);
    }

    #[test]
    fn strangers_are_counted_by_address_until_they_are_admitted() {
        let mut crowd = Crowd::default();
        for n in 0..STRANGERS_PER_ADDRESS_MAX as u64 {
            assert!(crowd.takes_stranger(key(1)));
            crowd.enter(ConnId(n), key(1));
            crowd.change(ConnId(n), key(1), Standing::Silent, Standing::Stranger);
        }
        assert!(!crowd.takes_stranger(key(1)));
        assert!(crowd.takes_stranger(key(2)));
        crowd.change(ConnId(0), key(1), Standing::Stranger, Standing::Admitted);
        assert!(crowd.takes_stranger(key(1)));
        for n in 0..STRANGERS_PER_ADDRESS_MAX as u64 {
            let standing = if n == 0 { Standing::Admitted } else { Standing::Stranger };
            crowd.leave(ConnId(n), key(1), standing);
        }
        assert!(crowd.addresses.is_empty(), "an address that left is forgotten");
    }
}
