//! Groups on several nodes in one process, with links that can be cut.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use openraft::{
    BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use parking_lot::Mutex;
use protocol::{
    ShardId,
    command::{Command, Reply},
};
use raft_store::{
    GroupId, Observer, Options, Raft, Snapshot, SnapshotData, SnapshotMeta, Store, Timers, TypeConfig, Vote, config,
    format::{SnapshotMetaRecord, VoteRecord, decode_entry, encode_entry},
};

/// Shards of a test's cluster.
pub const SHARDS: u16 = 4;

pub fn groups() -> impl Iterator<Item = GroupId> {
    std::iter::once(GroupId::Meta).chain((0..SHARDS).map(|shard| GroupId::Shard(ShardId(shard))))
}

/// Who is where, and which links are cut.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<Links>>);

#[derive(Default)]
struct Links {
    nodes: HashMap<(u64, GroupId), (Raft, Store)>,
    gone: HashSet<u64>,
}

impl Net {
    pub fn cut_off(&self, node: u64) {
        self.0.lock().gone.insert(node);
    }

    pub fn heal(&self, node: u64) {
        self.0.lock().gone.remove(&node);
    }

    fn reach(&self, from: u64, to: u64, group: GroupId) -> Result<(Raft, Store), Unreachable<TypeConfig>> {
        let links = self.0.lock();
        if links.gone.contains(&from) || links.gone.contains(&to) {
            return Err(unreachable(&io::Error::other("the link is cut")));
        }
        links.nodes.get(&(to, group)).cloned().ok_or_else(|| unreachable(&io::Error::other("no such node")))
    }
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> Unreachable<TypeConfig> {
    Unreachable::new(error)
}

/// One group's way from one node to others.
pub struct Link {
    net: Net,
    from: u64,
    group: GroupId,
}

impl RaftNetworkFactory<TypeConfig> for Link {
    type Network = Peer;

    async fn new_client(&mut self, to: u64, _node: &BasicNode) -> Peer {
        Peer { net: self.net.clone(), from: self.from, to, group: self.group }
    }
}

pub struct Peer {
    net: Net,
    from: u64,
    to: u64,
    group: GroupId,
}

impl Peer {
    fn reach(&self) -> Result<(Raft, Store), Unreachable<TypeConfig>> {
        self.net.reach(self.from, self.to, self.group)
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (raft, _) = self.reach()?;
        // Over the wire in our own form.
        for entry in &mut rpc.entries {
            *entry = decode_entry(&encode_entry(entry)).map_err(|error| unreachable(&error))?;
        }
        Ok(raft.append_entries(rpc).await.map_err(|error| unreachable(&error))?)
    }

    async fn vote(
        &mut self,
        mut rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (raft, _) = self.reach()?;
        rpc.vote = VoteRecord::from(&rpc.vote).into();
        Ok(raft.vote(rpc).await.map_err(|error| unreachable(&error))?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (raft, _) = self.reach()?;
        Ok(raft.pre_vote(rpc).await.map_err(|error| unreachable(&error))?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        mut snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (raft, store) = self.reach()?;
        let group = self.group;
        let meta = SnapshotMeta::try_from(SnapshotMetaRecord::from(&snapshot.meta))
            .map_err(|cause| unreachable(&io::Error::other(cause)))?;
        let received = tokio::task::spawn_blocking(move || {
            let mut receiver = store.receive_snapshot(group);
            while let Some(chunk) = snapshot.snapshot.next_chunk()? {
                receiver.write(&chunk)?;
            }
            receiver.finish()
        })
        .await
        .map_err(|error| unreachable(&error))?
        .map_err(|error| unreachable(&error))?;
        let snapshot = Snapshot { meta, snapshot: received };
        Ok(raft.install_full_snapshot(vote, snapshot).await.map_err(|error| unreachable(&error))?)
    }
}

/// A node with all its groups.
pub struct Node {
    pub id: u64,
    pub store: Store,
    pub rafts: HashMap<GroupId, Raft>,
}

impl Node {
    /// Starts the groups on the data in `dir`.
    pub async fn start(id: u64, dir: &Path, options: Options, net: &Net, sole_voter: bool) -> anyhow::Result<Self> {
        Self::observed(id, dir, options, net, sole_voter, Arc::new(())).await
    }

    pub async fn observed(
        id: u64,
        dir: &Path,
        options: Options,
        net: &Net,
        sole_voter: bool,
        observer: Arc<dyn Observer>,
    ) -> anyhow::Result<Self> {
        let store = Store::open(dir, options)?;
        let mut rafts = HashMap::new();
        for group in groups() {
            let config = Arc::new(config(group, Timers::RELAXED, sole_voter)?);
            let link = Link { net: net.clone(), from: id, group };
            let machine = store.state_machine(group, observer.clone());
            let raft = Raft::new(id, config, link, store.log(group), machine).await?;
            net.0.lock().nodes.insert((id, group), (raft.clone(), store.clone()));
            rafts.insert(group, raft);
        }
        Ok(Self { id, store, rafts })
    }

    /// Makes this node the only voter of all groups, or elects it if it is that already.
    pub async fn lead_alone(&self) -> anyhow::Result<()> {
        for raft in self.rafts.values() {
            if !raft.is_initialized().await? {
                raft.initialize(
                    [(self.id, BasicNode::new("here"))].into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                )
                .await?;
            }
            raft.trigger().elect(false).await?;
        }
        for raft in self.rafts.values() {
            raft.wait(Some(Duration::from_secs(20))).current_leader(self.id, "the sole voter leads").await?;
        }
        Ok(())
    }

    pub async fn write(&self, group: GroupId, command: Command) -> anyhow::Result<Reply> {
        Ok(self.rafts[&group].client_write(command).await?.data)
    }

    /// Ends the groups and closes the store.
    pub async fn stop(self, net: &Net) -> anyhow::Result<()> {
        for (group, raft) in &self.rafts {
            net.0.lock().nodes.remove(&(self.id, *group));
            raft.shutdown().await?;
        }
        drop(self.rafts);
        tokio::task::spawn_blocking(|| self.store.close(Duration::from_secs(20))).await??;
        Ok(())
    }
}
