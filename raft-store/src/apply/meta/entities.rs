//! Writes of typed keys under conditions, with the lists and counts of entities.

use std::ops::ControlFlow;

use protocol::{
    Revision,
    command::{Condition, ListEntry, MetaKey, MetaOp, MetaReply, MetaTxn},
    names::FullyQualifiedName,
};

use super::MetaChange;
use crate::{
    apply::{self, State, scan_prefix},
    error::StoreError,
    key_spaces::{
        CountKey, Counts, List, ListKey, PackageList, StoredValue, Values, package_code_prefix, package_contents_prefix,
    },
};

/// Does all ops if all conditions hold, else nothing.
pub fn write(
    state: &mut impl State,
    revision: Revision,
    txn: &MetaTxn,
    changes: &mut Vec<MetaChange>,
) -> Result<MetaReply, StoreError> {
    for (index, condition) in txn.conditions.iter().enumerate() {
        if !holds(state, condition)? {
            // More conditions than u32 do not fit an entry.
            return Ok(MetaReply::ConditionFailed { index: index as u32 });
        }
    }
    for op in &txn.ops {
        match op {
            MetaOp::Put { key, value, list } => put(state, revision, key, value, *list, changes)?,
            MetaOp::Delete(key) => delete(state, key, changes)?,
            MetaOp::DeletePackageContents(package) => delete_contents(state, package, changes)?,
        }
    }
    Ok(MetaReply::Written { revision })
}

fn holds(state: &impl State, condition: &Condition) -> Result<bool, StoreError> {
    Ok(match condition {
        Condition::Absent(key) => apply::get::<Values>(state, key)?.is_none(),
        Condition::Exists(key) => apply::get::<Values>(state, key)?.is_some(),
        Condition::At(key, revision) => {
            apply::get::<Values>(state, key)?.is_some_and(|stored| stored.revision == *revision)
        }
        Condition::PackageEmpty(package) => {
            let mut empty = true;
            scan_prefix(state, &package_contents_prefix(package), &mut |_, _| {
                empty = false;
                Ok(ControlFlow::Break(()))
            })?;
            empty
        }
    })
}

fn put(
    state: &mut impl State,
    revision: Revision,
    key: &MetaKey,
    value: &[u8],
    list: Option<ListEntry>,
    changes: &mut Vec<MetaChange>,
) -> Result<(), StoreError> {
    // Only entities have lists; a place for anything else has no meaning.
    let list = list.filter(|_| matches!(key, MetaKey::Entity(_)));
    unlist(state, key)?;
    if let (MetaKey::Entity(name), Some(entry)) = (key, list) {
        enlist(state, name, entry)?;
    }
    apply::put::<Values>(state, key, &StoredValue { revision, list, value: value.to_vec() });
    changes.push(MetaChange::Put { key: key.clone(), revision, value: value.into() });
    Ok(())
}

fn delete(state: &mut impl State, key: &MetaKey, changes: &mut Vec<MetaChange>) -> Result<(), StoreError> {
    if apply::get::<Values>(state, key)?.is_some() {
        unlist(state, key)?;
        apply::delete::<Values>(state, key);
        changes.push(MetaChange::Deleted(key.clone()));
    }
    Ok(())
}

fn delete_contents(
    state: &mut impl State,
    package: &FullyQualifiedName,
    changes: &mut Vec<MetaChange>,
) -> Result<(), StoreError> {
    let mut keys = Vec::new();
    for prefix in [package_contents_prefix(package), package_code_prefix(package)] {
        scan_prefix(state, &prefix, &mut |key, _| {
            keys.push(apply::key::<Values>(key)?);
            Ok(ControlFlow::Continue(()))
        })?;
    }
    keys.iter().try_for_each(|key| delete(state, key, changes))
}

/// Takes the present value of `key` out of its lists and counts.
fn unlist(state: &mut impl State, key: &MetaKey) -> Result<(), StoreError> {
    let MetaKey::Entity(name) = key else { return Ok(()) };
    let Some(entry) = apply::get::<Values>(state, key)?.and_then(|stored| stored.list) else { return Ok(()) };
    let place = list_key(name, entry);
    apply::delete::<List>(state, &place);
    if place.package.is_some() {
        apply::delete::<PackageList>(state, &place);
    }
    for key in counted_in(place) {
        match apply::get::<Counts>(state, &key)?.unwrap_or(0) {
            0 | 1 => apply::delete::<Counts>(state, &key),
            n => apply::put::<Counts>(state, &key, &(n - 1)),
        }
    }
    Ok(())
}

fn enlist(state: &mut impl State, name: &FullyQualifiedName, entry: ListEntry) -> Result<(), StoreError> {
    let place = list_key(name, entry);
    apply::put::<List>(state, &place, &());
    if place.package.is_some() {
        apply::put::<PackageList>(state, &place, &());
    }
    for key in counted_in(place) {
        let n = apply::get::<Counts>(state, &key)?.unwrap_or(0);
        apply::put::<Counts>(state, &key, &(n + 1));
    }
    Ok(())
}

fn list_key(name: &FullyQualifiedName, entry: ListEntry) -> ListKey {
    ListKey {
        namespace: name.path.namespace.clone(),
        collection: entry.collection,
        updated_ms: entry.updated_ms,
        package: name.path.package.clone(),
        name: name.name.clone(),
    }
}

/// The counts of which the entity at `place` is part: its namespace's, and its package's if it is in one.
fn counted_in(place: ListKey) -> impl Iterator<Item = CountKey> {
    let ListKey { namespace, collection, package, .. } = place;
    let whole = CountKey { namespace: namespace.clone(), collection, package: None };
    let packaged = package.map(|package| CountKey { namespace, collection, package: Some(package) });
    std::iter::once(whole).chain(packaged)
}
