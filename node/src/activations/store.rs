//! Where a finished activation goes: into its namespace's shard, whatever it takes.
//!
//! While the disk is almost full only promised records are written, those of what was accepted: they are few and were
//! counted with. A record of a call whose caller has the answer is held in memory until there is room again, and dropped
//! and counted if too many are: the call is worth more than its record.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use protocol::{
    Activation, ActivationId, SessionId, ShardId,
    command::{Finish, INLINE_LOGS, ShardOp, ShardReply},
};
use raft_store::Space;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::cluster::raft::{Groups, ProposeError};

/// Bytes of records that may wait to be committed. Beyond it containers are kept from new work, so that a slow disk
/// bounds the work and not the memory.
const WAITING_BYTES: usize = 64 << 20;
/// Bytes of records that may be held while the disk is almost full; less if the room is small that has to be there before
/// they are written, as each is written about three times.
const HELD_BYTES: u64 = 64 << 20;
/// No record counts for less, so that small ones are bounded too: 4,096.
const LEAST_BYTES: usize = 16 << 10;

/// Writes records.
#[derive(Clone)]
pub struct Records {
    groups: Groups,
    session: SessionId,
    waiting: Arc<Semaphore>,
    /// Room for records that are not written until the disk has room again.
    held: Arc<Semaphore>,
    /// Cancelled when nothing is held any more.
    stopping: CancellationToken,
    dropped: Counter,
}

/// The right to have a record waiting. Taken before the container is given back.
pub enum RecordPlace {
    Waiting(OwnedSemaphorePermit),
    /// For room on the disk.
    Held(OwnedSemaphorePermit),
}

impl Records {
    pub fn new(groups: Groups, session: SessionId) -> Self {
        let held = HELD_BYTES.min(groups.store().space().min_free_bytes() / 4) as usize;
        Self {
            groups,
            session,
            waiting: Arc::new(Semaphore::new(WAITING_BYTES)),
            held: Arc::new(Semaphore::new(held)),
            stopping: CancellationToken::new(),
            dropped: Counter::default(),
        }
    }

    /// Records that were not written for want of room on the disk.
    pub fn dropped(&self) -> &Counter {
        &self.dropped
    }

    /// Waits until `record` may be on its way. `accepted`: its shard waits for it. `None`: it is dropped, which happens only
    /// to others, and only while the disk is almost full.
    pub async fn place(&self, record: &Activation, accepted: bool) -> Option<RecordPlace> {
        if accepted || !self.space().was_short() {
            return Some(RecordPlace::Waiting(self.wait(permits(record)).await));
        }
        let held = Arc::clone(&self.held).try_acquire_many_owned(permits(record)).ok();
        if held.is_none() && self.dropped.inc() == 0 {
            // Only once: logs fill disks, too.
            tracing::warn!("the disk is almost full, and more records wait for it than may: further ones are dropped");
        }
        held.map(RecordPlace::Held)
    }

    async fn wait(&self, permits: u32) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.waiting).acquire_many_owned(permits).await;
        permit.expect("the semaphore lives as long as self and is never closed")
    }

    /// What is held is written from now on, as far as the disk takes it.
    pub fn stop_holding(&self) {
        self.stopping.cancel();
    }

    fn space(&self) -> &Space {
        self.groups.store().space()
    }

    /// Hands `record` over to be committed; with `store` false only what was accepted under its id is ended. Proposed
    /// again until answered: the first record of an activation wins, so that is safe. Given up only when the node stops
    /// or its session is gone, and then the cluster has finished the activation in this node's stead or will.
    ///
    /// Waits for room on the disk if `place` is for that, for the parts of a long log, and for none of what follows: nobody
    /// is woken for each record.
    pub async fn finish(&self, mut record: Arc<Activation>, store: bool, place: RecordPlace) {
        let place = match place {
            RecordPlace::Waiting(permit) => permit,
            RecordPlace::Held(_held) => {
                tokio::select! {
                    () = self.space().room() => {}
                    () = self.stopping.cancelled() => {}
                }
                self.wait(permits(&record)).await
            }
        };
        let id = record.activation_id;
        let shard = self.groups.shard_of(&record.namespace);
        let mut log_parts = 0;
        if store {
            let parts =
                if has_long_logs(&record) { long_logs(&mut Arc::make_mut(&mut record).logs) } else { Vec::new() };
            for lines in parts {
                let namespace = record.namespace.clone();
                let op = ShardOp::LogPart { session: self.session, namespace, id, part: log_parts, lines };
                if self.propose(shard, op, &id).await.is_none() {
                    return;
                }
                log_parts += 1;
            }
        }
        let op = ShardOp::Finish(Arc::new(Finish { session: self.session, record, log_parts, store }));
        let this = self.clone();
        let again = op.clone();
        self.groups.submit_shard(shard, op, move |outcome| match outcome {
            Err(error) if error.may_pass() => {
                tokio::spawn(async move {
                    if let Some(reply) = this.propose(shard, again, &id).await {
                        note(&id, &reply);
                    }
                    drop(place);
                });
            }
            Err(error) => lost(&id, &error),
            Ok(reply) => note(&id, &reply),
        });
    }

    /// Waits until every record that was handed over is committed or given up. New ones must have stopped coming.
    pub async fn settled(&self) {
        let all = self.waiting.acquire_many(WAITING_BYTES as u32).await;
        drop(all.expect("the semaphore lives as long as self and is never closed"));
    }

    async fn propose(&self, shard: ShardId, op: ShardOp, id: &ActivationId) -> Option<ShardReply> {
        // Boxed, as all that is rare on the way of an invocation: what is not would be carried along by each.
        Box::pin(self.groups.insist_shard(shard, op)).await.map_err(|error| lost(id, &error)).ok()
    }
}

fn note(id: &ActivationId, reply: &ShardReply) {
    match reply {
        ShardReply::Finished => {}
        ShardReply::Dropped => tracing::info!(activation_id = %id, "the activation had its record already"),
        reply => tracing::warn!(activation_id = %id, ?reply, "the record was refused"),
    }
}

fn lost(id: &ActivationId, error: &ProposeError) {
    tracing::error!(activation_id = %id, %error, "the record is lost to this process");
}

fn permits(record: &Activation) -> u32 {
    let bytes = result_len(record) + lines_len(&record.logs);
    bytes.clamp(LEAST_BYTES, WAITING_BYTES) as u32
}

fn has_long_logs(record: &Activation) -> bool {
    lines_len(&record.logs) > INLINE_LOGS
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
fn long_logs(logs: &mut Vec<String>) -> Vec<Vec<String>> {
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
