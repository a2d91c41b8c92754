//! What commands do to the state: pure functions of (command, state). They know nothing of RocksDB, clocks or chance, so
//! replicas that apply the same entries hold the same bytes.
//!
//! [`meta`] is the state machine of the group `meta`, [`activations`] that of the shards. Both see the state through
//! [`State`]: [`MapState`] in tests, [`overlay::Overlay`] on RocksDB.

pub mod activations;
pub mod meta;
pub mod overlay;

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

use protocol::codec;
use serde::Serialize;

use crate::{error::StoreError, key_spaces::KeySpace};

/// Called for each key and value of a scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError>;

/// Reads keys behind a group's (and generation's) prefix.
pub trait ReadState {
    /// # Errors
    /// [`StoreError`] if the disk cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Whether each of `keys` is there; they are in order. Costs less than to get one after the other.
    ///
    /// # Errors
    /// [`StoreError`] if the disk cannot be read.
    fn contains(&self, keys: Vec<Vec<u8>>) -> Result<Vec<bool>, StoreError> {
        keys.iter().map(|key| Ok(self.get(key)?.is_some())).collect()
    }

    /// Visits the keys in `from..to` in order.
    ///
    /// # Errors
    /// [`StoreError`] if the disk cannot be read, or what `visit` answers.
    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StoreError>;
}

/// A state machine's data while entries are applied. Reads see the writes before them.
pub trait State: ReadState {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>);
    fn delete(&mut self, key: Vec<u8>);
    /// Deletes all keys in `from..to`.
    fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>);
}

/// The value of `key` in space `S`.
pub(crate) fn get<S: KeySpace>(
    state: &(impl ReadState + ?Sized),
    key: &S::Key,
) -> Result<Option<S::Value>, StoreError> {
    state.get(&S::key(key))?.map(|bytes| value::<S>(&bytes)).transpose()
}

/// Decodes a value of space `S`.
pub(crate) fn value<S: KeySpace>(bytes: &[u8]) -> Result<S::Value, StoreError> {
    codec::decode(bytes).map_err(|error| StoreError::unreadable(format!("a value of {}", S::NAME), &error))
}

/// Decodes a key of space `S`.
pub(crate) fn key<S: KeySpace>(bytes: &[u8]) -> Result<S::Key, StoreError> {
    S::parse(bytes)
        .ok_or_else(|| StoreError::Unreadable { what: format!("a key of {}", S::NAME), cause: "malformed".to_owned() })
}

pub(crate) fn put<S: KeySpace>(state: &mut (impl State + ?Sized), key: &S::Key, value: &S::Value) {
    put_as::<S>(state, key, value);
}

/// Puts what is encoded as a value of space `S` is, but is not one: it borrows what that would own.
pub(crate) fn put_as<S: KeySpace>(state: &mut (impl State + ?Sized), key: &S::Key, value: &(impl Serialize + ?Sized)) {
    state.put(S::key(key), codec::encode(value));
}

/// Adds one to the count of `key`.
pub(crate) fn count_up<S: KeySpace<Value = u64>>(
    state: &mut (impl State + ?Sized),
    key: &S::Key,
) -> Result<(), StoreError> {
    let key = S::key(key);
    let count = state.get(&key)?.map_or(Ok(0), |bytes| value::<S>(&bytes))?;
    state.put(key, codec::encode(&(count + 1)));
    Ok(())
}

pub(crate) fn delete<S: KeySpace>(state: &mut (impl State + ?Sized), key: &S::Key) {
    state.delete(S::key(key));
}

/// Visits all keys that begin with `prefix`.
pub(crate) fn scan_prefix(
    state: &(impl ReadState + ?Sized),
    prefix: &[u8],
    visit: Visit<'_>,
) -> Result<(), StoreError> {
    state.scan(prefix, &after_prefix(prefix), visit)
}

/// The first key after all that begin with `prefix`. Empty (= no bound) for a prefix of only 0xff, which no space has.
pub(crate) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// A state in memory, for tests: the same functions must give the same bytes here and on RocksDB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapState(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl ReadState for MapState {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        if from < to {
            for (key, value) in self.0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
                if visit(key, value)?.is_break() {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl State for MapState {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.0.insert(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.0.remove(&key);
    }

    fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>) {
        self.0.retain(|key, _| *key < from || *key >= to);
    }
}
