//! The bodies of requests: their content type, and never more of them in memory than is allowed.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use actix_web::{
    HttpRequest,
    dev::Payload,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap},
    web::{Bytes, BytesMut, Data},
};
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use protocol::{ByteSize, EntityName, ErrorCode, messages};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::error::ApiError;

/// No body is larger: code of 48 MiB, and what stands beside it.
pub const MAX_BODY: ByteSize = ByteSize::mib(50);
/// Bodies up to this size are not counted; connections bound them.
const UNCOUNTED: u64 = 64 << 10;
/// Bytes that stand for one permit.
const PERMIT: u64 = 1 << 10;

/// The memory that large bodies may take together. Who comes when it is used up waits. One namespace gets half of it at
/// most: whoever sends slowly holds up himself.
#[derive(Debug)]
pub struct BodyBudget {
    all: Arc<Semaphore>,
    /// Of namespaces that have or want some.
    shares: Mutex<HashMap<EntityName, Weak<Semaphore>>>,
    share: ByteSize,
    /// How long somebody may wait, and take to send a body.
    patience: Duration,
}

/// Memory for one body.
#[derive(Debug)]
pub struct Room {
    _share: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl BodyBudget {
    pub fn new(total: ByteSize, patience: Duration) -> Self {
        // A budget that one body does not fit into would be waited for in vain.
        let share = ByteSize(total.bytes() / 2).max(MAX_BODY);
        let all = Arc::new(Semaphore::new(permits(total.max(MAX_BODY)) as usize));
        Self { all, shares: Mutex::default(), share, patience }
    }

    /// Waits for room for `bytes` of `namespace`, at most one largest body; little needs none. Nobody asks while he holds
    /// some.
    ///
    /// # Errors
    /// There was none for too long (503).
    pub async fn reserve(&self, namespace: &EntityName, bytes: u64) -> Result<Option<Room>, ApiError> {
        if bytes <= UNCOUNTED {
            return Ok(None);
        }
        let permits = permits(ByteSize(bytes).min(MAX_BODY));
        let share = self.share_of(namespace);
        let reserved = timeout(self.patience, async {
            // The share first: who waits for it has nothing that others want.
            let share = share.acquire_many_owned(permits).await?;
            let all = Arc::clone(&self.all).acquire_many_owned(permits).await?;
            Ok::<_, tokio::sync::AcquireError>(Room { _share: share, _all: all })
        });
        match reserved.await {
            Ok(Ok(room)) => Ok(Some(room)),
            // Nobody closes the semaphores.
            Ok(Err(_)) => Err(ApiError::default_of(ErrorCode::Unavailable)),
            Err(_) => Err(ApiError::unavailable(messages::NO_ROOM_FOR_BODY)),
        }
    }

    fn share_of(&self, namespace: &EntityName) -> Arc<Semaphore> {
        let mut shares = self.shares.lock();
        if let Some(share) = shares.get(namespace).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(permits(self.share) as usize));
        shares.insert(namespace.clone(), Arc::downgrade(&share));
        share
    }
}

fn permits(size: ByteSize) -> u32 {
    // Budgets are far below 4 TiB.
    u32::try_from(size.bytes().div_ceil(PERMIT)).unwrap_or(u32::MAX)
}

/// The body of a request, not read yet.
pub struct Body {
    payload: Payload,
    is_unread: bool,
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
    _room: Option<Room>,
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
        let is_unread = !matches!(payload, Payload::None);
        Self { payload, is_unread, budget, content_type: content_type(headers), declared }
    }

    /// True if it was not read to its end.
    pub fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// True if its end has not come yet. What has come is forgotten.
    pub fn has_more(&mut self) -> bool {
        while self.is_unread {
            match self.payload.next().now_or_never() {
                Some(Some(Ok(_))) => {}
                // Its end, or that of the connection.
                Some(_) => self.is_unread = false,
                None => return true,
            }
        }
        false
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

    /// Reads JSON of at most `limit` bytes for `namespace`. Without content type there must be no body.
    ///
    /// # Errors
    /// Another content type (415), too large (413, before it is read beyond the limit), too slow (503), no room (503).
    pub async fn json(&mut self, namespace: &EntityName, limit: ByteSize) -> Result<ReadBody, ApiError> {
        if let ContentType::Other(found) = &self.content_type {
            return Err(unsupported(found));
        }
        self.check_declared(limit)?;
        let room = self.budget.reserve(namespace, self.declared.unwrap_or(0)).await?;
        let read = timeout(self.budget.patience, self.read(namespace, limit, room)).await;
        let body = read.unwrap_or_else(|_| Err(ApiError::unavailable(messages::BODY_TOO_SLOW)))?;
        match self.content_type {
            ContentType::Absent if !body.bytes.is_empty() => Err(unsupported("application/octet-stream")),
            _ => Ok(body),
        }
    }

    async fn read(
        &mut self,
        namespace: &EntityName,
        limit: ByteSize,
        mut room: Option<Room>,
    ) -> Result<ReadBody, ApiError> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        let mut length = 0_u64;
        while let Some(chunk) = self.payload.next().await {
            let chunk = chunk.map_err(|error| ApiError::malformed(format!("the body ended early: {error}")))?;
            length += chunk.len() as u64;
            if length > limit.bytes() {
                return Err(too_large(length, limit));
            }
            if length > UNCOUNTED && room.is_none() {
                // Of unknown length: it may become as large as is allowed.
                room = self.budget.reserve(namespace, limit.bytes()).await?;
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
        self.is_unread = false;
        Ok(ReadBody { bytes: if all.is_empty() { first } else { all.freeze() }, _room: room })
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
