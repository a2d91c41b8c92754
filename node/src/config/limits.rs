//! `[limits]`: the bounds that no namespace exceeds. Source of the defaults: reference `rest-api.md` 24.

use std::time::Duration;

use protocol::{
    ByteSize,
    limits::{Bounds, SystemLimits},
};
use serde::Deserialize;

use super::{ConfigError, HumanDuration, HumanSize};

/// What a person may write; each key as in [`SystemLimits`], durations and sizes with their unit.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    allowed_kinds: Vec<String>,
    timeout: WrittenBounds<HumanDuration>,
    memory: WrittenBounds<HumanSize>,
    logs: WrittenBounds<HumanSize>,
    concurrency: WrittenBounds<u32>,
    code_size: Option<HumanSize>,
    parameter_size: Option<HumanSize>,
    payload_size: Option<HumanSize>,
    truncation_size: Option<HumanSize>,
    invocations_per_minute: Option<u32>,
    fires_per_minute: Option<u32>,
    concurrent_invocations: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBounds<T> {
    min: Option<T>,
    standard: Option<T>,
    max: Option<T>,
}

impl<T> Default for WrittenBounds<T> {
    fn default() -> Self {
        Self { min: None, standard: None, max: None }
    }
}

/// No body is larger than this, whatever is configured: the API reads bodies into memory.
const LARGEST: ByteSize = ByteSize::mib(48);
/// Arguments and results are entries of a log, which are bounded.
const LARGEST_PAYLOAD: ByteSize = ByteSize::mib(1);

impl Written {
    pub fn checked(self) -> Result<SystemLimits, ConfigError> {
        let default = SystemLimits::default();
        let size = |key, written: Option<HumanSize>, default: ByteSize, largest: ByteSize| {
            let size = written.map_or(default, ByteSize::from);
            if size > largest {
                return Err(ConfigError::invalid(key, format!("must be at most {} MB", largest.as_mib())));
            }
            Ok(size)
        };
        Ok(SystemLimits {
            allowed_kinds: self.allowed_kinds,
            timeout_ms: self.timeout.checked("limits.timeout", default.timeout_ms, whole_ms)?,
            memory_mb: self.memory.checked("limits.memory", default.memory_mb, whole_mb)?,
            logs_mb: self.logs.checked("limits.logs", default.logs_mb, whole_mb)?,
            concurrency: self.concurrency.checked("limits.concurrency", default.concurrency, in_a_container)?,
            exec: size("limits.code_size", self.code_size, default.exec, LARGEST)?,
            parameters: size("limits.parameter_size", self.parameter_size, default.parameters, LARGEST)?,
            payload: size("limits.payload_size", self.payload_size, default.payload, LARGEST_PAYLOAD)?,
            truncation: size("limits.truncation_size", self.truncation_size, default.truncation, LARGEST_PAYLOAD)?,
            invocations_per_minute: self.invocations_per_minute.unwrap_or(default.invocations_per_minute),
            fires_per_minute: self.fires_per_minute.unwrap_or(default.fires_per_minute),
            concurrent_invocations: self.concurrent_invocations.unwrap_or(default.concurrent_invocations),
            ..default
        })
    }
}

impl<T> WrittenBounds<T> {
    fn checked(
        self,
        key: &'static str,
        default: Bounds,
        number: impl Fn(T) -> Option<u32>,
    ) -> Result<Bounds, ConfigError> {
        let read = |written: Option<T>, default| match written {
            None => Ok(default),
            Some(value) => number(value)
                .ok_or_else(|| ConfigError::invalid(key, "must be whole milliseconds or megabytes, or 1 to 500")),
        };
        let bounds = Bounds {
            min: read(self.min, default.min)?,
            standard: read(self.standard, default.standard)?,
            max: read(self.max, default.max)?,
        };
        if bounds.min > bounds.standard || bounds.standard > bounds.max {
            return Err(ConfigError::invalid(key, "min <= standard <= max must hold"));
        }
        Ok(bounds)
    }
}

/// Each activation has a connection; a container may have a thousand files open.
fn in_a_container(activations: u32) -> Option<u32> {
    Some(activations).filter(|activations| (1..=500).contains(activations))
}

fn whole_ms(HumanDuration(duration): HumanDuration) -> Option<u32> {
    u32::try_from(Duration::as_millis(&duration)).ok()
}

fn whole_mb(HumanSize(size): HumanSize) -> Option<u32> {
    u32::try_from(size.as_mib()).ok().filter(|_| size == ByteSize::mib(size.as_mib()))
}
