//! `[raft]`: the replicated groups.

use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, HumanDuration};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raft {
    /// Groups that hold activations, 1 to 64. Read at the first start only: later the stored number counts. Default 8.
    pub shards: u16,
    /// Timers of the group that holds entities. Default heartbeat 40 ms, election 100 to 200 ms.
    pub meta: Timers,
    /// Timers of the shards. Default heartbeat 100 ms, election 300 to 600 ms.
    pub shard: Timers,
}

/// Timers of a group: heartbeat < election_min < election_max.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    pub heartbeat: Duration,
    /// An election starts after a random time between these two without a heartbeat.
    pub election_min: Duration,
    pub election_max: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    shards: Option<u16>,
    meta: WrittenTimers,
    shard: WrittenTimers,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenTimers {
    heartbeat: Option<HumanDuration>,
    election_min: Option<HumanDuration>,
    election_max: Option<HumanDuration>,
}

impl Written {
    pub fn checked(self) -> Result<Raft, ConfigError> {
        let shards = self.shards.unwrap_or(8);
        if !(1..=64).contains(&shards) {
            return Err(ConfigError::invalid("raft.shards", "must be 1 to 64"));
        }
        Ok(Raft {
            shards,
            meta: self.meta.checked("raft.meta", Timers::ms(40, 100, 200))?,
            shard: self.shard.checked("raft.shard", Timers::ms(100, 300, 600))?,
        })
    }
}

impl WrittenTimers {
    fn checked(self, key: &'static str, default: Timers) -> Result<Timers, ConfigError> {
        let timers = Timers {
            heartbeat: self.heartbeat.map_or(default.heartbeat, Duration::from),
            election_min: self.election_min.map_or(default.election_min, Duration::from),
            election_max: self.election_max.map_or(default.election_max, Duration::from),
        };
        let ordered = timers.heartbeat < timers.election_min && timers.election_min < timers.election_max;
        if timers.heartbeat.is_zero() || !ordered {
            return Err(ConfigError::invalid(key, "0 < heartbeat < election_min < election_max must hold"));
        }
        Ok(timers)
    }
}

impl Timers {
    const fn ms(heartbeat: u64, election_min: u64, election_max: u64) -> Self {
        Self {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(election_min),
            election_max: Duration::from_millis(election_max),
        }
    }
}
