//! Carrying out what [`PoolState`](super::pool_state::PoolState) decides. Always after the lock was released, so that
//! the lock is held for the decision alone.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use tracing::{debug, error, info, warn};

use super::{
    AcquireError, Lease, Need, Pools,
    backend::{ContainerSpec, CreateError},
    container::{Live, Outcome, Task},
    pool::{Reply, State},
    pool_state::{ActionId, ContainerId, Effect, Effects, Held, Refusal},
    prewarm::{CellId, StemCell},
};

type Step = Effect<Live, Reply, CreateError>;
type Work = Effects<Live, Reply, CreateError>;

impl Pools {
    /// Decides under the lock and carries the decision out.
    pub(super) fn decide(&self, event: impl FnOnce(&mut State) -> Work) {
        let mut work = VecDeque::new();
        self.step(event, &mut work);
        while let Some(effect) = work.pop_front() {
            self.carry_out(effect, &mut work);
        }
    }

    fn step(&self, event: impl FnOnce(&mut State) -> Work, work: &mut VecDeque<Step>) {
        let mut state = self.inner.state.lock();
        let effects = event(&mut state);
        let open = state.is_open();
        drop(state);
        work.extend(effects);
        if !open {
            self.inner.changed.notify_waiters();
        }
    }

    /// What follows from it is added to `work` (no recursion: a container may be passed on by many waiters that left).
    fn carry_out(&self, effect: Step, work: &mut VecDeque<Step>) {
        match effect {
            Effect::HandOver { reply, action, held } => {
                let lease = Lease::new(self.clone(), action, held);
                if let Err(Ok(unwanted)) = reply.send(Ok(lease)) {
                    let (action, held) = unwanted.into_parts();
                    self.step(|state| state.hand_back(action, held, Instant::now()), work);
                }
            }
            Effect::Refuse { reply, refusal } => {
                let error = match refusal {
                    Refusal::Full => AcquireError::Full,
                    Refusal::TooLarge { needed, largest } => AcquireError::TooLarge { needed, largest },
                    Refusal::ShuttingDown => AcquireError::ShuttingDown,
                    Refusal::Create(error) => AcquireError::Create(error),
                };
                // Whoever left needs no reason.
                drop(reply.send(Err(error)));
            }
            Effect::Start { action, id, need } => {
                let spec = self.spec(id, &need);
                self.inner.actors.perform(self, &need.key, Task::Start { action, id, spec });
            }
            Effect::Pause { action, need, idle } => {
                self.inner.actors.perform(self, &need.key, Task::Pause { action, idle });
            }
            Effect::Resume { action, need, idle } => {
                self.inner.actors.perform(self, &need.key, Task::Resume { action, idle });
            }
            Effect::Destroy { held, evicted } => self.destroy(held, evicted),
            Effect::CreateCell { cell, id, config } => self.create_cell(cell, id, &config),
            Effect::RetryCell { cell, after, news } => {
                if let Some(error) = news {
                    warn!(
                        error,
                        "a prewarmed container could not be created; this is tried again, and said again if it changes"
                    );
                }
                let pools = self.clone();
                self.inner.runtime.spawn(async move {
                    tokio::time::sleep(after).await;
                    pools.decide(|state| state.retry_cell(cell));
                });
            }
            Effect::CellDoesNotFit { config } => {
                let memory_mb = config.memory.as_mib();
                warn!(kind = config.kind, memory_mb, "no memory for a prewarmed container, it is not created");
            }
            Effect::ActionGone { need } => self.inner.actors.nothing_left(&need.key),
        }
    }

    /// Does `task` beside the path. The future tells how it ended; pass that to [`Pools::settle`].
    pub(crate) fn perform(&self, task: Task) -> impl Future<Output = Outcome> + use<> {
        let lost = task.if_lost();
        let started = Instant::now();
        let metrics = self.inner.metrics.clone();
        let running = self.inner.runtime.spawn(task.run(self.inner.backend.clone()));
        async move {
            let outcome = running.await.unwrap_or_else(|aborted| {
                error!(error = %aborted, "a container task was aborted");
                lost
            });
            if let Outcome::Started { result: Ok(_), .. } = &outcome {
                metrics.started_in(started.elapsed());
            }
            outcome
        }
    }

