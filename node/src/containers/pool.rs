//! The door to the containers of a node: a warm one at once, or a place in the queue for one.
//!
//! [`Pools::take_warm`] and [`Lease::give_back`] are one short lock each, on whatever thread they are called; a container
//! that comes back while someone waits goes straight to the waiter under the same lock, so that no wake-up can be lost.
//! Only a miss crosses to the action's actor.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use protocol::{ByteSize, NodeId};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
};

use super::{
    Lease, Need, PoolKey,
    backend::{Backend, CreateError},
    container::Live,
    metrics::PoolMetrics,
    pool_state::{Limits, PoolState, WaiterId},
    prewarm::StemCell,
    report::PoolReport,
};
use crate::{
    config,
    invoke::action_actor::{Acquire, Actors},
};

/// How the pools of a node behave.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// First part of every container's name.
    pub node: NodeId,
    pub limits: Limits,
    pub stem_cells: Vec<StemCell>,
    /// How often their number follows the cold starts, where it does.
    pub prewarm_interval: Duration,
    /// Environment of every container from its start, such as `__OW_API_HOST`.
    pub env: Vec<(String, String)>,
}

impl Default for Limits {
    /// 2 GiB, 1,000 waiters, two creations per core, pause after 10 s, removal after 10 min.
    ///
    /// Source: apache/openwhisk `invoker/src/main/resources/application.conf`; the bounds are ours.
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(2048),
            run_buffer: 1000,
            creations: 2 * std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            pause_grace: Some(Duration::from_secs(10)),
            idle_timeout: Duration::from_secs(600),
        }
    }
}

impl From<&config::Containers> for Limits {
    fn from(config: &config::Containers) -> Self {
        Self {
            memory: config.memory,
            run_buffer: config.run_buffer,
            creations: config.creations,
            pause_grace: config.pause_grace,
            idle_timeout: config.idle_timeout,
        }
    }
}

/// Why an activation got no container.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    #[error("the node's queue for containers is full")]
    Full,
    #[error("no container became free before the deadline")]
    Deadline,
    #[error("a container of {} MB cannot run on this node, which has {} MB at most for one", needed.as_mib(), largest.as_mib())]
    TooLarge { needed: ByteSize, largest: ByteSize },
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Where a waiter is answered.
pub type Reply = oneshot::Sender<Result<Lease, AcquireError>>;

pub(super) type State = PoolState<Live, Reply, CreateError>;

/// All container pools of a node; a cheap handle. [`Pools::shutdown`] ends them.
#[derive(Clone)]
pub struct Pools {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub config: PoolConfig,
    pub backend: Arc<dyn Backend>,
    /// Creations, pauses and destructions run here, never on a worker that serves requests.
    pub runtime: Handle,
    pub state: Mutex<State>,
    pub actors: Actors,
    pub metrics: PoolMetrics,
    next_waiter: AtomicU64,
    /// Told of every change once the pools drain.
    pub changed: Notify,
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pools").field("backend", &self.inner.backend.name()).finish_non_exhaustive()
    }
}

impl Pools {
    /// Starts the arbiter for the actors and the first stem cells, on `runtime`.
    ///
    /// # Errors
    /// If no thread can be started for the arbiter.
    pub fn start(
        config: PoolConfig,
        backend: Arc<dyn Backend>,
        runtime: Handle,
        metrics: PoolMetrics,
    ) -> std::io::Result<Self> {
        let inner = Inner {
            state: Mutex::new(PoolState::new(config.limits.clone(), config.stem_cells.clone())),
            actors: Actors::start(config.limits.run_buffer)?,
            next_waiter: AtomicU64::new(0),
            changed: Notify::new(),
            config,
            backend,
            runtime,
            metrics,
        };
        let pools = Self { inner: Arc::new(inner) };
        pools.decide(State::open);
        if pools.inner.state.lock().cells_are_reactive() {
            pools.inner.runtime.spawn(pools.clone().follow_cold_starts());
        }
        Ok(pools)
    }

    async fn follow_cold_starts(self) {
        loop {
            tokio::time::sleep(self.inner.config.prewarm_interval).await;
            if self.is_closed() {
                return;
            }
            self.decide(|state| state.adjust_cells(Instant::now()));
        }
    }

    /// An idle container with the code of `key`: the warm path. `None` also if others wait for memory: nobody
    /// overtakes them.
    pub fn take_warm(&self, key: &PoolKey) -> Option<Lease> {
        let (action, held) = self.inner.state.lock().take_warm(key)?;
        self.inner.metrics.handed_out(held.start);
        Some(Lease::new(self.clone(), action, held))
    }

