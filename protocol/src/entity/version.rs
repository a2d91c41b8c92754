//! `major.minor.patch`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{error::Malformed, messages};

/// Version of an entity; `0.0.1` when created. Text in JSON, three numbers in the binary codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SemVer {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl SemVer {
    pub const FIRST: Self = Self { major: 0, minor: 0, patch: 1 };

    /// The version of the next update.
    pub fn next_patch(self) -> Self {
        Self { patch: self.patch.saturating_add(1), ..self }
    }

    /// Reads the member `version` of a body.
    ///
    /// # Errors
    /// For anything but a string that [`SemVer::from_str`] takes.
    pub fn from_json(value: &RawValue) -> Result<Self, Malformed> {
        serde_json::from_str::<String>(value.get())
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Malformed::new(messages::VERSION_MALFORMED))
    }
}

/// A text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("semantic version malformed")]
pub struct VersionError;

impl FromStr for SemVer {
    type Err = VersionError;

    /// Lenient as upstream: missing parts are 0, leading zeros and parts after the third do not matter. `0.0.0` is
    /// refused.
    ///
    /// Source: apache/openwhisk `SemVer.scala`.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let mut parts: Vec<&str> = text.split('.').collect();
        while parts.last() == Some(&"") {
            parts.pop();
        }
        let part = |index: usize| match parts.get(index) {
            None => Ok(0),
            Some(digits) => digits.parse::<u32>().ok().filter(|n| *n <= i32::MAX as u32).ok_or(VersionError),
        };
        let version = Self { major: part(0)?, minor: part(1)?, patch: part(2)? };
        if version == (Self { major: 0, minor: 0, patch: 0 }) { Err(VersionError) } else { Ok(version) }
    }
}

impl fmt::Display for SemVer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Serialize for SemVer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.major, self.minor, self.patch).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for SemVer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            let (major, minor, patch) = Deserialize::deserialize(deserializer)?;
            Ok(Self { major, minor, patch })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_is_lenient_as_upstream() {
        for (text, version) in [
            ("0.0.1", Some("0.0.1")),
            ("1", Some("1.0.0")),
            ("1.2", Some("1.2.0")),
            ("01.02", Some("1.2.0")),
            ("1.2.3.4.x", Some("1.2.3")),
            ("1.", Some("1.0.0")),
            ("0.0.0", None),
            ("0", None),
            ("-1.0.0", None),
            ("", None),
            (".", None),
            (".1", None),
            ("a.b", None),
            ("99999999999", None),
        ] {
            assert_eq!(text.parse::<SemVer>().ok().map(|v| v.to_string()).as_deref(), version, "{text:?}");
        }
    }

    #[test]
    fn anything_but_a_string_is_malformed() {
        for json in ["1", "null", "{}", "\"x\""] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(SemVer::from_json(raw).unwrap_err().0, "semantic version malformed", "{json}");
        }
    }
}
