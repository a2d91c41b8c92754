//! One container.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use async_trait::async_trait;
use bollard::models::ContainerInspectResponse;
use tokio::{
    net::TcpStream,
    time::{self, Instant},
};

use super::{
    engine::{Call, Engine, EngineError},
    logs::{End, Logs},
    removal::Claim,
};
use crate::{
    containers::backend::{CONNECT_RETRY, CollectedLogs, Connection, Container, LogRequest, Loss},
    runtime::Endpoint,
};

/// Where the action proxy of every image listens.
const PORT: u16 = 8080;

/// For one attempt to connect: on the same machine it takes microseconds, if it does not fail.
const CONNECT: Duration = Duration::from_secs(1);

/// Between attempts where nobody listens yet.
const CONNECT_POLL: Duration = Duration::from_millis(2);

/// How long a container without code may take until it listens; then it waits unfrozen.
const LISTEN: Duration = Duration::from_secs(10);

/// How long the reason of a lost connection is looked for, and how often: the engine tells it late.
const REASON_PATIENCE: Duration = Duration::from_secs(2);
const REASON_POLL: Duration = Duration::from_millis(5);
/// The same where the end does not look like a kill.
const EXIT_PATIENCE: Duration = Duration::from_millis(200);
/// Exit code of what was killed by `SIGKILL`, the only way of the kernel's.
const KILLED: i64 = 128 + 9;

/// Dropping it removes it.
#[derive(Debug)]
pub(super) struct DockerContainer {
    engine: Engine,
    claim: Claim,
    network: String,
    /// None if it had ended by the time it was looked at.
    incarnation: Option<Incarnation>,
    logs: Logs,
    sentinelled: bool,
    /// The image is a user's, who answers for what it does.
    is_users: bool,
    /// It was seen to have ended.
    is_over: bool,
    /// A frozen container without code wakes up when it is first connected to.
    resting: bool,
}

/// One life of a container, and its address in it. Another container may have the address afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Incarnation {
    address: IpAddr,
    started_at: String,
}

/// What the engine tells of a container.
struct State {
    running: bool,
    incarnation: Option<Incarnation>,
    killed_for_memory: bool,
    exit_code: Option<i64>,
}

/// What becomes a container.
pub(super) struct Parts {
    pub engine: Engine,
    pub claim: Claim,
    pub network: String,
    pub logs: Logs,
    pub sentinelled: bool,
    pub is_users: bool,
}

impl DockerContainer {
    /// Finds the address of a container that was started.
    ///
    /// # Errors
    /// The engine's, or [`EngineError::Refused`] if it runs and has no address; the claim comes back.
    pub async fn new(parts: Parts) -> Result<Self, (Claim, EngineError)> {
        let Parts { engine, claim, network, logs, sentinelled, is_users } = parts;
        let mut container = Self {
            engine,
            claim,
            network,
            incarnation: None,
            logs,
            sentinelled,
            is_users,
            is_over: false,
            resting: false,
        };
        let state = match container.state().await {
            Ok(state) => state,
            Err(error) => return Err((container.claim, error)),
        };
        if state.running && state.incarnation.is_none() {
            let message = format!("it has none on the network '{}'", container.network);
            return Err((container.claim, EngineError::Refused { what: "give an address", status: 0, message }));
        }
        container.is_over = !state.running;
        container.incarnation = state.incarnation;
        Ok(container)
    }

    async fn state(&self) -> Result<State, EngineError> {
        let name = self.claim.name().to_owned();
        let inspected =
            self.engine.call(Call::Inspect, |docker| async move { docker.inspect_container(&name, None).await });
        inspected.await.map(|found| State::of(found, &self.network))
    }

    fn address(&self) -> Option<SocketAddr> {
        self.incarnation.as_ref().map(|incarnation| SocketAddr::new(incarnation.address, PORT))
    }

    /// It lives no more, by its own doing if its image is a user's.
    fn ended(&self) -> io::Error {
        let kind = if self.is_users { io::ErrorKind::ConnectionAborted } else { io::ErrorKind::NotConnected };
        io::Error::new(kind, "the container has ended")
    }

    async fn thaw(&mut self) -> io::Result<()> {
        let name = self.claim.name().to_owned();
        let thawed = self.engine.call(Call::Unpause, |docker| async move { docker.unpause_container(&name).await });
        thawed.await.map_err(io::Error::other)?;
        self.claim.paused = false;
        self.resting = false;
        Ok(())
    }
}

