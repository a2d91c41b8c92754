//! Work that was answered with 202: durable first, then placed by its owner, started at most once, ended in exactly
//! one record.
//!
//! The owner keeps ids only; what to run is read back when a container is held for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use protocol::{
    ActivationId, ActivationStatus, EntityName, FullyQualifiedName, SessionId, ShardId,
    activation::Response,
    codec,
    command::{Accept, AcceptedWork, ShardOp, ShardReply},
    messages,
};
use raft_store::Unfinished;

use super::{
    InvokeError, Invoked, Invoker, failure, need, not_provisioned, pool_key,
    run::{self, Ending},
};
use crate::{
    activations::record::{self, Times},
    clock,
    cluster::{raft::ProposeError, session},
    containers::{AcquireError, Lease},
    entities::resolved::ResolvedAction,
};

/// Containers that one action asks for at once on behalf of accepted work. More would only wait in line.
const ASKING: usize = 16;
/// Pause before a full node is asked again.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// Accepted work of this session that waits for a container, by invoking namespace and action.
#[derive(Default)]
pub(super) struct Queues(Mutex<HashMap<QueueKey, Queue>>);

type QueueKey = (EntityName, FullyQualifiedName);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Tasks that ask for a container.
    asking: usize,
}

/// One accepted activation. What it runs lies in the shard.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    id: ActivationId,
    shard: ShardId,
    attempt: u32,
}

impl Queues {
    pub(super) fn len(&self) -> usize {
        self.0.lock().values().map(|queue| queue.waiting.len()).sum()
    }

    /// True if somebody waits for this action: newcomers go behind them.
    fn has_waiting(&self, key: &QueueKey) -> bool {
        self.0.lock().get(key).is_some_and(|queue| !queue.waiting.is_empty())
    }

    /// Adds `waiting`. True: one more task should ask for a container.
    fn push(&self, key: &QueueKey, waiting: Waiting) -> bool {
        let mut queues = self.0.lock();
        let queue = queues.entry(key.clone()).or_default();
        queue.waiting.push_back(waiting);
        let more = queue.asking < ASKING;
        queue.asking += usize::from(more);
        more
    }

    /// The next to run; `None`: nothing waits, and the asking task has ended.
    fn next_or_leave(&self, key: &QueueKey) -> Option<Waiting> {
        let mut queues = self.0.lock();
        let queue = queues.get_mut(key)?;
        let next = queue.waiting.pop_front();
        if next.is_none() {
            queue.asking -= 1;
            if queue.asking == 0 {
                queues.remove(key);
            }
        }
        next
    }
}

impl Invoker {
    /// Makes `work` durable and answers; it is placed afterwards.
    pub(super) async fn accept(&self, work: AcceptedWork, action: Arc<ResolvedAction>) -> Result<Invoked, InvokeError> {
        let invoker = self.clone();
        // In a task of its own: a caller who goes away between commit and placement must not strand the work.
        let task = self.0.tasks.spawn(async move { invoker.accept_and_place(work, action).await });
        task.await.unwrap_or(Err(InvokeError::Stopping))
    }

    async fn accept_and_place(&self, work: AcceptedWork, action: Arc<ResolvedAction>) -> Result<Invoked, InvokeError> {
        let id = work.activation_id;
        let key = (work.namespace.clone(), work.action.clone());
        // With a container in hand one command does both: accept and start.
        let lease = if self.0.accepted.has_waiting(&key) {
            None
        } else {
            self.0.parts.pools.take_warm(&pool_key(&work, &action))
        };
        let reply = match self.propose_accept(&work, &action, lease.is_some()).await {
            Err(ProposeError::Timeout) => {
                // Nobody knows; asking again gives the answer: it is a duplicate then.
                self.propose_accept(&work, &action, lease.is_some()).await
            }
            reply => reply,
        };
        match reply {
            Ok(ShardReply::Accepted | ShardReply::Duplicate) => {}
            refused => {
                if let Some(lease) = lease {
                    lease.give_back();
                }
                return Err(match refused {
                    Ok(ShardReply::BacklogFull { count }) => {
                        InvokeError::BacklogFull { count, allowed: self.0.parts.config.backlog_limit }
                    }
                    Ok(reply) => InvokeError::NotRecorded(format!("{reply:?}")),
                    Err(error) => InvokeError::NotRecorded(error.to_string()),
                });
            }
        }
        match lease {
            Some(lease) => {
                let invoker = self.clone();
                self.background(async move { invoker.run_started(work, action, lease).await });
            }
            None => {
                let shard = self.0.parts.groups.shard_of(&work.namespace);
                self.enqueue(key, Waiting { id, shard, attempt: 0 });
            }
        }
        Ok(Invoked::Accepted(id))
    }

    pub(super) async fn propose_accept(
        &self,
        work: &AcceptedWork,
        action: &ResolvedAction,
        started: bool,
    ) -> Result<ShardReply, ProposeError> {
        let parts = &self.0.parts;
        let now_ms = clock::unix_ms();
        // The response is filled in when the node is lost.
        let pending = Response { status: ActivationStatus::WhiskError, result: None, size: None };
        let accept = Accept {
            owner: parts.session,
            work: codec::encode(work),
            if_lost: record::record(work, action, pending, &Times::never_ran(work.received_ms, now_ms)),
            started,
            backlog_limit: parts.config.backlog_limit,
        };
        let shard = parts.groups.shard_of(&work.namespace);
        parts.groups.propose_shard(shard, ShardOp::Accept(Box::new(accept))).await
    }

