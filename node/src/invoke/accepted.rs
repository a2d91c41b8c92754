//! Work that was answered with 202: durable first, then placed by its owner, started at most once, ended in exactly
//! one record.
//!
//! The owner keeps ids only; what to run is read back when a container is held for it.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{
    ActivationStatus, SessionId, TransactionId,
    activation::Response,
    codec,
    command::{Accept, AcceptedWork, ShardOp, ShardReply},
    messages,
};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    InvokeError, Invoked, Invoker, failure, never_ran, no_container, pool_key,
    queues::{Look, Pushed, QueueKey},
    run::{self, Ending, Ran},
};
use crate::{
    activations::record,
    clock,
    cluster::{
        raft::ProposeError,
        session::{self, Waiting},
    },
    containers::{AcquireError, Lease, PoolKey},
    entities::{EntityError, resolved::ResolvedAction},
    telemetry::{Transaction, in_this_transaction, in_transaction},
};

/// How long a container goes on with one action's accepted work before it is offered to others. Where actions wait for
/// each other's memory, a container of its own for each activation would cost more than the activations.
const TURN: Duration = Duration::from_millis(250);

/// A container that has just run accepted work, and goes on with it.
struct Held {
    key: PoolKey,
    lease: Lease,
    turn: Turn,
}

fn give_back(held: Option<Held>) {
    if let Some(held) = held {
        held.lease.give_back();
        // Behind it, so that who asks next finds it.
        drop(held.turn);
    }
}

/// A container's time with the accepted work of one action. When the last ends, another container is asked for what waits.
struct Turn {
    invoker: Invoker,
    key: QueueKey,
    since: Instant,
}

impl Turn {
    fn begin(invoker: &Invoker, key: QueueKey) -> Self {
        invoker.0.accepted.serves(&key);
        Self { invoker: invoker.clone(), key, since: Instant::now() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.invoker.0.accepted.served(&self.key) && !self.invoker.is_stopping() {
            self.invoker.ask(self.key.clone());
        }
    }
}

/// The task that asks for a container.
struct Asking {
    invoker: Invoker,
    key: QueueKey,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if self.invoker.0.accepted.asked(&self.key) && !self.invoker.is_stopping() {
            self.invoker.ask(self.key.clone());
        }
    }
}

