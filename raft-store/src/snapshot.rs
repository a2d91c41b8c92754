//! Snapshots: read lazily from one RocksDB snapshot, sent as bounded chunks, received into a generation of their own, and
//! switched to by one durable batch.
//!
//! Sender: [`SnapshotData::next_chunk`] until `None`. Receiver: [`crate::Store::receive_snapshot`],
//! [`SnapshotReceiver::write`] per chunk, [`SnapshotReceiver::finish`], then `raft.install_full_snapshot`. A stream that
//! breaks is dropped with its receiver and harms nobody; only what is complete reaches openraft.

use std::{
    mem,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
};

use protocol::codec;
use rocksdb::{DB, Snapshot as RocksSnapshot, WriteBatch};
use serde::{Deserialize, Serialize};

use crate::{
    apply::ReadState,
    error::StoreError,
    format::{LogIdRecord, StoredMembershipRecord},
    key_spaces::{Applied, FIRST_DATA_SPACE, KeySpace, MembershipSpace, current_generation_key, generation_prefix},
    options::InstallStage,
    state_machine::{StateMachine, standing},
    store::Inner,
    types::{GroupId, Snapshot, SnapshotMeta},
    view::{FrozenAt, View},
};

/// A chunk ends after this many bytes of keys and values; one larger pair is a chunk of its own.
pub const CHUNK_BYTES: usize = 256 << 10;

/// The data of a snapshot, on either side.
pub struct SnapshotData(Data);

enum Data {
    /// To be sent: what this node had when it was made.
    Local(LocalSnapshot),
    /// Received completely.
    Received(ReceivedSnapshot),
}

/// A piece of a snapshot on the wire, behind a CRC-32 of its encoding.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chunk {
    /// From 0, without gaps.
    number: u64,
    /// `[key length u32][key][value length u32][value]…`, little endian; keys behind the generation.
    #[serde(with = "protocol::codec::bytes")]
    pairs: Vec<u8>,
    /// In the last chunk: how many pairs the snapshot has in all.
    total: Option<u64>,
}

/// The current state of `machine` as a snapshot.
pub(crate) fn current(machine: &StateMachine) -> Result<Snapshot, StoreError> {
    let local = LocalSnapshot::new(machine);
    let (last_log_id, last_membership) = standing(&local.view())?;
    let meta = SnapshotMeta { last_log_id, last_membership };
    Ok(Snapshot { meta, snapshot: SnapshotData(Data::Local(local)) })
}

impl SnapshotData {
    /// The next chunk to send, `None` after the last. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] if the disk cannot be read, or the snapshot was received and not made here.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match &mut self.0 {
            Data::Local(local) => local.next_chunk(),
            Data::Received(_) => Err(StoreError::Snapshot("a received snapshot can only be installed".to_owned())),
        }
    }
}

/// The state as of one moment, kept readable while it is sent.
struct LocalSnapshot {
    snapshot: OwnedSnapshot,
    prefix: [u8; 8],
    /// The next key to send; `None`: all were sent.
    next: Option<Vec<u8>>,
    chunks: u64,
    pairs: u64,
}

impl LocalSnapshot {
    fn new(machine: &StateMachine) -> Self {
        let generation = machine.group.generation.read();
        let prefix = generation_prefix(machine.id, *generation);
        let snapshot = OwnedSnapshot::new(machine.inner.clone());
        Self { snapshot, prefix, next: Some(vec![FIRST_DATA_SPACE]), chunks: 0, pairs: 0 }
    }

