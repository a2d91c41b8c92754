//! The HTTP API: requests in, answers out, no decisions.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use actix_web::{App, HttpResponse, HttpServer, dev::Server, web};
use prometheus_client::registry::Registry;

use crate::{
    activations::query::Activations, auth::Authenticator, config::Http, entities::Entities, invoke::Invoker, metrics,
};

/// What handlers need of the node. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub entities: Entities,
    pub activations: Activations,
    pub invoker: Invoker,
    pub keys: Arc<Authenticator>,
    pub registry: Arc<Registry>,
    pub serving: Serving,
}

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
    let app = move || App::new().app_data(web::Data::new(state.clone())).configure(configure);
    let mut server = HttpServer::new(app)
        .workers(config.workers)
        .max_connections(config.connections_per_worker)
        .keep_alive(config.keep_alive)
        .client_request_timeout(config.head_timeout)
        .disable_signals()
        .shutdown_timeout(5);
    for listener in listeners {
        server = server.listen(listener)?;
    }
    Ok(server.run())
}

/// The route table.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .route("/ping", web::get().to(|| async { "pong" }))
        .route("/ready", web::get().to(ready))
        .route("/metrics", web::get().to(exposition));
}

/// 200 once requests are served · 503 before and while the node drains.
async fn ready(state: web::Data<AppState>) -> HttpResponse {
    if state.serving.is_ready() { HttpResponse::Ok().body("ready") } else { HttpResponse::ServiceUnavailable().finish() }
}

/// 200 the text that Prometheus reads.
async fn exposition(state: web::Data<AppState>) -> HttpResponse {
    match metrics::render(&state.registry) {
        Ok(text) => HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(text),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}
