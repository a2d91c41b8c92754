//! One RocksDB with all groups of a node.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use protocol::{ShardId, codec};
use rocksdb::{ColumnFamily, DB, ErrorKind, WriteBatch};
use tokio::sync::Notify;

use crate::{
    apply::{self, activations::ShardChange, meta::MetaChange},
    data_version,
    error::{OpenError, StoreError},
    flusher::{FlushStats, Flusher},
    key_spaces::{self, Applied, CF_DEFAULT, CF_LOG, CF_STATE, FIRST_GENERATION, generation_prefix, prefix_of},
    keys::KeyReader,
    log_store::LogStore,
    options::{self, Options},
    query::{MetaReader, ShardReader},
    recent::Recent,
    snapshot::SnapshotReceiver,
    space::Space,
    state_machine::StateMachine,
    types::GroupId,
    view::{Frozen, Live, View},
    wal,
};

/// Patience with the lock of the data directory. A process that ends, or one that it has just forked and that has not become
/// its program yet, holds it for some moments more.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Learns what was applied: after the batch is written and before its replies are sent, so caches are right before a write
/// is answered. Called on a thread that may block, one call at a time per group.
pub trait Observer: Send + Sync + 'static {
    fn meta_applied(&self, changes: &[MetaChange]);
    fn shard_applied(&self, shard: ShardId, changes: &[ShardChange]);
}

/// Handles of a store are still there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store is still open: {handles} other handles")]
pub struct StillOpen {
    pub handles: usize,
}

/// Observes nothing.
impl Observer for () {
    fn meta_applied(&self, _changes: &[MetaChange]) {}
    fn shard_applied(&self, _shard: ShardId, _changes: &[ShardChange]) {}
}

/// The data of a node. Cheap to clone; closed when the last clone, log store, state machine and reader is gone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    // Fields drop in this order: the flusher writes its last before the database closes, the lock goes last.
    pub flusher: Flusher,
    pub db: Arc<DB>,
    groups: Mutex<HashMap<u32, Arc<Group>>>,
    pub options: Options,
    pub space: Space,
    _lock: File,
}

/// What all handles of a group share.
pub(crate) struct Group {
    /// Number of the generation that is read and written. Reading holds it, switching takes it.
    pub generation: RwLock<u32>,
    /// Highest generation ever given out, so that none is used twice.
    pub last_generation: AtomicU32,
    /// Index of the last applied entry, once its changes were observed.
    pub applied: AtomicU64,
    /// Bytes appended to the log since it was purged.
    pub log_bytes: AtomicU64,
    /// Woken when `log_bytes` passes the bound.
    pub log_is_long: Notify,
    /// Appended and not yet applied.
    pub recent: Recent,
}

impl Store {
    /// Opens the data in `dir`, or creates it. Blocks: reading the write-ahead log may take a second.
    ///
    /// A torn tail of the log (writes that no one was told are durable) is dropped and logged.
    ///
    /// # Errors
    /// [`OpenError`] if another process has it, another version wrote it, or what was durable is damaged.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { dir: dir.to_owned(), source };
        #[cfg(target_arch = "x86_64")]
        if !(std::arch::is_x86_feature_detected!("sse4.2") && std::arch::is_x86_feature_detected!("pclmulqdq")) {
            return Err(OpenError::Processor);
        }
        // Nobody else reads keys, parameters and results.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let lock = lock(dir)?;
        refuse_headless(dir)?;
        // Before anything is written: what is reserved for a start on a full disk is given up now.
        let space = Space::watch(dir, options.min_free).map_err(io)?;
        if let Some(torn) = wal::drop_torn_tail(dir)? {
            tracing::warn!(
                file = %torn.file.display(), offset = torn.offset, dropped_bytes = torn.dropped, cause = torn.cause,
                "dropped the torn tail of the write-ahead log: writes that were never acknowledged"
            );
        }
        let db = open_database(dir, &options)?;
        data_version::check(&db, dir)?;
        let db = Arc::new(db);
        let flusher = Flusher::start(db.clone(), options.faults.clone()).map_err(io)?;
        let inner = Inner { flusher, db, groups: Mutex::default(), options, space, _lock: lock };
        inner.load_groups().map_err(|source| OpenError::Store { dir: dir.to_owned(), source })?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The log of `group`. One per running group.
    pub fn log(&self, group: GroupId) -> LogStore {
        LogStore::new(self.inner.clone(), group)
    }

