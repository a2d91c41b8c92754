//! The bodies of requests: their content type, and never more of them in memory than is allowed.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap},
    web::{Bytes, BytesMut, Data, Payload},
};
use futures_util::StreamExt;
use protocol::{ByteSize, ErrorCode, messages};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// No body is larger: code of 48 MiB, and what stands beside it.
pub const MAX_BODY: ByteSize = ByteSize::mib(50);
/// A client that needs longer to send its body is refused.
const PATIENCE: Duration = Duration::from_secs(60);
/// A refusal is on its way by then.
const ANSWERED_BY_THEN: Duration = Duration::from_secs(2);
/// Bodies up to this size are not counted; connections bound them.
const UNCOUNTED: u64 = 64 << 10;
/// Bytes that stand for one permit.
const PERMIT: u64 = 1 << 10;

/// The memory that large bodies may take together. Who comes when it is used up waits.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Semaphore>);

impl BodyBudget {
    pub fn new(total: ByteSize) -> Self {
        // A budget that one body does not fit into would be waited for in vain.
        let permits = total.max(MAX_BODY).bytes().div_ceil(PERMIT);
        Self(Arc::new(Semaphore::new(permits as usize)))
    }

    /// Waits for room for `bytes`, at most one largest body; little needs none. Nobody asks while he holds some.
    ///
    /// # Errors
    /// If the server stops.
    pub async fn reserve(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if bytes <= UNCOUNTED {
            return Ok(None);
        }
        let permits = bytes.min(MAX_BODY.bytes()).div_ceil(PERMIT) as u32;
        let permit = Arc::clone(&self.0).acquire_many_owned(permits).await;
        permit.map(Some).map_err(|_| ApiError::default_of(ErrorCode::Unavailable))
    }
}

/// The body of a request, not read yet.
pub struct Body {
    payload: Payload,
    budget: Data<BodyBudget>,
    content_type: ContentType,
    declared: Option<u64>,
}

enum ContentType {
    Json,
    Other(String),
    Absent,
}

/// A body in memory.
pub struct ReadBody {
    pub bytes: Bytes,
    _budget: Option<OwnedSemaphorePermit>,
}

impl ReadBody {
    /// # Errors
    /// 400 if it is no UTF-8.
    pub fn text(&self) -> Result<&str, ApiError> {
        std::str::from_utf8(&self.bytes).map_err(ApiError::malformed)
    }
}

impl Body {
    pub fn new(request: &HttpRequest, payload: Payload, budget: Data<BodyBudget>) -> Self {
        let headers = request.headers();
        let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { payload, budget, content_type: content_type(headers), declared }
    }

    /// Refuses what is declared to be larger than `limit`.
    ///
    /// # Errors
    /// 413
    pub fn check_declared(&self, limit: ByteSize) -> Result<(), ApiError> {
        match self.declared.filter(|declared| *declared > limit.bytes()) {
            Some(declared) => Err(too_large(declared, limit)),
            None => Ok(()),
        }
    }

    /// Reads JSON of at most `limit` bytes. Without content type there must be no body.
    ///
    /// # Errors
    /// Another content type (415), too large (413, before it is read beyond the limit), too slow (503).
    pub async fn json(mut self, limit: ByteSize) -> Result<ReadBody, ApiError> {
        if let ContentType::Other(found) = &self.content_type {
            return Err(unsupported(found));
        }
        self.check_declared(limit)?;
        let read = tokio::time::timeout(PATIENCE, self.read(limit)).await;
        match read.unwrap_or_else(|_| Err(ApiError::default_of(ErrorCode::Unavailable))) {
            Ok(body) => match self.content_type {
                ContentType::Absent if !body.bytes.is_empty() => Err(unsupported("application/octet-stream")),
                _ => Ok(body),
            },
            Err(error) => {
                self.close_after_answer();
                Err(error)
            }
        }
    }

    /// Keeps the rest of the body unread until the answer is out. The framework then closes the connection; were the
    /// rest dropped now, it would read on for as long as the client cares to send.
    fn close_after_answer(self) {
        actix_web::rt::spawn(async move {
            tokio::time::sleep(ANSWERED_BY_THEN).await;
            drop(self.payload);
        });
    }

    async fn read(&mut self, limit: ByteSize) -> Result<ReadBody, ApiError> {
        let mut permit = self.budget.reserve(self.declared.unwrap_or(0)).await?;
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        let mut length = 0_u64;
        while let Some(chunk) = self.payload.next().await {
            let chunk = chunk.map_err(|error| ApiError::malformed(format!("the body ended early: {error}")))?;
            length += chunk.len() as u64;
            if length > limit.bytes() {
                return Err(too_large(length, limit));
            }
            if length > UNCOUNTED && permit.is_none() {
                // Of unknown length: it may become as large as is allowed.
                permit = self.budget.reserve(limit.bytes()).await?;
            }
            if first.is_empty() && all.is_empty() {
                // Most bodies come in one piece and are not copied.
                first = chunk;
                continue;
            }
            if all.is_empty() {
                all.reserve(self.declared.unwrap_or(0).max(length) as usize);
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&chunk);
        }
        Ok(ReadBody { bytes: if all.is_empty() { first } else { all.freeze() }, _budget: permit })
    }
}

fn content_type(headers: &HeaderMap) -> ContentType {
    let Some(value) = headers.get(CONTENT_TYPE) else { return ContentType::Absent };
    let found = String::from_utf8_lossy(value.as_bytes()).into_owned();
    let media_type = found.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") { ContentType::Json } else { ContentType::Other(found) }
}

fn unsupported(found: &str) -> ApiError {
    ApiError::new(ErrorCode::UnsupportedMediaType, messages::unsupported_content_type(found))
}

fn too_large(size: u64, limit: ByteSize) -> ApiError {
    ApiError::too_large("Request", size, limit)
}
