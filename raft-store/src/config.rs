//! How the groups are to be run.

use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy, StepDownPolicy};

use crate::types::GroupId;

/// A group's log is cut after this many bytes of entries …
pub const SNAPSHOT_AFTER_BYTES: u64 = 64 << 20;
/// … or this many entries, whichever comes first.
pub const SNAPSHOT_AFTER_ENTRIES: u64 = 5_000;
/// Applied entries that stay in the log, so that a follower that lags a little needs no snapshot.
const KEPT_ENTRIES: u64 = 1_000;

/// Raft timers of one kind of group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    pub heartbeat: Duration,
    /// An election starts after a random time between these without a heartbeat.
    pub election_min: Duration,
    pub election_max: Duration,
}

impl Timers {
    /// For `meta`, whose leader is missed at once.
    pub const META: Self = Self::ms(40, 100, 200);
    pub const SHARD: Self = Self::ms(100, 300, 600);
    /// For tests that are not about failover: no election because a loaded machine was slow.
    pub const RELAXED: Self = Self::ms(250, 1000, 2000);

    pub const fn ms(heartbeat: u64, election_min: u64, election_max: u64) -> Self {
        Self {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(election_min),
            election_max: Duration::from_millis(election_max),
        }
    }

    /// The timers of `group` unless configured otherwise.
    pub const fn of(group: GroupId) -> Self {
        match group {
            GroupId::Meta => Self::META,
            GroupId::Shard(_) => Self::SHARD,
        }
    }
}

/// The openraft configuration of `group`.
///
/// `sole_voter`: the group has one voter and no learner. Then ticks are off, so that an idle group costs nothing, and the
/// node elects itself by `raft.trigger().elect(false)` after each start. Before the membership grows they go on by
/// `raft.runtime_config().tick(true)`.
///
/// # Errors
/// If `timers` make no sense: heartbeat < election_min < election_max does not hold.
pub fn config(group: GroupId, timers: Timers, sole_voter: bool) -> Result<Config, ConfigError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: group.to_string(),
        heartbeat_interval: ms(timers.heartbeat),
        election_timeout_min: ms(timers.election_min),
        election_timeout_max: ms(timers.election_max),
        enable_tick: !sole_voter,
        enable_pre_vote: Some(true),
        // Only the node transfers leadership, after leases have ended; openraft never does by itself.
        removed_leader_step_down: StepDownPolicy::Never,
        // A restarted leader must be elected anew: the read leases it granted are unknown to its new process.
        enable_leader_restore: Some(false),
        quorum_loss_probe_interval: Some(ms(timers.election_max).saturating_mul(2)),
        // A snapshot here is a note of where the state machine stands (see `snapshot.rs`), so it costs nothing.
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        // Purging leaves a range tombstone each, so it is done in few steps.
        purge_batch_size: KEPT_ENTRIES,
        replication_lag_threshold: SNAPSHOT_AFTER_ENTRIES + KEPT_ENTRIES,
        install_snapshot_timeout: 60_000,
        ..Config::default()
    }
    .validate()
}

#[cfg(test)]
mod tests {
    use protocol::ShardId;

    use super::*;

    #[test]
    fn the_timers_of_the_design_are_valid() {
        for group in [GroupId::Meta, GroupId::Shard(ShardId(0))] {
            for timers in [Timers::of(group), Timers::RELAXED] {
                for sole in [true, false] {
                    let config = config(group, timers, sole).unwrap();
                    assert_eq!(config.enable_tick, !sole);
                }
            }
        }
        assert!(config(GroupId::Meta, Timers::ms(100, 90, 200), false).is_err());
    }
}
