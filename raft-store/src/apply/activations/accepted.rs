//! Work that was answered with 202: accepted, placed by its owner, started at most once per attempt, ended exactly once.

use std::{collections::BTreeMap, ops::ControlFlow};

use protocol::{
    Activation, ActivationId, ActivationStatus, RawJson, SessionId,
    activation::Response,
    command::{Accept, ShardReply},
};
use serde::Serialize;

use super::{Batch, ID_RANGE_MS, ShardChange, records};
use crate::{
    apply::{self, State},
    error::StoreError,
    key_spaces::{Backlog, Holders, IfLost, KeySpace, UnfinishedSpace, UnfinishedValue, Work},
};

/// A [`WorkValue`](crate::key_spaces::WorkValue) that borrows its bytes.
#[derive(Serialize)]
struct WorkOf<'a> {
    #[serde(with = "protocol::codec::bytes")]
    work: &'a [u8],
}

/// Makes an activation durable, unless it is there, too old or too new, or its namespace has too many.
pub fn accept(
    state: &mut impl State,
    now_ms: u64,
    accept: &Accept,
    batch: &mut Batch,
) -> Result<ShardReply, StoreError> {
    let id = accept.if_lost.activation_id;
    if id.unix_ms().abs_diff(now_ms) > ID_RANGE_MS {
        return Ok(ShardReply::IdOutOfRange);
    }
    if !batch.is_new(&id) && (apply::get::<UnfinishedSpace>(state, &id)?.is_some() || records::has_ended(state, &id)?) {
        return Ok(ShardReply::Duplicate);
    }
    let namespace = &accept.if_lost.namespace;
    let backlog = apply::get::<Backlog>(state, namespace)?.unwrap_or(0);
    if backlog >= accept.backlog_limit {
        return Ok(ShardReply::BacklogFull { count: backlog });
    }
    apply::put::<Backlog>(state, namespace, &(backlog + 1));
    let unfinished = UnfinishedValue {
        namespace: namespace.clone(),
        owner: Some(accept.owner),
        attempt: 0,
        started: accept.started.then_some(accept.owner),
    };
    apply::put::<UnfinishedSpace>(state, &id, &unfinished);
    apply::put::<Holders>(state, &(accept.owner, id), &());
    apply::put_as::<Work>(state, &id, &WorkOf { work: &accept.work });
    apply::put::<IfLost>(state, &id, &accept.if_lost);
    Ok(ShardReply::Accepted)
}

/// Grants `session` the right to run `attempt`, once; asking again gives the same answer.
pub fn start(
    state: &mut impl State,
    id: &ActivationId,
    session: SessionId,
    attempt: u32,
) -> Result<ShardReply, StoreError> {
    let Some(unfinished) = apply::get::<UnfinishedSpace>(state, id)? else { return Ok(ShardReply::NotGranted) };
    if unfinished.attempt != attempt {
        return Ok(ShardReply::NotGranted);
    }
    Ok(match (unfinished.started, unfinished.owner) {
        (Some(starter), _) if starter == session => ShardReply::Granted,
        // Work without an owner was taken back: whoever asks has not been assigned it.
        (Some(_), _) | (None, None) => ShardReply::NotGranted,
        (None, Some(owner)) => {
            hold(state, id, Some(owner), UnfinishedValue { started: Some(session), ..unfinished });
            ShardReply::Granted
        }
    })
}

/// Gives unowned work at `attempt` to `session`.
pub fn assign(
    state: &mut impl State,
    id: &ActivationId,
    session: SessionId,
    attempt: u32,
) -> Result<ShardReply, StoreError> {
    let Some(unfinished) = apply::get::<UnfinishedSpace>(state, id)? else { return Ok(ShardReply::NotAssigned) };
    if unfinished.attempt != attempt || unfinished.started.is_some() || unfinished.owner.is_some() {
        // A repeated proposal of the same assignment has happened already.
        let repeated =
            unfinished.attempt == attempt && unfinished.started.is_none() && unfinished.owner == Some(session);
        return Ok(if repeated { ShardReply::Assigned } else { ShardReply::NotAssigned });
    }
    hold(state, id, None, UnfinishedValue { owner: Some(session), ..unfinished });
    Ok(ShardReply::Assigned)
}