    /// Places what this session took over from an earlier one.
    pub fn resume(&self, taken_over: Vec<(ShardId, Unfinished)>) {
        for (shard, unfinished) in taken_over {
            match codec::decode::<AcceptedWork>(&unfinished.work) {
                Ok(work) => {
                    let waiting = Waiting { id: unfinished.id, shard, attempt: unfinished.attempt };
                    self.enqueue((work.namespace, work.action), waiting);
                }
                Err(error) => {
                    tracing::error!(activation_id = %unfinished.id, %error, "accepted work cannot be read; it stays in its shard");
                }
            }
        }
    }

    fn enqueue(&self, key: QueueKey, waiting: Waiting) {
        if self.0.accepted.push(&key, waiting) {
            let invoker = self.clone();
            self.background(async move { invoker.ask(key).await });
        }
    }

    fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn_on(work, &self.0.parts.background);
    }

    /// Finds containers for the work that waits under `key`, one after another, until none waits.
    async fn ask(self, key: QueueKey) {
        while let Some(waiting) = self.0.accepted.next_or_leave(&key) {
            if self.is_stopping() {
                return;
            }
            self.place(&key, waiting).await;
        }
    }

    /// Reads what `waiting` runs, gets a container for it and starts it. The run goes on beside.
    async fn place(&self, key: &QueueKey, waiting: Waiting) {
        let Some(work) = self.read(waiting).await else { return };
        // The latest revision runs, whatever it was when the work was accepted.
        let action = match self.0.parts.entities.action(&key.1, work.binding.as_ref()).await {
            Ok(Some(action)) => action,
            Ok(None) => {
                let gone = failure(ActivationStatus::ApplicationError, messages::ACTION_REMOVED);
                return self.finish(&work, record::fallback(&work, gone, clock::unix_ms())).await;
            }
            Err(error) => {
                tracing::error!(activation_id = %work.activation_id, %error, "the action could not be read");
                let unread = failure(ActivationStatus::WhiskError, messages::ACTION_FETCH_ERROR);
                return self.finish(&work, record::fallback(&work, unread, clock::unix_ms())).await;
            }
        };
        let lease = loop {
            match self.0.parts.pools.acquire(need(&work, &action), None).await {
                Ok(lease) => break lease,
                Err(AcquireError::Full | AcquireError::Deadline) => tokio::time::sleep(FULL_PAUSE).await,
                // Stays in its shard, for the session after this one.
                Err(AcquireError::ShuttingDown) => return,
                Err(AcquireError::Create(error)) => {
                    return self.finish(&work, not_provisioned(&work, &action, &error)).await;
                }
                Err(error @ AcquireError::TooLarge { .. }) => {
                    tracing::error!(activation_id = %work.activation_id, %error, "accepted work fits on no node");
                    let refused = failure(ActivationStatus::WhiskError, messages::RESOURCE_PROVISION_ERROR);
                    let times = Times::never_ran(work.received_ms, clock::unix_ms());
                    return self.finish(&work, record::record(&work, &action, refused, &times)).await;
                }
            }
        };
        if self.is_stopping() {
            return lease.give_back();
        }
        if session::may_start(&self.0.parts.groups, waiting.shard, waiting.id, self.session(), waiting.attempt).await {
            let invoker = self.clone();
            self.background(async move { invoker.run_started(work, action, lease).await });
        } else {
            tracing::info!(activation_id = %waiting.id, "not started here: it is another's, or over");
            lease.give_back();
        }
    }

    async fn read(&self, waiting: Waiting) -> Option<AcceptedWork> {
        let reader = self.0.parts.groups.store().shard(waiting.shard);
        let read = tokio::task::spawn_blocking(move || reader.unfinished_one(&waiting.id)).await;
        match read {
            Ok(Ok(Some(unfinished))) => match codec::decode(&unfinished.work) {
                Ok(work) => return Some(work),
                Err(error) => tracing::error!(activation_id = %waiting.id, %error, "accepted work cannot be read"),
            },
            // Finished by a fence.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::error!(activation_id = %waiting.id, %error, "accepted work cannot be read"),
            Err(_) => {}
        }
        None
    }

    /// Runs work whose start is committed.
    async fn run_started(&self, work: AcceptedWork, action: Arc<ResolvedAction>, lease: Lease) {
        let ran = run::run(self, &work, &action, lease).await;
        let record = record::record(&work, &action, ran.response.clone(), &ran.times);
        let store = self.stores(self.0.parts.config.store_accepted, &work, ran.response.status);
        run::end(self, ran, record, &action, Ending { accepted: true, store }).await;
    }

    async fn finish(&self, work: &AcceptedWork, record: protocol::Activation) {
        let store = self.stores(self.0.parts.config.store_accepted, work, record.response.status);
        let place = self.0.parts.records.place().await;
        self.0.parts.records.finish(record, store, place).await;
    }

    fn session(&self) -> SessionId {
        self.0.parts.session
    }
}
