//! Records of ended activations, with their indexes and counts.

use std::sync::Arc;

use protocol::{
    Activation, ActivationId, SessionId,
    activation::Response,
    command::{Finish, ShardReply},
};

use super::{ShardChange, accepted};
use crate::{
    apply::{self, State},
    error::StoreError,
    key_spaces::{
        ByName, ByStart, CountByHour, CountByName, Ended, KeySpace, LogParts, RecordValue, Records, UnfinishedSpace,
    },
};

pub const HOUR_MS: u64 = 3_600_000;

/// Stores the record of an activation and removes it from the accepted ones. The first record wins.
pub fn finish(
    state: &mut impl State,
    finish: &Finish,
    changes: &mut Vec<ShardChange>,
) -> Result<ShardReply, StoreError> {
    let id = finish.record.activation_id;
    if has_ended(state, &id)? {
        return Ok(ShardReply::Dropped);
    }
    if let Some(unfinished) = apply::get::<UnfinishedSpace>(state, &id)? {
        accepted::remove(state, &id, &unfinished)?;
    }
    if finish.store {
        store(state, Arc::clone(&finish.record), finish.log_parts, Some(finish.session))?;
    } else {
        apply::put::<Ended>(state, &(id.day(), id), &());
    }
    changes.push(ShardChange::Finished(id));
    Ok(ShardReply::Finished)
}

/// Stores lines of a log ahead of its record.
pub fn log_part(
    state: &mut impl State,
    session: SessionId,
    id: &ActivationId,
    part: u32,
    lines: &[String],
) -> ShardReply {
    apply::put::<LogParts>(state, &(id.day(), *id, session, part), &lines.to_vec());
    ShardReply::LogPartStored
}

/// Whether the activation has a record, or ended without one.
pub fn has_ended(state: &impl State, id: &ActivationId) -> Result<bool, StoreError> {
    Ok(state.get(&Records::key(&(id.day(), *id)))?.is_some() || apply::get::<Ended>(state, &(id.day(), *id))?.is_some())
}

/// Writes a record with its indexes and counts, all in the day of its id, so that they are dropped together.
pub fn store(
    state: &mut impl State,
    record: Arc<Activation>,
    log_parts: u32,
    session: Option<SessionId>,
) -> Result<(), StoreError> {
    let id = record.activation_id;
    let day = id.day();
    let (namespace, name, start_ms) = (record.namespace.clone(), record.filter_name.clone(), record.start_ms);
    let hour = hour_of(start_ms);

    apply::put::<ByStart>(state, &(day, namespace.clone(), start_ms, id), &summary(&record));
    apply::put::<ByName>(state, &(day, namespace.clone(), name.clone(), start_ms, id), &());
    let key = (day, namespace.clone(), hour);
    let count = apply::get::<CountByHour>(state, &key)?.unwrap_or(0);
    apply::put::<CountByHour>(state, &key, &(count + 1));
    let key = (day, namespace, name, hour);
    let count = apply::get::<CountByName>(state, &key)?.unwrap_or(0);
    apply::put::<CountByName>(state, &key, &(count + 1));
    apply::put::<Records>(state, &(day, id), &RecordValue { record, log_parts, session });
    Ok(())
}

/// Hours since the epoch; times beyond what 32 bits count (in the year 491,936) share the last one.
pub fn hour_of(ms: u64) -> u32 {
    u32::try_from(ms / HOUR_MS).unwrap_or(u32::MAX)
}

/// A record as lists show it: without its logs and its result.
fn summary(record: &Activation) -> Activation {
    Activation { logs: Vec::new(), response: Response { result: None, ..record.response.clone() }, ..record.clone() }
}