    /// The state machine of `group`, which tells `observer` what it applies. One per running group.
    pub fn state_machine(&self, group: GroupId, observer: Arc<dyn Observer>) -> StateMachine {
        StateMachine::new(self.inner.clone(), group, observer)
    }

    /// Reads of `meta` as applied here.
    pub fn meta(&self) -> MetaReader {
        MetaReader::new(self.inner.clone())
    }

    /// Reads of a shard as applied here.
    pub fn shard(&self, shard: ShardId) -> ShardReader {
        ShardReader::new(self.inner.clone(), shard)
    }

    /// Takes a snapshot that a leader sends, chunk by chunk, before openraft is asked to install it.
    pub fn receive_snapshot(&self, group: GroupId) -> SnapshotReceiver {
        SnapshotReceiver::new(self.inner.clone(), group)
    }

    /// Waits until every other handle of this data is gone, then closes it; gives up after `within`. Blocks. Tasks of groups
    /// that were shut down may hold theirs for some moments more; until all are gone the directory cannot be opened again.
    ///
    /// # Errors
    /// [`StillOpen`] if somebody still has a handle. Then the last one to drop it closes.
    pub fn close(self, within: Duration) -> Result<(), StillOpen> {
        let deadline = Instant::now() + within;
        let mut inner = self.inner;
        loop {
            inner = match Arc::try_unwrap(inner) {
                // Dropping writes the last and frees the lock.
                Ok(_last) => return Ok(()),
                Err(shared) => shared,
            };
            if Instant::now() >= deadline {
                return Err(StillOpen { handles: Arc::strong_count(&inner) - 1 });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The room on the disk.
    pub fn space(&self) -> &Space {
        &self.inner.space
    }

    /// How many syncs made how many entries durable.
    pub fn flush_stats(&self) -> FlushStats {
        self.inner.flusher.stats()
    }

    /// Waits until all that was written before is durable. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the disk failed.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.inner.flusher.sync_blocking()
    }

    /// CRC-32 of all data of a group's state machine, and the index up to which it is applied: equal on all replicas at
    /// the same index. Reads everything.
    ///
    /// # Errors
    /// [`StoreError`] if the disk cannot be read.
    pub fn checksum(&self, group: GroupId) -> Result<(u64, u32), StoreError> {
        let view = self.inner.frozen(group, &self.inner.group(group));
        let applied = apply::get::<Applied>(&view, &())?.map_or(0, |id| id.index);
        let mut hasher = crc32fast::Hasher::new();
        apply::ReadState::scan(&view, &[key_spaces::FIRST_DATA_SPACE], &[u8::MAX], &mut |key, value| {
            for part in [key, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok((applied, hasher.finalize()))
    }
}

impl Inner {
    /// The shared part of `id`. A group that was not here when the database was opened begins empty.
    pub fn group(&self, id: GroupId) -> Arc<Group> {
        let mut groups = self.groups.lock();
        groups.entry(id.number()).or_insert_with(|| Arc::new(Group::new(FIRST_GENERATION, 0))).clone()
    }

    pub fn live(&self) -> Live<'_> {
        Live { db: &self.db, family: self.state() }
    }

    /// The group's state as it is now, unchanging, whatever is applied or installed meanwhile.
    pub fn frozen(&self, id: GroupId, group: &Group) -> View<Frozen<'_>> {
        let generation = group.generation.read();
        let reads = Frozen { snapshot: self.db.snapshot(), family: self.state() };
        View { reads, prefix: generation_prefix(id, *generation) }
    }

    pub fn log(&self) -> &ColumnFamily {
        self.family(CF_LOG)
    }

    pub fn state(&self) -> &ColumnFamily {
        self.family(CF_STATE)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("opened with all its column families")
    }

    /// Deletes all keys of a generation.
    pub fn delete_generation(&self, group: u32, generation: u32) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let from = prefix_of(group, generation);
        batch.delete_range_cf(self.state(), from.to_vec(), apply::after_prefix(&from));
        self.flusher.write(&self.db, batch)
    }

    /// Finds each group's current generation, and deletes every other: an installation of a snapshot that a crash
    /// interrupted, or the state that one replaced.
    fn load_groups(&self) -> Result<(), StoreError> {
        let mut current: HashMap<u32, u32> = HashMap::new();
        let mut leftovers = Vec::new();
        let mut iterator = self.db.raw_iterator_cf(self.state());
        iterator.seek_to_first();
        while let Some(key) = iterator.key() {
            let (group, generation) = split_prefix(key)?;
            if generation == 0 {
                // It sorts before the generations that it decides about.
                let number = codec::decode(iterator.value().unwrap_or_default())
                    .map_err(|error| StoreError::unreadable("the number of a current generation", &error))?;
                current.insert(group, number);
            } else if *current.entry(group).or_insert(FIRST_GENERATION) != generation {
                leftovers.push((group, generation));
            }
            iterator.seek(apply::after_prefix(&prefix_of(group, generation)));
        }
        iterator.status()?;
        drop(iterator);

        for (group, generation) in leftovers {
            tracing::info!(group, generation, "deleting what an interrupted installation of a snapshot left");
            self.delete_generation(group, generation)?;
        }
        for (group, generation) in current {
            let view = View { reads: self.live(), prefix: prefix_of(group, generation) };
            let applied = apply::get::<Applied>(&view, &())?.map_or(0, |applied| applied.index);
            self.groups.lock().insert(group, Arc::new(Group::new(generation, applied)));
        }
        Ok(())
    }
}

fn split_prefix(key: &[u8]) -> Result<(u32, u32), StoreError> {
    let mut reader = KeyReader::new(key);
    reader.u32().zip(reader.u32()).ok_or_else(|| StoreError::Unreadable {
        what: "a key of the state".to_owned(),
        cause: "shorter than its prefix".to_owned(),
    })
}

impl Group {
    fn new(generation: u32, applied: u64) -> Self {
        Self {
            generation: RwLock::new(generation),
            last_generation: AtomicU32::new(generation),
            applied: AtomicU64::new(applied),
            log_bytes: AtomicU64::new(0),
            log_is_long: Notify::new(),
            recent: Recent::default(),
        }
    }

    /// Counts appended bytes, and wakes who keeps the log short.
    pub fn appended(&self, bytes: u64) {
        let before = self.log_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes >= crate::config::SNAPSHOT_AFTER_BYTES {
            self.log_is_long.notify_one();
        }
    }
}

/// One process per directory. RocksDB's own lock comes too late: the log is looked at before it is opened.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { dir: dir.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(dir.join("whisp.lock")).map_err(io)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { dir: dir.to_owned(), detail: "whisp.lock is held".to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
    }
}