impl Invoker {
    /// Makes `work` durable and answers; it is placed afterwards. Not to be dropped between the two: that would strand the
    /// work. `_room` is for its arguments, which are not kept here.
    pub(super) async fn accept(
        self,
        work: AcceptedWork,
        action: Arc<ResolvedAction>,
        _room: Option<OwnedSemaphorePermit>,
    ) -> Result<Invoked, InvokeError> {
        if self.space().is_short() {
            return Err(InvokeError::NoSpace);
        }
        let id = work.activation_id;
        let key = (work.namespace.clone(), work.action.clone());
        // With a container in hand one command does both: accept and start.
        let lease = if self.0.accepted.has_waiting(&key) || self.beyond_limits(&work, &action).is_some() {
            None
        } else {
            self.0.parts.pools.take_warm(&pool_key(&work, &action))
        };
        match self.propose_accept(&work, &action, lease.is_some()).await {
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
                    Err(ProposeError::TooLarge { .. }) => InvokeError::TooLarge,
                    Err(error) => {
                        if matches!(error, ProposeError::Timeout | ProposeError::NotLeader(_)) {
                            self.withdraw(&work, &action);
                        }
                        InvokeError::NotRecorded(error.to_string())
                    }
                });
            }
        }
        tracing::debug!(activation_id = %id, started = lease.is_some(), "the activation is accepted");
        match lease {
            Some(lease) => self.run_beside(work, action, lease, Turn::begin(&self, key)),
            None => {
                let shard = self.0.parts.groups.shard_of(&work.namespace);
                self.enqueue(key, Waiting { id, shard, attempt: 0 });
            }
        }
        Ok(Invoked::Accepted(id))
    }

    /// Ends `work`, should its acceptance still be committed: its caller was told that it is not recorded, and may send
    /// it again. Else it would stay in its shard without anyone to place it, and count for ever.
    fn withdraw(&self, work: &AcceptedWork, action: &ResolvedAction) {
        let response = failure(ActivationStatus::WhiskError, messages::RESOURCE_PROVISION_ERROR);
        let record = never_ran(work, action, response);
        let invoker = self.clone();
        self.background(async move {
            if let Some(place) = invoker.0.parts.records.place(&record, true).await {
                invoker.0.parts.records.finish(Arc::new(record), false, place).await;
            }
        });
    }

    /// `started`: it runs at once on a container that is held, and never again, so that its payload need not be kept.
    pub(super) async fn propose_accept(
        &self,
        work: &AcceptedWork,
        action: &ResolvedAction,
        started: bool,
    ) -> Result<ShardReply, ProposeError> {
        let parts = &self.0.parts;
        // The response is filled in when the node is lost.
        let pending = Response { status: ActivationStatus::WhiskError, result: None, size: None };
        let accept = Accept {
            owner: parts.session,
            work: if started { Vec::new() } else { codec::encode(work) },
            if_lost: never_ran(work, action, pending),
            started,
            backlog_limit: parts.config.backlog_limit,
        };
        let shard = parts.groups.shard_of(&work.namespace);
        parts.groups.propose_shard(shard, ShardOp::Accept(Arc::new(accept))).await
    }

    /// Places what this session took over from an earlier one, beside new work: payloads are read one by one, and only
    /// to learn which action each is for.
    pub fn resume(&self, taken_over: Vec<Waiting>) {
        let invoker = self.clone();
        self.background(async move {
            for waiting in taken_over {
                if invoker.is_stopping() {
                    return;
                }
                if let Some(work) = invoker.read(waiting).await {
                    invoker.enqueue((work.namespace, work.action), waiting);
                }
            }
        });
    }

    fn enqueue(&self, key: QueueKey, waiting: Waiting) {
        let Pushed { ask, watch } = self.0.accepted.push(&key, waiting, Instant::now());
        if ask {
            self.ask(key.clone());
        }
        if watch {
            let invoker = self.clone();
            self.background(async move { invoker.watch(key).await });
        }
    }

    /// Sees to it that what waits under `key` has containers enough, until nothing waits.
    async fn watch(self, key: QueueKey) {
        while let Look::Ask(more, again) = self.0.accepted.look(&key, Instant::now()) {
            (0..more).for_each(|_| self.ask(key.clone()));
            tokio::select! {
                biased;
                () = self.0.stopping.cancelled() => return,
                () = tokio::time::sleep_until(again.into()) => {}
            }
        }
    }

    /// Finds a container for what waits under `key`, which then goes on with it.
    fn ask(&self, key: QueueKey) {
        let asking = Asking { invoker: self.clone(), key };
        self.background(async move {
            let Asking { invoker, key } = &asking;
            while let Some(waiting) = invoker.0.accepted.next(key) {
                if invoker.is_stopping() || invoker.place(key, waiting, None).await {
                    return;
                }
            }
        });
    }

    fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn_on(work, &self.0.parts.background);
    }

    /// Reads what `waiting` runs and starts it, on the container `held` or else on one that it gets for it. The run goes
    /// on beside. False: it does not run here.
    async fn place(&self, key: &QueueKey, waiting: Waiting, held: Option<Held>) -> bool {
        match self.read(waiting).await {
            Some(work) => {
                let id = TransactionId(work.transaction_id.as_str().into());
                let transaction = Transaction { id, extra_logging: work.extra_logging };
                in_transaction(transaction, self.place_work(key, waiting, work, held)).await
            }
            None => {
                give_back(held);
                false
            }
        }
    }

    async fn place_work(&self, key: &QueueKey, waiting: Waiting, work: AcceptedWork, held: Option<Held>) -> bool {
        let Some(action) = self.resolve(key, &work).await else {
            give_back(held);
            return false;
        };
        let (lease, turn) = match held {
            Some(held) if held.key == pool_key(&work, &action) => (held.lease, held.turn),
            // The action was updated meanwhile.
            other => {
                give_back(other);
                match self.acquire(&work, &action).await {
                    Some(lease) => (lease, Turn::begin(self, key.clone())),
                    None => return false,
                }
            }
        };
        if self.is_stopping() {
            lease.give_back();
            return false;
        }
        if !session::may_start(&self.0.parts.groups, waiting.shard, waiting.id, self.session(), waiting.attempt).await {
            tracing::info!(activation_id = %waiting.id, "not started here: it is another's, or over");
            lease.give_back();
            return false;
        }
        self.run_beside(work, action, lease, turn);
        true
    }

    /// The action that `work` runs; `None`: there is none any more, and the work has its record.
    async fn resolve(&self, key: &QueueKey, work: &AcceptedWork) -> Option<Arc<ResolvedAction>> {
        // The latest revision runs, whatever it was when the work was accepted.
        let record = match self.0.parts.entities.action(&key.1, work.binding.as_ref()).await {
            Ok(Some(action)) => match self.beyond_limits(work, &action) {
                None => return Some(action),
                Some(record) => record,
            },
            Ok(None) => {
                let response = failure(ActivationStatus::ApplicationError, messages::ACTION_REMOVED);
                record::fallback(work, None, response, clock::unix_ms())
            }
            Err(error) => {
                tracing::error!(activation_id = %work.activation_id, %error, "the action could not be read");
                let text = match error {
                    EntityError::Refused(..) | EntityError::Corrupted(_) => messages::ACTION_VERSION_MISMATCH,
                    _ => messages::ACTION_FETCH_ERROR,
                };
                let response = failure(ActivationStatus::WhiskError, text);
                record::fallback(work, None, response, clock::unix_ms())
            }
        };
        self.finish(work, record).await;
        None
    }

    /// A container for `work`, however long it takes. `None`: it ended in its record without one, or stays in its shard.
    async fn acquire(&self, work: &AcceptedWork, action: &ResolvedAction) -> Option<Lease> {
        let asked = tokio::select! {
            biased;
            // Nothing is started for what will not run.
            () = self.0.stopping.cancelled() => return None,
            asked = self.container_and_room(work, action) => asked,
        };
        let error = match asked {
            Ok(lease) => return Some(lease),
            Err(error) => error,
        };
        // Else it stays in its shard, for the session after this one.
        if let Some(response) = no_container(work, &error) {
            self.finish(work, never_ran(work, action, response)).await;
        }
        None
    }

    /// A container, once there is room for the record, too. Whoever needs none may have the container until then.
    async fn container_and_room(&self, work: &AcceptedWork, action: &ResolvedAction) -> Result<Lease, AcquireError> {
        loop {
            self.space().room().await;
            let lease = self.container(work, action).await?;
            if !self.space().was_short() {
                return Ok(lease);
            }
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

    fn run_beside(&self, work: AcceptedWork, action: Arc<ResolvedAction>, lease: Lease, turn: Turn) {
        let invoker = self.clone();
        let run = async move { invoker.run_started(work, action, lease, turn).await };
        self.background(in_this_transaction(run));
    }

    /// Runs work whose start is committed.
    async fn run_started(&self, work: AcceptedWork, action: Arc<ResolvedAction>, lease: Lease, turn: Turn) {
        let ran = run::run(self, &work, &action, lease).await;
        let Ran { response, times, used } = ran;
        let store = self.stores(self.0.parts.config.store_accepted, &work, &response);
        let record = Arc::new(record::record(&work, &action, response, &times));
        let free = |lease| self.pass_on(Held { key: pool_key(&work, &action), lease, turn });
        run::end(self, used, record, &action, Ending { accepted: true, store }, free).await;
    }

    /// The container takes what waits next for the same action, until its turn is over.
    fn pass_on(&self, held: Held) {
        let over = held.turn.since.elapsed() >= TURN || self.is_stopping() || self.space().was_short();
        match if over { None } else { self.0.accepted.next(&held.turn.key) } {
            Some(waiting) => {
                let invoker = self.clone();
                let key = held.turn.key.clone();
                // Boxed: each run ends by beginning the next.
                let next: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
                    invoker.place(&key, waiting, Some(held)).await;
                });
                self.background(next);
            }
            None => give_back(Some(held)),
        }
    }

    async fn finish(&self, work: &AcceptedWork, record: protocol::Activation) {
        self.0.parts.metrics.ended(&record);
        let store = self.stores(self.0.parts.config.store_accepted, work, &record.response);
        if let Some(place) = self.0.parts.records.place(&record, true).await {
            self.0.parts.records.finish(Arc::new(record), store, place).await;
        }
    }

    fn session(&self) -> SessionId {
        self.0.parts.session
    }
}
