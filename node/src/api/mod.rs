//! HTTP in and out, no decisions: OpenWhisk's API v1.
//!
//! [`answer`] is the door: it gives every request its transaction id, verifies the caller and hands over to the route
//! table [`route`], one file per collection. Routing is ours, not the framework's, because OpenWhisk's is exact about
//! what others leave to taste: credentials are asked for before it is told that a path does not exist, a method that is
//! not supported is 404, and a trailing slash means something. `openapi.json` beside `src` describes every route.
//!
//! Source: apache/openwhisk `RestAPIs.scala`, `Controller.scala`; reference `rest-api.md`.

mod actions;
mod activations;
mod body;
mod connection;
mod error;
mod extract;
mod framing;
mod info;
mod invoke;
mod namespaces;
mod packages;
mod respond;
mod server;

use std::{rc::Rc, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::Method,
    web::{Data, Payload},
};
use prometheus_client::registry::Registry;
use protocol::{ErrorCode, FullyQualifiedName, TransactionId, messages};

pub use self::server::{Serving, serve};
use self::{
    body::{Body, BodyBudget},
    connection::{Answer, Requests},
    error::ApiError,
    extract::{Call, segments, transaction_id},
};
use crate::{
    activations::query::Activations,
    auth::Authenticator,
    clock,
    entities::Entities,
    invoke::Invoker,
    metrics,
    telemetry::{Transaction, in_transaction},
};

/// Longest URI that is looked at, in bytes.
const MAX_URI: usize = 8 << 10;
/// The prefix of all that needs credentials.
const BASE: &str = "/api/v1";

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

/// Answers a request; nothing fails beyond this.
async fn answer(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
    bodies: Data<BodyBudget>,
) -> HttpResponse<Answer> {
    let open = request.conn_data::<Rc<Requests>>().map(Requests::begin);
    let mut request_body = Body::new(&request, payload.into_inner(), bodies.clone());
    let (transaction, extra_logging) = (transaction_id(&request), extract::extra_logging(&request));
    let answered = answer_as(transaction.clone(), request, &mut request_body, state, bodies);
    let transaction = Transaction { id: transaction, extra_logging };
    let response = in_transaction(transaction, answered).await;
    if request_body.has_more() {
        // What lies in the framework's buffer comes now. An answer to a part of a request ends the connection.
        tokio::task::yield_now().await;
        request_body.has_more();
    }
    response.map_body(|_, body| Answer { body, request_body, request: open })
}

async fn answer_as(
    transaction: TransactionId,
    request: HttpRequest,
    body: &mut Body,
    state: Data<AppState>,
    bodies: Data<BodyBudget>,
) -> HttpResponse {
    let received_ms = clock::unix_ms();
    let under_api = request.uri().path().strip_prefix(BASE).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let outcome = if request.uri().path_and_query().is_some_and(|uri| uri.as_str().len() > MAX_URI) {
        Err(ApiError::uri_too_long())
    } else if request.method() == Method::OPTIONS {
        Ok(respond::text("OK"))
    } else {
        match under_api {
            Some("" | "/") if request.method() == Method::GET => Ok(info::api()),
            Some(path) if request.method() == Method::GET && is_api_docs(path) => Ok(info::api_docs()),
            Some(path) => match Call::new(&request, state, bodies, transaction.clone(), received_ms) {
                Ok(call) => match segments(path) {
                    Ok(path) => {
                        let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
                        route(&call, &path, body).await
                    }
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            },
            None => outside(&request, &state),
        }
    };
    let mut response = outcome.unwrap_or_else(|error| error.respond(&transaction));
    respond::finish(&mut response, &transaction, under_api.is_some());
    response
}

fn is_api_docs(path: &str) -> bool {
    path.strip_suffix('/').unwrap_or(path) == info::API_DOCS
}

/// Paths outside the API: no credentials.
fn outside(request: &HttpRequest, state: &AppState) -> Result<HttpResponse, ApiError> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => Ok(info::root(state)),
        (&Method::GET, path) if is_api_docs(path) => Ok(info::api_docs()),
        (&Method::GET, "/ping") => Ok(respond::text("pong")),
        (&Method::GET, "/ready") if state.serving.is_ready() => Ok(respond::text("ready")),
        (&Method::GET, "/ready") => Err(ApiError::unavailable("the node does not serve requests now")),
        (&Method::GET, "/metrics") => match metrics::render(&state.registry) {
            Ok(text) => Ok(respond::with_type(metrics::CONTENT_TYPE, text)),
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                Err(ApiError::default_of(ErrorCode::Internal))
            }
        },
        _ => Err(ApiError::no_route()),
    }
}

/// The route table. An empty last segment is a trailing slash.
async fn route(call: &Call, path: &[&str], body: &mut Body) -> Result<HttpResponse, ApiError> {
    // Only a last segment can be empty; nothing has no name.
    if path.split_last().is_some_and(|(_, before)| before.contains(&"")) {
        return Err(ApiError::no_route());
    }
    let (namespace, path) = match *path {
        ["namespaces"] | ["namespaces", ""] if call.method() == Method::GET => return Ok(namespaces::list(call)),
        ["namespaces", namespace, ref rest @ ..] if !rest.is_empty() => (call.namespace(namespace)?, rest),
        _ => return Err(ApiError::no_route()),
    };
    match (call.method(), path) {
        (&Method::GET, ["actions"] | ["actions", ""]) => actions::list(call, namespace).await,
        (_, ["actions", name]) if !name.is_empty() => {
            let name = call.entity(namespace, None, name)?;
            action(call, name, body).await
        }
        (&Method::GET, ["actions", package, ""]) => {
            let package = call.entity(namespace, None, package)?;
            actions::list_package(call, package).await
        }
        (_, ["actions", package, name]) if !name.is_empty() => {
            let name = call.entity(namespace, Some(package), name)?;
            action(call, name, body).await
        }

        (&Method::GET, ["packages"] | ["packages", ""]) => packages::list(call, namespace).await,
        (method, ["packages", name]) if !name.is_empty() => {
            let name = call.entity(namespace, None, name)?;
            match *method {
                Method::GET => packages::get(call, name).await,
                Method::PUT => packages::put(call, name, body).await,
                Method::DELETE => packages::delete(call, name).await,
                _ => Err(ApiError::no_route()),
            }
        }

        (&Method::GET, ["activations"] | ["activations", ""]) => activations::list(call, namespace).await,
        (&Method::GET, ["activations", id] | ["activations", id, ""]) => {
            activations::get(call, namespace, id, activations::Part::Record).await
        }
        (&Method::GET, ["activations", id, "logs"]) => {
            activations::get(call, namespace, id, activations::Part::Logs).await
        }
        (&Method::GET, ["activations", id, "result"]) => {
            activations::get(call, namespace, id, activations::Part::Result).await
        }

        (&Method::GET, ["limits"] | ["limits", ""]) => namespaces::limits(call, namespace).await,
        (&Method::GET, ["limits", _]) => Err(ApiError::bad_request(messages::NO_INNER_LIMITS)),

        _ => Err(ApiError::no_route()),
    }
}

async fn action(call: &Call, name: FullyQualifiedName, body: &mut Body) -> Result<HttpResponse, ApiError> {
    match *call.method() {
        Method::GET => actions::get(call, name).await,
        Method::PUT => actions::put(call, name, body).await,
        Method::POST => invoke::invoke(call, name, body).await,
        Method::DELETE => actions::delete(call, name).await,
        _ => Err(ApiError::no_route()),
    }
}
