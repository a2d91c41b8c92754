//! The one door to running an action: a blocking call ([`blocking`]) or accepted work ([`accepted`]), each of which
//! takes a container's lease, runs on it ([`run`]) and ends in a record.

pub mod accepted;
pub mod action_actor;
pub mod blocking;
mod detach;
mod queues;
pub mod run;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use protocol::{
    Activation, ActivationId, ActivationStatus, RawJson, SessionId, TransactionId, activation::Response,
    command::AcceptedWork, identity::Identity, messages,
};
use raft_store::Space;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use detach::DetachOnDrop;

use crate::{
    activations::{
        metrics::ActivationMetrics,
        record::{self, Times},
        store::Records,
    },
    auth::Authenticator,
    clock,
    cluster::raft::Groups,
    config::{self, StoreLevel},
    containers::{AcquireError, Lease, Need, PoolKey, Pools, backend::CreateError},
    entities::{Entities, resolved::ResolvedAction},
};

/// Bytes of arguments that calls may hold together while they wait and run. Their bodies were counted by whoever read them.
const ARGUMENT_BYTES: usize = 128 << 20;
/// Arguments up to this size are not counted; connections bound them.
const UNCOUNTED: usize = 16 << 10;
/// Pause before a full node is asked again.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// A request to run an action, with all that was decided about it.
#[derive(Debug, Clone)]
pub struct Invocation {
    pub identity: Arc<Identity>,
    pub action: Arc<ResolvedAction>,
    /// Merged; a JSON object (or array) without the init parameters.
    pub arguments: RawJson,
    /// Init parameters: name and text.
    pub init_env: Vec<(String, String)>,
    /// How long the caller waits for the result; `None`: not at all.
    pub blocking: Option<Duration>,
    pub transaction_id: TransactionId,
    /// When the request arrived, milliseconds since the epoch.
    pub received_ms: u64,
    /// `X-OW-EXTRA-LOGGING: on`: the record is stored whatever the level.
    pub extra_logging: bool,
}

/// What the caller gets.
#[derive(Debug, Clone)]
pub enum Invoked {
    /// The activation ended in time. Its logs are not in yet.
    Done(Arc<Activation>),
    /// It is durable and ends in a record.
    Accepted(ActivationId),
}

/// Why an invocation has neither a result nor was accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvokeError {
    /// Nothing ran.
    #[error("System is overloaded, try again later.")]
    Overloaded,
    /// Nothing ran.
    #[error("Too many accepted activations wait in the namespace (count: {count}, allowed: {allowed}).")]
    BacklogFull { count: u32, allowed: u32 },
    /// Nothing ran: arguments and stored parameters together are more than an entry of the log.
    #[error("{}", messages::default_text(protocol::ErrorCode::TooLarge))]
    TooLarge,
    /// Nothing ran.
    #[error("{}", messages::DISK_FULL)]
    NoSpace,
    /// Nothing ran.
    #[error("The activation could not be recorded: {0}")]
    NotRecorded(String),
    /// It runs, and may end without a record.
    #[error("The activation {0} is still running, not yet recorded.")]
    StillRunning(ActivationId),
    /// Nothing ran.
    #[error("The node is stopping.")]
    Stopping,
}

/// Settings of invocation.
#[derive(Debug, Clone)]
pub struct InvokeConfig {
    /// Unfinished accepted activations a namespace may have.
    pub backlog_limit: u32,
    /// Which records of blocking and of accepted activations are stored.
    pub store_blocking: StoreLevel,
    pub store_accepted: StoreLevel,
    /// Tell the log of activations that are not stored.
    pub log_unstored: bool,
}

impl InvokeConfig {
    pub fn new(config: &config::Activations) -> Self {
        Self {
            backlog_limit: config.backlog,
            store_blocking: config.store_blocking_result_level,
            store_accepted: config.store_non_blocking_result_level,
            log_unstored: config.log_unstored,
        }
    }
}

/// Runs actions. Cheap to clone.
#[derive(Clone)]
pub struct Invoker(Arc<Inner>);

/// What an invocation needs of the node.
pub struct Parts {
    pub config: InvokeConfig,
    pub groups: Groups,
    pub session: SessionId,
    pub entities: Entities,
    pub keys: Arc<Authenticator>,
    pub pools: Pools,
    pub records: Records,
    pub metrics: ActivationMetrics,
    /// Runs what belongs to no HTTP worker.
    pub background: tokio::runtime::Handle,
}

struct Inner {
    parts: Parts,
    /// Every invocation under way; a drain waits for it.
    tasks: TaskTracker,
    accepted: queues::Queues,
    arguments: Arc<Semaphore>,
    /// Cancelled when nothing is placed any more.
    stopping: CancellationToken,
}

