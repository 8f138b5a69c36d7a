//! Who is here: the list behind `presence` events and `system-presence`.

use serde::Serialize;

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
}

impl Entry {
    /// The line a person reads: `Node: HOST (IP) · app VERSION · mode MODE · reason REASON`, with the parts there are.
    pub fn describe(&mut self, what: &str) {
        let host = self.host.as_deref().unwrap_or("unknown");
        let mut text = format!("{what}: {host}");
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
}

/// The list.
#[derive(Debug)]
pub struct Presence {
    slots: Vec<Slot>,
    version: u64,
}

impl Presence {
    /// A list of the gateway alone.
    pub fn new(own: Entry) -> Presence {
        let slots = vec![Slot { key: "gateway".to_owned(), entry: own, connected: true }];
        Presence { slots, version: 1 }
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The entries, the gateway first, then the newest.
    pub fn entries(&self) -> Vec<&Entry> {
        let mut rest: Vec<&Entry> = self.slots.iter().skip(1).map(|slot| &slot.entry).collect();
        rest.sort_by_key(|entry| std::cmp::Reverse(entry.ts));
        self.slots.iter().take(1).map(|slot| &slot.entry).chain(rest).collect()
    }

    /// Enters or replaces the entry `key`.
    pub fn put(&mut self, key: &str, entry: Entry, connected: bool) {
        self.version += 1;
        match self.slots.iter_mut().skip(1).find(|slot| slot.key == key) {
            Some(slot) => {
                slot.connected |= connected;
                slot.entry = entry;
            }
            None => {
                if self.slots.len() >= ENTRIES_MAX {
                    self.forget_one();
                }
                self.slots.push(Slot { key: key.to_owned(), entry, connected });
            }
        }
        debug_assert!(self.slots.len() <= ENTRIES_MAX, "presence holds at most {ENTRIES_MAX} entries");
    }

    /// The entry `key`.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.slots.iter().skip(1).find(|slot| slot.key == key).map(|slot| &slot.entry)
    }

    /// The client of `key` is gone: its entry lingers and says so.
    pub fn left(&mut self, key: &str, now_ms: i64) {
        if let Some(slot) = self.slots.iter_mut().skip(1).find(|slot| slot.key == key) {
            self.version += 1;
            slot.connected = false;
            slot.entry.reason = Some("disconnect".to_owned());
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
    fn the_gateway_is_first_and_never_ages() {
        let mut presence = Presence::new(entry(0));
        presence.put("a", entry(5), true);
        presence.put("b", entry(9), true);
        let order: Vec<i64> = presence.entries().iter().map(|e| e.ts).collect();
        assert_eq!(order, [0, 9, 5]);
        presence.age(i64::MAX);
        assert_eq!(presence.entries().len(), 3, "connected ones stay");
    }

    #[test]
    fn one_that_left_lingers_for_five_minutes() {
        let mut presence = Presence::new(entry(0));
        presence.put("a", entry(0), true);
        presence.left("a", 1000);
        assert_eq!(presence.entries()[1].reason.as_deref(), Some("disconnect"));
        assert!(!presence.age(1000 + LINGER_MS - 1));
        let before = presence.version();
        assert!(presence.age(1000 + LINGER_MS));
        assert!(presence.version() > before);
        assert_eq!(presence.entries().len(), 1);
    }

    #[test]
    fn is_bounded_and_keeps_the_connected() {
        let mut presence = Presence::new(entry(0));
        presence.put("kept", entry(-5), true);
        for n in 0..500 {
            presence.put(&format!("n{n}"), entry(n), false);
        }
        assert_eq!(presence.entries().len(), ENTRIES_MAX);
        assert!(presence.get("kept").is_some());
        assert!(presence.get("n499").is_some());
    }
}
