//! How quantities are written: durations and shares. Every number carries its unit, and an error says how to write it.

use std::time::Duration;

/// The longest duration that can be written. Longer ones are typing errors, and sums of such
/// durations must not overflow anywhere.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Units, longest name first where one begins another, in nanoseconds.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
    ("d", 86_400 * 1_000_000_000),
];

/// Reads `500ms`, `2s`, `1.5s`, `5m`, `24h`, `7d` or a row of them such as `1m30s`; a bare `0` needs no unit.
///
/// # Errors
/// What is wrong, and how to write it instead; a fragment that follows the text itself.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err("a duration is missing; write for example 500ms, 2s, 5m or 24h".to_owned());
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
                .len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len()
            - after
                .trim_start_matches(|c: char| !c.is_ascii_digit() && c != '.')
                .len();
        let (unit, after) = after.split_at(letters);
        let unit = unit.trim();
        if number.is_empty() {
            return Err(
                "a duration begins with a number; write for example 500ms, 2s, 5m or 24h"
                    .to_owned(),
            );
        }
        if unit.is_empty() {
            return Err(format!(
                "the unit is missing; write {number}s, {number}ms or {number}m"
            ));
        }
        let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "there is no unit {unit:?}; the units are ms, s, m, h and d"
            ));
        };
        total = scaled(number, *nanos)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= LONGEST)
            .ok_or_else(|| format!("{number}{unit} is no number, or longer than 366d"))?;
        rest = after;
    }
    Ok(total)
}

/// `number` is digits with at most one point.
fn scaled(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.len() > 9 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let whole = whole.checked_mul(nanos)?;
    let parts: u64 = fraction.parse().ok()?;
    let scale = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = u128::from(parts) * u128::from(nanos) / u128::from(scale);
    Some(Duration::from_nanos(
        whole.checked_add(u64::try_from(fraction).ok()?)?,
    ))
}

/// Writes a duration as people read it: `340 ms`, `1.2 s`, `5 min 30 s`, `3 h 5 min`, `2 d 4 h`.
pub(crate) fn human(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs();
    let two = |big: u64, unit: &str, small: u64, sub: &str| {
        if small == 0 {
            format!("{big} {unit}")
        } else {
            format!("{big} {unit} {small} {sub}")
        }
    };
    if millis < 1000 {
        format!("{millis} ms")
    } else if seconds < 60 {
        let tenths = millis / 100;
        if tenths.is_multiple_of(10) {
            format!("{} s", tenths / 10)
        } else {
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
    } else if seconds < 3600 {
        two(seconds / 60, "min", seconds % 60, "s")
    } else if seconds < 86_400 {
        two(seconds / 3600, "h", seconds % 3600 / 60, "min")
    } else {
        two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("2s", 2_000),
            ("1.5s", 1_500),
            ("0.25ms", 0),
            ("5m", 300_000),
            ("1m30s", 90_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            (" 2 s ", 2_000),
        ] {
            let read = duration(text).map(|read| read.as_millis());
            assert_eq!(read, Ok(millis), "{text}");
        }
    }

    #[test]
    fn wrong_durations_say_what_to_write() {
        for (text, expected) in [
            ("", "a duration is missing"),
            ("30", "the unit is missing; write 30s, 30ms or 30m"),
            ("1m30", "write 30s"),
            ("s", "begins with a number"),
            ("-1s", "begins with a number"),
            ("2sec", "there is no unit \"sec\""),
            ("5M", "there is no unit \"M\""),
            ("1..5s", "no number"),
            (".s", "no number"),
            ("400d", "longer than 366d"),
            ("99999999999999999999h", "longer than 366d"),
            ("1.0000000001s", "no number"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn durations_for_people() {
        for (millis, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (1_249, "1.2 s"),
            (59_999, "59.9 s"),
            (60_000, "1 min"),
            (330_000, "5 min 30 s"),
            (3_600_000, "1 h"),
            (11_100_000, "3 h 5 min"),
            (187_200_000, "2 d 4 h"),
        ] {
            assert_eq!(human(Duration::from_millis(millis)), expected);
        }
    }
}
