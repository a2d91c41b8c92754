//! Sizes in bytes, and their texts such as `256 MB`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// Whole mebibytes, rounded down.
    pub const fn as_mib(self) -> u64 {
        self.0 >> 20
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// A size as a person wrote it: shown in the unit it was given in.
///
/// Source: apache/openwhisk `Size.scala`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeText {
    count: u64,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Byte,
    Kilo,
    Mega,
    Giga,
}

/// A text is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Size Unit not supported. Only \"B\", \"K[B]\", \"M[B]\" and \"G[B]\" are supported.")]
pub struct SizeError;

impl SizeText {
    pub fn size(self) -> ByteSize {
        let shift = match self.unit {
            Unit::Byte => 0,
            Unit::Kilo => 10,
            Unit::Mega => 20,
            Unit::Giga => 30,
        };
        // `from_str` has checked that this does not overflow.
        ByteSize(self.count << shift)
    }
}

impl From<ByteSize> for SizeText {
    /// In bytes.
    fn from(size: ByteSize) -> Self {
        Self { count: size.0, unit: Unit::Byte }
    }
}

impl FromStr for SizeText {
    type Err = SizeError;

    /// A number, at most one space, and a unit: `B`, `K`, `KB`, `M`, `MB`, `G` or `GB` in any case.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at(digits);
        let unit = match unit.strip_prefix(' ').unwrap_or(unit).to_ascii_uppercase().as_str() {
            "B" => Unit::Byte,
            "K" | "KB" => Unit::Kilo,
            "M" | "MB" => Unit::Mega,
            "G" | "GB" => Unit::Giga,
            _ => return Err(SizeError),
        };
        // 2^33 GB fill 63 bits.
        let count = count.parse().ok().filter(|count: &u64| *count < 1 << 33).ok_or(SizeError)?;
        Ok(Self { count, unit })
    }
}

impl fmt::Display for SizeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Byte => "B",
            Unit::Kilo => "KB",
            Unit::Mega => "MB",
            Unit::Giga => "GB",
        };
        write!(f, "{} {unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_their_unit() {
        for (text, shown, bytes) in [
            ("1 MB", "1 MB", 1 << 20),
            ("1mb", "1 MB", 1 << 20),
            ("5k", "5 KB", 5 << 10),
            ("2 G", "2 GB", 2 << 30),
            ("1048576 B", "1048576 B", 1 << 20),
            ("0b", "0 B", 0),
        ] {
            let size: SizeText = text.parse().unwrap();
            assert_eq!((size.to_string().as_str(), size.size().bytes()), (shown, bytes), "{text}");
        }
        for text in ["", "1", "MB", "1  MB", "1 TB", "-1 MB", "1.5 MB", "99999999999 GB", "18446744073709551616 B"] {
            assert_eq!(text.parse::<SizeText>(), Err(SizeError), "{text}");
        }
    }
}
