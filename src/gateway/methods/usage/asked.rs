//! Which days a caller means.

use serde_json::{Map, Value};

use crate::protocol::error::RpcError;
use crate::sessions::usage::days::{Asked, DAYS, Days, Range, parse};

/// The words of a caller. One that makes no sense is refused, on both protocols (SES-68), unless it is left empty.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DaysAsked<'a> {
    pub(super) start: Option<&'a str>,
    pub(super) end: Option<&'a str>,
    /// `7d`, `30d`, `90d`, `1y`, `all`.
    pub(super) range: Option<&'a str>,
    pub(super) n_days: Option<i64>,
    /// `utc`, `gateway`, `specific`.
    pub(super) mode: Option<&'a str>,
    pub(super) utc_offset: Option<&'a str>,
    pub(super) time_zone: Option<&'a str>,
}

impl<'a> DaysAsked<'a> {
    /// Of parameters that upstream reads by hand.
    pub(super) fn read(fields: &'a Map<String, Value>) -> DaysAsked<'a> {
        // What is no text is no date either, and refused as such.
        let text = |name: &str| match fields.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.trim()).filter(|text| !text.is_empty()),
            _ => Some("?"),
        };
        let n_days = match fields.get("days") {
            Some(Value::String(text)) => text.trim().parse::<f64>().ok(),
            Some(number) => number.as_f64(),
            None => None,
        };
        DaysAsked {
            start: text("startDate"),
            end: text("endDate"),
            range: text("range"),
            n_days: n_days.filter(|n| n.is_finite()).map(|n| n.floor() as i64),
            mode: text("mode"),
            utc_offset: text("utcOffset"),
            time_zone: text("timeZone"),
        }
    }

    /// What a day is, and which are meant.
    ///
    /// # Errors
    /// `INVALID_REQUEST` in the words of protocol 4.
    pub(super) fn resolve(&self, now_ms: i64) -> Result<(Days, Range), RpcError> {
        let days = self.days()?;
        let date = |name: &str, text: Option<&str>| match text {
            None => Ok(None),
            Some(text) => match parse(text) {
                Some(date) => Ok(Some(date)),
                None => Err(RpcError::invalid(format!("invalid {name}: expected a valid YYYY-MM-DD calendar date"))),
            },
        };
        let asked = match (date("startDate", self.start)?, date("endDate", self.end)?) {
            (Some(first), Some(last)) => Asked::Between(first, last),
            (None, None) => self.last(),
            _ => return Err(RpcError::invalid("startDate and endDate must be provided together")),
        };
        let range = days.range(asked, now_ms).map_err(|problem| RpcError::invalid(problem.as_str()))?;
        Ok((days, range))
    }

    fn last(&self) -> Asked {
        match self.range {
            Some("all") => Asked::All,
            Some("7d") => Asked::Last(7),
            Some("30d") => Asked::Last(30),
            Some("90d") => Asked::Last(90),
            Some("1y") => Asked::Last(365),
            _ => Asked::Last(self.n_days.unwrap_or(DAYS)),
        }
    }

    fn days(&self) -> Result<Days, RpcError> {
        match self.mode {
            Some("gateway") => Ok(Days::local()),
            Some("specific") => self.specific(),
            _ => Ok(Days::utc()),
        }
    }

    /// The zone is meant where it is known here, else the offset.
    fn specific(&self) -> Result<Days, RpcError> {
        let by_offset = self.utc_offset.and_then(Days::of_offset);
        match (self.time_zone.map(Days::of_zone), self.utc_offset) {
            (Some(Some(days)), _) => Ok(days),
            (Some(None), _) => {
                by_offset.ok_or_else(|| RpcError::invalid("invalid timeZone: expected a valid IANA time zone"))
            }
            (None, Some(_)) => {
                by_offset.ok_or_else(|| RpcError::invalid("invalid utcOffset: expected UTC-12:00 through UTC+14:00"))
            }
            (None, None) => Ok(Days::utc()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// 2026-11-21, 00:44 UTC.
    const NOW_MS: i64 = 1_795_221_888_000;

    #[track_caller]
    fn check(fields: Value, expected: &str) {
        let found = match DaysAsked::read(fields.as_object().unwrap()).resolve(NOW_MS) {
            Ok((_, range)) => format!("{} {} {}", range.first, range.last, range.end_ms + 1),
            Err(error) => error.message,
        };
        assert_eq!(found, expected, "{fields}");
    }

    #[test]
    fn days_are_counted_back_from_today() {
        check(json!({}), "2026-10-23 2026-11-21 1795305600000");
        check(json!({ "days": 7 }), "2026-11-15 2026-11-21 1795305600000");
        check(json!({ "days": "7" }), "2026-11-15 2026-11-21 1795305600000");
        check(json!({ "days": 0 }), "2026-11-21 2026-11-21 1795305600000");
        check(json!({ "days": "x" }), "2026-10-23 2026-11-21 1795305600000");
        check(json!({ "range": "7d", "days": 2 }), "2026-11-15 2026-11-21 1795305600000");
        check(json!({ "range": "all" }), "1970-01-01 2026-11-21 1795305600000");
        let behind = json!({ "days": 1, "mode": "specific", "utcOffset": "UTC-1" });
        check(behind, "2026-11-20 2026-11-20 1795222800000");
    }

    #[test]
    fn both_dates_or_none_and_only_such_as_there_are() {
        check(json!({ "startDate": "2026-01-01", "endDate": "2026-01-31" }), "2026-01-01 2026-01-31 1769904000000");
        check(json!({ "startDate": " ", "endDate": null, "days": 1 }), "2026-11-21 2026-11-21 1795305600000");
        check(json!({ "startDate": "2026-01-01" }), "startDate and endDate must be provided together");
        for (name, value) in [("startDate", json!("bad")), ("endDate", json!("2026-02-30")), ("startDate", json!(5))] {
            check(json!({ name: value }), &format!("invalid {name}: expected a valid YYYY-MM-DD calendar date"));
        }
        let backwards = json!({ "startDate": "2026-01-02", "endDate": "2026-01-01" });
        check(backwards, "startDate must not be after endDate");
    }

    #[test]
    fn a_zone_that_is_not_known_here_is_its_offset() {
        let of = |zone: &str, offset: Option<&str>| json!({ "days": 1, "mode": "specific", "timeZone": zone, "utcOffset": offset });
        check(of("America/New_York", None), "2026-11-20 2026-11-20 1795237200000");
        check(of("Nowhere/None", Some("UTC-1")), "2026-11-20 2026-11-20 1795222800000");
        check(of("Nowhere/None", None), "invalid timeZone: expected a valid IANA time zone");
        let offset = json!({ "mode": "specific", "utcOffset": "UTC+15" });
        check(offset, "invalid utcOffset: expected UTC-12:00 through UTC+14:00");
    }
}
