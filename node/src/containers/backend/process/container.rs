//! One container: a sandbox, a socket and two pipes.

use std::{convert::Infallible, io, time::Duration};

use async_trait::async_trait;
use protocol::messages;
use tokio::time::Instant;

use super::{door::Door, output::Output};
use crate::{
    activations::logs::Stream,
    containers::backend::{CollectedLogs, Connection, Container, LogRequest, Loss, sandbox::Sandbox},
    runtime::Endpoint,
};

/// How long the reason of an end is looked for, and how often. The kernel counts a kill before it kills, so what is not
/// known now will hardly be; upstream's two seconds are for Docker, which tells it late.
const REASON_PATIENCE: Duration = Duration::from_millis(100);
const REASON_POLL: Duration = Duration::from_millis(5);

/// Dropping it kills its processes.
pub(super) struct ProcessContainer {
    name: String,
    sandbox: Sandbox,
    door: Door,
    output: Output,
    /// One process is both the action and what OpenWhisk has as a proxy beside it.
    is_its_own_proxy: bool,
    paused: bool,
}

impl ProcessContainer {
    pub fn new(name: String, sandbox: Sandbox, door: Door, output: Output, is_its_own_proxy: bool) -> Self {
        Self { name, sandbox, door, output, is_its_own_proxy, paused: false }
    }

    async fn killed_for_memory(&mut self) -> bool {
        let until = Instant::now() + REASON_PATIENCE;
        loop {
            // In this order: what killed the processes is known before they have ended.
            let alive = self.sandbox.is_alive();
            if self.sandbox.killed_for_memory() {
                return true;
            }
            if !alive || Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(REASON_POLL).await;
        }
    }
}

#[async_trait]
impl Container for ProcessContainer {
    fn name(&self) -> &str {
        &self.name
    }

    async fn connect(&mut self) -> io::Result<Connection> {
        self.door.connect().map(Connection::Unix)
    }

    async fn connect_beside(&mut self) -> io::Result<Connection> {
        match &self.door {
            Door::Pair(_) => Err(io::ErrorKind::Unsupported.into()),
            Door::Listener { .. } => self.connect().await,
        }
    }

    async fn discard_logs(&mut self) -> Infallible {
        self.output.discard().await
    }

    async fn drain_logs(&mut self) -> Infallible {
        self.output.drain().await
    }

    async fn collect_logs(&mut self, request: LogRequest) -> CollectedLogs {
        self.output.collect(request).await
    }

    async fn why_lost(&mut self, during: Endpoint) -> Loss {
        if self.killed_for_memory().await {
            return Loss::OutOfMemory;
        }
        if !self.is_its_own_proxy {
            return Loss::Unexplained;
        }
        if during == Endpoint::Init {
            self.output.add(Stream::Stderr, messages::COMMAND_EXITED_INITIALIZING);
        }
        Loss::CommandExited
    }

    async fn pause(&mut self) -> io::Result<()> {
        self.paused = true;
        self.sandbox.freeze().await
    }

    async fn resume(&mut self) -> io::Result<()> {
        self.sandbox.thaw().await?;
        self.paused = false;
        Ok(())
    }

    async fn destroy(self: Box<Self>) {
        let Self { name, sandbox, paused, .. } = *self;
        // A frozen process takes note of its end only when it runs.
        if paused && let Err(error) = sandbox.thaw().await {
            tracing::warn!(container = name, %error, "cannot thaw a container that is being removed");
        }
        sandbox.destroy().await;
    }
}
