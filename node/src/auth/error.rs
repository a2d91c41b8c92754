//! Why a command about users or limits was not done.

use raft_store::StoreError;

use crate::cluster::raft::ProposeError;

pub(super) const MIN_SUBJECT: usize = 5;
pub(super) const MAX_SUBJECT: usize = 256;

/// Why a command was not done. The texts are `wskadmin`'s where it has one.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("Subject name must be at least {MIN_SUBJECT} characters")]
    SubjectTooShort,
    #[error("Subject name must be at most {MAX_SUBJECT} characters without control characters")]
    SubjectIllegal,
    #[error("Namespace must not be empty")]
    NamespaceEmpty,
    #[error("Namespace {0:?} is not valid: {1}")]
    NamespaceIllegal(String, protocol::names::NameError),
    #[error("authorization id is in use already")]
    UuidInUse,
    #[error("Namespace already exists")]
    NamespaceExists,
    #[error("The subject you want to edit is blocked")]
    Blocked,
    #[error("Failed to get subject (\"{0}\" does not exist)")]
    NoSubject(String),
    #[error("namespace \"{namespace}\" not found for \"{subject}\"")]
    NamespaceNotFound { namespace: String, subject: String },
    #[error("Namespace \"{namespace}\" does not exist for \"{subject}\"")]
    NothingToDelete { namespace: String, subject: String },
    #[error("no identities found for namespace \"{0}\"")]
    NoIdentities(String),
    #[error("Subject id is not recognized")]
    NotRecognized,
    #[error("No limits found, default system limits apply")]
    NoLimits,
    #[error("{0}")]
    BadLimits(String),
    /// Sealed with another data key.
    #[error("the key of {0:?} was not written with this node's data key")]
    Sealed(String),
    #[error("others keep changing the same subject; try again")]
    Contended,
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UserError {
    /// True if the asker, not the node, must do something about it.
    pub fn is_askers(&self) -> bool {
        !matches!(self, Self::Sealed(_) | Self::Contended | Self::Propose(_) | Self::Store(_))
    }
}