    /// A container for `need`: idle, resumed, prewarmed or started; waits for one until `deadline` (`None`: without end).
    ///
    /// Cancel safe: a dropped future leaves the queue, and a container already on its way goes to the next.
    ///
    /// # Errors
    /// [`AcquireError`]; nothing ran, so that the work may be placed elsewhere.
    pub async fn acquire(&self, need: Need, deadline: Option<Instant>) -> Result<Lease, AcquireError> {
        let asked = Instant::now();
        let waiter = WaiterId(self.inner.next_waiter.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        let mut waiting = Waiting { pools: self, key: need.key.clone(), waiter, answer, answered: false };
        let sent = self.inner.actors.acquire(self, Acquire { need, waiter, reply });
        let result = match sent {
            Err(refused) => Err(refused),
            Ok(()) => waiting.wait(deadline).await,
        };
        match &result {
            Ok(lease) => {
                self.inner.metrics.handed_out(lease.start);
                self.inner.metrics.queued_for(asked.elapsed());
            }
            Err(AcquireError::Create(_)) => {}
            Err(_) => {
                self.inner.metrics.refusals.inc();
            }
        }
        result
    }

    /// Refuses new work from now on and waits, at most for `within`, until nobody uses or awaits a container.
    /// Returns how many still do.
    pub async fn drain(&self, within: Duration) -> usize {
        self.inner.state.lock().drain();
        self.wait_until(within, |state| {
            let (busy, waiting) = state.in_use();
            busy + waiting
        })
        .await
    }

    /// Destroys all containers, those still leased as soon as they come back, waits at most for `within` until they
    /// are gone, then ends the actors and the back end. Returns the bytes of memory limits that were left.
    pub async fn shutdown(&self, within: Duration) -> u64 {
        self.decide(State::close);
        let left = self.wait_until(within, |state| state.memory().occupied() as usize).await;
        self.inner.actors.stop();
        self.inner.backend.shutdown().await;
        left as u64
    }

    /// True once [`Pools::shutdown`] was called: containers still in use are killed.
    pub fn is_closed(&self) -> bool {
        self.inner.state.lock().is_closed()
    }

    /// Waits until `rest` is 0, at most for `within`; returns what it is then.
    async fn wait_until(&self, within: Duration, rest: impl Fn(&State) -> usize) -> usize {
        let zero = async {
            loop {
                let changed = self.inner.changed.notified();
                tokio::pin!(changed);
                // Registered before looking, so that no change slips through in between.
                changed.as_mut().enable();
                if rest(&self.inner.state.lock()) == 0 {
                    return;
                }
                changed.await;
            }
        };
        // Whether the time was up does not matter: what is left says it all.
        let _ = tokio::time::timeout(within, zero).await;
        rest(&self.inner.state.lock())
    }

    /// How many activations may be in one container of `kind` at once, whose action allows `concurrency`.
    pub fn slots(&self, kind: &str, concurrency: u32) -> usize {
        if concurrency > 1 && self.inner.backend.overlaps(kind) { concurrency as usize } else { 1 }
    }

    /// The state right now.
    pub fn report(&self) -> PoolReport {
        self.inner.state.lock().report()
    }

    // For the action's actor.

    /// A miss.
    pub(crate) fn enqueue(&self, message: Acquire) {
        let Acquire { need, waiter, reply } = message;
        self.decide(|state| {
            // Who closed it before this lock was taken cancelled in vain; who closes it later finds it queued.
            if reply.is_closed() { Vec::new() } else { state.acquire(need, waiter, reply, Instant::now()) }
        });
    }

    pub(crate) fn tick(&self, key: &PoolKey) {
        self.decide(|state| state.tick(key, Instant::now()));
    }

    pub(crate) fn next_tick(&self, key: &PoolKey, now: Instant) -> Option<Instant> {
        self.inner.state.lock().next_tick(key, now)
    }

    pub(crate) fn knows(&self, key: &PoolKey) -> bool {
        self.inner.state.lock().knows(key)
    }

    pub(crate) fn actors(&self) -> &Actors {
        &self.inner.actors
    }
}

/// A caller in the queue. Dropped, it leaves the queue.
struct Waiting<'a> {
    pools: &'a Pools,
    key: PoolKey,
    waiter: WaiterId,
    answer: oneshot::Receiver<Result<Lease, AcquireError>>,
    answered: bool,
}

impl Waiting<'_> {
    async fn wait(&mut self, deadline: Option<Instant>) -> Result<Lease, AcquireError> {
        let answer = match deadline {
            None => (&mut self.answer).await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), &mut self.answer).await {
                Ok(answer) => answer,
                Err(_elapsed) => return self.last_look().unwrap_or(Err(AcquireError::Deadline)),
            },
        };
        self.answered = true;
        // A lost sender: the actors were stopped.
        answer.unwrap_or(Err(AcquireError::ShuttingDown))
    }

    /// Closes the door to answers and takes the one that slipped in before.
    fn last_look(&mut self) -> Option<Result<Lease, AcquireError>> {
        self.answer.close();
        self.answer.try_recv().ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        if let Some(Ok(lease)) = self.last_look() {
            lease.hand_back();
        }
        // Without effect if the waiter was answered. An answer from now on finds the door closed.
        self.pools.decide(|state| state.cancel(&self.key, self.waiter));
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
