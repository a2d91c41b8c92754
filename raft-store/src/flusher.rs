//! One thread that makes writes durable, for all groups: it takes all who wait, syncs the write-ahead log once, and tells
//! them. So the number of syncs does not grow with the number of writers or groups.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use protocol::codec;
use rocksdb::{DB, WriteBatch};
use tokio::sync::oneshot;

use crate::{error::StoreError, options::Faults, types::TypeConfig};

/// Key in the `default` family: all writes up to this RocksDB sequence number were durable when it was written. It lets
/// `wal.rs` tell a torn tail from damage to what was durable.
pub(crate) const SYNCED_KEY: &[u8] = b"synced";

/// Who waits for a flush.
enum Waiter {
    /// Appended entries; openraft's callback.
    Entries {
        callback: IOFlushed<TypeConfig>,
        entries: u64,
    },
    Task(oneshot::Sender<Result<(), StoreError>>),
    Thread(mpsc::SyncSender<Result<(), StoreError>>),
}

/// Numbers since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushStats {
    /// Syncs of the write-ahead log.
    pub flushes: u64,
    /// Log entries that they made durable.
    pub entries: u64,
}

#[derive(Default)]
struct Shared {
    flushes: AtomicU64,
    entries: AtomicU64,
    /// The first failure. Nothing is written after it: what of the page cache reached the disk is unknown, and a later
    /// sync that succeeds would not mean that it did.
    failed: OnceLock<String>,
}

pub(crate) struct Flusher {
    waiters: Option<mpsc::Sender<Waiter>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Flusher {
    /// Starts the thread. It ends when this is dropped, after a last flush.
    pub fn start(db: Arc<DB>, faults: Faults) -> io::Result<Self> {
        let (waiters, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new().name("wal-flusher".to_owned()).spawn({
            let shared = shared.clone();
            move || run(&db, &receiver, &shared, &faults)
        })?;
        Ok(Self { waiters: Some(waiters), shared, thread: Mutex::new(Some(thread)) })
    }

    /// Calls `callback` once everything written before is durable.
    pub fn entries_written(&self, callback: IOFlushed<TypeConfig>, entries: u64) {
        if let Err(Waiter::Entries { callback, .. }) = self.push(Waiter::Entries { callback, entries }) {
            callback.io_completed(Err(self.failure().into()));
        }
    }

    /// Waits until everything written before is durable.
    pub async fn sync(&self) -> Result<(), StoreError> {
        let (sender, receiver) = oneshot::channel();
        self.push(Waiter::Task(sender)).map_err(|_| self.failure())?;
        receiver.await.unwrap_or_else(|_| Err(self.failure()))
    }

    /// The same, for a thread that may block.
    pub fn sync_blocking(&self) -> Result<(), StoreError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.push(Waiter::Thread(sender)).map_err(|_| self.failure())?;
        receiver.recv().unwrap_or_else(|_| Err(self.failure()))
    }

    /// Writes to memory and to the log's buffer; durable after the next flush.
    ///
    /// # Errors
    /// [`StoreError::Failed`] for ever after a failure.
    pub fn write(&self, db: &DB, batch: WriteBatch) -> Result<(), StoreError> {
        if self.shared.failed.get().is_some() {
            return Err(self.failure());
        }
        db.write(batch).map_err(|error| {
            self.shared.fail(error.as_ref());
            self.failure()
        })
    }

    pub fn stats(&self) -> FlushStats {
        FlushStats {
            flushes: self.shared.flushes.load(Ordering::Relaxed),
            entries: self.shared.entries.load(Ordering::Relaxed),
        }
    }

    #[allow(clippy::result_large_err)] // The waiter comes back to be told.
    fn push(&self, waiter: Waiter) -> Result<(), Waiter> {
        match &self.waiters {
            Some(waiters) => waiters.send(waiter).map_err(|mpsc::SendError(waiter)| waiter),
            None => Err(waiter),
        }
    }

    fn failure(&self) -> StoreError {
        StoreError::Failed(self.shared.failed.get().cloned().unwrap_or_else(|| "the flusher has stopped".to_owned()))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.waiters = None;
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the flusher of the write-ahead log panicked");
        }
    }
}

impl Shared {
    fn fail(&self, cause: &str) {
        if self.failed.set(cause.to_owned()).is_ok() {
            tracing::error!(cause, "writing to disk failed; no group on this node writes any more");
        }
    }
}

fn run(db: &DB, receiver: &mpsc::Receiver<Waiter>, shared: &Shared, faults: &Faults) {
    let mut next = receiver.recv().ok();
    while let Some(first) = next {
        if !faults.flush_delay.is_zero() {
            thread::sleep(faults.flush_delay);
        }
        while faults.stalled.load(Ordering::Relaxed) {
            thread::sleep(std::time::Duration::from_millis(1));
        }
        let waiters: Vec<Waiter> = std::iter::once(first).chain(receiver.try_iter()).collect();
        // Read before the flush: what is written meanwhile may not be covered.
        let sequence = db.latest_sequence_number();
        let result = flush(db, shared, faults);
        tell(waiters, &result, shared);
        if result.is_ok() {
            note_synced(db, sequence, shared);
        }
        next = receiver.try_recv().ok();
        if next.is_none() {
            // Nobody comes at once: the note goes to the operating system now, so that a kill does not take it. Else the
            // next flush takes it along.
            hand_over(db, shared);
            next = receiver.recv().ok();
        }
    }
    if shared.failed.get().is_none()
        && let Err(error) = db.flush_wal(!faults.no_sync)
    {
        tracing::error!(%error, "the last flush of the write-ahead log failed");
    }
}

/// One sync, or the failure that ended all.
fn flush(db: &DB, shared: &Shared, faults: &Faults) -> Result<(), String> {
    let number = shared.flushes.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(cause) = shared.failed.get() {
        return Err(cause.clone());
    }
    let flushed = if faults.fail_flush == Some(number) {
        Err("a test asked for a failure".to_owned())
    } else {
        db.flush_wal(!faults.no_sync).map_err(|error| error.to_string())
    };
    flushed.inspect_err(|cause| shared.fail(cause))
}

fn tell(waiters: Vec<Waiter>, result: &Result<(), String>, shared: &Shared) {
    for waiter in waiters {
        let result = result.clone().map_err(StoreError::Failed);
        match waiter {
            Waiter::Entries { callback, entries } => {
                shared.entries.fetch_add(entries, Ordering::Relaxed);
                callback.io_completed(result.map_err(io::Error::from));
            }
            // Who does not wait any more needs no answer.
            Waiter::Task(sender) => drop(sender.send(result)),
            Waiter::Thread(sender) => drop(sender.send(result)),
        }
    }
}

/// Writes down how far the log is durable. Nobody waits for it.
fn note_synced(db: &DB, sequence: u64, shared: &Shared) {
    if let Err(error) = db.put(SYNCED_KEY, codec::encode(&sequence)) {
        shared.fail(error.as_ref());
    }
}

fn hand_over(db: &DB, shared: &Shared) {
    if shared.failed.get().is_none()
        && let Err(error) = db.flush_wal(false)
    {
        shared.fail(error.as_ref());
    }
}
