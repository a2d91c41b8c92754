//! Old records go, whole UTC days at a time.

use std::time::Duration;

use protocol::command::{ShardOp, ShardReply};

use crate::{clock, cluster::raft::Groups};

/// Between two rounds. A round that finds nothing to drop costs one small entry per shard and day.
const EVERY: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Drops the records of days that ended more than `retention` ago, now and then every hour, for ever.
pub async fn run(groups: Groups, retention: Duration) {
    let mut dropped = 0;
    loop {
        let day = first_kept_day(clock::unix_ms(), retention);
        if day > dropped && drop_before(&groups, day).await {
            dropped = day;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The oldest UTC day (days since the epoch) that holds a record still to be kept at `now_ms`.
fn first_kept_day(now_ms: u64, retention: Duration) -> u32 {
    let kept_since = now_ms.saturating_sub(retention.as_millis() as u64);
    (kept_since / DAY.as_millis() as u64) as u32
}

/// True if every shard has done so.
async fn drop_before(groups: &Groups, day: u32) -> bool {
    let mut all = true;
    for shard in groups.shards() {
        match groups.propose_shard(shard, ShardOp::DropBefore { day }).await {
            Ok(ShardReply::DroppedBefore) => {}
            Ok(reply) => {
                tracing::warn!(%shard, ?reply, "old records were not dropped");
                all = false;
            }
            Err(error) => {
                tracing::warn!(%shard, %error, "old records were not dropped, trying again in an hour");
                all = false;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_goes_only_when_all_of_it_is_too_old() {
        let day = DAY.as_millis() as u64;
        assert_eq!(first_kept_day(10 * day, 7 * DAY), 3);
        assert_eq!(first_kept_day(11 * day - 1, 7 * DAY), 3);
        assert_eq!(first_kept_day(0, 7 * DAY), 0);
    }
}
