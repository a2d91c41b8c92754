//! Why something about entities could not be done.

use std::io;

use protocol::{ErrorCode, error::Malformed, messages};
use raft_store::StoreError;

use super::code::BlobError;
use crate::cluster::raft::ProposeError;

/// A refusal that the caller is told, or a failure whose detail is for the log.
#[derive(Debug, thiserror::Error)]
pub enum EntityError {
    /// The caller's doing. The text is upstream's.
    #[error("{1}")]
    Refused(ErrorCode, String),
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("the write was not done: {0}")]
    Propose(#[from] ProposeError),
    #[error("action code: {0}")]
    Blob(BlobError),
    /// A stored value makes no sense; names it.
    #[error("stored value is corrupted: {0}")]
    Corrupted(String),
    /// Nothing new is written until there is room on the disk.
    #[error("the disk is almost full")]
    NoSpace,
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Internal(String),
}

impl EntityError {
    pub(super) fn refused(code: ErrorCode, text: impl Into<String>) -> Self {
        Self::Refused(code, text.into())
    }

    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self::refused(ErrorCode::BadRequest, text)
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::refused(ErrorCode::Conflict, text)
    }

    /// Nothing is there.
    pub(super) fn missing() -> Self {
        Self::refused(ErrorCode::NotFound, messages::RESOURCE_DOES_NOT_EXIST)
    }

    /// `name` as the caller is told it: without a leading slash.
    pub fn forbidden(name: impl std::fmt::Display) -> Self {
        Self::refused(ErrorCode::Forbidden, messages::not_authorized(name))
    }

    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(code, _) => *code,
            Self::Store(_) | Self::Blob(_) | Self::Corrupted(_) | Self::Internal(_) => ErrorCode::Internal,
            Self::Propose(ProposeError::TooLarge { .. }) => ErrorCode::TooLarge,
            Self::Propose(_) | Self::NoSpace | Self::Unavailable(_) => ErrorCode::Unavailable,
        }
    }

    /// What the caller is told.
    pub fn text(&self) -> &str {
        match self {
            Self::Refused(_, text) => text,
            Self::Corrupted(_) => messages::CORRUPTED,
            Self::NoSpace => messages::DISK_FULL,
            other => messages::default_text(other.code()),
        }
    }
}

impl From<BlobError> for EntityError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Self::NoSpace,
            other => Self::Blob(other),
        }
    }
}

impl From<Malformed> for EntityError {
    fn from(error: Malformed) -> Self {
        Self::bad_request(messages::malformed_content(error))
    }
}