    fn view(&self) -> View<FrozenAt<'_>> {
        View { reads: self.snapshot.reads(), prefix: self.prefix }
    }

    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(from) = self.next.take() else { return Ok(None) };
        let mut pairs = Vec::new();
        let mut count = 0;
        let mut next = None;
        let view = self.view();
        view.scan(&from, &[u8::MAX], &mut |key, value| {
            if !pairs.is_empty() && pairs.len() + key.len() + value.len() > CHUNK_BYTES {
                next = Some(key.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            for part in [key, value] {
                // Keys and values are parts of entries, which are far below 4 GiB.
                pairs.extend_from_slice(&(part.len() as u32).to_le_bytes());
                pairs.extend_from_slice(part);
            }
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        self.pairs += count;
        let chunk = Chunk { number: self.chunks, pairs, total: next.is_none().then_some(self.pairs) };
        self.chunks += 1;
        self.next = next;
        let body = codec::encode(&chunk);
        Ok(Some([&crc32fast::hash(&body).to_le_bytes(), body.as_slice()].concat()))
    }
}

/// A generation being filled. Dropped before it is installed, it deletes what it wrote.
struct NewGeneration {
    inner: Arc<Inner>,
    group: GroupId,
    number: u32,
    installed: bool,
}

impl NewGeneration {
    fn new(inner: Arc<Inner>, group: GroupId) -> Self {
        let number = inner.group(group).last_generation.fetch_add(1, Ordering::Relaxed) + 1;
        Self { inner, group, number, installed: false }
    }
}

impl Drop for NewGeneration {
    fn drop(&mut self) {
        if !self.installed
            && let Err(error) = self.inner.delete_generation(self.group.number(), self.number)
        {
            // The next start collects it.
            tracing::warn!(group = %self.group, %error, "a snapshot that was not installed is still on disk");
        }
    }
}

/// Takes the chunks of one snapshot.
pub struct SnapshotReceiver {
    generation: NewGeneration,
    chunks: u64,
    pairs: u64,
    complete: bool,
}

/// A complete snapshot in a generation that is not the current one.
struct ReceivedSnapshot(NewGeneration);

impl SnapshotReceiver {
    pub(crate) fn new(inner: Arc<Inner>, group: GroupId) -> Self {
        Self { generation: NewGeneration::new(inner, group), chunks: 0, pairs: 0, complete: false }
    }

    /// Stores a chunk. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if it is damaged or not the next one: the snapshot has to be sent again.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        let refuse = |cause: &str| Err(StoreError::Snapshot(cause.to_owned()));
        if self.complete {
            return refuse("a chunk after the last one");
        }
        let Some((checksum, body)) = chunk.split_first_chunk::<4>() else { return refuse("a chunk without checksum") };
        if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
            return refuse("a chunk does not have its checksum");
        }
        let chunk: Chunk = codec::decode(body).map_err(|error| StoreError::unreadable("a chunk", &error))?;
        if chunk.number != self.chunks {
            return refuse("a chunk is missing or comes twice");
        }
        self.chunks += 1;

        let NewGeneration { inner, group, number, .. } = &self.generation;
        let prefix = generation_prefix(*group, *number);
        let mut batch = WriteBatch::default();
        let mut rest = chunk.pairs.as_slice();
        while !rest.is_empty() {
            let (Some(key), Some(value)) = (part(&mut rest), part(&mut rest)) else {
                return refuse("a chunk ends inside a pair");
            };
            if key.first().is_none_or(|space| *space < FIRST_DATA_SPACE) {
                return refuse("a chunk has a key that is not data");
            }
            batch.put_cf(inner.state(), [&prefix, key].concat(), value);
            self.pairs += 1;
        }
        inner.flusher.write(&inner.db, batch)?;

        if let Some(total) = chunk.total {
            if total != self.pairs {
                return refuse("it does not have as many pairs as it says");
            }
            self.complete = true;
        }
        Ok(())
    }

    /// The snapshot, to be given to openraft.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if the last chunk has not come.
    pub fn finish(self) -> Result<SnapshotData, StoreError> {
        if !self.complete {
            return Err(StoreError::Snapshot("the last chunk is missing".to_owned()));
        }
        Ok(SnapshotData(Data::Received(ReceivedSnapshot(self.generation))))
    }
}

