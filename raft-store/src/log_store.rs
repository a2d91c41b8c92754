//! The Raft log and vote of one group.
//!
//! Writes go to RocksDB unsynced, in the order of the calls, into the one write-ahead log of the node. Fsync points:
//! - `append`: the callback waits for the flusher, the call does not;
//! - `save_vote`: the call waits for the flusher;
//! - `truncate_after`, `purge`, `save_committed`: none. Whatever is synced later comes after them in the write-ahead log,
//!   so a crash can only undo them together with everything since.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use protocol::{
    codec,
    command::{Command, MAX_ENTRY},
};
use rocksdb::WriteBatch;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    apply::after_prefix,
    blocking::blocking,
    error::StoreError,
    format::{LogIdRecord, VoteRecord, decode_entry, encode_entry},
    key_spaces::{Committed, KeySpace, LOG_ENTRIES, Purged, VoteSpace, log_key, log_prefix},
    store::{Group, Inner},
    types::{Entry, GroupId, LogId, TypeConfig, Vote},
    view::bounded,
};

/// A read of the log ends after this many bytes of entries, but has at least one.
pub const READ_BYTES: usize = 4 << 20;

/// A command is too large for an entry: the caller has to split it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the command has {size} bytes, more than the {MAX_ENTRY} of an entry")]
pub struct EntryTooLarge {
    pub size: u64,
}

/// To be called before `client_write`: nothing larger may enter a log.
///
/// # Errors
/// [`EntryTooLarge`] with the size as encoded.
pub fn check_size(command: &Command) -> Result<(), EntryTooLarge> {
    let size = codec::encoded_len(command);
    if size > MAX_ENTRY as u64 { Err(EntryTooLarge { size }) } else { Ok(()) }
}

/// The log of one group. Clones are readers of the same log.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
    id: GroupId,
    group: Arc<Group>,
}

impl LogStore {
    pub(crate) fn new(inner: Arc<Inner>, id: GroupId) -> Self {
        let group = inner.group(id);
        Self { inner, id, group }
    }

    fn get<S: KeySpace<Key = ()>>(&self) -> Result<Option<S::Value>, StoreError>
    where
        S::Value: DeserializeOwned,
    {
        let Some(bytes) = self.inner.db.get_cf(self.inner.log(), log_prefix(self.id, S::NUMBER))? else {
            return Ok(None);
        };
        codec::decode(&bytes)
            .map(Some)
            .map_err(|error| StoreError::unreadable(format!("{} of {}", S::NAME, self.id), &error))
    }

    fn put<S: KeySpace<Key = ()>>(&self, batch: &mut WriteBatch, value: &S::Value)
    where
        S::Value: Serialize,
    {
        batch.put_cf(self.inner.log(), log_prefix(self.id, S::NUMBER), codec::encode(value));
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.inner.flusher.write(&self.inner.db, batch)
    }

    fn append_blocking(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let mut sizes = Vec::with_capacity(entries.len());
        for entry in &entries {
            let value = encode_entry(entry);
            sizes.push(value.len());
            batch.put_cf(self.inner.log(), log_key(self.id, entry.log_id.index), value);
        }
        self.write(batch)?;
        self.group.appended(sizes.iter().sum::<usize>() as u64);
        self.group.recent.appended(entries.into_iter().zip(sizes));
        Ok(())
    }

    /// Entries of `start..end` until `limit` bytes; at least one if there is any. A missing entry between others is an
    /// error, at the ends it is not.
    fn read_blocking(&self, start: u64, end: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let mut entries: Vec<Entry> = Vec::new();
        if start >= end {
            return Ok(entries);
        }
        let mut iterator = self.inner.db.raw_iterator_cf_opt(self.inner.log(), bounded(&log_key(self.id, end)));
        iterator.seek(log_key(self.id, start));
        let mut bytes = 0;
        while let Some((key, value)) = iterator.item() {
            let index = index_of(key);
            let entry = decode_entry(value).map_err(|error| self.unreadable(index, &error.to_string()))?;
            if entry.log_id.index != index {
                return Err(self.unreadable(index, &format!("it holds entry {}", entry.log_id.index)));
            }
            if let Some(last) = entries.last()
                && last.log_id.index + 1 != index
            {
                return Err(self.unreadable(last.log_id.index + 1, "it is missing"));
            }
            bytes += value.len();
            if bytes > limit && !entries.is_empty() {
                break;
            }
            entries.push(entry);
            iterator.next();
        }
        iterator.status()?;
        Ok(entries)
    }