/// Tries for a while, as most runtimes listen soon after their start. The engine is asked about each refusal that remains,
/// which costs more than a hundred of these attempts.
async fn connect_soon(address: SocketAddr) -> io::Result<TcpStream> {
    let until = Instant::now() + CONNECT_RETRY;
    loop {
        let connected = time::timeout(CONNECT, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|late| Err(late.into())) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < until => {
                time::sleep(CONNECT_POLL).await;
            }
            connected => return connected,
        }
    }
}

impl State {
    fn of(found: ContainerInspectResponse, network: &str) -> Self {
        let state = found.state.unwrap_or_default();
        let running = state.running.unwrap_or(false);
        let endpoint = found.network_settings.and_then(|settings| settings.networks?.remove(network));
        let address = endpoint.and_then(|endpoint| endpoint.ip_address?.parse().ok());
        let incarnation = |address| Incarnation { address, started_at: state.started_at.unwrap_or_default() };
        Self {
            running,
            incarnation: address.map(incarnation).filter(|_| running),
            killed_for_memory: state.oom_killed.unwrap_or(false),
            exit_code: state.exit_code,
        }
    }
}

#[async_trait]
impl Container for DockerContainer {
    fn name(&self) -> &str {
        self.claim.name()
    }

    /// A new connection to this very container: that it lived, with its address, before *and* after means that nobody else
    /// had the address in between.
    async fn connect(&mut self) -> io::Result<Connection> {
        if self.resting {
            self.thaw().await.map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
        }
        let Some(address) = self.address() else { return Err(self.ended()) };
        let connected = connect_soon(address).await;
        // If that cannot be told, the container is of no use, and nobody's fault but the platform's.
        let state = self.state().await.map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
        if !state.running || state.incarnation != self.incarnation {
            self.is_over = !state.running;
            return Err(self.ended());
        }
        Ok(Connection::Tcp(connected?.into_std()?))
    }

    async fn connect_beside(&mut self) -> io::Result<Connection> {
        self.connect().await
    }

    async fn drain_logs(&mut self) -> Infallible {
        self.logs.drain().await
    }

    async fn collect_logs(&mut self, request: LogRequest) -> CollectedLogs {
        let end = match request.wait_for_sentinels && self.sentinelled {
            true => End::Sentinels,
            false if self.is_over => End::OfContainer,
            false => End::Now,
        };
        self.logs.collect(request, end).await
    }

    async fn why_lost(&mut self, _: Endpoint) -> Loss {
        let mut until = Instant::now() + REASON_PATIENCE;
        loop {
            let state = self.state().await;
            self.is_over = state.as_ref().is_ok_and(|state| !state.running);
            match state {
                Ok(state) if state.killed_for_memory => return Loss::OutOfMemory,
                Ok(state) if !state.running && state.exit_code != Some(KILLED) => {
                    until = until.min(Instant::now() + EXIT_PATIENCE);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(container = self.name(), %error, "why its connection was lost is not known");
                    return Loss::Unexplained;
                }
            }
            if Instant::now() >= until {
                return Loss::Unexplained;
            }
            time::sleep(REASON_POLL).await;
        }
    }

    async fn pause(&mut self) -> io::Result<()> {
        let name = self.claim.name().to_owned();
        // Also if the answer is lost: then it may be.
        self.claim.paused = true;
        let paused = self.engine.call(Call::Pause, |docker| async move { docker.pause_container(&name).await });
        paused.await.map_err(io::Error::other)
    }

    async fn resume(&mut self) -> io::Result<()> {
        self.thaw().await
    }

    async fn rest(&mut self) {
        let Some(address) = self.address() else { return };
        let deadline = Instant::now() + LISTEN;
        // Nothing is sent, so whose address it is does not matter.
        while !matches!(time::timeout(CONNECT, TcpStream::connect(address)).await, Ok(Ok(_))) {
            if Instant::now() >= deadline {
                return;
            }
            time::sleep(CONNECT_RETRY).await;
        }
        match self.pause().await {
            Ok(()) => self.resting = true,
            Err(error) => tracing::warn!(container = self.name(), %error, "a prewarmed container waits unfrozen"),
        }
    }

    async fn destroy(self: Box<Self>) {
        self.claim.remove().await;
    }
}
