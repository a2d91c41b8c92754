//! One activation on one leased container: `/init` if it is new, `/run`, the outcome; afterwards logs, record and the
//! container back.

use std::{io::ErrorKind, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use protocol::{
    Activation, ActivationStatus, ByteSize,
    action_proxy::{Init, InitCode, Run},
    activation::Response,
    command::AcceptedWork,
    messages,
};

use super::{Invoker, failure, no_container};
use crate::{
    activations::record::Times,
    clock,
    containers::{
        Lease,
        backend::{LogRequest, Loss, has_ended},
        container::Live,
    },
    entities::{encryption::UnlockError, resolved::ResolvedAction},
    runtime::{
        outcome::{InitVerdict, RunVerdict, classify_init, classify_run},
        proxy_client::{AnswerLimits, CallOutcome, Endpoint, Observed, ProxyConnection},
    },
};

/// Containers tried for one activation while each turns out dead before anything was sent to it.
const ATTEMPTS: usize = 5;

/// How an activation went.
pub(super) struct Ran {
    pub response: Response,
    pub times: Times,
    pub used: Used,
}

/// The container it went on.
pub(super) struct Used {
    /// `None`: none was left, or could be had again.
    lease: Option<Lease>,
    /// May the container run another activation?
    reusable: bool,
}

/// What is left to do with the record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    /// The shard holds the activation as unfinished, so it must be ended there even if its record is not stored.
    pub accepted: bool,
    pub store: bool,
}

/// Runs `work` on `lease`'s container. If that container is found dead before it was sent anything, on another.
///
/// An error of ours that panics ends this activation as any other: in its record. The container goes with it.
pub(super) async fn run(invoker: &Invoker, work: &AcceptedWork, action: &ResolvedAction, lease: Lease) -> Ran {
    let ran = AssertUnwindSafe(run_somewhere(invoker, work, action, lease)).catch_unwind().await;
    let abnormal = || failure(ActivationStatus::WhiskError, messages::ABNORMAL_RUN);
    ran.unwrap_or_else(|_panic| nowhere(work, Some(abnormal())))
}

async fn run_somewhere(invoker: &Invoker, work: &AcceptedWork, action: &ResolvedAction, mut lease: Lease) -> Ran {
    for _ in 1..ATTEMPTS {
        match attempt(invoker, work, action, &mut lease).await {
            Attempt::Ran { response, times, reusable } => {
                return Ran { response, times, used: Used { lease: Some(lease), reusable } };
            }
            Attempt::NotStarted(reason) => {
                tracing::info!(activation_id = %work.activation_id, container = lease.container.name(), %reason,
                    "the container was gone before it got the activation; taking another");
                lease.destroy();
                lease = match Box::pin(invoker.container(work, action)).await {
                    Ok(lease) => lease,
                    Err(error) => return nowhere(work, no_container(work, &error)),
                };
            }
        }
    }
    match attempt(invoker, work, action, &mut lease).await {
        Attempt::Ran { response, times, reusable } => {
            Ran { response, times, used: Used { lease: Some(lease), reusable } }
        }
        Attempt::NotStarted(reason) => {
            tracing::error!(activation_id = %work.activation_id, %reason, "no container took the activation");
            lease.destroy();
            nowhere(work, None)
        }
    }
}

/// No container took it. `response`: why, if that is known.
fn nowhere(work: &AcceptedWork, response: Option<Response>) -> Ran {
    let platform = || failure(ActivationStatus::WhiskError, messages::RESOURCE_PROVISION_ERROR);
    Ran {
        response: response.unwrap_or_else(platform),
        times: Times::never_ran(work.received_ms, clock::unix_ms()),
        used: Used { lease: None, reusable: false },
    }
}

enum Attempt {
    Ran {
        response: Response,
        times: Times,
        reusable: bool,
    },
    /// The container got nothing, so another may do the work.
    NotStarted(String),
}

