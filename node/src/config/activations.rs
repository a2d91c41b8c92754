//! `[activations]`: accepted work and records.

use std::time::Duration;

use protocol::ActivationStatus;
use serde::Deserialize;

use super::{ConfigError, HumanDuration};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activations {
    /// How long records are kept; whole UTC days are dropped. At least one day. Default 7 days.
    pub retention: Duration,
    /// Accepted and unfinished activations that a namespace may have; more are refused with 429. Default 10,000.
    pub backlog: u32,
    /// Which activations whose callers wait for the result are recorded. Default: all.
    pub store_blocking_result_level: StoreLevel,
    /// Which accepted activations (202) are recorded. Default: all.
    pub store_non_blocking_result_level: StoreLevel,
    /// Tell the log of activations that are not recorded. Default off.
    pub log_unstored: bool,
}

/// Which outcomes are worth a record. A request with `X-OW-EXTRA-LOGGING: on` has one in any case.
///
/// Source: apache/openwhisk `application.conf`, `whisk.activation`; reference `execution.md` 5.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StoreLevel {
    #[default]
    StoreAlways,
    StoreFailures,
    StoreFailuresNotApplicationErrors,
}

impl StoreLevel {
    pub fn stores(self, status: ActivationStatus) -> bool {
        match self {
            Self::StoreAlways => true,
            Self::StoreFailures => status != ActivationStatus::Success,
            Self::StoreFailuresNotApplicationErrors => {
                !matches!(status, ActivationStatus::Success | ActivationStatus::ApplicationError)
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    retention: Option<HumanDuration>,
    backlog: Option<u32>,
    store_blocking_result_level: StoreLevel,
    store_non_blocking_result_level: StoreLevel,
    log_unstored: bool,
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
        Ok(Activations {
            retention,
            backlog,
            store_blocking_result_level: self.store_blocking_result_level,
            store_non_blocking_result_level: self.store_non_blocking_result_level,
            log_unstored: self.log_unstored,
        })
    }
}
