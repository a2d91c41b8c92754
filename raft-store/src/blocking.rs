//! Blocking work from async code.

use std::io;

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::error::StoreError;

/// Runs `work`, which reads or writes RocksDB, where blocking does no harm.
///
/// On a runtime with several threads that is this thread, after its other tasks moved to another: the work is mostly some
/// microseconds in memory, and handing it to another thread and back costs ten times that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> io::Result<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        return Ok(tokio::task::block_in_place(work)?);
    }
    Ok(tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??)
}
