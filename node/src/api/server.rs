//! The HTTP server, and whether it takes requests.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use actix_web::{
    App, HttpServer,
    dev::Server,
    web::{self, Data},
};
use protocol::ByteSize;

use super::{AppState, answer, body::BodyBudget};
use crate::config::Http;

/// Memory for large bodies; about three of the largest action uploads at once, each of which takes three times its size.
const LARGE_BODIES: ByteSize = ByteSize::mib(160);
/// Seconds that open connections get to end when the server stops.
const SHUTDOWN_SECONDS: u64 = 5;

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
    let (state, bodies) = (Data::new(state), Data::new(BodyBudget::new(LARGE_BODIES)));
    let app = move || App::new().app_data(state.clone()).app_data(bodies.clone()).default_service(web::to(answer));
    let mut server = HttpServer::new(app)
        .workers(config.workers)
        .max_connections(config.connections_per_worker)
        .keep_alive(config.keep_alive)
        .client_request_timeout(config.head_timeout)
        .disable_signals()
        .shutdown_timeout(SHUTDOWN_SECONDS);
    for listener in listeners {
        server = server.listen(listener)?;
    }
    Ok(server.run())
}

#[cfg(test)]
mod tests {
    use super::*;

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
