//! One container between its creation and its end: what the decisions of `pool_state` mean for it.

use std::{fmt, io, sync::Arc};

use tokio::runtime::Handle;

use super::{
    backend::{Backend, Container, ContainerSpec, CreateError},
    pool_state::{ActionId, ContainerId, Idle, Share},
    shared::{Common, Part},
};
use crate::runtime::proxy_client::ProxyConnection;

/// A container that runs (or is frozen), and what belongs to it.
pub struct Live {
    pub container: Box<dyn Container>,
    /// Open between its first use after start or resume and the next pause.
    pub connection: Option<ProxyConnection>,
    /// `/init` succeeded: it has its code.
    pub initialized: bool,
    /// Others may hold it, too; `container` is then a part of this.
    common: Option<Arc<Common>>,
    /// Where it was created, and what belongs to no user of it runs.
    runtime: Handle,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("name", &self.container.name()).field("initialized", &self.initialized).finish()
    }
}

impl Live {
    /// # Errors
    /// As [`Backend::create`].
    pub async fn create(backend: Arc<dyn Backend>, spec: ContainerSpec) -> Result<Self, CreateError> {
        let container = backend.create(spec).await?;
        Ok(Self { container, connection: None, initialized: false, common: None, runtime: Handle::current() })
    }

    /// One that waits without code until somebody needs it.
    ///
    /// # Errors
    /// As [`Backend::create`].
    pub async fn create_at_rest(backend: Arc<dyn Backend>, spec: ContainerSpec) -> Result<Self, CreateError> {
        let mut live = Self::create(backend, spec).await?;
        live.container.rest().await;
        Ok(live)
    }

    /// Several activations may use it.
    pub fn is_shared(&self) -> bool {
        self.common.is_some()
    }

    /// Freezes it. The connection is closed first: one kept over a pause may be half dead after it.
    async fn pause(&mut self) -> io::Result<()> {
        self.connection = None;
        if let Some(common) = &self.common {
            common.close_connections();
        }
        self.container.pause().await
    }

    /// Kills it and removes all it had.
    pub async fn destroy(self) {
        drop(self.connection);
        self.container.destroy().await;
    }
}

impl Share for Live {
    fn split(self) -> (Self, Self) {
        let Self { container, connection, initialized, common, runtime } = self;
        let common = common.unwrap_or_else(|| Common::new(container, &runtime));
        if let Some(connection) = connection {
            common.leave_connection(connection);
        }
        let part = |connection| Self {
            container: Box::new(Part(common.clone())),
            connection,
            initialized,
            common: Some(common.clone()),
            runtime: runtime.clone(),
        };
        (part(None), part(common.take_connection()))
    }

    fn join(mut self, other: Self) -> Self {
        self.initialized |= other.initialized;
        if let (Some(common), Some(connection)) = (&self.common, other.connection) {
            common.leave_connection(connection);
        }
        self
    }
}

/// Something to be done with a container of an action.
#[derive(Debug)]
pub enum Task {
    Start { action: ActionId, id: ContainerId, spec: ContainerSpec },
    Pause { action: ActionId, idle: Idle<Live> },
    Resume { action: ActionId, idle: Idle<Live> },
}

/// How a [`Task`] ended. Nothing may be left untold, or its container would count for ever.
#[derive(Debug)]
pub enum Outcome {
    Started {
        action: ActionId,
        id: ContainerId,
        result: Result<Live, CreateError>,
    },
    Paused {
        action: ActionId,
        idle: Idle<Live>,
        result: io::Result<()>,
    },
    Resumed {
        action: ActionId,
        idle: Idle<Live>,
        result: io::Result<()>,
    },
    /// The task panicked or was cancelled in the middle; the container died with it.
    PauseLost {
        action: ActionId,
    },
    ResumeLost {
        action: ActionId,
    },
}

impl Task {
    pub async fn run(self, backend: Arc<dyn Backend>) -> Outcome {
        match self {
            Self::Start { action, id, spec } => {
                Outcome::Started { action, id, result: Live::create(backend, spec).await }
            }
            Self::Pause { action, mut idle } => {
                let result = idle.held.container.pause().await;
                Outcome::Paused { action, idle, result }
            }
            Self::Resume { action, mut idle } => {
                let result = idle.held.container.container.resume().await;
                Outcome::Resumed { action, idle, result }
            }
        }
    }

    /// What is to be told if the task does not live to tell it.
    pub fn if_lost(&self) -> Outcome {
        match self {
            Self::Start { action, id, spec } => {
                let error = CreateError::Platform(format!("the creation of container `{}` was aborted", spec.name));
                Outcome::Started { action: *action, id: *id, result: Err(error) }
            }
            Self::Pause { action, .. } => Outcome::PauseLost { action: *action },
            Self::Resume { action, .. } => Outcome::ResumeLost { action: *action },
        }
    }
}
