//! Wall-clock time as the wire speaks it: integer milliseconds since 1970, UTC.
//!
//! The loop and the workers read the clock once per turn or job and pass the value down; nothing below them asks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks, taken once per turn of the loop (or once per job) and passed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: for deadlines and intervals.
    pub mono: Instant,
    /// Wall clock, milliseconds since 1970: for records and frames. May jump.
    pub wall_ms: i64,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Now {
        Now { mono: Instant::now(), wall_ms: wall_ms() }
    }

    /// The same reading, later by `by` on both clocks (tests and simulations).
    pub fn after(self, by: Duration) -> Now {
        Now { mono: self.mono + by, wall_ms: self.wall_ms + by.as_millis() as i64 }
    }
}

/// Milliseconds since 1970 now; 0 when the system clock stands before 1970.
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// `ms` since 1970 as `2026-09-06T12:34:56.789Z`.
pub fn iso(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::from("invalid time"), |t| format!("{t:.3}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn writes_milliseconds_and_zulu() {
        assert_eq!(super::iso(1_737_264_000_007), "2025-01-19T05:20:00.007Z");
    }
}
