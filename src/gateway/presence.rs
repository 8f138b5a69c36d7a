//! Who is here: the list behind `presence` events and `system-presence`.

use serde::Serialize;

use crate::protocol::version::Protocol;

/// Entries kept at most, the gateway's own included; the oldest that left go first.
pub const ENTRIES_MAX: usize = 200;
/// How long an entry stays after its client left, or after its last `system-event`, in milliseconds.
pub const LINGER_MS: i64 = 5 * 60 * 1000;

/// One entry, with its wire names. Absent fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the wire contract's presence entry, field for field")]
pub struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_identifier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_input_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    pub text: String,
    pub ts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub watched_sessions: Vec<String>,
}

impl Entry {
    /// The line a person reads of the gateway: `Gateway: HOST (IP) · app VERSION · mode MODE · reason REASON`, with the
    /// parts there are.
    pub fn describe_gateway(&mut self) {
        let host = self.host.as_deref().unwrap_or("unknown");
        let mut text = format!("Gateway: {host}");
        if let Some(ip) = &self.ip {
            text.push_str(&format!(" ({ip})"));
        }
        for (label, value) in [("app", &self.version), ("mode", &self.mode), ("reason", &self.reason)] {
            if let Some(value) = value {
                text.push_str(&format!(" · {label} {value}"));
            }
        }
        self.text = text;
    }
}

#[derive(Debug)]
struct Slot {
    key: String,
    entry: Entry,
    /// Whether a connection keeps it alive; otherwise it ages.
    connected: bool,
    /// Who is shown it.
    shown: Shown,
}

/// To whose clients an entry is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// To all.
    All,
    /// To those of protocol 3, which lists programs and probes too.
    OnlyV3,
}

/// Version of the gateway in its own entry as protocol 3's clients read it: what upstream's package of that release says.
const OWN_VERSION_V3: &str = "unknown";

/// The list.
#[derive(Debug)]
pub struct Presence {
    slots: Vec<Slot>,
    version: u64,
}

impl Presence {
    /// A list of the gateway alone.
    pub fn new(own: Entry) -> Presence {
        let slots = vec![Slot { key: "gateway".to_owned(), entry: own, connected: true, shown: Shown::All }];
        Presence { slots, version: 1 }
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many entries there are, the gateway's own included.
    #[expect(clippy::len_without_is_empty, reason = "the gateway itself is always there")]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The entries as clients of `protocol` read them, the gateway first, then the newest.
    pub fn entries(&self, protocol: Protocol) -> Vec<Entry> {
        let shown = |slot: &&Slot| protocol == Protocol::V3 || slot.shown == Shown::All;
        let mut own: Vec<Entry> = self.slots.iter().take(1).map(|slot| slot.entry.clone()).collect();
        let mut rest: Vec<Entry> = self.slots.iter().skip(1).filter(shown).map(|slot| slot.entry.clone()).collect();
        rest.sort_by_key(|entry| std::cmp::Reverse(entry.ts));
        if protocol == Protocol::V3 {
            for gateway in &mut own {
                gateway.version = Some(OWN_VERSION_V3.to_owned());
                gateway.describe_gateway();
            }
            // Protocol 3's entry is closed, and has no such fields.
            for entry in own.iter_mut().chain(&mut rest) {
                entry.client_id = None;
                entry.watched_sessions = Vec::new();
            }
        }
        own.append(&mut rest);
        own
    }

    /// Enters or replaces the entry `key`.
    pub fn put(&mut self, key: &str, entry: Entry, connected: bool, shown: Shown) {
        self.version += 1;
        match self.slots.iter_mut().skip(1).find(|slot| slot.key == key) {
            Some(slot) => {
                slot.connected |= connected;
                slot.entry = entry;
                slot.shown = shown;
            }
            None => {
                if self.slots.len() >= ENTRIES_MAX {
                    self.forget_one();
                }
                self.slots.push(Slot { key: key.to_owned(), entry, connected, shown });
            }
        }
        debug_assert!(self.slots.len() <= ENTRIES_MAX, "presence holds at most {ENTRIES_MAX} entries");
    }

    /// The entry `key`.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.slots.iter().skip(1).find(|slot| slot.key == key).map(|slot| &slot.entry)
    }

    /// The clients of `key` look at these sessions now; says whether they looked at others before.
    pub fn watches(&mut self, key: &str, sessions: Vec<String>) -> bool {
        let slot = self.slots.iter_mut().skip(1).find(|slot| slot.key == key);
        let Some(slot) = slot.filter(|slot| slot.entry.watched_sessions != sessions) else { return false };
        slot.entry.watched_sessions = sessions;
        self.version += 1;
        true
    }

