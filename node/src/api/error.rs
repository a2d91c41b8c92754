//! Refusals as responses. The only place that picks a status for an error.

use actix_web::{HttpResponse, http::StatusCode};
use protocol::{
    ActivationId, ErrorCode, TransactionId,
    error::{ErrorBody, Malformed},
    json::{ObjectError, ObjectWriter},
    messages,
};
use raft_store::StoreError;

use super::{extract::new_transaction_id, respond};
use crate::{
    auth::AuthError,
    entities::{EntityError, arguments::ArgumentsError},
    invoke::InvokeError,
};

/// What the caller is told instead of an answer.
#[derive(Debug)]
pub struct ApiError {
    code: ErrorCode,
    text: String,
    /// The activation that this is about, if there is one.
    activation: Option<ActivationId>,
}

/// The status of each code.
pub fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UriTooLong => StatusCode::URI_TOO_LONG,
        ErrorCode::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ErrorCode::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl ApiError {
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), activation: None }
    }

    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, text)
    }

    pub fn malformed(reason: impl std::fmt::Display) -> Self {
        Self::bad_request(messages::malformed_content(reason))
    }

    pub fn query(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::bad_request(messages::malformed_query(name, reason))
    }

    pub fn forbidden(name: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::Forbidden, messages::not_authorized(name))
    }

    pub fn missing() -> Self {
        Self::new(ErrorCode::NotFound, messages::RESOURCE_DOES_NOT_EXIST)
    }

    /// No route matched.
    pub fn no_route() -> Self {
        Self::new(ErrorCode::NotFound, messages::NO_SUCH_RESOURCE)
    }

    pub fn too_large(what: &str, size: u64, allowed: protocol::ByteSize) -> Self {
        Self::new(ErrorCode::TooLarge, messages::larger_than_allowed(what, size, allowed))
    }

    pub fn uri_too_long() -> Self {
        Self::default_of(ErrorCode::UriTooLong)
    }

    pub fn unavailable(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, text)
    }

    /// With the text of `code` itself.
    pub fn default_of(code: ErrorCode) -> Self {
        Self::new(code, messages::default_text(code))
    }

    pub fn respond(&self, transaction: &TransactionId) -> HttpResponse {
        let body = ErrorBody { error: &self.text, code: transaction };
        let mut response = respond::json(status(self.code), &body);
        if self.code == ErrorCode::Unauthenticated {
            respond::challenge(&mut response);
        }
        if let Some(id) = self.activation {
            respond::name_activation(&mut response, &id);
        }
        response
    }

    /// The bytes of an answer, where there is no request to answer. The connection ends with it.
    pub fn alone(&self) -> Vec<u8> {
        let transaction = new_transaction_id();
        let mut body = ObjectWriter::new(String::new());
        body.string("error", &self.text);
        body.string("code", &transaction.0);
        let body = body.finish();
        let (status, length, id) = (status(self.code), body.len(), &transaction.0);
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             x-request-id: {id}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

impl From<EntityError> for ApiError {
    fn from(error: EntityError) -> Self {
        match error.code() {
            ErrorCode::Internal => tracing::error!(%error, "a request failed"),
            ErrorCode::Unavailable => tracing::warn!(%error, "a request was refused"),
            _ => {}
        }
        Self::new(error.code(), error.text())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a request failed");
        Self::default_of(ErrorCode::Internal)
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        Self::new(error.code(), error.message())
    }
}

impl From<Malformed> for ApiError {
    fn from(error: Malformed) -> Self {
        Self::malformed(error)
    }
}

impl From<ObjectError> for ApiError {
    fn from(error: ObjectError) -> Self {
        Self::malformed(error)
    }
}

impl From<ArgumentsError> for ApiError {
    fn from(error: ArgumentsError) -> Self {
        match error {
            ArgumentsError::Malformed(error) => error.into(),
            ArgumentsError::Final => Self::bad_request(messages::FINAL_PARAMETERS),
        }
    }
}

impl From<InvokeError> for ApiError {
    fn from(error: InvokeError) -> Self {
        let code = match &error {
            InvokeError::BacklogFull { .. } => ErrorCode::TooManyRequests,
            InvokeError::TooLarge => ErrorCode::TooLarge,
            InvokeError::Overloaded
            | InvokeError::NoSpace
            | InvokeError::NotRecorded(_)
            | InvokeError::StillRunning(_)
            | InvokeError::Stopping => ErrorCode::Unavailable,
        };
        let activation = match &error {
            InvokeError::StillRunning(id) => Some(*id),
            _ => None,
        };
        let text = match &error {
            // Why is for the log.
            InvokeError::NotRecorded(reason) => {
                tracing::warn!(reason, "an activation could not be recorded");
                messages::default_text(code).to_owned()
            }
            told => told.to_string(),
        };
        Self { code, text, activation }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;

    use super::*;

    #[test]
    fn every_code_has_a_status_and_a_text_of_its_own() {
        let statuses: std::collections::HashSet<StatusCode> = ErrorCode::ALL.map(status).into_iter().collect();
        assert_eq!(statuses.len(), ErrorCode::ALL.len());
        let texts: std::collections::HashSet<&str> = ErrorCode::ALL.map(messages::default_text).into_iter().collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
    }

    #[actix_web::test]
    async fn the_body_names_the_transaction_as_text() {
        let transaction = TransactionId("t1".into());
        let response = ApiError::from(AuthError::Invalid).respond(&transaction);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(
            response.headers().get("www-authenticate").unwrap(),
            r#"Basic realm="OpenWhisk secure realm",charset=UTF-8"#
        );
        assert_eq!(response.headers().get("content-type").unwrap(), "application/json");
        let body = to_bytes(response.into_body()).await.unwrap();
        assert_eq!(body, r#"{"error":"The supplied authentication is invalid","code":"t1"}"#);
    }

    #[test]
    fn an_activation_that_goes_on_is_named() {
        let id = ActivationId::from_bytes([1; 16]);
        let response = ApiError::from(InvokeError::StillRunning(id)).respond(&TransactionId("t".into()));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers().get("x-openwhisk-activation-id").unwrap(), &id.to_string());
    }
}
