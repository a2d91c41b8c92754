//! Looks at RocksDB's write-ahead log before RocksDB does: what is torn is dropped, what is damaged is refused.
//!
//! A crash may tear the end of the log: bytes that were written but not synced, so that nobody was told they are durable.
//! RocksDB's `kTolerateCorruptedTailRecords` drops a last record that is cut short, but
//! - it refuses a torn end whose pages reached the disk out of order (a power loss leaves holes in what was not synced),
//! - it takes a damaged length in the last 32 KiB for such an end, and forgets what follows,
//! - it does so in every file of the log, also where a newer file follows, and then applies the newer one over the gap.
//!
//! What is to be known is whether the bad place had been synced. The flusher writes after each sync how far the log was
//! durable (see `flusher.rs`): if anything readable behind the bad place says that it was, this is damage. Else nothing
//! behind the bad place was acknowledged, and all of it is dropped, newer files too.

mod physical;
mod records;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::error::OpenError;

/// What was dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TornTail {
    pub file: PathBuf,
    /// Where the first record that is not whole begins.
    pub offset: u64,
    /// Bytes from there to the end, in this file and newer ones.
    pub dropped: u64,
    pub cause: &'static str,
}

/// Drops the torn tail of the log in `dir`, if it has one.
///
/// # Errors
/// [`OpenError::DamagedLog`] if something that was durable cannot be read.
pub(crate) fn drop_torn_tail(dir: &Path) -> Result<Option<TornTail>, OpenError> {
    let at = |source| OpenError::Io { dir: dir.to_owned(), source };
    let files = log_files(dir).map_err(at)?;
    let mut contents = Vec::new();
    for file in &files {
        // Bounded by `Options::max_wal` and a write buffer.
        contents.push(fs::read(file).map_err(at)?);
    }
    let Some(bad) = records::first_bad(&contents) else { return Ok(None) };

    let file = files[bad.file].clone();
    let offset = bad.offset as u64;
    let claimed = records::synced_claims_behind(&contents, &bad);
    if claimed.is_some_and(|synced| synced >= bad.sequence) {
        return Err(OpenError::DamagedLog { file, offset, cause: bad.cause.to_owned() });
    }
    let behind = contents[bad.file..].iter().map(|bytes| bytes.len() as u64).sum::<u64>();
    cut(&file, offset).map_err(at)?;
    for newer in &files[bad.file + 1..] {
        cut(newer, 0).map_err(at)?;
    }
    Ok(Some(TornTail { file, offset, dropped: behind - offset, cause: bad.cause }))
}

/// Durable, so that what comes to lie behind the cut is never read with what was.
fn cut(file: &Path, length: u64) -> io::Result<()> {
    let file = File::options().write(true).open(file)?;
    file.set_len(length)?;
    file.sync_all()
}

/// The files of the log, the oldest first: their names are growing numbers.
fn log_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let (Some(number), Some("log")) = (number, path.extension().and_then(|extension| extension.to_str())) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}