    /// Takes in how a task ended.
    pub(crate) fn settle(&self, outcome: Outcome) {
        let now = Instant::now();
        match outcome {
            Outcome::Started { action, id, result: Ok(live) } => {
                info!(container = live.container.name(), "container started");
                self.decide(|state| state.started(action, id, live, now));
            }
            Outcome::Started { action, result: Err(error), .. } => {
                // The activation's record holds the text; whether it is the user's fault or ours is known there.
                debug!(%error, "container not created");
                self.inner.metrics.start_failures.inc();
                self.decide(|state| state.start_failed(action, error));
            }
            Outcome::Paused { action, idle, result: Ok(()) } => {
                self.decide(|state| state.paused(action, idle, now));
            }
            Outcome::Paused { action, idle, result: Err(error) } => {
                warn!(container = idle.held.container.container.name(), %error, "container not paused, destroying it");
                self.decide(|state| state.pause_failed(action, Some(idle.held)));
            }
            Outcome::Resumed { action, idle, result: Ok(()) } => {
                self.decide(|state| state.resumed(action, idle, now));
            }
            Outcome::Resumed { action, idle, result: Err(error) } => {
                warn!(container = idle.held.container.container.name(), %error, "container not resumed, destroying it");
                self.decide(|state| state.resume_failed(action, Some(idle.held)));
            }
            Outcome::PauseLost { action } => self.decide(|state| state.pause_failed(action, None)),
            Outcome::ResumeLost { action } => self.decide(|state| state.resume_failed(action, None)),
        }
    }

    fn destroy(&self, held: Held<Live>, evicted: bool) {
        if evicted {
            self.inner.metrics.evictions.inc();
        }
        let gone = Gone { pools: self.clone(), bytes: held.bytes };
        self.inner.runtime.spawn(async move {
            let name = held.container.container.name().to_owned();
            held.container.destroy().await;
            info!(container = name, evicted, "container destroyed");
            drop(gone);
        });
    }

    fn create_cell(&self, cell: CellId, id: ContainerId, config: &StemCell) {
        let spec = ContainerSpec {
            name: config.container_name(self.inner.config.node.0, id.0),
            kind: config.kind.clone(),
            image: None,
            memory: config.memory,
            env: self.inner.config.env.clone(),
        };
        let (pools, bytes) = (self.clone(), config.memory.bytes());
        let creation = self.inner.runtime.spawn(Live::create_at_rest(self.inner.backend.clone(), spec));
        self.inner.runtime.spawn(async move {
            let error = match creation.await {
                Ok(Ok(live)) => {
                    info!(container = live.container.name(), "prewarmed container started");
                    return pools.decide(|state| state.cell_created(cell, id, bytes, live, Instant::now()));
                }
                Ok(Err(error)) => error.to_string(),
                Err(aborted) => aborted.to_string(),
            };
            pools.inner.metrics.start_failures.inc();
            pools.decide(|state| state.cell_failed(cell, error));
        });
    }

    fn spec(&self, id: ContainerId, need: &Arc<Need>) -> ContainerSpec {
        ContainerSpec {
            name: need.container_name(self.inner.config.node.0, id.0),
            kind: need.kind.clone(),
            image: need.image.clone(),
            memory: need.memory,
            env: self.inner.config.env.clone(),
        }
    }

    pub(super) fn give_back(&self, action: ActionId, held: Held<Live>) {
        self.decide(|state| state.give_back(action, held, Instant::now()));
    }

    pub(super) fn hand_back(&self, action: ActionId, held: Held<Live>) {
        self.decide(|state| state.hand_back(action, held, Instant::now()));
    }

    pub(super) fn opened(&self, action: ActionId, held: Held<Live>) {
        self.decide(|state| state.opened(action, held));
    }

    pub(super) fn discard(&self, action: ActionId, held: Held<Live>) {
        self.decide(|state| state.discard(action, held));
    }
}

/// Frees the memory of a destroyed container when it is dropped: also if its destruction panicked or was cancelled by
/// the end of the runtime, when the container died by being dropped.
struct Gone {
    pools: Pools,
    bytes: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.pools.decide(|state| state.destroyed(self.bytes));
    }
}
