//! The HTTP server, and whether it takes requests.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use actix_http::{Extensions, HttpService};
use actix_server::ServerBuilder;
use actix_service::{ServiceFactoryExt, fn_service, map_config};
use actix_web::{
    App,
    dev::{AppConfig, Server},
    web::{self, Data},
};
use protocol::ByteSize;
use tokio::net::TcpStream;

use super::{
    AppState, answer,
    body::BodyBudget,
    connection::{Guarded, Patience},
};
use crate::config::Http;

/// Memory for large bodies; about three of the largest action uploads at once, each of which takes three times its size.
const LARGE_BODIES: ByteSize = ByteSize::mib(160);
/// Seconds that open connections get to end when the server stops.
const SHUTDOWN_SECONDS: u64 = 5;
/// A client that has more to send than is wanted gets this long to read why.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the node takes requests; shared by all that ask.
#[derive(Debug, Clone, Default)]
pub struct Serving(Arc<AtomicU8>);

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Serving {
    /// Everything works: `/ready` is 200.
    pub fn ready(&self) {
        // Not if it drains already.
        let _ = self.0.compare_exchange(STARTING, READY, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The node stops: no new invocations, `/ready` is 503.
    pub fn drain(&self) {
        self.0.store(DRAINING, Ordering::SeqCst);
    }

    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::SeqCst) == READY
    }

    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::SeqCst) == DRAINING
    }
}

/// Serves the API on `listeners`. The server runs once it is awaited or spawned on an actix system, and stops through its
/// handle only.
///
/// # Errors
/// If a listener cannot be used.
pub fn serve(config: &Http, state: AppState, listeners: Vec<TcpListener>) -> std::io::Result<Server> {
    let (state, bodies) = (Data::new(state), Data::new(BodyBudget::new(LARGE_BODIES, config.body_timeout)));
    let patience = Patience { head: config.head_timeout, answer: config.body_timeout };
    let keep_alive = config.keep_alive;
    let mut server = ServerBuilder::new()
        .workers(config.workers)
        .max_concurrent_connections(connections_per_worker(config, descriptors()))
        .disable_signals()
        .shutdown_timeout(SHUTDOWN_SECONDS);
    let stopping = server.graceful_shutdown_signal();
    for listener in listeners {
        let (state, bodies, stopping) = (state.clone(), bodies.clone(), stopping.clone());
        // What `actix_web::HttpServer` does, around connections that are guarded.
        server = server.listen("api", listener, move || {
            let app = App::new().app_data(state.clone()).app_data(bodies.clone()).default_service(web::to(answer));
            let stopping = stopping.clone();
            let http = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                .keep_alive(keep_alive)
                // Ours, for every head.
                .client_request_timeout(Duration::ZERO)
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                .on_connect_ext(|connection: &Guarded, of_connection: &mut Extensions| {
                    of_connection.insert(connection.requests());
                })
                .h1(map_config(app, |()| AppConfig::default()));
            fn_service(move |stream: TcpStream| async move {
                let peer = stream.peer_addr().ok();
                Ok((Guarded::new(stream, patience), peer))
            })
            .and_then(http)
        })?;
    }
    Ok(server.run())
}

/// As configured, while half of the `descriptors` that this process may have is left to all else: a database that cannot
/// open a file ends the node.
fn connections_per_worker(config: &Http, descriptors: u64) -> usize {
    let most = usize::try_from(descriptors / 2).unwrap_or(usize::MAX) / config.workers;
    if most < config.connections_per_worker {
        tracing::info!(
            descriptors,
            connections = most * config.workers,
            "the limit of open files allows fewer connections than are configured"
        );
    }
    config.connections_per_worker.min(most).max(1)
}

/// How many this process may have; the node raised it as far as it can.
fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_the_rest() {
        let config = Http {
            api_addr: ([127, 0, 0, 1], 0).into(),
            workers: 4,
            connections_per_worker: 100,
            keep_alive: Duration::ZERO,
            head_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
        };
        for (descriptors, connections) in [(u64::MAX, 100), (800, 100), (792, 99), (4, 1)] {
            assert_eq!(connections_per_worker(&config, descriptors), connections, "{descriptors}");
        }
    }

    #[test]
    fn a_node_that_drains_is_never_ready_again() {
        let serving = Serving::default();
        assert!(!serving.is_ready() && !serving.is_draining());
        serving.ready();
        assert!(serving.is_ready());
        serving.clone().drain();
        serving.ready();
        assert!(!serving.is_ready() && serving.is_draining());
    }
}
