//! A span of time as people write it: `2w`, `36h`, `1h30m`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// The units, from long to short, with their seconds.
const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
/// Two years: what is longer is a mistake.
const SECONDS_MAXIMUM: u64 = 104 * 604_800;

/// A span of time in whole seconds; in text `1w2d3h4m5s`, each unit at most once, the long ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timespan(u64);

/// The text is no span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTimespan {
    /// Not of the form.
    #[error("this is no span of time")]
    Form,
    /// Too much of it.
    #[error("this is longer than two years")]
    TooLong,
}

impl Timespan {
    /// From whole seconds.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Whole seconds.
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Timespan {
    type Err = InvalidTimespan;

    /// # Errors
    /// When the text is not numbers each followed by its unit, or is longer than two years.
    fn from_str(text: &str) -> Result<Self, InvalidTimespan> {
        let mut rest = text;
        let mut seconds: u64 = 0;
        let mut units = UNITS.iter();
        while !rest.is_empty() {
            let digits = rest.find(|character: char| !character.is_ascii_digit());
            let (number, after) = rest.split_at(digits.ok_or(InvalidTimespan::Form)?);
            let unit = after.chars().next().ok_or(InvalidTimespan::Form)?;
            // The iterator goes on from here, so that a unit comes once, and after the longer ones.
            let (_, of_unit) = units.find(|(word, _)| *word == unit).ok_or(InvalidTimespan::Form)?;
            if number.is_empty() || number.len() > 9 {
                return Err(InvalidTimespan::Form);
            }
            let count: u64 = number.parse().map_err(|_| InvalidTimespan::Form)?;
            seconds += count * of_unit;
            rest = &after[unit.len_utf8()..];
        }
        match seconds {
            _ if text.is_empty() => Err(InvalidTimespan::Form),
            ..=SECONDS_MAXIMUM => Ok(Self(seconds)),
            _ => Err(InvalidTimespan::TooLong),
        }
    }
}

impl fmt::Display for Timespan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut rest = self.0;
        for (word, of_unit) in UNITS {
            let count = rest / of_unit;
            rest %= of_unit;
            if count > 0 {
                text.push_str(&format!("{count}{word}"));
            }
        }
        formatter.pad(if text.is_empty() { "0s" } else { &text })
    }
}

impl TryFrom<String> for Timespan {
    type Error = InvalidTimespan;

    fn try_from(text: String) -> Result<Self, InvalidTimespan> {
        text.parse()
    }
}

impl From<Timespan> for String {
    fn from(timespan: Timespan) -> Self {
        timespan.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<u64, InvalidTimespan>) {
        assert_eq!(text.parse().map(Timespan::seconds), expected, "{text}");
    }

    #[test]
    fn units_come_once_and_the_long_ones_first() {
        check("2w", Ok(1_209_600));
        check("36h", Ok(129_600));
        check("1h30m", Ok(5_400));
        check("0s", Ok(0));
        for text in [
            "",
            "2",
            "w",
            "1m1h",
            "1h1h",
            "1 h",
            "-1h",
            "1.5h",
            "1y",
            "1h30",
            "9999999999s",
            "é",
        ] {
            check(text, Err(InvalidTimespan::Form));
        }
        check("105w", Err(InvalidTimespan::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_was_read(seconds in 0..=SECONDS_MAXIMUM) {
            let timespan = Timespan::from_seconds(seconds);
            prop_assert_eq!(timespan.to_string().parse(), Ok(timespan));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = text.parse::<Timespan>();
        }
    }
}
