//! What a container is, whatever runs it. One test suite (`suite.rs`) holds every implementation to this.

pub mod docker;
pub mod interpreters;
pub mod process;
pub mod sandbox;
pub mod simulated;

use std::{os::unix::net::UnixStream, time::Duration};

use async_trait::async_trait;
use protocol::ByteSize;

use crate::runtime::Endpoint;

/// Runs containers: processes in a sandbox, Docker containers, or simulated ones.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// `process`, `docker` or `simulated`.
    fn name(&self) -> &'static str;

    /// Kinds of the manifest that can run here (`nodejs:20`, `python:3.11`, `go:1.20`, …). Read at start.
    fn kinds(&self) -> Vec<String>;

    /// Those of them whose actions must be executables, because nothing here compiles source code.
    fn executables_only(&self) -> Vec<String> {
        Vec::new()
    }

    /// Address of this machine at which its containers find the API, where that is not the API's own.
    fn gateway(&self) -> Option<std::net::IpAddr> {
        None
    }

    /// Whether several activations can run at once in one container of `kind`. If not, its actions run one at a time,
    /// whatever they allow.
    fn overlaps(&self, _kind: &str) -> bool {
        false
    }

    /// What `whisp status` must repeat, such as a missing sandbox.
    fn warnings(&self) -> Vec<String>;

    /// Starts a container for `spec`, without code. It may be returned before its runtime accepts `/init`.
    ///
    /// # Errors
    /// [`CreateError`]; nothing is left behind.
    async fn create(&self, spec: ContainerSpec) -> Result<Box<dyn Container>, CreateError>;

    /// Removes what is left of this node's containers and of the back end itself. Called once, when all are returned.
    async fn shutdown(&self);
}

/// What to start.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Unique on this node in this process: `wsk0_17_guest_hello`, only `[A-Za-z0-9_]`.
    pub name: String,
    /// Resolved kind, or `blackbox`.
    pub kind: String,
    /// The image, for `blackbox`.
    pub image: Option<String>,
    /// Limit of the whole process tree.
    pub memory: ByteSize,
    /// Environment of the process from its start, such as `__OW_API_HOST`.
    pub env: Vec<(String, String)>,
}

/// A started container. Dropping it without [`Container::destroy`] must kill it all the same.
#[async_trait]
pub trait Container: Send + Sync {
    fn name(&self) -> &str;

    /// Opens the connection for `/init` and `/run`. Called once after start and once after each resume.
    ///
    /// # Errors
    /// If nobody listens (yet): nothing was sent. [`has_ended`] tells if it is of no use to try again.
    async fn connect(&mut self) -> std::io::Result<Connection>;

    /// One more connection, beside others that are open. Only where [`Backend::overlaps`].
    ///
    /// # Errors
    /// As [`Container::connect`].
    async fn connect_beside(&mut self) -> std::io::Result<Connection> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Throws the container's output away as it comes, where several activations use it and nobody could tell whose it is;
    /// never returns. Cancel safe.
    async fn discard_logs(&mut self) -> std::convert::Infallible {
        std::future::pending().await
    }

    /// Keeps the container's output flowing into its log buffer; runs beside a call and never returns. Cancel safe.
    async fn drain_logs(&mut self) -> std::convert::Infallible;

    /// The lines since the previous collection, formatted as records hold them.
    async fn collect_logs(&mut self, request: LogRequest) -> CollectedLogs;

    /// Why its connection was lost in a call of `during`. May wait up to 2 s for the answer.
    async fn why_lost(&mut self, during: Endpoint) -> Loss;

    /// It has no code yet and will wait, perhaps for long, until somebody needs it. [`Container::connect`] wakes it up.
    async fn rest(&mut self) {}

    /// Freezes all its processes. The connection was closed before by the caller if [`Container::connect`] makes a new one.
    async fn pause(&mut self) -> std::io::Result<()>;

    async fn resume(&mut self) -> std::io::Result<()>;

    /// Kills the whole process tree and removes everything it had, files included. Thaws first. Never fails: what
    /// cannot be removed now is logged and tried again by the back end.
    async fn destroy(self: Box<Self>);
}

/// A connection to a container's action proxy; not tied to a runtime, so that any worker can use it.
#[derive(Debug)]
pub enum Connection {
    Unix(UnixStream),
    Tcp(std::net::TcpStream),
}

/// True if `error`, of [`Container::connect`], means that the container is no more: it was lost (`NotConnected`), or it ended
/// by the doing of its image, which is a user's (`ConnectionAborted`).
pub fn has_ended(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotConnected | std::io::ErrorKind::ConnectionAborted)
}

/// Why a container gave no answer, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It was killed for want of memory.
    OutOfMemory,
    /// The process of the action ended, where OpenWhisk's runtime has a proxy that outlives it and tells.
    CommandExited,
    /// The node stopped and killed it: nobody's fault but the platform's.
    NodeStopped,
    Unexplained,
}

/// How to collect the logs of one activation.
#[derive(Debug, Clone, Copy)]
pub struct LogRequest {
    /// Bytes of the log driver's lines; 0: nothing is collected.
    pub limit: ByteSize,
    /// Wait for the sentinel on both streams (not after a developer error).
    pub wait_for_sentinels: bool,
    /// Adds the line that the action did not run as expected.
    pub developer_error: bool,
}

/// Logs of one activation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectedLogs {
    pub lines: Vec<String>,
    /// Truncated, or sentinels missing: the container must not be used again.
    pub unreliable: bool,
}

/// Why there is no container.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The platform's fault: `whisk internal error`.
    #[error("{0}")]
    Platform(String),
    /// The user's: `action developer error` with this text.
    #[error("{0}")]
    Developer(String),
}

/// Pause between attempts to reach a container that does not listen yet.
pub const CONNECT_RETRY: Duration = Duration::from_millis(50);
