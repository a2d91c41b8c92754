//! JSON and headers of responses.

use std::io;

use actix_web::{
    HttpResponse,
    body::SizedStream,
    http::{
        StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE,
            HeaderName, HeaderValue, WWW_AUTHENTICATE,
        },
    },
    web::Bytes,
};
use futures_util::{Stream, stream};
use protocol::{ActivationId, TransactionId};
use serde::Serialize;

/// Without a charset: wskdeploy does not know one in lower case.
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ACTIVATION_ID: HeaderName = HeaderName::from_static("x-openwhisk-activation-id");

const ALLOW_HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent");
const API_METHODS: HeaderValue = HeaderValue::from_static("GET, DELETE, POST, PUT, HEAD");
const ROOT_METHODS: HeaderValue = HeaderValue::from_static("OPTIONS, GET, POST");

/// `value` as compact JSON.
pub fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> HttpResponse {
    match serde_json::to_string(value) {
        Ok(text) => json_text(status, text),
        Err(error) => {
            // Only a stored text that is not JSON can do that, and only JSON is stored.
            tracing::error!(%error, "a response cannot be written as JSON");
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// A text that is JSON already.
pub fn json_text(status: StatusCode, text: String) -> HttpResponse {
    let mut response = HttpResponse::with_body(status, text).map_into_boxed_body();
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A text that is JSON already, and always the same.
pub fn static_json(text: &'static str) -> HttpResponse {
    let mut response = HttpResponse::with_body(StatusCode::OK, text).map_into_boxed_body();
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A large JSON text, in pieces. `held` is dropped when the last was sent, or the client is gone.
pub fn large_json<H: 'static>(text: String, held: H) -> HttpResponse {
    const PIECE: usize = 64 << 10;
    let length = text.len() as u64;
    let pieces = stream::unfold((Bytes::from(text), held), |(mut rest, held)| async move {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok::<_, io::Error>(piece), (rest, held)))
    });
    let mut response = HttpResponse::Ok().body(SizedStream::new(length, pieces));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

pub fn ok<T: Serialize + ?Sized>(value: &T) -> HttpResponse {
    json(StatusCode::OK, value)
}

/// JSON that is written as it goes. An error in `json` breaks the connection, so that nobody takes a part for the whole.
pub fn stream(json: impl Stream<Item = Result<Bytes, io::Error>> + 'static) -> HttpResponse {
    let mut response = HttpResponse::Ok().streaming(json);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

pub fn text(text: &'static str) -> HttpResponse {
    let mut response = HttpResponse::with_body(StatusCode::OK, text).map_into_boxed_body();
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// Text of another kind, such as metrics.
pub fn with_type(content_type: &'static str, text: String) -> HttpResponse {
    let mut response = HttpResponse::with_body(StatusCode::OK, text).map_into_boxed_body();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `{"actions":7}`
pub fn count(collection: &str, count: u64) -> HttpResponse {
    ok(&std::collections::BTreeMap::from([(collection, count)]))
}

pub fn name_activation(response: &mut HttpResponse, id: &ActivationId) {
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        response.headers_mut().insert(ACTIVATION_ID, value);
    }
}

/// What a 401 must say.
pub fn challenge(response: &mut HttpResponse) {
    const BASIC: HeaderValue = HeaderValue::from_static(r#"Basic realm="OpenWhisk secure realm",charset=UTF-8"#);
    response.headers_mut().insert(WWW_AUTHENTICATE, BASIC);
}

/// What every response has.
pub fn finish(response: &mut HttpResponse, transaction: &TransactionId, under_api: bool) {
    let headers = response.headers_mut();
    // A transaction id is made of letters and digits or came in a header.
    if let Ok(id) = HeaderValue::try_from(&*transaction.0) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, if under_api { API_METHODS } else { ROOT_METHODS });
}
