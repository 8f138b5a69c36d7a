//! Durations and sizes as text: `500ms`, `30s`, `5m`, `2h`, `7d`; `10mb`.

use std::time::Duration;

use serde_json::Value;

use super::schema::Unit;

/// Longest duration a key takes: a hundred years, so that no sum of times overflows.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Reads a duration; a number without a unit is in `unit`.
///
/// # Errors
/// What is wrong, in words for an issue.
pub fn parse(text: &str, unit: Unit) -> Result<Duration, String> {
    let wrong = || format!("invalid duration \"{text}\" (use ms, s, m, h, d)");
    let trimmed = text.trim();
    let n_digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let number: f64 = trimmed[..n_digits].parse().map_err(|_| wrong())?;
    let ms_each = match trimmed[n_digits..].trim() {
        "" => ms_each(unit),
        "ms" => 1.0,
        "s" => 1e3,
        "m" => 60e3,
        "h" => 3600e3,
        "d" => 86_400e3,
        _ => return Err(wrong()),
    };
    from_ms(number * ms_each).ok_or_else(wrong)
}

/// The duration of a value that passed validation.
pub fn of_value(value: &Value, unit: Unit) -> Option<Duration> {
    match value {
        Value::Number(number) => from_ms(number.as_f64()? * ms_each(unit)),
        Value::String(text) => parse(text, unit).ok(),
        _ => None,
    }
}

fn ms_each(unit: Unit) -> f64 {
    match unit {
        Unit::Milliseconds => 1.0,
        Unit::Minutes => 60e3,
        Unit::Hours => 3600e3,
    }
}

fn from_ms(ms: f64) -> Option<Duration> {
    (ms.is_finite() && ms >= 0.0 && ms <= DURATION_MAX.as_millis() as f64).then(|| Duration::from_millis(ms as u64))
}

/// Reads a size in bytes; `kb`, `mb` and `gb` count by 1024.
///
/// # Errors
/// What is wrong, in words for an issue.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("invalid size \"{text}\" (use b, kb, mb, gb, tb)");
    let lower = text.trim().to_ascii_lowercase();
    let n_digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let number: f64 = lower[..n_digits].parse().map_err(|_| wrong())?;
    let power = match lower[n_digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" => 1,
        "m" | "mb" => 2,
        "g" | "gb" => 3,
        "t" | "tb" => 4,
        _ => return Err(wrong()),
    };
    let bytes = number * 1024f64.powi(power);
    (bytes <= 9e15).then_some(bytes as u64).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_and_the_key_s_own() {
        let cases = [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("1.5s", 1500),
            ("3", 180_000),
            ("0", 0),
        ];
        for (text, ms) in cases {
            assert_eq!(parse(text, Unit::Minutes), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "m", "5 parsecs", "-3m", "1e9d", "999999999999d"] {
            assert!(parse(bad, Unit::Minutes).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_sizes() {
        assert_eq!(parse_size("10mb"), Ok(10 * 1024 * 1024));
        assert_eq!(parse_size("1.5 KB"), Ok(1536));
        assert_eq!(parse_size("77"), Ok(77));
        for bad in ["", "ten", "5eb", "99999999tb"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
