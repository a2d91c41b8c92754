//! The end of containers. What a node made and does not hold any more is removed, whatever happened meanwhile: the engine was
//! gone, a call was lost half-way, or the node itself crashed. Containers carry a label that says whose they are.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bollard::{
    models::ContainerSummaryStateEnum,
    query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::Notify, time};
use tokio_util::task::AbortOnDropHandle;

use super::engine::{Call, Engine, EngineError};

/// Between attempts to remove what could not be removed; doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// When it is looked whether a call that was lost half-way had an effect after all: each so long after the one before.
const DOUBT: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(60)];

/// Removals at a time when many are due.
const AT_ONCE: usize = 8;

/// Until it is looked again whether the last ones are gone.
const GOING: Duration = Duration::from_millis(20);

/// Longest that a stopping node waits.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);

/// Removes this node's containers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Removal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    label: (&'static str, String),
    /// Names of containers that are held by somebody.
    held: Mutex<HashSet<String>>,
    /// Something that is not held may be left.
    due: Notify,
}

/// Held by whoever uses the container `name`. Dropping it removes the container beside the path.
#[derive(Debug)]
pub(super) struct Claim {
    name: String,
    /// It is frozen.
    pub paused: bool,
    removal: Removal,
    released: bool,
}

impl Removal {
    /// Removes what an earlier process left, then keeps removing what could not be removed at once.
    pub async fn start(engine: Engine, label: (&'static str, String)) -> (Self, AbortOnDropHandle<()>) {
        let removal = Self(Arc::new(Inner { engine, label, held: Mutex::default(), due: Notify::new() }));
        match removal.sweep().await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed containers that an earlier process left"),
            Err(error) => {
                tracing::warn!(%error, "containers of an earlier process are left; trying again");
                removal.0.due.notify_one();
            }
        }
        let sweeper = removal.0.engine.runtime().spawn(removal.clone().run());
        (removal, AbortOnDropHandle::new(sweeper))
    }

    /// From now on the container `name` is somebody's.
    pub fn claim(&self, name: String) -> Claim {
        self.0.held.lock().insert(name.clone());
        Claim { name, paused: false, removal: self.clone(), released: false }
    }

    /// Removes all containers of the node.
    pub async fn end(&self) {
        self.0.held.lock().clear();
        let all_gone = async {
            loop {
                match self.sweep().await {
                    Ok(0) => return,
                    // Somebody may still be about one of them.
                    Ok(_) => time::sleep(GOING).await,
                    Err(error) => {
                        tracing::warn!(%error, "containers could not be removed yet");
                        time::sleep(RETRY.0).await;
                    }
                }
            }
        };
        if time::timeout(SHUTDOWN_PATIENCE, all_gone).await.is_err() {
            tracing::error!("containers are left behind; the next start on this data directory removes them");
        }
    }

    async fn run(self) {
        loop {
            self.0.due.notified().await;
            let mut pause = RETRY.0;
            while let Err(error) = self.sweep().await {
                tracing::debug!(%error, "containers are still left");
                time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }

    /// Removes every container of this node that nobody holds; returns how many there were. Idempotent.
    async fn sweep(&self) -> Result<usize, EngineError> {
        let (key, value) = &self.0.label;
        let filters = HashMap::from([("label".to_owned(), vec![format!("{key}={value}")])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed =
            self.0.engine.call(Call::List, |docker| async move { docker.list_containers(Some(options)).await });
        let left = listed.await?.into_iter().filter_map(|found| {
            let name = found.names?.into_iter().next()?.trim_start_matches('/').to_owned();
            Some((name, found.state == Some(ContainerSummaryStateEnum::PAUSED)))
        });
        let left: Vec<_> = left.filter(|(name, _)| !self.0.held.lock().contains(name)).collect();
        let count = left.len();
        let removals = futures_util::stream::iter(left).map(|(name, paused)| self.remove(name, paused));
        let outcomes: Vec<_> = removals.buffer_unordered(AT_ONCE).collect().await;
        outcomes.into_iter().collect::<Result<(), _>>().map(|()| count)
    }

    async fn remove(&self, name: String, paused: bool) -> Result<(), EngineError> {
        let removed = self.0.engine.call(Call::Remove, move |docker| async move {
            if paused && let Err(error) = docker.unpause_container(&name).await {
                tracing::debug!(container = name, %error, "not thawed before it is removed");
            }
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            docker.remove_container(&name, Some(options)).await
        });
        match removed.await {
            // Gone, or somebody is about it.
            Err(EngineError::Refused { status: 404 | 409, .. }) => Ok(()),
            removed => removed,
        }
    }

    async fn release(&self, name: String, paused: bool) {
        self.0.held.lock().remove(&name);
        if let Err(error) = self.remove(name.clone(), paused).await {
            // That the engine is silent is known.
            if !matches!(error, EngineError::Silent { .. }) {
                tracing::warn!(container = name, %error, "container not removed yet");
            }
            self.0.due.notify_one();
        }
    }
}

impl Claim {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the container. If it cannot be removed now, that is tried again later.
    pub async fn remove(mut self) {
        self.released = true;
        self.removal.release(self.name.clone(), self.paused).await;
    }

    /// As [`Claim::remove`], for a container that may come to be only after its removal: the answer to its creation is lost.
    pub async fn remove_in_doubt(self) {
        let removal = self.removal.clone();
        self.remove().await;
        let runtime = removal.0.engine.runtime().clone();
        runtime.spawn(async move {
            for pause in DOUBT {
                time::sleep(pause).await;
                removal.0.due.notify_one();
            }
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.released {
            let (removal, name, paused) = (self.removal.clone(), self.name.clone(), self.paused);
            let runtime = removal.0.engine.runtime().clone();
            runtime.spawn(async move { removal.release(name, paused).await });
        }
    }
}
