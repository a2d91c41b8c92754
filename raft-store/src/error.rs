//! Why the store could not be opened, and why it could not be read or written.

use std::{io, path::PathBuf};

use protocol::codec::DecodeError;

/// Why a data directory cannot be opened. Nothing in it was changed, apart from a torn tail being dropped.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// RocksDB is compiled for more than this machine has.
    #[error("this program needs a processor with SSE4.2 and PCLMULQDQ")]
    Processor,
    #[error("data directory {dir}: {source}", dir = dir.display())]
    Io { dir: PathBuf, source: io::Error },
    #[error("data directory {dir} is in use by another process: {detail}", dir = dir.display())]
    InUse { dir: PathBuf, detail: String },
    #[error(
        "data directory {dir} was written by a newer whisp: its data version is {found}, this build knows up to {known}; \
         start the newer version, or restore a backup",
        dir = dir.display()
    )]
    NewerVersion { dir: PathBuf, found: u32, known: u32 },
    #[error("data directory {dir} has a database without a data version: it is not whisp's", dir = dir.display())]
    NoVersion { dir: PathBuf },
    /// Data that was durable is damaged. Starting would mean to forget acknowledged writes.
    #[error(
        "{file} is damaged at byte {offset}: {cause}; it was durable, so starting would lose acknowledged writes: \
         restore the file or this node's data from another copy",
        file = file.display()
    )]
    DamagedLog { file: PathBuf, offset: u64, cause: String },
    #[error("data directory {dir} is damaged: {detail}", dir = dir.display())]
    Damaged { dir: PathBuf, detail: String },
    #[error("data directory {dir}: {source}", dir = dir.display())]
    Store { dir: PathBuf, source: StoreError },
}

/// Why the store could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("rocksdb: {0}")]
    RocksDb(#[from] rocksdb::Error),
    /// Stored bytes are not what this build wrote: damage, or a newer version.
    #[error("{what} cannot be read: {cause}")]
    Unreadable { what: String, cause: String },
    /// Writing to disk failed once. What is durable is unknown since, so nothing is written any more.
    #[error("an earlier write to disk failed: {0}; the process must be restarted")]
    Failed(String),
    /// A command that this group cannot have.
    #[error("log entry {index} of {group}: {cause}; the group stops here")]
    Command { group: String, index: u64, cause: String },
    /// A received snapshot is incomplete or damaged.
    #[error("snapshot: {0}")]
    Snapshot(String),
}

impl StoreError {
    pub(crate) fn unreadable(what: impl Into<String>, cause: &DecodeError) -> Self {
        Self::Unreadable { what: what.into(), cause: cause.to_string() }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}
