//! `[activations]`: accepted work and records.

use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, HumanDuration};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activations {
    /// How long records are kept; whole UTC days are dropped. At least one day. Default 7 days.
    pub retention: Duration,
    /// Accepted and unfinished activations that a namespace may have; more are refused with 429. Default 10,000.
    pub backlog: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    retention: Option<HumanDuration>,
    backlog: Option<u32>,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Written {
    pub fn checked(self) -> Result<Activations, ConfigError> {
        let retention = self.retention.map_or(7 * DAY, Duration::from);
        if retention < DAY {
            return Err(ConfigError::invalid("activations.retention", "must be at least 1d"));
        }
        let backlog = self.backlog.unwrap_or(10_000);
        if backlog == 0 {
            return Err(ConfigError::invalid("activations.backlog", "must be at least 1"));
        }
        Ok(Activations { retention, backlog })
    }
}
