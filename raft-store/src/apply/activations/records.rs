//! Records of ended activations, with their indexes and counts.

use std::sync::Arc;

use protocol::{
    Activation, ActivationId, EntityName, SessionId,
    activation::Response,
    command::{Finish, ShardReply},
    entity::{Parameters, SemVer},
};
use serde::Serialize;

use super::{Batch, ShardChange, accepted};
use crate::{
    apply::{self, State},
    error::StoreError,
    key_spaces::{
        ByName, ByStart, CountByHour, CountByName, Ended, KeySpace, LogParts, RecordValue, Records, UnfinishedSpace,
    },
};

pub const HOUR_MS: u64 = 3_600_000;

/// Stores the record of an activation and removes it from the accepted ones. The first record wins.
pub fn finish(state: &mut impl State, finish: &Finish, batch: &mut Batch) -> Result<ShardReply, StoreError> {
    let id = finish.record.activation_id;
    if !batch.is_new(&id) {
        match apply::get::<UnfinishedSpace>(state, &id)? {
            // Then it has not ended: that is not asked too.
            Some(unfinished) => accepted::remove(state, &id, &unfinished)?,
            None if has_ended(state, &id)? => return Ok(ShardReply::Dropped),
            None => {}
        }
    }
    if finish.store {
        store(state, Arc::clone(&finish.record), finish.log_parts, Some(finish.session))?;
    } else {
        apply::put::<Ended>(state, &(id.day(), id), &());
    }
    batch.changes.push(ShardChange::Finished(id));
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
    apply::put_as::<LogParts>(state, &(id.day(), *id, session, part), lines);
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

    apply::put_as::<ByStart>(state, &(day, namespace.clone(), start_ms, id), &Summary::of(&record));
    apply::put::<ByName>(state, &(day, namespace.clone(), name.clone(), start_ms, id), &());
    apply::count_up::<CountByHour>(state, &(day, namespace.clone(), hour))?;
    apply::count_up::<CountByName>(state, &(day, namespace, name, hour))?;
    apply::put::<Records>(state, &(day, id), &RecordValue { record, log_parts, session });
    Ok(())
}

/// Hours since the epoch; times beyond what 32 bits count (in the year 491,936) share the last one.
pub fn hour_of(ms: u64) -> u32 {
    u32::try_from(ms / HOUR_MS).unwrap_or(u32::MAX)
}

/// A record as lists show it: an [`Activation`] without its logs and its result, which is encoded as one. It borrows,
/// because a whole record would be copied for each.
#[derive(Serialize)]
struct Summary<'a> {
    namespace: &'a EntityName,
    name: &'a EntityName,
    version: SemVer,
    subject: &'a str,
    activation_id: ActivationId,
    cause: Option<ActivationId>,
    start_ms: u64,
    end_ms: Option<u64>,
    duration_ms: Option<u64>,
    response: Response,
    logs: &'a [String],
    annotations: &'a Parameters,
    publish: bool,
    filter_name: &'a str,
}

impl<'a> Summary<'a> {
    fn of(record: &'a Activation) -> Self {
        Self {
            namespace: &record.namespace,
            name: &record.name,
            version: record.version,
            subject: &record.subject,
            activation_id: record.activation_id,
            cause: record.cause,
            start_ms: record.start_ms,
            end_ms: record.end_ms,
            duration_ms: record.duration_ms,
            response: Response { status: record.response.status, result: None, size: record.response.size },
            logs: &[],
            annotations: &record.annotations,
            publish: record.publish,
            filter_name: &record.filter_name,
        }
    }
}
