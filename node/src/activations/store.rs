//! Where a finished activation goes: into its namespace's shard, whatever it takes.

use std::sync::Arc;

use protocol::{
    Activation, ActivationId, SessionId,
    command::{Finish, INLINE_LOGS, ShardOp, ShardReply},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cluster::raft::Groups;

/// Bytes of records that may wait to be committed. Beyond it containers are kept from new work, so that a slow disk
/// bounds the work and not the memory.
const WAITING_BYTES: usize = 64 << 20;
/// No record counts for less, so that small ones are bounded too: 4,096.
const LEAST_BYTES: usize = 16 << 10;

/// Writes records.
#[derive(Clone)]
pub struct Records {
    groups: Groups,
    session: SessionId,
    waiting: Arc<Semaphore>,
}

/// The right to have a record waiting. Taken before the container is given back.
pub struct RecordPlace(#[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Records {
    pub fn new(groups: Groups, session: SessionId) -> Self {
        Self { groups, session, waiting: Arc::new(Semaphore::new(WAITING_BYTES)) }
    }

    /// Waits until `record` may be on its way.
    pub async fn place(&self, record: &Activation) -> RecordPlace {
        let bytes = result_len(record) + lines_len(&record.logs);
        let permits = bytes.clamp(LEAST_BYTES, WAITING_BYTES) as u32;
        let permit = Arc::clone(&self.waiting).acquire_many_owned(permits).await;
        RecordPlace(permit.expect("the semaphore lives as long as self and is never closed"))
    }

    /// Commits `record`; with `store` false only ends what was accepted under its id. Proposed again until answered:
    /// the first record of an activation wins, so that is safe. Gives up only when the node stops or its session is
    /// gone, and then the cluster has finished the activation in this node's stead or will.
    pub async fn finish(&self, mut record: Activation, store: bool, place: RecordPlace) {
        let id = record.activation_id;
        let shard = self.groups.shard_of(&record.namespace);
        let mut log_parts = 0;
        if store {
            for lines in long_logs(&mut record.logs) {
                let namespace = record.namespace.clone();
                let op = ShardOp::LogPart { session: self.session, namespace, id, part: log_parts, lines };
                if self.propose(shard, op, &id).await.is_none() {
                    return;
                }
                log_parts += 1;
            }
        }
        let op = ShardOp::Finish(Box::new(Finish { session: self.session, record, log_parts, store }));
        match self.propose(shard, op, &id).await {
            Some(ShardReply::Finished) | None => {}
            Some(ShardReply::Dropped) => tracing::info!(activation_id = %id, "the activation had its record already"),
            Some(reply) => tracing::warn!(activation_id = %id, ?reply, "the record was refused"),
        }
        drop(place);
    }

    async fn propose(&self, shard: protocol::ShardId, op: ShardOp, id: &ActivationId) -> Option<ShardReply> {
        let lost = |error| tracing::error!(activation_id = %id, %error, "the record is lost to this process");
        self.groups.insist_shard(shard, op).await.map_err(lost).ok()
    }
}

fn result_len(record: &Activation) -> usize {
    record.response.result.as_ref().map_or(0, |result| result.as_str().len())
}

/// Every line costs its length prefix too.
fn line_len(line: &str) -> usize {
    line.len() + 8
}

fn lines_len(lines: &[String]) -> usize {
    lines.iter().map(|line| line_len(line)).sum()
}

/// Takes out of `logs`, in order, what does not fit into the record's own entry, in parts that each fit into one.
/// A record with short logs keeps them all.
fn long_logs(logs: &mut Vec<String>) -> Vec<Vec<String>> {
    if lines_len(logs) <= INLINE_LOGS {
        return Vec::new();
    }
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for line in logs.drain(..) {
        bytes += line_len(&line);
        if bytes > 2 * INLINE_LOGS && !parts[parts.len() - 1].is_empty() {
            parts.push(Vec::new());
            bytes = line_len(&line);
        }
        let last = parts.len() - 1;
        parts[last].push(line);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_logs_stay_in_the_record() {
        let mut logs = vec!["line".to_owned(); 100];
        assert!(long_logs(&mut logs).is_empty());
        assert_eq!(logs.len(), 100);
    }

    #[test]
    fn long_logs_leave_in_parts_that_fit_and_keep_their_order() {
        let lines: Vec<String> = (0..20_000).map(|n| format!("{n:0>100}")).collect();
        let mut logs = lines.clone();
        let parts = long_logs(&mut logs);
        assert!(logs.is_empty());
        assert!(parts.len() > 1);
        assert!(parts.iter().all(|part| part.iter().map(String::len).sum::<usize>() <= 2 * INLINE_LOGS));
        assert_eq!(parts.concat(), lines);
    }
}
