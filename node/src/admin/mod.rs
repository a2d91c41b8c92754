//! Administration on the node itself, over the Unix socket `admin.sock` of the data directory: who can open it may do
//! everything. The `whisp` commands are its client ([`crate::cli`]).
//!
//! | request | answers with |
//! | --- | --- |
//! | `GET /status` | [`Status`] |
//! | `GET /metrics` | the text that Prometheus reads |
//! | `POST /users/create` [`NewUser`] | [`NamespaceCredentials`] |
//! | `POST /users/get` [`GetUser`] | list of [`NamespaceCredentials`] |
//! | `POST /users/whois` [`Whois`], `POST /users/list` [`ListUsers`] | [`IdentityEntry`], list of them |
//! | `POST /users/delete` [`DeleteUser`], `POST /users/block` [`BlockUser`] | `{}` |
//! | `POST /limits/get` [`OfNamespace`] | [`LimitsUpdate`] |
//! | `POST /limits/set` [`SetLimits`], `POST /limits/delete` [`OfNamespace`] | `{}` |
//!
//! A refusal is `{"error": text}` with 400 if the asker must do something about it, 503 if not.

mod socket;
mod status;

use std::{path::Path, sync::Arc};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::Server,
    http::StatusCode,
    web::{Data, Json, JsonConfig, get, post},
};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

pub use self::{
    socket::{SOCKET, connect},
    status::{BackendStatus, DiskStatus, SessionStatus, Status, StatusSource},
};
use crate::{
    auth::{Credentials, IdentityEntry, LimitsUpdate, NamespaceCredentials, NewUser, UserError, Users},
    metrics,
};

/// What administration is about.
#[derive(Clone)]
pub struct Admin {
    pub users: Users,
    pub status: Arc<StatusSource>,
    pub registry: Arc<Registry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetUser {
    pub subject: String,
    /// Default: that of the subject's name.
    pub namespace: Option<String>,
    /// All namespaces of the subject.
    #[serde(default)]
    pub all: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whois {
    pub credentials: Credentials,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListUsers {
    pub namespace: String,
    /// At most so many; `None`: all.
    pub pick: Option<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteUser {
    pub subject: String,
    /// Only this one; else the subject with all of them.
    pub namespace: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockUser {
    pub subject: String,
    pub blocked: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfNamespace {
    pub namespace: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLimits {
    pub namespace: String,
    pub limits: LimitsUpdate,
}

/// Answer of what has nothing to tell.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {}

/// Body of a refusal.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
}

/// Removes the socket in `data_dir` when its server has stopped.
pub fn remove_socket(data_dir: &Path) {
    if let Err(error) = socket::remove(data_dir) {
        tracing::warn!(%error, "the admin socket could not be removed");
    }
}

/// Serves administration on the socket in `data_dir`, which must be this process's own. The server runs once it is
/// awaited or spawned on an actix system.
///
/// # Errors
/// If the socket cannot be made.
pub fn serve(data_dir: &Path, admin: Admin) -> std::io::Result<Server> {
    let listener = socket::listen(data_dir)?;
    let app = move || {
        App::new()
            .app_data(Data::new(admin.clone()))
            .app_data(JsonConfig::default().limit(64 << 10).error_handler(|error, _| {
                let body = Json(Refusal { error: error.to_string() });
                actix_web::error::InternalError::from_response(error, HttpResponse::BadRequest().json(body)).into()
            }))
            .route("/status", get().to(status))
            .route("/metrics", get().to(exposition))
            .route("/users/create", post().to(create))
            .route("/users/get", post().to(get_user))
            .route("/users/whois", post().to(whois))
            .route("/users/list", post().to(list))
            .route("/users/delete", post().to(delete))
            .route("/users/block", post().to(block))
            .route("/limits/get", post().to(limits))
            .route("/limits/set", post().to(set_limits))
            .route("/limits/delete", post().to(delete_limits))
    };
    // One worker, and the node alone decides when it stops.
    Ok(HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(2).listen_uds(listener)?.run())
}

type Answer<T> = Result<Json<T>, UserError>;

impl actix_web::ResponseError for UserError {
    fn status_code(&self) -> StatusCode {
        if self.is_askers() { StatusCode::BAD_REQUEST } else { StatusCode::SERVICE_UNAVAILABLE }
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code()).json(Refusal { error: self.to_string() })
    }
}

async fn status(admin: Data<Admin>) -> Answer<Status> {
    let source = Arc::clone(&admin.status);
    // Reads the store.
    let status = tokio::task::spawn_blocking(move || source.collect()).await;
    match status {
        Ok(status) => Ok(Json(status?)),
        Err(error) => Err(raft_store::StoreError::Failed(error.to_string()).into()),
    }
}

async fn exposition(admin: Data<Admin>) -> HttpResponse {
    match metrics::render(&admin.registry) {
        Ok(text) => HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(text),
        Err(error) => HttpResponse::InternalServerError().json(Refusal { error: error.to_string() }),
    }
}

async fn create(admin: Data<Admin>, new: Json<NewUser>) -> Answer<NamespaceCredentials> {
    admin.users.create(&new).await.map(Json)
}

async fn get_user(admin: Data<Admin>, query: Json<GetUser>) -> Answer<Vec<NamespaceCredentials>> {
    if query.all {
        return admin.users.all_of(&query.subject).await.map(Json);
    }
    let found = admin.users.get(&query.subject, query.namespace.as_deref()).await?;
    Ok(Json(vec![found]))
}

async fn whois(admin: Data<Admin>, query: Json<Whois>) -> Answer<IdentityEntry> {
    admin.users.whois(&query.credentials).await.map(Json)
}

async fn list(admin: Data<Admin>, query: Json<ListUsers>) -> Answer<Vec<IdentityEntry>> {
    admin.users.list(&query.namespace, query.pick).await.map(Json)
}

async fn delete(admin: Data<Admin>, query: Json<DeleteUser>) -> Answer<Done> {
    admin.users.delete(&query.subject, query.namespace.as_deref()).await?;
    Ok(Json(Done {}))
}

async fn block(admin: Data<Admin>, query: Json<BlockUser>) -> Answer<Done> {
    admin.users.set_blocked(&query.subject, query.blocked).await?;
    Ok(Json(Done {}))
}

async fn limits(admin: Data<Admin>, query: Json<OfNamespace>) -> Answer<LimitsUpdate> {
    admin.users.limits(&query.namespace).await.map(Json)
}

async fn set_limits(admin: Data<Admin>, query: Json<SetLimits>) -> Answer<Done> {
    admin.users.set_limits(&query.namespace, &query.limits).await?;
    Ok(Json(Done {}))
}

async fn delete_limits(admin: Data<Admin>, query: Json<OfNamespace>) -> Answer<Done> {
    admin.users.delete_limits(&query.namespace).await?;
    Ok(Json(Done {}))
}
