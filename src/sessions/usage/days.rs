//! Days: where one begins and ends in a zone, and which of them a caller means (SES-68).
//!
//! A day is from one midnight to the next as its zone's clocks show them, so it has 23 or 25 hours when they are put
//! forward or back.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};

/// Days looked at when nothing is said.
pub const DAYS: i64 = 30;
/// Days asked for at most, by number: a hundred years, and some days for those of February.
pub const DAYS_MAX: i64 = 36_600;

/// What cannot be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is no such day in the zone: its clocks went past it.
    NoSuchDay,
    /// The first day is after the last.
    Backwards,
}

impl Problem {
    /// In the words of protocol 4.
    pub fn as_str(self) -> &'static str {
        match self {
            Problem::NoSuchDay => "calendar day does not exist in requested time zone",
            Problem::Backwards => "startDate must not be after endDate",
        }
    }
}

/// What a day is.
#[derive(Clone, Debug)]
pub struct Days {
    zone: TimeZone,
}

/// Which days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// So many, today being the last.
    Last(i64),
    /// From one to another, both included.
    Between(Date, Date),
    /// Whatever there is, up to today.
    All,
}

/// A stretch of whole days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first millisecond of it.
    pub start_ms: i64,
    /// The last millisecond of it.
    pub end_ms: i64,
    /// Its first day.
    pub first: Date,
    /// Its last day.
    pub last: Date,
}

impl Range {
    /// How many days.
    pub fn n_days(&self) -> i64 {
        self.dates_apart() + 1
    }

    fn dates_apart(&self) -> i64 {
        i64::from(self.first.until(self.last).map_or(0, |span| span.get_days()))
    }

    /// Each of its days.
    pub fn dates(&self) -> impl Iterator<Item = Date> {
        let last = self.last;
        std::iter::successors(Some(self.first), move |date| date.tomorrow().ok().filter(|date| *date <= last))
    }
}

impl Days {
    /// Days of UTC.
    pub fn utc() -> Days {
        Days { zone: TimeZone::UTC }
    }

    /// Days of this host.
    pub fn local() -> Days {
        Days { zone: TimeZone::system() }
    }

    /// Days of a zone by its name (`Europe/Vienna`); `None`: it is not known here.
    pub fn of_zone(name: &str) -> Option<Days> {
        TimeZone::get(name).ok().map(|zone| Days { zone })
    }

    /// Days of an offset, as `UTC+5:30`, from `UTC-12` to `UTC+14`.
    pub fn of_offset(text: &str) -> Option<Days> {
        let rest = text.strip_prefix("UTC")?;
        let sign = match rest.chars().next()? {
            '+' => 1,
            '-' => -1,
            _ => return None,
        };
        let (hours, minutes) = rest[1..].split_once(':').unwrap_or((&rest[1..], "00"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(hours) || hours.len() > 2 || !is_number(minutes) || minutes.len() != 2 {
            return None;
        }
        let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok().filter(|n| *n < 60)?);
        let minutes = sign * (hours * 60 + minutes);
        if !(-12 * 60..=14 * 60).contains(&minutes) {
            return None;
        }
        Offset::from_seconds(minutes * 60).ok().map(|offset| Days { zone: TimeZone::fixed(offset) })
    }

    /// The day of a moment.
    pub fn date(&self, at_ms: i64) -> Date {
        let at = Timestamp::from_millisecond(at_ms).unwrap_or(if at_ms < 0 { Timestamp::MIN } else { Timestamp::MAX });
        self.zone.to_datetime(at).date()
    }

    /// The first millisecond of a day; `None`: there is no such day.
    pub fn start_ms(&self, date: Date) -> Option<i64> {
        let start = self.zone.to_ambiguous_zoned(date.at(0, 0, 0, 0)).compatible().ok()?;
        // Where midnight is skipped a day begins later; where all of it is, it is another day.
        (start.date() == date).then(|| start.timestamp().as_millisecond())
    }

    /// The last millisecond of a day.
    fn end_ms(&self, date: Date) -> Option<i64> {
        let next = date.tomorrow().ok()?;
        let start = self.start_ms(next).or_else(|| self.start_ms(next.tomorrow().ok()?))?;
        Some(start - 1)
    }

    /// The days that are asked for.
    ///
    /// # Errors
    /// A [`Problem`].
    pub fn range(&self, asked: Asked, now_ms: i64) -> Result<Range, Problem> {
        let today = self.date(now_ms);
        let (first, last) = match asked {
            Asked::Between(first, last) => (first, last),
            Asked::All => (self.date(0), today),
            Asked::Last(n_days) => {
                let n_days = n_days.clamp(1, DAYS_MAX);
                let back = jiff::Span::new().try_days(n_days - 1).and_then(|back| today.checked_sub(back));
                (back.map_err(|_| Problem::NoSuchDay)?, today)
            }
        };
        if first > last {
            return Err(Problem::Backwards);
        }
        let end_ms = self.end_ms(last).filter(|_| self.start_ms(last).is_some()).ok_or(Problem::NoSuchDay)?;
        let start_ms = match asked {
            Asked::All => 0,
            _ => self.start_ms(first).ok_or(Problem::NoSuchDay)?,
        };
        Ok(Range { start_ms, end_ms, first, last })
    }

    /// Finds the days of moments that mostly follow each other.
    pub fn finder(&self) -> Finder<'_> {
        Finder { days: self, known: None }
    }
}

