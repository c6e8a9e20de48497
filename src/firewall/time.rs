//! Points in time, as the firewall sees them: given, never read.

use std::fmt;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

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
        let micros = i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Self(self.0.saturating_add(micros))
    }
}

/// RFC 3339 in UTC with microseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_microsecond(self.0)
            .unwrap_or(jiff::Timestamp::MAX)
            .to_zoned(TimeZone::UTC);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            time.year(),
            time.month(),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.subsec_nanosecond() / 1_000
        )
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
