//! What went wrong, as callers are told.

use serde::Serialize;

use crate::ids::TransactionId;

/// The kinds of refusal. Closed: each maps to one HTTP status, in `node/src/api/error.rs` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BadRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    NotAcceptable,
    Conflict,
    /// The client was too slow.
    RequestTimeout,
    TooLarge,
    UriTooLong,
    /// The request line and the headers together.
    HeadTooLarge,
    UnsupportedMediaType,
    /// Well-formed, but it cannot be followed: a binding that leads to itself.
    Unprocessable,
    TooManyRequests,
    Internal,
    /// Try again later, or elsewhere.
    Unavailable,
}

impl ErrorCode {
    /// All of them, so that tests can be complete.
    pub const ALL: [Self; 15] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::NotAcceptable,
        Self::Conflict,
        Self::RequestTimeout,
        Self::TooLarge,
        Self::UriTooLong,
        Self::HeadTooLarge,
        Self::UnsupportedMediaType,
        Self::Unprocessable,
        Self::TooManyRequests,
        Self::Internal,
        Self::Unavailable,
    ];
}

/// The JSON body of a refusal. Both members must be there: the `wsk` client prints "connection failed" otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody<'a> {
    pub error: &'a str,
    /// The transaction id, equal to the `X-Request-ID` header; a string, not a status.
    pub code: &'a TransactionId,
}

/// A JSON document whose members are not what they must be. The text is what callers are told after
/// `The request content was malformed:`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Malformed {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
