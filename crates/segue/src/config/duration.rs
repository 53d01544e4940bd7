//! Durations as people write them: `30s`, `1m30s`, `1.5h`. It knows no defaults and no limits
//! beyond what can be represented.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    #[error("a duration is missing: write for example 30s")]
    Empty,
    #[error("`{0}` has no unit: write for example {0}s or {0}ms")]
    NoUnit(String),
    #[error("`{0}` is not a unit of time: use ms, s, m, h or d")]
    UnknownUnit(String),
    #[error("`{0}` is not a duration: write for example 500ms, 30s, 5m or 1m30s")]
    Malformed(String),
    #[error("`{0}` is longer than can be counted")]
    TooLong(String),
}

/// Reads a duration: numbers with the units ms, s, m, h or d, one after the other. Every number
/// needs its unit.
///
/// # Errors
/// See [`DurationError`]; each says what to write.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let written = text.trim();
    if written.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total = Duration::ZERO;
    let mut rest = written;
    while !rest.is_empty() {
        let unit_at = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| DurationError::NoUnit(written.to_owned()))?;
        let (number, tail) = rest.split_at(unit_at);
        let next_at = tail
            .find(|c: char| c.is_ascii_digit() || c == '.' || c.is_whitespace())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(next_at);
        if number.is_empty() {
            return Err(DurationError::Malformed(written.to_owned()));
        }
        let nanos_per_unit: u64 = match unit {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return Err(DurationError::UnknownUnit(unit.to_owned())),
        };
        let part = nanos(number, nanos_per_unit, written)?;
        total = total
            .checked_add(part)
            .ok_or_else(|| DurationError::TooLong(written.to_owned()))?;
        rest = tail.trim_start();
    }
    Ok(total)
}

fn nanos(number: &str, per_unit: u64, written: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(written.to_owned());
    let too_long = || DurationError::TooLong(written.to_owned());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(malformed());
    }
    let whole: u64 = whole.parse().map_err(|_| too_long())?;
    let mut total = whole.checked_mul(per_unit).ok_or_else(too_long)?;
    let mut scale = per_unit;
    for digit in fraction.bytes() {
        scale /= 10;
        total = total
            .checked_add(u64::from(digit - b'0') * scale)
            .ok_or_else(too_long)?;
    }
    Ok(Duration::from_nanos(total))
}

/// The shortest text that [`parse_duration`] reads as the same duration, to the millisecond.
pub(crate) fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    let mut text = String::new();
    for (unit, length) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ] {
        let count = millis / length;
        millis %= length;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<u64, &str>) {
        let found = parse_duration(text).map_err(|error| error.to_string());
        let expected = expected
            .map(Duration::from_millis)
            .map_err(ToOwned::to_owned);
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn reads_what_people_write() {
        check("500ms", Ok(500));
        check("0s", Ok(0));
        check(" 30s ", Ok(30_000));
        check("1m30s", Ok(90_000));
        check("1h 5m", Ok(3_900_000));
        check("1.5h", Ok(5_400_000));
        check("0.25s", Ok(250));
        check("2d", Ok(172_800_000));
    }

    #[test]
    fn says_what_is_wrong_and_what_to_write() {
        check("", Err("a duration is missing: write for example 30s"));
        check("30", Err("`30` has no unit: write for example 30s or 30ms"));
        check(
            "1m30",
            Err("`1m30` has no unit: write for example 1m30s or 1m30ms"),
        );
        check(
            "5min",
            Err("`min` is not a unit of time: use ms, s, m, h or d"),
        );
        check("3S", Err("`S` is not a unit of time: use ms, s, m, h or d"));
        for text in ["s", "-3s", "1.s", ".5s", "1.2.3s"] {
            let error = parse_duration(text).unwrap_err();
            assert!(
                matches!(error, DurationError::Malformed(_)),
                "{text:?}: {error}"
            );
        }
        for text in ["99999999999999999999s", "9999999999d"] {
            let error = parse_duration(text).unwrap_err();
            assert!(
                matches!(error, DurationError::TooLong(_)),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn what_is_written_reads_as_the_same() {
        for millis in [0, 1, 999, 1000, 61_001, 3_600_000, 90_061_001] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        assert_eq!(format_duration(Duration::from_millis(90_000)), "1m30s");
    }
}
