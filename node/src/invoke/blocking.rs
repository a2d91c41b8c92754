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
use tokio::{sync::oneshot, time::sleep_until};

use super::{
    InvokeError, Invoked, Invoker, need, never_ran, no_container, pool_key,
    run::{self, Ending, Ran},
};
use crate::{
    activations::record,
    containers::{AcquireError, Lease},
    entities::resolved::ResolvedAction,
    telemetry::in_this_transaction,
};

type Answer = oneshot::Sender<Result<Invoked, InvokeError>>;

impl Invoker {
    /// Runs `work` in a task of its own on this worker, so that a caller who goes away does not take it along. What is rare
    /// in that task is boxed: it stays small, and it is moved some times before it runs.
    pub(super) async fn run_blocking(
        &self,
        work: Box<AcceptedWork>,
        action: Arc<ResolvedAction>,
        wait: Duration,
    ) -> Result<Invoked, InvokeError> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + wait;
        let invoker = self.clone();
        let run = async move { invoker.blocking(work, action, deadline, answer).await };
        self.0.tasks.spawn(in_this_transaction(run));
        // The task answers before it ends, unless the runtime stops under it.
        answered.await.unwrap_or(Err(InvokeError::Stopping))
    }

    async fn blocking(self, work: Box<AcceptedWork>, action: Arc<ResolvedAction>, deadline: Instant, answer: Answer) {
        if let Some(record) = self.beyond_limits(&work, &action) {
            return Box::pin(self.end_without_run(&work, record, answer)).await;
        }
        let pools = &self.0.parts.pools;
        let lease = match pools.take_warm(&pool_key(&work, &action)) {
            Some(lease) => lease,
            None => match Box::pin(pools.acquire(need(&work, &action), Some(deadline))).await {
                Ok(lease) => lease,
                Err(AcquireError::Deadline) => {
                    // Not started and the caller's patience is over: it becomes accepted work.
                    reply(answer, Box::pin(self.accept(*work, action)).await);
                    return;
                }
                Err(error) => match no_container(&work, &error) {
                    Some(response) => {
                        let record = never_ran(&work, &action, response);
                        return Box::pin(self.end_without_run(&work, record, answer)).await;
                    }
                    None => return reply(answer, Err(error.into())),
                },
            },
        };
        self.blocking_on(work, action, lease, deadline, answer).await;
    }

    async fn blocking_on(
        &self,
        work: Box<AcceptedWork>,
        action: Arc<ResolvedAction>,
        lease: Lease,
        deadline: Instant,
        answer: Answer,
    ) {
        let mut answer = Some(answer);
        let mut running = std::pin::pin!(run::run(self, &work, &action, lease));
        // Once proposed, the acceptance stands, whoever hears of it: the activation must be ended in the shard.
        let accepted = AtomicBool::new(false);
        let mut late = std::pin::pin!(async {
            sleep_until(deadline.into()).await;
            accepted.store(true, Ordering::Relaxed);
            Box::pin(self.accept_started(&work, &action)).await
        });
        let ran = loop {
            tokio::select! {
                biased;
                ran = &mut running => break ran,
                outcome = &mut late, if answer.is_some() => {
                    if let Some(answer) = answer.take() {
                        reply(answer, outcome);
                    }
                }
            }
        };
        let Ran { response, times, used } = ran;
        let status = response.status;
        let record = Arc::new(record::record(&work, &action, response, &times));
        if let Some(answer) = answer {
            // The caller first: logs, record and container can wait, an answer cannot. It is sent by the task that this
            // worker runs next.
            reply(answer, Ok(Invoked::Done(Arc::clone(&record))));
            tokio::task::yield_now().await;
        }
        let store = self.stores(self.0.parts.config.store_blocking, &work, status);
        let ending = Ending { accepted: accepted.load(Ordering::Relaxed), store };
        run::end(self, used, record, &action, ending, Lease::give_back).await;
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

    /// Answers with, and stores, the record of an activation that no container ran.
    async fn end_without_run(&self, work: &AcceptedWork, record: Activation, answer: Answer) {
        let record = Arc::new(record);
        reply(answer, Ok(Invoked::Done(Arc::clone(&record))));
        let store = self.stores(self.0.parts.config.store_blocking, work, record.response.status);
        if store {
            let place = self.0.parts.records.place(&record).await;
            self.0.parts.records.finish(record, true, place).await;
        }
    }
}

fn reply(answer: Answer, outcome: Result<Invoked, InvokeError>) {
    // A caller that went away does not want it.
    let _ = answer.send(outcome);
}
