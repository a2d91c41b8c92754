//! One container: a sandbox, a socket and two pipes.

use std::{convert::Infallible, io, os::unix::net::UnixStream};

use async_trait::async_trait;

use super::{output::Output, shim::Sandbox};
use crate::containers::backend::{CollectedLogs, Connection, Container, LogRequest};

/// Dropping it kills its processes.
pub(super) struct ProcessContainer {
    name: String,
    sandbox: Sandbox,
    connection: UnixStream,
    output: Output,
}

impl ProcessContainer {
    pub fn new(name: String, sandbox: Sandbox, connection: UnixStream, output: Output) -> Self {
        Self { name, sandbox, connection, output }
    }
}

#[async_trait]
impl Container for ProcessContainer {
    fn name(&self) -> &str {
        &self.name
    }

    /// A copy of the one connection there is: closing the copy does not end it, and it survives pauses.
    async fn connect(&mut self) -> io::Result<Connection> {
        self.connection.try_clone().map(Connection::Unix)
    }

    async fn drain_logs(&mut self) -> Infallible {
        self.output.drain().await
    }

    async fn collect_logs(&mut self, request: LogRequest) -> CollectedLogs {
        self.output.collect(request).await
    }

    async fn killed_for_memory(&mut self) -> bool {
        self.sandbox.killed_for_memory().await
    }

    async fn pause(&mut self) -> io::Result<()> {
        self.sandbox.freeze()
    }

    async fn resume(&mut self) -> io::Result<()> {
        self.sandbox.thaw()
    }

    async fn destroy(self: Box<Self>) {
        let Self { sandbox, .. } = *self;
        sandbox.destroy().await;
    }
}
