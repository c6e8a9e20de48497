//! Points in time, as the firewall sees them: given, never read.

use std::fmt;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::saturate::SaturatingFrom as _;

/// Wall-clock time in microseconds since 1970, for people and for what outlives this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads RFC 3339, for example `2026-11-22T10:00:00Z`.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Self(t.as_microsecond()))
    }

    #[must_use]
    pub fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Returns Unix time with fractions, as metrics have it.
    pub fn unix_seconds(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "microseconds fit for two centuries")]
        let micros = self.0 as f64;
        micros / 1e6
    }

    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    #[must_use]
    pub fn plus_secs(self, secs: u64) -> Self {
        let micros = i64::saturating_from(secs).saturating_mul(1_000_000);
        Self(self.0.saturating_add(micros))
    }

    /// Writes RFC 3339 in UTC with microseconds.
    pub fn text(self) -> [u8; 27] {
        let time = jiff::Timestamp::from_microsecond(self.0)
            .unwrap_or(jiff::Timestamp::MAX)
            .to_zoned(TimeZone::UTC);
        // Before the year 0 nothing is recorded; such a time is written as the year 0.
        let year = u32::try_from(time.year()).unwrap_or(0);
        let small = |value: i8| u32::from(value.unsigned_abs());
        let micros = time.subsec_nanosecond().unsigned_abs() / 1_000;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let fields = [
            (0..4, year),
            (5..7, small(time.month())),
            (8..10, small(time.day())),
            (11..13, small(time.hour())),
            (14..16, small(time.minute())),
            (17..19, small(time.second())),
            (20..26, micros),
        ];
        for (place, mut value) in fields {
            for digit in text.get_mut(place).unwrap_or_default().iter_mut().rev() {
                *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
                value /= 10;
            }
        }
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom("not an RFC 3339 time such as `2026-11-22T10:00:00Z`")
        })
    }
}

/// Monotonic time in microseconds since this run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    #[must_use]
    pub fn plus_secs(self, secs: u64) -> Self {
        Self(self.0.saturating_add(secs.saturating_mul(1_000_000)))
    }

    /// Microseconds from `earlier` to this instant; none if it lies behind.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: Timestamp,
    pub mono: Mono,
}

impl Now {
    /// The monotonic instant at which the wall clock will show `at`.
    pub fn mono_at(&self, at: Timestamp) -> Mono {
        let ahead = at.0.saturating_sub(self.wall.0);
        match u64::try_from(ahead) {
            Ok(ahead) => Mono(self.mono.0.saturating_add(ahead)),
            Err(_) => Mono(self.mono.0.saturating_sub(ahead.unsigned_abs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_with_microseconds() {
        let at = Timestamp::parse("2026-11-22T10:00:00.000007Z").unwrap();
        assert_eq!(at.to_string(), "2026-11-22T10:00:00.000007Z");
        assert_eq!(Timestamp(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn a_wall_time_becomes_an_instant_of_this_run() {
        let now = Now { wall: Timestamp(1_000), mono: Mono(500) };
        assert_eq!(now.mono_at(Timestamp(1_100)), Mono(600));
        assert_eq!(now.mono_at(Timestamp(0)), Mono(0));
    }
}
