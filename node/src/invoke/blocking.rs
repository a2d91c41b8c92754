//! A caller that waits: a container, the run, the answer; then logs, record, and the container back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use protocol::{
    Activation,
    command::{AcceptedWork, ShardReply},
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::sleep_until,
};

use super::{
    InvokeError, Invoked, Invoker,
    detach::DetachOnDrop,
    need, never_ran, no_container, pool_key,
    run::{self, Ending, Ran},
};
use crate::{
    activations::record,
    containers::{AcquireError, Lease},
    entities::resolved::ResolvedAction,
    telemetry::in_this_transaction,
};

type Outcome = Result<Invoked, InvokeError>;

impl Invoker {
    /// Runs `work`. A caller who goes away does not take it along.
    pub(super) async fn run_blocking(
        &self,
        work: Box<AcceptedWork>,
        action: Arc<ResolvedAction>,
        room: Option<OwnedSemaphorePermit>,
        wait: Duration,
    ) -> Outcome {
        let (early, accepted_meanwhile) = oneshot::channel();
        let run = self.clone().blocking(work, action, room, Instant::now() + wait, early);
        tokio::select! {
            biased;
            outcome = DetachOnDrop::new(run, &self.0.tasks) => outcome,
            // It goes on without the caller, whose time is over.
            Ok(outcome) = accepted_meanwhile => outcome,
        }
    }

    /// `early` hears what becomes of work that still runs at `deadline`. `room`: for its arguments.
    async fn blocking(
        self,
        work: Box<AcceptedWork>,
        action: Arc<ResolvedAction>,
        room: Option<OwnedSemaphorePermit>,
        deadline: Instant,
        early: oneshot::Sender<Outcome>,
    ) -> Outcome {
        if let Some(record) = self.beyond_limits(&work, &action) {
            return Ok(self.end_without_run(&work, record));
        }
        let pools = &self.0.parts.pools;
        let lease = match pools.take_warm(&pool_key(&work, &action)) {
            Some(lease) => lease,
            None => match Box::pin(pools.acquire(need(pools, &work, &action), Some(deadline))).await {
                Ok(lease) => lease,
                // Not started and the caller's patience is over: it becomes accepted work.
                Err(AcquireError::Deadline) => return Box::pin(self.accept(*work, action, room)).await,
                Err(error) => match no_container(&work, &error) {
                    Some(response) => return Ok(self.end_without_run(&work, never_ran(&work, &action, response))),
                    None => return Err(error.into()),
                },
            },
        };

        let mut early = Some(early);
        let mut running = std::pin::pin!(run::run(&self, &work, &action, lease));
        // Once proposed, the acceptance stands, whoever hears of it: the activation must be ended in the shard.
        let accepted = AtomicBool::new(false);
        let mut late = std::pin::pin!(async {
            sleep_until(deadline.into()).await;
            if self.space().is_short() {
                return Err(InvokeError::StillRunning(work.activation_id));
            }
            accepted.store(true, Ordering::Relaxed);
            Box::pin(self.accept_started(&work, &action)).await
        });
        let ran = loop {
            tokio::select! {
                biased;
                ran = &mut running => break ran,
                outcome = &mut late, if early.is_some() => {
                    // A caller that went away does not want it.
                    early.take().map(|early| early.send(outcome));
                }
            }
        };
        let Ran { response, times, used } = ran;
        let store = self.stores(self.0.parts.config.store_blocking, &work, &response);
        let ending = Ending { accepted: accepted.load(Ordering::Relaxed), store };
        let record = Arc::new(record::record(&work, &action, response, &times));
        let answer = Invoked::Done(Arc::clone(&record));
        // The caller first: logs, record and container can wait, an answer cannot.
        let (invoker, action) = (self.clone(), Arc::clone(&action));
        let end = async move { run::end(&invoker, used, record, &action, ending, Lease::give_back).await };
        self.0.tasks.spawn(in_this_transaction(end));
        Ok(answer)
    }

    /// The caller's deadline has passed while the action runs: from now on it must end in a record, whatever happens
    /// to this node.
    async fn accept_started(&self, work: &AcceptedWork, action: &ResolvedAction) -> Result<Invoked, InvokeError> {
        let id = work.activation_id;
        match self.propose_accept(work, action, true).await {
            // A duplicate is one that has its record by now.
            Ok(ShardReply::Accepted | ShardReply::Duplicate) => Ok(Invoked::Accepted(id)),
            Ok(reply) => {
                tracing::warn!(activation_id = %id, ?reply, "a running activation was not accepted");
                Err(InvokeError::StillRunning(id))
            }
            Err(error) => {
                tracing::warn!(activation_id = %id, %error, "a running activation was not accepted");
                Err(InvokeError::StillRunning(id))
            }
        }
    }

    /// The answer for an activation that no container ran, whose record is stored beside.
    fn end_without_run(&self, work: &AcceptedWork, record: Activation) -> Invoked {
        let record = Arc::new(record);
        self.0.parts.metrics.ended(&record);
        if self.stores(self.0.parts.config.store_blocking, work, &record.response) {
            let records = self.0.parts.records.clone();
            let record = Arc::clone(&record);
            self.0.tasks.spawn(in_this_transaction(async move {
                if let Some(place) = records.place(&record, false).await {
                    records.finish(record, true, place).await;
                }
            }));
        }
        Invoked::Done(record)
    }
}
