//! Times as cron writes them, five fields: minute, hour, day of the month, month, day of the week.
//!
//! The one thing that is not arithmetic is what a local time means where clocks are changed: one that is
//! skipped is the moment after the gap, one that comes twice is the first of the two.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

/// Days until a time that is no 29th of February has come for sure, and one that is as well: there may be
/// eight years between two of them.
const FAR: u32 = 8 * 366 + 1;

/// Local times are compared with those of a few hours before, so that no change of clocks hides one.
const CHANGE: i64 = 4;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Each field as a set of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Days of the month and of the week are both named: one of them is enough, as cron has it.
    either_day: bool,
}

/// Reads a schedule.
///
/// # Errors
/// How it is written.
pub(super) fn schedule(text: &str) -> Result<Schedule, String> {
    let usage = "write five fields: minute hour day month weekday, such as \"0 4 * * *\" for four o'clock each day";
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let &[minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(usage.to_owned());
    };
    let mut weekdays = field(weekday, "weekday", 0, 7, &DAYS, 0)?;
    // Sunday goes by both.
    weekdays = (weekdays | (weekdays >> 7)) & 0x7f;
    let found = Schedule {
        minutes: field(minute, "minute", 0, 59, &[], 0)?,
        hours: field(hour, "hour", 0, 23, &[], 0)?,
        days: field(day, "day", 1, 31, &[], 0)?,
        months: field(month, "month", 1, 12, &MONTHS, 1)?,
        weekdays,
        either_day: !day.starts_with('*') && !weekday.starts_with('*'),
    };
    match found.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC) {
        Some(_) => Ok(found),
        None => Err("that day never comes".to_owned()),
    }
}

/// `*`, `5`, `1-5`, `*/10`, `8-18/2`, `mon-fri`, or several with commas.
fn field(
    text: &str,
    what: &str,
    least: u32,
    most: u32,
    names: &[&str],
    first: u32,
) -> Result<u64, String> {
    let usage = || {
        format!(
            "the {what} {text:?} is none of *, {least} to {most}, ranges (1-5), steps (*/2) and lists (1,3)"
        )
    };
    let number = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let named = names.iter().zip(first..).find(|(name, _)| **name == lower);
        let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = match named {
            Some((_, number)) => Some(number),
            None if is_plain => text.parse().ok(),
            None => None,
        };
        number.filter(|number| (least..=most).contains(number))
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse().ok().filter(|step| (1..=most).contains(step));
                (range, Some(step.ok_or_else(usage)?))
            }
            None => (part, None),
        };
        let (from, until) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, until)) => (
                number(from).ok_or_else(usage)?,
                number(until).ok_or_else(usage)?,
            ),
            None => {
                let from = number(range).ok_or_else(usage)?;
                // `5/10` goes on to the end.
                (from, step.map_or(from, |_| most))
            }
        };
        let until = match until {
            // Sunday ends a week as well as it begins one.
            0 if most == 7 && from > 0 => 7,
            until => until,
        };
        if from > until {
            return Err(usage());
        }
        for number in (from..=until).step_by(step.unwrap_or(1) as usize) {
            set |= 1 << number;
        }
    }
    Ok(set)
}

fn has(set: u64, number: i8) -> bool {
    set >> number & 1 == 1
}

