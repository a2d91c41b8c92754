//! A repeated proposal gets the first one's reply. Replies are kept while the session is open, the last
//! [`REPLY_WINDOW`] sequences of each.

use std::ops::ControlFlow;

use protocol::{
    SessionId,
    command::{MetaReply, Origin, REPLY_WINDOW},
};

use super::sessions;
use crate::{
    apply::{self, State, scan_prefix},
    error::StoreError,
    key_spaces::{HighestSequence, KeySpace, Replies},
    keys::KeyWriter,
};

/// Forgotten replies are deleted once per this many sequences.
const SWEEP_EVERY: u64 = 256;

/// The reply that `origin` has to get without its command being done (again); `None`: it is to be done now.
pub fn first_reply(state: &impl State, origin: Origin) -> Result<Option<MetaReply>, StoreError> {
    if !sessions::is_open(state, origin.session)? {
        return Ok(Some(MetaReply::SessionClosed));
    }
    if let Some(reply) = apply::get::<Replies>(state, &(origin.session, origin.sequence))? {
        return Ok(Some(reply));
    }
    let highest = apply::get::<HighestSequence>(state, &origin.session)?;
    let forgotten = highest.is_some_and(|highest| origin.sequence.saturating_add(REPLY_WINDOW) <= highest);
    Ok(forgotten.then_some(MetaReply::SequenceForgotten))
}

/// Remembers the reply to `origin`, and forgets those that left the window.
pub fn keep_reply(state: &mut impl State, origin: Origin, reply: &MetaReply) -> Result<(), StoreError> {
    apply::put::<Replies>(state, &(origin.session, origin.sequence), reply);
    let highest = apply::get::<HighestSequence>(state, &origin.session)?.unwrap_or(0);
    if origin.sequence < highest {
        return Ok(());
    }
    apply::put::<HighestSequence>(state, &origin.session, &origin.sequence);
    if origin.sequence / SWEEP_EVERY > highest / SWEEP_EVERY {
        let first_kept = (origin.sequence + 1).saturating_sub(REPLY_WINDOW);
        let from = Replies::key(&(origin.session, 0));
        let to = Replies::key(&(origin.session, first_kept));
        // One by one: range deletions would make every later read of the space look at them.
        let mut forgotten = Vec::new();
        state.scan(&from, &to, &mut |key, _| {
            forgotten.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        forgotten.into_iter().for_each(|key| state.delete(key));
    }
    Ok(())
}

/// Drops all replies of a session that closed.
pub fn forget(state: &mut impl State, session: SessionId) -> Result<(), StoreError> {
    let mut prefix = KeyWriter::new(Replies::NUMBER);
    prefix.session(session);
    let mut forgotten = Vec::new();
    scan_prefix(state, &prefix.finish(), &mut |key, _| {
        forgotten.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    forgotten.into_iter().for_each(|key| state.delete(key));
    apply::delete::<HighestSequence>(state, &session);
    Ok(())
}
