//! The Docker engine behind its socket, with a bound on every call. It may hang, vanish, or come back as another version:
//! each call says so in time, and the first one after its return works again.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker, errors::Error};
use parking_lot::Mutex;
use tokio::{runtime::Handle, time};

use super::metrics::DockerMetrics;

/// Until the engine has told its version, or answered a ping; as long as OpenWhisk has it.
const PATIENCE: Duration = Duration::from_secs(10);

/// For the longest of all calls.
const PULL: Duration = Duration::from_secs(600);

/// The header with a registry's credentials.
const CREDENTIALS: &str = "x-registry-auth";

/// How often an engine that is busy with a call is asked whether it is there at all.
const WATCH: Duration = Duration::from_secs(5);

/// What the engine is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Version,
    Pull,
    Create,
    Start,
    Inspect,
    Pause,
    Unpause,
    Remove,
    List,
    Logs,
    InspectNetwork,
    MakeNetwork,
    RemoveNetwork,
}

impl Call {
    /// In metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Pull => "pull",
            Self::Create => "create",
            Self::Start => "start",
            Self::Inspect => "inspect",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Remove => "remove",
            Self::List => "list",
            Self::Logs => "logs",
            Self::InspectNetwork | Self::MakeNetwork | Self::RemoveNetwork => "network",
        }
    }

    /// What an engine that does not do it could not do.
    pub fn what(self) -> &'static str {
        match self {
            Self::Version => "tell its version",
            Self::Pull => "pull the image",
            Self::Create => "create a container",
            Self::Start => "start a container",
            Self::Inspect => "inspect a container",
            Self::Pause => "pause a container",
            Self::Unpause => "resume a container",
            Self::Remove => "remove a container",
            Self::List => "list containers",
            Self::Logs => "read logs",
            Self::InspectNetwork => "inspect the network",
            Self::MakeNetwork => "make a network",
            Self::RemoveNetwork => "remove the network",
        }
    }

    /// The longest time.
    ///
    /// Source: apache/openwhisk `application.conf`, `docker.client.timeouts`.
    fn limit(self) -> Duration {
        match self {
            Self::Pull => PULL,
            Self::Version => PATIENCE,
            Self::Pause | Self::Unpause => Duration::from_secs(10),
            _ => Duration::from_secs(60),
        }
    }
}

