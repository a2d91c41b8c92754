//! `major.minor.patch`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of an entity; `0.0.1` when created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
}

impl fmt::Display for SemVer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
