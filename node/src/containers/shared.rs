//! One container that several activations use at once.
//!
//! A task owns it. Every user has a handle, which stands for the container and has a connection of its own; what a user leaves
//! behind in good order is for the next. The container's output is thrown away: whose a line is, nobody could tell.
//!
//! Source: apache/openwhisk `docs/intra-concurrency.md`.

use std::{convert::Infallible, io, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::backend::{CollectedLogs, Connection, Container, LogRequest, Loss};
use crate::runtime::{Endpoint, proxy_client::ProxyConnection};

/// Orders that may wait to be carried out; whoever has one more waits with it.
const ORDERS: usize = 16;

/// What all handles to one container share.
pub(super) struct Common {
    name: String,
    orders: mpsc::Sender<Order>,
    /// Those that nobody uses. No more than users at one time.
    connections: Mutex<Vec<ProxyConnection>>,
}

/// What the task is to do with the container; the answer may be awaited by nobody.
enum Order {
    Connect(oneshot::Sender<io::Result<Connection>>),
    WhyLost(Endpoint, oneshot::Sender<Loss>),
    Pause(oneshot::Sender<io::Result<()>>),
    Resume(oneshot::Sender<io::Result<()>>),
    Destroy(oneshot::Sender<()>),
}

impl Common {
    /// Gives `container` to a task of `runtime`. When the last handle is dropped, so is the container.
    pub fn new(container: Box<dyn Container>, runtime: &Handle) -> Arc<Self> {
        let (orders, taken) = mpsc::channel(ORDERS);
        let name = container.name().to_owned();
        runtime.spawn(own(container, taken));
        Arc::new(Self { name, orders, connections: Mutex::default() })
    }

    /// A connection that an earlier user left.
    pub fn take_connection(&self) -> Option<ProxyConnection> {
        self.connections.lock().pop()
    }

    /// For the next user, if it is in order.
    pub fn leave_connection(&self, connection: ProxyConnection) {
        if connection.is_usable() {
            self.connections.lock().push(connection);
        }
    }

    /// One kept over a pause may be half dead after it.
    pub fn close_connections(&self) {
        self.connections.lock().clear();
    }

    /// `None`: the task is gone, and the container with it.
    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// Obeys until the container is to be destroyed or nobody has a handle any more.
async fn own(mut container: Box<dyn Container>, mut orders: mpsc::Receiver<Order>) {
    loop {
        let order = tokio::select! {
            biased;
            order = orders.recv() => order,
            never = container.discard_logs() => match never {},
        };
        // Who asked may have gone.
        match order {
            None => return,
            Some(Order::Connect(reply)) => drop(reply.send(container.connect_beside().await)),
            Some(Order::WhyLost(during, reply)) => drop(reply.send(container.why_lost(during).await)),
            Some(Order::Pause(reply)) => drop(reply.send(container.pause().await)),
            Some(Order::Resume(reply)) => drop(reply.send(container.resume().await)),
            Some(Order::Destroy(reply)) => {
                container.destroy().await;
                let _ = reply.send(());
                return;
            }
        }
    }
}

/// The container, to one of its users.
pub(super) struct Part(pub Arc<Common>);

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the container is gone")
}

#[async_trait]
impl Container for Part {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn connect(&mut self) -> io::Result<Connection> {
        self.0.ask(Order::Connect).await.unwrap_or_else(|| Err(gone()))
    }

    async fn drain_logs(&mut self) -> Infallible {
        std::future::pending().await
    }

    async fn collect_logs(&mut self, _: LogRequest) -> CollectedLogs {
        CollectedLogs::default()
    }

    async fn why_lost(&mut self, during: Endpoint) -> Loss {
        self.0.ask(|reply| Order::WhyLost(during, reply)).await.unwrap_or(Loss::Unexplained)
    }

    async fn pause(&mut self) -> io::Result<()> {
        self.0.ask(Order::Pause).await.unwrap_or_else(|| Err(gone()))
    }

    async fn resume(&mut self) -> io::Result<()> {
        self.0.ask(Order::Resume).await.unwrap_or_else(|| Err(gone()))
    }

    async fn destroy(self: Box<Self>) {
        // `None`: it is gone already.
        let _ = self.0.ask(Order::Destroy).await;
    }
}