impl Schedule {
    /// The first such time after that one; none where the calendar of the machine ends.
    pub(crate) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = zone.to_datetime(after);
        let from = local.checked_sub(CHANGE.hours()).unwrap_or(local);
        let mut date = from.date();
        for _ in 0..FAR {
            if self.is_on(date) {
                let times = self.times().map(|time| date.to_datetime(time));
                let moments = times
                    .filter(|time| *time >= from)
                    .filter_map(|time| moment(time, zone));
                // A change of clocks may put them out of order.
                if let Some(next) = moments.filter(|moment| *moment > after).min() {
                    return Some(next);
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn is_on(&self, date: Date) -> bool {
        let by_month = has(self.days, date.day());
        let by_week = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let is_day = match self.either_day {
            true => by_month || by_week,
            false => by_month && by_week,
        };
        is_day && has(self.months, date.month())
    }

    fn times(&self) -> impl Iterator<Item = Time> {
        let hours = (0..24).filter(|hour| has(self.hours, *hour));
        hours.flat_map(|hour| {
            let minutes = (0..60).filter(|minute| has(self.minutes, *minute));
            minutes.map(move |minute| Time::constant(hour, minute, 0, 0))
        })
    }
}

/// When it is that time there.
fn moment(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
        AmbiguousOffset::Gap { after, .. } => {
            // By the clock after the change it has been before the change.
            let earlier = after.to_timestamp(local).ok()?;
            zone.following(earlier)
                .next()
                .map(|change| change.timestamp())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central Europe's rule, which needs no files.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn after(text: &str, time: &str, zone: &TimeZone) -> String {
        let time: DateTime = time.parse().unwrap();
        let from = zone.to_timestamp(time).unwrap();
        let next = schedule(text).unwrap().next(from, zone).unwrap();
        zone.to_datetime(next).strftime("%a %F %H:%M").to_string()
    }

    #[test]
    fn next_times() {
        for (text, from, expected) in [
            ("0 4 * * *", "2026-03-02T03:59:59", "Mon 2026-03-02 04:00"),
            ("0 4 * * *", "2026-03-02T04:00:00", "Tue 2026-03-03 04:00"),
            ("* * * * *", "2026-12-31T23:59:30", "Fri 2027-01-01 00:00"),
            (
                "*/15 8-18/2 * * mon-fri",
                "2026-03-06T18:45",
                "Mon 2026-03-09 08:00",
            ),
            ("5/20 * * * *", "2026-03-06T18:26", "Fri 2026-03-06 18:45"),
            ("0,30 9 * * 0", "2026-03-02T00:00", "Sun 2026-03-08 09:00"),
            ("0,30 9 * * 7", "2026-03-08T09:00", "Sun 2026-03-08 09:30"),
            ("0 0 29 2 *", "2026-03-02T00:00", "Tue 2028-02-29 00:00"),
            ("0 0 29 2 *", "2096-03-01T00:00", "Fri 2104-02-29 00:00"),
            ("0 0 31 * *", "2026-01-31T00:00", "Tue 2026-03-31 00:00"),
            (
                "0 9 * * sat-sun",
                "2026-03-07T09:00",
                "Sun 2026-03-08 09:00",
            ),
            (
                "0 9 * * sat-sun",
                "2026-03-08T09:00",
                "Sat 2026-03-14 09:00",
            ),
            // Either day is enough where both are named, and both count where one is a star with a step.
            ("0 0 13 * fri", "2026-03-01T00:00", "Fri 2026-03-06 00:00"),
            ("0 0 */2 * mon", "2026-03-03T00:00", "Mon 2026-03-09 00:00"),
            ("0 12 1 JAN *", "2026-01-01T12:00", "Fri 2027-01-01 12:00"),
        ] {
            assert_eq!(
                after(text, from, &TimeZone::UTC),
                expected,
                "{text} after {from}"
            );
        }
    }

    #[test]
    fn a_time_that_is_skipped_comes_after_the_gap_and_a_double_one_once() {
        let zone = berlin();
        // At two it is three.
        for (text, from, expected) in [
            ("30 2 * * *", "2026-03-28T12:00", "Sun 2026-03-29 03:00"),
            ("30 2 * * *", "2026-03-29T03:00", "Mon 2026-03-30 02:30"),
            ("*/30 * * * *", "2026-03-29T01:30", "Sun 2026-03-29 03:00"),
            ("0 3 * * *", "2026-03-29T01:00", "Sun 2026-03-29 03:00"),
            // At three it is two.
            ("30 2 * * *", "2026-10-24T12:00", "Sun 2026-10-25 02:30"),
            ("0 4 * * *", "2026-10-25T00:00", "Sun 2026-10-25 04:00"),
        ] {
            assert_eq!(after(text, from, &zone), expected, "{text} after {from}");
        }
        let first: Timestamp = "2026-10-25T00:30:00Z".parse().unwrap();
        let half_past_two = schedule("30 2 * * *").unwrap();
        let next = |from: Timestamp| half_past_two.next(from, &zone).unwrap().to_string();
        assert_eq!(next(first - 1.second()), "2026-10-25T00:30:00Z");
        for later in [0, 1, 59, 60, 61] {
            assert_eq!(next(first + later.minutes()), "2026-10-26T01:30:00Z");
        }
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "+1 * * * *",
            "1, * * * *",
            "0 0 30 2 *",
            "@daily",
            "* * * foo *",
            "1-2-3 * * * *",
            "*/99 * * * *",
        ] {
            assert!(schedule(text).is_err(), "{text}");
        }
    }
}