    fn last_entry_blocking(&self) -> Result<Option<LogId>, StoreError> {
        let prefix = log_prefix(self.id, LOG_ENTRIES);
        let mut options = bounded(&after_prefix(&prefix));
        options.set_iterate_lower_bound(prefix);
        let mut iterator = self.inner.db.raw_iterator_cf_opt(self.inner.log(), options);
        iterator.seek_to_last();
        let last = match iterator.item() {
            Some((key, value)) => {
                let entry = decode_entry(value).map_err(|error| self.unreadable(index_of(key), &error.to_string()))?;
                Some(entry.log_id)
            }
            None => None,
        };
        iterator.status()?;
        Ok(last)
    }

    fn unreadable(&self, index: u64, cause: &str) -> StoreError {
        StoreError::Unreadable { what: format!("log entry {index} of {}", self.id), cause: cause.to_owned() }
    }

    /// Reads on a thread that may block.
    async fn read(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let this = self.clone();
        blocking(move || this.read_blocking(start, end, limit)).await
    }
}

/// The index in the key of a log entry.
fn index_of(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// `start..end` of any range.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    /// Applying reads this way: a few MiB at a time, however long the range is.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let this = self.clone();
        stream::try_unfold(start, move |start| {
            let this = this.clone();
            async move {
                if start >= end {
                    return Ok(None);
                }
                let mut entries = this.group.recent.take(start, end);
                if entries.is_empty() {
                    entries = this.read(start, end, READ_BYTES).await?;
                }
                let next = entries.last().map(|last| last.log_id.index + 1);
                Ok::<_, io::Error>(next.map(|next| (stream::iter(entries).map(Ok), next)))
            }
        })
        .try_flatten()
        .boxed()
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let this = self.clone();
        blocking(move || Ok(this.get::<VoteSpace>()?.map(Vote::from))).await
    }

    /// Replication reads this way.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let this = self.clone();
        blocking(move || {
            let last_purged_log_id = this.get::<Purged>()?.map(LogId::from);
            let last_log_id = this.last_entry_blocking()?.or(last_purged_log_id);
            Ok(LogState { last_purged_log_id, last_log_id })
        })
        .await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        self.put::<VoteSpace>(&mut batch, &VoteRecord::from(vote));
        let this = self.clone();
        blocking(move || this.write(batch)).await?;
        // Durable before return: a vote that is forgotten could be given twice.
        Ok(self.inner.flusher.sync().await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        match committed {
            Some(id) => self.put::<Committed>(&mut batch, &LogIdRecord::from(&id)),
            None => batch.delete_cf(self.inner.log(), log_prefix(self.id, Committed::NUMBER)),
        }
        Ok(self.write(batch)?)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let this = self.clone();
        blocking(move || Ok(this.get::<Committed>()?.map(LogId::from))).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let count = entries.len() as u64;
        // Readable when this returns …
        self.append_blocking(entries)?;
        // … and durable when the callback is called.
        self.inner.flusher.entries_written(callback, count);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.group.recent.clear();
        let from = log_key(self.id, last_log_id.map_or(0, |id| id.index + 1));
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.inner.log(), from.to_vec(), after_prefix(&log_prefix(self.id, LOG_ENTRIES)));
        let this = self.clone();
        blocking(move || this.write(batch)).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        self.put::<Purged>(&mut batch, &LogIdRecord::from(&log_id));
        batch.delete_range_cf(self.inner.log(), log_key(self.id, 0), log_key(self.id, log_id.index + 1));
        let this = self.clone();
        blocking(move || {
            this.write(batch)?;
            this.group.log_bytes.store(0, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        })
        .await
    }
}