    /// The client of `key` is gone: its entry lingers and says so.
    pub fn left(&mut self, key: &str, now_ms: i64) {
        if let Some(slot) = self.slots.iter_mut().skip(1).find(|slot| slot.key == key) {
            self.version += 1;
            slot.connected = false;
            slot.entry.reason = Some("disconnect".to_owned());
            slot.entry.watched_sessions = Vec::new();
            slot.entry.ts = now_ms;
        }
    }

    /// Drops what lingered long enough; says whether anything went.
    pub fn age(&mut self, now_ms: i64) -> bool {
        let before = self.slots.len();
        let mut own = true;
        self.slots.retain(|slot| std::mem::take(&mut own) || slot.connected || now_ms - slot.entry.ts < LINGER_MS);
        let changed = self.slots.len() != before;
        self.version += u64::from(changed);
        changed
    }

    /// Makes room: the oldest of those that left, else the oldest of all but the gateway.
    fn forget_one(&mut self) {
        let oldest = (1..self.slots.len()).min_by_key(|idx| (self.slots[*idx].connected, self.slots[*idx].entry.ts));
        if let Some(idx) = oldest {
            self.slots.remove(idx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ts: i64) -> Entry {
        Entry { ts, ..Entry::default() }
    }

    #[test]
    fn protocol_3_sees_programs_too_and_no_field_of_protocol_4() {
        let own = Entry { version: Some("1".to_owned()), mode: Some("gateway".to_owned()), ..entry(0) };
        let mut presence = Presence::new(own);
        let of = |mode: &str| Entry {
            mode: Some(mode.to_owned()),
            client_id: Some("gateway-client".to_owned()),
            version: Some("7".to_owned()),
            ..entry(1)
        };
        presence.put("a", of("backend"), true, Shown::OnlyV3);
        presence.put("b", of("ui"), true, Shown::All);
        let modes = |protocol| -> Vec<String> {
            presence.entries(protocol).into_iter().filter_map(|entry| entry.mode).collect()
        };
        assert_eq!(modes(Protocol::V3), ["gateway", "backend", "ui"]);
        assert_eq!(modes(Protocol::V4), ["gateway", "ui"]);
        let v3 = presence.entries(Protocol::V3);
        assert!(v3.iter().all(|entry| entry.client_id.is_none()));
        assert_eq!(v3[0].version.as_deref(), Some(OWN_VERSION_V3));
        assert!(v3[0].text.contains("app unknown"), "{}", v3[0].text);
        assert_eq!(v3[1].version.as_deref(), Some("7"));
        assert_eq!(presence.entries(Protocol::V4)[1].client_id.as_deref(), Some("gateway-client"));
    }

    #[test]
    fn what_a_client_looks_at_is_shown_on_protocol_4_until_it_leaves() {
        let mut presence = Presence::new(entry(0));
        presence.put("a", entry(1), true, Shown::All);
        let version = presence.version();
        assert!(presence.watches("a", vec!["s".to_owned()]));
        assert!(!presence.watches("a", vec!["s".to_owned()]), "nothing changed");
        assert!(!presence.watches("b", vec!["s".to_owned()]), "nobody of that name");
        assert_eq!(presence.version(), version + 1);
        assert_eq!(presence.entries(Protocol::V4)[1].watched_sessions, ["s"]);
        assert!(presence.entries(Protocol::V3)[1].watched_sessions.is_empty());
        presence.left("a", 2);
        assert!(presence.entries(Protocol::V4)[1].watched_sessions.is_empty());
    }

    #[test]
    fn the_gateway_is_first_and_never_ages() {
        let mut presence = Presence::new(entry(0));
        presence.put("a", entry(5), true, Shown::All);
        presence.put("b", entry(9), true, Shown::All);
        let order: Vec<i64> = presence.entries(Protocol::V4).iter().map(|e| e.ts).collect();
        assert_eq!(order, [0, 9, 5]);
        presence.age(i64::MAX);
        assert_eq!(presence.entries(Protocol::V4).len(), 3, "connected ones stay");
    }

    #[test]
    fn one_that_left_lingers_for_five_minutes() {
        let mut presence = Presence::new(entry(0));
        presence.put("a", entry(0), true, Shown::All);
        presence.left("a", 1000);
        assert_eq!(presence.entries(Protocol::V4)[1].reason.as_deref(), Some("disconnect"));
        assert!(!presence.age(1000 + LINGER_MS - 1));
        let before = presence.version();
        assert!(presence.age(1000 + LINGER_MS));
        assert!(presence.version() > before);
        assert_eq!(presence.entries(Protocol::V4).len(), 1);
    }

    #[test]
    fn is_bounded_and_keeps_the_connected() {
        let mut presence = Presence::new(entry(0));
        presence.put("kept", entry(-5), true, Shown::All);
        for n in 0..500 {
            presence.put(&format!("n{n}"), entry(n), false, Shown::All);
        }
        assert_eq!(presence.entries(Protocol::V4).len(), ENTRIES_MAX);
        assert!(presence.get("kept").is_some());
        assert!(presence.get("n499").is_some());
    }
}
