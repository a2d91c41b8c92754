//! Keeps a group's log short in bytes; openraft only counts entries.

use openraft::async_runtime::WatchReceiver;

use crate::{
    store::Store,
    types::{GroupId, Raft},
};

/// Purges the log of `group` whenever [`crate::SNAPSHOT_AFTER_BYTES`] were appended since it was last purged. Ends when
/// `raft` does. Run one per group, as a task.
pub async fn keep_log_short(store: Store, group: GroupId, raft: Raft) {
    let shared = store.inner.group(group);
    // The task must not keep the database open.
    drop(store);
    let mut metrics = raft.metrics();
    loop {
        tokio::select! {
            changed = metrics.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = shared.log_is_long.notified() => {
                let Some(applied) = metrics.borrow_watched().last_applied else { continue };
                // A snapshot notes that all up to `applied` is in the state; then the entries may go.
                let triggered = async {
                    raft.trigger().snapshot().await?;
                    raft.trigger().purge_log(applied.index).await
                };
                if let Err(error) = triggered.await {
                    tracing::debug!(%group, %error, "the group ended");
                    return;
                }
            }
        }
    }
}
