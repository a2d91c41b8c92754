//! Durations and sizes as people write them.

use std::{fmt, str::FromStr, time::Duration};

use protocol::{ByteSize, size::SizeText};
use serde::{Deserialize, Deserializer};

/// A duration as a number with its unit: `250ms`, `10s`, `5m`, `12h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

/// A size as a number with its unit: `512MB`, `2 GB`. 1 KB is 1024 bytes, as everywhere in OpenWhisk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HumanSize(pub ByteSize);

/// A text that has no unit, or is no number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError {
    text: String,
    expected: &'static str,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not {}", self.text, self.expected)
    }
}

impl std::error::Error for UnitError {}

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error =
            || UnitError { text: text.to_owned(), expected: "a duration such as \"250ms\", \"10s\", \"5m\" or \"7d\"" };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at(digits);
        let unit_ms = match unit.strip_prefix(' ').unwrap_or(unit) {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(error()),
        };
        let count: u64 = count.parse().map_err(|_| error())?;
        count.checked_mul(unit_ms).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(error)
    }
}

impl FromStr for HumanSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let size: SizeText = text
            .parse()
            .map_err(|_| UnitError { text: text.to_owned(), expected: "a size such as \"512MB\" or \"2GB\"" })?;
        Ok(Self(size.size()))
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl From<HumanSize> for ByteSize {
    fn from(size: HumanSize) -> Self {
        size.0
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for HumanSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        for (text, ms) in [("0s", 0), ("250ms", 250), ("10s", 10_000), ("5 m", 300_000), ("7d", 604_800_000)] {
            assert_eq!(text.parse(), Ok(HumanDuration(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1.5s", "10 secs", "99999999999999999999d", "18446744073709551615d"] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_need_their_unit() {
        assert_eq!("2GB".parse(), Ok(HumanSize(ByteSize::mib(2048))));
        assert_eq!(
            "2".parse::<HumanSize>().unwrap_err().to_string(),
            "\"2\" is not a size such as \"512MB\" or \"2GB\""
        );
    }
}
