//! The state machine of the shards: accepted work, and records of activations.

mod accepted;
mod records;

pub use records::{HOUR_MS, hour_of};
mod retention;
#[cfg(test)]
mod tests;

use protocol::{
    ActivationId, SessionId,
    command::{ShardOp, ShardReply},
};

use super::State;
use crate::error::StoreError;

/// Ids may be this far from the time of the command that brings them: one hour.
pub const ID_RANGE_MS: u64 = 3_600_000;

/// What a command changed, for the node's own bookkeeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardChange {
    /// Its owner is fenced; nobody owns it now.
    TakenBack(ActivationId),
    /// It ended, with a record or without.
    Finished(ActivationId),
    /// A snapshot was installed: everything may have changed.
    Reset,
}

/// Applies one op of a command made at `now_ms`.
///
/// # Errors
/// [`StoreError`] if the state cannot be read; then nothing may be written.
pub fn apply(
    state: &mut impl State,
    now_ms: u64,
    op: &ShardOp,
    changes: &mut Vec<ShardChange>,
) -> Result<ShardReply, StoreError> {
    if let Some(session) = session_of(op)
        && accepted::is_fenced(state, session)?
    {
        return Ok(ShardReply::SessionFenced);
    }
    match op {
        ShardOp::Accept(accept) => accepted::accept(state, now_ms, accept),
        ShardOp::Start { id, session, attempt } => accepted::start(state, id, *session, *attempt),
        ShardOp::Finish(finish) => records::finish(state, finish, changes),
        ShardOp::Fence { session, node_name } => accepted::fence(state, now_ms, *session, node_name, changes),
        ShardOp::Assign { id, session, attempt } => accepted::assign(state, id, *session, *attempt),
        ShardOp::DropBefore { day } => Ok(retention::drop_before(state, *day)),
        ShardOp::LogPart { session, namespace: _, id, part, lines } => {
            Ok(records::log_part(state, *session, id, *part, lines))
        }
    }
}

/// The session on whose behalf an op acts; a fenced one may do nothing any more.
fn session_of(op: &ShardOp) -> Option<SessionId> {
    match op {
        ShardOp::Accept(accept) => Some(accept.owner),
        ShardOp::Finish(finish) => Some(finish.session),
        ShardOp::Start { session, .. } | ShardOp::Assign { session, .. } | ShardOp::LogPart { session, .. } => {
            Some(*session)
        }
        ShardOp::Fence { .. } | ShardOp::DropBefore { .. } => None,
    }
}
