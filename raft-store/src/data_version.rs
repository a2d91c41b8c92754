//! The version of everything on disk, written when the database is created and checked before anything else is read.
//!
//! | version | date | what changed |
//! | --- | --- | --- |
//! | 1 | 2026-11-21 | first |
//!
//! A change of a key space, of a stored value's meaning or of a column family raises it; [`check`] then gets an upgrade
//! step from each older version.

use std::path::Path;

use protocol::codec;
use rocksdb::{DB, IteratorMode, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};

use crate::{
    error::{OpenError, StoreError},
    key_spaces::{CF_LOG, CF_STATE},
};

/// The version this build writes, and the newest it reads.
pub const CURRENT: u32 = 1;
/// Key in the `default` family.
const KEY: &[u8] = b"data-version";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DataVersion(u32);

/// Checks the version of an opened database, or writes it into a new one.
pub fn check(db: &DB, dir: &Path) -> Result<(), OpenError> {
    let store = |source: StoreError| OpenError::Store { dir: dir.to_owned(), source };
    match read(db).map_err(store)? {
        Some(CURRENT) => Ok(()),
        Some(found) => Err(OpenError::NewerVersion { dir: dir.to_owned(), found, known: CURRENT }),
        None if is_empty(db).map_err(store)? => write(db).map_err(|error| store(error.into())),
        None => Err(OpenError::NoVersion { dir: dir.to_owned() }),
    }
}

/// The version in `db`, if it has one.
pub fn read(db: &DB) -> Result<Option<u32>, StoreError> {
    let Some(bytes) = db.get(KEY)? else { return Ok(None) };
    let DataVersion(version) =
        codec::decode(&bytes).map_err(|error| StoreError::unreadable("the data version", &error))?;
    Ok(Some(version))
}

fn write(db: &DB) -> Result<(), rocksdb::Error> {
    let mut batch = WriteBatch::default();
    batch.put(KEY, codec::encode(&DataVersion(CURRENT)));
    let mut options = WriteOptions::default();
    // Data of an unknown version could not be read back.
    options.set_sync(true);
    db.write_opt(batch, &options)
}

/// A crash while creating leaves a database without a version, but then without data too.
fn is_empty(db: &DB) -> Result<bool, StoreError> {
    for name in [CF_LOG, CF_STATE] {
        let Some(family) = db.cf_handle(name) else { continue };
        if let Some(first) = db.iterator_cf(family, IteratorMode::Start).next() {
            first?;
            return Ok(false);
        }
    }
    Ok(true)
}
