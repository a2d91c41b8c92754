//! `[raft]`: the replicated groups.

use raft_store::Timers;
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
            meta: self.meta.checked("raft.meta", Timers::META)?,
            shard: self.shard.checked("raft.shard", Timers::SHARD)?,
        })
    }
}

impl WrittenTimers {
    fn checked(self, key: &'static str, default: Timers) -> Result<Timers, ConfigError> {
        let timers = Timers {
            heartbeat: self.heartbeat.map_or(default.heartbeat, Into::into),
            election_min: self.election_min.map_or(default.election_min, Into::into),
            election_max: self.election_max.map_or(default.election_max, Into::into),
        };
        let ordered = timers.heartbeat < timers.election_min && timers.election_min < timers.election_max;
        if timers.heartbeat.is_zero() || !ordered {
            return Err(ConfigError::invalid(key, "0 < heartbeat < election_min < election_max must hold"));
        }
        Ok(timers)
    }
}
