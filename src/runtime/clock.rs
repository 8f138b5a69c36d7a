//! Wall-clock time as the wire speaks it: integer milliseconds since 1970, UTC.
//!
//! The loop and the workers read the clock once per turn or job and pass the value down; nothing below them asks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

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

/// Days of a week, from Monday.
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
/// Months as HTTP names them.
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment as the clocks of a place show it. Written out here: what formats by a pattern is larger than all of these.
#[derive(Debug)]
pub struct Shown {
    at: DateTime,
    /// What the place calls its time then: `CEST`.
    pub zone: String,
}

impl Shown {
    /// Milliseconds since 1970, in a place. `None`: no clock shows it.
    pub fn of(ms: i64, zone: &TimeZone) -> Option<Shown> {
        let at = Timestamp::from_millisecond(ms).ok()?;
        let zone = zone.to_offset_info(at);
        Some(Shown { at: zone.offset().to_datetime(at), zone: zone.abbreviation().to_owned() })
    }

    /// `Sunday`.
    pub fn weekday(&self) -> &'static str {
        let idx = usize::try_from(self.at.weekday().to_monday_zero_offset()).unwrap_or(0);
        WEEKDAYS[idx]
    }

    /// `2026-09-06`.
    pub fn date(&self) -> String {
        self.at.date().to_string()
    }

    /// `12:34`.
    pub fn time(&self) -> String {
        format!("{:02}:{:02}", self.at.hour(), self.at.minute())
    }

    /// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7), of UTC.
    pub fn http(&self) -> String {
        let month = MONTHS[usize::try_from(self.at.month() - 1).unwrap_or(0)];
        let (day, year, second) = (self.at.day(), self.at.year(), self.at.second());
        format!("{}, {day:02} {month} {year:04} {}:{second:02} GMT", &self.weekday()[..3], self.time())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_a_moment_as_a_place_does() {
        let ms = 784_111_777_000;
        assert_eq!(Shown::of(ms, &TimeZone::UTC).unwrap().http(), "Sun, 06 Nov 1994 08:49:37 GMT");
        let east = Shown::of(ms, &TimeZone::fixed(jiff::tz::offset(16))).unwrap();
        assert_eq!((east.weekday(), &*east.date(), &*east.time()), ("Monday", "1994-11-07", "00:49"));
        assert!(Shown::of(i64::MAX, &TimeZone::UTC).is_none());
    }

    #[test]
    fn writes_milliseconds_and_zulu() {
        assert_eq!(super::iso(1_737_264_000_007), "2025-01-19T05:20:00.007Z");
    }
}
