//! The state machine of the shards: accepted work, and records of activations.

mod accepted;
mod records;

pub use records::{HOUR_MS, hour_of};
mod retention;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use protocol::{
    ActivationId, NodeId, SessionId,
    command::{ShardOp, ShardReply},
};

use super::{ReadState, State};
use crate::{
    apply,
    error::StoreError,
    key_spaces::{Ended, Fences, KeySpace, Records, UnfinishedSpace},
};

/// Ids may be this far from the time of the command that brings them: one hour.
pub const ID_RANGE_MS: u64 = 3_600_000;

/// From so many ids on, one look-up for all costs less than one for each.
const MANY: usize = 4;

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

/// What ops share that are applied to one state, one after the other.
#[derive(Debug, Default)]
pub struct Batch {
    /// What they changed.
    pub changes: Vec<ShardChange>,
    /// [`Fences`] as the state has them, of the nodes that were asked for: almost all ops are of the same few sessions.
    fences: BTreeMap<NodeId, Option<u64>>,
    /// Activations that the state knew nothing of, until an op of theirs may have changed that.
    new: BTreeSet<ActivationId>,
}

impl Batch {
    /// A batch of `ops`, which are about to be applied to `state`. Almost all activations that they accept or end are new;
    /// of many that is found out at once.
    ///
    /// # Errors
    /// [`StoreError`] if the state cannot be read.
    pub fn of<'a>(state: &impl ReadState, ops: impl Iterator<Item = &'a ShardOp>) -> Result<Self, StoreError> {
        let mut ids: Vec<ActivationId> = ops
            .filter_map(|op| match op {
                ShardOp::Accept(accept) => Some(accept.if_lost.activation_id),
                ShardOp::Finish(finish) => Some(finish.record.activation_id),
                _ => None,
            })
            .collect();
        if ids.len() < MANY {
            return Ok(Self::default());
        }
        // An id begins with its time, so that their keys are in order too, with the day before the id or without.
        ids.sort_unstable();
        ids.dedup();
        let keys: [fn(&ActivationId) -> Vec<u8>; 3] =
            [UnfinishedSpace::key, |id| Records::key(&(id.day(), *id)), |id| Ended::key(&(id.day(), *id))];
        for key in keys {
            let mut there = state.contains(ids.iter().map(key).collect())?.into_iter();
            ids.retain(|_| there.next() == Some(false));
        }
        Ok(Self { new: ids.into_iter().collect(), ..Self::default() })
    }

    /// Whether nothing is stored of `id`, without looking. To be asked once per op that may store something; false if it
    /// is not known.
    fn is_new(&mut self, id: &ActivationId) -> bool {
        self.new.remove(id)
    }

    /// Whether commands of `session` count no more.
    fn is_fenced(&mut self, state: &impl State, session: SessionId) -> Result<bool, StoreError> {
        let highest = match self.fences.get(&session.node) {
            Some(highest) => *highest,
            None => {
                let highest = apply::get::<Fences>(state, &session.node)?;
                self.fences.insert(session.node, highest);
                highest
            }
        };
        Ok(highest.is_some_and(|highest| session.incarnation <= highest))
    }

    /// From now on commands of `session` and older ones of its node count no more.
    fn fence(&mut self, state: &mut impl State, session: SessionId) {
        apply::put::<Fences>(state, &session.node, &session.incarnation);
        self.fences.insert(session.node, Some(session.incarnation));
    }
}

/// Applies one op of a command made at `now_ms`.
///
/// # Errors
/// [`StoreError`] if the state cannot be read; then nothing may be written.
pub fn apply(state: &mut impl State, now_ms: u64, op: &ShardOp, batch: &mut Batch) -> Result<ShardReply, StoreError> {
    if let Some(session) = session_of(op)
        && batch.is_fenced(state, session)?
    {
        return Ok(ShardReply::SessionFenced);
    }
    match op {
        ShardOp::Accept(accept) => accepted::accept(state, now_ms, accept, batch),
        ShardOp::Start { id, session, attempt } => accepted::start(state, id, *session, *attempt),
        ShardOp::Finish(finish) => records::finish(state, finish, batch),
        ShardOp::Fence { session, node_name } => accepted::fence(state, now_ms, *session, node_name, batch),
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
