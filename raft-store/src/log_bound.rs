//! Keeps a group's log short in bytes; openraft only counts entries.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use crate::{
    store::Store,
    types::{GroupId, Raft},
};

/// Noting a snapshot takes microseconds once the entries before are applied.
const NOTED_WITHIN: Duration = Duration::from_secs(10);

/// Purges the log of `group` whenever [`crate::SNAPSHOT_AFTER_BYTES`] were appended since it was last purged. Ends when
/// `raft` does. Run one per group, as a task.
pub async fn keep_log_short(store: Store, group: GroupId, raft: Raft) {
    let shared = store.inner.group(group);
    // The task must not keep the database open.
    drop(store);
    // Of these there is news when the group's leader changes or it ends, not with every entry.
    let mut server = raft.server_metrics();
    loop {
        tokio::select! {
            changed = server.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = shared.log_is_long.notified() => {
                let Some(applied) = raft.metrics().borrow_watched().last_applied else { continue };
                // A snapshot notes that all up to `applied` is in the state; then the entries may go.
                if raft.trigger().snapshot().await.is_err() {
                    return;
                }
                let wait = raft.wait(Some(NOTED_WITHIN));
                if let Err(error) = wait.metrics(|now| now.snapshot >= Some(applied), "snapshot").await {
                    tracing::warn!(%group, %error, "the log is long and stays so: no snapshot was noted");
                    continue;
                }
                if raft.trigger().purge_log(applied.index).await.is_err() {
                    return;
                }
            }
        }
    }
}