impl Invoker {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            tasks: TaskTracker::new(),
            accepted: queues::Queues::default(),
            arguments: Arc::new(Semaphore::new(ARGUMENT_BYTES)),
            stopping: CancellationToken::new(),
        }))
    }

    /// Runs or accepts an invocation. The work goes on if the caller stops waiting: dropping this future drops only
    /// the answer.
    ///
    /// # Errors
    /// [`InvokeError`]. A failed *activation* is no error: it is [`Invoked::Done`].
    pub async fn invoke(&self, invocation: Invocation) -> Result<Invoked, InvokeError> {
        // Under way first, then the look: a drain either waits for this one or refuses it.
        let _under_way = self.0.tasks.token();
        if self.is_stopping() {
            return Err(InvokeError::Stopping);
        }
        let room = self.room_for(&invocation.arguments)?;
        let id = ActivationId::new(clock::unix_ms());
        let Invocation { identity, action, arguments, init_env, blocking, transaction_id, received_ms, extra_logging } =
            invocation;
        let work = AcceptedWork {
            activation_id: id,
            action: action.action.fqn(),
            binding: action.binding.clone(),
            revision: action.revision,
            subject: identity.subject.clone(),
            namespace: identity.namespace.clone(),
            key_uuid: identity.uuid.clone(),
            transaction_id: transaction_id.to_string(),
            arguments: arguments.as_str().to_owned(),
            init_env,
            cause: None,
            received_ms,
            extra_logging,
        };
        match blocking {
            None => DetachOnDrop::new(self.clone().accept(work, action, room), &self.0.tasks).await,
            Some(wait) => self.run_blocking(Box::new(work), action, room, wait).await,
        }
    }

    /// Memory for `arguments`; `None`: they need none.
    fn room_for(&self, arguments: &RawJson) -> Result<Option<OwnedSemaphorePermit>, InvokeError> {
        let bytes = arguments.as_str().len();
        if bytes <= UNCOUNTED {
            return Ok(None);
        }
        // Merged with what is stored they are a few megabytes at most.
        let room = Arc::clone(&self.0.arguments).try_acquire_many_owned(bytes.min(ARGUMENT_BYTES) as u32);
        room.map(Some).map_err(|_| InvokeError::Overloaded)
    }

    /// Accepted work that has not started stays in its shard from now on, for the next process.
    pub fn stop_placing(&self) {
        self.0.stopping.cancel();
        self.0.parts.records.stop_holding();
    }

    fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// The room on the disk.
    fn space(&self) -> &Space {
        self.0.parts.groups.store().space()
    }

    /// Waits until no invocation is under way and all records are committed. New ones must have stopped coming.
    pub async fn drained(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.parts.records.settled().await;
    }

    /// Invocations under way on this node.
    pub fn running(&self) -> usize {
        self.0.tasks.len()
    }

    /// Accepted activations of this node that wait for a container.
    pub fn queued(&self) -> usize {
        self.0.accepted.len()
    }

    /// A container for `work`, however long it takes. Cancel safe.
    ///
    /// # Errors
    /// [`AcquireError`], but none that time may mend.
    async fn container(&self, work: &AcceptedWork, action: &ResolvedAction) -> Result<Lease, AcquireError> {
        loop {
            match self.0.parts.pools.acquire(need(&self.0.parts.pools, work, action), None).await {
                Err(AcquireError::Full | AcquireError::Deadline) => tokio::time::sleep(FULL_PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    /// Is a record of this outcome to be stored? Asked once of each activation.
    fn stores(&self, level: StoreLevel, work: &AcceptedWork, response: &Response) -> bool {
        let limits = self.0.parts.entities.limits_in_effect(&work.namespace);
        let stores = limits.store_activations.unwrap_or(true) && (work.extra_logging || level.stores(response.status));
        if !stores && self.0.parts.config.log_unstored {
            let status = response.status.as_str();
            tracing::info!(activation_id = %work.activation_id, namespace = %work.namespace, action = %work.action, status,
                response_size = response.size.unwrap_or(0), "the activation is not recorded");
        }
        stores
    }

    /// The record of `work` if `action` was stored with limits that are by now beyond those of the invoking namespace:
    /// then it does not run.
    fn beyond_limits(&self, work: &AcceptedWork, action: &ResolvedAction) -> Option<Activation> {
        let limits = self.0.parts.entities.limits_in_effect(&work.namespace);
        let text = limits.check_stored(&action.action.limits).err()?;
        let response = failure(ActivationStatus::ApplicationError, &text);
        Some(record::fallback(work, Some(action.action.version), response, clock::unix_ms()))
    }
}

/// What the pools are asked for.
fn need(pools: &Pools, work: &AcceptedWork, action: &ResolvedAction) -> Need {
    let image = match &action.action.exec {
        protocol::entity::Exec::Blackbox { image, .. } => Some(image.clone()),
        _ => None,
    };
    Need {
        key: pool_key(work, action),
        kind: action.action.exec.kind().to_owned(),
        image,
        memory: protocol::ByteSize::mib(action.action.limits.memory_mb.into()),
        slots: pools.slots(action.action.exec.kind(), action.action.limits.concurrency),
    }
}

/// Containers are shared by one revision of an action and one invoking namespace only.
fn pool_key(work: &AcceptedWork, action: &ResolvedAction) -> PoolKey {
    PoolKey { namespace: work.namespace.clone(), action: action.action.fqn(), revision: action.revision }
}

/// How `work` ends, for which no container can be had; `None`: one may be had later, or elsewhere.
fn no_container(work: &AcceptedWork, error: &AcquireError) -> Option<Response> {
    let (status, text) = match error {
        AcquireError::Full | AcquireError::Deadline | AcquireError::ShuttingDown => return None,
        AcquireError::Create(CreateError::Developer(text)) => (ActivationStatus::DeveloperError, text.as_str()),
        AcquireError::Create(CreateError::Platform(_)) | AcquireError::TooLarge { .. } => {
            tracing::error!(activation_id = %work.activation_id, %error, "no container could be started");
            (ActivationStatus::WhiskError, messages::RESOURCE_PROVISION_ERROR)
        }
    };
    Some(failure(status, text))
}

/// The record of an activation that no container ran.
fn never_ran(work: &AcceptedWork, action: &ResolvedAction, response: Response) -> Activation {
    record::record(work, action, response, &Times::never_ran(work.received_ms, clock::unix_ms()))
}

/// A response that is only an error text.
pub(crate) fn failure(status: ActivationStatus, text: &str) -> Response {
    Response { status, result: Some(RawJson::from(serde_json::json!({ "error": text }))), size: None }
}

impl From<AcquireError> for InvokeError {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::ShuttingDown => Self::Stopping,
            _ => Self::Overloaded,
        }
    }
}