/// Ends the say of `session` and of older ones of its node: what they had not started has no owner now, what they had
/// started is finished as lost.
pub fn fence(
    state: &mut impl State,
    now_ms: u64,
    session: SessionId,
    node_name: &str,
    batch: &mut Batch,
) -> Result<ShardReply, StoreError> {
    if batch.is_fenced(state, session)? {
        return Ok(ShardReply::Fenced { taken_back: 0, lost: 0 });
    }
    batch.fence(state, session);

    let first = SessionId { node: session.node, incarnation: 0 };
    let from = Holders::key(&(first, ActivationId::from_bytes([0; 16])));
    let mut to = Holders::key(&(session, ActivationId::from_bytes([0xff; 16])));
    to.push(0);
    let mut held = Vec::new();
    state.scan(&from, &to, &mut |key, _| {
        held.push(apply::key::<Holders>(key)?);
        Ok(ControlFlow::Continue(()))
    })?;

    let (mut taken_back, mut lost) = (0, 0);
    for (holder, id) in held {
        let unfinished = apply::get::<UnfinishedSpace>(state, &id)?.ok_or_else(|| broken(&id, "a holder"))?;
        if unfinished.started.is_some() {
            let record = apply::get::<IfLost>(state, &id)?.ok_or_else(|| broken(&id, "no record for its loss"))?;
            remove(state, &id, &unfinished)?;
            records::store(state, lost_record(record, now_ms, node_name).into(), 0, None)?;
            batch.changes.push(ShardChange::Finished(id));
            lost += 1;
        } else {
            let attempt = unfinished.attempt + 1;
            hold(state, &id, Some(holder), UnfinishedValue { owner: None, attempt, ..unfinished });
            batch.changes.push(ShardChange::TakenBack(id));
            taken_back += 1;
        }
    }
    Ok(ShardReply::Fenced { taken_back, lost })
}

/// Removes accepted work that ended.
pub fn remove(state: &mut impl State, id: &ActivationId, unfinished: &UnfinishedValue) -> Result<(), StoreError> {
    if let Some(holder) = unfinished.holder() {
        apply::delete::<Holders>(state, &(holder, *id));
    }
    apply::delete::<UnfinishedSpace>(state, id);
    apply::delete::<Work>(state, id);
    apply::delete::<IfLost>(state, id);
    match apply::get::<Backlog>(state, &unfinished.namespace)?.unwrap_or(0) {
        0 | 1 => apply::delete::<Backlog>(state, &unfinished.namespace),
        n => apply::put::<Backlog>(state, &unfinished.namespace, &(n - 1)),
    }
    Ok(())
}

/// Writes `unfinished`, which `before` held until now.
fn hold(state: &mut impl State, id: &ActivationId, before: Option<SessionId>, unfinished: UnfinishedValue) {
    let after = unfinished.holder();
    if before != after {
        if let Some(before) = before {
            apply::delete::<Holders>(state, &(before, *id));
        }
        if let Some(after) = after {
            apply::put::<Holders>(state, &(after, *id), &());
        }
    }
    apply::put::<UnfinishedSpace>(state, id, &unfinished);
}

/// The record of work that was running on a node that is gone.
fn lost_record(record: Activation, now_ms: u64, node_name: &str) -> Activation {
    let text = format!("The node '{node_name}' was lost while it ran this activation.");
    // A map from text to text always is a JSON object.
    let result = RawJson::of(&BTreeMap::from([("error", text)])).expect("a map with text keys is valid JSON");
    Activation {
        end_ms: Some(now_ms),
        duration_ms: Some(now_ms.saturating_sub(record.start_ms)),
        response: Response { status: ActivationStatus::WhiskError, result: Some(result), size: None },
        ..record
    }
}

fn broken(id: &ActivationId, has: &str) -> StoreError {
    StoreError::Unreadable {
        what: format!("accepted activation {id}"),
        cause: format!("it has {has} but is incomplete"),
    }
}