/// Why a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// Nobody is there, or nobody who answers. Whether the call had an effect is not known.
    #[error("the Docker engine at {socket} does not answer: {reason}")]
    Silent { socket: String, reason: String },
    /// It is there, and took too long. Whether the call had an effect is not known.
    #[error("the Docker engine did not {what} within {limit:?}")]
    TooSlow { what: &'static str, limit: Duration },
    /// It refused. `status` is that of HTTP, 0 for a failure in the midst of an answer, or one that cannot be read.
    #[error("the Docker engine could not {what}: {message}")]
    Refused { what: &'static str, status: u16, message: String },
    /// Something of this node's own is missing for the call.
    #[error("{0}")]
    NotAsked(String),
}

impl EngineError {
    /// The thing of the call is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The engine has decided: the call had no effect.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// A client of one engine. Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine(Arc<Inner>);

struct Inner {
    socket: String,
    /// All calls run here, whoever makes them: a connection belongs to the runtime that opened it, and one that is dropped
    /// half-way would leave the caller in doubt about what it did.
    runtime: Handle,
    /// Speaks the version that the engine speaks; none after the engine was silent.
    client: Mutex<Option<Docker>>,
    metrics: DockerMetrics,
    /// Whether the last call was answered, once one was: so that silence and return are each logged once.
    answers: Mutex<Option<bool>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("socket", &self.0.socket).finish_non_exhaustive()
    }
}

/// What answers.
#[derive(Debug)]
pub(super) struct Version {
    pub engine: String,
    pub api: String,
}

impl Engine {
    /// A client of the engine at `socket`, a path. Calls run on `runtime`.
    pub fn new(socket: String, runtime: Handle, metrics: DockerMetrics) -> Self {
        Self(Arc::new(Inner { socket, runtime, metrics, client: Mutex::default(), answers: Mutex::default() }))
    }

    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Asks the engine who it is.
    pub async fn version(&self) -> Result<Version, EngineError> {
        let version = self.call(Call::Version, |docker| async move {
            let engine = docker.version().await?.version.unwrap_or_default();
            Ok(Version { engine, api: docker.client_version().to_string() })
        });
        version.await
    }

    /// Makes a call, within its time. Not cancelled when the future is dropped.
    pub async fn call<T, F>(
        &self,
        what: Call,
        call: impl FnOnce(Docker) -> F + Send + 'static,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
    {
        let engine = self.clone();
        let running = self.0.runtime.spawn(async move {
            let began = Instant::now();
            let outcome = engine.bounded(what, call).await;
            engine.0.metrics.called(what, began.elapsed(), outcome.is_err());
            engine.learn(&outcome);
            outcome
        });
        // It ends with the runtime only, as the node does.
        running.await.unwrap_or_else(|aborted| Err(self.silent(aborted)))
    }

    async fn bounded<T, F>(&self, what: Call, call: impl FnOnce(Docker) -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (what, limit) = (what.what(), what.limit());
        let docker = self.client().await?;
        let watched = docker.clone();
        let called = tokio::select! {
            called = call(docker) => called,
            () = time::sleep(limit) => return Err(EngineError::TooSlow { what, limit }),
            reason = silence(&watched) => return Err(self.silent(reason)),
        };
        called.map_err(|error| match error {
            Error::DockerResponseServerError { status_code: status, message } => {
                EngineError::Refused { what, status, message }
            }
            Error::DockerStreamError { error: message } => EngineError::Refused { what, status: 0, message },
            error @ (Error::JsonDataError { .. } | Error::JsonSerdeError { .. }) => {
                EngineError::Refused { what, status: 0, message: format!("its answer is not known here: {error}") }
            }
            error => self.silent(with_causes(&error)),
        })
    }

    /// A client that speaks the engine's version: that of engines from 20.10 on, which the next one may not speak any more.
    pub async fn client(&self) -> Result<Docker, EngineError> {
        if let Some(docker) = self.0.client.lock().clone() {
            return Ok(docker);
        }
        // Each call has a bound of its own; this one is for none.
        let docker = Docker::connect_with_unix(&self.0.socket, PULL.as_secs(), API_DEFAULT_VERSION)
            .map_err(|error| self.silent(with_causes(&error)))?;
        let negotiated = time::timeout(PATIENCE, docker.negotiate_version()).await;
        let docker = negotiated
            .map_err(|_| self.silent(format!("not even its version within {PATIENCE:?}")))?
            .map_err(|error| self.silent(with_causes(&error)))?;
        let version = docker.client_version();
        let docker = docker.with_request_modifier(move |request| mended(&version, request));
        *self.0.client.lock() = Some(docker.clone());
        Ok(docker)
    }

    /// What a call tells about the engine.
    fn learn<T>(&self, outcome: &Result<T, EngineError>) {
        let gone = match outcome {
            Err(EngineError::Silent { .. }) => true,
            // Another version has taken the place of the one that was asked first.
            Err(EngineError::Refused { status: 400, message, .. }) if message.contains("client version") => true,
            _ => false,
        };
        if gone {
            *self.0.client.lock() = None;
        }
        let mut answers = self.0.answers.lock();
        match (outcome, *answers) {
            (Err(error), Some(true)) if gone => {
                *answers = Some(false);
                tracing::error!(%error, "until it answers no container can be started or removed");
            }
            (_, Some(false)) if !gone => {
                *answers = Some(true);
                tracing::info!(socket = self.0.socket, "the Docker engine answers again");
            }
            (_, None) if !gone => *answers = Some(true),
            _ => {}
        }
    }

    fn silent(&self, reason: impl fmt::Display) -> EngineError {
        EngineError::Silent { socket: self.0.socket.clone(), reason: reason.to_string() }
    }
}

/// Mends what the library (0.21) sends. It negotiates a version and then leaves it out of its paths, which any engine answers
/// in its own newest; and it writes credentials in the wrong alphabet of base64.
fn mended(version: &impl fmt::Display, mut request: BollardRequest) -> BollardRequest {
    let mut parts = request.uri().clone().into_parts();
    let path = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
    if !path.starts_with("/v1.") {
        parts.path_and_query = format!("/v{version}{path}").parse().ok();
    }
    if let Ok(uri) = parts.try_into() {
        *request.uri_mut() = uri;
    }
    // Engines take the alphabet of URLs alone, and take anything else for no credentials at all.
    if let Some(value) = request.headers_mut().get_mut(CREDENTIALS)
        && let Ok(text) = value.to_str()
        && let Ok(safe) = text.replace('+', "-").replace('/', "_").try_into()
    {
        *value = safe;
    }
    request
}

/// Returns when the engine does not even answer a ping, and why.
async fn silence(docker: &Docker) -> String {
    loop {
        time::sleep(WATCH).await;
        match time::timeout(PATIENCE, docker.ping()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return with_causes(&error),
            Err(_) => return format!("not even a ping within {PATIENCE:?}"),
        }
    }
}

/// The library's errors hide what happened in their sources.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text += &format!(": {reason}");
        }
        cause = error.source();
    }
    text
}
