//! `/api/v1/namespaces`, and the limits of one.

use actix_web::HttpResponse;
use protocol::EntityName;

use super::{error::ApiError, extract::Call, respond};

/// `GET /namespaces`: 200, exactly the namespace of the presented key.
pub fn list(call: &Call) -> HttpResponse {
    respond::ok(&[&call.caller.namespace])
}

/// `GET …/limits`: 200 · 403 not the caller's.
pub async fn limits(call: &Call, namespace: EntityName) -> Result<HttpResponse, ApiError> {
    call.must_own(&namespace, &namespace)?;
    Ok(respond::ok(&*call.state.entities.limits(&namespace).await?))
}