async fn attempt(invoker: &Invoker, work: &AcceptedWork, action: &ResolvedAction, lease: &mut Lease) -> Attempt {
    let limits = &action.action.limits;
    let timeout = Duration::from_millis(limits.timeout_ms.into());
    let api_key = match action.provides_api_key {
        true => invoker.0.parts.keys.credentials_of(&work.key_uuid),
        false => None,
    };
    let mut times = Times { wait_ms: clock::unix_ms().saturating_sub(work.received_ms), ..Times::default() };

    let keyring = invoker.0.parts.entities.keyring();
    let arguments = match action.run_arguments(keyring, &work.arguments) {
        Ok(arguments) => arguments,
        Err(error) => return unreadable(work, &error, times),
    };

    if !lease.initialized {
        let env = match action.run_env(keyring, &work.init_env) {
            Ok(env) => env,
            Err(error) => return unreadable(work, &error, times),
        };
        let body = match Box::pin(init_body(invoker, work, action, env, api_key.as_deref(), timeout)).await {
            Ok(body) => body,
            Err(reason) => {
                tracing::error!(activation_id = %work.activation_id, %reason, "the action's code could not be read");
                let now_ms = clock::unix_ms();
                times = Times { start_ms: now_ms, end_ms: now_ms, ..times };
                let response = failure(ActivationStatus::WhiskError, messages::ACTION_FETCH_ERROR);
                return Attempt::Ran { response, times, reusable: false };
            }
        };
        times.start_ms = clock::unix_ms();
        let system = invoker.0.parts.entities.system_limits();
        let system = AnswerLimits { limit: system.payload, truncation: system.truncation };
        let called = call(lease, Endpoint::Init, body.as_bytes(), timeout, system).await;
        let init_ms = called.elapsed.as_millis() as u64;
        times.init_ms = Some(init_ms);
        times.end_ms = times.start_ms + init_ms;
        let loss = loss(invoker, lease, Endpoint::Init, &called).await;
        match classify_init(&called, timeout, loss) {
            InitVerdict::Initialized => {
                tracing::debug!(activation_id = %work.activation_id, init_ms, "the container has the action's code");
                lease.set_initialized();
            }
            InitVerdict::Reschedule => return Attempt::NotStarted(reason(&called)),
            InitVerdict::Failed { response, timed_out } => {
                times.timed_out = timed_out;
                return Attempt::Ran { response, times, reusable: false };
            }
        }
    }

    let run_began_ms = clock::unix_ms();
    tracing::debug!(activation_id = %work.activation_id, action = %work.action, container = lease.container.name(),
        start = ?lease.start, wait_ms = times.wait_ms, "the activation runs");
    let body = Run {
        value: &arguments,
        namespace: work.namespace.as_str(),
        action_name: &action.full_name,
        action_version: &action.version,
        activation_id: &work.activation_id.to_string(),
        transaction_id: &work.transaction_id,
        deadline_ms: run_began_ms + u64::from(limits.timeout_ms),
        api_key: api_key.as_deref(),
    }
    .body();
    let sizes = invoker.0.parts.entities.limits_in_effect(&work.namespace).sizes;
    let answer_limits = AnswerLimits { limit: sizes.payload, truncation: sizes.truncation };
    let called = call(lease, Endpoint::Run, body.as_bytes(), timeout, answer_limits).await;
    // Init and run count, the gap between them does not.
    times.end_ms = run_began_ms + called.elapsed.as_millis() as u64;
    times.start_ms = run_began_ms.saturating_sub(times.init_ms.unwrap_or(0));
    let loss = loss(invoker, lease, Endpoint::Run, &called).await;
    match classify_run(&called, timeout, loss) {
        RunVerdict::Finished { response, timed_out, keep_container } => {
            times.timed_out = timed_out;
            tracing::debug!(activation_id = %work.activation_id, status = response.status.as_str(),
                run_ms = called.elapsed.as_millis() as u64, keep_container, "the activation ended");
            Attempt::Ran { response, times, reusable: keep_container }
        }
        RunVerdict::Reschedule => Attempt::NotStarted(reason(&called)),
    }
}

async fn loss(invoker: &Invoker, lease: &mut Lease, during: Endpoint, called: &CallOutcome) -> Loss {
    match called.observed {
        Observed::Lost(_) if invoker.0.parts.pools.is_closed() => Loss::NodeStopped,
        Observed::Lost(_) => lease.container.why_lost(during).await,
        _ => Loss::Unexplained,
    }
}

/// A parameter cannot be decrypted, and the container got nothing. Whose fault that is cannot be told: whoever writes an
/// action may say of any value that it is encrypted.
fn unreadable(work: &AcceptedWork, error: &UnlockError, times: Times) -> Attempt {
    tracing::warn!(activation_id = %work.activation_id, action = %work.action, %error, "an activation did not run");
    let now_ms = clock::unix_ms();
    let response = failure(ActivationStatus::DeveloperError, &error.to_string());
    Attempt::Ran { response, times: Times { start_ms: now_ms, end_ms: now_ms, ..times }, reusable: true }
}

/// Why a container did not take the work, for the log.
fn reason(called: &CallOutcome) -> String {
    match &called.observed {
        Observed::NotSent(error) => error.to_string(),
        _ => "it is shutting down".to_owned(),
    }
}

