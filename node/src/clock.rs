//! The wall clock, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

/// The wall-clock time, for what is shown to people.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Milliseconds since the epoch. A clock before the epoch reads 0.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