/// Without `CURRENT` RocksDB would start anew over what is there.
fn refuse_headless(dir: &Path) -> Result<(), OpenError> {
    if dir.join("CURRENT").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(|source| OpenError::Io { dir: dir.to_owned(), source })? {
        let path = entry.map_err(|source| OpenError::Io { dir: dir.to_owned(), source })?.path();
        // A crash while creating leaves at most a manifest.
        if is_data(&path) {
            return Err(OpenError::Damaged {
                dir: dir.to_owned(),
                detail: format!("the file CURRENT is missing, though there is data such as {}", path.display()),
            });
        }
    }
    Ok(())
}

fn is_data(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sst" || extension == "log")
}

fn open_database(dir: &Path, options: &Options) -> Result<DB, OpenError> {
    let database = options::database(options);
    if dir.join("CURRENT").exists() {
        let families = DB::list_cf(&database, dir).map_err(|error| open_error(dir, &error))?;
        if families.iter().any(|name| ![CF_DEFAULT, CF_LOG, CF_STATE].contains(&name.as_str())) {
            // Only a newer version has other families. Opening without them fails, so its number is read aside.
            let aside = DB::open_cf_for_read_only(&database, dir, [CF_DEFAULT], false);
            let found = aside.ok().and_then(|db| data_version::read(&db).ok().flatten());
            let found = found.filter(|found| *found > data_version::CURRENT).unwrap_or(data_version::CURRENT + 1);
            return Err(OpenError::NewerVersion { dir: dir.to_owned(), found, known: data_version::CURRENT });
        }
    }
    DB::open_cf_descriptors(&database, dir, options::families(options)).map_err(|error| open_error(dir, &error))
}

fn open_error(dir: &Path, error: &rocksdb::Error) -> OpenError {
    let (dir, detail) = (dir.to_owned(), error.to_string());
    match error.kind() {
        ErrorKind::IOError if detail.contains("lock") => OpenError::InUse { dir, detail },
        ErrorKind::IOError if !detail.contains("No such file") => {
            OpenError::Io { dir, source: std::io::Error::other(detail) }
        }
        _ => OpenError::Damaged { dir, detail },
    }
}