/// Takes `[length u32][bytes]` from the front.
fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let (part, tail) = tail.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    *rest = tail;
    Some(part)
}

/// Makes `snapshot` the state of `machine`: all or nothing, whenever the process dies. Blocks.
pub(crate) fn install(machine: &StateMachine, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), StoreError> {
    let inner = &machine.inner;
    let mut new = match snapshot.0 {
        Data::Received(ReceivedSnapshot(generation)) if generation.group == machine.id => generation,
        Data::Received(_) => return Err(StoreError::Snapshot("it was received for another group".to_owned())),
        Data::Local(mut local) => copy(machine, &mut local)?,
    };
    machine.die_at(InstallStage::BeforeSwitch, &mut new)?;

    // One batch: index, membership and the number of the generation that they and the data belong to.
    let prefix = generation_prefix(machine.id, new.number);
    let mut batch = WriteBatch::default();
    let mut put = |key: Vec<u8>, value: Vec<u8>| batch.put_cf(inner.state(), [&prefix, key.as_slice()].concat(), value);
    if let Some(id) = &meta.last_log_id {
        put(Applied::key(&()), codec::encode(&LogIdRecord::from(id)));
    }
    put(MembershipSpace::key(&()), codec::encode(&StoredMembershipRecord::from(&meta.last_membership)));
    batch.put_cf(inner.state(), current_generation_key(machine.id), codec::encode(&new.number));
    inner.flusher.write(&inner.db, batch)?;
    inner.flusher.sync_blocking()?;
    new.installed = true;
    machine.die_at(InstallStage::AfterSwitch, &mut new)?;

    let old = mem::replace(&mut *machine.group.generation.write(), new.number);
    inner.delete_generation(machine.id.number(), old)?;
    machine.tell_reset();
    machine.group.applied.store(meta.last_log_id.map_or(0, |id| id.index), Ordering::Release);
    Ok(())
}

/// Receives a snapshot from this very process.
fn copy(machine: &StateMachine, local: &mut LocalSnapshot) -> Result<NewGeneration, StoreError> {
    let mut receiver = SnapshotReceiver::new(machine.inner.clone(), machine.id);
    while let Some(chunk) = local.next_chunk()? {
        receiver.write(&chunk)?;
        machine.die_at(InstallStage::Half, &mut receiver.generation)?;
    }
    match receiver.finish()?.0 {
        Data::Received(ReceivedSnapshot(generation)) => Ok(generation),
        Data::Local(_) => Err(StoreError::Snapshot("a receiver made no received snapshot".to_owned())),
    }
}

impl StateMachine {
    /// Stops here as a killed process would, leaving everything as it is, if a test asked for it.
    fn die_at(&self, stage: InstallStage, new: &mut NewGeneration) -> Result<(), StoreError> {
        if self.inner.options.faults.die_at != Some(stage) {
            return Ok(());
        }
        new.installed = true;
        self.inner.flusher.sync_blocking()?;
        Err(StoreError::Snapshot(format!("died at {stage:?}, as a test asked")))
    }
}

/// A RocksDB snapshot that keeps its database open.
struct OwnedSnapshot {
    // Dropped before what it points into.
    snapshot: RocksSnapshot<'static>,
    inner: Arc<Inner>,
}

impl OwnedSnapshot {
    fn new(inner: Arc<Inner>) -> Self {
        let db: *const DB = &*inner.db;
        // SAFETY: the database lies in an `Arc` that `inner` holds, so it neither moves nor goes before `inner` does, which
        // is dropped after the snapshot (field order). The 'static never leaves this struct.
        let snapshot = RocksSnapshot::new(unsafe { &*db });
        Self { snapshot, inner }
    }

    fn reads(&self) -> FrozenAt<'_> {
        FrozenAt { snapshot: &self.snapshot, family: self.inner.state() }
    }
}