/// Finds days, and remembers the last one: most moments are of the same day as the one before.
#[derive(Debug)]
pub struct Finder<'a> {
    days: &'a Days,
    known: Option<(i64, i64, Date)>,
}

impl Finder<'_> {
    /// The day of a moment.
    pub fn date(&mut self, at_ms: i64) -> Date {
        if let Some((start_ms, end_ms, date)) = self.known
            && (start_ms..=end_ms).contains(&at_ms)
        {
            return date;
        }
        let date = self.days.date(at_ms);
        self.known = self.days.start_ms(date).zip(self.days.end_ms(date)).map(|(start, end)| (start, end, date));
        date
    }
}

/// A day as it is written, `2026-03-29`; `None`: there is none like it in the calendar.
pub fn parse(text: &str) -> Option<Date> {
    let is_form = text.len() == 10
        && text.bytes().enumerate().all(|(idx, byte)| match idx {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_form.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 60 * 60 * 1000;

    fn day(text: &str) -> Date {
        parse(text).unwrap()
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn a_day_has_as_many_hours_as_its_clocks_show() {
        let vienna = Days::of_zone("Europe/Vienna").unwrap();
        for (date, hours) in [("2026-03-28", 24), ("2026-03-29", 23), ("2026-10-25", 25)] {
            let range = vienna.range(Asked::Between(day(date), day(date)), 0).unwrap();
            assert_eq!(range.end_ms + 1 - range.start_ms, hours * HOUR_MS, "{date}");
            assert_eq!(range.n_days(), 1);
        }
        // In this zone midnight itself is skipped when summer time begins.
        let cairo = Days::of_zone("Africa/Cairo").unwrap();
        assert_eq!(cairo.start_ms(day("2026-04-24")), Some(at("2026-04-23T22:00:00Z")));
        assert_eq!(cairo.date(at("2026-04-23T21:59:59.999Z")), day("2026-04-23"));
    }

    #[test]
    fn a_month_across_the_change_of_clocks_begins_and_ends_at_midnight() {
        let vienna = Days::of_zone("Europe/Vienna").unwrap();
        let range = vienna.range(Asked::Last(7), at("2026-03-31T23:30:00+02:00")).unwrap();
        assert_eq!((range.first, range.last, range.n_days()), (day("2026-03-25"), day("2026-03-31"), 7));
        assert_eq!(range.start_ms, at("2026-03-24T23:00:00Z"));
        assert_eq!(range.end_ms, at("2026-03-31T21:59:59.999Z"));
        assert_eq!(range.dates().count(), 7);
    }

    #[test]
    fn both_ends_are_included_in_any_offset() {
        for (offset, start, end) in [
            ("UTC+0", "2026-02-01T00:00:00Z", "2026-02-02T23:59:59.999Z"),
            ("UTC+5:30", "2026-01-31T18:30:00Z", "2026-02-02T18:29:59.999Z"),
            ("UTC-12", "2026-02-01T12:00:00Z", "2026-02-03T11:59:59.999Z"),
            ("UTC+14:00", "2026-01-31T10:00:00Z", "2026-02-02T09:59:59.999Z"),
        ] {
            let days = Days::of_offset(offset).unwrap();
            let range = days.range(Asked::Between(day("2026-02-01"), day("2026-02-02")), 0).unwrap();
            assert_eq!((range.start_ms, range.end_ms), (at(start), at(end)), "{offset}");
            let mut finder = days.finder();
            assert_eq!(finder.date(range.start_ms), day("2026-02-01"));
            assert_eq!(finder.date(range.start_ms - 1), day("2026-01-31"));
            assert_eq!(finder.date(range.end_ms), day("2026-02-02"));
            assert_eq!(finder.date(range.end_ms + 1), day("2026-02-03"));
        }
        for wrong in ["", "UTC", "UTC5", "+5", "UTC+15", "UTC-13", "UTC+1:5", "UTC+1:60", "UTC+123", "UTC+é"] {
            assert!(Days::of_offset(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_day_that_does_not_exist_is_refused() {
        for wrong in ["2026-02-30", "2026-13-01", "bad", "2026-2-1", "2026-02-01T00", "+026-02-01", "２026-02-1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        // Samoa went from the 29th to the 31st.
        let apia = Days::of_zone("Pacific/Apia").unwrap();
        let skipped = day("2011-12-30");
        assert_eq!(apia.range(Asked::Between(skipped, day("2012-01-02")), 0), Err(Problem::NoSuchDay));
        assert_eq!(apia.range(Asked::Between(day("2011-12-28"), skipped), 0), Err(Problem::NoSuchDay));
        let before = apia.range(Asked::Between(day("2011-12-29"), day("2011-12-29")), 0).unwrap();
        assert_eq!(before.end_ms + 1 - before.start_ms, 24 * HOUR_MS);
        let utc = Days::utc();
        assert_eq!(utc.range(Asked::Between(day("2026-02-02"), day("2026-02-01")), 0), Err(Problem::Backwards));
        assert!(Days::of_zone("Nowhere/None").is_none());
    }

    #[test]
    fn everything_begins_with_the_epoch_and_a_number_has_its_bounds() {
        let now = at("2026-11-21T00:44:48Z");
        let utc = Days::utc();
        let all = utc.range(Asked::All, now).unwrap();
        assert_eq!((all.start_ms, all.last), (0, day("2026-11-21")));
        assert_eq!(utc.range(Asked::Last(0), now).unwrap().n_days(), 1);
        assert_eq!(utc.range(Asked::Last(i64::MAX), now).unwrap().n_days(), DAYS_MAX);
    }
}
