//! Reading the state of one generation of a group.

use rocksdb::{ColumnFamily, DB, DBRawIterator, ReadOptions, Snapshot};

use crate::{
    apply::{ReadState, Visit},
    error::StoreError,
};

/// The `state` family, as it is or as it was.
pub(crate) trait Reads {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Whether each of `keys` is there; they are in order.
    fn contains(&self, keys: &[Vec<u8>]) -> Result<Vec<bool>, StoreError> {
        keys.iter().map(|key| Ok(self.get(key)?.is_some())).collect()
    }
    /// An iterator over `from..to`, at the first key.
    fn range(&self, from: &[u8], to: &[u8]) -> DBRawIterator<'_>;
}

/// As it is now, and changes.
pub(crate) struct Live<'a> {
    pub db: &'a DB,
    pub family: &'a ColumnFamily,
}

/// As it was when the snapshot was taken.
pub(crate) struct Frozen<'a> {
    pub snapshot: Snapshot<'a>,
    pub family: &'a ColumnFamily,
}

impl Reads for Live<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(self.family, key)?)
    }

    fn contains(&self, keys: &[Vec<u8>]) -> Result<Vec<bool>, StoreError> {
        let values = self.db.batched_multi_get_cf(self.family, keys, true);
        values.into_iter().map(|value| Ok(value?.is_some())).collect()
    }

    fn range(&self, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        let mut iterator = self.db.raw_iterator_cf_opt(self.family, bounded(to));
        iterator.seek(from);
        iterator
    }
}

/// The same, borrowing the snapshot.
pub(crate) struct FrozenAt<'a> {
    pub snapshot: &'a Snapshot<'a>,
    pub family: &'a ColumnFamily,
}

impl Reads for Frozen<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        FrozenAt { snapshot: &self.snapshot, family: self.family }.get(key)
    }

    fn range(&self, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        let mut iterator = self.snapshot.raw_iterator_cf_opt(self.family, bounded(to));
        iterator.seek(from);
        iterator
    }
}

impl Reads for FrozenAt<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.snapshot.get_cf(self.family, key)?)
    }

    fn range(&self, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        let mut iterator = self.snapshot.raw_iterator_cf_opt(self.family, bounded(to));
        iterator.seek(from);
        iterator
    }
}

pub(crate) fn bounded(to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options
}

/// The keys behind `[group][generation]`.
pub(crate) struct View<R> {
    pub reads: R,
    pub prefix: [u8; 8],
}

impl<R: Reads> View<R> {
    pub fn full_key(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// An iterator over `from..to`; its keys begin with the prefix (see [`View::tail`]).
    pub fn range(&self, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        self.reads.range(&self.full_key(from), &self.full_key(to))
    }

    /// A key of an iterator without the prefix.
    pub fn tail<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        &key[self.prefix.len()..]
    }
}

impl<R: Reads> ReadState for View<R> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.reads.get(&self.full_key(key))
    }

    fn contains(&self, mut keys: Vec<Vec<u8>>) -> Result<Vec<bool>, StoreError> {
        for key in &mut keys {
            key.splice(..0, self.prefix);
        }
        self.reads.contains(&keys)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let mut iterator = self.range(from, to);
        while let Some((key, value)) = iterator.item() {
            if visit(self.tail(key), value)?.is_break() {
                return Ok(());
            }
            iterator.next();
        }
        Ok(iterator.status()?)
    }
}
