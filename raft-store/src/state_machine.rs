//! The state machine of one group: applies entries in batches, each written atomically with the index and the membership
//! it leads to. No fsync: the entries themselves are durable, and whatever of a batch a crash takes is applied again.

use std::{io, sync::Arc, sync::atomic::Ordering};

use futures_util::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, OptionalSend,
    storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine},
};
use protocol::command::{Command, CommandBody, MetaCommand, MetaOp, Reply, ShardOp};
use rocksdb::WriteBatch;

use crate::{
    apply::{
        self, State,
        activations::{self, ShardChange},
        meta::{self, MetaChange},
        overlay::Overlay,
    },
    blocking::blocking,
    error::StoreError,
    format::{LogIdRecord, StoredMembershipRecord},
    key_spaces::{Applied, MembershipSpace, generation_prefix},
    snapshot::{self, SnapshotData},
    store::{Group, Inner, Observer},
    types::{Entry, GroupId, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
    view::{Reads, View},
};

/// Entries of one batch: what is answered together.
const BATCH_ENTRIES: usize = 1024;
/// A batch of so many ops and bytes takes a millisecond or two, mostly in memory: then it is applied on this thread. To make
/// another one take over its tasks meanwhile would cost more.
const BRIEF_OPS: usize = 128;
const BRIEF_BYTES: usize = 256 << 10;
/// Bytes of commands of one batch.
const BATCH_BYTES: usize = 4 << 20;

/// The state machine of one group. Clones are handles to the same one.
#[derive(Clone)]
pub struct StateMachine {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: GroupId,
    pub(crate) group: Arc<Group>,
    observer: Arc<dyn Observer>,
}

/// What entries changed, as the observer is told.
enum Changes {
    Meta(Vec<MetaChange>),
    Shard(activations::Batch),
}

impl StateMachine {
    pub(crate) fn new(inner: Arc<Inner>, id: GroupId, observer: Arc<dyn Observer>) -> Self {
        let group = inner.group(id);
        Self { inner, id, group, observer }
    }

    /// Applies `entries` as one batch. Blocks.
    fn apply_batch(&self, entries: &[Entry]) -> Result<Vec<Reply>, StoreError> {
        let Some(last) = entries.last() else { return Ok(Vec::new()) };
        // Held to the end, so that the generation stays; only the installation of a snapshot takes it, and that never runs
        // beside us.
        let generation = self.group.generation.read();
        let prefix = generation_prefix(self.id, *generation);
        let state = View { reads: self.inner.live(), prefix };
        let mut changes = match self.id {
            GroupId::Meta => Changes::Meta(Vec::new()),
            GroupId::Shard(_) => Changes::Shard(activations::Batch::of(&state, entries.iter().flat_map(shard_ops))?),
        };
        let mut state = Overlay::new(state);
        let mut replies = Vec::with_capacity(entries.len());
        for entry in entries {
            replies.push(match &entry.payload {
                EntryPayload::Blank => Reply::None,
                EntryPayload::Normal(command) => self.act(&mut state, entry.log_id.index, command, &mut changes)?,
                EntryPayload::Membership(membership) => {
                    let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                    apply::put::<MembershipSpace>(&mut state, &(), &StoredMembershipRecord::from(&stored));
                    Reply::None
                }
            });
        }
        apply::put::<Applied>(&mut state, &(), &LogIdRecord::from(&last.log_id));

        let (dropped, values) = state.into_writes();
        let mut batch = WriteBatch::default();
        let family = self.inner.state();
        for (from, to) in dropped {
            let full = |key: &[u8]| [&prefix, key].concat();
            batch.delete_range_cf(family, full(&from), full(&to));
        }
        let mut full = prefix.to_vec();
        for (key, value) in values {
            full.truncate(prefix.len());
            full.extend_from_slice(&key);
            match value {
                Some(value) => batch.put_cf(family, &full, value),
                None => batch.delete_cf(family, &full),
            }
        }
        self.inner.flusher.write(&self.inner.db, batch)?;
        drop(generation);

        self.tell(&changes);
        self.group.applied.store(last.log_id.index, Ordering::Release);
        Ok(replies)
    }

    fn act(
        &self,
        state: &mut impl State,
        index: u64,
        command: &Command,
        changes: &mut Changes,
    ) -> Result<Reply, StoreError> {
        match (&command.body, changes) {
            (CommandBody::Meta { origin, command }, Changes::Meta(changes)) => {
                meta::apply(state, index, *origin, command, changes).map(Reply::Meta)
            }
            (CommandBody::Shard(ops), Changes::Shard(batch)) => ops
                .iter()
                .map(|op| activations::apply(state, command.now_ms, op, batch))
                .collect::<Result<_, _>>()
                .map(Reply::Shard),
            _ => Err(StoreError::Command {
                group: self.id.to_string(),
                index,
                cause: "it is of another kind of group".to_owned(),
            }),
        }
    }

    fn tell(&self, changes: &Changes) {
        match (changes, self.id) {
            (Changes::Meta(changes), _) if !changes.is_empty() => self.observer.meta_applied(changes),
            (Changes::Shard(batch), GroupId::Shard(shard)) if !batch.changes.is_empty() => {
                self.observer.shard_applied(shard, &batch.changes);
            }
            _ => {}
        }
    }

    /// Tells that everything may have changed.
    pub(crate) fn tell_reset(&self) {
        match self.id {
            GroupId::Meta => self.observer.meta_applied(&[MetaChange::Reset]),
            GroupId::Shard(shard) => self.observer.shard_applied(shard, &[ShardChange::Reset]),
        }
    }
}

/// Where a state machine stands.
pub(crate) fn standing<R: Reads>(view: &View<R>) -> Result<(Option<LogId>, StoredMembership), StoreError> {
    let applied = apply::get::<Applied>(view, &())?.map(LogId::from);
    let membership = match apply::get::<MembershipSpace>(view, &())? {
        Some(record) => StoredMembership::try_from(record)
            .map_err(|cause| StoreError::Unreadable { what: "the applied membership".to_owned(), cause })?,
        None => StoredMembership::default(),
    };
    Ok((applied, membership))
}

/// The ops of an entry of a shard.
fn shard_ops(entry: &Entry) -> &[ShardOp] {
    match &entry.payload {
        EntryPayload::Normal(Command { body: CommandBody::Shard(ops), .. }) => ops,
        _ => &[],
    }
}

/// What `entry` roughly takes in memory, to bound batches.
fn weight(entry: &Entry) -> usize {
    let EntryPayload::Normal(command) = &entry.payload else { return 0 };
    match &command.body {
        CommandBody::Meta { command: MetaCommand::Write(txn), .. } => {
            let values = txn.ops.iter().map(|op| if let MetaOp::Put { value, .. } = op { value.len() } else { 0 });
            values.sum()
        }
        CommandBody::Meta { .. } => 0,
        CommandBody::Shard(ops) => {
            let lines = |lines: &[String]| lines.iter().map(String::len).sum::<usize>();
            let sizes = ops.iter().map(|op| match op {
                ShardOp::Accept(accept) => accept.work.len(),
                ShardOp::Finish(finish) => {
                    let result = finish.record.response.result.as_ref().map_or(0, |result| result.as_str().len());
                    lines(&finish.record.logs) + result
                }
                ShardOp::LogPart { lines: part, .. } => lines(part),
                _ => 0,
            });
            sizes.sum()
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let this = self.clone();
        blocking(move || standing(&this.inner.frozen(this.id, &this.group))).await
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        loop {
            let mut batch: Vec<Entry> = Vec::new();
            let mut responders: Vec<Option<ApplyResponder<TypeConfig>>> = Vec::new();
            let mut bytes = 0;
            let mut ended = false;
            while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
                let Some((entry, responder)) = entries.try_next().await? else {
                    ended = true;
                    break;
                };
                bytes += weight(&entry);
                batch.push(entry);
                responders.push(responder);
            }
            let replies = if batch.iter().map(|entry| shard_ops(entry).len().max(1)).sum::<usize>() <= BRIEF_OPS
                && bytes <= BRIEF_BYTES
            {
                self.apply_batch(&batch).map_err(io::Error::from)
            } else {
                let this = self.clone();
                blocking(move || this.apply_batch(&batch)).await
            };
            let replies = replies.inspect_err(|error| {
                tracing::error!(group = %self.id, %error, "the group stops: an entry cannot be applied");
            })?;
            for (responder, reply) in responders.into_iter().zip(replies) {
                if let Some(responder) = responder {
                    responder.send(reply);
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { machine: self.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let this = self.clone();
        let meta = meta.clone();
        blocking(move || snapshot::install(&this, &meta, snapshot)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let this = self.clone();
        blocking(move || {
            let snapshot = snapshot::current(&this)?;
            // Before the first entry there is nothing worth sending.
            Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
        })
        .await
    }
}

/// "Builds" a snapshot by noting where the state machine stands. The state is durable by itself, so nothing is written;
/// data is read when a follower needs it.
pub struct SnapshotBuilder {
    machine: StateMachine,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let machine = self.machine.clone();
        blocking(move || snapshot::current(&machine)).await
    }
}
