//! Sessions: one per process start of a node. Incarnations only grow, also over expiry.

use protocol::{SessionId, command::MetaReply, ids::NodeId};

use super::{MetaChange, dedup};
use crate::{
    apply::{self, State},
    error::StoreError,
    key_spaces::{SessionRecord, Sessions},
};

/// Whether `session` is its node's open one.
pub fn is_open(state: &impl State, session: SessionId) -> Result<bool, StoreError> {
    let newest = apply::get::<Sessions>(state, &session.node)?;
    Ok(newest.is_some_and(|newest| newest.open && newest.incarnation == session.incarnation))
}

/// Opens the next incarnation of `node` and closes the one before.
pub fn open(
    state: &mut impl State,
    node: NodeId,
    node_name: &str,
    changes: &mut Vec<MetaChange>,
) -> Result<MetaReply, StoreError> {
    let newest = apply::get::<Sessions>(state, &node)?;
    let incarnation = newest.as_ref().map_or(1, |newest| newest.incarnation + 1);
    let closed = newest.filter(|newest| newest.open).map(|newest| SessionId { node, incarnation: newest.incarnation });
    if let Some(closed) = closed {
        dedup::forget(state, closed)?;
        changes.push(MetaChange::SessionExpired(closed));
    }
    apply::put::<Sessions>(state, &node, &SessionRecord { incarnation, node_name: node_name.to_owned(), open: true });
    let session = SessionId { node, incarnation };
    changes.push(MetaChange::SessionOpened(session));
    Ok(MetaReply::SessionOpened { session, closed })
}

/// Closes `session` if it is open.
pub fn expire(
    state: &mut impl State,
    session: SessionId,
    changes: &mut Vec<MetaChange>,
) -> Result<MetaReply, StoreError> {
    let newest = apply::get::<Sessions>(state, &session.node)?;
    let Some(open) = newest.filter(|newest| newest.open && newest.incarnation == session.incarnation) else {
        return Ok(MetaReply::SessionExpired(false));
    };
    apply::put::<Sessions>(state, &session.node, &SessionRecord { open: false, ..open });
    dedup::forget(state, session)?;
    changes.push(MetaChange::SessionExpired(session));
    Ok(MetaReply::SessionExpired(true))
}
