//! When nothing is promoted: once, from a date on, or every week.

use chrono::DateTime;
use lattice_policy::document::Field;
use serde::{Deserialize, Serialize};

use super::{lattice_rollout::timespan, timespan::Timespan};

const DAY: u64 = 86_400;
const WEEK: u64 = 7 * DAY;
/// 1970-01-01 was a Thursday: so many days after a Monday.
const FIRST_WEEKDAY: u64 = 3;
const WEEKDAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];
pub(super) const REASON_BYTES_MAXIMUM: usize = 500;

/// A time in which nothing is promoted. What is taken back is taken back all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FreezeWindow {
    /// When it begins.
    pub begins: FreezeBegin,
    /// How long it lasts.
    pub length: Timespan,
    /// Why; may be empty.
    pub reason: String,
}

/// When a window begins. In UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FreezeBegin {
    /// Once; seconds since the Unix epoch.
    Once(u64),
    /// Every week; seconds since Monday, 00:00.
    Weekly(u64),
}

impl FreezeWindow {
    /// Whether it holds at a time, in seconds since the Unix epoch.
    pub fn holds(&self, unix_seconds: u64) -> bool {
        let since = match self.begins {
            FreezeBegin::Once(begin) => match unix_seconds.checked_sub(begin) {
                Some(since) => since,
                None => return false,
            },
            FreezeBegin::Weekly(begin) => (unix_seconds + FIRST_WEEKDAY * DAY + WEEK - begin) % WEEK,
        };
        since < self.length.seconds()
    }
}

pub(super) fn read_freeze_window(field: &Field<'_>) -> Option<FreezeWindow> {
    let object = field.object()?;
    let (from_field, every_field) = (object.field("from"), object.field("every"));
    let length_field = object.required("for");
    let length = timespan(&length_field);
    let reason_field = object.field("reason");
    let reason = reason_field.text().unwrap_or_default();
    if reason.len() > REASON_BYTES_MAXIMUM {
        let message = format!("a reason has at most {REASON_BYTES_MAXIMUM} bytes");
        reason_field.report(None, message, "Say it in fewer words.");
    }
    if from_field.is_present() == every_field.is_present() {
        let message = "a window begins once or every week, one of the two";
        field.report(None, message, "Name exactly one of from and every.");
    }
    let begins = match every_field.is_present() {
        true => read_weekly(&every_field),
        false => read_once(&from_field),
    };
    if let (Some(FreezeBegin::Weekly(_)), Some(length)) = (begins, length)
        && length.seconds() >= WEEK
    {
        let message = "a window of every week must be shorter than one";
        length_field.report(Some(&length.to_string()), message, "Write `paused: true` instead.");
    }
    object.finish();
    Some(FreezeWindow {
        begins: begins?,
        length: length?,
        reason: reason.to_owned(),
    })
}

fn read_once(field: &Field<'_>) -> Option<FreezeBegin> {
    let text = field.text()?;
    let time = DateTime::parse_from_rfc3339(text).ok();
    let begin = time.and_then(|time| u64::try_from(time.timestamp()).ok());
    if begin.is_none() {
        let advice = "Write it like 2026-12-20T00:00:00Z.";
        field.report(Some(text), "this is no date and time", advice);
    }
    begin.map(FreezeBegin::Once)
}

fn read_weekly(field: &Field<'_>) -> Option<FreezeBegin> {
    let text = field.text()?;
    let begin = weekly(text);
    if begin.is_none() {
        let advice = "Write it like friday 16:00; it is UTC.";
        field.report(Some(text), "this is no day and time of a week", advice);
    }
    begin.map(FreezeBegin::Weekly)
}

fn weekly(text: &str) -> Option<u64> {
    let (day, time) = text.split_once(' ')?;
    let day = WEEKDAYS.iter().position(|weekday| *weekday == day)?;
    let (hour, minute) = time.split_once(':')?;
    let two_digits = |text: &str, below: u64| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| is_number && *number < below)
    };
    let (hour, minute): (u64, u64) = (two_digits(hour, 24)?, two_digits(minute, 60)?);
    Some(u64::try_from(day).ok()? * DAY + hour * 3_600 + minute * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(begins: FreezeBegin, length: u64, times: &[(&str, bool)]) {
        let window = FreezeWindow {
            begins,
            length: Timespan::from_seconds(length),
            reason: String::new(),
        };
        for (time, expected) in times {
            let seconds = DateTime::parse_from_rfc3339(time).unwrap().timestamp();
            assert_eq!(window.holds(seconds.try_into().unwrap()), *expected, "{time}");
        }
    }

    #[test]
    fn a_window_holds_once_or_every_week() {
        // 2026-11-27 is a Friday.
        let friday = FreezeBegin::Weekly(weekly("friday 16:00").unwrap());
        let times = [
            ("2026-11-27T15:59:59Z", false),
            ("2026-11-27T16:00:00Z", true),
            ("2026-11-29T23:59:59Z", true),
            ("2026-11-30T07:59:59Z", true),
            ("2026-11-30T08:00:00Z", false),
            ("2026-12-04T16:00:00Z", true),
        ];
        check(friday, 64 * 3_600, &times);
        let once = DateTime::parse_from_rfc3339("2026-12-20T00:00:00Z")
            .unwrap()
            .timestamp();
        let times = [
            ("2026-12-19T23:59:59Z", false),
            ("2026-12-20T00:00:00Z", true),
            ("2026-12-20T01:00:00Z", false),
            ("2027-12-20T00:00:00Z", false),
        ];
        check(FreezeBegin::Once(once.try_into().unwrap()), 3_600, &times);
    }

    #[test]
    fn a_day_and_a_time() {
        assert_eq!(weekly("monday 00:00"), Some(0));
        assert_eq!(weekly("sunday 23:59"), Some(WEEK - 60));
        for text in [
            "friday",
            "Friday 16:00",
            "friday 24:00",
            "friday 1:00",
            "friday 16:60",
            "friday  16:00",
            "",
        ] {
            assert_eq!(weekly(text), None, "{text}");
        }
    }
}
