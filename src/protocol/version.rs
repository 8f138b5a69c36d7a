//! Which protocol a connection speaks, and how that is agreed.

/// A protocol this gateway speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Release 2026.2.21 and its clients.
    V3,
    /// Release 2026.9.6 and its clients.
    V4,
}

impl Protocol {
    /// The newest one, named in a mismatch as `expectedProtocol`.
    pub const NEWEST: Protocol = Protocol::V4;

    /// The number on the wire.
    pub fn number(self) -> i64 {
        match self {
            Protocol::V3 => 3,
            Protocol::V4 => 4,
        }
    }

    /// The version for a client that speaks `min..=max`: the newest both know, or `None` for a mismatch.
    ///
    /// Upstream's own current gateway refuses operators of protocol 3; serving both is this project's reason to be.
    pub fn negotiate(min: i64, max: i64) -> Option<Protocol> {
        [Protocol::V4, Protocol::V3].into_iter().find(|p| min <= p.number() && p.number() <= max)
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol::{self, V3, V4};

    #[test]
    fn picks_the_newest_in_range_and_nothing_outside() {
        let cases = [
            (3, 3, Some(V3)),
            (4, 4, Some(V4)),
            (3, 4, Some(V4)),
            (1, 99, Some(V4)),
            (1, 2, None),
            (5, 9, None),
            (99, 1, None),
        ];
        for (min, max, expected) in cases {
            assert_eq!(Protocol::negotiate(min, max), expected, "{min}..{max}");
        }
    }
}