/// Posts `body`, keeping the container's output flowing meanwhile. A container that does not listen yet is tried again
/// until `timeout` is used up.
async fn call(
    lease: &mut Lease,
    endpoint: Endpoint,
    body: &[u8],
    timeout: Duration,
    limits: AnswerLimits,
) -> CallOutcome {
    let began = std::time::Instant::now();
    if lease.connection.as_ref().is_none_or(|connection| !connection.is_usable()) {
        match Box::pin(connect(lease, endpoint, timeout)).await {
            Ok(connection) => lease.connection = Some(connection),
            Err(error) => {
                // Nothing was sent, but the image of a user has ended, as it would in any other container.
                let by_its_own_doing = endpoint == Endpoint::Init && error.kind() == ErrorKind::ConnectionAborted;
                let observed = if by_its_own_doing { Observed::Lost(error) } else { Observed::NotSent(error) };
                return CallOutcome { observed, elapsed: began.elapsed() };
            }
        }
    }
    // Waiting for a container to listen is a part of its initialization.
    let waited = if endpoint == Endpoint::Init { began.elapsed() } else { Duration::ZERO };
    let Live { container, connection, .. } = &mut **lease;
    let Some(connection) = connection else {
        let error = std::io::Error::from(std::io::ErrorKind::NotConnected);
        return CallOutcome { observed: Observed::NotSent(error), elapsed: began.elapsed() };
    };
    let called = tokio::select! {
        biased;
        called = connection.call(endpoint, body, timeout.saturating_sub(waited), limits) => called,
        never = container.drain_logs() => match never {},
    };
    CallOutcome { elapsed: called.elapsed + waited, ..called }
}

async fn connect(lease: &mut Lease, endpoint: Endpoint, timeout: Duration) -> std::io::Result<ProxyConnection> {
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        match lease.container.connect().await.and_then(ProxyConnection::new) {
            Ok(connection) => return Ok(connection),
            // Only a new container may need time to listen; nothing was sent, so trying again is harmless.
            Err(error) if endpoint == Endpoint::Run || has_ended(&error) => return Err(error),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(crate::containers::backend::CONNECT_RETRY).await,
        }
    }
}

async fn init_body(
    invoker: &Invoker,
    work: &AcceptedWork,
    action: &ResolvedAction,
    mut env: Vec<(String, String)>,
    api_key: Option<&str>,
    timeout: Duration,
) -> Result<String, String> {
    let stored = &action.action;
    let bytes = invoker.0.parts.entities.code(action).await.map_err(|error| error.to_string())?;
    let binary = stored.exec.code().is_some_and(|code| code.binary);
    let code = match &bytes {
        None => None,
        Some(bytes) if binary => Some(InitCode::Binary(bytes)),
        Some(bytes) => Some(InitCode::Text(std::str::from_utf8(bytes).map_err(|error| error.to_string())?)),
    };
    let mut context = |name: &str, value: String| env.push((name.to_owned(), value));
    context("__OW_NAMESPACE", work.namespace.to_string());
    context("__OW_ACTION_NAME", action.full_name.clone());
    context("__OW_ACTION_VERSION", action.version.clone());
    context("__OW_ACTIVATION_ID", work.activation_id.to_string());
    context("__OW_TRANSACTION_ID", work.transaction_id.clone());
    context("__OW_DEADLINE", (clock::unix_ms() + timeout.as_millis() as u64).to_string());
    if let Some(key) = api_key {
        context("__OW_API_KEY", key.to_owned());
    }
    Ok(Init { name: stored.name.as_str(), main: stored.exec.main(), code, env: &env }.body())
}

/// What can wait until the caller is answered: the logs, the container to `free` if it is as good as before, the record
/// committed.
pub(super) async fn end(
    invoker: &Invoker,
    used: Used,
    mut record: Arc<Activation>,
    action: &ResolvedAction,
    ending: Ending,
    free: impl FnOnce(Lease),
) {
    let Used { mut lease, mut reusable } = used;
    if let Some(lease) = &mut lease {
        let developer_error = record.response.status == ActivationStatus::DeveloperError;
        let request = LogRequest {
            limit: ByteSize::mib(action.action.limits.logs_mb.into()),
            wait_for_sentinels: !developer_error,
            developer_error,
        };
        let logs = lease.container.collect_logs(request).await;
        if !logs.lines.is_empty() {
            Arc::make_mut(&mut record).logs = logs.lines;
        }
        reusable &= !logs.unreliable;
    }
    invoker.0.parts.metrics.ended(&record);
    let records = &invoker.0.parts.records;
    // Before the container is free again, so that work cannot outrun the disk.
    let place = match ending {
        Ending { accepted: false, store: false } => None,
        Ending { accepted, .. } => records.place(&record, accepted).await,
    };
    match lease {
        Some(lease) if reusable => free(lease),
        // Destroyed, if there is one.
        gone => drop(gone),
    }
    if let Some(place) = place {
        records.finish(record, ending.store, place).await;
    }
}
