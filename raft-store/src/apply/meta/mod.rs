//! The state machine `meta`: entities, identities, settings and sessions.

mod dedup;
mod entities;
mod sessions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use protocol::{
    Revision, SessionId,
    command::{MetaCommand, MetaKey, MetaReply, Origin},
};

use super::State;
use crate::error::StoreError;

/// What a command changed, for caches.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaChange {
    Put {
        key: MetaKey,
        revision: Revision,
        value: Arc<[u8]>,
    },
    Deleted(MetaKey),
    SessionOpened(SessionId),
    SessionExpired(SessionId),
    /// A snapshot was installed: everything may have changed.
    Reset,
}

/// Applies the entry at `index`.
///
/// # Errors
/// [`StoreError`] if the state cannot be read; then nothing may be written.
pub fn apply(
    state: &mut impl State,
    index: u64,
    origin: Option<Origin>,
    command: &MetaCommand,
    changes: &mut Vec<MetaChange>,
) -> Result<MetaReply, StoreError> {
    match (command, origin) {
        // Opening is what makes origins possible, so it has none that counts.
        (MetaCommand::OpenSession { node, node_name }, _) => sessions::open(state, *node, node_name, changes),
        (_, None) => act(state, index, command, changes),
        (_, Some(origin)) => {
            if let Some(reply) = dedup::first_reply(state, origin)? {
                return Ok(reply);
            }
            let reply = act(state, index, command, changes)?;
            // A session may end itself; then nothing of it is kept.
            if sessions::is_open(state, origin.session)? {
                dedup::keep_reply(state, origin, &reply)?;
            }
            Ok(reply)
        }
    }
}

fn act(
    state: &mut impl State,
    index: u64,
    command: &MetaCommand,
    changes: &mut Vec<MetaChange>,
) -> Result<MetaReply, StoreError> {
    match command {
        MetaCommand::Write(txn) => entities::write(state, Revision(index), txn, changes),
        MetaCommand::OpenSession { node, node_name } => sessions::open(state, *node, node_name, changes),
        MetaCommand::ExpireSession { session } => sessions::expire(state, *session, changes),
    }
}
